//! One client connection: hyper behind the wire guard, its deadlines, its end.
//!
//! A connection is one task. It drives hyper, watches for the client's FIN and reset while a request runs, keeps every
//! downstream deadline on one lazily re-armed timer, and writes what is refused between messages itself. Routes and
//! backends are unknown here: a [`Handler`] answers.

mod answer;
mod http2;
mod timer;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use self::answer::{Room, answer_http1};
use self::timer::Timer;
use super::downstream::{Downstream, Handler, Host, OwnAnswer, UpgradeSlot, Upgraded};
use super::guarded_io::{Guard, GuardError, GuardSettings, GuardedIo};
use super::headers::identity;
use super::own_answer::own_answer_bytes;
use crate::drain::Phase;
use crate::model::ids::ListenerId;
use crate::reason::Reason;
use crate::settings::{Deadlines, Forwarding, Limits, Listener};
use crate::stream::Stream;
use crate::telemetry::metrics::{Side, Where, WorkerMetrics};

/// How long a connection may stay idle once listeners close: clients that send without pause get their answer, with
/// `connection: close`, instead of a reset.
const IDLE_AT_DRAIN: Duration = Duration::from_millis(500);
/// Input dropped behind an error answer.
const LINGER_LIMIT: usize = 64 << 10;
/// hyper's buffers: more than an accepted head, and the bound of what a slow reader holds.
const MIN_BUFFER: usize = 64 << 10;

/// What the connections of one listener have in common on one worker.
pub struct ConnectionContext<H> {
    /// Answers the requests.
    pub handler: Rc<H>,
    /// This worker's cells.
    pub metrics: Arc<WorkerMetrics>,
    /// The listener.
    pub listener: ListenerId,
    /// Its name.
    pub listener_name: Arc<str>,
    /// Peers whose forwarding fields are believed.
    pub trusted_forwarders: Vec<IpNet>,
    /// A path answered by the gateway itself.
    pub health_path: Option<String>,
    /// Serve HTTP/2 with prior knowledge, too.
    pub http2_prior_knowledge: bool,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Least mean body rate in bytes per second; 0: off.
    pub body_rate: u64,
    /// Unread request body that is dropped to keep a connection (CO5).
    pub unread_body: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// Send `x-tidegate-reason`.
    pub reason_header: bool,
    /// How the wire is judged.
    pub guard: Rc<GuardSettings>,
    /// The stop of this worker.
    pub drain: Rc<WorkerDrain>,
}

impl<H> ConnectionContext<H> {
    /// Puts together what the settings say about a listener.
    #[must_use]
    pub fn new(
        (listener, name): (ListenerId, Arc<str>),
        settings: &Listener,
        (deadlines, limits, forwarding): (&Deadlines, &Limits, &Forwarding),
        handler: Rc<H>,
        metrics: Arc<WorkerMetrics>,
        drain: Rc<WorkerDrain>,
    ) -> Self {
        Self {
            handler,
            metrics,
            listener,
            listener_name: name,
            trusted_forwarders: settings.trusted_forwarders.clone(),
            health_path: settings.health_path.clone(),
            http2_prior_knowledge: settings.http2_prior_knowledge,
            deadlines: deadlines.clone(),
            body_rate: limits.body_rate,
            unread_body: limits.unread_body,
            http2_streams: limits.http2_streams,
            reason_header: forwarding.reason_header,
            guard: Rc::new(GuardSettings::new(limits, forwarding)),
            drain,
        }
    }
}

/// The stop of the process as the connections of one worker see it; wakes them when it moves on.
#[derive(Debug)]
pub struct WorkerDrain {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    closing_since: Cell<Option<Instant>>,
    /// One waker a connection, at the index it registered.
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl WorkerDrain {
    /// A worker that is not stopping.
    #[must_use]
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::default(),
            since: Cell::new(Instant::now()),
            closing_since: Cell::new(None),
            wakers: RefCell::default(),
            free: RefCell::default(),
        })
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Since when connections are asked to close; the present before that.
    fn closing_since(&self) -> Instant {
        self.closing_since.get().unwrap_or_else(Instant::now)
    }

    /// Moves on and wakes every connection.
    pub fn advance(&self, phase: Phase) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            self.since.set(Instant::now());
            if phase >= Phase::Closing && self.closing_since.get().is_none() {
                self.closing_since.set(Some(Instant::now()));
            }
            self.wakers.borrow().iter().flatten().for_each(Waker::wake_by_ref);
        }
    }

    /// The number of connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.wakers.borrow().len() - self.free.borrow().len()
    }

    fn register(self: &Rc<Self>) -> Registration {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut wakers = self.wakers.borrow_mut();
            wakers.push(None);
            wakers.len() - 1
        });
        Registration { drain: Rc::clone(self), index }
    }
}

