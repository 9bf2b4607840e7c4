//! Against a real API server: the CRD, the manifests of this repository, and tidegate as a container.
//!
//! `tests/cluster.sh` builds the control plane and runs this; without one every test says so and skips.
#![allow(clippy::unwrap_used)]

#[path = "support/api_contract.rs"]
mod api_contract;
#[path = "support/policy_bounds.rs"]
mod policy_bounds;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use support::client::{Answer, Client};
use support::cluster::{BACKEND_TLS_POLICIES, Cluster, Namespace, Options, REFERENCE_GRANTS, timeout, wait_for};
use support::controller::Controller;

/// The YAML files of a folder of this repository, in order.
fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn a_cluster_ends_with_its_value() {
    let Some(cluster) = Cluster::start(Options::default().without_nodes()) else { return };
    println!("ready after {} ms", cluster.ready()["millis"]["total"]);
    let version = cluster.kubectl(&["version"]);
    assert!(version.contains("Server Version: v1.36."), "{version}");
    // A killed part is gone, and comes back at the same address.
    cluster.fault("kill apiserver");
    assert!(cluster.try_kubectl(&["get", "namespaces", "--request-timeout=2s"]).is_err());
    cluster.fault("start apiserver");
    cluster.kubectl(&["get", "namespace", "default"]);
    let folder = PathBuf::from(cluster.ready()["dir"].as_str().unwrap());
    let supervisor = cluster.ready()["pids"]["supervisor"].as_u64().unwrap();
    assert!(folder.exists());
    drop(cluster);
    assert!(!folder.exists(), "{} is left", folder.display());
    assert!(!Path::new(&format!("/proc/{supervisor}")).exists(), "the supervisor lives");
}

#[test]
fn a_service_account_has_its_rights_and_no_more() {
    let Some(cluster) = Cluster::shared() else { return };
    let namespace = cluster.namespace("rights");
    namespace.kubectl(&["create", "serviceaccount", "gateway"]);
    namespace.kubectl(&["create", "role", "gateway", "--verb=get,list", "--resource=services"]);
    let account = format!("--serviceaccount={}:gateway", namespace.name);
    namespace.kubectl(&["create", "rolebinding", "gateway", "--role=gateway", &account]);
    let kubeconfig = namespace.kubeconfig_for("gateway");
    wait_for("the role", || cluster.kubectl_as(&kubeconfig, &["get", "services"]));
    let refused = cluster.kubectl_as(&kubeconfig, &["get", "secrets"]).expect_err("no right to see secrets");
    assert!(refused.contains("Forbidden"), "{refused}");
    let who = cluster.kubectl_as(&kubeconfig, &["auth", "whoami", "--output=json"]).unwrap();
    assert!(who.contains(&format!("system:serviceaccount:{}:gateway", namespace.name)), "{who}");
}

#[test]
fn the_crd_installs_and_all_examples_are_accepted() {
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    // Without the bundle of Gateway API, stand-ins let the examples be created as they are.
    for (plural, stand_in) in [("referencegrants", REFERENCE_GRANTS), ("backendtlspolicies", BACKEND_TLS_POLICIES)] {
        if cluster.try_kubectl(&["get", "crd", &format!("{plural}.gateway.networking.k8s.io")]).is_err() {
            cluster.install_kind(stand_in);
        }
    }
    let files = yaml_files("manifests/examples");
    assert!(!files.is_empty(), "manifests/examples holds examples");
    let mut made = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        // Namespaces are made for real: a dry run in one that is not there is refused.
        for name in namespaces_in(&text) {
            if cluster.try_kubectl(&["get", "namespace", &name]).is_err() {
                cluster.kubectl(&["create", "namespace", &name]);
                made.push(name);
            }
        }
        let documents = text.split("\n---").filter(|document| document.contains("\nkind:")).count();
        let path = file.to_str().unwrap();
        let created =
            wait_for(path, || cluster.try_kubectl(&["apply", "--dry-run=server", "--validate=strict", "-f", path]));
        // A Namespace of the file is already there.
        assert_eq!(created.matches("(server dry run)").count(), documents, "{path}: {created}");
    }
    for name in made {
        cluster.kubectl(&["delete", "namespace", &name, "--wait=false"]);
    }
    // What kubectl tells about a field is the doc comment of its type.
    let explained = cluster.kubectl(&["explain", "gatewayroute.spec.rules.backendRefs.weight"]);
    assert!(explained.contains("FIELD: weight"), "{explained}");
}

