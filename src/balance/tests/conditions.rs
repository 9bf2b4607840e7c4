//! What speaks against an endpoint, and in which order that is given up where nobody else is left: in other tiers, after a
//! failed try, while it refuses, while it is ejected.

use super::*;

#[test]
fn refused_addresses_are_passed_over_for_a_second() {
    for algorithm in algorithms() {
        let mut bed = Bed::new(&one_backend(algorithm.clone(), 3));
        let keys = || (0..300_u64).map(|key| Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let picked = |bed: &mut Bed| -> BTreeMap<char, usize> {
            keys().fold(BTreeMap::new(), |mut counts, hash| {
                *counts.entry(symbol(&bed.ask(PickRequest { hash, avoid: &[] }))).or_default() += 1;
                counts
            })
        };
        bed.endpoint(1).refused(NOW);
        assert_eq!(picked(&mut bed).keys().collect::<String>(), "02", "{algorithm:?}");
        bed.endpoint(0).refused(NOW);
        bed.endpoint(2).refused(NOW);
        assert_eq!(picked(&mut bed).keys().collect::<String>(), "012", "{algorithm:?}: all are refused");
        bed.now = NOW + Duration::from_millis(999);
        bed.endpoint(0).refused(bed.now);
        bed.now = NOW + Duration::from_secs(1);
        assert_eq!(picked(&mut bed).keys().collect::<String>(), "12", "{algorithm:?}: one second later");
    }
}

#[test]
fn a_retry_goes_elsewhere_if_it_can() {
    for algorithm in algorithms() {
        let mut bed = Bed::new(&one_backend(algorithm.clone(), 3));
        let avoid = bed.endpoint(1);
        for hash in 0..200_u64 {
            let request = PickRequest { hash: Some(hash << 50), avoid: std::slice::from_ref(&avoid) };
            assert_ne!(symbol(&bed.ask(request)), '1', "{algorithm:?}");
        }
        // Rather a refused one than the same again.
        bed.endpoint(0).refused(NOW);
        bed.endpoint(2).refused(NOW);
        for hash in 0..200_u64 {
            let request = PickRequest { hash: Some(hash << 50), avoid: std::slice::from_ref(&avoid) };
            assert_ne!(symbol(&bed.ask(request)), '1', "{algorithm:?}");
        }
        let mut bed = Bed::new(&one_backend(algorithm.clone(), 1));
        let avoid = bed.endpoint(0);
        assert_eq!(
            symbol(&bed.ask(PickRequest { hash: Some(1), avoid: std::slice::from_ref(&avoid) })),
            '0',
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_retry_leaves_a_backend_that_has_nothing_else() {
    for algorithm in algorithms() {
        let snapshots = Snapshots::default().backend("a", [0]).backend("b", [1]).backend("empty", []).rule(
            "r",
            "0",
            algorithm.clone(),
            &[(Some("a"), 8, 0), (Some("empty"), 4, 0), (None, 4, 0), (Some("b"), 1, 0)],
        );
        let mut bed = Bed::new(&snapshots);
        let avoid = bed.endpoint(0);
        for hash in 0..50_u64 {
            let hash = match algorithm {
                // Only keys of the avoided endpoint: the others' are no retries.
                Algorithm::ConsistentHash(_) => {
                    let request = PickRequest { hash: Some(hash << 52), avoid: &[] };
                    if symbol(&bed.ask(request)) != '0' {
                        continue;
                    }
                    Some(hash << 52)
                }
                _ => None,
            };
            assert_eq!(
                symbol(&bed.ask(PickRequest { hash, avoid: std::slice::from_ref(&avoid) })),
                '1',
                "{algorithm:?}"
            );
        }
    }
}

/// Backends of three tiers, two endpoints each: 0 and 1, 2 and 3, 4 and 5.
pub(super) fn three_tiers(algorithm: Algorithm) -> Bed {
    let snapshots = Snapshots::default().backend("a", 0..2).backend("b", 2..4).backend("c", 4..6).rule(
        "r",
        "0",
        algorithm,
        &[(Some("c"), 1, 3), (Some("a"), 1, 0), (Some("b"), 1, 1)],
    );
    Bed::new(&snapshots)
}

#[test]
fn a_higher_tier_is_used_when_nobody_of_a_lower_one_is_in_service() {
    for algorithm in algorithms() {
        let mut bed = three_tiers(algorithm.clone());
        let reached = |bed: &mut Bed, avoid: &[Arc<EndpointState>]| -> String {
            let picks = (0..100_u64).map(|key| {
                let hash = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                bed.ask(PickRequest { hash, avoid })
            });
            let symbols: std::collections::BTreeSet<char> = picks.map(|pick| symbol(&pick)).collect();
            symbols.into_iter().collect()
        };
        assert_eq!(reached(&mut bed, &[]), "01", "{algorithm:?}");
        bed.endpoint(0).refused(NOW);
        assert_eq!(reached(&mut bed, &[]), "1", "{algorithm:?}");
        let tried = [bed.endpoint(1)];
        assert_eq!(reached(&mut bed, &tried), "23", "{algorithm:?}: a retry leaves the tier");
        bed.endpoint(1).refused(NOW);
        assert_eq!(reached(&mut bed, &[]), "23", "{algorithm:?}");
        (2..4).for_each(|number| bed.endpoint(number).refused(NOW));
        assert_eq!(reached(&mut bed, &[]), "45", "{algorithm:?}");
        // With nobody left anywhere the condition is given up, in the lowest tier first.
        (4..6).for_each(|number| bed.endpoint(number).refused(NOW));
        assert_eq!(reached(&mut bed, &[]), "01", "{algorithm:?}");
        assert_eq!(reached(&mut bed, &tried), "0", "{algorithm:?}: a refused one rather than the same again");
        let all: Vec<_> = (0..6).map(|number| bed.endpoint(number)).collect();
        assert_eq!(reached(&mut bed, &all), "01", "{algorithm:?}");
        // A second later all is as before.
        bed.now += Duration::from_secs(1);
        assert_eq!(reached(&mut bed, &[]), "01", "{algorithm:?}");
    }
}

#[test]
fn a_pick_says_what_it_gave_up() {
    for algorithm in algorithms() {
        let mut bed = three_tiers(algorithm.clone());
        let given_up = |bed: &mut Bed, avoid: &[Arc<EndpointState>]| match bed.ask(PickRequest { hash: Some(1), avoid })
        {
            Pick::Endpoint(picked) => picked.given_up,
            other => panic!("{other:?}"),
        };
        (0..5).for_each(|number| bed.endpoint(number).refused(NOW));
        assert_eq!(given_up(&mut bed, &[]), None, "{algorithm:?}: one is left in the last tier");
        let last = [bed.endpoint(5)];
        assert_eq!(given_up(&mut bed, &last), Some(Condition::Refused), "{algorithm:?}");
        let all: Vec<_> = (0..6).map(|number| bed.endpoint(number)).collect();
        assert_eq!(given_up(&mut bed, &all), Some(Condition::Tried), "{algorithm:?}");
    }
}

#[test]
fn a_backend_without_anybody_in_service_leaves_its_share_to_the_others_of_its_tier() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest] {
        let refs = [(Some("a"), 3, 0), (Some("b"), 1, 0), (None, 1, 0)];
        let snapshots = Snapshots::default().backend("a", 0..2).backend("b", 2..4).rule("r", "0", algorithm, &refs);
        let mut bed = Bed::new(&snapshots);
        (0..2).for_each(|number| bed.endpoint(number).refused(NOW));
        // What cannot be resolved keeps answering for its own share.
        let found = bed.sequence(50);
        assert_eq!(found.matches('x').count(), 10, "{found}");
        assert_eq!(found.matches(['2', '3']).count(), 40, "{found}");
    }
}

#[test]
fn a_chosen_reference_is_used_whatever_its_tier() {
    for algorithm in algorithms() {
        let mut bed = three_tiers(algorithm.clone());
        let request = PickRequest { hash: Some(1), avoid: &[] };
        (4..6).for_each(|number| bed.endpoint(number).refused(NOW));
        let pick = bed.state.pick_of(0, &bed.snapshot.rules[0], &request, NOW, &mut bed.rng);
        assert!(matches!(symbol(&pick), '4' | '5'), "{algorithm:?}: {pick:?}");
    }
}

/// The first rule with `outlierDetection` or without.
fn ejecting(algorithm: Algorithm, with_block: bool) -> Bed {
    let mut bed = three_tiers(algorithm);
    let outlier = crate::model::outlier::Outlier {
        errors: 1,
        connect_failures: 1,
        interval: Duration::from_secs(10),
        base: Duration::from_secs(30),
        longest: Duration::from_secs(30),
        most_percent: 50,
        codes: [].into(),
    };
    let policy = crate::model::policy::Policy { outlier: Some(outlier.into()), ..Default::default() };
    if with_block {
        Arc::make_mut(&mut bed.snapshot.rules)[0].policy = Some(policy.into());
    }
    bed
}

#[test]
fn ejected_endpoints_are_passed_over_by_rules_that_eject() {
    for algorithm in algorithms() {
        let reached = |bed: &mut Bed| -> (String, Option<Condition>) {
            let mut given_up = None;
            let symbols: std::collections::BTreeSet<char> = (0..100_u64)
                .map(|key| {
                    let hash = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    let pick = bed.ask(PickRequest { hash, avoid: &[] });
                    if let Pick::Endpoint(picked) = &pick {
                        given_up = given_up.max(picked.given_up);
                    }
                    symbol(&pick)
                })
                .collect();
            (symbols.into_iter().collect(), given_up)
        };
        let eject = |bed: &Bed, number| bed.endpoint(number).eject(NOW + Duration::from_secs(30), 1, (0, 0));
        let mut bed = ejecting(algorithm.clone(), true);
        eject(&bed, 0);
        assert_eq!(reached(&mut bed), ("1".to_owned(), None), "{algorithm:?}");
        // Refusing is given up first: it lasts a second, and says less.
        bed.endpoint(1).refused(NOW);
        (2..6).for_each(|number| eject(&bed, number));
        assert_eq!(reached(&mut bed), ("1".to_owned(), Some(Condition::Refused)), "{algorithm:?}");
        eject(&bed, 1);
        assert_eq!(reached(&mut bed), ("01".to_owned(), Some(Condition::Ejected)), "{algorithm:?}: all are");
        bed.now += Duration::from_secs(30);
        assert_eq!(reached(&mut bed), ("01".to_owned(), None), "{algorithm:?}: time ends it");
        let mut bed = ejecting(algorithm.clone(), false);
        eject(&bed, 0);
        assert_eq!(reached(&mut bed), ("01".to_owned(), None), "{algorithm:?}: a rule without the block");
    }
}
