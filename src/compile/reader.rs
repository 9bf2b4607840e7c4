//! What compiling the blocks of a rule has in common: saying what is wrong, and that something was.

use std::time::Duration;

use super::report::{FieldPath, Report};
use crate::api::gateway_route::{DurationText, GatewayRouteSpec, KnownValue, OpenEnum, RouteDefaults, RouteRule};

/// Reads the values of one block.
pub(super) struct Reader<'m, 'r> {
    /// The rule by its position; `None` for a block of `spec.defaults` alone.
    pub(super) rule: Option<usize>,
    pub(super) report: &'m mut Report<'r>,
    /// Something was refused.
    pub(super) is_broken: bool,
}

/// A block that a rule has, or inherits from its route: its name, and where it stands in each of the two.
pub(super) struct Inheritable<'s, B> {
    pub(super) name: &'static str,
    pub(super) own: fn(&'s RouteRule) -> Option<&'s B>,
    pub(super) inherited: fn(&'s RouteDefaults) -> Option<&'s B>,
}

impl<'s, B> Inheritable<'s, B> {
    /// Reads the block that holds for a rule; `Ok(None)` where neither the rule nor the defaults of its route have it: a
    /// delegating rule may have it. `Err` after a report that drops the rule.
    ///
    /// `rule` comes with its position; `None` checks the block of `spec.defaults` alone.
    pub(super) fn read<'r, T>(
        &self,
        (spec, rule): (&'s GatewayRouteSpec, Option<(usize, &'s RouteRule)>),
        report: &mut Report<'r>,
        read: impl FnOnce(&mut Reader<'_, 'r>, &'s B, FieldPath<'_>) -> T,
    ) -> Result<Option<T>, ()> {
        let own = rule.and_then(|(index, rule)| Some((index, (self.own)(rule)?)));
        let inherited = spec.defaults.as_deref().and_then(self.inherited);
        let Some(block) = own.map(|(_, block)| block).or(inherited) else { return Ok(None) };
        let at = own.map_or(FieldPath::DEFAULTS, |(index, _)| FieldPath::rule(index));
        let at = at.field(self.name);
        let mut reader = Reader { rule: rule.map(|(index, _)| index), report, is_broken: false };
        let read = read(&mut reader, block, at);
        if reader.is_broken { Err(()) } else { Ok(Some(read)) }
    }
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
