//! Counters, gauges and histograms, and the page that Prometheus scrapes.
//!
//! Workers write cells of their own; a scrape sums over the workers. Names, types and labels stand in
//! [`METRICS`](super::METRICS). Nothing here knows snapshots: routes and rules come as names.

mod cells;
mod forward_proxy;
mod health;
mod key_fetches;
mod limits;
mod page;
mod series;
mod services;
mod status;
mod times;
mod watches;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

pub use cells::{
    AuthFilter, AuthVerdict, Cell, ConnectResult, Direction, EjectionCause, GrpcCode, ListenerCells, MirrorResult,
    PickCondition, RetryDenial, RetryTrigger, SessionResult, Side, SocketEnd, Where, WorkerMetrics,
};
pub use forward_proxy::{Exchange, ForwardProxyMetrics, Open, Proxied};
pub use health::{CheckOutcome, HealthMetrics, HealthState, ServiceHealth};
pub use key_fetches::{FetchOutcome, KeyFetchMetrics};
pub use limits::{FilterCounts, LimitName};
pub use series::{RouteSeries, RuleSeries};
pub use services::{EndpointsState, ServiceEndpoints, ServiceSeries};
pub use status::{StatusMetrics, StatusWrite};
pub use watches::{Following, Restart, WatchCells};

use limits::{FiltersOf, Limits};
use page::Page;
use series::Routes;
use services::Services;
use times::Times;

/// What the metrics have to know at the start.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// Number of data workers.
    pub workers: usize,
    /// Names of the listeners that are on the page from the start, whether a connection has come or not.
    pub listeners: Vec<Arc<str>>,
    /// Most time series that routes and rules may have together.
    pub max_series: usize,
}

/// Number of active objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigObjects {
    /// Routes.
    pub routes: usize,
    /// Rules of all routes.
    pub rules: usize,
    /// Service ports that rules refer to.
    pub backends: usize,
    /// Usable endpoints of all backends.
    pub endpoints: usize,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    options: MetricsOptions,
    workers: Box<[Arc<WorkerMetrics>]>,
    control: ControlCells,
    /// Series of the active routes, by label. Only the control half takes this lock.
    routes: Mutex<Routes>,
    /// Only where statuses are written.
    status: OnceLock<Arc<StatusMetrics>>,
    /// The watches of an API server, if there is one.
    watches: Mutex<Vec<Arc<WatchCells>>>,
    services: Mutex<Services>,
    /// The Secrets that certificates are taken from.
    certificates: Mutex<Vec<CertificateGauge>>,
    authorities: Mutex<Vec<AuthorityGauge>>,
    /// Tells the endpoints of all Services when it is asked.
    endpoints: OnceLock<EndpointsOf>,
    /// Only where endpoints are checked.
    health: OnceLock<Arc<HealthMetrics>>,
    /// Only where keys are fetched.
    key_fetches: OnceLock<Arc<KeyFetchMetrics>>,
    /// Only where there is a forward proxy.
    forward_proxy: OnceLock<Arc<ForwardProxyMetrics>>,
    /// Tells what is known of endpoints when it is asked.
    health_of: OnceLock<HealthOf>,
    /// Tells what filters have decided and done when it is asked.
    filter_counts: OnceLock<FiltersOf>,
    limits: Mutex<Limits>,
}

/// A Secret that certificates are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateGauge {
    /// `namespace/name`.
    pub secret: String,
    /// Until when the certificate that is shown is valid, in seconds since 1970; `None` when there is none.
    pub not_after: Option<i64>,
    /// The Secret's newest content can be used.
    pub is_valid: bool,
}

/// An object that the authorities of clients' certificates are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityGauge {
    /// Its kind, a space, and `namespace/name`.
    pub authority: String,
    /// Its content can be used.
    pub is_valid: bool,
}

/// Tells the endpoints of all Services.
struct EndpointsOf(Box<dyn Fn() -> Vec<ServiceEndpoints> + Send + Sync>);

