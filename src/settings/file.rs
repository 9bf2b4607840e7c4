//! The settings file (`--settings`): one YAML document whose keys are the fields of [`Settings`] in camelCase.
//!
//! Everything is optional; what is there replaces the default. Unknown keys are refused, and so is what is not in force
//! yet, by name. [`schema`] is the file's JSON schema.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use super::{AccessLog, Listener, Settings, parse_address, parse_duration, parse_network};

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
    #[error("{}:{line}:{column}: {message}", path.display())]
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
    #[error("{}: {field}: not in force yet: {what}", path.display())]
    NotInForce {
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
    /// `off`, `stdout` or the path of a file.
    access_log: Option<AccessLogText>,
    /// Graceful stop.
    drain: DrainKeys,
    /// The controller's identity.
    controller: ControllerKeys,
    /// Address of the admin server.
    admin: Option<AddressText>,
    /// Networks that may use `/debug/…` beside loopback.
    debug_allow: Option<Vec<NetworkText>>,
    /// Data workers.
    workers: Option<usize>,
}

/// One static listener.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListenerKeys {
    /// Where to listen.
    address: AddressText,
    /// HTTP; HTTPS is not in force yet.
    #[serde(default)]
    protocol: ProtocolName,
    /// Serve HTTP/2 with prior knowledge beside HTTP/1.1.
    #[serde(default)]
    http2_prior_knowledge: bool,
    /// The PROXY protocol; only mode `off` is in force.
    #[serde(default)]
    proxy_protocol: ProxyProtocolKeys,
    /// Networks whose forwarding fields are believed.
    #[serde(default)]
    trusted_forwarders: Vec<NetworkText>,
    /// A path answered by the gateway itself.
    #[serde(default)]
    health_path: Option<String>,
    /// Not in force yet.
    #[serde(default)]
    default_certificate: Option<serde_json::Value>,
    /// Namespaces whose routes may bind; without it all.
    #[serde(default)]
    allowed_namespaces: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
    mode: ProxyProtocolMode,
    trusted: Vec<NetworkText>,
}

/// `off` is a boolean in YAML 1.1, as kubectl and helm read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProxyProtocolMode {
    #[default]
    Off,
    Optional,
    Required,
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
            fn overlay(self, target: &mut $target) {
                $(if let Some(value) = self.$field {
                    target.$field = apply(value, $value);
                })+
            }
        }
    };
}

/// Gives the closures of `block!` their type.
fn apply<K, V>(value: K, convert: fn(K) -> V) -> V {
    convert(value)
}

block! {
    DeadlineKeys for super::Deadlines {
        /// Accept to first byte.
        first_byte: DurationText => |text| text.0;
        /// First byte to complete head.
        head: DurationText => |text| text.0;
        /// Idle keep-alive connection of a client.
        idle: DurationText => |text| text.0;
        /// Window over which the mean body rate is judged.
        body_rate_window: DurationText => |text| text.0;
        /// The client takes no byte of a response.
        write_stall: DurationText => |text| text.0;
        /// One connection attempt to an endpoint.
        connect: DurationText => |text| text.0;
        /// Last request byte to response head.
        response_head: DurationText => |text| text.0;
        /// Idle pooled connection to an endpoint.
        upstream_idle: DurationText => |text| text.0;
        /// Dropping input after an error answer.
        linger: DurationText => |text| text.0;
        /// Head of an admin request.
        admin: DurationText => |text| text.0;
    }
}

