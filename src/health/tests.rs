//! When endpoints are asked, and what follows from their answers, on a clock that stands still until all wait.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, sleep};

use super::ask::{Failure, Target};
use super::*;
use crate::balance::endpoint_state::Fault;
use crate::balance::tests::snapshots::Snapshots;
use crate::drain;
use crate::live::{self, Publisher};
use crate::model::backend::Endpoint;
use crate::model::health::{HealthCheck, Question};
use crate::model::outlier::Outlier;
use crate::model::policy::{Algorithm, Policy};
use crate::model::snapshot::Snapshot;
use crate::telemetry::metrics::{CheckOutcome, MetricsOptions};

const SECOND: Duration = Duration::from_secs(1);

/// A check with an interval of so many seconds.
pub(super) fn check(seconds: u64) -> HealthCheck {
    HealthCheck {
        question: Question::Get { path: "/healthz".into(), expected: [200..=299].into() },
        port: None,
        host: None,
        interval: Duration::from_secs(seconds),
        timeout: SECOND,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    }
}

/// What an endpoint does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Well,
    Badly,
    Nothing,
    Panic,
}

/// Endpoints that answer as they are told, and remember when they were asked.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    does: BTreeMap<SocketAddr, Does>,
    times: BTreeMap<SocketAddr, Vec<Instant>>,
    at_once: usize,
    most_at_once: usize,
}

struct Running(Script);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.with(|asked| asked.at_once -= 1);
    }
}

impl Script {
    fn with<T>(&self, look: impl FnOnce(&mut Asked) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn does(&self, endpoint: u16, does: Does) {
        self.with(|asked| asked.does.insert(address(endpoint), does));
    }

    fn count(&self) -> usize {
        self.with(|asked| asked.times.values().map(Vec::len).sum())
    }

    fn times(&self, endpoint: u16) -> Vec<Instant> {
        self.with(|asked| asked.times.get(&address(endpoint)).cloned().unwrap_or_default())
    }
}

impl Ask for Script {
    async fn ask(&self, target: &Target) -> Result<(), Failure> {
        let does = self.with(|asked| {
            asked.times.entry(target.addr).or_default().push(Instant::now());
            asked.at_once += 1;
            asked.most_at_once = asked.most_at_once.max(asked.at_once);
            asked.does.get(&target.addr).copied().unwrap_or(Does::Well)
        });
        let _running = Running(self.clone());
        match does {
            Does::Well => Ok(()),
            Does::Badly => Err(Failure::Status(StatusCode::SERVICE_UNAVAILABLE)),
            Does::Nothing => std::future::pending().await,
            Does::Panic => panic!("a fault in a check"),
        }
    }
}

fn address(endpoint: u16) -> SocketAddr {
    let [high, low] = endpoint.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 80))
}

/// A policy that is a value of its own.
fn checked_by(check: HealthCheck) -> Option<Arc<Policy>> {
    Some(Arc::new(Policy { health_check: Some(Arc::new(check)), ..Policy::default() }))
}

/// So many rules with a check over one backend with these endpoints.
fn rules(count: usize, endpoints: impl IntoIterator<Item = u16>, check: &HealthCheck) -> Snapshot {
    let mut snapshots = Snapshots::default().backend("a", endpoints);
    for rule in 0..count {
        snapshots = snapshots.rule("r", &rule.to_string(), Algorithm::Random, &[(Some("a"), 1, 0)]);
    }
    let mut snapshot = snapshots.snapshot();
    // Equal checks, each a value of its own.
    Arc::make_mut(&mut snapshot.rules).iter_mut().for_each(|rule| rule.policy = checked_by(check.clone()));
    snapshot
}

struct Bed {
    publisher: Publisher,
    script: Script,
    metrics: Arc<Metrics>,
    control: drain::DrainControl,
    prober: tokio::task::JoinHandle<()>,
    epoch: Instant,
}

