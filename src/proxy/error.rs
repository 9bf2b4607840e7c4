//! What can go wrong with a request, and the answers that tidegate makes itself.
//!
//! Total tables: each [`ProxyError`] has one status, one reason, one party at fault and one verdict on sending again;
//! each status has one text. Texts are short and fixed, without version, address or echo (RS10).

use std::error::Error;
use std::io;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use rustix::io::Errno;

use super::body::ForwardBody;
use super::downstream::OwnAnswer;
use crate::reason::Reason;

/// Name of the opt-in header that tells the reason of an own answer.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-tidegate-reason");

/// Methods in the `allow` field of 405 and of the answer to `OPTIONS *`.
const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// Why a request did not get its backend's answer.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No route has the host.
    #[error("no route has this host")]
    NoHost,
    /// No match fits.
    #[error("no match fits the request")]
    NoPath,
    /// The rule has no backend, or the chosen reference cannot be resolved.
    #[error("the rule has no backend")]
    NoBackend,
    /// The backend has no usable endpoint.
    #[error("the backend has no endpoint")]
    NoEndpoints,
    /// A consistent hash refuses requests without a key.
    #[error("the request has no hash key")]
    MissingKey,
    /// The request carries our hop mark twice.
    #[error("the request came round again")]
    Loop,
    /// An endpoint refused the connection or is unreachable.
    #[error("cannot connect to the endpoint")]
    Connect(#[source] io::Error),
    /// A connection attempt took too long; a NetworkPolicy that drops packets looks like this.
    #[error("connecting to the endpoint took too long")]
    ConnectTimeout,
    /// The connection broke before a response head.
    #[error("endpoint closed or reset the connection")]
    Reset(#[source] Box<dyn Error + Send + Sync>),
    /// The response breaks a rule.
    #[error("response refused")]
    BadResponse(#[source] Box<dyn Error + Send + Sync>),
    /// The endpoint accepted a handshake wrongly.
    #[error("handshake answered wrongly")]
    Handshake,
    /// The rule has as many upgraded connections as it may.
    #[error("the rule has too many upgraded connections")]
    MaxConnections,
    /// No response head in time.
    #[error("no response head in time")]
    ResponseHead,
    /// One try took too long.
    #[error("one try took too long")]
    BackendRequest,
    /// The exchange took too long.
    #[error("the exchange took too long")]
    Request,
    /// Nothing moved in either direction for too long.
    #[error("the exchange was idle for too long")]
    ExchangeIdle,
    /// The client's request body failed; status and reason are the guard's, where it found the fault.
    #[error("request body failed")]
    RequestBody {
        /// 4xx.
        status: StatusCode,
        /// Why.
        reason: Reason,
        /// What reading it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Working on it panicked.
    #[error("the request made tidegate panic")]
    Panic,
}

/// Who is to blame; decides which counter and log level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client.
    Downstream,
    /// An endpoint.
    Upstream,
    /// The configuration, or tidegate itself.
    Internal,
}

impl ProxyError {
    /// The status of the own answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoHost | Self::NoPath => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoints | Self::MaxConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::MissingKey => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Connect(_) | Self::Reset(_) | Self::BadResponse(_) | Self::Handshake => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::ResponseHead | Self::BackendRequest | Self::Request | Self::ExchangeIdle => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RequestBody { status, .. } => *status,
        }
    }

    /// The reason in log, metric and header.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoHost => Reason::NoHost,
            Self::NoPath => Reason::NoPath,
            Self::NoBackend => Reason::NoBackend,
            Self::NoEndpoints => Reason::NoEndpoints,
            Self::MissingKey => Reason::MissingKey,
            Self::Loop => Reason::Loop,
            Self::Connect(_) | Self::ConnectTimeout => Reason::Connect,
            Self::Reset(_) => Reason::Reset,
            Self::BadResponse(_) => Reason::BadResponse,
            Self::Handshake => Reason::Upgrade,
            Self::MaxConnections => Reason::MaxConnections,
            Self::ResponseHead => Reason::ResponseHead,
            Self::BackendRequest => Reason::BackendRequest,
            Self::Request => Reason::Request,
            Self::ExchangeIdle => Reason::ExchangeIdle,
            Self::RequestBody { reason, .. } => *reason,
            Self::Panic => Reason::Panic,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoHost | Self::NoPath | Self::MissingKey | Self::RequestBody { .. } => Fault::Downstream,
            Self::NoBackend | Self::NoEndpoints | Self::Loop | Self::MaxConnections | Self::Panic => Fault::Internal,
            Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Reset(_)
            | Self::BadResponse(_)
            | Self::Handshake
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Request
            | Self::ExchangeIdle => Fault::Upstream,
        }
    }

    /// Whether it may be sent again, as far as the kind of failure goes; how far the request got decides the rest.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::Reset(_) => true,
            Self::NoHost
            | Self::NoPath
            | Self::NoBackend
            | Self::NoEndpoints
            | Self::MissingKey
            | Self::Loop
            | Self::BadResponse(_)
            | Self::Handshake
            | Self::MaxConnections
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Request
            | Self::ExchangeIdle
            | Self::RequestBody { .. }
            | Self::Panic => false,
        }
    }

    /// The endpoint failed before a response head, which its live numbers should know (decision 21).
    #[must_use]
    pub fn is_endpoint_failure(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Reset(_)
            | Self::BadResponse(_)
            | Self::Handshake
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Request
            | Self::ExchangeIdle => true,
            Self::NoHost
            | Self::NoPath
            | Self::NoBackend
            | Self::NoEndpoints
            | Self::MissingKey
            | Self::Loop
            | Self::MaxConnections
            | Self::RequestBody { .. }
            | Self::Panic => false,
        }
    }

    /// The failure is for want of sockets or ports here: it says nothing about the endpoint.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let Self::Connect(err) = self else { return false };
        let errno = err.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM))
    }

    /// The own answer; a failed request body leaves the connection in no state to go on.
    #[must_use]
    pub fn answer(&self) -> OwnAnswer {
        OwnAnswer {
            status: self.status(),
            reason: self.reason(),
            close: matches!(self, Self::RequestBody { .. } | Self::Handshake | Self::Panic),
        }
    }
}

