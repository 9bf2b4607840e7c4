//! The whole program with requests that share a call of the backend.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::client::{Answer, Client};
use support::gateway::{Gateway, service};
use support::keeps_promise;
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(20);

/// A call that has come to the pod, which waits for what the test says.
struct Call {
    head: String,
    stream: TcpStream,
    /// The connection takes its next request once this is gone.
    _served: mpsc::Sender<()>,
}

impl Call {
    fn say(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// Answers with this body, and the connection stays.
    fn answer(mut self, fields: &str, body: &str) {
        self.say(&format!("HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{body}", body.len()));
    }

    /// Waits until the gateway gives the call up.
    fn wait_for_end(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = self.stream.read(&mut [0]);
        assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
}

/// A pod that hands each request over to the test.
struct Pod {
    port: u16,
    calls: mpsc::Receiver<Call>,
}

impl Pod {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, calls) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream, &sender));
            }
        });
        Self { port, calls }
    }

    fn call(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a call comes")
    }

    fn has_no_call(&self) -> bool {
        self.calls.try_recv().is_err()
    }
}

fn serve(stream: TcpStream, calls: &mpsc::Sender<Call>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        reader.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
        let (served, is_served) = mpsc::channel();
        calls.send(Call { head, stream: stream.try_clone().ok()?, _served: served }).ok()?;
        // An error: the test has dropped its end.
        let _ = is_served.recv();
    }
}

/// A gateway whose route has a Coalesce with this block, on this many workers.
fn start(pod: &Pod, block: &str, workers: usize) -> Gateway {
    start_with(pod, &format!("  - {{type: Coalesce, coalesce: {{{block}}}}}\n"), "", workers, &[])
}

fn start_with(pod: &Pod, filters: &str, rule: &str, workers: usize, args: &[&str]) -> Gateway {
    let route = format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         filters:\n{filters}  rules:\n  - name: it\n{rule}    backendRefs: [{{name: s, port: 80}}]\n"
    );
    let workers = workers.to_string();
    let args = [&["--workers", &workers], args].concat();
    Gateway::start_with(&[("s.yaml", &service("s", &[pod.port])), ("r.yaml", &route)], &args)
}

fn sample(gateway: &Gateway, name: &str) -> u64 {
    let page = gateway.admin("/metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    value.unwrap_or(0.0) as u64
}

/// How many requests led, joined, went alone, and were unshared.
fn shares(gateway: &Gateway) -> [u64; 4] {
    ["led", "joined", "alone", "unshared"].map(|share| {
        let labels = format!("{{route=\"default/r\",place=\"route\",share=\"{share}\"}}");
        sample(gateway, &format!("tidegate_coalesce_requests_total{labels}"))
    })
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until so many requests are in the gateway. One that is there has joined before its worker does anything else;
/// asking twice lets a worker end that was stopped in the middle of it.
fn in_flight(gateway: &Gateway, count: u64) {
    for _ in 0..2 {
        until("they are under way", || sample(gateway, "tidegate_requests_in_flight") == count);
    }
}

const GET: &str = "GET /a?q=1 HTTP/1.1\r\nhost: a.test\r\n\r\n";

/// Clients that have sent this and wait.
fn clients(gateway: &Gateway, count: usize, request: &str) -> Vec<Client> {
    let begin = |_| {
        let mut client = Client::connect(gateway.http);
        client.send(request).unwrap();
        client
    };
    (0..count).map(begin).collect()
}

fn answers(clients: &mut [Client]) -> Vec<Answer> {
    clients.iter_mut().map(|client| client.answer().unwrap()).collect()
}

#[test]
fn a_thousand_equal_requests_on_four_workers_make_one_call() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 4);
    let mut all = clients(&gateway, 1_000, GET);
    in_flight(&gateway, 1_000);
    let call = pod.call();
    assert!(call.head.starts_with("GET /a?q=1 HTTP/1.1\r\n"), "{}", call.head);
    call.answer("x-from: pod\r\n", "shared");
    for answer in answers(&mut all) {
        assert_eq!((answer.status, &*answer.body, answer.field("x-from")), (200, "shared", Some("pod")));
        assert_eq!(answer.field("content-length"), Some("6"));
    }
    assert!(pod.has_no_call());
    assert_eq!(shares(&gateway), [1, 999, 0, 0]);
    let of_rule = "tidegate_requests_total{route=\"default/r\",rule=\"it\",method=\"GET\",code=\"2xx\"}";
    until("all are counted", || sample(&gateway, of_rule) == 1_000);
    assert_eq!(sample(&gateway, "tidegate_service_requests_total{service=\"default/s\",code=\"2xx\"}"), 1);
    // A request that comes later is not answered with what was there before.
    all[0].send(GET).unwrap();
    pod.call().answer("", "later");
    assert_eq!(all[0].answer().unwrap().body, "later");
}

