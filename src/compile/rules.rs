//! What a route says by itself, wherever it is attached: its hostnames and its rules, each checked on its own.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::filters::{self, Faults, List, coalesce, jwt};
use super::insecure::{REDIRECT_INSECURE, redirects_insecure};
use super::matches::{Matches, Predicate, Shared};
use super::policies::{self, Policies};
use super::references::{BackendNumber, Backends, stated_protocol};
use super::report::{About, FieldPath, Finding, Report};
use super::{health, limits, outlier, retry, sessions, unsupported, upgrades, validation};
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{Delegate, RouteRule};
use crate::kinds::gateway_route::Route;
use crate::kinds::{Origin, Sourced};
use crate::model::filter::{Filter, FilterList};
use crate::model::host::{normalize_host, parse_authority};
use crate::model::ids::ObjectName;
use crate::model::matching::{Hostname, PathMatch};
use crate::model::policy::{Algorithm, Policy, Spread, Timeouts, Upgrades};

/// The most matches that one route may have.
const MAX_MATCHES: usize = 512;

/// A route of the class, while a compilation works on it.
pub(super) struct OwnRoute<'a> {
    pub(super) name: &'a ObjectName,
    pub(super) object: &'a Route,
    /// What it says by itself.
    pub(super) compiled: Arc<CompiledRoute>,
    /// Begins with what there is to say about it by itself.
    pub(super) report: Report<'a>,
}

/// What a route says by itself; shared by all compilations in which nothing changes about that.
#[derive(Debug)]
pub(super) struct CompiledRoute {
    pub(super) name: ObjectName,
    pub(super) label: Arc<str>,
    pub(super) object: Arc<Route>,
    pub(super) origin: Option<Box<Origin>>,
    /// Its hostnames, each once; `Any` alone when it names none; empty when all are wrong.
    pub(super) hostnames: Arc<[Hostname]>,
    /// By position; `None` for a rule that is left out.
    pub(super) rules: Box<[Option<OwnRule>]>,
    /// What there is to say about it, wherever it is attached.
    pub(super) findings: Vec<Finding>,
    /// Compiling it panicked, so that nothing of it serves.
    pub(super) has_panicked: bool,
}

/// A rule that serves wherever its route is attached.
#[derive(Debug)]
pub(super) struct OwnRule {
    /// Its name, or its position.
    pub(super) name: Arc<str>,
    pub(super) priority: i32,
    /// One for each match; at least one.
    pub(super) predicates: Box<[Predicate]>,
    /// `None` when neither the rule nor its route has the block.
    pub(super) timeouts: Option<Arc<Timeouts>>,
    /// With the blocks that the rule or its route has; `None` where they have none.
    pub(super) policy: Option<Box<Policy>>,
    /// `None` when neither the rule nor its route has the block.
    pub(super) algorithm: Option<Algorithm>,
    /// By the same block.
    pub(super) spread: Option<Spread>,
    /// `None` when neither the rule nor its route has the block.
    pub(super) upgrades: Option<Arc<Upgrades>>,
    /// The layers of its route and its own, outermost first.
    pub(super) filters: Arc<[Filter]>,
    pub(super) shares: Box<[Share]>,
    /// The backends that its filters, and those of its route, refer to.
    pub(super) of_filters: Box<[BackendNumber]>,
    /// It leaves its requests to other routes; its one predicate has a prefix.
    pub(super) delegates: bool,
}

/// A backendRef with a weight above 0.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Among all backendRefs of the rule.
    pub(super) position: u32,
    pub(super) weight: u32,
    pub(super) tier: u8,
    /// `None` when the reference leads nowhere.
    pub(super) backend: Option<BackendNumber>,
    /// The layers of the reference, if it has any.
    pub(super) filters: Option<Box<Arc<[Filter]>>>,
}

impl Share {
    /// The layers of the reference.
    pub(super) fn filters(&self) -> Arc<[Filter]> {
        self.filters.as_deref().cloned().unwrap_or_default()
    }
}

impl OwnRule {
    /// The backends that it refers to; some of them more than once.
    pub(super) fn backends(&self) -> impl Iterator<Item = BackendNumber> {
        self.shares.iter().filter_map(|share| share.backend).chain(self.of_filters.iter().copied())
    }

