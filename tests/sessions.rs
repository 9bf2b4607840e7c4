//! The whole program with sessions: clients stay with their pods whatever happens to the others.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::client::{Answer, Client};
use support::gateway::Gateway;

const CLIENTS: usize = 1_000;

/// A pod that answers with its name and the Cookie and X-Session lines that it got.
fn start_pod(name: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound listener").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            std::thread::spawn(move || serve(stream, &name));
        }
    });
    port
}

fn serve(mut stream: TcpStream, name: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut body, mut status) = (name.to_owned(), "200 OK");
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let lower = line.trim_end().to_ascii_lowercase();
            if lower.starts_with("cookie:") || lower.starts_with("x-session:") {
                let _ = write!(body, "|{}", line.trim_end());
            }
            if lower.starts_with("get /unchanged") {
                status = "304 Not Modified";
            }
            if lower.is_empty() {
                break;
            }
        }
        let length = if status.starts_with("304") { 0 } else { body.len() };
        let body = &body[..length];
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).ok()?;
    }
}

/// What a slice says of a pod.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Ready,
    Draining,
    Gone,
}

/// The pods of one Service.
struct Pods {
    service: &'static str,
    /// Name, which is the uid, too, port and state.
    pods: Vec<(String, u16, State)>,
}

impl Pods {
    fn new(service: &'static str, count: usize) -> Self {
        let mut pods = Self { service, pods: Vec::new() };
        pods.scale(count);
        pods
    }

    /// Adds pods until there are so many.
    fn scale(&mut self, count: usize) {
        for number in self.pods.len()..count {
            let name = format!("{}-{number}", self.service);
            self.pods.push((name.clone(), start_pod(name), State::Ready));
        }
    }

    fn yaml(&self) -> String {
        let service = self.service;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}}}\nspec:\n  ports: [{{name: http, port: 80}}]\n"
        );
        for (name, port, state) in &self.pods {
            let conditions = match state {
                State::Ready => "{ready: true, serving: true, terminating: false}",
                State::Draining => "{ready: false, serving: true, terminating: true}",
                State::Gone => "{ready: false, serving: false, terminating: true}",
            };
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
                 {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\n\
                 endpoints:\n- addresses: [127.0.0.1]\n  conditions: {conditions}\n  targetRef: {{kind: Pod, name: {name}, \
                 uid: {name}}}\n"
            );
        }
        text
    }
}

fn route(session: &str, refs: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - sessionPersistence: {session}\n    loadBalancer: {{algorithm: RoundRobin}}\n    backendRefs: [{refs}]\n"
    )
}

const WEB: &str = "{name: web, port: 80}";

