use http::StatusCode;

use super::*;
use crate::balance::tests::snapshots::{Snapshots, number};
use crate::balance::{Balancers, EndpointRegistry, Previous};
use crate::model::ids::RuleId;
use crate::model::policy::Algorithm;
use crate::model::snapshot::Snapshot;

const S: Duration = Duration::from_secs(1);

fn outlier() -> Outlier {
    Outlier {
        errors: 5,
        connect_failures: 3,
        interval: 10 * S,
        base: 30 * S,
        longest: 300 * S,
        most_percent: 50,
        codes: [StatusCode::SERVICE_UNAVAILABLE].into(),
    }
}

/// One backend of so many endpoints.
struct Bed {
    registry: EndpointRegistry,
    snapshot: Snapshot,
    balancers: Balancers,
    outlier: Outlier,
    now: Duration,
}

fn snapshots(endpoints: u16) -> Snapshots {
    Snapshots::default().backend("a", 0..endpoints).rule("r", "0", Algorithm::RoundRobin, &[(Some("a"), 1, 0)])
}

impl Bed {
    fn new(endpoints: u16) -> Self {
        let mut registry = EndpointRegistry::default();
        let snapshot = snapshots(endpoints).snapshot();
        let balancers = registry.build(&snapshot, None, S);
        Self { registry, snapshot, balancers, outlier: outlier(), now: 100 * S }
    }

    fn publish(&mut self, snapshots: &Snapshots) {
        let snapshot = snapshots.snapshot();
        let previous = Previous { snapshot: &self.snapshot, balancers: &self.balancers, rule: &|_| Some(RuleId(0)) };
        self.balancers = self.registry.build(&snapshot, Some(previous), self.now);
        self.snapshot = snapshot;
    }

    fn endpoint(&self, index: usize) -> &Arc<EndpointState> {
        &self.balancers.backends()[0].endpoints[index]
    }

    /// One fault; gives the ejection that it leads to, with an exact length.
    fn fault(&self, index: usize, fault: Fault) -> Option<Ejection> {
        let count = self.endpoint(index).faulted(fault);
        self.balancers.backends()[0].eject(self.endpoint(index), (fault, count), &self.outlier, self.now, 0.5)
    }

    /// Errors until one ejects, at most so many; gives how many it took.
    fn errors(&self, index: usize, most: usize) -> Option<usize> {
        (1..=most).find(|_| self.fault(index, Fault::Error).is_some())
    }

    fn ejected(&self) -> Vec<u16> {
        let all = self.balancers.backends()[0].endpoints.iter();
        all.filter(|endpoint| endpoint.is_ejected(self.now)).map(|endpoint| number(endpoint)).collect()
    }
}

#[test]
fn faults_in_a_row_eject() {
    let bed = Bed::new(3);
    assert_eq!(bed.errors(0, 10), Some(5));
    assert_eq!(bed.ejected(), [0]);
    let bed = Bed::new(3);
    assert_eq!(bed.errors(0, 4), None);
    bed.endpoint(0).succeeded(bed.now);
    assert_eq!(bed.errors(0, 4), None, "a success between them clears the count");
    assert_eq!(bed.ejected(), [0_u16; 0]);
    // Connections are counted apart.
    assert!((0..2).all(|_| bed.fault(1, Fault::Connect).is_none()));
    assert_eq!(bed.errors(1, 4), None);
    assert!(bed.fault(1, Fault::Connect).is_some());
}

#[test]
fn one_at_least_and_never_the_last() {
    for (endpoints, percent, expected) in [
        (1, 100, 0),
        (2, 50, 1),
        (2, 100, 1),
        (3, 50, 1),
        (3, 10, 1),
        (10, 50, 5),
        (10, 100, 9),
        (10, 0, 0),
        (0, 50, 0),
    ] {
        let mut bed = Bed::new(endpoints);
        bed.outlier.most_percent = percent;
        let ejected = (0..usize::from(endpoints)).filter(|index| bed.errors(*index, 20).is_some()).count();
        assert_eq!(ejected, expected, "{endpoints} endpoints, {percent} %");
        assert_eq!(bed.ejected().len(), expected);
    }
}

#[test]
fn lengths_double_up_to_the_longest_and_shrink_with_time_in_service() {
    let mut bed = Bed::new(2);
    let mut ejection = bed.errors(0, 5).map(|_| bed.endpoint(0).out_for(bed.now).0);
    let mut lengths = Vec::new();
    while let Some(Some(length)) = ejection
        && lengths.len() < 6
    {
        lengths.push(length.as_secs());
        bed.now += length;
        assert_eq!(bed.ejected(), [0_u16; 0], "time ends it");
        // On probation: one failure is enough.
        ejection = bed.fault(0, Fault::Error).map(|ejection| Some(ejection.length));
    }
    assert_eq!(lengths, [30, 60, 120, 240, 300, 300]);
    // Three intervals in service have three of them forgotten.
    let bed_length = |bed: &mut Bed, in_service: Duration| {
        bed.now += bed.endpoint(0).out_for(bed.now).0.unwrap_or_default() + in_service;
        bed.fault(0, Fault::Error).map(|ejection| ejection.count)
    };
    let before = bed_length(&mut bed, Duration::ZERO).expect("on probation");
    assert_eq!(bed_length(&mut bed, 30 * S), Some(before + 1 - 3));
    assert_eq!(bed_length(&mut bed, 1_000 * S), Some(1));
}

