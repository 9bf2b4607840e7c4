//! Connections that a load balancer passes on, with a PROXY header before TLS and HTTP.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use super::bed::{Authority, echo_backend, exchange, route, secret, wait_for_metric};
use crate::support::PATIENCE;
use crate::support::gateway::{Gateway, port, service};
use crate::support::tools::program;

/// A gateway whose listeners have the PROXY protocol as `protocol` says, with a pod behind `a.test` and `plain.test` that
/// answers each request with its head.
struct Bed {
    gateway: Gateway,
    authority: Authority,
    http: u16,
    https: u16,
    log: tempfile::NamedTempFile,
}

impl Bed {
    fn start(protocol: &str, more: &str) -> Self {
        let authority = Authority::new();
        let pair = authority.issue(&["a.test"]);
        let web = service("web", &[echo_backend()]);
        let files = [
            ("secret.yaml", secret("it", &pair.certificate, &pair.key)),
            ("a.yaml", route("a", "a.test", &["it"], ", redirectInsecure: false")),
            ("web.yaml", web),
        ];
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let settings = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "listeners:\n  front: {{address: \"127.0.0.1:0\", proxyProtocol: {protocol}}}\n  secure: {{address: \
             \"127.0.0.1:0\", protocol: HTTPS, proxyProtocol: {protocol}}}\n{more}"
        );
        std::fs::write(settings.path(), text).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let args = ["--settings", settings.path().to_str().unwrap(), "--access-log", log.path().to_str().unwrap()];
        let (gateway, ready) = Gateway::start_ready(&files, &args);
        let [http, https] = ["front", "secure"].map(|name| port(&ready["listeners"][name]));
        Self { gateway, authority, http, https, log }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// How many connections were closed for a reason.
    fn wait_for_closed(&self, reason: &str, count: usize) {
        let name = "tidegate_connections_closed_total";
        wait_for_metric(&self.gateway, &format!("{name}{{side=\"downstream\",reason=\"{reason}\"}} {count}"));
    }

