//! What the schema offers and this version does not do: refused by name, and with no more than belongs to it.

use super::*;

/// Findings of a route with one rule beside another, and whether each of the two is served.
fn of_rule(mut rule: Value) -> (Vec<String>, [bool; 2]) {
    rule["name"] = json!("it");
    if rule["matches"].is_null() {
        rule["matches"] = json!([{ "path": { "value": "/it" } }]);
    }
    let other = json!({ "name": "other", "matches": [{ "path": { "value": "/other" } }], "backendRefs": [{ "name": "web", "port": 80 }] });
    let world = World::new().route("r", json!({ "rules": [rule, other] }));
    let output = compile(&world.0);
    let serves = ["it", "other"].map(|name| output.snapshot.rules.iter().any(|rule| &*rule.name == name));
    let texts = output.diagnostics.iter().map(|finding| format!("{}: {}", finding.path, finding.found)).collect();
    (texts, serves)
}

#[test]
fn fields_and_values_of_a_rule_drop_that_rule_alone() {
    let filter =
        json!({ "type": "ExtensionRef", "extensionRef": { "group": "example.com", "kind": "Filter", "name": "it" } });
    let cases = [(json!({ "filters": [filter] }), "filters[0].type: ExtensionRef is not supported yet")];
    for (rule, expected) in cases {
        let (findings, serves) = of_rule(rule.clone());
        let expected = format!("spec.rules[0].{expected}");
        assert!(findings.contains(&expected), "{rule}: {findings:?} has no {expected:?}");
        assert_eq!(serves, [false, true], "{rule}");
    }
}

#[test]
fn values_that_are_not_known_are_refused_with_those_that_are() {
    let cases = [
        (json!({ "matches": [{ "path": { "type": "Glob" } }] }), "matches[0].path.type"),
        (json!({ "matches": [{ "method": "BREW" }] }), "matches[0].method"),
        (json!({ "matches": [{ "headers": [{ "type": "Suffix", "name": "a" }] }] }), "matches[0].headers[0].type"),
        (
            json!({ "matches": [{ "queryParams": [{ "type": "Suffix", "name": "a" }] }] }),
            "matches[0].queryParams[0].type",
        ),
        (json!({ "matches": [{ "cookies": [{ "type": "Suffix", "name": "a" }] }] }), "matches[0].cookies[0].type"),
        (json!({ "matches": [{ "grpc": { "type": "Glob", "service": "a" } }] }), "matches[0].grpc.type"),
        (json!({ "backendRefs": [{ "name": "a", "port": 1, "protocol": "H3" }] }), "backendRefs[0].protocol"),
        (
            json!({ "matches": [{ "path": { "value": "/a" } }], "delegate": { "namespaces": { "from": "Some" } } }),
            "delegate.namespaces.from",
        ),
        (
            json!({ "matches": [{ "path": { "value": "/a" } }], "delegate": { "namespaces": { "from": "Selector",
                "selector": { "matchExpressions": [{ "key": "a", "operator": "Gt" }] } } } }),
            "delegate.namespaces.selector.matchExpressions[0].operator",
        ),
        (json!({ "loadBalancer": { "onMissingKey": "First" } }), "loadBalancer.onMissingKey"),
        (json!({ "upgrades": { "allow": ["spdy"] } }), "upgrades.allow[0]"),
        (json!({ "retry": { "retryOn": ["Timeout"] } }), "retry.retryOn[0]"),
        (json!({ "filters": [{ "type": "Cache" }] }), "filters[0].type"),
    ];
    for (rule, path) in cases {
        let (findings, serves) = of_rule(rule.clone());
        let beginning = format!("spec.rules[0].{path}: \"");
        let found = findings.iter().find(|text| text.starts_with(&beginning));
        assert!(
            found.is_some_and(|text| text.ends_with("\", which this version does not know")),
            "{rule}: {findings:?}"
        );
        assert_eq!(serves, [false, true], "{rule}");
    }
}

#[test]
fn what_equals_its_default_is_no_reason() {
    for rule in [
        json!({ "connection": {} }),
        json!({ "loadBalancer": { "locality": {} } }),
        json!({ "loadBalancer": { "locality": { "mode": "Auto", "minEndpoints": 1 } } }),
    ] {
        let (findings, serves) = of_rule(rule.clone());
        assert_eq!((findings, serves), (Vec::new(), [true, true]), "{rule}");
    }
}

