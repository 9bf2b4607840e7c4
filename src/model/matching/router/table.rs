//! Hash tables whose keys stand elsewhere.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// No candidate, node or run; worse than all.
pub(super) const NONE: u32 = u32::MAX;

/// A hash table from keys to numbers that does not hold its keys: the caller compares.
#[derive(Default)]
pub(super) struct Table {
    values: HashTable<u32>,
}

impl Table {
    /// Makes the table of `(hash, value)` pairs with different keys; no value is [`NONE`].
    pub(super) fn build(pairs: &[(u64, u32)]) -> Self {
        let mut values = HashTable::with_capacity(pairs.len());
        for &(hash, value) in pairs {
            values.insert_unique(hash, value, |_| unreachable!("there is room for all, so nothing is hashed again"));
        }
        Self { values }
    }

    /// Whether there are no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value under a hash whose key is the right one by `is_key`.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_key: impl Fn(u32) -> bool) -> Option<u32> {
        self.values.find(hash, |&value| is_key(value)).copied()
    }
}

/// The hash of text together with a number, so that equal texts of different levels or nodes hash differently.
#[inline]
pub(super) fn hash_of(seed: u32, text: &str) -> u64 {
    let mut hasher = FxHasher::with_seed(seed as usize);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The elements of a path with the hash and the end of the prefix that each closes, shortest first.
#[inline]
pub(super) fn prefixes(seed: u32, path: &str) -> impl Iterator<Item = (u64, usize)> {
    let mut hasher = FxHasher::with_seed(seed as usize);
    let mut rest = path.strip_prefix('/');
    let mut from = 1;
    std::iter::from_fn(move || {
        let left = rest?;
        let len = memchr::memchr(b'/', left.as_bytes()).unwrap_or(left.len());
        hasher.write(&left.as_bytes()[..len]);
        rest = left.get(len + 1..);
        let end = from + len;
        from = end + 1;
        Some((hasher.finish(), end))
    })
}

/// A count as the 32-bit number that indices are kept in.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).expect("what is counted takes more than a byte each, and 4 GiB of configuration do not occur")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_one_hash_are_told_apart_by_the_caller() {
        let pairs: Vec<_> = (0..20).map(|n| (u64::MAX - n % 2, n as u32)).collect();
        let table = Table::build(&pairs);
        for (hash, value) in pairs {
            assert_eq!(table.find(hash, |found| found == value), Some(value));
        }
        assert_eq!(table.find(u64::MAX, |_| false), None);
        assert_eq!(table.find(7, |_| true), None, "the other half of the hash differs");
        assert_eq!(Table::default().find(7, |_| true), None);
    }

    #[test]
    fn prefixes_end_with_elements_and_hash_alike_in_every_path() {
        let of = |path| prefixes(3, path).collect::<Vec<_>>();
        let path = "/a/bc//d";
        let ends: Vec<_> = of(path).into_iter().map(|(_, end)| &path[..end]).collect();
        assert_eq!(ends, ["/a", "/a/bc", "/a/bc/", "/a/bc//d"]);
        assert_eq!(of(path)[..2], of("/a/bc"));
        assert_ne!(of("/a/bc")[1].0, of("/ab/c")[1].0);
        assert_ne!(of("/a")[0].0, prefixes(4, "/a").next().expect("one").0, "levels have their own hashes");
        assert_eq!((of(""), of("*")), (vec![], vec![]));
    }
}
