//! Handshakes: what reaches the backend, and what comes back when one fails.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use super::bed::{ACCEPT, Echo, KEY, Raw, RawServer, SOON, gateway, metric, open, ping, route, run, until};

#[test]
fn the_handshake_is_canonical_and_its_other_fields_are_those_of_any_request() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let mut client = Raw::handshake(
        gateway.http,
        "Origin: http://a.test\r\nCookie: a=1\r\nAuthorization: Basic eA==\r\nX-Forwarded-For: 192.0.2.1\r\nForwarded: for=x\r\n\
         Sec-WebSocket-Protocol: one\r\nSec-WebSocket-Protocol: two, three\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
        b"",
    );
    let mut backend = server.accept();
    let head = backend.head();
    let lines: Vec<&str> = head.lines().collect();
    assert_eq!(&lines[..2], ["GET /socket HTTP/1.1", "host: ws.test"]);
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "origin: http://a.test",
        "cookie: a=1",
        "authorization: Basic eA==",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: ws.test",
        "via: 1.1 tidegate",
        "sec-websocket-version: 13",
        &format!("sec-websocket-key: {KEY}"),
        "sec-websocket-extensions: permessage-deflate",
    ] {
        assert_eq!(lines.iter().filter(|own| **own == line).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("forwarded: for"), "{head}");
    let protocols: Vec<&&str> = lines.iter().filter(|line| line.starts_with("sec-websocket-protocol")).collect();
    assert_eq!(protocols, [&"sec-websocket-protocol: one", &"sec-websocket-protocol: two, three"]);
    backend.send(
        format!(
            "HTTP/1.1 101 OK\r\nUpgrade: WebSocket\r\nConnection: x-hop, upgrade\r\nX-Hop: 1\r\nX-Own: 1\r\n\
             Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: three\r\n\r\n"
        )
        .as_bytes(),
    );
    let answer = client.head().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 switching protocols\r\n"), "{answer}");
    for line in ["connection: upgrade", "upgrade: websocket", "x-own: 1", "sec-websocket-protocol: three"] {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{line} in {answer}");
    }
    assert!(!answer.contains("x-hop") && !answer.contains("content-length") && !answer.contains("transfer-encoding"));
}

/// Fields that a request and a handshake may both have; extensions and sub-protocols in lines as no library writes them.
const FIELDS: &str = "Origin: http://a.test\r\nCookie: a=1\r\nAuthorization: Basic eA==\r\nCookie: b=2\r\nX-Own: 1\r\n\
                      X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test\r\nX-Real-IP: 192.0.2.1\r\n\
                      Forwarded: for=192.0.2.1\r\nVia: 1.0 fred\r\n\
                      Sec-WebSocket-Protocol: z\r\nSec-WebSocket-Protocol: b ,a\r\nSec-WebSocket-Protocol: y\r\n\
                      Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits=10\r\n\
                      Sec-WebSocket-Extensions: permessage-deflate,x-webkit-deflate-frame\r\n";

#[test]
fn a_handshake_is_forwarded_as_the_same_request_without_upgrade() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    // Fields by name, the lines of one name in their order.
    let fields = |head: &str| -> Vec<(String, String)> {
        let own = |(name, _): &(&str, &str)| !["connection", "upgrade", "x-request-id"].contains(name);
        let lines = head.lines().filter_map(|line| line.split_once(": ")).filter(own);
        let mut lines: Vec<(String, String)> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        lines.sort_by(|one, other| one.0.cmp(&other.0));
        lines
    };
    let mut plain = Raw::request(
        gateway.http,
        &format!(
            "GET /socket HTTP/1.1\r\nHost: ws.test\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{FIELDS}\r\n"
        ),
    );
    let mut backend = server.accept();
    let request = backend.head();
    backend.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    assert!(plain.head().starts_with("HTTP/1.1 204 "));
    let mut client = Raw::handshake(gateway.http, FIELDS, b"");
    let mut backend = server.accept();
    let handshake = backend.head();
    assert_eq!(fields(&handshake), fields(&request));
    let all = |head: &str, name: &str| -> Vec<String> {
        head.lines().filter_map(|line| Some(line.strip_prefix(name)?.to_owned())).collect()
    };
    assert_eq!(all(&handshake, "sec-websocket-protocol: "), ["z", "b ,a", "y"]);
    assert_eq!(
        all(&handshake, "sec-websocket-extensions: "),
        [
            "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
            "permessage-deflate,x-webkit-deflate-frame"
        ]
    );
    // And back: what the endpoint chose, in its lines.
    let chosen = "sec-websocket-protocol: a\r\nsec-websocket-extensions: permessage-deflate;server_max_window_bits=10\r\n\
                  sec-websocket-extensions: x-other\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n";
    backend.send(
        format!(
            "HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n{chosen}\r\n"
        )
        .as_bytes(),
    );
    let answer = client.head().to_ascii_lowercase();
    for name in ["sec-websocket-protocol: ", "sec-websocket-extensions: ", "set-cookie: "] {
        assert_eq!(all(&answer, name), all(chosen, name), "{answer}");
    }
}

