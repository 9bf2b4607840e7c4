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
    let admitted = admits(cors, origin);
    let wanted = director.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    if let (&Method::OPTIONS, Some(wanted)) = (&*director.method, wanted) {
        let headers = if admitted { preflight(cors, origin, wanted, director.headers) } else { HeaderMap::new() };
        let answer =
            Answer { status: StatusCode::NO_CONTENT, headers, body: Some(Bytes::new()), reason: Reason::Preflight };
        return (Flow::Respond(answer), Memory::Preflight);
    }
    (Flow::Continue, if admitted { Memory::Origin(origin.clone()) } else { Memory::None })
}

/// Sets the fields of an actual response; those of the backend go, so that one place decides.
pub(super) fn response(cors: &Cors, memory: Memory, view: &mut ResponseView<'_>) {
    let origin = match memory {
        Memory::Origin(origin) => origin,
        Memory::Preflight => return,
        Memory::None => {
            for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
                view.headers.remove(name);
            }
            vary(cors, view.headers);
            return;
        }
    };
    allow(cors, &origin, view.headers);
    match &cors.expose {
        Some(names) => drop(view.headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone())),
        None => drop(view.headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS)),
    }
}

fn preflight(cors: &Cors, origin: &HeaderValue, method: &HeaderValue, request: &HeaderMap) -> HeaderMap {
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
fn allow(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    let any = cors.origins.contains(&OriginMatch::Any) && !cors.credentials;
    let value = if any { HeaderValue::from_static("*") } else { origin.clone() };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    } else {
        headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    }
    vary(cors, headers);
}

/// Caches must tell origins apart unless the answer is the same for all.
fn vary(cors: &Cors, headers: &mut HeaderMap) {
    let same_for_all = cors.origins.contains(&OriginMatch::Any) && !cors.credentials;
    let named = headers.get_all(VARY).iter().any(|line| {
        line.to_str().is_ok_and(|line| line.split(',').any(|name| matches!(name.trim(), "*" | "origin" | "Origin")))
    });
    if !same_for_all && !named {
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