#[test]
fn the_first_client_leaves_and_all_others_have_the_answer() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let first = clients(&gateway, 1, GET);
    let call = pod.call();
    let mut others = clients(&gateway, 20, GET);
    in_flight(&gateway, 21);
    drop(first);
    in_flight(&gateway, 20);
    call.answer("", "shared");
    assert!(answers(&mut others).iter().all(|answer| (answer.status, &*answer.body) == (200, "shared")));
    assert!(pod.has_no_call());
    assert_eq!(shares(&gateway), [0, 20, 0, 0]);
}

#[test]
fn the_call_ends_when_all_leave_and_a_newcomer_has_a_fresh_one() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    keeps_promise("the call ends when all have left", Duration::from_millis(50), || {
        let all = clients(&gateway, 3, GET);
        in_flight(&gateway, 3);
        let mut call = pod.call();
        let left = Instant::now();
        drop(all);
        call.wait_for_end();
        left.elapsed()
    });
    let mut newcomer = clients(&gateway, 1, GET);
    pod.call().answer("", "fresh");
    assert_eq!(answers(&mut newcomer)[0].body, "fresh");
    assert_eq!(sample(&gateway, "tidegate_requests_in_flight"), 0);
}

/// Requests of two clients that differ, or that each have something of their own, are two calls; the others one.
#[test]
fn credentials_and_what_else_differs_are_never_shared() {
    let pod = Pod::start();
    let gateway = start(&pod, "varyHeaders: [x-tenant]", 2);
    let table = [
        (["authorization: Bearer a", "authorization: Bearer b"], 2),
        (["authorization: Bearer a", "authorization: Bearer a"], 2),
        (["cookie: a=1", "cookie: a=1"], 2),
        (["cookie: a=1", "x-a: 1"], 2),
        (["accept: text/html", "accept: application/json"], 2),
        (["accept-encoding: gzip", "accept-encoding: br"], 2),
        (["origin: https://a", "origin: https://b"], 2),
        (["x-tenant: a", "x-tenant: b"], 2),
        (["x-tenant: a", "x-tenant: a"], 1),
        (["user-agent: a", "user-agent: b"], 1),
        (["range: bytes=0-1", "range: bytes=0-1"], 2),
        (["cache-control: no-cache", "cache-control: no-cache"], 2),
    ];
    for (fields, calls) in table {
        let request = |field: &str| format!("GET /a HTTP/1.1\r\nhost: a.test\r\n{field}\r\n\r\n");
        let mut both: Vec<Client> = fields.iter().flat_map(|field| clients(&gateway, 1, &request(field))).collect();
        in_flight(&gateway, 2);
        for number in 0..calls {
            pod.call().answer("", &number.to_string());
        }
        let mut bodies: Vec<_> = answers(&mut both).into_iter().map(|answer| answer.body).collect();
        bodies.sort();
        assert_eq!(bodies, if calls == 2 { ["0", "1"] } else { ["0", "0"] }, "{fields:?}");
        assert!(pod.has_no_call(), "{fields:?}");
    }
}

