#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{request, seeds};

fuzz_target!(init: seeds::write("request"), |data: &[u8]| request::check(data));
