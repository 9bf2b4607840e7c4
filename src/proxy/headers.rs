//! Request and response fields on their way through: hop-by-hop removal, forwarded identity, the canonical form.
//!
//! One pass writes the fields straight into the send buffer (HTTP/1), or edits it in place (HTTP/2). What a
//! field means to routing is not known here.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use ipnet::IpNet;

use super::downstream::Downstream;
use crate::fields::{self, FieldFlags};
use crate::http1::client::RequestFraming;
use crate::model::route::Rule;
use crate::settings::ListenerMode;

/// Received-by part of a gateway's `via` entries, the hop mark.
const HOP_MARK: &str = "tidegate";
/// The `via` entry that a gateway adds.
const VIA: &str = "1.1 tidegate";
/// This many hop marks of gateways in a request mean a loop; one is a legal chain of two gateways.
const LOOP_MARKS: usize = 2;
/// As [`HOP_MARK`], of sidecars. They count apart: an application that copies fields from the request that it answers to
/// those that it sends carries the marks of the whole chain of services.
const SIDECAR_HOP_MARK: &str = "tidegate-sidecar";
/// The `via` entry that a sidecar adds to outgoing requests.
const SIDECAR_VIA: &str = "1.1 tidegate-sidecar";
/// This many hop marks of sidecars in a request mean a loop: longer chains of services are hardly built on purpose.
const SIDECAR_LOOP_MARKS: usize = 16;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// Which try of a request this is, from the second on.
pub(super) const X_TIDEGATE_ATTEMPT: HeaderName = HeaderName::from_static("x-tidegate-attempt");
/// What pods are told of a client's certificate.
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id that a request carries through log and backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// Made here; written as 32 hex digits.
    Made(u128),
    /// Kept from a trusted peer.
    Kept(HeaderValue),
}

impl RequestId {
    /// Keeps the id that a trusted peer sent, else makes one.
    #[must_use]
    pub fn new(trusted: bool, headers: &HeaderMap, rng: &mut fastrand::Rng) -> Self {
        let kept = if trusted { headers.get(&X_REQUEST_ID) } else { None };
        match kept {
            Some(value) if !value.is_empty() => Self::Kept(value.clone()),
            _ => Self::Made(rng.u128(..)),
        }
    }

    /// Appends the id as sent.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Kept(value) => out.extend_from_slice(value.as_bytes()),
            Self::Made(id) => out.extend_from_slice(&hex(*id)),
        }
    }

    /// The id as a field value.
    #[must_use]
    pub fn to_value(&self) -> HeaderValue {
        match self {
            Self::Kept(value) => value.clone(),
            Self::Made(id) => HeaderValue::from_bytes(&hex(*id)).expect("hex digits are a valid field value"),
        }
    }
}

/// The two hex digits of each byte.
static HEX_PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

fn hex(id: u128) -> [u8; 32] {
    let mut out = [0; 32];
    for (pair, byte) in out.as_chunks_mut().0.iter_mut().zip(id.to_be_bytes()) {
        *pair = HEX_PAIRS[usize::from(byte)];
    }
    out
}

/// The request came through us often enough that it runs in a circle.
#[must_use]
pub fn is_loop(headers: &HeaderMap) -> bool {
    let (mut marks, mut sidecar_marks) = (0, 0);
    for value in headers.get_all(header::VIA) {
        for entry in value.as_bytes().split(|&b| b == b',') {
            let received_by = entry.split(|b| b.is_ascii_whitespace()).filter(|part| !part.is_empty()).nth(1);
            marks += usize::from(received_by == Some(HOP_MARK.as_bytes()));
            sidecar_marks += usize::from(received_by == Some(SIDECAR_HOP_MARK.as_bytes()));
        }
    }
    marks >= LOOP_MARKS || sidecar_marks >= SIDECAR_LOOP_MARKS
}

