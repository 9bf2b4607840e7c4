//! What the controller costs, and how quickly it follows an API server: `cargo bench --bench cluster`.
//!
//! * start with 5,000 routes, as many Services and 15,000 endpoints: time to ready, and no 404 after it;
//! * resident memory at rest, once every status is written;
//! * time from a new route to its first 200, with 3,000 routes present, and while 5,000 more are being loaded;
//! * time from a pod that is not ready any more to the last request that it gets;
//! * time series after a request to every route.
//!
//! Of the times it also says which part was the API server's: until a watch of our own was told, as any client is.
//!
//! The API server is the simulated one of the tests, in this process; with `--real` it is that of `tests/controlplane`,
//! whose program `TIDEGATE_CONTROLPLANE` names, and the controller is its administrator. Pods have addresses that exist
//! only inside the network namespace of `tests/controlplane`: `tests/controlplane/run netns -- cargo bench --bench
//! cluster`. Without it nothing is measured, and that is said. Exit code 1: a bound was missed. `--only memory|new|ready`,
//! `--routes N`, `--tries N`, `--no-status` and `--subject PATH` change the run.

#[path = "../support/api_server.rs"]
mod api_server;
// Of the client only what sends whole requests is used here.
#[allow(dead_code)]
#[path = "../support/client.rs"]
mod client;
#[path = "../support/cluster.rs"]
mod cluster;
mod common;
#[path = "cluster/server.rs"]
mod server;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::process::Process;
use serde_json::{Value, json};
use server::{NAMESPACE, Server, Writer};

const START: Duration = Duration::from_secs(3);
const RESIDENT_KIB: u64 = 60 << 10;
const NEW_ROUTE_P99: Duration = Duration::from_millis(30);
const NEW_ROUTE_LOADING_P99: Duration = Duration::from_millis(60);
const NOT_READY_P99: Duration = Duration::from_millis(30);
const SERIES: usize = 10_000;
/// Endpoints of a Service.
const PODS: usize = 3;
/// Routes that are there while new ones are timed.
const PRESENT: usize = 3_000;
/// Routes a second while many are being loaded.
const LOADED_PER_SECOND: usize = 500;

struct Options {
    subject: PathBuf,
    routes: usize,
    tries: usize,
    only: Option<String>,
    is_real: bool,
    has_status: bool,
}

fn options() -> io::Result<Options> {
    let mut options = Options {
        subject: PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
        routes: 5_000,
        tries: 200,
        only: None,
        is_real: false,
        has_status: true,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| io::Error::other(format!("{arg} needs a value")));
        let number = |text: String| text.parse().map_err(|_| io::Error::other(format!("{arg} takes a number")));
        match arg.as_str() {
            "--bench" => {}
            "--real" => options.is_real = true,
            "--no-status" => options.has_status = false,
            "--only" => options.only = Some(value()?),
            "--subject" => options.subject = PathBuf::from(value()?),
            "--routes" => options.routes = number(value()?)?,
            "--tries" => options.tries = number(value()?)?,
            _ => return Err(io::Error::other(format!("unknown argument {arg}"))),
        }
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    let options = options()?;
    if TcpListener::bind("10.244.1.1:0").is_err() {
        println!("skipped: there are no addresses of pods here; run it inside tests/controlplane/run netns");
        return Ok(());
    }
    common::process::raise_file_limit();
    let pods = [Pod::start("10.244.1.1")?, Pod::start("10.244.1.2")?, Pod::start("10.244.1.3")?];
    let legs: [(&str, Leg); 3] = [("memory", start_and_memory), ("new", new_routes), ("ready", not_ready)];
    let mut met = true;
    for (name, leg) in legs {
        if options.only.as_ref().is_none_or(|only| only == name) {
            met &= leg(&options, &pods)?;
        }
    }
    if met { Ok(()) } else { std::process::exit(1) }
}

/// One part of the measurement; whether its bounds were met.
type Leg = fn(&Options, &[Pod]) -> io::Result<bool>;

/// A pod that answers everything and counts it.
struct Pod {
    address: SocketAddr,
    /// When it was last asked: microseconds after the start.
    last: Arc<AtomicU64>,
    began: Instant,
}

impl Pod {
    fn start(ip: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0))?;
        let address = listener.local_addr()?;
        let (last, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let seen = Arc::clone(&last);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || serve(stream, &seen, began));
            }
        });
        Ok(Self { address, last, began })
    }

    fn last(&self) -> Duration {
        Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

fn serve(mut stream: TcpStream, seen: &AtomicU64, began: Instant) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            bytes.drain(..end + 4);
            seen.store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}

