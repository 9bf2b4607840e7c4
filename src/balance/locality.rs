//! Near endpoints: the part of a backend's list that a rule prefers.
//!
//! Which endpoints are near was worked out when the snapshot was compiled. Here the list is made of them, as long as there
//! are enough; otherwise, and whenever none of them can be used, the whole list is: a request is never refused because
//! nobody is near.

use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use crate::model::backend::{Endpoint, Near};
use crate::model::policy::{Locality, LocalityMode};

/// The near endpoints of a backend, of which `endpoints` are the model's, in the same order; `None` where all are used
/// alike.
pub(super) fn near_list(
    backend: &BackendEndpoints,
    endpoints: &[Endpoint],
    locality: Locality,
) -> Option<Arc<BackendEndpoints>> {
    let kinds: &[Near] = match locality.mode {
        // The nearer kind of hint comes first, as in kube-proxy.
        LocalityMode::Auto => &[Near::HINTED_NODE, Near::HINTED_ZONE],
        LocalityMode::PreferZone => &[Near::ZONE],
        LocalityMode::PreferNode => &[Near::NODE],
        LocalityMode::Disabled => &[],
    };
    let count = |kind: Near| endpoints.iter().filter(|endpoint| endpoint.near.has(kind)).count();
    let enough = |kind: &&Near| count(**kind) >= (locality.min_endpoints as usize).max(1);
    let kind = *kinds.iter().find(enough)?;
    if count(kind) == endpoints.len() {
        return None;
    }
    let both = backend.endpoints.iter().zip(endpoints);
    Some(Arc::new(BackendEndpoints {
        key: backend.key.clone(),
        tls: backend.tls.clone(),
        endpoints: both.filter(|(_, endpoint)| endpoint.near.has(kind)).map(|(state, _)| Arc::clone(state)).collect(),
        sessions: None,
        shared: Arc::clone(&backend.shared),
        ejecting: Arc::clone(&backend.ejecting),
    }))
}
