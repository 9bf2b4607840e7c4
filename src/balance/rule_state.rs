//! One worker's part in the balancers of a snapshot: cursors and current weights, made with the first pick of a
//! rule.

use std::sync::Arc;
use std::time::Duration;

use super::backend_endpoints::BackendEndpoints;
use super::balancer::Balancer;
use super::consistent_hash::Ring;
use super::endpoint_state::EndpointState;
use super::pick::{Choice, Condition, Pick, PickRequest, Picked};
use super::sessions::SessionId;
use super::slow_start::{MOST_PICKS, is_passed_over};
use super::smooth_weighted::Split;
use super::targets::{RuleTargets, Target, Tier};
use crate::model::ids::BackendId;
use crate::model::policy::{Algorithm, OnMissingKey, Spread};
use crate::model::route::{Rule, WeightedBackend};

/// One rule's balancers on one worker, with their cursors.
#[derive(Debug)]
pub struct RuleState {
    rule: Arc<RuleTargets>,
    /// In the order of the rule's tiers.
    tiers: Box<[TierState]>,
}

/// The split between the backends of a tier, and a balancer per backend.
#[derive(Debug)]
struct TierState {
    /// Only when there is something to split.
    split: Option<Split>,
    /// In the order of the targets; `None` where the reference cannot be resolved.
    balancers: Box<[Option<Balancer>]>,
    /// Over the near endpoints alone, in the order of the targets; empty where no target has some.
    near: Box<[Option<Balancer>]>,
}

/// A chosen endpoint, and the position of its reference in the rule.
type Found<'a> = (u32, Nearby<'a>);

/// A chosen endpoint, and whether it had to be a far one although near ones are preferred.
#[derive(Clone, Copy)]
struct Nearby<'a> {
    endpoint: &'a Arc<EndpointState>,
    is_far: bool,
}

impl<'a> From<&'a Arc<EndpointState>> for Nearby<'a> {
    fn from(endpoint: &'a Arc<EndpointState>) -> Self {
        Self { endpoint, is_far: false }
    }
}

impl RuleState {
    /// Makes the state of a rule that this worker has not picked for.
    #[must_use]
    pub fn new(rule: Arc<RuleTargets>, start: u32) -> Self {
        let tiers = rule.tiers.iter().map(|tier| TierState::new(&rule.algorithm, tier, None, start)).collect();
        Self { rule, tiers }
    }

    /// Makes the state for the next snapshot: cursors and current weights of backends and endpoints that stay go on.
    #[must_use]
    pub fn update(&self, rule: Arc<RuleTargets>, start: u32) -> Self {
        // A tier has no name of its own: the one with a backend of it goes on.
        let before = |tier: &Tier| {
            let has_same = |old: &Tier| {
                let is_in = |one: &Target| one.key().is_some() && tier.targets.iter().any(|new| new.key() == one.key());
                old.targets.iter().any(is_in)
            };
            let old = self.rule.tiers.iter().zip(&self.tiers).find(|(old, _)| has_same(old));
            old.or(self.rule.tiers.iter().zip(&self.tiers).next())
        };
        let is_same_algorithm = self.rule.algorithm == rule.algorithm;
        let tiers = rule.tiers.iter().map(|tier| {
            let before = before(tier).map(|(targets, state)| Before { targets, state, is_same_algorithm });
            TierState::new(&rule.algorithm, tier, before, start)
        });
        let tiers = tiers.collect();
        Self { rule, tiers }
    }

    /// The targets that this state is for.
    #[must_use]
    pub fn targets(&self) -> &Arc<RuleTargets> {
        &self.rule
    }

