//! The only wiring place: settings and a folder become a running gateway.
//!
//! [`start`] binds everything, puts the first version in force and returns a [`Running`] with every bound address;
//! [`Running::wait`] serves until the process is told to stop. The control half (watching, compiling, publishing, admin)
//! runs on a runtime of its own, each data worker on a thread of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::compile::compile;
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::{Inputs, StaticListener};
use crate::connections::Connections;
use crate::drain::{self, DrainControl, Phase};
use crate::live::{self, Publisher};
use crate::proxy::listener::{self, BoundListener};
use crate::readiness::Readiness;
use crate::settings::{AccessLog, Listener, Settings};
use crate::source::Update;
use crate::source::collect::{DiagnosticLog, drive};
use crate::source::files::{self, FileSource};
use crate::telemetry::access_log::{self, AccessLogHandle, AccessLogWriter};
use crate::telemetry::metrics::{Metrics, MetricsOptions};

mod workers;

/// How long closing everything may take once the time for requests is over.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long sockets may take to say goodbye at the end of their window.
const LAST_CALL_OF_SOCKETS: Duration = Duration::from_secs(3);

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
    /// The files it serves from, as last read.
    pub updates: watch::Receiver<Update>,
    runtime: Runtime,
    readiness: Readiness,
    control: DrainControl,
    connections: Arc<Connections>,
    settings: Arc<Settings>,
    access_log: Option<(AccessLogHandle, AccessLogWriter)>,
    // Held so that it goes on watching.
    _source: FileSource,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("ready", &self.ready).finish_non_exhaustive()
    }
}

/// Starts serving the manifests of a folder. Returns once everything is bound and the first version is in force.
///
/// # Errors
/// A listener or the admin address cannot be bound, the folder cannot be read, the access log cannot be opened.
pub fn start(settings: Settings, config: &Path) -> Result<Running> {
    raise_file_limit();
    let settings = Arc::new(settings);
    let listeners: Vec<Arc<str>> = settings.listeners.keys().map(|name| name.as_str().into()).collect();
    let metrics = Metrics::new(MetricsOptions {
        workers: settings.workers,
        listeners: listeners.clone(),
        max_series: settings.metrics.max_series,
    });
    let bound = settings
        .listeners
        .iter()
        .map(|(name, listener)| Ok(listener::bind(name, listener.address, settings.workers)?))
        .collect::<Result<Vec<BoundListener>>>()?;
    let admin_socket = listener::bind("admin", settings.admin, 1)?;
    let (source, updates) = FileSource::start(config, base(&settings))?;
    let access_log = match &settings.access_log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some(access_log::Output::Stdout),
        AccessLog::File(path) => Some(access_log::Output::File(path.clone())),
    };
    let access_log = access_log
        .map(|output| access_log::start(output, Arc::clone(&metrics)).context("cannot open the access log"))
        .transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control runtime")?;
    let readiness = Readiness::default();
    let snapshot_ready = readiness.guard("snapshot");
    let (mut publisher, feeds) = live::channel(settings.workers, Arc::clone(&metrics));
    let mut view = publisher.view();
    let epoch = Instant::now();
    let ready = Ready {
        ready: true,
        listeners: settings.listeners.keys().cloned().zip(bound.iter().map(|listener| listener.address)).collect(),
        admin: admin_socket.address,
    };
    let connections = Arc::new(Connections::default());
    let admin = Admin {
        connections: Arc::clone(&connections),
        live: publisher.view(),
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        listeners: listeners.clone(),
        settings: Arc::clone(&settings),
        epoch: epoch.into_std(),
    };
    let guard = runtime.enter();
    for socket in admin_socket.sockets {
        let socket = tokio::net::TcpListener::from_std(socket).context("cannot register the admin socket")?;
        runtime.spawn(admin.clone().serve(socket));
    }
    if let Some(reaper) = publisher.reaper() {
        runtime.spawn(reaper.run());
    }
    runtime.spawn(compile_loop(updates.clone(), applier(publisher, Arc::clone(&metrics)), Arc::clone(&metrics)));
    drop(guard);
    runtime.block_on(view.reached(1)).context("the first version was not published")?;
    snapshot_ready.ready();
    let (control, drain) = drain::channel();
    let parts = workers::Parts {
        settings: Arc::clone(&settings),
        listeners,
        metrics,
        connections: Arc::clone(&connections),
        epoch,
        drain,
    };
    workers::start(&parts, bound, feeds, access_log.as_ref().map(|(handle, _)| handle))?;
    drop(parts);
    Ok(Running { ready, updates, runtime, readiness, control, connections, settings, access_log, _source: source })
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

    /// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub fn wait(self) -> Result<()> {
        let Self { runtime, readiness, control, connections, settings, access_log, .. } = self;
        let handle = access_log.as_ref().map(|(handle, _)| handle);
        runtime.block_on(async {
            let mut signals = Signals::new()?;
            signals.stop(handle).await;
            tracing::info!("draining: not ready, still accepting");
            readiness.drain();
            let drained = drain(&control, &connections, settings.drain.delay, settings.drain.timeout);
            tokio::select! {
                () = drained => tracing::info!("drained"),
                () = signals.stop(handle) => {
                    tracing::warn!("a second signal: ending at once");
                    std::process::exit(1);
                }
            }
            anyhow::Ok(())
        })?;
        // Data threads are gone, and with them the senders: the writer ends when the last handle does.
        if let Some((handle, writer)) = access_log {
            drop(handle);
            writer.join();
        }
        runtime.shutdown_timeout(Duration::from_millis(100));
        Ok(())
    }
}

