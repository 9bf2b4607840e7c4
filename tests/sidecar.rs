//! The sidecar on files: calls by loopback addresses, requests to the application, and what of both is not as asked for.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::backend::{Backend, Gate};
use support::client::{Answer, Client};
use support::gateway::{Gateway, port};
use support::http2_backend::Http2Backend;

/// A Service in a namespace, with one port of this name, and one slice of endpoints on loopback.
fn service(name: &str, (port_name, port): (&str, u16), endpoints: &[u16]) -> String {
    let (namespace, name) = name.split_once('/').expect("namespace and name");
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  ports: [{{name: \
         {port_name}, port: {port}}}]\n"
    );
    for endpoint in endpoints {
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{endpoint}, namespace: \
             {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: \
             {port_name}, port: {endpoint}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
        );
    }
    text
}

/// A backend that answers with the head of each request.
fn mirror() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_with_heads(&stream));
        }
    });
    port
}

fn answer_with_heads(mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn listener(ready: &Value, name: &str) -> u16 {
    port(&ready["listeners"][name])
}

fn lines(answer: &Answer) -> Vec<&str> {
    answer.body.trim_end().split("\r\n").collect()
}

#[test]
fn calls_are_balanced_by_request_and_carry_a_mark_and_an_id() {
    let (a, b) = (Backend::start("a"), Backend::start("b"));
    let mirror = mirror();
    let services = service("shop/payments", ("http", 80), &[a.port, b.port]);
    let files = format!("{services}---\n{}", service("shop/mirror", ("http", 80), &[mirror]));
    let (_sidecar, ready) = Gateway::start_sidecar(
        &[("services.yaml", &files)],
        &["--out-port", "payments.shop:80@127.0.0.1:0", "--out-port", "mirror.shop:80@127.0.0.1:0"],
    );
    let mut client = Client::connect(listener(&ready, "payments.shop:80"));
    let answers: Vec<_> = (0..40).map(|_| client.get("payments", "/").body).collect();
    for name in ["a", "b"] {
        assert!(answers.iter().any(|answer| answer == name), "{name} had no request of one connection: {answers:?}");
    }
    let mut client = Client::connect(listener(&ready, "mirror.shop:80"));
    let request =
        "GET /a//b?c HTTP/1.1\r\nHost: Any.Name:1\r\nX-Forwarded-For: 1.2.3.4\r\nVia: 1.1 tidegate\r\nx_own: 1\r\n\r\n";
    let answer = client.request(request).expect("an answer");
    let seen = lines(&answer);
    assert_eq!(seen[..2], ["GET /a//b?c HTTP/1.1", "host: Any.Name:1"]);
    let mut fields: Vec<_> = seen[2..].iter().map(|line| line.split_once(": ").expect("a field")).collect();
    fields.sort_unstable();
    let id = fields.pop().expect("an id").1;
    let expected = [("via", "1.1 tidegate"), ("via", "1.1 tidegate-sidecar"), ("x-forwarded-for", "1.2.3.4")];
    assert_eq!(fields[..3], expected);
    assert_eq!(fields[3..].iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["x-request-id"], "{id}");
}

#[test]
fn a_port_with_the_name_of_grpc_is_called_over_http2() {
    let backend = Http2Backend::start(Duration::ZERO);
    let services = service("shop/greeter", ("grpc-api", 50051), &[backend.port]);
    let args = ["--out-port", "greeter.shop:50051@127.0.0.1:0"];
    let (_sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &services)], &args);
    assert_eq!(Client::connect(listener(&ready, "greeter.shop:50051")).get("greeter", "/").status, 200);
    assert_eq!(backend.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn chains_of_15_sidecars_pass_and_longer_ones_are_a_loop() {
    let mirror = mirror();
    let services = service("shop/mirror", ("http", 80), &[mirror]);
    let args = ["--out-port", "mirror.shop:80@127.0.0.1:0"];
    let (_sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &services)], &args);
    let mut client = Client::connect(listener(&ready, "mirror.shop:80"));
    for (marks, status) in [(15, 200), (16, 508)] {
        let via = vec!["1.1 tidegate-sidecar"; marks].join(", ");
        let answer = client.request(&format!("GET / HTTP/1.1\r\nHost: a\r\nVia: {via}\r\n\r\n")).expect("an answer");
        assert_eq!(answer.status, status, "{marks} marks");
    }
}

