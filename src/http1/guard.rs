//! The strict head scanners: request head (rules LN, RL1 to RL3, RL7, ML) and response head (RS1 to RS3).
//!
//! Pure: bytes and limits in, progress or a refusal out. A scanner is incremental and allocation-free; it looks at every
//! byte once and refuses a byte that no valid message can have at its place as soon as it arrives. The criterion is
//! stricter than RFC 9112: a message with two readings is refused, never repaired. A verdict depends on the bytes only,
//! never on how they were split.
//!
//! The caller keeps the bytes of an unfinished head and passes all of them again with every call (`buf[0]` is the first
//! byte of the message); the scanner remembers how far it came.

mod fields;

use http::StatusCode;

use self::fields::FieldScanner;
use crate::reason::Reason;

/// A refusal: the status to answer and why. Also the error inside a body that the client broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message refused: {reason}")]
pub struct GuardError {
    /// The status to answer with, always followed by a close.
    pub status: StatusCode,
    /// The reason to count.
    pub reason: Reason,
}

impl GuardError {
    /// A refusal with `status` for `reason`.
    #[must_use]
    pub const fn new(status: StatusCode, reason: Reason) -> Self {
        Self { status, reason }
    }

    const fn bad(reason: Reason) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

/// A malformed line (LN1 to LN5, RL1 to RL3).
const LINE: GuardError = GuardError::bad(Reason::Line);
/// A malformed target (RL7).
const TARGET: GuardError = GuardError::bad(Reason::Target);
/// A malformed or doubled length (ML1 to ML5).
const LENGTH: GuardError = GuardError::bad(Reason::Length);
/// The request line is too long (LN7).
const LINE_TOO_LONG: GuardError = GuardError::new(StatusCode::URI_TOO_LONG, Reason::Size);
/// A well-formed version that is not served (RL3).
const VERSION: GuardError = GuardError::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, Reason::Line);

/// Empty lines that are skipped before a request line (LN2).
const MAX_EMPTY_LINES: u8 = 2;

/// Limits of a head (LN7). Line ends are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request or status line.
    pub start_line: usize,
    /// Bytes of one field line.
    pub field: usize,
    /// Bytes of all field lines together.
    pub fields_total: usize,
    /// Number of field lines.
    pub field_count: usize,
}

/// How far a scanner came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan<T> {
    /// Everything so far could still become valid.
    More,
    /// The head is complete.
    Done(T),
}

/// How a request's body is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body: neither length nor transfer coding.
    None,
    /// `content-length`, which may be 0.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
}

impl Framing {
    /// Whether at least one byte of body or framing follows the head.
    #[must_use]
    pub const fn has_body(self) -> bool {
        !matches!(self, Framing::None | Framing::Length(0))
    }
}

/// A range of bytes in a head, counted from the message's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        // A head is bounded by its limits, far below 4 GiB; a saturated span would only select nothing.
        Self { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// The bytes of the span in `buf`, the bytes of the message; empty if it lies outside.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// What a request head says, as far as the wire is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// Bytes of the head, skipped empty lines and final empty line included.
    pub head_len: usize,
    /// The method, a token.
    pub method: Span,
    /// The target as received.
    pub target: Span,
    /// The value of the first Host line, trimmed; empty when there is none.
    pub host: Span,
    /// `HTTP/1.1`, else `HTTP/1.0`.
    pub http11: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// The sender wants the connection closed behind this message (RFC 9112 §9.3).
    pub close: bool,
    /// A field name holds `_` (FI4).
    pub underscore: bool,
    /// There is a Connection line.
    pub connection: bool,
    /// There is an Expect line.
    pub expect: bool,
    /// There is an Upgrade line.
    pub upgrade: bool,
    /// A WebSocket handshake (UP1): GET, HTTP/1.1, no body, Connection names `upgrade`, Upgrade lists `websocket`, one key.
    pub websocket: bool,
    /// As `websocket`, whatever the body says: with a body it is refused (UP2).
    pub would_be_websocket: bool,
}

/// How a response's body is framed by its fields; the answer to HEAD, 1xx, 204 and 304 have none whatever they say (RS5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Neither: the body ends with the connection.
    Close,
}

/// What a response head says, as far as the wire is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFacts {
    /// Bytes of the head, final empty line included.
    pub head_len: usize,
    /// Status, 100 to 599.
    pub status: u16,
    /// `HTTP/1.1`, else `HTTP/1.0`.
    pub http11: bool,
    /// Framing by the fields alone.
    pub framing: ResponseFraming,
    /// The connection ends behind this message: `close`, or HTTP/1.0 without `keep-alive`.
    pub close: bool,
    /// There is a Connection line.
    pub connection: bool,
    /// Connection names `upgrade`.
    pub connection_upgrade: bool,
    /// Number of field lines.
    pub fields: usize,
}

