//! References from routes to Services: who may refer to what, and what a reference leads to.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::diagnostics::Diagnostic;
use super::endpoints::EndpointIndex;
use super::inputs::Inputs;
use super::report::{Report, effect, reason};
use crate::api::gateway_route::{BackendProtocol, BackendRef, GROUP};
use crate::model::backend::{Backend, BackendKey, Endpoint, Protocol};
use crate::model::ids::{BackendId, ObjectName};

/// Resolves backendRefs and keeps every backend that one leads to.
pub(super) struct Backends<'a> {
    inputs: &'a Inputs,
    index: EndpointIndex<'a>,
    found: BTreeMap<BackendKey, Arc<[Endpoint]>>,
    /// Findings about slices and Endpoints, each object once.
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self { inputs, index: EndpointIndex::new(inputs), found: BTreeMap::new(), diagnostics: Vec::new() }
    }

    /// The backend of a reference in a route of `namespace`; `None` is reported: its share answers 500.
    pub(super) fn resolve(
        &mut self,
        namespace: &Arc<str>,
        backend_ref: &BackendRef,
        path: &str,
        report: &mut Report,
    ) -> Option<BackendKey> {
        if !backend_ref.group.is_empty() || backend_ref.kind != "Service" {
            let found = format!("{}/{}", backend_ref.group, backend_ref.kind);
            report.error(
                format!("{path}.kind"),
                reason::INVALID_KIND,
                found,
                "Service of the core group",
                effect::SHARE_500,
            );
            return None;
        }
        let target = backend_ref.namespace.as_deref().map_or_else(|| Arc::clone(namespace), Arc::from);
        let name = ObjectName::new(target, backend_ref.name.as_str());
        if !self.permitted(namespace, &name) {
            let found = format!("Service {name} without a grant");
            let expected =
                format!("a ReferenceGrant in {} from GatewayRoute in {namespace} to Service", name.namespace);
            report.error(format!("{path}.namespace"), reason::REF_NOT_PERMITTED, found, expected, effect::SHARE_500);
            return None;
        }
        let Some(service) = self.inputs.services.get(&name) else {
            let found = format!("no Service {name}");
            report.error(
                format!("{path}.name"),
                reason::BACKEND_NOT_FOUND,
                found,
                "an existing Service",
                effect::SHARE_500,
            );
            return None;
        };
        let service = Arc::clone(&service.object);
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let found = format!("Service {name} of type ExternalName");
            let expected = "a Service with endpoints of its own";
            report.error(format!("{path}.name"), reason::INVALID_KIND, found, expected, effect::SHARE_500);
            return None;
        }
        let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        let wanted = backend_ref.port.unwrap_or(0);
        let Some(port) = ports.iter().find(|port| port.port == i32::from(wanted)) else {
            let known: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
            let expected = format!(
                "a port of Service {name}: {}",
                if known.is_empty() { "it has none".to_owned() } else { known.join(", ") }
            );
            report.error(
                format!("{path}.port"),
                reason::BACKEND_NOT_FOUND,
                format!("port {wanted}"),
                expected,
                effect::SHARE_500,
            );
            return None;
        };
        let protocol = match protocol(backend_ref, port) {
            Ok(protocol) => protocol,
            Err(found) => {
                let expected = "HTTP or HTTP/2 in clear text";
                report.error(format!("{path}.port"), reason::UNSUPPORTED_PROTOCOL, found, expected, effect::SHARE_500);
                return None;
            }
        };
        let key = BackendKey { service: name, port: wanted, protocol };
        if !self.found.contains_key(&key) {
            let endpoints = self.index.endpoints(&key.service, &service, port, &mut self.diagnostics);
            self.found.insert(key.clone(), endpoints);
        }
        Some(key)
    }

    /// The Service asks for session affinity by client address.
    pub(super) fn has_client_affinity(&self, key: &BackendKey) -> bool {
        let service: Option<&Arc<Service>> = self.inputs.services.get(&key.service).map(|service| &service.object);
        let spec = service.and_then(|service| service.spec.as_ref());
        spec.and_then(|spec| spec.session_affinity.as_deref()) == Some("ClientIP")
    }

    /// All backends sorted by key, and where each stands; only those that `used` says yes to.
    pub(super) fn into_list(
        self,
        used: impl Fn(&BackendKey) -> bool,
    ) -> (Vec<Backend>, BTreeMap<BackendKey, BackendId>) {
        let list: Vec<Backend> = self
            .found
            .into_iter()
            .filter(|(key, _)| used(key))
            .map(|(key, endpoints)| Backend { key, endpoints })
            .collect();
        let ids = (0..).map(BackendId).zip(&list).map(|(id, backend)| (backend.key.clone(), id)).collect();
        (list, ids)
    }

    /// References inside a namespace are free; others need the target owner's consent.
    fn permitted(&self, from: &str, to: &ObjectName) -> bool {
        if *to.namespace == *from {
            return true;
        }
        let first = ObjectName::new(Arc::clone(&to.namespace), "");
        let grants = self.inputs.grants.range(first..).take_while(|(name, _)| name.namespace == to.namespace);
        grants
            .map(|(_, grant)| grant)
            .any(|grant| grant.object.allows((GROUP, "GatewayRoute", from), ("", "Service", &to.name)))
    }
}

/// `backendRefs[].protocol` decides, else the port's appProtocol.
fn protocol(backend_ref: &BackendRef, port: &ServicePort) -> Result<Protocol, String> {
    if let Some(transport) = port.protocol.as_deref().filter(|transport| *transport != "TCP") {
        return Err(format!("a {transport} port"));
    }
    if let Some(stated) = &backend_ref.protocol {
        return match stated.known() {
            Some(BackendProtocol::Http) => Ok(Protocol::Http),
            Some(BackendProtocol::H2c) => Ok(Protocol::H2c),
            Some(BackendProtocol::Https | BackendProtocol::H2) | None => Err(format!("protocol {stated}")),
        };
    }
    match port.app_protocol.as_deref() {
        // gRPC has no HTTP/1.1 form: the name can only mean HTTP/2.
        Some("kubernetes.io/h2c" | "grpc") => Ok(Protocol::H2c),
        Some(secure @ ("kubernetes.io/wss" | "https" | "grpcs")) => Err(format!("appProtocol {secure}")),
        Some(_) | None => Ok(Protocol::Http),
    }
}
