//! The balancers of a snapshot: what the control half prepares, and what a worker keeps beside it.
//!
//! Prepared and shared: per backend the list of endpoint states, per rule the references of the tier in use, per
//! consistent hash the ring. A worker makes its cursors and current weights with the first pick of a rule.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::model::backend::{Backend, BackendKey};
use crate::model::ids::{EndpointKey, RuleId};
use crate::model::policy::{Algorithm, ConsistentHash, OnMissingKey};
use crate::model::route::{Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

use super::consistent_hash::{Member, Ring};
use super::smooth_weighted::Split;
use super::{Balancer, Choice, EndpointState, Pick, PickRequest, Picked};

/// The endpoint states of one backend.
#[derive(Debug)]
pub struct BackendEndpoints {
    /// The backend.
    pub key: BackendKey,
    /// Its usable endpoints, sorted by key, without duplicates; may be empty.
    pub endpoints: Box<[Arc<EndpointState>]>,
}

/// One reference of a rule's tier in use.
#[derive(Debug)]
struct Target {
    /// Index in the rule's `backend_refs`.
    backend_ref: u32,
    weight: u32,
    /// `None`: the reference cannot be resolved.
    backend: Option<Arc<BackendEndpoints>>,
}

impl Target {
    fn same(&self, other: &Target) -> bool {
        self.backend_ref == other.backend_ref
            && self.weight == other.weight
            && match (&self.backend, &other.backend) {
                (Some(one), Some(two)) => Arc::ptr_eq(one, two),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }

    fn key(&self) -> Option<&BackendKey> {
        self.backend.as_ref().map(|backend| &backend.key)
    }
}

/// What a rule's picks go by; the same `Arc` in consecutive snapshots when nothing of it changed, and for rules that follow
/// each other and go by the same.
#[derive(Debug)]
pub struct RuleTargets {
    algorithm: Algorithm,
    /// The references of the lowest tier that has an endpoint, or of the lowest tier; empty for a rule without any.
    targets: Box<[Target]>,
    /// For a consistent hash over a tier that has an endpoint.
    ring: Option<Arc<Ring>>,
}

/// The balancers of one snapshot.
#[derive(Debug, Default)]
pub struct Balancers {
    backends: Vec<Arc<BackendEndpoints>>,
    rules: Vec<Arc<RuleTargets>>,
}

/// What the balancers of the next snapshot are built from beside that snapshot.
#[derive(Clone, Copy)]
pub struct Previous<'a> {
    /// The snapshot before.
    pub snapshot: &'a Snapshot,
    /// Its balancers.
    pub balancers: &'a Balancers,
    /// Finds the rule of the same name in it.
    pub rule: &'a dyn Fn(RuleId) -> Option<RuleId>,
}

/// The states of all endpoints that are in use anywhere, by key; only the control half touches it.
#[derive(Debug, Default)]
pub struct EndpointRegistry {
    states: FxHashMap<EndpointKey, Weak<EndpointState>>,
}

/// What a ring was made from: table size, and of each target the backend's address, weight and reference.
type RingKey = (Option<u32>, Vec<(usize, u32, u32)>);

impl EndpointRegistry {
    /// Builds the balancers of a snapshot; what did not change is shared with the previous ones.
    pub fn build(&mut self, snapshot: &Snapshot, previous: Option<Previous<'_>>) -> Balancers {
        let backends = self.backends(snapshot, previous);
        self.prune(backends.iter().map(|backend| backend.endpoints.len()).sum());
        let mut rings = FxHashMap::default();
        let mut last: Option<Arc<RuleTargets>> = None;
        let rules = (0..)
            .zip(&snapshot.rules)
            .map(|(index, rule)| {
                let targets = targets(rule, &backends);
                let before = previous
                    .and_then(|previous| (previous.rule)(RuleId(index)).map(|rule| (previous, rule)))
                    .and_then(|(previous, rule)| previous.balancers.rule(rule));
                if let Some(before) = before.filter(|before| before.is_for(rule, &targets)) {
                    last = Some(Arc::clone(before));
                    return Arc::clone(before);
                }
                // Rules of one route mostly lead to the same place.
                if let Some(last) = last.as_ref().filter(|last| last.is_for(rule, &targets)) {
                    return Arc::clone(last);
                }
                let ring = match &rule.algorithm {
                    Algorithm::ConsistentHash(hash) => ring(hash, &targets, &mut rings),
                    Algorithm::Random
                    | Algorithm::RoundRobin
                    | Algorithm::SmoothWeightedRoundRobin
                    | Algorithm::LeastRequest
                    | Algorithm::PeakEwma => None,
                };
                let new = RuleTargets { algorithm: rule.algorithm.clone(), targets, ring };
                Arc::clone(last.insert(Arc::new(new)))
            })
            .collect();
        Balancers { backends, rules }
    }

    /// The endpoint states of the snapshot's backends, in its order.
    fn backends(&mut self, snapshot: &Snapshot, previous: Option<Previous<'_>>) -> Vec<Arc<BackendEndpoints>> {
        // Both lists are sorted by key.
        let mut old = previous
            .into_iter()
            .flat_map(|previous| previous.snapshot.backends.iter().zip(&previous.balancers.backends))
            .peekable();
        let missing = snapshot.backends.iter().map(|backend| backend.endpoints.len()).sum::<usize>();
        self.states.reserve(missing.saturating_sub(self.states.len()));
        snapshot
            .backends
            .iter()
            .map(|backend| {
                while old.next_if(|(before, _)| before.key < backend.key).is_some() {}
                match old.next_if(|(before, _)| before.key == backend.key) {
                    Some((before, kept)) if before.endpoints == backend.endpoints => Arc::clone(kept),
                    Some(_) | None => self.backend(backend),
                }
            })
            .collect()
    }

    fn backend(&mut self, backend: &Backend) -> Arc<BackendEndpoints> {
        let endpoints = backend
            .endpoints
            .iter()
            .map(|endpoint| {
                let fresh = || Arc::new(EndpointState::new(endpoint.key.clone(), endpoint.fallback));
                match self.states.entry(endpoint.key.clone()) {
                    Entry::Occupied(mut known) => {
                        let state = known.get().upgrade().unwrap_or_else(fresh);
                        if state.fallback() != endpoint.fallback {
                            state.set_fallback(endpoint.fallback);
                        }
                        known.insert(Arc::downgrade(&state));
                        state
                    }
                    Entry::Vacant(vacant) => {
                        let state = fresh();
                        vacant.insert(Arc::downgrade(&state));
                        state
                    }
                }
            })
            .collect();
        Arc::new(BackendEndpoints { key: backend.key.clone(), endpoints })
    }

    /// Forgets states that nobody holds any more, once they may be as many as those in use.
    fn prune(&mut self, in_use: usize) {
        // A dead entry keeps its memory, so they are bounded; going through all of them each time would be waste.
        if self.states.len() > 2 * in_use + 64 {
            self.states.retain(|_, state| state.strong_count() > 0);
        }
    }

    /// Number of states known, dead ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Tells whether no state is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}

/// The references of the tier in use.
fn targets(rule: &Rule, backends: &[Arc<BackendEndpoints>]) -> Box<[Target]> {
    let backend = |reference: &WeightedBackend| reference.backend.and_then(|id| backends.get(id.index()));
    let usable = |reference: &&WeightedBackend| backend(reference).is_some_and(|backend| !backend.endpoints.is_empty());
    let tier = rule.backend_refs.iter().filter(usable).map(|reference| reference.tier).min();
    let tier = tier.or_else(|| rule.backend_refs.iter().map(|reference| reference.tier).min());
    (0..)
        .zip(&rule.backend_refs)
        .filter(|(_, reference)| Some(reference.tier) == tier)
        .map(|(index, reference)| Target {
            backend_ref: index,
            weight: reference.weight,
            backend: backend(reference).cloned(),
        })
        .collect()
}

/// The ring over a tier; `None` when it has no endpoint. Rules with the same targets share one.
fn ring(hash: &ConsistentHash, targets: &[Target], rings: &mut FxHashMap<RingKey, Arc<Ring>>) -> Option<Arc<Ring>> {
    let address = |target: &Target| target.backend.as_ref().map_or(0, |backend| Arc::as_ptr(backend).addr());
    let made_from = targets.iter().map(|target| (address(target), target.weight, target.backend_ref)).collect();
    match rings.entry((hash.table_size, made_from)) {
        Entry::Occupied(known) => Some(Arc::clone(known.get())),
        Entry::Vacant(vacant) => {
            let members: Vec<Member> = targets.iter().flat_map(members).collect();
            members.iter().any(|member| member.endpoint.is_some()).then(|| {
                let ring = Arc::new(Ring::build(&members, hash.table_size));
                Arc::clone(vacant.insert(ring))
            })
        }
    }
}

/// What a reference puts on the ring: its endpoints; itself when it cannot be resolved; nothing when it has none.
fn members(target: &Target) -> Vec<Member> {
    let member = |endpoint: Option<Arc<EndpointState>>, among| Member {
        endpoint,
        backend_ref: target.backend_ref as usize,
        weight: target.weight,
        among,
    };
    match &target.backend {
        Some(backend) => {
            let among = backend.endpoints.len();
            backend.endpoints.iter().map(|endpoint| member(Some(Arc::clone(endpoint)), among)).collect()
        }
        None => vec![member(None, 1)],
    }
}

impl Balancers {
    /// The targets of a rule of the snapshot that this was built for.
    #[must_use]
    pub fn rule(&self, rule: RuleId) -> Option<&Arc<RuleTargets>> {
        self.rules.get(rule.index())
    }

    /// Number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Tells whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The endpoint states of the snapshot's backends, in its order.
    #[must_use]
    pub fn backends(&self) -> &[Arc<BackendEndpoints>] {
        &self.backends
    }
}

impl RuleTargets {
    fn is_for(&self, rule: &Rule, targets: &[Target]) -> bool {
        self.algorithm == rule.algorithm
            && self.targets.len() == targets.len()
            && self.targets.iter().zip(targets).all(|(one, other)| one.same(other))
    }
}

/// One rule's balancers on one worker: the split between backends and a balancer per backend, with their cursors.
#[derive(Debug)]
pub struct RuleState {
    rule: Arc<RuleTargets>,
    /// Only when there is something to split.
    split: Option<Split>,
    /// In the order of the targets; `None` where the reference cannot be resolved.
    balancers: Box<[Option<Balancer>]>,
}

impl RuleState {
    /// Makes the state of a rule that this worker has not picked for.
    #[must_use]
    pub fn new(rule: Arc<RuleTargets>, start: u32) -> Self {
        let balancers = rule
            .targets
            .iter()
            .map(|target| {
                target.backend.as_ref().map(|backend| Balancer::new(&rule.algorithm, Arc::clone(backend), start))
            })
            .collect();
        let split =
            (rule.targets.len() > 1).then(|| Split::new(rule.targets.iter().map(|target| target.weight), start));
        Self { rule, split, balancers }
    }

    /// Makes the state for the next snapshot: cursors and current weights of backends and endpoints that stay go on.
    #[must_use]
    pub fn update(&self, rule: Arc<RuleTargets>, start: u32) -> Self {
        let mut taken = vec![false; self.rule.targets.len()];
        let from: Vec<Option<usize>> = rule
            .targets
            .iter()
            .map(|target| {
                // A backend may stand in several references: each old one is taken once, in order.
                let old = self
                    .rule
                    .targets
                    .iter()
                    .enumerate()
                    .position(|(index, old)| !taken[index] && old.key() == target.key());
                if let Some(index) = old {
                    taken[index] = true;
                }
                old
            })
            .collect();
        let balancers = rule
            .targets
            .iter()
            .zip(&from)
            .map(|(target, from)| {
                let backend = target.backend.as_ref()?;
                let old = from.and_then(|from| self.balancers.get(from)?.as_ref());
                Some(match old {
                    Some(old) if self.rule.algorithm == rule.algorithm => old.update(Arc::clone(backend)),
                    Some(_) | None => Balancer::new(&rule.algorithm, Arc::clone(backend), start),
                })
            })
            .collect();
        let split = (rule.targets.len() > 1).then(|| {
            let split = Split::new(rule.targets.iter().map(|target| target.weight), start);
            if let Some(old) = &self.split {
                split.carry(old, from.iter().copied());
            }
            split
        });
        Self { rule, split, balancers }
    }

    /// The targets that this state is for.
    #[must_use]
    pub fn targets(&self) -> &Arc<RuleTargets> {
        &self.rule
    }

    /// Chooses an endpoint; `refs` are the rule's references. Allocates nothing and takes no lock.
    pub fn pick(
        &self,
        refs: &[WeightedBackend],
        request: &PickRequest<'_>,
        now: std::time::Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let choice = Choice { now, avoid: request.avoid };
        if let Algorithm::ConsistentHash(hash) = &self.rule.algorithm {
            match (request.hash, hash.on_missing, &self.rule.ring) {
                (Some(key), _, Some(ring)) => {
                    return match pick_from_ring(ring, key, hash.bounded_load_percent, &choice) {
                        Some((backend_ref, Some(endpoint))) => picked(refs, backend_ref, endpoint),
                        Some((_, None)) => Pick::NoBackend,
                        None => Pick::NoEndpoints,
                    };
                }
                (None, OnMissingKey::Reject, _) => return Pick::MissingKey,
                (Some(_), _, None) | (None, OnMissingKey::Random | OnMissingKey::RoundRobin, _) => {}
            }
        }
        let turn = match &self.split {
            Some(split) => split.pick().unwrap_or(0),
            None => 0,
        };
        let (Some(target), Some(balancer)) = (self.rule.targets.get(turn), self.balancers.get(turn)) else {
            return Pick::NoBackend;
        };
        let found = balancer.as_ref().and_then(|balancer| balancer.pick(&choice, rng));
        if request.avoid.is_some() && found.is_none_or(|endpoint| choice.avoided(endpoint)) {
            // A retry would rather leave the backend than repeat itself.
            if let Some(elsewhere) = self.pick_elsewhere(refs, turn, &choice, rng) {
                return elsewhere;
            }
        }
        match (found, balancer) {
            (Some(endpoint), _) => picked(refs, target.backend_ref as usize, endpoint),
            (None, Some(_)) => Pick::NoEndpoints,
            (None, None) => Pick::NoBackend,
        }
    }

    /// Chooses an endpoint of one reference, by its position in the rule, whatever the split says. One that is not in the
    /// tier in use has none.
    pub fn pick_of(
        &self,
        backend_ref: usize,
        refs: &[WeightedBackend],
        request: &PickRequest<'_>,
        now: std::time::Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let turn = self.rule.targets.iter().position(|target| target.backend_ref as usize == backend_ref);
        let Some((target, balancer)) = turn.and_then(|turn| self.rule.targets.get(turn).zip(self.balancers.get(turn)))
        else {
            return if refs.get(backend_ref).is_some() { Pick::NoEndpoints } else { Pick::NoBackend };
        };
        let (Some(backend), Some(balancer)) = (&target.backend, balancer) else { return Pick::NoBackend };
        let choice = Choice { now, avoid: request.avoid };
        let of_backend = |endpoint: &Arc<EndpointState>| backend.endpoints.iter().any(|own| Arc::ptr_eq(own, endpoint));
        let by_key = request.hash.zip(self.rule.ring.as_ref()).and_then(|(key, ring)| {
            ring.pick(key, |endpoint| of_backend(endpoint) && choice.usable(endpoint))?.endpoint.as_ref()
        });
        match by_key.or_else(|| balancer.pick(&choice, rng)) {
            Some(endpoint) => picked(refs, backend_ref, endpoint),
            None => Pick::NoEndpoints,
        }
    }

    /// An endpoint of another reference than that of `turn` which a retry need not avoid.
    fn pick_elsewhere(
        &self,
        refs: &[WeightedBackend],
        turn: usize,
        choice: &Choice<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<Pick> {
        let others = self.rule.targets.iter().zip(&self.balancers).enumerate().filter(|(index, _)| *index != turn);
        others
            .filter_map(|(_, (target, balancer))| {
                let endpoint = balancer.as_ref()?.pick(choice, rng)?;
                (!choice.avoided(endpoint)).then(|| picked(refs, target.backend_ref as usize, endpoint))
            })
            .next()
    }
}

/// Reference and endpoint that a key leads to, with what the choice rules out given up step by step.
fn pick_from_ring<'a>(
    ring: &'a Ring,
    key: u64,
    bounded_load_percent: Option<u32>,
    choice: &Choice<'_>,
) -> Option<(usize, Option<&'a Arc<EndpointState>>)> {
    let node = match bounded_load_percent {
        Some(percent) => ring.pick_bounded(key, percent, |endpoint| choice.usable(endpoint)),
        None => ring.pick(key, |endpoint| choice.usable(endpoint)),
    };
    let node =
        node.or_else(|| ring.pick(key, |endpoint| !choice.avoided(endpoint))).or_else(|| ring.pick(key, |_| true))?;
    Some((node.backend_ref, node.endpoint.as_ref()))
}

fn picked(refs: &[WeightedBackend], backend_ref: usize, endpoint: &Arc<EndpointState>) -> Pick {
    match refs.get(backend_ref).and_then(|reference| reference.backend) {
        Some(backend) => Pick::Endpoint(Picked { endpoint: Arc::clone(endpoint), backend, backend_ref }),
        None => Pick::NoBackend,
    }
}
