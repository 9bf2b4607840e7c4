//! Who may write: the rules of a Lease, as client-go has them, without clock and without network.
//!
//! The Lease names its holder, who renews it again and again. Another replica takes it over when it has seen no renewal
//! for as long as the Lease lasts, measured from when *it saw* the last change on its own monotonic clock: what wall
//! clocks of other machines say is never compared with anything. The holder itself stops earlier than that, so that two
//! never write at the same time. Every write carries the resource version of what was read, so of two that take over at
//! once one gets a conflict.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// The longest a holder is believed without a renewal, whatever the Lease says: an absurd number must not leave a
/// cluster without a writer.
const LONGEST: Duration = Duration::from_secs(60);

/// The times of an election.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// How long a Lease lasts without a renewal.
    pub(super) duration: Duration,
    /// How long after the beginning of its last successful renewal a holder goes on; shorter than `duration`.
    pub(super) deadline: Duration,
    /// From one try to the next.
    pub(super) retry: Duration,
}

impl Timing {
    /// The next writer is found within 12 s: at worst 1 s until the last renewal is seen, 10 s, and 1 s until the next
    /// look.
    pub(super) const DEFAULT: Self =
        Self { duration: Duration::from_secs(10), deadline: Duration::from_secs(6), retry: Duration::from_secs(1) };
}

/// One that would like to hold the Lease.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    timing: Timing,
    observed: Option<Observed>,
    until: Option<Instant>,
}

/// The Lease as it was seen last.
#[derive(Debug)]
struct Observed {
    lease: Lease,
    /// When what it says last changed, as far as was seen from here.
    since: Instant,
}

/// What to do about a Lease.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Intent {
    /// There is none: create this one.
    Create(Box<Lease>),
    /// Replace it by this one, which has the resource version of what was seen.
    Replace(Box<Lease>),
    /// Another one holds it until this moment, if nothing more is seen of it.
    Wait(Instant),
}

impl Candidate {
    pub(super) fn new(identity: String, timing: Timing) -> Self {
        Self { identity, timing, observed: None, until: None }
    }

    /// The moment until which this one may write; `None` when it does not hold the Lease.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether this one is the holder as far as was seen, so that it may renew without reading.
    pub(super) fn is_holder(&self) -> bool {
        self.until.is_some() && self.observed.as_ref().is_some_and(|seen| self.is_own(&seen.lease))
    }

    /// Who holds the Lease, as far as was seen.
    pub(super) fn holder(&self) -> Option<&str> {
        let spec = self.observed.as_ref()?.lease.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    /// Takes what was read at `now`; `None`: there is no Lease.
    pub(super) fn observe(&mut self, now: Instant, lease: Option<Lease>) {
        let Some(lease) = lease else {
            (self.observed, self.until) = (None, None);
            return;
        };
        if !self.is_own(&lease) {
            self.until = None;
        }
        match &mut self.observed {
            // Only what the Lease says counts as a sign of life: others may write labels and annotations.
            Some(observed) if observed.lease.spec == lease.spec => observed.lease = lease,
            Some(_) | None => self.observed = Some(Observed { lease, since: now }),
        }
    }

    /// What to do at `now`; `wall` is for people who look at the Lease.
    pub(super) fn intent(&self, now: Instant, wall: Timestamp) -> Intent {
        let Some(Observed { lease, since }) = &self.observed else {
            return Intent::Create(Box::new(Lease {
                spec: Some(self.taken(LeaseSpec::default(), wall)),
                ..Lease::default()
            }));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let own = self.is_own(lease);
        let is_free = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        let expiry = *since + self.lasts(&spec);
        if !own && !is_free && now < expiry {
            return Intent::Wait(expiry);
        }
        let spec = match own {
            true => LeaseSpec { renew_time: Some(MicroTime(wall)), ..self.taken_by_self(spec) },
            false => self.taken(spec, wall),
        };
        Intent::Replace(Box::new(Lease { spec: Some(spec), metadata: lease.metadata.clone() }))
    }

    /// Notes that the Lease was written as [`intent`](Self::intent) said, in a call that began at `begun`: others count
    /// from a later moment.
    pub(super) fn wrote(&mut self, begun: Instant, lease: Lease) {
        self.observed = Some(Observed { lease, since: begun });
        self.until = Some(begun + self.timing.deadline);
    }

    /// The Lease as it is to be written by a holder that stops: free at once.
    pub(super) fn release(&mut self, now: Instant, wall: Timestamp) -> Option<Box<Lease>> {
        let holds = self.until.take().is_some_and(|until| now < until);
        let Observed { lease, .. } = self.observed.as_ref().filter(|seen| holds && self.is_own(&seen.lease))?;
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            renew_time: Some(MicroTime(wall)),
            // Zero is refused.
            lease_duration_seconds: Some(1),
            ..lease.spec.clone().unwrap_or_default()
        };
        Some(Box::new(Lease { spec: Some(spec), metadata: lease.metadata.clone() }))
    }

    fn is_own(&self, lease: &Lease) -> bool {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        holder == Some(self.identity.as_str())
    }

    /// How long a Lease lasts without a renewal.
    fn lasts(&self, spec: &LeaseSpec) -> Duration {
        let stated = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        stated.map_or(self.timing.duration, Duration::from_secs).min(LONGEST)
    }

    /// A Lease that passes to this one.
    fn taken(&self, spec: LeaseSpec, wall: Timestamp) -> LeaseSpec {
        let transitions = spec.holder_identity.is_some().then(|| spec.lease_transitions.unwrap_or(0).saturating_add(1));
        LeaseSpec {
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions.unwrap_or(0)),
            ..self.taken_by_self(spec)
        }
    }