/// The client said `te: trailers` (RFC 9110 §10.1.4).
#[must_use]
pub fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(|value| {
        value.as_bytes().split(|&b| b == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// The client's address: the peer, or behind trusted forwarders the right-most address that is not one of them.
#[must_use]
pub fn client_address(downstream: &Downstream, trusted: &[IpNet], headers: &HeaderMap) -> IpAddr {
    let mut client = downstream.peer.ip();
    if !downstream.trusted {
        return client;
    }
    for value in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
        for part in elements(value).rev() {
            let Some(address) = std::str::from_utf8(part).ok().and_then(parse_address) else {
                return client;
            };
            client = address;
            if !trusted.iter().any(|net| net.contains(&address)) {
                return client;
            }
        }
    }
    client
}

/// The scheme and the port that the client used, as far as the gateway can know.
///
/// The port on which the process listens says nothing about that: a Service, a node port or a load balancer may stand
/// before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTarget {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The port.
    pub port: u16,
}

impl ClientTarget {
    /// What a trusted forwarder says in X-Forwarded-Proto and X-Forwarded-Port; else the scheme of the request target
    /// or of the listener, the port of Host, and the default port of the scheme.
    ///
    /// `uri_scheme` is the scheme of an HTTP/2 request, `host_port` the port in Host or `:authority`.
    #[must_use]
    pub fn of(downstream: &Downstream, uri_scheme: Option<&str>, host_port: Option<u16>, headers: &HeaderMap) -> Self {
        let forwarded = |name: &HeaderName| {
            let value = if downstream.trusted { headers.get(name) } else { None };
            // The first element is that of the forwarder next to the client.
            value.and_then(|value| std::str::from_utf8(elements(value).next()?).ok())
        };
        let scheme = forwarded(&X_FORWARDED_PROTO).and_then(scheme_of);
        let scheme =
            scheme.or_else(|| scheme_of(uri_scheme.filter(|_| downstream.trusted)?)).unwrap_or(downstream.scheme());
        let port = forwarded(&X_FORWARDED_PORT).and_then(|port| port.parse().ok());
        let port = port.filter(|port| *port != 0).or(host_port.filter(|port| *port != 0));
        Self { scheme, port: port.unwrap_or(default_port(scheme)) }
    }
}

/// The scheme of a name; that of WebSockets is the one of their handshake (RFC 6455 §3).
fn scheme_of(name: &str) -> Option<&'static str> {
    match name {
        _ if name.eq_ignore_ascii_case("https") || name.eq_ignore_ascii_case("wss") => Some("https"),
        _ if name.eq_ignore_ascii_case("http") || name.eq_ignore_ascii_case("ws") => Some("http"),
        _ => None,
    }
}

fn default_port(scheme: &str) -> u16 {
    if scheme == "https" { 443 } else { 80 }
}

/// The elements of a list, empty ones left out (RFC 9110 §5.6.1.2).
fn elements(value: &HeaderValue) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// An address as forwarders write it: bare or in brackets, or with a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .filter(|text| text.contains(':'))
        .unwrap_or(text);
    let address =
        text.parse::<IpAddr>().or_else(|_| text.parse::<std::net::SocketAddr>().map(|addr| addr.ip())).ok()?;
    Some(address.to_canonical())
}

/// Everything that the head sent upstream is made of.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method, unchanged.
    pub method: &'a Method,
    /// The canonical path.
    pub path: &'a str,
    /// The query that the endpoint sees.
    pub query: Option<&'a str>,
    /// Host for the endpoint; `None` for HTTP/1.0 without Host.
    pub authority: Option<&'a [u8]>,
    /// Host as received: what `x-forwarded-host` says, whatever the endpoint's host is.
    pub received_authority: Option<&'a [u8]>,
    /// The client's fields.
    pub headers: &'a HeaderMap,
    /// There is a Connection field among them.
    pub has_connection: bool,
    /// Where the request came from.
    pub downstream: &'a Downstream,
    /// Where it goes.
    pub endpoint: IpAddr,
    /// The scheme and port that the client used.
    pub client_target: ClientTarget,
    /// Its id.
    pub request_id: &'a RequestId,
    /// Which try it is, for those that a rule's policy makes.
    pub attempt: Option<u8>,
    /// How the body is framed upstream.
    pub framing: RequestFraming,
    /// `expect: 100-continue` goes out.
    pub expect_continue: bool,
    /// A WebSocket handshake: it goes out with `connection: upgrade` and `upgrade: websocket` (RFC 6455 §4.1).
    pub websocket: bool,
}

