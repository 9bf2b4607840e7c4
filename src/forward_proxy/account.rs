//! What each request and each tunnel of the proxy leaves behind: a count, and a line in the access log.
//!
//! A request for a Service has its line from the listener that it is sent to, which knows its endpoint, and none from here.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::reason::Reason;
use crate::telemetry::access_log::{AccessLogEntry, AccessLogSender, RequestLine};
use crate::telemetry::metrics::{Exchange, ForwardProxyMetrics, Proxied};

/// How long a line waits for others before it is written.
const COLLECT: Duration = Duration::from_millis(100);

/// Status in the log of a request whose client went away before a head (nginx's 499).
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Where everything is counted and logged.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) metrics: Arc<ForwardProxyMetrics>,
    log: Option<Mutex<AccessLogSender>>,
    /// A line waits to be written.
    logged: Notify,
    /// What still runs ends now because the process does.
    is_over: AtomicBool,
}

impl Accounts {
    pub(super) fn new(metrics: Arc<ForwardProxyMetrics>, log: Option<AccessLogSender>) -> Arc<Self> {
        Arc::new(Self { metrics, log: log.map(Mutex::new), logged: Notify::new(), is_over: AtomicBool::new(false) })
    }

    /// Opens the account of a request.
    pub(super) fn open<B>(self: &Arc<Self>, request: &Request<B>, exchange: Exchange, peer: SocketAddr) -> Account {
        let entry = self.log.is_some().then(|| {
            let listener = Arc::clone(self.metrics.listener());
            let mut entry = AccessLogEntry::new(listener, peer.ip(), peer, Some(RequestLine::of(request)));
            let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
            entry.request_id = id.map(Into::into);
            // Whatever stands before it is a secret.
            let host = request.uri().authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or(""));
            entry.host = host.map(|host| host.to_ascii_lowercase().into());
            Box::new(entry)
        });
        Account {
            accounts: Arc::clone(self),
            exchange,
            began: Instant::now(),
            proxied: None,
            is_for_service: false,
            is_complete: false,
            received: Arc::default(),
            sent: 0,
            entry,
        }
    }

    /// From now on what ends early is cut off by the end of the process.
    pub(super) fn cut_off(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Hands lines over that were collected. Runs until it is dropped.
    pub(super) async fn write(self: Arc<Self>) {
        loop {
            self.logged.notified().await;
            tokio::time::sleep(COLLECT).await;
            if let Some(log) = &self.log {
                log.lock().unwrap_or_else(PoisonError::into_inner).flush();
            }
        }
    }
}

/// The account of one request or tunnel; closed when it is dropped, however that comes about.
#[derive(Debug)]
pub(super) struct Account {
    accounts: Arc<Accounts>,
    exchange: Exchange,
    began: Instant,
    proxied: Option<Proxied>,
    /// It is for one of the Services.
    pub(super) is_for_service: bool,
    /// It ended as its both sides meant it to.
    pub(super) is_complete: bool,
    /// Bytes from the client.
    received: Arc<AtomicU64>,
    /// Bytes to the client.
    sent: u64,
    entry: Option<Box<AccessLogEntry>>,
}

impl Account {
    /// Notes what becomes of it, and the status that the client is told.
    pub(super) fn became(&mut self, proxied: Proxied, status: u16) {
        self.accounts.metrics.became(self.exchange, proxied);
        self.proxied = Some(proxied);
        if let Some(entry) = &mut self.entry {
            (entry.status, entry.reason) = (status, proxied.reason());
        }
    }

    /// Notes who it was sent to, and how long it took until there was an answer or a connection.
    pub(super) fn sent_to(&mut self, endpoint: Option<SocketAddr>, took: Duration) {
        if let Some(entry) = &mut self.entry {
            (entry.endpoint, entry.attempts) = (endpoint, 1);
            match self.exchange {
                Exchange::Request => entry.head = Some(took),
                Exchange::Tunnel => entry.connect = Some(took),
            }
        }
    }

    /// Notes why it ended early, unless that is known.
    pub(super) fn ended(&mut self, reason: Reason) {
        if let Some(entry) = &mut self.entry {
            entry.reason.get_or_insert(reason);
        }
    }

    /// The request's body, counted.
    pub(super) fn count(&self, body: Incoming) -> Asked {
        Asked { body, bytes: Arc::clone(&self.received) }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let proxied = self.proxied.unwrap_or_else(|| {
            self.became(Proxied::ClientGone, CLIENT_CLOSED_REQUEST);
            Proxied::ClientGone
        });
        let is_logged_there = self.is_for_service
            && self.exchange == Exchange::Request
            && matches!(proxied, Proxied::Service | Proxied::ClientGone);
        let Some(mut entry) = self.entry.take().filter(|_| !is_logged_there) else { return };
        if !self.is_complete {
            let is_over = self.accounts.is_over.load(Ordering::Relaxed);
            entry.reason.get_or_insert(if is_over { Reason::Drain } else { Reason::ClientGone });
        }
        entry.bytes_in = self.received.load(Ordering::Relaxed);
        entry.bytes_out = self.sent;
        entry.duration = self.began.elapsed();
        if let Some(log) = &self.accounts.log {
            log.lock().unwrap_or_else(PoisonError::into_inner).push(*entry);
            self.accounts.logged.notify_one();
        }
    }
}

/// A request's body.
#[derive(Debug)]
pub(super) struct Asked {
    body: Incoming,
    bytes: Arc<AtomicU64>,
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.bytes.fetch_add(length(frame.as_ref()), Ordering::Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a server's answer; its end is that of the account.
#[derive(Debug)]
pub(super) struct Answered {
    body: Incoming,
    account: Account,
}

impl Answered {
    pub(super) const fn new(body: Incoming, account: Account) -> Self {
        Self { body, account }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.account.sent += length(frame.as_ref());
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.account.ended(Reason::Reset),
            None => self.account.is_complete = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        // One whose length is known is not asked for what follows its last byte.
        self.account.is_complete |= self.body.is_end_stream();
    }
}

fn length(frame: Option<&hyper::Result<Frame<Bytes>>>) -> u64 {
    let data = frame.and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}

/// The far end of a tunnel, with the account of what passes.
#[derive(Debug)]
pub(super) struct FarEnd {
    pub(super) stream: TcpStream,
    pub(super) account: Account,
}

impl AsyncRead for FarEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.account.sent += (buf.filled().len() - before) as u64;
        Poll::Ready(read)
    }
}

impl AsyncWrite for FarEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.account.received.fetch_add(*written.as_ref().unwrap_or(&0) as u64, Ordering::Relaxed);
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
