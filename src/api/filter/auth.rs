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

/// A question to a service whether the request may pass. What the service does not answer, or not in a form that is
/// understood, does not pass: the client gets a 503.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuth {
    /// Protocol of the service. HTTP: the service gets the head of the request; status 200 lets it pass, and any other below
    /// 500 is the client's answer. GRPC: the service has the method `envoy.service.auth.v3.Authorization/Check`.
    pub protocol: OpenEnum<AuthProtocol>,
    /// The service. Where it does not exist, requests are answered with 500.
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
    /// How long the answer may take, counted from when the request's body is here, if it goes along.
    #[serde(default = "one_second")]
    pub timeout: DurationText,
    /// Whether requests pass when the service gives no answer. One that it refuses never passes.
    #[serde(default)]
    pub fail_open: bool,
}

/// External authorisation over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuthHttp {
    /// Prefix of the path that is asked; the path and query of the request follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<1024>")]
    pub path: Option<String>,
    /// Request headers that are sent along, beside `host`, `authorization`, `x-request-id` and `x-forwarded-*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that are added to the request. Those that the client sent under these names are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_response_headers: Vec<String>,
}

/// External authorisation over gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ExternalAuthGrpc {
    /// Request headers that are sent along; default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<256>, 64>")]
    pub allowed_headers: Vec<String>,
}

/// How much of a body goes to the authorisation service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ForwardBody {
    /// Largest number of bytes, at most 1 MiB; requests with a larger body are answered with 413. Default and 0: the body is
    /// not sent along, and not waited for.
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

known_values! {
    /// How a token may be signed (RFC 7518 §3.1, RFC 8037 §3.1).
    pub enum JwtAlgorithm {
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        Rs256 = "RS256",
        /// RSASSA-PKCS1-v1_5 with SHA-384.
        Rs384 = "RS384",
        /// RSASSA-PKCS1-v1_5 with SHA-512.
        Rs512 = "RS512",
        /// RSASSA-PSS with SHA-256.
        Ps256 = "PS256",
        /// RSASSA-PSS with SHA-384.
        Ps384 = "PS384",
        /// RSASSA-PSS with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

/// Validation of JSON Web Tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct Jwt {
    /// Issuers whose tokens are accepted.
    #[schemars(with = "schema::MapByNameSome<JwtProvider, 4>")]
    pub providers: Vec<JwtProvider>,
    /// What happens to requests without a token; one that is not valid is refused in any case.
    #[serde(default)]
    pub mode: OpenEnum<JwtMode>,
    /// Scopes that the token must have, all of them, in its claim `scope` or `scp`.
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
    /// The `iss` claim that tokens must have; it also chooses among providers. Default: any issuer, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<253>")]
    pub issuer: Option<String>,
    /// Audiences of which tokens must name one. Default: any audience, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<253>, 8>")]
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub jwks: Jwks,
    /// Where the token is read from: Header, Cookie and QueryParam, the first that has one; default: the bearer token of
    /// `authorization`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub from: Vec<RequestKey>,
    /// Claims that are sent upstream as headers. What the client sends under these names is removed in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<ClaimToHeader, 16>")]
    pub claims_to_headers: Vec<ClaimToHeader>,
    /// Whether the token itself is sent upstream.
    #[serde(default)]
    pub forward: bool,
    /// Algorithms that tokens may be signed with; default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<OpenEnum<JwtAlgorithm>, 9>")]
    pub algorithms: Vec<OpenEnum<JwtAlgorithm>>,
    /// By how much the issuer's clock and the gateway's may differ, at most 5m.
    #[serde(default = "one_minute")]
    pub clock_skew: DurationText,
}

fn one_minute() -> DurationText {
    "1m".into()
}

/// Keys of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "has(self.uri) != has(self.configMapRef)",
    "jwks takes exactly one of uri and configMapRef",
)])))]
pub struct Jwks {
    /// URL of the key set, `http` or `https`. Redirects are not followed, and in a cluster loopback and link-local
    /// addresses are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::HttpUrl")]
    pub uri: Option<String>,
    /// How long fetched keys are used before they are fetched again, 1m to 24h. A token with a key that is not there has
    /// them fetched at once.
    #[serde(default = "ten_minutes")]
    pub cache_duration: DurationText,
    /// ConfigMap with the key set, in the namespace of the route.
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
    /// Name of the claim, or names joined by dots that lead into objects.
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
    /// Secret whose field `auth` has the users, as Apache's `htpasswd` writes them.
    pub secret_ref: SecretNameRef,
    /// The realm that clients are told; default: namespace and name of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::PlainText<128>")]
    pub realm: Option<String>,
    /// Whether name and password are sent upstream.
    #[serde(default)]
    pub forward: bool,
    /// Header in which the user's name is sent upstream; what the client sent under that name is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Token")]
    pub user_header: Option<String>,
}

/// Keys that name clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ApiKey {
    /// Secret with one field for each client: its name and its key.
    pub secret_ref: SecretNameRef,
    /// Where the key is read from, first place first: Header, Cookie or QueryParam; default: header `x-api-key`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub from: Vec<RequestKey>,
    /// Whether the key itself is sent upstream.
    #[serde(default)]
    pub forward: bool,
    /// Header in which the client's name is sent upstream; what the client sent under that name is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Token")]
    pub client_header: Option<String>,
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
