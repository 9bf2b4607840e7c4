//! The Secrets that filters let clients in by.

use super::*;
use crate::compile::named::{NamedFor, objects_named};
use crate::kinds::secret::{Problem, Secret, TLS_TYPE};
use crate::model::filter::Filter;

const KEY: &str = "0123456789abcdef";
const HASH: &str = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";

fn by_key() -> Value {
    json!({ "type": "APIKey", "apiKey": { "secretRef": { "name": "it" } } })
}

fn by_password() -> Value {
    json!({ "type": "BasicAuth", "basicAuth": { "secretRef": { "name": "it" } } })
}

fn spec(filter: Value) -> Value {
    json!({ "filters": [filter], "rules": [{ "name": "r", "backendRefs": [{ "name": "web", "port": 80 }] },
        { "name": "s", "matches": [{ "path": { "value": "/s" } }] }] })
}

impl World {
    fn credentials(mut self, secret: Secret) -> Self {
        self.0.objects.secrets.insert(named("it"), Sourced { object: Arc::new(secret), origin: None });
        self
    }
}

fn secret(manifest: Value) -> Secret {
    serde_json::from_value(manifest).expect("a Secret")
}

/// Whether clients can be let in.
fn lets_in(compiled: &Compiled) -> bool {
    match &compiled.0.snapshot.rules[0].filters[0] {
        Filter::ApiKey(filter) => filter.keys.is_some(),
        Filter::BasicAuth(filter) => filter.users.is_some(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_good_secret_the_rule_stays_and_lets_nobody_in() {
    let unreadable = || Secret::unreadable("tidegate may not read it".into());
    let none = World::new;
    let with = |manifest: Value| World::new().credentials(secret(manifest));
    let of_tls = || json!({ "type": TLS_TYPE, "stringData": { "auth": format!("ada:{HASH}"), "ada": KEY } });
    for (filter, world, reason, found) in [
        (by_key(), none(), "FilterNotFound", "no Secret default/it"),
        (by_password(), none(), "FilterNotFound", "no Secret default/it"),
        (by_key(), none().credentials(unreadable()), "FilterNotFound", "Secret default/it: tidegate may not read it"),
        (by_key(), with(of_tls()), "InvalidFilter", "Secret default/it: it is of type kubernetes.io/tls"),
        (by_password(), with(json!({})), "InvalidFilter", "Secret default/it: it has no field auth"),
        (
            by_password(),
            with(json!({ "stringData": { "auth": format!("ada:{HASH}\nbob:hunter2") } })),
            "InvalidFilter",
            "Secret default/it: its field auth: line 2 has a password in plain text, or hashed in a way that is not supported",
        ),
    ] {
        let compiled = world.route("r", spec(filter.clone())).compile();
        let [finding] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.0.diagnostics) };
        assert_eq!((finding.reason, finding.found.as_str()), (reason, found));
        assert!(finding.path.ends_with(".secretRef.name") && finding.effect.contains("500"), "{finding}");
        assert_eq!(compiled.ask(0, "a.test/x"), "default/r:r", "no broader rule has its place");
        assert!(!lets_in(&compiled), "{filter}");
        let parent = &compiled.parents("r")[0];
        assert!(parent.accepted.holds && !parent.resolved_refs.holds, "{parent:?}");
        assert_eq!(parent.resolved_refs.reason.as_str(), reason);
    }
}

#[test]
fn what_is_strange_about_a_secret_is_told_and_the_filter_works() {
    let with = |data: Value| secret(json!({ "stringData": data }));
    let earlier = |data: Value| Secret { problem: Some(Problem::EarlierStays("gone".into())), ..with(data) };
    for (filter, secret, found) in [
        (by_key(), with(json!({ "ada": KEY })), ""),
        (by_key(), with(json!({})), "Secret default/it has no key"),
        (
            by_key(),
            with(json!({ "ada": "short" })),
            "Secret default/it: the key of ada is shorter than 16 bytes and may be guessed",
        ),
        (by_key(), earlier(json!({ "ada": KEY })), "Secret default/it: gone"),
        (by_password(), with(json!({ "auth": format!("ada:{HASH}") })), ""),
        (by_password(), with(json!({ "auth": "" })), "Secret default/it has no user"),
        (
            by_password(),
            with(json!({ "auth": format!("ada:{HASH}\nada:{HASH}") })),
            "Secret default/it: in its field auth a user that stands further up has another line: 2",
        ),
    ] {
        let compiled = World::new().credentials(secret).route("r", spec(filter)).compile();
        let told: Vec<&str> = compiled.0.diagnostics.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(told, Vec::from_iter(Some(found).filter(|found| !found.is_empty())));
        assert!(lets_in(&compiled) && compiled.parents("r")[0].resolved_refs.holds);
    }
}

#[test]
fn an_order_that_weakens_a_filter_is_told() {
    let cors = || json!({ "type": "CORS", "cors": { "allowOrigins": ["*"] } });
    let mirror =
        || json!({ "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "web", "port": 80 } } });
    let asking = || {
        json!({ "type": "ExternalAuth",
            "externalAuth": { "protocol": "HTTP", "backendRef": { "name": "web", "port": 80 } } })
    };
    let limit = |key: Value| json!({ "type": "RateLimit", "rateLimit": { "requests": 1, "keys": [key] } });
    let header = |name: &str| json!({ "type": "Header", "name": name });
    let forwarding = || json!({ "type": "APIKey", "apiKey": { "secretRef": { "name": "it" }, "forward": true } });
    let by_x_api_key = "a key of this limit is taken out of the request by the APIKey around it";
    for (filters, found) in [
        (json!([cors(), by_key()]), ""),
        (json!([by_key(), cors()]), "this CORS stands inside of APIKey"),
        (json!([by_password(), cors()]), "this CORS stands inside of BasicAuth"),
        (json!([mirror(), by_password()]), "this BasicAuth stands inside of a RequestMirror"),
        (json!([asking(), cors()]), "this CORS stands inside of ExternalAuth"),
        (json!([mirror(), asking()]), "this ExternalAuth stands inside of a RequestMirror"),
        (json!([cors(), asking(), mirror()]), ""),
        (json!([by_password(), mirror()]), ""),
        (json!([by_key(), limit(header("x-api-key"))]), by_x_api_key),
        (json!([limit(header("x-api-key")), by_key()]), ""),
        (json!([forwarding(), limit(header("x-api-key"))]), ""),
        (json!([by_key(), limit(header("authorization"))]), ""),
        (
            json!([by_password(), limit(header("authorization"))]),
            "a key of this limit is taken out of the request by the BasicAuth around it",
        ),
    ] {
        let both = secret(json!({ "stringData": { "auth": format!("ada:{HASH}") } }));
        let rules = json!([{ "name": "r", "filters": filters, "backendRefs": [{ "name": "web", "port": 80 }] }]);
        let compiled = World::new().credentials(both).route("r", json!({ "rules": rules })).compile();
        let told: Vec<&str> = compiled.0.diagnostics.iter().map(|finding| finding.found.as_str()).collect();
        assert_eq!(told, Vec::from_iter(Some(found).filter(|found| !found.is_empty())), "{filters}");
    }
}

#[test]
fn a_hash_by_what_a_filter_takes_away_is_told() {
    let hash = |key: Value| json!({ "algorithm": "ConsistentHash", "hashKeys": [key] });
    let header = |name: &str| json!({ "type": "Header", "name": name });
    let forwarding = || json!({ "type": "APIKey", "apiKey": { "secretRef": { "name": "it" }, "forward": true } });
    let by_query = json!({ "type": "APIKey",
        "apiKey": { "secretRef": { "name": "it" }, "from": [{ "type": "QueryParam", "name": "key" }] } });
    let rules = "spec.rules[0].loadBalancer.hashKeys: a key of this hash is taken out of the request by the";
    for (filter, key, found) in [
        (by_key(), header("x-api-key"), Some(format!("{rules} APIKey of its rule"))),
        (by_password(), header("authorization"), Some(format!("{rules} BasicAuth of its rule"))),
        (by_query, json!({ "type": "QueryParam", "name": "key" }), Some(format!("{rules} APIKey of its rule"))),
        (by_key(), header("x-client"), None),
        (by_key(), header("authorization"), None),
        (forwarding(), header("x-api-key"), None),
    ] {
        let both = secret(json!({ "stringData": { "auth": format!("ada:{HASH}") } }));
        let rule =
            |own: Value| json!([{ "name": "r", "loadBalancer": own, "backendRefs": [{ "name": "web", "port": 80 }] }]);
        let written = json!({ "filters": [filter], "rules": rule(hash(key.clone())) });
        // The same where the rule has it from the route's defaults.
        let inherited = json!({ "filters": [filter], "defaults": { "loadBalancer": hash(key.clone()) },
            "rules": [{ "name": "r", "backendRefs": [{ "name": "web", "port": 80 }] }] });
        for (spec, from) in [(written, "spec.rules[0]"), (inherited, "spec.defaults")] {
            let compiled = World::new().credentials(both.clone()).route("r", spec).compile();
            let told = compiled.0.diagnostics.iter().map(|finding| format!("{}: {}", finding.path, finding.found));
            let expected = found.as_ref().map(|found| found.replace("spec.rules[0]", from));
            assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(expected), "{filter} {key}");
            assert_eq!(compiled.ask(0, "a.test/x"), "default/r:r", "it serves");
        }
    }
}

#[test]
fn a_change_of_a_secret_is_seen_by_the_next_compilation_and_asked_for_by_name() {
    let mut world = World::new().route("r", spec(by_key())).route("other/r", json!({ "rules": [{}] }));
    let mut compiler = Compiler::default();
    let mut compiled = |world: &World| Compiled(compiler.compile(&world.0));
    assert!(!lets_in(&compiled(&world)));
    for key in [KEY, "fedcba9876543210"] {
        world = world.credentials(secret(json!({ "stringData": { "ada": key } })));
        let now = compiled(&world);
        let Filter::ApiKey(filter) = &now.0.snapshot.rules[0].filters[0] else { panic!("another filter") };
        assert!(filter.keys.as_ref().is_some_and(|keys| keys.client(key.as_bytes()).is_some()));
    }
    world.0.objects.secrets.remove(&named("it"));
    assert!(!lets_in(&compiled(&world)));
    let named_objects: Vec<_> = objects_named(&world.0).into_iter().collect();
    assert_eq!(named_objects, [(NamedFor::CredentialSecret, named("it"))]);
}
