//! Attachment: which listeners a route is bound to, by itself and by delegating rules.
//!
//! Bottom-up, as routes name their parents: a child names a parent rule, and that rule's `delegate` says which namespaces
//! may. A child comes out with one [`Way`] for every way from listeners to it. Works level by level from the listeners
//! down, so a long chain or a circle of parents costs no more than the levels that are allowed.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::inputs::{Inputs, StaticListener};
use super::matches::Predicate;
use super::report::{About, FieldPath};
use super::rules::{OwnRoute, OwnRule};
use crate::api::common::GATEWAY_GROUP;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{GROUP, NamespacesFrom, ParentRef};
use crate::kinds::Kind;
use crate::kinds::gateway_route::Route;
use crate::model::ids::{ListenerId, ObjectName};
use crate::model::matching::Hostname;

/// The most routes on a way from a listener to a rule.
const MAX_DEPTH: usize = 4;

/// The most ways to one route by delegation: a lattice of parents has many more ways than objects.
const MAX_WAYS: usize = 64;

/// A set of static listeners; the settings allow 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Listeners(u64);

impl Listeners {
    pub(super) fn insert(&mut self, id: ListenerId) {
        self.0 |= 1u64.checked_shl(id.0).unwrap_or(0);
    }

    pub(super) fn contains(self, id: ListenerId) -> bool {
        self.0 & 1u64.checked_shl(id.0).unwrap_or(0) != 0
    }

    /// Whether all of another set are in this one.
    pub(super) fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One way from listeners to a route.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) listeners: Listeners,
    /// Not empty, except where all hostnames of a route are wrong.
    pub(super) hostnames: Arc<[Hostname]>,
    /// `None` for a route that is bound to listeners itself.
    pub(super) delegation: Option<Arc<Delegation>>,
}

/// What delegating rules hand down.
#[derive(Clone, Debug)]
pub(super) struct Delegation {
    /// The child's parent that it came by, as position in its status.
    pub(super) parent: usize,
    /// Paths of the child lie under this prefix, held without a trailing slash.
    pub(super) prefix: Arc<str>,
    /// What the delegating rules ask of a request beside the path.
    pub(super) outer: Predicate,
    /// The least priority of the child's rules.
    pub(super) priority: i32,
    /// The delegating rules as positions of route and rule, innermost first; not empty.
    pub(super) rules: Vec<(usize, usize)>,
}

impl Delegation {
    /// The position of the route that is attached to listeners itself.
    pub(super) fn root(&self) -> Option<usize> {
        self.rules.last().map(|(route, _)| *route)
    }
}

/// One parent of a route that is ours to judge.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    /// `group/kind/namespace/name/section/port`.
    pub(super) key: Arc<str>,
    pub(super) parent_ref: Arc<ParentRef>,
    /// The listener, when the parent is one that admits the route.
    pub(super) listener: Option<ListenerId>,
    /// Why it does not take the route.
    pub(super) refused: Option<(ConditionReason, String)>,
}

/// What attachment found out about one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Attached {
    /// The same for all routes that name none and that all listeners admit.
    pub(super) parents: Arc<[Parent]>,
    /// The number of parents of all routes before.
    pub(super) first_parent: usize,
    pub(super) ways: Vec<Way>,
}

/// A parent of kind GatewayRoute.
struct Reference {
    /// Position of the route that names it.
    child: usize,
    /// Position in the child's status.
    parent: usize,
    /// Position in `spec.parentRefs`.
    index: usize,
}

/// A reference to a rule that takes the child.
struct Edge {
    reference: Reference,
    /// Position of the parent.
    route: usize,
    /// Position of its rule.
    rule: usize,
    outcome: Outcome,
}

/// What became of an edge; the later says more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The parent itself is attached nowhere, or not under the prefix of its own parent.
    NoWay,
    NoHostname,
    TooDeep,
    TooMany,
    Attached,
}

type Refusal = (ConditionReason, String, String);

