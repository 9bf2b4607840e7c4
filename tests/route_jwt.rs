//! The whole program with JWT filters, beside an identity provider of their own.

#![allow(clippy::unwrap_used)]

#[path = "support/identity_provider.rs"]
mod identity_provider;
mod support;

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use identity_provider::IdentityProvider;
use support::backend::Backend;
use support::client::{Answer, Client};
use support::gateway::{Gateway, service};
use support::signing_key::{SigningKey, key_set, now};
use support::witness::witness;

/// A route to the Service `s` with a JWT of this provider, and more in its one rule.
fn route(provider: &str, rule: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  hostnames: [a.test]\n  \
         filters:\n  - type: JWT\n    jwt:\n      requiredScopes: [read]\n      providers:\n      - name: id\n        \
         issuer: https://id.test\n{provider}  rules:\n  - name: it\n{rule}    backendRefs: [{{name: s, port: 80}}]\n"
    )
}

/// The keys of a provider behind a URL.
fn fetched(idp: &IdentityProvider) -> String {
    format!("        jwks: {{uri: \"{}\"}}\n", idp.url())
}

/// What a gateway in these tests goes by: an authority for the identity provider, and names in the log.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Self {
        let bed = Self { dir: tempfile::tempdir().unwrap() };
        let settings = format!(
            "jwt: {{caFile: {}, logSubject: true}}\nforwarding: {{reasonHeader: true}}\n",
            bed.authority().display()
        );
        fs::write(bed.path("settings.yaml"), settings).unwrap();
        bed
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn authority(&self) -> std::path::PathBuf {
        self.path("ca.pem")
    }

    fn gateway(&self, files: &[(&str, String)]) -> Gateway {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let (settings, log) = (self.path("settings.yaml"), self.path("access.log"));
        let args = ["--settings", settings.to_str().unwrap(), "--access-log", log.to_str().unwrap()];
        Gateway::start_with(&files, &args)
    }
}

/// A claim that the route asks for.
fn scope() -> Value {
    json!({ "scope": "write read" })
}

fn request(token: &str, fields: &str) -> String {
    format!("GET /x?a=1 HTTP/1.1\r\nhost: a.test\r\nauthorization: Bearer {token}\r\n{fields}\r\n")
}

fn ask(gateway: &Gateway, token: &str) -> Answer {
    Client::connect(gateway.http).request(&request(token, "")).unwrap()
}

