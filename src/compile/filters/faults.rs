//! What is wrong with the filters of one rule.

use crate::compile::expressions::Expressions;
use crate::compile::report::{Refused, Report};
use crate::model::request_values::RequestKey;

/// The reason of a warning about a filter that changes nothing.
const NO_CHANGE: &str = "NoChange";

/// Faults of one rule's filters, and how many; with the expressions that they use.
pub(in crate::compile) struct Faults<'m, 'r> {
    pub(super) report: &'m mut Report<'r>,
    pub(super) expressions: &'m mut Expressions,
    /// The rule's position.
    pub(super) rule: usize,
    pub(super) count: usize,
}

impl<'m, 'r> Faults<'m, 'r> {
    pub(in crate::compile) fn new(report: &'m mut Report<'r>, expressions: &'m mut Expressions, rule: usize) -> Self {
        Self { report, expressions, rule, count: 0 }
    }

    /// Drops the rule.
    pub(super) fn drop_rule(&mut self, path: impl ToString, found: impl Into<String>, expected: impl Into<String>) {
        self.count += 1;
        self.report.unsupported(self.rule, path, found, expected);
    }

    /// Reads the keys of a filter; one that cannot be read drops the rule.
    pub(super) fn keys(
        &mut self,
        read: impl FnOnce(usize, &mut Report<'_>) -> Result<Vec<RequestKey>, Refused>,
    ) -> Option<Vec<RequestKey>> {
        let keys = read(self.rule, self.report);
        self.count += usize::from(keys.is_err());
        keys.ok()
    }

    /// Warns of a filter that changes nothing; the rule serves.
    pub(super) fn warn(&mut self, path: impl ToString, found: &str, effect: &str) {
        self.report.warn(path, NO_CHANGE, found, effect);
    }
}
