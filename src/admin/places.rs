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
/// How many times the limit may wait within that time. Nobody is let wait in the queue of the kernel instead: a probe behind
/// thousands of others would come too late.
const CROWD: usize = 8;

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

    /// Makes room for one more connection; how many of the oldest had to end for it.
    pub(super) fn make_room(&self) -> u32 {
        let mut open = self.lock();
        let mut ended = 0;
        while open.waiting.len() >= self.limit {
            let is_young = open.waiting.front().is_some_and(|oldest| oldest.since.elapsed() < GRACE);
            if is_young && open.waiting.len() < self.limit.saturating_mul(CROWD) {
                break;
            }
            end_oldest(&mut open.waiting);
            ended += 1;
        }
        ended
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
            assert_eq!(places.make_room(), u32::from(had_to_end), "{number}");
            start(&places, number, &ended, false);
            tokio::time::advance(GRACE).await;
        }
        assert_eq!((ends.recv().await, ends.recv().await), (Some(0), Some(1)));
        assert!(ends.try_recv().is_err(), "the newest two stay");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_has_time_to_send_its_head() {
        let places = Places::new(2);
        let (ended, mut ends) = mpsc::unbounded_channel();
        for number in 0..16 {
            assert_eq!(places.make_room(), 0, "{number}");
            start(&places, number, &ended, false);
        }
        assert_eq!(places.make_room(), 1, "so many at once are a flood");
        start(&places, 16, &ended, false);
        assert_eq!(ends.recv().await, Some(0));
        tokio::time::advance(GRACE).await;
        assert_eq!(places.make_room(), 15, "they have had their time");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_take_no_place_from_those_that_wait() {
        let places = Places::new(2);
        let (ended, mut ends) = mpsc::unbounded_channel();
        for number in 0..5 {
            assert_eq!(places.make_room(), 0, "{number}: the one before has moved on");
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
        assert_eq!(places.make_room(), 0);
        assert!(places.lock().waiting.is_empty());
    }
}
