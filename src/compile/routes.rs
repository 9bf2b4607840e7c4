//! Routes: rules and candidates out of objects, in the order of precedence, duplicates told apart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::attach::{Attacher, Attachment, ParentStatus};
use super::diagnostics::Diagnostic;
use super::filters::{self, List};
use super::inputs::{Inputs, Sourced};
use super::matches::Predicate;
use super::policies::Blocks;
use super::references::Backends;
use super::report::{Report, effect, reason};
use super::upgrades;
use crate::api::gateway_route::{GatewayRoute, GatewayRouteSpec, RouteRule};
use crate::api::in_force::{NotInForce, Scope, not_in_force};
use crate::model::backend::BackendKey;
use crate::model::filter::Filter;
use crate::model::ids::{ListenerId, ObjectName, RouteId, RuleId};
use crate::model::matching::{Candidate, PredicateKey, Router};
use crate::model::policy::{Algorithm, ConsistentHash, HashKey, OnMissingKey, Timeouts, Upgrades};
use crate::model::route::{Route, Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

/// The most matches that one route may have.
const MAX_MATCHES: usize = 512;

/// What became of one route, for whoever writes its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The route.
    pub name: ObjectName,
    /// `metadata.generation` of the object that was compiled.
    pub generation: Option<i64>,
    /// Its parents that are ours, in the order of the object, or all static listeners sorted.
    pub parents: Vec<ParentStatus>,
    /// Rules in force.
    pub rules: usize,
    /// First finding about a reference: reason and message.
    pub unresolved: Option<(&'static str, String)>,
    /// Why rules were dropped, if some were.
    pub dropped: Option<String>,
    /// Which match lost to which route, if one did.
    pub conflicted: Option<String>,
}

/// A backendRef before its backend has a number.
#[derive(Clone)]
struct PendingBackend {
    weight: u32,
    tier: u8,
    key: Option<BackendKey>,
    filters: Arc<[Filter]>,
}

/// A rule before its backends have numbers.
struct PendingRule {
    route: usize,
    index: usize,
    name: Arc<str>,
    timeouts: Timeouts,
    upgrades: Upgrades,
    filters: Arc<[Filter]>,
    algorithm: Algorithm,
    backends: Vec<PendingBackend>,
    delegates: bool,
}

impl PendingRule {
    /// Equal but for the way that led to it.
    fn same(&self, other: &Self) -> bool {
        self.route == other.route
            && self.index == other.index
            && self.timeouts == other.timeouts
            && self.upgrades == other.upgrades
            && self.filters == other.filters
            && self.algorithm == other.algorithm
    }
}

/// A candidate with what ranks and names it.
struct PendingCandidate {
    listeners: Vec<ListenerId>,
    match_index: usize,
    rule: usize,
    candidate: Candidate,
}

/// All routes of the class on their way into the snapshot.
pub(super) struct Routes<'a> {
    inputs: &'a Inputs,
    names: Vec<(&'a ObjectName, &'a Sourced<GatewayRoute>)>,
    backends: Backends<'a>,
    rules: Vec<PendingRule>,
    candidates: Vec<PendingCandidate>,
    reports: Vec<Report>,
    statuses: Vec<RouteStatus>,
}

