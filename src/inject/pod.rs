//! A sidecar put into a pod, and taken out again.
//!
//! A pod is a value with `metadata` and `spec`, as Pods and templates have them. What taking out cannot see from the pod
//! itself stands in one annotation, so that it gives back an equal pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::asked::{Asked, PREFIX, Wishes};
use super::change::is_empty;
use super::parts::{
    ACTIONS, ADMIN_PORT, CACHE, CONTAINER, HANDLERS, SYSCTL, TOKEN, container, listening_port, moved_name, volumes,
};
use super::problem::Problem;
use crate::sidecar::flags::{Incoming, Outgoing, service_names};

/// What is the same for all pods of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    /// The namespace of the pod.
    pub(super) namespace: &'a str,
    /// The end of the long names of Services.
    pub(super) cluster_domain: &'a str,
}

/// Collections to which something is added, outer ones first.
const LISTS: &[&[&str]] = &[
    &["spec", "initContainers"],
    &["spec", "hostAliases"],
    &["spec", "volumes"],
    &["spec", "securityContext", "sysctls"],
];
const MAPS: &[&[&str]] = &[&["metadata"], &["metadata", "annotations"], &["spec", "securityContext"]];

/// What taking out the sidecar cannot see from the pod.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Collections that were written without content, by path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    empty: BTreeMap<String, Value>,
    /// Names of ports in probes and hooks, which are numbers now, by container and path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ports: BTreeMap<String, String>,
    /// The quotes around those of them that were written in some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    quotes: BTreeMap<String, char>,
    /// The pod has the sysctl by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    sysctl: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A port of the application that gets a sidecar in front of it.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// Positions of the container and of its port.
    container: usize,
    port: usize,
    /// The name that the sidecar takes, and the flag that it becomes.
    pub(super) flag: Incoming,
}

/// What the annotations of a pod ask for.
pub(super) fn wishes(pod: &Value) -> Result<Wishes, Vec<Problem>> {
    Wishes::of_annotations(pod.pointer("/metadata/annotations").and_then(Value::as_object))
}

/// Whether a sidecar was put into a pod.
fn is_injected(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|all| all.get(annotation("injected")).is_some())
        && elements(&pod["spec"], "initContainers").iter().any(is_ours)
}

/// Finds the ports that are asked for, and all that speaks against a sidecar in this pod.
pub(super) fn examine(pod: &Value, asked: &Asked) -> Result<Vec<Port>, Vec<Problem>> {
    let mut problems = wrong_types(pod);
    if !problems.is_empty() {
        return Err(problems);
    }
    let spec = &pod["spec"];
    if spec["hostNetwork"] == json!(true) {
        let problem = Problem::error("spec.hostNetwork", "HostNetwork", "true", "a network of the pod's own");
        problems.push(problem.so("the sidecar's ports and addresses would be those of the node"));
    }
    let ports = find_ports(spec, asked, &mut problems);
    check_names(spec, asked, &ports, &mut problems);
    if problems.is_empty() { Ok(ports) } else { Err(problems) }
}

/// Fields that an API server would refuse, as far as they are touched.
fn wrong_types(pod: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut expect = |path: String, found: &Value, is_right: bool, expected: &str| {
        if !is_right {
            problems.push(Problem::error(path, "UnsupportedValue", &found.to_string(), expected));
        }
    };
    for path in MAPS {
        let found = get(pod, path);
        expect(path.join("."), found, found.is_null() || found.is_object(), "an object");
    }
    for path in LISTS {
        let found = get(pod, path);
        let is_list = found.as_array().is_some_and(|elements| elements.iter().all(Value::is_object));
        expect(path.join("."), found, found.is_null() || is_list, "a list of objects");
    }
    let containers = &pod["spec"]["containers"];
    let is_list = containers.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_object));
    expect("spec.containers".to_owned(), containers, is_list, "a list of containers");
    problems
}

/// Whether a port of a container or of a Service is one of TCP.
pub(super) fn is_tcp(port: &Value) -> bool {
    port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP")
}

