//! How many further tries a backend may get in relation to its requests.
//!
//! Two parts. The share is counted by each worker for itself: the sums over workers keep the same ratio, so no counter is
//! written by two cores for a request. The floor, which a service with hardly any requests needs, is one cell for the
//! whole process, and is asked only when the share is used up.
//!
//! Requests are counted over time, not while they run: a budget of running requests shrinks exactly when requests fail
//! quickly (Finagle and Linkerd count as here, Envoy counts running ones).

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::backend_shared::BackendShared;
use crate::model::retry::Budget;

/// Seconds that are counted apart; more than the longest interval.
const SECONDS: usize = 64;

/// The budget of one backend on one worker.
#[derive(Debug)]
pub struct RetryBudget {
    counted: RefCell<Counted>,
    backend: Arc<BackendShared>,
}

/// Requests and granted further tries, by the second.
#[derive(Debug)]
struct Counted {
    /// The second that counts now.
    second: u64,
    /// Indexed by the second, modulo their number.
    requests: [u32; SECONDS],
    granted: [u32; SECONDS],
}

impl RetryBudget {
    /// Makes the budget of a backend that has had no request on this worker.
    #[must_use]
    pub fn new(backend: Arc<BackendShared>) -> Self {
        let counted = Counted { second: 0, requests: [0; SECONDS], granted: [0; SECONDS] };
        Self { counted: RefCell::new(counted), backend }
    }

    /// Counts a request; `now` as in [`crate::balance`].
    pub fn count(&self, now: Duration) {
        let counted = &mut *self.counted.borrow_mut();
        counted.go_to(now.as_secs());
        let requests = &mut counted.requests[counted.index()];
        *requests = requests.saturating_add(1);
    }

    /// Takes one further try out of the budget; false when there is none left. The numbers are those of the rule that
    /// asks.
    #[must_use]
    pub fn take(&self, budget: &Budget, now: Duration) -> bool {
        self.take_share(budget, now) || self.backend.retry_floor.take(budget.min_per_second, now)
    }

    fn take_share(&self, budget: &Budget, now: Duration) -> bool {
        let counted = &mut *self.counted.borrow_mut();
        counted.go_to(now.as_secs());
        let (requests, granted) = counted.sums(budget.interval.as_secs());
        let is_allowed = (granted + 1) * 100 <= requests * u64::from(budget.percent);
        if is_allowed {
            let granted = &mut counted.granted[counted.index()];
            *granted = granted.saturating_add(1);
        }
        is_allowed
    }
}

impl Counted {
    fn index(&self) -> usize {
        self.second as usize % SECONDS
    }

    /// Makes a second the one that counts, and empties those that were skipped. Time never goes back here.
    fn go_to(&mut self, second: u64) {
        if second <= self.second {
            return;
        }
        let skipped = (second - self.second).min(SECONDS as u64);
        for back in 0..skipped {
            let index = (second - back) as usize % SECONDS;
            self.requests[index] = 0;
            self.granted[index] = 0;
        }
        self.second = second;
    }

    /// What was counted in the present second and in as many before it as the interval has.
    fn sums(&self, interval: u64) -> (u64, u64) {
        let back = interval.min(SECONDS as u64 - 1).min(self.second);
        (0..=back).map(|back| (self.second - back) as usize % SECONDS).fold((0, 0), |(requests, granted), index| {
            (requests + u64::from(self.requests[index]), granted + u64::from(self.granted[index]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::backend_shared::{RetryFloor, SECOND};

    const BUDGET: Budget = Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 };

    fn workers(count: usize) -> Vec<RetryBudget> {
        let backend = Arc::new(BackendShared::default());
        (0..count).map(|_| RetryBudget::new(Arc::clone(&backend))).collect()
    }

    /// Every request fails, and so does each further try, of which a request may have ten: all tries of a minute.
    fn tries_of_a_minute(workers: &[RetryBudget], per_second: u64, budget: &Budget, seed: u64) -> u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut tries = 0;
        for request in 0..per_second * 60 {
            let now = Duration::from_nanos(request * SECOND / per_second);
            let worker = &workers[rng.usize(..workers.len())];
            worker.count(now);
            tries += 1 + (0..10).take_while(|_| worker.take(budget, now)).count() as u64;
        }
        tries
    }

    #[test]
    fn tries_stay_below_share_and_floor() {
        let seeds = if std::env::var_os("TIDEGATE_LONG").is_some() { 256 } else { 6 };
        for seed in 0..seeds {
            let count = [1, 4, 16][seed as usize % 3];
            for (per_second, interval) in [(500, 10), (500, 1), (500, 60), (50, 10)] {
                let budget = Budget { interval: Duration::from_secs(interval), ..BUDGET };
                let tries = tries_of_a_minute(&workers(count), per_second, &budget, seed);
                let requests = per_second * 60;
                let bound = requests + requests / 5 + 10 * 60 + 10;
                assert!(tries <= bound, "{tries} of {bound}: {per_second}/s, {count} workers, {interval} s");
                // A share that nobody gets would be no budget: it is used up but for what the first seconds lack.
                assert!(
                    tries >= bound - bound / 20,
                    "{tries} of {bound}: {per_second}/s, {count} workers, {interval} s"
                );
            }
        }
    }

    #[test]
    fn a_service_with_hardly_any_requests_has_the_floor() {
        let one = &workers(1)[0];
        let granted = |second| {
            let now = Duration::from_secs(second);
            one.count(now);
            (0..100).filter(|_| one.take(&BUDGET, now)).count()
        };
        assert_eq!(granted(1), 10);
        assert_eq!(granted(2), 10);
        // Five seconds save nothing up beyond one of them; the eleven requests of the interval have two further tries.
        assert!((10..=11).contains(&granted(7)));
    }

    #[test]
    fn nothing_is_granted_without_share_and_floor() {
        let one = &workers(1)[0];
        let none = Budget { percent: 0, min_per_second: 0, ..BUDGET };
        (0..1_000).for_each(|_| one.count(Duration::ZERO));
        assert!(!one.take(&none, Duration::ZERO));
        let all = Budget { percent: 100, min_per_second: 0, ..BUDGET };
        assert_eq!((0..2_000).filter(|_| one.take(&all, Duration::ZERO)).count(), 1_000);
    }

    #[test]
    fn what_is_older_than_the_interval_does_not_count() {
        let one = &workers(1)[0];
        let budget = Budget { percent: 100, min_per_second: 0, ..BUDGET };
        (0..100).for_each(|_| one.count(Duration::from_secs(5)));
        assert!(one.take(&budget, Duration::from_secs(15)));
        assert!(!one.take(&budget, Duration::from_secs(16)));
        // More than a whole round later nothing is left of it.
        (0..100).for_each(|_| one.count(Duration::from_secs(20)));
        assert!(!one.take(&budget, Duration::from_secs(20 + 64)));
        // A worker that reads the clock a little early counts for the present second.
        one.count(Duration::from_secs(83));
        assert!(one.take(&budget, Duration::from_secs(84)));
    }

    #[test]
    fn threads_share_the_floor() {
        let floor = RetryFloor::default();
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| floor.take(100, Duration::from_secs(3))).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<usize>()
        });
        assert_eq!(taken, 100);
    }
}
