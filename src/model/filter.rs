//! Filters of a rule as plain values, checked and ready to run; the `filter` module has the code that runs them.

mod auth;
mod coalesce;
mod compression;
mod external_auth;
mod jwt;
mod state_key;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::backend::BackendKey;
use super::request_values::RequestKey;
use super::search_regex::SearchRegex;

pub use auth::{ApiKey, BasicAuth, CredentialPlace};
pub use coalesce::Coalesce;
pub use compression::{Compression, ContentCoding, MediaRange};
pub use external_auth::{AuthProtocol, ExternalAuth};
pub use jwt::{ClaimHeader, Jwt, JwtKeys, JwtProvider};
pub use state_key::{FilterList, StateKey};

/// One filter of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Edits the fields of the request.
    RequestHeaders(HeaderEdits),
    /// Edits the fields of the response.
    ResponseHeaders(HeaderEdits),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path of the request.
    Rewrite(Rewrite),
    /// Answers with a fixed response.
    Direct(DirectResponse),
    /// Cross-origin resource sharing (WHATWG Fetch §3.2).
    Cors(Cors),
    /// Refuses request bodies of more bytes than this.
    BodyLimit(u64),
    /// Admits clients by address.
    IpAccess(IpAccess),
    /// Admits users by name and password.
    BasicAuth(Arc<BasicAuth>),
    /// Admits clients that show a key.
    ApiKey(Arc<ApiKey>),
    /// Admits requests with a signed token.
    Jwt(Arc<Jwt>),
    /// Admits so many requests per time.
    RateLimit(Arc<RateLimit>),
    /// Admits so many requests at the same time.
    ConcurrencyLimit(Arc<ConcurrencyLimit>),
    /// Has equal requests share one call of the backend.
    Coalesce(Arc<Coalesce>),
    /// Compresses responses.
    Compression(Arc<Compression>),
    /// Sends copies of requests to another backend.
    Mirror(Arc<Mirror>),
    /// Asks a service whether requests may pass.
    ExternalAuth(Arc<ExternalAuth>),
    /// A filter of tests, which waits, by the key of its state.
    #[cfg(test)]
    Wait(Arc<StateKey>),
}

impl Filter {
    /// The key of what it keeps beyond a request; `None` for most.
    #[must_use]
    pub fn state_key(&self) -> Option<&Arc<StateKey>> {
        match self {
            Self::RequestHeaders(_)
            | Self::ResponseHeaders(_)
            | Self::Redirect(_)
            | Self::Rewrite(_)
            | Self::Direct(_)
            | Self::Cors(_)
            | Self::BodyLimit(_)
            | Self::IpAccess(_)
            | Self::BasicAuth(_)
            | Self::ApiKey(_)
            | Self::Mirror(_)
            | Self::ExternalAuth(_) => None,
            Self::Jwt(jwt) => Some(&jwt.state),
            Self::RateLimit(limit) => Some(&limit.state),
            Self::ConcurrencyLimit(limit) => Some(&limit.state),
            Self::Coalesce(coalesce) => Some(&coalesce.state),
            Self::Compression(compression) => Some(&compression.state),
            #[cfg(test)]
            Self::Wait(key) => Some(key),
        }
    }

    /// Whether backends learn from this filter, and from nobody else, what the request's field of this name says, or that
    /// there is none. No trailer of the client may then have the name.
    #[must_use]
    pub fn decides_field(&self, name: &HeaderName) -> bool {
        match self {
            Self::RequestHeaders(HeaderEdits { set, add: _, remove }) => {
                remove.contains(name) || set.iter().any(|(own, _)| own == name)
            }
            Self::BasicAuth(auth) => auth.user_header.as_ref() == Some(name),
            Self::ApiKey(auth) => auth.client_header.as_ref() == Some(name),
            Self::Jwt(jwt) => {
                jwt.providers.iter().flat_map(|provider| &provider.claims).any(|claim| claim.header == *name)
            }
            Self::ExternalAuth(auth) => match &auth.protocol {
                AuthProtocol::Http { answer_headers, .. } => answer_headers.contains(name),
                // The service names the fields as it answers: it may be any of them.
                AuthProtocol::Grpc { .. } => true,
            },
            Self::ResponseHeaders(_)
            | Self::Redirect(_)
            | Self::Rewrite(_)
            | Self::Direct(_)
            | Self::Cors(_)
            | Self::BodyLimit(_)
            | Self::IpAccess(_)
            | Self::RateLimit(_)
            | Self::ConcurrencyLimit(_)
            | Self::Coalesce(_)
            | Self::Compression(_)
            | Self::Mirror(_) => false,
            #[cfg(test)]
            Self::Wait(_) => false,
        }
    }
}

/// Changes of header fields: `set` replaces all lines of a name, `add` adds one, `remove` takes all away; in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Replaced or made.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Added behind what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// A redirect; what is `None` stays as in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// Host of the target.
    pub hostname: Option<Arc<str>>,
    /// Path of the target.
    pub path: Option<PathEdit>,
    /// Port of the target.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// It is for plain requests alone; what came over TLS passes.
    pub insecure_only: bool,
}

