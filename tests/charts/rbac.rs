//! Rights: exactly what the controller needs.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{find, get, helm, render};

/// `group/resource verb` of each right, with `=name` for a restricted one.
pub fn rights(role: &Value) -> BTreeSet<String> {
    let strings = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let names = strings(&rule["resourceNames"]);
        let suffix = if names.is_empty() { String::new() } else { format!("={}", names.join(",")) };
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    assert!(all.insert(format!("{group}/{resource}{suffix} {verb}")), "twice: {resource} {verb}");
                }
            }
        }
    }
    all
}

fn set(rights: &[&str]) -> BTreeSet<String> {
    rights.iter().map(|&right| right.to_owned()).collect()
}

const NAMESPACED: &[&str] = &[
    "tidegate.dev/gatewayroutes list",
    "tidegate.dev/gatewayroutes watch",
    "tidegate.dev/gatewayroutes/status patch",
    "/services list",
    "/services watch",
    "discovery.k8s.io/endpointslices list",
    "discovery.k8s.io/endpointslices watch",
    "gateway.networking.k8s.io/referencegrants list",
    "gateway.networking.k8s.io/referencegrants watch",
    "gateway.networking.k8s.io/backendtlspolicies list",
    "gateway.networking.k8s.io/backendtlspolicies watch",
    "gateway.networking.k8s.io/backendtlspolicies/status patch",
    "events.k8s.io/events create",
    "events.k8s.io/events patch",
];
const OWN_CRD: &str = "apiextensions.k8s.io/customresourcedefinitions=gatewayroutes.tidegate.dev get";
const OWN_NODE: &str = "/nodes get";
const ENDPOINTS: &[&str] = &["/endpoints list", "/endpoints watch"];
const CLUSTER: &str = "tidegate-tidegate-system";

#[test]
fn all_namespaces_need_one_cluster_role() {
    let Some(helm) = helm() else { return };
    let objects = render(helm, "{}");
    let more = [OWN_CRD, OWN_NODE, "/namespaces list", "/namespaces watch"];
    assert_eq!(rights(get(&objects, "ClusterRole", CLUSTER)), set(&[NAMESPACED, &more].concat()));
    let objects = render(helm, "controller: {watchLegacyEndpoints: true}");
    assert_eq!(rights(get(&objects, "ClusterRole", CLUSTER)), set(&[NAMESPACED, &more, ENDPOINTS].concat()));
    let lease = set(&[
        "coordination.k8s.io/leases=tidegate get",
        "coordination.k8s.io/leases=tidegate update",
        "coordination.k8s.io/leases create",
    ]);
    let role = get(&objects, "Role", "tidegate-lease");
    assert_eq!((rights(role), &role["metadata"]["namespace"]), (lease, &Value::from("tidegate-system")));
    assert!(objects.iter().filter(|object| object["kind"] == "Role").count() == 1);
}

#[test]
fn watched_namespaces_need_roles_there_and_no_more() {
    let Some(helm) = helm() else { return };
    let objects = render(helm, "controller: {watchNamespaces: [shop, team-a]}");
    let roles: Vec<_> =
        objects.iter().filter(|object| object["kind"] == "Role" && object["metadata"]["name"] == CLUSTER).collect();
    let namespaces: Vec<_> = roles.iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(namespaces, ["shop", "team-a"]);
    for role in roles {
        assert_eq!(rights(role), set(NAMESPACED));
    }
    let labels = ["/namespaces=shop,team-a list", "/namespaces=shop,team-a watch"];
    assert_eq!(rights(get(&objects, "ClusterRole", CLUSTER)), set(&[&[OWN_CRD, OWN_NODE], &labels[..]].concat()));
    let container = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap();
    assert!(args.contains(&Value::from("--watch-namespaces=shop,team-a")), "{args:?}");
    let values = "controller: {watchNamespaces: [shop]}\nrbac: {clusterRole: false, aggregateToUserRoles: false}";
    let objects = render(helm, values);
    assert!(find(&objects, "ClusterRole", CLUSTER).is_none());
    assert!(!objects.iter().any(|object| object["kind"].as_str().unwrap().starts_with("ClusterRole")));
    let container = &get(&objects, "Deployment", "tidegate")["spec"]["template"]["spec"]["containers"][0];
    assert!(!container["args"].to_string().contains("--certificate-role"), "nobody is told to bind what is not there");
}

#[test]
fn every_binding_names_a_role_of_the_release_and_its_service_account() {
    let Some(helm) = helm() else { return };
    for values in ["{}", "controller: {watchNamespaces: [shop, team-a]}", "serviceAccount: {name: other}"] {
        let objects = render(helm, values);
        let account = get(&objects, "ServiceAccount", "");
        let bindings = objects.iter().filter(|object| object["kind"].as_str().unwrap().ends_with("RoleBinding"));
        let mut roles = 0;
        for binding in bindings {
            let role = &binding["roleRef"];
            assert!(
                objects.iter().any(|object| object["kind"] == role["kind"]
                    && object["metadata"]["name"] == role["name"]
                    && object["metadata"]["namespace"] == binding["metadata"]["namespace"]),
                "{binding}"
            );
            assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
            assert_eq!(binding["subjects"][0]["namespace"], "tidegate-system");
            roles += 1;
        }
        assert!(roles >= 2);
    }
}

