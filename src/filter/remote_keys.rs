//! The keys behind one URL: what the control half fetches, and workers verify with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Uri;
use tokio::sync::{Notify, watch};

use crate::model::key_set::KeySet;

/// How long a request waits for keys.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Requests of the process that may wait for the keys of one URL.
const MOST_WAITING: usize = 1024;

/// Requests whose key is not there have the keys fetched at most this often: whoever makes tokens up must not turn the
/// gateway against the issuer.
const BETWEEN_ASKED: Duration = Duration::from_secs(10);

/// The keys behind one URL, shared between all filters that name it, all workers, and the fetcher.
#[derive(Debug)]
pub struct RemoteKeys {
    url: Uri,
    keys: watch::Sender<FetchedKeys>,
    /// That of the keys: read with every request, written only with another set.
    version: AtomicU64,
    /// A fetch is under way, or asked for.
    is_fetching: AtomicBool,
    /// Tells the fetcher that somebody waits.
    wanted: Notify,
    waiting: AtomicUsize,
    epoch: Instant,
    /// When requests had the keys fetched last, in nanoseconds after the epoch; 0 for never.
    asked: AtomicU64,
}

/// What was fetched from a URL.
#[derive(Clone, Debug, Default)]
pub struct FetchedKeys {
    /// The last good set, unless it is too old; `None` before the first.
    pub set: Option<Arc<KeySet>>,
    /// Another number with every other set; 0 before the first.
    pub version: u64,
    /// Fetches that have ended, well or not.
    pub fetches: u64,
    /// When the set was fetched last.
    pub at: Option<Instant>,
}

impl RemoteKeys {
    /// Before the first fetch.
    #[must_use]
    pub fn new(url: Uri) -> Self {
        Self {
            url,
            keys: watch::Sender::default(),
            version: AtomicU64::new(0),
            is_fetching: AtomicBool::new(true),
            wanted: Notify::new(),
            waiting: AtomicUsize::new(0),
            epoch: Instant::now(),
            asked: AtomicU64::new(0),
        }
    }

    /// Where they are fetched from.
    #[must_use]
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// The number of the present set.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What was fetched last. Takes a lock for a moment.
    #[must_use]
    pub fn current(&self) -> FetchedKeys {
        self.keys.borrow().clone()
    }

    /// Waits until a request needs keys that are not there. May be cancelled.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Says that a fetch begins, so that requests wait for its end.
    pub fn begin(&self) {
        self.is_fetching.store(true, Ordering::Release);
    }

    /// Says how a fetch has ended `now`; without a set, the one before stays. Wakes those who wait.
    pub fn end(&self, fetched: Option<KeySet>, now: Instant) {
        self.keys.send_modify(|keys| {
            // Together, so that nobody waits for the end of a fetch that has ended.
            self.is_fetching.store(false, Ordering::Release);
            keys.fetches += 1;
            if let Some(set) = fetched {
                keys.at = Some(now);
                if keys.set.as_deref() != Some(&set) {
                    keys.set = Some(Arc::new(set));
                    keys.version += 1;
                    self.version.store(keys.version, Ordering::Release);
                }
            }
        });
    }

    /// Gives the set up, which is too old.
    pub fn expire(&self) {
        self.keys.send_modify(|keys| {
            if keys.set.take().is_some() {
                keys.version += 1;
                self.version.store(keys.version, Ordering::Release);
            }
        });
    }

    /// Asks for other keys than those of version `seen`; `None` where there is nothing to wait for.
    pub fn want(self: &Arc<Self>, seen: u64, now: Instant) -> Option<WantedKeys> {
        let (fetches, is_coming) = {
            let keys = self.keys.borrow();
            (keys.fetches, keys.version != seen || self.is_fetching.load(Ordering::Acquire))
        };
        if !is_coming {
            if !self.may_ask(now) {
                return None;
            }
            // Others wait from now on, too.
            self.begin();
            self.wanted.notify_one();
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MOST_WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(WantedKeys { keys: Arc::clone(self), seen, fetches })
    }

    /// Whether it is this request that has the keys fetched.
    fn may_ask(&self, now: Instant) -> bool {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.epoch)).max(1);
        let last = self.asked.load(Ordering::Relaxed);
        let is_due = last == 0 || now.saturating_sub(last) >= nanos(BETWEEN_ASKED);
        is_due && self.asked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// A request's wait for other keys; dropping it takes the request back.
#[derive(Debug)]
pub struct WantedKeys {
    keys: Arc<RemoteKeys>,
    /// The version that would not do.
    seen: u64,
    /// Fetches that had ended when it was asked for.
    fetches: u64,
}

impl WantedKeys {
    /// Waits until a fetch has ended, or another set is there. May be cancelled.
    pub async fn ready(self) {
        let mut keys = self.keys.keys.subscribe();
        // It fails only when the sender is gone, which this holds.
        let _ = keys.wait_for(|keys| keys.version != self.seen || keys.fetches != self.fetches).await;
    }
}

impl Drop for WantedKeys {
    fn drop(&mut self) {
        self.keys.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
