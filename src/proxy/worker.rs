//! One worker of the data plane: what its requests share on its thread.
//!
//! Nothing here is shared with another worker but the live numbers of endpoints, the registry of open sockets and,
//! through feeds and channels, the control half.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use ipnet::IpNet;
use tokio::time::Instant;

use super::bad_response::BadResponses;
use super::copies::Copies;
use super::entries::Entries;
use super::passwords::PasswordChecks;
use super::pressure::Pressure;
use super::refusals::Refusals;
use super::replay::BodyRoom;
use super::room::WorkerRoom;
use super::tunnel;
use super::upstream::{PoolLimits, Pooled, Pools};
use crate::balance::EndpointState;
use crate::filter::{AuthSettings, FilterMeans, WorkerAuth};
use crate::http1::client::{Buffers, ResponseLimits};
use crate::http1::framing::ChunkLimits;
use crate::live::LiveCache;
use crate::model::ids::ListenerId;
use crate::settings::Settings;
use crate::sockets::Sockets;
use crate::stream::TcpTimeouts;
use crate::telemetry::access_log::{AccessLogEntry, AccessLogSender};
use crate::telemetry::metrics::WorkerMetrics;

/// How often collected log entries are handed over and idle connections looked at.
const TICK: Duration = Duration::from_millis(250);

/// By how much the clockwork may be late before what the worker finds passed is not believed, and for how long.
const LATE: Duration = Duration::from_secs(1);

/// Empty field maps that a worker keeps for coming responses, and the most lines that a kept one has room for.
const SPARE_MAPS: usize = 64;
const SPARE_MAP_LINES: usize = 96;

/// Entries of accounts that a worker keeps.
const SPARE_ENTRIES: usize = 64;

/// What a worker is made of.
#[derive(Debug)]
pub struct WorkerParts {
    /// Process settings.
    pub settings: Arc<Settings>,
    /// What requests are answered from.
    pub live: LiveCache,
    /// This worker's cells.
    pub metrics: Arc<WorkerMetrics>,
    /// The instant that `now` is counted from; the same in every worker, since endpoints keep such times.
    pub epoch: Instant,
    /// Seed of picks and request ids.
    pub seed: u64,
    /// Where access-log entries go; `None`: nowhere.
    pub access_log: Option<AccessLogSender>,
    /// The registry of open sockets.
    pub sockets: Arc<Sockets>,
    /// Room for its clients' connections.
    pub room: Rc<WorkerRoom>,
    /// Makes the checks of passwords.
    pub passwords: Arc<PasswordChecks>,
}

/// One worker of the data plane.
#[derive(Debug)]
pub struct Worker {
    settings: Arc<Settings>,
    live: LiveCache,
    metrics: Arc<WorkerMetrics>,
    epoch: Instant,
    rng: RefCell<fastrand::Rng>,
    access_log: Option<AccessLogSender>,
    sockets: Arc<Sockets>,
    /// Lent to tunnels for one read.
    tunnel_buffer: RefCell<Box<[u8]>>,
    pools: Rc<Pools>,
    room: Rc<WorkerRoom>,
    buffers: Buffers,
    /// Maps of requests that are done, for the fields of responses.
    spare_fields: RefCell<Vec<HeaderMap>>,
    /// Entries of accounts that are closed, for coming ones.
    #[expect(clippy::vec_box, reason = "they move from here into accounts and back")]
    spare_entries: RefCell<Vec<Box<Entries>>>,
    replay_room: BodyRoom,
    mirror_room: BodyRoom,
    copies: Copies,
    response_limits: ResponseLimits,
    auth: WorkerAuth,
    passwords: Arc<PasswordChecks>,
    /// What operators were told of refused requests.
    refusals: Refusals,
    /// When its clockwork ran last; `None` before the first time.
    ticked: Cell<Option<Instant>>,
    /// Until when what it finds passed may have passed while it did not run.
    late_until: Cell<Option<Instant>>,
    /// Trusted forwarders by listener.
    forwarders: Box<[Box<[IpNet]>]>,
}

