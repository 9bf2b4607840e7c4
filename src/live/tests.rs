//! The pointer, what a request sees of it, and what survives a publication.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::*;
use crate::balance::endpoint_state::Fault;
use crate::balance::tests::snapshots::{Snapshots, hash_by_ip, number};
use crate::balance::{EndpointState, InFlight, Picked};
use crate::model::ids::EndpointKey;
use crate::model::policy::Algorithm;
use crate::model::route::Rule;
use crate::telemetry::metrics::MetricsOptions;

const NOW: Duration = Duration::from_secs(1);

fn metrics(workers: usize) -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers, listeners: Vec::new(), max_series: 10_000 })
}

fn one_rule(endpoints: impl IntoIterator<Item = u16>) -> Snapshot {
    Snapshots::default().backend("a", endpoints).rule("r", "0", Algorithm::RoundRobin, &[(Some("a"), 1, 0)]).snapshot()
}

fn pick(live: &WorkerLive, rule: u32) -> Option<Picked> {
    match live.pick(RuleId(rule), &PickRequest::default(), NOW, &mut fastrand::Rng::with_seed(1)) {
        Pick::Endpoint(picked) => Some(picked),
        Pick::NoEndpoints(_) | Pick::AtLimit(_) | Pick::NoBackend | Pick::MissingKey => None,
    }
}

fn pick_number(live: &WorkerLive) -> u16 {
    number(&pick(live, 0).expect("endpoint").endpoint)
}

#[test]
fn a_request_keeps_its_version_and_the_next_sees_the_new_one() {
    let (mut publisher, mut feeds) = channel(2, metrics(2), Instant::now());
    let other = feeds.pop().expect("feed").into_cache(0);
    let cache = feeds.pop().expect("feed").into_cache(0);
    assert_eq!(cache.current().version(), 0);
    assert!(matches!(
        cache.current().pick(RuleId(0), &PickRequest::default(), NOW, &mut fastrand::Rng::with_seed(1)),
        Pick::NoBackend
    ));
    assert_eq!(publisher.publish(one_rule([1, 2, 3])), 1);
    let request = cache.current();
    assert_eq!((request.version(), pick_number(&request)), (1, 1));
    assert!(Rc::ptr_eq(&request, &cache.current()), "nothing changed");
    assert_eq!(publisher.publish(one_rule([7])), 2);
    assert_eq!(publisher.view().current().version(), 2);
    assert_eq!(pick_number(&cache.current()), 7);
    // The old request still runs on what it began with.
    assert_eq!((request.version(), pick_number(&request)), (1, 2));
    // A worker that slept through a version gets the last one.
    assert_eq!(other.current().version(), 2);
    // What was published last is seen even when the publisher is gone.
    publisher.publish(one_rule([9]));
    drop(publisher);
    assert_eq!(pick_number(&cache.current()), 9);
    assert_eq!(pick_number(&cache.current()), 9);
}

#[test]
fn workers_begin_at_their_own_start() {
    let (mut publisher, feeds) = channel(3, metrics(3), Instant::now());
    publisher.publish(one_rule([1, 2, 3]));
    let picks: Vec<u16> =
        feeds.into_iter().zip([0, 2, 4]).map(|(feed, start)| pick_number(&feed.into_cache(start).current())).collect();
    assert_eq!(picks, [1, 3, 2]);
}

#[test]
fn the_last_holder_gives_a_version_back() {
    let (mut publisher, mut feeds) = channel(1, metrics(1), Instant::now());
    let cache = feeds.pop().expect("feed").into_cache(0);
    publisher.publish(one_rule([1]));
    let request = cache.current();
    let first = Arc::downgrade(request.live());
    publisher.publish(one_rule([2]));
    let _ = cache.current();
    drop(request);
    // The worker is done with it, and it is not the worker that dropped it.
    assert_eq!(first.strong_count(), 1);
    publisher.publish(one_rule([3]));
    assert_eq!(first.strong_count(), 0, "dropped at the next publication");
}

