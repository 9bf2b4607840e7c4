//! Which match wins a request: ranks by age, duplicates told apart, one router per listener.
//!
//! Candidates stay where they are; what is put in order are their positions, by numbers.

mod place;
mod shadows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub(super) use self::place::CandidateOrigin;
use self::shadows::shadows;
use super::attach::{Attached, Delegation, Listeners};
use super::position::{MatchOf, ParentPos, RoutePos, RuleOf};
use super::report::{About, FieldPath, NEVER_MATCHED, host};
use super::rules::OwnRoute;
use crate::api::conditions::ConditionReason;
use crate::model::ids::ListenerId;
use crate::model::matching::{Candidate, Hostname, PredicateKey, Router, arrange, in_order, is_tied};

/// All matches of all rules on all hostnames, in the order in which they were added.
#[derive(Default)]
pub(super) struct Contest {
    candidates: Vec<Candidate>,
    /// Where each comes from.
    places: Vec<CandidateOrigin>,
}

/// A match that has lost to an equal one of another rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lost {
    loser: MatchOf,
    winner: RuleOf,
}

/// On which hostname first, and where: by listeners, and by parents that delegate.
struct Conflict {
    hostname: Hostname,
    parents: BTreeSet<ParentPos>,
}

/// What lost to what.
pub(super) struct Conflicts(BTreeMap<Lost, Conflict>);

/// A match that can never win for a host.
struct Shadowed {
    loser: MatchOf,
    winner: RuleOf,
    hostname: Hostname,
    /// Type and value of the winner's path.
    path: String,
    /// Why the winner comes first, where it is not age.
    why: &'static str,
}

/// What a contest decides.
pub(super) struct Decided {
    /// One router per listener, shared by those with the same candidates.
    pub(super) routers: Vec<Arc<Router>>,
    pub(super) conflicts: Conflicts,
    pub(super) never: NeverMatched,
}

/// Matches that can never win, in the order of their ranks.
pub(super) struct NeverMatched(Vec<Shadowed>);

impl Contest {
    pub(super) fn with_capacity(candidates: usize) -> Self {
        Self { candidates: Vec::with_capacity(candidates), places: Vec::with_capacity(candidates) }
    }

    /// Adds a candidate; its rank is found later.
    pub(super) fn add(&mut self, place: CandidateOrigin, candidate: Candidate) {
        self.places.push(place);
        self.candidates.push(candidate);
    }

