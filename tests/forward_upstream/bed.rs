//! A gateway with one listener, scripted endpoints, and a raw client.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate::live;
use tidegate::model::backend::{Backend, BackendKey, Endpoint, Near, Protocol};
use tidegate::model::filter::Filter;
use tidegate::model::ids::{BackendId, EndpointKey, ListenerId, ObjectName, RouteId, RuleId};
use tidegate::model::matching::{Candidate, Hostname, PathMatch, Router};
use tidegate::model::outlier::Outlier;
use tidegate::model::policy::{Algorithm, Policy, Spread, Timeouts, Upgrades};
use tidegate::model::retry::Retry;
use tidegate::model::route::{Route, Rule, WeightedBackend};
use tidegate::model::session::Session;
use tidegate::model::snapshot::Snapshot;
use tidegate::proxy::connection::{ConnectionContext, Ends, serve};
use tidegate::proxy::passwords::PasswordChecks;
use tidegate::proxy::room::{Room, WorkerRoom};
use tidegate::proxy::worker::{Worker, WorkerParts};
use tidegate::proxy::worker_drain::WorkerDrain;
use tidegate::settings::{
    AccessLog, Controller, Deadlines, DrainSettings, Forwarding, Jwt, Limits, Listener, Locality, MetricsSettings,
    ProxyProtocol, Sessions, Settings,
};
use tidegate::telemetry::access_log::AccessLogSender;
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on one thread, as a worker does.
pub fn run(test: impl AsyncFnOnce()) {
    run_within(PATIENCE, test);
}

/// As [`run`], for a test that takes longer.
pub fn run_within(patience: Duration, test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(patience, test()).await.expect("the test hangs");
    });
}

/// Runs a test whose clock jumps to the next deadline whenever nothing else is left to do.
pub fn run_paused(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test());
}

/// What a test may choose about the gateway.
pub struct Options {
    pub endpoints: Vec<SocketAddr>,
    pub fallback: Option<SocketAddr>,
    pub protocol: Protocol,
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub outlier: Option<Outlier>,
    pub session: Option<Session>,
    /// The client is believed what it says about the request before it.
    pub trusted: bool,
    pub algorithm: Algorithm,
    pub deadlines: Deadlines,
    pub forwarding: Forwarding,
    pub access_log: Option<AccessLogSender>,
    pub http2: bool,
    /// The rule refers to a backend.
    pub backend: bool,
    /// The rule leaves its prefix to children, of which there are none.
    pub delegates: bool,
    pub filters: Vec<Filter>,
    pub backend_filters: Vec<Filter>,
    /// A second backendRef, of a fourth of the requests: its one endpoint, how to speak to it, and its filters.
    pub second: Option<(SocketAddr, Protocol, Vec<Filter>)>,
    pub upgrades: Upgrades,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            fallback: None,
            protocol: Protocol::Http,
            timeouts: Timeouts::default(),
            retry: None,
            outlier: None,
            session: None,
            trusted: false,
            algorithm: Algorithm::RoundRobin,
            deadlines: Deadlines::default(),
            forwarding: Forwarding { reason_header: true, ..Forwarding::default() },
            access_log: None,
            http2: false,
            backend: true,
            delegates: false,
            filters: Vec::new(),
            backend_filters: Vec::new(),
            second: None,
            upgrades: Upgrades::default(),
        }
    }
}

impl Options {
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        Self { endpoints: endpoints.to_vec(), ..Self::default() }
    }
}

pub struct Gateway {
    pub worker: Rc<Worker>,
    pub room: Arc<Room>,
    pub addr: SocketAddr,
    pub metrics: Arc<Metrics>,
}