#[tokio::test]
async fn the_reaper_drops_what_comes_back() {
    let (mut publisher, mut feeds) = channel(1, metrics(1), Instant::now());
    let reaper = publisher.reaper().expect("first call");
    assert!(publisher.reaper().is_none());
    let cache = feeds.pop().expect("feed").into_cache(0);
    publisher.publish(one_rule([1]));
    let first = Arc::downgrade(cache.current().live());
    publisher.publish(one_rule([2]));
    let _ = cache.current();
    assert_eq!(first.strong_count(), 1);
    let mut view = publisher.view();
    view.reached(2).await.expect("published");
    drop((publisher, cache));
    reaper.run().await;
    assert_eq!(first.strong_count(), 0);
    assert_eq!(view.reached(3).await, Err(PublisherGone));
}

#[tokio::test]
async fn an_idle_worker_follows() {
    let (mut publisher, mut feeds) = channel(1, metrics(1), Instant::now());
    let cache = feeds.pop().expect("feed").into_cache(0);
    publisher.publish(one_rule([1]));
    let _ = cache.current();
    let first = Arc::downgrade(&publisher.view().current());
    let follower = async {
        cache.follow().await;
    };
    let publishing = async {
        tokio::task::yield_now().await;
        publisher.publish(one_rule([2]));
        tokio::task::yield_now().await;
        publisher.publish(one_rule([3]));
        // The publication before this one let go of the first version.
        assert_eq!(first.strong_count(), 0);
        drop(publisher);
    };
    tokio::join!(follower, publishing);
    assert_eq!(cache.current().version(), 3);
}

#[test]
fn cursors_follow_a_rule_by_name() {
    let rules = |names: &[&str]| {
        let mut snapshots = Snapshots::default().backend("a", 1..4);
        for name in names {
            snapshots = snapshots.rule("r", name, Algorithm::RoundRobin, &[(Some("a"), 1, 0)]);
        }
        snapshots.snapshot()
    };
    let (mut publisher, mut feeds) = channel(1, metrics(1), Instant::now());
    let cache = feeds.pop().expect("feed").into_cache(0);
    publisher.publish(rules(&["m"]));
    let old = cache.current();
    assert_eq!(pick_number(&old), 1);
    // Another rule comes before it.
    publisher.publish(rules(&["a", "m"]));
    let live = cache.current();
    let next = |live: &WorkerLive, rule| number(&pick(live, rule).expect("endpoint").endpoint);
    assert_eq!((next(&live, 1), next(&live, 0)), (2, 1));
    // A request on the old version shares the cursor.
    assert_eq!((pick_number(&old), next(&live, 1)), (3, 1));
    // Gone and back again: from the start.
    publisher.publish(rules(&["a"]));
    assert_eq!(next(&cache.current(), 0), 2);
    publisher.publish(rules(&["a", "m"]));
    let live = cache.current();
    assert_eq!((next(&live, 0), next(&live, 1)), (3, 1));
}

#[test]
fn metrics_follow_a_rule_by_name() {
    let metrics = metrics(2);
    let (mut publisher, mut feeds) = channel(2, Arc::clone(&metrics), Instant::now());
    let caches: Vec<LiveCache> = feeds.drain(..).map(|feed| feed.into_cache(0)).collect();
    publisher.publish(one_rule([1]));
    let record = |cache: &LiveCache, rule| cache.current().record(RuleId(rule), &http::Method::GET, 200, NOW);
    record(&caches[0], 0);
    record(&caches[1], 0);
    let with_more = Snapshots::default()
        .backend("a", [1])
        .rule("q", "0", Algorithm::Random, &[(Some("a"), 1, 0)])
        .rule("r", "0", Algorithm::Random, &[(Some("a"), 1, 0)]);
    publisher.publish(with_more.snapshot());
    record(&caches[1], 1);
    let line = r#"tidegate_requests_total{route="ns/r",rule="0",method="GET",code="2xx"}"#;
    assert!(metrics.render().contains(&format!("{line} 3\n")), "{}", metrics.render());
    assert!(metrics.render().contains("tidegate_config_version 2\n"));
    assert!(metrics.render().contains("tidegate_config_objects{kind=\"rule\"} 2\n"));
    publisher.publish(Snapshot::default());
    assert!(!metrics.render().contains("ns/r"), "gone with the route");
}

