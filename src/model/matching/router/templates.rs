//! Trees of templates: one for each level, all in one place.
//!
//! A path walks its tree from the root, at each element to the node of that literal and to that of the variable, and
//! meets every template that fits. Where only one template is left, the tree ends and the rest of it is compared as text.

use rustc_hash::FxHashMap;

use super::span::Span;
use super::table::{NONE, Table, count, hash_of};
use crate::model::matching::template::{Element, Template, split};

/// In place of a child: there are several, which the table distinguishes.
const SEVERAL: u32 = NONE - 1;

/// A node: the templates that begin alike.
struct Node {
    /// The node before; [`NONE`] for a root.
    parent: u32,
    /// The literal that leads here; empty for a root and behind a variable.
    literal: Span,
    kind: NodeKind,
}

enum NodeKind {
    /// One template is left: the elements that follow, `None` for none, and the first of its candidates.
    Leaf {
        tail: Option<Span>,
        run: u32,
    },
    Branch(Branch),
}

struct Branch {
    /// The only node behind a literal element, or [`SEVERAL`].
    literal: u32,
    /// The node behind a variable element.
    variable: u32,
    /// First candidate of the template that ends here.
    end: u32,
    /// First candidate of the template that goes on with `{name*}`.
    rest: u32,
    /// The best candidate at or below this node: no need to go there with a better one in hand.
    best: u32,
}

/// All templates of a router; each level has its own root.
#[derive(Default)]
pub(super) struct TemplateTrees {
    nodes: Box<[Node]>,
    text: Box<str>,
    children: Table,
}

impl TemplateTrees {
    /// The best candidate below `root` that fits, or [`NONE`]. `fits` gets the first candidate of a template and the
    /// best one so far, and gives the better of what it found and that.
    ///
    /// Visits a node at most once, and no deeper than the longest template.
    pub(super) fn find(&self, root: u32, path: &str, mut fits: impl FnMut(u32, u32) -> u32) -> u32 {
        let mut best = NONE;
        if let Some(rest) = path.strip_prefix('/') {
            self.descend(root, Some(rest), &mut best, &mut fits);
        }
        best
    }

    /// `rest` is what follows the slash behind the node, `None` when the path ends there.
    fn descend(&self, id: u32, rest: Option<&str>, best: &mut u32, fits: &mut impl FnMut(u32, u32) -> u32) {
        let branch = match &self.nodes[id as usize].kind {
            NodeKind::Leaf { tail, run } => {
                if *run < *best && Template::elements_match(tail.map(|tail| self.text(tail)), rest) {
                    *best = fits(*run, *best);
                }
                return;
            }
            NodeKind::Branch(branch) => branch,
        };
        if branch.best >= *best {
            return;
        }
        let Some(rest) = rest else {
            if branch.end < *best {
                *best = fits(branch.end, *best);
            }
            return;
        };
        let (segment, after) = split(rest);
        let literal = match branch.literal {
            NONE => None,
            SEVERAL => self.children.find(hash_of(id, segment), |child| self.is_child(child, id, segment)),
            only => Some(only).filter(|&child| self.is_child(child, id, segment)),
        };
        if let Some(child) = literal {
            self.descend(child, after, best, fits);
        }
        if branch.variable != NONE && !segment.is_empty() {
            self.descend(branch.variable, after, best, fits);
        }
        if branch.rest < *best && !rest.is_empty() {
            *best = fits(branch.rest, *best);
        }
    }

    fn is_child(&self, child: u32, parent: u32, segment: &str) -> bool {
        let node = &self.nodes[child as usize];
        node.parent == parent && self.text(node.literal) == segment
    }

    fn text(&self, span: Span) -> &str {
        span.of(&self.text)
    }
}

/// The templates of one level while they are collected.
pub(super) struct Draft<'c> {
    /// The root first, every node behind its parent.
    nodes: Vec<DraftNode<'c>>,
    children: FxHashMap<(u32, &'c str), u32>,
}

struct DraftNode<'c> {
    parent: u32,
    literal: &'c str,
    literals: Vec<u32>,
    variable: u32,
    end: u32,
    rest: u32,
    best: u32,
    /// What follows in the first template that came here.
    tail: Option<&'c str>,
    /// Number of different templates at or below, names aside.
    shapes: u32,
}

impl<'c> Draft<'c> {
    pub(super) fn new() -> Self {
        let mut draft = Self { nodes: Vec::new(), children: FxHashMap::default() };
        draft.add(NONE, "", None);
        draft
    }

