//! The only wiring place: settings and a source, a folder or an API server, become a running gateway.
//!
//! [`start`] binds everything, publishes the first version and returns a [`Running`] with every bound address;
//! [`Running::wait`] serves until the process is told to stop. The control half (watching, compiling, publishing, admin)
//! runs on a runtime of its own, each data worker on a thread of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use self::beside::Beside;
use self::cluster::BesideOptions;
pub use self::cluster::{ControllerOptions, LeaseOptions};
pub use self::leave::drain_incoming;
use self::listeners::{Listeners, lock};
use crate::admin::Admin;
use crate::compile::Compiler;
use crate::compile::authorities::AuthorityState;
use crate::compile::certificates::SecretState;
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::{Inputs, OwnPlace, StaticListener};
use crate::drain::{self, DrainControl, Phase};
use crate::fetch::Fetcher;
use crate::filter::FilterBounds;
use crate::health;
use crate::keys;
use crate::kinds::Objects;
use crate::live::{self, LiveView, Publisher};
use crate::model::ids::{ListenerId, ObjectName};
use crate::model::tls::Authorities;
use crate::proxy::listener;
use crate::readiness::Readiness;
use crate::settings::{self, AccessLog, HostnameOwnership, Listener, Settings};
use crate::sidecar::{self, Plan, View};
use crate::sockets::Sockets;
use crate::source::Update;
use crate::source::certificates;
use crate::source::collect::{DiagnosticLog, drive};
use crate::source::files::{self, FileSource};
use crate::status::{Published, Status};
use crate::telemetry::access_log::{self, AccessLogHandle, AccessLogWriter};
use crate::telemetry::metrics::{
    AuthorityGauge, CertificateGauge, FilterCounts, Metrics, MetricsOptions, ServiceHealth,
};

mod application;
mod beside;
mod cluster;
mod endpoints;
mod leave;
mod listeners;
mod memory;
mod proxy;
mod schema_version;
mod workers;

/// How long closing everything may take once the time for requests is over.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Where the gateway serves: the line on standard output.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    ready: bool,
    /// Bound addresses of the listeners by name.
    pub listeners: BTreeMap<String, SocketAddr>,
    /// Bound address of the admin server.
    pub admin: SocketAddr,
}

/// A gateway that serves.
pub struct Running {
    /// Where.
    pub ready: Ready,
    /// The objects it serves from, as last read.
    pub updates: watch::Receiver<Update>,
    runtime: Runtime,
    readiness: Readiness,
    control: DrainControl,
    sockets: Arc<Sockets>,
    settings: Arc<Settings>,
    access_log: Option<(AccessLogHandle, AccessLogWriter)>,
    source: Source,
    signals: Signals,
    /// How long it goes on accepting when it is told to stop. A sidecar ends after its application: nobody comes any more.
    delay: Duration,
}

/// Where the objects come from.
enum Source {
    /// Watches the files as long as it is held.
    Files(FileSource),
    /// Tasks of the runtime follow the API server, and may tell it what became of its routes.
    Cluster(Option<Status>),
}