/// Asks until the answer has this status.
fn wait_for(gateway: &Gateway, token: impl Fn() -> String, status: u16) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = ask(gateway, &token());
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < until, "{answer:?} instead of {status}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_token_lets_in_and_its_claims_reach_the_pod() {
    let bed = Bed::new();
    let key = SigningKey::new("k1");
    let idp = IdentityProvider::start(key_set(&[key.public()]), &bed.authority());
    let (pod, came) = witness();
    let claims = "        claimsToHeaders: [{claim: sub, header: x-user}, {claim: org.team, header: x-team}]\n";
    let route = route(&format!("{}{claims}", fetched(&idp)), "");
    let mut gateway = bed.gateway(&[("s.yaml", service("s", &[pod])), ("r.yaml", route)]);

    let mut claims = scope();
    claims["org"] = json!({ "team": "blue" });
    let token = key.sign(&claims);
    let spoofed = "x-user: root\r\nx-team: red\r\n";
    for _ in 0..2 {
        let answer = Client::connect(gateway.http).request(&request(&token, spoofed)).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = came.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!((seen.field("x-user"), seen.field("x-team")), (Some("ada"), Some("blue")), "{}", seen.head);
        assert!(!seen.head.contains(&token) && !seen.head.contains("root"), "{}", seen.head);
    }
    let realm = "Bearer realm=\"default/r\"";
    let refused = |token: &str| {
        let answer = ask(&gateway, token);
        let field = |name| answer.field(name).unwrap_or_default().to_owned();
        (answer.status, field("x-tidegate-reason"), field("www-authenticate"))
    };
    let invalid = (401, "jwt".to_owned(), format!("{realm}, error=\"invalid_token\""));
    assert_eq!(refused(&key.sign(&json!({ "exp": now() - 120 }))), invalid);
    assert_eq!(refused(&SigningKey::new("k1").sign(&scope())), invalid, "somebody else's key");
    let scope = format!("{realm}, error=\"insufficient_scope\", scope=\"read\"");
    assert_eq!(refused(&key.sign(&json!({ "scope": "write" }))), (403, "jwt_scope".to_owned(), scope));
    let bare = Client::connect(gateway.http).request("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
    assert_eq!((bare.status, bare.field("www-authenticate"), &*bare.body), (401, Some(realm), "unauthorized\n"));
    assert!(came.try_recv().is_err(), "none of them has come to the pod");

    let metrics = gateway.admin("/metrics").body;
    for line in [
        "tidegate_auth_requests_total{filter=\"JWT\",verdict=\"passed\"} 2\n",
        "tidegate_auth_requests_total{filter=\"JWT\",verdict=\"denied\"} 4\n",
        "tidegate_jwks_fetches_total{fetch=\"ok\"} 1\n",
        "tidegate_jwks_age_seconds ",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    gateway.terminate();
    gateway.wait();
    let log = fs::read_to_string(bed.path("access.log")).unwrap();
    assert_eq!(log.matches("\"user\":\"ada\"").count(), 2, "{log}");
    assert!(!log.contains(&token), "{log}");
    assert_eq!(idp.fetches(), 1);
}

/// A thousand requests a second, while the identity provider begins to sign with another key: it is asked once, and nobody
/// is refused.
#[test]
fn a_rotation_of_keys_costs_one_fetch_and_no_request() {
    let bed = Bed::new();
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let idp = IdentityProvider::start(key_set(&[old.public()]), &bed.authority());
    let backend = Backend::start("pod");
    let files = [("s.yaml", service("s", &[backend.port])), ("r.yaml", route(&fetched(&idp), ""))];
    let gateway = bed.gateway(&files);
    wait_for(&gateway, || old.sign(&scope()), 200);
    assert_eq!(idp.fetches(), 1);

    let (is_new, is_over, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    let bad = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..10 {
            threads.spawn(|| {
                let mut client = Client::connect(gateway.http);
                // A hundred users each, with a token of their own.
                for number in 0_u32.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = if is_new.load(Ordering::Relaxed) { &new } else { &old };
                    let token = key.sign(&json!({ "scope": "read", "sub": format!("user-{}", number % 100) }));
                    let answer = client.request(&request(&token, "")).unwrap();
                    sent.fetch_add(1, Ordering::Relaxed);
                    if answer.status != 200 {
                        bad.lock().unwrap().push(answer);
                    }
                    // Ten of these are a thousand a second.
                    let due = began + Duration::from_millis(10) * (number + 1);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(1_000));
        idp.publish(key_set(&[old.public(), new.public()]));
        is_new.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1_000));
        is_over.store(true, Ordering::Relaxed);
    });
    let (sent, bad, took) = (sent.into_inner(), bad.into_inner().unwrap(), began.elapsed());
    println!("{sent} requests in {took:?}: {} refused, {} fetches after the first", bad.len(), idp.fetches() - 1);
    assert!(bad.is_empty(), "{} of {sent}: {:?}", bad.len(), bad[0]);
    assert_eq!(idp.fetches(), 2);
    assert!(sent > 500, "{sent}");
}

/// Ten thousand tokens, each signed with a key of another name: at most one fetch in ten seconds, and those who are logged
/// in notice nothing.
#[test]
fn made_up_keys_do_not_turn_the_gateway_against_its_issuer() {
    const CLIENTS: usize = 8;
    const TOKENS: usize = 10_000;
    let bed = Bed::new();
    let key = SigningKey::new("k");
    let idp = IdentityProvider::start(key_set(&[key.public()]), &bed.authority());
    let backend = Backend::start("pod");
    let files = [("s.yaml", service("s", &[backend.port])), ("r.yaml", route(&fetched(&idp), ""))];
    let gateway = bed.gateway(&files);
    wait_for(&gateway, || key.sign(&scope()), 200);
    let (began, before) = (Instant::now(), idp.fetches());
    let theirs = SigningKey::new("theirs");
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (gateway, key, theirs) = (&gateway, &key, &theirs);
            threads.spawn(move || {
                let mut connection = Client::connect(gateway.http);
                for number in (client..TOKENS).step_by(CLIENTS) {
                    let token = theirs.named(&format!("made-up-{number}")).sign(&scope());
                    let answer = connection.request(&request(&token, "")).unwrap();
                    assert_eq!((answer.status, answer.field("x-tidegate-reason")), (401, Some("jwt")), "{answer:?}");
                    if number < CLIENTS * 10 {
                        assert_eq!(connection.request(&request(&key.sign(&scope()), "")).unwrap().status, 200);
                    }
                }
            });
        }
    });
    let (fetches, took) = (idp.fetches() - before, began.elapsed());
    println!("{TOKENS} made-up keys in {took:?}: {fetches} fetches");
    assert!((1..=1 + took.as_secs() as usize / 10).contains(&fetches), "{fetches} fetches in {took:?}");
}

