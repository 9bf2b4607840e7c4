//! Backends: a Service port with the endpoints that may receive new requests.

use std::net::SocketAddr;
use std::sync::Arc;

use super::ids::{EndpointKey, ObjectName};
use super::tls::EndpointTls;

/// The protocol spoken to the endpoints of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1 in clear text.
    Http,
    /// HTTP/2 with prior knowledge in clear text.
    H2c,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 over TLS.
    H2,
}

impl Protocol {
    /// The name, as manifests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::H2c => "H2C",
            Self::Https => "HTTPS",
            Self::H2 => "H2",
        }
    }

    /// Whether it is spoken over TLS.
    #[must_use]
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::H2)
    }

    /// Whether it is HTTP/2.
    #[must_use]
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// The protocol of HTTP/2, with TLS where this one has it.
    #[must_use]
    pub const fn over_http2(self) -> Self {
        if self.is_secure() { Self::H2 } else { Self::H2c }
    }

    /// The protocol in clear text or over TLS.
    #[must_use]
    pub const fn secure(self, is_secure: bool) -> Self {
        match (self.is_http2(), is_secure) {
            (false, false) => Self::Http,
            (true, false) => Self::H2c,
            (false, true) => Self::Https,
            (true, true) => Self::H2,
        }
    }
}

/// What identifies a backend across snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The Service.
    pub service: ObjectName,
    /// The Service's port number.
    pub port: u16,
    /// How its endpoints are spoken to.
    pub protocol: Protocol,
}

/// One Service port and the endpoints that new requests may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its identity.
    pub key: BackendKey,
    /// Usable endpoints, sorted by key, without duplicates; those of class A, or of class B when A is empty.
    /// Empty when there is none.
    pub endpoints: Arc<[Endpoint]>,
    /// Endpoints that terminate while others are usable, sorted by key: they serve on, but only for sessions that they
    /// have already. Apart from `endpoints`.
    pub draining: Arc<[Endpoint]>,
    /// How TLS is spoken to them; there exactly for protocols over TLS.
    pub tls: Option<Arc<EndpointTls>>,
}

impl Backend {
    /// The name of the pod behind an endpoint of this backend, if it has one.
    #[must_use]
    pub fn pod_of(&self, key: &EndpointKey) -> Option<Arc<str>> {
        let find = |endpoints: &[Endpoint]| {
            let found = endpoints.binary_search_by(|endpoint| endpoint.key.cmp(key)).ok()?;
            endpoints.get(found)?.pod.clone()
        };
        find(&self.endpoints).or_else(|| find(&self.draining))
    }
}

/// One address that requests can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Identity, and the address to use.
    pub key: EndpointKey,
    /// The same pod's address in the other IP family, used when connects to the preferred one fail.
    pub fallback: Option<Box<SocketAddr>>,
    /// Name of the pod (`targetRef.name`), for logs and admin; never a metric label.
    pub pod: Option<Arc<str>>,
    /// It serves while it terminates, and is here because nothing else is ready.
    pub terminating: bool,
    /// In which ways it is near this process.
    pub near: Near,
}

/// In which ways an endpoint is near this process; a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Near(u8);

impl Near {
    /// The hints of its slice give it to the node of this process, and every endpoint of the backend has hints.
    pub const HINTED_NODE: Self = Self(1);
    /// The hints of its slice give it to the zone of this process, and every endpoint of the backend has hints.
    pub const HINTED_ZONE: Self = Self(1 << 1);
    /// It is in the zone of this process.
    pub const ZONE: Self = Self(1 << 2);
    /// It is on the node of this process.
    pub const NODE: Self = Self(1 << 3);

    /// The ways that are true.
    #[must_use]
    pub fn of(ways: [(Self, bool); 4]) -> Self {
        Self(ways.into_iter().filter(|(_, is_true)| *is_true).fold(0, |set, (way, _)| set | way.0))
    }

    /// Whether it has all of the other one's ways.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those that do not come from hints.
    #[must_use]
    pub const fn without_hints(self) -> Self {
        Self(self.0 & !(Self::HINTED_NODE.0 | Self::HINTED_ZONE.0))
    }
}
