//! Attachment: which listeners a route is bound to, and by which delegating rules.
//!
//! Bottom-up, as routes name their parents: a child names a parent rule, and that rule's `delegate` says which namespaces
//! may. A child comes out with one [`Attachment`] for every way from a listener to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::inputs::Inputs;
use super::matches::Predicate;
use super::report::{Report, effect, reason};
use crate::api::gateway_route::{GROUP, GatewayRoute, NamespacesFrom, ParentRef, RouteRule};
use crate::model::host::normalize_host;
use crate::model::ids::{ListenerId, ObjectName};
use crate::model::matching::{Hostname, PathMatch};

/// The most routes on a way from a listener to a rule.
const MAX_DEPTH: usize = 4;

/// One way from listeners to a route.
#[derive(Clone, Debug)]
pub(super) struct Attachment {
    /// Listeners, sorted.
    pub(super) listeners: Vec<ListenerId>,
    /// Hostnames of the root; not empty.
    pub(super) hostnames: Vec<Hostname>,
    /// The delegating rule, for a child.
    pub(super) delegation: Option<Delegation>,
}

/// What a delegating rule hands down.
#[derive(Clone, Debug)]
pub(super) struct Delegation {
    /// Paths of the child lie under this prefix, held without a trailing slash.
    pub(super) prefix: Arc<str>,
    /// What the delegating rules ask of a request beside the path.
    pub(super) outer: Predicate,
    /// The delegating rule's priority: the least that a child's rule has.
    pub(super) priority: i32,
    /// The delegating rules, innermost first: knobs that a child does not set come from them.
    pub(super) rules: Vec<(ObjectName, usize)>,
}

/// The state of a parent in a route's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `group/kind/namespace/name/section/port`, the scalar key of status entries.
    pub key: String,
    /// Why it does not accept the route: reason and message; `None` when it does.
    pub refused: Option<(&'static str, String)>,
}

/// What attachment found out about one route.
#[derive(Clone, Debug, Default)]
pub(super) struct Attached {
    pub(super) attachments: Vec<Attachment>,
    pub(super) parents: Vec<ParentStatus>,
}

/// Walks from routes to their listeners; every route once.
pub(super) struct Attacher<'a> {
    inputs: &'a Inputs,
    done: BTreeMap<&'a ObjectName, Attached>,
}

