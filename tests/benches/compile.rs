//! `cargo bench --bench compile`: the time to compile 5,000 two-rule routes with a Service and a slice each.
//!
//! Prints the median, the mean and the best. Ends with 1 when the median is above 30 ms: a change of one object compiles
//! everything, and has to be traffic within 100 ms. The allocator is the one that the program ships with, as in
//! `src/main.rs`: a good part of a compilation is allocation, and another allocator's numbers would not be the product's.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate::compile::compile;
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::kinds::Sourced;
use tidegate::model::ids::ObjectName;

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
        let metadata = json!({ "namespace": namespace, "name": name, "generation": 1, "uid": format!("uid-{n}"),
            "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60) });
        let route = json!({
            "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": metadata,
            "spec": { "hostnames": [format!("{name}.example.com")], "rules": [
                { "name": "api", "matches": [{ "path": { "type": "PathPrefix", "value": "/api" }, "method": "GET" }],
                  "timeouts": { "request": "5s" }, "backendRefs": [{ "name": name, "port": 80 }] },
                { "name": "site", "backendRefs": [{ "name": name, "port": 80, "weight": 9 }] }
            ] }
        });
        let service = json!({ "metadata": metadata, "spec": {
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
        inputs.objects.routes.insert(object.clone(), read(route));
        inputs.objects.services.insert(object.clone(), read(service));
        inputs.objects.slices.insert(ObjectName::new(object.namespace, format!("{name}-x")), read(slice));
    }
    inputs
}

fn main() -> ExitCode {
    let inputs = inputs(ROUTES);
    let output = compile(&inputs);
    let snapshot = &output.snapshot;
    assert_eq!((snapshot.routes.len(), snapshot.rules.len(), output.diagnostics.len()), (ROUTES, 2 * ROUTES, 0));
    assert!(snapshot.backends.iter().all(|backend| backend.endpoints.len() == 3), "every backend has its pods");
    assert!(Arc::ptr_eq(&snapshot.routers[0], &snapshot.routers[1]), "equal listeners share a router");
    drop(output);
    let start = Instant::now();
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begun = cpu_time(start);
            let output = compile(black_box(&inputs));
            let ended = cpu_time(start);
            black_box(output);
            ended - begun
        })
        .collect();
    times.sort();
    let (best, median) = (times[0], times[RUNS / 2]);
    // Some kernels count thread time in ticks of 4 ms: the mean tells what the median rounds.
    let mean = times.iter().sum::<Duration>() / RUNS as u32;
    println!(
        "compile of {ROUTES} two-rule routes: median {median:.1?}, mean {mean:.1?}, best {best:.1?} of CPU (bound {BOUND:?})"
    );
    if median > BOUND { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
