//! What the limits of routes have decided.
//!
//! They have an eighth of the limit of series. A limit that finds no room stands under `_overflow` for as long as it
//! exists, so that no counter falls.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::page::Page;
use super::series::OVERFLOW;

/// Which limit it is: the type of its filter, its route, and where in the route it stands.
pub type LimitName = (&'static str, Arc<str>, String);

/// What limits have decided, asked with each page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    /// Every limit with the names of its decisions and how often it has decided so.
    pub limits: BTreeMap<LimitName, Vec<(&'static str, u64)>>,
    /// Buckets that were given up before they were full, once there is a limit per time.
    pub buckets_given_up: Option<u64>,
}

/// Tells what limits have decided.
pub(super) struct LimitsOf(pub(super) Box<dyn Fn() -> LimitCounts + Send + Sync>);

impl std::fmt::Debug for LimitsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LimitsOf")
    }
}

/// Which limits have series of their own.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<LimitName, bool>);

impl Limits {
    /// Adds all limits, at most `most` series, and the overflow.
    pub(super) fn render(&mut self, counts: LimitCounts, most: usize, page: &mut Page) {
        let LimitCounts { limits, buckets_given_up } = counts;
        self.0.retain(|name, _| limits.contains_key(name));
        let own = |known: &BTreeMap<LimitName, bool>| -> usize {
            let own = limits.iter().filter(|(name, _)| known.get(name) == Some(&true));
            own.map(|(_, decisions)| decisions.len()).sum()
        };
        let mut used = own(&self.0);
        let mut overflow: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
        for (name, decisions) in &limits {
            let is_own = *self.0.entry(name.clone()).or_insert_with(|| {
                let has_room = used + decisions.len() <= most;
                used += if has_room { decisions.len() } else { 0 };
                has_room
            });
            let (filter, route, place) = name;
            for (decision, count) in decisions {
                if is_own {
                    page.add("tidegate_limit_decisions_total", &[filter, route, place, decision], *count as f64);
                } else {
                    *overflow.entry((filter, decision)).or_default() += count;
                }
            }
        }
        for ((filter, decision), count) in overflow {
            page.add("tidegate_limit_decisions_total", &[filter, OVERFLOW, OVERFLOW, decision], count as f64);
        }
        if let Some(count) = buckets_given_up {
            page.add("tidegate_limit_buckets_given_up_total", &[], count as f64);
        }
    }
}
