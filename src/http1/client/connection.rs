//! One connection to an endpoint and the exchange on it.

use std::error::Error;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::buffers::Buffers;
use super::error::ClientError;
use super::upload::Upload;
use crate::http1::framing::ChunkLimits;
use crate::http1::response::{self, BodyDecoder, Decoded, Expected, ParsedHead, ResponseFraming};
use crate::stream::{Liveness, Stream};
use crate::timer::Timer;

/// Spare room asked for before a read that waits for a response head.
const HEAD_READ: usize = 8 << 10;
/// Size of the shared read buffer; answers of 1 KiB use it up in some fifty reads before it is renewed.
const READ_BUFFER: usize = 64 << 10;
/// Bounds of the adapting size of body reads.
const BODY_READ: std::ops::RangeInclusive<usize> = (8 << 10)..=(128 << 10);

/// A connection is not used any more this long before the endpoint closes it, or for half of a shorter limit.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// Bounds on what an endpoint may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Bytes of one response head.
    pub head: usize,
    /// Interim responses before the final one.
    pub interim: u32,
    /// Chunked framing and trailers.
    pub chunks: ChunkLimits,
}

/// A response head whose fields stand in the header map that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The final status: 101 for an accepted handshake, else 200 to 599.
    pub status: StatusCode,
    /// How long the body is, when that is known.
    pub length: Option<u64>,
    /// The reason phrase, only for a status that has no registered one.
    pub reason: Option<Bytes>,
}

/// One connection to an endpoint, with at most one exchange on it.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: Stream,
    /// Bytes read and not yet consumed; without allocation while idle.
    buf: BytesMut,
    decoder: BodyDecoder,
    /// The endpoint lets the connection be used again.
    keep_alive: bool,
    interim: u32,
    interim_dropped: u32,
    read_size: usize,
    /// Bytes read in this exchange, head and framing included.
    read_bytes: u64,
    exchanges: u64,
    /// Time of the last byte in either direction, kept only on request.
    activity: Option<Instant>,
    track_activity: bool,
    /// Armed at the first wait and left armed between exchanges: re-arming costs more than a rare early wake-up.
    timer: Timer,
    /// How long the endpoint keeps it open when it is idle, as far as it said.
    idle_limit: Option<Duration>,
    /// The last response had no content by its kind: an endpoint that sends some all the same sends it as the answer to
    /// the next request.
    is_unsure: bool,
    /// When the socket was put aside.
    idle_since: Option<Instant>,
    /// The task was registered to be woken by the socket's next byte, and nothing was awaited since.
    watched: bool,
}

impl Connection {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new(stream: Stream) -> Box<Self> {
        Box::new(Self {
            stream,
            buf: BytesMut::new(),
            decoder: BodyDecoder::default(),
            keep_alive: false,
            interim: 0,
            interim_dropped: 0,
            read_size: 2 * BODY_READ.start(),
            read_bytes: 0,
            exchanges: 0,
            activity: None,
            track_activity: false,
            timer: Timer::default(),
            idle_limit: None,
            is_unsure: false,
            idle_since: None,
            watched: false,
        })
    }

    /// Ends HTTP on the connection behind a `101`: the socket, and the bytes that came behind the head.
    #[must_use]
    pub fn into_tunnel(self) -> (Stream, Bytes) {
        (self.stream, self.buf.freeze())
    }

    /// Begins an exchange: forgets what is left of the previous one.
    pub fn begin(&mut self, track_activity: bool) {
        debug_assert!(self.buf.is_empty(), "surplus bytes must not survive an exchange");
        self.decoder = BodyDecoder::default();
        self.keep_alive = false;
        self.interim = 0;
        self.interim_dropped = 0;
        self.read_bytes = 0;
        self.exchanges += 1;
        self.track_activity = track_activity;
        self.activity = None;
    }

