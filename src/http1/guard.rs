//! The strict scanner of a request head (RFC 9112 §2 to §6).
//!
//! Pure: bytes and limits in, progress or a refusal out. The scanner is incremental and allocation-free; it looks at every
//! byte once and refuses a byte that no valid message can have at its place as soon as it arrives. The criterion is
//! stricter than RFC 9112: a message with two readings is refused, never repaired. A verdict depends on the bytes only,
//! never on how they were split.
//!
//! The caller keeps the bytes of an unfinished head and passes all of them again with every call (`buf[0]` is the first
//! byte of the message); the scanner remembers how far it came.

mod fields;
mod syntax;

use self::fields::FieldScanner;
use self::syntax::{
    CLASS, LENGTH, LINE, TARGET, TARGET_PATH, TARGET_QUERY, TARGET_RAW, TOKEN, UNDERSCORE, VERSION, skip,
};

pub use self::syntax::{
    GuardError, HeadLimits, Span, encode_target, is_token, is_value_byte, list, parse_length, trim,
};
pub(super) use self::syntax::{LINE_TOO_LONG, find, skip_value, trim_bounds};

/// Empty lines that are skipped before a request line (RFC 9112 §2.2).
const MAX_EMPTY_LINES: u8 = 2;

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

/// What the head check wants to know of a head beside the parsed request, of either protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadFacts {
    /// The request has a body, framing included.
    pub body: bool,
    /// A field name holds `_`.
    pub underscore: bool,
    /// There is a Connection line.
    pub connection: bool,
    /// There is an Expect line.
    pub expect: bool,
    /// There is an Upgrade line.
    pub upgrade: bool,
    /// There is a TE line.
    pub te: bool,
    /// There is a Via line.
    pub via: bool,
    /// There is a line in which forwarders say something about the client: Forwarded, X-Real-IP or X-Forwarded-….
    pub forwarded: bool,
    /// A WebSocket handshake (RFC 6455 §4.2.1): GET, HTTP/1.1, no body, Connection names `upgrade`, Upgrade lists
    /// `websocket`, one key.
    pub websocket: bool,
    /// As `websocket`, whatever the body: with a body it is refused.
    pub would_be_websocket: bool,
}

/// What the scanner finds in a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// Bytes of the head, skipped empty lines and final empty line included.
    pub head_len: usize,
    /// The method, a token.
    pub method: Span,
    /// The target as received.
    pub target: Span,
    /// The target has bytes that are sent on percent-encoded.
    pub raw_target: bool,
    /// The value of the first Host line, trimmed; empty when there is none.
    pub host: Span,
    /// `HTTP/1.1`, else `HTTP/1.0`.
    pub http11: bool,
    /// How the body is framed.
    pub framing: Framing,
    /// The sender wants the connection closed behind this message (RFC 9112 §9.3).
    pub close: bool,
    /// What is asked of the head check.
    pub facts: HeadFacts,
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
    raw_target: bool,
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
            raw_target: false,
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

    /// Takes the end of nearly every request line at once, unless it crosses `limit`; other ends are taken byte by byte.
    fn usual_version(&mut self, buf: &[u8], limit: usize) {
        const USUAL: &[u8; 10] = b"HTTP/1.1\r\n";
        let rest = buf.get(self.at..).unwrap_or_default();
        if rest.first_chunk() == Some(USUAL) && self.at + USUAL.len() - 2 <= limit {
            (self.major, self.minor) = (b'1', b'1');
            self.at += USUAL.len();
            self.state = RequestState::Fields;
        }
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
                    Some(&b) if CLASS[b as usize] & TARGET_RAW != 0 => {
                        self.raw_target = true;
                        self.at += 1;
                    }
                    Some(b' ') => {
                        self.target = Span::new(self.target_start, self.at);
                        self.at += 1;
                        self.state = RequestState::Version(0);
                        self.usual_version(buf, limit);
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

    /// Judges the version (RFC 9112 §2.3). Two single digits are only judged at the line's end: `HTTP/2.0` is 505,
    /// `HTTP/2.01` is no version at all.
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
        // HTTP/1.0 has no transfer codings (RFC 9112 §6.1).
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
            raw_target: self.raw_target,
            host: fields.host,
            http11,
            framing,
            close: fields.close || !(http11 || fields.keep_alive),
            facts: HeadFacts {
                body: framing.has_body(),
                underscore: fields.names & UNDERSCORE != 0,
                connection: fields.connection,
                expect: fields.expect,
                upgrade: fields.upgrade,
                te: fields.te,
                via: fields.via,
                forwarded: fields.forwarded,
                websocket: would_be_websocket && !framing.has_body(),
                would_be_websocket,
            },
        })
    }
}

#[cfg(test)]
mod tests;
