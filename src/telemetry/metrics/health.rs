//! What health checks count. Only the control half writes here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::page::Page;
use super::services::add_gauges;

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

/// What is known of an endpoint of a rule with health checks or outlierDetection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing speaks against it.
    Healthy,
    /// It is ejected.
    Ejected,
    /// A check finds it unhealthy, be it ejected or not.
    Unhealthy,
    /// It terminates, and serves on.
    Draining,
}

impl HealthState {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Healthy, Self::Ejected, Self::Unhealthy, Self::Draining];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// The endpoints of one Service: its label, and how many there are of each of [`HealthState::ALL`].
pub type ServiceHealth = (Arc<str>, [usize; HealthState::ALL.len()]);

/// Adds the endpoints of all Services, at most `most` series.
pub(super) fn render_endpoints(services: &[ServiceHealth], most: usize, page: &mut Page) {
    add_gauges(
        services,
        most,
        |counts| counts.len(),
        |service, counts| {
            for (state, count) in HealthState::ALL.iter().zip(counts) {
                page.add("tidegate_backend_endpoints", &[service, state.as_str()], *count as f64);
            }
        },
    );
}
