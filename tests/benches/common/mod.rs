//! What the end-to-end benchmarks share.

// Each benchmark uses its part of these.
#![allow(dead_code)]

pub mod backend;
#[path = "../../support/ending.rs"]
pub mod ending;
pub mod peers;
pub mod process;
pub mod websocket;
