//! What one sidecar costs the pod that it is in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::api_server::ApiServer;
use crate::client::Client;
use crate::common::process::Process;
use crate::sidecar::Sidecar;

const READY: Duration = Duration::from_millis(300);
const THREADS: usize = 6;
const ANONYMOUS_IDLE_KIB: u64 = 10 << 10;
const ANONYMOUS_LOADED_KIB: u64 = 24 << 10;
const TWO_HOPS: f64 = 2.2;
/// What one hop may add to the p99 of latencies.
const ADDED_P99: Duration = Duration::from_micros(500);

const SERVICES: usize = 20;
/// Endpoints of each of them.
const ENDPOINTS: usize = 25;
const CONNECTIONS: usize = 200;
const PER_SECOND: u32 = 1_000;
/// From one request to the next.
const PACE: Duration = Duration::from_nanos(1_000_000_000 / PER_SECOND as u64);
const LOAD: Duration = Duration::from_secs(10);
/// Threads of the load, each with its share of the connections.
const CLIENTS: usize = 4;

/// How often it is started, and how often hops are compared: the median counts.
const TRIES: usize = 5;
/// Connections while CPU time is measured, and how long. Requests come at a rate: a process that is always busy finds several
/// of them at each turn, which makes them cheaper, and how often it does differs between one hop and two.
const HOP_CONNECTIONS: usize = 16;
const HOP: Duration = Duration::from_secs(3);
/// What keeps cores awake gives way to everybody else, and ends after this time whatever happens.
const AWAKE: Duration = Duration::from_secs(120);

/// The pod of the application that is called through a sidecar of its own.
const APP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

const NAMESPACE: &str = "shop";

/// What is sent, over and over. The answer has 1 KiB.
const REQUEST: &str = "GET /1k HTTP/1.1\r\nHost: service\r\n\r\n";

pub fn measure(options: &Options) -> io::Result<bool> {
    if TcpListener::bind((APP, 0)).is_err() {
        println!("one: skipped: there are no addresses of pods here; run it inside tests/controlplane/run netns");
        return Ok(true);
    }
    let mut backend = Process::start("backend", None, &std::env::current_exe()?, &["backend".to_owned()], false)?;
    let ports = backend.first_line()?;
    let port: u16 = ports.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or_default();
    let server = ApiServer::start();
    for number in 0..SERVICES {
        let pods = (0..ENDPOINTS).map(|pod| Ipv4Addr::new(10, 244, 2 + number as u8, 1 + pod as u8));
        put(&server, &name(number), pods, port);
    }
    let mut met = alone(options, &server)?;
    met &= two_hops(options, &server, port)?;
    Ok(met)
}

fn name(number: usize) -> String {
    format!("s{number:02}")
}