fn route(name: &str, services: &[String]) -> Value {
    let backends: Vec<Value> = services.iter().map(|service| json!({ "name": service, "port": 80 })).collect();
    json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute",
        "metadata": { "namespace": NAMESPACE, "name": name, "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "hostnames": [format!("{name}.bench.test")], "rules": [
            { "name": "api", "matches": [{ "path": { "type": "PathPrefix", "value": "/api" } }], "backendRefs": backends },
            { "name": "all", "backendRefs": backends }] } })
}

fn service(name: &str) -> Value {
    // Without a selector, so that no controller of the API server writes slices beside ours.
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "namespace": NAMESPACE, "name": name },
        "spec": { "type": "ClusterIP", "clusterIP": "None",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }] } })
}

/// The slice of a Service on these pods; those whose number is in `unready` are not ready.
fn slice(service: &str, pods: &[Pod], unready: &[usize]) -> Vec<Value> {
    let of_pod = |(number, pod): (usize, &Pod)| {
        let ready = !unready.contains(&number);
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "namespace": NAMESPACE, "name": format!("{service}-{number}"),
                "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": pod.address.port(), "protocol": "TCP" }],
            "endpoints": [{ "addresses": [pod.address.ip().to_string()], "nodeName": "node-0", "zone": "a",
                "conditions": { "ready": ready, "serving": ready, "terminating": false },
                "targetRef": { "kind": "Pod", "name": format!("{service}-{number}"), "uid": format!("{service}-{number}") } }] })
    };
    pods.iter().enumerate().map(of_pod).collect()
}

/// As a controller writes it: all endpoints in one slice; of pods that nobody asks.
fn slice_of_many(service: &str, number: usize) -> Value {
    let endpoint = |at: usize| {
        let n = number * PODS + at;
        json!({ "addresses": [format!("10.244.{}.{}", 16 + n / 250, 1 + n % 250)], "nodeName": "node-0", "zone": "a",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "name": format!("{service}-{at}"), "uid": format!("0000-{service}-{at}") } })
    };
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "namespace": NAMESPACE, "name": format!("{service}-x"),
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..PODS).map(endpoint).collect::<Vec<_>>() })
}

/// A server with so many routes, each with a Service of three pods; and the Service `live` on these pods.
fn filled(options: &Options, routes: usize, pods: &[Pod]) -> io::Result<Server> {
    let server = Server::start(options.is_real).ok_or_else(|| io::Error::other("there is no API server"))?;
    let name = |number: usize| format!("r{number:05}");
    let services = (0..routes).map(|number| service(&name(number))).chain([service("live")]);
    server.create_all("services", services.collect());
    let slices = (0..routes).map(|number| slice_of_many(&name(number), number));
    server.create_all("endpointslices", slices.chain(slice("live", pods, &[])).collect());
    let routes = (0..routes).map(|number| {
        // Three backends each, as in the bound of the series.
        let services: Vec<String> = (0..3).map(|next| name((number + next) % routes)).collect();
        route(&name(number), &services)
    });
    server.create_all("gatewayroutes", routes.collect());
    Ok(server)
}

