//! Requests whose filters wait, over whole connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::balance::tests::snapshots::Snapshots;
use crate::filter::FilterState;
use crate::live;
use crate::model::filter::{Filter, FilterList, StateKey};
use crate::model::ids::{ListenerId, ObjectName, RuleId};
use crate::model::matching::{Candidate, Router};
use crate::model::policy::{Algorithm, Timeouts};
use crate::model::snapshot::Snapshot;
use crate::proxy::connection::{ConnectionContext, Ends, serve};
use crate::proxy::passwords::PasswordChecks;
use crate::proxy::room::{Room, WorkerRoom};
use crate::proxy::worker::{Worker, WorkerParts};
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::{
    AccessLog, Controller, Deadlines, DrainSettings, Forwarding, Jwt, Limits, Listener, Locality, MetricsSettings,
    ProxyProtocol, Sessions, Settings,
};
use crate::sockets::Sockets;
use crate::telemetry::metrics::{Metrics, MetricsOptions, WorkerMetrics};

/// Numbers of questions by what becomes of them.
const PASSES: u64 = 0;
const REFUSED: u64 = 1;
const NEVER_ANSWERED: u64 = 2;
const PASSES_LATE: u64 = 3;
/// When that is.
const LATE: Duration = Duration::from_millis(1_000);
/// Longer than an exchange takes, and shorter than [`LATE`].
const TRY: Duration = Duration::from_millis(800);
/// No test waits longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// The answer to the filter of tests.
pub(super) async fn answer(number: u64) -> Told {
    match number {
        NEVER_ANSWERED => std::future::pending().await,
        PASSES_LATE => tokio::time::sleep(LATE).await,
        _ => tokio::task::yield_now().await,
    }
    Told::Test(number != REFUSED)
}

/// A gateway with one rule before one endpoint. The rule and its backendRef each have a filter that waits.
struct Bed {
    address: SocketAddr,
    worker: Rc<Worker>,
    metrics: Arc<WorkerMetrics>,
}

