//! The rights of the chart's service account on a real API server: each is used, nothing else is asked for, and without
//! one of them the log names what is missing, and the rest works.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cluster::{BACKEND_TLS_POLICIES, Cluster, Namespace, Options, REFERENCE_GRANTS, timeout, wait_for};
use crate::gateway::{Gateway, Rights};
use crate::helm;
use crate::rbac::{is_certificates, rights};

/// What the gateway does without one rule.
struct Loss {
    /// Resource of the rule, and one of its verbs.
    rule: (&'static str, &'static str),
    /// Words of the one line of the log.
    said: &'static [&'static str],
    /// Nothing can be served without it.
    is_needed: bool,
    /// A series of the metrics that shows it, with its value.
    metric: Option<&'static str>,
}

/// Without the rule for a kind that is watched.
macro_rules! unread {
    ($resource:literal, $kind:literal, is_needed: $is_needed:literal) => {
        Loss {
            rule: ($resource, "list"),
            said: &[
                concat!($kind, ": may not be listed and watched"),
                $resource,
                "expected a role with list and watch",
            ],
            is_needed: $is_needed,
            metric: Some(concat!("tidegate_watch_available{kind=\"", $kind, "\"} 0")),
        }
    };
}

const LOSSES: &[Loss] = &[
    unread!("gatewayroutes", "GatewayRoute", is_needed: true),
    unread!("services", "Service", is_needed: true),
    unread!("endpointslices", "EndpointSlice", is_needed: true),
    unread!("endpoints", "Endpoints", is_needed: false),
    unread!("namespaces", "Namespace", is_needed: false),
    unread!("referencegrants", "ReferenceGrant", is_needed: false),
    unread!("backendtlspolicies", "BackendTLSPolicy", is_needed: false),
    Loss {
        rule: ("customresourcedefinitions", "get"),
        said: &["CustomResourceDefinition gatewayroutes.tidegate.dev may not be read", "expected a role with get"],
        is_needed: false,
        metric: None,
    },
    Loss {
        rule: ("nodes", "get"),
        said: &["the node here may not be read", "expected a role with get of nodes"],
        is_needed: false,
        metric: None,
    },
    Loss {
        rule: ("gatewayroutes/status", "patch"),
        said: &["the status of a route may not be written", "expected a role with patch of gatewayroutes/status"],
        is_needed: false,
        metric: Some("tidegate_status_writes_total{result=\"refused\"}"),
    },
    Loss {
        rule: ("backendtlspolicies/status", "patch"),
        said: &[
            "the status of a BackendTLSPolicy may not be written",
            "expected a role with patch of backendtlspolicies/status",
        ],
        is_needed: false,
        metric: Some("tidegate_status_writes_total{result=\"refused\"}"),
    },
    Loss {
        rule: ("events", "create"),
        said: &["an Event may not be written", "expected a role with create and patch of events.k8s.io/events"],
        is_needed: false,
        metric: None,
    },
    Loss {
        rule: ("leases", "get"),
        said: &["/tidegate may not be used", "expected a role with get and update of this Lease"],
        is_needed: false,
        metric: Some("tidegate_leader 0"),
    },
    Loss {
        rule: ("leases", "create"),
        said: &["/tidegate may not be used", "create of leases"],
        is_needed: false,
        metric: Some("tidegate_leader 0"),
    },
];

/// A role without the one rule of a resource and verb, which is given apart. Of several resources in one rule only this one
/// goes.
pub fn without(role: &Value, (resource, verb): (&str, &str)) -> Option<Value> {
    let has = |list: &Value, item: &str| list.as_array().unwrap().iter().any(|one| one == item);
    let at = role["rules"]
        .as_array()?
        .iter()
        .position(|rule| has(&rule["resources"], resource) && has(&rule["verbs"], verb))?;
    let mut role = role.clone();
    let rules = role["rules"].as_array_mut().unwrap();
    let resources = rules[at]["resources"].as_array_mut().unwrap();
    resources.retain(|one| one != resource);
    if resources.is_empty() {
        rules.remove(at);
    }
    Some(role)
}

/// A route of a class of its own, which no other gateway of this cluster serves.
fn route(name: &str, hostname: &str, class: &str) -> String {
    format!(
        "{{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {{name: {name}}}, spec: {{gatewayClassName: \
         {class}, hostnames: [{hostname}], rules: [{{filters: [{{type: DirectResponse, directResponse: {{statusCode: 200, body: \
         {name}}}}}]}}]}}}}"
    )
}

