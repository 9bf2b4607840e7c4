//! The objects that a source reads only where somebody names them: Secrets, ConfigMaps, and in a sidecar Services.

use std::collections::BTreeSet;

use super::backend_tls;
use super::inputs::Inputs;
use super::references::is_granted;
use super::validation;
use crate::api::gateway_route::{CertificateRef, GatewayRouteSpec, RouteTls};
use crate::kinds::config_map::ConfigMap;
use crate::kinds::gateway_route::Route;
use crate::kinds::secret::Secret;
use crate::kinds::service::Service;
use crate::kinds::{Kind as _, KindId};
use crate::model::ids::ObjectName;

/// What an object is named for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedFor {
    /// A Secret, for the certificate and key in it.
    Certificate,
    /// A Secret of any type, for the authorities in it.
    AuthoritySecret,
    /// A ConfigMap, for the authorities or the keys of tokens in it.
    ConfigMap,
    /// A Secret of any type, for what clients prove who they are with.
    CredentialSecret,
}

impl NamedFor {
    /// The kind of the object.
    #[must_use]
    pub const fn kind(self) -> KindId {
        match self {
            Self::Certificate | Self::AuthoritySecret | Self::CredentialSecret => KindId::Secret,
            Self::ConfigMap => KindId::ConfigMap,
        }
    }
}

/// The Secrets and ConfigMaps that routes of the class, listeners and the policies of used Services name; those of other
/// namespaces only with their consent.
#[must_use]
pub fn objects_named(inputs: &Inputs) -> BTreeSet<(NamedFor, ObjectName)> {
    let mut named = BTreeSet::new();
    for (route, object) in inputs.objects.routes.iter() {
        let object = &*object.object;
        if *object.spec.gateway_class_name != *inputs.gateway_class_name {
            continue;
        }
        if let Some(tls) = &object.spec.tls {
            of_tls(inputs, (route, object), tls, &mut named);
        }
        let of_filters = secrets_of_filters(&object.spec);
        named.extend(of_filters.map(|name| (NamedFor::CredentialSecret, ObjectName::new(&*route.namespace, name))));
        let of_filters = config_maps_of_filters(&object.spec);
        named.extend(of_filters.map(|name| (NamedFor::ConfigMap, ObjectName::new(&*route.namespace, name))));
    }
    let secure = inputs.listeners.iter().filter(|listener| listener.is_https);
    let defaults = secure.filter_map(|listener| listener.default_certificate.clone());
    named.extend(defaults.map(|name| (NamedFor::Certificate, name)));
    named.extend(inputs.client_certificate.clone().map(|name| (NamedFor::Certificate, name)));
    let of_policies = backend_tls::config_maps_named(inputs);
    named.extend(of_policies.into_iter().map(|name| (NamedFor::ConfigMap, name)));
    named
}

fn of_tls(
    inputs: &Inputs,
    (route, object): (&ObjectName, &Route),
    tls: &RouteTls,
    named: &mut BTreeSet<(NamedFor, ObjectName)>,
) {
    let own = &*route.namespace;
    let mut add = |named_for: NamedFor, namespace: Option<&str>, name: &str| {
        let namespace = namespace.unwrap_or(own);
        let target = (named_for.kind().name(), namespace, name);
        if namespace == own || is_granted(inputs, (object.kind, own), target) {
            named.insert((named_for, ObjectName::new(namespace, name)));
        }
    };
    for reference in tls.certificate_refs.iter().filter(|reference| is_secret(reference)) {
        add(NamedFor::Certificate, reference.namespace.as_deref(), &reference.name);
    }
    let authorities = tls.client_validation.iter().flat_map(|validation| &validation.ca_certificate_refs);
    for reference in authorities {
        let named_for = match validation::kind(reference) {
            Some(ConfigMap::NAME) => NamedFor::ConfigMap,
            Some(_) => NamedFor::AuthoritySecret,
            None => continue,
        };
        add(named_for, reference.namespace.as_deref(), &reference.name);
    }
}

/// The names of the Secrets that a route's filters take credentials from; all are in its own namespace.
pub(super) fn secrets_of_filters(spec: &GatewayRouteSpec) -> impl Iterator<Item = &str> {
    let of_rules = spec.rules.iter().flat_map(|rule| &rule.filters);
    let filters = spec.filters.iter().chain(of_rules);
    filters.filter_map(|filter| {
        let of_users = filter.basic_auth.as_ref().map(|filter| &filter.secret_ref);
        let reference = of_users.or(filter.api_key.as_ref().map(|filter| &filter.secret_ref))?;
        Some(&*reference.name)
    })
}

/// The Services that a route of some namespace names, wherever it does: some more than once.
pub fn services_named(namespace: &str, spec: &GatewayRouteSpec) -> impl Iterator<Item = ObjectName> {
    let rules = spec.rules.iter();
    let backends = rules.clone().flat_map(|rule| &rule.backend_refs);
    let of_backends =
        backends.clone().filter(|backend| backend.group.is_empty() && backend.kind.as_str() == Service::NAME);
    let of_backends = of_backends.map(move |backend| ObjectName::new(backend.namespace_or(namespace), &*backend.name));
    let of_rules = rules.flat_map(|rule| &rule.filters).chain(backends.flat_map(|backend| backend.filters.iter()));
    let of_filters = spec.filters.iter().chain(of_rules).flat_map(|filter| {
        let of_mirror = filter.request_mirror.iter().map(|mirror| &mirror.backend_ref);
        of_mirror.chain(filter.external_auth.iter().map(|auth| &auth.backend_ref))
    });
    let of_filters = of_filters.filter(|reference| reference.group.is_empty() && reference.kind == Service::NAME);
    of_backends.chain(
        of_filters.map(move |reference| {
            ObjectName::new(reference.namespace.as_deref().unwrap_or(namespace), &*reference.name)
        }),
    )
}

/// The names of the ConfigMaps that a route's filters take the keys of tokens from; all are in its own namespace.
pub(super) fn config_maps_of_filters(spec: &GatewayRouteSpec) -> impl Iterator<Item = &str> {
    let of_rules = spec.rules.iter().flat_map(|rule| &rule.filters);
    let providers = spec.filters.iter().chain(of_rules).filter_map(|filter| filter.jwt.as_ref());
    let providers = providers.flat_map(|jwt| &jwt.providers);
    providers.filter_map(|provider| Some(&*provider.jwks.config_map_ref.as_ref()?.name))
}

fn is_secret(reference: &CertificateRef) -> bool {
    reference.group.is_empty() && reference.kind == Secret::NAME
}
