//! Data workers: one thread each, with a runtime, sockets, pools and counters of its own.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::live::Feed;
use crate::proxy::connection::{ConnectionContext, TlsContext};
use crate::proxy::listeners::{Order, serve_orders};
use crate::proxy::passwords::PasswordChecks;
use crate::proxy::room::{Room, WorkerRoom};
use crate::proxy::worker::{Worker, WorkerParts};
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::{Listener, Settings};
use crate::sockets::Sockets;
use crate::telemetry::access_log::{AccessLogHandle, AccessLogSender};
use crate::telemetry::metrics::Metrics;

/// What all workers share.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    pub(super) metrics: Arc<Metrics>,
    /// The registry of open sockets.
    pub(super) sockets: Arc<Sockets>,
    pub(super) epoch: Instant,
    /// Held by every worker until its last connection has ended.
    pub(super) drain: Drain,
}

/// What one worker takes into its thread.
struct Own {
    settings: Arc<Settings>,
    orders: mpsc::UnboundedReceiver<Order>,
    metrics: Arc<Metrics>,
    sockets: Arc<Sockets>,
    room: Arc<Room>,
    passwords: Arc<PasswordChecks>,
    index: usize,
    epoch: Instant,
    feed: Feed,
    access_log: Option<AccessLogSender>,
    drain: Drain,
}

/// Starts a thread for each worker, which serves the listeners that it is told to; the threads end by themselves once the
/// drain has closed the listeners and their connections. Returns the room that they share.
pub(super) fn start(
    parts: &Parts,
    feeds: Vec<(Feed, mpsc::UnboundedReceiver<Order>)>,
    access_log: Option<&AccessLogHandle>,
) -> Result<Arc<Room>> {
    let room = Room::new(&parts.settings.limits, feeds.len());
    parts.metrics.set_most_connections(room.most_connections());
    let most = parts.settings.limits.password_checks.unwrap_or(parts.settings.workers / 4);
    let passwords = PasswordChecks::new(most);
    for (index, (feed, orders)) in feeds.into_iter().enumerate() {
        let own = Own {
            settings: Arc::clone(&parts.settings),
            orders,
            metrics: Arc::clone(&parts.metrics),
            sockets: Arc::clone(&parts.sockets),
            room: Arc::clone(&room),
            passwords: Arc::clone(&passwords),
            index,
            epoch: parts.epoch,
            feed,
            access_log: access_log.map(AccessLogHandle::sender),
            drain: parts.drain.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .with_context(|| format!("cannot start the runtime of data worker {index}"))?;
        std::thread::Builder::new()
            .name(format!("data-{index}"))
            .spawn(move || LocalSet::new().block_on(&runtime, own.run()))
            .with_context(|| format!("cannot start the thread of data worker {index}"))?;
    }
    Ok(room)
}

impl Own {
    async fn run(self) {
        let Self { settings, orders, metrics, sockets, room, passwords, index, epoch, feed, access_log, drain } = self;
        let room = WorkerRoom::new(&room, index);
        let Some(cells) = metrics.worker(index) else { return };
        let worker = Worker::new(WorkerParts {
            settings: Arc::clone(&settings),
            live: feed.into_cache(fastrand::u32(..)),
            metrics: Arc::clone(&cells),
            epoch,
            seed: fastrand::u64(..),
            access_log,
            sockets,
            room: Rc::clone(&room),
            passwords,
        });
        let maintenance = tokio::task::spawn_local(Rc::clone(&worker).maintain());
        let following = tokio::task::spawn_local({
            let worker = Rc::clone(&worker);
            async move { worker.live().follow().await }
        });
        let handshakes = Rc::new(Semaphore::new(settings.limits.tls_handshakes.div_ceil(settings.workers.max(1))));
        let context = |id, name, listener: &Listener| {
            let limits = (&settings.deadlines, &settings.limits, &settings.forwarding);
            let (worker, cells) = (Rc::clone(&worker), Arc::clone(&cells));
            let tls = listener.tls.as_ref().map(|_| TlsContext {
                find: Box::new({
                    let worker = Rc::clone(&worker);
                    move |name| worker.live().current().tls().find(id, name)
                }),
                handshakes: Rc::clone(&handshakes),
            });
            let phase = WorkerDrain::new(Rc::clone(&room));
            let mut context = ConnectionContext::new((id, name), listener, limits, worker, cells, phase);
            context.tls = tls;
            context
        };
        serve_orders(context, orders, drain).await;
        worker.pools().clear();
        maintenance.abort();
        following.abort();
        // Its last lines go out with it.
        worker.flush_log();
    }
}
