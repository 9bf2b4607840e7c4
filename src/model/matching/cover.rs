//! Whether one match fits everything that another one fits, so that the other can never win behind it.
//!
//! Paths are compared as languages: each kind of path is a small deterministic automaton, and two of them are walked side
//! by side over the bytes that a canonical path can have. The answer `true` is proven; `false` can also mean that the
//! proof was not found within its [`Effort`]. Meant for warnings, not for the request path.

use regex_automata::Anchored;
use regex_automata::dfa::{Automaton as _, dense};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use rustc_hash::FxHashSet;

use super::candidate::{Candidate, PathMatch, ValueMatch, ValueTest};
use super::regex::CompiledRegex;
use super::template::Element;

/// A bound on the work of a series of comparisons: the number of steps that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort(u32);

impl Effort {
    /// A bound of so many steps; one takes some tens of nanoseconds.
    #[must_use]
    pub const fn new(steps: u32) -> Self {
        Self(steps)
    }

    /// Takes one step; false when none is left.
    pub const fn spend(&mut self) -> bool {
        match self.0.checked_sub(1) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }
}

impl Candidate {
    /// Whether every request that fits `other` is shown to fit this one too. Priority and rank do not count.
    #[must_use]
    pub fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        let [outer, inner] = [self, other].map(Candidate::conditions);
        self.hostname == other.hostname
            && outer.method.as_ref().is_none_or(|method| inner.method.as_ref() == Some(method))
            && all_implied(&outer.headers, &inner.headers, effort)
            && all_implied(&outer.cookies, &inner.cookies, effort)
            && all_implied(&outer.query_params, &inner.query_params, effort)
            && self.path.covers(&other.path, effort)
    }
}

