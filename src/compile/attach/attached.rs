//! What attachment finds out about a route: its parents, and the ways from listeners to it.

use std::sync::Arc;

use super::listeners::Listeners;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::ParentRef;
use crate::compile::matches::Predicate;
use crate::compile::position::{ParentPos, RoutePos, RuleOf};
use crate::compile::report::{About, FieldPath};
use crate::compile::rules::OwnRoute;
use crate::model::ids::ListenerId;
use crate::model::matching::Hostname;

/// One way from listeners to a route.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) listeners: Listeners,
    /// Not empty, except where all hostnames of a route are wrong.
    pub(crate) hostnames: Arc<[Hostname]>,
    /// `None` for a route that is bound to listeners itself.
    pub(crate) delegation: Option<Arc<Delegation>>,
}

/// What delegating rules hand down.
#[derive(Clone, Debug)]
pub(crate) struct Delegation {
    /// The child's parent that it came by.
    pub(crate) parent: ParentPos,
    /// Paths of the child lie under this prefix, held without a trailing slash.
    pub(crate) prefix: Arc<str>,
    /// What the delegating rules ask of a request beside the path.
    pub(crate) outer: Predicate,
    /// The least priority of the child's rules.
    pub(crate) priority: i32,
    /// The delegating rules, innermost first; not empty.
    pub(crate) rules: Vec<RuleOf>,
}

impl Delegation {
    /// The route that is bound to listeners itself.
    pub(crate) fn root(&self) -> Option<RoutePos> {
        self.rules.last().map(|rule| rule.route)
    }
}

/// One parent of a route that is ours to judge.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    /// `group/kind/namespace/name/section/port`.
    pub(crate) key: Arc<str>,
    pub(crate) parent_ref: Arc<ParentRef>,
    /// The listener, when the parent is one that admits the route.
    pub(crate) listener: Option<ListenerId>,
    /// The listeners are those of sidecars, each of which binds the route by itself.
    pub(crate) is_of_sidecars: bool,
    /// Why it does not take the route.
    pub(crate) refused: Option<(ConditionReason, String)>,
}

/// What attachment found out about one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attached {
    /// The same for all routes that name none and that all listeners admit.
    pub(crate) parents: Arc<[Parent]>,
    /// The number of parents of all routes before.
    pub(crate) first_parent: usize,
    pub(crate) ways: Vec<Way>,
}

/// Why a parent does not take a route: reason, found and expected.
pub(super) type Refusal = (ConditionReason, String, String);

/// Notes that a parent, which `spec.parentRefs` has at `index`, does not take a route.
pub(super) fn refuse(
    route: &mut OwnRoute<'_>,
    parent: &mut Parent,
    position: ParentPos,
    index: usize,
    refusal: Refusal,
) {
    let (reason, found, expected) = refusal;
    parent.refused = Some((reason, format!("found {found}, expected {expected}")));
    route.report.add(About::Parent(position), reason, FieldPath::SPEC.item("parentRefs", index), found, expected);
}

impl Way {
    /// Number of routes from the listener down, this one included.
    pub(super) fn depth(&self) -> usize {
        1 + self.delegation.as_ref().map_or(0, |delegation| delegation.rules.len())
    }
}