    /// The prefix of a delegating rule, held without a trailing slash.
    pub(super) fn delegated_prefix(&self) -> Option<(&Predicate, &Arc<str>)> {
        match (self.delegates, &*self.predicates) {
            (true, [only]) => match &only.path {
                PathMatch::Prefix(prefix) => Some((only, prefix)),
                PathMatch::Exact(_) | PathMatch::Template(_) | PathMatch::Regex(_) => None,
            },
            _ => None,
        }
    }
}

fn label(name: &ObjectName) -> Arc<str> {
    [&*name.namespace, "/", &*name.name].concat().into()
}

impl<'a> OwnRoute<'a> {
    /// A route that is compiled already.
    pub(super) fn new(name: &'a ObjectName, route: &'a Sourced<Route>, compiled: Arc<CompiledRoute>) -> Self {
        let report = Report::new(name, route).with(compiled.findings.clone());
        Self { name, object: &route.object, compiled, report }
    }
}

impl Deref for OwnRoute<'_> {
    type Target = CompiledRoute;

    fn deref(&self) -> &CompiledRoute {
        &self.compiled
    }
}

impl CompiledRoute {
    /// Compiles a route. A fault of ours that it brings to light is not that of the others.
    pub(super) fn compile_alone(
        name: &ObjectName,
        route: &Sourced<Route>,
        shared: &mut Shared,
        backends: &mut Backends<'_>,
    ) -> Self {
        // What all routes share holds whole entries only, and some that nobody uses do no harm.
        let compiled = catch_unwind(AssertUnwindSafe(|| Self::compile(name, route, shared, backends)));
        compiled.unwrap_or_else(|_| {
            let mut report = Report::new(name, route);
            let found =
                "something in it makes tidegate panic, which is a fault of tidegate: please report it, with the route";
            report.add(About::Route, ConditionReason::Invalid, "", found, "");
            let rules = route.object.spec.rules.iter().map(|_| None).collect();
            Self { has_panicked: true, ..Self::new((name, route), Arc::default(), rules, report) }
        })
    }

    fn new(
        (name, route): (&ObjectName, &Sourced<Route>),
        hostnames: Arc<[Hostname]>,
        rules: Box<[Option<OwnRule>]>,
        report: Report<'_>,
    ) -> Self {
        let Sourced { object, origin } = route.clone();
        let (name, label, findings) = (name.clone(), label(name), report.findings);
        Self { name, label, object, origin, hostnames, rules, findings, has_panicked: false }
    }

    fn compile(name: &ObjectName, route: &Sourced<Route>, shared: &mut Shared, backends: &mut Backends<'_>) -> Self {
        #[cfg(test)]
        assert_ne!(&*name.name, "panics", "wanted by a test");
        let object = &*route.object;
        let mut report = Report::new(name, route);
        shared.expressions.begin_route();
        let hostnames = hostnames(object, &mut report);
        let is_refused = unsupported::refuse_in_route(&object.spec, &mut report);
        policies::check_unused_defaults(&object.spec, &mut report);
        let mut rules = Vec::with_capacity(object.spec.rules.len());
        let mut matches = 0;
        for (index, rule) in object.spec.rules.iter().enumerate() {
            matches += rule.matches.len().max(1);
            let sound = compile_rule(name, object, index, shared, backends, &mut report);
            let dropped = matches > MAX_MATCHES || is_refused;
            rules.push(if dropped { None } else { sound });
        }
        if matches > MAX_MATCHES {
            let expected = format!("at most {MAX_MATCHES} matches; the rules up to there serve");
            let found = format!("{matches} matches");
            report.add(About::Heirs, ConditionReason::UnsupportedValue, "spec.rules", found, expected);
        }
        Self::new((name, route), hostnames, rules.into(), report)
    }
}

