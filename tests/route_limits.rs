//! The whole program with limits of requests per time and at the same time.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::client::{Answer, Client};
use support::gateway::{Gateway, service};

const PATIENCE: Duration = Duration::from_secs(10);

/// A route of one host with these filters in its one rule.
fn route(filters: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - name: it\n    filters:\n    {filters}\n    backendRefs: [{{name: s, port: 80}}]\n"
    )
}

fn rate(block: &str) -> String {
    route(&format!("- {{type: RateLimit, rateLimit: {{{block}}}}}"))
}

fn concurrency(block: &str) -> String {
    route(&format!("- {{type: ConcurrencyLimit, concurrencyLimit: {{{block}}}}}"))
}

fn start(port: u16, route: &str) -> Gateway {
    start_with(port, route, &[])
}

fn start_with(port: u16, route: &str, args: &[&str]) -> Gateway {
    let args = [&["--workers", "4"], args].concat();
    Gateway::start_with(&[("s.yaml", &service("s", &[port])), ("r.yaml", route)], &args)
}

/// A sample of the metrics page; 0 where there is none.
fn metric(gateway: &Gateway, sample: &str) -> u64 {
    let page = gateway.admin("/metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
    value.map_or(0, |value| value as u64)
}

fn decisions(gateway: &Gateway, filter: &str, decision: &str) -> u64 {
    let sample = format!(
        "tidegate_limit_decisions_total{{filter=\"{filter}\",route=\"default/r\",place=\"it\",decision=\"{decision}\"}}"
    );
    metric(gateway, &sample)
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pod that answers each request when it is told to.
struct Held {
    port: u16,
    /// For each request that came, what lets its answer go.
    requests: mpsc::Receiver<mpsc::Sender<()>>,
}

impl Held {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream, &sender));
            }
        });
        Self { port, requests }
    }

    /// The next request.
    fn next(&self) -> mpsc::Sender<()> {
        self.requests.recv_timeout(PATIENCE).expect("a request comes")
    }
}

fn serve(mut stream: TcpStream, requests: &mpsc::Sender<mpsc::Sender<()>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
        }
        let (go, answer) = mpsc::channel();
        requests.send(go).ok()?;
        // The head at once: what is in flight is in flight until the end of the body.
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").ok()?;
        answer.recv().ok()?;
        stream.write_all(b"k").ok()?;
    }
}

/// A GET whose answer comes later.
fn send(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.http);
    client.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    client
}

#[test]
fn so_many_requests_pass_whatever_connection_and_worker_they_come_by() {
    let pod = Backend::start("a");
    let gateway = start(pod.port, &rate("requests: 60, interval: 1h, burst: 50"));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(gateway.http);
                    (0..10).map(|_| client.get("a.test", "/")).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let of_status = |status| answers.iter().filter(move |answer| answer.status == status);
    assert_eq!((of_status(200).count(), of_status(429).count()), (50, 110));
    for refused in of_status(429) {
        let retry_after: u64 = refused.field("retry-after").expect("when to come back").parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        assert_eq!(refused.field("ratelimit-policy"), Some("\"it\";q=60;w=3600"));
        assert!(refused.field("ratelimit").is_some_and(|quota| quota.starts_with("\"it\";r=0;t=")));
    }
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"rate_limit\"}"), 110);
    assert_eq!((decisions(&gateway, "RateLimit", "passed"), decisions(&gateway, "RateLimit", "refused")), (50, 110));

    // A new version of the route goes on with the same bucket: five more fit into it.
    gateway.write("r.yaml", &rate("requests: 60, interval: 1h, burst: 55, fields: false"));
    let answer = gateway.wait_for("a.test", "/", |answer| answer.status == 200);
    assert_eq!(answer.field("ratelimit"), None);
    let more = (0..20).filter(|_| gateway.get("a.test", "/").status == 200).count();
    assert_eq!(more, 4);
}

#[test]
fn each_client_has_its_own_limit() {
    let pod = Backend::start("a");
    let gateway = start(pod.port, &rate("requests: 2, interval: 1h, keys: [{type: Header, name: x-user}]"));
    for user in 0..100 {
        let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-user: u{user}\r\n\r\n");
        let mut client = Client::connect(gateway.http);
        let statuses = [(); 3].map(|()| client.request(&request).unwrap().status);
        assert_eq!(statuses, [200, 200, 429], "user {user}");
    }
    assert_eq!(metric(&gateway, "tidegate_limit_buckets_given_up_total"), 0);
}

#[test]
fn requests_in_flight_are_counted_to_the_end_of_their_answers() {
    let pod = Held::start();
    let gateway = start(pod.port, &concurrency("maxInFlight: 3"));
    let mut in_flight: Vec<_> = (0..3).map(|_| (send(&gateway), pod.next())).collect();
    let refused = gateway.get("a.test", "/");
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    // A client that goes away gives its place back, and so does a whole answer.
    drop(in_flight.pop());
    until("it has gone", || metric(&gateway, "tidegate_requests_in_flight") == 2);
    in_flight.push((send(&gateway), pod.next()));
    assert_eq!(gateway.get("a.test", "/").status, 503);
    let (mut client, held) = in_flight.swap_remove(0);
    held.send(()).unwrap();
    assert_eq!(client.answer().unwrap().body, "ok");
    in_flight.push((send(&gateway), pod.next()));
    assert_eq!(gateway.get("a.test", "/").status, 503);
    assert_eq!(decisions(&gateway, "ConcurrencyLimit", "passed"), 5);
}

