//! Mean rates over the time that was spent waiting for the client.

use std::time::Duration;

use tokio::time::Instant;

/// Measures how fast a client sends or takes bytes while someone waits for it; time spent elsewhere does not count.
///
/// Reads the clock only when a wait begins or ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateClock {
    /// When the present wait began.
    since: Option<Instant>,
    /// Waits that ended, and the bytes that ended them or came between.
    waited: Duration,
    bytes: u64,
}

impl RateClock {
    /// A wait begins, or goes on.
    pub fn wait(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Bytes moved, which ends the wait.
    pub fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Since when nothing moved though someone waits.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        self.since
    }

    /// When the waits will fill `window`; `None` while nobody waits.
    #[must_use]
    pub fn due(&self, window: Duration) -> Option<Instant> {
        self.since.map(|since| since + window.saturating_sub(self.waited))
    }

    /// Judges a full window: `true` when fewer than `rate` bytes a second moved in it. Else the next window begins.
    pub fn is_slow(&mut self, window: Duration, rate: u64) -> bool {
        let Some(since) = self.since else { return false };
        let waited = self.waited + since.elapsed();
        if waited < window {
            return false;
        }
        if self.bytes < rate.saturating_mul(window.as_secs().max(1)) {
            return true;
        }
        *self = Self { since: Some(Instant::now()), waited: Duration::ZERO, bytes: 0 };
        false
    }
}
