//! Names and origins of objects, and maps of objects by name.

use std::cmp::Ordering;
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
    pub origin: Option<Box<Origin>>,
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
    /// Gives back what the map has in reserve: one that grew by one object after the other is half empty. One that is
    /// shared stays as it is.
    pub fn shrink(&mut self) {
        if let Some(map) = Arc::get_mut(&mut self.0) {
            *map = std::mem::take(map).into_iter().collect();
        }
    }

    /// Whether both are the same map, without a look at what it holds.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What another version of the map has instead, in the order of names: by the name, the object in this one and in the
    /// other one. Objects differ when they are not shared, or come from another place.
    pub fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a ObjectName, Option<&'a Sourced<T>>, Option<&'a Sourced<T>>)> {
        let is_same = self.is_same(other);
        let [mut before, mut after] = [self, other].map(|map| map.iter().filter(move |_| !is_same).peekable());
        let is_kept =
            |one: &Sourced<T>, two: &Sourced<T>| Arc::ptr_eq(&one.object, &two.object) && one.origin == two.origin;
        std::iter::from_fn(move || {
            loop {
                let order = match (before.peek(), after.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((one, _)), Some((two, _))) => one.cmp(two),
                };
                let was = if order.is_le() { before.next() } else { None };
                let is = if order.is_ge() { after.next() } else { None };
                match (was, is) {
                    (Some((_, one)), Some((_, two))) if is_kept(one, two) => {}
                    _ => {
                        let (name, _) = was.or(is)?;
                        return Some((name, was.map(|(_, object)| object), is.map(|(_, object)| object)));
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_maps_is_found_by_name() {
        let name = |name: &str| ObjectName::new("ns", name);
        let object = |number: u32| Sourced { object: Arc::new(number), origin: None };
        let before: Map<u32> =
            [("a", 1), ("b", 2), ("c", 3), ("e", 5)].map(|(n, it)| (name(n), object(it))).into_iter().collect();
        assert_eq!(before.differences(&before.clone()).count(), 0);
        let mut after = before.clone();
        after.remove(&name("a"));
        after.insert(name("c"), object(33));
        after.insert(name("d"), object(4));
        let value = |object: Option<&Sourced<u32>>| object.map(|it| *it.object);
        let found: Vec<_> =
            before.differences(&after).map(|(name, was, is)| (name.name.to_string(), value(was), value(is))).collect();
        let expected = [("a", Some(1), None), ("c", Some(3), Some(33)), ("d", None, Some(4))];
        assert_eq!(found, expected.map(|(name, was, is)| (name.to_owned(), was, is)));
        assert_eq!(Map::default().differences(&before).count(), 4);
    }
}