/// A connection's place among those that a drain wakes.
struct Registration {
    drain: Rc<WorkerDrain>,
    index: usize,
}

impl Registration {
    /// Notes whom to wake; a connection is always polled by its own task, so once is enough.
    fn watch(&self, cx: &Context<'_>) {
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.index) {
            *slot = Some(cx.waker().clone());
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(slot) = self.drain.wakers.borrow_mut().get_mut(self.index) {
            *slot = None;
        }
        self.drain.free.borrow_mut().push(self.index);
    }
}

/// What the exchanges of one connection share.
struct Shared<H> {
    context: Rc<ConnectionContext<H>>,
    downstream: Rc<Downstream>,
    /// Requests between their accepted head and the end of their response.
    exchanges: Rc<Cell<u32>>,
    /// What runs behind a `101`.
    upgrade: UpgradeSlot,
    /// The host of the last request, which the next one nearly always repeats.
    host: RefCell<Option<Rc<Host>>>,
    /// When the last exchange ended, at first when the connection was accepted.
    idle_since: Cell<Instant>,
}

/// One running exchange; dropped with its response's body, or with whatever ends it earlier.
struct Exchange<H> {
    shared: Rc<Shared<H>>,
    protocol: Protocol,
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

impl<H> Exchange<H> {
    fn begin(shared: &Rc<Shared<H>>, protocol: Protocol) -> Self {
        shared.exchanges.set(shared.exchanges.get() + 1);
        Self { shared: Rc::clone(shared), protocol }
    }
}

impl<H> Drop for Exchange<H> {
    fn drop(&mut self) {
        self.shared.exchanges.set(self.shared.exchanges.get() - 1);
        self.shared.idle_since.set(Instant::now());
    }
}

/// Why the driving of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// hyper is done: the socket is to be shut down, after a refusal if there is one.
    Finished,
    /// hyper failed, or must not go on: everything is dropped as it is.
    Dropped,
    /// A handshake was answered with `101`: the connection leaves HTTP.
    Upgraded,
    /// A deadline: closed without an answer.
    Closed(Reason),
}

/// Serves one client connection until it ends. Dropping the future closes it and cancels what runs on it.
pub async fn serve<H: Handler>(context: Rc<ConnectionContext<H>>, stream: Stream, peer: SocketAddr) {
    // A connection that is gone already has no local address; the first read will say so.
    let local = stream.local_addr().map_or(peer, canonical);
    let _ = stream.set_nodelay();
    let peer = canonical(peer);
    let listener = context.listener.index();
    context.metrics.connection_accepted(listener);
    let registration = context.drain.register();
    let exchanges = Rc::new(Cell::new(0));
    let guard = Rc::new(RefCell::new(Guard::new(stream, Rc::clone(&context.guard), Rc::clone(&exchanges))));
    let shared = Rc::new(Shared {
        downstream: Rc::new(Downstream {
            identity: identity(peer),
            peer,
            local,
            listener: context.listener,
            listener_name: Arc::clone(&context.listener_name),
            trusted: context.trusted_forwarders.iter().any(|net| net.contains(&peer.ip())),
        }),
        context: Rc::clone(&context),
        exchanges,
        upgrade: UpgradeSlot::default(),
        host: RefCell::default(),
        idle_since: Cell::new(Instant::now()),
    });
    let mut driver = Driver { guard, shared, registration, timer: Timer::default(), watched: false, leaving: None };
    match driver.run().await {
        End::Upgraded => driver.tunnel().await,
        end => driver.finish(end).await,
    }
    context.metrics.connection_closed(listener);
}

/// An IPv4-mapped address as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Drives one connection.
struct Driver<H> {
    guard: Rc<RefCell<Guard>>,
    shared: Rc<Shared<H>>,
    registration: Registration,
    timer: Timer,
    /// The drain knows this task.
    watched: bool,
    /// HTTP/2: since when the client is asked to go.
    leaving: Option<Instant>,
}

