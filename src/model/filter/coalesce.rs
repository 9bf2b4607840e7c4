//! Sharing of one upstream call by equal requests, as values.

use std::sync::Arc;

use http::{HeaderName, Method};

use super::state_key::StateKey;

/// Which requests share one call of the backend, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coalesce {
    /// Names the calls that are on their way.
    pub state: Arc<StateKey>,
    /// Requests with GET are shared.
    pub get: bool,
    /// Requests with HEAD are shared; one of the two is.
    pub head: bool,
    /// Fields in which requests have to agree, beside those that all of these filters look at.
    pub vary: Vec<HeaderName>,
    /// Requests that may wait for a call beside the one that began it; at least 1.
    pub max_waiters: u32,
    /// Most bytes of a body that is shared.
    pub max_body: u64,
}

impl Coalesce {
    /// Whether requests with this method are shared.
    #[must_use]
    pub fn covers(&self, method: &Method) -> bool {
        (self.get && *method == Method::GET) || (self.head && *method == Method::HEAD)
    }
}
