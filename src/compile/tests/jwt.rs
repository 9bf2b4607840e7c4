//! JWT: its fields, its keys, and its place among other filters.

use super::*;
use crate::model::filter::{Filter, Jwt, JwtKeys};

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn provider(change: Value) -> Value {
    let mut provider = json!({ "name": "a", "issuer": "https://id.test", "jwks": { "uri": "https://id.test/keys" } });
    change.as_object().expect("fields").iter().for_each(|(key, value)| provider[key] = value.clone());
    provider
}

fn jwt(provider: Value) -> Value {
    json!({ "type": "JWT", "jwt": { "providers": [provider] } })
}

fn limit(key: Value) -> Value {
    json!({ "type": "RateLimit", "rateLimit": { "requests": 1, "keys": [key] } })
}

fn claim() -> Value {
    json!({ "type": "JWTClaim", "name": "sub" })
}

/// A route with these filters, and one rule with these.
fn with(of_route: &[Value], of_rule: &[Value]) -> World {
    let mut rule = rule("it", "/");
    rule["filters"] = json!(of_rule);
    World::new().route("r", json!({ "parentRefs": [on("http")], "filters": of_route, "rules": [rule] }))
}

/// All findings, with their paths.
fn told(compiled: &Compiled) -> Vec<String> {
    let findings = compiled.0.diagnostics.iter();
    findings.map(|one| format!("{}: {}: found {}", one.path, one.reason, one.found)).collect()
}

fn serves(compiled: &Compiled) -> bool {
    compiled.ask(0, "a.test/") == "default/r:it"
}

fn the_jwt(compiled: &Compiled) -> &Jwt {
    let mut found = compiled.rule("it").filters.iter().filter_map(|filter| match filter {
        Filter::Jwt(jwt) => Some(&**jwt),
        _ => None,
    });
    found.next().expect("a JWT")
}

