//! Service: the target of backendRefs.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use super::violation::{PROTOCOLS, Violation, check_name, check_port};

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "core::Service")]
pub struct Service {
    /// `spec.type` is ExternalName.
    pub is_external_name: bool,
    /// `spec.selector` has a label: its endpoints come from a controller.
    pub has_selector: bool,
    /// `spec.publishNotReadyAddresses`.
    pub publishes_not_ready: bool,
    /// `spec.sessionAffinity` is ClientIP.
    pub has_client_affinity: bool,
    /// The first of `spec.ipFamilies` is IPv6.
    pub prefers_ipv6: bool,
    /// `spec.ports`, in their order.
    pub ports: Box<[ServicePort]>,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when it has none.
    pub name: Arc<str>,
    /// The number that references name.
    pub port: i32,
    /// The number of a slice's port that has none itself; a named target port is resolved in slices only.
    pub target: i32,
    /// `protocol`, where it is another than TCP.
    pub transport: Option<Box<str>>,
    /// `appProtocol`; empty when it has none.
    pub app_protocol: Box<str>,
}

impl From<core::Service> for Service {
    fn from(object: core::Service) -> Self {
        let spec = object.spec.unwrap_or_default();
        Self {
            is_external_name: spec.type_.as_deref() == Some("ExternalName"),
            has_selector: spec.selector.is_some_and(|selector| !selector.is_empty()),
            publishes_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            has_client_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            prefers_ipv6: spec.ip_families.iter().flatten().next().is_some_and(|family| family == "IPv6"),
            ports: spec.ports.into_iter().flatten().map(ServicePort::from).collect(),
        }
    }
}

impl From<core::ServicePort> for ServicePort {
    fn from(port: core::ServicePort) -> Self {
        let target = match port.target_port {
            Some(IntOrString::Int(number)) => number,
            Some(IntOrString::String(_)) | None => port.port,
        };
        let transport = port.protocol.filter(|protocol| !matches!(protocol.as_str(), "TCP" | ""));
        Self {
            name: port.name.unwrap_or_default().into(),
            port: port.port,
            target,
            transport: transport.map(String::into_boxed_str),
            app_protocol: port.app_protocol.unwrap_or_default().into(),
        }
    }
}

impl Kind for Service {
    const NAME: &'static str = "Service";
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const HAS_STATUS: bool = true;

    type Manifest = core::Service;

    fn schema() -> Value {
        schema_of::<core::Service>()
    }

    fn check(manifest: &core::Service) -> Vec<Violation> {
        check_service(manifest)
    }

    fn reduce(manifest: core::Service) -> Self {
        manifest.into()
    }
}

fn check_service(service: &core::Service) -> Vec<Violation> {
    let mut violations = Vec::new();
    let Some(spec) = &service.spec else { return violations };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    check_name("spec.type".to_owned(), spec.type_.as_deref(), &types, &mut violations);
    check_name(
        "spec.sessionAffinity".to_owned(),
        spec.session_affinity.as_deref(),
        &["None", "ClientIP"],
        &mut violations,
    );
    let ports = spec.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check_port(format!("{path}.port"), port.port, &mut violations);
        check_name(format!("{path}.protocol"), port.protocol.as_deref(), PROTOCOLS, &mut violations);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            violations.push(Violation::new(format!("{path}.name"), "nothing", "a name, as there are several ports"));
        } else if ports[..index].iter().any(|other| other.name.as_deref().unwrap_or_default() == name) {
            violations.push(Violation::new(format!("{path}.name"), format!("a second {name:?}"), "distinct names"));
        }
    }
    violations
}
