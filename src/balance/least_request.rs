//! `LeastRequest`: the less loaded of two random endpoints (Mitzenmacher, "The Power of Two Choices", 2001).
//!
//! The load of an endpoint is its requests in flight and the one to come, divided by its effective weight, as in nginx's
//! `least_conn`. Failures lower that weight and picks raise it again: an endpoint that accepts and never answers has
//! nothing in flight whenever a client that sends one request after the other picks, and would get every other one.

use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;
use super::random::nth_allowed;

/// Takes the one with the lower load of two distinct random endpoints.
#[derive(Debug)]
pub(super) struct LeastRequest {
    pub(super) backend: Arc<BackendEndpoints>,
}

impl LeastRequest {
    pub(super) fn pick(&self, allowed: impl Fn(&Arc<EndpointState>) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
        let endpoints = &self.backend.endpoints;
        let (one, other) = two_choices(endpoints, allowed, rng)?;
        let lighter = if is_lighter(&endpoints[other], &endpoints[one]) { other } else { one };
        endpoints[one].recover();
        if one != other {
            endpoints[other].recover();
        }
        Some(lighter)
    }
}

/// Tells whether the first has the lower load.
fn is_lighter(first: &EndpointState, second: &EndpointState) -> bool {
    let parts =
        |endpoint: &EndpointState| (u64::from(endpoint.in_flight()) + 1, u64::from(endpoint.effective_weight().max(1)));
    let ((first, of_first), (second, of_second)) = (parts(first), parts(second));
    // Both quotients, multiplied by both weights.
    first * of_second < second * of_first
}

/// Two random indices of allowed endpoints, different when there are two; `None` when there is none.
pub(super) fn two_choices(
    endpoints: &[Arc<EndpointState>],
    allowed: impl Fn(&Arc<EndpointState>) -> bool,
    rng: &mut fastrand::Rng,
) -> Option<(usize, usize)> {
    let (one, other) = two_below(endpoints.len(), rng)?;
    if allowed(&endpoints[one]) && allowed(&endpoints[other]) {
        return Some((one, other));
    }
    let left = endpoints.iter().filter(|endpoint| allowed(endpoint)).count();
    let (one, other) = two_below(left, rng)?;
    Some((nth_allowed(endpoints, &allowed, one)?, nth_allowed(endpoints, &allowed, other)?))
}

/// Two random numbers below `count`, different when `count` allows.
fn two_below(count: usize, rng: &mut fastrand::Rng) -> Option<(usize, usize)> {
    match count {
        0 => None,
        1 => Some((0, 0)),
        _ => {
            let one = rng.usize(..count);
            let other = rng.usize(..count - 1);
            Some((one, if other < one { other } else { other + 1 }))
        }
    }
}
