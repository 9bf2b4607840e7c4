//! ConcurrencyLimit.

use std::sync::Arc;
use std::time::Duration;

use super::faults::Faults;
use super::list::List;
use crate::api::filter as api;
use crate::api::gateway_route::GatewayRouteSpec;
use crate::compile::report::FieldPath;
use crate::model::filter::{ConcurrencyLimit, FilterList, StateKey};

/// Checks a limit; `position` is its place among those of the list.
pub(super) fn concurrency_limit(
    limit: &api::ConcurrencyLimit,
    (list, position): (&List<'_>, usize),
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<ConcurrencyLimit> {
    let before = report.count;
    let keys = report.keys(&limit.keys, at, list.predicates);
    let status = report.refusal(limit.status_code, at);
    if limit.max_in_flight == 0 {
        report.drop_rule(at.field("maxInFlight"), "0", "1 and more; DirectResponse answers every request");
    } else if limit.weight == 0 || limit.weight > limit.max_in_flight {
        let expected = format!("1 to maxInFlight, {}: no request could pass", limit.max_in_flight);
        report.drop_rule(at.field("weight"), limit.weight.to_string(), expected);
    }
    let queue_timeout = match &limit.queue_timeout {
        None if limit.max_queued > 0 => {
            report.drop_rule(at.field("queueTimeout"), "nothing", "a duration above 0s, as maxQueued is above 0");
            Duration::ZERO
        }
        None => Duration::ZERO,
        Some(text) => match text.as_duration().filter(|timeout| !timeout.is_zero()) {
            Some(timeout) => timeout,
            None => {
                report.drop_rule(at.field("queueTimeout"), &*text.0, "a duration above 0s; maxQueued 0 is no queue");
                Duration::ZERO
            }
        },
    };
    let state = match &limit.pool {
        None => list.state_key("ConcurrencyLimit", position),
        Some(pool) => {
            if let Some(first) = first_of_pool(list.spec, pool)
                && first.max_in_flight != limit.max_in_flight
            {
                let expected = format!("{}, which the first filter of pool {pool} has", first.max_in_flight);
                report.drop_rule(at.field("maxInFlight"), limit.max_in_flight.to_string(), expected);
            }
            let place = FilterList::Pool(pool.as_str().into());
            Arc::new(StateKey { route: list.name.clone(), place, filter: "ConcurrencyLimit", position: 0 })
        }
    };
    let limit = ConcurrencyLimit {
        state,
        max_in_flight: limit.max_in_flight,
        weight: limit.weight,
        max_queued: limit.max_queued,
        queue_timeout,
        keys: keys?,
        status: status?,
        shadow: limit.shadow,
    };
    (report.count == before).then_some(limit)
}

/// The first filter of a pool in a route, in the order of its lists.
fn first_of_pool<'s>(spec: &'s GatewayRouteSpec, pool: &str) -> Option<&'s api::ConcurrencyLimit> {
    let of_rules = spec.rules.iter().flat_map(|rule| {
        let of_references = rule.backend_refs.iter().flat_map(|reference| reference.filters.iter());
        rule.filters.iter().chain(of_references)
    });
    let mut limits = spec.filters.iter().chain(of_rules).filter_map(|filter| filter.concurrency_limit.as_ref());
    limits.find(|limit| limit.pool.as_deref() == Some(pool))
}
