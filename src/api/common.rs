//! Parts that many fields share: durations, references, keys and selectors.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text;

use super::open_enum::{OpenEnum, known_values};
use super::schema::{self, cel};

/// Group of Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// A GEP-2257 duration as written, such as `1h30m` or `500ms`; `0s` switches the limit off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct DurationText(#[schemars(with = "schema::Duration")] pub String);

impl DurationText {
    /// The duration, or `None` when the text is not one. Text that passed the schema always is.
    pub fn as_duration(&self) -> Option<Duration> {
        text::duration(&self.0)
    }
}

/// The default of fields that are a second when they are left out.
pub(super) fn one_second() -> DurationText {
    "1s".into()
}

impl From<&str> for DurationText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object that a route attaches to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ParentRef {
    /// Group of the parent; tidegate.dev for static listeners and GatewayRoutes.
    #[serde(default = "gateway_group")]
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the parent: Listener (a static one of the settings file), GatewayRoute (a rule of it delegates) or Service
    /// (for sidecars). Gateway and ListenerSet are not served yet, and the route is refused there. Other kinds are ignored.
    #[serde(default = "gateway_kind")]
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Namespace of the parent; default: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Listener of a Gateway, or rule of a GatewayRoute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsSubdomain")]
    pub section_name: Option<String>,
    /// Port of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 65535>")]
    pub port: Option<u16>,
}

fn gateway_group() -> String {
    GATEWAY_GROUP.to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

/// The default `kind` of a backend reference.
fn service_kind() -> String {
    "Service".to_owned()
}

/// A Service that a filter calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(SERVICE_NEEDS_PORT)))]
pub struct BackendObjectRef {
    /// Group of the backend; empty for core.
    #[serde(default)]
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the backend.
    #[serde(default = "service_kind")]
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Name of the backend.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Namespace of the backend; default: that of the route. Another one needs a ReferenceGrant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: Option<String>,
    /// Port of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 65535>")]
    pub port: Option<u16>,
}

/// CEL rule of every reference to a backend.
pub(super) const SERVICE_NEEDS_PORT: &[(&str, &str)] =
    &[("(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true", "Service backends need a port")];

known_values! {
    /// Where a key comes from.
    pub enum KeyType {
        /// The client's address.
        SourceIp = "SourceIP",
        /// A request header.
        Header = "Header",
        /// A cookie.
        Cookie = "Cookie",
        /// A query parameter.
        QueryParam = "QueryParam",
        /// A variable of the matched path template.
        PathParam = "PathParam",
        /// A claim of a validated JWT.
        JwtClaim = "JWTClaim",
        /// The request's host.
        Hostname = "Hostname",
    }
}

/// A part of the request that a key is taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "self.type in ['SourceIP','Hostname'] ? !has(self.name) : has(self.name)",
    "name is required for this key type",
)])))]
pub struct RequestKey {
    /// What the key is taken from.
    pub r#type: OpenEnum<KeyType>,
    /// Name of the header, cookie, parameter or claim; not for SourceIP and Hostname.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<256>")]
    pub name: Option<String>,
}

known_values! {
    /// How a label is compared.
    pub enum SelectorOperator {
        /// The label has one of the values.
        In = "In",
        /// The label is absent or has none of the values.
        NotIn = "NotIn",
        /// The label is present.
        Exists = "Exists",
        /// The label is absent.
        DoesNotExist = "DoesNotExist",
    }
}

/// Labels that an object must have; all requirements hold together, none at all match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct LabelSelector {
    /// Labels with their exact values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<SelectorRequirement, 16>")]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct SelectorRequirement {
    /// Key of the label.
    #[schemars(with = "schema::Text<317>")]
    pub key: String,
    /// How the label is compared.
    pub operator: OpenEnum<SelectorOperator>,
    /// Values for In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<schema::Text<63>, 32>")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// True when `labels` satisfy every requirement. An operator that this version does not know satisfies none.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                match requirement.operator.known() {
                    Some(SelectorOperator::In) => value.is_some_and(|value| requirement.values.contains(value)),
                    Some(SelectorOperator::NotIn) => value.is_none_or(|value| !requirement.values.contains(value)),
                    Some(SelectorOperator::Exists) => value.is_some(),
                    Some(SelectorOperator::DoesNotExist) => value.is_none(),
                    None => false,
                }
            })
    }
}

#[cfg(test)]
mod tests;
