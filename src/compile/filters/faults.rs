//! What is wrong with the filters of one rule.

use http::StatusCode;

use crate::api::common as api;
use crate::compile::expressions::Expressions;
use crate::compile::matches::Predicate;
use crate::compile::report::{FieldPath, Report};
use crate::compile::request_keys;
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

    /// Reads the field `keys` of a limit; one that cannot be read drops the rule.
    pub(super) fn keys(
        &mut self,
        keys: &[api::RequestKey],
        at: FieldPath<'_>,
        predicates: Option<&[Predicate]>,
    ) -> Option<Vec<RequestKey>> {
        let keys = request_keys::compile(keys, (at, "keys"), predicates, (Some(self.rule), self.report));
        self.count += usize::from(keys.is_err());
        keys.ok()
    }

    /// Reads the field `statusCode` of a limit, the status of its refusals; another one drops the rule.
    pub(super) fn refusal(&mut self, code: u16, at: FieldPath<'_>) -> Option<StatusCode> {
        let status = StatusCode::from_u16(code).ok().filter(|_| (400..600).contains(&code));
        if status.is_none() {
            self.drop_rule(at.field("statusCode"), code.to_string(), "400 to 599");
        }
        status
    }

    /// Warns of a filter that changes nothing; the rule serves.
    pub(super) fn warn(&mut self, path: impl ToString, found: &str, effect: &str) {
        self.report.warn(path, NO_CHANGE, found, effect);
    }
}
