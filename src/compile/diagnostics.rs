//! What the compiler and the sources have to say about objects: one value for log, `check` and conditions.

use std::fmt;

use crate::kinds::{ObjectRef, Origin};
use crate::text::OneLine;

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

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
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

/// What was found and expected, as a part of a sentence of one line.
pub(super) struct Statement<'a>(pub(super) &'a Diagnostic);

impl fmt::Display for Statement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { found, expected, .. } = self.0;
        match expected.as_str() {
            "" => write!(f, "{}", OneLine(found)),
            expected => write!(f, "found {}, expected {}", OneLine(found), OneLine(expected)),
        }
    }
}

impl fmt::Display for Diagnostic {
    /// One line: place, object, field, found, expected, effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{}:{}:{}: ", OneLine(origin.file.display()), origin.line, origin.column)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{}: ", OneLine(object))?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", OneLine(&self.path))?;
        }
        write!(f, "{}: {}", self.reason, Statement(self))?;
        if !self.effect.is_empty() {
            write!(f, "; {}", OneLine(&self.effect))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ObjectName;

    #[test]
    fn a_diagnostic_is_one_line_whatever_was_written() {
        let diagnostic = Diagnostic {
            object: Some(ObjectRef { kind: "GatewayRoute", name: ObjectName::new("default", "a\nb") }),
            origin: None,
            path: "spec.x\u{1b}[2J".to_owned(),
            severity: Severity::Error,
            reason: "Invalid",
            found: "\"a\0\"".to_owned(),
            expected: "a name\r\n".to_owned(),
            effect: "nothing\u{85}".to_owned(),
        };
        let line = diagnostic.to_string();
        let expected = r#"GatewayRoute default/a\nb: spec.x\u{1b}[2J: Invalid: found "a\u{0}", expected a name\r\n; nothing\u{85}"#;
        assert_eq!(line, expected);
    }
}
