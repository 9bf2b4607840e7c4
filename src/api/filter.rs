//! Filters: layers around the upstream, in the order they are written.
//!
//! There is one [`Filter`] type. Which types may stand on a route, a rule or a backendRef is a matter of three schemas:
//! [`RouteFilters`], [`RuleFilters`] and [`BackendFilters`].

mod auth;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::auth::{
    AuthProtocol, BasicAuth, ClaimToHeader, ConfigMapKeyRef, ExternalAuth, ExternalAuthGrpc, ExternalAuthHttp,
    ForwardBody, Jwks, Jwt, JwtMode, JwtProvider, SecretNameRef,
};
use super::common::{BackendObjectRef, DurationText, RequestKey};
use super::open_enum::{KnownValue, OpenEnum, known_values};
use super::schema::{self, VALIDATIONS, cel};

known_values! {
    /// What a filter does.
    pub enum FilterType {
        /// Changes headers of the request.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// Changes headers of the response.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// Sends a copy of the request elsewhere.
        RequestMirror = "RequestMirror",
        /// Answers with a redirect.
        RequestRedirect = "RequestRedirect",
        /// Changes host or path of the request.
        UrlRewrite = "URLRewrite",
        /// Answers preflight requests and adds CORS headers.
        Cors = "CORS",
        /// Asks a service whether the request may pass.
        ExternalAuth = "ExternalAuth",
        /// A filter defined elsewhere; reserved.
        ExtensionRef = "ExtensionRef",
        /// Validates a JSON Web Token.
        Jwt = "JWT",
        /// Asks for user name and password.
        BasicAuth = "BasicAuth",
        /// Admits or refuses client addresses.
        IpAccess = "IPAccess",
        /// Limits requests per time.
        RateLimit = "RateLimit",
        /// Limits requests at the same time.
        ConcurrencyLimit = "ConcurrencyLimit",
        /// Lets equal concurrent requests share one upstream call.
        Coalesce = "Coalesce",
        /// Limits the size of request bodies.
        BodyLimit = "BodyLimit",
        /// Compresses responses.
        Compression = "Compression",
        /// Answers with a fixed response.
        DirectResponse = "DirectResponse",
    }
}

impl FilterType {
    /// Name of the member of [`Filter`] that goes with this type.
    pub fn member(self) -> &'static str {
        match self {
            Self::RequestHeaderModifier => "requestHeaderModifier",
            Self::ResponseHeaderModifier => "responseHeaderModifier",
            Self::RequestMirror => "requestMirror",
            Self::RequestRedirect => "requestRedirect",
            Self::UrlRewrite => "urlRewrite",
            Self::Cors => "cors",
            Self::ExternalAuth => "externalAuth",
            Self::ExtensionRef => "extensionRef",
            Self::Jwt => "jwt",
            Self::BasicAuth => "basicAuth",
            Self::IpAccess => "ipAccess",
            Self::RateLimit => "rateLimit",
            Self::ConcurrencyLimit => "concurrencyLimit",
            Self::Coalesce => "coalesce",
            Self::BodyLimit => "bodyLimit",
            Self::Compression => "compression",
            Self::DirectResponse => "directResponse",
        }
    }

    /// True for types of which one list may have only one.
    fn at_most_once(self) -> bool {
        match self {
            Self::RequestHeaderModifier
            | Self::ResponseHeaderModifier
            | Self::RequestRedirect
            | Self::UrlRewrite
            | Self::Cors
            | Self::Jwt
            | Self::Coalesce
            | Self::Compression
            | Self::DirectResponse => true,
            Self::RequestMirror
            | Self::ExternalAuth
            | Self::ExtensionRef
            | Self::BasicAuth
            | Self::IpAccess
            | Self::RateLimit
            | Self::ConcurrencyLimit
            | Self::BodyLimit => false,
        }
    }
}

