//! Fetches the sets of keys that tokens are verified with, one fetcher for each URL of the whole process.
//!
//! It belongs to the control half and follows the active version: routes, rules and workers that name the same URL share
//! what is fetched. Keys are fetched with the first version that names them, again before they are as old as the filter
//! says, and when a token names a key that is not there. While the server cannot be asked, the last good keys stay.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::Uri;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::fetch::{FetchError, Fetcher};
use crate::filter::RemoteKeys;
use crate::live::{Live, LiveView};
use crate::model::key_set::{KeySet, KeySetError};
use crate::telemetry::metrics::{FetchOutcome, KeyFetchMetrics, Metrics};

/// How long one fetch may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The part of their time after which keys are fetched again: replicas that start together do not ask together for long.
const REFRESH: std::ops::Range<f64> = 0.75..0.9;

/// The pauses after the first failure and between many.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Keys that could not be fetched again are used for at least this long, and for this many times the time that the filter
/// says.
const OLDEST: (Duration, u32) = (Duration::from_secs(24 * 3600), 10);

/// Fetches the keys that the active version needs, until nothing is published any more.
///
/// A panic of one fetch harms that one alone. May be cancelled: then all fetches end.
pub async fn run(live: LiveView, fetcher: Fetcher, metrics: Arc<Metrics>, seed: u64) {
    Fetches::new(fetcher, metrics, seed).follow(live).await;
}

/// What fetches a document; another one in tests.
trait Fetch: Clone + Send + Sync + 'static {
    /// Fetches it once, at most so many bytes; dropping the future ends it.
    fn get(&self, url: &Uri, most: usize) -> impl Future<Output = Result<Bytes, FetchError>> + Send;
}

impl Fetch for Fetcher {
    async fn get(&self, url: &Uri, most: usize) -> Result<Bytes, FetchError> {
        Self::get(self, url, most).await
    }
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The document could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is no set of keys.
    #[error(transparent)]
    Document(#[from] KeySetError),
}

impl Failure {
    fn outcome(&self) -> FetchOutcome {
        match self {
            Self::Fetch(FetchError::Timeout) => FetchOutcome::Timeout,
            Self::Fetch(FetchError::Status(_)) => FetchOutcome::Status,
            Self::Fetch(FetchError::Tls(_)) => FetchOutcome::Tls,
            Self::Fetch(FetchError::Size(_)) | Self::Document(_) => FetchOutcome::Document,
            Self::Fetch(
                FetchError::Url
                | FetchError::Name(_)
                | FetchError::Address
                | FetchError::Connect(_)
                | FetchError::Http(_),
            ) => FetchOutcome::Connect,
        }
    }
}

/// All fetches that run.
struct Fetches<F> {
    fetch: F,
    metrics: Arc<Metrics>,
    rng: fastrand::Rng,
    /// By the address of the keys, which the task holds.
    running: HashMap<usize, (Duration, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl<F: Fetch> Fetches<F> {
    fn new(fetch: F, metrics: Arc<Metrics>, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { fetch, metrics, rng, running: HashMap::new(), tasks: JoinSet::new() }
    }

    async fn follow(mut self, mut live: LiveView) {
        loop {
            let current = live.current();
            self.sync(&current);
            let next = current.version() + 1;
            // Old versions are not kept from being dropped.
            drop(current);
            if live.reached(next).await.is_err() {
                return;
            }
        }
    }

    /// Begins what a version needs and does not run, or runs at another pace, and ends what it no longer needs.
    fn sync(&mut self, live: &Live) {
        let mut before = std::mem::take(&mut self.running);
        for (keys, cache_duration) in live.remote_keys() {
            let id = Arc::as_ptr(keys).addr();
            let handle = match before.remove(&id) {
                Some((duration, handle)) if duration == cache_duration => handle,
                other => {
                    if let Some((_, handle)) = other {
                        handle.abort();
                    }
                    let fetching = Fetching {
                        keys: Arc::clone(keys),
                        cache_duration,
                        counts: self.metrics.key_fetches(),
                        metrics: Arc::clone(&self.metrics),
                        failures: 0,
                    };
                    self.tasks.spawn(fetching.run(self.fetch.clone(), self.rng.fork()))
                }
            };
            self.running.insert(id, (cache_duration, handle));
        }
        before.into_values().for_each(|(_, gone)| gone.abort());
        // What has ended is let go.
        while self.tasks.try_join_next().is_some() {}
    }
}

/// The fetches of one URL.
struct Fetching {
    keys: Arc<RemoteKeys>,
    cache_duration: Duration,
    counts: Arc<KeyFetchMetrics>,
    metrics: Arc<Metrics>,
    /// Fetches that have failed since one has not.
    failures: u32,
}

impl Fetching {
    /// Fetches until the future is dropped.
    async fn run<F: Fetch>(mut self, fetch: F, mut rng: fastrand::Rng) {
        loop {
            self.keys.begin();
            let result = AssertUnwindSafe(self.fetch(&fetch)).catch_unwind().await;
            let pause = match result {
                Ok(Ok(set)) => self.succeed(set, &mut rng),
                Ok(Err(failure)) => self.fail(&failure, &mut rng),
                // A fault of ours, which says nothing about the server.
                Err(_) => {
                    self.metrics.control_panicked();
                    self.keys.end(None, Instant::now().into_std());
                    PAUSES.1
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.keys.wanted() => {}
            }
        }
    }

    async fn fetch<F: Fetch>(&self, fetch: &F) -> Result<KeySet, Failure> {
        let fetched = timeout(DEADLINE, fetch.get(self.keys.url(), KeySet::MAX_BYTES)).await;
        Ok(KeySet::parse(&fetched.unwrap_or(Err(FetchError::Timeout))?)?)
    }

    /// Hands a set over; how long it is until the next fetch.
    fn succeed(&mut self, set: KeySet, rng: &mut fastrand::Rng) -> Duration {
        let url = self.keys.url();
        self.counts.fetched(FetchOutcome::Ok);
        if self.failures > 0 || self.keys.current().fetches == 0 {
            tracing::info!(%url, "the keys of tokens were fetched");
        }
        self.failures = 0;
        self.keys.end(Some(set), Instant::now().into_std());
        self.cache_duration.mul_f64(REFRESH.start + (REFRESH.end - REFRESH.start) * rng.f64())
    }

    /// Says that there is no new set; how long it is until the next fetch.
    fn fail(&mut self, failure: &Failure, rng: &mut fastrand::Rng) -> Duration {
        self.counts.fetched(failure.outcome());
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now().into_std();
        self.keys.end(None, now);
        let age = self.keys.current().at.map(|at| now.saturating_duration_since(at));
        let oldest = OLDEST.0.max(self.cache_duration.saturating_mul(OLDEST.1));
        // A server that answers with a set without keys has withdrawn them.
        let are_withdrawn = matches!(failure, Failure::Document(KeySetError::NoKey));
        if are_withdrawn || age.is_some_and(|age| age >= oldest) {
            self.keys.expire();
        }
        let stays = match age {
            Some(age) if age < oldest && !are_withdrawn => "the last good keys stay active",
            Some(_) | None => "there are no keys: requests with a token are answered with 503",
        };
        let cause = std::error::Error::source(failure).map(ToString::to_string);
        let (url, times) = (self.keys.url(), self.failures);
        tracing::warn!(%url, error = %failure, cause, times, "the keys of tokens cannot be fetched; {stays}");
        let longest = PAUSES.0.saturating_mul(1 << (times - 1).min(6)).min(PAUSES.1);
        longest.mul_f64(0.5 + rng.f64() / 2.0)
    }
}

#[cfg(test)]
mod tests;
