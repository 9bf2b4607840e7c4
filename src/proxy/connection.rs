//! One client connection: HTTP/1 or HTTP/2 behind the wire guard, its deadlines, its end.
//!
//! A connection is one task. It drives `http1`, or hyper for HTTP/2, watches for the client's FIN and reset while a request
//! runs, keeps every downstream deadline on one lazily re-armed timer, and writes what is refused between messages itself.
//! Routes and backends are unknown here: a [`Handler`] answers.

mod answer;
mod context;
mod deadlines;
mod farewell;
mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::context::Shared;
use self::http1::{Http1, Http1Error};
use super::cutoff::Cutoff;
use super::downstream::{Downstream, Handler, UpgradeSlot, Validated};
use super::guarded_io::{GuardError, GuardedSocket};
use super::headers::identity;
use super::pressure::Pressure;
use super::room::Place;
use super::task::poll_counted;
use crate::reason::Reason;
use crate::stream::Stream;
use crate::telemetry::access_log::TlsText;
use crate::telemetry::metrics::Where;
use crate::timer::Timer;

pub use self::context::{ConnectionContext, Speaks, TlsContext};

/// Why the driving of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnd {
    /// All is said: the socket is to be shut down, after a refusal if there is one.
    Finished,
    /// It broke off, or must not go on: everything is dropped as it is.
    Dropped,
    /// A handshake was answered with `101`: the connection leaves HTTP.
    Upgraded,
    /// A deadline: closed without an answer.
    Closed(Reason),
    /// HTTP/2: the client was told to go, and may still be sending.
    Refused(Reason),
}

/// How a connection ends whose requests cannot go on.
fn http1_error(error: &Http1Error) -> ConnectionEnd {
    match error {
        Http1Error::Write(_) => ConnectionEnd::Closed(Reason::ClientGone),
        // The exchange counts what an endpoint or a handler did.
        Http1Error::Response(_) | Http1Error::CutShort(_) => ConnectionEnd::Dropped,
    }
}

/// Serves one client connection in its place until it ends. Dropping the future closes it and cancels what runs on it.
///
/// What the client `speaks` decides between HTTP/1 and HTTP/2.
pub async fn serve<H: Handler>(
    context: Rc<ConnectionContext<H>>,
    Opened { stream, speaks, mut client }: Opened,
    Ends { peer, local }: Ends,
    place: Place,
) {
    let _open = Open::begin(&context);
    let (now, presence) = (Instant::now(), place.presence().clone());
    presence.idle(now);
    let exchanges = Rc::new(Cell::new(0));
    let cutoff = Rc::new(Cutoff::default());
    let secure = matches!(stream, Stream::Tls(_));
    let tls = secure.then(|| {
        Arc::new(TlsText {
            version: stream.tls_version().unwrap_or_default(),
            server_name: stream.server_name().map(|name| name.to_ascii_lowercase().into()),
            client_subject: client.subject.take(),
        })
    });
    let trusted = context.trusts(peer.ip());
    let guard = GuardedSocket::new(stream, Rc::clone(&context.guard), Rc::clone(&exchanges), Rc::clone(&cutoff));
    let guard = Rc::new(RefCell::new(if trusted { guard.trusting() } else { guard }));
    let shared = Rc::new(Shared {
        downstream: Rc::new(Downstream {
            identity: identity(peer, if secure { "https" } else { "http" }),
            cutoff,
            timer: RefCell::default(),
            peer,
            local,
            mode: context.mode.get(),
            listener: context.listener,
            listener_name: Arc::clone(&context.listener_name),
            trusted,
            secure,
            tls,
            client,
        }),
        context: Rc::clone(&context),
        exchanges,
        upgrade: UpgradeSlot::default(),
        closing: Notify::new(),
        host: RefCell::default(),
        idle_since: Cell::new(now),
        presence,
    });
    let timer = Timer::default();
    let mut driver = Driver {
        guard,
        shared,
        place,
        speaks,
        timer,
        watched: false,
        held_back: None,
        leaving: None,
        cuts_http10: false,
    };
    match driver.run().await {
        ConnectionEnd::Upgraded => driver.tunnel().await,
        end => driver.finish(end).await,
    }
}

/// Counts a connection as open, whichever way it ends.
pub(super) struct Open<H>(Rc<ConnectionContext<H>>);

impl<H> Open<H> {
    pub(super) fn begin(context: &Rc<ConnectionContext<H>>) -> Self {
        context.connections.accepted();
        Self(Rc::clone(context))
    }
}

impl<H> Drop for Open<H> {
    fn drop(&mut self) {
        self.0.connections.closed();
    }
}

