//! Jobs: an application of one has its Services at its first instruction, and the sidecar ends with it.

use serde_json::{Value, json};

use super::{ended, injected, pods, shop};
use crate::cluster::{Cluster, wait_for};

/// A call by the unchanged name of a Service.
const CALL: &str = r#"
import http.client
connection = http.client.HTTPConnection("payments", timeout=10)
connection.request("GET", "/")
assert connection.getresponse().status == 200
"#;

/// How many pods the large job has, and how many of them at a time.
const PODS: (usize, usize) = (100, 10);

fn container(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": "tidegate", "command": ["python3", "-c", script] })
}

/// The specification of a job whose application, and an init container before it, begins with a call.
fn job((pods, at_a_time): (usize, usize), init: &[Value], ending: &str, namespace: &str) -> Value {
    json!({
        "completions": pods,
        "parallelism": at_a_time,
        "backoffLimit": 0,
        "template": {
            "metadata": { "annotations": { "sidecar.tidegate.dev/out": format!("payments.{namespace}") } },
            "spec": {
                "restartPolicy": "Never",
                "initContainers": init,
                "containers": [container("bill", &format!("{CALL}{ending}"))],
            },
        },
    })
}

/// How the sidecar and the application of a pod have ended: exit code and second each.
fn ends(pod: &Value) -> [(i64, i64); 2] {
    ["initContainerStatuses", "containerStatuses"].map(|list| {
        let state = &pod["status"][list][0]["state"]["terminated"];
        let at: jiff::Timestamp = state["finishedAt"].as_str().unwrap_or_else(|| panic!("{pod}")).parse().unwrap();
        (state["exitCode"].as_i64().unwrap(), at.as_second())
    })
}

#[test]
fn jobs_call_services_at_their_first_instruction_and_end_with_their_application() {
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    let namespace = shop(cluster);
    let apply = |version: &str, kind: &str, name: &str, spec: Value| {
        let object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec });
        namespace.apply(&injected(&object.to_string(), &namespace));
    };
    let one = |init: &[Value], ending: &str| job((1, 1), init, ending, &namespace.name);
    let (many, _) = PODS;
    // Its turn comes with the next minute; the others go on meanwhile.
    let nightly =
        json!({ "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": { "spec": one(&[], "") } });
    apply("batch/v1", "CronJob", "nightly", nightly);
    apply("batch/v1", "Job", "broken", one(&[container("first", CALL)], "raise SystemExit(3)"));
    apply("batch/v1", "Job", "bill", job(PODS, &[], "", &namespace.name));

    let status = ended(&namespace, "bill");
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(many), &Value::Null), "{status}");
    let mut delays = Vec::new();
    for pod in pods(&namespace, "job-name=bill") {
        let [(sidecar, later), (_, app)] = ends(&pod);
        assert_eq!(sidecar, 0, "{pod}");
        delays.push(later - app);
    }
    assert_eq!(delays.len(), many);
    delays.sort_unstable();
    // A machine that has other things to do may delay some of them.
    assert!(delays[many / 2] <= 2, "a sidecar ends with its application: {delays:?} seconds later");

    // What the application says counts, and not what becomes of the sidecar.
    let status = ended(&namespace, "broken");
    assert_eq!((&status["succeeded"], &status["failed"]), (&Value::Null, &json!(1)), "{status}");
    let pods = pods(&namespace, "job-name=broken");
    assert_eq!(ends(&pods[0]).map(|(code, _)| code), [0, 3]);
    let first = &pods[0]["status"]["initContainerStatuses"][1]["state"]["terminated"]["exitCode"];
    assert_eq!(first, 0, "an init container can call as well");

    wait_for("a run of the CronJob", || {
        let success = "--output=jsonpath={.status.lastSuccessfulTime}";
        let at = namespace.kubectl(&["get", "cronjob", "nightly", success]);
        if at.is_empty() { Err("none has succeeded".to_owned()) } else { Ok(()) }
    });
}
