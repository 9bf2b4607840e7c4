//! Flights: calls of a backend that equal requests share, and the seats of those who wait for them.
//!
//! A flight begins with the first of equal requests, and others may join until the head of its answer is there. It is
//! flown by a task of the first one's worker ([`Pilot`]), which belongs to none of the requests: whoever leaves, the others
//! get the answer, and the last one to leave ends the call. What is shared between workers is here, in plain data behind
//! mutexes that guard a few moves each; no request without a Coalesce filter touches it.
//!
//! Locks are taken in one order: the shard of the key, then the flight. A flight's key is given free before anybody may
//! learn that it joins no longer, so that a newcomer finds either a flight that has room, or none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use rustc_hash::FxHashMap;

use crate::model::filter::Coalesce;
use crate::reason::Reason;
use crate::telemetry::access_log::AccessLogEntry;

/// Most bytes of all flights at the same time, unless the process is told otherwise.
pub(super) const FLIGHT_BYTES: usize = 64 << 20;

/// Keys are spread over so many maps, each with a mutex of its own.
const SHARDS: usize = 64;

/// How long the requests of a key go alone after an answer that could not be shared: else each of them would wait for
/// the one before it, which helps nobody.
const ALONE: Duration = Duration::from_secs(1);

/// Most keys of a shard that are remembered to go alone; beyond that, their requests wait for one another once more.
const MOST_ALONE: usize = 256;

/// Bytes of an answer for one request that may wait for it; beyond that the call waits for its client.
const WINDOW: usize = 64 << 10;

/// Locks what nothing that holds it leaves half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes requests equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlightKey {
    /// Host and path, which a request that changes something is about as well.
    pub(super) place: Arc<[u8]>,
    /// All that else has to be equal.
    pub(super) rest: Arc<[u8]>,
}

impl FlightKey {
    fn size(&self) -> usize {
        self.place.len() + self.rest.len()
    }
}

/// The bytes that all flights of the process hold together.
#[derive(Debug)]
pub(super) struct FlightRoom {
    most: usize,
    used: AtomicUsize,
}

impl FlightRoom {
    pub(super) fn new(most: usize) -> Self {
        Self { most, used: AtomicUsize::new(0) }
    }

    fn take(&self, bytes: usize) -> bool {
        let add = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// The flights of one filter, shared by all workers.
#[derive(Debug)]
pub(super) struct Flights {
    shards: Arc<Shards>,
    room: Arc<FlightRoom>,
}

#[derive(Debug)]
struct Shards {
    all: Box<[Mutex<Shard>]>,
    /// A client cannot choose keys that collide.
    secret: RandomState,
}

#[derive(Debug)]
struct Shard {
    /// The flights that can be joined, by both parts of their key.
    places: HashMap<Arc<[u8]>, HashMap<Arc<[u8]>, Arc<Flight>, RandomState>, RandomState>,
    /// By the hash of their whole key, those whose requests go alone, and until when. Two keys of one hash only go alone
    /// together.
    alone: FxHashMap<u64, Instant>,
}

impl Shards {
    fn of(&self, place: &[u8]) -> MutexGuard<'_, Shard> {
        lock(&self.all[(self.secret.hash_one(place) >> 58) as usize % SHARDS])
    }

    fn hash(&self, key: &FlightKey) -> u64 {
        self.secret.hash_one((&key.place, &key.rest))
    }
}

impl Shard {
    fn goes_alone(&mut self, hash: u64, now: Instant) -> bool {
        match self.alone.get(&hash) {
            Some(until) if now < *until => true,
            Some(_) => {
                self.alone.remove(&hash);
                false
            }
            None => false,
        }
    }

