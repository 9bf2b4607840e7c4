//! From an accepted head to a response: the head check, the gateway's own answers, and the handler for the rest.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::EXPECT;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use super::context::{ConnectionContext, HttpVersion, RunningExchange, Shared};
use crate::drain::Phase;
use crate::http1::guard::HeadFacts;
use crate::proxy::downstream::{AnswerForm, CheckedHead, Downstream, Handler, OwnAnswer, UpgradeSlot, drop_unread};
use crate::proxy::head::{self, HeadPolicy};
use crate::proxy::pressure::Pressure;
use crate::proxy::received_body::{BoxError, ReceivedBody};
use crate::reason::Reason;
use crate::telemetry::access_log::RequestLine;
use crate::telemetry::metrics::Where;

/// Binds `exchange` to the life of the response's body.
pub(super) fn bind<H: Handler>(
    response: Response<H::Body>,
    exchange: RunningExchange<H>,
) -> Response<impl Body<Data = bytes::Bytes, Error = BoxError>> {
    response.map(|body| {
        body.map_err(move |error| {
            // Held until the body is dropped, whether it fails or not.
            let _ = &exchange;
            error.into()
        })
    })
}

/// Begins a request at the handler: [`Handler::handle`] itself and no pointer to it, so that the future is made where it is
/// put.
pub(super) trait Begin<H, F>: FnOnce(Rc<H>, Rc<Downstream>, CheckedHead, Request<ReceivedBody>) -> F {}

impl<H, F, B: FnOnce(Rc<H>, Rc<Downstream>, CheckedHead, Request<ReceivedBody>) -> F> Begin<H, F> for B {}

/// Memory for a handler's future, reused by the requests of a connection.
pub(super) struct FutureMemory<F>(Cell<Option<Pin<Box<Option<F>>>>>);

impl<F> FutureMemory<F> {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self(Cell::new(None)))
    }
}

/// A request whose head was judged: answered at once, or by the handler. Small, since it is moved, and every connection has
/// a place for it.
pub(super) enum Answering<B, F> {
    /// The answer, until it is taken; rare, and large.
    Done(Option<Box<Response<B>>>),
    /// The handler's future, and where its memory goes back to.
    Handled(Option<Pin<Box<Option<F>>>>, Rc<FutureMemory<F>>),
}

impl<B, F> Answering<B, F> {
    /// A request that is answered already.
    pub(super) fn done(response: Response<B>) -> Self {
        Self::Done(Some(Box::new(response)))
    }
}

impl<B, F: Future<Output = Response<B>>> Answering<B, F> {
    /// Gives the response; a panic of the handler becomes one, too. Pending for ever once it was given.
    pub(super) fn poll<H: Handler<Body = B>>(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &RunningExchange<H>,
    ) -> Poll<Response<B>> {
        let (place, spare) = match self {
            Self::Done(response) => return response.take().map_or(Poll::Pending, |response| Poll::Ready(*response)),
            Self::Handled(place, spare) => (place, spare),
        };
        let Some(future) = place.as_mut().and_then(|memory| memory.as_mut().as_pin_mut()) else {
            return Poll::Pending;
        };
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(ready) => {
                if let Some(mut memory) = place.take() {
                    memory.set(None);
                    spare.0.set(Some(memory));
                }
                ready
            }
            Err(_) => Poll::Ready(panicked(exchange)),
        }
    }
}