/// Where to read objects.
enum ObjectsFrom<'a> {
    /// The manifests of a folder, and others beside them.
    Folder(&'a Path, Objects),
    /// An API server.
    Cluster(OfCluster<'a>),
}

/// Who reads from an API server.
enum OfCluster<'a> {
    /// A gateway.
    Gateway(&'a ControllerOptions),
    /// A sidecar, which reads what concerns its pod.
    Sidecar(Box<BesideOptions>),
}

/// Where a sidecar reads objects.
#[derive(Clone, Debug)]
pub enum SidecarObjects {
    /// The manifests of a folder.
    Folder(PathBuf),
    /// An API server.
    Cluster {
        /// The kubeconfig; without one that of the environment, or the service account of the pod.
        kubeconfig: Option<PathBuf>,
        /// A folder in which the objects are kept for a restart while the API server does not answer.
        cache: Option<PathBuf>,
    },
}

/// What SIGHUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// To read all files again, as it asks every daemon.
    ReadAgain,
    /// To stop: the terminal that the process runs in has gone.
    Stop,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// Starts serving the manifests of a folder. Returns once everything is bound and the first version is active.
///
/// # Errors
/// A listener or the admin address cannot be bound, the folder cannot be read, the access log cannot be opened.
pub fn start(settings: Settings, config: &Path) -> Result<Running> {
    start_with(settings, config, Objects::default())
}

/// [`start`], with objects beside those of the folder.
///
/// # Errors
/// See [`start`].
pub fn start_with(settings: Settings, config: &Path, objects: Objects) -> Result<Running> {
    start_at(settings, ObjectsFrom::Folder(config, objects), None)
}

/// Starts serving the objects of a Kubernetes API server. Returns once everything is bound, every kind that is needed was
/// listed and the first version is active; until then, the admin server already answers.
///
/// # Errors
/// A listener or the admin address cannot be bound, no API server is known, the access log cannot be opened, or a signal
/// asks to stop before the first version is active.
pub fn start_controller(settings: Settings, options: &ControllerOptions) -> Result<Running> {
    start_at(settings, ObjectsFrom::Cluster(OfCluster::Gateway(options)), None)
}

/// Starts serving one application: the listeners follow from what is asked for and from the Services of the source. It is
/// ready when the application listens on all `awaited` ports, too.
///
/// # Errors
/// An address that a flag names cannot be bound, the folder cannot be read, no API server is known, or a signal asks to stop
/// before the first version is active.
pub fn start_sidecar(
    mut settings: Settings,
    objects: &SidecarObjects,
    options: sidecar::Options,
    awaited: &[u16],
) -> Result<Running> {
    let place = match objects {
        SidecarObjects::Folder(folder) => ObjectsFrom::Folder(folder, Objects::default()),
        SidecarObjects::Cluster { kubeconfig, cache } => {
            let watch = crate::source::cluster::beside::Options {
                namespace: Arc::clone(&options.namespace),
                called: options.services(),
                own_service: options.own_service.clone(),
                cache: cache.clone(),
                ..Default::default()
            };
            ObjectsFrom::Cluster(OfCluster::Sidecar(Box::new(BesideOptions { kubeconfig: kubeconfig.clone(), watch })))
        }
    };
    let proxy = options.proxy.clone().map(|proxy| (proxy.names(&options.namespace), proxy));
    let plan = Plan::new(options, settings.drain.timeout + LAST_CALL);
    settings.listeners = plan.fixed();
    start_at(settings, place, Some(OfSidecar { view: View::new(plan), awaited, proxy }))
}

/// What a sidecar has beside a gateway.
struct OfSidecar<'a> {
    view: View,
    /// Ports of the application that it waits for.
    awaited: &'a [u16],
    /// The forward proxy, with the names of its Services.
    proxy: Option<(BTreeMap<String, String>, sidecar::Proxy)>,
}

