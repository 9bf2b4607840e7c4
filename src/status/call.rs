//! How a call to the API server ended, as far as it makes a difference to whoever writes.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::kubernetes::{retry_after, with_causes};

/// Why a call did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Somebody else was quicker: the object is another one now.
    Conflict(String),
    /// The object is not there.
    NotFound(String),
    /// These credentials may not do that.
    Forbidden(String),
    /// The API server refuses what was sent.
    Refused(String),
    /// The API server asks to come later, perhaps after this time.
    Busy(Option<Duration>, String),
    /// The API server failed at this call. Perhaps it cannot work now, perhaps what was sent is more than it expects: it
    /// answers so where an object would have an entry of a list twice (kubernetes/kubernetes#122480).
    Failed(String),
    /// There was no whole answer, or one that says that the API server cannot work now.
    Broken(String),
    /// There was no answer in time.
    TimedOut(Duration),
}

impl Failure {
    fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Broken(with_causes(error)) };
        let message = status.message.clone();
        match status.code {
            404 | 410 => Self::NotFound(message),
            409 => Self::Conflict(message),
            401 | 403 => Self::Forbidden(message),
            429 => Self::Busy(retry_after(status), message),
            400..500 => Self::Refused(message),
            500 => Self::Failed(message),
            _ => Self::Broken(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(message)
            | Self::NotFound(message)
            | Self::Forbidden(message)
            | Self::Refused(message)
            | Self::Busy(_, message)
            | Self::Failed(message)
            | Self::Broken(message) => f.write_str(message),
            Self::TimedOut(limit) => write!(f, "no answer within {limit:?}"),
        }
    }
}

/// Waits for a call, but not for longer than `limit`.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure(code: u16) -> Failure {
        let status = json!({ "message": "no", "code": code, "details": { "retryAfterSeconds": 3 } });
        Failure::of(&kube::Error::Api(serde_json::from_value(status).expect("a status")))
    }

    #[test]
    fn answers_are_told_apart_by_their_code() {
        let no = || "no".to_owned();
        for (code, expected) in [
            (401, Failure::Forbidden(no())),
            (403, Failure::Forbidden(no())),
            (404, Failure::NotFound(no())),
            (409, Failure::Conflict(no())),
            (410, Failure::NotFound(no())),
            (422, Failure::Refused(no())),
            (429, Failure::Busy(Some(Duration::from_secs(3)), no())),
            (500, Failure::Failed(no())),
            (503, Failure::Broken(no())),
        ] {
            assert_eq!(failure(code), expected, "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_never_answered_ends() {
        let limit = Duration::from_secs(2);
        let done = within(limit, std::future::pending::<Result<(), kube::Error>>()).await;
        assert_eq!(done, Err(Failure::TimedOut(limit)));
    }
}
