//! A real Prometheus finds the pods by what the chart makes, scrapes them, and answers every query of the dashboard.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Namespace, timeout, wait_for};
use crate::install::{WEB, wait_for_answer};
use crate::load::Request;
use crate::monitoring::{alerts, dashboard_queries};
use crate::{get, helm, path, program, read, render, template};

/// A running Prometheus that ends with the value.
struct Prometheus {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(program: &Path, config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prometheus.yaml");
        fs::write(&file, config.to_string()).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split("msg=\"Listening on\" address=").nth(1).map(str::to_owned);
            said.push(line);
            address?.rsplit_once(':')?.1.trim().parse().ok()
        });
        // It goes on writing, and must not be held up.
        std::thread::spawn(move || lines.for_each(drop));
        Self { port: port.unwrap_or_else(|| panic!("prometheus: {said:#?}")), child, _folder: folder }
    }

    /// What its API answers: the data, or the error.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let query: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let exchange = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            // An answer in HTTP/1.0 is not chunked.
            write!(stream, "GET /api/v1/{path}?{} HTTP/1.0\r\nhost: localhost\r\n\r\n", query.join("&"))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = exchange().map_err(|error| error.to_string())?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let value: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))?;
        if value["status"] == "success" { Ok(value["data"].clone()) } else { Err(value.to_string()) }
    }

    fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        Ok(self.ask("query", &[("query", query)])?["result"].as_array().expect("a vector").clone())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What Prometheus's discovery of the role pod finds: a target for each declared port of each pod, with the labels that
/// its documentation lists. Debian's Prometheus is built without this discovery, so it gets them as a file.
fn discovered(namespace: &Namespace<'_>) -> Value {
    let plain = |name: &str| name.replace(['.', '/', '-'], "_");
    let pods: Value = serde_json::from_str(&namespace.kubectl(&["get", "pods", "--output=json"])).unwrap();
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        let metadata = &pod["metadata"];
        let ip = pod["status"]["podIP"].as_str().unwrap();
        let mut labels = json!({
            "__meta_kubernetes_namespace": metadata["namespace"], "__meta_kubernetes_pod_name": metadata["name"],
        });
        for (kind, of) in [("label", "labels"), ("annotation", "annotations")] {
            for (key, value) in metadata[of].as_object().into_iter().flatten() {
                labels[format!("__meta_kubernetes_pod_{kind}_{}", plain(key))] = value.clone();
                labels[format!("__meta_kubernetes_pod_{kind}present_{}", plain(key))] = "true".into();
            }
        }
        for port in pod["spec"]["containers"].as_array().unwrap().iter().flat_map(|c| c["ports"].as_array().unwrap()) {
            let mut labels = labels.clone();
            labels["__meta_kubernetes_pod_container_port_name"] = port["name"].as_str().unwrap_or_default().into();
            targets.push(json!({"targets": [format!("{ip}:{}", port["containerPort"])], "labels": labels}));
        }
    }
    targets.into()
}

/// The labels that every job gives its targets.
fn target_labels() -> Vec<Value> {
    let label = |from: &str, to: &str| json!({"source_labels": [from], "target_label": to});
    vec![label("__meta_kubernetes_namespace", "namespace"), label("__meta_kubernetes_pod_name", "pod")]
}

/// A PodMonitor as the job that the Prometheus operator makes of it.
fn job_of_pod_monitor(monitor: &Value, discovery: &Value) -> Value {
    let mut relabel = Vec::new();
    for (key, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        let key = key.replace(['.', '/', '-'], "_");
        let label = format!("__meta_kubernetes_pod_label_{key}");
        let present = format!("__meta_kubernetes_pod_labelpresent_{key}");
        let regex = format!("({});true", value.as_str().unwrap());
        relabel.push(json!({"action": "keep", "source_labels": [label, present], "regex": regex}));
    }
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let port = "__meta_kubernetes_pod_container_port_name";
    relabel.push(json!({"action": "keep", "source_labels": [port], "regex": endpoint["port"]}));
    relabel.extend(target_labels());
    json!({
        "job_name": "podMonitor", "metrics_path": endpoint["path"], "scrape_interval": "1s",
        "file_sd_configs": discovery, "relabel_configs": relabel,
    })
}

/// The job for annotated pods as the examples of Prometheus have it.
fn job_of_annotations(discovery: &Value) -> Value {
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    let mut relabel = vec![
        json!({"action": "keep", "source_labels": [annotation("scrape")], "regex": "true"}),
        json!({"action": "replace", "source_labels": [annotation("path")], "target_label": "__metrics_path__", "regex": "(.+)"}),
        json!({
            "action": "replace", "source_labels": ["__address__", annotation("port")], "target_label": "__address__",
            "regex": r"([^:]+)(?::\d+)?;(\d+)", "replacement": "$1:$2",
        }),
    ];
    relabel.extend(target_labels());
    json!({
        "job_name": "annotations", "scrape_interval": "1s", "file_sd_configs": discovery,
        "relabel_configs": relabel,
    })
}

