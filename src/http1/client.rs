//! Our side of one HTTP/1.1 connection to an endpoint (RFC 9112): sends requests, reads responses, trusts nothing.
//!
//! Knows bytes, not routes: it is handed an encoded request head and a body, and gives back a checked response head and
//! owned body chunks. Sending and receiving are polled together, so that an early response ends an upload instead of
//! waiting behind it. Buffers belong to the worker and are lent for the time of one poll; an idle connection is a bare
//! socket. Deadlines are the caller's; the connection only lends its one timer.

use std::cell::Cell;
use std::error::Error;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::framing::ChunkLimits;
use super::response::{self, BodyDecoder, Decoded, Framing, ParsedHead};

/// Spare room asked for before a read that waits for a response head.
const HEAD_READ: usize = 8 << 10;
/// Size of the shared read buffer; answers of 1 KiB use it up in some fifty reads before it is renewed.
const READ_BUFFER: usize = 64 << 10;
/// Bounds of the adapting size of body reads.
const BODY_READ: std::ops::RangeInclusive<usize> = (8 << 10)..=(128 << 10);
/// Body frames up to this size are copied behind the bytes already waiting, so that one send takes them all.
const COALESCE: usize = 8 << 10;
/// Nothing is coalesced any more once this much waits to be sent.
const SEND_BATCH: usize = 16 << 10;
/// A write buffer that grew beyond this is not kept.
const KEEP_WRITE_BUFFER: usize = 64 << 10;

/// Buffers of one worker, lent to whichever exchange is being polled; never borrowed across an `.await`.
#[derive(Default)]
pub struct Buffers {
    write: Cell<Vec<u8>>,
    read: Cell<BytesMut>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}

impl Buffers {
    /// Takes the empty write buffer; give it back with [`put_write`](Self::put_write).
    #[must_use]
    pub fn take_write(&self) -> Vec<u8> {
        self.write.take()
    }

    /// Gives a write buffer back for the next one.
    pub fn put_write(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEEP_WRITE_BUFFER {
            buffer.clear();
            self.write.set(buffer);
        }
    }
}

/// Bounds on what an endpoint may send (RS4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Bytes of one response head.
    pub head: usize,
    /// Interim responses before the final one.
    pub interim: u32,
    /// Chunked framing and trailers.
    pub chunks: ChunkLimits,
}

/// Why an exchange with an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Reading or writing failed.
    #[error("connection to the endpoint failed")]
    Io(#[source] io::Error),
    /// The endpoint closed the connection before a complete response head.
    #[error("endpoint closed the connection before a response head")]
    Closed,
    /// The response breaks a rule; the text says which.
    #[error("response is malformed: {0}")]
    Malformed(&'static str),
    /// A `101` that does not accept the handshake as RFC 6455 §4.2.2 asks.
    #[error("handshake is answered wrongly")]
    Handshake,
    /// The response ended before its announced end.
    #[error("response body ended too early")]
    Truncated,
    /// The client's request body failed, ended early or was longer than announced.
    #[error("request body failed")]
    RequestBody(#[source] Box<dyn Error + Send + Sync>),
}

/// How the request body is framed towards the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// No body.
    Empty,
    /// `content-length` with this many bytes to come.
    Length(u64),
    /// `transfer-encoding: chunked`, encoded anew.
    Chunked,
}

/// The announced length and the bytes that came differ.
#[derive(Debug, thiserror::Error)]
#[error("request body does not have its announced length")]
pub struct LengthMismatch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// `expect: 100-continue`: the body is not touched before the endpoint agrees.
    Waiting,
    /// Body frames are taken as they come.
    Streaming,
    /// Everything is in the buffers.
    Last,
    /// Every byte was written.
    Done,
}

/// A request on its way out: encoded head, body, and how far they got.
#[derive(Debug)]
pub struct Upload<B> {
    /// Head, chunk sizes and small body frames; `sent` bytes of it are written.
    out: Vec<u8>,
    sent: usize,
    /// Bytes of the head, at the front of `out` until something was written.
    head: usize,
    /// One large body frame behind `out`.
    chunk: Bytes,
    body: Option<B>,
    /// Of a length, what is still to come.
    framing: RequestFraming,
    state: SendState,
    /// A write failed; what the endpoint has to say is still read.
    failed: bool,
    /// A chunk's data was queued without its final CRLF.
    open_chunk: bool,
    written: u64,
    body_read: u64,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Queues an encoded head with the body behind it; `wait_for_continue` holds the body back until
    /// [`resume`](Self::resume).
    ///
    /// Without a body the framing must be [`RequestFraming::Empty`], and the other way round.
    pub fn new(head: Vec<u8>, framing: RequestFraming, body: Option<B>, wait_for_continue: bool) -> Self {
        debug_assert_eq!(framing == RequestFraming::Empty, body.is_none(), "framing and body must agree");
        let state = match body {
            None => SendState::Last,
            Some(_) if wait_for_continue => SendState::Waiting,
            Some(_) => SendState::Streaming,
        };
        Self {
            head: head.len(),
            out: head,
            sent: 0,
            chunk: Bytes::new(),
            body,
            framing,
            state,
            failed: false,
            open_chunk: false,
            written: 0,
            body_read: 0,
        }
    }

