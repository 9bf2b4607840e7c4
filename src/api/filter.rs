//! Filters: layers around the upstream, in the order they are written.
//!
//! There is one [`Filter`] type. Which types may stand on a route, a rule or a backendRef is a matter of three schemas:
//! [`RouteFilters`], [`RuleFilters`] and [`BackendFilters`].

mod answers;
mod auth;
mod edits;
mod limits;
mod traffic;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use self::answers::{Compression, CompressionAlgorithm, Cors, DirectResponse};
pub use self::auth::{
    ApiKey, AuthProtocol, BasicAuth, ClaimToHeader, ConfigMapKeyRef, ExternalAuth, ExternalAuthGrpc, ExternalAuthHttp,
    ForwardBody, IpAccess, Jwks, Jwt, JwtAlgorithm, JwtMode, JwtProvider, SecretNameRef,
};
pub use self::edits::{
    HeaderModifier, HeaderValue, PathModifier, PathModifierType, RedirectScheme, RegularExpressionReplacement,
    RequestRedirect, UrlRewrite,
};
pub use self::limits::{BodyLimit, ConcurrencyLimit, RateLimit};
pub use self::traffic::{Coalesce, CoalesceMethod, Fraction, RequestMirror};
use super::common::BackendObjectRef;
use super::open_enum::{KnownValue, OpenEnum, known_values};
use super::schema::{self, VALIDATIONS};

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
        /// Asks for a key that names the client.
        ApiKey = "APIKey",
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
            Self::ApiKey => "apiKey",
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
            | Self::ApiKey
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
    /// Asks for a key that names the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ApiKey")]
    pub api_key: Option<ApiKey>,
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

impl Filter {
    /// The backend that it refers to; `None` for most types.
    #[must_use]
    pub fn backend_ref(&self) -> Option<&BackendObjectRef> {
        let mirror = self.request_mirror.as_ref().map(|mirror| &mirror.backend_ref);
        mirror.or(self.external_auth.as_ref().map(|auth| &auth.backend_ref))
    }
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
    FilterType::ApiKey,
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
