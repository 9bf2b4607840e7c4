//! The listeners of the process: bound here, and handed to the workers when there is a version with routes for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::model::ids::ListenerId;
use crate::proxy::listener::{self, BindError, BoundListener};
use crate::proxy::listeners::Order;
use crate::settings::{Listener, ListenerMode, Settings};
use crate::stream::TcpTimeouts;

/// Locks; what a panicking thread left behind are whole listeners.
pub(super) fn lock(listeners: &Mutex<Listeners>) -> MutexGuard<'_, Listeners> {
    listeners.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All listeners, and the way to the workers that serve them.
pub(super) struct Listeners {
    settings: Arc<Settings>,
    /// One for each worker. What a worker that is gone is told does not matter any more.
    workers: Vec<mpsc::UnboundedSender<Order>>,
    /// Bound, and not served yet: connections wait in the kernel.
    waiting: Vec<Waiting>,
    /// Bound addresses, by name.
    addresses: BTreeMap<String, SocketAddr>,
}

struct Waiting {
    id: ListenerId,
    name: Arc<str>,
    settings: Listener,
    bound: BoundListener,
}

impl Listeners {
    /// None yet; and what each worker is told.
    pub(super) fn new(settings: &Arc<Settings>) -> (Self, Vec<mpsc::UnboundedReceiver<Order>>) {
        let (workers, orders) = (0..settings.workers).map(|_| mpsc::unbounded_channel()).unzip();
        let listeners =
            Self { settings: Arc::clone(settings), workers, waiting: Vec::new(), addresses: BTreeMap::new() };
        (listeners, orders)
    }

    /// Binds a listener, to be served from the next [`serve`](Self::serve) on.
    pub(super) fn bind(&mut self, id: ListenerId, name: Arc<str>, settings: Listener) -> Result<(), BindError> {
        let bound = listener::bind(&name, settings.address, self.settings.workers)?;
        let deadlines = &self.settings.deadlines;
        bound
            .set_timeouts(TcpTimeouts { keepalive: deadlines.tcp_keepalive, user_timeout: deadlines.tcp_user_timeout });
        self.addresses.insert(name.to_string(), bound.address);
        self.waiting.push(Waiting { id, name, settings, bound });
        Ok(())
    }

    /// Hands what was bound to the workers.
    pub(super) fn serve(&mut self) {
        for Waiting { id, name, settings, bound } in self.waiting.drain(..) {
            for (worker, socket) in self.workers.iter().zip(bound.sockets) {
                let (name, settings) = (Arc::clone(&name), Box::new(settings.clone()));
                let _ = worker.send(Order::Open { id, name, settings, socket });
            }
        }
    }

    /// Lets connections that come from now on be served in another way.
    pub(super) fn change(&mut self, id: ListenerId, mode: ListenerMode) {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.id == id) {
            waiting.settings.mode = mode;
        }
        self.tell(|| Order::Change(id, mode));
    }

    /// Asks the clients of a listener to leave, which goes on accepting.
    pub(super) fn ask_to_leave(&self, id: ListenerId) {
        self.tell(|| Order::AskToLeave(id));
    }

    /// Closes a listener: what runs may finish within the time of a drain.
    pub(super) fn close(&mut self, id: ListenerId, name: &str) {
        self.addresses.remove(name);
        self.tell(|| Order::Close(id, self.settings.drain.timeout));
    }

    /// Bound addresses, by name.
    pub(super) const fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for worker in &self.workers {
            let _ = worker.send(order());
        }
    }
}
