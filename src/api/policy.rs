//! What surrounds the forwarding of a rule's requests: deadlines, retries, choice of endpoints, limits.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{DurationText, RequestKey};
use super::open_enum::{OpenEnum, known_values};
use super::schema::{self, cel};

/// Deadlines of one exchange.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[(
    "!(has(self.request) && has(self.backendRequest) && duration(self.request) != duration('0s') && \
     duration(self.backendRequest) > duration(self.request))",
    "backendRequest cannot exceed request",
)])))]
pub struct Timeouts {
    /// The whole exchange, retries included; ends at a 101. 0s: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub request: Option<DurationText>,
    /// One try until its response is complete. 0s: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub backend_request: Option<DurationText>,
    /// One connection attempt; default: the setting of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub connect: Option<DurationText>,
    /// No byte in either direction of one exchange; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub idle: Option<DurationText>,
}

known_values! {
    /// What is tried again.
    pub enum RetryTrigger {
        /// A connection could not be made.
        ConnectFailure = "ConnectFailure",
        /// The connection broke before a response.
        Reset = "Reset",
        /// `timeouts.backendRequest` passed.
        BackendTimeout = "BackendTimeout",
        /// A gRPC status in `grpcCodes`.
        GrpcStatus = "GRPCStatus",
    }
}

known_values! {
    /// gRPC statuses that can be tried again.
    pub enum GrpcCode {
        /// CANCELLED.
        Cancelled = "Cancelled",
        /// DEADLINE_EXCEEDED.
        DeadlineExceeded = "DeadlineExceeded",
        /// INTERNAL.
        Internal = "Internal",
        /// RESOURCE_EXHAUSTED.
        ResourceExhausted = "ResourceExhausted",
        /// UNAVAILABLE.
        Unavailable = "Unavailable",
    }
}

/// Further tries of a failed request.
///
/// A request of which no endpoint has seen a byte goes to another endpoint in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "!has(self.maxBackoff) || duration(self.maxBackoff) >= duration(has(self.backoff) ? self.backoff : '25ms')",
        "maxBackoff cannot be less than backoff",
    ),
    (
        "!has(self.grpcCodes) || size(self.grpcCodes) == 0 || (has(self.retryOn) && 'GRPCStatus' in self.retryOn)",
        "grpcCodes needs GRPCStatus in retryOn",
    ),
])))]
pub struct Retry {
    /// Tries after the first; default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 10>")]
    pub attempts: Option<u32>,
    /// Statuses of responses that are tried again; when no further try is left, the last response passes as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Int<400, 599>, 16>")]
    pub codes: Vec<u16>,
    /// Failures that are tried again; default: ConnectFailure and Reset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<OpenEnum<RetryTrigger>, 4>")]
    pub retry_on: Vec<OpenEnum<RetryTrigger>>,
    /// gRPC statuses that are tried again, where the response has no message; with retryOn GRPCStatus. Default: Unavailable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<OpenEnum<GrpcCode>, 5>")]
    pub grpc_codes: Vec<OpenEnum<GrpcCode>>,
    /// Methods that are tried again although an endpoint may have seen the request; default: GET, HEAD, OPTIONS, PUT and
    /// DELETE. For gRPC, naming GRPCStatus is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Text<16>, 9>")]
    pub methods: Vec<String>,
    /// Longest pause before the first further try, at random from zero on; doubles with each. Default: 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub backoff: Option<DurationText>,
    /// Longest pause, also the longest that a response may ask for (Retry-After); default: ten times backoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub max_backoff: Option<DurationText>,
    /// Bound of further tries in relation to requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RetryBudget")]
    pub budget: Option<RetryBudget>,
    /// Bytes of a request's body that are kept to be sent again; a longer one is sent once. Default: 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<0, 1048576>")]
    pub max_body_bytes: Option<u32>,
}

/// Bound of further tries in relation to requests, of a backend over all rules of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    ("self.percent > 0 || self.minPerSecond > 0", "a budget needs percent or minPerSecond above 0"),
    (
        "duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('60s') && \
         duration(self.interval).getMilliseconds() % 1000 == 0",
        "interval is 1s to 60s, in whole seconds",
    ),
])))]
pub struct RetryBudget {
    /// Further tries in percent of requests.
    #[schemars(with = "schema::Int<0, 100>")]
    pub percent: u32,
    /// The time over which requests are counted.
    pub interval: DurationText,
    /// Further tries per second that are allowed beyond that share.
    #[schemars(with = "schema::IntFrom<0>")]
    pub min_per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20, interval: "10s".into(), min_per_second: 10 }
    }
}

