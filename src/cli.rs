//! Commands and flags. Every flag has a `TIDEGATE_…` variable; a flag wins over its variable, both over the settings
//! file, and that over the default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::HeaderValue;
use ipnet::IpNet;

use crate::probe::{Field, Statuses, Target};
use crate::settings::file::{FileError, SettingsFile};
use crate::settings::{
    AccessLog, Controller, Deadlines, DrainSettings, Forwarding, Limits, Listener, ListenerTls, Locality,
    MetricsSettings, ProxyProtocol, Sessions, Settings, SettingsError, parse_address, parse_duration, parse_network,
};

/// A Kubernetes ingress gateway: a change of routes, pods or certificates never costs a request or a socket.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve from a directory of manifests, as kubectl would take them; changes take effect at once
    Standalone(Standalone),
    /// Serve what a Kubernetes cluster has, and follow its changes
    Controller(ControllerCommand),
    /// Serve an example with small backends in the process, and print what to try
    Demo(Demo),
    /// Say what is wrong with manifests
    ///
    /// Exit code 0: clean or warnings only, 1: findings, 2: usage.
    Check(Check),
    /// Ask addresses whether they answer as expected
    ///
    /// Prints one line for each. Exit code 0: all do, 1: at least one does not, 2: usage.
    Probe(Probe),
    /// Print the CustomResourceDefinition
    Crd,
    /// Print the table of metrics and access-log fields
    Metrics,
    /// Print every key of the settings file with its type, default, bound and meaning
    Settings,
}

/// `tidegate standalone`.
#[derive(Clone, Debug, Args)]
pub struct Standalone {
    /// Directory with *.yaml, *.yml and *.json manifests
    #[arg(long, value_name = "DIR", env = "TIDEGATE_CONFIG")]
    pub config: PathBuf,
    /// Flags of every serving command.
    #[command(flatten)]
    pub serve: Serve,
}

/// `tidegate controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerCommand {
    /// Namespace to watch; may be repeated [default: all]
    #[arg(long, value_name = "NAMESPACE", env = "TIDEGATE_WATCH_NAMESPACES", value_delimiter = ',', value_parser = parse_namespace)]
    pub watch_namespaces: Vec<String>,
    /// Serve routes of this class only [default: tidegate]
    #[arg(long, value_name = "NAME", env = "TIDEGATE_GATEWAY_CLASS")]
    pub gateway_class: Option<String>,
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, else the service account of the pod]
    #[arg(long, value_name = "FILE", env = "TIDEGATE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder in which objects are kept, to serve them after a restart while the API server does not answer
    #[arg(long, value_name = "DIR", env = "TIDEGATE_CACHE")]
    pub cache: Option<PathBuf>,
    /// Watch core Endpoints too, for Services without EndpointSlices
    #[arg(long, env = "TIDEGATE_WATCH_LEGACY_ENDPOINTS")]
    pub watch_legacy_endpoints: bool,
    /// ClusterRole that lets the certificates of a namespace be read, for the line that operators are told where it is missing
    #[arg(long, value_name = "NAME", env = "TIDEGATE_CERTIFICATE_ROLE", default_value = "tidegate-certificates", value_parser = parse_object_name)]
    pub certificate_role: String,
    /// Name of this controller [default: tidegate.dev/controller]
    #[arg(long, value_name = "DOMAIN/PATH", env = "TIDEGATE_CONTROLLER_NAME")]
    pub controller_name: Option<String>,
    /// Name of the Lease by which replicas agree on who writes the status of routes
    #[arg(long, value_name = "NAME", env = "TIDEGATE_LEASE_NAME", default_value = "tidegate", value_parser = parse_object_name)]
    pub lease_name: String,
    /// Namespace of the Lease [default: that of the pod, else of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE", env = "TIDEGATE_LEASE_NAMESPACE", value_parser = parse_namespace)]
    pub lease_namespace: Option<String>,
    /// Write no status, and take no part in who does
    #[arg(long, env = "TIDEGATE_NO_STATUS")]
    pub no_status: bool,
    /// Flags of every serving command.
    #[command(flatten)]
    pub serve: Serve,
}

