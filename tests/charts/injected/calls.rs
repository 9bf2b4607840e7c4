//! Calls over HTTP, gRPC and WebSocket by unchanged names, while the pods that they go to come and go.

use std::fs;

use serde_json::Value;

use super::{GRPC, WEBSOCKETS, ended, injected, packages, rolled_out, shop};
use crate::cluster::{Cluster, wait_for};

/// One application behind three Services, whose port names say what they speak.
const CALLED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: called}
spec:
  replicas: 2
  selector: {matchLabels: {app: called}}
  template:
    metadata: {labels: {app: called}, annotations: {fakenode/terminate: 3s}}
    spec: {containers: [{name: called, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: catalog}
spec: {selector: {app: called}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: greeter}
spec: {selector: {app: called}, ports: [{name: grpc, port: 50051, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: called}, ports: [{name: ws, port: 80, targetPort: 8080}]}
"#;

/// An application that calls all of them, until a file tells it to report; it says meanwhile how many calls it has made.
const CALLER: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: caller}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {sidecar.tidegate.dev/out: "catalog.NAMESPACE,greeter.NAMESPACE,chat.NAMESPACE"}}
    spec:
      restartPolicy: Never
      containers:
      - name: caller
        image: tidegate
        env: [{name: PYTHONPATH, value: "/grpc:/websockets"}]
        command:
        - python3
        - -c
        - |
          import http.client, json, os, threading, time
          import grpc
          from websockets.exceptions import ConnectionClosed
          from websockets.sync.client import connect

          counts = {"http": 0, "grpc": 0, "websocket": 0}
          spread, failures, began = 0, [], time.monotonic()

          def failed(what):
              failures.append(f"after {time.monotonic() - began:.1f} s: {what}")

          def goes_on():
              return not os.path.exists("/reports/stop")

          def over_http():
              global spread
              pods, connection = set(), http.client.HTTPConnection("catalog", timeout=10)
              while goes_on():
                  try:
                      connection.request("GET", "/")
                      answer = connection.getresponse()
                      pods.add(json.loads(answer.read())["pod"])
                      assert answer.status == 200, answer.status
                      counts["http"] += 1
                      if answer.will_close:
                          pods = set()
                      # The most pods that requests of one connection went to.
                      spread = max(spread, len(pods))
                  except Exception as error:
                      failed(f"http: {error!r}")
                      connection.close()

          def over_grpc():
              with grpc.insecure_channel("greeter:50051") as channel:
                  echo = channel.unary_unary("/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/Echo")
                  while goes_on():
                      try:
                          echo(b"", timeout=10)
                          counts["grpc"] += 1
                      except grpc.RpcError as error:
                          failed(f"grpc: {error.code()} {error.details()} {error.trailing_metadata()}")

          def over_websocket():
              while goes_on():
                  try:
                      with connect("ws://chat/ws") as socket:
                          while goes_on():
                              text = f"message {counts['websocket']}"
                              socket.send(text)
                              assert socket.recv(timeout=10) == text
                              counts["websocket"] += 1
                              time.sleep(0.005)
                  except ConnectionClosed as closed:
                      # A pod that ends says so.
                      if not closed.rcvd or closed.rcvd.code not in (1001, 1012):
                          failed(f"websocket: {closed!r}")
                  except Exception as error:
                      failed(f"websocket: {error!r}")

          threads = [threading.Thread(target=run) for run in (over_http, over_http, over_grpc, over_websocket)]
          for thread in threads:
              thread.start()
          while goes_on():
              with open("/reports/calls.new", "w") as calls:
                  calls.write(str(sum(counts.values())))
              os.rename("/reports/calls.new", "/reports/calls")
              time.sleep(0.1)
          for thread in threads:
              thread.join()
          with open("/reports/report", "w") as report:
              json.dump({**counts, "spread": spread, "failures": failures}, report)
        volumeMounts:
        - {name: grpc, mountPath: /grpc}
        - {name: websockets, mountPath: /websockets}
        - {name: reports, mountPath: /reports}
      volumes:
      - {name: grpc, hostPath: {path: GRPC}}
      - {name: websockets, hostPath: {path: WEBSOCKETS}}
      - {name: reports, hostPath: {path: REPORTS}}
"#;

#[test]
fn calls_outlive_rollouts_of_what_they_call() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let Some(grpc) = packages(GRPC) else { return };
    let Some(websockets) = packages(WEBSOCKETS) else { return };
    let namespace = shop(cluster);
    let reports = tempfile::tempdir().unwrap();
    namespace.apply(CALLED);
    rolled_out(&namespace, "called");
    let caller = CALLER.replace("NAMESPACE", &namespace.name);
    let folders = [("GRPC", grpc.as_path()), ("WEBSOCKETS", &websockets), ("REPORTS", reports.path())];
    let caller = folders.iter().fold(caller, |text, (word, path)| text.replace(word, path.to_str().unwrap()));
    namespace.apply(&injected(&caller, &namespace));
    wait_for("the first calls", || {
        let phase = "--output=jsonpath={.status.ready}";
        let ready = namespace.kubectl(&["get", "job", "caller", phase]);
        if ready == "1" { Ok(()) } else { Err(ready) }
    });
    // Rollouts, and the calls that there are at least between two of them.
    let (rollouts, between) = if std::env::var_os("TIDEGATE_LONG").is_some() { (20, 5_000) } else { (4, 0) };
    let calls = || fs::read_to_string(reports.path().join("calls")).map_or(0, |calls| calls.parse::<u64>().unwrap());
    for _ in 0..rollouts {
        let before = calls();
        // At most one in a second is taken.
        wait_for("a rollout", || namespace.try_kubectl(&["rollout", "restart", "deployment/called"]));
        rolled_out(&namespace, "called");
        wait_for("calls between two rollouts", || match calls() - before {
            made if made >= between => Ok(()),
            made => Err(format!("{made} of {between}")),
        });
    }
    for replicas in [10, 1] {
        namespace.kubectl(&["scale", "deployment/called", &format!("--replicas={replicas}")]);
        rolled_out(&namespace, "called");
    }
    fs::write(reports.path().join("stop"), "").unwrap();
    let status = ended(&namespace, "caller");
    assert_eq!(status["succeeded"], 1, "{}", namespace.kubectl(&["logs", "job/caller", "--container=caller"]));
    let report: Value = serde_json::from_str(&fs::read_to_string(reports.path().join("report")).unwrap()).unwrap();
    println!("{rollouts} rollouts: {report}");
    assert_eq!(report["failures"], Value::Array(Vec::new()), "{report}");
    assert!(["http", "grpc", "websocket"].iter().all(|way| report[way].as_u64() > Some(50)), "{report}");
    assert!(report["spread"].as_u64() > Some(1), "requests of one connection go to several pods: {report}");
}
