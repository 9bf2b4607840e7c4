//! What a pick is asked with and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::endpoint_state::EndpointState;
use crate::model::ids::BackendId;

/// What of a request decides its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// Hash of the request's key, for the consistent hash; see [`hash_key`](super::hash_key). `None`: the request has no key.
    pub hash: Option<u64>,
    /// The endpoints that a retry goes away from, if there are others.
    pub avoid: &'a [Arc<EndpointState>],
}

/// The outcome of a pick.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Send it there.
    Endpoint(Picked),
    /// The chosen backend, if one was, has no usable endpoint: answer 503.
    NoEndpoints(Option<BackendId>),
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
pub(super) struct Choice<'a> {
    pub(super) now: Duration,
    pub(super) avoid: &'a [Arc<EndpointState>],
}

impl Choice<'_> {
    /// The endpoint is one that a retry goes away from.
    pub(super) fn avoided(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.avoid.iter().any(|avoid| Arc::ptr_eq(avoid, endpoint))
    }

    /// Nothing speaks against the endpoint.
    pub(super) fn usable(&self, endpoint: &Arc<EndpointState>) -> bool {
        !endpoint.is_refused(self.now) && !self.avoided(endpoint)
    }
}
