//! `PeakEWMA`: the lower product of latency average and load of two random endpoints.
//!
//! The average is tower's (`tower/src/load/peak_ewma.rs`), after Finagle; see
//! [`EndpointState::observe_latency`].

use std::sync::Arc;
use std::time::Duration;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;
use super::least_request::two_choices;

/// Takes the cheaper of two distinct random endpoints.
#[derive(Debug)]
pub(super) struct PeakEwma {
    pub(super) backend: Arc<BackendEndpoints>,
}

impl PeakEwma {
    pub(super) fn pick(
        &self,
        allowed: impl Fn(&Arc<EndpointState>) -> bool,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let endpoints = &self.backend.endpoints;
        let (one, other) = two_choices(endpoints, allowed, rng)?;
        Some(if cheaper(&endpoints[other], &endpoints[one], now) { other } else { one })
    }
}

/// Tells whether the first costs less than the second.
///
/// tower gives an endpoint without observations a default latency, which keeps a new pod idle or floods it, depending on
/// what the others need. Here one without is compared by requests in flight alone until its first answer.
fn cheaper(first: &EndpointState, second: &EndpointState, now: Duration) -> bool {
    let load = |endpoint: &EndpointState| endpoint.in_flight() as f32 + 1.0;
    match (first.latency_seconds(now), second.latency_seconds(now)) {
        (Some(one), Some(two)) => one * load(first) < two * load(second),
        _ => load(first) < load(second),
    }
}
