//! Responses of endpoints: heads and bodies.
//!
//! An input is a byte of flags, two that steer the split, and bytes as an endpoint sends them until it closes. What is
//! accepted, a parser of whole messages reads in the same way; no split changes what is read.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use regex::bytes::Regex;
use tidegate::http1::framing::ChunkLimits;
use tidegate::http1::response::{BodyDecoder, Decoded, Expected, ParsedHead, ResponseFraming, head_length, parse_head};

use super::http1_reference::{Chunked, reference_chunks};
use super::split::{pieces, seeded};

const HEAD_LIMIT: usize = 32 << 10;
const CHUNK: ChunkLimits =
    ChunkLimits { line: 4 << 10, extensions: 16 << 10, trailers_total: 16 << 10, trailer_count: 64 };

/// A field as name and value.
type Field = (String, Vec<u8>);

/// What came of the bytes of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    interim: Vec<u16>,
    /// Status, framing and end-to-end fields of the final response.
    head: Option<(u16, ResponseFraming, Vec<Field>)>,
    switched: bool,
    body: Vec<u8>,
    trailers: Vec<Field>,
    /// The body came to its clean end.
    complete: bool,
    /// Bytes behind the response.
    surplus: usize,
    refused: Option<&'static str>,
}

fn fields(map: &HeaderMap) -> Vec<Field> {
    let mut fields: Vec<_> =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    // Of lines with one name the order counts, between names it does not.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn read(pieces: &[&[u8]], expected: Expected) -> Seen {
    let mut seen = Seen::default();
    if let Err(why) = read_into(&mut seen, pieces, expected) {
        seen.refused = Some(why);
    }
    seen
}

fn read_into(seen: &mut Seen, pieces: &[&[u8]], expected: Expected) -> Result<(), &'static str> {
    let (mut buf, mut headers) = (BytesMut::new(), HeaderMap::new());
    let mut body: Option<BodyDecoder> = None;
    for piece in pieces {
        buf.extend_from_slice(piece);
        while body.is_none() && !seen.switched {
            let Some(length) = head_length(&buf, HEAD_LIMIT)? else { break };
            let head: Bytes = buf.split_to(length).freeze();
            match parse_head(&head, &mut headers, expected)? {
                ParsedHead::Interim(status) => seen.interim.push(status.as_u16()),
                ParsedHead::Switching { .. } => seen.switched = true,
                ParsedHead::Final { status, framing, keep_alive, .. } => {
                    assert!(!keep_alive || framing != ResponseFraming::Close, "nothing can follow on this connection");
                    seen.head = Some((status.as_u16(), framing, fields(&headers)));
                    body = Some(BodyDecoder::new(framing, &CHUNK));
                }
            }
        }
        if let Some(body) = &mut body {
            decode(seen, body, &mut buf)?;
        }
    }
    if let Some(body) = &mut body {
        seen.complete = body.is_finished() || body.finish_at_eof();
    }
    seen.surplus = buf.len();
    Ok(())
}

fn decode(seen: &mut Seen, body: &mut BodyDecoder, buf: &mut BytesMut) -> Result<(), &'static str> {
    loop {
        match body.decode(buf)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty(), "data are never empty");
                seen.body.extend_from_slice(&data);
            }
            Decoded::Trailers(map) => seen.trailers = fields(&map),
            Decoded::End | Decoded::More => return Ok(()),
        }
    }
}

pub fn check(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let Some((mut rng, stream)) = seeded(rest) else { return };
    let expected = Expected { head_request: flags & 1 != 0, trailers: flags & 2 != 0, websocket: flags & 4 != 0 };
    let whole = read(&[stream], expected);
    let split = pieces(stream, &mut rng);
    let mut by_pieces = read(&split, expected);
    if by_pieces.refused.is_some() && whole.refused.is_some() {
        // Of several faults, which one is told depends on what came at once.
        by_pieces.refused = whole.refused;
    }
    assert_eq!(by_pieces, whole, "the split into {} pieces matters", split.len());
    if let Err(why) = compare(stream, &whole, expected) {
        panic!("{why}: {whole:?} of {}", stream.escape_ascii());
    }
}

static STATUS_LINE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s-u)^HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?$").expect("a pattern")
});
static FIELD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?s-u)^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*$").expect("a pattern")
});

/// A field line, its name in lower case.
fn field(line: &[u8]) -> Result<Field, String> {
    let found = FIELD.captures(line).ok_or_else(|| format!("a line is no field: {}", line.escape_ascii()))?;
    let name = String::from_utf8(found[1].to_ascii_lowercase()).expect("a token");
    Ok((name, found[2].to_vec()))
}

