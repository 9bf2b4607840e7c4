//! Sets of static listeners.

use crate::model::ids::ListenerId;

/// A set of static listeners; the settings allow 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Listeners(u64);

impl Listeners {
    pub(crate) fn insert(&mut self, id: ListenerId) {
        self.0 |= 1u64.checked_shl(id.0).unwrap_or(0);
    }

    pub(crate) fn contains(self, id: ListenerId) -> bool {
        self.0 & 1u64.checked_shl(id.0).unwrap_or(0) != 0
    }

    /// Whether all of another set are in this one.
    pub(crate) fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}
