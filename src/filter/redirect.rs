//! RequestRedirect: the answer that sends the client elsewhere.

use std::borrow::Cow;

use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};

use super::layer::{Answer, Director, Flow, refuse};
use super::path;
use crate::model::filter::Redirect;
use crate::reason::Reason;

/// The target takes what the redirect does not say from the request: host as matched, path, query, and the scheme and
/// port that the client used. With a scheme alone its well-known port is meant (Gateway API HTTPRequestRedirectFilter).
pub(super) fn request(redirect: &Redirect, director: &Director<'_, '_>) -> Flow {
    let facts = director.facts;
    if redirect.insecure_only && facts.scheme == "https" {
        return Flow::Continue;
    }
    // A redirect to no host would be one to wherever the client thinks it is: HTTP/1.0 without Host is refused.
    let Some(host) = redirect.hostname.as_deref().or(facts.hostname) else {
        return refuse(StatusCode::BAD_REQUEST, Reason::Host);
    };
    let scheme = redirect.scheme.unwrap_or(facts.scheme);
    let well_known = if scheme == "https" { 443 } else { 80 };
    let port = redirect.port.unwrap_or(if redirect.scheme.is_some() { well_known } else { facts.port });
    let path = match &redirect.path {
        Some(edit) => match path::edit(edit, director.path, facts) {
            Some(path) => Cow::Owned(path),
            None => return refuse(StatusCode::BAD_REQUEST, Reason::Target),
        },
        None => Cow::Borrowed(&**director.path),
    };
    let mut target = format!("{scheme}://{host}");
    if port != well_known {
        target.push(':');
        target.push_str(itoa::Buffer::new().format(port));
    }
    target.push_str(&path);
    if let Some(query) = director.query.as_deref() {
        target.push('?');
        target.push_str(query);
    }
    // Host, path and query were checked on their way in; a value that is none is our fault, not the client's.
    let Ok(location) = HeaderValue::try_from(target) else {
        return refuse(StatusCode::BAD_REQUEST, Reason::Target);
    };
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, location);
    let body = Some(bytes::Bytes::new());
    Flow::Respond(Answer { status: redirect.status, headers, body, reason: Reason::Redirect })
}
