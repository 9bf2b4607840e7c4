//! Our own HTTP/1 wire code: bytes in, checked facts out. Knows no routes and no hyper.

pub mod client;
pub mod response;
