#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{path_authority, seeds};

fuzz_target!(init: seeds::write("path_authority"), |data: &[u8]| path_authority::check(data));
