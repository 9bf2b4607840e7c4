//! Responses of endpoints on the wire: strict heads and body framing (RFC 9112 §4 to §7).
//!
//! Pure functions over bytes. What a message with two readings would be is refused, never repaired.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, CONTENT_LENGTH, HeaderName, HeaderValue, TRAILER};
use http::{HeaderMap, StatusCode};
use memchr::memmem::Finder;

use super::framing::{ChunkDecoder, ChunkEvent, ChunkLimits, parse_trailers};
use super::guard::{self, GuardError};
use crate::fields::{self, FieldFlags};
use crate::reason::Reason;

/// What the caller knows about the request when it asks for the response head.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The method is HEAD: no body follows whatever the fields say.
    pub head_request: bool,
    /// The client said `te: trailers`: a `trailer` field is kept.
    pub trailers: bool,
    /// The request is a WebSocket handshake: `101` is an answer to it.
    pub websocket: bool,
}

/// How the end of a response body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is no body.
    None,
    /// After this many bytes, at least one.
    Length(u64),
    /// After the last chunk and its trailers.
    Chunked,
    /// When the endpoint closes.
    Close,
}

/// A parsed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedHead {
    /// An interim response; its fields were checked and dropped.
    Interim(StatusCode),
    /// A `101` that was asked for; the connection leaves HTTP. Its end-to-end fields are kept.
    Switching {
        /// It switches to WebSocket, as both fields must say: `connection: upgrade` and `upgrade: websocket`.
        websocket: bool,
    },
    /// The final response.
    Final {
        /// 200 to 599.
        status: StatusCode,
        /// How its body ends.
        framing: ResponseFraming,
        /// The endpoint lets the connection be used again.
        keep_alive: bool,
        /// How long the endpoint keeps an idle connection, where it says so: `keep-alive: timeout=5`.
        idle_limit: Option<Duration>,
        /// The endpoint's reason phrase, only for a status that has no registered one.
        reason: Option<Bytes>,
    },
}

/// Finds the end of a head: its length with the empty line, or `None` when more bytes are needed.
///
/// # Errors
/// A bare LF, a head longer than `limit`, or the beginning of something else.
pub fn head_length(buf: &[u8], limit: usize) -> Result<Option<usize>, &'static str> {
    // Nearly always the whole head is here. A bare LF in it breaks one of the lines, which are looked at next.
    if let Some(at) = HEAD_END.find(buf) {
        return if at + 3 < limit { Ok(Some(at + 4)) } else { Err("head is too large") };
    }
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', buf) {
        if end >= limit {
            return Err("head is too large");
        }
        if end == 0 || buf[end - 1] != b'\r' {
            return Err("bare LF in the head");
        }
        if end == start + 1 {
            return Ok(Some(end + 1));
        }
        start = end + 1;
    }
    if buf.len() >= limit {
        return Err("head is too large");
    }
    // An endpoint that speaks something else may never send an empty line.
    let begins = buf.len().min(BEGIN.len());
    if buf[..begins] == BEGIN[..begins] { Ok(None) } else { Err(BROKEN_STATUS_LINE) }
}

/// The end of the last line, and the empty line.
static HEAD_END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
/// How every response begins (RFC 9112 §4).
const BEGIN: &[u8] = b"HTTP/1.";
const BROKEN_STATUS_LINE: &str = "status line is malformed";

