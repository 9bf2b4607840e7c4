//! Counts of which each worker has cells of its own.

use std::sync::atomic::{AtomicU64, Ordering};

/// The cells of one worker; nothing else is written in the same line of the cache.
#[derive(Debug)]
#[repr(align(64))]
struct Cells<const N: usize>([AtomicU64; N]);

/// `N` counts, in cells of each worker.
#[derive(Debug)]
pub(super) struct WorkerCounts<const N: usize>(Box<[Cells<N>]>);

impl<const N: usize> WorkerCounts<N> {
    /// For so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers.max(1)).map(|_| Cells(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }

    /// Counts one at a position below `N`; only the thread of `worker` may call it with that index.
    pub(super) fn count(&self, worker: usize, position: usize) {
        if let Some(Cells(cells)) = self.0.get(worker) {
            // One writer, so that no atomic addition is needed.
            let cell = &cells[position];
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// The sums over all workers.
    pub(super) fn sums(&self) -> [u64; N] {
        let mut sums = [0_u64; N];
        for Cells(cells) in &self.0 {
            for (sum, cell) in sums.iter_mut().zip(cells) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        sums
    }
}
