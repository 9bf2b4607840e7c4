//! RateLimit.

use std::time::Duration;

use http::HeaderValue;

use super::faults::Faults;
use super::list::List;
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::model::filter::{FilterList, RateLimit, RateLimitFields};

/// The most requests a second: one for each microsecond.
const FASTEST: Duration = Duration::from_micros(1);

/// The longest interval.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A bucket is full again within this time, whatever was taken out.
const LONGEST_REFILL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Checks a limit; `position` is its place among those of the list.
pub(super) fn rate_limit(
    limit: &api::RateLimit,
    (list, position): (&List<'_>, usize),
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<RateLimit> {
    let before = report.count;
    let keys = report.keys(&limit.keys, at, list.predicates);
    let status = report.refusal(limit.status_code, at);
    if limit.requests == 0 {
        report.drop_rule(at.field("requests"), "0", "1 and more; DirectResponse answers every request");
        return None;
    }
    let whole = limit.interval.as_duration().filter(|whole| (Duration::from_secs(1)..=LONGEST).contains(whole));
    let Some(whole) = whole else {
        report.drop_rule(at.field("interval"), &*limit.interval.0, "a duration from 1s to 24h");
        return None;
    };
    let interval = whole / limit.requests;
    if interval < FASTEST {
        let found = format!("{} in {}", limit.requests, limit.interval.0);
        report.drop_rule(at.field("requests"), found, "at most 1000000 a second");
        return None;
    }
    // A bucket without room would admit nobody.
    let burst = limit.burst.unwrap_or(limit.requests).max(1);
    if interval.checked_mul(burst).is_none_or(|refill| refill > LONGEST_REFILL) {
        let found = format!("{burst}, which takes longer than 30 days to come together at this rate");
        report.drop_rule(at.field("burst"), found, "a smaller burst");
    }
    let fields = limit.fields.then(|| fields(list, limit.requests, whole));
    let state = list.state_key("RateLimit", position);
    let limit = RateLimit { state, interval, burst, keys: keys?, status: status?, shadow: limit.shadow, fields };
    (report.count == before).then_some(limit)
}

/// What answers say: the policy is named after the rule, or `route` for those of a whole route.
fn fields(list: &List<'_>, requests: u32, interval: Duration) -> RateLimitFields {
    let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let name = match &list.place {
        FilterList::Rule(name) | FilterList::BackendRef(name, _) if is_plain(name) => name.clone(),
        FilterList::Rule(_) | FilterList::BackendRef(..) => "rule".into(),
        FilterList::Route | FilterList::Pool(_) => "route".into(),
    };
    let policy = format!("\"{name}\";q={requests};w={}", interval.as_secs_f64().ceil());
    let policy = HeaderValue::try_from(policy).expect("letters, digits and punctuation");
    RateLimitFields { name, policy }
}
