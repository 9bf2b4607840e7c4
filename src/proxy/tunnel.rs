//! A tunnel: the raw bytes of an upgraded or relayed connection, both ways, until both ends have finished.
//!
//! It belongs to its connection, never to the configuration: it holds no snapshot, and no publication reaches it. Bytes
//! are read into one buffer of the worker and written on at once; only what a short write leaves is kept, so an idle
//! socket costs its two descriptors and little else. FIN is passed on as FIN, reset as reset, each behind the bytes that came
//! before it. To end a socket gently a WebSocket close frame is put behind the current frame of each direction.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::client_end::ClientEnd;
use crate::http1::websocket::{Follower, close_frame};
use crate::sockets::OpenSocket;
use crate::stream::Stream;
use crate::telemetry::metrics::{self, WorkerMetrics};
use crate::timer::{Timer, earlier};

/// Size of the worker's read buffer: what 16 KiB messages like best, measured (12.0 against 17.3 us with 8 KiB).
pub const BUFFER: usize = 64 << 10;

/// How long a gently ended socket may take to finish its current frames and to answer with its own close.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// How long the last bytes of an end that has gone may take to the other one; a reset is to be passed on within 100 ms.
const LAST_BYTES: Duration = Duration::from_millis(50);

/// Limits of one tunnel.
#[derive(Clone, Copy, Debug, Default)]
pub struct TunnelLimits {
    /// End when no byte went either way for this long.
    pub idle: Option<Duration>,
    /// End after this long.
    pub lifetime: Option<Duration>,
    /// Code of the close frames that tidegate sends.
    pub close_code: u16,
    /// Key that masks the close frame to the endpoint; random in production.
    pub mask: [u8; 4],
    /// No frames of RFC 6455 are spoken: the bytes are passed on as they are, and no close frame is put between them.
    pub raw: bool,
}

/// The two ends of a tunnel.
#[derive(Debug)]
pub struct Ends {
    /// The client's socket, or its stream over HTTP/2.
    pub client: ClientEnd,
    /// The endpoint's socket.
    pub endpoint: Stream,
    /// What came glued to the handshake; goes first.
    pub from_client: Bytes,
    /// What came glued to the `101`; goes first.
    pub from_endpoint: Bytes,
}

/// Where a tunnel counts its bytes while it is open.
#[derive(Clone, Copy, Debug)]
pub struct Meter<'a> {
    /// The socket's entry in the registry.
    pub entry: &'a OpenSocket,
    /// The cells of the worker that runs it.
    pub metrics: &'a WorkerMetrics,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both ends finished.
    Finished,
    /// One end reset the connection, and so it was passed on.
    Reset,
    /// tidegate ended it.
    Closed(CloseCause),
}

/// What makes tidegate end a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The process stops.
    Drain,
    /// No byte went either way for the idle limit.
    Idle,
    /// It has reached the limit of its life.
    Lifetime,
    /// An operator asked for it.
    Admin,
}

/// Where a direction broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    /// Its source has gone, and all that it sent was read.
    Reading,
    /// Its target has gone. What that sent before may still wait to be read, by the other direction.
    Writing(io::ErrorKind),
}

/// One direction: from the stream it is read from to the stream it is written to.
#[derive(Debug, Default)]
struct Direction {
    /// Read, but not written yet.
    pending: Bytes,
    follower: Follower,
    /// The reading side has seen FIN.
    ended: bool,
    /// FIN was passed on.
    shut: bool,
    /// The close frame is put behind the current frame; from then on nothing of this direction is passed on.
    close: Option<Vec<u8>>,
    closed: bool,
    broken: Option<Broken>,
    /// The source is known to have reset the connection: the kernel says so once only, and then as if it were FIN.
    reset: bool,
    /// There are no frames: the bytes have no form that is known here.
    raw: bool,
}