impl<'a> Routes<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let class = |route: &GatewayRoute| *route.spec.gateway_class_name == *inputs.gateway_class_name;
        let names: Vec<_> = inputs.routes.iter().filter(|(_, route)| class(&route.object)).collect();
        Self {
            inputs,
            backends: Backends::new(inputs),
            rules: Vec::with_capacity(names.len() * 2),
            candidates: Vec::with_capacity(names.len() * 2),
            reports: Vec::with_capacity(names.len()),
            statuses: Vec::with_capacity(names.len()),
            names,
        }
    }

    /// Compiles all routes.
    pub(super) fn compile(mut self, version: u64) -> (Snapshot, Vec<Diagnostic>, Vec<RouteStatus>) {
        let mut attacher = Attacher::new(self.inputs);
        for (position, (name, route)) in self.names.clone().into_iter().enumerate() {
            let mut report = Report::new(name, route.origin.clone());
            let attached = attacher.attach(name, &route.object, &mut report);
            let before = self.rules.len();
            self.rules(position, name, &route.object, &attached.attachments, &mut report);
            let refs = [
                reason::REF_NOT_PERMITTED,
                reason::INVALID_KIND,
                reason::BACKEND_NOT_FOUND,
                reason::UNSUPPORTED_PROTOCOL,
            ];
            let unresolved = report.findings.iter().find(|finding| refs.contains(&finding.reason));
            let dropped = report.findings.iter().find(|finding| finding.effect == effect::RULE_DROPPED);
            self.statuses.push(RouteStatus {
                name: (*name).clone(),
                generation: route.object.metadata.generation,
                parents: attached.parents,
                rules: self.rules.len() - before,
                unresolved: unresolved.map(|finding| (finding.reason, sentence(finding))),
                dropped: dropped.map(|finding| format!("Dropped Rule: {}", sentence(finding))),
                conflicted: None,
            });
            self.reports.push(report);
        }
        self.rank();
        let routers = self.routers();
        self.snapshot(version, routers)
    }

    /// The rules of one route, once for every attachment that makes a difference.
    fn rules(
        &mut self,
        position: usize,
        name: &ObjectName,
        route: &'a GatewayRoute,
        attachments: &[Attachment],
        report: &mut Report,
    ) {
        let refused = not_in_force(&route.spec);
        let route_refused = refuse(&refused, Scope::Route, effect::ROUTE_REFUSED, report);
        let mut matches = 0;
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let path = format!("spec.rules[{index}]");
            let covering =
                refused.iter().filter(|finding| finding.scope != Scope::Route && finding.scope.covers(index, rule));
            let mut dropped = false;
            for finding in covering {
                dropped = true;
                report.drop_rule(finding.path.clone(), finding.found.clone(), finding.expected.clone());
            }
            let before = report.findings.len();
            matches += rule.matches.len().max(1);
            if matches > MAX_MATCHES {
                let found = format!("{matches} matches up to this rule");
                report.drop_rule(format!("{path}.matches"), found, format!("at most {MAX_MATCHES} matches a route"));
            }
            let own_matches = rule.matches_or_default();
            let predicates: Vec<Predicate> = own_matches
                .iter()
                .enumerate()
                .filter_map(|(number, one)| Predicate::compile(one, &format!("{path}.matches[{number}]"), report))
                .collect();
            dropped |= report.findings.len() > before;
            let backends = self.backend_refs(name, rule, &path, &predicates, report);
            dropped |= backends.is_none();
            let backends = backends.unwrap_or_default();
            let unheard = &mut Report::new(name, None);
            for (number, attachment) in attachments.iter().enumerate() {
                // Findings about blocks are the same for every attachment: the first speaks.
                let heard = if number == 0 { &mut *report } else { &mut *unheard };
                let pending = self.rule(position, route, index, attachment, &predicates, &backends, heard);
                let Some(pending) = pending.filter(|_| !dropped && !route_refused) else { continue };
                self.attach(pending, attachment, &predicates, rule, report);
            }
            if attachments.is_empty() {
                let blocks = Blocks::of(&route.spec, rule, &path, &[]);
                let _ = blocks.timeouts(report);
                let _ = blocks.algorithm(&predicates, report);
                let _ = upgrades::compile(&route.spec, rule, &path, &[], report);
                let _ = own_filters(&[], &route.spec, rule, &path, &predicates, report);
            }
        }
    }

    fn backend_refs(
        &mut self,
        name: &ObjectName,
        rule: &RouteRule,
        path: &str,
        predicates: &[Predicate],
        report: &mut Report,
    ) -> Option<Vec<PendingBackend>> {
        let mut backends = Vec::with_capacity(rule.backend_refs.len());
        let mut sound = true;
        for (number, backend_ref) in rule.backend_refs.iter().enumerate() {
            let at = format!("{path}.backendRefs[{number}]");
            let key = self.backends.resolve(&name.namespace, backend_ref, &at, report);
            let list_path = format!("{at}.filters");
            let list = List { filters: &backend_ref.filters, path: &list_path, predicates: Some(predicates) };
            let Some(filters) = filters::compile(&[], &[list], report) else {
                sound = false;
                continue;
            };
            if backend_ref.weight > 0 {
                let filters = filters.into();
                backends.push(PendingBackend { weight: backend_ref.weight, tier: backend_ref.tier, key, filters });
            }
        }
        sound.then_some(backends)
    }

    /// One rule on one attachment, or `None` after a report that drops it.
    #[expect(clippy::too_many_arguments, reason = "one caller, which has them all as locals")]
    fn rule(
        &self,
        position: usize,
        route: &'a GatewayRoute,
        index: usize,
        attachment: &Attachment,
        predicates: &[Predicate],
        backends: &[PendingBackend],
        report: &mut Report,
    ) -> Option<PendingRule> {
        let rule = route.spec.rules.get(index)?;
        let above: Vec<(&GatewayRouteSpec, &RouteRule)> = attachment
            .delegation
            .iter()
            .flat_map(|delegation| &delegation.rules)
            .filter_map(|(name, index)| {
                let spec = &self.inputs.routes.get(name)?.object.spec;
                Some((spec, spec.rules.get(*index)?))
            })
            .collect();
        let path = format!("spec.rules[{index}]");
        let blocks = Blocks::of(&route.spec, rule, &path, &above);
        let before = report.findings.len();
        let timeouts = blocks.timeouts(report);
        let upgrades = upgrades::compile(&route.spec, rule, &path, &above, report);
        let outer = self.outer_filters(attachment, &path, report);
        let filters = outer.and_then(|outer| {
            own_filters(&outer, &route.spec, rule, &path, predicates, report).map(|own| (outer, own))
        });
        let mut algorithm = blocks.algorithm(predicates, report)?;
        let (outer, own) = filters?;
        let filters: Arc<[Filter]> = outer.into_iter().chain(own).collect();
        let affine = backends
            .iter()
            .filter_map(|backend| backend.key.as_ref())
            .any(|key| self.backends.has_client_affinity(key));
        if affine && !blocks.names_algorithm() {
            algorithm = Algorithm::ConsistentHash(ConsistentHash {
                keys: vec![HashKey::SourceIp],
                on_missing: OnMissingKey::Random,
                bounded_load_percent: None,
                table_size: None,
            });
        }
        (report.findings.len() == before).then(|| PendingRule {
            route: position,
            index,
            name: rule.name.as_deref().map_or_else(|| index.to_string().into(), Arc::from),
            timeouts,
            upgrades,
            filters,
            algorithm,
            backends: backends.to_vec(),
            delegates: rule.delegate.is_some(),
        })
    }

    /// The layers of the delegating rules and their routes, outermost first. A child never serves without one of them:
    /// when a delegating rule's filters are not in force, neither are the rules below it.
    fn outer_filters(&self, attachment: &Attachment, path: &str, report: &mut Report) -> Option<Vec<Filter>> {
        let mut layers = Vec::new();
        for (name, index) in attachment.delegation.iter().flat_map(|delegation| &delegation.rules).rev() {
            let spec = &self.inputs.routes.get(name)?.object.spec;
            let rule = spec.rules.get(*index)?;
            let unheard = &mut Report::new(name, None);
            let matches = rule.matches_or_default();
            let predicates: Vec<Predicate> =
                matches.iter().filter_map(|one| Predicate::compile(one, "", unheard)).collect();
            let Some(own) = own_filters(&layers, spec, rule, "", &predicates, unheard) else {
                let found = format!("filters of GatewayRoute {name} that are not in force");
                report.drop_rule(path.to_owned(), found, "a delegating rule whose filters are in force");
                return None;
            };
            layers.extend(own);
        }
        Some(layers)
    }

    /// Adds the candidates of one rule on one attachment.
    fn attach(
        &mut self,
        pending: PendingRule,
        attachment: &Attachment,
        predicates: &[Predicate],
        rule: &RouteRule,
        report: &mut Report,
    ) {
        let (index, delegates) = (pending.index, pending.delegates);
        let known = self.rules.last().is_some_and(|last| last.same(&pending));
        let rule_position = if known { self.rules.len() - 1 } else { self.rules.len() };
        let mut fits = false;
        for (match_index, predicate) in predicates.iter().enumerate() {
            let (predicate, priority) = match &attachment.delegation {
                None => (predicate.clone(), rule.priority),
                Some(delegation) => {
                    if !predicate.is_under(&delegation.prefix) {
                        let path = format!("spec.rules[{index}].matches[{match_index}].path.value");
                        let prefix = if delegation.prefix.is_empty() { "/" } else { &delegation.prefix };
                        let found = format!("{:?}", predicate.path.value());
                        report.drop_rule(path, found, format!("a path under the delegated prefix {prefix}"));
                        continue;
                    }
                    let Some(both) = predicate.clone().and(&delegation.outer) else { continue };
                    (both, rule.priority.max(delegation.priority))
                }
            };
            fits = true;
            for hostname in &attachment.hostnames {
                self.candidates.push(PendingCandidate {
                    listeners: attachment.listeners.clone(),
                    match_index,
                    rule: rule_position,
                    candidate: Candidate {
                        rule: RuleId(u32::try_from(rule_position).unwrap_or(u32::MAX)),
                        hostname: hostname.clone(),
                        priority,
                        path: predicate.path.clone(),
                        method: predicate.method.clone(),
                        headers: predicate.headers.clone(),
                        query_params: predicate.query_params.clone(),
                        cookies: predicate.cookies.clone(),
                        rank: 0,
                    },
                });
            }
        }
        if fits && !known {
            debug_assert!(!delegates || pending.backends.is_empty(), "the schema keeps delegate and backendRefs apart");
            self.rules.push(pending);
        }
    }

    /// Precedence 5: the older object, then its name, then rule and match order. The answer of a delegating rule to what
    /// no child matches comes behind everything.
    fn rank(&mut self) {
        let age = |candidate: &PendingCandidate| {
            let rule = self.rules.get(candidate.rule);
            let route = rule.and_then(|rule| self.names.get(rule.route)).map(|(_, route)| &route.object.metadata);
            let created = route.and_then(|metadata| metadata.creation_timestamp.as_ref()).map(|time| time.0);
            (rule.is_some_and(|rule| rule.delegates), created, rule.map(|rule| rule.route), rule.map(|rule| rule.index))
        };
        let mut order: Vec<usize> = (0..self.candidates.len()).collect();
        order.sort_by_cached_key(|position| {
            self.candidates.get(*position).map(|candidate| (age(candidate), candidate.match_index))
        });
        for (rank, position) in (0..).zip(order) {
            if let Some(candidate) = self.candidates.get_mut(position) {
                candidate.candidate.rank = rank;
            }
        }
        self.candidates.sort_by_key(|candidate| candidate.candidate.rank);
    }

    /// One router a listener; those with the same candidates share one.
    fn routers(&mut self) -> Vec<Arc<Router>> {
        let mut built: Vec<(Vec<u32>, Arc<Router>)> = Vec::new();
        let mut conflicts = HashSet::new();
        let mut routers = Vec::with_capacity(self.inputs.listeners.len());
        for listener in (0..).map(ListenerId).take(self.inputs.listeners.len()) {
            let bound: Vec<usize> =
                (0..self.candidates.len()).filter(|at| self.candidates[*at].listeners.contains(&listener)).collect();
            let winners = self.winners(&bound, &mut conflicts);
            let ranks: Vec<u32> = winners.iter().map(|at| self.candidates[*at].candidate.rank).collect();
            let router = match built.iter().find(|(known, _)| *known == ranks) {
                Some((_, router)) => Arc::clone(router),
                None => {
                    let candidates = winners.iter().map(|at| self.candidates[*at].candidate.clone()).collect();
                    let router = Arc::new(Router::build(candidates));
                    built.push((ranks, Arc::clone(&router)));
                    router
                }
            };
            routers.push(router);
        }
        routers
    }

    /// The candidates of a listener without those that another one always beats.
    fn winners(&mut self, bound: &[usize], conflicts: &mut HashSet<(usize, usize)>) -> Vec<usize> {
        let mut first: HashMap<PredicateKey, usize> = HashMap::with_capacity(bound.len());
        let mut winners = Vec::with_capacity(bound.len());
        for &at in bound {
            match first.entry(self.candidates[at].candidate.predicate_key()) {
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(at);
                    winners.push(at);
                }
                std::collections::hash_map::Entry::Occupied(winner) => {
                    let winner = *winner.get();
                    let (loser_rule, winner_rule) = (self.candidates[at].rule, self.candidates[winner].rule);
                    // A route that two parents lead to, or a delegating rule behind its child, loses nothing.
                    let same = loser_rule == winner_rule || self.rules[loser_rule].delegates;
                    if !same && conflicts.insert((at, winner)) {
                        self.conflict(at, winner);
                    }
                }
            }
        }
        winners
    }

    fn conflict(&mut self, loser: usize, winner: usize) {
        let winning = &self.rules[self.candidates[winner].rule];
        let name = self.names[winning.route].0;
        let found = format!("the same match as rule {} of GatewayRoute {name}", winning.name);
        let losing = &self.rules[self.candidates[loser].rule];
        let path = format!("spec.rules[{}].matches[{}]", losing.index, self.candidates[loser].match_index);
        let route = losing.route;
        if let Some(status) = self.statuses.get_mut(route) {
            status.conflicted.get_or_insert_with(|| format!("{path}: {found}"));
        }
        if let Some(report) = self.reports.get_mut(route) {
            let expected = "a match that no older route has";
            report.error(path, reason::DUPLICATE_MATCH, found, expected, effect::MATCH_LOST);
        }
    }

    /// Numbers everything and puts it together.
    fn snapshot(self, version: u64, routers: Vec<Arc<Router>>) -> (Snapshot, Vec<Diagnostic>, Vec<RouteStatus>) {
        let used: HashSet<&BackendKey> =
            self.rules.iter().flat_map(|rule| &rule.backends).filter_map(|backend| backend.key.as_ref()).collect();
        let mut diagnostics: Vec<Diagnostic> = self.reports.into_iter().flat_map(|report| report.findings).collect();
        let mut slices = self.backends.diagnostics.clone();
        slices.sort();
        slices.dedup();
        diagnostics.extend(slices);
        let (backends, ids) = self.backends.into_list(|key| used.contains(key));
        let mut numbers: BTreeMap<usize, RouteId> = BTreeMap::new();
        let mut routes = Vec::new();
        for rule in &self.rules {
            numbers.entry(rule.route).or_insert_with(|| {
                let name = self.names[rule.route].0.clone();
                let label = name.to_string().into();
                routes.push(Route { name, label });
                RouteId(u32::try_from(routes.len() - 1).unwrap_or(u32::MAX))
            });
        }
        let rules = self
            .rules
            .iter()
            .filter_map(|rule| {
                let backend_refs = rule.backends.iter().map(|backend| WeightedBackend {
                    weight: backend.weight,
                    tier: backend.tier,
                    backend: backend.key.as_ref().and_then(|key| ids.get(key)).copied(),
                    filters: Arc::clone(&backend.filters),
                });
                Some(Rule {
                    route: *numbers.get(&rule.route)?,
                    name: Arc::clone(&rule.name),
                    timeouts: rule.timeouts,
                    upgrades: rule.upgrades,
                    filters: Arc::clone(&rule.filters),
                    algorithm: rule.algorithm.clone(),
                    backend_refs: backend_refs.collect(),
                    delegates: rule.delegates,
                })
            })
            .collect();
        diagnostics.dedup();
        (Snapshot { version, routes, rules, backends, routers }, diagnostics, self.statuses)
    }
}

