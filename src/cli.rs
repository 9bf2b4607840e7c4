//! Commands and flags. Every flag has a `TIDEGATE_…` variable; a flag wins over its variable, both over the settings
//! file, and that over the default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use http::HeaderValue;

use crate::inject;
use crate::probe::{Field, Statuses, Target};
use crate::settings::file::SettingsFile;
use crate::settings::{AccessLog, DrainSettings, Settings, SettingsError, parse_address, parse_duration};
use crate::sidecar::flags::{Incoming, Options, Outgoing, OutgoingPort, Proxy, ProxyAddress, ReadyWhen, ServiceName};
use crate::text::{is_dns_label, is_dns_subdomain};

mod process;

pub use process::{CliError, LogFormat, Process, Serve, standalone_defaults};
use process::{HTTP, HTTPS, listener, secure_listener};

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
    /// Serve the calls of one application and the requests to it, beside it
    Sidecar(Box<SidecarCommand>),
    /// Print manifests with a sidecar in the pods that ask for one
    ///
    /// A pod asks by the annotations sidecar.tidegate.dev/in, sidecar.tidegate.dev/out and sidecar.tidegate.dev/proxy, or all of
    /// them are asked for by --in, --out and --proxy. Exit code 0: done, or nothing to do, 1: findings, and nothing is printed, 2: usage.
    Inject(Inject),
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
    /// Print the tables of metrics, of their labels, of access-log fields and of reasons
    Metrics,
    /// Print every key of the settings file with its type, default (of standalone), bound and meaning
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
    /// ClusterRole that lets certificates and authorities of a namespace be read: what operators are told to bind where the right is missing [default: they are told to make a Role]
    #[arg(long, value_name = "NAME", env = "TIDEGATE_CERTIFICATE_ROLE", value_parser = parse_object_name)]
    pub certificate_role: Option<String>,
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

/// `tidegate sidecar`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SidecarCommand {
    /// What a running sidecar is asked for, instead of serving.
    #[command(subcommand)]
    pub action: Option<SidecarAction>,
    /// Directory with *.yaml, *.yml and *.json manifests [default: none, the API server is asked]
    #[arg(long, value_name = "DIR", env = "TIDEGATE_CONFIG", conflicts_with_all = ["kubeconfig", "cache"])]
    pub config: Option<PathBuf>,
    /// Kubeconfig [default: $KUBECONFIG, ~/.kube/config, else the service account of the pod]
    #[arg(long, value_name = "FILE", env = "TIDEGATE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder in which objects are kept, to serve them after a restart while the API server does not answer
    #[arg(long, value_name = "DIR", env = "TIDEGATE_CACHE")]
    pub cache: Option<PathBuf>,
    /// Service that the application calls, and the loopback address at which all its TCP ports are served; may be repeated
    #[arg(long, value_name = "NAME.NAMESPACE@ADDRESS", env = "TIDEGATE_OUT", value_delimiter = ',')]
    pub out: Vec<Outgoing>,
    /// Single port of a Service that the application calls, and where it is served; may be repeated
    #[arg(long, value_name = "NAME.NAMESPACE:PORT@ADDRESS:PORT", env = "TIDEGATE_OUT_PORTS", value_delimiter = ',')]
    pub out_port: Vec<OutgoingPort>,
    /// Name and port of the application, and where its requests are taken; may be repeated [default ADDRESS:PORT: [::]:15080, then 15081, …]
    #[arg(long = "in", value_name = "NAME:PORT[@ADDRESS:PORT]", env = "TIDEGATE_IN", value_delimiter = ',')]
    pub incoming: Vec<Incoming>,
    /// Forward proxy for the application's HTTP_PROXY, on loopback
    #[arg(long, value_name = "ADDRESS:PORT", env = "TIDEGATE_PROXY")]
    pub proxy: Option<ProxyAddress>,
    /// Service that requests through the proxy are balanced for; may be repeated
    #[arg(long, value_name = "NAME.NAMESPACE", env = "TIDEGATE_SERVICES", value_delimiter = ',', requires = "proxy")]
    pub services: Vec<ServiceName>,
    /// What becomes of requests through the proxy for other hosts
    #[arg(long, value_enum, env = "TIDEGATE_PROXY_OTHERS", default_value_t = ProxyOthers::Direct)]
    pub proxy_others: ProxyOthers,
    /// End of the long names of Services, which the proxy is asked for
    #[arg(long, value_name = "DOMAIN", env = "TIDEGATE_CLUSTER_DOMAIN", default_value = "cluster.local", value_parser = parse_object_name)]
    pub cluster_domain: String,
    /// Service of the pod itself: a route of an incoming listener that names it as backend means the application
    #[arg(long = "self", value_name = "NAME", env = "TIDEGATE_SELF", value_parser = parse_service)]
    pub own_service: Option<String>,
    /// Namespace of the pod
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "default", value_parser = parse_namespace)]
    pub namespace: String,
    /// What makes the sidecar ready beside itself: tcp:PORT of the application, or started [default: the ports of --in]
    #[arg(long, value_name = "CONDITION", env = "TIDEGATE_READY_WHEN", value_delimiter = ',')]
    pub ready_when: Vec<ReadyWhen>,
    /// Flags of every serving command.
    #[command(flatten)]
    pub process: Process,
}

