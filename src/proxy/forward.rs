//! The request path, as phases: match, filters in, pick, connect and send, filters out, respond.
//!
//! One [`Exchange`] holds a request from its head to its response; what outlives that, the accounting, moves into the
//! response's body. Nothing here waits but for the endpoint, the client, and what filters ask.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::ext::ReasonPhrase;

use super::account::Account;
use super::body::{Content, ForwardBody};
use super::cutoff::Cutoff;
use super::deadlines::ExchangeDeadlines;
use super::decision::{Early, Matched, Means, NoPick};
use super::downstream::{AnswerForm, CheckedHead, Downstream};
use super::error::ProxyError;
use super::exchange::{Exchange, Reply};
use super::grpc::{self, CallStatus};
use super::received_body::ReceivedBody;
use super::worker::Worker;
use crate::balance::Picked;
use crate::filter::{BodyStage, Question, Told};

/// Answers one request. Nothing happens before the first poll: the exchange is made where it stays.
#[inline]
pub async fn forward(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    head: CheckedHead,
    request: Request<ReceivedBody>,
) -> Response<ForwardBody> {
    let mut exchange = Exchange::new(worker, downstream, head, request);
    exchange.begin_entry();
    let outcome = {
        let mut phases = pin!(exchange.run());
        poll_fn(|cx| poll_unwinding(phases.as_mut(), cx)).await
    };
    if let Err(early) = outcome {
        exchange.turn_round(early);
    }
    let stages = exchange.leave();
    exchange.bound();
    let Exchange { account, decision, reply, .. } = exchange;
    account.worker.put_fields(decision.fields);
    respond(reply, account, stages)
}

impl Exchange {
    /// The phases up to the endpoint's response head.
    pub(super) async fn run(&mut self) -> Result<(), Early> {
        let (matched, asked) = self.enter()?;
        if let Some(settling) = self.settling(&matched, asked) {
            settling.await?;
        }
        self.begin_upgrade(&matched)?;
        // Boxed, as is all that only few requests need.
        let mut picked = match self.pick(&matched) {
            Ok(picked) => picked,
            Err(none) => Box::pin(self.wait_for_first(&matched, none)).await?,
        };
        loop {
            if let Some(limits) = matched.limits()
                && !self.takes_place(&matched, &picked, limits)
            {
                picked = Box::pin(self.find_place(&matched, picked, limits)).await?;
                // What was read of a body is framed for HTTP/1, and another endpoint may speak HTTP/2.
                if !self.can_go_on(&matched, &picked) {
                    return Err(ProxyError::NoEndpoints.into());
                }
            }
            self.account.note_endpoint(&matched, &mut picked);
            let asked = self.decision.enter_backend(&matched, &picked, self.account.worker.filter_means())?;
            if let Some(settling) = self.settling(&matched, asked) {
                settling.await?;
            }
            self.note_layers();
            let copies = self.decision.take_copies();
            if !copies.is_empty() {
                self.send_copies(&matched, copies);
            }
            match self.attempt(&matched, &picked).await {
                Ok(()) => {
                    self.account.call.note(&self.reply.fields);
                    if let Some(session) = matched.session() {
                        self.answer_session(&matched, &picked, session);
                    }
                    return Ok(());
                }
                // Boxed: most requests need one try.
                Err(missed) => picked = Box::pin(self.next_try(&matched, picked, missed)).await?,
            }
        }
    }

    /// Match and filters in: the rule, and what the first of its filters that has to wait asks. A call that requests share has
    /// its rule, and goes on behind the filter that asked for it.
    #[inline]
    fn enter(&mut self) -> Result<(Matched, Option<Question>), Early> {
        if let Some(matched) = self.account.matched().cloned() {
            let asked = self.decision.resume(&matched, Told::Fly, self.account.worker.filter_means())?;
            return Ok((matched, asked));
        }
        let matched = self.find_route()?;
        let asked = self.decision.enter(&matched, self.account.worker.filter_means())?;
        Ok((matched, asked))
    }

    /// Match: finds the rule and takes over its deadlines.
    fn find_route(&mut self) -> Result<Matched, ProxyError> {
        let matched = self.decision.find_route()?;
        self.account.note_rule(&matched);
        let rule = matched.rule();
        let response_head = self.account.worker.settings().deadlines.response_head;
        self.decision.deadlines = ExchangeDeadlines::new(&rule.timeouts, response_head, self.account.started);
        if self.decision.form == AnswerForm::Grpc {
            self.begin_call();
        }
        if rule.timeouts.idle.is_some() {
            self.account.cutoff.as_ref().unwrap_or(&self.decision.downstream.cutoff).allow_quiet();
        }
        // A request of the parent's prefix that no child took.
        if rule.delegates { Err(ProxyError::NoPath) } else { Ok(matched) }
    }

    /// A gRPC call: its code is noted, and the client says how long it may take.
    #[cold]
    fn begin_call(&mut self) {
        self.account.call = CallStatus::Unsaid;
        if let Some(timeout) = grpc::timeout(&self.decision.fields) {
            self.decision.deadlines.limit(timeout, self.account.started);
        }
    }

    /// Pick: chooses the endpoint of the first try.
    fn pick(&mut self, matched: &Matched) -> Result<Picked, NoPick> {
        self.decision.hash_key(matched);
        if let Some(session) = matched.session() {
            self.decision.read_session(matched, session);
        }
        let worker = &self.account.worker;
        self.try_since_epoch = worker.since_epoch(self.decision.deadlines.try_began);
        let means = Means { rng: worker.rng(), since_epoch: self.try_since_epoch };
        let picked = self.decision.pick(matched, means)?;
        if let Some(retry) = matched.retry() {
            self.begin_retries(matched, &picked, retry.max_body);
        }
        Ok(picked)
    }

    /// Lets the exchange's deadlines hold from here on whatever the client does.
    fn bound(&mut self) {
        let (end, idle) = (self.decision.deadlines.end(), self.decision.deadlines.idle);
        if matches!(self.reply.content, Content::Empty) || (end.is_none() && idle.is_none()) {
            return;
        }
        let cutoff = Cutoff::of_stream().unwrap_or_else(|| Rc::clone(&self.decision.downstream.cutoff));
        if let Some(end) = end {
            cutoff.set(end);
        }
        if let Some(idle) = idle {
            cutoff.limit_silence(idle);
        }
        self.account.cutoff = Some(cutoff);
    }
}

/// Respond: puts the response together; its body takes the account.
#[inline]
fn respond(reply: Reply, account: Account, stages: Vec<BodyStage>) -> Response<ForwardBody> {
    let Reply { status, fields, content, reason } = reply;
    let mut body = ForwardBody::new(content, account);
    if !stages.is_empty() {
        body = body.through(stages);
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if let Some(reason) = reason.and_then(|reason| ReasonPhrase::try_from(*reason).ok()) {
        response.extensions_mut().insert(reason);
    }
    response
}

/// Polls the phases; a panic in them is a failure of this one request, so that its answer goes out through the filters like
/// any other.
pub(super) fn poll_unwinding(
    phases: Pin<&mut impl Future<Output = Result<(), Early>>>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Early>> {
    let polled = catch_unwind(AssertUnwindSafe(|| phases.poll(cx)));
    polled.unwrap_or_else(|_| Poll::Ready(Err(ProxyError::Panic.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Both are moved into their place once per request, and a connection keeps the place of the future while it is idle.
    #[test]
    fn what_every_request_moves_is_small() {
        let sizes = [size_of_future(forward), size_of::<Exchange>()];
        assert!(sizes[0] <= 1_552 && sizes[1] <= 752, "{sizes:?}");
    }
}
