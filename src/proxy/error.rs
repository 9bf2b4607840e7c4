//! What can go wrong with a request, and the answers that tidegate makes itself.
//!
//! Total tables: each [`ProxyError`] has one status, one reason, one party at fault and one verdict on sending again; each
//! reason has one text. Texts are short and fixed: nothing of the request, of an address or of a version is in them.

use std::error::Error;
use std::io;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};

use super::body::ForwardBody;
use super::downstream::OwnAnswer;
use crate::reason::Reason;

/// Name of the opt-in header that tells the reason of an own answer.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-tidegate-reason");

/// Methods in the `allow` field of 405 and of the answer to `OPTIONS *`.
const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Seconds in the `retry-after` field of 503.
const RETRY_AFTER: &str = "1";

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
            Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoints => StatusCode::SERVICE_UNAVAILABLE,
            Self::MissingKey => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Connect(_) | Self::Reset(_) | Self::BadResponse(_) => StatusCode::BAD_GATEWAY,
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
            Self::ResponseHead => Reason::ResponseHead,
            Self::BackendRequest => Reason::BackendRequest,
            Self::Request => Reason::Request,
            Self::ExchangeIdle => Reason::ExchangeIdle,
            Self::RequestBody { reason, .. } => *reason,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoHost | Self::NoPath | Self::MissingKey | Self::RequestBody { .. } => Fault::Downstream,
            Self::NoBackend | Self::NoEndpoints | Self::Loop => Fault::Internal,
            Self::Connect(_)
            | Self::ConnectTimeout
            | Self::Reset(_)
            | Self::BadResponse(_)
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Request
            | Self::ExchangeIdle => Fault::Upstream,
        }
    }

    /// Whether another endpoint may be asked, as far as the kind of failure goes; how far the request got decides the rest.
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
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Request
            | Self::ExchangeIdle
            | Self::RequestBody { .. } => false,
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
            | Self::RequestBody { .. } => false,
        }
    }

    /// The own answer; a failed request body leaves the connection in no state to go on.
    #[must_use]
    pub fn answer(&self) -> OwnAnswer {
        OwnAnswer {
            status: self.status(),
            reason: self.reason(),
            close: matches!(self, Self::RequestBody { .. }),
        }
    }
}

/// The text of an own answer.
fn text(reason: Reason) -> &'static str {
    match reason {
        Reason::NoHost => "no route for this host\n",
        Reason::NoPath => "no route for this request\n",
        Reason::NoEndpoints => "no endpoint available\n",
        Reason::NoBackend => "backend not available\n",
        Reason::MissingKey => "a required key is missing\n",
        Reason::Loop => "request loop\n",
        Reason::Connect | Reason::UpstreamTls => "cannot connect to the backend\n",
        Reason::Reset => "the backend closed the connection\n",
        Reason::BadResponse => "the backend's response is invalid\n",
        Reason::ResponseHead | Reason::BackendRequest | Reason::Request | Reason::ExchangeIdle => {
            "the backend took too long\n"
        }
        Reason::Head | Reason::BodySlow | Reason::FirstByte | Reason::Idle => "the request took too long\n",
        Reason::Size => "the request is too large\n",
        Reason::Expect => "expectation failed\n",
        Reason::Method => "method not allowed\n",
        Reason::Options => "",
        Reason::Line
        | Reason::Length
        | Reason::Chunk
        | Reason::Target
        | Reason::Host
        | Reason::Field
        | Reason::Upgrade => "bad request\n",
        Reason::Drain => "the gateway is stopping\n",
        Reason::Panic => "internal error\n",
        Reason::TlsHandshake
        | Reason::WriteSlow
        | Reason::WriteStall
        | Reason::UpstreamIdle
        | Reason::TunnelIdle
        | Reason::Linger
        | Reason::Admin
        | Reason::Flood
        | Reason::ClientGone => "request refused\n",
    }
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
        if headers.get(header::CONTENT_TYPE).is_some_and(grpc) {
            Self::Grpc
        } else if method == Method::HEAD {
            Self::HeadOnly
        } else {
            Self::Text
        }
    }
}