/// A running controller.
struct Gateway {
    process: Process,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(options: &Options, server: &Server) -> io::Result<(Self, Duration)> {
        let kubeconfig = server.kubeconfig();
        let args = ["controller", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--access-log=off", "--log=warn"];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.push(if options.has_status { "--lease-namespace=bench" } else { "--no-status" }.to_owned());
        args.push("--kubeconfig".to_owned());
        args.push(kubeconfig.display().to_string());
        let began = Instant::now();
        let mut process = Process::start("tidegate", None, &options.subject, &args, false)?;
        let ready: Value = serde_json::from_str(&process.first_line()?)?;
        let took = began.elapsed();
        let address = |value: &Value| -> io::Result<SocketAddr> {
            value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other("no address"))
        };
        let (http, admin) = (address(&ready["listeners"]["http"])?, address(&ready["admin"])?);
        Ok((Self { process, http, admin }, took))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.http)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }

    /// Waits until so many statuses are written, if they are written at all.
    fn settle(&self, options: &Options, statuses: usize) -> io::Result<()> {
        if !options.has_status {
            return Ok(());
        }
        let began = Instant::now();
        loop {
            let page = self.page()?;
            let written = value(&page, r#"tidegate_status_writes_total{result="ok"}"#);
            if written >= statuses as f64 && value(&page, "tidegate_status_queue_length") == 0.0 {
                println!("({written} statuses were written within {:.0?} after the start)", began.elapsed());
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(400) {
                return Err(io::Error::other(format!("{written} of {statuses} statuses are written")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn page(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }
}

/// The status code that a host gets.
fn status(stream: &mut TcpStream, host: &str) -> io::Result<u16> {
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other(head));
        }
    }
}

fn verdict(what: &str, value: String, bound: String, is_met: bool) -> bool {
    println!("{what}: {value} (bound {bound}): {}", if is_met { "met" } else { "MISSED" });
    is_met
}

/// Median, 99 of 100, and the longest.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part).ceil() as usize];
    (at(0.5), at(0.99), at(1.0))
}

fn timed(what: &str, times: Vec<Duration>, bound: Duration) -> bool {
    let count = times.len();
    let (median, p99, longest) = percentiles(times);
    let what = format!("{what}, p99 of {count}");
    verdict(&what, format!("{p99:.1?}, median {median:.1?}, longest {longest:.1?}"), format!("{bound:?}"), p99 <= bound)
}

fn start_and_memory(options: &Options, pods: &[Pod]) -> io::Result<bool> {
    let routes = options.routes;
    let server = filled(options, routes, pods)?;
    let (gateway, took) = Gateway::start(options, &server)?;
    println!("(at the start: {})", work(&gateway.page()?));
    let mut met = verdict(
        &format!("start to ready with {routes} routes"),
        format!("{took:.2?}"),
        format!("{START:?}"),
        took <= START,
    );
    gateway.settle(options, routes)?;
    // Changes make further versions: two are there for a moment, and then one is given back.
    let mut writer = server.writer();
    writer.create("gatewayroutes", route("further", &["live".to_owned()]));
    writer.replace("endpointslices", slice("live", pods, &[0]).remove(0));
    std::thread::sleep(Duration::from_secs(15));
    let (resident, anonymous) = (gateway.process.rss_kib(), gateway.process.anonymous_kib());
    let what = format!("resident with {routes} routes, {routes} Services, {} endpoints", routes * PODS);
    let value = format!("{resident} KiB, of which {anonymous} KiB are its data and the rest its program file");
    met &= verdict(&what, value, format!("{RESIDENT_KIB} KiB"), resident <= RESIDENT_KIB);
    // What was listed may not be missing once it says that it is ready: pods refuse, and that is all.
    let mut stream = gateway.connect()?;
    let mut not_found = 0;
    for number in 0..routes {
        let code = status(&mut stream, &format!("r{number:05}.bench.test"))?;
        not_found += usize::from(code == 404);
    }
    met &= verdict("404 after ready", not_found.to_string(), "0".to_owned(), not_found == 0);
    let page = gateway.page()?;
    let series = page.lines().filter(|line| line.starts_with("tidegate_")).count();
    met &= verdict("time series after a request to each", series.to_string(), SERIES.to_string(), series <= SERIES);
    println!("(resident after a request to each: {} KiB; {})", gateway.process.rss_kib(), work(&page));
    Ok(met)
}

/// A metric of a page, with its labels; 0 when it is not there.
fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0)
}

/// How long a version took to compile and to publish, on average.
fn work(page: &str) -> String {
    let mean = |name: &str| 1e3 * value(page, &format!("{name}_sum")) / value(page, &format!("{name}_count")).max(1.0);
    let (compile, publish) = (mean("tidegate_config_compile_seconds"), mean("tidegate_config_publish_seconds"));
    format!("{compile:.1} ms to compile, {publish:.1} ms to publish on average")
}

/// What was measured: whole times, and until a watch of our own was told.
#[derive(Default)]
struct Times {
    whole: Vec<Duration>,
    of_server: Vec<Duration>,
}

impl Times {
    fn verdict(self, what: &str, bound: Duration) -> bool {
        let is_met = timed(what, self.whole, bound);
        if !self.of_server.is_empty() {
            let (median, p99, longest) = percentiles(self.of_server);
            println!("(until a watch of our own was told: p99 {p99:.1?}, median {median:.1?}, longest {longest:.1?})");
        }
        is_met
    }
}

