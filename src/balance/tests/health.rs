//! What picks make of health checks.

use super::*;
use crate::model::backend::Backend;
use crate::model::health::{HealthCheck, Question};
use crate::model::policy::Policy;
use crate::model::tls::{EndpointTls, Trust};

/// As [`one_backend`], and the rule checks its endpoints.
fn checked(algorithm: Algorithm, endpoints: u16) -> Bed {
    let mut bed = Bed::new(&one_backend(algorithm.clone(), endpoints));
    let mut snapshot = one_backend(algorithm, endpoints).snapshot();
    Arc::make_mut(&mut snapshot.rules)[0].policy = checked_by(Some(check()));
    bed.publish_snapshot(snapshot);
    bed
}

fn checked_by(check: Option<HealthCheck>) -> Option<Arc<Policy>> {
    Some(Arc::new(Policy { health_check: check.map(Arc::new), ..Policy::default() }))
}

fn check() -> HealthCheck {
    HealthCheck {
        question: Question::Grpc { service: "".into() },
        port: None,
        host: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 1,
        healthy_threshold: 1,
    }
}

impl Bed {
    /// Notes what the rule's check says of an endpoint.
    fn set_unhealthy(&self, wanted: u16, is_unhealthy: bool) {
        let rule = self.balancers.rule(RuleId(0)).expect("rule");
        let mut all = rule.checked().flat_map(|(_, checked)| checked.endpoints());
        let health = all.find(|health| number(health.endpoint()) == wanted).expect("endpoint");
        if is_unhealthy { health.fell_ill() } else { health.recovered(self.now) }
    }

    /// The endpoints that requests with many keys, or without one, lead to.
    fn used(&mut self) -> Vec<u16> {
        let mut used = std::collections::BTreeSet::new();
        for key in 0..400_u64 {
            for hash in [None, Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))] {
                match self.ask(PickRequest { hash, avoid: &[] }) {
                    Pick::Endpoint(picked) => used.insert(number(&picked.endpoint)),
                    other => panic!("{other:?}"),
                };
            }
        }
        used.into_iter().collect()
    }
}

#[test]
fn unhealthy_endpoints_are_used_only_when_all_are() {
    for algorithm in algorithms() {
        let mut bed = checked(algorithm.clone(), 4);
        assert_eq!(bed.used(), [0, 1, 2, 3], "{algorithm:?}");
        bed.set_unhealthy(1, true);
        bed.set_unhealthy(2, true);
        assert_eq!(bed.used(), [0, 3], "{algorithm:?}");
        // One that refused a moment ago is rather used than one that is unhealthy.
        bed.endpoint(0).refused(NOW);
        assert_eq!(bed.used(), [3], "{algorithm:?}");
        bed.endpoint(3).refused(NOW);
        assert_eq!(bed.used(), [0, 3], "{algorithm:?}");
        bed.now += REFUSED_FOR;
        // A retry rather goes to an unhealthy one than to the one that it comes from.
        bed.set_unhealthy(0, true);
        let tried = [bed.endpoint(3)];
        match bed.ask(PickRequest { hash: Some(5), avoid: &tried }) {
            Pick::Endpoint(picked) => assert_ne!(number(&picked.endpoint), 3, "{algorithm:?}"),
            other => panic!("{algorithm:?}: {other:?}"),
        }
        bed.set_unhealthy(3, true);
        assert_eq!(bed.used(), [0, 1, 2, 3], "{algorithm:?}: all are used");
        bed.set_unhealthy(2, false);
        assert_eq!(bed.used(), [2], "{algorithm:?}");
    }
}

#[test]
fn health_goes_on_with_endpoint_and_check_and_with_nothing_else() {
    let mut bed = checked(Algorithm::RoundRobin, 3);
    bed.set_unhealthy(1, true);
    let endpoint = bed.endpoint(1);
    let with = |check: Option<HealthCheck>, endpoints: std::ops::Range<u16>| {
        let snapshots = Snapshots::default().backend("a", endpoints);
        let mut snapshot = snapshots.rule("r", "0", Algorithm::RoundRobin, &[(Some("a"), 1, 0)]).snapshot();
        Arc::make_mut(&mut snapshot.rules)[0].policy = checked_by(check);
        snapshot
    };
    bed.publish_snapshot(with(Some(check()), 0..5));
    assert_eq!(bed.used(), [0, 2, 3, 4], "an equal check, more endpoints");
    bed.publish_snapshot(with(Some(HealthCheck { healthy_threshold: 2, ..check() }), 0..5));
    assert_eq!(bed.used(), [0, 1, 2, 3, 4], "another check begins anew");
    assert!(!endpoint.is_unhealthy_by_any());
    bed.set_unhealthy(1, true);
    assert!(endpoint.is_unhealthy_by_any());
    bed.publish_snapshot(with(None, 0..5));
    assert_eq!(bed.used(), [0, 1, 2, 3, 4], "no check");
    assert!(!endpoint.is_unhealthy_by_any(), "what no rule asks is forgotten");
}

/// Two Services with the same pods, whose policies name other hosts.
#[test]
fn health_is_kept_for_each_way_to_speak_tls_to_a_pod() {
    let tls = |name: &'static str| {
        let server_name = name.try_into().expect("a name");
        Some(Arc::new(EndpointTls { server_name, names: Box::default(), trust: Trust::System, own: None }))
    };
    let with = |endpoints: std::ops::Range<u16>| {
        let snapshots = Snapshots::default().backend("a", endpoints.clone()).backend("b", endpoints);
        let rule = |snapshots: Snapshots, name| snapshots.rule("r", name, Algorithm::RoundRobin, &[(Some(name), 1, 0)]);
        let mut snapshot = ["a", "b"].into_iter().fold(snapshots, rule).snapshot();
        Arc::make_mut(&mut snapshot.rules).iter_mut().for_each(|rule| rule.policy = checked_by(Some(check())));
        let names = ["a.test", "b.test"].into_iter();
        let backends =
            snapshot.backends.iter().zip(names).map(|(backend, name)| Backend { tls: tls(name), ..backend.clone() });
        snapshot.backends = backends.collect();
        snapshot
    };
    let mut bed = Bed::new(&one_backend(Algorithm::RoundRobin, 1));
    bed.publish_snapshot(with(0..3));
    bed.set_unhealthy(1, true);
    assert_eq!(bed.used(), [0, 2]);
    for endpoints in [0..4, 0..5] {
        let last = endpoints.end - 1;
        bed.publish_snapshot(with(endpoints));
        assert!(!bed.used().contains(&1) && bed.used().contains(&last), "{:?}", bed.used());
    }
}
