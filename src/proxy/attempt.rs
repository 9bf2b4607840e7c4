//! One try of an exchange at one endpoint: connect, send, wait for the head, make the response.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::body::{ClientBody, Content, Http1Body, Http2Body};
use super::downstream::drop_unread;
use super::error::ProxyError;
use super::forward::{Exchange, Reply};
use super::headers::{self, RequestHead};
use super::http2::{self, RequestBody, Sender};
use super::retry::Progress;
use super::upstream::{ConnectError, Pooled};
use crate::balance::Picked;
use crate::http1::client::{self, ClientError, LengthMismatch, RequestFraming, ResponseHead, Upload};
use crate::http1::guard::GuardError;
use crate::http1::response::Expected;
use crate::model::backend::Protocol;
use crate::reason::Reason;

/// How long an endpoint may keep silent after `expect: 100-continue` before the body goes out anyway, as RFC 9110
/// §10.1.1 lets a client do.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A failed try.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: ProxyError,
    pub(super) progress: Progress,
}

impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self { error, progress: Progress::default() }
    }
}

impl Exchange {
    /// Tries one endpoint.
    pub(super) async fn attempt(&mut self, picked: &Picked) -> Result<Reply, Failure> {
        if let Some(entry) = &mut self.account.entry {
            entry.attempts += 1;
        }
        let protocol = self.account.live.snapshot().backend(picked.backend).map(|backend| backend.key.protocol);
        match protocol {
            Some(Protocol::Http) => self.attempt_http1(picked).await,
            // Rarer, and larger than the other's future: kept out of every idle connection's memory.
            Some(Protocol::H2c) => Box::pin(self.attempt_http2(picked)).await,
            None => Err(ProxyError::NoBackend.into()),
        }
    }

