//! Names and origins of objects.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::ids::ObjectName;

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

/// An object with the place it came from.
#[derive(Debug)]
pub struct Sourced<T> {
    /// The object; shared, so that a new map costs pointers only.
    pub object: Arc<T>,
    /// The file and line, for objects from files.
    pub origin: Option<Box<Origin>>,
}

impl<T> Clone for Sourced<T> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), origin: self.origin.clone() }
    }
}
