//! `spec.tls`: what certificates are found for which hostnames, and what is said about the others.

use super::*;
use crate::kinds::secret::{NoPair, Problem, Secret};
use crate::model::tls::KeyPair;

/// A pair that names these hosts.
fn pair(names: &[&str]) -> Arc<KeyPair> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("made");
    let pair = KeyPair::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes());
    Arc::new(pair.expect("a pair"))
}

impl World {
    /// As [`new`](Self::new), with a listener `https` behind the others.
    fn secure() -> Self {
        let mut world = Self::new();
        let https = StaticListener { name: "https".into(), is_https: true, ..StaticListener::default() };
        world.0.listeners.push(https);
        world
    }

    fn secret(mut self, name: &str, pair: Result<Arc<KeyPair>, &str>, problem: Option<Problem>) -> Self {
        let object = Arc::new(Secret { problem, ..Secret::of_pair(pair.map_err(|why| NoPair::Unusable(why.into()))) });
        self.0.objects.secrets.insert(named(name), Sourced { object, origin: None });
        self
    }
}

const HTTPS: usize = 2;

fn spec(host: &str, tls: Value) -> Value {
    json!({ "hostnames": [host], "tls": tls, "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] })
}

fn refs(names: &[&str]) -> Value {
    json!({ "certificateRefs": names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>() })
}

/// The Secrets whose certificates a client that asks for a name is shown.
fn shown(compiled: &Compiled, name: &str) -> Vec<String> {
    let hosts = &compiled.0.snapshot.tls[HTTPS];
    let host = hosts.find(Some(name)).map(|position| &hosts.hosts()[position]);
    host.iter().flat_map(|host| &host.certificates).map(|one| one.secret.to_string()).collect()
}

/// Reasons and messages of what was found.
fn told(compiled: &Compiled) -> Vec<(&'static str, String)> {
    compiled.0.diagnostics.iter().map(|one| (one.reason, format!("{}: {}", one.path, one.found))).collect()
}

#[test]
fn a_hostname_has_the_certificates_that_name_it() {
    let world = World::secure()
        .secret("a", Ok(pair(&["a.test"])), None)
        .secret("b", Ok(pair(&["b.test", "a.test"])), None)
        .route("it", json!({ "hostnames": ["a.test", "b.test"], "tls": refs(&["a", "b"]) }));
    let compiled = world.compile();
    assert_eq!(shown(&compiled, "a.test"), ["default/a", "default/b"]);
    assert_eq!(shown(&compiled, "b.test"), ["default/b"]);
    assert_eq!(shown(&compiled, "c.test"), <[String; 0]>::default());
    assert_eq!(told(&compiled), []);
    assert!(compiled.0.snapshot.tls[0].is_empty(), "nothing is shown on plain listeners");
}

#[test]
fn what_is_wrong_with_a_certificate_is_a_condition_and_the_route_serves() {
    let grant = |kind: &str| json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {}, "spec": { "from": [{ "group": "tidegate.dev", "kind": "GatewayRoute", "namespace": "default" }], "to": [{ "group": "", "kind": kind }] } });
    let good = || Ok(pair(&["a.test"]));
    for (reference, world, shown_from, reason, found) in [
        (json!({ "name": "no" }), World::secure(), "", "CertificateNotFound", "no Secret default/no"),
        (
            json!({ "name": "it" }),
            World::secure().secret("it", Err("empty"), None),
            "",
            "InvalidCertificate",
            "Secret default/it: empty",
        ),
        (
            json!({ "name": "it" }),
            World::secure().secret("it", good(), Some(Problem::EarlierStays("broken".into()))),
            "default/it",
            "InvalidCertificate",
            "Secret default/it: broken",
        ),
        (
            json!({ "name": "it" }),
            World::secure().secret("it", Ok(pair(&["b.test"])), None),
            "default/it",
            "InvalidCertificate",
            "Secret default/it, which names b.test",
        ),
        (json!({ "name": "it", "kind": "ConfigMap" }), World::secure(), "", "InvalidKind", "ConfigMap"),
        (
            json!({ "name": "it", "namespace": "other" }),
            World::secure().secret("other/it", good(), None),
            "",
            "RefNotPermitted",
            "Secret other/it without consent",
        ),
    ] {
        let world = world.route("route", spec("a.test", json!({ "certificateRefs": [reference] })));
        let compiled = world.compile();
        let said = told(&compiled);
        assert!(said.len() == 1 && said[0].0 == reason && said[0].1.ends_with(found), "{said:?}");
        let from = shown(&compiled, "a.test");
        assert_eq!(from.first().map_or("", String::as_str), shown_from, "{found}");
        for parent in compiled.0.statuses[0].parents.iter().filter(|parent| parent.key.contains("/http")) {
            assert!(parent.accepted.holds && !parent.resolved_refs.holds && !parent.conflicted.holds, "{parent:?}");
            assert_eq!(parent.resolved_refs.reason.as_str(), reason);
        }
    }
    for (kind, is_shown) in [("Secret", true), ("Service", false)] {
        let mut world = World::secure().secret("other/it", good(), None);
        world.0.objects.grants.insert(named("other/grant"), read(grant(kind)));
        let reference = json!({ "certificateRefs": [{ "name": "it", "namespace": "other" }] });
        let compiled = world.route("route", spec("a.test", reference)).compile();
        assert_eq!(shown(&compiled, "a.test") == ["other/it"], is_shown, "{kind}");
    }
}

