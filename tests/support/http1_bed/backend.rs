//! A backend that records what it gets, read as a careless server would.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cases::{Script, find, latin1};

/// Waits for a condition.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A request as the backend understood it.
#[derive(Clone, Default)]
pub struct Recorded {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub fields: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    pub body: Vec<u8>,
    pub trailers: Vec<u8>,
    pub complete: bool,
    /// The bytes that were taken for it.
    pub raw: Vec<u8>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\"{}\"", if self.complete { "" } else { "incomplete " }, self.raw.escape_ascii())
    }
}

#[derive(Debug, Default)]
pub struct Record {
    pub requests: Vec<Recorded>,
    pub tunnel: Vec<Vec<u8>>,
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
                    Peer { stream, buffer: Vec::new(), taken: Vec::new(), recording, inner: Arc::clone(&inner) }.run();
                    inner.peers().retain(|accepted| accepted.peer != peer);
                });
            }
        });
        backend
    }

    /// Begins a case with an empty record.
    pub fn begin(&self) {
        self.inner.case.fetch_add(1, Ordering::SeqCst);
        *self.inner.record() = Record::default();
    }

    pub fn take(&self) -> Record {
        std::mem::take(&mut *self.inner.record())
    }

    /// Waits until every byte that was sent to the backend is in its record.
    pub fn wait_until_recorded(&self) {
        // Connections are accepted in their order: where this one is known, all that came before are.
        let last = TcpStream::connect(self.address).expect("the backend accepts");
        let own = last.local_addr().expect("connected");
        until("the backend accepts", || self.inner.peers().iter().any(|accepted| accepted.peer == own));
        drop(last);
        until("the backend reads", || self.inner.peers().iter().all(Accepted::is_recorded));
    }
}

/// One connection to the backend.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What was taken out of the buffer for the request at hand.
    taken: Vec<u8>,
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
            request.raw = std::mem::take(&mut self.taken);
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

    /// Takes bytes off the front of the buffer.
    fn drain(&mut self, count: usize) -> Vec<u8> {
        let bytes: Vec<u8> = self.buffer.drain(..count).collect();
        self.taken.extend_from_slice(&bytes);
        bytes
    }

    fn head(&mut self) -> Option<Vec<u8>> {
        let until = Instant::now() + Duration::from_secs(6);
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let mut head = self.drain(end + 4);
                head.truncate(end);
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
        Some(self.drain(count))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let mut line = self.drain(end + 2);
                line.truncate(end);
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
