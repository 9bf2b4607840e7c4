use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::task::Waker;

use super::*;

fn is_ready(waiting: &mut Waiting) -> Option<Permit> {
    match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

fn state(semaphores: &Semaphores) -> (u64, u64) {
    let state = semaphores.plain.state.load(Ordering::Relaxed);
    (used(state), waiting(state))
}

/// What a plain queue would do, step by step.
#[derive(Default)]
struct Model {
    used: u32,
    /// Number and weight, in the order of arrival.
    waiting: VecDeque<(usize, u32)>,
    granted: Vec<usize>,
}

impl Model {
    fn grant(&mut self, limit: u32) {
        while let Some(&(number, weight)) = self.waiting.front()
            && self.used + weight <= limit
        {
            self.used += weight;
            self.granted.push(number);
            self.waiting.pop_front();
        }
    }
}

/// What a step of the comparison holds.
enum Held {
    Permit(#[expect(dead_code, reason = "held until the end")] Permit),
    Waiting(Waiting),
}

/// A hundred thousand seeded steps: arrivals of all weights, ends, cancellations before and after the grant.
#[test]
fn it_does_what_a_plain_queue_does() {
    let limit = 10;
    for seed in 0..100 {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (semaphores, mut model) = (Semaphores::default(), Model::default());
        let mut held: Vec<(usize, u32, Held)> = Vec::new();
        for number in 0..1_000 {
            if chance.bool() {
                let weight = chance.u32(1..=limit);
                let fits = model.waiting.is_empty() && model.used + weight <= limit;
                match semaphores.plain().try_acquire(weight, limit) {
                    Ok(permit) => {
                        assert!(fits, "somebody waits, or there is no room");
                        model.used += weight;
                        held.push((number, weight, Held::Permit(permit)));
                    }
                    Err(handle) => {
                        assert!(!fits);
                        let joined = handle.join(weight, 8);
                        assert_eq!(joined.is_some(), model.waiting.len() < 8);
                        if let Some(waiting) = joined {
                            model.waiting.push_back((number, weight));
                            held.push((number, weight, Held::Waiting(waiting)));
                        }
                    }
                }
            } else if !held.is_empty() {
                let (number, weight, one) = held.swap_remove(chance.usize(..held.len()));
                let was_granted = model.granted.iter().position(|granted| *granted == number);
                match (&one, was_granted) {
                    (Held::Permit(_), _) => model.used -= weight,
                    // It leaves without having taken its permit.
                    (Held::Waiting(_), Some(at)) => {
                        model.granted.remove(at);
                        model.used -= weight;
                    }
                    (Held::Waiting(_), None) => model.waiting.retain(|(other, _)| *other != number),
                }
                drop(one);
                model.grant(limit);
            }
            for (number, _, one) in &mut held {
                if let Held::Waiting(waiting) = one
                    && chance.u8(..3) == 0
                {
                    let permit = is_ready(waiting);
                    let granted = model.granted.iter().position(|granted| granted == number);
                    assert_eq!(permit.is_some(), granted.is_some(), "in the order of arrival, nobody overtakes");
                    if let (Some(permit), Some(at)) = (permit, granted) {
                        model.granted.remove(at);
                        *one = Held::Permit(permit);
                    }
                }
            }
            assert_eq!(state(&semaphores), (model.used.into(), model.waiting.len() as u64));
        }
        drop(held);
        assert_eq!(state(&semaphores), (0, 0), "nothing is lost");
    }
}

/// Four threads that take, wait, give up and return at the same time never have more than the limit.
#[test]
fn threads_never_exceed_the_limit() {
    const LIMIT: u32 = 7;
    let (semaphores, now, most) = (Semaphores::default(), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (semaphores, now, most) = (&semaphores, &now, &most);
            scope.spawn(move || {
                let mut chance = fastrand::Rng::with_seed(thread);
                for _ in 0..20_000 {
                    let weight = chance.u32(1..=4);
                    let permit = match semaphores.plain().try_acquire(weight, LIMIT) {
                        Ok(permit) => Some(permit),
                        Err(handle) => handle.join(weight, 100).and_then(|mut waiting| {
                            (0..chance.u32(..200)).find_map(|_| {
                                std::thread::yield_now();
                                is_ready(&mut waiting)
                            })
                        }),
                    };
                    if permit.is_some() {
                        most.fetch_max(now.fetch_add(weight, Ordering::SeqCst) + weight, Ordering::SeqCst);
                        now.fetch_sub(weight, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(most.into_inner() <= LIMIT);
    assert_eq!(state(&semaphores), (0, 0));
}

#[test]
fn a_waiter_is_woken_with_its_permit() {
    struct Count(AtomicU32);
    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (semaphores, count) = (Semaphores::default(), Arc::new(Count(AtomicU32::new(0))));
    let first = semaphores.plain().try_acquire(1, 1).expect("room");
    let Err(handle) = semaphores.plain().try_acquire(1, 1) else { panic!("no room") };
    let mut waiting = handle.join(1, 1).expect("a place");
    let waker = Waker::from(Arc::clone(&count));
    assert!(Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(first);
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(is_ready(&mut waiting).is_some());
}

/// A new limit holds for those who wait as soon as somebody comes with it.
#[test]
fn a_larger_limit_helps_those_who_wait() {
    let semaphores = Semaphores::default();
    let first = semaphores.plain().try_acquire(1, 1).expect("room");
    let Err(handle) = semaphores.plain().try_acquire(1, 1) else { panic!("no room") };
    let mut waiting = handle.join(1, 5).expect("a place");
    assert!(is_ready(&mut waiting).is_none());
    let Err(handle) = semaphores.plain().try_acquire(1, 3) else { panic!("it overtakes") };
    let mut newcomer = handle.join(1, 5).expect("a place");
    assert!(is_ready(&mut waiting).is_some() && is_ready(&mut newcomer).is_some());
    drop(first);
}

#[test]
fn a_key_lives_for_as_long_as_somebody_uses_it() {
    let semaphores = Semaphores::default();
    let permit = semaphores.of(7).try_acquire(1, 1).expect("room");
    let other = semaphores.of(8).try_acquire(1, 1).expect("room of its own");
    let Err(handle) = semaphores.of(7).try_acquire(1, 1) else { panic!("no room") };
    let mut waiting = handle.join(1, 1).expect("a place");
    assert_eq!(semaphores.keys(), 2);
    drop(permit);
    // It leaves with a permit that it has not taken.
    drop(other);
    assert_eq!(semaphores.keys(), 1);
    let permit = is_ready(&mut waiting).expect("its turn");
    drop((permit, waiting));
    assert_eq!(semaphores.keys(), 0);
}
