//! Core Endpoints: the endpoints of a Service in the form that EndpointSlices have replaced.

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use super::endpoint::{Class, Endpoint, EndpointPort};
use super::kind::{Kind, schema_of};
use super::violation::{PROTOCOLS, Violation, check_name, check_port};

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

impl Kind for Endpoints {
    const NAME: &'static str = "Endpoints";
    const API_VERSIONS: &'static [&'static str] = &["v1"];

    type Manifest = core::Endpoints;

    fn schema() -> Value {
        schema_of::<core::Endpoints>()
    }

    fn check(manifest: &core::Endpoints) -> Vec<Violation> {
        check_endpoints(manifest)
    }

    fn reduce(manifest: core::Endpoints) -> Self {
        manifest.into()
    }
}

fn check_endpoints(endpoints: &core::Endpoints) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        for (list, addresses) in lists {
            for (position, address) in addresses.iter().flatten().enumerate() {
                if address.ip.parse::<std::net::IpAddr>().is_err() {
                    violations.push(Violation::new(
                        format!("{path}.{list}[{position}].ip"),
                        format!("{:?}", address.ip),
                        "an IP address",
                    ));
                }
            }
        }
        for (position, port) in subset.ports.iter().flatten().enumerate() {
            check_port(format!("{path}.ports[{position}].port"), port.port, &mut violations);
            let path = format!("{path}.ports[{position}].protocol");
            check_name(path, port.protocol.as_deref(), PROTOCOLS, &mut violations);
        }
    }
    violations
}
