use serde_json::json;

use super::*;

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

fn parse(document: Value) -> Result<Vec<Object>, Vec<Violation>> {
    VALIDATOR.with(|validator| Object::parse(validator, document))
}

fn refused(document: Value) -> Vec<String> {
    parse(document).expect_err("refused").iter().map(ToString::to_string).collect()
}

fn manifest(version: &str, kind: &str, rest: Value) -> Value {
    let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "one" } });
    for (name, value) in rest.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

fn slice(rest: Value) -> Value {
    let mut object =
        manifest("discovery.k8s.io/v1", "EndpointSlice", json!({ "addressType": "IPv4", "endpoints": [] }));
    for (name, value) in rest.as_object().expect("an object") {
        object[name] = value.clone();
    }
    object
}

#[test]
fn every_kind_is_read_and_gets_a_namespace() {
    let grant = json!({ "spec": { "from": [{ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": "shop" }],
        "to": [{ "group": "", "kind": "Service" }] } });
    let cases = [
        (manifest("tidegate.dev/v1alpha1", "GatewayRoute", json!({ "spec": {} })), "GatewayRoute default/one"),
        (manifest("v1", "Service", json!({ "spec": { "ports": [{ "port": 80 }] } })), "Service default/one"),
        (slice(json!({})), "EndpointSlice default/one"),
        (manifest("v1", "Endpoints", json!({})), "Endpoints default/one"),
        (manifest("v1", "Namespace", json!({})), "Namespace one"),
        (manifest("gateway.networking.k8s.io/v1", "ReferenceGrant", grant.clone()), "ReferenceGrant default/one"),
        (manifest("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", grant), "ReferenceGrant default/one"),
    ];
    for (document, identity) in cases {
        assert_eq!(Identity::of(&document).expect("an identity").to_string(), identity);
        let objects = parse(document).expect("good");
        let found: Vec<_> = objects.iter().map(|object| object.identity().to_string()).collect();
        assert_eq!(found, [identity]);
    }
}

#[test]
fn defaults_are_in_place_after_reading() {
    let rule = json!({ "spec": { "rules": [{ "backendRefs": [{ "name": "a", "port": 80 }] }] } });
    let objects = parse(manifest("tidegate.dev/v1alpha1", "GatewayRoute", rule)).expect("good");
    let [Object::GatewayRoute(route)] = objects.as_slice() else { panic!("one route, not {objects:?}") };
    assert_eq!(route.spec.gateway_class_name, "tidegate");
    assert_eq!(route.spec.rules[0].matches, [gateway_route::RouteMatch::default()]);
    assert_eq!(
        (route.spec.rules[0].backend_refs[0].weight, route.spec.rules[0].backend_refs[0].kind.as_str()),
        (1, "Service")
    );
}

#[test]
fn lists_are_taken_apart_and_their_items_named() {
    let good = manifest("v1", "Service", json!({ "spec": { "ports": [{ "port": 80 }] } }));
    let bad = manifest("v1", "Service", json!({ "spec": { "ports": [{ "port": 0 }] } }));
    let list = |items: Vec<Value>| json!({ "apiVersion": "v1", "kind": "List", "items": items });
    assert_eq!(parse(list(vec![good.clone(), list(vec![good.clone()])])).expect("good").len(), 2);
    assert_eq!(parse(json!({ "apiVersion": "v1", "kind": "ServiceList", "items": [good] })).expect("good").len(), 1);
    assert_eq!(refused(list(vec![good.clone(), bad])), ["items[1].spec.ports[0].port: found 0, expected 1 to 65535"]);
    assert_eq!(
        refused(list(vec![json!(1)])),
        ["items[0]: found a value, expected an object with apiVersion, kind and metadata"]
    );
    assert_eq!(refused(json!({ "kind": "List", "items": 3 })), ["items: found 3, expected a list"]);
    assert_eq!(parse(Value::Null).expect("an empty document is nothing"), []);
}

#[test]
fn other_kinds_are_refused_by_name() {
    let known = "GatewayRoute (tidegate.dev/v1alpha1), Service (v1), EndpointSlice (discovery.k8s.io/v1), Endpoints (v1), \
                 Namespace (v1), ReferenceGrant (gateway.networking.k8s.io/v1), \
                 ReferenceGrant (gateway.networking.k8s.io/v1beta1), List (v1)";
    let cases = [
        (
            manifest("apps/v1", "Deployment", json!({})),
            format!("kind: found Deployment (apps/v1), expected one of {known}"),
        ),
        (
            manifest("v1", "Secret", json!({})),
            "kind: found Secret, expected no Secret: not in force yet: TLS".to_owned(),
        ),
        (
            manifest("v1", "ConfigMap", json!({})),
            "kind: found ConfigMap, expected no ConfigMap: not in force yet: TLS".to_owned(),
        ),
        (
            manifest("tidegate.dev/v1", "GatewayRoute", json!({})),
            "apiVersion: found tidegate.dev/v1, expected tidegate.dev/v1alpha1".to_owned(),
        ),
        (json!({ "kind": "Service" }), "apiVersion: found nothing, expected a value (required)".to_owned()),
        (json!({ "apiVersion": "v1" }), "kind: found nothing, expected a value (required)".to_owned()),
        (json!({ "apiVersion": 1, "kind": "Service" }), "apiVersion: found 1, expected a string".to_owned()),
    ];
    for (document, expected) in cases {
        assert_eq!(refused(document), [expected]);
    }
}

#[test]
fn core_kinds_are_checked() {
    let service = |spec: Value| manifest("v1", "Service", json!({ "spec": spec }));
    let endpoints = |subset: Value| manifest("v1", "Endpoints", json!({ "subsets": [subset] }));
    let cases = [
        (service(json!({ "ports": [{ "port": 70000 }] })), "spec.ports[0].port: found 70000, expected 1 to 65535"),
        (service(json!({ "ports": [{ "port": "80" }] })), "spec.ports[0].port: found \"80\", expected an integer"),
        (service(json!({ "port": 80 })), "spec.port: found an unknown field, expected allocateLoadBalancerNodePorts,"),
        (service(json!({ "ports": [{ "port": 1, "name": "a" }, { "port": 2 }] })), "spec.ports[1].name: found nothing"),
        (
            service(json!({ "ports": [{ "port": 1, "name": "a" }, { "port": 2, "name": "a" }] })),
            "spec.ports[1].name: found a second \"a\"",
        ),
        (service(json!({ "type": "Internal" })), "spec.type: found \"Internal\", expected ClusterIP or NodePort"),
        (service(json!({ "ports": [{ "port": 1, "protocol": "HTTP" }] })), "spec.ports[0].protocol: found \"HTTP\""),
        (
            slice(json!({ "endpoints": [{ "addresses": ["::1"] }] })),
            "endpoints[0].addresses[0]: found \"::1\", expected an IPv4",
        ),
        (
            slice(json!({ "addressType": "IPv6", "endpoints": [{ "addresses": ["10.0.0.1"] }] })),
            "endpoints[0].addresses[0]: found \"10.0.0.1\", expected an IPv6",
        ),
        (
            slice(json!({ "endpoints": [{ "addresses": [] }] })),
            "endpoints[0].addresses: found 0 items, expected 1 to 100",
        ),
        (slice(json!({ "endpoints": [{}] })), "endpoints[0].addresses: found nothing, expected a value (required)"),
        (slice(json!({ "addressType": "ip" })), "addressType: found \"ip\", expected IPv4 or IPv6 or FQDN"),
        (slice(json!({ "ports": [{ "port": 0 }] })), "ports[0].port: found 0, expected 1 to 65535"),
        (
            slice(json!({ "endpoints": [{ "addresses": ["1.1.1.1"], "ready": true }] })),
            "endpoints[0].ready: found an unknown",
        ),
        (endpoints(json!({ "addresses": [{ "ip": "localhost" }] })), "subsets[0].addresses[0].ip: found \"localhost\""),
        (
            endpoints(json!({ "notReadyAddresses": [{ "ip": "1.2.3" }] })),
            "subsets[0].notReadyAddresses[0].ip: found \"1.2.3\", expected an IP address",
        ),
        (endpoints(json!({ "ports": [{ "port": 65536 }] })), "subsets[0].ports[0].port: found 65536"),
        (
            manifest("gateway.networking.k8s.io/v1", "ReferenceGrant", json!({ "spec": { "from": [], "to": [] } })),
            "spec.from: found 0 items, expected 1 to 16 items",
        ),
        (manifest("v1", "Namespace", json!({ "metadata": { "name": "A" } })), "metadata.name: found \"A\""),
    ];
    for (document, beginning) in cases {
        let found = refused(document);
        assert!(found.iter().any(|line| line.starts_with(beginning)), "{found:?} has no {beginning:?}");
    }
}
