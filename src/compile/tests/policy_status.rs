//! What policies of TLS to pods are told.

use super::backend_tls::{TIME, ca, trusting, web, world};
use super::*;
use crate::api::backend_tls_policy::PolicyReason;
use crate::api::open_enum::KnownValue as _;
use crate::compile::policy_status::PolicyStatus;

impl World {
    /// With a route of the class to a Service.
    fn leads_to(self, service: &str) -> Self {
        self.route("r", json!({ "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }] }))
    }

    /// The statuses of policies.
    fn policies(&self) -> Vec<PolicyStatus> {
        self.compile().0.policies.to_vec()
    }
}

/// Accepted and ResolvedRefs of the policy `p`, each as its reason, and the messages of both.
fn told(world: World) -> (&'static str, &'static str, String) {
    let all = world.policies();
    let one = all.iter().find(|status| &*status.name.name == "p").expect("it is used");
    assert_eq!(one.accepted.holds, one.accepted.reason == PolicyReason::Accepted);
    assert_eq!(one.resolved_refs.holds, one.resolved_refs.reason == PolicyReason::ResolvedRefs);
    let messages = format!("{} | {}", one.accepted.message, one.resolved_refs.message);
    (one.accepted.reason.as_str(), one.resolved_refs.reason.as_str(), messages)
}

#[test]
fn each_fault_of_a_policy_has_the_reason_of_gateway_api() {
    let config = |names: &[&str]| {
        let all = names.iter().map(|name| json!({ "group": "", "kind": "ConfigMap", "name": name }));
        trusting(all.collect())
    };
    for (validation, accepted, resolved, said) in [
        (trusting(ca()), "Accepted", "ResolvedRefs", " | "),
        (config(&["no"]), "NoValidCACertificate", "InvalidCACertificateRef", "found no ConfigMap default/no"),
        (config(&["broken"]), "NoValidCACertificate", "InvalidCACertificateRef", "ca.crt holds no certificate"),
        // It is not followed, though some authority is there.
        (config(&["ca", "no"]), "Invalid", "InvalidCACertificateRef", "caCertificateRefs[1]: found no ConfigMap"),
        (
            trusting(json!([{ "group": "", "kind": "Secret", "name": "ca" }])),
            "NoValidCACertificate",
            "InvalidKind",
            "found Secret, expected ConfigMap",
        ),
        (
            json!({ "hostname": "10.0.0.1", "caCertificateRefs": ca() }),
            "Invalid",
            "ResolvedRefs",
            "validation.hostname",
        ),
        (
            json!({ "hostname": "a.test", "wellKnownCACertificates": "Mozilla" }),
            "Invalid",
            "ResolvedRefs",
            "wellKnownCACertificates",
        ),
    ] {
        let world = world().config_map("broken", json!({ "ca.crt": "text" })).leads_to("web");
        let (of_accepted, of_resolved, messages) = told(world.policy("p", TIME, web(), validation.clone()));
        assert_eq!((of_accepted, of_resolved), (accepted, resolved), "{validation}: {messages}");
        assert!(messages.contains(said), "{validation}: {messages}");
    }
}

#[test]
fn a_policy_that_counts_at_one_of_its_targets_is_accepted() {
    let target = |name: &str, section: Option<&str>| {
        let mut target = json!({ "group": "", "kind": "Service", "name": name });
        if let Some(section) = section {
            target["sectionName"] = section.into();
        }
        target
    };
    let both = || {
        let spec =
            json!({ "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }, { "name": "api", "port": 80 }] }] });
        let ports = || json!({ "ports": [{ "name": "main", "port": 80 }] });
        world().service("web", ports()).service("api", ports()).route("r", spec)
    };
    let with = |world: World, targets: Value| told(world.policy("p", TIME, targets, trusting(ca())));
    let earlier = |world: World, targets: Value| world.policy("o", "2025-01-01T00:00:00Z", targets, trusting(ca()));

    let (accepted, _, message) = with(both(), json!([target("web", None), target("api", None)]));
    assert_eq!((accepted, message.as_str()), ("Accepted", " | "));
    // One of two is lost: the other is enough, and the message tells of it.
    let (accepted, _, message) =
        with(earlier(both(), json!([target("web", None)])), json!([target("web", None), target("api", None)]));
    assert_eq!(accepted, "Accepted");
    assert!(
        message.contains("spec.targetRefs[0]: BackendTLSPolicy default/o counts for Service default/web"),
        "{message}"
    );
    let (accepted, ..) = with(earlier(both(), json!([target("web", None)])), json!([target("web", None)]));
    assert_eq!(accepted, "Conflicted");
    // One that names the port comes first, however young it is.
    let (accepted, ..) = with(earlier(both(), json!([target("web", None)])), json!([target("web", Some("main"))]));
    assert_eq!(accepted, "Accepted");
    let (accepted, _, message) = with(both(), json!([target("web", Some("other"))]));
    assert_eq!(accepted, "TargetNotFound");
    assert!(message.contains("sectionName: found \"other\", expected the name of a port"), "{message}");
    // A route leads there, and nothing is there.
    let (accepted, ..) = with(world().leads_to("gone"), json!([target("gone", None)]));
    assert_eq!(accepted, "TargetNotFound");
}

#[test]
fn only_policies_for_services_that_routes_of_the_class_lead_to_are_told_of() {
    let with = |world: World| world.policy("p", TIME, web(), trusting(ca())).policies().len();
    assert_eq!(with(world()), 0);
    assert_eq!(with(world().leads_to("other")), 0);
    let of_class = |class: &str| json!({ "gatewayClassName": class, "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] });
    assert_eq!(with(world().route("r", of_class("other"))), 0);
    assert_eq!(with(world().route("r", of_class("tidegate"))), 1);
    let mirror = json!([{ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "web", "port": 80 } } }]);
    let copies = json!({ "rules": [{ "filters": mirror, "backendRefs": [{ "name": "other", "port": 80 }] }] });
    assert_eq!(with(world().route("r", copies)), 1, "copies of requests go there");
    let asked = json!({ "filters": [asks("web")], "rules": [{ "backendRefs": [{ "name": "other", "port": 80 }] }] });
    assert_eq!(with(world().route("r", asked)), 1, "it is asked whether requests may pass");
    let status = &world().leads_to("web").policy("p", TIME, web(), trusting(ca())).policies()[0];
    assert_eq!((&status.name, status.generation), (&named("p"), Some(3)));
}

/// A filter that asks a Service whether a request may pass.
fn asks(service: &str) -> serde_json::Value {
    let backend = json!({ "name": service, "port": 80 });
    json!({ "type": "ExternalAuth", "externalAuth": { "protocol": "HTTP", "backendRef": backend, "http": {} } })
}

#[test]
fn authorities_for_what_filters_lead_to_are_read() {
    let mirror = json!([{ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "web", "port": 80 } } }]);
    for spec in [
        json!({ "filters": mirror, "rules": [{}] }),
        json!({ "rules": [{ "filters": mirror }] }),
        json!({ "rules": [{ "backendRefs": [{ "name": "other", "port": 80, "filters": mirror }] }] }),
        json!({ "filters": [asks("web")], "rules": [{}] }),
        json!({ "rules": [{ "filters": [asks("web")] }] }),
    ] {
        let world = world().route("r", spec.clone()).policy("p", TIME, web(), trusting(ca()));
        let named_objects = crate::compile::backend_tls::config_maps_named(&world.0);
        assert!(named_objects.contains(&named("ca")), "{spec}");
    }
}