    /// Chooses an endpoint; `rule` is the one that this state is for. Allocates nothing and takes no lock.
    pub fn pick(&self, rule: &Rule, request: &PickRequest<'_>, now: Duration, rng: &mut fastrand::Rng) -> Pick {
        let refs = &*rule.backend_refs;
        let choice = Choice::new((&self.rule, rule.policy.as_deref()), request, now);
        let mut key = None;
        if let Algorithm::ConsistentHash(hash) = &self.rule.algorithm {
            match (request.hash, hash.on_missing) {
                (Some(hashed), _) => key = Some(Key { hashed, bounded_load_percent: hash.bounded_load_percent }),
                (None, OnMissingKey::Reject) => return Pick::MissingKey,
                (None, OnMissingKey::Random | OnMissingKey::RoundRobin) => {}
            }
        }
        let (Some(tier), Some(state)) = (self.rule.tiers.first(), self.tiers.first()) else { return Pick::NoBackend };
        if let Some((key, ring)) = key.zip(tier.ring.as_ref()) {
            return match key.pick(ring, &choice) {
                Some((backend_ref, Some(endpoint))) => picked(refs, (backend_ref, endpoint.into()), &choice),
                // A reference that cannot be resolved keeps its share.
                Some((_, None)) => Pick::NoBackend,
                None => self
                    .pick_wider(refs, choice, key.into(), rng)
                    .unwrap_or(Pick::NoEndpoints(state.by_turn(tier, refs))),
            };
        }
        let turn = state.turn();
        let (Some(target), Some(balancer)) = (tier.targets.get(turn), state.balancers.get(turn)) else {
            return Pick::NoBackend;
        };
        let stands = match balancer {
            Some(balancer) => {
                if let Some(found) = state.pick_at(turn, &self.rule.spread, &choice, rng) {
                    return picked(refs, (target.backend_ref, found), &choice);
                }
                if !balancer.is_empty() { None } else { Some(Pick::NoEndpoints(backend_of(refs, target.backend_ref))) }
            }
            None => Some(Pick::NoBackend),
        };
        match stands {
            // A share without endpoints is one of failures, but for a retry, which may leave it.
            Some(stands) if !choice.is_retry() => stands,
            Some(stands) => self.pick_wider(refs, choice, turn.into(), rng).unwrap_or(stands),
            None => {
                let none = || Pick::NoEndpoints(backend_of(refs, target.backend_ref));
                self.pick_wider(refs, choice, turn.into(), rng).unwrap_or_else(none)
            }
        }
    }

    /// Chooses an endpoint of one reference, by its position in the rule, whatever the split says. One whose tier has no
    /// endpoint has none.
    pub fn pick_of(
        &self,
        backend_ref: usize,
        rule: &Rule,
        request: &PickRequest<'_>,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let refs = &*rule.backend_refs;
        let found = self.rule.tiers.iter().zip(&self.tiers).find_map(|(tier, state)| {
            let at = tier.targets.iter().position(|target| target.backend_ref as usize == backend_ref)?;
            Some((tier, tier.targets.get(at)?, (state, at)))
        });
        let Some((tier, target, (state, at))) = found else {
            return match refs.get(backend_ref) {
                Some(reference) => Pick::NoEndpoints(reference.backend),
                None => Pick::NoBackend,
            };
        };
        let Some(backend) = &target.backend else { return Pick::NoBackend };
        let of_backend = |endpoint: &Arc<EndpointState>| backend.endpoints.iter().any(|own| Arc::ptr_eq(own, endpoint));
        let mut next = Some(Choice::new((&self.rule, rule.policy.as_deref()), request, now));
        while let Some(choice) = next {
            let by_key = request.hash.zip(tier.ring.as_ref()).and_then(|(key, ring)| {
                ring.pick(key, |endpoint| of_backend(endpoint) && choice.allows(endpoint))?.endpoint.as_ref()
            });
            let by_key = by_key.map(Nearby::from);
            if let Some(found) = by_key.or_else(|| state.pick_at(at, &self.rule.spread, &choice, rng)) {
                return picked(refs, (target.backend_ref, found), &choice);
            }
            if choice.waits() {
                let at_limit = at_limit(refs, std::slice::from_ref(target), &choice);
                if !at_limit.is_empty() {
                    return Pick::AtLimit(at_limit);
                }
            }
            next = choice.give_up();
        }
        Pick::NoEndpoints(backend_of(refs, target.backend_ref))
    }

    /// The endpoint that a session belongs to, wherever among the rule's references it is; `only` leaves one of them.
    ///
    /// `None` when the session has to move: its pod is gone or out of service, or the request was there in vain. An
    /// address that refused a connection a moment ago is tried all the same, and so is one that is not near.
    #[must_use]
    pub fn pinned(
        &self,
        (id, only): (SessionId, Option<usize>),
        rule: &Rule,
        request: &PickRequest<'_>,
        now: Duration,
    ) -> Option<Picked> {
        let choice = Choice::new((&self.rule, rule.policy.as_deref()), request, now).of_session();
        let targets = self.rule.tiers.iter().flat_map(|tier| &tier.targets);
        let mut targets = targets.filter(|target| only.is_none_or(|only| target.backend_ref as usize == only));
        let (target, endpoint) =
            targets.find_map(|target| Some((target, target.backend.as_ref()?.sessions.as_ref()?.find(id)?)))?;
        if !choice.allows(endpoint) {
            return None;
        }
        let backend = backend_of(&rule.backend_refs, target.backend_ref)?;
        let backend_ref = target.backend_ref as usize;
        Some(Picked { endpoint: Arc::clone(endpoint), backend, backend_ref, given_up: None })
    }

