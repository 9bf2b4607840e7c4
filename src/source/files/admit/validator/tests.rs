use serde_json::json;

use super::*;

thread_local! {
    static VALIDATOR: Validator = Validator::new();
}

fn route(spec: Value) -> Value {
    json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "r" }, "spec": spec })
}

fn admitted(spec: Value) -> Value {
    VALIDATOR.with(|validator| validator.admit(KindId::GatewayRoute, route(spec))).expect("good")["spec"].take()
}

fn violations(object: &Value) -> Vec<String> {
    VALIDATOR
        .with(|validator| validator.admit(KindId::GatewayRoute, object.clone()).err().unwrap_or_default())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn defaults_are_those_of_an_api_server() {
    let everything = json!([{ "path": { "type": "PathPrefix", "value": "/" } }]);
    let cases = [
        (
            "an empty spec",
            json!({}),
            json!({ "gatewayClassName": "tidegate", "rules": [{ "priority": 0, "matches": everything }] }),
        ),
        (
            "a rule",
            json!({ "rules": [{}] }),
            json!({ "gatewayClassName": "tidegate", "rules": [{ "priority": 0, "matches": everything }] }),
        ),
        (
            "a default is itself completed",
            json!({ "rules": [{ "delegate": {}, "matches": [{}] }] }),
            json!({ "gatewayClassName": "tidegate", "rules": [{
                "priority": 0, "matches": everything, "delegate": { "namespaces": { "from": "Same" } } }] }),
        ),
        (
            "null is absent",
            json!({ "gatewayClassName": null, "tls": null, "rules": [{ "name": null, "matches": null }] }),
            json!({ "gatewayClassName": "tidegate", "rules": [{ "priority": 0, "matches": everything }] }),
        ),
        (
            "an empty list is no default",
            json!({ "rules": [{ "matches": [] }] }),
            json!({ "gatewayClassName": "tidegate", "rules": [{ "priority": 0, "matches": [] }] }),
        ),
        (
            "a whole decimal is an integer",
            json!({ "rules": [{ "backendRefs": [{ "name": "a", "port": 80.0 }] }] }),
            json!({ "gatewayClassName": "tidegate", "rules": [{ "priority": 0, "matches": everything, "backendRefs": [
                { "group": "", "kind": "Service", "name": "a", "port": 80, "weight": 1, "tier": 0 }] }] }),
        ),
    ];
    for (name, spec, expected) in cases {
        assert_eq!(admitted(spec), expected, "{name}");
    }
}

#[test]
fn rust_defaults_are_the_schema_defaults() {
    use crate::api::gateway_route::{GatewayRouteSpec, RouteDefaults};
    let blocks = json!({ "timeouts": {}, "retry": { "budget": {} }, "loadBalancer": { "locality": {} }, "outlierDetection": {},
        "connection": {}, "upgrades": { "drain": {} } });
    let filters = json!([
        { "type": "CORS", "cors": {} },
        { "type": "Coalesce", "coalesce": {} },
        { "type": "Compression", "compression": {} },
        { "type": "RateLimit", "rateLimit": { "requests": 1 } },
        { "type": "ConcurrencyLimit", "concurrencyLimit": { "maxInFlight": 1 } },
        { "type": "JWT", "jwt": { "providers": [{ "name": "a", "jwks": { "uri": "https://a" } }] } },
        { "type": "ExternalAuth", "externalAuth": { "protocol": "HTTP", "backendRef": { "name": "a", "port": 1 } } },
        { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "a", "port": 1 }, "fraction": { "numerator": 1 } } }
    ]);
    let mut rule = blocks.clone();
    rule["sessionPersistence"] = json!({ "cookieConfig": {} });
    rule["healthCheck"] = json!({});
    rule["matches"] = json!([{ "grpc": { "service": "a" }, "headers": [{ "name": "a", "value": "b" }] }]);
    rule["backendRefs"] = json!([{ "name": "a", "port": 1 }]);
    let answers = json!([{ "filters": [{ "type": "DirectResponse", "directResponse": { "statusCode": 200 } }] },
        { "filters": [{ "type": "RequestRedirect", "requestRedirect": {} }] }, { "delegate": {} }, rule]);
    let spec = json!({
        "parentRefs": [{ "name": "a" }],
        "tls": { "certificateRefs": [{ "name": "a" }], "clientValidation": { "caCertificateRefs": [{ "name": "a" }] } },
        "filters": filters, "defaults": blocks, "rules": answers
    });
    let from_schema: GatewayRouteSpec = serde_json::from_value(admitted(spec.clone())).expect("a spec");
    let from_rust: GatewayRouteSpec = serde_json::from_value(spec).expect("a spec");
    assert_eq!(from_rust, from_schema);
    assert_ne!(from_rust.defaults, Some(Box::new(RouteDefaults::default())));
    assert_eq!(
        serde_json::from_value::<GatewayRouteSpec>(admitted(json!({}))).expect("a spec"),
        GatewayRouteSpec::default()
    );
}

