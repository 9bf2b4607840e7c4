//! The router: tables over candidates, and the search in them.

mod selector;
mod table;

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use self::selector::Selector;
use self::table::{Table, TemplateTree, TemplateTreeBuilder, count, hash_of, prefixes};
use super::{Candidate, Found, Hostname, Miss, PathMatch, RequestView, precedence, values};

/// No candidate, node or run; worse than all.
const NONE: u32 = u32::MAX;

/// A compiled index over the candidates of one listener.
///
/// Candidates are held in their order of precedence, so the better of two is the one with the lower number. From a
/// request the search goes by hash to the host (then to wildcards, longest first, then to the routes without hosts),
/// there through the priorities, and in each to the exact path, the templates, the prefixes from the longest on and
/// the expressions. It allocates nothing and takes no lock; except for expressions its cost does not depend on the
/// number of routes.
#[derive(Default)]
pub struct Router {
    /// In order of precedence.
    candidates: Box<[Candidate]>,
    /// What the search needs first of each candidate, under the same number.
    entries: Box<[Entry]>,
    hosts: Hosts,
    levels: Box<[Level]>,
    exact: Table,
    prefixes: Table,
    templates: TemplateTree,
    selectors: Box<[Selector]>,
}

/// The part of a candidate that the search reads: one cache line instead of three.
struct Entry {
    /// Text of the path match.
    path: Arc<str>,
    /// The next candidate with the same path.
    next: u32,
    /// For the first candidate of a prefix: the first one of the next shorter prefix of its level.
    shorter: u32,
    /// For the first of many candidates with one path: their selector.
    selector: u32,
    /// The path is the only condition.
    bare: bool,
}

/// The candidates of one hostname: a range of levels, highest priority first.
#[derive(Clone, Copy)]
struct Levels {
    from: u32,
    end: u32,
}

#[derive(Default)]
struct Hosts {
    exact: FxHashMap<Arc<str>, Levels>,
    /// By suffix.
    wildcards: FxHashMap<Arc<str>, Levels>,
    /// Which lengths of suffix exist, as bits; the last one stands for all from 255 on.
    wildcard_lengths: [u64; 4],
    any: Option<Levels>,
}

/// The candidates of one hostname and priority: a range of candidates, by kind of path.
struct Level {
    from: u32,
    exact_end: u32,
    prefix_end: u32,
    end: u32,
    /// Root of its templates.
    templates: u32,
    /// First candidate of the prefix that fits every path.
    root: u32,
    /// Most elements of its prefixes.
    prefix_depth: u32,
}

impl Router {
    /// Puts candidates in order and makes the tables. Of candidates that are equal in all of precedence, rank included,
    /// the earlier one wins.
    ///
    /// Takes time in proportion to n log n, and no more than a few hundred bytes for a candidate.
    #[must_use]
    pub fn build(mut candidates: Vec<Candidate>) -> Self {
        candidates.sort_by(precedence);
        candidates.iter_mut().for_each(|candidate| {
            candidate.headers.shrink_to_fit();
            candidate.query_params.shrink_to_fit();
            candidate.cookies.shrink_to_fit();
        });
        Builder::new(&candidates).build(&candidates).into_router(candidates.into_boxed_slice())
    }

    /// Finds the winner.
    ///
    /// When nothing for the most specific hostname fits, less specific hostnames have their turn.
    ///
    /// # Errors
    /// [`Miss::NoHost`] when no candidate has the host, [`Miss::NoPath`] when some have but none fits.
    pub fn find(&self, request: &RequestView<'_>) -> Result<Found, Miss> {
        let mut miss = Miss::NoHost;
        let mut search = |levels: Levels| {
            miss = Miss::NoPath;
            let levels = levels.from..levels.end;
            levels.into_iter().map(|level| self.find_in(level, request)).find(|&id| id != NONE)
        };
        let winner = request
            .host
            .and_then(|host| {
                let exact = self.hosts.exact.get(host).and_then(|&levels| search(levels));
                exact.or_else(|| self.hosts.wildcards(host).find_map(&mut search))
            })
            .or_else(|| self.hosts.any.and_then(search));
        winner.map_or(Err(miss), |id| Ok(Found { rule: self.candidates[id as usize].rule, candidate: id }))
    }

