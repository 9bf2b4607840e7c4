//! What the filters of routes have decided and done.
//!
//! Limits have an eighth of the limit of series. A limit that finds no room stands under `_overflow` for as long as it
//! exists, and what it has decided until then stays there, so that no counter falls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::page::Page;
use super::series::OVERFLOW;

/// The type of the filter that decides nothing but who shares a call: it has a metric of its own.
const COALESCE: &str = "Coalesce";

/// Which limit it is: the type of its filter, its route, and where in the route it stands.
pub type LimitName = (&'static str, Arc<str>, String);

/// What filters have decided and done, asked with each page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    /// Every limit with the names of its decisions and how often it has decided so; and every Coalesce with what became of
    /// requests.
    pub limits: BTreeMap<LimitName, Vec<(&'static str, u64)>>,
    /// Buckets that were given up before they were full, once there is a limit per time.
    pub buckets_given_up: Option<u64>,
    /// For each content coding the bytes before and after, once there is a filter that compresses.
    pub compressed_bytes: Vec<(&'static str, u64, u64)>,
    /// Answers that were not compressed since there was no memory for it, once there is such a filter.
    pub compressions_skipped: Option<u64>,
    /// How long ago the keys that were fetched first, of those in use, were fetched.
    pub oldest_keys: Option<Duration>,
}

/// Tells what filters have decided and done.
pub(super) struct FiltersOf(pub(super) Box<dyn Fn() -> FilterCounts + Send + Sync>);

impl std::fmt::Debug for FiltersOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FiltersOf")
    }
}

/// Where limits stand on the page.
#[derive(Debug, Default)]
pub(super) struct Limits {
    known: BTreeMap<LimitName, Place>,
    /// What stands under `_overflow`, by filter and decision.
    overflow: BTreeMap<(&'static str, &'static str), u64>,
}

/// Where a limit stands, decided when it appears.
#[derive(Debug)]
enum Place {
    /// In series of its own.
    Own,
    /// Under `_overflow`, with what it had decided when it was last added there.
    Overflow(BTreeMap<&'static str, u64>),
}

impl Limits {
    /// Adds all limits, at most `most` series, and the overflow.
    pub(super) fn render(&mut self, counts: FilterCounts, most: usize, page: &mut Page) {
        let FilterCounts { limits, buckets_given_up, compressed_bytes, compressions_skipped, oldest_keys } = counts;
        self.known.retain(|name, _| limits.contains_key(name));
        let own = limits.iter().filter(|(name, _)| matches!(self.known.get(*name), Some(Place::Own)));
        let mut used: usize = own.map(|(_, decisions)| decisions.len()).sum();
        for (name, decisions) in &limits {
            let place = self.known.entry(name.clone()).or_insert_with(|| {
                if used + decisions.len() <= most {
                    used += decisions.len();
                    Place::Own
                } else {
                    Place::Overflow(BTreeMap::new())
                }
            });
            let (filter, route, within) = name;
            for &(decision, count) in decisions {
                match place {
                    Place::Own => add(page, [filter, route, within, decision], count),
                    Place::Overflow(added) => {
                        let before = added.insert(decision, count).unwrap_or(0);
                        // A limit that was changed counts from zero again.
                        let since = count.checked_sub(before).unwrap_or(count);
                        *self.overflow.entry((filter, decision)).or_default() += since;
                    }
                }
            }
        }
        for ((filter, decision), count) in &self.overflow {
            add(page, [filter, OVERFLOW, OVERFLOW, decision], *count);
        }
        if let Some(count) = buckets_given_up {
            page.add("tidegate_limit_buckets_given_up_total", &[], count as f64);
        }
        for (coding, before, after) in compressed_bytes {
            page.add("tidegate_compression_bytes_total", &[coding, "plain"], before as f64);
            page.add("tidegate_compression_bytes_total", &[coding, "compressed"], after as f64);
        }
        if let Some(count) = compressions_skipped {
            page.add("tidegate_compression_skipped_total", &[], count as f64);
        }
        if let Some(age) = oldest_keys {
            page.add("tidegate_jwks_age_seconds", &[], age.as_secs_f64());
        }
    }
}

/// Adds a count of what a filter has decided: filter, route, place, decision.
fn add(page: &mut Page, labels: [&str; 4], count: u64) {
    match labels {
        [COALESCE, route, place, share] => {
            page.add("tidegate_coalesce_requests_total", &[route, place, share], count as f64);
        }
        labels => page.add("tidegate_limit_decisions_total", &labels, count as f64),
    }
}