/// A policy for a Service, with the route of a class that leads there.
fn policy_in_use(class: &str) -> String {
    let validation = json!({ "hostname": "web.internal", "wellKnownCACertificates": "System" });
    let targets = json!([{ "group": "", "kind": "Service", "name": "web" }]);
    let policy = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": { "name": "web" }, "spec": { "targetRefs": targets, "validation": validation } });
    let rules = json!([{ "backendRefs": [{ "name": "web", "port": 443 }] }]);
    let route = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "web" },
        "spec": { "gatewayClassName": class, "hostnames": [format!("web.{class}.test")], "rules": rules } });
    format!("{policy}\n---\n{route}")
}

#[test]
fn each_rule_that_is_taken_away_is_named_and_the_rest_works() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    cluster.install_kind(BACKEND_TLS_POLICIES);
    let mut named = Vec::new();
    for loss in LOSSES {
        println!("without {} {}", loss.rule.1, loss.rule.0);
        // A namespace of its own, so that no Lease of the one before is left.
        let namespace = cluster.namespace("rights");
        let rights = Rights::apply(cluster, helm, &namespace, "controller: {watchLegacyEndpoints: true}");
        let whole = rights.objects.iter().find(|object| {
            object["rules"].is_array()
                && !object["metadata"]["name"].as_str().unwrap().ends_with("-view")
                && !is_certificates(object)
                && without(object, loss.rule).is_some()
        });
        let whole = whole.unwrap_or_else(|| panic!("no role has {:?}", loss.rule)).clone();
        named.push(loss.rule);
        rights.put(&without(&whole, loss.rule).unwrap());
        lose(cluster, &namespace, &rights, loss, &whole);
    }
    // Every rule was taken away once.
    let namespace = cluster.namespace("rights");
    let rights = Rights::apply(cluster, helm, &namespace, "controller: {watchLegacyEndpoints: true}");
    let aggregated =
        |role: &Value| role["metadata"]["labels"].as_object().unwrap().keys().any(|key| key.contains("aggregate-to"));
    // Certificates have a test of their own.
    let is_own = |object: &&Value| object["rules"].is_array() && !aggregated(object) && !is_certificates(object);
    for role in rights.objects.iter().filter(is_own) {
        for rule in role["rules"].as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                let is_named = |(name, verb): &(&str, &str)| {
                    resource == *name && rule["verbs"].as_array().unwrap().iter().any(|one| one == *verb)
                };
                assert!(named.iter().any(is_named), "{rule}");
            }
        }
    }
}

fn lose(cluster: &Cluster, namespace: &Namespace<'_>, rights: &Rights<'_>, loss: &Loss, whole: &Value) {
    let host = format!("{}.test", namespace.name);
    namespace.apply(&route("first", &host, &namespace.name));
    namespace.apply(&policy_in_use(&namespace.name));
    let class = format!("--gateway-class={}", namespace.name);
    let controller = format!("--controller-name=tidegate.dev/{}", namespace.name);
    let flags = ["--watch-legacy-endpoints", "--node=here", &class, &controller];
    let mut gateway = Gateway::start(cluster, &rights.kubeconfig, &flags);
    let line = gateway.wait_for_log(loss.said);
    println!("{line}");
    if loss.is_needed {
        assert_eq!(gateway.readiness().unwrap().status, 503, "it must not say that it is ready");
    } else {
        gateway.wait_until_ready();
        assert_eq!(gateway.wait_for(&host, 200), "first");
        // What changes is served, too.
        namespace.apply(&route("second", &format!("second.{host}"), &namespace.name));
        assert_eq!(gateway.wait_for(&format!("second.{host}"), 200), "second");
    }
    if let Some(metric) = loss.metric {
        gateway.wait_for_metric(metric);
    }
    let told = gateway.log().lines().filter(|line| loss.said.iter().all(|word| line.contains(word))).count();
    assert_eq!(told, 1, "it is said once: {}", gateway.log());
    if loss.is_needed {
        // With the rule it goes on, without a new start.
        rights.put(whole);
        gateway.wait_until_ready();
        assert_eq!(gateway.wait_for(&host, 200), "first");
    }
}

