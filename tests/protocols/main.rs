//! What is spoken over HTTP/2, with the real binary and with peers that others wrote: gRPC.

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

#[path = "../support/mod.rs"]
mod support;

mod grpcio;
