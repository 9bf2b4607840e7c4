//! Certificates of clients: whether one is valid, and what pods are told of it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::model::tls::{ClientValidation, Validation};

/// Validates the clients of one server name.
///
/// Where a certificate is not required, one that is not valid passes the handshake, as if there were none, and pods are not
/// told of it. That its client has the key is checked all the same. Without any authority no handshake succeeds.
pub struct ClientVerifier {
    asked: Arc<ClientValidation>,
    /// `None`: there is no authority.
    by_authorities: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    pub(super) fn new(validation: &Validation, provider: &Arc<CryptoProvider>) -> Self {
        let by_authorities = validation.authorities.as_ref().and_then(|authorities| {
            let roots = Arc::clone(authorities.roots());
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider)).build().ok()
        });
        let algorithms = provider.signature_verification_algorithms;
        Self { asked: Arc::clone(&validation.asked), by_authorities, algorithms }
    }

    /// What the route asks for.
    #[must_use]
    pub fn asked(&self) -> &Arc<ClientValidation> {
        &self.asked
    }

    /// The certificate of a client that has shown this chain in its handshake; `None`: it has shown none, or one that is
    /// not valid.
    #[must_use]
    pub fn shown<'a>(&self, chain: Option<&'a [CertificateDer<'static>]>) -> Option<&'a CertificateDer<'static>> {
        let (own, others) = chain?.split_first()?;
        if !self.asked.is_required {
            self.by_authorities.as_ref()?.verify_client_cert(own, others, UnixTime::now()).ok()?;
        }
        Some(own)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.asked.is_required || self.by_authorities.is_none()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_authorities.as_ref().map_or(&[], |verifier| verifier.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let verifier = self.by_authorities.as_ref().ok_or(unknown)?;
        if self.asked.is_required {
            verifier.verify_client_cert(end_entity, intermediates, now)
        } else {
            Ok(ClientCertVerified::assertion())
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
