//! Responses on the wire of HTTP/1: the head with the framing of its body, and the body in that framing (RFC 9112 §4, §6, §7).
//!
//! Pure but for the date: fields in, bytes out. What a body turns out to be decides nothing that its head has not said.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE,
    HOST, HeaderName, HeaderValue, MAX_FORWARDS, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, Response, StatusCode};
use hyper::ext::ReasonPhrase;

use crate::http1::framing::write_chunk_size;
use crate::http1::guard::{list, parse_length};
use crate::proxy::own_answer::http_date;

/// What the request says about the form of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The method is HEAD: no body follows.
    pub(super) head_only: bool,
    /// HTTP/1.1, else HTTP/1.0.
    pub(super) http11: bool,
    /// It takes trailers.
    pub(super) trailers: bool,
}

/// What is known of the length of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// There is no body.
    None,
    /// It has so many bytes.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// How the bytes of a body are framed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyEncoder {
    /// None is sent.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// In chunks, behind which these trailers may stand.
    Chunked(Vec<HeaderName>),
    /// Up to the end of the connection.
    Close,
}

/// A response's head that was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// How its body is framed.
    pub(super) body: BodyEncoder,
    /// The connection ends behind it.
    pub(super) is_last: bool,
}

/// A body that ended with so many bytes missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the response's body ended {0} bytes early")]
pub(in crate::proxy::connection) struct CutShort(u64);

