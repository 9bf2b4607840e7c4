//! Matches of a rule as predicates of the router.

use std::sync::Arc;

use super::expressions::{ExpressionError, Expressions, TOO_MANY_EXPRESSIONS};
use super::report::{FieldPath, NEVER_MATCHED, Report};
use crate::api::gateway_route::{
    GrpcMatch, GrpcMatchType, MatchMethod, OpenEnum, PathMatch as ApiPathMatch, PathMatchType, RouteMatch,
    ValueMatch as ApiValueMatch, ValueMatchType,
};
use crate::kinds::Distinct;
use crate::model::health::HealthCheck;
use crate::model::limits::EndpointLimits;
use crate::model::matching::{
    CompiledRegex, Conditions, PathMatch, RegexError, Template, TemplateError, ValueMatch, ValueTest,
};
use crate::model::outlier::Outlier;
use crate::model::path::normalize_route_path;
use crate::model::policy::{Timeouts, Upgrades};
use crate::model::retry::Retry;
use crate::model::session::Session;

/// What one match asks of a request, hostname and priority aside.
#[derive(Clone, Debug)]
pub(super) struct Predicate {
    pub(super) path: PathMatch,
    /// `None` for most matches.
    pub(super) conditions: Option<Arc<Conditions>>,
}

/// What the rules of all routes have in common, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) expressions: Expressions,
    /// Names of rules, paths.
    pub(super) texts: Distinct<str>,
    pub(super) timeouts: Distinct<Timeouts>,
    pub(super) upgrades: Distinct<Upgrades>,
    pub(super) retries: Distinct<Retry>,
    pub(super) sessions: Distinct<Session>,
    pub(super) outliers: Distinct<Outlier>,
    pub(super) health_checks: Distinct<HealthCheck>,
    pub(super) limits: Distinct<EndpointLimits>,
}

impl Shared {
    /// Drops what no route uses any more.
    pub(super) fn prune(&mut self) {
        let Self { expressions, texts, timeouts, upgrades, retries, sessions, outliers, health_checks, limits } = self;
        expressions.prune();
        texts.prune();
        timeouts.prune();
        upgrades.prune();
        retries.prune();
        sessions.prune();
        outliers.prune();
        health_checks.prune();
        limits.prune();
    }
}

impl Predicate {
    /// Every request.
    pub(super) fn any() -> Self {
        // Nothing is allocated for the empty text.
        Self { path: PathMatch::Prefix(Arc::default()), conditions: None }
    }

    /// Adds what a delegating rule asks: both must hold. `None` when they name different methods.
    pub(super) fn and(mut self, outer: &Self) -> Option<Self> {
        let Some(outer) = &outer.conditions else { return Some(self) };
        let Some(own) = self.conditions.take() else {
            return Some(Self { conditions: Some(Arc::clone(outer)), ..self });
        };
        let mut own = Arc::unwrap_or_clone(own);
        own.method = match (own.method, &outer.method) {
            (Some(own), Some(outer)) if own != *outer => return None,
            (own, outer) => own.or_else(|| outer.clone()),
        };
        let lists = [
            (&mut own.headers, &outer.headers),
            (&mut own.query_params, &outer.query_params),
            (&mut own.cookies, &outer.cookies),
        ];
        for (own, outer) in lists {
            // The same condition twice would count twice in precedence.
            let new: Vec<_> = outer.iter().filter(|condition| !own.contains(condition)).cloned().collect();
            own.extend(new);
        }
        self.conditions = own.shared();
        Some(self)
    }

    /// Whether every path that it matches lies under a prefix (held without a trailing slash).
    pub(super) fn is_under(&self, prefix: &str) -> bool {
        let path = match &self.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) => path,
            PathMatch::Template(template) => template.as_str(),
            // What an expression matches cannot be told from its text.
            PathMatch::Regex(_) => return false,
        };
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Compiles the matches of one rule; what is wrong drops the rule.
pub(super) struct Matches<'m, 'r> {
    /// The rule's position.
    pub(super) rule: usize,
    pub(super) shared: &'m mut Shared,
    pub(super) report: &'m mut Report<'r>,
    /// Something was refused.
    pub(super) is_broken: bool,
}

