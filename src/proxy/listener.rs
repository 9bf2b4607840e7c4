//! Listening sockets: one per worker and listener (`SO_REUSEPORT`), and the loop that accepts from one.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::connection::{ConnectionContext, Ends, Open, canonical, serve};
use super::downstream::{Handler, Relayed};
use super::handshake;
use super::pressure::Pressure;
use super::proxy_header;
use super::room::{FilesComing, Place};
use super::task::poll_counted;
use crate::drain::{Drain, Phase};
use crate::reason::Reason;
use crate::settings::ListenerMode;
use crate::stream::TcpTimeouts;
use crate::telemetry::metrics::{Side, Where};

/// Connections that wait in the kernel; it cuts this to its own limit.
const BACKLOG: i32 = 4096;

/// Bytes that the kernel keeps unsent for one client at most (TCP_NOTSENT_LOWAT).
///
/// Without a limit it keeps megabytes, of which a third has to go before the socket can be written to again: a client that
/// reads slowly would look like one that does not read. And buffers that the kernel makes larger, as it does when memory for
/// sockets is scarce and then is not, would look like a client that reads.
const UNSENT: u32 = 32 << 10;

/// How long a client whose handshake had begun when a listener closes may take to finish it: a long round trip.
const LAST_HANDSHAKES: Duration = Duration::from_millis(200);

/// A listener cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another socket listens there.
    #[error("listener {listener}: address {address} is in use")]
    InUse {
        /// The listener's name.
        listener: String,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("listener {listener}: cannot listen on {address}")]
    Other {
        /// The listener's name.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The sockets of one listener, one per worker, all with the same address.
#[derive(Debug)]
pub struct BoundListener {
    /// The bound address; with the real port where port 0 was asked for, and `0.0.0.0` where there is no `[::]`.
    pub address: SocketAddr,
    /// One socket per worker.
    pub sockets: Vec<StdListener>,
}

impl BoundListener {
    /// Lets TCP give up clients that have vanished, of all connections that will be accepted.
    pub fn set_timeouts(&self, timeouts: TcpTimeouts) {
        for socket in &self.sockets {
            if let Err(error) = timeouts.apply(socket) {
                tracing::warn!(address = %self.address, error = %error, "clients that vanish are not noticed");
            }
        }
    }
}

/// Binds the listener `name` for `workers` workers. With port 0 the first socket gets a free one and the others share it.
///
/// # Errors
/// The address is taken, by another process or an earlier listener of this one, or cannot be bound.
pub fn bind(name: &str, address: SocketAddr, workers: usize) -> Result<BoundListener, BindError> {
    bind_sockets(address, workers).or_else(|error| match (address, error) {
        // A host without IPv6: the dual-stack default becomes the IPv4 one.
        (SocketAddr::V6(v6), error) if v6.ip().is_unspecified() && is_without_ipv6(&error) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, v6.port()));
            bind_sockets(address, workers).map_err(|error| bind_error(name, address, error))
        }
        (_, error) => Err(bind_error(name, address, error)),
    })
}

