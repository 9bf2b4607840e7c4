//! Endpoints of a Service port from EndpointSlices and core Endpoints.
//!
//! One union over all slices of a Service, keyed by address, port and pod. New requests use class A (ready and not
//! terminating); when A is empty class B (serving while it terminates), as kube-proxy does; the rest never. Beside A, B
//! still has the requests of its sessions. Clockless:
//! whoever holds a vanished endpoint for a while does so before this stage.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::diagnostics::{Diagnostic, Severity};
use super::inputs::{Inputs, OwnPlace};
use crate::kinds::endpoint::{self, Address, Class, EndpointPort, Place};
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::endpoints::Endpoints;
use crate::kinds::service::{Service, ServicePort};
use crate::kinds::{Kind, Map, ObjectRef, Origin, Sourced};
use crate::model::backend::{Endpoint, Near};
use crate::model::ids::{EndpointKey, ObjectName};

/// A slice that belongs to a Service.
struct OfService<'a> {
    service: &'a str,
    name: &'a ObjectName,
    slice: &'a Sourced<EndpointSlice>,
}

impl OfService<'_> {
    /// Where its Service stands before or behind another one.
    fn cmp(&self, namespace: &str, service: &str) -> Ordering {
        self.name.namespace.as_ref().cmp(namespace).then_with(|| self.service.cmp(service))
    }
}

/// Slices by the Service that they belong to, gone through once per compilation: in the order of Services.
pub(super) struct EndpointIndex<'a> {
    /// Sorted by namespace and Service, then by name.
    slices: Vec<OfService<'a>>,
    /// The first slice that does not belong to a Service before the last one that was asked for.
    next: usize,
    legacy: &'a Map<Endpoints>,
    allow_loopback: bool,
    own_services: &'a BTreeSet<ObjectName>,
    own_place: &'a OwnPlace,
    /// What one Service has; empty between two.
    found: Vec<(Key<'a>, SliceEndpoint<'a>)>,
}

impl<'a> EndpointIndex<'a> {
    /// Of the Services that are `wanted`, by namespace and name.
    pub(super) fn new(inputs: &'a Inputs, wanted: impl Fn(&Arc<str>, &Arc<str>) -> bool) -> Self {
        let mut slices = Vec::new();
        for (name, slice) in &inputs.objects.slices {
            let service = slice.object.service.as_ref().filter(|service| wanted(&name.namespace, service));
            slices.extend(service.map(|service| OfService { service, name, slice }));
        }
        slices.sort_by(|a, b| a.cmp(&b.name.namespace, b.service));
        let (legacy, allow_loopback) = (&inputs.objects.endpoints, inputs.allow_loopback_endpoints);
        let (own_services, own_place) = (&*inputs.own_services, &inputs.place);
        Self { slices, next: 0, legacy, allow_loopback, own_services, own_place, found: Vec::new() }
    }

    /// The usable endpoints of a Service port, sorted by key; what is strange about them goes to `diagnostics`.
    ///
    /// Cheap when Services are asked for in the order of their names: each goes on where the one before ended.
    pub(super) fn endpoints(
        &mut self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> OfBackend {
        let place = |slice: &OfService<'_>| slice.cmp(&name.namespace, &name.name);
        if self.next.checked_sub(1).is_some_and(|before| place(&self.slices[before]).is_ge()) {
            self.next = 0;
        }
        self.next += self.slices[self.next..].iter().take_while(|slice| place(slice).is_lt()).count();
        let mut slices = self.slices[self.next..].iter().take_while(|slice| place(slice).is_eq()).peekable();
        let found = &mut self.found;
        let allow_loopback = self.allow_loopback || self.own_services.contains(name);
        let mut union = Union { found, allow_loopback, diagnostics };
        if slices.peek().is_some() {
            slices.for_each(|of_service| union.add_slice(of_service.name, of_service.slice, port));
        } else if !service.has_selector
            && let Some(endpoints) = self.legacy.get(name)
        {
            // A Service with a selector has the slices of the controller or none; Endpoints of others are mirrored into
            // slices where a controller does that, and are read here where none does.
            union.add_legacy(name, endpoints, port, service.publishes_not_ready);
        }
        take_endpoints(&mut self.found, service.prefers_ipv6, self.own_place)
    }
}

/// The endpoints of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OfBackend {
    /// Those that new requests may use, sorted by key.
    pub(super) used: Arc<[Endpoint]>,
    /// Those that only their sessions use, sorted by key.
    pub(super) draining: Arc<[Endpoint]>,
}

