//! Connections or file descriptors run short: clients that have been idle longest leave before a new one waits.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use support::gateway::{Gateway, route, service};

/// What a client may wait for its answer though others hold all places. A pause in accepting would take longer.
const AT_ONCE: Duration = Duration::from_millis(1500);
/// Long enough for everything that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
const HOLD: &str = "GET /hold HTTP/1.1\r\nhost: a.test\r\n\r\n";
/// The key of the example in RFC 6455 §1.3, whose answer is known.
const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Answers at once, holds `/hold` until it is released, echoes behind a handshake. Ends with the process.
struct Pod {
    port: u16,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    held: usize,
    released: bool,
}

impl Pod {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let pod = Self { port, state: Arc::clone(&state) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || answer(stream, &state));
            }
        });
        pod
    }

    /// Waits until so many requests are held.
    fn wait_for_held(&self, count: usize) {
        let state = self.state.0.lock().expect("no panic");
        let (state, _) =
            self.state.1.wait_timeout_while(state, PATIENCE, |state| state.held < count).expect("no panic");
        assert!(state.held >= count, "{} of {count} requests came", state.held);
    }

    fn release(&self) {
        self.state.0.lock().expect("no panic").released = true;
        self.state.1.notify_all();
    }
}

fn answer(mut stream: TcpStream, state: &(Mutex<State>, Condvar)) -> Option<()> {
    let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
                break end + 4;
            }
            let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
            received.extend_from_slice(&bytes[..count]);
        };
        let head: Vec<u8> = received.drain(..end).collect();
        if head.starts_with(b"GET /socket") {
            stream.write_all(SWITCHED.as_bytes()).ok()?;
            while let Some(count) = stream.read(&mut bytes).ok().filter(|count| *count > 0) {
                stream.write_all(&bytes[..count]).ok()?;
            }
            return None;
        }
        if head.starts_with(b"GET /hold") {
            let mut held = state.0.lock().expect("no panic");
            held.held += 1;
            state.1.notify_all();
            drop(state.1.wait_while(held, |state| !state.released).expect("no panic"));
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}

/// A client's connection.
struct Client(TcpStream);

impl Client {
    fn connect(port: u16) -> Self {
        Self::connect_from(port, Ipv4Addr::LOCALHOST.into())
    }

    /// Connects from another address of loopback.
    fn connect_from(port: u16, address: IpAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((address, 0)).into()).expect("an address of loopback");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("let in by the kernel");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(stream)
    }

    fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).expect("written");
    }

    /// Reads to the end of what is expected.
    fn expect(&mut self, end: &str) -> String {
        let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
        while !received.ends_with(end.as_bytes()) {
            let text = String::from_utf8_lossy(&received).into_owned();
            let count = self.0.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {text:?}"));
            assert!(count > 0, "closed after {text:?}");
            received.extend_from_slice(&bytes[..count]);
        }
        String::from_utf8_lossy(&received).into_owned()
    }

    fn ask(&mut self) {
        self.send(GET);
        assert!(self.expect("ok").starts_with("HTTP/1.1 200 "));
    }

    /// Asks, and is answered without having to wait.
    fn ask_at_once(&mut self) {
        let begun = Instant::now();
        self.ask();
        assert!(begun.elapsed() < AT_ONCE, "answered after {:?}", begun.elapsed());
    }

    /// Whether the gateway has ended the connection by now.
    fn is_closed(&mut self) -> bool {
        self.0.set_nonblocking(true).expect("a socket");
        let read = self.0.read(&mut [0; 4096]);
        self.0.set_nonblocking(false).expect("a socket");
        match read {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Waits for the end of the connection; what came before it.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.0.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("still open: {error}"),
        }
    }
}

/// The files of a gateway in front of the pod, and the place of its settings.
fn files(pod: &Pod) -> [(&'static str, String); 2] {
    [("pod.yaml", service("pod", &[pod.port])), ("route.yaml", route("all", "a.test", "pod"))]
}

fn start(pod: &Pod, settings: &str, workers: &str, open_files: Option<u32>) -> Gateway {
    let files = files(pod);
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("settings.yaml");
    std::fs::write(&path, settings).expect("a file in the temporary folder");
    let args = ["--settings", path.to_str().expect("UTF-8"), "--workers", workers];
    match open_files {
        Some(open_files) => Gateway::start_limited(&files, &args, open_files),
        None => Gateway::start_with(&files, &args),
    }
}

/// The value of a line of the metrics; 0 when it is not there.
fn metric(gateway: &Gateway, line: &str) -> f64 {
    let page = gateway.admin("/metrics").body;
    page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0.0)
}

