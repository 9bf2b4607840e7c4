//! TLS towards pods: from what a backend asks for to the settings of handshakes, and the handshake itself.

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::alpn::{ALPN_HTTP1, ALPN_HTTP2};
use super::suites::provider;
use super::system::system_roots;
use crate::model::backend::Backend;
use crate::model::tls::{EndpointTls, SubjectName, Trust};

/// Sessions that are kept for one server name: rustls counts in eighths.
const SESSIONS: usize = 8;

/// Makes the settings of handshakes with pods.
#[derive(Debug)]
pub struct ClientTlsFactory {
    provider: Arc<CryptoProvider>,
    /// The authorities that the system trusts, read when they are first asked for.
    system: OnceLock<Arc<RootCertStore>>,
}

impl Default for ClientTlsFactory {
    fn default() -> Self {
        Self { provider: Arc::new(provider()), system: OnceLock::new() }
    }
}

/// The settings of handshakes with the pods of some backends: one for all that ask for the same, and the same from one
/// version to the next.
#[derive(Debug)]
pub struct ClientTls {
    asked: Arc<EndpointTls>,
    config: ClientConfig,
}

/// The settings of all backends of one version.
#[derive(Clone, Debug, Default)]
pub struct ClientConfigs(Box<[Option<Arc<ClientTls>>]>);

impl ClientConfigs {
    /// Those of a backend, by its position; `None` for clear text.
    #[inline]
    #[must_use]
    pub fn get(&self, backend: usize) -> Option<&Arc<ClientTls>> {
        self.0.get(backend)?.as_ref()
    }
}

impl ClientTlsFactory {
    /// The settings of some backends, in their order. Those of the version before are taken over where the same is asked
    /// for.
    #[must_use]
    pub fn build(&self, backends: &[Backend], previous: &ClientConfigs) -> ClientConfigs {
        if backends.iter().all(|backend| backend.tls.is_none()) {
            return ClientConfigs::default();
        }
        // Few differ: a search is quick.
        let mut known: Vec<Arc<ClientTls>> = Vec::new();
        for one in previous.0.iter().flatten() {
            if !known.iter().any(|known| Arc::ptr_eq(known, one)) {
                known.push(Arc::clone(one));
            }
        }
        let mut find = |asked: &Arc<EndpointTls>| {
            let found = known.iter().find(|known| Arc::ptr_eq(&known.asked, asked) || *known.asked == **asked);
            found.cloned().unwrap_or_else(|| {
                let new = Arc::new(self.make(asked));
                known.push(Arc::clone(&new));
                new
            })
        };
        ClientConfigs(backends.iter().map(|backend| backend.tls.as_ref().map(&mut find)).collect())
    }

    fn make(&self, asked: &Arc<EndpointTls>) -> ClientTls {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]);
        let builder = builder.expect("the provider has cipher suites of both versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(self.verifier(asked));
        let config = match &asked.own {
            Some(pair) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(pair.certified()))))
            }
            None => builder.with_no_client_auth(),
        };
        ClientTls { asked: Arc::clone(asked), config }
    }

    fn verifier(&self, asked: &Arc<EndpointTls>) -> Arc<dyn ServerCertVerifier> {
        let roots = match &asked.trust {
            Trust::System => Arc::clone(self.system.get_or_init(|| Arc::new(system_roots(true)))),
            Trust::Only(authorities) => Arc::clone(authorities.roots()),
        };
        // Without any authority there is no such verifier; ours finds then that nobody has signed the certificate.
        if asked.names.is_empty()
            && let Ok(whole) =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&self.provider)).build()
        {
            return whole;
        }
        let algorithms = self.provider.signature_verification_algorithms;
        Arc::new(NamesVerifier { asked: Arc::clone(asked), roots, algorithms })
    }
}

impl ClientTls {
    /// The settings for one protocol, with sessions of their own: whoever holds them comes back to pods without a whole
    /// handshake (RFC 8446 §2.2), and shares nothing that is written with others.
    #[must_use]
    pub fn config(&self, is_http2: bool) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![if is_http2 { ALPN_HTTP2 } else { ALPN_HTTP1 }.to_vec()];
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(config)
    }

    /// Does the handshake on a fresh connection, with settings of [`config`](Self::config) for the same protocol.
    ///
    /// # Errors
    /// Why nothing was agreed: the certificate is not trusted, or is for another name, the pod does not speak TLS, or not
    /// the protocol.
    pub async fn shake_hands(
        &self,
        config: &Arc<ClientConfig>,
        socket: TcpStream,
        is_http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(self.asked.server_name.clone(), socket).await?;
        let agreed = stream.get_ref().1.alpn_protocol();
        // HTTP/1.1 needs no agreement; HTTP/2 does (RFC 9113 §3.3).
        if is_http2 && agreed != Some(ALPN_HTTP2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the pod does not agree on HTTP/2 (ALPN h2)"));
        }
        Ok(stream)
    }
}

/// Checks the names that a policy asks for in the place of the server name.
struct NamesVerifier {
    asked: Arc<EndpointTls>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for NamesVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NamesVerifier").field(&self.asked.names).finish()
    }
}

impl ServerCertVerifier for NamesVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        let read = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let has = |name: &SubjectName| match name {
            SubjectName::Host(host) => verify_server_name(&certificate, host).is_ok(),
            SubjectName::Wildcard(name) => read.valid_dns_names().any(|own| own.eq_ignore_ascii_case(name)),
            SubjectName::Uri(uri) => read.valid_uri_names().any(|own| *own == **uri),
        };
        if self.asked.names.iter().any(has) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in an image without a list of authorities.
    #[test]
    fn without_any_authority_no_certificate_is_trusted() {
        let factory =
            ClientTlsFactory { system: Arc::new(RootCertStore::empty()).into(), ..ClientTlsFactory::default() };
        let pod = rcgen::generate_simple_self_signed(["web.test".to_owned()]).expect("a certificate");
        let name = ServerName::try_from("web.test").expect("a name");
        let names: [Box<[SubjectName]>; 2] = [Box::default(), Box::new([SubjectName::Host(name.clone())])];
        for names in names {
            let asked = EndpointTls { server_name: name.clone(), names, trust: Trust::System, own: None };
            let verifier = factory.verifier(&Arc::new(asked));
            let verdict = verifier.verify_server_cert(pod.cert.der(), &[], &name, &[], UnixTime::now());
            assert_eq!(verdict.err(), Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)));
            assert!(!verifier.supported_verify_schemes().is_empty(), "a handshake offers some, whatever follows");
        }
    }
}
