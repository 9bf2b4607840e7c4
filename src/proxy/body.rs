//! Bodies of responses on their way to the client: streamed with backpressure, cut visibly when they cannot be
//! completed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::account::Account;
use super::client_body::ClientBody;
use super::deadlines::{DeadlineKind, ExchangeDeadlines};
use super::error::ProxyError;
use super::headers;
use super::upstream::Pooled;
use super::upstream_http2::{Lease, RequestProgress, ResponseBody, is_malformed};
use crate::balance::EndpointState;
use crate::filter::{BodyStage, BodyStream, FlightBody};
use crate::http1::client::{ClientError, Upload};
use crate::reason::Reason;
use crate::telemetry::metrics::{Side, Where, WorkerMetrics};
use crate::timer::Timer;

/// Why a response was cut after its head went out.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The HTTP/1 endpoint broke off or sent nonsense.
    #[error("response could not be completed")]
    Http1(#[source] ClientError),
    /// The client's body failed while the response was under way.
    #[error("response was cut with its request")]
    Upload(#[source] Box<ProxyError>),
    /// The HTTP/2 stream of the endpoint failed. It is no source of this error: hyper would find it, and reset the stream of
    /// the client with the code of the endpoint, which may be NO_ERROR, or one that blames the client.
    #[error("response could not be completed: {0}")]
    Http2(h2::Error),
    /// A stage of a filter, or the body inside it, failed.
    #[error("response could not be completed")]
    Staged(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A deadline passed.
    #[error("deadline {} passed within the response", .0.reason())]
    Deadline(DeadlineKind),
    /// The call that requests share broke off.
    #[error("the call that requests share was cut: {0}")]
    Flight(Reason),
    /// Working on it panicked.
    #[error("panic within the response")]
    Panic,
}

impl BodyError {
    /// The reason in log, metric and header.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Http1(error) => reason_of_cut(error),
            Self::Upload(error) => error.reason(),
            Self::Http2(error) if is_malformed(error) => Reason::BadResponse,
            Self::Http2(_) => Reason::Reset,
            Self::Staged(error) => error.downcast_ref::<Self>().map_or(Reason::Reset, Self::reason),
            Self::Deadline(kind) => kind.reason(),
            Self::Flight(reason) => *reason,
            Self::Panic => Reason::Panic,
        }
    }
}

/// The body of every response that the proxy gives.
#[derive(Debug)]
pub struct ForwardBody {
    content: Content,
    /// Entered when the body is done or dropped; after the connection, which closes first.
    account: Option<Account>,
}

/// Where a body comes from.
#[derive(Debug)]
pub(super) enum Content {
    /// Nothing (more) to send.
    Empty,
    /// One piece that is already here.
    Full(Bytes),
    /// From an HTTP/1 connection.
    Http1(Box<Http1Body>),
    /// From an HTTP/2 stream.
    Http2(Box<Http2Body>),
    /// From a call that requests share.
    Flight(Box<FlightContent>),
    /// Through stages of filters; the body inside has the account.
    Staged(Staged),
    /// Cut; the error comes with the next poll.
    Cut(Box<BodyError>),
}

impl Content {
    /// One piece that is already here.
    pub(super) fn full(data: Bytes) -> Self {
        if data.is_empty() { Self::Empty } else { Self::Full(data) }
    }

    /// What is known of its length.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(data) => SizeHint::with_exact(data.len() as u64),
            Self::Http1(body) => body.connection.remaining().map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Http2(body) => body.body.size_hint(),
            Self::Flight(content) => content.body.remaining().map_or_else(SizeHint::new, SizeHint::with_exact),
            Self::Staged(Staged { stream, .. }) => stream.size_hint(),
            Self::Cut(_) => SizeHint::new(),
        }
    }
}

/// A stream behind the stages of filters.
pub(super) struct Staged {
    stream: BodyStream,
    /// Where panics of theirs are counted.
    metrics: Option<Arc<WorkerMetrics>>,
    /// Tells the body inside, which has the account, what became of this one.
    outside: Rc<Outside>,
}

/// What a body behind stages tells the one inside.
#[derive(Debug, Default)]
struct Outside {
    /// Why it ends before it is complete.
    verdict: Cell<Option<Reason>>,
    /// Bytes that it gave.
    bytes: Cell<u64>,
    /// It was handed over to its end.
    ended: Cell<bool>,
}

/// The body inside of stages.
struct Inside {
    body: ForwardBody,
    outside: Rc<Outside>,
}

