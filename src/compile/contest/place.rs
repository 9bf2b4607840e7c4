//! Where a candidate comes from.

use crate::compile::attach::{Attached, Listeners};

/// Where a candidate comes from: positions of its route, of the rule there, of the match there, and of the way that
/// leads to the route.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) route: usize,
    pub(crate) rule: usize,
    pub(crate) one: usize,
    pub(crate) way: usize,
    /// Where the way begins.
    pub(crate) listeners: Listeners,
    /// The rule hands its requests down.
    pub(crate) delegates: bool,
}

impl Place {
    /// Whether a loss to the other costs nothing: it is the same rule by another way, or one of the two is a delegating
    /// rule above the other.
    pub(super) fn is_family(&self, other: &Self, attached: &[Attached]) -> bool {
        (self.route, self.rule) == (other.route, other.rule)
            || self.is_below(other, attached)
            || other.is_below(self, attached)
    }

    fn is_below(&self, other: &Self, attached: &[Attached]) -> bool {
        let delegation = attached[self.route].ways[self.way].delegation.as_ref();
        delegation.is_some_and(|delegation| delegation.rules.contains(&(other.route, other.rule)))
    }
}
