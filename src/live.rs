//! The one meeting point of the two halves: the pointer to what is in force.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::balance::{Pick, PickRequest};
use crate::model::ids::RuleId;
use crate::model::snapshot::Snapshot;
use crate::telemetry::metrics::{Metrics, RuleSeries};

/// One version of everything that requests are answered from.
#[derive(Debug, Default)]
pub struct Live {
    snapshot: Snapshot,
    series: Vec<Arc<RuleSeries>>,
}

impl Live {
    /// The routing data.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

/// The control half's end: publishes versions.
#[derive(Debug)]
pub struct Publisher {
    metrics: Arc<Metrics>,
    version: u64,
}

impl Publisher {
    /// Puts a snapshot in force and returns its version, 1 for the first.
    pub fn publish(&mut self, snapshot: Snapshot) -> u64 {
        let _ = snapshot;
        self.version += 1;
        self.metrics.set_config_version(self.version);
        self.version
    }

    /// The version that was published last; 0 before the first.
    #[must_use]
    pub fn published_version(&self) -> u64 {
        self.version
    }
}

/// A worker's end on its way to the worker's thread.
#[derive(Debug)]
pub struct Feed {
    worker: usize,
}

impl Feed {
    /// Becomes the worker's cache, in its thread. `start` shifts the first picks of the balancers that go round; a
    /// random number in production, 0 in tests.
    #[must_use]
    pub fn into_cache(self, start: u32) -> LiveCache {
        let _ = start;
        LiveCache { current: Rc::new(WorkerLive { worker: self.worker, live: Arc::new(Live::default()) }) }
    }
}

/// A worker's cached pointer to the version in force.
#[derive(Debug)]
pub struct LiveCache {
    current: Rc<WorkerLive>,
}

impl LiveCache {
    /// The version in force; one atomic load when nothing changed. Hold it for one request, not for a connection.
    #[must_use]
    pub fn current(&self) -> Rc<WorkerLive> {
        Rc::clone(&self.current)
    }
}

/// One version as one worker sees it: shared data beside the worker's own cursors and counters.
#[derive(Debug)]
pub struct WorkerLive {
    worker: usize,
    live: Arc<Live>,
}

impl WorkerLive {
    /// The routing data.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.live.snapshot
    }

    /// Chooses an endpoint for a request of a rule of this snapshot; `now` as in [`crate::balance`].
    pub fn pick(&self, rule: RuleId, request: &PickRequest<'_>, now: Duration, rng: &mut fastrand::Rng) -> Pick {
        let _ = (rule, request, now, rng);
        Pick::NoBackend
    }

    /// Counts an answered request of a rule of this snapshot.
    pub fn record(&self, rule: RuleId, method: &http::Method, status: u16, elapsed: Duration) {
        if let Some(series) = self.live.series.get(rule.index()) {
            series.record(self.worker, method, status, elapsed);
        }
    }
}

/// Makes the pointer's two ends: one publisher and a feed per worker of the metrics.
#[must_use]
pub fn channel(workers: usize, metrics: Arc<Metrics>) -> (Publisher, Vec<Feed>) {
    (Publisher { metrics, version: 0 }, (0..workers).map(|worker| Feed { worker }).collect())
}
