use serde_json::json;

use super::*;
use crate::api::gateway_route::RouteMatch;

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

/// All objects of a document, or everything that is wrong with any of them.
fn read(document: Value) -> Result<Vec<Parsed>, Vec<Violation>> {
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for Item { prefix, value } in flatten(document)? {
        match VALIDATOR.with(|validator| parse(validator, value)) {
            Ok(parsed) => good.push(parsed),
            Err(violations) => refused.extend(violations.into_iter().map(|violation| violation.below(&prefix))),
        }
    }
    if refused.is_empty() { Ok(good) } else { Err(refused) }
}

fn refused(document: Value) -> Vec<String> {
    read(document).expect_err("refused").iter().map(ToString::to_string).collect()
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
        let object = super::identity(&document).expect("an identity");
        assert_eq!(object.to_string(), identity);
        let good = read(document).expect("good");
        assert!(matches!(good.as_slice(), [Parsed::Object(read)] if read.kind().name() == object.kind), "{good:?}");
    }
}

#[test]
fn defaults_are_in_place_after_reading() {
    let rule = json!({ "spec": { "rules": [{ "backendRefs": [{ "name": "a", "port": 80 }] }] } });
    let objects = read(manifest("tidegate.dev/v1alpha1", "GatewayRoute", rule)).expect("good");
    let [Parsed::Object(Object::GatewayRoute(route))] = objects.as_slice() else {
        panic!("one route, not {objects:?}")
    };
    assert_eq!(route.spec.gateway_class_name, "tidegate");
    assert_eq!(*route.spec.rules[0].matches, [RouteMatch::default()]);
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
    assert_eq!(read(list(vec![good.clone(), list(vec![good.clone()])])).expect("good").len(), 2);
    assert_eq!(read(json!({ "apiVersion": "v1", "kind": "ServiceList", "items": [good] })).expect("good").len(), 1);
    assert_eq!(refused(list(vec![good.clone(), bad])), ["items[1].spec.ports[0].port: found 0, expected 1 to 65535"]);
    assert_eq!(
        refused(list(vec![json!(1)])),
        ["items[0]: found a value, expected an object with apiVersion, kind and metadata"]
    );
    assert_eq!(refused(json!({ "kind": "List", "items": 3 })), ["items: found 3, expected a list"]);
    assert!(read(Value::Null).expect("an empty document is nothing").is_empty());
}

#[test]
fn kinds_of_other_groups_are_left_alone() {
    for (version, kind) in [
        ("apps/v1", "Deployment"),
        ("v1", "Pod"),
        ("v1", "PersistentVolumeClaim"),
        ("v1", "ServiceAccount"),
        ("serving.knative.dev/v1", "Service"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
        ("gateway.networking.k8s.io/v1", "GatewayRoute"),
    ] {
        // What is wrong with them is not ours to judge.
        let good = read(manifest(version, kind, json!({ "spec": 7 }))).expect("nothing of ours is wrong");
        let expected = format!("{kind} ({version})");
        assert!(matches!(good.as_slice(), [Parsed::Foreign(name)] if *name == expected), "{good:?}");
    }
}

#[test]
fn unknown_kinds_and_versions_of_what_is_read_are_refused_by_name() {
    let cases = [
        (
            manifest("tidegate.dev/v1alpha1", "GatewayRuote", json!({})),
            "kind: found GatewayRuote (tidegate.dev/v1alpha1), expected GatewayRoute (tidegate.dev/v1alpha1)",
        ),
        (
            manifest("tidegate.dev/v1alpha1", "Service", json!({})),
            "kind: found Service (tidegate.dev/v1alpha1), expected GatewayRoute (tidegate.dev/v1alpha1)",
        ),
        (
            manifest("tidegate.dev/v1", "GatewayRoute", json!({})),
            "apiVersion: found tidegate.dev/v1, expected tidegate.dev/v1alpha1",
        ),
        (manifest("v2", "Service", json!({})), "apiVersion: found v2, expected v1"),
        (
            manifest("gateway.networking.k8s.io/v1alpha2", "ReferenceGrant", json!({})),
            "apiVersion: found gateway.networking.k8s.io/v1alpha2, \
             expected gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1",
        ),
        (manifest("v1", "Servce", json!({})), "kind: found Servce (v1), expected Service (v1)"),
        (manifest("v1", "service", json!({})), "kind: found service (v1), expected Service (v1)"),
        (
            manifest("discovery.k8s.io/v1", "EndpointSlices", json!({})),
            "kind: found EndpointSlices (discovery.k8s.io/v1), expected EndpointSlice (discovery.k8s.io/v1)",
        ),
        (json!({ "kind": "Service" }), "apiVersion: found nothing, expected a value (required)"),
        (json!({ "apiVersion": "v1" }), "kind: found nothing, expected a value (required)"),
        (json!({ "apiVersion": 1, "kind": "Service" }), "apiVersion: found 1, expected a string"),
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