/// Reads the heads and the body as a parser of whole messages does, and compares what was accepted.
fn compare(stream: &[u8], seen: &Seen, expected: Expected) -> Result<(), String> {
    let mut rest = stream;
    let mut interim = seen.interim.iter();
    loop {
        let at_end = seen.interim.len() - interim.len() == seen.interim.len();
        if at_end && seen.head.is_none() && !seen.switched {
            return Ok(());
        }
        let end = memchr::memmem::find(rest, b"\r\n\r\n").ok_or("a head was accepted that does not end")?;
        let mut lines = rest[..end].split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        rest = &rest[end + 4..];
        let line = lines.next().unwrap_or_default();
        let line = STATUS_LINE.captures(line).ok_or("a status line was accepted that is none")?;
        let status: u16 = std::str::from_utf8(&line[2]).expect("digits").parse().expect("digits");
        let all = lines.map(field).collect::<Result<Vec<_>, _>>()?;
        if status < 200 && !at_end {
            if interim.next() != Some(&status) || status == 101 {
                return Err(format!("{status} is no interim response"));
            }
            continue;
        }
        if status == 101 {
            return if seen.switched && expected.websocket { Ok(()) } else { Err("101 was not asked for".to_owned()) };
        }
        return compare_final(rest, (&line[1] == b"1", status, &all), seen, expected);
    }
}

fn compare_final(
    rest: &[u8],
    (http11, status, all): (bool, u16, &[Field]),
    seen: &Seen,
    expected: Expected,
) -> Result<(), String> {
    let values = |wanted: &str| -> Vec<&[u8]> {
        all.iter().filter(|(name, _)| name == wanted).map(|(_, value)| &value[..]).collect()
    };
    let length = match values("content-length")[..] {
        [] => None,
        [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            let digits = std::str::from_utf8(digits).expect("digits").trim_start_matches('0');
            Some(if digits.is_empty() { Ok(0) } else { digits.parse::<i64>() }.map_err(|_| "a length of 64 bits")?)
        }
        _ => return Err("a length was accepted that is none".to_owned()),
    };
    let chunked = match values("transfer-encoding")[..] {
        [] => false,
        [coding] if http11 && length.is_none() && coding.eq_ignore_ascii_case(b"chunked") => true,
        _ => return Err("a transfer coding was accepted that is not served".to_owned()),
    };
    let framing = match length {
        _ if expected.head_request || matches!(status, 204 | 304) => ResponseFraming::None,
        _ if chunked => ResponseFraming::Chunked,
        Some(0) => ResponseFraming::None,
        Some(length) => ResponseFraming::Length(u64::try_from(length).expect("not negative")),
        None => ResponseFraming::Close,
    };
    let nominated = values("connection").join(&b","[..]).to_ascii_lowercase();
    let nominated: Vec<&[u8]> = nominated.split(|&b| b == b',').map(<[u8]>::trim_ascii).collect();
    let connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"];
    let passes = |name: &str| {
        !connection.contains(&name)
            && !nominated.contains(&name.as_bytes())
            && (name != "content-length" || expected.head_request)
            && (name != "trailer" || expected.trailers)
    };
    let mut kept: Vec<Field> = all.iter().filter(|(name, _)| passes(name)).cloned().collect();
    for (_, value) in kept.iter_mut().filter(|(name, _)| name == "content-length") {
        // Sent on without zeros before it.
        *value = length.unwrap_or_default().to_string().into_bytes();
    }
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    let (seen_status, seen_framing, seen_fields) = seen.head.as_ref().ok_or("no final response")?;
    // Fields of the proxy's own connection may be taken off, and nothing else.
    let missing: Vec<_> = kept.iter().filter(|field| !seen_fields.contains(field)).collect();
    if missing
        .iter()
        .any(|(name, _)| !matches!(&**name, "proxy-authenticate" | "http2-settings" | "proxy-authorization"))
    {
        return Err(format!("fields are missing: {missing:?}"));
    }
    if let Some(extra) = seen_fields.iter().find(|field| !kept.contains(field)) {
        return Err(format!("a field is there that should not: {extra:?}"));
    }
    if (*seen_status, *seen_framing) != (status, framing) {
        return Err(format!("the reference reads {status} {framing:?}"));
    }
    compare_body(rest, framing, seen)
}

fn compare_body(rest: &[u8], framing: ResponseFraming, seen: &Seen) -> Result<(), String> {
    let (body, complete, surplus) = match framing {
        ResponseFraming::None => (Vec::new(), true, rest.len()),
        ResponseFraming::Close => (rest.to_vec(), true, 0),
        ResponseFraming::Length(length) => {
            let taken = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            (rest[..taken].to_vec(), taken as u64 == length, rest.len() - taken)
        }
        ResponseFraming::Chunked => match reference_chunks(rest) {
            Chunked::Whole(body, behind, _) => (body, true, behind.len()),
            Chunked::Wrong => return if seen.complete { Err("a wrong body was accepted".to_owned()) } else { Ok(()) },
            Chunked::Open => return if seen.complete { Err("an open body was accepted".to_owned()) } else { Ok(()) },
        },
    };
    if seen.refused.is_some() {
        // The reference has no limits; what it takes for good may be too much.
        return if framing == ResponseFraming::Chunked { Ok(()) } else { Err("a good body was refused".to_owned()) };
    }
    if (&seen.body, seen.complete, seen.surplus) != (&body, complete, surplus) {
        return Err(format!("the reference reads {} bytes, complete {complete}, surplus {surplus}", body.len()));
    }
    Ok(())
}
