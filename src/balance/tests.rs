//! Sequences, shares and fallbacks of all algorithms, through the state that a worker keeps for a rule.

mod conditions;
mod hash;
mod health;
mod limits;
pub(crate) mod snapshots;
mod spread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::ids::{BackendId, RuleId};
use crate::model::policy::{Algorithm, OnMissingKey, Policy};
use crate::model::route::WeightedBackend;
use crate::model::snapshot::Snapshot;
use endpoint_state::{ENDPOINT_WEIGHT, REFUSED_FOR};
use snapshots::{Snapshots, hash_by_ip, number};

const NOW: Duration = Duration::from_secs(100);

/// A rule with its state on one worker.
struct Bed {
    registry: EndpointRegistry,
    snapshot: Snapshot,
    balancers: Balancers,
    state: RuleState,
    rng: fastrand::Rng,
    now: Duration,
}

impl Bed {
    fn new(snapshots: &Snapshots) -> Self {
        Self::starting_at(snapshots, 0)
    }

    fn starting_at(snapshots: &Snapshots, start: u32) -> Self {
        let mut registry = EndpointRegistry::default();
        let snapshot = snapshots.snapshot();
        let balancers = registry.build(&snapshot, None, NOW);
        let state = RuleState::new(Arc::clone(balancers.rule(RuleId(0)).expect("rule")), start);
        Self { registry, snapshot, balancers, state, rng: fastrand::Rng::with_seed(7), now: NOW }
    }

    /// Publishes the next snapshot, as far as the first rule is concerned.
    fn publish(&mut self, snapshots: &Snapshots) {
        self.publish_snapshot(snapshots.snapshot());
    }

    fn publish_snapshot(&mut self, snapshot: Snapshot) {
        let previous = Previous { snapshot: &self.snapshot, balancers: &self.balancers, rule: &Some };
        self.balancers = self.registry.build(&snapshot, Some(previous), NOW);
        self.snapshot = snapshot;
        self.state = self.state.update(Arc::clone(self.balancers.rule(RuleId(0)).expect("rule")), 0);
    }

    fn refs(&self) -> &[WeightedBackend] {
        &self.snapshot.rules[0].backend_refs
    }

    fn ask(&mut self, request: PickRequest<'_>) -> Pick {
        self.state.pick(&self.snapshot.rules[0], &request, self.now, &mut self.rng)
    }

    /// The next pick of a request without a key, that must lead to an endpoint.
    fn pick(&mut self) -> Picked {
        match self.ask(PickRequest::default()) {
            Pick::Endpoint(picked) => picked,
            other => panic!("{other:?}"),
        }
    }

    /// One digit a pick: the endpoint's number, `-` for 503, `x` for 500, `?` for 400.
    fn sequence(&mut self, count: usize) -> String {
        (0..count).map(|_| symbol(&self.ask(PickRequest::default()))).collect()
    }

    /// The state of an endpoint by number.
    fn endpoint(&self, wanted: u16) -> Arc<EndpointState> {
        let mut all = self.balancers.backends().iter().flat_map(|backend| &backend.endpoints);
        Arc::clone(all.find(|endpoint| number(endpoint) == wanted).expect("endpoint"))
    }

    /// How often each endpoint comes in so many picks.
    fn counts(&mut self, picks: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(number(&self.pick().endpoint)).or_default() += 1;
        }
        counts
    }
}

fn symbol(pick: &Pick) -> char {
    match pick {
        Pick::Endpoint(picked) => char::from_digit(number(&picked.endpoint).into(), 36).expect("number below 36"),
        Pick::NoEndpoints(_) => '-',
        Pick::AtLimit(_) => '!',
        Pick::NoBackend => 'x',
        Pick::MissingKey => '?',
    }
}

/// Pearson's statistic of counts against expected shares.
fn chi_square(counts: &BTreeMap<u16, usize>, shares: &[(u16, f64)]) -> f64 {
    let total = counts.values().sum::<usize>() as f64;
    let sum: f64 = shares.iter().map(|(_, share)| share).sum();
    shares
        .iter()
        .map(|(number, share)| {
            let expected = total * share / sum;
            let found = counts.get(number).copied().unwrap_or(0) as f64;
            (found - expected).powi(2) / expected
        })
        .sum()
}

const ALL: [Algorithm; 5] = [
    Algorithm::Random,
    Algorithm::RoundRobin,
    Algorithm::SmoothWeightedRoundRobin,
    Algorithm::LeastRequest,
    Algorithm::PeakEwma,
];

/// All registered algorithms.
fn algorithms() -> impl Iterator<Item = Algorithm> {
    ALL.into_iter().chain([hash_by_ip()])
}

