//! HTTP/2 to endpoints, with prior knowledge in clear text or over TLS: connections that exchanges share, driven by h2 itself: hyper's client
//! tells nothing of interim responses.
//!
//! An endpoint has one connection per worker as long as its streams have room there, then another beside it. Every
//! connection has more flow-control window than all its streams can hold, so that a client that does not read stops
//! nothing but its own stream. A connection that was silent while a stream waits for an answer is asked by PING, and
//! broken off when the endpoint does not answer that either.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::stream::Stream;
use bytes::Bytes;
use h2::client::{Builder, Connection};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use self::socket::{Http2Socket, Traffic};
use super::connect::{ConnectError, ConnectFailure, OpenConnection};
use super::task::poll_counted;
use crate::balance::EndpointState;
use crate::reason::Reason;
use crate::telemetry::metrics::{Side, Where, WorkerMetrics};

mod body;
mod response;
mod socket;
mod upload;

pub use self::body::RequestProgress;
pub use self::response::{ResponseBody, Sender, Sending, is_malformed};

/// Drives a connection.
type Driver = Connection<Http2Socket, Bytes>;

/// Bytes of a response that wait for the client: what one stream may cost.
const STREAM_WINDOW: u32 = 128 << 10;
/// Streams on one connection, also where the endpoint allows more.
const MOST_STREAMS: usize = 100;
/// More than all streams of a connection can hold together.
const CONNECTION_WINDOW: u32 = 2 * MOST_STREAMS as u32 * STREAM_WINDOW;
/// What h2 counts for small frames that wait for their clients, 256 for each less its bytes, before it ends the connection:
/// that much for 43 streams of 20 bytes a frame that are full. Their memory is about 40 MiB then.
const SMALL_FRAMES: usize = 64 << 20;
/// Streams that were taken back and are remembered, so that what still comes on them is no error: several times as many as
/// there can be.
const FORGOTTEN_STREAMS: usize = 10 * MOST_STREAMS;
/// Connections to one endpoint; beyond them, streams wait for room.
const MOST_CONNECTIONS: usize = 16;
/// Bytes buffered for sending per stream.
const SEND_BUFFER: usize = 32 << 10;
/// Response head, as the limit of HTTP/1.
const HEADER_LIST: u32 = 32 << 10;

/// How long an endpoint may be silent while a stream waits for its answer before it is asked by PING, and how long it has
/// to answer that.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A silence may have this many PINGs at this distance, then one at a time: gRPC servers end connections that send more
/// than two within five minutes without data ("too_many_pings").
const FREE_PINGS: u8 = 2;
const PING_INTERVAL: Duration = Duration::from_secs(330);

/// How long a connection is passed over after the endpoint refused a stream on it.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// One connection to an endpoint, shared by exchanges.
pub struct Http2Connection {
    /// Never sends itself: each exchange has a copy. `None` once it takes no more of them and has none.
    sender: RefCell<Option<Sender>>,
    /// `None` once it has ended.
    driver: Rc<RefCell<Option<Driver>>>,
    traffic: Rc<Traffic>,
    /// Exchanges on it now, and those of them that have no response head yet.
    streams: Cell<usize>,
    waiting: Cell<usize>,
    /// Since when there are some of the latter.
    waiting_since: Cell<Instant>,
    /// Exchanges it ever had.
    exchanges: Cell<u64>,
    /// When the last one ended.
    used: Cell<Instant>,
    /// The last PING, and the number of them since the last response head.
    pinged: Cell<Option<Ping>>,
    pings: Cell<u8>,
    /// The endpoint refused a stream: others go elsewhere until then.
    full_until: Cell<Option<Instant>>,
    /// Takes no new exchange any more.
    put_aside: Cell<bool>,
    endpoint: Arc<EndpointState>,
    /// Who waits for room on it.
    room: RefCell<Rc<StreamRoom>>,
}

