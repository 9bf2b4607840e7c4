//! The router: tables over candidates, and the search in them.

mod selector;
mod span;
mod table;
mod templates;

use std::fmt;

use rustc_hash::FxHashMap;

use self::selector::Selector;
use self::span::Span;
use self::table::{NONE, Table, count, hash_of, prefixes};
use self::templates::{Draft, TemplateTrees, TemplateTreesBuilder};
use super::candidate::{Candidate, FoundRule, Hostname, Miss, PathMatch, RequestView};
use super::precedence::{arrange, in_order, precedence};
use super::values;
use crate::model::ids::RuleId;

/// A compiled index over the candidates of one listener.
///
/// Candidates are held in their order of precedence, so the better of two is the one with the lower number. From a
/// request the search goes by hash to the host (then to wildcards, longest first, then to the routes without hosts),
/// there through the priorities, and in each to the exact path, the templates, the expressions and the prefixes from the
/// longest on. It allocates nothing and takes no lock. Its cost does not depend on the number of routes, except
/// for the expressions that begin with the same elements of a path, or with none: those are tried one after the other.
#[derive(Default)]
pub struct Router {
    /// In order of precedence.
    candidates: Box<[Candidate]>,
    /// What the search needs first of each candidate, under the same number.
    entries: Box<[SearchEntry]>,
    levels: Box<[Level]>,
    /// What the spans are spans of: all keys that the search compares, next to each other.
    text: Box<str>,
    hosts: Hosts,
    exact: Table,
    prefixes: Table,
    templates: TemplateTrees,
    /// The first expression by the elements that it begins with.
    regexes: Table,
    selectors: Box<[Selector]>,
}

/// The part of a candidate that the search reads: half a cache line instead of three and what they point to.
struct SearchEntry {
    /// An exact path, a prefix, or the elements that an expression begins with.
    path: Span,
    rule: RuleId,
    /// The next candidate with the same path; of expressions, with the same elements at the beginning.
    next: u32,
    /// For the first candidate of a prefix: the first one of the next shorter prefix of its level.
    shorter: u32,
    /// For the first of many candidates with one path: their selector.
    selector: u32,
    /// The path is the only condition.
    bare: bool,
}

/// The first level of each hostname.
#[derive(Default)]
struct Hosts {
    exact: Table,
    /// By suffix.
    wildcards: Table,
    /// Which lengths of suffix exist, as bits; the last one stands for all from 255 on.
    wildcard_lengths: [u64; 4],
    any: Option<u32>,
}

/// What is searched for.
struct Search<'r, F> {
    request: &'r RequestView<'r>,
    /// Whether a candidate whose host and path fit is one.
    fits: F,
    /// Conditions on values count, so that the tables by value may be used.
    by_value: bool,
}

/// The candidates of one hostname and priority: a range of candidates, by kind of path.
struct Level {
    /// The name or suffix.
    host: Span,
    /// The levels of its hostname end here; they stand together, the highest priority first.
    levels_end: u32,
    from: u32,
    exact_end: u32,
    end: u32,
    /// Root of its templates.
    templates: u32,
    /// First candidate of the prefix that fits every path.
    root: u32,
    /// Most elements of its prefixes.
    prefix_depth: u32,
    /// First candidate whose expression begins with no whole elements.
    regexes: u32,
    /// Most elements that an expression begins with.
    regex_depth: u32,
}

impl Router {
    /// Puts candidates in order and makes the tables. Of candidates that are equal in all of precedence, rank included,
    /// the earlier one wins.
    ///
    /// Takes time in proportion to n log n, and no more than a few hundred bytes for a candidate.
    #[must_use]
    pub fn build(candidates: Vec<Candidate>) -> Self {
        let order = in_order(&candidates);
        Self::of_ordered(arrange(candidates, &order))
    }

    /// Makes the tables of candidates that are in their order of precedence.
    #[must_use]
    pub fn of_ordered(candidates: Vec<Candidate>) -> Self {
        debug_assert!(candidates.is_sorted_by(|a, b| precedence(a, b).is_le()), "in their order of precedence");
        let tables = Builder::new(&candidates).build().finish();
        Self { candidates: candidates.into_boxed_slice(), ..tables }
    }

