//! The question as a call of Envoy's `Authorization/Check`, and the answer to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use prost::Message as _;

use super::messages::{
    Address, AppendAction, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
    HttpRequest, HttpResponse, OkHttpResponse, Peer, Request, SocketAddress,
};
use super::query::QueryEdits;
use super::verdict::{Changes, Refusal, Verdict, is_of_connection, is_protected};
use crate::fields::{self, FieldFlags};
use crate::filter::field_edit::{Edit, FieldEdit, apply};
use crate::filter::layer::{CallAnswer, Director, OwnRequest};
use crate::model::backend::BackendKey;

/// The path of the method.
const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// The call for a request as it stands at the filter, and the message to go with it.
pub fn question(
    (request_headers, timeout): (&[HeaderName], Duration),
    backend: &BackendKey,
    body: &Bytes,
    director: &Director<'_, '_>,
) -> (OwnRequest, Bytes) {
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (header::TE, HeaderValue::from_static("trailers")),
        (HeaderName::from_static("grpc-timeout"), timeout_value(timeout)),
    ]);
    let service = &backend.service;
    let request = OwnRequest {
        backend: backend.clone(),
        method: Method::POST,
        headers,
        host: HeaderValue::try_from(format!("{}.{}.svc:{}", service.name, service.namespace, backend.port)).ok(),
        path: PATH.into(),
        query: None,
    };
    (request, framed(&check_request(request_headers, body, director)))
}

/// As much as eight digits hold.
fn timeout_value(timeout: Duration) -> HeaderValue {
    let value = match timeout.as_micros() {
        micros @ 0..=99_999_999 => format!("{micros}u"),
        _ => format!("{}S", timeout.as_secs().min(99_999_999)),
    };
    HeaderValue::try_from(value).expect("digits and a letter are a valid field value")
}

fn check_request(request_headers: &[HeaderName], body: &Bytes, director: &Director<'_, '_>) -> CheckRequest {
    let facts = director.facts;
    let host = director.host.as_ref().map(HeaderValue::as_bytes).or(facts.authority);
    let host = String::from_utf8_lossy(host.unwrap_or_default()).into_owned();
    let path = director.target();
    let mut headers = headers_of(director.headers, request_headers);
    // As Envoy names them.
    for (name, value) in
        [(":method", director.method.as_str()), (":path", &path), (":authority", &host), (":scheme", facts.scheme)]
    {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let (body, raw_body) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), Vec::new()),
        Err(_) => (String::new(), body.to_vec()),
    };
    let http = HttpRequest {
        method: director.method.to_string(),
        headers,
        path,
        host,
        scheme: facts.scheme.to_owned(),
        size: facts.content_length.map_or(-1, |length| i64::try_from(length).unwrap_or(i64::MAX)),
        body,
        raw_body,
    };
    let socket_address = SocketAddress { address: facts.client.to_string(), port_value: Some(0) };
    let address = Address { socket_address: Some(socket_address) };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { address: Some(address) }),
            request: Some(Request { http: Some(http) }),
        }),
    }
}

/// The values of fields by name, several of a name as one list. What is no UTF-8 has a replacement character in its place.
fn headers_of(headers: &HeaderMap, allowed: &[HeaderName]) -> BTreeMap<String, String> {
    let mut by_name = BTreeMap::<String, String>::new();
    let is_sent = |name: &HeaderName| {
        let is_allowed = allowed.is_empty() || allowed.contains(name);
        is_allowed && !fields::flags(name.as_str()).has_any(FieldFlags::HOP_BY_HOP)
    };
    for (name, value) in headers.iter().filter(|(name, _)| is_sent(name)) {
        let value = String::from_utf8_lossy(value.as_bytes());
        match by_name.entry(name.as_str().to_owned()) {
            Entry::Vacant(entry) => drop(entry.insert(value.into_owned())),
            Entry::Occupied(entry) => {
                let list = entry.into_mut();
                list.push_str(if *name == header::COOKIE { "; " } else { "," });
                list.push_str(&value);
            }
        }
    }
    by_name
}

