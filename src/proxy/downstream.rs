//! The boundary between a client's connection and whoever answers its requests.
//!
//! `connection` drives the wire and hands over requests whose head was accepted as a whole; a [`Handler`] answers them.
//! Nothing here knows routes, backends or the types of connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::client_end::ClientEnd;
use super::cutoff::Cutoff;
use super::grpc;
use super::received_body::ReceivedBody;
use crate::model::ids::ListenerId;
use crate::model::tls::ClientValidation;
use crate::reason::Reason;
use crate::settings::ListenerMode;
use crate::telemetry::access_log::{RequestLine, TlsText};
use crate::timer::Timer;

/// What all requests of one client connection have in common.
#[derive(Debug)]
pub struct Downstream {
    /// The client's address; an IPv4-mapped one is unwrapped to IPv4.
    pub peer: SocketAddr,
    /// The address it connected to.
    pub local: SocketAddr,
    /// The listener it came in on.
    pub listener: ListenerId,
    /// The listener's name.
    pub listener_name: Arc<str>,
    /// On whose behalf its requests are forwarded.
    pub mode: ListenerMode,
    /// The peer is one of the listener's `trustedForwarders`.
    pub trusted: bool,
    /// It came over TLS.
    pub secure: bool,
    /// What its handshake has agreed on, if it came over TLS.
    pub tls: Option<Arc<TlsText>>,
    /// How the client was validated in its handshake.
    pub client: Validated,
    /// Ends its exchange over HTTP/1; over HTTP/2, each stream has its own.
    pub cutoff: Rc<Cutoff>,
    /// What its exchange over HTTP/1 waits with for an endpoint: always in the connection's task, so that it is hardly ever
    /// set anew, whereas the timer of a pooled connection would be by each task that uses it.
    pub timer: RefCell<Timer>,
    /// The lines of the forwarded identity that all requests of an untrusted peer have in common:
    /// [`headers::identity`](super::headers::identity).
    pub identity: Box<[u8]>,
}

impl Downstream {
    /// The scheme of its listener.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// The server name that the client asked for in its handshake, in lower case.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.tls.as_ref()?.server_name.as_deref()
    }
}

/// How a client was validated.
#[derive(Clone, Debug, Default)]
pub struct Validated {
    /// What it was asked for; `None`: for no certificate.
    pub asked: Option<Arc<ClientValidation>>,
    /// The subject of its certificate, if it has shown a valid one.
    pub subject: Option<Box<str>>,
    /// What pods are told of its certificate: a value of `x-forwarded-client-cert`. `None`: it has shown none that is valid.
    pub certificate: Option<Box<str>>,
}

/// A valid Host field or authority.
#[derive(Debug, PartialEq, Eq)]
pub struct Host {
    /// As received, to be sent on.
    pub received: Bytes,
    /// In the form that routes are found by: lower case, without port and trailing dot.
    pub name: Box<str>,
    /// Its port, when it has one.
    pub port: Option<u16>,
}

/// A client's connection that has left HTTP.
pub struct Upgraded {
    /// The client's socket, or its stream over HTTP/2, behind the head of the answer.
    pub stream: ClientEnd,
    /// What the client sent behind its handshake.
    pub held: Bytes,
    /// Resolves when the process stops, with the time since when it does.
    pub closing: Pin<Box<dyn Future<Output = Instant>>>,
}

/// What runs on a connection that has left HTTP; dropping it before or while it runs closes both sides.
pub type AfterUpgrade = Box<dyn FnOnce(Upgraded) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Where a handler that answers a handshake with `101` leaves what runs behind it.
#[derive(Clone, Default)]
pub struct UpgradeSlot(Rc<Cell<Option<AfterUpgrade>>>);

impl UpgradeSlot {
    /// Leaves a tunnel; the handler's answer must be `101`.
    pub fn put(&self, tunnel: AfterUpgrade) {
        self.0.set(Some(tunnel));
    }

    /// Whether a tunnel was left.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        let tunnel = self.0.take();
        let filled = tunnel.is_some();
        self.0.set(tunnel);
        filled
    }

    /// Takes what was left.
    pub fn take(&self) -> Option<AfterUpgrade> {
        self.0.take()
    }
}

impl fmt::Debug for UpgradeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeSlot").finish_non_exhaustive()
    }
}

/// How an own answer is worded for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerForm {
    /// A short text.
    #[default]
    Text,
    /// The head of the text, for HEAD.
    HeadOnly,
    /// A gRPC response without messages.
    Grpc,
}

