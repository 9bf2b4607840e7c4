//! What the compiler and the sources have to say about objects: one value for log, `check` and conditions.

use std::fmt;

use crate::kinds::{ObjectRef, Origin};

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong: what was left alone, and why.
    Note,
    /// Something the operator may want to know; everything is served as written.
    Warning,
    /// Something is not served as written.
    Error,
}

/// One finding about one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The object; `None` when a file could not be read as objects at all.
    pub object: Option<ObjectRef>,
    /// Place in a file; `None` for objects from a cluster.
    pub origin: Option<Origin>,
    /// Field path such as `spec.rules[1].backendRefs[0].name`; empty for the whole object.
    pub path: String,
    /// How bad it is.
    pub severity: Severity,
    /// Condition reason of the API (`BackendNotFound`, `UnsupportedValue`, …) or a source's own (`YamlSyntax`, `Duplicate`, …).
    pub reason: &'static str,
    /// What was found; a whole sentence where nothing is expected.
    pub found: String,
    /// What was expected; empty where the finding says it all, as that something is not supported yet.
    pub expected: String,
    /// What still works, and what to do about it.
    pub effect: String,
}

/// What was found and expected, as a part of a sentence.
pub(super) struct Statement<'a>(pub(super) &'a Diagnostic);

impl fmt::Display for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { found, expected, .. } = self.0;
        match expected.as_str() {
            "" => f.write_str(found),
            expected => write!(f, "found {found}, expected {expected}"),
        }
    }
}

impl fmt::Display for Diagnostic {
    /// One line: place, object, field, found, expected, effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{}:{}:{}: ", origin.file.display(), origin.line, origin.column)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}: {}", self.reason, Statement(self))?;
        if !self.effect.is_empty() {
            write!(f, "; {}", self.effect)?;
        }
        Ok(())
    }
}