fn start_at(settings: Settings, place: ObjectsFrom<'_>, mut sidecar: Option<OfSidecar<'_>>) -> Result<Running> {
    raise_file_limit();
    let settings = Arc::new(settings);
    let metrics = Metrics::new(MetricsOptions {
        workers: settings.workers,
        listeners: settings.listeners.keys().map(|name| name.as_str().into()).collect(),
        max_series: settings.metrics.max_series,
    });
    let (mut listeners, orders) = Listeners::new(&settings);
    for (id, (name, listener)) in (0..).map(ListenerId).zip(&settings.listeners) {
        listeners.bind(id, name.as_str().into(), listener.clone())?;
    }
    let listeners = Arc::new(Mutex::new(listeners));
    let admin_socket = listener::bind("admin", settings.admin, 1)?;
    let proxy = sidecar.as_mut().and_then(|sidecar| sidecar.proxy.take());
    let proxy = proxy.map(|proxy| proxy::Bound::new(proxy, &listeners)).transpose()?;
    let access_log = match &settings.access_log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some((access_log::AccessLogOutput::Stdout, "standard output".to_owned())),
        AccessLog::File(path) => Some((access_log::AccessLogOutput::File(path.clone()), path.display().to_string())),
    };
    let access_log = access_log
        .map(|(output, name)| {
            access_log::start(output, Arc::clone(&metrics))
                .with_context(|| format!("cannot open the access log {name}"))
        })
        .transpose()?;
    let runtime = control_runtime(sidecar.is_some()).context("cannot start the control runtime")?;
    // From here on no signal ends the process before what it serves is closed in order.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let readiness = Readiness::default();
    let snapshot_ready = readiness.guard("snapshot");
    let epoch = Instant::now();
    let (mut publisher, feeds) = live::channel(settings.workers, Arc::clone(&metrics), epoch);
    publisher.bound_filters(FilterBounds {
        buckets: settings.limits.rate_limit_cells,
        compressor_memory: settings.limits.compressor_memory,
        flight_bytes: settings.limits.coalesce_bytes,
    });
    if let Some(path) = &settings.sessions.key_file {
        publisher.use_session_key(&read_session_key(path)?);
    }
    let asks_itself = !matches!(place, ObjectsFrom::Cluster(_));
    let fetcher = Fetcher::new(read_authorities(&settings.jwt)?.as_ref(), asks_itself);
    let mut published_view = publisher.view();
    let sockets = Arc::new(Sockets::default());
    let admin = Admin {
        sockets: Arc::clone(&sockets),
        drain_incoming: sidecar.is_some().then(Arc::default),
        live: publisher.view(),
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        settings: Arc::clone(&settings),
        epoch: epoch.into_std(),
    };
    let guard = runtime.enter();
    let listener::BoundListener { address: admin_address, sockets: admin_sockets } = admin_socket;
    for socket in admin_sockets {
        let socket = tokio::net::TcpListener::from_std(socket).context("cannot register the admin socket")?;
        runtime.spawn(admin.clone().serve(socket));
    }
    if let Some(reaper) = publisher.reaper() {
        runtime.spawn(reaper.run());
    }
    drop(guard);
    if let (Some(sidecar), Some(asked)) = (&sidecar, &admin.drain_incoming) {
        let (incoming, listeners) = (sidecar.view.plan().incoming(), Arc::clone(&listeners));
        runtime.spawn(leave::when_asked(Arc::clone(asked), settings.drain.delay, incoming, listeners));
    }
    for &port in sidecar.iter().flat_map(|sidecar| sidecar.awaited) {
        runtime.spawn(application::watch(port, readiness.condition(format!("tcp:{port}"))));
    }
    let (mut source, updates, published, status) = match place {
        ObjectsFrom::Folder(folder, objects) => {
            let base = Inputs { objects, ..base(&settings) };
            let (source, updates) = FileSource::start(folder, base)?;
            (Source::Files(source), updates, None, None)
        }
        ObjectsFrom::Cluster(of_cluster) => {
            let access_log = access_log.as_ref().map(|(handle, _)| handle);
            let following = async {
                match of_cluster {
                    OfCluster::Gateway(options) => cluster::follow(options, base(&settings), &settings, &metrics).await,
                    OfCluster::Sidecar(options) => cluster::follow_beside(&options, base(&settings), &metrics).await,
                }
            };
            let followed = runtime.block_on(async {
                tokio::select! {
                    followed = following => followed,
                    () = signals.stop(access_log, || false) => bail!("stopped before everything was listed"),
                }
            })?;
            (Source::Cluster(None), followed.updates, followed.published, followed.status)
        }
    };
    metrics.ask_for_endpoints(endpoints::of_services(publisher.view(), updates.clone()));
    metrics.ask_for_health(endpoint_health(publisher.view(), epoch));
    metrics.ask_for_filters(filter_counts(publisher.view()));
    let (checked, needing_keys) = (publisher.view(), publisher.view());
    let (mut judged, judge) = certificates::judge(updates.clone(), jiff::Timestamp::now);
    runtime.spawn(judge);
    let delay = if sidecar.is_some() { Duration::ZERO } else { settings.drain.delay };
    let beside = sidecar.map(|sidecar| {
        let (beside, unfinished) = Beside::new(sidecar.view, Arc::clone(&listeners));
        let (updates, work) = beside::again(judged.clone(), unfinished);
        runtime.spawn(work);
        judged = updates;
        beside
    });
    let apply = applier(publisher, Arc::clone(&metrics), published, beside);
    runtime.spawn(compile_loop(judged, apply, Arc::clone(&metrics)));
    runtime.block_on(published_view.reached(1)).context("the first version was not published")?;
    snapshot_ready.ready();
    if let Some(status) = status {
        source = Source::Cluster(Some(runtime.block_on(async { status.start(&metrics) })));
    }
    runtime.spawn(keys::run(needing_keys, fetcher, Arc::clone(&metrics), fastrand::u64(..)));
    let (control, drain) = drain::channel();
    runtime.spawn(health::run(checked, drain.clone(), Arc::clone(&metrics), epoch, fastrand::u64(..)));
    let parts = workers::Parts {
        settings: Arc::clone(&settings),
        metrics: Arc::clone(&metrics),
        sockets: Arc::clone(&sockets),
        epoch,
        drain,
    };
    lock(&listeners).serve();
    let feeds = feeds.into_iter().zip(orders).collect();
    let room = workers::start(&parts, feeds, access_log.as_ref().map(|(handle, _)| handle))?;
    let mut addresses = lock(&listeners).addresses().clone();
    if let Some(proxy) = proxy {
        addresses.insert(proxy::NAME.to_owned(), proxy.address);
        let log = access_log.as_ref().map(|(handle, _)| handle.sender());
        proxy.start(settings.deadlines.connect, (&metrics, log), parts.drain.clone())?;
    }
    drop(parts);
    let ready = Ready { ready: true, listeners: addresses, admin: admin_address };
    let watch = memory::Watch::new(memory::Source::of_process(settings.limits.memory), room, metrics);
    runtime.spawn(watch.run());
    Ok(Running { ready, updates, runtime, readiness, control, sockets, settings, access_log, source, signals, delay })
}