    fn remember_alone(&mut self, hash: u64, now: Instant) {
        if self.alone.len() >= MOST_ALONE {
            self.alone.retain(|_, until| now < *until);
        }
        if self.alone.len() < MOST_ALONE {
            self.alone.insert(hash, now + ALONE);
        }
    }
}

/// A place in a flight, and the flight itself for the one that begins it.
#[derive(Debug)]
pub struct Boarded {
    /// Where the answer comes to.
    pub seat: Seat,
    /// For the first: what has to be flown.
    pub pilot: Option<Pilot>,
}

impl Flights {
    pub(super) fn new(secret: &RandomState, room: Arc<FlightRoom>) -> Self {
        let shard = || Shard { places: HashMap::with_hasher(secret.clone()), alone: FxHashMap::default() };
        let all = (0..SHARDS).map(|_| Mutex::new(shard())).collect();
        Self { shards: Arc::new(Shards { all, secret: secret.clone() }), room }
    }

    /// Joins the flight of a key, or begins it. `None`: the request has to go alone, since the last answer could not be
    /// shared, since as many wait as may, or since there is no memory for more.
    pub(super) fn board(&self, key: FlightKey, terms: &Arc<Coalesce>, now: Instant) -> Option<Boarded> {
        let hash = self.shards.hash(&key);
        let mut shard = self.shards.of(&key.place);
        if shard.goes_alone(hash, now) {
            return None;
        }
        if let Some(flight) = shard.places.get(&*key.place).and_then(|place| place.get(&*key.rest)) {
            match flight.join(terms.max_waiters) {
                Joined::Seat(number) => {
                    let seat = Seat { flight: Arc::clone(flight), number };
                    return Some(Boarded { seat, pilot: None });
                }
                Joined::Full => return None,
                // Whoever has closed it is about to give the key free.
                Joined::Closed => {}
            }
        }
        if !self.room.take(key.size()) {
            return None;
        }
        let flight = Arc::new(Flight {
            hash,
            held: AtomicUsize::new(key.size()),
            room: Arc::clone(&self.room),
            shards: Arc::clone(&self.shards),
            state: Mutex::default(),
            key: key.clone(),
        });
        lock(&flight.state).seats.insert(0, None);
        let of_place =
            shard.places.entry(key.place).or_insert_with(|| HashMap::with_hasher(self.shards.secret.clone()));
        of_place.insert(key.rest, Arc::clone(&flight));
        let seat = Seat { flight: Arc::clone(&flight), number: 0 };
        Some(Boarded { seat, pilot: Some(Pilot { flight, terms: Arc::clone(terms) }) })
    }

    /// Lets nobody join the flights of a place any more that are under way: what they bring may be out of date.
    pub(super) fn forget(&self, place: &[u8]) {
        self.shards.of(place).places.remove(place);
    }

    /// Forgets the flights of a place when the value is dropped.
    pub(super) fn forget_later(&self, place: Arc<[u8]>) -> Forget {
        Forget { shards: Arc::clone(&self.shards), place }
    }

    /// Keys that have a flight which can be joined.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        let of_shard = |shard: &Mutex<Shard>| lock(shard).places.values().map(HashMap::len).sum::<usize>();
        self.shards.all.iter().map(of_shard).sum()
    }
}

/// Forgets the flights of a place when it is dropped. A request that may change something there keeps one until it is
/// answered or given up: the answer of a flight that began before may be that from before the change.
#[derive(Debug)]
pub struct Forget {
    shards: Arc<Shards>,
    place: Arc<[u8]>,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.shards.of(&self.place).places.remove(&self.place);
    }
}

/// The head of an answer that requests share.
#[derive(Debug, Default)]
pub struct FlightHead {
    /// Status.
    pub status: StatusCode,
    /// Its fields, as the layers inside of the filter left them.
    pub fields: HeaderMap,
    /// An endpoint's reason phrase, only for a status that has no registered one.
    pub phrase: Option<Bytes>,
    /// Bytes of the body; `None`: they are not known.
    pub length: Option<u64>,
    /// Why the gateway has answered itself.
    pub reason: Option<Reason>,
    /// What the access log says about the call, where there is one.
    pub entry: Option<Box<AccessLogEntry>>,
}