    /// An exchange before the present one used this connection.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.exchanges > 1
    }

    /// A byte of a response was read in this exchange.
    #[must_use]
    pub fn has_received(&self) -> bool {
        self.read_bytes > 0
    }

    /// Interim responses of this exchange that went no further: all but `100`.
    #[must_use]
    pub fn interim_dropped(&self) -> u32 {
        self.interim_dropped
    }

    /// Bytes read in this exchange, head and framing included.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Time of the last byte in either direction, when tracked and one came.
    #[must_use]
    pub fn activity(&self) -> Option<Instant> {
        self.activity
    }

    /// When the connection became idle.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// How long it may be idle before the endpoint may close it, with a margin for the way; `None`: it did not say.
    #[must_use]
    pub fn idle_limit(&self) -> Option<Duration> {
        self.idle_limit.map(|limit| limit - IDLE_MARGIN.min(limit / 2))
    }

    /// Marks the connection as idle since `now`, or as in use.
    pub fn set_idle(&mut self, now: Option<Instant>) {
        self.idle_since = now;
    }

    /// The response was read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.decoder.is_finished()
    }

    /// The response ended where it should, nothing follows, and the endpoint keeps the connection open (RFC 9112 §9.3).
    ///
    /// That the request was sent to its end as well is the caller's to know: [`Upload::is_done`].
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.decoder.is_finished() && self.buf.is_empty()
    }

    /// The response ended where it should, and bytes follow it that no request has asked for.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.decoder.is_finished() && !self.buf.is_empty()
    }

    /// Whether an idle connection can carry another request: open and silent, as far as [`Stream::poll_liveness`] can tell.
    ///
    /// Behind a response that had no content by its kind, the socket itself is asked: surplus bytes that came at this
    /// moment must not answer the next request.
    pub fn poll_liveness(&mut self, cx: &mut Context<'_>) -> Liveness {
        let liveness = self.stream.poll_liveness(cx);
        self.watched |= liveness == Liveness::Watched;
        if self.is_unsure && liveness.is_alive() {
            let asked = self.stream.liveness();
            return if asked.is_alive() { liveness } else { asked };
        }
        liveness
    }

    /// Sends the request and waits for the final response head, at the same time.
    ///
    /// On success `headers` holds the response's end-to-end fields (what it held before is gone); otherwise it is
    /// unchanged unless the head was malformed.
    ///
    /// # Errors
    /// Every variant of [`ClientError`] but `Truncated`. The connection must not be used again then.
    pub fn poll_head<B>(
        &mut self,
        upload: &mut Upload<B>,
        headers: &mut HeaderMap,
        expected: Expected,
        limits: &ResponseLimits,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ClientError>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        loop {
            self.poll_upload(upload, buffers, cx)?;
            if !self.buf.is_empty()
                && let Some(length) = response::head_length(&self.buf, limits.head).map_err(ClientError::Malformed)?
            {
                let head = response::take(&mut self.buf, length);
                let parsed = response::parse_head(&head, headers, expected).map_err(ClientError::Malformed)?;
                match parsed {
                    ParsedHead::Interim(status) => {
                        self.interim += 1;
                        if self.interim > limits.interim {
                            return Poll::Ready(Err(ClientError::Malformed("too many interim responses")));
                        }
                        if status == StatusCode::CONTINUE {
                            upload.resume();
                        } else {
                            self.interim_dropped += 1;
                        }
                        continue;
                    }
                    ParsedHead::Switching { websocket: true } => {
                        let status = StatusCode::SWITCHING_PROTOCOLS;
                        return Poll::Ready(Ok(ResponseHead { status, length: None, reason: None }));
                    }
                    ParsedHead::Switching { websocket: false } => return Poll::Ready(Err(ClientError::Handshake)),
                    ParsedHead::Final { status, framing, keep_alive, idle_limit, reason } => {
                        self.keep_alive = keep_alive;
                        self.idle_limit = idle_limit.or(self.idle_limit);
                        self.is_unsure = framing == ResponseFraming::None;
                        self.decoder = BodyDecoder::new(framing, &limits.chunks);
                        self.settle()?;
                        let length = match framing {
                            ResponseFraming::None => Some(0),
                            ResponseFraming::Length(length) => Some(length),
                            ResponseFraming::Chunked | ResponseFraming::Close => None,
                        };
                        return Poll::Ready(Ok(ResponseHead { status, length, reason }));
                    }
                }
            }
            // Just found silent by `poll_liveness`, which left word with the reactor: the answer cannot be here yet, and if
            // it is, it wakes the task.
            if std::mem::take(&mut self.watched) {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(HEAD_READ, buffers, cx)) {
                Ok(0) if self.buf.is_empty() => return Poll::Ready(Err(ClientError::Closed)),
                Ok(0) => return Poll::Ready(Err(ClientError::Malformed("the connection ended within the head"))),
                Ok(_) => {}
                Err(err) => return Poll::Ready(Err(ClientError::Io(err))),
            }
        }
    }

    /// Goes on sending while the response is already under way.
    ///
    /// # Errors
    /// [`ClientError::RequestBody`] when the client's body fails; failed writes are no error here.
    pub fn poll_upload<B>(
        &mut self,
        upload: &mut Upload<B>,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Result<(), ClientError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if upload.is_done() {
            return Ok(());
        }
        let before = upload.written();
        let result = upload.poll(&mut self.stream, buffers, cx);
        if self.track_activity && upload.written() != before {
            self.activity = Some(Instant::now());
        }
        match result {
            Poll::Ready(Err(err)) => Err(err),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Gives the next frame of the response body: data, or trailers at last; `None` at its clean end.
    ///
    /// # Errors
    /// [`ClientError::Truncated`], [`ClientError::Malformed`], [`ClientError::Io`]. The response must then be cut
    /// visibly and the connection not be used again.
    pub fn poll_frame(
        &mut self,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        loop {
            match self.decoder.decode(&mut self.buf) {
                Err(what) => return Poll::Ready(Some(Err(ClientError::Malformed(what)))),
                Ok(Decoded::Data(data)) => {
                    if let Err(err) = self.settle() {
                        // The data is fine; what follows is not. The error comes with the next poll.
                        debug_assert!(matches!(err, ClientError::Malformed(_)));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(*trailers)))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
            }
            let size = self.decoder.read_size(self.read_size);
            match ready!(self.poll_fill(size, buffers, cx)) {
                Ok(0) if self.decoder.finish_at_eof() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(ClientError::Truncated))),
                Ok(n) => self.adapt(n),
                Err(err) => return Poll::Ready(Some(Err(ClientError::Io(err)))),
            }
        }
    }

    /// The body bytes still to come, when that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// The rest of the body when all of it is already here and it has no trailers: saves the caller a stream.
    pub fn take_buffered_body(&mut self) -> Option<Bytes> {
        let remaining = self.decoder.remaining()?;
        let length = usize::try_from(remaining).ok().filter(|&length| length > 0 && length <= self.buf.len())?;
        let data = response::take(&mut self.buf, length);
        self.decoder.consume_all();
        Some(data)
    }

    /// Waits for `deadline` on the connection's one timer.
    pub fn poll_deadline(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.poll_until(cx, deadline)
    }

    /// Consumes framing that is already in the buffer, so that the end of a body is known with its last data.
    fn settle(&mut self) -> Result<(), ClientError> {
        self.decoder.settle(&mut self.buf).map_err(ClientError::Malformed)
    }

    /// Doubles the read size while reads come back full, and shrinks it when they are nearly empty.
    fn adapt(&mut self, n: usize) {
        if n >= self.read_size {
            self.read_size = (self.read_size * 2).min(*BODY_READ.end());
        } else if n < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(*BODY_READ.start());
        }
    }

    /// Reads once into the worker's buffer and keeps what came; nothing is held while nothing comes.
    ///
    /// `poll_read` and not `try_read`: only the former clears the readiness after a short read, which saves the failing
    /// read that would otherwise follow each response.
    fn poll_fill(&mut self, room: usize, buffers: &Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let result = if self.buf.is_empty() {
            let mut read = buffers.read.take();
            if read.capacity() == 0 {
                read.reserve(READ_BUFFER);
            }
            read.reserve(room);
            let result = std::pin::pin!(self.stream.read_buf(&mut read)).poll(cx);
            if let Poll::Ready(Ok(_)) = result {
                self.buf = read.split();
            }
            buffers.read.set(read);
            result
        } else {
            self.buf.reserve(room);
            std::pin::pin!(self.stream.read_buf(&mut self.buf)).poll(cx)
        };
        if let Poll::Ready(Ok(n @ 1..)) = result {
            self.read_bytes += n as u64;
            if self.track_activity {
                self.activity = Some(Instant::now());
            }
        }
        result
    }
}