/// Streams that wait for room on one worker's connections to an endpoint, because that may have no further one.
#[derive(Debug, Default)]
pub struct StreamRoom {
    notify: Notify,
    waiting: Cell<usize>,
}

impl StreamRoom {
    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Waits until there may be room: more may be told than can have it.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Counts one that waits; dropping it ends that.
    pub(super) fn enter(self: &Rc<Self>) -> InStreamRoom {
        self.waiting.set(self.waiting.get() + 1);
        InStreamRoom(Rc::clone(self))
    }
}

/// Counts a stream that waits for room.
#[derive(Debug)]
pub struct InStreamRoom(Rc<StreamRoom>);

impl Drop for InStreamRoom {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// A PING of ours.
#[derive(Clone, Copy, Debug)]
struct Ping {
    at: Instant,
    /// [`Traffic::reads`] then.
    reads: u64,
}

impl std::fmt::Debug for Http2Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Connection")
            .field("streams", &self.streams.get())
            .field("put_aside", &self.put_aside.get())
            .finish_non_exhaustive()
    }
}

impl Http2Connection {
    /// It takes no more exchanges: closed, about to be (GOAWAY), or put aside.
    fn is_over(&self) -> bool {
        self.put_aside.get() || self.is_closed()
    }

    /// It has ended, or the endpoint has said that it will (GOAWAY).
    fn is_closed(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.driver.borrow().is_none()
            || self
                .sender
                .borrow_mut()
                .as_mut()
                .is_none_or(|sender| matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_))))
    }

    /// Whether others wait for a connection to the endpoint, while it has as many as it may.
    fn is_awaited(&self) -> bool {
        self.endpoint.connections().is_awaited()
    }

    /// Takes no further exchange, and closes when those that it has are over.
    fn put_aside(&self) {
        self.put_aside.set(true);
        if self.streams.get() == 0 {
            // The last one: h2 closes what nobody can send on any more.
            self.sender.take();
        }
    }

    /// Another stream has room on it, as far as it is known.
    fn has_room(&self, now: Instant) -> bool {
        let driver = self.driver.borrow();
        let allowed = driver.as_ref().map_or(MOST_STREAMS, Driver::max_concurrent_send_streams);
        self.streams.get() < allowed.clamp(1, MOST_STREAMS)
            && self.full_until.get().is_none_or(|until| until <= now)
            && !self.is_silent()
    }

    /// A PING of ours has no answer yet.
    fn is_silent(&self) -> bool {
        self.pinged.get().is_some_and(|ping| ping.reads == self.traffic.reads())
    }

    /// Asks a silent endpoint whether it is there, and gives up one that does not say.
    fn probe(&self, now: Instant) {
        if self.waiting.get() == 0 {
            return;
        }
        let since = |ping: Ping| now.saturating_duration_since(ping.at);
        if let Some(ping) = self.pinged.get().filter(|_| self.is_silent()) {
            if since(ping) >= PING_TIMEOUT {
                self.put_aside.set(true);
                self.traffic.kill();
            }
            return;
        }
        let silent_since = self.traffic.heard().max(self.waiting_since.get());
        let is_allowed =
            self.pings.get() < FREE_PINGS || self.pinged.get().is_none_or(|ping| since(ping) >= PING_INTERVAL);
        if is_allowed && now.saturating_duration_since(silent_since) >= PING_AFTER {
            self.pings.set(self.pings.get().saturating_add(1));
            self.pinged.set(Some(Ping { at: now, reads: self.traffic.reads() }));
            self.traffic.ping();
        }
    }
}

/// One exchange's place on a connection, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    connection: Rc<Http2Connection>,
    /// [`Traffic::reads`] at its begin.
    reads: u64,
    /// There is no response head yet.
    waits: bool,
    /// The connection had carried an exchange before.
    pub reused: bool,
}

