//! Pods with an injected sidecar, as processes on a real API server: what an application calls, what comes to it, how it
//! begins and ends.

mod calls;
mod ends;
mod forward_proxy;
mod jobs;
mod outage;
mod rollout;
mod websocket;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tidegate::inject::{self, Options, Outcome};

use crate::cluster::{Cluster, Namespace, timeout, wait_for};
use crate::load::Request;
use crate::support::python::python_with;
use crate::support::tools::skip;

/// Packages of Python that applications use, and what they are imported as.
const GRPC: (&str, &str) = ("grpcio==1.85.3", "grpc");
const WEBSOCKETS: (&str, &str) = ("websockets==15.0.1", "websockets");

/// What a sidecar has to read, for all pods of the namespace.
const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: sidecar}
rules:
- {apiGroups: [tidegate.dev], resources: [gatewayroutes], verbs: [list, watch]}
- {apiGroups: [""], resources: [services], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
- {apiGroups: [gateway.networking.k8s.io], resources: [referencegrants], verbs: [list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: sidecar}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: sidecar}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:NAMESPACE"}]
"#;

/// What applications call.
const PAYMENTS: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: payments}
spec:
  replicas: 2
  selector: {matchLabels: {app: payments}}
  template:
    metadata: {labels: {app: payments}}
    spec: {containers: [{name: payments, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: payments}
spec: {selector: {app: payments}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// An application that passes `/NAME` on as a call to the Service NAME, and `/` as one to `payments`.
const CART: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
spec:
  replicas: 2
  selector: {matchLabels: {app: cart}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {app: cart}
      annotations: {sidecar.tidegate.dev/in: http, sidecar.tidegate.dev/out: "OUT", sidecar.tidegate.dev/self: cart}
    spec:
      containers:
      - name: cart
        image: tidegate
        command:
        - python3
        - -c
        - |
          import http.client, http.server, signal, socketserver, sys

          def call(service):
              connection = http.client.HTTPConnection(service, timeout=10)
              connection.request("GET", "/")
              answer = connection.getresponse()
              body = answer.read()
              connection.close()
              return answer.status, body

          class Handler(http.server.BaseHTTPRequestHandler):
              def do_GET(self):
                  status, body = (200, b"ok") if self.path == "/ready" else call(self.path[1:] or "payments")
                  self.send_response(status)
                  self.send_header("Content-Length", str(len(body)))
                  self.send_header("Connection", "close")
                  self.end_headers()
                  self.wfile.write(body)
              def log_message(self, *_):
                  pass

          class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
              request_queue_size = 128

          signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
          Server(("", 8080), Handler).serve_forever()
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, timeoutSeconds: 5}
        # Longer than the pause after which the sidecar asks its callers to leave.
        lifecycle: {preStop: {sleep: {seconds: 10}}}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: http}]}
"#;

/// The manifests of an application that calls these Services of its namespace.
fn cart(namespace: &Namespace<'_>, called: &[&str]) -> String {
    let called: Vec<String> = called.iter().map(|service| format!("{service}.{}", namespace.name)).collect();
    CART.replace("OUT", &called.join(","))
}

/// Manifests with sidecars that run this program.
fn injected(manifests: &str, namespace: &Namespace<'_>) -> String {
    let set = [("image".to_owned(), "tidegate".to_owned())].into();
    rewritten(manifests, namespace, Options { set, ..Options::default() })
}

/// Manifests without their sidecars.
fn restored(manifests: &str, namespace: &Namespace<'_>) -> String {
    rewritten(manifests, namespace, Options { remove: true, ..Options::default() })
}

fn rewritten(manifests: &str, namespace: &Namespace<'_>, options: Options) -> String {
    let options = Options {
        paths: vec!["-".into()],
        namespace: namespace.name.clone(),
        cluster_domain: "cluster.local".to_owned(),
        ..options
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let outcome = inject::run(&options, &mut manifests.as_bytes(), &mut out, &mut err).unwrap();
    assert_eq!(outcome, Outcome::Done, "{}", String::from_utf8_lossy(&err));
    String::from_utf8(out).unwrap()
}

/// A namespace with what applications call, and with the rights of their sidecars.
fn shop(cluster: &Cluster) -> Namespace<'_> {
    cluster.install_routes();
    let namespace = cluster.namespace("shop");
    namespace.apply(&format!("{}---{PAYMENTS}", RIGHTS.replace("NAMESPACE", &namespace.name)));
    rolled_out(&namespace, "payments");
    namespace
}

