//! Parts of the properties of HTTP/1 requests.

pub mod exchange;
pub mod forwarded;
pub mod inputs;
pub mod peers;
pub mod routed;
