//! `GatewayRoute` v1alpha1: a superset of Gateway API's HTTPRoute.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::common::{
    BackendObjectRef, DurationText, KeyType, LabelSelector, ParentRef, RequestKey, SelectorOperator,
    SelectorRequirement,
};
pub use super::filter::{
    ApiKey, AuthProtocol, BasicAuth, BodyLimit, ClaimToHeader, Coalesce, CoalesceMethod, Compression,
    CompressionAlgorithm, ConcurrencyLimit, ConfigMapKeyRef, Cors, DirectResponse, ExtensionRef, ExternalAuth,
    ExternalAuthGrpc, ExternalAuthHttp, Filter, FilterType, ForwardBody, Fraction, HeaderModifier, HeaderValue,
    IpAccess, Jwks, Jwt, JwtMode, JwtProvider, PathModifier, PathModifierType, RateLimit, RedirectScheme,
    RegularExpressionReplacement, RequestMirror, RequestRedirect, SecretNameRef, UrlRewrite,
};
pub use super::matching::{
    GrpcMatch, GrpcMatchType, MatchMethod, Matches, PathMatch, PathMatchType, RouteMatch, ValueMatch, ValueMatchType,
};
pub use super::open_enum::{KnownValue, OpenEnum};
pub use super::policy::{
    Connection, CookieConfig, CookieLifetime, GrpcCode, HealthCheck, LoadBalancer, Locality, LocalityMode,
    OnMissingKey, OutlierDetection, Retry, RetryBudget, RetryTrigger, SameSite, SessionPersistence, SessionType,
    Timeouts, UpgradeDrain, UpgradeProtocol, Upgrades,
};

use super::filter::{BackendFilters, RouteFilters, RuleFilters};
use super::open_enum::known_values;
use super::policy::yes;
use super::schema::{self, cel};
use super::seldom::{BorrowDefault, Seldom};

/// Group of the kinds that are our own.
pub const GROUP: &str = "tidegate.dev";

/// `apiVersion` of a GatewayRoute.
pub const API_VERSION: &str = "tidegate.dev/v1alpha1";

/// The class that routes have unless they name one.
pub const DEFAULT_CLASS: &str = "tidegate";

/// What a user wants of a route.
#[allow(clippy::duplicated_attributes, reason = "columns have the same type more than once")]
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tidegate.dev",
    version = "v1alpha1",
    kind = "GatewayRoute",
    plural = "gatewayroutes",
    singular = "gatewayroute",
    shortname = "gwr",
    category = "tidegate",
    category = "gateway-api",
    namespaced,
    status = "GatewayRouteStatus",
    derive = "PartialEq",
    doc = "GatewayRoute sends requests for hostnames to Services: matches, filters, weights and policies in one object.",
    selectable = ".spec.gatewayClassName",
    annotation("helm.sh/resource-policy", "keep"),
    label("app.kubernetes.io/part-of", "tidegate"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Hostnames", type_ = "string", json_path = ".spec.hostnames"),
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.gatewayClassName", priority = "1"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#,
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct GatewayRouteSpec {
    /// Class of the instances that serve the route; others ignore it, also with parentRefs.
    #[schemars(with = "schema::DnsSubdomain")]
    pub gateway_class_name: String,
    /// What the route attaches to; without it every static listener of the class.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<ParentRef, 32>", extend("x-kubernetes-validations" = cel(&[(
        "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && \
         (has(a.__namespace__) ? a.__namespace__ : '') == (has(b.__namespace__) ? b.__namespace__ : '') && \
         (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '') && \
         (has(a.port) ? a.port : 0) == (has(b.port) ? b.port : 0)))",
        "parentRefs must be distinct",
    )])))]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts that the route answers for; `*.` stands for one or more labels. Without it every host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Hostname, 64>")]
    pub hostnames: Vec<String>,
    /// TLS of the hostnames on static listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RouteTls")]
    pub tls: Option<Box<RouteTls>>,
    /// Filters around every rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "RouteFilters")]
    pub filters: Vec<Filter>,
    /// Blocks for rules that do not have their own; a block of a rule replaces the whole block here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RouteDefaults")]
    pub defaults: Option<Box<RouteDefaults>>,
    /// What is done with which requests.
    #[schemars(
        with = "schema::AtomicSome<RouteRule, 16>",
        default = "default_rules_schema",
        extend("x-kubernetes-validations" = cel(&[(
            "self.all(a, !has(a.name) || self.exists_one(b, has(b.name) && a.name == b.name))",
            "rule names must be unique",
        )]))
    )]
    pub rules: Vec<RouteRule>,
}

