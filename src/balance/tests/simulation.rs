//! Minutes of traffic in simulated time: pods come, go, refuse, hang and recover while requests are picked, tried
//! again and carried over from version to version. The same seed gives the same run.

use std::collections::BTreeMap;

use super::*;

/// Time between two requests.
const STEP: Duration = Duration::from_millis(5);
/// Requests of one run.
const REQUESTS: u32 = 40_000;
/// Requests between two changes of the world.
const CHANGE: u32 = 400;
/// When a request to a silent pod is given up.
const DEADLINE: Duration = Duration::from_secs(1);
/// Most endpoints that a request may try while none has seen a byte of it.
const MOST_TRIES: usize = 5;

/// What a pod does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// It answers after this many milliseconds.
    Answers(u64),
    /// It accepts and never answers.
    Silent,
    /// It accepts no connection.
    Refuses,
}

#[derive(Debug, Default)]
struct Outcome {
    answered: u32,
    timed_out: u32,
    refused: u32,
}

struct World {
    bed: Bed,
    moods: BTreeMap<u16, Mood>,
    algorithm: Algorithm,
    chance: fastrand::Rng,
    /// Requests under way: when they end, and what counts them.
    under_way: Vec<(Duration, InFlight)>,
}

impl World {
    fn new(algorithm: Algorithm, seed: u64) -> Self {
        let moods = BTreeMap::from([(0, Mood::Answers(5)), (1, Mood::Answers(10)), (2, Mood::Silent)]);
        let bed = Bed::new(&Self::snapshots(&algorithm, &moods));
        Self { bed, moods, algorithm, chance: fastrand::Rng::with_seed(seed), under_way: Vec::new() }
    }

    fn snapshots(algorithm: &Algorithm, moods: &BTreeMap<u16, Mood>) -> Snapshots {
        let pods = moods.keys().copied();
        Snapshots::default().backend("a", pods).rule("r", "0", algorithm.clone(), &[(Some("a"), 1, 0)])
    }

    /// A pod comes, goes or changes its mood. Pod 0 always answers, and there are at most five.
    fn change(&mut self) {
        let pod = self.chance.u16(1..9);
        let mood = match self.chance.u8(..4) {
            0 | 1 => Mood::Answers(self.chance.u64(1..50)),
            2 => Mood::Silent,
            _ => Mood::Refuses,
        };
        if self.moods.remove(&pod).is_none() || self.chance.bool() {
            if self.moods.len() == MOST_TRIES {
                let gone = *self.moods.keys().last().expect("five pods");
                self.moods.remove(&gone);
            }
            self.moods.insert(pod, mood);
        }
        self.bed.publish(&Self::snapshots(&self.algorithm, &self.moods));
    }

    /// One request, tried elsewhere while pods refuse it.
    fn request(&mut self, outcome: &mut Outcome) {
        let (now, hash) = (self.bed.now, Some(self.chance.u64(..)));
        let mut tried: Vec<Arc<EndpointState>> = Vec::new();
        while tried.len() < MOST_TRIES {
            let Pick::Endpoint(picked) = self.bed.ask(PickRequest { hash, avoid: &tried }) else {
                panic!("there is a pod that answers")
            };
            let endpoint = picked.endpoint;
            let mood = *self.moods.get(&number(&endpoint)).expect("a pod of the published version");
            let takes = match mood {
                Mood::Refuses => {
                    endpoint.failed(now);
                    endpoint.refused(now);
                    assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, &endpoint)), "tried twice");
                    tried.push(endpoint);
                    continue;
                }
                Mood::Silent => DEADLINE,
                Mood::Answers(millis) => Duration::from_millis(millis),
            };
            self.under_way.push((now + takes, endpoint.begin()));
            if mood == Mood::Silent {
                outcome.timed_out += 1;
            } else {
                endpoint.observe_latency(takes, now);
                endpoint.succeeded();
                outcome.answered += 1;
            }
            return;
        }
        outcome.refused += 1;
    }

    fn run(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for step in 1..=REQUESTS {
            self.bed.now += STEP;
            let now = self.bed.now;
            self.under_way.retain(|(end, _)| *end > now);
            if step % CHANGE == 0 {
                self.change();
            }
            self.request(&mut outcome);
        }
        self.under_way.clear();
        outcome
    }
}

#[test]
fn a_pod_that_answers_is_found_while_others_fail() {
    for seed in [1, 2, 3] {
        let mut timed_out = BTreeMap::new();
        for algorithm in algorithms() {
            let mut world = World::new(algorithm.clone(), seed);
            let outcome = world.run();
            assert_eq!(outcome.refused, 0, "{algorithm:?} {seed}: {outcome:?}");
            assert_eq!(outcome.answered + outcome.timed_out, REQUESTS);
            for backend in world.bed.balancers.backends() {
                let busy: Vec<_> = backend.endpoints.iter().filter(|endpoint| endpoint.in_flight() != 0).collect();
                assert!(busy.is_empty(), "{algorithm:?} {seed}: requests are over, {busy:?}");
            }
            timed_out.insert(format!("{algorithm:?}"), outcome.timed_out);
        }
        let (least, in_turn) = (timed_out["LeastRequest"], timed_out["RoundRobin"]);
        assert!(least * 2 < in_turn, "{seed}: silent pods get few requests: {timed_out:?}");
    }
}
