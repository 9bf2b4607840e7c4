//! ConfigMap: certificates of authorities that are trusted, and keys that tokens are verified with. Nothing else of any is
//! kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use super::violation::Violation;
use crate::model::key_set::{KeySet, KeySetError};
use crate::model::tls::{Authorities, AuthoritiesError};

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Manifest")]
pub struct ConfigMap {
    /// The authorities in its field `ca.crt`, or why there are none.
    pub authorities: Result<Arc<Authorities>, NoAuthorities>,
    /// The key sets in its fields, by name; of any other field why it is none.
    key_sets: BTreeMap<Box<str>, Result<Arc<KeySet>, KeySetError>>,
    /// Why the newest content may not be read, so that what it holds is earlier; the words for operators.
    pub earlier_stay: Option<Box<str>>,
}

/// Why there are no authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAuthorities {
    /// What the object holds cannot be used.
    Unusable(AuthoritiesError),
    /// The object may not be read; the words for operators.
    Unreadable(Box<str>),
}

/// Why there is no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeySet {
    /// There is no such field.
    #[error("it is not there")]
    Missing,
    /// What it holds cannot be used.
    #[error(transparent)]
    Unusable(KeySetError),
    /// The object may not be read; the words for operators.
    #[error("{0}")]
    Unreadable(Box<str>),
}

impl ConfigMap {
    /// One that may not be read, with the words for operators.
    #[must_use]
    pub fn unreadable(why: Box<str>) -> Self {
        Self { authorities: Err(NoAuthorities::Unreadable(why)), key_sets: BTreeMap::new(), earlier_stay: None }
    }

    /// The same, as what was read before its newest content could not be read any more; with the words for operators.
    #[must_use]
    pub fn kept(self, why: Box<str>) -> Self {
        Self { earlier_stay: Some(why), ..self }
    }

    /// The key set in a field.
    ///
    /// # Errors
    /// Why there is none.
    pub fn key_set(&self, field: &str) -> Result<Arc<KeySet>, NoKeySet> {
        match (self.key_sets.get(field), &self.authorities) {
            (Some(read), _) => read.clone().map_err(NoKeySet::Unusable),
            (None, Err(NoAuthorities::Unreadable(why))) => Err(NoKeySet::Unreadable(why.clone())),
            (None, Ok(_) | Err(NoAuthorities::Unusable(_))) => Err(NoKeySet::Missing),
        }
    }
}

/// A ConfigMap as users and API servers write it.
#[derive(Clone, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    data: Option<BTreeMap<Box<str>, String>>,
}

impl From<Manifest> for ConfigMap {
    fn from(manifest: Manifest) -> Self {
        let data = manifest.data.unwrap_or_default();
        let text = data.get(Authorities::FIELD).ok_or(AuthoritiesError::Missing);
        let authorities = text.and_then(|text| Authorities::from_pem(text.as_bytes()));
        let read = |text: String| KeySet::parse(text.as_bytes()).map(Arc::new);
        Self {
            authorities: authorities.map(Arc::new).map_err(NoAuthorities::Unusable),
            key_sets: data.into_iter().map(|(field, text)| (field, read(text))).collect(),
            earlier_stay: None,
        }
    }
}

impl Kind for ConfigMap {
    const NAME: &'static str = "ConfigMap";
    const API_VERSIONS: &'static [&'static str] = &["v1"];

    type Manifest = Manifest;

    fn schema() -> Value {
        schema_of::<core::ConfigMap>()
    }

    fn check(_: &Manifest) -> Vec<Violation> {
        Vec::new()
    }

    fn reduce(manifest: Manifest) -> Self {
        manifest.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn authorities_are_read_and_nothing_else() {
        let pem = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("made").cert.pem();
        let read = |data: Value| serde_json::from_value::<ConfigMap>(data).expect("a ConfigMap").authorities;
        assert!(read(json!({ "data": { "ca.crt": pem, "other": "text" } })).is_ok());
        for (manifest, expected) in [
            (json!({}), AuthoritiesError::Missing),
            (json!({ "data": { "ca.pem": pem } }), AuthoritiesError::Missing),
            (json!({ "data": { "ca.crt": "text" } }), AuthoritiesError::Certificate),
        ] {
            assert_eq!(read(manifest), Err(NoAuthorities::Unusable(expected)));
        }
    }

    #[test]
    fn key_sets_are_read_from_any_field() {
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
        let keys = json!({ "keys": [key] }).to_string();
        let data = json!({ "data": { "jwks.json": keys, "other": "text" } });
        let read = serde_json::from_value::<ConfigMap>(data).expect("a ConfigMap");
        assert_eq!(read.key_set("jwks.json").as_deref(), Ok(&KeySet::parse(keys.as_bytes()).expect("keys")));
        assert_eq!(read.key_set("other"), Err(NoKeySet::Unusable(KeySetError::Malformed)));
        assert_eq!(read.key_set("missing"), Err(NoKeySet::Missing));
        let why: Box<str> = "not allowed".into();
        assert_eq!(ConfigMap::unreadable(why.clone()).key_set("jwks.json"), Err(NoKeySet::Unreadable(why)));
    }
}
