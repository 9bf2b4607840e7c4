//! Filters that ask who a client is, and admit clients by it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{BackendObjectRef, DurationText, RequestKey, one_second};
use crate::api::open_enum::{OpenEnum, known_values};
use crate::api::schema::{self, cel};

known_values! {
    /// Protocol of an external authorisation service.
    pub enum AuthProtocol {
        /// The request's head over HTTP.
        Http = "HTTP",
        /// Envoy's `ext_authz` over gRPC.
        Grpc = "GRPC",
    }
}

/// A question to a service whether the request may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuth {
    /// Protocol of the service.
    pub protocol: OpenEnum<AuthProtocol>,
    /// The service.
    pub backend_ref: BackendObjectRef,
    /// Details for protocol HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExternalAuthHttp")]
    pub http: Option<ExternalAuthHttp>,
    /// Details for protocol GRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExternalAuthGrpc")]
    pub grpc: Option<ExternalAuthGrpc>,
    /// Sends the request's body along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ForwardBody")]
    pub forward_body: Option<ForwardBody>,
    /// How long the answer may take.
    #[serde(default = "one_second")]
    pub timeout: DurationText,
    /// Whether requests pass when the service cannot be asked.
    #[serde(default)]
    pub fail_open: bool,
}

/// External authorisation over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuthHttp {
    /// Prefix of the path that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub path: Option<String>,
    /// Request headers that are sent along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that are added to the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_response_headers: Vec<String>,
}

/// External authorisation over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuthGrpc {
    /// Request headers that are sent along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_headers: Vec<String>,
}

/// How much of a body goes to the authorisation service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ForwardBody {
    /// Largest number of bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<0>")]
    pub max_size: Option<u32>,
}

known_values! {
    /// What happens to requests without a valid token.
    pub enum JwtMode {
        /// They are refused.
        Require = "Require",
        /// Those without any token pass.
        Optional = "Optional",
    }
    default Require
}

/// Validation of JSON Web Tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Jwt {
    /// Issuers whose tokens are accepted.
    #[schemars(with = "schema::MapByNameSome<JwtProvider, 4>")]
    pub providers: Vec<JwtProvider>,
    /// What happens to requests without a token.
    #[serde(default)]
    pub mode: OpenEnum<JwtMode>,
    /// Scopes that the token must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<128>, 16>")]
    pub required_scopes: Vec<String>,
}

/// One issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct JwtProvider {
    /// Name of the provider.
    #[schemars(with = "schema::DnsSubdomain")]
    pub name: String,
    /// The `iss` claim that tokens must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<253>")]
    pub issuer: Option<String>,
    /// Audiences of which tokens must name one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<253>, 8>")]
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub jwks: Jwks,
    /// Where the token is read from; default: the bearer token of `authorization`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub from: Vec<RequestKey>,
    /// Claims that are sent upstream as headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<ClaimToHeader, 16>")]
    pub claims_to_headers: Vec<ClaimToHeader>,
    /// Whether the token itself is sent upstream.
    #[serde(default)]
    pub forward: bool,
}

/// Keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "has(self.uri) != has(self.configMapRef)",
    "jwks takes exactly one of uri and configMapRef",
)])))]
pub struct Jwks {
    /// URL of the key set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::HttpUrl")]
    pub uri: Option<String>,
    /// How long fetched keys are used.
    #[serde(default = "ten_minutes")]
    pub cache_duration: DurationText,
    /// ConfigMap with the key set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ConfigMapKeyRef")]
    pub config_map_ref: Option<ConfigMapKeyRef>,
}

fn ten_minutes() -> DurationText {
    "10m".into()
}

/// A key of a ConfigMap in the namespace of the route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Its key.
    #[schemars(with = "schema::Text<253>")]
    pub key: String,
}

/// A claim that becomes a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct ClaimToHeader {
    /// Name of the claim.
    #[schemars(with = "schema::Text<253>")]
    pub claim: String,
    /// Name of the header.
    #[schemars(with = "schema::Token")]
    pub header: String,
}

/// User names and passwords.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct BasicAuth {
    /// Secret with an `auth` key in htpasswd form.
    pub secret_ref: SecretNameRef,
    /// The realm that clients are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::PlainText<128>")]
    pub realm: Option<String>,
}

/// A Secret in the namespace of the route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SecretNameRef {
    /// Name of the Secret.
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
