//! What the whole-program tests share. Each test file uses its part.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod backend;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod controller;
pub mod ending;
pub mod gateway;
pub mod http2_backend;
pub mod python;
pub mod tools;
