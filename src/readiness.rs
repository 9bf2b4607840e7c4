//! Whether the process may be sent traffic: every named part has reported that it is ready, and draining has not begun.
//!
//! Knows no part by itself: whoever starts one takes a [`ReadinessGuard`] for it. Read by `/readyz`.

use std::sync::{Arc, Mutex, PoisonError};

/// The parts that must be ready, and those that are.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    pending: Vec<&'static str>,
    draining: bool,
}

/// One part that still has to report that it is ready. When it is dropped before, readiness waits for ever.
#[derive(Debug)]
pub struct ReadinessGuard {
    name: &'static str,
    state: Arc<Mutex<Parts>>,
}

impl Readiness {
    /// Adds a part that is not ready yet.
    #[must_use]
    pub fn guard(&self, name: &'static str) -> ReadinessGuard {
        self.lock().pending.push(name);
        ReadinessGuard { name, state: Arc::clone(&self.state) }
    }

    /// From now on not ready, whatever the parts say.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// What readiness still waits for, in the order in which the guards were taken; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.lock();
        if state.draining { vec!["draining"] } else { state.pending.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        // Nothing that can panic runs under the lock; a poisoned one still holds good data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadinessGuard {
    /// The part is ready.
    pub fn ready(self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = state.pending.iter().position(|name| *name == self.name) {
            state.pending.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_guards_have_said_so_and_never_while_draining() {
        let readiness = Readiness::default();
        let listeners = readiness.guard("listeners");
        let snapshot = readiness.guard("snapshot");
        assert_eq!(readiness.missing(), ["listeners", "snapshot"]);
        snapshot.ready();
        assert_eq!(readiness.missing(), ["listeners"]);
        listeners.ready();
        assert!(readiness.missing().is_empty());
        readiness.drain();
        assert_eq!(readiness.missing(), ["draining"]);
    }

    #[test]
    fn a_dropped_guard_stays_pending() {
        let readiness = Readiness::default();
        drop(readiness.guard("watch"));
        assert_eq!(readiness.missing(), ["watch"]);
    }
}
