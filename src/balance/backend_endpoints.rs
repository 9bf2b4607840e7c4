//! The endpoints of one backend, as all balancers over it share them.

use std::sync::{Arc, Mutex};

use super::backend_shared::BackendShared;
use super::endpoint_state::EndpointState;
use super::sessions::SessionIndex;
use crate::model::backend::BackendKey;
use crate::model::tls::EndpointTls;

/// The endpoint states of one backend.
#[derive(Debug)]
pub struct BackendEndpoints {
    /// The backend.
    pub key: BackendKey,
    /// How TLS is spoken to them; `None`: clear text.
    pub tls: Option<Arc<EndpointTls>>,
    /// Its usable endpoints, sorted by key, without duplicates; may be empty.
    pub endpoints: Box<[Arc<EndpointState>]>,
    /// These, and those that only their sessions still use, by the ids of sessions; only where a rule with sessions leads
    /// here.
    pub sessions: Option<Box<SessionIndex>>,
    /// What belongs to the backend itself, as long as there is one of this key.
    pub shared: Arc<BackendShared>,
    /// Held while an endpoint is ejected; one for all backends of the process, since two may share endpoints.
    pub(super) ejecting: Arc<Mutex<()>>,
}