/// Parses a complete head whose length [`head_length`] found.
///
/// The end-to-end fields of a final response replace the contents of `headers`, without copying their values. Left out
/// are hop-by-hop fields, what Connection names, and the length, which is in the framing; for HEAD the length is kept,
/// since it says what GET would send.
///
/// # Errors
/// The rule that the head breaks.
pub fn parse_head(head: &Bytes, headers: &mut HeaderMap, expected: Expected) -> Result<ParsedHead, &'static str> {
    let (status, http11, reason) = parse_status_line(head)?;
    let mut at = reason.end + 2;
    if status == StatusCode::SWITCHING_PROTOCOLS && !expected.websocket {
        return Err("101 without an upgrade");
    }
    let mut fields = Fields::default();
    // A recycled map is empty already, and clearing it would touch all of its memory.
    if !headers.is_empty() {
        headers.clear();
    }
    while head.get(at) != Some(&b'\r') {
        at = fields.parse_line(head, at, headers, expected)?;
    }
    if head.get(at..) != Some(b"\r\n") {
        return Err("field name is malformed");
    }
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let websocket = http11 && fields.upgrade_websocket && fields.nominated.contains(&header::UPGRADE);
        for name in &fields.nominated {
            headers.remove(name);
        }
        return Ok(ParsedHead::Switching { websocket });
    }
    if status.is_informational() {
        headers.clear();
        return Ok(ParsedHead::Interim(status));
    }
    for name in &fields.nominated {
        headers.remove(name);
    }
    if fields.length.is_some() && fields.chunked {
        return Err("both content-length and transfer-encoding");
    }
    if fields.chunked && !http11 {
        return Err("transfer-encoding in HTTP/1.0");
    }
    let framing = if expected.head_request || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        ResponseFraming::None
    } else if fields.chunked {
        ResponseFraming::Chunked
    } else {
        match fields.length {
            Some(0) => ResponseFraming::None,
            Some(length) => ResponseFraming::Length(length),
            None => ResponseFraming::Close,
        }
    };
    // 204 has no content and says nothing of its length, and 304 is not framed (RFC 9110 §8.6, RFC 9112 §6.1). An endpoint
    // that frames them may send what it announced, and that must not answer the next request.
    let announces = match status {
        StatusCode::NO_CONTENT => fields.chunked || fields.length.is_some_and(|length| length > 0),
        StatusCode::NOT_MODIFIED => fields.chunked,
        _ => false,
    };
    let keep_alive = framing != ResponseFraming::Close && !announces && !fields.close && (http11 || fields.keep_alive);
    let idle_limit = fields.idle_limit;
    let reason = status.canonical_reason().is_none().then(|| head.slice(reason));
    Ok(ParsedHead::Final { status, framing, keep_alive, idle_limit, reason })
}

/// `HTTP/1.x SP 3DIGIT [SP reason] CRLF`: status, version is 1.1, place of the reason, which ends with the line.
fn parse_status_line(head: &[u8]) -> Result<(StatusCode, bool, Range<usize>), &'static str> {
    let end = guard::find(b'\n', head, 0).ok_or(BROKEN_STATUS_LINE)?;
    let line = head[..end].strip_suffix(b"\r").ok_or(BROKEN_STATUS_LINE)?;
    let (http11, rest) = if let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") {
        (true, rest)
    } else if let Some(rest) = line.strip_prefix(b"HTTP/1.0 ") {
        (false, rest)
    } else {
        return Err(BROKEN_STATUS_LINE);
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(BROKEN_STATUS_LINE)?;
    if !matches!(digits[0], b'1'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BROKEN_STATUS_LINE);
    }
    if !(reason.is_empty() || reason[0] == b' ') || guard::skip_value(reason, 0, reason.len()) != reason.len() {
        return Err(BROKEN_STATUS_LINE);
    }
    let status = StatusCode::from_bytes(digits).map_err(|_| BROKEN_STATUS_LINE)?;
    let line_end = line.len();
    Ok((status, http11, (line_end - reason.len() + usize::from(!reason.is_empty()))..line_end))
}

/// What becomes of a field, by its name.
enum Name {
    /// Sent on under this name.
    Kept(HeaderName),
    /// `content-length`.
    Length,
    /// `transfer-encoding`.
    Coding,
    /// `connection`.
    Connection,
    /// `trailer`.
    Trailer,
    /// `upgrade`.
    Upgrade,
    /// `keep-alive`.
    KeepAlive,
    /// Another field of this connection only.
    HopByHop,
}

