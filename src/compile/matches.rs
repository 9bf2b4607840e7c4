//! Matches of a rule as predicates of the router.

use std::sync::Arc;

use super::report::Report;
use crate::api::gateway_route::{
    GrpcMatch, GrpcMatchType, MatchMethod, OpenEnum, PathMatchType, RouteMatch, ValueMatch as ApiValueMatch,
    ValueMatchType,
};
use crate::model::matching::{CompiledRegex, PathMatch, Template, ValueMatch, ValueTest};
use crate::model::path::normalize_route_path;

/// What one match asks of a request, hostname and priority aside.
#[derive(Clone, Debug)]
pub(super) struct Predicate {
    pub(super) path: PathMatch,
    pub(super) method: Option<http::Method>,
    pub(super) headers: Vec<ValueMatch>,
    pub(super) query_params: Vec<ValueMatch>,
    pub(super) cookies: Vec<ValueMatch>,
}

impl Predicate {
    /// The predicate of a match, or `None` after a report that drops the rule. `path` is the field path of the match.
    pub(super) fn compile(route_match: &RouteMatch, path: &str, report: &mut Report) -> Option<Self> {
        let before = report.findings.len();
        let route_path = match &route_match.grpc {
            None => compile_path(route_match, path, report),
            Some(grpc) => compile_grpc(route_match, grpc, path, report),
        };
        let method = match route_match.method.as_ref().map(|method| (method, method.known())) {
            None => None,
            Some((_, Some(method))) => Some(http_method(method)),
            Some((found, None)) => {
                let expected = OpenEnum::<MatchMethod>::expected();
                report.drop_rule(format!("{path}.method"), found.as_str(), expected);
                None
            }
        };
        let headers = values(&route_match.headers, &format!("{path}.headers"), true, report);
        let query_params = values(&route_match.query_params, &format!("{path}.queryParams"), false, report);
        let cookies = values(&route_match.cookies, &format!("{path}.cookies"), false, report);
        let sound = report.findings.len() == before;
        route_path.filter(|_| sound).map(|path| Self { path, method, headers, query_params, cookies })
    }

    /// Adds what a delegating rule asks: both must hold. `None` when they cannot.
    pub(super) fn and(mut self, outer: &Self) -> Option<Self> {
        self.method = match (self.method, &outer.method) {
            (Some(own), Some(outer)) if own != *outer => return None,
            (own, outer) => own.or_else(|| outer.clone()),
        };
        self.headers.extend(outer.headers.iter().cloned());
        self.query_params.extend(outer.query_params.iter().cloned());
        self.cookies.extend(outer.cookies.iter().cloned());
        Some(self)
    }

