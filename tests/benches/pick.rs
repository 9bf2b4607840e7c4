//! `cargo bench --bench pick`: nanoseconds per pick by algorithm and number of endpoints, and per value of a session that is
//! read, and what a publication costs.

#[path = "common/snapshots.rs"]
mod snapshots;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::balance::{Pick, PickRequest, SessionKey, SessionValue, Times};
use tidegate::live;
use tidegate::model::backend::{BackendKey, Protocol};
use tidegate::model::ids::{EndpointKey, ObjectName, RuleId};
use tidegate::model::policy::Algorithm;
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};

const SIZES: [u32; 3] = [3, 100, 1_000];

fn main() {
    // Cargo passes `--bench`; there is nothing to choose.
    println!("ns per pick                {:>10} {:>10} {:>10}  endpoints", SIZES[0], SIZES[1], SIZES[2]);
    for (name, algorithm) in snapshots::algorithms() {
        let times = SIZES.map(|endpoints| pick(&algorithm, endpoints));
        println!("{name:<26} {:>10.1} {:>10.1} {:>10.1}", times[0], times[1], times[2]);
    }
    println!();
    let (plain, timed, id) = session();
    println!(
        "ns per value of a session: read {plain:.1}, read with times and signature {timed:.1}, id of a pod {id:.1}"
    );
    println!();
    println!("ms per publication of 5,000 two-rule routes with three endpoints each");
    for (name, algorithm) in snapshots::algorithms() {
        let (first, same, one_endpoint, worker) = publication(&algorithm);
        println!(
            "{name:<26} first {first:>7.2}, nothing changed {same:>7.2}, one endpoint {one_endpoint:>7.2}, taken over by a worker in {worker:>6.3}"
        );
    }
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers: 2, listeners: Vec::new(), max_series: 10_000 })
}

/// Nanoseconds that a pick and its request in flight take.
fn pick(algorithm: &Algorithm, endpoints: u32) -> f64 {
    const PICKS: u32 = 50_000;
    let (mut publisher, mut feeds) = live::channel(1, metrics(), tokio::time::Instant::now());
    publisher.publish(snapshots::snapshot(1, endpoints, algorithm));
    let cache = feeds.pop().expect("feed").into_cache(0);
    let mut rng = fastrand::Rng::with_seed(1);
    for backend in publisher.view().current().balancers().backends() {
        for endpoint in &backend.endpoints {
            endpoint.observe_latency(Duration::from_micros(rng.u64(500..5_000)), Duration::from_secs(1));
        }
    }
    let mut now = Duration::from_secs(2);
    // A few requests stay in flight, so that loads differ.
    let mut in_flight = std::collections::VecDeque::with_capacity(65);
    best((0..9).map(|_| {
        let start = Instant::now();
        for hash in 0..PICKS {
            now += Duration::from_micros(10);
            let live = cache.current();
            let request = PickRequest { hash: Some(u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)), avoid: &[] };
            if let Pick::Endpoint(picked) = live.pick(RuleId(0), &request, now, &mut rng) {
                in_flight.push_back(black_box(&picked.endpoint).begin());
            }
            if in_flight.len() > 64 {
                in_flight.pop_front();
            }
        }
        start.elapsed().as_nanos() as f64 / f64::from(PICKS)
    }))
}

/// Nanoseconds that reading the value of a session takes, without timeouts and with them, and making the id of a pod.
fn session() -> (f64, f64, f64) {
    const VALUES: u32 = 50_000;
    let key = SessionKey::default();
    let backend = BackendKey { service: ObjectName::new("shop", "web"), port: 80, protocol: Protocol::Http };
    let uid = Some("5b1e4f6c-6a0d-4c3c-8f0e-0d6a5c1b2e3f".into());
    let endpoint = EndpointKey { addr: "10.0.0.1:8080".parse().expect("address"), uid };
    let text = |times| {
        let mut text = Vec::new();
        SessionValue { id: key.id(&backend, &endpoint), times }.write(&key, &mut text);
        text
    };
    let time = |run: &dyn Fn()| {
        best((0..9).map(|_| {
            let start = Instant::now();
            (0..VALUES).for_each(|_| run());
            start.elapsed().as_nanos() as f64 / f64::from(VALUES)
        }))
    };
    let read = |text: &[u8]| time(&|| assert!(black_box(SessionValue::parse(black_box(text), &key)).is_some()));
    let plain = read(&text(None));
    let timed = read(&text(Some(Times { began: 1_700_000_000, sent: 1_700_000_100 })));
    (
        plain,
        timed,
        time(&|| {
            black_box(key.id(black_box(&backend), black_box(&endpoint)));
        }),
    )
}

/// Milliseconds of a first publication, of one without and one with a change, and of a worker's step to the last one.
fn publication(algorithm: &Algorithm) -> (f64, f64, f64, f64) {
    const ROUTES: u32 = 5_000;
    let snapshot = snapshots::snapshot(ROUTES, 3, algorithm);
    let mut changed = snapshot.clone();
    let backends = std::sync::Arc::make_mut(&mut changed.backends);
    backends[77].endpoints = backends[77].endpoints[1..].into();
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..7 {
        let (mut publisher, mut feeds) = live::channel(1, metrics(), tokio::time::Instant::now());
        let cache = feeds.pop().expect("feed").into_cache(0);
        let [first, second, third] = [snapshot.clone(), snapshot.clone(), changed.clone()].map(std::cell::Cell::new);
        times[0].push(time(&mut || {
            black_box(publisher.publish(first.take()));
        }));
        let mut rng = fastrand::Rng::with_seed(1);
        let live = cache.current();
        for rule in (0..ROUTES * 2).map(RuleId) {
            black_box(live.pick(rule, &PickRequest::default(), Duration::from_secs(1), &mut rng));
        }
        drop(live);
        times[1].push(time(&mut || {
            black_box(publisher.publish(second.take()));
        }));
        times[2].push(time(&mut || {
            black_box(publisher.publish(third.take()));
        }));
        times[3].push(time(&mut || drop(black_box(cache.current()))));
    }
    let [first, same, one_endpoint, worker] = times.map(|times| best(times.into_iter()));
    (first, same, one_endpoint, worker)
}

/// The best of some rounds: what disturbs them only ever adds.
fn best(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
