//! What the two kinds of limits keep beyond a request.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Instant;

use super::buckets::{Bucket, Buckets};
use super::decisions::Decisions;
use super::request_key::{KeyHasher, KeySource};
use super::semaphore::{Handle, Semaphores};
use crate::model::filter::StateKey;
use crate::model::request_values::RequestKey;

/// What a rate limit keeps.
#[derive(Debug)]
pub struct RateLimitState {
    /// The bucket for all, where the filter has no keys.
    plain: Bucket,
    /// The buckets of keys, those of other filters among them.
    keyed: Arc<Buckets>,
    hasher: KeyHasher,
    /// The clock of the buckets counts from here.
    epoch: Instant,
    pub(super) decisions: Decisions,
}

impl RateLimitState {
    pub(super) fn new(
        (key, secret): (&StateKey, &RandomState),
        keyed: Arc<Buckets>,
        epoch: Instant,
        workers: usize,
    ) -> Self {
        let (plain, hasher) = (Bucket::default(), KeyHasher::new(secret, key));
        Self { plain, keyed, hasher, epoch, decisions: Decisions::new(workers) }
    }

    /// The bucket of a request, and the present time as it counts it.
    pub(super) fn bucket(&self, keys: &[RequestKey], source: &KeySource<'_, '_>, now: Instant) -> (&Bucket, u64) {
        let now = now.saturating_duration_since(self.epoch).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let bucket = match keys {
            [] => &self.plain,
            keys => self.keyed.of(self.hasher.hash(keys, source), now),
        };
        (bucket, now)
    }

    /// Buckets of the process that were given up before they were full.
    pub(super) fn given_up(&self) -> u64 {
        self.keyed.given_up()
    }
}

/// What a concurrency limit keeps.
#[derive(Debug)]
pub struct ConcurrencyState {
    semaphores: Semaphores,
    hasher: KeyHasher,
    pub(super) decisions: Decisions,
}

impl ConcurrencyState {
    pub(super) fn new((key, secret): (&StateKey, &RandomState), workers: usize) -> Self {
        let (semaphores, hasher) = (Semaphores::default(), KeyHasher::new(secret, key));
        Self { semaphores, hasher, decisions: Decisions::new(workers) }
    }

    /// The semaphore of a request.
    pub(super) fn semaphore(&self, keys: &[RequestKey], source: &KeySource<'_, '_>) -> Handle {
        match keys {
            [] => self.semaphores.plain(),
            keys => self.semaphores.of(self.hasher.hash(keys, source)),
        }
    }
}
