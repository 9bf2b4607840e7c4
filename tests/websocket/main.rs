//! WebSocket passthrough with the real binary: handshakes, raw bytes, limits, admin, drain, survival, foreign peers.

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod cases;
mod chat;
mod conformance;
mod drain;
mod handshake;
mod http2;
mod limits;
mod passthrough;
mod python;
mod survival;