impl Default for GatewayRouteSpec {
    fn default() -> Self {
        Self {
            gateway_class_name: DEFAULT_CLASS.to_owned(),
            parent_refs: Vec::new(),
            hostnames: Vec::new(),
            tls: None,
            filters: Vec::new(),
            defaults: None,
            rules: vec![RouteRule::default()],
        }
    }
}

/// A reference to a Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct CertificateRef {
    /// Group of the object; empty for core.
    #[serde(default)]
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the object.
    #[serde(default = "secret_kind")]
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Name of the object.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Namespace of the object; default: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: Option<String>,
}

fn secret_kind() -> String {
    "Secret".to_owned()
}

/// A reference to the certificates of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct CaCertificateRef {
    /// Group of the object; empty for core.
    #[serde(default)]
    #[schemars(with = "schema::Group")]
    pub group: String,
    /// Kind of the object.
    #[serde(default = "config_map_kind")]
    #[schemars(with = "schema::Kind")]
    pub kind: String,
    /// Name of the object.
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Namespace of the object; default: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: Option<String>,
}

fn config_map_kind() -> String {
    "ConfigMap".to_owned()
}

known_values! {
    /// Lowest version of TLS.
    pub enum TlsVersion {
        /// TLS 1.2.
        V1_2 = "TLSv1_2",
        /// TLS 1.3.
        V1_3 = "TLSv1_3",
    }
    default V1_2
}

known_values! {
    /// What happens to clients without a valid certificate.
    pub enum ClientValidationMode {
        /// They are refused.
        AllowValidOnly = "AllowValidOnly",
        /// They pass.
        AllowInsecureFallback = "AllowInsecureFallback",
    }
    default AllowValidOnly
}

/// TLS of a route's hostnames on static listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RouteTls {
    /// Certificates with their keys; the one that fits the host is shown.
    #[schemars(with = "schema::AtomicSome<CertificateRef, 8>")]
    pub certificate_refs: Vec<CertificateRef>,
    /// Lowest version of TLS.
    #[serde(default)]
    pub min_version: OpenEnum<TlsVersion>,
    /// Whether plain requests for these hostnames are redirected to https.
    #[serde(default = "yes")]
    pub redirect_insecure: bool,
    /// Certificates that clients must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientValidation")]
    pub client_validation: Option<ClientValidation>,
}

/// Certificates that clients must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ClientValidation {
    /// Authorities that are trusted.
    #[schemars(with = "schema::AtomicSome<CaCertificateRef, 8>")]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
    /// What happens to clients without a valid certificate.
    #[serde(default)]
    pub mode: OpenEnum<ClientValidationMode>,
}

/// Blocks for rules that do not have their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RouteDefaults {
    /// Deadlines of one exchange.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Timeouts")]
    pub timeouts: Option<Timeouts>,
    /// Further tries of failed requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Retry")]
    pub retry: Option<Retry>,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LoadBalancer")]
    pub load_balancer: Option<LoadBalancer>,
    /// When an endpoint that fails is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OutlierDetection")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Active checks of endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HealthCheck")]
    pub health_check: Option<HealthCheck>,
    /// Limits towards endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Connection")]
    pub connection: Option<Connection>,
    /// Connections that leave HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Upgrades")]
    pub upgrades: Option<Upgrades>,
}

