use super::*;
use crate::model::backend::Near;
use crate::model::filter::Filter;

/// Rule `r` with one reference, in namespace `default`.
fn refer(world: World, reference: Value) -> Compiled {
    world.route("r", json!({ "parentRefs": [on("http")], "rules": [{ "backendRefs": [reference, { "name": "web", "port": 80, "weight": 3 }] }] })).compile()
}

#[test]
fn a_reference_that_leads_nowhere_costs_its_share() {
    let world = || {
        World::new()
            .service("gone", json!({ "type": "ExternalName", "externalName": "metadata.internal", "ports": [{ "port": 80 }] }))
            .service("tls", json!({ "ports": [{ "port": 443, "appProtocol": "https" }, { "name": "wss", "port": 444, "appProtocol": "kubernetes.io/wss" }] }))
            .service("dns", json!({ "ports": [{ "port": 53, "protocol": "UDP" }] }))
            .service("shop/web", json!({ "ports": [{ "port": 80 }] }))
    };
    use ConditionReason as Reason;
    let cases = [
        (json!({ "name": "no", "port": 80 }), Reason::BackendNotFound, "name", "no Service default/no"),
        (json!({ "name": "web", "port": 81 }), Reason::BackendNotFound, "port", "port 81"),
        (json!({ "group": "s.example", "kind": "Bucket", "name": "a" }), Reason::InvalidKind, "kind", "Bucket"),
        (json!({ "name": "gone", "port": 80 }), Reason::InvalidKind, "name", "ExternalName"),
        (json!({ "name": "web", "namespace": "shop", "port": 80 }), Reason::RefNotPermitted, "namespace", "shop/web"),
        (json!({ "name": "no", "namespace": "shop", "port": 80 }), Reason::RefNotPermitted, "namespace", "shop/no"),
        (json!({ "name": "tls", "port": 443 }), Reason::UnsupportedProtocol, "port", "HTTPS and no BackendTLSPolicy"),
        (json!({ "name": "tls", "port": 444 }), Reason::UnsupportedProtocol, "port", "HTTPS and no BackendTLSPolicy"),
        (
            json!({ "name": "web", "port": 80, "protocol": "H2" }),
            Reason::UnsupportedProtocol,
            "port",
            "H2 and no BackendTLSPolicy for Service default/web",
        ),
        (json!({ "name": "dns", "port": 53 }), Reason::UnsupportedProtocol, "port", "UDP"),
    ];
    for (reference, reason, field, found) in cases {
        let compiled = refer(world(), reference.clone());
        let [diagnostic] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.findings()) };
        assert_eq!(diagnostic.reason, reason.as_str(), "{reference}");
        assert_eq!(diagnostic.path, format!("spec.rules[0].backendRefs[0].{field}"), "{reference}");
        assert!(diagnostic.found.contains(found), "{diagnostic}");
        let refs: Vec<_> =
            compiled.rule("0").backend_refs.iter().map(|one| (one.weight, one.backend.is_some())).collect();
        assert_eq!(refs, [(1, false), (3, true)], "{reference}");
        let parent = compiled.parent("r");
        assert!(parent.accepted.holds, "{reference}");
        assert_eq!((parent.resolved_refs.holds, parent.resolved_refs.reason), (false, reason), "{reference}");
        assert!(parent.resolved_refs.message.contains(found), "{parent:?}");
    }
    let good = refer(world(), json!({ "name": "tls", "port": 443, "protocol": "HTTP" }));
    assert_eq!((good.findings(), good.parent("r").resolved_refs.holds), (vec![], true), "protocol decides");
}

