//! APIKey.

use std::sync::Arc;

use super::faults::Faults;
use super::list::List;
use super::{headers, secret};
use crate::api::filter as api;
use crate::compile::report::FieldPath;
use crate::kinds::secret::{Secret, TLS_TYPE};
use crate::model::filter::{ApiKey, CredentialPlace};

/// The header that has the key where the filter names no place.
const X_API_KEY: http::HeaderName = http::HeaderName::from_static("x-api-key");

/// Checks the filter and finds its keys; without them nobody is let in.
pub(super) fn api_key(
    filter: &api::ApiKey,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<ApiKey> {
    let before = report.count;
    let from = report.credential_places(&filter.from, (at, "from"), list.predicates);
    let client_header = filter.client_header.as_deref();
    let client_header = client_header.map(|name| headers::set_by_filter(name, at.field("clientHeader"), report));
    let keys = secret::find(&filter.secret_ref, list, at, report, |secret: &Secret| match &secret.api_keys {
        Some(keys) => Ok(Arc::clone(keys)),
        None => Err(format!("it is of type {TLS_TYPE}")),
    });
    if let Some(keys) = &keys {
        let path = at.field("secretRef");
        if keys.is_empty() {
            let found = format!("Secret {}/{} has no key", list.name.namespace, filter.secret_ref.name);
            report.warn_of_secret(path, &found, "nobody is let in");
        } else if !keys.doubts().is_empty() {
            let doubts: Vec<String> = keys.doubts().iter().map(ToString::to_string).collect();
            let name = &filter.secret_ref.name;
            let found = format!("Secret {}/{name}: {}", list.name.namespace, doubts.join("; "));
            report.warn_of_secret(path, &found, "the filter works with the other keys");
        }
    }
    let mut from = from?;
    if from.is_empty() {
        from.push(CredentialPlace::Header(X_API_KEY));
    }
    let filter = ApiKey {
        keys,
        from: from.into(),
        forward: filter.forward,
        client_header: client_header.unwrap_or_default(),
        challenge: secret::challenge("ApiKey", &list.name.to_string()),
    };
    (report.count == before).then_some(filter)
}
