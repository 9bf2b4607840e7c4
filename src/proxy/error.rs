//! What can go wrong with a request.
//!
//! Total tables: each [`ProxyError`] has one status, one reason, and one verdict on sending the request again.

use std::error::Error;
use std::io;

use http::StatusCode;
use rustix::io::Errno;

use super::deadlines::DeadlineKind;
use super::downstream::OwnAnswer;
use crate::http1::client::{ClientError, LengthMismatch};
use crate::http1::guard::GuardError;
use crate::reason::Reason;

/// Why a request did not get its backend's answer.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No route has the host.
    #[error("no route has this host")]
    NoHost,
    /// No match fits.
    #[error("no match fits the request")]
    NoPath,
    /// The rule has no backend, or the chosen reference cannot be resolved.
    #[error("the rule has no backend")]
    NoBackend,
    /// The backend has no usable endpoint.
    #[error("the backend has no endpoint")]
    NoEndpoints,
    /// A consistent hash refuses requests without a key.
    #[error("the request has no hash key")]
    MissingKey,
    /// The request is for a host with other certificates than its connection has.
    #[error("the request is for another host than its connection")]
    Misdirected,
    /// The request carries our hop mark twice.
    #[error("the request came round again")]
    Loop,
    /// An endpoint refused the connection or is unreachable.
    #[error("cannot connect to the endpoint")]
    Connect(#[source] io::Error),
    /// A connection attempt took too long; a NetworkPolicy that drops packets looks like this.
    #[error("connecting to the endpoint took too long")]
    ConnectTimeout,
    /// No TLS with the endpoint came about: its certificate is not trusted, or it does not speak TLS.
    #[error("no TLS with the endpoint")]
    UpstreamTls(#[source] io::Error),
    /// The connection broke before a response head.
    #[error("endpoint closed or reset the connection")]
    Reset(#[source] Box<dyn Error + Send + Sync>),
    /// The response breaks a rule.
    #[error("response refused")]
    BadResponse(#[source] Box<dyn Error + Send + Sync>),
    /// The endpoint accepted a handshake wrongly.
    #[error("handshake answered wrongly")]
    Handshake,
    /// A WebSocket over HTTP/2 where the rule or its endpoints have none.
    #[error("no WebSocket can be opened here")]
    NoUpgrade,
    /// The rule has as many upgraded connections as it may.
    #[error("the rule has too many upgraded connections")]
    MaxConnections,
    /// Every endpoint has as many requests as the rule allows, and no more may wait.
    #[error("every endpoint has as many requests as the rule allows")]
    EndpointLimit,
    /// No endpoint had room for the request in time.
    #[error("no endpoint had room in time")]
    PendingTimeout,
    /// No response head in time.
    #[error("no response head in time")]
    ResponseHead,
    /// One try took too long.
    #[error("one try took too long")]
    BackendRequest,
    /// The exchange took too long.
    #[error("the exchange took too long")]
    Request,
    /// Nothing moved in either direction for too long.
    #[error("the exchange was idle for too long")]
    ExchangeIdle,
    /// The client's request body failed; status and reason are the guard's, where it found the fault.
    #[error("request body failed")]
    RequestBody {
        /// 4xx.
        status: StatusCode,
        /// Why.
        reason: Reason,
        /// What reading it said.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The request cannot be said to the endpoint in its protocol.
    #[error("the request has no form in the endpoint's protocol")]
    Unsendable(#[source] Box<dyn Error + Send + Sync>),
    /// Working on it panicked.
    #[error("the request made tidegate panic")]
    Panic,
}

/// How an endpoint failed.
#[derive(Clone, Copy, Debug)]
struct EndpointFailure {
    /// The request may be sent again.
    retryable: bool,
    /// It let a deadline pass.
    timeout: bool,
}

impl ProxyError {
    /// The status of the own answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoHost | Self::NoPath => StatusCode::NOT_FOUND,
            Self::NoBackend | Self::Panic => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoints | Self::MaxConnections | Self::EndpointLimit | Self::PendingTimeout => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::MissingKey | Self::Unsendable(_) => StatusCode::BAD_REQUEST,
            Self::NoUpgrade => StatusCode::FORBIDDEN,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::UpstreamTls(error) if error.kind() == io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) | Self::UpstreamTls(_) | Self::Reset(_) | Self::BadResponse(_) | Self::Handshake => {
                StatusCode::BAD_GATEWAY
            }
            Self::ConnectTimeout | Self::ResponseHead | Self::BackendRequest | Self::Request | Self::ExchangeIdle => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::RequestBody { status, .. } => *status,
        }
    }

    /// The reason in log, metric and header.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoHost => Reason::NoHost,
            Self::NoPath => Reason::NoPath,
            Self::NoBackend => Reason::NoBackend,
            Self::NoEndpoints => Reason::NoEndpoints,
            Self::MissingKey => Reason::MissingKey,
            Self::Misdirected => Reason::Misdirected,
            Self::Loop => Reason::Loop,
            Self::Connect(_) | Self::ConnectTimeout => Reason::Connect,
            Self::UpstreamTls(_) => Reason::UpstreamTls,
            Self::Reset(_) => Reason::Reset,
            Self::BadResponse(_) => Reason::BadResponse,
            Self::Handshake | Self::NoUpgrade => Reason::Upgrade,
            Self::MaxConnections => Reason::MaxConnections,
            Self::EndpointLimit => Reason::EndpointLimit,
            Self::PendingTimeout => Reason::PendingTimeout,
            Self::ResponseHead => Reason::ResponseHead,
            Self::BackendRequest => Reason::BackendRequest,
            Self::Request => Reason::Request,
            Self::ExchangeIdle => Reason::ExchangeIdle,
            Self::RequestBody { reason, .. } => *reason,
            Self::Unsendable(_) => Reason::Target,
            Self::Panic => Reason::Panic,
        }
    }

    /// Whether it may be sent again, as far as the kind of failure goes; how far the request got decides the rest.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.of_endpoint().is_some_and(|failure| failure.retryable)
    }

    /// The endpoint let a deadline pass.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.of_endpoint().is_some_and(|failure| failure.timeout)
    }

    /// The endpoint failed before a response head, which its live numbers should know.
    #[must_use]
    pub fn is_endpoint_failure(&self) -> bool {
        self.of_endpoint().is_some()
    }

    /// The client is served better by an answer that an endpoint gave to an earlier try, where there is one, than by this
    /// failure of a later try.
    #[must_use]
    pub fn yields_to_answer(&self) -> bool {
        match self {
            Self::NoBackend
            | Self::NoEndpoints
            | Self::Connect(_)
            | Self::ConnectTimeout
            | Self::UpstreamTls(_)
            | Self::Reset(_)
            | Self::BadResponse(_)
            | Self::Handshake
            | Self::NoUpgrade
            | Self::EndpointLimit
            | Self::PendingTimeout
            | Self::ResponseHead
            | Self::BackendRequest
            | Self::Unsendable(_) => true,
            // The time of the whole exchange is over, the client's own fault, or ours.
            Self::Request
            | Self::ExchangeIdle
            | Self::RequestBody { .. }
            | Self::Panic
            | Self::NoHost
            | Self::NoPath
            | Self::MissingKey
            | Self::Misdirected
            | Self::Loop
            | Self::MaxConnections => false,
        }
    }

    /// What it says about the endpoint; `None` where it is none of the endpoint's doing.
    fn of_endpoint(&self) -> Option<EndpointFailure> {
        let (retryable, timeout) = match self {
            Self::Connect(_) | Self::UpstreamTls(_) | Self::Reset(_) => (true, false),
            Self::ConnectTimeout => (true, true),
            Self::BadResponse(_) | Self::Handshake => (false, false),
            Self::ResponseHead | Self::BackendRequest | Self::Request | Self::ExchangeIdle => (false, true),
            Self::NoHost
            | Self::NoPath
            | Self::NoBackend
            | Self::NoEndpoints
            | Self::MissingKey
            | Self::Misdirected
            | Self::Loop
            | Self::NoUpgrade
            | Self::MaxConnections
            | Self::EndpointLimit
            | Self::PendingTimeout
            | Self::RequestBody { .. }
            | Self::Unsendable(_)
            | Self::Panic => return None,
        };
        Some(EndpointFailure { retryable, timeout })
    }

    /// This process ran out of sockets, ports or memory: the failure says nothing about the endpoint.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let Self::Connect(err) = self else { return false };
        let errno = err.raw_os_error().map(Errno::from_raw_os_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::ADDRNOTAVAIL | Errno::NOBUFS | Errno::NOMEM))
    }

    /// Finds out what was wrong with the client's body: the guard says so inside the error that its reader hands on.
    #[must_use]
    pub fn request_body(source: Box<dyn Error + Send + Sync>) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(source.as_ref());
        while let Some(error) = cause {
            // An io::Error hides its own payload from the chain.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            let guard = error
                .downcast_ref::<GuardError>()
                .or_else(|| inner.and_then(|inner| inner.downcast_ref::<GuardError>()));
            if let Some(&GuardError { status, reason }) = guard {
                return Self::RequestBody { status, reason, source };
            }
            if error.is::<LengthMismatch>() {
                return Self::RequestBody { status: StatusCode::BAD_REQUEST, reason: Reason::Length, source };
            }
            cause = error.source();
        }
        // Neither framing nor limits: the client is gone, or reset its stream.
        Self::RequestBody { status: StatusCode::BAD_REQUEST, reason: Reason::ClientGone, source }
    }

    /// The own answer; a failed request body leaves the connection in no state to go on.
    #[must_use]
    pub fn answer(&self) -> OwnAnswer {
        OwnAnswer {
            status: self.status(),
            reason: self.reason(),
            close: matches!(self, Self::RequestBody { .. } | Self::Handshake | Self::Panic),
        }
    }
}

/// What a failure before the response head means.
impl From<ClientError> for ProxyError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Malformed(_) => Self::BadResponse(error.into()),
            ClientError::Handshake => Self::Handshake,
            ClientError::RequestBody(source) => Self::request_body(source),
            ClientError::Io(_) | ClientError::Closed | ClientError::Truncated => Self::Reset(error.into()),
        }
    }
}

/// What a deadline that passed before the response head means.
impl From<DeadlineKind> for ProxyError {
    fn from(kind: DeadlineKind) -> Self {
        match kind {
            DeadlineKind::ResponseHead => Self::ResponseHead,
            DeadlineKind::BackendRequest => Self::BackendRequest,
            DeadlineKind::Request => Self::Request,
            DeadlineKind::Idle => Self::ExchangeIdle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_out_of_sockets_is_not_the_endpoints_fault() {
        let connect = |errno: Errno| ProxyError::Connect(io::Error::from(errno));
        assert!(connect(Errno::MFILE).is_local());
        assert!(!connect(Errno::CONNREFUSED).is_local());
        assert!(!ProxyError::ConnectTimeout.is_local());
    }
}
