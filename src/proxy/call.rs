//! Calls of filters: a request to a backend of theirs, for whose answer the client's request waits.
//!
//! A call is an exchange of its own, over the worker's connections like any other. Its endpoint's live numbers count it; the
//! numbers of its rule, and the access log, know nothing of it.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::Instant;

use super::body::ForwardBody;
use super::client_body::ClientBody;
use super::deadlines::ExchangeDeadlines;
use super::decision::Matched;
use super::exchange::Exchange;
use super::own_request::pick;
use super::retry::{Missed, Verdict};
use crate::filter::{Call, CallAnswer};

impl Exchange {
    /// Calls a backend; `None` where no answer came in time. An endpoint that has seen nothing of the call is replaced by
    /// another one, once. Dropping the future gives the call up.
    pub(super) async fn call(&self, matched: &Matched, call: Call) -> Option<CallAnswer> {
        let Call { request, body, timeout, most } = call;
        let worker = Rc::clone(&self.account.worker);
        // What the rule asks for is about its own backends.
        let matched = &matched.without_policy();
        let backend = request.backend.clone();
        let began = Instant::now();
        let end = began + timeout;
        let body = (!body.is_empty()).then(|| ClientBody::whole(&body));
        let has_trailers = backend.protocol.is_http2();
        let mut exchange = self.beside(request, (body, has_trailers), ExchangeDeadlines::until(end, began));
        let mut picked = pick(matched, &backend, None, &worker)?;
        let mut may_move = true;
        loop {
            exchange.account.in_flight = Some(picked.endpoint.begin());
            let failure = match exchange.attempt(matched, &picked).await {
                Ok(()) => break,
                Err(Missed::Failed(failure)) => failure,
                Err(Missed::Unwanted(_)) => return None,
            };
            let now = Instant::now();
            // Whatever the method, a question may be asked twice.
            let verdict = exchange.decision.judge(&failure, now, true);
            exchange.note_failure(&picked, &failure, verdict, now);
            match verdict {
                Verdict::FreshConnection => exchange.fresh = true,
                Verdict::OtherEndpoint if std::mem::take(&mut may_move) => {
                    exchange.fresh = false;
                    let other = pick(matched, &backend, Some(&picked.endpoint), &worker)?;
                    if Arc::ptr_eq(&other.endpoint, &picked.endpoint) {
                        return None;
                    }
                    picked = other;
                }
                Verdict::OtherEndpoint | Verdict::GiveUp => return None,
            }
            exchange.decision.deadlines = ExchangeDeadlines::until(end, now);
            exchange.try_since_epoch = worker.since_epoch(now);
        }
        read(*exchange, most).await
    }
}

/// Reads the answer to a call; `None` where it breaks off.
async fn read(exchange: Exchange, most: usize) -> Option<CallAnswer> {
    let Exchange { account, decision, reply, .. } = exchange;
    account.worker.put_fields(decision.fields);
    let (status, headers) = (reply.status, reply.fields);
    let answer = |body, trailers| Some(CallAnswer { status, headers, body, trailers });
    match Limited::new(ForwardBody::new(reply.content, account), most).collect().await {
        Ok(body) => {
            let trailers = body.trailers().cloned().unwrap_or_default();
            answer(Some(body.to_bytes()), trailers)
        }
        Err(error) if error.is::<LengthLimitError>() => answer(None, HeaderMap::new()),
        Err(error) => {
            tracing::debug!(%error, "the answer to a call broke off");
            None
        }
    }
}