/// What becomes of a request field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Drop,
    Cookie,
    /// Kept from trusted peers, else overwritten.
    Proto,
    ForwardedHost,
    ForwardedPort,
    /// Kept from trusted peers, else dropped; a try of ours has our own.
    Attempt,
}

/// Decides by name, for the requests of a listener.
#[inline]
fn fate(name: &str, mode: ListenerMode) -> Fate {
    let flags = fields::flags(name);
    if flags == FieldFlags::NONE {
        return Fate::Keep;
    }
    if mode.is_sidecar() {
        return fate_in_sidecar(name, flags, mode);
    }
    if flags.has_any(FieldFlags::NOT_FROM_CLIENTS) {
        return Fate::Drop;
    }
    match name {
        "cookie" => Fate::Cookie,
        "x-forwarded-proto" => Fate::Proto,
        "x-forwarded-host" => Fate::ForwardedHost,
        "x-forwarded-port" => Fate::ForwardedPort,
        "x-tidegate-attempt" => Fate::Attempt,
        _ => Fate::Keep,
    }
}

/// As [`fate`], in a sidecar: all passes but what belongs to the connection, and the id, which it writes going out.
#[cold]
fn fate_in_sidecar(name: &str, flags: FieldFlags, mode: ListenerMode) -> Fate {
    if name == "cookie" {
        Fate::Cookie
    } else if name == X_TIDEGATE_ATTEMPT.as_str() {
        Fate::Attempt
    } else if (mode == ListenerMode::Outgoing && name == X_REQUEST_ID.as_str())
        || (flags.has_any(FieldFlags::NOT_FROM_CLIENTS) && !flags.has_any(FieldFlags::PASSES_SIDECARS))
    {
        Fate::Drop
    } else {
        Fate::Keep
    }
}

/// Fields that Connection names, beside the two options everybody sends; nearly always none, then without allocation.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        let value = value.as_bytes();
        if value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close") {
            continue;
        }
        for token in value.split(|&b| b == b',') {
            if let Ok(name) = HeaderName::from_bytes(token.trim_ascii())
                && !fields::flags(name.as_str()).has_any(FieldFlags::IDENTITY)
            {
                names.push(name);
            }
        }
    }
    names
}