impl<'a> Attacher<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        Self { inputs, done: BTreeMap::new() }
    }

    /// The attachments of one route of the class; findings go to `report`.
    pub(super) fn attach(&mut self, name: &'a ObjectName, route: &'a GatewayRoute, report: &mut Report) -> Attached {
        let cyclic = self.cycle(name);
        let mut attached = Attached::default();
        let hostnames = hostnames(route, report);
        if route.spec.parent_refs.is_empty() {
            self.to_all_listeners(name, &hostnames, &mut attached, report);
        }
        for (index, parent) in route.spec.parent_refs.iter().enumerate() {
            let path = format!("spec.parentRefs[{index}]");
            let refused = match (parent.group.as_str(), parent.kind.as_str()) {
                (GROUP, "Listener") => self.to_listener(name, parent, &hostnames, &mut attached),
                (GROUP, "GatewayRoute") if cyclic => {
                    let message = format!("{} leads back to this route", parent_name(name, parent));
                    Err((reason::DELEGATION_CYCLE, message, "parents that end at a listener"))
                }
                (GROUP, "GatewayRoute") => self.to_parent(name, parent, &hostnames, &mut attached),
                ("gateway.networking.k8s.io", "Gateway" | "ListenerSet") | ("", "Service") => {
                    let message = format!("a parent of kind {}, which is not served yet", parent.kind);
                    Err((reason::UNSUPPORTED_VALUE, message, "Listener or GatewayRoute of group tidegate.dev"))
                }
                // Another controller may own it: not ours to judge.
                _ => continue,
            };
            let status = refused.err().map(|(reason, found, expected)| {
                report.error(path, reason, found.clone(), expected, effect::ROUTE_REFUSED);
                (reason, found)
            });
            attached.parents.push(ParentStatus { key: key(name, parent), refused: status });
        }
        self.done.insert(name, attached.clone());
        attached
    }

    fn to_all_listeners(
        &self,
        name: &ObjectName,
        hostnames: &[Hostname],
        attached: &mut Attached,
        report: &mut Report,
    ) {
        let mut admitted = Vec::new();
        for (id, listener) in (0..).map(ListenerId).zip(&self.inputs.listeners) {
            let allowed = admits(listener.allowed_namespaces.as_deref(), &name.namespace);
            let message = format!("listener {} does not admit namespace {}", listener.name, name.namespace);
            let refused = (!allowed).then_some((reason::NOT_ALLOWED, message));
            if allowed {
                admitted.push(id);
            }
            attached.parents.push(ParentStatus { key: format!("{GROUP}/Listener//{}//", listener.name), refused });
        }
        attached.parents.sort_by(|a, b| a.key.cmp(&b.key));
        if admitted.is_empty() {
            let found = format!("namespace {}", name.namespace);
            let expected = "a namespace that a listener admits";
            report.error("metadata.namespace".to_owned(), reason::NOT_ALLOWED, found, expected, effect::ROUTE_REFUSED);
        } else if !hostnames.is_empty() {
            let hostnames = hostnames.to_vec();
            attached.attachments.push(Attachment { listeners: admitted, hostnames, delegation: None });
        }
    }

    fn to_listener(
        &self,
        name: &ObjectName,
        parent: &ParentRef,
        hostnames: &[Hostname],
        attached: &mut Attached,
    ) -> Result<(), (&'static str, String, &'static str)> {
        let listeners = (0..).map(ListenerId).zip(&self.inputs.listeners);
        let Some((id, listener)) = listeners.into_iter().find(|(_, listener)| *listener.name == *parent.name) else {
            let message = format!("no listener {:?}", parent.name);
            return Err((reason::NO_MATCHING_PARENT, message, "a listener of the settings"));
        };
        if !admits(listener.allowed_namespaces.as_deref(), &name.namespace) {
            let message = format!("listener {} does not admit namespace {}", listener.name, name.namespace);
            return Err((reason::NOT_ALLOWED, message, "a namespace that the listener admits"));
        }
        let hostnames = hostnames.to_vec();
        match attached.attachments.iter_mut().find(|attachment| attachment.delegation.is_none()) {
            Some(direct) if !direct.listeners.contains(&id) => {
                direct.listeners.push(id);
                direct.listeners.sort();
            }
            Some(_) => {}
            None => attached.attachments.push(Attachment { listeners: vec![id], hostnames, delegation: None }),
        }
        Ok(())
    }

    fn to_parent(
        &mut self,
        name: &'a ObjectName,
        parent: &ParentRef,
        own: &[Hostname],
        attached: &mut Attached,
    ) -> Result<(), (&'static str, String, &'static str)> {
        let parent_name = parent_name(name, parent);
        let class = |route: &GatewayRoute| *route.spec.gateway_class_name == *self.inputs.gateway_class_name;
        let entry = self.inputs.routes.get_key_value(&parent_name).filter(|(_, route)| class(&route.object));
        let Some((parent_name, parent_route)) = entry else {
            let message = format!("no GatewayRoute {parent_name}");
            return Err((reason::NO_MATCHING_PARENT, message, "an existing GatewayRoute of this class"));
        };
        let section = parent.section_name.as_deref().unwrap_or_default();
        let rules = &parent_route.object.spec.rules;
        let found = rules.iter().enumerate().find(|(_, rule)| rule.name.as_deref() == Some(section));
        let Some((index, rule)) = found else {
            let message = format!("{parent_name} has no rule {section:?}");
            return Err((reason::NO_MATCHING_PARENT, message, "sectionName: the name of a delegating rule"));
        };
        if !self.delegates(rule, parent_name, name) {
            let message = format!("rule {section} of {parent_name} does not delegate to namespace {}", name.namespace);
            return Err((reason::NOT_DELEGATED, message, "a rule whose delegate.namespaces admit this namespace"));
        }
        let above = self.above(parent_name, &parent_route.object);
        let Some(outer) = delegating_predicate(rule) else {
            let message = format!("rule {section} of {parent_name} is not in force");
            return Err((reason::NOT_DELEGATED, message, "a delegating rule that is in force"));
        };
        let mut accepted = false;
        let mut foreign = false;
        for attachment in &above.attachments {
            let (outer, prefix, mut rules, priority) = match &attachment.delegation {
                None => (Some(outer.clone()), prefix_of(&outer), Vec::new(), rule.priority),
                Some(higher) if outer.is_under(&higher.prefix) => (
                    outer.clone().and(&higher.outer),
                    prefix_of(&outer),
                    higher.rules.clone(),
                    rule.priority.max(higher.priority),
                ),
                Some(_) => continue,
            };
            let Some(outer) = outer else { continue };
            if rules.len() + 1 >= MAX_DEPTH {
                let message = format!("{name} is more than {MAX_DEPTH} routes below its listener");
                return Err((reason::NOT_DELEGATED, message, "at most 4 routes from a listener"));
            }
            rules.insert(0, (parent_name.clone(), index));
            let hostnames = narrowed(&attachment.hostnames, own);
            foreign |= hostnames.is_empty();
            accepted |= !hostnames.is_empty();
            if !hostnames.is_empty() {
                let delegation = Some(Delegation { prefix, outer, priority, rules });
                attached.attachments.push(Attachment {
                    listeners: attachment.listeners.clone(),
                    hostnames,
                    delegation,
                });
            }
        }
        match (accepted, foreign) {
            (true, _) => Ok(()),
            (false, true) => {
                let message = format!("no hostname of {parent_name} among this route's");
                Err((reason::NO_MATCHING_HOSTNAME, message, "none, or hostnames that the parent has"))
            }
            (false, false) => {
                let message = format!("{parent_name} is not accepted itself");
                Err((reason::NOT_DELEGATED, message, "a parent that a listener accepts"))
            }
        }
    }

    /// The parent's own attachments; its findings are reported when its own turn comes.
    fn above(&mut self, name: &'a ObjectName, route: &'a GatewayRoute) -> Attached {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        self.attach(name, route, &mut Report::new(name, None))
    }

    fn delegates(&self, rule: &RouteRule, parent: &ObjectName, child: &ObjectName) -> bool {
        let Some(delegate) = &rule.delegate else { return false };
        let namespaces = &delegate.namespaces;
        match namespaces.from.known() {
            Some(NamespacesFrom::Same) => parent.namespace == child.namespace,
            Some(NamespacesFrom::All) => true,
            Some(NamespacesFrom::Selector) => {
                let namespace = self.inputs.namespaces.get(&child.namespace);
                let labels = namespace.and_then(|namespace| namespace.object.metadata.labels.as_ref());
                let none = BTreeMap::new();
                namespaces.selector.as_ref().is_some_and(|selector| selector.matches(labels.unwrap_or(&none)))
            }
            None => false,
        }
    }

    /// Whether a walk over parents of kind GatewayRoute comes back to where it began.
    fn cycle(&self, start: &ObjectName) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = self.parents(start);
        while let Some(name) = next.pop() {
            if name == *start {
                return true;
            }
            if seen.insert(name.clone()) {
                next.extend(self.parents(&name));
            }
        }
        false
    }

    fn parents(&self, name: &ObjectName) -> Vec<ObjectName> {
        let route = self.inputs.routes.get(name);
        let refs = route.map(|route| route.object.spec.parent_refs.as_slice()).unwrap_or_default();
        let routes = refs.iter().filter(|parent| parent.group == GROUP && parent.kind == "GatewayRoute");
        routes.map(|parent| parent_name(name, parent)).collect()
    }
}

