//! Process settings: read once at start, validated, plain types. Routes and their policies never stand here.
//!
//! The order is flag > environment > file > default. The YAML keys are the field names in camelCase; unknown keys are refused.

pub mod file;
pub mod table;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::text;

/// All settings of the process.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Static listeners by name; at most 32.
    pub listeners: BTreeMap<String, Listener>,
    /// Deadlines of connections and exchanges.
    pub deadlines: Deadlines,
    /// Sizes and counts.
    pub limits: Limits,
    /// How requests are forwarded.
    pub forwarding: Forwarding,
    /// Metrics.
    pub metrics: MetricsSettings,
    /// Access log.
    pub access_log: AccessLog,
    /// Graceful stop.
    pub drain: DrainSettings,
    /// The controller's identity.
    pub controller: Controller,
    /// Sessions of clients.
    pub sessions: Sessions,
    /// Tokens (`JWT`).
    pub jwt: Jwt,
    /// Where the process is.
    pub locality: Locality,
    /// Address of the admin server.
    pub admin: SocketAddr,
    /// Peers that may use `/debug/…` beside loopback.
    pub debug_allow: Vec<IpNet>,
    /// Hosts for which `/debug/…` answers, beside IP addresses, `localhost` and names under it.
    pub debug_hosts: Vec<String>,
    /// Data workers; at least 1.
    pub workers: usize,
}

/// One static listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Where to listen; port 0 picks a free one.
    pub address: SocketAddr,
    /// On whose behalf requests are forwarded; no key of the settings file.
    pub mode: ListenerMode,
    /// TLS is spoken there.
    pub tls: Option<ListenerTls>,
    /// Serve HTTP/2 with prior knowledge beside HTTP/1.1.
    pub http2_prior_knowledge: bool,
    /// Headers by which load balancers tell whose connection they pass on.
    pub proxy_protocol: ProxyProtocol,
    /// Peers whose forwarding fields are believed.
    pub trusted_forwarders: Vec<IpNet>,
    /// A path answered 200 by the gateway itself (503 while draining), for load balancers; on any host.
    pub health_path: Option<String>,
    /// Namespaces whose routes may bind; `None`: all.
    pub allowed_namespaces: Option<Vec<String>>,
}

/// On whose behalf the requests of a listener are forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerMode {
    /// A gateway's: it tells endpoints where a request came from.
    #[default]
    Gateway,
    /// A sidecar's for the calls of its pod: the pod is the client. Only an id and a mark against circles are added.
    Outgoing,
    /// A sidecar's for calls that are not HTTP: their bytes are passed on, one endpoint for each connection.
    Relay,
    /// A sidecar's for the requests to its pod, whose sender has told what there is to tell: nothing is added.
    Incoming,
}

impl ListenerMode {
    /// It is one of a sidecar: what a request says of its way so far passes unchanged.
    #[must_use]
    pub const fn is_sidecar(self) -> bool {
        match self {
            Self::Gateway => false,
            Self::Outgoing | Self::Relay | Self::Incoming => true,
        }
    }
}

/// The PROXY protocol on a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Whether connections begin with its header.
    pub mode: ProxyProtocolMode,
    /// Peers whose headers are believed.
    pub trusted: Vec<IpNet>,
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyProtocolMode {
    /// None does.
    #[default]
    Off,
    /// Those of trusted peers may.
    Optional,
    /// All do, and come from trusted peers.
    Required,
}

/// TLS on a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTls {
    /// Namespace and name of the Secret with the certificate for clients that no route has one for.
    pub default_certificate: Option<(String, String)>,
}