    /// Finds the winner.
    ///
    /// When nothing for the most specific hostname fits, less specific hostnames have their turn.
    ///
    /// # Errors
    /// [`Miss::NoHost`] when no candidate has the host, [`Miss::NoPath`] when some have but none fits.
    pub fn find(&self, request: &RequestView<'_>) -> Result<FoundRule, Miss> {
        let fits = |id: u32| {
            self.entries[id as usize].bare || values::fits(self.candidates[id as usize].conditions(), request)
        };
        self.search(&Search { request, fits, by_value: true })
    }

    /// Finds the winner among candidates that fit by host, path and method and that are `accepted`, whatever they ask of
    /// headers, query parameters and cookies: for a request that is announced and not here yet.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_announced(
        &self,
        request: &RequestView<'_>,
        accepted: impl Fn(&Candidate) -> bool,
    ) -> Result<FoundRule, Miss> {
        let fits = |id: u32| {
            let candidate = &self.candidates[id as usize];
            candidate.conditions().method.as_ref().is_none_or(|method| method == request.method) && accepted(candidate)
        };
        self.search(&Search { request, fits, by_value: false })
    }

    fn search<F: Fn(u32) -> bool>(&self, search: &Search<'_, F>) -> Result<FoundRule, Miss> {
        let request = search.request;
        let mut miss = Miss::NoHost;
        let mut of_host = |first: u32| {
            miss = Miss::NoPath;
            let levels = first..self.levels[first as usize].levels_end;
            levels.into_iter().map(|level| self.find_in(level, search)).find(|&id| id != NONE)
        };
        let winner = request
            .host
            .and_then(|host| {
                let exact = self.host(&self.hosts.exact, host).and_then(&mut of_host);
                exact.or_else(|| self.wildcards(host).find_map(&mut of_host))
            })
            .or_else(|| self.hosts.any.and_then(of_host));
        winner.map_or(Err(miss), |id| Ok(FoundRule { rule: self.entries[id as usize].rule, candidate: id }))
    }

    /// The first level of a name or suffix.
    fn host(&self, table: &Table, name: &str) -> Option<u32> {
        table.find(hash_of(0, name), |level| self.text(self.levels[level as usize].host) == name)
    }

    /// The first levels of the wildcards that a host is under, longest first.
    fn wildcards(&self, host: &str) -> impl Iterator<Item = u32> {
        let host = if self.hosts.wildcards.is_empty() { "" } else { host };
        // The name in front of the suffix must not be empty.
        let dots = host.bytes().enumerate().skip(1).filter(|&(_, byte)| byte == b'.');
        let suffixes = dots.map(move |(dot, _)| &host[dot + 1..]);
        suffixes
            .filter(|suffix| self.hosts.has_length(suffix))
            .filter_map(|suffix| self.host(&self.hosts.wildcards, suffix))
    }

    fn text(&self, span: Span) -> &str {
        span.of(&self.text)
    }

    /// The best candidate of a level, or [`NONE`].
    fn find_in<F: Fn(u32) -> bool>(&self, id: u32, search: &Search<'_, F>) -> u32 {
        let level = &self.levels[id as usize];
        let request = search.request;
        if level.from < level.exact_end {
            let is_key = |run| level.has(run) && self.text(self.entries[run as usize].path) == request.path;
            let best =
                self.exact.find(hash_of(id, request.path), is_key).map_or(NONE, |run| self.first(run, NONE, search));
            if best != NONE {
                return best;
            }
        }
        if level.templates != NONE {
            let best = self.templates.find(level.templates, request.path, |run, best| self.first(run, best, search));
            if best != NONE {
                return best;
            }
        }
        let best = self.find_regex(id, level, search);
        if best != NONE {
            return best;
        }
        let mut run = self.longest_prefix(id, level, request.path);
        while run != NONE {
            let best = self.first(run, NONE, search);
            if best != NONE {
                return best;
            }
            run = self.entries[run as usize].shorter;
        }
        NONE
    }

    /// The longest prefix of a level that the path is under, as its first candidate.
    fn longest_prefix(&self, id: u32, level: &Level, path: &str) -> u32 {
        let mut longest = level.root;
        for (hash, end) in prefixes(id, path).take(level.prefix_depth as usize) {
            let is_key = |run| level.has(run) && self.text(self.entries[run as usize].path) == &path[..end];
            longest = self.prefixes.find(hash, is_key).unwrap_or(longest);
        }
        longest
    }

    /// The best candidate by an expression: among those that begin with elements of the path, and those that do not
    /// begin with any.
    fn find_regex<F: Fn(u32) -> bool>(&self, id: u32, level: &Level, search: &Search<'_, F>) -> u32 {
        let request = search.request;
        let mut best = self.first_regex(level.regexes, NONE, search);
        for (hash, end) in prefixes(id, request.path).take(level.regex_depth as usize) {
            let is_key = |run| level.has(run) && self.text(self.entries[run as usize].path) == &request.path[..end];
            if let Some(run) = self.regexes.find(hash, is_key) {
                best = self.first_regex(run, best, search);
            }
        }
        best
    }

    /// The first candidate linked from `run` whose expression and conditions fit and which is better than `best`.
    fn first_regex<F: Fn(u32) -> bool>(&self, run: u32, best: u32, search: &Search<'_, F>) -> u32 {
        // Matches of one rule often share their expression and stand next to each other.
        let mut last: Option<(&str, bool)> = None;
        let mut id = run;
        while id < best {
            let candidate = &self.candidates[id as usize];
            if let PathMatch::Regex(regex) = &candidate.path {
                let matches = match last {
                    Some((pattern, matches)) if pattern == regex.pattern() => matches,
                    _ => regex.is_match(search.request.path.as_bytes()),
                };
                last = Some((regex.pattern(), matches));
                if matches && (search.fits)(id) {
                    return id;
                }
            }
            id = self.entries[id as usize].next;
        }
        best
    }

    /// The first candidate with the path of `run` that fits and is better than `best`; else `best`.
    fn first<F: Fn(u32) -> bool>(&self, run: u32, best: u32, search: &Search<'_, F>) -> u32 {
        let selector = self.entries[run as usize].selector;
        if selector != NONE && search.by_value {
            return self.selectors[selector as usize].find(search.request, best, &search.fits);
        }
        let mut id = run;
        while id < best {
            if (search.fits)(id) {
                return id;
            }
            id = self.entries[id as usize].next;
        }
        best
    }

    /// The value of a variable of the template by which a request was found: canonical text, not decoded, not empty.
    /// `None` when the match is no template or has no such variable.
    #[must_use]
    pub fn path_param<'p>(&self, found: FoundRule, path: &'p str, name: &str) -> Option<&'p str> {
        match &self.candidate(found)?.path {
            PathMatch::Template(template) => template.param(path, name),
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::Regex(_) => None,
        }
    }

    /// The match by which a request was found; `None` when `found` comes from another router.
    #[must_use]
    pub fn candidate(&self, found: FoundRule) -> Option<&Candidate> {
        self.candidates.get(found.candidate as usize)
    }

    /// All candidates in order of precedence: those of a hostname together, exact hostnames first.
    pub fn candidates(&self) -> impl ExactSizeIterator<Item = &Candidate> {
        self.candidates.iter()
    }
}

