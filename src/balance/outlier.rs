//! Which endpoints are left out for a while because their requests fail.
//!
//! Failures in a row are counted at the endpoint, whichever rule its requests come from. A rule with the policy compares
//! the counts after each failure of a request of its own, and ejects on the spot; rules without it neither eject nor look.
//! Time ends an ejection, at the pick that finds it over: nothing sweeps. What comes back is on probation, since its
//! counts stand one below the rule's thresholds: one failure ejects it again, and one success clears them.
//!
//! The length doubles with each ejection, as in Linkerd; Envoy's grows by the same amount each time.

use std::sync::Arc;
use std::time::Duration;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::{EndpointState, Fault};
use crate::model::outlier::Outlier;

/// An endpoint that was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// How long it lasts.
    pub length: Duration,
    /// Ejections in a row, this one included.
    pub count: u32,
}

/// A length differs by up to so much, so that endpoints that were ejected together do not come back together.
const SPREAD: f64 = 0.1;

/// How many of so many endpoints may be ejected at the same time: one at least, and never the last one.
fn most_ejected(endpoints: usize, percent: u32) -> usize {
    if percent == 0 {
        return 0;
    }
    (endpoints * percent as usize / 100).max(1).min(endpoints.saturating_sub(1))
}

impl BackendEndpoints {
    /// Ejects an endpoint of the backend whose `count` of faults has reached what the rule allows; `None` where it has
    /// not, where the endpoint is ejected already, or where as many are as may be. `chance` is a random number from 0
    /// to 1.
    pub fn eject(
        &self,
        endpoint: &Arc<EndpointState>,
        (fault, count): (Fault, u32),
        outlier: &Outlier,
        now: Duration,
        chance: f64,
    ) -> Option<Ejection> {
        let threshold = match fault {
            Fault::Error => outlier.errors,
            Fault::Connect => outlier.connect_failures,
        };
        if count < threshold || !self.has_room(outlier, now) {
            return None;
        }
        // Workers may come here at once: whoever is first counts for the next.
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if endpoint.is_ejected(now) || !self.has_room(outlier, now) {
            return None;
        }
        let count = endpoint.ejections_at(now, outlier.interval) + 1;
        let doubled = outlier.base.saturating_mul(1 << (count - 1).min(30)).min(outlier.longest);
        let length = doubled.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * chance);
        endpoint.eject(now + length, count, (outlier.errors - 1, outlier.connect_failures - 1));
        Some(Ejection { length, count })
    }

    /// Whether one more may be ejected.
    fn has_room(&self, outlier: &Outlier, now: Duration) -> bool {
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.is_ejected(now)).count();
        ejected < most_ejected(self.endpoints.len(), outlier.most_percent)
    }
}

#[cfg(test)]
mod tests;