const TOKEN: u8 = 1;
const TARGET_PATH: u8 = 2;
const TARGET_QUERY: u8 = 4;
const VALUE: u8 = 8;
const UNDERSCORE: u8 = 16;

/// What a byte may be part of.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0usize;
    while i < 256 {
        let b = i as u8;
        let mut class = 0;
        if is_token_byte(b) {
            class |= TOKEN;
        }
        if b == b'_' {
            class |= UNDERSCORE;
        }
        if b >= 0x21 && b <= 0x7e && !matches!(b, b'#' | b'"' | b'<' | b'>') {
            class |= TARGET_QUERY;
            // `?` ends the path.
            if b != b'`' && b != b'?' {
                class |= TARGET_PATH;
            }
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            class |= VALUE;
        }
        table[i] = class;
        i += 1;
    }
    table
}

/// A token byte (RFC 9110 §5.6.2).
const fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Whether `bytes` is a token (RFC 9110 §5.6.2).
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| CLASS[b as usize] & TOKEN != 0)
}

/// Whether `b` may stand in a field value (LN3).
#[must_use]
pub fn is_value_byte(b: u8) -> bool {
    CLASS[b as usize] & VALUE != 0
}

/// Whether `target` obeys RL7: its bytes, up to `?` and behind.
#[must_use]
pub fn is_target(target: &[u8]) -> bool {
    let path_end = skip(target, 0, target.len(), TARGET_PATH);
    match target.get(path_end) {
        None => path_end > 0,
        Some(b'?') => skip(target, path_end, target.len(), TARGET_QUERY) == target.len(),
        Some(_) => false,
    }
}

/// The first index in `from..to` whose byte is not of `class`, else `to`. `to` is at most `buf.len()`.
fn skip(buf: &[u8], from: usize, to: usize, class: u8) -> usize {
    let Some(part) = buf.get(from..to) else { return from };
    part.iter().position(|&b| CLASS[b as usize] & class == 0).map_or(to, |at| from + at)
}

/// As [`skip`] for field values, eight bytes at a time.
fn skip_value(buf: &[u8], from: usize, to: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let Some(part) = buf.get(from..to) else { return from };
    let (words, _) = part.as_chunks::<8>();
    let mut at = from;
    for word in words {
        let word = u64::from_le_bytes(*word);
        // The high bit of a byte is set where it may be below 0x20 or equal 0x7f (a borrow can only add candidates).
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let del = (word ^ (ONES * 0x7f)).wrapping_sub(ONES) & !(word ^ (ONES * 0x7f)) & HIGH;
        if control | del != 0 {
            let end = skip(buf, at, at + 8, VALUE);
            if end < at + 8 {
                return end;
            }
        }
        at += 8;
    }
    skip(buf, at, to, VALUE)
}

/// `value` without spaces and tabs at its ends (LN6).
#[must_use]
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The members of a comma-separated list, trimmed; empty members included.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// A `content-length` value (ML2, ML3): ASCII digits only, at most 2^63-1; leading zeros are legal.
#[must_use]
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut length: u64 = 0;
    for &b in value {
        if !b.is_ascii_digit() {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(u64::from(b - b'0'))?;
    }
    i64::try_from(length).is_ok().then_some(length)
}

/// Where the request scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestState {
    Start,
    StartLf,
    Method,
    TargetStart,
    Path,
    Query,
    /// The next byte of the version, 0 to 8 for `HTTP/1.1` and its CR.
    Version(u8),
    LineLf,
    Fields,
}

/// Scans one request head.
#[derive(Clone, Copy, Debug)]
pub struct RequestScanner {
    state: RequestState,
    at: usize,
    line_start: usize,
    empty_lines: u8,
    method: Span,
    target: Span,
    target_start: usize,
    major: u8,
    minor: u8,
    fields: FieldScanner,
}

