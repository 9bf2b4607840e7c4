//! What other objects of the same manifests say about a pod that gets a sidecar: Services that lead to it or that it calls,
//! and network policies.

use serde_json::Value;

use super::asked::Asked;
use super::parts::listening_port;
use super::pod::{Port, elements, is_tcp};
use super::problem::Problem;
use crate::kinds::Origin;

/// An object that may concern pods.
#[derive(Debug)]
pub(super) struct Neighbour<'a> {
    pub(super) namespace: &'a str,
    pub(super) object: &'a Value,
    /// Where it begins.
    pub(super) origin: Origin,
}

/// The Services and network policies of all documents.
#[derive(Debug, Default)]
pub(super) struct Neighbours<'a> {
    services: Vec<Neighbour<'a>>,
    policies: Vec<Neighbour<'a>>,
}

impl<'a> Neighbours<'a> {
    /// Adds an object if it is one that may concern pods.
    pub(super) fn add(&mut self, neighbour: Neighbour<'a>) {
        match (neighbour.object["apiVersion"].as_str(), neighbour.object["kind"].as_str()) {
            (Some("v1"), Some("Service")) => self.services.push(neighbour),
            (Some("networking.k8s.io/v1"), Some("NetworkPolicy")) => self.policies.push(neighbour),
            _ => {}
        }
    }

    /// What is wrong between them and a pod of this namespace.
    pub(super) fn problems(&self, namespace: &str, pod: &Value, asked: &Asked, ports: &[Port]) -> Vec<Problem> {
        let labels = &pod["metadata"]["labels"];
        let mut problems = Vec::new();
        for service in &self.services {
            if service.namespace == namespace && selects(&service.object["spec"]["selector"], labels) {
                problems.extend(ports.iter().flat_map(|port| numeric_targets(service, port)));
            }
            let is_called = asked.out.iter().any(|out| {
                service.object["metadata"]["name"] == *out.service.name && service.namespace == &*out.service.namespace
            });
            if is_called {
                problems.extend(ports_without_tcp(service, asked));
            }
        }
        for policy in &self.policies {
            if policy.namespace == namespace
                && selects_all_or(&policy.object["spec"]["podSelector"]["matchLabels"], labels)
            {
                problems.extend(ports.iter().enumerate().flat_map(|(index, port)| closed_ports(policy, port, index)));
            }
        }
        problems
    }
}

fn named(neighbour: &Neighbour<'_>) -> String {
    let Neighbour { namespace, object, origin } = neighbour;
    let (kind, name) =
        (object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or_default());
    format!("{kind} {namespace}/{name} in {}:{}", origin.file.display(), origin.line)
}

/// Ports of a Service that lead to the application by number: a number is the same in all pods, so it cannot move.
fn numeric_targets(service: &Neighbour<'_>, port: &Port) -> Vec<Problem> {
    let number = u64::from(port.flag.app_port);
    let leads_there = |(_, of_service): &(usize, &Value)| match &of_service["targetPort"] {
        Value::Null => of_service["port"] == number,
        target => *target == number,
    };
    let problem = |(index, _): (usize, &Value)| {
        let expected = format!("{} in spec.ports[{index}].targetPort", port.flag.name);
        let found = format!("{number} as the target of {}", named(service));
        Problem::error("", "NumericTargetPort", &found, expected)
            .so("the Service would go past the sidecar: name its target, let all pods roll out, then inject")
    };
    let ports = elements(&service.object["spec"], "ports").iter().enumerate();
    ports.filter(|(_, port)| is_tcp(port)).filter(leads_there).map(problem).collect()
}

/// Ports that a called Service would lose: the address of the sidecar stands for all of them.
fn ports_without_tcp(service: &Neighbour<'_>, asked: &Asked) -> Vec<Problem> {
    let problem = |port: &Value| {
        let (number, protocol) = (&port["port"], port["protocol"].as_str().unwrap_or_default());
        let found = format!("port {number} of {protocol} at {}", named(service));
        Problem::error(asked.out_place.clone(), "UdpPort", &found, "a Service with ports of TCP only")
            .so("its name would lead to the sidecar, which serves TCP: leave this Service out")
    };
    elements(&service.object["spec"], "ports").iter().filter(|port| !is_tcp(port)).map(problem).collect()
}

/// Rules that admit the application's port by number, and so not the sidecar's.
fn closed_ports(policy: &Neighbour<'_>, port: &Port, index: usize) -> Vec<Problem> {
    let number = listening_port(&port.flag, index);
    let rules = elements(&policy.object["spec"], "ingress").iter();
    let admits = |wanted: u16| move |rule: &&Value| elements(rule, "ports").iter().any(|port| port["port"] == wanted);
    let closed = rules.filter(admits(port.flag.app_port)).filter(|rule| !admits(number)(rule));
    let problem = |_: &Value| {
        let found = format!("port {} without {number} in {}", port.flag.app_port, named(policy));
        Problem::error("", "NetworkPolicy", &found, format!("{number} beside it"))
            .into_warning()
            .so("requests come to the sidecar's port first")
    };
    closed.map(problem).collect()
}

/// Whether a selector with at least one label selects.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|wanted| !wanted.is_empty()) && selects_all_or(selector, labels)
}

/// Whether all labels of a selector are there.
fn selects_all_or(selector: &Value, labels: &Value) -> bool {
    selector.as_object().into_iter().flatten().all(|(name, value)| labels[name] == *value)
}
