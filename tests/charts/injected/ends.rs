//! The end of a pod under load: who calls its application is asked to leave in time, the application can call out as long as
//! it lives, and the sidecar ends after it.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{address, injected, place, pods, rolled_out, shop};
use crate::cluster::{Cluster, Namespace, PATIENCE, timeout};
use crate::load::{Load, Request};
use crate::support::client::Client;

/// An application that takes its time to answer. When it is told to end, it serves on for longer than the sidecar asks
/// callers to leave, calls out all that time, over a connection that it has had from the beginning and over new ones, and
/// writes down what became of these calls.
const TILL: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: till}
spec:
  replicas: 2
  selector: {matchLabels: {app: till}}
  template:
    metadata:
      labels: {app: till}
      annotations: {sidecar.tidegate.dev/in: http, sidecar.tidegate.dev/out: payments.NAMESPACE, sidecar.tidegate.dev/self: till}
    spec:
      containers:
      - name: till
        image: tidegate
        command:
        - python3
        - -c
        - |
          import http.client, http.server, json, os, signal, socketserver, threading, time

          def connect():
              return http.client.HTTPConnection("payments", timeout=10)

          def call(connection):
              connection.request("GET", "/")
              answer = connection.getresponse()
              answer.read()
              if answer.status != 200 or answer.getheader("connection") == "close":
                  raise OSError(f"{answer.status} {answer.getheaders()}")

          kept = connect()
          call(kept)

          class Handler(http.server.BaseHTTPRequestHandler):
              protocol_version = "HTTP/1.1"
              def do_GET(self):
                  time.sleep(0.3)
                  self.send_response(200)
                  self.send_header("Content-Length", "2")
                  self.end_headers()
                  self.wfile.write(b"ok")
              def log_message(self, *_):
                  pass

          class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
              request_queue_size = 128
              daemon_threads = True

          server = Server(("", 8080), Handler)

          def end():
              calls, failures = 0, []
              until = time.monotonic() + 9
              while time.monotonic() < until:
                  for connection in (kept, connect()):
                      try:
                          call(connection)
                          calls += 1
                      except Exception as error:
                          failures.append(repr(error))
                  time.sleep(0.05)
              server.shutdown()
              time.sleep(1)  # for the answers that are on their way
              with open("/reports/" + os.environ["HOSTNAME"], "w") as report:
                  json.dump({"calls": calls, "failures": failures}, report)

          signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end).start())
          server.serve_forever()
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: reports, mountPath: /reports}]
      volumes: [{name: reports, hostPath: {path: REPORTS}}]
---
apiVersion: v1
kind: Service
metadata: {name: till}
spec: {selector: {app: till}, ports: [{name: http, port: 80, targetPort: http}]}
"#;

/// `--drain-delay` of a sidecar: how long those who call need to hear that the pod is no endpoint any more.
const DELAY: Duration = Duration::from_secs(5);

/// A `kubectl get --watch` of one pod.
struct Watch {
    child: Child,
    events: tempfile::NamedTempFile,
}

impl Watch {
    fn start(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str) -> Self {
        let events = tempfile::NamedTempFile::new().unwrap();
        let arguments = ["--namespace", &namespace.name, "get", "pod", pod, "--watch", "--output-watch-events"];
        let mut command = cluster.command(&arguments);
        let command = command.arg("--output=json").stdout(events.reopen().unwrap()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), events }
    }

    /// The pod as it was last, once it is gone.
    fn last(self) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(self.events.path()).unwrap();
            // The last event may not be whole yet.
            let events = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map_while(Result::ok);
            if let Some(event) = events.last().filter(|event| event["type"] == "DELETED") {
                return event["object"].clone();
            }
            assert!(Instant::now() < until, "the pod is still there: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap_or_else(|| panic!("no time: {value}")).parse().unwrap()
}

#[test]
fn a_pod_that_ends_under_load_loses_no_request_and_no_call() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let namespace = shop(cluster);
    let reports = tempfile::tempdir().unwrap();
    let till = TILL.replace("NAMESPACE", &namespace.name).replace("REPORTS", reports.path().to_str().unwrap());
    namespace.apply(&injected(&till, &namespace));
    rolled_out(&namespace, "till");
    let request = Request { address: address(&namespace, "till"), host: "till".to_owned() };
    crate::install::wait_for_answer(&request, 200);
    let load = Load::start(&vec![request; 4]);

    let (name, ip) = place(&pods(&namespace, "app=till")[0]);
    let mut caller = Client::try_connect_to((ip, 15080)).unwrap();
    assert_eq!(caller.get("till", "/").field("connection"), None);
    let watch = Watch::start(cluster, &namespace, &name);
    let asked = Instant::now();
    namespace.kubectl(&["delete", "pod", &name, "--wait=false"]);
    loop {
        let answer = caller.get("till", "/");
        assert_eq!(answer.status, 200);
        if answer.field("connection") == Some("close") {
            break;
        }
        assert!(asked.elapsed() < PATIENCE, "who goes on asking is not asked to leave");
    }
    assert!(
        asked.elapsed() >= DELAY,
        "asked to leave after {:?}, while others still send clients here",
        asked.elapsed()
    );

    let pod = watch.last();
    namespace.kubectl(&["rollout", "status", "deployment/till", &timeout()]);
    let (answered, failures) = load.end();
    assert!(failures.is_empty(), "{} of {answered} failed: {:#?}", failures.len(), &failures[..failures.len().min(20)]);
    assert!(answered > 50, "only {answered} requests");

    let report = fs::read_to_string(reports.path().join(&name)).expect("the application has ended by itself");
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report}");
    assert!(report["calls"].as_u64() > Some(20), "{report}");

    let [sidecar, app] = ["initContainerStatuses", "containerStatuses"]
        .map(|list| pod["status"][list][0]["state"]["terminated"].clone());
    assert_eq!([&sidecar["exitCode"], &app["exitCode"]], [0, 0], "{pod}");
    let ended = time(&sidecar["finishedAt"]);
    assert!(ended >= time(&app["finishedAt"]), "the application needs the sidecar until its end: {pod}");
    // It is the end of the grace period.
    assert!(ended <= time(&pod["metadata"]["deletionTimestamp"]), "{pod}");
}
