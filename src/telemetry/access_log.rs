//! The access log: one JSON object a line for each request and each relayed connection, its fields in [`ACCESS_LOG`](super::ACCESS_LOG).
//!
//! Workers collect entries in batches and hand them over without ever waiting; a thread of the control half serialises
//! and writes. When it falls behind, lines are dropped and counted: a blocked pipe or a full disk costs lines, not
//! requests.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::metrics::{GrpcCode, Metrics, RetryTrigger, SessionResult};
use crate::reason::Reason;

/// Entries that each worker collects before it hands them over.
const BATCH: usize = 64;
/// Batches that may wait for the writer: with 64 entries each some 16,000 lines.
const QUEUE: usize = 256;
/// A text field is cut at this many bytes.
const MAX_FIELD: usize = 1 << 10;

/// The Service port that a request went to.
#[derive(Clone, Debug)]
pub struct BackendText {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
    /// Its port.
    pub port: u16,
}

/// Which part a request had in a call that requests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlightRole {
    /// It began the call.
    Led,
    /// It got the answer of a call that another one had begun.
    Joined,
}

impl FlightRole {
    /// As in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Led => "led",
            Self::Joined => "joined",
        }
    }
}

/// A try that another one followed.
#[derive(Clone, Copy, Debug)]
pub struct TryText {
    /// Where the request was sent, or should have been.
    pub endpoint: SocketAddr,
    /// Why another try followed.
    pub trigger: RetryTrigger,
    /// How long it took.
    pub took: Duration,
}

/// What is logged of one request.
#[derive(Clone, Debug)]
pub struct AccessLogEntry {
    /// When the request's head was complete.
    pub time: SystemTime,
    /// The client, after trusted forwarders.
    pub client: IpAddr,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// Name of the listener.
    pub listener: Arc<str>,
    /// The request line; `None` when the head was refused unread.
    pub request: Option<RequestLine>,
    /// Host as matched.
    pub host: Option<Box<str>>,
    /// Status that the client got; 499 when it went away before one; 0 where there is none, since it does not speak HTTP.
    pub status: u16,
    /// How it ended, when it is a gRPC call.
    pub grpc_status: Option<GrpcCode>,
    /// Why tidegate answered, refused or cut the exchange itself.
    pub reason: Option<Reason>,
    /// Who the client is, as a filter has found out.
    pub user: Option<Arc<str>>,
    /// `namespace/name` of the route.
    pub route: Option<Arc<str>>,
    /// Name or index of the rule.
    pub rule: Option<Arc<str>>,
    /// The Service.
    pub backend: Option<BackendText>,
    /// The endpoint of the last try.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint's pod.
    pub pod: Option<Arc<str>>,
    /// How often the request was sent to an endpoint, or should have been.
    pub attempts: u32,
    /// Those that another one followed.
    pub tries: Vec<TryText>,
    /// What became of the client's session, where the rule has them and an endpoint answered.
    pub session: Option<SessionResult>,
    /// The limit that has refused the request, or would have.
    pub limit: Option<LimitText>,
    /// Its part in a call that requests share.
    pub flight: Option<FlightRole>,
    /// The content coding that tidegate gave the answer.
    pub coding: Option<&'static str>,
    /// Body bytes from the client; of what is relayed or upgraded, all.
    pub bytes_in: u64,
    /// The same to the client.
    pub bytes_out: u64,
    /// From head to the end of the response.
    pub duration: Duration,
    /// How long it waited for a permit or for an endpoint with room, when it did.
    pub waited: Option<Duration>,
    /// What connecting took, when a connection was made.
    pub connect: Option<Duration>,
    /// From the last try's begin to the endpoint's response head.
    pub head: Option<Duration>,
    /// The request id that goes upstream.
    pub request_id: Option<Box<str>>,
    /// What the client's handshake has agreed on; `None`: it came without TLS.
    pub tls: Option<Arc<TlsText>>,
}

/// What a client's handshake has agreed on, the same for all requests of its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsText {
    /// The version, as `TLSv1_3`.
    pub version: &'static str,
    /// The server name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The subject of its certificate, when it has shown a valid one.
    pub client_subject: Option<Box<str>>,
}

impl AccessLogEntry {
    /// A line of which nothing more is known yet.
    #[must_use]
    pub fn new(listener: Arc<str>, client: IpAddr, peer: SocketAddr, request: Option<RequestLine>) -> Self {
        Self {
            time: SystemTime::now(),
            client,
            peer,
            listener,
            request,
            host: None,
            status: 0,
            grpc_status: None,
            reason: None,
            user: None,
            route: None,
            rule: None,
            backend: None,
            endpoint: None,
            pod: None,
            attempts: 0,
            tries: Vec::new(),
            session: None,
            limit: None,
            flight: None,
            coding: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            waited: None,
            connect: None,
            head: None,
            request_id: None,
            tls: None,
        }
    }
}

/// A limit of a route, and what it has decided against a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitText {
    /// Its filter and its place, as the labels of `tidegate_limit_decisions_total` have them.
    pub name: Box<str>,
    /// The decision, as there.
    pub decision: &'static str,
}

