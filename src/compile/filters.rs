//! Filters of a rule: API layers into values that are ready to run, outermost first.
//!
//! What a layer cannot do is refused here with its field named, so that nothing is left to fail at run time: fields that
//! the gateway owns, variables and groups that no match has, layers that others make unreachable. A filter that is
//! refused takes its rule with it; it is never skipped.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::expressions::{ExpressionError, Expressions, TOO_MANY_EXPRESSIONS};
use super::matches::Predicate;
use super::report::Report;
use crate::api::filter as api;
use crate::api::filter::FilterType;
use crate::api::open_enum::{KnownValue, OpenEnum};
use crate::fields::{self, FieldFlags};
use crate::model::filter::{
    Cors, DirectResponse, Filter, HeaderEdits, IpAccess, OriginMatch, PathEdit, Redirect, Rewrite, TemplatePart,
};
use crate::model::matching::PathMatch;
use crate::model::path::{CanonicalPath, Slashes, normalize_route_path};
use crate::text;

/// The reason of a warning about a filter that changes nothing.
const NO_CHANGE: &str = "NoChange";

/// Faults of one rule's filters, and how many; with the expressions that they use.
pub(super) struct Faults<'m, 'r> {
    report: &'m mut Report<'r>,
    expressions: &'m mut Expressions,
    /// The rule's position.
    rule: usize,
    count: usize,
}

impl<'m, 'r> Faults<'m, 'r> {
    pub(super) fn new(report: &'m mut Report<'r>, expressions: &'m mut Expressions, rule: usize) -> Self {
        Self { report, expressions, rule, count: 0 }
    }

    /// Drops the rule.
    fn drop_rule(&mut self, path: String, found: impl Into<String>, expected: impl Into<String>) {
        self.count += 1;
        self.report.unsupported(self.rule, path, found, expected);
    }

    /// Warns of a filter that changes nothing; the rule serves.
    fn warn(&mut self, path: String, found: &str, effect: &str) {
        self.report.warn(path, NO_CHANGE, found, effect);
    }
}

/// One list of filters with its place in the object.
#[derive(Clone, Copy)]
pub(super) struct List<'a> {
    /// The filters, in their order.
    pub(super) filters: &'a [api::Filter],
    /// Where they stand, such as `spec.rules[0].filters`.
    pub(super) path: &'a str,
    /// The matches of the rule that they belong to; `None` for those of a route, which has none of its own.
    pub(super) predicates: Option<&'a [Predicate]>,
}

