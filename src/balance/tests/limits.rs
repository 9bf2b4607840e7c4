//! Picks where endpoints have as much as the rule allows.

use std::collections::BTreeSet;

use super::conditions::three_tiers;
use super::*;
use crate::model::limits::EndpointLimits;

/// Endpoints of a rule that lets each have so many requests and connections.
fn limited(algorithm: Algorithm, requests: Option<u32>, connections: Option<u32>) -> Bed {
    let mut bed = three_tiers(algorithm);
    let limits = EndpointLimits {
        requests,
        connections,
        pending: 9,
        pending_timeout: Duration::from_secs(1),
        requests_per_connection: None,
    };
    let policy = Policy { limits: Some(limits.into()), ..Default::default() };
    Arc::make_mut(&mut bed.snapshot.rules)[0].policy = Some(policy.into());
    bed
}

#[test]
fn endpoints_without_room_are_passed_over_and_then_waited_for() {
    for algorithm in algorithms() {
        let mut bed = limited(algorithm.clone(), Some(2), None);
        let picked = |bed: &mut Bed| -> String {
            let symbols: BTreeSet<char> = (0..100_u64)
                .map(|key| {
                    let hash = Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                    symbol(&bed.ask(PickRequest { hash, avoid: &[] }))
                })
                .collect();
            symbols.into_iter().collect()
        };
        let full = bed.endpoint(0);
        let mut in_flight = vec![full.begin()];
        assert_eq!(picked(&mut bed).replace('0', ""), "1", "{algorithm:?}: room for one more");
        in_flight.push(full.begin());
        assert_eq!(picked(&mut bed), "1", "{algorithm:?}");
        let other = bed.endpoint(1);
        in_flight.extend([other.begin(), other.begin()]);
        // A higher tier is for what is out of service, not for what is busy.
        assert_eq!(picked(&mut bed), "!", "{algorithm:?}");
        let Pick::AtLimit(at_limit) = bed.ask(PickRequest { hash: Some(1), avoid: &[] }) else { panic!("no room") };
        assert_eq!(at_limit.iter().map(|picked| number(&picked.endpoint)).collect::<Vec<_>>(), [0, 1]);
        // One that refuses is not waited for while another one is in service.
        other.refused(NOW);
        let Pick::AtLimit(at_limit) = bed.ask(PickRequest { hash: Some(1), avoid: &[] }) else { panic!("no room") };
        assert_eq!(at_limit.iter().map(|picked| number(&picked.endpoint)).collect::<Vec<_>>(), [0]);
        full.refused(NOW);
        assert_eq!(picked(&mut bed), "23", "{algorithm:?}: nobody of the tier is in service");
    }
}

#[test]
fn a_bound_on_connections_bounds_requests_where_each_has_one_of_its_own() {
    let mut bed = limited(Algorithm::RoundRobin, Some(9), Some(1));
    let [one, other] = [0, 1].map(|number| bed.endpoint(number));
    let _in_flight = [one.begin(), other.begin()];
    assert_eq!(bed.sequence(2), "!!");
    // Over HTTP/2 they share it: whoever wants another one waits behind the pick.
    one.share_connections(true);
    assert_eq!(bed.sequence(2), "00");
}
