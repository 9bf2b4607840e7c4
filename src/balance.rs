//! Balancers: which endpoint of a rule's backends gets a request.
//!
//! Made through one factory from the algorithm that a rule names; each has only build, update and `pick`. backendRef
//! weights split requests between the backends of a tier by smooth weights, then the algorithm chooses inside the backend,
//! where all endpoints weigh the same; only the consistent hash joins the backends of a tier in one ring.
//!
//! Time, randomness and the start are arguments: `now` is the time since an epoch that the process fixed at its start.
//! Nothing here knows requests, sockets or metrics. The live numbers of endpoints stand in [`endpoint_state`]; cursors and
//! current weights belong to one worker, so that exact sequences hold per worker.

use std::sync::Arc;
use std::time::Duration;

use crate::model::ids::BackendId;
use crate::model::policy::{Algorithm, OnMissingKey};

mod consistent_hash;
pub mod endpoint_state;
mod key;
mod least_request;
mod peak_ewma;
mod random;
mod round_robin;
mod rules;
mod smooth_weighted;

#[cfg(test)]
pub(crate) mod tests;

pub use endpoint_state::{EndpointState, InFlight};
pub use key::{KeySource, hash_key};
pub use rules::{BackendEndpoints, Balancers, EndpointRegistry, Previous, RuleState, RuleTargets};

use least_request::LeastRequest;
use peak_ewma::PeakEwma;
use random::Random;
use round_robin::RoundRobin;
use smooth_weighted::SmoothWeighted;

/// What of a request decides its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// Hash of the request's key, for the consistent hash; see [`hash_key`]. `None`: the request has no key.
    pub hash: Option<u64>,
    /// The endpoint that a retry goes away from, if there is another one.
    pub avoid: Option<&'a Arc<EndpointState>>,
}

/// The outcome of a pick.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Send it there.
    Endpoint(Picked),
    /// The chosen backend has no usable endpoint: answer 503.
    NoEndpoints,
    /// The rule has no backend, or the chosen reference cannot be resolved: answer 500.
    NoBackend,
    /// The rule asks for a hash key that the request lacks (`onMissingKey: Reject`): answer 400.
    MissingKey,
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Its live numbers, with the address.
    pub endpoint: Arc<EndpointState>,
    /// The backend that it was chosen from; valid in the snapshot that the pick was made with.
    pub backend: BackendId,
    /// Index of the backendRef in [`Rule::backend_refs`](crate::model::route::Rule).
    pub backend_ref: usize,
}

/// What rules endpoints out of one pick.
#[derive(Clone, Copy, Debug)]
struct Choice<'a> {
    now: Duration,
    avoid: Option<&'a Arc<EndpointState>>,
}

impl Choice<'_> {
    /// The endpoint is the one that a retry goes away from.
    fn avoided(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, endpoint))
    }

    /// Nothing speaks against the endpoint.
    fn usable(&self, endpoint: &Arc<EndpointState>) -> bool {
        !endpoint.is_refused(self.now) && !self.avoided(endpoint)
    }
}

/// One algorithm over the endpoints of one backend, with what one worker keeps for it.
#[derive(Debug)]
enum Balancer {
    Random(Random),
    RoundRobin(RoundRobin),
    SmoothWeighted(SmoothWeighted),
    LeastRequest(LeastRequest),
    PeakEwma(PeakEwma),
}

impl Balancer {
    /// The factory. `start` shifts the first picks of those that go round; for a consistent hash, whose ring spans the
    /// backends of a tier, it makes the balancer of requests without a key.
    fn new(algorithm: &Algorithm, backend: Arc<BackendEndpoints>, start: u32) -> Self {
        match algorithm {
            Algorithm::Random => Self::Random(Random { backend }),
            Algorithm::RoundRobin => Self::RoundRobin(RoundRobin::new(backend, start)),
            Algorithm::SmoothWeightedRoundRobin => Self::SmoothWeighted(SmoothWeighted::new(backend, start)),
            Algorithm::LeastRequest => Self::LeastRequest(LeastRequest { backend }),
            Algorithm::PeakEwma => Self::PeakEwma(PeakEwma { backend }),
            Algorithm::ConsistentHash(hash) => match hash.on_missing {
                OnMissingKey::RoundRobin => Self::RoundRobin(RoundRobin::new(backend, start)),
                OnMissingKey::Random | OnMissingKey::Reject => Self::Random(Random { backend }),
            },
        }
    }

    /// The same balancer over the backend's next list of endpoints.
    fn update(&self, backend: Arc<BackendEndpoints>) -> Self {
        match self {
            Self::Random(_) => Self::Random(Random { backend }),
            Self::RoundRobin(old) => Self::RoundRobin(old.update(backend)),
            Self::SmoothWeighted(old) => Self::SmoothWeighted(old.update(backend)),
            Self::LeastRequest(_) => Self::LeastRequest(LeastRequest { backend }),
            Self::PeakEwma(_) => Self::PeakEwma(PeakEwma { backend }),
        }
    }

    /// Chooses an endpoint; `None` when there is none. What the choice rules out is given up step by step: refused
    /// addresses are used when all others are, the avoided one when it is the only one.
    fn pick(&self, choice: &Choice<'_>, rng: &mut fastrand::Rng) -> Option<&Arc<EndpointState>> {
        let endpoints = &self.backend().endpoints;
        let index = self
            .pick_among(choice, |endpoint| choice.usable(endpoint), rng)
            .or_else(|| self.pick_among(choice, |endpoint| !choice.avoided(endpoint), rng))
            .or_else(|| self.pick_among(choice, |_| true, rng))?;
        endpoints.get(index)
    }

    fn pick_among(
        &self,
        choice: &Choice<'_>,
        allowed: impl Fn(&Arc<EndpointState>) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self {
            Self::Random(random) => random.pick(allowed, rng),
            Self::RoundRobin(round_robin) => round_robin.pick(allowed),
            Self::SmoothWeighted(smooth) => smooth.pick(allowed),
            Self::LeastRequest(least) => least.pick(allowed, rng),
            Self::PeakEwma(peak) => peak.pick(allowed, choice.now, rng),
        }
    }

    fn backend(&self) -> &Arc<BackendEndpoints> {
        match self {
            Self::Random(random) => &random.backend,
            Self::RoundRobin(round_robin) => &round_robin.backend,
            Self::SmoothWeighted(smooth) => &smooth.backend,
            Self::LeastRequest(least) => &least.backend,
            Self::PeakEwma(peak) => &peak.backend,
        }
    }
}