block! {
    LimitKeys for super::Limits {
        /// Request line.
        request_line: usize => |size| size;
        /// One field line.
        field: usize => |size| size;
        /// All field lines of a head.
        fields_total: usize => |size| size;
        /// Number of fields of a head.
        field_count: usize => |size| size;
        /// Request body; without it no limit.
        body: u64 => Some;
        /// One line of chunk extensions.
        chunk_line: usize => |size| size;
        /// All chunk extensions of a body.
        chunk_extensions: usize => |size| size;
        /// All trailer lines.
        trailers_total: usize => |size| size;
        /// Number of trailer fields.
        trailer_count: usize => |size| size;
        /// Bytes held behind an upgrade handshake.
        upgrade_held: usize => |size| size;
        /// Response head of an endpoint.
        response_head: usize => |size| size;
        /// Interim responses of an endpoint.
        interim_responses: u32 => |count| count;
        /// Unread request body that is dropped to keep a connection.
        unread_body: usize => |size| size;
        /// Least mean body rate in bytes per second; 0: off.
        body_rate: u64 => |rate| rate;
        /// Concurrent streams of an HTTP/2 connection.
        http2_streams: u32 => |count| count;
        /// Idle connections kept per endpoint and worker.
        upstream_idle_per_endpoint: usize => |count| count;
        /// Concurrent admin connections.
        admin_connections: usize => |count| count;
    }
}

block! {
    ForwardingKeys for super::Forwarding {
        /// Send again any method when a reused connection fails before a response byte.
        retry_non_idempotent_on_idle_close: bool => |on| on;
        /// Make `//` of a path `/`.
        merge_slashes: bool => |on| on;
        /// Send `x-tidegate-reason` with every own answer.
        reason_header: bool => |on| on;
    }
}

block! {
    MetricsKeys for super::MetricsSettings {
        /// Series of requests by rule before they fold to routes.
        max_series: usize => |count| count;
    }
}

block! {
    DrainKeys for super::Drain {
        /// Not ready, still accepting.
        delay: DurationText => |text| text.0;
        /// Requests in flight.
        timeout: DurationText => |text| text.0;
    }
}

block! {
    ControllerKeys for super::Controller {
        /// `controllerName` of status entries.
        controller_name: String => |name| name;
        /// Routes of this class only.
        gateway_class_name: String => |name| name;
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
            let message = error.to_string();
            let message = message.rfind(" at line ").map_or(message.as_str(), |end| &message[..end]).to_owned();
            let (line, column) = error.location().map_or((0, 0), |location| (location.line(), location.column()));
            FileError::Invalid { path: path.to_owned(), line, column, message }
        })
    }

    /// Puts everything that the file says over the settings.
    ///
    /// # Errors
    ///
    /// When it asks for something that is not in force yet.
    pub fn overlay(self, path: &Path, settings: &mut Settings) -> Result<(), FileError> {
        if let Some(listeners) = self.listeners {
            settings.listeners = listeners
                .into_iter()
                .map(|(name, keys)| {
                    let listener = keys.listener().map_err(|(field, what)| FileError::NotInForce {
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
        if let Some(AccessLogText(access_log)) = self.access_log {
            settings.access_log = access_log;
        }
        if let Some(AddressText(address)) = self.admin {
            settings.admin = address;
        }
        if let Some(networks) = self.debug_allow {
            settings.debug_allow = networks.into_iter().map(|network| network.0).collect();
        }
        if let Some(workers) = self.workers {
            settings.workers = workers;
        }
        Ok(())
    }
}

impl ListenerKeys {
    fn listener(self) -> Result<Listener, (&'static str, &'static str)> {
        if self.protocol == ProtocolName::Https {
            return Err(("protocol", "HTTPS"));
        }
        if self.default_certificate.is_some() {
            return Err(("defaultCertificate", "TLS"));
        }
        if self.proxy_protocol.mode != ProxyProtocolMode::Off || !self.proxy_protocol.trusted.is_empty() {
            return Err(("proxyProtocol", "the PROXY protocol"));
        }
        Ok(Listener {
            address: self.address.0,
            http2_prior_knowledge: self.http2_prior_knowledge,
            trusted_forwarders: self.trusted_forwarders.into_iter().map(|network| network.0).collect(),
            health_path: self.health_path,
            allowed_namespaces: self.allowed_namespaces,
        })
    }
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
