//! The data plane: listeners, client connections, forwarding, connections to endpoints.

mod account;
mod attempt;
pub mod body;
mod client_body;
mod connect;
pub mod connection;
mod cutoff;
mod deadlines;
mod decision;
pub mod downstream;
pub mod error;
mod exchange;
pub mod forward;
pub mod guarded_io;
mod handler;
pub mod head;
pub mod headers;
mod layers;
pub mod listener;
pub mod own_answer;
pub mod retry;
pub mod tunnel;
mod upgrade;
pub mod upstream;
mod upstream_http2;
pub mod worker;
pub mod worker_drain;