#[test]
fn requests_reach_the_application_as_they_were_sent() {
    let app = mirror();
    let route = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: mine, namespace: shop}\nspec:\n  \
                 parentRefs: [{group: tidegate.dev, kind: Listener, name: in-http}]\n  rules:\n  - matches: [{path: \
                 {type: PathPrefix, value: /}}]\n    backendRefs: [{name: cart, port: 80}]\n  - matches: [{path: {type: \
                 PathPrefix, value: /admin}}]\n    filters: [{type: DirectResponse, directResponse: {statusCode: 403}}]\n";
    let services = service("shop/cart", ("http", 80), &[]);
    let incoming = format!("http:{app}@127.0.0.1:0");
    let (sidecar, ready) = Gateway::start_sidecar(
        &[("services.yaml", &services)],
        &["--in", &incoming, "--namespace", "shop", "--self", "cart"],
    );
    let port = listener(&ready, "in-http");
    let mut client = Client::connect(port);
    let head = "GET /x//y?q=%20 HTTP/1.1\r\nhost: cart\r\nx-forwarded-for: 1.2.3.4\r\nx-forwarded-client-cert: Hash=1\r\nvia: \
                1.1 tidegate\r\nx-request-id: theirs\r\nforwarded: for=1.2.3.4\r\nx_own: 1\r\n\r\n";
    let answer = client.request(head).expect("an answer");
    let (mut sent, mut seen): (Vec<_>, Vec<_>) = (head.trim_end().split("\r\n").collect(), lines(&answer));
    sent.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, sent);
    assert_eq!(client.get("cart", "/admin").status, 200, "no route yet");
    sidecar.write("route.yaml", route);
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.get("cart", "/admin").status != 403 {
        assert!(Instant::now() < deadline, "the route does not act");
    }
    assert_eq!(client.get("cart", "/other").status, 200, "the own Service is the application");
}

