//! The begin of an exchange: from a checked head to what its phases work on.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::account::Account;
use super::cutoff::Cutoff;
use super::deadlines::ExchangeDeadlines;
use super::decision::Decision;
use super::downstream::{CheckedHead, Downstream};
use super::exchange::Exchange;
use super::headers::RequestId;
use super::worker::Worker;
use crate::model::policy::Timeouts;
use crate::telemetry::access_log::{AccessLogEntry, RequestLine};

impl Exchange {
    /// Takes a request over: opens its account, and works out what its head alone tells.
    pub(super) fn new(
        worker: Rc<Worker>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<Incoming>,
    ) -> Self {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let live = worker.live().current();
        let deadlines =
            ExchangeDeadlines::new(&Timeouts::default(), worker.settings().deadlines.response_head, started);
        let request_id = RequestId::new(downstream.trusted, &parts.headers, &mut worker.rng().borrow_mut());
        let version = parts.version;
        let (body, content_length) = if body.is_end_stream() { (None, Some(0)) } else { (Some(body), None) };
        let content_length = content_length.or_else(|| body.as_ref()?.size_hint().exact());
        let forwarders = worker.forwarders(downstream.listener);
        let decision = Decision::new(live, downstream, head, parts, content_length, forwarders, deadlines);
        let mut account = Account::open(worker, started, decision.method.clone());
        if version == Version::HTTP_2 {
            account.resets = Some(Rc::clone(&decision.downstream.resets));
        }
        account.cutoff = Cutoff::of_stream();
        if account.worker.logs() {
            account.entry = Some(first_entry(&decision, version, &request_id));
        }
        Self {
            account,
            decision,
            version,
            request_id,
            handshake: None,
            body: body.map(Into::into),
            upload: None,
            fresh: false,
        }
    }
}

/// The log line as far as the request's head tells it.
fn first_entry(decision: &Decision, version: Version, request_id: &RequestId) -> Box<AccessLogEntry> {
    let Decision { downstream, head, client, method, uri, .. } = decision;
    let line = RequestLine { method: method.clone(), target: uri.clone(), protocol: version };
    let mut id = Vec::with_capacity(32);
    request_id.write(&mut id);
    Box::new(AccessLogEntry {
        host: head.hostname().map(Into::into),
        request_id: Some(String::from_utf8_lossy(&id).into()),
        ..AccessLogEntry::new(Arc::clone(&downstream.listener_name), client.address, downstream.peer, Some(line))
    })
}
