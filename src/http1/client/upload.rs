//! The way out: an encoded request head and the body behind it.

use std::error::Error;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::buffers::Buffers;
use super::error::ClientError;
use crate::http1::framing::write_chunk_size;
use crate::stream::Stream;

/// Body frames up to this size are copied behind the bytes already waiting, so that one send takes them all.
const COALESCE: usize = 8 << 10;
/// Nothing is coalesced any more once this much waits to be sent.
const SEND_BATCH: usize = 16 << 10;

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
    /// Head, chunk sizes and small body frames; `sent` bytes of it are written. It holds two batches and a frame at most.
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
    /// TLS holds back something that the endpoint does not take yet.
    unflushed: bool,
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
            unflushed: false,
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

    /// Bytes wait for the endpoint to take them.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        !self.failed && (self.sent < self.out.len() || !self.chunk.is_empty() || self.unflushed)
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
        self.unflushed = false;
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
        let body = self.body.take();
        body.filter(|_| !self.is_done())
    }

    /// The body, also after it was sent.
    #[must_use]
    pub fn body(&self) -> Option<&B> {
        self.body.as_ref()
    }

    /// The body, also after it was sent.
    pub fn body_mut(&mut self) -> Option<&mut B> {
        self.body.as_mut()
    }

    /// Gives the body back, also after it was sent.
    #[must_use]
    pub fn into_body(self) -> Option<B> {
        self.body
    }

    /// Sends as much as the client and the endpoint allow. `Ready` when nothing is left to do, failed writes included.
    pub(super) fn poll(
        &mut self,
        stream: &mut Stream,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ClientError>> {
        while !self.failed {
            self.fill(buffers, cx)?;
            if self.sent == self.out.len() && self.chunk.is_empty() {
                if stream.holds_back() {
                    let flushed = Pin::new(&mut *stream).poll_flush(cx);
                    self.unflushed = flushed.is_pending();
                    if ready!(flushed).is_err() {
                        self.failed = true;
                        continue;
                    }
                }
                self.release(buffers);
                return match self.state {
                    SendState::Last => {
                        self.state = SendState::Done;
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
        // What was written goes, for a body that always has a frame ready never lets the buffer run dry.
        if self.sent >= SEND_BATCH {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
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
            // Trailers end here: nothing was agreed with the endpoint about them (RFC 9110 §6.5.1).
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
                write_chunk_size(&mut self.out, data.len());
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

    /// How many bytes are held, those of one large frame aside.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.out.len()
    }

    /// Lends the flushed buffer to the next exchange.
    fn release(&mut self, buffers: &Buffers) {
        if self.out.capacity() > 0 {
            buffers.put_write(std::mem::take(&mut self.out));
            self.sent = 0;
        }
    }
}