#[test]
fn a_handshake_has_no_body() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    for framing in ["Content-Length: 1", "Transfer-Encoding: chunked", "Content-Length: 65536"] {
        let mut client = Raw::handshake(gateway.http, &format!("{framing}\r\n"), b"");
        let answer = client.head();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"), "{framing}: {answer}");
        // It does not wait for a body that never comes.
        let began = Instant::now();
        client.rest();
        assert!(began.elapsed() < SOON, "{framing}: {:?}", began.elapsed());
    }
    let _client = Raw::handshake(gateway.http, "Content-Length: 0\r\n", b"");
    let head = server.accept().head();
    assert!(
        head.contains("\r\nupgrade: websocket\r\n"),
        "the first that the backend sees is the one without body: {head}"
    );
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"upgrade\"}"), 3.0);
}

#[test]
fn any_other_upgrade_is_a_plain_request() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let key = format!("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n");
    let socket = format!("Upgrade: websocket\r\n{key}");
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for (what, line, fields) in [
        ("h2c", "GET / HTTP/1.1", h2c.to_owned()),
        ("another protocol", "GET / HTTP/1.1", format!("Connection: Upgrade\r\nUpgrade: foo\r\n{key}")),
        ("not named by Connection", "GET / HTTP/1.1", format!("Connection: keep-alive\r\n{socket}")),
        ("no Connection", "GET / HTTP/1.1", socket.clone()),
        ("no Upgrade", "GET / HTTP/1.1", format!("Connection: Upgrade\r\n{key}")),
        ("no key", "GET / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n".to_owned()),
        ("two keys", "GET / HTTP/1.1", format!("Connection: Upgrade\r\n{socket}{key}")),
        ("POST", "POST / HTTP/1.1", format!("Connection: Upgrade\r\n{socket}Content-Length: 0\r\n")),
        ("HTTP/1.0", "GET / HTTP/1.0", format!("Connection: Upgrade\r\n{socket}")),
    ] {
        let mut client = Raw::request(gateway.http, &format!("{line}\r\nHost: ws.test\r\n{fields}\r\n"));
        let mut backend = server.accept();
        let head = backend.head();
        assert!(!head.contains("upgrade") && !head.contains("http2-settings"), "{what}: {head}");
        // Even an endpoint that switches does not make it one.
        backend.accept_handshake(b"surplus");
        assert!(client.head().contains(" 502 "), "{what}");
        client.expect(b"bad gateway\n");
        assert_eq!(backend.rest(), b"", "{what}");
    }
}

#[test]
fn what_comes_behind_a_handshake_waits_for_its_101() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let mut client = Raw::handshake(gateway.http, "", b"");
    let mut backend = server.accept();
    backend.head();
    // Until nothing is taken for a while: the gateway holds a little, and the kernels hold the rest.
    let chunk: Vec<u8> = (0..64 << 10).map(|at| (at % 251) as u8).collect();
    client.stream.set_write_timeout(Some(Duration::from_millis(150))).unwrap();
    let mut sent: Vec<u8> = Vec::new();
    while let Ok(count) = client.stream.write(&chunk) {
        sent.extend(&chunk[..count]);
        assert!(sent.len() < 64 << 20, "the writer never blocks");
    }
    backend.stream.set_nonblocking(true).unwrap();
    assert_eq!(backend.seen, b"");
    assert_eq!(backend.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "not a byte before the 101");
    backend.stream.set_nonblocking(false).unwrap();
    backend.accept_handshake(b"");
    assert!(client.head().starts_with("HTTP/1.1 101 "));
    client.finish();
    assert!(backend.rest() == sent, "all of it, in order");
}

#[test]
fn bytes_behind_a_handshake_are_counted_once() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let count = |side: &str| metric(&gateway, &format!("tidegate_received_bytes_total{{side=\"{side}\"}}"));
    let mut before = (0.0, 0.0);
    let mut took = Vec::new();
    for (up, down) in [(0, 0), (100, 50)] {
        let (mut client, mut backend) = server.open(gateway.http, &vec![b'u'; up], &vec![b'd'; down]);
        backend.expect(&vec![b'u'; up]);
        client.expect(&vec![b'd'; down]);
        drop((client, backend));
        until("the socket is gone", || metric(&gateway, "tidegate_sockets_open") == 0.0);
        let now = (count("downstream"), count("upstream"));
        took.push((now.0 - before.0, now.1 - before.1));
        before = now;
    }
    assert_eq!((took[1].0 - took[0].0, took[1].1 - took[0].1), (100.0, 50.0));
}