#[test]
fn it_is_ready_when_the_application_is_and_says_so_when_it_is_not() {
    // It has its port and does not listen there yet.
    let app = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    app.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let port = app.local_addr().expect("bound").as_socket().expect("an address").port();
    let incoming = format!("http:{port}@127.0.0.1:0");
    let (sidecar, ready) = Gateway::start_sidecar(&[], &["--in", &incoming]);
    let answer = sidecar.admin("/readyz");
    assert_eq!((answer.status, answer.body), (503, format!("not ready: tcp:{port}\n")));
    assert_eq!(sidecar.admin("/startupz").status, 200, "the application may start");
    let answer = Client::connect(listener(&ready, "in-http")).get("a", "/");
    assert_eq!(answer.status, 503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    app.listen(16).expect("it may");
    let deadline = Instant::now() + Duration::from_secs(10);
    while sidecar.admin("/readyz").status != 200 {
        assert!(Instant::now() < deadline, "it does not become ready");
    }
    drop(app);
    while sidecar.admin("/readyz").status != 503 {
        assert!(Instant::now() < deadline, "it stays ready without the application");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (only_out, _) = Gateway::start_sidecar(&[], &["--out-port", "a.b:80@127.0.0.1:0"]);
    assert_eq!(only_out.admin("/readyz").status, 200, "outgoing calls alone wait for nothing");
    while only_out.thread_count() > 6 {
        assert!(Instant::now() < deadline, "{} threads", only_out.thread_count());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_does_not_exist_is_503_and_harms_nothing_else() {
    let backend = Backend::start("a");
    let services = service("shop/payments", ("http", 80), &[backend.port]);
    let (sidecar, ready) = Gateway::start_sidecar(
        &[("services.yaml", &services)],
        &[
            "--out-port=payments.shop:80@127.0.0.1:0",
            "--out-port=payments.shop:81@127.0.0.1:0",
            "--out-port=gone.shop:80@127.0.0.1:0",
            "--out=none.shop@127.0.0.9",
        ],
    );
    let get = |name: &str| Client::connect(listener(&ready, name)).get("any", "/");
    assert_eq!(get("payments.shop:80").body, "a");
    for name in ["payments.shop:81", "gone.shop:80"] {
        assert_eq!(get(name).status, 503, "{name}");
    }
    let metrics = sidecar.admin("/metrics").body;
    assert!(metrics.contains(r#"tidegate_own_answers_total{reason="no_endpoints"} 2"#), "{metrics}");
    sidecar.write("more.yaml", &service("shop/gone", ("http", 80), &[backend.port]));
    let deadline = Instant::now() + Duration::from_secs(10);
    while get("gone.shop:80").status != 200 {
        assert!(Instant::now() < deadline, "a Service that comes later is not served");
    }
}

#[test]
fn all_ports_of_a_service_have_its_address_and_one_in_use_is_one_line() {
    let backend = Backend::start("a");
    let free = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let number = free.local_addr().expect("bound").port();
    let services = service("shop/payments", ("http", number), &[backend.port]);
    let dir = tempfile::tempdir().expect("a folder");
    let in_use = format!("payments.shop:{number}@127.0.0.2:{number}");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["sidecar", "--out-port", &in_use, "--admin", "127.0.0.1:0", "--config"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1), "what a flag names has to be bound");
    let expected = format!("tidegate: listener payments.shop:{number}: address 127.0.0.2:{number} is in use\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
    // What a Service names must not keep the application from starting: it is told, and tried again.
    let args = ["--out=payments.shop@127.0.0.2", "--out-port=payments.shop:1@127.0.0.1:0"];
    let (sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &services)], &args);
    assert!(ready["listeners"].get(format!("payments.shop:{number}")).is_none(), "{ready}");
    let errors = || sidecar.admin("/metrics").body.contains("tidegate_config_diagnostics{severity=\"error\"} 2\n");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !errors() {
        assert!(Instant::now() < deadline, "{}", sidecar.admin("/metrics").body);
    }
    drop(free);
    while errors() {
        assert!(Instant::now() < deadline, "an address that became free is not bound");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut stream = TcpStream::connect(("127.0.0.2", number)).expect("served");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("\r\n\r\na"), "{answer}");
}

#[test]
fn callers_are_asked_to_leave_before_the_application_ends_and_its_own_calls_are_not_touched() {
    let backend = Backend::start("a");
    let services = service("shop/payments", ("http", 80), &[backend.port]);
    let incoming = format!("http:{}@127.0.0.1:0", backend.port);
    let args = ["--in", &incoming, "--out-port=payments.shop:80@127.0.0.1:0", "--drain-delay=300ms"];
    let (mut sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &services)], &args);
    let [to_app, from_app] = ["in-http", "payments.shop:80"].map(|name| listener(&ready, name));
    let (mut caller, mut called) = (Client::connect(to_app), Client::connect(from_app));
    let mut idle = Client::connect(to_app);
    for client in [&mut caller, &mut called, &mut idle] {
        assert_eq!(client.get("a", "/").field("connection"), None);
    }
    let asked = Instant::now();
    sidecar.drain_in(&incoming);
    let deadline = Instant::now() + Duration::from_secs(10);
    while caller.get("a", "/").field("connection") != Some("close") {
        assert!(Instant::now() < deadline, "who goes on asking is not asked to leave");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(asked.elapsed() >= Duration::from_millis(300), "the delay: {:?}", asked.elapsed());
    idle.answer().expect_err("who is idle is let go");
    let late = Client::connect(to_app).get("a", "/");
    assert_eq!((late.status, late.field("connection")), (200, Some("close")), "new connections are served on");
    let own = called.get("a", "/");
    assert_eq!((own.status, own.field("connection")), (200, None));
    sidecar.terminate();
    assert!(sidecar.wait().success());

    let nobody = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["sidecar", "drain", "in", "--admin", &format!("127.0.0.1:{}", sidecar.admin)])
        .output()
        .expect("it runs");
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr);
    assert!(said.starts_with("tidegate: cannot ask the sidecar at 127.0.0.1:"), "{said}");
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }

    /// Reads the next one; `None` at the end of the connection.
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, w, x, y, z] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).ok()?;
        Some(Self { kind, flags, stream: u32::from_be_bytes([w, x, y, z]), payload })
    }
}

/// A client of HTTP/2 that acknowledges what has to be.
struct Http2Client(TcpStream);

