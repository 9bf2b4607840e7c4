//! The series of routes and rules: dense cells per worker, allocated with the first request, and their bound.
//!
//! How the limit is divided:
//!
//! * 3/8 less 1/64: latency histograms, one per route; routes without room share one. The 1/64 is for what belongs to the
//!   process, so that all together stay below the limit.
//! * 3/8: request counters of rules, and of gRPC codes of routes.
//! * 1/8: request counters of routes, for rules without room.
//! * 1/8: series of Services, which are in a file of their own.
//! * One more route, `_overflow`, takes the counts of routes without room.
//!
//! A series never moves between them while its rule exists, and what stood under `_folded` or `_overflow` stays there when
//! its rule or route goes, so counters never fall.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use std::collections::BTreeMap;

use super::cells::{Cell, GrpcCode};
use super::page::Page;

/// Values of the label `code`.
pub(super) const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Values of the label `method`; the last one stands for all others.
pub(super) const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "other"];

/// Request counters of one rule: code class × method.
pub(super) const COMBINATIONS: usize = CODES.len() * METHODS.len();

/// Upper bounds of the latency histogram, as exposed (seconds) and as compared.
///
/// From an in-memory answer to a long poll; ten of them bound what a route costs.
pub(super) const BUCKETS: [(f64, Duration); 10] = [
    (0.001, Duration::from_millis(1)),
    (0.0025, Duration::from_micros(2_500)),
    (0.005, Duration::from_millis(5)),
    (0.01, Duration::from_millis(10)),
    (0.025, Duration::from_millis(25)),
    (0.1, Duration::from_millis(100)),
    (0.25, Duration::from_millis(250)),
    (1.0, Duration::from_secs(1)),
    (5.0, Duration::from_secs(5)),
    (30.0, Duration::from_secs(30)),
];

/// Request counters of one rule on one worker, indexed by [`combination`].
#[derive(Debug)]
#[repr(align(64))]
struct RuleCells([Cell; COMBINATIONS]);

/// Latencies of one route on one worker: one cell per bucket, one for what is longer, and the sum in nanoseconds.
#[derive(Debug)]
#[repr(align(64))]
struct RouteCells {
    buckets: [Cell; BUCKETS.len() + 1],
    sum_nanos: Cell,
}

/// Calls by gRPC code, on one worker.
type CallCells = [Cell; GrpcCode::ALL.len()];

/// The series of one route, shared by its rules and kept across publications while a route has this name.
#[derive(Debug)]
pub struct RouteSeries {
    /// `namespace/name`.
    pub(super) label: Arc<str>,
    workers: usize,
    cells: PerWorker<RouteCells>,
    calls: PerWorker<CallCells>,
}

/// The series of one rule, kept across publications while its route has a rule of this name.
#[derive(Debug)]
pub struct RuleSeries {
    route: Arc<RouteSeries>,
    /// Name or index.
    pub(super) rule: Arc<str>,
    cells: PerWorker<RuleCells>,
}

/// Cells of each worker: nothing before the first request.
#[derive(Debug)]
pub(super) struct PerWorker<T>(OnceLock<Box<[OnceLock<Box<T>>]>>);

impl<T> Default for PerWorker<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> PerWorker<T> {
    /// The cells of one of so many workers, made with the first call; `None` when there is no such worker.
    pub(super) fn of(&self, worker: usize, workers: usize, new: impl FnOnce() -> T) -> Option<&T> {
        let all = self.0.get_or_init(|| (0..workers).map(|_| OnceLock::new()).collect());
        Some(all.get(worker)?.get_or_init(|| Box::new(new())))
    }

    /// Those that were made.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.get().into_iter().flatten().filter_map(|cells| Some(&**cells.get()?))
    }
}

impl RouteSeries {
    pub(super) fn new(label: Arc<str>, workers: usize) -> Self {
        Self { label, workers, cells: PerWorker::default(), calls: PerWorker::default() }
    }

    /// Calls per code over all workers; `None` before the first call.
    fn calls(&self) -> Option<[u64; GrpcCode::ALL.len()]> {
        let mut total = None;
        for cells in self.calls.iter() {
            let total = total.get_or_insert([0; GrpcCode::ALL.len()]);
            for (sum, cell) in total.iter_mut().zip(cells) {
                *sum += cell.get();
            }
        }
        total
    }

    /// Counts per bucket, not cumulative, and the sum in nanoseconds; `None` before the first request.
    pub(super) fn latencies(&self) -> Option<Latencies> {
        let mut total: Option<Latencies> = None;
        for cells in self.cells.iter() {
            let total = total.get_or_insert_default();
            for (sum, cell) in total.buckets.iter_mut().zip(&cells.buckets) {
                *sum += cell.get();
            }
            total.sum_nanos += cells.sum_nanos.get();
        }
        total
    }
}

