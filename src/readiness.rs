//! Whether the process may be sent traffic: every named part has reported that it is ready, every condition is met, and
//! draining has not begun.
//!
//! Knows no part by itself: whoever starts one takes a [`ReadinessGuard`] for it. Read by `/readyz`, `/servingz` and
//! `/startupz`.

use std::sync::{Arc, Mutex, PoisonError};

/// The parts that must be ready, and those that are.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    pending: Vec<&'static str>,
    /// Conditions outside of the process, in the order in which they were added, and whether they are met now.
    conditions: Vec<(String, bool)>,
    draining: bool,
    closed: bool,
}

/// One part that still has to report that it is ready. When it is dropped before, readiness waits for ever.
#[derive(Debug)]
pub struct ReadinessGuard {
    name: &'static str,
    state: Arc<Mutex<Parts>>,
}

/// Something outside of the process that has to be so for it to be ready; it may come and go.
#[derive(Debug)]
pub struct Condition {
    place: usize,
    state: Arc<Mutex<Parts>>,
}

impl Condition {
    /// Whether it is met now.
    pub fn set(&self, is_met: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, met)) = state.conditions.get_mut(self.place) {
            *met = is_met;
        }
    }
}

impl Readiness {
    /// Adds a condition that is not met yet.
    #[must_use]
    pub fn condition(&self, name: String) -> Condition {
        let mut state = self.lock();
        state.conditions.push((name, false));
        Condition { place: state.conditions.len() - 1, state: Arc::clone(&self.state) }
    }

    /// What the start still waits for: the parts of the process, whatever is outside of it.
    #[must_use]
    pub fn missing_at_start(&self) -> Vec<&'static str> {
        self.lock().pending.clone()
    }

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

    /// From now on no new connections are taken.
    pub fn close(&self) {
        let mut state = self.lock();
        (state.draining, state.closed) = (true, true);
    }

    /// Why new connections are not served, as [`missing`](Self::missing) says it: a process that drains serves them until it
    /// closes its listeners.
    #[must_use]
    pub fn missing_to_serve(&self) -> Vec<String> {
        let state = self.lock();
        if state.closed { vec!["closed".to_owned()] } else { state.missing() }
    }

    /// What readiness still waits for, in the order in which guards were taken and conditions added; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let state = self.lock();
        if state.draining { vec!["draining".to_owned()] } else { state.missing() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        // Nothing that can panic runs under the lock; a poisoned one still holds good data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn missing(&self) -> Vec<String> {
        let unmet = self.conditions.iter().filter(|(_, is_met)| !is_met).map(|(name, _)| name.clone());
        self.pending.iter().map(|&name| name.to_owned()).chain(unmet).collect()
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
        assert!(readiness.missing_to_serve().is_empty(), "it still accepts");
        readiness.close();
        assert_eq!(
            (readiness.missing(), readiness.missing_to_serve()),
            (vec!["draining".into()], vec!["closed".into()])
        );
    }

    #[test]
    fn a_condition_comes_and_goes_and_the_start_does_not_wait_for_it() {
        let readiness = Readiness::default();
        let snapshot = readiness.guard("snapshot");
        let app = readiness.condition("tcp:8080".to_owned());
        assert_eq!(readiness.missing(), ["snapshot", "tcp:8080"]);
        assert_eq!(readiness.missing_to_serve(), ["snapshot", "tcp:8080"]);
        snapshot.ready();
        assert_eq!(readiness.missing(), ["tcp:8080"]);
        assert!(readiness.missing_at_start().is_empty());
        app.set(true);
        assert!(readiness.missing().is_empty());
        app.set(false);
        assert_eq!(readiness.missing(), ["tcp:8080"]);
    }

    #[test]
    fn a_dropped_guard_stays_pending() {
        let readiness = Readiness::default();
        drop(readiness.guard("watch"));
        assert_eq!(readiness.missing(), ["watch"]);
    }
}
