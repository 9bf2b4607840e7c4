//! Objects as far as the compiler reads them, made once when a source takes an object in.
//!
//! Thousands of them are held for the life of the process and read with every change, so they hold what a compilation
//! asks for and nothing else: addresses are parsed, names that end up in snapshots are shared with them, and what
//! Kubernetes keeps about an object beside that (managed fields, annotations, statuses) is gone. Each reads from the
//! manifest of its kind, by itself or through serde; nothing here fails or reports: what is strange is kept as written,
//! for the compiler to tell.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::api::gateway_route::{GatewayRoute, GatewayRouteSpec};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A GatewayRoute.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "GatewayRoute")]
pub struct Route {
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.creationTimestamp`; `None` for objects from files that do not say.
    pub created: Option<Timestamp>,
    /// What the user wants.
    pub spec: GatewayRouteSpec,
}

impl From<GatewayRoute> for Route {
    fn from(object: GatewayRoute) -> Self {
        let metadata = object.metadata;
        Self {
            generation: metadata.generation,
            created: metadata.creation_timestamp.map(|time| time.0),
            spec: object.spec,
        }
    }
}

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

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "discovery::EndpointSlice")]
pub struct EndpointSlice {
    /// Name of the Service that it belongs to, by the label [`SERVICE_NAME`].
    pub service: Option<Arc<str>>,
    /// `addressType`, where it is another than IPv4 and IPv6.
    pub foreign_type: Option<Box<str>>,
    /// `ports`, in their order.
    pub ports: Box<[EndpointPort]>,
    /// `endpoints`, in their order.
    pub endpoints: Box<[Endpoint]>,
}

/// Core Endpoints: what EndpointSlices have replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "core::Endpoints")]
pub struct Endpoints {
    /// `subsets`, in their order.
    pub subsets: Box<[Subset]>,
}

/// A subset of [`Endpoints`]: every address with every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// `ports`, in their order; each has a number.
    pub ports: Box<[EndpointPort]>,
    /// `addresses`, in their order.
    pub ready: Box<[Endpoint]>,
    /// `notReadyAddresses`, in their order.
    pub not_ready: Box<[Endpoint]>,
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Empty when it has none.
    pub name: Arc<str>,
    /// `None` stands for every port.
    pub number: Option<i32>,
}

/// One endpoint of a slice or subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address, which alone has a meaning (discovery/v1).
    pub address: Address,
    /// What its conditions say.
    pub class: Class,
    /// Name of the pod.
    pub pod: Option<Arc<str>>,
    /// `targetRef.uid`, not empty.
    pub uid: Option<Arc<str>>,
}

/// An address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IP address, as written: one of IPv4 inside IPv6 is IPv6.
    Ip(IpAddr),
    /// Something else.
    Text(Box<str>),
    /// The endpoint has no address.
    Missing,
}

impl Address {
    fn parse(text: String) -> Self {
        text.parse().map_or_else(|_| Self::Text(text.into()), Self::Ip)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Missing => Ok(()),
        }
    }
}

/// What an endpoint may be used for; the lesser is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A: ready and not terminating. New requests.
    Ready,
    /// B: serving while it terminates. New requests when nothing is ready.
    Serving,
    /// C: neither.
    Unusable,
}

impl Class {
    /// The class by the conditions of a slice; those not stated mean ready, serving and not terminating (discovery/v1).
    #[must_use]
    pub fn of(conditions: Option<&discovery::EndpointConditions>) -> Self {
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        match (ready, serving, terminating) {
            (true, _, false) => Self::Ready,
            (_, true, true) => Self::Serving,
            (false, _, false) | (_, false, true) => Self::Unusable,
        }
    }
}

impl From<discovery::EndpointSlice> for EndpointSlice {
    fn from(object: discovery::EndpointSlice) -> Self {
        let labels = object.metadata.labels.as_ref();
        let is_foreign = !matches!(object.address_type.as_str(), "IPv4" | "IPv6");
        let endpoint = |endpoint: discovery::Endpoint| {
            let class = Class::of(endpoint.conditions.as_ref());
            Endpoint::new(endpoint.addresses.into_iter().next(), class, endpoint.target_ref.as_ref())
        };
        Self {
            service: labels.and_then(|labels| labels.get(SERVICE_NAME)).map(|name| name.as_str().into()),
            foreign_type: is_foreign.then(|| object.address_type.into()),
            ports: object.ports.into_iter().flatten().map(|port| EndpointPort::new(port.name, port.port)).collect(),
            endpoints: object.endpoints.into_iter().flatten().map(endpoint).collect(),
        }
    }
}

impl From<core::Endpoints> for Endpoints {
    fn from(object: core::Endpoints) -> Self {
        let list = |addresses: Option<Vec<core::EndpointAddress>>, class| {
            let addresses = addresses.into_iter().flatten();
            addresses.map(|address| Endpoint::new(Some(address.ip), class, address.target_ref.as_ref())).collect()
        };
        let subset = |subset: core::EndpointSubset| Subset {
            ports: subset.ports.into_iter().flatten().map(|it| EndpointPort::new(it.name, Some(it.port))).collect(),
            ready: list(subset.addresses, Class::Ready),
            not_ready: list(subset.not_ready_addresses, Class::Unusable),
        };
        Self { subsets: object.subsets.into_iter().flatten().map(subset).collect() }
    }
}

impl EndpointPort {
    fn new(name: Option<String>, number: Option<i32>) -> Self {
        Self { name: name.unwrap_or_default().into(), number }
    }
}

impl Endpoint {
    fn new(address: Option<String>, class: Class, target: Option<&core::ObjectReference>) -> Self {
        let uid = target.and_then(|target| target.uid.as_deref()).filter(|uid| !uid.is_empty());
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|pod| pod.name.as_deref());
        Self {
            address: address.map_or(Address::Missing, Address::parse),
            class,
            pod: pod.map(Arc::from),
            uid: uid.map(Arc::from),
        }
    }
}