/// Puts a Service with these pods.
fn put(server: &ApiServer, name: &str, pods: impl Iterator<Item = Ipv4Addr>, port: u16) {
    let endpoints: Vec<Value> =
        pods.map(|pod| json!({ "addresses": [pod], "conditions": { "ready": true } })).collect();
    server.put(
        "services",
        json!({ "metadata": { "namespace": NAMESPACE, "name": name },
            "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
    );
    server.put(
        "endpointslices",
        json!({ "metadata": { "namespace": NAMESPACE, "name": format!("{name}-a"),
                "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": port }], "endpoints": endpoints }),
    );
}

fn out(service: &str) -> String {
    format!("--out-port={service}.{NAMESPACE}:80@127.0.0.1:0")
}

fn listener(service: &str) -> String {
    format!("{service}.{NAMESPACE}:80")
}

fn verdict(what: &str, value: String, bound: String, is_met: bool) -> bool {
    println!("{what}: {value} (bound {bound}): {}", if is_met { "met" } else { "MISSED" });
    is_met
}

/// A sidecar by itself: its start, its threads and its memory.
fn alone(options: &Options, server: &ApiServer) -> io::Result<bool> {
    let flags: Vec<String> = (0..SERVICES).map(|number| out(&name(number))).collect();
    let start = || Sidecar::start(&options.subject, &server.kubeconfig(), NAMESPACE, &flags);
    let mut times = (1..TRIES).map(|_| Ok(start()?.ready_after)).collect::<io::Result<Vec<_>>>()?;
    let sidecar = start()?;
    times.push(sidecar.ready_after);
    times.sort_unstable();
    let median = times[times.len() / 2];
    println!("one sidecar with {SERVICES} Services and {} endpoints", SERVICES * ENDPOINTS);
    let is_quick = verdict("start to ready", format!("{median:.0?}"), format!("{READY:?}"), median <= READY);
    let mut met = is_quick || options.is_smoke;
    // What the start has freed goes back to the kernel some time later.
    std::thread::sleep(Duration::from_secs(12));
    let threads = sidecar.process.threads();
    met &= verdict("threads at rest", threads.to_string(), THREADS.to_string(), threads <= THREADS);
    met &= anonymous("at rest", &sidecar, ANONYMOUS_IDLE_KIB);
    let connections = (0..CONNECTIONS).map(|number| sidecar.connect(&listener(&name(number % SERVICES))));
    let connections = connections.collect::<io::Result<Vec<_>>>()?;
    let loaded = AtomicBool::new(true);
    let (served, most) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let served = load(connections, LOAD);
            loaded.store(false, Ordering::Relaxed);
            served
        });
        let (mut most, mut threads) = (0, 0);
        while loaded.load(Ordering::Relaxed) {
            most = most.max(sidecar.process.anonymous_kib());
            threads = threads.max(sidecar.process.threads());
            std::thread::sleep(Duration::from_millis(200));
        }
        met &= verdict("threads under load", threads.to_string(), THREADS.to_string(), threads <= THREADS);
        (load.join(), most)
    });
    let served = served.map_err(|_| io::Error::other("the load could not be made"))??.len();
    let rate = served as f64 / LOAD.as_secs_f64();
    let what = format!("most anonymous memory with {CONNECTIONS} connections and {rate:.0} requests/s");
    let value = format!("{:.1} MiB", most as f64 / 1024.0);
    met &= verdict(&what, value, format!("{} MiB", ANONYMOUS_LOADED_KIB >> 10), most <= ANONYMOUS_LOADED_KIB);
    Ok(met)
}

fn anonymous(when: &str, sidecar: &Sidecar, bound: u64) -> bool {
    let kib = sidecar.process.anonymous_kib();
    let value =
        format!("{:.1} MiB, of {:.1} MiB resident", kib as f64 / 1024.0, sidecar.process.rss_kib() as f64 / 1024.0);
    verdict(&format!("anonymous memory {when}"), value, format!("{} MiB", bound >> 10), kib <= bound)
}

/// Sends a request every [`PACE`] for a while, over one of these connections after the other. How long each took; all are
/// answered with 200.
fn load(connections: Vec<Client>, length: Duration) -> io::Result<Vec<Duration>> {
    let share = connections.len().div_ceil(CLIENTS).max(1);
    let mut connections = connections.into_iter();
    let began = Instant::now();
    let run = |mut own: Vec<Client>, first: u32| -> io::Result<Vec<Duration>> {
        let mut times = Vec::new();
        for turn in (0..own.len()).cycle() {
            let due = PACE * (times.len() as u32 * CLIENTS as u32 + first);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            if began.elapsed() >= length {
                break;
            }
            let asked = Instant::now();
            let answer = own[turn].request(REQUEST)?;
            if answer.status != 200 {
                return Err(io::Error::other(format!("found status {}, expected 200", answer.status)));
            }
            times.push(asked.elapsed());
        }
        Ok(times)
    };
    std::thread::scope(|scope| {
        let shares: Vec<Vec<Client>> = (0..CLIENTS).map(|_| connections.by_ref().take(share).collect()).collect();
        let running: Vec<_> =
            shares.into_iter().zip(0..).map(|(own, first)| scope.spawn(move || run(own, first))).collect();
        let joined = running.into_iter().map(|one| one.join().map_err(|_| io::Error::other("a client panicked"))?);
        Ok(joined.collect::<io::Result<Vec<_>>>()?.concat())
    })
}

