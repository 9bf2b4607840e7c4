//! HTTP/2 with prior knowledge to endpoints: one shared connection per endpoint and worker, driven by hyper's client.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_body::ClientBody;
use super::connect::ConnectError;
use super::headers;
use crate::stream::Stream;

/// Sends requests on a shared connection.
pub type Sender = SendRequest<RequestBody>;

/// Windows as on the server side: a stalled stream cannot hold the whole connection's window.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes buffered for sending per stream.
const SEND_BUFFER: usize = 32 << 10;
/// Response head, as the limit of HTTP/1.
const HEADER_LIST: u32 = 32 << 10;
/// One read of the shared connection takes at most this much.
const READ_BUFFER: usize = 64 << 10;

/// Runs hyper's connection tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        // Owned by hyper's connection: these tasks end with it.
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// The state of an endpoint's HTTP/2 connection.
#[derive(Default)]
pub struct Http2Slot {
    sender: Option<Sender>,
    last_used: Option<Instant>,
    waiters: Vec<oneshot::Sender<Result<Sender, ConnectError>>>,
}

impl std::fmt::Debug for Http2Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Slot")
            .field("connected", &self.sender.is_some())
            .field("waiters", &self.waiters.len())
            .finish_non_exhaustive()
    }
}

impl Http2Slot {
    /// The connection, unless there is none or it takes no more requests (GOAWAY, closed).
    pub fn sender(&mut self, now: Instant) -> Option<Sender> {
        if self.sender.as_ref().is_some_and(|sender| sender.is_closed() || !sender.is_ready()) {
            self.sender = None;
        }
        self.last_used = Some(now);
        self.sender.clone()
    }

    /// Waits for the connection; true for the first, who has to make it.
    pub fn wait(&mut self) -> (oneshot::Receiver<Result<Sender, ConnectError>>, bool) {
        let first = self.waiters.is_empty();
        let (sender, receiver) = oneshot::channel();
        self.waiters.push(sender);
        (receiver, first)
    }

    /// Tells everybody who waits how it went.
    pub fn resolve(&mut self, result: Result<Sender, ConnectError>) {
        for waiter in self.waiters.drain(..) {
            let copy = match &result {
                Ok(sender) => Ok(sender.clone()),
                Err(ConnectError::TimedOut) => Err(ConnectError::TimedOut),
                Err(ConnectError::Failed(err)) => Err(ConnectError::Failed(io::Error::from(err.kind()))),
            };
            // Those that were cancelled meanwhile do not listen any more.
            let _ = waiter.send(copy);
        }
        self.sender = result.ok();
    }

    /// Gives up a connection that was not used for `idle`; running streams keep it until they end. True when it did.
    pub fn sweep(&mut self, now: Instant, idle: Duration) -> bool {
        let closed = self.sender.as_ref().is_some_and(SendRequest::is_closed);
        let overdue = !idle.is_zero() && self.last_used.is_some_and(|used| now.saturating_duration_since(used) >= idle);
        (closed || overdue) && self.sender.take().is_some()
    }

    /// Neither connected nor connecting.
    pub fn is_empty(&self) -> bool {
        self.sender.is_none() && self.waiters.is_empty()
    }
}

/// Begins HTTP/2 on a connected socket.
///
/// # Errors
/// When the preface cannot be written, or not in time.
pub async fn handshake(stream: Stream, timeout: Duration) -> Result<Sender, ConnectError> {
    let mut builder = Builder::new(LocalExecutor);
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST);
    let handshake = builder.handshake(Io { stream, buffer: vec![0; READ_BUFFER].into_boxed_slice() });
    let result = if timeout.is_zero() {
        handshake.await
    } else {
        tokio::time::timeout(timeout, handshake).await.map_err(|_| ConnectError::TimedOut)?
    };
    let (sender, connection) = result.map_err(|err| ConnectError::Failed(io::Error::other(err)))?;
    // Owned by the senders: the connection ends when the last one and the last stream are gone, or the endpoint closes.
    tokio::task::spawn_local(async move {
        if let Err(err) = connection.await {
            tracing::debug!(error = %err, "HTTP/2 connection to an endpoint ended");
        }
    });
    Ok(sender)
}

/// A socket as hyper's io. Reads go through a buffer, since filling hyper's own needs `unsafe`.
struct Io {
    stream: Stream,
    buffer: Box<[u8]>,
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = cursor.remaining().min(this.buffer.len());
        let mut read = tokio::io::ReadBuf::new(&mut this.buffer[..room]);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
        cursor.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
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

/// What the exchange knows of a body that hyper's connection task sends.
#[derive(Default)]
pub struct RequestProgress {
    /// Body bytes read from the client.
    pub bytes: Cell<u64>,
    /// When the last of them was read.
    pub last: Cell<Option<Instant>>,
    /// When the body ended.
    pub done: Cell<Option<Instant>>,
    /// What the body failed with.
    pub failed: Cell<Option<Box<dyn std::error::Error + Send + Sync>>>,
}

impl std::fmt::Debug for RequestProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestProgress").field("bytes", &self.bytes.get()).finish_non_exhaustive()
    }
}

/// The client's request body on its way to an HTTP/2 endpoint.
#[derive(Debug)]
pub struct RequestBody {
    body: Option<ClientBody>,
    progress: Rc<RequestProgress>,
    trailers: bool,
}

/// The client's body failed; what it failed with is in [`RequestProgress::failed`].
#[derive(Debug, thiserror::Error)]
#[error("request body failed")]
pub struct BodyFailed;

impl RequestBody {
    /// Wraps a body; trailers go on only when the client announced them.
    #[must_use]
    pub fn new(body: Option<ClientBody>, progress: Rc<RequestProgress>, trailers: bool) -> Self {
        Self { body, progress, trailers }
    }

    /// Gives the client's body back.
    #[must_use]
    pub fn into_inner(self) -> Option<ClientBody> {
        self.body
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        loop {
            let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(err)) => {
                    self.body = None;
                    self.progress.failed.set(Some(err));
                    return Poll::Ready(Some(Err(BodyFailed)));
                }
                None => {
                    self.body = None;
                    self.progress.done.set(Some(Instant::now()));
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    self.progress.bytes.set(self.progress.bytes.get() + data.len() as u64);
                    self.progress.last.set(Some(Instant::now()));
                    if self.body.as_ref().is_some_and(Body::is_end_stream) {
                        self.progress.done.set(Some(Instant::now()));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    let Ok(mut trailers) = frame.into_trailers() else { continue };
                    headers::clean_trailers(&mut trailers);
                    if self.trailers && !trailers.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