known_values! {
    /// How a session is recognised.
    pub enum SessionType {
        /// By a cookie.
        Cookie = "Cookie",
        /// By a header.
        Header = "Header",
    }
    default Cookie
}

known_values! {
    /// How long a client keeps a session cookie.
    pub enum CookieLifetime {
        /// Until `absoluteTimeout`.
        Permanent = "Permanent",
        /// Until the browser is closed.
        Session = "Session",
    }
    default Session
}

known_values! {
    /// The `SameSite` attribute.
    pub enum SameSite {
        /// Strict.
        Strict = "Strict",
        /// Lax.
        Lax = "Lax",
        /// None.
        None = "None",
    }
}

/// Requests of a session go to the endpoint of its first request.
///
/// A session moves only when that pod is gone, out of service or cannot be connected to; new pods move nobody. A pod that
/// terminates keeps its sessions as long as it serves, and gets no new ones. A backendRef with weight 0 has no sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "!(has(self.cookieConfig) && self.cookieConfig.lifetimeType == 'Permanent') || has(self.absoluteTimeout)",
        "a permanent cookie needs absoluteTimeout",
    ),
    ("!has(self.cookieConfig) || self.type != 'Header'", "cookieConfig belongs to type Cookie"),
    (
        "(!has(self.absoluteTimeout) || (duration(self.absoluteTimeout) > duration('0s') && \
         duration(self.absoluteTimeout).getMilliseconds() % 1000 == 0)) && \
         (!has(self.idleTimeout) || (duration(self.idleTimeout) > duration('0s') && \
         duration(self.idleTimeout).getMilliseconds() % 1000 == 0))",
        "timeouts are whole seconds, at least 1s",
    ),
    (
        "!(has(self.absoluteTimeout) && has(self.idleTimeout)) || \
         duration(self.idleTimeout) <= duration(self.absoluteTimeout)",
        "idleTimeout cannot exceed absoluteTimeout",
    ),
])))]
pub struct SessionPersistence {
    /// Name of the cookie or header, the same on requests and answers; default: tg- and eight digits that belong to the
    /// route and the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Text<128>")]
    pub session_name: Option<String>,
    /// How a session is recognised.
    #[serde(default)]
    pub r#type: OpenEnum<SessionType>,
    /// How long a session lasts at most, whole seconds; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub absolute_timeout: Option<DurationText>,
    /// How long a session lasts without requests, whole seconds; default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Option<DurationText>,
    /// Attributes of the cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CookieConfig")]
    pub cookie_config: Option<CookieConfig>,
}

/// Attributes of a session cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "!(has(self.sameSite) && self.sameSite == 'None' && has(self.secure) && !self.secure)",
        "sameSite None needs secure",
    ),
    (
        "!has(self.path) || (self.path.startsWith('/') && !self.path.contains(';'))",
        "path begins with / and has no semicolon",
    ),
])))]
pub struct CookieConfig {
    /// How long a client keeps the cookie.
    #[serde(default)]
    pub lifetime_type: OpenEnum<CookieLifetime>,
    /// The `Path` attribute; default: the prefix that all matches of the rule share, else /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::PlainText<256>")]
    pub path: Option<String>,
    /// The `SameSite` attribute; default: left out. None sets `Secure`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OpenEnum<SameSite>")]
    pub same_site: Option<OpenEnum<SameSite>>,
    /// The `Secure` attribute; default: as the request came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub secure: Option<bool>,
    /// The `HttpOnly` attribute.
    #[serde(default = "yes")]
    pub http_only: bool,
}

/// The default of switches that are on.
pub(super) fn yes() -> bool {
    true
}