/// What became of a flight for one who waited.
#[derive(Debug)]
pub enum Landed {
    /// Its answer.
    Answer(FlightAnswer),
    /// It cannot be shared: the request has to go alone.
    Alone,
    /// The call panicked.
    Panicked,
}

struct Flight {
    key: FlightKey,
    /// Of the whole key.
    hash: u64,
    /// Bytes that it has taken of the room.
    held: AtomicUsize,
    room: Arc<FlightRoom>,
    shards: Arc<Shards>,
    state: Mutex<State>,
}

/// Not what it points to: its shard points back.
impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flight").field("hash", &self.hash).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// The number of the last one who joined.
    last: u64,
    /// Those who wait or read, by number, which is the order of arrival, with what wakes them.
    seats: BTreeMap<u64, Option<Waker>>,
    /// Wakes the pilot.
    pilot: Option<Waker>,
    head: Option<Arc<FlightHead>>,
    /// What is here of the body; for a single reader without what it has read.
    chunks: VecDeque<Bytes>,
    /// Bytes of those.
    buffered: usize,
    /// Bytes that came.
    came: u64,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Others may join.
    #[default]
    Open,
    /// Nobody joins any more; what becomes of the answer is not decided.
    Closed,
    /// All who wait have the answer.
    Shared,
    /// One of them has it; the others go alone.
    Given(u64),
    /// There is none: all go alone.
    Lost,
    Panicked,
}

#[derive(Clone, Debug)]
enum End {
    /// The body is complete; with its trailers.
    Complete(Option<HeaderMap>),
    /// It broke off.
    Cut(Reason),
}

enum Joined {
    Seat(u64),
    Full,
    Closed,
}

impl State {
    /// Takes out all who have to be woken; they are woken outside of the lock.
    fn wakers(&mut self) -> Vec<Waker> {
        self.seats.values_mut().filter_map(Option::take).collect()
    }

    /// All of the answer is here, whether or not its end was seen.
    fn is_complete(&self) -> bool {
        let length = self.head.as_ref().and_then(|head| head.length);
        self.end.is_some() || length == Some(self.came)
    }

    fn is_abandoned(&self) -> bool {
        self.seats.is_empty() && !self.is_complete()
    }

    fn has_one_reader(&self) -> bool {
        matches!(self.phase, Phase::Given(_))
    }
}

impl Flight {
    fn join(&self, most_waiters: u32) -> Joined {
        let state = &mut *lock(&self.state);
        if state.phase != Phase::Open {
            return Joined::Closed;
        }
        if state.seats.len() > most_waiters as usize {
            return Joined::Full;
        }
        state.last += 1;
        state.seats.insert(state.last, None);
        Joined::Seat(state.last)
    }

    /// Gives the key free, unless another flight has it.
    fn free(&self) {
        let mut shard = self.shards.of(&self.key.place);
        let Some(place) = shard.places.get_mut(&*self.key.place) else { return };
        if place.get(&*self.key.rest).is_some_and(|flight| std::ptr::eq(&raw const **flight, self)) {
            place.remove(&*self.key.rest);
        }
        if place.is_empty() {
            shard.places.remove(&*self.key.place);
        }
    }

    fn leave(&self, number: u64) {
        {
            let state = &mut *lock(&self.state);
            state.seats.remove(&number);
            if !state.is_abandoned() {
                return;
            }
            if state.phase == Phase::Open {
                state.phase = Phase::Closed;
            }
        }
        // Before the call ends: nobody joins one that is being given up.
        self.free();
        let pilot = lock(&self.state).pilot.take();
        pilot.into_iter().for_each(Waker::wake);
    }

    /// Ready once it is known what becomes of the waiter of this number.
    fn poll_landed(&self, number: u64, cx: &Context<'_>) -> Poll<Option<Arc<FlightHead>>> {
        let state = &mut *lock(&self.state);
        match state.phase {
            Phase::Open | Phase::Closed => {
                state.seats.insert(number, Some(cx.waker().clone()));
                Poll::Pending
            }
            Phase::Shared => Poll::Ready(state.head.clone()),
            Phase::Given(to) if to == number => Poll::Ready(state.head.clone()),
            Phase::Given(_) | Phase::Lost | Phase::Panicked => Poll::Ready(None),
        }
    }

