//! The table of all rules that serve: what each does, and the matches that it competes with.

use std::sync::Arc;

use super::attach::{Attached, Delegation, Way, attach};
use super::authorities::AuthorityState;
use super::backend_tls;
use super::backends::BackendTable;
use super::certificates::{self, Certificates, SecretState};
use super::contest::{CandidateOrigin, Contest, Decided};
use super::diagnostics::Diagnostic;
use super::filters::{self, coalesce, jwt};
use super::inputs::Inputs;
use super::kept::Kept;
use super::matches::Predicate;
use super::policy_status::{self, PolicyStatus};
use super::position::{MatchOf, MatchPos, ParentPos, RoutePos, RuleOf, RulePos, WayPos};
use super::references::Backends;
use super::report::{About, FieldPath};
use super::rules::{OwnRoute, OwnRule};
use super::status::{RouteStatus, Served, Statuses};
use crate::api::conditions::ConditionReason;
use crate::kinds::Distinct;
use crate::model::filter::Filter;
use crate::model::ids::{RouteId, RuleId};
use crate::model::matching::{Candidate, Hostname, Router};
use crate::model::policy::{Algorithm, ConsistentHash, OnMissingKey, Policy, Spread, Timeouts, Upgrades};
use crate::model::request_values::RequestKey;
use crate::model::route::{Route, Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

/// Everything that was compiled, before endpoints are looked at.
pub(super) struct Compiled {
    /// With the backends that it has now.
    pub(super) snapshot: Snapshot,
    pub(super) backends: BackendTable,
    /// What there is to say about routes, in the order of their names.
    pub(super) findings: Vec<Diagnostic>,
    pub(super) statuses: Arc<[RouteStatus]>,
    pub(super) policies: Arc<[PolicyStatus]>,
    /// The Secrets that certificates are taken from.
    pub(super) secrets: Arc<[SecretState]>,
    /// The objects that authorities are taken from.
    pub(super) authorities: Arc<[AuthorityState]>,
    /// Routes that are left out because compiling them panicked.
    pub(super) panics: usize,
}

/// Compiles everything but what is kept, and the backends of the last compilation, which had other inputs.
pub(super) fn compile(inputs: &Inputs, kept: &mut Kept, before: Option<(&BackendTable, &Inputs)>) -> Compiled {
    let mut routes = kept.compile(inputs);
    kept.keep(inputs, &routes);
    let backends = Backends::new(inputs, &mut kept.targets);
    let panics = routes.iter().filter(|route| route.has_panicked).count();
    let attached = attach(inputs, &mut routes);
    let Certificates { hosts, secrets, authorities, findings: of_listeners } =
        certificates::compile(inputs, &mut routes, &attached);
    let mut table = Table::new(&attached);
    for (position, attached) in attached.iter().enumerate() {
        table.add_route(position, &mut routes, attached, &backends);
    }
    let Table { rules, contest, served, .. } = table;
    let Decided { routers, conflicts, never } = contest.decide(inputs.listeners.len(), &routes, &attached);
    never.report(&mut routes);
    let conflicted = conflicts.report(&mut routes);
    let mut statuses = Statuses::new(&served, &conflicted);
    let statuses =
        routes.iter().zip(&attached).enumerate().map(|(at, (route, attached))| statuses.derive(at, route, attached));
    let statuses = statuses.collect();
    let (mut snapshot, backends) = snapshot(rules, &routes, (backends, before), routers);
    snapshot.listeners = inputs.listeners.iter().map(|listener| Arc::clone(&listener.name)).collect();
    snapshot.tls = hosts;
    let mut findings: Vec<Diagnostic> = Vec::new();
    for route in routes {
        findings.extend(route.report.findings.into_iter().map(|finding| finding.diagnostic));
    }
    findings.extend(of_listeners);
    findings.extend(backend_tls::findings(inputs));
    let policies = policy_status::derive(inputs);
    Compiled { snapshot, backends, findings, statuses, policies, secrets, authorities, panics }
}

/// All rules and candidates of all routes; routes and rules are numbered by position.
struct Table {
    rules: Vec<PendingRule>,
    policies: Distinct<Policy>,
    /// For rules that have no such block, themselves or from above.
    timeouts: Arc<Timeouts>,
    upgrades: Arc<Upgrades>,
    contest: Contest,
    /// The hostnames on which rules serve at a parent, if any do; by [`Attached::first_parent`].
    served: Vec<Served>,
}

/// A rule at one place in the delegation tree, with the settings that it inherits filled in.
struct PendingRule {
    at: RuleOf,
    timeouts: Arc<Timeouts>,
    policy: Option<Arc<Policy>>,
    upgrades: Arc<Upgrades>,
    filters: Arc<[Filter]>,
    algorithm: Algorithm,
    spread: Spread,
    delegates: bool,
}

impl Table {
    fn new(attached: &[Attached]) -> Self {
        let parents = attached.last().map_or(0, |last| last.first_parent + last.parents.len());
        let least = attached.len() * 2;
        let contest = Contest::with_capacity(least);
        let (timeouts, upgrades) = (Arc::default(), Arc::default());
        Self {
            rules: Vec::with_capacity(least),
            policies: Distinct::default(),
            timeouts,
            upgrades,
            contest,
            served: vec![None; parents],
        }
    }

    /// Adds the rules of one route, each on every way to the route.
    fn add_route(
        &mut self,
        position: usize,
        routes: &mut [OwnRoute<'_>],
        attached: &Attached,
        backends: &Backends<'_>,
    ) {
        if routes[position].report.findings.iter().any(|finding| finding.about == About::Route) {
            return;
        }
        for rule in 0..routes[position].rules.len() {
            for (number, way) in attached.ways.iter().enumerate() {
                let Some(own) = &routes[position].rules[rule] else { continue };
                let outside = match &way.delegation {
                    Some(delegation) => outside(own, delegation),
                    None => None,
                };
                if let (Some((one, found, expected)), Some(delegation)) = (outside, &way.delegation) {
                    let spec = FieldPath::SPEC;
                    let (at_rule, reason) = (spec.item("rules", rule), ConditionReason::UnsupportedValue);
                    let at = at_rule.item("matches", one);
                    let path = at.to_string();
                    let about = About::RuleAt(delegation.parent, RulePos(rule));
                    routes[position].report.add(about, reason, path, found, expected);
                } else if let Some(delegation) = &way.delegation
                    && let Some((path, found, expected)) = misfit(own, rule, &outer_filters(routes, delegation))
                {
                    let (about, reason) =
                        (About::RuleAt(delegation.parent, RulePos(rule)), ConditionReason::UnsupportedValue);
                    routes[position].report.add(about, reason, path, found, expected);
                } else if !way.hostnames.is_empty() {
                    let of = RuleOf { route: RoutePos(position), rule: RulePos(rule) };
                    self.add_rule((of, number), own, way, routes, backends);
                    self.note_served(attached, way);
                }
            }
        }
    }

    /// Notes at which parents a rule of a route serves by one of its ways.
    fn note_served(&mut self, attached: &Attached, way: &Way) {
        for (position, parent) in attached.parents.iter().enumerate() {
            let is_direct = || parent.listener.is_some_and(|id| way.listeners.contains(id));
            let is_here =
                way.delegation.as_ref().map_or_else(is_direct, |delegation| delegation.parent == ParentPos(position));
            if is_here {
                add_hostnames(&mut self.served[attached.first_parent + position], &way.hostnames);
            }
        }
    }

    fn add_rule(
        &mut self,
        (of, number): (RuleOf, usize),
        own: &OwnRule,
        way: &Way,
        routes: &[OwnRoute<'_>],
        backends: &Backends<'_>,
    ) {
        let above = way.delegation.iter().flat_map(|delegation| &delegation.rules);
        let above: Vec<&OwnRule> =
            above.filter_map(|above| routes[above.route.0].rules[above.rule.0].as_ref()).collect();
        let inherited = || above.iter().find_map(|rule| rule.timeouts.as_ref());
        let timeouts = Arc::clone(own.timeouts.as_ref().or_else(inherited).unwrap_or(&self.timeouts));
        let own_policy = own.policy.as_deref().cloned().unwrap_or_default();
        let policies = above.iter().filter_map(|above| above.policy.as_deref());
        let policy = policies.fold(own_policy, |policy, above| policy.or(above));
        let policy = (!policy.is_empty()).then(|| self.policies.get(policy));
        let inherited = || above.iter().find_map(|rule| rule.algorithm.as_ref());
        let algorithm = match own.algorithm.as_ref().or_else(inherited) {
            Some(algorithm) => algorithm.clone(),
            None if own.shares.iter().filter_map(|share| share.backend).any(|id| backends.has_client_affinity(id)) => {
                Algorithm::ConsistentHash(Arc::new(ConsistentHash {
                    keys: vec![RequestKey::SourceIp],
                    on_missing: OnMissingKey::Random,
                    bounded_load_percent: None,
                    table_size: None,
                }))
            }
            None => Algorithm::LeastRequest,
        };
        let spread = own.spread.or_else(|| above.iter().find_map(|rule| rule.spread)).unwrap_or_default();
        let inherited = || above.iter().find_map(|rule| rule.upgrades.as_ref());
        let upgrades = Arc::clone(own.upgrades.as_ref().or_else(inherited).unwrap_or(&self.upgrades));
        let filters = match &way.delegation {
            Some(delegation) if above.iter().any(|rule| !rule.filters.is_empty()) => {
                outer_filters(routes, delegation).into_iter().chain(own.filters.iter().cloned()).collect()
            }
            Some(_) | None => Arc::clone(&own.filters),
        };
        let delegates = own.delegates;
        let pending = PendingRule { at: of, timeouts, policy, upgrades, filters, algorithm, spread, delegates };
        // Ways that hand down the same make one rule.
        let of_rule = self.rules.iter().enumerate().rev().take_while(|(_, other)| other.at == of);
        let mut same = of_rule.filter(|(_, other)| {
            other.timeouts == pending.timeouts
                && other.policy == pending.policy
                && other.upgrades == pending.upgrades
                && other.filters == pending.filters
                && other.algorithm == pending.algorithm
                && other.spread == pending.spread
        });
        let id = match same.next() {
            Some((id, _)) => id,
            None => {
                self.rules.push(pending);
                self.rules.len() - 1
            }
        };
        let id = RuleId(u32::try_from(id).unwrap_or(u32::MAX));
        for (one, predicate) in own.predicates.iter().enumerate() {
            let (predicate, priority) = match &way.delegation {
                None => (predicate.clone(), own.priority),
                Some(delegation) => match predicate.clone().and(&delegation.outer) {
                    Some(both) => (both, own.priority.max(delegation.priority)),
                    None => continue,
                },
            };
            let place = CandidateOrigin {
                at: MatchOf { of, one: MatchPos(one) },
                way: WayPos(number),
                listeners: way.listeners.clone(),
                delegates,
            };
            let mut add = |hostname: &Hostname, predicate: Predicate| {
                let candidate = Candidate {
                    rule: id,
                    hostname: hostname.clone(),
                    priority,
                    path: predicate.path,
                    conditions: predicate.conditions,
                    rank: 0,
                };
                self.contest.add(place.clone(), candidate);
            };
            if let Some((last, hostnames)) = way.hostnames.split_last() {
                hostnames.iter().for_each(|hostname| add(hostname, predicate.clone()));
                add(last, predicate);
            }
        }
    }
}

/// Adds the hostnames of a way to those of a parent; most parents have one way, whose list they share.
fn add_hostnames(served: &mut Served, hostnames: &Arc<[Hostname]>) {
    match served {
        None => *served = Some(Arc::clone(hostnames)),
        Some(known) if Arc::ptr_eq(known, hostnames) => {}
        Some(known) => {
            let new: Vec<&Hostname> = hostnames.iter().filter(|one| !known.contains(one)).collect();
            if !new.is_empty() {
                *known = known.iter().chain(new).cloned().collect();
            }
        }
    }
}

/// Numbers everything and puts it together.
fn snapshot(
    rules: Vec<PendingRule>,
    own: &[OwnRoute<'_>],
    (backends, before): (Backends<'_>, Option<(&BackendTable, &Inputs)>),
    routers: Vec<Arc<Router>>,
) -> (Snapshot, BackendTable) {
    let own_rule = |rule: &PendingRule| own[rule.at.route.0].rules[rule.at.rule.0].as_ref();
    let used = rules.iter().filter_map(own_rule).flat_map(OwnRule::backends);
    let referred = own.iter().flat_map(|route| route.rules.iter().flatten()).flat_map(OwnRule::backends);
    let (table, ids) = backends.finish(used, before, referred);
    let mut last = None;
    let mut routes = Vec::with_capacity(own.len());
    let rules = rules.into_iter().map(|pending| {
        let RuleOf { route: position, rule } = pending.at;
        let route = &own[position.0];
        if last.replace(position) != Some(position) {
            routes.push(Route { name: route.name.clone(), label: Arc::clone(&route.label) });
        }
        let rule = route.rules[rule.0].as_ref().expect("only rules that serve were added");
        let backend_refs = rule.shares.iter().map(|share| WeightedBackend {
            weight: share.weight,
            tier: share.tier,
            backend: share.backend.and_then(|number| ids[number as usize]),
            filters: share.filters(),
        });
        Rule {
            route: RouteId(u32::try_from(routes.len() - 1).unwrap_or(u32::MAX)),
            name: Arc::clone(&rule.name),
            timeouts: pending.timeouts,
            policy: pending.policy,
            upgrades: pending.upgrades,
            filters: pending.filters,
            algorithm: pending.algorithm,
            spread: pending.spread,
            backend_refs: backend_refs.collect(),
            delegates: pending.delegates,
        }
    });
    let (rules, routers) = (rules.collect(), routers.into());
    let snapshot = Snapshot {
        routes: routes.into(),
        rules,
        backends: Arc::clone(table.backends()),
        routers,
        ..Snapshot::default()
    };
    (snapshot, table)
}

/// The layers of delegating rules and their routes, outermost first. All of them serve: a child of a rule that does not
/// has no way.
fn outer_filters(routes: &[OwnRoute<'_>], delegation: &Delegation) -> Vec<Filter> {
    let above = delegation.rules.iter().rev();
    let rules = above.filter_map(|above| routes[above.route.0].rules[above.rule.0].as_ref());
    rules.flat_map(|rule| rule.filters.iter().cloned()).collect()
}

/// What of a child's rule, at this position, does not work inside of the filters outside of it: path, found and expected.
fn misfit(own: &OwnRule, rule: usize, outer: &[Filter]) -> Option<(String, &'static str, &'static str)> {
    let spec = FieldPath::SPEC;
    let at = spec.item("rules", rule);
    if let Some((found, expected)) = filters::misfit(outer, &own.filters) {
        return Some((at.field("filters").to_string(), found, expected));
    }
    let all: Vec<Filter> = outer.iter().chain(&*own.filters).cloned().collect();
    for share in &own.shares {
        if let Some((found, expected)) = filters::misfit(&all, &share.filters()) {
            let at = at.item("backendRefs", share.position as usize);
            return Some((at.field("filters").to_string(), found, expected));
        }
    }
    let has_sessions = own.policy.as_ref().is_some_and(|policy| policy.session.is_some());
    if has_sessions && coalesce::coalesces(outer.iter()) {
        let (found, expected) = coalesce::WITH_SESSIONS;
        return Some((at.field("sessionPersistence").to_string(), found, expected));
    }
    let takes_claims = matches!(&own.algorithm, Some(Algorithm::ConsistentHash(hash)) if jwt::takes_claims(&hash.keys));
    if takes_claims && !jwt::verifies_tokens(all.iter()) {
        let (found, expected) = filters::NO_CLAIMS;
        return Some((at.field("loadBalancer").to_string(), found, expected));
    }
    None
}

/// The first match of a child's rule that is not for what was delegated: position, found and expected.
fn outside(own: &OwnRule, delegation: &Delegation) -> Option<(usize, String, String)> {
    own.predicates.iter().enumerate().find_map(|(one, predicate)| {
        let prefix = if delegation.prefix.is_empty() { "/" } else { &delegation.prefix };
        if !predicate.is_under(&delegation.prefix) {
            let found = format!("path {}", predicate.path.value());
            // An expression cannot be shown to stay under a prefix.
            return Some((one, found, format!("an Exact, PathPrefix or Template path under the delegated {prefix}")));
        }
        let method = |predicate: &'_ Predicate| predicate.conditions.as_deref()?.method.clone();
        match (method(predicate), method(&delegation.outer)) {
            (Some(own), Some(outer)) if own != outer => {
                Some((one, format!("method {own}"), format!("method {outer}, which alone is delegated")))
            }
            _ => None,
        }
    })
}
