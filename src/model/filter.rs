//! Filters of a rule as plain values, checked and ready to run; the `filter` module has the code that runs them.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

use super::ids::ObjectName;

use super::search_regex::SearchRegex;

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
    /// A filter of tests, which waits: the index of its state.
    #[cfg(test)]
    Wait(usize),
}

/// Names the state of a filter that keeps one beyond a request, from version to version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// The route that the filter is written in.
    pub route: ObjectName,
    /// The list of that route.
    pub place: FilterList,
    /// The filter's type, as the API calls it.
    pub filter: &'static str,
    /// Its position among those of its type in the list.
    pub position: u16,
}

/// A list of filters in a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterList {
    /// `spec.filters`.
    Route,
    /// The filters of the rule of this name, its backendRefs' included.
    Rule(Arc<str>),
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
