//! Connections whose bytes are passed on as they are: those of a sidecar to a port that does not speak HTTP.
//!
//! One endpoint is picked for each connection, by the rule of its listener; one that refuses is passed over. From then on it
//! is a tunnel as that of a WebSocket, counted, listed and closed with those, but without frames: what ends it gently is FIN.

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::account::text_of;
use super::connect::ConnectError;
use super::downstream::Relayed;
use super::tunnel::{self, Meter, TunnelLimits};
use super::upgrade::names_of;
use super::upstream::Peer;
use super::worker::Worker;
use crate::balance::{EndpointState, InFlight, Pick, PickRequest, Picked};
use crate::live::WorkerLive;
use crate::model::ids::{BackendId, ListenerId, RuleId};
use crate::model::matching::RequestView;
use crate::reason::Reason;
use crate::sockets::{Registration, SocketInfo};
use crate::stream::Stream;
use crate::telemetry::access_log::{AccessLogEntry, TryText};
use crate::telemetry::metrics::{RetryTrigger, Side, SocketEnd};

/// How long a relay that is left at the end of the drain timeout may take for its last bytes.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// Passes the bytes of a client's connection on until both ends have finished. `closing` resolves when the process stops:
/// the relay goes on until the drain timeout is over.
pub(super) async fn relay(worker: Rc<Worker>, connection: Relayed, closing: impl Future<Output = ()>) {
    let Relayed { listener, listener_name, stream, peer } = connection;
    let client = Stream::from(stream);
    let mut line = Line::begin(&worker, listener_name, peer);
    match connect(&worker, listener, &mut line).await {
        Ok(target) => {
            let open = Open::begin(Rc::clone(&worker), &target, peer, line);
            let Target { stream, in_flight, .. } = target;
            open.run(client, stream, closing).await;
            drop(in_flight);
        }
        Err(reason) => {
            worker.metrics().closed(Side::Downstream, reason);
            line.write(|entry| entry.reason = Some(reason));
            tracing::debug!(%peer, reason = reason.as_str(), "closed: no endpoint takes the connection");
            // A client that was connected for nothing learns so at once, as from an address where nobody listens.
            client.reset_on_drop();
        }
    }
}

/// The connection's line in the access log, which is written when it is dropped, however that comes about.
struct Line {
    worker: Rc<Worker>,
    began: Instant,
    /// `None` without an access log.
    entry: Option<Box<AccessLogEntry>>,
}

impl Line {
    fn begin(worker: &Rc<Worker>, listener: Arc<str>, peer: SocketAddr) -> Self {
        let entry = worker.logs().then(|| {
            let reason = Some(Reason::ClientGone);
            Box::new(AccessLogEntry { reason, ..AccessLogEntry::new(listener, peer.ip(), peer, None) })
        });
        Self { worker: Rc::clone(worker), began: Instant::now(), entry }
    }

    /// Enters something, if there is an access log.
    fn write(&mut self, enter: impl FnOnce(&mut AccessLogEntry)) {
        if let Some(entry) = &mut self.entry {
            enter(entry);
        }
    }

    /// Enters the rule that decides where the connection goes.
    fn matched(&mut self, live: &WorkerLive, rule: RuleId) {
        self.write(|entry| {
            let snapshot = live.snapshot();
            let Some(rule) = snapshot.rule(rule) else { return };
            entry.route = snapshot.route(rule.route).map(|route| Arc::clone(&route.label));
            entry.rule = Some(Arc::clone(&rule.name));
        });
    }

    /// Enters the backend that has no endpoint for the connection, unless it is named already.
    fn has_none(&mut self, live: &WorkerLive, backend: Option<BackendId>) {
        self.write(|entry| {
            let backend = backend.and_then(|backend| live.snapshot().backend(backend));
            entry.backend = entry.backend.take().or_else(|| backend.map(text_of));
        });
    }

    /// Enters an endpoint that is tried; the one before it, if any, was not to be reached, and it took so long to know.
    fn tries(&mut self, live: &WorkerLive, picked: &Picked, failed_after: Option<Duration>) {
        self.write(|entry| {
            if let (Some(endpoint), Some(took)) = (entry.endpoint, failed_after) {
                entry.tries.push(TryText { endpoint, trigger: RetryTrigger::Connect, took });
            }
            let backend = live.snapshot().backend(picked.backend);
            entry.backend = backend.map(text_of);
            entry.pod = backend.and_then(|backend| backend.pod_of(&picked.endpoint.key));
            entry.endpoint = Some(picked.endpoint.key.addr);
            entry.attempts += 1;
        });
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.duration = self.began.elapsed();
            self.worker.log(*entry);
        }
    }
}

/// An endpoint that has taken the connection.
struct Target {
    stream: Stream,
    picked: Picked,
    live: Rc<WorkerLive>,
    rule: RuleId,
    /// Loads its endpoint as a running request does.
    in_flight: InFlight,
}