impl std::fmt::Debug for EndpointsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointsOf")
    }
}

/// Tells what is known of the endpoints of rules with health checks or outlierDetection.
struct HealthOf(Box<dyn Fn() -> Vec<ServiceHealth> + Send + Sync>);

impl std::fmt::Debug for HealthOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HealthOf")
    }
}

/// Where the active configuration comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfigSource {
    /// Files of a folder.
    #[default]
    Files,
    /// An API server.
    Cluster,
    /// What an API server said before the process started, since it does not answer.
    Cache,
}

impl ConfigSource {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Files, Self::Cluster, Self::Cache];

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Cluster => "cluster",
            Self::Cache => "cache",
        }
    }
}

/// Until when the active configuration was without an error.
#[derive(Clone, Copy, Debug, Default)]
enum WithoutError {
    /// None was, since the start.
    #[default]
    Never,
    /// The first error came then.
    Until(SystemTime),
    /// It is.
    Still,
}

impl WithoutError {
    /// In seconds since 1970; 0 for never.
    fn seconds(self) -> f64 {
        let until = match self {
            Self::Never => SystemTime::UNIX_EPOCH,
            Self::Until(time) => time,
            Self::Still => SystemTime::now(),
        };
        until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}

/// Numbers that the control half writes, from any of its threads.
#[derive(Debug, Default)]
struct ControlCells {
    config_version: AtomicU64,
    config_ok: Mutex<WithoutError>,
    config_source: Mutex<ConfigSource>,
    compile_times: Times,
    publish_times: Times,
    config_errors: AtomicU64,
    config_warnings: AtomicU64,
    objects: Mutex<ConfigObjects>,
    panics: AtomicU64,
    admin_closed: AtomicU64,
    /// 0: no limit.
    most_connections: AtomicU64,
    memory_used: AtomicU64,
    /// 0: no limit.
    memory_limit: AtomicU64,
    memory_pressure: AtomicU64,
    access_log_dropped: AtomicU64,
}

impl Metrics {
    /// Makes the metrics of a process.
    #[must_use]
    pub fn new(options: MetricsOptions) -> Arc<Self> {
        let workers = (0..options.workers).map(|_| Arc::<WorkerMetrics>::default()).collect();
        Arc::new(Self {
            options,
            workers,
            control: ControlCells::default(),
            routes: Mutex::default(),
            status: OnceLock::new(),
            certificates: Mutex::default(),
            authorities: Mutex::default(),
            watches: Mutex::default(),
            services: Mutex::default(),
            endpoints: OnceLock::new(),
            health: OnceLock::new(),
            key_fetches: OnceLock::new(),
            forward_proxy: OnceLock::new(),
            health_of: OnceLock::new(),
            filter_counts: OnceLock::new(),
            limits: Mutex::default(),
        })
    }

    /// The cells of a new watch of a kind.
    #[must_use]
    pub fn watch(&self, kind: &'static str) -> Arc<WatchCells> {
        let cells = Arc::new(WatchCells::new(kind));
        lock(&self.watches).push(Arc::clone(&cells));
        cells
    }

    /// Number of data workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The cells of one worker; only that worker's thread may write them. `None` when there is no such worker.
    #[must_use]
    pub fn worker(&self, index: usize) -> Option<Arc<WorkerMetrics>> {
        self.workers.get(index).cloned()
    }

    /// Takes over the active rules, given as route label and rule name, those of one route together; returns their series
    /// in the same order. What has the same names keeps its counts; what is gone loses those that had series of their own.
    pub fn set_rules<'a>(&self, rules: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> Vec<Arc<RuleSeries>> {
        let rules: Vec<_> = rules.collect();
        lock(&self.routes).set(&rules, self.workers.len())
    }

