//! Matches that can never win: another one for the same host comes before them and fits every request that they fit.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};

use super::place::CandidateOrigin;
use crate::compile::attach::Attached;
use crate::model::matching::{Candidate, Effort, PathMatch, PredicateKey, ValueTest};

/// The most steps of all comparisons of one compilation: some milliseconds. Beyond it no more shadows are looked for.
const MOST_STEPS: u32 = 1 << 18;

/// Up to so many candidates of one host are compared each with each; more get an index.
const FEW: usize = 8;

/// A match that can never win, and the first one that always comes before it, as positions of candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shadow {
    pub(super) loser: u32,
    pub(super) winner: u32,
}

/// All shadows among candidates, given in their order of precedence, but for duplicates and for losses that cost nothing.
pub(super) fn shadows(
    candidates: &[Candidate],
    order: &[u32],
    places: &[CandidateOrigin],
    attached: &[Attached],
) -> Vec<Shadow> {
    let mut found = Vec::new();
    let mut effort = Effort::new(MOST_STEPS);
    let candidate = |at: u32| &candidates[at as usize];
    let place = |at: u32| &places[at as usize];
    for of_host in order.chunk_by(|a, b| candidate(*a).hostname == candidate(*b).hostname) {
        let mut earlier = Earlier::new(of_host.len());
        for (at, &loser) in (0u32..).zip(of_host) {
            let mut covers = |other: u32| {
                let winner = of_host[other as usize];
                effort.spend()
                    && place(winner).listeners.contains_all(&place(loser).listeners)
                    && candidate(winner).covers(candidate(loser), &mut effort)
            };
            let Some(winner) = earlier.first(candidate(loser), &mut covers) else {
                // What is covered covers nothing that its own winner does not.
                earlier.add(at, candidate(loser));
                continue;
            };
            let winner = of_host[winner as usize];
            let is_duplicate = || PredicateKey::of(candidate(winner)) == PredicateKey::of(candidate(loser));
            // An expression that fits no path is told by itself; nothing takes requests away from it.
            let is_void = || matches!(&candidate(loser).path, PathMatch::Regex(regex) if !regex.fits_a_path());
            if !place(loser).is_family(place(winner), attached) && !is_duplicate() && !is_void() {
                found.push(Shadow { loser, winner });
            }
        }
    }
    found
}

/// The candidates of one host that came before, ascending.
enum Earlier {
    All(Vec<u32>),
    /// By the path and one exact condition that a candidate must have to be covered.
    Keyed(FxHashMap<u64, Vec<u32>>),
}

impl Earlier {
    fn new(count: usize) -> Self {
        if count <= FEW { Self::All(Vec::new()) } else { Self::Keyed(FxHashMap::default()) }
    }

    fn add(&mut self, at: u32, candidate: &Candidate) {
        match self {
            Self::All(all) => all.push(at),
            Self::Keyed(lists) => {
                let (kind, path) = match &candidate.path {
                    PathMatch::Exact(path) => (Kind::Exact, &**path),
                    PathMatch::Prefix(prefix) => (Kind::Prefix, &**prefix),
                    PathMatch::Template(_) | PathMatch::Regex(_) => (Kind::Other, ""),
                };
                lists.entry(key(kind, path, exact_conditions(candidate).next())).or_default().push(at);
            }
        }
    }

    /// The first that covers a candidate.
    fn first(&self, candidate: &Candidate, covers: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let lists = match self {
            Self::All(all) => return all.iter().copied().find(|at| covers(*at)),
            Self::Keyed(lists) => lists,
        };
        let (exact, text) = match &candidate.path {
            PathMatch::Exact(path) => (Some(&**path), &**path),
            PathMatch::Prefix(prefix) => (None, &**prefix),
            PathMatch::Template(template) => (None, template.as_str()),
            PathMatch::Regex(regex) => (Some(regex.literal()), regex.literal()),
        };
        let prefixes = std::iter::successors(Some(text), |text| text.rfind('/').map(|slash| &text[..slash]));
        let paths = prefixes.map(|prefix| (Kind::Prefix, prefix));
        let paths = paths.chain(exact.map(|path| (Kind::Exact, path))).chain([(Kind::Other, "")]);
        let mut best: Option<u32> = None;
        for (kind, path) in paths {
            for condition in std::iter::once(None).chain(exact_conditions(candidate).map(Some)) {
                let Some(list) = lists.get(&key(kind, path, condition)) else { continue };
                let better = list.iter().copied().take_while(|at| best.is_none_or(|best| *at < best));
                best = better.into_iter().find(|at| covers(*at)).or(best);
            }
        }
        best
    }
}

/// Kinds of paths, as far as the index tells them apart.
#[derive(Clone, Copy)]
enum Kind {
    Exact,
    Prefix,
    Other,
}

/// Source, name and value of an exact condition.
type Condition<'a> = (u8, &'a str, &'a str);

/// Two of one hash share a list, which costs comparisons and nothing else.
fn key(kind: Kind, path: &str, condition: Option<Condition<'_>>) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u8(kind as u8);
    hasher.write(path.as_bytes());
    if let Some((source, name, value)) = condition {
        hasher.write_u8(source + 1);
        hasher.write(name.as_bytes());
        hasher.write(value.as_bytes());
    }
    hasher.finish()
}

fn exact_conditions(candidate: &Candidate) -> impl Iterator<Item = Condition<'_>> {
    let conditions = candidate.conditions();
    let lists = [&conditions.headers, &conditions.cookies, &conditions.query_params];
    (0u8..).zip(lists).flat_map(|(source, list)| {
        list.iter().filter_map(move |condition| match &condition.test {
            ValueTest::Exact(value) => Some((source, &*condition.name, &**value)),
            ValueTest::Prefix(_) | ValueTest::Regex(_) | ValueTest::Present | ValueTest::Absent => None,
        })
    })
}
