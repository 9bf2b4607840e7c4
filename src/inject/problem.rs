//! Something wrong with an object, before it is known where the object stands.

use crate::compile::diagnostics::Severity;

/// One finding. The path begins at the object, or names a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) severity: Severity,
    pub(super) path: String,
    pub(super) reason: &'static str,
    pub(super) found: String,
    pub(super) expected: String,
    pub(super) effect: String,
}

impl Problem {
    /// Something that has to be changed first.
    pub(super) fn error(
        path: impl Into<String>,
        reason: &'static str,
        found: &str,
        expected: impl Into<String>,
    ) -> Self {
        let (path, found, expected) = (path.into(), found.to_owned(), expected.into());
        Self { severity: Severity::Error, path, reason, found, expected, effect: String::new() }
    }

    /// The same in one sentence.
    pub(super) fn sentence(path: impl Into<String>, reason: &'static str, found: String) -> Self {
        Self {
            severity: Severity::Error,
            path: path.into(),
            reason,
            found,
            expected: String::new(),
            effect: String::new(),
        }
    }

    /// What to do about it.
    pub(super) fn so(self, effect: impl Into<String>) -> Self {
        Self { effect: effect.into(), ..self }
    }

    /// Nothing that stops the injection.
    pub(super) fn into_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// The same problem of an object inside of another one.
    pub(super) fn below(self, prefix: &str) -> Self {
        let is_field = !self.path.starts_with("--");
        let dot = if prefix.is_empty() || self.path.is_empty() { "" } else { "." };
        let path = if is_field { format!("{prefix}{dot}{}", self.path) } else { self.path };
        Self { path, ..self }
    }
}
