//! Filters of a rule: API layers into values that are ready to run, outermost first.
//!
//! What a layer cannot do is refused here with its field named, so that nothing is left to fail at run time: fields that
//! the gateway owns, variables and groups that no match has, layers that others make unreachable. A filter that is
//! refused takes its rule with it; it is never skipped.

mod api_key;
mod basic_auth;
pub(super) mod coalesce;
mod compression;
mod concurrency_limit;
mod cors;
mod direct_response;
mod external_auth;
mod faults;
mod headers;
mod ip_access;
pub(super) mod jwt;
mod list;
mod mirror;
mod order;
mod path;
mod rate_limit;
mod redirect;
mod rewrite;
mod secret;

use super::report::FieldPath;
use std::sync::Arc;

use crate::api::filter as api;
use crate::api::filter::FilterType;
use crate::api::open_enum::KnownValue;
use crate::model::filter::{Filter, PathEdit, Redirect, Rewrite};

pub(super) use self::faults::Faults;
pub(super) use self::list::{List, may_inherit};
pub(super) use self::order::warn_of_hash;

/// Compiles lists, outermost first, which stand inside the layers `outer`. `None` when a filter cannot work, after a
/// report.
pub(super) fn compile(outer: &[Filter], lists: &[List<'_>], report: &mut Faults<'_, '_>) -> Option<Vec<Filter>> {
    let mut layers = Vec::new();
    let mut sound = true;
    for list in lists {
        let mut terminal: Option<&'static str> = None;
        for (index, filter) in list.filters.iter().enumerate() {
            let at = list.at.item("filters", index);
            let Some(kind) = filter.r#type.known() else {
                report.report.unknown(report.rule, at.field("type"), &filter.r#type);
                sound = false;
                continue;
            };
            if let Some(name) = terminal {
                let found = format!("{} behind {name}", kind.as_str());
                report.drop_rule(at, found, format!("nothing behind {name}, which answers every request"));
                sound = false;
                continue;
            }
            let position = list.filters[..index].iter().filter(|other| other.r#type == filter.r#type).count();
            let Some(layer) = layer(kind, filter, at, (list, position), report) else {
                sound = false;
                continue;
            };
            if changes_prefix(&layer) && outer.iter().chain(&layers).any(changes_path) {
                let expected =
                    "ReplaceFullPath, ReplaceTemplate or ReplaceRegularExpression behind another path change";
                report.drop_rule(at.field(kind.member()).field("path").field("type"), "ReplacePrefixMatch", expected);
                sound = false;
            }
            let around: Vec<&Filter> = outer.iter().chain(&layers).collect();
            order::warn(&layer, &around, at.field(kind.member()), report);
            if !list.may_inherit()
                && jwt::limits_by_claims(&layer)
                && !jwt::verifies_tokens(outer.iter().chain(&layers))
            {
                report.drop_rule(at.field(kind.member()).field("keys"), NO_CLAIMS.0, NO_CLAIMS.1);
                sound = false;
            }
            if jwt::takes_tokens_of(outer.iter().chain(&layers), &layer) {
                report.drop_rule(at.field(kind.member()).field("providers"), TAKEN_TOKENS.0, TAKEN_TOKENS.1);
                sound = false;
            }
            if let Some(name) = coalesce::would_hide(outer.iter().chain(&layers), &layer) {
                report.drop_rule(at.field(kind.member()), format!("{name} inside of Coalesce"), coalesce::OUTSIDE);
                sound = false;
            }
            warn_of_no_change(&layer, outer.iter().chain(&layers), at.field(kind.member()), report);
            if matches!(layer, Filter::Redirect(_) | Filter::Direct(_)) {
                terminal = Some(kind.as_str());
            }
            layers.push(layer);
        }
    }
    sound.then_some(layers)
}

/// Warns of a redirect or rewrite that changes nothing by itself, which the Gateway API allows.
fn warn_of_no_change<'f>(
    layer: &Filter,
    mut outer: impl Iterator<Item = &'f Filter>,
    at: FieldPath<'_>,
    report: &mut Faults<'_, '_>,
) {
    match layer {
        Filter::Redirect(Redirect { scheme: None, hostname: None, path: None, port: None, status: _, insecure_only: _ })
            // A rewrite in front of it changes where it leads.
            if !outer.any(|layer| matches!(layer, Filter::Rewrite(_))) =>
        {
            let found = "this redirect leads a client to the URL that it has asked for";
            report.warn(at, found, "it is served; most clients give up after some rounds");
        }
        Filter::Rewrite(Rewrite { hostname: None, path: None }) => {
            report.warn(at, "this rewrite has neither hostname nor path", "it is served and changes nothing");
        }
        Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Direct(_)
        | Filter::Cors(_)
        | Filter::BodyLimit(_)
        | Filter::IpAccess(_)
        | Filter::BasicAuth(_)
        | Filter::ApiKey(_)
        | Filter::Jwt(_)
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_)
        | Filter::Coalesce(_)
        | Filter::Compression(_)
        | Filter::Mirror(_)
        | Filter::ExternalAuth(_) => {}
        #[cfg(test)]
        Filter::Wait(_) => {}
    }
}

