//! What filters keep beyond a request and a version of the configuration: buckets, semaphores, flights.
//!
//! A state belongs to the list that its filter is written in, not to the rules that share it. It is handed from version to
//! version by its key, as the live numbers of endpoints are, and ends with the last version that has the key.

use std::hash::RandomState;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::Uri;
use rustc_hash::FxHashMap;

use super::buckets::{Buckets, CELLS};
use super::coalesce_state::CoalesceState;
use super::compressors::{COMPRESSOR_MEMORY, CompressionCounts, Compressors};
use super::decisions::Decision;
use super::flights::{FLIGHT_BYTES, FlightRoom};
use super::jwt_state::JwtState;
use super::limit_state::{ConcurrencyState, RateLimitState};
use super::remote_keys::RemoteKeys;
use crate::model::filter::{Filter, JwtKeys, StateKey};
use crate::model::ids::RuleId;
use crate::model::snapshot::Snapshot;

/// The state of one filter, shared by all workers.
#[derive(Debug)]
pub enum FilterState {
    /// Buckets of a RateLimit.
    RateLimit(RateLimitState),
    /// Semaphores of a ConcurrencyLimit.
    Concurrency(ConcurrencyState),
    /// The keys of a JWT.
    Jwt(JwtState),
    /// The compressors of the process, for a Compression.
    Compression(Arc<Compressors>),
    /// The flights of a Coalesce.
    Coalesce(CoalesceState),
    /// What the filter of tests has counted.
    #[cfg(test)]
    Count(std::sync::atomic::AtomicU64),
}

impl FilterState {
    /// What the filter can decide, by name, and how often it has; `None`: it decides nothing that is counted.
    #[must_use]
    pub fn decisions(&self) -> Option<Vec<(&'static str, u64)>> {
        let (decisions, is_possible): (_, fn(Decision) -> bool) = match self {
            Self::RateLimit(state) => {
                (&state.decisions, |decision| !matches!(decision, Decision::Waited | Decision::TimedOut))
            }
            Self::Concurrency(state) => (&state.decisions, |_| true),
            Self::Coalesce(state) => return Some(state.shares()),
            Self::Jwt(_) | Self::Compression(_) => return None,
            #[cfg(test)]
            Self::Count(_) => return None,
        };
        let all = Decision::ALL.iter().zip(decisions.sums()).filter(|(decision, _)| is_possible(**decision));
        Some(all.map(|(decision, count)| (decision.as_str(), count)).collect())
    }

    /// Buckets of the process that were given up before they were full; `None`: the filter has no buckets.
    #[must_use]
    pub fn buckets_given_up(&self) -> Option<u64> {
        match self {
            Self::RateLimit(state) => Some(state.given_up()),
            Self::Concurrency(_) | Self::Compression(_) | Self::Coalesce(_) | Self::Jwt(_) => None,
            #[cfg(test)]
            Self::Count(_) => None,
        }
    }

    /// Whether a filter with its key can go on with it: one that has changed may need another.
    fn fits(&self, filter: &Filter) -> bool {
        match (self, filter) {
            (Self::Jwt(state), Filter::Jwt(jwt)) => state.fits(jwt),
            _ => true,
        }
    }

    /// What the compressors of the process have done; `None`: the filter compresses nothing.
    #[must_use]
    pub fn compressed(&self) -> Option<CompressionCounts> {
        match self {
            Self::Compression(compressors) => Some(compressors.counts()),
            Self::RateLimit(_) | Self::Concurrency(_) | Self::Coalesce(_) | Self::Jwt(_) => None,
            #[cfg(test)]
            Self::Count(_) => None,
        }
    }
}

/// The states of one list of filters, by position; empty where none of them keeps one.
pub type ListStates = Box<[Option<Arc<FilterState>>]>;

/// The states of all filters of one version.
#[derive(Debug, Default)]
pub struct FilterStates {
    /// Of the rules that have some; most have none.
    rules: FxHashMap<RuleId, RuleStates>,
}

#[derive(Debug)]
struct RuleStates {
    of_rule: ListStates,
    /// By the position of the backendRef.
    of_backends: Box<[ListStates]>,
}

