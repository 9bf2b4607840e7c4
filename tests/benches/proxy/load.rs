//! One measured span of load on one proxy, and the load that `wrk` makes.
//!
//! What is read is CPU time of the proxy's threads, kernel time included, over what it served. Requests per second only
//! say who was the bottleneck.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::peers::Peer;
use super::common::process::{Process, core_ticks};
use super::scenario::{Requests, Scenario};
use super::table::{self, Contestant};
use super::{Bench, LOAD_CORE, PROXY_CORE};

/// What a load generator counted.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Requests, or round trips.
    pub requests: u64,
    /// Kinds of failures that `wrk` names, or tunnels that broke.
    pub errors: u64,
}

/// One measured span of load on one proxy.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub served: Served,
    pub micros_per_request: f64,
    /// User time of all CPU time, 0 to 1.
    pub user_share: f64,
    /// How busy the proxies' core was, 0 to 1.
    pub core: f64,
    /// Time that the hypervisor took from that core, 0 to 1.
    pub steal: f64,
}

/// Runs some load on a proxy and reads what that cost it.
///
/// # Errors
/// When the load fails or serves nothing.
pub fn span(process: &Process, load: impl FnOnce() -> io::Result<Served>) -> io::Result<Run> {
    let before = (process.cpu(), process.ticks(), core_ticks(PROXY_CORE)?);
    let served = load()?;
    let after = (process.cpu(), process.ticks(), core_ticks(PROXY_CORE)?);
    if served.requests == 0 {
        return Err(io::Error::other("the load served nothing"));
    }
    let user = (after.1.0 - before.1.0) as f64;
    let kernel = (after.1.1 - before.1.1) as f64;
    let total = (after.2.2 - before.2.2).max(1) as f64;
    Ok(Run {
        served,
        micros_per_request: (after.0 - before.0).as_secs_f64() * 1e6 / served.requests as f64,
        user_share: user / (user + kernel).max(1.0),
        core: (after.2.0 - before.2.0) as f64 / total,
        steal: (after.2.1 - before.2.1) as f64 / total,
    })
}

/// Measures requests on all proxies; true when a must was missed.
pub fn measure(scenario: &Scenario, requests: &Requests, bench: &mut Bench) -> io::Result<bool> {
    let fields: &[&str] = if requests.close { &["Connection: close"] } else { &[] };
    let contestants = bench.proxies.iter().map(|peer| {
        let wrk = bench.wrk.as_path();
        Contestant {
            name: peer.name,
            must: requests.musts.of(peer.name),
            run: Box::new(move |seconds| {
                let base = requests.base(peer)?;
                span(&peer.process, || run_wrk(wrk, &base, requests.connections, requests.path, fields, seconds))
            }),
        }
    });
    let title = format!(
        "{}: {} {}connections, {}{}",
        scenario.name,
        requests.connections,
        if requests.tls { "TLS " } else { "" },
        requests.path,
        if requests.close { ", connection per request" } else { "" }
    );
    let outcome = table::compete(scenario.name, &title, contestants.collect(), bench.rounds, bench.seconds)?;
    bench.report.extend(outcome.report);
    Ok(outcome.missed)
}

impl Requests {
    /// Where on a proxy they go.
    fn base(&self, peer: &Peer) -> io::Result<String> {
        if !self.tls {
            return Ok(plain(peer.port));
        }
        let port = peer.tls_port.ok_or_else(|| io::Error::other(format!("{} speaks no TLS", peer.name)))?;
        Ok(format!("https://127.0.0.1:{port}"))
    }
}

/// The beginning of the URLs of a port without TLS.
pub fn plain(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A closed loop of `wrk` on the load core; `base` is the URL before the path. It checks no certificate and does not resume
/// sessions: each TLS connection is a whole handshake.
///
/// # Errors
/// When it cannot be started or finishes no request.
pub fn run_wrk(
    wrk: &Path,
    base: &str,
    connections: usize,
    path: &str,
    fields: &[&str],
    seconds: u64,
) -> io::Result<Served> {
    let mut command = Command::new("taskset");
    command.args(["-c", &LOAD_CORE.to_string()]).arg(wrk);
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    for field in fields {
        command.args(["-H", field]);
    }
    command.arg(format!("{base}{path}"));
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| io::Error::other(format!("wrk finished no request:\n{text}")))?;
    let errors = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors")).count() as u64;
    Ok(Served { requests, errors })
}

/// Waits until something accepts on a loopback port.
///
/// # Errors
/// When nothing does for ten seconds.
pub fn wait_for(port: u16) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