    /// Whether every path that it matches lies under a prefix (held without a trailing slash).
    pub(super) fn is_under(&self, prefix: &str) -> bool {
        let path = match &self.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
            PathMatch::Template(template) => template.as_str(),
            // What an expression matches cannot be told from its text.
            PathMatch::Regex(_) => return prefix.is_empty(),
        };
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn compile_path(route_match: &RouteMatch, path: &str, report: &mut Report) -> Option<PathMatch> {
    let value = route_match.path.value.as_str();
    let field = format!("{path}.path.value");
    let Some(kind) = route_match.path.r#type.known() else {
        let expected = OpenEnum::<PathMatchType>::expected();
        report.drop_rule(format!("{path}.path.type"), route_match.path.r#type.as_str(), expected);
        return None;
    };
    if kind == PathMatchType::RegularExpression {
        return regex(value, &field, report).map(PathMatch::Regex);
    }
    let canonical = match normalize_route_path(value) {
        Ok(canonical) => canonical,
        Err(error) => {
            report.drop_rule(field, format!("{value:?}"), format!("a path in canonical form: {error}"));
            return None;
        }
    };
    match kind {
        PathMatchType::Exact => Some(PathMatch::Exact(canonical.as_ref().into())),
        PathMatchType::PathPrefix => Some(PathMatch::prefix(&canonical)),
        PathMatchType::Template | PathMatchType::RegularExpression => template(&canonical, field, report),
    }
}

fn template(value: &str, field: String, report: &mut Report) -> Option<PathMatch> {
    match Template::parse(value) {
        Ok(template) => Some(PathMatch::Template(Arc::new(template))),
        Err(error) => {
            report.drop_rule(field, format!("{value:?}"), format!("a template: {error}"));
            None
        }
    }
}

/// gRPC calls are paths: `/service/method` (decision 8 of the design).
fn compile_grpc(route_match: &RouteMatch, grpc: &GrpcMatch, path: &str, report: &mut Report) -> Option<PathMatch> {
    if route_match.path != crate::api::gateway_route::PathMatch::default() {
        let found = format!("{} {:?}", route_match.path.r#type, route_match.path.value);
        report.drop_rule(format!("{path}.path"), found, "no path beside grpc");
        return None;
    }
    let field = format!("{path}.grpc");
    let plain = |name: &Option<String>| name.as_deref().filter(|name| !name.is_empty()).map(str::to_owned);
    let (service, method) = (plain(&grpc.service), plain(&grpc.method));
    match grpc.r#type.known() {
        Some(GrpcMatchType::Exact) => {
            for (name, part) in [("service", &service), ("method", &method)] {
                if part.as_ref().is_some_and(|part| part.contains(['/', '{', '}', '?', '#', '%'])) {
                    let found = format!("{:?}", part.as_deref().unwrap_or_default());
                    report.drop_rule(format!("{field}.{name}"), found, "a name of letters, digits, '.' and '_'");
                    return None;
                }
            }
            match (service, method) {
                (Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
                (Some(service), None) => Some(PathMatch::prefix(&format!("/{service}"))),
                (None, Some(method)) => template(&format!("/{{service}}/{method}"), format!("{field}.method"), report),
                (None, None) => {
                    report.drop_rule(field, "neither service nor method", "one of them");
                    None
                }
            }
        }
        Some(GrpcMatchType::RegularExpression) => {
            let part = |name: Option<String>| name.map_or_else(|| "[^/]+".to_owned(), |name| format!("(?:{name})"));
            regex(&format!("/{}/{}", part(service), part(method)), &field, report).map(PathMatch::Regex)
        }
        None => {
            let expected = OpenEnum::<GrpcMatchType>::expected();
            report.drop_rule(format!("{field}.type"), grpc.r#type.as_str(), expected);
            None
        }
    }
}

fn values(list: &[ApiValueMatch], path: &str, headers: bool, report: &mut Report) -> Vec<ValueMatch> {
    let mut compiled: Vec<ValueMatch> = Vec::with_capacity(list.len());
    for (index, value_match) in list.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let name = if headers { value_match.name.to_ascii_lowercase() } else { value_match.name.clone() };
        if compiled.iter().any(|other| *other.name == *name) {
            let expected = if headers { "names that differ beyond their case" } else { "names that differ" };
            report.drop_rule(format!("{at}.name"), format!("{:?} again", value_match.name), expected);
            continue;
        }
        let text = || value_match.value.as_deref().unwrap_or_default();
        let test = match value_match.r#type.known() {
            Some(ValueMatchType::Exact) => ValueTest::Exact(text().into()),
            Some(ValueMatchType::Prefix) => ValueTest::Prefix(text().into()),
            Some(ValueMatchType::Present) => ValueTest::Present,
            Some(ValueMatchType::Absent) => ValueTest::Absent,
            Some(ValueMatchType::RegularExpression) => match regex(text(), &format!("{at}.value"), report) {
                Some(regex) => ValueTest::Regex(regex),
                None => continue,
            },
            None => {
                let expected = OpenEnum::<ValueMatchType>::expected();
                report.drop_rule(format!("{at}.type"), value_match.r#type.as_str(), expected);
                continue;
            }
        };
        compiled.push(ValueMatch { name: name.into(), test });
    }
    compiled
}

fn regex(pattern: &str, field: &str, report: &mut Report) -> Option<Arc<CompiledRegex>> {
    match CompiledRegex::compile(pattern) {
        Ok(regex) => Some(Arc::new(regex)),
        Err(error) => {
            report.drop_rule(field.to_owned(), format!("{pattern:?}"), format!("a regular expression: {error}"));
            None
        }
    }
}

fn http_method(method: MatchMethod) -> http::Method {
    match method {
        MatchMethod::Get => http::Method::GET,
        MatchMethod::Head => http::Method::HEAD,
        MatchMethod::Post => http::Method::POST,
        MatchMethod::Put => http::Method::PUT,
        MatchMethod::Delete => http::Method::DELETE,
        MatchMethod::Options => http::Method::OPTIONS,
        MatchMethod::Patch => http::Method::PATCH,
    }
}
