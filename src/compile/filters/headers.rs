//! RequestHeaderModifier and ResponseHeaderModifier.

use http::{HeaderName, HeaderValue};

use super::faults::Faults;
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::fields::{self, FieldFlags};
use crate::model::filter::HeaderEdits;

/// Checks edits of the fields of requests (`request`) or of responses.
pub(super) fn edits(
    modifier: &api::HeaderModifier,
    at: FieldPath<'_>,
    request: bool,
    report: &mut Faults<'_, '_>,
) -> Option<HeaderEdits> {
    let before = report.count;
    let mut edits = HeaderEdits::default();
    for (list, name, out) in [(&modifier.set, "set", &mut edits.set), (&modifier.add, "add", &mut edits.add)] {
        for (index, entry) in list.iter().enumerate() {
            let at = at.item(name, index);
            let Some(field) = field_name(&entry.name, at.field("name"), request, report) else { continue };
            if out.iter().any(|(other, _)| *other == field) {
                let expected = "names that differ beyond their case";
                report.drop_rule(at.field("name"), format!("{:?} again", entry.name), expected);
                continue;
            }
            let Ok(value) = HeaderValue::from_bytes(entry.value.as_bytes()) else {
                report.drop_rule(at.field("value"), format!("{:?}", entry.value), "no control bytes");
                continue;
            };
            out.push((field, value));
        }
    }
    for (index, name) in modifier.remove.iter().enumerate() {
        let at = at.item("remove", index);
        let Some(field) = field_name(name, at, request, report) else { continue };
        if edits.set.iter().chain(&edits.add).any(|(other, _)| *other == field) {
            let expected = "a name that this filter does not set or add: remove comes last";
            report.drop_rule(at, format!("{name:?}"), expected);
            continue;
        }
        edits.remove.push(field);
    }
    (report.count == before).then_some(edits)
}

/// The field of requests that a filter sets, as one of its own fields names it; `None` after a report.
pub(super) fn set_by_filter(name: &str, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<HeaderName> {
    field_name(name, at, true, report)
}

/// A name that filters may touch.
pub(super) fn field_name(
    name: &str,
    at: FieldPath<'_>,
    request: bool,
    report: &mut Faults<'_, '_>,
) -> Option<HeaderName> {
    let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
        report.drop_rule(at, format!("{name:?}"), "a header name");
        return None;
    };
    let refused = if request { FieldFlags::NO_REQUEST_FILTER } else { FieldFlags::NO_RESPONSE_FILTER };
    if fields::flags(field.as_str()).has_any(refused) {
        let expected = match field.as_str() {
            "host" => "urlRewrite.hostname, which sets the host",
            _ => "a header that the gateway does not write itself (hop-by-hop, framing, identity)",
        };
        report.drop_rule(at, format!("{name:?}"), expected);
        return None;
    }
    if request && name.contains('_') {
        let expected = "a name without '_': such request headers are removed (they pass as '-' in CGI)";
        report.drop_rule(at, format!("{name:?}"), expected);
        return None;
    }
    Some(field)
}
