//! What the writer of statuses counts. Only the control half writes here, and seldom.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::page::Page;

/// How a write of a status ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWrite {
    /// It was written.
    Ok,
    /// The API server refuses it.
    Refused,
    /// There was no answer in time.
    Timeout,
    /// There was no answer, or one that the API server cannot work now.
    Error,
}

impl StatusWrite {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Ok, Self::Refused, Self::Timeout, Self::Error];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// Numbers of the writer of statuses.
#[derive(Debug, Default)]
pub struct StatusMetrics {
    writes: [AtomicU64; StatusWrite::ALL.len()],
    queue: AtomicUsize,
    is_leader: AtomicBool,
    transitions: AtomicU64,
    panics: AtomicU64,
}

impl StatusMetrics {
    /// Counts a write.
    pub fn wrote(&self, result: StatusWrite) {
        self.writes[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a panic of a task.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// How often [`Self::panicked`] was called.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Notes how many routes wait to be looked at or written.
    pub fn set_queue(&self, length: usize) {
        self.queue.store(length, Ordering::Relaxed);
    }

    /// Notes that this replica has become, or is no longer, the one that writes.
    pub fn set_leader(&self, is_leader: bool) {
        if self.is_leader.swap(is_leader, Ordering::Relaxed) != is_leader {
            self.transitions.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn render(&self, page: &mut Page) {
        for result in StatusWrite::ALL {
            let count = self.writes[*result as usize].load(Ordering::Relaxed);
            page.add("tidegate_status_writes_total", &[result.as_str()], count as f64);
        }
        page.add("tidegate_status_queue_length", &[], self.queue.load(Ordering::Relaxed) as f64);
        page.add("tidegate_leader", &[], f64::from(u8::from(self.is_leader.load(Ordering::Relaxed))));
        page.add("tidegate_leader_transitions_total", &[], self.transitions.load(Ordering::Relaxed) as f64);
    }
}
