//! The field lines of a head (RFC 9112 §5), and those that frame its body (§6).

use http::StatusCode;

use super::syntax::{
    CLASS, GuardError, HeadLimits, LENGTH, LINE, Span, TOKEN, is_token, is_value_byte, list, parse_length, skip_value,
    trim,
};
use crate::reason::Reason;

/// A head field or their sum is too large.
const FIELDS_TOO_LARGE: GuardError = GuardError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::Size);
/// A transfer coding that is not served (RFC 9112 §6.1).
const CODING: GuardError = GuardError::new(StatusCode::NOT_IMPLEMENTED, Reason::Length);

/// A `transfer-encoding` value (RFC 9112 §6.1): `chunked` alone passes.
fn check_coding(value: &[u8]) -> Result<(), GuardError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut members = list(value).peekable();
    let mut others = false;
    while let Some(member) = members.next() {
        let last = members.peek().is_none();
        let chunked = member.eq_ignore_ascii_case(b"chunked");
        if chunked != last || !is_token(member) || member.eq_ignore_ascii_case(b"identity") {
            return Err(LENGTH);
        }
        others |= !chunked;
    }
    // Other codings under a final `chunked`: a message with one reading that is not served.
    Err(if others { CODING } else { LENGTH })
}

/// The fields that the wire looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Other,
    Te,
    Via,
    Host,
    Expect,
    Upgrade,
    Connection,
    Length,
    Coding,
    WebSocketKey,
    /// What forwarders say about the client.
    Forwarded,
}

impl Kind {
    #[inline]
    fn of(name: &[u8]) -> Self {
        // The first letter tells most names of one length apart.
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        let (kind, expected): (Kind, &[u8]) = match (name.len(), first) {
            (2, b't') => (Kind::Te, b"te"),
            (3, b'v') => (Kind::Via, b"via"),
            (4, b'h') => (Kind::Host, b"host"),
            (6, b'e') => (Kind::Expect, b"expect"),
            (7, b'u') => (Kind::Upgrade, b"upgrade"),
            (9, b'f') => (Kind::Forwarded, b"forwarded"),
            (9, b'x') => (Kind::Forwarded, b"x-real-ip"),
            (10, b'c') => (Kind::Connection, b"connection"),
            (14, b'c') => (Kind::Length, b"content-length"),
            (17, b's') => (Kind::WebSocketKey, b"sec-websocket-key"),
            (17, b't') => (Kind::Coding, b"transfer-encoding"),
            (12.., b'x') => {
                let is_forwarded = name.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
                    || name.eq_ignore_ascii_case(b"x-tidegate-mirror");
                return if is_forwarded { Kind::Forwarded } else { Kind::Other };
            }
            _ => return Kind::Other,
        };
        if name.eq_ignore_ascii_case(expected) { kind } else { Kind::Other }
    }
}

/// Where the field scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldState {
    LineStart,
    Name,
    Value,
    /// Digits of a length; the flag says that a blank followed them.
    Digits {
        seen: bool,
        ended: bool,
    },
    ValueLf,
    EndLf,
}

/// The field lines of a head up to and with the empty line.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldScanner {
    state: FieldState,
    kind: Kind,
    /// Start of the current line and of its value.
    line_start: usize,
    value_start: usize,
    value_end: usize,
    /// Bytes of the finished lines.
    total: usize,
    pub(super) count: usize,
    /// All classes of name bytes, for the underscore.
    pub(super) names: u8,
    host_count: u8,
    pub(super) host: Span,
    pub(super) length: Option<u64>,
    length_seen: bool,
    pub(super) chunked: bool,
    pub(super) connection: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) connection_upgrade: bool,
    pub(super) expect: bool,
    pub(super) upgrade: bool,
    pub(super) te: bool,
    pub(super) via: bool,
    pub(super) upgrade_websocket: bool,
    pub(super) key_count: u8,
    pub(super) forwarded: bool,
}