impl Default for RequestScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestScanner {
    /// A scanner before the first byte of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: RequestState::Start,
            at: 0,
            line_start: 0,
            empty_lines: 0,
            method: Span { start: 0, end: 0 },
            target: Span { start: 0, end: 0 },
            target_start: 0,
            major: 0,
            minor: 0,
            fields: FieldScanner::new(),
        }
    }

    /// Whether a byte of the request line has come; empty lines before it do not count.
    #[must_use]
    pub fn is_started(&self) -> bool {
        !matches!(self.state, RequestState::Start | RequestState::StartLf)
    }

    /// Goes on with the bytes of the message so far; `buf[0]` is its first byte, and earlier bytes are unchanged.
    ///
    /// # Errors
    /// The head is refused: its bytes break a rule or a limit.
    pub fn scan(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Scan<RequestFacts>, GuardError> {
        while self.state != RequestState::Fields {
            let Some(&byte) = buf.get(self.at) else { return Ok(Scan::More) };
            self.line_byte(buf, byte, limits)?;
        }
        let (at, done) = self.fields.scan(buf, self.at, limits)?;
        self.at = at;
        if done { self.facts(buf).map(Scan::Done) } else { Ok(Scan::More) }
    }

    /// Takes `byte`, which stands at `self.at`, and what follows it of the same element.
    fn line_byte(&mut self, buf: &[u8], byte: u8, limits: &HeadLimits) -> Result<(), GuardError> {
        let limit = self.line_start.saturating_add(limits.start_line);
        let (bound, cut) = if limit < buf.len() { (limit, true) } else { (buf.len(), false) };
        match self.state {
            RequestState::Start => {
                if byte == b'\r' && self.empty_lines < MAX_EMPTY_LINES {
                    self.state = RequestState::StartLf;
                    self.at += 1;
                } else if CLASS[byte as usize] & TOKEN != 0 {
                    self.line_start = self.at;
                    self.state = RequestState::Method;
                } else {
                    return Err(LINE);
                }
            }
            RequestState::StartLf => {
                if byte != b'\n' {
                    return Err(LINE);
                }
                self.empty_lines += 1;
                self.state = RequestState::Start;
                self.at += 1;
            }
            RequestState::Method => {
                self.at = skip(buf, self.at, bound, TOKEN);
                match buf.get(self.at) {
                    None => {}
                    Some(_) if self.at == bound && cut => return Err(LINE_TOO_LONG),
                    Some(b' ') => {
                        self.method = Span::new(self.line_start, self.at);
                        self.at += 1;
                        self.state = RequestState::TargetStart;
                    }
                    Some(_) => return Err(LINE),
                }
            }
            RequestState::TargetStart => {
                if byte == b' ' || byte == b'\t' {
                    return Err(LINE);
                }
                self.target_start = self.at;
                self.state = RequestState::Path;
            }
            RequestState::Path | RequestState::Query => {
                let class = if self.state == RequestState::Path { TARGET_PATH } else { TARGET_QUERY };
                self.at = skip(buf, self.at, bound, class);
                match buf.get(self.at) {
                    None => {}
                    Some(_) if self.at == bound && cut => return Err(LINE_TOO_LONG),
                    Some(b'?') if self.state == RequestState::Path && self.at > self.target_start => {
                        self.state = RequestState::Query;
                    }
                    Some(b' ') => {
                        self.target = Span::new(self.target_start, self.at);
                        self.at += 1;
                        self.state = RequestState::Version(0);
                    }
                    // No version at all, or LF without CR.
                    Some(b'\r' | b'\n' | b'\t') => return Err(LINE),
                    Some(_) => return Err(TARGET),
                }
            }
            RequestState::Version(index) => {
                if byte != b'\r' && self.at >= bound && cut {
                    return Err(LINE_TOO_LONG);
                }
                self.version_byte(index, byte)?;
                self.at += 1;
            }
            RequestState::LineLf => {
                if byte != b'\n' {
                    return Err(LINE);
                }
                self.at += 1;
                self.state = RequestState::Fields;
            }
            RequestState::Fields => {}
        }
        Ok(())
    }

    /// RL3. Two single digits are only judged at the line's end: `HTTP/2.0` is 505, `HTTP/2.01` is no version at all.
    fn version_byte(&mut self, index: u8, byte: u8) -> Result<(), GuardError> {
        const NAME: [u8; 5] = *b"HTTP/";
        let fits = match index {
            0..=4 => NAME.get(usize::from(index)) == Some(&byte),
            5 => {
                self.major = byte;
                byte.is_ascii_digit()
            }
            6 => byte == b'.',
            7 => {
                self.minor = byte;
                byte.is_ascii_digit()
            }
            _ => {
                if byte != b'\r' {
                    return Err(LINE);
                }
                if self.major != b'1' || !matches!(self.minor, b'0' | b'1') {
                    return Err(VERSION);
                }
                self.state = RequestState::LineLf;
                return Ok(());
            }
        };
        if !fits {
            return Err(LINE);
        }
        self.state = RequestState::Version(index + 1);
        Ok(())
    }

    fn facts(&self, buf: &[u8]) -> Result<RequestFacts, GuardError> {
        let fields = &self.fields;
        let http11 = self.minor == b'1';
        // ML5: HTTP/1.0 has no transfer codings.
        if fields.chunked && !http11 {
            return Err(LENGTH);
        }
        let framing = match (fields.chunked, fields.length) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::None,
        };
        let would_be_websocket = http11
            && fields.upgrade_websocket
            && fields.connection_upgrade
            && fields.key_count == 1
            && self.method.of(buf) == b"GET";
        Ok(RequestFacts {
            head_len: self.at,
            method: self.method,
            target: self.target,
            host: fields.host,
            http11,
            framing,
            close: fields.close || !(http11 || fields.keep_alive),
            underscore: fields.names & UNDERSCORE != 0,
            connection: fields.connection,
            expect: fields.expect,
            upgrade: fields.upgrade,
            websocket: would_be_websocket && !framing.has_body(),
            would_be_websocket,
        })
    }
}