/// The namespaces that a manifest names, in block or flow style.
fn namespaces_in(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split("namespace: ").skip(1))
        .filter_map(|rest| rest.split([',', '}', ' ', '#']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_api_server_refuses_exactly_the_manifests_marked_schema() {
    let Some(cluster) = Cluster::shared() else { return };
    let files = yaml_files("tests/data/bad-manifests");
    if files.is_empty() {
        println!("skipped: tests/data/bad-manifests is empty");
        return;
    }
    cluster.install_routes();
    let proxy = cluster.proxy();
    let mut wrong = Vec::new();
    let (mut refused, mut accepted) = (0, 0);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let marked = match text.lines().next().and_then(|line| line.strip_prefix("# ")?.split_once(": ")) {
            Some(("schema", rest)) => Some(rest.split(" | ").next().unwrap_or_default()),
            Some(("compiler", _)) => None,
            _ => panic!("{}: the first line says neither schema nor compiler", file.display()),
        };
        let (status, said) = create(proxy.port, &text);
        match (marked, status) {
            (Some(path), 400 | 422) if names(&said, path) => refused += 1,
            (None, 201) => accepted += 1,
            _ => wrong.push(format!("{}: marked schema: {marked:?}, answered {status}: {said}", file.display())),
        }
    }
    println!("{refused} refused, {accepted} accepted");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}

/// Each bound of a policy, read from the definition, is judged as it is without an API server (`bad_manifests`).
#[test]
fn the_api_server_draws_the_bounds_of_policies_where_we_do() {
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    let proxy = cluster.proxy();
    let edges = policy_bounds::edges();
    let mut wrong = Vec::new();
    for edge in &edges {
        let (status, said) = create(proxy.port, &edge.route.to_string());
        let is_as_expected = match (edge.is_good, status) {
            (true, 201) => true,
            (false, 400 | 422) => names(&said, &edge.path),
            (true | false, _) => false,
        };
        if !is_as_expected {
            wrong.push(format!("{}: {}: {status} {said}", edge.path, edge.route["spec"]["rules"][0]));
        }
    }
    println!("{} bounds of policies", edges.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), edges.len(), wrong.join("\n"));
}

/// Creates a GatewayRoute by dry run, as strictly as kubectl asks for it; the status and, if refused, the message.
fn create(port: u16, manifest: &str) -> (u16, String) {
    let path = "/apis/tidegate.dev/v1alpha1/namespaces/default/gatewayroutes?dryRun=All&fieldValidation=Strict";
    let length = manifest.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/yaml\r\n");
    let request = format!("{head}accept: application/json\r\ncontent-length: {length}\r\n\r\n{manifest}");
    let answer = Client::connect(port).request(&request).expect("an answer");
    (answer.status, answer.body.split_once("\"message\":").map(|(_, rest)| rest.to_owned()).unwrap_or_default())
}

/// Whether a message of the API server names the field at a path: it, or the object below the spec in which it stands,
/// since rules that compare fields are told of the object. Metadata of a wrong type goes by the name of its type in Go.
fn names(message: &str, path: &str) -> bool {
    let parent = path.rsplit_once(['.', '[']).map_or(path, |(parent, _)| parent);
    let is_of_parent = parent.contains('.') && message.contains(parent);
    message.contains(path) || is_of_parent || message.contains(&parent.replacen("metadata.", "ObjectMeta.", 1))
}

