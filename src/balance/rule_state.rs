//! What each worker keeps beside the balancers of a snapshot: cursors and current weights, made with the first pick of a
//! rule.

use std::sync::Arc;
use std::time::Duration;

use super::balancer::Balancer;
use super::consistent_hash::Ring;
use super::endpoint_state::EndpointState;
use super::pick::{Choice, Pick, PickRequest, Picked};
use super::smooth_weighted::Split;
use super::targets::RuleTargets;
use crate::model::ids::BackendId;
use crate::model::policy::{Algorithm, OnMissingKey};
use crate::model::route::WeightedBackend;

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
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let choice = Choice { now, avoid: request.avoid };
        if let Algorithm::ConsistentHash(hash) = &self.rule.algorithm {
            match (request.hash, hash.on_missing, &self.rule.ring) {
                (Some(key), _, Some(ring)) => {
                    return match pick_from_ring(ring, key, hash.bounded_load_percent, &choice) {
                        Some((backend_ref, Some(endpoint))) => picked(refs, backend_ref, endpoint),
                        Some((_, None)) => Pick::NoBackend,
                        None => Pick::NoEndpoints(self.by_turn(refs)),
                    };
                }
                (None, OnMissingKey::Reject, _) => return Pick::MissingKey,
                (Some(_), _, None) | (None, OnMissingKey::Random | OnMissingKey::RoundRobin, _) => {}
            }
        }
        let turn = self.turn();
        let (Some(target), Some(balancer)) = (self.rule.targets.get(turn), self.balancers.get(turn)) else {
            return Pick::NoBackend;
        };
        let found = balancer.as_ref().and_then(|balancer| balancer.pick(&choice, rng));
        if !request.avoid.is_empty() && found.is_none_or(|endpoint| choice.avoided(endpoint)) {
            // A retry would rather leave the backend than repeat itself.
            if let Some(elsewhere) = self.pick_elsewhere(refs, turn, &choice, rng) {
                return elsewhere;
            }
        }
        match (found, balancer) {
            (Some(endpoint), _) => picked(refs, target.backend_ref as usize, endpoint),
            (None, Some(_)) => Pick::NoEndpoints(backend_of(refs, target.backend_ref as usize)),
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
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        let turn = self.rule.targets.iter().position(|target| target.backend_ref as usize == backend_ref);
        let Some((target, balancer)) = turn.and_then(|turn| self.rule.targets.get(turn).zip(self.balancers.get(turn)))
        else {
            return match refs.get(backend_ref) {
                Some(reference) => Pick::NoEndpoints(reference.backend),
                None => Pick::NoBackend,
            };
        };
        let (Some(backend), Some(balancer)) = (&target.backend, balancer) else { return Pick::NoBackend };
        let choice = Choice { now, avoid: request.avoid };
        let of_backend = |endpoint: &Arc<EndpointState>| backend.endpoints.iter().any(|own| Arc::ptr_eq(own, endpoint));
        let by_key = request.hash.zip(self.rule.ring.as_ref()).and_then(|(key, ring)| {
            ring.pick(key, |endpoint| of_backend(endpoint) && choice.usable(endpoint))?.endpoint.as_ref()
        });
        match by_key.or_else(|| balancer.pick(&choice, rng)) {
            Some(endpoint) => picked(refs, backend_ref, endpoint),
            None => Pick::NoEndpoints(backend_of(refs, backend_ref)),
        }
    }

    /// The position of the target whose turn it is.
    fn turn(&self) -> usize {
        self.split.as_ref().and_then(Split::pick).unwrap_or(0)
    }

    /// The backend whose turn it is, where a key leads to none: no backend of the ring has an endpoint.
    fn by_turn(&self, refs: &[WeightedBackend]) -> Option<BackendId> {
        let target = self.rule.targets.get(self.turn())?;
        backend_of(refs, target.backend_ref as usize)
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

fn backend_of(refs: &[WeightedBackend], backend_ref: usize) -> Option<BackendId> {
    refs.get(backend_ref).and_then(|reference| reference.backend)
}

fn picked(refs: &[WeightedBackend], backend_ref: usize, endpoint: &Arc<EndpointState>) -> Pick {
    match backend_of(refs, backend_ref) {
        Some(backend) => Pick::Endpoint(Picked { endpoint: Arc::clone(endpoint), backend, backend_ref }),
        None => Pick::NoBackend,
    }
}
