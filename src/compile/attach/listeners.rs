//! Sets of static listeners.

use std::sync::Arc;

use crate::model::ids::ListenerId;

/// A set of static listeners, ascending, each once. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Listeners(Arc<[ListenerId]>);

impl Listeners {
    pub(crate) fn contains(&self, id: ListenerId) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Whether all of another set are in this one.
    pub(crate) fn contains_all(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || other.0.iter().all(|id| self.contains(*id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<ListenerId> for Listeners {
    fn from_iter<I: IntoIterator<Item = ListenerId>>(ids: I) -> Self {
        let mut ids: Vec<ListenerId> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_room_for_any_listener() {
        let set = |ids: &[u32]| ids.iter().copied().map(ListenerId).collect::<Listeners>();
        let few = set(&[64, 0, 1000, 64]);
        assert!([0, 64, 1000].into_iter().all(|id| few.contains(ListenerId(id))));
        assert!(!few.contains(ListenerId(1)) && !few.is_empty() && set(&[]).is_empty());
        assert_eq!(few, set(&[0, 64, 1000]), "order and repetition do not count");
        assert!(few.contains_all(&set(&[1000])) && few.contains_all(&set(&[])) && !few.contains_all(&set(&[0, 1])));
    }
}
