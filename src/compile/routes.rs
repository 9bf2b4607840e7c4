//! The table of all rules and matches in force, in the order of precedence, duplicates told apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Output;
use super::attach::{Attached, Delegation, Listeners, Way, attach};
use super::diagnostics::Diagnostic;
use super::filters;
use super::inputs::Inputs;
use super::matches::Regexes;
use super::references::Backends;
use super::report::{About, FieldPath};
use super::rules::{OwnRoute, OwnRule};
use super::status;
use crate::api::conditions::ConditionReason;
use crate::model::filter::Filter;
use crate::model::ids::{ListenerId, RouteId, RuleId};
use crate::model::matching::{Candidate, Hostname, PredicateKey, Router};
use crate::model::policy::{Algorithm, ConsistentHash, HashKey, OnMissingKey, Timeouts, Upgrades};
use crate::model::route::{Route, Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

/// Compiles everything.
pub(super) fn compile(inputs: &Inputs, version: u64) -> Output {
    let mut regexes = Regexes::default();
    let mut backends = Backends::new(inputs);
    let of_class = |route: &str| *inputs.gateway_class_name == *route;
    let objects = inputs.routes.iter().filter(|(_, route)| of_class(&route.object.spec.gateway_class_name));
    let mut routes: Vec<OwnRoute<'_>> =
        objects.map(|(name, route)| OwnRoute::compile(name, route, &mut regexes, &mut backends)).collect();
    drop(regexes);
    let attached = attach(inputs, &mut routes);
    let mut table = Table::new(&attached);
    for (position, attached) in attached.iter().enumerate() {
        table.add_route(position, &mut routes, attached, &backends);
    }
    table.rank(&routes, &attached);
    let (routers, conflicts) = table.routers(inputs.listeners.len(), &attached);
    let conflicted = report_conflicts(&conflicts, &mut routes, &attached);
    let statuses = routes
        .iter()
        .zip(&attached)
        .enumerate()
        .map(|(position, (route, attached))| {
            status::derive(route, attached, &table.served[position], &conflicted[position])
        })
        .collect();
    let (snapshot, slices) = table.snapshot(version, &routes, backends, routers);
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for route in routes {
        diagnostics.extend(route.report.findings.into_iter().map(|finding| finding.diagnostic));
    }
    diagnostics.extend(slices);
    Output { snapshot, diagnostics, statuses }
}

/// All rules and candidates of all routes; routes and rules are numbered by position.
struct Table {
    rules: Vec<PendingRule>,
    candidates: Vec<PendingCandidate>,
    /// How many rules of a route are in force at each of its parents.
    served: Vec<Vec<usize>>,
}

/// A rule in force, as it is where it hangs: what it does not say itself comes from delegating rules.
struct PendingRule {
    route: usize,
    rule: usize,
    timeouts: Timeouts,
    upgrades: Upgrades,
    filters: Arc<[Filter]>,
    algorithm: Algorithm,
    delegates: bool,
}

/// A candidate with what ranks and names it.
struct PendingCandidate {
    route: usize,
    rule: usize,
    one: usize,
    way: usize,
    listeners: Listeners,
    /// Taken out by the last router that has it.
    candidate: Candidate,
}

/// A match that another one always beats: position of its route, rule and match, and of the winner's route and rule.
type Lost = (usize, usize, usize, usize, usize);

/// On which hostname first, and where: by listeners, and by parents that delegate.
struct Conflict {
    hostname: Hostname,
    parents: BTreeSet<usize>,
}

impl Table {
    fn new(attached: &[Attached]) -> Self {
        let served = attached.iter().map(|attached| vec![0; attached.parents.len()]).collect();
        let least = attached.len() * 2;
        Self { rules: Vec::with_capacity(least), candidates: Vec::with_capacity(least), served }
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
                    let about = About::RuleAt(delegation.parent, rule);
                    routes[position].report.add(about, reason, path, found, expected);
                } else if let Some(delegation) = &way.delegation
                    && filters::spoil(&outer_filters(routes, delegation), &own.filters)
                {
                    let (about, reason) = (About::RuleAt(delegation.parent, rule), ConditionReason::UnsupportedValue);
                    let path = FieldPath::SPEC.item("rules", rule).field("filters").to_string();
                    let found = "ReplacePrefixMatch behind a path change of a delegating rule";
                    let expected = "ReplaceFullPath, ReplaceTemplate or ReplaceRegularExpression there";
                    routes[position].report.add(about, reason, path, found, expected);
                } else if !way.hostnames.is_empty() {
                    self.add_rule((position, rule, number), own, way, routes, backends);
                    self.count_served(position, attached, way);
                }
            }
        }
    }

    fn count_served(&mut self, position: usize, attached: &Attached, way: &Way) {
        for (parent, served) in self.served[position].iter_mut().enumerate() {
            let is_direct = || attached.parents[parent].listener.is_some_and(|id| way.listeners.contains(id));
            let is_here = way.delegation.as_ref().map_or_else(is_direct, |delegation| delegation.parent == parent);
            *served += usize::from(is_here);
        }
    }

    fn add_rule(
        &mut self,
        (route, rule, number): (usize, usize, usize),
        own: &OwnRule<'_>,
        way: &Way,
        routes: &[OwnRoute<'_>],
        backends: &Backends<'_>,
    ) {
        let above = way.delegation.iter().flat_map(|delegation| &delegation.rules);
        let above: Vec<&OwnRule<'_>> = above.filter_map(|(route, rule)| routes[*route].rules[*rule].as_ref()).collect();
        let inherited = || above.iter().find_map(|rule| rule.timeouts);
        let timeouts = own.timeouts.or_else(inherited).unwrap_or_default();
        let inherited = || above.iter().find_map(|rule| rule.algorithm.as_ref());
        let algorithm = match own.algorithm.as_ref().or_else(inherited) {
            Some(algorithm) => algorithm.clone(),
            None if own.shares.iter().filter_map(|share| share.backend).any(|id| backends.has_client_affinity(id)) => {
                Algorithm::ConsistentHash(ConsistentHash {
                    keys: vec![HashKey::SourceIp],
                    on_missing: OnMissingKey::Random,
                    bounded_load_percent: None,
                    table_size: None,
                })
            }
            None => Algorithm::RoundRobin,
        };
        let inherited = || above.iter().find_map(|rule| rule.upgrades);
        let upgrades = own.upgrades.or_else(inherited).unwrap_or_default();
        let filters = match &way.delegation {
            Some(delegation) if above.iter().any(|rule| !rule.filters.is_empty()) => {
                outer_filters(routes, delegation).into_iter().chain(own.filters.iter().cloned()).collect()
            }
            Some(_) | None => Arc::clone(&own.filters),
        };
        let delegates = own.delegate.is_some();
        let pending = PendingRule { route, rule, timeouts, upgrades, filters, algorithm, delegates };
        // Ways that hand down the same make one rule.
        let of_rule =
            self.rules.iter().enumerate().rev().take_while(|(_, other)| (other.route, other.rule) == (route, rule));
        let mut same = of_rule.filter(|(_, other)| {
            other.timeouts == pending.timeouts
                && other.upgrades == pending.upgrades
                && other.filters == pending.filters
                && other.algorithm == pending.algorithm
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
            let mut add = |hostname: &Hostname, predicate: super::matches::Predicate| {
                let candidate = Candidate {
                    rule: id,
                    hostname: hostname.clone(),
                    priority,
                    path: predicate.path,
                    method: predicate.method,
                    headers: predicate.headers,
                    query_params: predicate.query_params,
                    cookies: predicate.cookies,
                    rank: 0,
                };
                let listeners = way.listeners;
                self.candidates.push(PendingCandidate { route, rule, one, way: number, listeners, candidate });
            };
            if let Some((last, hostnames)) = way.hostnames.split_last() {
                hostnames.iter().for_each(|hostname| add(hostname, predicate.clone()));
                add(last, predicate);
            }
        }
    }

    /// Precedence 5: the older object, then its name, then the order of rules and matches.
    ///
    /// A child has the age of the root that delegates to it: what the root has won is the root's to hand down. What a
    /// delegating rule answers itself (404) comes behind what its children do.
    fn rank(&mut self, routes: &[OwnRoute<'_>], attached: &[Attached]) {
        let age = |position: usize| {
            let route = &routes[position];
            (route.object.created, Arc::clone(&route.label))
        };
        let mut by_age: Vec<usize> = (0..routes.len()).collect();
        by_age.sort_by_cached_key(|position| age(*position));
        let mut ages = vec![0usize; routes.len()];
        by_age.into_iter().enumerate().for_each(|(age, position)| ages[position] = age);
        let key = |pending: &PendingCandidate| {
            let way = &attached[pending.route].ways[pending.way];
            let root = way.delegation.as_ref().and_then(|delegation| delegation.rules.last()).map(|(route, _)| *route);
            let delegates = self.rules.get(pending.candidate.rule.index()).is_some_and(|rule| rule.delegates);
            let own = (ages[pending.route], pending.rule, pending.one, pending.way);
            (ages[root.unwrap_or(pending.route)], delegates, own)
        };
        // The sort is stable: hostnames of one match stay in their order.
        self.candidates.sort_by_cached_key(key);
        for (rank, pending) in (0..).zip(&mut self.candidates) {
            pending.candidate.rank = rank;
        }
    }

    /// One router a listener, shared by those with the same candidates; and what lost to what. Takes the candidates.
    fn routers(&mut self, listeners: usize, attached: &[Attached]) -> (Vec<Arc<Router>>, BTreeMap<Lost, Conflict>) {
        let sets: BTreeSet<Listeners> = self.candidates.iter().map(|pending| pending.listeners).collect();
        let mut groups: BTreeMap<Vec<bool>, Vec<ListenerId>> = BTreeMap::new();
        for id in (0..).map(ListenerId).take(listeners) {
            groups.entry(sets.iter().map(|set| set.contains(id)).collect()).or_default().push(id);
        }
        let mut candidates: Vec<Option<PendingCandidate>> =
            std::mem::take(&mut self.candidates).into_iter().map(Some).collect();
        let mut routers: Vec<Arc<Router>> = vec![Arc::default(); listeners];
        let mut conflicts = BTreeMap::new();
        let mut left = groups.len();
        for group in groups.into_values() {
            left -= 1;
            let bound = |pending: &PendingCandidate| group.first().is_some_and(|id| pending.listeners.contains(*id));
            let winners = self.winners(&candidates, bound, &group, attached, &mut conflicts);
            let won = winners.into_iter().filter_map(|at| match left {
                0 => candidates[at].take().map(|pending| pending.candidate),
                _ => candidates[at].as_ref().map(|pending| pending.candidate.clone()),
            });
            let router = Arc::new(Router::build(won.collect()));
            group.into_iter().for_each(|id| routers[id.index()] = Arc::clone(&router));
        }
        (routers, conflicts)
    }

    /// The candidates of some listeners without those that another one always beats.
    fn winners(
        &self,
        candidates: &[Option<PendingCandidate>],
        bound: impl Fn(&PendingCandidate) -> bool,
        listeners: &[ListenerId],
        attached: &[Attached],
        conflicts: &mut BTreeMap<Lost, Conflict>,
    ) -> Vec<usize> {
        let mut first: FxHashMap<PredicateKey, usize> = FxHashMap::default();
        first.reserve(candidates.len());
        let mut winners = Vec::with_capacity(candidates.len());
        for (at, pending) in candidates.iter().enumerate() {
            let Some(pending) = pending.as_ref().filter(|pending| bound(pending)) else { continue };
            let winner = *first.entry(pending.candidate.predicate_key()).or_insert(at);
            if winner == at {
                winners.push(at);
                continue;
            }
            let Some(winner) = &candidates[winner] else { continue };
            if !self.is_family(pending, winner, attached) {
                let lost = (pending.route, pending.rule, pending.one, winner.route, winner.rule);
                let hostname = || pending.candidate.hostname.clone();
                let conflict = conflicts
                    .entry(lost)
                    .or_insert_with(|| Conflict { hostname: hostname(), parents: BTreeSet::new() });
                conflict.parents.extend(parents_of(pending, listeners, attached));
            }
        }
        winners
    }

    /// Whether a loss costs nothing: the same rule by another way, or a delegating rule and its own child.
    fn is_family(&self, loser: &PendingCandidate, winner: &PendingCandidate, attached: &[Attached]) -> bool {
        let above = |pending: &PendingCandidate| {
            let delegation = attached[pending.route].ways[pending.way].delegation.as_ref();
            delegation.map_or(&[][..], |delegation| &delegation.rules)
        };
        (loser.route, loser.rule) == (winner.route, winner.rule)
            || above(winner).contains(&(loser.route, loser.rule))
            || above(loser).contains(&(winner.route, winner.rule))
    }

    /// Numbers everything and puts it together; and what is strange about slices.
    fn snapshot(
        self,
        version: u64,
        own: &[OwnRoute<'_>],
        backends: Backends<'_>,
        routers: Vec<Arc<Router>>,
    ) -> (Snapshot, Vec<Diagnostic>) {
        let own_rule = |rule: &PendingRule| own[rule.route].rules[rule.rule].as_ref();
        let used = self.rules.iter().filter_map(own_rule).flat_map(|rule| &rule.shares);
        let (backends, ids, diagnostics) = backends.finish(used.filter_map(|share| share.backend));
        let mut snapshot = Snapshot { version, backends, routers, ..Snapshot::default() };
        let mut last = None;
        snapshot.rules.reserve_exact(self.rules.len());
        for pending in self.rules {
            let route = &own[pending.route];
            if last.replace(pending.route) != Some(pending.route) {
                snapshot.routes.push(Route { name: route.name.clone(), label: Arc::clone(&route.label) });
            }
            let Some(rule) = &route.rules[pending.rule] else { continue };
            let backend_refs = rule.shares.iter().map(|share| WeightedBackend {
                weight: share.weight,
                tier: share.tier,
                backend: share.backend.and_then(|number| ids[number as usize]),
                filters: Arc::clone(&share.filters),
            });
            snapshot.rules.push(Rule {
                route: RouteId(u32::try_from(snapshot.routes.len() - 1).unwrap_or(u32::MAX)),
                name: Arc::clone(&rule.name),
                timeouts: pending.timeouts,
                upgrades: pending.upgrades,
                filters: pending.filters,
                algorithm: pending.algorithm,
                backend_refs: backend_refs.collect(),
                delegates: pending.delegates,
            });
        }
        snapshot.routes.shrink_to_fit();
        (snapshot, diagnostics)
    }
}

/// The layers of delegating rules and their routes, outermost first. All are in force: a child of a rule that is not has no
/// way.
fn outer_filters(routes: &[OwnRoute<'_>], delegation: &Delegation) -> Vec<Filter> {
    let above = delegation.rules.iter().rev();
    let rules = above.filter_map(|(route, rule)| routes[*route].rules[*rule].as_ref());
    rules.flat_map(|rule| rule.filters.iter().cloned()).collect()
}

/// The first match of a child's rule that is not for what was delegated: position, found and expected.
fn outside(own: &OwnRule<'_>, delegation: &Delegation) -> Option<(usize, String, String)> {
    own.predicates.iter().enumerate().find_map(|(one, predicate)| {
        let prefix = if delegation.prefix.is_empty() { "/" } else { &delegation.prefix };
        if !predicate.is_under(&delegation.prefix) {
            let found = format!("path {}", predicate.path.value());
            // An expression cannot be shown to stay under a prefix.
            return Some((one, found, format!("an Exact, PathPrefix or Template path under the delegated {prefix}")));
        }
        match (&predicate.method, &delegation.outer.method) {
            (Some(own), Some(outer)) if own != outer => {
                Some((one, format!("method {own}"), format!("method {outer}, which alone is delegated")))
            }
            _ => None,
        }
    })
}

/// The parents, as positions in the status, at which a candidate hangs on one of some listeners.
fn parents_of<'p>(
    pending: &PendingCandidate,
    listeners: &'p [ListenerId],
    attached: &'p [Attached],
) -> impl Iterator<Item = usize> + 'p {
    let attached = &attached[pending.route];
    let way = &attached.ways[pending.way];
    attached.parents.iter().enumerate().filter_map(move |(position, parent)| {
        let is_direct = || parent.listener.is_some_and(|id| listeners.contains(&id));
        let is_here = way.delegation.as_ref().map_or_else(is_direct, |delegation| delegation.parent == position);
        is_here.then_some(position)
    })
}

/// Reports what lost; gives for each route its parents at which something lost to another object.
fn report_conflicts(
    conflicts: &BTreeMap<Lost, Conflict>,
    routes: &mut [OwnRoute<'_>],
    attached: &[Attached],
) -> Vec<BTreeMap<usize, String>> {
    let mut conflicted: Vec<BTreeMap<usize, String>> = vec![BTreeMap::new(); attached.len()];
    for ((route, rule, one, winner_route, winner_rule), Conflict { hostname, parents }) in conflicts {
        let winner = &routes[*winner_route];
        let rule_name = winner.rules[*winner_rule].as_ref().map_or("", |rule| &rule.name);
        let host = match hostname {
            Hostname::Exact(name) => format!("host {name}"),
            Hostname::Wildcard(suffix) => format!("host *.{suffix}"),
            Hostname::Any => "any host".to_owned(),
        };
        let is_own = route == winner_route;
        let (about, expected) = match is_own {
            true => (About::Part, "a match that no earlier rule of the route has"),
            false => (About::Conflict, "a match that no older route has"),
        };
        let found = format!("the match of rule {rule_name} of GatewayRoute {} for {host}", winner.name);
        let spec = FieldPath::SPEC;
        let at_rule = spec.item("rules", *rule);
        let path = at_rule.item("matches", *one).to_string();
        if !is_own {
            for parent in parents {
                let message = conflicted[*route].entry(*parent).or_default();
                let semicolon = if message.is_empty() { "" } else { "; " };
                *message += &format!("{semicolon}{path}: found {found}, which wins");
            }
        }
        routes[*route].report.add(about, ConditionReason::DuplicateMatch, path, found, expected);
    }
    conflicted
}