fn one_backend(algorithm: Algorithm, endpoints: u16) -> Snapshots {
    Snapshots::default().backend("a", 0..endpoints).rule("r", "0", algorithm, &[(Some("a"), 1, 0)])
}

#[test]
fn every_registered_name_has_an_algorithm_that_picks() {
    assert_eq!(algorithms().count(), Algorithm::NAMES.len());
    for algorithm in algorithms() {
        let mut bed = Bed::new(&one_backend(algorithm.clone(), 3));
        for hash in [None, Some(42)] {
            let pick = bed.ask(PickRequest { hash, avoid: &[] });
            assert!(matches!(pick, Pick::Endpoint(_)), "{algorithm:?}: {pick:?}");
        }
    }
}

#[test]
fn exact_sequences() {
    for (algorithm, start, sequence) in [
        (Algorithm::RoundRobin, 0, "012301230123"),
        (Algorithm::RoundRobin, 2, "230123012301"),
        (Algorithm::RoundRobin, 4_000_000_003, "301230123012"),
        (Algorithm::SmoothWeightedRoundRobin, 0, "012301230123"),
        (Algorithm::SmoothWeightedRoundRobin, 3, "301230123012"),
    ] {
        let mut bed = Bed::starting_at(&one_backend(algorithm.clone(), 4), start);
        assert_eq!(bed.sequence(12), sequence, "{algorithm:?} from {start}");
    }
}

#[test]
fn weights_split_between_backends_smoothly() {
    let snapshots = Snapshots::default().backend("a", [10]).backend("b", [11]).backend("c", [12]).rule(
        "r",
        "0",
        Algorithm::RoundRobin,
        &[(Some("a"), 5, 0), (Some("b"), 1, 0), (Some("c"), 1, 0)],
    );
    let mut bed = Bed::new(&snapshots);
    assert_eq!(bed.sequence(14), "aabacaaaabacaa");
    let picked = bed.pick();
    assert_eq!((picked.backend, picked.backend_ref), (BackendId(0), 0));
}

/// A request that finds no endpoint belongs to the backend whose turn it was, also where a key would have decided.
#[test]
fn without_an_endpoint_the_chosen_backend_is_known() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest, hash_by_ip()] {
        let refs = [(Some("a"), 2, 0), (Some("b"), 1, 0)];
        let snapshots = Snapshots::default().backend("a", []).backend("b", []).rule("r", "0", algorithm, &refs);
        let mut bed = Bed::new(&snapshots);
        let mut counts = [0; 2];
        for _ in 0..30 {
            match bed.ask(PickRequest { hash: Some(7), ..PickRequest::default() }) {
                Pick::NoEndpoints(Some(backend)) => counts[backend.index()] += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(counts, [20, 10]);
    }
}

#[test]
fn failures_lower_a_share_and_picks_restore_it() {
    let mut bed = Bed::new(&one_backend(Algorithm::SmoothWeightedRoundRobin, 3));
    let failing = bed.endpoint(0);
    for _ in 0..3 {
        failing.failed(NOW);
    }
    assert_eq!(failing.effective_weight(), 1);
    // It is not picked again before its current weight has caught up with the two others', then ever more often.
    assert_eq!(bed.sequence(60), "121212121212012121212120121212120121212012120121201212012120");
    assert_eq!(failing.effective_weight(), 61);
    bed.sequence(200);
    assert_eq!(failing.effective_weight(), ENDPOINT_WEIGHT);
    let counts = bed.counts(300);
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [100, 100, 100]);
}

/// An endpoint that always fails keeps the share that recovers between two failures: here one pick in 21 instead of
/// one in three.
#[test]
fn a_dead_endpoint_is_tried_now_and_then() {
    let mut bed = Bed::new(&one_backend(Algorithm::SmoothWeightedRoundRobin, 3));
    let mut tried = 0;
    for _ in 0..3_300 {
        let picked = bed.pick();
        if number(&picked.endpoint) == 1 {
            picked.endpoint.failed(bed.now);
            tried += 1;
        }
    }
    assert!((100..=200).contains(&tried), "{tried}");
}