#[test]
fn a_mirror_that_leads_nowhere_costs_the_copies_alone() {
    let mirror = |name: &str| json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": name, "port": 80 } } });
    let compile = |filters: Value, rule: Value| {
        let rules = json!([{ "filters": [rule], "backendRefs": [{ "name": "web", "port": 80, "filters": [mirror("back")] }] },
            { "matches": [{ "path": { "value": "/other" } }], "backendRefs": [{ "name": "web", "port": 80 }] }]);
        let world = World::new().service("next", json!({ "ports": [{ "port": 80 }] }));
        let world = world.service("back", json!({ "ports": [{ "port": 80 }] }));
        world.route("r", json!({ "parentRefs": [on("http")], "filters": filters, "rules": rules })).compile()
    };
    let compiled = compile(json!([mirror("next")]), mirror("no"));
    let [diagnostic] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.findings()) };
    assert_eq!(diagnostic.path, "spec.rules[0].filters[0].requestMirror.backendRef.name");
    assert!(diagnostic.effect.contains("the requests themselves are served"), "{diagnostic}");
    let parent = compiled.parent("r");
    assert!(parent.accepted.holds && !parent.resolved_refs.holds);
    assert_eq!(parent.resolved_refs.reason, ConditionReason::BackendNotFound);
    assert_eq!(compiled.rule("0").filters.len(), 2);
    let backends: Vec<_> = compiled.0.snapshot.backends.iter().map(|one| one.key.service.name.to_string()).collect();
    assert_eq!(backends, ["back", "next", "web"], "with those of filters");
    // What all rules inherit is said once.
    let compiled = compile(json!([mirror("no")]), mirror("next"));
    assert_eq!(compiled.0.diagnostics.len(), 1, "{:?}", compiled.findings());
    assert_eq!(compiled.0.diagnostics[0].path, "spec.filters[0].requestMirror.backendRef.name");
}

#[test]
fn an_authorization_service_that_leads_nowhere_lets_nobody_pass() {
    let ask = |protocol: &str, name: &str| json!({ "type": "ExternalAuth", "externalAuth": { "protocol": protocol, "backendRef": { "name": name, "port": 80 } } });
    let compile = |auth: Value| {
        let rules = json!([{ "filters": [auth], "backendRefs": [{ "name": "web", "port": 80 }] }]);
        let world = World::new().service("auth", json!({ "ports": [{ "port": 80 }] }));
        world.route("r", json!({ "parentRefs": [on("http")], "rules": rules })).compile()
    };
    let compiled = compile(ask("HTTP", "no"));
    let [diagnostic] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.findings()) };
    assert_eq!(diagnostic.path, "spec.rules[0].filters[0].externalAuth.backendRef.name");
    assert!(diagnostic.effect.contains("answered with 500"), "{diagnostic}");
    let parent = compiled.parent("r");
    assert!(parent.accepted.holds && !parent.resolved_refs.holds);
    let [Filter::ExternalAuth(auth)] = &*compiled.rule("0").filters else { panic!("the filter stays") };
    assert_eq!(auth.backend, None);
    // What speaks gRPC is asked over HTTP/2, though its port does not say so.
    for (protocol, expected) in [("HTTP", Protocol::Http), ("GRPC", Protocol::H2c)] {
        let compiled = compile(ask(protocol, "auth"));
        assert!(compiled.findings().is_empty(), "{:?}", compiled.findings());
        let backends = compiled.0.snapshot.backends.iter();
        let protocols: Vec<_> =
            backends.filter(|one| &*one.key.service.name == "auth").map(|one| one.key.protocol).collect();
        assert_eq!(protocols, [expected]);
    }
}

#[test]
fn a_grant_of_the_target_namespace_permits() {
    let grant = |from: Value, to: Value| {
        read(
            json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {}, "spec": { "from": [from], "to": [to] } }),
        )
    };
    let from = |kind: &str, namespace: &str| json!({ "group": "tidegate.dev", "kind": kind, "namespace": namespace });
    let to = |name: Value| json!({ "group": "", "kind": "Service", "name": name });
    let cases = [
        ("shop", from("GatewayRoute", "default"), to(json!("web")), true),
        ("shop", from("GatewayRoute", "default"), to(json!(null)), true),
        ("shop", from("GatewayRoute", "default"), to(json!("other")), false),
        ("shop", from("GatewayRoute", "elsewhere"), to(json!("web")), false),
        ("shop", from("HTTPRoute", "default"), to(json!("web")), false),
        ("default", from("GatewayRoute", "default"), to(json!("web")), false),
    ];
    for (namespace, from, to, permitted) in cases {
        let mut world = World::new().service("shop/web", json!({ "ports": [{ "port": 80 }] }));
        world.0.objects.grants.insert(ObjectName::new(namespace, "g"), grant(from.clone(), to.clone()));
        let compiled = refer(world, json!({ "name": "web", "namespace": "shop", "port": 80 }));
        assert_eq!(compiled.findings().is_empty(), permitted, "{namespace} {from} {to}");
    }
}