impl Http2Client {
    /// Connects and asks for `/` on stream 1.
    fn ask(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("served");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let settings = Frame { kind: SETTINGS, flags: 0, stream: 0, payload: Vec::new() };
        // GET, http, / and an authority (RFC 7541 §6), with nothing behind them.
        let payload = b"\x82\x86\x84\x41\x01a".to_vec();
        let headers = Frame { kind: 1, flags: END_STREAM | 4, stream: 1, payload };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        stream.write_all(&[preface, settings.bytes(), headers.bytes()].concat()).expect("sent");
        Self(stream)
    }

    /// The next frame that says something.
    fn frame(&mut self) -> Option<Frame> {
        loop {
            let frame = Frame::read(&mut self.0)?;
            if ![SETTINGS, PING, WINDOW_UPDATE].contains(&frame.kind) {
                return Some(frame);
            }
            if frame.kind != WINDOW_UPDATE && frame.flags & ACK == 0 {
                let payload = if frame.kind == PING { frame.payload } else { Vec::new() };
                self.0.write_all(&Frame { flags: ACK, payload, ..frame }.bytes()).ok()?;
            }
        }
    }
}

#[test]
fn callers_over_http2_are_told_to_go_away_and_what_runs_is_answered() {
    let gate = Gate::default();
    let app = Backend::held("a", &gate);
    let incoming = format!("http:{}@127.0.0.1:0", app.port);
    let (sidecar, ready) = Gateway::start_sidecar(&[], &["--in", &incoming, "--drain-delay=0s"]);
    let mut client = Http2Client::ask(listener(&ready, "in-http"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while app.requests.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "the request does not reach the application");
        std::thread::sleep(Duration::from_millis(5));
    }
    sidecar.drain_in(&incoming);
    let goaway = client.frame().expect("a frame");
    assert_eq!((goaway.kind, &goaway.payload[4..8]), (GOAWAY, &[0; 4][..]), "without an error: {:?}", goaway.payload);
    gate.release();
    let mut body = Vec::new();
    while let Some(frame) = client.frame() {
        if (frame.kind, frame.stream) == (DATA, 1) {
            body.extend(frame.payload);
        }
    }
    assert_eq!(body, b"a", "and then the connection ends");
}

/// A server that sends back what it is sent, behind its own name, and ends when its client does.
fn echo(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                stream.write_all(name.as_bytes())?;
                std::io::copy(&mut reader, &mut stream)?;
                stream.write_all(b"bye")?;
                stream.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    port
}

/// Connects and reads the name of the server at the other end, which is one byte.
fn connect(port: u16) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("served");
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server takes the connection");
    (stream, name[0])
}