/// A rewrite; what is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The host that the backend sees.
    pub hostname: Option<Arc<str>>,
    /// The path that the backend sees.
    pub path: Option<PathEdit>,
}

/// How a path is changed. Results begin with exactly one `/`; the query is never touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole path.
    Full(Arc<str>),
    /// The matched prefix (held without a trailing slash) becomes another.
    Prefix {
        /// What was matched.
        matched: Arc<str>,
        /// What stands there instead, held without a trailing slash.
        replacement: Arc<str>,
    },
    /// Text with the variables of the matched template.
    Template(Vec<TemplatePart>),
    /// Every place where the expression matches becomes the substitution.
    Regex {
        /// What is searched in the canonical path.
        pattern: SearchRegex,
        /// Text with `$1` or `${name}` for groups.
        substitution: Arc<str>,
    },
}

/// A piece of a replacement template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// Text as it is.
    Text(Arc<str>),
    /// The value of a variable of the matched template.
    Variable(Arc<str>),
}

/// A fixed response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: StatusCode,
    /// Its `content-type`.
    pub content_type: HeaderValue,
    /// Its body.
    pub body: bytes::Bytes,
}

/// Copies of requests for another backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets them; `None` when the reference cannot be resolved: then nobody does.
    pub backend: Option<BackendKey>,
    /// Of `share.1` requests, `share.0` are copied; the second is above 0.
    pub share: (u32, u32),
}

/// Cross-origin rules. An origin that no entry admits gets no CORS fields, and the browser refuses on its side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Admitted origins.
    pub origins: Vec<OriginMatch>,
    /// Credentials are allowed.
    pub credentials: bool,
    /// Value of `access-control-allow-methods`; `*` allows all.
    pub methods: Option<HeaderValue>,
    /// Value of `access-control-allow-headers`; `None`: what the preflight asks for is not allowed.
    pub headers: Option<HeaderValue>,
    /// Every header is allowed (`*`): what the preflight asks for is named, since browsers do not count Authorization
    /// under `*`.
    pub any_header: bool,
    /// Every method is allowed (`*`): echoed when credentials are allowed.
    pub any_method: bool,
    /// Value of `access-control-expose-headers`.
    pub expose: Option<HeaderValue>,
    /// Every header may be read (`*`): named one by one when credentials are allowed.
    pub any_expose: bool,
    /// Value of `access-control-max-age` in seconds.
    pub max_age: HeaderValue,
}

/// One admitted origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginMatch {
    /// `*`.
    Any,
    /// This origin, byte for byte in lower case.
    Exact(Arc<str>),
    /// Scheme and one wildcard at the start of the host (`https://*.example.com`): prefix `https://`, suffix `.example.com`.
    Wildcard {
        /// What the origin begins with.
        prefix: Arc<str>,
        /// What the origin ends with, port included.
        suffix: Arc<str>,
    },
}

/// Admission by address: `deny` wins over `allow`; an empty `allow` admits everyone who is not denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpAccess {
    /// Admitted networks.
    pub allow: Vec<IpNet>,
    /// Refused networks.
    pub deny: Vec<IpNet>,
}

/// A limit of requests per time: a bucket of `burst` requests, into which one comes every `interval`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Names its buckets.
    pub state: Arc<StateKey>,
    /// The time in which one request is admitted; 1 µs to 24 h.
    pub interval: Duration,
    /// Requests that may come at once, at least 1; the bucket is full again within 30 days.
    pub burst: u32,
    /// All of them together say whose bucket it is; empty: there is one for all.
    pub keys: Vec<RequestKey>,
    /// Status of a refusal.
    pub status: StatusCode,
    /// It counts, and refuses nobody.
    pub shadow: bool,
    /// What answers say about it; `None`: nothing.
    pub fields: Option<RateLimitFields>,
}

impl RateLimit {
    /// [`interval`](Self::interval) in nanoseconds.
    #[must_use]
    pub fn interval_nanos(&self) -> u64 {
        u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The constant parts of the RateLimit fields (draft-ietf-httpapi-ratelimit-headers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitFields {
    /// The policy's name, which needs no escape in a quoted string.
    pub name: Arc<str>,
    /// The value of `ratelimit-policy`.
    pub policy: HeaderValue,
}

/// A limit of requests at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyLimit {
    /// Names its semaphores.
    pub state: Arc<StateKey>,
    /// The sum of the weights of the requests in flight.
    pub max_in_flight: u32,
    /// What one request of this filter weighs; at most `max_in_flight`.
    pub weight: u32,
    /// Requests that may wait.
    pub max_queued: u32,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// All of them together say whose semaphore it is; empty: there is one for all.
    pub keys: Vec<RequestKey>,
    /// Status of a refusal.
    pub status: StatusCode,
    /// It counts, and neither refuses nor delays anybody.
    pub shadow: bool,
}
