//! What gRPC adds to HTTP: which requests are calls, how long they may take, and which code stands for what happened.
//!
//! Pure tables and parsers (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Messages are never looked at.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::reason::Reason;
use crate::telemetry::metrics::GrpcCode;

/// The code of a call, in the head of a response without messages, else in the trailers.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// A text for developers beside the code.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The longest time that a client may ask for; what is longer counts as this, so that no addition overflows.
const MOST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Bytes of a body that become the message of an answer.
const MOST_MESSAGE: usize = 1 << 10;

/// Whether the content type is that of gRPC. That of gRPC-Web, which browsers speak, is another one.
#[must_use]
pub fn is_content_type(value: &HeaderValue) -> bool {
    value
        .as_bytes()
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The number of `grpc-status`, where a response or its trailers have one.
#[must_use]
pub fn status_number(fields: &HeaderMap) -> Option<u32> {
    std::str::from_utf8(fields.get(GRPC_STATUS)?.as_bytes()).ok()?.parse().ok()
}

/// The number of `grpc-status` in the head of a gRPC response: one without a message, whose trailers are its head.
#[must_use]
pub fn status_of_head(fields: &HeaderMap) -> Option<u32> {
    let number = status_number(fields)?;
    let is_grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    fields.get(CONTENT_TYPE).is_some_and(is_grpc).then_some(number)
}

/// How long the client gives the whole call (`grpc-timeout`): one to eight digits and a unit. A value of another form says
/// nothing; it goes on to the endpoint, which has its own answer to it.
#[must_use]
pub fn timeout(fields: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = fields.get(GRPC_TIMEOUT)?.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?;
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3_600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.min(MOST_TIMEOUT))
}

/// The code of a response that has none, by its HTTP status: "HTTP to gRPC Status Code Mapping" of the specification, which
/// Envoy follows, too.
#[must_use]
pub fn code_of_status(status: StatusCode) -> GrpcCode {
    match status.as_u16() {
        200..=299 => GrpcCode::Ok,
        400 => GrpcCode::Internal,
        401 => GrpcCode::Unauthenticated,
        403 => GrpcCode::PermissionDenied,
        404 => GrpcCode::Unimplemented,
        429 | 502..=504 => GrpcCode::Unavailable,
        _ => GrpcCode::Unknown,
    }
}

/// The code of what tidegate answers itself, or ends. Reasons say more than a status does: a deadline is told from an endpoint
/// that is away, which clients may try again. `status` decides where the configuration chose it.
#[must_use]
pub fn code_of_reason(reason: Reason, status: StatusCode) -> GrpcCode {
    match reason {
        Reason::ResponseHead | Reason::BackendRequest | Reason::Request | Reason::ExchangeIdle => {
            GrpcCode::DeadlineExceeded
        }
        Reason::Connect
        | Reason::UpstreamTls
        | Reason::UpstreamIdle
        | Reason::Reset
        | Reason::NoEndpoints
        | Reason::EndpointLimit
        | Reason::PendingTimeout
        | Reason::Concurrency
        | Reason::QueueTimeout
        | Reason::MaxConnections
        | Reason::AuthBusy
        | Reason::ExtAuth
        | Reason::Overload
        | Reason::MadeRoom
        | Reason::Jwks
        | Reason::Drain => GrpcCode::Unavailable,
        Reason::Size | Reason::Streams | Reason::Flood | Reason::AddressLimit | Reason::RateLimit => {
            GrpcCode::ResourceExhausted
        }
        Reason::NoHost | Reason::NoPath | Reason::Method => GrpcCode::Unimplemented,
        Reason::IpAccess | Reason::JwtScope | Reason::ProxyOthers => GrpcCode::PermissionDenied,
        Reason::BasicAuth | Reason::ApiKey | Reason::Jwt => GrpcCode::Unauthenticated,
        Reason::MissingKey => GrpcCode::InvalidArgument,
        // Whoever made the call no longer waits for it, or does not take the answer.
        Reason::ClientGone
        | Reason::BodySlow
        | Reason::WriteSlow
        | Reason::WriteStall
        | Reason::Linger
        | Reason::Admin => GrpcCode::Cancelled,
        // Broken requests, broken answers, and faults of the gateway or its configuration.
        Reason::Line
        | Reason::Length
        | Reason::Chunk
        | Reason::Target
        | Reason::Host
        | Reason::Field
        | Reason::Expect
        | Reason::Upgrade
        | Reason::Frame
        | Reason::BadResponse
        | Reason::Loop
        | Reason::Misdirected
        | Reason::NoBackend
        | Reason::FilterRef
        | Reason::Panic => GrpcCode::Internal,
        Reason::ExtAuthDenied
        | Reason::Redirect
        | Reason::DirectResponse
        | Reason::Preflight
        | Reason::Options
        | Reason::Health => code_of_status(status),
        // Of connections, before there is a request.
        Reason::FirstByte
        | Reason::TlsHandshake
        | Reason::TlsFailed
        | Reason::TlsName
        | Reason::ClientCertificate
        | Reason::PlainHttp
        | Reason::ProxyHeader
        | Reason::ProxyMalformed
        | Reason::ProxyMissing
        | Reason::ProxyUntrusted
        | Reason::Head
        | Reason::Idle
        | Reason::TunnelIdle
        | Reason::TunnelLifetime => GrpcCode::Unknown,
    }
}

