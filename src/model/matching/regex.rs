//! Regular expressions that match whole values in linear time and without a lock.
//!
//! A shared cache, as general-purpose regular expression types keep it, would be a lock between workers on the request
//! path. So an expression becomes a table (a dense DFA), which is only read; the rare one whose table would be too
//! large runs on a simulation whose scratch space belongs to the thread.

use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::pikevm::{self, PikeVM};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

/// Limit of a compiled expression in bytes: enough for hundreds of alternatives, and a thousand of them stay small.
const COMPILED_BYTES: usize = 64 * 1024;

/// Limit of the table in bytes; above it the expression runs on the simulation.
const TABLE_BYTES: usize = 128 * 1024;

/// Limit of the scratch space while the table is made, in bytes; it also bounds the time that takes.
const BUILD_BYTES: usize = 512 * 1024;

/// Limit of the literal text that is looked for at the start of an expression, in bytes.
const LITERAL_BYTES: usize = 64;

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexError {
    /// It is no expression of the dialect (RE2-like: no look-around, no back references).
    #[error("{0}")]
    Syntax(String),
    /// Its compiled form is larger than 64 KiB.
    #[error("compiled form is larger than 64 KiB")]
    TooLarge,
}

impl RegexError {
    /// The words of the innermost error, since the outer ones only say that building failed, without the picture of several
    /// lines that points at the place.
    pub(in crate::model) fn syntax(error: &dyn std::error::Error) -> Self {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let words = cause.to_string();
        Self::Syntax(words.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
    }
}

/// A compiled expression, as if anchored at both ends; case-sensitive, over bytes, Unicode classes off.
///
/// Equality, order and hash are those of the pattern.
pub struct CompiledRegex {
    pattern: Arc<str>,
    engine: Engine,
    /// What every match begins with.
    literal: Box<str>,
}

enum Engine {
    /// The table, and its state after the literal text that every match begins with.
    Table(Box<dense::DFA<Vec<u32>>>, StateID),
    Simulation(Box<PikeVM>),
}

impl CompiledRegex {
    /// Compiles a pattern. Takes up to some milliseconds: not for the request path.
    ///
    /// # Errors
    /// [`RegexError::Syntax`] with the parser's words, [`RegexError::TooLarge`].
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        let too_large_or_syntax = |error: thompson::BuildError| match error.size_limit() {
            Some(_) => RegexError::TooLarge,
            None => RegexError::syntax(&error),
        };
        let syntax = syntax::Config::new().unicode(false).utf8(false);
        // Nothing is captured, and the start is anchored below, so the shorter automaton serves.
        let nfa_config = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(COMPILED_BYTES));
        let nfa = thompson::Compiler::new()
            .syntax(syntax)
            .configure(nfa_config)
            .build(pattern)
            .map_err(too_large_or_syntax)?;
        let (engine, literal) = match Self::table(&nfa) {
            Some((table, start)) => {
                let (literal, state) = literal(&table, start);
                (Engine::Table(Box::new(table), state), literal.into_boxed_str())
            }
            None => (Engine::Simulation(Box::new(Self::simulation(pattern)?)), Box::default()),
        };
        Ok(Self { pattern: pattern.into(), engine, literal })
    }

    /// The table with its first state, unless it becomes too large.
    fn table(nfa: &NFA) -> Option<(dense::DFA<Vec<u32>>, StateID)> {
        // With `All` the automaton keeps every way to match, so that its state after the last byte says whether one of
        // them ends there. With leftmost-first `a|ab` would stop at `a`.
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .accelerate(false)
            .dfa_size_limit(Some(TABLE_BYTES))
            .determinize_size_limit(Some(BUILD_BYTES));
        let table = dense::Builder::new().configure(config).build_from_nfa(nfa).ok()?;
        let start = table.start_state(&start::Config::new().anchored(Anchored::Yes)).ok()?;
        Some((table, start))
    }

    fn simulation(pattern: &str) -> Result<PikeVM, RegexError> {
        // The end of a match is wanted here, which takes the implicit captures.
        let nfa_config = thompson::Config::new()
            .utf8(false)
            .which_captures(WhichCaptures::Implicit)
            .nfa_size_limit(Some(2 * COMPILED_BYTES));
        pikevm::Builder::new()
            .configure(pikevm::Config::new().match_kind(MatchKind::All))
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(nfa_config)
            .build(pattern)
            .map_err(|error| match error.size_limit() {
                Some(_) => RegexError::TooLarge,
                None => RegexError::syntax(&error),
            })
    }

    /// The pattern as written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The pattern as written, shared.
    pub(super) fn shared_pattern(&self) -> Arc<str> {
        Arc::clone(&self.pattern)
    }

    /// Bytes that the compiled form takes, as far as it is known; an expression without a table counts as the largest.
    #[must_use]
    pub fn memory_usage(&self) -> usize {
        match &self.engine {
            Engine::Table(table, _) => table.memory_usage(),
            Engine::Simulation(_) => TABLE_BYTES,
        }
    }

    /// The table; `None` for an expression that runs on the simulation.
    pub(super) fn dense_table(&self) -> Option<&dense::DFA<Vec<u32>>> {
        match &self.engine {
            Engine::Table(table, _) => Some(table),
            Engine::Simulation(_) => None,
        }
    }

    /// The text that every match begins with, as far as it is known.
    #[must_use]
    pub fn literal(&self) -> &str {
        &self.literal
    }

    /// The whole elements that every path begins with that matches: `/a` for `/a/b[0-9]+`, the empty string when there
    /// are none or they are not known.
    pub(super) fn elements(&self) -> &str {
        self.literal.rfind('/').map_or("", |slash| &self.literal[..slash])
    }

    /// Whether the whole of `value` matches. Linear in its length.
    #[must_use]
    pub fn is_match(&self, value: &[u8]) -> bool {
        match &self.engine {
            Engine::Table(table, state) => {
                let rest = value.strip_prefix(self.literal.as_bytes());
                rest.is_some_and(|rest| run(table, *state, rest.iter().copied()))
            }
            Engine::Simulation(vm) => SCRATCH.with_borrow_mut(|scratch| scratch.run(vm, value)),
        }
    }

    /// As [`Self::is_match`], for a value that comes byte by byte, such as a decoded one.
    #[must_use]
    pub fn is_match_iter(&self, mut value: impl Iterator<Item = u8>) -> bool {
        match &self.engine {
            Engine::Table(table, state) => {
                self.literal.bytes().all(|byte| value.next() == Some(byte)) && run(table, *state, value)
            }
            Engine::Simulation(vm) => SCRATCH.with_borrow_mut(|scratch| {
                let mut bytes = std::mem::take(&mut scratch.bytes);
                bytes.clear();
                bytes.extend(value);
                let matched = scratch.run(vm, &bytes);
                scratch.bytes = bytes;
                matched
            }),
        }
    }
}

