//! The authorities that the system trusts.

use rustls::RootCertStore;

/// The authorities that the system trusts; none where it has no list of them, which is told where they are `needed`.
pub(super) fn system_roots(needed: bool) -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() && needed {
        let error = found.errors.first().map(ToString::to_string);
        tracing::error!(
            error,
            "the system has no list of certificate authorities, so that neither pods whose BackendTLSPolicy says \
             wellKnownCACertificates: System are trusted nor servers of key sets; expected one in /etc/ssl/certs or \
             SSL_CERT_FILE"
        );
    }
    roots
}
