//! How much one endpoint may have at the same time, as the rule of a request says.

use super::endpoint_state::EndpointState;
use crate::model::limits::EndpointLimits;

/// The bounds of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The greatest number for no limit.
    requests: u32,
    connections: u32,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Self = Self { requests: u32::MAX, connections: u32::MAX };

    /// Those that limits set.
    #[must_use]
    pub fn of(limits: &EndpointLimits) -> Self {
        Self { requests: limits.requests.unwrap_or(u32::MAX), connections: limits.connections.unwrap_or(u32::MAX) }
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// Requests that an endpoint may have in flight. One over HTTP/1 has a connection to itself, so that a bound on
    /// connections bounds requests: they wait for each other in one queue, whichever worker has an idle connection.
    #[inline]
    #[must_use]
    pub fn requests_at(self, endpoint: &EndpointState) -> u32 {
        if endpoint.shares_connections() { self.requests } else { self.requests.min(self.connections) }
    }
}
