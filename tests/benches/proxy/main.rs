//! CPU per request of tidegate beside nginx and HAProxy, in one run, interleaved: `cargo bench --bench proxy`.
//!
//! The proxies run on core 0, backend and load on core 1. Each scenario runs in rounds whose order alternates; a round
//! reads the CPU time of the proxy's threads around a fixed span of load. What counts is the median of the per-round
//! ratios; absolute times mean nothing on shared machines.
//!
//! `--subject PATH` measures another binary, `--scenario NAME` (repeatable) picks scenarios, `--rounds N`,
//! `--seconds N`, `--json FILE` writes the raw rounds. Exit code 1: a must was missed. Needs Debian's `nginx-light`,
//! `haproxy` and `wrk`; a peer that is missing is reported as skipped.

#[path = "../common/mod.rs"]
mod common;

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::peers::{self, Peer};
use common::process::{Process, core_ticks};
use serde_json::json;

const PROXY_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// One kind of load, with the ratios to nginx and HAProxy that it must not exceed.
struct Scenario {
    name: &'static str,
    connections: usize,
    path: &'static str,
    close: bool,
    nginx: Option<f64>,
    haproxy: Option<f64>,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "1k", connections: 64, path: "/1k", close: false, nginx: Some(1.00), haproxy: Some(0.87) },
    Scenario { name: "c512", connections: 512, path: "/1k", close: false, nginx: None, haproxy: None },
    Scenario { name: "c2k", connections: 2000, path: "/1k", close: false, nginx: None, haproxy: None },
    Scenario { name: "64k", connections: 32, path: "/64k", close: false, nginx: None, haproxy: None },
    Scenario { name: "1m", connections: 16, path: "/1m", close: false, nginx: None, haproxy: None },
    Scenario { name: "close", connections: 64, path: "/1k", close: true, nginx: None, haproxy: None },
];

struct Options {
    subject: PathBuf,
    scenarios: Vec<String>,
    rounds: usize,
    seconds: u64,
    json: Option<PathBuf>,
}

/// One measured span of load on one proxy.
#[derive(Clone, Copy, Debug)]
struct Run {
    requests: u64,
    micros_per_request: f64,
    user_share: f64,
    errors: u64,
    core: f64,
    steal: f64,
}

fn options() -> Options {
    let mut options = Options {
        subject: PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
        scenarios: Vec::new(),
        rounds: 5,
        seconds: 3,
        json: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| usage(&format!("{arg} needs a value")));
        match arg.as_str() {
            "--bench" => {}
            "--subject" => options.subject = PathBuf::from(value()),
            "--scenario" => options.scenarios.push(value()),
            "--rounds" => options.rounds = value().parse().unwrap_or_else(|_| usage("--rounds takes a number")),
            "--seconds" => options.seconds = value().parse().unwrap_or_else(|_| usage("--seconds takes a number")),
            "--json" => options.json = Some(PathBuf::from(value())),
            other => usage(&format!("unknown argument {other}")),
        }
    }
    if options.scenarios.is_empty() {
        options.scenarios.push("1k".to_owned());
    }
    if options.scenarios.iter().any(|name| name == "all") {
        options.scenarios = SCENARIOS.iter().map(|scenario| scenario.name.to_owned()).collect();
    }
    options
}

fn usage(problem: &str) -> ! {
    eprintln!(
        "{problem}\nusage: proxy [--subject PATH] [--scenario NAME|all]... [--rounds N] [--seconds N] [--json FILE]"
    );
    std::process::exit(2)
}

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("backend") {
        return common::backend::run();
    }
    let options = options();
    let Some(wrk) = peers::find("wrk") else {
        eprintln!("proxy bench: wrk is missing (Debian package wrk)");
        std::process::exit(1);
    };
    let folder = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let mut backend = Process::start("backend", Some(LOAD_CORE), &own, &["backend".to_owned()], false)?;
    let line = backend.first_line()?;
    let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let backends = [ports[0], ports[1]];
    let routes = folder.path().join("routes");
    std::fs::create_dir(&routes)?;
    peers::write_routes(&routes, backends, 200, true)?;
    let mut proxies = vec![peers::tidegate(&options.subject, &routes, Some(PROXY_CORE))?.0];
    match peers::find("nginx") {
        Some(program) => proxies.push(peers::nginx(&program, folder.path(), backends, PROXY_CORE)?),
        None => println!("nginx: skipped, not installed"),
    }
    match peers::find("haproxy") {
        Some(program) => proxies.push(peers::haproxy(&program, folder.path(), backends, PROXY_CORE)?),
        None => println!("haproxy: skipped, not installed"),
    }
    for peer in &proxies {
        wait_for(peer.port)?;
    }
    let mut missed = false;
    let mut report = Vec::new();
    for name in &options.scenarios {
        let scenario = SCENARIOS
            .iter()
            .find(|scenario| scenario.name == name)
            .unwrap_or_else(|| usage(&format!("unknown scenario {name}")));
        missed |= measure(scenario, &proxies, &wrk, &options, &mut report)?;
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
    }
    drop(proxies);
    drop(backend);
    std::process::exit(i32::from(missed));
}

