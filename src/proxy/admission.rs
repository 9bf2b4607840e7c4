//! Lets new clients in no faster than there is memory for them.
//!
//! What a client needs is part of the memory in use only some time after it was let in: its head has to come, and its answer.
//! Until then each new one counts as [`SHARE`], so that a crowd cannot take more between two looks at the memory than is
//! left. A client that was answered, has become a tunnel or is gone no longer counts, so those that behave are not slowed
//! down.
//!
//! [`Admission`] is what workers ask; [`Budget`] decides how many may follow, and is pure: the time is an argument.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use super::pressure::HIGH;

/// What a new client counts as: the 256 KiB that wait for one that reads slowly, and what its connections need.
const SHARE: u64 = 320 << 10;
/// For how long a client is new at most: a busy endpoint may take that long to answer, and the memory shows it only then.
/// The end of its first answer ends that, too: what comes behind it is seen in time.
pub const YOUNG: Duration = Duration::from_secs(3);

/// How many clients may be let in.
#[derive(Debug)]
pub struct Admission {
    /// Memory has a limit. Without one, workers share nothing that is written.
    is_limited: AtomicBool,
    permits: Semaphore,
    /// Clients that stopped being new before their time, since this was asked last.
    ended: AtomicU64,
    /// Told when somebody waits.
    wanted: Notify,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            is_limited: AtomicBool::new(false),
            permits: Semaphore::new(0),
            ended: AtomicU64::new(0),
            wanted: Notify::new(),
        }
    }
}

impl Admission {
    /// Waits until one more client may be let in, in order of arrival. Whether it counts: then its end is to be told while
    /// it is [new](YOUNG). Cancel-safe.
    pub async fn enter(&self) -> bool {
        if !self.is_limited.load(Ordering::Relaxed) {
            return false;
        }
        if let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
            return true;
        }
        self.wanted.notify_one();
        // It is never closed.
        self.permits.acquire().await.map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// A client that counts is no longer new, before its time.
    pub fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until somebody waits. Cancel-safe.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Lets in as many as `budget` allows, with `used` of `limit` bytes in use at `now`; `None` without a limit. Whether
    /// there are new ones, so that memory has to be looked at often.
    pub fn grant(&self, budget: &mut Budget, usage: Option<(u64, u64)>, now: Duration) -> bool {
        let Some((used, limit)) = usage else {
            if self.is_limited.swap(false, Ordering::Relaxed) {
                // Whoever waits still: all of them.
                self.permits.add_permits(Semaphore::MAX_PERMITS >> 1);
            }
            return false;
        };
        if !self.is_limited.swap(true, Ordering::Relaxed) {
            self.permits.forget_permits(usize::MAX);
            *budget = Budget::default();
        }
        let left = self.permits.forget_permits(usize::MAX);
        let more = budget.more(used, limit, now, left, self.ended.swap(0, Ordering::Relaxed));
        self.permits.add_permits(more);
        !budget.young.is_empty()
    }
}

/// Decides how many new clients may be let in until the next look at the memory.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// As many as might come since the last look.
    granted: usize,
    /// Those that are new: how many, and when they were first seen.
    young: VecDeque<(Duration, u64)>,
}

impl Budget {
    /// How many more may come, when `left` of those that might did not, and `ended` new ones are gone.
    fn more(&mut self, used: u64, limit: u64, now: Duration, left: usize, ended: u64) -> usize {
        let came = self.granted.saturating_sub(left) as u64;
        if came > 0 {
            self.young.push_back((now, came));
        }
        // Which of them ended is not known: with the oldest gone, the others count for longest.
        let mut ended = ended;
        while let Some((at, count)) = self.young.front_mut() {
            let gone = ended.min(*count);
            ended -= gone;
            *count -= gone;
            if *count > 0 && now.saturating_sub(*at) < YOUNG {
                break;
            }
            self.young.pop_front();
        }
        let most = limit / 100 * HIGH;
        let young: u64 = self.young.iter().map(|(_, count)| count).sum();
        let more = (most.saturating_sub(used) / SHARE).saturating_sub(young);
        // A gateway that always needs nearly as much as it may goes on, slowly.
        let more = if young == 0 && used < most { more.max(1) } else { more };
        self.granted = usize::try_from(more).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS >> 1);
        self.granted
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const LIMIT: u64 = 100 << 20;

