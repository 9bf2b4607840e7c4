//! Fetches of the keys that tokens are verified with.

use std::sync::atomic::{AtomicU64, Ordering};

use super::page::Page;

/// How a fetch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// With keys.
    Ok,
    /// The server could not be reached, or the exchange broke.
    Connect,
    /// The server's certificate is not trusted, or it does not speak TLS.
    Tls,
    /// The server answered with another status than 200.
    Status,
    /// The document is no set of keys, or too large.
    Document,
    /// It took too long.
    Timeout,
}

impl FetchOutcome {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Ok, Self::Connect, Self::Tls, Self::Status, Self::Document, Self::Timeout];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Document => "document",
            Self::Timeout => "timeout",
        }
    }
}

/// Counts fetches.
#[derive(Debug, Default)]
pub struct KeyFetchMetrics {
    fetches: [AtomicU64; FetchOutcome::ALL.len()],
}

impl KeyFetchMetrics {
    /// Counts one.
    pub fn fetched(&self, outcome: FetchOutcome) {
        self.fetches[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number that has ended so.
    #[must_use]
    pub fn count(&self, outcome: FetchOutcome) -> u64 {
        self.fetches[outcome as usize].load(Ordering::Relaxed)
    }

    pub(super) fn render(&self, page: &mut Page) {
        for &outcome in FetchOutcome::ALL {
            page.add("tidegate_jwks_fetches_total", &[outcome.as_str()], self.count(outcome) as f64);
        }
    }
}
