//! Secret: certificates with their private keys, those of authorities, and what clients prove who they are with. Of the
//! last only digests are kept, and no byte of any Secret is ever shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use super::violation::Violation;
use crate::model::credentials::{ApiKeys, PasswordFile, PasswordFileError};
use crate::model::tls::{Authorities, AuthoritiesError, KeyPair};

/// The type of Secrets that hold a certificate and its key.
pub const TLS_TYPE: &str = "kubernetes.io/tls";

/// A Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Manifest")]
pub struct Secret {
    /// The certificate with its key, or why there is none.
    pub pair: Result<Arc<KeyPair>, NoPair>,
    /// What is wrong with the newest content, though there is one that can be used.
    pub problem: Option<Problem>,
    /// The authorities in its field `ca.crt`, if it has one.
    pub authorities: Option<Result<Arc<Authorities>, AuthoritiesError>>,
    /// The users in its field `auth`, if it has one.
    pub users: Option<Result<Arc<PasswordFile>, PasswordFileError>>,
    /// The keys of clients, each in the field of the client's name; `None` for Secrets of [`TLS_TYPE`].
    pub api_keys: Option<Arc<ApiKeys>>,
}

impl Secret {
    /// One that holds a certificate, or nothing.
    #[must_use]
    pub const fn of_pair(pair: Result<Arc<KeyPair>, NoPair>) -> Self {
        Self { pair, problem: None, authorities: None, users: None, api_keys: None }
    }

    /// One that may not be read; `why` are the words for operators.
    #[must_use]
    pub const fn unreadable(why: Box<str>) -> Self {
        Self::of_pair(Err(NoPair::Unreadable(why)))
    }
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPair {
    /// What the Secret holds cannot be used.
    Unusable(Box<str>),
    /// The Secret may not be read.
    Unreadable(Box<str>),
}

impl NoPair {
    /// The words for operators.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Unusable(text) | Self::Unreadable(text) => text,
        }
    }
}

/// What is wrong with the newest content of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// What is held is of an earlier content, which stays active.
    EarlierStays(Box<str>),
    /// Clients may refuse the pair.
    ShownAnyway(Box<str>),
}

/// A Secret as users and API servers write it.
#[derive(Clone, Deserialize)]
pub struct Manifest {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: Option<BTreeMap<String, Value>>,
    /// Replaces fields of `data`, as an API server puts it there.
    #[serde(default, rename = "stringData")]
    string_data: Option<BTreeMap<String, Value>>,
}

impl Manifest {
    fn has(&self, name: &str) -> bool {
        [&self.data, &self.string_data].into_iter().flatten().any(|data| data.contains_key(name))
    }

    /// The names of all fields, sorted.
    fn names(&self) -> BTreeSet<&str> {
        let data = [&self.data, &self.string_data];
        data.into_iter().flatten().flat_map(|data| data.keys().map(String::as_str)).collect()
    }

    /// The keys of clients.
    fn api_keys(&self) -> ApiKeys {
        let keys: Vec<_> = self.names().into_iter().map(|name| (name, self.bytes(name))).collect();
        ApiKeys::new(keys.iter().map(|(name, key)| (*name, &**key)))
    }

    /// The bytes of a field; empty when it is missing, or no base64.
    fn bytes(&self, name: &str) -> Vec<u8> {
        let text = self.string_data.as_ref().and_then(|data| data.get(name)?.as_str());
        if let Some(text) = text {
            return text.as_bytes().to_vec();
        }
        let encoded = self.data.as_ref().and_then(|data| data.get(name));
        let decoded = encoded.and_then(|encoded| ByteString::deserialize(encoded).ok());
        decoded.map_or_else(Vec::new, |bytes| bytes.0)
    }
}

impl From<Manifest> for Secret {
    fn from(manifest: Manifest) -> Self {
        let is_of_tls = manifest.kind.as_deref() == Some(TLS_TYPE);
        let pair = match manifest.kind.as_deref() {
            Some(TLS_TYPE) => {
                let (certificate, key) = (manifest.bytes(KeyPair::CERTIFICATE), manifest.bytes(KeyPair::KEY));
                let pair = KeyPair::from_pem(&certificate, &key).map(Arc::new);
                pair.map_err(|error| NoPair::Unusable(error.to_string().into()))
            }
            Some(_) | None => Err(NoPair::Unusable(format!("it is not of type {TLS_TYPE}").into())),
        };
        let read = || Authorities::from_pem(&manifest.bytes(Authorities::FIELD)).map(Arc::new);
        let authorities = manifest.has(Authorities::FIELD).then(read);
        let read = || PasswordFile::parse(&manifest.bytes(PasswordFile::FIELD)).map(Arc::new);
        let users = manifest.has(PasswordFile::FIELD).then(read);
        let api_keys = (!is_of_tls).then(|| Arc::new(manifest.api_keys()));
        Self { pair, problem: None, authorities, users, api_keys }
    }
}

impl Kind for Secret {
    const NAME: &'static str = "Secret";
    const API_VERSIONS: &'static [&'static str] = &["v1"];

    type Manifest = Manifest;

    fn schema() -> Value {
        schema_of::<core::Secret>()
    }

    fn check(manifest: &Manifest) -> Vec<Violation> {
        let fields = manifest.data.iter().flatten();
        let broken = fields.filter(|(_, value)| ByteString::deserialize(*value).is_err());
        broken.map(|(name, _)| Violation::new(format!("data[{name}]"), "other text", "base64")).collect()
    }

    fn reduce(manifest: Manifest) -> Self {
        manifest.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(manifest: Value) -> Secret {
        serde_json::from_value(manifest).expect("a Secret")
    }

    #[test]
    fn pairs_are_read_from_both_kinds_of_data() {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("made");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let encoded = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).expect("base64");
        let data = json!({ "tls.crt": encoded(&certificate), "tls.key": encoded(&key) });
        let one = secret(json!({ "type": TLS_TYPE, "data": data }));
        let two = secret(json!({ "type": TLS_TYPE, "stringData": { "tls.crt": certificate, "tls.key": key } }));
        assert!(one.pair.is_ok() && one == two);
        let of_other_type = secret(json!({ "type": "Opaque", "data": data }));
        assert_eq!(of_other_type.pair.expect_err("no pair").text(), "it is not of type kubernetes.io/tls");
        let empty = secret(json!({ "type": TLS_TYPE }));
        assert!(empty.pair.expect_err("no pair").text().starts_with("tls.crt holds no certificate"));
    }

    #[test]
    fn what_is_no_base64_is_told_without_its_text() {
        let manifest = serde_json::from_value(json!({ "data": { "tls.key": "marker!" } })).expect("a manifest");
        let violations = Secret::check(&manifest);
        assert_eq!(violations, [Violation::new("data[tls.key]", "other text", "base64")]);
    }
}