    /// What `used` leaves for new clients.
    fn room(used: u64) -> usize {
        usize::try_from((LIMIT / 100 * HIGH - used) / SHARE).expect("few")
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn new_clients_count_until_their_memory_is_in_use() {
        let mut budget = Budget::default();
        let all = room(10 << 20);
        assert_eq!(budget.more(10 << 20, LIMIT, at(0), 0, 0), all);
        assert_eq!(budget.more(10 << 20, LIMIT, at(20), 100, 0), 100, "what is not in use yet counts");
        assert_eq!(budget.more(10 << 20, LIMIT, at(40), 0, 0), 0);
        assert_eq!(budget.more(10 << 20, LIMIT, at(60), 0, 30), 30, "those that are gone do not");
        assert_eq!(budget.more(10 << 20, LIMIT, at(100), 30, 0), 30);
        // The first of them are no longer new; what they hold is in use now.
        assert_eq!(budget.more(40 << 20, LIMIT, at(3_020), 30, 0), room(40 << 20) - 100);
        assert_eq!(budget.more(40 << 20, LIMIT, at(3_040), room(40 << 20) - 100, 0), room(40 << 20));
    }

    #[test]
    fn memory_that_is_nearly_all_in_use_lets_one_in_after_the_other() {
        let mut budget = Budget::default();
        let used = (LIMIT / 100 * HIGH) - 1;
        let granted: Vec<usize> = (0..450).map(|look| budget.more(used, LIMIT, at(look * 20), 0, 0)).collect();
        assert_eq!(granted.iter().sum::<usize>(), 3, "one in three seconds: {granted:?}");
        assert_eq!(Budget::default().more(used + 1, LIMIT, at(0), 0, 0), 0, "none while it is short");
        assert_eq!(Budget::default().more(u64::MAX, 1, at(0), 0, u64::MAX), 0);
        assert!(Budget::default().more(0, u64::MAX, at(0), 0, 0) <= Semaphore::MAX_PERMITS);
    }

    #[test]
    fn clients_wait_in_order_until_they_are_let_in() {
        let mut cx = Context::from_waker(Waker::noop());
        let (admission, mut budget) = (Admission::default(), Budget::default());
        assert_eq!(pin!(admission.enter()).poll(&mut cx), Poll::Ready(false), "without a limit");
        admission.grant(&mut budget, Some((LIMIT, LIMIT)), at(0));
        let (mut first, mut second) = (pin!(admission.enter()), pin!(admission.enter()));
        assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
        assert!(pin!(admission.wanted()).poll(&mut cx).is_ready(), "a look at the memory is wanted");
        admission.grant(&mut budget, Some((LIMIT / 100 * HIGH - 1, LIMIT)), at(20));
        assert!(second.as_mut().poll(&mut cx).is_pending(), "not before the first");
        assert_eq!(first.as_mut().poll(&mut cx), Poll::Ready(true));
        admission.ended();
        admission.grant(&mut budget, Some((LIMIT / 100 * HIGH - 1, LIMIT)), at(40));
        assert_eq!(second.as_mut().poll(&mut cx), Poll::Ready(true), "the first has ended");
        // The limit goes, and whoever waits may come in.
        let mut third = pin!(admission.enter());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        admission.grant(&mut budget, None, at(60));
        assert!(third.as_mut().poll(&mut cx).is_ready());
        for now in [80, 100] {
            admission.grant(&mut budget, Some((0, LIMIT)), at(now));
            admission.grant(&mut budget, None, at(now));
        }
    }
}
