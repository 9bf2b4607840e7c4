//! What a compilation gives.

use std::sync::Arc;

use super::authorities::AuthorityState;
use super::certificates::SecretState;
use super::diagnostics::Diagnostic;
use super::policy_status::PolicyStatus;
use super::status::RouteStatus;
use crate::model::snapshot::Snapshot;

/// What a compilation gives. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Output {
    /// What serves.
    pub snapshot: Snapshot,
    /// Everything that is not served as written, or strange: by route in the order of names, then slices and Endpoints.
    pub diagnostics: Arc<[Diagnostic]>,
    /// One entry for every route of the class, in the order of names.
    pub statuses: Arc<[RouteStatus]>,
    /// One entry for every BackendTLSPolicy that is used, in the order of names.
    pub policies: Arc<[PolicyStatus]>,
    /// The Secrets that certificates are taken from, by name.
    pub secrets: Arc<[SecretState]>,
    /// The objects that the authorities of clients' certificates are taken from, by kind and name.
    pub authorities: Arc<[AuthorityState]>,
    /// Routes that are not served because compiling them panicked, by a fault of ours.
    pub panics: usize,
}