#[test]
fn a_101_that_does_not_fit_is_502_and_both_sides_close() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let broken = [
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp=\r\n",
        &format!("Upgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
        &format!("Connection: upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
        &format!("Connection: upgrade\r\nUpgrade: foo\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"),
        &format!("Connection: upgrade\r\nUpgrade: websocket\r\n{0}{0}", format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")),
    ];
    for (count, fields) in (1..).zip(broken) {
        let mut client = Raw::handshake(gateway.http, "", b"never forwarded");
        let mut backend = server.accept();
        backend.head();
        backend.send(format!("HTTP/1.1 101 S\r\n{fields}\r\nsurplus").as_bytes());
        let answer = client.head();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("connection: close"), "{fields}: {answer}");
        assert_eq!(client.rest(), b"bad gateway\n", "closed behind it");
        assert_eq!(backend.rest(), b"", "{fields}: not a byte from behind the handshake");
        assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"upgrade\"}"), f64::from(count));
    }
    assert_eq!(metric(&gateway, "tidegate_sockets_open"), 0.0);
}

#[test]
fn another_status_passes_and_the_held_bytes_are_the_next_request() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let behind = b"GET /next HTTP/1.1\r\nHost: ws.test\r\n\r\nGET /bad HTTP/1.1\r\nHost : ws.test\r\n\r\n";
    let mut client = Raw::handshake(gateway.http, "", behind);
    let mut backend = server.accept();
    backend.head();
    backend.send(b"HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nContent-Length: 3\r\n\r\nold");
    assert!(client.head().starts_with("HTTP/1.1 426 "));
    client.expect(b"old");
    // With all checks: the connection to the endpoint may be the same or another one.
    let head = backend.head();
    assert!(head.starts_with("GET /next HTTP/1.1\r\n") && head.contains("x-forwarded-for: 127.0.0.1"), "{head}");
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    client.expect(b"next");
    assert!(client.head().starts_with("HTTP/1.1 400 "), "the third breaks a rule");
}

#[test]
fn where_it_is_not_allowed_it_is_a_plain_request() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "    upgrades: {allow: []}\n", &[]);
    let mut client = Raw::handshake(gateway.http, "", b"");
    let mut backend = server.accept();
    let head = backend.head();
    assert!(!head.contains("upgrade"), "{head}");
    backend.accept_handshake(b"");
    assert!(client.head().starts_with("HTTP/1.1 502 "), "a 101 that nobody asked for");
}

#[test]
fn filters_shape_the_handshake_and_its_answer() {
    let server = RawServer::start();
    let rule = "    filters:\n    - type: URLRewrite\n      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /rooms}}\n\
                \u{20}   - type: ResponseHeaderModifier\n      responseHeaderModifier: {set: [{name: x-layer, value: out}]}\n";
    let gateway = gateway(&[server.port], rule, &[]);
    let mut client = Raw::handshake(gateway.http, "", b"");
    let mut backend = server.accept();
    assert!(backend.head().starts_with("GET /rooms HTTP/1.1\r\n"));
    backend.accept_handshake(b"hi");
    let answer = client.head();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("x-layer: out"), "{answer}");
    client.expect(b"hi");
}

/// A socket is in flight until it ends.
#[test]
fn a_socket_keeps_its_place_in_a_concurrency_limit() {
    let echo = Echo::start();
    let filter = "    filters: [{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1}}]\n";
    let gateway = gateway(&[echo.port], filter, &[]);
    run(async {
        let (mut first, _) = open(gateway.http, &[]).await.unwrap();
        ping(&mut first, "in").await;
        let mut second = Raw::handshake(gateway.http, "", b"");
        assert!(second.head().starts_with("HTTP/1.1 503 "));
        ping(&mut first, "still").await;
        drop(first);
        until("the place is free", || metric(&gateway, "tidegate_sockets_open") == 0.0);
        let (mut again, _) = open(gateway.http, &[]).await.unwrap();
        ping(&mut again, "in").await;
    });
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"concurrency\"}"), 1.0);
}

#[test]
fn a_rule_has_no_more_sockets_than_it_may() {
    let echo = Echo::start();
    let gateway = gateway(&[echo.port], "    upgrades: {maxConnections: 2}\n", &[]);
    run(async {
        let (mut first, _) = open(gateway.http, &[]).await.unwrap();
        let (_second, _) = open(gateway.http, &[]).await.unwrap();
        let mut third = Raw::handshake(gateway.http, "", b"");
        let answer = third.head();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1"), "{answer}");
        assert_eq!(echo.heads.try_iter().count(), 2, "the backend is not asked");
        ping(&mut first, "still").await;
        drop(first);
        until("a place is free again", || metric(&gateway, "tidegate_sockets_open") == 1.0);
        let (mut again, _) = open(gateway.http, &[]).await.unwrap();
        ping(&mut again, "in").await;
    });
    // The limit is that of the present configuration, also for sockets that opened before it.
    gateway.write("route.yaml", &route("    upgrades: {maxConnections: 1}\n"));
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"max_connections\"}"), 1.0);
}
