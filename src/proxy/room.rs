//! Room for client connections: how many there may be, and which of them leave when a new client needs a place.
//!
//! [`Room`] is the process's. For each client connection it knows since when no request runs on it, so that those that have
//! been idle longest are found whichever worker they belong to. Such a state is a number that the connection's own worker
//! writes, except for one step: asking it to leave. All of them are looked at only when places or file descriptors are
//! short. [`WorkerRoom`] is one worker's part, and a [`Place`] is a connection's.

use std::cell::Cell;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::admission::{Admission, YOUNG};
use super::pressure::{MemoryState, Pressure};
use crate::settings::Limits;

/// States of a place; anything below is the time since when the connection is idle, in microseconds.
const BUSY: u64 = u64::MAX;
/// Asked to leave by somebody who needs room; its own task has not seen it yet.
const ASKED: u64 = u64::MAX - 1;
/// Saying goodbye.
const LEAVING: u64 = u64::MAX - 2;
/// Not taken.
const FREE: u64 = u64::MAX - 3;

/// Places that are allocated together.
const CHUNK: usize = 64;
/// The most connections that are asked to leave at once.
const MOST_ASKED: usize = 64;
/// How long operators are not told again that room is short.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// From when on operators are told that a new client waits for memory.
const NOTICED: Duration = Duration::from_secs(1);
/// How often somebody who waits for room looks again: connections become idle without a word.
const PAUSE: Duration = Duration::from_millis(50);

/// File descriptors kept free for connections to endpoints, and the share of all that this is at most.
const RESERVED_FILES: u64 = 64;
const RESERVED_SHARE: u64 = 4;

/// How many of them are made free at once when none is left.
const AT_ONCE: u64 = 8;

type Chunk = [AtomicU64; CHUNK];

/// Room for the client connections of the process.
#[derive(Debug)]
pub struct Room {
    epoch: Instant,
    /// Most connections that are served at the same time.
    most: Option<usize>,
    most_per_address: Option<usize>,
    files: FileLimit,
    workers: Box<[Seats]>,
    /// Connections that count against `most`; not kept without it.
    served: AtomicUsize,
    /// Accepted connections that wait until they may be served.
    waiting: AtomicUsize,
    /// Told when one of the served has left.
    left: Notify,
    /// The connections of each client address; empty without a limit for them.
    addresses: Mutex<HashMap<IpAddr, Vec<Seat>>>,
    /// When operators were told that room is short, as states count time.
    told: AtomicU64,
    /// How short memory is.
    memory: MemoryState,
    admission: Admission,
}

/// The connections of one worker.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Seats(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    /// One waker per place; wakers may be used by other threads.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    states: Vec<Arc<Chunk>>,
}

/// Where a connection sits: its worker and the number of its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    worker: usize,
    index: usize,
}

/// What a look at all places found.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    idle: usize,
    asked: usize,
    leaving: usize,
}

/// The client's address has as many connections as it may, and none of them is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOfAddress;

