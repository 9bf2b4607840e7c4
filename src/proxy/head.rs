//! The one check of a parsed request head, shared by HTTP/1 and HTTP/2: target, path, host, fields and upgrades.
//!
//! Pure: no io, no clock. The guard has checked lines, lengths and bytes before (HTTP/1), h2 its frames (HTTP/2). What the
//! `http` crate says about a target is never believed where it repairs one (`#…` is cut, `?x` becomes `/?x`, userinfo and
//! port 99999 pass): an HTTP/1 target that is not in origin-form is judged by its received bytes.

use std::borrow::Cow;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, UPGRADE, VIA};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};

use super::downstream::{CheckedHead, Host, OwnAnswer};
use crate::fields::{self, FieldFlags};
use crate::http1::guard::{GuardError, HeadFacts, encode_target, list};
use crate::model::host::{Authority, normalize_name, parse_authority};
use crate::model::path::{CanonicalPath, Slashes};
use crate::reason::Reason;

/// Goes with `upgrade: h2c` and is removed with it.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// How heads are judged; the same for all requests of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPolicy {
    /// What becomes of `//`.
    pub slashes: Slashes,
    /// The listener speaks TLS.
    pub https: bool,
    /// The peer is a trusted forwarder: it may end TLS and name the scheme that its own client used.
    pub trusted: bool,
    /// A sidecar's listener: fields pass whoever sent them.
    pub sidecar: bool,
}

/// What the fields of an HTTP/2 request say about its head.
#[must_use]
pub fn facts_of_http2(fields: &HeaderMap, body: bool) -> HeadFacts {
    HeadFacts {
        body,
        underscore: fields.keys().any(|name| name.as_str().contains('_')),
        expect: fields.contains_key(EXPECT),
        te: fields.contains_key(TE),
        via: fields.contains_key(VIA),
        forwarded: fields.keys().any(|name| is_of_forwarders(name.as_str())),
        ..HeadFacts::default()
    }
}

/// An accepted head.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What the handler needs to know.
    pub head: CheckedHead,
    /// Fields that were removed because their name holds `_`.
    pub removed_underscores: usize,
}

const fn refuse(status: StatusCode, reason: Reason) -> OwnAnswer {
    OwnAnswer { status, reason, close: true }
}

const TARGET: OwnAnswer = refuse(StatusCode::BAD_REQUEST, Reason::Target);
const HOST_FIELD: OwnAnswer = refuse(StatusCode::BAD_REQUEST, Reason::Host);
const FIELD: OwnAnswer = refuse(StatusCode::BAD_REQUEST, Reason::Field);

/// Checks an HTTP/1 target that is not in origin-form, before anyone parses it into a `Uri`: CONNECT, `*` and absolute-form
/// (RFC 9112 §3.2.2 to §3.2.4).
///
/// # Errors
/// The refusal; all of them close.
pub fn check_other_form(method: &[u8], target: &[u8], policy: HeadPolicy) -> Result<(), GuardError> {
    let refused = |answer: OwnAnswer| GuardError::new(answer.status, answer.reason);
    if method == b"CONNECT" {
        return Err(GuardError::new(StatusCode::METHOD_NOT_ALLOWED, Reason::Method));
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok(()) } else { Err(refused(TARGET)) };
    }
    absolute_form(target, policy).map(|_| ()).map_err(refused)
}

/// Authority and the rest of a target in absolute-form.
fn absolute_form(target: &[u8], policy: HeadPolicy) -> Result<(Authority<'_>, &[u8]), OwnAnswer> {
    let colon = memchr::memmem::find(target, b"://").ok_or(TARGET)?;
    let (scheme, rest) = target.split_at(colon);
    check_scheme(scheme, policy)?;
    let rest = rest.get(3..).unwrap_or_default();
    let end = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = parse_authority(authority).map_err(|_| TARGET)?;
    Ok((authority, path))
}

