//! The balancers of a snapshot, as the control half prepares them for all workers.
//!
//! Per backend the list of endpoint states, per rule the references by tier, per consistent hash and tier the ring.

use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hashbrown::HashTable;
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};

use super::backend_endpoints::BackendEndpoints;
use super::consistent_hash::{Member, Ring};
use super::endpoint_state::EndpointState;
use super::health::{CheckedEndpoints, HealthRegistry};
use super::locality::near_list;
use super::sessions::{SessionIndex, SessionKey};
use crate::model::backend::{Backend, BackendKey, Endpoint, Protocol};
use crate::model::ids::RuleId;
use crate::model::policy::{Algorithm, ConsistentHash, Locality, Spread};
use crate::model::route::{Rule, WeightedBackend};
use crate::model::snapshot::Snapshot;

/// One reference of a rule.
#[derive(Debug)]
pub(super) struct Target {
    /// Index in the rule's `backend_refs`.
    pub(super) backend_ref: u32,
    pub(super) weight: u32,
    /// `None`: the reference cannot be resolved.
    pub(super) backend: Option<Arc<BackendEndpoints>>,
    /// Those of its endpoints that are preferred because they are near; `None` where all are used alike.
    pub(super) near: Option<Arc<BackendEndpoints>>,
    /// What the rule's check has found out about its endpoints; `None` without a check.
    health: Option<Arc<CheckedEndpoints>>,
}

/// Whether two optional values are the same one, or both absent.
fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Target {
    fn same(&self, other: &Target) -> bool {
        self.backend_ref == other.backend_ref
            && self.weight == other.weight
            && is_same(self.backend.as_ref(), other.backend.as_ref())
            && is_same(self.health.as_ref(), other.health.as_ref())
    }

    pub(super) fn key(&self) -> Option<&BackendKey> {
        self.backend.as_ref().map(|backend| &backend.key)
    }
}

/// Where a rule's requests may go, and how one of the endpoints is chosen.
///
/// Consecutive snapshots share it when nothing in it changed, and so do neighbouring rules with equal targets.
#[derive(Debug)]
pub struct RuleTargets {
    pub(super) algorithm: Algorithm,
    pub(super) spread: Spread,
    /// The tiers that have an endpoint, the lowest first; the lowest alone where none has one. Empty for a rule without
    /// references.
    pub(super) tiers: Box<[Tier]>,
}

/// The references of one tier.
#[derive(Debug)]
pub(super) struct Tier {
    /// At least one.
    pub(super) targets: Box<[Target]>,
    /// For a consistent hash over a tier that has an endpoint.
    pub(super) ring: Option<Arc<Ring>>,
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
    /// The key of each stands in its state alone. One that nothing holds any more has no key, and is not found.
    states: HashTable<Known>,
    session_key: SessionKey,
    ejecting: Arc<Mutex<()>>,
    health: HealthRegistry,
}

/// A state, and the hash of its key.
#[derive(Debug)]
struct Known {
    hash: u64,
    state: Weak<EndpointState>,
}

/// Notes which endpoints some backend reaches over HTTP/2, whose connections carry many requests at the same time.
///
/// Linear in the endpoints of such backends, and only where one of these has changed.
fn note_shared_connections(before: &[Arc<BackendEndpoints>], backends: &[Arc<BackendEndpoints>]) {
    let sharing = |backend: &&Arc<BackendEndpoints>| match backend.key.protocol {
        Protocol::Http | Protocol::Https => false,
        Protocol::H2c | Protocol::H2 => true,
    };
    let (before, now) = (before.iter().filter(sharing), backends.iter().filter(sharing));
    if before.clone().map(Arc::as_ptr).eq(now.clone().map(Arc::as_ptr)) {
        return;
    }
    let reached = |backend: &'_ Arc<BackendEndpoints>| {
        let draining = backend.sessions.iter().flat_map(|sessions| sessions.draining());
        backend.endpoints.iter().chain(draining).map(Arc::clone).collect::<Vec<_>>()
    };
    let now: Vec<_> = now.flat_map(reached).collect();
    let addresses: FxHashSet<usize> = now.iter().map(|endpoint| Arc::as_ptr(endpoint).addr()).collect();
    now.iter().for_each(|endpoint| endpoint.share_connections(true));
    for endpoint in before.flat_map(reached).filter(|endpoint| !addresses.contains(&Arc::as_ptr(endpoint).addr())) {
        endpoint.share_connections(false);
    }
}

