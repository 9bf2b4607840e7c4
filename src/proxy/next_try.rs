//! What follows a failed try: another one, or the failure as the answer.

use std::rc::Rc;

use tokio::time::Instant;

use super::decision::{Matched, Means};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::headers;
use super::retry::policy::{Facts, Wish, decide, wish_after_failure};
use super::retry::{Again, Missed, Verdict};
use crate::balance::Picked;
use crate::telemetry::access_log::TryText;
use crate::telemetry::metrics::{RetryDenial, RetryTrigger};

impl Exchange {
    /// Before the first try of a request that its rule may have tried again: counts it, and begins to keep its body.
    pub(super) fn begin_retries(&mut self, matched: &Matched, picked: &Picked, max_body: usize) {
        if let Some(budget) = matched.live().retry_budget(picked.backend) {
            budget.count(self.try_since_epoch);
        }
        if let Some(body) = &mut self.body
            && !self.account.worker.is_short_of_memory()
        {
            body.keep(max_body, self.account.worker.replay_room());
        }
    }

    /// Decides what follows a try that brought no answer for the client: the endpoint of the next one, once its time has
    /// come, or the failure as the answer.
    pub(super) async fn next_try(
        &mut self,
        matched: &Matched,
        picked: Picked,
        missed: Missed,
    ) -> Result<Picked, ProxyError> {
        let now = Instant::now();
        self.fresh = false;
        let (again, error) = match missed {
            Missed::Unwanted(again) => (again, None),
            Missed::Failed(failure) => {
                let any_method = self.account.worker.settings().forwarding.retry_non_idempotent_on_idle_close;
                let verdict = self.decision.judge(&failure, now, any_method);
                self.note_failure(&picked, &failure, verdict, now);
                let next = match verdict {
                    Verdict::GiveUp => None,
                    Verdict::FreshConnection => {
                        self.fresh = true;
                        Some((picked.clone(), RetryTrigger::Stale))
                    }
                    // Where no other one can take it, the failure stands.
                    Verdict::OtherEndpoint => self.pick_elsewhere(matched, &picked, now),
                };
                if let Some((next, trigger)) = next {
                    self.note_next(&picked, trigger, now);
                    self.begin_try(matched, now);
                    return Ok(next);
                }
                let wish = matched.retry().and_then(|retry| wish_after_failure(retry, &self.decision.method, &failure));
                let again = wish.and_then(|wish| self.again(matched, &picked, wish, failure.progress.is_repeatable));
                let Some(again) = again else { return Err(failure.error) };
                (again, Some(failure.error))
            }
        };
        self.note_next(&picked, again.trigger, now);
        self.account.in_flight = None;
        self.decision.avoid(&picked);
        self.try_again(matched, &picked, again, error).await
    }

    /// The endpoint of a try that was granted, after its pause.
    async fn try_again(
        &mut self,
        matched: &Matched,
        failed: &Picked,
        again: Again,
        error: Option<ProxyError>,
    ) -> Result<Picked, ProxyError> {
        let worker = Rc::clone(&self.account.worker);
        let means = |now| Means { rng: worker.rng(), since_epoch: worker.since_epoch(now) };
        // Nobody has seen it: another endpoint gets it at once.
        let elsewhere = match again.trigger {
            RetryTrigger::Connect => self.decision.pick_elsewhere(matched, means(Instant::now())),
            _ => None,
        };
        if elsewhere.is_none() && !again.pause.is_zero() {
            tokio::time::sleep(again.pause).await;
        }
        let now = Instant::now();
        let next = match elsewhere {
            Some(next) => next,
            None => match self.decision.pick_again(matched, means(now)) {
                Ok(next) => next,
                Err(none) => return Err(error.unwrap_or(none)),
            },
        };
        // Parts of a body that were framed for HTTP/1 cannot go on over HTTP/2.
        let next = if self.can_go_on(matched, &next) { next } else { failed.clone() };
        if !self.can_go_on(matched, &next) {
            return Err(error.unwrap_or(ProxyError::NoEndpoints));
        }
        self.begin_try(matched, now);
        Ok(next)
    }

    /// Another endpoint for a request that none has seen; `None` where there is no other one that can take it.
    fn pick_elsewhere(&mut self, matched: &Matched, failed: &Picked, now: Instant) -> Option<(Picked, RetryTrigger)> {
        self.account.in_flight = None;
        self.decision.avoid(failed);
        let worker = Rc::clone(&self.account.worker);
        let means = Means { rng: worker.rng(), since_epoch: worker.since_epoch(now) };
        let other = self.decision.pick_elsewhere(matched, means)?;
        self.can_go_on(matched, &other).then_some((other, RetryTrigger::Connect))
    }

    /// Grants the try that a rule's policy wishes, out of the backend's budget, or counts why there is none.
    pub(super) fn again(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        wish: Wish,
        is_repeatable: bool,
    ) -> Option<Again> {
        // The policy is for clients' requests.
        let retry = matched.retry().filter(|_| !self.account.is_own_request())?;
        let (worker, decision) = (&self.account.worker, &self.decision);
        let now = Instant::now();
        if worker.is_short_of_memory() {
            worker.metrics().upstream_retry_denied(RetryDenial::Memory);
            return None;
        }
        let facts = Facts {
            made: decision.policy_tries,
            is_repeatable,
            is_further_try: decision.downstream.trusted && decision.fields.contains_key(headers::X_TIDEGATE_ATTEMPT),
            left: decision.deadlines.request.map(|at| at.saturating_duration_since(now)),
        };
        let budget = || {
            let budget = matched.live().retry_budget(picked.backend);
            budget.is_some_and(|budget| budget.take(&retry.budget, worker.since_epoch(now)))
        };
        match decide(retry, wish, facts, &mut worker.rng().borrow_mut(), budget) {
            Ok(pause) => {
                self.decision.policy_tries += 1;
                Some(Again { trigger: wish.trigger, pause })
            }
            Err(denied) => {
                if let Some(denied) = denied {
                    worker.metrics().upstream_retry_denied(denied);
                }
                None
            }
        }
    }

    /// Which try of the request this is, where a rule's policy made it.
    pub(super) fn attempt_number(&self) -> Option<u8> {
        let made = self.decision.policy_tries;
        (made > 0).then(|| made.saturating_add(1))
    }

    /// Counts and logs that another try follows the one at `picked`.
    fn note_next(&mut self, picked: &Picked, trigger: RetryTrigger, now: Instant) {
        self.account.worker.metrics().upstream_retry(trigger);
        let took = now.saturating_duration_since(self.decision.deadlines.try_began);
        if let Some(entry) = &mut self.account.entry {
            entry.tries.push(TryText { endpoint: picked.endpoint.key.addr, trigger, took });
        }
    }
}