/// The media type of every own body.
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// The body of an own answer with `status`; empty for 204.
#[must_use]
pub const fn own_body(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "ok\n",
        204 => "",
        400 => "bad request\n",
        403 => "forbidden\n",
        404 => "not found\n",
        405 => "method not allowed\n",
        408 => "request timeout\n",
        413 => "content too large\n",
        414 => "uri too long\n",
        417 => "expectation failed\n",
        421 => "misdirected request\n",
        429 => "too many requests\n",
        431 => "request header fields too large\n",
        501 => "not implemented\n",
        502 => "bad gateway\n",
        503 => "service unavailable\n",
        504 => "gateway timeout\n",
        505 => "http version not supported\n",
        508 => "loop detected\n",
        _ => "internal server error\n",
    }
}

/// The value of `retry-after` in seconds that goes with `status`, if any.
#[must_use]
pub const fn retry_after(status: StatusCode) -> Option<&'static str> {
    if status.as_u16() == 503 { Some("1") } else { None }
}

/// The value of `allow` that goes with `status` (RFC 9110 §15.5.6: required with 405), if any.
#[must_use]
pub const fn allow(status: StatusCode) -> Option<&'static str> {
    if status.as_u16() == 405 { Some(ALLOW) } else { None }
}

/// An own answer as HTTP/1.1 bytes, always with `connection: close`: for what is refused before hyper sees it.
///
/// `date` is the present time in the form of RFC 9110 §5.6.7; `reason_header` adds `x-tidegate-reason`.
#[must_use]
pub fn own_answer_bytes(answer: OwnAnswer, date: &str, reason_header: bool) -> Vec<u8> {
    let status = answer.status;
    let body = own_body(status);
    let mut bytes = Vec::with_capacity(256);
    let mut put = |parts: &[&str]| parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
    put(&["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default(), "\r\n"]);
    if !body.is_empty() {
        put(&["content-type: ", CONTENT_TYPE, "\r\ncontent-length: ", itoa::Buffer::new().format(body.len()), "\r\n"]);
    }
    put(&["date: ", date, "\r\nconnection: close\r\n"]);
    for (name, value) in [("retry-after", retry_after(status)), ("allow", allow(status))] {
        if let Some(value) = value {
            put(&[name, ": ", value, "\r\n"]);
        }
    }
    if reason_header {
        put(&["x-tidegate-reason: ", answer.reason.as_str(), "\r\n"]);
    }
    put(&["\r\n", body]);
    bytes
}

/// gRPC status code of an HTTP status, as the gRPC specification maps them ("HTTP to gRPC Status Code Mapping").
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// How an own answer is worded for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerForm {
    /// A short text.
    #[default]
    Text,
    /// The head of the text, for HEAD.
    HeadOnly,
    /// A trailers-only gRPC response.
    Grpc,
}

impl AnswerForm {
    /// The form that the sender of a request understands.
    #[must_use]
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let grpc = |value: &HeaderValue| {
            value
                .as_bytes()
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        };
        // gRPC requests are always POST: the others need no look at their fields.
        if method == Method::POST && headers.get(header::CONTENT_TYPE).is_some_and(grpc) {
            Self::Grpc
        } else if method == Method::HEAD {
            Self::HeadOnly
        } else {
            Self::Text
        }
    }
}