/// What a ring was made from: table size, and of each target the backend's address, weight and reference.
type RingKey = (Option<u32>, Vec<(usize, u32, u32)>);

impl EndpointRegistry {
    /// What the ids of sessions are made with.
    #[must_use]
    pub fn session_key(&self) -> &SessionKey {
        &self.session_key
    }

    /// Makes the ids of sessions with another key; to be called before anything is built.
    pub fn set_session_key(&mut self, key: SessionKey) {
        self.session_key = key;
    }

    /// Builds the balancers of a snapshot; what did not change is shared with the previous ones.
    ///
    /// `now` as in [`crate::balance`]: an endpoint that comes to a backend that was there before is new from then on.
    pub fn build(&mut self, snapshot: &Snapshot, previous: Option<Previous<'_>>, now: Duration) -> Balancers {
        let backends = self.backends(snapshot, previous, now);
        note_shared_connections(previous.map_or(&[], |previous| previous.balancers.backends()), &backends);
        self.prune(backends.iter().map(|backend| backend.endpoints.len()).sum());
        let mut rings = FxHashMap::default();
        let mut near = FxHashMap::default();
        let mut last: Option<Arc<RuleTargets>> = None;
        let rules = (0..)
            .zip(snapshot.rules.iter())
            .map(|(index, rule)| {
                if let Some(kept) = previous.and_then(|previous| previous.kept(RuleId(index), rule, &backends)) {
                    return Arc::clone(kept);
                }
                let targets = targets(rule, &backends, &mut self.health);
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
                let mut ring = |targets: &[Target]| match &rule.algorithm {
                    Algorithm::ConsistentHash(hash) => ring(hash, targets, &mut rings),
                    Algorithm::Random
                    | Algorithm::RoundRobin
                    | Algorithm::SmoothWeightedRoundRobin
                    | Algorithm::LeastRequest
                    | Algorithm::PeakEwma => None,
                };
                let tiers = targets.into_iter().map(|mut targets| {
                    let ring = ring(&targets);
                    if ring.is_none() {
                        find_near(rule, &mut targets, snapshot, &mut near);
                    }
                    Tier { ring, targets }
                });
                let tiers = tiers.collect();
                let new = RuleTargets { algorithm: rule.algorithm.clone(), spread: rule.spread, tiers };
                Arc::clone(last.insert(Arc::new(new)))
            })
            .collect();
        self.health.prune();
        Balancers { backends, rules }
    }

    /// The endpoint states of the snapshot's backends, in its order.
    fn backends(
        &mut self,
        snapshot: &Snapshot,
        previous: Option<Previous<'_>>,
        now: Duration,
    ) -> Vec<Arc<BackendEndpoints>> {
        // Both lists are sorted by key.
        let mut old = previous
            .into_iter()
            .flat_map(|previous| previous.snapshot.backends.iter().zip(&previous.balancers.backends))
            .peekable();
        let missing = snapshot.backends.iter().map(|backend| backend.endpoints.len()).sum::<usize>();
        self.states.reserve(missing.saturating_sub(self.states.len()), |known| known.hash);
        let mut has_sessions = vec![false; snapshot.backends.len()];
        let with_sessions =
            snapshot.rules.iter().filter(|rule| rule.policy.as_ref().is_some_and(|policy| policy.session.is_some()));
        for id in with_sessions.flat_map(|rule| &rule.backend_refs).filter_map(|reference| reference.backend) {
            if let Some(has) = has_sessions.get_mut(id.index()) {
                *has = true;
            }
        }
        snapshot
            .backends
            .iter()
            .zip(has_sessions)
            .map(|(backend, has_sessions)| {
                while old.next_if(|(before, _)| before.key < backend.key).is_some() {}
                match old.next_if(|(before, _)| before.key == backend.key) {
                    Some((before, kept)) if before == backend && kept.sessions.is_some() == has_sessions => {
                        Arc::clone(kept)
                    }
                    known => self.backend(backend, has_sessions, known.map(|(_, kept)| &**kept), now),
                }
            })
            .collect()
    }