/// The names are taken out of the credentials that clients show: what a pod sees is told apart by them alone.
#[test]
fn users_that_an_outer_filter_has_found_out_never_share() {
    let pod = Pod::start();
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {ada: 0123456789abcdef0, bob: \
                  0123456789abcdef1}\n";
    let filters = "  - {type: APIKey, apiKey: {secretRef: {name: keys}, clientHeader: x-client}}\n  - {type: Coalesce, \
                   coalesce: {}}\n";
    let gateway = start_with(&pod, filters, "", 2, &[]);
    gateway.write("secret.yaml", secret);
    let request = |key| format!("GET /a HTTP/1.1\r\nhost: a.test\r\nx-api-key: 0123456789abcdef{key}\r\n\r\n");
    until("keys are known", || {
        let mut client = Client::connect(gateway.http);
        client.request("GET /a HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap().status == 401
    });
    let mut ada = clients(&gateway, 3, &request(0));
    let mut bob = clients(&gateway, 2, &request(1));
    in_flight(&gateway, 5);
    for _ in 0..2 {
        let call = pod.call();
        let name = call.head.lines().find_map(|line| line.strip_prefix("x-client: ")).unwrap().to_owned();
        call.answer("", &name);
    }
    assert!(answers(&mut ada).iter().all(|answer| answer.body == "ada"));
    assert!(answers(&mut bob).iter().all(|answer| answer.body == "bob"));
    assert!(pod.has_no_call());
}

#[test]
fn an_answer_for_one_client_is_for_the_first_and_the_others_go_on_alone() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let table = ["set-cookie: a=b\r\n", "cache-control: no-store\r\n", "vary: *\r\n"];
    for (number, fields) in table.iter().enumerate() {
        let request = format!("GET /{number} HTTP/1.1\r\nhost: a.test\r\n\r\n");
        let mut first = clients(&gateway, 1, &request);
        let call = pod.call();
        let mut others = clients(&gateway, 2, &request);
        in_flight(&gateway, 3);
        let answered = Instant::now();
        call.answer(fields, "first");
        assert_eq!(answers(&mut first)[0].body, "first", "{fields}");
        let both = [pod.call(), pod.call()];
        // Nobody waits for those two either.
        let mut next = clients(&gateway, 1, &request);
        if answered.elapsed() < Duration::from_millis(800) {
            pod.call().answer(fields, "next");
            assert_eq!(answers(&mut next)[0].body, "next", "{fields}");
        }
        both.into_iter().for_each(|call| call.answer(fields, "other"));
        assert!(answers(&mut others).iter().all(|answer| answer.body == "other"), "{fields}");
    }
    let [led, joined, _, unshared] = shares(&gateway);
    assert_eq!((led, joined, unshared), (3, 0, 6));
}

#[test]
fn what_is_too_large_is_for_the_first_and_comes_whole() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let body = "0123456789abcdef".repeat((2 << 20) / 16);
    let chunked = |body: &str| -> String {
        let chunks = body.as_bytes().chunks(40_000);
        let chunks = chunks.map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), str::from_utf8(chunk).unwrap()));
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunks.collect::<String>())
    };
    let known = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for (path, answer) in [("known", known), ("unknown", chunked(&body))] {
        let request = format!("GET /{path} HTTP/1.1\r\nhost: a.test\r\n\r\n");
        let mut all = clients(&gateway, 1, &request);
        let mut call = pod.call();
        all.extend(clients(&gateway, 1, &request));
        in_flight(&gateway, 2);
        std::thread::scope(|scope| {
            scope.spawn(|| call.say(&answer));
            // The other goes on by the time that this one's answer is too long.
            let mut second = pod.call();
            let answer = &answer;
            scope.spawn(move || second.say(answer));
            for answer in answers(&mut all) {
                assert!(answer.status == 200 && answer.body == body, "{path}: {} bytes", answer.body.len());
            }
        });
    }
    assert_eq!(shares(&gateway), [2, 0, 0, 2]);
    // What is small enough is shared, whatever its framing was.
    let mut all = clients(&gateway, 5, GET);
    in_flight(&gateway, 5);
    pod.call().say(&chunked(&body[..100_000]));
    for answer in answers(&mut all) {
        assert!(answer.body == body[..100_000] && answer.field("content-length") == Some("100000"));
    }
    assert!(pod.has_no_call());
}

#[test]
fn a_failure_is_shared_and_nobody_tries_it_once_more() {
    let pod = Pod::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let filters = "  - {type: Coalesce, coalesce: {}}\n";
    let mut gateway = start_with(&pod, filters, "", 2, &["--access-log", log.to_str().unwrap()]);
    let mut all = clients(&gateway, 10, GET);
    in_flight(&gateway, 10);
    pod.call().say("nonsense\r\n\r\n");
    for answer in answers(&mut all) {
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    assert!(pod.has_no_call());
    assert_eq!(shares(&gateway), [1, 9, 0, 0]);
    assert_eq!(sample(&gateway, "tidegate_own_answers_total{reason=\"bad_response\"}"), 10);
    // A pod's own failure is an answer like any other.
    all.iter_mut().for_each(|client| client.send(GET).unwrap());
    in_flight(&gateway, 10);
    pod.call().say("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy");
    assert!(answers(&mut all).iter().all(|answer| (answer.status, &*answer.body) == (503, "busy")));
    drop(all);
    gateway.terminate();
    gateway.wait();
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |role: &str| lines.iter().filter(|line| line["coalesced"] == role).collect::<Vec<_>>();
    assert_eq!((of("led").len(), of("joined").len(), lines.len()), (2, 18, 20), "{text}");
    assert!(of("led").iter().all(|line| line["attempts"] == 1), "{text}");
    assert!(of("joined").iter().all(|line| line["attempts"] == 0 && line["backend"] == "default/s:80"), "{text}");
    assert_eq!(lines.iter().filter(|line| line["reason"] == "bad_response").count(), 10, "{text}");
}

#[test]
fn who_comes_behind_the_head_has_a_call_of_his_own() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let mut all = clients(&gateway, 2, GET);
    in_flight(&gateway, 2);
    let mut call = pod.call();
    call.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst");
    // The head is there for all once the flight's key is free: what comes then cannot join.
    let mut late = Vec::new();
    let begun = Instant::now();
    let second = loop {
        assert!(begun.elapsed() < PATIENCE, "a call of its own");
        late.extend(clients(&gateway, 1, GET));
        if let Ok(call) = pod.calls.recv_timeout(Duration::from_millis(50)) {
            break call;
        }
    };
    call.say(" half");
    second.answer("", "second");
    assert!(answers(&mut all).iter().all(|answer| answer.body == "first half"));
    assert_eq!(late.last_mut().unwrap().answer().unwrap().body, "second");
}