    /// Waits for a line of the access log with this client.
    fn wait_for_client(&self, client: &str) {
        let wanted = format!("\"client\":\"{client}\"");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = std::fs::read_to_string(self.log.path()).unwrap();
            if log.contains(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted} is not in\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-for: 198.51.100.1\r\nconnection: close\r\n\r\n";

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n";

fn v2() -> Vec<u8> {
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f";
    [&fixed[..], &[192, 0, 2, 8, 10, 0, 0, 1, 0x12, 0x34, 1, 187], &[4, 0, 0]].concat()
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Everything until the end, which may be a reset.
fn rest(stream: &mut impl Read) -> String {
    let mut answer = Vec::new();
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        answer.extend_from_slice(&bytes[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn assert_told(answer: &str, client: &str) {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("\r\nx-forwarded-for: {client}\r\n")), "{client} is not in {answer}");
}

const TRUSTED: &str = "{mode: required, trusted: [127.0.0.0/8]}";

#[test]
fn the_client_is_the_one_that_the_header_tells() {
    let bed = Bed::start(TRUSTED, "");
    for (header, client) in
        [(V1, "192.0.2.7"), (&v2()[..], "192.0.2.8"), (LOCAL, "127.0.0.1"), (b"PROXY UNKNOWN\r\n", "127.0.0.1")]
    {
        let mut stream = bed.connect();
        stream.write_all(&[header, REQUEST].concat()).unwrap();
        assert_told(&rest(&mut stream), client);
        bed.wait_for_client(client);
        // The same behind TLS, with the header and the handshake in pieces of their own.
        let mut socket = TcpStream::connect(("127.0.0.1", bed.https)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(header).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let session = ClientConnection::new(Arc::new(bed.authority.client().config()), name).unwrap();
        let mut stream = StreamOwned::new(session, socket);
        stream.write_all(REQUEST).unwrap();
        assert_told(&rest(&mut stream), client);
    }
}

#[test]
fn a_header_may_come_in_pieces_and_with_what_follows() {
    let bed = Bed::start(TRUSTED, "");
    for (header, client) in [(V1, "192.0.2.7"), (&v2()[..], "192.0.2.8")] {
        let whole = [header, REQUEST].concat();
        let mut streams: Vec<TcpStream> = (1..=header.len()).map(|_| bed.connect()).collect();
        for (cut, stream) in (1..).zip(&mut streams) {
            stream.set_nodelay(true).unwrap();
            stream.write_all(&whole[..cut]).unwrap();
        }
        // All first pieces are on their way before any second one.
        for (cut, stream) in (1..).zip(&mut streams) {
            stream.write_all(&whole[cut..]).unwrap();
            assert_told(&rest(stream), client);
        }
        let mut stream = bed.connect();
        stream.set_nodelay(true).unwrap();
        for byte in &whole {
            stream.write_all(&[*byte]).unwrap();
        }
        assert_told(&rest(&mut stream), client);
    }
}

#[test]
fn forwarding_fields_are_believed_from_the_client_that_the_header_tells() {
    let listener = "{mode: required, trusted: [127.0.0.0/8]}, trustedForwarders: [192.0.2.7]";
    let bed = Bed::start(listener, "");
    for (header, chain) in [(V1, "198.51.100.1, 192.0.2.7"), (&v2()[..], "192.0.2.8")] {
        let mut stream = bed.connect();
        stream.write_all(&[header, REQUEST].concat()).unwrap();
        assert_told(&rest(&mut stream), chain);
    }
}

#[test]
fn what_is_no_header_is_closed_and_counted_and_nothing_is_forwarded() {
    let bed = Bed::start(TRUSTED, "");
    let mut oversized = v2();
    oversized[14..16].copy_from_slice(&[0x10, 0]);
    let mut no_family = v2();
    no_family[13] = 0x10;
    let long = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    let malformed =
        [&b"PROXY TCP4 forged\r\n"[..], &oversized, &no_family, &long, b"PROXY / HTTP/1.1\r\nhost: a.test\r\n\r\n"];
    for (header, number) in malformed.iter().zip(1..) {
        for port in [bed.http, bed.https] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            // The gateway may be faster than the rest.
            let _ = stream.write_all(&[header, REQUEST].concat());
            assert_eq!(rest(&mut stream), "");
        }
        bed.wait_for_closed("proxy_malformed", 2 * number);
    }
    // Half of a header, and the end.
    let mut stream = bed.connect();
    stream.write_all(&V1[..20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), "");
    bed.wait_for_closed("proxy_malformed", 2 * malformed.len() + 1);
    // No header.
    let mut stream = bed.connect();
    stream.write_all(REQUEST).unwrap();
    assert_eq!(rest(&mut stream), "");
    assert!(bed.authority.client().connect(bed.https, "a.test").is_err());
    bed.wait_for_closed("proxy_missing", 2);
    // A second header is a request line that is none.
    let mut stream = bed.connect();
    stream.write_all(&[V1, V1, REQUEST].concat()).unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 400"));
}

#[test]
fn half_a_header_is_waited_for_until_its_deadline() {
    let bed = Bed::start(TRUSTED, "deadlines: {proxyHeader: 1s}\n");
    let begun = Instant::now();
    // Or nothing at all.
    let mut half = [bed.connect(), bed.connect()];
    half[0].write_all(&v2()[..15]).unwrap();
    for stream in &mut half {
        assert_eq!(rest(stream), "");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    bed.wait_for_closed("proxy_header", 2);
}

#[test]
fn peers_that_are_not_trusted_are_not_believed() {
    let elsewhere = "trusted: [10.9.0.0/16]}";
    let bed = Bed::start(&format!("{{mode: required, {elsewhere}"), "");
    for header in [V1, b""] {
        let mut stream = bed.connect();
        let _ = stream.write_all(&[header, REQUEST].concat());
        assert_eq!(rest(&mut stream), "");
    }
    bed.wait_for_closed("proxy_untrusted", 2);
    let bed = Bed::start(&format!("{{mode: optional, {elsewhere}"), "");
    for (header, number) in [V1, &v2()].into_iter().zip(1..) {
        let mut stream = bed.connect();
        let _ = stream.write_all(&[header, REQUEST].concat());
        assert_eq!(rest(&mut stream), "");
        bed.wait_for_closed("proxy_untrusted", number);
    }
    let mut stream = bed.connect();
    stream.write_all(REQUEST).unwrap();
    assert_told(&rest(&mut stream), "127.0.0.1");
    assert!(!std::fs::read_to_string(bed.log.path()).unwrap().contains("192.0.2"));
}

#[test]
fn without_the_protocol_a_header_is_a_bad_request() {
    let bed = Bed::start("{mode: off}", "");
    for header in [V1, &v2()] {
        let mut stream = bed.connect();
        stream.write_all(&[header, REQUEST].concat()).unwrap();
        assert!(rest(&mut stream).starts_with("HTTP/1.1 400"));
    }
    wait_for_metric(&bed.gateway, "tidegate_requests_refused_total{reason=\"line\"} 2");
}

#[test]
fn an_optional_header_may_be_missing() {
    let bed = Bed::start("{mode: optional, trusted: [\"127.0.0.1\"]}", "");
    // The method begins as the header does.
    let put = [b"P", REQUEST].concat();
    let put = String::from_utf8(put).unwrap().replacen("PGET", "PUT", 1);
    for (bytes, client) in
        [(REQUEST.to_vec(), "127.0.0.1"), (put.into_bytes(), "127.0.0.1"), ([V1, REQUEST].concat(), "192.0.2.7")]
    {
        let mut stream = bed.connect();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&bytes[..1]).unwrap();
        stream.write_all(&bytes[1..]).unwrap();
        assert_told(&rest(&mut stream), client);
    }
    let mut stream = bed.authority.client().connect(bed.https, "a.test").unwrap();
    let answer = exchange(&mut stream, "a.test", "/");
    assert_told(&answer, "127.0.0.1");
}

#[test]
fn connections_count_for_the_client_that_the_header_tells() {
    let bed = Bed::start(TRUSTED, "limits: {connectionsPerAddress: 2}\n");
    // A connection that stays open behind its request.
    let ask = |client: u8| {
        let mut stream = bed.connect();
        let header = format!("PROXY TCP4 192.0.2.{client} 10.0.0.1 1 2\r\n");
        stream.write_all([header.as_str(), "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"].concat().as_bytes()).unwrap();
        let mut answer = Vec::new();
        while answer.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count() < 2 {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert_told(&String::from_utf8(answer).unwrap(), &format!("192.0.2.{client}"));
        stream
    };
    let mut other = ask(2);
    let mut oldest = ask(1);
    let mut second = ask(1);
    let mut third = ask(1);
    assert_eq!(rest(&mut oldest), "", "it makes room for the third of its client");
    bed.wait_for_closed("made_room", 1);
    for (stream, client) in [(&mut other, "192.0.2.2"), (&mut second, "192.0.2.1"), (&mut third, "192.0.2.1")] {
        stream.write_all(REQUEST).unwrap();
        assert_told(&rest(stream), client);
    }
}

/// A program that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// HAProxy that passes TCP on with PROXY headers: for each word, such as `send-proxy-v2`, and target, a port.
fn haproxy(program: &Path, folder: &Path, passes: &[(&str, u16)]) -> (Running, Vec<u16>) {
    let mut config = "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n".to_owned();
    let ports: Vec<u16> = passes
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port())
        .collect();
    for ((word, target), port) in passes.iter().zip(&ports) {
        write!(config, "listen l{port}\n  bind 127.0.0.1:{port}\n  server gateway 127.0.0.1:{target} {word}\n")
            .unwrap();
    }
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let child = Command::new(program).arg("-db").arg("-f").arg(&file).stdin(Stdio::null()).spawn().unwrap();
    let running = Running(child);
    let deadline = Instant::now() + PATIENCE;
    for port in &ports {
        while TcpStream::connect(("127.0.0.1", *port)).is_err() {
            assert!(Instant::now() < deadline, "haproxy does not listen on {port}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    (running, ports)
}

#[test]
fn haproxy_tells_whose_connections_it_passes_on() {
    let (Some(program), Some(curl)) = (program("haproxy"), program("curl")) else { return };
    let bed = Bed::start(TRUSTED, "");
    let folder = tempfile::tempdir().unwrap();
    let words = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl"];
    let passes: Vec<(&str, u16)> = words.iter().flat_map(|word| [(*word, bed.http), (*word, bed.https)]).collect();
    let (_running, ports) = haproxy(&program, folder.path(), &passes);
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, bed.authority.pem()).unwrap();
    for (number, (port, (word, _))) in ports.iter().zip(&passes).enumerate() {
        let is_secure = number % 2 == 1;
        let versions: [&[&str]; 2] =
            [&["--http1.1"], if is_secure { &["--http2"] } else { &["--http2-prior-knowledge"] }];
        for (version, own) in versions.iter().zip(2..) {
            // Each client has an address of its own, which nobody but HAProxy sees.
            let client = IpAddr::from(Ipv4Addr::new(127, 9, u8::try_from(number).unwrap(), own));
            let scheme = if is_secure { "https" } else { "http" };
            let output = Command::new(&curl)
                .args(["-sS", "--max-time", "20", "--interface", &client.to_string(), "--cacert"])
                .arg(&ca)
                .args(*version)
                .args(["--resolve", &format!("a.test:{port}:127.0.0.1"), "-w", " %{http_code}"])
                .arg(format!("{scheme}://a.test:{port}/"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(text.ends_with(" 200"), "{word} {version:?}: {text} {said}");
            assert!(text.contains(&format!("x-forwarded-for: {client}\r\n")), "{word} {version:?}: {client} in {text}");
            bed.wait_for_client(&client.to_string());
        }
    }
}
