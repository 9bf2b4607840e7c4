use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::super::connections::ConnectionPool;
use super::*;
use crate::model::ids::EndpointKey;

fn endpoint() -> Arc<EndpointState> {
    let key = EndpointKey { addr: "10.0.0.1:80".parse().expect("address"), uid: None };
    Arc::new(EndpointState::new(key, None))
}

fn poll(wait: &mut ConnectionWait) -> Option<Connected> {
    match wait.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<usize>>);

impl ConnectionPool for Asked {
    fn asked(&self, endpoint: usize) {
        self.0.lock().expect("no panic").push(endpoint);
    }
}

#[test]
fn a_place_goes_to_whoever_has_waited_longest() {
    let endpoint = endpoint();
    let open = [(); 2].map(|()| Connected::try_new(&endpoint, 2).expect("room"));
    assert!(Connected::try_new(&endpoint, 2).is_none());
    let mut waits = [(); 3].map(|()| ConnectionWait::new(&endpoint, 2, false));
    assert!(waits.iter_mut().all(|wait| poll(wait).is_none()) && endpoint.connections().is_awaited());
    let [first, second] = open;
    drop(first);
    // It was handed over: nobody comes between.
    assert!(Connected::try_new(&endpoint, 2).is_none());
    assert_eq!(endpoint.connections().open(), 2);
    let [mut one, two, mut three] = waits;
    let first = poll(&mut one).expect("the first");
    // The second goes without having taken its place, the third gets it.
    drop(second);
    drop(two);
    let second = poll(&mut three).expect("the third");
    drop((first, second, one, three));
    assert!(endpoint.connections().open() == 0 && !endpoint.connections().is_awaited());
}

#[test]
fn each_waits_for_its_own_bound_and_rules_without_one_count() {
    let endpoint = endpoint();
    let free = [(); 3].map(|()| Connected::new(&endpoint));
    let mut narrow = ConnectionWait::new(&endpoint, 1, false);
    let mut wide = ConnectionWait::new(&endpoint, 3, false);
    let [first, second, third] = free;
    drop(first);
    let of_wide = poll(&mut wide).expect("the third of three");
    drop((second, third));
    assert!(poll(&mut narrow).is_none(), "one is open");
    drop(of_wide);
    assert!(poll(&mut narrow).is_some());
    // One that has waited in vain leaves no trace.
    drop((narrow, wide));
    assert!(endpoint.connections().open() == 0 && !endpoint.connections().is_awaited());
}

#[test]
fn pools_are_asked_by_everybody_who_begins_to_wait() {
    let endpoint = endpoint();
    let pools = [Arc::new(Asked::default()), Arc::new(Asked::default())];
    let known = pools.each_ref().map(|pool| -> Arc<dyn ConnectionPool> { Arc::<Asked>::clone(pool) });
    known.iter().zip([7, 9]).for_each(|(pool, name)| endpoint.connections().add_pool(name, Arc::clone(pool)));
    let asked = || pools.each_ref().map(|pool| std::mem::take(&mut *pool.0.lock().expect("no panic")));
    let place = Connected::try_new(&endpoint, 1).expect("room");
    assert_eq!(asked(), [const { Vec::<usize>::new() }; 2]);
    let wait = ConnectionWait::new(&endpoint, 1, true);
    assert_eq!(asked(), [vec![7], vec![9]]);
    assert!(endpoint.connections().is_awaited_by_one_without());
    endpoint.connections().remove_pool(7, &known[0]);
    let other = ConnectionWait::new(&endpoint, 1, false);
    assert_eq!(asked(), [vec![], vec![9]]);
    drop(wait);
    assert!(endpoint.connections().is_awaited() && !endpoint.connections().is_awaited_by_one_without());
    drop((place, other));
}

/// Threads open, wait, give up and close; the endpoint never has more than it may, and nothing is lost.
#[test]
fn threads_keep_the_bound_and_lose_nothing() {
    const MOST: u32 = 3;
    let endpoint = endpoint();
    let (served, open) = (AtomicU32::new(0), AtomicU32::new(0));
    let rounds = if std::env::var_os("TIDEGATE_LONG").is_some() { 50_000 } else { 2_000 };
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (endpoint, served, open) = (&endpoint, &served, &open);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..rounds {
                    let mut place = Connected::try_new(endpoint, MOST);
                    if place.is_none() {
                        let mut wait = ConnectionWait::new(endpoint, MOST, rng.bool());
                        let gives_up = rng.u8(..8) == 0;
                        let began = Instant::now();
                        while place.is_none() && !gives_up {
                            place = poll(&mut wait);
                            std::thread::yield_now();
                            assert!(began.elapsed() < Duration::from_secs(30), "a place was lost");
                        }
                    }
                    if let Some(place) = place {
                        assert!(open.fetch_add(1, Ordering::SeqCst) < MOST);
                        if rng.bool() {
                            std::thread::yield_now();
                        }
                        open.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 8 * rounds / 2);
    assert!(endpoint.connections().open() == 0 && !endpoint.connections().is_awaited());
}