impl FilterStates {
    /// Those of a rule's filters, or of the filters of one of its backendRefs, by position.
    #[must_use]
    pub fn of(&self, rule: RuleId, backend_ref: Option<usize>) -> &[Option<Arc<FilterState>>] {
        let states = self.rules.get(&rule).and_then(|states| match backend_ref {
            None => Some(&states.of_rule),
            Some(position) => states.of_backends.get(position),
        });
        states.map_or(&[], |states| states)
    }
}

impl FilterStates {
    /// The keys that filters have fetched, each once, with the shortest time that one of them uses a set.
    ///
    /// Linear in the number of filters that keep something.
    #[must_use]
    pub fn remote_keys<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<(&'a Arc<RemoteKeys>, Duration)> {
        let mut found: Vec<(&Arc<RemoteKeys>, Duration)> = Vec::new();
        for (id, states) in &self.rules {
            let Some(rule) = snapshot.rule(*id) else { continue };
            // No such filter stands in a backendRef.
            for (filter, state) in rule.filters.iter().zip(&*states.of_rule) {
                let (Filter::Jwt(jwt), Some(FilterState::Jwt(state))) = (filter, state.as_deref()) else { continue };
                found.extend(state.remote().filter_map(|(at, keys)| match jwt.providers.get(at)?.keys {
                    JwtKeys::Fetched { cache_duration, .. } => Some((keys, cache_duration)),
                    JwtKeys::Given(_) => None,
                }));
            }
        }
        found.sort_unstable_by_key(|(keys, duration)| (Arc::as_ptr(keys).addr(), *duration));
        found.dedup_by_key(|(keys, _)| Arc::as_ptr(keys).addr());
        found
    }

    /// All states with their keys, each once.
    ///
    /// Linear in the number of filters that keep something.
    #[must_use]
    pub fn all<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<(&'a Arc<StateKey>, &'a Arc<FilterState>)> {
        let mut found = Vec::new();
        for (id, states) in &self.rules {
            let Some(rule) = snapshot.rule(*id) else { continue };
            let of_backends = rule.backend_refs.iter().map(|backend_ref| &backend_ref.filters);
            let lists = std::iter::once(&rule.filters).chain(of_backends);
            let states = std::iter::once(&states.of_rule).chain(&*states.of_backends);
            for (filters, states) in lists.zip(states) {
                let of_list = filters.iter().zip(&**states);
                found.extend(of_list.filter_map(|(filter, state)| Some((filter.state_key()?, state.as_ref()?))));
            }
        }
        found.sort_unstable_by_key(|(_, state)| Arc::as_ptr(state).addr());
        found.dedup_by_key(|(_, state)| Arc::as_ptr(state).addr());
        found
    }
}

/// What all filters of the process may take together.
#[derive(Clone, Copy, Debug)]
pub struct FilterBounds {
    /// Buckets of rate limits with keys, 16 bytes each; at least 1.
    pub buckets: usize,
    /// Bytes of all compressors.
    pub compressor_memory: usize,
    /// Bytes of all answers that requests share, and of what tells these requests apart.
    pub flight_bytes: usize,
}

impl Default for FilterBounds {
    fn default() -> Self {
        Self { buckets: CELLS, compressor_memory: COMPRESSOR_MEMORY, flight_bytes: FLIGHT_BYTES }
    }
}

/// The states of all versions that are still held somewhere.
#[derive(Debug)]
pub struct StateRegistry {
    states: FxHashMap<Arc<StateKey>, Weak<FilterState>>,
    /// The keys of all filters, by where they are fetched.
    remote_keys: FxHashMap<Uri, Weak<RemoteKeys>>,
    /// States of JWT filters that were made so far.
    jwt_states: u64,
    workers: usize,
    bounds: FilterBounds,
    /// The clock of limits counts from here.
    epoch: Instant,
    /// What keys are hashed with.
    secret: RandomState,
    /// The buckets of all rate limits with keys; made with the first rate limit.
    buckets: Option<Arc<Buckets>>,
    /// What all compressors share.
    compressors: Arc<Compressors>,
    /// The memory of all flights.
    flight_room: Arc<FlightRoom>,
}

