//! A gateway of listener, connections and a worker with one route, for the wire cases.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::drain::{self, Drain, DrainControl, Phase};
use tidegate::live::{self, Feed};
use tidegate::model::backend::{Backend, BackendKey, Endpoint, Near, Protocol};
use tidegate::model::ids::{BackendId, EndpointKey, ListenerId, ObjectName, RouteId, RuleId};
use tidegate::model::matching::{Candidate, Hostname, PathMatch, Router};
use tidegate::model::policy::{Algorithm, Spread};
use tidegate::model::route::{Route, Rule, WeightedBackend};
use tidegate::model::snapshot::Snapshot;
use tidegate::proxy::connection::{ConnectionContext, TlsContext};
use tidegate::proxy::listener::{self, BoundListener};
use tidegate::proxy::listeners;
use tidegate::proxy::passwords::PasswordChecks;
use tidegate::proxy::room::{Room, WorkerRoom};
use tidegate::proxy::worker::{Worker, WorkerParts};
use tidegate::proxy::worker_drain::WorkerDrain;
use tidegate::settings::{self, Settings};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions, WorkerMetrics};
use tidegate::tls::Terms;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// A running gateway; stops when dropped.
pub struct Gateway {
    address: SocketAddr,
    control: DrainControl,
    metrics: Arc<Metrics>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gateway {
    /// Starts one on a free port of `ip` that forwards the host `a.test` to `backend`.
    pub fn start(backend: SocketAddr, ip: IpAddr) -> Self {
        Self::run(Parts::new(backend, ip))
    }

    /// Starts one with a route for each path prefix.
    pub fn start_with(routes: &[(&str, SocketAddr)], ip: IpAddr) -> Self {
        Self::run(Parts::with(routes, ip))
    }

    /// The one of [`start`](Self::start) on an IPv4 port, with settings of its own.
    pub fn start_changed(backend: SocketAddr, change: impl FnOnce(&mut Settings)) -> Self {
        let mut parts = Parts::new(backend, std::net::Ipv4Addr::LOCALHOST.into());
        change(&mut parts.settings);
        Self::run(parts)
    }

    /// As [`start_changed`](Self::start_changed), for clients that speak TLS where there are settings for it. The requests are
    /// those of a listener without: `http` is their scheme.
    pub fn start_secure(
        backend: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut parts = Parts::new(backend, std::net::Ipv4Addr::LOCALHOST.into());
        change(&mut parts.settings);
        parts.tls = tls;
        Self::run(parts)
    }

    fn run(parts: Parts) -> Self {
        let (address, metrics) = (parts.bound.address, Arc::clone(&parts.all_metrics));
        let (control, drain) = drain::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, parts.serve(drain));
        });
        Self { address, control, metrics, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The page of metrics.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Goes on to a phase of the stop.
    pub fn advance(&self, phase: Phase) {
        self.control.advance(phase);
    }

    /// How many clients' connections are open.
    pub fn connections(&self) -> usize {
        let page = self.metrics.render();
        let value = page.lines().find_map(|line| line.strip_prefix("tidegate_connections_open{listener=\"cases\"} "));
        value.expect("a gauge").parse().expect("a number")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.control.advance(Phase::Ended);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the gateway did not panic");
        }
    }
}

/// A gateway that is not running yet.
pub struct Parts {
    pub bound: BoundListener,
    settings: Settings,
    tls: Option<Arc<rustls::ServerConfig>>,
    feed: Feed,
    all_metrics: Arc<Metrics>,
    metrics: Arc<WorkerMetrics>,
}

impl Parts {
    /// As [`Gateway::start`].
    pub fn new(backend: SocketAddr, ip: IpAddr) -> Self {
        Self::with(&[("/", backend)], ip)
    }

    /// As [`Gateway::start_with`].
    pub fn with(routes: &[(&str, SocketAddr)], ip: IpAddr) -> Self {
        let bound = listener::bind("cases", SocketAddr::new(ip, 0), 1).expect("a free port");
        let name: Arc<str> = "cases".into();
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: vec![name], max_series: 10 });
        let (mut publisher, mut feeds) = live::channel(1, Arc::clone(&metrics), tokio::time::Instant::now());
        publisher.publish(snapshot(routes));
        let cells = metrics.worker(0).expect("one worker");
        let settings = settings(bound.address);
        Self { bound, settings, tls: None, feed: feeds.remove(0), all_metrics: metrics, metrics: cells }
    }

    /// Runs it as one worker with one listener, on a `LocalSet`, until `drain` closes listeners.
    pub async fn serve(self, drain: Drain) {
        serve(self, drain).await;
    }
}