impl AnswerForm {
    /// The form that the sender of a request understands.
    #[must_use]
    pub fn of(method: &Method, fields: &HeaderMap) -> Self {
        // gRPC requests are always POST: the others need no look at their fields.
        if *method == Method::POST && fields.get(CONTENT_TYPE).is_some_and(grpc::is_content_type) {
            Self::Grpc
        } else if *method == Method::HEAD {
            Self::HeadOnly
        } else {
            Self::Text
        }
    }
}

/// What the head check found out about an accepted request; the request's own URI and Host are not consulted again.
#[derive(Clone, Debug)]
pub struct CheckedHead {
    /// Host or authority; `None` for HTTP/1.0 without Host.
    pub host: Option<Rc<Host>>,
    /// The canonical path when it differs from the received one, else `None`: then the URI's path is canonical.
    pub path: Option<Box<str>>,
    /// A well-formed WebSocket handshake.
    pub websocket: bool,
    /// For such a handshake, when the connection can leave HTTP: where to leave what runs behind a `101`. Without it, or
    /// where it is not used, the request is a plain one.
    pub upgrade: Option<UpgradeSlot>,
    /// The request has `expect: 100-continue` and a body.
    pub expect_continue: bool,
    /// There is a Connection field.
    pub connection: bool,
    /// There is a TE field.
    pub te: bool,
    /// There is a Via field.
    pub via: bool,
}

impl CheckedHead {
    /// The host that routes are found by.
    #[must_use]
    pub fn hostname(&self) -> Option<&str> {
        self.host.as_deref().map(|host| &*host.name)
    }

    /// The port in Host or authority.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.host.as_deref()?.port
    }

    /// Host or authority as received.
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.host.as_deref().map(|host| &*host.received)
    }
}

/// An answer that tidegate makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAnswer {
    /// Status.
    pub status: StatusCode,
    /// Why, for log, metric and the opt-in header.
    pub reason: Reason,
    /// Close the connection behind it.
    pub close: bool,
}

/// How long a stream of HTTP/2 whose answer is there may take for the rest of its body.
const UNREAD_STREAM: Duration = Duration::from_secs(5);

/// Leaves the request body that an own answer does not read: up to `limit` bytes are read and dropped beside the
/// answer, so that the connection can be kept. Returns `true` when the answer must close the connection instead.
///
/// `waits` says that the client waits for `100` before it sends. Must be called on a `LocalSet`; the task it may start
/// ends with the body or the connection.
pub fn drop_unread(mut body: ReceivedBody, waits: bool, limit: usize) -> bool {
    if body.is_end_stream() {
        return false;
    }
    let limit = limit as u64;
    // The deadlines of a connection of HTTP/1 hold meanwhile. A stream of HTTP/2 would live as long as its client likes, and
    // ends by itself, whatever is left of it.
    let longest = Cutoff::of_stream().map(|_| UNREAD_STREAM);
    if waits || body.size_hint().lower() > limit {
        return true;
    }
    let dropping = async move {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
            // The connection closes when the rest of a body has no reader.
            if dropped > limit {
                return;
            }
        }
    };
    tokio::task::spawn_local(async move {
        match longest {
            Some(longest) => drop(tokio::time::timeout(longest, dropping).await),
            None => dropping.await,
        }
    });
    false
}

/// A client's connection to a listener whose bytes are passed on as they are.
pub struct Relayed {
    /// The listener.
    pub listener: ListenerId,
    /// Its name.
    pub listener_name: Arc<str>,
    /// The connection.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
}

/// Answers the requests of client connections.
pub trait Handler: 'static {
    /// The body of its responses.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static;

    /// Answers one request; the work begins with the first poll. Dropping the future, or later the response's body, cancels
    /// the work behind it.
    fn handle(
        self: Rc<Self>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<ReceivedBody>,
    ) -> impl Future<Output = http::Response<Self::Body>> + 'static;

    /// Passes the bytes of a connection on that does not speak HTTP, until both ends have finished; `closing` resolves when
    /// the process stops. Dropping the future closes both sides.
    fn relay(
        self: Rc<Self>,
        connection: Relayed,
        closing: impl Future<Output = ()> + 'static,
    ) -> impl Future<Output = ()> + 'static;

    /// Makes a response of an own answer, in the form that the client understands, and counts it as such; a refusal is
    /// counted as one by the caller.
    fn own_answer(&self, downstream: &Downstream, answer: OwnAnswer, form: AnswerForm) -> http::Response<Self::Body>;

    /// Logs a request that was answered before [`handle`](Self::handle) saw it; `request` is `None` when its head was
    /// refused unread.
    fn log_unhandled(&self, downstream: &Downstream, request: Option<RequestLine>, answer: OwnAnswer);
}