    /// The best candidate of a level, or [`NONE`].
    fn find_in(&self, id: u32, request: &RequestView<'_>) -> u32 {
        let level = &self.levels[id as usize];
        if level.from < level.exact_end {
            let is_key = |run| level.has(run) && *self.entries[run as usize].path == *request.path;
            let best =
                self.exact.find(hash_of(id, request.path), is_key).map_or(NONE, |run| self.first(run, NONE, request));
            if best != NONE {
                return best;
            }
        }
        if level.templates != NONE {
            let best = self.templates.find(level.templates, request.path, |run, best| self.first(run, best, request));
            if best != NONE {
                return best;
            }
        }
        let mut run = self.longest_prefix(id, level, request.path);
        while run != NONE {
            let best = self.first(run, NONE, request);
            if best != NONE {
                return best;
            }
            run = self.entries[run as usize].shorter;
        }
        self.find_regex(level, request)
    }

    /// The longest prefix of a level that the path is under, as its first candidate.
    fn longest_prefix(&self, id: u32, level: &Level, path: &str) -> u32 {
        let mut longest = level.root;
        for (hash, end) in prefixes(id, path).take(level.prefix_depth as usize) {
            let is_key = |run| level.has(run) && *self.entries[run as usize].path == path[..end];
            longest = self.prefixes.find(hash, is_key).unwrap_or(longest);
        }
        longest
    }

    fn find_regex(&self, level: &Level, request: &RequestView<'_>) -> u32 {
        // Matches of one rule often share their expression and stand next to each other.
        let mut last: Option<(&str, bool)> = None;
        for id in level.prefix_end..level.end {
            let candidate = &self.candidates[id as usize];
            let PathMatch::Regex(regex) = &candidate.path else { continue };
            let matches = match last {
                Some((pattern, matches)) if pattern == regex.pattern() => matches,
                _ => regex.is_match(request.path.as_bytes()),
            };
            last = Some((regex.pattern(), matches));
            if matches && values::fits(candidate, request) {
                return id;
            }
        }
        NONE
    }

    /// The first candidate with the path of `run` that fits and is better than `best`; else `best`.
    fn first(&self, run: u32, best: u32, request: &RequestView<'_>) -> u32 {
        let fits = |id: u32| self.entries[id as usize].bare || values::fits(&self.candidates[id as usize], request);
        let selector = self.entries[run as usize].selector;
        if selector != NONE {
            return self.selectors[selector as usize].find(request, best, fits);
        }
        let mut id = run;
        while id < best {
            if fits(id) {
                return id;
            }
            id = self.entries[id as usize].next;
        }
        best
    }

    /// The value of a variable of the template by which a request was found: canonical text, not decoded, not empty.
    /// `None` when the match is no template or has no such variable.
    #[must_use]
    pub fn path_param<'p>(&self, found: Found, path: &'p str, name: &str) -> Option<&'p str> {
        match &self.candidate(found)?.path {
            PathMatch::Template(template) => template.param(path, name),
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
        }
    }

    /// The match by which a request was found; `None` when `found` comes from another router.
    #[must_use]
    pub fn candidate(&self, found: Found) -> Option<&Candidate> {
        self.candidates.get(found.candidate as usize)
    }

    /// All candidates in order of precedence: those of a hostname together, exact hostnames first.
    pub fn candidates(&self) -> impl ExactSizeIterator<Item = &Candidate> {
        self.candidates.iter()
    }
}

impl Hosts {
    /// The wildcards that a host is under, longest first.
    fn wildcards(&self, host: &str) -> impl Iterator<Item = Levels> {
        // The name in front of the suffix must not be empty.
        let suffixes = host.match_indices('.').filter(|&(dot, _)| dot > 0).map(move |(dot, _)| &host[dot + 1..]);
        suffixes.filter(|suffix| self.has_length(suffix)).filter_map(|suffix| self.wildcards.get(suffix).copied())
    }