#[test]
fn the_oldest_route_has_the_hostname() {
    let below = |path: &str, secret: &str| {
        let mut spec = spec("a.test", refs(&[secret]));
        spec["rules"][0]["matches"] = json!([{ "path": { "value": path } }]);
        spec
    };
    let world = World::secure()
        .secret("a", Ok(pair(&["a.test"])), None)
        .secret("b", Ok(pair(&["a.test"])), None)
        .aged("young", "2026-02-01T00:00:00Z", below("/young", "a"))
        .aged("old", "2026-01-01T00:00:00Z", below("/old", "b"))
        .aged("same", "2026-03-01T00:00:00Z", below("/same", "b"));
    let compiled = world.compile();
    assert_eq!(shown(&compiled, "a.test"), ["default/b"]);
    let lost: Vec<_> = compiled.0.diagnostics.iter().filter(|one| one.reason == "CertificateConflict").collect();
    let [lost] = lost[..] else { panic!("{lost:?}") };
    assert_eq!(lost.found, "host a.test with other TLS settings than route default/old, which is older");
    let status = |name: &str| compiled.0.statuses.iter().find(|status| *status.name.name == *name).expect("a status");
    for (name, is_conflicted) in [("young", true), ("old", false), ("same", false)] {
        for parent in status(name).parents.iter().filter(|parent| parent.key.contains("/http")) {
            assert!(parent.accepted.holds && parent.conflicted.holds == is_conflicted, "{name}: {parent:?}");
        }
    }
}

#[test]
fn clients_that_no_route_has_a_certificate_for_get_the_default_one() {
    let mut world = World::secure().secret("ops/it", Ok(pair(&["b.test"])), None);
    world.0.listeners[HTTPS].default_certificate = Some(named("ops/it"));
    let world = world.secret("a", Ok(pair(&["a.test"])), None).route("it", spec("a.test", refs(&["a"])));
    let compiled = world.compile();
    assert_eq!(
        (shown(&compiled, "a.test"), shown(&compiled, "z.test")),
        (vec!["default/a".into()], vec!["ops/it".into()])
    );
    let mut world = world;
    world.0.listeners[HTTPS].default_certificate = Some(named("ops/none"));
    let compiled = world.compile();
    assert_eq!(told(&compiled), [("CertificateNotFound", ": no Secret ops/none".to_owned())]);
    let names: Vec<_> = compiled.0.secrets.iter().map(|one| (one.name.to_string(), one.is_valid)).collect();
    assert_eq!(names, [("default/a".to_owned(), true), ("ops/none".to_owned(), false)]);
}

#[test]
fn a_validation_that_no_listener_asks_for_is_told_with_what_it_does() {
    let mut spec = spec("a.test", refs(&["a"]));
    spec["tls"]["clientValidation"] = json!({ "caCertificateRefs": [{ "kind": "ConfigMap", "name": "ca" }] });
    let told_of = |world: World| {
        let compiled = world.secret("a", Ok(pair(&["a.test"])), None).route("it", spec.clone()).compile();
        told(&compiled)
            .into_iter()
            .filter(|(reason, _)| *reason == "ClientsNotAsked")
            .map(|(_, says)| says)
            .collect::<Vec<_>>()
    };
    assert_eq!(told_of(World::secure()), Vec::<String>::new());
    let says = told_of(World::new());
    assert!(says.len() == 1 && says[0].contains("spec.tls.clientValidation"), "{says:?}");
}

#[test]
fn plain_requests_are_redirected_where_a_listener_takes_them_over_tls() {
    use crate::model::filter::Filter;
    let redirects = |world: World, spec: Value| {
        let world = world.secret("a", Ok(pair(&["a.test"])), None).route("it", spec);
        let compiled = world.compile();
        let [rule] = &*compiled.0.snapshot.rules else { panic!("one rule") };
        (rule.filters.iter().any(|one| matches!(one, Filter::Redirect(one) if one.insecure_only)), told(&compiled))
    };
    let with = |more: Value| {
        let mut spec = spec("a.test", refs(&["a"]));
        for (name, value) in more.as_object().expect("fields") {
            spec[name] = value.clone();
        }
        spec
    };
    assert_eq!(redirects(World::secure(), with(json!({}))), (true, vec![]));
    let mut lax = with(json!({}));
    lax["tls"]["redirectInsecure"] = false.into();
    assert_eq!(redirects(World::secure(), lax), (false, vec![]));
    let to =
        |name: &str| with(json!({ "parentRefs": [{ "group": "tidegate.dev", "kind": "Listener", "name": name }] }));
    assert_eq!(redirects(World::secure(), to("https")), (true, vec![]));
    let mut closed = World::secure();
    closed.0.listeners[HTTPS].allowed_namespaces = Some(["prod".into()].into());
    for (world, spec) in [(World::secure(), to("http")), (World::new(), with(json!({}))), (closed, with(json!({})))] {
        let (redirects, told) = redirects(world, spec);
        assert!(!redirects && told.len() == 1 && told[0].0 == "CertificateNotShown", "{told:?}");
    }
}
