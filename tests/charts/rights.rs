//! Each rule of the chart's roles taken away in turn, on a real API server: the log names what is missing, and the rest works.

use serde_json::Value;

use crate::cluster::{Cluster, Namespace, REFERENCE_GRANTS};
use crate::gateway::{Gateway, Rights};
use crate::helm;

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
    Loss {
        rule: ("customresourcedefinitions", "get"),
        said: &["CustomResourceDefinition gatewayroutes.tidegate.dev may not be read", "expected a role with get"],
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
        rule: ("events", "create"),
        said: &["an Event may not be written", "expected a role with create of events.k8s.io/events"],
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
fn without(role: &Value, (resource, verb): (&str, &str)) -> Option<Value> {
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

#[test]
fn each_rule_that_is_taken_away_is_named_and_the_rest_works() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
    let mut named = Vec::new();
    for loss in LOSSES {
        println!("without {} {}", loss.rule.1, loss.rule.0);
        // A namespace of its own, so that no Lease of the one before is left.
        let namespace = cluster.namespace("rights");
        let rights = Rights::apply(cluster, helm, &namespace, "controller: {watchLegacyEndpoints: true}");
        let whole = rights.objects.iter().find(|object| {
            object["rules"].is_array()
                && !object["metadata"]["name"].as_str().unwrap().ends_with("-view")
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
    for role in rights.objects.iter().filter(|object| object["rules"].is_array() && !aggregated(object)) {
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
    let class = format!("--gateway-class={}", namespace.name);
    let controller = format!("--controller-name=tidegate.dev/{}", namespace.name);
    let flags = ["--watch-legacy-endpoints", &class, &controller];
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
