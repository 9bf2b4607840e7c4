//! RequestRedirect.

use http::StatusCode;

use super::faults::Faults;
use super::path::path_edit;
use super::rewrite::hostname;
use crate::api::filter as api;
use crate::api::open_enum::OpenEnum;
use crate::compile::matches::Predicate;
use crate::compile::report::FieldPath;
use crate::model::filter::Redirect;

/// Checks a redirect.
pub(super) fn redirect(
    redirect: &api::RequestRedirect,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Redirect> {
    let before = report.count;
    let scheme = redirect.scheme.as_ref().and_then(|scheme| match scheme.known() {
        Some(api::RedirectScheme::Http) => Some("http"),
        Some(api::RedirectScheme::Https) => Some("https"),
        None => {
            let expected = OpenEnum::<api::RedirectScheme>::expected();
            report.drop_rule(at.field("scheme"), format!("{:?}", scheme.as_str()), expected);
            None
        }
    });
    let status = StatusCode::from_u16(redirect.status_code)
        .ok()
        .filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    if status.is_none() {
        let found = redirect.status_code.to_string();
        report.drop_rule(at.field("statusCode"), found, "301, 302, 303, 307 or 308");
    }
    let hostname = hostname(redirect.hostname.as_deref(), at, report);
    let edit = redirect.path.as_ref().and_then(|edit| path_edit(edit, at.field("path"), predicates, report));
    let insecure_only = false;
    let port = redirect.port;
    (report.count == before).then_some(Redirect { scheme, hostname, path: edit, port, status: status?, insecure_only })
}
