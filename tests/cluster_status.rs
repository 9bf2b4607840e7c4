//! What a real API server is told about routes: conditions, Events, and who tells it.
//!
//! `tests/cluster.sh` builds the control plane and helm, and runs this; without them every test says so and skips.
//! tidegate runs with the rights of the chart's ServiceAccount and nothing else. With `TIDEGATE_LONG=1` there are 5,000
//! routes, 1,000 edits, 50 rolling restarts and a minute of rest instead of few.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use support::chart::template;
use support::client::Client;
use support::cluster::{Cluster, Namespace, Options, timeout, wait_for};
use support::controller::Controller;
use support::tools::helm;

/// The cluster that the tests share, with the CRD in it.
fn shared() -> Option<&'static Cluster> {
    let cluster = Cluster::shared()?;
    cluster.install_routes();
    Some(cluster)
}

/// The rights of a release of the chart that serves the class of its namespace, and the kubeconfig of its account.
fn account(cluster: &Cluster, namespace: &Namespace<'_>) -> Option<PathBuf> {
    let values = "rbac: {aggregateToUserRoles: false}\ncrds: {check: false}";
    let shown = ["templates/rbac.yaml", "templates/serviceaccount.yaml"].map(|file| format!("--show-only={file}"));
    let rendered = template(helm()?, values, &["--namespace", &namespace.name, &shown[0], &shown[1]]).unwrap();
    cluster.apply(&rendered);
    let kubeconfig = namespace.kubeconfig_for("tidegate");
    wait_for("the role", || {
        cluster.kubectl_as(&kubeconfig, &["auth", "can-i", "list", "gatewayroutes", "--all-namespaces"])
    });
    Some(kubeconfig)
}

/// Starts a replica. Its class is that of its namespace, so that tests do not see each other's routes.
fn start(cluster: &Cluster, namespace: &Namespace<'_>, kubeconfig: &Path, more: &[&str]) -> Controller {
    let class = format!("--gateway-class={}", namespace.name);
    let lease = format!("--lease-namespace={}", namespace.name);
    Controller::start(cluster, kubeconfig, &[&[class.as_str(), lease.as_str()], more].concat())
}

/// A route of the class of its namespace.
fn route(namespace: &Namespace<'_>, name: &str, spec: Value) -> String {
    let mut spec = spec;
    spec["gatewayClassName"] = namespace.name.as_str().into();
    json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": name }, "spec": spec })
        .to_string()
}

/// A spec that answers with a status by itself.
fn answers(hostname: &str, status: u16) -> Value {
    let filter = json!({ "type": "DirectResponse", "directResponse": { "statusCode": status } });
    json!({ "hostnames": [hostname], "rules": [{ "filters": [filter] }] })
}

/// A spec that sends everything to a Service.
fn sends_to(hostname: &str, backend: Value) -> Value {
    json!({ "hostnames": [hostname], "rules": [{ "name": "all", "backendRefs": [backend] }] })
}

fn read(namespace: &Namespace<'_>, name: &str) -> Value {
    serde_json::from_str(&namespace.kubectl(&["get", "gatewayroute", name, "--output=json"])).unwrap()
}

/// The condition of a type in a list.
fn condition<'a>(conditions: &'a Value, kind: &str) -> &'a Value {
    let found = conditions.as_array().and_then(|all| all.iter().find(|one| one["type"] == kind));
    found.unwrap_or(&Value::Null)
}