impl<H: Handler> Driver<H> {
    async fn run(&mut self) -> End {
        if self.shared.context.http2_prior_knowledge {
            let http2 = poll_fn(|cx| {
                if let Poll::Ready(http2) = self.guard.borrow_mut().poll_sniff(cx) {
                    return Poll::Ready(Ok(http2));
                }
                // A partial preface is no request yet: the first byte's deadline goes on.
                let deadline = self.first_byte_deadline();
                self.poll_due(cx, deadline).map(Err)
            })
            .await;
            match http2 {
                Ok(true) => return self.run_http2().await,
                Ok(false) => {}
                Err(end) => return end,
            }
        }
        self.run_http1().await
    }

    async fn run_http1(&mut self) -> End {
        let shared = Rc::clone(&self.shared);
        let guard = Rc::clone(&self.guard);
        let room = Room::new();
        let service = service_fn(move |request: Request<Incoming>| {
            let (accepted, holding) = {
                let mut guard = guard.borrow_mut();
                let accepted = guard.next_head();
                // Requests before a handshake that came with it hold nothing.
                let holding = accepted.as_ref().is_some_and(|head| head.facts.websocket) && guard.is_holding();
                (accepted, holding)
            };
            let exchange = Exchange::begin(&shared, Protocol::Http1);
            let held = holding.then(|| Rc::clone(&guard));
            answer_http1(exchange, request, accepted, held, H::handle, &room)
        });
        let max_head = self.shared.context.guard.max_head();
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.half_close(true).writev(false).max_buf_size(max_head.max(MIN_BUFFER));
        if self.shared.context.guard.head.field_count > DEFAULT_MAX_FIELDS {
            builder.max_headers(self.shared.context.guard.head.field_count);
        }
        let mut connection = pin!(builder.serve_connection(GuardedIo::new(Rc::clone(&self.guard)), service));
        poll_fn(|cx| self.poll_http1(cx, connection.as_mut())).await
    }

