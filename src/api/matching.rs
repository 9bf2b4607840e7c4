//! What a rule asks of a request.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::open_enum::{OpenEnum, known_values};
use super::schema::{self, cel};
use super::seldom::Seldom;

known_values! {
    /// How a path is compared.
    pub enum PathMatchType {
        /// The whole path.
        Exact = "Exact",
        /// The path or anything below it, by element.
        PathPrefix = "PathPrefix",
        /// Literal segments, `{name}` for one segment, and a last `{name*}` for the rest.
        Template = "Template",
        /// The whole canonical path without query, case-sensitive.
        RegularExpression = "RegularExpression",
    }
    default PathPrefix
}

known_values! {
    /// How a header, query parameter or cookie is compared.
    pub enum ValueMatchType {
        /// The whole value.
        Exact = "Exact",
        /// The whole value against a regular expression.
        RegularExpression = "RegularExpression",
        /// The beginning of the value.
        Prefix = "Prefix",
        /// It is there, with any value.
        Present = "Present",
        /// It is not there.
        Absent = "Absent",
    }
    default Exact
}

known_values! {
    /// Methods that a match can name.
    pub enum MatchMethod {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// DELETE.
        Delete = "DELETE",
        /// OPTIONS.
        Options = "OPTIONS",
        /// PATCH.
        Patch = "PATCH",
    }
}

known_values! {
    /// How a gRPC service and method are compared.
    pub enum GrpcMatchType {
        /// Names as written.
        Exact = "Exact",
        /// Regular expressions.
        RegularExpression = "RegularExpression",
    }
    default Exact
}

/// Predicates on a request; all of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RouteMatch {
    /// The path; default: everything.
    #[serde(default)]
    pub path: PathMatch,
    /// Headers, by name; names are case-insensitive.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "schema::MapByName<HeaderMatchSchema, 16>")]
    pub headers: Seldom<[ValueMatch]>,
    /// Query parameters, by name; the first of several counts.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "schema::MapByName<ShortMatchSchema, 16>")]
    pub query_params: Seldom<[ValueMatch]>,
    /// Cookies, by name; the first of several counts.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "schema::MapByName<ShortMatchSchema, 8>")]
    pub cookies: Seldom<[ValueMatch]>,
    /// The method; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OpenEnum<MatchMethod>")]
    pub method: Option<OpenEnum<MatchMethod>>,
    /// gRPC service and method; becomes the path they are called by, so no other path may stand beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GrpcMatch")]
    pub grpc: Option<Box<GrpcMatch>>,
}

/// The matches of a rule. The one for every request, which half of all rules have, takes no memory of its own.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Matches(Option<Box<[RouteMatch]>>);

/// What the default of [`Matches`] has.
static EVERYTHING: LazyLock<[RouteMatch; 1]> = LazyLock::new(Default::default);

impl Deref for Matches {
    type Target = [RouteMatch];

    fn deref(&self) -> &[RouteMatch] {
        self.0.as_deref().unwrap_or(&*EVERYTHING)
    }
}

impl From<Box<[RouteMatch]>> for Matches {
    fn from(matches: Box<[RouteMatch]>) -> Self {
        Self((*matches != *EVERYTHING).then_some(matches))
    }
}

impl fmt::Debug for Matches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Serialize for Matches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Matches {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::deserialize(deserializer).map(Self::from)
    }
}

/// A predicate on the canonical path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(PATH_RULES)))]
pub struct PathMatch {
    /// How the path is compared.
    pub r#type: OpenEnum<PathMatchType>,
    /// Path, template or regular expression.
    #[schemars(with = "schema::Text<1024>")]
    pub value: Box<str>,
}

const PATH_RULES: &[(&str, &str)] = &[
    ("self.type == 'RegularExpression' || self.value.startsWith('/')", "path must start with '/'"),
    (
        "self.type == 'RegularExpression' || !(self.value.contains('//') || self.value.contains('/./') || \
         self.value.contains('/../') || self.value.endsWith('/.') || self.value.endsWith('/..'))",
        "path must be normalised",
    ),
    (
        "self.type == 'RegularExpression' || !(self.value.contains('%2f') || self.value.contains('%2F') || \
         self.value.contains('#'))",
        "path must not contain an encoded slash or a fragment",
    ),
    (
        "self.type == 'Template' || self.type == 'RegularExpression' || \
         self.value.matches('^(?:[-A-Za-z0-9/._~!$&\\'()*+,;=:@]|[%][0-9a-fA-F]{2})+$')",
        "path has characters that need escaping",
    ),
    (
        r"self.type != 'Template' || self.value.matches('^(/(\\{[A-Za-z_][A-Za-z0-9_]*(\\*)?\\}|[-A-Za-z0-9._~!$&+,;=:@%]+))+/?$')",
        "template segments are literals, {name} or a last {name*}",
    ),
];

impl Default for PathMatch {
    /// Prefix `/`: everything.
    fn default() -> Self {
        Self { r#type: OpenEnum::default(), value: "/".into() }
    }
}

/// A predicate on one header, query parameter or cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "self.type in ['Present','Absent'] ? !has(self.value) : has(self.value)",
    "value is required unless type is Present or Absent, and forbidden otherwise",
)])))]
pub struct ValueMatch {
    /// How the value is compared.
    #[serde(default)]
    pub r#type: OpenEnum<ValueMatchType>,
    /// Name of the header, parameter or cookie.
    #[schemars(with = "schema::Token")]
    pub name: String,
    /// Value or regular expression; not for Present and Absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::HeaderText")]
    pub value: Option<String>,
}

/// Schema of a [`ValueMatch`] on a header.
#[derive(Debug)]
pub enum HeaderMatchSchema {}

impl JsonSchema for HeaderMatchSchema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("HeaderMatch")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        ValueMatch::json_schema(generator)
    }
}

/// Schema of a [`ValueMatch`] on a query parameter or cookie: shorter values, and any byte that a URL can carry.
#[derive(Debug)]
pub enum ShortMatchSchema {}

impl JsonSchema for ShortMatchSchema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("ShortMatch")
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = ValueMatch::json_schema(generator);
        let value = schema.pointer_mut("/properties/value").and_then(serde_json::Value::as_object_mut);
        if let Some(value) = value {
            value.insert("maxLength".to_owned(), 1024.into());
            value.remove("pattern");
        }
        schema
    }
}

/// A gRPC call by service and method.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "has(self.service) || has(self.method)",
    "service or method is required",
)])))]
pub struct GrpcMatch {
    /// How service and method are compared.
    #[serde(default)]
    pub r#type: OpenEnum<GrpcMatchType>,
    /// Full name of the service, such as `bank.v1.Ledger`; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub service: Option<String>,
    /// Name of the method; default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub method: Option<String>,
}
