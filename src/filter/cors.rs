//! CORS: preflights answered here, fields set on the way out (WHATWG Fetch §3.2).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::layer::{Answer, Director, Flow, Memory, ResponseView};
use super::vary::add_vary;
use crate::model::filter::{Cors, OriginMatch};
use crate::reason::Reason;

/// Answers a preflight; remembers an admitted origin for the way out.
pub(super) fn request(cors: &Cors, director: &Director<'_, '_>) -> (Flow, Memory) {
    let mut lines = director.headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (lines.next(), lines.next()) else { return (Flow::Continue, Memory::None) };
    let admitted = admits(cors, origin).then(|| origin.clone());
    let wanted = director.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    if let (&Method::OPTIONS, Some(wanted)) = (&*director.method, wanted) {
        let mut headers = HeaderMap::new();
        vary(cors, &mut headers);
        if let Some(origin) = allowed(cors, admitted) {
            preflight(cors, origin, wanted, director.headers, &mut headers);
        }
        let answer =
            Answer { status: StatusCode::NO_CONTENT, headers, body: Some(Bytes::new()), reason: Reason::Preflight };
        return (Flow::Respond(answer), Memory::Preflight);
    }
    (Flow::Continue, admitted.map_or(Memory::None, Memory::Origin))
}

/// Sets the fields of an actual response; those of the backend go, so that one place decides.
///
/// A cache may give the response to a request without Origin to one that has it, so it gets its fields as well (WHATWG
/// Fetch, "CORS protocol and HTTP caches").
pub(super) fn response(cors: &Cors, memory: Memory, view: &mut ResponseView<'_>) {
    let admitted = match memory {
        Memory::Preflight => return,
        Memory::Origin(origin) => Some(origin),
        Memory::None
        | Memory::Quota(_)
        | Memory::Permit(_)
        | Memory::Accepted(_)
        | Memory::Edits(_)
        | Memory::Forget(_) => None,
    };
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
        view.headers.remove(name);
    }
    vary(cors, view.headers);
    if let Some(origin) = allowed(cors, admitted) {
        expose(cors, view.headers);
        allow(cors, origin, view.headers);
    }
}

fn preflight(cors: &Cors, origin: HeaderValue, method: &HeaderValue, request: &HeaderMap, headers: &mut HeaderMap) {
    // The names that stand for a wildcard are those of a response, and this is none that scripts read.
    if !(cors.any_expose && cors.credentials) {
        expose(cors, headers);
    }
    allow(cors, origin, headers);
    // With credentials browsers read the wildcard literally, so the method that was asked for is named.
    let methods = if cors.any_method && cors.credentials { Some(method.clone()) } else { cors.methods.clone() };
    if let Some(methods) = methods {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    // The names are named without credentials, too: browsers never count Authorization under the wildcard.
    let asked = if cors.any_header { asked_headers(request) } else { None };
    let literal = || cors.headers.clone().filter(|_| !(cors.any_header && cors.credentials));
    if let Some(names) = asked.or_else(literal) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
}

/// The names that a preflight asks for; `None` when it asks for none.
fn asked_headers(request: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
    let first = lines.next()?;
    let mut rest = lines.peekable();
    if rest.peek().is_none() {
        return Some(first.clone()).filter(|first| !first.is_empty());
    }
    let lines: Vec<&[u8]> = [first].into_iter().chain(rest).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
}

/// The names that scripts may read. With credentials browsers read the wildcard literally, so what the response has is
/// named: all but what scripts can read anyway, and cookies, which they never can.
fn expose(cors: &Cors, headers: &mut HeaderMap) {
    let names = if cors.any_expose && cors.credentials {
        let named =
            headers.keys().map(HeaderName::as_str).filter(|name| !is_readable_anyway(name) && *name != "set-cookie");
        HeaderValue::try_from(named.collect::<Vec<_>>().join(", ")).ok().filter(|names| !names.is_empty())
    } else {
        cors.expose.clone()
    };
    if let Some(names) = names {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names);
    }
}

/// CORS-safelisted response-header names (WHATWG Fetch).
fn is_readable_anyway(name: &str) -> bool {
    matches!(
        name,
        "cache-control"
            | "content-language"
            | "content-length"
            | "content-type"
            | "expires"
            | "last-modified"
            | "pragma"
    )
}

/// Origin and credentials, on preflights and on actual responses.
fn allow(cors: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// What the response names as allowed, given the request's origin if it has one that is admitted.
fn allowed(cors: &Cors, admitted: Option<HeaderValue>) -> Option<HeaderValue> {
    if same_for_all(cors) { Some(HeaderValue::from_static("*")) } else { admitted }
}

/// Whether every request gets the same fields, whatever its Origin and also without one.
fn same_for_all(cors: &Cors) -> bool {
    cors.origins.contains(&OriginMatch::Any) && !cors.credentials
}

/// Caches must keep the answers to different origins apart, unless they are the same for all.
fn vary(cors: &Cors, headers: &mut HeaderMap) {
    if same_for_all(cors) {
        return;
    }
    add_vary(headers, &ORIGIN);
}

fn admits(cors: &Cors, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    let origin = origin.to_ascii_lowercase();
    cors.origins.iter().any(|entry| match entry {
        OriginMatch::Any => true,
        OriginMatch::Exact(exact) => **exact == *origin,
        OriginMatch::Wildcard { prefix, suffix } => origin
            .strip_prefix(&**prefix)
            .and_then(|rest| rest.strip_suffix(&**suffix))
            .is_some_and(|middle| !middle.is_empty() && !middle.contains(['/', ':', '@'])),
    })
}