impl Gateway {
    /// Serves host `a.test`, path prefix `/p` (and `/`), on a free port.
    pub async fn start(options: Options) -> Self {
        let listener = Listener {
            address: "127.0.0.1:0".parse().unwrap(),
            http2_prior_knowledge: options.http2,
            proxy_protocol: ProxyProtocol::default(),
            mode: tidegate::settings::ListenerMode::Gateway,
            trusted_forwarders: if options.trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() },
            health_path: None,
            allowed_namespaces: None,
            tls: None,
        };
        let name: Arc<str> = Arc::from("web");
        let settings = Arc::new(Settings {
            listeners: BTreeMap::from([(name.to_string(), listener.clone())]),
            deadlines: options.deadlines.clone(),
            limits: Limits::default(),
            forwarding: options.forwarding.clone(),
            metrics: MetricsSettings::default(),
            access_log: AccessLog::Off,
            drain: DrainSettings { delay: Duration::ZERO, timeout: Duration::ZERO },
            controller: Controller::default(),
            sessions: Sessions::default(),
            jwt: Jwt::default(),
            locality: Locality::default(),
            admin: "127.0.0.1:0".parse().unwrap(),
            debug_allow: Vec::new(),
            debug_hosts: Vec::new(),
            workers: 1,
        });
        let epoch = Instant::now();
        let metrics =
            Metrics::new(MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 1_000 });
        let (mut publisher, mut feeds) = live::channel(1, Arc::clone(&metrics), epoch);
        publisher.publish(snapshot(&options));
        let cells = metrics.worker(0).unwrap();
        let shared_room = Room::new(&settings.limits, 1);
        let room = WorkerRoom::new(&shared_room, 0);
        let worker = Worker::new(WorkerParts {
            settings: Arc::clone(&settings),
            live: feeds.remove(0).into_cache(0),
            metrics: Arc::clone(&cells),
            epoch,
            seed: 1,
            access_log: options.access_log,
            sockets: Arc::default(),
            room: Rc::clone(&room),
            passwords: PasswordChecks::new(1),
        });
        let context = Rc::new(ConnectionContext::new(
            (ListenerId(0), name),
            &listener,
            (&settings.deadlines, &settings.limits, &settings.forwarding),
            Rc::clone(&worker),
            cells,
            WorkerDrain::new(room),
        ));
        // As a listener of the process: its connections have its options.
        let bound = tidegate::proxy::listener::bind("bed", listener.address, 1).unwrap();
        let addr = bound.address;
        let socket = TcpListener::from_std(bound.sockets.into_iter().next().unwrap()).unwrap();
        tokio::task::spawn_local(async move {
            // Keeps what is published alive.
            let _publisher = publisher;
            while let Ok((stream, peer)) = socket.accept().await {
                let place = context.drain.room().enter(None).unwrap();
                tokio::task::spawn_local({
                    let ends = Ends::of(&stream, peer);
                    serve(Rc::clone(&context), stream.into(), ends, place)
                });
            }
        });
        Self { worker, room: shared_room, addr, metrics }
    }

    pub async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.addr).await.unwrap(), received: Vec::new() }
    }

    /// One exchange on a connection of its own; the status and the whole answer.
    pub async fn ask(&self, request: &str) -> Answer {
        let mut client = self.client().await;
        client.send(request).await;
        client.answer().await
    }

    /// Times that a request was sent to an endpoint once more, whatever the cause.
    pub fn retries(&self) -> u64 {
        let page = self.metrics.render();
        let values =
            page.lines().filter_map(|line| line.strip_prefix("tidegate_upstream_retries_total{")?.split_once("} "));
        values.map(|(_, value)| value.parse::<f64>().unwrap() as u64).sum()
    }

    /// The value of a metric's sample line, 0 when it is not there.
    pub fn metric(&self, sample: &str) -> u64 {
        let page = self.metrics.render();
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ').map(str::to_owned));
        value.map_or(0, |value| value.parse::<f64>().unwrap() as u64)
    }
}

