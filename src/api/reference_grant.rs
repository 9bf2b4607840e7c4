//! ReferenceGrant of Gateway API, v1 and v1beta1 (they are equal): an owner's consent to references from elsewhere.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::GATEWAY_GROUP;
use super::schema;

/// Consent of a namespace to be referenced. Grants only add up; a reference needs one grant that names both ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrant {
    /// `gateway.networking.k8s.io/v1` or `…/v1beta1`.
    pub api_version: String,
    /// `ReferenceGrant`.
    pub kind: String,
    /// Name, and the namespace that gives its consent.
    pub metadata: ObjectMeta,
    /// What is granted.
    pub spec: ReferenceGrantSpec,
}

/// What a grant allows: every `from` to every `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceGrantSpec {
    /// Who may refer; 1–16 entries.
    #[schemars(with = "schema::AtomicSome<ReferenceGrantFrom, 16>")]
    pub from: Vec<ReferenceGrantFrom>,
    /// What may be referred to in the grant's own namespace; 1–16 entries.
    #[schemars(with = "schema::AtomicSome<ReferenceGrantTo, 16>")]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects that may refer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceGrantFrom {
    /// Group of the referring object; empty for core.
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the referring object.
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Namespace of the referring object.
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceGrantTo {
    /// Group of the object; empty for core.
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the object.
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Its name; `None` (or empty): every object of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Name")]
    pub name: Option<String>,
}

impl ReferenceGrant {
    /// Versions that are read.
    pub const API_VERSIONS: [&'static str; 2] = ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];

    /// Group of the kind.
    pub const GROUP: &'static str = GATEWAY_GROUP;
}

impl ReferenceGrantSpec {
    /// True when an object of `from_group`/`from_kind` in `from_namespace` may refer to `to_group`/`to_kind` `to_name`
    /// in the grant's own namespace.
    pub fn allows(&self, from: (&str, &str, &str), to: (&str, &str, &str)) -> bool {
        let (from_group, from_kind, from_namespace) = from;
        let (to_group, to_kind, to_name) = to;
        self.from
            .iter()
            .any(|entry| entry.group == from_group && entry.kind == from_kind && entry.namespace == from_namespace)
            && self.to.iter().any(|entry| {
                entry.group == to_group
                    && entry.kind == to_kind
                    && entry.name.as_deref().is_none_or(|name| name.is_empty() || name == to_name)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_both_ends() {
        let grant = |name: Option<&str>| ReferenceGrant {
            spec: ReferenceGrantSpec {
                from: vec![ReferenceGrantFrom {
                    group: "tidegate.dev".to_owned(),
                    kind: "GatewayRoute".to_owned(),
                    namespace: "shop".to_owned(),
                }],
                to: vec![ReferenceGrantTo {
                    kind: "Service".to_owned(),
                    name: name.map(str::to_owned),
                    ..Default::default()
                }],
            },
            ..Default::default()
        };
        let route = ("tidegate.dev", "GatewayRoute", "shop");
        let service = ("", "Service", "invoices");
        for name in [None, Some(""), Some("invoices")] {
            assert!(grant(name).spec.allows(route, service), "{name:?}");
        }
        assert!(!grant(Some("other")).spec.allows(route, service));
        assert!(!grant(None).spec.allows(("tidegate.dev", "GatewayRoute", "blog"), service));
        assert!(!grant(None).spec.allows(("gateway.networking.k8s.io", "GatewayRoute", "shop"), service));
        assert!(!grant(None).spec.allows(("tidegate.dev", "HTTPRoute", "shop"), service));
        assert!(!grant(None).spec.allows(route, ("", "Secret", "invoices")));
    }
}
