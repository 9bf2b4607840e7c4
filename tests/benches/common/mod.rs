//! What the end-to-end benchmarks share.

// Each benchmark uses its part of these.
#![allow(dead_code)]

pub mod backend;
pub mod peers;
pub mod process;
pub mod websocket;