/// What the simulation knows of an endpoint beside its state.
struct Expected {
    state: Arc<EndpointState>,
    in_flight: u32,
    failures: u32,
    slowest: Option<Duration>,
}

/// 1,000 random publications, with picks, failures and answers on two workers in between: the state of an endpoint that
/// stays is the same one with the same numbers, and the cursor of a rule that stays goes on where it was.
#[test]
fn a_thousand_publications_reset_nothing() {
    let mut chance = fastrand::Rng::with_seed(20_26);
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut publisher, feeds) = channel(2, metrics(2), Instant::now());
    let caches: Vec<LiveCache> = feeds.into_iter().map(|feed| feed.into_cache(0)).collect();
    let mut config = Snapshots::default();
    let mut expected: HashMap<EndpointKey, Expected> = HashMap::new();
    let mut in_flight: Vec<InFlight> = Vec::new();
    // Whose turn it is on each worker, by route, for rules whose picks go round one backend.
    let mut turns: [BTreeMap<String, u16>; 2] = Default::default();
    let mut versions = [0; 2];
    let mut kept = 0;
    let mut went_on = 0;

    for version in 1..=1_000_u32 {
        mutate(&mut config, &mut chance);
        publisher.publish(config.snapshot());
        let live = publisher.view().current();
        let states: HashMap<&EndpointKey, &Arc<EndpointState>> = live
            .balancers()
            .backends()
            .iter()
            .flat_map(|backend| &backend.endpoints)
            .map(|state| (&state.key, state))
            .collect();
        // Those that are gone and that no request holds may begin anew when they come back, or may still be held by a
        // worker that has not looked since.
        let held: Vec<EndpointKey> = in_flight.iter().map(|guard| guard.endpoint().key.clone()).collect();
        expected.retain(|key, _| states.contains_key(key) || held.contains(key));
        for (key, expected) in &expected {
            let Some(state) = states.get(key) else { continue };
            assert!(Arc::ptr_eq(state, &expected.state), "version {version}: {key:?} has a new state");
            assert_eq!(state.in_flight(), expected.in_flight, "version {version}: {key:?}");
            assert_eq!(state.faults(Fault::Error), expected.failures, "version {version}: {key:?}");
            // The time stands still: the average of a peak-sensitive filter is the peak.
            let (seen, slowest) = (state.latency(NOW).unwrap_or_default(), expected.slowest.unwrap_or_default());
            assert!(
                seen.abs_diff(slowest) < Duration::from_micros(1),
                "version {version}: {key:?} {seen:?} {slowest:?}"
            );
            kept += 1;
        }
        drop(live);

        for _ in 0..chance.usize(..12) {
            let worker = chance.usize(..2);
            let live = caches[worker].current();
            if std::mem::replace(&mut versions[worker], live.version()) != live.version() {
                turns[worker].retain(|route, turn| match round_endpoints(&live, route) {
                    Some(endpoints) => {
                        let first = endpoints.first().copied().unwrap_or(0);
                        *turn = endpoints.iter().copied().find(|number| number >= turn).unwrap_or(first);
                        true
                    }
                    None => false,
                });
            }
            let rules = &live.snapshot().rules;
            if rules.is_empty() {
                break;
            }
            let rule = chance.usize(..rules.len());
            let request = PickRequest { hash: Some(chance.u64(..)), avoid: &[] };
            let Pick::Endpoint(picked) = live.pick(RuleId(rule as u32), &request, NOW, &mut rng) else { continue };
            let state = picked.endpoint;
            let known = expected.entry(state.key.clone()).or_insert_with(|| Expected {
                state: Arc::clone(&state),
                in_flight: state.in_flight(),
                failures: state.faults(Fault::Error),
                slowest: state.latency(NOW),
            });
            assert!(Arc::ptr_eq(&state, &known.state));
            match chance.u8(..4) {
                0 => {
                    state.failed(NOW);
                    state.faulted(Fault::Error);
                    known.failures += 1;
                }
                1 => {
                    let latency = Duration::from_millis(chance.u64(1..1_000));
                    state.observe_latency(latency, NOW);
                    known.slowest = known.slowest.max(Some(latency));
                }
                _ => {
                    in_flight.push(state.begin());
                    known.in_flight += 1;
                }
            }
            let route = live.snapshot().routes[rules[rule].route.index()].label.to_string();
            if &*rules[rule].name == "round" {
                let endpoints = round_endpoints(&live, &route).expect("rule");
                let first = *endpoints.first().expect("one was picked");
                let found = number(&state);
                let after = endpoints.iter().copied().find(|number| *number > found).unwrap_or(first);
                if let Some(turn) = turns[worker].insert(route, after) {
                    let turn = endpoints.iter().copied().find(|number| *number >= turn).unwrap_or(first);
                    assert_eq!(found, turn, "version {version}: {endpoints:?}");
                    went_on += 1;
                }
            }
        }
        for _ in 0..chance.usize(..8).min(in_flight.len()) {
            let done = in_flight.swap_remove(chance.usize(..in_flight.len()));
            expected.get_mut(&done.endpoint().key).expect("known").in_flight -= 1;
        }
    }
    assert!(kept > 5_000 && went_on > 500, "{kept} states and {went_on} cursors were followed");
}