    /// The endpoint states of one backend; what belongs to the backend itself stays as it was `before`.
    fn backend(
        &mut self,
        backend: &Backend,
        has_sessions: bool,
        before: Option<&BackendEndpoints>,
        now: Duration,
    ) -> Arc<BackendEndpoints> {
        // What comes with its Service is no newcomer.
        let came = before.map(|_| now);
        let mut state = |endpoint: &Endpoint| self.state(endpoint, came);
        let mut states = |endpoints: &[Endpoint]| endpoints.iter().map(&mut state).collect();
        let endpoints: Box<[_]> = states(&backend.endpoints);
        let draining: Option<Box<[_]>> = has_sessions.then(|| states(&backend.draining));
        let key = backend.key.clone();
        let sessions = draining.map(|draining| SessionIndex::new(&self.session_key, &key, &endpoints, draining).into());
        let shared = before.map(|before| Arc::clone(&before.shared)).unwrap_or_default();
        let (ejecting, tls) = (Arc::clone(&self.ejecting), backend.tls.clone());
        Arc::new(BackendEndpoints { key, tls, endpoints, sessions, shared, ejecting })
    }

    /// The state of an endpoint, as it was where it is known; `came` says since when a newcomer is there.
    fn state(&mut self, endpoint: &Endpoint, came: Option<Duration>) -> Arc<EndpointState> {
        let hash = FxBuildHasher.hash_one(&endpoint.key);
        let mut known = self.states.iter_hash(hash).filter_map(|known| known.state.upgrade());
        if let Some(state) = known.find(|state| state.key == endpoint.key) {
            let fallback = endpoint.fallback.as_deref().copied();
            if state.fallback() != fallback {
                state.set_fallback(fallback);
            }
            return state;
        }
        let (key, fallback) = (endpoint.key.clone(), endpoint.fallback.as_deref().copied());
        let state = Arc::new(match came {
            Some(now) => EndpointState::new_at(key, fallback, now),
            None => EndpointState::new(key, fallback),
        });
        self.states.insert_unique(hash, Known { hash, state: Arc::downgrade(&state) }, |known| known.hash);
        state
    }

