//! What competes for requests, and what of a request decides.

use std::borrow::Cow;
use std::sync::Arc;

use super::regex::CompiledRegex;
use super::template::Template;
use crate::model::ids::RuleId;

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

impl RequestView<'_> {
    /// The method of the request that a CORS preflight announces: OPTIONS with Origin and one
    /// Access-Control-Request-Method (WHATWG Fetch, "CORS-preflight request"). `None` for every other request.
    #[must_use]
    pub fn announced_method(&self) -> Option<http::Method> {
        if *self.method != http::Method::OPTIONS || !self.headers.contains_key(http::header::ORIGIN) {
            return None;
        }
        let mut lines = self.headers.get_all(http::header::ACCESS_CONTROL_REQUEST_METHOD).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        http::Method::from_bytes(line.as_bytes()).ok()
    }
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

impl Hostname {
    /// The hostname as it is written in a manifest; `None` for every host.
    #[must_use]
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Exact(name) => Some(Cow::Borrowed(name)),
            Self::Wildcard(suffix) => Some(Cow::Owned(format!("*.{suffix}"))),
            Self::Any => None,
        }
    }
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole canonical path.
    Exact(Arc<str>),
    /// Whole elements from the start; `/` matches all. Held without a trailing slash, `/` itself as the empty string.
    Prefix(Arc<str>),
    /// Literal and variable elements (`/a/{id}/{rest*}`).
    Template(Arc<Template>),
    /// The whole canonical path, case-sensitive, linear time.
    Regex(Arc<CompiledRegex>),
}

impl PathMatch {
    /// Matches whole elements from the start; a slash at the end of `prefix` does not count.
    #[must_use]
    pub fn prefix(prefix: &str) -> Self {
        Self::Prefix(prefix.trim_end_matches('/').into())
    }

    /// The type as it is written in a manifest.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Exact(_) => "Exact",
            Self::Prefix(_) => "PathPrefix",
            Self::Template(_) => "Template",
            Self::Regex(_) => "RegularExpression",
        }
    }

    /// The value in the form it would have in a manifest: `/` for the prefix of all paths.
    #[must_use]
    pub fn value(&self) -> &str {
        match self {
            Self::Prefix(prefix) if prefix.is_empty() => "/",
            Self::Exact(path) | Self::Prefix(path) => path,
            Self::Template(template) => template.as_str(),
            Self::Regex(regex) => regex.pattern(),
        }
    }
}

/// One condition on a header, query parameter or cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Lower case for headers, as written for the rest.
    pub name: Arc<str>,
    /// What the value must be.
    pub test: ValueTest,
}

/// What a value must be. Query parameters are compared decoded: escapes, and `+` as a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueTest {
    /// Exactly one line or parameter, and it equals.
    Exact(Arc<str>),
    /// Exactly one, and it begins with this.
    Prefix(Arc<str>),
    /// Exactly one, and the whole of it matches.
    Regex(Arc<CompiledRegex>),
    /// At least one.
    Present,
    /// None.
    Absent,
}

/// What a match asks of a request beside host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Method, any when `None`.
    pub method: Option<http::Method>,
    /// Conditions on header lines, all must hold.
    pub headers: Vec<ValueMatch>,
    /// Conditions on query parameters, all must hold.
    pub query_params: Vec<ValueMatch>,
    /// Conditions on cookies, all must hold.
    pub cookies: Vec<ValueMatch>,
}

/// What most matches have.
static NO_CONDITIONS: Conditions =
    Conditions { method: None, headers: Vec::new(), query_params: Vec::new(), cookies: Vec::new() };

impl Conditions {
    /// Makes them ready to be held: `None` when there are none.
    #[must_use]
    pub fn shared(mut self) -> Option<Arc<Self>> {
        if self.method.is_none() && self.asks_no_values() {
            return None;
        }
        self.headers.shrink_to_fit();
        self.query_params.shrink_to_fit();
        self.cookies.shrink_to_fit();
        Some(Arc::new(self))
    }

    /// Whether nothing is asked of headers, query parameters and cookies.
    #[must_use]
    pub fn asks_no_values(&self) -> bool {
        self.headers.is_empty() && self.query_params.is_empty() && self.cookies.is_empty()
    }
}

/// One match of one rule on one hostname: the unit that competes. Tens of thousands are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The rule that wins with it.
    pub rule: RuleId,
    /// Host.
    pub hostname: Hostname,
    /// Higher first, before specificity of the path.
    pub priority: i32,
    /// Path.
    pub path: PathMatch,
    /// Everything else that it asks; `None` for most. Candidates of one match share it.
    pub conditions: Option<Arc<Conditions>>,
    /// Rank by age, object name, kind and rule order (precedence 5): the lower wins among otherwise equal ones. Unique.
    pub rank: u32,
}

impl Candidate {
    /// A candidate that fits every request: the start for those with conditions.
    #[must_use]
    pub fn any(rule: RuleId, rank: u32) -> Self {
        Self { rule, hostname: Hostname::Any, priority: 0, path: PathMatch::prefix("/"), conditions: None, rank }
    }

    /// The same with other conditions.
    #[must_use]
    pub fn asking(self, conditions: Conditions) -> Self {
        Self { conditions: conditions.shared(), ..self }
    }

    /// What it asks beside host and path.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        self.conditions.as_deref().unwrap_or(&NO_CONDITIONS)
    }

    /// Names of the variables that the path of a request fills when this candidate wins, from left to right.
    pub fn path_params(&self) -> impl Iterator<Item = &str> {
        let template = match &self.path {
            PathMatch::Template(template) => Some(template),
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
        };
        template.into_iter().flat_map(|template| template.names())
    }
}

/// The rule that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRule {
    /// The winning rule.
    pub rule: RuleId,
    /// Which match of the router won: for path parameters ([`Router::path_param`](super::Router::path_param)).
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
