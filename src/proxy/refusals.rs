//! Tells operators why requests are refused, in the log of the process: the first of each reason in a while. The access log
//! has a line for each of them, and metrics count them.

use std::cell::RefCell;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::downstream::{Downstream, OwnAnswer};
use crate::reason::Reason;

/// How long a reason is not told again.
const PAUSE: Duration = Duration::from_secs(60);

/// What one worker has told.
#[derive(Debug)]
pub(super) struct Refusals(RefCell<[Told; Reason::ALL.len()]>);

impl Default for Refusals {
    fn default() -> Self {
        Self(RefCell::new([Told::default(); Reason::ALL.len()]))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    /// How many have come since.
    untold: u64,
}

impl Refusals {
    /// Tells a refusal, unless one with its reason was told a moment ago. Nothing of the request is quoted.
    pub(super) fn tell(&self, downstream: &Downstream, answer: OwnAnswer) {
        if let Some(untold) = self.admit(answer, Instant::now()) {
            let (listener, peer, status) = (&downstream.listener_name, downstream.peer, answer.status.as_u16());
            let untold = (untold > 0).then_some(untold);
            tracing::info!(%listener, %peer, status, reason = %answer.reason, untold, "a request is refused");
        }
    }

    /// Whether this is to be told; then how many of its reason were not, since the last one.
    fn admit(&self, answer: OwnAnswer, now: Instant) -> Option<u64> {
        // A method that is not served is a matter of taste, and 404 one of routes.
        if !answer.status.is_client_error() || answer.status == StatusCode::METHOD_NOT_ALLOWED {
            return None;
        }
        let mut all = self.0.borrow_mut();
        let told = all.get_mut(answer.reason as usize)?;
        if told.at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            told.untold += 1;
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_in_a_while() {
        let answer = |status, reason| OwnAnswer { status, reason, close: true };
        let bad = |reason| answer(StatusCode::BAD_REQUEST, reason);
        let (refusals, begin) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.admit(bad(Reason::Host), begin), Some(0));
        assert_eq!(refusals.admit(bad(Reason::Line), begin), Some(0));
        for _ in 0..7 {
            assert_eq!(refusals.admit(bad(Reason::Host), begin + PAUSE / 2), None);
        }
        assert_eq!(refusals.admit(bad(Reason::Host), begin + PAUSE), Some(7));
        assert_eq!(refusals.admit(bad(Reason::Line), begin + PAUSE), Some(0));
        assert_eq!(refusals.admit(answer(StatusCode::OK, Reason::Health), begin), None);
        assert_eq!(refusals.admit(answer(StatusCode::METHOD_NOT_ALLOWED, Reason::Method), begin), None);
    }
}
