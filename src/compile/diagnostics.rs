//! What the compiler and the sources have to say about objects: one value for log, `check` and conditions.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::ids::ObjectName;

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Something the operator may want to know; everything is in force.
    Warning,
    /// Something is not in force as written.
    Error,
}

/// An object as diagnostics name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Kind, such as `GatewayRoute`.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Where an object or a field was read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The file.
    pub file: Arc<PathBuf>,
    /// Position of the document in the file, from 0.
    pub document: u32,
    /// Line of the object or field, from 1; 0 when unknown.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
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
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What still works, and what to do about it.
    pub effect: String,
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
        write!(f, "{}: found {}, expected {}", self.reason, self.found, self.expected)?;
        if !self.effect.is_empty() {
            write!(f, "; {}", self.effect)?;
        }
        Ok(())
    }
}
