//! How much one endpoint gets at the same time, as plain values.

use std::time::Duration;

/// Limits towards the endpoints of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointLimits {
    /// Requests in flight at one endpoint, over all workers and rules of the process; at least 1.
    pub requests: Option<u32>,
    /// Connections to one endpoint, counted alike; at least 1.
    pub connections: Option<u32>,
    /// Requests that may wait for an endpoint of a backend.
    pub pending: u32,
    /// How long one waits at most; not 0.
    pub pending_timeout: Duration,
    /// Requests that one connection carries; at least 1.
    pub requests_per_connection: Option<u32>,
}
