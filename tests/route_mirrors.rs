//! The whole program with copies of requests for mirrors.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::client::Client;
use support::gateway::{Gateway, route, service};
use support::http2_client::Http2Client;
use support::in_turn::InTurn;
use support::witness::witness;

const PATIENCE: Duration = Duration::from_secs(10);

/// An address that takes connections, and nothing of what is sent.
fn stalled() -> (u16, TcpListener) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // The kernel would take megabytes in its place.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(64).unwrap();
    let listener = TcpListener::from(socket);
    (listener.local_addr().unwrap().port(), listener)
}

/// A route whose rule has these filters, with the Services `s` for requests and `m` for copies.
fn start(pod: u16, mirror: u16, filters: &str) -> Gateway {
    start_with(pod, service("m", &[mirror]), filters)
}

/// The same, with what is written here for `m`.
fn start_with(pod: u16, mirror: String, filters: &str) -> Gateway {
    let route = format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         rules:\n  - name: it\n    filters:\n{filters}    backendRefs: [{{name: s, port: 80}}]\n"
    );
    let files = [("s.yaml", service("s", &[pod])), ("m.yaml", mirror), ("r.yaml", route)];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    Gateway::start_with(&files, &["--workers", "2"])
}

const ALL: &str = "    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}}\n";

fn copies(gateway: &Gateway, copy: &str) -> u64 {
    let sample = format!("tidegate_mirrored_requests_total{{copy=\"{copy}\"}} ");
    let page = gateway.admin("/metrics").body;
    let value = page.lines().find_map(|line| line.strip_prefix(&sample)?.trim().parse::<f64>().ok());
    value.expect("the series is there") as u64
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_copy_is_the_request_as_it_stands_at_the_filter() {
    let (pod, seen) = witness();
    let (mirror, came) = witness();
    let rewrite = "    - {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}\n";
    let gateway = start(pod, mirror, &format!("{ALL}{rewrite}{ALL}"));
    let mut client = Client::connect(gateway.http);
    // A client cannot pretend to be a copy.
    let fields = "host: a.test\r\nx-tidegate-mirror: 7\r\nx-own: 1\r\n";
    let answer = client.request(&format!("GET /old?q=1 HTTP/1.1\r\n{fields}\r\n")).unwrap();
    assert_eq!(answer.status, 200);
    let request = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!((request.field("x-tidegate-mirror"), request.field("x-own")), (None, Some("1")), "{}", request.head);
    let mut both = [came.recv_timeout(PATIENCE).unwrap(), came.recv_timeout(PATIENCE).unwrap()];
    both.sort_by(|one, other| other.head.cmp(&one.head));
    for (copy, line) in both.iter().zip(["GET /old?q=1 HTTP/1.1\r\n", "GET /new?q=1 HTTP/1.1\r\n"]) {
        assert!(copy.head.starts_with(line), "{}", copy.head);
        assert_eq!(copy.field("host"), Some("a.test"), "{}", copy.head);
        assert_eq!(copy.field("x-tidegate-mirror"), Some("1"), "{}", copy.head);
        assert_eq!(copy.field("x-own"), Some("1"));
        assert_eq!(copy.field("x-forwarded-for"), Some("127.0.0.1"));
    }
    let body = "b".repeat(300_000);
    let head = format!("POST /old HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, 200);
    for _ in 0..2 {
        assert!(came.recv_timeout(PATIENCE).unwrap().body == body.as_bytes(), "the whole body");
    }
    until("all four are counted", || copies(&gateway, "sent") == 4);
    assert_eq!(seen.try_iter().count(), 1);
    // The numbers of the rule, and of the Service that it leads to, are those of its own requests.
    let page = gateway.admin("/metrics").body;
    assert!(page.contains("tidegate_requests_total{route=\"default/r\",rule=\"it\",method=\"GET\",code=\"2xx\"} 1\n"));
    assert!(page.contains("tidegate_requests_in_flight 0\n"), "{page}");
}

/// The mirror is behind a gateway of its own, which speaks HTTP/2.
#[test]
fn copies_go_over_http2_as_well() {
    let pod = Backend::start("a");
    let (witness, came) = witness();
    let behind = Gateway::start(&[("w.yaml", &service("w", &[witness])), ("r.yaml", &route("w", "a.test", "w"))]);
    let mirror = service("m", &[behind.http]).replace("port: 80}", "port: 80, appProtocol: kubernetes.io/h2c}");
    let gateway = start_with(pod.port, mirror, ALL);
    let mut client = Client::connect(gateway.http);
    let body = "b".repeat(100_000);
    let head = format!("POST /path?q=1 HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    for count in 1..=3 {
        assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, 200);
        let copy = came.recv_timeout(PATIENCE).unwrap();
        assert!(copy.head.starts_with("POST /path?q=1 HTTP/1.1\r\n"), "{}", copy.head);
        assert!(copy.body == body.as_bytes(), "the whole body");
        until("it is counted", || copies(&gateway, "sent") == count);
    }
    assert_eq!(
        behind.admin("/metrics").body.matches("tidegate_connections_accepted_total{listener=\"http\"} 1\n").count(),
        1
    );
}

/// Some clients of HTTP/2 end each body with an empty frame behind its last byte, which nobody waits for.
#[test]
fn a_copy_is_whole_with_the_last_announced_byte() {
    let (pod, mirror) = (Backend::start("a"), Backend::slow("m", Duration::from_millis(300)));
    let gateway = start(pod.port, mirror.port, ALL);
    let client = Http2Client::connect(gateway.http);
    for late in [false, true] {
        let request = http::Request::post("http://a.test/p").header("content-length", "5").body(()).unwrap();
        assert_eq!(client.request_that_ends_by_itself(request, b"hello", late).status, 200);
    }
    until("both copies are counted", || copies(&gateway, "sent") + copies(&gateway, "failed") == 2);
    assert_eq!(copies(&gateway, "failed"), 0);
}

#[test]
fn a_share_of_requests_is_copied() {
    let (pod, mirror) = (Backend::start("a"), Backend::start("m"));
    let tenth = "    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 10}}\n";
    let none =
        "    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, fraction: {numerator: 0}}}\n";
    let gateway = start(pod.port, mirror.port, &format!("{tenth}{none}"));
    let mut client = Client::connect(gateway.http);
    for _ in 0..2_000 {
        assert_eq!(client.get("a.test", "/").status, 200);
    }
    until("all are counted", || copies(&gateway, "sent") == mirror.requests.load(Ordering::Relaxed) as u64);
    // 200, and four times the standard deviation of 13.4 to either side.
    let copied = copies(&gateway, "sent");
    assert!((146..=254).contains(&copied), "{copied} of 2,000");
}

#[test]
fn a_mirror_that_is_dead_sick_or_stalled_is_no_matter_to_clients() {
    let pod = Backend::start("a");
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let (taken, _listener) = stalled();
    let (slow, sick) = (Backend::slow("m", Duration::from_millis(200)), Backend::sick());
    for (mirror, copy) in [(refused, "failed"), (taken, ""), (slow.port, "sent"), (sick.port, "sent")] {
        let gateway = start(pod.port, mirror, ALL);
        let mut client = Client::connect(gateway.http);
        let begun = Instant::now();
        for _ in 0..40 {
            assert_eq!(client.get("a.test", "/").status, 200);
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "40 requests took {:?} beside {copy}", begun.elapsed());
        if !copy.is_empty() {
            until(copy, || copies(&gateway, copy) == 40);
        }
    }
}

/// Half of the requests have a mirror that takes nothing, and none of them waits for it, which would take seconds. The promise
/// is 5 % of the slowest hundredth on an idle machine; how near it is depends on the machine, so that it is printed only. What
/// a copy costs is counted in instructions, by the benchmark `gates`.
#[test]
fn a_stalled_mirror_slows_no_request() {
    let pod = Backend::start("a");
    let (taken, _listener) = stalled();
    let gateway = start(pod.port, taken, ALL);
    gateway.write("without.yaml", &route("without", "b.test", "s"));
    assert_eq!(gateway.wait_for("b.test", "/", |answer| answer.status == 200).status, 200);
    let mut client = Client::connect(gateway.http);
    let mut one = |is_mirrored: bool| {
        // At a pace that leaves the gateway time for its copies: how much both together can do is another question.
        std::thread::sleep(Duration::from_micros(500));
        let begun = Instant::now();
        assert_eq!(client.get(if is_mirrored { "a.test" } else { "b.test" }, "/").status, 200);
        begun.elapsed()
    };
    let times = InTurn::measure((20, 100), |_| (), &mut one);
    println!("beside a stalled mirror: {times}");
    let (with, without) = times.percentile(99);
    assert!(with < without + Duration::from_millis(500), "{times}");
    assert_eq!(copies(&gateway, "sent"), 0);
}

/// Whether 8 MiB pass by a mirror that takes nothing, and what becomes of the copy.
#[test]
fn a_body_that_a_mirror_does_not_take_passes_without_it() {
    let pod = Backend::start("a");
    let (mirror, _listener) = stalled();
    let gateway = start(pod.port, mirror, ALL);
    let mut client = Client::connect(gateway.http);
    let body = "b".repeat(8 << 20);
    let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    let before = gateway.resident_kib();
    for count in 1..=5 {
        assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, 200);
        until("it is given up", || copies(&gateway, "overflow") == count);
    }
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more");
}

