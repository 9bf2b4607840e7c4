//! The bed of the wire cases in `http1.json`: loader, recording backend, raw client, judge. The protocol is described in
//! the README beside that file.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// One step of the client.
#[derive(Clone, Debug)]
pub enum Step {
    Bytes(Vec<u8>),
    HalfClose,
}

/// One case of the file.
#[derive(Clone, Debug)]
pub struct Case {
    pub id: String,
    pub title: String,
    pub must: String,
    pub send: Vec<Step>,
    pub accept: Vec<Value>,
}

/// What the backend does for targets with a certain end.
#[derive(Clone, Debug)]
pub struct Script {
    target_ends_with: String,
    at_head: bool,
    steps: Vec<Value>,
}

/// The file.
#[derive(Clone, Debug)]
pub struct Cases {
    pub cases: Vec<Case>,
    pub scripts: Vec<Script>,
}

/// Loads the cases of `tests/data/wire-cases`.
pub fn load() -> Cases {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire-cases/http1.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file: Value = serde_json::from_str(&text).expect("the cases are JSON");
    assert_eq!(file["format"], 1);
    assert_eq!(file["host"], "a.test");
    let mut cases = Vec::new();
    let mut scripts = Vec::new();
    for case in file["cases"].as_array().expect("a list") {
        if let Some(backend) = case.get("backend") {
            scripts.push(Script {
                target_ends_with: string(&backend["target_ends_with"]),
                at_head: backend["when"] == "head",
                steps: backend["do"].as_array().expect("steps").clone(),
            });
        }
        cases.push(Case {
            id: string(&case["id"]),
            title: string(&case["title"]),
            must: string(&case["must"]),
            send: case["send"].as_array().expect("steps").iter().map(step).collect(),
            accept: case["accept"].as_array().expect("alternatives").clone(),
        });
    }
    Cases { cases, scripts }
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The bytes that a string of the file stands for (ISO 8859-1).
pub fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect()
}

fn step(step: &Value) -> Step {
    if step.get("half_close").is_some() {
        return Step::HalfClose;
    }
    let mut bytes = Vec::new();
    for part in step["bytes"].as_array().expect("parts") {
        match part {
            Value::String(text) => bytes.extend(latin1(text)),
            part => {
                let unit = latin1(part[0].as_str().expect("a string"));
                let times = usize::try_from(part[1].as_u64().expect("a count")).expect("fits");
                bytes.extend(unit.repeat(times));
            }
        }
    }
    assert_eq!(bytes.len() as u64, step["length"], "length of a step");
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, step["sha256"], "checksum of a step");
    Step::Bytes(bytes)
}

/// A request as the backend understood it.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub fields: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    pub body: Vec<u8>,
    pub trailers: Vec<u8>,
    pub complete: bool,
}

#[derive(Debug, Default)]
struct Record {
    requests: Vec<Recorded>,
    tunnel: Vec<Vec<u8>>,
}

/// The recording backend; its threads end with the process.
#[derive(Clone, Debug)]
pub struct Backend {
    pub address: SocketAddr,
    inner: Arc<BackendInner>,
}

#[derive(Debug)]
struct BackendInner {
    /// Number of the running case.
    case: AtomicU64,
    record: Mutex<Record>,
    /// The connections that were accepted, in their order.
    peers: Mutex<Vec<Accepted>>,
    scripts: Vec<Script>,
}

/// A connection as the one who waits for all of them sees it.
#[derive(Debug)]
struct Accepted {
    peer: SocketAddr,
    stream: TcpStream,
    /// Held from the first byte of a request until the request is recorded, and while bytes of a tunnel are read.
    recording: Arc<Mutex<()>>,
}

impl Accepted {
    /// Whether everything that came is in the record.
    fn is_recorded(&self) -> bool {
        let Ok(_held) = self.recording.try_lock() else { return false };
        rustix::io::ioctl_fionread(&self.stream).is_ok_and(|unread| unread == 0)
    }
}

