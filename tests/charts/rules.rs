//! What routes may do to each other, and what is missing or broken around them, on a real API server.

use std::fs;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, Namespace, Options, REFERENCE_GRANTS, timeout};
use crate::gateway::{Gateway, Rights};
use crate::helm;
use crate::install::WEB;

fn install_kinds(cluster: &Cluster) {
    cluster.install_routes();
    cluster.install_kind(REFERENCE_GRANTS);
}

/// Pods that answer behind the Service web, and a route to them for web.example.com.
fn serve_web(namespace: &Namespace<'_>) {
    namespace.apply(WEB);
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);
}

/// A route that the gateway answers by itself.
fn direct(name: &str, hostname: &str, body: &str) -> String {
    format!(
        "{{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {{name: {name}}}, spec: {{hostnames: \
         [{hostname}], rules: [{{filters: [{{type: DirectResponse, directResponse: {{statusCode: 200, body: \
         {body}}}}}]}}]}}}}"
    )
}

#[test]
fn a_reference_to_another_namespace_needs_a_grant_for_as_long_as_it_is_used() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared_with_pods() else { return };
    install_kinds(cluster);
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    serve_web(&shop);
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("grant.{}.test", edge.name);
    edge.apply(&format!(
        "{{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {{name: far}}, spec: {{hostnames: [{host}], \
         rules: [{{backendRefs: [{{name: web, namespace: {}, port: 80}}]}}]}}}}",
        shop.name
    ));
    let gateway = Gateway::start_ready(cluster, &rights.kubeconfig, &[]);
    gateway.wait_for(&host, 500);
    gateway.wait_for_log(&["RefNotPermitted", &edge.name, "far", "ReferenceGrant"]);
    let grant = |kind: &str, service: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: edge}}, spec: {{from: \
             [{{group: tidegate.dev, kind: {kind}, namespace: {}}}], to: [{{group: '', kind: Service, name: {service}}}]}}}}",
            edge.name
        )
    };
    shop.apply(&grant("GatewayRoute", "web"));
    assert!(gateway.wait_for(&host, 200).contains("\"pod\""));
    // A grant for another kind or another Service is none.
    shop.apply(&grant("HTTPRoute", "web"));
    gateway.wait_for(&host, 500);
    shop.apply(&grant("GatewayRoute", "web"));
    gateway.wait_for(&host, 200);
    shop.apply(&grant("GatewayRoute", "other"));
    gateway.wait_for(&host, 500);
    shop.apply(&grant("GatewayRoute", "web"));
    gateway.wait_for(&host, 200);
    shop.kubectl(&["delete", "referencegrant", "edge"]);
    gateway.wait_for(&host, 500);
}

#[test]
fn a_prefix_is_delegated_to_namespaces_that_the_parent_selects() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    install_kinds(cluster);
    let (platform, team) = (cluster.namespace("platform"), cluster.namespace("team"));
    let rights = Rights::apply(cluster, helm, &platform, "{}");
    let host = format!("portal.{}.test", platform.name);
    platform.apply(&format!(
        "
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {{name: root}}
spec:
  hostnames: [{host}]
  rules:
  - name: team
    matches: [{{path: {{type: PathPrefix, value: /}}}}]
    delegate: {{namespaces: {{from: Selector, selector: {{matchLabels: {{team: {0}}}}}}}}}
",
        team.name
    ));
    team.apply(&format!(
        "
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {{name: pages}}
spec:
  parentRefs: [{{group: tidegate.dev, kind: GatewayRoute, namespace: {0}, name: root, sectionName: team}}]
  rules:
  - filters: [{{type: DirectResponse, directResponse: {{statusCode: 200, body: of the team}}}}]
",
        platform.name
    ));
    let gateway = Gateway::start_ready(cluster, &rights.kubeconfig, &[]);
    gateway.wait_for(&host, 404);
    let line = gateway.wait_for_log(&["NotDelegated", &team.name]);
    assert!(line.contains("pages"), "{line}");
    cluster.kubectl(&["label", "namespace", &team.name, &format!("team={}", team.name)]);
    assert_eq!(gateway.wait_for(&host, 200), "of the team");
    cluster.kubectl(&["label", "namespace", &team.name, "team-"]);
    gateway.wait_for(&host, 404);
}

/// Kinds that come later are read then, and an object of another schema holds up no other.
#[test]
fn kinds_may_be_missing_at_the_start_and_objects_of_another_schema() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    serve_pods(&shop);
    let rights = Rights::apply(&cluster, helm, &edge, "{}");
    let mut gateway = Gateway::start(&cluster, &rights.kubeconfig, &[]);
    let line = gateway.wait_for_log(&["GatewayRoute", "does not serve this kind"]);
    assert!(line.contains("CustomResourceDefinition"), "{line}");
    gateway.wait_for_log(&["ReferenceGrant", "does not serve this kind"]);
    assert_eq!(gateway.readiness().unwrap().status, 503);

    // An older or newer schema let objects in that this one would refuse.
    let open = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gatewayroutes.tidegate.dev}
