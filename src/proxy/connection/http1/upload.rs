//! The body of a request on its way from the connection to whoever reads it.

use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;

use crate::http1::framing::{ChunkDecoder, ChunkEvent, ChunkLimits, parse_trailers};
use crate::http1::guard::{Framing, GuardError};
use crate::proxy::guarded_io::GuardedSocket;
use crate::proxy::received_body::{BodyFeed, Http1Body, body};
use crate::reason::Reason;

/// A body that is under way.
pub(super) struct Upload {
    feed: BodyFeed,
    framing: BodyFraming,
    /// Trailers so far.
    trailers: Vec<u8>,
    limits: ChunkLimits,
}

enum BodyFraming {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(ChunkDecoder),
}

/// What has become of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It goes on when its reader takes what there is, or when more comes.
    Waits,
    /// Its reader, in the connection's own task, has something to read.
    Moved,
    /// It is complete; whether its reader, in the connection's own task, has something to read.
    Whole(bool),
    /// Nothing comes of it any more, though it is not complete: it was refused, or nobody reads it.
    Cut(bool),
}

/// The guard has read a body that cannot be read.
const CHUNK: GuardError = GuardError::new(StatusCode::BAD_REQUEST, Reason::Chunk);

impl Upload {
    /// The body behind a head, if one follows it, and its reader's end.
    pub(super) fn begin(framing: Framing, limits: ChunkLimits, cx: &Context<'_>) -> Option<(Self, Http1Body)> {
        let (length, framing) = match framing {
            Framing::None | Framing::Length(0) => return None,
            Framing::Length(length) => (Some(length), BodyFraming::Length(length)),
            Framing::Chunked => (None, BodyFraming::Chunked(ChunkDecoder::new())),
        };
        let (feed, body) = body(length, cx);
        Some((Self { feed, framing, trailers: Vec::new(), limits }, body))
    }

    /// Whether the reader waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.feed.is_wanted()
    }

    /// Hands on what is here, and reads on where the reader waits.
    pub(super) fn poll(&mut self, guard: &mut GuardedSocket, cx: &mut Context<'_>) -> Progress {
        let mut is_reader_here = false;
        loop {
            if self.feed.is_abandoned() {
                return self.drop_what_is_here(guard);
            }
            let polled = if self.feed.has_room() { guard.poll_body(cx, self.feed.is_wanted()) } else { Poll::Pending };
            let bytes = match polled {
                Poll::Pending if is_reader_here => return Progress::Moved,
                Poll::Pending => return Progress::Waits,
                Poll::Ready(Ok(bytes)) => bytes,
                Poll::Ready(Err(error)) => return Progress::Cut(self.feed.refuse(error, cx)),
            };
            let (frame, part) = match self.next(bytes) {
                Ok(next) => next,
                Err(error) => return Progress::Cut(self.feed.refuse(error, cx)),
            };
            guard.take(part.consumed);
            match frame {
                Some(frame) => is_reader_here = self.feed.put(frame, part.is_last, cx),
                None if part.is_last => is_reader_here = self.feed.end(cx),
                None => {}
            }
            if part.is_last {
                return Progress::Whole(is_reader_here);
            }
        }
    }

    /// The next frame in `bytes`, if there is one, and what it takes of them.
    fn next(&mut self, bytes: &[u8]) -> Result<(Option<Frame<Bytes>>, Part), GuardError> {
        let part = self.framing.next(bytes, &self.limits, &mut self.trailers)?;
        let data = bytes.get(part.data.clone()).unwrap_or_default();
        let frame = if !data.is_empty() {
            Some(Frame::data(Bytes::copy_from_slice(data)))
        } else if part.is_last {
            parse_trailers(&self.trailers).map_err(|_| CHUNK)?.map(|trailers| Frame::trailers(*trailers))
        } else {
            None
        };
        Ok((frame, part))
    }

    /// Nobody reads the body: it is no obstacle for the next request if the rest of it is here.
    fn drop_what_is_here(&mut self, guard: &mut GuardedSocket) -> Progress {
        loop {
            match self.framing.next(guard.accepted(), &self.limits, &mut self.trailers) {
                Ok(Part { consumed: 0, .. }) | Err(_) => return Progress::Cut(false),
                Ok(part) => {
                    guard.take(part.consumed);
                    if part.is_last {
                        return Progress::Whole(false);
                    }
                }
            }
        }
    }
}

/// A part of a body in its framing.
struct Part {
    /// Bytes with their framing.
    consumed: usize,
    /// Where the data stand among them.
    data: Range<usize>,
    /// The body ends with them.
    is_last: bool,
}

