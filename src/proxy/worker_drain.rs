//! The stop of the process as the connections of one worker see it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use tokio::time::Instant;

use crate::drain::Phase;

/// The stop of the process as the connections of one worker see it; wakes them when it moves on.
#[derive(Debug)]
pub struct WorkerDrain {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    closing_since: Cell<Option<Instant>>,
    /// One waker per connection, at the index it registered.
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl WorkerDrain {
    /// A worker that is not stopping.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::default(),
            since: Cell::new(Instant::now()),
            closing_since: Cell::new(None),
            wakers: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// Since when the present phase lasts.
    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Since when connections are asked to close; the present before that.
    pub(super) fn closing_since(&self) -> Instant {
        self.closing_since.get().unwrap_or_else(Instant::now)
    }

    /// Moves on and wakes every connection.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            self.since.set(Instant::now());
            if phase >= Phase::Closing && self.closing_since.get().is_none() {
                self.closing_since.set(Some(Instant::now()));
            }
            self.wakers.borrow().iter().flatten().for_each(Waker::wake_by_ref);
        }
    }

    /// The number of connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.wakers.borrow().len() - self.free.borrow().len()
    }

    pub(super) fn register(self: &Rc<Self>) -> DrainPlace {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut wakers = self.wakers.borrow_mut();
            wakers.push(None);
            wakers.len() - 1
        });
        DrainPlace { drain: Rc::clone(self), index }
    }
}

/// A connection's place among those that a drain wakes.
pub(super) struct DrainPlace {
    drain: Rc<WorkerDrain>,
    index: usize,
}

impl DrainPlace {
    /// Notes whom to wake; a connection is always polled by its own task, so once is enough.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.index) {
            *slot = Some(cx.waker().clone());
        }
    }
}

impl Drop for DrainPlace {
    fn drop(&mut self) {
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.index) {
            *slot = None;
        }
        self.drain.free.borrow_mut().push(self.index);
    }
}