/// What keeps the inner filters from working inside of the outer ones: what was found, and what is expected.
pub(super) fn misfit(outer: &[Filter], inner: &[Filter]) -> Option<(&'static str, &'static str)> {
    if spoil(outer, inner) {
        let found = "ReplacePrefixMatch behind a path change of a delegating rule";
        return Some((found, "ReplaceFullPath, ReplaceTemplate or ReplaceRegularExpression there"));
    }
    if jwt::lack_claims(outer, inner) {
        return Some(NO_CLAIMS);
    }
    if coalesce::coalesces(outer.iter()) && inner.iter().any(coalesce::decides_who_passes) {
        return Some(("a filter that decides who may pass, inside of Coalesce", coalesce::OUTSIDE));
    }
    inner.iter().any(|filter| jwt::takes_tokens_of(outer.iter(), filter)).then_some(TAKEN_TOKENS)
}

/// A key of type JWTClaim that nobody has verified: what was found, and what is expected.
pub(super) const NO_CLAIMS: (&str, &str) =
    ("JWTClaim without a JWT filter before it", "a JWT filter outside of it, in the route or in a delegating parent");

/// A JWT whose tokens another one takes away: what was found, and what is expected.
const TAKEN_TOKENS: (&str, &str) = (
    "a provider whose tokens an outer JWT takes out of the request",
    "forward: true there, or another place of the token in from",
);

/// Whether an outer filter rewrites the path, so that an inner one would replace a prefix that is no longer there.
fn spoil(outer: &[Filter], inner: &[Filter]) -> bool {
    inner.iter().any(changes_prefix) && outer.iter().any(changes_path)
}

/// The edit works on the prefix that the rule matched, which must still be there.
fn changes_prefix(layer: &Filter) -> bool {
    let edit = match layer {
        Filter::Rewrite(rewrite) => rewrite.path.as_ref(),
        Filter::Redirect(redirect) => redirect.path.as_ref(),
        Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Direct(_)
        | Filter::Cors(_)
        | Filter::BodyLimit(_)
        | Filter::IpAccess(_)
        | Filter::BasicAuth(_)
        | Filter::ApiKey(_)
        | Filter::Jwt(_)
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_)
        | Filter::Coalesce(_)
        | Filter::Compression(_)
        | Filter::Mirror(_)
        | Filter::ExternalAuth(_) => None,
        #[cfg(test)]
        Filter::Wait(_) => None,
    };
    matches!(edit, Some(PathEdit::Prefix { .. }))
}

fn changes_path(layer: &Filter) -> bool {
    match layer {
        Filter::Rewrite(rewrite) => rewrite.path.is_some(),
        Filter::Redirect(_)
        | Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Direct(_)
        | Filter::Cors(_)
        | Filter::BodyLimit(_)
        | Filter::IpAccess(_)
        | Filter::BasicAuth(_)
        | Filter::ApiKey(_)
        | Filter::Jwt(_)
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_)
        | Filter::Coalesce(_)
        | Filter::Compression(_)
        | Filter::Mirror(_)
        | Filter::ExternalAuth(_) => false,
        #[cfg(test)]
        Filter::Wait(_) => false,
    }
}

