//! The endpoints of one backend, as all balancers over it share them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backend_shared::BackendShared;
use super::endpoint_state::EndpointState;
use super::sessions::SessionIndex;
use crate::model::backend::BackendKey;
use crate::model::tls::EndpointTls;

/// The endpoint states of one backend.
#[derive(Debug)]
pub struct BackendEndpoints {
    /// The backend.
    pub key: BackendKey,
    /// How TLS is spoken to them; `None`: clear text.
    pub tls: Option<Arc<EndpointTls>>,
    /// Its usable endpoints, sorted by key, without duplicates; may be empty.
    pub endpoints: Box<[Arc<EndpointState>]>,
    /// These, and those that only their sessions still use, by the ids of sessions; only where a rule with sessions leads
    /// here.
    pub sessions: Option<Box<SessionIndex>>,
    /// What belongs to the backend itself, as long as there is one of this key.
    pub shared: Arc<BackendShared>,
    /// Held while an endpoint is ejected; one for all backends of the process, since two may share endpoints.
    pub(super) ejecting: Arc<Mutex<()>>,
}

impl BackendEndpoints {
    /// Chooses an endpoint for what no rule balances, such as the copy of a request: of two that nothing speaks against, the
    /// one with less to do; where there is none such, any. `None` when there are no endpoints. One that has failed is not
    /// chosen again where there is another.
    #[must_use]
    pub fn pick(
        &self,
        now: Duration,
        failed: Option<&Arc<EndpointState>>,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<EndpointState>> {
        let first = rng.usize(..self.endpoints.len().max(1));
        let from_there = || self.endpoints.iter().cycle().skip(first).take(self.endpoints.len());
        let is_other = |endpoint: &&Arc<EndpointState>| failed.is_none_or(|failed| !Arc::ptr_eq(failed, endpoint));
        let fits = |endpoint: &&Arc<EndpointState>| {
            is_other(endpoint)
                && !endpoint.is_refused(now)
                && !endpoint.is_ejected(now)
                && !endpoint.is_unhealthy_by_any()
        };
        let two = from_there().filter(fits).take(2);
        two.min_by_key(|endpoint| endpoint.in_flight())
            .or_else(|| from_there().find(is_other))
            .or_else(|| from_there().next())
    }
}