impl Name {
    /// `None` when it is no name. The spellings that nearly all servers use are recognised without folding case.
    fn of(raw: &[u8]) -> Option<Self> {
        Some(match raw {
            b"Date" | b"date" => Name::Kept(header::DATE),
            b"ETag" | b"etag" => Name::Kept(header::ETAG),
            b"Vary" | b"vary" => Name::Kept(header::VARY),
            b"Server" | b"server" => Name::Kept(header::SERVER),
            b"Content-Type" | b"content-type" => Name::Kept(header::CONTENT_TYPE),
            b"Cache-Control" | b"cache-control" => Name::Kept(header::CACHE_CONTROL),
            b"Content-Length" | b"content-length" => Name::Length,
            b"Connection" | b"connection" => Name::Connection,
            b"Transfer-Encoding" | b"transfer-encoding" => Name::Coding,
            _ => {
                let name = HeaderName::from_bytes(raw).ok()?;
                if !fields::flags(name.as_str()).has_any(FieldFlags::HOP_BY_HOP.and(FieldFlags::FRAMING)) {
                    return Some(Name::Kept(name));
                }
                match name {
                    header::CONTENT_LENGTH => Name::Length,
                    header::TRANSFER_ENCODING => Name::Coding,
                    header::CONNECTION => Name::Connection,
                    header::TRAILER => Name::Trailer,
                    header::UPGRADE => Name::Upgrade,
                    name if name == "keep-alive" => Name::KeepAlive,
                    _ => Name::HopByHop,
                }
            }
        })
    }
}

/// Facts of the field lines seen so far.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// `timeout` of `keep-alive`.
    idle_limit: Option<Duration>,
    upgrade_lines: u32,
    /// `upgrade: websocket`, and nothing else.
    upgrade_websocket: bool,
    /// Fields that Connection names; rare, so usually without allocation.
    nominated: Vec<HeaderName>,
}

impl Fields {
    /// Takes the line at `start`; the start of the next one.
    fn parse_line(
        &mut self,
        head: &Bytes,
        start: usize,
        headers: &mut HeaderMap,
        expected: Expected,
    ) -> Result<usize, &'static str> {
        // A CR or white space before it is found with the name: neither stands in a token.
        let colon = guard::find(b':', head, start).ok_or("field line without a colon")?;
        // The first CR ends the line or the message; what else may not stand in a value is found where it is looked at.
        let end = guard::find(b'\r', head, colon).unwrap_or(head.len());
        if head.get(end..end + 2) != Some(b"\r\n") {
            return Err("field value is malformed");
        }
        let (from, to) = guard::trim_bounds(head, colon + 1, end);
        let name = match Name::of(&head[start..colon]).ok_or("field name is malformed")? {
            Name::Kept(name) => name,
            Name::Length => {
                if self.length.is_some() {
                    return Err("two content-length fields");
                }
                let length = guard::parse_length(&head[from..to]).ok_or("content-length is malformed")?;
                self.length = Some(length);
                if expected.head_request {
                    headers.try_insert(CONTENT_LENGTH, HeaderValue::from(length)).map_err(|_| "too many fields")?;
                }
                return Ok(end + 2);
            }
            Name::Coding => {
                if self.chunked || !head[from..to].eq_ignore_ascii_case(b"chunked") {
                    return Err("transfer-encoding other than chunked");
                }
                self.chunked = true;
                return Ok(end + 2);
            }
            Name::Connection => {
                self.connection(&head[from..to]);
                return dropped(&head[from..to], end + 2);
            }
            Name::KeepAlive => {
                self.keep_alive_parameters(&head[from..to]);
                return dropped(&head[from..to], end + 2);
            }
            Name::Upgrade => {
                self.upgrade_lines += 1;
                self.upgrade_websocket = self.upgrade_lines == 1 && head[from..to].eq_ignore_ascii_case(b"websocket");
                return dropped(&head[from..to], end + 2);
            }
            Name::Trailer if expected.trailers => TRAILER,
            Name::Trailer | Name::HopByHop => return dropped(&head[from..to], end + 2),
        };
        let value = HeaderValue::from_maybe_shared(head.slice(from..to)).map_err(|_| "field value is malformed")?;
        headers.try_append(name, value).map_err(|_| "too many fields")?;
        Ok(end + 2)
    }

    /// Reads `timeout=5, max=100`: seconds that an idle connection is kept, and requests that may still come. What is
    /// written in any other way says nothing.
    fn keep_alive_parameters(&mut self, value: &[u8]) {
        for parameter in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            let Some(equals) = memchr::memchr(b'=', parameter) else { continue };
            let (name, value) = (parameter[..equals].trim_ascii(), parameter[equals + 1..].trim_ascii());
            let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
            let Some(value) = guard::parse_length(value) else { continue };
            if name.eq_ignore_ascii_case(b"timeout") {
                let limit = Duration::from_secs(value);
                self.idle_limit = Some(self.idle_limit.map_or(limit, |other| other.min(limit)));
            } else if name.eq_ignore_ascii_case(b"max") && value == 0 {
                self.close = true;
            }
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(token) {
                self.nominated.push(name);
            }
        }
    }
}