/// What becomes of requests through the forward proxy for hosts that are none of its Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyOthers {
    /// They go straight to their host.
    Direct,
    /// They are answered 403.
    Refuse,
}

/// What a running sidecar can be asked for.
#[derive(Clone, Debug, Subcommand)]
pub enum SidecarAction {
    /// Ask who is connected to leave, for the preStop hook of the sidecar's container; returns at once
    Drain {
        /// Whose connections
        side: DrainSide,
        /// Admin address of the sidecar
        #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", default_value = "[::]:15090", value_parser = parse_address)]
        admin: SocketAddr,
    },
}

/// Whose connections a sidecar gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainSide {
    /// Those to the application: after --drain-delay answers close them and WebSockets get close frames, while new ones
    /// are served on. Calls of the application are not touched
    In,
}

/// `tidegate inject`.
#[derive(Clone, Debug, Args)]
pub struct Inject {
    /// File, directory, or - for standard input; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "PATH", default_value = "-")]
    pub paths: Vec<PathBuf>,
    /// Port of the application that requests come to, by its name; may be repeated
    #[arg(long = "in", value_name = "NAME[:PORT[@ADDRESS:PORT]]", value_delimiter = ',')]
    pub incoming: Vec<String>,
    /// Service that the application calls [default ADDRESS: 127.0.0.2, then 127.0.0.3, …]; may be repeated
    #[arg(long, value_name = "NAME.NAMESPACE[@ADDRESS]", value_delimiter = ',')]
    pub out: Vec<String>,
    /// Forward proxy for the application's HTTP_PROXY, on loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub proxy: Option<String>,
    /// Service that requests through the proxy are balanced for; may be repeated
    #[arg(long, value_name = "NAME.NAMESPACE", value_delimiter = ',')]
    pub services: Vec<String>,
    /// What becomes of requests through the proxy for other hosts [default: direct]
    #[arg(long, value_enum)]
    pub proxy_others: Option<ProxyOthers>,
    /// What the annotation sidecar.tidegate.dev/KEY says: self, ready-when, cpu, memory, low-ports, or those with an option of
    /// their own; may be repeated, once for each key
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_set)]
    pub set: Vec<(String, String)>,
    /// Image of the sidecar [default: that of this version, by the name tidegate]
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Namespace of objects that name none
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = "default", value_parser = parse_namespace)]
    pub namespace: String,
    /// End of the long names of Services
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = parse_object_name)]
    pub cluster_domain: String,
    /// Take sidecars out
    #[arg(long, conflicts_with_all = ["incoming", "out", "proxy", "services", "proxy_others", "set", "image", "cluster_domain"])]
    pub remove: bool,
    /// Print admission policies that do the same in an API server (Kubernetes 1.36) with pods that have the label tidegate.dev/inject: "true"
    #[arg(long, conflicts_with_all = ["paths", "incoming", "out", "proxy", "services", "proxy_others", "set", "namespace", "remove", "output"])]
    pub policy: bool,
    /// How manifests are printed: as they were written, as JSON, or as one JSON patch for each changed object
    #[arg(short = 'o', long, value_enum, default_value_t = ManifestFormat::Yaml)]
    pub output: ManifestFormat,
}

/// How manifests are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ManifestFormat {
    /// As they were written.
    Yaml,
    /// Each document as JSON.
    Json,
    /// For each changed object its name and a JSON patch.
    Patch,
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
    /// Text that the body has to contain, in its first MiB
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

fn parse_namespace(text: &str) -> Result<String, String> {
    name(text, is_dns_label, "the name of a namespace")
}

fn parse_service(text: &str) -> Result<String, String> {
    name(text, is_dns_label, "the name of a Service")
}