#[test]
fn what_is_not_http_is_passed_on_with_one_pick_for_each_connection() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let services = |endpoints: &[u16]| service("shop/db", ("postgres", 5432), endpoints);
    let files = services(&[echo("a"), gone, echo("b")]);
    let log = tempfile::NamedTempFile::new().expect("a file");
    let log_path = log.path().display().to_string();
    let flags = ["--out-port", "db.shop:5432@127.0.0.1:0", "--access-log", &log_path];
    let (mut sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &files)], &flags);
    let port = listener(&ready, "db.shop:5432");
    let mut names: Vec<u8> = (0..20).map(|_| connect(port).1).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, *b"ab", "both servers have connections, and the address that refuses costs none");

    let (mut stream, _) = connect(port);
    let sent: Vec<u8> = (0..4_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    // What looks like the head of a frame or of a request is nothing special.
    let sent = [b"\x88\x02\x03\xe8GET / HTTP/1.1\r\n\r\n".as_slice(), &sent].concat();
    let mut writer = stream.try_clone().expect("a second handle");
    let (writing, received) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            writer.write_all(&sent)?;
            writer.shutdown(std::net::Shutdown::Write)
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the server ends in order");
        (writing.join().expect("no panic"), received)
    });
    writing.expect("all was sent");
    assert_eq!(received.len(), sent.len() + 3, "and what the server said behind the end of its input");
    assert!(received.starts_with(&sent) && received.ends_with(b"bye"));

    let (mut held, _) = connect(port);
    let sockets = sidecar.admin("/debug/sockets").body;
    assert!(sockets.contains(r#""route": "shop/db:5432""#), "{sockets}");
    sidecar.write("services.yaml", &services(&[]));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut late = TcpStream::connect(("127.0.0.1", port)).expect("it listens on");
        if late.read_exact(&mut [0]).is_err() {
            break;
        }
        assert!(Instant::now() < deadline, "endpoints that have gone take connections");
    }
    held.write_all(b"still").expect("open");
    let mut answer = [0; 5];
    held.read_exact(&mut answer).expect("an open relay outlives its endpoint's place");
    assert_eq!(&answer, b"still");
    sidecar.terminate();
    held.write_all(b"last.").expect("it may finish during the drain");
    held.read_exact(&mut answer).expect("an answer");
    held.shutdown(std::net::Shutdown::Write).expect("open");
    assert!(sidecar.wait().success());

    let lines = access_log(&log_path);
    let of = |field: &str, value: Value| lines.iter().filter(|line| line[field] == value).collect::<Vec<_>>();
    assert!(
        of("listener", "db.shop:5432".into()).len() == lines.len() && of("status", Value::Null).len() == lines.len()
    );
    let large = of("received_bytes", sent.len().into());
    assert!(large.len() == 1 && large[0]["sent_bytes"] == received.len() + 1, "{large:?}");
    for (field, expected) in [("route", "shop/db:5432"), ("rule", "default"), ("backend", "shop/db:5432")] {
        assert_eq!(large[0][field], expected, "{field}");
    }
    assert_eq!(large[0]["reason"], Value::Null, "both ends have finished");
    // Refused once, the address that has gone is avoided.
    let passed_over: Vec<_> = lines.iter().filter(|line| line["attempts"] == 2).collect();
    let tried = |line: &&Value| line["tries"][0]["endpoint"] == format!("127.0.0.1:{gone}");
    assert!(!passed_over.is_empty() && passed_over.iter().all(tried), "{lines:?}");
    let refused = of("reason", "no_endpoints".into());
    let is_whole = |line: &&Value| line["endpoint"].is_null() && line["backend"] == "shop/db:5432";
    assert!(!refused.is_empty() && refused.iter().all(is_whole), "{lines:?}");
}