#[test]
fn the_limit_is_shown_and_comes_from_the_file_limit_by_default() {
    let pod = Pod::start();
    let limit = |settings, files| metric(&start(&pod, settings, "1", files), "tidegate_connections_limit");
    // A quarter of few descriptors, or 64 of many, are kept for connections to endpoints.
    assert_eq!(limit("", Some(200)), 150.0);
    assert_eq!(limit("", Some(1_000)), 936.0);
    assert_eq!(limit("limits: {connections: 77}\n", Some(1_000)), 77.0);
    assert_eq!(limit("limits: {connections: 5000}\n", Some(1_000)), 936.0);
}

/// The process may have this many file descriptors, and this many clients come: the kernel alone would let all in.
const FILES: u32 = 256;
const CROWD: usize = 240;

fn crowd(gateway: &Gateway, mut greet: impl FnMut(&mut Client)) -> Vec<Client> {
    let enter = |_| {
        let mut client = Client::connect(gateway.http);
        greet(&mut client);
        client
    };
    (0..CROWD).map(enter).collect()
}

/// Checks that a newcomer is served at once, that who left came before who stayed, and that most stayed.
fn newcomer_is_served(gateway: &Gateway, crowd: &mut [Client]) {
    Client::connect(gateway.http).ask_at_once();
    let closed: Vec<bool> = crowd.iter_mut().map(Client::is_closed).collect();
    let left = closed.iter().take_while(|closed| **closed).count();
    assert!(closed[left..].iter().all(|closed| !closed), "not the ones that were idle longest: {closed:?}");
    assert!((CROWD / 8..CROWD / 2).contains(&left), "{left} of {CROWD} left");
    assert_eq!(metric(gateway, "tidegate_accept_pauses_total"), 0.0);
    assert!(metric(gateway, "tidegate_connections_closed_total{side=\"downstream\",reason=\"made_room\"}") > 0.0);
}

#[test]
fn clients_that_never_sent_a_byte_make_room() {
    let pod = Pod::start();
    let gateway = start(&pod, "", "1", Some(FILES));
    let mut crowd = crowd(&gateway, |_| {});
    newcomer_is_served(&gateway, &mut crowd);
}

#[test]
fn clients_between_two_requests_make_room() {
    let pod = Pod::start();
    for workers in ["1", "3"] {
        let gateway = start(&pod, "", workers, Some(FILES));
        let mut crowd = crowd(&gateway, Client::ask_at_once);
        newcomer_is_served(&gateway, &mut crowd);
        crowd.iter_mut().rev().take(50).for_each(Client::ask_at_once);
    }
}

#[test]
fn clients_with_half_a_head_make_room() {
    let pod = Pod::start();
    let gateway = start(&pod, "deadlines: {head: 1h}\n", "1", Some(FILES));
    let mut crowd = crowd(&gateway, |client| client.send("GET / HTTP/1.1\r\nhost: a.test\r\nx: "));
    newcomer_is_served(&gateway, &mut crowd);
}

#[test]
fn clients_whose_requests_run_and_sockets_stay() {
    let pod = Pod::start();
    let gateway = start(&pod, "", "1", Some(FILES));
    let mut socket = Client::connect(gateway.http);
    socket.send(HANDSHAKE);
    assert!(socket.expect("\r\n\r\n").starts_with("HTTP/1.1 101 "));
    let mut running = Client::connect(gateway.http);
    running.send(HOLD);
    pod.wait_for_held(1);
    let mut crowd = crowd(&gateway, |_| {});
    newcomer_is_served(&gateway, &mut crowd);
    // A masked text frame goes through as it is, and back.
    socket.0.write_all(b"\x81\x82\0\0\0\0hi").expect("written");
    assert!(socket.expect("hi").contains("hi"));
    assert!(!running.is_closed());
    pod.release();
    running.expect("ok");
    running.ask();
}

#[test]
fn connections_to_endpoints_get_descriptors_of_idle_clients() {
    let pod = Pod::start();
    let gateway = start(&pod, "", "2", Some(FILES));
    let mut clients: Vec<Client> = (0..150).map(|_| Client::connect(gateway.http)).collect();
    clients.iter_mut().for_each(Client::ask_at_once);
    // With a connection to the pod for each there would be more descriptors than the process may have.
    let running = &mut clients[55..];
    running.iter_mut().for_each(|client| client.send(HOLD));
    pod.wait_for_held(95);
    pod.release();
    running.iter_mut().for_each(|client| assert!(client.expect("ok").starts_with("HTTP/1.1 200 ")));
    assert!(clients[0].is_closed(), "it was idle longest");
}

/// What an HTTP/2 client sends first: the preface and empty SETTINGS.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The types of frames (RFC 9113 §6).
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// The types of the frames in `bytes`.
fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [high, middle, low, kind, ..] = *bytes {
        types.push(kind);
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    types
}

