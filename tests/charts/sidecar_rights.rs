//! The rights of sidecars on a real API server: each of the chart's role is used and no other asked for; where one is missing,
//! calls to the Services that it is about are refused, the others work, and the line that operators are told gives it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Namespace, REFERENCE_GRANTS, wait_for};
use crate::load::Request;
use crate::rbac::rights;
use crate::rights::{Audit, without};
use crate::support::backend::Backend;
use crate::support::gateway::{port, spawn};
use crate::{helm, render};

/// The role and the bindings of the chart, for pods of one namespace that call Services of others.
fn role_and_bindings(helm: &Path, from: &str, to: &[&str]) -> (Value, Vec<Value>) {
    let access = json!({ "sidecar": { "access": [{ "from": from, "to": to }] } });
    let objects = render(helm, &access.to_string());
    let role = objects.iter().find(|one| one["kind"] == "ClusterRole" && one["metadata"]["name"] == ROLE);
    let bindings = objects.iter().filter(|one| one["roleRef"]["name"] == ROLE).cloned().collect();
    (role.expect("a role").clone(), bindings)
}

/// The name of the chart's role, which the line for operators names.
const ROLE: &str = "tidegate-sidecar";

/// Gives a namespace a Service whose only endpoint is a backend of the test.
fn serve(namespace: &Namespace<'_>, service: &str, (address, backend): (Ipv4Addr, &Backend)) {
    let service_object = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": service },
        "spec": { "ports": [{ "name": "http", "port": 80 }] } });
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": service, "labels": { "kubernetes.io/service-name": service } },
        "ports": [{ "name": "http", "port": backend.port }], "endpoints": [{ "addresses": [address] }] });
    namespace.apply(&format!("{service_object}\n---\n{slice}"));
}

/// A route of a pod's own namespace for its calls to a Service of another one, which takes that one's grant.
fn consume(pod: &Namespace<'_>, service: &str, of: &Namespace<'_>) {
    let parent = json!({ "group": "", "kind": "Service", "name": service, "namespace": of.name });
    let backend = json!({ "name": service, "namespace": of.name, "port": 80 });
    let route = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": service },
        "spec": { "parentRefs": [parent], "rules": [{ "backendRefs": [backend] }] } });
    let from = json!({ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": pod.name });
    let grant = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant",
        "metadata": { "name": "consumers" }, "spec": { "from": [from], "to": [{ "group": "", "kind": "Service" }] } });
    pod.apply(&route.to_string());
    of.apply(&grant.to_string());
}

/// One of the addresses that clusters leave to gateways: API servers refuse endpoints on loopback.
fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 245, fastrand::u8(..128), fastrand::u8(1..255))
}

/// A sidecar of a pod, as a process of the test.
struct Sidecar {
    child: Child,
    ready: Value,
    log: PathBuf,
}