/// Compiles lists, outermost first, which stand inside the layers `outer`. `None` when a filter cannot work, after a
/// report.
pub(super) fn compile(outer: &[Filter], lists: &[List<'_>], report: &mut Faults<'_, '_>) -> Option<Vec<Filter>> {
    let mut layers = Vec::new();
    let mut sound = true;
    for list in lists {
        let mut terminal: Option<&'static str> = None;
        for (index, filter) in list.filters.iter().enumerate() {
            let at = format!("{}[{index}]", list.path);
            let Some(kind) = filter.r#type.known() else {
                report.report.unknown(report.rule, format!("{at}.type"), &filter.r#type);
                sound = false;
                continue;
            };
            if let Some(name) = terminal {
                let found = format!("{} behind {name}", kind.as_str());
                report.drop_rule(at, found, format!("nothing behind {name}, which answers every request"));
                sound = false;
                continue;
            }
            let Some(layer) = layer(kind, filter, &at, list.predicates, report) else {
                sound = false;
                continue;
            };
            if changes_prefix(&layer) && outer.iter().chain(&layers).any(changes_path) {
                let expected =
                    "ReplaceFullPath, ReplaceTemplate or ReplaceRegularExpression behind another path change";
                report.drop_rule(format!("{at}.{}.path.type", kind.member()), "ReplacePrefixMatch", expected);
                sound = false;
            }
            warn_of_no_change(&layer, outer.iter().chain(&layers), format!("{at}.{}", kind.member()), report);
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
    path: String,
    report: &mut Faults<'_, '_>,
) {
    match layer {
        Filter::Redirect(Redirect { scheme: None, hostname: None, path: None, port: None, status: _ })
            // A rewrite in front of it changes where it leads.
            if !outer.any(|layer| matches!(layer, Filter::Rewrite(_))) =>
        {
            let found = "this redirect leads a client to the URL that it has asked for";
            report.warn(path, found, "it is served; most clients give up after some rounds");
        }
        Filter::Rewrite(Rewrite { hostname: None, path: None }) => {
            report.warn(path, "this rewrite has neither hostname nor path", "it is served and changes nothing");
        }
        Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Direct(_)
        | Filter::Cors(_)
        | Filter::BodyLimit(_)
        | Filter::IpAccess(_) => {}
        #[cfg(test)]
        Filter::Wait(_) => {}
    }
}

/// Whether layers that stand outside of others leave them nothing to work on: a prefix that the rule matched and that they
/// have replaced.
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
        | Filter::IpAccess(_) => None,
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
        | Filter::IpAccess(_) => false,
        #[cfg(test)]
        Filter::Wait(_) => false,
    }
}

/// One filter; `None` after a report.
fn layer(
    kind: FilterType,
    filter: &api::Filter,
    at: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Filter> {
    let path = format!("{at}.{}", kind.member());
    let layer = match kind {
        FilterType::RequestHeaderModifier => {
            let modifier = filter.request_header_modifier.as_ref().map(|it| edits(it, &path, true, report));
            modifier.map(|edits| edits.map(Filter::RequestHeaders))
        }
        FilterType::ResponseHeaderModifier => {
            let modifier = filter.response_header_modifier.as_ref().map(|it| edits(it, &path, false, report));
            modifier.map(|edits| edits.map(Filter::ResponseHeaders))
        }
        FilterType::RequestRedirect => {
            let redirect = filter.request_redirect.as_ref().map(|it| redirect(it, &path, predicates, report));
            redirect.map(|redirect| redirect.map(Filter::Redirect))
        }
        FilterType::UrlRewrite => {
            let rewrite = filter.url_rewrite.as_ref().map(|it| rewrite(it, &path, predicates, report));
            rewrite.map(|rewrite| rewrite.map(Filter::Rewrite))
        }
        FilterType::DirectResponse => {
            filter.direct_response.as_ref().map(|it| direct_response(it, &path, report).map(Filter::Direct))
        }
        FilterType::Cors => filter.cors.as_ref().map(|it| cors(it, &path, report).map(Filter::Cors)),
        FilterType::BodyLimit => filter.body_limit.as_ref().map(|it| Some(Filter::BodyLimit(it.max_bytes))),
        FilterType::IpAccess => filter.ip_access.as_ref().map(|it| ip_access(it, &path, report).map(Filter::IpAccess)),
        FilterType::RequestMirror
        | FilterType::ExternalAuth
        | FilterType::ExtensionRef
        | FilterType::Jwt
        | FilterType::BasicAuth
        | FilterType::RateLimit
        | FilterType::ConcurrencyLimit
        | FilterType::Coalesce
        | FilterType::Compression => {
            report.report.not_yet(report.rule, format!("{at}.type"), kind.as_str());
            return None;
        }
    };
    if layer.is_none() {
        report.drop_rule(path, "nothing", format!("{}, as type is {}", kind.member(), kind.as_str()));
    }
    layer.flatten()
}

fn edits(
    modifier: &api::HeaderModifier,
    path: &str,
    request: bool,
    report: &mut Faults<'_, '_>,
) -> Option<HeaderEdits> {
    let before = report.count;
    let mut edits = HeaderEdits::default();
    for (list, name, out) in [(&modifier.set, "set", &mut edits.set), (&modifier.add, "add", &mut edits.add)] {
        for (index, entry) in list.iter().enumerate() {
            let at = format!("{path}.{name}[{index}]");
            let Some(field) = field_name(&entry.name, &format!("{at}.name"), request, report) else { continue };
            if out.iter().any(|(other, _)| *other == field) {
                let expected = "names that differ beyond their case";
                report.drop_rule(format!("{at}.name"), format!("{:?} again", entry.name), expected);
                continue;
            }
            let Ok(value) = HeaderValue::from_bytes(entry.value.as_bytes()) else {
                report.drop_rule(format!("{at}.value"), format!("{:?}", entry.value), "no control bytes");
                continue;
            };
            out.push((field, value));
        }
    }
    for (index, name) in modifier.remove.iter().enumerate() {
        let at = format!("{path}.remove[{index}]");
        let Some(field) = field_name(name, &at, request, report) else { continue };
        if edits.set.iter().chain(&edits.add).any(|(other, _)| *other == field) {
            let expected = "a name that this filter does not set or add: remove comes last";
            report.drop_rule(at, format!("{name:?}"), expected);
            continue;
        }
        edits.remove.push(field);
    }
    (report.count == before).then_some(edits)
}

/// A name that filters may touch.
fn field_name(name: &str, path: &str, request: bool, report: &mut Faults<'_, '_>) -> Option<HeaderName> {
    let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else {
        report.drop_rule(path.to_owned(), format!("{name:?}"), "a header name");
        return None;
    };
    let refused = if request { FieldFlags::NO_REQUEST_FILTER } else { FieldFlags::NO_RESPONSE_FILTER };
    if fields::flags(field.as_str()).has_any(refused) {
        let expected = match field.as_str() {
            "host" => "urlRewrite.hostname, which sets the host",
            _ => "a header that the gateway does not write itself (hop-by-hop, framing, identity)",
        };
        report.drop_rule(path.to_owned(), format!("{name:?}"), expected);
        return None;
    }
    if request && name.contains('_') {
        let expected = "a name without '_': such request headers are removed (they pass as '-' in CGI)";
        report.drop_rule(path.to_owned(), format!("{name:?}"), expected);
        return None;
    }
    Some(field)
}

fn redirect(
    redirect: &api::RequestRedirect,
    path: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Redirect> {
    let before = report.count;
    let scheme = redirect.scheme.as_ref().and_then(|scheme| match scheme.known() {
        Some(api::RedirectScheme::Http) => Some("http"),
        Some(api::RedirectScheme::Https) => Some("https"),
        None => {
            let expected = OpenEnum::<api::RedirectScheme>::expected();
            report.drop_rule(format!("{path}.scheme"), format!("{:?}", scheme.as_str()), expected);
            None
        }
    });
    let status = StatusCode::from_u16(redirect.status_code)
        .ok()
        .filter(|status| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308));
    if status.is_none() {
        let found = redirect.status_code.to_string();
        report.drop_rule(format!("{path}.statusCode"), found, "301, 302, 303, 307 or 308");
    }
    let hostname = hostname(redirect.hostname.as_deref(), path, report);
    let edit = redirect.path.as_ref().and_then(|edit| path_edit(edit, &format!("{path}.path"), predicates, report));
    (report.count == before).then_some(Redirect { scheme, hostname, path: edit, port: redirect.port, status: status? })
}

fn rewrite(
    rewrite: &api::UrlRewrite,
    path: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Rewrite> {
    let before = report.count;
    let hostname = hostname(rewrite.hostname.as_deref(), path, report);
    let edit = rewrite.path.as_ref().and_then(|edit| path_edit(edit, &format!("{path}.path"), predicates, report));
    (report.count == before).then_some(Rewrite { hostname, path: edit })
}

fn hostname(name: Option<&str>, path: &str, report: &mut Faults<'_, '_>) -> Option<Arc<str>> {
    let name = name?;
    // A port here would become part of a name; the schema has none either.
    if crate::model::host::parse_authority(name.as_bytes()).is_err() || name.contains(':') {
        report.drop_rule(format!("{path}.hostname"), format!("{name:?}"), "a hostname without port");
        return None;
    }
    Some(name.into())
}

/// `None` after a report.
fn path_edit(
    modifier: &api::PathModifier,
    path: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<PathEdit> {
    let (member, missing) = match modifier.r#type.known() {
        Some(api::PathModifierType::ReplaceFullPath) => ("replaceFullPath", modifier.replace_full_path.is_none()),
        Some(api::PathModifierType::ReplacePrefixMatch) => {
            ("replacePrefixMatch", modifier.replace_prefix_match.is_none())
        }
        Some(api::PathModifierType::ReplaceTemplate) => ("replaceTemplate", modifier.replace_template.is_none()),
        Some(api::PathModifierType::ReplaceRegularExpression) => {
            ("replaceRegularExpression", modifier.replace_regular_expression.is_none())
        }
        None => {
            let expected = OpenEnum::<api::PathModifierType>::expected();
            report.drop_rule(format!("{path}.type"), format!("{:?}", modifier.r#type.as_str()), expected);
            return None;
        }
    };
    let at = format!("{path}.{member}");
    if missing {
        report.drop_rule(at, "nothing", format!("{member}, as type says"));
        return None;
    }
    if let Some(full) = &modifier.replace_full_path {
        return canonical(full, &at, report).map(PathEdit::Full);
    }
    if let Some(prefix) = &modifier.replace_prefix_match {
        return replace_prefix(prefix, &at, predicates, report);
    }
    if let Some(template) = &modifier.replace_template {
        return replace_template(template, &at, predicates, report).map(PathEdit::Template);
    }
    let regex = modifier.replace_regular_expression.as_ref()?;
    replace_regex(&regex.pattern, &regex.substitution, &at, report)
}

/// A path as it will be sent.
fn canonical(text: &str, path: &str, report: &mut Faults<'_, '_>) -> Option<Arc<str>> {
    match normalize_route_path(text) {
        Ok(text) => Some(text.as_ref().into()),
        Err(error) => {
            report.drop_rule(path.to_owned(), format!("{text:?}"), format!("a path: {error}"));
            None
        }
    }
}

fn replace_prefix(
    replacement: &str,
    path: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<PathEdit> {
    let Some([Predicate { path: PathMatch::Prefix(matched), .. }]) = predicates else {
        report.drop_rule(
            path.to_owned(),
            format!("{replacement:?}"),
            "a rule with exactly one match, of type PathPrefix",
        );
        return None;
    };
    let replacement = if replacement.is_empty() { "/".into() } else { canonical(replacement, path, report)? };
    let replacement = replacement.strip_suffix('/').map_or_else(|| Arc::clone(&replacement), Arc::from);
    Some(PathEdit::Prefix { matched: Arc::clone(matched), replacement })
}

fn replace_template(
    text: &str,
    path: &str,
    predicates: Option<&[Predicate]>,
    report: &mut Faults<'_, '_>,
) -> Option<Vec<TemplatePart>> {
    let predicates = predicates.unwrap_or_default();
    let template = |predicate: &Predicate| matches!(predicate.path, PathMatch::Template(_));
    if predicates.is_empty() || !predicates.iter().all(template) {
        report.drop_rule(path.to_owned(), format!("{text:?}"), "a rule whose matches all are of type Template");
        return None;
    }
    let has = |predicate: &Predicate, name: &str| match &predicate.path {
        PathMatch::Template(template) => template.names().any(|own| own == name),
        PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => false,
    };
    let (mut parts, mut sample, mut rest) = (Vec::new(), String::new(), text);
    while let Some((literal, behind)) = rest.split_once('{') {
        let Some((name, after)) = behind.split_once('}') else { break };
        if !predicates.iter().all(|predicate| has(predicate, name)) {
            let expected = "variables that the template of every match of the rule has";
            report.drop_rule(path.to_owned(), format!("{{{name}}} in {text:?}"), expected);
            return None;
        }
        if !literal.is_empty() {
            parts.push(TemplatePart::Text(literal.into()));
        }
        parts.push(TemplatePart::Variable(name.into()));
        sample.push_str(literal);
        // Stands for any value, which is canonical itself.
        sample.push('v');
        rest = after;
    }
    sample.push_str(rest);
    if sample.contains(['{', '}']) {
        report.drop_rule(path.to_owned(), format!("{text:?}"), "braces only as {name}");
        return None;
    }
    let canonical = canonical(&sample, path, report)?;
    if *canonical != *sample {
        let expected = "a path in canonical form: no '//', no dot segments, no needless escapes";
        report.drop_rule(path.to_owned(), format!("{text:?}"), expected);
        return None;
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest.into()));
    }
    Some(parts)
}

fn replace_regex(pattern: &str, substitution: &str, path: &str, report: &mut Faults<'_, '_>) -> Option<PathEdit> {
    let compiled = match report.expressions.searching(pattern) {
        Ok(compiled) => compiled,
        Err(error) => {
            let expected = match error {
                ExpressionError::Regex(error) => format!("a regular expression: {error}"),
                ExpressionError::TooManyInRoute => TOO_MANY_EXPRESSIONS.to_owned(),
            };
            report.drop_rule(format!("{path}.pattern"), format!("{pattern:?}"), expected);
            return None;
        }
    };
    let at = format!("{path}.substitution");
    let (mut literal, mut rest) = (String::from("/"), substitution);
    while let Some((text, behind)) = rest.split_once('$') {
        literal.push_str(text);
        let (name, after) = match behind.strip_prefix('{') {
            Some(braced) => match braced.split_once('}') {
                Some(parts) => parts,
                None => {
                    let expected = "groups as $1 or ${name}; $$ for a dollar sign";
                    report.drop_rule(at, format!("${behind} without its }} in {substitution:?}"), expected);
                    return None;
                }
            },
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                behind.split_at(behind.find(|c| !word(c)).unwrap_or(behind.len()))
            }
        };
        if name.is_empty() && behind.starts_with('$') {
            literal.push('$');
            rest = &behind[1..];
            continue;
        }
        if !compiled.has_group(name) {
            let expected = "groups that the pattern has; $$ for a dollar sign";
            report.drop_rule(at, format!("${name} in {substitution:?}"), expected);
            return None;
        }
        rest = after;
    }
    literal.push_str(rest);
    if let Err(error) = CanonicalPath::parse(literal.as_bytes(), Slashes::Merge) {
        report.drop_rule(at, format!("{substitution:?}"), format!("text that may stand in a path: {error}"));
        return None;
    }
    Some(PathEdit::Regex { pattern: compiled, substitution: substitution.into() })
}

fn direct_response(direct: &api::DirectResponse, path: &str, report: &mut Faults<'_, '_>) -> Option<DirectResponse> {
    let Some(status) = StatusCode::from_u16(direct.status_code).ok().filter(|status| status.as_u16() >= 200) else {
        report.drop_rule(format!("{path}.statusCode"), direct.status_code.to_string(), "200 to 599");
        return None;
    };
    let body = direct.body.clone().unwrap_or_default();
    if !body.is_empty() && matches!(status.as_u16(), 204 | 205 | 304) {
        let found = format!("{} bytes with status {}", body.len(), status.as_u16());
        report.drop_rule(format!("{path}.body"), found, "no body: a response with this status has none");
        return None;
    }
    let Ok(content_type) = HeaderValue::from_bytes(direct.content_type.as_bytes()) else {
        let found = format!("{:?}", direct.content_type);
        report.drop_rule(format!("{path}.contentType"), found, "a media type without control bytes");
        return None;
    };
    Some(DirectResponse { status, content_type, body: body.into() })
}

fn cors(cors: &api::Cors, path: &str, report: &mut Faults<'_, '_>) -> Option<Cors> {
    let before = report.count;
    let mut origins = Vec::with_capacity(cors.allow_origins.len());
    for (index, text) in cors.allow_origins.iter().enumerate() {
        match origin(text) {
            Some(origin) => origins.push(origin),
            None => {
                let expected = "*, scheme://host[:port] or scheme://*.host[:port], without path";
                report.drop_rule(format!("{path}.allowOrigins[{index}]"), format!("{text:?}"), expected);
            }
        }
    }
    if origins.is_empty() && report.count == before {
        report.drop_rule(format!("{path}.allowOrigins"), "none", "at least one origin: without one nothing is allowed");
    }
    let method = |text: &str| Method::from_bytes(text.as_bytes()).is_ok();
    let header = |text: &str| HeaderName::from_bytes(text.as_bytes()).is_ok();
    let (methods, any_method) = names(&cors.allow_methods, &format!("{path}.allowMethods"), method, report);
    let (headers, any_header) = names(&cors.allow_headers, &format!("{path}.allowHeaders"), header, report);
    let (expose, any_expose) = names(&cors.expose_headers, &format!("{path}.exposeHeaders"), header, report);
    (report.count == before).then(|| Cors {
        origins,
        credentials: cors.allow_credentials.unwrap_or_default(),
        methods,
        headers,
        any_header,
        any_method,
        expose,
        any_expose,
        max_age: HeaderValue::from(cors.max_age),
    })
}

/// A list of tokens as one field value, and whether it is `*`.
fn names(
    list: &[String],
    path: &str,
    valid: impl Fn(&str) -> bool,
    report: &mut Faults<'_, '_>,
) -> (Option<HeaderValue>, bool) {
    let any = list.iter().any(|name| name == "*");
    for (index, name) in list.iter().enumerate() {
        if (any && list.len() > 1) || !(name == "*" || valid(name)) {
            let expected = if any { "* alone, or names" } else { "a name, or *" };
            report.drop_rule(format!("{path}[{index}]"), format!("{name:?}"), expected);
            return (None, false);
        }
    }
    if list.is_empty() {
        return (None, false);
    }
    (HeaderValue::try_from(list.join(", ")).ok(), any)
}

/// An origin as browsers send it: lower case, without the scheme's own port (RFC 6454 §6.1).
fn origin(text: &str) -> Option<OriginMatch> {
    if text == "*" {
        return Some(OriginMatch::Any);
    }
    let text = text.to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://")?;
    let mut letters = scheme.bytes();
    let scheme_fits = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let authority = if own_port.is_empty() { authority } else { authority.strip_suffix(own_port).unwrap_or(authority) };
    let (wildcard, host) = authority.strip_prefix("*.").map_or((false, authority), |host| (true, host));
    if !scheme_fits
        || host.contains('*')
        || host.ends_with(':')
        || crate::model::host::parse_authority(host.as_bytes()).is_err()
    {
        return None;
    }
    Some(if wildcard {
        OriginMatch::Wildcard { prefix: format!("{scheme}://").into(), suffix: format!(".{host}").into() }
    } else {
        OriginMatch::Exact(format!("{scheme}://{authority}").into())
    })
}

fn ip_access(access: &api::IpAccess, path: &str, report: &mut Faults<'_, '_>) -> Option<IpAccess> {
    let before = report.count;
    if access.allow.is_empty() && access.deny.is_empty() {
        report.drop_rule(path.to_owned(), "neither allow nor deny", "at least one address in one of them");
    }
    let mut networks = |list: &[String], name: &str| -> Vec<IpNet> {
        let parsed = list.iter().enumerate().filter_map(|(index, text)| {
            let network = text::network(text);
            if network.is_none() {
                let expected = "an address, or a network such as 10.0.0.0/8 or 2001:db8::/32";
                report.drop_rule(format!("{path}.{name}[{index}]"), format!("{text:?}"), expected);
            }
            network
        });
        parsed.collect()
    };
    let access = IpAccess { allow: networks(&access.allow, "allow"), deny: networks(&access.deny, "deny") };
    (report.count == before).then_some(access)
}

#[cfg(test)]
mod tests;
