#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{http2_head, seeds};

fuzz_target!(init: seeds::write("http2_head"), |data: &[u8]| http2_head::check(data));