/// The listener's scheme passes; the other of http and https is answered 421 unless a trusted forwarder names it
/// (RFC 9110 §7.4).
fn check_scheme(scheme: &[u8], policy: HeadPolicy) -> Result<(), OwnAnswer> {
    let https = scheme.eq_ignore_ascii_case(b"https");
    if !https && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(TARGET);
    }
    if https == policy.https || policy.trusted {
        Ok(())
    } else {
        Err(refuse(StatusCode::MISDIRECTED_REQUEST, Reason::Target))
    }
}

/// Checks the head of `request` and cleans it: names with `_`, Upgrade, a void Expect, and what forwarders say where they are
/// not trusted are removed, an absolute-form target becomes origin-form. `raw_target` is the received HTTP/1 target when it is not in origin-form; `last` is the
/// host of the connection's last request, and becomes that of this one.
///
/// # Errors
/// The own answer that refuses it, or answers `OPTIONS *`.
pub fn check<B>(
    request: &mut Request<B>,
    facts: HeadFacts,
    raw_target: Option<&[u8]>,
    policy: HeadPolicy,
    last: &mut Option<Rc<Host>>,
) -> Result<Checked, OwnAnswer> {
    let removed_underscores =
        if facts.underscore && !policy.sidecar { remove(request.headers_mut(), |name| name.contains('_')) } else { 0 };
    if policy.sidecar {
        // Whoever is asked judges them, as without a sidecar.
    } else if facts.forwarded && !policy.trusted {
        // Neither routes nor filters nor endpoints see what anybody can claim.
        remove(request.headers_mut(), is_of_forwarders);
    } else if facts.forwarded {
        // The gateway alone says whose certificate it has verified.
        remove(request.headers_mut(), |name| name == CLIENT_CERTIFICATE);
    }
    let websocket = facts.websocket || is_websocket_over_http2(request)?;
    check_method(request.method(), &facts)?;
    let http2 = request.version() == Version::HTTP_2;
    let host = if http2 { http2_host(request, policy, last)? } else { host_field(request, last)? };
    if let Some(target) = raw_target.filter(|target| *target != b"*") {
        let (named, rest) = absolute_form(target, policy)?;
        let https = target.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"));
        let host = host.as_deref().map(|host| parse_authority(&host.received)).and_then(Result::ok);
        if host.is_some_and(|host| !same_authority(named, host, https)) {
            return Err(HOST_FIELD);
        }
        *request.uri_mut() = origin_form(rest)?;
    }
    if facts.connection {
        check_connection(request.headers())?;
    }
    if facts.upgrade {
        request.headers_mut().remove(UPGRADE);
        request.headers_mut().remove(HTTP2_SETTINGS);
    }
    let expect_continue = facts.expect && check_expect(request, facts.body)?;
    let path = canonical_path(request, http2, policy)?;
    let head = CheckedHead {
        host,
        path,
        websocket,
        upgrade: None,
        expect_continue,
        connection: facts.connection,
        te: facts.te,
        via: facts.via,
    };
    Ok(Checked { head, removed_underscores })
}

/// What pods are told of a client's certificate.
const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";

/// In fields of these names a forwarder says what it knows of the client, or that the request is a copy of another one. There
/// are more than tidegate knows of: X-Forwarded-Prefix, -Ssl, -Client-Cert.
fn is_of_forwarders(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-tidegate-mirror")
}

/// Removes all fields of these names; how many there were.
fn remove(fields: &mut HeaderMap, is_doomed: impl Fn(&str) -> bool) -> usize {
    let names: Vec<HeaderName> = fields.keys().filter(|name| is_doomed(name.as_str())).cloned().collect();
    let before = fields.len();
    for name in names {
        fields.remove(name);
    }
    before - fields.len()
}