/// Waits until Ready speaks of the present generation, and returns the object.
fn settled(namespace: &Namespace<'_>, name: &str) -> Value {
    wait_for(&format!("the status of {name}"), || {
        let object = read(namespace, name);
        let observed = &condition(&object["status"]["conditions"], "Ready")["observedGeneration"];
        if *observed == object["metadata"]["generation"] { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

/// Waits until Ready has a reason.
fn wait_for_reason(namespace: &Namespace<'_>, name: &str, reason: &str) -> Value {
    wait_for(&format!("{name} to be {reason}"), || {
        let object = settled(namespace, name);
        let ready = condition(&object["status"]["conditions"], "Ready");
        if ready["reason"] == reason { Ok(object) } else { Err(object["status"].to_string()) }
    })
}

/// Waits for the next second, in which the API server stamps objects: their times, and so their age, are counted in seconds.
fn wait_for_a_later_second() {
    let second = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let begun = second();
    wait_for("a later second", || if second() > begun { Ok(()) } else { Err(begun.to_string()) });
}

#[test]
fn kubectl_waits_and_tells_the_truth() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("ready");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let replica = start(cluster, &namespace, &kubeconfig, &[]);
    namespace.apply(&route(&namespace, "good", answers("good.test", 204)));
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/good"]);
    // Ready is said of what serves.
    assert_eq!(replica.get("good.test").unwrap().status, 204);
    let object = read(&namespace, "good");
    let status = &object["status"];
    assert_eq!(status["observedGeneration"], 1);
    let parents = status["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 1);
    assert_eq!(parents[0]["controllerName"], "tidegate.dev/controller");
    assert_eq!(parents[0]["ref"], "tidegate.dev/Listener//http//");
    assert_eq!(parents[0]["hostnames"], json!(["good.test"]));
    for (kind, status, reason) in [
        ("Accepted", "True", "Accepted"),
        ("ResolvedRefs", "True", "ResolvedRefs"),
        ("Programmed", "True", "Programmed"),
        ("Conflicted", "False", "NoConflicts"),
    ] {
        let one = condition(&parents[0]["conditions"], kind);
        assert_eq!((&one["status"], &one["reason"]), (&json!(status), &json!(reason)), "{one}");
        assert_eq!(one["observedGeneration"], 1);
    }
    // Transition times stay while the status does, and move with it.
    let before = condition(&parents[0]["conditions"], "Accepted")["lastTransitionTime"].clone();
    wait_for_a_later_second();
    namespace.apply(&route(&namespace, "good", sends_to("good.test", json!({ "name": "nowhere", "port": 80 }))));
    let object = settled(&namespace, "good");
    let conditions = &object["status"]["parents"][0]["conditions"];
    assert_eq!(condition(conditions, "Accepted")["lastTransitionTime"], before);
    assert_ne!(condition(conditions, "ResolvedRefs")["lastTransitionTime"], before);
    let ready = condition(&object["status"]["conditions"], "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("BackendNotFound")));
    assert_ne!(ready["lastTransitionTime"], before);

    let table = namespace.kubectl(&["get", "gwr"]);
    let mut lines = table.lines();
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(columns(lines.next().unwrap()), ["NAME", "READY", "REASON", "HOSTNAMES", "AGE"], "{table}");
    assert_eq!(
        columns(lines.next().unwrap())[..4],
        ["good", "False", "BackendNotFound", r#"["good.test"]"#],
        "{table}"
    );
    assert!(namespace.kubectl(&["get", "gwr", "--output=wide"]).contains("Service"), "the message says why");
    let described = namespace.kubectl(&["describe", "gwr", "good"]);
    assert!(described.contains("BackendNotFound") && described.contains("nowhere"), "{described}");
}

#[test]
fn describe_says_why_a_route_does_not_work() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("why");
    let other = cluster.namespace("why-other");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let _replica = start(cluster, &namespace, &kubeconfig, &[]);
    let apply = |name: &str, spec: Value| namespace.apply(&route(&namespace, name, spec));
    let service = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{name: http, port: 80}]}}";
    namespace.apply(service);
    other.apply(service);

    apply("missing", sends_to("missing.test", json!({ "name": "gone", "port": 80 })));
    apply("port", sends_to("port.test", json!({ "name": "web", "port": 81 })));
    apply("not-permitted", sends_to("ref.test", json!({ "name": "web", "port": 80, "namespace": other.name })));
    let mut unsupported = answers("unsupported.test", 200);
    unsupported["rules"][0]["filters"] =
        json!([{ "type": "ExtensionRef", "extensionRef": { "group": "example.com", "kind": "Filter", "name": "it" } }]);
    unsupported["rules"][0]["backendRefs"] = json!([{ "name": "web", "port": 80 }]);
    apply("unsupported", unsupported);
    apply("parent", {
        let mut spec = answers("parent.test", 200);
        spec["parentRefs"] = json!([{ "group": "tidegate.dev", "kind": "Listener", "name": "nope" }]);
        spec
    });
    apply("winner", answers("contested.test", 201));
    settled(&namespace, "winner");
    wait_for_a_later_second();
    apply("loser", answers("contested.test", 202));
    for (name, reason, said) in [
        ("missing", "BackendNotFound", format!("{}/gone", namespace.name)),
        ("port", "BackendNotFound", "81".to_owned()),
        ("not-permitted", "RefNotPermitted", "ReferenceGrant".to_owned()),
        ("unsupported", "UnsupportedValue", "ExtensionRef".to_owned()),
        ("parent", "NoMatchingParent", "nope".to_owned()),
        ("loser", "DuplicateMatch", format!("{}/winner", namespace.name)),
    ] {
        let object = wait_for_reason(&namespace, name, reason);
        let ready = condition(&object["status"]["conditions"], "Ready");
        assert_eq!(ready["status"], "False");
        let message = ready["message"].as_str().unwrap();
        assert!(message.contains(&said), "{name}: {message}");
        let described = namespace.kubectl(&["describe", "gwr", name]);
        assert!(described.contains(&said), "{described}");
        // An Event says the same, once it was written.
        wait_for(&format!("the Event of {name}"), || {
            let field = format!("--field-selector=regarding.name={name},reason={reason},type=Warning");
            let events =
                namespace.kubectl(&["get", "events.events.k8s.io", &field, "--output=jsonpath={.items[*].note}"]);
            if events.contains(&said) { Ok(()) } else { Err(events) }
        });
        println!("{name}: {reason}: {message}");
    }
    let winner = settled(&namespace, "winner");
    assert_eq!(condition(&winner["status"]["conditions"], "Ready")["status"], "True");
    let events = wait_for("the Events of winner", || {
        let described = namespace.kubectl(&["describe", "gwr", "winner"]);
        if described.contains("Serves as written") { Ok(described) } else { Err(described) }
    });
    assert!(events.contains("Normal") && !events.contains("Warning"), "{events}");
    // What was missing comes: the status follows without an edit of the route.
    namespace.apply("{apiVersion: v1, kind: Service, metadata: {name: gone}, spec: {ports: [{name: http, port: 80}]}}");
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/missing"]);
}

#[test]
fn a_delegated_route_says_who_may_and_who_may_not() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("delegate");
    let team = cluster.namespace("delegate-team");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let replica = start(cluster, &namespace, &kubeconfig, &[]);
    let root = |from: &str| {
        let matches = json!([{ "path": { "type": "PathPrefix", "value": "/" } }]);
        let delegate = json!({ "namespaces": { "from": from } });
        json!({ "hostnames": ["shop.test"], "rules": [{ "name": "team", "matches": matches, "delegate": delegate }] })
    };
    namespace.apply(&route(&namespace, "root", root("All")));
    let parent = json!({
        "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": namespace.name, "name": "root", "sectionName": "team",
    });
    let mut child = answers("shop.test", 202);
    child["parentRefs"] = json!([parent]);
    child.as_object_mut().unwrap().remove("hostnames");
    let child = {
        let mut child = child;
        child["gatewayClassName"] = namespace.name.as_str().into();
        json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "child" }, "spec": child })
    };
    team.apply(&child.to_string());
    let object = wait_for_reason(&team, "child", "Ready");
    let key = format!("tidegate.dev/GatewayRoute/{}/root/team/", namespace.name);
    assert_eq!(object["status"]["parents"][0]["ref"], key.as_str());
    // It names none itself: they come with the delegation.
    assert_eq!(object["status"]["parents"][0]["hostnames"], json!(["shop.test"]));
    assert_eq!(replica.get("shop.test").unwrap().status, 202);
    namespace.apply(&route(&namespace, "root", root("Same")));
    let object = wait_for_reason(&team, "child", "NotDelegated");
    let message = condition(&object["status"]["conditions"], "Ready")["message"].as_str().unwrap();
    println!("NotDelegated: {message}");
    assert_eq!(replica.get("shop.test").unwrap().status, 404);
}

