//! Endpoints of a Service port from EndpointSlices and core Endpoints.
//!
//! One union over all slices of a Service, keyed by address, port and pod. New requests use class A (ready and not
//! terminating); when A is empty class B (serving while it terminates), as kube-proxy does; the rest never. Clockless:
//! whoever holds a vanished endpoint for a while does so before this stage.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::diagnostics::{Diagnostic, ObjectRef, Severity};
use super::inputs::{Inputs, Sourced};
use crate::model::backend::Endpoint;
use crate::model::ids::{EndpointKey, ObjectName};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What an endpoint may be used for; the lesser is the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Ready and not terminating: new requests.
    Ready,
    /// Serving while it terminates: new requests when nothing is ready.
    Serving,
    /// Neither.
    Unusable,
}

/// One address of one pod, before the families are told apart.
#[derive(Clone, Debug)]
struct Found {
    class: Class,
    pod: Option<Arc<str>>,
}

/// Slices by the Service that they belong to, found once a compilation.
pub(super) struct EndpointIndex<'a> {
    slices: HashMap<(&'a str, &'a str), Vec<(&'a ObjectName, &'a Sourced<EndpointSlice>)>>,
    legacy: &'a BTreeMap<ObjectName, Sourced<Endpoints>>,
    allow_loopback: bool,
}

impl<'a> EndpointIndex<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let mut slices: HashMap<(&str, &str), Vec<_>> = HashMap::new();
        for (name, slice) in &inputs.slices {
            let labels = slice.object.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) {
                slices.entry((&name.namespace, service.as_str())).or_default().push((name, slice));
            }
        }
        Self { slices, legacy: &inputs.endpoints, allow_loopback: inputs.allow_loopback_endpoints }
    }

    /// The usable endpoints of a Service port, sorted by key; what is strange about them goes to `diagnostics`.
    pub(super) fn endpoints(
        &self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Arc<[Endpoint]> {
        let mut union = Union { found: BTreeMap::new(), pods: HashMap::new(), allow_loopback: self.allow_loopback };
        match self.slices.get(&(&*name.namespace, &*name.name)) {
            Some(slices) => {
                for (slice_name, slice) in slices {
                    union.add_slice(slice_name, slice, port, diagnostics);
                }
            }
            // A Service with a selector has slices of the controller's; hand-written Endpoints would be mirrored there.
            None if selectorless(service) => {
                if let Some(endpoints) = self.legacy.get(name) {
                    union.add_legacy(name, endpoints, port, publishes_not_ready(service), diagnostics);
                }
            }
            None => {}
        }
        union.into_endpoints(prefers_ipv6(service))
    }
}

fn selectorless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_none_or(BTreeMap::is_empty)
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

fn prefers_ipv6(service: &Service) -> bool {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    families.and_then(|families| families.first()).is_some_and(|family| family == "IPv6")
}

/// The union over slices, the better class winning where a key stands twice.
struct Union {
    found: BTreeMap<EndpointKey, Found>,
    /// Which pod an address belongs to, to pair the families: uid, else kind and name of the target.
    pods: HashMap<EndpointKey, String>,
    allow_loopback: bool,
}

