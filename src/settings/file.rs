//! The settings file (`--settings`): one YAML document whose keys are the fields of [`Settings`] in camelCase.
//!
//! Everything is optional; what is there replaces the default. Unknown keys are refused, and so is what is not
//! supported yet, by name. [`schema`] is the file's JSON schema.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize};

use super::{
    AccessLog, HostnameOwnership, Listener, ListenerMode, ListenerTls, ProxyProtocol, ProxyProtocolMode, Settings,
    parse_address, parse_duration, parse_network,
};
use crate::text::OneLine;

/// Why a settings file is refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the settings file {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not YAML, has an unknown key or a value of the wrong type.
    #[error("{}:{line}:{column}: {}", path.display(), OneLine(message))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// It asks for something that this version does not do.
    #[error("{}: {}: {what} is not supported yet", path.display(), OneLine(field))]
    NotSupported {
        /// The file.
        path: PathBuf,
        /// The key.
        field: String,
        /// What is missing.
        what: &'static str,
    },
}

/// The file as written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SettingsFile {
    /// Static listeners by name. When there are any, they stand instead of the default ones.
    listeners: Option<BTreeMap<String, ListenerKeys>>,
    /// Deadlines of connections and exchanges; `0s` switches one off.
    deadlines: DeadlineKeys,
    /// Sizes in bytes, and counts.
    limits: LimitKeys,
    /// How requests are forwarded.
    forwarding: ForwardingKeys,
    /// Metrics.
    metrics: MetricsKeys,
    /// Where the access log goes: `off`, `stdout` or the path of a file. A sidecar's default is `off`.
    access_log: Option<AccessLogText>,
    /// Graceful stop.
    drain: DrainKeys,
    /// The controller's identity.
    controller: ControllerKeys,
    /// Sessions of clients (`sessionPersistence`).
    sessions: SessionKeys,
    /// Tokens of clients (`JWT`).
    jwt: JwtKeys,
    /// Where the process is, for rules that prefer near endpoints (`loadBalancer.locality`).
    locality: LocalityKeys,
    /// The address of the admin server. A sidecar's default is `[::]:15090`.
    admin: Option<AddressText>,
    /// Peers in these networks may use `/debug/…`, beside loopback.
    debug_allow: Option<Vec<NetworkText>>,
    /// Hosts for which `/debug/…` answers, beside IP addresses, `localhost` and names under it.
    debug_hosts: Option<Vec<String>>,
    /// The number of data workers; by default one per core, as far as the cgroup quota goes, and one in a sidecar.
    workers: Option<usize>,
}

/// One static listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListenerKeys {
    /// The address and port to listen on; `:8080` stands for all addresses of both families.
    address: AddressText,
    /// What is spoken on the port. HTTPS shows the certificates that routes name in `spec.tls`.
    #[serde(default)]
    protocol: ProtocolName,
    /// HTTP/2 with prior knowledge is served beside HTTP/1.1, also for gRPC. Over TLS the handshake decides (ALPN).
    #[serde(default = "yes")]
    http2_prior_knowledge: bool,
    /// Load balancers tell by the PROXY protocol (versions 1 and 2), before TLS, whose connection they pass on.
    #[serde(default)]
    proxy_protocol: ProxyProtocolKeys,
    /// X-Forwarded-For, -Proto, -Host and -Port are believed from peers in these networks.
    #[serde(default)]
    trusted_forwarders: Vec<NetworkText>,
    /// The gateway itself answers this path, on any host: 200, or 503 while it drains.
    #[serde(default)]
    health_path: Option<String>,
    /// The certificate for clients that name no host, or one that no route has a certificate for. Without it their
    /// handshake is refused.
    #[serde(default)]
    default_certificate: Option<SecretName>,
    /// Only routes of these namespaces may bind to the listener.
    #[serde(default)]
    allowed_namespaces: Option<Vec<String>>,
}