/// The union over slices; a key may stand there twice until the end.
struct Union<'a, 'd> {
    found: &'d mut Vec<(Key<'a>, SliceEndpoint<'a>)>,
    allow_loopback: bool,
    diagnostics: &'d mut Vec<Diagnostic>,
}

/// Address and port, and the uid of the pod.
type Key<'a> = (SocketAddr, Option<&'a Arc<str>>);

/// One address of one pod, before the families are told apart.
#[derive(Clone, Copy)]
struct SliceEndpoint<'a> {
    class: Class,
    /// Name of the pod.
    pod: Option<&'a Arc<str>>,
    place: Option<&'a Place>,
}

impl SliceEndpoint<'_> {
    fn has_hints(&self) -> bool {
        self.place.is_some_and(|place| !place.for_zones.is_empty() || !place.for_nodes.is_empty())
    }

    /// In which ways it is near `own`.
    fn near(&self, own: &OwnPlace) -> Near {
        let Some(place) = self.place else { return Near::default() };
        let (zone, node) = (own.zone.as_deref(), own.node.as_deref());
        let is_for =
            |names: &[Box<str>], own: Option<&str>| own.is_some_and(|own| names.iter().any(|name| **name == *own));
        Near::of([
            (Near::HINTED_NODE, is_for(&place.for_nodes, node)),
            (Near::HINTED_ZONE, is_for(&place.for_zones, zone)),
            (Near::ZONE, zone.is_some() && place.zone.as_deref() == zone),
            (Near::NODE, node.is_some() && place.node.as_deref() == node),
        ])
    }
}