/// The module against nginx's loop as it stands in ngx_http_upstream_get_peer.
#[test]
fn smooth_weights_equal_the_plain_loop() {
    let mut bed = Bed::new(&one_backend(Algorithm::SmoothWeightedRoundRobin, 5));
    let mut peers = [(0_i64, 100_i64); 5];
    let mut chance = fastrand::Rng::with_seed(3);
    for step in 0..5_000 {
        if chance.u8(..8) == 0 {
            let failing = chance.u16(..5);
            bed.endpoint(failing).failed(NOW);
            let effective = &mut peers[usize::from(failing)].1;
            *effective = (*effective - 33).max(0);
        }
        let mut total = 0;
        let mut best: Option<usize> = None;
        for index in 0..peers.len() {
            total += peers[index].1;
            peers[index].0 += peers[index].1;
            if peers[index].1 < 100 {
                peers[index].1 += 1;
            }
            if best.is_none_or(|best| peers[index].0 > peers[best].0) {
                best = Some(index);
            }
        }
        let best = best.expect("five");
        peers[best].0 -= total;
        assert_eq!(usize::from(number(&bed.pick().endpoint)), best, "step {step}");
    }
}

#[test]
fn random_is_uniform() {
    let mut bed = Bed::new(&one_backend(Algorithm::Random, 10));
    let shares: Vec<(u16, f64)> = (0..10).map(|number| (number, 1.0)).collect();
    let counts = bed.counts(20_000);
    // 0.999 quantile with 9 degrees of freedom.
    assert!(chi_square(&counts, &shares) < 27.9, "{counts:?}");
    // What a refused one leaves is spread evenly, too.
    bed.endpoint(4).refused(NOW);
    let counts = bed.counts(20_000);
    let shares: Vec<(u16, f64)> = shares.into_iter().filter(|(number, _)| *number != 4).collect();
    assert_eq!(counts.get(&4), None);
    assert!(chi_square(&counts, &shares) < 26.1, "{counts:?}");
}

#[test]
fn least_request_takes_the_less_loaded_of_two() {
    let mut bed = Bed::new(&one_backend(Algorithm::LeastRequest, 4));
    let _in_flight: Vec<InFlight> =
        (0..4).flat_map(|number| (0..number).map(move |_| number)).map(|number| bed.endpoint(number).begin()).collect();
    let counts = bed.counts(12_000);
    // Of six equally likely pairs endpoint 0 wins three, 1 two, 2 one; 3 none.
    assert!(chi_square(&counts, &[(0, 3.0), (1, 2.0), (2, 1.0)]) < 13.8, "{counts:?}");
    assert_eq!(counts.get(&3), None);
}

#[test]
fn least_request_weighs_failures_until_picks_have_forgotten_them() {
    let mut bed = Bed::new(&one_backend(Algorithm::LeastRequest, 2));
    bed.endpoint(0).failed(NOW);
    // Both are looked at with each pick, so 33 of them raise 67 to 100 again.
    assert_eq!(bed.counts(33), BTreeMap::from([(1, 33)]));
    assert_eq!(bed.endpoint(0).effective_weight(), 100);
    let counts = bed.counts(4_000);
    assert!(chi_square(&counts, &[(0, 1.0), (1, 1.0)]) < 10.8, "{counts:?}");
    // With a third of the weight, one to come is as much as three: (0 + 1) / 34 against (1 + 1) / 100.
    (0..2).for_each(|_| bed.endpoint(0).failed(NOW));
    let busy = bed.endpoint(1);
    let _in_flight = busy.begin();
    assert_eq!(bed.counts(1), BTreeMap::from([(1, 1)]));
    let _more = [busy.begin(), busy.begin()];
    assert_eq!(bed.counts(1), BTreeMap::from([(0, 1)]), "(0 + 1) / 35 against (3 + 1) / 100");
    // One that has failed for long is taken when the others have a hundred times as much to do.
    (0..5).for_each(|_| bed.endpoint(0).failed(NOW));
    assert_eq!(bed.counts(1), BTreeMap::from([(1, 1)]));
}

#[test]
fn least_request_shares_equal_load_evenly() {
    let mut bed = Bed::new(&one_backend(Algorithm::LeastRequest, 3));
    let counts = bed.counts(9_000);
    assert!(chi_square(&counts, &[(0, 1.0), (1, 1.0), (2, 1.0)]) < 13.8, "{counts:?}");
}