fn bind_error(name: &str, address: SocketAddr, source: io::Error) -> BindError {
    let listener = name.to_owned();
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse { listener, address }
    } else {
        BindError::Other { listener, address, source }
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own in `io::ErrorKind`.
    error.kind() == io::ErrorKind::AddrNotAvailable || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

fn bind_sockets(mut address: SocketAddr, workers: usize) -> io::Result<BoundListener> {
    if address.port() != 0 {
        // `SO_REUSEPORT` would let a second process of the same user take a share of the connections without a word, so
        // the address is tried without it first.
        drop(socket(address, false)?);
    }
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers.max(1) {
        let socket = socket(address, true)?;
        // Connections inherit both, and none pays for a system call of its own.
        socket.set_tcp_notsent_lowat(UNSENT)?;
        socket.set_tcp_nodelay(true)?;
        socket.listen(BACKLOG)?;
        let socket = StdListener::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(BoundListener { address, sockets })
}

fn socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Sockets of an earlier process in TIME_WAIT are no reason to fail.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts connections and serves each in a task of its own until the drain closes listeners; then empties the queue, so
/// that no client whom the kernel has let in is reset, and returns. The tasks hold `drain` until their connections end.
///
/// # Errors
/// The socket cannot be registered with the runtime.
pub(super) async fn accept<H: Handler>(
    context: Rc<ConnectionContext<H>>,
    socket: StdListener,
    mut drain: Drain,
) -> io::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    let room = Rc::clone(context.drain.room());
    loop {
        if room.memory().level() > Pressure::None {
            let mut pause = Pause::new(&context, "memory", "until there is more of it");
            pause.begin();
            tokio::select! {
                biased;
                () = closing(&mut drain) => break,
                () = room.memory().opened() => {}
            }
        }
        let accepted = tokio::select! {
            biased;
            () = closing(&mut drain) => break,
            accepted = listener.accept() => accepted,
        };
        let coming = match accepted {
            Ok((stream, peer)) => {
                let coming = room.ask_for_files(room.files_over(&stream));
                welcome(&context, stream, peer, &mut drain).await;
                coming
            }
            Err(error) if is_of_one_connection(&error) => FilesComing::Enough,
            Err(_) => room.ask_for_files(room.no_files()),
        };
        if coming != FilesComing::Enough {
            let mut pause = Pause::new(&context, "file descriptors", NOBODY_IDLE);
            tokio::select! {
                biased;
                () = closing(&mut drain) => break,
                () = room.wait_for_files(coming, || pause.begin()) => {}
            }
        }
    }
    // Whatever order the tasks of this worker woke in: who comes out of the queue is asked to close.
    context.drain.advance(drain.phase());
    finish_handshakes(&context, &listener, &mut drain).await;
    empty_queue(&context, listener, &drain);
    Ok(())
}

/// Lets no further client begin to connect, and serves those that had begun. Else the kernel would let one in between the
/// last accept and the close, and reset it. The SYN of a new client is dropped: the client sends it again after a second,
/// finds no listener and is refused, as it would be a moment later.
async fn finish_handshakes<H: Handler>(context: &Rc<ConnectionContext<H>>, listener: &TcpListener, drain: &mut Drain) {
    // Where the system has no such filter, the listener closes at once.
    if refuse_syns(listener).is_err() {
        return;
    }
    let (mut ended, drain) = (drain.clone(), &*drain);
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => take_in(context, stream, peer, drain),
                Err(error) if is_of_one_connection(&error) => {}
                // Without a file descriptor they stay in the queue.
                Err(_) => return std::future::pending::<()>().await,
            }
        }
    };
    tokio::select! {
        biased;
        () = ended.reached(Phase::Ended) => {}
        () = tokio::time::sleep(LAST_HANDSHAKES) => {}
        () = accepting => {}
    }
}

/// Lets the kernel drop what would begin a connection. Connections that are accepted inherit the filter, which drops
/// nothing that they need: a SYN inside a connection is an error (RFC 9293 §3.10.7.4).
fn refuse_syns(listener: &TcpListener) -> io::Result<()> {
    // The filter of a TCP socket begins at the TCP header, whose flags are the byte 13 (RFC 9293 §3.1).
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

async fn closing(drain: &mut Drain) {
    drain.reached(Phase::Closing).await;
}

/// Says in log and metric that a listener does not accept for a while, and that it does again.
struct Pause<'a, H> {
    context: &'a ConnectionContext<H>,
    short_of: &'static str,
    why: &'static str,
    begun: bool,
}

const NOBODY_IDLE: &str = "no client is idle that could make room";

impl<'a, H> Pause<'a, H> {
    fn new(context: &'a ConnectionContext<H>, short_of: &'static str, why: &'static str) -> Self {
        Self { context, short_of, why, begun: false }
    }

    fn begin(&mut self) {
        self.begun = true;
        self.context.metrics.accept_pauses.inc();
        let (listener, short_of, why) = (&self.context.listener_name, self.short_of, self.why);
        tracing::warn!(%listener, short_of, "accepting is paused: {why}");
    }
}

impl<H> Drop for Pause<'_, H> {
    fn drop(&mut self) {
        if self.begun {
            tracing::info!(listener = %self.context.listener_name, "accepting goes on");
        }
    }
}