    /// Chooses an endpoint once the first look has found none: in other backends and tiers, then with conditions given up
    /// one by one. `None` where nobody is left. Kept out of the way of picks that succeed at once.
    #[cold]
    fn pick_wider(
        &self,
        refs: &[WeightedBackend],
        choice: Choice<'_>,
        first: First,
        rng: &mut fastrand::Rng,
    ) -> Option<Pick> {
        let mut turns: [Option<usize>; MAX_TIERS] = [None; MAX_TIERS];
        if let (First::Turn(turn), Some(of_first)) = (&first, turns.first_mut()) {
            *of_first = Some(*turn);
        }
        let mut next = Some(choice);
        while let Some(choice) = next {
            for ((tier, state), turn) in self.rule.tiers.iter().zip(&self.tiers).zip(&mut turns) {
                let found = match (&first, &tier.ring) {
                    (First::Key(key), Some(ring)) => match key.pick(ring, &choice) {
                        Some((backend_ref, Some(endpoint))) => Some((backend_ref, endpoint.into())),
                        Some((_, None)) | None => None,
                    },
                    (First::Key(_) | First::Turn(_), _) => {
                        let turn = *turn.get_or_insert_with(|| state.turn());
                        state.pick_from(tier, turn, &self.rule.spread, &choice, rng)
                    }
                };
                if let Some(found) = found {
                    return Some(picked(refs, found, &choice));
                }
                if choice.waits() {
                    let at_limit: Vec<Picked> = at_limit(refs, &tier.targets, &choice);
                    if !at_limit.is_empty() {
                        return Some(Pick::AtLimit(at_limit));
                    }
                }
            }
            next = choice.give_up();
        }
        None
    }
}

/// The most tiers of a rule.
const MAX_TIERS: usize = 4;

/// What leads into a rule's lowest tier.
enum First {
    Key(Key),
    /// The target whose turn it is.
    Turn(usize),
}

impl From<Key> for First {
    fn from(key: Key) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for First {
    fn from(turn: usize) -> Self {
        Self::Turn(turn)
    }
}

/// A request's place on a ring.
#[derive(Clone, Copy)]
struct Key {
    hashed: u64,
    bounded_load_percent: Option<u32>,
}

impl Key {
    /// Reference and endpoint that it leads to.
    fn pick<'a>(self, ring: &'a Ring, choice: &Choice<'_>) -> Option<(u32, Option<&'a Arc<EndpointState>>)> {
        let allowed = |endpoint: &Arc<EndpointState>| choice.allows(endpoint);
        let node = match self.bounded_load_percent {
            Some(percent) => ring.pick_bounded(self.hashed, percent, allowed),
            None => ring.pick(self.hashed, allowed),
        }?;
        Some((node.backend_ref, node.endpoint.as_ref()))
    }
}

/// A tier of the snapshot before.
struct Before<'a> {
    targets: &'a Tier,
    state: &'a TierState,
    is_same_algorithm: bool,
}

impl TierState {
    fn new(algorithm: &Algorithm, tier: &Tier, before: Option<Before<'_>>, start: u32) -> Self {
        let mut taken = vec![false; before.as_ref().map_or(0, |before| before.targets.targets.len())];
        let mut from = |target: &Target| {
            // A backend may stand in several references: each old one is taken once, in order.
            let mut old = before.as_ref()?.targets.targets.iter().enumerate();
            let (index, _) = old.find(|(index, old)| !taken[*index] && old.key() == target.key())?;
            taken[index] = true;
            Some(index)
        };
        let from: Vec<Option<usize>> = tier.targets.iter().map(&mut from).collect();
        let balancer = |backend: Option<&Arc<BackendEndpoints>>,
                        of: fn(&TierState) -> &[Option<Balancer>],
                        from: Option<usize>| {
            let backend = backend?;
            let before = before.as_ref().filter(|before| before.is_same_algorithm);
            let old = before.and_then(|before| of(before.state).get(from?)?.as_ref());
            Some(match old {
                Some(old) => old.update(Arc::clone(backend)),
                None => Balancer::new(algorithm, Arc::clone(backend), start),
            })
        };
        let both = || tier.targets.iter().zip(&from);
        let all = both().map(|(target, from)| balancer(target.backend.as_ref(), |state| &state.balancers, *from));
        let balancers = all.collect();
        let near = both().map(|(target, from)| balancer(target.near.as_ref(), |state| &state.near, *from));
        let has_near = tier.targets.iter().any(|target| target.near.is_some());
        let near = if has_near { near.collect() } else { Box::default() };
        let split = (tier.targets.len() > 1).then(|| {
            let split = Split::new(tier.targets.iter().map(|target| target.weight), start);
            if let Some(old) = before.as_ref().and_then(|before| before.state.split.as_ref()) {
                split.carry(old, from.iter().copied());
            }
            split
        });
        Self { split, balancers, near }
    }