/// The role that lets Secrets and ConfigMaps be read, which nothing binds by default.
pub fn is_certificates(role: &Value) -> bool {
    role["metadata"]["name"].as_str().unwrap().ends_with("-certificates")
}

#[test]
fn secrets_are_read_in_namespaces_that_opt_in_alone() {
    let Some(helm) = helm() else { return };
    let name = format!("{CLUSTER}-certificates");
    let bindings = |values: &str| {
        let objects = render(helm, values);
        let rights = rights(get(&objects, "ClusterRole", &name));
        let expected =
            ["configmaps", "secrets"].map(|kind| ["get", "list", "watch"].map(|verb| format!("/{kind} {verb}")));
        assert_eq!(rights, expected.into_iter().flatten().collect());
        let bindings = objects.iter().filter(|object| object["roleRef"]["name"] == name.as_str());
        let of = |object: &Value| (object["kind"].clone(), object["metadata"]["namespace"].clone());
        bindings.map(of).collect::<Vec<_>>()
    };
    assert_eq!(bindings("{}"), []);
    let in_namespace = |namespace: &str| (Value::from("RoleBinding"), Value::from(namespace));
    assert_eq!(bindings("certificates: {namespaces: [shop, team-a]}"), ["shop", "team-a"].map(in_namespace));
    assert_eq!(bindings("certificates: {clusterWide: true}"), [(Value::from("ClusterRoleBinding"), Value::Null)]);
    // Without ClusterRoles each namespace has a Role of its own.
    let values =
        "controller: {watchNamespaces: [shop]}\nrbac: {clusterRole: false}\ncertificates: {namespaces: [shop]}";
    let objects = render(helm, values);
    let of_shop = |kind: &str| {
        let is_it = |object: &&Value| object["kind"] == kind && is_certificates(object);
        let mut all = objects.iter().filter(is_it).collect::<Vec<_>>();
        let one = all.pop().unwrap();
        assert!(all.is_empty() && one["metadata"]["namespace"] == "shop", "{one}");
        one
    };
    assert_eq!(rights(of_shop("Role")).len(), 6);
    assert_eq!(of_shop("RoleBinding")["roleRef"]["kind"], "Role");
}

#[test]
fn sidecars_read_their_namespace_and_those_that_they_call() {
    let Some(helm) = helm() else { return };
    assert!(find(&render(helm, "{}"), "ClusterRole", "tidegate-sidecar").is_none(), "without sidecars");
    let expected = [
        "tidegate.dev/gatewayroutes list",
        "tidegate.dev/gatewayroutes watch",
        "/services list",
        "/services watch",
        "discovery.k8s.io/endpointslices list",
        "discovery.k8s.io/endpointslices watch",
        "gateway.networking.k8s.io/referencegrants list",
        "gateway.networking.k8s.io/referencegrants watch",
    ];
    let bindings = |values: &str| {
        let objects = render(helm, values);
        assert_eq!(rights(get(&objects, "ClusterRole", "tidegate-sidecar")), set(&expected));
        let bindings = objects.iter().filter(|object| object["roleRef"]["name"] == "tidegate-sidecar");
        let of = |object: &Value| {
            assert_eq!(object["kind"], "RoleBinding");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let name = text(&object["metadata"]["name"]);
            (name, text(&object["metadata"]["namespace"]), text(&object["subjects"][0]["name"]))
        };
        bindings.map(of).collect::<Vec<_>>()
    };
    assert_eq!(bindings("sidecar: {createRole: true}"), []);
    let twice = bindings("sidecar: {access: [{from: shop, to: [a]}, {from: shop, to: [a, b]}]}");
    assert_eq!(twice.len(), 3, "one in each namespace, however often it is named: {twice:?}");
    let binding = |from: &str, at: &str| {
        (format!("tidegate-sidecar-{from}"), at.to_owned(), format!("system:serviceaccounts:{from}"))
    };
    assert_eq!(
        bindings("sidecar: {access: [{from: shop, to: [shop, id]}, {from: id, to: []}]}"),
        [binding("shop", "shop"), binding("shop", "id"), binding("id", "id")]
    );
}

/// A gateway that is taken over must not give more than routes away.
#[test]
fn nothing_dangerous_is_asked_for() {
    let Some(helm) = helm() else { return };
    for values in ["controller: {watchLegacyEndpoints: true}", "controller: {watchNamespaces: [shop]}"] {
        let is_bound = |role: &&Value| role["rules"].is_array() && !is_certificates(role);
        for role in render(helm, values).iter().filter(is_bound) {
            for right in rights(role) {
                let never = [
                    "*",
                    "secrets",
                    "configmaps",
                    "pods",
                    "webhook",
                    "tokenreviews",
                    "impersonate",
                    "escalate",
                    "bind",
                    "nodes",
                ];
                // Its labels, and nothing of what goes on there.
                assert!(right == OWN_NODE || !never.iter().any(|word| right.contains(word)), "{right}");
            }
        }
    }
}