/// A message as it is sent.
fn framed(message: &CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("heads and bodies are bounded far below"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// What the service has decided; `None` where the call failed or the answer is none that is understood. Of a refusal, a
/// client gets a body of at most `most_body` bytes.
pub fn verdict(answer: &CallAnswer, most_body: usize) -> Option<Verdict> {
    let CallAnswer { status, headers, body, trailers } = answer;
    let code = |fields: &HeaderMap| fields.get("grpc-status").map(|code| code.as_bytes() == b"0");
    if *status != StatusCode::OK || code(trailers).or(code(headers)) != Some(true) {
        return None;
    }
    let response = CheckResponse::decode(message(body.as_deref()?)?).ok()?;
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, Some(HttpResponse::Ok(changes))) => changes_of(changes).map(Box::new).map(Verdict::Passes),
        (0, None) => Some(Verdict::Passes(Box::default())),
        // Code 0 is what a service gives that sets none, and this one has not said that the request may pass.
        (_, Some(HttpResponse::Denied(denied))) => refusal(denied, most_body).map(Verdict::Denied),
        (_, Some(HttpResponse::Error(_))) => None,
        (_, Some(HttpResponse::Ok(_)) | None) => refusal(DeniedHttpResponse::default(), most_body).map(Verdict::Denied),
    }
}

/// The one message of a body; `None` for another number of them, and for one that is compressed, which nobody asked for.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<PREFIX>()?;
    let [is_compressed, length @ ..] = *prefix;
    let is_whole = u32::from_be_bytes(length) as usize == message.len();
    (is_compressed == 0 && is_whole).then_some(message)
}

fn changes_of(changes: OkHttpResponse) -> Option<Changes> {
    let names = changes.headers_to_remove.iter().filter(|name| !name.starts_with(':'));
    let removed: Result<Vec<_>, _> = names.map(|name| HeaderName::from_bytes(name.as_bytes())).collect();
    let set = changes.query_parameters_to_set.into_iter().map(|parameter| (parameter.key, parameter.value));
    Some(Changes {
        fields: edits(&changes.headers, Edit::Set)?.into_iter().filter(|edit| !is_protected(&edit.name)).collect(),
        removed: removed.ok()?.into_iter().filter(|name| !is_protected(name)).collect(),
        query: QueryEdits { set: set.collect(), removed: changes.query_parameters_to_remove },
        response: edits(&changes.response_headers_to_add, Edit::Append)?
            .into_iter()
            .filter(|edit| !is_of_connection(&edit.name))
            .collect(),
    })
}

fn refusal(denied: DeniedHttpResponse, most_body: usize) -> Option<Refusal> {
    let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).filter(|status| status.as_u16() >= 200);
    let status = status.unwrap_or(StatusCode::FORBIDDEN);
    let mut headers = HeaderMap::new();
    // Several cookies are as many fields.
    apply(
        edits(&denied.headers, Edit::Append)?.into_iter().map(|edit| FieldEdit { edit: Edit::Append, ..edit }),
        &mut headers,
    );
    if !denied.body.is_empty() {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
    }
    let body = Some(denied.body).filter(|body| body.len() <= most_body);
    Some(Refusal::new(status, headers, body.map(Bytes::from)))
}

/// Edits of fields; `by_default` is what the oldest form of an edit means, which says nothing of what is there. `None`
/// where a name or a value is none. Names that begin with a colon, which HTTP/2 has for the request line, are left out.
fn edits(options: &[HeaderValueOption], by_default: Edit) -> Option<Vec<FieldEdit>> {
    let mut edits = Vec::with_capacity(options.len());
    for option in options {
        let header = option.header.as_ref()?;
        if header.key.starts_with(':') {
            continue;
        }
        let value = if header.value.is_empty() { &header.raw_value } else { header.value.as_bytes() };
        let edit = match (option.append.as_ref().map(|append| append.value), option.append_action()) {
            (Some(true), _) => Edit::Append,
            (Some(false), _) => Edit::Set,
            (None, AppendAction::AppendIfExistsOrAdd) => by_default,
            (None, AppendAction::AddIfAbsent) => Edit::SetIfAbsent,
            (None, AppendAction::OverwriteIfExistsOrAdd) => Edit::Set,
            (None, AppendAction::OverwriteIfExists) => Edit::SetIfPresent,
        };
        let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
        edits.push(FieldEdit { name, value: HeaderValue::from_bytes(value).ok()?, edit });
    }
    Some(edits)
}
