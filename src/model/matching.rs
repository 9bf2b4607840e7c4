//! Host, path and value matching with its precedence order.

use std::sync::Arc;

use super::ids::RuleId;

/// What of a request decides its rule.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Host in lower case without port and trailing dot; `None` for HTTP/1.0 without Host.
    pub host: Option<&'a str>,
    /// The method.
    pub method: &'a http::Method,
    /// The canonical path, beginning with `/`, without query.
    pub path: &'a str,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// The request's fields.
    pub headers: &'a http::HeaderMap,
}

/// The host a match is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hostname {
    /// This name, lower case.
    Exact(Arc<str>),
    /// Any name below this suffix, at any depth, but not the suffix itself; held without `*.`.
    Wildcard(Arc<str>),
    /// Every host, and requests without one.
    Any,
}

/// How a path is matched.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole canonical path.
    Exact(Arc<str>),
    /// Whole elements from the start; `/` matches all. Held without a trailing slash, `/` itself as the empty string.
    Prefix(Arc<str>),
    /// Literal and variable elements (`/a/{id}/{rest*}`).
    Template(Arc<str>),
    /// The whole canonical path, case-sensitive, linear time.
    Regex(Arc<str>),
}

/// One condition on a header, query parameter or cookie.
#[derive(Clone, Debug)]
pub struct ValueMatch {
    /// Lower case for headers, as written for the rest.
    pub name: Arc<str>,
    /// What the value must be.
    pub test: ValueTest,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueTest {
    /// Exactly one line or parameter, and it equals.
    Exact(Arc<str>),
    /// Exactly one, and it begins with this.
    Prefix(Arc<str>),
    /// Exactly one, and the whole of it matches.
    Regex(Arc<str>),
    /// At least one.
    Present,
    /// None.
    Absent,
}

/// One match of one rule on one hostname: the unit that competes.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The rule that wins with it.
    pub rule: RuleId,
    /// Host.
    pub hostname: Hostname,
    /// Higher first, before specificity.
    pub priority: i32,
    /// Path.
    pub path: PathMatch,
    /// Method, any when `None`.
    pub method: Option<http::Method>,
    /// Conditions on header lines, all must hold.
    pub headers: Vec<ValueMatch>,
    /// Conditions on query parameters, all must hold.
    pub query_params: Vec<ValueMatch>,
    /// Conditions on cookies, all must hold.
    pub cookies: Vec<ValueMatch>,
    /// Rank by age, object name, kind and rule order (precedence 5): the lower wins among otherwise equal ones. Unique.
    pub rank: u32,
}

/// The rule that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The winning rule.
    pub rule: RuleId,
    /// Which match of the router won: for path parameters ([`Router::path_param`]).
    pub candidate: u32,
}

/// Why no rule was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No route has this host.
    NoHost,
    /// Routes have this host, but no match fits.
    NoPath,
}

/// A compiled index over candidates of one listener.
#[derive(Debug, Default)]
pub struct Router {}

impl PartialEq for Router {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Router {
    /// Finds the winner.
    ///
    /// # Errors
    /// See [`Miss`].
    pub fn find(&self, _request: &RequestView<'_>) -> Result<Found, Miss> {
        Err(Miss::NoHost)
    }
}
