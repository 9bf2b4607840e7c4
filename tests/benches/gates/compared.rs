//! What policies and filters add to a request, in user instructions and calls of the allocator, which callgrind counts.
//!
//! Rules of one process are compared that differ by one block alone, with requests that are the same to the byte. One
//! connection asks for one at a time, so that a worker wakes as often for each of them, however busy the machine is; with many
//! connections, that is chance. What comes by time, such as the clockwork of a worker and a look at the memory once a second,
//! falls into some batches of a row and only adds to them: the least of a row counts, and a row that is above its bound is
//! counted again, a few times, before it fails.
//!
//! Allocations are exact, and the real guard. Of instructions the bound is about a quarter more than was seen, and 500: rows
//! differed by up to 320 from run to run on a machine with four times the work that it has cores for (that of a mirror, whose
//! copies are sent beside the requests, by 1,070), and differ by more from profile to profile; what is caught is work that
//! should not be there. callgrind has no instructions for SHA-256, so that filters which look credentials up by their digest
//! seem to take several times what they do.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::callgrind::{Callgrind, Counted, Tools, least};
use super::common::peers;
use super::signing_key::{SigningKey, key_set};
use super::traffic::{Asked, Clients};
use super::verdict::verdict;

/// Requests of one row before they are counted, and those of a batch.
const WARM: usize = 20;
const REQUESTS: usize = 100;
/// The same where each answer has 64 KiB to compress.
const COMPRESSED: usize = 4;
/// Batches of each row, with those of all others between them, and how many more there may be of one above its bound.
const TURNS: usize = 3;
const MORE_TURNS: usize = 10;
const TEXT_BYTES: f64 = (64 << 10) as f64;
/// What comes by time allocates, too: a third of an allocation for each request of a batch that it falls into.
const UNEVEN: f64 = 0.5;

/// The host whose rule has every policy that looks at endpoints, and that of the rule with sessions in a field.
const POLICIES: &str = "policies.example.com";
const SESSIONS: &str = "sessions.example.com";
const SESSION: &str = "x-bench-session";
/// The host whose rule has a filter that has nothing to do: what all filters have in common.
const FILTERED: &str = "filtered.example.com";
/// The host whose rule has a RequestMirror, and the one that asks a service about each request.
const MIRRORED: &str = "mirrored.example.com";
const ASKED: &str = "asked.example.com";
/// The host whose rule has a Coalesce.
const COALESCED: &str = "coalesced.example.com";
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
        (900.0, 0.0),
    ),
    (
        "RateLimit by a key",
        "rate-key.example.com",
        "{type: RateLimit, rateLimit: {requests: 1000000, interval: 1s, fields: false, keys: [{type: Header, name: x-bench-key}]}}",
        (1_600.0, 0.0),
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
        (1_100.0, 1.0),
    ),
    // Its key is new for each request: nobody else has it in use.
    (
        "ConcurrencyLimit by a key",
        "concurrency-key.example.com",
        "{type: ConcurrencyLimit, concurrencyLimit: {maxInFlight: 1000, keys: [{type: Header, name: x-bench-key}]}}",
        (2_400.0, 2.0),
    ),
    (
        "JWT, the token known",
        "jwt.example.com",
        "{type: JWT, jwt: {providers: [{name: id, issuer: \"https://id.test\", forward: true, from: [{type: Header, name: \
         x-bench-token}], claimsToHeaders: [{claim: sub, header: x-bench-user}], jwks: {configMapRef: {name: keys, key: jwks.json}}}]}}",
        (13_800.0, 0.0),
    ),
    (
        "BasicAuth, the password known",
        "basic.example.com",
        "{type: BasicAuth, basicAuth: {secretRef: {name: users}, forward: true, userHeader: x-bench-user}}",
        (14_200.0, 4.0),
    ),
    (
        "APIKey",
        "api-key.example.com",
        "{type: APIKey, apiKey: {secretRef: {name: clients}, forward: true, clientHeader: x-bench-user}}",
        (5_100.0, 0.0),
    ),
];

/// A content coding, and the most instructions for a byte of text.
const CODINGS: [(&str, f64); 3] = [("gzip", 130.0), ("br", 280.0), ("zstd", 50.0)];

/// Requests of one kind, which are counted in each turn.
struct Row<'a> {
    asked: Asked<'a>,
    requests: usize,
    counted: Vec<Counted>,
}

/// How much one row may take more than another, and where they are.
struct Comparison {
    what: String,
    with: usize,
    without: usize,
    most: Most,
}

/// A bound.
#[derive(Clone, Copy)]
enum Most {
    /// Instructions and allocations for each request.
    OfRequest(f64, f64),
    /// Instructions for each byte of the text.
    OfByte(f64),
}

/// All that is asked of the gateway, and how it is compared.
#[derive(Default)]
struct Table<'a> {
    rows: Vec<Row<'a>>,
    comparisons: Vec<Comparison>,
}

impl<'a> Table<'a> {
    /// Adds a row that others are compared with; gives its number.
    fn row(&mut self, asked: Asked<'a>, requests: usize) -> usize {
        self.rows.push(Row { asked, requests, counted: Vec::new() });
        self.rows.len() - 1
    }

    /// Adds a row that is compared with one that has as many requests; gives its number.
    fn compare(&mut self, what: &str, asked: Asked<'a>, without: usize, most: Most) -> usize {
        let with = self.row(asked, self.rows[without].requests);
        self.comparisons.push(Comparison { what: what.to_owned(), with, without, most });
        with
    }

