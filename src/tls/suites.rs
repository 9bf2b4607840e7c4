//! The order of cipher suites.
//!
//! AES-128-GCM with SHA-256 comes before AES-256-GCM with SHA-384: few processors have instructions for SHA-384, and without
//! them it is a seventh of what a new connection costs. Both are as strong as the key exchange and the certificates around
//! them.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ClientHello;
use rustls::{CipherSuite, SupportedCipherSuite};

/// The provider of all cryptography for TLS, with cipher suites in our order.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // Stable: versions of TLS and kinds of keys stay in their order.
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
    provider
}

/// Whether a client would rather have ChaCha20 than AES, as one does whose processor has no instructions for AES. Only suites
/// that are `known` count.
pub(super) fn prefers_chacha20(hello: &ClientHello<'_>, known: &[SupportedCipherSuite]) -> bool {
    let is_known = |suite: &CipherSuite| known.iter().any(|known| known.suite() == *suite);
    hello.cipher_suites().iter().copied().find(is_known).is_some_and(is_chacha20)
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn is_chacha20(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}