impl Union {
    fn add_slice(
        &mut self,
        name: &ObjectName,
        slice: &Sourced<EndpointSlice>,
        service_port: &ServicePort,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let object = &slice.object;
        if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
            diagnostics.push(warning(
                ("EndpointSlice", name),
                slice,
                "addressType".to_owned(),
                object.address_type.clone(),
                "IPv4 or IPv6",
            ));
            return;
        }
        let wanted = service_port.name.as_deref().unwrap_or("");
        let ports = object.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or("") == wanted);
        // A port without a number stands for every port: then the Service says which.
        let numbers: Vec<u16> =
            ports.filter_map(|port| port_number(port.port.unwrap_or_else(|| target_port(service_port)))).collect();
        for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
            let Some(address) = endpoint.addresses.first() else { continue };
            let ip = match self.usable(address) {
                Ok(ip) => ip,
                Err(expected) => {
                    let path = format!("endpoints[{index}].addresses[0]");
                    diagnostics.push(warning(("EndpointSlice", name), slice, path, address.clone(), expected));
                    continue;
                }
            };
            for number in &numbers {
                self.add(SocketAddr::new(ip, *number), class(endpoint), endpoint.target_ref.as_ref());
            }
        }
    }

    fn add_legacy(
        &mut self,
        name: &ObjectName,
        endpoints: &Sourced<Endpoints>,
        service_port: &ServicePort,
        publish_not_ready: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let wanted = service_port.name.as_deref().unwrap_or("");
        for (index, subset) in endpoints.object.subsets.iter().flatten().enumerate() {
            let ports = subset.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or("") == wanted);
            let numbers: Vec<u16> = ports.filter_map(|port| port_number(port.port)).collect();
            let late = if publish_not_ready { Class::Ready } else { Class::Unusable };
            let lists: [(&str, &Option<Vec<EndpointAddress>>, Class); 2] = [
                ("addresses", &subset.addresses, Class::Ready),
                ("notReadyAddresses", &subset.not_ready_addresses, late),
            ];
            for (field, list, class) in lists {
                for (position, address) in list.iter().flatten().enumerate() {
                    let ip = match self.usable(&address.ip) {
                        Ok(ip) => ip,
                        Err(expected) => {
                            let path = format!("subsets[{index}].{field}[{position}].ip");
                            let object = ("Endpoints", name);
                            diagnostics.push(warning(object, endpoints, path, address.ip.clone(), expected));
                            continue;
                        }
                    };
                    for number in &numbers {
                        self.add(SocketAddr::new(ip, *number), class, address.target_ref.as_ref());
                    }
                }
            }
        }
    }

    /// The address as requests may use it, or what was expected of it.
    fn usable(&self, text: &str) -> Result<IpAddr, &'static str> {
        let ip: IpAddr = text.parse().map_err(|_| "an IP address")?;
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(ip) if ip.is_broadcast()) {
            return Err("an address of one host");
        }
        if !self.allow_loopback && (ip.to_canonical().is_loopback() || link_local) {
            return Err("an address that is neither loopback nor link-local");
        }
        Ok(ip)
    }

    fn add(&mut self, addr: SocketAddr, class: Class, target: Option<&ObjectReference>) {
        let uid = target.and_then(|target| target.uid.as_deref()).filter(|uid| !uid.is_empty());
        let key = EndpointKey { addr, uid: uid.map(Arc::from) };
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|pod| pod.name.as_deref());
        let pair = uid.map(str::to_owned).or_else(|| pod.map(|name| format!("Pod {name}")));
        if let Some(pair) = pair {
            self.pods.insert(key.clone(), pair);
        }
        let found = Found { class, pod: pod.map(Arc::from) };
        self.found.entry(key).and_modify(|known| known.class = known.class.min(class)).or_insert(found);
    }

    /// Takes the best class that has an endpoint, and one address a pod: of the preferred family where it has one.
    fn into_endpoints(self, prefer_ipv6: bool) -> Arc<[Endpoint]> {
        let Self { found, pods, .. } = self;
        let best = found.values().map(|found| found.class).min().unwrap_or(Class::Unusable);
        if best == Class::Unusable {
            return Arc::from([]);
        }
        let chosen: Vec<(EndpointKey, Found)> = found.into_iter().filter(|(_, found)| found.class == best).collect();
        let preferred = |key: &EndpointKey| key.addr.is_ipv6() == prefer_ipv6;
        // Pod and port have at most one address a family here: slices hold one address a pod.
        let mut fallbacks: HashMap<&str, Vec<SocketAddr>> = HashMap::new();
        let mut has_preferred: HashMap<(&str, u16), ()> = HashMap::new();
        for (key, _) in &chosen {
            let Some(pod) = pods.get(key) else { continue };
            if preferred(key) {
                has_preferred.insert((pod, key.addr.port()), ());
            } else {
                fallbacks.entry(pod).or_default().push(key.addr);
            }
        }
        chosen
            .iter()
            .filter(|(key, _)| {
                let paired =
                    pods.get(key).is_some_and(|pod| has_preferred.contains_key(&(pod.as_str(), key.addr.port())));
                preferred(key) || !paired
            })
            .map(|(key, found)| {
                let others = pods.get(key).filter(|_| preferred(key)).and_then(|pod| fallbacks.get(pod.as_str()));
                let same_port = |addr: &&SocketAddr| addr.port() == key.addr.port();
                let fallback = others.and_then(|others| others.iter().find(same_port)).copied();
                Endpoint { key: key.clone(), fallback, pod: found.pod.clone() }
            })
            .collect()
    }
}

/// Conditions that are not stated: ready and serving are true, terminating is false (discovery/v1).
fn class(endpoint: &SliceEndpoint) -> Class {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(true);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, serving, terminating) {
        (true, _, false) => Class::Ready,
        (_, true, true) => Class::Serving,
        _ => Class::Unusable,
    }
}

fn port_number(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number > 0)
}

/// The number that a Service port leads to when a slice names none; a named target port is resolved in slices only.
fn target_port(port: &ServicePort) -> i32 {
    match &port.target_port {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(_)) | None => port.port,
    }
}

fn warning<T>(
    (kind, name): (&str, &ObjectName),
    source: &Sourced<T>,
    path: String,
    found: String,
    expected: &str,
) -> Diagnostic {
    Diagnostic {
        object: Some(ObjectRef { kind: kind.into(), name: name.clone() }),
        origin: source.origin.clone(),
        path,
        severity: Severity::Warning,
        reason: "AddressNotUsable",
        found,
        expected: expected.to_owned(),
        effect: "it is left out, the other addresses serve".to_owned(),
    }
}