// Blocks are boxed, and lists have no spare room: most rules have few of them, and thousands of rules are held.
/// What is done with some requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(RULE_RULES)))]
pub struct RouteRule {
    /// Name of the rule in status, metrics and logs; delegation refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsSubdomain")]
    pub name: Option<Box<str>>,
    /// Sorts before how specific matches are; higher first.
    #[schemars(with = "schema::Int<-1000, 1000>")]
    pub priority: i32,
    /// Requests that the rule is for: those that satisfy any of these.
    #[schemars(with = "schema::Atomic<RouteMatch, 64>")]
    pub matches: Matches,
    /// Filters around the backends, outermost first.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "RuleFilters")]
    pub filters: Box<[Filter]>,
    /// Where requests go, in proportion to weight. Without it 500.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "schema::Atomic<BackendRef, 16>")]
    pub backend_refs: Box<[BackendRef]>,
    /// Leaves the rule to GatewayRoutes that name it as their parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Delegate")]
    pub delegate: Option<Box<Delegate>>,
    /// Deadlines of one exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Timeouts")]
    pub timeouts: Option<Box<Timeouts>>,
    /// Further tries of failed requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Retry")]
    pub retry: Option<Box<Retry>>,
    /// Keeps a client at one endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SessionPersistence")]
    pub session_persistence: Option<Box<SessionPersistence>>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LoadBalancer")]
    pub load_balancer: Option<Box<LoadBalancer>>,
    /// When an endpoint that fails is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OutlierDetection")]
    pub outlier_detection: Option<Box<OutlierDetection>>,
    /// Active checks of endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HealthCheck")]
    pub health_check: Option<Box<HealthCheck>>,
    /// Limits towards endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Connection")]
    pub connection: Option<Box<Connection>>,
    /// Connections that leave HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Upgrades")]
    pub upgrades: Option<Box<Upgrades>>,
}

const RULE_RULES: &[(&str, &str)] = &[
    (
        "!(has(self.filters) && self.filters.exists(f, f.type in ['RequestRedirect','DirectResponse'])) || \
         !((has(self.backendRefs) && size(self.backendRefs) > 0) || has(self.delegate))",
        "a rule that answers by itself takes neither backendRefs nor delegate",
    ),
    (
        "!(has(self.delegate) && has(self.backendRefs) && size(self.backendRefs) > 0)",
        "delegate and backendRefs exclude each other",
    ),
    (
        "!has(self.filters) || !self.filters.exists(f, (has(f.urlRewrite) && has(f.urlRewrite.path) && \
         f.urlRewrite.path.type == 'ReplacePrefixMatch') || (has(f.requestRedirect) && has(f.requestRedirect.path) && \
         f.requestRedirect.path.type == 'ReplacePrefixMatch')) || (size(self.matches) == 1 && \
         has(self.matches[0].path) && self.matches[0].path.type == 'PathPrefix')",
        "ReplacePrefixMatch needs exactly one PathPrefix match",
    ),
    (
        "!has(self.delegate) || (size(self.matches) == 1 && has(self.matches[0].path) && \
         self.matches[0].path.type == 'PathPrefix')",
        "delegate needs exactly one PathPrefix match",
    ),
];

impl Default for RouteRule {
    /// A rule for every request, without backends.
    fn default() -> Self {
        Self {
            name: None,
            priority: 0,
            matches: Matches::default(),
            filters: Box::default(),
            backend_refs: Box::default(),
            delegate: None,
            timeouts: None,
            retry: None,
            session_persistence: None,
            load_balancer: None,
            outlier_detection: None,
            health_check: None,
            connection: None,
            upgrades: None,
        }
    }
}

/// The default of `rules` as the schema has it; without `priority`, which its own default fills in.
fn default_rules_schema() -> serde_json::Value {
    serde_json::json!([{ "matches": [RouteMatch::default()] }])
}

impl RouteRule {
    /// The rule's own block, else that of `spec.defaults`.
    pub fn timeouts_or<'a>(&'a self, defaults: Option<&'a RouteDefaults>) -> Option<&'a Timeouts> {
        self.timeouts.as_deref().or_else(|| defaults?.timeouts.as_ref())
    }

    /// The rule's own block, else that of `spec.defaults`.
    pub fn load_balancer_or<'a>(&'a self, defaults: Option<&'a RouteDefaults>) -> Option<&'a LoadBalancer> {
        self.load_balancer.as_deref().or_else(|| defaults?.load_balancer.as_ref())
    }

    /// The rule's own block, else that of `spec.defaults`.
    pub fn upgrades_or<'a>(&'a self, defaults: Option<&'a RouteDefaults>) -> Option<&'a Upgrades> {
        self.upgrades.as_deref().or_else(|| defaults?.upgrades.as_ref())
    }
}

known_values! {
    /// Protocol that endpoints speak.
    pub enum BackendProtocol {
        /// HTTP/1.1.
        Http = "HTTP",
        /// HTTP/2 without TLS, by prior knowledge.
        H2c = "H2C",
        /// HTTP/1.1 in TLS.
        Https = "HTTPS",
        /// HTTP/2 in TLS.
        H2 = "H2",
    }
}

