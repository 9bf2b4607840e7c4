//! Maps of objects by name, of which versions of the configuration share what did not change.
//!
//! A change takes a new version of the map while the one before is still being compiled or compared. With a copy of all of
//! it, one object among tens of thousands would cost as much as all of them. So a map is a list of short sorted lists:
//! a change copies the list that it falls into, and the difference between two versions is looked for only where they do
//! not share a list.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use super::place::Sourced;
use crate::model::ids::ObjectName;

/// The most objects in one list. A change costs a copy of one list and of one pointer to each other list: with this
/// number, a few microseconds up to tens of thousands of objects.
const MOST: usize = 64;

/// Lists with no more than this together become one.
const FEW: usize = MOST / 2;

type Entry<T> = (ObjectName, Sourced<T>);

/// Some objects that follow each other by name: sorted, not empty.
type List<T> = Arc<Vec<Entry<T>>>;

/// Objects of one kind by name, in the order of names; the namespace of cluster-scoped ones is empty. A clone costs
/// nothing.
pub struct Map<T> {
    /// In the order of names.
    lists: Arc<Vec<List<T>>>,
    len: usize,
}

impl<T> Map<T> {
    /// Whether both are the same map, without a look at what it holds.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lists, &other.lists)
    }

    /// Number of objects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no object.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The object with a name, if there is one.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<&Sourced<T>> {
        let list = self.lists.get(self.list_of(name)?)?;
        let at = list.binary_search_by(|(other, _)| other.cmp(name)).ok()?;
        list.get(at).map(|(_, object)| object)
    }

    /// Whether there is an object with a name.
    #[must_use]
    pub fn contains_key(&self, name: &ObjectName) -> bool {
        self.get(name).is_some()
    }

    /// Puts an object in the place of the one with the same name, which it gives back.
    pub fn insert(&mut self, name: ObjectName, object: Sourced<T>) -> Option<Sourced<T>> {
        let Some(number) = self.list_of(&name) else {
            Arc::make_mut(&mut self.lists).push(Arc::new(vec![(name, object)]));
            self.len += 1;
            return None;
        };
        let lists = Arc::make_mut(&mut self.lists);
        let list = Arc::make_mut(&mut lists[number]);
        match list.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => Some(std::mem::replace(&mut list[at].1, object)),
            Err(at) => {
                // Thousands of lists stay for long: no more memory than they need.
                list.reserve_exact(1);
                list.insert(at, (name, object));
                if list.len() > MOST {
                    // Objects that come in the order of their names fill one list after the other.
                    let half = if at + 1 == list.len() { list.len() - 1 } else { list.len() / 2 };
                    let rest = list.split_off(half);
                    list.shrink_to_fit();
                    lists.insert(number + 1, Arc::new(rest));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Takes an object out.
    pub fn remove(&mut self, name: &ObjectName) -> Option<Sourced<T>> {
        let number = self.list_of(name)?;
        let at = self.lists[number].binary_search_by(|(other, _)| other.cmp(name)).ok()?;
        let lists = Arc::make_mut(&mut self.lists);
        let list = Arc::make_mut(&mut lists[number]);
        let (_, object) = list.remove(at);
        self.len -= 1;
        if list.is_empty() {
            lists.remove(number);
        } else if let Some(next) = lists.get(number + 1)
            && lists[number].len() + next.len() <= FEW
        {
            let next = lists.remove(number + 1);
            let list = Arc::make_mut(&mut lists[number]);
            list.reserve_exact(next.len());
            list.extend(next.iter().cloned());
        }
        Some(object)
    }

    /// Takes all objects out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// All objects with their names, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Sourced<T>)> {
        self.lists.iter().flat_map(|list| list.iter()).map(|(name, object)| (name, object))
    }

    /// All names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectName> {
        self.iter().map(|(name, _)| name)
    }

    /// All objects, in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &Sourced<T>> {
        self.iter().map(|(_, object)| object)
    }

    /// The objects whose names are not before another name, in the order of names.
    pub fn starting_at<'a>(&'a self, first: &'a ObjectName) -> impl Iterator<Item = (&'a ObjectName, &'a Sourced<T>)> {
        let lists = self.lists.iter().skip(self.list_of(first).unwrap_or(0));
        let entries = lists.flat_map(|list| list.iter()).map(|(name, object)| (name, object));
        entries.skip_while(move |(name, _)| *name < first)
    }

    /// What another version of the map has instead, in the order of names: by the name, the object in this one and in the
    /// other one. Objects differ when they are not shared, or come from another place.
    pub fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a ObjectName, Option<&'a Sourced<T>>, Option<&'a Sourced<T>>)> {
        let (mut before, mut after) = (Walk::new(self), Walk::new(other));
        let is_kept =
            |one: &Sourced<T>, two: &Sourced<T>| Arc::ptr_eq(&one.object, &two.object) && one.origin == two.origin;
        std::iter::from_fn(move || {
            loop {
                while let (Some(one), Some(two)) = (before.begins(), after.begins())
                    && Arc::ptr_eq(one, two)
                {
                    before.skip_list();
                    after.skip_list();
                }
                let order = match (before.peek(), after.peek()) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((one, _)), Some((two, _))) => one.cmp(two),
                };
                let was = if order.is_le() { before.take() } else { None };
                let is = if order.is_ge() { after.take() } else { None };
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

    /// The list in which a name is or would be; `None` where there is none at all.
    fn list_of(&self, name: &ObjectName) -> Option<usize> {
        let behind = self.lists.partition_point(|list| list.first().is_some_and(|(first, _)| first <= name));
        if self.lists.is_empty() { None } else { Some(behind.saturating_sub(1)) }
    }
}

/// A walk over a map that can pass over whole lists.
struct Walk<'a, T> {
    lists: &'a [List<T>],
    /// Position in the first of the lists.
    at: usize,
}

