//! What must hold of everything that reads bytes from outside: one function for each fuzz target.
//!
//! Each takes any bytes and panics where something does not hold. `targets/` gives them to libFuzzer; `tests/fuzz_inputs.rs`
//! calls them with the seeds and with the inputs that were found once, without libFuzzer.
#![allow(dead_code, missing_docs)]

#[path = "../../support/http1_bed/cases.rs"]
mod cases;
pub mod chunks;
#[path = "../../support/http1_reference.rs"]
mod http1_reference;
pub mod http2_head;
pub mod matching;
pub mod path_authority;
#[path = "../../support/path_oracle.rs"]
mod path_oracle;
pub mod proxy_protocol;
pub mod request;
pub mod response;
#[path = "../../support/router_oracle.rs"]
mod router_oracle;
pub mod seeds;
pub mod settings;
mod split;
pub mod yaml;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub check: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target { name: "request", check: request::check, seeds: seeds::request },
    Target { name: "response", check: response::check, seeds: seeds::response },
    Target { name: "chunks", check: chunks::check, seeds: seeds::chunks },
    Target { name: "path_authority", check: path_authority::check, seeds: seeds::path_authority },
    Target { name: "http2_head", check: http2_head::check, seeds: seeds::http2_head },
    Target { name: "matching", check: matching::check, seeds: seeds::matching },
    Target { name: "yaml", check: yaml::check, seeds: seeds::yaml },
    Target { name: "proxy_protocol", check: proxy_protocol::check, seeds: seeds::proxy_protocol },
    Target { name: "settings", check: settings::check, seeds: seeds::settings },
];
