//! The consistent hash: who moves, how much, and what replicas agree on.

use super::*;
use crate::balance::consistent_hash::{Member, Ring};
use crate::model::policy::ConsistentHash;

/// Keys spread over the ring.
fn keys(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|key| xxhash_rust::xxh3::xxh3_64(&key.to_le_bytes()))
}

fn with(hash: impl FnOnce(&mut ConsistentHash)) -> Algorithm {
    match hash_by_ip() {
        Algorithm::ConsistentHash(mut parameters) => {
            hash(Arc::make_mut(&mut parameters));
            Algorithm::ConsistentHash(parameters)
        }
        other => panic!("{other:?}"),
    }
}

/// Where each key leads.
fn homes(bed: &mut Bed, count: u64) -> Vec<char> {
    keys(count).map(|hash| symbol(&bed.ask(PickRequest { hash: Some(hash), avoid: &[] }))).collect()
}

fn shares(homes: &[char]) -> BTreeMap<char, f64> {
    let mut shares = BTreeMap::new();
    for &home in homes {
        *shares.entry(home).or_default() += 1.0 / homes.len() as f64;
    }
    shares
}

#[test]
fn a_failed_endpoint_moves_its_own_keys_to_their_next_node() {
    let mut bed = Bed::new(&one_backend(hash_by_ip(), 10));
    let before = homes(&mut bed, 20_000);
    bed.endpoint(3).refused(NOW);
    let refused = homes(&mut bed, 20_000);
    let moved = before.iter().zip(&refused).filter(|(one, other)| one != other).count();
    assert_eq!(moved, before.iter().filter(|home| **home == '3').count());
    assert!(before.iter().zip(&refused).all(|(one, other)| one == other || (*one == '3' && *other != '3')));
    // They go to many, not to one neighbour.
    let heirs: std::collections::BTreeSet<char> =
        before.iter().zip(&refused).filter(|(one, _)| **one == '3').map(|(_, heir)| *heir).collect();
    assert_eq!(heirs.len(), 9, "{heirs:?}");
    // A retry and a publication without the endpoint lead to the same next nodes.
    bed.now += Duration::from_secs(1);
    let avoid = bed.endpoint(3);
    let retried: Vec<char> = keys(20_000)
        .map(|hash| symbol(&bed.ask(PickRequest { hash: Some(hash), avoid: std::slice::from_ref(&avoid) })))
        .collect();
    assert_eq!(retried, refused);
    let without = one_backend(hash_by_ip(), 10).backend("a", (0..10).filter(|number| *number != 3));
    bed.publish(&without);
    assert_eq!(homes(&mut bed, 20_000), refused);
    // And back again.
    bed.publish(&one_backend(hash_by_ip(), 10));
    assert_eq!(homes(&mut bed, 20_000), before);
}

#[test]
fn one_more_endpoint_takes_about_its_share() {
    for count in [3_u16, 10, 30] {
        let mut bed = Bed::new(&one_backend(hash_by_ip(), count));
        let before = homes(&mut bed, 20_000);
        bed.publish(&one_backend(hash_by_ip(), count + 1));
        let after = homes(&mut bed, 20_000);
        let newcomer = char::from_digit(count.into(), 36).expect("number");
        let moved: Vec<char> =
            before.iter().zip(&after).filter(|(one, other)| one != other).map(|(_, home)| *home).collect();
        assert!(moved.iter().all(|home| *home == newcomer), "{count}");
        let share = moved.len() as f64 / 20_000.0 * f64::from(count + 1);
        assert!((0.7..1.3).contains(&share), "{count}: {share} of the fair share moved");
    }
}

#[test]
fn shares_follow_weight_per_endpoint() {
    // Nine tenths over three endpoints, one tenth over two.
    let snapshots = |algorithm| {
        Snapshots::default().backend("a", 0..3).backend("b", 10..12).rule(
            "r",
            "0",
            algorithm,
            &[(Some("a"), 90, 0), (Some("b"), 10, 0)],
        )
    };
    for table_size in [None, Some(5_000)] {
        let mut bed = Bed::new(&snapshots(with(|hash| hash.table_size = table_size)));
        let shares = shares(&homes(&mut bed, 40_000));
        for (home, expected) in [('0', 0.3), ('1', 0.3), ('2', 0.3), ('a', 0.05), ('b', 0.05)] {
            let found = shares[&home];
            assert!((found / expected - 1.0).abs() < 0.25, "{home}: {found} of {expected}, {table_size:?}");
        }
    }
}

#[test]
fn unresolved_references_keep_their_share_and_empty_ones_have_none() {
    let snapshots = Snapshots::default().backend("a", 0..2).backend("e", []).rule(
        "r",
        "0",
        hash_by_ip(),
        &[(Some("a"), 3, 0), (None, 1, 0), (Some("e"), 4, 0)],
    );
    let mut bed = Bed::new(&snapshots);
    let before = homes(&mut bed, 20_000);
    let found = shares(&before);
    assert_eq!(found.keys().collect::<String>(), "01x");
    assert!((found[&'x'] - 0.25).abs() < 0.06, "{found:?}");
    // A refused endpoint's keys do not turn into 500.
    bed.endpoint(0).refused(NOW);
    let after = homes(&mut bed, 20_000);
    assert!(before.iter().zip(&after).all(|(one, other)| (*one == 'x') == (*other == 'x')));
    // Nor do they when all are refused.
    bed.endpoint(1).refused(NOW);
    assert_eq!(homes(&mut bed, 20_000), before);
}