impl<'a, T> Walk<'a, T> {
    fn new(map: &'a Map<T>) -> Self {
        Self { lists: &map.lists, at: 0 }
    }

    /// The list that comes next as a whole.
    fn begins(&self) -> Option<&'a List<T>> {
        self.lists.first().filter(|_| self.at == 0)
    }

    fn skip_list(&mut self) {
        (self.lists, self.at) = (self.lists.get(1..).unwrap_or_default(), 0);
    }

    fn peek(&self) -> Option<&'a Entry<T>> {
        self.lists.first()?.get(self.at)
    }

    /// The next object.
    fn take(&mut self) -> Option<&'a Entry<T>> {
        let list = self.lists.first()?;
        let next = list.get(self.at);
        self.at += 1;
        if self.at == list.len() {
            self.skip_list();
        }
        next
    }
}

impl<T> Clone for Map<T> {
    fn clone(&self) -> Self {
        Self { lists: Arc::clone(&self.lists), len: self.len }
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self { lists: Arc::default(), len: 0 }
    }
}

impl<T: fmt::Debug> fmt::Debug for Map<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T> FromIterator<(ObjectName, Sourced<T>)> for Map<T> {
    fn from_iter<I: IntoIterator<Item = (ObjectName, Sourced<T>)>>(objects: I) -> Self {
        let mut map = Self::default();
        for (name, object) in objects {
            map.insert(name, object);
        }
        map
    }
}

impl<'a, T> IntoIterator for &'a Map<T> {
    type Item = (&'a ObjectName, &'a Sourced<T>);
    type IntoIter = Box<dyn Iterator<Item = Self::Item> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn object(number: u32) -> Sourced<u32> {
        Sourced { object: Arc::new(number), origin: None }
    }

    #[test]
    fn what_differs_between_maps_is_found_by_name() {
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

    #[test]
    fn any_changes_leave_what_a_plain_map_has_and_other_versions_as_they_were() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let names: Vec<ObjectName> = (0..400).map(|n| name(&format!("{n:03}"))).collect();
            let (mut map, mut plain) = (Map::default(), BTreeMap::new());
            let mut versions: Vec<(Map<u32>, BTreeMap<ObjectName, u32>)> = Vec::new();
            for step in 0..3_000 {
                let name = names[random.usize(..names.len())].clone();
                // Grows, and shrinks to nothing, and grows again.
                let (was, expected) = match random.u32(..10) < if step / 1_000 == 1 { 2 } else { 8 } {
                    true => (map.insert(name.clone(), object(step)), plain.insert(name.clone(), step)),
                    false => (map.remove(&name), plain.remove(&name)),
                };
                assert_eq!(was.map(|it| *it.object), expected);
                assert_eq!(map.get(&name).map(|it| *it.object), plain.get(&name).copied());
                assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
                if step % 100 == 0 {
                    versions.push((map.clone(), plain.clone()));
                    let from: Vec<_> = map.starting_at(&name).map(|(name, it)| (name.clone(), *it.object)).collect();
                    assert!(from.iter().map(|(name, it)| (name, it)).eq(plain.range(name.clone()..)));
                }
                let lists: Vec<usize> = map.lists.iter().map(|list| list.len()).collect();
                assert!(lists.iter().all(|len| (1..=MOST).contains(len)), "{lists:?}");
            }
            for pair in versions.windows(2) {
                let [(before, was), (after, is)] = pair else { continue };
                assert!(before.iter().map(|(name, it)| (name, &*it.object)).eq(was));
                let names = was.keys().chain(is.keys()).filter(|name| was.get(name) != is.get(name));
                let mut names: Vec<&ObjectName> = names.collect();
                names.sort();
                names.dedup();
                assert!(before.differences(after).map(|(name, ..)| name).eq(names));
            }
        }
    }

    #[test]
    fn a_change_copies_one_list() {
        let mut map: Map<u32> = (0..10_000).map(|n| (name(&format!("{n:05}")), object(n))).collect();
        assert_eq!(map.lists.len(), 10_000_usize.div_ceil(MOST), "in order, all lists are full");
        let before = map.clone();
        map.insert(name("05000x"), object(1));
        map.remove(&name("09000"));
        let shared = map.lists.iter().filter(|list| before.lists.iter().any(|other| Arc::ptr_eq(other, list)));
        assert_eq!(shared.count(), before.lists.len() - 2);
        assert!(!map.is_same(&before) && before.is_same(&before.clone()));
    }
}
