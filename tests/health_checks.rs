//! The whole program beside pods that say that they are not well: who is asked how often, and who gets requests.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::client::Client;
use support::gateway::{Gateway, service};

/// What a pod does with a check.
const WELL: u8 = 0;
const SICK: u8 = 1;
const SILENT: u8 = 2;

/// A pod that answers every request with 200 and checks as it is told.
#[derive(Clone)]
struct Pod {
    port: u16,
    mood: Arc<AtomicU8>,
    requests: Arc<AtomicUsize>,
    checks: Arc<Mutex<Vec<Instant>>>,
}

impl Pod {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let pod = Self { port, mood: Arc::default(), requests: Arc::default(), checks: Arc::default() };
        let serving = pod.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let pod = serving.clone();
                std::thread::spawn(move || pod.serve(stream));
            }
        });
        pod
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(mut writer) = stream.try_clone() else { return };
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(first)) = lines.next() {
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let is_check = first.starts_with("GET /healthz");
            if is_check {
                self.checks.lock().expect("no panic").push(Instant::now());
            } else {
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
            let status = match self.mood.load(Ordering::Relaxed) {
                SICK if is_check => "503 Service Unavailable",
                SILENT if is_check => continue,
                _ => "200 OK",
            };
            if writer.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn is(&self, mood: u8) {
        self.mood.store(mood, Ordering::Relaxed);
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    fn checks(&self) -> Vec<Instant> {
        self.checks.lock().expect("no panic").clone()
    }
}

/// A route whose rules have these blocks, one for each path `/0`, `/1` …
fn route(name: &str, blocks: &[String]) -> String {
    let rules: String = blocks
        .iter()
        .enumerate()
        .map(|(at, block)| format!("  - matches: [{{path: {{type: PathPrefix, value: /{at}}}}}]\n    {block}\n"))
        .collect();
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
         [{name}.test]\n  rules:\n{rules}"
    )
}

const TO_S: &str = "backendRefs: [{name: s, port: 80}]";

fn start(files: &[(&str, String)], args: &[&str]) -> Gateway {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Gateway::start_with(&files, args)
}

/// Sends so many requests, each on a connection of its own so that all workers get some; answers that are no 200.
fn failures(gateway: &Gateway, host: &str, path: &str, requests: usize) -> usize {
    (0..requests).filter(|_| Client::connect(gateway.http).get(host, path).status != 200).count()
}

/// What the checks say of the pods, by port: for each check of it whether it is healthy.
fn health(gateway: &Gateway) -> Vec<(u16, Vec<bool>)> {
    let body = gateway.admin("/debug/endpoints").body;
    let tables: Vec<Value> = serde_json::from_str(&body).expect("JSON");
    let rows = tables.iter().flat_map(|table| table["endpoints"].as_array().expect("endpoints"));
    let row = |row: &Value| {
        let port = row["address"].as_str().and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        let checks = row["health"].as_array().into_iter().flatten();
        (port.expect("a port"), checks.map(|check| check["healthy"].as_bool().expect("healthy")).collect())
    };
    rows.map(row).collect()
}

/// Whether a pod is in service, and what speaks against it.
fn in_service(gateway: &Gateway, port: u16) -> (bool, Vec<String>) {
    let tables: Vec<Value> = serde_json::from_str(&gateway.admin("/debug/endpoints").body).expect("JSON");
    let mut rows = tables.iter().flat_map(|table| table["endpoints"].as_array().expect("endpoints"));
    let is_it = |row: &&Value| row["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{port}")));
    let row = rows.find(is_it).expect("a row");
    let conditions = row["passedOver"].as_array().into_iter().flatten();
    let names = conditions.map(|row| row["condition"].as_str().expect("a condition").to_owned());
    (row["inService"].as_bool().expect("inService"), names.collect())
}