/// The longest text that every match begins with, up to a limit and as far as it is ASCII, and the state after it.
fn literal(table: &dense::DFA<Vec<u32>>, start: StateID) -> (String, StateID) {
    let (mut literal, mut state) = (String::new(), start);
    while literal.len() < LITERAL_BYTES && !table.is_match_state(table.next_eoi_state(state)) {
        let mut live = (0..=u8::MAX).filter(|&byte| !table.is_dead_state(table.next_state(state, byte)));
        let (Some(byte), None) = (live.next(), live.next()) else { break };
        if !byte.is_ascii() {
            break;
        }
        literal.push(char::from(byte));
        state = table.next_state(state, byte);
    }
    (literal, state)
}

/// Walks the table over the value, or what is left of it.
fn run(table: &dense::DFA<Vec<u32>>, mut state: StateID, value: impl Iterator<Item = u8>) -> bool {
    for byte in value {
        state = table.next_state(state, byte);
        if table.is_special_state(state) && table.is_dead_state(state) {
            return false;
        }
    }
    table.is_match_state(table.next_eoi_state(state))
}

/// Scratch space of a thread for simulations, at most as large as the largest expression and value that ran there.
#[derive(Default)]
struct Scratch {
    cache: Option<pikevm::Cache>,
    bytes: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    fn run(&mut self, vm: &PikeVM, value: &[u8]) -> bool {
        let cache = self.cache.get_or_insert_with(|| vm.create_cache());
        vm.reset_cache(cache);
        // `All` goes on to the longest match: the whole matches if and only if that one ends with it.
        let input = Input::new(value).anchored(Anchored::Yes);
        let mut ends = [None; 2];
        vm.search_slots(cache, &input, &mut ends).is_some() && ends[1].is_some_and(|end| end.get() == value.len())
    }
}

impl PartialEq for CompiledRegex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Eq for CompiledRegex {}

impl PartialOrd for CompiledRegex {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CompiledRegex {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.pattern.cmp(&other.pattern)
    }
}

impl Hash for CompiledRegex {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pattern.hash(state);
    }
}

impl fmt::Debug for CompiledRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CompiledRegex").field(&self.pattern).finish()
    }
}

#[cfg(test)]
mod tests;