/// Checks a value that is not kept as any other; `next` is the start of the next line.
fn dropped(value: &[u8], next: usize) -> Result<usize, &'static str> {
    if guard::skip_value(value, 0, value.len()) == value.len() { Ok(next) } else { Err("field value is malformed") }
}

/// What the next bytes of a body are.
#[derive(Debug)]
pub enum Decoded {
    /// Body bytes, never empty.
    Data(Bytes),
    /// The trailer section, only when it has fields; the end follows.
    Trailers(Box<HeaderMap>),
    /// The clean end.
    End,
    /// Bytes are missing.
    More,
}

#[derive(Debug)]
enum DecoderState {
    /// The end was reached.
    Finished,
    /// This many bytes are to come.
    Length(u64),
    /// Everything up to EOF.
    Close,
    /// Chunks; `ready` bytes at the front of the buffer are data.
    Chunked { decoder: ChunkDecoder, ready: usize },
    /// Malformed; nothing more comes out.
    Broken(&'static str),
}

/// Takes a response body out of its framing.
#[derive(Debug)]
pub struct BodyDecoder {
    state: DecoderState,
    limits: ChunkLimits,
    /// Trailer lines so far; rare, so usually without allocation.
    trailer_lines: Vec<u8>,
    trailers: Option<Box<HeaderMap>>,
}

impl Default for BodyDecoder {
    /// A decoder in the state before any head: it is not finished.
    fn default() -> Self {
        let limits = ChunkLimits { line: 0, extensions: 0, trailers_total: 0, trailer_count: 0 };
        Self { state: DecoderState::Close, limits, trailer_lines: Vec::new(), trailers: None }
    }
}

impl BodyDecoder {
    /// Begins a body.
    #[must_use]
    pub fn new(framing: ResponseFraming, limits: &ChunkLimits) -> Self {
        Self {
            state: match framing {
                ResponseFraming::None => DecoderState::Finished,
                ResponseFraming::Length(length) => DecoderState::Length(length),
                ResponseFraming::Chunked => DecoderState::Chunked { decoder: ChunkDecoder::new(), ready: 0 },
                ResponseFraming::Close => DecoderState::Close,
            },
            limits: *limits,
            trailer_lines: Vec::new(),
            trailers: None,
        }
    }

    /// The body was read to its clean end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.state, DecoderState::Finished) && self.trailers.is_none()
    }

