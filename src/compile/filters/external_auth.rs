//! ExternalAuth.

use http::HeaderName;
use http::header::{EXPECT, HOST};

use super::faults::Faults;
use super::headers::field_name;
use super::list::List;
use super::path::prefix;
use crate::api::filter as api;
use crate::compile::position::RulePos;
use crate::compile::report::{About, FieldPath};
use crate::fields::{self, FieldFlags};
use crate::model::filter::{AuthProtocol, ExternalAuth};

/// Most bytes of a body that may go to the service: all of them are in memory at once.
const MOST_BODY: u32 = 1 << 20;

/// Checks the question, and resolves the reference. Where it leads nowhere, the filter stays and lets nobody pass.
pub(super) fn external_auth(
    auth: &api::ExternalAuth,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<ExternalAuth> {
    let before = report.count;
    let protocol = match auth.protocol.known() {
        Some(api::AuthProtocol::Http) => {
            refuse_beside(auth.grpc.is_some(), at.field("grpc"), ("HTTP", "http"), report);
            http(auth.http.as_ref(), at.field("http"), report)
        }
        Some(api::AuthProtocol::Grpc) => {
            refuse_beside(auth.http.is_some(), at.field("http"), ("GRPC", "grpc"), report);
            let names = auth.grpc.iter().flat_map(|grpc| &grpc.allowed_headers);
            let request_headers = sent_along(names, at.field("grpc"), report);
            Some(AuthProtocol::Grpc { request_headers })
        }
        None => {
            report.unknown(at.field("protocol"), &auth.protocol);
            None
        }
    };
    let max_body = auth.forward_body.as_ref().and_then(|body| body.max_size).filter(|size| *size > 0);
    if let Some(size) = max_body.filter(|size| *size > MOST_BODY) {
        let expected = format!("at most {MOST_BODY}: the whole body is held in memory");
        report.drop_rule(at.field("forwardBody").field("maxSize"), size.to_string(), expected);
    }
    let timeout = auth.timeout.as_duration().filter(|timeout| !timeout.is_zero());
    if timeout.is_none() {
        report.drop_rule(at.field("timeout"), &*auth.timeout.0, "a duration above 0s");
    }
    let (protocol, timeout) = (protocol?, timeout?);
    if report.count > before {
        return None;
    }
    let speaks_http2 = matches!(protocol, AuthProtocol::Grpc { .. });
    let about = About::Filter(RulePos(report.rule));
    let backend = report.backend(&auth.backend_ref, speaks_http2, list.name, at.field("backendRef"), about);
    let max_body = max_body.and_then(|size| usize::try_from(size).ok());
    Some(ExternalAuth { backend, protocol, max_body, timeout, fail_open: auth.fail_open })
}

/// Refuses the details of the other protocol: nothing would come of them.
fn refuse_beside(is_there: bool, at: FieldPath<'_>, (protocol, details): (&str, &str), report: &mut Faults<'_, '_>) {
    if is_there {
        let expected = format!("nothing here: the details of protocol {protocol} stand in {details}");
        report.drop_rule(at, format!("details beside protocol {protocol}"), expected);
    }
}

fn http(
    details: Option<&api::ExternalAuthHttp>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<AuthProtocol> {
    let before = report.count;
    let path = details.and_then(|details| details.path.as_deref()).unwrap_or_default();
    let prefix = prefix(path, at.field("path"), report);
    let allowed = details.iter().flat_map(|details| &details.allowed_headers);
    let request_headers = sent_along(allowed, at, report);
    let answered = details.iter().flat_map(|details| &details.allowed_response_headers).enumerate();
    let answer_headers = answered
        .filter_map(|(index, name)| field_name(name, at.item("allowedResponseHeaders", index), true, report))
        .collect();
    let prefix = prefix.filter(|_| report.count == before)?;
    Some(AuthProtocol::Http { prefix, request_headers, answer_headers })
}

/// Names of fields that go to the service as the client sent them.
fn sent_along<'n>(
    names: impl Iterator<Item = &'n String>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Vec<HeaderName> {
    let mut fields = Vec::new();
    for (index, name) in names.enumerate() {
        let at = at.item("allowedHeaders", index);
        let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
            report.drop_rule(at, format!("{name:?}"), "a header name");
            continue;
        };
        if field == HOST {
            // It is sent in any case.
            continue;
        }
        let of_connection = FieldFlags::HOP_BY_HOP.and(FieldFlags::FRAMING);
        if fields::flags(field.as_str()).has_any(of_connection) || field == EXPECT {
            report.drop_rule(at, format!("{name:?}"), "a header that does not belong to the client's connection");
            continue;
        }
        fields.push(field);
    }
    fields
}
