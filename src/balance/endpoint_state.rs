//! The live numbers of one endpoint: in-flight requests, latency, effective weight, refusals.
//!
//! They belong to the endpoint, not to a rule or a snapshot: every worker shares them through one `Arc`, and every
//! publication carries them over by [`EndpointKey`]. No clock stands here: `now` is always the time since an epoch that
//! the process fixed at its start.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::connections::Connections;
use crate::model::ids::EndpointKey;

/// Nominal weight of every endpoint in the smooth weighted round robin.
///
/// All endpoints of one backend weigh the same; the number sets how deep and for how long failures cut: each takes a
/// third, so three in a row leave 1 % of a share, and 99 picks bring it back.
pub const ENDPOINT_WEIGHT: u32 = 100;

/// How long an address that refused a connection is passed over while others are left.
pub const REFUSED_FOR: Duration = Duration::from_secs(1);

/// Time constant of the latency average, as in Finagle and tower (`tower/src/load/peak_ewma.rs`).
pub const EWMA_DECAY: Duration = Duration::from_secs(10);

/// What an endpoint failed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A request: reset, too late, malformed, or answered with a status that counts as a failure.
    Error,
    /// A connection.
    Connect,
}

/// A tick of the average's time stamp is 2^17 ns = 131 µs: 32 bits of them last 6.5 days.
const TICK_SHIFT: u32 = 17;

/// The live numbers of one endpoint.
///
/// Two parts in cache lines of their own: one is written with every request, the other only when something about the
/// endpoint changes. So workers that write the numbers of different endpoints share no line, and a pick that passes an
/// endpoint over reads nothing that another worker is about to write.
///
/// The first line begins with the counts of the `Arc`, which every request writes too. The type itself asks for no such
/// alignment: the counts would get a line of their own then, for each of thousands. A state with its counts takes three
/// lines, and the allocator of the program places what has this size at the beginning of a line.
#[derive(Debug)]
#[repr(C)]
pub struct EndpointState {
    written: Written,
    /// Identity, and the address to use.
    pub key: EndpointKey,
    /// What no pick reads, once there is something.
    rare: OnceLock<Box<Mutex<Rare>>>,
    /// Nanoseconds since the epoch at which it came to a backend that was known before, or was healthy again; 0: it was there
    /// from the start.
    since: AtomicU64,
    /// Failed requests since the last that succeeded.
    errors: AtomicU32,
    /// Failed connections since then.
    connect_failures: AtomicU32,
    /// Nanoseconds since the epoch at which its last ejection ends; 0: never was ejected.
    ejected_until: AtomicU64,
    /// Nanoseconds since the epoch until which the address counts as refusing; 0: never did.
    refused_until: AtomicU64,
    /// Checks that hold it to be unhealthy.
    unhealthy_checks: AtomicU32,
    /// Requests that wait for a place here.
    awaited: AtomicU32,
    connections: Connections,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of the two counts of an `Arc`, which stand in front of what it holds.
const COUNTS: usize = 2 * size_of::<usize>();

/// The part that every request writes.
#[derive(Debug)]
#[repr(C)]
struct Written {
    /// Latency average: seconds as `f32` bits above, tick of its last update below; 0: nothing observed.
    /// One cell, so that two workers never pair one's average with the other's time.
    latency: AtomicU64,
    in_flight: AtomicU32,
    effective_weight: AtomicU32,
    /// A backend reaches it over HTTP/2, where many requests share a connection. Hardly ever written; looked at together with
    /// `in_flight`.
    shares_connections: AtomicBool,
    /// The rest of the line in which the counts of the `Arc` stand before it.
    _rest: [u64; (LINE - COUNTS) / size_of::<u64>() - 3],
}

/// What is read and written off the request path only.
#[derive(Debug, Default)]
struct Rare {
    /// The pod's address in the other IP family. Read after a failed connect and written at a publication: a second
    /// EndpointSlice may bring it while the endpoint stays.
    fallback: Option<SocketAddr>,
    /// Ejections in a row, at the end of the last one.
    ejections: u32,
    /// The queues in which somebody waits for a place here, and how many do.
    queues: Vec<(Arc<dyn Queue>, u32)>,
}

/// Where requests wait for a place at an endpoint.
pub(super) trait Queue: Send + Sync + fmt::Debug {
    /// Hands the place of a request that leaves over to the first that may have it; false when there is none.
    fn hand_over(&self, endpoint: &Arc<EndpointState>) -> bool;