/// Serves a new connection, once there is a place for it; closes it when its address has too many.
async fn welcome<H: Handler>(
    context: &Rc<ConnectionContext<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    drain: &mut Drain,
) {
    let Some(mut place) = enter(context, &stream, peer) else { return };
    let room = context.drain.room();
    let mut short_of_memory = Pause::new(context, "memory", "until new clients fit into what is left");
    let mut short_of_places = Pause::new(context, "limits.connections", NOBODY_IDLE);
    let admitting = async {
        room.admit_to_memory(&mut place, || short_of_memory.begin()).await;
        drop(short_of_memory);
        room.admit(&mut place, || short_of_places.begin()).await;
    };
    tokio::select! {
        biased;
        // Who was let in is served, limit or not: most leave now.
        () = closing(drain) => {}
        () = admitting => {}
    }
    spawn(context, stream, peer, place, drain);
}

/// A place for a new connection, unless its address has too many: then it is to be closed.
fn enter<H>(context: &ConnectionContext<H>, stream: &TcpStream, peer: SocketAddr) -> Option<Place> {
    let address = canonical(peer).ip();
    // Behind a trusted forwarder are the connections of many clients, and so are behind one that tells whose they are: those
    // count when it has told.
    let is_balancer = context.proxy_protocol.as_ref().is_some_and(|protocol| proxy_header::trusts(protocol, address));
    let counted = (!is_balancer && !context.trusts(address)).then_some(address);
    let place = context.drain.room().enter(counted);
    if place.is_err() {
        context.metrics.closed(Side::Downstream, Reason::AddressLimit);
        tracing::debug!(%peer, "closed: the address has as many connections as limits.connectionsPerAddress allows");
        // Whoever opens too many costs no more than this.
        let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }
    place.ok()
}

fn spawn<H: Handler>(
    context: &Rc<ConnectionContext<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    drain: &Drain,
) {
    let (context, drain) = (Rc::clone(context), drain.clone());
    tokio::task::spawn_local(async move {
        let metrics = Arc::clone(&context.metrics);
        if context.mode.get() == ListenerMode::Relay {
            let mut relaying = pin!(relay(context, stream, peer, place, drain.clone()));
            let _ = poll_fn(|cx| poll_counted(&metrics, Where::Connection, relaying.as_mut(), cx)).await;
        } else {
            let mut serving = pin!(secure_and_serve(context, stream, peer, place));
            let _ = poll_fn(|cx| poll_counted(&metrics, Where::Connection, serving.as_mut(), cx)).await;
        }
        // Held until here: the process waits for its connections.
        drop(drain);
    });
}

/// Passes the bytes of a connection on, which holds its place for as long.
async fn relay<H: Handler>(
    context: Rc<ConnectionContext<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    mut drain: Drain,
) {
    place.presence().busy();
    // It has no head that memory would have to be kept for.
    place.presence().newness().end();
    let _open = Open::begin(&context);
    let closing = async move { drain.reached(Phase::Closing).await };
    let (listener, listener_name) = (context.listener, Arc::clone(&context.listener_name));
    let connection = Relayed { listener, listener_name, stream, peer: canonical(peer) };
    Rc::clone(&context.handler).relay(connection, closing).await;
    drop(place);
}

/// Serves a connection, behind its PROXY header where the listener takes one, and its handshake where TLS is spoken.
async fn secure_and_serve<H: Handler>(
    context: Rc<ConnectionContext<H>>,
    stream: TcpStream,
    peer: SocketAddr,
    mut place: Place,
) {
    let ends = match &context.proxy_protocol {
        None => Some(Ends::of(&stream, peer)),
        Some(protocol) => proxy_header::boxed(&context, protocol, (&stream, peer), &mut place).await,
    };
    let Some(ends) = ends else { return };
    let connection = match &context.tls {
        None => Some(stream.into()),
        Some(tls) => handshake::boxed(&context, tls, (stream, ends.peer), &mut place).await,
    };
    if let Some(connection) = connection {
        serve(context, connection, ends, place).await;
    }
}

fn empty_queue<H: Handler>(context: &Rc<ConnectionContext<H>>, listener: TcpListener, drain: &Drain) {
    // `std`'s accept is asked directly: tokio's would wait for readiness that it has not seen.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            take_in(context, stream, peer, drain);
        }
    }
}

