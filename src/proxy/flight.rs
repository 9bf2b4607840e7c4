//! Calls that equal requests share (`Coalesce`): made beside the requests, by a task of the worker whose request came first.
//!
//! A call is an exchange without a client, within the layer of the filter that shares it: it is picked, tried again and read
//! like any other, and its rule's deadlines begin with it. It belongs to no request: it ends with its answer, or when nobody
//! waits for that any more. The requests have accounts of their own; the endpoint's live numbers, and those of its
//! Service, count the call once.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::Body as _;
use tokio::time::Instant;

use super::account::Account;
use super::body::{Content, FlightContent, ForwardBody};
use super::deadlines::ExchangeDeadlines;
use super::decision::Matched;
use super::exchange::{Exchange, Reply};
use super::forward::poll_unwinding;
use super::replay::own;
use super::task::poll_counted;
use crate::filter::{FlightAnswer, FlightHead, Pilot, Sharing, sharing};
use crate::reason::Reason;
use crate::telemetry::access_log::{AccessLogEntry, FlightRole};
use crate::telemetry::metrics::Where;

impl Exchange {
    /// Begins the call that this request is the first to wait for.
    pub(super) fn begin_flight(&self, matched: &Matched, pilot: Pilot) {
        let exchange = self.fork(matched);
        tokio::task::spawn_local(fly(exchange, matched.clone(), pilot));
    }

    /// The exchange of the call: this one, from the layer that has asked for it on.
    fn fork(&self, matched: &Matched) -> Box<Self> {
        let worker = &self.account.worker;
        let now = Instant::now();
        let mut account = Account::of_flight(Rc::clone(worker), now, self.decision.method.clone());
        account.entry = worker.logs().then(|| {
            let downstream = &self.decision.downstream;
            let listener = Arc::clone(&downstream.listener_name);
            Box::new(AccessLogEntry::new(listener, self.decision.client.address, downstream.peer, None))
        });
        account.note_rule(matched);
        let response_head = worker.settings().deadlines.response_head;
        let deadlines = ExchangeDeadlines::new(&matched.rule().timeouts, response_head, now);
        Box::new(Self {
            decision: self.decision.fork(deadlines),
            // There is no connection of a client that an answer could close.
            version: Version::HTTP_2,
            request_id: self.request_id.clone(),
            handshake: None,
            body: None,
            upload: None,
            reply: Reply { fields: worker.take_fields(), ..Reply::default() },
            held: None,
            try_since_epoch: worker.since_epoch(now),
            fresh: false,
            account,
        })
    }

    /// Makes the answer of a call that of this exchange.
    pub(super) fn take_shared(&mut self, answer: FlightAnswer) {
        let FlightAnswer { head, body } = answer;
        match head.reason {
            Some(reason) => self.account.note_own_answer(head.status.as_u16(), reason),
            None => self.account.status = head.status.as_u16(),
        }
        if let Some(entry) = &mut self.account.entry {
            entry.flight = Some(if body.is_first() { FlightRole::Led } else { FlightRole::Joined });
            if let Some(of_call) = &head.entry {
                entry.backend.clone_from(&of_call.backend);
                (entry.endpoint, entry.pod) = (of_call.endpoint, of_call.pod.clone());
                (entry.limit, entry.coding) = (of_call.limit.clone(), of_call.coding);
                if body.is_first() {
                    (entry.attempts, entry.tries) = (of_call.attempts, of_call.tries.clone());
                    (entry.connect, entry.head) = (of_call.connect, of_call.head);
                }
            }
        }
        let content = if head.length == Some(0) {
            Content::Empty
        } else {
            Content::Flight(Box::new(FlightContent::new(body, self.decision.deadlines)))
        };
        self.reply = Reply {
            status: head.status,
            fields: head.fields.clone(),
            content,
            reason: head.phrase.clone().map(Box::new),
        };
    }
}

/// Makes a call, until its answer is complete or nobody waits for it any more. `_matched` keeps its rule where it is for as
/// long as the flight can be found by that.
async fn fly(exchange: Box<Exchange>, _matched: Matched, pilot: Pilot) {
    let worker = Rc::clone(&exchange.account.worker);
    let mut call = pin!(call(exchange, &pilot));
    let is_done = poll_fn(|cx| match pilot.poll_abandoned(cx) {
        Poll::Ready(()) => Poll::Ready(Some(())),
        Poll::Pending => poll_counted(worker.metrics(), Where::Request, call.as_mut(), cx),
    });
    if is_done.await.is_none() {
        pilot.panicked();
    }
}

