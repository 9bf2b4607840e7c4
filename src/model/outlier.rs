//! When an endpoint that fails is left out for a while, as plain values.

use std::time::Duration;

use http::StatusCode;

/// What makes an endpoint be ejected, for how long, and how many may be at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// Failed requests in a row; at least 1.
    pub errors: u32,
    /// Failed connections in a row; at least 1.
    pub connect_failures: u32,
    /// Time in service after which one earlier ejection is forgotten; not 0.
    pub interval: Duration,
    /// The first ejection; each further one is twice as long. Not 0.
    pub base: Duration,
    /// The longest ejection; no less than `base`.
    pub longest: Duration,
    /// Endpoints of a backend that may be ejected at the same time, in percent; 0 to 100.
    pub most_percent: u32,
    /// Statuses that count as failures.
    pub codes: Box<[StatusCode]>,
}

/// Statuses that count as failures unless a rule lists others: what gateways and overloaded servers answer. Not 500,
/// which one poisonous request gets from every endpoint.
pub const FAILURES: [StatusCode; 3] =
    [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
