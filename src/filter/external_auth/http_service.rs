//! The question as a request of HTTP, and the answer to it: 200 lets the request pass.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::verdict::{Changes, Refusal, Verdict};
use crate::filter::field_edit::{Edit, FieldEdit};
use crate::filter::layer::{CallAnswer, Director, OwnRequest};
use crate::model::backend::BackendKey;

/// Fields that are always sent along: the credentials, and what trusted forwarders and the gateway say of the request.
const ALWAYS: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
];
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The request's own head, as it stands at the filter, under a prefix.
pub fn question(
    prefix: &str,
    request_headers: &[HeaderName],
    backend: &BackendKey,
    director: &Director<'_, '_>,
) -> OwnRequest {
    let mut headers = HeaderMap::new();
    for name in ALWAYS.iter().chain(request_headers.iter().filter(|name| !ALWAYS.contains(name))) {
        for value in director.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let uri = HeaderValue::try_from(director.target());
    if let (Ok(method), Ok(uri)) = (HeaderValue::from_str(director.method.as_str()), uri) {
        headers.insert(X_FORWARDED_METHOD, method);
        headers.insert(X_FORWARDED_URI, uri);
    }
    OwnRequest {
        backend: backend.clone(),
        method: director.method.clone(),
        headers,
        host: director.host.clone(),
        path: format!("{prefix}{}", director.path).into(),
        query: director.query.as_deref().map(Into::into),
    }
}

/// What the service has decided; `None` where it says that it cannot.
pub fn verdict(answer_headers: &[HeaderName], answer: CallAnswer) -> Option<Verdict> {
    let CallAnswer { status, headers, body, trailers: _ } = answer;
    if status.is_server_error() {
        return None;
    }
    if status == StatusCode::OK {
        let lines = answer_headers.iter().flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
        let edits = lines.map(|(name, value)| (name.clone(), value.clone()));
        let fields = edits.map(|(name, value)| FieldEdit { name, value, edit: Edit::Append }).collect();
        return Some(Verdict::Passes(Box::new(Changes { fields, ..Changes::default() })));
    }
    Some(Verdict::Denied(Refusal::new(status, headers, body)))
}
