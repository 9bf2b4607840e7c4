//! Finds the frames of HTTP/2 in one direction of a connection by their headers (RFC 9113 §4.1).
//!
//! Pure: bytes in, frames out, however the bytes were split. Nothing is judged and no payload is kept but its first bytes.

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 9;
/// Bytes of a payload that are kept: the error code of RST_STREAM and GOAWAY, the length of a padding.
const KEPT: usize = 8;

/// The flag of DATA and HEADERS that ends a side of a stream.
const END_STREAM: u8 = 0x1;
/// The flag of SETTINGS and PING that makes it an answer.
const ACK: u8 = 0x1;
/// The flag of HEADERS and CONTINUATION behind which no more of the block follows.
const END_HEADERS: u8 = 0x4;
/// The flag of DATA and HEADERS that says that there is padding.
const PADDED: u8 = 0x8;
/// The flag of HEADERS that says that there is a priority, and the bytes of one.
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: u8 = 5;

/// The type of a frame (RFC 9113 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Any other; receivers ignore it (RFC 9113 §5.5).
    Unknown,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }
}

/// The header of a frame, and the first bytes of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    flags: u8,
    pub(super) stream: u32,
    /// Bytes of the payload.
    pub(super) length: u32,
    /// The first bytes of the payload; zeroes behind its end.
    kept: [u8; KEPT],
}

impl Frame {
    fn of(head: &[u8; HEADER + KEPT]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3, kept @ ..] = *head;
        Self {
            kind: Kind::of(kind),
            flags,
            // The highest bit is reserved (RFC 9113 §4.1).
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            length: u32::from_be_bytes([0, a, b, c]),
            kept,
        }
    }

    /// Whether a DATA or HEADERS frame ends its side of the stream.
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & END_STREAM != 0
    }

    /// Whether a SETTINGS or PING frame answers one of the other side.
    pub(super) fn is_ack(&self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & ACK != 0
    }

    /// Whether a HEADERS or CONTINUATION frame is the last one of its block of fields; `None` for other frames.
    pub(super) fn ends_block(&self) -> Option<bool> {
        matches!(self.kind, Kind::Headers | Kind::Continuation).then_some(self.flags & END_HEADERS != 0)
    }

    /// The part of a block of fields in a HEADERS or CONTINUATION frame: what of it is among the first bytes of the payload,
    /// and how many bytes of it follow those.
    pub(super) fn block(&self) -> (&[u8], u32) {
        let [padding, ..] = self.kept;
        let (before, behind) = match (self.kind, self.flags & PADDED != 0) {
            (Kind::Headers, is_padded) => {
                let priority = if self.flags & PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
                (u8::from(is_padded) + priority, if is_padded { padding } else { 0 })
            }
            (Kind::Continuation, _) => (0, 0),
            _ => return (&[], 0),
        };
        let end = self.length.saturating_sub(u32::from(behind)) as usize;
        let kept = self.kept.get(usize::from(before)..end.min(KEPT)).unwrap_or_default();
        let follow = end.saturating_sub(KEPT.max(usize::from(before)));
        (kept, u32::try_from(follow).unwrap_or(u32::MAX))
    }

    /// Whether it is a DATA frame that carries nothing, takes no room in a window and ends nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.kind == Kind::Data && self.length == 0 && self.flags & (END_STREAM | PADDED) == 0
    }

    /// Bytes of data in a DATA frame, without the padding.
    pub(super) fn data_length(&self) -> u32 {
        let [padding, ..] = self.kept;
        if self.flags & PADDED == 0 { self.length } else { self.length.saturating_sub(1 + u32::from(padding)) }
    }

    /// The error code of a RST_STREAM frame (RFC 9113 §7).
    pub(super) fn reset_code(&self) -> u32 {
        let [a, b, c, d, ..] = self.kept;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Whether a HEADERS frame is a whole response of a status that is not in the static table, and of no field. Such is the
    /// 431 of h2 itself, for a head that is too large; hyper never sends a head without a date.
    pub(super) fn is_bare_status(&self) -> bool {
        const ENDS: u8 = END_STREAM | END_HEADERS;
        if self.kind != Kind::Headers || self.flags & ENDS != ENDS {
            return false;
        }
        // The first time it is a literal in Huffman's code that goes into the table (RFC 7541 §6.2.1), later an entry of
        // that (RFC 7541 §6.1).
        match self.kept {
            [0x48, 0x83, ..] => self.length == 5,
            [index, ..] => self.length == 1 && index > 0x80 + 61,
        }
    }
}

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameReader {
    head: [u8; HEADER + KEPT],
    have: usize,
    /// Bytes of the payload behind those that are kept, once the frame was given out.
    left: usize,
}