/// Whether an HTTP/2 request opens a WebSocket (RFC 8441 §4): CONNECT with `:protocol`. It becomes the GET that it stands for,
/// so that routes take it as they take the handshake of HTTP/1.1.
fn is_websocket_over_http2<B>(request: &mut Request<B>) -> Result<bool, OwnAnswer> {
    if *request.method() != Method::CONNECT {
        return Ok(false);
    }
    match request.extensions().get::<hyper::ext::Protocol>() {
        None => Ok(false),
        Some(protocol) if protocol.as_str() == "websocket" => {
            *request.method_mut() = Method::GET;
            Ok(true)
        }
        Some(_) => Err(OwnAnswer { status: StatusCode::NOT_IMPLEMENTED, reason: Reason::Upgrade, close: false }),
    }
}

/// Refuses the methods that are not forwarded, CONNECT and TRACE among them.
fn check_method(method: &Method, facts: &HeadFacts) -> Result<(), OwnAnswer> {
    if *method == Method::CONNECT {
        return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, Reason::Method));
    }
    if *method == Method::TRACE {
        return Err(OwnAnswer { status: StatusCode::METHOD_NOT_ALLOWED, reason: Reason::Method, close: false });
    }
    if facts.would_be_websocket && facts.body {
        return Err(refuse(StatusCode::BAD_REQUEST, Reason::Upgrade));
    }
    Ok(())
}

/// The Host field of an HTTP/1 request: exactly one, and valid; HTTP/1.0 may lack it.
fn host_field<B>(request: &Request<B>, last: &mut Option<Rc<Host>>) -> Result<Option<Rc<Host>>, OwnAnswer> {
    let mut lines = request.headers().get_all(HOST).iter();
    let Some(line) = lines.next() else {
        return if request.version() == Version::HTTP_10 { Ok(None) } else { Err(HOST_FIELD) };
    };
    if lines.next().is_some() {
        return Err(HOST_FIELD);
    }
    take_host(line.as_bytes(), last).map(Some)
}

