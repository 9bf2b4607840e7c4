//! The data plane: listeners, client connections, forwarding, connections to endpoints.

mod account;
mod attempt;
pub mod body;
pub mod connection;
mod deadlines;
pub mod downstream;
pub mod error;
pub mod forward;
pub mod guarded_io;
pub mod head;
pub mod headers;
mod http2;
mod layers;
pub mod listener;
pub mod retry;
pub mod tunnel;
mod upgrade;
pub mod upstream;
pub mod worker;
