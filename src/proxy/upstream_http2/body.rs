//! The client's request body on its way to an HTTP/2 endpoint, and what the exchange knows of it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::proxy::client_body::ClientBody;
use crate::proxy::downstream::drop_unread;
use crate::proxy::headers;
use crate::proxy::received_body::ReceivedBody;

/// Body bytes that are kept until the endpoint answers, for the case that it refuses the stream.
const MOST_KEPT: usize = 64 << 10;

/// What the exchange knows of a body that is sent beside it.
#[derive(Default)]
pub struct RequestProgress {
    /// Body bytes read from the client.
    pub bytes: Cell<u64>,
    /// When the last of them was read.
    pub last: Cell<Option<Instant>>,
    /// When the body ended.
    pub done: Cell<Option<Instant>>,
    /// The client is waited for, not the endpoint.
    starved: Cell<bool>,
    /// What the body failed with.
    pub failed: Cell<Option<Box<dyn std::error::Error + Send + Sync>>>,
    /// The body, until the exchange takes it back.
    body: RefCell<Option<ClientBody>>,
    /// Nothing more of the body is sent: what is left of the stream must not look complete.
    stopped: Cell<bool>,
    /// Nobody sends the body any more.
    is_over: Cell<bool>,
    /// How many bytes of it are read and dropped then; `None` before there is an answer.
    unread: Cell<Option<usize>>,
    /// Who sends the body, while it waits for the client or the endpoint.
    sender: Cell<Option<Waker>>,
    /// Who waits for the head, while nothing but the client is waited for.
    waiter: Cell<Option<Waker>>,
    kept: RefCell<Kept>,
}

/// What was read of a body.
#[derive(Debug)]
enum Kept {
    /// All of it.
    All(Vec<Bytes>, usize),
    /// Too much, or the endpoint has answered.
    Nothing,
}

impl Default for Kept {
    fn default() -> Self {
        Self::All(Vec::new(), 0)
    }
}

impl Kept {
    fn push(&mut self, data: &Bytes) {
        let Self::All(chunks, size) = self else { return };
        *size += data.len();
        if *size > MOST_KEPT {
            *self = Self::Nothing;
        } else {
            chunks.push(data.clone());
        }
    }
}

impl std::fmt::Debug for RequestProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestProgress").field("bytes", &self.bytes.get()).finish_non_exhaustive()
    }
}

impl RequestProgress {
    /// Of a body that is about to be sent; `now` is when a request without a body is sent.
    #[must_use]
    pub fn new(body: Option<ClientBody>, now: Instant) -> Rc<Self> {
        let done = Cell::new(body.is_none().then_some(now));
        Rc::new(Self { done, body: RefCell::new(body), ..Self::default() })
    }

    /// When the last byte of the request was sent, or the last that the endpoint took while others wait (`began`: none
    /// yet); `None` while the client is the one that is waited for.
    #[must_use]
    pub fn waiting_since(&self, began: Instant) -> Option<Instant> {
        let stalled = (!self.starved.get()).then(|| self.last.get().unwrap_or(began));
        self.done.get().or(stalled)
    }

    /// Wakes the task when the client, which is waited for now, sends or ends its body: the endpoint is waited for from then on.
    pub fn wake_on_body(&self, cx: &Context<'_>) {
        self.waiter.set(Some(cx.waker().clone()));
    }

    /// The endpoint has answered: nothing is sent again.
    pub fn answered(&self) {
        *self.kept.borrow_mut() = Kept::Nothing;
        // While hyper reads the body, it is the one that calls.
        if let Ok(mut body) = self.body.try_borrow_mut()
            && let Some(body) = body.as_mut()
        {
            body.forget();
        }
    }