    fn has_length(&self, suffix: &str) -> bool {
        let bit = suffix.len().min(255);
        self.wildcard_lengths[bit / 64] & (1 << (bit % 64)) != 0
    }

    fn add(&mut self, hostname: &Hostname, levels: Levels) {
        match hostname {
            Hostname::Exact(name) => {
                self.exact.insert(Arc::clone(name), levels);
            }
            Hostname::Wildcard(suffix) => {
                let bit = suffix.len().min(255);
                self.wildcard_lengths[bit / 64] |= 1 << (bit % 64);
                self.wildcards.insert(Arc::clone(suffix), levels);
            }
            Hostname::Any => self.any = Some(levels),
        }
    }
}

impl Level {
    /// Whether a candidate is one of its own.
    const fn has(&self, candidate: u32) -> bool {
        self.from <= candidate && candidate < self.end
    }
}

/// The tables of a router while they are made.
struct Builder {
    entries: Vec<Entry>,
    hosts: Hosts,
    levels: Vec<Level>,
    exact: Vec<(u64, u32)>,
    prefixes: Vec<(u64, u32)>,
    templates: TemplateTreeBuilder,
    selectors: Vec<Selector>,
}

impl Builder {
    fn new(candidates: &[Candidate]) -> Self {
        let entries = candidates.iter().map(|candidate| Entry {
            path: match &candidate.path {
                PathMatch::Exact(path) | PathMatch::Prefix(path) => Arc::clone(path),
                PathMatch::Template(template) => template.shared_text(),
                PathMatch::Regex(regex) => regex.shared_pattern(),
            },
            next: NONE,
            shorter: NONE,
            selector: NONE,
            bare: candidate.method.is_none()
                && candidate.headers.is_empty()
                && candidate.query_params.is_empty()
                && candidate.cookies.is_empty(),
        });
        Self {
            entries: entries.collect(),
            hosts: Hosts::default(),
            levels: Vec::new(),
            exact: Vec::new(),
            prefixes: Vec::new(),
            templates: TemplateTreeBuilder::default(),
            selectors: Vec::new(),
        }
    }

    /// Builds all levels of candidates that are in order of precedence.
    fn build(mut self, candidates: &[Candidate]) -> Self {
        let mut from = 0;
        for of_host in candidates.chunk_by(|a, b| a.hostname == b.hostname) {
            let first_level = count(self.levels.len());
            for of_level in of_host.chunk_by(|a, b| a.priority == b.priority) {
                self.level(candidates, from, from + of_level.len());
                from += of_level.len();
            }
            self.hosts.add(&of_host[0].hostname, Levels { from: first_level, end: count(self.levels.len()) });
        }
        self
    }

    fn level(&mut self, candidates: &[Candidate], from: usize, end: usize) {
        let id = count(self.levels.len());
        let of_level = &candidates[from..end];
        let kind_end = |is_before: fn(&PathMatch) -> bool| from + of_level.partition_point(|c| is_before(&c.path));
        let exact_end = kind_end(|path| matches!(path, PathMatch::Exact(_)));
        let template_end = kind_end(|path| matches!(path, PathMatch::Exact(_) | PathMatch::Template(_)));
        let prefix_end = kind_end(|path| !matches!(path, PathMatch::Regex(_)));
        for run in self.runs(from, exact_end) {
            self.select(candidates, run);
            self.exact.push((hash_of(id, &self.entries[run as usize].path), run));
        }
        let templates = self.template_level(candidates, exact_end, template_end);
        let (root, prefix_depth) = self.prefix_level(candidates, id, template_end, prefix_end);
        let [from, exact_end, prefix_end, end] = [from, exact_end, prefix_end, end].map(count);
        self.levels.push(Level { from, exact_end, prefix_end, end, templates, root, prefix_depth });
    }