#[test]
fn a_hostname_of_another_namespace_is_refused_where_the_operator_asks_for_it() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("owner");
    let thief = cluster.namespace("owner-thief");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let settings = cluster.file("settings.yaml", "controller: {hostnameOwnership: Namespace}\n");
    let replica = start(cluster, &namespace, &kubeconfig, &["--settings", &settings]);
    namespace.apply(&route(&namespace, "site", answers("owned.test", 201)));
    settled(&namespace, "site");
    wait_for_a_later_second();
    let mut spec = answers("owned.test", 202);
    spec["rules"][0]["matches"] = json!([{ "path": { "type": "PathPrefix", "value": "/" }, "method": "GET" }]);
    thief.apply(&route(&namespace, "login", spec.clone()));
    let object = wait_for_reason(&thief, "login", "HostnameOwnedByOther");
    let accepted = condition(&object["status"]["parents"][0]["conditions"], "Accepted");
    let message = accepted["message"].as_str().unwrap();
    assert!(message.contains(&format!("which namespace {} owns", namespace.name)), "{message}");
    assert_eq!(replica.get("owned.test").unwrap().status, 201);
    // What is its own it keeps.
    spec["hostnames"] = json!(["owned.test", "own.test"]);
    thief.apply(&route(&namespace, "login", spec));
    replica.wait_for("own.test", 202);
    let object = settled(&thief, "login");
    let conditions = &object["status"]["parents"][0]["conditions"];
    assert_eq!(condition(conditions, "Accepted")["status"], "True");
    assert_eq!(condition(conditions, "Conflicted")["reason"], "HostnameOwnedByOther");
    assert_eq!(object["status"]["parents"][0]["hostnames"], json!(["own.test"]));
    assert_eq!(replica.get("owned.test").unwrap().status, 201);
}

