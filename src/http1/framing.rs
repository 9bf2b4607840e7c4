//! Chunked framing (RFC 9112 §7.1), read strictly.
//!
//! Pure and incremental like the head scanners, but streaming: a byte is passed once and need not be kept. Data that
//! were found without an error may be handed on before the chunk is complete.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::guard::{GuardError, is_token, is_value_byte, trim};
use crate::reason::Reason;

/// Chunk framing or trailers that break a rule.
pub(super) const CHUNK: GuardError = GuardError::new(StatusCode::BAD_REQUEST, Reason::Chunk);
/// Extensions or trailers above a limit.
const TOO_LARGE: GuardError = GuardError::new(StatusCode::BAD_REQUEST, Reason::Size);

/// Digits of a chunk size, leading zeros included.
const MAX_SIZE_DIGITS: u8 = 16;

/// Limits of chunked framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Bytes of the extensions of one chunk, from `;` on.
    pub line: usize,
    /// Bytes of all extensions of a body.
    pub extensions: usize,
    /// Bytes of the trailer section, line ends included.
    pub trailers_total: usize,
    /// Number of trailer fields.
    pub trailer_count: usize,
}

/// What [`ChunkDecoder::decode`] found at the front of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkEvent {
    /// The whole input was framing.
    More,
    /// `skip` bytes of framing, then `len` bytes of the body; `len` is at least 1.
    Data {
        /// Bytes of framing.
        skip: usize,
        /// Bytes of the body behind them.
        len: usize,
    },
    /// `skip` bytes of framing, then `len` bytes of the trailer section, which ends with an empty line.
    Trailers {
        /// Bytes of framing.
        skip: usize,
        /// Bytes of the trailer section behind them.
        len: usize,
        /// The section and with it the body is complete; else the whole input was consumed.
        end: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    SizeStart,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Decodes one chunked body. Extensions are dropped; trailer lines are checked and left to the caller.
#[derive(Clone, Copy, Debug)]
pub struct ChunkDecoder {
    state: ChunkState,
    digits: u8,
    /// The size being read, then what is left of the chunk.
    size: u64,
    line: usize,
    extensions: usize,
    trailers: usize,
    trailer_count: usize,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkDecoder {
    /// A decoder before the first chunk.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: ChunkState::SizeStart, digits: 0, size: 0, line: 0, extensions: 0, trailers: 0, trailer_count: 0 }
    }

    /// Whether the body is complete, its trailer section included.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Takes the front of `input`, up to and with one run of body data or of trailers. Once the body is complete nothing
    /// more is consumed.
    ///
    /// # Errors
    /// The framing breaks a rule or a limit: 400 with [`Reason::Chunk`] or [`Reason::Size`].
    pub fn decode(&mut self, input: &[u8], limits: &ChunkLimits) -> Result<ChunkEvent, GuardError> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                ChunkState::Data => {
                    let room = input.len() - at;
                    let len = usize::try_from(self.size).map_or(room, |left| left.min(room));
                    self.size -= len as u64;
                    if self.size == 0 {
                        self.state = ChunkState::DataCr;
                    }
                    return Ok(ChunkEvent::Data { skip: at, len });
                }
                ChunkState::TrailerStart
                | ChunkState::TrailerName
                | ChunkState::TrailerValue
                | ChunkState::TrailerLf
                | ChunkState::EndLf
                | ChunkState::Done => return self.trailers(input, at, limits),
                ChunkState::SizeStart
                | ChunkState::Size
                | ChunkState::Extension
                | ChunkState::SizeLf
                | ChunkState::DataCr
                | ChunkState::DataLf => {
                    self.framing_byte(byte, limits)?;
                }
            }
            at += 1;
        }
        Ok(ChunkEvent::More)
    }

    fn framing_byte(&mut self, byte: u8, limits: &ChunkLimits) -> Result<(), GuardError> {
        self.state = match (self.state, byte) {
            (ChunkState::SizeStart | ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if self.digits == MAX_SIZE_DIGITS {
                    return Err(CHUNK);
                }
                self.digits += 1;
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => byte - b'A' + 10,
                };
                // 16 digits fill 64 bits; the 64th may not be used.
                self.size = (self.size << 4) | u64::from(digit);
                if i64::try_from(self.size).is_err() {
                    return Err(CHUNK);
                }
                ChunkState::Size
            }
            (ChunkState::Size, b'\r') | (ChunkState::Extension, b'\r') => ChunkState::SizeLf,
            (ChunkState::Size, b';') => {
                self.line = 0;
                self.extension_byte(limits)?;
                ChunkState::Extension
            }
            (ChunkState::Extension, _) if is_value_byte(byte) => {
                self.extension_byte(limits)?;
                ChunkState::Extension
            }
            (ChunkState::SizeLf, b'\n') => {
                self.digits = 0;
                if self.size == 0 { ChunkState::TrailerStart } else { ChunkState::Data }
            }
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::SizeStart,
            _ => return Err(CHUNK),
        };
        Ok(())
    }

    fn extension_byte(&mut self, limits: &ChunkLimits) -> Result<(), GuardError> {
        self.line += 1;
        self.extensions += 1;
        if self.line > limits.line || self.extensions > limits.extensions { Err(TOO_LARGE) } else { Ok(()) }
    }

    fn trailers(&mut self, input: &[u8], start: usize, limits: &ChunkLimits) -> Result<ChunkEvent, GuardError> {
        let mut at = start;
        while self.state != ChunkState::Done {
            let Some(&byte) = input.get(at) else {
                return Ok(ChunkEvent::Trailers { skip: start, len: at - start, end: false });
            };
            at += 1;
            self.trailers += 1;
            self.state = match (self.state, byte) {
                // The final empty line is not held against the limit: it is what ends the body.
                (ChunkState::TrailerStart, b'\r') => ChunkState::EndLf,
                (ChunkState::EndLf, b'\n') => ChunkState::Done,
                _ if self.trailers >= limits.trailers_total => return Err(TOO_LARGE),
                (ChunkState::TrailerStart, _) if is_token(&[byte]) => {
                    if self.trailer_count == limits.trailer_count {
                        return Err(TOO_LARGE);
                    }
                    self.trailer_count += 1;
                    ChunkState::TrailerName
                }
                (ChunkState::TrailerName, b':') => ChunkState::TrailerValue,
                (ChunkState::TrailerName, _) if is_token(&[byte]) => ChunkState::TrailerName,
                (ChunkState::TrailerValue, b'\r') => ChunkState::TrailerLf,
                (ChunkState::TrailerValue, _) if is_value_byte(byte) => ChunkState::TrailerValue,
                (ChunkState::TrailerLf, b'\n') => ChunkState::TrailerStart,
                _ => return Err(CHUNK),
            };
        }
        Ok(ChunkEvent::Trailers { skip: start, len: at - start, end: true })
    }
}

