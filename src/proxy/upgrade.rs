//! WebSocket passthrough: from a checked handshake to a tunnel (rules UP1 to UP5, TU1 to TU8).
//!
//! A handshake is a request like any other until the endpoint's `101` was checked. Then the exchange is over, and what is
//! left belongs to the socket alone: it holds no snapshot, no publication reaches it, and it ends when one of its ends
//! does, at its limits, or when the process stops.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::attempt::{Failure, sent_progress};
use super::body::{ClientBody, Content};
use super::downstream::{UpgradeSlot, Upgraded};
use super::error::ProxyError;
use super::forward::{Exchange, Reply};
use super::tunnel::{self, End, Ends, Limits, Meter};
use super::upstream::{Open, Pooled};
use super::worker::Worker;
use crate::balance::{InFlight, Picked};
use crate::connections::{Full, Registration, Reservation, SocketInfo};
use crate::http1::client::Upload;
use crate::http1::websocket;
use crate::model::matching::Found;
use crate::model::policy::Upgrades;
use crate::reason::Reason;
use crate::telemetry::access_log;
use crate::telemetry::metrics::{Side, SocketEnd};

/// A handshake on its way to an endpoint.
#[derive(Debug)]
pub(super) struct Handshake {
    slot: UpgradeSlot,
    /// Its place among the rule's sockets, until it opens.
    place: Reservation,
    /// The `sec-websocket-accept` that must come back.
    accept: [u8; 28],
    upgrades: Upgrades,
    route: Arc<str>,
    rule: Arc<str>,
}

/// What lives as long as a socket; entered in metrics and log when it is dropped, however that comes about.
struct Socket {
    worker: Rc<Worker>,
    registration: Registration,
    upgrades: Upgrades,
    /// Loads its endpoint as a running request does.
    _in_flight: Option<InFlight>,
    _open: Open,
    /// The line of the handshake, written at the end with all that went through.
    line: Option<Box<access_log::Entry>>,
    /// When the handshake came, and when it was accepted.
    started: Instant,
    opened: Instant,
    end: SocketEnd,
    reason: Option<Reason>,
}

impl Exchange {
    /// Keeps a place for the socket that a handshake asks for, where the rule allows it; else the request is a plain one
    /// (UP3).
    pub(super) fn begin_upgrade(&mut self, found: Found) -> Result<(), ProxyError> {
        let Some(slot) = self.head.upgrade.take() else { return Ok(()) };
        let snapshot = self.account.live.snapshot();
        let (Some(rule), Some(key)) = (snapshot.rule(found.rule), self.headers.get(header::SEC_WEBSOCKET_KEY)) else {
            return Ok(());
        };
        let upgrades = *rule.upgrades;
        if !upgrades.websocket || *self.method() != Method::GET {
            return Ok(());
        }
        let Some(route) = snapshot.route(rule.route) else { return Ok(()) };
        let (route, rule) = (Arc::clone(&route.label), Arc::clone(&rule.name));
        let place = self.account.worker.connections().reserve(&route, &rule, upgrades.max_connections);
        let place = place.map_err(|Full| ProxyError::MaxConnections)?;
        let accept = websocket::accept(key.as_bytes());
        self.handshake = Some(Box::new(Handshake { slot, place, accept, upgrades, route, rule }));
        Ok(())
    }

    /// The endpoint has switched: checks that it accepted this very handshake (UP5), and leaves a tunnel with the client's
    /// connection.
    pub(super) fn switch(
        &mut self,
        picked: &Picked,
        connection: Pooled,
        upload: &Upload<ClientBody>,
    ) -> Result<Reply, Failure> {
        let refused = || Failure { error: ProxyError::Handshake, progress: sent_progress() };
        let handshake = *self.handshake.take().ok_or_else(refused)?;
        let mut lines = self.headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter();
        let (Some(accept), None) = (lines.next(), lines.next()) else { return Err(refused()) };
        if accept.as_bytes() != handshake.accept {
            return Err(refused());
        }
        let now = Instant::now();
        self.note_head(picked, StatusCode::SWITCHING_PROTOCOLS, now);
        let received = connection.read_bytes();
        let (endpoint, glued, open) = connection.into_tunnel();
        self.account.upstream_sent += upload.written();
        // What came behind the head is the tunnel's to count.
        self.account.upstream_received += received.saturating_sub(glued.len() as u64);
        let backend = self.account.live.snapshot().backend(picked.backend);
        let info = SocketInfo {
            route: handshake.route,
            rule: handshake.rule,
            pod: backend.and_then(|backend| backend.pod_of(&picked.endpoint.key)),
            endpoint: picked.endpoint.key.addr,
            client: self.downstream.peer,
            drain_window: handshake.upgrades.drain_window,
        };
        let socket = Socket {
            worker: Rc::clone(&self.account.worker),
            registration: handshake.place.open(info),
            upgrades: handshake.upgrades,
            _in_flight: self.account.in_flight.take(),
            _open: open,
            line: self.account.entry.take(),
            started: self.account.started,
            opened: now,
            end: SocketEnd::Dropped,
            reason: Some(Reason::ClientGone),
        };
        socket.worker.metrics().socket_opened();
        handshake.slot.put(Box::new(move |upgraded| Box::pin(socket.run(endpoint, glued, upgraded))));
        self.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        self.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        Ok(Reply { status: StatusCode::SWITCHING_PROTOCOLS, content: Content::Empty })
    }
}

impl Socket {
    /// Passes bytes both ways until the end.
    async fn run(mut self, endpoint: TcpStream, glued: Bytes, upgraded: Upgraded) {
        let Upgraded { stream, held, closing } = upgraded;
        let Upgrades { idle_timeout, max_lifetime, drain_window, close_code, .. } = self.upgrades;
        let mask = self.worker.rng().borrow_mut().u32(..).to_ne_bytes();
        let limits = Limits { idle: idle_timeout, lifetime: max_lifetime, close_code, mask };
        // All of a window's sockets leave spread over it, lest their clients come back at once.
        let drain = async {
            let since = closing.await;
            let share = self.worker.rng().borrow_mut().f64();
            tokio::time::sleep_until(since + drain_window.mul_f64(share)).await;
        };
        let meter = Meter { entry: self.registration.entry(), metrics: self.worker.metrics() };
        let ends = Ends { client: stream, endpoint, from_client: held, from_endpoint: glued };
        let end = tunnel::run(ends, meter, limits, self.worker.tunnel_buffer(), drain).await;
        (self.end, self.reason) = match end {
            End::Finished => (SocketEnd::Finished, None),
            End::Reset => (SocketEnd::Reset, Some(Reason::Reset)),
            End::Closed(reason) => (end_of(reason), Some(reason)),
        };
    }
}

/// The metric's name for what made tidegate end a socket.
fn end_of(reason: Reason) -> SocketEnd {
    match reason {
        Reason::TunnelIdle => SocketEnd::TunnelIdle,
        Reason::TunnelLifetime => SocketEnd::TunnelLifetime,
        Reason::Admin => SocketEnd::Admin,
        // The only other one that a tunnel gives.
        _ => SocketEnd::Drain,
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
