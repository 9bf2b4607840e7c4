//! Connections to endpoints: one worker's pools, connecting, and the HTTP/2 connections that exchanges share.
//!
//! A pool holds bare sockets, last in first out, so that a quiet endpoint keeps few. An endpoint that left every
//! snapshot leaves no trace once its idle connections have run out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::stream::{Liveness, Stream, TcpTimeouts};
use rustc_hash::FxHashMap;
use rustix::io::Errno;
use tokio::time::Instant;

use super::asked::AskedPool;
use super::bad_response::BadResponses;
use super::connect::{ConnectError, OpenConnection, connect_to};
use super::room::WorkerRoom;
use super::task::poll_counted;
use super::upstream_http2::{self, Http2Connection, Http2Slot, Lease, StreamRoom};
use crate::balance::{Connected, ConnectionPool, EndpointState};
use crate::http1::client::Connection;
use crate::reason::Reason;
use crate::telemetry::metrics::{ConnectResult, Side, Where, WorkerMetrics};

/// Bounds of the pools.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// How long a connection may be idle; zero: no limit.
    pub idle: Duration,
    /// Idle connections kept per endpoint.
    pub per_endpoint: usize,
    /// When TCP gives up an endpoint that has vanished.
    pub tcp: TcpTimeouts,
}

/// A connection that is counted as open for as long as it lives.
#[derive(Debug)]
pub struct Pooled {
    connection: Box<Connection>,
    /// Behind the connection: it is counted until its socket is closed.
    open: OpenConnection,
    /// Requests that it was used for.
    requests: u32,
    /// It carries no further one.
    is_last: bool,
}

impl Pooled {
    /// Takes over a connected socket.
    #[must_use]
    pub fn new(stream: Stream, metrics: Arc<WorkerMetrics>, place: Connected) -> Self {
        let open = OpenConnection::new(metrics, place);
        Self { connection: Connection::new(stream), open, requests: 0, is_last: false }
    }

    /// Whether a rule whose connections carry so many requests may use it for one more.
    pub(super) fn has_room(&self, most: Option<u32>) -> bool {
        most.is_none_or(|most| self.requests < most)
    }

    /// Counts a request of such a rule.
    pub(super) fn count_request(&mut self, most: Option<u32>) {
        self.requests = self.requests.saturating_add(1);
        self.is_last |= !self.has_room(most);
    }

    /// Whether it may carry another request, as far as rules say.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Ends HTTP on the connection behind a `101`: the socket, the bytes behind the head, and what counts it as open.
    #[must_use]
    pub fn into_tunnel(self) -> (Stream, bytes::Bytes, OpenConnection) {
        let (stream, glued) = self.connection.into_tunnel();
        (stream, glued, self.open)
    }
}

impl std::ops::Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl std::ops::DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// What one worker keeps for one endpoint.
#[derive(Debug)]
struct EndpointPool {
    /// Keeps the address that the map is keyed by from being reused.
    endpoint: Arc<EndpointState>,
    /// Idle HTTP/1 connections, the longest idle first. Each may have a limit of its own.
    idle: VecDeque<Pooled>,
    http2: Http2Slot,
    /// The fallback address worked last when the preferred one did not.
    use_fallback: bool,
    /// How the endpoint asks for connections that are idle.
    asked: Arc<dyn ConnectionPool>,
}

/// What a stream of HTTP/2 may have a connection opened for.
#[derive(Debug)]
pub enum Opening {
    /// As many as there need to be.
    Any,
    /// Where the endpoint has fewer than so many, over all workers; for one that has not waited, nobody else may be
    /// waiting.
    Below {
        /// The bound.
        most: u32,
        /// It has waited.
        has_waited: bool,
    },
    /// A place that was waited for.
    With(Connected),
}

/// Why there is no place on an HTTP/2 connection.
#[derive(Debug)]
pub enum NoLease {
    /// None could be made.
    Failed(ConnectError),
    /// None has room, and the endpoint has as many as it may.
    AtLimit,
}

impl From<ConnectError> for NoLease {
    fn from(error: ConnectError) -> Self {
        Self::Failed(error)
    }
}

/// One worker's connections to all endpoints.
#[derive(Debug)]
pub struct Pools {
    limits: PoolLimits,
    metrics: Arc<WorkerMetrics>,
    bad_responses: BadResponses,
    /// Whom to ask when file descriptors are short.
    room: Rc<WorkerRoom>,
    /// What others ask for.
    asked: Arc<AskedPool>,
    /// Keyed by the address of the endpoint's state, which is unique while the entry holds it.
    entries: RefCell<FxHashMap<usize, EndpointPool>>,
}