impl Hosts {
    fn has_length(&self, suffix: &str) -> bool {
        let bit = suffix.len().min(255);
        self.wildcard_lengths[bit / 64] & (1 << (bit % 64)) != 0
    }
}

impl Level {
    /// Whether a candidate is one of its own.
    const fn has(&self, candidate: u32) -> bool {
        self.from <= candidate && candidate < self.end
    }
}

/// The tables of a router while they are made.
struct Builder<'c> {
    candidates: &'c [Candidate],
    entries: Vec<SearchEntry>,
    levels: Vec<Level>,
    text: String,
    hosts: Hosts,
    exact_hosts: Vec<(u64, u32)>,
    wildcard_hosts: Vec<(u64, u32)>,
    exact: Vec<(u64, u32)>,
    prefixes: Vec<(u64, u32)>,
    templates: TemplateTreesBuilder,
    regexes: Vec<(u64, u32)>,
    selectors: Vec<Selector>,
}

impl<'c> Builder<'c> {
    /// Takes candidates that are in order of precedence.
    fn new(candidates: &'c [Candidate]) -> Self {
        let entries = candidates.iter().map(|candidate| SearchEntry {
            path: Span::default(),
            rule: candidate.rule,
            next: NONE,
            shorter: NONE,
            selector: NONE,
            bare: candidate.conditions.is_none(),
        });
        Self {
            candidates,
            entries: entries.collect(),
            levels: Vec::new(),
            text: String::new(),
            hosts: Hosts::default(),
            exact_hosts: Vec::new(),
            wildcard_hosts: Vec::new(),
            exact: Vec::new(),
            prefixes: Vec::new(),
            templates: TemplateTreesBuilder::default(),
            regexes: Vec::new(),
            selectors: Vec::new(),
        }
    }

