//! RequestMirror.

use super::faults::Faults;
use super::list::List;
use crate::api::filter as api;
use crate::compile::position::RulePos;
use crate::compile::report::{About, FieldPath};
use crate::model::filter::Mirror;

/// Resolves the reference, and reads the share. A reference that leads nowhere costs the copies and nothing else, as the
/// Gateway API has it.
pub(super) fn mirror(
    mirror: &api::RequestMirror,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Mirror> {
    let share = share(mirror, at, report)?;
    let about = About::Mirror(RulePos(report.rule));
    let backend = report.backend(&mirror.backend_ref, false, list.name, at.field("backendRef"), about);
    Some(Mirror { backend, share })
}

/// How many of how many requests are copied; `None` after a report.
fn share(mirror: &api::RequestMirror, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<(u32, u32)> {
    match (mirror.percent, &mirror.fraction) {
        (None, None) => Some((1, 1)),
        (Some(percent), None) => {
            if percent > 100 {
                report.drop_rule(at.field("percent"), percent.to_string(), "0 to 100");
            }
            (percent <= 100).then_some((percent, 100))
        }
        (None, Some(fraction)) => {
            let at = at.field("fraction");
            if fraction.denominator == 0 {
                report.drop_rule(at.field("denominator"), "0", "1 or more");
                return None;
            }
            if fraction.numerator > fraction.denominator {
                let expected = format!("at most the denominator, {}", fraction.denominator);
                report.drop_rule(at.field("numerator"), fraction.numerator.to_string(), expected);
                return None;
            }
            Some((fraction.numerator, fraction.denominator))
        }
        (Some(_), Some(_)) => {
            report.drop_rule(at, "percent and fraction", "one of them, or none for all requests");
            None
        }
    }
}
