//! The data plane: listeners, client connections, forwarding, connections to endpoints.

pub mod body;
pub mod connection;
pub mod downstream;
pub mod error;
pub mod guarded_io;
pub mod head;
pub mod tunnel;
pub mod headers;
pub mod listener;