    /// Takes over other rules of some routes: by the label of a route the names of all its rules, none where it is gone.
    /// Returns their series in the same order. What has the same name keeps its counts; what is gone loses those that had
    /// series of their own.
    pub fn update_rules(&self, changed: &BTreeMap<&Arc<str>, Vec<&Arc<str>>>) -> Vec<Vec<Arc<RuleSeries>>> {
        let mut routes = lock(&self.routes);
        changed.iter().map(|(label, rules)| routes.update(label, rules, self.workers.len())).collect()
    }

    /// Takes over other Services that active rules refer to, by their labels, and returns the series of the new ones in
    /// the same order. What is gone loses the counts that had series of their own.
    pub fn update_services(
        &self,
        gone: impl Iterator<Item = Arc<str>>,
        new: impl Iterator<Item = Arc<str>>,
    ) -> Vec<Arc<ServiceSeries>> {
        lock(&self.services).update(gone, new, self.workers.len())
    }

    /// Takes over the Services that active rules refer to, and returns their series in the same order. What stays keeps
    /// its counts; what is gone loses those that had series of their own.
    pub fn set_services(&self, labels: impl Iterator<Item = Arc<str>>) -> Vec<Arc<ServiceSeries>> {
        lock(&self.services).set(labels, self.workers.len())
    }

    /// From now on every page asks this for the endpoints of all Services. Only the first call counts.
    pub fn ask_for_endpoints(&self, endpoints: impl Fn() -> Vec<ServiceEndpoints> + Send + Sync + 'static) {
        let _ = self.endpoints.set(EndpointsOf(Box::new(endpoints)));
    }

    /// Notes how long it took to compile a version and to make it active.
    pub fn config_took(&self, compile: Duration, publish: Duration) {
        self.control.compile_times.record(compile);
        self.control.publish_times.record(publish);
    }

    /// Notes where the active configuration comes from.
    pub fn set_config_source(&self, source: ConfigSource) {
        *lock(&self.control.config_source) = source;
    }

    /// Notes the version that was published and what it holds.
    pub fn set_config(&self, version: u64, objects: ConfigObjects) {
        self.control.config_version.store(version, Ordering::Relaxed);
        *lock(&self.control.objects) = objects;
    }

    /// Notes how many diagnostics the active configuration has since now.
    pub fn set_diagnostics(&self, errors: usize, warnings: usize) {
        let mut ok = lock(&self.control.config_ok);
        *ok = match *ok {
            _ if errors == 0 => WithoutError::Still,
            WithoutError::Still => WithoutError::Until(SystemTime::now()),
            before => before,
        };
        self.control.config_errors.store(errors as u64, Ordering::Relaxed);
        self.control.config_warnings.store(warnings as u64, Ordering::Relaxed);
    }

    /// Notes the Secrets that certificates are taken from.
    pub fn set_certificates(&self, certificates: Vec<CertificateGauge>) {
        *lock(&self.certificates) = certificates;
    }

    /// Notes the objects that the authorities of clients' certificates are taken from.
    pub fn set_authorities(&self, authorities: Vec<AuthorityGauge>) {
        *lock(&self.authorities) = authorities;
    }