/// Times from a new route to its first 200: at least so many, and for as long as `goes_on`.
fn follow_new(
    (gateway, server): (&Gateway, &Server),
    (least, prefix): (usize, &str),
    goes_on: impl Fn() -> bool,
) -> io::Result<Times> {
    let mut stream = gateway.connect()?;
    let mut times = Times::default();
    let (mut writer, witness) = (server.writer(), server.witness("gatewayroutes")?);
    for number in 0.. {
        if number >= least && !goes_on() {
            break;
        }
        let name = format!("{prefix}{number:04}");
        let host = format!("{name}.bench.test");
        let object = route(&name, &["live".to_owned()]);
        let began = Instant::now();
        writer.create("gatewayroutes", object);
        while status(&mut stream, &host)? != 200 {
            if began.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::other(format!("{host} gets no 200")));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        times.whole.push(began.elapsed());
        times.of_server.extend(witness.seen_after(&name, began).map(|seen| seen - began));
        writer.delete("gatewayroutes", &name);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(times)
}

fn new_routes(options: &Options, pods: &[Pod]) -> io::Result<bool> {
    let server = filled(options, PRESENT, pods)?;
    let (gateway, _) = Gateway::start(options, &server)?;
    gateway.settle(options, PRESENT)?;
    let times = follow_new((&gateway, &server), (options.tries, "new"), || false)?;
    let mut met = times.verdict(&format!("new route to first 200, {PRESENT} routes present"), NEW_ROUTE_P99);
    println!("({})", work(&gateway.page()?));
    let (loading, server) = (AtomicBool::new(true), &server);
    let (times, took) = std::thread::scope(|scope| {
        let loader = scope.spawn(|| {
            let began = Instant::now();
            load(server, options.routes);
            loading.store(false, Ordering::Relaxed);
            began.elapsed()
        });
        let times = follow_new((&gateway, server), (1, "busy"), || loading.load(Ordering::Relaxed));
        (times, loader.join())
    });
    let took = took.map_err(|_| io::Error::other("the routes could not be loaded"))?;
    met &=
        times?.verdict(&format!("new route to first 200, while {} are loaded", options.routes), NEW_ROUTE_LOADING_P99);
    println!("({} routes were loaded in {took:.1?}; {})", options.routes, work(&gateway.page()?));
    Ok(met)
}

/// Loads so many routes, evenly, or more slowly where the server takes no more.
fn load(server: &Server, routes: usize) {
    let began = Instant::now();
    let writers = 4;
    std::thread::scope(|scope| {
        for first in 0..writers {
            scope.spawn(move || {
                let mut writer: Writer<'_> = server.writer();
                for number in (first..routes).step_by(writers) {
                    let due = Duration::from_secs(1) * number as u32 / LOADED_PER_SECOND as u32;
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                    writer.create("gatewayroutes", route(&format!("load{number:05}"), &["live".to_owned()]));
                }
            });
        }
    });
}

/// Times from a pod that is not ready any more to the last request that it gets, under constant load.
fn not_ready(options: &Options, pods: &[Pod]) -> io::Result<bool> {
    let server = filled(options, PRESENT, pods)?;
    let mut writer = server.writer();
    writer.create("gatewayroutes", route("live", &["live".to_owned()]));
    let (gateway, _) = Gateway::start(options, &server)?;
    gateway.settle(options, PRESENT + 1)?;
    let witness = server.witness("endpointslices")?;
    let running = AtomicBool::new(true);
    let failed = AtomicU64::new(0);
    let times = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let Ok(mut stream) = gateway.connect() else { return };
                while running.load(Ordering::Relaxed) {
                    if !status(&mut stream, "live.bench.test").is_ok_and(|code| code == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    // Some thousand requests a second: without a pause, clients and pods would take the cores from the gateway.
                    std::thread::sleep(Duration::from_micros(500));
                }
            });
        }
        let mut times = Times::default();
        for number in 0..options.tries.min(100) {
            let at = number % pods.len();
            let pod = &pods[at];
            let (changed, began) = (pod.began.elapsed(), Instant::now());
            writer.replace("endpointslices", slice("live", pods, &[at]).remove(at));
            std::thread::sleep(Duration::from_millis(200));
            times.whole.push(pod.last().saturating_sub(changed));
            times.of_server.extend(witness.seen_after(&format!("live-{at}"), began).map(|seen| seen - began));
            writer.replace("endpointslices", slice("live", pods, &[]).remove(at));
            std::thread::sleep(Duration::from_millis(100));
        }
        running.store(false, Ordering::Relaxed);
        times
    });
    println!("({})", work(&gateway.page()?));
    let mut met = times.verdict("pod not ready to its last request", NOT_READY_P99);
    let failed = failed.load(Ordering::Relaxed);
    met &= verdict("requests that failed meanwhile", failed.to_string(), "0".to_owned(), failed == 0);
    Ok(met)
}
