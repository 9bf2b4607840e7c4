//! Places for admin connections, so that none of them can keep others out.
//!
//! A connection waits for its request's head first. Probes are answered from there, so their places cannot be taken by
//! what is slow to read or to answer; every other request moves on to a place of its own. Where there is no place left,
//! the oldest connection ends: whoever comes last is served.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How long a connection is left alone after its accept: a head that comes with the connection is read in less.
const GRACE: Duration = Duration::from_millis(20);

/// The connections of the admin server that are open.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Most connections that wait, and most that are answered.
    limit: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    last: u64,
    /// Connections whose head is not here yet, and probes, oldest first.
    waiting: VecDeque<Connection>,
    /// Connections with any other request, in the order in which those came.
    answering: VecDeque<Connection>,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    since: Instant,
    task: AbortHandle,
}

/// The place of one connection; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    places: Places,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, open: Arc::default() }
    }

    /// Waits until a connection can have a place; true when the oldest one had to end for it.
    pub(super) async fn make_room(&self) -> bool {
        loop {
            let wait = {
                let mut open = self.lock();
                if open.waiting.len() < self.limit {
                    return false;
                }
                let age = open.waiting.front().map_or(GRACE, |oldest| oldest.since.elapsed());
                let wait = GRACE.saturating_sub(age);
                if wait.is_zero() {
                    end_oldest(&mut open.waiting);
                    return true;
                }
                wait
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Starts a connection, which waits for its request now.
    pub(super) fn spawn<F>(&self, connection: impl FnOnce(Place) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        // The task needs the lock when it ends, so it cannot end before it is entered.
        let mut open = self.lock();
        open.last += 1;
        let id = open.last;
        let place = Place { id, places: self.clone() };
        let task = tokio::spawn(async move { connection(place).await }).abort_handle();
        open.waiting.push_back(Connection { id, since: Instant::now(), task });
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing that can panic runs under the lock; a poisoned one still holds good data.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The connection has a request that is no probe; true when the oldest of those had to end for it.
    pub(super) fn answer(&self) -> bool {
        let mut open = self.places.lock();
        let Some(at) = open.waiting.iter().position(|connection| connection.id == self.id) else { return false };
        let full = open.answering.len() >= self.places.limit;
        if full {
            end_oldest(&mut open.answering);
        }
        if let Some(connection) = open.waiting.remove(at) {
            open.answering.push_back(connection);
        }
        full
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.waiting.retain(|connection| connection.id != self.id);
        open.answering.retain(|connection| connection.id != self.id);
    }
}

fn end_oldest(connections: &mut VecDeque<Connection>) {
    if let Some(oldest) = connections.pop_front() {
        oldest.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::mpsc;

    use super::*;

    /// Starts a connection that does not end by itself; says its number when it does.
    fn start(places: &Places, number: u32, ended: &mpsc::UnboundedSender<u32>, answers: bool) {
        struct Ended(u32, mpsc::UnboundedSender<u32>);
        impl Drop for Ended {
            fn drop(&mut self) {
                let _ = self.1.send(self.0);
            }
        }
        let ended = Ended(number, ended.clone());
        places.spawn(move |place| async move {
            let _ended = ended;
            if answers {
                place.answer();
            }
            pending::<()>().await;
        });
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_waiting_connection_gives_way() {
        let places = Places::new(2);
        let (ended, mut ends) = mpsc::unbounded_channel();
        for (number, had_to_end) in [(0, false), (1, false), (2, true), (3, true)] {
            assert_eq!(places.make_room().await, had_to_end, "{number}");
            start(&places, number, &ended, false);
        }
        assert_eq!((ends.recv().await, ends.recv().await), (Some(0), Some(1)));
        assert!(ends.try_recv().is_err(), "the newest two stay");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_time_to_send_its_head() {
        let places = Places::new(1);
        let (ended, _ends) = mpsc::unbounded_channel();
        let began = Instant::now();
        for number in 0..4 {
            places.make_room().await;
            start(&places, number, &ended, false);
        }
        assert_eq!(began.elapsed(), 3 * GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_take_no_place_from_those_that_wait() {
        let places = Places::new(2);
        let (ended, mut ends) = mpsc::unbounded_channel();
        for number in 0..5 {
            assert!(!places.make_room().await, "{number}: the one before has moved on");
            start(&places, number, &ended, true);
            tokio::task::yield_now().await;
        }
        let gone: Vec<_> = [ends.recv().await, ends.recv().await, ends.recv().await].into_iter().flatten().collect();
        assert_eq!(gone, [0, 1, 2], "of those that are answered the oldest gives way");
        assert!(ends.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_connection_gives_its_place_back() {
        let places = Places::new(1);
        places.spawn(|_place| async {});
        tokio::task::yield_now().await;
        assert!(!places.make_room().await);
        assert!(places.lock().waiting.is_empty());
    }
}
