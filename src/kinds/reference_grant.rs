//! ReferenceGrant: the consent of a namespace to be referred to from others.

use serde::Deserialize;
use serde_json::Value;

use super::kind::{Kind, schema_of};
use crate::api::reference_grant::{ReferenceGrant, ReferenceGrantSpec};

/// A ReferenceGrant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "ReferenceGrant")]
pub struct Grant {
    /// What is granted.
    pub spec: ReferenceGrantSpec,
}

impl From<ReferenceGrant> for Grant {
    fn from(object: ReferenceGrant) -> Self {
        Self { spec: object.spec }
    }
}

impl Kind for Grant {
    const NAME: &'static str = "ReferenceGrant";
    const API_VERSIONS: &'static [&'static str] = &ReferenceGrant::API_VERSIONS;

    type Manifest = ReferenceGrant;

    fn schema() -> Value {
        schema_of::<ReferenceGrant>()
    }

    fn reduce(manifest: ReferenceGrant) -> Self {
        manifest.into()
    }
}
