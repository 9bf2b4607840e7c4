//! What all compressors of the process share: a bound on their memory, and counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::model::filter::ContentCoding;

/// Most memory of all compressors at the same time, unless the process is told otherwise.
pub(super) const COMPRESSOR_MEMORY: usize = 64 << 20;

/// What compression has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompressionCounts {
    /// For each coding its name, bytes before and bytes after.
    pub bytes: Vec<(&'static str, u64, u64)>,
    /// Responses that stayed as they were because compressors had no memory left.
    pub skipped: u64,
}

/// The counts of one worker; nothing else is written in the same line of the cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells {
    before: [AtomicU64; ContentCoding::ALL.len()],
    after: [AtomicU64; ContentCoding::ALL.len()],
    skipped: AtomicU64,
}

/// What all compressors share.
#[derive(Debug)]
pub struct Compressors {
    most: usize,
    /// Written twice per compressed response, which costs thousands of times more than that.
    used: AtomicUsize,
    workers: Box<[Cells]>,
}

impl Compressors {
    /// For so many workers, with so much memory.
    pub(super) fn new(workers: usize, most: usize) -> Self {
        let workers = (0..workers.max(1)).map(|_| Cells::default()).collect();
        Self { most, used: AtomicUsize::new(0), workers }
    }

    /// Takes memory for a compressor; `None`: there is not so much left.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Option<CompressorMemory> {
        let add = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(CompressorMemory { compressors: Arc::clone(self), bytes })
    }

    /// Counts a response that stays as it is since there is no memory for it; only the thread of `worker` may call it with that index.
    pub(super) fn skipped(&self, worker: usize) {
        if let Some(cells) = self.workers.get(worker) {
            add(&cells.skipped, 1);
        }
    }

    /// Counts bytes before and after; only the thread of `worker` may call it with that index.
    pub(super) fn compressed(&self, worker: usize, coding: ContentCoding, before: usize, after: usize) {
        if let Some(cells) = self.workers.get(worker) {
            add(&cells.before[coding as usize], before as u64);
            add(&cells.after[coding as usize], after as u64);
        }
    }

    /// The sums over all workers.
    pub(super) fn counts(&self) -> CompressionCounts {
        let sum = |of: &dyn Fn(&Cells) -> &AtomicU64| -> u64 {
            self.workers.iter().map(|cells| of(cells).load(Ordering::Relaxed)).sum()
        };
        let of_coding = |coding: &ContentCoding| {
            let at = *coding as usize;
            (coding.as_str(), sum(&|cells| &cells.before[at]), sum(&|cells| &cells.after[at]))
        };
        CompressionCounts {
            bytes: ContentCoding::ALL.iter().map(of_coding).collect(),
            skipped: sum(&|cells| &cells.skipped),
        }
    }

    /// Memory that is taken.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Adds to a cell that has one writer, so that no atomic addition is needed.
fn add(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

/// Memory that a compressor has taken; it is given back when this is dropped.
#[derive(Debug)]
pub(super) struct CompressorMemory {
    compressors: Arc<Compressors>,
    bytes: usize,
}

impl CompressorMemory {
    /// What all compressors share.
    pub(super) fn compressors(&self) -> &Compressors {
        &self.compressors
    }
}

impl Drop for CompressorMemory {
    fn drop(&mut self) {
        self.compressors.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
