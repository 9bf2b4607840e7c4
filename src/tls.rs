//! TLS of clients' connections: from certificates to the settings that handshakes run with. TLS towards pods: `upstream`,
//! towards other servers: `web`.
//!
//! rustls with aws-lc-rs, TLS 1.2 and 1.3, no early data (RFC 8446 §8: it could be sent twice). Nothing here knows routes.

mod alpn;
mod client_certificates;
mod suites;
mod system;
mod upstream;
mod web;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use self::client_certificates::ClientVerifier;
use self::suites::{prefers_chacha20, provider};
use crate::model::ids::ListenerId;
use crate::model::tls::{LeastTls, TlsHost, TlsHosts};

pub use alpn::{ALPN_HTTP1, ALPN_HTTP2};
pub use upstream::{ClientConfigs, ClientTls, ClientTlsFactory};
pub use web::WebTls;

/// What all handshakes of the process have in common.
pub struct TlsFactory {
    provider: Arc<CryptoProvider>,
    /// Makes and reads the tickets by which clients come back without a whole handshake (RFC 8446 §2.2), on any worker.
    /// Its key changes every six hours, and the one before is still good for as long.
    tickets: Option<Arc<dyn ProducesTickets>>,
}

impl fmt::Debug for TlsFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFactory").finish_non_exhaustive()
    }
}

impl Default for TlsFactory {
    fn default() -> Self {
        let tickets = aws_lc_rs::Ticketer::new();
        if let Err(error) = &tickets {
            tracing::warn!(%error, "TLS sessions cannot be resumed");
        }
        Self { provider: Arc::new(provider()), tickets: tickets.ok() }
    }
}

impl TlsFactory {
    /// The settings of all listeners. Those of the version before are taken over where the certificates are the same.
    #[must_use]
    pub fn build(&self, hosts: &Arc<[Arc<TlsHosts>]>, previous: &ServerConfigs) -> ServerConfigs {
        if *hosts == previous.hosts {
            return previous.clone();
        }
        let of_listener = |hosts: &Arc<TlsHosts>| hosts.hosts().iter().map(|host| self.terms(host)).collect();
        ServerConfigs { hosts: Arc::clone(hosts), terms: hosts.iter().map(of_listener).collect() }
    }

    fn terms(&self, host: &Arc<TlsHost>) -> Terms {
        let clients =
            host.validation.as_ref().map(|validation| Arc::new(ClientVerifier::new(validation, &self.provider)));
        Terms::new(self.config(host, clients.as_ref()), clients)
    }

    fn config(&self, host: &Arc<TlsHost>, clients: Option<&Arc<ClientVerifier>>) -> ServerConfig {
        let versions: &[_] = match host.least {
            LeastTls::V1_2 => &[&TLS13, &TLS12],
            LeastTls::V1_3 => &[&TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider)).with_protocol_versions(versions);
        let builder = builder.expect("the provider has cipher suites of both versions");
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as Arc<dyn ClientCertVerifier>),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(Arc::clone(host))));
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        // Tickets need no memory here, and no lock between workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        match &self.tickets {
            // A client that comes back with a ticket is not asked for its certificate again, which may be another one
            // now, or none that counts: where clients are validated, there are no tickets, and none is taken.
            Some(tickets) if clients.is_none() => {
                config.ticketer = Arc::clone(tickets);
                // Who comes back uses one up and gets one: two would cost each handshake more, and help only one who comes
                // back over more connections than before.
                config.send_tls13_tickets = 1;
            }
            Some(_) | None => config.send_tls13_tickets = 0,
        }
        config
    }
}

/// What a handshake with a client runs with.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The settings that take the first cipher suite of ours that the client has.
    in_our_order: Arc<ServerConfig>,
    /// Those that take the client's first one.
    in_their_order: Arc<ServerConfig>,
    /// How the client is validated; `None`: it is not asked for a certificate.
    pub clients: Option<Arc<ClientVerifier>>,
}

impl Terms {
    /// Those of some settings, whose cipher suites are in our order.
    #[must_use]
    pub fn new(config: ServerConfig, clients: Option<Arc<ClientVerifier>>) -> Self {
        let mut in_our_order = config.clone();
        in_our_order.ignore_client_order = true;
        Self { in_our_order: Arc::new(in_our_order), in_their_order: Arc::new(config), clients }
    }

    /// The settings for a client that begins like this.
    #[must_use]
    pub fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let known = &self.in_our_order.crypto_provider().cipher_suites;
        Arc::clone(if prefers_chacha20(hello, known) { &self.in_their_order } else { &self.in_our_order })
    }
}

/// The settings of one version's handshakes, by listener and server name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServerConfigs {
    hosts: Arc<[Arc<TlsHosts>]>,
    /// By listener, and by the position of the host there.
    terms: Arc<[Box<[Terms]>]>,
}

impl ServerConfigs {
    /// The settings for a client that asks for a server name, in lower case, or names none. `None`: there is no certificate
    /// for it.
    #[must_use]
    pub fn find(&self, listener: ListenerId, name: Option<&str>) -> Option<Terms> {
        let position = self.hosts.get(listener.index())?.find(name)?;
        self.terms.get(listener.index())?.get(position).cloned()
    }
}

/// The certificates of one host: one for each kind of key.
struct Certificates(Arc<TlsHost>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.0.certificates).finish()
    }
}

impl ResolvesServerCert for Certificates {
    /// The first one whose key the client can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let pairs = self.0.certificates.iter().map(|certificate| certificate.pair.certified());
        let mut usable = pairs.filter(|pair| pair.key.choose_scheme(schemes).is_some());
        usable.next().cloned()
    }
}
