//! Data workers: one thread each, with a runtime, sockets, pools and counters of its own.

use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::drain::Drain;
use crate::live::Feed;
use crate::model::ids::ListenerId;
use crate::proxy::connection::{ConnectionContext, TlsContext};
use crate::proxy::listener::{BoundListener, serve_all};
use crate::proxy::room::{Room, WorkerRoom};
use crate::proxy::worker::{Worker, WorkerParts};
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::Settings;
use crate::sockets::Sockets;
use crate::telemetry::access_log::{AccessLogHandle, AccessLogSender};
use crate::telemetry::metrics::Metrics;

/// What all workers share.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    /// Names of the listeners, in the order of their ids.
    pub(super) listeners: Vec<Arc<str>>,
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
    names: Vec<Arc<str>>,
    listening: Vec<StdListener>,
    metrics: Arc<Metrics>,
    sockets: Arc<Sockets>,
    room: Arc<Room>,
    index: usize,
    epoch: Instant,
    feed: Feed,
    access_log: Option<AccessLogSender>,
    drain: Drain,
}

/// Starts the threads; they end by themselves once the drain has closed their listeners and their connections. Returns the
/// room that they share.
pub(super) fn start(
    parts: &Parts,
    bound: Vec<BoundListener>,
    feeds: Vec<Feed>,
    access_log: Option<&AccessLogHandle>,
) -> Result<Arc<Room>> {
    let mut listening: Vec<std::vec::IntoIter<StdListener>> =
        bound.into_iter().map(|listener| listener.sockets.into_iter()).collect();
    let room = Room::new(&parts.settings.limits, feeds.len());
    parts.metrics.set_most_connections(room.most_connections());
    for (index, feed) in feeds.into_iter().enumerate() {
        let own = Own {
            settings: Arc::clone(&parts.settings),
            names: parts.listeners.clone(),
            listening: listening.iter_mut().filter_map(Iterator::next).collect(),
            metrics: Arc::clone(&parts.metrics),
            sockets: Arc::clone(&parts.sockets),
            room: Arc::clone(&room),
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
        let Self { settings, names, listening, metrics, sockets, room, index, epoch, feed, access_log, drain } = self;
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
        });
        let maintenance = tokio::task::spawn_local(Rc::clone(&worker).maintain());
        let following = tokio::task::spawn_local({
            let worker = Rc::clone(&worker);
            async move { worker.live().follow().await }
        });
        let phase = WorkerDrain::new(room);
        let handshakes = Rc::new(Semaphore::new(settings.limits.tls_handshakes.div_ceil(settings.workers.max(1))));
        let listeners = (0..).map(ListenerId).zip(names).zip(settings.listeners.values()).zip(listening);
        let listeners = listeners.map(|((named, listener), socket)| {
            let limits = (&settings.deadlines, &settings.limits, &settings.forwarding);
            let (worker, cells) = (Rc::clone(&worker), Arc::clone(&cells));
            let id = named.0;
            let tls = listener.tls.as_ref().map(|_| TlsContext {
                find: Box::new({
                    let worker = Rc::clone(&worker);
                    move |name| worker.live().current().tls().find(id, name)
                }),
                handshakes: Rc::clone(&handshakes),
            });
            let mut context = ConnectionContext::new(named, listener, limits, worker, cells, Rc::clone(&phase));
            context.tls = tls;
            (context, socket)
        });
        serve_all(listeners, &phase, drain).await;
        worker.pools().clear();
        maintenance.abort();
        following.abort();
        // Its last lines go out with it.
        worker.flush_log();
    }
}