async fn call(mut exchange: Box<Exchange>, pilot: &Pilot) {
    let outcome = {
        let mut phases = pin!(exchange.run());
        poll_fn(|cx| poll_unwinding(phases.as_mut(), cx)).await
    };
    if let Err(early) = outcome {
        exchange.turn_round(early);
    }
    let stages = exchange.leave();
    let Exchange { mut account, decision, reply, .. } = *exchange;
    account.worker.put_fields(decision.fields);
    let (reason, entry) = (account.reason, account.entry.take());
    let Reply { status, fields, content, reason: phrase } = reply;
    let mut body = ForwardBody::new(content, account);
    if !stages.is_empty() {
        body = body.through(stages);
    }
    let length = body.size_hint().exact();
    let head = FlightHead { status, fields, phrase: phrase.map(|phrase| *phrase), length, reason, entry };
    let waiting = pilot.close();
    let sharing = match reason {
        // What the gateway says itself holds for all of them: none tries the same once more.
        Some(_) => Sharing::Stream,
        None => sharing(pilot.terms(), &head.fields, length, waiting),
    };
    match (sharing, length) {
        (Sharing::Collect, _) => return collect(head, body, pilot).await,
        (Sharing::Stream, Some(length)) if usize::try_from(length).is_ok_and(|length| pilot.reserve(length)) => {
            // What is here of the body comes before the head. The call's deadline is that of those who wait, too: one of
            // them who had the head of a 504 and nothing else would cut it off.
            let is_whole = bring_what_is_here(&mut body, pilot).await;
            pilot.share(head);
            if is_whole {
                return;
            }
        }
        // There is no memory for it.
        (Sharing::Stream, _) => pilot.give(head),
        (Sharing::Give { go_alone }, _) => {
            if go_alone {
                pilot.go_alone(Instant::now().into_std());
            }
            pilot.give(head);
        }
    }
    bring(body, pilot).await;
}

/// Collects an answer whose length is not known, and shares it once it is complete. One that grows too large is for the
/// request that has waited longest, from its first byte on.
async fn collect(mut head: FlightHead, mut body: ForwardBody, pilot: &Pilot) {
    let mut size = 0;
    loop {
        match next(&mut body).await {
            Next::Data(data) => {
                size += data.len() as u64;
                let is_small = size <= pilot.terms().max_body;
                let has_room = is_small && pilot.reserve(data.len());
                pilot.push(data);
                if !has_room {
                    if !is_small {
                        pilot.go_alone(Instant::now().into_std());
                    }
                    pilot.give(head);
                    return bring(body, pilot).await;
                }
            }
            Next::End(trailers) => {
                // Trailers come behind a body whose length is not announced.
                head.length = trailers.is_none().then_some(size);
                pilot.finish(trailers);
                break;
            }
            Next::Cut(reason) => {
                pilot.cut(reason);
                break;
            }
        }
    }
    pilot.share(head);
}

/// Brings what is left of an answer to those who have its head.
async fn bring(mut body: ForwardBody, pilot: &Pilot) {
    loop {
        poll_fn(|cx| pilot.poll_room(cx)).await;
        if take_in(next(&mut body).await, pilot) {
            return;
        }
    }
}

/// Brings what can be had of an answer without waiting for it; true: that was all.
async fn bring_what_is_here(body: &mut ForwardBody, pilot: &Pilot) -> bool {
    loop {
        let Poll::Ready(next) = poll_fn(|cx| Poll::Ready(poll_next(body, cx))).await else { return false };
        if take_in(next, pilot) {
            return true;
        }
    }
}

/// Hands on what came of an answer; true: nothing comes behind it.
fn take_in(next: Next, pilot: &Pilot) -> bool {
    match next {
        Next::Data(data) => {
            pilot.push(data);
            return false;
        }
        Next::End(trailers) => pilot.finish(trailers),
        Next::Cut(reason) => pilot.cut(reason),
    }
    true
}

/// What comes next of a call's answer.
enum Next {
    Data(Bytes),
    End(Option<HeaderMap>),
    Cut(Reason),
}

async fn next(body: &mut ForwardBody) -> Next {
    poll_fn(|cx| poll_next(body, cx)).await
}

fn poll_next(body: &mut ForwardBody, cx: &mut Context<'_>) -> Poll<Next> {
    Pin::new(body).poll_frame(cx).map(|frame| match frame {
        None => Next::End(None),
        Some(Err(error)) => Next::Cut(error.reason()),
        Some(Ok(frame)) => match frame.into_data() {
            // It may stay for longer than the buffer that it was read into should.
            Ok(data) => Next::Data(own(&data)),
            Err(frame) => Next::End(frame.into_trailers().ok()),
        },
    })
}
