//! Certificates of authorities that are trusted.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The certificates of one or several authorities, each checked. There is at least one.
#[derive(Clone)]
pub struct Authorities {
    certificates: Arc<[CertificateDer<'static>]>,
    roots: Arc<RootCertStore>,
}

/// A text holds no authorities. Says nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    /// There is none, or one that cannot be read.
    #[error("{} holds no certificate in PEM that can be read", Authorities::FIELD)]
    Certificate,
    /// There is no text.
    #[error("there is no {}", Authorities::FIELD)]
    Missing,
}

impl Authorities {
    /// The field of a ConfigMap or Secret that holds them.
    pub const FIELD: &str = "ca.crt";

    /// Reads certificates in PEM (RFC 7468).
    ///
    /// # Errors
    /// There is none, or one of them cannot be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, AuthoritiesError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        Self::new(certificates.map_err(|_| AuthoritiesError::Certificate)?)
    }

    /// All of several.
    ///
    /// # Errors
    /// There is none.
    pub fn joined(all: &[Arc<Self>]) -> Result<Self, AuthoritiesError> {
        Self::new(all.iter().flat_map(|one| one.certificates.iter().cloned()).collect())
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|_| AuthoritiesError::Certificate)?;
        }
        if certificates.is_empty() {
            return Err(AuthoritiesError::Certificate);
        }
        Ok(Self { certificates: certificates.into(), roots: Arc::new(roots) })
    }

    /// What TLS verifies certificates with.
    #[must_use]
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certificates, &other.certificates) || self.certificates == other.certificates
    }
}

impl Eq for Authorities {}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_and_what_is_none_is_refused() {
        let pem = || rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("made").cert.pem();
        let (one, two) = (pem(), pem());
        let read = |text: &str| Authorities::from_pem(text.as_bytes());
        let [first, both] =
            [read(&one), read(&[one.as_str(), &two].concat())].map(|read| Arc::new(read.expect("good")));
        assert_ne!(first, both);
        let second = Arc::new(read(&two).expect("good"));
        assert_eq!(Authorities::joined(&[first, second]).as_ref(), Ok(&*both));
        for text in ["", "text", &one.replace('A', "!"), &one.replace("MII", "AAA")] {
            assert_eq!(read(text), Err(AuthoritiesError::Certificate), "{text}");
        }
        assert_eq!(Authorities::joined(&[]), Err(AuthoritiesError::Certificate));
    }
}
