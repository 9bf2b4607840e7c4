//! What the log has said about failures that last, so that each is said once, and its end too.

use std::collections::BTreeSet;

/// Failures that last, by what they are about. Beyond `most` of them the log says nothing of new ones: they are the same
/// trouble in many places.
#[derive(Debug)]
pub(super) struct Complaints<K> {
    told: BTreeSet<K>,
    most: usize,
}

impl<K: Ord> Complaints<K> {
    pub(super) const fn new(most: usize) -> Self {
        Self { told: BTreeSet::new(), most }
    }

    /// Something fails; whether that is to be said.
    pub(super) fn begins(&mut self, about: K) -> bool {
        (self.told.contains(&about) || self.told.len() < self.most) && self.told.insert(about)
    }

    /// Something works; whether it was said that it does not.
    pub(super) fn ends(&mut self, about: &K) -> bool {
        self.told.remove(about)
    }

    /// Everything works; whether it was said of something that it does not.
    pub(super) fn end(&mut self) -> bool {
        let had_some = !self.told.is_empty();
        self.told.clear();
        had_some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_and_each_end_is_said_once() {
        let mut complaints = Complaints::new(2);
        assert!(!complaints.ends(&"a"));
        // One that lasts, beside another that works in between.
        assert!(complaints.begins("a"));
        assert!(!complaints.ends(&"b"));
        assert!(!complaints.begins("a"));
        assert!(complaints.ends(&"a") && !complaints.ends(&"a"));
        assert!(complaints.begins("a") && complaints.begins("b"));
        assert!(!complaints.begins("c"), "there is room for two");
        assert!(!complaints.ends(&"c"));
        assert!(complaints.end() && !complaints.end());
    }
}
