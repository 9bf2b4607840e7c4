//! What is known about the watches of an API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::page::Page;

/// Why a watch did not simply go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// What was read is too old to go on from, or newer than the API server.
    Expired,
    /// Versions fell: events in the wrong order, or data of an earlier time.
    Disordered,
    /// The API server refuses these credentials.
    Forbidden,
    /// The API server does not serve the kind.
    NotServed,
    /// The API server has too much to do.
    Throttled,
    /// The API server answers with another error.
    Refused,
    /// Nothing came, and no end.
    Silent,
    /// There was no whole answer.
    Broken,
    /// It was time for a new list.
    Relist,
}

impl Restart {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Expired,
        Self::Disordered,
        Self::Forbidden,
        Self::NotServed,
        Self::Throttled,
        Self::Refused,
        Self::Silent,
        Self::Broken,
        Self::Relist,
    ];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Disordered => "disordered",
            Self::Forbidden => "forbidden",
            Self::NotServed => "not_served",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::Broken => "broken",
            Self::Relist => "relist",
        }
    }
}

/// Numbers of one watch. Written by the control half only.
#[derive(Debug)]
pub struct WatchCells {
    kind: &'static str,
    began: Instant,
    /// When the API server last said something that counts: milliseconds after the start.
    heard: AtomicU64,
    is_unavailable: AtomicBool,
    /// How many follow something under this at present: there may be nothing that somebody wants to have read.
    following: AtomicUsize,
    restarts: [AtomicU64; Restart::ALL.len()],
    objects: AtomicU64,
    held: AtomicU64,
    events: AtomicU64,
    bytes: Arc<AtomicU64>,
}

impl WatchCells {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            began: Instant::now(),
            heard: AtomicU64::new(0),
            is_unavailable: AtomicBool::new(false),
            following: AtomicUsize::new(0),
            restarts: Default::default(),
            objects: AtomicU64::new(0),
            held: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes: Arc::default(),
        }
    }

    /// The API server has sent so many objects of a list, or events of a watch.
    pub fn received(&self, events: usize) {
        self.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// The API server has said something that counts: the state is that of this moment.
    pub fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Something is followed from now on, for as long as what this gives is kept.
    #[must_use]
    pub fn follow(self: &Arc<Self>) -> Following {
        if self.following.fetch_add(1, Ordering::Relaxed) == 0 {
            // How long nobody asked is no age.
            self.heard();
        }
        Following(Arc::clone(self))
    }

    /// The kind can be read, or not.
    pub fn set_available(&self, available: bool) {
        self.is_unavailable.store(!available, Ordering::Relaxed);
    }

    /// The watch begins anew for this reason.
    pub fn restarted(&self, why: Restart) {
        self.restarts[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many objects there are, and how many of them only because their removal is not believed yet.
    pub fn set_objects(&self, objects: usize, held: usize) {
        self.objects.store(objects as u64, Ordering::Relaxed);
        self.held.store(held as u64, Ordering::Relaxed);
    }

    /// Where the bytes of lists and watches are added up by what reads them.
    #[must_use]
    pub fn bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes)
    }

    /// How often the watch began anew for this reason.
    #[must_use]
    pub fn restarts(&self, why: Restart) -> u64 {
        self.restarts[why as usize].load(Ordering::Relaxed)
    }

    fn is_followed(&self) -> bool {
        self.following.load(Ordering::Relaxed) > 0
    }

    /// Nothing where nothing is followed: what nobody asks about is not old.
    fn age(&self) -> Duration {
        if !self.is_followed() {
            return Duration::ZERO;
        }
        self.began.elapsed().saturating_sub(Duration::from_millis(self.heard.load(Ordering::Relaxed)))
    }
}

/// That something is followed.
#[derive(Debug)]
pub struct Following(Arc<WatchCells>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All watches of a kind.
#[derive(Default)]
struct OfKind {
    age: Duration,
    is_unavailable: bool,
    restarts: [u64; Restart::ALL.len()],
    objects: u64,
    held: u64,
    events: u64,
    bytes: u64,
}

/// Adds everything about watches to a page.
pub(super) fn render<'a>(watches: impl Iterator<Item = &'a WatchCells>, page: &mut Page) {
    let mut kinds: BTreeMap<&'static str, OfKind> = BTreeMap::new();
    for watch in watches {
        let kind = kinds.entry(watch.kind).or_default();
        kind.age = kind.age.max(watch.age());
        kind.is_unavailable |= watch.is_followed() && watch.is_unavailable.load(Ordering::Relaxed);
        for &why in Restart::ALL {
            kind.restarts[why as usize] += watch.restarts(why);
        }
        kind.objects += watch.objects.load(Ordering::Relaxed);
        kind.held += watch.held.load(Ordering::Relaxed);
        kind.events += watch.events.load(Ordering::Relaxed);
        kind.bytes += watch.bytes.load(Ordering::Relaxed);
    }
    for (name, kind) in kinds {
        page.add("tidegate_watch_available", &[name], f64::from(u8::from(!kind.is_unavailable)));
        page.add("tidegate_watch_age_seconds", &[name], kind.age.as_secs_f64());
        page.add("tidegate_watch_objects", &[name], kind.objects as f64);
        page.add("tidegate_watch_removals_held", &[name], kind.held as f64);
        page.add("tidegate_watch_events_total", &[name], kind.events as f64);
        page.add("tidegate_watch_bytes_total", &[name], kind.bytes as f64);
        // Every cause has its zero: Prometheus sees no increase where a counter begins at one.
        for &why in Restart::ALL {
            page.add("tidegate_watch_restarts_total", &[name, why.as_str()], kind.restarts[why as usize] as f64);
        }
    }
}