#[test]
fn lengths_differ_by_a_tenth() {
    for (chance, expected) in [(0.0, 27.0), (0.5, 30.0), (1.0, 33.0)] {
        let bed = Bed::new(2);
        let endpoints = &bed.balancers.backends()[0];
        let ejection = endpoints.eject(bed.endpoint(0), (Fault::Error, 5), &bed.outlier, bed.now, chance);
        let length = ejection.expect("ejected").length.as_secs_f64();
        assert!((length - expected).abs() < 1e-6, "{length}");
    }
}

#[test]
fn probation_ends_with_a_success_of_a_request_that_began_behind_the_ejection() {
    let mut bed = Bed::new(2);
    assert_eq!(bed.errors(0, 5), Some(5));
    // Sent before the ejection, or because nobody else was left.
    bed.endpoint(0).succeeded(bed.now + S);
    bed.now += 30 * S;
    assert_eq!(bed.errors(0, 5), Some(1));
    bed.now += 60 * S;
    bed.endpoint(0).succeeded(bed.now);
    assert_eq!(bed.errors(0, 5), Some(5));
}

#[test]
fn an_ejected_endpoint_is_not_ejected_again() {
    let bed = Bed::new(10);
    assert_eq!(bed.errors(0, 5), Some(5));
    assert_eq!(bed.errors(0, 100), None);
    assert_eq!(bed.endpoint(0).out_for(bed.now).0, Some(30 * S));
    bed.endpoint(0).restore(bed.now);
    assert_eq!(bed.ejected(), [0_u16; 0]);
    assert_eq!(bed.errors(0, 5), Some(1), "still on probation");
}

#[test]
fn publications_change_nothing_and_a_new_pod_begins_anew() {
    let mut bed = Bed::new(3);
    assert_eq!(bed.errors(0, 5), Some(5));
    assert_eq!(bed.errors(1, 3), None);
    for _ in 0..10 {
        bed.now += S / 10;
        bed.publish(&snapshots(4));
        bed.publish(&snapshots(3));
    }
    assert_eq!(bed.ejected(), [0]);
    assert_eq!(bed.endpoint(1).faults(Fault::Error), 3);
    // Another pod at the same address.
    let mut other = snapshots(3).snapshot();
    let mut endpoints = other.backends[0].endpoints.to_vec();
    endpoints[0].key.uid = Some("another".into());
    Arc::make_mut(&mut other.backends)[0].endpoints = endpoints.into();
    let previous = Previous { snapshot: &bed.snapshot, balancers: &bed.balancers, rule: &Some };
    let balancers = bed.registry.build(&other, Some(previous), bed.now);
    let fresh = &balancers.backends()[0].endpoints[0];
    assert!(!fresh.is_ejected(bed.now) && fresh.faults(Fault::Error) == 0);
}

#[test]
fn threads_never_eject_more_than_allowed() {
    let bed = Bed::new(10);
    let endpoints = &bed.balancers.backends()[0];
    let ejected: usize = std::thread::scope(|scope| {
        let of_thread = |thread: usize| {
            let bed = &bed;
            move || {
                let mut rng = fastrand::Rng::with_seed(thread as u64);
                let fault = |_: &usize| {
                    let endpoint = &endpoints.endpoints[rng.usize(..10)];
                    let count = endpoint.faulted(Fault::Error);
                    endpoints.eject(endpoint, (Fault::Error, count), &bed.outlier, bed.now, rng.f64()).is_some()
                };
                (0..2_000).filter(fault).count()
            }
        };
        let threads: Vec<_> = (0..16).map(|thread| scope.spawn(of_thread(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(ejected, 5);
    assert_eq!(bed.ejected().len(), 5);
}

/// Random faults, successes and steps of time against what must hold at every moment.
#[test]
fn a_random_history_keeps_the_bounds() {
    let seeds = if std::env::var_os("TIDEGATE_LONG").is_some() { 100_000 } else { 256 };
    for seed in 0..seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.u16(1..12);
        let mut bed = Bed::new(count);
        bed.outlier.most_percent = rng.u32(0..=100);
        bed.outlier.errors = rng.u32(1..6);
        let most = most_ejected(count.into(), bed.outlier.most_percent);
        let (mut in_a_row, mut on_probation) = (vec![0_u32; usize::from(count)], vec![false; usize::from(count)]);
        for _ in 0..400 {
            let index = rng.usize(..usize::from(count));
            if rng.u8(..3) > 0 {
                let was_ejected = bed.endpoint(index).is_ejected(bed.now);
                in_a_row[index] += 1;
                if let Some(ejection) = bed.fault(index, Fault::Error) {
                    assert!(!was_ejected, "seed {seed}");
                    assert!(on_probation[index] || in_a_row[index] >= bed.outlier.errors, "seed {seed}");
                    assert!(ejection.length >= bed.outlier.base && ejection.length <= bed.outlier.longest);
                    on_probation[index] = true;
                }
            } else {
                let is_ejected = bed.endpoint(index).is_ejected(bed.now);
                bed.endpoint(index).succeeded(bed.now);
                if !is_ejected {
                    (in_a_row[index], on_probation[index]) = (0, false);
                }
            }
            let ejected = bed.ejected().len();
            assert!(
                ejected <= most && (ejected < usize::from(count) || count == 0),
                "seed {seed}: {ejected} of {count}"
            );
            bed.now += Duration::from_millis(rng.u64(..5_000));
        }
    }
}
