//! Connections to endpoints: one worker's pools, connecting, and the HTTP/2 connections that exchanges share.
//!
//! A pool holds bare connections, last in first out, so that a quiet endpoint keeps few. An endpoint that left every
//! snapshot leaves no trace once its idle connections and its TLS sessions have run out.

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
use rustls::ClientConfig;
use tokio::time::Instant;

use super::asked::AskedPool;
use super::bad_response::BadResponses;
use super::connect::{ConnectError, ConnectFailure, OpenConnection, connect_to, secure};
use super::room::WorkerRoom;
use super::task::poll_counted;
use super::trial::{HEAD_START, Trial, Turn};
use super::upstream_http2::{self, Http2Connection, Http2Slot, Lease, StreamRoom};
use crate::balance::{Connected, ConnectionPool, EndpointState};
use crate::http1::client::Connection;
use crate::reason::Reason;
use crate::telemetry::metrics::{ConnectResult, Side, Where, WorkerMetrics};
use crate::tls::ClientTls;

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

/// Whom a connection leads to: an endpoint, in clear text or over TLS. Connections with different settings of TLS never
/// stand in for each other.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// The endpoint.
    pub endpoint: &'a Arc<EndpointState>,
    /// How TLS is spoken to it; `None`: clear text.
    pub tls: Option<&'a Arc<ClientTls>>,
}

impl Peer<'_> {
    fn key(&self) -> Key {
        (Arc::as_ptr(self.endpoint).addr(), self.tls.map_or(0, |tls| Arc::as_ptr(tls).addr()))
    }
}

/// Addresses of an endpoint's state and of the settings of TLS, which are unique while an entry holds them.
type Key = (usize, usize);

/// What an entry is called where an endpoint knows its pools. Two that share a name are asked together.
fn name((endpoint, tls): Key) -> usize {
    endpoint ^ tls.rotate_left(usize::BITS / 2)
}

/// A connection that is counted as open for as long as it lives.
#[derive(Debug)]
pub struct Pooled {
    connection: Box<Connection>,
    /// Behind the connection: it is counted until its socket is closed.
    open: OpenConnection,
    /// The settings that it was made with.
    tls: Option<Arc<ClientTls>>,
    /// Requests that it was used for.
    requests: u32,
    /// It carries no further one.
    is_last: bool,
}

impl Pooled {
    /// Takes over a connected stream, made with these settings of TLS.
    #[must_use]
    pub fn new(stream: Stream, tls: Option<Arc<ClientTls>>, metrics: Arc<WorkerMetrics>, place: Connected) -> Self {
        let open = OpenConnection::new(metrics, place);
        Self { connection: Connection::new(stream), open, tls, requests: 0, is_last: false }
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
    /// Of connects over HTTP/1.
    trial: Rc<Trial>,
    secure: Option<Box<Secure>>,
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
    Failed(ConnectFailure),
    /// None has room, and the endpoint has as many as it may.
    AtLimit,
}

impl<E: Into<ConnectFailure>> From<E> for NoLease {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

/// What one worker keeps for TLS with one endpoint.
#[derive(Debug)]
struct Secure {
    /// Keeps the address that the map is keyed by from being reused.
    tls: Arc<ClientTls>,
    /// For HTTP/1.1 and HTTP/2, each with the sessions of its own: they are good at this endpoint alone.
    configs: [Option<Arc<ClientConfig>>; 2],
    /// The last handshake.
    used: Instant,
}

/// How long the sessions of an endpoint without connections are kept.
const SESSIONS_FOR: Duration = Duration::from_secs(600);

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
    entries: RefCell<FxHashMap<Key, EndpointPool>>,
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
    pub fn pop(&self, peer: Peer<'_>, now: Instant, cx: &mut Context<'_>) -> Option<Pooled> {
        let mut entries = self.entries.borrow_mut();
        let EndpointPool { idle, trial, .. } = entries.get_mut(&peer.key())?;
        while let Some(mut connection) = idle.pop_back() {
            if self.ends_idle(&connection, now) {
                continue;
            }
            match connection.poll_liveness(cx) {
                Liveness::Watched | Liveness::Silent => {
                    connection.set_idle(None);
                    return Some(connection);
                }
                Liveness::Unasked => self.bad_responses.lost(peer.endpoint, "bytes came that no request has asked for"),
                Liveness::Closed => trial.doubt(),
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
        let idle = &mut self.entry(&mut entries, Peer { endpoint, tls: connection.tls.as_ref() }).idle;
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
            let has_sessions = |secure: &Secure| now.saturating_duration_since(secure.used) < SESSIONS_FOR;
            // Others are still to learn from the connect that is on its way.
            let is_tried = Rc::strong_count(&entry.trial) > 1;
            let has_connections = !entry.idle.is_empty() || !entry.http2.is_empty();
            is_tried || has_connections || entry.secure.as_deref().is_some_and(has_sessions)
        });
        closed
    }