impl StateRegistry {
    /// For so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self::bounded(workers, FilterBounds::default())
    }

    /// For so many workers, with what filters may take.
    #[must_use]
    pub fn bounded(workers: usize, bounds: FilterBounds) -> Self {
        let (states, remote_keys, secret) = (FxHashMap::default(), FxHashMap::default(), RandomState::new());
        let compressors = Arc::new(Compressors::new(workers, bounds.compressor_memory));
        Self {
            states,
            remote_keys,
            jwt_states: 0,
            workers,
            bounds,
            epoch: Instant::now(),
            secret,
            buckets: None,
            compressors,
            flight_room: Arc::new(FlightRoom::new(bounds.flight_bytes)),
        }
    }

    /// The states of a version: those that were there before go on.
    ///
    /// Linear in the number of rules.
    pub fn build(&mut self, snapshot: &Snapshot) -> FilterStates {
        self.states.retain(|_, state| state.strong_count() > 0);
        self.remote_keys.retain(|_, keys| keys.strong_count() > 0);
        let mut rules = FxHashMap::default();
        for (id, rule) in (0..).map(RuleId).zip(snapshot.rules.iter()) {
            let of_rule = self.of_list(&rule.filters);
            let of_backends: Box<[_]> =
                rule.backend_refs.iter().map(|backend_ref| self.of_list(&backend_ref.filters)).collect();
            if !of_rule.is_empty() || of_backends.iter().any(|states| !states.is_empty()) {
                rules.insert(id, RuleStates { of_rule, of_backends });
            }
        }
        FilterStates { rules }
    }

    pub(super) fn of_list(&mut self, filters: &[Filter]) -> ListStates {
        if filters.iter().all(|filter| filter.state_key().is_none()) {
            return Box::default();
        }
        filters.iter().map(|filter| self.of_filter(filter)).collect()
    }

    fn of_filter(&mut self, filter: &Filter) -> Option<Arc<FilterState>> {
        let key = filter.state_key()?;
        if let Some(state) = self.states.get(key).and_then(Weak::upgrade).filter(|state| state.fits(filter)) {
            return Some(state);
        }
        let state = Arc::new(self.new_state(filter)?);
        self.states.insert(Arc::clone(key), Arc::downgrade(&state));
        Some(state)
    }

    /// A new state for a filter; `None`: filters of its type keep none.
    fn new_state(&mut self, filter: &Filter) -> Option<FilterState> {
        match filter {
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Redirect(_)
            | Filter::Rewrite(_)
            | Filter::Direct(_)
            | Filter::Cors(_)
            | Filter::BodyLimit(_)
            | Filter::IpAccess(_)
            | Filter::BasicAuth(_)
            | Filter::ApiKey(_)
            | Filter::Mirror(_)
            | Filter::ExternalAuth(_) => None,
            Filter::Jwt(jwt) => {
                let remote = &mut self.remote_keys;
                let keys_of = |url: &Uri| match remote.get(url).and_then(Weak::upgrade) {
                    Some(keys) => keys,
                    None => {
                        let keys = Arc::new(RemoteKeys::new(url.clone()));
                        remote.insert(url.clone(), Arc::downgrade(&keys));
                        keys
                    }
                };
                self.jwt_states += 1;
                Some(FilterState::Jwt(JwtState::new(self.jwt_states, jwt, keys_of)))
            }
            Filter::RateLimit(limit) => {
                let buckets = self.buckets.get_or_insert_with(|| Arc::new(Buckets::new(self.bounds.buckets)));
                let state =
                    RateLimitState::new((&limit.state, &self.secret), Arc::clone(buckets), self.epoch, self.workers);
                Some(FilterState::RateLimit(state))
            }
            Filter::ConcurrencyLimit(limit) => {
                Some(FilterState::Concurrency(ConcurrencyState::new((&limit.state, &self.secret), self.workers)))
            }
            Filter::Coalesce(_) => {
                let room = Arc::clone(&self.flight_room);
                Some(FilterState::Coalesce(CoalesceState::new(&self.secret, room, self.workers)))
            }
            Filter::Compression(_) => Some(FilterState::Compression(Arc::clone(&self.compressors))),
            #[cfg(test)]
            Filter::Wait(_) => Some(FilterState::Count(std::sync::atomic::AtomicU64::new(0))),
        }
    }
}