impl Lease {
    fn new(connection: Rc<Http2Connection>, now: Instant) -> Self {
        let reused = connection.exchanges.get() > 0;
        connection.exchanges.set(connection.exchanges.get() + 1);
        connection.streams.set(connection.streams.get() + 1);
        if connection.waiting.replace(connection.waiting.get() + 1) == 0 {
            connection.waiting_since.set(now);
        }
        let reads = connection.traffic.reads();
        Self { connection, reads, waits: true, reused }
    }

    /// Sends the exchange's request.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.connection.sender.borrow().clone().expect("a connection has its sender while it has exchanges")
    }

    /// Has the connection take no further exchange once it has carried so many.
    pub fn limit(&self, most: u32) {
        if self.connection.exchanges.get() >= most.into() {
            self.connection.put_aside.set(true);
        }
    }

    /// The response head is here.
    pub fn answered(&mut self) {
        self.connection.pings.set(0);
        self.stop_waiting();
    }

    /// The endpoint refused the stream although it did not say that the connection is full.
    pub fn refused(&self, now: Instant) {
        self.connection.full_until.set(Some(now + REFUSED_FOR));
    }

    /// No answer came in time. When nothing else came meanwhile either, the connection may be dead: others do not wait for
    /// it as well.
    pub fn timed_out(&self) {
        if self.connection.traffic.reads() == self.reads {
            self.connection.put_aside.set(true);
        }
    }

    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.connection.waiting.set(self.connection.waiting.get() - 1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_waiting();
        let connection = &self.connection;
        connection.streams.set(connection.streams.get() - 1);
        connection.used.set(Instant::now());
        let room = connection.room.borrow();
        if room.is_awaited() && !connection.put_aside.get() {
            room.notify.notify_one();
        } else if connection.streams.get() == 0 && (connection.put_aside.get() || connection.is_awaited()) {
            connection.put_aside();
        }
    }
}

/// How a connection attempt went, for each that waited for it.
type Outcome = Result<(), ConnectFailure>;

/// An endpoint's HTTP/2 connections.
#[derive(Debug, Default)]
pub struct Http2Slot {
    connections: Vec<Rc<Http2Connection>>,
    /// Those who wait for the next one; none when there is no attempt.
    waiters: Vec<oneshot::Sender<Outcome>>,
    room: Rc<StreamRoom>,
}

impl Http2Slot {
    /// A place on a connection that has room; where `crowds` allows it and there are too many of them, on the one with the
    /// fewest streams.
    pub fn lease(&mut self, now: Instant, crowds: bool) -> Option<Lease> {
        let usable = || self.connections.iter().filter(|connection| !connection.is_over());
        let connection = usable().find(|connection| connection.has_room(now)).or_else(|| {
            let is_most = crowds && usable().count() >= MOST_CONNECTIONS;
            usable().filter(|_| is_most).min_by_key(|connection| connection.streams.get())
        })?;
        Some(Lease::new(Rc::clone(connection), now))
    }

    /// Whether somebody waits for the next connection already; who waits first has to see to it.
    pub fn is_connecting(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Waits for the next connection.
    pub fn wait(&mut self) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.push(sender);
        receiver
    }

    /// Where streams wait for room.
    pub fn room(&self) -> &Rc<StreamRoom> {
        &self.room
    }

    /// Whether a stream could begin on a connection that is there or comes.
    pub fn has_way(&self, now: Instant) -> bool {
        self.is_connecting()
            || self.connections.iter().any(|connection| !connection.is_over() && connection.has_room(now))
    }

    /// Closes connections without streams while others wait for one.
    pub fn give_up_idle(&mut self) {
        self.connections.retain(|connection| {
            let goes = connection.streams.get() == 0 && connection.is_awaited();
            if goes {
                connection.put_aside();
            }
            !goes
        });
    }

    /// Lets the connection with the fewest streams end behind them, unless one is about to.
    pub fn give_up_one(&mut self) {
        let open = || self.connections.iter().filter(|connection| !connection.is_closed());
        if open().any(|connection| connection.put_aside.get()) {
            return;
        }
        if let Some(connection) = open().min_by_key(|connection| connection.streams.get()) {
            connection.put_aside();
        }
    }

