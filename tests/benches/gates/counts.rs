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

/// Kept connections. Each sends its next request when all have their answers, so that a worker finds several at a time, as
/// it does when it is busy.
const CONNECTIONS: usize = 64;
/// Requests of each connection in the short run; the long one has [`EXTRA_ROUNDS`] more.
const SHORT_ROUNDS: usize = 20;
/// What the two runs differ by below callgrind, which makes a program fifty times slower, and below strace.
const EXTRA_ROUNDS: usize = 500;
/// How long a tool may take for one answer and for the end of the program.
const PATIENCE: Duration = Duration::from_secs(60);
/// The host of the rule without anything.
const PLAIN: &str = "counts.example.com";

/// Measures both and compares them with the baseline; true when they are within it.
///
/// # Errors
/// When the gateway or a tool fails, and with `CI=true` also when a tool is missing.
pub fn measure(subject: &Path, backends: [u16; 2], record: bool) -> io::Result<bool> {
    let (Some(valgrind), Some(strace)) = (tool("valgrind")?, tool("strace")?) else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    let run = Run { subject, routes: folder.path(), asked: Asked::PLAIN, extra_rounds: EXTRA_ROUNDS };
    // Kept until the next run, for `callgrind_annotate`.
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    let Profiled { instructions, .. } = run.profile(&valgrind, &profile)?;
    let calls = run.calls(&strace)?;
    let listed: Vec<String> =
        calls.iter().filter(|(_, count)| **count >= 0.005).map(|(name, count)| format!("{name} {count:.2}")).collect();
    println!("system calls per request: {}", listed.join(", "));
    println!("where the instructions go: callgrind_annotate {}", profile.display());
    baseline::judge(subject, Costs { instructions, calls: calls.values().sum() }, record)
}

/// Where a tool is. Without it there is nothing to measure, which is an error where all tools have to be there.
pub fn tool(name: &str) -> io::Result<Option<PathBuf>> {
    let found = peers::find(name);
    if found.is_none() {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(io::Error::other(format!("{name} is not installed, and with CI=true it has to be")));
        }
        println!("instructions and system calls per request: skipped, {name} is not installed (Debian package {name})");
    }
    Ok(found)
}

/// What is asked for, again and again.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Whose rule answers.
    pub host: &'a str,
    /// The target.
    pub path: &'a str,
    /// Further lines of the head, each with its end.
    pub fields: &'a str,
    /// The host whose rule has sessions, and the field that has them: requests keep one, whoever answers.
    pub session: Option<(&'a str, &'a str)>,
    /// Kept connections, each with one request at a time.
    pub connections: usize,
    /// The content coding of the answers.
    pub coding: Option<&'a str>,
}

impl Asked<'static> {
    /// A GET with 1 KiB of answer and nothing else.
    pub const PLAIN: Self =
        Self { host: PLAIN, path: "/1k", fields: "", session: None, connections: CONNECTIONS, coding: None };
}

/// What all runs have in common.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub subject: &'a Path,
    pub routes: &'a Path,
    pub asked: Asked<'a>,
    /// What the two runs differ by, for each connection.
    pub extra_rounds: usize,
}

/// What callgrind counts of one request.
#[derive(Clone, Copy)]
pub struct Profiled {
    pub instructions: f64,
    pub allocations: f64,
}

impl Run<'_> {
    /// User instructions and calls of the allocator per request, of all threads.
    ///
    /// # Errors
    /// When the gateway or callgrind fails.
    pub fn profile(&self, valgrind: &Path, profile: &Path) -> io::Result<Profiled> {
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
        let requests = (self.extra_rounds * self.asked.connections) as f64;
        let each = |long: u64, short: u64| (long as f64 - short as f64) / requests;
        Ok(Profiled { instructions: each(long.0, short.0), allocations: each(long.1, short.1) })
    }

    /// System calls per request by name, of all threads.
    ///
    /// # Errors
    /// When the gateway or strace fails.
    pub fn calls(&self, strace: &Path) -> io::Result<BTreeMap<String, f64>> {
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
        let requests = (self.extra_rounds * self.asked.connections) as f64;
        let each = |name: &String, count: &u64| {
            (*count as f64 - short.get(name).map_or(0.0, |short| *short as f64)) / requests
        };
        Ok(long.iter().map(|(name, count)| (name.clone(), each(name, count))).collect())
    }

    /// Runs the gateway below a tool for so many requests of each connection.
    fn serve(&self, tool: &Path, options: &[String], rounds: usize) -> io::Result<()> {
        let peer = peers::watched_tidegate(tool, options, self.subject, self.routes)?;
        let Asked { host, path, fields, session, connections, coding } = self.asked;
        let mut streams = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(("127.0.0.1", peer.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            streams.push(stream);
        }
        let request = |host: &str, more: &str| {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\nUser-Agent: gates\r\n");
            format!("{head}{fields}{more}\r\n").into_bytes()
        };
        let mut bytes = request(host, "");
        if let Some((host_with_sessions, name)) = session {
            let first = streams.first_mut().ok_or_else(|| io::Error::other("no connection"))?;
            first.write_all(&request(host_with_sessions, ""))?;
            let (head, _) = client::head_and_length(first)?;
            let session = head.lines().find(|line| line.to_ascii_lowercase().starts_with(name));
            let session = session.ok_or_else(|| io::Error::other(format!("no session in {head}")))?;
            bytes = request(host, &format!("{session}\r\n"));
        }
        for _ in 0..rounds {
            for stream in &mut streams {
                stream.write_all(&bytes)?;
            }
            for stream in &mut streams {
                let (head, length) = client::head_and_length(stream)?;
                let head = head.to_ascii_lowercase();
                let found = head.lines().find_map(|line| line.strip_prefix("content-encoding: "));
                if !head.starts_with("http/1.1 200") || length == 0 || found != coding {
                    return Err(io::Error::other(format!("the gateway answered {head} with {length} bytes")));
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