/// `tidegate demo`.
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Directory with manifests [default: ./manifests/demo, else a copy of the built-in example]
    #[arg(long, value_name = "DIR", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Flags of every serving command.
    #[command(flatten)]
    pub serve: Serve,
}

/// `tidegate check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// Files, directories, or - for standard input
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// References to objects that are not among the files are no findings
    #[arg(long)]
    pub allow_unresolved: bool,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    pub output: OutputFormat,
    /// Settings file, for the names of listeners and the class
    #[arg(long, value_name = "FILE", env = "TIDEGATE_SETTINGS")]
    pub settings: Option<PathBuf>,
}

/// `tidegate probe`.
#[derive(Clone, Debug, Args)]
pub struct Probe {
    /// What to ask, such as http://10.0.0.1:8080/healthz; each request has a connection of its own
    #[arg(value_name = "URL", required = true)]
    pub targets: Vec<Target>,
    /// Expected status, or class such as 2xx; may be repeated
    #[arg(long, value_name = "STATUS", value_delimiter = ',', default_value = "2xx")]
    pub status: Vec<Statuses>,
    /// Host to ask for [default: that of the URL]
    #[arg(long, value_name = "HOST")]
    pub host: Option<HeaderValue>,
    /// Field to send, as "NAME: VALUE"; may be repeated
    #[arg(long, value_name = "FIELD")]
    pub header: Vec<Field>,
    /// Text that the body has to contain
    #[arg(long, value_name = "TEXT")]
    pub contains: Option<String>,
    /// How many requests in a row have to succeed
    #[arg(long, value_name = "N", default_value = "1")]
    pub times: NonZeroU32,
    /// Try again for this long until it succeeds
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub wait: Duration,
    /// What one request may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// One line each.
    Text,
    /// One JSON document.
    Json,
}

/// How log lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of every serving command.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address of the listener http [default: [::]:8080; demo: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_HTTP", value_parser = parse_address)]
    pub http: Option<SocketAddr>,
    /// Address of the listener https, which speaks TLS [default: none; demo: 127.0.0.1:8443]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_HTTPS", value_parser = parse_address)]
    pub https: Option<SocketAddr>,
    /// Address of the admin server [default: [::]:9090; demo: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", value_parser = parse_address)]
    pub admin: Option<SocketAddr>,
    /// Network that may use /debug/ beside loopback; may be repeated
    #[arg(long, value_name = "CIDR", env = "TIDEGATE_DEBUG_ALLOW", value_delimiter = ',', value_parser = parse_network)]
    pub debug_allow: Vec<IpNet>,
    /// Host for which /debug/ answers beside IP addresses and localhost; may be repeated
    #[arg(long, value_name = "HOST", env = "TIDEGATE_DEBUG_HOSTS", value_delimiter = ',')]
    pub debug_hosts: Vec<String>,
    /// Data workers [default: the cores that the process may use]
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
    /// off, stdout or a file, which is reopened on SIGUSR1 [default: stdout; demo: off]
    #[arg(long, value_name = "WHERE", env = "TIDEGATE_ACCESS_LOG", value_parser = parse_access_log)]
    pub access_log: Option<AccessLog>,
    /// After SIGTERM: not ready, still accepting [default: 0s; controller: 5s]
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DRAIN_DELAY", value_parser = parse_duration)]
    pub drain_delay: Option<Duration>,
    /// After that: time for requests in flight [default: 15s]
    #[arg(long, value_name = "DURATION", env = "TIDEGATE_DRAIN_TIMEOUT", value_parser = parse_duration)]
    pub drain_timeout: Option<Duration>,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The settings file is refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// Flags, variables and file together make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

fn parse_access_log(text: &str) -> Result<AccessLog, String> {
    match text {
        "" => Err("found nothing, expected off, stdout or a file".to_owned()),
        text => text.parse().map_err(|error: std::convert::Infallible| match error {}),
    }
}

