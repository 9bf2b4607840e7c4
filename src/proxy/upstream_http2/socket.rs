//! The socket under a connection to an HTTP/2 endpoint: knows when the endpoint was last heard, and asks it whether it is
//! still there.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use crate::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A PING frame (RFC 9113 §6.7) with a payload of our own, and the answer to it.
const PING: [u8; 17] = *b"\0\0\x08\x06\0\0\0\0\0tidegate";
const PING_ACK: [u8; 17] = *b"\0\0\x08\x06\x01\0\0\0\0tidegate";

/// The flags of a DATA frame that ends its side of the stream, and of one with padding.
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;

/// HEADERS frames that may come on one stream: ten interim heads, the final one, and trailers; one more is for h2 to judge.
const HEADS_PER_STREAM: u32 = 13;

/// What the holder of a connection and its socket tell each other.
#[derive(Debug)]
pub(super) struct Traffic {
    /// When bytes last came from the endpoint, and how often some came.
    heard: Cell<Instant>,
    reads: Cell<u64>,
    /// A PING is to be sent as soon as the present frame is out.
    ping: Cell<bool>,
    /// The endpoint is given up: reads and writes fail from now on.
    dead: Cell<bool>,
    /// Wakes what reads.
    reader: RefCell<Option<Waker>>,
}

impl Traffic {
    pub(super) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            heard: Cell::new(now),
            reads: Cell::new(0),
            ping: Cell::new(false),
            dead: Cell::new(false),
            reader: RefCell::default(),
        })
    }

    /// When bytes last came from the endpoint.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// How often bytes came: equal numbers mean silence in between.
    pub(super) fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Asks the endpoint for a sign of life.
    pub(super) fn ping(&self) {
        self.ping.set(true);
        self.wake();
    }

    /// Breaks the connection off.
    pub(super) fn kill(&self) {
        self.dead.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.reader.borrow_mut().take() {
            waker.wake();
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.dead.get() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Follows the frames of one direction (RFC 9113 §4.1).
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of the present frame's payload still to come.
    payload: usize,
    /// The frame header as far as it came.
    header: [u8; 9],
    have: usize,
    /// A HEADERS frame whose block goes on in CONTINUATION frames: nothing may come in between.
    open_block: bool,
    /// HEADERS frames that began since somebody looked.
    heads: u32,
}

impl Frames {
    /// Behind `preface` bytes that are no frames.
    fn behind(preface: usize) -> Self {
        Self { payload: preface, ..Self::default() }
    }

    /// A frame may begin here, and a whole one of any kind may be put in.
    fn is_between(&self) -> bool {
        self.payload == 0 && self.have == 0 && !self.open_block
    }

    /// Takes bytes up to the end of the present frame; returns how many.
    fn step(&mut self, data: &[u8]) -> usize {
        let mut taken = 0;
        if self.payload == 0 {
            taken = data.len().min(self.header.len() - self.have);
            self.header[self.have..self.have + taken].copy_from_slice(&data[..taken]);
            self.have += taken;
            if self.have < self.header.len() {
                return taken;
            }
            let [a, b, c, kind, flags, ..] = self.header;
            self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.heads += u32::from(kind == 1);
            // HEADERS and CONTINUATION without END_HEADERS.
            self.open_block = matches!(kind, 1 | 9) && flags & 4 == 0;
            self.have = 0;
        }
        let of_payload = self.payload.min(data.len() - taken);
        self.payload -= of_payload;
        taken + of_payload
    }

    fn advance(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            data = &data[self.step(data)..];
        }
    }
}

/// The length of what begins `data` and says nothing to h2: the answer to a PING of ours, which it knows nothing of, or a
/// DATA frame without data that ends nothing. Of those, some endpoints send one in each response, and h2 ends a connection
/// with the 101st; it still counts those whose header comes in parts.
fn idle_frame(data: &[u8]) -> Option<usize> {
    match data {
        [0, 0, 0, 0, flags, _, _, _, _, ..] if flags & (END_STREAM | PADDED) == 0 => Some(9),
        _ => data.starts_with(&PING_ACK).then_some(PING_ACK.len()),
    }
}

/// Takes frames that say nothing out of `data`; returns the number of bytes left.
fn strip_idle_frames(frames: &mut Frames, data: &mut [u8]) -> usize {
    let (mut at, mut end) = (0, data.len());
    while at < end {
        if frames.is_between()
            && let Some(length) = idle_frame(&data[at..end])
        {
            data.copy_within(at + length..end, at);
            end -= length;
        } else {
            at += frames.step(&data[at..end]);
        }
    }
    end
}

/// A socket as h2 reads and writes it.
pub(super) struct Http2Socket {
    stream: Stream,
    traffic: Rc<Traffic>,
    sent: Frames,
    received: Frames,
    /// What is left of a PING of ours.
    ping: &'static [u8],
    /// HEADERS frames that may still come. No more than those of all streams that can be open, so that streams that are long
    /// done allow none.
    heads_allowed: u32,
    most_heads: u32,
}