    /// The next part of the body for the reader of this number, which has had `read` chunks of it.
    fn poll_part(&self, number: u64, read: &mut usize, cx: &Context<'_>) -> Poll<Part> {
        let (part, pilot) = {
            let state = &mut *lock(&self.state);
            let has_one_reader = state.has_one_reader();
            let chunk = if has_one_reader { state.chunks.pop_front() } else { state.chunks.get(*read).cloned() };
            match chunk {
                Some(chunk) => {
                    *read += 1;
                    let mut pilot = None;
                    if has_one_reader {
                        state.buffered -= chunk.len();
                        pilot = state.pilot.take();
                    }
                    let rest = if has_one_reader { state.chunks.len() } else { state.chunks.len() - *read };
                    let is_last = rest == 0 && matches!(state.end, Some(End::Complete(None)));
                    (Part::Data(chunk, is_last), pilot)
                }
                None => match &state.end {
                    Some(End::Complete(trailers)) => (Part::End(trailers.clone()), None),
                    Some(End::Cut(reason)) => (Part::Cut(*reason), None),
                    None => {
                        state.seats.insert(number, Some(cx.waker().clone()));
                        return Poll::Pending;
                    }
                },
            }
        };
        pilot.into_iter().for_each(Waker::wake);
        Poll::Ready(part)
    }

    /// Ends the wait of all with a phase in which there is no answer.
    fn give_up(&self, phase: Phase, reason: Reason) {
        let wakers = {
            let state = &mut *lock(&self.state);
            match state.phase {
                Phase::Open | Phase::Closed => state.phase = phase,
                Phase::Shared | Phase::Given(_) if state.end.is_none() => state.end = Some(End::Cut(reason)),
                Phase::Shared | Phase::Given(_) | Phase::Lost | Phase::Panicked => return,
            }
            state.wakers()
        };
        self.free();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.room.give_back(self.held.load(Ordering::Relaxed));
    }
}

/// What comes next of a body.
#[derive(Debug)]
enum Part {
    /// Bytes, and whether they are the last.
    Data(Bytes, bool),
    /// Nothing but trailers.
    End(Option<HeaderMap>),
    Cut(Reason),
}

/// A request's place in a flight. Dropping it leaves the flight.
#[derive(Debug)]
pub struct Seat {
    flight: Arc<Flight>,
    number: u64,
}

impl Seat {
    /// Whether it is that of the request that began the flight.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Waits for what becomes of the flight. Dropping the future leaves it.
    pub async fn landed(self) -> Landed {
        match poll_fn(|cx| self.flight.poll_landed(self.number, cx)).await {
            Some(head) => {
                let body = FlightBody { seat: self, read: 0, remaining: head.length };
                Landed::Answer(FlightAnswer { head, body })
            }
            None if lock(&self.flight.state).phase == Phase::Panicked => Landed::Panicked,
            None => Landed::Alone,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.flight.leave(self.number);
    }
}

/// The answer of a flight, for one who waited.
#[derive(Debug)]
pub struct FlightAnswer {
    /// Its head, which others may have as well.
    pub head: Arc<FlightHead>,
    /// Its body.
    pub body: FlightBody,
}

/// The body of such an answer. Dropping it leaves the flight.
#[derive(Debug)]
pub struct FlightBody {
    seat: Seat,
    /// Chunks that were read.
    read: usize,
    /// Bytes that are still to come, where that is known.
    remaining: Option<u64>,
}

impl FlightBody {
    /// Whether it is that of the request that began the flight.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.seat.is_first()
    }

