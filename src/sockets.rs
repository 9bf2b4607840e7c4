//! The registry of open sockets, that is of upgraded connections: listed, counted and closed over the admin port.
//!
//! A data worker registers a socket when its tunnel opens and keeps the counters of its [`OpenSocket`]; the control half
//! reads them and asks for a close, which the tunnel carries out in its own way. The registry knows no stream and closes
//! nothing itself. Registering takes a lock, which only requests for an upgrade ever take.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

/// What is known of a socket when it opens.
#[derive(Clone, Debug)]
pub struct SocketInfo {
    /// Label of the route (`namespace/name`).
    pub route: Arc<str>,
    /// Name of the rule.
    pub rule: Arc<str>,
    /// Name of the pod, if the endpoint has one.
    pub pod: Option<Arc<str>>,
    /// Address of the endpoint.
    pub endpoint: SocketAddr,
    /// The client.
    pub client: SocketAddr,
}

/// One open socket and its counters.
#[derive(Debug)]
pub struct OpenSocket {
    /// Its number, unique in the life of the process.
    pub id: u64,
    /// What is known of it.
    pub info: SocketInfo,
    /// When it opened, by the wall clock, for people.
    pub since: SystemTime,
    opened: Instant,
    to_client: AtomicU64,
    to_endpoint: AtomicU64,
    active_millis: AtomicU64,
    closing: AtomicBool,
    close: Notify,
}

impl OpenSocket {
    /// Counts bytes that went to the client, at `now`.
    pub fn sent_to_client(&self, bytes: usize, now: Instant) {
        count(&self.to_client, bytes);
        self.touch(now);
    }

    /// Counts bytes that went to the endpoint, at `now`.
    pub fn sent_to_endpoint(&self, bytes: usize, now: Instant) {
        count(&self.to_endpoint, bytes);
        self.touch(now);
    }

    /// Bytes sent to the client so far.
    #[must_use]
    pub fn bytes_to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    /// Bytes sent to the endpoint so far.
    #[must_use]
    pub fn bytes_to_endpoint(&self) -> u64 {
        self.to_endpoint.load(Ordering::Relaxed)
    }

    /// How long it has been open.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    /// How long no byte went either way.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Duration {
        self.age(now).saturating_sub(Duration::from_millis(self.active_millis.load(Ordering::Relaxed)))
    }

    /// Asks the tunnel to close; asking twice is asking once.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.close.notify_one();
    }

    /// Resolves when somebody asked for a close; cancel-safe.
    pub async fn closed(&self) {
        while !self.closing.load(Ordering::Acquire) {
            self.close.notified().await;
        }
    }

    fn touch(&self, now: Instant) {
        let millis = u64::try_from(self.age(now).as_millis()).unwrap_or(u64::MAX);
        self.active_millis.store(millis, Ordering::Relaxed);
    }
}

/// One worker alone writes: load and store instead of a locked add.
fn count(cell: &AtomicU64, bytes: usize) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(bytes as u64), Ordering::Relaxed);
}

/// All open sockets of the process.
#[derive(Debug, Default)]
pub struct Sockets {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    entries: BTreeMap<u64, Arc<OpenSocket>>,
    by_rule: HashMap<(Arc<str>, Arc<str>), u32>,
}

/// A place for a socket of a rule that is about to open; dropping it gives the place back.
#[derive(Debug)]
pub struct Reservation {
    /// Label of the route and name of the rule.
    rule: (Arc<str>, Arc<str>),
    owner: Arc<Sockets>,
}

/// A socket's place in the registry; dropping it takes the socket out.
#[derive(Debug)]
pub struct Registration {
    entry: Arc<OpenSocket>,
    reservation: Reservation,
}