/// The gateway as its users will run it: a container with a read-only root and no privileges, probed by a kubelet, and
/// behind a Service, in front of pods that come from an EndpointSlice written as a controller would.
#[test]
fn tidegate_serves_from_a_container() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let namespace = cluster.namespace("container");
    namespace.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: web, image: web, \
         ports: [{containerPort: 8080}]}]}}",
    );
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", &timeout()]);
    let backend = namespace.kubectl(&["get", "pod", "web", "--output=jsonpath={.status.podIP}"]);
    let manifests = format!(
        r#"
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {{name: web}}
spec: {{hostnames: [web.test], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: ["{backend}"]}}]
"#
    );
    let file = cluster.file("routes.yaml", &manifests);
    namespace.kubectl(&["create", "configmap", "routes", &format!("--from-file=all.yaml={file}")]);
    namespace.apply(GATEWAY);
    namespace.kubectl(&["rollout", "status", "deployment/gateway", &timeout()]);
    let address = wait_for("the address of the Service", || {
        let address =
            namespace.kubectl(&["get", "service", "gateway", "--output=jsonpath={.status.loadBalancer.ingress[0].ip}"]);
        if address.is_empty() { Err("none yet".to_owned()) } else { Ok(address) }
    });
    let answer = wait_for("an answer through the gateway", || get(&address, "web.test"));
    assert!(answer.status == 200 && answer.body.contains("\"pod\": \"web\""), "{answer:?}");
    // A rolling restart ends every pod by its grace, and the Service answers all the while.
    namespace.kubectl(&["rollout", "restart", "deployment/gateway"]);
    namespace.kubectl(&["rollout", "status", "deployment/gateway", &timeout()]);
    assert_eq!(wait_for("an answer of the new pod", || get(&address, "web.test")).status, 200);
    let restarts = "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    assert_eq!(
        namespace.kubectl(&["get", "pods", "--selector=app=gateway,!gone", restarts]).replace(['0', ' '], ""),
        ""
    );
}

/// What the controller may do, and nothing else.
fn reader_role(name: &str, namespace: &str) -> String {
    format!(
        r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules:
- {{apiGroups: [tidegate.dev], resources: [gatewayroutes], verbs: [list, watch]}}
- {{apiGroups: [""], resources: [services, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
- {{apiGroups: [gateway.networking.k8s.io], resources: [referencegrants, backendtlspolicies], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{{kind: ServiceAccount, name: gateway, namespace: {namespace}}}]
"#
    )
}

/// A pod that answers, ready, behind a Service.
fn serve_web(namespace: &Namespace<'_>) {
    namespace.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
"#,
    );
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", &timeout()]);
}

fn web_route(name: &str, hostname: &str) -> String {
    format!(
        "{{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {{name: {name}}}, spec: {{hostnames: \
         [{hostname}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}}}"
    )
}

/// The API server goes away and comes back: the last state serves, then changes count again.
#[test]
fn the_controller_outlives_the_api_server() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    cluster.install_routes();
    let (kubeconfig, host) = {
        let namespace = cluster.namespace("outage");
        namespace.kubectl(&["create", "serviceaccount", "gateway"]);
        cluster.apply(&reader_role("tidegate-test", &namespace.name));
        serve_web(&namespace);
        namespace.apply(&web_route("web", "a.outage.test"));
        let kubeconfig = namespace.kubeconfig_for("gateway");
        // The namespace stays as long as the cluster.
        std::mem::forget(namespace);
        (kubeconfig, "a.outage.test")
    };
    let controller = Controller::start(&cluster, &kubeconfig, &[]);
    controller.wait_for(host, 200);
    cluster.fault("kill apiserver");
    controller.wait_for_log("GatewayRoute: the watch failed");
    assert_eq!(controller.get(host).unwrap().status, 200);
    cluster.fault("start apiserver");
    controller.wait_for_log("GatewayRoute: read again");
    // However often it was tried, that it does not answer is said once or twice, and not by the client for each request.
    let log = controller.log();
    let complaints = log.lines().filter(|line| line.contains("GatewayRoute: the watch failed")).count();
    assert!(complaints <= 2 && !log.contains("failed with error"), "{log}");
    let edited = web_route("other", "b.outage.test");
    let namespaces = cluster.kubectl(&["get", "namespaces", "--output=name"]);
    let namespace = namespaces.lines().find_map(|line| line.strip_prefix("namespace/outage-")).expect("it is there");
    let file = cluster.file("edited.yaml", &edited);
    cluster.kubectl(&["--namespace", &format!("outage-{namespace}"), "apply", "--server-side", "-f", &file]);
    controller.wait_for("b.outage.test", 200);
    controller.wait_for(host, 200);
}

/// Routes, Services and pods as the cluster has them: new, changed, gone; and a right that is taken away for a while.
#[test]
fn the_controller_follows_the_cluster() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    cluster.install_routes();
    let namespace = cluster.namespace("controller");
    namespace.kubectl(&["create", "serviceaccount", "gateway"]);
    let role = format!("tidegate-test-{}", namespace.name);
    cluster.apply(&reader_role(&role, &namespace.name));
    serve_web(&namespace);
    let controller = Controller::start(cluster, &namespace.kubeconfig_for("gateway"), &[]);
    let host = |name: &str| format!("{name}.{}.test", namespace.name);
    let route = |name: &str, hostname: &str| namespace.apply(&web_route(name, hostname));
    controller.wait_for(&host("a"), 404);
    route("web", &host("a"));
    assert!(controller.wait_for(&host("a"), 200).body.contains("\"pod\": \"web\""));
    route("web", &host("b"));
    controller.wait_for(&host("b"), 200);
    controller.wait_for(&host("a"), 404);

    // Without its role it keeps what it has and says what is missing; with it, it goes on.
    cluster.kubectl(&["delete", "clusterrolebinding", &role]);
    controller.wait_for_log("GatewayRoute: may not be listed and watched");
    controller.wait_for(&host("b"), 200);
    cluster.apply(&reader_role(&role, &namespace.name));
    controller.wait_for_log("GatewayRoute: read again");
    route("second", &host("c"));
    controller.wait_for(&host("c"), 200);

    namespace.kubectl(&["delete", "pod", "web", "--grace-period=1"]);
    controller.wait_for(&host("b"), 503);
    namespace.kubectl(&["delete", "gatewayroute", "web"]);
    controller.wait_for(&host("b"), 404);
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]);
}