known_values! {
    /// What a consistent hash does with a request that has no key.
    pub enum OnMissingKey {
        /// Any endpoint.
        Random = "Random",
        /// One endpoint after the other.
        RoundRobin = "RoundRobin",
        /// Answers 400.
        Reject = "Reject",
    }
    default Random
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "self.algorithm == 'ConsistentHash' ? (has(self.hashKeys) && size(self.hashKeys) > 0) : true",
        "ConsistentHash needs hashKeys",
    ),
    (
        "self.algorithm == 'ConsistentHash' || !(has(self.boundedLoadPercent) || has(self.tableSize))",
        "boundedLoadPercent and tableSize belong to ConsistentHash",
    ),
    (
        "!has(self.slowStart) || (duration(self.slowStart) > duration('0s') && duration(self.slowStart) <= \
         duration('1h'))",
        "slowStart is above 0s and at most 1h",
    ),
    ("!has(self.slowStart) || self.algorithm != 'ConsistentHash'", "slowStart does not go with ConsistentHash"),
    (
        "!has(self.locality) || self.locality.mode in ['Auto', 'Disabled'] || self.algorithm != 'ConsistentHash'",
        "a preference of near endpoints does not go with ConsistentHash",
    ),
])))]
pub struct LoadBalancer {
    /// Random, RoundRobin, SmoothWeightedRoundRobin, LeastRequest, PeakEWMA or ConsistentHash.
    #[schemars(with = "schema::AlgorithmName")]
    pub algorithm: String,
    /// Where a consistent hash takes its key from: the first that the request has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub hash_keys: Vec<RequestKey>,
    /// What happens to a request that has none of the keys.
    pub on_missing_key: OpenEnum<OnMissingKey>,
    /// Load of an endpoint, in percent of the fair share, above which the next one on the ring is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<100, 1000>")]
    pub bounded_load_percent: Option<u32>,
    /// Points on the ring; default: 100 for each endpoint and weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<2, 5000011>")]
    pub table_size: Option<u32>,
    /// The time in which a new endpoint comes to its full share, up to 1h; default: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub slow_start: Option<DurationText>,
    /// Preference of near endpoints. They are passed over when none of them can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Locality")]
    pub locality: Option<Locality>,
}

impl LoadBalancer {
    /// The default of `algorithm`: an endpoint that accepts requests and never answers them soon has more of them than
    /// the others, and gets hardly any more.
    pub const DEFAULT_ALGORITHM: &'static str = "LeastRequest";
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            algorithm: Self::DEFAULT_ALGORITHM.to_owned(),
            hash_keys: Vec::new(),
            on_missing_key: OpenEnum::default(),
            bounded_load_percent: None,
            table_size: None,
            slow_start: None,
            locality: None,
        }
    }
}

known_values! {
    /// Which near endpoints are preferred.
    pub enum LocalityMode {
        /// As the hints of the EndpointSlices say, where every endpoint has hints.
        Auto = "Auto",
        /// None.
        Disabled = "Disabled",
        /// Those in the own zone.
        PreferZone = "PreferZone",
        /// Those on the own node.
        PreferNode = "PreferNode",
    }
    default Auto
}

/// Preference of near endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Locality {
    /// Which near endpoints are preferred.
    pub mode: OpenEnum<LocalityMode>,
    /// Near endpoints that there must be; else all are used.
    #[schemars(with = "schema::Int<1, 1000>")]
    pub min_endpoints: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self { mode: OpenEnum::default(), min_endpoints: 1 }
    }
}

/// When an endpoint that fails gets no requests for a while: it is ejected.
///
/// Failures are counted at the endpoint, whichever rule its requests come from. When it comes back, one failure ejects it
/// again. The last endpoint of a backend is never ejected, and when all are passed over, all are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "duration(self.interval) > duration('0s') && duration(self.baseEjection) > duration('0s')",
        "interval and baseEjection cannot be 0s",
    ),
    ("duration(self.maxEjection) >= duration(self.baseEjection)", "maxEjection cannot be less than baseEjection"),
])))]
pub struct OutlierDetection {
    /// Failed requests in a row: reset, without an answer in time, with a malformed one, or with one of codes.
    #[schemars(with = "schema::IntFrom<1>")]
    pub consecutive_errors: u32,
    /// Failed connections in a row: refused or not made in time.
    #[schemars(with = "schema::IntFrom<1>")]
    pub consecutive_connect_failures: u32,
    /// Time in service after which one earlier ejection is forgotten.
    pub interval: DurationText,
    /// Length of the first ejection, within a tenth; doubles with each.
    pub base_ejection: DurationText,
    /// Length of the longest ejection.
    pub max_ejection: DurationText,
    /// Endpoints of a backend that may be ejected at the same time, in percent: at least one, but never the last. 0: none.
    #[schemars(with = "schema::Int<0, 100>")]
    pub max_ejection_percent: u32,
    /// Statuses of responses that count as failures; default: 502, 503 and 504.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Int<500, 599>, 16>")]
    pub codes: Vec<u16>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            consecutive_connect_failures: 3,
            interval: "10s".into(),
            base_ejection: "30s".into(),
            max_ejection: "300s".into(),
            max_ejection_percent: 50,
            codes: Vec::new(),
        }
    }
}