/// Attaches all routes; the result has one entry a route. Findings go to the routes' reports.
pub(super) fn attach(inputs: &Inputs, routes: &mut [OwnRoute<'_>]) -> Vec<Attached> {
    let mut listeners: Vec<Parent> =
        (0..).map(ListenerId).zip(&inputs.listeners).map(|(id, one)| static_listener(id, one)).collect();
    listeners.sort_by(|a, b| a.key.cmp(&b.key));
    let listeners: Arc<[Parent]> = listeners.into();
    let mut first_parent = 0;
    let mut attached: Vec<Attached> = Vec::with_capacity(routes.len());
    let mut references = Vec::new();
    for (child, route) in routes.iter_mut().enumerate() {
        let parent_refs = &route.object.spec.parent_refs;
        let mut parents = Vec::with_capacity(parent_refs.len());
        for (index, parent_ref) in parent_refs.iter().enumerate() {
            let verdict = match (parent_ref.group.as_str(), parent_ref.kind.as_str()) {
                (GROUP, "Listener") => to_listener(inputs, parent_ref, &route.name.namespace).map(Some),
                (GROUP, Route::NAME) => {
                    references.push(Reference { child, parent: parents.len(), index });
                    Ok(None)
                }
                (GATEWAY_GROUP, "Gateway" | "ListenerSet") | ("", "Service") => Err((
                    ConditionReason::UnsupportedValue,
                    format!("kind {}, which is not served yet", parent_ref.kind),
                    format!("Listener or {} of group {GROUP}", Route::NAME),
                )),
                // Another controller may own it: not ours to judge.
                _ => continue,
            };
            let listener = verdict.as_ref().ok().copied().flatten();
            let parent_ref = Arc::new(parent_ref.clone());
            let mut parent = Parent { key: key(route, &parent_ref).into(), parent_ref, listener, refused: None };
            if let Err(refusal) = verdict {
                refuse(route, &mut parent, parents.len(), index, refusal);
            }
            parents.push(parent);
        }
        let parents: Arc<[Parent]> = match parent_refs.is_empty() {
            true => to_all_listeners(inputs, &listeners, route),
            false => parents.into(),
        };
        let mut bound = Listeners::default();
        parents.iter().filter_map(|parent| parent.listener).for_each(|id| bound.insert(id));
        let mut ways = Vec::new();
        if !bound.is_empty() {
            ways = vec![Way { listeners: bound, hostnames: Arc::clone(&route.hostnames), delegation: None }];
        }
        let count = parents.len();
        attached.push(Attached { parents, first_parent, ways });
        first_parent += count;
    }
    if !references.is_empty() {
        delegate(inputs, routes, &mut attached, references);
    }
    attached
}

/// Writes down that a parent, at a position in the status, does not take a route.
fn refuse(route: &mut OwnRoute<'_>, parent: &mut Parent, position: usize, index: usize, refusal: Refusal) {
    let (reason, found, expected) = refusal;
    parent.refused = Some((reason, format!("found {found}, expected {expected}")));
    route.report.add(About::Parent(position), reason, FieldPath::SPEC.item("parentRefs", index), found, expected);
}

/// A listener as the parent of routes that name none.
fn static_listener(id: ListenerId, listener: &StaticListener) -> Parent {
    let parent_ref = ParentRef {
        group: GROUP.to_owned(),
        kind: "Listener".to_owned(),
        namespace: None,
        name: listener.name.to_string(),
        section_name: None,
        port: None,
    };
    let key = format!("{GROUP}/Listener//{}//", listener.name).into();
    Parent { key, parent_ref: Arc::new(parent_ref), listener: Some(id), refused: None }
}

/// `group/kind/namespace/name/section/port`, the scalar key of status entries.
fn key(route: &OwnRoute<'_>, parent: &ParentRef) -> String {
    // A static listener has no namespace.
    let own = if parent.kind == "Listener" { "" } else { &*route.name.namespace };
    let namespace = parent.namespace.as_deref().unwrap_or(own);
    let section = parent.section_name.as_deref().unwrap_or_default();
    let port = parent.port.map(|port| port.to_string()).unwrap_or_default();
    format!("{}/{}/{namespace}/{}/{section}/{port}", parent.group, parent.kind, parent.name)
}

fn admits(listener: &StaticListener, namespace: &str) -> bool {
    listener.allowed_namespaces.as_ref().is_none_or(|names| names.iter().any(|name| name == namespace))
}

fn to_all_listeners(inputs: &Inputs, listeners: &Arc<[Parent]>, route: &mut OwnRoute<'_>) -> Arc<[Parent]> {
    let namespace = &route.name.namespace;
    let is_admitted = |parent: &Parent| {
        let listener = parent.listener.and_then(|id| inputs.listeners.get(id.index()));
        listener.is_some_and(|listener| admits(listener, namespace))
    };
    if listeners.iter().all(is_admitted) {
        return Arc::clone(listeners);
    }
    let mut parents = listeners.to_vec();
    for parent in &mut parents {
        if !is_admitted(parent) {
            let message = format!("the listener does not admit namespace {namespace}");
            parent.refused = Some((ConditionReason::NotAllowedByListeners, message));
            parent.listener = None;
        }
    }
    // One that is served somewhere is served as it asks: by all that admit it.
    if parents.iter().all(|parent| parent.refused.is_some()) {
        let found = format!("namespace {namespace}");
        let reason = ConditionReason::NotAllowedByListeners;
        route.report.add(About::Route, reason, "metadata.namespace", found, "a namespace that a listener admits");
    }
    parents.into()
}

fn to_listener(inputs: &Inputs, parent: &ParentRef, namespace: &str) -> Result<ListenerId, Refusal> {
    if parent.namespace.is_some() || parent.section_name.is_some() || parent.port.is_some() {
        let found = format!("{} with namespace, sectionName or port", parent.name);
        let expected = "the name of a listener alone".to_owned();
        return Err((ConditionReason::UnsupportedValue, found, expected));
    }
    let mut listeners = (0..).map(ListenerId).zip(&inputs.listeners);
    let Some((id, listener)) = listeners.find(|(_, listener)| *listener.name == *parent.name) else {
        let names: Vec<_> = inputs.listeners.iter().map(|listener| &*listener.name).collect();
        let expected = format!("a listener of the settings: {}", names.join(", "));
        return Err((ConditionReason::NoMatchingParent, format!("no listener {}", parent.name), expected));
    };
    if !admits(listener, namespace) {
        let found = format!("namespace {namespace}");
        let expected = format!("a namespace that listener {} admits", listener.name);
        return Err((ConditionReason::NotAllowedByListeners, found, expected));
    }
    Ok(id)
}

/// Binds children to the rules that delegate to them, level by level.
fn delegate(inputs: &Inputs, routes: &mut [OwnRoute<'_>], attached: &mut [Attached], references: Vec<Reference>) {
    let positions: FxHashMap<_, _> =
        routes.iter().enumerate().map(|(position, route)| (route.name, position)).collect();
    let target = |reference: &Reference| {
        let (child, parent_ref) = reference.of(routes);
        let namespace = parent_ref.namespace.as_deref().unwrap_or(&child.name.namespace);
        positions.get(&ObjectName::new(namespace, parent_ref.name.as_str())).copied()
    };
    let targets: Vec<Option<usize>> = references.iter().map(target).collect();
    let circles = circles(routes.len(), references.iter().zip(&targets));
    let mut edges = Vec::with_capacity(references.len());
    for (reference, target) in references.into_iter().zip(targets) {
        match admitted(inputs, routes, &reference, target, &circles) {
            Ok((route, rule)) => edges.push(Edge { reference, route, rule, outcome: Outcome::NoWay }),
            Err(refusal) => {
                let (child, position) = (reference.child, reference.parent);
                let parent = &mut Arc::make_mut(&mut attached[child].parents)[position];
                refuse(&mut routes[child], parent, position, reference.index, refusal);
            }
        }
    }
    for depth in 2..=MAX_DEPTH + 1 {
        let mut new: Vec<(usize, Way)> = Vec::new();
        for edge in &mut edges {
            let child = edge.reference.child;
            let above = attached[edge.route].ways.iter().filter(|way| way.depth() == depth - 1);
            for way in above {
                let of_child = attached[child].ways.len() + new.iter().rev().take_while(|(to, _)| *to == child).count();
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
        new.into_iter().for_each(|(child, way)| attached[child].ways.push(way));
    }
    for Edge { reference, route, rule, outcome } in edges {
        let parent = &routes[route];
        let rule = parent.rules[rule].as_ref().map_or("", |rule| &rule.name);
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
        let parent = &mut Arc::make_mut(&mut attached[child].parents)[position];
        refuse(&mut routes[child], parent, position, reference.index, (reason, found, expected));
    }
}

/// The rule that a reference leads to, if it takes the child: position of the route and of the rule.
fn admitted(
    inputs: &Inputs,
    routes: &[OwnRoute<'_>],
    reference: &Reference,
    target: Option<usize>,
    circles: &[usize],
) -> Result<(usize, usize), Refusal> {
    let (child, parent_ref) = reference.of(routes);
    let Some((position, parent)) = target.and_then(|position| Some((position, routes.get(position)?))) else {
        let namespace = parent_ref.namespace.as_deref().unwrap_or(&child.name.namespace);
        let found = format!("no {} {namespace}/{}", Route::NAME, parent_ref.name);
        let expected = format!("a {} of class {}", Route::NAME, inputs.gateway_class_name);
        return Err((ConditionReason::NoMatchingParent, found, expected));
    };
    if circles[position] == circles[reference.child] {
        let found = format!("{}, which hangs below this route", parent.name);
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
    let Some(index) = rules.iter().position(|rule| rule.name.as_ref() == Some(section)) else {
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
        Some(Some(rule)) if rule.delegated_prefix().is_some() => Ok((position, index)),
        _ => refused("which is not served".to_owned()),
    }
}

impl Way {
    /// Number of routes from the listener down, this one included.
    fn depth(&self) -> usize {
        1 + self.delegation.as_ref().map_or(0, |delegation| delegation.rules.len())
    }
}

impl Reference {
    /// The child and what it says.
    fn of<'r, 'a>(&self, routes: &'r [OwnRoute<'a>]) -> (&'r OwnRoute<'a>, &'r ParentRef) {
        let child = &routes[self.child];
        (child, &child.object.spec.parent_refs[self.index])
    }
}

impl Edge {
    /// One way of the parent, a step further.
    fn step(&self, way: &Way, routes: &[OwnRoute<'_>]) -> Result<Way, Outcome> {
        let rule = routes[self.route].rules[self.rule].as_ref();
        let (predicate, prefix) = rule.and_then(OwnRule::delegated_prefix).ok_or(Outcome::NoWay)?;
        let mut priority = rule.map_or(0, |rule| rule.priority);
        let mut outer = predicate.clone();
        let mut rules = vec![(self.route, self.rule)];
        if let Some(above) = &way.delegation {
            if !predicate.is_under(&above.prefix) {
                return Err(Outcome::NoWay);
            }
            outer = outer.and(&above.outer).ok_or(Outcome::NoWay)?;
            priority = priority.max(above.priority);
            rules.extend_from_slice(&above.rules);
        }
        let hostnames = narrowed(&way.hostnames, &routes[self.reference.child].hostnames);
        if hostnames.is_empty() {
            return Err(Outcome::NoHostname);
        }
        let parent = self.reference.parent;
        let delegation = Delegation { parent, prefix: Arc::clone(prefix), outer, priority, rules };
        Ok(Way { listeners: way.listeners, hostnames, delegation: Some(Arc::new(delegation)) })
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

/// For each route the number of its circle: two have the same when each leads to the other by its parents, or they are
/// one route. (Tarjan, "Depth-first search and linear graph algorithms", 1972, without recursion.)
fn circles<'r>(count: usize, edges: impl Iterator<Item = (&'r Reference, &'r Option<usize>)>) -> Vec<usize> {
    const UNSEEN: usize = usize::MAX;
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (reference, target) in edges {
        parents[reference.child].extend(*target);
    }
    let (mut order, mut low, mut circle) = (vec![UNSEEN; count], vec![0; count], vec![UNSEEN; count]);
    let (mut next, mut open) = (0, Vec::new());
    for start in 0..count {
        // A node with the number of its edges that were followed.
        let mut path = if order[start] == UNSEEN { vec![(start, 0)] } else { Vec::new() };
        while let Some(&mut (node, ref mut followed)) = path.last_mut() {
            if *followed == 0 && order[node] == UNSEEN {
                (order[node], low[node]) = (next, next);
                next += 1;
                open.push(node);
            }
            if let Some(&parent) = parents[node].get(*followed) {
                *followed += 1;
                if order[parent] == UNSEEN {
                    path.push((parent, 0));
                } else if circle[parent] == UNSEEN {
                    low[node] = low[node].min(order[parent]);
                }
                continue;
            }
            path.pop();
            if let Some(&(below, _)) = path.last() {
                low[below] = low[below].min(low[node]);
            }
            if low[node] == order[node] {
                while let Some(member) = open.pop() {
                    circle[member] = node;
                    if member == node {
                        break;
                    }
                }
            }
        }
    }
    circle
}
