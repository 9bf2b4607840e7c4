//! The request path, as phases: match, filters in, pick, connect, send, filters out, respond.
//!
//! One [`Exchange`] holds a request from its head to its response; what outlives that, the accounting, moves into the
//! response's body. Nothing here waits but for the endpoint and the client.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::{HeaderMap, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::account::Account;
use super::attempt::Failure;
use super::body::{ClientBody, Content, ForwardBody};
use super::deadlines::Deadlines;
use super::downstream::{CheckedHead, Downstream, OwnAnswer, drop_unread};
use super::error::{AnswerForm, ProxyError, made_response, own_response};
use super::headers::{self, RequestId};
use super::layers::{Early, Layers};
use super::retry::{Tries, Verdict};
use super::upgrade::Handshake;
use super::worker::Worker;
use crate::balance::{self, KeySource, Pick, PickRequest, Picked};
use crate::http1::client::Upload;
use crate::model::ids::RuleId;
use crate::model::matching::{Found, Miss, RequestView};
use crate::model::policy::{Algorithm, Timeouts};
use crate::model::route::Rule;
use crate::reason::Reason;
use crate::telemetry::access_log::{BackendText, Entry, RequestLine};
use crate::telemetry::metrics::Where;

/// Answers one request.
///
/// The exchange begins with the call, so that its parts are not kept twice, as arguments and as an exchange.
pub fn forward(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    head: CheckedHead,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ForwardBody>> {
    let mut exchange = Exchange::new(worker, downstream, head, request);
    async move {
        let mut reply = match unwinding(exchange.run()).await {
            Ok(reply) => reply,
            Err(early) => exchange.answer(early),
        };
        let stages = exchange.leave(&mut reply);
        let Reply { status, content } = reply;
        let mut response = Response::new(ForwardBody::new(content, exchange.account).through(stages));
        *response.status_mut() = status;
        *response.headers_mut() = exchange.headers;
        response
    }
}

/// A response before it is put together; its fields stand in the exchange's headers, where those of an endpoint's head
/// were read into.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content: Content,
}

/// Turns a panic into a failure of this one request, so that its answer goes out through the filters like any other.
async fn unwinding<T>(run: impl Future<Output = Result<T, Early>>) -> Result<T, Early> {
    let mut run = pin!(run);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| Poll::Ready(Err(ProxyError::Panic.into())))
    })
    .await
}

/// A request on its way to a response.
pub(super) struct Exchange {
    pub(super) account: Account,
    pub(super) downstream: Rc<Downstream>,
    pub(super) head: CheckedHead,
    pub(super) version: Version,
    pub(super) uri: Uri,
    /// What filters made of the request; none for most.
    pub(super) layers: Option<Box<Layers>>,
    /// For a WebSocket handshake that the rule allows.
    pub(super) handshake: Option<Box<Handshake>>,
    /// The client's fields; the map is filled with the endpoint's when its head comes.
    pub(super) headers: HeaderMap,
    /// The client's body, until an upload has it.
    pub(super) body: Option<ClientBody>,
    /// What a failed try was sending, for the next one.
    pub(super) upload: Option<Box<Upload<ClientBody>>>,
    pub(super) request_id: RequestId,
    pub(super) deadlines: Deadlines,
    pub(super) tries: Tries,
    /// The next try must not take a pooled connection.
    pub(super) fresh: bool,
    /// Said before the fields are gone: how an own answer has to look.
    form: AnswerForm,
    /// The client said `te: trailers`.
    pub(super) trailers: bool,
}

impl Exchange {
    fn new(worker: Rc<Worker>, downstream: Rc<Downstream>, head: CheckedHead, request: Request<Incoming>) -> Self {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let live = worker.live().current();
        let deadlines = Deadlines::new(&Timeouts::default(), worker.settings().deadlines.response_head, started);
        let request_id = RequestId::new(downstream.trusted, &parts.headers, &mut worker.rng().borrow_mut());
        let form = AnswerForm::of(&parts.method, &parts.headers);
        let trailers = parts.headers.contains_key(header::TE) && headers::accepts_trailers(&parts.headers);
        let mut account = Account::open(worker, live, started, parts.method);
        if account.worker.logs() {
            account.entry =
                Some(first_entry(&account, &downstream, &head, parts.version, &parts.uri, &parts.headers, &request_id));
        }
        Self {
            account,
            downstream,
            head,
            version: parts.version,
            uri: parts.uri,
            layers: None,
            handshake: None,
            headers: parts.headers,
            body: (!body.is_end_stream()).then(|| body.into()),
            upload: None,
            request_id,
            deadlines,
            tries: Tries::default(),
            fresh: false,
            form,
            trailers,
        }
    }