    /// Counts a panic in a task of the control half.
    pub fn control_panicked(&self) {
        self.control.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many client connections there may be; `None` for any number.
    pub fn set_most_connections(&self, most: Option<u64>) {
        self.control.most_connections.store(most.unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes how much memory is used, out of how much (0: any), and the level of what is given up for it.
    pub fn set_memory(&self, used: u64, limit: u64, pressure: u8) {
        self.control.memory_used.store(used, Ordering::Relaxed);
        self.control.memory_limit.store(limit, Ordering::Relaxed);
        self.control.memory_pressure.store(pressure.into(), Ordering::Relaxed);
    }

    /// Counts an admin connection that was closed for being slow or one too many.
    pub fn admin_closed(&self) {
        self.control.admin_closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts access-log lines that were dropped because the log's reader was too slow.
    pub fn access_log_dropped(&self, lines: u64) {
        self.control.access_log_dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// The numbers of the writer of statuses, which are on the page from now on.
    #[must_use]
    pub fn status(&self) -> Arc<StatusMetrics> {
        Arc::clone(self.status.get_or_init(Arc::default))
    }

    /// The numbers of the prober, which are on the page from now on.
    #[must_use]
    pub fn health(&self) -> Arc<HealthMetrics> {
        Arc::clone(self.health.get_or_init(Arc::default))
    }

    /// The numbers of the fetcher of keys, which are on the page from now on.
    #[must_use]
    pub fn key_fetches(&self) -> Arc<KeyFetchMetrics> {
        Arc::clone(self.key_fetches.get_or_init(Arc::default))
    }

    /// The numbers of the forward proxy, whose listener has this name; they are on the page from now on.
    #[must_use]
    pub fn forward_proxy(&self, listener: &str) -> Arc<ForwardProxyMetrics> {
        Arc::clone(self.forward_proxy.get_or_init(|| Arc::new(ForwardProxyMetrics::new(listener))))
    }

    /// From now on every page asks this for what is known of endpoints. Only the first call counts.
    pub fn ask_for_health(&self, health: impl Fn() -> Vec<ServiceHealth> + Send + Sync + 'static) {
        let _ = self.health_of.set(HealthOf(Box::new(health)));
    }

    /// From now on every page asks this for what filters have decided and done. Only the first call counts.
    pub fn ask_for_filters(&self, counts: impl Fn() -> FilterCounts + Send + Sync + 'static) {
        let _ = self.filter_counts.set(FiltersOf(Box::new(counts)));
    }

    /// The page in Prometheus' text format 0.0.4; a metric without any series is left out.
    #[must_use]
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.render_config(&mut page);
        watches::render(lock(&self.watches).iter().map(|watch| &**watch), &mut page);
        self.render_workers(&mut page);
        if let Some(status) = self.status.get() {
            status.render(&mut page);
        }
        let folded = lock(&self.routes).render(self.options.max_series, &mut page);
        page.add("tidegate_metrics_series_folded", &[], folded as f64);
        let of_services = self.options.max_series / 8;
        lock(&self.services).render(of_services / 2, &mut page);
        if let Some(EndpointsOf(endpoints)) = self.endpoints.get() {
            services::render_endpoints(&endpoints(), of_services / 2, &mut page);
        }
        if let Some(health) = self.health.get() {
            health.render(&mut page);
        }
        if let Some(fetches) = self.key_fetches.get() {
            fetches.render(&mut page);
        }
        if let Some(proxy) = self.forward_proxy.get() {
            proxy.render(&mut page);
        }
        if let Some(HealthOf(health)) = self.health_of.get() {
            health::render_endpoints(&health(), of_services / 2, &mut page);
        }
        if let Some(FiltersOf(counts)) = self.filter_counts.get() {
            lock(&self.limits).render(counts(), self.options.max_series / 8, &mut page);
        }
        page.encode()
    }

    fn render_config(&self, page: &mut Page) {
        let control = &self.control;
        let get = |cell: &AtomicU64| cell.load(Ordering::Relaxed) as f64;
        page.add("tidegate_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
        let source = *lock(&control.config_source);
        for &of in ConfigSource::ALL {
            page.add("tidegate_config_source", &[of.as_str()], f64::from(u8::from(of == source)));
        }
        control.compile_times.render("tidegate_config_compile_seconds", page);
        control.publish_times.render("tidegate_config_publish_seconds", page);
        page.add("tidegate_config_version", &[], get(&control.config_version));
        page.add("tidegate_config_last_ok_timestamp_seconds", &[], lock(&control.config_ok).seconds());
        page.add("tidegate_config_diagnostics", &["error"], get(&control.config_errors));
        page.add("tidegate_config_diagnostics", &["warning"], get(&control.config_warnings));
        let objects = *lock(&control.objects);
        for (kind, count) in [
            ("route", objects.routes),
            ("rule", objects.rules),
            ("backend", objects.backends),
            ("endpoint", objects.endpoints),
        ] {
            page.add("tidegate_config_objects", &[kind], count as f64);
        }
        page.add("tidegate_memory_used_bytes", &[], get(&control.memory_used));
        page.add("tidegate_memory_limit_bytes", &[], get(&control.memory_limit));
        page.add("tidegate_memory_pressure", &[], get(&control.memory_pressure));
        for CertificateGauge { secret, not_after, is_valid } in &*lock(&self.certificates) {
            page.add("tidegate_certificate_valid", &[secret], f64::from(u8::from(*is_valid)));
            if let Some(not_after) = not_after {
                page.add("tidegate_certificate_expiry_timestamp_seconds", &[secret], *not_after as f64);
            }
        }
        for AuthorityGauge { authority, is_valid } in &*lock(&self.authorities) {
            page.add("tidegate_client_authority_valid", &[authority], f64::from(u8::from(*is_valid)));
        }
        page.add("tidegate_access_log_dropped_total", &[], get(&control.access_log_dropped));
    }

    /// The connections of each listener. One that was opened later and is closed has no series any more.
    fn render_listeners(&self, page: &mut Page) {
        let from_start = self.options.listeners.iter().map(|name| (Arc::clone(name), (0, 0)));
        let mut listeners: BTreeMap<Arc<str>, (u64, u64)> = from_start.collect();
        for worker in &self.workers {
            let mut of_worker = lock(&worker.listeners);
            of_worker.retain(|name, cells| Arc::strong_count(cells) > 1 || self.options.listeners.contains(name));
            for (name, cells) in &*of_worker {
                let (open, accepted) = listeners.entry(Arc::clone(name)).or_default();
                *open = open.wrapping_add(cells.open.get());
                *accepted = accepted.wrapping_add(cells.accepted.get());
            }
        }
        if let Some(proxy) = self.forward_proxy.get() {
            listeners.insert(Arc::clone(proxy.listener()), proxy.connections());
        }
        for (name, (open, accepted)) in &listeners {
            page.add("tidegate_connections_open", &[name], *open as f64);
            page.add("tidegate_connections_accepted_total", &[name], *accepted as f64);
        }
    }

    fn render_workers(&self, page: &mut Page) {
        self.render_listeners(page);
        let most = self.control.most_connections.load(Ordering::Relaxed);
        page.add("tidegate_connections_limit", &[], most as f64);
        for &side in Side::ALL {
            let (label, side) = (side.as_str(), side as usize);
            page.add("tidegate_received_bytes_total", &[label], self.sum(|worker| worker.received_bytes[side].get()));
            page.add("tidegate_sent_bytes_total", &[label], self.sum(|worker| worker.sent_bytes[side].get()));
            self.per_reason(page, "tidegate_connections_closed_total", &[label], |worker| &worker.closed[side]);
        }
        let admin = self.control.admin_closed.load(Ordering::Relaxed);
        if admin > 0 {
            page.add(
                "tidegate_connections_closed_total",
                &["admin", crate::reason::Reason::Admin.as_str()],
                admin as f64,
            );
        }
        self.per_reason(page, "tidegate_requests_refused_total", &[], |worker| &worker.refused);
        self.per_reason(page, "tidegate_own_answers_total", &[], |worker| &worker.own_answers);
        for &result in ConnectResult::ALL {
            let count = self.sum(|worker| worker.upstream_connects[result as usize].get());
            page.add("tidegate_upstream_connects_total", &[result.as_str()], count);
        }
        for &cause in RetryTrigger::ALL {
            let count = self.sum(|worker| worker.upstream_retries[cause as usize].get());
            page.add("tidegate_upstream_retries_total", &[cause.as_str()], count);
        }
        for &cause in RetryDenial::ALL {
            let count = self.sum(|worker| worker.upstream_retries_denied[cause as usize].get());
            page.add("tidegate_upstream_retries_denied_total", &[cause.as_str()], count);
        }
        for &result in MirrorResult::ALL {
            let count = self.sum(|worker| worker.mirrored[result as usize].get());
            page.add("tidegate_mirrored_requests_total", &[result.as_str()], count);
        }
        for &condition in PickCondition::ALL {
            let count = self.sum(|worker| worker.picks_fail_open[condition as usize].get());
            page.add("tidegate_picks_fail_open_total", &[condition.as_str()], count);
        }
        for &result in SessionResult::ALL {
            let count = self.sum(|worker| worker.sessions[result as usize].get());
            page.add("tidegate_sessions_total", &[result.as_str()], count);
        }
        for &filter in AuthFilter::ALL {
            for &verdict in AuthVerdict::ALL {
                let count = self.sum(|worker| worker.authenticated[filter as usize][verdict as usize].get());
                if count > 0.0 {
                    page.add("tidegate_auth_requests_total", &[filter.as_str(), verdict.as_str()], count);
                }
            }
        }
        for &cause in EjectionCause::ALL {
            let count = self.sum(|worker| worker.endpoint_ejections[cause as usize].get());
            page.add("tidegate_endpoint_ejections_total", &[cause.as_str()], count);
        }
        for &place in Where::ALL {
            let count = self.sum(|worker| worker.panics[place as usize].get());
            let control = match place {
                Where::Control => {
                    let of_status = self.status.get().map_or(0, |status| status.panics());
                    self.control.panics.load(Ordering::Relaxed) + of_status
                }
                Where::Request | Where::Connection => 0,
            };
            page.add("tidegate_panics_total", &[place.as_str()], count + control as f64);
        }
        for &direction in Direction::ALL {
            let bytes = self.sum(|worker| worker.socket_bytes[direction as usize].get());
            page.add("tidegate_socket_bytes_total", &[direction.as_str()], bytes);
        }
        for &end in SocketEnd::ALL {
            let count = self.sum(|worker| worker.sockets_closed[end as usize].get());
            if count > 0.0 {
                page.add("tidegate_sockets_closed_total", &[end.as_str()], count);
            }
        }
        let durations: [u64; cells::SOCKET_BUCKETS.len() + 1] =
            std::array::from_fn(|at| self.workers.iter().map(|worker| worker.socket_durations[at].get()).sum());
        let seconds = self.sum(|worker| worker.socket_duration_sum.get()) / 1e3;
        let bounds = cells::SOCKET_BUCKETS.iter().map(|bound| *bound as f64);
        page.add_histogram("tidegate_socket_duration_seconds", &[], bounds, &durations, seconds);
        for (name, cell) in [
            ("tidegate_requests_in_flight", (|worker| &worker.requests_in_flight) as fn(&WorkerMetrics) -> &Cell),
            ("tidegate_sockets_open", |worker| &worker.sockets_open),
            ("tidegate_pending_requests", |worker| &worker.pending_requests),
            ("tidegate_upstream_connections_open", |worker| &worker.upstream_connections_open),
            ("tidegate_interim_responses_dropped_total", |worker| &worker.interim_responses_dropped),
            ("tidegate_underscore_fields_removed_total", |worker| &worker.underscore_fields_removed),
            ("tidegate_accept_pauses_total", |worker| &worker.accept_pauses),
        ] {
            page.add(name, &[], self.sum(|worker| cell(worker).get()));
        }
    }

    /// One series per reason that was ever counted.
    fn per_reason(
        &self,
        page: &mut Page,
        name: &'static str,
        labels: &[&str],
        cells: impl Fn(&WorkerMetrics) -> &cells::PerReason,
    ) {
        for &reason in crate::reason::Reason::ALL {
            let count = self.sum(|worker| cells(worker).0[reason as usize].get());
            if count > 0.0 {
                let labels: Vec<&str> = labels.iter().copied().chain([reason.as_str()]).collect();
                page.add(name, &labels, count);
            }
        }
    }

    fn sum(&self, cell: impl Fn(&WorkerMetrics) -> u64) -> f64 {
        self.workers.iter().map(|worker| cell(worker)).fold(0_u64, u64::wrapping_add) as f64
    }
}

/// Locks; what a panicking thread left behind is still numbers.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
