//! What a pick is asked with and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::bounds::Bounds;
use super::endpoint_state::{EndpointState, nanos};
use super::targets::RuleTargets;
use crate::model::ids::BackendId;
use crate::model::policy::Policy;

/// What of a request decides its endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickRequest<'a> {
    /// Hash of the request's key, for the consistent hash; see [`hash_key`](super::hash_key). `None`: the request has no key.
    pub hash: Option<u64>,
    /// The endpoints that a retry goes away from, if there are others.
    pub avoid: &'a [Arc<EndpointState>],
}

/// The outcome of a pick.
#[derive(Clone, Debug)]
pub enum Pick {
    /// Send it there.
    Endpoint(Picked),
    /// The chosen backend, if one was, has no usable endpoint: answer 503.
    NoEndpoints(Option<BackendId>),
    /// Those that could be used have as many requests or connections as the rule allows: wait for one of them, or answer 503. Not empty.
    AtLimit(Vec<Picked>),
    /// The rule has no backend, or the chosen reference cannot be resolved: answer 500.
    NoBackend,
    /// The rule asks for a hash key that the request lacks (`onMissingKey: Reject`): answer 400.
    MissingKey,
}

/// A chosen endpoint.
#[derive(Clone, Debug)]
pub struct Picked {
    /// Its live numbers, with the address.
    pub endpoint: Arc<EndpointState>,
    /// The backend that it was chosen from; valid in the snapshot that the pick was made with.
    pub backend: BackendId,
    /// Index of the backendRef in [`Rule::backend_refs`](crate::model::route::Rule).
    pub backend_ref: usize,
    /// What had to be given up last for somebody to be left; `None` for most picks.
    pub given_up: Option<Condition>,
}

/// What an endpoint should fulfil, in the order in which it is given up when nobody in any tier fulfils all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The endpoint is near.
    Near,
    /// The address has not refused a connection just now.
    Refused,
    /// The endpoint is not ejected.
    Ejected,
    /// The endpoint passes its health check.
    Unhealthy,
    /// A retry goes to another endpoint.
    Tried,
}

impl Condition {
    /// Every condition, in the order in which they are given up.
    const ALL: [Self; 5] = [Self::Near, Self::Refused, Self::Ejected, Self::Unhealthy, Self::Tried];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What rules endpoints out of one pick. The one place that decides whether an endpoint may be used for a request now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    pub(super) now: Duration,
    /// `now` in nanoseconds, as endpoint states keep times.
    nanos: u64,
    avoid: &'a [Arc<EndpointState>],
    /// Whose check says which endpoints are unhealthy.
    rule: &'a RuleTargets,
    /// The conditions that hold, by their bits: those that mean something for this request and are not given up.
    conditions: u8,
    given_up: Option<Condition>,
    /// How much an endpoint may have with this request.
    bounds: Bounds,
}

impl<'a> Choice<'a> {
    /// Begins with every condition that a rule and a request have.
    #[inline]
    pub(super) fn new(
        (rule, policy): (&'a RuleTargets, Option<&Policy>),
        request: &PickRequest<'a>,
        now: Duration,
    ) -> Self {
        let mut conditions = Condition::Refused.bit();
        if !request.avoid.is_empty() {
            conditions |= Condition::Tried.bit();
        }
        if let Some(policy) = policy {
            if policy.outlier.is_some() {
                conditions |= Condition::Ejected.bit();
            }
            if policy.health_check.is_some() {
                conditions |= Condition::Unhealthy.bit();
            }
        }
        let limits = policy.and_then(|policy| policy.limits.as_deref());
        let bounds = limits.map_or(Bounds::NONE, Bounds::of);
        Self { now, nanos: nanos(now), avoid: request.avoid, rule, conditions, given_up: None, bounds }
    }

    /// The choice of a session's own endpoint: what is no reason to move is left out.
    pub(super) fn of_session(mut self) -> Self {
        self.conditions &= !(Condition::Near.bit() | Condition::Refused.bit());
        // It would rather wait than move.
        self.bounds = Bounds::NONE;
        self
    }

    #[inline]
    fn has(&self, condition: Condition) -> bool {
        self.conditions & condition.bit() != 0
    }

    /// The choice without the next condition; `None` when no condition is left.
    pub(super) fn give_up(mut self) -> Option<Self> {
        let next = Condition::ALL.into_iter().find(|condition| self.has(*condition))?;
        self.conditions &= !next.bit();
        self.given_up = Some(next);
        Some(self)
    }

    /// What was given up last.
    pub(super) fn given_up(&self) -> Option<Condition> {
        self.given_up
    }

    /// It is for a further try, which rather leaves the backend whose turn it is than repeats itself.
    pub(super) fn is_retry(&self) -> bool {
        !self.avoid.is_empty()
    }

    /// Nothing that holds speaks against the endpoint, and it has room.
    #[inline]
    pub(super) fn allows(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.fits(endpoint) && (self.bounds.is_none() || endpoint.in_flight() < self.bounds.requests_at(endpoint))
    }

    /// Whether endpoints without room are waited for, before anything is given up but nearness.
    pub(super) fn waits(&self) -> bool {
        !self.bounds.is_none() && !self.has(Condition::Near)
    }

    /// Nothing that holds speaks against the endpoint, whether or not it has room: that is never given up.
    #[inline]
    pub(super) fn fits(&self, endpoint: &Arc<EndpointState>) -> bool {
        if self.has(Condition::Refused) && endpoint.is_refused_at(self.nanos) {
            return false;
        }
        if self.has(Condition::Ejected) && endpoint.is_ejected_at(self.nanos) {
            return false;
        }
        if self.has(Condition::Unhealthy) && self.rule.is_unhealthy(endpoint) {
            return false;
        }
        if self.has(Condition::Tried) && self.was_tried(endpoint) {
            return false;
        }
        true
    }

    fn was_tried(&self, endpoint: &Arc<EndpointState>) -> bool {
        self.avoid.iter().any(|avoid| Arc::ptr_eq(avoid, endpoint))
    }
}