/// One layer: `type` plus exactly the member of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Filter {
    /// What the filter does; the member of the same name must be set and no other.
    pub r#type: OpenEnum<FilterType>,
    /// Changes headers of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HeaderModifier")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes headers of the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HeaderModifier")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// Sends a copy of the request elsewhere; its answer is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RequestMirror")]
    pub request_mirror: Option<RequestMirror>,
    /// Answers with a redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RequestRedirect")]
    pub request_redirect: Option<RequestRedirect>,
    /// Changes host or path of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UrlRewrite")]
    pub url_rewrite: Option<UrlRewrite>,
    /// Answers preflight requests and adds CORS headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Cors")]
    pub cors: Option<Cors>,
    /// Asks a service whether the request may pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExternalAuth")]
    pub external_auth: Option<ExternalAuth>,
    /// A filter defined by another object; reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExtensionRef")]
    pub extension_ref: Option<ExtensionRef>,
    /// Validates a JSON Web Token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Jwt")]
    pub jwt: Option<Jwt>,
    /// Asks for user name and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BasicAuth")]
    pub basic_auth: Option<BasicAuth>,
    /// Admits or refuses client addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IpAccess")]
    pub ip_access: Option<IpAccess>,
    /// Limits requests per time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RateLimit")]
    pub rate_limit: Option<RateLimit>,
    /// Limits requests at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ConcurrencyLimit")]
    pub concurrency_limit: Option<ConcurrencyLimit>,
    /// Lets equal concurrent requests share one upstream call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Coalesce")]
    pub coalesce: Option<Coalesce>,
    /// Limits the size of request bodies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BodyLimit")]
    pub body_limit: Option<BodyLimit>,
    /// Compresses responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Compression")]
    pub compression: Option<Compression>,
    /// Answers with a fixed response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DirectResponse")]
    pub direct_response: Option<DirectResponse>,
}

/// Types that may stand in `spec.filters`.
pub const ROUTE_FILTERS: &[FilterType] = &[
    FilterType::RequestHeaderModifier,
    FilterType::ResponseHeaderModifier,
    FilterType::RequestMirror,
    FilterType::Cors,
    FilterType::ExternalAuth,
    FilterType::ExtensionRef,
    FilterType::Jwt,
    FilterType::BasicAuth,
    FilterType::IpAccess,
    FilterType::RateLimit,
    FilterType::ConcurrencyLimit,
    FilterType::Coalesce,
    FilterType::BodyLimit,
    FilterType::Compression,
];

/// Types that may stand in `backendRefs[].filters`.
pub const BACKEND_FILTERS: &[FilterType] = &[
    FilterType::RequestHeaderModifier,
    FilterType::ResponseHeaderModifier,
    FilterType::RequestMirror,
    FilterType::RequestRedirect,
    FilterType::UrlRewrite,
    FilterType::Cors,
    FilterType::ExtensionRef,
];

/// The schema of a list of filters of these types, narrowed from that of [`Filter`].
fn filters_of(types: &[FilterType], generator: &mut SchemaGenerator) -> Schema {
    let mut item = Filter::json_schema(generator);
    let names: Vec<_> = types.iter().map(|filter| filter.as_str()).collect();
    if let Some(properties) = item.get_mut("properties").and_then(Value::as_object_mut) {
        let all = std::mem::take(properties);
        *properties = all
            .into_iter()
            .filter(|(name, _)| name == "type" || types.iter().any(|filter| filter.member() == name))
            .collect::<Map<_, _>>();
        if let Some(kind) = properties.get_mut("type").and_then(Value::as_object_mut) {
            kind.insert("enum".to_owned(), json!(names));
        }
    }
    let members = types.iter().map(|filter| {
        let (name, member) = (filter.as_str(), filter.member());
        json!({
            "rule": format!("has(self.{member}) == (self.type == '{name}')"),
            "message": format!("{member} must be set exactly when type is {name}"),
        })
    });
    item.insert(VALIDATIONS.to_owned(), members.collect());
    let exclusive = json!({
        "rule": "!(self.exists(f, f.type == 'RequestRedirect') && self.exists(f, f.type == 'URLRewrite'))",
        "message": "RequestRedirect and URLRewrite exclude each other",
    });
    let repeated = types.iter().filter(|filter| filter.at_most_once()).map(|filter| {
        let name = filter.as_str();
        json!({
            "rule": format!("self.filter(f, f.type == '{name}').size() <= 1"),
            "message": format!("{name} cannot be repeated"),
        })
    });
    // Only where both can stand: a rule that cannot fail would cost a share of the API server's CEL budget for nothing.
    let both = [FilterType::RequestRedirect, FilterType::UrlRewrite].iter().all(|filter| types.contains(filter));
    let rules: Value = both.then_some(exclusive).into_iter().chain(repeated).collect();
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": item,
        "x-kubernetes-list-type": "atomic",
        VALIDATIONS: rules,
    })
}

