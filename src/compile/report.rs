//! Findings while one object compiles: collected with what they are about, so that each becomes a diagnostic with object
//! and place, and conditions can be derived from them.

use std::fmt;

use super::diagnostics::{Diagnostic, ObjectRef, Origin, Severity};
use crate::api::conditions::ConditionReason;
use crate::model::ids::ObjectName;

/// What a finding takes out of force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The route at the parent at this position of its status.
    Parent(usize),
    /// The whole route.
    Route,
    /// The rule at this position, everywhere.
    Rule(usize),
    /// The rules that inherit a block of `spec.defaults`.
    Heirs,
    /// The rule at the second position, where it hangs below the parent at the first.
    RuleAt(usize, usize),
    /// A share of the requests of the rule at this position.
    Reference(usize),
    /// A match of the rule at this position, which is there a second time in the route, or a hostname.
    Part,
    /// A match that lost to another object.
    Conflict,
}

impl About {
    /// What still works, for a message.
    fn effect(self) -> &'static str {
        match self {
            Self::Parent(_) => "the route is not served there",
            Self::Route => "the route is not in force",
            Self::Rule(_) => "this rule is left out, the others serve",
            Self::Heirs => "the rules that inherit it are left out, the others serve",
            Self::RuleAt(..) => "this rule is left out there, the others serve",
            Self::Reference(_) => "its share of the requests answers 500",
            Self::Part => "the rest of the route serves",
            Self::Conflict => "the winner serves, and so do the other matches of this route",
        }
    }
}

/// A diagnostic with what it is about.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) about: About,
    pub(super) reason: ConditionReason,
    pub(super) diagnostic: Diagnostic,
}

impl Finding {
    /// The sentence that stands in a condition.
    pub(super) fn sentence(&self) -> String {
        let Diagnostic { path, found, expected, .. } = &self.diagnostic;
        let colon = if path.is_empty() { "" } else { ": " };
        format!("{path}{colon}found {found}, expected {expected}")
    }
}

/// Collects the findings about one route.
#[derive(Clone, Debug)]
pub(super) struct Report<'a> {
    name: &'a ObjectName,
    origin: Option<&'a Origin>,
    /// All findings, in the order in which they were made.
    pub(super) findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(name: &'a ObjectName, origin: Option<&'a Origin>) -> Self {
        Self { name, origin, findings: Vec::new() }
    }

    /// Adds an error.
    pub(super) fn add(
        &mut self,
        about: About,
        reason: ConditionReason,
        path: impl ToString,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let diagnostic = Diagnostic {
            object: Some(ObjectRef { kind: "GatewayRoute", name: self.name.clone() }),
            origin: self.origin.cloned(),
            path: path.to_string(),
            severity: Severity::Error,
            reason: reason.as_str(),
            found: found.into(),
            expected: expected.into(),
            effect: about.effect().to_owned(),
        };
        self.findings.push(Finding { about, reason, diagnostic });
    }

    /// Whether something was said about a field.
    pub(super) fn has(&self, path: &str) -> bool {
        self.findings.iter().any(|finding| finding.diagnostic.path == path)
    }

    /// Adds an error that drops a rule for a value that cannot be acted on; once for one field, such as a default that
    /// several rules inherit.
    pub(super) fn unsupported(
        &mut self,
        rule: usize,
        path: impl ToString,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let path = path.to_string();
        if !self.has(&path) {
            self.add(About::Rule(rule), ConditionReason::UnsupportedValue, path, found, expected);
        }
    }
}

/// Where a field stands in an object: steps that become text only when something is to be said about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldPath<'a> {
    above: Option<&'a FieldPath<'a>>,
    name: &'static str,
    index: Option<usize>,
}

impl FieldPath<'static> {
    /// The object's `spec`.
    pub(super) const SPEC: Self = Self { above: None, name: "spec", index: None };
}

impl FieldPath<'_> {
    /// A field below this one.
    pub(super) fn field(&self, name: &'static str) -> FieldPath<'_> {
        FieldPath { above: Some(self), name, index: None }
    }

    /// An item of a list below this one.
    pub(super) fn item(&self, name: &'static str, index: usize) -> FieldPath<'_> {
        FieldPath { above: Some(self), name, index: Some(index) }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            write!(f, "{above}.")?;
        }
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}
