//! ConfigMap: certificates of authorities that are trusted. Nothing else of any is kept.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use super::violation::Violation;
use crate::model::tls::{Authorities, AuthoritiesError};

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Manifest")]
pub struct ConfigMap {
    /// The authorities in its field `ca.crt`, or why there are none.
    pub authorities: Result<Arc<Authorities>, NoAuthorities>,
}

/// Why there are no authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAuthorities {
    /// What the object holds cannot be used.
    Unusable(AuthoritiesError),
    /// The object may not be read; the words for operators.
    Unreadable(Box<str>),
}

/// A ConfigMap as users and API servers write it.
#[derive(Clone, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Clone, Deserialize)]
struct Data {
    #[serde(default, rename = "ca.crt")]
    authorities: Option<String>,
}

impl From<Manifest> for ConfigMap {
    fn from(manifest: Manifest) -> Self {
        let text = manifest.data.and_then(|data| data.authorities).ok_or(AuthoritiesError::Missing);
        let read = text.and_then(|text| Authorities::from_pem(text.as_bytes()));
        Self { authorities: read.map(Arc::new).map_err(NoAuthorities::Unusable) }
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
}