fn snapshot(options: &Options) -> Snapshot {
    let route = Route { name: ObjectName::new("ns", "r"), label: Arc::from("ns/r") };
    let filters = options.backend_filters.clone().into();
    let mut backend_refs = vec![WeightedBackend { weight: 3, tier: 0, backend: Some(BackendId(0)), filters }];
    if let Some((.., filters)) = &options.second {
        let (backend, filters) = (Some(BackendId(1)), filters.clone().into());
        backend_refs.push(WeightedBackend { weight: 1, tier: 0, backend, filters });
    }
    let policy = Policy {
        retry: options.retry.clone().map(Arc::new),
        outlier: options.outlier.clone().map(Arc::new),
        session: options.session.clone().map(Arc::new),
        ..Policy::default()
    };
    let rule = Rule {
        route: RouteId(0),
        name: Arc::from("0"),
        timeouts: options.timeouts.into(),
        policy: (!policy.is_empty()).then(|| Arc::new(policy)),
        upgrades: options.upgrades.into(),
        filters: options.filters.clone().into(),
        algorithm: options.algorithm.clone(),
        spread: Spread::default(),
        delegates: options.delegates,
        backend_refs: if options.backend { backend_refs } else { Vec::new() },
    };
    let endpoint = |&addr: &SocketAddr| Endpoint {
        key: EndpointKey { addr, uid: None },
        fallback: options.fallback.map(Box::new),
        pod: Some(Arc::from("s-0")),
        terminating: false,
        near: Near::default(),
    };
    let mut endpoints: Vec<_> = options.endpoints.iter().map(endpoint).collect();
    endpoints.sort_by(|a, b| a.key.cmp(&b.key));
    let key = BackendKey { service: ObjectName::new("ns", "s"), port: 80, protocol: options.protocol };
    let mut backends = vec![Backend { key, endpoints: endpoints.into(), draining: Arc::default(), tls: None }];
    if let Some((addr, protocol, _)) = &options.second {
        let key = BackendKey { service: ObjectName::new("ns", "t"), port: 80, protocol: *protocol };
        backends.push(Backend { key, endpoints: [endpoint(addr)].into(), draining: Arc::default(), tls: None });
    }
    let candidate = Candidate {
        rule: RuleId(0),
        hostname: Hostname::Exact(Arc::from("a.test")),
        priority: 0,
        path: PathMatch::Prefix(Arc::from("/p")),
        conditions: None,
        rank: 0,
    };
    Snapshot {
        routes: [route].into(),
        rules: [rule].into(),
        backends: backends.into(),
        routers: [Arc::new(Router::build(vec![candidate]))].into(),
        ..Snapshot::default()
    }
}

/// A client that sees bytes.
pub struct Client {
    pub stream: TcpStream,
    received: Vec<u8>,
}

/// One answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The body came to its announced end.
    pub complete: bool,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Status and reason.
    pub fn verdict(&self) -> (u16, Option<&str>) {
        (self.status, self.field("x-tidegate-reason"))
    }
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// What came and was not taken as an answer yet.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Reads more; false at the end.
    pub async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 64 << 10];
        let n = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..n]);
        n > 0
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                let rest = self.received.split_off(end + 4);
                return Some(String::from_utf8(std::mem::replace(&mut self.received, rest)).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads one answer to the request, which was not HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to(false).await
    }

    pub async fn answer_to(&mut self, head_request: bool) -> Answer {
        let Some(head) = self.head().await else { panic!("closed without an answer, got {:?}", self.received) };
        let status: u16 = head[9..12].parse().unwrap();
        let mut answer = Answer { status, head, body: Vec::new(), complete: true };
        if head_request || status == 204 || status == 304 || status < 200 {
            return answer;
        }
        if let Some(length) = answer.field("content-length").map(|length| length.parse::<usize>().unwrap()) {
            while self.received.len() < length && self.more().await {}
            let rest = self.received.split_off(length.min(self.received.len()));
            answer.body = std::mem::replace(&mut self.received, rest);
            answer.complete = answer.body.len() == length;
        } else if answer.field("transfer-encoding") == Some("chunked") {
            while find(&self.received, b"0\r\n").is_none_or(|at| !self.received[at..].ends_with(b"\r\n\r\n")) {
                if !self.more().await {
                    answer.complete = false;
                    break;
                }
            }
            answer.body = std::mem::take(&mut self.received);
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.received);
        }
        answer
    }

    /// Nothing more comes, and the connection is closed.
    pub async fn is_closed(&mut self) -> bool {
        !self.more().await && self.received.is_empty()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A request as an endpoint saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub connection: usize,
}

