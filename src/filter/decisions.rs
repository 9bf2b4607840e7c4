//! What limits have decided, counted by each worker in cells of its own.

use std::sync::atomic::{AtomicU64, Ordering};

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

/// The decisions of one worker; nothing else is written in the same line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells([AtomicU64; Decision::ALL.len()]);

/// How often a limit decided what.
#[derive(Debug)]
pub struct Decisions(Box<[Cells]>);

impl Decisions {
    /// For so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Cells::default()).collect())
    }

    /// Counts one; only the thread of `worker` may call it with that index.
    pub(super) fn count(&self, worker: usize, decision: Decision) {
        if let Some(Cells(cells)) = self.0.get(worker) {
            // One writer, so that no atomic addition is needed.
            let cell = &cells[decision as usize];
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The sums over all workers, in the order of [`Decision::ALL`].
    #[must_use]
    pub fn sums(&self) -> [u64; Decision::ALL.len()] {
        let mut sums = [0_u64; Decision::ALL.len()];
        for Cells(cells) in &self.0 {
            for (sum, cell) in sums.iter_mut().zip(cells) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        sums
    }
}