impl Matches<'_, '_> {
    /// The predicate of a match at `at`; one that is not whole, or none, after a report.
    pub(super) fn compile(&mut self, one: &RouteMatch, at: FieldPath<'_>) -> Option<Predicate> {
        let path = match &one.grpc {
            None => self.path(&one.path, at.field("path")),
            Some(grpc) => self.grpc(one, grpc, at),
        };
        let method = one.method.as_ref().and_then(|method| match method.known() {
            Some(method) => Some(http_method(method)),
            None => self.unknown(at.field("method"), method),
        });
        let headers = self.values(&one.headers, at, "headers");
        let query_params = self.values(&one.query_params, at, "queryParams");
        let cookies = self.values(&one.cookies, at, "cookies");
        let conditions = Conditions { method, headers, query_params, cookies };
        path.map(|path| Predicate { path, conditions: conditions.shared() })
    }

    fn refuse<T>(&mut self, at: FieldPath<'_>, found: impl Into<String>, expected: impl Into<String>) -> Option<T> {
        self.report.unsupported(self.rule, at, found, expected);
        self.is_broken = true;
        None
    }

    fn unknown<T: crate::api::gateway_route::KnownValue, R>(
        &mut self,
        at: FieldPath<'_>,
        value: &OpenEnum<T>,
    ) -> Option<R> {
        self.report.unknown(self.rule, at, value);
        self.is_broken = true;
        None
    }

    fn path(&mut self, path: &ApiPathMatch, at: FieldPath<'_>) -> Option<PathMatch> {
        let value = &*path.value;
        let kind = match path.r#type.known() {
            None => return self.unknown(at.field("type"), &path.r#type),
            Some(PathMatchType::RegularExpression) => {
                let regex = self.regex(value, at.field("value"))?;
                if !regex.fits_a_path() {
                    let found = format!("this match can never win: no path fits {value}");
                    let effect = "an expression has to fit a whole path, which begins with /, has no query and is percent-encoded";
                    self.report.warn(at.field("value"), NEVER_MATCHED, found, effect);
                }
                return Some(PathMatch::Regex(regex));
            }
            Some(kind) => kind,
        };
        let canonical = match normalize_route_path(value) {
            Ok(canonical) => canonical,
            Err(error) => return self.refuse(at.field("value"), value, format!("a canonical path: {error}")),
        };
        match kind {
            PathMatchType::Exact => Some(PathMatch::Exact(self.shared.texts.get(&*canonical))),
            PathMatchType::PathPrefix => {
                Some(PathMatch::Prefix(self.shared.texts.get(canonical.trim_end_matches('/'))))
            }
            PathMatchType::Template | PathMatchType::RegularExpression => {
                self.template(&canonical, value, at.field("value"))
            }
        }
    }

    fn template(&mut self, canonical: &str, written: &str, at: FieldPath<'_>) -> Option<PathMatch> {
        let expected = match Template::parse(canonical) {
            Ok(template) => return Some(PathMatch::Template(Arc::new(template))),
            Err(TemplateError::RestNotLast(_)) => "{name*} only as the last segment".to_owned(),
            Err(TemplateError::Twice(name)) => format!("distinct variables, not {{{name}}} twice"),
            Err(error @ (TemplateError::NotAbsolute | TemplateError::Element(_) | TemplateError::Name(_))) => {
                format!("a template: {error}")
            }
        };
        self.refuse(at, written, expected)
    }

