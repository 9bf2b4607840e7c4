//! `cargo bench --bench compile`: the time to compile 5,000 two-rule routes with a Service and a slice each, and what
//! one more route costs after that: to compile, to publish, and to take over in a worker; with 5,000 and 40,000 routes.
//!
//! Prints the median, the mean and the best. Ends with 1 when the median of all routes is above 30 ms, since a start has
//! to be quick. The allocator is the one that the program ships with, as in `src/main.rs`: a good part of a compilation
//! is allocation, and another allocator's numbers would not be the product's. `--only all|change` runs a part.

use std::fmt;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::compile::{Compiler, compile};
use tidegate::kinds::Sourced;
use tidegate::live;
use tidegate::model::ids::ObjectName;
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ROUTES: usize = 5_000;

const BOUND: Duration = Duration::from_millis(30);

/// Odd, so that there is a median.
const RUNS: usize = 41;

/// Time that this thread was on a processor: what others do on the machine does not count. From the start of the
/// process where the kernel does not say.
fn cpu_time(start: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn read<T: DeserializeOwned>(value: Value) -> Sourced<T> {
    Sourced { object: Arc::new(serde_json::from_value(value).expect("a manifest")), origin: None }
}

/// Routes of two rules, each with a Service of its own with three pods, on two listeners.
fn inputs(routes: usize) -> Inputs {
    let listener = |name: &str| StaticListener { name: name.into(), ..StaticListener::default() };
    let mut inputs = Inputs {
        listeners: vec![listener("http"), listener("internal")],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    for n in 0..routes {
        let (namespace, name) = (format!("team-{}", n % 50), format!("app-{n}"));
        let object = ObjectName::new(namespace.as_str(), name.as_str());
        let service = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": {
            "selector": { "app": name }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } });
        let pod = |pod: usize| {
            json!({ "addresses": [format!("10.{}.{}.{}", n / 250, n % 250, pod + 1)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "name": format!("{name}-{pod}"), "uid": format!("{n}-{pod}") } })
        };
        let slice = json!({
            "metadata": { "namespace": namespace, "name": format!("{name}-x"), "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": (0..3).map(pod).collect::<Vec<_>>() });
        inputs.objects.routes.insert(object.clone(), read(route(n, &namespace, &name, &name)));
        inputs.objects.services.insert(object.clone(), read(service));
        inputs.objects.slices.insert(ObjectName::new(object.namespace, format!("{name}-x")), read(slice));
    }
    inputs
}

fn route(n: usize, namespace: &str, name: &str, service: &str) -> Value {
    let created = format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
    json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute",
        "metadata": { "namespace": namespace, "name": name, "generation": 1, "uid": format!("uid-{n}"),
            "creationTimestamp": created },
        "spec": { "hostnames": [format!("{name}.example.com")], "rules": [
            { "name": "api", "matches": [{ "path": { "type": "PathPrefix", "value": "/api" }, "method": "GET" }],
              "timeouts": { "request": "5s" }, "backendRefs": [{ "name": service, "port": 80 }] },
            { "name": "site", "backendRefs": [{ "name": service, "port": 80, "weight": 9 }] }
        ] }
    })
}

/// The middle, the mean and the best of some times.
struct Times {
    median: Duration,
    mean: Duration,
    best: Duration,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        // Some kernels count thread time in ticks of 4 ms: the mean tells what the median rounds.
        let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(u32::MAX);
        Self { median: times[times.len() / 2], mean, best: times[0] }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, mean, best } = self;
        write!(f, "median {median:.1?}, mean {mean:.1?}, best {best:.1?}")
    }
}

/// All routes, from nothing; whether the bound is met.
fn all(inputs: &Inputs) -> bool {
    let output = compile(inputs);
    let snapshot = &output.snapshot;
    assert_eq!((snapshot.routes.len(), snapshot.rules.len(), output.diagnostics.len()), (ROUTES, 2 * ROUTES, 0));
    assert!(snapshot.backends.iter().all(|backend| backend.endpoints.len() == 3), "every backend has its pods");
    assert!(Arc::ptr_eq(&snapshot.routers[0], &snapshot.routers[1]), "equal listeners share a router");
    drop(output);
    let start = Instant::now();
    let once = |_| {
        let begun = cpu_time(start);
        let output = compile(black_box(inputs));
        let ended = cpu_time(start);
        black_box(output);
        ended - begun
    };
    let times = Times::of((0..RUNS).map(once).collect());
    println!("compile of {ROUTES} two-rule routes: {times} of CPU (bound {BOUND:?})");
    times.median <= BOUND
}

/// One route that comes and goes again among others.
fn change(mut inputs: Inputs) {
    let routes = inputs.objects.routes.len();
    let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10_000 });
    let (mut publisher, feeds) = live::channel(1, metrics, tokio::time::Instant::now());
    let caches: Vec<_> = feeds.into_iter().map(|feed| feed.into_cache(0)).collect();
    let mut compiler = Compiler::default();
    publisher.publish(compiler.compile(&inputs).snapshot);
    caches.iter().for_each(|cache| drop(cache.current()));
    // In the middle of all names, so that the numbers of half of all routes change.
    let (namespace, name) = ("team-25", "further");
    let object = ObjectName::new(namespace, name);
    let further = read(route(routes, namespace, name, "app-25"));
    let start = Instant::now();
    let (mut compiled, mut published, mut taken, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..2 * RUNS {
        match number % 2 {
            0 => drop(inputs.objects.routes.insert(object.clone(), further.clone())),
            _ => drop(inputs.objects.routes.remove(&object)),
        }
        let begun = cpu_time(start);
        let output = compiler.compile(black_box(&inputs));
        let is_compiled = cpu_time(start);
        assert_eq!(output.snapshot.routes.len(), routes + 1 - number % 2);
        let before = cpu_time(start);
        publisher.publish(output.snapshot);
        let is_published = cpu_time(start);
        caches.iter().for_each(|cache| drop(cache.current()));
        let is_taken = cpu_time(start);
        compiled.push(is_compiled - begun);
        published.push(is_published - before);
        taken.push(is_taken - is_published);
        whole.push(is_compiled - begun + (is_taken - before));
    }
    println!("one route more or less among {routes}: {} of CPU", Times::of(whole));
    println!("  to compile: {}", Times::of(compiled));
    println!("  to publish: {}", Times::of(published));
    println!("  to take over in a worker: {}", Times::of(taken));
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    let runs = |part: &str| only.is_none_or(|only| only == part);
    let mut met = true;
    if runs("all") {
        met &= all(&inputs(ROUTES));
    }
    if runs("change") {
        change(inputs(ROUTES));
        change(inputs(8 * ROUTES));
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