impl RuleSeries {
    pub(super) fn new(route: Arc<RouteSeries>, rule: Arc<str>) -> Self {
        Self { route, rule, cells: PerWorker::default() }
    }

    /// Counts an answered request and its time from the first byte of its head to the last of the answer.
    ///
    /// Only the thread of `worker` may call it with that index; allocates with the first request of a rule there.
    pub fn record(&self, worker: usize, method: &http::Method, status: u16, elapsed: Duration) {
        let route = &*self.route;
        let new = || RuleCells(std::array::from_fn(|_| Cell::default()));
        if let Some(cells) = self.cells.of(worker, route.workers, new) {
            cells.0[combination(method, status)].inc();
        }
        let new = || RouteCells { buckets: std::array::from_fn(|_| Cell::default()), sum_nanos: Cell::default() };
        if let Some(cells) = route.cells.of(worker, route.workers, new) {
            let bucket = BUCKETS.iter().position(|&(_, bound)| elapsed <= bound).unwrap_or(BUCKETS.len());
            cells.buckets[bucket].inc();
            cells.sum_nanos.add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Counts the code that a gRPC call ended with, at the route.
    ///
    /// Only the thread of `worker` may call it with that index; allocates with the first call of a route there.
    pub fn record_call(&self, worker: usize, code: GrpcCode) {
        let new = || std::array::from_fn(|_| Cell::default());
        if let Some(cells) = self.route.calls.of(worker, self.route.workers, new) {
            cells[code as usize].inc();
        }
    }

    /// Requests per combination over all workers; `None` before the first request.
    pub(super) fn counts(&self) -> Option<[u64; COMBINATIONS]> {
        let mut total = None;
        for cells in self.cells.iter() {
            let total = total.get_or_insert([0; COMBINATIONS]);
            for (sum, cell) in total.iter_mut().zip(&cells.0) {
                *sum += cell.get();
            }
        }
        total
    }
}

/// Latencies of a route, summed over workers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latencies {
    pub(super) buckets: [u64; BUCKETS.len() + 1],
    pub(super) sum_nanos: u64,
}

impl Latencies {
    pub(super) fn add(&mut self, other: &Latencies) {
        for (sum, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += count;
        }
        self.sum_nanos += other.sum_nanos;
    }
}

/// An active route, with what the scrapes decided about its series.
#[derive(Debug)]
pub(super) struct RouteEntry {
    series: Arc<RouteSeries>,
    rules: Box<[RuleEntry]>,
    /// The route has a histogram of its own; `None`: not decided.
    own_histogram: Option<bool>,
    /// Where combinations go that rules have no room for: series of the route itself, or `_overflow`.
    folded: Placement,
    /// Which gRPC codes have a series of the route's own, and which go to `_overflow`.
    calls: Placement,
    /// What rules that are gone had counted in series of the route; `None`: nothing.
    gone: Option<Box<Requests>>,
}

/// Requests per combination.
type Requests = [u64; COMBINATIONS];

/// The active routes.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// By label. In boxes, since the nodes of a map have room for more entries than they hold.
    active: BTreeMap<Arc<str>, Box<RouteEntry>>,
    /// What routes that are gone had counted under `_overflow`.
    gone: Overflow,
}

/// What stands under `_overflow`.
#[derive(Clone, Debug)]
struct Overflow {
    requests: Requests,
    calls: [u64; GrpcCode::ALL.len()],
    latencies: Option<Latencies>,
}

impl Default for Overflow {
    fn default() -> Self {
        Self { requests: [0; COMBINATIONS], calls: [0; GrpcCode::ALL.len()], latencies: None }
    }
}

/// An active rule, with what the scrapes decided about its series.
#[derive(Debug)]
pub(super) struct RuleEntry {
    series: Arc<RuleSeries>,
    /// Which combinations have a series of the rule's own, and which go to the route's.
    placement: Placement,
}

/// For each combination, as a bit: has a series of its own, goes elsewhere, or did not appear yet.
#[derive(Clone, Copy, Debug, Default)]
struct Placement {
    own: u64,
    elsewhere: u64,
}

impl Placement {
    /// Tells whether the combination has a series of its own; decided with its first appearance, by what is left.
    fn is_own(&mut self, combination: usize, left: &mut usize) -> bool {
        let bit = 1 << combination;
        if (self.own | self.elsewhere) & bit == 0 {
            if *left > 0 {
                *left -= 1;
                self.own |= bit;
            } else {
                self.elsewhere |= bit;
            }
        }
        self.own & bit != 0
    }

