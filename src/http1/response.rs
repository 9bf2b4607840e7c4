//! Responses of endpoints on the wire: strict heads and body framing (RFC 9112 §4 to §7, rules RS1 to RS6).
//!
//! Pure functions over bytes. What a message with two readings would be is refused, never repaired.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::client::{Expected, ResponseLimits};

/// How the end of a response body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsedHead {
    /// An interim response; its fields were checked and dropped.
    Interim(StatusCode),
    /// The final response.
    Final {
        /// 200 to 599.
        status: StatusCode,
        /// How its body ends.
        framing: Framing,
        /// The endpoint lets the connection be used again.
        keep_alive: bool,
    },
}

/// Finds the end of a head: its length with the empty line, or `None` when more bytes are needed.
///
/// # Errors
/// A bare LF, or a head longer than `limit`.
pub fn head_length(buf: &[u8], limit: usize) -> Result<Option<usize>, &'static str> {
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
    if buf.len() >= limit { Err("head is too large") } else { Ok(None) }
}

/// Parses a complete head whose length [`head_length`] found.
///
/// The end-to-end fields of a final response replace the contents of `headers`, without copying their values. Left out are
/// hop-by-hop fields, what Connection names, and the length, which is in the framing; for HEAD the length is kept, since it
/// says what GET would send.
///
/// # Errors
/// The rule that the head breaks (RS1 to RS5).
pub fn parse_head(head: &Bytes, headers: &mut HeaderMap, expected: Expected) -> Result<ParsedHead, &'static str> {
    let (status, http11, mut at) = parse_status_line(head)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("101 without an upgrade");
    }
    let mut fields = Fields::default();
    headers.clear();
    loop {
        let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |n| at + n);
        let line_end = end.saturating_sub(1);
        if line_end <= at {
            break;
        }
        fields.parse_line(head, at, line_end, headers, expected)?;
        at = end + 1;
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
        Framing::None
    } else if fields.chunked {
        Framing::Chunked
    } else {
        match fields.length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    };
    let keep_alive = framing != Framing::Close && !fields.close && (http11 || fields.keep_alive);
    Ok(ParsedHead::Final { status, framing, keep_alive })
}

/// `HTTP/1.x SP 3DIGIT [SP reason] CRLF`: status, version is 1.1, start of the next line. The reason is checked and dropped.
fn parse_status_line(head: &[u8]) -> Result<(StatusCode, bool, usize), &'static str> {
    const BROKEN: &str = "status line is malformed";
    let end = memchr::memchr(b'\n', head).ok_or(BROKEN)?;
    let line = &head[..end.saturating_sub(1)];
    let (http11, rest) = if let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") {
        (true, rest)
    } else if let Some(rest) = line.strip_prefix(b"HTTP/1.0 ") {
        (false, rest)
    } else {
        return Err(BROKEN);
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(BROKEN)?;
    if !matches!(digits[0], b'1'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BROKEN);
    }
    let plain = |&b: &u8| b == b'\t' || (b >= b' ' && b != 0x7f);
    if !(reason.is_empty() || reason[0] == b' ') || !reason.iter().all(plain) {
        return Err(BROKEN);
    }
    let status = StatusCode::from_bytes(digits).map_err(|_| BROKEN)?;
    Ok((status, http11, end + 1))
}

/// Facts of the field lines seen so far.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    /// Fields that Connection names; rare, so usually without allocation.
    nominated: Vec<HeaderName>,
}

impl Fields {
    /// Takes the line `head[start..end]`, without its CRLF.
    fn parse_line(
        &mut self,
        head: &Bytes,
        start: usize,
        end: usize,
        headers: &mut HeaderMap,
        expected: Expected,
    ) -> Result<(), &'static str> {
        let line = &head[start..end];
        let colon = memchr::memchr(b':', line).ok_or("field line without a colon")?;
        // Refuses white space as well: before the name (obs-fold) and between name and colon.
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| "field name is malformed")?;
        let (from, to) = trim(head, start + colon + 1, end);
        let raw = &head[from..to];
        match name.as_str() {
            "content-length" => {
                if self.length.is_some() {
                    return Err("two content-length fields");
                }
                self.length = Some(parse_length(raw)?);
                if !expected.head_request {
                    return Ok(());
                }
            }
            "transfer-encoding" => {
                if self.chunked || !raw.eq_ignore_ascii_case(b"chunked") {
                    return Err("transfer-encoding other than chunked");
                }
                self.chunked = true;
                return Ok(());
            }
            "connection" => {
                self.connection(raw);
                // Checked like any other value, though it is not kept.
                return HeaderValue::from_bytes(raw).map(drop).map_err(|_| "field value is malformed");
            }
            "trailer" if expected.trailers => {}
            "keep-alive" | "proxy-connection" | "upgrade" | "te" | "trailer" | "http2-settings" => {
                return HeaderValue::from_bytes(raw).map(drop).map_err(|_| "field value is malformed");
            }
            _ => {}
        }
        // Refuses control bytes, a CR above all, so that a bare CR cannot hide in a value.
        let value = HeaderValue::from_maybe_shared(head.slice(from..to)).map_err(|_| "field value is malformed")?;
        headers.try_append(name, value).map_err(|_| "too many fields")?;
        Ok(())
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

