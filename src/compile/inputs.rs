//! What the compiler reads: objects by name, as the sources hold them.

use std::sync::Arc;

use crate::kinds::Objects;

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
    /// A hostname belongs to the namespace of the oldest route that asks for it; routes of other namespaces have it only
    /// by delegation.
    pub hostnames_have_owners: bool,
    /// Objects of all kinds by name.
    pub objects: Objects,
    /// Loopback and link-local endpoint addresses are allowed. Only a source whose objects are written by the operator
    /// of this machine may ask for it: from a cluster, an EndpointSlice could name the machine's own ports, or the
    /// metadata service of its cloud.
    pub allow_loopback_endpoints: bool,
}