/// What the first line of a request says.
#[derive(Clone, Debug)]
pub struct RequestLine {
    /// The method.
    pub method: http::Method,
    /// The target as received; its query is not logged.
    pub target: http::Uri,
    /// Protocol of the client.
    pub protocol: http::Version,
}

impl RequestLine {
    /// The request line of `request`.
    #[must_use]
    pub fn of<B>(request: &http::Request<B>) -> Self {
        let (method, target) = (request.method().clone(), request.uri().clone());
        Self { method, target, protocol: request.version() }
    }
}

/// A try in a line.
#[derive(Serialize)]
struct TryLine {
    endpoint: SocketAddr,
    trigger: &'static str,
    seconds: f64,
}

/// A line as serialised. The order of the fields is the order in the line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    listener: &'a str,
    client: IpAddr,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_client_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    attempts: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tries: Vec<TryLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coalesced: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coding: Option<&'static str>,
    received_bytes: u64,
    sent_bytes: u64,
    duration_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_seconds: Option<f64>,
}

impl From<&TryText> for TryLine {
    fn from(text: &TryText) -> Self {
        Self { endpoint: text.endpoint, trigger: text.trigger.as_str(), seconds: seconds(text.took) }
    }
}

impl<'a> Line<'a> {
    fn new(entry: &'a AccessLogEntry) -> Self {
        let request = entry.request.as_ref();
        let tls = entry.tls.as_deref();
        Self {
            time: jiff::Timestamp::try_from(entry.time).map_or_else(|_| String::new(), |time| format!("{time:.3}")),
            request_id: entry.request_id.as_deref().map(cut),
            listener: cut(&entry.listener),
            client: entry.client,
            peer: entry.peer,
            protocol: request.map(|line| protocol(line.protocol)),
            tls_version: tls.map(|tls| tls.version),
            tls_server_name: tls.and_then(|tls| tls.server_name.as_deref()).map(cut),
            tls_client_subject: tls.and_then(|tls| tls.client_subject.as_deref()).map(cut),
            method: request.map(|line| cut(line.method.as_str())),
            host: entry.host.as_deref().map(cut),
            path: request.map(|line| cut(line.target.path())),
            status: (entry.status != 0).then_some(entry.status),
            grpc_status: entry.grpc_status.map(GrpcCode::as_str),
            reason: entry.reason.map(Reason::as_str),
            user: entry.user.as_deref().map(cut),
            route: entry.route.as_deref().map(cut),
            rule: entry.rule.as_deref().map(cut),
            backend: entry.backend.as_ref().map(|to| format!("{}/{}:{}", to.namespace, to.name, to.port)),
            endpoint: entry.endpoint,
            pod: entry.pod.as_deref().map(cut),
            attempts: entry.attempts,
            tries: entry.tries.iter().map(TryLine::from).collect(),
            session: entry.session.map(SessionResult::as_str),
            limit: entry.limit.as_ref().map(|limit| cut(&limit.name)),
            limit_decision: entry.limit.as_ref().map(|limit| limit.decision),
            coalesced: entry.flight.map(FlightRole::as_str),
            coding: entry.coding,
            received_bytes: entry.bytes_in,
            sent_bytes: entry.bytes_out,
            duration_seconds: seconds(entry.duration),
            wait_seconds: entry.waited.map(seconds),
            connect_seconds: entry.connect.map(seconds),
            upstream_seconds: entry.head.map(seconds),
        }
    }
}

/// Seconds, to the microsecond.
fn seconds(duration: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2^52 µs are 142 years")]
    let micros = duration.as_micros() as f64;
    micros / 1e6
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_11 => "HTTP/1.1",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "other",
    }
}

/// The longest start of a text that fits a field.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_FIELD)]
}

/// Writes compact JSON in which nothing can disturb a terminal: control and bidirectional characters are escaped, too.
struct PlainFormatter;

impl Formatter for PlainFormatter {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut written = 0;
        for (at, c) in fragment.char_indices().filter(|&(_, c)| must_escape(c)) {
            CompactFormatter.write_string_fragment(writer, &fragment[written..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            written = at + c.len_utf8();
        }
        CompactFormatter.write_string_fragment(writer, &fragment[written..])
    }
}

/// DEL and C1 controls (JSON escapes only C0), line separators, and what changes the direction of text.
///
/// All below U+10000, so that one escape is enough.
fn must_escape(c: char) -> bool {
    let control = matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}');
    let direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    control || direction
}

/// Appends the line of an entry.
fn write_line(out: &mut Vec<u8>, entry: &AccessLogEntry) {
    let start = out.len();
    let mut serializer = serde_json::Serializer::with_formatter(&mut *out, PlainFormatter);
    match Line::new(entry).serialize(&mut serializer) {
        Ok(()) => out.push(b'\n'),
        // Plain numbers and texts into memory; half a line would be worse than none.
        Err(_) => out.truncate(start),
    }
}

