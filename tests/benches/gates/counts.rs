//! What one request costs in numbers that hardly depend on how busy the machine is: user instructions and system calls,
//! which callgrind counts.
//!
//! Many connections ask at once, so that a worker finds several requests at a time, as it does when it is busy. How many it
//! finds is chance, and a busy machine lets it find fewer; so is what comes by time. Both only add to a batch, and the least
//! of several batches counts.

use std::fs;
use std::io;
use std::path::Path;

use super::baseline::{self, Costs};
use super::callgrind::{Callgrind, Counted, Tools, least};
use super::common::peers;
use super::traffic::{Asked, Clients};

/// Kept connections, as many as let a worker find several requests at a time.
const CONNECTIONS: usize = 64;
/// What comes before counting: connections to pods, and memory that is kept from then on.
const WARM_ROUNDS: usize = 20;
/// Rounds of a batch below callgrind, which makes a program fifty times slower; the least of so many batches counts.
const ROUNDS: usize = 20;
const BATCHES: usize = 8;

/// Measures both and compares them with the baseline; true when they are within it.
///
/// # Errors
/// When the gateway or a tool fails, and with `CI=true` also when a tool is missing.
pub fn measure(subject: &Path, backends: [u16; 2], record: bool) -> io::Result<bool> {
    let Some(tools) = Tools::find()? else { return Ok(true) };
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, 10, true)?;
    let mut gateway = Callgrind::start(&tools, subject, folder.path())?;
    let mut clients = Clients::connect(gateway.port(), &Asked::PLAIN, CONNECTIONS)?;
    clients.ask(WARM_ROUNDS)?;
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        batches.push(gateway.count(&mut clients, ROUNDS)?);
    }
    // Kept until the next run, for `callgrind_annotate`.
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    fs::copy(gateway.last_profile(), &profile)?;
    drop(clients);
    gateway.finish()?;
    let costs =
        Costs { instructions: least(&batches, |batch| batch.instructions), calls: least(&batches, Counted::all_calls) };
    let listed: Vec<String> = batches[0]
        .calls
        .keys()
        .map(|name| (name, least(&batches, |batch| batch.calls.get(name).copied().unwrap_or_default())))
        .filter(|(_, count)| *count >= 0.005)
        .map(|(name, count)| format!("{name} {count:.2}"))
        .collect();
    println!("system calls per request: {}", listed.join(", "));
    println!("where the instructions go: callgrind_annotate {}", profile.display());
    baseline::judge(subject, costs, record)
}
