//! The listeners of one worker: opened, changed and closed while it runs, and all closed when the process stops.

use std::net::TcpListener as StdListener;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::connection::ConnectionContext;
use super::downstream::Handler;
use super::listener::accept;
use super::worker_drain::WorkerDrain;
use crate::drain::{self, Drain, DrainControl, Phase};
use crate::model::ids::ListenerId;
use crate::settings::{Listener, ListenerMode};

/// What a worker is to do with a listener.
#[derive(Debug)]
pub enum Order {
    /// Accept connections.
    Open {
        /// Routes know it by this number, which no open listener has.
        id: ListenerId,
        /// Its name.
        name: Arc<str>,
        /// Its settings.
        settings: Box<Listener>,
        /// The socket of this worker.
        socket: StdListener,
    },
    /// Serve connections that come from now on in another way.
    Change(ListenerId, ListenerMode),
    /// Ask clients to leave, whom connections are still accepted from: answers say `connection: close`, WebSockets get
    /// close frames.
    AskToLeave(ListenerId),
    /// Accept no connections any more, ask clients to leave, and close what is left after this time.
    Close(ListenerId, Duration),
}

/// Serves listeners until the drain of the process has closed them and their last connection has ended.
///
/// Must run on a `LocalSet` inside a runtime.
pub async fn serve_all<H: Handler>(
    listeners: impl IntoIterator<Item = (ConnectionContext<H>, StdListener)>,
    process: Drain,
) {
    let mut served = Served::new(process.phase());
    for (context, socket) in listeners {
        served.open(context, socket);
    }
    let (_, orders) = mpsc::unbounded_channel();
    run(served, |_, _, _| None, orders, process).await;
}

/// Serves the listeners that `orders` ask for, whose connections `context` describes; ends as [`serve_all`] does.
///
/// Must run on a `LocalSet` inside a runtime.
pub async fn serve_orders<H: Handler>(
    context: impl Fn(ListenerId, Arc<str>, &Listener) -> ConnectionContext<H>,
    orders: mpsc::UnboundedReceiver<Order>,
    process: Drain,
) {
    let served = Served::new(process.phase());
    run(served, |id, name, settings| Some(context(id, name, settings)), orders, process).await;
}

async fn run<H: Handler>(
    mut served: Served<H>,
    context: impl Fn(ListenerId, Arc<str>, &Listener) -> Option<ConnectionContext<H>>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut process: Drain,
) {
    let mut has_orders = true;
    loop {
        let phase = process.phase();
        served.advance(phase);
        tokio::select! {
            () = served.joined(), if phase >= Phase::Closing => return,
            _ = process.later_than(phase) => {}
            order = orders.recv(), if has_orders => match order {
                None => has_orders = false,
                Some(Order::Open { id, name, settings, socket }) => {
                    if let Some(context) = context(id, name, &settings) {
                        served.open(context, socket);
                    }
                }
                Some(Order::Change(id, mode)) => served.change(id, mode),
                Some(Order::AskToLeave(id)) => served.ask_to_leave(id),
                Some(Order::Close(id, within)) => served.close(id, within),
            },
        }
    }
}

/// A listener that is open, or closed and not yet without connections.
struct One<H> {
    id: ListenerId,
    /// Held by whoever accepts, and by the connections.
    context: Weak<ConnectionContext<H>>,
    /// Its stop as its connections see it.
    drain: Rc<WorkerDrain>,
    /// Shared with the task that closes what is left in the end.
    control: Rc<DrainControl>,
}

/// All listeners of a worker.
struct Served<H> {
    listeners: Vec<One<H>>,
    /// How far the stop of the process has come.
    phase: Phase,
}

impl<H: Handler> Served<H> {
    fn new(phase: Phase) -> Self {
        Self { listeners: Vec::new(), phase }
    }

    fn open(&mut self, context: ConnectionContext<H>, socket: StdListener) {
        self.listeners.retain(|one| !one.control.is_joined());
        // Tells how far the stop of this listener has come, and when its last connection is gone.
        let (control, drain) = drain::channel();
        let context = Rc::new(context);
        let one = One {
            id: context.listener,
            context: Rc::downgrade(&context),
            drain: Rc::clone(&context.drain),
            control: Rc::new(control),
        };
        one.control.advance(self.phase);
        one.drain.advance(self.phase);
        self.listeners.push(one);
        tokio::task::spawn_local(async move {
            let name = Arc::clone(&context.listener_name);
            if let Err(error) = accept(context, socket, drain).await {
                tracing::error!(listener = %name, error = %error, "a worker cannot accept connections");
            }
        });
    }

    /// Takes over how far the stop of the process has come.
    fn advance(&mut self, phase: Phase) {
        if phase > self.phase {
            self.phase = phase;
            for one in &self.listeners {
                one.control.advance(phase);
                one.drain.note(phase);
            }
            if let Some(one) = self.listeners.first() {
                one.drain.room().wake_all();
            }
        }
    }

    /// The open listener of an id: the one that was opened last.
    fn find(&self, id: ListenerId) -> Option<&One<H>> {
        self.listeners.iter().rev().find(|one| one.id == id)
    }

    fn change(&self, id: ListenerId, mode: ListenerMode) {
        if let Some(context) = self.find(id).and_then(|one| one.context.upgrade()) {
            context.mode.set(mode);
        }
    }

    fn ask_to_leave(&self, id: ListenerId) {
        if let Some(one) = self.find(id) {
            one.drain.advance(Phase::Closing);
        }
    }

    fn close(&self, id: ListenerId, within: Duration) {
        let Some(One { drain, control, .. }) = self.find(id) else { return };
        control.advance(Phase::Closing);
        drain.advance(Phase::Closing);
        let (drain, control) = (Rc::clone(drain), Rc::clone(control));
        tokio::task::spawn_local(async move {
            if tokio::time::timeout(within, control.joined()).await.is_err() {
                control.advance(Phase::Ended);
                drain.advance(Phase::Ended);
            }
        });
    }

    /// Waits until no listener has a connection any more.
    async fn joined(&self) {
        for one in &self.listeners {
            one.control.joined().await;
        }
    }
}
