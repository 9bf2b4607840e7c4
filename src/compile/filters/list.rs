//! One list of filters with its place in the object.

use std::sync::Arc;

use crate::api::filter as api;
use crate::api::gateway_route::GatewayRouteSpec;
use crate::compile::matches::Predicate;
use crate::compile::report::FieldPath;
use crate::kinds::Kind as _;
use crate::kinds::gateway_route::Route;
use crate::model::filter::{FilterList, StateKey};
use crate::model::ids::ObjectName;

/// One list of filters with its place in the object.
#[derive(Clone)]
pub(in crate::compile) struct List<'a> {
    /// The route.
    pub(in crate::compile) name: &'a ObjectName,
    /// The route.
    pub(in crate::compile) spec: &'a GatewayRouteSpec,
    /// Which of its lists it is.
    pub(in crate::compile) place: FilterList,
    /// The filters, in their order.
    pub(in crate::compile) filters: &'a [api::Filter],
    /// What they stand in, such as `spec.rules[0]`.
    pub(in crate::compile) at: FieldPath<'a>,
    /// The matches of the rule that they belong to; `None` for those of a route, which has none of its own.
    pub(in crate::compile) predicates: Option<&'a [Predicate]>,
}

impl List<'_> {
    /// Whether filters of delegating parents stand outside of it, wherever it serves.
    pub(super) fn may_inherit(&self) -> bool {
        may_inherit(self.spec)
    }

    /// Names the state of a filter of this list, by its position among those of its type.
    pub(super) fn state_key(&self, filter: &'static str, position: usize) -> Arc<StateKey> {
        let position = u16::try_from(position).unwrap_or(u16::MAX);
        Arc::new(StateKey { route: self.name.clone(), place: self.place.clone(), filter, position })
    }
}

/// Whether filters of delegating parents stand outside of all filters of a route, wherever it serves.
pub(in crate::compile) fn may_inherit(spec: &GatewayRouteSpec) -> bool {
    !spec.parent_refs.is_empty() && spec.parent_refs.iter().all(|parent| parent.kind == Route::NAME)
}