    async fn attempt_http1(&mut self, picked: &Picked) -> Result<Reply, Failure> {
        let pooled = if self.fresh {
            None
        } else {
            let now = self.deadlines.try_began;
            poll_fn(|cx| Poll::Ready(self.account.worker.pools().pop(&picked.endpoint, now, cx))).await
        };
        let mut connection = match pooled {
            Some(connection) => connection,
            None => Box::pin(self.connect(picked)).await?,
        };
        connection.begin(self.deadlines.idle.is_some());
        let mut upload = self.prepare_upload();
        let mut sent = None;
        let head = poll_fn(|cx| self.poll_head(&mut connection, &mut upload, &mut sent, cx)).await;
        match head {
            Ok(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => self.switch(picked, connection, &upload),
            Ok(head) => Ok(self.respond_http1(picked, connection, upload, head)),
            Err(error) => {
                let progress = Progress {
                    reused: connection.is_reused(),
                    written: upload.written(),
                    body_read: upload.body_read(),
                    received: connection.has_received(),
                };
                self.account.upstream_sent += upload.written();
                self.account.upstream_received += connection.read_bytes();
                self.upload = Some(Box::new(upload));
                Err(Failure { error, progress })
            }
        }
    }

    /// Makes a connection; boxed by the caller, since most requests find one in the pool.
    async fn connect(&mut self, picked: &Picked) -> Result<Pooled, ProxyError> {
        let worker = Rc::clone(&self.account.worker);
        let timeout = self.timeouts().connect.unwrap_or(worker.settings().deadlines.connect);
        let began = Instant::now();
        let result = worker.pools().connect(&picked.endpoint, timeout, self.deadlines.connect()).await;
        if let Some(entry) = &mut self.account.entry {
            entry.connect = Some(began.elapsed());
        }
        match result {
            Ok(stream) => Ok(Pooled::new(stream, worker.shared_metrics())),
            Err(err) => Err(self.connect_error(err)),
        }
    }

    fn connect_error(&self, error: ConnectError) -> ProxyError {
        match error {
            ConnectError::Failed(err) => ProxyError::Connect(err),
            ConnectError::TimedOut => match self.deadlines.passed(Instant::now()) {
                Some(reason) => deadline_error(reason),
                None => ProxyError::ConnectTimeout,
            },
        }
    }

    /// Encodes the head, or makes what is left of a failed try ready to be sent again.
    fn prepare_upload(&mut self) -> Upload<ClientBody> {
        let buffers = self.account.worker.buffers();
        let Some(mut upload) = self.upload.take().map(|upload| *upload) else {
            let framing = framing(self.body.as_ref());
            let mut head = buffers.take_write();
            let waits = self.encode(&mut head, framing);
            return Upload::new(head, framing, self.body.take(), waits);
        };
        // Encoded anew: another backendRef has other layers.
        let mut head = buffers.take_write();
        let waits = self.encode(&mut head, upload.framing());
        upload.restart(head, waits);
        upload
    }

    /// Whether the rest of a failed try can be sent to what was picked: body bytes that were read already are framed for
    /// HTTP/1.
    pub(super) fn can_go_on(&self, picked: &Picked) -> bool {
        let protocol = self.account.live.snapshot().backend(picked.backend).map(|backend| backend.key.protocol);
        protocol == Some(Protocol::Http) || self.upload.as_ref().is_none_or(|upload| upload.body_read() == 0)
    }

    /// Appends the request's head in canonical form; true when the body has to wait for a `100`.
    fn encode(&self, out: &mut Vec<u8>, framing: RequestFraming) -> bool {
        let expect_continue = self.head.expect_continue && framing != RequestFraming::Empty;
        headers::encode_request(
            out,
            &RequestHead {
                method: self.method(),
                path: self.path(),
                query: self.uri.query(),
                authority: self.authority(),
                received_authority: self.head.authority(),
                headers: &self.headers,
                downstream: &self.downstream,
                request_id: &self.request_id,
                framing,
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
        sent: &mut Option<Instant>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<ResponseHead, ProxyError>> {
        let worker = &self.account.worker;
        let expected = Expected {
            head_request: *self.method() == http::Method::HEAD,
            trailers: self.trailers,
            websocket: self.handshake.is_some(),
        };
        loop {
            let result = connection.poll_head(
                upload,
                &mut self.headers,
                expected,
                worker.response_limits(),
                worker.buffers(),
                cx,
            );
            if let Poll::Ready(result) = result {
                return Poll::Ready(result.map_err(head_error));
            }
            if sent.is_none() && upload.is_done() {
                *sent = Some(if upload.body_read() == 0 { self.deadlines.try_began } else { Instant::now() });
            }
            let deadline = self.deadlines.before_head(*sent, connection.activity());
            let resume = upload.is_waiting().then(|| self.deadlines.try_began + CONTINUE_WAIT);
            match (deadline, resume) {
                (None, None) => return Poll::Pending,
                (Some((at, reason)), None) => {
                    ready!(connection.poll_deadline(at, cx));
                    return Poll::Ready(Err(deadline_error(reason)));
                }
                (deadline, Some(resume)) => {
                    let (at, reason) = deadline.unwrap_or((resume, Reason::ResponseHead));
                    ready!(connection.poll_deadline(at.min(resume), cx));
                    if at < resume {
                        return Poll::Ready(Err(deadline_error(reason)));
                    }
                    // The endpoint has no objection: RFC 9110 §10.1.1 forbids to wait for ever.
                    upload.resume();
                }
            }
        }
    }

    /// Respond: takes the endpoint's head over and prepares its body.
    fn respond_http1(
        &mut self,
        picked: &Picked,
        mut connection: Pooled,
        mut upload: Upload<ClientBody>,
        head: ResponseHead,
    ) -> Reply {
        let now = Instant::now();
        self.note_head(picked, head.status, now);
        self.account.bytes_in = upload.body_read();
        if connection.interim_dropped() > 0 {
            let dropped = u64::from(connection.interim_dropped());
            self.account.worker.metrics().interim_responses_dropped.add(dropped);
        }
        self.account.upstream_sent += upload.written();
        self.account.upstream_received += connection.read_bytes();

        // An endpoint that reads on while it answers gets the rest; one that refuses, or never said 100, does not: RS8.
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
                Some(Box::new(upload))
            } else {
                unread = upload.take_body();
                None
            };
            let (trailers, deadlines) = (self.trailers, self.deadlines);
            let endpoint = Arc::clone(&picked.endpoint);
            Content::Http1(Box::new(Http1Body { connection, endpoint, upload, sent, trailers, deadlines }))
        };
        if let Some(rest) = unread {
            let limit = self.account.worker.settings().limits.unread_body;
            let close = drop_unread(rest.into(), self.head.expect_continue, limit);
            if close && self.version <= Version::HTTP_11 {
                self.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Reply { status: head.status, content }
    }

    /// Enters what a response head tells about the endpoint and the exchange.
    pub(super) fn note_head(&mut self, picked: &Picked, status: StatusCode, now: Instant) {
        let took = now.saturating_duration_since(self.deadlines.try_began);
        picked.endpoint.observe_latency(took, self.account.worker.since_epoch(now));
        picked.endpoint.succeeded();
        self.account.status = status.as_u16();
        if let Some(entry) = &mut self.account.entry {
            entry.head = Some(took);
        }
    }

    /// A try over HTTP/2: the same phases on a shared connection.
    async fn attempt_http2(&mut self, picked: &Picked) -> Result<Reply, Failure> {
        // Handshakes of HTTP/1 mean nothing there.
        self.handshake = None;
        if let Some(mut upload) = self.upload.take() {
            self.body = upload.take_body();
        }
        let progress = Rc::new(http2::Progress::default());
        if self.body.is_none() {
            progress.done.set(Some(self.deadlines.try_began));
        }
        // A second try is legal once the first was sent (decision 22).
        let is_repeatable = self.body.is_none() && self.method().is_idempotent();
        let (mut unsent, mut sent) = (None, Progress::default());
        for last in [false, true] {
            let sender = match self.http2_sender(picked).await {
                Ok(sender) => sender,
                Err(error) => {
                    self.body = unsent
                        .and_then(|request: Request<RequestBody>| request.into_body().into_inner())
                        .or(self.body.take());
                    return Err(Failure { error, progress: sent });
                }
            };
            let request = unsent.take().unwrap_or_else(|| self.http2_request(&progress));
            match self.exchange_http2(sender, request, &progress).await {
                Ok(response) => return Ok(self.respond_http2(picked, response, progress)),
                Err(Unanswered::Failed(error)) => return Err(Failure { error, progress: sent_progress() }),
                Err(Unanswered::Broken { unsent: Some(again), .. }) if !last => unsent = Some(*again),
                Err(Unanswered::Broken { .. }) if !last && is_repeatable => sent = sent_progress(),
                Err(Unanswered::Broken { error, .. }) => return Err(Failure { error, progress: sent_progress() }),
            }
            self.account.worker.metrics().upstream_retries.inc();
        }
        Err(ProxyError::Reset(Box::new(http2::BodyFailed)).into())
    }

    /// The shared connection to the endpoint.
    async fn http2_sender(&mut self, picked: &Picked) -> Result<Sender, ProxyError> {
        let worker = Rc::clone(&self.account.worker);
        let timeout = self.timeouts().connect.unwrap_or(worker.settings().deadlines.connect);
        let began = Instant::now();
        let result = worker.pools().http2(&picked.endpoint, timeout, self.deadlines.connect()).await;
        if let Some(entry) = &mut self.account.entry {
            entry.connect = Some(began.elapsed());
        }
        result.map_err(|err| self.connect_error(err))
    }

    /// Makes an HTTP/2 request of the client's; its fields stay as they are, for another try.
    fn http2_request(&mut self, progress: &Rc<http2::Progress>) -> Request<RequestBody> {
        let mut fields = self.headers.clone();
        let received = self.head.authority();
        headers::edit_for_http2(&mut fields, received, &self.downstream, &self.request_id);
        let mut target = String::with_capacity(self.path().len() + 16);
        target.push_str(self.path());
        if let Some(query) = self.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority().unwrap_or(b"localhost"))
            .path_and_query(target)
            .build()
            .unwrap_or_else(|_| self.uri.clone());
        let body = RequestBody::new(self.body.take(), Rc::clone(progress), self.trailers);
        let mut request = Request::new(body);
        *request.method_mut() = self.method().clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = fields;
        request
    }

    async fn exchange_http2(
        &mut self,
        mut sender: Sender,
        request: Request<RequestBody>,
        progress: &http2::Progress,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut sending = pin!(sender.try_send_request(request));
        let mut timer = None;
        poll_fn(|cx| {
            if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(|mut err| {
                    if let Some(failed) = progress.failed.take() {
                        return Unanswered::Failed(request_body_error(failed));
                    }
                    let unsent = err.take_message().map(Box::new);
                    Unanswered::Broken { unsent, error: ProxyError::Reset(err.into_error().into()) }
                }));
            }
            self.account.bytes_in = progress.bytes.get();
            let Some((at, reason)) = self.deadlines.before_head(progress.done.get(), progress.last.get()) else {
                return Poll::Pending;
            };
            ready!(client::poll_timer(&mut timer, at, cx));
            Poll::Ready(Err(Unanswered::Failed(deadline_error(reason))))
        })
        .await
    }

    fn respond_http2(&mut self, picked: &Picked, response: Response<Incoming>, progress: Rc<http2::Progress>) -> Reply {
        let (parts, body) = response.into_parts();
        self.note_head(picked, parts.status, Instant::now());
        self.account.bytes_in = progress.bytes.get();
        self.headers = parts.headers;
        headers::clean_response(&mut self.headers, self.trailers);
        if *self.method() != http::Method::HEAD {
            // The server side states the length that the body knows.
            self.headers.remove(header::CONTENT_LENGTH);
        }
        let content = if body.is_end_stream() {
            Content::Empty
        } else {
            let (trailers, deadlines) = (self.trailers, self.deadlines);
            let body = Http2Body { body, progress, trailers, deadlines, activity: None, timer: None };
            Content::Http2(Box::new(body))
        };
        Reply { status: parts.status, content }
    }
}

/// Why an HTTP/2 exchange got no response.
enum Unanswered {
    /// A deadline, or the client's body: nothing to repeat.
    Failed(ProxyError),
    /// The connection or stream broke; `unsent` is the request when none of it was sent.
    Broken { unsent: Option<Box<Request<RequestBody>>>, error: ProxyError },
}

/// Progress of a try that must not be repeated elsewhere.
pub(super) fn sent_progress() -> Progress {
    Progress { written: 1, ..Progress::default() }
}

/// How a body will be framed upstream.
fn framing(body: Option<&ClientBody>) -> RequestFraming {
    match body {
        None => RequestFraming::Empty,
        Some(body) => body.size_hint().exact().map_or(RequestFraming::Chunked, RequestFraming::Length),
    }
}

/// What a failure before the response head means.
fn head_error(error: ClientError) -> ProxyError {
    match error {
        ClientError::Malformed(_) => ProxyError::BadResponse(error.into()),
        ClientError::Handshake => ProxyError::Handshake,
        ClientError::RequestBody(source) => request_body_error(source),
        ClientError::Io(_) | ClientError::Closed | ClientError::Truncated => ProxyError::Reset(error.into()),
    }
}

/// What a deadline that passed before the response head means.
fn deadline_error(reason: Reason) -> ProxyError {
    match reason {
        Reason::BackendRequest => ProxyError::BackendRequest,
        Reason::Request => ProxyError::Request,
        Reason::ExchangeIdle => ProxyError::ExchangeIdle,
        _ => ProxyError::ResponseHead,
    }
}

/// Finds out what was wrong with the client's body: the guard says so inside the error that hyper hands on.
pub(super) fn request_body_error(source: Box<dyn Error + Send + Sync>) -> ProxyError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(source.as_ref());
    while let Some(error) = cause {
        // An io::Error hides its own payload from the chain.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let guard =
            error.downcast_ref::<GuardError>().or_else(|| inner.and_then(|inner| inner.downcast_ref::<GuardError>()));
        if let Some(&GuardError { status, reason }) = guard {
            return ProxyError::RequestBody { status, reason, source };
        }
        if error.is::<LengthMismatch>() {
            return ProxyError::RequestBody { status: StatusCode::BAD_REQUEST, reason: Reason::Length, source };
        }
        cause = error.source();
    }
    // Neither framing nor limits: the client is gone, or reset its stream.
    ProxyError::RequestBody { status: StatusCode::BAD_REQUEST, reason: Reason::ClientGone, source }
}
