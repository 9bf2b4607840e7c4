//! When a request that failed is sent again. Pure: facts in, verdict out.
//!
//! Here stands what holds for every rule; [`policy`] has what a rule's `retry` block adds.

use http::Method;

use super::error::ProxyError;
use crate::telemetry::metrics::RetryTrigger;

pub mod policy;

/// A failed try.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: ProxyError,
    /// How far it had got.
    pub progress: Progress,
}

/// Why a try brings no answer for the client.
#[derive(Debug)]
pub enum Missed {
    /// It failed.
    Failed(Failure),
    /// Its response is one that the rule does not want; another try is granted.
    Unwanted(Again),
}

impl<E: Into<Failure>> From<E> for Missed {
    fn from(failure: E) -> Self {
        Self::Failed(failure.into())
    }
}

/// A further try that the rule's policy asks for and that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Why.
    pub trigger: RetryTrigger,
    /// How long to wait before it.
    pub pause: std::time::Duration,
}

/// A failure before anything was sent.
impl From<ProxyError> for Failure {
    fn from(error: ProxyError) -> Self {
        Self { error, progress: Progress::default() }
    }
}

/// How far a failed try had got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The connection had carried an exchange before.
    pub reused: bool,
    /// What the endpoint may have seen of the request.
    pub sent: Sent,
    /// Everything that was read of the client's body can be sent again.
    pub is_repeatable: bool,
    /// The endpoint has the whole request, as far as it was written.
    pub is_sent: bool,
    /// A byte of a response came.
    pub received: bool,
    /// It waited for another request's connect, which failed: nothing was tried for this one.
    pub learned: bool,
}

/// What an endpoint may have done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing: no byte of it was written.
    Nothing,
    /// Nothing, as the endpoint itself said (RFC 9113 §8.7: REFUSED_STREAM, or GOAWAY below the stream).
    Refused,
    /// Anything.
    Some,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            reused: false,
            sent: Sent::Nothing,
            is_repeatable: true,
            is_sent: false,
            received: false,
            learned: false,
        }
    }
}

/// What to do with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it to another endpoint of the rule.
    OtherEndpoint,
    /// Send it to the same endpoint on a fresh connection.
    FreshConnection,
    /// Answer the failure.
    GiveUp,
}

/// Endpoints that one exchange may try while none has seen a byte of it.
const MOST_ENDPOINTS: u8 = 5;
/// How many of these tries may end by a connect timeout.
const MOST_TIMEOUTS: u8 = 2;

/// The tries that one exchange has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    endpoints: u8,
    timeouts: u8,
    fresh_connection: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { endpoints: MOST_ENDPOINTS, timeouts: MOST_TIMEOUTS, fresh_connection: true }
    }
}

impl Tries {
    /// Decides about a failure whose kind allows another try, and takes the try it grants.
    ///
    /// - When a *reused* connection fails before a response byte, the endpoint most likely closed it while idle: the
    ///   request may go once more to the same endpoint on a fresh connection, if the endpoint did nothing with it, or if
    ///   the method is idempotent (`any_method` lifts the condition on the method).
    /// - The same holds when the endpoint says that it did nothing with the request.
    /// - A request that no endpoint has seen may go to another endpoint, whatever its method.
    pub fn judge(&mut self, method: &Method, failure: &Failure, any_method: bool) -> Verdict {
        let Failure { error, progress } = failure;
        if progress.received || !progress.is_repeatable {
            return Verdict::GiveUp;
        }
        let (is_unseen, fresh_helps) = match progress.sent {
            Sent::Nothing => (true, progress.reused),
            Sent::Refused => (true, true),
            Sent::Some => (false, progress.reused && (any_method || is_idempotent(method))),
        };
        if fresh_helps && std::mem::take(&mut self.fresh_connection) {
            return Verdict::FreshConnection;
        }
        if !is_unseen {
            return Verdict::GiveUp;
        }
        self.endpoints = self.endpoints.saturating_sub(1);
        if matches!(error, ProxyError::ConnectTimeout) {
            self.timeouts = self.timeouts.saturating_sub(1);
        }
        if self.endpoints == 0 || self.timeouts == 0 { Verdict::GiveUp } else { Verdict::OtherEndpoint }
    }
}