fn parse_object_name(text: &str) -> Result<String, String> {
    name(text, is_dns_subdomain, "the name of an object")
}

fn name(text: &str, is_one: fn(&str) -> bool, expected: &str) -> Result<String, String> {
    if is_one(text) { Ok(text.to_owned()) } else { Err(format!("found {text:?}, expected {expected}")) }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("found {text:?}, expected KEY=VALUE"))?;
    inject::check_key(key)?;
    Ok((key.to_owned(), value.to_owned()))
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

impl SidecarCommand {
    /// The settings of this command without listeners, which follow from the Services: flag, else variable, else file, else
    /// default.
    ///
    /// # Errors
    ///
    /// When the settings file is refused, has listeners, or something cannot work.
    pub fn settings(&self) -> Result<Settings, CliError> {
        let mut settings = standalone_defaults();
        settings.listeners = BTreeMap::new();
        settings.admin = SocketAddr::from(([0_u16; 8], 15090));
        settings.access_log = AccessLog::Off;
        settings.drain = DrainSettings { delay: Duration::from_secs(5), timeout: Duration::from_secs(5) };
        settings.workers = 1;
        // What an application and its peers expect of each other must not change with a sidecar: it waits as long as they do.
        settings.deadlines.first_byte = Duration::ZERO;
        settings.deadlines.idle = Duration::ZERO;
        settings.deadlines.write_stall = Duration::ZERO;
        settings.deadlines.response_head = Duration::ZERO;
        settings.limits.body_rate = 0;
        settings.forwarding.merge_slashes = false;
        self.process.overlay_file(&mut settings)?;
        if !settings.listeners.is_empty() {
            let (field, found) = ("listeners".to_owned(), settings.listeners.len().to_string());
            return Err(SettingsError {
                field,
                found,
                expected: "none: --out, --out-port, --in and --proxy say what is served",
            }
            .into());
        }
        self.process.overlay(&mut settings);
        settings.validate_process()?;
        Ok(settings)
    }

    /// What is asked for.
    ///
    /// # Errors
    ///
    /// When flags cannot work together.
    pub fn options(&self) -> Result<Options, CliError> {
        let options = Options {
            namespace: self.namespace.as_str().into(),
            out: self.out.clone(),
            out_ports: self.out_port.clone(),
            incoming: self.incoming.clone(),
            own_service: self.own_service.as_deref().map(Into::into),
            proxy: self.proxy.map(|address| Proxy {
                address,
                services: self.services.clone(),
                refuses_others: self.proxy_others == ProxyOthers::Refuse,
                cluster_domain: self.cluster_domain.clone(),
            }),
        };
        options.validate()?;
        Ok(options)
    }

    /// The ports on which the application has to listen before the sidecar is ready.
    #[must_use]
    pub fn awaited_ports(&self) -> Vec<u16> {
        if self.ready_when.is_empty() {
            return self.incoming.iter().map(|one| one.app_port).collect();
        }
        let ports = self.ready_when.iter().filter_map(|condition| match condition {
            ReadyWhen::Tcp(port) => Some(*port),
            ReadyWhen::Started => None,
        });
        ports.collect()
    }
}

impl Inject {
    /// What is to be done.
    #[must_use]
    pub fn options(&self) -> inject::Options {
        let mut set = self.set.clone();
        for (key, values) in [("in", &self.incoming), ("out", &self.out), ("services", &self.services)] {
            if !values.is_empty() {
                set.push((key.to_owned(), values.join(",")));
            }
        }
        set.extend(self.proxy.iter().map(|address| ("proxy".to_owned(), address.clone())));
        let others = self.proxy_others.and_then(|others| others.to_possible_value());
        set.extend(others.map(|others| ("proxy-others".to_owned(), others.get_name().to_owned())));
        set.extend(self.image.iter().map(|image| ("image".to_owned(), image.clone())));
        inject::Options {
            paths: self.paths.clone(),
            set,
            remove: self.remove,
            output: match self.output {
                ManifestFormat::Yaml => inject::Output::Yaml,
                ManifestFormat::Json => inject::Output::Json,
                ManifestFormat::Patch => inject::Output::Patch,
            },
            namespace: self.namespace.clone(),
            cluster_domain: self.cluster_domain.clone(),
        }
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

#[cfg(test)]
mod tests {
    use std::process::Command as Process;

    use clap::CommandFactory;

    use super::*;
    use crate::settings::Controller;

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
            (&["sidekick"], "unrecognized subcommand"),
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
