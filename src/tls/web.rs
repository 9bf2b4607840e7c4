//! TLS towards servers that are known by their URL, such as the identity provider of a route.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::client::ClientConfig;

use super::alpn::ALPN_HTTP1;
use super::suites::provider;
use super::system::system_roots;
use crate::model::tls::Authorities;

/// Makes the settings of handshakes with such servers, when they are first asked for.
pub struct WebTls {
    /// Trusted beside those of the system.
    authorities: Option<Authorities>,
    config: OnceLock<Arc<ClientConfig>>,
}

impl WebTls {
    /// Trusts the authorities of the system, and these.
    #[must_use]
    pub fn new(authorities: Option<&Authorities>) -> Self {
        Self { authorities: authorities.cloned(), config: OnceLock::new() }
    }

    /// The settings, for HTTP/1.1. Reads the list of the system the first time.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(self.config.get_or_init(|| self.make()))
    }

    fn make(&self) -> Arc<ClientConfig> {
        let own = self.authorities.as_ref().map(|authorities| &**authorities.roots());
        let mut roots: RootCertStore = system_roots(own.is_none());
        roots.extend(own.into_iter().flat_map(|own| own.roots.iter().cloned()));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.expect("the provider has cipher suites of all versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        Arc::new(config)
    }
}

impl fmt::Debug for WebTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebTls").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}
