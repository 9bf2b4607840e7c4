//! What is no handshake, or one that never ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::bed::{Authority, gateway, keep_alive, route, secret, wait_for_metric};
use crate::support::PATIENCE;
use crate::support::gateway::Gateway;

/// A gateway with a certificate for `a.test`, and settings.
fn bed(settings: &str) -> (Authority, Gateway, u16) {
    let authority = Authority::new();
    let pair = authority.issue(&["a.test"]);
    let secret = secret("it", &pair.certificate, &pair.key);
    let route = route("a", "a.test", &["it"], "");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let args = ["--settings", file.path().to_str().unwrap()];
    let (gateway, port) = gateway(&[("secret.yaml", &secret), ("a.yaml", &route)], &args);
    (authority, gateway, port)
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything until the end, which may be a reset.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        answer.extend_from_slice(&bytes[..count]);
    }
    answer
}

fn closed(reason: &str) -> String {
    format!("tidegate_connections_closed_total{{side=\"downstream\",reason=\"{reason}\"}}")
}

#[test]
fn plain_http_is_told_where_it_is() {
    let (_, gateway, port) = bed("");
    let mut stream = connect(port);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    let answer = String::from_utf8(rest(&mut stream)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("use https:// instead of http:// to reach it.\n"), "{answer}");
    wait_for_metric(&gateway, "tidegate_requests_refused_total{reason=\"plain_http\"} 1");
}

#[test]
fn what_is_no_handshake_is_closed_and_counted() {
    let (authority, gateway, port) = bed("");
    for (number, bytes) in [
        &b"\x00garbage"[..],
        // A record that announces a ClientHello and holds none.
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff",
        b"\x16\x03\x01\xff\xffxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"\x16\x09\x09\x00\x01\x00",
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = connect(port);
        stream.write_all(bytes).unwrap();
        let answer = rest(&mut stream);
        // At most an alert.
        assert!(answer.is_empty() || answer[0] == 0x15, "{}", answer.escape_ascii());
        wait_for_metric(&gateway, &format!("{} {}", closed("tls_failed"), number + 1));
    }
    assert!(authority.client().connect(port, "other.test").is_err());
    wait_for_metric(&gateway, &format!("{} 1", closed("tls_name")));
    // TLS on the plain port.
    let mut stream = connect(gateway.http);
    stream.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff").unwrap();
    let answer = rest(&mut stream);
    assert!(!answer.windows(4).any(|bytes| bytes == b"200 "), "{}", answer.escape_ascii());
    wait_for_metric(&gateway, "tidegate_requests_refused_total{reason=\"line\"} 1");
}

#[test]
fn a_handshake_that_never_ends_is_closed_at_its_deadline_and_holds_nobody_up() {
    let (authority, gateway, port) = bed("deadlines: {tlsHandshake: 5s}\nlimits: {tlsHandshakes: 2}\nworkers: 1\n");
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..50).map(|_| connect(port)).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        stream.write_all(&b"\x16\x03\x01\x01"[..number % 5]).unwrap();
    }
    // Those that say all of their first message, and no more, have the gateway do its part.
    let mut hello = Vec::new();
    let config = std::sync::Arc::new(authority.client().config());
    let mut session = rustls::ClientConnection::new(config, "a.test".try_into().unwrap()).unwrap();
    session.write_tls(&mut hello).unwrap();
    for stream in &mut slow[40..] {
        *stream = connect(port);
        stream.write_all(&hello).unwrap();
    }
    let mut connection = authority.client().connect(port, "a.test").unwrap();
    keep_alive(&mut connection, "a.test", "web");
    let page = gateway.admin("/metrics").body;
    let given_up = page.lines().find(|line| line.starts_with(&closed("tls_handshake")) && !line.ends_with(" 0"));
    assert_eq!(given_up, None, "a good client is served meanwhile");
    for stream in &mut slow[..40] {
        assert_eq!(rest(stream), b"");
    }
    for stream in &mut slow[40..] {
        assert!(rest(stream).starts_with(b"\x16\x03\x03"), "the gateway's first messages, and the end");
    }
    assert!(begun.elapsed() >= Duration::from_secs(5));
    wait_for_metric(&gateway, &format!("{} 50", closed("tls_handshake")));
}