/// Adds what every answer of the gateway says beside its status: its reason, where that is wanted, and the close.
fn mark(headers: &mut HeaderMap, answer: OwnAnswer, reason_header: bool) {
    if reason_header {
        headers.insert(REASON_HEADER, HeaderValue::from_static(answer.reason.as_str()));
    }
    if answer.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The one table of own answers: makes the response of an answer.
#[must_use]
pub fn own_response(answer: OwnAnswer, form: AnswerForm, reason_header: bool) -> Response<ForwardBody> {
    let text = own_body(answer.status);
    let mut response = Response::new(ForwardBody::empty());
    let headers = response.headers_mut();
    mark(headers, answer, reason_header);
    if let Some(seconds) = retry_after(answer.status) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if answer.reason == Reason::Options {
        headers.insert(header::ALLOW, HeaderValue::from_static(ALLOW));
    } else if let Some(methods) = allow(answer.status) {
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    if form == AnswerForm::Grpc && !answer.status.is_success() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(grpc_status(answer.status)));
        headers.insert("grpc-message", HeaderValue::from_static(text.trim_ascii_end()));
        return response;
    }
    *response.status_mut() = answer.status;
    if text.is_empty() {
        return response;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    if form == AnswerForm::HeadOnly {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    } else {
        *response.body_mut() = ForwardBody::full(Bytes::from_static(text.as_bytes()));
    }
    response
}

/// Makes the response of a filter that answers with a head and a body of its own.
#[must_use]
pub fn made_response(
    made: crate::filter::Answer,
    answer: OwnAnswer,
    form: AnswerForm,
    reason_header: bool,
) -> Response<ForwardBody> {
    let body = made.body.unwrap_or_default();
    let mut response = Response::new(ForwardBody::empty());
    *response.status_mut() = made.status;
    *response.headers_mut() = made.headers;
    let headers = response.headers_mut();
    mark(headers, answer, reason_header);
    if form == AnswerForm::HeadOnly {
        // RFC 9110 §8.6: forbidden with 204, and with 304 it would be that of a response that is not known here.
        if !matches!(made.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
    } else {
        *response.body_mut() = ForwardBody::full(body);
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;
    use crate::http1::guard::{HeadLimits, ResponseFraming, ResponseScanner, Scan};

    fn answer(status: u16, reason: Reason) -> OwnAnswer {
        OwnAnswer { status: StatusCode::from_u16(status).unwrap(), reason, close: false }
    }

    #[test]
    fn want_of_sockets_is_not_the_endpoints_fault() {
        let connect = |errno: Errno| ProxyError::Connect(io::Error::from(errno));
        assert!(connect(Errno::MFILE).is_local());
        assert!(!connect(Errno::CONNREFUSED).is_local());
        assert!(!ProxyError::ConnectTimeout.is_local());
    }

    #[test]
    fn service_unavailable_says_when_to_come_back() {
        let response = own_response(answer(503, Reason::NoEndpoints), AnswerForm::Text, true);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-tidegate-reason"], "no_endpoints");
        assert_eq!(response.body().size_hint().exact(), Some(20));
        let response = own_response(answer(404, Reason::NoPath), AnswerForm::Text, false);
        assert!(!response.headers().contains_key("retry-after"));
        assert!(!response.headers().contains_key("x-tidegate-reason"));
    }

    #[test]
    fn head_gets_the_length_without_the_text() {
        let response = own_response(answer(404, Reason::NoPath), AnswerForm::HeadOnly, false);
        assert_eq!(response.headers()["content-length"], "10");
        assert!(response.body().is_end_stream());
    }

    /// RFC 9110 §8.6: never with 204, and with 304 only that of the response that it stands for.
    #[test]
    fn no_length_goes_with_a_status_that_has_no_content() {
        for (status, length) in [(200, Some("0")), (204, None), (205, Some("0")), (304, None), (404, Some("0"))] {
            let status = StatusCode::from_u16(status).unwrap();
            let made = || crate::filter::Answer {
                status,
                headers: HeaderMap::new(),
                body: Some(Bytes::new()),
                reason: Reason::DirectResponse,
            };
            let form = |form| {
                made_response(made(), OwnAnswer { status, reason: Reason::DirectResponse, close: false }, form, false)
            };
            let head = form(AnswerForm::HeadOnly);
            let found = head.headers().get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(found, length, "{status}");
            assert!(head.body().is_end_stream(), "{status}");
            assert!(!form(AnswerForm::Text).headers().contains_key("content-length"), "{status}: left to the framing");
        }
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        let form = AnswerForm::of(&Method::POST, &headers);
        let response = own_response(answer(503, Reason::NoEndpoints), form, false);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "service unavailable");
        assert!(response.body().is_end_stream());
        headers.insert("content-type", HeaderValue::from_static("application/grpc-web"));
        assert_eq!(AnswerForm::of(&Method::POST, &headers), AnswerForm::Text);
    }

    #[test]
    fn raw_answers_are_well_formed_and_close() {
        let limits = HeadLimits { start_line: 100, field: 200, fields_total: 1000, field_count: 10 };
        for status in [204, 400, 403, 404, 405, 408, 413, 414, 417, 421, 431, 500, 501, 502, 503, 504, 505, 508] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = OwnAnswer { status, reason: Reason::Line, close: true };
            let bytes = own_answer_bytes(answer, "Thu, 01 Jan 1970 00:00:00 GMT", true);
            let Ok(Scan::Done(facts)) = ResponseScanner::new().scan(&bytes, &limits) else {
                panic!("{status}: {}", bytes.escape_ascii());
            };
            let body = &bytes[facts.head_len..];
            assert_eq!(body, own_body(status).as_bytes());
            assert!(facts.close);
            assert_eq!(facts.status, status.as_u16());
            if status != StatusCode::NO_CONTENT {
                assert_eq!(facts.framing, ResponseFraming::Length(body.len() as u64));
            }
            assert!(String::from_utf8_lossy(&bytes).contains("x-tidegate-reason: line\r\n"));
        }
    }
}