impl Worker {
    /// Makes a worker, to be used on one thread inside a `LocalSet`.
    #[must_use]
    pub fn new(parts: WorkerParts) -> Rc<Self> {
        let WorkerParts { settings, live, metrics, epoch, seed, access_log, sockets, room, passwords } = parts;
        let limits = &settings.limits;
        let response_limits = ResponseLimits {
            head: limits.response_head,
            interim: limits.interim_responses,
            chunks: ChunkLimits {
                line: limits.chunk_line,
                extensions: limits.chunk_extensions,
                trailers_total: limits.trailers_total,
                trailer_count: limits.trailer_count,
            },
        };
        let pool_limits = PoolLimits {
            idle: settings.deadlines.upstream_idle,
            per_endpoint: limits.upstream_idle_per_endpoint,
            tcp: TcpTimeouts {
                keepalive: settings.deadlines.tcp_keepalive,
                user_timeout: settings.deadlines.tcp_user_timeout,
            },
        };
        let workers = settings.workers.max(1);
        let replay_room = BodyRoom::new(limits.retry_bodies / workers);
        let mirror_room = BodyRoom::new(limits.mirror_bodies / workers);
        let copies = Copies::new(limits.mirrors.div_ceil(workers));
        let pools = Rc::new(Pools::new(pool_limits, Arc::clone(&metrics), Rc::clone(&room)));
        let forwarders = settings
            .listeners
            .values()
            .map(|listener| listener.trusted_forwarders.clone().into_boxed_slice())
            .collect();
        Rc::new(Self {
            live,
            epoch,
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            access_log,
            sockets,
            // Zeroed pages cost nothing before the first tunnel reads.
            tunnel_buffer: RefCell::new(vec![0; tunnel::BUFFER].into_boxed_slice()),
            pools,
            room,
            buffers: Buffers::default(),
            spare_fields: RefCell::default(),
            spare_entries: RefCell::default(),
            replay_room,
            mirror_room,
            copies,
            response_limits,
            auth: WorkerAuth::new(
                Arc::clone(&metrics),
                AuthSettings { clock: since_1970, logs_subjects: settings.jwt.log_subject },
            ),
            metrics,
            passwords,
            refusals: Refusals::default(),
            ticked: Cell::default(),
            late_until: Cell::default(),
            forwarders,
            settings,
        })
    }

    /// Process settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What requests are answered from.
    #[must_use]
    pub fn live(&self) -> &LiveCache {
        &self.live
    }