/// A client's connection behind its handshake.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// Which versions of HTTP the client may speak.
    pub speaks: Speaks,
    /// How it was validated.
    pub client: Validated,
}

impl From<TcpStream> for Opened {
    /// A connection without TLS.
    fn from(socket: TcpStream) -> Self {
        Self { stream: socket.into(), speaks: Speaks::Either, client: Validated::default() }
    }
}

/// The two ends of a client's connection, as it is logged, limited and forwarded; no address is an IPv4-mapped one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub peer: SocketAddr,
    /// What it has connected to.
    pub local: SocketAddr,
}

impl Ends {
    /// Those of the socket, which was accepted from `peer`.
    #[must_use]
    pub fn of(socket: &TcpStream, peer: SocketAddr) -> Self {
        // A connection that is gone already has no local address; the first read will say so.
        Self { peer: canonical(peer), local: socket.local_addr().map_or(peer, canonical) }
    }
}

/// An IPv4-mapped address as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Drives one connection.
struct Driver<H> {
    guard: Rc<RefCell<GuardedSocket>>,
    shared: Rc<Shared<H>>,
    place: Place,
    speaks: Speaks,
    timer: Timer,
    /// The worker knows whom to wake.
    watched: bool,
    /// Memory was short when the first head was to be read: it is read when there is memory for one more client, which this
    /// waits for.
    held_back: Option<Pin<Box<dyn Future<Output = bool>>>>,
    /// HTTP/2: since when the client is asked to go, and how long it may take.
    leaving: Option<(Instant, Duration)>,
    /// A response to a client of HTTP/1.0 was under way when the connection ended.
    cuts_http10: bool,
}

impl<H: Handler> Driver<H> {
    async fn run(&mut self) -> ConnectionEnd {
        let looks = match self.speaks {
            Speaks::Either => self.shared.context.http2_prior_knowledge,
            Speaks::Http1 => false,
            Speaks::Http2 => true,
        };
        if looks {
            let http2 = poll_fn(|cx| {
                let is_short = self.is_short_of_memory();
                if self.may_read_first(cx, is_short)
                    && let Poll::Ready(http2) = self.guard.borrow_mut().poll_sniff(cx)
                {
                    return Poll::Ready(Ok(http2));
                }
                if self.makes_room(cx) {
                    return Poll::Ready(Err(ConnectionEnd::Closed(Reason::MadeRoom)));
                }
                self.look_again(cx, is_short);
                // A partial preface is no request yet: the first byte's deadline goes on.
                let deadline = self.first_byte_deadline();
                self.poll_due(cx, deadline).map(Err)
            })
            .await;
            match http2 {
                Ok(true) => return self.run_http2().await,
                // It is what was agreed, and begins with this preface (RFC 9113 §3.4).
                Ok(false) if self.speaks == Speaks::Http2 => return ConnectionEnd::Closed(Reason::Frame),
                Ok(false) => {}
                Err(end) => return end,
            }
        }
        self.run_http1().await
    }

    /// Waits for the first head, which is not even read while memory is short. The end, if that comes first.
    async fn first_head(&mut self) -> Option<ConnectionEnd> {
        poll_fn(|cx| {
            let is_short = self.is_short_of_memory();
            if self.may_read_first(cx, is_short) && self.guard.borrow_mut().poll_first(cx).is_ready() {
                return Poll::Ready(None);
            }
            if self.makes_room(cx) {
                return Poll::Ready(Some(ConnectionEnd::Closed(Reason::MadeRoom)));
            }
            self.look_again(cx, is_short);
            let deadline = self.deadline();
            match self.poll_deadline(cx, deadline) {
                None => Poll::Pending,
                Some(Reason::Head) => {
                    self.guard.borrow_mut().refuse(REQUEST_TIMEOUT);
                    Poll::Ready(None)
                }
                Some(reason) => Poll::Ready(Some(ConnectionEnd::Closed(reason))),
            }
        })
        .await
    }

    /// Whether a first head is not read for now: what clients have sent waits in the kernel until there is memory for it. All
    /// connections are woken then.
    fn is_short_of_memory(&self) -> bool {
        self.shared.context.drain.room().memory().level() >= Pressure::CloseIdle
    }

    /// Whether a first head may be read: not while memory is short, and then by all that waited in turn, as new clients are
    /// let in. What they have sent comes at once.
    fn may_read_first(&mut self, cx: &mut Context<'_>, is_short: bool) -> bool {
        if is_short {
            let room = self.place.home();
            self.held_back.get_or_insert_with(|| {
                let room = Rc::clone(room);
                Box::pin(async move { room.admission().enter().await })
            });
            return false;
        }
        let Some(waiting) = self.held_back.as_mut() else { return true };
        let Poll::Ready(counts) = waiting.as_mut().poll(cx) else { return false };
        self.held_back = None;
        self.place.presence().newness().begin(counts);
        true
    }

