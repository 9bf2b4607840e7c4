//! The byte stream of a client's or an endpoint's connection: a TCP socket, or TLS over one.
//!
//! Whoever reads, writes, tunnels or pools connections takes a [`Stream`] and does not know what lies under it. Nothing
//! here knows HTTP.

mod counted;

use std::future::{Future as _, poll_fn};
use std::io::{self, BufRead as _, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::{client, server};

pub use counted::CountedSocket;

/// An established connection.
#[derive(Debug)]
pub enum Stream {
    /// The socket itself.
    Plain(TcpStream),
    /// TLS with a client, behind its handshake.
    Tls(Box<server::TlsStream<CountedSocket>>),
    /// TLS with an endpoint, behind its handshake.
    TlsToEndpoint(Box<client::TlsStream<TcpStream>>),
}

/// When TCP gives a peer up that has vanished without a word: neither FIN nor reset comes from a machine without power or
/// behind a gateway that has forgotten the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// After this long without a byte the peer is asked whether it is still there, and again each quarter of it; zero: never.
    pub keepalive: Duration,
    /// How long bytes or such a question may stay without an acknowledgement; zero: what the system does.
    pub user_timeout: Duration,
}

impl TcpTimeouts {
    /// Sets the options (SO_KEEPALIVE and its times, TCP_USER_TIMEOUT; RFC 9293 §3.8.3 and §3.8.4). Connections that a
    /// listening socket accepts have its options.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn apply<S: AsFd>(self, socket: &S) -> io::Result<()> {
        const PROBES: u32 = 4;
        let socket = SockRef::from(socket);
        if !self.keepalive.is_zero() {
            // The system counts whole seconds.
            let second = Duration::from_secs(1);
            let times = TcpKeepalive::new()
                .with_time(self.keepalive.max(second))
                .with_interval((self.keepalive / PROBES).max(second))
                .with_retries(PROBES);
            socket.set_tcp_keepalive(&times)?;
        }
        if !self.user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        }
        Ok(())
    }
}

/// Whether an idle connection can carry another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Open and silent; the task that asked is woken when that changes.
    Watched,
    /// Open and silent; the task is not woken before it asks again.
    Silent,
    /// Closed or broken.
    Closed,
    /// There are bytes that nobody has asked for.
    Unasked,
}

impl Liveness {
    /// Open and silent.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Watched | Self::Silent)
    }

    /// What a read of one byte says that does not wait.
    fn of_read(read: &io::Result<usize>) -> Self {
        match read {
            Ok(0) => Self::Closed,
            Ok(_) => Self::Unasked,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Silent,
            Err(_) => Self::Closed,
        }
    }
}

/// How the other side has ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// It sends no more behind what is not read yet; it may still read.
    Fin,
    /// The connection is gone.
    Reset,
}

impl Stream {
    /// Address of the other side.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// Our own address.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// Sends small writes at once instead of waiting for more (TCP_NODELAY).
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.socket().set_nodelay(true)
    }

    /// Lets TCP give the peer up when it has vanished.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn set_timeouts(&self, timeouts: TcpTimeouts) -> io::Result<()> {
        timeouts.apply(self.socket())
    }

    /// Lets the connection end with a reset when it is dropped: bytes that were not sent are given up.
    pub fn reset_on_drop(&self) {
        // A socket that is gone already needs no option.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }

    /// Looks whether the connection is open and silent.
    ///
    /// Free of system calls unless the reactor saw an event. A close that it has not seen yet slips through; the retry of
    /// stale connections is for that.
    pub fn poll_liveness(&mut self, cx: &mut Context<'_>) -> Liveness {
        match self {
            Self::Plain(socket) => match beyond_budget(cx, |cx| socket.poll_read_ready(cx)) {
                Poll::Pending => Liveness::Watched,
                Poll::Ready(Err(_)) => Liveness::Closed,
                Poll::Ready(Ok(())) => Liveness::of_read(&socket.try_read(&mut [0; 1])),
            },
            Self::Tls(stream) => poll_tls_liveness(stream, cx),
            Self::TlsToEndpoint(stream) => poll_tls_liveness(stream, cx),
        }
    }

    /// The end of the other side, seen without reading what lies before it. Free of system calls: it is what the reactor
    /// was told, and nobody is woken when that changes.
    #[must_use]
    pub fn seen_end(&self) -> Option<PeerEnd> {
        seen_end(self.socket())
    }

    /// Ready when a read may give something, if only an error; the task is woken when that changes. Free of system calls.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx).map(|_| ()),
            Self::Tls(stream) => {
                let (socket, session) = stream.get_mut();
                poll_tls_readable(session.reader().fill_buf(), socket.socket(), cx)
            }
            Self::TlsToEndpoint(stream) => {
                let (socket, session) = stream.get_mut();
                poll_tls_readable(session.reader().fill_buf(), socket, cx)
            }
        }
    }

    /// Asks the socket itself whether it is open and silent: one system call, and never late.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        let mut byte = [MaybeUninit::uninit(); 1];
        Liveness::of_read(&SockRef::from(self.socket()).peek(&mut byte))
    }

    /// Whether the socket is open and has nothing to read, as [`liveness`](Self::liveness) finds out.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.liveness().is_alive()
    }

    /// Whether what was written may still be held back here until it is flushed.
    #[must_use]
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(_) | Self::TlsToEndpoint(_) => true,
        }
    }

    /// How many bytes the socket under TLS with a client has taken; `None` elsewhere, where it has all that was written.
    #[must_use]
    pub fn taken(&self) -> Option<u64> {
        match self {
            Self::Plain(_) | Self::TlsToEndpoint(_) => None,
            Self::Tls(stream) => Some(stream.get_ref().0.taken()),
        }
    }

    /// The version of TLS that was agreed on with a client; `None` without TLS.
    #[must_use]
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) | Self::TlsToEndpoint(_) => None,
            Self::Tls(stream) => stream.get_ref().1.protocol_version()?.as_str(),
        }
    }

    /// The server name that a client has asked for in its handshake.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        match self {
            Self::Plain(_) | Self::TlsToEndpoint(_) => None,
            Self::Tls(stream) => stream.get_ref().1.server_name(),
        }
    }

    /// The socket under the stream.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0.socket(),
            Self::TlsToEndpoint(stream) => stream.get_ref().0,
        }
    }
}

