//! EndpointSlice: the endpoints of a Service.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde_json::Value;

use super::distinct::Distinct;
use super::endpoint::{Class, Endpoint, EndpointPort, Place};
use super::kind::{Kind, schema_of};
use super::violation::{PROTOCOLS, Violation, check_name, check_port};

/// The label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "discovery::EndpointSlice")]
pub struct EndpointSlice {
    /// Name of the Service that it belongs to, by the label [`SERVICE_NAME`].
    pub service: Option<Arc<str>>,
    /// `addressType`, where it is another than IPv4 and IPv6.
    pub foreign_type: Option<Box<str>>,
    /// `ports`, in their order. Slices with equal lists mostly share them.
    pub ports: Arc<[EndpointPort]>,
    /// `endpoints`, in their order.
    pub endpoints: Box<[Endpoint]>,
}

impl From<discovery::EndpointSlice> for EndpointSlice {
    fn from(object: discovery::EndpointSlice) -> Self {
        let labels = object.metadata.labels.as_ref();
        let is_foreign = !matches!(object.address_type.as_str(), "IPv4" | "IPv6");
        let endpoint = |endpoint: discovery::Endpoint| {
            let class = Class::of(endpoint.conditions.as_ref());
            let place = Place::new(endpoint.zone, endpoint.node_name, endpoint.hints);
            Endpoint {
                place,
                ..Endpoint::new(endpoint.addresses.into_iter().next(), class, endpoint.target_ref.as_ref())
            }
        };
        Self {
            service: labels.and_then(|labels| labels.get(SERVICE_NAME)).map(|name| name.as_str().into()),
            foreign_type: is_foreign.then(|| object.address_type.into()),
            ports: object.ports.into_iter().flatten().map(|port| EndpointPort::new(port.name, port.port)).collect(),
            endpoints: object.endpoints.into_iter().flatten().map(endpoint).collect(),
        }
    }
}

/// What many slices have in common, each held once: the places of endpoints, of which there are as many as nodes, and
/// lists of ports.
#[derive(Debug, Default)]
pub struct SliceParts {
    places: Distinct<Place>,
    ports: Distinct<[EndpointPort]>,
}

impl SliceParts {
    /// Lets a slice share what it has in common with those that came before.
    pub fn share(&mut self, slice: &mut EndpointSlice) {
        slice.ports = self.ports.get(Arc::clone(&slice.ports));
        for place in slice.endpoints.iter_mut().filter_map(|endpoint| endpoint.place.as_mut()) {
            *place = self.places.get(Arc::clone(place));
        }
        self.places.prune();
        self.ports.prune();
    }
}

impl Kind for EndpointSlice {
    const NAME: &'static str = "EndpointSlice";
    const API_VERSIONS: &'static [&'static str] = &["discovery.k8s.io/v1"];

    type Manifest = discovery::EndpointSlice;

    fn schema() -> Value {
        schema_of::<discovery::EndpointSlice>()
    }

    fn check(manifest: &discovery::EndpointSlice) -> Vec<Violation> {
        check_slice(manifest)
    }

    fn reduce(manifest: discovery::EndpointSlice) -> Self {
        manifest.into()
    }
}

/// The API server's bounds for EndpointSlices.
const MOST_ENDPOINTS: usize = 1000;
const MOST_SLICE_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

fn check_slice(slice: &discovery::EndpointSlice) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_name("addressType".to_owned(), Some(&slice.address_type), &["IPv4", "IPv6", "FQDN"], &mut violations);
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            check_port(format!("ports[{index}].port"), number, &mut violations);
        }
        check_name(format!("ports[{index}].protocol"), port.protocol.as_deref(), PROTOCOLS, &mut violations);
    }
    let mut at_most = |path: &str, count: usize, most: usize| {
        if count > most {
            violations.push(Violation::new(path, format!("{count} items"), format!("at most {most} items")));
        }
    };
    at_most("ports", slice.ports.as_ref().map_or(0, Vec::len), MOST_SLICE_PORTS);
    at_most("endpoints", slice.endpoints.as_ref().map_or(0, Vec::len), MOST_ENDPOINTS);
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if !(1..=MOST_ADDRESSES).contains(&endpoint.addresses.len()) {
            violations.push(Violation::new(
                &path,
                format!("{} items", endpoint.addresses.len()),
                format!("1 to {MOST_ADDRESSES} items"),
            ));
        }
        for (position, address) in endpoint.addresses.iter().enumerate() {
            let (good, expected) = match slice.address_type.as_str() {
                "IPv4" => (address.parse::<Ipv4Addr>().is_ok(), "an IPv4 address, as addressType says"),
                "IPv6" => (address.parse::<Ipv6Addr>().is_ok(), "an IPv6 address, as addressType says"),
                _ => (true, ""),
            };
            if !good {
                violations.push(Violation::new(format!("{path}[{position}]"), format!("{address:?}"), expected));
            }
        }
    }
    violations
}