/// The rule has reached its limit of open sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Sockets {
    /// Keeps a place for a socket of a rule, so that no endpoint is asked for one that may not open.
    ///
    /// # Errors
    /// [`TooMany`] when the rule already has `max` sockets, open or about to open.
    pub fn reserve(
        self: &Arc<Self>,
        route: &Arc<str>,
        rule: &Arc<str>,
        max: Option<u32>,
    ) -> Result<Reservation, TooMany> {
        let rule = (Arc::clone(route), Arc::clone(rule));
        let mut state = self.lock();
        let open = state.by_rule.entry(rule.clone()).or_insert(0);
        if max.is_some_and(|max| *open >= max) {
            return Err(TooMany);
        }
        *open += 1;
        Ok(Reservation { rule, owner: Arc::clone(self) })
    }

    /// Open sockets, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<OpenSocket>> {
        self.lock().entries.values().cloned().collect()
    }

    /// The number of open sockets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks one socket to close; false when there is none of this number.
    pub fn close(&self, id: u64) -> bool {
        let entry = self.lock().entries.get(&id).cloned();
        entry.is_some_and(|entry| {
            entry.close();
            true
        })
    }

    /// Asks all sockets that fit to close and says how many they are.
    pub fn close_all(&self, fits: impl Fn(&SocketInfo) -> bool) -> usize {
        let fitting: Vec<_> = self.list().into_iter().filter(|entry| fits(&entry.info)).collect();
        fitting.iter().for_each(|entry| entry.close());
        fitting.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock; a poisoned one still holds good data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Enters the socket that took the place.
    #[must_use]
    pub fn open(self, info: SocketInfo) -> Registration {
        let mut state = self.owner.lock();
        state.next += 1;
        let entry = Arc::new(OpenSocket {
            id: state.next,
            info,
            since: SystemTime::now(),
            opened: Instant::now(),
            to_client: AtomicU64::new(0),
            to_endpoint: AtomicU64::new(0),
            active_millis: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            close: Notify::new(),
        });
        state.entries.insert(entry.id, Arc::clone(&entry));
        drop(state);
        Registration { entry, reservation: self }
    }
}

impl Registration {
    /// The socket's entry.
    #[must_use]
    pub fn entry(&self) -> &OpenSocket {
        &self.entry
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.reservation.owner.lock().entries.remove(&self.entry.id);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.owner.lock();
        if let Some(open) = state.by_rule.get_mut(&self.rule) {
            *open -= 1;
            if *open == 0 {
                state.by_rule.remove(&self.rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Sockets {
        fn register(self: &Arc<Self>, info: SocketInfo, max: Option<u32>) -> Result<Registration, TooMany> {
            Ok(self.reserve(&info.route, &info.rule, max)?.open(info))
        }
    }

    fn info(route: &str, pod: &str) -> SocketInfo {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        SocketInfo { route: route.into(), rule: "0".into(), pod: Some(pod.into()), endpoint: address, client: address }
    }

    #[test]
    fn sockets_are_listed_while_registered_and_numbers_never_return() {
        let sockets = Arc::new(Sockets::default());
        let first = sockets.register(info("a", "p"), None).unwrap();
        let second = sockets.register(info("a", "q"), None).unwrap();
        let ids: Vec<u64> = sockets.list().iter().map(|entry| entry.id).collect();
        assert_eq!(ids, [1, 2]);
        drop(first);
        assert_eq!(sockets.len(), 1);
        assert_eq!(sockets.register(info("a", "p"), None).unwrap().entry().id, 3);
        drop(second);
        assert!(sockets.is_empty());
        assert!(sockets.lock().by_rule.is_empty());
    }

    #[test]
    fn a_rule_is_full_at_its_limit_and_has_room_again() {
        let sockets = Arc::new(Sockets::default());
        let first = sockets.register(info("a", "p"), Some(1)).unwrap();
        assert_eq!(sockets.register(info("a", "p"), Some(1)).unwrap_err(), TooMany);
        assert!(sockets.register(info("b", "p"), Some(1)).is_ok());
        drop(first);
        assert!(sockets.register(info("a", "p"), Some(1)).is_ok());
    }

    #[tokio::test]
    async fn a_close_reaches_the_tunnel_whether_it_waits_already_or_not() {
        let sockets = Arc::new(Sockets::default());
        let one = sockets.register(info("a", "p"), None).unwrap();
        let other = sockets.register(info("b", "q"), None).unwrap();
        assert!(sockets.close(one.entry().id));
        one.entry().closed().await;
        assert!(!sockets.close(99));
        let (count, ()) = tokio::join!(async { sockets.close_all(|info| &*info.route == "b") }, other.entry().closed());
        assert_eq!(count, 1);
    }

    #[test]
    fn bytes_and_idle_time_are_those_of_the_tunnel() {
        let sockets = Arc::new(Sockets::default());
        let registration = sockets.register(info("a", "p"), None).unwrap();
        let entry = registration.entry();
        let later = Instant::now() + Duration::from_secs(5);
        entry.sent_to_client(10, later);
        entry.sent_to_endpoint(7, later);
        assert_eq!((entry.bytes_to_client(), entry.bytes_to_endpoint()), (10, 7));
        assert!(entry.idle(later + Duration::from_secs(2)) >= Duration::from_secs(2));
        assert!(entry.idle(later + Duration::from_secs(2)) < Duration::from_secs(3));
    }
}
