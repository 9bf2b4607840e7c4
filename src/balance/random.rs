//! `Random`: uniformly at random.

use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::EndpointState;

/// Chooses uniformly at random among the allowed endpoints.
#[derive(Debug)]
pub(super) struct Random {
    pub(super) backend: Arc<BackendEndpoints>,
}

impl Random {
    pub(super) fn pick(&self, allowed: impl Fn(&Arc<EndpointState>) -> bool, rng: &mut fastrand::Rng) -> Option<usize> {
        let endpoints = &self.backend.endpoints;
        if endpoints.is_empty() {
            return None;
        }
        let first = rng.usize(..endpoints.len());
        if allowed(&endpoints[first]) {
            return Some(first);
        }
        // Not simply the next one: it would get the share of its neighbour on top of its own.
        let left = endpoints.iter().filter(|endpoint| allowed(endpoint)).count();
        (left > 0).then(|| rng.usize(..left)).and_then(|chosen| nth_allowed(endpoints, allowed, chosen))
    }
}

/// Index of the allowed endpoint that has `position` allowed ones before it.
pub(super) fn nth_allowed(
    endpoints: &[Arc<EndpointState>],
    allowed: impl Fn(&Arc<EndpointState>) -> bool,
    position: usize,
) -> Option<usize> {
    endpoints.iter().enumerate().filter(|(_, endpoint)| allowed(endpoint)).nth(position).map(|(index, _)| index)
}