/// Bounds of the value without spaces and tabs at its ends.
fn trim(head: &[u8], mut from: usize, mut to: usize) -> (usize, usize) {
    let blank = |b: u8| b == b' ' || b == b'\t';
    while from < to && blank(head[from]) {
        from += 1;
    }
    while to > from && blank(head[to - 1]) {
        to -= 1;
    }
    (from, to)
}

/// A content-length value: digits only, at most 63 bits (ML2, ML3).
fn parse_length(value: &[u8]) -> Result<u64, &'static str> {
    const BROKEN: &str = "content-length is malformed";
    if value.is_empty() {
        return Err(BROKEN);
    }
    let mut length: u64 = 0;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return Err(BROKEN);
        }
        length = length
            .checked_mul(10)
            .and_then(|n| n.checked_add(u64::from(byte - b'0')))
            .filter(|&n| i64::try_from(n).is_ok())
            .ok_or(BROKEN)?;
    }
    Ok(length)
}

/// Appends `length` in lower-case hex and CRLF.
pub fn write_chunk_size(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut shift = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1) * 4;
    while shift > 0 {
        shift -= 4;
        out.push(DIGITS[(length >> shift) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The end was reached.
    Finished,
    /// This many bytes are to come.
    Length(u64),
    /// Everything up to EOF.
    Close,
    /// A chunk-size line.
    Size,
    /// This many bytes of a chunk are to come.
    Chunk(u64),
    /// The CRLF behind a chunk.
    ChunkEnd,
    /// A trailer line or the final empty line.
    Trailer,
    /// Malformed; nothing more comes out.
    Broken(&'static str),
}

/// Takes a response body out of its framing.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    chunk_line: usize,
    extensions_left: usize,
    trailers_left: usize,
    trailer_count_left: usize,
    trailers: Option<Box<HeaderMap>>,
}

impl Default for BodyDecoder {
    /// A decoder in the state before any head: it is not finished.
    fn default() -> Self {
        Self {
            state: State::Close,
            chunk_line: 0,
            extensions_left: 0,
            trailers_left: 0,
            trailer_count_left: 0,
            trailers: None,
        }
    }
}

impl BodyDecoder {
    /// Begins a body.
    #[must_use]
    pub fn new(framing: Framing, limits: &ResponseLimits) -> Self {
        Self {
            state: match framing {
                Framing::None => State::Finished,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::Size,
                Framing::Close => State::Close,
            },
            chunk_line: limits.chunk_line,
            extensions_left: limits.chunk_extensions,
            trailers_left: limits.trailers,
            trailer_count_left: limits.trailer_count,
            trailers: None,
        }
    }

    /// The body was read to its clean end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished && self.trailers.is_none()
    }

    /// Bytes still to come, when known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Finished if self.trailers.is_none() => Some(0),
            State::Finished
            | State::Close
            | State::Size
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailer
            | State::Broken(_) => None,
        }
    }

    /// Says that the rest of a body of known length was taken elsewhere.
    pub fn consume_all(&mut self) {
        debug_assert!(matches!(self.state, State::Length(_)), "only a known length can be consumed at once");
        self.state = State::Finished;
    }

    /// EOF came: true when that is the clean end of the body.
    pub fn finish_at_eof(&mut self) -> bool {
        if self.state == State::Close {
            self.state = State::Finished;
            return true;
        }
        false
    }

    /// How much room a read should have when `adapted` is the present read size.
    ///
    /// One byte more than announced: surplus then shows at once, and the read comes back short, which spares the next one.
    #[must_use]
    pub fn read_size(&self, adapted: usize) -> usize {
        match self.state {
            State::Length(left) => adapted.min(usize::try_from(left).unwrap_or(usize::MAX).saturating_add(1)).max(1024),
            State::Finished
            | State::Close
            | State::Size
            | State::Chunk(_)
            | State::ChunkEnd
            | State::Trailer
            | State::Broken(_) => adapted,
        }
    }

    /// Takes the next part of the body out of `buf`.
    ///
    /// # Errors
    /// The rule of the chunked grammar that is broken (CH1 to CH4).
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, &'static str> {
        self.settle(buf)?;
        match self.state {
            State::Finished => Ok(self.trailers.take().map_or(Decoded::End, Decoded::Trailers)),
            State::Broken(what) => Err(what),
            State::Length(left) | State::Chunk(left) if !buf.is_empty() => {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                let data = take(buf, length);
                let left = left - length as u64;
                self.state = match self.state {
                    State::Length(_) if left == 0 => State::Finished,
                    State::Length(_) => State::Length(left),
                    _ if left == 0 => State::ChunkEnd,
                    _ => State::Chunk(left),
                };
                Ok(Decoded::Data(data))
            }
            State::Close if !buf.is_empty() => {
                let length = buf.len();
                Ok(Decoded::Data(take(buf, length)))
            }
            State::Length(_) | State::Chunk(_) | State::Close | State::Size | State::ChunkEnd | State::Trailer => {
                Ok(Decoded::More)
            }
        }
    }

    /// Consumes chunk framing at the front of `buf`, but no data.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), which then repeats them.
    pub fn settle(&mut self, buf: &mut BytesMut) -> Result<(), &'static str> {
        loop {
            let step = match self.state {
                State::Size => self.size_line(buf),
                State::ChunkEnd => self.chunk_end(buf),
                State::Trailer => self.trailer_line(buf),
                State::Broken(what) => Err(what),
                State::Finished | State::Length(_) | State::Close | State::Chunk(_) => Ok(false),
            };
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(what) => {
                    self.state = State::Broken(what);
                    return Err(what);
                }
            }
        }
    }

    /// `1*16HEXDIG [ ";" extension ] CRLF`; true when a whole line was consumed.
    fn size_line(&mut self, buf: &mut BytesMut) -> Result<bool, &'static str> {
        let Some(end) = memchr::memchr(b'\n', buf) else {
            return if buf.len() > self.chunk_line { Err("chunk line is too long") } else { Ok(false) };
        };
        if end > self.chunk_line {
            return Err("chunk line is too long");
        }
        let line = strip_cr(&buf[..end])?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if digits == 0 || digits > 16 {
            return Err("chunk size is malformed");
        }
        let mut size: u64 = 0;
        for &byte in &line[..digits] {
            size = (size << 4) | u64::from(char::from(byte).to_digit(16).unwrap_or(0));
        }
        if i64::try_from(size).is_err() {
            return Err("chunk size is malformed");
        }
        let extension = &line[digits..];
        if !extension.is_empty() {
            if extension[0] != b';' || extension.iter().any(|&b| b != b'\t' && (b < b' ' || b == 0x7f)) {
                return Err("chunk size is malformed");
            }
            self.extensions_left =
                self.extensions_left.checked_sub(extension.len()).ok_or("chunk extensions are too long")?;
        }
        skip(buf, end + 1);
        self.state = if size == 0 { State::Trailer } else { State::Chunk(size) };
        Ok(true)
    }

    fn chunk_end(&mut self, buf: &mut BytesMut) -> Result<bool, &'static str> {
        match &buf[..] {
            [b'\r', b'\n', ..] => {
                skip(buf, 2);
                self.state = State::Size;
                Ok(true)
            }
            [] | [b'\r'] => Ok(false),
            _ => Err("chunk data is longer than its size"),
        }
    }

    fn trailer_line(&mut self, buf: &mut BytesMut) -> Result<bool, &'static str> {
        let Some(end) = memchr::memchr(b'\n', buf) else {
            return if buf.len() > self.trailers_left { Err("trailers are too long") } else { Ok(false) };
        };
        let line = strip_cr(&buf[..end])?;
        if line.is_empty() {
            skip(buf, end + 1);
            self.state = State::Finished;
            return Ok(true);
        }
        self.trailers_left = self.trailers_left.checked_sub(end + 1).ok_or("trailers are too long")?;
        self.trailer_count_left = self.trailer_count_left.checked_sub(1).ok_or("too many trailers")?;
        let colon = memchr::memchr(b':', line).ok_or("trailer line without a colon")?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| "trailer name is malformed")?;
        let (from, to) = trim(line, colon + 1, line.len());
        let value = HeaderValue::from_bytes(&line[from..to]).map_err(|_| "trailer value is malformed")?;
        self.trailers.get_or_insert_default().try_append(name, value).map_err(|_| "too many trailers")?;
        skip(buf, end + 1);
        Ok(true)
    }
}

fn strip_cr(line: &[u8]) -> Result<&[u8], &'static str> {
    line.strip_suffix(b"\r").filter(|line| !line.contains(&b'\r')).ok_or("line does not end with CRLF")
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
