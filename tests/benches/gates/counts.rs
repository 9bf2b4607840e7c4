//! What one request costs in numbers that do not depend on how busy the machine is: user instructions, which callgrind
//! counts, and system calls, which strace counts.
//!
//! The gateway runs twice below each tool, from its start to its end, and serves more requests in the second run. Start,
//! connections and stop cost the same in both runs, so the difference is what the additional requests cost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::baseline::{self, Costs};
use super::client;
use super::common::peers;
use super::verdict::verdict;

/// Kept connections. Each sends its next request when all have their answers, so that a worker finds several at a time, as
/// it does when it is busy.
const CONNECTIONS: usize = 64;
/// Requests of each connection in the short run; the long one has [`EXTRA_ROUNDS`] more.
const SHORT_ROUNDS: usize = 20;
/// What the two runs differ by below callgrind, which makes a program fifty times slower, and below strace.
const EXTRA_ROUNDS: usize = 500;
/// How long a tool may take for one answer and for the end of the program.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where two rules are compared.
const COMPARED_ROUNDS: usize = 150;
/// The host of the rule without anything, of one with every policy that looks at endpoints, and of one with sessions.
const PLAIN: &str = "counts.example.com";
const POLICIES: &str = "policies.example.com";
const SESSIONS: &str = "sessions.example.com";
/// The field that has a session.
const SESSION: &str = "x-bench-session";
/// User instructions and allocations that policies may take of a request for which none of them has anything to do.
const MOST_OF_POLICIES: (f64, f64) = (1_500.0, 0.0);
/// The same for a session that is kept. What the request says of it is kept beside the request. Most instructions are
/// HMAC-SHA256, whose count depends on what valgrind says of the processor: 2,500 to 3,230 were seen.
const MOST_OF_SESSION: (f64, f64) = (4_000.0, 2.0);
const BODY_BYTES: usize = 1 << 10;

/// Measures both and compares them with the baseline; true when they are within it.
///
/// # Errors
/// When the gateway or a tool fails, and with `CI=true` also when a tool is missing.
pub fn measure(subject: &Path, backends: [u16; 2], record: bool) -> io::Result<bool> {
    let (Some(valgrind), Some(strace)) = (tool("valgrind")?, tool("strace")?) else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    write_policies(folder.path())?;
    let run = Run { subject, routes: folder.path(), host: PLAIN, extra_rounds: EXTRA_ROUNDS };
    // Kept until the next run, for `callgrind_annotate`.
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    let Profiled { instructions, .. } = run.profile(&valgrind, &profile)?;
    let calls = run.calls(&strace)?;
    let listed: Vec<String> =
        calls.iter().filter(|(_, count)| **count >= 0.005).map(|(name, count)| format!("{name} {count:.2}")).collect();
    println!("system calls per request: {}", listed.join(", "));
    println!("where the instructions go: callgrind_annotate {}", profile.display());
    let met = baseline::judge(subject, Costs { instructions, calls: calls.values().sum() }, record)?;
    Ok(policies(&run, &valgrind)? & met)
}

/// Compares rules with policies, for which those have nothing to do, with one without; true when they are within their
/// bounds.
fn policies(run: &Run<'_>, valgrind: &Path) -> io::Result<bool> {
    let profile = tempfile::NamedTempFile::new()?;
    let of = |host| Run { host, extra_rounds: COMPARED_ROUNDS, ..*run }.profile(valgrind, profile.path());
    let plain = of(PLAIN)?;
    let mut met = true;
    for (what, host, (instructions, allocations)) in
        [("all policies on, none firing", POLICIES, MOST_OF_POLICIES), ("a session kept", SESSIONS, MOST_OF_SESSION)]
    {
        let with = of(host)?;
        let mut judge = |unit: &str, more: f64, most: f64, allowance: f64| {
            let is_met = more <= most + allowance;
            met &= verdict(&format!("{what}: {unit} more"), format!("{more:.1}"), format!("{most:.0}"), is_met);
        };
        judge("user instructions", with.instructions - plain.instructions, instructions, 0.0);
        // What connections and the clockwork allocate does not come out even.
        judge("allocations", with.allocations - plain.allocations, allocations, 0.1);
    }
    Ok(met)
}

/// Writes the rules of [`POLICIES`] and [`SESSIONS`].
fn write_policies(folder: &Path) -> io::Result<()> {
    let route = |name: &str, host: &str, blocks: &str| {
        format!(
            "---\napiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: {name}}}\nspec:\n  hostnames: \
             [{host}]\n  rules:\n  - backendRefs: [{{name: bench, port: 80}}]\n{blocks}"
        )
    };
    let policies = "    loadBalancer: {algorithm: LeastRequest, slowStart: 30s, locality: {mode: PreferZone}}\n    \
                    retry: {attempts: 2, codes: [503]}\n    outlierDetection: {}\n    healthCheck: {interval: 1h}\n    \
                    connection: {maxRequestsPerEndpoint: 1000, maxConnectionsPerEndpoint: 1000, maxPendingRequests: 10, \
                    maxRequestsPerConnection: 1000000}\n";
    let sessions = format!(
        "    loadBalancer: {{algorithm: LeastRequest}}\n    sessionPersistence: {{type: Header, sessionName: {SESSION}}}\n"
    );
    let text = route("policies", POLICIES, policies) + &route("sessions", SESSIONS, &sessions);
    fs::write(folder.join("policies.yaml"), text)
}