/// What is empty as long as nothing happens that it counts: here no pod fails, and the API server answers; pods have no
/// limit of memory, every certificate is good, no rule has a health check, a limit or compression, nobody
/// calls gRPC, and no pod is a sidecar with a forward proxy.
const RARE: &[&str] = &[
    "tidegate_connections_closed_total",
    "tidegate_sockets_closed_total",
    "tidegate_service_requests_total{namespace=~\"$namespace\", pod=~\"$pod\", code=\"5xx\"}",
    "tidegate_service_endpoints{namespace=~\"$namespace\", pod=~\"$pod\", state!=\"ready\"}",
    "tidegate_memory_limit_bytes",
    "tidegate_certificate_valid",
    "tidegate_client_authority_valid",
    "tidegate_backend_endpoints",
    "tidegate_limit_",
    "tidegate_auth_requests_total",
    "tidegate_compression_",
    "tidegate_coalesce_",
    "tidegate_jwks_",
    "tidegate_forward_proxy_",
    "tidegate_grpc_requests_total",
    "tidegate_watch_removals_held",
    "tidegate_watch_available{namespace=~\"$namespace\", pod=~\"$pod\"}) == 0",
];

/// A route to a Service without pods.
const EMPTY: &str = r"
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: empty}, ports: [{name: http, port: 80}]}
---
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: empty}
spec: {hostnames: [empty.example.com], rules: [{backendRefs: [{name: empty, port: 80}]}]}
";

#[test]
fn prometheus_scrapes_the_pods_and_answers_the_dashboard() {
    let (Some(helm), Some(prometheus)) = (helm(), program("prometheus")) else { return };
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    cluster.install_kind(&read("charts/tidegate-crds/templates/gatewayroutes.tidegate.dev.yaml"));
    let namespace = cluster.namespace("scraped");
    let values = "deployment: {minReadySeconds: 0}\nservice: {type: ClusterIP}";
    let objects = template(helm, values, &["--namespace", &namespace.name, "--skip-tests"]).unwrap();
    namespace.apply(&objects);
    namespace.apply(WEB);
    namespace.apply(EMPTY);
    namespace.apply(&fs::read_to_string(path("manifests/examples/00-hello.yaml")).unwrap());
    for deployment in ["deployment/tidegate", "deployment/web"] {
        namespace.kubectl(&["rollout", "status", deployment, &timeout()]);
    }

    // Both ways find both replicas.
    let found = cluster.file("pods.json", &discovered(&namespace).to_string());
    let discovery = json!([{"files": [found]}]);
    let monitored = render(helm, "metrics: {podMonitor: {enabled: true}}");
    let config = json!({
        "global": {"evaluation_interval": "1s"},
        "rule_files": [path("charts/tidegate/files/alerts.yaml")],
        "scrape_configs": [
            job_of_pod_monitor(get(&monitored, "PodMonitor", "tidegate"), &discovery),
            job_of_annotations(&discovery),
        ],
    });
    let prometheus = Prometheus::start(&prometheus, &config);
    for job in ["podMonitor", "annotations"] {
        wait_for(&format!("two targets of {job}"), || {
            let up = prometheus.query(&format!("up{{job=\"{job}\"}} == 1"))?;
            if up.len() == 2 { Ok(()) } else { Err(prometheus.ask("targets", &[])?.to_string()) }
        });
    }

    // Traffic of every class, of which the metrics tell.
    let address = namespace.kubectl(&["get", "service", "tidegate", "--output=jsonpath={.spec.clusterIP}"]);
    let request = |host: &str| Request { address: format!("{address}:80").parse().unwrap(), host: host.to_owned() };
    let ask_all = || {
        wait_for_answer(&request("web.example.com"), 200);
        wait_for_answer(&request("hello.example.com"), 200);
        wait_for_answer(&request("unknown.example.com"), 404);
        wait_for_answer(&request("empty.example.com"), 503);
        // No host that could be.
        wait_for_answer(&request("a b"), 400);
    };
    let filled = |query: &str| {
        // Where a panel asks for the last minutes, a few seconds are enough here.
        let query = query.replace("$__rate_interval", "10s");
        ["$namespace", "$pod", "$route"].iter().fold(query, |query, variable| query.replace(variable, ".*"))
    };
    let (queries, variables) = dashboard_queries();
    wait_for("an answer to every query", || {
        ask_all();
        let mut empty = Vec::new();
        for query in &queries {
            let found = prometheus.query(&filled(query)).unwrap_or_else(|error| panic!("{query}: {error}"));
            if found.is_empty() && !RARE.iter().any(|rare| query.contains(rare)) {
                empty.push(query);
            }
        }
        if empty.is_empty() { Ok(()) } else { Err(format!("{empty:#?}")) }
    });
    for variable in &variables {
        let inner = variable.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')).unwrap();
        let (series, label) = inner.rsplit_once(',').unwrap();
        let found = prometheus.ask(&format!("label/{}/values", label.trim()), &[("match[]", &filled(series))]).unwrap();
        assert!(!found.as_array().unwrap().is_empty(), "{variable}");
    }

    // Every alert rule was judged without an error.
    let names = alerts().iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    wait_for("the evaluation of all alerts", || {
        let rules = prometheus.ask("rules", &[])?;
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let judged = |name: &String| rules.iter().any(|rule| rule["name"] == **name && rule["health"] == "ok");
        let missing: Vec<_> = names.iter().filter(|name| !judged(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}: {rules:?}")) }
    });
    let roles = format!("clusterrole/tidegate-{0},clusterrolebinding/tidegate-{0}", namespace.name);
    for object in roles.split(',') {
        cluster.kubectl(&["delete", object]);
    }
}
