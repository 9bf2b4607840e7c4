use std::sync::Barrier;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn is_admitted(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Admitted { .. })
}

/// A bucket as the textbook has it: requests in it, refilled by time.
struct Model {
    tokens: f64,
    at: u64,
}

#[test]
fn a_bucket_admits_as_a_plain_model_does() {
    let mut chance = fastrand::Rng::with_seed(10);
    for _ in 0..200 {
        let interval = chance.u64(1_000..SECOND);
        let burst = chance.u32(1..50);
        let (bucket, mut model) = (Bucket::default(), Model { tokens: f64::from(burst), at: 0 });
        let mut now = 0;
        let (mut admitted, mut by_model) = (0, 0);
        for _ in 0..2_000 {
            now += chance.u64(0..interval * 2);
            model.tokens = (model.tokens + (now - model.at) as f64 / interval as f64).min(f64::from(burst));
            model.at = now;
            if model.tokens >= 1.0 - 1e-9 {
                model.tokens -= 1.0;
                by_model += 1;
            }
            admitted += i32::from(is_admitted(bucket.take(now, interval, burst)));
        }
        assert!((admitted - by_model).abs() <= 1, "{admitted} {by_model}, one each {interval} ns, burst {burst}");
    }
}

/// Whoever waits for as long as it is told is admitted, and what is left is true.
#[test]
fn what_a_bucket_says_is_true() {
    let mut chance = fastrand::Rng::with_seed(11);
    for _ in 0..500 {
        let (interval, burst) = (chance.u64(1..SECOND), chance.u32(1..20));
        let (bucket, mut now) = (Bucket::default(), chance.u64(0..SECOND));
        for _ in 0..50 {
            match bucket.take(now, interval, burst) {
                Verdict::Admitted { left, full_after } => {
                    let copy = Bucket(AtomicU64::new(bucket.0.load(Ordering::Relaxed)));
                    assert!((0..left).all(|_| is_admitted(copy.take(now, interval, burst))));
                    assert!(!is_admitted(copy.take(now, interval, burst)), "no more than it said");
                    let copy = Bucket(AtomicU64::new(bucket.0.load(Ordering::Relaxed)));
                    let full = now + full_after;
                    assert!((0..burst).all(|_| is_admitted(copy.take(full, interval, burst))), "full by then");
                    now += chance.u64(0..interval);
                }
                Verdict::Refused { after, .. } => {
                    assert!(!is_admitted(bucket.take(now + after - 1, interval, burst)), "not before");
                    now += after;
                    assert!(is_admitted(bucket.take(now, interval, burst)));
                }
            }
        }
    }
}

#[test]
fn threads_together_are_admitted_as_often_as_one() {
    let (bucket, start) = (Bucket::default(), Barrier::new(8));
    let admitted: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..10_000).map(|_| u32::from(is_admitted(bucket.take(5, SECOND, 1_234)))).sum::<u32>()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(admitted, 1_234);
}

/// A bucket that owes more than the new limit holds is not refused for longer than that holds.
#[test]
fn a_smaller_filter_counts_from_now_on() {
    let bucket = Bucket::default();
    for _ in 0..1_000 {
        bucket.take(0, SECOND, 1_000);
    }
    assert_eq!(bucket.take(0, SECOND, 2), Verdict::Refused { after: SECOND, full_after: 2 * SECOND });
    assert!(is_admitted(bucket.take(SECOND, SECOND, 2)));
}

#[test]
fn each_key_has_a_bucket_of_its_own() {
    let buckets = Buckets::new(64);
    let mut chance = fastrand::Rng::with_seed(12);
    let keys: Vec<u64> = (0..8).map(|_| chance.u64(..)).collect();
    for key in &keys {
        assert!(is_admitted(buckets.of(*key, 0).take(0, SECOND, 1)));
    }
    for key in &keys {
        assert!(!is_admitted(buckets.of(*key, 0).take(0, SECOND, 1)), "its bucket is empty by now");
    }
    assert_eq!(buckets.given_up(), 0);
}

/// A full set gives up the bucket that is the nearest to full, and one that is full costs nobody anything.
#[test]
fn a_full_table_errs_on_the_lenient_side() {
    let buckets = Buckets::new(WAYS);
    // Key 1 owes the most.
    for key in 1..=8 {
        for _ in 0..(20 - key) {
            buckets.of(key, 0).take(0, SECOND, 100);
        }
    }
    assert!(is_admitted(buckets.of(9, 0).take(0, SECOND, 1)), "a newcomer has a full bucket");
    assert_eq!(buckets.given_up(), 1);
    let Verdict::Admitted { left, .. } = buckets.of(1, 0).take(0, SECOND, 100) else { panic!("refused") };
    assert_eq!(left, 80, "the one that owes the most is still known");
    // Once all are full again, newcomers take their cells.
    let later = 1_000 * SECOND;
    for key in 100..108 {
        buckets.of(key, later).take(later, SECOND, 1);
    }
    assert_eq!(buckets.given_up(), 1);
}

/// How often keys that come again find their bucket gone, as the module's documentation says.
#[test]
fn the_table_is_as_large_as_its_documentation_says() {
    let buckets = Buckets::new(CELLS);
    let mut chance = fastrand::Rng::with_seed(13);
    for _ in 0..30_000 {
        buckets.of(chance.u64(..), 0).take(0, SECOND, 10);
    }
    let share = buckets.given_up() as f64 / 30_000.0;
    assert!(share < 0.0005, "{share}");
    for _ in 30_000..60_000 {
        buckets.of(chance.u64(..), 0).take(0, SECOND, 10);
    }
    let share = buckets.given_up() as f64 / 60_000.0;
    assert!(share < 0.02, "{share}");
}
