//! Requests that wait until an endpoint has room for another one.
//!
//! One queue per backend, for all workers, in the order of arrival. Whoever leaves an endpoint for which somebody waits
//! hands its place over to the first that may have it, without giving it up in between: nobody who comes later can
//! overtake. Endpoints know the queues in which somebody waits for them, since two Services may lead to one pod.
//!
//! What requests wait for here is a place among those in flight. One over HTTP/2 that has it may still wait for a
//! connection (see [`Connections`](super::Connections)); it counts as one of those that wait.
//!
//! An endpoint without waiters costs one load at the end of a request. The queue's mutex is taken only while somebody
//! waits, and held for no longer than one pass over the queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;

use super::bounds::Bounds;
use super::endpoint_state::{EndpointState, InFlight, Queue};

/// The queue of one backend.
#[derive(Debug, Default)]
pub struct Pending(Mutex<Waiters>);

#[derive(Debug, Default)]
struct Waiters {
    /// The number of the next one.
    next: u64,
    /// By number, which is the order of arrival.
    waiting: VecDeque<Waiter>,
    /// What those got that have not taken it yet.
    granted: FxHashMap<u64, InFlight>,
    /// Requests that have a place at an endpoint and wait for a connection to it.
    for_connections: u32,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    /// Where it may go.
    candidates: Arc<[Arc<EndpointState>]>,
    /// How much an endpoint may have with it.
    bounds: Bounds,
    waker: Option<Waker>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        // Nothing that holds it can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue for one of `candidates`, each of which may have as much as `bounds` say; `None` when `longest` wait
    /// already.
    #[must_use]
    pub fn join(
        self: &Arc<Self>,
        candidates: Arc<[Arc<EndpointState>]>,
        bounds: Bounds,
        longest: u32,
    ) -> Option<PendingPlace> {
        let number = {
            let waiters = &mut *self.lock();
            if waiters.len() >= longest as usize {
                return None;
            }
            waiters.next += 1;
            let number = waiters.next;
            waiters.waiting.push_back(Waiter { number, candidates: Arc::clone(&candidates), bounds, waker: None });
            number
        };
        let queue: Arc<dyn Queue> = Arc::<Self>::clone(self);
        candidates.iter().for_each(|endpoint| endpoint.await_room(&queue));
        // One that left before it could know of the newcomer has told nobody.
        self.serve();
        Some(PendingPlace { queue: Arc::clone(self), number, candidates })
    }

    /// Counts one among those that wait, for as long as it waits for a connection; `None` when `longest` wait already.
    #[must_use]
    pub fn join_for_connection(self: &Arc<Self>, longest: u32) -> Option<PendingConnection> {
        let waiters = &mut *self.lock();
        if waiters.len() >= longest as usize {
            return None;
        }
        waiters.for_connections += 1;
        Some(PendingConnection { queue: Arc::clone(self) })
    }

    /// Requests that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Waiters {
    fn len(&self) -> usize {
        self.waiting.len() + self.for_connections as usize
    }
}

impl Queue for Pending {
    fn hand_over(&self, endpoint: &Arc<EndpointState>) -> bool {
        let waiter = {
            let waiters = &mut *self.lock();
            let in_flight = endpoint.in_flight();
            let may_have = |waiter: &Waiter| {
                in_flight <= waiter.bounds.requests_at(endpoint)
                    && waiter.candidates.iter().any(|candidate| Arc::ptr_eq(candidate, endpoint))
            };
            let Some(at) = waiters.waiting.iter().position(may_have) else { return false };
            let Some(waiter) = waiters.waiting.remove(at) else { return false };
            waiters.granted.insert(waiter.number, InFlight::taken_over(endpoint));
            waiter
        };
        if let Some(waker) = waiter.waker {
            waker.wake();
        }
        true
    }

    fn serve(&self) {
        let mut wakers = Vec::new();
        {
            let Waiters { waiting, granted, .. } = &mut *self.lock();
            waiting.retain_mut(|waiter| {
                let try_begin = |endpoint: &Arc<EndpointState>| endpoint.try_begin(waiter.bounds.requests_at(endpoint));
                let place = waiter.candidates.iter().find_map(try_begin);
                let Some(place) = place else { return true };
                granted.insert(waiter.number, place);
                wakers.extend(waiter.waker.take());
                false
            });
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A place in a queue. Dropping it leaves the queue, and hands on what was granted already.
#[derive(Debug)]
pub struct PendingPlace {
    queue: Arc<Pending>,
    number: u64,
    candidates: Arc<[Arc<EndpointState>]>,
}

impl PendingPlace {
    /// Ready with the place at an endpoint, once it is this one's turn. May be cancelled.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<InFlight> {
        let waiters = &mut *self.queue.lock();
        if let Some(granted) = waiters.granted.remove(&self.number) {
            return Poll::Ready(granted);
        }
        if let Ok(at) = waiters.waiting.binary_search_by_key(&self.number, |waiter| waiter.number)
            && let Some(waiter) = waiters.waiting.get_mut(at)
        {
            waiter.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        let queue: Arc<dyn Queue> = Arc::<Pending>::clone(&self.queue);
        self.candidates.iter().for_each(|endpoint| endpoint.await_no_more(&queue));
        let granted = {
            let waiters = &mut *self.queue.lock();
            if let Ok(at) = waiters.waiting.binary_search_by_key(&self.number, |waiter| waiter.number) {
                waiters.waiting.remove(at);
            }
            waiters.granted.remove(&self.number)
        };
        // Outside of the lock: the place goes to the next one.
        drop(granted);
    }
}

/// Counts a request among those that wait; dropping it ends that.
#[derive(Debug)]
pub struct PendingConnection {
    queue: Arc<Pending>,
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.queue.lock().for_connections -= 1;
    }
}

#[cfg(test)]
mod tests;
