//! What is spoken over HTTP/2, with the real binary and with peers that others wrote: gRPC, h2spec.

#![allow(clippy::unwrap_used, reason = "in tests a failed expectation is the point")]

#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "the tests of TLS use the rest")]
#[path = "../tls/bed.rs"]
mod tls;

mod grpcio;
mod h2spec;