impl Room {
    /// Room for the connections of `workers` workers. Takes the limit of open files as it is now.
    #[must_use]
    pub fn new(limits: &Limits, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            most: limits.connections,
            most_per_address: limits.connections_per_address,
            files: FileLimit::of_process(),
            workers: (0..workers).map(|_| Seats::default()).collect(),
            served: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            left: Notify::new(),
            addresses: Mutex::default(),
            told: AtomicU64::new(0),
            memory: MemoryState::default(),
            admission: Admission::default(),
        })
    }

    /// The most client connections that there may be: `limits.connections`, but no more than there are file descriptors for.
    /// `None` when neither has a limit.
    #[must_use]
    pub fn most_connections(&self) -> Option<u64> {
        let most = self.most.and_then(|most| u64::try_from(most).ok());
        most.into_iter().chain(self.files.first).min()
    }

    fn slots(&self, worker: usize) -> Option<MutexGuard<'_, Slots>> {
        self.workers.get(worker).map(|seats| lock(&seats.0))
    }

    /// Lets new clients in no faster than there is memory for them.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Puts how short memory is. Connections look at it at once: those whose client does not read when it gets shorter, and
    /// those whose client is not read from when it is over.
    pub fn set_pressure(&self, pressure: Pressure) {
        let before = self.memory.set(pressure);
        let eased = before >= Pressure::CloseIdle && pressure < Pressure::CloseIdle;
        if eased || (before < pressure && pressure >= Pressure::ResetStreams) {
            for worker in 0..self.workers.len() {
                self.wake_all_of(worker);
            }
        }
    }

    /// Asks half of the connections that are idle to leave, and no fewer than a few, since memory is short. How many were
    /// asked.
    pub fn ask_for_memory(&self) -> usize {
        let mut half = None;
        let mut asked = 0;
        while half.is_none_or(|half| asked < half) {
            let mut now = 0;
            self.ask_quietly(|census| {
                let left = half.get_or_insert_with(|| census.idle.div_ceil(2).max(MOST_ASKED)).saturating_sub(asked);
                now = left.min(MOST_ASKED).min(census.idle);
                now
            });
            if now == 0 {
                break;
            }
            asked += now;
        }
        asked
    }

    fn wake_all_of(&self, worker: usize) {
        if let Some(slots) = self.slots(worker) {
            slots.wakers.iter().flatten().for_each(Waker::wake_by_ref);
        }
    }

    /// Asks connections that have been idle longest to leave: as many as `wanted` makes of what is there, and tells
    /// operators. How many have been asked now or before and are still there.
    fn ask(&self, wanted: impl FnOnce(Census) -> usize) -> usize {
        let (before, asked) = self.ask_quietly(wanted);
        if asked > 0 {
            self.tell(asked);
        }
        before + asked
    }

    /// As [`ask`](Self::ask) without a word: how many had been asked before and are still there, and how many are asked
    /// now.
    fn ask_quietly(&self, wanted: impl FnOnce(Census) -> usize) -> (usize, usize) {
        let mut census = Census::default();
        // The youngest of the oldest is on top.
        let mut oldest: BinaryHeap<(u64, Seat)> = BinaryHeap::with_capacity(MOST_ASKED + 1);
        for worker in 0..self.workers.len() {
            let Some(slots) = self.slots(worker) else { continue };
            let states = slots.states.iter().flat_map(|chunk| chunk.iter());
            for (index, state) in states.take(slots.wakers.len()).enumerate() {
                match state.load(Ordering::Relaxed) {
                    BUSY | FREE => {}
                    ASKED => census.asked += 1,
                    LEAVING => census.leaving += 1,
                    since => {
                        census.idle += 1;
                        if oldest.len() < MOST_ASKED || oldest.peek().is_some_and(|(youngest, _)| since < *youngest) {
                            oldest.push((since, Seat { worker, index }));
                            if oldest.len() > MOST_ASKED {
                                oldest.pop();
                            }
                        }
                    }
                }
            }
        }
        let wanted = wanted(census);
        let oldest = oldest.into_sorted_vec();
        let asked = oldest.into_iter().filter(|(since, seat)| self.ask_one(*seat, *since)).take(wanted).count();
        (census.asked + census.leaving, asked)
    }

    /// Asks one connection to leave, unless it is no longer idle since then.
    fn ask_one(&self, seat: Seat, since: u64) -> bool {
        let Some(slots) = self.slots(seat.worker) else { return false };
        let asked = slots
            .state(seat.index)
            .is_some_and(|state| state.compare_exchange(since, ASKED, Ordering::Relaxed, Ordering::Relaxed).is_ok());
        if asked && let Some(Some(waker)) = slots.wakers.get(seat.index) {
            waker.wake_by_ref();
        }
        asked
    }

    /// Tells operators now and then that connections are closed for others.
    fn tell(&self, asked: usize) {
        let now = state_at(self.epoch, Instant::now());
        let before = self.told.load(Ordering::Relaxed);
        let pause = u64::try_from(TOLD_FOR.as_micros()).unwrap_or(u64::MAX);
        if before != 0 && now < before.saturating_add(pause) {
            return;
        }
        if self.told.compare_exchange(before, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(
                connections = asked,
                "few places for connections are left: closing those that have been idle longest"
            );
        }
    }
}

impl Slots {
    fn state(&self, index: usize) -> Option<&AtomicU64> {
        self.states.get(index / CHUNK)?.get(index % CHUNK)
    }

    fn take(&mut self) -> (usize, Arc<Chunk>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        if index / CHUNK == self.states.len() {
            self.states.push(Arc::new(std::array::from_fn(|_| AtomicU64::new(FREE))));
        }
        let chunk = self.states.get(index / CHUNK).expect("pushed with the first index in it");
        (index, Arc::clone(chunk))
    }
}

