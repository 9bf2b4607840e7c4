//! What policies and filters add to a request, in user instructions and calls of the allocator, which callgrind counts.
//!
//! Rules of one process are compared that differ by one block alone, with requests that are the same to the byte. A bound is
//! about half as much again as an optimised build was seen to take, and some hundreds more where that is little: profiles differ, two
//! runs do not come out even, and what is caught is work that should not be there. callgrind has no instructions for SHA-256, so that filters which look credentials up by their digest seem to take several
//! times what they do.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::common::peers;
use super::counts::{Asked, Profiled, Run, tool};
use super::signing_key::{SigningKey, key_set};
use super::verdict::verdict;

/// What the two runs of one rule differ by, for each connection.
const ROUNDS: usize = 150;
/// The same where each answer has 64 KiB to compress, and the connections that take them.
const COMPRESSED: (usize, usize) = (20, 2);
const TEXT_BYTES: f64 = (64 << 10) as f64;
/// What connections and the clockwork allocate does not come out even.
const UNEVEN: f64 = 0.1;

/// The host whose rule has every policy that looks at endpoints, and that of the rule with sessions in a field.
const POLICIES: &str = "policies.example.com";
const SESSIONS: &str = "sessions.example.com";
const SESSION: &str = "x-bench-session";
/// The host whose rule has a filter that has nothing to do: what all filters have in common.
const FILTERED: &str = "filtered.example.com";
/// The host whose rule has a RequestMirror, and the one that asks a service about each request.
const MIRRORED: &str = "mirrored.example.com";
const ASKED: &str = "asked.example.com";
/// The name and password of the one user, and the key of the one client.
const USER: (&str, &str) = ("ada", "correct horse");
const KEY: &str = "key-0123456789abcdef";

/// A filter that needs nothing but itself: how it is called, the host of its rule, the filter, and the most instructions and
/// allocations that it may take.
type Own = (&'static str, &'static str, &'static str, (f64, f64));

/// Their credentials stay in the request, so that what goes to the backend is the same for all.
const OWN: [Own; 8] = [
    (
        "RateLimit",
        "rate.example.com",
        "{type: RateLimit, rateLimit: {requests: 1000000, interval: 1s, fields: false}}",
        (600.0, 0.0),
    ),
    (
        "RateLimit by a key",
        "rate-key.example.com",
        "{type: RateLimit, rateLimit: {requests: 1000000, interval: 1s, fields: false, keys: [{type: Header, name: x-bench-key}]}}",
        (1_200.0, 0.0),
    ),
    (
        "RateLimit with its fields",
        "rate-fields.example.com",
        "{type: RateLimit, rateLimit: {requests: 1000000, interval: 1s}}",
        (3_500.0, 2.0),
    ),
    (
        "ConcurrencyLimit",
        "concurrency.example.com",
        "{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1000}}",
        (1_200.0, 3.0),
    ),
    (
        "ConcurrencyLimit by a key",
        "concurrency-key.example.com",
        "{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1000, keys: [{type: Header, name: x-bench-key}]}}",
        (2_200.0, 3.0),
    ),
    (
        "JWT, the token known",
        "jwt.example.com",
        "{type: JWT, jwt: {providers: [{name: id, issuer: \"https://id.test\", forward: true, from: [{type: Header, name: \
         x-bench-token}], claimsToHeaders: [{claim: sub, header: x-bench-user}], jwks: {configMapRef: {name: keys, key: jwks.json}}}]}}",
        (16_000.0, 0.0),
    ),
    (
        "BasicAuth, the password known",
        "basic.example.com",
        "{type: BasicAuth, basicAuth: {secretRef: {name: users}, forward: true, userHeader: x-bench-user}}",
        (15_500.0, 4.0),
    ),
    (
        "APIKey",
        "api-key.example.com",
        "{type: APIKey, apiKey: {secretRef: {name: clients}, forward: true, clientHeader: x-bench-user}}",
        (4_500.0, 0.0),
    ),
];

/// A content coding, and the most instructions for a byte of text.
const CODINGS: [(&str, f64); 3] = [("gzip", 160.0), ("br", 340.0), ("zstd", 80.0)];

/// Compares rules with one without what they have; true when they are within their bounds.
///
/// # Errors
/// When the gateway or callgrind fails, and with `CI=true` also when callgrind is missing.
pub fn measure(subject: &Path, backends: [u16; 2]) -> io::Result<bool> {
    let Some(valgrind) = tool("valgrind")? else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    fs::write(folder.path().join("policies.yaml"), policies())?;
    let key = SigningKey::new("bench");
    fs::write(folder.path().join("filters.yaml"), filters(&key)?)?;
    let profile = tempfile::NamedTempFile::new()?;
    let of = |asked: Asked<'_>, extra_rounds| {
        Run { subject, routes: folder.path(), asked, extra_rounds }.profile(&valgrind, profile.path())
    };
    let mut met = true;
    for (what, host, session, most) in [
        ("all policies on, none firing", POLICIES, None, (1_500.0, 0.0)),
        // Without timeouts: its value is read and taken away, and its pod found by it.
        ("a session kept", SESSIONS, Some((SESSIONS, SESSION)), (3_000.0, 0.0)),
    ] {
        let asked = Asked { session, ..Asked::PLAIN };
        // With the same fields: reading them is no cost of the policy.
        let (without, with) = (of(asked, ROUNDS)?, of(Asked { host, ..asked }, ROUNDS)?);
        met &= judge(what, with, without, most);
    }
    let fields = credentials(&key)?;
    let asked = Asked { fields: &fields, ..Asked::PLAIN };
    let (plain, filtered) = (of(asked, ROUNDS)?, of(Asked { host: FILTERED, ..asked }, ROUNDS)?);
    met &= judge("a filter with nothing to do", filtered, plain, (2_000.0, 1.0));
    for (what, host, _, most) in OWN {
        met &= judge(what, of(Asked { host, ..asked }, ROUNDS)?, filtered, most);
    }
    // One exchange more, which is less than a request: that has two.
    for (what, host) in [("ExternalAuth", ASKED), ("RequestMirror", MIRRORED)] {
        let with = of(Asked { host, ..asked }, ROUNDS)?;
        met &= judge(what, with, filtered, (plain.instructions, 25.0));
    }
    let (rounds, connections) = COMPRESSED;
    for (coding, most) in CODINGS {
        let fields = format!("Accept-Encoding: {coding}\r\n");
        let host = format!("{coding}.example.com");
        let asked = Asked { host: FILTERED, path: "/text", fields: &fields, connections, ..Asked::PLAIN };
        let without = of(asked, rounds)?;
        let with = of(Asked { host: &host, coding: Some(coding), ..asked }, rounds)?;
        let each = (with.instructions - without.instructions) / TEXT_BYTES;
        let what = format!("Compression with {coding}: user instructions for each byte");
        met &= verdict(&what, format!("{each:.1}"), format!("{most:.0}"), each <= most);
    }
    Ok(met)
}

