use super::*;
use crate::model::tls::{EndpointTls, SubjectName, Trust};

fn authority() -> String {
    rcgen::generate_simple_self_signed(vec!["authority.test".to_owned()]).expect("made").cert.pem()
}

impl World {
    pub(super) fn config_map(mut self, name: &str, data: Value) -> Self {
        self.0.objects.config_maps.insert(named(name), read(json!({ "data": data })));
        self
    }

    pub(super) fn policy(mut self, name: &str, created: &str, targets: Value, validation: Value) -> Self {
        let metadata = json!({ "creationTimestamp": created, "generation": 3 });
        let policy = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
            "metadata": metadata, "spec": { "targetRefs": targets, "validation": validation } });
        self.0.objects.tls_policies.insert(named(name), read(policy));
        self
    }
}

pub(super) const TIME: &str = "2026-01-01T00:00:00Z";

pub(super) fn web() -> Value {
    json!([{ "group": "", "kind": "Service", "name": "web" }])
}

pub(super) fn trusting(references: Value) -> Value {
    json!({ "hostname": "web.test", "caCertificateRefs": references })
}

pub(super) fn ca() -> Value {
    json!([{ "group": "", "kind": "ConfigMap", "name": "ca" }])
}

pub(super) fn world() -> World {
    World::new().config_map("ca", json!({ "ca.crt": authority() }))
}

/// The compiled route, and the backend that its only reference leads to.
fn compile_with(world: World, protocol: Option<&str>) -> (Compiled, Option<(Protocol, Option<Arc<EndpointTls>>)>) {
    let mut reference = json!({ "name": "web", "port": 80 });
    if let Some(protocol) = protocol {
        reference["protocol"] = protocol.into();
    }
    let spec = json!({ "parentRefs": [{ "group": "tidegate.dev", "kind": "Listener", "name": "http" }],
        "rules": [{ "backendRefs": [reference] }] });
    let compiled = world.route("r", spec).compile();
    let backend = compiled.rule("0").backend_refs[0].backend.and_then(|id| compiled.0.snapshot.backend(id));
    let found = backend.map(|backend| (backend.key.protocol, backend.tls.clone()));
    (compiled, found)
}

#[test]
fn a_policy_says_how_tls_is_spoken() {
    let with = || world().policy("p", TIME, web(), trusting(ca()));
    for (stated, expected) in [(None, Protocol::Https), (Some("HTTPS"), Protocol::Https), (Some("H2"), Protocol::H2)] {
        let (compiled, found) = compile_with(with(), stated);
        assert_eq!(compiled.findings(), [""; 0]);
        let (protocol, tls) = found.expect("a backend");
        let tls = tls.expect("TLS");
        assert_eq!(protocol, expected);
        assert_eq!(tls.server_name.to_str(), "web.test");
        let Trust::Only(all) = &tls.trust else { panic!("named authorities") };
        assert_eq!(all.roots().len(), 1);
    }
    for (app, expected) in [
        ("https", Protocol::Https),
        ("kubernetes.io/wss", Protocol::Https),
        ("grpcs", Protocol::H2),
        ("kubernetes.io/h2c", Protocol::H2),
    ] {
        let world = with().service("web", json!({ "ports": [{ "port": 80, "appProtocol": app }] }));
        let (_, found) = compile_with(world, None);
        assert_eq!(found.expect("a backend").0, expected, "{app}");
    }
    let system = json!({ "hostname": "web.test", "wellKnownCACertificates": "System", "subjectAltNames": [
        { "type": "Hostname", "hostname": "A.test" }, { "type": "Hostname", "hostname": "*.b.test" },
        { "type": "URI", "uri": "spiffe://a/b" }] });
    let (compiled, found) = compile_with(world().policy("p", TIME, web(), system), None);
    assert_eq!(compiled.findings(), [""; 0]);
    let tls = found.expect("a backend").1.expect("TLS");
    assert_eq!(tls.trust, Trust::System);
    assert!(matches!(&tls.names[..], [SubjectName::Host(_), SubjectName::Wildcard(name), SubjectName::Uri(uri)]
        if &**name == "*.b.test" && &**uri == "spiffe://a/b"));
}

#[test]
fn clear_text_contradicts_a_policy() {
    let (compiled, found) = compile_with(world().policy("p", TIME, web(), trusting(ca())), Some("HTTP"));
    assert!(found.is_none());
    let parent = compiled.parent("r");
    assert_eq!(parent.resolved_refs.reason, ConditionReason::UnsupportedProtocol);
    assert!(parent.resolved_refs.message.contains("BackendTLSPolicy default/p"), "{parent:?}");
}

