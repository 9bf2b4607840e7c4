//! Snapshots of any size, for benchmarks and for tests that measure.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tidegate::model::backend::{Backend, BackendKey, Endpoint, Near, Protocol};
use tidegate::model::ids::{BackendId, EndpointKey, ObjectName, RouteId};
use tidegate::model::policy::{Algorithm, ConsistentHash, OnMissingKey, Spread};
use tidegate::model::request_values::RequestKey;
use tidegate::model::route::{Route, Rule, WeightedBackend};
use tidegate::model::snapshot::Snapshot;

/// All algorithms by name, the consistent hash with and without a load bound.
pub fn algorithms() -> Vec<(&'static str, Algorithm)> {
    let hash = |bounded_load_percent| {
        Algorithm::ConsistentHash(
            ConsistentHash {
                keys: vec![RequestKey::SourceIp],
                on_missing: OnMissingKey::Random,
                bounded_load_percent,
                table_size: None,
            }
            .into(),
        )
    };
    vec![
        ("Random", Algorithm::Random),
        ("RoundRobin", Algorithm::RoundRobin),
        ("SmoothWeightedRoundRobin", Algorithm::SmoothWeightedRoundRobin),
        ("LeastRequest", Algorithm::LeastRequest),
        ("PeakEWMA", Algorithm::PeakEwma),
        ("ConsistentHash", hash(None)),
        ("ConsistentHash, bounded", hash(Some(125))),
    ]
}

/// Two-rule routes with a backend each, every backend with so many endpoints.
pub fn snapshot(routes: u32, endpoints: u32, algorithm: &Algorithm) -> Snapshot {
    let (mut list, mut rules, mut backends) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..routes {
        let name = format!("route-{index:05}");
        let object = ObjectName::new("ns", name.as_str());
        list.push(Route { name: object.clone(), label: format!("ns/{name}").into() });
        for rule in ["read", "write"] {
            rules.push(Rule {
                route: RouteId(index),
                name: rule.into(),
                timeouts: Arc::default(),
                policy: None,
                upgrades: Arc::default(),
                filters: Arc::default(),
                algorithm: algorithm.clone(),
                spread: Spread::default(),
                delegates: false,
                backend_refs: vec![WeightedBackend {
                    weight: 1,
                    tier: 0,
                    backend: Some(BackendId(index)),
                    filters: Arc::default(),
                }],
            });
        }
        backends.push(Backend {
            key: BackendKey { service: object, port: 80, protocol: Protocol::Http },
            endpoints: (0..endpoints).map(|endpoint| self::endpoint(index * endpoints + endpoint)).collect(),
            draining: Arc::default(),
            tls: None,
        });
    }
    Snapshot { routes: list.into(), rules: rules.into(), backends: backends.into(), ..Snapshot::default() }
}

fn endpoint(number: u32) -> Endpoint {
    let ip = Ipv4Addr::from(0x0a00_0000 + number);
    Endpoint {
        key: EndpointKey {
            addr: SocketAddr::from((ip, 8080)),
            uid: Some(format!("1b4e28ba-2fa1-11d2-883f-{number:012}").into()),
        },
        fallback: None,
        pod: Some(Arc::from(format!("pod-{number}"))),
        terminating: false,
        near: Near::default(),
    }
}