#[test]
fn entries_of_others_stay_and_ours_go_with_the_class() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("others");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let _replica = start(cluster, &namespace, &kubeconfig, &[]);
    // An instance with the same name and another class has no part in this.
    let elsewhere = cluster.namespace("others-class");
    let Some(kubeconfig) = account(cluster, &elsewhere) else { return };
    let stranger = start(cluster, &elsewhere, &kubeconfig, &[]);
    stranger.wait_for_log("this replica writes the status of routes");
    namespace.apply(&route(&namespace, "shared", answers("shared.test", 200)));
    settled(&namespace, "shared");
    let condition_of_another = json!({
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "by another", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let foreign = json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "shared" },
        "status": { "parents": [{
            "controllerName": "other.example/controller", "ref": "x", "conditions": [condition_of_another],
            "parentRef": { "group": "other.example", "kind": "Gateway", "name": "x" },
        }] },
    });
    let file = cluster.file("foreign.yaml", &foreign.to_string());
    namespace.kubectl(&["apply", "--server-side", "--subresource=status", "--field-manager=other", "-f", &file]);
    let parents = |object: &Value| -> Vec<String> {
        let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
        parents.iter().map(|parent| parent["controllerName"].as_str().unwrap().to_owned()).collect()
    };
    let mut both = parents(&read(&namespace, "shared"));
    both.sort();
    assert_eq!(both, ["other.example/controller", "tidegate.dev/controller"]);
    // An edit writes ours anew and leaves theirs.
    namespace.apply(&route(&namespace, "shared", answers("shared.test", 201)));
    let object = settled(&namespace, "shared");
    assert_eq!(parents(&object).len(), 2);
    let theirs = object["status"]["parents"].as_array().unwrap().iter().find(|one| one["ref"] == "x").unwrap();
    assert_eq!(theirs["conditions"][0]["message"], "by another");
    // A parent that leaves the spec takes its entry along.
    let mut named = answers("shared.test", 201);
    named["parentRefs"] = json!([{ "group": "tidegate.dev", "kind": "Listener", "name": "nope" }]);
    namespace.apply(&route(&namespace, "shared", named));
    let object = settled(&namespace, "shared");
    let refs: Vec<_> = object["status"]["parents"].as_array().unwrap().iter().map(|one| one["ref"].clone()).collect();
    assert!(
        refs.len() == 2 && refs.contains(&json!("x")) && refs.contains(&json!("tidegate.dev/Listener//nope//")),
        "{refs:?}"
    );
    // With another class nothing of ours is left, Ready and observedGeneration included.
    namespace.kubectl(&[
        "patch",
        "gwr",
        "shared",
        "--type=merge",
        "-p",
        r#"{"spec":{"gatewayClassName":"elsewhere"}}"#,
    ]);
    let object = wait_for("ours to go", || {
        let object = read(&namespace, "shared");
        if parents(&object) == ["other.example/controller"] { Ok(object) } else { Err(object["status"].to_string()) }
    });
    assert_eq!(condition(&object["status"]["conditions"], "Ready"), &Value::Null, "{}", object["status"]);
    assert_eq!(object["status"]["observedGeneration"], Value::Null);
    assert_eq!(stranger.metric("tidegate_status_writes_total{result=\"ok\"}"), 0);
    // Nothing is left to take over either, until the route asks for that class.
    let class = format!(r#"{{"spec":{{"gatewayClassName":"{}"}}}}"#, elsewhere.name);
    namespace.kubectl(&["patch", "gwr", "shared", "--type=merge", "-p", &class]);
    assert_eq!(parents(&settled(&namespace, "shared")).len(), 2);
}

