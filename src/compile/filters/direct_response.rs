//! DirectResponse.

use http::{HeaderValue, StatusCode};

use super::faults::Faults;
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::model::filter::DirectResponse;

/// Checks an answer of the gateway's own.
pub(super) fn direct_response(
    direct: &api::DirectResponse,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<DirectResponse> {
    let Some(status) = StatusCode::from_u16(direct.status_code).ok().filter(|status| status.as_u16() >= 200) else {
        report.drop_rule(at.field("statusCode"), direct.status_code.to_string(), "200 to 599");
        return None;
    };
    let body = direct.body.clone().unwrap_or_default();
    if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        let found = format!("{} bytes with status {}", body.len(), status.as_u16());
        report.drop_rule(at.field("body"), found, "no body: a response with this status has none");
        return None;
    }
    let Ok(content_type) = HeaderValue::from_bytes(direct.content_type.as_bytes()) else {
        let found = format!("{:?}", direct.content_type);
        report.drop_rule(at.field("contentType"), found, "a media type without control bytes");
        return None;
    };
    Some(DirectResponse { status, content_type, body: body.into() })
}
