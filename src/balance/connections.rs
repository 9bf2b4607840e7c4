//! How many connections an endpoint has, who waits for one, and who may give one up.
//!
//! The count is the endpoint's, over all workers and rules; bounds are those of the rule that asks. Whoever closes a
//! connection while somebody waits hands its place over to the first that may have it, so that nobody who comes later
//! overtakes. A connection that is idle in one worker's pool would keep others waiting: whoever begins to wait asks all
//! workers that have connections to the endpoint, and each closes what it does not use.
//!
//! Without waiters a connection costs one addition at its begin and one at its end. The mutex is for those that wait and
//! for pools that come and go.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashSet;

/// The connections of one endpoint.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU32,
    /// Those that wait for one and have not got it.
    awaited: AtomicU32,
    /// `None` before the first pool has connected.
    rare: Mutex<Option<Box<Rare>>>,
}

#[derive(Debug, Default)]
struct Rare {
    /// The number of the next waiter.
    next: u64,
    /// By number, which is the order of arrival.
    waiting: VecDeque<Waiter>,
    /// Those that got a place and have not taken it yet.
    granted: FxHashSet<u64>,
    /// The pools that have connections, each with its name for the endpoint.
    pools: Vec<(usize, Arc<dyn ConnectionPool>)>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Connections that the endpoint may have with its own.
    most: u32,
    /// Its worker has no connection to the endpoint at all.
    is_without: bool,
    waker: Option<Waker>,
}

/// A worker's connections.
pub trait ConnectionPool: Send + Sync + fmt::Debug {
    /// Somebody waits for a connection to the endpoint that the pool knows by this name: idle ones are to be closed. Must not
    /// call back.
    fn asked(&self, endpoint: usize);
}

impl Connections {
    fn rare(&self) -> MutexGuard<'_, Option<Box<Rare>>> {
        // Nothing that holds it can panic half way.
        self.rare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open or being opened.
    #[must_use]
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for one.
    #[must_use]
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::SeqCst) != 0
    }

    /// Whether one waits whose worker has none: a connection that many requests share is then given up in turn.
    #[must_use]
    pub fn is_awaited_by_one_without(&self) -> bool {
        self.is_awaited()
            && self.rare().as_ref().is_some_and(|rare| rare.waiting.iter().any(|waiter| waiter.is_without))
    }

    /// Notes a pool that has connections, so that it is asked when somebody waits for one.
    pub fn add_pool(&self, name: usize, pool: Arc<dyn ConnectionPool>) {
        self.rare().get_or_insert_default().pools.push((name, pool));
    }

    /// Forgets a pool.
    pub fn remove_pool(&self, name: usize, pool: &Arc<dyn ConnectionPool>) {
        if let Some(rare) = &mut *self.rare() {
            rare.pools.retain(|(of, known)| *of != name || !Arc::ptr_eq(known, pool));
        }
    }

    /// Counts one more, whatever others may.
    pub(super) fn add(&self) {
        self.open.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one more where fewer than `most` are there.
    pub(super) fn try_add(&self, most: u32) -> bool {
        let count = |now: u32| (now < most).then(|| now + 1);
        // Ordered with `awaited`: whoever waits sees a place that is given up, or is seen by the one who gives it up.
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok()
    }

    /// Counts one less, or hands its place over.
    pub(super) fn remove(&self) {
        if self.is_awaited() && self.hand_over() {
            return;
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
        // Somebody may have begun to wait in between.
        if self.is_awaited() {
            self.serve();
        }
    }

    #[cold]
    fn hand_over(&self) -> bool {
        let waiter = {
            let mut rare = self.rare();
            let Some(rare) = &mut *rare else { return false };
            let open = self.open();
            let Some(at) = rare.waiting.iter().position(|waiter| open <= waiter.most) else { return false };
            let Some(waiter) = rare.waiting.remove(at) else { return false };
            rare.granted.insert(waiter.number);
            self.awaited.fetch_sub(1, Ordering::SeqCst);
            waiter
        };
        waiter.waker.into_iter().for_each(Waker::wake);
        true
    }

    /// Gives places that are free to those that wait, in their order.
    #[cold]
    fn serve(&self) {
        let mut wakers = Vec::new();
        if let Some(rare) = &mut *self.rare() {
            let Rare { waiting, granted, .. } = &mut **rare;
            waiting.retain_mut(|waiter| {
                if !self.try_add(waiter.most) {
                    return true;
                }
                granted.insert(waiter.number);
                self.awaited.fetch_sub(1, Ordering::SeqCst);
                wakers.extend(waiter.waker.take());
                false
            });
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Begins to wait for a place where the endpoint may have `most`, and asks everybody for one; gives the waiter's number.
    pub(super) fn join(&self, most: u32, is_without: bool) -> u64 {
        let (number, pools) = {
            let mut rare = self.rare();
            let rare = rare.get_or_insert_default();
            rare.next += 1;
            let number = rare.next;
            rare.waiting.push_back(Waiter { number, most, is_without, waker: None });
            self.awaited.fetch_add(1, Ordering::SeqCst);
            (number, rare.pools.clone())
        };
        // One that closed before it could know of the newcomer has told nobody.
        self.serve();
        pools.iter().for_each(|(name, pool)| pool.asked(*name));
        number
    }

    /// Ready once the waiter has a place.
    pub(super) fn poll(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let mut rare = self.rare();
        let Some(rare) = &mut *rare else { return Poll::Pending };
        if rare.granted.remove(&number) {
            return Poll::Ready(());
        }
        if let Ok(at) = rare.waiting.binary_search_by_key(&number, |waiter| waiter.number)
            && let Some(waiter) = rare.waiting.get_mut(at)
        {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends waiting; what was granted already goes to the next one.
    pub(super) fn leave(&self, number: u64) {
        let was_granted = {
            let mut rare = self.rare();
            let Some(rare) = &mut *rare else { return };
            if let Ok(at) = rare.waiting.binary_search_by_key(&number, |waiter| waiter.number) {
                rare.waiting.remove(at);
                self.awaited.fetch_sub(1, Ordering::SeqCst);
            }
            rare.granted.remove(&number)
        };
        if was_granted {
            self.remove();
        }
    }
}
