//! Hash tables whose keys stand elsewhere.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// No candidate, node or run; worse than all.
pub(super) const NONE: u32 = u32::MAX;

/// A slot of [`Table`]: half of the hash, so that keys are seldom compared in vain, and what stands under the key.
#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    value: u32,
}

/// An open hash table from keys to numbers that does not hold its keys: the caller compares.
///
/// Twelve thousand routes take 256 KiB of it, and a look-up of an absent key usually reads one cache line.
#[derive(Default)]
pub(super) struct Table {
    /// A power of two, at most half full; empty when there are no keys.
    slots: Box<[Slot]>,
}

impl Table {
    /// Makes the table of `(hash, value)` pairs with different keys; no value is [`NONE`].
    pub(super) fn build(pairs: &[(u64, u32)]) -> Self {
        if pairs.is_empty() {
            return Self::default();
        }
        let mut slots = vec![Slot { tag: 0, value: NONE }; (pairs.len() * 2).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        for &(hash, value) in pairs {
            let mut at = hash as usize & mask;
            while slots[at].value != NONE {
                at = (at + 1) & mask;
            }
            slots[at] = Slot { tag: tag(hash), value };
        }
        Self { slots }
    }

    /// The value under a hash whose key is the right one by `is_key`.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_key: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.value == NONE {
                return None;
            }
            if slot.tag == tag(hash) && is_key(slot.value) {
                return Some(slot.value);
            }
            at = (at + 1) & mask;
        }
    }
}

/// The upper half of a hash; places in the table come from the lower.
const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
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