fn find_ports(spec: &Value, asked: &Asked, problems: &mut Vec<Problem>) -> Vec<Port> {
    let mut found: Vec<Port> = Vec::new();
    for wanted in &asked.incoming {
        let named: Vec<(usize, usize, &Value)> = ports(spec).filter(|(.., port)| port["name"] == wanted.name).collect();
        let refused = |found: &str, expected: String| {
            Problem::error(asked.incoming_place.clone(), "PortNotFound", found, expected)
        };
        let (container, port, number) = match named.as_slice() {
            [(.., port)] if !is_tcp(port) => {
                let protocol = port["protocol"].as_str().unwrap_or_default();
                let found = format!("{} of {protocol}", wanted.name);
                problems.push(Problem::error(asked.incoming_place.clone(), "UdpPort", &found, "a port of TCP"));
                continue;
            }
            [(container, port, value)] => {
                let number = value["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
                let Some(number) = number.filter(|number| *number != 0) else {
                    let found = format!("{} with containerPort {}", wanted.name, value["containerPort"]);
                    problems.push(refused(&found, "a number from 1 to 65535".to_owned()));
                    continue;
                };
                (*container, *port, number)
            }
            [] => {
                let expected = format!("the name of a container's port: one of {}", port_names(spec));
                problems.push(refused(&wanted.name, expected));
                continue;
            }
            several => {
                problems.push(refused(&format!("{} at {} ports", wanted.name, several.len()), "one port".to_owned()));
                continue;
            }
        };
        if let Some(flag) = &wanted.flag
            && flag.app_port != number
        {
            problems.push(refused(&wanted.text, format!("{}:{number}, as the container has it", wanted.name)));
            continue;
        }
        let address = wanted.flag.as_ref().and_then(|flag| flag.address);
        found.push(Port { container, port, flag: Incoming { name: wanted.name.clone(), app_port: number, address } });
    }
    found
}

/// Names and numbers that the sidecar needs must be free.
fn check_names(spec: &Value, asked: &Asked, found: &[Port], problems: &mut Vec<Problem>) {
    for list in ["containers", "initContainers"] {
        for (index, _) in elements(spec, list).iter().enumerate().filter(|(_, container)| is_ours(container)) {
            let problem = Problem::error(format!("spec.{list}[{index}].name"), "NameTaken", CONTAINER, "another name");
            problems.push(problem.so("the sidecar's container has this name"));
        }
    }
    for (index, volume) in elements(spec, "volumes").iter().enumerate() {
        if let Some(name) = volume["name"].as_str().filter(|name| [TOKEN, CACHE].contains(name)) {
            let problem = Problem::error(format!("spec.volumes[{index}].name"), "NameTaken", name, "another name");
            problems.push(problem.so("a volume of the sidecar has this name"));
        }
    }
    for port in found {
        let moved = moved_name(&port.flag.name);
        let others = ports(spec).any(|(container, _, other)| container == port.container && other["name"] == moved);
        let twice = found.iter().filter(|other| moved_name(&other.flag.name) == moved).count() > 1;
        if others || twice {
            let place = format!("spec.containers[{}].ports[{}].name", port.container, port.port);
            let problem = Problem::error(place, "NameTaken", &moved, "a name that is free when the port's own moves");
            problems.push(problem.so("name the port so that its first 11 characters are its own"));
        }
    }
    let listening = found.iter().enumerate().map(|(index, port)| listening_port(&port.flag, index));
    let mut taken: Vec<u16> = Vec::new();
    let proxy = asked.proxy.iter().map(|address| address.0.port());
    for number in std::iter::once(ADMIN_PORT).chain(proxy).chain(listening) {
        let at = ports(spec).find(|(.., port)| is_tcp(port) && port["containerPort"] == number);
        if let Some((container, port, _)) = at {
            let place = format!("spec.containers[{container}].ports[{port}].containerPort");
            let problem = Problem::error(place, "PortTaken", &number.to_string(), "another number");
            problems.push(problem.so("the sidecar listens there"));
        }
        if taken.contains(&number) {
            let found = format!("{number} twice");
            problems.push(Problem::error(
                asked.incoming_place.clone(),
                "PortTaken",
                &found,
                "a port for each listener",
            ));
        }
        taken.push(number);
    }
}

/// Names of Services that the pod already has an address for.
pub(super) fn check_aliases(pod: &Value, asked: &Asked, surroundings: Surroundings<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, alias) in elements(&pod["spec"], "hostAliases").iter().enumerate() {
        let path = format!("spec.hostAliases[{index}]");
        for out in &asked.out {
            let own = out_names(out, surroundings);
            let taken = elements(alias, "hostnames")
                .iter()
                .filter_map(Value::as_str)
                .find(|name| own.iter().any(|one| one == name));
            let is_address = alias["ip"].as_str().and_then(|ip| ip.parse().ok()) == Some(out.address);
            if let Some(name) = taken {
                let problem =
                    Problem::error(format!("{path}.hostnames"), "AliasTaken", name, "names of no called Service");
                problems.push(problem.so(format!("{} is to be called by this name", out.service)));
            } else if is_address {
                let found = out.address.to_string();
                let problem = Problem::error(format!("{path}.ip"), "AliasTaken", &found, "another address");
                problems.push(problem.so(format!("{} is to be called at it", out.service)));
            }
        }
    }
    problems
}

