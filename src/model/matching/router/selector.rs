//! Choice among the many candidates of one path by the values they ask for.
//!
//! Ten thousand tenants behind one path, told apart by a header, are ten thousand candidates of which one fits. A
//! selector finds it by the header's value instead of asking them one after the other.

use std::hash::Hasher;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHasher};

use super::table::{NONE, count};
use crate::model::matching::candidate::{Candidate, RequestView, ValueMatch, ValueTest};
use crate::model::matching::values;

/// From this many candidates of one path on, a selector pays.
pub(super) const WORTH: usize = 16;

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    Header,
    Cookie,
    QueryParam,
}

/// The candidates of one path, by the exact values that they ask for.
pub(super) struct Selector {
    indices: Vec<ValueIndex>,
    /// Those that are in no index, ascending.
    others: Vec<u32>,
}

/// Candidates by the exact value of one header, cookie or parameter.
struct ValueIndex {
    source: Source,
    name: Arc<str>,
    /// From the hash of a value to a range of `ids`. Values with one hash share a range: all conditions are tested anyway.
    ranges: FxHashMap<u64, (u32, u32)>,
    /// Ascending in each range.
    ids: Vec<u32>,
}

impl Selector {
    /// Makes the selector of candidates, given in ascending order; `None` when it would not help.
    pub(super) fn build(ids: &[u32], candidates: &[Candidate]) -> Option<Self> {
        let mut others = ids.to_vec();
        let mut indices = Vec::new();
        while let Some((source, name)) = commonest(&others, candidates) {
            let mut hashed = Vec::new();
            others.retain(|&id| {
                let value = exact_values(&candidates[id as usize]).find(|(s, m, _)| *s == source && m.name == name);
                hashed.extend(value.map(|(source, _, value)| (hash(source, value.bytes()), id)));
                value.is_none()
            });
            indices.push(ValueIndex::build(source, name, hashed));
        }
        others.shrink_to_fit();
        (!indices.is_empty()).then_some(Self { indices, others })
    }

    /// The best candidate better than `best` by `fits`, or `best`.
    pub(super) fn find(&self, request: &RequestView<'_>, mut best: u32, fits: impl Fn(u32) -> bool) -> u32 {
        let lists = self.indices.iter().map(|index| index.candidates(request)).chain([self.others.as_slice()]);
        for ids in lists {
            if let Some(&id) = ids.iter().take_while(|&&id| id < best).find(|&&id| fits(id)) {
                best = id;
            }
        }
        best
    }
}

impl ValueIndex {
    fn build(source: Source, name: Arc<str>, mut hashed: Vec<(u64, u32)>) -> Self {
        hashed.sort_unstable();
        let mut ranges: FxHashMap<u64, (u32, u32)> = FxHashMap::default();
        for (at, &(hash, _)) in hashed.iter().enumerate() {
            let at = count(at);
            ranges.entry(hash).or_insert((at, at)).1 = at + 1;
        }
        ranges.shrink_to_fit();
        Self { source, name, ranges, ids: hashed.into_iter().map(|(_, id)| id).collect() }
    }

    /// The candidates that can fit by this value.
    fn candidates(&self, request: &RequestView<'_>) -> &[u32] {
        let hash = match self.source {
            Source::Header => {
                once(values::header(request.headers, &self.name), |v| hash(self.source, v.iter().copied()))
            }
            Source::Cookie => {
                once(values::cookie(request.headers, &self.name), |v| hash(self.source, v.iter().copied()))
            }
            Source::QueryParam => once(values::query_param(request.query, &self.name), |v| hash(self.source, v)),
        };
        let range = hash.and_then(|hash| self.ranges.get(&hash));
        range.map_or(&[], |&(from, end)| &self.ids[from as usize..end as usize])
    }
}

fn once<V>(value: values::Occurrence<V>, hash: impl FnOnce(V) -> u64) -> Option<u64> {
    match value {
        values::Occurrence::One(value) => Some(hash(value)),
        values::Occurrence::None | values::Occurrence::Many => None,
    }
}

/// Takes the value byte by byte, since a parameter is decoded on the way.
fn hash(source: Source, value: impl Iterator<Item = u8>) -> u64 {
    let mut hasher = FxHasher::with_seed(source as usize);
    value.for_each(|byte| hasher.write_u8(byte));
    hasher.finish()
}

/// The name that most of the candidates ask an exact value of, if those are enough.
fn commonest(ids: &[u32], candidates: &[Candidate]) -> Option<(Source, Arc<str>)> {
    let mut counts: FxHashMap<(Source, &Arc<str>), usize> = FxHashMap::default();
    for &id in ids {
        for (source, condition, _) in exact_values(&candidates[id as usize]) {
            *counts.entry((source, &condition.name)).or_default() += 1;
        }
    }
    let (commonest, count) = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)))?;
    (count >= WORTH).then(|| (commonest.0, Arc::clone(commonest.1)))
}

fn exact_values(candidate: &Candidate) -> impl Iterator<Item = (Source, &ValueMatch, &str)> {
    let conditions = candidate.conditions();
    let headers = conditions.headers.iter().map(|m| (Source::Header, m));
    let cookies = conditions.cookies.iter().map(|m| (Source::Cookie, m));
    let query_params = conditions.query_params.iter().map(|m| (Source::QueryParam, m));
    headers.chain(cookies).chain(query_params).filter_map(|(source, condition)| match &condition.test {
        ValueTest::Exact(value) => Some((source, condition, &**value)),
        ValueTest::Prefix(_) | ValueTest::Regex(_) | ValueTest::Present | ValueTest::Absent => None,
    })
}

/// Nothing is better than this.
const _: () = assert!(NONE == u32::MAX, "a missing candidate is worse than all");