/// The lines of an access log.
fn access_log(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("an access log");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// How much one connection carries, in blocks of 1 MiB: 1 GiB where time does not matter.
fn blocks() -> u64 {
    if std::env::var_os("TIDEGATE_LONG").is_some() { 1024 } else { 128 }
}

#[test]
fn a_large_transfer_arrives_as_it_was_sent_while_endpoints_come_and_go() {
    let address = "127.0.0.3";
    let number = TcpListener::bind((address, 0)).expect("a free port").local_addr().expect("bound").port();
    let services = |endpoint: u16| service("shop/db", ("postgres", number), &[endpoint]);
    let files = services(echo("a"));
    let (sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &files)], &["--out=db.shop@127.0.0.3"]);
    let port = listener(&ready, &format!("db.shop:{number}"));
    let mut stream = TcpStream::connect((address, port)).expect("served at its own address");
    let mut name = [0];
    stream.read_exact(&mut name).expect("a server takes the connection");
    // Each block has its number, so that none can stand for another.
    let mut block = vec![0; 1 << 20];
    fastrand::Rng::with_seed(5).fill(&mut block);
    let numbered = |block: &mut [u8], number: u64| block[..8].copy_from_slice(&number.to_be_bytes());
    let (mut writer, mut sent) = (stream.try_clone().expect("a second handle"), block.clone());
    let writing = std::thread::spawn(move || {
        for number in 0..blocks() {
            numbered(&mut sent, number);
            writer.write_all(&sent)?;
        }
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut received = vec![0; block.len()];
    for number in 0..blocks() {
        if number == blocks() / 2 {
            sidecar.write("services.yaml", &services(echo("b")));
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut name = [0];
            while name != *b"b" {
                assert!(Instant::now() < deadline, "the change does not count");
                let mut other = TcpStream::connect((address, port)).expect("served");
                other.read_exact(&mut name).expect("a server takes the connection");
            }
        }
        stream.read_exact(&mut received).expect("all comes back");
        numbered(&mut block, number);
        assert!(received == block, "block {number} is another");
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("an orderly end");
    assert_eq!(rest, "bye", "what the server says behind the end of its input");
    writing.join().expect("no panic").expect("all was sent");
}

/// A route that answers `/admin` of Service `shop/payments` by itself.
const ADMIN_ROUTE: &str = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: admin, namespace: shop}\nspec:\n  \
                           parentRefs: [{group: '', kind: Service, name: payments}]\n  rules:\n  - backendRefs: [{name: payments, port: \
                           80}]\n  - matches: [{path: {type: PathPrefix, value: /admin}}]\n    filters: [{type: DirectResponse, \
                           directResponse: {statusCode: 418}}]\n";

#[test]
fn a_forward_proxy_balances_requests_for_its_services_and_passes_others_on() {
    let (a, b, mirror) = (Backend::start("a"), Backend::start("b"), mirror());
    let services = service("shop/payments", ("http", 80), &[a.port, b.port]);
    let files = [("services.yaml", &*services), ("route.yaml", ADMIN_ROUTE)];
    let log = tempfile::NamedTempFile::new().expect("a file");
    let log_path = log.path().display().to_string();
    let args = ["--proxy=127.0.0.1:0", "--services=payments.shop,gone.shop", "--namespace=shop"];
    let args = [&args[..], &["--access-log", &log_path]].concat();
    let (mut sidecar, ready) = Gateway::start_sidecar(&files, &args);
    let mut client = Client::connect(listener(&ready, "proxy"));
    let get = |client: &mut Client, target: &str| {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nConnection: x-hop\r\nX-Hop: 1\r\n"
        );
        client.request(&format!("{head}X-Own: 1\r\n\r\n")).expect("an answer")
    };
    let names = ["payments", "payments.shop", "payments.shop.svc", "Payments.shop.svc.cluster.local."];
    for name in names {
        let answers: Vec<_> = (0..20).map(|_| get(&mut client, &format!("http://{name}/")).body).collect();
        for backend in ["a", "b"] {
            assert!(answers.iter().any(|answer| answer == backend), "{name} goes to {answers:?} alone");
        }
    }
    for (target, status) in [
        ("http://payments:80/admin", 418),
        ("http://payments:81/", 503),
        ("http://gone.shop/", 503),
        ("https://payments/", 400),
        ("/", 400),
    ] {
        assert_eq!(get(&mut client, target).status, status, "{target}");
    }
    // Straight to its host, over the same connection.
    let answer = get(&mut client, &format!("http://127.0.0.1:{mirror}/x?y"));
    let mut seen = lines(&answer);
    assert_eq!(seen.remove(0), "GET /x?y HTTP/1.1");
    seen.sort_unstable();
    assert_eq!(seen, [&*format!("host: 127.0.0.1:{mirror}"), "via: 1.1 tidegate-sidecar", "x-own: 1"]);
    let via = vec!["1.1 tidegate-sidecar"; 16].join(", ");
    let circle = format!("GET http://127.0.0.1:{mirror}/ HTTP/1.1\r\nHost: a\r\nVia: {via}\r\n\r\n");
    assert_eq!(client.request(&circle).expect("an answer").status, 508);
    let refused = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    assert_eq!(get(&mut client, &format!("http://{refused}/")).status, 502);

    // Bytes, to a Service and past all of them.
    let mut through = Client::connect(listener(&ready, "proxy"));
    assert_eq!(
        through.request("CONNECT payments:80 HTTP/1.1\r\nHost: payments:80\r\n\r\n").expect("an answer").status,
        200
    );
    assert_eq!(through.get("payments", "/admin").status, 418);
    let (echo, mut stream) = (echo("e"), TcpStream::connect(("127.0.0.1", listener(&ready, "proxy"))).expect("served"));
    write!(stream, "CONNECT 127.0.0.1:{echo} HTTP/1.1\r\nHost: 127.0.0.1:{echo}\r\n\r\n").expect("sent");
    let mut head = String::new();
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("text") > 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(number(&sidecar, "tidegate_forward_proxy_tunnels_open"), 2);
    stream.write_all(b"bytes").expect("open");
    stream.shutdown(std::net::Shutdown::Write).expect("open");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "ebytesbye");
    drop(through);

    let counts = [
        ("request", "service", 81),
        ("request", "direct", 1),
        ("request", "no_backend", 2),
        ("request", "target", 2),
        ("request", "loop", 1),
        ("request", "connect", 1),
        ("tunnel", "service", 1),
        ("tunnel", "direct", 1),
        ("tunnel", "connect", 0),
    ];
    for (exchange, proxied, count) in counts {
        let name = format!("tidegate_forward_proxy_exchanges_total{{exchange=\"{exchange}\",proxied=\"{proxied}\"}}");
        assert_eq!(number(&sidecar, &name), count, "{name}");
    }
    assert_eq!(number(&sidecar, "tidegate_connections_accepted_total{listener=\"proxy\"}"), 3);
    sidecar.terminate();
    assert!(sidecar.wait().success());

    // What a listener of a Service has served has its line from there.
    let lines = access_log(&log_path);
    let (of_proxy, others): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["listener"] == "proxy");
    assert_eq!(others.len(), 82, "80 requests that were balanced, two that a route has answered");
    let of = |host: &str| {
        let found = of_proxy.iter().find(|line| line["host"] == host);
        found.unwrap_or_else(|| panic!("{host} is missing in {of_proxy:#?}"))
    };
    let direct = of(&format!("127.0.0.1:{mirror}"));
    assert_eq!((&direct["status"], &direct["method"], &direct["path"]), (&200.into(), &"GET".into(), &"/x".into()));
    assert_eq!(direct["endpoint"], format!("127.0.0.1:{mirror}"));
    assert_eq!(direct["sent_bytes"], answer.body.len());
    assert_eq!(direct.get("reason"), None, "{direct}");
    let tunnel = of(&format!("127.0.0.1:{echo}"));
    assert_eq!((&tunnel["method"], &tunnel["status"]), (&"CONNECT".into(), &200.into()));
    assert_eq!((&tunnel["received_bytes"], &tunnel["sent_bytes"]), (&5.into(), &9.into()));
    for (host, reason) in [("gone.shop", "no_backend"), (&refused.to_string(), "connect")] {
        assert_eq!(of(host)["reason"], reason);
    }
    assert_eq!(of_proxy.len(), 9, "{of_proxy:#?}");
}