/// Runs all rounds of a scenario and prints its table; true when a must was missed.
fn measure(
    scenario: &Scenario,
    proxies: &[Peer],
    wrk: &std::path::Path,
    options: &Options,
    report: &mut Vec<serde_json::Value>,
) -> io::Result<bool> {
    for peer in proxies {
        load(scenario, peer, wrk, 1)?;
    }
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); proxies.len()];
    for round in 0..options.rounds {
        let mut order: Vec<usize> = (0..proxies.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            runs[index].push(load(scenario, &proxies[index], wrk, options.seconds)?);
        }
    }
    println!(
        "\n{}: {} connections, {}{}, {} rounds of {} s",
        scenario.name,
        scenario.connections,
        scenario.path,
        if scenario.close { ", connection per request" } else { "" },
        options.rounds,
        options.seconds
    );
    println!(
        "{:10} {:>9} {:>8} {:>15} {:>6} {:>6} {:>6} {:>7} {:>12}",
        "proxy", "req/s", "us/req", "[min-max]", "user%", "core0", "steal", "errors", "tidegate/it"
    );
    let mut missed = false;
    for (peer, measured) in proxies.iter().zip(&runs) {
        let micros: Vec<f64> = measured.iter().map(|run| run.micros_per_request).collect();
        let ratios: Vec<f64> = runs[0]
            .iter()
            .zip(measured)
            .map(|(own, other)| own.micros_per_request / other.micros_per_request)
            .collect();
        let ratio = median(&ratios);
        let goal = match peer.name {
            "nginx" => scenario.nginx,
            "haproxy" => scenario.haproxy,
            _ => None,
        };
        let verdict = match goal {
            Some(goal) if ratio > goal => {
                missed = true;
                format!("  MISSED, must be <= {goal:.2}")
            }
            Some(goal) => format!("  met, must be <= {goal:.2}"),
            None => String::new(),
        };
        let spread = (low(&micros), high(&micros));
        let mean = |pick: fn(&Run) -> f64| measured.iter().map(pick).sum::<f64>() / measured.len() as f64;
        println!(
            "{:10} {:>9.0} {:>8.2} {:>15} {:>6.1} {:>6.2} {:>6.3} {:>7} {:>12}{verdict}",
            peer.name,
            median(&measured.iter().map(|run| run.requests as f64 / options.seconds as f64).collect::<Vec<_>>()),
            median(&micros),
            format!("[{:.2}-{:.2}]", spread.0, spread.1),
            mean(|run| run.user_share * 100.0),
            mean(|run| run.core),
            mean(|run| run.steal),
            measured.iter().map(|run| run.errors).sum::<u64>(),
            format!("{ratio:.3} [{:.2}-{:.2}]", low(&ratios), high(&ratios)),
        );
        if (spread.1 - spread.0) / median(&micros) > 0.08 {
            println!("           noisy: the rounds differ by more than 8 %, repeat before quoting");
        }
        if measured.iter().any(|run| run.core < 0.97) {
            println!("           client bound: core 0 was not saturated in every round");
        }
        report.push(json!({
            "scenario": scenario.name, "proxy": peer.name, "ratio_median": ratio, "ratios": ratios,
            "micros_per_request": micros, "errors": measured.iter().map(|run| run.errors).sum::<u64>(),
        }));
    }
    Ok(missed)
}

/// Loads one proxy for `seconds` and reads what that cost it.
fn load(scenario: &Scenario, peer: &Peer, wrk: &std::path::Path, seconds: u64) -> io::Result<Run> {
    let mut command = Command::new("taskset");
    command.args(["-c", &LOAD_CORE.to_string()]).arg(wrk);
    command.args(["-t1", &format!("-c{}", scenario.connections), &format!("-d{seconds}s")]);
    if scenario.close {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://127.0.0.1:{}{}", peer.port, scenario.path));
    let before = (peer.process.cpu(), peer.process.ticks(), core_ticks(PROXY_CORE)?);
    let output = command.output()?;
    let after = (peer.process.cpu(), peer.process.ticks(), core_ticks(PROXY_CORE)?);
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| io::Error::other(format!("{}: wrk finished no request:\n{text}", peer.name)))?;
    let errors = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors")).count() as u64;
    let user = (after.1.0 - before.1.0) as f64;
    let kernel = (after.1.1 - before.1.1) as f64;
    let total = (after.2.2 - before.2.2).max(1) as f64;
    Ok(Run {
        requests,
        micros_per_request: (after.0 - before.0).as_secs_f64() * 1e6 / requests as f64,
        user_share: user / (user + kernel).max(1.0),
        errors,
        core: (after.2.0 - before.2.0) as f64 / total,
        steal: (after.2.1 - before.2.1) as f64 / total,
    })
}

/// Waits until something accepts on a loopback port.
fn wait_for(port: u16) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn low(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn high(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
