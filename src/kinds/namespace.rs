//! Namespace: labels that `delegate.namespaces.selector` asks for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};

/// A Namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "core::Namespace")]
pub struct Namespace {
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

impl From<core::Namespace> for Namespace {
    fn from(object: core::Namespace) -> Self {
        Self { labels: object.metadata.labels.unwrap_or_default() }
    }
}

impl Kind for Namespace {
    const NAME: &'static str = "Namespace";
    const API_VERSIONS: &'static [&'static str] = &["v1"];
    const IS_NAMESPACED: bool = false;
    const HAS_STATUS: bool = true;

    type Manifest = core::Namespace;

    fn schema() -> Value {
        schema_of::<core::Namespace>()
    }

    fn reduce(manifest: core::Namespace) -> Self {
        manifest.into()
    }
}
