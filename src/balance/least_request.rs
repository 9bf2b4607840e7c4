//! `LeastRequest`: the less loaded of two random endpoints (Mitzenmacher, "The Power of Two Choices", 2001).

use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;
use super::random::nth_allowed;

/// Takes the one with fewer requests in flight of two distinct random endpoints.
#[derive(Debug)]
pub(super) struct LeastRequest {
    pub(super) backend: Arc<BackendEndpoints>,
}

impl LeastRequest {
    pub(super) fn pick(&self, allowed: impl Fn(&Arc<EndpointState>) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
        let endpoints = &self.backend.endpoints;
        let (one, other) = two_choices(endpoints, allowed, rng)?;
        Some(if endpoints[other].in_flight() < endpoints[one].in_flight() { other } else { one })
    }
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