impl BodyFraming {
    /// Takes the front of `bytes`: one run of data, and the end of the body if that follows at once. Lines of trailers are
    /// put into `trailers`, and come by themselves.
    fn next(&mut self, bytes: &[u8], limits: &ChunkLimits, trailers: &mut Vec<u8>) -> Result<Part, GuardError> {
        match self {
            Self::Length(left) => {
                let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= length as u64;
                Ok(Part { consumed: length, data: 0..length, is_last: *left == 0 })
            }
            Self::Chunked(decoder) => {
                let (mut at, mut data) = (0, 0..0);
                while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !decoder.is_done()) {
                    let mut behind = *decoder;
                    match behind.decode(rest, limits)? {
                        ChunkEvent::More => at = bytes.len(),
                        ChunkEvent::Data { skip, len } if data.is_empty() => {
                            data = at + skip..at + skip + len;
                            at = data.end;
                        }
                        ChunkEvent::Data { .. } => break,
                        ChunkEvent::Trailers { skip, len, end } => {
                            let is_plain_end = end && len == b"\r\n".len() && trailers.is_empty();
                            if !data.is_empty() && !is_plain_end {
                                break;
                            }
                            trailers.extend_from_slice(rest.get(skip..skip + len).unwrap_or_default());
                            at += skip + len;
                        }
                    }
                    *decoder = behind;
                }
                Ok(Part { consumed: at, data, is_last: decoder.is_done() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { line: 64, extensions: 64, trailers_total: 256, trailer_count: 4 };

    /// All of a body that comes in pieces of `size` bytes: the parts of its data, its trailers, and what is left over.
    fn read(mut framing: BodyFraming, bytes: &[u8], size: usize) -> (Vec<String>, String, String) {
        let (mut parts, mut trailers, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        let mut pieces = bytes.chunks(size);
        loop {
            let part = framing.next(&buffer, &LIMITS, &mut trailers).expect("a valid body");
            if !part.data.is_empty() {
                parts.push(String::from_utf8(buffer[part.data].to_vec()).expect("text"));
            }
            buffer.drain(..part.consumed);
            if part.is_last {
                buffer.extend(pieces.flatten());
                let text = |bytes| String::from_utf8(bytes).expect("text");
                return (parts, text(trailers), text(buffer));
            }
            if part.consumed == 0 {
                buffer.extend_from_slice(pieces.next().expect("the body is whole"));
            }
        }
    }

    #[test]
    fn a_body_is_read_to_its_end_and_no_further() {
        let chunked = || BodyFraming::Chunked(ChunkDecoder::new());
        let plain = b"5\r\nhello\r\n3;x\r\n wo\r\n0\r\n\r\nGET / HTTP/1.1";
        let with_trailers = b"5\r\nhello\r\n0\r\na: b\r\n\r\nrest";
        for size in 1..plain.len() {
            let (parts, trailers, rest) = read(BodyFraming::Length(5), b"helloGET", size);
            assert_eq!((parts.concat().as_str(), &*trailers, &*rest), ("hello", "", "GET"));
            let (parts, trailers, rest) = read(chunked(), plain, size);
            assert_eq!((parts.concat().as_str(), &*trailers, &*rest), ("hello wo", "\r\n", "GET / HTTP/1.1"));
            let (parts, trailers, rest) = read(chunked(), with_trailers, size);
            assert_eq!((parts.concat().as_str(), &*trailers, &*rest), ("hello", "a: b\r\n\r\n", "rest"));
        }
    }

    #[test]
    fn the_last_data_come_with_the_end_where_both_are_here() {
        let mut trailers = Vec::new();
        let mut framing = BodyFraming::Chunked(ChunkDecoder::new());
        let part = framing.next(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", &LIMITS, &mut trailers).expect("valid");
        assert!(!part.is_last && part.data == (3..4), "one run at a time");
        assert_eq!(part.consumed, 4);
        let rest = b"\r\n1\r\nb\r\n0\r\n\r\nnext";
        let part = framing.next(rest, &LIMITS, &mut trailers).expect("valid");
        assert!(part.is_last && part.data == (5..6) && &rest[part.consumed..] == b"next");
        let mut framing = BodyFraming::Chunked(ChunkDecoder::new());
        let part = framing.next(b"1\r\na\r\n0\r\nx: y\r\n\r\n", &LIMITS, &mut trailers).expect("valid");
        assert!(!part.is_last, "trailers are a frame of their own");
    }
}
