//! Buckets of a rate limit as one number each, and the table of those that have keys.
//!
//! A bucket is the time at which it is full again (the theoretical arrival time of GCRA, ITU-T I.371 §A.1): an admitted
//! request moves that time on by the time of one request, and one that would move it further than a whole bucket ahead is
//! refused. A full bucket equals none at all, so nothing has to be swept.
//!
//! Buckets with keys are cells of one table per process, of a fixed size: 8 cells that are looked at together, found by
//! the hash of filter and key. Where all 8 are in use, the one that is the nearest to full is given up, which admits its
//! owner too early and never refuses anybody wrongly. On paper, with 131,072 cells that are in use spread evenly, a set of 8 is
//! full for 0.02 % of new keys at 30,000 live keys, for 1 % at 60,000 and for 6 % at 90,000.

use std::sync::atomic::{AtomicU64, Ordering};

/// Cells of the table of a process unless it is told otherwise: 2 MiB.
pub(super) const CELLS: usize = 131_072;

/// Cells that are looked at together: two lines of the cache.
const WAYS: usize = 8;

/// A bucket: the time when it is full again, in nanoseconds of the limit's clock.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

/// What a bucket says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is taken out of the bucket.
    Admitted {
        /// Requests that may still come at once.
        left: u32,
        /// Nanoseconds until the bucket is full.
        full_after: u64,
    },
    /// There is none in the bucket.
    Refused {
        /// Nanoseconds until there is one.
        after: u64,
        /// Nanoseconds until the bucket is full.
        full_after: u64,
    },
}

impl Bucket {
    /// Takes a request out, at the time `now`: the bucket holds `burst`, and one comes every `interval` nanoseconds.
    ///
    /// The product of both must fit 64 bits with room for `now`. Exact whichever threads ask at the same time.
    pub(super) fn take(&self, now: u64, interval: u64, burst: u32) -> Verdict {
        let whole = interval * u64::from(burst);
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            // After a change of the limit a bucket may owe more than it holds now.
            let owed = seen.saturating_sub(now).min(whole);
            let (next, verdict) = if owed + interval > whole {
                (now + owed, Verdict::Refused { after: owed + interval - whole, full_after: owed })
            } else {
                let owed = owed + interval;
                let left = u32::try_from((whole - owed) / interval).unwrap_or(u32::MAX);
                (now + owed, Verdict::Admitted { left, full_after: owed })
            };
            if next == seen {
                return verdict;
            }
            match self.0.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return verdict,
                Err(other) => seen = other,
            }
        }
    }
}

/// A bucket of the table.
#[derive(Debug, Default)]
struct Cell {
    /// The hash that it belongs to; 0: none yet.
    owner: AtomicU64,
    bucket: Bucket,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Set([Cell; WAYS]);

/// The buckets with keys of all rate limits of a process.
#[derive(Debug)]
pub(super) struct Buckets {
    sets: Box<[Set]>,
    /// Buckets that were given up before they were full.
    given_up: AtomicU64,
}

impl Buckets {
    /// For so many cells, rounded up to a power of two.
    pub(super) fn new(cells: usize) -> Self {
        let sets = cells.div_ceil(WAYS).next_power_of_two();
        Self { sets: (0..sets).map(|_| Set::default()).collect(), given_up: AtomicU64::new(0) }
    }

    /// Buckets that were given up before they were full.
    pub(super) fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The bucket of a hash at the time `now`; a full one where there was none.
    pub(super) fn of(&self, hash: u64, now: u64) -> &Bucket {
        // The upper half says where, the whole says whose.
        let Set(cells) = &self.sets[(hash >> 32) as usize & (self.sets.len() - 1)];
        let owner = hash.max(1);
        let mut least = &cells[0];
        let mut least_full_at = u64::MAX;
        for cell in cells {
            if cell.owner.load(Ordering::Relaxed) == owner {
                return &cell.bucket;
            }
            let full_at = cell.bucket.0.load(Ordering::Relaxed);
            if full_at < least_full_at {
                (least, least_full_at) = (cell, full_at);
            }
        }
        // Another thread may take the same cell for another key in this moment: both then share one bucket once.
        least.owner.store(owner, Ordering::Relaxed);
        if least_full_at > now {
            least.bucket.0.store(0, Ordering::Relaxed);
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
        &least.bucket
    }
}

#[cfg(test)]
mod tests;
