//! A bound on lines of the process log that the other side of a connection can cause.

use std::cell::Cell;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};
use std::time::Duration;

use rustc_hash::FxHasher;
use tokio::time::Instant;

/// A place has at most one line in this time.
const INTERVAL: Duration = Duration::from_secs(10);
const PLACES: usize = 16;

/// Admits lines about subjects, such as addresses: each falls to one of a few places, and each place has a line from time
/// to time. A noisy subject so leaves nearly all others their lines. Belongs to one thread.
#[derive(Debug, Default)]
pub struct LogLimit {
    places: [Cell<Place>; PLACES],
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    last: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// Asks for a line about `subject` at `now`. It has one when this gives a number: that of the lines of its place which
    /// were held back since the last one.
    pub fn admit(&self, subject: &impl Hash, now: Instant) -> Option<u64> {
        let hash = BuildHasherDefault::<FxHasher>::default().hash_one(subject);
        // The upper bits of this hash are the good ones.
        let place = &self.places[(hash >> 60) as usize % PLACES];
        let Place { last, held_back } = place.get();
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            place.set(Place { last, held_back: held_back + 1 });
            return None;
        }
        place.set(Place { last: Some(now), held_back: 0 });
        Some(held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_a_line_each_interval_and_others_have_their_own() {
        let limit = LogLimit::default();
        let now = Instant::now();
        assert_eq!(limit.admit(&0, now), Some(0));
        assert_eq!(limit.admit(&0, now), None);
        assert_eq!(limit.admit(&0, now + INTERVAL / 2), None);
        assert_eq!(limit.admit(&0, now + INTERVAL), Some(2));
        let others = (1..1_000).filter(|subject| limit.admit(subject, now + INTERVAL).is_some()).count();
        assert_eq!(others, PLACES - 1, "as many as there are other places");
    }
}
