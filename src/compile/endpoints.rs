//! Endpoints of a Service port from EndpointSlices and core Endpoints.
//!
//! One union over all slices of a Service, keyed by address, port and pod. New requests use class A (ready and not
//! terminating); when A is empty class B (serving while it terminates), as kube-proxy does; the rest never. Clockless:
//! whoever holds a vanished endpoint for a while does so before this stage.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustc_hash::FxHashMap;

use super::diagnostics::{Diagnostic, ObjectRef, Origin, Severity};
use super::inputs::{Inputs, Sourced};
use crate::model::backend::Endpoint;
use crate::model::ids::{EndpointKey, ObjectName};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

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
    pub fn of(conditions: Option<&EndpointConditions>) -> Self {
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

type NamedSlice<'a> = (&'a ObjectName, &'a Sourced<EndpointSlice>);

/// Slices by the Service that they belong to, found once a compilation.
pub(super) struct EndpointIndex<'a> {
    /// By namespace and name of the Service.
    slices: FxHashMap<(&'a str, &'a str), Vec<NamedSlice<'a>>>,
    legacy: &'a BTreeMap<ObjectName, Sourced<Endpoints>>,
    allow_loopback: bool,
}

impl<'a> EndpointIndex<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let mut slices: FxHashMap<(&str, &str), Vec<_>> = FxHashMap::default();
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
        let mut union = Union { found: Vec::new(), allow_loopback: self.allow_loopback, diagnostics };
        let spec = service.spec.as_ref();
        let has_selector = spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty());
        match self.slices.get(&(&*name.namespace, &*name.name)) {
            Some(slices) => slices.iter().for_each(|(name, slice)| union.add_slice(name, slice, port)),
            // A Service with a selector has the slices of the controller or none; Endpoints of others are mirrored into
            // slices where a controller does that, and are read here where none does.
            None if has_selector => {}
            None => {
                let publish = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
                if let Some(endpoints) = self.legacy.get(name) {
                    union.add_legacy(name, endpoints, port, publish);
                }
            }
        }
        let families = spec.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
        union.into_endpoints(families.first().is_some_and(|family| family == "IPv6"))
    }
}

/// The union over slices; a key may stand there twice until the end.
struct Union<'a, 'd> {
    found: Vec<(Key<'a>, Found<'a>)>,
    allow_loopback: bool,
    diagnostics: &'d mut Vec<Diagnostic>,
}

/// Address and port, and the uid of the pod.
type Key<'a> = (SocketAddr, Option<&'a str>);

/// One address of one pod, before the families are told apart.
#[derive(Clone, Copy)]
struct Found<'a> {
    class: Class,
    /// Name of the pod.
    pod: Option<&'a str>,
    /// What two addresses of one pod have in common: uid, else name.
    identity: Option<&'a str>,
}