/// Fetches that have failed, as the gateway counts them.
fn failed_fetches(gateway: &Gateway) -> u64 {
    let page = gateway.admin("/metrics").body;
    let samples = page.lines().filter_map(|line| line.strip_prefix("tidegate_jwks_fetches_total{fetch=\""));
    let failed = samples.filter(|sample| !sample.starts_with("ok\""));
    failed.map(|sample| sample.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

#[test]
fn keys_that_never_came_are_our_fault_and_those_that_came_stay() {
    let bed = Bed::new();
    let key = SigningKey::new("k");
    let idp = IdentityProvider::start(key_set(&[key.public()]), &bed.authority());
    idp.set_down(true);
    let backend = Backend::start("pod");
    let files = [("s.yaml", service("s", &[backend.port])), ("r.yaml", route(&fetched(&idp), ""))];
    let gateway = bed.gateway(&files);
    let answer = ask(&gateway, &key.sign(&scope()));
    assert_eq!((answer.status, answer.field("x-tidegate-reason")), (503, Some("jwks")), "{answer:?}");
    assert_eq!(answer.field("retry-after"), Some("1"));
    idp.set_down(false);
    wait_for(&gateway, || key.sign(&scope()), 200);
    idp.set_down(true);
    // A key that is not there has them fetched again, which fails.
    let (before, until) = (failed_fetches(&gateway), Instant::now() + Duration::from_secs(20));
    let unknown = SigningKey::new("unknown");
    while failed_fetches(&gateway) == before {
        assert_eq!(ask(&gateway, &unknown.sign(&scope())).status, 401);
        assert!(Instant::now() < until, "nobody has fetched them again");
    }
    // One that has never been seen, so that it is verified.
    let other = key.sign(&json!({ "scope": "read", "sub": "bob" }));
    assert_eq!(ask(&gateway, &other).status, 200);
}

#[test]
fn keys_of_a_config_map_count_with_the_next_request() {
    let bed = Bed::new();
    fs::write(bed.authority(), rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem()).unwrap();
    let (one, two) = (SigningKey::new("k"), SigningKey::new("k"));
    let backend = Backend::start("pod");
    let provider = "        jwks: {configMapRef: {name: keys, key: jwks.json}}\n";
    let files = [("s.yaml", service("s", &[backend.port])), ("r.yaml", route(provider, ""))];
    let gateway = bed.gateway(&files);
    let answer = ask(&gateway, &one.sign(&scope()));
    assert_eq!((answer.status, answer.field("x-tidegate-reason")), (500, Some("filter_ref")), "{answer:?}");
    let config_map = |key: &SigningKey| {
        let data = json!({ "jwks.json": key_set(&[key.public()]) });
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: keys}}\ndata: {data}\n")
    };
    gateway.write("k.yaml", &config_map(&one));
    wait_for(&gateway, || one.sign(&scope()), 200);
    let known = one.sign(&scope());
    assert_eq!(ask(&gateway, &known).status, 200);
    gateway.write("k.yaml", &config_map(&two));
    wait_for(&gateway, || two.sign(&scope()), 200);
    assert_eq!(ask(&gateway, &known).status, 401, "a key that is gone is refused with the next request");
}

/// A claim chooses the pod, as the same claim of another token does.
#[test]
fn a_claim_chooses_the_pod() {
    let bed = Bed::new();
    let key = SigningKey::new("k");
    let idp = IdentityProvider::start(key_set(&[key.public()]), &bed.authority());
    let pods = ["a", "b", "c"].map(Backend::start);
    let by_claim = "    loadBalancer: {algorithm: ConsistentHash, hashKeys: [{type: JWTClaim, name: sub}]}\n";
    let files =
        [("s.yaml", service("s", &pods.each_ref().map(|pod| pod.port))), ("r.yaml", route(&fetched(&idp), by_claim))];
    let gateway = bed.gateway(&files);
    wait_for(&gateway, || key.sign(&scope()), 200);
    let pod_of = |user: usize| {
        let claims = json!({ "scope": "read", "sub": format!("user-{user}"), "jti": fastrand::u64(..) });
        ask(&gateway, &key.sign(&claims)).body
    };
    let first: Vec<String> = (0..30).map(pod_of).collect();
    let again: Vec<String> = (0..30).map(pod_of).collect();
    assert_eq!(first, again);
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert!(distinct.len() > 1, "{distinct:?}");
}

