//! Positions in the lists that a compilation works on: each kind of list has its own type, so that none is taken for
//! another.

/// A route, among those of the class in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoutePos(pub(crate) usize);

/// A rule, in the list of its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RulePos(pub(crate) usize);

/// A match, in the list of its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MatchPos(pub(crate) usize);

/// A parent, in the status of its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ParentPos(pub(crate) usize);

/// One of the ways from listeners to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WayPos(pub(crate) usize);

/// A rule of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RuleOf {
    pub(crate) route: RoutePos,
    pub(crate) rule: RulePos,
}

/// A match of a rule of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MatchOf {
    pub(crate) of: RuleOf,
    pub(crate) one: MatchPos,
}
