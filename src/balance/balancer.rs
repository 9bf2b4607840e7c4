//! The algorithms behind one factory.

use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;
use super::least_request::LeastRequest;
use super::peak_ewma::PeakEwma;
use super::pick::Choice;
use super::random::Random;
use super::round_robin::RoundRobin;
use super::smooth_weighted::SmoothWeighted;
use crate::model::policy::{Algorithm, OnMissingKey};

/// One algorithm over the endpoints of one backend, with what one worker keeps for it.
#[derive(Debug)]
pub(super) enum Balancer {
    Random(Random),
    RoundRobin(RoundRobin),
    SmoothWeighted(SmoothWeighted),
    LeastRequest(LeastRequest),
    PeakEwma(PeakEwma),
}

impl Balancer {
    /// The factory. `start` shifts the first picks of those that go round; for a consistent hash, whose ring spans the
    /// backends of a tier, it makes the balancer of requests without a key.
    pub(super) fn new(algorithm: &Algorithm, backend: Arc<BackendEndpoints>, start: u32) -> Self {
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
    pub(super) fn update(&self, backend: Arc<BackendEndpoints>) -> Self {
        match self {
            Self::Random(_) => Self::Random(Random { backend }),
            Self::RoundRobin(old) => Self::RoundRobin(old.update(backend)),
            Self::SmoothWeighted(old) => Self::SmoothWeighted(old.update(backend)),
            Self::LeastRequest(_) => Self::LeastRequest(LeastRequest { backend }),
            Self::PeakEwma(_) => Self::PeakEwma(PeakEwma { backend }),
        }
    }

    /// Chooses an endpoint among those that the choice allows; `None` when it allows none.
    pub(super) fn pick(&self, choice: &Choice<'_>, rng: &mut fastrand::Rng) -> Option<&Arc<EndpointState>> {
        let allowed = |endpoint: &Arc<EndpointState>| choice.allows(endpoint);
        let index = match self {
            Self::Random(random) => random.pick(allowed, rng),
            Self::RoundRobin(round_robin) => round_robin.pick(allowed),
            Self::SmoothWeighted(smooth) => smooth.pick(allowed),
            Self::LeastRequest(least) => least.pick(allowed, rng),
            Self::PeakEwma(peak) => peak.pick(allowed, choice.now, rng),
        };
        self.backend().endpoints.get(index?)
    }

    /// Whether its backend has no endpoint at all.
    pub(super) fn is_empty(&self) -> bool {
        self.backend().endpoints.is_empty()
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