/// Waits until the number of unhealthy pods is this one; how long it took.
fn wait_for_unhealthy(gateway: &Gateway, count: usize) -> Duration {
    let begun = Instant::now();
    loop {
        let health = health(gateway);
        if health.iter().filter(|(_, checks)| checks.contains(&false)).count() == count {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < support::PATIENCE, "{count} unhealthy were expected: {health:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn neither_rules_nor_workers_multiply_checks() {
    let pods: Vec<Pod> = (0..10).map(|_| Pod::start()).collect();
    let ports: Vec<u16> = pods.iter().map(|pod| pod.port).collect();
    let block = format!("healthCheck: {{path: /healthz, interval: 1s}}\n    {TO_S}");
    let mut files = vec![("s.yaml", service("s", &ports))];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let yaml = names.map(|name| format!("{name}.yaml"));
    files.extend(yaml.iter().zip(names).map(|(file, name)| (file.as_str(), route(name, &vec![block.clone(); 10]))));
    let gateway = start(&files, &["--workers", "4"]);
    // Every rule is in use on every worker.
    for name in names {
        let host = format!("{name}.test");
        assert_eq!((0..10).map(|at| failures(&gateway, &host, &format!("/{at}"), 4)).sum::<usize>(), 0);
    }
    let settled = Instant::now() + Duration::from_secs(1);
    std::thread::sleep(Duration::from_secs(7));
    let until = Instant::now();
    let seconds = (until - settled).as_secs_f64();
    let in_window = |time: &&Instant| (settled..until).contains(time);
    let counts: Vec<usize> = pods.iter().map(|pod| pod.checks().iter().filter(in_window).count()).collect();
    let rate = counts.iter().sum::<usize>() as f64 / seconds;
    println!("100 rules, 4 workers, 10 endpoints, an interval of 1 s: {rate:.2} checks a second");
    // More would be too many on any machine; fewer are too few on one that is not busy with other things.
    assert!((7.0..=11.0).contains(&rate), "{rate} a second, {counts:?} in {seconds} s");
    // Each pod is asked as often as the others, and not all at the same time.
    assert!(counts.iter().all(|count| (3..=8).contains(count)), "{counts:?}");
    let begun = pods.iter().map(|pod| pod.checks()[0]).min().expect("ten");
    let first: Vec<u128> = pods.iter().map(|pod| (pod.checks()[0] - begun).as_millis()).collect();
    assert!(first.iter().max() > Some(&200), "first checks come at {first:?} ms");
}

#[test]
fn sick_pods_get_nothing_until_all_are_sick() {
    let pods = [Pod::start(), Pod::start(), Pod::start()];
    let [a, b, c] = &pods;
    let check = format!("healthCheck: {{path: /healthz, interval: 1s, timeout: 300ms}}\n    {TO_S}");
    let files =
        [("s.yaml", service("s", &[a.port, b.port, c.port])), ("r.yaml", route("r", &[check, TO_S.to_owned()]))];
    let log = tempfile::NamedTempFile::new().expect("a file");
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let stderr = Stdio::from(log.reopen().expect("a file"));
    let mut gateway = Gateway::start_logging(&files, &["--workers", "2"], stderr);
    assert_eq!(failures(&gateway, "r.test", "/0", 60), 0);
    assert!(pods.iter().all(|pod| pod.requests() > 0), "all are used");

    let checked = c.checks().len();
    c.is(SICK);
    // Three intervals with their jitter, and the timeout, where nothing else keeps the machine busy.
    let out = wait_for_unhealthy(&gateway, 1);
    println!("three bad answers at an interval of 1 s: out after {out:?}");
    // One more or less where the pod changes, or the state is read, just beside a check.
    let bad = c.checks().len() - checked;
    assert!((2..=6).contains(&bad), "{bad} checks until it was out");
    let before = c.requests();
    assert_eq!(failures(&gateway, "r.test", "/0", 60), 0);
    assert_eq!(c.requests(), before, "the sick one gets nothing from the rule with the check");
    assert_eq!(failures(&gateway, "r.test", "/1", 60), 0);
    assert!(c.requests() > before, "a rule without a check does not look");

    // The others hang: then everybody is used again, and no request fails for it.
    a.is(SILENT);
    b.is(SILENT);
    wait_for_unhealthy(&gateway, 3);
    let before: Vec<usize> = pods.iter().map(Pod::requests).collect();
    assert_eq!(failures(&gateway, "r.test", "/0", 60), 0);
    assert!(pods.iter().zip(before).all(|(pod, before)| pod.requests() > before), "all are used");

    b.is(WELL);
    wait_for_unhealthy(&gateway, 2);
    let before = (a.requests(), b.requests(), c.requests());
    assert_eq!(failures(&gateway, "r.test", "/0", 60), 0);
    assert_eq!((a.requests(), b.requests(), c.requests()), (before.0, before.1 + 60, before.2), "one is left");

    let page = gateway.admin("/metrics").body;
    let has = |line: &str| page.lines().any(|found| found.starts_with(line));
    assert!(has("tidegate_backend_endpoints{service=\"default/s\",health=\"healthy\"} 1"), "{page}");
    assert!(has("tidegate_backend_endpoints{service=\"default/s\",health=\"unhealthy\"} 2"), "{page}");
    assert!(
        !has("tidegate_health_checks_total{outcome=\"timeout\"} 0")
            && has("tidegate_health_checks_total{outcome=\"timeout\"}")
    );
    assert!(has("tidegate_health_checks_late_total 0"), "{page}");

    // A stop does not wait for checks.
    gateway.terminate();
    assert!(gateway.wait().success());
    let log = std::fs::read_to_string(log.path()).expect("a log");
    let of = |port: u16, text: &str| {
        let address = format!("127.0.0.1:{port}");
        let lines = log.lines().filter(|line| line.contains(text) && line.contains(&address));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for (pod, cause) in [(c, "503"), (a, "no answer in time"), (b, "no answer in time")] {
        let lines = of(pod.port, "endpoint is unhealthy");
        assert_eq!(lines.len(), 1, "one line a change: {log}");
        assert!(
            lines[0].contains(cause) && lines[0].contains("default/s:80") && lines[0].contains("WARN"),
            "{lines:?}"
        );
    }
    assert_eq!(of(b.port, "endpoint is healthy again").len(), 1, "{log}");
}

#[test]
fn the_next_tier_takes_over_while_a_tier_is_sick() {
    let (first, second) = (Pod::start(), Pod::start());
    let refs = "backendRefs: [{name: s, port: 80}, {name: t, port: 80, tier: 1}]";
    let check = format!(
        "healthCheck: {{path: /healthz, interval: 1s, unhealthyThreshold: 1, healthyThreshold: 1}}\n    {refs}"
    );
    let files = [
        ("s.yaml", service("s", &[first.port])),
        ("t.yaml", service("t", &[second.port])),
        ("r.yaml", route("r", &[check])),
    ];
    let gateway = start(&files, &[]);
    assert_eq!(failures(&gateway, "r.test", "/0", 20), 0);
    assert_eq!((first.requests(), second.requests()), (20, 0));
    let serving = || [first.port, second.port].map(|port| in_service(&gateway, port));
    assert_eq!(serving(), [(true, vec![]), (false, vec!["standby".to_owned()])]);
    first.is(SICK);
    wait_for_unhealthy(&gateway, 1);
    assert_eq!(serving(), [(false, vec!["unhealthy".to_owned()]), (true, vec![])]);
    assert_eq!(failures(&gateway, "r.test", "/0", 20), 0);
    assert_eq!((first.requests(), second.requests()), (20, 20), "with the next request");
    second.is(SICK);
    wait_for_unhealthy(&gateway, 2);
    assert_eq!(failures(&gateway, "r.test", "/0", 20), 0);
    assert_eq!((first.requests(), second.requests()), (40, 20), "with nobody left, the lowest tier serves");
    second.is(WELL);
    wait_for_unhealthy(&gateway, 1);
    first.is(WELL);
    wait_for_unhealthy(&gateway, 0);
    assert_eq!(failures(&gateway, "r.test", "/0", 20), 0);
    assert_eq!((first.requests(), second.requests()), (60, 20), "and it comes back");
}

/// A gRPC server that has no method but the health service's, and says that a service is not well.
fn grpc_server(runtime: &tokio::runtime::Runtime) -> (u16, Arc<AtomicUsize>) {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    if request.uri().path() == "/grpc.health.v1.Health/Check" {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    let head = http::Response::builder().header("content-type", "application/grpc");
                    let Ok(mut stream) = respond.send_response(head.body(()).expect("a head"), false) else { continue };
                    let _ = stream.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 2, 8, 2]), false);
                    let status = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))];
                    let _ = stream.send_trailers(status.into_iter().collect());
                }
            });
        }
    });
    (port, asked)
}

#[test]
fn grpc_servers_are_asked_by_their_health_protocol() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (port, asked) = grpc_server(&runtime);
    let check = "healthCheck: {grpcService: cart.v1.Cart, interval: 1s, unhealthyThreshold: 2}\n    backendRefs: [{name: \
                 s, port: 80, protocol: H2C}]";
    let gateway = start(&[("s.yaml", service("s", &[port])), ("r.yaml", route("r", &[check.to_owned()]))], &[]);
    wait_for_unhealthy(&gateway, 1);
    assert!(asked.load(Ordering::Relaxed) >= 2);
    let tables = gateway.admin("/debug/endpoints").body;
    for text in ["gRPC health of cart.v1.Cart", "gRPC health NOT_SERVING"] {
        assert!(tables.contains(text), "{tables}");
    }
}
