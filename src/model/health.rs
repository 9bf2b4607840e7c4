//! Active checks of a rule's endpoints, as plain values.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// What endpoints are asked at intervals, and what their answers mean. Equal checks are one: however many rules have it,
/// an endpoint is asked once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is asked.
    pub question: Question,
    /// The port that is asked; `None`: that of the endpoint.
    pub port: Option<NonZeroU16>,
    /// The host that is asked for; `None`: the address.
    pub host: Option<Arc<str>>,
    /// From the beginning of a check to that of the next; 1 s to 1 h.
    pub interval: Duration,
    /// How long connecting and the answer may take; above 0, at most the interval.
    pub timeout: Duration,
    /// Bad answers in a row that make an endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u8,
    /// Good answers in a row that make it healthy again; at least 1.
    pub healthy_threshold: u8,
}

/// What an endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// `GET`.
    Get {
        /// Path and query.
        path: Arc<str>,
        /// The statuses of a good answer; not empty.
        expected: Box<[RangeInclusive<u16>]>,
    },
    /// The gRPC health protocol, over HTTP/2 whatever the backend's protocol
    /// (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).
    Grpc {
        /// The service that is asked for; empty: the server as a whole.
        service: Arc<str>,
    },
}

impl HealthCheck {
    /// Whether a status is a good answer to `GET`.
    #[must_use]
    pub fn expects(&self, status: StatusCode) -> bool {
        match &self.question {
            Question::Get { expected, .. } => expected.iter().any(|range| range.contains(&status.as_u16())),
            Question::Grpc { .. } => status == StatusCode::OK,
        }
    }
}

/// What is asked in short, for people: `GET /healthz`, with host and port where the check names them.
impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.question {
            Question::Get { path, .. } => write!(f, "GET {path}")?,
            Question::Grpc { service } if service.is_empty() => f.write_str("gRPC health of the server")?,
            Question::Grpc { service } => write!(f, "gRPC health of {service}")?,
        }
        if let Some(host) = &self.host {
            write!(f, " of host {host}")?;
        }
        match self.port {
            Some(port) => write!(f, " at port {port}"),
            None => Ok(()),
        }
    }
}
