//! What belongs to a backend itself and outlives its endpoints.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::pending::Pending;

/// What belongs to a backend, whatever its endpoints are; kept as long as there is one of this key.
#[derive(Debug, Default)]
pub struct BackendShared {
    /// What all workers share of its retry budget.
    pub retry_floor: RetryFloor,
    /// Made with the first request that waits: most backends have no limit that one could wait for.
    pending: OnceLock<Arc<Pending>>,
}

impl BackendShared {
    /// Requests that wait for one of its endpoints.
    #[must_use]
    pub fn pending(&self) -> &Arc<Pending> {
        self.pending.get_or_init(Arc::default)
    }
}

/// Further tries that a backend gets each second beyond its share; one for all workers.
///
/// One time stamp: when the bucket will be full again, in nanoseconds since the epoch (the generic cell rate algorithm,
/// ITU-T I.371, Annex A). The bucket holds what one second brings.
#[derive(Debug, Default)]
pub struct RetryFloor {
    full_at: AtomicU64,
}

/// Nanoseconds of a second.
pub(super) const SECOND: u64 = 1_000_000_000;

impl RetryFloor {
    /// Takes one of `per_second` further tries; false when there is none left.
    pub(super) fn take(&self, per_second: u32, now: Duration) -> bool {
        let Some(each) = SECOND.checked_div(u64::from(per_second)) else { return false };
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now) + each;
            (next - now <= SECOND).then_some(next)
        });
        taken.is_ok()
    }
}