#[test]
fn defaults_are_strict() {
    let compiled = with(&[], &[jwt(provider(json!({})))]).compile();
    assert_eq!(told(&compiled), [""; 0]);
    let jwt = the_jwt(&compiled);
    let provider = &jwt.providers[0];
    assert!(jwt.is_required && jwt.scopes.is_empty() && &*jwt.realm == "default/r");
    assert_eq!(format!("{:?}", provider.from), r#"[Header("authorization")]"#);
    let names = "[RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]";
    assert_eq!(format!("{:?}", provider.algorithms), names);
    assert_eq!((provider.clock_skew.as_secs(), provider.forward), (60, false));
    let JwtKeys::Fetched { url, cache_duration } = &provider.keys else { panic!("{provider:?}") };
    assert_eq!((url.to_string().as_str(), cache_duration.as_secs()), ("https://id.test/keys", 600));
}

#[test]
fn what_cannot_work_drops_the_rule() {
    let of_provider = |change: Value| jwt(provider(change));
    let jwks = |jwks: Value| of_provider(json!({ "jwks": jwks }));
    let twice =
        |change: Value| json!({ "type": "JWT", "jwt": { "providers": [provider(json!({})), provider(change)] } });
    let header = |name: &str| json!([{ "claim": "sub", "header": name }]);
    let cases = [
        (json!({ "type": "JWT", "jwt": { "providers": [] } }), "providers"),
        (json!({ "type": "JWT", "jwt": { "providers": [provider(json!({}))], "mode": "Maybe" } }), "mode"),
        (
            json!({ "type": "JWT", "jwt": { "providers": [provider(json!({}))], "requiredScopes": ["a", "b c"] } }),
            "requiredScopes[1]",
        ),
        (of_provider(json!({ "from": [{ "type": "SourceIP" }] })), "providers[0].from[0].type"),
        (of_provider(json!({ "from": [claim()] })), "providers[0].from[0].type"),
        (of_provider(json!({ "claimsToHeaders": header("host") })), "providers[0].claimsToHeaders[0].header"),
        (of_provider(json!({ "claimsToHeaders": header("x_user") })), "providers[0].claimsToHeaders[0].header"),
        (of_provider(json!({ "claimsToHeaders": header("authorization") })), "providers[0].claimsToHeaders[0].header"),
        (
            of_provider(
                json!({ "claimsToHeaders": [{ "claim": "a", "header": "x-a" }, { "claim": "b", "header": "X-A" }] }),
            ),
            "providers[0].claimsToHeaders[1].header",
        ),
        (of_provider(json!({ "algorithms": ["HS256"] })), "providers[0].algorithms[0]"),
        (of_provider(json!({ "algorithms": ["RS256", "none"] })), "providers[0].algorithms[1]"),
        (of_provider(json!({ "clockSkew": "6m" })), "providers[0].clockSkew"),
        (jwks(json!({ "uri": "https://id.test/keys", "cacheDuration": "59s" })), "providers[0].jwks.cacheDuration"),
        (jwks(json!({ "uri": "https://id.test/keys", "cacheDuration": "25h" })), "providers[0].jwks.cacheDuration"),
        (jwks(json!({ "uri": "https://user:secret@id.test/keys" })), "providers[0].jwks.uri"),
        (jwks(json!({ "uri": "https:///keys" })), "providers[0].jwks.uri"),
        (jwks(json!({ "uri": "ftp://id.test/keys" })), "providers[0].jwks.uri"),
        (jwks(json!({ "uri": "https://id.test/keys#a" })), "providers[0].jwks.uri"),
        (jwks(json!({})), "providers[0].jwks"),
        (twice(json!({ "name": "b" })), "providers[1].issuer"),
    ];
    for (filter, path) in cases {
        let compiled = with(&[], std::slice::from_ref(&filter)).compile();
        let findings = told(&compiled);
        let expected = format!("spec.rules[0].filters[0].jwt.{path}");
        assert!(findings.iter().any(|finding| finding.contains(&expected)), "{filter}: {findings:?}, not {expected}");
        assert!(!serves(&compiled), "{filter}");
    }
    // The same issuer at another place of the token is another provider.
    let elsewhere = twice(json!({ "name": "b", "from": [{ "type": "Cookie", "name": "t" }] }));
    assert_eq!(told(&with(&[], &[elsewhere]).compile()), [""; 0]);
}

#[test]
fn given_keys_come_from_a_config_map() {
    let reference = |key: &str| jwt(provider(json!({ "jwks": { "configMapRef": { "name": "keys", "key": key } } })));
    let world = |key: &str, data: Option<Value>| {
        let mut world = with(&[], &[reference(key)]);
        if let Some(data) = data {
            world.0.objects.config_maps.insert(named("keys"), read(json!({ "data": data })));
        }
        world.compile()
    };
    let good = world("jwks", Some(json!({ "jwks": KEYS })));
    assert_eq!(told(&good), [""; 0]);
    assert!(matches!(&the_jwt(&good).providers[0].keys, JwtKeys::Given(_)));
    // Without them the filter stays, and lets nobody in.
    for (key, data, expected) in [
        ("jwks", None, "configMapRef.name: FilterNotFound: found no ConfigMap default/keys"),
        (
            "jwks",
            Some(json!({ "other": KEYS })),
            "configMapRef.key: FilterNotFound: found ConfigMap default/keys, key \"jwks\"",
        ),
        (
            "jwks",
            Some(json!({ "jwks": "{}" })),
            "configMapRef.key: InvalidFilter: found ConfigMap default/keys, key \"jwks\"",
        ),
    ] {
        let bad = world(key, data);
        let findings = told(&bad);
        assert!(findings.len() == 1 && findings[0].contains(expected), "{findings:?}, not {expected}");
        assert!(the_jwt(&bad).providers.is_empty(), "{expected}");
        let references = &bad.parent("r").resolved_refs;
        assert!(!references.holds, "{references:?}");
    }
}

#[test]
fn claims_are_keys_only_behind_a_jwt() {
    let token = || jwt(provider(json!({})));
    let served = |of_route: &[Value], of_rule: &[Value]| {
        let compiled = with(of_route, of_rule).compile();
        (serves(&compiled), told(&compiled))
    };
    assert_eq!(served(&[], &[token(), limit(claim())]), (true, Vec::new()));
    assert_eq!(served(&[token()], &[limit(claim())]), (true, Vec::new()));
    let concurrency =
        json!({ "type": "ConcurrencyLimit", "concurrencyLimit": { "maxInFlight": 1, "keys": [claim()] } });
    assert_eq!(served(&[token(), concurrency.clone()], &[]), (true, Vec::new()));
    for (of_route, of_rule, path) in [
        (vec![], vec![limit(claim()), token()], "spec.rules[0].filters[0].rateLimit.keys"),
        (vec![limit(claim())], vec![token()], "spec.filters[0].rateLimit.keys"),
        (vec![], vec![concurrency], "spec.rules[0].filters[0].concurrencyLimit.keys"),
    ] {
        let (is_served, findings) = served(&of_route, &of_rule);
        assert!(!is_served && findings.len() == 1 && findings[0].contains(path), "{path}: {findings:?}");
    }
    // A hash is taken behind all filters of the rule.
    for (filters, is_served) in [(vec![token()], true), (vec![], false)] {
        let mut rule = rule("it", "/");
        rule["filters"] = json!(filters);
        rule["loadBalancer"] = json!({ "algorithm": "ConsistentHash", "hashKeys": [claim()] });
        let world = World::new().route("r", json!({ "parentRefs": [on("http")], "rules": [rule] }));
        let compiled = world.compile();
        assert_eq!(told(&compiled).is_empty(), is_served, "{:?}", told(&compiled));
    }
}

#[test]
fn a_delegating_parent_may_verify_the_token() {
    let world = |of_parent: &[Value], of_child: &[Value]| {
        let mut above = delegating("api", "/api");
        above["filters"] = json!(of_parent);
        let mut below = rule("it", "/api/x");
        below["filters"] = json!(of_child);
        World::new()
            .route("r", json!({ "parentRefs": [on("http")], "rules": [above] }))
            .route("child", json!({ "parentRefs": [under("r", "api")], "rules": [below] }))
            .compile()
    };
    let token = || jwt(provider(json!({})));
    assert_eq!(told(&world(&[token()], &[limit(claim())])), [""; 0]);
    let findings = told(&world(&[], &[limit(claim())]));
    assert!(findings.len() == 1 && findings[0].contains("JWTClaim without a JWT filter before it"), "{findings:?}");
    // The parent takes the token out: the child would never see one.
    let findings = told(&world(&[token()], &[token()]));
    assert!(findings.len() == 1 && findings[0].contains("an outer JWT takes out"), "{findings:?}");
    assert_eq!(told(&world(&[jwt(provider(json!({ "forward": true })))], &[token()])), [""; 0]);
}

#[test]
fn an_inner_jwt_sees_what_the_outer_one_leaves() {
    let token = |change| jwt(provider(change));
    let cookie = json!({ "from": [{ "type": "Cookie", "name": "t" }] });
    for (outer, inner, is_fine) in [
        (json!({}), json!({}), false),
        (json!({ "forward": true }), json!({}), true),
        (json!({}), cookie.clone(), true),
        (cookie.clone(), cookie, false),
        (
            json!({}),
            json!({ "from": [{ "type": "Header", "name": "authorization" }, { "type": "Cookie", "name": "t" }] }),
            true,
        ),
    ] {
        let findings = told(&with(&[token(outer.clone())], &[token(inner.clone())]).compile());
        assert_eq!(findings.is_empty(), is_fine, "{outer} {inner}: {findings:?}");
    }
}