/// Requests that pass the caller's sidecar and the callee's, beside those that pass the caller's alone, and none.
fn two_hops(options: &Options, server: &ApiServer, port: u16) -> io::Result<bool> {
    let start = |flags: &[String]| Sidecar::start(&options.subject, &server.kubeconfig(), NAMESPACE, flags);
    let callee = start(&[format!("--in=http:{port}@{APP}:0"), "--ready-when=started".to_owned()])?;
    put(server, "direct", std::iter::once(APP), port);
    put(server, "beside", std::iter::once(APP), callee.listener("in-http")?.port());
    let caller = start(&["direct", "beside"].map(out))?;
    let hops = Hops {
        app: SocketAddr::from((APP, port)),
        one: caller.listener(&listener("direct"))?,
        both: caller.listener(&listener("beside"))?,
        sidecars: [&caller, &callee],
    };
    let mut met = hops.cpu_time()?;
    met &= hops.latency()?;
    Ok(met || options.is_smoke)
}

/// Where the same application is called through none, one and both of two sidecars.
struct Hops<'a> {
    app: SocketAddr,
    one: SocketAddr,
    both: SocketAddr,
    sidecars: [&'a Sidecar; 2],
}

impl Hops<'_> {
    fn load(at: SocketAddr) -> io::Result<Vec<Duration>> {
        let connections = (0..HOP_CONNECTIONS).map(|_| Client::try_connect_to(at));
        load(connections.collect::<io::Result<Vec<_>>>()?, HOP)
    }

    /// The CPU time of both hops beside that of one.
    fn cpu_time(&self) -> io::Result<bool> {
        // Of a request, in microseconds.
        let cost = |at: SocketAddr| -> io::Result<f64> {
            let cpu = || self.sidecars.iter().map(|sidecar| sidecar.process.cpu()).sum::<Duration>();
            let before = cpu();
            let served = Self::load(at)?.len();
            Ok((cpu() - before).as_secs_f64() * 1e6 / served as f64)
        };
        let mut measured = Vec::new();
        for _ in 0..TRIES {
            let (one, both) = (cost(self.one)?, cost(self.both)?);
            measured.push((both / one, one, both));
        }
        measured.sort_by(|left, right| left.0.total_cmp(&right.0));
        let (ratio, one, both) = measured[measured.len() / 2];
        let value = format!("{ratio:.2} ({both:.0} µs a request beside {one:.0} µs)");
        Ok(verdict("CPU time of both hops beside one", value, TWO_HOPS.to_string(), ratio <= TWO_HOPS))
    }

    /// What a hop adds to latencies. A core that sleeps takes longer to wake than a hop does, and each hop wakes one: that
    /// is the machine's part.
    fn latency(&self) -> io::Result<bool> {
        let _awake = awake()?;
        let mut times: [Vec<Duration>; 3] = Default::default();
        for _ in 0..TRIES {
            for (times, at) in times.iter_mut().zip([self.app, self.one, self.both]) {
                times.extend(Self::load(at)?);
            }
        }
        let at = |times: &mut Vec<Duration>, part: usize| {
            times.sort_unstable();
            times[times.len() * part / 100]
        };
        let [p50, p99] = [50, 99].map(|part| times.each_mut().map(|times| at(times, part)));
        let added = p99[2].saturating_sub(p99[0]) / 2;
        let value = format!("{added:.0?} (p99 {p99:.0?}, p50 {p50:.0?} with no hop, one and both)");
        Ok(verdict("a hop adds to the p99", value, format!("{ADDED_P99:?}"), added <= ADDED_P99))
    }
}

/// Keeps every core awake, by work that gives way to all other, for as long as the value lives.
fn awake() -> io::Result<Vec<Process>> {
    let cores = std::thread::available_parallelism()?.get();
    let args = ["--idle", "0"].map(str::to_owned).into_iter().chain([
        std::env::current_exe()?.display().to_string(),
        "spin".to_owned(),
        AWAKE.as_secs().to_string(),
    ]);
    let args: Vec<String> = args.collect();
    (0..cores).map(|core| Process::start("spin", Some(core), Path::new("chrt"), &args, false)).collect()
}

/// Does nothing, busily, for so many seconds.
pub fn spin(seconds: &str) -> io::Result<()> {
    let length = seconds.parse().map(Duration::from_secs).map_err(io::Error::other)?;
    let began = Instant::now();
    while began.elapsed() < length {
        std::hint::spin_loop();
    }
    Ok(())
}