known_values! {
    /// Kind of a backend.
    pub enum BackendKind {
        /// A Service of the core group.
        Service = "Service",
    }
    default Service
}

impl BorrowDefault for OpenEnum<BackendKind> {
    fn borrow_default() -> &'static Self {
        &Self::Known(BackendKind::Service)
    }
}

// Names are held without spare room, and what few references have stands in a box: tens of thousands are held.
/// A share of a rule's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(super::common::SERVICE_NEEDS_PORT)))]
pub struct BackendRef {
    /// Group of the backend; empty for core.
    #[serde(default)]
    #[schemars(with = "schema::Group")]
    pub group: Seldom<str>,
    /// Kind of the backend.
    #[serde(default)]
    #[schemars(with = "schema::Kind")]
    pub kind: Seldom<OpenEnum<BackendKind>>,
    /// Name of the backend.
    #[schemars(with = "schema::Name")]
    pub name: Box<str>,
    /// Namespace of the backend; default: that of the route. Another one needs a ReferenceGrant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub namespace: Option<Box<Box<str>>>,
    /// Port of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 65535>")]
    pub port: Option<u16>,
    /// Share of requests in relation to the other weights of the tier.
    #[serde(default = "one")]
    #[schemars(with = "schema::Int<0, 1000000>")]
    pub weight: u32,
    /// Backends of a higher tier are used when no lower one has a usable endpoint.
    #[serde(default)]
    #[schemars(with = "schema::Int<0, 3>")]
    pub tier: u8,
    /// Protocol of the endpoints; default: what appProtocol of the Service's port says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OpenEnum<BackendProtocol>")]
    pub protocol: Option<Box<OpenEnum<BackendProtocol>>>,
    /// Filters for requests that go to this backend.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    #[schemars(with = "BackendFilters")]
    pub filters: Seldom<[Filter]>,
}

impl BackendRef {
    /// The namespace of the backend for a route in namespace `own`.
    #[must_use]
    pub fn namespace_or<'a>(&'a self, own: &'a str) -> &'a str {
        self.namespace.as_deref().map_or(own, |namespace| namespace)
    }
}

fn one() -> u32 {
    1
}

/// Leaves a rule to other routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Delegate {
    /// Namespaces whose routes may attach to the rule.
    pub namespaces: DelegateNamespaces,
}

known_values! {
    /// Which namespaces may attach to a rule.
    pub enum NamespacesFrom {
        /// That of the route.
        Same = "Same",
        /// Every one.
        All = "All",
        /// Those that `selector` selects.
        Selector = "Selector",
    }
    default Same
}

/// Namespaces whose routes may attach to a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "self.from == 'Selector' ? has(self.selector) : !has(self.selector)",
    "selector goes with from: Selector",
)])))]
pub struct DelegateNamespaces {
    /// Which namespaces.
    pub from: OpenEnum<NamespacesFrom>,
    /// Labels of the namespaces, for from: Selector.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LabelSelector")]
    pub selector: Option<LabelSelector>,
}

/// What instances say about a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct GatewayRouteStatus {
    /// The metadata.generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::LongFrom<0>")]
    pub observed_generation: Option<i64>,
    /// Ready: the route is served as written at every parent: Accepted, ResolvedRefs and Programmed, with no rule dropped
    /// and no match lost to another route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::MapByType<schema::Condition, 8>")]
    pub conditions: Vec<Condition>,
    /// One entry for each parent and controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::MapByParent<ParentStatus, 32>")]
    pub parents: Vec<ParentStatus>,
}

/// What one controller says about a route at one parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ParentStatus {
    /// The controller that writes this entry.
    #[schemars(with = "schema::ControllerName")]
    pub controller_name: String,
    /// The parent as group/kind/namespace/name/section/port.
    #[schemars(with = "schema::SomeText<900>")]
    pub r#ref: String,
    /// The parent.
    pub parent_ref: ParentRef,
    /// Hostnames on which the route is served there; none where that is every host, or where it is not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<schema::Hostname, 64>")]
    pub hostnames: Vec<String>,
    /// Accepted, ResolvedRefs, Programmed, Conflicted and PartiallyInvalid.
    #[schemars(with = "schema::MapByTypeSome<schema::Condition, 8>")]
    pub conditions: Vec<Condition>,
}