/// Ports of probes and hooks of a pod's containers: how the record names each, its path below the pod, and what is there.
fn handler_ports(pod: &Value) -> impl Iterator<Item = (String, String, &Value)> {
    let containers = elements(&pod["spec"], "containers").iter().enumerate();
    containers.flat_map(|(index, container)| {
        let name = container["name"].as_str().unwrap_or_default();
        let places = HANDLERS.iter().flat_map(|handler| ACTIONS.iter().map(|action| [*handler, &[*action]].concat()));
        places.filter_map(move |place| {
            let port = container.pointer(&format!("/{}/port", place.join("/")))?;
            let place = place.join(".");
            Some((format!("{name}.{place}"), format!("spec.containers[{index}].{place}.port"), port))
        })
    })
}

/// The quotes around names of ports in the probes and hooks of a pod, as the record names these: those that stand in its
/// text, which `quote` tells by the path below the pod, and those that an injection has taken out of it.
pub(super) fn port_quotes(pod: &Value, quote: impl Fn(&str) -> Option<char>) -> BTreeMap<String, char> {
    let mut quotes = record(pod).quotes;
    let named = handler_ports(pod).filter(|(.., port)| port.is_string());
    quotes.extend(named.filter_map(|(key, path, _)| Some((key, quote(&path)?))));
    quotes
}

/// The quotes that are to stand around names of ports when an injected pod gets these back, by their path below the pod.
pub(super) fn taken_quotes(pod: &Value) -> Vec<(String, char)> {
    let quotes = record(pod).quotes;
    handler_ports(pod).filter_map(|(key, path, _)| Some((path, *quotes.get(&key)?))).collect()
}

