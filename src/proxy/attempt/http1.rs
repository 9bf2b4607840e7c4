//! One try over HTTP/1.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{StatusCode, Version};
use hyper::body::Body as _;
use tokio::time::Instant;

use crate::balance::Picked;
use crate::http1::client::{RequestFraming, ResponseHead, Upload};
use crate::http1::response::Expected;
use crate::proxy::body::{Content, Http1Body};
use crate::proxy::client_body::ClientBody;
use crate::proxy::deadlines::DeadlineKind;
use crate::proxy::decision::Matched;
use crate::proxy::downstream::drop_unread;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Exchange, HeldAnswer, Reply};
use crate::proxy::headers::{self, RequestHead};
use crate::proxy::retry::{Failure, Missed, Progress, Sent};
use crate::proxy::upstream::Pooled;

/// How long after the begin of a try an endpoint may keep silent after `expect: 100-continue` before the body goes out
/// anyway, as RFC 9110 §10.1.1 lets a client do.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

impl Exchange {
    /// A try on a pooled connection, or else on one of its own.
    pub(super) async fn attempt_http1(&mut self, matched: &Matched, picked: &Picked) -> Result<(), Missed> {
        let pooled = if self.fresh {
            None
        } else {
            let now = self.decision.deadlines.try_began;
            let peer = Self::peer(matched, picked);
            poll_fn(|cx| Poll::Ready(self.account.worker.pools().pop(peer, now, cx))).await
        };
        let most = matched.limits().and_then(|limits| limits.requests_per_connection);
        let mut connection = match pooled.filter(|connection| connection.has_room(most)) {
            Some(connection) => connection,
            None => Box::pin(self.connect(matched, picked)).await?,
        };
        connection.count_request(most);
        connection.begin(self.decision.deadlines.idle.is_some());
        let mut upload = self.prepare_upload(picked);
        let mut wait = HeadWait::default();
        let head = poll_fn(|cx| self.poll_head(&mut connection, &mut upload, &mut wait, cx)).await;
        match head {
            Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                Ok(self.switch(matched, picked, connection, &upload)?)
            }
            // For the client that would be a WebSocket (RFC 8441 §5), which the endpoint has not opened.
            Ok(head) if self.handshake.is_some() && self.version == Version::HTTP_2 && head.status.is_success() => {
                self.account.upstream_sent += upload.written();
                self.account.upstream_received += connection.read_bytes();
                Err(ProxyError::Handshake.into())
            }
            Ok(head) => {
                let wish = self.decision.wish_after_answer(matched, head.status, &self.reply.fields);
                if let Some(again) = wish.and_then(|wish| self.again(matched, picked, wish, is_repeatable(&upload))) {
                    self.set_aside_http1(matched, picked, connection, upload, head);
                    return Err(Missed::Unwanted(again));
                }
                self.respond_http1(picked, connection, upload, head);
                Ok(())
            }
            Err(error) => {
                let progress = Progress {
                    reused: connection.is_reused(),
                    sent: if upload.written() == 0 { Sent::Nothing } else { Sent::Some },
                    is_repeatable: is_repeatable(&upload),
                    is_sent: upload.is_done(),
                    received: connection.has_received(),
                    learned: false,
                };
                self.account.upstream_sent += upload.written();
                self.account.upstream_received += connection.read_bytes();
                self.upload = Some(Box::new(upload));
                Err(Failure { error, progress }.into())
            }
        }
    }

    /// Makes a connection; boxed by the caller, since most requests find one in the pool.
    async fn connect(&mut self, matched: &Matched, picked: &Picked) -> Result<Pooled, Failure> {
        let worker = Rc::clone(&self.account.worker);
        let place = self.connection_place(matched, picked).await?;
        let began = Instant::now();
        let (timeout, deadline) = (self.connect_timeout(matched), self.decision.deadlines.connect());
        let peer = Self::peer(matched, picked);
        let result = worker.pools().connect(peer, timeout, deadline).await;
        self.note_connect(began);
        match result {
            Ok(stream) => Ok(Pooled::new(stream, peer.tls.cloned(), worker.shared_metrics(), place)),
            Err(err) => Err(self.connect_failure(err)),
        }
    }

    /// Encodes the head, or makes what is left of a failed try ready to be sent again.
    fn prepare_upload(&mut self, picked: &Picked) -> Upload<ClientBody> {
        let buffers = self.account.worker.buffers();
        let Some(mut upload) = self.upload.take().map(|upload| *upload) else {
            if let Some(body) = &mut self.body {
                body.rewind();
            }
            let framing = framing(self.body.as_ref());
            let mut head = buffers.take_write();
            let waits = self.encode(&mut head, framing, picked);
            return Upload::new(head, framing, self.body.take(), waits);
        };
        if upload.body_read() > 0 && upload.body().is_some_and(ClientBody::is_kept) {
            let framing = upload.framing();
            let mut body = upload.into_body();
            if let Some(body) = &mut body {
                body.rewind();
            }
            let mut head = buffers.take_write();
            let waits = self.encode(&mut head, framing, picked);
            return Upload::new(head, framing, body, waits);
        }
        // Encoded anew: another backendRef has other layers.
        let mut head = buffers.take_write();
        let waits = self.encode(&mut head, upload.framing(), picked);
        upload.restart(head, waits);
        upload
    }

    /// Appends the request's head in canonical form; true when the body has to wait for a `100`.
    fn encode(&self, out: &mut Vec<u8>, framing: RequestFraming, picked: &Picked) -> bool {
        let decision = &self.decision;
        let expect_continue = decision.head.expect_continue && framing != RequestFraming::Empty;
        headers::encode_request(
            out,
            &RequestHead {
                method: decision.seen_method(),
                path: decision.seen_path(),
                query: decision.seen_query(),
                authority: decision.seen_authority(),
                received_authority: decision.head.authority(),
                headers: &decision.fields,
                has_connection: decision.head.connection,
                downstream: &decision.downstream,
                endpoint: picked.endpoint.key.addr.ip(),
                client_target: decision.client.target,
                request_id: &self.request_id,
                framing,
                attempt: self.attempt_number(),
                expect_continue,
                websocket: self.handshake.is_some(),
            },
        );
        expect_continue
    }

    /// Send and receive at once, under the deadlines.
    fn poll_head(
        &mut self,
        connection: &mut Pooled,
        upload: &mut Upload<ClientBody>,
        wait: &mut HeadWait,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ProxyError>> {
        let (worker, deadlines) = (&self.account.worker, &self.decision.deadlines);
        let expected = Expected {
            head_request: *self.decision.seen_method() == http::Method::HEAD,
            trailers: self.decision.trailers,
            websocket: self.handshake.is_some(),
        };
        loop {
            let (limits, buffers) = (worker.response_limits(), worker.buffers());
            let fields = &mut self.reply.fields;
            if let Poll::Ready(result) = connection.poll_head(upload, fields, expected, limits, buffers, cx) {
                return Poll::Ready(result.map_err(ProxyError::from));
            }
            // Connecting has a deadline of its own.
            let began = connection.is_reused().then_some(deadlines.try_began);
            let deadline = deadlines.before_head(wait.since(upload, began), connection.activity());
            let resume = upload.is_waiting().then(|| deadlines.try_began + CONTINUE_WAIT);
            match (deadline, resume) {
                (None, None) => return Poll::Pending,
                (Some((at, kind)), None) => {
                    ready!(self.poll_deadline(connection, at, cx));
                    return Poll::Ready(Err(kind.into()));
                }
                (deadline, Some(resume)) => {
                    let (at, kind) = deadline.unwrap_or((resume, DeadlineKind::ResponseHead));
                    ready!(self.poll_deadline(connection, at.min(resume), cx));
                    if at < resume {
                        return Poll::Ready(Err(kind.into()));
                    }
                    // The endpoint has no objection: RFC 9110 §10.1.1 forbids to wait for ever.
                    upload.resume();
                }
            }
        }
    }

    /// Waits for a deadline with the timer of the task that runs the exchange, if that is the client's connection.
    fn poll_deadline(&self, connection: &mut Pooled, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.version <= Version::HTTP_11 && self.account.is_of_client() {
            self.decision.downstream.timer.borrow_mut().poll_until(cx, deadline)
        } else {
            connection.poll_deadline(deadline, cx)
        }
    }

    /// Holds an answer while further tries are made. Its connection is free for others once all of it is here.
    fn set_aside_http1(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        mut connection: Pooled,
        upload: Upload<ClientBody>,
        head: ResponseHead,
    ) {
        let now = Instant::now();
        self.note_head(picked, head.status, now);
        self.note_answer(picked, head.status, &self.reply.fields);
        self.account.upstream_sent += upload.written();
        self.account.upstream_received += connection.read_bytes();
        let fields = std::mem::take(&mut self.reply.fields);
        let sent = upload.is_done();
        let whole = if connection.is_complete() {
            Some(Content::Empty)
        } else {
            connection.take_buffered_body().map(Content::full)
        };
        let content = match whole {
            Some(content) => {
                if sent {
                    self.account.worker.release(&picked.endpoint, connection, now);
                }
                Some(content)
            }
            None if Self::may_hold_connection(matched) => {
                let (trailers, deadlines) = (self.decision.trailers, self.decision.deadlines);
                let endpoint = Arc::clone(&picked.endpoint);
                Some(Content::Http1(Box::new(Http1Body {
                    connection,
                    endpoint,
                    upload: None,
                    sent,
                    trailers,
                    deadlines,
                })))
            }
            None => None,
        };
        self.held = content.map(|content| {
            let reply = Reply { status: head.status, fields, content, reason: head.reason.map(Box::new) };
            Box::new(HeldAnswer { picked: picked.clone(), reply })
        });
        self.upload = Some(Box::new(upload));
    }

    /// Makes the answer of the endpoint's head and prepares its body.
    fn respond_http1(
        &mut self,
        picked: &Picked,
        mut connection: Pooled,
        mut upload: Upload<ClientBody>,
        head: ResponseHead,
    ) {
        let now = Instant::now();
        self.note_head(picked, head.status, now);
        self.note_answer(picked, head.status, &self.reply.fields);
        self.account.bytes_in = upload.body_read();
        if connection.interim_dropped() > 0 {
            let dropped = u64::from(connection.interim_dropped());
            self.account.worker.metrics().interim_responses_dropped.add(dropped);
        }
        self.account.upstream_sent += upload.written();
        self.account.upstream_received += connection.read_bytes();

        // An endpoint that reads on while it answers gets the rest; one that refuses, or never said 100, does not.
        let goes_on = upload.is_sending() && head.status.as_u16() < 300;
        let mut unread = None;
        let worker = &self.account.worker;
        let content = if connection.is_complete() {
            unread = upload.take_body();
            if upload.is_done() {
                worker.release(&picked.endpoint, connection, now);
            }
            Content::Empty
        } else if let Some(data) = connection.take_buffered_body() {
            unread = upload.take_body();
            if upload.is_done() {
                worker.release(&picked.endpoint, connection, now);
            }
            Content::full(data)
        } else {
            let sent = upload.is_done();
            let upload = if goes_on {
                if let Some(body) = upload.body_mut() {
                    body.forget();
                }
                Some(Box::new(upload))
            } else {
                unread = upload.take_body();
                None
            };
            let (trailers, deadlines) = (self.decision.trailers, self.decision.deadlines);
            let endpoint = Arc::clone(&picked.endpoint);
            Content::Http1(Box::new(Http1Body { connection, endpoint, upload, sent, trailers, deadlines }))
        };
        if let Some(rest) = unread.and_then(ClientBody::into_received) {
            let limit = self.account.worker.settings().limits.unread_body;
            let close = drop_unread(rest, self.decision.head.expect_continue, limit);
            if close && self.version <= Version::HTTP_11 {
                self.reply.fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        self.reply.status = head.status;
        self.reply.content = content;
        self.reply.reason = head.reason.map(Box::new);
    }
}

/// Since when an endpoint is waited for.
#[derive(Debug, Default)]
struct HeadWait {
    /// The request was sent completely then.
    sent: Option<Instant>,
    /// So many bytes of it had been sent, and no more were taken since then.
    stalled: Option<(u64, Instant)>,
}

impl HeadWait {
    /// When the last byte of the request was sent, or the last that the endpoint took while others wait; `None` while
    /// the client is the one that is waited for. A request without a body is sent as soon as it has its connection: at
    /// `began`, where that is known.
    fn since(&mut self, upload: &Upload<ClientBody>, began: Option<Instant>) -> Option<Instant> {
        if self.sent.is_none() && upload.is_done() {
            self.sent = Some(began.filter(|_| upload.body_read() == 0).unwrap_or_else(Instant::now));
        }
        if self.sent.is_some() || !upload.is_blocked() {
            self.stalled = None;
            return self.sent;
        }
        let written = upload.written();
        let (_, since) = *match &mut self.stalled {
            Some(stalled) if stalled.0 == written => stalled,
            stalled => stalled.insert((written, Instant::now())),
        };
        Some(since)
    }
}

/// Whether everything that was read of a body can be sent again.
fn is_repeatable(upload: &Upload<ClientBody>) -> bool {
    upload.written() == 0 || upload.body_read() == 0 || upload.body().is_some_and(ClientBody::is_kept)
}

/// How a body will be framed upstream.
fn framing(body: Option<&ClientBody>) -> RequestFraming {
    match body {
        None => RequestFraming::Empty,
        Some(body) => body.size_hint().exact().map_or(RequestFraming::Chunked, RequestFraming::Length),
    }
}
