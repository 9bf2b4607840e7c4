//! Filters that send a request twice, or many requests once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::common::BackendObjectRef;
use crate::api::open_enum::{OpenEnum, known_values};
use crate::api::schema::{self, cel};

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

/// A copy of requests for another Service, as they stand at this place among the filters; answers are dropped, errors only
/// counted. WebSockets, and requests that another filter answers, are not copied.
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
    /// Methods whose requests can be shared.
    pub enum CoalesceMethod {
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
    }
}

/// One call of the backend for equal requests that come at the same time. Requests are equal when they agree in rule, method,
/// scheme, host, path and query, in Accept, Accept-Encoding, Accept-Language, Origin and TE, and in what an authentication
/// filter before this one has found out. A request with a body, a Range, a condition, Cookie or Authorization goes alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(inline)]
pub struct Coalesce {
    /// Methods that are shared.
    #[schemars(with = "schema::Set<OpenEnum<CoalesceMethod>, 2>")]
    pub methods: Vec<OpenEnum<CoalesceMethod>>,
    /// Further headers in which requests have to agree. With Cookie or Authorization here, requests that have one are shared
    /// with those that have the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "schema::Set<schema::Token, 8>")]
    pub vary_headers: Vec<String>,
    /// Requests that may wait for one call beside the one that began it; more go alone.
    #[schemars(with = "schema::IntFrom<1>")]
    pub max_waiters: u32,
    /// Largest body that is shared, in bytes, at most 16 MiB; requests for larger ones go alone.
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