    /// Closes idle connections that other workers ask for, as soon as they do. Runs until it is dropped.
    pub(super) async fn answer_others(&self) {
        loop {
            let asked = self.asked.next().await;
            let entries = &mut *self.entries.borrow_mut();
            // Rare: connections of all endpoints are gone through.
            let named = entries.iter_mut().filter(|(key, _)| asked.contains(&name(**key)));
            named.for_each(|(_, entry)| entry.give_up_idle());
        }
    }

    /// Whether a stream to the endpoint could begin without waiting for others, where it may have `most` connections.
    pub(super) fn has_way(&self, peer: Peer<'_>, most: u32) -> bool {
        let entries = self.entries.borrow();
        let is_open = entries.get(&peer.key()).is_some_and(|entry| entry.http2.has_way(Instant::now()));
        is_open || peer.endpoint.connections().open() < most
    }

    /// Whether this worker has an HTTP/2 connection to the endpoint.
    pub(super) fn has_http2(&self, peer: Peer<'_>) -> bool {
        self.entries.borrow().get(&peer.key()).is_some_and(|entry| !entry.http2.is_empty())
    }

    /// Where streams wait for room on the endpoint's connections of this worker.
    pub(super) fn stream_room(&self, peer: Peer<'_>) -> Rc<StreamRoom> {
        Rc::clone(self.entry(&mut self.entries.borrow_mut(), peer).http2.room())
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
    /// Over TLS the handshake is a part of it, and HTTP/1.1 is agreed on. While nothing is known of the endpoint, one
    /// connects, and others wait for a short time for how that ends.
    ///
    /// # Errors
    /// The last attempt's failure, or that of the one that went ahead.
    pub async fn connect(
        &self,
        peer: Peer<'_>,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Stream, ConnectFailure> {
        let trial = Rc::clone(&self.entry(&mut self.entries.borrow_mut(), peer).trial);
        let began = Instant::now();
        let own = (!timeout.is_zero()).then(|| began + timeout);
        let until = own.into_iter().chain(deadline).fold(began + HEAD_START, Instant::min);
        let _first = loop {
            match trial.turn() {
                Turn::Open => break None,
                Turn::First(first) => break Some(first),
                Turn::Wait(first) => match tokio::time::timeout_at(until, first).await {
                    Ok(Ok(Err(error))) => return Err(ConnectFailure { error, learned: true }),
                    // It is there, or somebody else goes ahead now.
                    Ok(Ok(Ok(())) | Err(_)) => {}
                    Err(_) => break None,
                },
            }
        };
        // Waiting was a part of the time; none left is not the same as no limit.
        let left = match timeout.is_zero() {
            true => timeout,
            false => timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1)),
        };
        let result = self.connect_within((peer, false), [left; 2], deadline).await;
        trial.ended(&result);
        Ok(result?)
    }