spec:
  group: tidegate.dev
  scope: Namespaced
  names: {kind: GatewayRoute, listKind: GatewayRouteList, plural: gatewayroutes, singular: gatewayroute}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
    cluster.install_kind(open);
    edge.apply(
        "{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {name: strange}, spec: {hostnames: [strange.test], \
         rules: 5}}",
    );
    edge.apply(
        "{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {name: newer}, spec: {hostnames: [newer.test], \
         rules: [{filters: [{type: DirectResponse, directResponse: {statusCode: 200, body: known}}]}, {matches: [{path: \
         {type: PathPrefix, value: /new}}], filters: [{type: FromTheFuture}]}]}}",
    );
    edge.apply(&direct("good", "good.test", "good"));
    cluster.install_routes();
    gateway.wait_until_ready();
    assert_eq!(gateway.wait_for("good.test", 200), "good");
    assert_eq!(gateway.wait_for("newer.test", 200), "known");
    gateway.wait_for_log(&["strange", "invalid type"]);
    gateway.wait_for_log(&["newer", "FromTheFuture"]);
    gateway.wait_for("strange.test", 404);

    // Grants count from the moment at which there are some.
    edge.apply(&format!(
        "{{apiVersion: tidegate.dev/v1alpha1, kind: GatewayRoute, metadata: {{name: far}}, spec: {{hostnames: [far.test], \
         rules: [{{backendRefs: [{{name: web, namespace: {}, port: 80}}]}}]}}}}",
        shop.name
    ));
    gateway.wait_for("far.test", 500);
    cluster.install_kind(REFERENCE_GRANTS);
    shop.apply(&format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: edge}}, spec: {{from: [{{group: \
         tidegate.dev, kind: GatewayRoute, namespace: {}}}], to: [{{group: '', kind: Service}}]}}}}",
        edge.name
    ));
    gateway.wait_for("far.test", 200);

    // A schema that is older than the program is named.
    cluster.kubectl(&[
        "annotate",
        "--overwrite",
        "crd",
        "gatewayroutes.tidegate.dev",
        "tidegate.dev/bundle-version=v0.0.1",
    ]);
    let newer = Gateway::start_ready(&cluster, &rights.kubeconfig, &[]);
    let line = newer.wait_for_log(&["CustomResourceDefinition gatewayroutes.tidegate.dev is of version v0.0.1"]);
    assert!(line.contains("everything else is served"), "{line}");
    assert_eq!(newer.wait_for("good.test", 200), "good");
}

/// Pods that answer behind the Service web; without the route, whose kind may be missing.
fn serve_pods(namespace: &Namespace<'_>) {
    let pods: Vec<_> = WEB.split("\n---").filter(|object| !object.contains("kind: GatewayRoute")).collect();
    namespace.apply(&pods.join("\n---"));
    namespace.kubectl(&["rollout", "status", "deployment/web", &timeout()]);
}

#[test]
fn watched_namespaces_are_read_and_no_other() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    install_kinds(cluster);
    let [edge, one, two, other] = ["edge", "one", "two", "other"].map(|prefix| cluster.namespace(prefix));
    let values = format!("controller: {{watchNamespaces: [{}, {}]}}", one.name, two.name);
    let rights = Rights::apply(cluster, helm, &edge, &values);
    let host = |namespace: &Namespace<'_>| format!("{}.test", namespace.name);
    for namespace in [&one, &two, &other] {
        namespace.apply(&direct("here", &host(namespace), &namespace.name));
    }
    let watched = format!("--watch-namespaces={},{}", one.name, two.name);
    let gateway = Gateway::start_ready(cluster, &rights.kubeconfig, &[&watched]);
    assert_eq!(gateway.wait_for(&host(&one), 200), one.name);
    assert_eq!(gateway.wait_for(&host(&two), 200), two.name);
    gateway.wait_for(&host(&other), 404);
    // Its roles are in those namespaces only: whatever else it asked for would have been refused, and said.
    let log = gateway.log();
    let refused: Vec<_> = log.lines().filter(|line| line.contains("may not be")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    one.apply(&direct("later", &format!("later.{}", host(&one)), "later"));
    gateway.wait_for(&format!("later.{}", host(&one)), 200);
}

/// Each ends with one line that names the file and what is wrong.
#[test]
fn a_broken_kubeconfig_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]";
    let cases = [
        ("missing", None, "No such file"),
        ("empty", Some(String::new()), "current context"),
        ("no-yaml", Some("{".to_owned()), "line 1 column 1: unclosed bracket '{'"),
        ("no-context", Some(format!("{{apiVersion: v1, kind: Config, current-context: x, {cluster}}}")), "current context: x"),
        (
            "no-cluster",
            Some("{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: c}}]}".to_owned()),
            "cluster of context: c",
        ),
        (
            "bad-authority",
            Some(
                "{apiVersion: v1, kind: Config, current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: \
                 [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority-data: '!'}}]}"
                    .to_owned(),
            ),
            "certificate authority",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, text, expected) in cases {
        let file = folder.path().join(name);
        if let Some(text) = text {
            fs::write(&file, text).unwrap();
        }
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["controller", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--kubeconfig"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_clear = said.lines().count() == 1 && said.contains(file.to_str().unwrap()) && said.contains(expected);
        if output.status.code() != Some(1) || !is_clear {
            wrong.push(format!("{name}: {}: {said}", output.status));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
