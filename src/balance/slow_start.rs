//! Slow start: a new endpoint comes to its full share over a while, so that it can warm up.
//!
//! The algorithm chooses as ever. What it chooses is passed over by chance while it is young, and the algorithm is asked
//! again: in the long run the endpoint gets `f` of the share of an old one. There is nothing to keep, so an endpoint that
//! has its full share can never lag behind; where all endpoints are equally young, all have equal shares.

use std::time::Duration;

/// The share of an endpoint that has just come: without requests it would never warm up.
const LEAST_SHARE: f32 = 0.1;

/// How often the algorithm is asked again at most.
pub(super) const MOST_PICKS: usize = 8;

/// Whether an endpoint of this age is passed over; `None` for one that is no newcomer.
pub(super) fn is_passed_over(age: Option<Duration>, window: Duration, rng: &mut fastrand::Rng) -> bool {
    match age {
        Some(age) if age < window => rng.f32() >= share(age, window),
        Some(_) | None => false,
    }
}

/// The share of an endpoint of this age beside one that has its full share, from 0.1 to 1.
#[must_use]
pub fn share(age: Duration, window: Duration) -> f32 {
    (age.as_secs_f32() / window.as_secs_f32()).clamp(LEAST_SHARE, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_all() {
        let window = Duration::from_secs(100);
        for (age, expected) in [(0, 0.1), (5, 0.1), (10, 0.1), (50, 0.5), (90, 0.9), (100, 1.0), (900, 1.0)] {
            assert_eq!(share(Duration::from_secs(age), window), expected, "{age}");
        }
        let mut rng = fastrand::Rng::with_seed(1);
        assert!((0..1_000).all(|_| !is_passed_over(None, window, &mut rng)));
        assert!((0..1_000).all(|_| !is_passed_over(Some(window), window, &mut rng)));
    }
}