/// What an injection has left in a pod for its way back.
fn record(pod: &Value) -> Record {
    let annotation = pod["metadata"]["annotations"][annotation("restore")].as_str().filter(|_| is_injected(pod));
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Puts a sidecar into a pod that was examined. `quotes` are those of [`port_quotes`].
pub(super) fn inject(
    pod: &mut Value,
    asked: &Asked,
    ports: &[Port],
    mut quotes: BTreeMap<String, char>,
    surroundings: Surroundings<'_>,
) {
    let sysctls = elements(&pod["spec"]["securityContext"], "sysctls");
    let has_sysctl = sysctls.iter().any(|one| one["name"] == SYSCTL);
    let mut record = Record { empty: empty_collections(pod), sysctl: has_sysctl, ..Record::default() };
    let spec = &mut pod["spec"];
    for port in ports {
        let container = &mut spec["containers"][port.container];
        container["ports"][port.port]["name"] = moved_name(&port.flag.name).into();
        number_handlers(container, &port.flag, &mut record);
    }
    quotes.retain(|key, _| record.ports.contains_key(key));
    record.quotes = quotes;
    let flags: Vec<Incoming> = ports.iter().map(|port| port.flag.clone()).collect();
    list(pod, LISTS[0]).insert(0, container(asked, &flags, surroundings.cluster_domain));
    if !asked.out.is_empty() {
        let aliases = asked.out.iter().map(|out| alias(out, surroundings));
        list(pod, LISTS[1]).extend(aliases);
        if asked.low_ports && !record.sysctl {
            list(pod, LISTS[3]).push(json!({"name": SYSCTL, "value": "0"}));
        }
    }
    list(pod, LISTS[2]).extend(volumes());
    let annotations = map(pod, MAPS[1]);
    annotations.insert(annotation("injected"), env!("CARGO_PKG_VERSION").into());
    let record = serde_json::to_string(&record).expect("texts and values");
    if record != "{}" {
        annotations.insert(annotation("restore"), record.into());
    }
}

/// Takes the sidecar out of a pod, if there is one.
pub(super) fn restore(pod: &mut Value) {
    if !is_injected(pod) || !wrong_types(pod).is_empty() {
        return;
    }
    let record = record(pod);
    let annotations = map(pod, MAPS[1]);
    ["injected", "restore"].iter().for_each(|key| drop(annotations.remove(&annotation(key))));
    let containers = list(pod, LISTS[0]);
    let ours = containers.iter().position(is_ours).map(|index| containers.remove(index)).unwrap_or_default();
    let flags = |flag: &str| -> Vec<String> {
        let args = elements(&ours, "args").iter().filter_map(Value::as_str);
        args.filter_map(|arg| arg.strip_prefix(flag).map(str::to_owned)).collect()
    };
    let incoming: Vec<Incoming> = flags("--in=").iter().filter_map(|text| text.parse().ok()).collect();
    let out: Vec<Outgoing> = flags("--out=").iter().filter_map(|text| text.parse().ok()).collect();
    let is_out = |alias: &Value| {
        let ip = alias["ip"].as_str().and_then(|ip| ip.parse().ok());
        out.iter().any(|out| Some(out.address) == ip)
    };
    list(pod, LISTS[1]).retain(|alias| !is_out(alias));
    list(pod, LISTS[2]).retain(|volume| volume["name"] != TOKEN && volume["name"] != CACHE);
    if !record.sysctl {
        list(pod, LISTS[3]).retain(|one| *one != json!({"name": SYSCTL, "value": "0"}));
    }
    for container in pod["spec"]["containers"].as_array_mut().into_iter().flatten() {
        name_handlers(container, &record);
        for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let flag = incoming
                .iter()
                .find(|flag| port["name"] == moved_name(&flag.name) && port["containerPort"] == flag.app_port);
            if let Some(flag) = flag {
                port["name"] = flag.name.clone().into();
            }
        }
    }
    // Inner ones first: an outer one may be empty without them.
    for path in LISTS.iter().chain(MAPS.iter().rev()) {
        drop_if_empty(pod, path, &record);
    }
}

fn alias(out: &Outgoing, surroundings: Surroundings<'_>) -> Value {
    json!({"ip": out.address.to_string(), "hostnames": out_names(out, surroundings)})
}

fn out_names(out: &Outgoing, surroundings: Surroundings<'_>) -> Vec<String> {
    service_names(&out.service, surroundings.namespace, surroundings.cluster_domain)
}

/// Writes the number of a port that moves into the probes and hooks of its container that name it.
fn number_handlers(container: &mut Value, flag: &Incoming, record: &mut Record) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    for_each_handler_port(container, |place, port| {
        if *port == flag.name {
            record.ports.insert(format!("{name}.{place}"), flag.name.clone());
            *port = flag.app_port.into();
        }
    });
}

fn name_handlers(container: &mut Value, record: &Record) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    for_each_handler_port(container, |place, port| {
        if let Some(before) = record.ports.get(&format!("{name}.{place}")) {
            *port = before.clone().into();
        }
    });
}

/// Calls `change` with the ports of all probes and hooks of a container, and their places in it.
fn for_each_handler_port(container: &mut Value, mut change: impl FnMut(&str, &mut Value)) {
    for handler in HANDLERS {
        for action in ACTIONS {
            let path = [*handler, &[*action]].concat();
            if let Some(port) = container.pointer_mut(&format!("/{}/port", path.join("/"))) {
                change(&path.join("."), port);
            }
        }
    }
}

