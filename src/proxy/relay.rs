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
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::connect::ConnectError;
use super::tunnel::{self, Meter, TunnelLimits};
use super::upgrade::names_of;
use super::upstream::Peer;
use super::worker::Worker;
use crate::balance::{EndpointState, InFlight, Pick, PickRequest, Picked};
use crate::live::WorkerLive;
use crate::model::ids::{ListenerId, RuleId};
use crate::model::matching::RequestView;
use crate::reason::Reason;
use crate::sockets::{Registration, SocketInfo};
use crate::stream::Stream;
use crate::telemetry::metrics::{Side, SocketEnd};

/// How long a relay that is left at the end of the drain timeout may take for its last bytes.
const LAST_BYTES: Duration = Duration::from_millis(200);

/// Passes the bytes of a client's connection on until both ends have finished. `closing` resolves when the process stops:
/// the relay goes on until the drain timeout is over.
pub(super) async fn relay(
    worker: Rc<Worker>,
    listener: ListenerId,
    (stream, peer): (TcpStream, SocketAddr),
    closing: impl Future<Output = ()>,
) {
    let client = Stream::from(stream);
    match connect(&worker, listener).await {
        Ok(target) => {
            let open = Open::begin(Rc::clone(&worker), &target, peer);
            let Target { stream, in_flight, .. } = target;
            open.run(client, stream, closing).await;
            drop(in_flight);
        }
        Err(reason) => {
            worker.metrics().closed(Side::Downstream, reason);
            tracing::debug!(%peer, reason = reason.as_str(), "closed: no endpoint takes the connection");
            // A client that was connected for nothing learns so at once, as from an address where nobody listens.
            client.reset_on_drop();
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
async fn connect(worker: &Rc<Worker>, listener: ListenerId) -> Result<Target, Reason> {
    let live = worker.live().current();
    let headers = HeaderMap::new();
    let view = RequestView { host: None, method: &Method::GET, path: "/", query: None, headers: &headers };
    let found = live.snapshot().find_route(listener, &view).map_err(|_| Reason::NoBackend)?;
    let timeout = worker.settings().deadlines.connect;
    let mut tried: Vec<Arc<EndpointState>> = Vec::new();
    let mut failed = Reason::NoEndpoints;
    loop {
        let request = PickRequest { hash: None, avoid: &tried };
        let pick = live.pick(found.rule, &request, worker.since_epoch(Instant::now()), &mut worker.rng().borrow_mut());
        let picked = match pick {
            Pick::Endpoint(picked) => picked,
            Pick::NoEndpoints(_) | Pick::AtLimit(_) => return Err(failed),
            Pick::NoBackend | Pick::MissingKey => return Err(Reason::NoBackend),
        };
        let endpoint = &picked.endpoint;
        if tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            return Err(failed);
        }
        let in_flight = endpoint.begin();
        let peer = Peer { endpoint, tls: live.client_tls(picked.backend) };
        match worker.pools().connect_alone(peer, timeout).await {
            Ok(stream) => {
                endpoint.succeeded(worker.since_epoch(Instant::now()));
                return Ok(Target { stream, picked, live, rule: found.rule, in_flight });
            }
            Err(error) => {
                let now = worker.since_epoch(Instant::now());
                match error {
                    ConnectError::Failed(_) => endpoint.refused(now),
                    ConnectError::TimedOut | ConnectError::Tls(_) => endpoint.failed(now),
                }
                failed = Reason::Connect;
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
}

impl Open {
    fn begin(worker: Rc<Worker>, target: &Target, client: SocketAddr) -> Self {
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
        Self { worker, registration, opened: Instant::now(), end: SocketEnd::Dropped, reason: Some(Reason::ClientGone) }
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
    }
}
