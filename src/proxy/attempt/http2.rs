//! One try over HTTP/2: a stream on a shared connection.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use http::header::{self, HeaderValue};
use http::response::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use http_body::Body as _;
use tokio::time::Instant;

use crate::balance::Picked;
use crate::proxy::body::{Content, Http2Body};
use crate::proxy::decision::Matched;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::{Exchange, HeldAnswer, Reply};
use crate::proxy::headers;
use crate::proxy::retry::{Failure, Missed, Progress, Sent};
use crate::proxy::upstream::{NoLease, Opening};
use crate::proxy::upstream_http2::{Lease, RequestProgress, ResponseBody, Sending};
use crate::timer::Timer;

impl Exchange {
    /// A try on one of the endpoint's shared connections.
    pub(super) async fn attempt_http2(&mut self, matched: &Matched, picked: &Picked) -> Result<(), Missed> {
        // Handshakes of HTTP/1 mean nothing there. A WebSocket over HTTP/2 cannot become a plain request.
        if self.handshake.take().is_some() && self.version == Version::HTTP_2 {
            return Err(ProxyError::NoUpgrade.into());
        }
        if let Some(upload) = self.upload.take() {
            self.body = upload.into_body();
        }
        if let Some(body) = &mut self.body {
            body.rewind();
        }
        let mut lease = self.http2_lease(matched, picked).await?;
        let length = self.body.as_ref().map_or(Some(0), |body| body.size_hint().exact());
        let progress = RequestProgress::new(self.body.take(), self.decision.deadlines.try_began);
        let is_secure = matched.live().client_tls(picked.backend).is_some();
        let result = match self.http2_request(length, if is_secure { "https" } else { "http" }, picked) {
            Ok(request) => self.exchange_http2(&mut lease, request, &progress).await,
            Err(error) => Err(error.into()),
        };
        match result {
            Ok(response) => {
                lease.answered();
                let (status, fields) = (response.0.status, &response.0.headers);
                let wish = self.decision.wish_after_answer(matched, status, fields);
                if let Some(again) = wish.and_then(|wish| self.again(matched, picked, wish, progress.is_repeatable())) {
                    self.body = progress.take_body();
                    self.set_aside_http2(matched, picked, response, progress, lease);
                    return Err(Missed::Unwanted(again));
                }
                progress.answered();
                self.respond_http2(picked, response, progress, lease);
                Ok(())
            }
            Err(Unanswered { error, sent }) => {
                let is_repeatable = progress.is_repeatable();
                self.body = progress.take_body();
                let is_sent = progress.done.get().is_some();
                let reused = lease.reused;
                let progress = Progress { reused, sent, is_repeatable, is_sent, received: false, learned: false };
                Err(Failure { error, progress }.into())
            }
        }
    }

    /// A place on one of the endpoint's connections.
    async fn http2_lease(&mut self, matched: &Matched, picked: &Picked) -> Result<Lease, Failure> {
        let worker = Rc::clone(&self.account.worker);
        let limits = matched.limits();
        let most = limits.and_then(|limits| limits.connections);
        let mut opening = most.map_or(Opening::Any, |most| Opening::Below { most, has_waited: false });
        let mut line = None;
        let result = loop {
            let began = Instant::now();
            let (timeout, deadline) = (self.connect_timeout(matched), self.decision.deadlines.connect());
            let result = worker.pools().http2(Self::peer(matched, picked), opening, timeout, deadline).await;
            self.note_connect(began);
            match (result, limits) {
                (Err(NoLease::AtLimit), Some(limits)) => {
                    opening = self.wait_for_stream(matched, picked, limits, &mut line).await?;
                }
                // Only limits make one.
                (Err(NoLease::AtLimit), None) => return Err(ProxyError::EndpointLimit.into()),
                (Err(NoLease::Failed(error)), _) => break Err(error),
                (Ok(lease), _) => break Ok(lease),
            }
        };
        if let (Ok(lease), Some(limits)) = (&result, limits)
            && let Some(most) = limits.requests_per_connection
        {
            lease.limit(most);
        }
        result.map_err(|err| self.connect_failure(err))
    }

    /// Makes an HTTP/2 request of the client's, whose body is `length` bytes long where that is known; its fields stay as
    /// they are, for another try.
    fn http2_request(&self, length: Option<u64>, scheme: &str, picked: &Picked) -> Result<Request<()>, ProxyError> {
        let decision = &self.decision;
        let mut fields = decision.fields.clone();
        let target = decision.client.target;
        let ends = (&*decision.downstream, picked.endpoint.key.addr.ip());
        headers::edit_for_http2(&mut fields, decision.head.authority(), ends, target, &self.request_id);
        if let Some(attempt) = self.attempt_number() {
            fields.insert(headers::X_TIDEGATE_ATTEMPT, u16::from(attempt).into());
        }
        let path = decision.seen_path();
        let mut target = String::with_capacity(path.len() + 16);
        target.push_str(path);
        if let Some(query) = decision.seen_query() {
            target.push('?');
            target.push_str(query);
        }
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(decision.seen_authority().unwrap_or(b"localhost"))
            .path_and_query(target)
            .build()
            .map_err(|err| ProxyError::Unsendable(err.into()))?;
        // RFC 9110 §8.6: without content, only methods that usually have some say so.
        let is_bare = matches!(*decision.seen_method(), Method::GET | Method::HEAD | Method::DELETE);
        if let Some(length) = length.filter(|&length| length > 0 || !is_bare) {
            fields.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        }
        let mut request = Request::new(());
        *request.method_mut() = decision.seen_method().clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = fields;
        Ok(request)
    }

