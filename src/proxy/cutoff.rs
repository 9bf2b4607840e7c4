//! Ends an exchange at its deadline whatever the client does, and knows what the client may take its time with.
//!
//! A response body is polled only while the client takes it, so a deadline inside of it does not fire for a client that
//! does not read. A [`Cutoff`] holds the deadline outside: whatever drives the exchange, the connection for HTTP/1 and the
//! stream's task for HTTP/2, drops all of it when the time has come. A stream of HTTP/2 is also dropped when its client
//! neither takes the answer nor sends the body that somebody waits for; the connection itself sees that over HTTP/1.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::deadlines::DeadlineKind;
use crate::reason::Reason;
use crate::timer::Timer;

/// A body that is being polled ends at its deadline by itself, and better: it gets this much time to do so.
const GRACE: Duration = Duration::from_millis(50);

thread_local! {
    /// The cutoff of the HTTP/2 stream whose task is being polled.
    static STREAM: RefCell<Option<Rc<Cutoff>>> = const { RefCell::new(None) };
}

/// When an exchange is cut off; for one exchange at a time.
#[derive(Debug, Default)]
pub struct Cutoff {
    due: Cell<Option<(Instant, Reason)>>,
    passed: Cell<Option<Reason>>,
    /// The head of the answer was handed over.
    answered: Cell<bool>,
    /// The rule itself bounds how long the exchange may be quiet.
    may_be_quiet: Cell<bool>,
    /// HTTP/2: since when somebody waits for the client, and what it would be ended for.
    waiting: Cell<Option<(Instant, Reason)>>,
    /// HTTP/2: the stream's task.
    task: OnceCell<Waker>,
}

impl Cutoff {
    /// That of the HTTP/2 stream whose task runs now.
    #[must_use]
    pub fn of_stream() -> Option<Rc<Self>> {
        STREAM.with_borrow(Clone::clone)
    }

    /// A new exchange begins.
    pub fn begin(&self) {
        self.answered.set(false);
        self.may_be_quiet.set(false);
    }

    /// Puts the deadline of the exchange.
    pub fn set(&self, (at, kind): (Instant, DeadlineKind)) {
        self.due.set(Some((at + GRACE, kind.reason())));
        self.passed.set(None);
    }

    /// The exchange is over: there is nothing to cut off. Gives the reason when it was cut off.
    pub fn clear(&self) -> Option<Reason> {
        self.due.set(None);
        self.passed.take()
    }

    /// When the exchange is to be dropped, and why.
    #[must_use]
    pub fn due(&self) -> Option<(Instant, Reason)> {
        self.due.get()
    }

    /// Notes that the time has come: the exchange is dropped right after this.
    pub fn pass(&self) {
        self.passed.set(self.due.take().map(|(_, reason)| reason));
    }

    /// The head of the answer was handed over: from here on the exchange is a stream in both directions, in which a client
    /// may send when it has something to say.
    pub fn answered(&self) {
        self.answered.set(true);
        if self.waiting.get().is_some_and(|(_, reason)| reason == Reason::BodySlow) {
            self.waiting.set(None);
        }
    }

    /// The rule itself bounds how long the exchange may be quiet.
    pub fn allow_quiet(&self) {
        self.may_be_quiet.set(true);
    }

    /// Whether the client may send its body as slowly as it likes.
    #[must_use]
    pub fn takes_slow_body(&self) -> bool {
        self.answered.get() || self.may_be_quiet.get()
    }

    /// Somebody waits for the client's body.
    pub fn wait_for_body(&self) {
        if !self.takes_slow_body() && self.waiting.get().is_none() {
            self.waiting.set(Some((Instant::now(), Reason::BodySlow)));
            // The body can have been handed to another task than the stream's, which sets the timer.
            if !STREAM
                .with_borrow(|stream| stream.as_ref().is_some_and(|stream| std::ptr::eq(&raw const **stream, self)))
                && let Some(task) = self.task.get()
            {
                task.wake_by_ref();
            }
        }
    }

    /// Part of the answer was handed over; the client takes it before anybody asks for more.
    pub fn wait_for_taking(&self) {
        self.waiting.set(Some((Instant::now(), Reason::WriteStall)));
    }

    /// The client has moved.
    pub fn moved(&self) {
        self.waiting.set(None);
    }

    /// When the stream is to be dropped, with the longest time that anybody waits for a client.
    fn stream_due(&self, stall: Duration) -> Option<(Instant, Reason)> {
        let waiting = self.waiting.get().filter(|_| !stall.is_zero()).map(|(since, reason)| (since + stall, reason));
        self.due.get().into_iter().chain(waiting).min_by_key(|(at, _)| *at)
    }
}

/// Makes a cutoff that of the stream for as long as it lives.
struct Scope(Option<Rc<Cutoff>>);

impl Scope {
    fn enter(cutoff: &Rc<Cutoff>) -> Self {
        Self(STREAM.replace(Some(Rc::clone(cutoff))))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        STREAM.set(self.0.take());
    }
}

/// Runs the future of an HTTP/2 stream to its end, or up to the deadline of its exchange, or until somebody has waited for
/// `stall` for the client (zero: without an end): then it is dropped, and h2 resets the stream.
pub async fn run_stream(stream: impl Future, stall: Duration) {
    let cutoff = Rc::new(Cutoff::default());
    let mut timer = Timer::default();
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        let scope = Scope::enter(&cutoff);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        drop(scope);
        cutoff.task.get_or_init(|| cx.waker().clone());
        let Some((at, reason)) = cutoff.stream_due(stall) else { return Poll::Pending };
        ready!(timer.poll_until(cx, at));
        cutoff.passed.set(Some(reason));
        Poll::Ready(())
    })
    .await;
}
