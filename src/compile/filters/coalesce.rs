//! Coalesce.

use http::HeaderName;

use super::faults::Faults;
use super::list::List;
use crate::api::filter as api;
use crate::api::filter::CoalesceMethod;
use crate::api::open_enum::KnownValue;
use crate::compile::report::FieldPath;
use crate::model::filter::{Coalesce, Filter};

/// Most bytes of a body that may be shared: each call holds as many until its slowest client has them.
const MOST_BODY: u32 = 16 << 20;

/// What is expected of a filter that looks at every request, instead of standing inside of a Coalesce.
pub(super) const OUTSIDE: &str = "its place before Coalesce: inside of it, it would look at the first of equal requests alone, and let all others pass";

/// What is wrong with sessions beside a Coalesce: what was found, and what is expected.
pub(in crate::compile) const WITH_SESSIONS: (&str, &str) = (
    "sessionPersistence beside a Coalesce filter",
    "one of the two: the clients that share an answer cannot each have a session of their own",
);

/// Checks a Coalesce; `position` is its place among those of the list.
pub(super) fn coalesce(
    coalesce: &api::Coalesce,
    (list, position): (&List<'_>, usize),
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Coalesce> {
    let before = report.count;
    let (mut get, mut head) = (false, false);
    for (index, method) in coalesce.methods.iter().enumerate() {
        let at = at.item("methods", index);
        let Some(known) = method.known() else {
            report.unknown(at, method);
            continue;
        };
        let is_shared = match known {
            CoalesceMethod::Get => &mut get,
            CoalesceMethod::Head => &mut head,
        };
        if std::mem::replace(is_shared, true) {
            report.drop_rule(at, format!("{:?} once more", known.as_str()), "each method once");
        }
    }
    if coalesce.methods.is_empty() {
        report.drop_rule(at.field("methods"), "none", "GET, HEAD or both");
    }
    let mut vary: Vec<HeaderName> = Vec::with_capacity(coalesce.vary_headers.len());
    for (index, text) in coalesce.vary_headers.iter().enumerate() {
        let at = at.item("varyHeaders", index);
        match HeaderName::try_from(text.as_str()) {
            Ok(name) if vary.contains(&name) => {
                report.drop_rule(at, format!("{text:?} once more"), "each header once");
            }
            Ok(name) => vary.push(name),
            Err(_) => report.drop_rule(at, format!("{text:?}"), "the name of a header"),
        }
    }
    if coalesce.max_waiters == 0 {
        report.drop_rule(at.field("maxWaiters"), "0", "1 and more; without the filter nobody waits");
    }
    if coalesce.max_body_bytes > MOST_BODY {
        let expected = format!("0 to {MOST_BODY} (16 MiB), which is held until the slowest client has it");
        report.drop_rule(at.field("maxBodyBytes"), coalesce.max_body_bytes.to_string(), expected);
    }
    (report.count == before).then(|| Coalesce {
        state: list.state_key("Coalesce", position),
        get,
        head,
        vary,
        max_waiters: coalesce.max_waiters,
        max_body: coalesce.max_body_bytes.into(),
    })
}

/// Whether there is such a filter among these.
pub(in crate::compile) fn coalesces<'f>(mut filters: impl Iterator<Item = &'f Filter>) -> bool {
    filters.any(|filter| matches!(filter, Filter::Coalesce(_)))
}

/// Whether a filter decides by each request who may pass.
pub(super) fn decides_who_passes(layer: &Filter) -> bool {
    name_of_check(layer).is_some()
}

/// The type of such a filter, where a Coalesce around it would show it one of many requests alone.
pub(super) fn would_hide<'f>(outer: impl Iterator<Item = &'f Filter>, layer: &Filter) -> Option<&'static str> {
    name_of_check(layer).filter(|_| coalesces(outer))
}

fn name_of_check(layer: &Filter) -> Option<&'static str> {
    match layer {
        Filter::IpAccess(_) => Some("IPAccess"),
        Filter::BasicAuth(_) => Some("BasicAuth"),
        Filter::ApiKey(_) => Some("APIKey"),
        Filter::Jwt(_) => Some("JWT"),
        Filter::ExternalAuth(_) => Some("ExternalAuth"),
        _ => None,
    }
}