/// Two releases under names of their own serve the same class and disagree: Ready is what both make of it together, and
/// then nobody writes any more.
#[test]
fn two_controllers_that_disagree_come_to_rest() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("both");
    let other = cluster.namespace("both-other");
    let (Some(kubeconfig), Some(of_other)) = (account(cluster, &namespace), account(cluster, &other)) else { return };
    let lenient = start(cluster, &namespace, &kubeconfig, &[]);
    let class = format!("--gateway-class={}", namespace.name);
    let lease = format!("--lease-namespace={}", other.name);
    let settings = cluster.file("settings.yaml", "controller: {hostnameOwnership: Namespace}\n");
    let strict = ["--controller-name=tidegate.dev/strict", "--settings", &settings, &class, &lease];
    let strict = Controller::start(cluster, &of_other, &strict);
    namespace.apply(&route(&namespace, "site", answers("both.test", 201)));
    settled(&namespace, "site");
    wait_for_a_later_second();
    let ok = "tidegate_status_writes_total{result=\"ok\"}";
    let mut spec = answers("both.test", 202);
    let controllers = ["tidegate.dev/controller", "tidegate.dev/strict"];
    for generation in 1..=2 {
        spec["rules"][0]["matches"] =
            json!([{ "path": { "type": "PathPrefix", "value": format!("/{generation}") }, "method": "GET" }]);
        other.apply(&route(&namespace, "login", spec.clone()));
        let is_settled = || {
            let object = read(&other, "login");
            let parents = object["status"]["parents"].as_array().cloned().unwrap_or_default();
            let mut names: Vec<&str> = parents.iter().filter_map(|parent| parent["controllerName"].as_str()).collect();
            names.sort_unstable();
            let is_seen =
                |parent: &Value| condition(&parent["conditions"], "Accepted")["observedGeneration"] == generation;
            let ready = condition(&object["status"]["conditions"], "Ready");
            let is_whole =
                names == controllers && parents.iter().all(is_seen) && ready["observedGeneration"] == generation;
            if is_whole && ready["reason"] == "HostnameOwnedByOther" {
                Ok(())
            } else {
                Err(object["status"].to_string())
            }
        };
        wait_for("both to have said what they think", is_settled);
        let written =
            || (lenient.metric(ok), strict.metric(ok), read(&other, "login")["metadata"]["resourceVersion"].clone());
        // Each might have one more to make, after it has seen what the other one wrote.
        let at_rest = wait_for("both to come to rest", || {
            let before = written();
            std::thread::sleep(Duration::from_secs(2));
            if written() == before { Ok(before) } else { Err(format!("{before:?}")) }
        });
        // Time in which a quarrel would show: the same status is written again every five seconds.
        std::thread::sleep(Duration::from_secs(7));
        assert_eq!(written(), at_rest);
        is_settled().unwrap();
        println!("generation {generation}: {at_rest:?}");
    }
}

/// The definition is deleted by mistake, with all routes: they serve on, one line and a metric say what is missing, and
/// when it is back what is applied counts, without a new start.
#[test]
fn routes_outlive_their_definition() {
    const COUNT: usize = 150;
    let Some(cluster) = Cluster::start(Options::default().without_nodes()) else { return };
    cluster.install_routes();
    let namespace = cluster.namespace("definition");
    let Some(kubeconfig) = account(&cluster, &namespace) else { return };
    let host = |number: usize| format!("r{number}.test");
    let apply = |numbers: &mut dyn Iterator<Item = usize>, status: u16| {
        let routes = numbers.map(|number| route(&namespace, &format!("r{number}"), answers(&host(number), status)));
        namespace.apply(&routes.collect::<Vec<_>>().join("\n---\n"));
    };
    apply(&mut (0..COUNT), 200);
    let replica = start(&cluster, &namespace, &kubeconfig, &[]);
    replica.wait_for_log("this replica writes the status of routes");
    let all_serve = || (0..COUNT).all(|number| replica.get(&host(number)).is_ok_and(|answer| answer.status == 200));
    assert!(all_serve());
    cluster.kubectl(&["delete", "customresourcedefinition", "gatewayroutes.tidegate.dev", &timeout()]);
    let away = "tidegate_watch_restarts_total{kind=\"GatewayRoute\",cause=\"not_served\"}";
    wait_for("the kind to be away", || match replica.metric(away) {
        3.. => Ok(()),
        few => Err(few.to_string()),
    });
    assert_eq!(replica.metric("tidegate_watch_available{kind=\"GatewayRoute\"}"), 0);
    assert!(all_serve(), "{}", replica.log());
    let log = replica.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("GatewayRoute: ")).collect();
    assert!(lines.len() == 1 && lines[0].contains("expected its CustomResourceDefinition"), "{lines:?}");
    println!("{}", lines[0]);

    cluster.install_routes();
    replica.wait_for_log("GatewayRoute: read again");
    apply(&mut (0..COUNT / 2), 201);
    replica.wait_for(&host(COUNT / 2 - 1), 201);
    assert_eq!(replica.get(&host(0)).unwrap().status, 201);
    // The others may be on their way.
    assert_eq!(replica.get(&host(COUNT - 1)).unwrap().status, 200);
    assert_eq!(replica.metric("tidegate_watch_available{kind=\"GatewayRoute\"}"), 1);
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/r0"]);
}

/// Writes as the API server counts them, by resource: all but reads, since its start.
fn writes(cluster: &Cluster) -> std::collections::BTreeMap<String, u64> {
    let mut writes = std::collections::BTreeMap::new();
    for line in cluster.kubectl(&["get", "--raw", "/metrics"]).lines() {
        let Some(labels) = line.strip_prefix("apiserver_request_total{") else { continue };
        let (labels, count) = labels.split_once("} ").unwrap();
        let label = |name: &str| {
            let mut pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            pairs.find(|(label, _)| *label == name).map_or("", |(_, value)| value.trim_matches('"'))
        };
        let (verb, resource, sub) = (label("verb"), label("resource"), label("subresource"));
        if matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE") {
            *writes.entry(format!("{resource}/{sub}")).or_default() += count.parse::<f64>().unwrap() as u64;
        }
    }
    writes
}

