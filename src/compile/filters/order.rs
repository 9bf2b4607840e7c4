//! Filters in an order that weakens one of them: they serve, and a warning says what is lost.

use http::header::AUTHORIZATION;

use super::faults::{FILTER_ORDER, Faults};
use crate::compile::report::{FieldPath, Report};
use crate::model::filter::{CredentialPlace, Filter};
use crate::model::request_values::RequestKey;

/// Warns of what the filter `layer` at `at` loses by those around it.
pub(super) fn warn(layer: &Filter, outer: &[&Filter], at: FieldPath<'_>, report: &mut Faults<'_, '_>) {
    let asking = outer.iter().find_map(|outer| asks_who(outer));
    if let (Filter::Cors(_), Some(name)) = (layer, asking) {
        let found = format!("this CORS stands inside of {name}");
        let effect = "it is served; a browser's preflight shows nothing, so that it is refused before it comes here";
        report.warn_of_order(at, &found, effect);
    }
    if let Some(name) = asks_who(layer)
        && outer.iter().any(|outer| matches!(outer, Filter::Mirror(_)))
    {
        let found = format!("this {name} stands inside of a RequestMirror");
        let effect = "it is served; copies have the credentials that clients show, and nothing of who these are";
        report.warn_of_order(at, &found, effect);
    }
    if matches!(layer, Filter::RateLimit(_)) && outer.iter().any(|outer| holds_places(outer)) {
        let found = "this RateLimit stands inside of a ConcurrencyLimit";
        let effect = "it is served; what the rate refuses takes places of other requests first";
        report.warn_of_order(at, found, effect);
    }
    let keys = match layer {
        Filter::RateLimit(limit) => &limit.keys[..],
        Filter::ConcurrencyLimit(limit) => &limit.keys[..],
        _ => &[],
    };
    if let Some(name) = taken_key(keys, outer.iter().copied()) {
        let found = format!("a key of this limit is taken out of the request by the {name} around it");
        let effect = "it is served; all clients share one limit unless another key tells them apart, as a header with their \
                      name does";
        report.warn_of_order(at.field("keys"), &found, effect);
    }
}

/// Warns of a hash at `at` that chooses endpoints by what the filters of its rule take out of the request first.
pub(in crate::compile) fn warn_of_hash(
    keys: &[RequestKey],
    filters: &[Filter],
    at: FieldPath<'_>,
    report: &mut Report<'_>,
) {
    if let Some(name) = taken_key(keys, filters.iter()) {
        let found = format!("a key of this hash is taken out of the request by the {name} of its rule");
        let effect = "it is served; requests are spread as onMissingKey says, unless another key tells clients apart, as a \
                      header with their name does";
        report.warn(at.field("hashKeys"), FILTER_ORDER, &found, effect);
    }
}

/// The type of the first of these filters that takes out of the request what one of the keys is read from.
fn taken_key<'f>(keys: &[RequestKey], mut filters: impl Iterator<Item = &'f Filter>) -> Option<&'static str> {
    filters.find(|filter| keys.iter().any(|key| takes_out(filter, key))).and_then(asks_who)
}

/// The type of a filter that asks who a client is; `None` for the others.
fn asks_who(layer: &Filter) -> Option<&'static str> {
    match layer {
        Filter::BasicAuth(_) => Some("BasicAuth"),
        Filter::ApiKey(_) => Some("APIKey"),
        Filter::Jwt(_) => Some("JWT"),
        Filter::ExternalAuth(_) => Some("ExternalAuth"),
        _ => None,
    }
}

/// Whether a filter takes out of the request what a limit inside of it would count by, or a hash choose by.
fn takes_out(layer: &Filter, key: &RequestKey) -> bool {
    match (layer, key) {
        (Filter::BasicAuth(filter), RequestKey::Header(name)) => !filter.forward && *name == AUTHORIZATION,
        (Filter::ApiKey(filter), key) => !filter.forward && filter.from.iter().any(|place| is_key(place, key)),
        (Filter::Jwt(jwt), key) => {
            let mut taking = jwt.providers.iter().filter(|provider| !provider.forward);
            taking.any(|provider| provider.from.iter().any(|place| is_key(place, key)))
        }
        _ => false,
    }
}

/// Whether a key is read from the place of a credential.
fn is_key(place: &CredentialPlace, key: &RequestKey) -> bool {
    match (place, key) {
        (CredentialPlace::Header(place), RequestKey::Header(key)) => place == key,
        (CredentialPlace::Cookie(place), RequestKey::Cookie(key))
        | (CredentialPlace::QueryParam(place), RequestKey::QueryParam(key)) => place == key,
        _ => false,
    }
}

/// Requests wait for it or take places of others.
fn holds_places(layer: &Filter) -> bool {
    matches!(layer, Filter::ConcurrencyLimit(limit) if !limit.shadow)
}
