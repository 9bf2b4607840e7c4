//! Filters that limit how much passes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::{DurationText, RequestKey, one_second};
use crate::api::schema::{self, cel};

/// A limit of requests per time, per replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct RateLimit {
    /// Requests per interval.
    #[schemars(with = "schema::IntFrom<1>")]
    pub requests: u32,
    /// The time in which `requests` may come: 1s to 24h.
    #[serde(default = "one_second")]
    pub interval: DurationText,
    /// Requests that may come at once; default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::IntFrom<0>")]
    pub burst: Option<u32>,
    /// What is limited separately: all keys together make one; default: all requests of the list that the filter is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub keys: Vec<RequestKey>,
    /// Status of the answer above the limit.
    #[serde(default = "too_many_requests")]
    #[schemars(with = "schema::Int<400, 599>")]
    pub status_code: u16,
    /// Only count what would be refused, and let it pass.
    #[serde(default)]
    pub shadow: bool,
    /// Tell clients about the limit in the fields RateLimit and RateLimit-Policy.
    #[serde(default = "yes")]
    pub fields: bool,
}

fn yes() -> bool {
    true
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
    /// Requests in flight; where requests have weights, the sum of these.
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_in_flight: u32,
    /// What a request of this filter weighs.
    #[serde(default = "one")]
    #[schemars(with = "schema::Int<1, 10_000>")]
    pub weight: u32,
    /// Filters of a route with the same pool share their requests in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::DnsLabel")]
    pub pool: Option<String>,
    /// Requests that may wait.
    #[serde(default)]
    #[schemars(with = "schema::IntFrom<0>")]
    pub max_queued: u32,
    /// How long a request may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub queue_timeout: Option<DurationText>,
    /// What is limited separately: all keys together make one; default: all requests of the list that the filter is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Atomic<RequestKey, 4>")]
    pub keys: Vec<RequestKey>,
    /// Status of the answer above the limit.
    #[serde(default = "service_unavailable")]
    #[schemars(with = "schema::Int<400, 599>")]
    pub status_code: u16,
    /// Only count what would be refused or wait, and let it pass.
    #[serde(default)]
    pub shadow: bool,
}

fn one() -> u32 {
    1
}

fn service_unavailable() -> u16 {
    503
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
