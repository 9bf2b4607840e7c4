//! TLS towards clients: the real binary, with certificates as manifests.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bed;
mod clients;
mod drain;
mod filters;
mod handshakes;
mod proxy_protocol;
mod rotation;
mod to_pods;
mod tools;
