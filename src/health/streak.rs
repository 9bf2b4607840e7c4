//! When good and bad answers in a row change what an endpoint is held to be.

use crate::model::health::HealthCheck;

/// The answers of one endpoint since the last change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streak {
    is_unhealthy: bool,
    /// Answers in a row that speak against what the endpoint is held to be.
    against: u8,
}

impl Streak {
    /// Takes an answer, and tells what the endpoint is held to be from now on if that has changed: whether it is unhealthy.
    pub(super) fn take(&mut self, is_good: bool, check: &HealthCheck) -> Option<bool> {
        if is_good != self.is_unhealthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let threshold = if self.is_unhealthy { check.healthy_threshold } else { check.unhealthy_threshold };
        if self.against < threshold {
            return None;
        }
        *self = Self { is_unhealthy: !self.is_unhealthy, against: 0 };
        Some(self.is_unhealthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::check;

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let check = HealthCheck { unhealthy_threshold: 3, healthy_threshold: 2, ..check(1) };
        let changes = |answers: &str| {
            let mut streak = Streak::default();
            answers.chars().filter_map(|answer| streak.take(answer == '+', &check)).collect::<Vec<_>>()
        };
        assert_eq!(changes("++++--"), [false; 0]);
        assert_eq!(changes("--+--+"), [false; 0], "a good answer begins the count anew");
        assert_eq!(changes("---"), [true]);
        assert_eq!(changes("-----+"), [true]);
        assert_eq!(changes("---+-+-+"), [true], "a bad answer begins it anew, too");
        assert_eq!(changes("---++"), [true, false]);
        assert_eq!(changes("---++--+---"), [true, false, true]);
    }
}
