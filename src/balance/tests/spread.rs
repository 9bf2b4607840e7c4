//! Slow start, near endpoints and sessions: what stands before, behind and beside the algorithms.

use super::*;
use crate::balance::Condition;
use crate::model::backend::Near;
use crate::model::policy::{Locality, LocalityMode, Spread};

const S: Duration = Duration::from_secs(1);

fn slow(algorithm: Algorithm, endpoints: u16) -> Snapshots {
    let spread = Spread { slow_start: Some(100 * S), ..Spread::default() };
    Snapshots { spread, ..one_backend(algorithm, endpoints) }
}

/// Ten endpoints of which the last one came this long ago.
fn with_newcomer(algorithm: Algorithm, age: Duration) -> Bed {
    let mut bed = Bed::new(&slow(algorithm.clone(), 9));
    bed.publish(&slow(algorithm, 10));
    bed.now += age;
    bed
}

#[test]
fn a_newcomer_gets_the_share_of_its_age() {
    let picks = 100_000;
    for algorithm in [Algorithm::Random, Algorithm::RoundRobin, Algorithm::SmoothWeightedRoundRobin] {
        for (age, f) in [(0, 0.1), (50, 0.5), (90, 0.9), (100, 1.0)] {
            let mut bed = with_newcomer(algorithm.clone(), age * S);
            let counts = bed.counts(picks);
            let share: f64 = f / (9.0 + f);
            let expected = share * picks as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            let found = counts[&9] as f64;
            println!("{algorithm:?}, f {f}: a share of {:.4}, expected {share:.4}", found / picks as f64);
            assert!((found - expected).abs() <= 3.0 * deviation, "{algorithm:?} {f}: {found}, not {expected}");
            let others: Vec<(u16, f64)> = (0..9).map(|number| (number, 1.0)).collect();
            let counts: BTreeMap<u16, usize> = counts.into_iter().filter(|(number, _)| *number != 9).collect();
            // 0.999 quantile with 8 degrees of freedom.
            assert!(chi_square(&counts, &others) < 26.1, "{algorithm:?} {f}: the others are even: {counts:?}");
        }
    }
}

#[test]
fn keys_stay_where_they_are_while_their_endpoint_is_new() {
    let mut new = with_newcomer(hash_by_ip(), S);
    let mut old = Bed::new(&one_backend(hash_by_ip(), 10));
    let mut of_newcomer = 0;
    for key in 0..1_000_u64 {
        let request = PickRequest { hash: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), avoid: &[] };
        let found = symbol(&new.ask(request));
        assert_eq!(found, symbol(&old.ask(request)));
        of_newcomer += usize::from(found == '9');
    }
    assert!(of_newcomer > 50, "{of_newcomer} of 1,000 keys are the newcomer's");
}

#[test]
fn equally_new_endpoints_share_evenly_and_the_first_are_old() {
    for algorithm in [Algorithm::Random, Algorithm::LeastRequest, Algorithm::PeakEwma] {
        // A backend that is there for the first time has no newcomers.
        let mut first = Bed::new(&slow(algorithm.clone(), 4));
        assert!((0..4).all(|number| first.endpoint(number).age(first.now).is_none()));
        let even: Vec<(u16, f64)> = (0..4).map(|number| (number, 1.0)).collect();
        assert!(chi_square(&first.counts(8_000), &even) < 16.3, "{algorithm:?}");
        let mut new = Bed::new(&slow(algorithm.clone(), 0));
        new.publish(&slow(algorithm.clone(), 4));
        assert!((0..4).all(|number| new.endpoint(number).age(new.now).is_some()));
        assert!(chi_square(&new.counts(8_000), &even) < 16.3, "{algorithm:?}");
        // One alone gets all.
        let mut only = Bed::new(&slow(algorithm.clone(), 0));
        only.publish(&slow(algorithm, 1));
        assert_eq!(only.counts(50), BTreeMap::from([(0, 50)]));
    }
}

#[test]
fn a_pod_in_the_place_of_another_is_new_and_a_publication_makes_nobody_new() {
    let mut bed = with_newcomer(Algorithm::RoundRobin, 50 * S);
    bed.publish(&slow(Algorithm::RoundRobin, 10));
    assert_eq!(bed.endpoint(9).age(bed.now), Some(50 * S));
    // Without the block the newcomer has its full share at once.
    bed.publish(&one_backend(Algorithm::RoundRobin, 10));
    assert_eq!(bed.counts(1_000)[&9], 100);
}

fn near(mode: LocalityMode, min_endpoints: u32, ways: &[(u16, Near)]) -> Snapshots {
    let spread = Spread { slow_start: None, locality: Locality { mode, min_endpoints } };
    Snapshots { spread, near: ways.iter().copied().collect(), ..one_backend(Algorithm::RoundRobin, 4) }
}

