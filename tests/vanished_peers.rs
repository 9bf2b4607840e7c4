//! Peers that vanish without a word: TCP asks for them on the connections of both sides, and what they held ends.
//!
//! The gateway of the second part runs in a network namespace of its own, so that the cable to its clients or to its pods
//! can be pulled. That needs root; without it these tests are skipped, but with `CI=true` that is a failure.

mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use support::client::Client;
use support::gateway::{port, spawn};
use support::tools::{program, skip};

/// Longer than anything here takes, and much shorter than the system's own patience or any other deadline.
const PATIENCE: Duration = Duration::from_secs(9);

const HOLD: &str = "GET /hold HTTP/1.1\r\nhost: h1.test\r\n\r\n";
/// The key of the example in RFC 6455 §1.3, whose answer is known.
const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nhost: h1.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What a pod has seen on one of its connections.
#[derive(Debug)]
enum Seen {
    /// A request that it does not answer.
    Held,
    /// A socket that is open, to send on.
    Socket(TcpStream),
    /// The end of a socket.
    End,
}

/// Serves both protocols on a port of `ip`: `/socket` is switched, `/part` gets a part of a body, `/hold` and everything
/// over HTTP/2 no answer, the rest an empty one. Ends with the process.
fn pod(ip: Ipv4Addr) -> (SocketAddr, Receiver<Seen>) {
    let listener = TcpListener::bind((ip, 0)).expect("an address of this machine");
    let address = listener.local_addr().expect("bound");
    let (seen, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || {
                let mut stream = stream;
                let mut received = Vec::new();
                while let Some(head) = head(&mut stream, &mut received) {
                    if head.starts_with("PRI * HTTP/2.0") {
                        http2(&mut stream, received, &seen);
                        return;
                    }
                    let answer = match head.split(' ').nth(1) {
                        Some("/socket") => SWITCHED,
                        Some("/part") => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart",
                        Some("/hold") => {
                            let _ = seen.send(Seen::Held);
                            continue;
                        }
                        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                    };
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    if answer == SWITCHED {
                        let _ = seen.send(Seen::Socket(stream.try_clone().expect("a socket")));
                        let mut bytes = [0; 4096];
                        while stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
                        let _ = seen.send(Seen::End);
                        return;
                    }
                }
            });
        }
    });
    (address, receiver)
}

/// Reads a head; `None` at the end of the connection.
fn head(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<String> {
    let mut bytes = [0; 4096];
    loop {
        if let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") {
            return String::from_utf8(received.drain(..end + 4).collect()).ok();
        }
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        received.extend_from_slice(&bytes[..count]);
    }
}

/// Answers SETTINGS and PING, as a live HTTP/2 server does, and nothing else.
fn http2(stream: &mut TcpStream, mut received: Vec<u8>, seen: &Sender<Seen>) -> Option<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const ACK: u8 = 1;
    let mut bytes = [0; 4096];
    let mut need = |stream: &mut TcpStream, received: &mut Vec<u8>, count: usize| {
        while received.len() < count {
            let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
            received.extend_from_slice(&bytes[..read]);
        }
        Some(())
    };
    // The rest of the preface.
    need(stream, &mut received, 6)?;
    received.drain(..6);
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).ok()?;
    loop {
        need(stream, &mut received, 9)?;
        let length = usize::from(received[0]) << 16 | usize::from(received[1]) << 8 | usize::from(received[2]);
        need(stream, &mut received, 9 + length)?;
        let mut frame: Vec<u8> = received.drain(..9 + length).collect();
        match (frame[3], frame[4] & ACK) {
            (SETTINGS, 0) => stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).ok()?,
            (PING, 0) => {
                frame[4] = ACK;
                stream.write_all(&frame).ok()?;
            }
            (HEADERS, _) => seen.send(Seen::Held).ok()?,
            _ => {}
        }
    }
}

/// Waits for what a pod is to see.
fn wait<T>(seen: &Receiver<Seen>, mut of: impl FnMut(Seen) -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if let Some(found) = of(seen.recv_timeout(left).expect("the pod sees it in time")) {
            return found;
        }
    }
}

fn socket(seen: &Receiver<Seen>) -> TcpStream {
    wait(seen, |seen| if let Seen::Socket(stream) = seen { Some(stream) } else { None })
}

fn held(seen: &Receiver<Seen>) {
    wait(seen, |seen| matches!(seen, Seen::Held).then_some(()));
}

