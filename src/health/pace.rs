//! The limits of all checks together: how many run at once, and how many begin in a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// The most checks that run at once.
const AT_ONCE: usize = 256;

/// The least time between the beginnings of two checks: at most 1,000 begin in a second.
const APART: Duration = Duration::from_millis(1);

/// Hands out places; shared by all checks of the process.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    places: Arc<Semaphore>,
    /// When the next check may begin.
    next: Arc<Mutex<Instant>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)), next: Arc::new(Mutex::new(Instant::now())) }
    }
}

impl Pace {
    /// Waits for a place, which is free again when the result is dropped. Places go out in the order of the calls.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("nobody closes it");
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(Instant::now());
            *next = at + APART;
            at
        };
        sleep_until(at).await;
        place
    }
}
