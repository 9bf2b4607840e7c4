//! What the compiler reads: objects by name, as the sources hold them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::kinds::Objects;
use crate::model::ids::ObjectName;

/// A static listener as far as routes are concerned; the position in [`Inputs::listeners`] is its `ListenerId`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticListener {
    /// Its name in the settings.
    pub name: Arc<str>,
    /// Namespaces whose routes may bind; `None`: all.
    pub allowed_namespaces: Option<Vec<String>>,
    /// TLS is spoken there.
    pub is_https: bool,
    /// The Secret with the certificate for clients that no route has one for.
    pub default_certificate: Option<ObjectName>,
}

impl StaticListener {
    /// Whether routes of a namespace may be bound to it.
    #[must_use]
    pub fn admits(&self, namespace: &str) -> bool {
        self.allowed_namespaces.as_ref().is_none_or(|names| names.iter().any(|name| name == namespace))
    }
}

/// Where this process is, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPlace {
    /// Name of its zone.
    pub zone: Option<Arc<str>>,
    /// Name of its node.
    pub node: Option<Arc<str>>,
}

/// Everything that one compilation reads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Static listeners in the order of the settings.
    pub listeners: Vec<StaticListener>,
    /// The Secret with the certificate that is shown to pods that ask for one.
    pub client_certificate: Option<ObjectName>,
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
    /// Services of this process's own making, whose endpoints may be loopback addresses where those of others may not: the
    /// application beside a sidecar.
    pub own_services: Arc<BTreeSet<ObjectName>>,
    /// Where this process is: near endpoints may be preferred.
    pub place: OwnPlace,
}

impl Inputs {
    /// Whether nothing that routes are compiled from is another one, as far as shared maps tell.
    pub(super) fn differ_in_endpoints_at_most(&self, other: &Self) -> bool {
        let Self {
            listeners,
            client_certificate,
            gateway_class_name,
            controller_name,
            hostnames_have_owners,
            objects:
                Objects {
                    routes,
                    services,
                    slices: _,
                    endpoints: _,
                    namespaces,
                    grants,
                    secrets,
                    config_maps,
                    tls_policies,
                },
            allow_loopback_endpoints,
            own_services,
            place,
        } = self;
        *listeners == other.listeners
            && *client_certificate == other.client_certificate
            && *gateway_class_name == other.gateway_class_name
            && *controller_name == other.controller_name
            && *hostnames_have_owners == other.hostnames_have_owners
            && *allow_loopback_endpoints == other.allow_loopback_endpoints
            && *own_services == other.own_services
            && *place == other.place
            && routes.is_same(&other.objects.routes)
            && services.is_same(&other.objects.services)
            && namespaces.is_same(&other.objects.namespaces)
            && grants.is_same(&other.objects.grants)
            && secrets.is_same(&other.objects.secrets)
            && config_maps.is_same(&other.objects.config_maps)
            && tls_policies.is_same(&other.objects.tls_policies)
    }
}