    /// Starts sending a body that was held back.
    pub fn resume(&mut self) {
        if self.state == SendState::Waiting {
            self.state = SendState::Streaming;
        }
    }

    /// The body still waits for the endpoint's `100`.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state == SendState::Waiting && !self.failed
    }

    /// The body is on its way: neither held back, nor done, nor given up.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        matches!(self.state, SendState::Streaming | SendState::Last) && !self.failed
    }

    /// How a head announces the body: a length is that of the whole, whatever was read of it.
    #[must_use]
    pub fn framing(&self) -> RequestFraming {
        match self.framing {
            RequestFraming::Length(left) => RequestFraming::Length(left + self.body_read),
            other => other,
        }
    }

    /// Head and body were written completely.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == SendState::Done
    }

    /// Bytes handed to the socket, head included.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Body bytes taken from the client.
    #[must_use]
    pub fn body_read(&self) -> u64 {
        self.body_read
    }

    /// Makes a failed upload ready for another connection, with a head that was encoded for it.
    ///
    /// What was read of the body can be sent once: either nothing was read, or nothing was written, and then what was
    /// read follows the new head.
    pub fn restart(&mut self, head: Vec<u8>, wait_for_continue: bool) {
        debug_assert!(self.body_read == 0 || self.written == 0, "a body that was sent is gone");
        let behind = std::mem::replace(&mut self.head, head.len());
        let old = std::mem::replace(&mut self.out, head);
        self.sent = 0;
        self.failed = false;
        if self.written == 0 {
            self.out.extend_from_slice(old.get(behind..).unwrap_or_default());
            return;
        }
        self.written = 0;
        self.chunk = Bytes::new();
        self.open_chunk = false;
        self.state = match (&self.body, self.framing) {
            (_, RequestFraming::Empty) | (None, _) => SendState::Last,
            (Some(_), _) if wait_for_continue => SendState::Waiting,
            (Some(_), _) => SendState::Streaming,
        };
    }

    /// Takes the unread rest of the body back, for a response that does not wait for it.
    pub fn take_body(&mut self) -> Option<B> {
        self.body.take()
    }

    /// Sends as much as the client and the endpoint allow. `Ready` when nothing is left to do, failed writes included.
    fn poll(
        &mut self,
        stream: &mut TcpStream,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ClientError>> {
        while !self.failed {
            self.fill(buffers, cx)?;
            if self.sent == self.out.len() && self.chunk.is_empty() {
                self.release(buffers);
                return match self.state {
                    SendState::Last => {
                        self.state = SendState::Done;
                        self.body = None;
                        Poll::Ready(Ok(()))
                    }
                    SendState::Done => Poll::Ready(Ok(())),
                    SendState::Waiting | SendState::Streaming => Poll::Pending,
                };
            }
            let waiting = &self.out[self.sent..];
            let result = if self.chunk.is_empty() {
                Pin::new(&mut *stream).poll_write(cx, waiting)
            } else {
                let slices = [IoSlice::new(waiting), IoSlice::new(&self.chunk)];
                Pin::new(&mut *stream).poll_write_vectored(cx, &slices)
            };
            match ready!(result) {
                Ok(n) if n > 0 => self.advance(n),
                // The endpoint takes no more; it may still have answered, so reading goes on.
                Ok(_) | Err(_) => self.failed = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes body frames while they are there and there is room.
    fn fill(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Result<(), ClientError> {
        while self.state == SendState::Streaming && self.chunk.is_empty() && self.out.len() - self.sent < SEND_BATCH {
            let Some(body) = self.body.as_mut() else {
                self.state = SendState::Last;
                break;
            };
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(err))) => return Err(ClientError::RequestBody(err.into())),
                Poll::Ready(None) => {
                    self.finish(buffers)?;
                    break;
                }
            };
            // Trailers end here: this leg never agreed to carry them (CH4).
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                self.push(data, buffers)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, data: Bytes, buffers: &Buffers) -> Result<(), ClientError> {
        self.body_read += data.len() as u64;
        if self.out.capacity() == 0 {
            self.out = buffers.take_write();
        }
        match &mut self.framing {
            RequestFraming::Length(remaining) => match remaining.checked_sub(data.len() as u64) {
                Some(left) => {
                    *remaining = left;
                    if left == 0 {
                        self.state = SendState::Last;
                    }
                }
                None => return Err(ClientError::RequestBody(LengthMismatch.into())),
            },
            RequestFraming::Chunked => {
                if self.open_chunk {
                    self.out.extend_from_slice(b"\r\n");
                }
                response::write_chunk_size(&mut self.out, data.len());
                self.open_chunk = true;
            }
            RequestFraming::Empty => return Err(ClientError::RequestBody(LengthMismatch.into())),
        }
        if data.len() <= COALESCE {
            self.out.extend_from_slice(&data);
        } else {
            self.chunk = data;
        }
        Ok(())
    }

    fn finish(&mut self, buffers: &Buffers) -> Result<(), ClientError> {
        match self.framing {
            RequestFraming::Length(0) | RequestFraming::Empty => {}
            RequestFraming::Length(_) => return Err(ClientError::RequestBody(LengthMismatch.into())),
            RequestFraming::Chunked => {
                if self.out.capacity() == 0 {
                    self.out = buffers.take_write();
                }
                let end: &[u8] = if self.open_chunk { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                self.out.extend_from_slice(end);
            }
        }
        self.state = SendState::Last;
        Ok(())
    }

    fn advance(&mut self, n: usize) {
        self.written += n as u64;
        let of_out = n.min(self.out.len() - self.sent);
        self.sent += of_out;
        let of_chunk = n - of_out;
        if of_chunk > 0 {
            bytes::Buf::advance(&mut self.chunk, of_chunk);
        }
    }

    /// Lends the flushed buffer to the next exchange.
    fn release(&mut self, buffers: &Buffers) {
        if self.out.capacity() > 0 {
            buffers.put_write(std::mem::take(&mut self.out));
            self.sent = 0;
        }
    }
}

/// What the caller knows about the request when it asks for the response head.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The method is HEAD: no body follows whatever the fields say.
    pub head_request: bool,
    /// The client said `te: trailers`: a `trailer` field is kept.
    pub trailers: bool,
    /// The request is a WebSocket handshake: `101` is an answer to it.
    pub websocket: bool,
}

/// A response head whose fields stand in the header map that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The final status: 101 for an accepted handshake, else 200 to 599.
    pub status: StatusCode,
    /// How long the body is, when that is known.
    pub length: Option<u64>,
}

/// One connection to an endpoint, with at most one exchange on it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
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
    timer: Option<Pin<Box<Sleep>>>,
    /// When the socket was put aside.
    idle_since: Option<Instant>,
    /// The task was registered to be woken by the socket's next byte, and nothing was awaited since.
    watched: bool,
}

