//! Heads of requests, once the guard has accepted their bytes.
//!
//! Pure functions over bytes. Rules and limits are the guard's: what it accepts has one reading, and this is it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::guard;
use super::request_stream::AcceptedHead;

/// What stands between the target and the first field: a space, the version, and the end of the line.
const BEHIND_TARGET: usize = " HTTP/1.1\r\n".len();

/// Parses an accepted head, all of whose bytes are in `head`: its method and its target. Its fields are put into `fields`,
/// which is empty, in their order and without copying their values. `None` when the `http` crate does not take what the guard
/// did.
#[must_use]
pub fn parse_head(head: &Bytes, accepted: &AcceptedHead, fields: &mut HeaderMap) -> Option<(Method, Uri)> {
    let method = Method::from_bytes(accepted.method.of(head)).ok()?;
    let (target, target_end) = (accepted.target.start as usize, accepted.target.end as usize);
    let target = Uri::from_maybe_shared(head.slice(target..target_end)).ok()?;
    let mut at = target_end + BEHIND_TARGET;
    while head.get(at) != Some(&b'\r') {
        at = parse_field(head, at, fields)?;
    }
    (at + 2 == head.len()).then_some((method, target))
}

/// Takes the field line at `start`; the start of the next line.
fn parse_field(head: &Bytes, start: usize, fields: &mut HeaderMap) -> Option<usize> {
    let colon = guard::find(b':', head, start)?;
    let end = guard::find(b'\r', head, colon)?;
    let name = field_name(&head[start..colon])?;
    let (from, to) = guard::trim_bounds(head, colon + 1, end);
    let value = HeaderValue::from_maybe_shared(head.slice(from..to)).ok()?;
    fields.try_append(name, value).ok()?;
    Some(end + 2)
}

/// The spellings that nearly all clients use are recognised without folding case.
fn field_name(raw: &[u8]) -> Option<HeaderName> {
    Some(match raw {
        b"Host" | b"host" => header::HOST,
        b"Accept" | b"accept" => header::ACCEPT,
        b"Cookie" | b"cookie" => header::COOKIE,
        b"Origin" | b"origin" => header::ORIGIN,
        b"Referer" | b"referer" => header::REFERER,
        b"User-Agent" | b"user-agent" => header::USER_AGENT,
        b"Connection" | b"connection" => header::CONNECTION,
        b"Content-Type" | b"content-type" => header::CONTENT_TYPE,
        b"Authorization" | b"authorization" => header::AUTHORIZATION,
        b"Cache-Control" | b"cache-control" => header::CACHE_CONTROL,
        b"Content-Length" | b"content-length" => header::CONTENT_LENGTH,
        b"Accept-Encoding" | b"accept-encoding" => header::ACCEPT_ENCODING,
        b"Accept-Language" | b"accept-language" => header::ACCEPT_LANGUAGE,
        _ => HeaderName::from_bytes(raw).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::framing::ChunkLimits;
    use crate::http1::guard::HeadLimits;
    use crate::http1::request_stream::{RequestStream, StreamLimits};

    const LIMITS: StreamLimits = StreamLimits {
        head: HeadLimits { start_line: 8 << 10, field: 16 << 10, fields_total: 32 << 10, field_count: 100 },
        chunk: ChunkLimits { line: 256, extensions: 256, trailers_total: 4096, trailer_count: 16 },
        body: None,
        upgrade_held: 0,
    };

    fn parse(bytes: &str) -> (Method, Uri, Vec<(String, String)>) {
        let mut stream = RequestStream::default();
        stream.room()[..bytes.len()].copy_from_slice(bytes.as_bytes());
        stream.received(bytes.len(), &LIMITS, &|_, _| Ok(()));
        let accepted = stream.next_head().expect("the guard accepts it");
        let head = Bytes::copy_from_slice(&stream.accepted()[..accepted.length]);
        let mut fields = HeaderMap::new();
        let (method, target) = parse_head(&head, &accepted, &mut fields).expect("a head");
        let fields = fields.iter().map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
        (method, target, fields.collect())
    }

    #[test]
    fn line_and_fields_are_those_of_the_bytes() {
        let (method, target, fields) =
            parse("\r\nPATCH /a%20b?c HTTP/1.0\r\nHost: a\r\nX-Empty:\r\nX-B:\t b: c \t\r\nx-b: d\r\n\r\nrest");
        assert_eq!((method, target), (Method::PATCH, Uri::from_static("/a%20b?c")));
        let expected = [("host", "a"), ("x-empty", ""), ("x-b", "b: c"), ("x-b", "d")];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn usual_names_are_what_they_say() {
        for name in [
            "Host",
            "Accept",
            "Cookie",
            "Origin",
            "Referer",
            "User-Agent",
            "Connection",
            "Content-Type",
            "Authorization",
            "Cache-Control",
            "Content-Length",
            "Accept-Encoding",
            "Accept-Language",
            "X-Other",
        ] {
            let wanted = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            for raw in [name, &name.to_lowercase(), &name.to_uppercase()] {
                assert_eq!(field_name(raw.as_bytes()), Some(wanted.clone()), "{raw}");
            }
        }
    }

    #[test]
    fn a_target_that_was_encoded_is_taken_as_it_became() {
        let (_, target, fields) = parse("GET /\u{e4}\"b HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(target, "/%C3%A4%22b");
        assert_eq!(fields, [("host".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn other_forms_of_a_target_are_taken_whole() {
        assert_eq!(parse("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").1, "*");
        assert_eq!(parse("GET http://a:80/b?c HTTP/1.1\r\nhost: a\r\n\r\n").1, "http://a:80/b?c");
    }
}
