//! The request path, as phases: match, filters in, pick, connect and send, filters out, respond.
//!
//! One [`Exchange`] holds a request from its head to its response; what outlives that, the accounting, moves into the
//! response's body. Nothing here waits but for the endpoint and the client.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use tokio::time::Instant;

use super::account::Account;
use super::ask;
use super::body::{Content, ForwardBody};
use super::cutoff::Cutoff;
use super::deadlines::Deadlines;
use super::decision::{Decision, Early, Matched, Means};
use super::downstream::{CheckedHead, Downstream, OwnAnswer, drop_unread};
use super::error::ProxyError;
use super::exchange::{Exchange, Reply};
use super::headers::RequestId;
use super::own_answer;
use super::retry::{Failure, Verdict};
use super::worker::Worker;
use crate::balance::Picked;
use crate::filter::Question;
use crate::model::policy::Timeouts;
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
        exchange.bound(&reply);
        let Reply { status, fields, content, reason } = reply;
        let Exchange { account, decision, .. } = exchange;
        account.worker.put_fields(decision.fields);
        let mut response = Response::new(ForwardBody::new(content, account).through(stages));
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        if status.canonical_reason().is_none() {
            // hyper would write `<none>`.
            let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason).ok());
            response.extensions_mut().insert(reason.unwrap_or(ReasonPhrase::from_static(b"")));
        }
        response
    }
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

impl Exchange {
    fn new(worker: Rc<Worker>, downstream: Rc<Downstream>, head: CheckedHead, request: Request<Incoming>) -> Self {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let live = worker.live().current();
        let deadlines = Deadlines::new(&Timeouts::default(), worker.settings().deadlines.response_head, started);
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

    /// The phases up to the endpoint's response head.
    async fn run(&mut self) -> Result<Reply, Early> {
        let matched = self.find_route()?;
        let asked = self.decision.enter(&matched)?;
        self.settle(&matched, asked).await?;
        self.begin_upgrade(&matched)?;
        self.decision.hash_key(&matched);
        let mut picked = self.decision.pick(&matched, self.means(Instant::now()))?;
        loop {
            self.note_pick(&matched, &picked);
            let asked = self.decision.enter_backend(&matched, &picked)?;
            self.settle(&matched, asked).await?;
            self.limit_body();
            let failure = match self.attempt(&matched, &picked).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            picked = self.next_try(&matched, picked, failure)?;
        }
    }

    /// Match: finds the rule and takes over its deadlines.
    fn find_route(&mut self) -> Result<Matched, ProxyError> {
        let matched = self.decision.find_route()?;
        let rule = matched.rule();
        let response_head = self.account.worker.settings().deadlines.response_head;
        self.decision.deadlines = Deadlines::new(&rule.timeouts, response_head, self.account.started);
        if rule.timeouts.idle.is_some() {
            self.account.cutoff.as_ref().unwrap_or(&self.decision.downstream.cutoff).allow_quiet();
        }
        if let Some(entry) = &mut self.account.entry {
            entry.route = matched.route_label().map(Arc::clone);
            entry.rule = Some(Arc::clone(&rule.name));
        }
        let is_left_over = rule.delegates;
        self.account.matched = Some(matched.clone());
        // A request of the parent's prefix that no child took.
        if is_left_over { Err(ProxyError::NoPath) } else { Ok(matched) }
    }

    /// Answers what filters ask until none does any more; costs nothing where none asks.
    async fn settle(&mut self, matched: &Matched, mut asked: Option<Question>) -> Result<(), Early> {
        while let Some(question) = asked.take() {
            let answer = Box::pin(ask::answer(question));
            let told = match self.decision.deadlines.request {
                Some(at) => tokio::time::timeout_at(at, answer).await.map_err(|_| ProxyError::Request)?,
                None => answer.await,
            };
            asked = self.decision.resume(matched, told)?;
        }
        Ok(())
    }

    /// What picks are made with at `now`.
    fn means(&self, now: Instant) -> Means<'_> {
        let worker = &self.account.worker;
        Means { rng: worker.rng(), since_epoch: worker.since_epoch(now) }
    }

    /// Counts the request at its endpoint, and names it in the log.
    fn note_pick(&mut self, matched: &Matched, picked: &Picked) {
        self.account.in_flight = Some(picked.endpoint.begin());
        if let Some(entry) = &mut self.account.entry {
            entry.endpoint = Some(picked.endpoint.key.addr);
            if let Some(backend) = matched.backend(picked) {
                entry.backend = Some(BackendText {
                    namespace: Arc::clone(&backend.key.service.namespace),
                    name: Arc::clone(&backend.key.service.name),
                    port: backend.key.port,
                });
                entry.pod = backend.pod_of(&picked.endpoint.key);
            }
        }
    }

    /// Puts the limit that filters have set on the client's body.
    fn limit_body(&mut self) {
        if let (Some(body), Some(layers)) = (&mut self.body, &self.decision.layers) {
            body.limit(layers.body_limit);
        }
    }

    /// Decides what follows a failed try: the endpoint of the next one, or the failure as the answer.
    fn next_try(&mut self, matched: &Matched, picked: Picked, failure: Failure) -> Result<Picked, ProxyError> {
        let now = Instant::now();
        let any_method = self.account.worker.settings().forwarding.retry_non_idempotent_on_idle_close;
        let verdict = self.decision.judge(&failure, now, any_method);
        let error = failure.error;
        // A connection that the endpoint closed while it was idle says nothing about the endpoint.
        if verdict != Verdict::FreshConnection && error.is_endpoint_failure() && !error.is_local() {
            let since_epoch = self.account.worker.since_epoch(now);
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
        self.decision.begin_try(&matched.rule().timeouts, now);
        Ok(next)
    }

    /// Lets the exchange's deadlines hold from here on whatever the client does.
    fn bound(&mut self, reply: &Reply) {
        if !matches!(reply.content, Content::Empty)
            && let Some(due) = self.decision.deadlines.end()
        {
            let cutoff = Cutoff::of_stream().unwrap_or_else(|| Rc::clone(&self.decision.downstream.cutoff));
            cutoff.set(due);
            self.account.cutoff = Some(cutoff);
        }
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
            answer.close = drop_unread(body.into(), self.decision.head.expect_continue, limit);
        }
        answer.close &= self.version <= Version::HTTP_11;
        let account = &mut self.account;
        account.worker.metrics().own_answer(answer.reason);
        account.in_flight = None;
        account.status = answer.status.as_u16();
        account.reason = Some(answer.reason);
        let (form, reason_header) = (self.decision.form, account.worker.settings().forwarding.reason_header);
        let parts = match early {
            Early::Filtered(made) if made.body.is_some() => {
                own_answer::filter_parts(*made, answer, form, reason_header)
            }
            Early::Filtered(_) | Early::Failed(_) => own_answer::parts(answer, form, reason_header),
        };
        Reply { status: parts.status, fields: parts.fields, content: Content::full(parts.content), reason: None }
    }
}

/// The log line as far as the request's head tells it.
fn first_entry(decision: &Decision, version: Version, request_id: &RequestId) -> Box<Entry> {
    let Decision { downstream, head, client, method, uri, .. } = decision;
    let line = RequestLine { method: method.clone(), target: uri.clone(), protocol: version };
    let mut id = Vec::with_capacity(32);
    request_id.write(&mut id);
    Box::new(Entry {
        host: head.hostname().map(Into::into),
        request_id: Some(String::from_utf8_lossy(&id).into()),
        ..Entry::new(Arc::clone(&downstream.listener_name), client.address, downstream.peer, Some(line))
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