    /// Opens a connection that never comes into the pool. Each address of the endpoint gets `timeout`.
    ///
    /// # Errors
    /// Why the last address could not be connected to.
    pub(super) async fn connect_alone(&self, peer: Peer<'_>, timeout: Duration) -> Result<Stream, ConnectError> {
        self.connect_within((peer, false), [timeout; 2], None).await
    }

    /// As [`connect`](Self::connect), with a timeout of its own for the last address.
    async fn connect_within(
        &self,
        (peer, is_http2): (Peer<'_>, bool),
        [before_last, last]: [Duration; 2],
        deadline: Option<Instant>,
    ) -> Result<Stream, ConnectError> {
        let preferred = peer.endpoint.key.addr;
        let Some(fallback) = peer.endpoint.fallback() else {
            return self.connect_one((preferred, peer, is_http2), last, deadline).await;
        };
        let use_fallback = self.entries.borrow().get(&peer.key()).is_some_and(|entry| entry.use_fallback);
        let (first, second) = if use_fallback { (fallback, preferred) } else { (preferred, fallback) };
        if let Ok(stream) = self.connect_one((first, peer, is_http2), before_last, deadline).await {
            return Ok(stream);
        }
        let stream = self.connect_one((second, peer, is_http2), last, deadline).await?;
        self.entry(&mut self.entries.borrow_mut(), peer).use_fallback = !use_fallback;
        Ok(stream)
    }

    /// Gives a place on one of the endpoint's HTTP/2 connections, connecting when none has room and `opening` allows it. Each
    /// address gets `timeout`, and all of it ends at `deadline`.
    ///
    /// # Errors
    /// The connection attempt's failure; everybody who waited for it gets one. `TimedOut` is everybody's own.
    pub async fn http2(
        self: &Rc<Self>,
        peer: Peer<'_>,
        mut opening: Opening,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Lease, NoLease> {
        let began = Instant::now();
        let mut until = deadline;
        loop {
            let waiting = {
                let mut entries = self.entries.borrow_mut();
                let slot = &mut self.entry(&mut entries, peer).http2;
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
                        Opening::Any => Connected::new(peer.endpoint),
                        Opening::Below { most, .. } => {
                            Connected::try_new(peer.endpoint, most).ok_or(NoLease::AtLimit)?
                        }
                        Opening::With(place) => {
                            // Used once; when others were quicker to take all of it, it is waited for again.
                            opening = Opening::Below { most: 0, has_waited: true };
                            place
                        }
                    };
                    self.begin_http2(peer, place, timeout);
                }
                slot.wait()
            };
            if !timeout.is_zero() && until == deadline {
                let addresses = 1 + u32::from(peer.endpoint.fallback().is_some());
                until = deadline.into_iter().chain([began + timeout * addresses]).min();
            }
            let outcome = match until {
                Some(until) => tokio::time::timeout_at(until, waiting).await.map_err(|_| ConnectError::TimedOut)?,
                None => waiting.await,
            };
            outcome.unwrap_or_else(|_| Err(ConnectError::Failed(io::ErrorKind::ConnectionAborted.into()).into()))?;
        }
    }

    /// Makes a connection for all that wait for one; `timeout` is how long a preferred address is tried before its
    /// fallback.
    fn begin_http2(self: &Rc<Self>, peer: Peer<'_>, place: Connected, timeout: Duration) {
        let (pools, endpoint, tls) = (Rc::clone(self), Arc::clone(peer.endpoint), peer.tls.cloned());
        // Owned by nobody: it ends with the last that waits for it. Cancelling the request that happened to come first must
        // not fail those that came after it, nor may its timeout.
        tokio::task::spawn_local(async move {
            let peer = Peer { endpoint: &endpoint, tls: tls.as_ref() };
            let made = {
                let mut connecting = pin!(pools.make_http2(peer, place, timeout));
                poll_fn(|cx| {
                    if let Poll::Ready(made) = poll_counted(&pools.metrics, Where::Connection, connecting.as_mut(), cx)
                    {
                        let panicked = || Err(ConnectError::Failed(io::Error::other("panic")));
                        return Poll::Ready(Some(made.unwrap_or_else(panicked)));
                    }
                    pools.entry(&mut pools.entries.borrow_mut(), peer).http2.poll_forsaken(cx).map(|()| None)
                })
                .await
            };
            match made {
                Some(made) => pools.entry(&mut pools.entries.borrow_mut(), peer).http2.resolve(made),
                None => pools.metrics.upstream_connect(ConnectResult::Timeout),
            }
        });
    }