    /// Bytes that are still to come, where that is known.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// The next frame, and whether it was the last; `None` at the end.
    ///
    /// # Errors
    /// The reason for which the call's answer broke off.
    pub fn poll_frame(&mut self, cx: &Context<'_>) -> Poll<Option<Result<(Frame<Bytes>, bool), Reason>>> {
        let Self { seat, read, remaining } = self;
        seat.flight.poll_part(seat.number, read, cx).map(|part| match part {
            Part::Data(data, is_last) => {
                *remaining = remaining.map(|remaining| remaining.saturating_sub(data.len() as u64));
                Some(Ok((Frame::data(data), is_last)))
            }
            Part::End(trailers) => trailers.map(|trailers| Ok((Frame::trailers(trailers), true))),
            Part::Cut(reason) => Some(Err(reason)),
        })
    }
}

/// Flies a flight: makes the call and brings its answer. Dropping it before that is decided sends all who wait away alone.
#[derive(Debug)]
pub struct Pilot {
    flight: Arc<Flight>,
    /// Of the filter.
    terms: Arc<Coalesce>,
}

impl Pilot {
    /// The terms on which answers are shared.
    #[must_use]
    pub fn terms(&self) -> &Coalesce {
        &self.terms
    }

    /// Ready once nobody wants the answer any more.
    pub fn poll_abandoned(&self, cx: &Context<'_>) -> Poll<()> {
        let state = &mut *lock(&self.flight.state);
        if state.is_abandoned() {
            return Poll::Ready(());
        }
        state.pilot = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Lets nobody join any more; how many wait.
    #[must_use]
    pub fn close(&self) -> usize {
        let waiting = {
            let state = &mut *lock(&self.flight.state);
            if state.phase == Phase::Open {
                state.phase = Phase::Closed;
            }
            state.seats.len()
        };
        self.flight.free();
        waiting
    }

    /// Takes memory for bytes of a body that is shared; false: there is none left.
    #[must_use]
    pub fn reserve(&self, bytes: usize) -> bool {
        let is_taken = self.flight.room.take(bytes);
        if is_taken {
            self.flight.held.fetch_add(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Gives all who wait the answer.
    pub fn share(&self, head: FlightHead) {
        self.land(head, |_| Phase::Shared);
    }

    /// Gives the answer to the one who has waited longest; the others go alone.
    pub fn give(&self, head: FlightHead) {
        self.land(head, |oldest| oldest.map_or(Phase::Lost, Phase::Given));
    }

    fn land(&self, head: FlightHead, phase: impl FnOnce(Option<u64>) -> Phase) {
        let wakers = {
            let state = &mut *lock(&self.flight.state);
            state.head = Some(Arc::new(head));
            state.phase = phase(state.seats.keys().next().copied());
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has the requests of this key go alone for a while.
    pub fn go_alone(&self, now: Instant) {
        let Flight { shards, key, hash, .. } = &*self.flight;
        shards.of(&key.place).remember_alone(*hash, now);
    }

    /// Ready when another part of the body may come: a single reader is not run over.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let state = &mut *lock(&self.flight.state);
        if !state.has_one_reader() || state.buffered < WINDOW {
            return Poll::Ready(());
        }
        state.pilot = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Brings a part of the body.
    pub fn push(&self, data: Bytes) {
        let wakers = {
            let state = &mut *lock(&self.flight.state);
            state.came += data.len() as u64;
            state.buffered += data.len();
            state.chunks.push_back(data);
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the body, with its trailers.
    pub fn finish(&self, trailers: Option<HeaderMap>) {
        self.end(End::Complete(trailers));
    }

    /// Breaks the body off.
    pub fn cut(&self, reason: Reason) {
        self.end(End::Cut(reason));
    }

    fn end(&self, end: End) {
        let wakers = {
            let state = &mut *lock(&self.flight.state);
            state.end = Some(end);
            state.wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The call panicked: nobody who waits tries the same.
    pub fn panicked(&self) {
        self.flight.give_up(Phase::Panicked, Reason::Panic);
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        // Its worker ends, or nobody is left who could notice.
        self.flight.give_up(Phase::Lost, Reason::Reset);
    }
}

#[cfg(test)]
mod tests;