    /// Gives places that are free to those that wait, in their order.
    fn serve(&self);
}

impl EndpointState {
    /// Makes the state of an endpoint that was never used, and that was there from the start.
    #[must_use]
    pub fn new(key: EndpointKey, fallback: Option<SocketAddr>) -> Self {
        let state = Self {
            written: Written {
                latency: AtomicU64::new(0),
                in_flight: AtomicU32::new(0),
                effective_weight: AtomicU32::new(ENDPOINT_WEIGHT),
                shares_connections: AtomicBool::new(false),
                _rest: Default::default(),
            },
            key,
            rare: OnceLock::new(),
            since: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            connect_failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            unhealthy_checks: AtomicU32::new(0),
            refused_until: AtomicU64::new(0),
            awaited: AtomicU32::new(0),
            connections: Connections::default(),
        };
        state.set_fallback(fallback);
        state
    }

    /// As [`new`](Self::new), of an endpoint that comes at `now` to others that are in use.
    #[must_use]
    pub fn new_at(key: EndpointKey, fallback: Option<SocketAddr>, now: Duration) -> Self {
        Self { since: AtomicU64::new(nanos(now)), ..Self::new(key, fallback) }
    }

    /// How long it has been among the endpoints of its backend, or in service again after an ejection or bad health; `None`
    /// where it was there from the start and never out of service.
    #[must_use]
    pub fn age(&self, now: Duration) -> Option<Duration> {
        let since = self.since.load(Ordering::Relaxed).max(self.ejected_until.load(Ordering::Relaxed));
        (since > 0).then(|| Duration::from_nanos(nanos(now).saturating_sub(since)))
    }

    fn rare(&self) -> MutexGuard<'_, Rare> {
        lock(self.rare.get_or_init(Box::default))
    }