/// Writes the head of a response; `keeps` says whether another request may come behind it.
pub(super) fn encode_head<B>(
    out: &mut Vec<u8>,
    response: &Response<B>,
    length: BodyLength,
    asked: Asked,
    keeps: bool,
) -> Encoded {
    let (status, fields) = (response.status(), response.headers());
    out.reserve(128 + 64 * fields.len());
    status_line(out, response, asked.http11);
    // RFC 9110 §8.6, RFC 9112 §6.1.
    let is_framed = !status.is_informational() && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let may_chunk = is_framed && asked.http11;
    let mut body = None;
    let (mut has_date, mut has_length, mut closes, mut keeps_alive) = (false, false, false, false);
    let mut trailers = Vec::new();
    for (name, value) in fields {
        if *name == CONTENT_LENGTH {
            let said = parse_length(value.as_bytes()).filter(|_| is_framed && !has_length);
            match (length, said) {
                (BodyLength::Known(length), Some(said)) if said == length => {}
                (BodyLength::None, Some(_)) if asked.head_only => {}
                (BodyLength::Unknown, Some(said)) => body = Some(BodyEncoder::Length(said)),
                // The body says something else.
                _ => continue,
            }
            has_length = true;
        } else if *name == TRANSFER_ENCODING || (*name == TRAILER && !may_chunk) {
            // The framing is this connection's own.
            continue;
        } else if *name == TRAILER {
            trailers.extend(list(value.as_bytes()).filter_map(|name| HeaderName::from_bytes(name).ok()));
        } else if *name == CONNECTION {
            closes |= names(value, b"close");
            keeps_alive |= names(value, b"keep-alive");
        } else if *name == DATE {
            has_date = true;
        }
        put(out, name.as_str().as_bytes(), value.as_bytes());
    }
    let has_body = is_framed && !asked.head_only;
    let body = match length {
        _ if !is_framed => BodyEncoder::None,
        BodyLength::None => {
            if !has_length && !asked.head_only {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            BodyEncoder::None
        }
        BodyLength::Known(length) => {
            if !has_length {
                put(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            BodyEncoder::Length(length)
        }
        BodyLength::Unknown => body.unwrap_or_else(|| {
            if may_chunk {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                BodyEncoder::Chunked(if asked.trailers { trailers } else { Vec::new() })
            } else {
                BodyEncoder::Close
            }
        }),
    };
    let body = if has_body { body } else { BodyEncoder::None };
    let is_last = !keeps || closes || body == BodyEncoder::Close || status.is_informational();
    if closes || status.is_informational() {
        // It is said, or the connection leaves HTTP.
    } else if is_last && asked.http11 {
        out.extend_from_slice(b"connection: close\r\n");
    } else if !is_last && !asked.http11 && !keeps_alive {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if !has_date {
        put_date(out);
    }
    out.extend_from_slice(b"\r\n");
    Encoded { body, is_last }
}

fn status_line<B>(out: &mut Vec<u8>, response: &Response<B>, http11: bool) {
    let status = response.status();
    if status == StatusCode::OK && http11 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(if http11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    let reason = match status.canonical_reason() {
        Some(reason) => reason.as_bytes(),
        None => response.extensions().get::<ReasonPhrase>().map_or(&b""[..], |reason| reason.as_bytes()),
    };
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether the list in a field has this member.
pub(super) fn names(value: &HeaderValue, member: &[u8]) -> bool {
    list(value.as_bytes()).any(|named| named.eq_ignore_ascii_case(member))
}

/// Writes the present time, which is rendered once per second and thread.
fn put_date(out: &mut Vec<u8>) {
    thread_local! {
        static RENDERED: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    RENDERED.with_borrow_mut(|(rendered, text)| {
        if *rendered != second || text.is_empty() {
            (*rendered, *text) = (second, http_date());
        }
        put(out, b"date", text.as_bytes());
    });
}

impl BodyEncoder {
    /// Writes a part of the body, which is not empty; what is more than was announced is left out.
    pub(super) fn data(&mut self, out: &mut Vec<u8>, data: &[u8]) {
        match self {
            Self::None => {}
            Self::Length(left) => {
                let length = usize::try_from(*left).map_or(data.len(), |left| left.min(data.len()));
                *left -= length as u64;
                out.extend_from_slice(data.get(..length).unwrap_or_default());
            }
            Self::Chunked(_) => {
                out.reserve(data.len() + 32);
                write_chunk_size(out, data.len());
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
            Self::Close => out.extend_from_slice(data),
        }
    }

    /// Whether all bytes that were announced are written, so that nothing can come any more.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }

    /// Writes the end of the body, with its trailers.
    ///
    /// # Errors
    /// Bytes that were announced are missing.
    pub(super) fn end(&self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), CutShort> {
        match self {
            Self::None | Self::Length(0) | Self::Close => {}
            Self::Length(left) => return Err(CutShort(*left)),
            Self::Chunked(announced) => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if announced.contains(name) && !NOT_IN_TRAILERS.contains(name) {
                        put(out, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

/// Fields that say how to read a message, whom it is for, or what it may do: too late behind its body (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 12] = [
    AUTHORIZATION,
    CACHE_CONTROL,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP11: Asked = Asked { head_only: false, http11: true, trailers: false };
    const HTTP10: Asked = Asked { http11: false, ..HTTP11 };
    const HEAD: Asked = Asked { head_only: true, ..HTTP11 };

    fn response(status: u16, fields: &[(&'static str, &'static str)]) -> Response<()> {
        let mut response = Response::builder().status(status).header("date", "now");
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).expect("a response")
    }

    /// The head without its date, and what it means.
    fn head(response: &Response<()>, length: BodyLength, asked: Asked, keeps: bool) -> (String, Encoded) {
        let mut out = Vec::new();
        let encoded = encode_head(&mut out, response, length, asked, keeps);
        let text = String::from_utf8(out).expect("text");
        assert!(text.ends_with("\r\n\r\n"), "{text}");
        (text.replace("date: now\r\n", "").replace("\r\n", "|"), encoded)
    }

    #[test]
    fn the_framing_says_what_is_known_of_the_body() {
        let ok = response(200, &[("a", "b")]);
        let begin = "HTTP/1.1 200 OK|a: b|";
        for (length, line, body, is_last) in [
            (BodyLength::None, "content-length: 0|", BodyEncoder::None, false),
            (BodyLength::Known(7), "content-length: 7|", BodyEncoder::Length(7), false),
            (BodyLength::Unknown, "transfer-encoding: chunked|", BodyEncoder::Chunked(Vec::new()), false),
        ] {
            assert_eq!(
                head(&ok, length, HTTP11, true),
                (format!("{begin}{line}|"), Encoded { body, is_last }),
                "{length:?}"
            );
        }
        let (text, encoded) = head(&ok, BodyLength::Unknown, HTTP10, true);
        assert_eq!(text, "HTTP/1.0 200 OK|a: b||");
        assert_eq!(encoded, Encoded { body: BodyEncoder::Close, is_last: true }, "HTTP/1.0 knows no chunks");
    }

    #[test]
    fn what_has_no_body_has_none() {
        for status in [204, 304] {
            let (text, encoded) = head(&response(status, &[]), BodyLength::None, HTTP11, true);
            assert!(!text.contains("content-length") && !text.contains("transfer-encoding"), "{text}");
            assert_eq!(encoded, Encoded { body: BodyEncoder::None, is_last: false });
            let (_, encoded) = head(&response(status, &[]), BodyLength::Unknown, HTTP11, true);
            assert_eq!(encoded.body, BodyEncoder::None, "whatever the handler gives");
        }
        let (text, encoded) = head(&response(200, &[("content-length", "9")]), BodyLength::None, HEAD, true);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 9||", "what GET would have got");
        assert_eq!(encoded, Encoded { body: BodyEncoder::None, is_last: false });
        let (text, encoded) = head(&response(200, &[]), BodyLength::Unknown, HEAD, true);
        assert_eq!(text, "HTTP/1.1 200 OK|transfer-encoding: chunked||");
        assert_eq!(encoded.body, BodyEncoder::None);
    }

    #[test]
    fn fields_do_not_contradict_the_framing() {
        let (text, _) = head(&response(200, &[("content-length", "9")]), BodyLength::None, HTTP11, true);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 0||");
        let (text, encoded) = head(&response(200, &[("content-length", "9")]), BodyLength::Unknown, HTTP11, true);
        assert_eq!(text, "HTTP/1.1 200 OK|content-length: 9||");
        assert_eq!(encoded.body, BodyEncoder::Length(9));
        let twice =
            response(200, &[("content-length", "9"), ("content-length", "9"), ("transfer-encoding", "chunked")]);
        assert_eq!(head(&twice, BodyLength::Known(9), HTTP11, true).0, "HTTP/1.1 200 OK|content-length: 9||");
    }

    #[test]
    fn the_client_is_told_whether_the_connection_stays() {
        let ok = response(204, &[]);
        let closes = response(204, &[("connection", "x, Close")]);
        let lines = |response, asked, keeps| {
            let (text, encoded) = head(response, BodyLength::None, asked, keeps);
            (text.split_once('|').map(|(_, fields)| fields.to_owned()).unwrap_or_default(), encoded.is_last)
        };
        assert_eq!(lines(&ok, HTTP11, true), ("|".to_owned(), false));
        assert_eq!(lines(&ok, HTTP11, false), ("connection: close||".to_owned(), true));
        assert_eq!(lines(&closes, HTTP11, true), ("connection: x, Close||".to_owned(), true));
        assert_eq!(lines(&closes, HTTP11, false), ("connection: x, Close||".to_owned(), true));
        assert_eq!(lines(&ok, HTTP10, true), ("connection: keep-alive||".to_owned(), false));
        assert_eq!(lines(&ok, HTTP10, false), ("|".to_owned(), true));
        assert_eq!(lines(&closes, HTTP10, true), ("connection: x, Close||".to_owned(), true));
        let switching = response(101, &[("connection", "upgrade")]);
        assert_eq!(lines(&switching, HTTP11, true), ("connection: upgrade||".to_owned(), true));
    }

    #[test]
    fn a_status_without_a_name_has_the_phrase_of_the_endpoint_or_none() {
        let mut other = response(599, &[]);
        assert!(head(&other, BodyLength::None, HTTP11, true).0.starts_with("HTTP/1.1 599 |"));
        other.extensions_mut().insert(ReasonPhrase::from_static(b"Very Wrong"));
        assert!(head(&other, BodyLength::None, HTTP11, true).0.starts_with("HTTP/1.1 599 Very Wrong|"));
    }

    #[test]
    fn a_date_is_added_where_there_is_none() {
        let mut out = Vec::new();
        encode_head(&mut out, &Response::new(()), BodyLength::None, HTTP11, true);
        let text = String::from_utf8(out).expect("text");
        let date = text.split("\r\n").find_map(|line| line.strip_prefix("date: ")).expect("a date");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    }

    fn written(encoder: &mut BodyEncoder, parts: &[&str], trailers: Option<&HeaderMap>) -> Result<String, CutShort> {
        let mut out = Vec::new();
        parts.iter().for_each(|part| encoder.data(&mut out, part.as_bytes()));
        encoder.end(&mut out, trailers)?;
        Ok(String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_body_is_as_long_as_was_announced() {
        assert_eq!(written(&mut BodyEncoder::Length(4), &["ab", "cd"], None), Ok("abcd".to_owned()));
        assert_eq!(written(&mut BodyEncoder::Length(3), &["ab", "cd"], None), Ok("abc".to_owned()));
        assert_eq!(written(&mut BodyEncoder::Length(5), &["ab", "cd"], None), Err(CutShort(1)));
        assert_eq!(written(&mut BodyEncoder::None, &["ab"], None), Ok(String::new()));
        assert_eq!(written(&mut BodyEncoder::Close, &["ab"], None), Ok("ab".to_owned()));
    }

    #[test]
    fn chunks_end_with_the_trailers_that_were_announced() {
        let chunked = |names: &[HeaderName]| BodyEncoder::Chunked(names.to_vec());
        let mut trailers = HeaderMap::new();
        for (name, value) in [("x-sum", "1"), ("x-other", "2"), ("content-type", "3")] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let body = "2\r\nab\r\n10\r\n0123456789abcdef\r\n0\r\n";
        let parts = ["ab", "0123456789abcdef"];
        assert_eq!(written(&mut chunked(&[]), &parts, Some(&trailers)), Ok(format!("{body}\r\n")));
        let announced = [HeaderName::from_static("x-sum"), CONTENT_TYPE];
        assert_eq!(written(&mut chunked(&announced), &parts, Some(&trailers)), Ok(format!("{body}x-sum: 1\r\n\r\n")));
        let announcing = response(200, &[("trailer", "X-Sum, x-time"), ("trailer", "x-more")]);
        let names = ["x-sum", "x-time", "x-more"].map(HeaderName::from_static).to_vec();
        let takes = Asked { trailers: true, ..HTTP11 };
        assert_eq!(head(&announcing, BodyLength::Unknown, takes, true).1.body, BodyEncoder::Chunked(names));
        assert_eq!(head(&announcing, BodyLength::Unknown, HTTP11, true).1.body, chunked(&[]));
        assert!(!head(&announcing, BodyLength::Unknown, HTTP10, true).0.contains("trailer"));
    }
}
