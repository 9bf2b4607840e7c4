//! Findings while one object compiles: collected with the object's name and place, so that every diagnostic has both.

use super::diagnostics::{Diagnostic, ObjectRef, Origin, Severity};
use crate::model::ids::ObjectName;

/// Condition reasons of the API that this stage gives.
pub(super) mod reason {
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    pub const DELEGATION_CYCLE: &str = "DelegationCycle";
    pub const DUPLICATE_MATCH: &str = "DuplicateMatch";
    pub const INVALID_KIND: &str = "InvalidKind";
    pub const NO_MATCHING_HOSTNAME: &str = "NoMatchingListenerHostname";
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    pub const NOT_ALLOWED: &str = "NotAllowedByListeners";
    pub const NOT_DELEGATED: &str = "NotDelegated";
    pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
}

/// What a finding about a rule costs.
pub(super) mod effect {
    pub const RULE_DROPPED: &str = "this rule is left out, the others serve";
    pub const SHARE_500: &str = "this share of the rule's requests answers 500";
    pub const ROUTE_REFUSED: &str = "the route is not in force";
    pub const MATCH_LOST: &str = "the winner serves, the other matches of this route too";
}

/// Collects the findings about one route.
pub(super) struct Report {
    object: ObjectRef,
    origin: Option<Origin>,
    /// All findings, in the order in which they were made.
    pub(super) findings: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(name: &ObjectName, origin: Option<Origin>) -> Self {
        Self { object: ObjectRef { kind: "GatewayRoute".into(), name: name.clone() }, origin, findings: Vec::new() }
    }

    /// Adds an error.
    pub(super) fn error(
        &mut self,
        path: String,
        reason: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
        effect: &str,
    ) {
        self.findings.push(Diagnostic {
            object: Some(self.object.clone()),
            origin: self.origin.clone(),
            path,
            severity: Severity::Error,
            reason,
            found: found.into(),
            expected: expected.into(),
            effect: effect.to_owned(),
        });
    }

    /// Adds an error that drops a rule.
    pub(super) fn drop_rule(&mut self, path: String, found: impl Into<String>, expected: impl Into<String>) {
        self.error(path, reason::UNSUPPORTED_VALUE, found, expected, effect::RULE_DROPPED);
    }
}