    /// Counts all rows in turn, and those again that are not within their bounds.
    fn count(&mut self, gateway: &mut Callgrind) -> io::Result<()> {
        for _ in 0..TURNS {
            (0..self.rows.len()).try_for_each(|row| self.count_row(row, gateway))?;
        }
        for _ in 0..MORE_TURNS {
            let missed = self.comparisons.iter().filter(|comparison| !self.is_met(comparison));
            let rows: BTreeSet<usize> = missed.flat_map(|comparison| [comparison.with, comparison.without]).collect();
            rows.into_iter().try_for_each(|row| self.count_row(row, gateway))?;
        }
        Ok(())
    }

    fn count_row(&mut self, row: usize, gateway: &mut Callgrind) -> io::Result<()> {
        let Row { asked, requests, counted } = &mut self.rows[row];
        // A connection that waits for its turn on a busy machine would be closed as an idle one.
        let mut clients = Clients::connect(gateway.port(), asked, 1)?;
        clients.ask(WARM.min(*requests))?;
        counted.push(gateway.count(&mut clients, *requests)?);
        Ok(())
    }

    /// How many instructions and allocations a request takes more.
    fn more(&self, comparison: &Comparison) -> (f64, f64) {
        let of_row = |row: usize, of: fn(&Counted) -> f64| least(&self.rows[row].counted, of);
        let more = |of| of_row(comparison.with, of) - of_row(comparison.without, of);
        (more(|counted| counted.instructions), more(|counted| counted.allocations))
    }

    fn is_met(&self, comparison: &Comparison) -> bool {
        let (instructions, allocations) = self.more(comparison);
        match comparison.most {
            Most::OfRequest(most, most_allocations) => instructions <= most && allocations <= most_allocations + UNEVEN,
            Most::OfByte(most) => instructions <= most * TEXT_BYTES,
        }
    }

    /// Says how each comparison came out; true when all are within their bounds.
    fn judge(&self) -> bool {
        let mut met = true;
        for comparison in &self.comparisons {
            let Comparison { what, most, .. } = comparison;
            let (instructions, allocations) = self.more(comparison);
            let (value, bound) = match most {
                Most::OfRequest(most, most_allocations) => (
                    format!("{instructions:.0} user instructions and {allocations:.1} allocations more"),
                    format!("{most:.0} and {most_allocations:.0}"),
                ),
                Most::OfByte(most) => {
                    (format!("{:.1} user instructions for each byte", instructions / TEXT_BYTES), format!("{most:.0}"))
                }
            };
            met &= verdict(what, value, bound, self.is_met(comparison));
        }
        met
    }
}

/// Compares rules with one without what they have; true when they are within their bounds.
///
/// # Errors
/// When the gateway or callgrind fails, and with `CI=true` also when callgrind is missing.
pub fn measure(subject: &Path, backends: [u16; 2]) -> io::Result<bool> {
    let Some(tools) = Tools::find()? else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    fs::write(folder.path().join("policies.yaml"), policies())?;
    let key = SigningKey::new("bench");
    fs::write(folder.path().join("filters.yaml"), filters(&key)?)?;
    let (fields, coded) = (credentials(&key)?, CODINGS.map(|(coding, _)| Coded::new(coding)));
    let mut table = Table::default();
    for (what, host, session, most) in [
        ("all policies on, none firing", POLICIES, None, 1_300.0),
        // Without timeouts: its value is read and taken away, and its pod found by it.
        ("a session kept", SESSIONS, Some((SESSIONS, SESSION)), 2_100.0),
    ] {
        let asked = Asked { session, ..Asked::PLAIN };
        // With the same fields: reading them is no cost of the policy.
        let without = table.row(asked, REQUESTS);
        table.compare(what, Asked { host, ..asked }, without, Most::OfRequest(most, 0.0));
    }
    let asked = Asked { fields: &fields, ..Asked::PLAIN };
    let plain = table.row(asked, REQUESTS);
    let idle = Asked { host: FILTERED, ..asked };
    let filtered = table.compare("a filter with nothing to do", idle, plain, Most::OfRequest(2_100.0, 1.0));
    for (what, host, _, (instructions, allocations)) in OWN {
        table.compare(what, Asked { host, ..asked }, filtered, Most::OfRequest(instructions, allocations));
    }
    // One exchange more, which is less than a request: that has two.
    for (what, host, most) in [
        ("ExternalAuth", ASKED, Most::OfRequest(29_000.0, 15.0)),
        ("RequestMirror", MIRRORED, Most::OfRequest(25_000.0, 13.0)),
    ] {
        table.compare(what, Asked { host, ..asked }, filtered, most);
    }
    // Without credentials, which keep a request from being shared.
    let asked = Asked { host: FILTERED, path: "/shared", ..Asked::PLAIN };
    let alone = table.row(asked, REQUESTS);
    let most = Most::OfRequest(30_000.0, 24.0);
    table.compare("Coalesce, a request alone", Asked { host: COALESCED, ..asked }, alone, most);
    for (Coded { coding, host, fields }, (_, most)) in coded.iter().zip(CODINGS) {
        let asked = Asked { host: FILTERED, path: "/text", fields, ..Asked::PLAIN };
        let without = table.row(asked, COMPRESSED);
        let asked = Asked { host, coding: Some(coding), ..asked };
        table.compare(&format!("Compression with {coding}"), asked, without, Most::OfByte(most));
    }
    let mut gateway = Callgrind::start(&tools, subject, folder.path())?;
    table.count(&mut gateway)?;
    gateway.finish()?;
    Ok(table.judge())
}

/// A content coding, the host whose rule has it, and the field that asks for it.
struct Coded {
    coding: &'static str,
    host: String,
    fields: String,
}

impl Coded {
    fn new(coding: &'static str) -> Self {
        Self { coding, host: format!("{coding}.example.com"), fields: format!("Accept-Encoding: {coding}\r\n") }
    }
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
    rules.push((COALESCED.to_owned(), "{type: Coalesce, coalesce: {}}".to_owned()));
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
