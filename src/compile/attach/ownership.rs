//! Hostnames that belong to one namespace: that of the oldest route which asks for them.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::attached::Attached;
use crate::api::conditions::ConditionReason;
use crate::compile::position::{ParentPos, RoutePos};
use crate::compile::report::{About, FieldPath, host};
use crate::compile::rules::OwnRoute;
use crate::model::matching::Hostname;

/// Takes hostnames from routes that are bound to listeners themselves, where a route of another namespace is older. What
/// rules delegate is not touched: an owner may hand down what is its own.
///
/// A route that serves nothing owns its hostnames, too: a mistake in it must not give them away.
pub(super) fn apply(routes: &mut [OwnRoute<'_>], attached: &mut [Attached]) {
    let owners = owners(routes, attached);
    for position in 0..routes.len() {
        let owner_of = |hostname: &Hostname| -> Option<RoutePos> {
            let owner = *owners.get(hostname)?;
            (routes[owner.0].name.namespace != routes[position].name.namespace).then_some(owner)
        };
        let Some(way) = attached[position].ways.first() else { continue };
        let lost: Vec<(Hostname, RoutePos)> =
            way.hostnames.iter().filter_map(|hostname| Some((hostname.clone(), owner_of(hostname)?))).collect();
        if lost.is_empty() {
            continue;
        }
        let kept: Vec<Hostname> =
            way.hostnames.iter().filter(|hostname| owner_of(hostname).is_none()).cloned().collect();
        let found: Vec<(String, String)> =
            lost.iter().map(|(hostname, owner)| said(routes, hostname, *owner)).collect();
        let expected = "a hostname of its own, or a rule of the owner that delegates to this namespace";
        let about = match kept.is_empty() {
            true => About::Parent(ParentPos(0)),
            false => About::Hostname,
        };
        for (path, found) in &found {
            let reason = ConditionReason::HostnameOwnedByOther;
            routes[position].report.add(about, reason, path, found, expected);
        }
        let of_route = &mut attached[position];
        if kept.is_empty() {
            let found: Vec<&str> = found.iter().map(|(_, found)| found.as_str()).take(MOST_SAID).collect();
            let message = format!("found {}, expected {expected}", found.join("; "));
            for parent in Arc::make_mut(&mut of_route.parents).iter_mut().filter(|parent| parent.listener.is_some()) {
                parent.listener = None;
                parent.refused = Some((ConditionReason::HostnameOwnedByOther, message.clone()));
            }
            of_route.ways.clear();
        } else if let Some(way) = of_route.ways.first_mut() {
            way.hostnames = kept.into();
        }
    }
}

/// Hostnames that one message names.
const MOST_SAID: usize = 8;

/// The oldest route of each hostname.
fn owners(routes: &[OwnRoute<'_>], attached: &[Attached]) -> FxHashMap<Hostname, RoutePos> {
    let mut owners: FxHashMap<Hostname, RoutePos> = FxHashMap::default();
    let age = |position: RoutePos| (routes[position.0].object.created, &*routes[position.0].label);
    for (position, of_route) in attached.iter().enumerate() {
        for hostname in of_route.ways.iter().flat_map(|way| way.hostnames.iter()) {
            let owner = owners.entry(hostname.clone()).or_insert(RoutePos(position));
            if age(RoutePos(position)) < age(*owner) {
                *owner = RoutePos(position);
            }
        }
    }
    owners
}

/// The field, and what was found there.
fn said(routes: &[OwnRoute<'_>], hostname: &Hostname, owner: RoutePos) -> (String, String) {
    let owner = &routes[owner.0];
    let (host, namespace) = (host(hostname), &owner.name.namespace);
    let found = format!("{host}, which namespace {namespace} owns by its older {} {}", owner.object.kind, owner.name);
    (FieldPath::SPEC.field("hostnames").to_string(), found)
}
