//! The requests of a connection of HTTP/1, one after the other: head, handler, response.
//!
//! The guard hands over accepted heads and bodies, and a [`Handler`] answers. `encode` writes the response, which waits in an
//! `output` until the client takes it, and `upload` hands on the body of the request.

mod encode;
mod output;
mod upload;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::TE;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};

use self::encode::{Asked, BodyEncoder, BodyLength, CutShort, encode_head};
use self::output::{MOST_WAITING, Output};
use self::upload::{Progress, Upload};
use super::answer::{Answering, Begin, FutureMemory, answer, refuse};
use super::context::{HttpVersion, RunningExchange, Shared};
use crate::drain::Phase;
use crate::http1::guard::Framing;
use crate::http1::request;
use crate::http1::request_stream::AcceptedHead;
use crate::proxy::downstream::{AnswerForm, Handler, OwnAnswer};
use crate::proxy::guarded_io::GuardedSocket;
use crate::proxy::rate::RateClock;
use crate::proxy::received_body::{BoxError, ReceivedBody};
use crate::reason::Reason;

/// Largest head whose memory is kept for the next one, and most fields that a map which is kept has room for.
const MOST_OF_HEAD_KEPT: usize = 4 << 10;
const MOST_FIELDS_KEPT: usize = 64;
/// Steps of one poll, so that a client that sends requests without a pause lets others have their turn.
const STEPS: usize = 32;

/// Serves the requests of one connection, until its last response is written or its input ends. Dropping it cancels what runs.
pub(super) struct Http1<H: Handler, F, B> {
    guard: Rc<RefCell<GuardedSocket>>,
    shared: Rc<Shared<H>>,
    begin: B,
    spare: Rc<FutureMemory<F>>,
    stage: Stage<H, F>,
    upload: Option<Upload>,
    /// The client waits for `100` before it sends the request's body.
    continues: bool,
    asked: Asked,
    /// Another request may come behind the present one.
    keeps: bool,
    output: Output,
    /// Memory for heads, which is used again once nothing of the last one is left.
    head: BytesMut,
    /// Memory for the fields of a request.
    fields: HeaderMap,
}

/// Where the connection stands.
enum Stage<H: Handler, F> {
    /// Between two requests.
    Between,
    /// The handler has a request.
    Answering(RunningExchange<H>, Answering<H::Body, F>, Handshake),
    /// The body of a response is under way.
    Responding(Responding<H>),
    /// Nothing else is to be done.
    Done,
}

/// A response whose body is under way. Its exchange lasts until the body is dropped.
struct Responding<H: Handler> {
    body: H::Body,
    encoder: BodyEncoder,
    _exchange: RunningExchange<H>,
}

impl<H: Handler> Responding<H> {
    /// Writes the next part of the body; true at its end.
    fn poll_part(&mut self, output: &mut Output, cx: &mut Context<'_>) -> Poll<Result<bool, Http1Error>> {
        let Self { body, encoder, .. } = self;
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose();
        let trailers = match frame.map_err(|error| Http1Error::Response(error.into()))?.map(Frame::into_data) {
            None => None,
            Some(Ok(data)) => {
                if !data.is_empty() {
                    encoder.data(output.room(), &data);
                }
                if !encoder.is_complete() && !body.is_end_stream() {
                    return Poll::Ready(Ok(false));
                }
                if !body.is_end_stream() {
                    // Over HTTP/2 the end may come by itself, behind the last byte: a stream whose end is here is not reset.
                    let _ = Pin::new(&mut *body).poll_frame(cx);
                }
                None
            }
            Some(Err(frame)) => frame.into_trailers().ok(),
        };
        encoder.end(output.room(), trailers.as_ref())?;
        Poll::Ready(Ok(true))
    }
}

/// Whether a request is a handshake behind which the input is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    No,
    Held,
}

/// Why a connection breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Http1Error {
    #[error("cannot write to the client")]
    Write(#[from] std::io::Error),
    #[error("the response broke off: {0}")]
    Response(BoxError),
    #[error(transparent)]
    CutShort(#[from] CutShort),
}

impl<H: Handler, F, B> Http1<H, F, B> {
    pub(super) fn new(guard: Rc<RefCell<GuardedSocket>>, shared: Rc<Shared<H>>, begin: B) -> Self {
        Self {
            guard,
            shared,
            begin,
            spare: FutureMemory::new(),
            stage: Stage::Between,
            upload: None,
            continues: false,
            asked: Asked { head_only: false, http11: true, trailers: false },
            keeps: true,
            output: Output::default(),
            head: BytesMut::new(),
            fields: HeaderMap::new(),
        }
    }

    /// Whether a request runs, or the client has not taken all of the last response.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.stage, Stage::Between | Stage::Done) || self.output.is_waiting()
    }

    /// Whether the present or last request is of HTTP/1.0, in which the end of the connection can be that of a body.
    pub(super) fn is_http10(&self) -> bool {
        !self.asked.http11
    }
}

