//! HTTP/2 with prior knowledge: hyper's server with bounded windows and buffers; h2 checks frames and field syntax.
//!
//! What a connection holds is bounded by its streams, 4 MiB for 100 of them, and not by what its client has sent: one byte
//! of a compressed head can stand for a field of kilobytes, and a request of 16 bytes for a stream with its buffers, so that
//! a connection may hold a hundred times the bytes of its client and more. What bounds all connections together is the
//! limit of their number and the [shortage of memory](crate::proxy::pressure), in which streams that nobody takes go first.

mod fields;
mod frames;
mod io;
mod judge;
mod websocket;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use tokio::time::Instant;

use self::io::{JudgedIo, send_go_away};
use self::judge::{FrameJudge, Refused};
use self::websocket::Opening;
use super::answer::{Begin, FutureMemory, answer, bind, refuse};
use super::context::{HttpVersion, RunningExchange, Shared};
use super::{ConnectionEnd, Driver};
use crate::drain::Phase;
use crate::proxy::cutoff::{Cutoff, Patience, run_stream};
use crate::proxy::downstream::{AnswerForm, Handler, OwnAnswer};
use crate::proxy::head::facts_of_http2;
use crate::proxy::received_body::{BoxError, ReceivedBody};
use crate::proxy::room::WorkerRoom;
use crate::reason::Reason;
use crate::telemetry::access_log::RequestLine;
use crate::telemetry::metrics::{Side, WorkerMetrics};
use crate::timer::earlier;

/// Flow control windows: 32 streams can be full and unread before the connection's is. h2 also ends a connection whose small
/// frames that nobody reads cost more than half of the connection's window; each costs 256 bytes less what it carries. That is
/// enough for one full stream in frames of 16 bytes.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A sidecar has the memory of a small pod, and its clients are few.
const CONNECTION_WINDOW_OF_SIDECAR: u32 = 2 << 20;
/// With 100 streams these stay below 4 MiB a connection.
const SEND_BUFFER: usize = 32 << 10;
/// Streams reset for the client's errors, and reset by the client before they were handed out.
const LOCAL_RESETS: usize = 64;
const PENDING_RESETS: usize = 20;

/// How long the client of a connection that makes room for another may take to acknowledge the GOAWAY: a round trip.
const FAREWELL: Duration = Duration::from_millis(250);

/// Runs the tasks of a connection's streams on its own thread.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    /// Where panics of streams are counted.
    pub(super) metrics: Arc<WorkerMetrics>,
    /// How long a stream may wait for its client.
    pub(super) patience: Patience,
    /// Says how short memory is.
    pub(super) room: Rc<WorkerRoom>,
    /// Set when a stream has ended because its client did not take the response.
    pub(super) has_stalled: Rc<Cell<bool>>,
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let (metrics, has_stalled) = (Arc::clone(&self.metrics), Rc::clone(&self.has_stalled));
        let (patience, room) = (self.patience, Rc::clone(&self.room));
        tokio::task::spawn_local(async move {
            let end = run_stream(future, patience, room, metrics).await;
            if matches!(end, Some(Reason::WriteStall | Reason::Overload)) {
                has_stalled.set(true);
            }
        });
    }
}