/// An endpoint whose connections run a script.
#[derive(Clone)]
pub struct Endpoints {
    pub addr: SocketAddr,
    pub seen: Rc<RefCell<Vec<Seen>>>,
    pub connections: Rc<Cell<usize>>,
    /// Connections that ended: by us, or by the gateway.
    pub closed: Rc<Cell<usize>>,
}

/// One connection of an endpoint, inside a script.
pub struct Served {
    pub stream: TcpStream,
    pub number: usize,
    pub buffer: Vec<u8>,
    seen: Rc<RefCell<Vec<Seen>>>,
}

impl Endpoints {
    /// Listens on a free port; each connection runs the script to its end and is closed then.
    pub async fn script<F: Future<Output = ()> + 'static>(script: impl Fn(Served) -> F + 'static) -> Self {
        Self::script_on("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub async fn script_on<F: Future<Output = ()> + 'static>(
        addr: SocketAddr,
        script: impl Fn(Served) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let this = Self { addr, seen: Rc::default(), connections: Rc::default(), closed: Rc::default() };
        let shared = this.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // What a script sends is on its way when it goes on.
                stream.set_nodelay(true).unwrap();
                let number = shared.connections.get();
                shared.connections.set(number + 1);
                let served = Served { stream, number, buffer: Vec::new(), seen: Rc::clone(&shared.seen) };
                let run = script(served);
                let closed = Rc::clone(&shared.closed);
                tokio::task::spawn_local(async move {
                    run.await;
                    closed.set(closed.get() + 1);
                });
            }
        });
        this
    }

    /// Answers every request on every connection with these bytes, whatever it is; bodies are read.
    pub async fn answering(answer: &'static [u8]) -> Self {
        Self::script(move |mut served| async move {
            while served.request().await.is_some() {
                if served.stream.write_all(answer).await.is_err() {
                    break;
                }
            }
        })
        .await
    }

    pub fn heads(&self) -> Vec<String> {
        self.seen.borrow().iter().map(|seen| seen.head.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.seen.borrow().len()
    }
}

impl Served {
    /// Reads one head; `None` when the connection ends before.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
                self.seen.borrow_mut().push(Seen { head: head.clone(), connection: self.number });
                return Some(head);
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Reads a whole request and gives its body, chunk framing included.
    pub async fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head().await?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let complete = |buffer: &[u8]| match length {
            Some(length) => Some(length).filter(|&length| buffer.len() >= length),
            None if head.contains("\r\ntransfer-encoding: chunked\r\n") => {
                if buffer.starts_with(b"0\r\n\r\n") {
                    Some(5)
                } else {
                    find(buffer, b"\r\n0\r\n\r\n").map(|at| at + 7)
                }
            }
            None => Some(0),
        };
        loop {
            if let Some(end) = complete(&self.buffer) {
                let rest = self.buffer.split_off(end);
                return Some((head, std::mem::replace(&mut self.buffer, rest)));
            }
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The gateway may have closed; what the test looks at is elsewhere.
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads more; false at the end.
    pub async fn more(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) > 0
    }

    /// Waits until the gateway closes.
    pub async fn until_closed(&mut self) {
        let mut rest = [0; 4096];
        while self.stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}

/// Waits for a condition that other tasks bring about.
pub async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A plain GET.
pub const GET: &str = "GET /p HTTP/1.1\r\nhost: a.test\r\n\r\n";
/// A plain answer.
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers one request, takes the head of a second one on the same connection and is gone.
pub async fn dying() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        head(&mut stream).await;
        stream.write_all(OK.as_ref()).await.unwrap();
        head(&mut stream).await;
    });
    addr
}

async fn head(stream: &mut tokio::net::TcpStream) {
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
}