impl BackendInner {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers(&self) -> MutexGuard<'_, Vec<Accepted>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend {
    pub fn start(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (record, peers) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(BackendInner { case: AtomicU64::new(0), record, peers, scripts });
        let backend = Self { address, inner: Arc::clone(&inner) };
        std::thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                let inner = Arc::clone(&inner);
                let recording = Arc::new(Mutex::new(()));
                let accepted =
                    Accepted { peer, stream: stream.try_clone().expect("a handle"), recording: Arc::clone(&recording) };
                inner.peers().push(accepted);
                std::thread::spawn(move || {
                    Peer { stream, buffer: Vec::new(), recording, inner: Arc::clone(&inner) }.run();
                    inner.peers().retain(|accepted| accepted.peer != peer);
                });
            }
        });
        backend
    }

    /// Begins a case with an empty record.
    fn begin(&self) {
        self.inner.case.fetch_add(1, Ordering::SeqCst);
        *self.inner.record() = Record::default();
    }

    fn take(&self) -> Record {
        std::mem::take(&mut *self.inner.record())
    }

    /// Waits until every byte that was sent to the backend is in its record.
    fn wait_until_recorded(&self) {
        // Connections are accepted in their order: where this one is known, all that came before are.
        let last = TcpStream::connect(self.address).expect("the backend accepts");
        let own = last.local_addr().expect("connected");
        until("the backend accepts", || self.inner.peers().iter().any(|accepted| accepted.peer == own));
        drop(last);
        until("the backend reads", || self.inner.peers().iter().all(Accepted::is_recorded));
    }
}

/// Waits for a condition.
#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// One connection to the backend.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    recording: Arc<Mutex<()>>,
    inner: Arc<BackendInner>,
}

impl Peer {
    fn run(mut self) {
        let _ = self.stream.set_nodelay(true);
        let recording = Arc::clone(&self.recording);
        loop {
            // Waits for the first byte of a request as long as the connection is kept, and leaves it where it is.
            let _ = self.stream.set_read_timeout(Some(Duration::from_secs(600)));
            if self.buffer.is_empty() && !self.stream.peek(&mut [0]).is_ok_and(|count| count > 0) {
                return;
            }
            let held = recording.lock().unwrap_or_else(PoisonError::into_inner);
            let case = self.inner.case.load(Ordering::SeqCst);
            let Some(head) = self.head() else { return };
            let mut request = parse_head(&head);
            let path = request.target.split(|&b| b == b'?').next().unwrap_or_default().to_vec();
            let script = self.inner.scripts.iter().find(|script| path.ends_with(script.target_ends_with.as_bytes()));
            let script = script.cloned();
            request.complete = script.as_ref().is_some_and(|script| script.at_head) || self.body(&mut request);
            let (complete, head_only) = (request.complete, request.method == b"HEAD");
            let key = request.fields.get(&b"sec-websocket-key"[..]).and_then(|values| values.first()).cloned();
            if self.inner.case.load(Ordering::SeqCst) == case {
                self.inner.record().requests.push(request);
            }
            if !complete {
                return;
            }
            let reads_on = |script: &Script| script.steps.iter().any(|step| step.get("read_tunnel_ms").is_some());
            let _held = script.as_ref().is_some_and(reads_on).then_some(held);
            let goes_on = match script {
                Some(script) => self.play(&script, key.as_deref(), case),
                None => {
                    let body: &[u8] = if head_only { b"" } else { b"ok" };
                    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", body].concat();
                    self.stream.write_all(&answer).is_ok()
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Reads once; false at the end of the connection or after `wait`.
    fn fill(&mut self, wait: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(wait));
        let mut bytes = [0; 16384];
        match self.stream.read(&mut bytes) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                true
            }
        }
    }

    fn head(&mut self) -> Option<Vec<u8>> {
        let until = Instant::now() + Duration::from_secs(6);
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 4);
                return Some(head);
            }
            let left = until.checked_duration_since(Instant::now())?;
            if left.is_zero() || !self.fill(left) {
                return None;
            }
        }
    }

    fn take(&mut self, count: usize, wait: Duration) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill(wait) {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.fill(Duration::from_secs(3)) {
                return None;
            }
        }
    }

    /// Reads the body as a careless server would; whether it is complete.
    fn body(&mut self, request: &mut Recorded) -> bool {
        const MOST: i128 = 10_000_000;
        if request.fields.contains_key(&b"transfer-encoding"[..]) {
            loop {
                let Some(line) = self.line() else { return false };
                let size = line.split(|&b| b == b';').next().unwrap_or_default().trim_ascii().to_vec();
                let Some(size) = lenient(&size, 16).or(if size.is_empty() { Some(0) } else { None }) else {
                    return false;
                };
                if !(0..=MOST).contains(&size) {
                    return false;
                }
                if size == 0 {
                    loop {
                        let Some(line) = self.line() else { return false };
                        if line.is_empty() {
                            return true;
                        }
                        request.trailers.extend_from_slice(&line);
                        request.trailers.push(b'\n');
                    }
                }
                let size = usize::try_from(size).expect("checked");
                let Some(data) = self.take(size, Duration::from_secs(3)) else { return false };
                request.body.extend(data);
                if self.take(2, Duration::from_secs(3)).is_none() {
                    return false;
                }
            }
        }
        let Some(length) = request.fields.get(&b"content-length"[..]).and_then(|values| values.first()) else {
            return true;
        };
        let length = lenient(length, 10).unwrap_or(0).max(0);
        let wait = if length > MOST { Duration::from_millis(1200) } else { Duration::from_secs(3) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match self.take(length, wait) {
            Some(body) => {
                request.body = body;
                true
            }
            None => false,
        }
    }

    /// Plays a script; whether the connection goes on.
    fn play(&mut self, script: &Script, key: Option<&[u8]>, case: u64) -> bool {
        for step in &script.steps {
            if let Some(text) = step.get("send") {
                let mut bytes = latin1(text.as_str().expect("a string"));
                if let Some(at) = find(&bytes, b"{accept}") {
                    // RFC 6455 §1.3: the key of the cases is the one of the RFC's example.
                    assert_eq!(key, Some(&b"dGhlIHNhbXBsZSBub25jZQ=="[..]), "the accept value is known for one key");
                    bytes.splice(at..at + 8, *b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                }
                if self.stream.write_all(&bytes).is_err() {
                    return false;
                }
            } else if let Some(wait) = step.get("read_tunnel_ms") {
                if self.buffer.is_empty() {
                    self.fill(Duration::from_millis(wait.as_u64().expect("a number")));
                }
                let bytes = std::mem::take(&mut self.buffer);
                if self.inner.case.load(Ordering::SeqCst) == case {
                    self.inner.record().tunnel.push(bytes);
                }
            } else if let Some(wait) = step.get("wait_ms") {
                std::thread::sleep(Duration::from_millis(wait.as_u64().expect("a number")));
            } else if step.get("close").is_some() {
                return false;
            }
        }
        true
    }
}

fn parse_head(head: &[u8]) -> Recorded {
    let mut request = Recorded::default();
    let text: Vec<&[u8]> = split(head, b"\r\n");
    let mut words = text.first().copied().unwrap_or_default().split(|&b| b == b' ');
    request.method = words.next().unwrap_or_default().to_vec();
    request.target = words.next().unwrap_or_default().to_vec();
    for line in text.iter().skip(1) {
        let colon = line.iter().position(|&b| b == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = trim_blanks(value).to_vec();
        request.fields.entry(line[..colon].to_ascii_lowercase()).or_default().push(value);
    }
    request
}

fn trim_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A number as careless parsers read it: sign, underscores, and `0x` in base 16.
fn lenient(text: &[u8], base: u32) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?.trim().replace('_', "");
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, &text[..]),
    };
    let digits = if base == 16 { digits.trim_start_matches("0x").trim_start_matches("0X") } else { digits };
    Some(sign * i128::from_str_radix(digits, base).ok()?)
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn split<'a>(bytes: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = find(rest, by) {
        parts.push(&rest[..at]);
        rest = &rest[at + by.len()..];
    }
    parts.push(rest);
    parts
}