/// The runtime of the control half, with a thread of its own; in a sidecar, of which a node has many, it is driven by the
/// thread that waits for the end, and the thread that compiles is there for as long as it is needed.
fn control_runtime(is_sidecar: bool) -> std::io::Result<Runtime> {
    let mut builder = match is_sidecar {
        false => tokio::runtime::Builder::new_multi_thread(),
        true => tokio::runtime::Builder::new_current_thread(),
    };
    if is_sidecar {
        builder.thread_keep_alive(Duration::from_millis(500));
    }
    builder.worker_threads(1).thread_name("control").enable_all().build()
}

impl Running {
    /// Prints the ready line on standard output.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn print_ready(&self) -> Result<()> {
        let line = serde_json::to_string(&self.ready)?;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write the ready line")
    }

    /// Serves until SIGTERM, SIGINT or SIGQUIT, and SIGHUP where that means the same, then drains; a second one of the first
    /// three ends the process at once.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn wait(self, hangup: Hangup) -> Result<()> {
        let Self { runtime, readiness, control, sockets, settings, access_log, source, mut signals, delay, .. } = self;
        let handle = access_log.as_ref().map(|(handle, _)| handle);
        let all_gone = runtime.block_on(async {
            let read_again = || match &source {
                Source::Files(source) => {
                    tracing::info!("SIGHUP: reading all files again");
                    source.read_again();
                }
                Source::Cluster(_) => tracing::info!("SIGHUP is ignored: no files are read"),
            };
            signals
                .stop(handle, || match hangup {
                    Hangup::ReadAgain => {
                        read_again();
                        false
                    }
                    Hangup::Stop => true,
                })
                .await;
            tracing::info!("draining: not ready, still accepting");
            readiness.drain();
            let farewell = async {
                if let Source::Cluster(Some(status)) = source {
                    status.stop().await;
                }
            };
            let drained = async {
                let drained = drain(&control, (&readiness, &sockets), delay, settings.drain.timeout);
                tokio::join!(drained, farewell).0
            };
            let again = signals.stop(handle, || {
                tracing::info!("SIGHUP is ignored: the process is stopping");
                false
            });
            tokio::select! {
                all_gone = drained => {
                    tracing::info!(all_gone, "drained");
                    all_gone
                }
                () = again => {
                    tracing::warn!("a second signal: ending at once");
                    std::process::exit(1);
                }
            }
        });
        // Data threads are gone, and with them the senders: the writer ends when the last handle does. A thread that is
        // still there would hold the process up for longer than the stop may take.
        if let Some((handle, writer)) = access_log.filter(|_| all_gone) {
            drop(handle);
            if !writer.join_within(LAST_CALL) {
                tracing::warn!("whoever reads the access log does not take it: its last lines are lost");
            }
        }
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(())
    }
}

/// The order of the stop: still accepting for `delay`, then requests finish within `timeout` while sockets leave within the
/// windows of their rules, which end with `timeout` at the latest. What is left then is closed, and the process ends
/// [`LAST_CALL`] later; whether all had gone by then.
async fn drain(
    control: &DrainControl,
    (readiness, sockets): (&Readiness, &Sockets),
    delay: Duration,
    timeout: Duration,
) -> bool {
    control.advance(Phase::NotReady);
    tokio::time::sleep(delay).await;
    readiness.close();
    control.advance(Phase::Closing);
    if tokio::time::timeout(timeout, control.joined()).await.is_ok() {
        return true;
    }
    tracing::warn!(sockets = sockets.len(), "the drain timeout is over: closing what is still open");
    control.advance(Phase::Ended);
    tokio::time::timeout(LAST_CALL, control.joined()).await.is_ok()
}