/// The fields of a response without messages: its trailers are its head.
pub fn put_status(fields: &mut HeaderMap, code: GrpcCode, message: &[u8]) {
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    fields.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    if let Some(message) = encode_message(message) {
        fields.insert(GRPC_MESSAGE, message);
    }
}

/// The value of `grpc-message`, in which only printable ASCII stands as it is; `None` for no text.
fn encode_message(text: &[u8]) -> Option<HeaderValue> {
    let text = text.trim_ascii();
    let mut encoded = String::with_capacity(text.len().min(MOST_MESSAGE));
    for &byte in &text[..text.len().min(MOST_MESSAGE)] {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => {
                encoded.push('%');
                encoded
                    .extend([byte >> 4, byte & 0xf].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])));
            }
        }
    }
    HeaderValue::try_from(encoded).ok().filter(|value| !value.is_empty())
}

/// What is known of the code of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallStatus {
    /// The request is no call.
    #[default]
    NoCall,
    /// No code has come yet.
    Unsaid,
    /// It ended so.
    Said(GrpcCode),
}

impl CallStatus {
    /// Takes the code out of a head or out of trailers, if the request is a call.
    pub fn note(&mut self, fields: &HeaderMap) {
        if *self == Self::Unsaid
            && let Some(number) = status_number(fields)
        {
            *self = Self::Said(GrpcCode::of_number(number));
        }
    }

    /// The code of an exchange that is over, which had this status and reason: what the client can know of it. `None` for a
    /// request that is no call.
    #[must_use]
    pub fn at_end(self, status: u16, reason: Option<Reason>, is_complete: bool) -> Option<GrpcCode> {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        match (self, reason) {
            (Self::NoCall, _) => None,
            (Self::Said(code), None) => Some(code),
            (Self::Said(code), Some(_)) if is_complete => Some(code),
            (Self::Said(_) | Self::Unsaid, Some(reason)) => Some(code_of_reason(reason, status)),
            // An endpoint has to say OK; without a word nobody knows.
            (Self::Unsaid, None) if status.is_success() => Some(GrpcCode::Unknown),
            (Self::Unsaid, None) => Some(code_of_status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &'static str) -> Option<Duration> {
        timeout(&HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(value))]))
    }

    #[test]
    fn timeouts_have_up_to_eight_digits_and_a_unit() {
        let seconds = Duration::from_secs;
        for (value, expected) in [
            ("1H", seconds(3_600)),
            ("2M", seconds(120)),
            ("15S", seconds(15)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0S", Duration::ZERO),
            ("00000001S", seconds(1)),
            ("99999999H", MOST_TIMEOUT),
        ] {
            assert_eq!(asked(value), Some(expected), "{value}");
        }
        for malformed in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "1SS", "x"] {
            assert_eq!(asked(malformed), None, "{malformed:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn messages_are_percent_encoded() {
        let encoded = |text: &str| encode_message(text.as_bytes()).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(encoded("not found\n").as_deref(), Some("not found"));
        assert_eq!(encoded("100 %\r\nzu schön").as_deref(), Some("100 %25%0D%0Azu sch%C3%B6n"));
        assert_eq!(encoded(" \n"), None);
        assert_eq!(encoded(&"x".repeat(5_000)).map(|text| text.len()), Some(MOST_MESSAGE));
    }

    #[test]
    fn the_code_is_the_one_that_the_client_can_know() {
        use CallStatus::{NoCall, Said, Unsaid};
        for (status, http, reason, is_complete, expected) in [
            (NoCall, 200, None, true, None),
            (Said(GrpcCode::NotFound), 200, None, true, Some(GrpcCode::NotFound)),
            (Unsaid, 200, None, true, Some(GrpcCode::Unknown)),
            (Unsaid, 404, None, true, Some(GrpcCode::Unimplemented)),
            (Unsaid, 503, None, true, Some(GrpcCode::Unavailable)),
            (Unsaid, 200, Some(Reason::ClientGone), false, Some(GrpcCode::Cancelled)),
            (Unsaid, 200, Some(Reason::Request), false, Some(GrpcCode::DeadlineExceeded)),
            (Unsaid, 200, Some(Reason::Reset), false, Some(GrpcCode::Unavailable)),
            (Unsaid, 499, Some(Reason::ClientGone), false, Some(GrpcCode::Cancelled)),
            (Said(GrpcCode::Ok), 200, Some(Reason::ClientGone), false, Some(GrpcCode::Cancelled)),
            (Said(GrpcCode::Unavailable), 503, Some(Reason::NoEndpoints), true, Some(GrpcCode::Unavailable)),
        ] {
            assert_eq!(status.at_end(http, reason, is_complete), expected, "{status:?} {http} {reason:?}");
        }
    }

    #[test]
    fn no_failure_is_ok_and_what_the_configuration_chose_goes_by_its_status() {
        for &reason in Reason::ALL {
            assert_ne!(code_of_reason(reason, StatusCode::BAD_REQUEST), GrpcCode::Ok, "{reason}");
        }
        assert_eq!(code_of_reason(Reason::DirectResponse, StatusCode::TOO_MANY_REQUESTS), GrpcCode::Unavailable);
        assert_eq!(code_of_reason(Reason::Redirect, StatusCode::FOUND), GrpcCode::Unknown);
    }
}
