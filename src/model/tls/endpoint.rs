//! TLS towards pods: whom to trust, and which names their certificates have to have.

use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::authorities::Authorities;
use super::key_pair::KeyPair;

/// How TLS is spoken to the pods of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTls {
    /// The name in the handshake (RFC 6066 §3). The certificate has to be for it where there are no `names`.
    pub server_name: ServerName<'static>,
    /// The certificate has to have one of these.
    pub names: Box<[SubjectName]>,
    /// The authorities that are trusted.
    pub trust: Trust,
    /// What the gateway shows to pods that ask for a certificate.
    pub own: Option<Arc<KeyPair>>,
}

/// The authorities that certificates of pods are checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system trusts.
    System,
    /// These.
    Only(Arc<Authorities>),
}

/// A name that a certificate has to have among its subjectAltNames (RFC 5280 §4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    /// It is for this host.
    Host(ServerName<'static>),
    /// It has this name with a wildcard, in lower case and as it stands here.
    Wildcard(Box<str>),
    /// It has this URI.
    Uri(Box<str>),
}