/// The endpoints of a route's rule that goes round, sorted; `None` when there is no such rule.
fn round_endpoints(live: &WorkerLive, route: &str) -> Option<Vec<u16>> {
    let snapshot = live.snapshot();
    let of_route = |rule: &&Rule| &*rule.name == "round" && *snapshot.routes[rule.route.index()].label == *route;
    let rule = snapshot.rules.iter().find(of_route)?;
    let backend = snapshot.backend(rule.backend_refs[0].backend?)?;
    Some(backend.endpoints.iter().map(|endpoint| number(&EndpointState::new(endpoint.key.clone(), None))).collect())
}

/// Changes one thing.
fn mutate(config: &mut Snapshots, chance: &mut fastrand::Rng) {
    let backend = |chance: &mut fastrand::Rng| format!("b{}", chance.u8(..6));
    match chance.u8(..8) {
        // Endpoints come and go, also the last one.
        0..=4 => {
            let endpoints = config.backends.entry(backend(chance)).or_default();
            let endpoint = chance.u16(..40);
            match endpoints.iter().position(|known| *known == endpoint) {
                Some(index) => {
                    endpoints.swap_remove(index);
                }
                None => endpoints.push(endpoint),
            }
            if chance.u8(..10) == 0 {
                endpoints.truncate(1);
            }
        }
        // A rule comes, changes or goes.
        5 | 6 => {
            let route = format!("r{}", chance.u8(..6));
            let target = backend(chance);
            config.backends.entry(target.clone()).or_default();
            let rules = std::mem::take(config);
            *config = match chance.u8(..3) {
                // Its backend depends on the route's name alone, so that the cursor can be followed.
                0 => {
                    let fixed = route.replace('r', "b");
                    let mut rules = rules;
                    rules.backends.entry(fixed.clone()).or_default();
                    rules.rule(&route, "round", Algorithm::RoundRobin, &[(Some(fixed.as_str()), 1, 0)])
                }
                1 => rules.rule(&route, "hash", hash_by_ip(), &[(Some(target.as_str()), 1, 0), (None, 1, 0)]),
                _ => rules.rule(&route, "smooth", Algorithm::SmoothWeightedRoundRobin, &[(Some(&target), 1, 0)]),
            };
        }
        _ => {
            let names: Vec<_> = config.rules.keys().cloned().collect();
            if let Some(name) = chance.choice(names) {
                config.rules.remove(&name);
            }
        }
    }
}