macro_rules! filter_lists {
    ($($(#[$meta:meta])* $name:ident = $types:expr;)+) => {
        $(
            $(#[$meta])*
            #[derive(Debug)]
            pub enum $name {}

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }

                fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                    filters_of($types, generator)
                }
            }
        )+
    };
}

filter_lists! {
    /// Schema of `spec.filters`.
    RouteFilters = ROUTE_FILTERS;
    /// Schema of `rules[].filters`: every type.
    RuleFilters = FilterType::ALL;
    /// Schema of `backendRefs[].filters`.
    BackendFilters = BACKEND_FILTERS;
}

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

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "self.numerator <= self.denominator",
    "numerator must not exceed denominator",
)])))]
pub struct Fraction {
    /// How many of `denominator` requests.
    #[schemars(with = "schema::IntFrom<0>")]
    pub numerator: u32,
    /// Of how many.
    #[serde(default = "hundred")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub denominator: u32,
}

fn hundred() -> u32 {
    100
}

/// A copy of requests for another Service; answers are dropped, errors only counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "!(has(self.percent) && has(self.fraction))",
    "give percent or fraction, not both",
)])))]
pub struct RequestMirror {
    /// Where the copy goes.
    pub backend_ref: BackendObjectRef,
    /// Share of requests in percent; default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<0, 100>")]
    pub percent: Option<u32>,
    /// Share of requests as a fraction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Fraction")]
    pub fraction: Option<Fraction>,
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

/// Cross-origin resource sharing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Cors {
    /// Origins that may read answers; `*` for all, or a leading wildcard label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<253>, 64>")]
    pub allow_origins: Vec<String>,
    /// Whether requests may carry credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub allow_credentials: Option<bool>,
    /// Methods that may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<16>, 10>")]
    pub allow_methods: Vec<String>,
    /// Headers that requests may carry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<256>, 64>")]
    pub allow_headers: Vec<String>,
    /// Headers that scripts may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::PlainText<256>, 64>")]
    pub expose_headers: Vec<String>,
    /// How long a preflight answer may be kept, in seconds.
    #[serde(default = "five")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_age: u32,
}

fn five() -> u32 {
    5
}

/// A filter defined by another object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ExtensionRef {
    /// Group of the object.
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the object.
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Name of the object, in the namespace of the route.
    #[schemars(with = "schema::Name")]
    pub name: String,
}

/// Client addresses that may pass; `deny` wins over `allow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "has(self.allow) || has(self.deny)",
    "allow or deny is required",
)])))]
pub struct IpAccess {
    /// Addresses and CIDRs that may pass; default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<schema::Text<43>, 64>")]
    pub allow: Vec<String>,
    /// Addresses and CIDRs that may not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<schema::Text<43>, 64>")]
    pub deny: Vec<String>,
}

fn one_second() -> DurationText {
    "1s".into()
}

