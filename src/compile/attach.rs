//! Attachment: which listeners a route is bound to, by itself and by delegating rules.
//!
//! Bottom-up, as routes name their parents: a child names a parent rule, and that rule's `delegate` says which namespaces
//! may. A child comes out with one [`Way`] for every way from listeners to it. Works level by level from the listeners
//! down, so a long chain or a circle of parents costs no more than the levels that are allowed.

mod attached;
mod circles;
mod delegation;
mod listeners;
mod ownership;

use std::sync::Arc;

pub(super) use self::attached::{Attached, Delegation, Parent, Way};
use self::attached::{Refusal, refuse};
use self::delegation::{Reference, delegate};
pub(super) use self::listeners::Listeners;
use super::inputs::{Inputs, StaticListener};
use super::position::{ParentPos, RoutePos};
use super::report::{About, FieldPath};
use super::rules::OwnRoute;
use crate::api::common::GATEWAY_GROUP;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{GROUP, ParentRef};
use crate::kinds::Kind;
use crate::kinds::gateway_route::Route;
use crate::kinds::service::Service;
use crate::model::ids::{ListenerId, ObjectName};

/// Attaches all routes; the result has one entry per route. Findings go to the routes' reports.
pub(super) fn attach(inputs: &Inputs, routes: &mut [OwnRoute<'_>]) -> Vec<Attached> {
    let listeners: Arc<[Parent]> = static_listeners(inputs).into();
    let mut first_parent = 0;
    let mut attached: Vec<Attached> = Vec::with_capacity(routes.len());
    let mut references = Vec::new();
    let mut last = Listeners::default();
    for (child, route) in routes.iter_mut().enumerate() {
        let parent_refs = &route.object.spec.parent_refs;
        let mut parents = Vec::with_capacity(parent_refs.len());
        for (index, parent_ref) in parent_refs.iter().enumerate() {
            let key: Arc<str> = key(route, parent_ref).into();
            if parents.iter().any(|parent: &Parent| parent.key == key) {
                let path = FieldPath::SPEC.item("parentRefs", index);
                let found = "it names the same parent as an entry before, in other words";
                route.report.warn(path, "Duplicate", found, "the first one counts");
                continue;
            }
            let verdict = match (parent_ref.group.as_str(), parent_ref.kind.as_str()) {
                (GROUP, "Listener") if is_of_application(inputs, parent_ref) => Ok(None),
                (GROUP, "Listener") => to_listener(inputs, parent_ref, &route.name.namespace).map(Some),
                (GROUP, Route::NAME) => {
                    references.push(Reference { child: RoutePos(child), parent: ParentPos(parents.len()), index });
                    Ok(None)
                }
                ("", Service::NAME) => to_service(inputs, parent_ref, &route.name.namespace).map(|()| None),
                (GATEWAY_GROUP, "Gateway" | "ListenerSet") => Err((
                    ConditionReason::UnsupportedValue,
                    format!("kind {}, which is not served yet", parent_ref.kind),
                    format!("Listener or {} of group {GROUP}, or a Service", Route::NAME),
                )),
                // Another controller may own it: not ours to judge.
                _ => continue,
            };
            let listener = verdict.as_ref().ok().copied().flatten();
            let is_of_sidecars =
                parent_ref.kind == Service::NAME || (parent_ref.kind == "Listener" && verdict == Ok(None));
            let parent_ref = Arc::new(parent_ref.clone());
            let mut parent = Parent { key, parent_ref, listener, is_of_sidecars, refused: None };
            if let Err(refusal) = verdict {
                refuse(route, &mut parent, ParentPos(parents.len()), index, refusal);
            }
            parents.push(parent);
        }
        let parents: Arc<[Parent]> = match parent_refs.is_empty() {
            true => to_all_listeners(inputs, &listeners, route),
            false => parents.into(),
        };
        let bound: Listeners = parents.iter().filter_map(|parent| parent.listener).collect();
        // Most routes are bound to the same listeners and share one set.
        if bound != last {
            last = bound;
        }
        let bound = last.clone();
        let mut ways = Vec::new();
        if !bound.is_empty() {
            ways = vec![Way { listeners: bound, hostnames: Arc::clone(&route.hostnames), delegation: None }];
        }
        let count = parents.len();
        attached.push(Attached { parents, first_parent, ways });
        first_parent += count;
    }
    if inputs.hostnames_have_owners {
        ownership::apply(routes, &mut attached);
    }
    if !references.is_empty() {
        delegate(inputs, routes, &mut attached, references);
    }
    attached
}

/// The parents of routes that name none, by key.
pub(super) fn static_listeners(inputs: &Inputs) -> Vec<Parent> {
    let listeners = (0..).map(ListenerId).zip(&inputs.listeners);
    let mut listeners: Vec<Parent> = listeners.map(|(id, one)| static_listener(id, one)).collect();
    listeners.sort_by(|a, b| a.key.cmp(&b.key));
    listeners
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
    Parent { key, parent_ref: Arc::new(parent_ref), listener: Some(id), is_of_sidecars: false, refused: None }
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

fn to_all_listeners(inputs: &Inputs, listeners: &Arc<[Parent]>, route: &mut OwnRoute<'_>) -> Arc<[Parent]> {
    let namespace = &route.name.namespace;
    let is_admitted = |parent: &Parent| {
        let listener = parent.listener.and_then(|id| inputs.listeners.get(id.index()));
        listener.is_some_and(|listener| listener.admits(namespace))
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

/// Whether a parent is the listener before an application, which sidecars of the route's namespace may have.
fn is_of_application(inputs: &Inputs, parent: &ParentRef) -> bool {
    parent.name.starts_with("in-")
        && parent.namespace.is_none()
        && parent.section_name.is_none()
        && parent.port.is_none()
        && !inputs.listeners.iter().any(|listener| *listener.name == *parent.name)
}

/// Whether sidecars bind a route for calls to a Service: of the Service's namespace for all callers, of another one for those
/// of that namespace.
fn to_service(inputs: &Inputs, parent: &ParentRef, namespace: &str) -> Result<(), Refusal> {
    if parent.section_name.is_some() {
        let found = format!("Service {} with sectionName", parent.name);
        let expected = "the name of a Service, and the number of its port or none".to_owned();
        return Err((ConditionReason::UnsupportedValue, found, expected));
    }
    let name = ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &*parent.name);
    let Some(service) = inputs.objects.services.get(&name) else {
        let expected = "a Service that is there".to_owned();
        return Err((ConditionReason::NoMatchingParent, format!("no Service {name}"), expected));
    };
    match parent.port {
        Some(port) if !service.object.ports.iter().any(|known| known.port == i32::from(port)) => {
            let expected = "the number of one of its ports".to_owned();
            Err((ConditionReason::NoMatchingParent, format!("no port {port} of Service {name}"), expected))
        }
        Some(_) | None => Ok(()),
    }
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
    if !listener.admits(namespace) {
        let found = format!("namespace {namespace}");
        let expected = format!("a namespace that listener {} admits", listener.name);
        return Err((ConditionReason::NotAllowedByListeners, found, expected));
    }
    Ok(id)
}
