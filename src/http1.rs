//! HTTP/1 wire code of our own: what a head and a body must look like, byte for byte, and our side of upstream connections.
//!
//! Knows bytes, not routes; no hyper anywhere, and no tokio in the scanners. `proxy` feeds them from sockets.

pub mod client;
pub mod framing;
pub mod guard;
pub mod proxy_protocol;
pub mod request;
pub mod request_stream;
pub mod response;
pub mod websocket;