/// Deadlines; [`Duration::ZERO`] switches one off.
#[derive(Clone, Debug, PartialEq)]
pub struct Deadlines {
    /// Accept to first byte.
    pub first_byte: Duration,
    /// Accept to the end of the PROXY header, where a listener takes one.
    pub proxy_header: Duration,
    /// Accept, or the PROXY header, to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// First byte to complete head.
    pub head: Duration,
    /// Idle keep-alive connection of a client.
    pub idle: Duration,
    /// Window over which the mean body rate is judged (with [`Limits::body_rate`]).
    pub body_rate_window: Duration,
    /// The client takes no byte of a response.
    pub write_stall: Duration,
    /// One connection attempt to an endpoint.
    pub connect: Duration,
    /// Last request byte to response head.
    pub response_head: Duration,
    /// Idle pooled connection to an endpoint.
    pub upstream_idle: Duration,
    /// Dropping input after an error answer.
    pub linger: Duration,
    /// No byte on a connection, of a client or an endpoint, until TCP asks whether the other side is still there.
    pub tcp_keepalive: Duration,
    /// Bytes without an acknowledgement, or a window that stays shut, until TCP gives a connection up.
    pub tcp_user_timeout: Duration,
    /// Head of an admin request.
    pub admin: Duration,
    /// Whole admin connection, from its accept to the last byte of its answer.
    pub admin_connection: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            proxy_header: Duration::from_secs(10),
            tls_handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body_rate_window: Duration::from_secs(30),
            write_stall: Duration::from_secs(30),
            connect: Duration::from_secs(1),
            response_head: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(4),
            linger: Duration::from_secs(5),
            tcp_keepalive: Duration::from_secs(30),
            tcp_user_timeout: Duration::from_secs(120),
            admin: Duration::from_secs(2),
            admin_connection: Duration::from_secs(10),
        }
    }
}

/// Sizes in bytes, and counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Request line.
    pub request_line: usize,
    /// One field line.
    pub field: usize,
    /// All field lines of a head.
    pub fields_total: usize,
    /// Number of fields of a head.
    pub field_count: usize,
    /// Request body; `None`: no limit.
    pub body: Option<u64>,
    /// One line of chunk extensions.
    pub chunk_line: usize,
    /// All chunk extensions of a body.
    pub chunk_extensions: usize,
    /// All trailer lines.
    pub trailers_total: usize,
    /// Number of trailer fields.
    pub trailer_count: usize,
    /// Bytes held behind an upgrade handshake.
    pub upgrade_held: usize,
    /// Response head of an endpoint.
    pub response_head: usize,
    /// Interim responses of an endpoint.
    pub interim_responses: u32,
    /// Unread request body that is dropped to keep a connection.
    pub unread_body: usize,
    /// Request bodies that all rules together keep to send them again, in the process.
    pub retry_bodies: usize,
    /// Request bodies that wait to be sent to mirrors, of all copies together, in the process.
    pub mirror_bodies: usize,
    /// Copies of requests that are on their way to mirrors at the same time, in the process.
    pub mirrors: usize,
    /// Clients that all rate limits with keys remember together.
    pub rate_limit_cells: usize,
    /// Bytes that all compressors take together.
    pub compressor_memory: usize,
    /// Bytes of the answers that requests share (`Coalesce`), of all of them together.
    pub coalesce_bytes: usize,
    /// Passwords that are checked at the same time, in the process; `None`: a fourth of the workers, at least 1.
    pub password_checks: Option<usize>,
    /// Least mean body rate in bytes per second; 0: off.
    pub body_rate: u64,
    /// Concurrent streams of an HTTP/2 connection.
    pub http2_streams: u32,
    /// TLS handshakes that are under way at the same time in the process; more wait. One that waits for its client counts
    /// for a tenth of a second.
    pub tls_handshakes: usize,
    /// Idle connections kept per endpoint and worker.
    pub upstream_idle_per_endpoint: usize,
    /// Client connections that are served at the same time; `None`: as many as there are file descriptors for.
    pub connections: Option<usize>,
    /// Connections of one client address, trusted forwarders aside; `None`: no limit.
    pub connections_per_address: Option<usize>,
    /// Bytes that the process may hold; `None`: the limit of its cgroup, if there is one. 0: any number.
    pub memory: Option<u64>,
    /// Admin connections that wait for their request, and those that are answered: each as many.
    pub admin_connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line: 8 << 10,
            field: 16 << 10,
            fields_total: 32 << 10,
            field_count: 100,
            body: None,
            chunk_line: 4 << 10,
            chunk_extensions: 16 << 10,
            trailers_total: 16 << 10,
            trailer_count: 64,
            upgrade_held: 16 << 10,
            response_head: 32 << 10,
            interim_responses: 10,
            unread_body: 64 << 10,
            retry_bodies: 16 << 20,
            mirror_bodies: 16 << 20,
            mirrors: 1_024,
            rate_limit_cells: 131_072,
            compressor_memory: 64 << 20,
            coalesce_bytes: 64 << 20,
            password_checks: None,
            body_rate: 240,
            http2_streams: 100,
            tls_handshakes: 1024,
            upstream_idle_per_endpoint: 512,
            connections: None,
            connections_per_address: None,
            memory: None,
            admin_connections: 16,
        }
    }
}