    async fn exchange_http2(
        &mut self,
        lease: &mut Lease,
        request: Request<()>,
        progress: &Rc<RequestProgress>,
    ) -> Result<(Parts, ResponseBody), Unanswered> {
        let (trailers, head_request) = (self.decision.trailers, *self.decision.seen_method() == Method::HEAD);
        let mut request = Some(request);
        let mut sending = None;
        let mut timer = Timer::default();
        let most_interim = self.account.worker.response_limits().interim;
        let result = poll_fn(|cx| {
            if let Some(request) = request.take() {
                match Sending::begin(lease.sender(), request, progress, trailers, cx) {
                    Ok(begun) => sending = Some(begun),
                    Err(error) => {
                        let error = ProxyError::Reset(error.into());
                        return Poll::Ready(Err(Unanswered { error, sent: Sent::Nothing }));
                    }
                }
            }
            let Some(sending) = &mut sending else { return Poll::Pending };
            if let Poll::Ready(result) = sending.poll_head(most_interim, head_request, cx) {
                return Poll::Ready(result.map_err(|error| {
                    if let Some(failed) = progress.failed.take() {
                        return ProxyError::request_body(failed).into();
                    }
                    if error.is_malformed() {
                        return ProxyError::BadResponse(error.into()).into();
                    }
                    let mut sent = Sent::Some;
                    if error.is_unprocessed() {
                        lease.refused(Instant::now());
                        sent = Sent::Refused;
                    }
                    Unanswered { sent, error: ProxyError::Reset(error.into()) }
                }));
            }
            self.account.bytes_in = progress.bytes.get();
            let deadlines = &self.decision.deadlines;
            let waiting_since = progress.waiting_since(deadlines.try_began);
            if waiting_since.is_none() {
                progress.wake_on_body(cx);
            }
            let Some((at, kind)) = deadlines.before_head(waiting_since, progress.last.get()) else {
                return Poll::Pending;
            };
            ready!(timer.poll_until(cx, at));
            lease.timed_out();
            Poll::Ready(Err(ProxyError::from(kind).into()))
        })
        .await;
        let dropped = sending.as_ref().map_or(0, Sending::interim_dropped);
        if dropped > 0 {
            self.account.worker.metrics().interim_responses_dropped.add(u64::from(dropped));
        }
        result
    }

    fn respond_http2(
        &mut self,
        picked: &Picked,
        (parts, body): (Parts, ResponseBody),
        progress: Rc<RequestProgress>,
        lease: Lease,
    ) {
        self.reply = self.http2_reply(picked, (parts, body), Rc::clone(&progress), lease);
        // A stream of HTTP/2 ends by itself, whatever is left of it.
        if self.version <= Version::HTTP_11 {
            let limit = self.account.worker.settings().limits.unread_body;
            let refuses = self.reply.status.as_u16() >= 300;
            if progress.leave_rest(refuses, self.decision.head.expect_continue, limit) {
                self.reply.fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
    }

    /// Holds an answer while further tries are made.
    fn set_aside_http2(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        response: (Parts, ResponseBody),
        progress: Rc<RequestProgress>,
        lease: Lease,
    ) {
        let reply = self.http2_reply(picked, response, progress, lease);
        let (is_whole, is_sent) = match &reply.content {
            // Nobody else has a hand in it once the request is sent; the stream ends with a request that was given up.
            Content::Http2(body) => (false, Rc::strong_count(&body.progress) == 1),
            Content::Empty
            | Content::Full(_)
            | Content::Http1(_)
            | Content::Flight(_)
            | Content::Staged(_)
            | Content::Cut(_) => (true, true),
        };
        self.held = (is_whole || (is_sent && Self::may_hold_connection(matched)))
            .then(|| Box::new(HeldAnswer { picked: picked.clone(), reply }));
    }

    /// Enters an answer and prepares its body.
    fn http2_reply(
        &mut self,
        picked: &Picked,
        (parts, body): (Parts, ResponseBody),
        progress: Rc<RequestProgress>,
        lease: Lease,
    ) -> Reply {
        self.note_head(picked, parts.status, Instant::now());
        self.note_answer(picked, parts.status, &parts.headers);
        self.account.bytes_in = progress.bytes.get();
        let mut fields = parts.headers;
        headers::clean_response(&mut fields, self.decision.trailers);
        // These have no content, whatever comes behind them (RFC 9110 §6.4.1): the stream ends here.
        let has_content = *self.decision.seen_method() != Method::HEAD
            && !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let content = if has_content && !body.is_end_stream() {
            let (endpoint, trailers, deadlines) =
                (Arc::clone(&picked.endpoint), self.decision.trailers, self.decision.deadlines);
            let (activity, ended, timer) = (None, false, Timer::default());
            let body = Http2Body { body, endpoint, lease, progress, trailers, deadlines, activity, ended, timer };
            Content::Http2(Box::new(body))
        } else {
            if !body.is_end_stream() {
                progress.stop();
            }
            Content::Empty
        };
        Reply { status: parts.status, fields, content, reason: None }
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