impl FieldScanner {
    pub(super) const fn new() -> Self {
        Self {
            state: FieldState::LineStart,
            kind: Kind::Other,
            line_start: 0,
            value_start: 0,
            value_end: 0,
            total: 0,
            count: 0,
            names: 0,
            host_count: 0,
            host: Span { start: 0, end: 0 },
            length: None,
            length_seen: false,
            chunked: false,
            connection: false,
            close: false,
            keep_alive: false,
            connection_upgrade: false,
            expect: false,
            upgrade: false,
            te: false,
            via: false,
            upgrade_websocket: false,
            key_count: 0,
            forwarded: false,
        }
    }

    /// Goes on at `at`; the position behind the empty line when it was reached.
    pub(super) fn scan(&mut self, buf: &[u8], mut at: usize, limits: &HeadLimits) -> Result<(usize, bool), GuardError> {
        while let Some(&byte) = buf.get(at) {
            match self.state {
                FieldState::LineStart => {
                    if byte == b'\r' {
                        self.state = FieldState::EndLf;
                        at += 1;
                        continue;
                    }
                    // A blank here would be a folded line (RFC 9112 §5.2).
                    if CLASS[byte as usize] & TOKEN == 0 {
                        return Err(LINE);
                    }
                    if self.count == limits.field_count {
                        return Err(FIELDS_TOO_LARGE);
                    }
                    self.count += 1;
                    self.line_start = at;
                    match self.whole_line(buf, limits)? {
                        Some(next) => at = next,
                        None => self.state = FieldState::Name,
                    }
                }
                FieldState::Name => {
                    let (bound, cut) = self.bound(buf, limits);
                    let part = buf.get(at..bound).unwrap_or_default();
                    let mut names = self.names;
                    let end = part.iter().position(|&b| {
                        let class = CLASS[b as usize];
                        names |= class;
                        class & TOKEN == 0
                    });
                    self.names = names;
                    at = end.map_or(bound, |end| at + end);
                    match buf.get(at) {
                        None => break,
                        Some(_) if at == bound && cut => return Err(FIELDS_TOO_LARGE),
                        Some(b':') if at > self.line_start => {
                            let name = buf.get(self.line_start..at).unwrap_or_default();
                            self.name_ended(Kind::of(name))?;
                            at += 1;
                            self.value_start = at;
                        }
                        // White space before the colon, no colon, a byte that names do not have (RFC 9112 §5.1).
                        Some(_) => return Err(LINE),
                    }
                }
                FieldState::Value => {
                    let (bound, cut) = self.bound(buf, limits);
                    at = skip_value(buf, at, bound);
                    match buf.get(at) {
                        None => break,
                        Some(b'\r') => {
                            self.value_end = at;
                            self.state = FieldState::ValueLf;
                            at += 1;
                        }
                        Some(_) if at == bound && cut => return Err(FIELDS_TOO_LARGE),
                        Some(_) => return Err(LINE),
                    }
                }
                FieldState::Digits { seen, ended } => {
                    let (bound, cut) = self.bound(buf, limits);
                    match byte {
                        b'\r' => {
                            self.value_end = at;
                            self.state = FieldState::ValueLf;
                        }
                        _ if at >= bound && cut => return Err(FIELDS_TOO_LARGE),
                        b' ' | b'\t' => self.state = FieldState::Digits { seen, ended: seen },
                        b'0'..=b'9' if !ended => self.state = FieldState::Digits { seen: true, ended },
                        _ if is_value_byte(byte) => return Err(LENGTH),
                        _ => return Err(LINE),
                    }
                    at += 1;
                }
                FieldState::ValueLf => {
                    if byte != b'\n' {
                        return Err(LINE);
                    }
                    self.value_ended(buf)?;
                    self.total += self.value_end - self.line_start;
                    self.state = FieldState::LineStart;
                    at += 1;
                }
                FieldState::EndLf => {
                    return if byte == b'\n' { Ok((at + 1, true)) } else { Err(LINE) };
                }
            }
        }
        Ok((at, false))
    }