impl Body for Inside {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let Some(account) = &mut self.body.account else { return };
        // What the client got is what came out of the stages.
        account.bytes_out = self.outside.bytes.get();
        account.complete &= self.outside.ended.get();
        if !account.complete {
            // A stage that owns it may unwind before anybody has noted the panic.
            let panicking = std::thread::panicking().then_some(Reason::Panic);
            account.reason = account.reason.or(self.outside.verdict.get()).or(panicking);
        }
    }
}

impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Staged").finish_non_exhaustive()
    }
}

/// A body that is being read from an HTTP/1 connection.
#[derive(Debug)]
pub struct Http1Body {
    /// The connection.
    pub connection: Pooled,
    /// Where it belongs.
    pub endpoint: Arc<EndpointState>,
    /// A request body that is still being sent, for endpoints that answer while they read.
    pub upload: Option<Box<Upload<ClientBody>>>,
    /// The request was sent completely, so that the connection may be used again.
    pub sent: bool,
    /// The client takes trailers.
    pub trailers: bool,
    /// What ends it early.
    pub deadlines: ExchangeDeadlines,
}

/// A body that is being read from an HTTP/2 stream.
#[derive(Debug)]
pub struct Http2Body {
    /// The stream.
    pub body: ResponseBody,
    /// Where it comes from.
    pub endpoint: Arc<EndpointState>,
    /// Its place on the connection.
    pub lease: Lease,
    /// The request body beside it.
    pub progress: Rc<RequestProgress>,
    /// The client takes trailers.
    pub trailers: bool,
    /// What ends it early.
    pub deadlines: ExchangeDeadlines,
    /// When the last response frame came.
    pub activity: Option<Instant>,
    /// It came to its clean end.
    pub ended: bool,
    /// Armed at the first wait.
    pub timer: Timer,
}

impl ForwardBody {
    /// A body in one piece.
    #[must_use]
    pub fn full(data: Bytes) -> Self {
        Self { content: Content::full(data), account: None }
    }

    /// A body whose end enters an account.
    #[inline]
    #[must_use]
    pub(super) fn new(content: Content, account: Account) -> Self {
        let mut body = Self { content, account: Some(account) };
        if let (Content::Empty, Some(account)) = (&body.content, &mut body.account) {
            account.complete = true;
        }
        body
    }

    /// Puts the body through the stages of filters, the innermost first.
    #[must_use]
    pub fn through(self, stages: Vec<BodyStage>) -> Self {
        let metrics = self.account.as_ref().map(|account| account.worker.shared_metrics());
        let outside: Rc<Outside> = Rc::default();
        let inner: BodyStream = Box::pin(Inside { body: self, outside: Rc::clone(&outside) });
        let stream = stages.into_iter().fold(inner, |stream, stage| stage(stream));
        outside.ended.set(stream.is_end_stream());
        Self { content: Content::Staged(Staged { stream, metrics, outside }), account: None }
    }

    /// The body came to its clean end.
    fn finish(&mut self) {
        self.content = Content::Empty;
        if let Some(account) = &mut self.account {
            account.complete = true;
            // The endpoint is free although the client may still be reading.
            account.in_flight = None;
        }
    }

    /// The body cannot be completed: closes the upstream and makes the cut visible downstream.
    ///
    /// The error itself waits for the next poll: what is not flushed when a body fails is dropped, and the client should
    /// see the head and what came before the cut.
    fn cut(&mut self, error: BodyError, cx: &Context<'_>) {
        let reason = error.reason();
        // The connection of a call that is shared was counted by the call.
        let is_counted = matches!(error, BodyError::Flight(_));
        tracing::debug!(%reason, error = &error as &dyn std::error::Error, "response cut");
        self.content = Content::Cut(Box::new(error));
        cx.waker().wake_by_ref();
        if let Some(account) = &mut self.account {
            account.complete = false;
            account.reason = Some(reason);
            account.in_flight = None;
            if !is_counted {
                account.worker.metrics().closed(Side::Upstream, reason);
            }
        }
    }