impl Sidecar {
    /// Starts one that calls port 80 of these Services, `NAME.NAMESPACE`.
    fn start(cluster: &Cluster, namespace: &Namespace<'_>, kubeconfig: &Path, called: &[String]) -> Self {
        let log = PathBuf::from(cluster.file("sidecar.log", ""));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["sidecar", "--admin=127.0.0.1:0", "--namespace", &namespace.name, "--kubeconfig"])
            .arg(kubeconfig)
            .args(called.iter().map(|service| format!("--out-port={service}:80@127.0.0.1:0")))
            .stderr(fs::File::create(&log).unwrap());
        let (child, ready) = spawn(&mut command);
        Self { child, ready, log }
    }

    /// The status of a call to a Service.
    fn call(&self, service: &str) -> u16 {
        let number = port(&self.ready["listeners"][format!("{service}:80")]);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        Request { address, host: service.to_owned() }.send().unwrap().status
    }

    /// The one line of its log that has all these words.
    fn told(&self, words: &[&str]) -> String {
        wait_for(&format!("{words:?}"), || {
            let log = fs::read_to_string(&self.log).unwrap();
            let lines: Vec<&str> = log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
            if let [line] = lines[..] { Ok(line.to_owned()) } else { Err(log) }
        })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_sidecar_uses_every_right_of_its_role_and_asks_for_no_other() {
    let Some(helm) = helm() else { return };
    let Some((cluster, audit)) = Audit::start() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    let (shop, id) = (cluster.namespace("shop"), cluster.namespace("id"));
    let (role, bindings) = role_and_bindings(helm, &shop.name, &[&id.name]);
    cluster.apply(&role.to_string());
    bindings.iter().for_each(|binding| drop(cluster.apply(&binding.to_string())));
    let address = own_address();
    serve(&id, "users", (address, &Backend::start_at("users", address)));
    consume(&shop, "users", &id);
    let users = format!("users.{}", id.name);
    let sidecar = Sidecar::start(&cluster, &shop, &shop.kubeconfig_for("default"), std::slice::from_ref(&users));
    assert_eq!(sidecar.call(&users), 200);
    let account = format!("system:serviceaccount:{}:default", shop.name);
    let asked = wait_for("all rights to be used", || {
        let asked = audit.asked_by(&account);
        let given = rights(&role);
        let unused: Vec<&String> = given.difference(&asked).collect();
        if unused.is_empty() { Ok(asked) } else { Err(format!("not used: {unused:?}")) }
    });
    assert_eq!(asked, rights(&role));
    // And nothing outside of the namespaces that it was given rights in.
    assert_eq!(audit.namespaces_of(&account), [shop.name.as_str(), &id.name].map(str::to_owned).into());
}

/// What becomes of a sidecar that lacks a right in a namespace whose Service it calls.
struct Loss {
    resource: &'static str,
    kind: &'static str,
    /// The status of calls to the Service.
    status: u16,
}

const LOSSES: &[Loss] = &[
    Loss { resource: "gatewayroutes", kind: "GatewayRoute", status: 503 },
    Loss { resource: "services", kind: "Service", status: 503 },
    Loss { resource: "endpointslices", kind: "EndpointSlice", status: 503 },
    // Without it nothing is granted.
    Loss { resource: "referencegrants", kind: "ReferenceGrant", status: 500 },
];

#[test]
fn each_right_that_is_missing_is_told_with_the_line_that_gives_it_and_the_rest_works() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    let (role, _) = role_and_bindings(helm, "any", &[]);
    cluster.apply(&role.to_string());
    assert_eq!(role["rules"].as_array().unwrap().len(), LOSSES.len(), "one for each rule: {role}");
    let (address, lost) = (own_address(), own_address());
    let (logs, users) = (Backend::start_at("logs", address), Backend::start_at("users", lost));
    // All at once: a right that came is noticed within half a minute.
    let cases: Vec<_> = LOSSES
        .iter()
        .map(|loss| {
            let (shop, ops, id) = (cluster.namespace("shop"), cluster.namespace("ops"), cluster.namespace("id"));
            let (_, bindings) = role_and_bindings(helm, &shop.name, &[&ops.name]);
            bindings.iter().for_each(|binding| drop(cluster.apply(&binding.to_string())));
            let mut lacking = without(&role, (loss.resource, "list")).unwrap();
            lacking["kind"] = "Role".into();
            lacking["metadata"] = json!({ "name": "lacking" });
            let mut binding = bindings[0].clone();
            binding["metadata"] = json!({ "name": "lacking" });
            binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "lacking" });
            id.apply(&format!("{lacking}\n---\n{binding}"));
            serve(&ops, "logs", (address, &logs));
            serve(&id, "users", (lost, &users));
            consume(&shop, "users", &id);
            let called = [format!("logs.{}", ops.name), format!("users.{}", id.name)];
            let sidecar = Sidecar::start(cluster, &shop, &shop.kubeconfig_for("default"), &called);
            (loss, [shop, ops, id], called, sidecar)
        })
        .collect();
    for (loss, [_, _, id], [logs, users], sidecar) in &cases {
        println!("without {}", loss.resource);
        let words = format!("no right to read {} in namespace {}", loss.kind, id.name);
        let line = sidecar.told(&[&format!("Service {}/users: Forbidden", id.name), &words]);
        assert_eq!((sidecar.call(logs), sidecar.call(users)), (200, loss.status), "{line}");
        let command = line.split_once("what this gives: kubectl ").and_then(|(_, rest)| rest.split(';').next());
        let command: Vec<&str> = command.unwrap_or_else(|| panic!("{line}")).split(' ').collect();
        cluster.kubectl(&command);
    }
    for (loss, _, [_, users], sidecar) in &cases {
        wait_for(&format!("calls with {}", loss.resource), || {
            let status = sidecar.call(users);
            if status == 200 { Ok(()) } else { Err(status.to_string()) }
        });
    }
}
