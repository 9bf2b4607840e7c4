//! Connecting to one address, within its deadlines.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::stream::Stream;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::balance::{Connected, EndpointState};
use crate::telemetry::metrics::WorkerMetrics;

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