impl Bed {
    fn start(snapshot: Snapshot) -> Self {
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 1_000 });
        let epoch = Instant::now();
        let (mut publisher, _) = live::channel(1, Arc::clone(&metrics), epoch);
        publisher.publish(snapshot);
        let (script, (control, drain)) = (Script::default(), drain::channel());
        let prober = Prober::new(script.clone(), Arc::clone(&metrics), epoch, 7);
        let prober = tokio::spawn(prober.follow(publisher.view(), drain));
        Self { publisher, script, metrics, control, prober, epoch }
    }

    /// The live numbers of an endpoint.
    fn endpoint(&self, endpoint: u16) -> Arc<crate::balance::EndpointState> {
        let live = self.publisher.view().current();
        let mut all = live.balancers().backends().iter().flat_map(|backend| &backend.endpoints);
        Arc::clone(all.find(|state| state.key.addr == address(endpoint)).expect("endpoint"))
    }

    /// Whether an endpoint is unhealthy by each check that asks it.
    fn unhealthy(&self, endpoint: u16) -> Vec<bool> {
        let live = self.publisher.view().current();
        let all = live.checked_endpoints().into_iter().flat_map(|(_, checked, _)| checked.endpoints().to_vec());
        let of_endpoint = all.filter(|health| health.endpoint().key.addr == address(endpoint));
        of_endpoint.map(|health| health.is_unhealthy()).collect()
    }

    fn outcomes(&self, outcome: CheckOutcome) -> u64 {
        self.metrics.health().count(outcome)
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_depends_on_endpoints_and_intervals_alone() {
    let bed = Bed::start(rules(100, 0..10, &check(1)));
    sleep(60 * SECOND).await;
    for endpoint in 0..10 {
        let times = bed.script.times(endpoint);
        // Sixty and a part of the first second, within what jitter makes of it.
        assert!((57..=64).contains(&times.len()), "endpoint {endpoint}: {} checks", times.len());
        for pair in times.windows(2) {
            let between = pair[1] - pair[0];
            // Starts are a millisecond apart where several are due at once.
            assert!(between >= SECOND * 89 / 100 && between <= SECOND * 112 / 100, "{between:?}");
        }
    }
    assert_eq!(bed.outcomes(CheckOutcome::Ok) as usize, bed.script.count());
    assert_eq!(bed.metrics.health().late_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn first_checks_are_spread_over_a_second() {
    let begun = Instant::now();
    let bed = Bed::start(rules(1, 0..400, &check(600)));
    sleep(2 * SECOND).await;
    assert_eq!(bed.script.count(), 400);
    let mut tenths = [0_u32; 10];
    for endpoint in 0..400 {
        let first = bed.script.times(endpoint)[0] - begun;
        tenths[first.as_millis().min(999) as usize / 100] += 1;
    }
    // Ten classes of forty: 27.9 is passed by one of a thousand uniform draws, and the seed is fixed.
    let chi_squared: f64 = tenths.iter().map(|count| (f64::from(*count) - 40.0).powi(2) / 40.0).sum();
    assert!(chi_squared < 27.9, "{tenths:?}");
}

#[tokio::test(start_paused = true)]
async fn bad_answers_take_an_endpoint_out_and_good_ones_bring_it_back() {
    let bed = Bed::start(rules(3, [1, 2], &check(2)));
    sleep(5 * SECOND).await;
    assert_eq!((bed.unhealthy(1), bed.unhealthy(2)), (vec![false], vec![false]), "initially healthy");
    bed.script.does(1, Does::Badly);
    let bad = Instant::now();
    while bed.unhealthy(1) == [false] {
        sleep(SECOND / 100).await;
    }
    // Three intervals, with their jitter, and the timeout.
    assert!(bad.elapsed() <= 3 * 2 * SECOND * 11 / 10 + SECOND, "{:?}", bad.elapsed());
    assert_eq!(bed.unhealthy(2), [false]);
    bed.script.does(1, Does::Well);
    let good = Instant::now();
    while bed.unhealthy(1) == [true] {
        sleep(SECOND / 100).await;
    }
    assert!(good.elapsed() <= 2 * 2 * SECOND * 11 / 10 + SECOND, "{:?}", good.elapsed());
    let page = bed.metrics.render();
    assert!(page.contains("tidegate_health_checks_total{outcome=\"status\"} 3\n"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_when_the_timeout_is_over() {
    let bed = Bed::start(rules(1, [1], &check(3)));
    bed.script.does(1, Does::Nothing);
    sleep(12 * SECOND).await;
    assert_eq!(bed.unhealthy(1), [true]);
    // The timeout is part of the interval.
    assert!((3..=5).contains(&bed.script.count()), "{}", bed.script.count());
    assert!(bed.outcomes(CheckOutcome::Timeout) >= 3);
    assert_eq!(bed.script.with(|asked| asked.at_once), 0, "each try has ended");
}

#[tokio::test(start_paused = true)]
async fn a_panic_harms_no_other_check_and_blames_nobody() {
    let bed = Bed::start(rules(1, [1, 2], &check(1)));
    bed.script.does(1, Does::Panic);
    sleep(10 * SECOND).await;
    assert_eq!((bed.unhealthy(1), bed.unhealthy(2)), (vec![false], vec![false]));
    assert!(bed.script.times(1).len() >= 9 && bed.script.times(2).len() >= 9);
    let panics = bed.script.times(1).len();
    assert!(bed.metrics.render().contains(&format!("tidegate_panics_total{{where=\"control\"}} {panics}\n")));
    bed.script.does(1, Does::Badly);
    sleep(5 * SECOND).await;
    assert_eq!(bed.unhealthy(1), [true]);
}

#[tokio::test(start_paused = true)]
async fn publications_end_nothing_that_stays() {
    let mut bed = Bed::start(rules(1, [1, 2], &check(1)));
    bed.script.does(1, Does::Badly);
    sleep(6 * SECOND).await;
    assert_eq!(bed.unhealthy(1), [true]);
    let before = bed.script.count();
    for _ in 0..50 {
        bed.publisher.publish(rules(1, [1, 2], &check(600)));
        assert_eq!(bed.unhealthy(1), [false], "another check knows nothing of it");
        sleep(SECOND / 10).await;
        bed.publisher.publish(rules(1, [1, 2], &check(1)));
        assert_eq!(bed.unhealthy(1), [false], "and the first begins anew");
        sleep(SECOND / 10).await;
    }
    let during = bed.script.count() - before;
    assert!(during < 60, "a check that comes and goes is no reason to ask at once: {during} of 200");
    bed.publisher.publish(rules(1, [1, 2], &check(2)));
    sleep(8 * SECOND).await;
    assert_eq!(bed.unhealthy(1), [true]);
    let (before, asked) = (bed.script.times(1).len(), Instant::now());
    // Ten publications a second, with more rules and more endpoints each time.
    for extra in 0..50 {
        bed.publisher.publish(rules(1 + extra, (1..3).chain(100..101 + extra as u16), &check(2)));
        sleep(SECOND / 10).await;
        assert_eq!(bed.unhealthy(1), [true], "state goes on with the endpoint and the check");
    }
    let during = bed.script.times(1).len() - before;
    assert!((2..=3).contains(&during), "{during} checks in {:?}", asked.elapsed());
    // What is gone is not asked, and begins anew as healthy.
    bed.publisher.publish(rules(1, [2], &check(2)));
    sleep(5 * SECOND).await;
    let gone = bed.script.times(1).len();
    sleep(20 * SECOND).await;
    assert_eq!(bed.script.times(1).len(), gone);
    bed.publisher.publish(rules(1, [1, 2], &check(2)));
    assert_eq!(bed.unhealthy(1), [false]);
    bed.publisher.publish(Snapshot::default());
    sleep(SECOND).await;
    let last = bed.script.count();
    sleep(20 * SECOND).await;
    assert_eq!(bed.script.count(), last);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_is_young_again() {
    let bed = Bed::start(rules(1, [1, 2], &check(1)));
    bed.script.does(1, Does::Badly);
    while bed.unhealthy(1) == [false] {
        sleep(SECOND / 100).await;
    }
    assert_eq!(bed.endpoint(1).age(bed.epoch.elapsed()), None);
    bed.script.does(1, Does::Well);
    while bed.unhealthy(1) == [true] {
        sleep(SECOND / 100).await;
    }
    let age = bed.endpoint(1).age(bed.epoch.elapsed()).expect("it was away");
    assert!(age <= SECOND / 50, "{age:?}");
    assert_eq!(bed.endpoint(2).age(bed.epoch.elapsed()), None, "the other one was there all the time");
}

#[tokio::test(start_paused = true)]
async fn good_answers_end_an_ejection() {
    use crate::balance::endpoint_state::Fault;
    use crate::model::outlier::Outlier;
    let bed = Bed::start(rules(1, [1, 2], &check(1)));
    sleep(5 * SECOND).await;
    let outlier = Outlier {
        errors: 1,
        connect_failures: 1,
        interval: SECOND,
        base: 600 * SECOND,
        longest: 600 * SECOND,
        most_percent: 50,
        codes: Box::default(),
    };
    let endpoint = bed.endpoint(1);
    let live = bed.publisher.view().current();
    let eject = || {
        let now = bed.epoch.elapsed();
        live.balancers().backends()[0].eject(&endpoint, (Fault::Error, 1), &outlier, now, 0.5).expect("ejected");
    };
    eject();
    let begun = Instant::now();
    while endpoint.is_ejected(bed.epoch.elapsed()) {
        sleep(SECOND / 100).await;
    }
    // Two checks that began behind it.
    let took = begun.elapsed();
    assert!(took > SECOND * 8 / 10 && took < SECOND * 23 / 10, "{took:?}");
    // While the check fails as requests do, it stays.
    bed.script.does(1, Does::Badly);
    eject();
    sleep(10 * SECOND).await;
    assert!(endpoint.is_ejected(bed.epoch.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn two_checks_of_an_endpoint_know_nothing_of_each_other() {
    let other = HealthCheck { question: Question::Grpc { service: "s".into() }, ..check(1) };
    let mut snapshot = rules(2, [1], &check(1));
    Arc::make_mut(&mut snapshot.rules)[1].policy = checked_by(other);
    let bed = Bed::start(snapshot);
    sleep(10 * SECOND).await;
    assert!((18..=24).contains(&bed.script.count()), "{}", bed.script.count());
    assert_eq!(bed.unhealthy(1), [false, false]);
    let live = bed.publisher.view().current();
    assert_eq!(counts(&live, bed.epoch.elapsed()), [("ns/a".into(), [1, 0, 0, 0])]);
    let (_, checked, _) = live.checked_endpoints()[0];
    checked.endpoints()[0].fell_ill();
    assert_eq!(counts(&live, bed.epoch.elapsed()), [("ns/a".into(), [0, 0, 1, 0])]);
    let page = bed.metrics.render();
    assert!(!page.contains("tidegate_backend_endpoints"), "only where it is asked for");
}

/// Each endpoint counts once, by the worst that is known of it, and only where a rule has a block that leaves some out.
#[test]
fn endpoints_are_counted_by_what_is_known_of_them() {
    let now = 100 * SECOND;
    let publish = |policy: &Policy| {
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 1_000 });
        let (mut publisher, _feeds) = live::channel(1, metrics, tokio::time::Instant::now());
        let mut snapshot = rules(2, 0..5, &check(1));
        let rules = Arc::make_mut(&mut snapshot.rules);
        rules[0].policy = (!policy.is_empty()).then(|| Arc::new(policy.clone()));
        rules[1].policy = None;
        let backend = &mut Arc::make_mut(&mut snapshot.backends)[0];
        let endpoints = Arc::make_mut(&mut backend.endpoints);
        endpoints[4].terminating = true;
        backend.draining =
            [Endpoint { key: EndpointKey { addr: address(9), uid: None }, ..endpoints[4].clone() }].into();
        publisher.publish(snapshot);
        publisher.view().current()
    };
    let checked = Policy { health_check: Some(Arc::new(check(1))), ..Policy::default() };
    let live = publish(&checked);
    assert_eq!(counts(&live, now), [("ns/a".into(), [4, 0, 0, 2])]);
    live.checked_endpoints()[0].1.endpoints()[0].fell_ill();
    let states = &live.balancers().backends()[0].endpoints;
    let outlier = Outlier {
        errors: 1,
        connect_failures: 1,
        interval: SECOND,
        base: 30 * SECOND,
        longest: 300 * SECOND,
        most_percent: 50,
        codes: [].into(),
    };
    for at in [0, 1] {
        let count = states[at].faulted(Fault::Error);
        let eject = live.balancers().backends()[0].eject(&states[at], (Fault::Error, count), &outlier, now, 0.5);
        assert!(eject.is_some(), "{at}");
    }
    assert_eq!(counts(&live, now), [("ns/a".into(), [2, 1, 1, 2])], "the sick one is ejected as well");
    assert_eq!(counts(&live, now + 60 * SECOND), [("ns/a".into(), [3, 0, 1, 2])], "the time of the ejection is over");
    let ejecting = Policy { outlier: Some(Arc::new(outlier)), ..Policy::default() };
    assert_eq!(counts(&publish(&ejecting), now), [("ns/a".into(), [4, 0, 0, 2])]);
    assert!(counts(&publish(&Policy::default()), now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn terminating_endpoints_are_not_asked() {
    let mut snapshot = rules(1, [1, 2], &check(1));
    let backend = &mut Arc::make_mut(&mut snapshot.backends)[0];
    Arc::make_mut(&mut backend.endpoints)[0].terminating = true;
    let bed = Bed::start(snapshot);
    sleep(5 * SECOND).await;
    assert_eq!(bed.script.times(1).len(), 0);
    assert!(bed.script.times(2).len() >= 4);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_hangs_is_asked_256_at_once_and_late() {
    let bed = Bed::start(rules(1, 0..1_000, &check(1)));
    (0..1_000).for_each(|endpoint| bed.script.does(endpoint, Does::Nothing));
    sleep(10 * SECOND).await;
    let (at_once, count) = (bed.script.with(|asked| asked.most_at_once), bed.script.count());
    assert_eq!(at_once, 256);
    assert!((2_000..=2_816).contains(&count), "{count} checks that take a second each");
    assert!(bed.metrics.health().late_count() > 1_000, "{}", bed.metrics.health().late_count());
    // All get their turn.
    assert!((0..1_000).all(|endpoint| !bed.script.times(endpoint).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn at_most_a_thousand_checks_begin_in_a_second() {
    let bed = Bed::start(rules(1, 0..3_000, &check(1)));
    sleep(10 * SECOND).await;
    let count = bed.script.count();
    assert!((9_000..=10_001).contains(&count), "{count}");
    assert!(bed.metrics.health().late_count() > 1_000);
    assert!((0..3_000).all(|endpoint| bed.script.times(endpoint).len() >= 2), "all get their turn");
}

#[tokio::test(start_paused = true)]
async fn checks_go_on_while_the_process_still_accepts() {
    let bed = Bed::start(rules(1, [1], &check(1)));
    sleep(3 * SECOND).await;
    bed.control.advance(Phase::NotReady);
    let before = bed.script.count();
    sleep(3 * SECOND).await;
    assert!(bed.script.count() > before);
    bed.control.advance(Phase::Closing);
    bed.prober.await.expect("it ends");
    bed.control.joined().await;
    let last = bed.script.count();
    sleep(10 * SECOND).await;
    assert_eq!(bed.script.count(), last);
}
