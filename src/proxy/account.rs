//! What one request leaves behind: counts, latency, its line in the access log.
//!
//! A drop guard, held by the request and then by its response's body. However the exchange ends, cancellation included,
//! it is entered once.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use tokio::time::Instant;

use super::cutoff::Cutoff;
use super::decision::Matched;
use super::grpc::CallStatus;
use super::worker::Worker;
use crate::balance::{Condition, InFlight, Picked};
use crate::filter::Permits;
use crate::model::ids::BackendId;
use crate::reason::Reason;
use crate::telemetry::access_log::{AccessLogEntry, BackendText};
use crate::telemetry::metrics::{PickCondition, Side};

/// Status in log and metrics of a request whose client went away before a head (nginx's 499).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Whose request an account is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A client's.
    Client,
    /// A filter's own: only what passes between the gateway and endpoints is counted.
    Filter,
    /// A call that clients' requests share: these have accounts of their own, which know no endpoint.
    Flight,
}

/// The account of one request.
pub struct Account {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// When its head was complete.
    pub started: Instant,
    /// Its method.
    pub method: Method,
    /// The rule that it belongs to, once found.
    matched: Option<Matched>,
    /// The backend that was chosen last.
    backend: Option<BackendId>,
    /// Status of the head that went out; 0 before.
    pub status: u16,
    /// Why tidegate answered or cut it.
    pub reason: Option<Reason>,
    /// Its code, when it is a gRPC call.
    pub(super) call: CallStatus,
    /// Counts it as in flight at its endpoint.
    pub in_flight: Option<InFlight>,
    /// What concurrency limits have given it, for as long as it is in flight; few requests have some.
    pub permits: Permits,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Bytes sent to endpoints.
    pub upstream_sent: u64,
    /// Bytes received from endpoints.
    pub upstream_received: u64,
    /// The response was handed over to its end.
    pub complete: bool,
    /// What ends it at its deadline, from its response head on; over HTTP/2 from its begin.
    pub cutoff: Option<Rc<Cutoff>>,
    whose: Whose,
    /// Its line in the access log, when there is one.
    pub entry: Option<Box<AccessLogEntry>>,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("method", &self.method).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Account {
    /// Opens the account of a request.
    pub fn open(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        worker.metrics().requests_in_flight.inc();
        Self::new(worker, started, method)
    }

    /// Opens the account of a request that a filter sends of its own.
    pub fn of_own_request(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        let mut account = Self::new(worker, started, method);
        account.whose = Whose::Filter;
        account
    }

    /// Opens the account of a call that requests share.
    pub fn of_flight(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        let mut account = Self::new(worker, started, method);
        account.whose = Whose::Flight;
        account
    }

    fn new(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        Self {
            worker,
            started,
            method,
            matched: None,
            backend: None,
            status: 0,
            reason: None,
            call: CallStatus::NoCall,
            in_flight: None,
            permits: Permits::default(),
            bytes_in: 0,
            bytes_out: 0,
            upstream_sent: 0,
            upstream_received: 0,
            complete: false,
            cutoff: None,
            whose: Whose::Client,
            entry: None,
        }
    }

    /// Whether it is that of a filter's own request.
    pub(super) fn is_own_request(&self) -> bool {
        self.whose == Whose::Filter
    }

    /// Enters an answer of the gateway itself, and counts it, once for each client that gets it.
    pub(super) fn note_own_answer(&mut self, status: u16, reason: Reason) {
        if self.whose != Whose::Flight {
            self.worker.metrics().own_answer(reason);
        }
        self.status = status;
        self.reason = Some(reason);
    }

    /// Enters the rule that the request belongs to.
    pub(super) fn note_rule(&mut self, matched: &Matched) {
        if let Some(entry) = &mut self.entry {
            entry.route = matched.route_label().map(Arc::clone);
            entry.rule = Some(Arc::clone(&matched.rule().name));
        }
        self.matched = Some(matched.clone());
    }

    /// The rule that the request belongs to, once found.
    pub(super) fn matched(&self) -> Option<&Matched> {
        self.matched.as_ref()
    }

    /// Counts the request at its endpoint, and names it in the log.
    pub(super) fn note_endpoint(&mut self, matched: &Matched, picked: &mut Picked) {
        if let Some(condition) = picked.given_up.take().and_then(counted) {
            self.worker.metrics().pick_failed_open(condition);
        }
        self.in_flight.get_or_insert_with(|| picked.endpoint.begin());
        self.note_backend(matched, picked.backend);
        if let Some(entry) = &mut self.entry {
            entry.endpoint = Some(picked.endpoint.key.addr);
            entry.pod = matched.backend(picked.backend).and_then(|backend| backend.pod_of(&picked.endpoint.key));
        }
    }

    /// Counts the request at the backend that was chosen, whether or not it has an endpoint, and names it in the log.
    pub(super) fn note_backend(&mut self, matched: &Matched, id: BackendId) {
        self.backend = Some(id);
        if let Some(entry) = &mut self.entry
            && let Some(backend) = matched.backend(id)
        {
            entry.backend = Some(BackendText {
                namespace: Arc::clone(&backend.key.service.namespace),
                name: Arc::clone(&backend.key.service.name),
                port: backend.key.port,
            });
        }
    }

    /// When the client took or sent something last, where a rule limits silence.
    pub fn client_moved(&self) -> Option<Instant> {
        self.cutoff.as_ref()?.client_moved()
    }
}

/// How a condition that a pick gave up is counted; a further try that repeats itself is counted as one.
fn counted(condition: Condition) -> Option<PickCondition> {
    match condition {
        Condition::Near => Some(PickCondition::Near),
        Condition::Refused => Some(PickCondition::Refused),
        Condition::Ejected => Some(PickCondition::Ejected),
        Condition::Unhealthy => Some(PickCondition::Unhealthy),
        Condition::Tried => None,
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let metrics = self.worker.metrics();
        // The downstream side counts its own bytes, where heads are seen as well.
        metrics.received(Side::Upstream, self.upstream_received);
        metrics.sent(Side::Upstream, self.upstream_sent);
        let status = if self.status == 0 { CLIENT_CLOSED_REQUEST } else { self.status };
        if self.whose != Whose::Filter
            && let Some((matched, backend)) = self.matched.as_ref().zip(self.backend)
        {
            matched.live().record_backend(backend, status);
        }
        if self.whose != Whose::Client {
            return;
        }
        metrics.requests_in_flight.dec();
        if let Some(reason) = self.cutoff.take().and_then(|cutoff| cutoff.clear()) {
            self.reason = Some(reason);
            let stalled = matches!(reason, Reason::WriteStall | Reason::Overload | Reason::BodySlow);
            metrics.closed(if stalled { Side::Downstream } else { Side::Upstream }, reason);
        }
        if !self.complete && self.reason.is_none() {
            self.reason = Some(Reason::ClientGone);
        }
        let elapsed = self.started.elapsed();
        let code = self.call.at_end(status, self.reason, self.complete);
        if let Some(matched) = &self.matched {
            matched.live().record(matched.id(), &self.method, status, elapsed);
            if let Some(code) = code {
                matched.live().record_call(matched.id(), code);
            }
        }
        if let Some(mut entry) = self.entry.take() {
            entry.status = status;
            entry.reason = self.reason;
            entry.grpc_status = code;
            entry.bytes_in = self.bytes_in;
            entry.bytes_out = self.bytes_out;
            entry.duration = elapsed;
            self.worker.log(*entry);
        }
    }
}
