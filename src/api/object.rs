//! Any manifest that is read: dispatch by `apiVersion` and `kind`, lists taken apart, and what Kubernetes itself would
//! ask of Services and endpoints.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::gateway_route::{self, GatewayRoute};
use super::reference_grant::ReferenceGrant;
use super::validate::{SchemaKind, Validator, Violation};

/// Namespace of manifests that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// An object that the compiler reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A route.
    GatewayRoute(Box<GatewayRoute>),
    /// A Service.
    Service(Box<Service>),
    /// Endpoints of a Service.
    EndpointSlice(Box<EndpointSlice>),
    /// Endpoints of a Service in the older form.
    Endpoints(Box<Endpoints>),
    /// A Namespace, for its labels.
    Namespace(Box<Namespace>),
    /// Consent to references.
    ReferenceGrant(Box<ReferenceGrant>),
}

/// The kinds that are read, with their versions.
const KINDS: &[(&str, &str, SchemaKind)] = &[
    (gateway_route::API_VERSION, "GatewayRoute", SchemaKind::GatewayRoute),
    ("v1", "Service", SchemaKind::Service),
    ("discovery.k8s.io/v1", "EndpointSlice", SchemaKind::EndpointSlice),
    ("v1", "Endpoints", SchemaKind::Endpoints),
    ("v1", "Namespace", SchemaKind::Namespace),
    (ReferenceGrant::API_VERSIONS[0], "ReferenceGrant", SchemaKind::ReferenceGrant),
    (ReferenceGrant::API_VERSIONS[1], "ReferenceGrant", SchemaKind::ReferenceGrant),
];

/// Who an object is, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Its kind.
    pub kind: String,
    /// Its namespace; [`DEFAULT_NAMESPACE`] when it names none, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Identity {
    /// Reads the identity of a manifest, valid or not; `None` without kind or name.
    pub fn of(object: &Value) -> Option<Self> {
        let kind = object["kind"].as_str()?;
        let name = object["metadata"]["name"].as_str()?;
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if kind == "Namespace" => "",
            Some(namespace) => namespace,
            None => DEFAULT_NAMESPACE,
        };
        Some(Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// One object of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it stands in the document: empty, or `items[3]` inside a list.
    pub prefix: String,
    /// The object as written.
    pub value: Value,
}

/// Takes lists (`kind: List`, or a list of one kind such as `ServiceList`) apart, at any depth. An empty document has no
/// items.
///
/// # Errors
///
/// When the document or an item of a list is not an object, or a list has no list of items.
pub fn flatten(document: Value) -> Result<Vec<Item>, Vec<Violation>> {
    let mut found = Vec::new();
    let mut refused = Vec::new();
    if !document.is_null() {
        take_apart(document, String::new(), &mut found, &mut refused);
    }
    if refused.is_empty() { Ok(found) } else { Err(refused) }
}

fn take_apart(mut value: Value, prefix: String, found: &mut Vec<Item>, refused: &mut Vec<Violation>) {
    if !value.is_object() {
        let kind = match value {
            Value::Array(_) => "a list",
            Value::String(_) => "a string",
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "a value",
        };
        refused.push(Violation::new(prefix, kind, "an object with apiVersion, kind and metadata"));
        return;
    }
    let kind = value["kind"].as_str().unwrap_or_default();
    let is_list =
        kind.strip_suffix("List").is_some_and(|of| of.is_empty() || KINDS.iter().any(|(_, kind, _)| *kind == of));
    if !is_list {
        found.push(Item { prefix, value });
        return;
    }
    let path = |index: usize| {
        let dot = if prefix.is_empty() { "" } else { "." };
        format!("{prefix}{dot}items[{index}]")
    };
    match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => {
            for (index, item) in items.into_iter().enumerate() {
                take_apart(item, path(index), found, refused);
            }
        }
        Some(Value::Null) | None => {}
        Some(other) => refused.push(Violation::new("items", other.to_string(), "a list").below(&prefix)),
    }
}