/// The one table of own answers: makes the response of an answer.
#[must_use]
pub fn own_response(answer: OwnAnswer, form: AnswerForm, reason_header: bool) -> Response<ForwardBody> {
    let text = text(answer.reason);
    let mut response = Response::new(ForwardBody::empty());
    let headers = response.headers_mut();
    if reason_header {
        headers.insert(REASON_HEADER, HeaderValue::from_static(answer.reason.as_str()));
    }
    if answer.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    if lists_methods(answer) {
        headers.insert(header::ALLOW, HeaderValue::from_static(ALLOW));
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
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if form == AnswerForm::HeadOnly {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    } else {
        *response.body_mut() = ForwardBody::full(Bytes::from_static(text.as_bytes()));
    }
    response
}

fn lists_methods(answer: OwnAnswer) -> bool {
    answer.status == StatusCode::METHOD_NOT_ALLOWED || answer.reason == Reason::Options
}

impl OwnAnswer {
    /// The raw HTTP/1.1 bytes of the answer, for a refusal between messages; the connection closes behind it.
    #[must_use]
    pub fn to_bytes(&self, reason_header: bool) -> Bytes {
        let text = text(self.reason);
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(self.status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.status.canonical_reason().unwrap_or("Refused").as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut field = |name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        };
        if !text.is_empty() {
            field("content-type", "text/plain; charset=utf-8");
        }
        if self.status != StatusCode::NO_CONTENT {
            field("content-length", itoa::Buffer::new().format(text.len()));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            field("retry-after", RETRY_AFTER);
        }
        if lists_methods(*self) {
            field("allow", ALLOW);
        }
        if reason_header {
            field(REASON_HEADER.as_str(), self.reason.as_str());
        }
        field("connection", "close");
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(text.as_bytes());
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn answer(status: u16, reason: Reason) -> OwnAnswer {
        OwnAnswer { status: StatusCode::from_u16(status).unwrap(), reason, close: false }
    }

    #[test]
    fn every_text_is_one_plain_line_or_none() {
        for &reason in Reason::ALL {
            let text = text(reason);
            assert!(text.len() < 64, "{reason}");
            assert!(text.is_empty() || text.ends_with('\n') && text.matches('\n').count() == 1, "{reason}");
            assert!(text.trim_end().bytes().all(|b| (b' '..0x7f).contains(&b) && b != b'%'), "{reason}");
        }
    }

    #[test]
    fn service_unavailable_says_when_to_come_back() {
        let response = own_response(answer(503, Reason::NoEndpoints), AnswerForm::Text, true);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-tidegate-reason"], "no_endpoints");
        assert_eq!(response.body().size_hint().exact(), Some(22));
        let response = own_response(answer(404, Reason::NoPath), AnswerForm::Text, false);
        assert!(!response.headers().contains_key("retry-after"));
        assert!(!response.headers().contains_key("x-tidegate-reason"));
    }

    #[test]
    fn head_gets_the_length_without_the_text() {
        let response = own_response(answer(404, Reason::NoPath), AnswerForm::HeadOnly, false);
        assert_eq!(response.headers()["content-length"], "26");
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        let form = AnswerForm::of(&Method::POST, &headers);
        let response = own_response(answer(503, Reason::NoEndpoints), form, false);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no endpoint available");
        assert!(response.body().is_end_stream());
        headers.insert("content-type", HeaderValue::from_static("application/grpc-web"));
        assert_eq!(AnswerForm::of(&Method::POST, &headers), AnswerForm::Text);
    }

    #[test]
    fn raw_bytes_state_length_and_close() {
        let bytes = answer(400, Reason::Line).to_bytes(true);
        assert_eq!(
            std::str::from_utf8(&bytes).unwrap(),
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 12\r\n\
             x-tidegate-reason: line\r\nconnection: close\r\n\r\nbad request\n"
        );
    }
}