impl<'a> Union<'a, '_> {
    fn add_slice(&mut self, name: &ObjectName, slice: &'a Sourced<EndpointSlice>, service_port: &ServicePort) {
        let subject = (EndpointSlice::NAME, name, slice.origin.as_deref());
        let object = &*slice.object;
        if let Some(address_type) = &object.foreign_type {
            let found = address_type.to_string();
            self.warn(subject, "addressType".to_owned(), found, "IPv4 or IPv6", "the slice is ignored");
            return;
        }
        for (index, endpoint) in object.endpoints.iter().enumerate() {
            let place = || format!("endpoints[{index}].addresses[0]");
            let Some(ip) = self.usable(subject, place, &endpoint.address) else { continue };
            self.add(ip, endpoint, endpoint.class, &object.ports, service_port);
        }
        self.check_ports(subject, "ports", &object.ports, service_port);
    }

    fn add_legacy(
        &mut self,
        name: &ObjectName,
        endpoints: &'a Sourced<Endpoints>,
        service_port: &ServicePort,
        publish_not_ready: bool,
    ) {
        let subject = (Endpoints::NAME, name, endpoints.origin.as_deref());
        for (index, subset) in endpoints.object.subsets.iter().enumerate() {
            for (field, list) in [("addresses", &subset.ready), ("notReadyAddresses", &subset.not_ready)] {
                for (position, endpoint) in list.iter().enumerate() {
                    let place = || format!("subsets[{index}].{field}[{position}].ip");
                    let Some(ip) = self.usable(subject, place, &endpoint.address) else { continue };
                    let class = if publish_not_ready { Class::Ready } else { endpoint.class };
                    self.add(ip, endpoint, class, &subset.ports, service_port);
                }
            }
            self.check_ports(subject, &format!("subsets[{index}].ports"), &subset.ports, service_port);
        }
    }

    /// The address as requests may use it, or `None`: after a warning, unless there is no address.
    fn usable(
        &mut self,
        subject: (&'static str, &ObjectName, Option<&Origin>),
        place: impl Fn() -> String,
        address: &Address,
    ) -> Option<IpAddr> {
        let expected = match address {
            Address::Missing => return None,
            Address::Text(_) => "an IP address",
            Address::Ip(written) => {
                let ip = written.to_canonical();
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
        self.warn(subject, place(), address.to_string(), expected, "it is left out, the other addresses serve");
        None
    }

    /// Adds an endpoint at each of its ports that is the Service's.
    fn add(
        &mut self,
        ip: IpAddr,
        endpoint: &'a endpoint::Endpoint,
        class: Class,
        ports: &[EndpointPort],
        service_port: &ServicePort,
    ) {
        for port in ports.iter().filter(|port| port.name == service_port.name) {
            // A port without a number stands for every port: then the Service says which.
            let Some(number) = port_number(port.number.unwrap_or(service_port.target)) else { continue };
            let key = (SocketAddr::new(ip, number), endpoint.uid.as_ref());
            self.found
                .push((key, SliceEndpoint { class, pod: endpoint.pod.as_ref(), place: endpoint.place.as_deref() }));
        }
    }

    /// Warns of ports of the Service that no endpoint can have.
    fn check_ports(
        &mut self,
        subject: (&'static str, &ObjectName, Option<&Origin>),
        path: &str,
        ports: &[EndpointPort],
        service_port: &ServicePort,
    ) {
        for (index, port) in ports.iter().enumerate().filter(|(_, port)| port.name == service_port.name) {
            if let Some(number) = port.number.filter(|number| port_number(*number).is_none()) {
                let place = format!("{path}[{index}].port");
                self.warn(subject, place, number.to_string(), "1 to 65535", "its endpoints are left out at this port");
            }
        }
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
            object: Some(ObjectRef { kind, name: name.clone() }),
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

/// Takes the best class that has an endpoint, and what terminates beside it.
fn take_endpoints(found: &mut Vec<(Key<'_>, SliceEndpoint<'_>)>, prefer_ipv6: bool, own: &OwnPlace) -> OfBackend {
    // The better class wins where a key stands twice.
    found.sort_unstable_by(|(a, of_a), (b, of_b)| a.cmp(b).then(of_a.class.cmp(&of_b.class)));
    found.dedup_by(|(later, _), (first, _)| later == first);
    let has = |class| found.iter().any(|(_, found)| found.class == class);
    let (has_ready, has_serving) = (has(Class::Ready), has(Class::Serving));
    let best = if has_ready { Class::Ready } else { Class::Serving };
    let draining = if has_ready && has_serving {
        let mut serving = found.iter().filter(|(_, found)| found.class == Class::Serving).copied().collect();
        one_address_a_pod(&mut serving, prefer_ipv6, own)
    } else {
        Arc::default()
    };
    found.retain(|(_, found)| found.class == best);
    OfBackend { used: one_address_a_pod(found, prefer_ipv6, own), draining }
}

/// Takes one address a pod: of the preferred family where it has one.
fn one_address_a_pod(
    found: &mut Vec<(Key<'_>, SliceEndpoint<'_>)>,
    prefer_ipv6: bool,
    own: &OwnPlace,
) -> Arc<[Endpoint]> {
    // Hints hold together or not at all: one endpoint without them may be the only one for its zone.
    let has_hints = found.iter().all(|(_, found)| found.has_hints());
    let endpoint = |((addr, uid), found): (Key<'_>, SliceEndpoint<'_>), fallback| Endpoint {
        key: EndpointKey { addr, uid: uid.cloned() },
        fallback: Option::map(fallback, Box::new),
        pod: found.pod.cloned(),
        terminating: found.class == Class::Serving,
        near: if has_hints { found.near(own) } else { found.near(own).without_hints() },
    };
    let is_ipv6 = |((addr, _), _): &(Key<'_>, SliceEndpoint<'_>)| addr.is_ipv6();
    if found.iter().all(is_ipv6) || !found.iter().any(is_ipv6) {
        return found.drain(..).map(|found| endpoint(found, None)).collect();
    }
    // By pod and port: its first address of the preferred family, and of the other.
    let mut families: FxHashMap<(&str, u16), [Option<SocketAddr>; 2]> = FxHashMap::default();
    for one in found.iter() {
        let ((addr, _), _) = *one;
        if let Some(identity) = identity(*one) {
            let pair = families.entry((identity, addr.port())).or_default();
            pair[usize::from(addr.is_ipv6() != prefer_ipv6)].get_or_insert(addr);
        }
    }
    let endpoints = found.drain(..).filter_map(|one| {
        let ((addr, _), _) = one;
        let pair = identity(one).and_then(|identity| families.get(&(identity, addr.port())));
        let [preferred, other] = pair.copied().unwrap_or_default();
        let is_preferred = addr.is_ipv6() == prefer_ipv6;
        // The other address of a pod that has a preferred one would count the pod twice.
        (is_preferred || preferred.is_none()).then(|| endpoint(one, other.filter(|_| is_preferred)))
    });
    endpoints.collect()
}

/// What two addresses of one pod have in common: uid, else name.
fn identity<'a>(((_, uid), found): (Key<'a>, SliceEndpoint<'a>)) -> Option<&'a str> {
    uid.or(found.pod).map(|identity| &**identity)
}

#[cfg(test)]
mod tests;