/// How requests are forwarded.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarding {
    /// Send again any method when a reused connection fails before a response byte.
    pub retry_non_idempotent_on_idle_close: bool,
    /// Make `//` of a path `/`.
    pub merge_slashes: bool,
    /// Send `x-tidegate-reason` with every own answer.
    pub reason_header: bool,
    /// Namespace and name of the Secret with the certificate for pods that ask for one.
    pub client_certificate: Option<(String, String)>,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            retry_non_idempotent_on_idle_close: false,
            merge_slashes: true,
            reason_header: false,
            client_certificate: None,
        }
    }
}

/// Metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsSettings {
    /// Series of requests by rule before they fold to routes.
    pub max_series: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { max_series: 10_000 }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output, one JSON object a line.
    Stdout,
    /// A file, opened for appending and reopened on SIGUSR1.
    File(PathBuf),
}

/// Graceful stop.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainSettings {
    /// Not ready, still accepting.
    pub delay: Duration,
    /// Requests in flight.
    pub timeout: Duration,
}

/// The controller's identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Controller {
    /// `controllerName` of status entries.
    pub controller_name: String,
    /// Routes of this class only.
    pub gateway_class_name: String,
    /// To whom a hostname belongs.
    pub hostname_ownership: HostnameOwnership,
}

/// Where the process is, for rules that prefer near endpoints (`loadBalancer.locality`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Locality {
    /// Name of its zone; `None`: not known.
    pub zone: Option<String>,
    /// Name of its node; `None`: not known.
    pub node: Option<String>,
}

/// Sessions of clients (`sessionPersistence`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sessions {
    /// A file with the key that all replicas make the ids of endpoints with; `None`: a fixed one.
    pub key_file: Option<PathBuf>,
}

/// Tokens of clients (`JWT`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Jwt {
    /// A file with authorities that are trusted when key sets are fetched, beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// The access log names the subject of a request's token.
    pub log_subject: bool,
}

/// To whom a hostname belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostnameOwnership {
    /// To every route that asks for it.
    #[default]
    Shared,
    /// To the namespace of the oldest route that asks for it; others have it only by delegation.
    Namespace,
}

impl fmt::Display for HostnameOwnership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "Shared",
            Self::Namespace => "Namespace",
        })
    }
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            controller_name: "tidegate.dev/controller".to_owned(),
            gateway_class_name: "tidegate".to_owned(),
            hostname_ownership: HostnameOwnership::default(),
        }
    }
}

/// Most static listeners of a process.
pub const MOST_LISTENERS: usize = 32;

/// Most data workers: beyond any machine that this runs on.
pub const MOST_WORKERS: usize = 1024;

/// Most clients that rate limits remember: 1 GiB.
const MOST_RATE_LIMIT_CELLS: usize = 1 << 26;

/// Settings that cannot work together, or at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: found {found}, expected {expected}", text::OneLine(field))]
pub struct SettingsError {
    /// The key as in the settings file.
    pub field: String,
    /// What is set.
    pub found: String,
    /// What may be set.
    pub expected: &'static str,
}