    /// The phases up to the endpoint's response head.
    async fn run(&mut self) -> Result<Reply, Early> {
        let found = self.find_route()?;
        self.enter(found)?;
        self.begin_upgrade(found)?;
        let hash = self.hash_key(found);
        let mut picked = self.pick(found.rule, &PickRequest { hash, avoid: None })?;
        loop {
            self.enter_backend(found, &picked)?;
            let failure = match self.attempt(&picked).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            picked = self.next_try(found.rule, hash, picked, failure)?;
        }
    }

    /// Match: finds the rule and takes over its deadlines.
    fn find_route(&mut self) -> Result<Found, ProxyError> {
        if self.headers.contains_key(header::VIA) && headers::is_loop(&self.headers) {
            return Err(ProxyError::Loop);
        }
        let live = &self.account.live;
        let snapshot = live.snapshot();
        let view = RequestView {
            host: self.head.hostname(),
            method: &self.account.method,
            path: self.received_path(),
            query: self.uri.query(),
            headers: &self.headers,
        };
        let found = snapshot.find_route(self.downstream.listener, &view).map_err(|miss| match miss {
            Miss::NoHost => ProxyError::NoHost,
            Miss::NoPath => ProxyError::NoPath,
        })?;
        let rule = snapshot.rule(found.rule).ok_or(ProxyError::NoBackend)?;
        let response_head = self.account.worker.settings().deadlines.response_head;
        self.deadlines = Deadlines::new(&rule.timeouts, response_head, self.account.started);
        self.account.rule = Some(found.rule);
        if let Some(entry) = &mut self.account.entry {
            entry.route = snapshot.route(rule.route).map(|route| Arc::clone(&route.label));
            entry.rule = Some(Arc::clone(&rule.name));
        }
        if rule.delegates {
            // A request of the parent's prefix that no child took.
            return Err(ProxyError::NoPath);
        }
        Ok(found)
    }

    /// The hash of the request's key, where the rule balances by one.
    fn hash_key(&self, found: Found) -> Option<u64> {
        let snapshot = self.account.live.snapshot();
        let Some(Rule { algorithm: Algorithm::ConsistentHash(hash), .. }) = snapshot.rule(found.rule) else {
            return None;
        };
        let router = snapshot.routers.get(self.downstream.listener.index());
        let path = self.received_path();
        let forwarders = self.account.worker.forwarders(self.downstream.listener);
        let source = KeySource {
            client_ip: headers::client_address(&self.downstream, forwarders, &self.headers),
            headers: &self.headers,
            query: self.uri.query(),
            host: self.head.hostname(),
            path_param: &|name| router.and_then(|router| router.path_param(found, path, name)),
        };
        balance::hash_key(hash, &source)
    }

    /// Pick: chooses an endpoint.
    fn pick(&mut self, rule: RuleId, request: &PickRequest<'_>) -> Result<Picked, ProxyError> {
        let worker = &self.account.worker;
        let now = worker.since_epoch(self.deadlines.try_began);
        let rng = &mut worker.rng().borrow_mut();
        let pick = match self.chosen_backend() {
            None => self.account.live.pick(rule, request, now, rng),
            Some(backend_ref) => self.account.live.pick_of((rule, backend_ref), request, now, rng),
        };
        let picked = match pick {
            Pick::Endpoint(picked) => picked,
            Pick::NoEndpoints => return Err(ProxyError::NoEndpoints),
            Pick::NoBackend => return Err(ProxyError::NoBackend),
            Pick::MissingKey => return Err(ProxyError::MissingKey),
        };
        self.account.in_flight = Some(picked.endpoint.begin());
        if let Some(entry) = &mut self.account.entry {
            entry.endpoint = Some(picked.endpoint.key.addr);
            if let Some(backend) = self.account.live.snapshot().backend(picked.backend) {
                entry.backend = Some(BackendText {
                    namespace: Arc::clone(&backend.key.service.namespace),
                    name: Arc::clone(&backend.key.service.name),
                    port: backend.key.port,
                });
                entry.pod = backend.pod_of(&picked.endpoint.key);
            }
        }
        Ok(picked)
    }