#[test]
fn peak_ewma_takes_the_cheaper_of_two() {
    let mut bed = Bed::new(&one_backend(Algorithm::PeakEwma, 3));
    for (number, millis) in [(0, 10), (1, 20), (2, 100)] {
        bed.endpoint(number).observe_latency(Duration::from_millis(millis), NOW);
    }
    let counts = bed.counts(6_000);
    assert!(chi_square(&counts, &[(0, 2.0), (1, 1.0)]) < 10.8, "{counts:?}");
    assert_eq!(counts.get(&2), None);
    // Two in flight make the first the dearer one: 30 ms against 20.
    let loaded = bed.endpoint(0);
    let _in_flight = [loaded.begin(), loaded.begin()];
    let counts = bed.counts(6_000);
    assert!(chi_square(&counts, &[(1, 2.0), (0, 1.0)]) < 10.8, "{counts:?}");
    // One slow answer counts at once, and half a minute later it is forgotten.
    bed.endpoint(1).observe_latency(Duration::from_secs(2), NOW);
    let counts = bed.counts(6_000);
    assert!(chi_square(&counts, &[(0, 2.0), (2, 1.0)]) < 10.8, "{counts:?}");
    bed.now += Duration::from_secs(30);
    bed.endpoint(0).observe_latency(Duration::from_millis(100), bed.now);
    bed.endpoint(2).observe_latency(Duration::from_millis(200), bed.now);
    let counts = bed.counts(6_000);
    assert!(chi_square(&counts, &[(1, 2.0), (2, 1.0)]) < 10.8, "{counts:?}");
}

#[test]
fn peak_ewma_compares_unknown_latencies_by_load() {
    let mut bed = Bed::new(&one_backend(Algorithm::PeakEwma, 2));
    bed.endpoint(0).observe_latency(Duration::from_micros(10), NOW);
    let counts = bed.counts(4_000);
    assert!(chi_square(&counts, &[(0, 1.0), (1, 1.0)]) < 10.8, "{counts:?}");
    let _in_flight = bed.endpoint(1).begin();
    assert_eq!(bed.counts(100), BTreeMap::from([(0, 100)]));
}

#[test]
fn tiers_and_shares_without_endpoints() {
    // Backends: a has endpoint 10, b has 11, e is empty; None cannot be resolved.
    for (case, refs, sequence) in [
        ("no refs", &[][..], "xxxx"),
        ("unresolved only", &[(None, 1, 0)], "xxxx"),
        ("empty only", &[(Some("e"), 1, 0)], "----"),
        ("500 in proportion", &[(Some("a"), 3, 0), (None, 1, 0)], "aaxaaaxa"),
        ("503 in proportion", &[(Some("a"), 3, 0), (Some("e"), 1, 0)], "aa-aaa-a"),
        ("both", &[(Some("e"), 1, 0), (None, 1, 0)], "-x-x"),
        ("lowest tier", &[(Some("b"), 1, 1), (Some("a"), 1, 0)], "aaaa"),
        ("empty tier", &[(Some("e"), 9, 0), (Some("b"), 1, 1)], "bbbb"),
        ("unresolved tier", &[(None, 9, 0), (Some("b"), 1, 2), (Some("a"), 1, 3)], "bbbb"),
        ("usable by one", &[(Some("a"), 1, 0), (Some("e"), 1, 0), (Some("b"), 1, 1)], "a-a-"),
        ("no tier usable", &[(Some("e"), 1, 2), (None, 1, 1)], "xxxx"),
    ] {
        for algorithm in algorithms() {
            let snapshots = Snapshots::default().backend("a", [10]).backend("b", [11]).backend("e", []).rule(
                "r",
                "0",
                algorithm.clone(),
                refs,
            );
            assert_eq!(Bed::new(&snapshots).sequence(sequence.len()), sequence, "{case}, {algorithm:?}");
        }
    }
}

#[test]
fn cursors_go_on_behind_a_publication() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::SmoothWeightedRoundRobin] {
        let with = |endpoints: &[u16]| {
            Snapshots::default().backend("a", endpoints.iter().copied()).rule(
                "r",
                "0",
                algorithm.clone(),
                &[(Some("a"), 1, 0)],
            )
        };
        let mut bed = Bed::new(&with(&[1, 3, 5, 7]));
        assert_eq!(bed.sequence(2), "13", "{algorithm:?}");
        // 5 is next, and still is with newcomers on both sides.
        bed.publish(&with(&[0, 1, 3, 5, 7, 9]));
        assert_eq!(bed.sequence(1), "5", "{algorithm:?}");
        bed.publish(&with(&[0, 1, 3, 5, 7, 9]));
        assert_eq!(bed.sequence(1), "7", "{algorithm:?}");
    }
    let with = |endpoints: &[u16]| {
        Snapshots::default().backend("a", endpoints.iter().copied()).rule(
            "r",
            "0",
            Algorithm::RoundRobin,
            &[(Some("a"), 1, 0)],
        )
    };
    for (before, after, next) in [
        (&[1, 3, 5][..], &[1, 5][..], "5151"),
        (&[1, 3, 5], &[1, 2], "1212"),
        (&[1, 3], &[], "----"),
        (&[1, 3], &[4], "4444"),
        (&[], &[2, 3], "2323"),
    ] {
        let mut bed = Bed::new(&with(before));
        bed.sequence(1);
        bed.publish(&with(after));
        assert_eq!(bed.sequence(4), next, "{before:?} to {after:?}");
    }
}

