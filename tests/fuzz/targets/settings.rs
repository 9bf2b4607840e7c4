#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{seeds, settings};

fuzz_target!(init: seeds::write("settings"), |data: &[u8]| settings::check(data));
