#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{chunks, seeds};

fuzz_target!(init: seeds::write("chunks"), |data: &[u8]| chunks::check(data));
