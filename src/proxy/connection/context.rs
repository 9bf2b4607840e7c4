//! What connections have in common: those of one listener on one worker, and the exchanges of one connection.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::model::ids::ListenerId;
use crate::proxy::downstream::{Downstream, Host, UpgradeSlot};
use crate::proxy::guarded_io::GuardSettings;
use crate::proxy::room::Presence;
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::{Deadlines, Forwarding, Limits, Listener, ListenerMode, ProxyProtocol, ProxyProtocolMode};
use crate::telemetry::log_limit::LogLimit;
use crate::telemetry::metrics::{ListenerCells, WorkerMetrics};
use crate::tls::Terms;

/// How handshakes of one listener are done on one worker.
pub struct TlsContext {
    /// Finds the settings for a server name in lower case, or for clients that name none.
    pub find: Box<dyn Fn(Option<&str>) -> Option<Terms>>,
    /// Bounds the handshakes that are under way on this worker.
    pub handshakes: Rc<Semaphore>,
}

/// What the connections of one listener have in common on one worker.
pub struct ConnectionContext<H> {
    /// Answers the requests.
    pub handler: Rc<H>,
    /// This worker's cells.
    pub metrics: Arc<WorkerMetrics>,
    /// Of them, those of the listener.
    pub connections: Arc<ListenerCells>,
    /// The listener.
    pub listener: ListenerId,
    /// Its name.
    pub listener_name: Arc<str>,
    /// Headers by which load balancers tell whose connection they pass on; `None`: there are none.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// On whose behalf requests are forwarded; connections that are open keep theirs when it changes.
    pub mode: Cell<ListenerMode>,
    /// Peers whose forwarding fields are believed.
    pub trusted_forwarders: Vec<IpNet>,
    /// A path answered by the gateway itself.
    pub health_path: Option<String>,
    /// Serve HTTP/2 with prior knowledge, too.
    pub http2_prior_knowledge: bool,
    /// How handshakes are done, on a listener that speaks TLS.
    pub tls: Option<TlsContext>,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Least mean body rate in bytes per second; 0: off.
    pub body_rate: u64,
    /// Unread request body that is dropped to keep a connection.
    pub unread_body: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// Send `x-tidegate-reason`.
    pub reason_header: bool,
    /// How the wire is judged.
    pub guard: Rc<GuardSettings>,
    /// The stop of this worker, or of this listener alone.
    pub drain: Rc<WorkerDrain>,
    /// Bounds the lines of the log for clients of HTTP/2 that were sent away.
    pub log_limit: LogLimit,
}

impl<H> ConnectionContext<H> {
    /// Puts together what the settings say about a listener.
    #[must_use]
    pub fn new(
        (listener, name): (ListenerId, Arc<str>),
        settings: &Listener,
        (deadlines, limits, forwarding): (&Deadlines, &Limits, &Forwarding),
        handler: Rc<H>,
        metrics: Arc<WorkerMetrics>,
        drain: Rc<WorkerDrain>,
    ) -> Self {
        Self {
            handler,
            connections: metrics.of_listener(&name),
            metrics,
            listener,
            listener_name: name,
            proxy_protocol: match settings.proxy_protocol.mode {
                ProxyProtocolMode::Off => None,
                ProxyProtocolMode::Optional | ProxyProtocolMode::Required => Some(settings.proxy_protocol.clone()),
            },
            mode: Cell::new(settings.mode),
            trusted_forwarders: settings.trusted_forwarders.clone(),
            health_path: settings.health_path.clone(),
            http2_prior_knowledge: settings.http2_prior_knowledge,
            tls: None,
            deadlines: deadlines.clone(),
            body_rate: limits.body_rate,
            unread_body: limits.unread_body,
            http2_streams: limits.http2_streams,
            reason_header: forwarding.reason_header,
            guard: Rc::new(GuardSettings::new(limits, forwarding, settings.tls.is_some())),
            drain,
            log_limit: LogLimit::default(),
        }
    }
}

impl<H> ConnectionContext<H> {
    /// Whether forwarding fields of this peer are believed.
    #[must_use]
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_forwarders.iter().any(|net| net.contains(&peer))
    }
}

/// Which versions of HTTP a client may speak on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1, or HTTP/2 with prior knowledge where the listener serves that.
    Either,
    /// HTTP/1, as the TLS handshake has agreed.
    Http1,
    /// HTTP/2, as the TLS handshake has agreed.
    Http2,
}

/// What the exchanges of one connection share.
pub(super) struct Shared<H> {
    pub(super) context: Rc<ConnectionContext<H>>,
    pub(super) downstream: Rc<Downstream>,
    /// Requests between their accepted head and the end of their response.
    pub(super) exchanges: Rc<Cell<u32>>,
    /// What runs behind a `101`.
    pub(super) upgrade: UpgradeSlot,
    /// HTTP/2: wakes the WebSockets among the streams when the process stops.
    pub(super) closing: Notify,
    /// The host of the last request, which the next one nearly always repeats.
    pub(super) host: RefCell<Option<Rc<Host>>>,
    /// When the last exchange ended, at first when the connection was accepted.
    pub(super) idle_since: Cell<Instant>,
    /// Tells the same to whoever needs room for another connection.
    pub(super) presence: Presence,
}

/// One running exchange; dropped with its response's body, or with whatever ends it earlier.
pub(super) struct RunningExchange<H> {
    pub(super) shared: Rc<Shared<H>>,
    pub(super) protocol: HttpVersion,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

impl<H> RunningExchange<H> {
    pub(super) fn begin(shared: &Rc<Shared<H>>, protocol: HttpVersion) -> Self {
        let before = shared.exchanges.get();
        if before == 0 {
            shared.presence.busy();
        }
        shared.exchanges.set(before + 1);
        if protocol == HttpVersion::Http1 {
            shared.downstream.cutoff.begin();
        }
        Self { shared: Rc::clone(shared), protocol }
    }
}

impl<H> Drop for RunningExchange<H> {
    fn drop(&mut self) {
        let (left, now) = (self.shared.exchanges.get() - 1, Instant::now());
        self.shared.exchanges.set(left);
        self.shared.idle_since.set(now);
        if left == 0 {
            self.shared.presence.idle(now);
            self.shared.presence.newness().end();
        }
    }
}