impl PathMatch {
    /// Whether every canonical path that fits `other` is shown to fit this one too.
    fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        match (self, other) {
            (Self::Exact(outer), Self::Exact(inner)) => outer == inner,
            (Self::Exact(_), Self::Prefix(_) | Self::Template(_)) => false,
            (Self::Prefix(outer), Self::Exact(inner) | Self::Prefix(inner)) => {
                inner.strip_prefix(&**outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            (Self::Template(outer), Self::Exact(inner)) => outer.is_match(inner),
            (Self::Regex(outer), Self::Exact(inner)) => outer.is_match(inner.as_bytes()),
            (Self::Regex(outer), Self::Regex(inner)) if outer == inner => true,
            (Self::Exact(_), Self::Regex(_))
            | (Self::Prefix(_) | Self::Template(_) | Self::Regex(_), Self::Template(_) | Self::Regex(_))
            | (Self::Template(_) | Self::Regex(_), Self::Prefix(_)) => {
                let (Some(outer), Some(inner)) = (Language::of(self), Language::of(other)) else { return false };
                // All paths begin with a slash.
                let first = (inner.next(inner.start(), b'/'), outer.next(outer.start(), b'/'));
                is_included(&inner, &outer, first, path_bytes(), effort)
            }
        }
    }
}

impl CompiledRegex {
    /// False when it is shown to match no canonical path at all, as `users/.*` and `/search\?q=.*`.
    #[must_use]
    pub fn fits_a_path(&self) -> bool {
        let Some(language) = Language::of_regex(self) else { return true };
        let first = language.next(language.start(), b'/');
        let (mut seen, mut left) = (FxHashSet::from_iter([first]), vec![first]);
        while let Some(state) = left.pop() {
            if language.accepts(state) {
                return true;
            }
            let next = path_bytes().map(|byte| language.next(state, byte));
            left.extend(next.filter(|state| *state != DEAD && seen.insert(*state)));
        }
        false
    }
}

/// Whether each of the outer conditions follows from one of the inner ones.
fn all_implied(outer: &[ValueMatch], inner: &[ValueMatch], effort: &mut Effort) -> bool {
    outer
        .iter()
        .all(|outer| inner.iter().any(|inner| inner.name == outer.name && is_implied(&outer.test, &inner.test, effort)))
}

fn is_implied(outer: &ValueTest, inner: &ValueTest, effort: &mut Effort) -> bool {
    match (outer, inner) {
        (outer, inner) if outer == inner => true,
        (ValueTest::Present, ValueTest::Exact(_) | ValueTest::Prefix(_) | ValueTest::Regex(_)) => true,
        (ValueTest::Prefix(outer), ValueTest::Exact(inner) | ValueTest::Prefix(inner)) => inner.starts_with(&**outer),
        (ValueTest::Regex(outer), ValueTest::Exact(inner)) => outer.is_match(inner.as_bytes()),
        (ValueTest::Regex(outer), ValueTest::Regex(inner)) => {
            let languages = (Language::of_regex(outer), Language::of_regex(inner));
            let (Some(outer), Some(inner)) = languages else { return false };
            is_included(&inner, &outer, (inner.start(), outer.start()), 0..=u8::MAX, effort)
        }
        (ValueTest::Exact(_) | ValueTest::Absent | ValueTest::Present, _)
        | (ValueTest::Prefix(_) | ValueTest::Regex(_), _) => false,
    }
}

/// The bytes of a canonical path (RFC 3986 §3.3, and those that clients send raw and pods take); a question mark or number
/// sign ends the path, and some others are percent-encoded in it.
fn path_bytes() -> impl Iterator<Item = u8> + Clone {
    (b'!'..=b'~').filter(|byte| !matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>' | b'\\' | b'`'))
}

/// A state of an automaton: a number that only its [`Language`] understands.
type State = u64;

/// No text that goes on from here is accepted.
const DEAD: State = u64::MAX;

/// In front of the first byte.
const START: State = u64::MAX - 1;

/// Behind the slash that follows a prefix.
const BELOW: State = u64::MAX - 2;

/// The texts that a path or a value may have, as a deterministic automaton.
enum Language<'a> {
    Exact(&'a [u8]),
    Prefix(&'a [u8]),
    Template(Vec<Element<'a>>),
    Table(&'a dense::DFA<Vec<u32>>, StateID),
}

impl<'a> Language<'a> {
    /// `None` for an expression that has no table.
    fn of(path: &'a PathMatch) -> Option<Self> {
        match path {
            PathMatch::Exact(path) => Some(Self::Exact(path.as_bytes())),
            PathMatch::Prefix(prefix) => Some(Self::Prefix(prefix.as_bytes())),
            PathMatch::Template(template) => Some(Self::Template(template.elements().collect())),
            PathMatch::Regex(regex) => Self::of_regex(regex),
        }
    }

    fn of_regex(regex: &'a CompiledRegex) -> Option<Self> {
        let table = regex.dense_table()?;
        let start = table.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some(Self::Table(table, start))
    }

    fn start(&self) -> State {
        match self {
            Self::Exact(_) | Self::Prefix(_) => 0,
            Self::Template(_) => START,
            Self::Table(_, start) => start.as_u32().into(),
        }
    }

    fn next(&self, state: State, byte: u8) -> State {
        match (self, state) {
            (_, DEAD) => DEAD,
            (Self::Prefix(_), BELOW) => BELOW,
            (Self::Prefix(text), at) if at == text.len() as u64 => {
                if byte == b'/' {
                    BELOW
                } else {
                    DEAD
                }
            }
            (Self::Exact(text) | Self::Prefix(text), at) => {
                let is_next = usize::try_from(at).is_ok_and(|at| text.get(at) == Some(&byte));
                if is_next { at + 1 } else { DEAD }
            }
            (Self::Template(_), START) => {
                if byte == b'/' {
                    0
                } else {
                    DEAD
                }
            }
            (Self::Template(elements), state) => next_in_template(elements, state, byte),
            (Self::Table(table, _), state) => {
                let next = table.next_state(id(state), byte);
                if is_over(table, next) { DEAD } else { next.as_u32().into() }
            }
        }
    }

    fn accepts(&self, state: State) -> bool {
        match (self, state) {
            (_, DEAD) | (Self::Template(_), START) => false,
            (Self::Prefix(_), BELOW) => true,
            (Self::Exact(text) | Self::Prefix(text), at) => at == text.len() as u64,
            (Self::Template(elements), state) => {
                let (at, progress) = (state >> 32, state & u64::from(u32::MAX));
                at + 1 == elements.len() as u64 && elements.last().is_some_and(|last| is_complete(*last, progress))
            }
            (Self::Table(table, _), state) => table.is_match_state(table.next_eoi_state(id(state))),
        }
    }
}

/// Whether a table accepts nothing from a state on. A match shows in the state one byte later, so that the one behind the
/// last match is not yet the dead one.
fn is_over(table: &dense::DFA<Vec<u32>>, state: StateID) -> bool {
    let is_dead = |state| table.is_dead_state(state);
    is_dead(state)
        || table.is_match_state(state)
            && !table.is_match_state(table.next_eoi_state(state))
            && (0..=u8::MAX).all(|byte| is_dead(table.next_state(state, byte)))
}

/// The state of a table by its number.
fn id(state: State) -> StateID {
    let number = usize::try_from(state).ok().and_then(|state| StateID::new(state).ok());
    number.expect("states of a table are made of its own identifiers")
}

/// A state within a template: the position of the element in the upper half, in the lower one how much of it was read:
/// bytes of a literal, 0 or 1 for a variable.
fn next_in_template(elements: &[Element<'_>], state: State, byte: u8) -> State {
    let (at, progress) = (state >> 32, state & u64::from(u32::MAX));
    let Some(element) = usize::try_from(at).ok().and_then(|at| elements.get(at)) else { return DEAD };
    let begun = at << 32 | 1;
    match (element, byte) {
        (Element::Rest(_), _) => begun,
        (element, b'/') if is_complete(*element, progress) && at + 1 < elements.len() as u64 => (at + 1) << 32,
        (Element::Literal(_) | Element::Variable(_), b'/') => DEAD,
        (Element::Variable(_), _) => begun,
        (Element::Literal(literal), byte) => {
            let is_next = usize::try_from(progress).is_ok_and(|at| literal.as_bytes().get(at) == Some(&byte));
            if is_next { state + 1 } else { DEAD }
        }
    }
}

fn is_complete(element: Element<'_>, progress: u64) -> bool {
    match element {
        Element::Literal(literal) => progress == literal.len() as u64,
        Element::Variable(_) | Element::Rest(_) => progress == 1,
    }
}

/// Whether all that `inner` accepts from its first state on is accepted by `outer` from its own.
fn is_included(
    inner: &Language<'_>,
    outer: &Language<'_>,
    first: (State, State),
    bytes: impl Iterator<Item = u8> + Clone,
    effort: &mut Effort,
) -> bool {
    if first.0 == DEAD {
        // It fits nothing, which is said elsewhere.
        return false;
    }
    let (mut seen, mut left) = (FxHashSet::from_iter([first]), vec![first]);
    while let Some((of_inner, of_outer)) = left.pop() {
        // A table has no live states from which nothing is accepted, with rare exceptions that cost a warning.
        if of_outer == DEAD || inner.accepts(of_inner) && !outer.accepts(of_outer) {
            return false;
        }
        let mut last = None;
        for byte in bytes.clone() {
            let next = (inner.next(of_inner, byte), outer.next(of_outer, byte));
            // Most bytes lead where their neighbour leads.
            if next.0 == DEAD || last.replace(next) == Some(next) {
                continue;
            }
            if !effort.spend() {
                return false;
            }
            if seen.insert(next) {
                left.push(next);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::RuleId;
    use crate::model::matching::Conditions;
    use crate::model::matching::{Hostname, Template};

    /// A prefix, or `=` exact, `~` an expression, or a template when it has braces.
    fn path(text: &str) -> PathMatch {
        if let Some(path) = text.strip_prefix('=') {
            PathMatch::Exact(path.into())
        } else if let Some(pattern) = text.strip_prefix('~') {
            PathMatch::Regex(CompiledRegex::compile(pattern).expect("good").into())
        } else if text.contains('{') {
            PathMatch::Template(Template::parse(text).expect("good").into())
        } else {
            PathMatch::prefix(text)
        }
    }

    #[test]
    fn paths_cover_each_other_by_what_they_match() {
        let covered: &[(&str, &[&str])] = &[
            ("/", &["/", "=/", "/a", "=/a/b", "/{a}", "/{a*}", "~/.*", "~/a|/b"]),
            ("/a", &["/a", "=/a", "=/a/", "/a/b", "/a/{b}", "/a/{b*}", "~/a", "~/a/.*", "~/a(/.*)?", "~/a/b[0-9]+"]),
            ("=/a", &["=/a", "~/a"]),
            ("/{a}", &["=/a", "/{b}", "~/[a-z]+", "~/a|/b"]),
            ("/{a*}", &["=/a", "/a", "/{a}", "/{a}/{b}", "/x/{b*}", "~/[a-z]+/.*"]),
            ("/a/{b}", &["=/a/x", "/a/{c}", "~/a/[0-9]{1,3}"]),
            ("/{a}/{b*}", &["/x/{b*}", "/{a}/b/c", "=/a/b/c"]),
            ("~.*", &["/", "/a", "=/a", "/{a}", "/{a*}", "~/.*", "~/a/.*"]),
            ("~/.*", &["/", "/a", "=/", "/{a*}", "~.*", "~/a|/b"]),
            ("~/a/.*", &["=/a/b", "/a/b", "/a/{b}", "/a/{b*}", "~/a/[0-9]+"]),
            ("~/a(/.*)?", &["/a", "=/a", "/a/b", "~/a/.*"]),
            ("~/(a|b|c).*", &["/a", "=/abc", "/b/{x}", "~/a", "~/c[0-9]"]),
        ];
        let all: Vec<&str> = covered.iter().flat_map(|(outer, inner)| [&[*outer], *inner].concat()).collect();
        for (outer, inner) in covered {
            for other in &all {
                let expected = inner.contains(other) || other == outer;
                let covers = path(outer).covers(&path(other), &mut Effort::new(1 << 16));
                // What is listed must be found; what is not listed must be found only where it is true.
                assert!(covers || !expected, "{outer} {other}");
                if covers && !expected {
                    assert!(is_true_by_example(&path(outer), &path(other)), "{outer} {other}");
                }
            }
        }
        for (outer, inner) in [
            ("/a", "/"),
            ("/a", "=/ab"),
            ("/a", "/{a}"),
            ("/a", "~/a.*"),
            ("/{a*}", "/"),
            ("/a/{b*}", "/a"),
            ("/{a}", "~/.*"),
            ("~/[a-z]+", "/a"),
            ("~/[a-z]+", "/{a}"),
            ("~/a", "/a"),
            ("~/a/.*", "/a"),
            ("~/.*x", "/"),
        ] {
            assert!(!path(outer).covers(&path(inner), &mut Effort::new(1 << 16)), "{outer} {inner}");
        }
        assert!(!path("~/.*").covers(&path("/a"), &mut Effort::new(0)), "no proof without effort");
    }

    fn is_true_by_example(outer: &PathMatch, inner: &PathMatch) -> bool {
        let fits = |path: &PathMatch, text: &str| match path {
            PathMatch::Exact(exact) => **exact == *text,
            PathMatch::Prefix(prefix) => {
                text.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Template(template) => template.is_match(text),
            PathMatch::Regex(regex) => regex.is_match(text.as_bytes()),
        };
        let elements = ["", "/", "/a", "/b", "/c1", "/x", "/abc", "/a/", "/12", "/b12", "/x.y"];
        let texts = elements.iter().flat_map(|a| elements.iter().map(move |b| format!("/{a}{b}").replace("//", "/")));
        texts.into_iter().all(|text| !fits(inner, &text) || fits(outer, &text))
    }

    #[test]
    fn conditions_follow_from_stricter_ones() {
        let regex = |pattern| ValueTest::Regex(CompiledRegex::compile(pattern).expect("good").into());
        let exact = |value: &str| ValueTest::Exact(value.into());
        let prefix = |value: &str| ValueTest::Prefix(value.into());
        let present = || ValueTest::Present;
        for (outer, inner, expected) in [
            (present(), exact("a"), true),
            (present(), regex("a+"), true),
            (present(), ValueTest::Absent, false),
            (exact("a"), exact("a"), true),
            (exact("a"), exact("b"), false),
            (exact("a"), present(), false),
            (prefix("a"), exact("ab"), true),
            (prefix("a"), prefix("ab"), true),
            (prefix("ab"), prefix("a"), false),
            (prefix("a"), present(), false),
            (regex("a+"), exact("aa"), true),
            (regex("a+"), exact("ab"), false),
            (regex(".*"), regex("[0-9]+"), true),
            (regex("[0-9]+"), regex(".*"), false),
            (regex(".*"), present(), false),
            (ValueTest::Absent, ValueTest::Absent, true),
        ] {
            let one = |test: &ValueTest| {
                let headers = vec![ValueMatch { name: "x".into(), test: test.clone() }];
                Candidate::any(RuleId(0), 0).asking(Conditions { headers, ..Conditions::default() })
            };
            let covers = one(&outer).covers(&one(&inner), &mut Effort::new(1 << 16));
            assert_eq!(covers, expected, "{outer:?} {inner:?}");
            let any = Candidate::any(RuleId(0), 0);
            assert!(any.covers(&one(&inner), &mut Effort::new(9)), "{inner:?}");
            assert!(!one(&outer).covers(&any, &mut Effort::new(9)), "{outer:?}");
        }
    }

    #[test]
    fn hosts_and_methods_must_be_the_same_or_open() {
        let any = Candidate::any(RuleId(0), 0);
        let get = any.clone().asking(Conditions { method: Some(http::Method::GET), ..Conditions::default() });
        let post = any.clone().asking(Conditions { method: Some(http::Method::POST), ..Conditions::default() });
        let host = Candidate { hostname: Hostname::Exact("a".into()), ..any.clone() };
        let covers = |outer: &Candidate, inner: &Candidate| outer.covers(inner, &mut Effort::new(9));
        assert!(covers(&any, &get) && covers(&get, &get));
        assert!(!covers(&get, &any) && !covers(&get, &post));
        assert!(!covers(&any, &host), "the search looks at hosts first");
    }

    #[test]
    fn an_expression_that_no_path_fits_is_told() {
        for (pattern, expected) in [
            ("users/[0-9]+", false),
            (r"/search\?q=.*", false),
            ("/a b", false),
            ("/\u{fc}", false),
            (r"/a\\b", false),
            ("/<[a-z]+>", false),
            ("/%C3%BC[^<]*", true),
            ("", false),
            ("[^/]*", false),
            ("(users|/users)/.*", true),
            (".*", true),
            ("^/users$", true),
            ("/", true),
        ] {
            assert_eq!(CompiledRegex::compile(pattern).expect("good").fits_a_path(), expected, "{pattern}");
        }
    }
}
