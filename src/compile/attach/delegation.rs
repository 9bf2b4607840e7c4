//! Delegation: children bound to the rules that hand requests down to them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::attached::{Attached, Delegation, Refusal, Way, refuse};
use super::circles::circles;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{NamespacesFrom, ParentRef};
use crate::compile::inputs::Inputs;
use crate::compile::position::{ParentPos, RoutePos, RuleOf, RulePos};
use crate::compile::rules::{OwnRoute, OwnRule};
use crate::kinds::Kind;
use crate::kinds::gateway_route::Route;
use crate::model::ids::ObjectName;
use crate::model::matching::Hostname;

/// The most routes on a way from a listener to a rule.
const MAX_DEPTH: usize = 4;

/// The most ways to one route by delegation: a lattice of parents has many more ways than objects.
const MAX_WAYS: usize = 64;

/// A parent of kind GatewayRoute.
pub(super) struct Reference {
    /// The route that names it.
    pub(super) child: RoutePos,
    /// The parent in the child's status.
    pub(super) parent: ParentPos,
    /// Position in `spec.parentRefs`.
    pub(super) index: usize,
}

/// A reference to a rule that takes the child.
struct Edge {
    reference: Reference,
    /// The parent's rule.
    to: RuleOf,
    outcome: Outcome,
}

/// Result of following one delegation. When several apply, the greatest is reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The parent itself is attached nowhere, or not under the prefix of its own parent.
    NoWay,
    NoHostname,
    TooDeep,
    TooMany,
    Attached,
}

