//! Names and origins of objects, and maps of objects by name.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
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
    pub origin: Option<Origin>,
}

impl<T> Clone for Sourced<T> {
    fn clone(&self) -> Self {
        Self { object: Arc::clone(&self.object), origin: self.origin.clone() }
    }
}

/// Objects of one kind by name; the namespace of cluster-scoped ones is empty.
///
/// Versions of the configuration share a map until one of them changes it: that one then has a copy of its own, so that
/// a change costs what the map of its kind costs, and a clone costs nothing.
#[derive(Debug)]
pub struct Map<T>(Arc<BTreeMap<ObjectName, Sourced<T>>>);

impl<T> Clone for Map<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Deref for Map<T> {
    type Target = BTreeMap<ObjectName, Sourced<T>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> DerefMut for Map<T> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl<'a, T> IntoIterator for &'a Map<T> {
    type Item = (&'a ObjectName, &'a Sourced<T>);
    type IntoIter = std::collections::btree_map::Iter<'a, ObjectName, Sourced<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> FromIterator<(ObjectName, Sourced<T>)> for Map<T> {
    fn from_iter<I: IntoIterator<Item = (ObjectName, Sourced<T>)>>(objects: I) -> Self {
        Self(Arc::new(objects.into_iter().collect()))
    }
}

impl<T> Map<T> {
    /// Whether both are the same map, without a look at what it holds.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