/// Parses a trailer section that [`ChunkDecoder`] has checked, its final empty line included; `None` when it has no field.
///
/// # Errors
/// What the `http` crate does not take.
pub fn parse_trailers(mut section: &[u8]) -> Result<Option<Box<HeaderMap>>, &'static str> {
    let mut trailers: Option<Box<HeaderMap>> = None;
    while let Some(end) = memchr::memchr(b'\n', section) {
        let line = section[..end].strip_suffix(b"\r").unwrap_or_default();
        section = &section[end + 1..];
        if line.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', line).ok_or("trailer line without a colon")?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| "trailer name is malformed")?;
        let value = HeaderValue::from_bytes(trim(&line[colon + 1..])).map_err(|_| "trailer value is malformed")?;
        trailers.get_or_insert_default().try_append(name, value).map_err(|_| "too many trailers")?;
    }
    Ok(trailers)
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { line: 32, extensions: 64, trailers_total: 64, trailer_count: 2 };

    /// Body, trailer section and consumed bytes of `input`, fed in pieces of `piece` bytes.
    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize, bool), GuardError> {
        let mut decoder = ChunkDecoder::new();
        let (mut body, mut trailers, mut consumed) = (Vec::new(), Vec::new(), 0);
        for part in input.chunks(piece) {
            let mut rest = part;
            while !rest.is_empty() && !decoder.is_done() {
                let taken = match decoder.decode(rest, &LIMITS)? {
                    ChunkEvent::More => rest.len(),
                    ChunkEvent::Data { skip, len } => {
                        body.extend_from_slice(&rest[skip..skip + len]);
                        skip + len
                    }
                    ChunkEvent::Trailers { skip, len, .. } => {
                        trailers.extend_from_slice(&rest[skip..skip + len]);
                        skip + len
                    }
                };
                rest = &rest[taken..];
                consumed += taken;
            }
        }
        Ok((body, trailers, consumed, decoder.is_done()))
    }

    #[test]
    fn accepts_strict_framing_in_every_split() {
        let long = format!("1;{}\r\nz\r\n0\r\n\r\n", "e".repeat(31));
        let table: [(&[u8], &[u8], &[u8]); 6] = [
            (b"0\r\n\r\n", b"", b"\r\n"),
            (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", b"\r\n"),
            (b"0000000000000005;a=\"x;\\\"y\"\t\xff\r\nhello\r\n0;e\r\n\r\n", b"hello", b"\r\n"),
            (b"1\r\nz\r\n0\r\nX-T: 1\r\n\r\n", b"z", b"X-T: 1\r\n\r\n"),
            (b"0\r\nX:GET /smug HTTP/1.1\r\nHost: e\r\n\r\n", b"", b"X:GET /smug HTTP/1.1\r\nHost: e\r\n\r\n"),
            (long.as_bytes(), b"z", b"\r\n"),
        ];
        for (input, body, trailers) in table {
            let surplus = [input, b"GET"].concat();
            for piece in 1..=surplus.len() {
                let found = decode(&surplus, piece).expect("valid");
                assert_eq!(found, (body.to_vec(), trailers.to_vec(), input.len(), true), "{input:?} by {piece}");
            }
        }
    }

    #[test]
    fn refuses_each_break_at_its_byte_in_every_split() {
        let table: [(&[u8], Reason); 25] = [
            (b"+", Reason::Chunk),
            (b"-", Reason::Chunk),
            (b" ", Reason::Chunk),
            (b"\r", Reason::Chunk),
            (b"5 ", Reason::Chunk),
            (b"5\t", Reason::Chunk),
            (b"0x", Reason::Chunk),
            (b"1_", Reason::Chunk),
            (b"5\n", Reason::Chunk),
            (b"5\rh", Reason::Chunk),
            (b"2\r\r", Reason::Chunk),
            (b"00000000000000000", Reason::Chunk),
            (b"8000000000000000", Reason::Chunk),
            (b"5;\n", Reason::Chunk),
            (b"5;a\rb", Reason::Chunk),
            (b"5;a\x7f", Reason::Chunk),
            (b"1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee", Reason::Size),
            (b"5\r\nhelloX", Reason::Chunk),
            (b"5\r\nhello\n", Reason::Chunk),
            (b"0\r\nX: y\n", Reason::Chunk),
            (b"0\r\n ", Reason::Chunk),
            (b"0\r\nX ", Reason::Chunk),
            (b"0\r\n:", Reason::Chunk),
            (b"0\r\nA:\r\nB:\r\nC", Reason::Size),
            (b"0\r\nA:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Reason::Size),
        ];
        for (input, reason) in table {
            for piece in 1..=input.len() {
                let error = decode(input, piece).expect_err("refused");
                assert_eq!((error.status, error.reason), (StatusCode::BAD_REQUEST, reason), "{input:?} by {piece}");
            }
            let before = &input[..input.len() - 1];
            assert!(decode(before, 1).is_ok_and(|found| !found.3), "{input:?} is refused before its last byte");
        }
    }

    #[test]
    fn sizes_reach_to_63_bits() {
        let mut decoder = ChunkDecoder::new();
        let event = decoder.decode(b"7fffffffffffffff\r\nab", &LIMITS).expect("the largest size");
        assert_eq!(event, ChunkEvent::Data { skip: 18, len: 2 });
        assert_eq!(decoder.decode(b"c", &LIMITS).expect("its data"), ChunkEvent::Data { skip: 0, len: 1 });
    }

    #[test]
    fn chunk_sizes_are_written_in_hex() {
        for (length, expected) in
            [(1, "1\r\n"), (15, "f\r\n"), (16, "10\r\n"), (0xabc, "abc\r\n"), (65536, "10000\r\n")]
        {
            let mut out = Vec::new();
            write_chunk_size(&mut out, length);
            assert_eq!(String::from_utf8(out).expect("ASCII"), expected);
        }
    }
}
