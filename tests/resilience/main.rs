//! The whole program beside pods that are dead or sick: what clients see, and what it costs the others.

mod dead;
mod page;
#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use support::backend::{Backend, Gate};
use support::client::Client;
use support::gateway::{Gateway, service};
use support::http2_backend::Http2Backend;

/// Keep-alive connections of clients.
const CLIENTS: usize = 64;

fn route(retry: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - retry: {retry}\n    backendRefs: [{{name: s, port: 80}}]\n"
    )
}

/// Sends so many requests over [`CLIENTS`] connections, and gives the number of answers other than 200.
fn ask(gateway: &Gateway, requests: usize, request: &str) -> usize {
    ask_by_turn(gateway, requests, |_| request.to_owned())
}

/// As [`ask`], with a request of its own for each turn.
fn ask_by_turn(gateway: &Gateway, requests: usize, request: impl Fn(usize) -> String + Sync) -> usize {
    let (left, failed) = (AtomicUsize::new(requests), AtomicUsize::new(0));
    let one_less = |left: usize| left.checked_sub(1);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Client::connect(gateway.http);
                while let Ok(turn) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
                    if !client.request(&request(turn)).is_ok_and(|answer| answer.status == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    failed.load(Ordering::Relaxed)
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Sum of the samples of a metric that have a text in their labels.
fn sum(gateway: &Gateway, metric: &str, label: &str) -> usize {
    let page = gateway.admin("/metrics").body;
    let samples = page.lines().filter(|line| line.starts_with(metric) && line.contains(label));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as usize
}

#[test]
fn a_sick_pod_of_three_costs_no_request_that_may_be_repeated() {
    let requests = 10_000;
    let (sick, a, b) = (Backend::sick(), Backend::start("a"), Backend::start("b"));
    let files = [
        ("s.yaml", service("s", &[a.port, b.port, sick.port])),
        ("r.yaml", route("{codes: [503], budget: {percent: 100}}")),
    ];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    assert_eq!(ask(&gateway, requests, GET), 0);
    assert_eq!(a.requests.load(Ordering::Relaxed) + b.requests.load(Ordering::Relaxed), requests);
    let seen = sick.requests.load(Ordering::Relaxed);
    println!("1 of 3 pods answers 503, {requests} GET: 0 failed, {seen} tried again");
    assert_eq!(sum(&gateway, "tidegate_upstream_retries_total{", "trigger=\"code\""), seen);

    // What a POST does may not be repeated unasked: each is sent once, and a share gets the pod's own answer.
    let before: usize = [&sick, &a, &b].iter().map(|pod| pod.requests.load(Ordering::Relaxed)).sum();
    let failed = ask(&gateway, 900, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello");
    let after: usize = [&sick, &a, &b].iter().map(|pod| pod.requests.load(Ordering::Relaxed)).sum();
    assert_eq!(after - before, 900);
    assert_eq!(failed, sick.requests.load(Ordering::Relaxed) - seen);
    assert!(failed > 0);
}

#[test]
fn a_service_that_fails_is_not_drowned() {
    let (one, two) = (Backend::sick(), Backend::sick());
    let block = "{attempts: 5, codes: [503], backoff: 0s, budget: {percent: 20, interval: 10s, minPerSecond: 0}}";
    let files = [("s.yaml", service("s", &[one.port, two.port])), ("r.yaml", route(block))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let requests = 2_000;
    assert_eq!(ask(&gateway, requests, GET), requests, "the pods' own answer");
    let seen = one.requests.load(Ordering::Relaxed) + two.requests.load(Ordering::Relaxed);
    println!("all pods answer 503, {requests} GET, a budget of 20 %: {seen} tries");
    assert!(seen <= requests * 12 / 10 && seen >= requests * 11 / 10, "{seen} tries");
}

/// A rule with its own prefix and block.
fn rule(prefix: &str, block: &str) -> String {
    format!(
        "  - matches: [{{path: {{type: PathPrefix, value: {prefix}}}}}]\n    {block}\n    \
         backendRefs: [{{name: s, port: 80}}]\n"
    )
}

fn route_of(rules: &[String]) -> String {
    let rules: String = rules.concat();
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n{rules}"
    )
}

/// Which endpoints, by port, are not in service, and what speaks against them.
fn passed_over(gateway: &Gateway) -> Vec<(u16, String)> {
    let tables: serde_json::Value = serde_json::from_str(&gateway.admin("/debug/endpoints").body).expect("JSON");
    let rows = tables.as_array().into_iter().flatten().flat_map(|table| table["endpoints"].as_array().cloned());
    let out = rows.flatten().filter(|row| row["inService"] == false).map(|row| {
        let port = row["address"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
        (port.expect("a port"), row["passedOver"][0]["condition"].as_str().unwrap_or_default().to_owned())
    });
    out.collect()
}

const EJECT: &str = "outlierDetection: {consecutiveErrors: 5, baseEjection: 60s}";

/// Failures are counted at the pod: as many rules as there may be, the pod gets few requests, and comes back by itself.
#[test]
fn a_sick_pod_is_left_out_whichever_rule_its_requests_come_from() {
    for rules in [1_usize, 10, 100] {
        let (sick, a, b) = (Backend::sick(), Backend::start("a"), Backend::start("b"));
        // A route has ten rules at most here, each of which leads to the same Service.
        let routes = rules.div_ceil(10);
        let of_route = |route: usize| {
            let of_rules: Vec<String> = (0..rules / routes).map(|number| rule(&format!("/{number}"), EJECT)).collect();
            let text = route_of(&of_rules).replace("name: r}", &format!("name: r{route}}}"));
            text.replace("a.test", &format!("a{route}.test"))
        };
        let all: Vec<String> = (0..routes).map(of_route).collect();
        let files = [("s.yaml", service("s", &[a.port, b.port, sick.port])), ("r.yaml", all.join("---\n"))];
        let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
        let failed = ask_by_turn(&gateway, 1_600, |turn| {
            let (route, number) = (turn % routes, turn / routes % (rules / routes));
            format!("GET /{number} HTTP/1.1\r\nHost: a{route}.test\r\n\r\n")
        });
        println!("1 of 3 pods answers 503, {rules} rules, 1600 GET over {CLIENTS} connections: {failed} failed");
        // What is on its way when the fifth failure comes fails, too.
        assert!((5..5 + CLIENTS).contains(&failed), "{failed} with {rules} rules");
        assert_eq!(passed_over(&gateway), [(sick.port, "ejected".to_owned())]);
        assert_eq!(sum(&gateway, "tidegate_endpoint_ejections_total{", "fault=\"errors\""), 1);
    }
}

#[test]
fn publications_reset_nothing_and_the_last_pod_serves() {
    let (one, two) = (Backend::sick(), Backend::sick());
    let text = |priority: usize| route_of(&[rule("/", &format!("priority: {priority}\n    {EJECT}"))]);
    let files = [("s.yaml", service("s", &[one.port, two.port])), ("r.yaml", text(0))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let mut client = Client::connect(gateway.http);
    // One request in each version: the pods' own answers, until one of them has failed five.
    let version = || -> u64 {
        let table: serde_json::Value = serde_json::from_str(&gateway.admin("/debug/snapshot").body).expect("JSON");
        table["version"].as_u64().expect("a version")
    };
    let mut sent = 0;
    while passed_over(&gateway).is_empty() && sent < 40 {
        let before = version();
        sent += 1;
        gateway.write("r.yaml", &text(sent));
        while version() == before {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert_eq!(client.request(GET).expect("an answer").status, 503);
    }
    assert!((5..=9).contains(&sent), "{sent} requests, each in a version of its own");
    // The other one stays, however much it fails.
    let seen = [&one, &two].map(|pod| pod.requests.load(Ordering::Relaxed));
    (0..20).for_each(|_| assert_eq!(client.request(GET).expect("an answer").status, 503));
    let now = [&one, &two].map(|pod| pod.requests.load(Ordering::Relaxed));
    assert_eq!((now[0] + now[1]) - (seen[0] + seen[1]), 20);
    assert!(now[0] == seen[0] || now[1] == seen[1], "{seen:?} {now:?}");
}

/// Hints are followed once the process knows its zone, and given up when nobody of the zone answers.
#[test]
fn requests_stay_in_the_zone_while_somebody_is_there() {
    let slice = |name: &str, port: u16, zone: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
             {{kubernetes.io/service-name: s}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints:\n\
             - addresses: [127.0.0.1]\n  zone: {zone}\n  hints: {{forZones: [{{name: {zone}}}]}}\n"
        )
    };
    let (near, far) = (Backend::start("near"), Backend::start("far"));
    let service = service("s", &[]) + &slice("near", near.port, "a") + &slice("far", far.port, "b");
    let start = |args: &[&str]| Gateway::start_with(&[("s.yaml", &service), ("r.yaml", &route("{}"))], args);
    let gateway = start(&["--zone", "a"]);
    assert_eq!(ask(&gateway, 500, GET), 0);
    assert_eq!((near.requests.load(Ordering::Relaxed), far.requests.load(Ordering::Relaxed)), (500, 0));
    let endpoints: String = gateway.admin("/debug/endpoints").body.split_whitespace().collect();
    assert_eq!(endpoints.matches(r#""near":["hintedZone","zone"]"#).count(), 1, "{endpoints}");

    // A zone in which nobody is, and none at all: everybody is used.
    for args in [&["--zone", "c"][..], &[]] {
        let before = far.requests.load(Ordering::Relaxed);
        assert_eq!(ask(&start(args), 500, GET), 0);
        assert!(far.requests.load(Ordering::Relaxed) > before + 100, "{args:?}");
    }
    // The only near one refuses connections: no client sees that.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let dead = bound.local_addr().expect("an address").port();
    gateway.write("s.yaml", &service.replace(&format!("port: {}}}", near.port), &format!("port: {dead}}}")));
    gateway.wait_for("a.test", "/", |answer| answer.body == "far");
    assert_eq!(ask(&gateway, 500, GET), 0);
    assert!(sum(&gateway, "tidegate_picks_fail_open_total{", "condition=\"near\"") > 0);
}

/// Sends one request over each of so many connections at once; gives the statuses, with the time that each took. Pods are
/// released once all is as expected, given the number of answers that came without them.
fn at_once(
    gateway: &Gateway,
    count: usize,
    gate: &Gate,
    is_as_expected: impl Fn(usize) -> bool,
) -> Vec<(u16, std::time::Duration)> {
    let clients: Vec<_> = (0..count).map(|_| Client::connect(gateway.http)).collect();
    let barrier = std::sync::Barrier::new(count);
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (barrier, answered) = (&barrier, &answered);
        let send = |mut client: Client| {
            scope.spawn(move || {
                barrier.wait();
                let began = std::time::Instant::now();
                let status = client.request(GET).expect("an answer").status;
                answered.fetch_add(1, Ordering::Relaxed);
                (status, began.elapsed())
            })
        };
        let threads: Vec<_> = clients.into_iter().map(send).collect();
        let deadline = std::time::Instant::now() + support::PATIENCE;
        while !is_as_expected(answered.load(Ordering::Relaxed)) {
            if std::time::Instant::now() > deadline {
                gate.release();
                panic!("{} were answered, which is not as expected", answered.load(Ordering::Relaxed));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        gate.release();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn limited(block: &str, gate: &Gate) -> (Vec<Backend>, Gateway) {
    let pods: Vec<Backend> = ["a", "b", "c"].into_iter().map(|name| Backend::held(name, gate)).collect();
    let ports: Vec<u16> = pods.iter().map(|pod| pod.port).collect();
    let files = [("s.yaml", service("s", &ports)), ("r.yaml", route_of(&[rule("/", block)]))];
    let gateway =
        Gateway::start_with(&files.each_ref().map(|(name, text)| (*name, text.as_str())), &["--workers", "4"]);
    (pods, gateway)
}

/// Requests that came to pods so far.
fn requests_of(pods: &[Backend]) -> usize {
    pods.iter().map(|pod| pod.requests.load(Ordering::Relaxed)).sum()
}

#[test]
fn no_pod_gets_more_requests_than_the_rule_allows() {
    let gate = Gate::default();
    let (pods, gateway) = limited("connection: {maxRequestsPerEndpoint: 4}", &gate);
    let answers = at_once(&gateway, 100, &gate, |answered| answered >= 88 && requests_of(&pods) >= 12);
    let of_status = |status| answers.iter().filter(move |(found, _)| *found == status);
    assert_eq!((of_status(200).count(), of_status(503).count()), (12, 88));
    let slowest = of_status(503).map(|(_, took)| *took).max().expect("88");
    let peaks: Vec<usize> = pods.iter().map(|pod| pod.peak.load(Ordering::Relaxed)).collect();
    println!("100 at once, 4 for each of 3 pods: at most {peaks:?} in flight, the slowest of 88 refusals {slowest:?}");
    assert_eq!(peaks, [4, 4, 4]);
    assert_eq!(sum(&gateway, "tidegate_own_answers_total{", "reason=\"endpoint_limit\""), 88);
}

#[test]
fn requests_wait_for_a_pod_with_room_and_all_are_served() {
    let block = "connection: {maxRequestsPerEndpoint: 4, maxPendingRequests: 88, pendingTimeout: 60s}";
    let gate = Gate::default();
    let (pods, gateway) = limited(block, &gate);
    let waiting = || sum(&gateway, "tidegate_pending_requests", "");
    let answers = at_once(&gateway, 100, &gate, |_| waiting() >= 88 && requests_of(&pods) >= 12);
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    let peaks: Vec<usize> = pods.iter().map(|pod| pod.peak.load(Ordering::Relaxed)).collect();
    assert_eq!(peaks, [4, 4, 4]);
    assert_eq!(sum(&gateway, "tidegate_pending_requests", ""), 0);

    // One that has waited for as long as it may is answered.
    let block = "connection: {maxRequestsPerEndpoint: 1, maxPendingRequests: 1, pendingTimeout: 100ms}";
    let gate = Gate::default();
    let (pods, gateway) = limited(block, &gate);
    let answers = at_once(&gateway, 6, &gate, |answered| answered >= 3 && requests_of(&pods) >= 3);
    let refused = answers.iter().filter(|(status, _)| *status == 503).count();
    assert_eq!(refused, 3, "{answers:?}");
    assert_eq!(sum(&gateway, "tidegate_own_answers_total{", "reason=\"pending_timeout\""), 1);
}

/// Waits until so many requests wait for a pod with room.
fn wait_for_pending(gateway: &Gateway, count: usize) {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        match sum(gateway, "tidegate_pending_requests", "") {
            found if found == count => return,
            found => assert!(std::time::Instant::now() < deadline, "{found} wait, expected {count}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Clients that give up waiting leave their places to those behind them, and no pod hears of them.
#[test]
fn who_gives_up_waiting_keeps_nobody_waiting() {
    let block = "connection: {maxRequestsPerEndpoint: 4, maxPendingRequests: 88, pendingTimeout: 60s}";
    let gate = Gate::default();
    let (pods, gateway) = limited(block, &gate);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(gateway.http)).collect();
    let deadline = std::time::Instant::now() + support::PATIENCE;
    clients[..12].iter_mut().for_each(|client| client.send(GET).expect("the gateway reads"));
    while requests_of(&pods) < 12 {
        assert!(std::time::Instant::now() < deadline, "{} of 12 are there", requests_of(&pods));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    clients[12..].iter_mut().for_each(|client| client.send(GET).expect("the gateway reads"));
    wait_for_pending(&gateway, 88);
    drop(clients.split_off(50));
    wait_for_pending(&gateway, 38);
    gate.release();
    assert!(clients.iter_mut().all(|client| client.answer().is_ok_and(|answer| answer.status == 200)));
    assert_eq!(requests_of(&pods), 50);
}

/// On one worker, who came first is served first.
#[test]
fn requests_are_served_in_the_order_in_which_they_came() {
    use std::io::{BufRead, BufReader, Write};

    let gate = Gate::default();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (tell, served) = std::sync::mpsc::channel();
    let held = gate.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (tell, held) = (tell.clone(), held.clone());
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
                let mut stream = stream;
                while let Some(Ok(line)) = lines.next() {
                    if let Some(path) = line.strip_prefix("GET /") {
                        tell.send(path.split(' ').next().expect("a path").to_owned()).expect("the test listens");
                        held.wait();
                    }
                    if line.is_empty() && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    let block = "connection: {maxRequestsPerEndpoint: 1, maxPendingRequests: 20, pendingTimeout: 60s}";
    let files = [("s.yaml", service("s", &[port])), ("r.yaml", route_of(&[rule("/", block)]))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let gateway = Gateway::start_with(&files, &["--workers", "1"]);
    let mut clients: Vec<Client> = (0..12).map(|_| Client::connect(gateway.http)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n")).expect("the gateway reads");
        if number == 0 {
            assert_eq!(served.recv_timeout(support::PATIENCE).as_deref(), Ok("0"));
        }
        wait_for_pending(&gateway, number);
    }
    gate.release();
    assert!(clients.iter_mut().all(|client| client.answer().is_ok_and(|answer| answer.status == 200)));
    let order: Vec<String> = served.iter().take(11).collect();
    assert_eq!(order, (1..12).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_connection_carries_as_many_requests_as_the_rule_says() {
    let pod = Backend::start("a");
    let files = [
        ("s.yaml", service("s", &[pod.port])),
        ("r.yaml", route_of(&[rule("/", "connection: {maxRequestsPerConnection: 3}")])),
    ];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let mut client = Client::connect(gateway.http);
    (0..10).for_each(|_| assert_eq!(client.request(GET).expect("an answer").status, 200));
    assert_eq!(sum(&gateway, "tidegate_upstream_connects_total{", "result=\"ok\""), 4);
}

/// One pod behind a rule with a block, and a gateway of four workers.
fn one_pod(port: u16, protocol: &str, block: &str, args: &[&str]) -> Gateway {
    let service = service("s", &[port]).replace("port: 80}]", &format!("port: 80, appProtocol: {protocol}}}]"));
    let files = [("s.yaml", service.as_str()), ("r.yaml", &route_of(&[rule("/", block)]))];
    Gateway::start_with(&files, &[&["--workers", "4"], args].concat())
}

const H2C: &str = "kubernetes.io/h2c";

/// Connections to a loopback port that the gateway has open, as the kernel has them in its table.
fn open_connections(port: u16) -> usize {
    let of_port = format!("0100007F:{port:04X}");
    let count = || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let is_open = |line: &&str| {
            // Behind number and local address: remote address, and state, of which 01 is ESTABLISHED and 02 SYN_SENT.
            let mut columns = line.split_whitespace().skip(2);
            columns.next() == Some(of_port.as_str()) && matches!(columns.next(), Some("01" | "02"))
        };
        table.lines().filter(is_open).count()
    };
    // The table is no snapshot: while it is read, one may be closed and another one opened behind it.
    (0..3).map(|_| count()).min().unwrap_or_default()
}

/// The most connections to a port that were seen while something was done.
fn most_connections(port: u16, during: impl FnOnce()) -> usize {
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(open_connections(port));
            }
            most
        });
        during();
        is_over.store(true, Ordering::Relaxed);
        looking.join().expect("no panic")
    })
}

/// Every worker serves, the pod never has more than two connections, and each that waits is served in time.
#[test]
fn no_pod_has_more_connections_than_the_rule_allows() {
    let block = "connection: {maxConnectionsPerEndpoint: 2, maxPendingRequests: 64, pendingTimeout: 5s}";
    let pause = std::time::Duration::from_millis(1);
    let (one, two) = (Backend::slow("a", pause), Http2Backend::start(pause));
    for (port, protocol, requests) in [(one.port, "http", 1_000), (two.port, H2C, 3_000)] {
        let gateway = one_pod(port, protocol, block, &[]);
        let most = most_connections(port, || assert_eq!(ask(&gateway, requests, GET), 0));
        let connects = sum(&gateway, "tidegate_upstream_connects_total{", "result=\"ok\"");
        println!(
            "{protocol}: 2 connections for 4 workers, {requests} GET of {CLIENTS} clients: {most} at most, {connects} in all"
        );
        assert!((1..=2).contains(&most), "{protocol}: {most}");
        assert_eq!(sum(&gateway, "tidegate_pending_requests", ""), 0);
    }
    let served = (one.requests.load(Ordering::Relaxed), two.requests.load(Ordering::Relaxed));
    assert_eq!(served, (1_000, 3_000));
}

/// A connection that one worker keeps and does not use is closed for a request of another one, also where none may wait.
#[test]
fn an_idle_connection_of_another_worker_keeps_nobody_waiting() {
    let block = "connection: {maxConnectionsPerEndpoint: 1}";
    let one = Backend::start("a");
    let two = Http2Backend::start(std::time::Duration::ZERO);
    for (port, protocol) in [(one.port, "http"), (two.port, H2C)] {
        let gateway = one_pod(port, protocol, block, &[]);
        let mut clients: Vec<Client> = (0..16).map(|_| Client::connect(gateway.http)).collect();
        let mut took: Vec<_> = (0..160)
            .map(|turn| {
                let began = std::time::Instant::now();
                let answer = clients[turn % 16].request(GET).expect("an answer");
                assert_eq!(answer.status, 200, "{protocol}, request {turn}");
                began.elapsed()
            })
            .collect();
        took.sort();
        let connects = sum(&gateway, "tidegate_upstream_connects_total{", "result=\"ok\"");
        let (middle, slowest) = (took[80], took[159]);
        println!(
            "{protocol}: 160 GET over 4 workers in turn, {connects} connects, median {middle:?}, slowest {slowest:?}"
        );
        assert!(connects > 1, "several workers were asked");
        let table: serde_json::Value = serde_json::from_str(&gateway.admin("/debug/endpoints").body).expect("JSON");
        assert_eq!(table[0]["endpoints"][0]["connections"], 1, "{table}");
    }
}

/// A WebSocket has a connection for as long as it is open; what waits for it meanwhile says so in the log.
#[test]
fn a_websocket_has_one_of_the_connections() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
                let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned();
                while let Some(Ok(line)) = lines.next() {
                    if let Some(key) = line.to_ascii_lowercase().strip_prefix("sec-websocket-key: ") {
                        let key = &line[line.len() - key.len()..];
                        let accept = tidegate::http1::websocket::accept(key.as_bytes());
                        let accept = std::str::from_utf8(&accept).expect("base64");
                        answer = format!(
                            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                             sec-websocket-accept: {accept}\r\n\r\n"
                        );
                    }
                    if line.is_empty() && stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let block = "connection: {maxConnectionsPerEndpoint: 1, maxPendingRequests: 1, pendingTimeout: 20s}";
    let gateway = one_pod(port, "http", block, &["--access-log", log.to_str().expect("UTF-8")]);
    let mut socket = Client::connect(gateway.http);
    let handshake = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(socket.request(handshake).expect("an answer").status, 101);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Client::connect(gateway.http).request(GET).expect("an answer").status);
        let deadline = std::time::Instant::now() + support::PATIENCE;
        while sum(&gateway, "tidegate_pending_requests", "") == 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        // One waits, another one may not.
        assert_eq!(Client::connect(gateway.http).request(GET).expect("an answer").status, 503);
        drop(socket);
        assert_eq!(waiting.join().expect("no panic"), 200);
    });
    gateway.terminate();
    let deadline = std::time::Instant::now() + support::PATIENCE;
    let line = loop {
        let text = std::fs::read_to_string(&log).expect("UTF-8");
        let line = text.lines().find(|line| line.contains("\"path\":\"/\"") && line.contains("\"status\":200"));
        match line {
            Some(line) => break line.to_owned(),
            None => assert!(std::time::Instant::now() < deadline, "{text}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert!(line["wait_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{line}");
}

/// A client that belongs to a pod waits for it while that is at its limit, though another one has room.
#[test]
fn a_session_waits_for_its_pod() {
    let pause = std::time::Duration::from_millis(100);
    let pods = [Backend::slow("a", pause), Backend::slow("b", pause)];
    let block = "sessionPersistence: {type: Header, sessionName: x-s}\n    connection: {maxRequestsPerEndpoint: 1, \
                 maxPendingRequests: 20, pendingTimeout: 20s}";
    let files = [("s.yaml", service("s", &[pods[0].port, pods[1].port])), ("r.yaml", route_of(&[rule("/", block)]))];
    let gateway = Gateway::start(&files.each_ref().map(|(name, text)| (*name, text.as_str())));
    let first = Client::connect(gateway.http).request(GET).expect("an answer");
    let session = first.field("x-s").expect("a session").to_owned();
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nx-s: {session}\r\n\r\n");
    let bodies: Vec<String> = std::thread::scope(|scope| {
        let send = || scope.spawn(|| Client::connect(gateway.http).request(&request).expect("an answer").body);
        let threads: Vec<_> = (0..8).map(|_| send()).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(bodies, vec![first.body; 8]);
    assert!(pods.iter().all(|pod| pod.peak.load(Ordering::Relaxed) <= 1));
    // It was waited for: a thread of one pod served all of them, one behind the other.
    let served = pods.each_ref().map(|pod| pod.requests.load(Ordering::Relaxed));
    assert!(served == [9, 0] || served == [0, 9], "{served:?}");
}
