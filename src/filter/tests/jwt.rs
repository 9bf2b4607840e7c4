//! JWT as a layer: where tokens stand, whose they are, and what becomes of them.

use http::Uri;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::filter::known_tokens::{KnownTokens, TokenOf, ValidToken};
use crate::model::filter::{ClaimHeader, CredentialPlace, FilterList, Jwt, JwtKeys, JwtProvider, RateLimit, StateKey};
use crate::model::ids::ObjectName;
use crate::model::key_set::KeySet;
use crate::model::request_values::RequestKey;

/// An issuer with one key.
struct Issuer {
    name: &'static str,
    key: EncodingKey,
    keys: Arc<KeySet>,
}

impl Issuer {
    fn new(name: &'static str) -> Self {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let pair = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8v1(&rng).unwrap();
        let key = EncodingKey::from_ed_der(pair.as_ref());
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
        jwk.common.key_id = Some("k".to_owned());
        let keys = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        Self { name, key, keys: Arc::new(keys) }
    }

    /// A token with these claims, and others that are valid; it lives for ever, as the values of a walk's fields do.
    fn token(&self, claims: Value) -> &'static str {
        let mut all = json!({ "iss": self.name, "exp": NOW.as_secs() + 100, "sub": "ada" });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let header = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &all, &self.key).unwrap().leak()
    }

    fn provider(&self, from: &[CredentialPlace]) -> JwtProvider {
        JwtProvider {
            issuer: Some(self.name.into()),
            audiences: Box::default(),
            keys: JwtKeys::Given(Arc::clone(&self.keys)),
            from: from.into(),
            claims: [("sub", "x-user"), ("groups", "x-groups")]
                .map(|(claim, header)| ClaimHeader { claim: claim.into(), header: HeaderName::from_static(header) })
                .into(),
            forward: false,
            algorithms: [Algorithm::EdDSA].into(),
            clock_skew: Duration::ZERO,
        }
    }
}

fn key(filter: &'static str) -> Arc<StateKey> {
    Arc::new(StateKey { route: ObjectName::new("ns", "r"), place: FilterList::Route, filter, position: 0 })
}

fn jwt(providers: impl IntoIterator<Item = JwtProvider>) -> Jwt {
    Jwt {
        state: key("JWT"),
        providers: providers.into_iter().map(Arc::new).collect(),
        is_required: true,
        scopes: Box::default(),
        realm: "ns/r".into(),
    }
}

fn header(name: &'static str) -> CredentialPlace {
    CredentialPlace::Header(HeaderName::from_static(name))
}

const AUTHORIZATION: CredentialPlace = CredentialPlace::Header(http::header::AUTHORIZATION);

fn bearer(token: &str) -> &'static str {
    format!("Bearer {token}").leak()
}

fn through(filters: &[Filter], mut walk: Walk) -> Outcome {
    walk.states = StateRegistry::new(1).of_list(filters);
    walk.through(filters)
}

fn through_jwt(filter: &Jwt, walk: Walk) -> Outcome {
    through(&[Filter::Jwt(Arc::new(filter.clone()))], walk)
}

/// Status and reason of the answer; `None`: the request passes.
fn refusal(outcome: &Outcome) -> Option<(u16, Reason)> {
    outcome.answer.as_ref().map(|answer| (answer.status.as_u16(), answer.reason))
}

#[test]
fn tokens_are_found_where_they_are_looked_for() {
    let issuer = Issuer::new("https://id.test");
    let places =
        [AUTHORIZATION, header("x-jwt"), CredentialPlace::Cookie("t".into()), CredentialPlace::QueryParam("t".into())];
    let filter = jwt([issuer.provider(&places)]);
    let (token, other) = (issuer.token(json!({})), issuer.token(json!({ "sub": "bob" })));
    let walk = Walk::default;
    let denied = Some((401, Reason::Jwt));
    let cookie = |text: String| -> &'static str { text.leak() };
    let long = "a".repeat(8 * 1024 + 1).leak();
    for (number, (walk, expected)) in [
        (walk().header("authorization", bearer(token)), None),
        (walk().header("authorization", format!("bEaReR   {token}").leak()), None),
        (walk().header("authorization", token), None),
        (walk().header("authorization", bearer(token)).header("authorization", bearer(token)), None),
        (walk().header("authorization", bearer(token)).header("authorization", bearer(other)), denied),
        (walk().header("authorization", "Basic YTpi").header("x-jwt", token), None),
        (walk().header("authorization", "Bearer wrong").header("x-jwt", token), denied),
        (walk().header("x-jwt", bearer(token)), None),
        (walk().header("cookie", cookie(format!("a=1; t={token}"))), None),
        (Walk { query: Some(format!("a=1&t={token}").leak()), ..walk() }, None),
        (Walk { query: Some(format!("t={token}&t={other}").leak()), ..walk() }, denied),
        (walk().header("x-jwt", long), denied),
        (walk().header("authorization", "Bearer"), denied),
        (walk().header("authorization", "Bearer "), denied),
        (walk(), denied),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = through_jwt(&filter, walk);
        assert_eq!(refusal(&outcome), expected, "case {number}");
        if expected.is_none() {
            assert_eq!(
                (&outcome.request["x-user"], outcome.user.as_deref()),
                (&HeaderValue::from_static("ada"), Some("ada"))
            );
            // Nothing of it goes on.
            let rest = format!("{:?} {:?}", outcome.request, outcome.query);
            assert!(!rest.contains(token), "case {number}: {rest}");
        }
    }
}

