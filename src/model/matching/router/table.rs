//! Hash tables whose keys stand elsewhere, and the tree of templates made of one.

use std::hash::Hasher;

use rustc_hash::FxHasher;

use super::NONE;
use crate::model::matching::{Element, Template};

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

/// The hash of text under a number that tells the texts of levels or nodes apart.
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

/// A node of [`TemplateTree`]: the templates that begin alike.
struct Node {
    /// The node before.
    parent: u32,
    /// Where its literal stands in the tree's text; empty and unused for variables.
    from: u32,
    len: u32,
    /// The node behind a variable element.
    variable: u32,
    /// First of the candidates whose template ends here.
    end: u32,
    /// First of the candidates whose template goes on with `{name*}` and ends.
    rest: u32,
    /// The best candidate at or below this node: no need to go there with a better one in hand.
    best: u32,
}

/// All templates of a router by their elements; each level has its own root.
#[derive(Default)]
pub(super) struct TemplateTree {
    nodes: Vec<Node>,
    text: String,
    children: Table,
}

/// A [`TemplateTree`] that is still growing.
#[derive(Default)]
pub(super) struct TemplateTreeBuilder {
    tree: TemplateTree,
    children: rustc_hash::FxHashMap<(u32, Box<str>), u32>,
}

impl TemplateTreeBuilder {
    /// Adds the root of a level.
    pub(super) fn root(&mut self) -> u32 {
        self.node(NONE, "")
    }

    fn node(&mut self, parent: u32, literal: &str) -> u32 {
        let id = count(self.tree.nodes.len());
        let (from, len) = (count(self.tree.text.len()), count(literal.len()));
        self.tree.text.push_str(literal);
        self.tree.nodes.push(Node { parent, from, len, variable: NONE, end: NONE, rest: NONE, best: NONE });
        id
    }

    /// Adds a template under a root and gives the place where its first candidate is held, which is [`NONE`] until
    /// the caller sets it. Candidates must come in ascending order.
    pub(super) fn insert(&mut self, root: u32, template: &Template, candidate: u32) -> &mut u32 {
        let mut at = root;
        self.touch(at, candidate);
        for element in template.elements() {
            at = match element {
                Element::Rest(_) => return &mut self.tree.nodes[at as usize].rest,
                Element::Variable(_) => match self.tree.nodes[at as usize].variable {
                    NONE => {
                        let node = self.node(at, "");
                        self.tree.nodes[at as usize].variable = node;
                        node
                    }
                    node => node,
                },
                Element::Literal(literal) => match self.children.get(&(at, Box::from(literal))) {
                    Some(&node) => node,
                    None => {
                        let node = self.node(at, literal);
                        self.children.insert((at, literal.into()), node);
                        node
                    }
                },
            };
            self.touch(at, candidate);
        }
        &mut self.tree.nodes[at as usize].end
    }

    fn touch(&mut self, node: u32, candidate: u32) {
        let best = &mut self.tree.nodes[node as usize].best;
        *best = candidate.min(*best);
    }

    pub(super) fn finish(self) -> TemplateTree {
        let pairs: Vec<_> = self.children.iter().map(|((at, literal), &node)| (hash_of(*at, literal), node)).collect();
        let mut tree = self.tree;
        tree.children = Table::build(&pairs);
        tree.nodes.shrink_to_fit();
        tree.text.shrink_to_fit();
        tree
    }
}

impl TemplateTree {
    /// The best candidate below `root` that fits. `fits` gets the first candidate of a template and the best one so
    /// far, and gives the better of what it found and that.
    ///
    /// Visits a node at most once, and no deeper than the longest template.
    pub(super) fn find(&self, root: u32, path: &str, mut fits: impl FnMut(u32, u32) -> u32) -> u32 {
        let mut best = NONE;
        if let Some(rest) = path.strip_prefix('/') {
            self.descend(root, rest, &mut best, &mut fits);
        }
        best
    }

    /// `rest` is what follows the slash behind `node`.
    fn descend(&self, id: u32, rest: &str, best: &mut u32, fits: &mut impl FnMut(u32, u32) -> u32) {
        let node = &self.nodes[id as usize];
        if node.best >= *best {
            return;
        }
        let (segment, after) = rest.split_once('/').map_or((rest, None), |(segment, after)| (segment, Some(after)));
        let literal = self.children.find(hash_of(id, segment), |child| self.is_child(child, id, segment));
        let variable = Some(node.variable).filter(|&child| child != NONE && !segment.is_empty());
        for child in [literal, variable].into_iter().flatten() {
            match after {
                Some(after) => self.descend(child, after, best, fits),
                None if self.nodes[child as usize].end < *best => *best = fits(self.nodes[child as usize].end, *best),
                None => {}
            }
        }
        if node.rest < *best && !rest.is_empty() {
            *best = fits(node.rest, *best);
        }
    }

    fn is_child(&self, child: u32, parent: u32, segment: &str) -> bool {
        let node = &self.nodes[child as usize];
        node.parent == parent && &self.text[node.from as usize..][..node.len as usize] == segment
    }
}

/// A count as the 32-bit number that indices are kept in.
pub(super) fn count(len: usize) -> u32 {
    u32::try_from(len).expect("what is counted takes more than a byte each, and 4 GiB of configuration do not occur")
}