/// Where a tool is. Without it there is nothing to measure, which is an error where all tools have to be there.
fn tool(name: &str) -> io::Result<Option<PathBuf>> {
    let found = peers::find(name);
    if found.is_none() {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(io::Error::other(format!("{name} is not installed, and with CI=true it has to be")));
        }
        println!("instructions and system calls per request: skipped, {name} is not installed (Debian package {name})");
    }
    Ok(found)
}

/// What all runs have in common.
#[derive(Clone, Copy)]
struct Run<'a> {
    subject: &'a Path,
    routes: &'a Path,
    /// Whose rule answers.
    host: &'a str,
    /// What the two runs differ by, for each connection.
    extra_rounds: usize,
}

/// What callgrind counts of one request.
struct Profiled {
    instructions: f64,
    allocations: f64,
}

impl Run<'_> {
    /// User instructions and calls of the allocator per request, of all threads.
    fn profile(&self, valgrind: &Path, profile: &Path) -> io::Result<Profiled> {
        let options =
            ["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", profile.display())].map(str::to_owned);
        let count = |rounds| {
            self.serve(valgrind, &options, rounds)?;
            let text = fs::read_to_string(profile)?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<u64>().ok());
            let total = total.ok_or_else(|| io::Error::other("callgrind wrote no total"))?;
            Ok::<_, io::Error>((total, allocations(&text)))
        };
        let short = count(SHORT_ROUNDS)?;
        let long = count(SHORT_ROUNDS + self.extra_rounds)?;
        let requests = (self.extra_rounds * CONNECTIONS) as f64;
        let each = |long: u64, short: u64| (long as f64 - short as f64) / requests;
        Ok(Profiled { instructions: each(long.0, short.0), allocations: each(long.1, short.1) })
    }

    /// System calls per request by name, of all threads.
    fn calls(&self, strace: &Path) -> io::Result<BTreeMap<String, f64>> {
        let output = tempfile::NamedTempFile::new()?;
        let options = ["-f", "-c", "-o", &output.path().to_string_lossy()].map(str::to_owned);
        let count = |rounds| {
            self.serve(strace, &options, rounds)?;
            Ok::<_, io::Error>(table(&fs::read_to_string(output.path())?))
        };
        let short = count(SHORT_ROUNDS)?;
        let long = count(SHORT_ROUNDS + self.extra_rounds)?;
        if short.is_empty() {
            return Err(io::Error::other("strace counted nothing"));
        }
        let requests = (self.extra_rounds * CONNECTIONS) as f64;
        let each = |name: &String, count: &u64| {
            (*count as f64 - short.get(name).map_or(0.0, |short| *short as f64)) / requests
        };
        Ok(long.iter().map(|(name, count)| (name.clone(), each(name, count))).collect())
    }

    /// Runs the gateway below a tool for so many requests of each connection.
    fn serve(&self, tool: &Path, options: &[String], rounds: usize) -> io::Result<()> {
        let peer = peers::watched_tidegate(tool, options, self.subject, self.routes)?;
        let mut streams = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", peer.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            streams.push(stream);
        }
        let host = self.host;
        let request = |more: &str| {
            format!("GET /1k HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nUser-Agent: gates\r\n{more}\r\n").into_bytes()
        };
        let mut bytes = request("");
        if host == SESSIONS {
            let first = streams.first_mut().ok_or_else(|| io::Error::other("no connection"))?;
            first.write_all(&bytes)?;
            let (head, _) = client::head_and_length(first)?;
            let session = head.lines().find(|line| line.to_ascii_lowercase().starts_with(SESSION));
            let session = session.ok_or_else(|| io::Error::other(format!("no session in {head}")))?;
            bytes = request(&format!("{session}\r\n"));
        }
        for _ in 0..rounds {
            for stream in &mut streams {
                stream.write_all(&bytes)?;
            }
            for stream in &mut streams {
                let (status, length) = client::answer(stream)?;
                if !status.contains(" 200") || length != BODY_BYTES {
                    return Err(io::Error::other(format!("the gateway answered {status} with {length} bytes")));
                }
            }
        }
        drop(streams);
        peer.process.finish(PATIENCE)
    }
}

/// Calls of the allocator in what callgrind writes. A function is named with a number where it comes first, and by the
/// number alone from there on; `calls=` belongs to the `cfn=` before it.
fn allocations(text: &str) -> u64 {
    // Of jemalloc, as its crate names them.
    const NAMES: [&str; 5] = ["_rjem_malloc", "_rjem_calloc", "_rjem_mallocx", "_rjem_realloc", "_rjem_rallocx"];
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut caller, mut called, mut total) = ("", "", 0);
    for line in text.lines() {
        let (kind, rest) = line.split_once('=').unwrap_or_default();
        if matches!(kind, "fn" | "cfn") {
            let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            let name = names.get(number).copied().unwrap_or_default();
            if kind == "fn" { caller = name } else { called = name }
        } else if kind == "calls" && NAMES.contains(&called) && !NAMES.contains(&caller) {
            total += rest.split_whitespace().next().and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    total
}

/// The counts in the table that `strace -c` writes: the number of calls is the fourth column, the name the last.
fn table(text: &str) -> BTreeMap<String, u64> {
    let rows = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), fields.get(3)?.parse().ok()?))
    });
    rows.collect()
}