#[test]
fn the_split_goes_on_behind_a_publication() {
    let with = |refs: &[(Option<&str>, u32, u8)]| {
        Snapshots::default().backend("a", [10]).backend("b", [11]).backend("c", [12]).backend("d", [13]).rule(
            "r",
            "0",
            Algorithm::RoundRobin,
            refs,
        )
    };
    let mut bed = Bed::new(&with(&[(Some("a"), 5, 0), (Some("b"), 1, 0), (Some("c"), 1, 0)]));
    assert_eq!(bed.sequence(3), "aab");
    // Another order, and another backend in the table: the sequence goes on.
    bed.publish(&with(&[(Some("c"), 1, 0), (Some("a"), 5, 0), (Some("b"), 1, 0)]));
    assert_eq!(bed.sequence(4), "acaa");
    // A canary that comes in begins at 0.
    bed.publish(&with(&[(Some("a"), 1, 0), (Some("d"), 1, 0)]));
    assert_eq!(bed.sequence(4), "adad");
    assert_eq!(bed.refs().len(), 2);
}

#[test]
fn what_did_not_change_is_shared() {
    let snapshots = |extra: u16| {
        Snapshots::default()
            .backend("a", 0..3)
            .backend("b", [10, 11, extra])
            .rule("r", "0", hash_by_ip(), &[(Some("a"), 1, 0)])
            .rule("r", "1", Algorithm::LeastRequest, &[(Some("a"), 1, 0), (Some("b"), 1, 0)])
    };
    let mut registry = EndpointRegistry::default();
    let first = snapshots(12).snapshot();
    let one = registry.build(&first, None, NOW);
    let second = snapshots(13).snapshot();
    let previous = Previous { snapshot: &first, balancers: &one, rule: &Some };
    let two = registry.build(&second, Some(previous), NOW);
    let same = |rule| Arc::ptr_eq(one.rule(RuleId(rule)).expect("rule"), two.rule(RuleId(rule)).expect("rule"));
    assert!(same(0), "nothing of the first rule changed");
    assert!(!same(1), "an endpoint of the second rule changed");
    assert!(Arc::ptr_eq(&one.backends()[0], &two.backends()[0]));
    assert!(Arc::ptr_eq(&one.backends()[1].endpoints[0], &two.backends()[1].endpoints[0]));
}

#[test]
fn states_that_nobody_holds_are_forgotten() {
    let mut registry = EndpointRegistry::default();
    let mut before: Option<(Snapshot, Balancers)> = None;
    for round in 0..200 {
        let snapshot = one_backend(Algorithm::Random, 0).backend("b", round * 10..round * 10 + 10).snapshot();
        let previous = before.as_ref().map(|(snapshot, balancers)| Previous { snapshot, balancers, rule: &|_| None });
        let balancers = registry.build(&snapshot, previous, NOW);
        before = Some((snapshot, balancers));
        assert!(registry.len() <= 2 * 10 + 64 + 10, "{}", registry.len());
    }
    assert!(!registry.is_empty());
}

#[test]
fn a_new_fallback_address_reaches_the_kept_state() {
    let mut registry = EndpointRegistry::default();
    let first = one_backend(Algorithm::Random, 1).snapshot();
    let one = registry.build(&first, None, NOW);
    let mut second = first.clone();
    let fallback = "[fd00::1]:80".parse().expect("address");
    let mut endpoint = second.backends[0].endpoints[0].clone();
    endpoint.fallback = Some(Box::new(fallback));
    Arc::make_mut(&mut second.backends)[0].endpoints = [endpoint].into();
    let two = registry.build(&second, Some(Previous { snapshot: &first, balancers: &one, rule: &Some }), NOW);
    let (old, new) = (&one.backends()[0].endpoints[0], &two.backends()[0].endpoints[0]);
    assert!(Arc::ptr_eq(old, new));
    assert_eq!(new.fallback(), Some(fallback));
}

#[test]
fn newcomers_have_an_age() {
    let with = |endpoints: std::ops::Range<u16>| one_backend(Algorithm::Random, 0).backend("a", endpoints);
    let mut bed = Bed::new(&with(0..2));
    bed.publish(&with(0..3).backend("b", 7..8));
    let age = |number| bed.endpoint(number).age(NOW + Duration::from_secs(4));
    assert_eq!(age(1), None, "of the first publication");
    assert_eq!(age(2), Some(Duration::from_secs(4)));
    assert_eq!(age(7), None, "of a backend's first appearance");
}
