//! What is written into a pod, and the tables of places in it that follow a port when its name moves.
//!
//! `inject` and the admission policy of the chart write the same, since both are made from these.

use serde_json::{Value, json};

use super::asked::Asked;
use crate::sidecar::flags::{FIRST_INCOMING_PORT, Incoming};

/// Name of the container.
pub(super) const CONTAINER: &str = "tidegate";

/// Name of the volume with the token of the pod's ServiceAccount.
pub(super) const TOKEN: &str = "tidegate-token";

/// Name of the volume with the objects that were read last.
pub(super) const CACHE: &str = "tidegate-cache";

/// The flag for it.
pub(super) const CACHE_FLAG: &str = "--cache=/var/cache/tidegate";

/// Name of the port for probes and metrics.
pub(super) const ADMIN: &str = "tidegate-admin";

/// Number of the port for probes and metrics.
pub(super) const ADMIN_PORT: u16 = 15090;

/// Lets a process without rights bind the ports that Services have.
pub(super) const SYSCTL: &str = "net.ipv4.ip_unprivileged_port_start";

/// The image where nothing else is said.
pub(super) const IMAGE: &str = concat!("tidegate:", env!("CARGO_PKG_VERSION"));

/// Fields of a container in which an action of [`ACTIONS`] may name a port of it.
pub(super) const HANDLERS: &[&[&str]] = &[
    &["livenessProbe"],
    &["readinessProbe"],
    &["startupProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];

/// Actions of probes and hooks that may name a port.
pub(super) const ACTIONS: &[&str] = &["httpGet", "tcpSocket"];

/// Longest name of a port (RFC 6335 §5.1).
const LONGEST_PORT_NAME: usize = 15;

/// What the name of a port that has moved ends with at the application.
pub(super) const MOVED: &str = "-app";

/// The name that the application's port has when its own has moved to the sidecar.
pub(super) fn moved_name(name: &str) -> String {
    let kept = &name[..name.len().min(LONGEST_PORT_NAME - MOVED.len())];
    format!("{}{MOVED}", kept.trim_end_matches('-'))
}

/// The port on which the sidecar takes requests for the application, by its place among the flags.
pub(super) fn listening_port(incoming: &Incoming, index: usize) -> u16 {
    let default = FIRST_INCOMING_PORT.saturating_add(u16::try_from(index).unwrap_or(u16::MAX));
    incoming.address.map_or(default, |address| address.port())
}

/// Arguments of the container; addresses are as they were written. The namespace comes by a variable.
fn args(asked: &Asked, incoming: &[Incoming], cluster_domain: &str) -> Vec<String> {
    let mut args = vec!["sidecar".to_owned()];
    args.extend(
        asked.out.iter().map(|out| format!("--out={}.{}@{}", out.service.name, out.service.namespace, out.address)),
    );
    args.extend(incoming.iter().zip(&asked.incoming).map(|(one, written)| {
        let address = written.text.split_once('@').map(|(_, address)| format!("@{address}")).unwrap_or_default();
        format!("--in={}:{}{address}", one.name, one.app_port)
    }));
    if let Some(address) = &asked.proxy {
        args.extend([format!("--proxy={}", address.0), format!("--cluster-domain={cluster_domain}")]);
    }
    args.extend(asked.services.iter().map(|service| format!("--services={}.{}", service.0.name, service.0.namespace)));
    args.extend(asked.proxy_others.iter().map(|others| format!("--proxy-others={others}")));
    args.extend(asked.own_service.iter().map(|name| format!("--self={name}")));
    args.extend(asked.ready_when.iter().map(|condition| format!("--ready-when={condition}")));
    args.push(CACHE_FLAG.to_owned());
    args
}

/// What differs from pod to pod in the sidecar's container.
pub(super) struct Filling {
    pub(super) image: Value,
    pub(super) args: Value,
    pub(super) ports: Value,
    pub(super) cpu: Value,
    pub(super) memory_request: Value,
    pub(super) memory_limit: Value,
}

/// Requested CPU, requested memory and the limit of memory, where nothing else is said.
pub(super) const RESOURCES: [&str; 3] = ["10m", "24Mi", "64Mi"];

/// The sidecar's container for a pod.
pub(super) fn container(asked: &Asked, incoming: &[Incoming], cluster_domain: &str) -> Value {
    let mut ports = vec![admin_port()];
    ports.extend(
        incoming.iter().enumerate().map(
            |(index, one)| json!({"name": one.name, "containerPort": listening_port(one, index), "protocol": "TCP"}),
        ),
    );
    let or = |wish: &Option<String>, default: &str| Value::from(wish.as_deref().unwrap_or(default));
    let [cpu, memory_request, memory_limit] = RESOURCES;
    let mut container = filled(Filling {
        image: or(&asked.image, IMAGE),
        args: args(asked, incoming, cluster_domain).into(),
        ports: ports.into(),
        cpu: or(&asked.cpu, cpu),
        memory_request: or(&asked.memory, memory_request),
        memory_limit: or(&asked.memory, memory_limit),
    });
    if !incoming.is_empty() {
        incoming_fields().into_iter().for_each(|(field, value)| container[field] = value);
    }
    container
}

/// The sidecar's container, but for [`incoming_fields`].
pub(super) fn filled(filling: Filling) -> Value {
    let Filling { image, args, ports, cpu, memory_request, memory_limit } = filling;
    json!({
        "name": CONTAINER,
        "image": image,
        "restartPolicy": "Always",
        "args": args,
        "env": env(),
        "ports": ports,
        "startupProbe": startup_probe(),
        "livenessProbe": liveness_probe(),
        "resources": {"requests": {"cpu": cpu, "memory": memory_request}, "limits": {"memory": memory_limit}},
        "securityContext": security_context(),
        "volumeMounts": volume_mounts(),
    })
}

/// Fields of a container that takes requests for the application. Without one of its ports the sidecar says nothing about
/// whether the pod may be called.
pub(super) fn incoming_fields() -> [(&'static str, Value); 2] {
    [("readinessProbe", readiness_probe()), ("lifecycle", lifecycle())]
}

/// The port for probes and metrics.
pub(super) fn admin_port() -> Value {
    json!({"name": ADMIN, "containerPort": ADMIN_PORT, "protocol": "TCP"})
}

/// Where the pod is.
fn env() -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!([
        field("POD_NAMESPACE", "metadata.namespace"),
        field("NODE_NAME", "spec.nodeName"),
        // Kubernetes puts the zone of the node on pods from 1.35 on; empty before that.
        field("NODE_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
    ])
}

/// What Pod Security "restricted" asks for.
fn security_context() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Where the volumes of [`volumes`] are; the first is where Kubernetes puts tokens itself.
fn volume_mounts() -> Value {
    json!([
        {"name": TOKEN, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
        {"name": CACHE, "mountPath": "/var/cache/tidegate"},
    ])
}

/// The application starts when everything that it calls can be called.
fn startup_probe() -> Value {
    json!({"httpGet": {"path": "/startupz", "port": ADMIN}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 120})
}

/// Only a process that does not answer at all is restarted.
fn liveness_probe() -> Value {
    json!({"httpGet": {"path": "/livez", "port": ADMIN}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3})
}

/// The application listens.
fn readiness_probe() -> Value {
    json!({"httpGet": {"path": "/readyz", "port": ADMIN}, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2})
}

/// Requests are turned away while the application still runs.
fn lifecycle() -> Value {
    json!({"preStop": {"exec": {"command": ["/tidegate", "sidecar", "drain", "in"]}}})
}

/// The token is the sidecar's own, so that applications that want none stay without one.
pub(super) fn volumes() -> [Value; 2] {
    [
        json!({"name": TOKEN, "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}),
        json!({"name": CACHE, "emptyDir": {"sizeLimit": "64Mi"}}),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_names_are_names_of_ports() {
        for (name, moved) in
            [("http", "http-app"), ("a-name-of-15chr", "a-name-of-1-app"), ("elevenchar-x", "elevenchar-app")]
        {
            assert_eq!(moved_name(name), moved);
            assert!(moved.len() <= LONGEST_PORT_NAME);
        }
    }
}