/// Checks a head, answers what is the gateway's own to answer, and leaves the rest to the handler.
#[inline]
pub(super) fn answer<H: Handler, F>(
    exchange: &RunningExchange<H>,
    mut request: Request<ReceivedBody>,
    facts: HeadFacts,
    raw_target: Option<&[u8]>,
    upgrade: Option<UpgradeSlot>,
    begin: impl Begin<H, F>,
    spare: &Rc<FutureMemory<F>>,
) -> Answering<H::Body, F> {
    let Shared { context, downstream, host, .. } = &*exchange.shared;
    let policy =
        HeadPolicy { trusted: downstream.trusted, sidecar: downstream.mode.is_sidecar(), ..context.guard.policy };
    let checked = match head::check(&mut request, facts, raw_target, policy, &mut host.borrow_mut()) {
        Ok(mut checked) => {
            checked.head.upgrade = upgrade.filter(|_| checked.head.websocket);
            if checked.removed_underscores > 0 {
                context.metrics.underscore_fields_removed.add(checked.removed_underscores as u64);
            }
            checked
        }
        Err(mut answer) => {
            let (line, form) = (RequestLine::of(&request), AnswerForm::of(request.method(), request.headers()));
            // A connection that closes anyway does not wait for a body, which might never come.
            if !answer.close {
                let waits = request.headers().contains_key(EXPECT);
                answer.close = drop_unread(request.into_body(), waits, context.unread_body);
            }
            return Answering::done(refuse(exchange, Some(line), answer, form));
        }
    };
    if context.health_path.is_some()
        && let Some(mut answer) = health(context, &checked.head, &request)
    {
        let form = AnswerForm::of(request.method(), request.headers());
        context.handler.log_unhandled(downstream, Some(RequestLine::of(&request)), answer);
        answer.close |= drop_unread(request.into_body(), checked.head.expect_continue, context.unread_body);
        return Answering::done(context.handler.own_answer(downstream, answer, form));
    }
    if context.drain.room().memory().level() >= Pressure::RefuseRequests {
        let (line, form) = (RequestLine::of(&request), AnswerForm::of(request.method(), request.headers()));
        return Answering::done(refuse(exchange, Some(line), OVERLOADED, form));
    }
    let handler = Rc::clone(&context.handler);
    // It is empty, and known to be: nothing is dropped when it is filled.
    let mut memory = spare.0.take().filter(|memory| memory.is_none()).unwrap_or_else(|| Box::pin(None));
    memory.set(Some(begin(handler, Rc::clone(downstream), checked.head, request)));
    Answering::Handled(Some(memory), Rc::clone(spare))
}

/// Memory is too short for another request. Over HTTP/1 the connection goes, too.
const OVERLOADED: OwnAnswer =
    OwnAnswer { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::Overload, close: true };

/// The answer of a request whose handler panicked.
fn panicked<H: Handler>(exchange: &RunningExchange<H>) -> Response<H::Body> {
    let Shared { context, downstream, .. } = &*exchange.shared;
    context.metrics.panicked(Where::Request);
    let close = exchange.protocol == HttpVersion::Http1;
    let answer = OwnAnswer { status: StatusCode::INTERNAL_SERVER_ERROR, reason: Reason::Panic, close };
    // The request went with the handler; gRPC clients read INTERNAL SERVER ERROR as UNKNOWN.
    context.handler.own_answer(downstream, answer, AnswerForm::Text)
}

/// The answer of the listener's health path, if that is what the request asks for.
fn health<H>(context: &ConnectionContext<H>, head: &CheckedHead, request: &Request<ReceivedBody>) -> Option<OwnAnswer> {
    let path = head.path.as_deref().unwrap_or_else(|| request.uri().path());
    if Some(path) != context.health_path.as_deref() || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    Some(if context.drain.phase() == Phase::Serving {
        OwnAnswer { status: StatusCode::OK, reason: Reason::Health, close: false }
    } else {
        OwnAnswer { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::Drain, close: false }
    })
}

/// Makes the answer of a refusal, counts it as one and logs it; the handler counts it as an own answer.
pub(super) fn refuse<H: Handler>(
    exchange: &RunningExchange<H>,
    request: Option<RequestLine>,
    mut answer: OwnAnswer,
    form: AnswerForm,
) -> Response<H::Body> {
    let Shared { context, downstream, .. } = &*exchange.shared;
    if answer.status.is_client_error() || answer.reason == Reason::Overload {
        context.metrics.refused(answer.reason);
    }
    context.handler.log_unhandled(downstream, request, answer);
    // A stream of HTTP/2 ends alone.
    answer.close &= exchange.protocol == HttpVersion::Http1;
    context.handler.own_answer(downstream, answer, form)
}
