//! The end of a client connection: a tunnel behind a `101`, or a refusal, the shutdown and what still comes.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{ConnectionEnd, Driver};
use crate::drain::Phase;
use crate::proxy::downstream::{Handler, OwnAnswer, Upgraded};
use crate::proxy::guarded_io::GuardedSocket;
use crate::proxy::own_answer::{http_date, own_answer_bytes};
use crate::reason::Reason;
use crate::stream::Stream;
use crate::telemetry::metrics::Side;

/// Why a connection ends with an answer that its client has not read.
const UNREAD: [Reason; 6] = [
    Reason::WriteSlow,
    Reason::WriteStall,
    Reason::Overload,
    Reason::Request,
    Reason::BackendRequest,
    Reason::ExchangeIdle,
];

/// Input dropped behind an answer of which no deadline ends the reading.
const LINGER_LIMIT: usize = 64 << 10;

impl<H: Handler> Driver<H> {
    /// Hands the socket over to what runs behind the `101`, until that ends. No deadline of HTTP holds any more.
    pub(super) async fn tunnel(self) {
        let tunnel = self.shared.upgrade.take();
        let (received, sent) = self.guard.borrow_mut().take_counts();
        let socket = self.guard.borrow_mut().take_tunnel();
        // What came behind the handshake is counted where it goes on.
        let held = socket.as_ref().map_or(0, |(_, held)| held.len() as u64);
        let metrics = Arc::clone(&self.shared.context.metrics);
        metrics.received(Side::Downstream, received.saturating_sub(held));
        metrics.sent(Side::Downstream, sent);
        let (Some(tunnel), Some((stream, held))) = (tunnel, socket) else { return };
        let Self { shared, place, mut watched, .. } = self;
        place.presence().busy();
        place.presence().newness().end();
        let drain = Rc::clone(&shared.context.drain);
        let closing = Box::pin(poll_fn(move |cx| {
            if !std::mem::replace(&mut watched, true) {
                place.watch(cx);
            }
            if drain.phase() >= Phase::Closing { Poll::Ready(drain.closing_since()) } else { Poll::Pending }
        }));
        drop(shared);
        tunnel(Upgraded { stream: stream.into(), held, closing }).await;
    }

    /// Ends the connection.
    pub(super) async fn finish(&mut self, end: ConnectionEnd) {
        let Some((refusal, surplus)) = self.settle(end) else { return };
        let context = Rc::clone(&self.shared.context);
        let linger = context.deadlines.linger;
        // Whoever was sent away for what it does, and whoever has no deadline, is not read for long.
        let is_bounded = linger.is_zero() || matches!(end, ConnectionEnd::Refused(_));
        let most = if is_bounded { LINGER_LIMIT } else { usize::MAX };
        let farewell = self.say_farewell(refusal, surplus, most);
        let outcome = if linger.is_zero() { Ok(farewell.await) } else { tokio::time::timeout(linger, farewell).await };
        // What was counted as closed before is not counted again.
        if !matches!(outcome, Ok(true)) && !matches!(end, ConnectionEnd::Refused(_)) {
            context.metrics.closed(Side::Downstream, Reason::Linger);
        }
    }

    /// Counts how the connection ended. What is left to do on the socket, if anything: the refusal to answer, and whether
    /// the client may still be sending.
    fn settle(&self, end: ConnectionEnd) -> Option<(Option<OwnAnswer>, bool)> {
        let metrics = &self.shared.context.metrics;
        let mut guard = self.guard.borrow_mut();
        let (received, sent) = guard.take_counts();
        metrics.received(Side::Downstream, received);
        metrics.sent(Side::Downstream, sent);
        if let Some(error) = guard.broken() {
            metrics.refused(error.reason);
        }
        match end {
            ConnectionEnd::Finished | ConnectionEnd::Upgraded => {}
            ConnectionEnd::Dropped => {
                self.reset_http10(&mut guard);
                return None;
            }
            ConnectionEnd::Closed(reason) => {
                metrics.closed(Side::Downstream, reason);
                if UNREAD.contains(&reason)
                    && let Some(stream) = guard.take_stream()
                {
                    // Unsent bytes would stay in the kernel for a reader that does not read.
                    stream.reset_on_drop();
                }
                self.reset_http10(&mut guard);
                return None;
            }
            ConnectionEnd::Refused(reason) => {
                metrics.closed(Side::Downstream, reason);
                return Some((None, true));
            }
        }
        let refusal = guard.refusal();
        match refusal {
            Some(answer) => {
                metrics.refused(answer.reason);
                metrics.own_answer(answer.reason);
                self.shared.context.handler.log_unhandled(&self.shared.downstream, None, answer);
            }
            // A client that has shut its side down still reads; only close_notify tells it that an answer is whole (RFC 9112
            // §9.8).
            None if guard.has_ended() && !self.shared.downstream.secure => return None,
            None => {}
        }
        Some((refusal, refusal.is_some() || guard.has_surplus()))
    }

    /// Answers a refusal, shuts the write side down, and drops what still comes, up to `most` bytes, so that no reset destroys
    /// the answer under way (RFC 9112 §9.6). The deadline ends it for a client that never stops. `false` when the client sends
    /// more.
    async fn say_farewell(&self, refusal: Option<OwnAnswer>, surplus: bool, most: usize) -> bool {
        let Some(mut stream) = self.take_stream() else { return true };
        if let Some(answer) = refusal {
            let bytes = own_answer_bytes(answer, &http_date(), self.shared.context.reason_header);
            if stream.write_all(&bytes).await.is_err() {
                return true;
            }
            self.shared.context.metrics.sent(Side::Downstream, bytes.len() as u64);
        }
        if poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.is_err() {
            return true;
        }
        let mut dropped: usize = 0;
        let drain = &self.shared.context.drain;
        poll_fn(|cx| {
            let mut bytes = [0; 8 << 10];
            loop {
                // The drain wakes this task, and so does whoever needs its place.
                if drain.phase() == Phase::Ended || self.shared.presence.is_asked() {
                    return Poll::Ready(true);
                }
                let mut buf = ReadBuf::new(&mut bytes);
                match Pin::new(&mut stream).poll_read(cx, &mut buf) {
                    // Nothing was left over and nothing waits: the client has what it asked for.
                    Poll::Pending if !surplus && dropped == 0 => return Poll::Ready(true),
                    result => {
                        let count = match ready!(result) {
                            Ok(()) => buf.filled().len(),
                            Err(_) => 0,
                        };
                        if count == 0 {
                            return Poll::Ready(true);
                        }
                        dropped = dropped.saturating_add(count);
                        if dropped > most {
                            return Poll::Ready(false);
                        }
                    }
                }
            }
        })
        .await
    }

    /// Lets the connection of an HTTP/1.0 client end with a reset when an answer breaks off: FIN would be the end of the body,
    /// and the answer would look complete (RFC 9112 §6.3).
    fn reset_http10(&self, guard: &mut GuardedSocket) {
        // A client whose body was refused waits for the answer that says so.
        if self.cuts_http10
            && guard.broken().is_none()
            && let Some(stream) = guard.take_stream()
        {
            stream.reset_on_drop();
        }
    }

    /// Takes the socket out of the guard, which nobody else uses any more.
    fn take_stream(&self) -> Option<Stream> {
        self.guard.borrow_mut().take_stream()
    }
}