/// Counts lines that were lost.
#[derive(Debug)]
struct Drops {
    count: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Drops {
    fn add(&self, lines: u64) {
        self.count.fetch_add(lines, Ordering::Relaxed);
        self.metrics.access_log_dropped(lines);
    }
}

/// A worker's end: collects entries and never waits.
#[derive(Debug)]
pub struct AccessLogSender {
    queue: SyncSender<Vec<AccessLogEntry>>,
    batch: RefCell<Vec<AccessLogEntry>>,
    drops: Arc<Drops>,
}

/// Makes worker's ends; lives in the control half.
#[derive(Clone, Debug)]
pub struct AccessLogHandle {
    queue: SyncSender<Vec<AccessLogEntry>>,
    drops: Arc<Drops>,
    reopen: Arc<AtomicBool>,
}

impl AccessLogHandle {
    /// Makes the end of one worker.
    #[must_use]
    pub fn sender(&self) -> AccessLogSender {
        AccessLogSender { queue: self.queue.clone(), batch: RefCell::default(), drops: Arc::clone(&self.drops) }
    }

    /// Lines lost since the start, because the queue was full or writing failed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.count.load(Ordering::Relaxed)
    }

    /// Opens the file anew, after it was moved away.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // Wakes the writer; when the queue is full it is awake.
        let _ = self.queue.try_send(Vec::new());
    }
}

impl AccessLogSender {
    /// Adds an entry; hands the batch over when it is full.
    pub fn push(&self, entry: AccessLogEntry) {
        let mut batch = self.batch.borrow_mut();
        batch.push(entry);
        if batch.len() >= BATCH {
            self.hand_over(&mut batch);
        }
    }

    /// Hands over what was collected; called by the worker's clock.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if !batch.is_empty() {
            self.hand_over(&mut batch);
        }
    }

    fn hand_over(&self, batch: &mut Vec<AccessLogEntry>) {
        let full = std::mem::replace(batch, Vec::with_capacity(BATCH));
        let count = full.len() as u64;
        if self.queue.try_send(full).is_err() {
            self.drops.add(count);
        }
    }
}

impl Drop for AccessLogSender {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Where lines go.
#[derive(Debug)]
pub enum AccessLogOutput {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// The writer's thread.
#[derive(Debug)]
pub struct AccessLogWriter {
    thread: JoinHandle<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl AccessLogWriter {
    /// Waits until every entry was written, but not for longer than `longest`; all handles and senders must be gone, or this
    /// waits for them. `false` when whoever reads the log does not take it: the thread is left behind then.
    #[must_use]
    pub fn join_within(self, longest: Duration) -> bool {
        if self.ended.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
            return false;
        }
        // A panic of the writer was reported by the panic hook; there is nothing left to save.
        let _ = self.thread.join();
        true
    }
}

/// Starts the writer's thread.
///
/// # Errors
/// When the file cannot be opened or the thread not be started.
pub fn start(output: AccessLogOutput, metrics: Arc<Metrics>) -> io::Result<(AccessLogHandle, AccessLogWriter)> {
    let sink = match output {
        AccessLogOutput::Stdout => Sink::Stdout,
        AccessLogOutput::File(path) => Sink::File(open(&path)?, path),
    };
    start_with(sink, QUEUE, metrics)
}

fn start_with(mut sink: Sink, queue: usize, metrics: Arc<Metrics>) -> io::Result<(AccessLogHandle, AccessLogWriter)> {
    let (sender, receiver) = sync_channel(queue);
    let drops = Arc::new(Drops { count: AtomicU64::new(0), metrics });
    let reopen = Arc::new(AtomicBool::new(false));
    let handle = AccessLogHandle { queue: sender, drops: Arc::clone(&drops), reopen: Arc::clone(&reopen) };
    let (ends, ended) = sync_channel(0);
    let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
        let _ends: SyncSender<()> = ends;
        write_all(&receiver, &mut sink, &drops, &reopen);
    })?;
    Ok((handle, AccessLogWriter { thread, ended }))
}

enum Sink {
    Stdout,
    File(File, PathBuf),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File(file, _) => file.write_all(lines),
            #[cfg(test)]
            Self::Test(writer) => writer.write_all(lines),
        }
    }

    fn reopen(&mut self) {
        if let Self::File(file, path) = self {
            match open(path) {
                Ok(new) => *file = new,
                Err(err) => tracing::warn!(path = %path.display(), error = %err, "access log not reopened"),
            }
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(receiver: &Receiver<Vec<AccessLogEntry>>, sink: &mut Sink, drops: &Drops, reopen: &AtomicBool) {
    let mut lines = Vec::new();
    let mut failing = false;
    while let Ok(batch) = receiver.recv() {
        if reopen.swap(false, Ordering::Acquire) {
            sink.reopen();
        }
        lines.clear();
        for entry in &batch {
            write_line(&mut lines, entry);
        }
        match sink.write(&lines) {
            Ok(()) => failing = false,
            Err(err) => {
                drops.add(batch.len() as u64);
                // Once per spell of failures: a full disk must not fill the other log.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %err, "access log cannot be written, lines are dropped");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