fn parse_namespace(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label =
        (1..=63).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('-') && !text.ends_with('-');
    if is_label { Ok(text.to_owned()) } else { Err(format!("found {text:?}, expected the name of a namespace")) }
}

fn parse_object_name(text: &str) -> Result<String, String> {
    let is_name = text.len() <= 253 && !text.is_empty() && text.split('.').all(|label| parse_namespace(label).is_ok());
    if is_name { Ok(text.to_owned()) } else { Err(format!("found {text:?}, expected the name of an object")) }
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

impl Standalone {
    /// The settings of this command: flag, else variable, else file, else default.
    ///
    /// # Errors
    ///
    /// When the settings file is refused or something cannot work.
    pub fn settings(&self) -> Result<Settings, CliError> {
        self.serve.overlay(standalone_defaults())
    }
}

impl ControllerCommand {
    /// The settings of this command: flag, else variable, else file, else default.
    ///
    /// # Errors
    ///
    /// When the settings file is refused or something cannot work.
    pub fn settings(&self) -> Result<Settings, CliError> {
        let mut settings = standalone_defaults();
        // Whoever sends traffic to a pod is told by the cluster that it ends, and that takes a while.
        settings.drain.delay = Duration::from_secs(5);
        settings = self.serve.overlay(settings)?;
        if let Some(name) = &self.gateway_class {
            settings.controller.gateway_class_name.clone_from(name);
        }
        if let Some(name) = &self.controller_name {
            settings.controller.controller_name.clone_from(name);
        }
        settings.validate()?;
        Ok(settings)
    }
}

impl Demo {
    /// The settings of this command: flag, else variable, else file, else default.
    ///
    /// # Errors
    ///
    /// When the settings file is refused or something cannot work.
    pub fn settings(&self) -> Result<Settings, CliError> {
        let mut settings = standalone_defaults();
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        settings.listeners = BTreeMap::from([
            (HTTP.to_owned(), listener(loopback(8080))),
            (HTTPS.to_owned(), secure_listener(loopback(8443))),
        ]);
        settings.admin = loopback(9090);
        settings.access_log = AccessLog::Off;
        self.serve.overlay(settings)
    }
}

impl Check {
    /// The settings that manifests are checked against: those of `standalone` with the same file; without one, with
    /// listeners `http` and `https`.
    ///
    /// # Errors
    ///
    /// When the settings file is refused.
    pub fn settings(&self) -> Result<Settings, CliError> {
        let mut settings = standalone_defaults();
        match &self.settings {
            Some(path) => SettingsFile::read(path)?.overlay(path, &mut settings)?,
            // Where manifests will be served is not known: a certificate may be shown.
            None => {
                drop(settings.listeners.insert(HTTPS.to_owned(), secure_listener(SocketAddr::from(([0; 8], 8443)))))
            }
        }
        settings.validate()?;
        Ok(settings)
    }
}

/// Name of the listener that `--http` is for.
const HTTP: &str = "http";

/// Name of the listener that `--https` is for.
const HTTPS: &str = "https";

fn secure_listener(address: SocketAddr) -> Listener {
    Listener { tls: Some(ListenerTls::default()), ..listener(address) }
}

fn listener(address: SocketAddr) -> Listener {
    Listener {
        address,
        tls: None,
        http2_prior_knowledge: true,
        proxy_protocol: ProxyProtocol::default(),
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
        locality: Locality::default(),
        admin: all(9090),
        debug_allow: Vec::new(),
        debug_hosts: Vec::new(),
        // Knows CPU masks and the quotas of both kinds of cgroups.
        workers: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

impl Serve {
    fn overlay(&self, mut settings: Settings) -> Result<Settings, CliError> {
        if let Some(path) = &self.settings {
            SettingsFile::read(path)?.overlay(path, &mut settings)?;
        }
        if let Some(address) = self.http {
            settings.listeners.entry(HTTP.to_owned()).or_insert_with(|| listener(address)).address = address;
        }
        if let Some(address) = self.https {
            settings.listeners.entry(HTTPS.to_owned()).or_insert_with(|| secure_listener(address)).address = address;
        }
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
        settings.validate()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["tidegate"].iter().chain(arguments))
    }

    #[test]
    fn flags_of_the_controller_reach_the_settings() {
        let controller = |arguments: &[&str]| -> Result<_, clap::Error> {
            match parse(&[&["controller"], arguments].concat())?.command {
                Command::Controller(controller) => Ok(controller),
                _ => panic!("not the command that was given"),
            }
        };
        let plain = controller(&[]).expect("no flag is needed").settings().expect("the defaults work");
        assert_eq!((plain.controller, plain.drain.delay), (Controller::default(), Duration::from_secs(5)));
        let flags = ["--gateway-class=public", "--controller-name=example.com/a", "--drain-delay=1s"];
        let settings = controller(&flags).expect("valid flags").settings().expect("valid settings");
        assert_eq!(settings.controller.gateway_class_name, "public");
        assert_eq!(settings.controller.controller_name, "example.com/a");
        assert_eq!(settings.drain.delay, Duration::from_secs(1));
        let plain = controller(&[]).expect("no flag is needed");
        assert_eq!((&*plain.lease_name, plain.lease_namespace, plain.no_status), ("tidegate", None, false));
        let status = controller(&["--lease-name=a.b", "--lease-namespace=ns", "--no-status"]).expect("valid flags");
        assert_eq!(
            (&*status.lease_name, status.lease_namespace.as_deref(), status.no_status),
            ("a.b", Some("ns"), true)
        );
        assert_eq!(controller(&["--watch-namespaces=a,b"]).expect("valid flags").watch_namespaces, ["a", "b"]);
        let error = controller(&["--watch-namespaces=a,B"]).expect_err("no name of a namespace");
        assert!(error.to_string().contains("found \"B\", expected the name of a namespace"), "{error}");
    }

    fn standalone(arguments: &[&str]) -> Result<Settings, CliError> {
        let cli = parse(&[&["standalone", "--config", "."], arguments].concat()).expect("valid flags");
        let Command::Standalone(standalone) = cli.command else { panic!("not the command that was given") };
        standalone.settings()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_of_the_serving_commands() {
        let settings = standalone(&[]).expect("defaults work");
        assert_eq!(settings.listeners["http"].address.to_string(), "[::]:8080");
        assert_eq!(settings.admin.to_string(), "[::]:9090");
        assert_eq!(settings.access_log, AccessLog::Stdout);
        assert_eq!(settings.drain, DrainSettings { delay: Duration::ZERO, timeout: Duration::from_secs(15) });
        assert!(settings.workers >= 1);
        let Command::Demo(demo) = parse(&["demo"]).expect("no flag is needed").command else { panic!("not demo") };
        let settings = demo.settings().expect("defaults work");
        assert_eq!(settings.listeners["http"].address.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.admin.to_string(), "127.0.0.1:9090");
        assert_eq!(settings.access_log, AccessLog::Off);
    }

    #[test]
    fn bad_values_say_the_flag_and_what_is_expected() {
        let cases: &[(&[&str], &str)] = &[
            (&["standalone"], "--config <DIR>"),
            (&["standalone", "--config", "x", "--http", "8080"], "found \"8080\", expected IP:PORT"),
            (&["demo", "--admin", "localhost:1"], "found \"localhost:1\", expected IP:PORT"),
            (&["demo", "--debug-allow", "10.0.0.0/33"], "expected a network"),
            (&["demo", "--workers", "0"], "--workers"),
            (&["demo", "--log", "loud"], "found \"loud\", expected error, warn, info"),
            (&["demo", "--log", "a=b=c"], "expected error, warn, info"),
            (&["demo", "--log-format", "xml"], "[possible values: text, json]"),
            (&["demo", "--access-log", ""], "expected off, stdout or a file"),
            (&["demo", "--drain-delay", "5"], "expected a duration such as 250ms"),
            (&["demo", "--drain-timeout=-1s"], "expected a duration such as 250ms"),
            (&["check"], "<PATH>"),
            (&["check", "a", "--output", "yaml"], "[possible values: text, json]"),
            (&["controller", "--watch-namespaces", "A"], "expected the name of a namespace"),
            (&["probe"], "<URL>"),
            (&["probe", "a.test:80"], "expected a URL such as http://10.0.0.1:8080/path"),
            (&["probe", "http://a.test", "--status", "1xx"], "expected a status from 200 to 599"),
            (&["probe", "http://a.test", "--header", "a"], "expected a field such as"),
            (&["probe", "http://a.test", "--times", "0"], "--times"),
            (&["probe", "http://a.test", "--wait", "5"], "expected a duration such as 250ms"),
            (&["controller", "--lease-name", "a..b"], "expected the name of an object"),
            (&["controller", "--lease-namespace", "a.b"], "expected the name of a namespace"),
            (&["sidecar"], "unrecognized subcommand"),
        ];
        for (arguments, expected) in cases {
            let error = parse(arguments).expect_err("a bad value");
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
            assert!(error.to_string().contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn flags_of_the_file_and_the_command_line_must_fit_together() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "listeners: {public: {address: \"127.0.0.1:81\"}}\n").expect("a file");
        let path = file.path().to_str().expect("a path in UTF-8");
        let settings = standalone(&["--settings", path]).expect("a good file");
        assert_eq!(settings.listeners.keys().collect::<Vec<_>>(), ["public"], "the file's listeners stand alone");
        let settings = standalone(&["--settings", path, "--http", ":82"]).expect("a good file");
        assert_eq!(settings.listeners.keys().collect::<Vec<_>>(), ["http", "public"], "--http asks for one more");
        let error = standalone(&["--settings", path, "--http", "127.0.0.1:81"]).expect_err("one address twice");
        assert!(error.to_string().contains("an address of its own"), "{error}");
        let error = standalone(&["--settings", "/nowhere"]).expect_err("no such file");
        assert_eq!(error.to_string(), "cannot read the settings file /nowhere");
    }

    const RUN_INSIDE: &str = "TIDEGATE_TEST_PRECEDENCE";

    /// Variables cannot be set in this process, so the test runs itself once more with them.
    #[test]
    fn flag_wins_over_variable_over_file_over_default() {
        if let Ok(path) = std::env::var(RUN_INSIDE) {
            let file = ["--settings", path.as_str()];
            let settings = standalone(&file).expect("a good file");
            let seconds = Duration::from_secs;
            assert_eq!(settings.drain, DrainSettings { delay: seconds(2), timeout: seconds(3) }, "variable, then file");
            assert_eq!(settings.deadlines.idle, seconds(3), "file");
            assert_eq!(settings.deadlines.head, seconds(10), "default");
            assert_eq!(settings.access_log, AccessLog::Off, "variable over file");
            assert_eq!(settings.debug_allow.len(), 2, "a list in a variable");
            let flags = ["--drain-delay", "1s", "--access-log", "stdout", "--debug-allow", "10.0.0.0/8"];
            let settings = standalone(&[&file[..], &flags].concat()).expect("a good file");
            assert_eq!(settings.drain, DrainSettings { delay: seconds(1), timeout: seconds(3) }, "flag over variable");
            assert_eq!(settings.access_log, AccessLog::Stdout, "flag over variable");
            assert_eq!(settings.debug_allow.len(), 1, "flag over variable");
            return;
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = "drain: {delay: 3s, timeout: 3s}\ndeadlines: {idle: 3s}\naccessLog: stdout\ndebugAllow: [\"::1\"]\n";
        std::fs::write(file.path(), text).expect("a file");
        let output = Process::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "cli::tests::flag_wins_over_variable_over_file_over_default", "--nocapture"])
            .env(RUN_INSIDE, file.path())
            .env("TIDEGATE_DRAIN_DELAY", "2s")
            .env("TIDEGATE_ACCESS_LOG", "off")
            .env("TIDEGATE_DEBUG_ALLOW", "10.0.0.0/8,fd00::/8")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
