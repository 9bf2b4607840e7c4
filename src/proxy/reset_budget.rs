//! How often a client may take requests back on one HTTP/2 connection.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// Requests that may be taken back at once: more than a browser has open when its user leaves a page.
const BURST: u32 = 200;
/// After this much time, one more may be.
const REFILL: Duration = Duration::from_millis(50);

/// The budget of one connection for requests that the client resets before their answer is complete. Each costs work that
/// nobody wants, a connection to a pod among it.
#[derive(Debug)]
pub struct ResetBudget {
    left: Cell<u32>,
    refilled: Cell<Option<Instant>>,
}

impl Default for ResetBudget {
    fn default() -> Self {
        Self { left: Cell::new(BURST), refilled: Cell::new(None) }
    }
}

impl ResetBudget {
    /// Counts a request that was taken back at `now`.
    pub fn take(&self, now: Instant) {
        let since = self.refilled.get().unwrap_or(now);
        let more = now.saturating_duration_since(since).as_millis() / REFILL.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        // What is left of the last interval counts for the next one.
        self.refilled.set(Some(since + REFILL * more.min(BURST)).map(|at| if more >= BURST { now } else { at }));
        self.left.set(self.left.get().saturating_add(more).min(BURST).saturating_sub(1));
    }

    /// The client has taken back more than it may.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_so_is_a_steady_trickle() {
        let start = Instant::now();
        let budget = ResetBudget::default();
        (1..BURST).for_each(|_| budget.take(start));
        assert!(!budget.is_spent());
        budget.take(start);
        assert!(budget.is_spent());
        let budget = ResetBudget::default();
        (0..10_000).for_each(|n| budget.take(start + REFILL * n));
        assert!(!budget.is_spent());
        let budget = ResetBudget::default();
        (0..1_000).for_each(|n| budget.take(start + REFILL * n / 2));
        assert!(budget.is_spent(), "twice as many as come back");
    }
}