    fn poll_http1<C>(&mut self, cx: &mut Context<'_>, mut connection: Pin<&mut C>) -> Poll<End>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        loop {
            if let Poll::Ready(end) = self.poll_hyper(cx, connection.as_mut()) {
                return Poll::Ready(end);
            }
            if self.guard.borrow().is_cancelled() {
                return Poll::Ready(self.cancelled());
            }
            if self.shared.exchanges.get() > 0 {
                let again = self.guard.borrow_mut().poll_watch(cx);
                if self.guard.borrow().is_cancelled() {
                    return Poll::Ready(self.cancelled());
                }
                if again {
                    continue;
                }
            }
            let deadline = self.deadline();
            let Some(due) = self.poll_deadline(cx, deadline) else { return Poll::Pending };
            match due {
                Reason::Head => {
                    // hyper waits for a head and sees the end of the input; the answer follows.
                    self.guard.borrow_mut().refuse(REQUEST_TIMEOUT);
                }
                Reason::BodySlow if self.shared.exchanges.get() > 0 => {
                    let error = GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::BodySlow);
                    if !self.guard.borrow_mut().break_body(error) {
                        return Poll::Ready(End::Closed(Reason::BodySlow));
                    }
                }
                reason => return Poll::Ready(End::Closed(reason)),
            }
        }
    }

    /// Polls hyper; a panic in it or in a response's body ends the connection.
    fn poll_hyper<C>(&self, cx: &mut Context<'_>, connection: Pin<&mut C>) -> Poll<End>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        match catch_unwind(AssertUnwindSafe(|| connection.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            // A handshake behind a last request is held, too, and nobody has seen it.
            Ok(Poll::Ready(Ok(()))) if self.guard.borrow().is_holding() && self.shared.upgrade.is_filled() => {
                Poll::Ready(End::Upgraded)
            }
            Ok(Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            Ok(Poll::Ready(Err(error))) => {
                tracing::debug!(peer = %self.shared.downstream.peer, error = %error, "connection ended");
                Poll::Ready(End::Dropped)
            }
            Err(_) => {
                self.shared.context.metrics.panicked(Where::Connection);
                tracing::error!(peer = %self.shared.downstream.peer, "panic while serving a connection");
                Poll::Ready(End::Dropped)
            }
        }
    }

    fn cancelled(&self) -> End {
        End::Closed(Reason::ClientGone)
    }

    /// The earliest deadline that holds now, and its reason.
    fn deadline(&mut self) -> Option<(Instant, Reason)> {
        let context = &self.shared.context;
        let (deadlines, drain) = (&context.deadlines, &context.drain);
        if drain.phase() == Phase::Ended {
            return Some((drain.since.get(), Reason::Drain));
        }
        let guard = self.guard.borrow();
        let mut next = None;
        if let Some(since) = guard.write_clock.waiting_since() {
            sooner(&mut next, since, deadlines.write_stall, Reason::WriteStall);
            if context.body_rate > 0 && !deadlines.body_rate_window.is_zero() {
                let due = guard.write_clock.due(deadlines.body_rate_window);
                next = earlier(next, due.map(|due| (due, Reason::WriteSlow)));
            }
        }
        if context.body_rate > 0 && !deadlines.body_rate_window.is_zero() {
            let due = guard.body_clock.due(deadlines.body_rate_window);
            next = earlier(next, due.map(|due| (due, Reason::BodySlow)));
        }
        if self.shared.exchanges.get() > 0 {
            return next;
        }
        let idle_since = self.shared.idle_since.get();
        if let Some(since) = guard.head_since() {
            // While a request ran, what came of the next one was in nobody's way.
            sooner(&mut next, since.max(idle_since), deadlines.head, Reason::Head);
            return next;
        }
        if let Some(leaving) = self.leaving {
            sooner(&mut next, leaving.max(idle_since), deadlines.linger, Reason::Linger);
        } else if guard.has_first_byte() {
            sooner(&mut next, idle_since, deadlines.idle, Reason::Idle);
        } else {
            sooner(&mut next, idle_since, deadlines.first_byte, Reason::FirstByte);
        }
        if drain.phase() == Phase::Closing {
            sooner(&mut next, idle_since.max(drain.since.get()), IDLE_AT_DRAIN, Reason::Drain);
        }
        next
    }

    fn first_byte_deadline(&self) -> Option<(Instant, Reason)> {
        let mut next = None;
        let drain = &self.shared.context.drain;
        if drain.phase() >= Phase::Closing {
            sooner(&mut next, drain.since.get(), IDLE_AT_DRAIN, Reason::Drain);
        }
        sooner(&mut next, self.shared.idle_since.get(), self.shared.context.deadlines.first_byte, Reason::FirstByte);
        next
    }

    fn poll_due(&mut self, cx: &mut Context<'_>, deadline: Option<(Instant, Reason)>) -> Poll<End> {
        match self.poll_deadline(cx, deadline) {
            Some(reason) => Poll::Ready(End::Closed(reason)),
            None => Poll::Pending,
        }
    }

    /// Waits for `deadline` and for the drain; the reason when it is due, unless a rate turns out to be high enough.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, mut deadline: Option<(Instant, Reason)>) -> Option<Reason> {
        if !self.watched {
            self.watched = true;
            self.registration.watch(cx);
        }
        loop {
            let (at, reason) = deadline?;
            if self.timer.poll_until(cx, at).is_pending() {
                return None;
            }
            let context = &self.shared.context;
            let (window, rate) = (context.deadlines.body_rate_window, context.body_rate);
            let mut guard = self.guard.borrow_mut();
            let passes = match reason {
                Reason::BodySlow => !guard.body_clock.is_slow(window, rate),
                Reason::WriteSlow => !guard.write_clock.is_slow(window, rate),
                _ => false,
            };
            drop(guard);
            if !passes {
                return Some(reason);
            }
            deadline = self.deadline();
        }
    }

    /// Hands the socket over to what runs behind the `101`, until that ends. No deadline of HTTP holds any more.
    async fn tunnel(self) {
        let tunnel = self.shared.upgrade.take();
        let (received, sent) = self.guard.borrow_mut().take_counts();
        let metrics = Arc::clone(&self.shared.context.metrics);
        metrics.received(Side::Downstream, received);
        metrics.sent(Side::Downstream, sent);
        let socket = self.guard.borrow_mut().take_tunnel();
        let (Some(tunnel), Some((stream, held))) = (tunnel, socket) else { return };
        let Self { shared, registration, mut watched, .. } = self;
        let drain = Rc::clone(&shared.context.drain);
        let closing = Box::pin(poll_fn(move |cx| {
            if !std::mem::replace(&mut watched, true) {
                registration.watch(cx);
            }
            if drain.phase() >= Phase::Closing { Poll::Ready(drain.closing_since()) } else { Poll::Pending }
        }));
        drop(shared);
        tunnel(Upgraded { stream, held, closing }).await;
    }

    /// Ends the connection after hyper is gone.
    async fn finish(&mut self, end: End) {
        let Some((refusal, surplus)) = self.settle(end) else { return };
        let context = Rc::clone(&self.shared.context);
        let farewell = self.say_farewell(refusal, surplus);
        let linger = context.deadlines.linger;
        let outcome = if linger.is_zero() { Ok(farewell.await) } else { tokio::time::timeout(linger, farewell).await };
        if !matches!(outcome, Ok(true)) {
            context.metrics.closed(Side::Downstream, Reason::Linger);
        }
    }

    /// Counts how the connection ended. What is left to do on the socket, if anything: the refusal to answer, and whether
    /// the client may still be sending.
    fn settle(&self, end: End) -> Option<(Option<OwnAnswer>, bool)> {
        let metrics = &self.shared.context.metrics;
        let mut guard = self.guard.borrow_mut();
        let (received, sent) = guard.take_counts();
        metrics.received(Side::Downstream, received);
        metrics.sent(Side::Downstream, sent);
        if let Some(error) = guard.broken() {
            metrics.refused(error.reason);
        }
        match end {
            End::Finished | End::Upgraded => {}
            End::Dropped => {
                if guard.has_ended() {
                    metrics.closed(Side::Downstream, Reason::ClientGone);
                }
                return None;
            }
            End::Closed(reason) => {
                metrics.closed(Side::Downstream, reason);
                if matches!(reason, Reason::WriteSlow | Reason::WriteStall)
                    && let Some(stream) = guard.take_stream()
                {
                    // Unsent bytes would stay in the kernel for a reader that does not read.
                    stream.reset_on_drop();
                }
                return None;
            }
        }
        let refusal = guard.refusal();
        match refusal {
            Some(answer) => {
                metrics.refused(answer.reason);
                metrics.own_answer(answer.reason);
                self.shared.context.handler.log_unhandled(&self.shared.downstream, None, answer);
            }
            None if guard.has_ended() => return None,
            None => {}
        }
        Some((refusal, refusal.is_some() || guard.has_surplus()))
    }

    /// Answers a refusal, shuts the write side down, and drops what still comes, lest a reset destroy the answer under
    /// way. `false` when the client sends too much.
    async fn say_farewell(&self, refusal: Option<OwnAnswer>, surplus: bool) -> bool {
        let Some(mut stream) = self.take_stream() else { return true };
        if let Some(answer) = refusal {
            let bytes = own_answer_bytes(answer, &http_date(), self.shared.context.reason_header);
            if stream.write_all(&bytes).await.is_err() {
                return true;
            }
            self.shared.context.metrics.sent(Side::Downstream, bytes.len() as u64);
        }
        if poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.is_err() {
            return true;
        }
        let mut dropped = 0;
        let drain = &self.shared.context.drain;
        poll_fn(|cx| {
            let mut bytes = [0; 1024];
            loop {
                // The drain wakes this task, too.
                if drain.phase() == Phase::Ended {
                    return Poll::Ready(true);
                }
                let mut buf = ReadBuf::new(&mut bytes);
                match Pin::new(&mut stream).poll_read(cx, &mut buf) {
                    // Nothing was left over and nothing waits: the client has what it asked for.
                    Poll::Pending if !surplus && dropped == 0 => return Poll::Ready(true),
                    result => {
                        let count = match ready!(result) {
                            Ok(()) => buf.filled().len(),
                            Err(_) => 0,
                        };
                        if count == 0 {
                            return Poll::Ready(true);
                        }
                        dropped += count;
                        if dropped > LINGER_LIMIT {
                            return Poll::Ready(false);
                        }
                    }
                }
            }
        })
        .await
    }

    /// Takes the socket out of the guard, which hyper no longer uses.
    fn take_stream(&self) -> Option<Stream> {
        self.guard.borrow_mut().take_stream()
    }
}

/// hyper's own limit of fields, which is on the stack.
const DEFAULT_MAX_FIELDS: usize = 100;

/// An unfinished head at its deadline.
const REQUEST_TIMEOUT: OwnAnswer = OwnAnswer { status: StatusCode::REQUEST_TIMEOUT, reason: Reason::Head, close: true };

/// Replaces `next` when `since + after` is earlier; a deadline of zero is off.
fn sooner(next: &mut Option<(Instant, Reason)>, since: Instant, after: Duration, reason: Reason) {
    if !after.is_zero() {
        *next = earlier(*next, since.checked_add(after).map(|at| (at, reason)));
    }
}

fn earlier(a: Option<(Instant, Reason)>, b: Option<(Instant, Reason)>) -> Option<(Instant, Reason)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// The present time as a `date` field has it (RFC 9110 §5.6.7).
fn http_date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[cfg(test)]
mod tests;