#[test]
fn requests_wait_in_the_order_in_which_they_came() {
    let (pod, folder) = (Held::start(), tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let route = concurrency("maxInFlight: 1, maxQueued: 5, queueTimeout: 1h");
    let gateway = start_with(pod.port, &route, &["--access-log", log.to_str().unwrap()]);
    let mut first = send(&gateway);
    let held = pod.next();
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(send(&gateway));
        until("it waits", || metric(&gateway, "tidegate_requests_in_flight") == number + 2);
    }
    assert_eq!(gateway.get("a.test", "/").status, 503, "the queue is full");
    // One leaves the queue; the others move up.
    drop(waiting.remove(1));
    until("it has left", || metric(&gateway, "tidegate_requests_in_flight") == 5);
    held.send(()).unwrap();
    assert_eq!(first.answer().unwrap().status, 200);
    for mut client in waiting {
        pod.next().send(()).unwrap();
        assert_eq!(client.answer().unwrap().status, 200);
    }
    assert_eq!(decisions(&gateway, "ConcurrencyLimit", "waited"), 4);

    gateway.write("r.yaml", &concurrency("maxInFlight: 1, maxQueued: 5, queueTimeout: 100ms"));
    until("it is active", || metric(&gateway, "tidegate_config_version") == 2);
    let _busy = send(&gateway);
    let _held = pod.next();
    let begun = Instant::now();
    assert_eq!(gateway.get("a.test", "/").status, 503);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"queue_timeout\"}"), 1);
    assert_eq!(decisions(&gateway, "ConcurrencyLimit", "timed_out"), 1);

    // The access log says of each how long it waited. Lines come in batches.
    until("the log tells of them all", || {
        let waits: Vec<f64> = std::fs::read_to_string(&log)
            .unwrap()
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["wait_seconds"].as_f64())
            .collect();
        waits.iter().filter(|seconds| **seconds > 0.0).count() == 5 && waits.iter().any(|seconds| *seconds >= 0.1)
    });
}

/// The client gets what the deadline says, and the limit counts that it had no place.
#[test]
fn a_wait_that_the_deadline_of_the_request_ends_is_counted() {
    let pod = Held::start();
    // The one that is in the way has all the time.
    let route = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: r}\nspec:\n  hostnames: [a.test]\n  \
                 filters: [{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1, maxQueued: 5, queueTimeout: 1h}}]\n  \
                 rules:\n  - backendRefs: [{name: s, port: 80}]\n  - matches: [{path: {type: PathPrefix, value: /short}}]\n    \
                 timeouts: {request: 500ms}\n    backendRefs: [{name: s, port: 80}]\n";
    let gateway = start(pod.port, route);
    let _busy = send(&gateway);
    let _held = pod.next();
    assert_eq!(gateway.get("a.test", "/short").status, 504);
    let labels = "filter=\"ConcurrencyLimit\",route=\"default/r\",place=\"route\",decision=\"timed_out\"";
    assert_eq!(metric(&gateway, &format!("tidegate_limit_decisions_total{{{labels}}}")), 1);
}

/// The access log names the limit that has refused a request, or would have.
#[test]
fn the_log_names_the_limit_that_is_in_the_way() {
    let (pod, folder) = (Backend::start("a"), tempfile::tempdir().unwrap());
    let log = folder.path().join("log");
    let limit = |block: &str| format!("- {{type: RateLimit, rateLimit: {{interval: 1h, {block}}}}}");
    let filters = [limit("requests: 1, shadow: true"), limit("requests: 2")].join("\n    ");
    let gateway = start_with(pod.port, &route(&filters), &["--access-log", log.to_str().unwrap()]);
    let statuses = [(); 3].map(|()| gateway.get("a.test", "/").status);
    assert_eq!(statuses, [200, 200, 429]);
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let expected = [
        (200, None, None),
        (200, Some("RateLimit it"), Some("shadow")),
        (429, Some("RateLimit it[1]"), Some("refused")),
    ];
    let expected = expected.map(|(status, limit, decision)| (Some(status), owned(limit), owned(decision)));
    until("the log tells of them all", || {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let told = lines.map(|line| {
            let field = |name: &str| owned(line[name].as_str());
            (line["status"].as_u64(), field("limit"), field("limit_decision"))
        });
        let mut told: Vec<_> = told.collect();
        // Each worker writes its lines in batches of its own.
        told.sort();
        told == expected
    });
}

/// So many clients are remembered as the settings say; one that is forgotten is admitted again.
#[test]
fn the_settings_say_how_many_clients_limits_remember() {
    let pod = Backend::start("a");
    let settings = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(settings.path(), "limits: {rateLimitCells: 8}\n").unwrap();
    let block = "requests: 1, interval: 1h, keys: [{type: Header, name: x-client}]";
    let gateway = start_with(pod.port, &rate(block), &["--settings", settings.path().to_str().unwrap()]);
    let mut client = Client::connect(gateway.http);
    let mut ask = |name: usize| {
        client.request(&format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-client: {name}\r\n\r\n")).unwrap().status
    };
    for name in 0..8 {
        assert_eq!((ask(name), ask(name)), (200, 429), "client {name}");
    }
    assert_eq!(ask(8), 200, "the ninth is admitted");
    assert_eq!(metric(&gateway, "tidegate_limit_buckets_given_up_total"), 1);
}