impl Connection {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new(stream: TcpStream) -> Box<Self> {
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
            timer: None,
            idle_since: None,
            watched: false,
        })
    }

    /// Ends HTTP on the connection behind a `101`: the socket, and the bytes that came behind the head.
    #[must_use]
    pub fn into_tunnel(self) -> (TcpStream, Bytes) {
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

    /// The endpoint's address, for logs.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// When the connection became idle.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since
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

    /// The response ended where it should, nothing follows, and the endpoint keeps the connection (RS6).
    ///
    /// That the request was sent to its end as well is the caller's to know: [`Upload::is_done`].
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.keep_alive && self.decoder.is_finished() && self.buf.is_empty()
    }

    /// Whether an idle connection can carry another request: nothing to read and not closed (RS6).
    ///
    /// Free of system calls unless the reactor saw an event. A close that it has not seen yet slips through; the retry of
    /// stale connections is for that.
    pub fn poll_alive(&mut self, cx: &mut Context<'_>) -> bool {
        match self.stream.poll_read_ready(cx) {
            Poll::Pending => {
                self.watched = true;
                true
            }
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => {
                let mut byte = [0; 1];
                matches!(self.stream.try_read(&mut byte), Err(err) if err.kind() == io::ErrorKind::WouldBlock)
            }
        }
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
                        return Poll::Ready(Ok(ResponseHead { status, length: None }));
                    }
                    ParsedHead::Switching { websocket: false } => return Poll::Ready(Err(ClientError::Handshake)),
                    ParsedHead::Final { status, framing, keep_alive } => {
                        self.keep_alive = keep_alive;
                        self.decoder = BodyDecoder::new(framing, &limits.chunks);
                        self.settle()?;
                        let length = match framing {
                            Framing::None => Some(0),
                            Framing::Length(length) => Some(length),
                            Framing::Chunked | Framing::Close => None,
                        };
                        return Poll::Ready(Ok(ResponseHead { status, length }));
                    }
                }
            }
            // Just found silent by `poll_alive`, which left word with the reactor: the answer cannot be here yet, and if
            // it is, it wakes the task.
            if std::mem::take(&mut self.watched) {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(HEAD_READ, buffers, cx)) {
                Ok(0) => return Poll::Ready(Err(ClientError::Closed)),
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
        let before = upload.written;
        let result = upload.poll(&mut self.stream, buffers, cx);
        if self.track_activity && upload.written != before {
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
    /// visibly and the connection not be used again (RS7).
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
        poll_timer(&mut self.timer, deadline, cx)
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

/// Waits for `deadline` on a timer that may be armed for another time already.
///
/// A later deadline than the armed one costs nothing until the timer fires; an earlier one moves it.
pub fn poll_timer(timer: &mut Option<Pin<Box<Sleep>>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
    if deadline < sleep.deadline() {
        sleep.as_mut().reset(deadline);
    }
    loop {
        ready!(sleep.as_mut().poll(cx));
        if deadline <= sleep.deadline() || deadline <= Instant::now() {
            // Re-armed far ahead, so that a timer that stays with its connection is never left elapsed.
            sleep.as_mut().reset(deadline + PARKED);
            return Poll::Ready(());
        }
        sleep.as_mut().reset(deadline);
    }
}

/// How far ahead an elapsed timer is parked.
const PARKED: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
