//! What limits have decided, counted by each worker in cells of its own.

use super::worker_counts::WorkerCounts;

/// What a limit decides about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passed at once.
    Passed,
    /// It passed after a wait.
    Waited,
    /// It was refused.
    Refused,
    /// It waited for as long as it may and was refused then.
    TimedOut,
    /// The limit only counts: the request passed, and would not have passed at once.
    Shadow,
}

impl Decision {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Passed, Self::Waited, Self::Refused, Self::TimedOut, Self::Shadow];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Waited => "waited",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Shadow => "shadow",
        }
    }
}

/// How often a limit decided what.
#[derive(Debug)]
pub struct Decisions(WorkerCounts<{ Decision::ALL.len() }>);

impl Decisions {
    /// For so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self(WorkerCounts::new(workers))
    }

    /// Counts one; only the thread of `worker` may call it with that index.
    pub(super) fn count(&self, worker: usize, decision: Decision) {
        self.0.count(worker, decision as usize);
    }

    /// The sums over all workers, in the order of [`Decision::ALL`].
    #[must_use]
    pub fn sums(&self) -> [u64; Decision::ALL.len()] {
        self.0.sums()
    }
}