/// Writes a file, and waits until what it says is active.
fn publish(gateway: &Gateway, name: &str, text: &str) {
    let version = || {
        let page = gateway.admin("/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix("tidegate_config_version ")).map(str::to_owned);
        line.and_then(|version| version.parse::<f64>().ok()).expect("a version")
    };
    let before = version();
    gateway.write(name, text);
    let end = Instant::now() + Duration::from_secs(10);
    while version() <= before {
        assert!(Instant::now() < end, "{name} is not active");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The value of a set-cookie, with its name, as a browser sends it back.
fn cookie_of(answer: &Answer) -> Option<String> {
    answer.field("set-cookie").map(|field| field.split(';').next().expect("a first part").to_owned())
}

fn ask(client: &mut Client, cookie: Option<&str>) -> Answer {
    let line = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let answer = client.request(&format!("GET / HTTP/1.1\r\nHost: a.test\r\n{line}\r\n")).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

/// All clients: the pod that each is with and its cookie.
struct Clients(Vec<(String, String)>);

impl Clients {
    /// Each sends a first request.
    fn new(gateway: &Gateway) -> Self {
        let mut client = Client::connect(gateway.http);
        let first = |_| {
            let answer = ask(&mut client, None);
            let cookie = cookie_of(&answer).expect("the first answer sets the cookie");
            (answer.body, cookie)
        };
        Self((0..CLIENTS).map(first).collect())
    }

    /// Each sends another request; gives those who were with a pod, by its name, and how many were not answered by it.
    fn again(&mut self, gateway: &Gateway) -> BTreeMap<String, usize> {
        let mut client = Client::connect(gateway.http);
        let mut moved = BTreeMap::new();
        for (pod, cookie) in &mut self.0 {
            let answer = ask(&mut client, Some(cookie));
            let new = cookie_of(&answer);
            // A value is sent exactly when the pod is another one.
            assert_eq!(new.is_some(), answer.body != *pod, "{pod} {} {new:?}", answer.body);
            if let Some(new) = new {
                *moved.entry(pod.clone()).or_default() += 1;
                (*pod, *cookie) = (answer.body, new);
            }
        }
        moved
    }

    fn of(&self, pod: &str) -> usize {
        self.0.iter().filter(|(of, _)| of == pod).count()
    }
}

#[test]
fn clients_stay_with_their_pods() {
    let mut pods = Pods::new("web", 1);
    let files = [("s.yaml", pods.yaml()), ("r.yaml", route("{}", WEB))];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let gateway = Gateway::start(&files);
    let mut clients = Clients::new(&gateway);

    // One pod becomes ten: nobody moves, and newcomers use them all.
    pods.scale(10);
    publish(&gateway, "s.yaml", &pods.yaml());
    assert_eq!(clients.again(&gateway), BTreeMap::new());
    let mut clients = Clients::new(&gateway);
    assert!((0..10).all(|pod| clients.of(&format!("web-{pod}")) == CLIENTS / 10), "round robin spreads newcomers");

    // Two processes agree about every value, without having heard of each other.
    let other = Gateway::start(&[("s.yaml", &pods.yaml()), ("r.yaml", &route("{}", WEB))]);
    assert_eq!(clients.again(&other), BTreeMap::new());

    // A pod that drains keeps its own clients and gets no new ones.
    pods.pods[3].2 = State::Draining;
    publish(&gateway, "s.yaml", &pods.yaml());
    assert_eq!(clients.again(&gateway), BTreeMap::new());
    assert_eq!(Clients::new(&gateway).of("web-3"), 0);
    assert_eq!(gateway.admin("/debug/endpoints").body.matches("\"draining\": true").count(), 1);

    // When it is gone, its clients move, and nobody else.
    pods.pods[3].2 = State::Gone;
    publish(&gateway, "s.yaml", &pods.yaml());
    assert_eq!(clients.again(&gateway), BTreeMap::from([("web-3".to_owned(), CLIENTS / 10)]));
    assert_eq!(clients.again(&gateway), BTreeMap::new(), "a moved session stays where it went");

    // A rollout, pod by pod: only the clients of pods that go move.
    let mut moves = 0;
    for number in [0, 1, 2] {
        let next = pods.pods.len() + 1;
        pods.scale(next);
        pods.pods[number].2 = State::Gone;
        publish(&gateway, "s.yaml", &pods.yaml());
        let leaving = clients.of(&format!("web-{number}"));
        let moved = clients.again(&gateway);
        assert_eq!(moved.keys().collect::<Vec<_>>(), [&format!("web-{number}")]);
        assert_eq!(moved.values().sum::<usize>(), leaving);
        moves += leaving;
    }
    println!("{CLIENTS} clients: 0 moved from 1 pod to 10, {moves} of {moves} whose pods went in a rollout of 3");
    let page = gateway.admin("/metrics").body;
    let moved = format!("tidegate_sessions_total{{session=\"moved\"}} {}\n", CLIENTS / 10 + moves);
    assert!(page.contains(&moved), "{moved}{page}");
}

#[test]
fn weight_0_ends_sessions_and_tiers_do_not() {
    let (stable, canary) = (Pods::new("stable", 2), Pods::new("canary", 1));
    let refs = |weight| format!("{{name: stable, port: 80, weight: 9}}, {{name: canary, port: 80, weight: {weight}}}");
    let all = format!("{}---\n{}", stable.yaml(), canary.yaml());
    let gateway = Gateway::start(&[("s.yaml", &all), ("r.yaml", &route("{}", &refs(1)))]);
    let mut clients = Clients::new(&gateway);
    assert_eq!(clients.of("canary-0"), CLIENTS / 10);
    assert_eq!(clients.again(&gateway), BTreeMap::new(), "a client of the canary stays there");
    publish(&gateway, "r.yaml", &route("{}", &refs(0)));
    assert_eq!(clients.again(&gateway), BTreeMap::from([("canary-0".to_owned(), CLIENTS / 10)]));
    // What fails over comes back for new clients only.
    let tiers = "{name: stable, port: 80}, {name: canary, port: 80, tier: 1}";
    publish(&gateway, "r.yaml", &route("{}", tiers));
    assert_eq!(clients.again(&gateway), BTreeMap::new());
}

#[test]
fn what_is_no_value_begins_a_session() {
    let pods = Pods::new("web", 3);
    let timed = route("{absoluteTimeout: 1h}", WEB);
    let gateway = Gateway::start(&[("s.yaml", &pods.yaml()), ("r.yaml", &timed)]);
    let mut client = Client::connect(gateway.http);
    let first = ask(&mut client, None);
    let cookie = cookie_of(&first).expect("a cookie");
    for _ in 0..6 {
        let answer = ask(&mut client, Some(&cookie));
        assert_eq!((&answer.body, answer.field("set-cookie")), (&first.body, None));
    }
    let (name, value) = cookie.split_once('=').expect("name and value");
    let pods_of = |client: &mut Client, value: &str| -> BTreeSet<String> {
        let cookie = format!("{name}={value}");
        let answers = (0..6).map(|_| ask(client, Some(&cookie)));
        answers.inspect(|answer| assert!(cookie_of(answer).is_some(), "{value}")).map(|answer| answer.body).collect()
    };
    let tampered = value.replacen(&value[1..2], if &value[1..2] == "A" { "B" } else { "A" }, 1);
    let untimed = &value[..23];
    for value in [&*tampered, untimed, "", "x", &"1".repeat(5_000)] {
        assert_eq!(pods_of(&mut client, value).len(), 3, "{value:?} leads to no pod of its own");
    }
    // Another cluster's key.
    let folder = tempfile::tempdir().expect("a folder");
    let settings = folder.path().join("settings.yaml");
    let key = folder.path().join("key");
    std::fs::write(&key, "0123456789abcdef\n").expect("written");
    std::fs::write(&settings, format!("sessions: {{keyFile: {}}}\n", key.display())).expect("written");
    let args = ["--settings", settings.to_str().expect("a path in UTF-8")];
    let other = Gateway::start_with(&[("s.yaml", &pods.yaml()), ("r.yaml", &timed)], &args);
    assert_eq!(pods_of(&mut Client::connect(other.http), value).len(), 3);
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let pods = Pods::new("web", 2);
    let timed = route("{absoluteTimeout: 3s, idleTimeout: 2s, cookieConfig: {lifetimeType: Permanent}}", WEB);
    let gateway = Gateway::start(&[("s.yaml", &pods.yaml()), ("r.yaml", &timed)]);
    let mut client = Client::connect(gateway.http);
    let began = Instant::now();
    let first = ask(&mut client, None);
    assert!(first.field("set-cookie").is_some_and(|field| field.contains("; Max-Age=3; HttpOnly")));
    let (mut cookie, mut renewed) = (cookie_of(&first).expect("a cookie"), 0);
    // Whole seconds count, so the end may come one of them early.
    let end = loop {
        let answer = ask(&mut client, Some(&cookie));
        if answer.body != first.body {
            break began.elapsed();
        }
        if let Some(new) = cookie_of(&answer) {
            (cookie, renewed) = (new, renewed + 1);
        }
        assert!(began.elapsed() < Duration::from_secs(10), "absoluteTimeout holds however busy the session is");
        std::thread::sleep(Duration::from_millis(50));
    };
    println!("absoluteTimeout 3s: ended after {end:?}, its value renewed {renewed} times");
    assert!(end >= Duration::from_secs(2) && renewed >= 1, "{end:?} {renewed}");
}

#[test]
fn endpoints_see_nothing_of_sessions() {
    let pods = Pods::new("web", 2);
    let cookie = route("{sessionName: sid, cookieConfig: {sameSite: Lax, path: /x}}", WEB);
    let gateway = Gateway::start(&[("s.yaml", &pods.yaml()), ("r.yaml", &cookie)]);
    let mut client = Client::connect(gateway.http);
    let first = ask(&mut client, None);
    let field = first.field("set-cookie").expect("a cookie").to_owned();
    assert!(field.starts_with("sid=1") && field.ends_with("; Path=/x; HttpOnly; SameSite=Lax"), "{field}");
    let sid = cookie_of(&first).expect("a cookie");
    let answer = ask(&mut client, Some(&format!("a=1; {sid}; b=2")));
    assert_eq!(answer.body, format!("{}|cookie: a=1; b=2", first.body));
    assert_eq!(answer.field("set-cookie"), None);
    assert_eq!(ask(&mut client, Some(&sid)).body, first.body);
    // Of two values the one that leads somewhere counts.
    assert_eq!(ask(&mut client, Some(&format!("sid=1aaaaaaaaaaaaaaaaaaaaaA; {sid}"))).body, first.body);
    // What is not changed is not touched (RFC 9110 §15.4.5).
    let answer = client.request("GET /unchanged HTTP/1.1\r\nHost: a.test\r\n\r\n").expect("an answer");
    assert_eq!((answer.status, answer.field("set-cookie")), (304, None));

    publish(&gateway, "r.yaml", &route("{type: Header, sessionName: X-Session}", WEB));
    let first = ask(&mut client, None);
    let value = first.field("x-session").expect("a value").to_owned();
    for _ in 0..4 {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Session: {value}\r\n\r\n");
        let answer = client.request(&request).expect("an answer");
        assert_eq!((&answer.body, answer.field("x-session")), (&first.body, None));
    }
}

#[test]
fn a_pod_that_cannot_be_connected_to_loses_its_sessions() {
    let mut pods = Pods::new("web", 2);
    // Bound and not listened on: connects are refused, and nobody else gets the port.
    let bound = tokio::net::TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let gateway = Gateway::start(&[("s.yaml", &pods.yaml()), ("r.yaml", &route("{}", WEB))]);
    let mut clients = Clients::new(&gateway);
    let before = clients.of("web-0");
    // The same pod at an address where nothing listens.
    pods.pods[0].1 = bound.local_addr().expect("an address").port();
    publish(&gateway, "s.yaml", &pods.yaml());
    assert_eq!(clients.again(&gateway), BTreeMap::from([("web-0".to_owned(), before)]));
    assert_eq!(clients.of("web-1"), CLIENTS);
}