#[test]
fn a_change_forgets_the_flight() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let mut before = clients(&gateway, 2, GET);
    in_flight(&gateway, 2);
    let old = pod.call();
    let mut change = clients(&gateway, 1, "POST /a HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nab");
    let changing = pod.call();
    assert!(changing.head.starts_with("POST /a "), "{}", changing.head);
    let mut meanwhile = clients(&gateway, 1, GET);
    let in_between = pod.call();
    changing.answer("", "changed");
    assert_eq!(answers(&mut change)[0].body, "changed");
    // Whoever asks after the change was answered sees it: not even the call that began meanwhile will do.
    let mut after = clients(&gateway, 1, GET);
    let new = pod.call();
    in_between.answer("", "between");
    old.answer("", "old");
    new.answer("", "new");
    assert!(answers(&mut before).iter().all(|answer| answer.body == "old"));
    assert_eq!(answers(&mut meanwhile)[0].body, "between");
    assert_eq!(answers(&mut after)[0].body, "new");
}

#[test]
fn more_than_may_wait_go_alone() {
    let pod = Pod::start();
    let gateway = start(&pod, "maxWaiters: 2", 2);
    let mut all = clients(&gateway, 5, GET);
    in_flight(&gateway, 5);
    let calls = [pod.call(), pod.call(), pod.call()];
    assert!(pod.has_no_call());
    calls.into_iter().for_each(|call| call.answer("", "it"));
    assert!(answers(&mut all).iter().all(|answer| answer.body == "it"));
    assert_eq!(shares(&gateway), [1, 2, 2, 0]);
}

/// Layers inside of the filter work once, for the call; those outside of it for each request.
#[test]
fn outer_filters_work_for_each_request_and_inner_ones_for_the_call() {
    let pod = Pod::start();
    let filters = |name: &str, more: &str| {
        format!(
            "- {{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: x-mark, value: {name}}}]}}}}
    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-mark, value: {name}}}]}}}}
    - {{type: RequestMirror, requestMirror: {{backendRef: {{name: m, port: 80}}}}}}
    - {more}\n"
        )
    };
    let outer = format!("    {}", filters("outer", "{type: Coalesce, coalesce: {}}"));
    let limit = "{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1}}";
    let inner = format!("    filters:\n    {}", filters("inner", limit));
    let (witness, copies) = support::witness::witness();
    let gateway = start_with(&pod, &outer, &inner, 2, &[]);
    gateway.write("m.yaml", &service("m", &[witness]));
    let mut client = Client::connect(gateway.http);
    // Until the mirror is known.
    until("a copy comes", || {
        client_round(&mut Client::connect(gateway.http), &pod);
        copies.recv_timeout(Duration::from_millis(100)).is_ok()
    });
    client_round(&mut client, &pod);
    while copies.recv_timeout(Duration::from_millis(500)).is_ok() {}
    let mut all = clients(&gateway, 4, GET);
    in_flight(&gateway, 4);
    let call = pod.call();
    assert_eq!(call.head.matches("x-mark: outer\r\n").count(), 1, "{}", call.head);
    assert_eq!(call.head.matches("x-mark: inner\r\n").count(), 1, "{}", call.head);
    call.answer("", "it");
    for answer in answers(&mut all) {
        let marks: Vec<_> =
            answer.fields.iter().filter(|(name, _)| name == "x-mark").map(|(_, mark)| &**mark).collect();
        assert_eq!((answer.status, marks), (200, vec!["inner", "outer"]), "one permit is enough for the call");
    }
    let copies: Vec<_> = (0..5).map(|_| copies.recv_timeout(PATIENCE).unwrap()).collect();
    let of_call = copies.iter().filter(|copy| copy.fields("x-mark") == ["outer", "inner"]).count();
    assert_eq!(of_call, 1, "four of the outer mirror, one of the inner");
}

