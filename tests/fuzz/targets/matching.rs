#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{matching, seeds};

fuzz_target!(init: seeds::write("matching"), |data: &[u8]| matching::check(data));