/// The audit log of an API server of one's own, which tells what it was asked for. The API server does not stream lists, so that
/// `list` is asked for as well as `watch`.
pub struct Audit {
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Audit {
    /// Starts an API server with one.
    pub fn start() -> Option<(Cluster, Self)> {
        let folder = tempfile::tempdir().unwrap();
        let (policy, log) = (folder.path().join("policy.yaml"), folder.path().join("audit.log"));
        let policies = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [{ "level": "Metadata" }],
        });
        fs::write(&policy, policies.to_string()).unwrap();
        let flags = format!(
            "--apiserver-args=--feature-gates=WatchList=false --audit-policy-file={} --audit-log-path={}",
            policy.display(),
            log.display()
        );
        let cluster = Cluster::start(Options { args: vec![flags] }.without_nodes())?;
        Some((cluster, Self { log, _folder: folder }))
    }

    /// What a service account has asked for, as far as it is about objects.
    fn events(&self, account: &str) -> Vec<Value> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        // The last line may not be whole yet.
        let events = log.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["user"]["username"] == account && event["objectRef"]["resource"].is_string())
            .collect()
    }

    /// `group/resource verb` of everything that a service account has asked for.
    pub fn asked_by(&self, account: &str) -> BTreeSet<String> {
        let right = |event: &Value| {
            let about = &event["objectRef"];
            let sub = about["subresource"].as_str().map(|sub| format!("/{sub}")).unwrap_or_default();
            let [resource, verb] = [&about["resource"], &event["verb"]].map(|text| text.as_str().unwrap());
            format!("{}/{resource}{sub} {verb}", about["apiGroup"].as_str().unwrap_or_default())
        };
        self.events(account).iter().map(right).collect()
    }

    /// The namespaces in which a service account has asked for something; an empty name for the whole cluster.
    pub fn namespaces_of(&self, account: &str) -> BTreeSet<String> {
        let namespace = |event: &Value| event["objectRef"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.events(account).iter().map(namespace).collect()
    }
}

/// The audit log of an API server tells what the controller asks for while everything that it does is done once.
#[test]
fn every_right_that_is_given_is_used_and_no_other_is_asked_for() {
    let Some(helm) = helm() else { return };
    let Some((cluster, audit)) = Audit::start() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    cluster.install_kind(BACKEND_TLS_POLICIES);
    for is_everywhere in [true, false] {
        let namespace = cluster.namespace("used");
        let watched = if is_everywhere { String::new() } else { format!("watchNamespaces: [{}], ", namespace.name) };
        let values = format!("{{controller: {{{watched}watchLegacyEndpoints: true}}}}");
        let given = Rights::apply(&cluster, helm, &namespace, &values);
        let account = format!("system:serviceaccount:{}:tidegate", namespace.name);
        let is_own = |role: &&Value| {
            role["rules"].is_array()
                && !is_certificates(role)
                && !role["metadata"]["labels"].as_object().unwrap().keys().any(|key| key.contains("aggregate-to"))
        };
        let without_names = |right: String| match (right.split_once('='), right.split_once(' ')) {
            (Some((resource, _)), Some((_, verb))) => format!("{resource} {verb}"),
            (None, _) | (_, None) => right,
        };
        let expected: BTreeSet<String> =
            given.objects.iter().filter(is_own).flat_map(rights).map(without_names).collect();

        let class = format!("--gateway-class={}", namespace.name);
        let mut flags = vec!["--watch-legacy-endpoints".to_owned(), "--node=here".to_owned(), class];
        flags.extend((!is_everywhere).then(|| format!("--watch-namespaces={}", namespace.name)));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let _gateway = Gateway::start_ready(&cluster, &given.kubeconfig, &flags);
        let host = format!("{}.test", namespace.name);
        namespace.apply(&policy_in_use(&namespace.name));
        // It serves, does not, serves again: one Event of it is counted in the other.
        for (backend, ready) in [(None, "True"), (Some("nowhere"), "False"), (None, "True")] {
            let mut object: Value = serde_saphyr::from_str(&route("one", &host, &namespace.name)).unwrap();
            if let Some(name) = backend {
                object["spec"]["rules"] = json!([{ "backendRefs": [{ "name": name, "port": 80 }] }]);
            }
            namespace.apply(&object.to_string());
            namespace.kubectl(&["wait", &format!("--for=condition=Ready={ready}"), &timeout(), "gwr/one"]);
        }
        let asked = wait_for("all rights to be used", || {
            let asked = audit.asked_by(&account);
            let unused: Vec<&String> = expected.difference(&asked).collect();
            if unused.is_empty() { Ok(asked) } else { Err(format!("not used: {unused:?}")) }
        });
        assert_eq!(asked, expected, "with {values}");
    }
}
