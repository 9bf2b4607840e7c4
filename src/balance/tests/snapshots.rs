//! Snapshots for tests of balancers and of the live pointer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::balance::EndpointState;
use crate::model::backend::{Backend, BackendKey, Endpoint, Near, Protocol};
use crate::model::ids::{BackendId, EndpointKey, ObjectName, RouteId};
use crate::model::policy::{Algorithm, ConsistentHash, OnMissingKey, Spread};
use crate::model::request_values::RequestKey;
use crate::model::route::{Route, Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

/// A rule's references: backend, weight, tier.
pub(crate) type Refs = Vec<(Option<String>, u32, u8)>;

/// What a snapshot is made of, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots {
    pub(crate) backends: BTreeMap<String, Vec<u16>>,
    /// Rules of routes, by route and rule name.
    pub(crate) rules: BTreeMap<(String, String), (Algorithm, Refs)>,
    /// Of all rules.
    pub(crate) spread: Spread,
    /// Endpoints that are near, in all these ways.
    pub(crate) near: BTreeMap<u16, Near>,
}

impl Snapshots {
    /// Adds or replaces a backend with its endpoints, given as numbers.
    pub(crate) fn backend(mut self, name: &str, endpoints: impl IntoIterator<Item = u16>) -> Self {
        self.backends.insert(name.to_owned(), endpoints.into_iter().collect());
        self
    }

    /// Adds or replaces a rule.
    pub(crate) fn rule(
        mut self,
        route: &str,
        rule: &str,
        algorithm: Algorithm,
        refs: &[(Option<&str>, u32, u8)],
    ) -> Self {
        let refs = refs.iter().map(|&(name, weight, tier)| (name.map(str::to_owned), weight, tier)).collect();
        self.rules.insert((route.to_owned(), rule.to_owned()), (algorithm, refs));
        self
    }

    /// The snapshot, with everything in the order that the compiler promises.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let names: Vec<&String> = self.backends.keys().collect();
        let backends = self.backends.iter().map(|(name, endpoints)| {
            let mut endpoints: Vec<Endpoint> = endpoints.iter().map(|&number| endpoint(number)).collect();
            for one in &mut endpoints {
                let number = self.near.iter().find(|(number, _)| endpoint(**number).key == one.key);
                one.near = number.map(|(_, near)| *near).unwrap_or_default();
            }
            endpoints.sort_by(|one, other| one.key.cmp(&other.key));
            endpoints.dedup();
            Backend {
                key: BackendKey { service: ObjectName::new("ns", name.as_str()), port: 80, protocol: Protocol::Http },
                endpoints: endpoints.into(),
                draining: Arc::default(),
                tls: None,
            }
        });
        let mut routes: Vec<Route> = Vec::new();
        let mut rules = Vec::new();
        for ((route, rule), (algorithm, refs)) in &self.rules {
            let label = format!("ns/{route}");
            if routes.last().is_none_or(|last| *last.label != *label) {
                routes.push(Route { name: ObjectName::new("ns", route.as_str()), label: label.into() });
            }
            let id = |name: &String| BackendId(names.binary_search(&name).expect("backend") as u32);
            rules.push(Rule {
                route: RouteId(routes.len() as u32 - 1),
                name: rule.as_str().into(),
                timeouts: Arc::default(),
                policy: None,
                upgrades: Arc::default(),
                filters: Arc::default(),
                algorithm: algorithm.clone(),
                spread: self.spread,
                delegates: false,
                backend_refs: refs
                    .iter()
                    .map(|(name, weight, tier)| WeightedBackend {
                        weight: *weight,
                        tier: *tier,
                        backend: name.as_ref().map(id),
                        filters: Arc::default(),
                    })
                    .collect(),
            });
        }
        Snapshot { routes: routes.into(), rules: rules.into(), backends: backends.collect(), ..Snapshot::default() }
    }
}

/// The endpoint of a number: its address is 10.0.0.0 plus the number.
fn endpoint(number: u16) -> Endpoint {
    let [high, low] = number.to_be_bytes();
    Endpoint {
        key: EndpointKey {
            addr: SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 80)),
            uid: Some(format!("uid-{number}").into()),
        },
        fallback: None,
        pod: Some(Arc::from(format!("pod-{number}"))),
        terminating: false,
        near: Near::default(),
    }
}

/// The number of an endpoint.
pub(crate) fn number(endpoint: &EndpointState) -> u16 {
    match endpoint.key.addr {
        SocketAddr::V4(addr) => u16::from_be_bytes([addr.ip().octets()[2], addr.ip().octets()[3]]),
        SocketAddr::V6(addr) => panic!("{addr} is not from here"),
    }
}

/// A consistent hash whose requests without a key go round.
pub(crate) fn hash_by_ip() -> Algorithm {
    Algorithm::ConsistentHash(
        ConsistentHash {
            keys: vec![RequestKey::SourceIp],
            on_missing: OnMissingKey::RoundRobin,
            bounded_load_percent: None,
            table_size: None,
        }
        .into(),
    )
}