impl Object {
    /// Reads a document: one object, or a list of objects. All are good or none is read; a caller that wants the good
    /// ones of a list calls [`flatten`] and [`Object::parse_one`].
    ///
    /// # Errors
    ///
    /// Everything that is wrong with any of them; paths begin with the place in a list, as in `items[3].spec`.
    pub fn parse(validator: &Validator, document: Value) -> Result<Vec<Self>, Vec<Violation>> {
        let (mut objects, mut refused) = (Vec::new(), Vec::new());
        for Item { prefix, value } in flatten(document)? {
            match Self::parse_one(validator, value) {
                Ok(object) => objects.push(object),
                Err(violations) => refused.extend(violations.into_iter().map(|violation| violation.below(&prefix))),
            }
        }
        if refused.is_empty() { Ok(objects) } else { Err(refused) }
    }

    /// Reads one object, with defaults filled in and the namespace [`DEFAULT_NAMESPACE`] if it names none.
    ///
    /// # Errors
    ///
    /// A kind that is not read, and everything that an API server would refuse.
    pub fn parse_one(validator: &Validator, value: Value) -> Result<Self, Vec<Violation>> {
        let kind = kind_of(&value).map_err(|violation| vec![violation])?;
        let mut value = validator.admit(kind, value)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            if kind == SchemaKind::Namespace {
                metadata.remove("namespace");
            } else {
                metadata.entry("namespace").or_insert_with(|| DEFAULT_NAMESPACE.into());
            }
        }
        let object = match kind {
            SchemaKind::GatewayRoute => Self::GatewayRoute(read(value)?),
            SchemaKind::Service => Self::Service(read(value)?),
            SchemaKind::EndpointSlice => Self::EndpointSlice(read(value)?),
            SchemaKind::Endpoints => Self::Endpoints(read(value)?),
            SchemaKind::Namespace => Self::Namespace(read(value)?),
            SchemaKind::ReferenceGrant => Self::ReferenceGrant(read(value)?),
        };
        let violations = match &object {
            Self::Service(service) => check_service(service),
            Self::EndpointSlice(slice) => check_slice(slice),
            Self::Endpoints(endpoints) => check_endpoints(endpoints),
            Self::GatewayRoute(_) | Self::Namespace(_) | Self::ReferenceGrant(_) => Vec::new(),
        };
        if violations.is_empty() { Ok(object) } else { Err(violations) }
    }

    /// The kind, as manifests write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::GatewayRoute(_) => "GatewayRoute",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Endpoints(_) => "Endpoints",
            Self::Namespace(_) => "Namespace",
            Self::ReferenceGrant(_) => "ReferenceGrant",
        }
    }

    /// Name, namespace, labels and the like.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::GatewayRoute(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Endpoints(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
        }
    }

    /// Who it is; two objects with equal identities are the same one.
    pub fn identity(&self) -> Identity {
        let metadata = self.metadata();
        Identity {
            kind: self.kind().to_owned(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

fn kind_of(value: &Value) -> Result<SchemaKind, Violation> {
    let field = |name: &str| match &value[name] {
        Value::String(text) if !text.is_empty() => Ok(text.as_str()),
        Value::String(_) | Value::Null => Err(Violation::new(name, "nothing", "a value (required)")),
        other => Err(Violation::new(name, other.to_string(), "a string")),
    };
    if !value.is_object() {
        return Err(Violation::new("", value.to_string(), "an object with apiVersion, kind and metadata"));
    }
    let (version, kind) = (field("apiVersion")?, field("kind")?);
    if let Some((_, _, schema)) = KINDS.iter().find(|(known, name, _)| (*known, *name) == (version, kind)) {
        return Ok(*schema);
    }
    if version == "v1" && matches!(kind, "Secret" | "ConfigMap") {
        return Err(Violation::new("kind", kind, format!("no {kind}: not in force yet: TLS")));
    }
    let versions: Vec<_> = KINDS.iter().filter(|(_, name, _)| *name == kind).map(|(version, _, _)| *version).collect();
    if !versions.is_empty() {
        return Err(Violation::new("apiVersion", version, versions.join(" or ")));
    }
    let mut known: Vec<_> = KINDS.iter().map(|(version, kind, _)| format!("{kind} ({version})")).collect();
    known.push("List (v1)".to_owned());
    Err(Violation::new("kind", format!("{kind} ({version})"), format!("one of {}", known.join(", "))))
}

fn read<T: DeserializeOwned>(value: Value) -> Result<Box<T>, Vec<Violation>> {
    // The schema has said yes, so this fails only where a type is narrower than its schema.
    serde_json::from_value(value).map(Box::new).map_err(|error| {
        vec![Violation::new("", "a value that cannot be read", format!("an object of its schema ({error})"))]
    })
}

fn check_port(path: String, port: i32, violations: &mut Vec<Violation>) {
    if !(1..=65535).contains(&port) {
        violations.push(Violation::new(path, port.to_string(), "1 to 65535"));
    }
}

fn check_name(path: String, text: Option<&str>, names: &[&str], violations: &mut Vec<Violation>) {
    if let Some(text) = text.filter(|text| !names.contains(text)) {
        violations.push(Violation::new(path, format!("{text:?}"), names.join(" or ")));
    }
}

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

fn check_service(service: &Service) -> Vec<Violation> {
    let mut violations = Vec::new();
    let Some(spec) = &service.spec else { return violations };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    check_name("spec.type".to_owned(), spec.type_.as_deref(), &types, &mut violations);
    check_name(
        "spec.sessionAffinity".to_owned(),
        spec.session_affinity.as_deref(),
        &["None", "ClientIP"],
        &mut violations,
    );
    let ports = spec.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check_port(format!("{path}.port"), port.port, &mut violations);
        check_name(format!("{path}.protocol"), port.protocol.as_deref(), PROTOCOLS, &mut violations);
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            violations.push(Violation::new(format!("{path}.name"), "nothing", "a name, as there are several ports"));
        } else if ports[..index].iter().any(|other| other.name.as_deref().unwrap_or_default() == name) {
            violations.push(Violation::new(format!("{path}.name"), format!("a second {name:?}"), "distinct names"));
        }
    }
    violations
}

/// The API server's bounds for EndpointSlices.
const MOST_ENDPOINTS: usize = 1000;
const MOST_SLICE_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

fn check_slice(slice: &EndpointSlice) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_name("addressType".to_owned(), Some(&slice.address_type), &["IPv4", "IPv6", "FQDN"], &mut violations);
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            check_port(format!("ports[{index}].port"), number, &mut violations);
        }
        check_name(format!("ports[{index}].protocol"), port.protocol.as_deref(), PROTOCOLS, &mut violations);
    }
    let mut at_most = |path: &str, count: usize, most: usize| {
        if count > most {
            violations.push(Violation::new(path, format!("{count} items"), format!("at most {most} items")));
        }
    };
    at_most("ports", slice.ports.as_ref().map_or(0, Vec::len), MOST_SLICE_PORTS);
    at_most("endpoints", slice.endpoints.as_ref().map_or(0, Vec::len), MOST_ENDPOINTS);
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        if !(1..=MOST_ADDRESSES).contains(&endpoint.addresses.len()) {
            violations.push(Violation::new(
                &path,
                format!("{} items", endpoint.addresses.len()),
                format!("1 to {MOST_ADDRESSES} items"),
            ));
        }
        for (position, address) in endpoint.addresses.iter().enumerate() {
            let (good, expected) = match slice.address_type.as_str() {
                "IPv4" => (address.parse::<Ipv4Addr>().is_ok(), "an IPv4 address, as addressType says"),
                "IPv6" => (address.parse::<Ipv6Addr>().is_ok(), "an IPv6 address, as addressType says"),
                _ => (true, ""),
            };
            if !good {
                violations.push(Violation::new(format!("{path}[{position}]"), format!("{address:?}"), expected));
            }
        }
    }
    violations
}

fn check_endpoints(endpoints: &Endpoints) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        for (list, addresses) in lists {
            for (position, address) in addresses.iter().flatten().enumerate() {
                if address.ip.parse::<std::net::IpAddr>().is_err() {
                    violations.push(Violation::new(
                        format!("{path}.{list}[{position}].ip"),
                        format!("{:?}", address.ip),
                        "an IP address",
                    ));
                }
            }
        }
        for (position, port) in subset.ports.iter().flatten().enumerate() {
            check_port(format!("{path}.ports[{position}].port"), port.port, &mut violations);
            let path = format!("{path}.ports[{position}].protocol");
            check_name(path, port.protocol.as_deref(), PROTOCOLS, &mut violations);
        }
    }
    violations
}

#[cfg(test)]
mod tests;
