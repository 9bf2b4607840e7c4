//! One endpoint, as EndpointSlices and core Endpoints have it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    /// Where it is and for whom; `None` where nothing is said. Endpoints of one node mostly share it.
    pub place: Option<Arc<Place>>,
}

/// Where an endpoint is, and the hints of whom it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// `zone`.
    pub zone: Option<Box<str>>,
    /// `nodeName`.
    pub node: Option<Box<str>>,
    /// `hints.forZones`.
    pub for_zones: Box<[Box<str>]>,
    /// `hints.forNodes`.
    pub for_nodes: Box<[Box<str>]>,
}

impl Place {
    pub(super) fn new(
        zone: Option<String>,
        node: Option<String>,
        hints: Option<discovery::EndpointHints>,
    ) -> Option<Arc<Self>> {
        let discovery::EndpointHints { for_zones, for_nodes } = hints.unwrap_or_default();
        let place = Self {
            zone: zone.map(Into::into),
            node: node.map(Into::into),
            for_zones: for_zones.into_iter().flatten().map(|zone| zone.name.into()).collect(),
            for_nodes: for_nodes.into_iter().flatten().map(|node| node.name.into()).collect(),
        };
        (place != Self::default()).then(|| Arc::new(place))
    }
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

impl EndpointPort {
    pub(super) fn new(name: Option<String>, number: Option<i32>) -> Self {
        Self { name: name.unwrap_or_default().into(), number }
    }
}

impl Endpoint {
    pub(super) fn new(address: Option<String>, class: Class, target: Option<&core::ObjectReference>) -> Self {
        let uid = target.and_then(|target| target.uid.as_deref()).filter(|uid| !uid.is_empty());
        let pod = target.filter(|target| target.kind.as_deref() == Some("Pod")).and_then(|pod| pod.name.as_deref());
        Self {
            address: address.map_or(Address::Missing, Address::parse),
            class,
            pod: pod.map(Arc::from),
            uid: uid.map(Arc::from),
            place: None,
        }
    }
}
