//! Copies of requests for other backends: sent beside the request, by a task of the worker, which nobody waits for.
//!
//! A copy is an exchange of its own, without a client: it is picked, sent and read like any other, and what comes back is
//! dropped. Its endpoint's live numbers count it; the numbers of its rule, and the access log, know nothing of it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use http_body::Body as _;
use tokio::time::Instant;

use super::body::ForwardBody;
use super::client_body::ClientBody;
use super::copies::CopyPlace;
use super::deadlines::ExchangeDeadlines;
use super::decision::Matched;
use super::exchange::Exchange;
use super::own_request::pick;
use super::retry::{Missed, Verdict};
use super::task::poll_counted;
use super::tee::{CopyWatch, tee};
use crate::balance::Picked;
use crate::filter::OwnRequest;
use crate::telemetry::metrics::{MirrorResult, Where};

/// What tells a pod that nobody waits for its answer.
const X_TIDEGATE_MIRROR: HeaderName = HeaderName::from_static("x-tidegate-mirror");

/// The longest time that a copy may take, whatever its rule says.
const LONGEST: Duration = Duration::from_secs(30);

/// Most bytes that are read of an answer, so that its connection can be used again.
const MOST_READ: u64 = 1 << 20;

impl Exchange {
    /// Begins to send the copies that filters have asked for; later tries of the request make none. A WebSocket is never
    /// copied.
    #[cold]
    pub(super) fn send_copies(&mut self, matched: &Matched, copies: Vec<OwnRequest>) {
        if self.handshake.is_some() {
            return;
        }
        for copied in copies {
            let worker = Rc::clone(&self.account.worker);
            match self.copy(matched, copied) {
                Some(copy) => {
                    tokio::task::spawn_local(copy.run());
                }
                None => worker.metrics().mirrored(MirrorResult::Skipped),
            }
        }
    }

    /// The exchange of a copy; `None` where it cannot be sent now.
    fn copy(&mut self, matched: &Matched, copied: OwnRequest) -> Option<Copy> {
        let worker = &self.account.worker;
        if worker.is_short_of_memory() {
            return None;
        }
        let picked = pick(matched, &copied.backend, None, worker)?;
        let place = worker.copies().begin()?;
        let now = Instant::now();
        let settings = worker.settings();
        let deadlines = ExchangeDeadlines::new(&matched.rule().timeouts, settings.deadlines.response_head, now);
        let mut watch = None;
        let body = self.body.as_mut().map(|body| {
            let (tee, copy) = tee(body.size_hint().exact(), worker.mirror_room().clone());
            body.copy_to(tee);
            watch = Some(copy.watch());
            ClientBody::from(copy)
        });
        let mut exchange = self.beside(copied, (body, false), deadlines);
        exchange.decision.fields.insert(X_TIDEGATE_MIRROR, HeaderValue::from_static("1"));
        exchange.account.in_flight = Some(picked.endpoint.begin());
        let until = deadlines.request.map_or(now + LONGEST, |at| at.min(now + LONGEST));
        Some(Copy { exchange, matched: matched.clone(), picked, until, watch, place })
    }
}

/// A copy on its way.
struct Copy {
    exchange: Box<Exchange>,
    matched: Matched,
    picked: Picked,
    until: Instant,
    watch: Option<CopyWatch>,
    place: CopyPlace,
}

impl Copy {
    /// Sends it, drops what comes back, and counts what became of it.
    async fn run(self) {
        let Self { exchange, matched, picked, until, watch, place } = self;
        let worker = Rc::clone(&exchange.account.worker);
        let is_answered = {
            let mut sent = pin!(send(exchange, matched, picked));
            let counted = poll_fn(|cx| match poll_counted(worker.metrics(), Where::Request, sent.as_mut(), cx) {
                Poll::Pending => match &watch {
                    Some(watch) => watch.poll_given_up(cx).map(|()| None),
                    None => Poll::Pending,
                },
                Poll::Ready(result) => Poll::Ready(result),
            });
            tokio::time::timeout_at(until, counted).await.ok().flatten()
        };
        let has_overflown = watch.is_some_and(|watch| watch.has_overflown());
        worker.metrics().mirrored(match is_answered {
            Some(true) => MirrorResult::Sent,
            _ if has_overflown => MirrorResult::Overflow,
            Some(false) | None => MirrorResult::Failed,
        });
        drop(place);
    }
}

/// Whether an answer came.
async fn send(mut exchange: Box<Exchange>, matched: Matched, picked: Picked) -> bool {
    loop {
        match exchange.attempt(&matched, &picked).await {
            Ok(()) => break,
            Err(Missed::Unwanted(_)) => return true,
            Err(Missed::Failed(failure)) => {
                let now = Instant::now();
                let verdict = exchange.decision.judge(&failure, now, false);
                exchange.note_failure(&picked, &failure, verdict, now);
                // The endpoint had closed it while it was idle, or refuses the stream.
                if verdict != Verdict::FreshConnection || !exchange.can_go_on(&matched, &picked) {
                    return false;
                }
                exchange.fresh = true;
                exchange.begin_try(&matched, now);
            }
        }
    }
    let Exchange { account, decision, reply, .. } = *exchange;
    account.worker.put_fields(decision.fields);
    let mut body = ForwardBody::new(reply.content, account);
    let mut read = 0;
    poll_fn(|cx| {
        while let Some(Ok(frame)) = ready!(Pin::new(&mut body).poll_frame(cx)) {
            read += frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
            if read > MOST_READ {
                break;
            }
        }
        Poll::Ready(())
    })
    .await;
    true
}
