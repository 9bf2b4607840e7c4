//! The series of routes and rules: dense cells per worker, allocated with the first request.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::cells::Cell;

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

/// Latencies of one route on one worker: a cell a bucket and one for what is longer, and the sum in nanoseconds.
#[derive(Debug)]
#[repr(align(64))]
struct RouteCells {
    buckets: [Cell; BUCKETS.len() + 1],
    sum_nanos: Cell,
}

/// The series of one route, shared by its rules and kept across publications while a route has this name.
#[derive(Debug)]
pub struct RouteSeries {
    /// `namespace/name`.
    pub(super) label: Arc<str>,
    workers: Box<[OnceLock<Box<RouteCells>>]>,
}

/// The series of one rule, kept across publications while its route has a rule of this name.
#[derive(Debug)]
pub struct RuleSeries {
    route: Arc<RouteSeries>,
    /// Name or index.
    pub(super) rule: Arc<str>,
    workers: Box<[OnceLock<Box<RuleCells>>]>,
}

impl RouteSeries {
    pub(super) fn new(label: Arc<str>, workers: usize) -> Self {
        Self { label, workers: lazily(workers) }
    }

    /// Counts per bucket, not cumulative, and the sum in nanoseconds; `None` before the first request.
    pub(super) fn latencies(&self) -> Option<Latencies> {
        let mut total: Option<Latencies> = None;
        for cells in self.workers.iter().filter_map(OnceLock::get) {
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
    pub(super) fn new(route: Arc<RouteSeries>, rule: Arc<str>, workers: usize) -> Self {
        Self { route, rule, workers: lazily(workers) }
    }

    /// Counts an answered request and its time from the first byte of its head to the last of the answer.
    ///
    /// Only the thread of `worker` may call it with that index; allocates with the first request of a rule there.
    pub fn record(&self, worker: usize, method: &http::Method, status: u16, elapsed: Duration) {
        if let Some(slot) = self.workers.get(worker) {
            let cells = slot.get_or_init(|| Box::new(RuleCells(std::array::from_fn(|_| Cell::default()))));
            cells.0[combination(method, status)].inc();
        }
        if let Some(slot) = self.route.workers.get(worker) {
            let cells = slot.get_or_init(|| {
                Box::new(RouteCells { buckets: std::array::from_fn(|_| Cell::default()), sum_nanos: Cell::default() })
            });
            let bucket = BUCKETS.iter().position(|&(_, bound)| elapsed <= bound).unwrap_or(BUCKETS.len());
            cells.buckets[bucket].inc();
            cells.sum_nanos.add(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Requests per combination over all workers; `None` before the first request.
    pub(super) fn counts(&self) -> Option<[u64; COMBINATIONS]> {
        let mut total = None;
        for cells in self.workers.iter().filter_map(OnceLock::get) {
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

fn lazily<T>(workers: usize) -> Box<[OnceLock<T>]> {
    (0..workers).map(|_| OnceLock::new()).collect()
}

/// Index of a method and status among a rule's cells.
fn combination(method: &http::Method, status: u16) -> usize {
    let code = usize::from(status / 100).clamp(1, CODES.len()) - 1;
    let name = method.as_str();
    let others = METHODS.len() - 1;
    let method = METHODS[..others].iter().position(|&known| known == name).unwrap_or(others);
    code * METHODS.len() + method
}