/// Settings with one listener that serves HTTP/2, too.
fn with_http2(more: &str) -> String {
    format!("listeners: {{http: {{address: \"127.0.0.1:0\", http2PriorKnowledge: true}}}}\n{more}")
}

#[test]
fn http2_connections_without_streams_make_room_and_are_told() {
    let pod = Pod::start();
    let gateway = start(&pod, &with_http2(""), "2", Some(FILES));
    let mut crowd = crowd(&gateway, |client| {
        client.send(PREFACE);
        // It is served: its SETTINGS have come.
        let mut header = [0; 9];
        client.0.read_exact(&mut header).expect("a frame");
        assert_eq!(header[3], SETTINGS);
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        client.0.read_exact(&mut vec![0; length]).expect("a whole frame");
    });
    Client::connect(gateway.http).ask_at_once();
    let types = frame_types(&crowd[0].rest());
    assert!(types.contains(&GOAWAY), "closed without a word: {types:?}");
    // These clients never answer the PING that comes with the GOAWAY, and have left nevertheless.
    assert!(!crowd.last_mut().expect("a client").is_closed());
    assert_eq!(metric(&gateway, "tidegate_accept_pauses_total"), 0.0);
}

#[test]
fn accepting_pauses_only_when_nobody_is_idle() {
    let pod = Pod::start();
    let gateway = start(&pod, "limits: {connections: 3}\n", "2", None);
    let mut running: Vec<Client> = (0..3).map(|_| Client::connect(gateway.http)).collect();
    running.iter_mut().for_each(|client| client.send(HOLD));
    pod.wait_for_held(3);
    let mut waiting = Client::connect(gateway.http);
    waiting.send(GET);
    waiting.0.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
    assert!(waiting.0.read(&mut [0; 16]).is_err(), "a fourth one is served");
    assert_eq!(metric(&gateway, "tidegate_accept_pauses_total"), 1.0);
    waiting.0.set_read_timeout(Some(PATIENCE)).expect("a socket");
    pod.release();
    running.iter_mut().for_each(|client| assert!(client.expect("ok").starts_with("HTTP/1.1 200 ")));
    // One of the three is idle now and makes room.
    waiting.expect("ok");
}

#[test]
fn the_limit_of_connections_closes_the_one_that_is_idle_longest() {
    let pod = Pod::start();
    for workers in ["1", "3"] {
        let gateway = start(&pod, "limits: {connections: 8}\n", workers, None);
        let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(gateway.http)).collect();
        // Who was first is not who is idle longest.
        clients.iter_mut().rev().for_each(Client::ask_at_once);
        clients.reverse();
        for _ in 0..4 {
            let mut newcomer = Client::connect(gateway.http);
            newcomer.ask_at_once();
            assert_eq!(clients.remove(0).rest(), b"");
            assert!(clients.iter_mut().all(|client| !client.is_closed()), "{workers} workers");
            clients.push(newcomer);
        }
        let line = "tidegate_connections_closed_total{side=\"downstream\",reason=\"made_room\"}";
        assert_eq!(metric(&gateway, line), 4.0);
    }
}

#[test]
fn one_address_cannot_take_all_places() {
    let pod = Pod::start();
    let gateway = start(&pod, "limits: {connectionsPerAddress: 2}\n", "2", None);
    let mut running: Vec<Client> = (0..2).map(|_| Client::connect(gateway.http)).collect();
    running.iter_mut().for_each(|client| client.send(HOLD));
    pod.wait_for_held(2);
    assert_eq!(Client::connect(gateway.http).rest(), b"", "one too many");
    assert_eq!(
        metric(&gateway, "tidegate_connections_closed_total{side=\"downstream\",reason=\"address_limit\"}"),
        1.0
    );
    Client::connect_from(gateway.http, Ipv4Addr::new(127, 0, 0, 2).into()).ask_at_once();
    pod.release();
    running.iter_mut().for_each(|client| assert!(client.expect("ok").starts_with("HTTP/1.1 200 ")));
    running[0].ask();
    // The address has two idle connections: the one that is idle longest makes room.
    Client::connect(gateway.http).ask_at_once();
    assert_eq!(running[1].rest(), b"");
    assert!(!running[0].is_closed());
}

#[test]
fn trusted_forwarders_bring_many_clients_from_one_address() {
    let pod = Pod::start();
    let settings = "listeners: {http: {address: \"127.0.0.1:0\", trustedForwarders: [127.0.0.3]}}\n\
                    limits: {connectionsPerAddress: 1}\n";
    let gateway = start(&pod, settings, "1", None);
    let balancer = || Client::connect_from(gateway.http, Ipv4Addr::new(127, 0, 0, 3).into());
    let mut clients = [balancer(), balancer(), balancer()];
    clients.iter_mut().for_each(Client::ask_at_once);
    assert!(clients.iter_mut().all(|client| !client.is_closed()));
}