/// How the client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every step at once.
    Whole,
    /// In single bytes 1 ms apart; in pieces of 64 bytes where a step is longer than 4 KiB.
    Bytes,
    /// Behind a plain request that is written with the first step.
    Behind,
    /// With a plain request written behind the last step.
    Ahead,
}

/// What was seen of a case.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub received: Vec<u8>,
    pub statuses: Vec<u64>,
    pub closed: bool,
    pub requests: Vec<Recorded>,
    pub tunnel: Vec<Vec<u8>>,
    pub peer: String,
}

/// What a case is put behind with [`Delivery::Behind`], or ahead of with [`Delivery::Ahead`].
const FIRST: &[u8] = b"GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n";

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    closed: bool,
}

impl Client {
    fn write(&mut self, bytes: &[u8], piecewise: bool) {
        let piece = match bytes.len() {
            len if !piecewise => len.max(1),
            0..=4096 => 1,
            _ => 64,
        };
        for part in bytes.chunks(piece) {
            if self.stream.write_all(part).is_err() {
                self.closed = true;
                return;
            }
            if piecewise {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Reads once; whether anything came.
    fn read(&mut self, wait: Duration) -> bool {
        if wait.is_zero() {
            return false;
        }
        let _ = self.stream.set_read_timeout(Some(wait));
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                return true;
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => self.closed = true,
        }
        false
    }
}

/// Runs one case. `open` says how many clients' connections the gateway has.
pub fn run(
    (gateway, open): (SocketAddr, impl Fn() -> usize),
    backend: &Backend,
    steps: &[Step],
    delivery: Delivery,
) -> Observation {
    backend.begin();
    let stream = TcpStream::connect(gateway).expect("the gateway accepts");
    stream.set_nodelay(true).expect("a socket");
    let peer = stream.local_addr().expect("connected").ip().to_canonical().to_string();
    let mut client = Client { stream, received: Vec::new(), closed: false };
    for (index, step) in steps.iter().enumerate() {
        if index > 0 {
            client.read(Duration::from_millis(250));
        }
        match step {
            Step::Bytes(bytes) if delivery == Delivery::Behind && index == 0 => {
                client.write(&[FIRST, bytes].concat(), false);
            }
            Step::Bytes(bytes) if delivery == Delivery::Ahead && index + 1 == steps.len() => {
                client.write(&[bytes, FIRST].concat(), false);
            }
            Step::Bytes(bytes) => client.write(bytes, delivery == Delivery::Bytes),
            Step::HalfClose => {
                if client.stream.shutdown(Shutdown::Write).is_err() {
                    client.closed = true;
                }
            }
        }
    }
    let end = Instant::now() + Duration::from_millis(1200);
    while !client.closed {
        let left = end.saturating_duration_since(Instant::now());
        let wait = if client.received.is_empty() { left } else { left.min(Duration::from_millis(350)) };
        if !client.read(wait) {
            break;
        }
    }
    let Client { stream, received, closed } = client;
    drop(stream);
    // What the gateway has not sent to the backend by then, it never will.
    until("the gateway leaves the connection", || open() == 0);
    backend.wait_until_recorded();
    let record = backend.take();
    let mut seen = Observation {
        statuses: statuses(&received),
        received,
        closed,
        requests: record.requests,
        tunnel: record.tunnel,
        peer,
    };
    if delivery == Delivery::Behind {
        take_first(&mut seen);
    }
    seen
}

/// Takes the answered first request off, or spoils the observation when it was not answered.
fn take_first(seen: &mut Observation) {
    let answered = seen.statuses.first() == Some(&200);
    let recorded = seen.requests.first().is_some_and(|request| request.target == b"/first" && request.complete);
    if !answered || !recorded {
        seen.statuses.insert(0, 999);
        return;
    }
    seen.statuses.remove(0);
    seen.requests.remove(0);
    let next = seen.received.get(5..).and_then(|rest| find(rest, b"HTTP/1.")).map_or(seen.received.len(), |at| at + 5);
    seen.received.drain(..next);
}

fn statuses(received: &[u8]) -> Vec<u64> {
    let pattern = regex::bytes::Regex::new(r"(?-u)HTTP/1\.[01] (\d{3,4})").expect("a pattern");
    pattern
        .captures_iter(received)
        .map(|found| std::str::from_utf8(&found[1]).expect("digits").parse().expect("a number"))
        .collect()
}

/// Whether an alternative of the case holds; else what was seen.
pub fn judge(case: &Case, seen: &Observation) -> Result<(), String> {
    if case.accept.iter().any(|alternative| {
        let conditions = alternative.as_object().expect("conditions");
        conditions.iter().all(|(name, wanted)| holds(name, wanted, seen))
    }) {
        return Ok(());
    }
    let mut text = format!("{} ({}): {}\n", case.id, case.title, case.must);
    text += &format!("  statuses {:?}, closed {}\n", seen.statuses, seen.closed);
    for request in &seen.requests {
        let fields: Vec<String> = request
            .fields
            .iter()
            .map(|(name, values)| {
                let values: Vec<_> = values.iter().map(|value| value.escape_ascii().to_string()).collect();
                format!("{}={values:?}", name.escape_ascii())
            })
            .collect();
        text += &format!(
            "  {} {} complete {}, body {} bytes, {}\n",
            request.method.escape_ascii(),
            request.target.escape_ascii(),
            request.complete,
            request.body.len(),
            fields.join(" ")
        );
    }
    Err(text)
}

fn numbers(value: &Value) -> Vec<u64> {
    value.as_array().expect("a list").iter().map(|it| it.as_u64().expect("a number")).collect()
}

fn strings(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().expect("a list").iter().map(|it| latin1(it.as_str().expect("a string"))).collect()
}

fn holds(name: &str, wanted: &Value, seen: &Observation) -> bool {
    let text = || latin1(wanted.as_str().expect("a string"));
    let lower = seen.received.to_ascii_lowercase();
    let contains = |needle: &Vec<u8>| find(&seen.received, needle).is_some();
    let contains_lower = |needle: &Vec<u8>| find(&lower, &needle.to_ascii_lowercase()).is_some();
    let complete: Vec<&Recorded> = seen.requests.iter().filter(|request| request.complete).collect();
    let request = complete.first().copied();
    let has = |name: &[u8]| request.is_some_and(|request| request.fields.contains_key(name));
    match name {
        "reject" => {
            let status = numbers(&wanted["status"]);
            seen.requests.is_empty()
                && matches!(seen.statuses[..], [one] if status.contains(&one))
                && (wanted["close"] != true || seen.closed)
        }
        "abort" => {
            complete.is_empty()
                && seen.closed
                && seen.statuses.first().is_none_or(|status| [400, 413, 431].contains(status))
        }
        "forward" => {
            let count = usize::try_from(wanted.as_u64().expect("a count")).expect("fits");
            let finals: Vec<u64> = seen.statuses.iter().copied().filter(|status| *status != 100).collect();
            finals == vec![200; count] && seen.requests.len() == count && complete.len() == count
        }
        "statuses" => seen.statuses == numbers(wanted),
        "first_status" => seen.statuses.first() == wanted.as_u64().as_ref(),
        "first_status_if_any" => seen.statuses.first().is_none_or(|status| Some(*status) == wanted.as_u64()),
        "at_most_one_100" => seen.statuses.iter().filter(|status| **status == 100).count() <= 1,
        "closed" => seen.closed == wanted.as_bool().expect("a bool"),
        "received_contains" => strings(wanted).iter().all(contains),
        "received_lacks" => !strings(wanted).iter().any(contains),
        "received_contains_any_case" => strings(wanted).iter().all(contains_lower),
        "received_lacks_any_case" => !strings(wanted).iter().any(contains_lower),
        "received_ends_with" => seen.received.ends_with(&text()),
        "response_incomplete" => is_incomplete(&seen.received),
        "complete_requests" => Some(complete.len() as u64) == wanted.as_u64(),
        "every_request_has" => {
            complete.iter().all(|request| strings(wanted).iter().all(|name| request.fields.contains_key(name)))
        }
        "tunnel_contains" => seen.tunnel.iter().any(|tunnel| find(tunnel, &text()).is_some()),
        "method" => request.is_some_and(|request| request.method == text()),
        "target" => request.is_some_and(|request| request.target == text()),
        "target_any_case" => request.is_some_and(|request| request.target.eq_ignore_ascii_case(&text())),
        "body" => request.is_some_and(|request| request.body == text()),
        "no_trailers" => request.is_some_and(|request| request.trailers.is_empty()),
        "fields" => wanted.as_object().expect("fields").iter().all(|(name, values)| {
            let values: Vec<Vec<u8>> = strings(values)
                .into_iter()
                .map(|value| if value == b"{peer}" { seen.peer.clone().into_bytes() } else { value })
                .collect();
            request.is_some_and(|request| request.fields.get(&latin1(name)) == Some(&values))
        }),
        "field_lines" => wanted.as_object().expect("fields").iter().all(|(name, count)| {
            let lines = request.map_or(0, |request| request.fields.get(&latin1(name)).map_or(0, Vec::len));
            request.is_some() && Some(lines as u64) == count.as_u64()
        }),
        "fields_present" => request.is_some() && strings(wanted).iter().all(|name| has(name)),
        "fields_absent" => request.is_some() && !strings(wanted).iter().any(|name| has(name)),
        "field_lacks" => wanted.as_object().expect("fields").iter().all(|(name, text)| {
            let needle = latin1(text.as_str().expect("a string"));
            request.is_some_and(|request| {
                let values = request.fields.get(&latin1(name));
                !values.is_some_and(|values| values.iter().any(|value| find(value, &needle).is_some()))
            })
        }),
        "fields_never_contain" => request.is_some_and(|request| {
            let parts: Vec<&Vec<u8>> =
                request.fields.iter().flat_map(|(name, values)| std::iter::once(name).chain(values)).collect();
            strings(wanted).iter().all(|needle| !parts.iter().any(|part| find(part, needle).is_some()))
        }),
        name => panic!("unknown condition {name}"),
    }
}

/// Whether a response is visibly cut.
fn is_incomplete(received: &[u8]) -> bool {
    let Some(end) = find(received, b"\r\n\r\n") else { return true };
    let head = received[..end].to_ascii_lowercase();
    let body = &received[end + 4..];
    if find(&head, b"transfer-encoding: chunked").is_some() {
        return !body.ends_with(b"0\r\n\r\n");
    }
    let length = find(&head, b"content-length: ").and_then(|at| {
        let digits: String =
            head[at + 16..].iter().take_while(|b| b.is_ascii_digit()).map(|&b| char::from(b)).collect();
        digits.parse::<usize>().ok()
    });
    length.is_some_and(|length| body.len() < length)
}

/// The loopback address of a family.
pub fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() }
}
