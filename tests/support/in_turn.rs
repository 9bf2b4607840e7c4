//! Times of requests with and without something that must not matter to them, measured in turn: what the machine does
//! besides falls on both alike.

use std::fmt;
use std::time::Duration;

/// Times, each list sorted.
pub struct InTurn {
    with: Vec<Duration>,
    without: Vec<Duration>,
}

impl InTurn {
    /// Measures `rounds` times `requests` requests with it and as many without. `prepare` is told before each of them which
    /// it is, and `one` makes one request and says how long it took.
    pub fn measure(
        (rounds, requests): (usize, usize),
        mut prepare: impl FnMut(bool),
        mut one: impl FnMut(bool) -> Duration,
    ) -> Self {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..2 * rounds {
            // Two of a kind in a row, so that each comes first as often as the other.
            let is_with = round % 4 == 1 || round % 4 == 2;
            prepare(is_with);
            let times = if is_with { &mut with } else { &mut without };
            times.extend((0..requests).map(|_| one(is_with)));
        }
        with.sort_unstable();
        without.sort_unstable();
        Self { with, without }
    }

    /// The time that so many of a hundred requests took at most, with it and without.
    pub fn percentile(&self, percent: usize) -> (Duration, Duration) {
        let of = |times: &[Duration]| times[(times.len() * percent / 100).min(times.len() - 1)];
        (of(&self.with), of(&self.without))
    }

    /// That time with it in parts of that without.
    pub fn ratio(&self, percent: usize) -> f64 {
        let (with, without) = self.percentile(percent);
        with.as_secs_f64() / without.as_secs_f64()
    }
}

impl fmt::Display for InTurn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests each", self.with.len())?;
        for percent in [50, 99] {
            let (with, without) = self.percentile(percent);
            write!(f, ", p{percent} {with:?} with and {without:?} without ({:.2})", self.ratio(percent))?;
        }
        Ok(())
    }
}
