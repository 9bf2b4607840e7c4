//! What health checks count. Only the control half writes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page::Page;
use super::series::OVERFLOW;

/// How a health check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// A good answer.
    Ok,
    /// An answer that says that the endpoint is not well: another status than expected.
    Status,
    /// No connection came about.
    Connect,
    /// There was no answer in time.
    Timeout,
    /// The connection broke, or the answer is malformed.
    Answer,
}

impl CheckOutcome {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Ok, Self::Status, Self::Connect, Self::Timeout, Self::Answer];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Status => "status",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Answer => "answer",
        }
    }
}

/// Numbers of the prober.
#[derive(Debug, Default)]
pub struct HealthMetrics {
    checks: [AtomicU64; CheckOutcome::ALL.len()],
    late: AtomicU64,
}

impl HealthMetrics {
    /// Counts a check.
    pub fn checked(&self, outcome: CheckOutcome) {
        self.checks[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a check that began late because there were too many at once.
    pub fn late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of checks with an outcome.
    #[must_use]
    pub fn count(&self, outcome: CheckOutcome) -> u64 {
        self.checks[outcome as usize].load(Ordering::Relaxed)
    }

    /// The number of checks that began late.
    #[must_use]
    pub fn late_count(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    pub(super) fn render(&self, page: &mut Page) {
        for &outcome in CheckOutcome::ALL {
            page.add("tidegate_health_checks_total", &[outcome.as_str()], self.count(outcome) as f64);
        }
        page.add("tidegate_health_checks_late_total", &[], self.late_count() as f64);
    }
}

/// Endpoints of one Service that health checks ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedService {
    /// Label of the Service.
    pub service: Arc<str>,
    /// Healthy by every check.
    pub healthy: usize,
    /// Unhealthy by a check.
    pub unhealthy: usize,
}

/// Adds the endpoints of all Services, at most `most` series, and the overflow.
pub(super) fn render_endpoints(services: &[CheckedService], most: usize, page: &mut Page) {
    let own = if services.len() * 2 <= most { services.len() } else { most.saturating_sub(2) / 2 };
    let (own, folded) = services.split_at(own);
    let mut add = |service: &str, healthy: usize, unhealthy: usize| {
        page.add("tidegate_checked_endpoints", &[service, "healthy"], healthy as f64);
        page.add("tidegate_checked_endpoints", &[service, "unhealthy"], unhealthy as f64);
    };
    own.iter().for_each(|one| add(&one.service, one.healthy, one.unhealthy));
    if !folded.is_empty() {
        let sum = |count: fn(&CheckedService) -> usize| folded.iter().map(count).sum();
        add(OVERFLOW, sum(|one| one.healthy), sum(|one| one.unhealthy));
    }
}