    /// Builds all levels.
    fn build(mut self) -> Self {
        let mut from = 0;
        for of_host in self.candidates.chunk_by(|a, b| a.hostname == b.hostname) {
            let first = self.levels.len();
            let host = self.host(&of_host[0].hostname, count(first));
            for of_level in of_host.chunk_by(|a, b| a.priority == b.priority) {
                self.level(host, from, from + of_level.len());
                from += of_level.len();
            }
            let levels_end = count(self.levels.len());
            self.levels[first..].iter_mut().for_each(|level| level.levels_end = levels_end);
        }
        self
    }

    /// Enters a hostname with its first level.
    fn host(&mut self, hostname: &Hostname, first: u32) -> Span {
        let (name, table) = match hostname {
            Hostname::Exact(name) => (name, &mut self.exact_hosts),
            Hostname::Wildcard(suffix) => {
                let bit = suffix.len().min(255);
                self.hosts.wildcard_lengths[bit / 64] |= 1 << (bit % 64);
                (suffix, &mut self.wildcard_hosts)
            }
            Hostname::Any => {
                self.hosts.any = Some(first);
                return Span::default();
            }
        };
        table.push((hash_of(0, name), first));
        Span::push(&mut self.text, name)
    }

    fn level(&mut self, host: Span, from: usize, end: usize) {
        let id = count(self.levels.len());
        let of_level = &self.candidates[from..end];
        let kind_end = |is_before: fn(&PathMatch) -> bool| from + of_level.partition_point(|c| is_before(&c.path));
        let exact_end = kind_end(|path| matches!(path, PathMatch::Exact(_)));
        let template_end = kind_end(|path| matches!(path, PathMatch::Exact(_) | PathMatch::Template(_)));
        let regex_end = kind_end(|path| !matches!(path, PathMatch::Prefix(_)));
        for (path, run) in self.runs(from, exact_end) {
            self.exact.push((hash_of(id, path), run));
        }
        let templates = self.template_level(exact_end, template_end);
        let (regexes, regex_depth) = self.regex_level(id, template_end, regex_end);
        let (root, prefix_depth) = self.prefix_level(id, regex_end, end);
        let [from, exact_end, end] = [from, exact_end, end].map(count);
        self.levels.push(Level {
            host,
            levels_end: 0,
            from,
            exact_end,
            end,
            templates,
            root,
            prefix_depth,
            regexes,
            regex_depth,
        });
    }

    /// Links candidates of one exact path or prefix, which stand next to each other; gives each with its first one.
    fn runs(&mut self, mut from: usize, end: usize) -> Vec<(&'c str, u32)> {
        let mut runs = Vec::new();
        let candidates = self.candidates;
        for of_path in candidates[from..end].chunk_by(|a, b| a.path == b.path) {
            let (PathMatch::Exact(path) | PathMatch::Prefix(path)) = &of_path[0].path else { continue };
            let (span, end) = (Span::push(&mut self.text, path), from + of_path.len());
            for (next, entry) in (count(from) + 1..).zip(&mut self.entries[from..end]) {
                entry.path = span;
                entry.next = next;
            }
            self.entries[end - 1].next = NONE;
            runs.push((&**path, count(from)));
            self.select(count(from));
            from = end;
        }
        runs
    }

    /// Adds templates under a root of their own, and links those of one shape: they need not stand together.
    fn template_level(&mut self, from: usize, end: usize) -> u32 {
        if from == end {
            return NONE;
        }
        let mut draft = Draft::new();
        let mut lasts: FxHashMap<u32, u32> = FxHashMap::default();
        for (id, candidate) in (count(from)..).zip(&self.candidates[from..end]) {
            let PathMatch::Template(template) = &candidate.path else { continue };
            if let Some(last) = lasts.insert(draft.insert(template, id), id) {
                self.entries[last as usize].next = id;
            }
        }
        let mut firsts: Vec<u32> = lasts.into_keys().collect();
        firsts.sort_unstable();
        firsts.into_iter().for_each(|first| self.select(first));
        self.templates.add(draft)
    }

