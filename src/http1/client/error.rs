//! Why an exchange with an endpoint failed.

use std::error::Error;
use std::io;

/// Why an exchange with an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Reading or writing failed.
    #[error("connection to the endpoint failed")]
    Io(#[source] io::Error),
    /// The endpoint closed the connection before a complete response head.
    #[error("endpoint closed the connection before a response head")]
    Closed,
    /// The response breaks a rule; the text says which.
    #[error("response is malformed: {0}")]
    Malformed(&'static str),
    /// A `101` that does not accept the handshake as RFC 6455 §4.2.2 asks.
    #[error("handshake is answered wrongly")]
    Handshake,
    /// The response ended before its announced end.
    #[error("response body ended too early")]
    Truncated,
    /// The client's request body failed, ended early or was longer than announced.
    #[error("request body failed")]
    RequestBody(#[source] Box<dyn Error + Send + Sync>),
}