/// Runs the tunnel between a client and an endpoint.
///
/// `drain` resolves when the process wants the socket gone, at the moment meant for this one, with the time that is left
/// for a gentle end. Dropping the future closes both streams.
pub async fn run(
    ends: Ends,
    meter: Meter<'_>,
    limits: TunnelLimits,
    buffer: &RefCell<Box<[u8]>>,
    drain: impl Future<Output = Duration>,
) -> End {
    let Ends { client, endpoint, from_client, from_endpoint } = ends;
    let mut tunnel = Tunnel {
        client,
        endpoint,
        up: Direction::glued(from_client, limits.raw),
        down: Direction::glued(from_endpoint, limits.raw),
        meter,
        buffer,
        active: Instant::now(),
        last_bytes: None,
    };
    let opened = Instant::now();
    let mut timer = Timer::default();
    let (mut drain, mut asked) = (pin!(drain), pin!(meter.entry.closed()));
    let why = poll_fn(|cx| {
        if let Poll::Ready(end) = tunnel.poll(cx) {
            return Poll::Ready(Err(end));
        }
        if let Poll::Ready(left) = drain.as_mut().poll(cx) {
            return Poll::Ready(Ok((CloseCause::Drain, left)));
        }
        if asked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok((CloseCause::Admin, CLOSE_GRACE)));
        }
        let idle = limits.idle.map(|after| (tunnel.active + after, CloseCause::Idle));
        let lifetime = limits.lifetime.map(|after| (opened + after, CloseCause::Lifetime));
        if let Some((at, cause)) = earlier(lifetime, idle) {
            ready!(timer.poll_until(cx, at));
            return Poll::Ready(Ok((cause, CLOSE_GRACE)));
        }
        Poll::Pending
    })
    .await;
    match why {
        Err(end) => end,
        Ok((cause, left)) => {
            tunnel.down.close = Some(close_frame(limits.close_code, None));
            tunnel.up.close = Some(close_frame(limits.close_code, Some(limits.mask)));
            // A peer that does not finish its frame or never answers is not waited for: then FIN alone must do.
            let _ = tokio::time::timeout(left.min(CLOSE_GRACE), poll_fn(|cx| tunnel.poll(cx))).await;
            End::Closed(cause)
        }
    }
}

struct Tunnel<'a> {
    client: ClientEnd,
    endpoint: Stream,
    up: Direction,
    down: Direction,
    meter: Meter<'a>,
    buffer: &'a RefCell<Box<[u8]>>,
    active: Instant,
    /// Set when a direction could not write: the other one may go on until then.
    last_bytes: Option<Pin<Box<Sleep>>>,
}

impl Tunnel<'_> {
    /// Moves what can be moved; ready when both directions have ended, or one of them broke and the other has passed on
    /// what came before.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Self { client, endpoint, up, down, meter, buffer, active, last_bytes } = self;
        let is_shared = client.is_shared();
        let mut moved = |bytes: usize, to_client: bool| {
            let now = Instant::now();
            *active = now;
            let Meter { entry, metrics } = *meter;
            if to_client {
                entry.sent_to_client(bytes, now.into_std());
                metrics.socket_moved(metrics::Direction::ToClient, bytes as u64, is_shared);
            } else {
                entry.sent_to_endpoint(bytes, now.into_std());
                metrics.socket_moved(metrics::Direction::ToEndpoint, bytes as u64, is_shared);
            }
        };
        let upwards = up.poll(cx, client, endpoint, buffer, |bytes| moved(bytes, false));
        down.reset = up.wrote_to_reset();
        let downwards = down.poll(cx, endpoint, client, buffer, |bytes| moved(bytes, true));
        up.reset = down.wrote_to_reset();
        match (upwards, downwards) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Finished),
            // The kernel says that an end has gone as soon as it is written to, even with bytes of it left to read: a
            // close frame, say, of a server that does not wait for an answer.
            (Poll::Ready(Err(Broken::Writing(_))), Poll::Pending)
            | (Poll::Pending, Poll::Ready(Err(Broken::Writing(_)))) => {
                let timer = last_bytes.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_BYTES)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(self.reset())
            }
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(self.reset()),
            _ => Poll::Pending,
        }
    }

    /// Passes a reset on: without lingering both sockets end with RST when they are dropped.
    fn reset(&self) -> End {
        // Where the option cannot be set the peer sees FIN, which is the next best.
        self.client.reset_on_drop();
        self.endpoint.reset_on_drop();
        End::Reset
    }
}