    /// A gRPC call is a path, `/service/method` (gRPC over HTTP2, Requests).
    fn grpc(&mut self, one: &RouteMatch, grpc: &GrpcMatch, at: FieldPath<'_>) -> Option<PathMatch> {
        if one.path != ApiPathMatch::default() {
            let found = format!("{} {}", one.path.r#type, one.path.value);
            return self.refuse(at.field("path"), found, "no path beside grpc");
        }
        let at = at.field("grpc");
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        let parts = [("service", named(&grpc.service)), ("method", named(&grpc.method))];
        match grpc.r#type.known() {
            None => self.unknown(at.field("type"), &grpc.r#type),
            Some(GrpcMatchType::RegularExpression) => {
                let mut whole = String::new();
                for (name, part) in parts {
                    // Each must be an expression by itself, so that `a)|(b` does not reach over its place.
                    match part {
                        Some(part) => {
                            self.regex(&part, at.field(name))?;
                            whole += &format!("/(?:{part})");
                        }
                        None => whole += "/[^/]+",
                    }
                }
                self.regex(&whole, at).map(PathMatch::Regex)
            }
            Some(GrpcMatchType::Exact) => {
                for (name, part) in &parts {
                    let Some(part) = part else { continue };
                    let is_segment = !part.contains(['/', '%', '{', '}'])
                        && normalize_route_path(&format!("/{part}")).is_ok_and(|path| path[1..] == **part);
                    if !is_segment {
                        return self.refuse(at.field(name), part, "a name that is one segment of a path");
                    }
                }
                match parts.map(|(_, part)| part) {
                    [Some(service), Some(method)] => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
                    [Some(service), None] => Some(PathMatch::prefix(&format!("/{service}"))),
                    [None, Some(method)] => {
                        let template = format!("/{{service}}/{method}");
                        self.template(&template, &method, at.field("method"))
                    }
                    [None, None] => self.refuse(at, "neither service nor method", "one of them"),
                }
            }
        }
    }

    fn values(&mut self, list: &[ApiValueMatch], at: FieldPath<'_>, name: &'static str) -> Vec<ValueMatch> {
        let are_headers = name == "headers";
        let mut compiled: Vec<ValueMatch> = Vec::with_capacity(list.len());
        for (index, one) in list.iter().enumerate() {
            let at = at.item(name, index);
            let key = if are_headers { one.name.to_ascii_lowercase() } else { one.name.clone() };
            if compiled.iter().any(|other| *other.name == *key) {
                let expected =
                    if are_headers { "distinct names, which are case-insensitive" } else { "distinct names" };
                self.refuse::<()>(at.field("name"), &one.name, expected);
                continue;
            }
            let text = one.value.as_deref().unwrap_or_default();
            let test = match one.r#type.known() {
                Some(ValueMatchType::Exact) => Some(ValueTest::Exact(text.into())),
                Some(ValueMatchType::Prefix) => Some(ValueTest::Prefix(text.into())),
                Some(ValueMatchType::Present) => Some(ValueTest::Present),
                Some(ValueMatchType::Absent) => Some(ValueTest::Absent),
                Some(ValueMatchType::RegularExpression) => self.regex(text, at.field("value")).map(ValueTest::Regex),
                None => self.unknown(at.field("type"), &one.r#type),
            };
            compiled.extend(test.map(|test| ValueMatch { name: key.into(), test }));
        }
        compiled
    }

    fn regex(&mut self, pattern: &str, at: FieldPath<'_>) -> Option<Arc<CompiledRegex>> {
        match self.shared.expressions.matching(pattern) {
            Ok(regex) => Some(regex),
            Err(ExpressionError::Regex(RegexError::TooLarge)) => {
                self.refuse(at, pattern, "a regular expression of at most 64 KiB compiled")
            }
            Err(ExpressionError::Regex(RegexError::Syntax(error))) => {
                self.refuse(at, pattern, format!("a regular expression (RE2 syntax, no look-around): {error}"))
            }
            Err(ExpressionError::TooManyInRoute) => self.refuse(at, pattern, TOO_MANY_EXPRESSIONS),
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