impl<'a> Union<'a, '_> {
    fn add_slice(&mut self, name: &ObjectName, slice: &'a Sourced<EndpointSlice>, service_port: &ServicePort) {
        let subject = ("EndpointSlice", name, slice.origin.as_ref());
        let object = &*slice.object;
        if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
            let expected = "IPv4 or IPv6";
            self.warn(subject, "addressType".to_owned(), object.address_type.clone(), expected, "the slice is ignored");
            return;
        }
        let wanted = service_port.name.as_deref().unwrap_or_default();
        let ports = object.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or_default() == wanted);
        // A port without a number stands for every port: then the Service says which.
        let number = |port: Option<i32>| port_number(port.unwrap_or_else(|| target_port(service_port)));
        let numbers: Vec<u16> = ports.filter_map(|port| number(port.port)).collect();
        for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
            // Only the first address has a meaning (discovery/v1).
            let Some(address) = endpoint.addresses.first() else { continue };
            let place = || format!("endpoints[{index}].addresses[0]");
            let Some(ip) = self.usable(subject, place, address) else { continue };
            let class = Class::of(endpoint.conditions.as_ref());
            for number in &numbers {
                self.add(SocketAddr::new(ip, *number), class, endpoint.target_ref.as_ref());
            }
        }
    }

    fn add_legacy(
        &mut self,
        name: &ObjectName,
        endpoints: &'a Sourced<Endpoints>,
        service_port: &ServicePort,
        publish_not_ready: bool,
    ) {
        let subject = ("Endpoints", name, endpoints.origin.as_ref());
        let wanted = service_port.name.as_deref().unwrap_or_default();
        let not_ready = if publish_not_ready { Class::Ready } else { Class::Unusable };
        for (index, subset) in endpoints.object.subsets.iter().flatten().enumerate() {
            let ports = subset.ports.iter().flatten().filter(|port| port.name.as_deref().unwrap_or_default() == wanted);
            let numbers: Vec<u16> = ports.filter_map(|port| port_number(port.port)).collect();
            let lists = [
                ("addresses", &subset.addresses, Class::Ready),
                ("notReadyAddresses", &subset.not_ready_addresses, not_ready),
            ];
            for (field, list, class) in lists {
                for (position, address) in list.iter().flatten().enumerate() {
                    let place = || format!("subsets[{index}].{field}[{position}].ip");
                    let Some(ip) = self.usable(subject, place, &address.ip) else { continue };
                    for number in &numbers {
                        self.add(SocketAddr::new(ip, *number), class, address.target_ref.as_ref());
                    }
                }
            }
        }
    }

    /// The address as requests may use it, or `None` after a warning.
    fn usable(
        &mut self,
        subject: (&'static str, &ObjectName, Option<&Origin>),
        place: impl Fn() -> String,
        text: &str,
    ) -> Option<IpAddr> {
        let expected = match text.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Err(_) => "an IP address",
            Ok(ip) => {
                let (link_local, broadcast) = match ip {
                    IpAddr::V4(ip) => (ip.is_link_local(), ip.is_broadcast()),
                    IpAddr::V6(ip) => (ip.is_unicast_link_local(), false),
                };
                if ip.is_unspecified() || ip.is_multicast() || broadcast {
                    "the address of one host"
                } else if !self.allow_loopback && (ip.is_loopback() || link_local) {
                    "an address that is neither loopback nor link-local"
                } else {
                    return Some(ip);
                }
            }
        };
        self.warn(subject, place(), text.to_owned(), expected, "it is left out, the other addresses serve");
        None
    }

    fn add(&mut self, addr: SocketAddr, class: Class, target: Option<&'a ObjectReference>) {
        let uid = target.and_then(|target| target.uid.as_deref()).filter(|uid| !uid.is_empty());
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|pod| pod.name.as_deref());
        self.found.push(((addr, uid), Found { class, pod, identity: uid.or(pod) }));
    }

    /// Takes the best class that has an endpoint, and one address a pod: of the preferred family where it has one.
    fn into_endpoints(self, prefer_ipv6: bool) -> Arc<[Endpoint]> {
        let mut found = self.found;
        // The better class wins where a key stands twice.
        found.sort_unstable_by(|(a, of_a), (b, of_b)| a.cmp(b).then(of_a.class.cmp(&of_b.class)));
        found.dedup_by(|(later, _), (first, _)| later == first);
        let best = found.iter().map(|(_, found)| found.class).min().unwrap_or(Class::Unusable);
        if best == Class::Unusable {
            return Arc::from([]);
        }
        found.retain(|(_, found)| found.class == best);
        // By pod and port: its first address of the preferred family, and of the other.
        let mut families: FxHashMap<(&str, u16), [Option<SocketAddr>; 2]> = FxHashMap::default();
        let has_both =
            found.iter().any(|((addr, _), _)| addr.is_ipv4()) && found.iter().any(|((addr, _), _)| addr.is_ipv6());
        for ((addr, _), found) in found.iter().filter(|_| has_both) {
            if let Some(identity) = found.identity {
                let pair = families.entry((identity, addr.port())).or_default();
                pair[usize::from(addr.is_ipv6() != prefer_ipv6)].get_or_insert(*addr);
            }
        }
        let endpoint = |((addr, uid), found): (Key<'_>, Found<'_>)| {
            let pair = found.identity.and_then(|identity| families.get(&(identity, addr.port())));
            let [preferred, other] = pair.copied().unwrap_or_default();
            let is_preferred = addr.is_ipv6() == prefer_ipv6;
            // The other address of a pod that has a preferred one would count the pod twice.
            (is_preferred || preferred.is_none()).then(|| Endpoint {
                key: EndpointKey { addr, uid: uid.map(Arc::from) },
                fallback: other.filter(|_| is_preferred),
                pod: found.pod.map(Arc::from),
            })
        };
        found.into_iter().filter_map(endpoint).collect()
    }

    fn warn(
        &mut self,
        (kind, name, origin): (&'static str, &ObjectName, Option<&Origin>),
        path: String,
        found: String,
        expected: &str,
        effect: &str,
    ) {
        self.diagnostics.push(Diagnostic {
            object: Some(ObjectRef { kind: kind.into(), name: name.clone() }),
            origin: origin.cloned(),
            path,
            severity: Severity::Warning,
            reason: "AddressNotUsable",
            found,
            expected: expected.to_owned(),
            effect: effect.to_owned(),
        });
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

#[cfg(test)]
mod tests;
