//! What picks and counts cost in memory: nothing per request, little per rule.

#[path = "benches/common/snapshots.rs"]
mod snapshots;

use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use tidegate::balance::{Pick, PickRequest};
use tidegate::live;
use tidegate::model::ids::RuleId;
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};

fn metrics(workers: usize) -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers, listeners: Vec::new(), max_series: 10_000 })
}

#[test]
fn picks_and_counts_allocate_nothing() {
    for (name, algorithm) in snapshots::algorithms() {
        let (mut publisher, mut feeds) = live::channel(1, metrics(1), tokio::time::Instant::now());
        let mut snapshot = snapshots::snapshot(1, 5, &algorithm);
        // A split, an unresolved share and a retry are part of it.
        let rules = std::sync::Arc::make_mut(&mut snapshot.rules);
        let reference = rules[0].backend_refs[0].clone();
        rules[1].backend_refs = vec![reference.clone(), reference];
        rules[1].backend_refs[1].backend = None;
        publisher.publish(snapshot);
        let cache = feeds.pop().expect("feed").into_cache(3);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut now = Duration::from_secs(1);
        let mut requests = |count: u32| {
            for hash in 0..count {
                let live = cache.current();
                for rule in [RuleId(0), RuleId(1)] {
                    now += Duration::from_millis(1);
                    let first =
                        PickRequest { hash: Some(u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)), avoid: &[] };
                    let Pick::Endpoint(picked) = live.pick(rule, &first, now, &mut rng) else { continue };
                    picked.endpoint.refused(now);
                    picked.endpoint.failed(now);
                    let retry = PickRequest { avoid: std::slice::from_ref(&picked.endpoint), ..first };
                    let Pick::Endpoint(again) = live.pick(rule, &retry, now, &mut rng) else { panic!("no retry") };
                    let in_flight = again.endpoint.begin();
                    again.endpoint.observe_latency(Duration::from_millis(3), now);
                    again.endpoint.succeeded(Duration::ZERO);
                    drop(in_flight);
                    live.record(rule, &http::Method::GET, 200, Duration::from_millis(3));
                }
            }
        };
        // A rule's cursors and cells come with its first requests.
        requests(50);
        let info = measure(|| requests(1_000));
        assert_eq!((info.count_total, info.bytes_total), (0, 0), "{name}");
    }
}

/// Besides the snapshot and the endpoints' own numbers, a rule may cost 1 KiB with everything that workers keep.
#[test]
fn a_rule_costs_little() {
    let workers = 2;
    let routes = 1_000;
    let rules = u64::from(routes) * 2;
    let metrics = metrics(workers);
    let mut kept = None;
    let (_, algorithm) = snapshots::algorithms().swap_remove(1);
    let snapshot = snapshots::snapshot(routes, 3, &algorithm);
    let at_rest = measure(|| {
        let (mut publisher, feeds) = live::channel(workers, Arc::clone(&metrics), tokio::time::Instant::now());
        publisher.publish(snapshot);
        let caches: Vec<_> = feeds.into_iter().map(|feed| feed.into_cache(0)).collect();
        caches.iter().for_each(|cache| drop(cache.current()));
        kept = Some((publisher, caches));
    });
    // Endpoint states are 384 bytes each with their counts, with 72 more for what the request path does not read, and
    // three of them stand for two rules here.
    let endpoints = u64::from(routes) * 3 * (384 + 72);
    let per_rule = (at_rest.bytes_current.unsigned_abs() - endpoints) / rules;
    assert!(per_rule <= 704, "{per_rule} bytes per rule at rest");
    let with_traffic = measure(|| {
        let (_, caches) = kept.as_ref().expect("built above");
        let mut rng = fastrand::Rng::with_seed(1);
        for cache in caches {
            let live = cache.current();
            for rule in (0..routes * 2).map(RuleId) {
                drop(live.pick(rule, &PickRequest::default(), Duration::from_secs(1), &mut rng));
            }
        }
    });
    let per_rule = per_rule + with_traffic.bytes_current.unsigned_abs() / rules;
    assert!(per_rule <= 1_024, "{per_rule} bytes per rule when all workers picked for it");
}
