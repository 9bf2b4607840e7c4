//! A weighted semaphore with a queue in the order of arrival.
//!
//! Nobody overtakes: while somebody waits, newcomers wait behind, and a heavy request at the head of the queue holds up
//! lighter ones behind it, which would starve it otherwise. Whoever leaves the queue lets those behind look again, and a
//! permit that was granted to somebody who has just left goes back.
//!
//! As long as nobody waits, a permit is one compare-and-exchange, and its return one subtraction. The mutex of the queue
//! is taken only while somebody waits.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

/// Keys are spread over so many maps, each with a mutex of its own.
const SHARDS: usize = 64;

/// The semaphores of one filter: one for all, or one for each key that is in use.
#[derive(Debug)]
pub(super) struct Semaphores {
    plain: Arc<Semaphore>,
    keyed: Arc<Shards>,
}

#[derive(Debug)]
struct Shards(Box<[Mutex<FxHashMap<u64, Arc<Semaphore>>>]>);

impl Shards {
    fn of(&self, key: u64) -> MutexGuard<'_, FxHashMap<u64, Arc<Semaphore>>> {
        // Nothing that holds it can panic half way.
        self.0[(key >> 58) as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Semaphores {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { plain: Arc::default(), keyed: Arc::new(Shards(shards)) }
    }
}

impl Semaphores {
    /// The one for all.
    pub(super) fn plain(&self) -> Handle {
        Handle { semaphore: Some(Arc::clone(&self.plain)), home: None }
    }

    /// That of a key, which lives for as long as somebody uses it.
    pub(super) fn of(&self, key: u64) -> Handle {
        let semaphore = Arc::clone(self.keyed.of(key).entry(key).or_default());
        Handle { semaphore: Some(semaphore), home: Some((Arc::clone(&self.keyed), key)) }
    }

    /// Keys in use.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.keyed.0.iter().map(|shard| shard.lock().expect("nobody panics").len()).sum()
    }
}

/// Keeps a semaphore in use.
#[derive(Debug)]
pub(super) struct Handle {
    /// `None` only while it is dropped.
    semaphore: Option<Arc<Semaphore>>,
    home: Option<(Arc<Shards>, u64)>,
}

impl Handle {
    fn semaphore(&self) -> &Semaphore {
        self.semaphore.as_ref().expect("taken by drop alone")
    }

    /// A permit of `weight`, where the sum of weights may be `limit` and nobody waits.
    pub(super) fn try_acquire(self, weight: u32, limit: u32) -> Result<Permit, Self> {
        if self.semaphore().try_take(weight, limit) { Ok(Permit { weight, handle: self }) } else { Err(self) }
    }

    /// A permit of `weight` whatever the limit is.
    pub(super) fn take(self, weight: u32) -> Permit {
        self.semaphore().state.fetch_add(u64::from(weight) << 32, Ordering::AcqRel);
        Permit { weight, handle: self }
    }

