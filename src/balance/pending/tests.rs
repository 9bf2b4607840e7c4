use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::*;
use crate::model::ids::EndpointKey;
use crate::model::limits::EndpointLimits;

fn bounds(requests: u32) -> Bounds {
    Bounds::of(&EndpointLimits {
        requests: Some(requests),
        connections: None,
        pending: 9,
        pending_timeout: Duration::from_secs(1),
        requests_per_connection: None,
    })
}

fn endpoints(count: u16) -> Arc<[Arc<EndpointState>]> {
    let endpoint = |port| {
        let key = EndpointKey { addr: format!("10.0.0.1:{port}").parse().expect("address"), uid: None };
        Arc::new(EndpointState::new(key, None))
    };
    (1..=count).map(endpoint).collect()
}

fn poll(place: &mut PendingPlace) -> Option<InFlight> {
    match place.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

#[test]
fn a_place_goes_to_whoever_has_waited_longest() {
    let all = endpoints(1);
    let queue = Arc::new(Pending::default());
    let running = all[0].try_begin(1).expect("room for one");
    assert!(all[0].try_begin(1).is_none());
    let mut places: Vec<_> = (0..3).map(|_| queue.join(Arc::clone(&all), bounds(1), 3).expect("room")).collect();
    assert!(queue.join(Arc::clone(&all), bounds(1), 3).is_none(), "three wait");
    assert!(places.iter_mut().all(|place| poll(place).is_none()));
    drop(running);
    // It was handed over: nobody comes between.
    assert_eq!(all[0].in_flight(), 1);
    assert!(all[0].try_begin(1).is_none());
    assert!(poll(&mut places[1]).is_none() && poll(&mut places[2]).is_none());
    let running = poll(&mut places[0]).expect("the first");
    // The second goes without having taken its place, the third gets it.
    drop(running);
    drop(places.remove(1));
    let running = poll(&mut places[1]).expect("the third");
    drop((places, running));
    assert_eq!(all[0].in_flight(), 0);
    assert!(queue.is_empty() && !all[0].is_awaited());
}

#[test]
fn a_place_goes_to_one_that_may_use_the_endpoint() {
    let all = endpoints(2);
    let only = |index: usize| -> Arc<[Arc<EndpointState>]> { [Arc::clone(&all[index])].into() };
    let queues = [Arc::new(Pending::default()), Arc::new(Pending::default())];
    let running: Vec<_> = all.iter().map(|endpoint| endpoint.try_begin(1).expect("room")).collect();
    // Two Services over one pod.
    let mut first = queues[0].join(only(0), bounds(1), 9).expect("room");
    let mut second = queues[1].join(only(1), bounds(1), 9).expect("room");
    let mut third = queues[1].join(only(0), bounds(2), 9).expect("room");
    // It may be one of two there, so that it never waits.
    let of_third = poll(&mut third).expect("room for two");
    let [zero, one] = <[InFlight; 2]>::try_from(running).expect("two");
    drop(one);
    let of_second = poll(&mut second).expect("its endpoint");
    // With the other request the endpoint is still at the bound of the first.
    drop(zero);
    assert!(poll(&mut first).is_none());
    drop(of_third);
    let of_first = poll(&mut first).expect("its endpoint");
    assert!(Arc::ptr_eq(of_first.endpoint(), &all[0]) && Arc::ptr_eq(of_second.endpoint(), &all[1]));
}

/// Threads come, wait, give up and leave; no endpoint ever has more than it may, and nothing is lost.
#[test]
fn threads_keep_the_bound_and_lose_nothing() {
    const MOST: u32 = 3;
    let all = endpoints(2);
    let queue = Arc::new(Pending::default());
    let served = AtomicU32::new(0);
    let seen: [AtomicU32; 2] = Default::default();
    let requests = if std::env::var_os("TIDEGATE_LONG").is_some() { 50_000 } else { 2_000 };
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (all, queue, served, seen) = (&all, &queue, &served, &seen);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                for _ in 0..requests {
                    let place = match all.iter().find_map(|endpoint| endpoint.try_begin(MOST)) {
                        Some(place) => Some(place),
                        None => {
                            let mut waiting = queue.join(Arc::clone(all), bounds(MOST), 100).expect("room");
                            let gives_up = rng.u8(..8) == 0;
                            let mut granted = None;
                            let began = std::time::Instant::now();
                            while granted.is_none() && !gives_up {
                                granted = poll(&mut waiting);
                                std::thread::yield_now();
                                assert!(began.elapsed() < Duration::from_secs(30), "a place was lost");
                            }
                            granted
                        }
                    };
                    if let Some(place) = place {
                        let at = all.iter().position(|one| Arc::ptr_eq(one, place.endpoint())).expect("one of them");
                        assert!(seen[at].fetch_add(1, Ordering::SeqCst) < MOST);
                        if rng.bool() {
                            std::thread::yield_now();
                        }
                        seen[at].fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 8 * requests / 2);
    assert!(all.iter().all(|endpoint| endpoint.in_flight() == 0 && !endpoint.is_awaited()));
    assert!(queue.is_empty());
}