impl Broken {
    fn writing(error: io::Error) -> Self {
        Self::Writing(error.kind())
    }
}

impl Direction {
    fn glued(bytes: Bytes, raw: bool) -> Self {
        let mut follower = if raw { Follower::lost() } else { Follower::default() };
        follower.follow(&bytes);
        Self { pending: bytes, follower, raw, ..Self::default() }
    }

    /// Whether writing failed because the target had reset the connection. It is another error where FIN came before.
    fn wrote_to_reset(&self) -> bool {
        self.broken == Some(Broken::Writing(io::ErrorKind::ConnectionReset))
    }

    /// Reads and writes until one of the two would block; ready when FIN was passed on, or for good when it broke.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buffer: &RefCell<Box<[u8]>>,
        moved: impl FnMut(usize),
    ) -> Poll<Result<(), Broken>> {
        if let Some(broken) = self.broken {
            return Poll::Ready(Err(broken));
        }
        let ended = ready!(self.poll_unbroken(cx, from, to, buffer, moved));
        self.broken = ended.err();
        Poll::Ready(ended)
    }

    fn poll_unbroken(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buffer: &RefCell<Box<[u8]>>,
        mut moved: impl FnMut(usize),
    ) -> Poll<Result<(), Broken>> {
        loop {
            while !self.pending.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending));
                let count = written.map_err(Broken::writing)?;
                self.pending.advance(count);
                moved(count);
            }
            if self.close.is_some()
                && !self.closed
                && !self.ended
                && (self.follower.at_boundary() || self.follower.is_lost())
            {
                self.closed = true;
                if !self.follower.is_lost() {
                    self.pending = self.close.take().map(Bytes::from).unwrap_or_default();
                    continue;
                }
            }
            if (self.ended || self.closed) && !self.shut {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::writing)?;
                self.shut = true;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let filled = self.fill(cx, from, to, buffer, &mut moved);
            // TLS may hold bytes that it could not send at once.
            if filled.is_pending()
                && let Poll::Ready(flushed) = Pin::new(&mut *to).poll_flush(cx)
            {
                flushed.map_err(Broken::writing)?;
            }
            ready!(filled)?;
        }
    }

    /// One read into the worker's buffer, and one write of it; the rest is kept.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        buffer: &RefCell<Box<[u8]>>,
        moved: &mut impl FnMut(usize),
    ) -> Poll<Result<(), Broken>> {
        // Nothing below re-enters this worker: the borrow ends before the function does.
        let mut buffer = buffer.borrow_mut();
        let mut read = ReadBuf::new(&mut buffer);
        match ready!(Pin::new(from).poll_read(cx, &mut read)) {
            Ok(()) => {}
            // TLS that ends without close_notify. Frames tell what was cut off; in bytes without form it would be lost.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !self.raw => {}
            Err(_) => return Poll::Ready(Err(Broken::Reading)),
        }
        let bytes = read.filled();
        if bytes.is_empty() {
            self.ended = !self.reset;
            return Poll::Ready(if self.reset { Err(Broken::Reading) } else { Ok(()) });
        }
        if self.closed {
            return Poll::Ready(Ok(()));
        }
        let bytes = if self.close.is_some() {
            let end = self.follower.follow_frame(bytes);
            bytes.get(..end).unwrap_or(bytes)
        } else {
            self.follower.follow(bytes);
            bytes
        };
        let written = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(result) => result.map_err(Broken::writing)?,
            Poll::Pending => 0,
        };
        if written > 0 {
            moved(written);
        }
        self.pending = Bytes::copy_from_slice(bytes.get(written..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