impl Http2Socket {
    /// Over `stream`, where at most `most_streams` are open at a time.
    pub(super) fn new(stream: Stream, traffic: Rc<Traffic>, most_streams: usize) -> Self {
        // The preface of RFC 9113 §3.4 goes before the first frame.
        let most_heads = u32::try_from(most_streams).unwrap_or(u32::MAX).saturating_mul(HEADS_PER_STREAM);
        let (sent, received) = (Frames::behind(24), Frames::default());
        Self { stream, traffic, sent, received, ping: &[], heads_allowed: 0, most_heads }
    }

    /// Fails when the endpoint sends more heads than its streams can have: h2 keeps all that came, until the exchange that
    /// waits for them comes to count them.
    fn check_heads(&mut self) -> io::Result<()> {
        let opened = std::mem::take(&mut self.sent.heads).saturating_mul(HEADS_PER_STREAM);
        let allowed = self.heads_allowed.saturating_add(opened).min(self.most_heads);
        let left = allowed.checked_sub(std::mem::take(&mut self.received.heads));
        self.heads_allowed = left.ok_or(io::ErrorKind::InvalidData)?;
        Ok(())
    }

    /// Sends a PING that is due, or the rest of one: nothing may be written before it is out.
    fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ping.is_empty() && self.traffic.ping.get() && self.sent.is_between() {
            self.traffic.ping.set(false);
            self.ping = &PING;
        }
        while !self.ping.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, self.ping))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ping = &self.ping[n..];
            // TLS may hold it back. Where it cannot go out now, it goes with the next flush.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Http2Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.traffic.check()?;
        let mut reader = this.traffic.reader.borrow_mut();
        if reader.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        drop(reader);
        if let Poll::Ready(Err(err)) = this.poll_ping(cx) {
            return Poll::Ready(Err(err));
        }
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            if read > 0 {
                this.traffic.heard.set(Instant::now());
                this.traffic.reads.set(this.traffic.reads.get() + 1);
            }
            let left = strip_idle_frames(&mut this.received, &mut buf.filled_mut()[before..]);
            buf.set_filled(before + left);
            this.check_heads()?;
            if left > 0 || read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Http2Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.traffic.check()?;
        ready!(this.poll_ping(cx))?;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, data))?;
        this.sent.advance(&data[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.traffic.check()?;
        ready!(this.poll_ping(cx))?;
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, slices))?;
        let mut left = written;
        for slice in slices {
            let of_slice = left.min(slice.len());
            this.sent.advance(&slice[..of_slice]);
            left -= of_slice;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_ping_goes_between_frames_and_into_no_field_block() {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, b""),
            frame(1, 0, b"abc"),
            frame(9, 0, b"de"),
            frame(9, 4, b"f"),
            frame(0, 1, b"data"),
        ]
        .concat();
        let ends = [24, 33, 24 + 9 + 12 + 11 + 10, bytes.len()];
        let mut frames = Frames::behind(24);
        for at in 1..=bytes.len() {
            frames.advance(&bytes[at - 1..at]);
            assert_eq!(frames.is_between(), ends.contains(&at), "behind {at} bytes");
        }
        let mut whole = Frames::behind(24);
        whole.advance(&bytes);
        assert!(whole.is_between());
    }

    #[test]
    fn answers_to_our_pings_go_no_further() {
        let other = frame(6, 1, b"tidegat!");
        let data = frame(0, 0, &PING_ACK);
        let mut bytes = [&PING_ACK[..], &data, &PING_ACK, &other, &PING_ACK].concat();
        let mut frames = Frames::default();
        let left = strip_idle_frames(&mut frames, &mut bytes);
        assert_eq!(bytes[..left], [data, other].concat());
        assert!(frames.is_between());
        let mut alone = PING_ACK;
        assert_eq!(strip_idle_frames(&mut Frames::default(), &mut alone), 0);
    }

    #[test]
    fn frames_without_data_go_no_further_unless_they_end_a_stream() {
        let (empty, end, data) = (frame(0, 0, b""), frame(0, 1, b""), frame(0, 0, &frame(0, 0, b"")));
        // Padding takes room in windows.
        let padded = frame(0, 8, b"\0");
        let mut bytes = [&empty, &data, &empty, &padded, &empty, &end].map(Vec::as_slice).concat();
        let left = strip_idle_frames(&mut Frames::default(), &mut bytes);
        assert_eq!(bytes[..left], [data, padded, end].concat());
    }

    #[test]
    fn heads_are_counted_in_any_split() {
        let bytes = [frame(1, 4, b"abc"), frame(0, 0, b"\0\0\0\x01\0\0"), frame(1, 0, b""), frame(9, 4, b"x")].concat();
        for size in 1..=bytes.len() {
            let mut frames = Frames::default();
            bytes.chunks(size).for_each(|piece| frames.advance(piece));
            assert_eq!(frames.heads, 2, "in pieces of {size}");
        }
    }
}
