//! Parts of a request that hashes and limits take their keys from.

use super::matches::Predicate;
use super::report::{FieldPath, Refused, Report};
use crate::api::common::{KeyType, RequestKey as ApiRequestKey};
use crate::model::matching::PathMatch;
use crate::model::request_values::RequestKey;

/// Compiles the keys of a list; what is wrong is reported for the rule, or for all rules where `rule` is `None`.
///
/// `predicates` are the matches of the rule, whose templates have the variables; `None` for what belongs to no rule.
pub(super) fn compile(
    keys: &[ApiRequestKey],
    (at, list): (FieldPath<'_>, &'static str),
    predicates: Option<&[Predicate]>,
    (rule, report): (Option<usize>, &mut Report<'_>),
) -> Result<Vec<RequestKey>, Refused> {
    let compiled = keys.iter().enumerate().map(|(index, key)| one(key, at.item(list, index), predicates, rule, report));
    // All of them, so that all faults are reported.
    let compiled: Vec<_> = compiled.collect();
    compiled.into_iter().collect()
}

fn one(
    key: &ApiRequestKey,
    at: FieldPath<'_>,
    predicates: Option<&[Predicate]>,
    rule: Option<usize>,
    report: &mut Report<'_>,
) -> Result<RequestKey, Refused> {
    let name = key.name.as_deref().unwrap_or_default();
    let Some(kind) = key.r#type.known() else {
        report.unknown(rule, at.field("type"), &key.r#type);
        return Err(Refused);
    };
    let mut refuse = |found: &str, expected: String| {
        report.unsupported(rule, at.field("name"), found, expected);
        Err(Refused)
    };
    if name.is_empty() && !matches!(kind, KeyType::SourceIp | KeyType::Hostname) {
        return refuse("nothing", format!("a name for a key of type {}", key.r#type));
    }
    match kind {
        KeyType::SourceIp => Ok(RequestKey::SourceIp),
        KeyType::Hostname => Ok(RequestKey::Hostname),
        KeyType::Cookie => Ok(RequestKey::Cookie(name.into())),
        KeyType::QueryParam => Ok(RequestKey::QueryParam(name.into())),
        KeyType::Header => match http::HeaderName::try_from(name) {
            Ok(name) => Ok(RequestKey::Header(name)),
            Err(_) => refuse(name, "a header name".to_owned()),
        },
        KeyType::PathParam => {
            let has = |predicate: &Predicate| match &predicate.path {
                PathMatch::Template(template) => template.names().any(|own| own == name),
                PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => false,
            };
            match predicates {
                Some(predicates) if predicates.iter().all(has) => Ok(RequestKey::PathParam(name.into())),
                Some(_) => refuse(name, "a variable of every template of the rule".to_owned()),
                None => refuse(name, "no variable here: the rules of a route may have different templates".to_owned()),
            }
        }
        // Whether there is a token is a matter of the filters around.
        KeyType::JwtClaim => Ok(RequestKey::JwtClaim(name.into())),
    }
}