#[test]
fn a_field_of_the_route_refuses_the_whole_route() {
    let validation = json!({ "caCertificateRefs": [{ "name": "ca" }] });
    let unknown = json!({ "caCertificateRefs": [{ "name": "ca" }], "mode": "Maybe" });
    let cases = [
        (
            json!({ "certificateRefs": [{ "name": "a" }], "clientValidation": validation, "redirectInsecure": false }),
            "spec.tls.clientValidation: found clientValidation beside redirectInsecure: false, expected redirectInsecure: \
             true, since plain requests bring no certificate, or mode AllowInsecureFallback",
        ),
        (
            json!({ "certificateRefs": [{ "name": "a" }], "clientValidation": unknown }),
            "spec.tls.clientValidation.mode: found \"Maybe\", which this version does not know, expected AllowValidOnly or \
             AllowInsecureFallback",
        ),
    ];
    for (tls, message) in cases {
        let world = World::new()
            .route("r", json!({ "tls": tls, "rules": [{ "name": "it" }] }))
            .route("s", json!({ "rules": [{ "name": "other" }] }));
        let output = compile(&world.0);
        let names: Vec<_> = output.snapshot.rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names, ["other"]);
        let accepted = &output.statuses[0].parents[0].accepted;
        assert!(!accepted.holds && accepted.message == message, "{accepted:?}");
    }
}

#[test]
fn blocks_of_defaults_refuse_the_rules_that_inherit_them() {
    let rule = |name: &str, rest: Value| {
        let mut rule = json!({ "name": name, "matches": [{ "path": { "value": format!("/{name}") } }] });
        for (field, value) in rest.as_object().expect("fields") {
            rule[field] = value.clone();
        }
        rule
    };
    let own = json!({ "loadBalancer": {}, "upgrades": {}, "timeouts": {}, "healthCheck": {} });
    let cases = [
        (json!({ "loadBalancer": { "slowStart": "2h" } }), "loadBalancer.slowStart"),
        (
            json!({ "loadBalancer": { "hashKeys": [{ "type": "Header", "name": "a b" }] } }),
            "loadBalancer.hashKeys[0].name",
        ),
        (json!({ "upgrades": { "allow": ["spdy"] } }), "upgrades.allow[0]"),
        (json!({ "upgrades": { "drain": { "closeCode": 1 } } }), "upgrades.drain.closeCode"),
        (json!({ "timeouts": { "request": "soon" } }), "timeouts.request"),
        (json!({ "healthCheck": { "timeout": "0s" } }), "healthCheck.timeout"),
    ];
    for (defaults, path) in cases {
        let path = format!("spec.defaults.{path}");
        let spec = json!({ "defaults": defaults,
            "rules": [rule("heir", json!({})), rule("own", own.clone()), rule("heir-too", json!({}))] });
        let output = compile(&World::new().route("r", spec).0);
        let names: Vec<_> = output.snapshot.rules.iter().map(|rule| &*rule.name).collect();
        assert_eq!(names, ["own"], "{path}");
        let told: Vec<_> =
            output.diagnostics.iter().map(|finding| (finding.path.as_str(), finding.effect.as_str())).collect();
        assert_eq!(told, [(path.as_str(), "the rules that inherit it are skipped, the others serve")], "said once");
        // Nobody inherits it: it is named all the same, and drops nothing.
        let spec = json!({ "defaults": defaults, "rules": [rule("own", own.clone())] });
        let output = compile(&World::new().route("r", spec).0);
        assert_eq!(output.snapshot.rules.len(), 1, "{path}");
        let told: Vec<_> =
            output.diagnostics.iter().map(|finding| (finding.path.as_str(), finding.effect.as_str())).collect();
        assert_eq!(told, [(path.as_str(), "the rest of the route serves")], "{path}");
    }
}

#[test]
fn findings_name_the_fields_of_the_object_that_the_user_wrote() {
    let mut world = World::new().route("r", json!({ "rules": [{ "retry": { "attempts": 0 } }] }));
    let name = named("r");
    let route = world.0.objects.routes.get(&name).expect("a route");
    let mut made = (*route.object).clone();
    made.kind = "Ingress";
    made.fields = crate::kinds::fields::FieldMap::new([(
        "spec.rules[0].retry.attempts",
        "metadata.annotations[example.com/attempts]",
    )]);
    world.0.objects.routes.insert(name, Sourced { object: Arc::new(made), origin: None });
    let output = compile(&world.0);
    assert_eq!(
        output.diagnostics[0].to_string(),
        "Ingress default/r: metadata.annotations[example.com/attempts]: UnsupportedValue: found 0, expected 1 to 10; leave the block out for none; \
         this rule is skipped, the others serve"
    );
}