    /// Bytes still to come, when known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            DecoderState::Length(left) => Some(left),
            DecoderState::Finished if self.trailers.is_none() => Some(0),
            DecoderState::Finished | DecoderState::Close | DecoderState::Chunked { .. } | DecoderState::Broken(_) => {
                None
            }
        }
    }

    /// Says that the rest of a body of known length was taken elsewhere.
    pub fn consume_all(&mut self) {
        debug_assert!(matches!(self.state, DecoderState::Length(_)), "only a known length can be consumed at once");
        self.state = DecoderState::Finished;
    }

    /// EOF came: true when that is the clean end of the body.
    pub fn finish_at_eof(&mut self) -> bool {
        if matches!(self.state, DecoderState::Close) {
            self.state = DecoderState::Finished;
            return true;
        }
        false
    }

    /// How much room a read should have when `adapted` is the present read size.
    ///
    /// One byte more than announced: surplus then shows at once, and the read comes back short, which spares the next.
    #[must_use]
    pub fn read_size(&self, adapted: usize) -> usize {
        match self.state {
            DecoderState::Length(left) => {
                adapted.min(usize::try_from(left).unwrap_or(usize::MAX).saturating_add(1)).max(1024)
            }
            DecoderState::Finished | DecoderState::Close | DecoderState::Chunked { .. } | DecoderState::Broken(_) => {
                adapted
            }
        }
    }

    /// Takes the next part of the body out of `buf`.
    ///
    /// # Errors
    /// The rule of the chunked grammar that is broken.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, &'static str> {
        self.settle(buf)?;
        match &mut self.state {
            DecoderState::Finished => Ok(self.trailers.take().map_or(Decoded::End, Decoded::Trailers)),
            DecoderState::Broken(what) => Err(what),
            _ if buf.is_empty() => Ok(Decoded::More),
            DecoderState::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= length as u64;
                if *left == 0 {
                    self.state = DecoderState::Finished;
                }
                Ok(Decoded::Data(take(buf, length)))
            }
            DecoderState::Chunked { ready, .. } => match std::mem::take(ready) {
                0 => Ok(Decoded::More),
                length => Ok(Decoded::Data(take(buf, length))),
            },
            DecoderState::Close => {
                let length = buf.len();
                Ok(Decoded::Data(take(buf, length)))
            }
        }
    }

    /// Consumes chunk framing at the front of `buf`, but no data.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), which then repeats them.
    pub fn settle(&mut self, buf: &mut BytesMut) -> Result<(), &'static str> {
        if let DecoderState::Broken(what) = self.state {
            return Err(what);
        }
        let result = self.settle_chunks(buf);
        if let Err(what) = result {
            self.state = DecoderState::Broken(what);
        }
        result
    }

    fn settle_chunks(&mut self, buf: &mut BytesMut) -> Result<(), &'static str> {
        while let DecoderState::Chunked { decoder, ready: ready @ 0 } = &mut self.state {
            if buf.is_empty() {
                break;
            }
            match decoder.decode(buf, &self.limits).map_err(chunk_error)? {
                ChunkEvent::More => skip(buf, buf.len()),
                ChunkEvent::Data { skip: framing, len } => {
                    skip(buf, framing);
                    *ready = len;
                }
                ChunkEvent::Trailers { skip: framing, len, end } => {
                    self.trailer_lines.extend_from_slice(&buf[framing..framing + len]);
                    skip(buf, framing + len);
                    if end {
                        self.trailers = parse_trailers(&std::mem::take(&mut self.trailer_lines))?;
                        self.state = DecoderState::Finished;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is wrong with chunked framing.
fn chunk_error(error: GuardError) -> &'static str {
    if error.reason == Reason::Size {
        "chunk extensions or trailers are too large"
    } else {
        "chunked body is malformed"
    }
}

/// Splits `length` bytes off; the last ones take the buffer's share of the allocation with them.
pub(super) fn take(buf: &mut BytesMut, length: usize) -> Bytes {
    if length == buf.len() { std::mem::take(buf).freeze() } else { buf.split_to(length).freeze() }
}

fn skip(buf: &mut BytesMut, length: usize) {
    if length == buf.len() {
        *buf = BytesMut::new();
    } else {
        buf.advance(length);
    }
}

#[cfg(test)]
mod tests;