/// Compares what a request costs with what one costs without; true when the difference is within its bound.
fn judge(what: &str, with: Profiled, without: Profiled, (instructions, allocations): (f64, f64)) -> bool {
    let more = with.instructions - without.instructions;
    let of_instructions = format!("{what}: user instructions more");
    let met = verdict(&of_instructions, format!("{more:.0}"), format!("{instructions:.0}"), more <= instructions);
    let more = with.allocations - without.allocations;
    let is_met = more <= allocations + UNEVEN;
    verdict(&format!("{what}: allocations more"), format!("{more:.1}"), format!("{allocations:.0}"), is_met) && met
}

/// A route of one host, whose rule has these blocks.
fn route(host: &str, blocks: &str) -> String {
    let name = host.split('.').next().unwrap_or_default();
    format!(
        "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
         [{host}]\n  rules:\n  - backendRefs: [{{name: bench, port: 80}}]\n{blocks}"
    )
}

/// The rules of [`POLICIES`] and [`SESSIONS`].
fn policies() -> String {
    let policies = "    loadBalancer: {algorithm: LeastRequest, slowStart: 30s, locality: {mode: PreferZone}}\n    \
                    retry: {attempts: 2, codes: [503]}\n    outlierDetection: {}\n    healthCheck: {interval: 1h}\n    \
                    connection: {maxRequestsPerEndpoint: 1000, maxConnectionsPerEndpoint: 1000, maxPendingRequests: 10, \
                    maxRequestsPerConnection: 1000000}\n";
    let sessions = format!(
        "    loadBalancer: {{algorithm: LeastRequest}}\n    sessionPersistence: {{type: Header, sessionName: {SESSION}}}\n"
    );
    route(POLICIES, policies) + &route(SESSIONS, &sessions)
}

/// The rules with one filter each, and what these let clients in by.
fn filters(key: &SigningKey) -> io::Result<String> {
    let hash = bcrypt::hash(USER.1, 4).map_err(|error| io::Error::other(error.to_string()))?;
    let object = |kind: &str, name: &str, field: &str, data: serde_json::Value| {
        format!("---\n{}\n", json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name }, field: data }))
    };
    let mut text = object("Secret", "users", "stringData", json!({ "auth": format!("{}:{hash}", USER.0) }))
        + &object("Secret", "clients", "stringData", json!({ "acme": KEY }))
        + &object("ConfigMap", "keys", "data", json!({ "jwks.json": key_set(&[key.public()]) }));
    let idle = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-bench-absent]}}".to_owned();
    let mut rules = vec![(FILTERED.to_owned(), idle)];
    rules.extend(OWN.map(|(_, host, filter, _)| (host.to_owned(), filter.to_owned())));
    let backend = "backendRef: {name: bench, port: 80}";
    // A gateway below callgrind on a busy machine may wait for long.
    let asking = format!("{{type: ExternalAuth, externalAuth: {{protocol: HTTP, timeout: 60s, {backend}}}}}");
    rules.push((ASKED.to_owned(), asking));
    rules.push((MIRRORED.to_owned(), format!("{{type: RequestMirror, requestMirror: {{{backend}}}}}")));
    rules.extend(CODINGS.map(|(coding, _)| {
        (format!("{coding}.example.com"), format!("{{type: Compression, compression: {{algorithms: [{coding}]}}}}"))
    }));
    for (host, filter) in rules {
        let balanced = "    loadBalancer: {algorithm: LeastRequest}\n";
        text += &route(&host, &format!("{balanced}    filters:\n    - {filter}\n"));
    }
    Ok(text)
}

/// The fields that all filters ask for, which all requests have.
fn credentials(key: &SigningKey) -> io::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
    let token = key.sign(&json!({ "exp": now + 24 * 3_600 }));
    let password = STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    Ok(format!("Authorization: Basic {password}\r\nX-Api-Key: {KEY}\r\nX-Bench-Key: 1\r\nX-Bench-Token: {token}\r\n"))
}