    /// Working on the body panicked: it ends with a visible cut, and its connection to the endpoint with it.
    fn panicked(&mut self, cx: &Context<'_>) {
        if let Some(account) = &self.account {
            account.worker.metrics().panicked(Where::Request);
        } else if let Content::Staged(Staged { metrics, outside, .. }) = &self.content {
            outside.verdict.set(Some(Reason::Panic));
            if let Some(metrics) = metrics {
                metrics.panicked(Where::Request);
                metrics.closed(Side::Upstream, Reason::Panic);
            }
        }
        self.cut(BodyError::Panic, cx);
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let step = match (&mut self.content, &mut self.account) {
            (Content::Empty, _) => return Poll::Ready(None),
            (Content::Cut(_), _) => {
                return match std::mem::replace(&mut self.content, Content::Empty) {
                    Content::Cut(error) => Poll::Ready(Some(Err(*error))),
                    _ => Poll::Ready(None),
                };
            }
            (Content::Full(data), account) => {
                let data = std::mem::take(data);
                if let Some(account) = account {
                    account.bytes_out += data.len() as u64;
                }
                self.finish();
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            (Content::Staged(Staged { stream, outside, .. }), _) => {
                let frame = ready!(stream.as_mut().poll_frame(cx));
                if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                    outside.bytes.set(outside.bytes.get() + data.len() as u64);
                }
                outside.ended.set(frame.is_none() || stream.is_end_stream());
                return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Staged)));
            }
            (Content::Http1(body), Some(account)) => ready!(body.poll(account, cx)),
            (Content::Http2(body), Some(account)) => ready!(body.poll(account, cx)),
            // A streamed body gets its account where it is made.
            (Content::Flight(content), Some(account)) => ready!(content.poll(account, cx)),
            (Content::Http1(_) | Content::Http2(_) | Content::Flight(_), None) => return Poll::Ready(None),
        };
        let (frame, last) = match step {
            Step::Frame(frame, last) => (Some(frame), last),
            Step::End => (None, true),
            Step::Cut(error) => {
                self.cut(error, cx);
                return Poll::Pending;
            }
        };
        #[cfg(test)]
        super::test_panics::in_body(frame.as_ref());
        if let (Some(frame), Some(account)) = (&frame, &mut self.account) {
            if let Some(data) = frame.data_ref() {
                account.bytes_out += data.len() as u64;
            } else if let Some(trailers) = frame.trailers_ref() {
                account.call.note(trailers);
            }
            if !last && self.content.size_hint().exact() == Some(0) {
                // The end of the stream is still to come, and nobody may wait for it.
                account.complete = true;
            }
        }
        if last {
            if let (Content::Http1(body), Some(account)) =
                (std::mem::replace(&mut self.content, Content::Empty), &self.account)
            {
                body.release(account);
            }
            self.finish();
        }
        Poll::Ready(frame.map(Ok))
    }
}

/// What one poll of a stream gave.
enum Step {
    /// A frame, and whether it was the last.
    Frame(Frame<Bytes>, bool),
    End,
    Cut(BodyError),
}

impl Http1Body {
    fn poll(&mut self, account: &mut Account, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(upload) = &mut self.upload {
                let before = upload.written();
                let result = self.connection.poll_upload(upload, account.worker.buffers(), cx);
                account.upstream_sent += upload.written() - before;
                account.bytes_in = upload.body_read();
                if let Err(ClientError::RequestBody(source)) = result {
                    // The client broke its own request off; the answer to it cannot be trusted to fit.
                    return Poll::Ready(Step::Cut(BodyError::Upload(Box::new(ProxyError::request_body(source)))));
                }
                if upload.is_done() {
                    self.sent = true;
                    self.upload = None;
                }
            }
            let before = self.connection.read_bytes();
            let polled = self.connection.poll_frame(account.worker.buffers(), cx);
            account.upstream_received += self.connection.read_bytes() - before;
            match polled {
                Poll::Ready(Some(Ok(frame))) => {
                    let last = self.connection.is_complete();
                    match frame.into_data() {
                        Ok(data) => return Poll::Ready(Step::Frame(Frame::data(data), last)),
                        Err(frame) => {
                            if let Some(trailers) = keep_trailers(frame, self.trailers) {
                                return Poll::Ready(Step::Frame(trailers, true));
                            }
                        }
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Step::End),
                Poll::Ready(Some(Err(err))) => {
                    if reason_of_cut(&err) == Reason::BadResponse {
                        account.worker.bad_responses().log(&self.endpoint, &err);
                    }
                    return Poll::Ready(Step::Cut(BodyError::Http1(err)));
                }
                Poll::Pending => {
                    let activity = self.connection.activity().into_iter().chain(account.client_moved()).max();
                    let Some((at, kind)) = self.deadlines.in_body(activity) else {
                        return Poll::Pending;
                    };
                    ready!(self.connection.poll_deadline(at, cx));
                    return Poll::Ready(Step::Cut(BodyError::Deadline(kind)));
                }
            }
        }
    }

    /// Puts the connection back if it can carry another exchange.
    fn release(self, account: &Account) {
        if self.sent {
            account.worker.release(&self.endpoint, self.connection, Instant::now());
        }
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        if !self.ended {
            // The connection's task still sends the client's body, and holds its stream with it.
            drop(self.progress.take_body());
        }
    }
}

