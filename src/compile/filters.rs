//! Filters of a rule: API layers into values that are ready to run, outermost first.
//!
//! What a layer cannot do is refused here with its field named, so that nothing is left to fail at run time: fields that
//! the gateway owns, variables and groups that no match has, layers that others make unreachable. A filter that is
//! refused takes its rule with it; it is never skipped.

mod concurrency_limit;
mod cors;
mod direct_response;
mod faults;
mod headers;
mod ip_access;
mod list;
mod path;
mod rate_limit;
mod redirect;
mod rewrite;

use super::report::FieldPath;
use std::sync::Arc;

use crate::api::filter as api;
use crate::api::filter::FilterType;
use crate::api::open_enum::KnownValue;
use crate::model::filter::{Filter, PathEdit, Redirect, Rewrite};

pub(super) use self::faults::Faults;
pub(super) use self::list::List;

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
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_) => {}
        #[cfg(test)]
        Filter::Wait(_) => {}
    }
}

/// Whether an outer filter rewrites the path, so that an inner one would replace a prefix that is no longer there.
pub(super) fn spoil(outer: &[Filter], inner: &[Filter]) -> bool {
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
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_) => None,
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
        | Filter::RateLimit(_)
        | Filter::ConcurrencyLimit(_) => false,
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
        FilterType::RateLimit => filter.rate_limit.as_ref().map(|it| {
            rate_limit::rate_limit(it, (list, position), member, report).map(Arc::new).map(Filter::RateLimit)
        }),
        FilterType::ConcurrencyLimit => filter.concurrency_limit.as_ref().map(|it| {
            let limit = concurrency_limit::concurrency_limit(it, (list, position), member, report);
            limit.map(Arc::new).map(Filter::ConcurrencyLimit)
        }),
        FilterType::RequestMirror
        | FilterType::ExternalAuth
        | FilterType::ExtensionRef
        | FilterType::Jwt
        | FilterType::BasicAuth
        | FilterType::Coalesce
        | FilterType::Compression => {
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