    /// Puts all candidates in their order and tells what can never win.
    pub(super) fn decide(mut self, listeners: usize, routes: &[OwnRoute<'_>], attached: &[Attached]) -> Decided {
        self.rank(routes, attached);
        let order = in_order(&self.candidates);
        let never = self.never_matched(&order, attached);
        let sets: BTreeSet<&Listeners> = self.places.iter().map(|place| &place.listeners).collect();
        let mut groups: BTreeMap<Vec<bool>, Vec<ListenerId>> = BTreeMap::new();
        for id in (0..).map(ListenerId).take(listeners) {
            groups.entry(sets.iter().map(|set| set.contains(id)).collect()).or_default().push(id);
        }
        let mut conflicts = Conflicts(BTreeMap::new());
        let mut routers: Vec<Arc<Router>> = vec![Arc::default(); listeners];
        let mut left = groups.len();
        for group in groups.into_values() {
            left -= 1;
            let winners = self.winners(&order, &group, attached, &mut conflicts);
            let won = match left {
                // They are not needed after the last router, which mostly is the only one.
                0 => arrange(std::mem::take(&mut self.candidates), &winners),
                _ => winners.into_iter().map(|at| self.candidates[at as usize].clone()).collect(),
            };
            let router = Arc::new(Router::of_ordered(won));
            group.into_iter().for_each(|id| routers[id.index()] = Arc::clone(&router));
        }
        Decided { routers, conflicts, never }
    }

    fn never_matched(&self, order: &[u32], attached: &[Attached]) -> NeverMatched {
        let mut shadows = shadows(&self.candidates, order, &self.places, attached);
        shadows.sort_unstable_by_key(|shadow| self.candidates[shadow.loser as usize].rank);
        let shadowed = shadows.into_iter().map(|shadow| {
            let [loser, winner] = [shadow.loser, shadow.winner].map(|at| &self.places[at as usize]);
            let [own, other] = [shadow.loser, shadow.winner].map(|at| &self.candidates[at as usize]);
            Shadowed {
                loser: loser.at,
                winner: winner.at.of,
                hostname: own.hostname.clone(),
                path: format!("{} {}", other.path.type_name(), other.path.value()),
                why: match () {
                    () if own.priority != other.priority => " by its priority",
                    () if own.path.type_name() != other.path.type_name() => " by its type of path",
                    () => "",
                },
            }
        });
        NeverMatched(shadowed.collect())
    }

    /// Precedence 5: the older object, then its name, then the order of rules and matches.
    ///
    /// A child has the age of the root that delegates to it: what the root has won is the root's to hand down. What a
    /// delegating rule answers itself (404) comes behind what its children do.
    fn rank(&mut self, routes: &[OwnRoute<'_>], attached: &[Attached]) {
        let mut by_age: Vec<_> = routes
            .iter()
            .enumerate()
            .map(|(position, route)| (route.object.created, &*route.label, position))
            .collect();
        by_age.sort_unstable();
        let mut ages = vec![0usize; routes.len()];
        by_age.into_iter().enumerate().for_each(|(age, (_, _, position))| ages[position] = age);
        let key = |place: &CandidateOrigin| {
            let MatchOf { of: RuleOf { route, rule }, one } = place.at;
            let root = attached[route.0].ways[place.way.0].delegation.as_deref().and_then(Delegation::root);
            (ages[root.unwrap_or(route).0], place.delegates, (ages[route.0], rule, one, place.way))
        };
        // Candidates of each root together, by its age; candidates of one root mostly stand in their order already.
        let keys: Vec<_> = self.places.iter().map(key).collect();
        let mut ends = vec![0usize; routes.len() + 1];
        keys.iter().for_each(|(age, ..)| ends[age + 1] += 1);
        (1..ends.len()).for_each(|age| ends[age] += ends[age - 1]);
        let mut order = vec![0usize; keys.len()];
        for (at, (age, ..)) in keys.iter().enumerate() {
            order[ends[*age]] = at;
            ends[*age] += 1;
        }
        let mut rest = order.as_mut_slice();
        while let Some(first) = rest.first() {
            let age = keys[*first].0;
            let (of_root, others) = rest.split_at_mut(rest.iter().take_while(|at| keys[**at].0 == age).count());
            // Hostnames of one match stay in their order.
            if !of_root.is_sorted_by_key(|at| keys[*at]) {
                of_root.sort_by_key(|at| keys[*at]);
            }
            rest = others;
        }
        for (rank, at) in (0..).zip(order) {
            self.candidates[at].rank = rank;
        }
    }

    /// Of the candidates in `order` those of some listeners, without those that another one always beats.
    fn winners(
        &self,
        order: &[u32],
        listeners: &[ListenerId],
        attached: &[Attached],
        conflicts: &mut Conflicts,
    ) -> Vec<u32> {
        let is_bound = |at: &u32| listeners.first().is_some_and(|id| self.places[*at as usize].listeners.contains(*id));
        let candidate = |at: u32| &self.candidates[at as usize];
        let mut winners: Vec<u32> = Vec::with_capacity(order.len());
        let mut lost: Vec<(u32, u32)> = Vec::new();
        let mut has_lost = vec![false; self.candidates.len()];
        for tied in order.chunk_by(|a, b| is_tied(candidate(*a), candidate(*b))) {
            if let [only] = tied {
                winners.extend(Some(*only).filter(is_bound));
                continue;
            }
            // The first by rank wins, whatever else the order of precedence has between equals.
            let mut by_rank: Vec<u32> = tied.iter().copied().filter(is_bound).collect();
            by_rank.sort_unstable_by_key(|at| candidate(*at).rank);
            let mut first: FxHashMap<PredicateKey, u32> = FxHashMap::default();
            for at in by_rank {
                let winner = *first.entry(PredicateKey::of(candidate(at))).or_insert(at);
                if winner != at {
                    has_lost[at as usize] = true;
                    lost.push((at, winner));
                }
            }
            winners.extend(tied.iter().copied().filter(is_bound).filter(|at| !has_lost[*at as usize]));
        }
        lost.sort_unstable_by_key(|(loser, _)| candidate(*loser).rank);
        for (loser, winner) in lost {
            self.note(loser as usize, winner as usize, listeners, attached, conflicts);
        }
        winners
    }

    /// Notes a loss, unless it costs nothing: the same rule by another way, or a delegating rule and its own child.
    fn note(
        &self,
        loser: usize,
        winner: usize,
        listeners: &[ListenerId],
        attached: &[Attached],
        conflicts: &mut Conflicts,
    ) {
        let (hostname, loser, winner) = (&self.candidates[loser].hostname, &self.places[loser], &self.places[winner]);
        if !loser.is_family(winner, attached) {
            let lost = Lost { loser: loser.at, winner: winner.at.of };
            let new = || Conflict { hostname: hostname.clone(), parents: BTreeSet::new() };
            let conflict = conflicts.0.entry(lost).or_insert_with(new);
            conflict.parents.extend(parents_of(loser, listeners, attached));
        }
    }
}

/// The parents by which a candidate is bound to one of some listeners.
fn parents_of<'p>(
    place: &CandidateOrigin,
    listeners: &'p [ListenerId],
    attached: &'p [Attached],
) -> impl Iterator<Item = ParentPos> + 'p {
    let attached = &attached[place.at.of.route.0];
    let way = &attached.ways[place.way.0];
    (0..).map(ParentPos).zip(attached.parents.iter()).filter_map(move |(position, parent)| {
        let is_direct = || parent.listener.is_some_and(|id| listeners.contains(&id));
        let is_here = way.delegation.as_ref().map_or_else(is_direct, |delegation| delegation.parent == position);
        is_here.then_some(position)
    })
}

