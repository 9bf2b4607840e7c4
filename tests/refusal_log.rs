//! Why a request was refused is in the log, by its reason. Nothing that a client sent can disturb the one who reads it, and
//! no secret of a request is anywhere.

mod support;

use std::fs::{File, read_to_string};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::backend::Backend;
use support::gateway::{Gateway, route, service};

/// Stands in for a secret wherever a request may have one.
const SECRET: &str = "5ecr3t-marker";
/// Controls of a terminal, and what turns the direction of text round.
const HOSTILE: &str = "\u{1b}[31m\u{7}\u{7f}\u{85}\u{202e}\u{2066}\u{feff}";

/// Sends bytes and reads to the end, or to the answer.
fn ask(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream.write_all(bytes).expect("written");
    let mut received = vec![0; 4096];
    let count = stream.read(&mut received).expect("an answer");
    String::from_utf8_lossy(&received[..count]).into_owned()
}

#[test]
fn refusals_are_told_and_quote_nothing() {
    let backend = Backend::start("pod");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (log, access_log) = (folder.path().join("log"), folder.path().join("access.log"));
    let files = [("pod.yaml", service("pod", &[backend.port])), ("route.yaml", route("all", "a.test", "pod"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let args = ["--access-log", access_log.to_str().expect("UTF-8"), "--log", "debug", "--workers", "1"];
    let stdio = Stdio::from(File::create(&log).expect("a file"));
    let gateway = Gateway::start_logging(&files, &args, stdio);

    let secrets = format!(
        "authorization: Bearer {SECRET}\r\nproxy-authorization: Basic {SECRET}\r\ncookie: session={SECRET}\r\n"
    );
    let bad = [
        ("line", format!("GET / HTTP/1.1\r\nhost: a.test\r\n{secrets}x: {HOSTILE}\r\n\r\n")),
        ("line", format!("GET / HTTP/1.1\r\nhost: a.test\r\n{secrets}{HOSTILE}: 1\r\n\r\n")),
        ("host", format!("GET / HTTP/1.1\r\n{secrets}host: {SECRET}@a.test\r\n\r\n")),
        ("target", format!("GET /%00?token={SECRET} HTTP/1.1\r\nhost: a.test\r\n{secrets}\r\n")),
        ("target", format!("GET /../\u{202e}?token={SECRET} HTTP/1.1\r\nhost: a.test\r\n{secrets}\r\n")),
        ("target", format!("GET http://{SECRET}@a.test/ HTTP/1.1\r\nhost: a.test\r\n{secrets}\r\n")),
        ("length", format!("POST / HTTP/1.1\r\nhost: a.test\r\n{secrets}content-length: {SECRET}\r\n\r\n")),
        ("expect", format!("POST / HTTP/1.1\r\nhost: a.test\r\n{secrets}expect: {SECRET}\r\n\r\n")),
        ("field", format!("GET / HTTP/1.1\r\nhost: a.test\r\n{secrets}connection: cookie\r\n\r\n")),
    ];
    for (reason, request) in &bad {
        let answer = ask(gateway.http, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4"), "{reason}: {answer}");
        assert!(!answer.contains(SECRET), "{answer}");
    }
    for path in ["/\u{202e}\u{85}", "/ok"] {
        let good = format!("GET {path}?token={SECRET} HTTP/1.1\r\nhost: a.test\r\n{secrets}\r\n");
        assert!(ask(gateway.http, good.as_bytes()).starts_with("HTTP/1.1 200 "), "{path:?}");
    }

    let lines = bad.len() + 2;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut access = String::new();
    while access.lines().count() < lines && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        access = read_to_string(&access_log).expect("UTF-8");
    }
    assert_eq!(access.lines().count(), lines, "{access}");
    let log = read_to_string(&log).expect("UTF-8");
    for (reason, _) in &bad {
        // Once each, for the second of a reason comes too soon.
        let told = log
            .lines()
            .filter(|line| line.contains("a request is refused") && line.contains(&format!("reason={reason}")));
        assert_eq!(told.count(), 1, "{reason}: {log}");
        assert!(access.contains(&format!("\"reason\":\"{reason}\"")), "{reason}: {access}");
    }
    let page = gateway.admin("/metrics").body;
    assert!(page.contains("tidegate_requests_refused_total{reason=\"target\"} 3\n"), "{page}");
    for text in [&log, &access, &page] {
        assert!(!text.contains(SECRET), "a secret of a request: {text}");
    }
    assert!(access.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{access:?}");
    let is_plain = |c: char| c == '\n' || !c.is_control() && (c.is_ascii() || c.is_alphabetic());
    assert!(log.chars().all(is_plain), "{log:?}");
}