/// An endpoint that answers every request with `ok`; its address.
async fn endpoint() -> SocketAddr {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::task::spawn_local(async move {
                let mut request = Vec::new();
                while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
                    if request.ends_with(b"\r\n\r\n") {
                        request.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    address
}

fn snapshot(endpoint: SocketAddr, timeouts: Timeouts) -> Snapshot {
    let rule = Snapshots::default().backend("a", [1]).rule("r", "0", Algorithm::Random, &[(Some("a"), 1, 0)]);
    let mut snapshot = rule.snapshot();
    let mut endpoints = snapshot.backends[0].endpoints.to_vec();
    endpoints[0].key.addr = endpoint;
    Arc::make_mut(&mut snapshot.backends)[0].endpoints = endpoints.into();
    let rule = &mut Arc::make_mut(&mut snapshot.rules)[0];
    rule.timeouts = Arc::new(timeouts);
    let key =
        |position| StateKey { route: ObjectName::new("ns", "r"), place: FilterList::Route, filter: "Wait", position };
    rule.filters = [Filter::Wait(Arc::new(key(0)))].into();
    rule.backend_refs[0].filters = [Filter::Wait(Arc::new(key(1)))].into();
    snapshot.routers = [Arc::new(Router::build(vec![Candidate::any(RuleId(0), 0)]))].into();
    snapshot
}

impl Bed {
    /// Must run on a `LocalSet`.
    async fn start(timeouts: Timeouts) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener {
            address,
            http2_prior_knowledge: false,
            proxy_protocol: ProxyProtocol::default(),
            mode: crate::settings::ListenerMode::Gateway,
            trusted_forwarders: Vec::new(),
            health_path: None,
            allowed_namespaces: None,
            tls: None,
        };
        let settings = Settings {
            listeners: [("web".to_owned(), listener.clone())].into(),
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            forwarding: Forwarding::default(),
            metrics: MetricsSettings::default(),
            access_log: AccessLog::Off,
            drain: DrainSettings { delay: Duration::ZERO, timeout: Duration::ZERO },
            controller: Controller::default(),
            sessions: Sessions::default(),
            jwt: Jwt::default(),
            locality: Locality::default(),
            admin: address,
            debug_allow: Vec::new(),
            debug_hosts: Vec::new(),
            workers: 1,
        };
        let name: Arc<str> = "web".into();
        let options = MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 10 };
        let registry = Metrics::new(options);
        let metrics = registry.worker(0).unwrap();
        let (mut publisher, mut feeds) = live::channel(1, registry, Instant::now());
        publisher.publish(snapshot(endpoint().await, timeouts));
        let room = WorkerRoom::new(&Room::new(&settings.limits, 1), 0);
        let (deadlines, limits, forwarding) =
            (settings.deadlines.clone(), settings.limits.clone(), settings.forwarding.clone());
        let worker = Worker::new(WorkerParts {
            settings: Arc::new(settings),
            live: feeds.remove(0).into_cache(0),
            metrics: Arc::clone(&metrics),
            epoch: Instant::now(),
            seed: 1,
            access_log: None,
            sockets: Arc::new(Sockets::default()),
            room: Rc::clone(&room),
            passwords: PasswordChecks::new(1),
        });
        let context = Rc::new(ConnectionContext::new(
            (ListenerId(0), name),
            &listener,
            (&deadlines, &limits, &forwarding),
            Rc::clone(&worker),
            Arc::clone(&metrics),
            WorkerDrain::new(room),
        ));
        tokio::task::spawn_local(async move {
            // Lives as long as what it published.
            let _publisher = publisher;
            while let Ok((stream, peer)) = socket.accept().await {
                let place = context.drain.room().enter(None).unwrap();
                tokio::task::spawn_local({
                    let ends = Ends::of(&stream, peer);
                    serve(Rc::clone(&context), stream.into(), ends, place)
                });
            }
        });
        Self { address, worker, metrics }
    }

    /// Sends a request whose filters ask the questions of these numbers.
    async fn send(&self, questions: [u64; 2]) -> TcpStream {
        for (backend_ref, number) in [None, Some(0)].into_iter().zip(questions) {
            let live = self.worker.live().current();
            let FilterState::Count(count) = &**live.filter_states(RuleId(0), backend_ref)[0].as_ref().unwrap() else {
                panic!("the state of another filter");
            };
            count.store(number, Ordering::Relaxed);
        }
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        stream
    }

    /// As [`send`](Self::send); the status of the answer, and how many filters left their mark in it.
    async fn ask(&self, questions: [u64; 2]) -> (u16, usize) {
        let mut text = String::new();
        self.send(questions).await.read_to_string(&mut text).await.unwrap();
        (text[9..12].parse().unwrap(), text.matches("x-mark").count())
    }
}

async fn run(test: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, LocalSet::new().run_until(test)).await.expect("in time");
}

#[tokio::test]
async fn a_request_goes_on_with_the_answers_of_rule_and_backend_ref() {
    run(async {
        let bed = Bed::start(Timeouts::default()).await;
        let table = [
            ([PASSES, PASSES], (200, 2)),
            ([REFUSED, PASSES], (403, 1)),
            ([PASSES, REFUSED], (403, 2)),
            ([PASSES_LATE, PASSES], (200, 2)),
        ];
        for (questions, expected) in table {
            assert_eq!(bed.ask(questions).await, expected, "{questions:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_deadline_of_the_request_holds_while_a_filter_waits() {
    run(async {
        let bed = Bed::start(Timeouts { request: Some(TRY), ..Timeouts::default() }).await;
        assert_eq!(bed.ask([NEVER_ANSWERED, PASSES]).await.0, 504);
        assert_eq!(bed.ask([PASSES, NEVER_ANSWERED]).await.0, 504);
    })
    .await;
}

/// `timeouts.backendRequest` is the time of an endpoint, not that of a filter.
#[tokio::test]
async fn a_try_begins_when_its_filters_are_done() {
    run(async {
        let bed = Bed::start(Timeouts { backend_request: Some(TRY), ..Timeouts::default() }).await;
        assert_eq!(bed.ask([PASSES_LATE, PASSES]).await, (200, 2));
        assert_eq!(bed.ask([PASSES, PASSES_LATE]).await, (200, 2));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_question_back() {
    run(async {
        let bed = Bed::start(Timeouts::default()).await;
        let stream = bed.send([NEVER_ANSWERED, PASSES]).await;
        while bed.metrics.requests_in_flight.get() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stream.set_zero_linger().unwrap();
        drop(stream);
        while bed.metrics.requests_in_flight.get() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