    /// Joins the queue; `None` where `longest` wait already.
    pub(super) fn join(self, weight: u32, longest: u32) -> Option<Waiting> {
        let number = self.semaphore().join(weight, longest)?;
        Some(Waiting { number, weight, handle: Some(self) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some((shards, key)) = &self.home else { return };
        let mut semaphores = shards.of(*key);
        // In the lock, so that the last one who leaves sees that it is the last.
        drop(self.semaphore.take());
        if semaphores.get(key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            semaphores.remove(key);
        }
    }
}

#[derive(Debug, Default)]
struct Semaphore {
    /// Upper half: the sum of weights that permits have. Lower half: how many wait.
    state: AtomicU64,
    /// The limit that the last request came with; a change of the configuration holds from there on.
    limit: AtomicU32,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The number of the next one.
    next: u64,
    /// By number, which is the order of arrival.
    waiting: VecDeque<Waiter>,
    /// Those who have a permit and have not taken it yet.
    granted: FxHashSet<u64>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    weight: u32,
    waker: Option<Waker>,
}

const fn used(state: u64) -> u64 {
    state >> 32
}

const fn waiting(state: u64) -> u64 {
    state & 0xffff_ffff
}

impl Semaphore {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds it can panic half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_take(&self, weight: u32, limit: u32) -> bool {
        if self.limit.load(Ordering::Relaxed) != limit {
            self.limit.store(limit, Ordering::Relaxed);
        }
        let fits = |state| waiting(state) == 0 && used(state) + u64::from(weight) <= u64::from(limit);
        let add = |state: u64| fits(state).then(|| state + (u64::from(weight) << 32));
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_ok()
    }

    fn join(&self, weight: u32, longest: u32) -> Option<u64> {
        let (number, woken) = {
            let queue = &mut *self.lock();
            if queue.waiting.len() >= longest as usize {
                return None;
            }
            queue.next += 1;
            let number = queue.next;
            queue.waiting.push_back(Waiter { number, weight, waker: None });
            self.state.fetch_add(1, Ordering::AcqRel);
            // Whoever returned a permit before this one was counted has looked for nobody.
            (number, self.grant(queue))
        };
        woken.into_iter().for_each(Waker::wake);
        Some(number)
    }

    fn release(&self, weight: u32) {
        let before = self.state.fetch_sub(u64::from(weight) << 32, Ordering::AcqRel);
        if waiting(before) > 0 {
            let woken = self.grant(&mut self.lock());
            woken.into_iter().for_each(Waker::wake);
        }
    }

    /// Grants permits from the head of the queue on, as many as fit; who has to be woken outside of the lock.
    fn grant(&self, queue: &mut Queue) -> Vec<Waker> {
        let mut woken = Vec::new();
        let limit = u64::from(self.limit.load(Ordering::Relaxed));
        while let Some(first) = queue.waiting.front() {
            let weight = u64::from(first.weight);
            let fits = |state| used(state) + weight <= limit;
            let take = |state: u64| fits(state).then(|| state + (weight << 32) - 1);
            if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
                break;
            }
            if let Some(waiter) = queue.waiting.pop_front() {
                queue.granted.insert(waiter.number);
                woken.extend(waiter.waker);
            }
        }
        woken
    }

    /// Ready once the waiter of this number has its permit.
    fn poll(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let queue = &mut *self.lock();
        if queue.granted.remove(&number) {
            return Poll::Ready(());
        }
        if let Ok(at) = queue.waiting.binary_search_by_key(&number, |waiter| waiter.number)
            && let Some(waiter) = queue.waiting.get_mut(at)
        {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes a waiter out; what it was granted goes back.
    fn leave(&self, number: u64, weight: u32) {
        let (granted, woken) = {
            let queue = &mut *self.lock();
            let granted = queue.granted.remove(&number);
            if let Ok(at) = queue.waiting.binary_search_by_key(&number, |waiter| waiter.number) {
                queue.waiting.remove(at);
                self.state.fetch_sub(1, Ordering::AcqRel);
            }
            // It may have been the heavy one at the head.
            (granted, self.grant(queue))
        };
        woken.into_iter().for_each(Waker::wake);
        if granted {
            self.release(weight);
        }
    }
}

/// A request may be in flight. Dropping it gives the place to the next one.
#[derive(Debug)]
pub struct Permit {
    weight: u32,
    handle: Handle,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.handle.semaphore().release(self.weight);
    }
}

/// A place in the queue, for a request that has to wait.
#[derive(Debug)]
pub struct Queued {
    /// Gives the permit.
    pub place: Waiting,
    /// How long it may take.
    pub timeout: Duration,
}

/// A place in the queue: a future that gives the permit. Dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    number: u64,
    weight: u32,
    /// `None` once the permit is there.
    handle: Option<Handle>,
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let number = self.number;
        let Some(handle) = &self.handle else { return Poll::Pending };
        match handle.semaphore().poll(number, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => match self.handle.take() {
                Some(handle) => Poll::Ready(Permit { weight: self.weight, handle }),
                None => Poll::Pending,
            },
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            handle.semaphore().leave(self.number, self.weight);
        }
    }
}

#[cfg(test)]
mod tests;
