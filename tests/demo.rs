//! The demo's backends: one for each loopback endpoint of the files, in both versions of HTTP, following edits.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate::compile::inputs::Inputs;
use tidegate::demo::{Backends, Guide};
use tidegate::source::files::FileSource;

/// A port of loopback that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn slice(name: &str, endpoints: &[(&str, &str)], port: u16) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(address, pod)| format!("{{addresses: [{address}], targetRef: {{kind: Pod, name: {pod}}}}}"))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: \
         {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nports: [{{name: http, port: {port}}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the backend accepts");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    answer
}

fn get(address: SocketAddr, extra: &str) -> String {
    exchange(address, &format!("GET /a?b=c HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{extra}\r\n"))
}

#[test]
fn every_loopback_endpoint_has_a_backend_that_says_what_it_was_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let file = dir.path().join("slice.yaml");
    // One of the addresses does not exist on this machine, so it is not served.
    let text = slice("a", &[("127.0.0.1", "pod-a"), ("127.0.0.2", "pod-b"), ("192.0.2.1", "pod-c")], port);
    fs::write(&file, text).expect("a file");
    let (_source, updates) = FileSource::start(dir.path(), Inputs::default()).expect("a readable directory");
    let backends = Backends::start(updates).expect("they start");
    let [a, b]: [SocketAddr; 2] = [([127, 0, 0, 1], port).into(), ([127, 0, 0, 2], port).into()];
    assert_eq!(backends.pods().into_iter().collect::<Vec<_>>(), [(a, "pod-a".to_owned()), (b, "pod-b".to_owned())]);

    let answer = get(b, "x-one: 1\r\nx-one: 2\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-pod: pod-b\r\n"), "{answer}");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    assert_eq!(body, format!("pod-b ({b})\nGET /a?b=c HTTP/1.1\nconnection: close\nhost: x\nx-one: 1, 2\n"));

    let answer = exchange(
        a,
        "POST /p HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: application/json\r\ncontent-length: 5\r\n\r\nhello",
    );
    let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    assert_eq!((&body["pod"], &body["method"], &body["bodyBytes"]), (&"pod-a".into(), &"POST".into(), &5.into()));

    // HTTP/2 with prior knowledge on the same port: the preface is answered with a SETTINGS frame, in whatever pieces.
    let mut stream = TcpStream::connect(a).expect("the backend accepts");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket option");
    stream.write_all(b"PR").expect("written");
    std::thread::sleep(Duration::from_millis(5));
    stream.write_all(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("written");
    let mut head = [0; 9];
    stream.read_exact(&mut head).expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS, RFC 9113 §6.5");

    // A new endpoint and a new name, without a restart.
    fs::write(&file, slice("a", &[("127.0.0.1", "renamed"), ("127.0.0.3", "pod-d")], port)).expect("a file");
    let deadline = Instant::now() + Duration::from_secs(10);
    let d = SocketAddr::from(([127, 0, 0, 3], port));
    while !backends.pods().contains_key(&d) {
        assert!(Instant::now() < deadline, "the edit has not arrived");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(get(d, "").contains("x-pod: pod-d"));
    assert!(get(a, "").contains("x-pod: renamed"));
    assert!(get(b, "").starts_with("HTTP/1.1 200"), "workers may not have heard of the removal yet");
    drop(backends);
    assert!(TcpStream::connect(a).is_err(), "the end of the backends");
}

#[test]
fn a_flaky_pod_fails_every_second_request() {
    let dir = tempfile::tempdir().expect("a folder");
    let port = free_port();
    fs::write(dir.path().join("slice.yaml"), slice("a", &[("127.0.0.1", "flaky-a")], port)).expect("a file");
    let (_source, updates) = FileSource::start(dir.path(), Inputs::default()).expect("a readable directory");
    let _backends = Backends::start(updates).expect("they start");
    let statuses: Vec<_> = (0..4).map(|_| get(([127, 0, 0, 1], port).into(), "")[9..12].to_owned()).collect();
    assert_eq!(statuses, ["503", "200", "503", "200"]);
}

#[test]
fn a_taken_port_is_left_to_its_owner() {
    let owner = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = owner.local_addr().expect("an address").port();
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("slice.yaml"), slice("a", &[("127.0.0.1", "a"), ("127.0.0.2", "b")], port))
        .expect("a file");
    let (_source, updates) = FileSource::start(dir.path(), Inputs::default()).expect("a readable directory");
    let _backends = Backends::start(updates).expect("they start");
    assert!(get(([127, 0, 0, 2], port).into(), "").contains("x-pod: b"));
}

#[test]
fn the_guide_has_every_rule_and_lines_that_can_be_tried() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/demo");
    let base = Inputs { gateway_class_name: "tidegate".into(), ..Inputs::default() };
    let (_source, updates) = FileSource::start(&dir, base).expect("a readable directory");
    let inputs = updates.borrow().inputs.clone();
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let guide =
        Guide { files: &dir, inputs: &inputs, http: address(8080), https: Some(address(8443)), admin: address(9090) }
            .to_string();
    let words: Vec<String> = guide.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        "shop.localhost / shop-v1:80 90 %, shop-v2:80 10 %",
        "shop.localhost /, x-canary: always shop-v2:80",
        "maps.localhost GET /tiles/{zoom}/{tile} tiles:8080 (ConsistentHash)",
        "portal.localhost /a and below delegated",
        "portal.localhost /a/wiki and below wiki:80",
        "curl -H 'host: shop.localhost' -H 'x-canary: always' http://127.0.0.1:8080/",
        "curl -H 'host: maps.localhost' http://127.0.0.1:8080/tiles/2/3",
        "curl -H 'host: portal.localhost' http://127.0.0.1:8080/a/wiki",
        "curl -H 'host: empty.localhost' http://127.0.0.1:8080/",
        "open http://chat.localhost:8080/ in two browser windows # WebSockets",
        "chat.localhost /chat and below redirect 301",
        "curl -k --resolve 'chat.localhost:8443:127.0.0.1' https://chat.localhost:8443/ # HTTPS, with a certificate that the demo has made",
        "curl http://127.0.0.1:9090/debug/routes",
    ] {
        assert!(words.iter().any(|line| line == expected), "{expected} is not in\n{guide}");
    }
}