/// One request that is answered.
fn client_round(client: &mut Client, pod: &Pod) {
    client.send(GET).unwrap();
    pod.call().answer("", "it");
    assert_eq!(client.answer().unwrap().status, 200);
}

#[test]
fn every_request_has_the_deadline_of_its_rule() {
    let pod = Pod::start();
    let filters = "  - {type: Coalesce, coalesce: {}}\n";
    let gateway = start_with(&pod, filters, "    timeouts: {request: 300ms}\n", 2, &[]);
    let mut all = clients(&gateway, 3, GET);
    let mut call = pod.call();
    for answer in answers(&mut all) {
        assert_eq!(answer.status, 504);
    }
    call.wait_for_end();
    let mut next = clients(&gateway, 1, GET);
    pod.call().answer("", "next");
    assert_eq!(answers(&mut next)[0].body, "next");
}

/// The deadlines of the call and of those who wait for it pass at the same moment: whoever has the head of the call's
/// answer has its body, too.
#[test]
fn an_answer_at_the_deadline_is_whole() {
    let pod = Pod::start();
    let filters = "  - {type: Coalesce, coalesce: {}}\n";
    let gateway = start_with(&pod, filters, "    timeouts: {request: 30ms}\n", 4, &[]);
    let mut all: Vec<_> = (0..40).map(|_| Client::connect(gateway.http)).collect();
    for round in 0..50 {
        let request = format!("GET /{round} HTTP/1.1\r\nhost: a.test\r\n\r\n");
        all.iter_mut().for_each(|client| client.send(&request).unwrap());
        for answer in answers(&mut all) {
            assert_eq!((answer.status, answer.body.is_empty()), (504, false));
        }
    }
}

/// What was begun under one configuration is not joined by requests of another.
#[test]
fn a_changed_route_begins_anew() {
    let pod = Pod::start();
    let other = Pod::start();
    let gateway = start(&pod, "", 2);
    let mut before = clients(&gateway, 2, GET);
    in_flight(&gateway, 2);
    let old = pod.call();
    let route = std::fs::read_to_string(gateway.dir.path().join("r.yaml")).unwrap();
    gateway.write("o.yaml", &service("o", &[other.port]));
    gateway.write("r.yaml", &route.replace("name: s,", "name: o,"));
    let mut after = Vec::new();
    let begun = Instant::now();
    let new = loop {
        assert!(begun.elapsed() < PATIENCE, "the new route serves");
        after.extend(clients(&gateway, 1, GET));
        if let Ok(call) = other.calls.recv_timeout(Duration::from_millis(50)) {
            break call;
        }
    };
    new.answer("", "new");
    assert_eq!(after.last_mut().unwrap().answer().unwrap().body, "new");
    old.answer("", "old");
    assert!(answers(&mut before).iter().all(|answer| answer.body == "old"));
}

/// Streams of HTTP/2 clients share a call with each other and with clients of HTTP/1.
#[test]
fn clients_of_both_protocols_share_a_call() {
    let pod = Pod::start();
    let gateway = start(&pod, "", 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut plain = clients(&gateway, 10, GET);
    LocalSet::new().block_on(&runtime, async {
        let mut streams = Vec::new();
        let mut kept = Vec::new();
        for _ in 0..4 {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", gateway.http)).await.unwrap();
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::task::spawn_local(connection);
            let mut sender = sender.ready().await.unwrap();
            for _ in 0..25 {
                let request = http::Request::get("http://a.test/a?q=1").body(()).unwrap();
                streams.push(sender.send_request(request, true).unwrap().0);
                sender = sender.ready().await.unwrap();
            }
            kept.push(sender);
        }
        let admin = gateway.admin;
        let is_there = move || {
            let page = Client::connect(admin).get("localhost", "/metrics").body;
            page.contains("tidegate_requests_in_flight 110\n")
        };
        for _ in 0..2 {
            while !tokio::task::spawn_blocking(is_there).await.unwrap() {}
        }
        pod.call().answer("", "shared");
        for answer in streams {
            let response = answer.await.unwrap();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["content-length"]),
                (200, &"6".parse().unwrap())
            );
            let mut body = response.into_body();
            let mut read = Vec::new();
            while let Some(data) = body.data().await {
                let data: Bytes = data.unwrap();
                read.extend_from_slice(&data);
            }
            assert_eq!(read, b"shared");
        }
    });
    assert!(answers(&mut plain).iter().all(|answer| answer.body == "shared"));
    assert!(pod.has_no_call());
    assert_eq!(shares(&gateway), [1, 109, 0, 0]);
}
