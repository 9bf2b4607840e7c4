//! RateLimit: so many requests per time.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::buckets::Verdict;
use super::decisions::Decision;
use super::layer::{Answer, Director, Flow, Memory, Quota, ResponseView};
use super::limit_state::RateLimitState;
use crate::model::filter::{RateLimit, RateLimitFields};
use crate::reason::Reason;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Admits the request or refuses it.
pub(super) fn request(limit: &RateLimit, state: &RateLimitState, director: &mut Director<'_, '_>) -> (Flow, Memory) {
    let (bucket, now) = state.bucket(&limit.keys, &director.key_source(), director.now);
    let verdict = bucket.take(now, limit.interval_nanos(), limit.burst);
    let (decision, flow) = match verdict {
        Verdict::Admitted { .. } => (Decision::Passed, Flow::Continue),
        Verdict::Refused { .. } if limit.shadow => (Decision::Shadow, Flow::Continue),
        Verdict::Refused { after, .. } => {
            // At least 1: a client that comes back at once would be refused again.
            let seconds = HeaderValue::from(seconds(after).max(1));
            let headers = HeaderMap::from_iter([(header::RETRY_AFTER, seconds)]);
            let answer = Answer { status: limit.status, headers, body: None, reason: Reason::RateLimit };
            (Decision::Refused, Flow::Respond(answer))
        }
    };
    state.decisions.count(director.worker, decision);
    if decision != Decision::Passed {
        director.note_limit(&limit.state, decision);
    }
    let (left, full_after) = match verdict {
        Verdict::Admitted { left, full_after } => (left, full_after),
        Verdict::Refused { full_after, .. } => (0, full_after),
    };
    let quota = Quota { left, full_after_seconds: seconds(full_after) };
    // What only counts is nobody else's business.
    let tells = limit.fields.is_some() && !limit.shadow;
    (flow, if tells { Memory::Quota(quota) } else { Memory::None })
}

/// Tells the client about the limit.
pub(super) fn response(limit: &RateLimit, memory: Memory, view: &mut ResponseView<'_>) {
    let (Memory::Quota(quota), Some(RateLimitFields { name, policy })) = (memory, &limit.fields) else { return };
    let Quota { left, full_after_seconds } = quota;
    let value = HeaderValue::try_from(format!("\"{name}\";r={left};t={full_after_seconds}"));
    // Several limits add to one list, as a pod that limits, too, does.
    view.headers.append(RATELIMIT_POLICY, policy.clone());
    view.headers.append(RATELIMIT, value.expect("a name that needs no escape, and numbers"));
}

/// Whole seconds, rounded up.
fn seconds(nanos: u64) -> u64 {
    nanos.div_ceil(NANOS_PER_SECOND)
}
