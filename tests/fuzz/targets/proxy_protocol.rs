#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::{proxy_protocol, seeds};

fuzz_target!(init: seeds::write("proxy_protocol"), |data: &[u8]| proxy_protocol::check(data));
