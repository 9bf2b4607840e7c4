//! What the scanners of heads have in common: refusals, limits, classes of bytes, lists and lengths.

use std::borrow::Cow;

use http::StatusCode;

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

    pub(super) const fn bad(reason: Reason) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

/// A malformed line (RFC 9112 §2.2, §3, §5).
pub(super) const LINE: GuardError = GuardError::bad(Reason::Line);
/// A malformed target (RFC 9112 §3.2).
pub(super) const TARGET: GuardError = GuardError::bad(Reason::Target);
/// A malformed or doubled length (RFC 9112 §6).
pub(super) const LENGTH: GuardError = GuardError::bad(Reason::Length);
/// The request line is too long.
pub(in crate::http1) const LINE_TOO_LONG: GuardError = GuardError::new(StatusCode::URI_TOO_LONG, Reason::Size);
/// A well-formed version that is not served (RFC 9110 §15.6.6).
pub(super) const VERSION: GuardError = GuardError::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, Reason::Line);

/// Limits of a head. Line ends are not counted.
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

/// A range of bytes in a head, counted from the message's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    pub(in crate::http1) fn new(start: usize, end: usize) -> Self {
        // A head is bounded by its limits, far below 4 GiB; a saturated span would only select nothing.
        Self { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// The bytes of the span in `buf`, the bytes of the message; empty if it lies outside.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

pub(super) const TOKEN: u8 = 1;
pub(super) const TARGET_PATH: u8 = 2;
pub(super) const TARGET_QUERY: u8 = 4;
pub(super) const VALUE: u8 = 8;
pub(super) const UNDERSCORE: u8 = 16;
/// May come raw in a path or a query, and is sent on percent-encoded.
pub(super) const TARGET_RAW: u8 = 32;

/// What a byte may be part of.
pub(super) static CLASS: [u8; 256] = classes();

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
        if matches!(b, b'"' | b'<' | b'>' | b'\\' | b'`' | 0x80..) {
            class |= TARGET_RAW;
        } else if b >= 0x21 && b <= 0x7e && b != b'#' {
            class |= TARGET_QUERY;
            // `?` ends the path.
            if b != b'?' {
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

/// Whether `b` may stand in a field value (RFC 9110 §5.5).
#[must_use]
pub fn is_value_byte(b: u8) -> bool {
    CLASS[b as usize] & VALUE != 0
}

/// A target as it is sent on: `"`, `<`, `>`, `\`, backquotes and bytes above 0x7F in its path or query are percent-encoded
/// (RFC 3986 §2.1), since clients send them raw. `None` when it is empty or has a byte that no target may have: a control
/// byte, a space or `#`.
#[must_use]
pub fn encode_target(target: &[u8]) -> Option<Cow<'_, [u8]>> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    // A query may have all that a path may have, and the first `?` begins it.
    if matches!(target, [] | [b'?', ..]) {
        return None;
    }
    let mut raw = 0;
    for &b in target {
        let class = CLASS[b as usize];
        if class & (TARGET_QUERY | TARGET_RAW) == 0 {
            return None;
        }
        raw += usize::from(class & TARGET_RAW != 0);
    }
    if raw == 0 {
        return Some(Cow::Borrowed(target));
    }
    let mut encoded = Vec::with_capacity(target.len() + 2 * raw);
    for &b in target {
        if CLASS[b as usize] & TARGET_RAW != 0 {
            encoded.extend([b'%', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        } else {
            encoded.push(b);
        }
    }
    Some(Cow::Owned(encoded))
}

/// The first index in `from..to` whose byte is not of `class`, else `to`. `to` is at most `buf.len()`.
pub(super) fn skip(buf: &[u8], from: usize, to: usize, class: u8) -> usize {
    let Some(part) = buf.get(from..to) else { return from };
    part.iter().position(|&b| CLASS[b as usize] & class == 0).map_or(to, |at| from + at)
}

/// A one in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The high bit of each byte of a word.
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How far [`find`] looks word by word.
const NEAR: usize = 64;

/// The first place of a byte from a place on. What is near, as the ends of most names and values are, is found eight bytes at a
/// time, which takes half of what it takes to begin with wide registers; these look for what is further away.
#[must_use]
pub fn find(byte: u8, buf: &[u8], from: usize) -> Option<usize> {
    let wanted = ONES * u64::from(byte);
    let mut at = from;
    while at < from + NEAR
        && let Some(word) = buf.get(at..).and_then(<[u8]>::first_chunk)
    {
        // A byte is zero where it is the one; the high bit of each such byte is set, and others only above it.
        let differs = u64::from_le_bytes(*word) ^ wanted;
        let found = differs.wrapping_sub(ONES) & !differs & HIGH;
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    memchr::memchr(byte, buf.get(at..)?).map(|place| at + place)
}

/// As [`skip`] for field values, eight bytes at a time.
pub fn skip_value(buf: &[u8], from: usize, to: usize) -> usize {
    let mut at = from;
    while at < to {
        let Some(word) = buf.get(at..).and_then(<[u8]>::first_chunk) else { return skip(buf, at, to, VALUE) };
        let word = u64::from_le_bytes(*word);
        // The high bit of a byte is set where it may be below 0x20 or equal 0x7f. A borrow adds such bits only above one that
        // is right, so the lowest one is.
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let del = (word ^ (ONES * 0x7f)).wrapping_sub(ONES) & !(word ^ (ONES * 0x7f)) & HIGH;
        let found = control | del;
        at += (found.trailing_zeros() / 8) as usize;
        if found != 0 {
            if at >= to || CLASS[usize::from(buf[at])] & VALUE == 0 {
                break;
            }
            at += 1;
        }
    }
    at.min(to.max(from))
}

/// `value` without spaces and tabs at its ends (RFC 9112 §5.1).
#[must_use]
pub fn trim(value: &[u8]) -> &[u8] {
    let (from, to) = trim_bounds(value, 0, value.len());
    value.get(from..to).unwrap_or_default()
}

/// The bounds of what [`trim`] leaves of `bytes[from..to]`.
pub(in crate::http1) fn trim_bounds(bytes: &[u8], mut from: usize, mut to: usize) -> (usize, usize) {
    let is_blank = |at: usize| matches!(bytes.get(at), Some(b' ' | b'\t'));
    while from < to && is_blank(from) {
        from += 1;
    }
    while to > from && is_blank(to - 1) {
        to -= 1;
    }
    (from, to)
}

/// The members of a comma-separated list, trimmed; empty members included.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// A `content-length` value (RFC 9110 §8.6): ASCII digits only, at most 2^63-1; leading zeros are legal.
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