    /// Everything that was read of the body can be sent again.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        matches!(*self.kept.borrow(), Kept::All(..)) || self.body.borrow().as_ref().is_some_and(ClientBody::is_kept)
    }

    /// Ends the sending of the body, and with it the stream.
    pub fn stop(&self) {
        self.stopped.set(true);
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// The endpoint has answered, and may want no more of the body. What is left of it then is read and dropped beside the
    /// answer, up to `limit` bytes, so that the client's connection of HTTP/1 can be kept. `true` when it cannot, or will not
    /// be behind an answer that `refuses` the request; `waits` says that the client waits for `100` before it sends.
    #[must_use]
    pub fn leave_rest(&self, refuses: bool, waits: bool, limit: usize) -> bool {
        self.unread.set(Some(limit));
        if self.is_over.get() {
            return self.take_rest().is_some_and(|rest| drop_unread(rest, waits, limit));
        }
        let is_too_long =
            |rest: &ClientBody| !rest.is_end_stream() && (waits || rest.size_hint().lower() > limit as u64);
        refuses && self.body.borrow().as_ref().is_some_and(is_too_long)
    }

    /// Nobody sends the body any more: it is sent, or the endpoint wants no more of it.
    pub(super) fn over(&self) {
        self.is_over.set(true);
        if let Some(limit) = self.unread.get()
            && let Some(rest) = self.take_rest()
        {
            drop_unread(rest, false, limit);
        }
    }

    fn take_rest(&self) -> Option<ReceivedBody> {
        self.body.take().and_then(ClientBody::into_received)
    }

    /// The stream is to be ended.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Lets [`stop`](Self::stop) wake who sends the body.
    pub(super) fn wake_on_stop(&self, cx: &Context<'_>) {
        let sender = self.sender.take().filter(|sender| sender.will_wake(cx.waker()));
        self.sender.set(Some(sender.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Takes the body back from a stream that failed, with what can be sent again in front of it.
    #[must_use]
    pub fn take_body(&self) -> Option<ClientBody> {
        self.stop();
        let mut body = self.body.take()?;
        if let Kept::All(chunks, _) = self.kept.take() {
            body.put_back(chunks);
        }
        Some(body)
    }
}

/// The client's request body as it is sent: counted, kept while it may be sent again, without trailers nobody agreed on.
#[derive(Debug)]
pub struct RequestBody {
    progress: Rc<RequestProgress>,
    trailers: bool,
    ended: bool,
}

/// The client's body failed; what it failed with is in [`RequestProgress::failed`].
#[derive(Debug, thiserror::Error)]
#[error("request body failed")]
pub struct BodyFailed;

impl RequestBody {
    /// The body of `progress`; trailers go on only when the client announced them.
    #[must_use]
    pub fn new(progress: Rc<RequestProgress>, trailers: bool) -> Self {
        let ended = progress.body.borrow().is_none();
        Self { progress, trailers, ended }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFailed;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailed>>> {
        let Self { progress, trailers, ended } = &mut *self;
        if *ended {
            return Poll::Ready(None);
        }
        let mut body = progress.body.borrow_mut();
        let Some(body) = body.as_mut() else { return Poll::Ready(None) };
        loop {
            let polled = Pin::new(&mut *body).poll_frame(cx);
            if progress.starved.replace(polled.is_pending())
                && polled.is_ready()
                && let Some(waiter) = progress.waiter.take()
            {
                waiter.wake();
            }
            let frame = match ready!(polled) {
                Some(Ok(frame)) => frame,
                Some(Err(err)) => {
                    *ended = true;
                    progress.failed.set(Some(err));
                    return Poll::Ready(Some(Err(BodyFailed)));
                }
                None => {
                    *ended = true;
                    progress.done.set(Some(Instant::now()));
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(data) => {
                    progress.bytes.set(progress.bytes.get() + data.len() as u64);
                    progress.last.set(Some(Instant::now()));
                    progress.kept.borrow_mut().push(&data);
                    if body.is_end_stream() {
                        progress.done.set(Some(Instant::now()));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(frame) => {
                    let Ok(mut fields) = frame.into_trailers() else { continue };
                    headers::clean_trailers(&mut fields);
                    if *trailers && !fields.is_empty() {
                        // Trailers are not kept.
                        progress.answered();
                        return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
            || !self.progress.stopped.get() && self.progress.body.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.progress.body.borrow().as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