/// The signals that the process follows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    reopen: Signal,
    unused: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            reopen: listen(SignalKind::user_defined1())?,
            unused: listen(SignalKind::user_defined2())?,
        })
    }

    /// Waits for SIGTERM, SIGINT or SIGQUIT (nginx's orderly stop), or for a SIGHUP that `hung_up` says is to stop the
    /// process. Meanwhile SIGUSR1 reopens
    /// the access log, and SIGUSR2, which would end the process without a handler, does nothing.
    async fn stop(&mut self, access_log: Option<&AccessLogHandle>, hung_up: impl Fn() -> bool) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => return,
                _ = self.hangup.recv() => if hung_up() { return },
                _ = self.reopen.recv() => if let Some(access_log) = access_log { access_log.reopen() },
                _ = self.unused.recv() => tracing::info!("SIGUSR2 is ignored: it has no meaning here"),
            }
        }
    }
}

/// Applies every change of the source until it is gone, and counts the runs that panic.
async fn compile_loop<T, F>(updates: watch::Receiver<T>, apply: F, metrics: Arc<Metrics>)
where
    T: Clone + Send + Sync + 'static,
    F: FnMut(T) + Send + 'static,
{
    drive(updates, apply, || metrics.control_panicked()).await;
}

/// Turns an update of a source into the next version: compile, publish, log.
fn applier(
    mut publisher: Publisher,
    metrics: Arc<Metrics>,
    published: Option<watch::Sender<Option<Published>>>,
    mut beside: Option<Beside>,
) -> impl FnMut(Update) + Send + 'static {
    let mut log = DiagnosticLog::default();
    let mut compiler = Compiler::default();
    // What the last version had to say, and how much of it were errors: mostly nothing has changed about that.
    let mut told: Option<[Arc<[Diagnostic]>; 2]> = None;
    let mut errors = 0;
    move |mut update: Update| {
        if let Some(beside) = &mut beside {
            update = beside.prepare(&update);
        }
        let begun = std::time::Instant::now();
        let output = compiler.compile(&update.inputs);
        let compiled = begun.elapsed();
        (0..output.panics).for_each(|_| metrics.control_panicked());
        let version = publisher.publish(output.snapshot);
        if let Some(beside) = &beside {
            beside.published();
        }
        metrics.config_took(compiled, begun.elapsed().saturating_sub(compiled));
        metrics.set_certificates(output.secrets.iter().map(certificate_gauge).collect());
        metrics.set_authorities(output.authorities.iter().map(authority_gauge).collect());
        if let Some(published) = &published {
            // Only now: a status speaks of what is active.
            let (inputs, statuses, policies) = (Arc::clone(&update.inputs), output.statuses, output.policies);
            published.send_replace(Some(Published { inputs, statuses, policies }));
        }
        let both = [update.diagnostics, output.diagnostics];
        if told.as_ref() != Some(&both) {
            let diagnostics: Vec<Diagnostic> = both.iter().flat_map(|list| list.iter().cloned()).collect();
            let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
            errors = count(Severity::Error);
            metrics.set_diagnostics(errors, count(Severity::Warning));
            log.log(&diagnostics, files::refine);
            told = Some(both);
        }
        tracing::info!(version, routes = update.inputs.objects.routes.len(), errors, ?compiled, "configuration active");
    }
}

fn authority_gauge(authority: &AuthorityState) -> AuthorityGauge {
    let AuthorityState { kind, name, is_valid } = authority;
    AuthorityGauge { authority: format!("{kind} {name}"), is_valid: *is_valid }
}

fn certificate_gauge(secret: &SecretState) -> CertificateGauge {
    let SecretState { name, not_after, is_valid } = secret;
    CertificateGauge { secret: name.to_string(), not_after: *not_after, is_valid: *is_valid }
}

/// Counts the endpoints of the active version by what is known of them.
fn endpoint_health(live: LiveView, epoch: Instant) -> impl Fn() -> Vec<ServiceHealth> + Send + Sync + 'static {
    move || health::counts(&live.current(), epoch.elapsed())
}

