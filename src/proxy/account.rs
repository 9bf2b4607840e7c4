//! What one request leaves behind: counts, latency, its line in the access log.
//!
//! A drop guard, held by the request and then by its response's body. However the exchange ends, cancellation included,
//! it is entered once.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use tokio::time::Instant;

use super::decision::Matched;
use super::entries::{Entries, Whose};
use super::worker::Worker;
use crate::balance::{Condition, Picked};
use crate::model::backend::Backend;
use crate::model::ids::BackendId;
use crate::reason::Reason;
use crate::telemetry::access_log::BackendText;
use crate::telemetry::metrics::{PickCondition, Side};

/// Status in log and metrics of a request whose client went away before a head (nginx's 499).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// The account of one request: small, since it moves with the request and then with its response.
pub struct Account {
    /// The worker that serves it.
    pub worker: Rc<Worker>,
    /// What is in it, until it is entered.
    entries: Option<Box<Entries>>,
}

impl Deref for Account {
    type Target = Entries;

    fn deref(&self) -> &Entries {
        self.entries.as_ref().expect(OPEN)
    }
}

impl DerefMut for Account {
    fn deref_mut(&mut self) -> &mut Entries {
        self.entries.as_mut().expect(OPEN)
    }
}

/// Nothing but the end of an account takes its entries.
const OPEN: &str = "an account that is open has entries";

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("method", &self.method).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Account {
    /// Opens the account of a request.
    pub fn open(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        worker.metrics().requests_in_flight.inc();
        Self::new(worker, started, method, Whose::Client)
    }

    /// Opens the account of a request that a filter sends of its own.
    pub fn of_own_request(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        Self::new(worker, started, method, Whose::Filter)
    }

    /// Opens the account of a call that requests share.
    pub fn of_flight(worker: Rc<Worker>, started: Instant, method: Method) -> Self {
        Self::new(worker, started, method, Whose::Flight)
    }

    fn new(worker: Rc<Worker>, started: Instant, method: Method, whose: Whose) -> Self {
        let mut entries = worker.take_entries();
        (entries.started, entries.method, entries.whose) = (started, method, whose);
        Self { worker, entries: Some(entries) }
    }

    /// Whether it is that of a filter's own request.
    pub(super) fn is_own_request(&self) -> bool {
        self.whose == Whose::Filter
    }

    /// Whether it is that of a client's request, which is answered in the task of its connection or stream.
    pub(super) fn is_of_client(&self) -> bool {
        self.whose == Whose::Client
    }

    /// Enters an answer of the gateway itself, and counts it, once for each client that gets it. A client that is gone gets
    /// none.
    pub(super) fn note_own_answer(&mut self, status: u16, reason: Reason) {
        if reason == Reason::ClientGone {
            (self.status, self.reason) = (CLIENT_CLOSED_REQUEST, Some(reason));
            return;
        }
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
            entry.backend = Some(text_of(backend));
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
        let Some(mut entries) = self.entries.take() else { return };
        entries.enter(&self.worker);
        entries.clear();
        self.worker.put_entries(entries);
    }
}

impl Entries {
    /// Enters what has become of the request.
    fn enter(&mut self, worker: &Worker) {
        let metrics = worker.metrics();
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
            worker.log(*entry);
        }
    }
}

/// A backend in the log.
pub(super) fn text_of(backend: &Backend) -> BackendText {
    let key = &backend.key;
    BackendText { namespace: Arc::clone(&key.service.namespace), name: Arc::clone(&key.service.name), port: key.port }
}
