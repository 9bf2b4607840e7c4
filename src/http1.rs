//! HTTP/1 wire code of our own: what a head and a body must look like, byte for byte.
//!
//! Knows bytes, not routes; no tokio and no hyper in the scanners. `proxy` feeds them from sockets.

pub mod framing;
pub mod guard;
pub mod websocket;