    async fn make_http2(
        &self,
        peer: Peer<'_>,
        place: Connected,
        timeout: Duration,
    ) -> Result<Http2Connection, ConnectError> {
        let stream = self.connect_within((peer, true), [timeout, Duration::ZERO], None).await?;
        upstream_http2::handshake(stream, OpenConnection::new(Arc::clone(&self.metrics), place)).await
    }

    async fn connect_one(
        &self,
        (addr, peer, is_http2): (SocketAddr, Peer<'_>, bool),
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
        if let Some(tls) = peer.tls
            && let Ok(stream) = result
        {
            let config = self.tls_config(peer, tls, is_http2);
            let own = (!timeout.is_zero()).then(|| began + timeout);
            let until = own.into_iter().chain(deadline).min();
            // Large, and rare beside requests.
            result = Box::pin(secure(stream, (tls, &config), is_http2, until)).await;
        }
        self.metrics.upstream_connect(match &result {
            Ok(_) => ConnectResult::Ok,
            Err(ConnectError::TimedOut) => ConnectResult::Timeout,
            Err(ConnectError::Failed(err)) if err.kind() == io::ErrorKind::ConnectionRefused => ConnectResult::Refused,
            Err(ConnectError::Failed(_)) => ConnectResult::Error,
            Err(ConnectError::Tls(_)) => ConnectResult::Tls,
        });
        result
    }

    /// The settings of a handshake with an endpoint, which hold its sessions.
    fn tls_config(&self, peer: Peer<'_>, tls: &Arc<ClientTls>, is_http2: bool) -> Arc<ClientConfig> {
        let mut entries = self.entries.borrow_mut();
        let Some(secure) = &mut self.entry(&mut entries, peer).secure else { return tls.config(is_http2) };
        secure.used = Instant::now();
        Arc::clone(secure.configs[usize::from(is_http2)].get_or_insert_with(|| tls.config(is_http2)))
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
    fn entry<'a>(&self, entries: &'a mut FxHashMap<Key, EndpointPool>, peer: Peer<'_>) -> &'a mut EndpointPool {
        entries.entry(peer.key()).or_insert_with(|| {
            let asked = self.asked.as_pool();
            peer.endpoint.connections().add_pool(name(peer.key()), Arc::clone(&asked));
            let hold = |tls: &Arc<ClientTls>| {
                Box::new(Secure { tls: Arc::clone(tls), configs: [None, None], used: Instant::now() })
            };
            EndpointPool {
                endpoint: Arc::clone(peer.endpoint),
                idle: VecDeque::new(),
                http2: Http2Slot::default(),
                use_fallback: false,
                trial: Rc::default(),
                secure: peer.tls.map(hold),
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
        let Some(since) = connection.idle_since() else { return false };
        // A time that is beyond what instants can say never comes.
        let is_over = |limit| since.checked_add(limit).is_some_and(|end| now >= end);
        (!self.limits.idle.is_zero() && is_over(self.limits.idle)) || connection.idle_limit().is_some_and(is_over)
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
        let tls = self.secure.as_ref().map(|secure| &secure.tls);
        let peer = Peer { endpoint: &self.endpoint, tls };
        self.endpoint.connections().remove_pool(name(peer.key()), &self.asked);
        tracing::trace!(endpoint = %self.endpoint.key.addr, idle = self.idle.len(), "endpoint pool closed");
    }
}