    /// An endpoint of the target at a position: a near one where some are preferred and can be used, else any.
    #[inline]
    fn pick_at(&self, at: usize, spread: &Spread, choice: &Choice<'_>, rng: &mut fastrand::Rng) -> Option<Nearby<'_>> {
        let near = self.near.get(at).and_then(Option::as_ref);
        if let Some(endpoint) = near.and_then(|near| pick_warm(near, spread, choice, rng)) {
            return Some(endpoint.into());
        }
        let endpoint = pick_warm(self.balancers.get(at)?.as_ref()?, spread, choice, rng)?;
        Some(Nearby { endpoint, is_far: near.is_some() })
    }

    /// The position of the target whose turn it is.
    fn turn(&self) -> usize {
        self.split.as_ref().and_then(Split::pick).unwrap_or(0)
    }

    /// The backend whose turn it is, where a key leads to none.
    fn by_turn(&self, tier: &Tier, refs: &[WeightedBackend]) -> Option<BackendId> {
        backend_of(refs, tier.targets.get(self.turn())?.backend_ref)
    }

    /// An endpoint that is allowed, of the target whose turn it is or of one behind it.
    fn pick_from<'a>(
        &'a self,
        tier: &Tier,
        turn: usize,
        spread: &Spread,
        choice: &Choice<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<Found<'a>> {
        let count = tier.targets.len();
        (0..count).find_map(|step| {
            let at = (turn + step) % count;
            let found = self.pick_at(at, spread, choice, rng)?;
            Some((tier.targets.get(at)?.backend_ref, found))
        })
    }
}

/// Picks with slow start: what is young is passed over by chance.
#[inline]
fn pick_warm<'a>(
    balancer: &'a Balancer,
    spread: &Spread,
    choice: &Choice<'_>,
    rng: &mut fastrand::Rng,
) -> Option<&'a Arc<EndpointState>> {
    let mut endpoint = balancer.pick(choice, rng)?;
    if let Some(window) = spread.slow_start {
        for _ in 0..MOST_PICKS {
            if !is_passed_over(endpoint.age(choice.now), window, rng) {
                break;
            }
            endpoint = balancer.pick(choice, rng)?;
        }
    }
    Some(endpoint)
}

fn backend_of(refs: &[WeightedBackend], backend_ref: u32) -> Option<BackendId> {
    refs.get(backend_ref as usize).and_then(|reference| reference.backend)
}

/// The endpoints of some references that fit, which is to say: that could be used if they had room.
fn at_limit(refs: &[WeightedBackend], targets: &[Target], choice: &Choice<'_>) -> Vec<Picked> {
    let of_target = |target: &Target| {
        let backend = backend_of(refs, target.backend_ref)?;
        let endpoints = &target.backend.as_ref()?.endpoints;
        let (backend_ref, given_up) = (target.backend_ref as usize, choice.given_up());
        let fitting = endpoints.iter().filter(|endpoint| choice.fits(endpoint));
        let picked = fitting.map(|endpoint| Picked { endpoint: Arc::clone(endpoint), backend, backend_ref, given_up });
        Some(picked.collect::<Vec<_>>())
    };
    targets.iter().filter_map(of_target).flatten().collect()
}

fn picked(refs: &[WeightedBackend], (backend_ref, found): Found<'_>, choice: &Choice<'_>) -> Pick {
    match backend_of(refs, backend_ref) {
        Some(backend) => Pick::Endpoint(Picked {
            endpoint: Arc::clone(found.endpoint),
            backend,
            backend_ref: backend_ref as usize,
            given_up: choice.given_up().or(found.is_far.then_some(Condition::Near)),
        }),
        None => Pick::NoBackend,
    }
}
