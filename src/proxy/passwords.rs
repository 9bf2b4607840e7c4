//! The checks of passwords: each takes milliseconds to a second of processor time, so that they are made beside the threads
//! of the data plane, a few at a time, in the order of arrival.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::filter::{CheckDigest, PasswordCheck, PasswordVerdict};

/// Most checks that wait.
const MOST_WAITING: usize = 64;

/// Most checks of one client's network that wait or run: nobody takes all places by guessing.
const MOST_OF_CLIENT: usize = 4;

/// The threads of checks give way to those of the data plane as far as Linux can be asked to.
const NICENESS: i32 = 19;

/// The checks of a process, shared by all workers.
#[derive(Debug)]
pub struct PasswordChecks {
    /// Most checks that run at the same time.
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<PasswordCheck>,
    /// Who waits for the checks that wait or run; equal ones are made once.
    asking: FxHashMap<CheckDigest, Vec<oneshot::Sender<PasswordVerdict>>>,
    /// Checks of each client that wait or run.
    of_clients: FxHashMap<IpAddr, usize>,
    /// Threads that make checks.
    running: usize,
}

impl PasswordChecks {
    /// With so many checks at the same time; at least 1.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), state: Mutex::default() })
    }

    /// Makes a check as soon as it is its turn. Dropping the future withdraws it, unless others wait for the same one.
    ///
    /// Must run on a runtime of tokio, whose threads for blocking work make the checks.
    pub(super) async fn verify(self: &Arc<Self>, check: PasswordCheck) -> PasswordVerdict {
        match self.join(check) {
            // Without an answer the check has panicked: nobody is let in by that.
            Some(verdict) => verdict.await.unwrap_or(PasswordVerdict::Busy),
            None => PasswordVerdict::Busy,
        }
    }

    /// A place for a check, or beside an equal one; `None` where there is none.
    fn join(self: &Arc<Self>, check: PasswordCheck) -> Option<oneshot::Receiver<PasswordVerdict>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if let Some(asking) = state.asking.get_mut(&check.digest) {
            asking.push(sender);
            return Some(receiver);
        }
        let of_client = state.of_clients.get(&check.client).copied().unwrap_or(0);
        if state.waiting.len() >= MOST_WAITING || of_client >= MOST_OF_CLIENT {
            return None;
        }
        state.of_clients.insert(check.client, of_client + 1);
        state.asking.insert(check.digest, vec![sender]);
        state.waiting.push_back(check);
        if state.running < self.most {
            state.running += 1;
            let checks = Arc::clone(self);
            tokio::task::spawn_blocking(move || checks.run());
        }
        Some(receiver)
    }

    /// Makes checks for as long as some wait.
    fn run(&self) {
        // Of this thread alone. Where it is refused, checks are merely as important as requests.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        while let Some(check) = self.next() {
            let verdict = catch_unwind(AssertUnwindSafe(|| check.verify())).ok();
            let asking = {
                let mut state = self.lock();
                state.leave(check.client);
                state.asking.remove(&check.digest)
            };
            let verdict =
                verdict.map(|is_right| if is_right { PasswordVerdict::Right } else { PasswordVerdict::Wrong });
            let Some(verdict) = verdict else { continue };
            for sender in asking.into_iter().flatten() {
                // Whoever does not wait any more has withdrawn.
                let _ = sender.send(verdict);
            }
        }
    }

    /// The next check that somebody waits for; `None` ends the thread.
    fn next(&self) -> Option<PasswordCheck> {
        let mut state = self.lock();
        while let Some(check) = state.waiting.pop_front() {
            let asking = state.asking.get_mut(&check.digest);
            if asking.is_some_and(|asking| asking.iter().any(|sender| !sender.is_closed())) {
                return Some(check);
            }
            state.asking.remove(&check.digest);
            state.leave(check.client);
        }
        state.running -= 1;
        None
    }

    /// A panic elsewhere leaves the lists whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self, client: IpAddr) {
        if let Some(count) = self.of_clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.of_clients.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::filter::tests::password_check;

    fn client(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    /// Checks that nobody makes before [`PasswordChecks::run`] is called.
    fn held() -> Arc<PasswordChecks> {
        let checks = PasswordChecks::new(1);
        checks.lock().running = 1;
        checks
    }

    #[tokio::test]
    async fn passwords_are_checked_beside_the_worker() {
        let checks = PasswordChecks::new(0);
        assert_eq!(checks.verify(password_check("ada", "test", client(1))).await, PasswordVerdict::Right);
        assert_eq!(checks.verify(password_check("ada", "Test", client(1))).await, PasswordVerdict::Wrong);
        assert_eq!(checks.verify(password_check("bob", "test", client(1))).await, PasswordVerdict::Wrong);
    }

    #[tokio::test]
    async fn places_are_bounded_in_all_and_for_each_client_and_equal_checks_share_one() {
        let checks = held();
        let join = |number: usize, client| checks.join(password_check("ada", &number.to_string(), client));
        let mut waiting: Vec<_> = (0..MOST_OF_CLIENT).map(|number| join(number, client(1)).expect("a place")).collect();
        assert!(join(100, client(1)).is_none(), "its client has all its places");
        waiting.push(join(0, client(1)).expect("an equal check waits already"));
        waiting.push(join(0, client(2)).expect("whoever asks"));
        for number in MOST_OF_CLIENT..MOST_WAITING {
            let client = client(u8::try_from(10 + number / MOST_OF_CLIENT).unwrap());
            waiting.push(join(number, client).expect("a place"));
        }
        assert!(join(200, client(3)).is_none(), "no place is left");
        checks.run();
        for receiver in waiting {
            assert_eq!(receiver.await, Ok(PasswordVerdict::Wrong));
        }
        let state = checks.lock();
        assert!(state.waiting.is_empty() && state.asking.is_empty() && state.of_clients.is_empty());
        assert_eq!(state.running, 0);
    }

    #[tokio::test]
    async fn a_check_that_nobody_waits_for_is_not_made_and_gives_its_place_back() {
        let checks = held();
        let left = checks.join(password_check("ada", "test", client(1))).expect("a place");
        let stays = checks.join(password_check("ada", "other", client(1))).expect("a place");
        drop(left);
        assert_eq!(checks.next().map(|check| check.verify()), Some(false), "the first one was withdrawn");
        assert_eq!(checks.lock().of_clients.get(&client(1)), Some(&1));
        drop(stays);
    }
}
