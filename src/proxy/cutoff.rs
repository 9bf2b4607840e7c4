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
use std::sync::Arc;
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::deadlines::DeadlineKind;
use super::pressure;
use super::rate::RateClock;
use super::room::WorkerRoom;
use super::task::poll_counted;
use crate::reason::Reason;
use crate::telemetry::metrics::{Where, WorkerMetrics};
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
    /// The longest silence in both directions, and when the client moved last or the answer began; only while there is an
    /// answer that it may leave untaken.
    quiet: Cell<Option<(Duration, Instant)>>,
    /// HTTP/2: since when somebody waits for the client, and what it would be ended for.
    waiting: Cell<Option<(Instant, Reason)>>,
    /// HTTP/2: how fast the client sends a body that somebody waits for.
    body_clock: Cell<RateClock>,
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
        self.quiet.set(None);
    }

    /// Puts the deadline of the exchange.
    pub fn set(&self, (at, kind): (Instant, DeadlineKind)) {
        self.due.set(Some((at + GRACE, kind.reason())));
        self.passed.set(None);
    }

    /// Puts the longest silence of the exchange, whose answer begins now.
    pub fn limit_silence(&self, longest: Duration) {
        self.quiet.set(Some((longest, Instant::now())));
        self.passed.set(None);
    }

    /// The client took or sent something.
    pub fn client_moves(&self) {
        if let Some((longest, _)) = self.quiet.get() {
            self.quiet.set(Some((longest, Instant::now())));
        }
    }

    /// When the client moved last, or the answer began; `None` where silence has no limit.
    #[must_use]
    pub fn client_moved(&self) -> Option<Instant> {
        self.quiet.get().map(|(_, moved)| moved)
    }

    /// When the silence has lasted for too long, if the answer waits for the client since `since`. While it does not wait,
    /// whoever reads the answer sees the silence of both sides.
    #[must_use]
    pub fn silence_due(&self, since: Instant) -> Option<(Instant, Reason)> {
        self.quiet.get().map(|(longest, moved)| (since.max(moved) + longest + GRACE, DeadlineKind::Idle.reason()))
    }

    /// The exchange is over: there is nothing to cut off. Gives the reason when it was cut off.
    pub fn clear(&self) -> Option<Reason> {
        self.due.set(None);
        self.quiet.set(None);
        self.passed.take()
    }

    /// When the exchange is to be dropped, and why.
    #[must_use]
    pub fn due(&self) -> Option<(Instant, Reason)> {
        self.due.get()
    }

    /// Notes what the time has come for: the exchange is dropped right after this.
    pub fn pass(&self, reason: Reason) {
        self.passed.set(Some(reason));
    }

    /// The head of the answer was handed over: from here on the exchange is a stream in both directions, in which a client
    /// may send when it has something to say.
    pub fn answered(&self) {
        self.answered.set(true);
        if self.waiting.get().is_some_and(|(_, reason)| reason == Reason::BodySlow) {
            self.waiting.set(None);
        }
        self.body_clock.take();
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
            self.clock_body(RateClock::wait);
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

    /// Since when the client has not taken what was handed over.
    fn untaken_since(&self) -> Option<Instant> {
        self.waiting.get().filter(|(_, reason)| *reason == Reason::WriteStall).map(|(since, _)| since)
    }

    /// The client took what was handed over, or there was nothing.
    pub fn taken(&self) {
        self.moved(Reason::WriteStall);
    }

    /// So many bytes of the client's body came, or its end.
    pub fn body_came(&self, bytes: usize) {
        self.clock_body(|clock| clock.moved(bytes as u64));
        self.moved(Reason::BodySlow);
    }

    fn clock_body<T>(&self, step: impl FnOnce(&mut RateClock) -> T) -> T {
        let mut clock = self.body_clock.take();
        let result = step(&mut clock);
        self.body_clock.set(clock);
        result
    }

    /// Whoever waited for the client in this way does not any more; a client that sends must still take its answer.
    fn moved(&self, way: Reason) {
        if self.waiting.get().is_some_and(|(_, reason)| reason == way) {
            self.waiting.set(None);
        }
        self.client_moves();
    }

    /// When the stream is to be dropped, or its rate judged.
    fn stream_due(&self, patience: &Patience) -> Option<(Instant, Reason)> {
        let waiting = self.waiting.get();
        let stall = patience.stall;
        let stalled = waiting.filter(|_| !stall.is_zero()).map(|(since, reason)| (since + stall, reason));
        let judged = self.body_clock.get().due(patience.window).filter(|_| patience.judges_rates());
        let untaken = waiting.filter(|(_, reason)| *reason == Reason::WriteStall);
        let silent = untaken.and_then(|(since, _)| self.silence_due(since));
        let judged = judged.map(|at| (at, Reason::BodySlow));
        self.due.get().into_iter().chain(stalled).chain(silent).chain(judged).min_by_key(|(at, _)| *at)
    }

    /// Whether a body for which the time has come is fast enough; then its rate is measured anew.
    fn is_fast_enough(&self, patience: &Patience) -> bool {
        let is_stalled = self
            .waiting
            .get()
            .is_some_and(|(since, _)| !patience.stall.is_zero() && since + patience.stall <= Instant::now());
        !is_stalled && !self.clock_body(|clock| clock.is_slow(patience.window, patience.rate))
    }
}

/// How long a stream of HTTP/2 waits for its client.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The longest wait for a byte in either direction; zero: without an end.
    pub stall: Duration,
    /// The time of waiting over which the rate of a body is judged; zero: never.
    pub window: Duration,
    /// The least mean rate in bytes per second; 0: any.
    pub rate: u64,
}

impl Patience {
    fn judges_rates(&self) -> bool {
        self.rate > 0 && !self.window.is_zero()
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

/// Runs the future of an HTTP/2 stream to its end, or up to the deadline of its exchange, or until its client has used up the
/// patience: then it is dropped, and h2 resets the stream. One that panics ends alone, too, and is counted.
/// Gives the reason when it was dropped.
pub async fn run_stream(
    stream: impl Future,
    patience: Patience,
    room: Rc<WorkerRoom>,
    metrics: Arc<WorkerMetrics>,
) -> Option<Reason> {
    let cutoff = Rc::new(Cutoff::default());
    let mut timer = Timer::default();
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        let scope = Scope::enter(&cutoff);
        if poll_counted(&metrics, Where::Request, stream.as_mut(), cx).is_ready() {
            return Poll::Ready(None);
        }
        drop(scope);
        cutoff.task.get_or_init(|| cx.waker().clone());
        loop {
            let due = cutoff.stream_due(&patience);
            // Nobody wakes a stream when memory runs short: one that waits for its client looks now and then.
            let stall = room.memory().level().stream_stall();
            let look = cutoff.untaken_since().map(|since| {
                (stall.map_or_else(|| Instant::now() + pressure::LOOK, |stall| since + stall), Reason::Overload)
            });
            let Some((at, reason)) = due.into_iter().chain(look).min_by_key(|(at, _)| *at) else {
                return Poll::Pending;
            };
            ready!(timer.poll_until(cx, at));
            if reason == Reason::Overload && stall.is_none() {
                continue;
            }
            if reason != Reason::BodySlow || !cutoff.is_fast_enough(&patience) {
                cutoff.passed.set(Some(reason));
                return Poll::Ready(Some(reason));
            }
        }
    })
    .await
}