    /// Adds the counts of those combinations that go elsewhere.
    fn add_elsewhere(self, counts: &[u64], sums: &mut [u64]) {
        for (at, (count, sum)) in counts.iter().zip(sums).enumerate() {
            if self.elsewhere & (1 << at) != 0 {
                *sum += count;
            }
        }
    }

    fn series(self) -> usize {
        self.own.count_ones() as usize
    }
}

impl RouteEntry {
    pub(super) fn new(label: Arc<str>, workers: usize) -> Self {
        Self {
            series: Arc::new(RouteSeries::new(label, workers)),
            rules: Box::default(),
            own_histogram: None,
            folded: Placement::default(),
            calls: Placement::default(),
            gone: None,
        }
    }

    /// Takes over other rules, and returns their series in the same order. A rule that was there before keeps its counts.
    fn update<'a>(&mut self, rules: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<RuleSeries>> {
        let mut before = std::mem::take(&mut self.rules).into_vec();
        let entry = |rule: &Arc<str>| match before.iter().position(|before| before.series.rule == *rule) {
            Some(index) => before.swap_remove(index),
            None => RuleEntry {
                series: Arc::new(RuleSeries::new(Arc::clone(&self.series), Arc::clone(rule))),
                placement: Placement::default(),
            },
        };
        self.rules = rules.map(entry).collect();
        for rule in before.iter().filter(|rule| rule.placement.elsewhere != 0) {
            rule.add_elsewhere(self.gone.get_or_insert_with(|| Box::new([0; COMBINATIONS])));
        }
        self.rules.iter().map(|entry| Arc::clone(&entry.series)).collect()
    }

    /// What stands together in series of the route: the requests of its rules, present and gone, that have no room.
    fn together(&self) -> Requests {
        let mut together = self.gone.as_deref().copied().unwrap_or([0; COMBINATIONS]);
        self.rules.iter().for_each(|rule| rule.add_elsewhere(&mut together));
        together
    }

    /// Adds what stands under `_overflow` of this route.
    fn add_overflow(&self, overflow: &mut Overflow) {
        if self.folded.elsewhere != 0 {
            self.folded.add_elsewhere(&self.together(), &mut overflow.requests);
        }
        if self.calls.elsewhere != 0
            && let Some(calls) = self.series.calls()
        {
            self.calls.add_elsewhere(&calls, &mut overflow.calls);
        }
        if self.own_histogram == Some(false)
            && let Some(latencies) = self.series.latencies()
        {
            overflow.latencies.get_or_insert_default().add(&latencies);
        }
    }
}

impl RuleEntry {
    /// Adds the requests that stand in series of the route.
    fn add_elsewhere(&self, together: &mut Requests) {
        // Most rules have room, and need not be counted once more.
        if self.placement.elsewhere != 0
            && let Some(counts) = self.series.counts()
        {
            self.placement.add_elsewhere(&counts, together);
        }
    }
}

impl Routes {
    /// Takes over the active rules as [`Metrics::set_rules`](super::Metrics::set_rules) does.
    pub(super) fn set(&mut self, rules: &[(&Arc<str>, &Arc<str>)], workers: usize) -> Vec<Arc<RuleSeries>> {
        let mut before = std::mem::take(&mut self.active);
        let mut series = Vec::with_capacity(rules.len());
        for of_route in rules.chunk_by(|(a, _), (b, _)| a == b) {
            let (label, _) = of_route[0];
            let new = || Box::new(RouteEntry::new(Arc::clone(label), workers));
            let mut route = before.remove(label).unwrap_or_else(new);
            series.extend(route.update(of_route.iter().map(|(_, rule)| *rule)));
            self.active.insert(Arc::clone(label), route);
        }
        before.values().for_each(|route| route.add_overflow(&mut self.gone));
        series
    }

    /// Takes over other rules of one route, none where it is gone, and returns their series in the same order.
    pub(super) fn update(&mut self, label: &Arc<str>, rules: &[&Arc<str>], workers: usize) -> Vec<Arc<RuleSeries>> {
        if rules.is_empty() {
            if let Some(route) = self.active.remove(label) {
                route.add_overflow(&mut self.gone);
            }
            return Vec::new();
        }
        let new = || Box::new(RouteEntry::new(Arc::clone(label), workers));
        self.active.entry(Arc::clone(label)).or_insert_with(new).update(rules.iter().copied())
    }
}

/// Lines of a histogram: its buckets, the infinite one, sum and count.
const HISTOGRAM_LINES: usize = BUCKETS.len() + 3;

/// Label of what found no room; no route's label, those have a slash.
pub(super) const OVERFLOW: &str = "_overflow";

/// Value of `rule` where the counts of several rules of a route stand together; no rule's name begins so.
const FOLDED: &str = "_folded";