/// Picks endpoints until one takes the connection, each at most once.
async fn connect(worker: &Rc<Worker>, listener: ListenerId, line: &mut Line) -> Result<Target, Reason> {
    let live = worker.live().current();
    let headers = HeaderMap::new();
    let view = RequestView { host: None, method: &Method::GET, path: "/", query: None, headers: &headers };
    let found = live.snapshot().find_route(listener, &view).map_err(|_| Reason::NoBackend)?;
    line.matched(&live, found.rule);
    let timeout = worker.settings().deadlines.connect;
    let mut failed_after = None;
    let mut tried: Vec<Arc<EndpointState>> = Vec::new();
    let mut failed = Reason::NoEndpoints;
    loop {
        let request = PickRequest { hash: None, avoid: &tried };
        let pick = live.pick(found.rule, &request, worker.since_epoch(Instant::now()), &mut worker.rng().borrow_mut());
        let picked = match pick {
            Pick::Endpoint(picked) => picked,
            Pick::NoEndpoints(backend) => {
                line.has_none(&live, backend);
                return Err(failed);
            }
            Pick::AtLimit(_) => return Err(failed),
            Pick::NoBackend | Pick::MissingKey => return Err(Reason::NoBackend),
        };
        let endpoint = &picked.endpoint;
        if tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            return Err(failed);
        }
        line.tries(&live, &picked, failed_after);
        let in_flight = endpoint.begin();
        let began = Instant::now();
        let peer = Peer { endpoint, tls: live.client_tls(picked.backend) };
        match worker.pools().connect_alone(peer, timeout).await {
            Ok(stream) => {
                endpoint.succeeded(worker.since_epoch(Instant::now()));
                line.write(|entry| entry.connect = Some(began.elapsed()));
                return Ok(Target { stream, picked, live, rule: found.rule, in_flight });
            }
            Err(error) => {
                let now = worker.since_epoch(Instant::now());
                match error {
                    ConnectError::Failed(_) => endpoint.refused(now),
                    ConnectError::TimedOut | ConnectError::Tls(_) => endpoint.failed(now),
                }
                failed = Reason::Connect;
                failed_after = Some(began.elapsed());
                tried.push(Arc::clone(endpoint));
            }
        }
    }
}

/// A relay that is open; entered in the metrics when it is dropped, however that comes about.
struct Open {
    worker: Rc<Worker>,
    registration: Option<Registration>,
    opened: Instant,
    end: SocketEnd,
    reason: Option<Reason>,
    line: Line,
}

impl Open {
    fn begin(worker: Rc<Worker>, target: &Target, client: SocketAddr, line: Line) -> Self {
        let snapshot = target.live.snapshot();
        let rule = snapshot.rule(target.rule);
        let label = rule.and_then(|rule| snapshot.route(rule.route)).map(|route| Arc::clone(&route.label));
        let registration = label.zip(rule).and_then(|(route, rule)| {
            // Without a limit there is always a place.
            let place = worker.sockets().reserve(&route, &rule.name, None).ok()?;
            let backend = snapshot.backend(target.picked.backend);
            Some(place.open(SocketInfo {
                route,
                rule: Arc::clone(&rule.name),
                pod: backend.and_then(|backend| backend.pod_of(&target.picked.endpoint.key)),
                endpoint: target.picked.endpoint.key.addr,
                client,
            }))
        });
        worker.metrics().socket_opened();
        worker.metrics().upstream_connections_open.inc();
        let (end, reason) = (SocketEnd::Dropped, Some(Reason::ClientGone));
        Self { worker, registration, opened: Instant::now(), end, reason, line }
    }

    async fn run(mut self, client: Stream, endpoint: Stream, closing: impl Future<Output = ()>) {
        let Some(registration) = &self.registration else { return };
        let timeout = self.worker.settings().drain.timeout;
        let drain = async {
            closing.await;
            tokio::time::sleep(timeout).await;
            LAST_BYTES
        };
        let meter = Meter { entry: registration.entry(), metrics: self.worker.metrics() };
        let limits = TunnelLimits { raw: true, ..TunnelLimits::default() };
        let (from_client, from_endpoint) = (Bytes::new(), Bytes::new());
        let ends = tunnel::Ends { client: client.into(), endpoint, from_client, from_endpoint };
        let end = tunnel::run(ends, meter, limits, self.worker.tunnel_buffer(), drain).await;
        (self.end, self.reason) = names_of(end);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let metrics = self.worker.metrics();
        metrics.upstream_connections_open.dec();
        metrics.socket_closed(self.end, self.opened.elapsed());
        if let Some(reason) = self.reason {
            metrics.closed(Side::Downstream, reason);
        }
        self.line.write(|line| {
            line.reason = self.reason;
            if let Some(registration) = &self.registration {
                let entry = registration.entry();
                (line.bytes_in, line.bytes_out) = (entry.bytes_to_endpoint(), entry.bytes_to_client());
            }
        });
    }
}
