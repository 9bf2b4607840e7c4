#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{seeds, yaml};

fuzz_target!(init: seeds::write("yaml"), |data: &[u8]| yaml::check(data));