/// Appends the head in canonical form, empty line included.
pub fn encode_request(out: &mut Vec<u8>, request: &RequestHead<'_>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.as_bytes());
    if let Some(query) = request.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.authority.unwrap_or_default());
    out.extend_from_slice(b"\r\n");

    let trusted = request.downstream.trusted || request.downstream.mode.is_sidecar();
    let nominated = if request.has_connection { nominated(request.headers) } else { Vec::new() };
    let (mut cookie, mut proto, mut host, mut port) = (false, false, false, false);
    for (name, value) in request.headers {
        match fate(name.as_str(), request.downstream.mode) {
            Fate::Drop => continue,
            Fate::Keep => {}
            Fate::Cookie => {
                if !std::mem::replace(&mut cookie, true) && !nominated.contains(name) {
                    write_cookies(out, request.headers);
                }
                continue;
            }
            Fate::Proto if trusted => proto = true,
            Fate::ForwardedHost if trusted => host = true,
            Fate::ForwardedPort if trusted => port = true,
            Fate::Attempt if trusted && request.attempt.is_none() => {}
            Fate::Proto | Fate::ForwardedHost | Fate::ForwardedPort | Fate::Attempt => continue,
        }
        if !nominated.is_empty() && nominated.contains(name) {
            continue;
        }
        write_field(out, name.as_str(), value.as_bytes());
    }
    if request.websocket {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    if let Some(attempt) = request.attempt {
        write_field(out, X_TIDEGATE_ATTEMPT.as_str(), itoa::Buffer::new().format(attempt).as_bytes());
    }
    if request.expect_continue {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    write_identity(out, request, [proto, host, port]);
    match request.framing {
        RequestFraming::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
        }
        RequestFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n"),
        // RFC 9110 §8.6: methods that anticipate content say that there is none.
        RequestFraming::Empty if matches!(*request.method, Method::POST | Method::PUT | Method::PATCH) => {
            out.extend_from_slice(b"content-length: 0\r\n\r\n");
        }
        RequestFraming::Empty => out.extend_from_slice(b"\r\n"),
    }
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// One `cookie` line out of all crumbs (RFC 9113 §8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    out.extend_from_slice(b"cookie: ");
    for (index, crumb) in headers.get_all(header::COOKIE).iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(crumb.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// The lines of forwarded identity and hop mark that every request of an untrusted peer gets, on a listener with a scheme.
#[must_use]
pub fn identity(peer: SocketAddr, scheme: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(128);
    write_field(&mut out, X_FORWARDED_FOR.as_str(), peer.ip().to_string().as_bytes());
    write_field(&mut out, X_FORWARDED_PROTO.as_str(), scheme.as_bytes());
    write_field(&mut out, header::VIA.as_str(), VIA.as_bytes());
    out.into()
}

/// Appends forwarded identity, hop mark and request id; `kept` says which of proto, host and port a trusted peer sent.
fn write_identity(out: &mut Vec<u8>, request: &RequestHead<'_>, kept: [bool; 3]) {
    match request.downstream.mode {
        ListenerMode::Gateway => {}
        ListenerMode::Outgoing | ListenerMode::Relay => {
            write_field(out, header::VIA.as_str(), SIDECAR_VIA.as_bytes());
            return write_request_id(out, request.request_id);
        }
        // Of the application, which sees what was sent.
        ListenerMode::Incoming if request.endpoint.is_loopback() => return,
        // A route has it leave the pod, and it may come back: the marks end that.
        ListenerMode::Incoming => return write_field(out, header::VIA.as_str(), SIDECAR_VIA.as_bytes()),
    }
    let [proto, host, port] = kept;
    if request.downstream.trusted {
        write_trusted_identity(out, request, proto);
    } else {
        out.extend_from_slice(&request.downstream.identity);
    }
    if !port {
        out.extend_from_slice(b"x-forwarded-port: ");
        out.extend_from_slice(itoa::Buffer::new().format(request.client_target.port).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !host && let Some(authority) = request.received_authority {
        out.extend_from_slice(b"x-forwarded-host: ");
        out.extend_from_slice(authority);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(certificate) = &request.downstream.client.certificate {
        write_field(out, X_FORWARDED_CLIENT_CERT.as_str(), certificate.as_bytes());
    }
    write_request_id(out, request.request_id);
}

fn write_request_id(out: &mut Vec<u8>, id: &RequestId) {
    out.extend_from_slice(b"x-request-id: ");
    id.write(out);
    out.extend_from_slice(b"\r\n");
}

/// As [`identity`], of a peer that is believed: what it sent stands, and its address joins the chain.
fn write_trusted_identity(out: &mut Vec<u8>, request: &RequestHead<'_>, proto: bool) {
    let downstream = request.downstream;
    out.extend_from_slice(b"x-forwarded-for: ");
    write_chain(out, request.headers);
    write_ip(out, downstream.peer.ip());
    out.extend_from_slice(b"\r\n");
    if !proto {
        write_field(out, X_FORWARDED_PROTO.as_str(), request.client_target.scheme.as_bytes());
    }
    write_field(out, header::VIA.as_str(), VIA.as_bytes());
}

/// The addresses that a trusted peer sent, each followed by a comma.
fn write_chain(out: &mut Vec<u8>, headers: &HeaderMap) {
    for element in headers.get_all(&X_FORWARDED_FOR).iter().flat_map(elements) {
        out.extend_from_slice(element);
        out.extend_from_slice(b", ");
    }
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    write!(out, "{ip}").expect("writing to a Vec does not fail");
}

/// Edits the client's fields for an HTTP/2 endpoint at this address, where one more may pass than over HTTP/1: `te: trailers`.
pub fn edit_for_http2(
    headers: &mut HeaderMap,
    authority: Option<&[u8]>,
    (downstream, endpoint): (&Downstream, IpAddr),
    client_target: ClientTarget,
    id: &RequestId,
) {
    let trailers = accepts_trailers(headers);
    let length = headers.remove(header::CONTENT_LENGTH);
    for name in nominated(headers) {
        headers.remove(name);
    }
    let mut chain = Vec::new();
    if downstream.trusted {
        write_chain(&mut chain, headers);
    }
    write_ip(&mut chain, downstream.peer.ip());
    remove_all(headers, |name| match fate(name.as_str(), downstream.mode) {
        Fate::Drop => true,
        Fate::Proto | Fate::ForwardedHost | Fate::ForwardedPort | Fate::Attempt => {
            !downstream.trusted && !downstream.mode.is_sidecar()
        }
        Fate::Keep | Fate::Cookie => false,
    });
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match downstream.mode {
        ListenerMode::Gateway => {}
        ListenerMode::Outgoing | ListenerMode::Relay => {
            headers.append(header::VIA, HeaderValue::from_static(SIDECAR_VIA));
            headers.insert(X_REQUEST_ID, id.to_value());
            return;
        }
        ListenerMode::Incoming => {
            if !endpoint.is_loopback() {
                headers.append(header::VIA, HeaderValue::from_static(SIDECAR_VIA));
            }
            return;
        }
    }
    if let Ok(chain) = HeaderValue::from_maybe_shared(bytes::Bytes::from(chain)) {
        headers.insert(X_FORWARDED_FOR, chain);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(client_target.scheme));
    if let Some(authority) = authority.and_then(|bytes| HeaderValue::from_bytes(bytes).ok()) {
        headers.entry(X_FORWARDED_HOST).or_insert(authority);
    }
    headers.entry(X_FORWARDED_PORT).or_insert(HeaderValue::from(client_target.port));
    headers.append(header::VIA, HeaderValue::from_static(VIA));
    if let Some(certificate) = downstream.client.certificate.as_deref()
        && let Ok(certificate) = HeaderValue::from_str(certificate)
    {
        headers.insert(X_FORWARDED_CLIENT_CERT, certificate);
    }
    headers.insert(X_REQUEST_ID, id.to_value());
}

/// Removes the fields of a response that belong to the connection to the endpoint (RFC 9110 §7.6.1). Over HTTP/1 the parser
/// of heads has done so. `trailers`: the client said `te: trailers`, so the announcement of trailers is kept.
pub fn clean_response(headers: &mut HeaderMap, trailers: bool) {
    for name in nominated(headers) {
        headers.remove(name);
    }
    remove_all(headers, |name| {
        fields::flags(name.as_str()).has_any(FieldFlags::HOP_BY_HOP) && !(trailers && *name == header::TRAILER)
    });
}

/// Removes the fields whose names are `doomed`; allocates only when there is one.
fn remove_all(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// Removes the fields that Connection names (RFC 9110 §7.6.1) before anything of ours is added under such a name; `te`
/// stays, for HTTP/2 endpoints.
pub(super) fn remove_nominated(headers: &mut HeaderMap) {
    for name in nominated(headers).into_iter().filter(|name| *name != header::TE) {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

/// Drops trailer fields that would change framing, routing, credentials or identity (RFC 9110 §6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_all(trailers, |name| {
        let name = name.as_str();
        fields::flags(name).has_any(FieldFlags::NOT_A_TRAILER) || name.starts_with("x-forwarded-") || name.contains('_')
    });
}

/// Drops trailer fields of a client whose names filters of the rule decide about: a header of that name would be dropped.
pub(super) fn clean_decided_trailers(trailers: &mut HeaderMap, rule: &Rule) {
    remove_all(trailers, |name| rule.decides_field(name));
}

#[cfg(test)]
mod tests;
