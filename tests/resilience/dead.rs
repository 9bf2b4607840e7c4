//! Pods that are gone without a word: connections to them are refused, or never answered.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::support::PATIENCE;
use super::support::backend::Backend;
use super::support::client::Client;
use super::support::gateway::{Gateway, service};
use super::{CLIENTS, GET, ask, route, route_of, rule, sum};

#[test]
fn a_dead_pod_of_three_costs_no_request() {
    let requests = 10_000;
    // Bound and not listened on: connects are refused, and nobody else gets the port.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let dead = bound.local_addr().expect("an address").port();
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let files = [("s.yaml", service("s", &[a.port, b.port, dead])), ("r.yaml", route("{attempts: 2}"))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let workers = 2;
    let gateway = Gateway::start_with(&files, &["--workers", &workers.to_string()]);
    let began = Instant::now();
    assert_eq!(ask(&gateway, requests, GET), 0);
    let took = began.elapsed();
    assert_eq!(a.requests.load(Ordering::Relaxed) + b.requests.load(Ordering::Relaxed), requests);
    let retries = sum(&gateway, "tidegate_upstream_retries_total{", "");
    let connects = sum(&gateway, "tidegate_upstream_connects_total{", "result=\"refused\"");
    println!(
        "1 of 3 pods dead, {requests} GET in {took:?}: 0 failed, {retries} tried again, {connects} connects to it refused"
    );
    assert!(retries > 0, "the dead one was tried");
    // All clients begin at once, and a third of them choose it. Of each worker one goes ahead, and the others learn from it;
    // then it is passed over for a second each time.
    let begun_seconds = took.as_secs() as usize + 1;
    assert!(connects <= workers * begun_seconds, "{connects} within {begun_seconds} s");
    assert!(retries * 100 <= requests * 20, "{retries} of {requests}");
}

/// An endpoint that should speak TLS, and closes every connection instead once it is told to; how many it has accepted.
fn closing(go: &Arc<AtomicBool>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (go, accepted) = (Arc::clone(go), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            while !go.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            drop(stream);
        }
    });
    (port, accepted)
}

/// All clients wait for the first connect to an endpoint. It fails, and that is one failure of the endpoint.
#[test]
fn a_connect_that_many_wait_for_fails_once() {
    let go = Arc::new(AtomicBool::new(false));
    let ends = [closing(&go), closing(&go)];
    let policy = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: s}\nspec:\n  \
                  targetRefs: [{group: '', kind: Service, name: s}]\n  validation: {hostname: s, wellKnownCACertificates: \
                  System}\n";
    let rule = "  - timeouts: {connect: 60s}\n    outlierDetection: {consecutiveConnectFailures: 3}\n    backendRefs: [{name: s, port: 80, protocol: H2}]\n";
    let files = [
        ("s.yaml", service("s", &ends.each_ref().map(|(port, _)| *port))),
        ("p.yaml", policy.to_owned()),
        ("r.yaml", route_of(&[rule.to_owned()])),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let gateway = Gateway::start_with(&files, &["--workers", "1"]);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| assert_eq!(Client::connect(gateway.http).request(GET).expect("an answer").status, 502));
        }
        let deadline = Instant::now() + PATIENCE;
        while sum(&gateway, "tidegate_requests_in_flight", "") < CLIENTS {
            assert!(Instant::now() < deadline, "not all requests came");
        }
        go.store(true, Ordering::Relaxed);
    });
    let accepted = ends.map(|(_, accepted)| accepted.load(Ordering::Relaxed));
    println!("{CLIENTS} GET that nobody answers, over {accepted:?} connects");
    assert!(accepted.iter().all(|&accepted| accepted < 3), "{accepted:?}");
    assert_eq!(sum(&gateway, "tidegate_endpoint_ejections_total{", ""), 0);
}

/// A listener whose queue is full, so that the kernel drops what would connect, as behind a NetworkPolicy or on a node that
/// is gone.
struct BlackHole {
    port: u16,
    _listener: socket2::Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    fn start() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let address: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        listener.bind(&address.into()).expect("a free port");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().expect("bound").as_socket().expect("an address");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
            assert!(queued.len() < 8, "the queue of a listener is never full");
        }
        Self { port: address.port(), _listener: listener, _queued: queued }
    }
}

/// Nobody gets an error from a pod that swallows what is sent to it, and only the first ones wait for it.
#[test]
fn a_pod_that_swallows_connections_costs_no_request_and_few_wait() {
    let requests = 10_000;
    let (hole, a, b) = (BlackHole::start(), Backend::start("a"), Backend::start("b"));
    let connect = Duration::from_millis(500);
    let block = "timeouts: {connect: 500ms}\n    retry: {attempts: 2}\n    outlierDetection: {}";
    let files = [("s.yaml", service("s", &[a.port, b.port, hole.port])), ("r.yaml", route_of(&[rule("/", block)]))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let began = Instant::now();
    let left = AtomicUsize::new(requests);
    let waited: Vec<Duration> = std::thread::scope(|scope| {
        let client = || {
            let (mut client, mut waited) = (Client::connect(gateway.http), Vec::new());
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                let (asked, sent) = (began.elapsed(), Instant::now());
                assert_eq!(client.request(GET).expect("an answer").status, 200);
                if sent.elapsed() >= connect {
                    waited.push(asked);
                }
            }
            waited
        };
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no error")).collect()
    });
    let last = waited.iter().max().copied().unwrap_or_default();
    println!(
        "1 of 3 pods swallows connections, {requests} GET in {:?}: 0 failed, {} waited, the last of them sent after {last:?}",
        began.elapsed(),
        waited.len()
    );
    // Those that were sent to it before the first of them had waited for the whole of its timeout: on a machine that is slow,
    // a client may have to wait for its turn, too.
    assert!(!waited.is_empty(), "the pod was tried");
    let timeouts = sum(&gateway, "tidegate_upstream_connects_total{", "result=\"timeout\"");
    assert!(timeouts <= CLIENTS, "{timeouts} connects, {waited:?}");
}