    /// Takes the line that begins at `line_start` at once: most lines come whole and have no flaw. `None` leaves a line
    /// to the states, which also say what is wrong with it. Nothing has changed then.
    fn whole_line(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, GuardError> {
        let (bound, _) = self.bound(buf, limits);
        let mut names = self.names;
        let part = buf.get(self.line_start..bound).unwrap_or_default();
        let length = part.iter().position(|&b| {
            let class = CLASS[b as usize];
            names |= class;
            class & TOKEN == 0
        });
        let Some(length) = length.filter(|length| part.get(*length) == Some(&b':')) else { return Ok(None) };
        let kind = Kind::of(part.get(..length).unwrap_or_default());
        let value_start = self.line_start + length + 1;
        let value_end = skip_value(buf, value_start, bound);
        // The digits of a length are judged one by one.
        if buf.get(value_end..value_end + 2) != Some(b"\r\n") || kind == Kind::Length {
            return Ok(None);
        }
        self.name_ended(kind)?;
        self.names = names;
        (self.value_start, self.value_end) = (value_start, value_end);
        if kind != Kind::Other {
            self.value_ended(buf)?;
        }
        self.total += value_end - self.line_start;
        self.state = FieldState::LineStart;
        Ok(Some(value_end + 2))
    }

    /// The end of what may be scanned of this line, and whether a limit rather than the buffer ends it. The byte at a
    /// limit can only be the line's CR.
    fn bound(&self, buf: &[u8], limits: &HeadLimits) -> (usize, bool) {
        let room = limits.field.min(limits.fields_total.saturating_sub(self.total));
        let limit = self.line_start.saturating_add(room);
        if limit < buf.len() { (limit, true) } else { (buf.len(), false) }
    }

    fn name_ended(&mut self, kind: Kind) -> Result<(), GuardError> {
        self.kind = kind;
        self.state = FieldState::Value;
        match self.kind {
            Kind::Length => {
                // RFC 9112 §6.3: with a coding or a second time it is wrong whatever the value.
                if self.length_seen || self.chunked {
                    return Err(LENGTH);
                }
                self.length_seen = true;
                self.state = FieldState::Digits { seen: false, ended: false };
            }
            Kind::Coding if self.length_seen || self.chunked => return Err(LENGTH),
            Kind::Other
            | Kind::Te
            | Kind::Via
            | Kind::Host
            | Kind::Expect
            | Kind::Upgrade
            | Kind::Connection
            | Kind::Coding
            | Kind::WebSocketKey
            | Kind::Forwarded => {}
        }
        Ok(())
    }

    fn value_ended(&mut self, buf: &[u8]) -> Result<(), GuardError> {
        if self.kind == Kind::Other {
            return Ok(());
        }
        let value = trim(buf.get(self.value_start..self.value_end).unwrap_or_default());
        match self.kind {
            Kind::Other => {}
            Kind::Host => {
                if self.host_count == 0 {
                    let raw = buf.get(self.value_start..self.value_end).unwrap_or_default();
                    let lead = raw.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                    let start = self.value_start + lead;
                    self.host = Span::new(start, start + value.len());
                }
                self.host_count = self.host_count.saturating_add(1);
            }
            Kind::Te => self.te = true,
            Kind::Via => self.via = true,
            Kind::Expect => self.expect = true,
            Kind::Upgrade => {
                self.upgrade = true;
                self.upgrade_websocket |= list(value).any(|member| member.eq_ignore_ascii_case(b"websocket"));
            }
            Kind::Connection => {
                self.connection = true;
                for member in list(value) {
                    match member.len() {
                        5 => self.close |= member.eq_ignore_ascii_case(b"close"),
                        7 => self.connection_upgrade |= member.eq_ignore_ascii_case(b"upgrade"),
                        10 => self.keep_alive |= member.eq_ignore_ascii_case(b"keep-alive"),
                        _ => {}
                    }
                }
            }
            Kind::Length => self.length = Some(parse_length(value).ok_or(LENGTH)?),
            Kind::Coding => {
                check_coding(value)?;
                self.chunked = true;
            }
            Kind::WebSocketKey => self.key_count = self.key_count.saturating_add(1),
            Kind::Forwarded => self.forwarded = true,
        }
        Ok(())
    }
}