    /// Ready when nobody waits any more; all who wait are then forgotten.
    pub fn poll_forsaken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiters.retain_mut(|waiter| waiter.poll_closed(cx).is_pending());
        if self.waiters.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Tells everybody who waits how it went.
    pub fn resolve(&mut self, result: Result<Http2Connection, ConnectError>) {
        // For one of them it was a connect of its own.
        let mut learned = false;
        for waiter in self.waiters.drain(..) {
            let outcome = result.as_ref().map(drop).map_err(|error| ConnectFailure { error: error.copy(), learned });
            // Those that were cancelled meanwhile do not listen any more.
            learned |= waiter.send(outcome).is_ok();
        }
        if let Ok(connection) = result {
            connection.room.replace(Rc::clone(&self.room));
            self.connections.push(Rc::new(connection));
            self.room.notify.notify_waiters();
        }
    }

    /// Forgets connections that are over or were not used for `idle`, and probes silent ones; returns how many were idle
    /// or over.
    pub fn sweep(&mut self, now: Instant, idle: Duration, metrics: &WorkerMetrics) -> usize {
        let before = self.connections.len();
        self.connections.retain(|connection| {
            connection.probe(now);
            // One with streams stays here as long as they need it, since it may have to be probed.
            if connection.streams.get() > 0 && !connection.is_closed() {
                return true;
            }
            if connection.is_over() {
                return false;
            }
            let stays = idle.is_zero() || now.saturating_duration_since(connection.used.get()) < idle;
            if !stays {
                metrics.closed(Side::Upstream, Reason::UpstreamIdle);
            }
            stays
        });
        before - self.connections.len()
    }

    /// Neither connected nor connecting.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.waiters.is_empty()
    }
}

/// Begins HTTP/2 on a connected socket; `open` counts it while it lives.
///
/// # Errors
/// When the preface cannot be written.
pub async fn handshake(stream: Stream, open: OpenConnection) -> Result<Http2Connection, ConnectError> {
    let now = Instant::now();
    let traffic = Traffic::new(now);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(MOST_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .data_frame_budget(SMALL_FRAMES)
        .max_concurrent_reset_streams(FORGOTTEN_STREAMS)
        // A bound for clients that provoke resets: it counts through the life of a connection.
        .max_local_error_reset_streams(None);
    let (sender, driver) = builder
        .handshake::<_, Bytes>(Http2Socket::new(stream, Rc::clone(&traffic), MOST_STREAMS))
        .await
        .map_err(|err| ConnectError::Failed(io::Error::other(err)))?;
    let driver = Rc::new(RefCell::new(Some(driver)));
    let endpoint = Arc::clone(open.endpoint());
    // Owned by the senders: the connection ends when the last one and the last stream are gone, or the endpoint closes.
    tokio::task::spawn_local({
        let (driver, metrics) = (Rc::clone(&driver), open.shared_metrics());
        async move {
            // Behind the socket: it is counted until that is closed.
            let _open = open;
            let result = poll_fn(|cx| match &mut *driver.borrow_mut() {
                Some(driver) => poll_counted(&metrics, Where::Connection, Pin::new(driver), cx),
                None => Poll::Ready(Some(Ok(()))),
            })
            .await;
            // Its end is what closes the senders, and a panic is one.
            driver.take();
            if let Some(Err(err)) = result {
                tracing::debug!(error = %err, "HTTP/2 connection to an endpoint ended");
            }
        }
    });
    Ok(Http2Connection {
        sender: RefCell::new(Some(sender)),
        driver,
        traffic,
        streams: Cell::new(0),
        waiting: Cell::new(0),
        waiting_since: Cell::new(now),
        exchanges: Cell::new(0),
        used: Cell::new(now),
        pinged: Cell::new(None),
        pings: Cell::new(0),
        full_until: Cell::new(None),
        put_aside: Cell::new(false),
        endpoint,
        room: RefCell::default(),
    })
}
