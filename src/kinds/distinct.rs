//! Values that many objects have in common.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use rustc_hash::FxHashSet;

/// Values that many objects have, each held once.
#[derive(Debug)]
pub struct Distinct<T: ?Sized> {
    values: FxHashSet<Arc<T>>,
    /// How many there were when those that nothing uses were last dropped.
    kept: usize,
}

impl<T: ?Sized> Default for Distinct<T> {
    fn default() -> Self {
        Self { values: FxHashSet::default(), kept: 0 }
    }
}

impl<T: Eq + Hash + ?Sized> Distinct<T> {
    /// The value, shared with everyone who has asked for an equal one.
    pub fn get<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(known) = self.values.get(value.borrow()) {
            return Arc::clone(known);
        }
        let new: Arc<T> = value.into();
        self.values.insert(Arc::clone(&new));
        new
    }

    /// Drops what nothing uses any more, once it may be as much as what is used.
    pub fn prune(&mut self) {
        if self.values.len() > 2 * self.kept + 64 {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.values.shrink_to_fit();
            self.kept = self.values.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_uses_goes() {
        let mut texts: Distinct<str> = Distinct::default();
        let used: Vec<Arc<str>> = (0..10).map(|number| texts.get(&*number.to_string())).collect();
        for number in 10..1000 {
            let text = texts.get(&*number.to_string());
            assert_eq!(*text, *number.to_string());
            texts.prune();
        }
        assert!(texts.values.len() <= 2 * used.len() + 64, "{}", texts.values.len());
        assert!(used.iter().all(|text| Arc::ptr_eq(text, &texts.get(&**text))));
    }
}