/// All ports of the main containers with their positions.
fn ports(spec: &Value) -> impl Iterator<Item = (usize, usize, &Value)> {
    elements(spec, "containers").iter().enumerate().flat_map(|(container, value)| {
        elements(value, "ports").iter().enumerate().map(move |(port, value)| (container, port, value))
    })
}

fn port_names(spec: &Value) -> String {
    let names: Vec<&str> = ports(spec).filter_map(|(.., port)| port["name"].as_str()).collect();
    if names.is_empty() { "none that has one".to_owned() } else { names.join(", ") }
}

fn is_ours(container: &Value) -> bool {
    container["name"] == CONTAINER
}

/// The full name of an annotation.
pub(super) fn annotation(key: &str) -> String {
    format!("{PREFIX}{key}")
}

/// The elements of a list; none where there is no list.
pub(super) fn elements<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn get<'a>(pod: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(pod, |value, field| &value[*field])
}

/// The place of a collection, made on the way.
fn place<'a>(pod: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(pod, |value, field| {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        &mut value[*field]
    })
}

fn list<'a>(pod: &'a mut Value, path: &[&str]) -> &'a mut Vec<Value> {
    let place = place(pod, path);
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    place.as_array_mut().expect("made above")
}

fn map<'a>(pod: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let place = place(pod, path);
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    place.as_object_mut().expect("made above")
}

/// The collections that stand there without content, as they were written.
fn empty_collections(pod: &Value) -> BTreeMap<String, Value> {
    let written = |path: &&&[&str]| {
        let (last, parents) = path.split_last().expect("no path is empty");
        get(pod, parents).get(*last).is_some_and(is_empty)
    };
    LISTS.iter().chain(MAPS).filter(written).map(|path| (path.join("."), get(pod, path).clone())).collect()
}

fn drop_if_empty(pod: &mut Value, path: &[&str], record: &Record) {
    let (last, parents) = path.split_last().expect("no path is empty");
    if !is_empty(get(pod, path)) {
        return;
    }
    let parent = place(pod, parents);
    match (record.empty.get(&path.join(".")), parent) {
        (Some(before), parent) => parent[*last] = before.clone(),
        (None, Value::Object(members)) => drop(members.remove(*last)),
        (None, _) => {}
    }
}

/// Below this many seconds a pod ends too soon: the sidecar's drain takes ten, and its application needs a moment, too.
const DRAIN_SECONDS: u64 = 15;

/// Advice that does not stop the injection.
pub(super) fn warnings(pod: &Value, asked: &Asked) -> Vec<Problem> {
    [short_grace_period(pod, asked), no_proxy_variable(pod, asked)].into_iter().flatten().collect()
}

fn short_grace_period(pod: &Value, asked: &Asked) -> Option<Problem> {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    let grace = grace.filter(|grace| *grace < DRAIN_SECONDS && !asked.incoming.is_empty())?;
    let expected = format!("{DRAIN_SECONDS} at least");
    let path = "spec.terminationGracePeriodSeconds";
    let warning = Problem::error(path, "ShortGracePeriod", &grace.to_string(), expected).into_warning();
    Some(warning.so("requests may be cut off when the pod ends"))
}

/// A forward proxy that no application is told of, as far as the pod itself says.
fn no_proxy_variable(pod: &Value, asked: &Asked) -> Option<Problem> {
    let address = asked.proxy?.0;
    let containers = elements(&pod["spec"], "containers");
    let is_proxy =
        |variable: &Value| variable["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("HTTP_PROXY"));
    let is_told = containers
        .iter()
        .any(|container| elements(container, "env").iter().any(is_proxy) || !elements(container, "envFrom").is_empty());
    let expected = format!("HTTP_PROXY with http://{address} for those that call by the proxy");
    let warning = Problem::error("spec.containers", "NoProxyVariable", "none with HTTP_PROXY in its env", expected);
    let effect = "an application that does not learn of the proxy otherwise calls past it";
    (!is_told).then(|| warning.into_warning().so(effect))
}