    fn taken_by_self(&self, spec: LeaseSpec) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.timing.duration.as_secs()).unwrap_or(i32::MAX)),
            ..spec
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timing = Timing::DEFAULT;
    const SECOND: Duration = Duration::from_secs(1);

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("in range")
    }

    fn held(by: &str, renewed: i64, version: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(by.to_owned()),
            lease_duration_seconds: Some(10),
            renew_time: Some(MicroTime(wall(renewed))),
            acquire_time: Some(MicroTime(wall(0))),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        let mut lease = Lease { spec: Some(spec), ..Lease::default() };
        lease.metadata.resource_version = Some(version.to_owned());
        lease
    }

    fn written(intent: Intent) -> Lease {
        match intent {
            Intent::Create(lease) | Intent::Replace(lease) => *lease,
            Intent::Wait(_) => panic!("it waits"),
        }
    }

    fn spec(lease: &Lease) -> &LeaseSpec {
        lease.spec.as_ref().expect("a spec")
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_there_is_created_and_held_until_the_deadline() {
        let mut one = Candidate::new("one".into(), T);
        let now = Instant::now();
        let Intent::Create(lease) = one.intent(now, wall(7)) else { panic!("there is none") };
        assert_eq!(spec(&lease).holder_identity.as_deref(), Some("one"));
        assert_eq!((spec(&lease).lease_duration_seconds, spec(&lease).lease_transitions), (Some(10), Some(0)));
        assert_eq!(one.until(), None, "nothing is held before it is written");
        one.wrote(now, *lease);
        assert_eq!(one.until(), Some(now + T.deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_keeps_the_time_of_taking_and_the_count() {
        let mut one = Candidate::new("one".into(), T);
        let now = Instant::now();
        one.wrote(now, held("one", 5, "7"));
        let lease = written(one.intent(now + SECOND, wall(6)));
        assert_eq!(lease.metadata.resource_version.as_deref(), Some("7"), "the precondition");
        assert_eq!(spec(&lease).acquire_time, Some(MicroTime(wall(0))));
        assert_eq!(spec(&lease).renew_time, Some(MicroTime(wall(6))));
        assert_eq!(spec(&lease).lease_transitions, Some(4));
        one.wrote(now + SECOND, lease);
        assert_eq!(one.until(), Some(now + SECOND + T.deadline));
    }

    /// Wall clocks may say what they like: what counts is when a change was seen here.
    #[tokio::test(start_paused = true)]
    async fn a_holder_counts_for_as_long_as_its_lease_lasts_from_the_last_change_that_was_seen() {
        for renewed in [-1_000_000, 0, 1_000_000] {
            let mut two = Candidate::new("two".into(), T);
            let begun = Instant::now();
            two.observe(begun, Some(held("one", renewed, "1")));
            assert_eq!(two.intent(begun, wall(0)), Intent::Wait(begun + T.duration));
            // Written by somebody else: no sign of life.
            two.observe(begun + 5 * SECOND, Some(held("one", renewed, "2")));
            let last = begun + T.duration - Duration::from_millis(1);
            assert_eq!(two.intent(last, wall(0)), Intent::Wait(begun + T.duration));
            let lease = written(two.intent(begun + T.duration, wall(9)));
            assert_eq!(lease.metadata.resource_version.as_deref(), Some("2"), "the precondition is the newest");
            assert_eq!(spec(&lease).holder_identity.as_deref(), Some("two"));
            assert_eq!(spec(&lease).lease_transitions, Some(5));
            assert_eq!(spec(&lease).acquire_time, Some(MicroTime(wall(9))));
            // A renewal, to any time at all, counts anew.
            two.observe(begun + T.duration, Some(held("one", renewed + 1, "3")));
            assert_eq!(two.intent(begun + T.duration, wall(0)), Intent::Wait(begun + 2 * T.duration));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_given_back_is_taken_at_once() {
        let now = Instant::now();
        let mut one = Candidate::new("one".into(), T);
        one.wrote(now, held("one", 0, "1"));
        let free = one.release(now + SECOND, wall(1)).expect("it holds it");
        assert_eq!(spec(&free).holder_identity.as_deref(), Some(""));
        assert_eq!(one.until(), None);
        assert_eq!(one.release(now + SECOND, wall(1)), None, "only once");
        let mut two = Candidate::new("two".into(), T);
        two.observe(now, Some(*free));
        let lease = written(two.intent(now, wall(2)));
        assert_eq!((spec(&lease).lease_duration_seconds, spec(&lease).lease_transitions), (Some(10), Some(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_longer_held_is_not_given_back() {
        let now = Instant::now();
        let mut one = Candidate::new("one".into(), T);
        one.wrote(now, held("one", 0, "1"));
        assert_eq!(one.release(now + T.deadline, wall(1)), None, "too late: another one may have it");
        one.wrote(now, held("one", 0, "1"));
        one.observe(now + SECOND, Some(held("two", 0, "2")));
        assert_eq!((one.until(), one.holder()), (None, Some("two")));
        assert_eq!(one.release(now + SECOND, wall(1)), None);
        one.wrote(now, held("one", 0, "1"));
        one.observe(now + SECOND, None);
        assert!(one.until().is_none() && !one.is_holder(), "it was deleted");
    }

    #[tokio::test(start_paused = true)]
    async fn absurd_durations_do_not_block_and_unknown_fields_stay() {
        let now = Instant::now();
        let mut two = Candidate::new("two".into(), T);
        let mut lease = held("one", 0, "1");
        let strange = lease.spec.as_mut().expect("a spec");
        strange.lease_duration_seconds = Some(i32::MAX);
        strange.strategy = Some("OldestEmulationVersion".to_owned());
        two.observe(now, Some(lease));
        assert_eq!(two.intent(now, wall(0)), Intent::Wait(now + LONGEST));
        let taken = written(two.intent(now + LONGEST, wall(0)));
        assert_eq!(spec(&taken).strategy.as_deref(), Some("OldestEmulationVersion"));
        let mut lease = held("one", 0, "2");
        lease.spec.as_mut().expect("a spec").lease_duration_seconds = Some(-5);
        two.observe(now, Some(lease));
        assert_eq!(two.intent(now, wall(0)), Intent::Wait(now + T.duration), "ours, where it says none");
        two.observe(now, Some(Lease::default()));
        assert!(matches!(two.intent(now, wall(0)), Intent::Replace(_)), "without anything in it, it is free");
    }

    #[test]
    fn a_holder_stops_before_another_one_may_take_over() {
        assert!(T.deadline + T.retry < T.duration);
    }
}
