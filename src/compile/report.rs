//! Findings while one object compiles: collected with what they are about, so that each becomes a diagnostic with object
//! and place, and conditions can be derived from them.

use std::fmt;

use super::diagnostics::{Diagnostic, Severity, Statement};
use super::position::{ParentPos, RulePos};
use crate::api::conditions::ConditionReason;
use crate::api::open_enum::{KnownValue, OpenEnum};
use crate::kinds::gateway_route::Route;
use crate::kinds::{ObjectRef, Origin, Sourced};
use crate::model::ids::ObjectName;
use crate::model::matching::Hostname;
use crate::text::OneLine;

/// The reason of a warning about a match that can never win.
pub(super) const NEVER_MATCHED: &str = "NeverMatched";

/// What a finding takes out of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The route at this parent.
    Parent(ParentPos),
    /// The whole route.
    Route,
    /// This rule, everywhere.
    Rule(RulePos),
    /// The rules that inherit a block of `spec.defaults`.
    Heirs,
    /// This rule where it is bound by this parent.
    RuleAt(ParentPos, RulePos),
    /// A share of the requests of this rule.
    Reference(RulePos),
    /// Copies of the requests of this rule.
    Mirror(RulePos),
    /// What a filter of this rule lets clients in by, or asks about them.
    Filter(RulePos),
    /// A certificate that is not there.
    CertificateMissing,
    /// A certificate in whose place an earlier one stays.
    CertificateKept,
    /// A certificate that clients may refuse.
    CertificateShown,
    /// An authority whose certificates clients may show, and that is not there.
    AuthorityMissing,
    /// A validation of clients on a hostname that an older route has another one for, or none.
    ValidationConflict,
    /// TLS settings of a hostname that an older route has others for.
    TlsConflict,
    /// A match that is there a second time in the route, or a hostname.
    Part,
    /// A match that lost to another object.
    Conflict,
    /// A hostname that belongs to another namespace.
    Hostname,
    /// Nothing: everything is served as written.
    Nothing,
}

impl About {
    /// What still works, for a message.
    pub(super) fn effect(self) -> &'static str {
        match self {
            Self::Parent(_) => "the route is not served there",
            Self::Route => "the route is not served",
            Self::Rule(_) => "this rule is skipped, the others serve",
            Self::Heirs => "the rules that inherit it are skipped, the others serve",
            Self::RuleAt(..) => "this rule is skipped there, the others serve",
            Self::Reference(_) => "its share of the requests answers 500",
            Self::Mirror(_) => "no copies are sent there; the requests themselves are served",
            Self::Filter(_) => "requests that come to this filter are answered with 500",
            Self::CertificateMissing => "it is shown to no client; the route serves",
            Self::CertificateKept => "the last good certificate stays active",
            Self::CertificateShown => "it is shown all the same",
            Self::AuthorityMissing => {
                "clients that only it vouches for count as such without a valid certificate, and without any authority none is let in"
            }
            Self::ValidationConflict => {
                "clients are validated there as the older route says, and this route answers them 421"
            }
            Self::TlsConflict => "the certificates of the older route are shown there; the route serves",
            Self::Part => "the rest of the route serves",
            Self::Hostname => "the other hostnames of the route serve",
            Self::Conflict => "the winner serves, and so do the other matches of this route",
            Self::Nothing => "",
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
        let path = self.diagnostic.path.as_str();
        let colon = if path.is_empty() { "" } else { ": " };
        format!("{}{colon}{}", OneLine(path), Statement(&self.diagnostic))
    }
}