impl Settings {
    /// Sizes and counts that cannot be 0, by the path of their key.
    fn at_least_one(&self) -> [(&'static str, usize); 14] {
        [
            ("limits.requestLine", self.limits.request_line),
            ("limits.field", self.limits.field),
            ("limits.fieldsTotal", self.limits.fields_total),
            ("limits.fieldCount", self.limits.field_count),
            ("limits.chunkLine", self.limits.chunk_line),
            ("limits.responseHead", self.limits.response_head),
            ("limits.rateLimitCells", self.limits.rate_limit_cells),
            ("limits.http2Streams", self.limits.http2_streams as usize),
            ("limits.tlsHandshakes", self.limits.tls_handshakes),
            ("limits.passwordChecks", self.limits.password_checks.unwrap_or(usize::MAX)),
            ("limits.connections", self.limits.connections.unwrap_or(usize::MAX)),
            ("limits.connectionsPerAddress", self.limits.connections_per_address.unwrap_or(usize::MAX)),
            ("limits.adminConnections", self.limits.admin_connections),
            ("metrics.maxSeries", self.metrics.max_series),
        ]
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let refuse = |field: String, found: String, expected| Err(SettingsError { field, found, expected });
        if self.listeners.is_empty() || self.listeners.len() > MOST_LISTENERS {
            return refuse("listeners".to_owned(), self.listeners.len().to_string(), "1 to 32 listeners");
        }
        let mut taken: BTreeMap<SocketAddr, &str> = BTreeMap::from([(self.admin, "admin")]);
        for (name, listener) in &self.listeners {
            let field = |key: &str| format!("listeners.{name}{key}");
            if !text::is_dns_label(name) {
                return refuse(field(""), format!("{name:?}"), "a name of 1 to 63 of a-z, 0-9 and inner hyphens");
            }
            if listener.address.port() != 0
                && let Some(other) = taken.insert(listener.address, name)
            {
                let found = format!("{}, which {other} has too", listener.address);
                return refuse(field(".address"), found, "an address of its own");
            }
            if let Some(path) = listener.health_path.as_ref().filter(|path| !path.starts_with('/')) {
                return refuse(field(".healthPath"), format!("{path:?}"), "a path that begins with /");
            }
            let ProxyProtocol { mode, trusted } = &listener.proxy_protocol;
            match mode {
                ProxyProtocolMode::Off if !trusted.is_empty() => {
                    let expected = "none, or mode optional or required beside them";
                    return refuse(
                        field(".proxyProtocol.trusted"),
                        "networks that mode off never asks for".to_owned(),
                        expected,
                    );
                }
                ProxyProtocolMode::Optional | ProxyProtocolMode::Required if trusted.is_empty() => {
                    let expected = "the networks of the load balancers that send PROXY headers";
                    return refuse(field(".proxyProtocol.trusted"), "none".to_owned(), expected);
                }
                ProxyProtocolMode::Off | ProxyProtocolMode::Optional | ProxyProtocolMode::Required => {}
            }
        }
        self.validate_process()
    }

    /// As [`validate`](Self::validate), without a look at the listeners.
    ///
    /// # Errors
    ///
    /// The first setting that cannot work.
    pub fn validate_process(&self) -> Result<(), SettingsError> {
        let refuse = |field: String, found: String, expected| Err(SettingsError { field, found, expected });
        if let Some((name, _)) = self.at_least_one().into_iter().find(|(_, size)| *size == 0) {
            return refuse(name.to_owned(), "0".to_owned(), "at least 1");
        }
        if self.limits.rate_limit_cells > MOST_RATE_LIMIT_CELLS {
            let found = self.limits.rate_limit_cells.to_string();
            return refuse("limits.rateLimitCells".to_owned(), found, "at most 67108864, which take 1 GiB");
        }
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if let Some(host) = self.debug_hosts.iter().find(|host| host.is_empty() || !host.chars().all(in_name)) {
            return refuse("debugHosts".to_owned(), format!("{host:?}"), "a host name without port");
        }
        if !(1..=MOST_WORKERS).contains(&self.workers) {
            return refuse("workers".to_owned(), self.workers.to_string(), "1 to 1024");
        }
        Ok(())
    }
}

impl FromStr for AccessLog {
    type Err = Infallible;

    /// `off`, `stdout` or the path of a file; `./off` is a file.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "off" => Self::Off,
            "stdout" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// Parses a GEP-2257 duration, see [`text::duration`].
///
/// # Errors
///
/// What was found and expected, as one line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text::duration(text).ok_or_else(|| format!("found {text:?}, expected a duration such as 250ms, 10s or 1m30s"))
}

/// Parses `IP:PORT`; `:PORT` is every address of both families.
///
/// # Errors
///
/// What was found and expected, as one line.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("found {text:?}, expected IP:PORT such as 127.0.0.1:8080, [::]:8080 or :8080"))
}

/// Parses a network or a single address, see [`text::network`].
///
/// # Errors
///
/// What was found and expected, as one line.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    text::network(text).ok_or_else(|| format!("found {text:?}, expected a network such as 10.0.0.0/8 or fd00::/8"))
}