/// Services of one pod over both protocols, with a route each: the hosts `h1.test` and `h2.test`.
fn manifests(pod: SocketAddr) -> String {
    let mut text = String::new();
    for (name, protocol) in [("h1", "http"), ("h2", "kubernetes.io/h2c")] {
        text += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
             spec: {{ports: [{{name: web, port: 80, appProtocol: {protocol}}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-a, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: web, port: {}}}]\nendpoints: [{{addresses: [{}]}}]\n---\n\
             apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\n\
             spec: {{hostnames: [{name}.test], rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}\n---\n",
            pod.port(),
            pod.ip()
        );
    }
    text
}

/// A gateway with these settings, wherever `command` runs it, with the ports of its listener and its admin server.
struct Gateway {
    child: Child,
    http: u16,
    admin: u16,
    _folders: [tempfile::TempDir; 2],
}

impl Gateway {
    fn start(mut command: Command, pod: SocketAddr, settings: &str) -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder"));
        let path = folders[0].path().join("settings.yaml");
        std::fs::write(&path, settings).expect("a file in the temporary folder");
        std::fs::write(folders[1].path().join("all.yaml"), manifests(pod)).expect("a file in the temporary folder");
        command.args(["standalone", "--access-log", "off", "--settings"]).arg(&path);
        command.arg("--config").arg(folders[1].path());
        let (child, ready) = spawn(&mut command);
        Self { child, http: port(&ready["listeners"]["web"]), admin: port(&ready["admin"]), _folders: folders }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client's connection that must not wait for longer than the tests are patient.
fn connect(ip: Ipv4Addr, port: u16) -> TcpStream {
    let stream = TcpStream::connect((ip, port)).expect("let in by the kernel");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("written");
}

/// Everything until the end of the connection or its reset.
fn rest(stream: &mut TcpStream) -> String {
    let (mut received, mut bytes, begun) = (Vec::new(), [0; 4096], Instant::now());
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", begun.elapsed()),
        }
    }
    String::from_utf8(received).expect("text")
}

fn open_socket(ip: Ipv4Addr, port: u16) -> TcpStream {
    let mut client = connect(ip, port);
    send(&mut client, HANDSHAKE);
    let answer = head(&mut client, &mut Vec::new()).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    client
}

/// The timer of the connection from `local` to `remote` on loopback, in hundredths of a second, if it is the one that asks
/// for silent peers (`tr` 2 in proc_net_tcp).
fn keepalive_timer(table: &str, local: impl Fn(u16) -> bool, remote: impl Fn(u16) -> bool) -> Vec<Option<u64>> {
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let port = |address: &str| number(address.rsplit(':').next()?).and_then(|port| u16::try_from(port).ok());
    let mut timers = Vec::new();
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, from, to, "01", _, timer, ..] = words[..] else { continue };
        if port(from).is_some_and(&local) && port(to).is_some_and(&remote) {
            timers.push(timer.strip_prefix("02:").and_then(number));
        }
    }
    timers
}

