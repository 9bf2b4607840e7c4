//! One try over HTTP/2: a stream on a shared connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};

use http::header;
use http::{Request, Response, Uri, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use crate::balance::Picked;
use crate::proxy::body::{Content, Http2Body};
use crate::proxy::decision::Matched;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Exchange, Reply};
use crate::proxy::headers;
use crate::proxy::retry::{Failure, Progress, Sent};
use crate::proxy::upstream_http2::{self, Lease, RequestBody, RequestProgress};
use crate::timer::Timer;

impl Exchange {
    /// A try on one of the endpoint's shared connections.
    pub(super) async fn attempt_http2(&mut self, matched: &Matched, picked: &Picked) -> Result<(), Failure> {
        // Handshakes of HTTP/1 mean nothing there.
        self.handshake = None;
        if let Some(mut upload) = self.upload.take() {
            self.body = upload.take_body();
        }
        let mut lease = self.http2_lease(matched, picked).await?;
        let progress = RequestProgress::new(self.body.take(), self.decision.deadlines.try_began);
        let result = match self.http2_request(&progress) {
            Ok(request) => self.exchange_http2(&mut lease, request, &progress).await,
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(response) => {
                progress.answered();
                lease.answered();
                self.respond_http2(picked, response, progress, lease);
                Ok(())
            }
            Err(Unanswered { error, sent }) => {
                let is_repeatable = progress.is_repeatable();
                self.body = progress.take_body();
                let progress = Progress { reused: lease.reused, sent, is_repeatable, received: false };
                Err(Failure { error, progress })
            }
        }
    }

    /// A place on one of the endpoint's connections.
    async fn http2_lease(&mut self, matched: &Matched, picked: &Picked) -> Result<Lease, ProxyError> {
        let worker = Rc::clone(&self.account.worker);
        let began = Instant::now();
        let (timeout, deadline) = (self.connect_timeout(matched), self.decision.deadlines.connect());
        let result = worker.pools().http2(&picked.endpoint, timeout, deadline).await;
        self.note_connect(began);
        result.map_err(|err| self.connect_error(err))
    }

    /// Makes an HTTP/2 request of the client's; its fields stay as they are, for another try.
    fn http2_request(&self, progress: &Rc<RequestProgress>) -> Result<Request<RequestBody>, ProxyError> {
        let decision = &self.decision;
        let mut fields = decision.fields.clone();
        let target = decision.client.target;
        headers::edit_for_http2(&mut fields, decision.head.authority(), &decision.downstream, target, &self.request_id);
        let path = decision.seen_path();
        let mut target = String::with_capacity(path.len() + 16);
        target.push_str(path);
        if let Some(query) = decision.uri.query() {
            target.push('?');
            target.push_str(query);
        }
        let uri = Uri::builder()
            .scheme("http")
            .authority(decision.seen_authority().unwrap_or(b"localhost"))
            .path_and_query(target)
            .build()
            .map_err(|err| ProxyError::Unsendable(err.into()))?;
        let body = RequestBody::new(Rc::clone(progress), decision.trailers);
        let mut request = Request::new(body);
        *request.method_mut() = decision.seen_method().clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = fields;
        Ok(request)
    }

    async fn exchange_http2(
        &mut self,
        lease: &mut Lease,
        request: Request<RequestBody>,
        progress: &RequestProgress,
    ) -> Result<Response<Incoming>, Unanswered> {
        let mut sender = lease.sender();
        let mut sending = pin!(sender.try_send_request(request));
        let mut timer = Timer::default();
        poll_fn(|cx| {
            if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(|mut err| {
                    if let Some(failed) = progress.failed.take() {
                        return ProxyError::request_body(failed).into();
                    }
                    let is_unsent = err.take_message().is_some();
                    let error = err.into_error();
                    let sent = if is_unsent {
                        Sent::Nothing
                    } else if upstream_http2::is_unprocessed(&error) {
                        lease.refused(Instant::now());
                        Sent::Refused
                    } else {
                        Sent::Some
                    };
                    Unanswered { sent, error: ProxyError::Reset(error.into()) }
                }));
            }
            self.account.bytes_in = progress.bytes.get();
            let deadlines = &self.decision.deadlines;
            let Some((at, kind)) =
                deadlines.before_head(progress.waiting_since(deadlines.try_began), progress.last.get())
            else {
                return Poll::Pending;
            };
            ready!(timer.poll_until(cx, at));
            lease.timed_out();
            Poll::Ready(Err(ProxyError::from(kind).into()))
        })
        .await
    }

    fn respond_http2(
        &mut self,
        picked: &Picked,
        response: Response<Incoming>,
        progress: Rc<RequestProgress>,
        lease: Lease,
    ) {
        let (parts, body) = response.into_parts();
        self.note_head(picked, parts.status, Instant::now());
        self.account.bytes_in = progress.bytes.get();
        let mut fields = parts.headers;
        headers::clean_response(&mut fields, self.decision.trailers);
        if *self.decision.seen_method() != http::Method::HEAD {
            // The server side states the length that the body knows.
            fields.remove(header::CONTENT_LENGTH);
        }
        let content = if body.is_end_stream() {
            Content::Empty
        } else {
            let (trailers, deadlines) = (self.decision.trailers, self.decision.deadlines);
            let (activity, ended, timer) = (None, false, Timer::default());
            let body = Http2Body { body, lease, progress, trailers, deadlines, activity, ended, timer };
            Content::Http2(Box::new(body))
        };
        self.reply = Reply { status: parts.status, fields, content, reason: None };
    }
}

/// Why an HTTP/2 exchange got no response.
struct Unanswered {
    error: ProxyError,
    sent: Sent,
}

impl From<ProxyError> for Unanswered {
    fn from(error: ProxyError) -> Self {
        Self { error, sent: Sent::Some }
    }
}