fn admits(allowed: Option<&[String]>, namespace: &str) -> bool {
    allowed.is_none_or(|names| names.iter().any(|name| name == namespace))
}

/// The predicate of a delegating rule's one match; reported when the rule's own turn comes.
fn delegating_predicate(rule: &RouteRule) -> Option<Predicate> {
    let mut unheard = Report::new(&ObjectName::new("", ""), None);
    rule.matches.first().and_then(|route_match| Predicate::compile(route_match, "", &mut unheard))
}

fn prefix_of(predicate: &Predicate) -> Arc<str> {
    match &predicate.path {
        PathMatch::Prefix(prefix) => Arc::clone(prefix),
        // The schema asks for a prefix beside delegate; anything else delegates nothing.
        other => other.value().into(),
    }
}

/// A child without hostnames has its root's; its own count as far as the root has them.
fn narrowed(root: &[Hostname], own: &[Hostname]) -> Vec<Hostname> {
    if own == [Hostname::Any] {
        return root.to_vec();
    }
    let covers = |wide: &Hostname, narrow: &Hostname| match (wide, narrow) {
        (Hostname::Any, _) => true,
        (Hostname::Wildcard(suffix), Hostname::Exact(name) | Hostname::Wildcard(name)) => {
            let below = name.strip_suffix(&**suffix).is_some_and(|rest| rest.ends_with('.'));
            below || (matches!(narrow, Hostname::Wildcard(_)) && name == suffix)
        }
        (wide, narrow) => wide == narrow,
    };
    own.iter().filter(|narrow| root.iter().any(|wide| covers(wide, narrow))).cloned().collect()
}

fn hostnames(route: &GatewayRoute, report: &mut Report) -> Vec<Hostname> {
    if route.spec.hostnames.is_empty() {
        return vec![Hostname::Any];
    }
    let mut names = Vec::with_capacity(route.spec.hostnames.len());
    for (index, text) in route.spec.hostnames.iter().enumerate() {
        let (wildcard, bare) = text.strip_prefix("*.").map_or((false, text.as_str()), |suffix| (true, suffix));
        if crate::model::host::parse_authority(bare.as_bytes()).is_err() || bare.contains([':', '*']) {
            let path = format!("spec.hostnames[{index}]");
            let expected = "a host name, optionally behind \"*.\"";
            report.error(path, reason::UNSUPPORTED_VALUE, format!("{text:?}"), expected, "the other hostnames serve");
            continue;
        }
        let name: Arc<str> = normalize_host(bare).as_ref().into();
        let hostname = if wildcard { Hostname::Wildcard(name) } else { Hostname::Exact(name) };
        if !names.contains(&hostname) {
            names.push(hostname);
        }
    }
    names
}

fn parent_name(child: &ObjectName, parent: &ParentRef) -> ObjectName {
    let namespace = parent.namespace.as_deref().map_or_else(|| Arc::clone(&child.namespace), Arc::from);
    ObjectName::new(namespace, parent.name.as_str())
}

fn key(child: &ObjectName, parent: &ParentRef) -> String {
    let namespaced = parent.kind != "Listener";
    let namespace = if namespaced { parent_name(child, parent).namespace.to_string() } else { String::new() };
    let section = parent.section_name.as_deref().unwrap_or_default();
    let port = parent.port.map(|port| port.to_string()).unwrap_or_default();
    format!("{}/{}/{namespace}/{}/{section}/{port}", parent.group, parent.kind, parent.name)
}