#[test]
fn near_endpoints_are_preferred_where_there_are_enough() {
    use LocalityMode::{Auto, Disabled, PreferNode, PreferZone};
    let both = Near::of([(Near::HINTED_NODE, true), (Near::HINTED_ZONE, true), (Near::ZONE, true), (Near::NODE, true)]);
    let zones = |numbers: &[u16]| numbers.iter().map(|number| (*number, Near::HINTED_ZONE)).collect::<Vec<_>>();
    for (case, mode, min_endpoints, ways, expected) in [
        ("hints of the zone", Auto, 1, zones(&[1, 2]), "1212"),
        ("enough", Auto, 2, zones(&[1, 2]), "1212"),
        ("too few", Auto, 3, zones(&[1, 2]), "0123"),
        ("nobody near", Auto, 1, zones(&[]), "0123"),
        ("all near", Auto, 1, zones(&[0, 1, 2, 3]), "0123"),
        ("hints of the node win", Auto, 1, vec![(0, Near::HINTED_NODE), (1, Near::HINTED_ZONE)], "0000"),
        ("too few on the node", Auto, 2, vec![(0, both), (1, Near::HINTED_ZONE)], "0101"),
        ("not asked for", Disabled, 1, vec![(0, both)], "0123"),
        (
            "the zone without hints",
            PreferZone,
            1,
            vec![(1, Near::ZONE), (3, Near::ZONE), (0, Near::HINTED_ZONE)],
            "1313",
        ),
        ("the node", PreferNode, 1, vec![(2, Near::NODE), (3, Near::ZONE)], "2222"),
        ("nobody on the node", PreferNode, 1, vec![(3, Near::ZONE)], "0123"),
    ] {
        assert_eq!(Bed::new(&near(mode, min_endpoints, &ways)).sequence(4), expected, "{case}");
    }
}

#[test]
fn nobody_is_refused_because_nobody_is_near() {
    let ways = [(1, Near::HINTED_ZONE), (2, Near::HINTED_ZONE)];
    for algorithm in ALL {
        let snapshots = near(LocalityMode::Auto, 1, &ways).rule("r", "0", algorithm.clone(), &[(Some("a"), 1, 0)]);
        let mut bed = Bed::new(&snapshots);
        assert_eq!(bed.counts(200).into_keys().collect::<Vec<_>>(), [1, 2], "{algorithm:?}");
        assert_eq!(bed.pick().given_up, None);
        bed.endpoint(1).refused(NOW);
        assert_eq!(bed.counts(50), BTreeMap::from([(2, 50)]), "{algorithm:?}");
        // Far ones before one that refuses connections.
        bed.endpoint(2).refused(NOW);
        assert_eq!(bed.counts(200).into_keys().collect::<Vec<_>>(), [0, 3], "{algorithm:?}");
        assert_eq!(bed.pick().given_up, Some(Condition::Near));
        // A retry leaves the near ones that failed it.
        bed.now += 2 * S;
        let avoid = [bed.endpoint(1), bed.endpoint(2)];
        let symbol = symbol(&bed.ask(PickRequest { hash: None, avoid: &avoid }));
        assert!(matches!(symbol, '0' | '3'), "{algorithm:?}: {symbol}");
        // When all are refused, nobody is turned away.
        (0..4).for_each(|number| bed.endpoint(number).refused(bed.now));
        bed.pick();
    }
    // A key stays where it is.
    let hashed = near(LocalityMode::Auto, 1, &ways).rule("r", "0", hash_by_ip(), &[(Some("a"), 1, 0)]);
    let (mut with, mut without) = (Bed::new(&hashed), Bed::new(&one_backend(hash_by_ip(), 4)));
    for key in 0..200_u64 {
        let request = PickRequest { hash: Some(key << 55), avoid: &[] };
        assert_eq!(symbol(&with.ask(request)), symbol(&without.ask(request)));
    }
}

#[test]
fn near_endpoints_follow_publications() {
    let mut bed = Bed::new(&near(LocalityMode::Auto, 1, &[(1, Near::HINTED_ZONE), (2, Near::HINTED_ZONE)]));
    assert_eq!(bed.sequence(1), "1");
    bed.publish(&near(
        LocalityMode::Auto,
        1,
        &[(1, Near::HINTED_ZONE), (2, Near::HINTED_ZONE), (3, Near::HINTED_ZONE)],
    ));
    assert_eq!(bed.sequence(4), "2312", "the cursor goes on");
    bed.publish(&near(LocalityMode::Disabled, 1, &[(1, Near::HINTED_ZONE)]));
    assert_eq!(bed.counts(8).len(), 4);
}
