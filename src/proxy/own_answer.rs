//! The answers that tidegate makes itself: the one table of their texts and fields, and their forms.
//!
//! Texts are short and fixed, without version, address or echo of the request. An answer is given as its parts, or as
//! bytes for what the wire guard refuses.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::downstream::{AnswerForm, OwnAnswer};
use super::grpc;
use crate::reason::Reason;

/// Name of the opt-in header that tells the reason of an own answer.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-tidegate-reason");

/// Methods in the `allow` field of 405 and of the answer to `OPTIONS *`.
const ALLOW: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH";

/// The media type of every own body.
pub const CONTENT_TYPE: &str = "text/plain; charset=utf-8";

/// The body of an own answer with `status`; empty for 204.
#[must_use]
pub const fn own_body(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200 => "ok\n",
        204 => "",
        400 => "bad request\n",
        401 => "unauthorized\n",
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
        // A status that a filter was given.
        402..=499 => "request refused\n",
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

/// An own answer as HTTP/1.1 bytes, always with `connection: close`: for what the wire guard refuses.
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

/// The present time as a `date` field has it (RFC 9110 §5.6.7).
pub(super) fn http_date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
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

/// An own answer in parts, as a response is put together from them.
#[derive(Debug)]
pub struct Parts {
    /// Status; that of gRPC's form is always 200.
    pub status: StatusCode,
    /// Fields, without those of the framing.
    pub fields: HeaderMap,
    /// The whole body.
    pub content: Bytes,
}

/// The one table of own answers: makes the parts of an answer.
#[must_use]
pub fn parts(answer: OwnAnswer, form: AnswerForm, reason_header: bool) -> Parts {
    let text = own_body(answer.status);
    let mut fields = HeaderMap::new();
    mark(&mut fields, answer, reason_header);
    if let Some(seconds) = retry_after(answer.status) {
        fields.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if answer.reason == Reason::Options {
        fields.insert(header::ALLOW, HeaderValue::from_static(ALLOW));
    } else if let Some(methods) = allow(answer.status) {
        fields.insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    if form == AnswerForm::Grpc && !answer.status.is_success() {
        let code = grpc::code_of_reason(answer.reason, answer.status);
        grpc::put_status(&mut fields, code, text.as_bytes());
        return Parts { status: StatusCode::OK, fields, content: Bytes::new() };
    }
    let mut content = Bytes::new();
    if !text.is_empty() {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if form == AnswerForm::HeadOnly {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        } else {
            content = Bytes::from_static(text.as_bytes());
        }
    }
    Parts { status: answer.status, fields, content }
}

/// Makes the parts of the answer of a filter that gives a head and a body of its own.
#[must_use]
pub fn filter_parts(made: crate::filter::Answer, answer: OwnAnswer, form: AnswerForm, reason_header: bool) -> Parts {
    let mut content = made.body.unwrap_or_default();
    let mut fields = made.headers;
    mark(&mut fields, answer, reason_header);
    if form == AnswerForm::Grpc && !made.status.is_success() {
        // What the text is encoded in, or how long it is, says nothing of the message that it becomes.
        for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
            fields.remove(name);
        }
        let code = grpc::code_of_reason(answer.reason, made.status);
        grpc::put_status(
            &mut fields,
            code,
            if content.is_empty() { own_body(made.status).as_bytes() } else { &content },
        );
        return Parts { status: StatusCode::OK, fields, content: Bytes::new() };
    }
    if form == AnswerForm::HeadOnly {
        // RFC 9110 §8.6: forbidden with 204, and with 304 it would be that of a response that is not known here.
        if !matches!(made.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            fields.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
        }
        content = Bytes::new();
    }
    Parts { status: made.status, fields, content }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn answer(status: u16, reason: Reason) -> OwnAnswer {
        OwnAnswer { status: StatusCode::from_u16(status).unwrap(), reason, close: false }
    }

    #[test]
    fn service_unavailable_says_when_to_come_back() {
        let response = parts(answer(503, Reason::NoEndpoints), AnswerForm::Text, true);
        assert_eq!(response.status, 503);
        assert_eq!(response.fields["retry-after"], "1");
        assert_eq!(response.fields["x-tidegate-reason"], "no_endpoints");
        assert_eq!(response.content.len(), 20);
        let response = parts(answer(404, Reason::NoPath), AnswerForm::Text, false);
        assert!(!response.fields.contains_key("retry-after"));
        assert!(!response.fields.contains_key("x-tidegate-reason"));
    }

    #[test]
    fn head_gets_the_length_without_the_text() {
        let response = parts(answer(404, Reason::NoPath), AnswerForm::HeadOnly, false);
        assert_eq!(response.fields["content-length"], "10");
        assert!(response.content.is_empty());
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
                filter_parts(made(), OwnAnswer { status, reason: Reason::DirectResponse, close: false }, form, false)
            };
            let head = form(AnswerForm::HeadOnly);
            let found = head.fields.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(found, length, "{status}");
            assert!(head.content.is_empty(), "{status}");
            assert!(!form(AnswerForm::Text).fields.contains_key("content-length"), "{status}: left to the framing");
        }
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
        let form = AnswerForm::of(&Method::POST, &headers);
        let response = parts(answer(503, Reason::NoEndpoints), form, false);
        assert_eq!(response.status, 200);
        assert_eq!(response.fields["grpc-status"], "14");
        assert_eq!(response.fields["grpc-message"], "service unavailable");
        assert!(response.content.is_empty());
        headers.insert("content-type", HeaderValue::from_static("application/grpc-web"));
        assert_eq!(AnswerForm::of(&Method::POST, &headers), AnswerForm::Text);
    }

    #[test]
    fn the_text_of_a_filter_becomes_the_message_of_grpc() {
        let made = |status: u16, body: &'static str| crate::filter::Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: [(header::CONTENT_TYPE, HeaderValue::from_static("text/html"))].into_iter().collect(),
            body: Some(Bytes::from_static(body.as_bytes())),
            reason: Reason::DirectResponse,
        };
        for (status, body, code, message) in [
            (403, "not on Sundays", "7", "not on Sundays"),
            (429, "", "14", "too many requests"),
            (503, "100 %", "14", "100 %25"),
        ] {
            let parts =
                filter_parts(made(status, body), answer(status, Reason::DirectResponse), AnswerForm::Grpc, false);
            assert_eq!((parts.status.as_u16(), parts.content.len()), (200, 0), "{status}");
            let field = |name: &str| parts.fields[name].to_str().unwrap().to_owned();
            assert_eq!(field("content-type"), "application/grpc", "{status}");
            assert_eq!((&*field("grpc-status"), &*field("grpc-message")), (code, message), "{status}");
        }
        let parts = filter_parts(made(200, "frames"), answer(200, Reason::DirectResponse), AnswerForm::Grpc, false);
        assert_eq!(
            (&parts.content[..], &parts.fields["content-type"]),
            (&b"frames"[..], &HeaderValue::from_static("text/html"))
        );
    }

    #[test]
    fn raw_answers_are_well_formed_and_close() {
        for status in [204, 400, 403, 404, 405, 408, 413, 414, 417, 421, 431, 500, 501, 502, 503, 504, 505, 508] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = OwnAnswer { status, reason: Reason::Line, close: true };
            let bytes = own_answer_bytes(answer, "Thu, 01 Jan 1970 00:00:00 GMT", true);
            let text = String::from_utf8(bytes.to_vec()).expect("text");
            let (head, body) = text.split_once("\r\n\r\n").expect("an empty line");
            let (line, fields) = head.split_once("\r\n").expect("fields");
            assert!(line.starts_with(&format!("HTTP/1.1 {} ", status.as_u16())), "{line}");
            assert!(fields.split("\r\n").all(|field| field.split_once(": ").is_some()), "{fields}");
            assert!(fields.contains("connection: close"), "{fields}");
            assert_eq!(body, own_body(status));
            let length = format!("content-length: {}", body.len());
            assert_eq!(fields.contains(&length), status != StatusCode::NO_CONTENT, "{fields}");
            assert!(String::from_utf8_lossy(&bytes).contains("x-tidegate-reason: line\r\n"));
        }
    }
}
