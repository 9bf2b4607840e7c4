//! One endpoint and one check: asking at intervals, and what follows from the answers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::ask::{Ask, Failure, Target};
use super::pace::Pace;
use super::streak::Streak;
use crate::balance::{EndpointHealth, LastCheck};
use crate::telemetry::metrics::{CheckOutcome, HealthMetrics, Metrics};
use crate::tls::ClientTls;

/// The first check comes after a random part of this, or of the interval where that is shorter: replicas that start
/// together, and endpoints that come together, are not asked together.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// Intervals differ by up to this share, so that checks that happen to fall together do not stay so.
const JITTER: f64 = 0.1;

/// A check that begins later than this share of its interval counts as late.
const LATE: f64 = 0.1;

/// An endpoint and a check, with the names that the log has for it.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) health: Arc<EndpointHealth>,
    /// The settings of handshakes; the health itself is made anew when they change.
    pub(super) tls: Option<Arc<ClientTls>>,
    /// The backend: `namespace/name:port`.
    pub(super) backend: String,
    pub(super) pod: Option<Arc<str>>,
}

/// What all watches share.
#[derive(Clone, Debug)]
pub(super) struct Shared<A> {
    pub(super) ask: A,
    pub(super) pace: Pace,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counts: Arc<HealthMetrics>,
    /// What endpoints count times from.
    pub(super) epoch: Instant,
}

impl Watch {
    /// Asks until the future is dropped.
    pub(super) async fn run<A: Ask>(self, shared: Shared<A>, mut rng: fastrand::Rng) {
        let check = Arc::clone(self.health.check());
        let mut streak = Streak::default();
        // Good answers since it was ejected.
        let mut good_while_ejected = 0;
        let mut due = Instant::now() + check.interval.min(FIRST_WITHIN).mul_f64(rng.f64());
        loop {
            sleep_until(due).await;
            let place = shared.pace.place().await;
            let begun = Instant::now();
            if begun - due > check.interval.mul_f64(LATE) {
                shared.counts.late();
            }
            // From beginning to beginning: slow answers do not make checks rarer. One that is late puts off those behind.
            due = begun + check.interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.f64());
            let asked = AssertUnwindSafe(self.ask(&shared.ask, begun + check.timeout)).catch_unwind().await;
            drop(place);
            // A fault of ours says nothing about the endpoint.
            let Ok(answer) = asked else {
                shared.metrics.control_panicked();
                continue;
            };
            shared.counts.checked(answer.as_ref().map_or_else(Failure::outcome, |()| CheckOutcome::Ok));
            if let Some(is_unhealthy) = streak.take(answer.is_ok(), &check) {
                if is_unhealthy {
                    self.health.fell_ill();
                } else {
                    self.health.recovered(shared.epoch.elapsed());
                }
                self.tell(&answer);
            }
            // Requests failed, the check does not: it may serve again before its time.
            let (endpoint, now) = (self.health.endpoint(), shared.epoch.elapsed());
            let is_good = answer.is_ok() && endpoint.is_ejected(now);
            good_while_ejected = if is_good { good_while_ejected + 1 } else { 0 };
            if good_while_ejected >= check.healthy_threshold {
                good_while_ejected = 0;
                endpoint.restore(now);
                tracing::warn!(backend = self.backend, endpoint = %endpoint.key.addr, pod = self.pod.as_deref(), %check,
                    times = check.healthy_threshold, "ejection ends because the check is passed");
            }
            let failure = answer.err().map(|failure| failure.to_string());
            self.health.set_last(LastCheck { at: SystemTime::now(), failure });
        }
    }

    async fn ask<A: Ask>(&self, ask: &A, deadline: Instant) -> Result<(), Failure> {
        let target = Target::of(&self.health, self.tls.clone());
        timeout_at(deadline, ask.ask(&target)).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// Says in the log that the endpoint is unhealthy, or healthy again.
    fn tell(&self, last: &Result<(), Failure>) {
        let endpoint = self.health.endpoint().key.addr;
        let (backend, check, pod) = (&self.backend, self.health.check(), self.pod.as_deref());
        match last {
            Err(cause) => {
                let cause = cause.to_string();
                let times = check.unhealthy_threshold;
                tracing::warn!(backend, %endpoint, pod, %check, times, cause, "endpoint is unhealthy");
            }
            Ok(()) => {
                let times = check.healthy_threshold;
                tracing::warn!(backend, %endpoint, pod, %check, times, "endpoint is healthy again");
            }
        }
    }
}
