//! A WebSocket that is one stream of an HTTP/2 connection (RFC 8441): CONNECT instead of the handshake of HTTP/1.1, 200 instead
//! of `101`, END_STREAM instead of FIN.
//!
//! Behind the head of the answer it is a tunnel as any other, in a task of its own. It ends with its connection: h2 ends
//! both halves of the stream then.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::drain::Phase;
use crate::proxy::client_end::ClientEnd;
use crate::proxy::connection::context::{HttpVersion, RunningExchange, Shared};
use crate::proxy::downstream::{AfterUpgrade, AnswerForm, Handler, OwnAnswer, UpgradeSlot, Upgraded};
use crate::reason::Reason;

/// A request that asks for a WebSocket, or for anything else by CONNECT.
pub(super) struct Opening {
    /// Gives the stream once the answer is one of success.
    stream: OnUpgrade,
    slot: UpgradeSlot,
}

impl Opening {
    pub(super) fn new(request: &mut Request<Incoming>) -> Box<Self> {
        Box::new(Self { stream: hyper::upgrade::on(request), slot: UpgradeSlot::default() })
    }

    /// Where the handler leaves what runs behind its `101`.
    pub(super) fn slot(&self) -> UpgradeSlot {
        self.slot.clone()
    }

    /// Makes the answer that the client gets of the handler's, and begins the tunnel if there is one.
    pub(super) fn finish<H: Handler>(
        self,
        mut response: Response<H::Body>,
        exchange: &RunningExchange<H>,
    ) -> Response<H::Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(tunnel) = self.slot.take()
        {
            *response.status_mut() = StatusCode::OK;
            for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
                response.headers_mut().remove(name);
            }
            let running = RunningExchange::begin(&exchange.shared, HttpVersion::Http2);
            tokio::task::spawn_local(run(self.stream, tunnel, running));
            return response;
        }
        // Of success there is only one kind: an open WebSocket (RFC 8441 §5).
        if response.status().is_success() || response.status().is_informational() {
            let answer = OwnAnswer { status: StatusCode::BAD_GATEWAY, reason: Reason::Upgrade, close: false };
            let Shared { context, downstream, .. } = &*exchange.shared;
            return context.handler.own_answer(downstream, answer, AnswerForm::Text);
        }
        response
    }
}

/// Runs the tunnel on its stream, until one of the two ends. The connection has an exchange as long.
async fn run<H: Handler>(stream: OnUpgrade, tunnel: AfterUpgrade, running: RunningExchange<H>) {
    // The client may be gone before the head of its answer was on its way.
    let Ok(stream) = stream.await else { return };
    let shared = Rc::clone(&running.shared);
    let closing = Box::pin(async move { closing(&shared).await });
    tunnel(Upgraded { stream: ClientEnd::of_http2(stream), held: Bytes::new(), closing }).await;
    drop(running);
}

/// Resolves when the process stops, with the time since when it does.
async fn closing<H>(shared: &Shared<H>) -> Instant {
    loop {
        // Nothing comes between the look and the wait: the connection, which notifies, runs on this thread.
        let notified = shared.closing.notified();
        if shared.context.drain.phase() >= Phase::Closing {
            return shared.context.drain.closing_since();
        }
        notified.await;
    }
}