#[test]
fn a_client_that_leaves_in_the_middle_takes_the_copy_with_it() {
    let pod = Backend::start("a");
    let (mirror, came) = witness();
    let gateway = start(pod.port, mirror, ALL);
    let mut client = Client::connect(gateway.http);
    client.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nhalf").unwrap();
    until("it is on its way", || gateway.admin("/metrics").body.contains("tidegate_requests_in_flight 1\n"));
    drop(client);
    until("it ends", || copies(&gateway, "failed") == 1);
    assert!(came.try_recv().is_err(), "nothing whole came");
}

#[test]
fn sockets_are_not_copied() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pod = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                received.push(byte[0]);
            }
            // The key is that of the example in RFC 6455 §1.3.
            let switched = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
            let _ = stream.write_all(switched);
            let _ = stream.read(&mut [0; 1]);
        }
    });
    let mirror = Backend::start("m");
    let gateway = start(pod, mirror.port, ALL);
    let mut client = Client::connect(gateway.http);
    let handshake = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(handshake).unwrap();
    until("it is open", || gateway.admin("/metrics").body.contains("tidegate_sockets_open 1\n"));
    assert_eq!(mirror.requests.load(Ordering::Relaxed), 0);
    for copy in ["sent", "skipped", "overflow", "failed"] {
        assert_eq!(copies(&gateway, copy), 0, "{copy}");
    }
}