impl FrameReader {
    /// Goes on at `bytes`. How many of them belong to the frame, and the frame as soon as its first bytes are there; each
    /// frame is given once.
    pub(super) fn read(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let skipped = self.left.min(bytes.len());
        self.left -= skipped;
        let mut taken = skipped;
        for byte in bytes.get(skipped..).unwrap_or_default() {
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            taken += 1;
            if let Some(frame) = self.complete() {
                return (taken, Some(frame));
            }
        }
        (taken, None)
    }

    fn complete(&mut self) -> Option<Frame> {
        if self.have < HEADER {
            return None;
        }
        let [a, b, c, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let kept = length.min(KEPT);
        if self.have < HEADER + kept {
            return None;
        }
        let frame = Frame::of(&self.head);
        *self = Self { left: length - kept, ..Self::default() };
        Some(frame)
    }

    /// The bytes that are left of the frame that was given out last.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether the frame that was given out last goes on.
    pub(super) fn is_inside(&self) -> bool {
        self.left > 0
    }

    /// Whether the next byte begins a frame.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_split() {
        let bytes = [
            frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
            frame(0, 9, 0x8000_0001, &[[4].as_slice(), &[7; 300]].concat()),
            frame(4, 1, 0, &[]),
            frame(3, 0, 5, &[0, 0, 0, 8]),
            frame(0x10, 0, 0, b"u=1"),
        ]
        .concat();
        for size in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for part in bytes.chunks(size) {
                let mut part = part;
                while !part.is_empty() {
                    let (taken, frame) = reader.read(part);
                    found.extend(frame);
                    part = &part[taken..];
                }
            }
            let seen: Vec<_> = found.iter().map(|frame| (frame.kind, frame.stream, frame.length)).collect();
            let expected = [
                (Kind::Settings, 0, 6),
                (Kind::Data, 1, 301),
                (Kind::Settings, 0, 0),
                (Kind::Reset, 5, 4),
                (Kind::Unknown, 0, 3),
            ];
            assert_eq!(seen, expected, "in parts of {size}");
            assert_eq!((found[1].data_length(), found[1].ends_stream()), (296, true));
            assert_eq!((found[0].is_ack(), found[2].is_ack(), found[3].reset_code()), (false, true, 8));
            assert!(reader.is_between_frames());
        }
    }

    #[test]
    fn a_cut_frame_is_not_between_frames() {
        let bytes = frame(0, 0, 1, &[0; 20]);
        for end in 1..bytes.len() {
            let mut reader = FrameReader::default();
            let mut part = &bytes[..end];
            while !part.is_empty() {
                let (taken, _) = reader.read(part);
                part = &part[taken..];
            }
            assert!(!reader.is_between_frames(), "{end} bytes");
        }
    }

    #[test]
    fn blocks_of_fields_are_found_beside_padding_and_priority() {
        let payload = b"\x03abcdefghijklxyz";
        let cases: [(u8, u8, &[u8], &[u8], u32); 10] = [
            (1, 0x4, payload, b"\x03abcdefg", 8),
            (1, 0x8, payload, b"abcdefg", 5),
            (1, 0x20, payload, b"efg", 8),
            (1, 0x28, payload, b"fg", 5),
            (9, 0x2c, payload, b"\x03abcdefg", 8),
            (0, 0x8, payload, b"", 0),
            (1, 0x0, b"ab", b"ab", 0),
            (1, 0x8, b"\x01abc", b"ab", 0),
            // Padding and priority that the frame has no room for.
            (1, 0x8, b"\x09abc", b"", 0),
            (1, 0x28, b"\x01abc", b"", 0),
        ];
        for (kind, flags, payload, here, follow) in cases {
            let (_, found) = FrameReader::default().read(&frame(kind, flags, 1, payload));
            assert_eq!(found.expect("whole").block(), (here, follow), "{kind} {flags:#x} {payload:?}");
        }
    }

    #[test]
    fn padding_is_no_data() {
        for (flags, payload, data) in
            [(0, &[][..], 0), (0, &[9], 1), (8, &[0], 0), (8, &[3, 1, 0, 0, 0], 1), (8, &[255], 0), (8, &[], 0)]
        {
            let (_, frame) = FrameReader::default().read(&super::tests::frame(0, flags, 1, payload));
            assert_eq!(frame.expect("whole").data_length(), data, "{flags} {payload:?}");
        }
    }

    #[test]
    fn an_answer_of_h2_itself_is_known() {
        let literal = &[0x48, 0x83, 0x68, 0x9f, 0x0f][..];
        for (flags, payload, is_bare) in [
            (5, literal, true),
            (5, &[0xbe], true),
            (4, literal, false),
            // 200 is in the static table.
            (5, &[0x88], false),
            (5, &[0xbe, 0xbf], false),
            (5, &[0x48, 0x83, 0x68, 0x9f, 0x0f, 0xbe], false),
        ] {
            let (_, frame) = FrameReader::default().read(&super::tests::frame(1, flags, 1, payload));
            assert_eq!(frame.expect("whole").is_bare_status(), is_bare, "{payload:?}");
        }
    }
}
