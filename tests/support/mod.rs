//! What the whole-program tests share. Each test file uses its part.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod all_filters;
pub mod backend;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod controller;
pub mod ending;
pub mod gateway;
pub mod http2_backend;
pub mod http2_client;
pub mod in_turn;
pub mod pods;
pub mod python;
pub mod signing_key;
pub mod tools;
pub mod witness;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bounds every wait for something that has to come. Only reached where something is broken, however slow the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Measures what is promised to take less than a time, until one attempt of five does: a machine that does other things,
/// too, is late now and then, and what breaks its promise never keeps it.
pub fn keeps_promise(what: &str, promise: Duration, mut attempt: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    while took.len() < 5 {
        took.push(attempt());
        if took.last() < Some(&promise) {
            return;
        }
    }
    panic!("{what} took {took:?}, expected less than {promise:?} at least once");
}

/// Raises a flag when it goes out of scope: whoever looks at the flag comes to an end, whatever becomes of this thread.
pub struct Raise<'f>(pub &'f AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