#[test]
fn every_violation_is_told_and_rules_wait_for_the_right_shape() {
    let several =
        route(json!({ "hostnames": ["A", "b", "b"], "rules": [{ "backendRefs": [{ "name": "a" }] }], "x": 1 }));
    let expected = [
        "spec.hostnames[0]: found \"A\"",
        "spec.hostnames[2]: found a second \"b\", expected distinct items",
        "spec.x: found an unknown field, expected defaults, filters,",
        "spec.rules[0].backendRefs[0]: found {\"name\":\"a\"}, expected Service backends need a port",
    ];
    let found = violations(&several);
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, beginning) in found.iter().zip(expected) {
        assert!(found.starts_with(beginning), "{found}");
    }
    let shape = route(json!({ "rules": [{ "priority": "x", "backendRefs": [{ "name": "a" }] }] }));
    assert_eq!(violations(&shape), ["spec.rules[0].priority: found \"x\", expected an integer"]);
}

#[test]
fn a_rule_that_stumbles_over_a_refused_value_is_not_told() {
    let route = route(json!({ "rules": [{ "healthCheck": { "timeout": "soon" } }] }));
    assert_eq!(
        violations(&route),
        ["spec.rules[0].healthCheck.timeout: found \"soon\", expected text that matches ^([0-9]{1,5}(h|m|s|ms)){1,4}$"]
    );
}

#[test]
fn a_flood_of_violations_is_cut() {
    let fields: serde_json::Map<_, _> = (0..1000).map(|number| (format!("x{number}"), json!(1))).collect();
    assert_eq!(violations(&route(Value::Object(fields))).len(), MOST_VIOLATIONS);
}

#[test]
fn status_of_a_manifest_does_not_count() {
    let mut object = route(json!({}));
    object["status"] = json!({ "conditions": "none" });
    assert_eq!(violations(&object), Vec::<String>::new());
    let admitted = VALIDATOR.with(|validator| validator.admit(KindId::GatewayRoute, object)).expect("good");
    assert_eq!(admitted.get("status"), None);
}

#[test]
fn anything_at_all_is_judged() {
    for value in [json!(null), json!(1), json!("x"), json!([]), json!([null]), json!({})] {
        assert!(!violations(&value).is_empty(), "{value}");
        assert!(!violations(&route(value.clone())).is_empty() || value == json!({}), "{value}");
    }
}

#[test]
fn metadata_is_checked() {
    let with = |metadata: Value| {
        let mut object = route(json!({}));
        object["metadata"] = metadata;
        violations(&object)
    };
    assert_eq!(
        with(
            json!({ "name": "a.b-c", "namespace": "n", "labels": { "example.com/A_b": "", "x": "Y.z" }, "annotations":
            { "a/b": "any text\n" }, "creationTimestamp": null, "managedFields": [{ "fieldsV1": { "f:spec": {} } }] })
        ),
        Vec::<String>::new()
    );
    let cases = [
        (json!({}), "metadata.name: found nothing"),
        (json!({ "name": "-a" }), "metadata.name: found \"-a\""),
        (json!({ "name": "a..b" }), "metadata.name: found \"a..b\""),
        (json!({ "name": 5 }), "metadata.name: found 5, expected a string"),
        (json!({ "name": "a", "namespace": "a.b" }), "metadata.namespace: found \"a.b\""),
        (json!({ "name": "a", "labels": { "a b": "c" } }), "metadata.labels[a b]: found the key \"a b\""),
        (json!({ "name": "a", "labels": { "a": "b c" } }), "metadata.labels[a]: found \"b c\""),
        (json!({ "name": "a", "annotations": { "a/b/c": "" } }), "metadata.annotations[a/b/c]: found the key"),
        (json!({ "name": "a", "creationTimestamp": "today" }), "metadata.creationTimestamp: found \"today\""),
    ];
    for (metadata, beginning) in cases {
        let found = with(metadata);
        assert!(matches!(found.as_slice(), [only] if only.starts_with(beginning)), "{found:?} is not {beginning}");
    }
}

#[test]
fn schemas_have_no_broken_rule_or_pattern() {
    fn errors(schema: &CompiledSchema) -> usize {
        let inner =
            schema.properties.values().chain(schema.items.as_deref()).chain(schema.additional_properties.as_deref());
        schema.compilation_errors().len() + inner.map(errors).sum::<usize>()
    }
    fn patterns<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
        found.extend(schema["pattern"].as_str());
        schema["properties"].as_object().into_iter().flatten().for_each(|(_, inner)| patterns(inner, found));
        if schema["items"].is_object() {
            patterns(&schema["items"], found);
        }
    }
    let schema = KindId::GatewayRoute.schema();
    assert_eq!(errors(&kube_cel::compile_schema(&schema)), 0);
    let mut found = Vec::new();
    patterns(&schema, &mut found);
    assert!(found.len() > 50);
    for pattern in found {
        assert!(regex::Regex::new(pattern).is_ok(), "{pattern}");
    }
    // Callers share one between threads.
    fn shared<T: Send + Sync>() {}
    shared::<Validator>();
}
