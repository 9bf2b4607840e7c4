//! CORS: preflights answered here, fields set on the way out (WHATWG Fetch §3.2).

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::{Answer, Director, Flow, Memory, ResponseView};
use crate::model::filter::{Cors, OriginMatch};
use crate::reason::Reason;

/// Answers a preflight; remembers an admitted origin for the way out.
pub(super) fn request(cors: &Cors, director: &Director<'_, '_>) -> (Flow, Memory) {
    let mut lines = director.headers.get_all(ORIGIN).iter();
    let (Some(origin), None) = (lines.next(), lines.next()) else { return (Flow::Continue, Memory::None) };
    let admitted = admits(cors, origin).then(|| origin.clone());
    let wanted = director.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    if let (&Method::OPTIONS, Some(wanted)) = (&*director.method, wanted) {
        let mut headers = match allowed(cors, admitted) {
            Some(origin) => preflight(cors, origin, wanted, director.headers),
            None => HeaderMap::new(),
        };
        vary(cors, &mut headers);
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
        Memory::None => None,
    };
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
        view.headers.remove(name);
    }
    if let Some(origin) = allowed(cors, admitted) {
        allow(cors, origin, view.headers);
        if let Some(names) = &cors.expose {
            view.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }
    vary(cors, view.headers);
}

fn preflight(cors: &Cors, origin: HeaderValue, method: &HeaderValue, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    allow(cors, origin, &mut headers);
    // With credentials the wildcard is read literally by browsers, so the asked-for names are named.
    let echo = |any: bool, asked: Option<&HeaderValue>, value: &Option<HeaderValue>| {
        if any && cors.credentials { asked.cloned() } else { value.clone() }
    };
    if let Some(methods) = echo(cors.any_method, Some(method), &cors.methods) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(names) = echo(cors.any_header, request.get(ACCESS_CONTROL_REQUEST_HEADERS), &cors.headers) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
    headers
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
    let origin = |name: &str| name == "*" || name.eq_ignore_ascii_case("origin");
    let named = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.split(',').any(|name| origin(name.trim())));
    if !headers.get_all(VARY).iter().any(named) {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
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
