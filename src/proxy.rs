//! The data plane: listeners, client connections, forwarding, connections to endpoints.

pub mod downstream;
pub mod error;
pub mod head;
pub mod tunnel;
