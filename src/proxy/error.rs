//! The one table of answers that tidegate makes itself: short fixed texts without version, address or echo (RS10).

use http::StatusCode;

use super::downstream::OwnAnswer;

/// The media type of every own body.
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// The body of an own answer with `status`; empty for 204.
#[must_use]
pub const fn own_body(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "ok\n",
        204 => "",
        400 => "bad request\n",
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
    if status.as_u16() == 405 { Some("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH") } else { None }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::guard::{HeadLimits, ResponseFraming, ResponseScanner, Scan};
    use crate::reason::Reason;

    #[test]
    fn raw_answers_are_well_formed_and_close() {
        let limits = HeadLimits { start_line: 100, field: 200, fields_total: 1000, field_count: 10 };
        for status in [204, 400, 404, 405, 408, 413, 414, 417, 421, 431, 500, 501, 502, 503, 504, 505, 508] {
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