/// The methods that may be sent twice without being asked for it (RFC 9110 §9.2.2); TRACE never gets here.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused() -> ProxyError {
        ProxyError::Connect(io::ErrorKind::ConnectionRefused.into())
    }

    fn reset(progress: Progress) -> Failure {
        Failure { error: ProxyError::Reset("gone".into()), progress }
    }

    #[test]
    fn decides_as_the_table_says() {
        use Verdict::{FreshConnection, GiveUp, OtherEndpoint};
        let made = |reused, sent, is_repeatable| Progress { reused, sent, is_repeatable, ..Progress::default() };
        let fresh = |sent| made(false, sent, true);
        let reused = |sent| made(true, sent, true);
        let table = [
            ("nothing sent, any method", Method::POST, fresh(Sent::Nothing), false, OtherEndpoint),
            ("sent on a fresh connection", Method::GET, fresh(Sent::Some), false, GiveUp),
            ("refused by the endpoint, any method", Method::POST, fresh(Sent::Refused), false, FreshConnection),
            ("refused, but a part of the body is gone", Method::POST, made(true, Sent::Refused, false), true, GiveUp),
            ("stale, nothing written", Method::POST, reused(Sent::Nothing), false, FreshConnection),
            ("stale, idempotent", Method::GET, reused(Sent::Some), false, FreshConnection),
            ("stale, idempotent with unread body", Method::PUT, reused(Sent::Some), false, FreshConnection),
            ("stale, idempotent with read body", Method::PUT, made(true, Sent::Some, false), false, GiveUp),
            ("stale, not idempotent", Method::POST, reused(Sent::Some), false, GiveUp),
            ("stale, not idempotent, allowed", Method::POST, reused(Sent::Some), true, FreshConnection),
            ("stale, allowed, body read", Method::POST, made(true, Sent::Some, false), true, GiveUp),
            ("a response byte came", Method::GET, Progress { received: true, ..reused(Sent::Some) }, true, GiveUp),
        ];
        for (name, method, progress, any_method, expected) in table {
            assert_eq!(Tries::default().judge(&method, &reset(progress), any_method), expected, "{name}");
        }
    }

    #[test]
    fn a_fresh_connection_is_granted_once() {
        let mut tries = Tries::default();
        let stale = Progress { reused: true, sent: Sent::Some, ..Progress::default() };
        assert_eq!(tries.judge(&Method::GET, &reset(stale), false), Verdict::FreshConnection);
        assert_eq!(tries.judge(&Method::GET, &refused().into(), false), Verdict::OtherEndpoint);
        assert_eq!(tries.judge(&Method::GET, &reset(stale), false), Verdict::GiveUp);
    }

    #[test]
    fn five_endpoints_may_refuse_and_two_may_be_silent() {
        let verdicts = |errors: &[fn() -> ProxyError]| {
            let mut tries = Tries::default();
            errors.iter().map(|error| tries.judge(&Method::POST, &error().into(), false)).collect::<Vec<_>>()
        };
        let (refused, silent): (fn() -> ProxyError, fn() -> ProxyError) = (refused, || ProxyError::ConnectTimeout);
        let other = Verdict::OtherEndpoint;
        assert_eq!(verdicts(&[refused; 5]), [other, other, other, other, Verdict::GiveUp]);
        assert_eq!(verdicts(&[silent, silent]), [other, Verdict::GiveUp]);
        assert_eq!(verdicts(&[refused, silent, refused, silent]), [other, other, other, Verdict::GiveUp]);
    }
}