    /// The same where something was written to it.
    fn known_rare(&self) -> Option<MutexGuard<'_, Rare>> {
        self.rare.get().map(|rare| lock(rare))
    }

    /// The same pod's address in the other IP family, for when connects to the preferred one fail.
    #[must_use]
    pub fn fallback(&self) -> Option<SocketAddr> {
        self.known_rare()?.fallback
    }

    /// Replaces the fallback address; the numbers stay.
    pub fn set_fallback(&self, fallback: Option<SocketAddr>) {
        if fallback.is_some() {
            self.rare().fallback = fallback;
        } else if let Some(mut rare) = self.known_rare() {
            rare.fallback = None;
        }
    }

    /// Its connections.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Whether its connections carry many requests at the same time.
    #[must_use]
    #[inline]
    pub fn shares_connections(&self) -> bool {
        self.written.shares_connections.load(Ordering::Relaxed)
    }

    /// Notes whether a backend reaches it over HTTP/2.
    pub(super) fn share_connections(&self, shares: bool) {
        // Written by requests, too: no line of the cache moves where nothing changes.
        if self.shares_connections() != shares {
            self.written.shares_connections.store(shares, Ordering::Relaxed);
        }
    }

    /// Counts a request as in flight until the guard is dropped, which belongs at the end of the response body.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.written.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { endpoint: Arc::clone(self) }
    }

    /// The same where fewer than `most` are in flight; `None` where there are as many.
    #[must_use]
    pub fn try_begin(self: &Arc<Self>, most: u32) -> Option<InFlight> {
        let count = |now: u32| (now < most).then(|| now + 1);
        // Ordered with `awaited`: whoever waits sees a place that is given up, or is seen by the one who gives it up.
        let counted = self.written.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count);
        counted.is_ok().then(|| InFlight { endpoint: Arc::clone(self) })
    }

    /// Notes that one more waits in a queue for a place here.
    pub(super) fn await_room(&self, queue: &Arc<dyn Queue>) {
        {
            let queues = &mut self.rare().queues;
            match queues.iter_mut().find(|(known, _)| Arc::ptr_eq(known, queue)) {
                Some((_, count)) => *count += 1,
                None => queues.push((Arc::clone(queue), 1)),
            }
        }
        self.awaited.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that one has ceased to.
    pub(super) fn await_no_more(&self, queue: &Arc<dyn Queue>) {
        self.awaited.fetch_sub(1, Ordering::SeqCst);
        let queues = &mut self.rare().queues;
        if let Some(at) = queues.iter().position(|(known, _)| Arc::ptr_eq(known, queue)) {
            queues[at].1 -= 1;
            if queues[at].1 == 0 {
                queues.swap_remove(at);
            }
        }
    }

    /// Whether somebody waits for a place here.
    #[must_use]
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::SeqCst) != 0
    }

    /// The queues in which somebody waits for a place here.
    #[cold]
    fn queues(&self) -> Vec<Arc<dyn Queue>> {
        self.known_rare().map_or_else(Vec::new, |rare| rare.queues.iter().map(|(queue, _)| Arc::clone(queue)).collect())
    }

    /// Requests in flight over all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.written.in_flight.load(Ordering::Relaxed)
    }

    /// Notes that the address refused a connection: picks pass it over for [`REFUSED_FOR`] while others are left.
    pub fn refused(&self, now: Duration) {
        // A worker that did not run for a while does not take back what another one has seen since.
        self.refused_until.fetch_max(nanos(now + REFUSED_FOR), Ordering::Relaxed);
    }

    /// Tells whether the address refused a connection less than [`REFUSED_FOR`] ago.
    #[must_use]
    pub fn is_refused(&self, now: Duration) -> bool {
        self.is_refused_at(nanos(now))
    }

    /// The same for a time in nanoseconds.
    #[inline]
    pub(super) fn is_refused_at(&self, now: u64) -> bool {
        now < self.refused_until.load(Ordering::Relaxed)
    }

    /// Notes a failure: a connect error, reset or timeout before a response head.
    ///
    /// The effective weight falls by a third of the weight, at least 1, down to 0 (nginx's `max_fails` arithmetic).
    pub fn failed(&self, _now: Duration) {
        let cut = (ENDPOINT_WEIGHT / 3).max(1);
        // The closure never answers None, so neither update can fail.
        let _ = self
            .written
            .effective_weight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |weight| Some(weight.saturating_sub(cut)));
    }

    /// Counts a fault in a row; gives how many there are.
    pub fn faulted(&self, fault: Fault) -> u32 {
        self.counter(fault).fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// Notes a request that the endpoint answered as it should. The weight recovers with picks, not here.
    #[inline]
    pub fn succeeded(&self, now: Duration) {
        // Written only when it changes something: the usual success leaves the shared line alone.
        if self.faults(Fault::Error) | self.faults(Fault::Connect) != 0 {
            self.cleared(now);
        }
    }

    #[cold]
    fn cleared(&self, now: Duration) {
        // What was sent before an ejection, or because nobody else was left, does not end the probation behind it.
        if !self.is_ejected(now) {
            self.errors.store(0, Ordering::Relaxed);
            self.connect_failures.store(0, Ordering::Relaxed);
        }
    }

    fn counter(&self, fault: Fault) -> &AtomicU32 {
        match fault {
            Fault::Error => &self.errors,
            Fault::Connect => &self.connect_failures,
        }
    }

    /// Faults since the last request that succeeded.
    #[must_use]
    pub fn faults(&self, fault: Fault) -> u32 {
        self.counter(fault).load(Ordering::Relaxed)
    }

    /// Whether it is ejected.
    #[must_use]
    pub fn is_ejected(&self, now: Duration) -> bool {
        self.is_ejected_at(nanos(now))
    }

    /// The same for a time in nanoseconds.
    #[inline]
    pub(super) fn is_ejected_at(&self, now: u64) -> bool {
        now < self.ejected_until.load(Ordering::Relaxed)
    }

    /// For how long it will be passed over because it is ejected, and because its address refused a connection.
    #[must_use]
    pub fn out_for(&self, now: Duration) -> (Option<Duration>, Option<Duration>) {
        let left = |until: &AtomicU64| until.load(Ordering::Relaxed).checked_sub(nanos(now)).filter(|left| *left > 0);
        (left(&self.ejected_until).map(Duration::from_nanos), left(&self.refused_until).map(Duration::from_nanos))
    }

    /// Ejects it until a time, as the last of so many ejections in a row, and sets what is counted of each [`Fault`].
    pub(super) fn eject(&self, until: Duration, ejections: u32, (errors, connect_failures): (u32, u32)) {
        self.rare().ejections = ejections;
        self.errors.store(errors, Ordering::Relaxed);
        self.connect_failures.store(connect_failures, Ordering::Relaxed);
        self.ejected_until.store(nanos(until), Ordering::Relaxed);
    }

    /// Ends an ejection before its time, for one who knows that the endpoint is well. Its probation stays.
    pub fn restore(&self, now: Duration) {
        if self.is_ejected(now) {
            self.ejected_until.store(nanos(now), Ordering::Relaxed);
        }
    }

    /// Ejections in a row: each `interval` in service has one forgotten.
    #[must_use]
    pub(super) fn ejections_at(&self, now: Duration, interval: Duration) -> u32 {
        let served = nanos(now).saturating_sub(self.ejected_until.load(Ordering::Relaxed));
        let forgotten = served / nanos(interval).max(1);
        let ejections = self.known_rare().map_or(0, |rare| rare.ejections);
        ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// Whether any active check holds it to be unhealthy.
    #[must_use]
    pub fn is_unhealthy_by_any(&self) -> bool {
        self.unhealthy_checks.load(Ordering::Relaxed) != 0
    }

    /// Notes that it is healthy again by a check: it warms up as a newcomer does.
    pub(super) fn recovered(&self, now: Duration) {
        self.since.fetch_max(nanos(now), Ordering::Relaxed);
    }

    /// Notes that one more check holds it to be unhealthy, or one less.
    pub(super) fn count_unhealthy(&self, is_unhealthy: bool) {
        if is_unhealthy {
            self.unhealthy_checks.fetch_add(1, Ordering::Relaxed);
        } else {
            self.unhealthy_checks.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The weight that failures lowered and picks raise again; 0 to [`ENDPOINT_WEIGHT`].
    #[must_use]
    pub fn effective_weight(&self) -> u32 {
        self.written.effective_weight.load(Ordering::Relaxed)
    }

    /// Raises the effective weight by one, as every pick that weighs endpoints does for each candidate.
    pub(super) fn recover(&self) {
        let weight = self.written.effective_weight.load(Ordering::Relaxed);
        if weight < ENDPOINT_WEIGHT {
            // One try: when another worker was quicker, its step counts for both.
            let _ = self.written.effective_weight.compare_exchange(
                weight,
                weight + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
    }

    /// Takes a latency (request sent to response head, or how long was waited for one in vain) into the peak-sensitive
    /// average: a higher one replaces it, a lower one draws it down with the time constant [`EWMA_DECAY`].
    pub fn observe_latency(&self, latency: Duration, now: Duration) {
        let tick = tick(now);
        let seen = latency.as_secs_f32().max(f32::MIN_POSITIVE);
        let _ = self.written.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |cell| {
            let average = match unpack(cell) {
                Some((average, since)) if seen <= average => {
                    let keep = decay(since, tick);
                    // Below one tick the average would never move, so the first of a tick counts and the rest wait.
                    if keep >= 1.0 {
                        return None;
                    }
                    average * keep + seen * (1.0 - keep)
                }
                Some(_) | None => seen,
            };
            Some(pack(average, tick))
        });
    }

    /// The latency average, decayed to `now`; `None` before the first observation.
    #[must_use]
    pub fn latency(&self, now: Duration) -> Option<Duration> {
        self.latency_seconds(now).map(Duration::from_secs_f32)
    }

    /// The same in seconds.
    pub(super) fn latency_seconds(&self, now: Duration) -> Option<f32> {
        let (average, since) = unpack(self.written.latency.load(Ordering::Relaxed))?;
        Some(average * decay(since, tick(now)))
    }
}

fn lock(rare: &Mutex<Rare>) -> MutexGuard<'_, Rare> {
    // Nothing that holds it can panic half way.
    rare.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one request as in flight; dropping it ends that.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
}

impl InFlight {
    /// The place of another request, which is not given up.
    pub(super) fn taken_over(endpoint: &Arc<EndpointState>) -> Self {
        Self { endpoint: Arc::clone(endpoint) }
    }

    /// The endpoint that it counts for.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let endpoint = &self.endpoint;
        if endpoint.is_awaited() && endpoint.queues().iter().any(|queue| queue.hand_over(endpoint)) {
            return;
        }
        endpoint.written.in_flight.fetch_sub(1, Ordering::SeqCst);
        // Somebody may have begun to wait in between.
        if endpoint.is_awaited() {
            endpoint.queues().iter().for_each(|queue| queue.serve());
        }
    }
}

/// Nanoseconds of a duration; 584 years fit.
#[inline]
pub(super) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

/// The tick of a time; wraps.
fn tick(now: Duration) -> u32 {
    // Only the low 32 bits are kept, on purpose.
    (nanos(now) >> TICK_SHIFT) as u32
}

/// Share of an average that is left after the time from tick `since` to tick `now`.
fn decay(since: u32, now: u32) -> f32 {
    let elapsed = now.wrapping_sub(since);
    // Workers read the clock apart: a stamp a little ahead of `now` is no time at all, not six days.
    if elapsed == 0 || elapsed > u32::MAX / 2 {
        return 1.0;
    }
    let seconds = f64::from(elapsed) * f64::from(1 << TICK_SHIFT) / 1e9;
    (-seconds / EWMA_DECAY.as_secs_f64()).exp() as f32
}

fn pack(average: f32, tick: u32) -> u64 {
    u64::from(average.to_bits()) << 32 | u64::from(tick)
}

fn unpack(cell: u64) -> Option<(f32, u32)> {
    let average = f32::from_bits((cell >> 32) as u32);
    (average > 0.0).then_some((average, cell as u32))
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn state() -> Arc<EndpointState> {
        let key = EndpointKey { addr: "10.0.0.1:80".parse().expect("address"), uid: None };
        Arc::new(EndpointState::new(key, None))
    }

    #[test]
    fn numbers_have_lines_of_their_own() {
        assert_eq!(
            offset_of!(EndpointState, key),
            LINE - COUNTS,
            "what is written with every request ends with a line"
        );
        // Three lines for each of thousands.
        let lines = (COUNTS + size_of::<EndpointState>()).div_ceil(LINE);
        assert_eq!(lines, 3);
        assert!(align_of::<EndpointState>() <= COUNTS, "nothing stands between the counts and the state");
    }

    #[test]
    fn age_counts_for_newcomers_only() {
        assert_eq!(state().age(5 * S), None);
        let key = state().key.clone();
        let newcomer = EndpointState::new_at(key, None, 3 * S);
        assert_eq!(newcomer.age(5 * S), Some(2 * S));
        // Workers read the clock apart.
        assert_eq!(newcomer.age(2 * S), Some(Duration::ZERO));
    }

    #[test]
    fn in_flight_ends_with_its_guard() {
        let state = state();
        let first = state.begin();
        let second = state.begin();
        assert_eq!(state.in_flight(), 2);
        drop(first);
        assert_eq!(state.in_flight(), 1);
        drop(second);
        assert_eq!(state.in_flight(), 0);
    }

    #[test]
    fn refusal_lasts_one_second() {
        let state = state();
        assert!(!state.is_refused(Duration::ZERO));
        state.refused(5 * S);
        assert!(state.is_refused(5 * S));
        assert!(state.is_refused(6 * S - Duration::from_nanos(1)));
        assert!(!state.is_refused(6 * S));
    }

    #[test]
    fn failures_cut_a_third_each_and_picks_restore_one() {
        let state = state();
        let weights: Vec<u32> = (0..5)
            .map(|_| {
                state.failed(S);
                state.effective_weight()
            })
            .collect();
        assert_eq!(weights, [67, 34, 1, 0, 0]);
        state.succeeded(S);
        assert_eq!(state.effective_weight(), 0);
        for expected in 1..=ENDPOINT_WEIGHT {
            state.recover();
            assert_eq!(state.effective_weight(), expected);
        }
        state.recover();
        assert_eq!(state.effective_weight(), ENDPOINT_WEIGHT);
    }

    #[test]
    fn latency_jumps_up_and_decays_down() {
        let state = state();
        let close = |found: Option<Duration>, seconds: f64| {
            let found = found.expect("observed").as_secs_f64();
            assert!((found - seconds).abs() < seconds * 1e-3, "{found} is not about {seconds}");
        };
        assert_eq!(state.latency(S), None);
        state.observe_latency(S / 10, S);
        close(state.latency(S), 0.1);
        // A peak counts at once.
        state.observe_latency(S / 2, S);
        close(state.latency(S), 0.5);
        // Ten seconds later a load of e^-1 is left, and so it is of the weight against a lower value.
        let e = (-1.0_f64).exp();
        close(state.latency(11 * S), 0.5 * e);
        state.observe_latency(S / 10, 11 * S);
        close(state.latency(11 * S), 0.5 * e + 0.1 * (1.0 - e));
        // In the same tick a lower value waits, a higher one does not.
        state.observe_latency(S / 100, 11 * S);
        close(state.latency(11 * S), 0.5 * e + 0.1 * (1.0 - e));
        state.observe_latency(S, 11 * S);
        close(state.latency(11 * S), 1.0);
        // A clock that is read a little early does not erase the average.
        close(state.latency(11 * S - Duration::from_micros(300)), 1.0);
    }

    #[test]
    fn fallback_can_change() {
        let state = state();
        assert_eq!(state.fallback(), None);
        let other = "[fd00::1]:80".parse().expect("address");
        state.set_fallback(Some(other));
        assert_eq!(state.fallback(), Some(other));
    }
}