#[test]
fn a_policy_that_cannot_be_followed_is_named_with_its_field() {
    let config = |name: &str| json!([{ "group": "", "kind": "ConfigMap", "name": name }]);
    let names = |name: Value| json!({ "hostname": "web.test", "caCertificateRefs": ca(), "subjectAltNames": [name] });
    for (validation, expected) in [
        (trusting(config("no")), "spec.validation.caCertificateRefs[0]: no ConfigMap default/no"),
        (trusting(config("empty")), "ConfigMap default/empty: there is no ca.crt"),
        (trusting(config("broken")), "ConfigMap default/broken: ca.crt holds no certificate"),
        (trusting(json!([{ "group": "", "kind": "Secret", "name": "ca" }])), "caCertificateRefs[0]: Secret"),
        (json!({ "hostname": "10.0.0.1", "caCertificateRefs": ca() }), "spec.validation.hostname: \"10.0.0.1\""),
        (json!({ "hostname": "a.test", "wellKnownCACertificates": "Mozilla" }), "\"Mozilla\", which this version"),
        (json!({ "hostname": "a.test" }), "spec.validation: both or neither"),
        (names(json!({ "type": "URI", "hostname": "a.test" })), "subjectAltNames[0]: type Uri"),
        (names(json!({ "type": "Email" })), "subjectAltNames[0]: type \"Email\""),
        (names(json!({ "type": "Hostname", "hostname": "a b" })), "subjectAltNames[0]: \"a b\""),
    ] {
        let world = world().config_map("empty", json!({})).config_map("broken", json!({ "ca.crt": "text" }));
        let (compiled, found) = compile_with(world.policy("p", TIME, web(), validation.clone()), None);
        assert!(found.is_none(), "{validation}");
        let parent = compiled.parent("r");
        let is_missing = expected.contains("no ConfigMap");
        let reason =
            if is_missing { ConditionReason::CertificateNotFound } else { ConditionReason::InvalidBackendTlsPolicy };
        assert_eq!(parent.resolved_refs.reason, reason, "{validation}");
        let message = &parent.resolved_refs.message;
        assert!(
            message.contains("BackendTLSPolicy default/p") && message.contains(expected),
            "{validation}: {message}"
        );
        // And the policy itself is told of, whether a route leads there or not.
        let own = compiled
            .0
            .diagnostics
            .iter()
            .filter(|one| one.object.as_ref().is_some_and(|object| object.kind == "BackendTLSPolicy"));
        assert_eq!(own.count(), 1, "{validation}");
    }
}

#[test]
fn the_nearest_and_oldest_policy_counts() {
    let later = "2026-02-01T00:00:00Z";
    let name = |name: &str| json!({ "hostname": name, "wellKnownCACertificates": "System" });
    let port = |section: &str| json!([{ "group": "", "kind": "Service", "name": "web", "sectionName": section }]);
    let of = |world: World| {
        let named = world.service("web", json!({ "ports": [{ "name": "main", "port": 80 }] }));
        let (_, found) = compile_with(named, None);
        found.and_then(|(_, tls)| Some(tls?.server_name.to_str().into_owned()))
    };
    let two = |one: (&str, &str), other: (&str, &str)| {
        World::new().policy(one.0, one.1, web(), name(one.0)).policy(other.0, other.1, web(), name(other.0))
    };
    assert_eq!(of(two(("a", later), ("b", TIME))).as_deref(), Some("b"), "the older one");
    assert_eq!(of(two(("a", TIME), ("b", TIME))).as_deref(), Some("a"), "by name");
    assert_eq!(of(two(("a", TIME), ("b", TIME)).policy("c", later, port("main"), name("c"))).as_deref(), Some("c"));
    assert_eq!(of(World::new().policy("c", TIME, port("other"), name("c"))), None, "of another port");
    assert_eq!(of(World::new().policy("shop/c", TIME, web(), name("c"))), None, "of another namespace");
    let wrong = World::new().policy("p", TIME, json!([{ "group": "", "kind": "Service", "name": "no" }]), name("p"));
    let (compiled, _) = compile_with(wrong, None);
    let [finding] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.findings()) };
    assert_eq!((finding.path.as_str(), finding.found.as_str()), ("spec.targetRefs[0].name", "no Service default/no"));
}

#[test]
fn a_change_of_policy_or_authorities_is_seen_by_the_next_compilation() {
    let spec = json!({ "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] });
    let mut world = world().route("r", spec);
    let mut compiler = Compiler::default();
    let mut tls = |world: &World| compiler.compile(&world.0).snapshot.backends[0].tls.clone();
    assert!(tls(&world).is_none());
    world = world.policy("p", TIME, web(), trusting(ca()));
    let before = tls(&world).expect("TLS");
    assert!(Arc::ptr_eq(&before, &tls(&world).expect("TLS")), "nothing has changed");
    world = world.config_map("ca", json!({ "ca.crt": authority() }));
    assert_ne!(tls(&world).expect("TLS"), before);
    world.0.objects.tls_policies.remove(&named("p"));
    assert!(tls(&world).is_none());
}
