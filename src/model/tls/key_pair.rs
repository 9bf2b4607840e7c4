//! A certificate chain with its private key.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::der;
use crate::model::matching::Hostname;

/// A certificate chain with its private key, both checked. The key cannot be printed, and leaves only towards TLS.
pub struct KeyPair {
    certified: Arc<CertifiedKey>,
    /// The DNS names of the certificate, in lower case; wildcards begin with `*.`.
    names: Box<[Box<str>]>,
    not_before: i64,
    not_after: i64,
}

/// Why a certificate and a key make no pair. Says nothing of what they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyPairError {
    /// The text of certificates has none, or one that cannot be read.
    #[error("{} holds no certificate in PEM that can be read", KeyPair::CERTIFICATE)]
    Certificate,
    /// The text of the key has none, or one of a kind that is not supported.
    #[error("{} holds no private key in PEM that can be read (RSA, ECDSA or Ed25519)", KeyPair::KEY)]
    Key,
    /// The key is another one's.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

impl KeyPair {
    /// The field of a Secret that holds the chain, the server's own certificate first.
    pub const CERTIFICATE: &str = "tls.crt";
    /// The field of a Secret that holds the private key.
    pub const KEY: &str = "tls.key";

    /// Reads a chain and a key in PEM (RFC 7468) and checks that they belong together.
    ///
    /// # Errors
    /// One of them cannot be used, or the key is another one's.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, KeyPairError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let chain = chain.map_err(|_| KeyPairError::Certificate)?;
        let own = chain.first().ok_or(KeyPairError::Certificate)?;
        let validities: Option<Vec<_>> = chain.iter().map(|certificate| der::validity(certificate)).collect();
        let validities = validities.ok_or(KeyPairError::Certificate)?;
        let read = webpki::EndEntityCert::try_from(own).map_err(|_| KeyPairError::Certificate)?;
        let names = read.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect();
        // A chain is valid for as long as all of it is.
        let not_before = validities.iter().map(|(from, _)| *from).max().unwrap_or_default();
        let not_after = validities.iter().map(|(_, until)| *until).min().unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| KeyPairError::Key)?;
        let key = any_supported_type(&key).map_err(|_| KeyPairError::Key)?;
        let certified = CertifiedKey::new(chain, key);
        // A key whose public part cannot be told is refused, too: nothing would show that it is the wrong one.
        certified.keys_match().map_err(|_| KeyPairError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), names, not_before, not_after })
    }

    /// The pair as TLS uses it.
    #[must_use]
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Since when the certificates are valid, in seconds since 1970.
    #[must_use]
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Until when the certificates are valid, in seconds since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The DNS names of the certificate, in lower case.
    #[must_use]
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Whether clients that look for this hostname accept the certificate (RFC 9525 §6.3: a wildcard stands for one
    /// label).
    #[must_use]
    pub fn names_host(&self, hostname: &Hostname) -> bool {
        let is_named = |name: &str| self.names.iter().any(|own| **own == *name);
        match hostname {
            Hostname::Exact(name) => {
                is_named(name) || name.split_once('.').is_some_and(|(_, suffix)| is_named(&format!("*.{suffix}")))
            }
            Hostname::Wildcard(suffix) => is_named(&format!("*.{suffix}")),
            Hostname::Any => true,
        }
    }
}

impl PartialEq for KeyPair {
    /// A certificate names its key, so that pairs with the same chain are the same.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certified, &other.certified) || self.certified.cert == other.certified.cert
    }
}

impl Eq for KeyPair {}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_tells_its_names_and_never_its_key() {
        let (certificate, key) = pem(&["a.test", "*.b.test"]);
        let pair = KeyPair::from_pem(certificate.as_bytes(), key.as_bytes()).expect("a pair");
        assert_eq!(format!("{pair:?}"), r#"KeyPair { names: ["a.test", "*.b.test"], .. }"#);
        let exact = |name: &str| pair.names_host(&Hostname::Exact(name.into()));
        assert!(exact("a.test") && exact("x.b.test"));
        assert!(!exact("b.test") && !exact("x.y.b.test") && !exact("c.test"));
        assert!(pair.names_host(&Hostname::Wildcard("b.test".into())));
        assert!(!pair.names_host(&Hostname::Wildcard("a.test".into())));
    }

    #[test]
    fn what_makes_no_pair_is_refused_without_a_word_of_it() {
        let ((certificate, key), (other, _)) = (pem(&["a.test"]), pem(&["a.test"]));
        let broken = certificate.replace('A', "!");
        for (certificate, key, expected) in [
            ("", key.as_str(), KeyPairError::Certificate),
            ("text", &key, KeyPairError::Certificate),
            (&broken, &key, KeyPairError::Certificate),
            (&key, &key, KeyPairError::Certificate),
            (&certificate, "", KeyPairError::Key),
            (&certificate, &certificate, KeyPairError::Key),
            (&other, &key, KeyPairError::Mismatch),
        ] {
            let refused = KeyPair::from_pem(certificate.as_bytes(), key.as_bytes()).expect_err("no pair");
            assert_eq!(refused, expected);
        }
    }
}