    /// Adds prefixes, each linked to the next shorter one; gives that for all paths, and the depth of the deepest.
    fn prefix_level(&mut self, level: u32, from: usize, end: usize) -> (u32, u32) {
        let runs = self.runs(from, end);
        // In their order of precedence: the longer first, then as text.
        let find = |prefix: &str| {
            let order = |(path, _): &(&str, u32)| prefix.len().cmp(&path.len()).then_with(|| (*path).cmp(prefix));
            runs.binary_search_by(order).ok().map(|at| runs[at].1)
        };
        let mut depth = 0;
        for &(path, run) in &runs {
            let mut shorter = path;
            while let Some(slash) = shorter.rfind('/') {
                shorter = &shorter[..slash];
                if let Some(shorter) = find(shorter) {
                    self.entries[run as usize].shorter = shorter;
                    break;
                }
            }
            if let Some((at, (hash, _))) = prefixes(level, path).enumerate().last() {
                self.prefixes.push((hash, run));
                depth = depth.max(count(at + 1));
            }
        }
        (find("").unwrap_or(NONE), depth)
    }

    /// Links expressions that begin with the same elements; gives the first of those with none, and the most elements.
    fn regex_level(&mut self, level: u32, from: usize, end: usize) -> (u32, u32) {
        let mut by_elements: FxHashMap<&str, (u32, u32)> = FxHashMap::default();
        let mut depth = 0;
        for (id, candidate) in (count(from)..).zip(&self.candidates[from..end]) {
            let PathMatch::Regex(regex) = &candidate.path else { continue };
            let elements = regex.elements();
            if let Some((_, last)) = by_elements.get_mut(elements) {
                self.entries[*last as usize].next = id;
                *last = id;
                continue;
            }
            by_elements.insert(elements, (id, id));
            self.entries[id as usize].path = Span::push(&mut self.text, elements);
            if let Some((at, (hash, _))) = prefixes(level, elements).enumerate().last() {
                self.regexes.push((hash, id));
                depth = depth.max(count(at + 1));
            }
        }
        (by_elements.get("").map_or(NONE, |&(first, _)| first), depth)
    }

    /// Gives the candidates linked from `run` on a selector when they are many.
    fn select(&mut self, run: u32) {
        let next = |&id: &u32| Some(self.entries[id as usize].next).filter(|&next| next != NONE);
        let linked = || std::iter::successors(Some(run), next);
        if linked().take(selector::WORTH).count() < selector::WORTH {
            return;
        }
        let ids: Vec<u32> = linked().collect();
        if let Some(selector) = Selector::build(&ids, self.candidates) {
            self.entries[run as usize].selector = count(self.selectors.len());
            self.selectors.push(selector);
        }
    }

    /// The finished tables, without the candidates.
    fn finish(mut self) -> Router {
        self.hosts.exact = Table::build(&self.exact_hosts);
        self.hosts.wildcards = Table::build(&self.wildcard_hosts);
        Router {
            candidates: Box::default(),
            entries: self.entries.into_boxed_slice(),
            levels: self.levels.into_boxed_slice(),
            text: self.text.into_boxed_str(),
            hosts: self.hosts,
            exact: Table::build(&self.exact),
            prefixes: Table::build(&self.prefixes),
            templates: self.templates.finish(),
            regexes: Table::build(&self.regexes),
            selectors: self.selectors.into_boxed_slice(),
        }
    }
}

/// Two routers are equal when they answer every request alike: the same candidates in the same order. Ranks only make
/// that order and do not count.
impl PartialEq for Router {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Candidate, &Candidate)| {
            let Candidate { rule, hostname, priority, path, conditions, rank: _ } = a;
            *rule == b.rule
                && *hostname == b.hostname
                && *priority == b.priority
                && *path == b.path
                && *conditions == b.conditions
        };
        self.candidates.len() == other.candidates.len() && self.candidates.iter().zip(&other.candidates).all(same)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.candidates).finish()
    }
}