#[test]
fn tcp_asks_for_silent_clients_and_endpoints() {
    for (keepalive, longest) in [("", Some(3000)), ("tcpKeepalive: 7s, ", Some(700)), ("tcpKeepalive: 0s, ", None)] {
        let (address, seen) = pod(Ipv4Addr::LOCALHOST);
        let settings = format!(
            "listeners: {{web: {{address: \"127.0.0.1:0\"}}}}\nadmin: 127.0.0.1:0\nworkers: 1\n\
             deadlines: {{{keepalive}upstreamIdle: 1h}}\n"
        );
        let gateway = Gateway::start(Command::new(env!("CARGO_BIN_EXE_tidegate")), address, &settings);
        // An upgraded connection, two that wait for their answers, and one that has had it.
        let _socket = open_socket(Ipv4Addr::LOCALHOST, gateway.http);
        socket(&seen);
        let mut waiting = [HOLD.to_owned(), HOLD.replace("h1.test", "h2.test")].map(|request| {
            let mut client = connect(Ipv4Addr::LOCALHOST, gateway.http);
            send(&mut client, &request);
            held(&seen);
            client
        });
        let mut idle = Client::connect(gateway.http);
        assert_eq!(idle.get("h1.test", "/").status, 200);
        // Timers of bytes under way give way to it once those are acknowledged.
        let until = Instant::now() + PATIENCE;
        loop {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
            let mut timers = keepalive_timer(&table, |local| local == gateway.http, |_| true);
            assert_eq!(timers.len(), 4, "clients");
            let endpoints = keepalive_timer(&table, |local| local != gateway.http, |remote| remote == address.port());
            assert_eq!(endpoints.len(), 4, "endpoints");
            timers.extend(endpoints);
            let as_told = timers.iter().all(|timer| match (timer, longest) {
                (Some(timer), Some(longest)) => *timer <= longest && *timer + 300 > longest,
                (timer, longest) => timer.is_none() && longest.is_none(),
            });
            if as_told {
                break;
            }
            assert!(Instant::now() < until, "{keepalive:?}: {timers:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        waiting.iter_mut().for_each(|client| client.shutdown(std::net::Shutdown::Both).expect("a socket"));
    }
}

/// A network namespace with two cables to this one: for clients and for pods.
struct Namespace {
    name: String,
    ip: PathBuf,
    cables: [Cable; 2],
}

#[derive(Clone)]
struct Cable {
    /// The name of this namespace's end.
    near: String,
    near_ip: Ipv4Addr,
    far_ip: Ipv4Addr,
}

impl Namespace {
    /// `None`, said in one line, where that cannot be made.
    fn new(number: u8) -> Option<Self> {
        let ip = program("ip")?;
        let uid = Command::new("id").arg("-u").output().expect("id runs").stdout;
        if uid.trim_ascii() != b"0" {
            skip("a network namespace needs root");
            return None;
        }
        let id = std::process::id() % 0x1000;
        let [high, low] = [(id >> 4) as u8, (id << 4) as u8 | number << 3];
        let cable = |side: u8| Cable {
            near: format!("tg{id:x}n{number}{side}"),
            near_ip: Ipv4Addr::new(10, 203, high, low | side << 2 | 1),
            far_ip: Ipv4Addr::new(10, 203, high, low | side << 2 | 2),
        };
        let made = Self { name: format!("tg{id:x}n{number}"), ip, cables: [cable(0), cable(1)] };
        made.run(&["netns", "add", &made.name]);
        made.run(&["-n", &made.name, "link", "set", "lo", "up"]);
        for Cable { near, near_ip, far_ip } in &made.cables {
            let far = format!("{near}f");
            made.run(&["link", "add", near, "type", "veth", "peer", "name", &far, "netns", &made.name]);
            made.run(&["addr", "add", &format!("{near_ip}/30"), "dev", near]);
            made.run(&["-n", &made.name, "addr", "add", &format!("{far_ip}/30"), "dev", &far]);
            made.run(&["-n", &made.name, "link", "set", &far, "up"]);
            made.run(&["link", "set", near, "up"]);
        }
        Some(made)
    }

    fn run(&self, args: &[&str]) {
        let output = Command::new(&self.ip).args(args).stdin(Stdio::null()).output().expect("ip runs");
        assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn gateway(&self, pod: SocketAddr) -> Gateway {
        let mut command = Command::new(&self.ip);
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_tidegate")]);
        let settings = "listeners: {web: {address: \"0.0.0.0:0\"}}\nadmin: 0.0.0.0:0\nworkers: 1\n\
                        deadlines: {tcpKeepalive: 1s, tcpUserTimeout: 3s, responseHead: 0s, upstreamIdle: 1h}\n";
        Gateway::start(command, pod, settings)
    }

    /// Nothing goes over this cable any more, and nobody is told.
    fn pull(&self, cable: &Cable) {
        self.run(&["link", "set", &cable.near, "down"]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for Cable { near, .. } in &self.cables {
            let _ = Command::new(&self.ip).args(["link", "del", near]).stderr(Stdio::null()).status();
        }
        let _ = Command::new(&self.ip).args(["netns", "del", &self.name]).status();
    }
}

/// A masked text frame (RFC 6455 §5.2), which goes through as it is.
const FRAME: &[u8] = b"\x81\x82\0\0\0\0hi";

#[test]
fn a_vanished_client_gives_up_what_it_holds() {
    let Some(namespace) = Namespace::new(0) else { return };
    let [clients, pods] = namespace.cables.clone();
    let (address, seen) = pod(pods.near_ip);
    let gateway = namespace.gateway(address);
    let metric = |line: &str| {
        let mut stream = connect(pods.far_ip, gateway.admin);
        send(&mut stream, "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let page = rest(&mut stream);
        page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse::<u64>().ok())
    };
    let _silent = open_socket(clients.far_ip, gateway.http);
    socket(&seen);
    let _receiving = open_socket(clients.far_ip, gateway.http);
    let mut to_receiving = socket(&seen);
    let mut waiting = connect(clients.far_ip, gateway.http);
    send(&mut waiting, HOLD);
    held(&seen);
    assert_eq!(metric("tidegate_sockets_open"), Some(2));
    namespace.pull(&clients);
    // Bytes under way: the system would send them again for a quarter of an hour.
    to_receiving.write_all(FRAME).expect("written");
    for _ in 0..2 {
        wait(&seen, |seen| matches!(seen, Seen::End).then_some(()));
    }
    let until = Instant::now() + PATIENCE;
    while metric("tidegate_sockets_open") != Some(0)
        || metric("tidegate_requests_in_flight") != Some(0)
        || metric("tidegate_connections_open{listener=\"web\"}") != Some(0)
    {
        assert!(Instant::now() < until, "a client that is gone keeps its place");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_vanished_endpoint_does_not_keep_its_clients() {
    let Some(namespace) = Namespace::new(1) else { return };
    let [clients, pods] = namespace.cables.clone();
    let (address, seen) = pod(pods.near_ip);
    let gateway = namespace.gateway(address);
    let mut silent = open_socket(clients.far_ip, gateway.http);
    socket(&seen);
    let mut sending = open_socket(clients.far_ip, gateway.http);
    socket(&seen);
    let mut waiting = [HOLD.to_owned(), HOLD.replace("h1.test", "h2.test")].map(|request| {
        let mut client = connect(clients.far_ip, gateway.http);
        send(&mut client, &request);
        held(&seen);
        client
    });
    let mut reading = connect(clients.far_ip, gateway.http);
    send(&mut reading, "GET /part HTTP/1.1\r\nhost: h1.test\r\n\r\n");
    head(&mut reading, &mut Vec::new()).expect("an answer");
    namespace.pull(&pods);
    sending.write_all(FRAME).expect("written");
    for client in &mut waiting {
        let answer = head(client, &mut Vec::new()).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    }
    rest(&mut reading);
    rest(&mut silent);
    rest(&mut sending);
}
