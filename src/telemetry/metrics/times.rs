//! How long rare work takes: a histogram that the control half writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::page::Page;

/// Upper bounds in seconds: from a change of one route among few to a start with very many.
pub(super) const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

/// A histogram of times.
#[derive(Debug, Default)]
pub(super) struct Times {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Times {
    pub(super) fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn render(&self, name: &'static str, page: &mut Page) {
        let counts: [u64; BUCKETS.len() + 1] = std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed));
        let seconds = self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        page.add_histogram(name, &[], BUCKETS.iter().copied(), &counts, seconds);
    }
}
