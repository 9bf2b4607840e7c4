//! TLS of listeners: which certificates are shown for which server name, and which are asked for. TLS towards pods: whom to
//! trust.

mod authorities;
mod client;
mod der;
mod endpoint;
mod key_pair;

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::ids::ObjectName;
use super::matching::Hostname;

pub use self::authorities::{Authorities, AuthoritiesError};
pub use self::client::{ClientValidation, Validation, forwarded_value, subject_of};
pub use self::endpoint::{EndpointTls, SubjectName, Trust};
pub use self::key_pair::{KeyPair, KeyPairError};

/// Lowest version of TLS that a client may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeastTls {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// A key pair with the Secret that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret.
    pub secret: ObjectName,
    /// The chain and its key.
    pub pair: Arc<KeyPair>,
}

/// What is agreed with clients that ask for one server name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsHost {
    /// The first one whose key the client can check is shown. Empty only beside a [`validation`](Self::validation), which
    /// no other certificate may get round: no handshake succeeds then.
    pub certificates: Box<[Certificate]>,
    /// Lowest version of TLS.
    pub least: LeastTls,
    /// How clients are validated; `None`: they are not asked for a certificate.
    pub validation: Option<Arc<Validation>>,
}

/// The server names of one listener (RFC 6066 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsHosts {
    hosts: Vec<Arc<TlsHost>>,
    exact: FxHashMap<Arc<str>, usize>,
    /// By what follows `*.`.
    wildcards: FxHashMap<Arc<str>, usize>,
    any: Option<usize>,
}

impl TlsHosts {
    /// What is agreed for a hostname so far.
    #[must_use]
    pub fn get(&self, hostname: &Hostname) -> Option<&Arc<TlsHost>> {
        let position = match hostname {
            Hostname::Exact(name) => self.exact.get(name).copied(),
            Hostname::Wildcard(suffix) => self.wildcards.get(suffix).copied(),
            Hostname::Any => self.any,
        };
        self.hosts.get(position?)
    }

    /// Sets what is agreed for a hostname; what was there before for the same one is replaced.
    pub fn insert(&mut self, hostname: &Hostname, host: Arc<TlsHost>) {
        let known = self.hosts.iter().rposition(|known| Arc::ptr_eq(known, &host));
        let position = known.unwrap_or_else(|| {
            self.hosts.push(host);
            self.hosts.len() - 1
        });
        match hostname {
            Hostname::Exact(name) => drop(self.exact.insert(Arc::clone(name), position)),
            Hostname::Wildcard(suffix) => drop(self.wildcards.insert(Arc::clone(suffix), position)),
            Hostname::Any => self.any = Some(position),
        }
    }

    /// Whether no handshake can succeed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Everything that is agreed, by position.
    #[must_use]
    pub fn hosts(&self) -> &[Arc<TlsHost>] {
        &self.hosts
    }

    /// The position of what is agreed for a server name in lower case, or for clients that name none: that of the name
    /// itself, else of the longest wildcard above it, else the default one. `None`: the handshake is refused.
    ///
    /// Allocates nothing.
    #[must_use]
    pub fn find(&self, name: Option<&str>) -> Option<usize> {
        let name = name.unwrap_or_default();
        if let Some(position) = self.exact.get(name) {
            return Some(*position);
        }
        let suffixes = name.match_indices('.').filter_map(|(dot, _)| name.get(dot + 1..));
        suffixes.filter_map(|suffix| self.wildcards.get(suffix)).next().copied().or(self.any)
    }
}

impl TlsHosts {
    /// Whether the same is agreed for two names in lower case, so that a client that has asked for one may send requests
    /// for the other on the same connection (RFC 9113 §9.1.1).
    #[must_use]
    pub fn are_alike(&self, one: &str, other: &str) -> bool {
        let host = |name| self.find(Some(name)).and_then(|position| self.hosts.get(position));
        host(one) == host(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_from_the_most_to_the_least_specific() {
        let host = || Arc::new(TlsHost { certificates: Box::default(), least: LeastTls::V1_2, validation: None });
        let mut hosts = TlsHosts::default();
        assert_eq!((hosts.find(Some("a.test")), hosts.find(None)), (None, None));
        let hostnames =
            [Hostname::Exact("a.test".into()), Hostname::Wildcard("test".into()), Hostname::Wildcard("b.test".into())];
        hostnames.iter().for_each(|hostname| hosts.insert(hostname, host()));
        for (name, expected) in [
            (Some("a.test"), Some(0)),
            (Some("c.test"), Some(1)),
            (Some("x.a.test"), Some(1)),
            (Some("x.y.b.test"), Some(2)),
            (Some("b.test"), Some(1)),
            (Some("test"), None),
            (None, None),
        ] {
            assert_eq!(hosts.find(name), expected, "{name:?}");
        }
        hosts.insert(&Hostname::Any, host());
        assert_eq!((hosts.find(Some("test")), hosts.find(None)), (Some(3), Some(3)));
    }
}
