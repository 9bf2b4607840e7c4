//! Ends an exchange at its deadline whatever the client does.
//!
//! A response body is polled only while the client takes it, so a deadline inside of it does not fire for a client that
//! does not read. A [`Cutoff`] holds the deadline outside: whatever drives the exchange, the connection for HTTP/1 and the
//! stream's task for HTTP/2, drops all of it when the time has come.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::deadlines::DeadlineKind;
use crate::http1::client::poll_timer;
use crate::reason::Reason;

/// A body that is being polled ends at its deadline by itself, and better: it gets this much time to do so.
const GRACE: Duration = Duration::from_millis(50);

thread_local! {
    /// The cutoff of the HTTP/2 stream whose task is being polled.
    static STREAM: RefCell<Option<Rc<Cutoff>>> = const { RefCell::new(None) };
}

/// When an exchange is cut off; for one exchange at a time.
#[derive(Debug, Default)]
pub struct Cutoff {
    due: Cell<Option<(Instant, DeadlineKind)>>,
    passed: Cell<Option<DeadlineKind>>,
}

impl Cutoff {
    /// That of the HTTP/2 stream whose task runs now.
    #[must_use]
    pub fn of_stream() -> Option<Rc<Self>> {
        STREAM.with_borrow(Clone::clone)
    }

    /// Puts the deadline of a new exchange.
    pub fn set(&self, (at, kind): (Instant, DeadlineKind)) {
        self.due.set(Some((at + GRACE, kind)));
        self.passed.set(None);
    }

    /// The exchange is over: there is nothing to cut off. Gives the deadline that has passed, if one has.
    pub fn clear(&self) -> Option<DeadlineKind> {
        self.due.set(None);
        self.passed.take()
    }

    /// When the exchange is to be dropped, and why.
    #[must_use]
    pub fn due(&self) -> Option<(Instant, Reason)> {
        self.due.get().map(|(at, kind)| (at, kind.reason()))
    }

    /// Notes that the time has come: the exchange is dropped right after this.
    pub fn pass(&self) {
        self.passed.set(self.due.take().map(|(_, kind)| kind));
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

/// Runs the future of an HTTP/2 stream to its end, or up to the deadline that its exchange puts: then it is dropped, and
/// h2 resets the stream.
pub async fn run_stream(stream: impl Future) {
    let cutoff = Rc::new(Cutoff::default());
    let mut timer = None;
    let mut stream = pin!(stream);
    poll_fn(|cx| {
        let scope = Scope::enter(&cutoff);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        drop(scope);
        let Some((at, _)) = cutoff.due() else { return Poll::Pending };
        ready!(poll_timer(&mut timer, at, cx));
        cutoff.pass();
        Poll::Ready(())
    })
    .await;
}