/// Scheme, target bytes and authority of an HTTP/2 request (RFC 9113 §8.3.1).
fn http2_host<B>(
    request: &mut Request<B>,
    policy: HeadPolicy,
    last: &mut Option<Rc<Host>>,
) -> Result<Option<Rc<Host>>, OwnAnswer> {
    encode_http2_target(request.uri_mut())?;
    let uri = request.uri();
    if let Some(scheme) = uri.scheme_str() {
        check_scheme(scheme.as_bytes(), policy)?;
    }
    if request.headers().keys().any(|name| fields::flags(name.as_str()).has_any(FieldFlags::NOT_IN_HTTP2)) {
        return Err(FIELD);
    }
    // h2 has read the lengths as numbers and compared them; it takes an empty one for zero, and the same one twice.
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(http::HeaderValue::is_empty) || lengths.next().is_some() {
        return Err(refuse(StatusCode::BAD_REQUEST, Reason::Length));
    }
    let mut lines = request.headers().get_all(HOST).iter();
    let line = lines.next().map(http::HeaderValue::as_bytes);
    let pseudo = uri.authority().map(|authority| authority.as_str().as_bytes());
    let authority = match (pseudo, line) {
        _ if lines.next().is_some() => return Err(HOST_FIELD),
        (Some(pseudo), Some(line)) if pseudo != line => {
            let https = uri.scheme_str().map_or(policy.https, |scheme| scheme.eq_ignore_ascii_case("https"));
            let [named, host] = [pseudo, line].map(|authority| parse_authority(authority).map_err(|_| HOST_FIELD));
            if !same_authority(named?, host?, https) {
                return Err(HOST_FIELD);
            }
            pseudo
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(HOST_FIELD),
    };
    take_host(authority, last).map(Some)
}

/// Percent-encodes the bytes of a `:path` that clients send raw, as the guard does for HTTP/1. h2 refuses some of them
/// before: `<`, `>` and a backquote in a path, and `"`, `<` and `>` in a query, with an error of the stream; what is no
/// UTF-8 with one of the connection.
fn encode_http2_target(uri: &mut Uri) -> Result<(), OwnAnswer> {
    let target = uri.path_and_query().ok_or(TARGET)?.as_str();
    let Cow::Owned(encoded) = encode_target(target.as_bytes()).ok_or(TARGET)? else { return Ok(()) };
    let encoded = PathAndQuery::from_maybe_shared(Bytes::from(encoded)).map_err(|_| TARGET)?;
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(encoded);
    *uri = Uri::from_parts(parts).map_err(|_| TARGET)?;
    Ok(())
}

/// Whether two authorities name the same host and port; a missing port is the scheme's.
fn same_authority(a: Authority<'_>, b: Authority<'_>, https: bool) -> bool {
    let default = if https { 443 } else { 80 };
    normalize_name(a.host) == normalize_name(b.host) && a.port.unwrap_or(default) == b.port.unwrap_or(default)
}

/// Path and query of an absolute-form target; no path is `/` (RFC 9112 §3.2.1).
fn origin_form(rest: &[u8]) -> Result<Uri, OwnAnswer> {
    let target = if rest.starts_with(b"/") { Bytes::copy_from_slice(rest) } else { Bytes::from([b"/", rest].concat()) };
    Uri::from_maybe_shared(target).map_err(|_| TARGET)
}

/// Refuses a Connection field that names one which is not the client's to remove.
fn check_connection(fields: &HeaderMap) -> Result<(), OwnAnswer> {
    for line in fields.get_all(CONNECTION) {
        for member in list(line.as_bytes()) {
            if fields::flags_as_written(member).has_any(FieldFlags::NOT_IN_CONNECTION) {
                return Err(FIELD);
            }
        }
    }
    Ok(())
}

/// Whether the client waits for `100`. Without a body, and in HTTP/1.0 (RFC 9110 §10.1.1), the field is removed.
fn check_expect<B>(request: &mut Request<B>, body: bool) -> Result<bool, OwnAnswer> {
    let lines = request.headers().get_all(EXPECT);
    if !lines.iter().all(|line| line.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(refuse(StatusCode::EXPECTATION_FAILED, Reason::Expect));
    }
    let counts = body && request.version() != Version::HTTP_10;
    if !counts {
        request.headers_mut().remove(EXPECT);
    }
    Ok(counts)
}

/// The canonical path where it differs; answers `OPTIONS *`.
fn canonical_path<B>(request: &Request<B>, http2: bool, policy: HeadPolicy) -> Result<Option<Box<str>>, OwnAnswer> {
    let path = request.uri().path();
    if path == "*" {
        let options = *request.method() == Method::OPTIONS;
        let answer = OwnAnswer { status: StatusCode::NO_CONTENT, reason: Reason::Options, close: false };
        return Err(if options { answer } else { TARGET });
    }
    // An HTTP/2 `:path` is never empty (RFC 9113 §8.3.1); h2 refuses it, this only keeps the promise local.
    if http2 && path.is_empty() {
        return Err(TARGET);
    }
    let canonical = CanonicalPath::parse_text(path, policy.slashes).map_err(|_| TARGET)?;
    Ok(canonical.is_changed().then(|| canonical.as_str().into()))
}

/// A valid authority, with its host in the form that routes are found by. One that is equal to the last is
/// neither parsed nor copied again.
fn take_host(received: &[u8], last: &mut Option<Rc<Host>>) -> Result<Rc<Host>, OwnAnswer> {
    if let Some(last) = last.as_ref().filter(|last| last.received == received) {
        return Ok(Rc::clone(last));
    }
    let authority = parse_authority(received).map_err(|_| HOST_FIELD)?;
    let name = normalize_name(authority.host).into();
    // Not every server knows that a port may be empty.
    let received = received.strip_suffix(b":").unwrap_or(received);
    let host = Rc::new(Host { received: Bytes::copy_from_slice(received), name, port: authority.port });
    Ok(Rc::clone(last.insert(host)))
}

#[cfg(test)]
mod tests;