/// Clients that send one GET after the other, each over a connection that is kept, until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    fn start(http: u16, host: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = || {
            let (stop, request) = (Arc::clone(&stop), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            std::thread::spawn(move || {
                let mut client = Client::connect(http);
                let (mut good, mut bad) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match client.request(&request) {
                        Ok(answer) if answer.status == 200 => good += 1,
                        other => {
                            bad.push(format!("{other:?}"));
                            client = Client::connect(http);
                        }
                    }
                    // Load, and not all that the machine has.
                    std::thread::sleep(Duration::from_millis(2));
                }
                (good, bad)
            })
        };
        Self { clients: (0..8).map(|_| client()).collect(), stop }
    }

    /// Number of good answers, and all others.
    fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let all = self.clients.into_iter().map(|client| client.join().expect("no panic"));
        all.fold((0, Vec::new()), |(good, bad), (more, worse)| (good + more, [bad, worse].concat()))
    }
}

/// A pod at an address of the network that accepts connections and answers only while it is well.
struct HangingPod {
    is_well: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl HangingPod {
    fn start(address: &str) -> Self {
        let (is_well, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let listener = TcpListener::bind(address).expect("an address that nobody else has");
        let (well, count) = (Arc::clone(&is_well), Arc::clone(&answered));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (well, count) = (Arc::clone(&well), Arc::clone(&count));
                std::thread::spawn(move || {
                    let Ok(mut writer) = stream.try_clone() else { return };
                    for line in BufReader::new(stream).lines() {
                        // The end of a head; requests of this test have no body.
                        if !line.is_ok_and(|line| line.is_empty()) || !well.load(Ordering::Relaxed) {
                            continue;
                        }
                        if writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_err() {
                            return;
                        }
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { is_well, answered }
    }
}

/// A rolling restart, a node that dies with its pods, and a pod that hangs and returns: none of it costs a GET.
#[test]
fn pods_that_leave_die_or_hang_cost_no_request() {
    const HANGS: &str = "10.245.0.201";
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    cluster.install_routes();
    let namespace = cluster.namespace("resilience");
    namespace.kubectl(&["create", "serviceaccount", "gateway"]);
    let role = format!("tidegate-test-{}", namespace.name);
    cluster.apply(&reader_role(&role, &namespace.name));
    let host = format!("web.{}.test", namespace.name);
    namespace.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, image: web, ports: [{{containerPort: 8080}}]}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}
---
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {{name: web}}
spec:
  hostnames: [{host}]
  rules:
  - timeouts: {{request: 20s, backendRequest: 1s}}
    retry: {{attempts: 3, retryOn: [ConnectFailure, Reset, BackendTimeout], budget: {{percent: 100}}}}
    healthCheck: {{interval: 1s, timeout: 500ms, unhealthyThreshold: 2}}
    backendRefs: [{{name: web, port: 80}}]
"#
    ));
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);
    let controller = Controller::start(cluster, &namespace.kubeconfig_for("gateway"), &[]);
    controller.wait_for(&host, 200);
    let load = Load::start(controller.http, &host);