/// Waits for the end of a rollout, and until the Services of the deployment lead to its pods: each Service has slices of its
/// own, whose writer may be seconds behind on a busy machine, and then there is nobody to call.
fn rolled_out(namespace: &Namespace<'_>, deployment: &str) {
    let name = format!("deployment/{deployment}");
    namespace.try_kubectl(&["rollout", "status", &name, &timeout()]).unwrap_or_else(|error| {
        let pods = namespace.kubectl(&["get", "pods", "--output=yaml"]);
        panic!("{error}\n{pods}")
    });
    wait_for(&format!("the endpoints of {name}"), || {
        let text = namespace.kubectl(&["get", "pods,services,endpointslices", "--output=json"]);
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let items = |kind: &'static str| elements(&list["items"]).filter(move |item| item["kind"] == kind);
        let is_ready = |pod: &&Value| {
            let mut conditions = elements(&pod["status"]["conditions"]);
            pod["metadata"]["labels"]["app"] == deployment
                && pod["metadata"]["deletionTimestamp"].is_null()
                && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        let ready: BTreeSet<_> =
            items("Pod").filter(is_ready).filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
        for service in items("Service").filter(|service| service["spec"]["selector"]["app"] == deployment) {
            let service = &service["metadata"]["name"];
            let slices = items("EndpointSlice")
                .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == *service);
            let endpoints = slices.flat_map(|slice| elements(&slice["endpoints"]));
            let endpoints = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
            let reached: BTreeSet<_> =
                endpoints.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str()).collect();
            if reached != ready {
                return Err(format!("{service} leads to {reached:?}, and these pods are ready: {ready:?}"));
            }
        }
        Ok(())
    });
}

/// The elements of a list; none where there is no list.
fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The pods with a label.
fn pods(namespace: &Namespace<'_>, label: &str) -> Vec<Value> {
    let text = namespace.kubectl(&["get", "pods", "--selector", label, "--output=json"]);
    let mut list: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(list["items"].take()).unwrap()
}

/// Name and address of a pod.
fn place(pod: &Value) -> (String, IpAddr) {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{pod}")).to_owned();
    (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]).parse().unwrap())
}

/// The address of a Service.
fn address(namespace: &Namespace<'_>, service: &str) -> SocketAddr {
    let ip = namespace.kubectl(&["get", "service", service, "--output=jsonpath={.spec.clusterIP}"]);
    (ip.parse::<IpAddr>().unwrap(), 80).into()
}

/// The page of metrics of a pod's sidecar.
fn metrics(pod: IpAddr) -> Result<String, String> {
    let admin = Request { address: (pod, 15090).into(), host: "localhost".to_owned() };
    admin.send_to("/metrics").map(|answer| answer.body).map_err(|error| error.to_string())
}

/// The status of a job that has ended, in one way or the other.
fn ended(namespace: &Namespace<'_>, name: &str) -> Value {
    wait_for(&format!("the end of job {name}"), || {
        let text = namespace.kubectl(&["get", "job", name, "--output=json"]);
        let job: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let conditions = job["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_end = |condition: &Value| condition["type"] == "Complete" || condition["type"] == "Failed";
        if conditions.iter().any(is_end) { Ok(job["status"].clone()) } else { Err(job["status"].to_string()) }
    })
}

/// `tests/cluster.sh` runs it first, where there is a network: a namespace of the control plane has none.
#[test]
fn packages_of_python_are_there() {
    for package in [GRPC, WEBSOCKETS] {
        packages(package);
    }
}

/// The folder of a Python package that applications use, for their PYTHONPATH; `None`, and said, where it cannot be had or the
/// interpreter that pods find cannot use it.
fn packages((package, module): (&str, &str)) -> Option<PathBuf> {
    // Two tests must not make it at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let python = python_with(package, module)?;
    let libraries = python.parent()?.parent()?.join("lib");
    let folders = std::fs::read_dir(libraries).ok()?.flatten().map(|version| version.path().join("site-packages"));
    let found = folders.filter(|folder| folder.join(module).exists()).find(|folder| {
        let import = Command::new("/usr/bin/python3")
            .args(["-c", &format!("import {module}")])
            .env("PYTHONPATH", folder)
            .output();
        import.is_ok_and(|out| out.status.success())
    });
    if found.is_none() {
        skip(&format!("/usr/bin/python3 cannot use the package {package} of {}", python.display()));
    }
    found
}