impl Http2Body {
    fn poll(&mut self, account: &mut Account, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            account.bytes_in = self.progress.bytes.get();
            match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if self.deadlines.idle.is_some() {
                        self.activity = Some(Instant::now());
                    }
                    match frame.into_data() {
                        Ok(data) => {
                            self.ended = self.body.is_end_stream();
                            return Poll::Ready(Step::Frame(Frame::data(data), self.ended));
                        }
                        Err(frame) => {
                            if let Some(trailers) = keep_trailers(frame, self.trailers) {
                                self.ended = true;
                                return Poll::Ready(Step::Frame(trailers, true));
                            }
                        }
                    }
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    return Poll::Ready(Step::End);
                }
                Poll::Ready(Some(Err(err))) => {
                    // The client's body may be what made the stream fail.
                    if let Some(source) = self.progress.failed.take() {
                        return Poll::Ready(Step::Cut(BodyError::Upload(Box::new(ProxyError::request_body(source)))));
                    }
                    if is_malformed(&err) {
                        account.worker.bad_responses().log(&self.endpoint, &err);
                    }
                    return Poll::Ready(Step::Cut(BodyError::Http2(err)));
                }
                Poll::Pending => {
                    let came = self.activity.into_iter().chain(self.progress.last.get());
                    let activity = came.chain(account.client_moved()).max();
                    let Some((at, kind)) = self.deadlines.in_body(activity) else { return Poll::Pending };
                    ready!(self.timer.poll_until(cx, at));
                    return Poll::Ready(Step::Cut(BodyError::Deadline(kind)));
                }
            }
        }
    }
}

/// The body of a call that requests share.
#[derive(Debug)]
pub struct FlightContent {
    body: FlightBody,
    /// Those of the request.
    deadlines: ExchangeDeadlines,
    /// When the last frame came.
    activity: Option<Instant>,
    /// Armed at the first wait.
    timer: Timer,
}

impl FlightContent {
    /// For a request with these deadlines.
    pub(super) fn new(body: FlightBody, deadlines: ExchangeDeadlines) -> Self {
        Self { body, deadlines, activity: None, timer: Timer::default() }
    }

    fn poll(&mut self, account: &Account, cx: &mut Context<'_>) -> Poll<Step> {
        match self.body.poll_frame(cx) {
            Poll::Ready(Some(Ok((frame, is_last)))) => {
                if self.deadlines.idle.is_some() {
                    self.activity = Some(Instant::now());
                }
                Poll::Ready(Step::Frame(frame, is_last))
            }
            Poll::Ready(None) => Poll::Ready(Step::End),
            Poll::Ready(Some(Err(reason))) => Poll::Ready(Step::Cut(BodyError::Flight(reason))),
            Poll::Pending => {
                let activity = self.activity.into_iter().chain(account.client_moved()).max();
                let Some((at, kind)) = self.deadlines.in_body(activity) else { return Poll::Pending };
                ready!(self.timer.poll_until(cx, at));
                Poll::Ready(Step::Cut(BodyError::Deadline(kind)))
            }
        }
    }
}

/// Whether an answer was malformed or its connection broke.
fn reason_of_cut(error: &ClientError) -> Reason {
    match error {
        // An endpoint that closes in good order says that this was all: less than it had announced.
        ClientError::Malformed(_) | ClientError::Truncated => Reason::BadResponse,
        ClientError::Io(_) | ClientError::Closed | ClientError::Handshake | ClientError::RequestBody(_) => {
            Reason::Reset
        }
    }
}

/// The trailers that may go on, when both sides agreed on them.
fn keep_trailers(frame: Frame<Bytes>, agreed: bool) -> Option<Frame<Bytes>> {
    let mut trailers = frame.into_trailers().ok().filter(|_| agreed)?;
    headers::clean_trailers(&mut trailers);
    (!trailers.is_empty()).then(|| Frame::trailers(trailers))
}

impl Body for ForwardBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = catch_unwind(AssertUnwindSafe(|| this.poll_content(cx)));
        polled.unwrap_or_else(|_| {
            this.panicked(cx);
            Poll::Pending
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Staged(Staged { stream, .. }) => stream.is_end_stream(),
            Content::Full(_) | Content::Http1(_) | Content::Http2(_) | Content::Flight(_) | Content::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection has room for a body, idle ones included.
    #[test]
    fn bodies_are_small() {
        assert!(size_of::<ForwardBody>() <= 512, "{}", size_of::<ForwardBody>());
    }
}