/// One worker's part of the room.
#[derive(Debug)]
pub struct WorkerRoom {
    room: Arc<Room>,
    worker: usize,
}

impl WorkerRoom {
    /// The part of the worker with this index, which must be below the number that the room was made for.
    #[must_use]
    pub fn new(room: &Arc<Room>, worker: usize) -> Rc<Self> {
        debug_assert!(worker < room.workers.len(), "a worker without room");
        Rc::new(Self { room: Arc::clone(room), worker })
    }

    /// The number of this worker's connections that are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.room.slots(self.worker).map_or(0, |slots| slots.wakers.len() - slots.free.len())
    }

    /// Wakes the tasks of all connections of this worker.
    pub fn wake_all(&self) {
        self.room.wake_all_of(self.worker);
    }

    /// How short memory is.
    #[must_use]
    pub fn memory(&self) -> &MemoryState {
        &self.room.memory
    }

    /// Lets new clients in.
    #[must_use]
    pub fn admission(&self) -> &Admission {
        &self.room.admission
    }

    /// Gives a new connection a place. `address` is the client's where it counts against the limit for each; the
    /// connections of this address that have been idle longest make room for it.
    ///
    /// # Errors
    /// When the address has as many as it may and not enough of them are idle.
    pub fn enter(self: &Rc<Self>, address: Option<IpAddr>) -> Result<Place, TooManyOfAddress> {
        let mut place = self.take();
        if let Some(address) = address {
            place.count(address)?;
        }
        Ok(place)
    }

    fn take(self: &Rc<Self>) -> Place {
        let mut slots = self.room.slots(self.worker).expect("a room has the slots of all its workers");
        let (index, states) = slots.take();
        drop(slots);
        let newness = Rc::new(Newness { home: Rc::clone(self), since: Cell::default() });
        let presence = Presence { states, index: index % CHUNK, epoch: self.room.epoch, newness };
        // Until it is served, nobody can be told to leave.
        presence.state().store(BUSY, Ordering::Relaxed);
        Place { home: Rc::clone(self), index, presence, address: None, served: false }
    }

    /// Waits until there is memory for a new client, or for one that was held back. `pause` is called when that takes long.
    pub async fn admit_to_memory(&self, place: &mut Place, pause: impl FnOnce()) {
        let mut entering = pin!(self.room.admission.enter());
        let counts = tokio::select! {
            biased;
            counts = entering.as_mut() => counts,
            () = tokio::time::sleep(NOTICED) => {
                pause();
                entering.await
            }
        };
        place.presence.newness.begin(counts);
    }

    /// Asks so many of `seats` to leave that there is room for one more; false when not so many are idle.
    fn make_room_among(&self, seats: &[Seat], most: usize) -> bool {
        if seats.len() < most {
            return true;
        }
        // Those that stay though they were asked, since their client had just sent something, must not add up.
        if seats.len() >= most.saturating_mul(2) {
            return false;
        }
        let mut going = 0;
        let mut idle = Vec::new();
        for seat in seats {
            let Some(slots) = self.room.slots(seat.worker) else { continue };
            match slots.state(seat.index).map_or(FREE, |state| state.load(Ordering::Relaxed)) {
                BUSY | FREE => {}
                ASKED | LEAVING => going += 1,
                since => idle.push((since, *seat)),
            }
        }
        let needed = (seats.len() + 1 - most).saturating_sub(going);
        if idle.len() < needed {
            return false;
        }
        idle.sort_unstable();
        idle.into_iter().filter(|(since, seat)| self.room.ask_one(*seat, *since)).take(needed).count() == needed
    }

    /// Waits until a connection may be served: with as many as `limits.connections` allows, one that is idle leaves for it.
    /// `pause` is called when none is idle, so that the wait may be long.
    pub async fn admit(&self, place: &mut Place, mut pause: impl FnMut()) {
        if self.try_admit(place) {
            return;
        }
        let _waiting = Waiting::begin(&self.room);
        let mut paused = false;
        loop {
            let mut left = pin!(self.room.left.notified());
            left.as_mut().enable();
            if self.try_admit(place) {
                return;
            }
            if self.ask_for_places() == 0 && !std::mem::replace(&mut paused, true) {
                pause();
            }
            tokio::select! {
                () = left => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    fn try_admit(&self, place: &mut Place) -> bool {
        let Some(most) = self.room.most else { return true };
        let one_more = |served| (served < most).then_some(served + 1);
        if !place.served {
            place.served = self.room.served.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        }
        place.served
    }

    /// Asks a connection to leave for each that waits. Large rooms are looked through for several at once.
    fn ask_for_places(&self) -> usize {
        let waiting = self.room.waiting.load(Ordering::Relaxed);
        self.room.ask(|census| match waiting.saturating_sub(census.asked) {
            0 => 0,
            needed => needed.max(census.idle >> 10).min(MOST_ASKED),
        })
    }

    /// How many file descriptors too many are in use, when `file` was opened last: the kernel gives out the lowest free
    /// number, so a number tells how many are taken.
    #[must_use]
    pub fn files_over<F: AsFd>(&self, file: &F) -> FilesOver {
        let number = u64::try_from(file.as_fd().as_raw_fd()).unwrap_or(0);
        FilesOver(self.room.files.over(number))
    }

    /// As [`files_over`](Self::files_over), when no file could be opened.
    #[must_use]
    pub fn no_files(&self) -> FilesOver {
        FilesOver(self.room.files.reserve.max(1))
    }

    /// Asks as many idle connections to leave as file descriptors are in use too many, and a few more.
    #[must_use]
    pub fn ask_for_files(&self, over: FilesOver) -> FilesComing {
        let FilesOver(over) = over;
        if over == 0 {
            return FilesComing::Enough;
        }
        let wanted = |census: Census| {
            let more = (census.idle / 32).min(MOST_ASKED / 2);
            usize::try_from(over)
                .unwrap_or(MOST_ASKED)
                .saturating_add(more)
                .saturating_sub(census.asked + census.leaving)
        };
        match self.room.ask(wanted) {
            0 => FilesComing::None,
            _ if over <= self.room.files.reserve / 2 => FilesComing::Enough,
            _ => FilesComing::Soon,
        }
    }

    /// Asks a few idle connections to leave, when none of the reserve is left for a connection to an endpoint.
    pub fn ask_for_reserve(&self) {
        let _ = self.ask_for_files(FilesOver(AT_ONCE));
    }

    /// Waits until file descriptors are free again, as connections leave. `pause` is called when none of them is idle, so
    /// that the wait may be long.
    pub async fn wait_for_files(&self, coming: FilesComing, mut pause: impl FnMut()) {
        let mut coming = coming;
        let mut paused = false;
        let mut wait = Duration::from_millis(1);
        while coming != FilesComing::Enough {
            if coming == FilesComing::None && !std::mem::replace(&mut paused, true) {
                pause();
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(PAUSE);
            let over = std::fs::File::open("/dev/null").map_or_else(|_| self.no_files(), |file| self.files_over(&file));
            coming = self.ask_for_files(over);
        }
    }
}

/// How many file descriptors too many are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilesOver(u64);

/// Whether file descriptors become free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesComing {
    /// There are enough for now.
    Enough,
    /// Idle connections are leaving.
    Soon,
    /// Nobody is idle.
    None,
}

/// Counts one that waits.
struct Waiting<'a>(&'a Room);

impl<'a> Waiting<'a> {
    fn begin(room: &'a Room) -> Self {
        room.waiting.fetch_add(1, Ordering::Relaxed);
        Self(room)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    home: Rc<WorkerRoom>,
    index: usize,
    presence: Presence,
    /// The client's address, where it counts.
    address: Option<IpAddr>,
    /// It counts against the limit of all.
    served: bool,
}

impl Place {
    /// Notes whom to wake; a connection is always polled by its own task, so once is enough.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        if let Some(mut slots) = self.home.room.slots(self.home.worker)
            && let Some(slot) = slots.wakers.get_mut(self.index)
        {
            *slot = Some(cx.waker().clone());
        }
    }

    /// Counts the connection against the limit for each address, which must not have been done before; those of this address
    /// that have been idle longest make room for it.
    ///
    /// # Errors
    /// When the address has as many as it may and not enough of them are idle.
    pub(super) fn count(&mut self, address: IpAddr) -> Result<(), TooManyOfAddress> {
        let Some(most) = self.home.room.most_per_address else { return Ok(()) };
        let mut addresses = lock(&self.home.room.addresses);
        let seats = addresses.entry(address).or_default();
        let has_room = self.home.make_room_among(seats, most);
        if has_room {
            seats.push(Seat { worker: self.home.worker, index: self.index });
        } else if seats.is_empty() {
            addresses.remove(&address);
        }
        drop(addresses);
        if has_room {
            self.address = Some(address);
            Ok(())
        } else {
            Err(TooManyOfAddress)
        }
    }

    /// The worker's part of the room.
    pub(super) fn home(&self) -> &Rc<WorkerRoom> {
        &self.home
    }

    /// Where the connection notes what it does.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The connection leaves, as it was asked to: whoever waits may have its place while it says goodbye.
    pub(super) fn leave(&mut self) {
        self.presence.state().store(LEAVING, Ordering::Relaxed);
        self.release();
    }

    fn release(&mut self) {
        if std::mem::take(&mut self.served) {
            self.home.room.served.fetch_sub(1, Ordering::Relaxed);
            self.home.room.left.notify_waiters();
        }
    }

    fn seat(&self) -> Seat {
        Seat { worker: self.home.worker, index: self.index }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let room = &self.home.room;
        if let Some(address) = self.address {
            let mut addresses = lock(&room.addresses);
            if let Some(seats) = addresses.get_mut(&address) {
                seats.retain(|seat| *seat != self.seat());
                if seats.is_empty() {
                    addresses.remove(&address);
                }
            }
        }
        if let Some(mut slots) = room.slots(self.home.worker) {
            self.presence.state().store(FREE, Ordering::Relaxed);
            if let Some(slot) = slots.wakers.get_mut(self.index) {
                *slot = None;
            }
            slots.free.push(self.index);
        }
        self.presence.newness.end();
        self.release();
    }
}

/// Since when a client has been new, as far as its memory is concerned.
#[derive(Debug)]
pub(super) struct Newness {
    home: Rc<WorkerRoom>,
    /// `None` when it does not count.
    since: Cell<Option<Instant>>,
}

impl Newness {
    /// The client was let in now; it counts as new if `counts`.
    pub(super) fn begin(&self, counts: bool) {
        self.since.set(counts.then(Instant::now));
    }

    /// What the client needs is in use now, or no longer needed.
    pub(super) fn end(&self) {
        if self.since.take().is_some_and(|since| since.elapsed() < YOUNG) {
            self.home.room.admission.ended();
        }
    }
}

/// Where a connection notes whether it is idle, for whoever needs room.
#[derive(Clone)]
pub(super) struct Presence {
    states: Arc<Chunk>,
    index: usize,
    epoch: Instant,
    newness: Rc<Newness>,
}

impl Presence {
    /// Whether the client is new.
    pub(super) fn newness(&self) -> &Newness {
        &self.newness
    }

    fn state(&self) -> &AtomicU64 {
        self.states.get(self.index).expect("an index below the length of a chunk")
    }

    /// A request runs, or something else than HTTP: the connection is not asked to leave.
    pub(super) fn busy(&self) {
        if self.state().load(Ordering::Relaxed) != LEAVING {
            self.state().store(BUSY, Ordering::Relaxed);
        }
    }

    /// No request runs any more.
    pub(super) fn idle(&self, now: Instant) {
        if self.state().load(Ordering::Relaxed) != LEAVING {
            self.state().store(state_at(self.epoch, now), Ordering::Relaxed);
        }
    }

    /// Whether somebody needs its place.
    pub(super) fn is_asked(&self) -> bool {
        self.state().load(Ordering::Relaxed) == ASKED
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presence").field(self.state()).finish()
    }
}

/// From which file descriptor on few are left.
#[derive(Clone, Copy, Debug)]
struct FileLimit {
    /// The first number of the reserve; `None` without a limit.
    first: Option<u64>,
    /// Descriptors kept free for connections to endpoints.
    reserve: u64,
}

impl FileLimit {
    fn of_process() -> Self {
        Self::new(rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
    }

    fn new(limit: Option<u64>) -> Self {
        let reserve = limit.map_or(0, |limit| RESERVED_FILES.min(limit / RESERVED_SHARE));
        Self { first: limit.map(|limit| limit - reserve), reserve }
    }

    /// How many numbers of the reserve are in use with `number`.
    fn over(self, number: u64) -> u64 {
        self.first.map_or(0, |first| (number + 1).saturating_sub(first))
    }
}

/// A time as states count it: never one of the marks above.
fn state_at(epoch: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(epoch).as_micros()).unwrap_or(FREE).min(FREE - 1)
}

/// Locks; what a panicking thread left behind is still places.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