// Nothing in it is pinned: the handler's future has a place of its own.
impl<H: Handler, F, B> Unpin for Http1<H, F, B> {}

impl<H, F, B> Future for Http1<H, F, B>
where
    H: Handler,
    F: Future<Output = Response<H::Body>>,
    B: Begin<H, F> + Copy,
{
    type Output = Result<(), Http1Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.move_upload(cx)?;
        for _ in 0..STEPS {
            if this.step(cx)?.is_ready() {
                if matches!(this.stage, Stage::Done) {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if !this.move_upload(cx)? {
                return Poll::Pending;
            }
        }
        let _ = this.output.poll_flush(&this.guard, cx)?;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<H, F, B> Http1<H, F, B>
where
    H: Handler,
    F: Future<Output = Response<H::Body>>,
    B: Begin<H, F> + Copy,
{
    /// Goes from one stage to the next, or waits.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Http1Error>> {
        match &mut self.stage {
            Stage::Between => {
                ready!(self.output.poll_flush(&self.guard, cx))?;
                if self.upload.is_some() {
                    // Somebody reads the rest of the body.
                    return Poll::Pending;
                }
                let next = if self.keeps { ready!(self.guard.borrow_mut().poll_head(cx)) } else { None };
                match next {
                    Some(accepted) => {
                        let is_of_known_length = matches!(accepted.framing, Framing::Length(_));
                        self.begin(accepted, cx);
                        if is_of_known_length && !self.continues {
                            // What has come with the head is there when the handler looks. That a chunked body is empty
                            // would be known or not, as it happens.
                            self.move_upload(cx)?;
                        }
                    }
                    None => self.stage = Stage::Done,
                }
            }
            Stage::Answering(exchange, answering, handshake) => {
                let Poll::Ready(response) = answering.poll(cx, exchange) else {
                    // The client may wait for `100`.
                    let _ = self.output.poll_flush(&self.guard, cx)?;
                    return Poll::Pending;
                };
                let handshake = *handshake;
                self.respond(response, handshake, cx)?;
            }
            Stage::Responding(responding) => {
                if self.output.waiting() >= MOST_WAITING {
                    ready!(self.output.poll_flush(&self.guard, cx))?;
                }
                let Poll::Ready(is_over) = responding.poll_part(&mut self.output, cx)? else {
                    let _ = self.output.poll_flush(&self.guard, cx)?;
                    return Poll::Pending;
                };
                if is_over {
                    if responding.encoder == BodyEncoder::Close {
                        // The end of the connection is that of the body, whoever reads what the client still sends.
                        self.upload = None;
                    }
                    self.finish();
                }
            }
            Stage::Done => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Takes a head, and gives the request to the handler.
    fn begin(&mut self, accepted: AcceptedHead, cx: &Context<'_>) {
        let (head, is_holding) = {
            let guard = &mut *self.guard.borrow_mut();
            let bytes = guard.accepted().get(..accepted.length).unwrap_or_default();
            let head = if bytes.len() <= MOST_OF_HEAD_KEPT {
                self.head.extend_from_slice(bytes);
                self.head.split().freeze()
            } else {
                Bytes::copy_from_slice(bytes)
            };
            guard.take(accepted.length);
            // Requests before a handshake that came with it hold nothing.
            (head, accepted.facts.websocket && guard.is_holding())
        };
        let exchange = RunningExchange::begin(&self.shared, HttpVersion::Http1);
        let mut fields = std::mem::take(&mut self.fields);
        let Some((method, target)) = request::parse_head(&head, &accepted, &mut fields) else {
            // The one answer to a disagreement is to end.
            self.asked = Asked { head_only: false, http11: accepted.http11, trailers: false };
            self.keeps = false;
            let answer = OwnAnswer { status: StatusCode::BAD_REQUEST, reason: Reason::Line, close: true };
            let response = refuse(&exchange, None, answer, AnswerForm::Text);
            self.stage = Stage::Answering(exchange, Answering::done(response), Handshake::No);
            return;
        };
        self.asked = Asked {
            head_only: method == Method::HEAD,
            http11: accepted.http11,
            trailers: accepted.facts.te && fields.get_all(TE).iter().any(|te| encode::names(te, b"trailers")),
        };
        self.keeps = !accepted.close;
        let body = match Upload::begin(accepted.framing, cx) {
            None => ReceivedBody::Empty,
            Some((upload, body)) => {
                self.upload = Some(upload);
                self.continues = accepted.facts.expect && accepted.http11;
                ReceivedBody::Http1(body)
            }
        };
        let mut request = Request::new(body);
        *request.version_mut() = if accepted.http11 { Version::HTTP_11 } else { Version::HTTP_10 };
        (*request.method_mut(), *request.uri_mut()) = (method, target);
        *request.headers_mut() = fields;
        let slot = is_holding.then(|| self.shared.upgrade.clone());
        let raw_target = accepted.raw_target.as_deref();
        let answering = answer(&exchange, request, accepted.facts, raw_target, slot, self.begin, &self.spare);
        let handshake = if is_holding { Handshake::Held } else { Handshake::No };
        self.stage = Stage::Answering(exchange, answering, handshake);
    }

    /// Writes the head of a response, and goes on with its body.
    fn respond(
        &mut self,
        mut response: Response<H::Body>,
        handshake: Handshake,
        cx: &mut Context<'_>,
    ) -> Result<(), Http1Error> {
        let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if handshake == Handshake::Held && !is_switching {
            // What came behind the handshake is the next request.
            drop(self.shared.upgrade.take());
            self.guard.borrow_mut().release_held();
        }
        self.keeps &= is_switching || self.shared.context.drain.phase() <= Phase::Serving;
        self.shared.downstream.cutoff.answered();
        // Whether the rest of a body that nobody reads is here decides if the connection stays.
        self.continues = false;
        self.move_upload(cx)?;
        let length = match response.body() {
            body if body.is_end_stream() => BodyLength::None,
            body => body.size_hint().exact().map_or(BodyLength::Unknown, BodyLength::Known),
        };
        let encoded = encode_head(self.output.room(), &response, length, self.asked, self.keeps);
        self.keeps &= !encoded.is_last;
        if response.headers().capacity() <= MOST_FIELDS_KEPT {
            self.fields = std::mem::take(response.headers_mut());
            self.fields.clear();
        }
        let Stage::Answering(exchange, ..) = std::mem::replace(&mut self.stage, Stage::Between) else { return Ok(()) };
        if length != BodyLength::None && !encoded.body.is_complete() {
            let (body, encoder) = (response.into_body(), encoded.body);
            self.stage = Stage::Responding(Responding { body, encoder, _exchange: exchange });
        } else {
            drop(response);
            drop(exchange);
            self.finish();
        }
        Ok(())
    }

    /// A response is complete.
    fn finish(&mut self) {
        self.stage = Stage::Between;
        if self.upload.is_some() {
            // What is left of the request's body is judged from here on: before, the client did not have to be quick.
            self.guard.borrow_mut().body_clock = RateClock::default();
        }
    }

    /// Hands on what is here of the request's body; true when its reader, in this task, has something to read.
    #[inline]
    fn move_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Http1Error> {
        // Most requests have no body.
        if self.upload.is_none() { Ok(false) } else { self.hand_on_upload(cx) }
    }

    fn hand_on_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Http1Error> {
        let Some(upload) = &mut self.upload else { return Ok(false) };
        if self.continues && upload.is_wanted() {
            self.continues = false;
            // A client that has sent a part of it does not wait.
            if self.guard.borrow().accepted().is_empty() {
                self.output.room().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                let _ = self.output.poll_flush(&self.guard, cx)?;
            }
        }
        let progress = upload.poll(&mut self.guard.borrow_mut(), cx);
        Ok(match progress {
            Progress::Waits => false,
            Progress::Moved => true,
            Progress::Whole(is_reader_here) => {
                self.upload = None;
                is_reader_here || matches!(self.stage, Stage::Between)
            }
            Progress::Cut(is_reader_here) => {
                self.upload = None;
                self.keeps = false;
                // Nobody waits for the client to send more.
                self.guard.borrow_mut().body_clock = RateClock::default();
                is_reader_here || matches!(self.stage, Stage::Between)
            }
        })
    }
}
