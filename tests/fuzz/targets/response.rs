#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{response, seeds};

fuzz_target!(init: seeds::write("response"), |data: &[u8]| response::check(data));
