//! One check of one endpoint: who is asked, and what may be wrong.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;

use crate::balance::EndpointHealth;
use crate::model::backend::Protocol;
use crate::model::health::HealthCheck;
use crate::telemetry::metrics::CheckOutcome;
use crate::tls::ClientTls;

/// How checks introduce themselves.
pub(super) const USER_AGENT: &str = "tidegate-health/1";

/// What asks endpoints; another one in tests.
pub(super) trait Ask: Clone + Send + Sync + 'static {
    /// Asks once; dropping the future ends it.
    fn ask(&self, target: &Target) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Who is asked what.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) addr: SocketAddr,
    /// The same pod's address in the other IP family.
    pub(super) fallback: Option<SocketAddr>,
    pub(super) check: Arc<HealthCheck>,
    pub(super) protocol: Protocol,
    /// The settings of handshakes, for protocols over TLS.
    pub(super) tls: Option<Arc<ClientTls>>,
}

/// What was wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection came about.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// No TLS came about.
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    /// Another status than expected.
    #[error("status {0}")]
    Status(StatusCode),
    /// The endpoint says by gRPC that it is not well.
    #[error("{0}")]
    NotServing(String),
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
    /// The connection broke.
    #[error("no answer: {0}")]
    Broken(#[source] io::Error),
    /// The same over HTTP/2.
    #[error("no answer: {0}")]
    BrokenHttp2(#[source] h2::Error),
    /// The connection ended in order, and too early.
    #[error("the connection was closed before the answer")]
    Closed,
    /// An answer that breaks a rule.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
}

impl Failure {
    pub(super) fn outcome(&self) -> CheckOutcome {
        match self {
            Self::Connect(_) | Self::Tls(_) => CheckOutcome::Connect,
            Self::Status(_) | Self::NotServing(_) => CheckOutcome::Status,
            Self::TimedOut => CheckOutcome::Timeout,
            Self::Broken(_) | Self::BrokenHttp2(_) | Self::Closed | Self::Malformed(_) => CheckOutcome::Answer,
        }
    }
}

impl Target {
    pub(super) fn of(health: &EndpointHealth, tls: Option<Arc<ClientTls>>) -> Self {
        let (endpoint, check) = (health.endpoint(), Arc::clone(health.check()));
        let at_port = |addr: SocketAddr| SocketAddr::new(addr.ip(), check.port.map_or(addr.port(), u16::from));
        let (addr, fallback) = (at_port(endpoint.key.addr), endpoint.fallback().map(at_port));
        Self { addr, fallback, check, protocol: health.protocol(), tls }
    }

    /// The scheme of requests.
    pub(super) fn scheme(&self) -> &'static str {
        if self.protocol.is_secure() { "https" } else { "http" }
    }

    /// The host that is asked for.
    pub(super) fn authority(&self) -> String {
        self.check.host.as_deref().map_or_else(|| self.addr.to_string(), str::to_owned)
    }
}