/// The order of the stop: still accepting for `delay`, then requests finish within `timeout` while sockets leave within the
/// windows of their rules; the process ends when all are gone.
async fn drain(control: &DrainControl, connections: &Connections, delay: Duration, timeout: Duration) {
    control.advance(Phase::NotReady);
    tokio::time::sleep(delay).await;
    control.advance(Phase::Closing);
    let closing = Instant::now();
    if tokio::time::timeout(timeout, control.joined()).await.is_ok() {
        return;
    }
    tracing::warn!(sockets = connections.len(), "the drain timeout is over: closing requests that are still in flight");
    control.advance(Phase::Ended);
    // Sockets have a time of their own. What does not end after that ends with the process.
    while let Some(window) = connections.longest_drain() {
        let last = closing + window + LAST_CALL_OF_SOCKETS;
        if Instant::now() >= last {
            break;
        }
        let soon = last.min(Instant::now() + LAST_CALL);
        if tokio::time::timeout_at(soon, control.joined()).await.is_ok() {
            return;
        }
    }
    let _ = tokio::time::timeout(LAST_CALL, control.joined()).await;
}

/// The signals that the process follows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reopen: listen(SignalKind::user_defined1())?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and reopens the access log at every SIGUSR1 meanwhile.
    async fn stop(&mut self, access_log: Option<&AccessLogHandle>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => if let Some(access_log) = access_log { access_log.reopen() },
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

/// What makes a version of what a source says: compile, publish, tell.
fn applier(mut publisher: Publisher, metrics: Arc<Metrics>) -> impl FnMut(Update) + Send + 'static {
    let mut log = DiagnosticLog::default();
    move |update| {
        let begun = std::time::Instant::now();
        let output = compile(&update.inputs, publisher.published_version() + 1);
        let compiled = begun.elapsed();
        let version = publisher.publish(output.snapshot);
        let diagnostics: Vec<Diagnostic> = update.diagnostics.iter().cloned().chain(output.diagnostics).collect();
        let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
        let errors = count(Severity::Error);
        metrics.set_diagnostics(errors, count(Severity::Warning));
        if errors == 0 {
            metrics.set_config_ok(SystemTime::now());
        }
        log.log(&diagnostics, files::refine);
        tracing::info!(
            version,
            routes = update.inputs.objects.routes.len(),
            errors,
            ?compiled,
            "configuration in force"
        );
    }
}

/// Inputs without objects: the listeners and the identity that the settings give.
#[must_use]
pub fn base(settings: &Settings) -> Inputs {
    let listener = |(name, listener): (&String, &Listener)| StaticListener {
        name: name.as_str().into(),
        allowed_namespaces: listener.allowed_namespaces.clone(),
    };
    Inputs {
        listeners: settings.listeners.iter().map(listener).collect(),
        gateway_class_name: settings.controller.gateway_class_name.as_str().into(),
        controller_name: settings.controller.controller_name.as_str().into(),
        ..Inputs::default()
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