/// A limit of requests per time, per replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RateLimit {
    /// Requests per interval.
    #[schemars(with = "schema::IntFrom<1>")]
    pub requests: u32,
    /// The interval.
    #[serde(default = "one_second")]
    pub interval: DurationText,
    /// Requests that may come at once; default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<0>")]
    pub burst: Option<u32>,
    /// What is limited separately; default: the rule as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub keys: Vec<RequestKey>,
    /// Status of the answer above the limit.
    #[serde(default = "too_many_requests")]
    #[schemars(with = "schema::Int<400, 599>")]
    pub status_code: u16,
}

fn too_many_requests() -> u16 {
    429
}

/// A limit of requests at the same time, per replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "self.maxQueued == 0 || has(self.queueTimeout)",
    "a queue needs queueTimeout",
)])))]
pub struct ConcurrencyLimit {
    /// Requests in flight.
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_in_flight: u32,
    /// Requests that may wait.
    #[serde(default)]
    #[schemars(with = "schema::IntFrom<0>")]
    pub max_queued: u32,
    /// How long a request may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub queue_timeout: Option<DurationText>,
    /// What is limited separately; default: the rule as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub keys: Vec<RequestKey>,
    /// Status of the answer above the limit.
    #[serde(default = "service_unavailable")]
    #[schemars(with = "schema::Int<400, 599>")]
    pub status_code: u16,
}

fn service_unavailable() -> u16 {
    503
}

known_values! {
    /// Methods whose requests can be shared.
    pub enum CoalesceMethod {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
    }
}

/// One upstream call for equal concurrent requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Coalesce {
    /// Methods that are shared.
    #[schemars(with = "schema::Set<OpenEnum<CoalesceMethod>, 2>")]
    pub methods: Vec<OpenEnum<CoalesceMethod>>,
    /// Headers in which requests must agree to be equal.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Token, 8>")]
    pub vary_headers: Vec<String>,
    /// Requests that may wait for one call.
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_waiters: u32,
    /// Largest body that is shared, in bytes.
    #[schemars(with = "schema::IntFrom<0>")]
    pub max_body_bytes: u32,
}

impl Default for Coalesce {
    fn default() -> Self {
        Self {
            methods: vec![CoalesceMethod::Get.into(), CoalesceMethod::Head.into()],
            vary_headers: Vec::new(),
            max_waiters: 1024,
            max_body_bytes: 1024 * 1024,
        }
    }
}

/// A limit for request bodies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct BodyLimit {
    /// Largest body in bytes.
    #[schemars(with = "schema::LongFrom<0>")]
    pub max_bytes: u64,
}

known_values! {
    /// Coding of a compressed response.
    pub enum CompressionAlgorithm {
        /// Brotli.
        Brotli = "br",
        /// gzip.
        Gzip = "gzip",
        /// Zstandard.
        Zstd = "zstd",
    }
}

/// Compression of responses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Compression {
    /// Codings in order of preference.
    #[schemars(with = "schema::Atomic<OpenEnum<CompressionAlgorithm>, 3>")]
    pub algorithms: Vec<OpenEnum<CompressionAlgorithm>>,
    /// Smallest response that is compressed, in bytes.
    #[schemars(with = "schema::IntFrom<0>")]
    pub min_bytes: u32,
    /// Media types that are compressed; default: text, JSON, XML, JavaScript and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<128>, 32>")]
    pub content_types: Vec<String>,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            algorithms: vec![CompressionAlgorithm::Brotli.into(), CompressionAlgorithm::Gzip.into()],
            min_bytes: 1024,
            content_types: Vec::new(),
        }
    }
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct DirectResponse {
    /// Status of the answer.
    #[schemars(with = "schema::Int<200, 599>")]
    pub status_code: u16,
    /// Media type of the body.
    #[serde(default = "text_plain")]
    #[schemars(with = "schema::PlainText<128>")]
    pub content_type: String,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<4096>")]
    pub body: Option<String>,
}

fn text_plain() -> String {
    "text/plain".to_owned()
}