#[test]
fn app_protocol_or_protocol_says_what_is_spoken() {
    let ports: Vec<_> = [
        json!(null),
        json!("http"),
        json!("kubernetes.io/ws"),
        json!("kubernetes.io/h2c"),
        json!("grpc"),
        json!("x.example/own"),
    ]
    .into_iter()
    .zip(1..)
    .map(|(protocol, port)| json!({ "name": format!("p{port}"), "port": port, "appProtocol": protocol }))
    .collect();
    let refs: Vec<_> = (1..=6)
        .map(|port| json!({ "name": "all", "port": port }))
        .chain([
            json!({ "name": "all", "port": 1, "protocol": "H2C" }),
            json!({ "name": "all", "port": 4, "protocol": "HTTP" }),
        ])
        .collect();
    let compiled = World::new()
        .service("all", json!({ "ports": ports }))
        .route("r", json!({ "rules": [{ "backendRefs": refs }] }))
        .compile();
    assert_eq!(compiled.findings(), [""; 0]);
    let protocol = |share: &crate::model::route::WeightedBackend| {
        compiled.0.snapshot.backend(share.backend.expect("a backend")).expect("a backend").key.protocol
    };
    let protocols: Vec<_> = compiled.rule("0").backend_refs.iter().map(protocol).collect();
    use Protocol::{H2c, Http};
    assert_eq!(protocols, [Http, Http, Http, H2c, H2c, Http, H2c, Http]);
    let keys: Vec<_> = compiled.0.snapshot.backends.iter().map(|backend| backend.key.clone()).collect();
    assert!(keys.is_sorted() && keys.len() == 8, "each once, sorted: {keys:?}");
}

#[test]
fn a_backend_without_endpoints_stays() {
    let mut world = World::new();
    world.0.objects.slices.clear();
    let compiled = refer(world, json!({ "name": "web", "port": 80 }));
    assert_eq!((compiled.findings(), compiled.0.snapshot.backends.len()), (vec![], 1));
    assert!(compiled.0.snapshot.backends[0].endpoints.is_empty() && compiled.parent("r").resolved_refs.holds);
}

#[test]
fn client_affinity_of_a_service_is_a_hash_by_address_unless_the_rule_says_otherwise() {
    let compile = |fields: Value| {
        let mut rule = json!({ "name": "a", "backendRefs": [{ "name": "sticky", "port": 80 }] });
        fields.as_object().expect("fields").iter().for_each(|(key, value)| rule[key] = value.clone());
        let sticky = json!({ "ports": [{ "port": 80 }], "sessionAffinity": "ClientIP" });
        World::new().service("sticky", sticky).route("r", json!({ "rules": [rule] })).compile()
    };
    let compiled = compile(json!({}));
    let Algorithm::ConsistentHash(hash) = &compiled.rule("a").algorithm else { panic!("a consistent hash") };
    assert_eq!(hash.keys, [RequestKey::SourceIp]);
    assert_eq!(compile(json!({ "loadBalancer": { "algorithm": "Random" } })).rule("a").algorithm, Algorithm::Random);
}

/// The zone of a controller's node is known only once the API server has been asked for it.
#[test]
fn what_is_near_follows_the_place_of_the_process() {
    let mut world = World::new().route("r", json!({ "parentRefs": [on("http")], "rules": [rule("r", "/")] }));
    let slice = json!({ "metadata": { "labels": { SERVICE_NAME: "web" } }, "addressType": "IPv4", "ports": [{ "port": 8080 }],
        "endpoints": [{ "addresses": ["10.0.0.1"], "zone": "a" }] });
    world.0.objects.slices.insert(named("web"), read(slice));
    let mut compiler = Compiler::default();
    let mut is_near = |inputs: &Inputs| {
        let near = compiler.compile(inputs).snapshot.backends[0].endpoints[0].near;
        near.has(Near::ZONE)
    };
    assert!(!is_near(&world.0));
    world.0.place.zone = Some("a".into());
    assert!(is_near(&world.0), "it was found out");
    world.0.place.zone = Some("b".into());
    assert!(!is_near(&world.0));
}
