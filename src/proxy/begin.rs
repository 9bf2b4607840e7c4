//! The begin of an exchange: from a checked head to what its phases work on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Version};
use http_body::Body as _;
use tokio::time::Instant;

use super::account::Account;
use super::client_body::ClientBody;
use super::cutoff::Cutoff;
use super::deadlines::ExchangeDeadlines;
use super::decision::{Decision, Received};
use super::downstream::{CheckedHead, Downstream};
use super::exchange::{Exchange, Reply};
use super::headers::RequestId;
use super::received_body::ReceivedBody;
use super::worker::Worker;
use crate::telemetry::access_log::{AccessLogEntry, RequestLine};

impl Exchange {
    /// Takes a request over: opens its account, and works out what its head alone tells.
    pub(super) fn new(
        worker: Rc<Worker>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<ReceivedBody>,
    ) -> Self {
        let started = Instant::now();
        let (Parts { method, uri, version, headers: fields, .. }, body) = request.into_parts();
        let live = worker.live().current();
        let request_id =
            RequestId::new(downstream.trusted || downstream.mode.is_sidecar(), &fields, &mut worker.rng().borrow_mut());
        let (body, content_length) = if body.is_end_stream() { (None, Some(0)) } else { (Some(body), None) };
        let content_length = content_length.or_else(|| body.as_ref()?.size_hint().exact());
        let mut account = Account::open(Rc::clone(&worker), started, method.clone());
        if version == Version::HTTP_2 {
            account.cutoff = Cutoff::of_stream();
        }
        let mut body = body.map(ClientBody::from);
        // The guard of HTTP/1 has an eye on the bodies there.
        if version == Version::HTTP_2
            && let Some(body) = &mut body
        {
            body.limit(worker.settings().limits.body);
        }
        let forwarders = worker.forwarders(downstream.listener);
        let received = Received { head, method, uri, fields, content_length };
        Self {
            account,
            decision: Decision::new(live, downstream, received, forwarders, ExchangeDeadlines::none(started)),
            version,
            request_id,
            handshake: None,
            body,
            upload: None,
            reply: Reply { fields: worker.take_fields(), ..Reply::default() },
            held: None,
            try_since_epoch: Duration::ZERO,
            fresh: false,
        }
    }

    /// Begins the request's line in the access log, if there is one.
    pub(super) fn begin_entry(&mut self) {
        if self.account.worker.logs() {
            self.account.entry = Some(first_entry(&self.decision, self.version, &self.request_id));
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
        tls: downstream.tls.clone(),
        ..AccessLogEntry::new(Arc::clone(&downstream.listener_name), client.address, downstream.peer, Some(line))
    })
}