#[test]
fn a_refusal_says_what_would_do() {
    let issuer = Issuer::new("https://id.test");
    let mut filter = jwt([issuer.provider(&[AUTHORIZATION])]);
    filter.scopes = ["read".into(), "write".into()].into();
    let challenge = |walk| {
        let outcome = through_jwt(&filter, walk);
        let text = outcome.response["www-authenticate"].to_str().unwrap().to_owned();
        (refusal(&outcome).unwrap(), text)
    };
    let with = |claims| Walk::default().header("authorization", bearer(issuer.token(claims)));
    let realm = r#"Bearer realm="ns/r""#;
    assert_eq!(challenge(Walk::default()), ((401, Reason::Jwt), realm.to_owned()));
    let invalid = format!(r#"{realm}, error="invalid_token""#);
    assert_eq!(challenge(with(json!({ "exp": NOW.as_secs() }))), ((401, Reason::Jwt), invalid));
    let scope = format!(r#"{realm}, error="insufficient_scope", scope="read write""#);
    assert_eq!(challenge(with(json!({ "scope": "read" }))), ((403, Reason::JwtScope), scope));
    assert_eq!(refusal(&through_jwt(&filter, with(json!({ "scope": "write other read" })))), None);
}

#[test]
fn an_optional_token_may_be_missing_and_not_be_bad() {
    let issuer = Issuer::new("https://id.test");
    let filter = Jwt { is_required: false, ..jwt([issuer.provider(&[AUTHORIZATION])]) };
    let spoofed = || Walk::default().header("x-user", "root").header("x-groups", "admin").header("x-other", "1");
    let outcome = through_jwt(&filter, spoofed());
    assert_eq!(refusal(&outcome), None);
    assert_eq!(outcome.request.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    let bad = spoofed().header("authorization", bearer(issuer.token(json!({ "exp": 1 }))));
    assert_eq!(refusal(&through_jwt(&filter, bad)), Some((401, Reason::Jwt)));
    // With a token, only what it says.
    let good = spoofed().header("authorization", bearer(issuer.token(json!({}))));
    let outcome = through_jwt(&filter, good);
    assert_eq!(outcome.request["x-user"], "ada");
    assert!(!outcome.request.contains_key("x-groups"), "{:?}", outcome.request);
}

#[test]
fn claims_become_headers() {
    let issuer = Issuer::new("https://id.test");
    let filter = jwt([issuer.provider(&[AUTHORIZATION])]);
    for (claims, expected) in [
        (json!({ "groups": ["dev", "ops"] }), Some("dev,ops")),
        (json!({ "groups": 7 }), Some("7")),
        (json!({ "groups": ["dev", "x,admin"] }), None),
        (json!({ "groups": "a\r\nx-admin: 1" }), None),
        (json!({ "groups": { "a": 1 } }), None),
    ] {
        let walk = Walk::default().header("authorization", bearer(issuer.token(claims.clone())));
        let outcome = through_jwt(&filter, walk);
        assert_eq!(refusal(&outcome), None, "{claims}");
        assert_eq!(outcome.request.get("x-groups").map(|value| value.to_str().unwrap()), expected, "{claims}");
    }
}

#[test]
fn one_provider_alone_verifies_a_token() {
    let (one, two, any) = (Issuer::new("https://one.test"), Issuer::new("https://two.test"), Issuer::new("elsewhere"));
    let anyone = JwtProvider { issuer: None, ..any.provider(&[header("x-any"), AUTHORIZATION]) };
    let filter = jwt([
        one.provider(&[AUTHORIZATION]),
        JwtProvider { forward: true, ..two.provider(&[AUTHORIZATION, header("x-two")]) },
        anyone,
    ]);
    let judge = |walk: Walk| through_jwt(&filter, walk);
    let authorization = |token| Walk::default().header("authorization", bearer(token));
    let denied = Some((401, Reason::Jwt));
    assert_eq!(refusal(&judge(authorization(one.token(json!({}))))), None);
    let outcome = judge(authorization(two.token(json!({}))));
    assert_eq!(refusal(&outcome), None);
    assert!(outcome.request.contains_key("authorization"), "it forwards its tokens");
    assert_eq!(refusal(&judge(authorization(any.token(json!({}))))), None);
    // A token that names an issuer is verified with that issuer's keys and no others.
    assert_eq!(refusal(&judge(authorization(one.token(json!({ "iss": "https://two.test" }))))), denied);
    assert_eq!(refusal(&judge(authorization(any.token(json!({ "iss": "https://one.test" }))))), denied);
    // It counts only where its provider looks.
    assert_eq!(refusal(&judge(Walk::default().header("x-two", one.token(json!({}))))), denied);
    assert_eq!(refusal(&judge(Walk::default().header("x-two", two.token(json!({}))))), None);
    let outcome = judge(authorization(one.token(json!({}))).header("x-any", any.token(json!({}))));
    assert_eq!(refusal(&outcome), None);
    assert!(!outcome.request.contains_key("authorization") && !outcome.request.contains_key("x-any"));
}

#[test]
fn a_token_that_was_verified_is_known_until_something_changes() {
    let issuer = Issuer::new("https://id.test");
    let filter = jwt([issuer.provider(&[AUTHORIZATION])]);
    let layers = [Filter::Jwt(Arc::new(filter.clone()))];
    let (lent, mut registry) = (Rc::new(Lent::new()), StateRegistry::new(1));
    // Held, so that it goes on as from version to version.
    let _held = registry.of_list(&layers);
    let token = issuer.token(json!({}));
    let walk = |states: ListStates| Walk { states, lent: Rc::clone(&lent), ..Walk::default() };
    for _ in 0..3 {
        let walk = walk(registry.of_list(&layers)).header("authorization", bearer(token));
        let outcome = walk.through(&layers);
        assert_eq!((refusal(&outcome), &outcome.request["x-user"]), (None, &HeaderValue::from_static("ada")));
    }
    // Another signature under the same claims is another token.
    let forged: &str = format!("{}AAAA", &token[..token.len() - 4]).leak();
    let walk_forged = walk(registry.of_list(&layers)).header("authorization", bearer(forged));
    assert!(refusal(&walk_forged.through(&layers)).is_some());
    // The same filter with other keys or another audience, as after a change: what was known before does not count.
    let other_keys = JwtProvider { keys: JwtKeys::Given(Issuer::new("x").keys), ..issuer.provider(&[AUTHORIZATION]) };
    let other_audience = JwtProvider { audiences: ["api".into()].into(), ..issuer.provider(&[AUTHORIZATION]) };
    for changed in [other_keys, other_audience] {
        let layers = [Filter::Jwt(Arc::new(jwt([changed])))];
        let walk = walk(registry.of_list(&layers)).header("authorization", bearer(token));
        assert!(refusal(&walk.through(&layers)).is_some());
    }
}

#[test]
fn a_known_token_ends_in_its_time() {
    let mut known = KnownTokens::default();
    let valid = |until| Rc::new(ValidToken::of_test(until));
    let token = |text: &str| TokenOf::new(1, text);
    known.put(token("a"), (1, 3), valid(NOW), 10);
    let get = |token, version, now| known.get(&token, |_| version, now).map(|(provider, _)| provider);
    let before = NOW - Duration::from_millis(1);
    assert_eq!(get(token("a"), 3, before), Some(1));
    assert_eq!(get(token("a"), 3, NOW), None, "over");
    assert_eq!(get(token("a"), 4, before), None, "other keys");
    assert_eq!(get(token("b"), 3, before), None);
    assert_eq!(get(TokenOf::new(2, "a"), 3, before), None, "of another filter");
    // Memory is bounded, however large they are.
    for number in 0..5_000 {
        known.put(token(&number.to_string()), (0, 3), valid(NOW), 8 * 1024);
    }
    let kept = (0..5_000).filter(|number| known.get(&token(&number.to_string()), |_| 3, before).is_some());
    assert!((30..=64).contains(&kept.count()));
}

/// Whether a request waits for keys, and how it is refused after that.
fn waits(layers: &[Filter], walk: Walk) -> (bool, Option<(u16, Reason)>) {
    let outcome = walk.through(layers);
    (outcome.waited, refusal(&outcome))
}

#[test]
fn keys_that_are_not_there_are_asked_for() {
    let issuer = Issuer::new("https://id.test");
    let url: Uri = "https://id.test/keys".parse().unwrap();
    let keys = JwtKeys::Fetched { url, cache_duration: Duration::from_secs(600) };
    let layers = [Filter::Jwt(Arc::new(jwt([JwtProvider { keys, ..issuer.provider(&[AUTHORIZATION]) }])))];
    let mut registry = StateRegistry::new(1);
    let states = registry.of_list(&layers);
    let Some(FilterState::Jwt(state)) = states[0].as_deref() else { panic!("{states:?}") };
    let remote = Arc::clone(state.remote().next().unwrap().1);
    let token = issuer.token(json!({}));
    let walk = |states: ListStates| Walk { states, ..Walk::default() }.header("authorization", bearer(token));
    let again = |registry: &mut StateRegistry| registry.of_list(&layers);
    // The first fetch is under way: it asks, and once that is over the answer is 503.
    assert_eq!(waits(&layers, walk(again(&mut registry))), (true, Some((503, Reason::Jwks))));
    remote.end(None, Instant::now());
    // No fetch is under way: the first request has one made.
    assert_eq!(waits(&layers, walk(again(&mut registry))), (true, Some((503, Reason::Jwks))));
    remote.end(None, Instant::now());
    // Not again within ten seconds.
    assert_eq!(waits(&layers, walk(again(&mut registry))), (false, Some((503, Reason::Jwks))));
    remote.end(Some((*issuer.keys).clone()), Instant::now());
    assert_eq!(waits(&layers, walk(again(&mut registry))), (false, None));
    // Its key is gone, and with it what was known.
    let other = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "new", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }] });
    remote.end(Some(KeySet::parse(other.to_string().as_bytes()).unwrap()), Instant::now());
    assert_eq!(waits(&layers, walk(again(&mut registry))), (false, Some((401, Reason::Jwt))));
    let later = Walk { now: Instant::now() + Duration::from_secs(11), ..walk(again(&mut registry)) };
    assert_eq!(waits(&layers, later), (true, Some((401, Reason::Jwt))));
}