fn writes_of(cluster: &Cluster, resource: &str) -> u64 {
    writes(cluster).get(resource).copied().unwrap_or(0)
}

/// How many routes there are where many matter: more in the long form.
fn many(few: usize, long: usize) -> usize {
    if std::env::var_os("TIDEGATE_LONG").is_some() { long } else { few }
}

/// Restart, rest and a change of the writer: nothing is written but the Lease. The writer is killed: another one goes on
/// within 12 s, and traffic notices nothing.
#[test]
fn one_of_two_writes_and_only_what_differs() {
    let Some(cluster) = Cluster::start(Options::default().without_nodes()) else { return };
    cluster.install_routes();
    let namespace = cluster.namespace("two");
    let Some(kubeconfig) = account(&cluster, &namespace) else { return };
    let routes = many(300, 5_000);
    let mut list = String::new();
    for number in 0..routes {
        list += &route(&namespace, &format!("r{number}"), answers(&format!("r{number}.test"), 200));
        list += "\n---\n";
    }
    namespace.apply(&list);
    let one = start(&cluster, &namespace, &kubeconfig, &[]);
    one.wait_for_log("this replica writes the status of routes");
    let begun = Instant::now();
    let all = "tidegate_status_writes_total{result=\"ok\"}";
    wait_for("all statuses", || match one.metric(all) as usize {
        written if written >= routes => Ok(()),
        written => Err(written.to_string()),
    });
    println!("{routes} statuses were written in {:?}", begun.elapsed());
    let shown = namespace.kubectl(&["get", "gwr", "--no-headers"]);
    assert_eq!(shown.lines().filter(|line| line.split_whitespace().nth(1) == Some("True")).count(), routes);
    let total = || writes_of(&cluster, "gatewayroutes/status");
    wait_for("the queue to be empty", || match one.metric("tidegate_status_queue_length") {
        0 => Ok(()),
        length => Err(length.to_string()),
    });
    let written = total();
    assert!(
        written as usize >= routes && written as usize <= routes + routes / 20,
        "{written} writes for {routes} routes"
    );

    // At rest: time in which something might be written.
    let events = writes_of(&cluster, "events/");
    std::thread::sleep(Duration::from_secs(many(10, 60) as u64));
    assert_eq!((total(), writes_of(&cluster, "events/")), (written, events), "at rest");
    // A second replica changes nothing, and neither does a change of the writer in good order.
    let two = start(&cluster, &namespace, &kubeconfig, &[]);
    assert!(one.is_leader() && !two.is_leader());
    let leases = writes_of(&cluster, "leases/");
    // What the machine takes by itself: for a call of kubectl, and for a status while somebody writes.
    let begun = Instant::now();
    namespace.apply(&route(&namespace, "early", answers("early.test", 200)));
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/early"]);
    let usual = begun.elapsed();
    let written = written + 1;
    one.signal("-TERM");
    let begun = Instant::now();
    two.wait_for_log("this replica writes the status of routes");
    println!("handed over in {:?}, beside {usual:?} for a status", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5) + usual, "{:?}", begun.elapsed());
    drop(one);
    // Time in which the new writer might write what it would say otherwise.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(total(), written, "a change of the writer");
    assert!(writes_of(&cluster, "leases/") > leases);

    // The writer dies while traffic runs through the other one.
    let three = start(&cluster, &namespace, &kubeconfig, &[]);
    let (failed, answered, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let good = three.get("r0.test").is_ok_and(|answer| answer.status == 200);
                (if good { &answered } else { &failed }).fetch_add(1, Ordering::Relaxed);
            }
        });
        assert!(two.is_leader() && !three.is_leader());
        two.signal("-KILL");
        let begun = Instant::now();
        namespace.apply(&route(&namespace, "late", answers("late.test", 200)));
        namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/late"]);
        println!("status after {:?} without a writer, beside {usual:?} with one", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(12) + 2 * usual, "{:?}", begun.elapsed());
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0);
    assert!(answered.load(Ordering::Relaxed) > 100);
    assert_eq!(total(), written + 1, "the new route alone");
    let lease: Value =
        serde_json::from_str(&namespace.kubectl(&["get", "lease", "tidegate", "--output=json"])).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 2, "{lease}");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 10);
    drop(two);
}