fn key(endpoint: &Arc<EndpointState>) -> usize {
    Arc::as_ptr(endpoint).addr()
}

impl Pools {
    /// Makes empty pools.
    #[must_use]
    pub fn new(limits: PoolLimits, metrics: Arc<WorkerMetrics>, room: Rc<WorkerRoom>) -> Self {
        let bad_responses = BadResponses::new(Arc::clone(&metrics));
        Self { limits, metrics, bad_responses, room, asked: Arc::default(), entries: RefCell::default() }
    }

    /// Where malformed answers are noted.
    pub(super) fn bad_responses(&self) -> &BadResponses {
        &self.bad_responses
    }

    /// Takes the youngest idle connection that is still alive; dead and overdue ones on the way are closed.
    pub fn pop(&self, endpoint: &Arc<EndpointState>, now: Instant, cx: &mut Context<'_>) -> Option<Pooled> {
        let mut entries = self.entries.borrow_mut();
        let idle = &mut entries.get_mut(&key(endpoint))?.idle;
        while let Some(mut connection) = idle.pop_back() {
            if self.ends_idle(&connection, now) {
                continue;
            }
            match connection.poll_liveness(cx) {
                Liveness::Watched | Liveness::Silent => {
                    connection.set_idle(None);
                    return Some(connection);
                }
                Liveness::Unasked => self.bad_responses.lost(endpoint, "bytes came that no request has asked for"),
                Liveness::Closed => {}
            }
        }
        None
    }

    /// Puts a connection aside; the longest idle one makes room when the endpoint has too many.
    pub fn push(&self, endpoint: &Arc<EndpointState>, mut connection: Pooled, now: Instant) {
        // One that somebody waits for is closed, which gives its place to the first of them.
        if self.limits.per_endpoint == 0 || endpoint.connections().is_awaited() {
            return;
        }
        connection.set_idle(Some(now));
        let mut entries = self.entries.borrow_mut();
        let idle = &mut self.entry(&mut entries, endpoint).idle;
        if idle.len() >= self.limits.per_endpoint {
            idle.pop_front();
        }
        idle.push_back(connection);
    }

    /// Closes connections that were idle for too long, or that others wait for, and forgets endpoints without any; returns how
    /// many were idle for too long.
    pub fn sweep(&self, now: Instant) -> usize {
        let mut closed = 0;
        self.entries.borrow_mut().retain(|_, entry| {
            let before = entry.idle.len();
            entry.idle.retain(|connection| !self.ends_idle(connection, now));
            closed += before - entry.idle.len();
            closed += entry.http2.sweep(now, self.limits.idle, &self.metrics);
            if entry.endpoint.connections().is_awaited() {
                entry.give_up_idle();
                // Those that many requests share may never be idle: they go round among the workers.
                if entry.endpoint.connections().is_awaited_by_one_without() {
                    entry.http2.give_up_one();
                }
            }
            !entry.idle.is_empty() || !entry.http2.is_empty()
        });
        closed
    }

    /// Closes idle connections that other workers ask for, as soon as they do. Runs until it is dropped.
    pub(super) async fn answer_others(&self) {
        loop {
            let asked = self.asked.next().await;
            let entries = &mut *self.entries.borrow_mut();
            asked.iter().filter_map(|name| entries.get_mut(name).map(EndpointPool::give_up_idle)).for_each(drop);
        }
    }

    /// Whether a stream to the endpoint could begin without waiting for others, where it may have `most` connections.
    pub(super) fn has_way(&self, endpoint: &Arc<EndpointState>, most: u32) -> bool {
        let entries = self.entries.borrow();
        let is_open = entries.get(&key(endpoint)).is_some_and(|entry| entry.http2.has_way(Instant::now()));
        is_open || endpoint.connections().open() < most
    }

    /// Whether this worker has an HTTP/2 connection to the endpoint.
    pub(super) fn has_http2(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.entries.borrow().get(&key(endpoint)).is_some_and(|entry| !entry.http2.is_empty())
    }

    /// Where streams wait for room on the endpoint's connections of this worker.
    pub(super) fn stream_room(&self, endpoint: &Arc<EndpointState>) -> Rc<StreamRoom> {
        Rc::clone(self.entry(&mut self.entries.borrow_mut(), endpoint).http2.room())
    }

    /// Closes every idle connection, for the end of a drain.
    pub fn clear(&self) {
        self.entries.borrow_mut().clear();
    }