#[test]
fn bounded_load_spreads_a_hot_key() {
    for (percent, endpoints) in [(100, 4_u16), (125, 4), (200, 10)] {
        let algorithm = with(|hash| hash.bounded_load_percent = Some(percent));
        let mut bed = Bed::new(&one_backend(algorithm, endpoints));
        let home = symbol(&bed.ask(PickRequest { hash: Some(99 << 40), avoid: &[] }));
        let mut in_flight = Vec::new();
        for total in 1..=400_u64 {
            let Pick::Endpoint(picked) = bed.ask(PickRequest { hash: Some(99 << 40), avoid: &[] }) else {
                panic!("no endpoint");
            };
            in_flight.push(picked.endpoint.begin());
            // All have 100 points.
            let bound = (total * u64::from(percent)).div_ceil(100 * u64::from(endpoints));
            assert!(u64::from(picked.endpoint.in_flight()) <= bound, "{percent} %: over {bound} of {total}");
        }
        // The home is full, and only as many others as the bound makes necessary have work.
        let busy = (0..endpoints).filter(|&number| bed.endpoint(number).in_flight() > 0).count();
        assert!(busy <= usize::from(endpoints), "{busy}");
        if percent == 200 {
            assert!(busy <= 6, "twice the fair share needs half of them, {busy} are busy");
        }
        in_flight.clear();
        assert_eq!(symbol(&bed.ask(PickRequest { hash: Some(99 << 40), avoid: &[] })), home);
    }
}

#[test]
fn without_a_key_the_rule_says_what_happens() {
    let snapshots = |on_missing| {
        Snapshots::default().backend("a", [0, 1]).backend("b", [10, 11]).rule(
            "r",
            "0",
            with(|hash| hash.on_missing = on_missing),
            &[(Some("a"), 1, 0), (Some("b"), 1, 0)],
        )
    };
    assert_eq!(Bed::new(&snapshots(OnMissingKey::RoundRobin)).sequence(8), "0a1b0a1b");
    assert_eq!(Bed::new(&snapshots(OnMissingKey::Reject)).sequence(3), "???");
    let counts = Bed::new(&snapshots(OnMissingKey::Random)).counts(8_000);
    assert!(chi_square(&counts, &[(0, 1.0), (1, 1.0), (10, 1.0), (11, 1.0)]) < 16.3, "{counts:?}");
}

fn member(number: u16, backend_ref: u32, weight: u32, among: usize) -> Member {
    let snapshots = Snapshots::default().backend("a", [number]);
    let balancers = EndpointRegistry::default().build(&snapshots.snapshot(), None, NOW);
    Member { endpoint: Some(Arc::clone(&balancers.backends()[0].endpoints[0])), backend_ref, weight, among }
}

#[test]
fn number_of_points() {
    let members = |weights: &[(u32, u16)]| -> Vec<Member> {
        let mut next = 0;
        let each = (0..).zip(weights).flat_map(|(index, &(weight, count))| {
            let first = next;
            next += count;
            (first..next).map(move |number| member(number, index, weight, count.into()))
        });
        each.collect()
    };
    for (case, weights, table_size, points) in [
        ("100 an endpoint", &[(1, 3)][..], None, 300),
        ("one weight is as good as another", &[(1_000_000, 3)], None, 300),
        ("100 × endpoints × reduced weight", &[(20, 3), (10, 2)], None, 800),
        ("not without bound, and at least one", &[(999_983, 1), (1, 1)], None, 2_001),
        ("tableSize", &[(1, 3)], Some(1_000), 1_000),
        ("tableSize with weights", &[(7, 3), (2, 4)], Some(1_021), 1_021),
        ("at least one point each", &[(1, 3)], Some(2), 3),
    ] {
        assert_eq!(Ring::build(&members(weights), table_size).len(), points, "{case}");
    }
    let ring = Ring::build(&members(&[(999_983, 1), (1, 1)]), None);
    assert_eq!(ring.nodes().len(), 2);
    // Two references to one endpoint are one node.
    let ring = Ring::build(&[member(1, 0, 1, 1), member(1, 1, 1, 1)], None);
    assert_eq!((ring.nodes().len(), ring.len()), (1, 200));
    assert_eq!(ring.nodes()[0].backend_ref, 0);
}

/// Replicas and versions must agree: these homes may change only with a note in the release.
#[test]
fn the_ring_is_the_same_everywhere() {
    let mut bed = Bed::new(&one_backend(hash_by_ip(), 10));
    assert_eq!(homes(&mut bed, 32).into_iter().collect::<String>(), "79616931744158456731674289170199");
    // Another process with other history and more workers places nothing else.
    let mut other = Bed::starting_at(&one_backend(hash_by_ip(), 4).backend("z", 0..3), 17);
    other.publish(&one_backend(hash_by_ip(), 10));
    assert_eq!(homes(&mut other, 1_000), homes(&mut bed, 1_000));
}
