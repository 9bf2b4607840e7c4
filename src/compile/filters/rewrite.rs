//! URLRewrite.

use std::sync::Arc;

use super::faults::Faults;
use super::path::path_edit;
use crate::api::filter as api;
use crate::compile::matches::Predicate;
use crate::compile::report::FieldPath;
use crate::model::filter::Rewrite;
use crate::model::host::parse_authority;

/// Checks a rewrite.
pub(super) fn rewrite(
    rewrite: &api::UrlRewrite,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Rewrite> {
    let before = report.count;
    let hostname = hostname(rewrite.hostname.as_deref(), at, report);
    let edit = rewrite.path.as_ref().and_then(|edit| path_edit(edit, at.field("path"), predicates, report));
    (report.count == before).then_some(Rewrite { hostname, path: edit })
}

/// A host that replaces the client's; `None` when there is none, or after a report.
pub(super) fn hostname(name: Option<&str>, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<Arc<str>> {
    let name = name?;
    // A port here would become part of a name; the schema has none either.
    if parse_authority(name.as_bytes()).is_err() || name.contains(':') {
        report.drop_rule(at.field("hostname"), format!("{name:?}"), "a hostname without port");
        return None;
    }
    Some(name.into())
}