/// Serves a connection whatever the number of those that are served: most leave now.
fn take_in<H: Handler>(context: &Rc<ConnectionContext<H>>, stream: TcpStream, peer: SocketAddr, drain: &Drain) {
    if let Some(place) = enter(context, &stream, peer) {
        spawn(context, stream, peer, place, drain);
    }
}

/// Whether an error of accept concerns the connection that would have been accepted, not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::task::LocalSet;

    use super::*;
    use crate::model::ids::ListenerId;
    use crate::proxy::downstream::{AnswerForm, CheckedHead, Downstream, OwnAnswer};
    use crate::proxy::listeners::serve_all;
    use crate::proxy::room::{Room, WorkerRoom};
    use crate::proxy::worker_drain::WorkerDrain;
    use crate::settings::{Deadlines, Forwarding, Limits, Listener, ProxyProtocol};
    use crate::telemetry::access_log::RequestLine;
    use crate::telemetry::metrics::{Metrics, MetricsOptions};

    #[test]
    fn workers_share_one_port() {
        let bound = bind("web", "127.0.0.1:0".parse().expect("an address"), 3).expect("bound");
        assert_ne!(bound.address.port(), 0);
        assert_eq!(bound.sockets.len(), 3);
        for socket in &bound.sockets {
            assert_eq!(socket.local_addr().expect("bound"), bound.address);
        }
    }

    #[test]
    fn accepted_connections_have_the_options_of_their_listener() {
        let bound = bind("web", "127.0.0.1:0".parse().expect("an address"), 2).expect("bound");
        let (keepalive, user_timeout) = (Duration::from_secs(40), Duration::from_secs(90));
        bound.set_timeouts(TcpTimeouts { keepalive, user_timeout });
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(std::net::TcpStream::connect(bound.address).expect("queued"));
        }
        let mut accepted = 0;
        for listener in &bound.sockets {
            while let Ok((stream, _)) = listener.accept() {
                let socket = socket2::SockRef::from(&stream);
                assert!(socket.keepalive().expect("an option"));
                assert_eq!(socket.tcp_keepalive_time().expect("an option"), keepalive);
                assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(user_timeout));
                assert_eq!(socket.tcp_notsent_lowat().expect("an option"), UNSENT);
                assert!(socket.tcp_nodelay().expect("an option"));
                accepted += 1;
            }
        }
        assert_eq!(accepted, clients.len());
    }

    #[test]
    fn a_taken_port_is_refused_in_one_line() {
        let first = bind("web", "127.0.0.1:0".parse().expect("an address"), 2).expect("bound");
        let error = bind("other", first.address, 2).expect_err("taken, though by sockets with SO_REUSEPORT");
        assert!(matches!(error, BindError::InUse { .. }));
        assert_eq!(error.to_string(), format!("listener other: address {} is in use", first.address));
    }

    #[test]
    fn the_dual_stack_default_serves_ipv4() {
        let bound = bind("web", "[::]:0".parse().expect("an address"), 1).expect("bound");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, bound.address.port()));
        std::net::TcpStream::connect(to).expect("reached over IPv4");
    }

    /// Answers every request with an empty 200.
    struct Empty;

    impl Handler for Empty {
        type Body = http_body_util::Empty<bytes::Bytes>;

        async fn handle(
            self: Rc<Self>,
            _: Rc<Downstream>,
            _: CheckedHead,
            _: http::Request<crate::proxy::received_body::ReceivedBody>,
        ) -> http::Response<Self::Body> {
            http::Response::default()
        }

        fn relay(
            self: Rc<Self>,
            _: Relayed,
            _: impl Future<Output = ()> + 'static,
        ) -> impl Future<Output = ()> + 'static {
            std::future::ready(())
        }

        fn own_answer(&self, _: &Downstream, _: OwnAnswer, _: AnswerForm) -> http::Response<Self::Body> {
            http::Response::default()
        }

        fn log_unhandled(&self, _: &Downstream, _: Option<RequestLine>, _: OwnAnswer) {}
    }

    /// Clients that connect without pause while the listener closes: each is served, or not let in.
    #[test]
    fn nobody_is_let_in_and_then_reset_as_the_listener_closes() {
        let rounds: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| {
                    let bound = bind("web", "127.0.0.1:0".parse().expect("an address"), 1).expect("bound");
                    let address = bound.address;
                    let (control, drain) = crate::drain::channel();
                    let clients: Vec<_> =
                        (0..4).map(|_| std::thread::spawn(move || connect_until_refused(address))).collect();
                    let closing = std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(100));
                        control.advance(Phase::Closing);
                        control
                    });
                    serve_one(bound, drain);
                    drop(closing.join().expect("no panic"));
                    clients.into_iter().map(|client| client.join().expect("no client was reset")).sum::<usize>()
                })
            })
            .collect();
        let served: usize = rounds.into_iter().map(|round| round.join().expect("no panic")).sum();
        assert!(served > 100, "only {served} were served");
    }

    #[test]
    fn a_closing_listener_answers_no_syn_and_finishes_what_has_begun() {
        let bound = bind("web", "127.0.0.1:0".parse().expect("an address"), 1).expect("bound");
        let mut early = std::net::TcpStream::connect(bound.address).expect("queued");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _entered = runtime.enter();
        let socket = bound.sockets.into_iter().next().expect("one worker");
        let listener = TcpListener::from_std(socket).expect("registered");
        refuse_syns(&listener).expect("a filter");
        let late = std::net::TcpStream::connect_timeout(&bound.address, Duration::from_millis(100));
        assert_eq!(late.expect_err("not let in").kind(), io::ErrorKind::TimedOut);
        early.write_all(b"hello").expect("written");
        let (mut accepted, _) = listener.into_std().expect("a socket").accept().expect("one waits");
        accepted.set_nonblocking(false).expect("a socket");
        let mut bytes = [0; 5];
        accepted.read_exact(&mut bytes).expect("it works as ever");
        accepted.write_all(&bytes).expect("written");
        early.read_exact(&mut bytes).expect("it works as ever");
    }

    /// Asks on a connection after the other until there is no listener; how often.
    fn connect_until_refused(address: SocketAddr) -> usize {
        let mut served = 0;
        while let Ok(mut client) = std::net::TcpStream::connect(address) {
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("written");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("no reset");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
            served += 1;
        }
        served
    }

    /// Serves a listener until its drain is over.
    fn serve_one(bound: BoundListener, drain: Drain) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let name: Arc<str> = "web".into();
            let options = MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 10 };
            let settings = Listener {
                address: bound.address,
                http2_prior_knowledge: false,
                proxy_protocol: ProxyProtocol::default(),
                mode: crate::settings::ListenerMode::Gateway,
                trusted_forwarders: Vec::new(),
                health_path: None,
                allowed_namespaces: None,
                tls: None,
            };
            let room = Room::new(&Limits::default(), 1);
            let worker = WorkerDrain::new(WorkerRoom::new(&room, 0));
            let context = ConnectionContext::new(
                (ListenerId(0), name),
                &settings,
                (&Deadlines::default(), &Limits::default(), &Forwarding::default()),
                Rc::new(Empty),
                Metrics::new(options).worker(0).expect("one worker"),
                Rc::clone(&worker),
            );
            let socket = bound.sockets.into_iter().next().expect("one worker");
            serve_all([(context, socket)], drain).await;
            assert_eq!(worker.room().connections(), 0);
        });
    }

    #[test]
    fn a_drain_serves_who_waits_in_the_queue_and_joins() {
        let bound = bind("web", "127.0.0.1:0".parse().expect("an address"), 1).expect("bound");
        // Let in by the kernel before anyone accepts.
        let mut clients: Vec<_> =
            (0..10).map(|_| std::net::TcpStream::connect(bound.address).expect("queued")).collect();
        for client in &mut clients {
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("written");
        }
        let (control, drain) = crate::drain::channel();
        control.advance(Phase::Closing);
        let address = bound.address;
        serve_one(bound, drain);
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("no reset");
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close"), "{answer}");
        }
        std::net::TcpStream::connect(address).expect_err("nobody listens");
    }

    #[test]
    fn an_address_of_another_host_is_an_error_with_its_cause() {
        let error = bind("web", "203.0.113.1:0".parse().expect("an address"), 1).expect_err("not ours");
        assert!(std::error::Error::source(&error).is_some());
    }
}