/// Binds children to the rules that delegate to them, level by level.
pub(super) fn delegate(
    inputs: &Inputs,
    routes: &mut [OwnRoute<'_>],
    attached: &mut [Attached],
    references: Vec<Reference>,
) {
    let positions: FxHashMap<_, _> =
        routes.iter().enumerate().map(|(position, route)| (route.name, RoutePos(position))).collect();
    let target = |reference: &Reference| {
        let (child, parent_ref) = reference.of(routes);
        let namespace = parent_ref.namespace.as_deref().unwrap_or(&child.name.namespace);
        positions.get(&ObjectName::new(namespace, parent_ref.name.as_str())).copied()
    };
    let targets: Vec<Option<RoutePos>> = references.iter().map(target).collect();
    let circles = circles(
        routes.len(),
        references.iter().zip(&targets).filter_map(|(reference, target)| Some((reference.child.0, (*target)?.0))),
    );
    let mut edges = Vec::with_capacity(references.len());
    for (reference, target) in references.into_iter().zip(targets) {
        match admitted(inputs, routes, &reference, target, &circles) {
            Ok(to) => edges.push(Edge { reference, to, outcome: Outcome::NoWay }),
            Err(refusal) => {
                let (child, position) = (reference.child, reference.parent);
                let parent = &mut Arc::make_mut(&mut attached[child.0].parents)[position.0];
                refuse(&mut routes[child.0], parent, position, reference.index, refusal);
            }
        }
    }
    for depth in 2..=MAX_DEPTH + 1 {
        let mut new: Vec<(RoutePos, Way)> = Vec::new();
        for edge in &mut edges {
            let child = edge.reference.child;
            let above = attached[edge.to.route.0].ways.iter().filter(|way| way.depth() == depth - 1);
            for way in above {
                let of_child =
                    attached[child.0].ways.len() + new.iter().rev().take_while(|(to, _)| *to == child).count();
                let step = match depth {
                    _ if depth > MAX_DEPTH => Err(Outcome::TooDeep),
                    _ if of_child >= MAX_WAYS => Err(Outcome::TooMany),
                    _ => edge.step(way, routes),
                };
                let outcome = step.map_or_else(
                    |outcome| outcome,
                    |way| {
                        new.push((child, way));
                        Outcome::Attached
                    },
                );
                edge.outcome = edge.outcome.max(outcome);
            }
        }
        new.into_iter().for_each(|(child, way)| attached[child.0].ways.push(way));
    }
    for Edge { reference, to, outcome } in edges {
        let parent = &routes[to.route.0];
        let rule = parent.rules[to.rule.0].as_ref().map_or("", |rule| &rule.name);
        let (reason, found, expected) = match outcome {
            Outcome::Attached => continue,
            Outcome::NoWay => {
                let found = format!("rule {rule} of {}, which is not served itself", parent.name);
                (ConditionReason::NotDelegated, found, "a parent that is served".to_owned())
            }
            Outcome::NoHostname => {
                let found = format!("no hostname that {} has", parent.name);
                (ConditionReason::NoMatchingListenerHostname, found, "none, or hostnames of the parent".to_owned())
            }
            Outcome::TooDeep => {
                let expected = format!("at most {MAX_DEPTH} routes from a listener down");
                (ConditionReason::NotDelegated, format!("too many routes above {}", parent.name), expected)
            }
            Outcome::TooMany => {
                let expected = format!("at most {MAX_WAYS} ways to a route");
                (ConditionReason::NotDelegated, "too many ways from listeners".to_owned(), expected)
            }
        };
        let (child, position) = (reference.child, reference.parent);
        let parent = &mut Arc::make_mut(&mut attached[child.0].parents)[position.0];
        refuse(&mut routes[child.0], parent, position, reference.index, (reason, found, expected));
    }
}

/// The rule that a reference leads to, if it takes the child.
fn admitted(
    inputs: &Inputs,
    routes: &[OwnRoute<'_>],
    reference: &Reference,
    target: Option<RoutePos>,
    circles: &[usize],
) -> Result<RuleOf, Refusal> {
    let (child, parent_ref) = reference.of(routes);
    let Some((position, parent)) = target.and_then(|position| Some((position, routes.get(position.0)?))) else {
        let namespace = parent_ref.namespace.as_deref().unwrap_or(&child.name.namespace);
        let found = format!("no {} {namespace}/{}", Route::NAME, parent_ref.name);
        let expected = format!("a {} of class {}", Route::NAME, inputs.gateway_class_name);
        return Err((ConditionReason::NoMatchingParent, found, expected));
    };
    if circles[position.0] == circles[reference.child.0] {
        let found = format!("{}, which is below this route", parent.name);
        return Err((ConditionReason::DelegationCycle, found, "parents that end at a listener".to_owned()));
    }
    if parent_ref.port.is_some() {
        let expected = format!("a {} and its rule alone", Route::NAME);
        return Err((ConditionReason::UnsupportedValue, "a port".to_owned(), expected));
    }
    let Some(section) = &parent_ref.section_name else {
        let expected = "sectionName: the name of a delegating rule".to_owned();
        return Err((ConditionReason::NoMatchingParent, "no sectionName".to_owned(), expected));
    };
    let rules = &parent.object.spec.rules;
    let Some(index) = rules.iter().position(|rule| rule.name.as_deref() == Some(section.as_str())) else {
        let found = format!("no rule {section} of {}", parent.name);
        return Err((ConditionReason::NoMatchingParent, found, "the name of a delegating rule".to_owned()));
    };
    let refused = |what: String| {
        let found = format!("rule {section} of {}, {what}", parent.name);
        Err((ConditionReason::NotDelegated, found, "a rule that delegates to this namespace".to_owned()))
    };
    let Some(delegate) = &rules[index].delegate else { return refused("which does not delegate".to_owned()) };
    let namespace = &child.name.namespace;
    let is_admitted = match delegate.namespaces.from.known() {
        Some(NamespacesFrom::Same) => parent.name.namespace == *namespace,
        Some(NamespacesFrom::All) => true,
        Some(NamespacesFrom::Selector) => {
            let selector = delegate.namespaces.selector.as_ref();
            // A namespace that is not known cannot be selected, not even by a selector that asks for nothing.
            let known = inputs.objects.namespaces.get(&ObjectName::new("", Arc::clone(namespace)));
            known.is_some_and(|known| selector.is_some_and(|selector| selector.matches(&known.object.labels)))
        }
        None => false,
    };
    if !is_admitted {
        return refused(format!("which does not delegate to namespace {namespace}"));
    }
    match parent.rules.get(index) {
        Some(Some(rule)) if rule.delegated_prefix().is_some() => Ok(RuleOf { route: position, rule: RulePos(index) }),
        _ => refused("which is not served".to_owned()),
    }
}

impl Reference {
    /// The child and what it says.
    fn of<'r, 'a>(&self, routes: &'r [OwnRoute<'a>]) -> (&'r OwnRoute<'a>, &'r ParentRef) {
        let child = &routes[self.child.0];
        (child, &child.object.spec.parent_refs[self.index])
    }
}

impl Edge {
    /// One way of the parent, a step further.
    fn step(&self, way: &Way, routes: &[OwnRoute<'_>]) -> Result<Way, Outcome> {
        let rule = routes[self.to.route.0].rules[self.to.rule.0].as_ref();
        let (predicate, prefix) = rule.and_then(OwnRule::delegated_prefix).ok_or(Outcome::NoWay)?;
        let mut priority = rule.map_or(0, |rule| rule.priority);
        let mut outer = predicate.clone();
        let mut rules = vec![self.to];
        if let Some(above) = &way.delegation {
            if !predicate.is_under(&above.prefix) {
                return Err(Outcome::NoWay);
            }
            outer = outer.and(&above.outer).ok_or(Outcome::NoWay)?;
            priority = priority.max(above.priority);
            rules.extend_from_slice(&above.rules);
        }
        let hostnames = narrowed(&way.hostnames, &routes[self.reference.child.0].hostnames);
        if hostnames.is_empty() {
            return Err(Outcome::NoHostname);
        }
        let parent = self.reference.parent;
        let delegation = Delegation { parent, prefix: Arc::clone(prefix), outer, priority, rules };
        Ok(Way { listeners: way.listeners.clone(), hostnames, delegation: Some(Arc::new(delegation)) })
    }
}

/// A child without hostnames has those from above; its own count as far as those above cover them.
fn narrowed(above: &Arc<[Hostname]>, own: &Arc<[Hostname]>) -> Arc<[Hostname]> {
    if **own == [Hostname::Any] {
        return Arc::clone(above);
    }
    let mut both: Vec<Hostname> = Vec::new();
    for narrow in own.iter() {
        for wide in above.iter() {
            let hostname = match (covers(wide, narrow), covers(narrow, wide)) {
                (true, _) => narrow,
                (false, true) => wide,
                (false, false) => continue,
            };
            if !both.contains(hostname) {
                both.push(hostname.clone());
            }
        }
    }
    both.into()
}

fn covers(wide: &Hostname, narrow: &Hostname) -> bool {
    match (wide, narrow) {
        (Hostname::Any, _) => true,
        (Hostname::Wildcard(suffix), Hostname::Exact(name) | Hostname::Wildcard(name)) => {
            let is_below = name.strip_suffix(&**suffix).is_some_and(|rest| rest.ends_with('.'));
            is_below || wide == narrow
        }
        (Hostname::Exact(_), _) | (Hostname::Wildcard(_), Hostname::Any) => wide == narrow,
    }
}
