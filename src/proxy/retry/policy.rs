//! Further tries that a rule's `retry` block asks for. Pure: facts in, verdict out.
//!
//! They come on top of what every rule does for requests that no endpoint has seen, and for connections that an endpoint
//! closed while they were idle.

use std::time::Duration;

use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};

use super::{Failure, Sent};
use crate::model::retry::Retry;
use crate::proxy::error::ProxyError;
use crate::proxy::grpc;
use crate::telemetry::metrics::{RetryDenial, RetryTrigger};

const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What a response head says about when the request may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    Unsaid,
    /// Not before so much time has passed.
    After(Duration),
    /// Not at all, or in no form that says when.
    Never,
}

/// A try that a rule wants to have followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What the rule looks for.
    pub trigger: RetryTrigger,
    /// What the endpoint asks for.
    pub pushback: Pushback,
}

/// Whether the rule wants a failed try followed by another one.
#[must_use]
pub fn wish_after_failure(retry: &Retry, method: &Method, failure: &Failure) -> Option<Wish> {
    let Failure { error, progress } = failure;
    if error.is_local() || progress.received {
        return None;
    }
    let is_method = retry.methods.contains(method);
    let trigger = match (error, progress.sent) {
        (
            ProxyError::Connect(_) | ProxyError::ConnectTimeout | ProxyError::UpstreamTls(_) | ProxyError::Reset(_),
            Sent::Nothing | Sent::Refused,
        ) => retry.on_connect_failure.then_some(RetryTrigger::Connect),
        (ProxyError::Reset(_), Sent::Some) => (retry.on_reset && is_method).then_some(RetryTrigger::Reset),
        // While the endpoint still waited for the request, the time was the client's.
        (ProxyError::ResponseHead | ProxyError::BackendRequest, _) => {
            (retry.on_timeout && is_method && progress.is_sent).then_some(RetryTrigger::Timeout)
        }
        _ => None,
    }?;
    Some(Wish { trigger, pushback: Pushback::Unsaid })
}

/// Whether the rule wants a response followed by another try instead of sent to the client.
#[must_use]
pub fn wish_after_answer(retry: &Retry, method: &Method, status: StatusCode, fields: &HeaderMap) -> Option<Wish> {
    if retry.codes.contains(&status) && retry.methods.contains(method) {
        return Some(Wish { trigger: RetryTrigger::Code, pushback: retry_after(fields) });
    }
    if retry.grpc_codes.is_empty() {
        return None;
    }
    let is_wanted = retry.grpc_codes.contains(grpc::status_of_head(fields)?);
    is_wanted.then(|| Wish { trigger: RetryTrigger::Grpc, pushback: grpc_pushback(fields) })
}

/// Retry-After (RFC 9110 §10.2.3). A date names a second at best, which is longer than any pause here lasts.
fn retry_after(fields: &HeaderMap) -> Pushback {
    let Some(value) = fields.get(RETRY_AFTER) else { return Pushback::Unsaid };
    let seconds = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| text.trim().parse().ok());
    seconds.map_or(Pushback::Never, |seconds| Pushback::After(Duration::from_secs(seconds)))
}

/// What gRPC servers say (<https://github.com/grpc/proposal/blob/master/A6-client-retries.md>): a negative or unreadable
/// value forbids further tries.
fn grpc_pushback(fields: &HeaderMap) -> Pushback {
    let Some(value) = fields.get(GRPC_PUSHBACK) else { return Pushback::Unsaid };
    let millis = std::str::from_utf8(value.as_bytes()).ok().and_then(|text| text.parse::<u32>().ok());
    millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis.into())))
}

/// What decides about a wish, beside the rule.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Further tries that the request has had by the rule's wish.
    pub made: u8,
    /// All that was read of its body can be sent again.
    pub is_repeatable: bool,
    /// It is itself a further try, as a forwarder that is believed says.
    pub is_further_try: bool,
    /// How long the whole exchange may still take; `None`: no limit.
    pub left: Option<Duration>,
}

/// The pause before the next try, or why there is none. `budget` takes the try out of the backend's budget, and is asked
/// last.
///
/// # Errors
/// `Some` reason, when the rule would have another try and does not get it.
pub fn decide(
    retry: &Retry,
    wish: Wish,
    facts: Facts,
    rng: &mut fastrand::Rng,
    budget: impl FnOnce() -> bool,
) -> Result<Duration, Option<RetryDenial>> {
    if facts.made >= retry.attempts {
        return Err(None);
    }
    let pause = match wish.pushback {
        Pushback::Never => return Err(None),
        Pushback::After(asked) if asked > retry.max_backoff => return Err(None),
        Pushback::After(asked) => asked,
        Pushback::Unsaid => {
            // At random from zero on, so that requests that failed together do not come back together.
            let longest = retry.backoff.saturating_mul(1 << facts.made.min(16)).min(retry.max_backoff);
            longest.mul_f64(rng.f64())
        }
    };
    if !facts.is_repeatable {
        Err(Some(RetryDenial::Body))
    } else if facts.is_further_try {
        Err(Some(RetryDenial::Forwarded))
    } else if facts.left.is_some_and(|left| left <= pause) {
        Err(Some(RetryDenial::Deadline))
    } else if !budget() {
        Err(Some(RetryDenial::Budget))
    } else {
        Ok(pause)
    }
}

#[cfg(test)]
mod tests;