    /// Forgets states that nothing holds any more, once they may be as many as those in use.
    fn prune(&mut self, in_use: usize) {
        // A dead entry keeps its memory, so they are bounded; going through all of them each time would be waste.
        if self.states.len() > 2 * in_use + 64 {
            self.states.retain(|known| known.state.strong_count() > 0);
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

impl<'a> Previous<'a> {
    /// The targets of a rule, where nothing that they are made from has changed.
    fn kept(&self, id: RuleId, rule: &Rule, backends: &[Arc<BackendEndpoints>]) -> Option<&'a Arc<RuleTargets>> {
        let before = (self.rule)(id)?;
        let old = self.snapshot.rule(before)?;
        let is_same = |old: &WeightedBackend, new: &WeightedBackend| {
            let endpoints = match (old.backend, new.backend) {
                (Some(old), Some(new)) => match (self.balancers.backends.get(old.index()), backends.get(new.index())) {
                    (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                    _ => false,
                },
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            endpoints && old.weight == new.weight && old.tier == new.tier
        };
        let are_same = old.algorithm == rule.algorithm
            && old.health_check() == rule.health_check()
            && old.spread == rule.spread
            && old.backend_refs.len() == rule.backend_refs.len()
            && old.backend_refs.iter().zip(&rule.backend_refs).all(|(old, new)| is_same(old, new));
        if are_same { self.balancers.rule(before) } else { None }
    }
}

/// The references by tier, as [`RuleTargets::tiers`] has them.
fn targets(rule: &Rule, backends: &[Arc<BackendEndpoints>], health: &mut HealthRegistry) -> Vec<Box<[Target]>> {
    let backend = |reference: &WeightedBackend| reference.backend.and_then(|id| backends.get(id.index()));
    let has_endpoint =
        |reference: &WeightedBackend| backend(reference).is_some_and(|known| !known.endpoints.is_empty());
    let mut tiers: Vec<u8> =
        rule.backend_refs.iter().filter(|reference| has_endpoint(reference)).map(|reference| reference.tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    if tiers.is_empty() {
        tiers.extend(rule.backend_refs.iter().map(|reference| reference.tier).min());
    }
    let mut health = |reference: &WeightedBackend| Some(health.of(backend(reference)?, rule.health_check()?));
    let of_tier = |tier: u8| {
        let references = (0..).zip(&rule.backend_refs).filter(move |(_, reference)| reference.tier == tier);
        let target = |(index, reference): (u32, &WeightedBackend)| Target {
            backend_ref: index,
            weight: reference.weight,
            backend: backend(reference).cloned(),
            health: health(reference),
            near: None,
        };
        references.map(target).collect()
    };
    tiers.into_iter().map(of_tier).collect()
}

/// Fills in the near endpoints of each reference. Rules that prefer alike share the lists.
fn find_near(
    rule: &Rule,
    targets: &mut [Target],
    snapshot: &Snapshot,
    known: &mut FxHashMap<(usize, Locality), Option<Arc<BackendEndpoints>>>,
) {
    for target in targets {
        let Some(backend) = &target.backend else { continue };
        let id = rule.backend_refs.get(target.backend_ref as usize).and_then(|reference| reference.backend);
        let Some(model) = id.and_then(|id| snapshot.backend(id)) else { continue };
        let key = (Arc::as_ptr(backend).addr(), rule.spread.locality);
        let near = known.entry(key).or_insert_with(|| near_list(backend, &model.endpoints, rule.spread.locality));
        target.near.clone_from(near);
    }
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
        backend_ref: target.backend_ref,
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
    /// What the rule's check has found out, by the position of the reference; nothing for a rule without a check.
    pub fn checked(&self) -> impl Iterator<Item = (usize, &Arc<CheckedEndpoints>)> {
        let targets = self.tiers.iter().flat_map(|tier| &tier.targets);
        targets.filter_map(|target| Some((target.backend_ref as usize, target.health.as_ref()?)))
    }

    /// Whether the rule's check holds an endpoint to be unhealthy. One load while no check does, as nearly always.
    #[inline]
    pub(super) fn is_unhealthy(&self, endpoint: &EndpointState) -> bool {
        endpoint.is_unhealthy_by_any() && self.is_unhealthy_by_own(endpoint)
    }

    #[cold]
    fn is_unhealthy_by_own(&self, endpoint: &EndpointState) -> bool {
        self.checked().any(|(_, checked)| checked.is_unhealthy(endpoint))
    }

    fn is_for(&self, rule: &Rule, targets: &[Box<[Target]>]) -> bool {
        let same = |tier: &Tier, targets: &[Target]| {
            tier.targets.len() == targets.len() && tier.targets.iter().zip(targets).all(|(one, other)| one.same(other))
        };
        self.algorithm == rule.algorithm
            && self.spread == rule.spread
            && self.tiers.len() == targets.len()
            && self.tiers.iter().zip(targets).all(|(tier, targets)| same(tier, targets))
    }
}
