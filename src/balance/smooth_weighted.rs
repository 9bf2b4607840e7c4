//! `SmoothWeightedRoundRobin`: nginx's smooth weighted round robin with its three numbers.
//!
//! Each candidate has a weight, an effective weight that failures lower and picks raise again, and a current weight. A
//! pick adds to every candidate's current weight its effective one, takes the highest, the first of equals, and lowers
//! that one by the sum of the effective weights. Weights 5, 1, 1 give a a b a c a a (nginx commit 52327e0627f4).

use std::cell::Cell;
use std::sync::Arc;

use super::backend_endpoints::BackendEndpoints;
use super::endpoint_state::{ENDPOINT_WEIGHT, EndpointState};
use super::weights::gcd;

/// One round over candidates, given as current and effective weights; `None` when there is no candidate.
///
/// nginx's order of steps: a candidate's effective weight is read once and may be raised by the caller behind that.
fn round<'a>(candidates: impl Iterator<Item = (usize, &'a Cell<i64>, i64)>) -> Option<usize> {
    let mut total = 0;
    let mut best: Option<(usize, &Cell<i64>)> = None;
    for (index, current, effective) in candidates {
        total += effective;
        current.set(current.get() + effective);
        if best.is_none_or(|(_, highest)| current.get() > highest.get()) {
            best = Some((index, current));
        }
    }
    best.map(|(index, current)| {
        current.set(current.get() - total);
        index
    })
}

/// How current weights change with the sum of all weights. They range over about half of it to both sides: what is left of a
/// larger one would be worked off by small steps, with all picks to one candidate meanwhile.
#[derive(Clone, Copy)]
struct Scale {
    from: i64,
    to: i64,
}

impl Scale {
    fn apply(self, current: i64) -> i64 {
        let scaled = i128::from(current) * i128::from(self.to) / i128::from(self.from.max(1));
        // It is a share of the new sum, unless nothing was there to be scaled.
        i64::try_from(scaled).unwrap_or_default()
    }
}

/// Smooth weighted round robin over the endpoints of a backend; effective weights are the endpoints' own.
#[derive(Debug)]
pub(super) struct SmoothWeighted {
    pub(super) backend: Arc<BackendEndpoints>,
    current: Box<[Cell<i64>]>,
}

impl SmoothWeighted {
    pub(super) fn new(backend: Arc<BackendEndpoints>, start: u32) -> Self {
        let count = backend.endpoints.len();
        let weight = i64::from(ENDPOINT_WEIGHT);
        // Where `picked` rounds with equal weights lead to: the first of them were chosen once each.
        let picked = start as usize % count.max(1);
        let current = (0..count)
            .map(|index| {
                let cost = if index < picked { count as i64 } else { 0 };
                Cell::new((picked as i64 - cost) * weight)
            })
            .collect();
        Self { backend, current }
    }

    /// Keeps the current weight of every endpoint that stays, in proportion; new ones begin at 0.
    pub(super) fn update(&self, backend: Arc<BackendEndpoints>) -> Self {
        let scale = Scale { from: self.current.len() as i64, to: backend.endpoints.len() as i64 };
        let mut old = self.backend.endpoints.iter().zip(&self.current).peekable();
        let current = backend
            .endpoints
            .iter()
            .map(|endpoint| {
                // Both lists are sorted by key.
                while old.next_if(|(before, _)| before.key < endpoint.key).is_some() {}
                let kept = old.next_if(|(before, _)| before.key == endpoint.key);
                Cell::new(kept.map_or(0, |(_, weight)| scale.apply(weight.get())))
            })
            .collect();
        Self { backend, current }
    }

    pub(super) fn pick(&self, allowed: impl Fn(&Arc<EndpointState>) -> bool) -> Option<usize> {
        let candidates = self.backend.endpoints.iter().zip(&self.current).enumerate();
        round(candidates.filter(|(_, (endpoint, _))| allowed(endpoint)).map(|(index, (endpoint, current))| {
            let effective = i64::from(endpoint.effective_weight());
            endpoint.recover();
            (index, current, effective)
        }))
    }
}

/// Splits requests between the backendRefs of a tier by their weights.
#[derive(Debug)]
pub(super) struct Split {
    weights: Box<[u32]>,
    current: Box<[Cell<i64>]>,
}