    namespace.kubectl(&["rollout", "restart", "deployment/web"]);
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);

    let node = "--output=jsonpath={.items[0].spec.nodeName}";
    let node = namespace.kubectl(&["get", "pods", "--selector=app=web", node]);
    // No grace: connections break in the middle, and slices still name the pods for a moment.
    let of_node = format!("--field-selector=spec.nodeName={node}");
    namespace.kubectl(&["delete", "pods", "--selector=app=web", &of_node, "--grace-period=0", "--force"]);
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);

    let pod = HangingPod::start(&format!("{HANGS}:8080"));
    namespace.apply(&format!(
        r#"
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-hangs, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{{addresses: ["{HANGS}"]}}]
"#
    ));
    let unhealthy = format!("tidegate_backend_endpoints{{service=\"{}/web\",health=\"unhealthy\"}}", namespace.name);
    let count = |wanted: u64| {
        wait_for(&format!("{wanted} unhealthy"), || match controller.metric(&unhealthy) {
            found if found == wanted => Ok(()),
            found => Err(format!("{found} are")),
        });
    };
    count(1);
    pod.is_well.store(true, Ordering::Relaxed);
    count(0);
    let checks = pod.answered.load(Ordering::Relaxed);
    wait_for("requests at the pod that is back", || match pod.answered.load(Ordering::Relaxed) - checks {
        more if more > 50 => Ok(()),
        more => Err(format!("{more} so far")),
    });
    pod.is_well.store(false, Ordering::Relaxed);
    count(1);
    namespace.kubectl(&["delete", "endpointslice", "web-hangs"]);

    let (good, bad) = load.end();
    println!("a rolling restart, a dead node, a pod that hangs twice: {good} good answers, {} others", bad.len());
    assert!(bad.is_empty(), "{bad:?}\n{}", controller.log());
    assert!(good > 1_000, "{good}");
    cluster.kubectl(&["delete", "clusterrole,clusterrolebinding", &role]);
}

/// What tests with a simulated API server take for granted is true of this one.
#[test]
fn a_real_api_server_keeps_the_contract_of_the_simulator() {
    let Some(cluster) = Cluster::shared() else { return };
    let namespace = cluster.namespace("contract");
    let proxy = cluster.proxy();
    api_contract::run(proxy.port, &namespace.name);
}

const GATEWAY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: gateway}}
  template:
    metadata: {labels: {app: gateway}}
    spec:
      terminationGracePeriodSeconds: 20
      securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
      volumes: [{name: routes, configMap: {name: routes}}]
      containers:
      - name: tidegate
        image: registry.example/tidegate:test
        args: [standalone, --config, /etc/tidegate/routes, --http, "0.0.0.0:8080", --admin, "0.0.0.0:9090", --drain-delay, 1s]
        ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9090}]
        securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
        startupProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 1, failureThreshold: 60}
        readinessProbe: {httpGet: {path: /readyz, port: admin}, periodSeconds: 1, failureThreshold: 1}
        livenessProbe: {httpGet: {path: /livez, port: admin}, periodSeconds: 5, failureThreshold: 6, timeoutSeconds: 5}
        volumeMounts: [{name: routes, mountPath: /etc/tidegate/routes}]
---
apiVersion: v1
kind: Service
metadata: {name: gateway}
spec: {type: LoadBalancer, selector: {app: gateway}, ports: [{name: http, port: 80, targetPort: http}]}
"#;

/// One GET at an address of the cluster.
fn get(address: &str, host: &str) -> Result<Answer, String> {
    Client::try_connect_to((address, 80))
        .and_then(|mut client| client.try_get(host, "/"))
        .map_err(|error| error.to_string())
}