/// What the filters of the active version have decided and done.
fn filter_counts(live: LiveView) -> impl Fn() -> FilterCounts + Send + Sync + 'static {
    move || {
        let live = live.current();
        let mut counts = FilterCounts::default();
        let fetched = live.remote_keys().into_iter().filter_map(|(keys, _)| keys.current().at);
        counts.oldest_keys = fetched.min().map(|at| Instant::now().into_std().saturating_duration_since(at));
        for (key, state) in live.filter_states() {
            if let Some(compressed) = state.compressed().filter(|_| counts.compressions_skipped.is_none()) {
                // All of them count together.
                (counts.compressed_bytes, counts.compressions_skipped) = (compressed.bytes, Some(compressed.skipped));
            }
            let Some(decisions) = state.decisions() else { continue };
            let route = key.route.to_string().into();
            counts.limits.insert((key.filter, route, key.to_string()), decisions);
            counts.buckets_given_up = counts.buckets_given_up.or(state.buckets_given_up());
        }
        counts
    }
}

/// Inputs without objects: the listeners and the identity that the settings give.
#[must_use]
pub fn base(settings: &Settings) -> Inputs {
    let listener = |(name, listener): (&String, &Listener)| StaticListener {
        name: name.as_str().into(),
        allowed_namespaces: listener.allowed_namespaces.clone(),
        is_https: listener.tls.is_some(),
        default_certificate: listener.tls.as_ref().and_then(|tls| {
            let (namespace, name) = tls.default_certificate.as_ref()?;
            Some(ObjectName::new(&**namespace, &**name))
        }),
    };
    let client_certificate = settings.forwarding.client_certificate.as_ref();
    Inputs {
        client_certificate: client_certificate.map(|(namespace, name)| ObjectName::new(&**namespace, &**name)),
        listeners: settings.listeners.iter().map(listener).collect(),
        gateway_class_name: settings.controller.gateway_class_name.as_str().into(),
        controller_name: settings.controller.controller_name.as_str().into(),
        hostnames_have_owners: settings.controller.hostname_ownership == HostnameOwnership::Namespace,
        place: OwnPlace {
            zone: settings.locality.zone.as_deref().map(Into::into),
            node: settings.locality.node.as_deref().map(Into::into),
        },
        ..Inputs::default()
    }
}

/// The fewest bytes of a key that cannot be guessed.
const LEAST_SESSION_KEY: usize = 16;

/// The key that the values of sessions are made with.
fn read_session_key(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the key of sessions (sessions.keyFile), {}", path.display()))?;
    let key = bytes.trim_ascii_end();
    if key.len() < LEAST_SESSION_KEY {
        bail!("{}: sessions.keyFile has {} bytes, expected at least {LEAST_SESSION_KEY}", path.display(), key.len());
    }
    Ok(key.to_owned())
}

/// The authorities that servers of key sets are trusted by, beside those of the system.
fn read_authorities(settings: &settings::Jwt) -> Result<Option<Authorities>> {
    let Some(path) = &settings.ca_file else { return Ok(None) };
    let text = std::fs::read(path)
        .with_context(|| format!("cannot read the authorities of key sets (jwt.caFile), {}", path.display()))?;
    match Authorities::from_pem(&text) {
        Ok(authorities) => Ok(Some(authorities)),
        Err(_) => bail!("{}: jwt.caFile holds no certificate in PEM that can be read", path.display()),
    }
}

/// Sockets need descriptors: takes as many as the process may have.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %error, "the limit of open files stays at {:?}", limit.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_while_compiling_is_counted() {
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 100 });
        let page_line = r#"tidegate_panics_total{where="control"}"#;
        assert!(metrics.render().contains(&format!("{page_line} 0\n")));
        let (sender, updates) = watch::channel(());
        drop(sender);
        compile_loop(updates, |()| panic!("a fault in the compiler"), Arc::clone(&metrics)).await;
        assert!(metrics.render().contains(&format!("{page_line} 1\n")));
    }

    #[test]
    fn no_source_may_name_the_machine_itself_without_asking_for_it() {
        let output = crate::cli::OutputFormat::Text;
        let check = crate::cli::Check { paths: Vec::new(), allow_unresolved: false, output, settings: None };
        let settings = check.settings().expect("the defaults work");
        assert!(!base(&settings).allow_loopback_endpoints);
    }
}