/// Active checks of endpoints: each is asked at intervals, whatever the number of rules, and gets no new requests of the
/// rule while it is unhealthy and another endpoint is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    ("duration(self.timeout) <= duration(self.interval)", "timeout cannot exceed interval"),
    ("duration(self.timeout) > duration('0s')", "timeout is more than 0s"),
    (
        "duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('1h')",
        "interval is 1s to 1h",
    ),
    (
        "!has(self.grpcService) || (self.path == '/' && (!has(self.expectedStatuses) || size(self.expectedStatuses) == 0))",
        "path and expectedStatuses have no meaning beside grpcService",
    ),
])))]
pub struct HealthCheck {
    /// Path that is asked for with GET; it begins with a slash and may have a query.
    #[schemars(with = "schema::RequestPath")]
    pub path: String,
    /// Service that is asked for with the gRPC health protocol instead of GET; empty: the server as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::PlainText<253>")]
    pub grpc_service: Option<String>,
    /// Host that is asked for; default: the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsSubdomain")]
    pub hostname: Option<String>,
    /// Port that is asked; default: that of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Int<1, 65535>")]
    pub port: Option<u16>,
    /// Statuses that are healthy, such as 200 or 200-399; default: 200-299.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<schema::StatusRange, 8>")]
    pub expected_statuses: Vec<String>,
    /// Time between checks of one endpoint by one replica, 1s to 1h.
    pub interval: DurationText,
    /// How long connecting and the answer may take, at most the interval.
    pub timeout: DurationText,
    /// Failed checks in a row that make an endpoint unhealthy.
    #[schemars(with = "schema::Int<1, 10>")]
    pub unhealthy_threshold: u32,
    /// Good checks in a row that make an endpoint healthy again.
    #[schemars(with = "schema::Int<1, 10>")]
    pub healthy_threshold: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: "/".to_owned(),
            grpc_service: None,
            hostname: None,
            port: None,
            expected_statuses: Vec::new(),
            interval: "10s".into(),
            timeout: "1s".into(),
            unhealthy_threshold: 3,
            healthy_threshold: 2,
        }
    }
}

/// Limits towards endpoints, per replica.
///
/// An endpoint's requests and connections count over all rules; the limits are the rule's. When every endpoint is at its
/// limit, requests wait in the order of arrival, as many as maxPendingRequests says; others get 503.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline, extend("x-kubernetes-validations" = cel(&[
    (
        "!has(self.maxPendingRequests) || self.maxPendingRequests == 0 || has(self.maxRequestsPerEndpoint) || \
         has(self.maxConnectionsPerEndpoint)",
        "maxPendingRequests needs a limit that requests can wait for",
    ),
    (
        "!has(self.pendingTimeout) || (duration(self.pendingTimeout) > duration('0s') && \
         has(self.maxPendingRequests) && self.maxPendingRequests > 0)",
        "pendingTimeout is above 0s and needs maxPendingRequests above 0",
    ),
])))]
pub struct Connection {
    /// Connections to one endpoint, WebSockets and idle ones included; over HTTP/2 many requests share one. Below the number of
    /// workers, connections are closed and made anew as workers take turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_connections_per_endpoint: Option<u32>,
    /// Requests in flight at one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_requests_per_endpoint: Option<u32>,
    /// Requests that may wait for an endpoint; default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<0>")]
    pub max_pending_requests: Option<u32>,
    /// How long a request waits for an endpoint; default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub pending_timeout: Option<DurationText>,
    /// Requests after which a connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_requests_per_connection: Option<u32>,
}

known_values! {
    /// Protocols that a connection can change to.
    pub enum UpgradeProtocol {
        /// WebSocket, RFC 6455.
        Websocket = "websocket",
    }
}

/// Connections that leave HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Upgrades {
    /// Protocols that are allowed; an empty list forbids all.
    #[schemars(with = "schema::Set<OpenEnum<UpgradeProtocol>, 4>")]
    pub allow: Vec<OpenEnum<UpgradeProtocol>>,
    /// No byte in either direction; default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub idle_timeout: Option<DurationText>,
    /// Longest life of an upgraded connection; default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub max_lifetime: Option<DurationText>,
    /// Upgraded connections per replica; above it 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_connections: Option<u32>,
    /// How upgraded connections end when the process stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpgradeDrain")]
    pub drain: Option<UpgradeDrain>,
}

impl Default for Upgrades {
    fn default() -> Self {
        Self {
            allow: vec![UpgradeProtocol::Websocket.into()],
            idle_timeout: None,
            max_lifetime: None,
            max_connections: None,
            drain: None,
        }
    }
}

/// The end of upgraded connections at a drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct UpgradeDrain {
    /// Each connection closes at a random time inside this window.
    pub window: DurationText,
    /// Close code that is sent, also at `maxLifetime`.
    #[schemars(with = "schema::CloseCode")]
    pub close_code: u16,
}

impl Default for UpgradeDrain {
    fn default() -> Self {
        Self { window: "30s".into(), close_code: 1012 }
    }
}
