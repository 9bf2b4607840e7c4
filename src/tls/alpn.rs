//! Names of protocols in a handshake.

/// The name of HTTP/2 in a handshake (RFC 7301, RFC 9113 §3.2).
pub const ALPN_HTTP2: &[u8] = b"h2";
/// The name of HTTP/1.1 in a handshake.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";
