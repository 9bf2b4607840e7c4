//! What active checks have found out about endpoints.
//!
//! Health belongs to an endpoint and a check, not to a rule: rules with equal checks share it, and every publication
//! carries it over. The prober of the control half writes it; picks of rules with the check read it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use rustc_hash::FxHashMap;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;
use crate::model::backend::Protocol;
use crate::model::health::{HealthCheck, Question};
use crate::model::ids::EndpointKey;
use crate::model::tls::EndpointTls;

/// The health of one endpoint by one check. Initially healthy: its readiness was checked before it became an endpoint,
/// and a gateway that starts must not refuse requests until it has asked everybody.
#[derive(Debug)]
pub struct EndpointHealth {
    endpoint: Arc<EndpointState>,
    check: Arc<HealthCheck>,
    protocol: Protocol,
    /// How TLS is spoken to it.
    tls: Option<Arc<EndpointTls>>,
    is_unhealthy: AtomicBool,
    last: Mutex<Option<LastCheck>>,
}

/// How the last check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended.
    pub at: SystemTime,
    /// What was wrong; `None` for a good answer.
    pub failure: Option<String>,
}

impl EndpointHealth {
    /// Makes the health of an endpoint that was never asked.
    #[must_use]
    pub fn new(
        endpoint: Arc<EndpointState>,
        check: Arc<HealthCheck>,
        (protocol, tls): (Protocol, Option<Arc<EndpointTls>>),
    ) -> Self {
        Self { endpoint, check, protocol, tls, is_unhealthy: AtomicBool::new(false), last: Mutex::default() }
    }

    /// The endpoint that is asked.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// How it is asked.
    #[must_use]
    pub fn check(&self) -> &Arc<HealthCheck> {
        &self.check
    }

    /// The protocol in which it is asked.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether new requests of rules with the check go elsewhere, if anybody else is left.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        self.is_unhealthy.load(Ordering::Relaxed)
    }

    /// Notes that the check has failed often enough; picks see it at once.
    pub fn fell_ill(&self) {
        self.set_unhealthy(true);
    }

    /// Notes at `now` that the check has been passed often enough: an endpoint that comes back begins with a small share,
    /// where rules have a slow start.
    pub fn recovered(&self, now: Duration) {
        if self.is_unhealthy() {
            self.endpoint.recovered(now);
            self.set_unhealthy(false);
        }
    }

    /// Begins anew as healthy.
    pub fn reset(&self) {
        self.set_unhealthy(false);
    }

    fn set_unhealthy(&self, is_unhealthy: bool) {
        if self.is_unhealthy.swap(is_unhealthy, Ordering::Relaxed) != is_unhealthy {
            self.endpoint.count_unhealthy(is_unhealthy);
        }
    }

    /// How the last check went; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<LastCheck> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes how a check went, for people.
    pub fn set_last(&self, last: LastCheck) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }
}

impl Drop for EndpointHealth {
    /// The endpoint may live on without the check.
    fn drop(&mut self) {
        self.set_unhealthy(false);
    }
}

/// The health of all endpoints of one backend by one check, shared by the rules that have both.
#[derive(Debug)]
pub struct CheckedEndpoints {
    backend: Arc<BackendEndpoints>,
    /// In the order of the backend's endpoints.
    endpoints: Box<[Arc<EndpointHealth>]>,
}

impl CheckedEndpoints {
    /// In the order of the backend's endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<EndpointHealth>] {
        &self.endpoints
    }

    /// Whether the check holds this endpoint to be unhealthy; false for one of another backend. Logarithmic in the number
    /// of endpoints.
    pub(super) fn is_unhealthy(&self, endpoint: &EndpointState) -> bool {
        let found = self.backend.endpoints.binary_search_by(|own| own.key.cmp(&endpoint.key));
        found.is_ok_and(|at| self.endpoints.get(at).is_some_and(|health| health.is_unhealthy()))
    }
}

/// The health of all endpoints that any check asks; only the control half touches it.
#[derive(Debug, Default)]
pub(super) struct HealthRegistry {
    /// By endpoint, protocol and check: one for each way to speak TLS, as Services may ask the same pod for other
    /// certificates.
    endpoints: FxHashMap<(EndpointKey, Protocol, Arc<HealthCheck>), Vec<Weak<EndpointHealth>>>,
    /// By the address of the backend's endpoints, which live as long as the value, and the check.
    backends: FxHashMap<(usize, Arc<HealthCheck>), Weak<CheckedEndpoints>>,
    /// How many entries were left when dead ones were last forgotten.
    kept: usize,
}

impl HealthRegistry {
    /// The health of a backend's endpoints by a check; what is known stays.
    pub(super) fn of(&mut self, backend: &Arc<BackendEndpoints>, check: &Arc<HealthCheck>) -> Arc<CheckedEndpoints> {
        let key = (Arc::as_ptr(backend).addr(), Arc::clone(check));
        if let Some(known) = self.backends.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let protocol = match check.question {
            Question::Get { .. } => backend.key.protocol,
            Question::Grpc { .. } => Protocol::H2c.secure(backend.key.protocol.is_secure()),
        };
        let endpoints = backend.endpoints.iter().map(|endpoint| {
            let asked = || (protocol, backend.tls.clone());
            let fresh = || Arc::new(EndpointHealth::new(Arc::clone(endpoint), Arc::clone(check), asked()));
            let known = self.endpoints.entry((endpoint.key.clone(), protocol, Arc::clone(check))).or_default();
            // An endpoint that was gone for a while is another state by the same key.
            let is_same =
                |health: &Arc<EndpointHealth>| Arc::ptr_eq(&health.endpoint, endpoint) && health.tls == backend.tls;
            let same = known.iter().filter_map(Weak::upgrade).find(is_same);
            same.unwrap_or_else(|| {
                let health = fresh();
                known.retain(|known| known.strong_count() > 0);
                known.push(Arc::downgrade(&health));
                health
            })
        });
        let checked = Arc::new(CheckedEndpoints { endpoints: endpoints.collect(), backend: Arc::clone(backend) });
        self.backends.insert(key, Arc::downgrade(&checked));
        checked
    }

    /// Forgets what nothing holds any more, once that may be as much as the rest.
    pub(super) fn prune(&mut self) {
        if self.backends.len() + self.endpoints.len() > 2 * self.kept + 64 {
            self.backends.retain(|_, checked| checked.strong_count() > 0);
            self.endpoints.retain(|_, known| {
                known.retain(|health| health.strong_count() > 0);
                !known.is_empty()
            });
            self.kept = self.backends.len() + self.endpoints.len();
        }
    }
}