/// The name of a Secret of type `kubernetes.io/tls`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretName {
    /// The Secret's namespace.
    namespace: String,
    /// The Secret's name.
    name: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum ProtocolName {
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    #[serde(rename = "HTTPS")]
    Https,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProxyProtocolKeys {
    /// Whether connections begin with a PROXY header: `required`, all do; `optional`, those of trusted peers may; `off`.
    mode: ProxyProtocolMode,
    /// PROXY headers are believed from peers in these networks. From others they are refused.
    trusted: Vec<NetworkText>,
}

/// Fields of a block: in the file, and where they go.
macro_rules! block {
    ($(#[$meta:meta])* $name:ident for $target:ty { $($(#[$field_meta:meta])* $field:ident: $kind:ty => $value:expr;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        struct $name {
            $($(#[$field_meta])* $field: Option<$kind>,)+
        }

        impl $name {
            /// Key and text of each setting, as the file would state it; `None` for what is not set.
            fn stated(settings: &$target) -> Vec<(String, Option<String>)> {
                vec![$((camel_case(stringify!($field)), settings.$field.stated()),)+]
            }

            fn overlay(self, target: &mut $target) {
                $(if let Some(value) = self.$field {
                    target.$field = apply(value, $value);
                })+
            }
        }
    };
}

/// A Rust field's name as a key of the file.
fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |key, word| key + &word[..1].to_uppercase() + &word[1..])
}

/// A value in the words of the file.
trait Stated {
    /// `None` when it is not set.
    fn stated(&self) -> Option<String>;
}

/// Values that are written as they print.
macro_rules! stated_as_printed {
    ($($kind:ty)+) => {
        $(impl Stated for $kind {
            fn stated(&self) -> Option<String> {
                Some(self.to_string())
            }
        })+
    };
}

stated_as_printed! { usize u64 u32 bool String SocketAddr IpNet HostnameOwnership }

impl Stated for Duration {
    fn stated(&self) -> Option<String> {
        let millis = self.as_millis();
        Some(if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") })
    }
}

impl<T: Stated> Stated for Option<T> {
    fn stated(&self) -> Option<String> {
        self.as_ref().and_then(T::stated)
    }
}

impl<T: Stated> Stated for Vec<T> {
    fn stated(&self) -> Option<String> {
        let items: Vec<_> = self.iter().filter_map(T::stated).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Namespace and name of an object.
impl Stated for (String, String) {
    fn stated(&self) -> Option<String> {
        Some(format!("{{namespace: {}, name: {}}}", self.0, self.1))
    }
}

impl Stated for PathBuf {
    fn stated(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl Stated for AccessLog {
    fn stated(&self) -> Option<String> {
        Some(match self {
            Self::Off => "off".to_owned(),
            Self::Stdout => "stdout".to_owned(),
            Self::File(path) => path.display().to_string(),
        })
    }
}

/// Settings by the path of their key (`limits.body`), as a file would state them; `None` for what is not set. Listeners,
/// which have names of their own, are left out.
pub(super) fn stated(settings: &Settings) -> BTreeMap<String, Option<String>> {
    let blocks = [
        ("deadlines", DeadlineKeys::stated(&settings.deadlines)),
        ("limits", LimitKeys::stated(&settings.limits)),
        ("forwarding", ForwardingKeys::stated(&settings.forwarding)),
        ("metrics", MetricsKeys::stated(&settings.metrics)),
        ("drain", DrainKeys::stated(&settings.drain)),
        ("controller", ControllerKeys::stated(&settings.controller)),
        ("sessions", SessionKeys::stated(&settings.sessions)),
        ("jwt", JwtKeys::stated(&settings.jwt)),
        ("locality", LocalityKeys::stated(&settings.locality)),
    ];
    let below = |(block, keys): (&str, Vec<(String, Option<String>)>)| {
        keys.into_iter().map(|(key, text)| (format!("{block}.{key}"), text)).collect::<Vec<_>>()
    };
    let mut all: BTreeMap<_, _> = blocks.into_iter().flat_map(below).collect();
    all.insert("accessLog".to_owned(), settings.access_log.stated());
    all.insert("admin".to_owned(), settings.admin.stated());
    all.insert("debugAllow".to_owned(), settings.debug_allow.stated());
    all.insert("debugHosts".to_owned(), settings.debug_hosts.stated());
    all.insert("workers".to_owned(), settings.workers.stated());
    all
}

/// What the YAML library says about a place in a text, in words that need no knowledge of the library.
fn plain_message(message: &str, text: &str, line: u64, column: u64) -> String {
    // The place is told apart, and there is no option to set.
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
    let at = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
    match message {
        "invalid u64" | "invalid u32" | "invalid usize" => {
            let rest: String = text.lines().nth(at(line)).unwrap_or_default().chars().skip(at(column)).collect();
            let found = rest.split([',', '}', '#']).next().unwrap_or_default().trim_end();
            format!("found {found}, expected a whole number such as 4096")
        }
        "expected mapping start" => "expected keys with values, such as `limits: {body: 1048576}`".to_owned(),
        other => other.to_owned(),
    }
}

/// Gives the closures of `block!` their type.
fn apply<K, V>(value: K, convert: fn(K) -> V) -> V {
    convert(value)
}

block! {
    DeadlineKeys for super::Deadlines {
        /// Longest time from the accept of a connection to its first byte.
        first_byte: DurationText => |text| text.0;
        /// Longest time from the accept of a connection to the end of its PROXY header, where a listener takes one.
        proxy_header: DurationText => |text| text.0;
        /// Longest time from the accept of a connection, or from its PROXY header, to the end of its TLS handshake.
        tls_handshake: DurationText => |text| text.0;
        /// Longest time from the first byte of a request to its complete head.
        head: DurationText => |text| text.0;
        /// How long a client's connection may stay without a request.
        idle: DurationText => |text| text.0;
        /// The window over which the mean rate of a body (`limits.bodyRate`) is judged.
        body_rate_window: DurationText => |text| text.0;
        /// How long a client may take no byte of a response.
        write_stall: DurationText => |text| text.0;
        /// Longest time of one attempt to connect to an endpoint; `timeouts.connect` of a rule replaces it.
        connect: DurationText => |text| text.0;
        /// Longest time from the last byte of a request to the head of the answer; `timeouts` of a rule replace it.
        response_head: DurationText => |text| text.0;
        /// How long an idle connection to an endpoint is kept.
        upstream_idle: DurationText => |text| text.0;
        /// How long what a client still sends is dropped behind an error answer.
        linger: DurationText => |text| text.0;
        /// No byte on a connection, of a client or an endpoint, until TCP asks whether the other side is still there.
        tcp_keepalive: DurationText => |text| text.0;
        /// Bytes without an acknowledgement, or a window that stays shut, until TCP gives a connection up.
        tcp_user_timeout: DurationText => |text| text.0;
        /// Longest time from the accept of an admin connection to the complete head of its request.
        admin: DurationText => |text| text.0;
        /// Longest time from the accept of an admin connection to the last byte of its answer.
        admin_connection: DurationText => |text| text.0;
    }
}

block! {
    LimitKeys for super::Limits {
        /// Most bytes of a request line.
        request_line: usize => |size| size;
        /// Most bytes of one field line.
        field: usize => |size| size;
        /// Most bytes of all field lines of a head.
        fields_total: usize => |size| size;
        /// Most fields of a head.
        field_count: usize => |size| size;
        /// Most bytes of a request body; without it there is no limit.
        body: u64 => Some;
        /// Most bytes of a chunk's size line, extensions included.
        chunk_line: usize => |size| size;
        /// Most bytes of all chunk extensions of a body.
        chunk_extensions: usize => |size| size;
        /// Most bytes of all trailer lines of a body.
        trailers_total: usize => |size| size;
        /// Most trailer fields of a body.
        trailer_count: usize => |size| size;
        /// Most bytes that are held behind a WebSocket handshake until it is answered.
        upgrade_held: usize => |size| size;
        /// Most bytes of the head of an endpoint's answer.
        response_head: usize => |size| size;
        /// Most interim answers (1xx) of an endpoint to one request.
        interim_responses: u32 => |count| count;
        /// Most bytes of an unread request body that are dropped to keep a connection open.
        unread_body: usize => |size| size;
        /// Most bytes of request bodies that are kept to be sent again (`retry`), of all requests together.
        retry_bodies: usize => |size| size;
        /// Most bytes of request bodies that wait to be sent to mirrors (`RequestMirror`), of all copies together; of one copy
        /// at most 1 MiB.
        mirror_bodies: usize => |size| size;
        /// Most copies of requests that are on their way to mirrors at the same time; beyond that requests are not copied.
        mirrors: usize => |count| count;
        /// Most clients that all `RateLimit` filters with keys remember together, each in 16 bytes; rounded up to a power of two.
        rate_limit_cells: usize => |count| count;
        /// Most bytes of memory of all compressors (`Compression`) together, about 450 KiB for each gzip stream; beyond it answers
        /// are not compressed.
        compressor_memory: usize => |size| size;
        /// Most bytes of the answers that requests share (`Coalesce`) together, and of what tells these requests apart; beyond it
        /// each has a call of its own.
        coalesce_bytes: usize => |size| size;
        /// Most passwords (`BasicAuth`) that are checked at the same time; 64 more wait, and 4 of each client. Without it,
        /// one for each four workers.
        password_checks: usize => Some;
        /// Least mean rate of a body in bytes per second; 0 switches it off.
        body_rate: u64 => |rate| rate;
        /// Most concurrent streams of a client's HTTP/2 connection.
        http2_streams: u32 => |count| count;
        /// Most TLS handshakes that are under way at the same time; more wait, and their deadline goes on.
        tls_handshakes: usize => |count| count;
        /// Most idle connections that are kept per endpoint and worker.
        upstream_idle_per_endpoint: usize => |count| count;
        /// Most client connections that are served at the same time: beyond it, those that have been idle longest are closed, and
        /// new ones wait while none is idle. Without it, file descriptors are the limit.
        connections: usize => Some;
        /// Most connections of one client address: beyond it, its longest idle one is closed, and new ones are while none is
        /// idle. Peers in `trustedForwarders` do not count. Without it there is no limit.
        connections_per_address: usize => Some;
        /// Bytes of memory that the process may hold. Above 85 % of it new clients wait, idle connections are closed and, at last,
        /// requests are refused. Without it, the limit of the cgroup counts; 0 switches it off.
        memory: u64 => Some;
        /// Most admin connections that wait for their request; as many more may wait for their answer.
        admin_connections: usize => |count| count;
    }
}

block! {
    ForwardingKeys for super::Forwarding {
        /// Requests of any method are sent again when a reused connection fails before a byte of the answer.
        retry_non_idempotent_on_idle_close: bool => |on| on;
        /// `//` in a path becomes `/`.
        merge_slashes: bool => |on| on;
        /// Answers that the gateway makes itself carry `x-tidegate-reason`.
        reason_header: bool => |on| on;
        /// The certificate that is shown to pods that ask for one, where a BackendTLSPolicy asks for TLS.
        client_certificate: SecretName => |secret| Some((secret.namespace, secret.name));
    }
}

block! {
    MetricsKeys for super::MetricsSettings {
        /// Most time series by rule before they fold to routes, and those to `_overflow`.
        max_series: usize => |count| count;
    }
}

block! {
    DrainKeys for super::DrainSettings {
        /// How long the process still accepts connections after it has stopped being ready. The controller's default is
        /// 5s. A sidecar waits for it, 5s by default, before it asks clients to leave (`drain in`).
        delay: DurationText => |text| text.0;
        /// How long requests and WebSockets may take to end after that. A sidecar's default is 5s.
        timeout: DurationText => |text| text.0;
    }
}

block! {
    ControllerKeys for super::Controller {
        /// The `controllerName` of status entries.
        controller_name: String => |name| name;
        /// Only routes with this `gatewayClassName` are served.
        gateway_class_name: String => |name| name;
        /// To whom a hostname belongs: to every route that asks for it (`Shared`), or to the namespace of the oldest one,
        /// so that others have it only by delegation (`Namespace`).
        hostname_ownership: OwnershipText => OwnershipText::ownership;
    }
}

block! {
    LocalityKeys for super::Locality {
        /// Name of the zone that the process is in; the environment variable NODE_ZONE says it, too.
        zone: String => Some;
        /// Name of the node that the process is on; the environment variable NODE_NAME says it, too.
        node: String => Some;
    }
}

block! {
    SessionKeys for super::Sessions {
        /// A file with the key of session values, at least 16 bytes, the same for all replicas; read once at start. Without it a
        /// fixed key is used: then values for endpoints without a pod uid can be guessed.
        key_file: String => |path| Some(path.into());
    }
}

block! {
    JwtKeys for super::Jwt {
        /// A file with certificates in PEM of authorities that are trusted when key sets are fetched (`jwks.uri`), beside those of
        /// the system; read once at start.
        ca_file: String => |path| Some(path.into());
        /// The access log names the subject (`sub`) of a request's token as `user`.
        log_subject: bool => |on| on;
    }
}

impl SettingsFile {
    /// Reads and parses a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is not YAML, has a duplicate or unknown key or a value of the wrong type.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a file; the path is for messages. A text without content changes nothing.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(text: &str, path: &Path) -> Result<Self, FileError> {
        let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
        let parsed: Result<Option<Self>, _> = serde_saphyr::from_str_with_options(text, options);
        parsed.map(Option::unwrap_or_default).map_err(|error| {
            let (line, column) = error.location().map_or((0, 0), |location| (location.line(), location.column()));
            let message = plain_message(&error.to_string(), text, line, column);
            FileError::Invalid { path: path.to_owned(), line, column, message }
        })
    }

    /// Puts everything that the file says over the settings.
    ///
    /// # Errors
    ///
    /// When it asks for something that is not supported yet.
    pub fn overlay(self, path: &Path, settings: &mut Settings) -> Result<(), FileError> {
        if let Some(listeners) = self.listeners {
            settings.listeners = listeners
                .into_iter()
                .map(|(name, keys)| {
                    let listener = keys.listener().map_err(|(field, what)| FileError::NotSupported {
                        path: path.to_owned(),
                        field: format!("listeners.{name}.{field}"),
                        what,
                    })?;
                    Ok((name, listener))
                })
                .collect::<Result<_, FileError>>()?;
        }
        self.deadlines.overlay(&mut settings.deadlines);
        self.limits.overlay(&mut settings.limits);
        self.forwarding.overlay(&mut settings.forwarding);
        self.metrics.overlay(&mut settings.metrics);
        self.drain.overlay(&mut settings.drain);
        self.controller.overlay(&mut settings.controller);
        self.sessions.overlay(&mut settings.sessions);
        self.jwt.overlay(&mut settings.jwt);
        self.locality.overlay(&mut settings.locality);
        if let Some(AccessLogText(access_log)) = self.access_log {
            settings.access_log = access_log;
        }
        if let Some(AddressText(address)) = self.admin {
            settings.admin = address;
        }
        if let Some(networks) = self.debug_allow {
            settings.debug_allow = networks.into_iter().map(|network| network.0).collect();
        }
        if let Some(hosts) = self.debug_hosts {
            settings.debug_hosts = hosts;
        }
        if let Some(workers) = self.workers {
            settings.workers = workers;
        }
        Ok(())
    }
}

impl ListenerKeys {
    fn listener(self) -> Result<Listener, (&'static str, &'static str)> {
        let default_certificate = self.default_certificate.map(|secret| (secret.namespace, secret.name));
        let tls = match self.protocol {
            ProtocolName::Https => Some(ListenerTls { default_certificate }),
            ProtocolName::Http if default_certificate.is_some() => {
                return Err(("defaultCertificate", "a certificate on a listener with protocol HTTP"));
            }
            ProtocolName::Http => None,
        };
        let networks = |texts: Vec<NetworkText>| texts.into_iter().map(|network| network.0).collect();
        Ok(Listener {
            address: self.address.0,
            tls,
            http2_prior_knowledge: self.http2_prior_knowledge,
            proxy_protocol: ProxyProtocol {
                mode: self.proxy_protocol.mode,
                trusted: networks(self.proxy_protocol.trusted),
            },
            mode: ListenerMode::Gateway,
            trusted_forwarders: networks(self.trusted_forwarders),
            health_path: self.health_path,
            allowed_namespaces: self.allowed_namespaces,
        })
    }
}

fn yes() -> bool {
    true
}

/// The JSON schema of the file.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(SettingsFile).to_value()
}

/// Declares a newtype that is written as a string.
macro_rules! text {
    ($($(#[$meta:meta])* $name:ident($kind:ty) = $parse:path, $schema:tt;)+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug)]
            struct $name($kind);

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = String::deserialize(deserializer)?;
                    $parse(&text).map(Self).map_err(D::Error::custom)
                }
            }

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )+
    };
}

text! {
    /// A duration such as `10s`.
    DurationText(Duration) = parse_duration, { "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" };
    /// Address and port.
    AddressText(SocketAddr) = parse_address, { "type": "string", "pattern": ":[0-9]{1,5}$" };
    /// A network or one address.
    NetworkText(IpNet) = parse_network, { "type": "string", "minLength": 2 };
}

/// `off`, `stdout` or a path.
#[derive(Clone, Debug)]
struct AccessLogText(AccessLog);

/// To whom a hostname belongs.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
enum OwnershipText {
    Shared,
    Namespace,
}

impl OwnershipText {
    const fn ownership(self) -> HostnameOwnership {
        match self {
            Self::Shared => HostnameOwnership::Shared,
            Self::Namespace => HostnameOwnership::Namespace,
        }
    }
}

/// Reads a word that YAML 1.1 may have made a boolean of.
struct Word;

impl Visitor<'_> for Word {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(if value { "on" } else { "off" }.to_owned())
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

impl<'de> Deserialize<'de> for AccessLogText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Word)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for AccessLogText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AccessLogText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "const": false }] })
    }
}

// `off` is a boolean in YAML 1.1, as kubectl and helm read it.
impl<'de> Deserialize<'de> for ProxyProtocolMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(Word)?.as_str() {
            "off" => Ok(Self::Off),
            "optional" => Ok(Self::Optional),
            "required" => Ok(Self::Required),
            other => Err(D::Error::unknown_variant(other, &["off", "optional", "required"])),
        }
    }
}

impl JsonSchema for ProxyProtocolMode {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProxyProtocolMode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["off", "optional", "required", false] })
    }
}

#[cfg(test)]
mod tests;