    fn add(&mut self, parent: u32, literal: &'c str, tail: Option<&'c str>) -> u32 {
        let (variable, end, rest, best) = (NONE, NONE, NONE, NONE);
        let literals = Vec::new();
        self.nodes.push(DraftNode { parent, literal, literals, variable, end, rest, best, tail, shapes: 0 });
        count(self.nodes.len() - 1)
    }

    /// Adds a template and gives the first candidate that has its shape. Candidates must come in ascending order.
    pub(super) fn insert(&mut self, template: &'c Template, candidate: u32) -> u32 {
        let mut at = 0;
        let mut tail = Some(&template.as_str()[1..]);
        self.arrive(at, tail, candidate);
        while let Some(elements) = tail {
            let (element, after) = split(elements);
            tail = after;
            at = match Element::of(element) {
                Element::Rest(_) => return first(&mut self.nodes[at as usize].rest, candidate),
                Element::Variable(_) => match self.nodes[at as usize].variable {
                    NONE => {
                        let node = self.add(at, "", tail);
                        self.nodes[at as usize].variable = node;
                        node
                    }
                    node => node,
                },
                Element::Literal(literal) => match self.children.get(&(at, literal)) {
                    Some(&node) => node,
                    None => {
                        let node = self.add(at, literal, tail);
                        self.children.insert((at, literal), node);
                        self.nodes[at as usize].literals.push(node);
                        node
                    }
                },
            };
            self.arrive(at, tail, candidate);
        }
        first(&mut self.nodes[at as usize].end, candidate)
    }

    fn arrive(&mut self, node: u32, tail: Option<&'c str>, candidate: u32) {
        let node = &mut self.nodes[node as usize];
        if node.best == NONE {
            (node.best, node.tail) = (candidate, tail);
        }
    }

    fn count_shapes(&mut self) {
        for at in (0..self.nodes.len()).rev() {
            let node = &mut self.nodes[at];
            node.shapes += u32::from(node.end != NONE) + u32::from(node.rest != NONE);
            let (parent, shapes) = (node.parent, node.shapes);
            if parent != NONE {
                self.nodes[parent as usize].shapes += shapes;
            }
        }
    }
}

/// Holds the candidate in a place that is free, and gives who holds it.
fn first(place: &mut u32, candidate: u32) -> u32 {
    *place = (*place).min(candidate);
    *place
}

/// [`TemplateTrees`] that still grow.
#[derive(Default)]
pub(super) struct TemplateTreesBuilder {
    nodes: Vec<Node>,
    text: String,
    children: Vec<(u64, u32)>,
}

impl TemplateTreesBuilder {
    /// Adds the tree of a level and gives its root.
    pub(super) fn add(&mut self, mut draft: Draft<'_>) -> u32 {
        draft.count_shapes();
        self.node(&draft, &draft.nodes[0], NONE)
    }

    fn node(&mut self, draft: &Draft<'_>, from: &DraftNode<'_>, parent: u32) -> u32 {
        let id = count(self.nodes.len());
        let literal = Span::push(&mut self.text, from.literal);
        if from.shapes == 1 {
            let tail = from.tail.map(|tail| Span::push(&mut self.text, tail));
            self.nodes.push(Node { parent, literal, kind: NodeKind::Leaf { tail, run: from.best } });
            return id;
        }
        let mut branch = Branch { literal: NONE, variable: NONE, end: from.end, rest: from.rest, best: from.best };
        // The place is taken before those of the children.
        self.nodes.push(Node { parent, literal, kind: NodeKind::Leaf { tail: None, run: NONE } });
        for &child in &from.literals {
            let child = &draft.nodes[child as usize];
            let node = self.node(draft, child, id);
            if from.literals.len() == 1 {
                branch.literal = node;
            } else {
                branch.literal = SEVERAL;
                self.children.push((hash_of(id, child.literal), node));
            }
        }
        if from.variable != NONE {
            branch.variable = self.node(draft, &draft.nodes[from.variable as usize], id);
        }
        self.nodes[id as usize].kind = NodeKind::Branch(branch);
        id
    }

    pub(super) fn finish(self) -> TemplateTrees {
        TemplateTrees {
            nodes: self.nodes.into_boxed_slice(),
            text: self.text.into_boxed_str(),
            children: Table::build(&self.children),
        }
    }
}
