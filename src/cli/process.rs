//! What all serving commands share: their flags, what these change in the settings, and the defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::settings::file::{FileError, SettingsFile};
use crate::settings::{
    AccessLog, Controller, Deadlines, DrainSettings, Forwarding, Jwt, Limits, Listener, ListenerMode, ListenerTls,
    Locality, MetricsSettings, ProxyProtocol, Sessions, Settings, SettingsError, parse_address, parse_duration,
    parse_network,
};
use crate::sidecar::flags::OptionsError;

/// Flags of the commands whose listeners are named by flags or settings.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address of the listener http [default: [::]:8080; demo: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_HTTP", value_parser = parse_address)]
    pub http: Option<SocketAddr>,
    /// Address of the listener https, which speaks TLS [default: none; demo: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_HTTPS", value_parser = parse_address)]
    pub https: Option<SocketAddr>,
    /// Flags of every serving command.
    #[command(flatten)]
    pub process: Process,
}

/// Flags of every serving command.
#[derive(Clone, Debug, Args)]
pub struct Process {
    /// Address of the admin server [default: [::]:9090; demo: 127.0.0.1:9090; sidecar: [::]:15090]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", value_parser = parse_address)]
    pub admin: Option<SocketAddr>,
    /// Network that may use /debug/ beside loopback; may be repeated
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_DEBUG_ALLOW", value_delimiter = ',', value_parser = parse_network)]
    pub debug_allow: Vec<IpNet>,
    /// Host for which /debug/ answers beside IP addresses and localhost; may be repeated
    #[arg(long, value_name = "HOST", env = "TIDEGATE_DEBUG_HOSTS", value_delimiter = ',')]
    pub debug_hosts: Vec<String>,
    /// Data workers [default: the cores that the process may use; sidecar: 1]
    #[arg(long, value_name = "N", env = "TIDEGATE_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Zone that the process is in, for rules that prefer near endpoints
    #[arg(long, value_name = "NAME", env = "NODE_ZONE")]
    pub zone: Option<String>,
    /// Node that the process is on, for rules that prefer near endpoints
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// Settings file (YAML); flags and variables win over it
    #[arg(long, value_name = "FILE", env = "TIDEGATE_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// Log level: error, warn, info, debug, trace or off; or directives such as info,tidegate::source=debug
    #[arg(long, value_name = "LEVEL", env = "TIDEGATE_LOG", default_value = "info", value_parser = parse_log)]
    pub log: String,
    /// How log lines are printed on standard error
    #[arg(long, value_enum, env = "TIDEGATE_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// off, stdout or a file, which is reopened on SIGUSR1 [default: stdout; demo and sidecar: off]
    #[arg(long, value_name = "WHERE", env = "TIDEGATE_ACCESS_LOG", value_parser = parse_access_log)]
    pub access_log: Option<AccessLog>,
    /// How long the process still accepts connections after SIGTERM, when it is not ready any more [default: 0s; controller: 5s]. A sidecar waits so long after `drain in` before it asks clients to leave [default: 5s]
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DRAIN_DELAY", value_parser = parse_duration)]
    pub drain_delay: Option<Duration>,
    /// After that: time for requests in flight [default: 15s; sidecar: 5s]
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DRAIN_TIMEOUT", value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
}

/// How log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The settings file is refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Flags of a sidecar cannot work together.
    #[error(transparent)]
    Sidecar(#[from] OptionsError),
    /// Flags, variables and file together make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Name of the listener that `--http` is for.
pub(super) const HTTP: &str = "http";

/// Name of the listener that `--https` is for.
pub(super) const HTTPS: &str = "https";

/// A listener that speaks TLS.
pub(super) fn secure_listener(address: SocketAddr) -> Listener {
    Listener { tls: Some(ListenerTls::default()), ..listener(address) }
}

/// A listener of the gateway without TLS.
pub(super) fn listener(address: SocketAddr) -> Listener {
    Listener {
        address,
        tls: None,
        http2_prior_knowledge: true,
        proxy_protocol: ProxyProtocol::default(),
        mode: ListenerMode::Gateway,
        trusted_forwarders: Vec::new(),
        health_path: None,
        allowed_namespaces: None,
    }
}

/// The settings of a process that says nothing.
#[must_use]
pub fn standalone_defaults() -> Settings {
    let all = |port| SocketAddr::from(([0_u16; 8], port));
    Settings {
        listeners: BTreeMap::from([(HTTP.to_owned(), listener(all(8080)))]),
        deadlines: Deadlines::default(),
        limits: Limits::default(),
        forwarding: Forwarding::default(),
        metrics: MetricsSettings::default(),
        access_log: AccessLog::Stdout,
        drain: DrainSettings { delay: Duration::ZERO, timeout: Duration::from_secs(15) },
        controller: Controller::default(),
        sessions: Sessions::default(),
        jwt: Jwt::default(),
        locality: Locality::default(),
        admin: all(9090),
        debug_allow: Vec::new(),
        debug_hosts: Vec::new(),
        // Knows CPU masks and the quotas of both kinds of cgroups.
        workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

impl Serve {
    pub(super) fn overlay(&self, mut settings: Settings) -> Result<Settings, CliError> {
        self.process.overlay_file(&mut settings)?;
        if let Some(address) = self.http {
            settings.listeners.entry(HTTP.to_owned()).or_insert_with(|| listener(address)).address = address;
        }
        if let Some(address) = self.https {
            settings.listeners.entry(HTTPS.to_owned()).or_insert_with(|| secure_listener(address)).address = address;
        }
        self.process.overlay(&mut settings);
        settings.validate()?;
        Ok(settings)
    }
}

impl Process {
    pub(super) fn overlay_file(&self, settings: &mut Settings) -> Result<(), CliError> {
        if let Some(path) = &self.settings {
            SettingsFile::read(path)?.overlay(path, settings)?;
        }
        Ok(())
    }

    pub(super) fn overlay(&self, settings: &mut Settings) {
        if let Some(address) = self.admin {
            settings.admin = address;
        }
        if !self.debug_allow.is_empty() {
            settings.debug_allow.clone_from(&self.debug_allow);
        }
        if !self.debug_hosts.is_empty() {
            settings.debug_hosts.clone_from(&self.debug_hosts);
        }
        let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
        if let Some(zone) = named(&self.zone) {
            settings.locality.zone = Some(zone);
        }
        if let Some(node) = named(&self.node) {
            settings.locality.node = Some(node);
        }
        if let Some(workers) = self.workers {
            settings.workers = workers.get();
        }
        if let Some(access_log) = &self.access_log {
            settings.access_log = access_log.clone();
        }
        if let Some(delay) = self.drain_delay {
            settings.drain.delay = delay;
        }
        if let Some(timeout) = self.drain_timeout {
            settings.drain.timeout = timeout;
        }
    }
}

fn parse_access_log(text: &str) -> Result<AccessLog, String> {
    match text {
        "" => Err("found nothing, expected off, stdout or a file".to_owned()),
        text => text.parse().map_err(|error: std::convert::Infallible| match error {}),
    }
}

fn parse_log(text: &str) -> Result<String, String> {
    let refused = || format!("found {text:?}, expected error, warn, info, debug, trace, off or directives");
    // A filter would take any other word for the name of a module.
    let mut directives = text.split(',').map(str::trim);
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let known = |word: &str| levels.iter().any(|level| word.eq_ignore_ascii_case(level));
    if !directives.all(|word| known(word) || word.contains('=')) {
        return Err(refused());
    }
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| refused())
}