/// Base64 without padding, in the alphabet of URLs (RFC 4648 §5).
fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Runs openssl with these arguments and this input.
fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("openssl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("openssl");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

/// Tokens that somebody else's program has signed, with RSA.
#[test]
fn signatures_of_another_program_are_verified() {
    let bed = Bed::new();
    let file = bed.path("rsa.pem");
    let file = file.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", file], b"");
    let modulus = String::from_utf8(openssl(&["rsa", "-in", file, "-noout", "-modulus"], b"")).unwrap();
    let hex = modulus.trim().strip_prefix("Modulus=").unwrap();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let key = json!({ "kty": "RSA", "kid": "rsa", "use": "sig", "n": base64url(&bytes), "e": "AQAB" });
    let idp = IdentityProvider::start(key_set(&[key]), &bed.authority());
    let backend = Backend::start("pod");
    let files = [("s.yaml", service("s", &[backend.port])), ("r.yaml", route(&fetched(&idp), ""))];
    let gateway = bed.gateway(&files);
    let token = |algorithm: &str, options: &[&str]| {
        let part = |value: Value| base64url(value.to_string().as_bytes());
        let header = part(json!({ "alg": algorithm, "kid": "rsa", "typ": "JWT" }));
        let claims = part(json!({ "iss": "https://id.test", "scope": "read", "exp": now() + 60 }));
        let signed = format!("{header}.{claims}");
        let args = [&["dgst", "-sha256", "-sign", file], options].concat();
        format!("{signed}.{}", base64url(&openssl(&args, signed.as_bytes())))
    };
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    assert_eq!(ask(&gateway, &token("RS256", &[])).status, 200);
    assert_eq!(ask(&gateway, &token("PS256", &pss)).status, 200);
    assert_eq!(ask(&gateway, &token("PS256", &[])).status, 401, "of another kind than it says");
    assert_eq!(ask(&gateway, &token("RS512", &[])).status, 401);
}

/// A token of one provider is nothing where another one looks, whoever has seen it before; and pods get none that was not
/// verified.
#[test]
fn a_token_counts_and_goes_on_only_where_its_provider_looks() {
    let bed = Bed::new();
    fs::write(bed.authority(), rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem()).unwrap();
    let key = SigningKey::new("k");
    let (pod, came) = witness();
    let jwks = "        jwks: {configMapRef: {name: keys, key: jwks.json}}\n";
    let other = format!(
        "{jwks}        from: [{{type: Header, name: authorization}}]\n      - name: app\n        issuer: https://app.test\n        \
         from: [{{type: Cookie, name: t}}]\n        forward: true\n{jwks}"
    );
    let data = json!({ "jwks.json": key_set(&[key.public()]) });
    let keys = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: keys}}\ndata: {data}\n");
    let files = [("s.yaml", service("s", &[pod])), ("r.yaml", route(&other, "")), ("k.yaml", keys)];
    let gateway = bed.gateway(&files);
    // One connection, and so one worker.
    let mut client = Client::connect(gateway.http);
    let mut ask =
        |fields: &str| client.request(&format!("GET / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n")).unwrap().status;
    let own = key.sign(&scope());
    let app = key.sign(&json!({ "scope": "read", "iss": "https://app.test" }));
    let seen = || came.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!(ask(&format!("authorization: Bearer {own}\r\ncookie: t=forged; x=1\r\n")), 200);
    let request = seen();
    assert_eq!((request.field("authorization"), request.field("cookie")), (None, Some("x=1")), "{}", request.head);
    assert_eq!(ask(&format!("cookie: t={own}\r\n")), 401, "it is of the other provider");
    assert_eq!(ask(&format!("cookie: t={app}\r\n")), 200);
    assert_eq!(seen().field("cookie"), Some(&*format!("t={app}")));
    assert_eq!(ask(&format!("authorization: Bearer {own}\r\nauthorization: Basic eDp5\r\n")), 401, "two credentials");
    assert_eq!(ask(&format!("authorization: Bearer {own}\r\n")), 200);
}