/// The layers of a route and of one of its rules, behind the outer ones.
fn own_filters(
    outer: &[Filter],
    spec: &GatewayRouteSpec,
    rule: &RouteRule,
    path: &str,
    predicates: &[Predicate],
    report: &mut Report,
) -> Option<Vec<Filter>> {
    if spec.filters.is_empty() && rule.filters.is_empty() {
        return Some(Vec::new());
    }
    let rule_path = format!("{path}.filters");
    let of_route = List { filters: &spec.filters, path: "spec.filters", predicates: None };
    let of_rule = List { filters: &rule.filters, path: &rule_path, predicates: Some(predicates) };
    filters::compile(outer, &[of_route, of_rule], report)
}

/// Reports the findings of one scope; whether there are some.
fn refuse(findings: &[NotInForce], scope: Scope, effect: &str, report: &mut Report) -> bool {
    let of_scope: Vec<_> = findings.iter().filter(|finding| finding.scope == scope).collect();
    for finding in &of_scope {
        let (found, expected) = (finding.found.clone(), finding.expected.clone());
        report.error(finding.path.clone(), reason::UNSUPPORTED_VALUE, found, expected, effect);
    }
    !of_scope.is_empty()
}

/// A finding as one sentence of a condition's message.
fn sentence(finding: &Diagnostic) -> String {
    format!("{}: found {}, expected {}", finding.path, finding.found, finding.expected)
}
