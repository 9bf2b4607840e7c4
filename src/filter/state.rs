//! What filters keep beyond a request and a version of the configuration: buckets, semaphores, flights.
//!
//! A state belongs to the list that its filter is written in, not to the rules that share it. It is handed from version to
//! version by its key, as the live numbers of endpoints are, and ends with the last version that has the key.

use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::model::filter::StateKey;

/// The state of one filter, shared by all workers.
#[derive(Debug)]
pub enum FilterState {
    /// What the filter of tests has counted.
    #[cfg(test)]
    Count(std::sync::atomic::AtomicU64),
}

impl FilterState {
    /// A new state for a filter of the key's type; `None`: filters of that type keep none.
    fn of(key: &StateKey) -> Option<Self> {
        match key.filter {
            #[cfg(test)]
            "Wait" => Some(Self::Count(std::sync::atomic::AtomicU64::new(0))),
            _ => None,
        }
    }
}

/// The states of all versions that are still held somewhere.
#[derive(Debug, Default)]
pub struct StateRegistry {
    states: FxHashMap<StateKey, Weak<FilterState>>,
}

impl StateRegistry {
    /// The states of a version, in the order of its keys: those that were there before go on.
    pub fn build(&mut self, keys: &[StateKey]) -> Box<[Option<Arc<FilterState>>]> {
        self.states.retain(|_, state| state.strong_count() > 0);
        keys.iter()
            .map(|key| {
                if let Some(state) = self.states.get(key).and_then(Weak::upgrade) {
                    return Some(state);
                }
                let state = Arc::new(FilterState::of(key)?);
                self.states.insert(key.clone(), Arc::downgrade(&state));
                Some(state)
            })
            .collect()
    }
}
