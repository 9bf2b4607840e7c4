//! Active checks of endpoints, one prober for the whole process.
//!
//! Each distinct pair of endpoint and check is asked at its own intervals: neither routes nor rules nor workers multiply
//! that. The prober belongs to the control half. It follows the active version, writes what it finds into the
//! [`EndpointHealth`](crate::balance::EndpointHealth) that picks read, and ends when the process stops accepting. It uses
//! connections of its own, never those of requests.

mod ask;
mod grpc;
mod http1;
mod http2;
mod network;
mod pace;
mod streak;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::drain::{Drain, Phase};
use crate::live::{Live, LiveView};
use crate::model::ids::ObjectName;
use crate::telemetry::metrics::{CheckedService, Metrics};

use ask::Ask;
use network::Network;
use pace::Pace;
use watch::{Shared, Watch};

/// Asks the endpoints of the active version until the process stops accepting; `epoch` is what endpoints count times from,
/// `seed` decides when each is asked.
///
/// A panic of one check harms that check alone. May be cancelled: then all checks end.
pub async fn run(live: LiveView, drain: Drain, metrics: Arc<Metrics>, epoch: Instant, seed: u64) {
    Prober::new(Network, metrics, epoch, seed).follow(live, drain).await;
}

/// Counts the endpoints of each Service that checks ask, for the metrics.
#[must_use]
pub fn counts(live: &Live) -> Vec<CheckedService> {
    let mut services: Vec<(&ObjectName, HashMap<usize, bool>)> = Vec::new();
    // Sorted by backend, so that those of one Service stand together.
    for (backend, checked, _) in live.checked_endpoints() {
        let service = &backend.key.service;
        if services.last().is_none_or(|(last, _)| *last != service) {
            services.push((service, HashMap::new()));
        }
        let Some((_, endpoints)) = services.last_mut() else { continue };
        for health in checked.endpoints() {
            *endpoints.entry(Arc::as_ptr(health.endpoint()).addr()).or_default() |= health.is_unhealthy();
        }
    }
    let count = |(service, endpoints): (&ObjectName, HashMap<usize, bool>)| {
        let unhealthy = endpoints.values().filter(|is_unhealthy| **is_unhealthy).count();
        let healthy = endpoints.len() - unhealthy;
        CheckedService { service: service.to_string().into(), healthy, unhealthy }
    };
    services.into_iter().map(count).collect()
}

/// All watches that run.
struct Prober<A> {
    shared: Shared<A>,
    rng: fastrand::Rng,
    /// By the address of the health that a watch holds.
    running: HashMap<usize, AbortHandle>,
    tasks: JoinSet<()>,
}

impl<A: Ask> Prober<A> {
    fn new(ask: A, metrics: Arc<Metrics>, epoch: Instant, seed: u64) -> Self {
        let counts = metrics.health();
        let shared = Shared { ask, pace: Pace::default(), metrics, counts, epoch };
        Self { shared, rng: fastrand::Rng::with_seed(seed), running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Follows the active version until accepting stops or nothing is published any more.
    async fn follow(mut self, mut live: LiveView, mut drain: Drain) {
        loop {
            let current = live.current();
            self.sync(&current);
            let next = current.version() + 1;
            // Old versions are not kept from being dropped.
            drop(current);
            tokio::select! {
                () = drain.reached(Phase::Closing) => return,
                reached = live.reached(next) => if reached.is_err() { return },
            }
        }
    }

    /// Begins the watches that a version has and that do not run, and ends those that it has no longer.
    fn sync(&mut self, live: &Live) {
        let mut before = std::mem::take(&mut self.running);
        for (backend, checked, tls) in live.checked_endpoints() {
            for (endpoint, health) in backend.endpoints.iter().zip(checked.endpoints()) {
                // One that terminates is used while nothing else is left, whatever a check would say.
                if endpoint.terminating {
                    continue;
                }
                let id = Arc::as_ptr(health).addr();
                if self.running.contains_key(&id) {
                    continue;
                }
                let handle = before.remove(&id).unwrap_or_else(|| {
                    self.begin(Watch {
                        health: Arc::clone(health),
                        tls: tls.cloned(),
                        backend: format!("{}:{}", backend.key.service, backend.key.port),
                        pod: endpoint.pod.clone(),
                    })
                });
                self.running.insert(id, handle);
            }
        }
        before.into_values().for_each(|gone| gone.abort());
        // What has ended is let go.
        while self.tasks.try_join_next().is_some() {}
    }

    fn begin(&mut self, watch: Watch) -> AbortHandle {
        // A terminating endpoint may be ready again, and begins anew as healthy.
        watch.health.reset();
        let rng = self.rng.fork();
        self.tasks.spawn(watch.run(self.shared.clone(), rng))
    }
}
