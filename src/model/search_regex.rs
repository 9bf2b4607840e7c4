//! Regular expressions that are searched for with their groups, for rewrites of paths; linear time and without a lock.
//!
//! A search writes to a cache. General-purpose regular expression types share a pool of them, which would be a lock
//! between workers on the request path; here each thread keeps the caches of the expressions that it used last.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use regex_automata::Input;
use regex_automata::meta::{BuildError, Cache, Config, Regex};
use regex_automata::util::captures::Captures;
use regex_automata::util::iter::Searcher;
use regex_automata::util::primitives::PatternID;
use regex_automata::util::syntax;

use super::matching::RegexError;

/// Limit of a compiled expression in bytes, the same as that of an expression that matches.
const COMPILED_BYTES: usize = 64 * 1024;

/// Limit of the table that a search builds in its cache, in bytes.
const TABLE_BYTES: usize = 128 * 1024;

/// Most caches that a thread keeps.
const CACHES: usize = 16;

/// An expression that is searched for with its groups; equal when the patterns are.
#[derive(Clone, Debug)]
pub struct SearchRegex(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    pattern: Box<str>,
    regex: Regex,
    /// Tells it from every other expression of the process, so that a cache is never used with another one.
    id: u64,
}

impl SearchRegex {
    /// Compiles a pattern: case-sensitive, over bytes, Unicode classes off.
    ///
    /// # Errors
    /// [`RegexError::Syntax`] with the parser's words, [`RegexError::TooLarge`] above 64 KiB.
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let config = Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(COMPILED_BYTES))
            .onepass_size_limit(Some(COMPILED_BYTES))
            .hybrid_cache_capacity(TABLE_BYTES);
        let regex = Regex::builder()
            .configure(config)
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .build(pattern)
            .map_err(|error: BuildError| match (error.size_limit(), error.syntax_error()) {
                (Some(_), _) => RegexError::TooLarge,
                (None, Some(syntax)) => RegexError::syntax(syntax),
                (None, None) => RegexError::syntax(&error),
            })?;
        Ok(Self(Arc::new(Compiled { pattern: pattern.into(), regex, id: NEXT.fetch_add(1, Ordering::Relaxed) })))
    }

    /// Whether somebody else has it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Bytes that the compiled form takes, caches of threads aside.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        self.0.regex.memory_usage()
    }

    /// Whether the pattern has this group, by number or by name.
    #[must_use]
    pub fn has_group(&self, name: &str) -> bool {
        let regex = &self.0.regex;
        let numbered = name.parse::<usize>().is_ok_and(|number| number < regex.captures_len());
        numbered || regex.group_info().to_index(PatternID::ZERO, name).is_some()
    }

    /// The text with every match replaced; borrowed when nothing matches. In the substitution `$1` or `${name}` stands for
    /// a group and `$$` for a dollar sign.
    #[must_use]
    pub fn replace_all<'t>(&self, text: &'t str, substitution: &str) -> Cow<'t, str> {
        SCRATCH.with_borrow_mut(|scratch| {
            let slot = scratch.slot(&self.0);
            let mut searcher = Searcher::new(Input::new(text.as_bytes()));
            let (mut replaced, mut end) = (Vec::new(), 0);
            while let Some(found) = searcher.advance(|input| {
                self.0.regex.search_captures_with(&mut slot.cache, input, &mut slot.captures);
                Ok(slot.captures.get_match())
            }) {
                replaced.extend_from_slice(&text.as_bytes()[end..found.start()]);
                slot.captures.interpolate_bytes_into(text.as_bytes(), substitution.as_bytes(), &mut replaced);
                end = found.end();
            }
            if end == 0 && replaced.is_empty() {
                return Cow::Borrowed(text);
            }
            replaced.extend_from_slice(&text.as_bytes()[end..]);
            // A path is ASCII, and so is the checked substitution: cutting it anywhere leaves text.
            Cow::Owned(String::from_utf8_lossy(&replaced).into_owned())
        })
    }
}

impl PartialEq for SearchRegex {
    fn eq(&self, other: &Self) -> bool {
        self.0.pattern == other.0.pattern
    }
}

impl Eq for SearchRegex {}

/// The caches of a thread, most recently used last.
#[derive(Default)]
struct Scratch(Vec<Slot>);

/// What one expression writes to while it searches.
struct Slot {
    id: u64,
    cache: Cache,
    captures: Captures,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// The cache of an expression; that of the least recently used one gives way to it.
    fn slot(&mut self, compiled: &Compiled) -> &mut Slot {
        let slot = match self.0.iter().position(|slot| slot.id == compiled.id) {
            Some(index) => self.0.remove(index),
            None => {
                if self.0.len() == CACHES {
                    self.0.remove(0);
                }
                let regex = &compiled.regex;
                Slot { id: compiled.id, cache: regex.create_cache(), captures: regex.create_captures() }
            }
        };
        self.0.push_mut(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_like_the_regex_crate() {
        for pattern in ["a", "(a)(b)?", "^/(?<first>[a-z]+)", "x*", "", "/", "(?i)B", "a|ab", "$"] {
            let ours = SearchRegex::compile(pattern).expect("good");
            let theirs = regex::bytes::RegexBuilder::new(pattern).unicode(false).build().expect("good");
            for text in ["", "/", "/a/b/ab", "/ab", "/abab/", "aaa", "/xxax"] {
                for substitution in ["", "-", "$1", "${1}x", "$$", "[$0]", "${first}!", "$2$1"] {
                    let expected = theirs.replace_all(text.as_bytes(), substitution.as_bytes());
                    let expected = String::from_utf8(expected.into_owned()).expect("ASCII");
                    assert_eq!(ours.replace_all(text, substitution), expected, "{pattern} {text} {substitution}");
                }
            }
        }
    }

    #[test]
    fn faults_are_told_in_one_line() {
        assert_eq!(
            SearchRegex::compile("a(").expect_err("open group"),
            RegexError::Syntax("unclosed group".to_owned())
        );
        assert_eq!(SearchRegex::compile("(a{1,400}){1,400}").expect_err("large"), RegexError::TooLarge);
        assert!(matches!(SearchRegex::compile("(?=a)"), Err(RegexError::Syntax(_))), "no look-around");
    }

    #[test]
    fn groups_have_numbers_and_names() {
        let regex = SearchRegex::compile("(a)(?<rest>b)").expect("good");
        for (name, expected) in [("0", true), ("2", true), ("3", false), ("rest", true), ("other", false), ("", false)]
        {
            assert_eq!(regex.has_group(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_thread_keeps_a_bounded_number_of_caches() {
        let all: Vec<SearchRegex> =
            (0..2 * CACHES).map(|n| SearchRegex::compile(&format!("a{n}b")).expect("good")).collect();
        for round in 0..3 {
            for (n, regex) in all.iter().enumerate() {
                assert_eq!(regex.replace_all(&format!("/a{n}b"), "x"), "/x", "{round} {n}");
            }
        }
        SCRATCH.with_borrow(|scratch| assert_eq!(scratch.0.len(), CACHES));
    }
}