/// One rule, or `None` after a report that drops it.
fn compile_rule(
    name: &ObjectName,
    route: &Route,
    index: usize,
    shared: &mut Shared,
    backends: &mut Backends<'_>,
    report: &mut Report<'_>,
) -> Option<OwnRule> {
    let rule: &RouteRule = route.spec.rules.get(index)?;
    let spec = FieldPath::SPEC;
    let at = spec.item("rules", index);
    let mut predicates = Vec::with_capacity(rule.matches.len().max(1));
    let mut matches = Matches { rule: index, shared, report, is_broken: false };
    for (position, one) in rule.matches.iter().enumerate() {
        predicates.extend(matches.compile(one, at.item("matches", position)));
    }
    if rule.matches.is_empty() {
        predicates.push(Predicate::any());
    }
    let mut is_broken = matches.is_broken;
    let mut policies = Policies { spec: &route.spec, rule: Some((index, rule)), report, is_broken: false };
    let timeouts = policies.timeouts().map(|timeouts| shared.timeouts.get(timeouts));
    let algorithm = policies.algorithm(&predicates);
    let spread = policies.spread();
    is_broken |= policies.is_broken;
    let upgrades = match upgrades::compile(&route.spec, Some((index, rule)), report) {
        upgrades::Compiled::Said(upgrades) => Some(shared.upgrades.get(upgrades)),
        upgrades::Compiled::Unsaid => None,
        upgrades::Compiled::Broken => {
            is_broken = true;
            None
        }
    };
    let of = (&route.spec, Some((index, rule)));
    let retry = retry::compile(of, report);
    is_broken |= retry.is_err();
    let session = sessions::compile((name, index, rule), &predicates, report);
    is_broken |= session.is_err();
    let limits = limits::compile(of, report);
    is_broken |= limits.is_err();
    let outlier = outlier::compile(of, report);
    is_broken |= outlier.is_err();
    let health_check = health::compile(of, report);
    is_broken |= health_check.is_err();
    let client_validation = route.spec.tls.as_ref().and_then(|tls| tls.client_validation.as_ref());
    let client_validation = client_validation.map(|one| validation::asked(&name.namespace, one));
    let policy = Policy {
        retry: retry.unwrap_or_default().map(|retry| shared.retries.get(retry)),
        session: session.unwrap_or_default().map(|session| shared.sessions.get(session)),
        limits: limits.unwrap_or_default().map(|limits| shared.limits.get(limits)),
        outlier: outlier.unwrap_or_default().map(|outlier| shared.outliers.get(outlier)),
        health_check: health_check.unwrap_or_default().map(|check| shared.health_checks.get(check)),
        client_validation: client_validation.map(Arc::new),
    };
    let redirects = redirects_insecure(backends.inputs(), &name.namespace, &route.spec);
    let rule_name = match &rule.name {
        Some(name) => shared.texts.get(&**name),
        None => shared.texts.get(index.to_string().as_str()),
    };
    let mut of_filters = Vec::new();
    let from = (route.kind, &*name.namespace);
    let objects = &backends.inputs().objects;
    let filters = {
        let mut find_backend = backends.finder(from, &mut of_filters);
        let faults = &mut Faults::new(report, &mut shared.expressions, &mut find_backend, objects, index);
        rule_filters((name, route), (index, &rule_name), &predicates, redirects, faults)
    };
    is_broken |= filters.is_none();
    if policy.session.is_some() && filters.as_deref().is_some_and(|all| coalesce::coalesces(all.iter())) {
        let (found, expected) = coalesce::WITH_SESSIONS;
        report.unsupported(index, at.field("sessionPersistence"), found, expected);
        is_broken = true;
    }
    let is_verified =
        filters::may_inherit(&route.spec) || filters.as_deref().is_none_or(|all| jwt::verifies_tokens(all.iter()));
    if let Some(Algorithm::ConsistentHash(hash)) = &algorithm {
        let above = if rule.load_balancer.is_some() { at } else { FieldPath::DEFAULTS };
        let load_balancer = above.field("loadBalancer");
        filters::warn_of_hash(&hash.keys, filters.as_deref().unwrap_or_default(), load_balancer, report);
        if jwt::takes_claims(&hash.keys) && !is_verified {
            let (found, expected) = filters::NO_CLAIMS;
            report.unsupported(index, load_balancer.field("hashKeys"), found, expected);
            is_broken = true;
        }
    }
    let mut shares = Vec::with_capacity(rule.backend_refs.len());
    for (position, reference) in rule.backend_refs.iter().enumerate() {
        let at = at.item("backendRefs", position);
        let stated = stated_protocol(reference, (index, at), report);
        is_broken |= stated.is_err();
        let stated = stated.unwrap_or_default();
        let backend = backends.resolve((route.kind, &name.namespace), (reference, stated), (index, at), report);
        let inner = if reference.filters.is_empty() {
            Some(Arc::<[Filter]>::default())
        } else {
            let place = FilterList::BackendRef(rule_name.clone(), u32::try_from(position).unwrap_or(u32::MAX));
            let (inner, predicates) = (&*reference.filters, Some(&*predicates));
            let list = List { name, spec: &route.spec, place, filters: inner, at, predicates };
            let outer = filters.as_deref().unwrap_or_default();
            let mut find_backend = backends.finder(from, &mut of_filters);
            let faults = &mut Faults::new(report, &mut shared.expressions, &mut find_backend, objects, index);
            filters::compile(outer, &[list], faults).map(Arc::from)
        };
        is_broken |= inner.is_none();
        if reference.weight > 0 {
            let filters = inner.filter(|filters| !filters.is_empty()).map(Box::new);
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            shares.push(Share { position, weight: reference.weight, tier: reference.tier, backend, filters });
        }
    }
    let compiled = OwnRule {
        name: rule_name,
        priority: rule.priority,
        predicates: predicates.into(),
        timeouts,
        policy: (!policy.is_empty()).then(|| Box::new(policy)),
        algorithm,
        spread,
        upgrades,
        filters: filters.unwrap_or_default(),
        shares: shares.into(),
        of_filters: of_filters.into(),
        delegates: rule.delegate.is_some(),
    };
    if let Some(delegate) = &rule.delegate {
        is_broken |= refuse_unknown_namespaces(delegate, (index, at), report);
    }
    if is_broken {
        return None;
    }
    if compiled.delegates {
        if compiled.delegated_prefix().is_none() {
            report.unsupported(index, at.field("matches"), "other matches", "exactly one PathPrefix beside delegate");
            return None;
        }
        if !rule.backend_refs.is_empty() {
            report.unsupported(index, at.field("backendRefs"), "backendRefs", "none beside delegate");
            return None;
        }
    }
    Some(compiled)
}