/// The number of a series on the page of metrics.
fn number(sidecar: &Gateway, series: &str) -> u64 {
    let page = sidecar.admin("/metrics").body;
    let line = page.lines().find_map(|line| line.strip_prefix(series));
    let line = line.unwrap_or_else(|| panic!("{series} is missing in {page}"));
    line.trim().parse().expect("a whole number")
}

#[test]
fn a_forward_proxy_may_refuse_other_hosts_and_serves_real_clients() {
    let backend = Backend::start("a");
    let services = service("shop/payments", ("http", 80), &[backend.port]);
    let args = ["--proxy=127.0.0.1:0", "--services=payments.shop", "--proxy-others=refuse"];
    let (sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &services)], &args);
    let port = listener(&ready, "proxy");
    let mut client = Client::connect(port);
    for method in ["GET http://127.0.0.1:1/", "CONNECT 127.0.0.1:1"] {
        let answer = client.request(&format!("{method} HTTP/1.1\r\nHost: a\r\n\r\n")).expect("an answer");
        assert_eq!(answer.status, 403, "{method}");
    }
    for exchange in ["request", "tunnel"] {
        let labels = format!("{{exchange=\"{exchange}\",proxied=\"proxy_others\"}}");
        assert_eq!(number(&sidecar, &format!("tidegate_forward_proxy_exchanges_total{labels}")), 1, "{exchange}");
    }
    let proxy = format!("http://127.0.0.1:{port}");
    let python =
        "import urllib.request; print(urllib.request.urlopen('http://payments.shop/').read().decode(), end='')";
    let clients: [(&str, &[&str]); 2] =
        [("curl", &["--silent", "--fail", "http://payments.shop.svc/"]), ("python3", &["-c", python])];
    for (name, args) in clients {
        let Some(program) = support::tools::program(name) else { continue };
        let output = Command::new(program).args(args).env("http_proxy", &proxy).env_remove("no_proxy").output();
        let output = output.expect("it runs");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a", "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
