//! What the outcome of a try tells about its endpoint: its live numbers, and whether it is ejected.

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::decision::Matched;
use super::error::ProxyError;
use super::exchange::Exchange;
use super::grpc;
use super::retry::{Failure, Sent, Verdict};
use crate::balance::Picked;
use crate::balance::endpoint_state::Fault;
use crate::model::outlier::FAILURES;
use crate::telemetry::metrics::{EjectionCause, GrpcCode};

impl Exchange {
    /// Enters at the endpoint that it answered, and how.
    #[inline]
    pub(super) fn note_answer(&self, picked: &Picked, status: StatusCode, fields: &HeaderMap) {
        let is_watched = || self.account.matched().is_some_and(|matched| matched.outlier().is_some());
        if status.as_u16() < 500 && !is_watched() {
            picked.endpoint.succeeded(self.try_since_epoch);
        } else {
            self.judge_answer(picked, status, fields);
        }
    }

    /// As [`note_answer`](Self::note_answer), where the answer may be a fault.
    #[cold]
    fn judge_answer(&self, picked: &Picked, status: StatusCode, fields: &HeaderMap) {
        // What other rules of the endpoint count as a fault is not known here.
        let outlier = self.account.matched().and_then(Matched::outlier);
        let codes = outlier.map_or(&FAILURES[..], |outlier| &outlier.codes);
        if codes.contains(&status) || grpc::status_of_head(fields) == Some(GrpcCode::Unavailable as u32) {
            self.note_fault(picked, Fault::Error, Instant::now());
        } else {
            picked.endpoint.succeeded(self.try_since_epoch);
        }
    }

    /// Enters at the endpoint what a failed try tells about it.
    pub(super) fn note_failure(&self, picked: &Picked, failure: &Failure, verdict: Verdict, now: Instant) {
        let Failure { error, progress } = failure;
        // A connection that the endpoint closed while it was idle says nothing about the endpoint, and a connect that several
        // waited for says it once.
        let is_told = verdict == Verdict::FreshConnection || progress.learned;
        let is_connect =
            matches!(error, ProxyError::Connect(_) | ProxyError::ConnectTimeout | ProxyError::UpstreamTls(_));
        let is_clients = match error {
            ProxyError::Request if !self.blames_endpoint() => true,
            // That wait begins when the client has done its part.
            ProxyError::ResponseHead => false,
            // It had not sent everything of what the endpoint got the beginning of.
            _ => error.is_timeout() && !progress.is_sent && progress.sent == Sent::Some,
        };
        if !is_told && !is_clients && error.is_endpoint_failure() && !error.is_local() {
            let since_epoch = self.account.worker.since_epoch(now);
            picked.endpoint.failed(since_epoch);
            if error.is_timeout() {
                // It would have taken at least as long to answer.
                let waited = now.saturating_duration_since(self.decision.deadlines.try_began);
                picked.endpoint.observe_latency(waited, since_epoch);
            }
            if is_connect {
                picked.endpoint.refused(since_epoch);
            }
            let fault = match error {
                _ if is_connect => Some(Fault::Connect),
                // The endpoint most likely closed it while it was idle; or it says that it is about to leave.
                ProxyError::Reset(_) if progress.reused || progress.sent == Sent::Refused => None,
                // It passed before the endpoint had a connection.
                _ if error.is_timeout() && !progress.is_sent && progress.sent == Sent::Nothing => None,
                _ => Some(Fault::Error),
            };
            // A process that did not run for a while finds deadlines passed that nobody missed.
            if let Some(fault) = fault.filter(|_| !self.account.worker.is_late(now)) {
                self.note_fault(picked, fault, now);
            }
        }
        if let ProxyError::BadResponse(source) = error {
            self.account.worker.bad_responses().log(&picked.endpoint, source);
        }
        let error: &dyn std::error::Error = error;
        tracing::debug!(endpoint = %picked.endpoint.key.addr, error, ?verdict, "try failed");
    }

    /// Whether the present endpoint is to blame for the end of the whole exchange.
    fn blames_endpoint(&self) -> bool {
        let (deadlines, began) = (&self.decision.deadlines, self.account.started);
        let matched = self.account.matched().filter(|_| !self.account.is_own_request());
        let asked = matched.is_some_and(|matched| deadlines.is_asked(&matched.rule().timeouts, began));
        deadlines.blames_endpoint(began, asked)
    }

    /// Counts a fault of an endpoint, and ejects it where the rule says so.
    fn note_fault(&self, picked: &Picked, fault: Fault, now: Instant) {
        let count = picked.endpoint.faulted(fault);
        let worker = &self.account.worker;
        let Some(matched) = self.account.matched() else { return };
        let Some(outlier) = matched.outlier() else { return };
        let Some(endpoints) = matched.live().endpoints_of(picked.backend) else { return };
        let chance = worker.rng().borrow_mut().f64();
        let now = worker.since_epoch(now);
        let Some(ejection) = endpoints.eject(&picked.endpoint, (fault, count), outlier, now, chance) else { return };
        let cause = match fault {
            Fault::Error => EjectionCause::Errors,
            Fault::Connect => EjectionCause::Connect,
        };
        worker.metrics().endpoint_ejected(cause);
        let backend = matched.backend(picked.backend);
        let pod = backend.and_then(|backend| backend.pod_of(&picked.endpoint.key));
        let name = backend.map(|backend| format!("{}:{}", backend.key.service, backend.key.port));
        tracing::warn!(
            backend = name.as_deref(),
            endpoint = %picked.endpoint.key.addr,
            pod = pod.as_deref(),
            cause = cause.as_str(),
            in_a_row = count,
            seconds = ejection.length.as_secs_f64(),
            ejections = ejection.count,
            "endpoint ejected"
        );
    }
}