/// Polls whatever is left of the task's budget: without any, everything is pending, whatever the reactor knows.
fn beyond_budget<T>(cx: &mut Context<'_>, poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(cx)
}

fn poll_tls_liveness<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Liveness {
    // What comes may be no more than a ticket or a new key.
    let mut byte = [0; 1];
    let mut buf = ReadBuf::new(&mut byte);
    match beyond_budget(cx, |cx| Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
        Poll::Pending => Liveness::Watched,
        Poll::Ready(Ok(())) if !buf.filled().is_empty() => Liveness::Unasked,
        Poll::Ready(_) => Liveness::Closed,
    }
}

fn poll_tls_readable(decrypted: io::Result<&[u8]>, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    // Decrypted bytes, or the end behind them, may wait while the socket has nothing new.
    let waits = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    if decrypted.is_err_and(waits) { socket.poll_read_ready(cx).map(|_| ()) } else { Poll::Ready(()) }
}

/// The end of the other side, as [`Stream::seen_end`] has it.
#[must_use]
pub fn seen_end(socket: &TcpStream) -> Option<PeerEnd> {
    let told = |interest| {
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(socket.ready(interest)).poll(&mut cx) {
            Poll::Ready(Ok(ready)) => ready,
            Poll::Ready(Err(_)) | Poll::Pending => Ready::EMPTY,
        }
    };
    if told(Interest::WRITABLE).is_write_closed() {
        Some(PeerEnd::Reset)
    } else {
        told(Interest::READABLE).is_read_closed().then_some(PeerEnd::Fin)
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // An end without close_notify. HTTP knows where its messages end (RFC 9112 §9.8).
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                result => result,
            },
            // There an end without close_notify stays an error: what ends with the connection may have been cut off.
            Self::TlsToEndpoint(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::TlsToEndpoint(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::TlsToEndpoint(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::TlsToEndpoint(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsToEndpoint(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsToEndpoint(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a fresh connection.
    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("accepted");
        (near.into(), listener.accept().await.expect("connected").0)
    }

    /// Looks until the answer is not what a silent connection gives.
    async fn changed(stream: &mut Stream) -> Liveness {
        poll_fn(|cx| match stream.poll_liveness(cx) {
            Liveness::Watched => Poll::Pending,
            Liveness::Silent => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            ended @ (Liveness::Closed | Liveness::Unasked) => Poll::Ready(ended),
        })
        .await
    }

    #[tokio::test]
    async fn a_silent_connection_is_alive_until_something_comes_or_it_ends() {
        let (mut stream, far) = pair().await;
        let first = poll_fn(|cx| Poll::Ready(stream.poll_liveness(cx))).await;
        assert!(first.is_alive());
        drop(far);
        assert_eq!(changed(&mut stream).await, Liveness::Closed, "closed");
        let (mut stream, mut far) = pair().await;
        far.write_all(b"x").await.expect("sent");
        assert_eq!(changed(&mut stream).await, Liveness::Unasked, "a byte that nobody asked for");
    }

    #[tokio::test]
    async fn an_end_is_seen_behind_bytes_that_are_not_read() {
        for (resets, expected) in [(false, PeerEnd::Fin), (true, PeerEnd::Reset)] {
            let (stream, mut far) = pair().await;
            far.write_all(b"bytes").await.expect("sent");
            stream.socket().readable().await.expect("there");
            assert_eq!(stream.seen_end(), None);
            if resets {
                Stream::from(far).reset_on_drop();
            } else {
                drop(far);
            }
            while stream.seen_end().is_none() {
                tokio::task::yield_now().await;
            }
            assert_eq!(stream.seen_end(), Some(expected));
        }
    }

    #[tokio::test]
    async fn tcp_asks_for_vanished_peers_as_it_is_told() {
        let seconds = Duration::from_secs;
        for (keepalive, user_timeout, expected) in [
            (seconds(40), seconds(90), Some((seconds(40), seconds(10)))),
            (Duration::from_millis(300), seconds(2), Some((seconds(1), seconds(1)))),
            (Duration::ZERO, Duration::ZERO, None),
        ] {
            let (stream, _far) = pair().await;
            stream.set_timeouts(TcpTimeouts { keepalive, user_timeout }).expect("options");
            let socket = SockRef::from(stream.socket());
            assert_eq!(socket.keepalive().expect("an option"), expected.is_some());
            if let Some((time, interval)) = expected {
                assert_eq!(socket.tcp_keepalive_time().expect("an option"), time);
                assert_eq!(socket.tcp_keepalive_interval().expect("an option"), interval);
            }
            let timeout = socket.tcp_user_timeout().expect("an option").unwrap_or_default();
            assert_eq!(timeout, user_timeout);
        }
    }

    #[tokio::test]
    async fn a_dropped_stream_can_reset_its_connection() {
        let (stream, mut far) = pair().await;
        stream.reset_on_drop();
        drop(stream);
        let mut byte = [0; 1];
        let read = tokio::io::AsyncReadExt::read(&mut far, &mut byte).await;
        assert_eq!(read.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
    }
}
