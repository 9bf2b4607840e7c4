//! Connecting to one address, within its deadlines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::stream::Stream;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::balance::{Connected, EndpointState};
use crate::telemetry::metrics::WorkerMetrics;
use crate::tls::ClientTls;

/// Counts a connection to an endpoint as open while it lives.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<WorkerMetrics>,
    place: Connected,
}

impl OpenConnection {
    /// Begins to count.
    #[must_use]
    pub fn new(metrics: Arc<WorkerMetrics>, place: Connected) -> Self {
        metrics.upstream_connections_open.inc();
        Self { metrics, place }
    }

    /// The endpoint that it goes to.
    pub(super) fn endpoint(&self) -> &Arc<EndpointState> {
        self.place.endpoint()
    }

    /// The worker's cells.
    pub(super) fn shared_metrics(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.metrics)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.metrics.upstream_connections_open.dec();
    }
}

/// Why no connection came about.
#[derive(Debug)]
pub enum ConnectError {
    /// Refused, unreachable, or out of sockets.
    Failed(io::Error),
    /// The deadline passed.
    TimedOut,
    /// There is a connection, and no TLS on it: nothing was agreed, or not in time.
    Tls(io::Error),
}

impl ConnectError {
    /// The same once more, for one who waited for the same connect.
    #[must_use]
    pub(super) fn copy(&self) -> Self {
        match self {
            // With the number of the system call's error where there is one.
            Self::Failed(error) => {
                Self::Failed(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))
            }
            Self::TimedOut => Self::TimedOut,
            Self::Tls(error) => Self::Tls(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// Why a request has got no connection.
#[derive(Debug)]
pub struct ConnectFailure {
    /// What became of the connect.
    pub error: ConnectError,
    /// It was another request's, which this one waited for.
    pub learned: bool,
}

impl From<ConnectError> for ConnectFailure {
    fn from(error: ConnectError) -> Self {
        Self { error, learned: false }
    }
}

/// Connects to `addr` within `timeout` (zero: no limit of its own) and before `deadline`.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect_to(
    addr: SocketAddr,
    timeout: Duration,
    deadline: Option<Instant>,
) -> Result<Stream, ConnectError> {
    let own = (!timeout.is_zero()).then(|| Instant::now() + timeout);
    let connecting = TcpStream::connect(addr);
    let result = match own.into_iter().chain(deadline).min() {
        Some(until) => tokio::time::timeout_at(until, connecting).await.map_err(|_| ConnectError::TimedOut)?,
        None => connecting.await,
    };
    let stream = Stream::from(result.map_err(ConnectError::Failed)?);
    // Requests and body chunks go out as they come; waiting for more would only add latency.
    stream.set_nodelay().map_err(ConnectError::Failed)?;
    Ok(stream)
}

/// Does the TLS handshake on a fresh connection, before `until`.
///
/// # Errors
/// [`ConnectError::Tls`].
pub async fn secure(
    stream: Stream,
    (tls, config): (&ClientTls, &Arc<ClientConfig>),
    is_http2: bool,
    until: Option<Instant>,
) -> Result<Stream, ConnectError> {
    let Stream::Plain(socket) = stream else { return Ok(stream) };
    let shaking = tls.shake_hands(config, socket, is_http2);
    let result = match until {
        Some(until) => tokio::time::timeout_at(until, shaking)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))),
        None => shaking.await,
    };
    Ok(Stream::TlsToEndpoint(Box::new(result.map_err(ConnectError::Tls)?)))
}
