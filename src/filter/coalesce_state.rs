//! What a Coalesce keeps beyond a request.

use std::hash::RandomState;
use std::sync::Arc;

use super::flights::{FlightRoom, Flights};
use super::worker_counts::WorkerCounts;

/// What became of a request that came to a Coalesce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It began a call, and got its answer.
    Led,
    /// It got the answer of a call that another one had begun.
    Joined,
    /// It could not take part, and was sent on at once.
    Alone,
    /// It waited for an answer that could not be shared, and was sent on then.
    Unshared,
}

impl Share {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Led, Self::Joined, Self::Alone, Self::Unshared];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Led => "led",
            Self::Joined => "joined",
            Self::Alone => "alone",
            Self::Unshared => "unshared",
        }
    }
}

/// The calls that are on their way, and what became of requests.
#[derive(Debug)]
pub struct CoalesceState {
    pub(super) flights: Flights,
    counts: WorkerCounts<{ Share::ALL.len() }>,
}

impl CoalesceState {
    pub(super) fn new(secret: &RandomState, room: Arc<FlightRoom>, workers: usize) -> Self {
        Self { flights: Flights::new(secret, room), counts: WorkerCounts::new(workers) }
    }

    /// Counts a request; only the thread of `worker` may call it with that index.
    pub(super) fn count(&self, worker: usize, share: Share) {
        self.counts.count(worker, share as usize);
    }

    /// What became of requests, by name, and of how many.
    pub(super) fn shares(&self) -> Vec<(&'static str, u64)> {
        Share::ALL.iter().zip(self.counts.sums()).map(|(share, count)| (share.as_str(), count)).collect()
    }
}