/// What other clocks say does not matter, forwards and backwards; a pause of the writer neither.
#[test]
fn skewed_clocks_and_pauses_make_no_second_writer() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("skew");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let one = start(cluster, &namespace, &kubeconfig, &[]);
    one.wait_for_log("this replica writes the status of routes");
    let two = start(cluster, &namespace, &kubeconfig, &[]);
    for time in ["2020-01-01T00:00:00.000000Z", "2090-01-01T00:00:00.000000Z"] {
        // As a holder would write it whose clock is wrong.
        let patch = format!(r#"{{"spec":{{"renewTime":"{time}"}}}}"#);
        for _ in 0..10 {
            namespace.kubectl(&["patch", "lease", "tidegate", "--type=merge", "-p", &patch]);
            assert!(!two.is_leader());
        }
    }
    assert!(one.is_leader());
    // A writer that does not run for a while is followed, and does not write when it wakes up.
    one.signal("-STOP");
    two.wait_for_log("this replica writes the status of routes");
    assert!(is_stopped(&one));
    one.signal("-CONT");
    wait_for("one writer", || if two.is_leader() && !one.is_leader() { Ok(()) } else { Err("two lead".to_owned()) });
    namespace.apply(&route(&namespace, "after", answers("after.test", 200)));
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/after"]);
    assert_eq!(one.metric("tidegate_status_writes_total{result=\"ok\"}"), 0);
    assert_eq!(two.metric("tidegate_status_writes_total{result=\"ok\"}"), 1);
}

/// Whether it does not answer, though the kernel lets clients in.
fn is_stopped(replica: &Controller) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", replica.admin)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Edits of a live route under load: whenever a status says Ready of a generation, that generation serves; and a status
/// that says otherwise is right, too.
#[test]
fn a_status_is_never_wrong_about_what_serves() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("edits");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    let replica = start(cluster, &namespace, &kubeconfig, &[]);
    replica.wait_for_log("this replica writes the status of routes");
    let proxy = cluster.proxy();
    let path = format!("/apis/tidegate.dev/v1alpha1/namespaces/{}/gatewayroutes", namespace.name);
    let call = |method: &str, path: &str, content_type: &str, body: &str| -> Value {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n");
        let request = format!("{head}content-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = Client::connect(proxy.port).request(&request).unwrap();
        assert!(matches!(answer.status, 200..=202), "{answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
    };
    let edits = many(60, 1_000);
    call("POST", &path, "application/json", &route(&namespace, "live", answers("live.test", 200)));
    let object = format!("{path}/live");
    let (mut wrong, mut slowest, mut sum) = (Vec::new(), Duration::ZERO, Duration::ZERO);
    for edit in 0..edits {
        let status = 200 + u16::try_from(edit % 50).unwrap();
        let is_broken = edit % 7 == 3;
        let mut spec = answers("live.test", status);
        if is_broken {
            spec["parentRefs"] = json!([{ "group": "tidegate.dev", "kind": "Listener", "name": "nope" }]);
        } else {
            spec["parentRefs"] = Value::Null;
        }
        let begun = Instant::now();
        let edited = call("PATCH", &object, "application/merge-patch+json", &json!({ "spec": spec }).to_string());
        let generation = edited["metadata"]["generation"].clone();
        let said = wait_for("the status", || {
            let object = call("GET", &object, "application/json", "");
            let ready = condition(&object["status"]["conditions"], "Ready").clone();
            if ready["observedGeneration"] == generation { Ok(ready) } else { Err(object["status"].to_string()) }
        });
        let took = begun.elapsed();
        (slowest, sum) = (slowest.max(took), sum + took);
        let served = replica.get("live.test").unwrap();
        let expected = if is_broken { 404 } else { status };
        let should = if is_broken { "False" } else { "True" };
        if said["status"] != should || served.status != expected {
            wrong.push(format!("edit {edit}: {said}, {}", served.status));
        }
    }
    println!(
        "{edits} edits, {} wrong; until the status: mean {:?}, slowest {slowest:?}",
        wrong.len(),
        sum / edits as u32
    );
    assert_eq!(wrong, Vec::<String>::new());
}

/// Rolling restarts of a backend under constant load: no request fails, and the status stays as it was written once, since
/// pods that come and go are no matter of it.
#[test]
fn rolling_restarts_cost_no_request_and_no_status() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("rolling");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    namespace.apply(WEB);
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);
    let replica = start(cluster, &namespace, &kubeconfig, &[]);
    namespace.apply(&route(&namespace, "web", sends_to("rolling.test", json!({ "name": "web", "port": 80 }))));
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/web"]);
    // A rollout is done before slices name its pods.
    replica.wait_for("rolling.test", 200);
    let written = read(&namespace, "web")["status"].clone();
    let restarts = many(2, 50);
    let (failed, answered, stop) = (Mutex::new(Vec::new()), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match replica.get("rolling.test") {
                    Ok(answer) if answer.status == 200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    other => failed.lock().unwrap().push(format!("{other:?}")),
                }
            }
        });
        // The load ends with the restarts, also when one of them fails.
        let restart = |number: usize| {
            // As `kubectl rollout restart` does, which refuses a second one within a second.
            let patch =
                json!({ "spec": { "template": { "metadata": { "annotations": { "restart": number.to_string() } } } } });
            namespace.try_kubectl(&["patch", "deployment", "web", "--patch", &patch.to_string()])?;
            namespace.try_kubectl(&["rollout", "status", "deployment/web", &timeout()])?;
            Ok(read(&namespace, "web")["status"].clone())
        };
        let seen: Result<Vec<Value>, String> = (0..restarts).map(restart).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(seen.unwrap().iter().all(|status| *status == written), "{written}");
    });
    println!("{restarts} rolling restarts, {} requests", answered.load(Ordering::Relaxed));
    assert_eq!(failed.into_inner().unwrap(), Vec::<String>::new());
    assert!(answered.load(Ordering::Relaxed) > 50);
    assert_eq!(replica.metric("tidegate_status_writes_total{result=\"ok\"}"), 1);
}