    /// Decides what follows a failed try: the endpoint of the next one, or the failure as the answer.
    fn next_try(
        &mut self,
        rule: RuleId,
        hash: Option<u64>,
        picked: Picked,
        failure: Failure,
    ) -> Result<Picked, ProxyError> {
        let Failure { error, progress } = failure;
        let now = Instant::now();
        let worker = Rc::clone(&self.account.worker);
        let any_method = worker.settings().forwarding.retry_non_idempotent_on_idle_close;
        let verdict = if error.is_retryable() && self.deadlines.passed(now).is_none() {
            self.tries.decide(&self.account.method, progress, any_method)
        } else {
            Verdict::GiveUp
        };
        // A connection that the endpoint closed while it was idle says nothing about the endpoint.
        if verdict != Verdict::FreshConnection && error.is_endpoint_failure() && !error.is_local() {
            let since_epoch = worker.since_epoch(now);
            picked.endpoint.failed(since_epoch);
            if matches!(error, ProxyError::Connect(_) | ProxyError::ConnectTimeout) {
                picked.endpoint.refused(since_epoch);
            }
        }
        tracing::debug!(
            endpoint = %picked.endpoint.key.addr,
            error = &error as &dyn std::error::Error,
            ?verdict,
            "try failed"
        );
        let next = match verdict {
            Verdict::GiveUp => return Err(error),
            Verdict::FreshConnection => {
                self.fresh = true;
                picked
            }
            Verdict::OtherEndpoint => {
                self.fresh = false;
                self.account.in_flight = None;
                match self.pick(rule, &PickRequest { hash, avoid: Some(&picked.endpoint) }) {
                    Ok(other) if !Arc::ptr_eq(&other.endpoint, &picked.endpoint) && self.can_go_on(&other) => other,
                    // There is no other one that can take it: the failure stands.
                    Ok(_) | Err(_) => return Err(error),
                }
            }
        };
        worker.metrics().upstream_retries.inc();
        self.deadlines.begin_try(&self.timeouts(), now);
        Ok(next)
    }

    /// Turns round: the own answer to a failure, or that of a filter.
    fn answer(&mut self, early: Early) -> Reply {
        let mut answer = match &early {
            Early::Failed(error) => error.answer(),
            Early::Filtered(made) => OwnAnswer { status: made.status, reason: made.reason, close: false },
        };
        if answer.reason == Reason::Panic {
            self.account.worker.metrics().panicked(Where::Request);
        }
        if let Some(upload) = &mut self.upload {
            self.account.bytes_in = upload.body_read();
            self.body = upload.take_body();
        }
        if let Some(body) = self.body.take().filter(|_| !answer.close) {
            let limit = self.account.worker.settings().limits.unread_body;
            answer.close = drop_unread(body.into(), self.head.expect_continue, limit);
        }
        answer.close &= self.version <= Version::HTTP_11;
        let account = &mut self.account;
        account.worker.metrics().own_answer(answer.reason);
        account.in_flight = None;
        account.status = answer.status.as_u16();
        account.reason = Some(answer.reason);
        let reason_header = account.worker.settings().forwarding.reason_header;
        let response = match early {
            Early::Filtered(made) if made.body.is_some() => made_response(*made, answer, self.form, reason_header),
            Early::Filtered(_) | Early::Failed(_) => own_response(answer, self.form, reason_header),
        };
        let (parts, body) = response.into_parts();
        self.headers = parts.headers;
        Reply { status: parts.status, content: body.into_content() }
    }

    /// The deadlines that the rule sets.
    pub(super) fn timeouts(&self) -> Timeouts {
        let rule = self.account.rule.and_then(|rule| self.account.live.snapshot().rule(rule));
        rule.map(|rule| *rule.timeouts).unwrap_or_default()
    }

    /// The canonical path of the client's request.
    pub(super) fn received_path(&self) -> &str {
        self.head.path.as_deref().unwrap_or_else(|| self.uri.path())
    }
}

/// The log line as far as the request's head tells it.
fn first_entry(
    account: &Account,
    downstream: &Downstream,
    head: &CheckedHead,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    request_id: &RequestId,
) -> Box<Entry> {
    let forwarders = account.worker.forwarders(downstream.listener);
    let client = headers::client_address(downstream, forwarders, headers);
    let line = RequestLine { method: account.method.clone(), target: uri.clone(), protocol: version };
    let mut id = Vec::with_capacity(32);
    request_id.write(&mut id);
    Box::new(Entry {
        host: head.hostname().map(Into::into),
        request_id: Some(String::from_utf8_lossy(&id).into()),
        ..Entry::new(Arc::clone(&downstream.listener_name), client, downstream.peer, Some(line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// hyper keeps room for a request's future in every connection, idle ones included.
    #[test]
    fn the_future_is_small() {
        let size = size_of_future(forward);
        assert!(size <= 2 << 10, "{size}");
    }
}
