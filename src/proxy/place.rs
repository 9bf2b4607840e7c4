//! A place at an endpoint for a request of a rule that limits them: taken at once, or waited for.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::decision::{Matched, Means, NoPick};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::worker::Worker;
use crate::balance::{EndpointState, Picked};
use crate::model::limits::EndpointLimits;

/// How often a pick is made anew because others have taken the last place of what was picked.
const PICKS: u8 = 3;

impl Exchange {
    /// What follows a first pick that found nobody: the failure, or an endpoint that a place was waited for at.
    pub(super) async fn wait_for_first(&mut self, matched: &Matched, none: NoPick) -> Result<Picked, ProxyError> {
        if let Some(backend) = none.backend.or(none.at_limit.first().map(|picked| picked.backend)) {
            self.account.note_backend(matched, backend);
        }
        let limits = matched.limits().filter(|_| !none.at_limit.is_empty());
        let Some(limits) = limits else { return Err(none.error) };
        let picked = self.wait(matched, &none.at_limit, limits).await?;
        if let Some(retry) = matched.retry() {
            self.begin_retries(matched, &picked, retry.max_body);
        }
        Ok(picked)
    }

    /// Takes a place at the endpoint that was picked, or at another one where others were quicker.
    pub(super) async fn take_place(
        &mut self,
        matched: &Matched,
        mut picked: Picked,
        limits: &EndpointLimits,
    ) -> Result<Picked, ProxyError> {
        let Some(most) = limits.requests else { return Ok(picked) };
        if self.account.in_flight.is_some() {
            return Ok(picked);
        }
        let worker = Rc::clone(&self.account.worker);
        for _ in 0..PICKS {
            if let Some(place) = picked.endpoint.try_begin(most) {
                self.account.in_flight = Some(place);
                return Ok(picked);
            }
            let means = Means { rng: worker.rng(), since_epoch: worker.since_epoch(Instant::now()) };
            match self.decision.pick(matched, means) {
                Ok(other) => picked = other,
                Err(none) if none.at_limit.is_empty() => return Err(none.error),
                Err(none) => return self.wait(matched, &none.at_limit, limits).await,
            }
        }
        self.wait(matched, &[picked], limits).await
    }

    /// Waits in the backend's queue for a place at one of the endpoints. No byte of the body is read meanwhile.
    async fn wait(
        &mut self,
        matched: &Matched,
        at_limit: &[Picked],
        limits: &EndpointLimits,
    ) -> Result<Picked, ProxyError> {
        let most = limits.requests.unwrap_or(u32::MAX);
        let endpoints = at_limit.first().and_then(|picked| matched.live().endpoints_of(picked.backend));
        let Some(endpoints) = endpoints.filter(|_| limits.pending > 0) else { return Err(ProxyError::EndpointLimit) };
        let candidates: Arc<[Arc<EndpointState>]> =
            at_limit.iter().map(|picked| Arc::clone(&picked.endpoint)).collect();
        let Some(mut place) = endpoints.pending.join(candidates, most, limits.pending) else {
            return Err(ProxyError::EndpointLimit);
        };
        let _waiting = Waiting::begin(&self.account.worker);
        let longest = Instant::now() + limits.pending_timeout;
        let until = self.decision.deadlines.request.map_or(longest, |request| request.min(longest));
        let Ok(in_flight) = tokio::time::timeout_at(until, poll_fn(|cx| place.poll(cx))).await else {
            let passed = self.decision.deadlines.passed(Instant::now());
            return Err(passed.map_or(ProxyError::PendingTimeout, ProxyError::from));
        };
        let picked = at_limit.iter().find(|picked| Arc::ptr_eq(&picked.endpoint, in_flight.endpoint()));
        let Some(picked) = picked.cloned() else { return Err(ProxyError::EndpointLimit) };
        self.account.in_flight = Some(in_flight);
        self.begin_try(matched, Instant::now());
        Ok(picked)
    }
}

/// Counts a request that waits.
struct Waiting(Rc<Worker>);

impl Waiting {
    fn begin(worker: &Rc<Worker>) -> Self {
        worker.metrics().pending_requests.inc();
        Self(Rc::clone(worker))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.metrics().pending_requests.dec();
    }
}
