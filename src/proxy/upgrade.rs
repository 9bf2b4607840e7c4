//! WebSocket passthrough: from a checked handshake to a tunnel. One that came over HTTP/2 (RFC 8441) is a handshake of HTTP/1.1
//! from here on.
//!
//! A handshake is a request like any other until the endpoint's `101` was checked. Then the exchange is over, and what is
//! left belongs to the socket alone: it holds no snapshot, no publication reaches it, and it ends when one of its ends
//! does, at its limits, or when the process stops.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Version};
use tokio::time::Instant;

use super::body::Content;
use super::client_body::ClientBody;
use super::connect::OpenConnection;
use super::decision::Matched;
use super::downstream::Upgraded;
use super::error::ProxyError;
use super::exchange::{Exchange, Handshake};
use super::retry::{Failure, Progress, Sent};
use super::tunnel::{self, CloseCause, End, Ends, Meter, TunnelLimits};
use super::upstream::Pooled;
use super::worker::Worker;
use crate::balance::{InFlight, Picked};
use crate::filter::Permits;
use crate::http1::client::Upload;
use crate::http1::websocket;
use crate::model::policy::Upgrades;
use crate::reason::Reason;
use crate::sockets::{Registration, SocketInfo, TooMany};
use crate::stream::Stream;
use crate::telemetry::access_log;
use crate::telemetry::metrics::{Side, SocketEnd};

/// How long a socket that leaves at the end of the drain timeout may take to answer: the process ends a second after it.
const LAST_GOODBYE: Duration = Duration::from_millis(800);

/// What lives as long as a socket; entered in metrics and log when it is dropped, however that comes about.
struct Socket {
    worker: Rc<Worker>,
    registration: Registration,
    upgrades: Upgrades,
    /// Loads its endpoint as a running request does.
    _in_flight: Option<InFlight>,
    _permits: Permits,
    _open: OpenConnection,
    /// The line of the handshake, written at the end with all that went through.
    line: Option<Box<access_log::AccessLogEntry>>,
    /// When the handshake came, and when it was accepted.
    started: Instant,
    opened: Instant,
    end: SocketEnd,
    reason: Option<Reason>,
}

impl Exchange {
    /// Keeps a place for the socket that a handshake asks for, where the rule allows it; else the request is a plain one.
    pub(super) fn begin_upgrade(&mut self, matched: &Matched) -> Result<(), ProxyError> {
        let decision = &mut self.decision;
        let Some(slot) = decision.head.upgrade.take() else { return Ok(()) };
        let is_http2 = self.version == Version::HTTP_2;
        let upgrades = *matched.rule().upgrades;
        if !upgrades.websocket || *decision.seen_method() != Method::GET {
            // Over HTTP/2 there is no plain request that it could be taken for.
            return if is_http2 { Err(ProxyError::NoUpgrade) } else { Ok(()) };
        }
        if is_http2 {
            // Nothing of the kind comes over HTTP/2 (RFC 8441 §5); the endpoint wants one that is random (RFC 6455 §4.1).
            let key = websocket::key(self.account.worker.rng().borrow_mut().u128(..));
            let key = HeaderValue::from_bytes(&key).map_err(|_| ProxyError::NoUpgrade)?;
            decision.fields.insert(header::SEC_WEBSOCKET_KEY, key);
        }
        let Some(key) = decision.fields.get(header::SEC_WEBSOCKET_KEY) else { return Ok(()) };
        let Some(route) = matched.route_label().map(Arc::clone) else { return Ok(()) };
        let rule = Arc::clone(&matched.rule().name);
        let place = self.account.worker.sockets().reserve(&route, &rule, upgrades.max_connections);
        let place = place.map_err(|TooMany| ProxyError::MaxConnections)?;
        let accept = websocket::accept(key.as_bytes());
        self.handshake = Some(Box::new(Handshake { slot, place, accept, upgrades, route, rule }));
        Ok(())
    }

