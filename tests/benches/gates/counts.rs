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
const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: counts.example.com\r\nAccept: */*\r\nUser-Agent: gates\r\n\r\n";
const BODY_BYTES: usize = 1 << 10;

/// Measures both and compares them with the baseline; true when they are within it.
///
/// # Errors
/// When the gateway or a tool fails, and with `CI=true` also when a tool is missing.
pub fn measure(subject: &Path, backends: [u16; 2], record: bool) -> io::Result<bool> {
    let (Some(valgrind), Some(strace)) = (tool("valgrind")?, tool("strace")?) else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    let run = Run { subject, routes: folder.path() };
    // Kept until the next run, for `callgrind_annotate`.
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    let instructions = run.instructions(&valgrind, &profile)?;
    let calls = run.calls(&strace)?;
    let listed: Vec<String> =
        calls.iter().filter(|(_, count)| **count >= 0.005).map(|(name, count)| format!("{name} {count:.2}")).collect();
    println!("system calls per request: {}", listed.join(", "));
    println!("where the instructions go: callgrind_annotate {}", profile.display());
    baseline::judge(subject, Costs { instructions, calls: calls.values().sum() }, record)
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
struct Run<'a> {
    subject: &'a Path,
    routes: &'a Path,
}

impl Run<'_> {
    /// User instructions per request, of all threads.
    fn instructions(&self, valgrind: &Path, profile: &Path) -> io::Result<f64> {
        let options =
            ["--tool=callgrind", "--quiet", &format!("--callgrind-out-file={}", profile.display())].map(str::to_owned);
        let count = |rounds| {
            self.serve(valgrind, &options, rounds)?;
            let text = fs::read_to_string(profile)?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<u64>().ok());
            total.ok_or_else(|| io::Error::other("callgrind wrote no total"))
        };
        let short = count(SHORT_ROUNDS)?;
        let long = count(SHORT_ROUNDS + EXTRA_ROUNDS)?;
        Ok((long as f64 - short as f64) / (EXTRA_ROUNDS * CONNECTIONS) as f64)
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
        let long = count(SHORT_ROUNDS + EXTRA_ROUNDS)?;
        if short.is_empty() {
            return Err(io::Error::other("strace counted nothing"));
        }
        let requests = (EXTRA_ROUNDS * CONNECTIONS) as f64;
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
        for _ in 0..rounds {
            for stream in &mut streams {
                stream.write_all(REQUEST)?;
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

/// The counts in the table that `strace -c` writes: the number of calls is the fourth column, the name the last.
fn table(text: &str) -> BTreeMap<String, u64> {
    let rows = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.last().filter(|name| **name != "total")?;
        Some(((*name).to_owned(), fields.get(3)?.parse().ok()?))
    });
    rows.collect()
}