impl Conflicts {
    /// Reports what lost; gives what to say at each parent at which a match lost to another object.
    pub(super) fn report(self, routes: &mut [OwnRoute<'_>]) -> BTreeMap<(RoutePos, ParentPos), String> {
        let mut conflicted: BTreeMap<(RoutePos, ParentPos), String> = BTreeMap::new();
        for (Lost { loser, winner: by }, Conflict { hostname, parents }) in self.0 {
            let MatchOf { of: RuleOf { route, rule }, one } = loser;
            let winner = &routes[by.route.0];
            let rule_name = winner.rules[by.rule.0].as_ref().map_or("", |rule| &rule.name);
            let host = host(&hostname);
            let is_own = route == by.route;
            let (about, expected) = match is_own {
                true => (About::Part, "a match that no earlier rule of the route has"),
                false => (About::Conflict, "a match that no older route has"),
            };
            let found = format!("the match of rule {rule_name} of {} {} for {host}", winner.object.kind, winner.name);
            let at_rule = FieldPath::rule(rule.0);
            let path = at_rule.item("matches", one.0).to_string();
            if !is_own {
                for parent in parents {
                    let message = conflicted.entry((route, parent)).or_default();
                    let semicolon = if message.is_empty() { "" } else { "; " };
                    *message += &format!("{semicolon}{path}: found {found}, which wins");
                }
            }
            routes[route.0].report.add(about, ConditionReason::DuplicateMatch, path, found, expected);
        }
        conflicted
    }
}

impl NeverMatched {
    /// Warns of each match once, with the first host for which it can never win.
    pub(super) fn report(self, routes: &mut [OwnRoute<'_>]) {
        let mut told = BTreeSet::new();
        for Shadowed { loser, winner, hostname, path, why } in self.0 {
            if !told.insert(loser) {
                continue;
            }
            let MatchOf { of: RuleOf { route, rule }, one } = loser;
            let other = &routes[winner.route.0];
            let rule_name = other.rules[winner.rule.0].as_ref().map_or("", |rule| &rule.name);
            let found = format!(
                "this match can never win for {}: every request that fits it also fits {path} of rule {rule_name} of {} {}, \
                 which comes first{why}",
                host(&hostname),
                other.object.kind,
                other.name,
            );
            let at_rule = FieldPath::rule(rule.0);
            let effect = "change its path, its conditions or the priority of its rule, or remove it";
            routes[route.0].report.warn(at_rule.item("matches", one.0), NEVER_MATCHED, found, effect);
        }
    }
}