    /// The endpoint has switched: checks that it accepted this very handshake, and leaves a tunnel with the client's
    /// connection.
    pub(super) fn switch(
        &mut self,
        matched: &Matched,
        picked: &Picked,
        connection: Pooled,
        upload: &Upload<ClientBody>,
    ) -> Result<(), Failure> {
        let refused = || Failure {
            error: ProxyError::Handshake,
            progress: Progress { sent: Sent::Some, received: true, ..Progress::default() },
        };
        let handshake = *self.handshake.take().ok_or_else(refused)?;
        let mut lines = self.reply.fields.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        let (Some(accept), None) = (lines.next(), lines.next()) else { return Err(refused()) };
        if accept.as_bytes() != handshake.accept {
            return Err(refused());
        }
        let now = Instant::now();
        self.note_head(picked, StatusCode::SWITCHING_PROTOCOLS, now);
        picked.endpoint.succeeded(self.try_since_epoch);
        let received = connection.read_bytes();
        let (endpoint, glued, open) = connection.into_tunnel();
        self.account.upstream_sent += upload.written();
        // What came behind the head is the tunnel's to count.
        self.account.upstream_received += received.saturating_sub(glued.len() as u64);
        let backend = matched.backend(picked.backend);
        let info = SocketInfo {
            route: handshake.route,
            rule: handshake.rule,
            pod: backend.and_then(|backend| backend.pod_of(&picked.endpoint.key)),
            endpoint: picked.endpoint.key.addr,
            client: self.decision.downstream.peer,
        };
        let socket = Socket {
            worker: Rc::clone(&self.account.worker),
            registration: handshake.place.open(info),
            upgrades: handshake.upgrades,
            _in_flight: self.account.in_flight.take(),
            _permits: self.decision.layers.as_mut().map(|layers| layers.chain.take_permits()).unwrap_or_default(),
            _open: open,
            line: self.account.entry.take(),
            started: self.account.started,
            opened: now,
            end: SocketEnd::Dropped,
            reason: Some(Reason::ClientGone),
        };
        socket.worker.metrics().socket_opened();
        handshake.slot.put(Box::new(move |upgraded| Box::pin(socket.run(endpoint, glued, upgraded))));
        let fields = &mut self.reply.fields;
        fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        self.reply.status = StatusCode::SWITCHING_PROTOCOLS;
        self.reply.content = Content::Empty;
        Ok(())
    }
}

impl Socket {
    /// Passes bytes both ways until the end.
    async fn run(mut self, endpoint: Stream, glued: Bytes, upgraded: Upgraded) {
        let Upgraded { stream, held, closing } = upgraded;
        let Upgrades { idle_timeout, max_lifetime, drain_window, close_code, .. } = self.upgrades;
        let mask = self.worker.rng().borrow_mut().u32(..).to_ne_bytes();
        let limits = TunnelLimits { idle: idle_timeout, lifetime: max_lifetime, close_code, mask, raw: false };
        // The sockets of a window leave spread over it, so that their clients do not all come back at once. The process does
        // not outlive its own drain timeout.
        let timeout = self.worker.settings().drain.timeout;
        let drain_window = drain_window.min(timeout);
        let drain = async {
            let since = closing.await;
            let share = self.worker.rng().borrow_mut().f64();
            tokio::time::sleep_until(since + drain_window.mul_f64(share)).await;
            (since + timeout + LAST_GOODBYE).saturating_duration_since(Instant::now())
        };
        let meter = Meter { entry: self.registration.entry(), metrics: self.worker.metrics() };
        let ends = Ends { client: stream, endpoint, from_client: held, from_endpoint: glued };
        let end = tunnel::run(ends, meter, limits, self.worker.tunnel_buffer(), drain).await;
        (self.end, self.reason) = names_of(end);
    }
}

/// What metric and log call the end of a socket; an orderly one needs no reason.
pub(super) fn names_of(end: End) -> (SocketEnd, Option<Reason>) {
    match end {
        End::Finished => (SocketEnd::Finished, None),
        End::Reset => (SocketEnd::Reset, Some(Reason::Reset)),
        End::Closed(CloseCause::Drain) => (SocketEnd::Drain, Some(Reason::Drain)),
        End::Closed(CloseCause::Idle) => (SocketEnd::TunnelIdle, Some(Reason::TunnelIdle)),
        End::Closed(CloseCause::Lifetime) => (SocketEnd::TunnelLifetime, Some(Reason::TunnelLifetime)),
        End::Closed(CloseCause::Admin) => (SocketEnd::Admin, Some(Reason::Admin)),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let metrics = self.worker.metrics();
        metrics.socket_closed(self.end, self.opened.elapsed());
        if let Some(reason) = self.reason {
            metrics.closed(Side::Downstream, reason);
        }
        if let Some(mut line) = self.line.take() {
            let entry = self.registration.entry();
            line.status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
            line.reason = self.reason;
            line.bytes_in = entry.bytes_to_endpoint();
            line.bytes_out = entry.bytes_to_client();
            line.duration = self.started.elapsed();
            self.worker.log(*line);
        }
    }
}