#[test]
fn limits_count_by_claims() {
    let issuer = Issuer::new("https://id.test");
    let limit = RateLimit {
        state: key("RateLimit"),
        interval: Duration::from_secs(3600),
        burst: 1,
        keys: vec![RequestKey::JwtClaim("team.id".into())],
        status: StatusCode::TOO_MANY_REQUESTS,
        shadow: false,
        fields: None,
    };
    let optional = Jwt { is_required: false, ..jwt([issuer.provider(&[AUTHORIZATION])]) };
    let layers = [Filter::Jwt(Arc::new(optional)), Filter::RateLimit(Arc::new(limit))];
    let mut registry = StateRegistry::new(1);
    // Held, so that the buckets stay.
    let first = registry.of_list(&layers);
    let mut judge = |claims: Option<Value>| {
        let walk = Walk { states: registry.of_list(&layers), ..Walk::default() };
        let walk = match claims {
            Some(claims) => walk.header("authorization", bearer(issuer.token(claims))),
            None => walk,
        };
        refusal(&walk.through(&layers)).is_none()
    };
    let team = |id: &str| Some(json!({ "team": { "id": id } }));
    assert!(judge(team("a")) && judge(team("b")));
    assert!(!judge(team("a")) && !judge(team("b")));
    // Without the claim, and without a token, it is one bucket for all of these.
    assert!(judge(Some(json!({}))));
    assert!(!judge(None));
    drop(first);
}

#[test]
fn the_headers_of_claims_are_for_the_filter_alone() {
    let issuer = Issuer::new("https://id.test");
    let filter = Filter::Jwt(Arc::new(jwt([issuer.provider(&[AUTHORIZATION])])));
    for (name, is_its_own) in [("x-user", true), ("x-groups", true), ("x-other", false)] {
        assert_eq!(filter.decides_field(&HeaderName::from_static(name)), is_its_own, "{name}");
    }
}
