//! Why a request to the API server failed, as far as it makes a difference.

use std::fmt;
use std::time::Duration;

use kube::core::Status;

use crate::kubernetes::{retry_after, with_causes};
use crate::telemetry::metrics::Restart;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// A list, in pages or as a stream.
    List,
    /// A watch that goes on from a version.
    Watch,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What kind of failure it is.
    pub(super) cause: Restart,
    /// What was asked for.
    pub(super) verb: Verb,
    /// The status of the API server; 0 without one.
    pub(super) code: u16,
    /// What the API server or the network says.
    pub(super) says: String,
    /// When the API server wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

impl Failure {
    pub(super) fn new(cause: Restart, verb: Verb, says: impl Into<String>) -> Self {
        Self { cause, verb, code: 0, says: says.into(), retry_after: None }
    }

    /// A status that came instead of an answer, or inside a watch.
    pub(super) fn of_status(verb: Verb, status: &Status) -> Self {
        let cause = match status.code {
            401 | 403 => Restart::Forbidden,
            404 => Restart::NotServed,
            410 => Restart::Expired,
            // Of an API server that lags behind the state that was seen: "Too large resource version".
            504 => Restart::Expired,
            429 => Restart::Throttled,
            0 => Restart::Broken,
            _ => Restart::Refused,
        };
        let retry_after = retry_after(status).filter(|_| cause == Restart::Throttled);
        let mut says = status.message.clone();
        if says.is_empty() {
            says = format!("status {} {}", status.code, status.reason);
        }
        Self { cause, verb, code: status.code, says, retry_after }
    }

    /// What the client says.
    pub(super) fn of(verb: Verb, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(verb, status),
            other => Self::new(Restart::Broken, verb, with_causes(other)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::List => "list",
            Verb::Watch => "watch",
        };
        write!(f, "{verb}: {}", self.says)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_their_code() {
        for (code, cause) in [
            (401, Restart::Forbidden),
            (403, Restart::Forbidden),
            (404, Restart::NotServed),
            (410, Restart::Expired),
            (504, Restart::Expired),
            (500, Restart::Refused),
            (422, Restart::Refused),
            (429, Restart::Throttled),
        ] {
            let status = serde_json::json!({ "message": "no", "code": code, "details": { "retryAfterSeconds": 3 } });
            let status: Status = serde_json::from_value(status).expect("a status");
            let failure = Failure::of_status(Verb::Watch, &status);
            assert_eq!(failure.cause, cause, "{code}");
            assert_eq!(failure.retry_after, (code == 429).then_some(Duration::from_secs(3)), "{code}");
            assert_eq!(failure.to_string(), "watch: no");
        }
    }
}