/// Refuses a choice of namespaces that this version does not know; true after a report.
fn refuse_unknown_namespaces(delegate: &Delegate, (rule, at): (usize, FieldPath<'_>), report: &mut Report<'_>) -> bool {
    let at = at.field("delegate");
    let at = at.field("namespaces");
    let mut is_refused = false;
    if delegate.namespaces.from.known().is_none() {
        report.unknown(rule, at.field("from"), &delegate.namespaces.from);
        is_refused = true;
    }
    let at = at.field("selector");
    let selector = delegate.namespaces.selector.iter().flat_map(|selector| &selector.match_expressions);
    for (position, requirement) in selector.enumerate() {
        if requirement.operator.known().is_none() {
            report.unknown(rule, at.item("matchExpressions", position).field("operator"), &requirement.operator);
            is_refused = true;
        }
    }
    is_refused
}

/// The layers of a route and of one of its rules; `None` when the rule cannot be served.
fn rule_filters(
    (name, route): (&ObjectName, &Route),
    (index, rule_name): (usize, &Arc<str>),
    predicates: &[Predicate],
    redirects: bool,
    faults: &mut Faults<'_, '_>,
) -> Option<Arc<[Filter]>> {
    let own = &route.spec.rules.get(index)?.filters;
    let outer: &[Filter] = if redirects { std::slice::from_ref(&*REDIRECT_INSECURE) } else { &[] };
    if route.spec.filters.is_empty() && own.is_empty() {
        return Some(Arc::from(outer));
    }
    let (spec, at, place) = (&route.spec, FieldPath::SPEC, FilterList::Route);
    let of_route = List { name, spec, place, filters: &spec.filters, at, predicates: None };
    let (at, place) = (FieldPath::rule(index), FilterList::Rule(rule_name.clone()));
    let of_rule = List { name, spec, place, filters: own, at, predicates: Some(predicates) };
    let inner = filters::compile(&[], &[of_route, of_rule], faults)?;
    Some(outer.iter().cloned().chain(inner).collect())
}

/// The hostnames of a route; one that is none is left out after a report.
fn hostnames(route: &Route, report: &mut Report<'_>) -> Arc<[Hostname]> {
    if route.spec.hostnames.is_empty() {
        return Arc::from([Hostname::Any]);
    }
    let mut names = Vec::with_capacity(route.spec.hostnames.len());
    for (index, text) in route.spec.hostnames.iter().enumerate() {
        let (is_wildcard, bare) = text.strip_prefix("*.").map_or((false, text.as_str()), |suffix| (true, suffix));
        if parse_authority(bare.as_bytes()).is_err() || bare.contains([':', '[']) {
            let at = FieldPath::SPEC;
            let expected = "a hostname, with or without \"*.\" before it";
            report.add(About::Part, ConditionReason::UnsupportedValue, at.item("hostnames", index), text, expected);
            continue;
        }
        let name: Arc<str> = normalize_host(bare).as_ref().into();
        let hostname = if is_wildcard { Hostname::Wildcard(name) } else { Hostname::Exact(name) };
        if !names.contains(&hostname) {
            names.push(hostname);
        }
    }
    names.into()
}