impl<H: Handler> Driver<H> {
    pub(super) async fn run_http2(&mut self) -> ConnectionEnd {
        let shared = Rc::clone(&self.shared);
        let spare = FutureMemory::new();
        let service = service_fn(move |request: Request<Incoming>| {
            let exchange = RunningExchange::begin(&shared, HttpVersion::Http2);
            let spare = Rc::clone(&spare);
            async move { Ok::<_, Infallible>(answer_http2(exchange, request, H::handle, spare).await) }
        });
        let context = &self.shared.context;
        let (stall, window) = (context.deadlines.write_stall, context.deadlines.body_rate_window);
        let patience = Patience { stall, window, rate: context.body_rate };
        let has_stalled = Rc::new(Cell::new(false));
        let metrics = Arc::clone(&context.metrics);
        let room = Rc::clone(context.drain.room());
        let executor = StreamExecutor { metrics, patience, room, has_stalled: Rc::clone(&has_stalled) };
        let is_sidecar = context.mode.get().is_sidecar();
        let window = if is_sidecar { CONNECTION_WINDOW_OF_SIDECAR } else { CONNECTION_WINDOW };
        let mut builder = hyper::server::conn::http2::Builder::new(executor);
        builder
            .max_concurrent_streams(context.http2_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .max_header_list_size(u32::try_from(context.guard.limits.head.fields_total).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .max_local_error_reset_streams(LOCAL_RESETS)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            // WebSockets (RFC 8441 §3).
            .enable_connect_protocol();
        let judge = Rc::new(RefCell::new(FrameJudge::new(context.http2_streams)));
        let io = JudgedIo::new(Rc::clone(&self.guard), Rc::clone(&judge));
        let mut connection = pin!(builder.serve_connection(io, service));
        poll_fn(|cx| {
            loop {
                if self.leaving.is_none() && self.shared.context.drain.phase() > Phase::Serving {
                    self.leaves(self.shared.context.deadlines.linger);
                    connection.as_mut().graceful_shutdown();
                }
                let end = self.poll_protocol(cx, connection.as_mut(), http2_error);
                self.count_refused(judge.borrow_mut().take_refused());
                if let Some(abuse) = judge.borrow().abuse() {
                    self.note_refusal(abuse.reason(), abuse.as_str());
                    send_go_away(&self.guard, &judge.borrow(), abuse.code(), cx);
                    return Poll::Ready(ConnectionEnd::Refused(abuse.reason()));
                }
                if self.shared.context.drain.phase() >= Phase::Closing {
                    self.shared.closing.notify_waiters();
                }
                if let Poll::Ready(end) = end {
                    if let ConnectionEnd::Refused(reason) = end {
                        self.note_refusal(reason, "what came is no HTTP/2, or more than there may be");
                    }
                    let is_gone = end == ConnectionEnd::Dropped && self.guard.borrow().has_ended();
                    return Poll::Ready(if is_gone { ConnectionEnd::Closed(Reason::ClientGone) } else { end });
                }
                let stalled = has_stalled.take() && self.shared.exchanges.get() == 0;
                let patience = match () {
                    () if self.leaving.is_some() => None,
                    // Only streams that their client did not take were left; they were counted.
                    () if stalled => Some(FAREWELL),
                    () if self.makes_room(cx) => {
                        self.shared.context.metrics.closed(Side::Downstream, Reason::MadeRoom);
                        Some(FAREWELL)
                    }
                    () => None,
                };
                if let Some(patience) = patience {
                    self.leaves(patience);
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                let head = self.shared.context.deadlines.head;
                let block = judge.borrow().block_since().filter(|_| !head.is_zero());
                let block = block.map(|since| (since + head, Reason::Head));
                let deadline = earlier(self.deadline(), block);
                match self.poll_deadline(cx, deadline) {
                    None => return Poll::Pending,
                    Some(Reason::Head) => {
                        self.note_refusal(Reason::Head, "a head was not complete in time");
                        send_go_away(&self.guard, &judge.borrow(), judge::ENHANCE_YOUR_CALM, cx);
                        return Poll::Ready(ConnectionEnd::Refused(Reason::Head));
                    }
                    Some(Reason::Idle) if self.leaving.is_none() => {
                        self.shared.context.metrics.closed(Side::Downstream, Reason::Idle);
                        self.leaves(self.shared.context.deadlines.linger);
                        connection.as_mut().graceful_shutdown();
                    }
                    Some(reason) => return Poll::Ready(ConnectionEnd::Closed(reason)),
                }
            }
        })
        .await
    }

    /// The client is told to go from now on, and may take so long.
    fn leaves(&mut self, patience: Duration) {
        self.leaving = Some((Instant::now(), patience));
    }

    /// Counts what h2 refused without asking anyone.
    fn count_refused(&self, refused: Refused) {
        if refused == Refused::default() {
            return;
        }
        let context = &self.shared.context;
        let counts =
            [(refused.malformed, Reason::Frame), (refused.streams, Reason::Streams), (refused.too_large, Reason::Size)];
        for (count, reason) in counts {
            (0..count).for_each(|_| context.metrics.refused(reason));
        }
        let log = |count: u32, status: StatusCode, reason: Reason| {
            let answer = OwnAnswer { status, reason, close: false };
            (0..count).for_each(|_| context.handler.log_unhandled(&self.shared.downstream, None, answer));
        };
        log(refused.malformed, StatusCode::BAD_REQUEST, Reason::Frame);
        log(refused.streams, StatusCode::SERVICE_UNAVAILABLE, Reason::Streams);
        log(refused.too_large, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::Size);
        (0..refused.too_large).for_each(|_| context.metrics.own_answer(Reason::Size));
    }

    /// Logs that the client is sent away: in the access log, and from time to time in the other one, for it is a sign of
    /// an attack.
    fn note_refusal(&self, reason: Reason, what: &'static str) {
        let Shared { context, downstream, .. } = &*self.shared;
        let answer = OwnAnswer { status: StatusCode::BAD_REQUEST, reason, close: true };
        context.handler.log_unhandled(downstream, None, answer);
        let peer = downstream.peer;
        if let Some(held_back) = context.log_limit.admit(&peer.ip(), Instant::now()) {
            let held_back = (held_back > 0).then_some(held_back);
            let listener = &*context.listener_name;
            tracing::warn!(%peer, listener, %reason, held_back, "a client of HTTP/2 was sent away: {what}");
        }
    }
}

/// What an error of hyper means for the connection. For one that h2 found it has sent a GOAWAY, which the client is to read.
fn http2_error(error: &hyper::Error) -> ConnectionEnd {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match source.filter(|error| error.is_go_away() && error.is_library()).and_then(h2::Error::reason) {
        Some(h2::Reason::ENHANCE_YOUR_CALM) => ConnectionEnd::Refused(Reason::Flood),
        Some(_) => ConnectionEnd::Refused(Reason::Frame),
        None => ConnectionEnd::Dropped,
    }
}

/// Answers one HTTP/2 request.
async fn answer_http2<H, F>(
    exchange: RunningExchange<H>,
    mut request: Request<Incoming>,
    begin: impl Begin<H, F>,
    spare: Rc<FutureMemory<F>>,
) -> Response<impl Body<Data = bytes::Bytes, Error = BoxError>>
where
    H: Handler,
    F: Future<Output = Response<H::Body>>,
{
    // Few requests are: whatever one of them needs stands on the heap.
    let opening = (*request.method() == Method::CONNECT).then(|| Opening::new(&mut request));
    let facts = facts_of_http2(request.headers(), !request.body().is_end_stream());
    let too_large = if fields_are_too_many(&exchange, request.headers()) {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        is_too_large(&exchange, &request).then_some(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let response = if let Some(status) = too_large {
        let (line, form) = (RequestLine::of(&request), AnswerForm::of(request.method(), request.headers()));
        refuse(&exchange, Some(line), OwnAnswer { status, reason: Reason::Size, close: false }, form)
    } else {
        let slot = opening.as_deref().map(Opening::slot);
        let request = request.map(ReceivedBody::Http2);
        let mut answering = answer(&exchange, request, facts, None, slot, begin, &spare);
        poll_fn(|cx| answering.poll(cx, &exchange)).await
    };
    let response = match opening {
        None => response,
        Some(opening) => opening.finish(response, &exchange),
    };
    if let Some(stream) = Cutoff::of_stream() {
        stream.answered();
    }
    bind(response, exchange).map(PacedBody::new)
}

/// A response body that notes when the client takes it: hyper holds one part back until the windows let some of it pass, and
/// asks for the next one then.
struct PacedBody<B> {
    body: B,
    stream: Option<Rc<Cutoff>>,
    /// What is handed over before the body is asked again. The last byte of all goes by itself, so that hyper keeps the
    /// stream until the windows let all bytes before it pass; a stream that it has let go of can no longer be reset.
    rest: bytes::Bytes,
}

/// The most bytes that are handed over at once where the silence of an exchange is limited: less than that in so long a time
/// counts as silence.
const PACE: usize = 4 << 10;

impl<B: Body<Data = bytes::Bytes>> PacedBody<B> {
    fn new(body: B) -> Self {
        Self { body, stream: Cutoff::of_stream(), rest: bytes::Bytes::new() }
    }

    /// What goes now of `data`; the rest is kept.
    fn next_part(&mut self, mut data: bytes::Bytes) -> bytes::Bytes {
        let is_limited = self.stream.as_ref().is_some_and(|stream| stream.client_moved().is_some());
        let most = if is_limited { PACE } else { usize::MAX };
        let mut part = data.len().min(most);
        if part == data.len() && part > 1 && self.body.is_end_stream() {
            part -= 1;
        }
        self.rest = data.split_off(part);
        data
    }
}

impl<B: Body<Data = bytes::Bytes> + Unpin> Body for PacedBody<B> {
    type Data = bytes::Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, B::Error>>> {
        let this = &mut *self;
        if let Some(stream) = &this.stream {
            stream.taken();
        }
        let frame = if this.rest.is_empty() {
            ready!(Pin::new(&mut this.body).poll_frame(cx))
        } else {
            Some(Ok(Frame::data(std::mem::take(&mut this.rest))))
        };
        let frame = frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => Frame::data(this.next_part(data)),
                Err(other) => other,
            })
        });
        if let (Some(Ok(_)), Some(stream)) = (&frame, &this.stream) {
            stream.wait_for_taking();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Whether the fields are above the limits of an HTTP/1 head: their number, in which each part of a cookie counts, or the
/// size of one. A table of the compression makes many of few bytes (RFC 7541 §7.1). h2 itself bounds their sum.
fn fields_are_too_many<H>(exchange: &RunningExchange<H>, fields: &HeaderMap) -> bool {
    let limits = &exchange.shared.context.guard.limits.head;
    fields.len() > limits.field_count
        || fields.iter().any(|(name, value)| name.as_str().len() + ": ".len() + value.len() > limits.field)
}

/// Whether the announced body is above the limit.
fn is_too_large<H>(exchange: &RunningExchange<H>, request: &Request<Incoming>) -> bool {
    let Some(limit) = exchange.shared.context.guard.limits.body else { return false };
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length > limit)
}
