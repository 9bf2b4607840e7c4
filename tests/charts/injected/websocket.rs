//! WebSockets between pods with sidecars on both sides.

use super::{WEBSOCKETS, ended, injected, metrics, packages, place, pods, rolled_out, shop};
use crate::cluster::{Cluster, wait_for};

/// Pods that send back what they are sent, and live on after their end was asked for.
const CHAT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: chat}
spec:
  replicas: 2
  selector: {matchLabels: {app: chat}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {app: chat}
      annotations: {sidecar.tidegate.dev/in: ws, fakenode/terminate: 15s}
    spec: {containers: [{name: chat, image: web, ports: [{name: ws, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: chat}, ports: [{name: ws, port: 80, targetPort: ws}]}
"#;

/// An application that talks until it is asked to leave, comes back at once, and goes on. A message that a socket does not
/// answer before it closes is sent again on the next one.
const TALK: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: talk}
spec:
  backoffLimit: 0
  template:
    metadata: {annotations: {sidecar.tidegate.dev/out: chat.NAMESPACE}}
    spec:
      restartPolicy: Never
      containers:
      - name: talk
        image: tidegate
        env: [{name: PYTHONPATH, value: /packages}]
        command:
        - python3
        - -c
        - |
          import time
          from websockets.exceptions import ConnectionClosed
          from websockets.sync.client import connect

          def say(socket, text):
              socket.send(text)
              heard = socket.recv(timeout=20)
              assert heard == text, (heard, text)

          number, reasons = 0, []
          while True:
              with connect("ws://chat/ws") as socket:
                  print("open", flush=True)
                  try:
                      while not reasons or number < until:
                          say(socket, f"message {number}")
                          number += 1
                          time.sleep(0.02)
                      break
                  except ConnectionClosed as closed:
                      reasons.append(closed.rcvd and closed.rcvd.code)
                      until = number + 50
          print("closed", reasons, flush=True)
        volumeMounts: [{name: packages, mountPath: /packages}]
      volumes: [{name: packages, hostPath: {path: PACKAGES}}]
"#;

#[test]
fn a_socket_between_two_sidecars_is_asked_to_leave_and_the_next_one_is_there_at_once() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let Some(packages) = packages(WEBSOCKETS) else { return };
    let namespace = shop(cluster);
    let talk = TALK.replace("NAMESPACE", &namespace.name).replace("PACKAGES", packages.to_str().unwrap());
    namespace.apply(&injected(CHAT, &namespace));
    rolled_out(&namespace, "chat");
    namespace.apply(&injected(&talk, &namespace));
    let log = || namespace.try_kubectl(&["logs", "job/talk", "--container=talk"]);
    wait_for("the first socket", || {
        let log = log()?;
        if log.contains("open") { Ok(()) } else { Err(log) }
    });
    let open = |label: &str| -> Result<usize, String> {
        let pages = pods(&namespace, label).iter().map(|pod| metrics(place(pod).1)).collect::<Result<Vec<_>, _>>()?;
        Ok(pages.iter().filter(|page| page.contains("tidegate_sockets_open 1\n")).count())
    };
    wait_for("the socket on both sides", || match (open("job-name=talk")?, open("app=chat")?) {
        (1, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // Every pod that there is now ends.
    namespace.kubectl(&["rollout", "restart", "deployment/chat"]);
    rolled_out(&namespace, "chat");
    let status = ended(&namespace, "talk");
    let log = log().unwrap();
    assert_eq!(status["succeeded"], 1, "{log}");
    // Asked to leave by a close frame, as a service that restarts does, however often.
    let reasons = log.lines().last().and_then(|line| line.strip_prefix("closed ")).expect("it says why");
    let reasons: Vec<u16> = serde_json::from_str(reasons).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert!(!reasons.is_empty() && reasons.iter().all(|code| *code == 1012), "{reasons:?}");
}