/// Something was refused; its report has the finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Collects the findings about one route.
#[derive(Clone, Debug)]
pub(super) struct Report<'a> {
    name: &'a ObjectName,
    route: &'a Route,
    origin: Option<&'a Origin>,
    /// All findings, in the order in which they were made.
    pub(super) findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    pub(super) fn new(name: &'a ObjectName, route: &'a Sourced<Route>) -> Self {
        Self { name, route: &route.object, origin: route.origin.as_deref(), findings: Vec::new() }
    }

    /// Goes on behind these findings.
    pub(super) fn with(self, findings: Vec<Finding>) -> Self {
        Self { findings, ..self }
    }

    /// Adds an error; `path` is the compiler's name of the field.
    pub(super) fn add(
        &mut self,
        about: About,
        reason: ConditionReason,
        path: impl ToString,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            reason: reason.as_str(),
            found: found.into(),
            expected: expected.into(),
            effect: about.effect().to_owned(),
            ..self.diagnostic(path)
        };
        self.findings.push(Finding { about, reason, diagnostic });
    }

    /// Adds a finding about a field that several rules inherit, once.
    pub(super) fn add_once(
        &mut self,
        about: About,
        reason: ConditionReason,
        path: impl ToString,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let path = path.to_string();
        if !self.has(&path) {
            self.add(about, reason, path, found, expected);
        }
    }

    /// Adds a warning, a whole sentence; `effect` says what to do about it.
    pub(super) fn warn(&mut self, path: impl ToString, reason: &'static str, found: impl Into<String>, effect: &str) {
        let path = path.to_string();
        if self.has(&path) {
            return;
        }
        let diagnostic = Diagnostic {
            severity: Severity::Warning,
            reason,
            found: found.into(),
            effect: effect.to_owned(),
            ..self.diagnostic(path)
        };
        self.findings.push(Finding { about: About::Nothing, reason: ConditionReason::Accepted, diagnostic });
    }

    /// A diagnostic about a field, still without a statement.
    fn diagnostic(&self, path: impl ToString) -> Diagnostic {
        Diagnostic {
            object: Some(ObjectRef { kind: self.route.kind, name: self.name.clone() }),
            origin: self.origin.cloned(),
            path: self.route.fields.name(&path.to_string()).into_owned(),
            severity: Severity::Note,
            reason: "",
            found: String::new(),
            expected: String::new(),
            effect: String::new(),
        }
    }

    /// Adds an error that drops a rule for a value that cannot be acted on. What stands in `spec.defaults` or
    /// `spec.filters` drops the rules that inherit it, and is said once for all of them.
    pub(super) fn unsupported(
        &mut self,
        rule: impl Into<Option<usize>>,
        path: impl ToString,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let path = path.to_string();
        let about = match rule.into() {
            _ if self.has(&path) => return,
            None => About::Part,
            Some(_) if path.starts_with("spec.defaults") || path.starts_with("spec.filters") => About::Heirs,
            Some(rule) => About::Rule(RulePos(rule)),
        };
        self.add(about, ConditionReason::UnsupportedValue, path, found, expected);
    }

    /// [`unsupported`](Self::unsupported), for what the schema offers and this version does not do.
    pub(super) fn not_yet(&mut self, rule: impl Into<Option<usize>>, path: impl ToString, what: &str) {
        self.unsupported(rule, path, not_supported(what), "");
    }

    /// [`unsupported`](Self::unsupported), for a value that a later version of the schema may have.
    pub(super) fn unknown<T: KnownValue>(
        &mut self,
        rule: impl Into<Option<usize>>,
        path: impl ToString,
        value: &OpenEnum<T>,
    ) {
        let found = format!("{:?}, which this version does not know", value.as_str());
        self.unsupported(rule, path, found, OpenEnum::<T>::expected());
    }

    /// Whether something was said about a field.
    fn has(&self, path: &str) -> bool {
        let path = self.route.fields.name(path);
        self.findings.iter().any(|finding| finding.diagnostic.path == path)
    }
}

/// The sentence about a feature that the schema offers and this version does not have.
pub(super) fn not_supported(what: &str) -> String {
    format!("{what} is not supported yet")
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

    /// `spec.defaults`.
    pub(super) const DEFAULTS: Self = Self { above: Some(&Self::SPEC), name: "defaults", index: None };

    /// The rule at a position.
    pub(super) const fn rule(index: usize) -> Self {
        Self { above: Some(&Self::SPEC), name: "rules", index: Some(index) }
    }
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

/// A hostname in a sentence.
pub(super) fn host(hostname: &Hostname) -> String {
    match hostname {
        Hostname::Exact(name) => format!("host {name}"),
        Hostname::Wildcard(suffix) => format!("host *.{suffix}"),
        Hostname::Any => "any host".to_owned(),
    }
}