/// One filter; `None` after a report.
fn layer(
    kind: FilterType,
    filter: &api::Filter,
    at: FieldPath<'_>,
    (list, position): (&List<'_>, usize),
    report: &mut Faults<'_, '_>,
) -> Option<Filter> {
    let member = at.field(kind.member());
    let predicates = list.predicates;
    let layer = match kind {
        FilterType::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref().map(|it| headers::edits(it, member, true, report));
            modifier.map(|edits| edits.map(Filter::RequestHeaders))
        }
        FilterType::ResponseHeaderModifier => {
            let modifier = filter.response_header_modifier.as_ref().map(|it| headers::edits(it, member, false, report));
            modifier.map(|edits| edits.map(Filter::ResponseHeaders))
        }
        FilterType::RequestRedirect => {
            let redirect =
                filter.request_redirect.as_ref().map(|it| redirect::redirect(it, member, predicates, report));
            redirect.map(|redirect| redirect.map(Filter::Redirect))
        }
        FilterType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().map(|it| rewrite::rewrite(it, member, predicates, report));
            rewrite.map(|rewrite| rewrite.map(Filter::Rewrite))
        }
        FilterType::DirectResponse => filter
            .direct_response
            .as_ref()
            .map(|it| direct_response::direct_response(it, member, report).map(Filter::Direct)),
        FilterType::Cors => filter.cors.as_ref().map(|it| cors::cors(it, member, report).map(Filter::Cors)),
        FilterType::BodyLimit => filter.body_limit.as_ref().map(|it| Some(Filter::BodyLimit(it.max_bytes))),
        FilterType::IpAccess => {
            filter.ip_access.as_ref().map(|it| ip_access::ip_access(it, member, report).map(Filter::IpAccess))
        }
        FilterType::BasicAuth => filter
            .basic_auth
            .as_ref()
            .map(|it| basic_auth::basic_auth(it, list, member, report).map(Arc::new).map(Filter::BasicAuth)),
        FilterType::ApiKey => filter
            .api_key
            .as_ref()
            .map(|it| api_key::api_key(it, list, member, report).map(Arc::new).map(Filter::ApiKey)),
        FilterType::Jwt => {
            filter.jwt.as_ref().map(|it| jwt::jwt(it, (list, position), member, report).map(Arc::new).map(Filter::Jwt))
        }
        FilterType::RateLimit => filter.rate_limit.as_ref().map(|it| {
            rate_limit::rate_limit(it, (list, position), member, report).map(Arc::new).map(Filter::RateLimit)
        }),
        FilterType::ConcurrencyLimit => filter.concurrency_limit.as_ref().map(|it| {
            let limit = concurrency_limit::concurrency_limit(it, (list, position), member, report);
            limit.map(Arc::new).map(Filter::ConcurrencyLimit)
        }),
        FilterType::Coalesce => filter
            .coalesce
            .as_ref()
            .map(|it| coalesce::coalesce(it, (list, position), member, report).map(Arc::new).map(Filter::Coalesce)),
        FilterType::Compression => filter.compression.as_ref().map(|it| {
            let compression = compression::compression(it, (list, position), member, report);
            compression.map(Arc::new).map(Filter::Compression)
        }),
        FilterType::RequestMirror => filter
            .request_mirror
            .as_ref()
            .map(|it| mirror::mirror(it, list, member, report).map(Arc::new).map(Filter::Mirror)),
        FilterType::ExternalAuth => filter
            .external_auth
            .as_ref()
            .map(|it| external_auth::external_auth(it, list, member, report).map(Arc::new).map(Filter::ExternalAuth)),
        FilterType::ExtensionRef => {
            report.report.not_yet(report.rule, at.field("type"), kind.as_str());
            return None;
        }
    };
    if layer.is_none() {
        report.drop_rule(member, "nothing", format!("{}, as type is {}", kind.member(), kind.as_str()));
    }
    layer.flatten()
}

#[cfg(test)]
mod tests;