/// Where the response scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseState {
    /// The next byte of `HTTP/1.1 200`.
    Start(u8),
    /// Behind the status: a space or the end of the line.
    AfterStatus,
    Reason,
    LineLf,
    Fields,
}

/// Scans one response head (RS1 to RS3). The refusal's status is always 502.
#[derive(Clone, Copy, Debug)]
pub struct ResponseScanner {
    state: ResponseState,
    at: usize,
    minor: u8,
    status: u16,
    fields: FieldScanner,
}

impl Default for ResponseScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// A response that breaks a rule.
const BAD_RESPONSE: GuardError = GuardError::new(StatusCode::BAD_GATEWAY, Reason::BadResponse);

impl ResponseScanner {
    /// A scanner before the first byte of a response.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: ResponseState::Start(0), at: 0, minor: 0, status: 0, fields: FieldScanner::new() }
    }

    /// Goes on with the bytes of the response so far; `buf[0]` is its first byte, and earlier bytes are unchanged.
    ///
    /// # Errors
    /// The response is refused, always with 502 and [`Reason::BadResponse`].
    pub fn scan(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Scan<ResponseFacts>, GuardError> {
        self.scan_inner(buf, limits).map_err(|_| BAD_RESPONSE)
    }

    fn scan_inner(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Scan<ResponseFacts>, GuardError> {
        while self.state != ResponseState::Fields {
            let Some(&byte) = buf.get(self.at) else { return Ok(Scan::More) };
            if self.at >= limits.start_line && byte != b'\r' && byte != b'\n' {
                return Err(BAD_RESPONSE);
            }
            self.line_byte(byte)?;
            self.at += 1;
        }
        let (at, done) = self.fields.scan(buf, self.at, limits)?;
        self.at = at;
        if !done {
            return Ok(Scan::More);
        }
        let fields = &self.fields;
        let http11 = self.minor == b'1';
        if fields.chunked && !http11 {
            return Err(BAD_RESPONSE);
        }
        let framing = match (fields.chunked, fields.length) {
            (true, _) => ResponseFraming::Chunked,
            (false, Some(length)) => ResponseFraming::Length(length),
            (false, None) => ResponseFraming::Close,
        };
        Ok(Scan::Done(ResponseFacts {
            head_len: self.at,
            status: self.status,
            http11,
            framing,
            close: fields.close || !(http11 || fields.keep_alive),
            connection: fields.connection,
            connection_upgrade: fields.connection_upgrade,
            fields: fields.count,
        }))
    }

    fn line_byte(&mut self, byte: u8) -> Result<(), GuardError> {
        const NAME: [u8; 7] = *b"HTTP/1.";
        let fits = match self.state {
            ResponseState::Start(index) => {
                self.state = ResponseState::Start(index + 1);
                match index {
                    0..=6 => NAME.get(usize::from(index)) == Some(&byte),
                    7 => {
                        self.minor = byte;
                        matches!(byte, b'0' | b'1')
                    }
                    8 => byte == b' ',
                    9 => {
                        self.status = u16::from(byte.wrapping_sub(b'0')) * 100;
                        matches!(byte, b'1'..=b'5')
                    }
                    10 => {
                        self.status += u16::from(byte.wrapping_sub(b'0')) * 10;
                        byte.is_ascii_digit()
                    }
                    _ => {
                        self.status += u16::from(byte.wrapping_sub(b'0'));
                        self.state = ResponseState::AfterStatus;
                        byte.is_ascii_digit()
                    }
                }
            }
            // The space is missing in what many servers send when they have no reason phrase.
            ResponseState::AfterStatus => {
                self.state = if byte == b'\r' { ResponseState::LineLf } else { ResponseState::Reason };
                matches!(byte, b' ' | b'\r')
            }
            ResponseState::Reason => {
                if byte == b'\r' {
                    self.state = ResponseState::LineLf;
                }
                byte == b'\r' || is_value_byte(byte)
            }
            ResponseState::LineLf => {
                self.state = ResponseState::Fields;
                byte == b'\n'
            }
            ResponseState::Fields => true,
        };
        if fits { Ok(()) } else { Err(BAD_RESPONSE) }
    }
}

#[cfg(test)]
mod tests;