    /// This worker's cells.
    #[must_use]
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    /// Shares this worker's cells with what it opens.
    pub(super) fn shared_metrics(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The connections to endpoints.
    #[must_use]
    pub fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    /// Buffers to lend for one poll.
    #[must_use]
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// An empty map for the fields of a response, with room when there is one to spare.
    pub(super) fn take_fields(&self) -> HeaderMap {
        self.spare_fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps the map of a request that is done. The connection keeps the response's, so that none is allocated in the long
    /// run.
    pub(super) fn put_fields(&self, mut fields: HeaderMap) {
        let mut spare = self.spare_fields.borrow_mut();
        if spare.len() < SPARE_MAPS && (1..=SPARE_MAP_LINES).contains(&fields.capacity()) {
            fields.clear();
            spare.push(fields);
        }
    }

    /// Entries for the account of a request.
    pub(super) fn take_entries(&self) -> Box<Entries> {
        self.spare_entries.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps the entries of an account that was entered, for another one.
    pub(super) fn put_entries(&self, entries: Box<Entries>) {
        let mut spare = self.spare_entries.borrow_mut();
        if spare.len() < SPARE_ENTRIES {
            spare.push(entries);
        }
    }

    /// Room for request bodies that are kept.
    pub(super) fn replay_room(&self) -> &BodyRoom {
        &self.replay_room
    }

    /// Room for the bodies of copies that wait to be sent.
    pub(super) fn mirror_room(&self) -> &BodyRoom {
        &self.mirror_room
    }

    /// The copies that are on their way.
    pub(super) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// Bounds on what endpoints may send.
    #[must_use]
    pub fn response_limits(&self) -> &ResponseLimits {
        &self.response_limits
    }

    /// The source of picks and ids.
    pub(super) fn rng(&self) -> &RefCell<fastrand::Rng> {
        &self.rng
    }

    /// The time since the epoch, as endpoints count it.
    #[must_use]
    pub fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    /// Makes the checks of passwords.
    pub(super) fn passwords(&self) -> &Arc<PasswordChecks> {
        &self.passwords
    }

    /// What filters are lent.
    pub(super) fn filter_means(&self) -> FilterMeans<'_> {
        FilterMeans { rng: &self.rng, auth: &self.auth }
    }

    /// The networks whose forwarding fields a listener believes.
    #[must_use]
    pub fn forwarders(&self, listener: ListenerId) -> &[IpNet] {
        self.forwarders.get(listener.index()).map_or(&[], AsRef::as_ref)
    }

    /// What operators were told of refused requests.
    pub(super) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The registry of open sockets.
    pub(super) fn sockets(&self) -> &Arc<Sockets> {
        &self.sockets
    }

    /// The buffer that tunnels read into.
    pub(super) fn tunnel_buffer(&self) -> &RefCell<Box<[u8]>> {
        &self.tunnel_buffer
    }

    /// Memory is too short for further tries.
    pub(super) fn is_short_of_memory(&self) -> bool {
        self.room.memory().level() >= Pressure::NoRetries
    }

    /// Requests leave a line in the access log.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.access_log.is_some()
    }

    /// Adds a line to the access log, if there is one.
    pub fn log(&self, entry: AccessLogEntry) {
        if let Some(log) = &self.access_log {
            log.push(entry);
        }
    }

    /// Hands over what was collected for the access log.
    pub fn flush_log(&self) {
        if let Some(log) = &self.access_log {
            log.flush();
        }
    }

    /// Where malformed answers are noted.
    pub(super) fn bad_responses(&self) -> &BadResponses {
        self.pools.bad_responses()
    }

    /// Puts a connection back after an exchange whose request was sent completely, if it can carry another one.
    pub(super) fn release(&self, endpoint: &Arc<EndpointState>, connection: Pooled, now: Instant) {
        if connection.is_reusable() && !connection.is_last() {
            self.pools.push(endpoint, connection, now);
        } else if connection.has_surplus() {
            self.bad_responses().lost(endpoint, "bytes follow the response");
        }
    }

    /// Notes that the clockwork runs.
    fn note_tick(&self, now: Instant) {
        if let Some(before) = self.ticked.replace(Some(now))
            && now.saturating_duration_since(before) > TICK + LATE
        {
            self.late_until.set(Some(now + LATE));
        }
    }

    /// Whether this worker did not run for a while just now: the process was stopped, or had no processor. Deadlines
    /// that have passed say nothing about endpoints then.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        // It may be asked before the clockwork runs again.
        let since = self.ticked.get().map(|before| now.saturating_duration_since(before));
        since.is_some_and(|since| since > TICK + LATE) || self.late_until.get().is_some_and(|until| now < until)
    }

    /// The worker's clockwork: closes idle connections, hands log entries over, gives connections up that others wait for.
    /// Runs until it is dropped.
    pub async fn maintain(self: Rc<Self>) {
        tokio::join!(self.tick(), self.pools.answer_others());
    }

    async fn tick(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            self.note_tick(Instant::now());
            self.pools.sweep(now);
            if let Some(log) = &self.access_log {
                log.flush();
            }
        }
    }
}

/// The time since 1970, as the clock of the system has it.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