/// A filter's state goes on by its key, whatever else changes; it ends with the last version that has it.
#[test]
fn the_state_of_a_filter_outlives_a_version() {
    use crate::filter::FilterState;
    use crate::model::filter::{Filter, FilterList, StateKey};
    use crate::model::ids::ObjectName;
    use std::sync::atomic::Ordering;

    let key = |place, position| StateKey { route: ObjectName::new("ns", "r"), place, filter: "Wait", position };
    let version = |keys: &[StateKey]| {
        let mut snapshot = one_rule([1]);
        let filters = keys.iter().map(|key| Filter::Wait(Arc::new(key.clone()))).collect();
        Arc::make_mut(&mut snapshot.rules)[0].filters = filters;
        snapshot
    };
    let count = |live: &WorkerLive, index: usize| {
        let FilterState::Count(count) = &**live.filter_states(RuleId(0), None)[index].as_ref().expect("a state") else {
            panic!("the state of another filter");
        };
        count.fetch_add(1, Ordering::Relaxed)
    };
    let (mut publisher, mut feeds) = channel(1, metrics(1), Instant::now());
    let cache = feeds.pop().expect("feed").into_cache(0);
    let (route, rule) = (key(FilterList::Route, 0), key(FilterList::Rule("0".into()), 0));
    publisher.publish(version(&[route.clone(), rule.clone()]));
    let first = cache.current();
    assert_eq!((count(&first, 0), count(&first, 1)), (0, 0));
    // At another index and beside another one; a running request counts on with it.
    publisher.publish(version(&[rule.clone(), key(FilterList::Rule("0".into()), 1)]));
    let second = cache.current();
    assert_eq!((count(&first, 1), count(&second, 0), count(&second, 1)), (1, 2, 0));
    // The route's state is gone once no version has it: a filter that comes back begins anew.
    drop(first);
    publisher.publish(version(&[rule]));
    publisher.publish(version(&[route]));
    drop(second);
    assert_eq!(count(&cache.current(), 0), 0);
}

/// Whatever comes, goes and stays: what has a name keeps its series, and the page shows what there is.
#[test]
fn series_follow_their_names() {
    let metrics = metrics(1);
    let (mut publisher, mut feeds) = channel(1, Arc::clone(&metrics), Instant::now());
    let cache = feeds.pop().expect("feed").into_cache(0);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..200 {
        let mut snapshots = Snapshots::default();
        let backends: Vec<&str> = ["a", "b", "c", "d"].into_iter().filter(|_| rng.bool()).collect();
        for backend in &backends {
            snapshots = snapshots.backend(backend, [1]);
        }
        let refs: Vec<_> = backends.iter().map(|backend| (Some(*backend), 1, 0)).collect();
        for (route, rule) in ["r", "s", "t"].into_iter().flat_map(|route| ["0", "1", "2"].map(|rule| (route, rule))) {
            if rng.u8(..3) > 0 {
                snapshots = snapshots.rule(route, rule, Algorithm::RoundRobin, &refs);
            }
        }
        publisher.publish(snapshots.snapshot());
        let live = cache.current();
        let snapshot = live.snapshot();
        let rules: Vec<String> = labels(snapshot).map(|(route, rule)| format!("{route}:{rule}")).collect();
        let services: Vec<String> = services(snapshot).map(ToString::to_string).collect();
        counts.retain(|name, _| rules.contains(name) || services.contains(name));
        for (id, name) in (0..).map(RuleId).zip(&rules) {
            live.record(id, &http::Method::GET, 200, Duration::ZERO);
            *counts.entry(name.clone()).or_default() += 1;
        }
        for (id, name) in (0..).map(BackendId).zip(&services) {
            live.record_backend(id, 200);
            *counts.entry(name.clone()).or_default() += 1;
        }
        let page = metrics.render();
        let shown = page.lines().filter_map(|line| {
            let (labels, value) = line.split_once("requests_total{")?.1.split_once("} ")?;
            let label =
                |name: &str| labels.split(',').find_map(|one| one.strip_prefix(name)).map(|it| it.trim_matches('"'));
            let name = match (label("route="), label("rule=")) {
                (Some(route), Some(rule)) => format!("{route}:{rule}"),
                _ => label("service=")?.to_owned(),
            };
            Some((name, value.parse::<f64>().ok()? as u64))
        });
        assert_eq!(shown.collect::<BTreeMap<String, u64>>(), counts);
    }
}