    /// Polls the task once more if memory was short before it was known whom to wake, and is no more.
    fn look_again(&self, cx: &Context<'_>, was_short: bool) {
        if was_short && !self.is_short_of_memory() {
            cx.waker().wake_by_ref();
        }
    }

    async fn run_http1(&mut self) -> ConnectionEnd {
        if let Some(end) = self.first_head().await {
            return end;
        }
        let mut requests = Http1::new(Rc::clone(&self.guard), Rc::clone(&self.shared), H::handle);
        poll_fn(|cx| {
            let end = ready!(self.poll_http1(cx, Pin::new(&mut requests)));
            // What runs is dropped next.
            self.cuts_http10 = requests.is_http10() && requests.is_busy();
            Poll::Ready(end)
        })
        .await
    }

    fn poll_http1<C>(&mut self, cx: &mut Context<'_>, mut requests: Pin<&mut C>) -> Poll<ConnectionEnd>
    where
        C: Future<Output = Result<(), Http1Error>>,
    {
        self.guard.borrow_mut().woken();
        loop {
            if let Poll::Ready(end) = self.poll_protocol(cx, requests.as_mut(), http1_error) {
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
            if self.makes_room(cx) {
                return Poll::Ready(ConnectionEnd::Closed(Reason::MadeRoom));
            }
            let deadline = self.deadline();
            let Some(due) = self.poll_deadline(cx, deadline) else { return Poll::Pending };
            match due {
                Reason::Head => {
                    // Who waits for a head sees the end of the input; the answer follows.
                    self.guard.borrow_mut().refuse(REQUEST_TIMEOUT);
                }
                Reason::BodySlow if self.shared.exchanges.get() > 0 => {
                    let error = GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::BodySlow);
                    if !self.guard.borrow_mut().break_body(error) {
                        return Poll::Ready(ConnectionEnd::Closed(Reason::BodySlow));
                    }
                }
                // Not the end yet, only time to look for it.
                Reason::ClientGone => self.guard.borrow_mut().look_ahead(),
                Reason::Request | Reason::BackendRequest | Reason::ExchangeIdle => {
                    self.shared.downstream.cutoff.pass(due);
                    return Poll::Ready(ConnectionEnd::Closed(due));
                }
                reason => return Poll::Ready(ConnectionEnd::Closed(reason)),
            }
        }
    }

    /// Polls what speaks the protocol; a panic in it or in a response's body ends the connection.
    fn poll_protocol<C, E>(
        &self,
        cx: &mut Context<'_>,
        connection: Pin<&mut C>,
        on_error: impl FnOnce(&E) -> ConnectionEnd,
    ) -> Poll<ConnectionEnd>
    where
        C: Future<Output = Result<(), E>>,
        E: std::fmt::Display,
    {
        match ready!(poll_counted(&self.shared.context.metrics, Where::Connection, connection, cx)) {
            // A handshake behind a last request is held, too, and nobody has seen it.
            Some(Ok(())) if self.guard.borrow().is_holding() && self.shared.upgrade.is_filled() => {
                Poll::Ready(ConnectionEnd::Upgraded)
            }
            Some(Ok(())) => Poll::Ready(ConnectionEnd::Finished),
            Some(Err(error)) => {
                tracing::debug!(peer = %self.shared.downstream.peer, error = %error, "connection ended");
                Poll::Ready(on_error(&error))
            }
            None => Poll::Ready(ConnectionEnd::Dropped),
        }
    }

    /// Whether the connection ends now for one that needs its place; also notes whom to wake when that, or the drain, has
    /// something to say.
    fn makes_room(&mut self, cx: &Context<'_>) -> bool {
        if !self.watched {
            self.watched = true;
            self.place.watch(cx);
        }
        if !self.shared.presence.is_asked() {
            return false;
        }
        let is_silent = {
            let guard = self.guard.borrow();
            // A head that is not complete is not waited for while memory is short, whatever more of it has come.
            guard.is_silent() || (guard.head_since().is_some() && self.is_short_of_memory())
        };
        if self.shared.exchanges.get() > 0 || !is_silent {
            // The client was faster, or still takes its last answer.
            self.shared.presence.idle(Instant::now());
            return false;
        }
        self.place.leave();
        true
    }

    fn cancelled(&self) -> ConnectionEnd {
        ConnectionEnd::Closed(Reason::ClientGone)
    }
}

/// An unfinished head at its deadline.
const REQUEST_TIMEOUT: GuardError = GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::Head);

#[cfg(test)]
mod tests;
