//! A gateway below callgrind that is told when to count.
//!
//! One process serves all batches. Its counters are written down, which sets them to zero, before each batch and after it,
//! so that start, connections and stop are in none of them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::common::peers::{self, Peer};
use super::traffic::{Clients, PATIENCE};

/// Where callgrind is, and the program that tells it what to do; Debian has both in one package.
pub struct Tools {
    valgrind: PathBuf,
    vgdb: PathBuf,
}

impl Tools {
    /// Looks for them.
    ///
    /// # Errors
    /// With `CI=true` when they are missing.
    pub fn find() -> io::Result<Option<Self>> {
        let (Some(valgrind), Some(vgdb)) = (tool("valgrind")?, tool("vgdb")?) else {
            return Ok(None);
        };
        Ok(Some(Self { valgrind, vgdb }))
    }
}

/// Where a tool is. Without it there is nothing to measure, which is an error where all tools have to be there.
fn tool(name: &str) -> io::Result<Option<PathBuf>> {
    let found = peers::find(name);
    if found.is_none() {
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            return Err(io::Error::other(format!("{name} is not installed, and with CI=true it has to be")));
        }
        println!(
            "instructions and system calls per request: skipped, {name} is not installed (Debian package valgrind)"
        );
    }
    Ok(found)
}

/// What callgrind counts, of all threads: of a batch, or of each of its requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// User instructions.
    pub instructions: f64,
    /// Calls of the allocator.
    pub allocations: f64,
    /// System calls by the name of the function that makes them, which is that of the C library in most cases.
    pub calls: BTreeMap<String, f64>,
}

impl Counted {
    /// The sum of its system calls.
    pub fn all_calls(&self) -> f64 {
        self.calls.values().sum()
    }

    fn of_each(mut self, requests: usize) -> Self {
        let requests = requests as f64;
        self.instructions /= requests;
        self.allocations /= requests;
        self.calls.values_mut().for_each(|count| *count /= requests);
        self
    }
}

/// The least that one of several batches took: what comes by time falls into some of them, and only adds.
pub fn least(batches: &[Counted], of: impl Fn(&Counted) -> f64) -> f64 {
    batches.iter().map(of).fold(f64::INFINITY, f64::min)
}

/// A gateway below callgrind.
pub struct Callgrind {
    peer: Peer,
    vgdb: PathBuf,
    folder: TempDir,
    dumps: usize,
}

impl Callgrind {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(tools: &Tools, subject: &Path, routes: &Path) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let output = format!("--callgrind-out-file={}", folder.path().join("profile").display());
        let options = ["--tool=callgrind", "--quiet", "--collect-systime=yes", &output].map(str::to_owned);
        let peer = peers::watched_tidegate(&tools.valgrind, &options, subject, routes)?;
        Ok(Self { peer, vgdb: tools.vgdb.clone(), folder, dumps: 0 })
    }

    /// The port that it serves on.
    pub fn port(&self) -> u16 {
        self.peer.port
    }

    /// What each request takes of a batch of so many rounds.
    ///
    /// # Errors
    /// When the gateway, callgrind or the program that tells it what to do fails.
    pub fn count(&mut self, clients: &mut Clients, rounds: usize) -> io::Result<Counted> {
        self.dump()?;
        clients.ask(rounds)?;
        self.dump()?;
        let counted = parse(&fs::read_to_string(self.last_profile())?);
        let counted = counted.ok_or_else(|| io::Error::other("callgrind wrote no total"))?;
        Ok(counted.of_each(rounds * clients.count()))
    }

    /// What callgrind wrote about the last batch.
    pub fn last_profile(&self) -> PathBuf {
        self.folder.path().join(format!("profile.{}", self.dumps))
    }

    /// Ends the gateway.
    ///
    /// # Errors
    /// When it does not end in good order.
    pub fn finish(self) -> io::Result<()> {
        self.peer.process.finish(PATIENCE)
    }

    /// Has callgrind write its counters down, and waits until it has. Its own command that sets them to zero leaves those
    /// of system calls out.
    fn dump(&mut self) -> io::Result<()> {
        let mut vgdb = Command::new(&self.vgdb);
        vgdb.arg(format!("--pid={}", self.peer.process.pid())).arg("--max-invoke-ms=1");
        vgdb.arg(format!("--cmd-time-out={}", PATIENCE.as_secs())).arg("dump");
        let output = vgdb.stdin(Stdio::null()).output()?;
        if output.status.success() {
            self.dumps += 1;
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!(
            "vgdb, which has callgrind write its counters down, ended with {}: {said}",
            output.status
        )))
    }
}

/// Reads what callgrind writes; `None` where it is cut off.
///
/// A function is named with a number where it comes first, and by the number alone from there on. The lines below `fn=`
/// tell where in it how many instructions and system calls were; the one below `calls=`, which belongs to the `cfn=` before
/// it, has what the called function took.
fn parse(text: &str) -> Option<Counted> {
    // Of jemalloc, as its crate names them.
    const ALLOCATOR: [&str; 5] = ["_rjem_malloc", "_rjem_calloc", "_rjem_mallocx", "_rjem_realloc", "_rjem_rallocx"];
    // These are no system calls where the kernel's page of fast ones is not hidden from the program, as it is by valgrind.
    const CLOCK: [&str; 2] = ["clock_gettime", "gettimeofday"];
    let mut counted = Counted::default();
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut caller, mut called, mut is_of_called) = ("", "", false);
    for line in text.lines() {
        if let Some(total) = line.strip_prefix("totals:") {
            counted.instructions = total.split_whitespace().next()?.parse().ok()?;
            return Some(counted);
        }
        let Some((kind, rest)) = line.split_once('=') else {
            let calls = line.split_whitespace().nth(2).filter(|_| !is_of_called && line.starts_with(is_place));
            let is_clock = CLOCK.iter().any(|name| caller.contains(name));
            let calls = calls.and_then(|calls| calls.parse::<f64>().ok()).filter(|calls| *calls > 0.0 && !is_clock);
            if let Some(calls) = calls {
                *counted.calls.entry(caller.to_owned()).or_default() += calls;
            }
            is_of_called = false;
            continue;
        };
        if matches!(kind, "fn" | "cfn") {
            let (number, name) = rest.split_once(' ').unwrap_or((rest, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            let name = names.get(number).copied().unwrap_or_default();
            if kind == "fn" { caller = name } else { called = name }
        } else if kind == "calls" {
            is_of_called = true;
            if ALLOCATOR.contains(&called) && !ALLOCATOR.contains(&caller) {
                counted.allocations += rest.split_whitespace().next()?.parse::<f64>().ok()?;
            }
        }
    }
    None
}

/// How a line with numbers begins: with a line of the source, or how far it is from the one before.
fn is_place(first: char) -> bool {
    first.is_ascii_digit() || matches!(first, '+' | '-' | '*')
}
