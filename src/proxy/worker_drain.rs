//! The stop of the process, or of a listener, as connections of one worker see it.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

use super::room::WorkerRoom;
use crate::drain::Phase;

/// The stop of the process, or of a listener, as connections of one worker see it; wakes them when it moves on.
#[derive(Debug)]
pub struct WorkerDrain {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    closing_since: Cell<Option<Instant>>,
    room: Rc<WorkerRoom>,
}

impl WorkerDrain {
    /// A worker that is not stopping.
    #[must_use]
    pub fn new(room: Rc<WorkerRoom>) -> Rc<Self> {
        Rc::new(Self { phase: Cell::default(), since: Cell::new(Instant::now()), closing_since: Cell::new(None), room })
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
        if self.note(phase) {
            self.room.wake_all();
        }
    }

    /// Moves on, unless it has come as far already; whether it did. Connections learn of it when they are woken.
    pub fn note(&self, phase: Phase) -> bool {
        let is_later = phase > self.phase.get();
        if is_later {
            self.phase.set(phase);
            self.since.set(Instant::now());
            if phase >= Phase::Closing && self.closing_since.get().is_none() {
                self.closing_since.set(Some(Instant::now()));
            }
        }
        is_later
    }

    /// The connections of the worker.
    #[must_use]
    pub fn room(&self) -> &Rc<WorkerRoom> {
        &self.room
    }
}