/// Three pods, and their Service.
const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// Rights that are missing are named, and come back into use by themselves.
#[test]
fn missing_rights_are_named_and_cost_no_traffic() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("status-rights");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    namespace.kubectl(&["delete", "rolebinding", "tidegate-lease"]);
    namespace.apply(&route(&namespace, "web", answers("rights.test", 200)));
    let replica = start(cluster, &namespace, &kubeconfig, &[]);
    replica.wait_for_log(&format!("Lease {}/tidegate may not be used: ", namespace.name));
    assert!(replica.log().contains("expected a role with get and update of this Lease and create of leases"));
    assert_eq!(replica.get("rights.test").unwrap().status, 200);
    assert_eq!(read(&namespace, "web")["status"], Value::Null);
    assert!(!replica.is_leader());
    account(cluster, &namespace);
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/web"]);
    assert!(replica.is_leader());
}

#[test]
fn without_status_neither_lease_nor_routes_are_touched() {
    let Some(cluster) = shared() else { return };
    let namespace = cluster.namespace("no-status");
    let Some(kubeconfig) = account(cluster, &namespace) else { return };
    namespace.apply(&route(&namespace, "web", answers("silent.test", 200)));
    let silent = start(cluster, &namespace, &kubeconfig, &["--no-status"]);
    assert_eq!(silent.get("silent.test").unwrap().status, 200);
    // One that does write is there now: the other one leaves that to it, too.
    let writes = start(cluster, &namespace, &kubeconfig, &["--lease-name=tidegate"]);
    namespace.kubectl(&["wait", "--for=condition=Ready", &timeout(), "gwr/web"]);
    assert!(writes.is_leader() && !silent.is_leader());
    assert!(!silent.log().contains("Lease"));
}

/// A schema that is newer than the program lets objects in that the program cannot read.
#[test]
fn an_object_of_another_schema_is_told_what_still_serves() {
    let Some(cluster) = Cluster::start(Options::default().without_nodes()) else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/gatewayroutes.tidegate.dev.yaml");
    let mut crd: Value = serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": { "gatewayClassName": { "type": "string" } },
    });
    cluster.apply(&crd.to_string());
    cluster.kubectl(&["wait", "--for=condition=Established", &timeout(), "crd/gatewayroutes.tidegate.dev"]);
    let namespace = cluster.namespace("schema");
    let Some(kubeconfig) = account(&cluster, &namespace) else { return };
    let replica = start(&cluster, &namespace, &kubeconfig, &[]);
    namespace.apply(&route(&namespace, "edited", answers("edited.test", 201)));
    settled(&namespace, "edited");
    for (name, said) in
        [("edited", "generation 1, the last that could be read, stays active"), ("new", "is not served")]
    {
        namespace.apply(&route(&namespace, name, json!({ "hostnames": [format!("{name}.test")], "rules": 5 })));
        let object = wait_for_reason(&namespace, name, "UnsupportedValue");
        let message = condition(&object["status"]["conditions"], "Ready")["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
        println!("{name}: {message}");
    }
    assert_eq!(replica.get("edited.test").unwrap().status, 201);
    // The others are no worse off for it, and a repair is seen.
    namespace.apply(&route(&namespace, "new", answers("new.test", 202)));
    wait_for_reason(&namespace, "new", "Ready");
    assert_eq!(replica.get("new.test").unwrap().status, 202);
}
