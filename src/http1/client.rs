//! Our side of one HTTP/1.1 connection to an endpoint (RFC 9112): sends requests, reads responses, trusts nothing.
//!
//! Knows bytes, not routes: it is handed an encoded request head and a body, and gives back a checked response head and
//! owned body chunks. Sending and receiving are polled together, so that an early response ends an upload instead of
//! waiting behind it. Buffers belong to the worker and are lent for the time of one poll; an idle connection is a bare
//! socket. Deadlines are the caller's; the connection only lends its one timer.

mod buffers;
mod connection;
mod error;
mod upload;

#[cfg(test)]
mod tests;

pub use buffers::Buffers;
pub use connection::{Connection, ResponseHead, ResponseLimits};
pub use error::ClientError;
pub use upload::{LengthMismatch, RequestFraming, Upload};
