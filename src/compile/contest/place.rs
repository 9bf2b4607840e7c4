//! Where a candidate comes from.

use crate::compile::attach::{Attached, Listeners};
use crate::compile::position::{MatchOf, WayPos};

/// Where a candidate comes from: its match, and the way that leads to the route.
#[derive(Clone)]
pub(crate) struct CandidateOrigin {
    pub(crate) at: MatchOf,
    pub(crate) way: WayPos,
    /// Where the way begins.
    pub(crate) listeners: Listeners,
    /// The rule hands its requests down.
    pub(crate) delegates: bool,
}

impl CandidateOrigin {
    /// Whether a loss to the other costs nothing: it is the same rule by another way, or one of the two is a delegating
    /// rule above the other.
    pub(super) fn is_family(&self, other: &Self, attached: &[Attached]) -> bool {
        self.at.of == other.at.of || self.is_below(other, attached) || other.is_below(self, attached)
    }

    fn is_below(&self, other: &Self, attached: &[Attached]) -> bool {
        let delegation = attached[self.at.of.route.0].ways[self.way.0].delegation.as_ref();
        delegation.is_some_and(|delegation| delegation.rules.contains(&other.at.of))
    }
}
