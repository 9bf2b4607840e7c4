//! Applications that call by `HTTP_PROXY`: Services that the proxy knows by routes, other hosts directly or not at all.

use std::fs;

use serde_json::{Value, json};

use super::{ended, injected, metrics, place, pods, rolled_out, shop};
use crate::cluster::{Cluster, Namespace, wait_for};

/// What the proxy balances, with a route of its callers.
const CATALOG: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: catalog}
spec:
  replicas: 2
  selector: {matchLabels: {app: catalog}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: catalog}, annotations: {fakenode/terminate: 3s}}
    spec: {containers: [{name: catalog, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: catalog}
spec: {selector: {app: catalog}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: catalog}
spec:
  parentRefs: [{group: "", kind: Service, name: catalog}]
  rules:
  - backendRefs: [{name: catalog, port: 80}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-route, value: catalog}]}
"#;

/// An application that knows nothing of the proxy but the variable. It calls until a file tells it to report.
const CALLER: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: caller}
spec:
  backoffLimit: 0
  template:
    metadata:
      labels: {app: caller}
      annotations:
        sidecar.tidegate.dev/proxy: 127.0.0.1:15001
        sidecar.tidegate.dev/services: catalog.NAMESPACE
        sidecar.tidegate.dev/proxy-others: OTHERS
    spec:
      restartPolicy: Never
      containers:
      - name: caller
        image: tidegate
        env: [{name: HTTP_PROXY, value: "http://127.0.0.1:15001"}]
        command:
        - python3
        - -c
        - |
          import http.client, json, os, time, urllib.error, urllib.request

          pods, failures, calls, unrouted = set(), [], 0, 0
          while not os.path.exists("/reports/stop"):
              try:
                  with urllib.request.urlopen("http://catalog/", timeout=10) as answer:
                      pods.add(json.load(answer)["pod"])
                      unrouted += answer.headers["x-route"] != "catalog"
                      calls += 1
              except Exception as error:
                  failures.append(repr(error))

          # One connection to the proxy, as clients with a pool have it.
          pooled, connection = set(), http.client.HTTPConnection("127.0.0.1", 15001, timeout=10)
          for _ in range(20):
              connection.request("GET", "http://catalog.NAMESPACE.svc/")
              pooled.add(json.load(connection.getresponse())["pod"])

          def direct():
              try:
                  with urllib.request.urlopen("http://payments/", timeout=10) as answer:
                      return [answer.status, json.load(answer)["headers"].get("Via")]
              except urllib.error.HTTPError as error:
                  return [error.code, None]

          def tunnel(host):
              connection = http.client.HTTPConnection("127.0.0.1", 15001, timeout=10)
              connection.set_tunnel(host, 80)
              try:
                  connection.request("GET", "/")
              except OSError as error:
                  return str(error)
              answer = connection.getresponse()
              json.load(answer)
              return f"{answer.status} by {answer.headers['x-route']}"

          report = {
              "calls": calls, "pods": len(pods), "pooled": len(pooled), "failures": failures, "unrouted": unrouted,
              "direct": direct(), "tunnels": [tunnel(host) for host in ("catalog", "payments")],
          }
          with open("/reports/made", "w") as file:
              json.dump(report, file)
          os.rename("/reports/made", "/reports/report")
          while not os.path.exists("/reports/end"):
              time.sleep(0.05)
        volumeMounts: [{name: reports, mountPath: /reports}]
      volumes: [{name: reports, hostPath: {path: REPORTS}}]
"#;

/// What a caller says, and what its sidecar counts at its end. `steps` are taken between its first calls and its last ones, and
/// it calls twenty times after each.
fn reported(namespace: &Namespace<'_>, others: &str, steps: &[&dyn Fn()]) -> (Value, String) {
    let reports = tempfile::tempdir().unwrap();
    let caller = CALLER.replace("NAMESPACE", &namespace.name).replace("OTHERS", others);
    let caller = caller.replace("REPORTS", reports.path().to_str().unwrap());
    namespace.apply(&injected(&caller, namespace));
    let page = || -> Result<String, String> {
        let pods = pods(namespace, "app=caller");
        let pod = pods.iter().find(|pod| pod["status"]["podIP"].is_string()).ok_or("no pod has an address")?;
        metrics(place(pod).1)
    };
    let some_calls = || {
        let calls = |page: &String| count(page, "request", "service");
        let before = page().as_ref().map_or(0, calls);
        wait_for("some calls", || {
            let page = page()?;
            if calls(&page) >= before + 20 { Ok(()) } else { Err(page) }
        });
    };
    some_calls();
    for step in steps {
        step();
        some_calls();
    }
    fs::write(reports.path().join("stop"), "").unwrap();
    let report =
        wait_for("a report", || fs::read_to_string(reports.path().join("report")).map_err(|error| error.to_string()));
    let page = page().unwrap();
    fs::write(reports.path().join("end"), "").unwrap();
    let status = ended(namespace, "caller");
    assert_eq!(status["succeeded"], 1, "{status}");
    namespace.kubectl(&["delete", "job", "caller"]);
    (serde_json::from_str(&report).unwrap(), page)
}

/// How often the proxy was asked for something that this became of.
fn count(page: &str, exchange: &str, proxied: &str) -> u64 {
    let series = format!("tidegate_forward_proxy_exchanges_total{{exchange=\"{exchange}\",proxied=\"{proxied}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

#[test]
fn applications_call_by_the_proxy_of_their_environment() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let namespace = shop(cluster);
    namespace.apply(CATALOG);
    rolled_out(&namespace, "catalog");
    let rollout = || {
        // At most one in a second is taken.
        wait_for("a rollout", || namespace.try_kubectl(&["rollout", "restart", "deployment/catalog"]));
        rolled_out(&namespace, "catalog");
    };
    let (report, page) = reported(&namespace, "direct", &[&rollout, &rollout]);
    println!("{report}");
    assert_eq!((&report["failures"], &report["unrouted"]), (&json!([]), &json!(0)), "{report}");
    assert!(report["pods"].as_u64() > Some(3), "calls follow two rollouts of two pods: {report}");
    assert!(report["pooled"].as_u64() > Some(1), "requests of one connection go to several pods: {report}");
    assert_eq!(report["direct"], json!([200, ["1.1 tidegate-sidecar"]]), "{report}");
    assert_eq!(report["tunnels"], json!(["200 by catalog", "200 by None"]), "{report}");
    let calls = report["calls"].as_u64().unwrap() + 20;
    assert_eq!(count(&page, "request", "service"), calls, "{page}");
    for (exchange, proxied) in [("request", "direct"), ("tunnel", "service"), ("tunnel", "direct")] {
        assert_eq!(count(&page, exchange, proxied), 1, "{exchange} {proxied}: {page}");
    }

    let (report, page) = reported(&namespace, "refuse", &[]);
    assert_eq!(report["direct"], json!([403, null]), "{report}");
    assert_eq!(report["tunnels"], json!(["200 by catalog", "Tunnel connection failed: 403 Forbidden"]), "{report}");
    for exchange in ["request", "tunnel"] {
        assert_eq!(count(&page, exchange, "proxy_others"), 1, "{exchange}: {page}");
    }
}
