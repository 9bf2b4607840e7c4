//! What follows a failed try: another one, or the failure as the answer.

use std::rc::Rc;

use tokio::time::Instant;

use super::decision::{Matched, Means};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::retry::{Failure, Verdict};
use crate::balance::Picked;

impl Exchange {
    /// Decides what follows a failed try: the endpoint of the next one, or the failure as the answer.
    pub(super) fn next_try(
        &mut self,
        matched: &Matched,
        picked: Picked,
        failure: Failure,
    ) -> Result<Picked, ProxyError> {
        let now = Instant::now();
        let any_method = self.account.worker.settings().forwarding.retry_non_idempotent_on_idle_close;
        let verdict = self.decision.judge(&failure, now, any_method);
        let error = failure.error;
        // A connection that the endpoint closed while it was idle says nothing about the endpoint.
        if verdict != Verdict::FreshConnection && error.is_endpoint_failure() && !error.is_local() {
            let since_epoch = self.account.worker.since_epoch(now);
            picked.endpoint.failed(since_epoch);
            if error.is_timeout() {
                // It would have taken at least as long to answer.
                let waited = now.saturating_duration_since(self.decision.deadlines.try_began);
                picked.endpoint.observe_latency(waited, since_epoch);
            }
            if matches!(error, ProxyError::Connect(_) | ProxyError::ConnectTimeout) {
                picked.endpoint.refused(since_epoch);
            }
        }
        if let ProxyError::BadResponse(source) = &error {
            self.account.worker.bad_responses().log(&picked.endpoint, source);
        }
        tracing::debug!(
            endpoint = %picked.endpoint.key.addr,
            error = &error as &dyn std::error::Error,
            ?verdict,
            "try failed"
        );
        self.fresh = verdict == Verdict::FreshConnection;
        let next = match verdict {
            Verdict::GiveUp => return Err(error),
            Verdict::FreshConnection => picked,
            Verdict::OtherEndpoint => {
                self.account.in_flight = None;
                let worker = Rc::clone(&self.account.worker);
                let means = Means { rng: worker.rng(), since_epoch: worker.since_epoch(now) };
                match self.decision.pick_elsewhere(matched, &picked, means) {
                    Some(other) if self.can_go_on(matched, &other) => other,
                    // There is no other one that can take it: the failure stands.
                    Some(_) | None => return Err(error),
                }
            }
        };
        self.account.worker.metrics().upstream_retries.inc();
        self.begin_try(matched, now);
        Ok(next)
    }
}
