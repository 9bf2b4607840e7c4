//! Certificates of clients: which are asked for, and what pods are told of them.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;

use super::authorities::Authorities;
use super::der;
use crate::model::ids::ObjectName;

/// Whose certificates clients are asked for, as a route states it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientValidation {
    /// A client without a valid certificate is refused. Otherwise it passes, and no pod is told of its certificate.
    pub is_required: bool,
    /// The objects with the certificates of the authorities that are trusted, kind and name.
    pub authorities: Box<[(&'static str, ObjectName)]>,
}

/// How the clients of one server name are validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validation {
    /// What the route asks for.
    pub asked: Arc<ClientValidation>,
    /// The authorities that could be read; `None`: there is none, and no client is let in.
    pub authorities: Option<Arc<Authorities>>,
}

/// What pods are told of a client's valid certificate: a value of `x-forwarded-client-cert` in the form of Envoy, with the
/// hash of the certificate, its subject and its alternative names. `None` for what is no certificate.
///
/// Printable ASCII whatever the certificate holds; other bytes of a subject are escaped (RFC 4514 §2.4), and names with
/// other bytes or with quotes left out.
#[must_use]
pub fn forwarded_value(certificate: &CertificateDer<'_>) -> Option<String> {
    let subject = subject_of(certificate)?;
    let mut value = "Hash=".to_owned();
    for byte in digest(&SHA256, certificate).as_ref() {
        // Writing to a string does not fail.
        let _ = write!(value, "{byte:02x}");
    }
    let _ = write!(value, ";Subject=\"{subject}\"");
    let read = webpki::EndEntityCert::try_from(certificate).ok()?;
    let uris = read.valid_uri_names().map(|name| ("URI", name));
    for (key, name) in uris.chain(read.valid_dns_names().map(|name| ("DNS", name))) {
        if name.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'"' | b'\\')) {
            continue;
        }
        let quote = if name.contains([',', ';', '=']) { "\"" } else { "" };
        let _ = write!(value, ";{key}={quote}{name}{quote}");
    }
    Some(value)
}

/// The subject of a certificate as RFC 4514 writes it, with bytes beyond printable ASCII escaped.
#[must_use]
pub fn subject_of(certificate: &CertificateDer<'_>) -> Option<String> {
    subject(der::subject(certificate)?)
}

/// A distinguished name as RFC 4514 writes it: the last part first.
fn subject(mut name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !name.is_empty() {
        let (mut set, rest) = der::element(name, der::SET)?;
        let mut part = String::new();
        while !set.is_empty() {
            let (attribute, others) = der::element(set, der::SEQUENCE)?;
            let (kind, value) = der::element(attribute, der::OBJECT_IDENTIFIER)?;
            let (tag, value, _) = der::any(value)?;
            if !part.is_empty() {
                part.push('+');
            }
            write_attribute(&mut part, kind, (tag, value));
            set = others;
        }
        parts.push(part);
        name = rest;
    }
    parts.reverse();
    Some(parts.join(","))
}

fn write_attribute(out: &mut String, kind: &[u8], (tag, value): (u8, &[u8])) {
    let known = match kind {
        [0x55, 4, 3] => Some("CN"),
        [0x55, 4, 5] => Some("serialNumber"),
        [0x55, 4, 6] => Some("C"),
        [0x55, 4, 7] => Some("L"),
        [0x55, 4, 8] => Some("ST"),
        [0x55, 4, 9] => Some("STREET"),
        [0x55, 4, 10] => Some("O"),
        [0x55, 4, 11] => Some("OU"),
        // 0.9.2342.19200300.100.1.
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => Some("UID"),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => Some("DC"),
        // 1.2.840.113549.1.9.1, of PKCS #9.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => Some("emailAddress"),
        _ => None,
    };
    match known {
        Some(name) => {
            out.push_str(name);
            out.push('=');
            if matches!(tag, der::UTF8_STRING | der::PRINTABLE_STRING | der::IA5_STRING | der::TELETEX_STRING) {
                return write_escaped(out, value);
            }
        }
        // Its number, in hex: nobody is misled by a kind that is not known.
        None => {
            out.push_str("OID.");
            write_hex(out, kind);
            out.push('=');
        }
    }
    out.push('#');
    write_hex(out, value);
}

fn write_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

/// RFC 4514 §2.4, with an escape for each byte that is not printable ASCII.
fn write_escaped(out: &mut String, value: &[u8]) {
    let last = value.len().saturating_sub(1);
    for (at, &byte) in value.iter().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' | b' ' if at == 0 || (byte == b' ' && at == last) => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn value(edit: impl FnOnce(&mut CertificateParams)) -> String {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        edit(&mut parameters);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("signed");
        let value = forwarded_value(certificate.der()).expect("a certificate");
        let (hash, rest) = value.split_once(';').expect("parts");
        let hash = hash.strip_prefix("Hash=").expect("a hash");
        assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        rest.to_owned()
    }

    #[test]
    fn pods_are_told_subject_and_names() {
        let told = value(|parameters| {
            parameters.distinguished_name.push(DnType::OrganizationName, "Shop, Inc.");
            parameters.distinguished_name.push(DnType::CommonName, "Jos\u{e9} \"x\" <y>;");
            let names = [
                SanType::URI("spiffe://a.test/ns/shop".try_into().expect("a URI")),
                SanType::DnsName("a.test".try_into().expect("a name")),
                SanType::URI("urn:a=b;c".try_into().expect("a URI")),
            ];
            parameters.subject_alt_names = names.into();
        });
        let subject = r#"Subject="CN=Jos\C3\A9 \"x\" \<y\>\;,O=Shop\, Inc.""#;
        assert_eq!(told, [subject, "URI=spiffe://a.test/ns/shop", "URI=\"urn:a=b;c\"", "DNS=a.test"].join(";"));
    }

    #[test]
    fn nothing_that_a_certificate_holds_ends_the_field() {
        let told = value(|parameters| {
            parameters.distinguished_name.push(DnType::CommonName, " a\r\nx-admin: 1\0 ");
            parameters.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3]), "z");
            let uri = "urn:\"\r\nx".try_into().expect("a URI");
            parameters.subject_alt_names = vec![SanType::URI(uri)];
        });
        assert_eq!(told, r#"Subject="OID.2a03=#7a,CN=\ a\0D\0Ax-admin: 1\00\ ""#);
        assert_eq!(forwarded_value(&CertificateDer::from(vec![0x30, 3, 1, 2, 3])), None);
    }
}
