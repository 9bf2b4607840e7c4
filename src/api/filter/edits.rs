//! Filters that change headers and paths of requests and responses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::open_enum::{OpenEnum, known_values};
use crate::api::schema::{self, cel};

/// A header with its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct HeaderValue {
    /// Name of the header, case-insensitive.
    #[schemars(with = "schema::Token")]
    pub name: String,
    /// Value of the header.
    #[schemars(with = "schema::HeaderText")]
    pub value: String,
}

/// Changes of headers; `remove` runs after `set` and `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct HeaderModifier {
    /// Headers to set: every line of that name is replaced by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::MapByName<HeaderValue, 16>")]
    pub set: Vec<HeaderValue>,
    /// Headers to add beside those of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::MapByName<HeaderValue, 16>")]
    pub add: Vec<HeaderValue>,
    /// Names of headers to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Token, 16>")]
    pub remove: Vec<String>,
}

known_values! {
    /// Scheme of a redirect.
    pub enum RedirectScheme {
        /// http.
        Http = "http",
        /// https.
        Https = "https",
    }
}

/// An answer that sends the client elsewhere; what is not given stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RequestRedirect {
    /// Scheme of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OpenEnum<RedirectScheme>")]
    pub scheme: Option<OpenEnum<RedirectScheme>>,
    /// Host of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsSubdomain")]
    pub hostname: Option<String>,
    /// Path of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathModifier")]
    pub path: Option<PathModifier>,
    /// Port of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 65535>")]
    pub port: Option<u16>,
    /// Status of the answer.
    #[serde(default = "found")]
    #[schemars(with = "schema::RedirectStatus")]
    pub status_code: u16,
}

fn found() -> u16 {
    302
}

/// A change of the request before it goes upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct UrlRewrite {
    /// The new host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsSubdomain")]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathModifier")]
    pub path: Option<PathModifier>,
}

known_values! {
    /// How a path is changed.
    pub enum PathModifierType {
        /// The whole path.
        ReplaceFullPath = "ReplaceFullPath",
        /// The part that the rule's prefix matched.
        ReplacePrefixMatch = "ReplacePrefixMatch",
        /// A new path with variables of the rule's templates.
        ReplaceTemplate = "ReplaceTemplate",
        /// What a regular expression matches.
        ReplaceRegularExpression = "ReplaceRegularExpression",
    }
}

/// A change of a path: `type` plus the member of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(PATH_MODIFIER_RULES)))]
pub struct PathModifier {
    /// How the path is changed.
    pub r#type: OpenEnum<PathModifierType>,
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub replace_full_path: Option<String>,
    /// What takes the place of the matched prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub replace_prefix_match: Option<String>,
    /// The new path with `{name}` for variables of the matched template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub replace_template: Option<String>,
    /// A regular expression and what takes the place of its match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RegularExpressionReplacement")]
    pub replace_regular_expression: Option<RegularExpressionReplacement>,
}

const PATH_MODIFIER_RULES: &[(&str, &str)] = &[
    (
        "self.type == 'ReplaceFullPath' ? has(self.replaceFullPath) : !has(self.replaceFullPath)",
        "replaceFullPath goes with type ReplaceFullPath",
    ),
    (
        "self.type == 'ReplacePrefixMatch' ? has(self.replacePrefixMatch) : !has(self.replacePrefixMatch)",
        "replacePrefixMatch goes with type ReplacePrefixMatch",
    ),
    (
        "self.type == 'ReplaceTemplate' ? has(self.replaceTemplate) : !has(self.replaceTemplate)",
        "replaceTemplate goes with type ReplaceTemplate",
    ),
    (
        "self.type == 'ReplaceRegularExpression' ? has(self.replaceRegularExpression) : \
         !has(self.replaceRegularExpression)",
        "replaceRegularExpression goes with its type",
    ),
];

/// A regular expression with its replacement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct RegularExpressionReplacement {
    /// The regular expression.
    #[schemars(with = "schema::Text<512>")]
    pub pattern: String,
    /// What takes the place of the match; `$1` or `${name}` for groups.
    #[schemars(with = "schema::Text<512>")]
    pub substitution: String,
}