impl Routes {
    /// Adds the series of all routes and rules to the page, at most `max_series` lines; returns how many series of rules
    /// and routes stand under another name because the limit is reached.
    pub(super) fn render(&mut self, max_series: usize, page: &mut Page) -> usize {
        let mut left = self.left(max_series);
        let mut overflow = self.gone.clone();
        let mut folded = 0;
        for route in self.active.values_mut() {
            folded += route.render(&mut left, page);
            route.add_overflow(&mut overflow);
        }
        let Overflow { requests, calls, latencies } = overflow;
        for (combination, count) in counted(&requests) {
            add_requests(page, OVERFLOW, FOLDED, combination, count);
        }
        for (code, count) in counted(&calls) {
            add_calls(page, OVERFLOW, code, count);
        }
        if let Some(latencies) = latencies {
            add_latencies(page, OVERFLOW, &latencies);
        }
        folded
    }

    /// What all routes together may have, less what they have, less the place of the overflow itself.
    fn left(&self, max_series: usize) -> Left {
        let (mut rules, mut routes, mut histograms) = (0, 0, 0);
        for route in self.active.values() {
            rules += route.rules.iter().map(|rule| rule.placement.series()).sum::<usize>() + route.calls.series();
            routes += route.folded.series();
            histograms += usize::from(route.own_histogram == Some(true));
        }
        Left {
            rules: (max_series * 3 / 8).saturating_sub(rules),
            routes: (max_series / 8).saturating_sub(COMBINATIONS + GrpcCode::ALL.len() + routes),
            histograms: ((max_series * 3 / 8 - max_series / 64) / HISTOGRAM_LINES).saturating_sub(1 + histograms),
        }
    }
}

/// For how many more there is room: request counters of rules and gRPC codes, request counters of routes, histograms.
struct Left {
    rules: usize,
    routes: usize,
    histograms: usize,
}

impl RouteEntry {
    /// Adds the series of its own, and decides where those go that are new; returns how many stand under another name.
    fn render(&mut self, left: &mut Left, page: &mut Page) -> usize {
        let mut folded = 0;
        let label = &self.series.label;
        for rule in &mut self.rules {
            for (combination, count) in rule.series.counts().iter().flat_map(|counts| counted(counts)) {
                if rule.placement.is_own(combination, &mut left.rules) {
                    add_requests(page, label, &rule.series.rule, combination, count);
                } else {
                    folded += 1;
                }
            }
        }
        for (combination, count) in counted(&self.together()) {
            if self.folded.is_own(combination, &mut left.routes) {
                add_requests(page, label, FOLDED, combination, count);
            }
        }
        for (code, count) in self.series.calls().iter().flat_map(|calls| counted(calls)) {
            if self.calls.is_own(code, &mut left.rules) {
                add_calls(page, label, code, count);
            } else {
                folded += 1;
            }
        }
        if let Some(latencies) = self.series.latencies() {
            let own = *self.own_histogram.get_or_insert_with(|| {
                let own = left.histograms > 0;
                left.histograms = left.histograms.saturating_sub(1);
                own
            });
            if own {
                add_latencies(page, label, &latencies);
            } else {
                folded += 1;
            }
        }
        folded
    }
}

/// Those that have counted anything, with their index.
fn counted(counts: &[u64]) -> impl Iterator<Item = (usize, u64)> {
    counts.iter().copied().enumerate().filter(|(_, count)| *count > 0)
}

fn add_requests(page: &mut Page, route: &str, rule: &str, combination: usize, count: u64) {
    let method = METHODS[combination % METHODS.len()];
    let code = CODES[combination / METHODS.len()];
    page.add("tidegate_requests_total", &[route, rule, method, code], count as f64);
}

fn add_calls(page: &mut Page, route: &str, code: usize, count: u64) {
    page.add("tidegate_grpc_requests_total", &[route, GrpcCode::ALL[code].as_str()], count as f64);
}

fn add_latencies(page: &mut Page, route: &str, latencies: &Latencies) {
    let bounds = BUCKETS.iter().map(|&(bound, _)| bound);
    let seconds = latencies.sum_nanos as f64 / 1e9;
    page.add_histogram("tidegate_request_duration_seconds", &[route], bounds, &latencies.buckets, seconds);
}

/// Index of a method and status among a rule's cells.
fn combination(method: &http::Method, status: u16) -> usize {
    let code = usize::from(status / 100).clamp(1, CODES.len()) - 1;
    let name = method.as_str();
    let others = METHODS.len() - 1;
    let method = METHODS[..others].iter().position(|&known| known == name).unwrap_or(others);
    code * METHODS.len() + method
}