    /// Links candidates of one path that stand next to each other, and gives the first of each path.
    fn runs(&mut self, from: usize, end: usize) -> Vec<u32> {
        let mut runs = Vec::new();
        for id in from..end {
            if id > from && self.entries[id - 1].path == self.entries[id].path {
                self.entries[id - 1].next = count(id);
            } else {
                runs.push(count(id));
            }
        }
        runs
    }

    /// Adds templates under a root of their own, and links those of one shape: they need not stand together.
    fn template_level(&mut self, candidates: &[Candidate], from: usize, end: usize) -> u32 {
        if from == end {
            return NONE;
        }
        let root = self.templates.root();
        let mut lasts: FxHashMap<u32, u32> = FxHashMap::default();
        for (id, candidate) in (count(from)..).zip(&candidates[from..end]) {
            let PathMatch::Template(template) = &candidate.path else { continue };
            let first = self.templates.insert(root, template, id);
            if *first == NONE {
                *first = id;
            }
            if let Some(last) = lasts.insert(*first, id) {
                self.entries[last as usize].next = id;
            }
        }
        let mut firsts: Vec<u32> = lasts.into_keys().collect();
        firsts.sort_unstable();
        for first in firsts {
            self.select(candidates, first);
        }
        root
    }

    /// Adds prefixes, each linked to the next shorter one; gives that for all paths, and the depth of the deepest.
    fn prefix_level(&mut self, candidates: &[Candidate], level: u32, from: usize, end: usize) -> (u32, u32) {
        let runs = self.runs(from, end);
        let by_prefix: FxHashMap<Arc<str>, u32> =
            runs.iter().map(|&run| (Arc::clone(&self.entries[run as usize].path), run)).collect();
        let mut depth = 0;
        for run in runs {
            self.select(candidates, run);
            let entry = &mut self.entries[run as usize];
            let mut left = &*entry.path;
            while let Some(slash) = left.rfind('/') {
                left = &left[..slash];
                if let Some(&shorter) = by_prefix.get(left) {
                    entry.shorter = shorter;
                    break;
                }
            }
            if let Some((at, (hash, _))) = prefixes(level, &entry.path).enumerate().last() {
                self.prefixes.push((hash, run));
                depth = depth.max(count(at + 1));
            }
        }
        (by_prefix.get("").copied().unwrap_or(NONE), depth)
    }

    /// Gives the candidates linked from `run` on a selector when they are many.
    fn select(&mut self, candidates: &[Candidate], run: u32) {
        let next = |&id: &u32| Some(self.entries[id as usize].next).filter(|&next| next != NONE);
        let ids: Vec<u32> = std::iter::successors(Some(run), next).collect();
        if ids.len() < selector::WORTH {
            return;
        }
        if let Some(selector) = Selector::build(&ids, candidates) {
            self.entries[run as usize].selector = count(self.selectors.len());
            self.selectors.push(selector);
        }
    }

    fn into_router(mut self, candidates: Box<[Candidate]>) -> Router {
        self.hosts.exact.shrink_to_fit();
        self.hosts.wildcards.shrink_to_fit();
        Router {
            candidates,
            entries: self.entries.into_boxed_slice(),
            hosts: self.hosts,
            levels: self.levels.into_boxed_slice(),
            exact: Table::build(&self.exact),
            prefixes: Table::build(&self.prefixes),
            templates: self.templates.finish(),
            selectors: self.selectors.into_boxed_slice(),
        }
    }
}

/// Two routers are equal when they answer every request alike: the same candidates in the same order. Ranks only make
/// that order and do not count.
impl PartialEq for Router {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Candidate, &Candidate)| {
            let Candidate { rule, hostname, priority, path, method, headers, query_params, cookies, rank: _ } = a;
            *rule == b.rule
                && *hostname == b.hostname
                && *priority == b.priority
                && *path == b.path
                && *method == b.method
                && *headers == b.headers
                && *query_params == b.query_params
                && *cookies == b.cookies
        };
        self.candidates.len() == other.candidates.len() && self.candidates.iter().zip(&other.candidates).all(same)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.candidates).finish()
    }
}
