//! What compiling the blocks of a rule has in common: saying what is wrong, and that something was.

use std::time::Duration;

use super::report::{FieldPath, Report};
use crate::api::gateway_route::{DurationText, KnownValue, OpenEnum};

/// Reads the values of one block.
pub(super) struct Reader<'m, 'r> {
    /// The rule by its position; `None` for a block of `spec.defaults` alone.
    pub(super) rule: Option<usize>,
    pub(super) report: &'m mut Report<'r>,
    /// Something was refused.
    pub(super) is_broken: bool,
}

impl Reader<'_, '_> {
    pub(super) fn refuse(&mut self, at: FieldPath<'_>, found: impl Into<String>, expected: &str) {
        self.report.unsupported(self.rule, at, found, expected);
        self.is_broken = true;
    }

    /// The value, where this version knows it.
    pub(super) fn known<T: KnownValue>(&mut self, at: FieldPath<'_>, value: &OpenEnum<T>) -> Option<T> {
        let known = value.known();
        if known.is_none() {
            self.report.unknown(self.rule, at, value);
            self.is_broken = true;
        }
        known
    }

    pub(super) fn duration(&mut self, at: FieldPath<'_>, text: &DurationText) -> Option<Duration> {
        let duration = text.as_duration();
        if duration.is_none() {
            self.refuse(at, &text.0, "a duration such as 25ms or 1s");
        }
        duration
    }

    /// A duration where zero makes no sense.
    pub(super) fn duration_above_zero(&mut self, at: FieldPath<'_>, text: &DurationText) -> Option<Duration> {
        let duration = self.duration(at, text)?;
        if duration.is_zero() {
            self.refuse(at, &text.0, "a duration above 0s; leave the block out to switch it off");
        }
        Some(duration)
    }
}
