//! What a sidecar costs, and what many of them do to an API server: `cargo bench --bench sidecars`.
//!
//! * `one` (`one.rs`): of a sidecar with 20 Services and 500 endpoints the time to ready, its threads, its memory at rest and
//!   under load, the CPU time of two hops beside that of one, and what a hop adds to latencies. The API server is the simulated one of the tests. Pods have
//!   addresses that exist only inside `tests/controlplane/run netns -- …`; without them this part is skipped, and that is
//!   said.
//! * `many` (`many.rs`): hundreds of sidecars follow one real API server, that of `tests/controlplane`, whose program
//!   `TIDEGATE_CONTROLPLANE` names: its memory and its CPU time, at rest and for writes that all of them are told of, some
//!   of them, or none. Each number stands beside the figure that sidecars were designed with. Skipped without the program.
//!
//! Exit code 1: a bound was missed. `--smoke` is for a quick run of an unoptimised build on a busy machine: it prints the same,
//! and only what does not depend on speed counts. `--only one|many`, `--count N` (sidecars, 500), `--services K` (which each of
//! them calls, 2), `--writes N` (of each slice, 30), `--quiet SECONDS` (how long idleness is measured, 30) and `--subject PATH`
//! change the run.

// Of these, each benchmark uses its part; most of them say so themselves.
#[path = "../../support/api_server.rs"]
mod api_server;
#[allow(dead_code)]
#[path = "../../support/client.rs"]
mod client;
#[path = "../../support/cluster.rs"]
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod many;
mod one;
#[allow(dead_code)]
#[path = "../cluster/server.rs"]
mod server;
mod sidecar;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

struct Options {
    subject: PathBuf,
    count: usize,
    services: usize,
    writes: usize,
    quiet: Duration,
    only: Option<String>,
    is_smoke: bool,
}

fn options() -> io::Result<Options> {
    let mut options = Options {
        subject: PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
        count: 500,
        services: 2,
        writes: 30,
        quiet: Duration::from_secs(30),
        only: None,
        is_smoke: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| io::Error::other(format!("{arg} needs a value")));
        let number = |text: String, least: usize| {
            let number = text.parse().ok().filter(|number| *number >= least);
            number.ok_or_else(|| io::Error::other(format!("{arg}: found {text}, expected a number from {least} on")))
        };
        match arg.as_str() {
            "--bench" => {}
            "--smoke" => options.is_smoke = true,
            "--subject" => options.subject = PathBuf::from(value()?),
            "--count" => options.count = number(value()?, 1)?,
            "--services" => options.services = number(value()?, 2)?,
            "--writes" => options.writes = number(value()?, 1)?,
            "--quiet" => options.quiet = Duration::from_secs(number(value()?, 1)? as u64),
            "--only" => match value()?.as_str() {
                part @ ("one" | "many") => options.only = Some(part.to_owned()),
                other => return Err(io::Error::other(format!("--only: found {other}, expected one or many"))),
            },
            _ => return Err(io::Error::other(format!("unknown argument {arg}"))),
        }
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("backend") {
        return common::backend::run_at(Ipv4Addr::UNSPECIFIED.into());
    }
    if let [_, word, seconds] = &std::env::args().collect::<Vec<_>>()[..]
        && word == "spin"
    {
        return one::spin(seconds);
    }
    let options = options()?;
    common::process::raise_file_limit();
    let parts: [(&str, Part); 2] = [("one", one::measure), ("many", many::measure)];
    let mut met = true;
    for (name, part) in parts {
        if options.only.as_ref().is_none_or(|only| only == name) {
            met &= part(&options)?;
        }
    }
    std::process::exit(i32::from(!met))
}

/// One part of the measurement; whether its bounds were met.
type Part = fn(&Options) -> io::Result<bool>;