async fn serve(parts: Parts, drain: Drain) {
    let Parts { bound, settings, tls, feed, metrics, .. } = parts;
    let settings = Arc::new(settings);
    let room = WorkerRoom::new(&Room::new(&settings.limits, 1), 0);
    let handler = Worker::new(WorkerParts {
        settings: Arc::clone(&settings),
        live: feed.into_cache(0),
        metrics: Arc::clone(&metrics),
        epoch: tokio::time::Instant::now(),
        seed: 1,
        access_log: None,
        sockets: Arc::default(),
        room: Rc::clone(&room),
        passwords: PasswordChecks::new(1),
    });
    tokio::task::spawn_local(Rc::clone(&handler).maintain());
    let worker = WorkerDrain::new(room);
    let (name, listener) = settings.listeners.iter().next().expect("one listener");
    let mut context = ConnectionContext::new(
        (ListenerId(0), name.as_str().into()),
        listener,
        (&settings.deadlines, &settings.limits, &settings.forwarding),
        handler,
        metrics,
        Rc::clone(&worker),
    );
    context.tls = tls.map(|config| {
        let terms = Terms::new((*config).clone(), None);
        TlsContext { find: Box::new(move |_| Some(terms.clone())), handshakes: Rc::new(Semaphore::new(16)) }
    });
    let socket = bound.sockets.into_iter().next().expect("one worker");
    listeners::serve_all([(context, socket)], drain).await;
}

/// The defaults.
fn settings(address: SocketAddr) -> Settings {
    let listener = settings::Listener {
        address,
        http2_prior_knowledge: true,
        proxy_protocol: settings::ProxyProtocol::default(),
        mode: tidegate::settings::ListenerMode::Gateway,
        trusted_forwarders: Vec::new(),
        health_path: None,
        allowed_namespaces: None,
        tls: None,
    };
    Settings {
        listeners: BTreeMap::from([("cases".to_owned(), listener)]),
        deadlines: settings::Deadlines::default(),
        limits: settings::Limits::default(),
        forwarding: settings::Forwarding::default(),
        metrics: settings::MetricsSettings::default(),
        access_log: settings::AccessLog::Off,
        drain: settings::DrainSettings { delay: Duration::ZERO, timeout: Duration::from_secs(1) },
        controller: settings::Controller::default(),
        sessions: settings::Sessions::default(),
        jwt: settings::Jwt::default(),
        locality: settings::Locality::default(),
        admin: SocketAddr::from(([127, 0, 0, 1], 0)),
        debug_allow: Vec::new(),
        debug_hosts: Vec::new(),
        workers: 1,
    }
}

/// Rules of the host `a.test`, one for each prefix, each with one endpoint.
fn snapshot(routes: &[(&str, SocketAddr)]) -> Snapshot {
    let (mut rules, mut backends, mut candidates) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (prefix, backend)) in (0..).zip(routes) {
        let backend_ref =
            WeightedBackend { weight: 1, tier: 0, backend: Some(BackendId(number)), filters: Arc::default() };
        rules.push(Rule {
            route: RouteId(0),
            name: number.to_string().into(),
            timeouts: Arc::default(),
            policy: None,
            upgrades: Arc::default(),
            filters: Arc::default(),
            algorithm: Algorithm::RoundRobin,
            spread: Spread::default(),
            delegates: false,
            backend_refs: vec![backend_ref],
        });
        let service = ObjectName::new("default", format!("backend-{number}"));
        let key = BackendKey { service, port: 80, protocol: Protocol::Http };
        let endpoint = Endpoint {
            key: EndpointKey { addr: *backend, uid: None },
            fallback: None,
            pod: None,
            near: Near::default(),
            terminating: false,
        };
        backends.push(Backend { key, endpoints: [endpoint].into(), draining: Arc::default(), tls: None });
        candidates.push(Candidate {
            hostname: Hostname::Exact("a.test".into()),
            path: PathMatch::prefix(prefix),
            ..Candidate::any(RuleId(number), number)
        });
    }
    Snapshot {
        routes: [Route { name: ObjectName::new("default", "cases"), label: "default/cases".into() }].into(),
        rules: rules.into(),
        backends: backends.into(),
        routers: [Arc::new(Router::build(candidates))].into(),
        ..Snapshot::default()
    }
}
