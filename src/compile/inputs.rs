//! What the compiler reads: objects by name, as the sources hold them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;

use super::diagnostics::Origin;
use super::objects::{EndpointSlice, Endpoints, Route, Service};
use crate::api::reference_grant::ReferenceGrant;
use crate::model::ids::ObjectName;

/// An object with the place it came from.
#[derive(Clone, Debug)]
pub struct Sourced<T> {
    /// The object; shared, so that a new `Inputs` costs pointers only.
    pub object: Arc<T>,
    /// The file and line, for objects from files.
    pub origin: Option<Origin>,
}

/// A static listener as far as routes are concerned; the position in [`Inputs::listeners`] is its `ListenerId`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticListener {
    /// Its name in the settings.
    pub name: Arc<str>,
    /// Namespaces whose routes may bind; `None`: all.
    pub allowed_namespaces: Option<Vec<String>>,
}

/// Everything that one compilation reads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Static listeners in the order of the settings.
    pub listeners: Vec<StaticListener>,
    /// Only routes of this class are read.
    pub gateway_class_name: Arc<str>,
    /// `controllerName` of status entries.
    pub controller_name: Arc<str>,
    /// GatewayRoutes.
    pub routes: BTreeMap<ObjectName, Sourced<Route>>,
    /// Services.
    pub services: BTreeMap<ObjectName, Sourced<Service>>,
    /// EndpointSlices.
    pub slices: BTreeMap<ObjectName, Sourced<EndpointSlice>>,
    /// Core Endpoints.
    pub endpoints: BTreeMap<ObjectName, Sourced<Endpoints>>,
    /// Namespaces (cluster-scoped; the key's namespace is empty).
    pub namespaces: BTreeMap<Arc<str>, Sourced<Namespace>>,
    /// ReferenceGrants.
    pub grants: BTreeMap<ObjectName, Sourced<ReferenceGrant>>,
    /// Loopback and link-local endpoint addresses are allowed (files), not refused (cluster).
    pub allow_loopback_endpoints: bool,
}