    /// Idle HTTP/1 connections over all endpoints.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.entries.borrow().values().map(|entry| entry.idle.len()).sum()
    }

    /// Connects to an endpoint's preferred address, then to its fallback, each within `timeout`, both before `deadline`.
    ///
    /// # Errors
    /// The last attempt's failure.
    pub async fn connect(
        &self,
        endpoint: &Arc<EndpointState>,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Stream, ConnectError> {
        self.connect_within(endpoint, [timeout; 2], deadline).await
    }

    /// As [`connect`](Self::connect), with a timeout of its own for the last address.
    async fn connect_within(
        &self,
        endpoint: &Arc<EndpointState>,
        [before_last, last]: [Duration; 2],
        deadline: Option<Instant>,
    ) -> Result<Stream, ConnectError> {
        let preferred = endpoint.key.addr;
        let Some(fallback) = endpoint.fallback() else {
            return self.connect_one(preferred, last, deadline).await;
        };
        let use_fallback = self.entries.borrow().get(&key(endpoint)).is_some_and(|entry| entry.use_fallback);
        let (first, second) = if use_fallback { (fallback, preferred) } else { (preferred, fallback) };
        if let Ok(stream) = self.connect_one(first, before_last, deadline).await {
            return Ok(stream);
        }
        let stream = self.connect_one(second, last, deadline).await?;
        self.entry(&mut self.entries.borrow_mut(), endpoint).use_fallback = !use_fallback;
        Ok(stream)
    }

    /// Gives a place on one of the endpoint's HTTP/2 connections, connecting when none has room and `opening` allows it. Each
    /// address gets `timeout`, and all of it ends at `deadline`.
    ///
    /// # Errors
    /// The connection attempt's failure; everybody who waited for it gets one. `TimedOut` is everybody's own.
    pub async fn http2(
        self: &Rc<Self>,
        endpoint: &Arc<EndpointState>,
        mut opening: Opening,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Lease, NoLease> {
        let began = Instant::now();
        let mut until = deadline;
        loop {
            let waiting = {
                let mut entries = self.entries.borrow_mut();
                let slot = &mut self.entry(&mut entries, endpoint).http2;
                let now = Instant::now();
                let lease = match &opening {
                    Opening::Any => slot.lease(now, true),
                    Opening::Below { has_waited: false, .. } if slot.room().is_awaited() => None,
                    Opening::Below { .. } | Opening::With(_) => slot.lease(now, false),
                };
                if let Some(lease) = lease {
                    return Ok(lease);
                }
                if !slot.is_connecting() {
                    let place = match opening {
                        Opening::Any => Connected::new(endpoint),
                        Opening::Below { most, .. } => Connected::try_new(endpoint, most).ok_or(NoLease::AtLimit)?,
                        Opening::With(place) => {
                            // Used once; when others were quicker to take all of it, it is waited for again.
                            opening = Opening::Below { most: 0, has_waited: true };
                            place
                        }
                    };
                    self.begin_http2(endpoint, place, timeout);
                }
                slot.wait()
            };
            if !timeout.is_zero() && until == deadline {
                let addresses = 1 + u32::from(endpoint.fallback().is_some());
                until = deadline.into_iter().chain([began + timeout * addresses]).min();
            }
            let outcome = match until {
                Some(until) => tokio::time::timeout_at(until, waiting).await.map_err(|_| ConnectError::TimedOut)?,
                None => waiting.await,
            };
            outcome.unwrap_or_else(|_| Err(ConnectError::Failed(io::ErrorKind::ConnectionAborted.into())))?;
        }
    }

    /// Makes a connection for all that wait for one; `timeout` is how long a preferred address is tried before its
    /// fallback.
    fn begin_http2(self: &Rc<Self>, endpoint: &Arc<EndpointState>, place: Connected, timeout: Duration) {
        let (pools, endpoint) = (Rc::clone(self), Arc::clone(endpoint));
        // Owned by nobody: it ends with the last that waits for it. Cancelling the request that happened to come first must
        // not fail those that came after it, nor may its timeout.
        tokio::task::spawn_local(async move {
            let made = {
                let mut connecting = pin!(pools.make_http2(&endpoint, place, timeout));
                poll_fn(|cx| {
                    if let Poll::Ready(made) = poll_counted(&pools.metrics, Where::Connection, connecting.as_mut(), cx)
                    {
                        let panicked = || Err(ConnectError::Failed(io::Error::other("panic")));
                        return Poll::Ready(Some(made.unwrap_or_else(panicked)));
                    }
                    pools.entry(&mut pools.entries.borrow_mut(), &endpoint).http2.poll_forsaken(cx).map(|()| None)
                })
                .await
            };
            match made {
                Some(made) => pools.entry(&mut pools.entries.borrow_mut(), &endpoint).http2.resolve(made),
                None => pools.metrics.upstream_connect(ConnectResult::Timeout),
            }
        });
    }

    async fn make_http2(
        &self,
        endpoint: &Arc<EndpointState>,
        place: Connected,
        timeout: Duration,
    ) -> Result<Http2Connection, ConnectError> {
        let stream = self.connect_within(endpoint, [timeout, Duration::ZERO], None).await?;
        upstream_http2::handshake(stream, OpenConnection::new(Arc::clone(&self.metrics), place)).await
    }

    async fn connect_one(
        &self,
        addr: SocketAddr,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Stream, ConnectError> {
        let began = Instant::now();
        let mut result = connect_to(addr, timeout, deadline).await;
        if matches!(&result, Err(ConnectError::Failed(error)) if is_out_of_files(error)) {
            let longest = if timeout.is_zero() { FILES_WAIT } else { timeout };
            let until = deadline.into_iter().chain([began + longest]).min();
            result = self.connect_with_room(addr, until).await;
        }
        if let Ok(stream) = &result {
            // A connection that is gone already says so when it is used.
            let _ = stream.set_timeouts(self.limits.tcp);
        }
        self.metrics.upstream_connect(match &result {
            Ok(_) => ConnectResult::Ok,
            Err(ConnectError::TimedOut) => ConnectResult::Timeout,
            Err(ConnectError::Failed(err)) if err.kind() == io::ErrorKind::ConnectionRefused => ConnectResult::Refused,
            Err(ConnectError::Failed(_)) => ConnectResult::Error,
        });
        result
    }

    /// Connects once file descriptors are free: idle connections of either side are closed for that.
    async fn connect_with_room(&self, addr: SocketAddr, until: Option<Instant>) -> Result<Stream, ConnectError> {
        let mut wait = Duration::from_millis(1);
        loop {
            self.entries.borrow_mut().values_mut().for_each(|entry| entry.idle.clear());
            self.room.ask_for_reserve();
            let before = until.is_none_or(|until| Instant::now() + wait < until);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MOST_FILES_WAIT);
            match connect_to(addr, Duration::ZERO, until).await {
                Err(ConnectError::Failed(error)) if is_out_of_files(&error) && before => {}
                result => return result,
            }
        }
    }

    /// What this worker keeps for an endpoint.
    fn entry<'a>(
        &self,
        entries: &'a mut FxHashMap<usize, EndpointPool>,
        endpoint: &Arc<EndpointState>,
    ) -> &'a mut EndpointPool {
        entries.entry(key(endpoint)).or_insert_with(|| {
            let asked = self.asked.as_pool();
            endpoint.connections().add_pool(key(endpoint), Arc::clone(&asked));
            EndpointPool {
                endpoint: Arc::clone(endpoint),
                idle: VecDeque::new(),
                http2: Http2Slot::default(),
                use_fallback: false,
                asked,
            }
        })
    }

    /// Whether a connection was idle for too long, so that it ends; then it is counted.
    fn ends_idle(&self, connection: &Connection, now: Instant) -> bool {
        let is_overdue = self.is_overdue(connection, now);
        if is_overdue {
            self.metrics.closed(Side::Upstream, Reason::UpstreamIdle);
        }
        is_overdue
    }

    fn is_overdue(&self, connection: &Connection, now: Instant) -> bool {
        let own = (!self.limits.idle.is_zero()).then_some(self.limits.idle);
        let Some(limit) = own.into_iter().chain(connection.idle_limit()).min() else { return false };
        connection.idle_since().is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }
}

/// How long a connection to an endpoint waits for a file descriptor where its rule has no limit for connecting; and the
/// longest pause until it looks again.
const FILES_WAIT: Duration = Duration::from_secs(1);
const MOST_FILES_WAIT: Duration = Duration::from_millis(20);

/// Whether the process or the system has no file descriptor left.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

impl EndpointPool {
    /// Closes idle connections while somebody waits for one.
    fn give_up_idle(&mut self) {
        let connections = self.endpoint.connections();
        while connections.is_awaited() && self.idle.pop_front().is_some() {}
        if connections.is_awaited() {
            self.http2.give_up_idle();
        }
    }
}

impl Drop for EndpointPool {
    fn drop(&mut self) {
        self.endpoint.connections().remove_pool(key(&self.endpoint), &self.asked);
        tracing::trace!(endpoint = %self.endpoint.key.addr, idle = self.idle.len(), "endpoint pool closed");
    }
}