impl Split {
    /// Longest start: a bound on the rounds that are gone through in advance.
    const MAX_START: u64 = 256;

    pub(super) fn new(weights: impl Iterator<Item = u32>, start: u32) -> Self {
        let weights: Box<[u32]> = weights.collect();
        let split = Self { current: weights.iter().map(|_| Cell::new(0)).collect(), weights };
        // The sequence repeats after the sum of the reduced weights.
        let divisor = u64::from(split.weights.iter().copied().fold(0, gcd).max(1));
        let period = split.weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() / divisor;
        for _ in 0..u64::from(start) % period.clamp(1, Self::MAX_START) {
            split.pick();
        }
        split
    }

    /// Takes over current weights in proportion: `from` gives for each new position the old one of the same backend.
    pub(super) fn carry(&self, old: &Split, from: impl Iterator<Item = Option<usize>>) {
        let scale = Scale { from: old.sum(), to: self.sum() };
        for (current, from) in self.current.iter().zip(from) {
            let kept = from.and_then(|from| old.current.get(from));
            current.set(kept.map_or(0, |weight| scale.apply(weight.get())));
        }
    }

    fn sum(&self) -> i64 {
        self.weights.iter().map(|&weight| i64::from(weight)).sum()
    }

    /// Position of the backendRef whose turn it is; `None` when there is none.
    pub(super) fn pick(&self) -> Option<usize> {
        let candidates = self.current.iter().zip(&self.weights).enumerate();
        round(candidates.map(|(index, (current, &weight))| (index, current, i64::from(weight))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(split: &Split, count: usize) -> String {
        (0..count).map(|_| split.pick().and_then(|index| "abcdefgh".chars().nth(index)).unwrap_or('-')).collect()
    }

    #[test]
    fn weights_give_the_smooth_sequences() {
        for (weights, sequence) in [
            (&[5, 1, 1][..], "aabacaaaabacaa"),
            (&[1, 1], "ababab"),
            (&[3, 2], "ababaababa"),
            (&[4, 2, 1], "abacaba"),
            (&[7], "aaa"),
            (&[], "---"),
        ] {
            let split = Split::new(weights.iter().copied(), 0);
            assert_eq!(letters(&split, sequence.len()), sequence, "weights {weights:?}");
        }
    }

    #[test]
    fn start_shifts_the_sequence() {
        let split = Split::new([5, 1, 1].into_iter(), 2);
        assert_eq!(letters(&split, 7), "bacaaaa");
        // Reduced weights count for the period: 700 rounds are 100 whole ones.
        let split = Split::new([500, 100, 100].into_iter(), 700);
        assert_eq!(letters(&split, 7), "aabacaa");
    }

    #[test]
    fn carried_weights_are_those_of_the_new_scale() {
        for (old, new) in [([9_900, 100], [1, 1]), ([1_000_000, 1], [9, 1]), ([1, 1], [9_900, 100])] {
            for picks in [0, 1, 49, 5_000] {
                let before = Split::new(old.into_iter(), 0);
                letters(&before, picks);
                let split = Split::new(new.into_iter(), 0);
                split.carry(&before, [Some(0), Some(1)].into_iter());
                let sum = new.iter().sum::<u32>() as usize;
                let of_last = letters(&split, sum).matches('b').count();
                let share = new[1] as usize;
                assert!(of_last.abs_diff(share) <= 1, "{old:?} to {new:?} after {picks}: {of_last} of {sum}");
            }
        }
        // Of three the heaviest goes.
        let before = Split::new([9_900, 100, 100].into_iter(), 0);
        letters(&before, 60);
        let split = Split::new([100, 100].into_iter(), 0);
        split.carry(&before, [Some(1), Some(2)].into_iter());
        assert!(letters(&split, 10).matches('a').count().abs_diff(5) <= 1);
    }

    #[test]
    fn carried_weights_go_on_in_the_middle() {
        let old = Split::new([5, 1, 1].into_iter(), 0);
        assert_eq!(letters(&old, 3), "aab");
        // The same refs in another order: position 0 was 2 and so on.
        let new = Split::new([1, 5, 1].into_iter(), 0);
        new.carry(&old, [Some(2), Some(0), Some(1)].into_iter());
        // a c a a of the old names.
        assert_eq!(letters(&new, 4), "babb");
    }
}
