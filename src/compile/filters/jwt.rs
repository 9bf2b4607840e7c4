//! JWT, and what stands in its way.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri, header};

use super::faults::Faults;
use super::headers;
use super::list::List;
use crate::api::conditions::ConditionReason;
use crate::api::filter as api;
use crate::api::filter::JwtMode;
use crate::compile::position::RulePos;
use crate::compile::report::{About, FieldPath};
use crate::kinds::config_map::NoKeySet;
use crate::model::filter::{ClaimHeader, CredentialPlace, Filter, Jwt, JwtKeys, JwtProvider};
use crate::model::ids::ObjectName;
use crate::model::key_set::KeySet;
use crate::model::request_values::RequestKey;

/// How long a fetched key set may be used.
const CACHE_DURATIONS: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(24 * 3600);

/// The most that clocks may differ by.
const MOST_SKEW: Duration = Duration::from_secs(300);

/// Checks the filter and finds the keys that are given; without them nobody is let in.
pub(super) fn jwt(
    jwt: &api::Jwt,
    (list, position): (&List<'_>, usize),
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Jwt> {
    let before = report.count;
    let is_required = match jwt.mode.known() {
        Some(mode) => mode == JwtMode::Require,
        None => {
            report.unknown(at.field("mode"), &jwt.mode);
            true
        }
    };
    for (index, scope) in jwt.required_scopes.iter().enumerate() {
        // RFC 6749 §3.3.
        let is_fine = |byte: u8| matches!(byte, b'!' | b'#'..=b'[' | b']'..=b'~');
        if scope.is_empty() || !scope.bytes().all(is_fine) {
            let expected = "one scope: visible ASCII without spaces, quotes and backslashes";
            report.drop_rule(at.item("requiredScopes", index), format!("{scope:?}"), expected);
        }
    }
    if jwt.providers.is_empty() {
        report.drop_rule(at.field("providers"), "none", "at least one");
    }
    let mut providers: Vec<Arc<JwtProvider>> = Vec::with_capacity(jwt.providers.len());
    let mut has_all_keys = true;
    for (index, one) in jwt.providers.iter().enumerate() {
        let at = at.item("providers", index);
        let Some(read) = provider(one, list, at, report) else { continue };
        let Some(provider) = read else {
            has_all_keys = false;
            continue;
        };
        let hides = |other: &&Arc<JwtProvider>| {
            other.issuer == provider.issuer && provider.from.iter().all(|place| other.from.contains(place))
        };
        if providers.iter().any(|other| hides(&other)) {
            let found =
                provider.issuer.as_deref().map_or("no issuer again".to_owned(), |issuer| format!("{issuer:?} again"));
            let expected = "another issuer than those of the providers before it, or another place of the token";
            report.drop_rule(at.field("issuer"), found, expected);
        }
        providers.push(Arc::new(provider));
    }
    if !has_all_keys {
        providers.clear();
    }
    let filter = Jwt {
        state: list.state_key("JWT", position),
        providers: providers.into(),
        is_required,
        scopes: jwt.required_scopes.iter().map(|scope| Box::from(&**scope)).collect(),
        realm: list.name.to_string().into(),
    };
    (report.count == before).then_some(filter)
}

/// One provider; `None` after a report that drops the rule, `Some(None)` where its keys cannot be had.
fn provider(
    provider: &api::JwtProvider,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Option<JwtProvider>> {
    let before = report.count;
    let from = report.credential_places(&provider.from, (at, "from"), list.predicates);
    let mut from = from.unwrap_or_default();
    if from.is_empty() {
        from.push(CredentialPlace::Header(header::AUTHORIZATION));
    }
    let claims = claims(provider, &from, at, report);
    let algorithms = algorithms(provider, at, report);
    let clock_skew = match provider.clock_skew.as_duration() {
        Some(skew) if skew <= MOST_SKEW => skew,
        Some(_) | None => {
            report.drop_rule(at.field("clockSkew"), &*provider.clock_skew.0, "a duration of at most 5m");
            Duration::ZERO
        }
    };
    let keys = keys(&provider.jwks, list, at, report);
    if report.count != before {
        return None;
    }
    let texts = |texts: &[String]| texts.iter().map(|text| Box::from(&**text)).collect();
    Some(keys.map(|keys| JwtProvider {
        issuer: provider.issuer.as_deref().map(Into::into),
        audiences: texts(&provider.audiences),
        keys,
        from: from.into(),
        claims: claims.into(),
        forward: provider.forward,
        algorithms: algorithms.into(),
        clock_skew,
    }))
}

fn claims(
    provider: &api::JwtProvider,
    from: &[CredentialPlace],
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Vec<ClaimHeader> {
    let mut claims: Vec<ClaimHeader> = Vec::with_capacity(provider.claims_to_headers.len());
    for (index, one) in provider.claims_to_headers.iter().enumerate() {
        let at = at.item("claimsToHeaders", index);
        let at = at.field("header");
        let Some(header) = headers::set_by_filter(&one.header, at, report) else { continue };
        let has_token = |header: &HeaderName| {
            from.iter().any(|place| matches!(place, CredentialPlace::Header(name) if name == header))
        };
        if has_token(&header) {
            report.drop_rule(at, &*one.header, "another header than that of the token");
        } else if claims.iter().any(|other| other.header == header) {
            report.drop_rule(at, &*one.header, "a header that no other claim of the provider becomes");
        }
        claims.push(ClaimHeader { claim: (&*one.claim).into(), header });
    }
    claims
}

fn algorithms(
    provider: &api::JwtProvider,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Vec<jsonwebtoken::Algorithm> {
    let mut algorithms = Vec::new();
    for (index, name) in provider.algorithms.iter().enumerate() {
        match name.known() {
            Some(known) => algorithms.push(algorithm(known)),
            None => report.unknown(at.item("algorithms", index), name),
        }
    }
    if algorithms.is_empty() {
        use crate::api::open_enum::KnownValue as _;
        algorithms.extend(api::JwtAlgorithm::ALL.iter().copied().map(algorithm));
    }
    algorithms
}

fn algorithm(algorithm: api::JwtAlgorithm) -> jsonwebtoken::Algorithm {
    use api::JwtAlgorithm as Named;
    use jsonwebtoken::Algorithm;
    match algorithm {
        Named::Rs256 => Algorithm::RS256,
        Named::Rs384 => Algorithm::RS384,
        Named::Rs512 => Algorithm::RS512,
        Named::Ps256 => Algorithm::PS256,
        Named::Ps384 => Algorithm::PS384,
        Named::Ps512 => Algorithm::PS512,
        Named::Es256 => Algorithm::ES256,
        Named::Es384 => Algorithm::ES384,
        Named::EdDsa => Algorithm::EdDSA,
    }
}

/// Where the keys come from; `None` where they are given and cannot be had, and after a report.
fn keys(jwks: &api::Jwks, list: &List<'_>, at: FieldPath<'_>, report: &mut Faults<'_, '_>) -> Option<JwtKeys> {
    let at = at.field("jwks");
    match (&jwks.uri, &jwks.config_map_ref) {
        (Some(text), None) => {
            let cache_duration = jwks.cache_duration.as_duration().filter(|time| CACHE_DURATIONS.contains(time));
            if cache_duration.is_none() {
                report.drop_rule(at.field("cacheDuration"), &*jwks.cache_duration.0, "a duration from 1m to 24h");
            }
            let url = url(text);
            if url.is_none() {
                report.drop_rule(at.field("uri"), text, "an http or https URL with a host, without user and fragment");
            }
            Some(JwtKeys::Fetched { url: url?, cache_duration: cache_duration? })
        }
        (None, Some(reference)) => given_keys(reference, list, at, report).map(JwtKeys::Given),
        (Some(_), Some(_)) | (None, None) => {
            report.drop_rule(at, "both or none of uri and configMapRef", "exactly one of them");
            None
        }
    }
}

fn url(text: &str) -> Option<Uri> {
    let url: Uri = text.parse().ok().filter(|_| !text.contains('#'))?;
    let authority = url.authority()?;
    let is_fine = matches!(url.scheme_str(), Some("http" | "https"))
        && !authority.as_str().contains('@')
        && !authority.host().is_empty();
    is_fine.then_some(url)
}

/// The key set in a ConfigMap; `None` after a report: the filter stands, and lets nobody in.
fn given_keys(
    reference: &api::ConfigMapKeyRef,
    list: &List<'_>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) -> Option<Arc<KeySet>> {
    let name = ObjectName::new(&*list.name.namespace, &*reference.name);
    let at = at.field("configMapRef");
    let about = About::Filter(RulePos(report.rule));
    let Some(map) = report.objects.config_maps.get(&name).map(|map| &*map.object) else {
        let found = format!("no ConfigMap {name}");
        let expected = "a ConfigMap with a key set";
        report.report.add_once(about, ConditionReason::FilterNotFound, at.field("name"), found, expected);
        return None;
    };
    match map.key_set(&reference.key) {
        Ok(keys) => {
            if let Some(why) = &map.earlier_stay {
                let (found, effect) =
                    (format!("ConfigMap {name}: {why}"), "the keys that were read before stay active");
                report.report.warn(at.field("name"), ConditionReason::FilterNotFound.as_str(), found, effect);
            }
            Some(keys)
        }
        Err(why) => {
            let (field, reason) = match &why {
                NoKeySet::Unreadable(_) => ("name", ConditionReason::FilterNotFound),
                NoKeySet::Missing => ("key", ConditionReason::FilterNotFound),
                NoKeySet::Unusable(_) => ("key", ConditionReason::InvalidFilter),
            };
            let found = format!("ConfigMap {name}, key {:?}: {why}", reference.key);
            report.report.add_once(about, reason, at.field(field), found, "a key set (RFC 7517)");
            None
        }
    }
}

/// Whether one of the keys is a claim of a token.
pub(in crate::compile) fn takes_claims(keys: &[RequestKey]) -> bool {
    keys.iter().any(|key| matches!(key, RequestKey::JwtClaim(_)))
}

/// Whether there is a filter among these that verifies tokens.
pub(in crate::compile) fn verifies_tokens<'f>(mut filters: impl Iterator<Item = &'f Filter>) -> bool {
    filters.any(|filter| matches!(filter, Filter::Jwt(_)))
}

/// Whether a limit takes claims as keys.
pub(super) fn limits_by_claims(filter: &Filter) -> bool {
    match filter {
        Filter::RateLimit(limit) => takes_claims(&limit.keys),
        Filter::ConcurrencyLimit(limit) => takes_claims(&limit.keys),
        _ => false,
    }
}

/// Whether a limit among the inner filters takes claims as keys that nothing outside of it has verified.
pub(super) fn lack_claims(outer: &[Filter], inner: &[Filter]) -> bool {
    let mut is_verified = verifies_tokens(outer.iter());
    inner.iter().any(|filter| {
        is_verified |= matches!(filter, Filter::Jwt(_));
        limits_by_claims(filter) && !is_verified
    })
}

/// Whether an outer filter takes away the tokens that a provider of an inner one looks for.
pub(super) fn takes_tokens_of<'f>(mut outer: impl Iterator<Item = &'f Filter>, inner: &Filter) -> bool {
    let Filter::Jwt(inner) = inner else { return false };
    outer.any(|outer| {
        let Filter::Jwt(outer) = outer else { return false };
        let taken = |place: &CredentialPlace| {
            outer.providers.iter().any(|provider| !provider.forward && provider.from.contains(place))
        };
        inner.providers.iter().any(|provider| provider.from.iter().all(taken))
    })
}
