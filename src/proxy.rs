//! The data plane: listeners, client connections, forwarding, connections to endpoints.

mod account;
mod attempt;
pub mod body;
mod deadlines;
pub mod downstream;
pub mod error;
pub mod forward;
pub mod headers;
mod http2;
pub mod retry;
pub mod upstream;
pub mod worker;
