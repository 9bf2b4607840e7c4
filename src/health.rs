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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::drain::{Drain, Phase};
use crate::live::{Live, LiveView};
use crate::model::ids::{BackendId, EndpointKey, ObjectName};
use crate::model::route::Rule;
use crate::telemetry::metrics::{HealthState, Metrics, ServiceHealth};

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

/// Counts the endpoints of each Service whose rules have a healthCheck or outlierDetection block, for the metrics; `now` is
/// the time since the epoch that endpoints count from.
#[must_use]
pub fn counts(live: &Live, now: Duration) -> Vec<ServiceHealth> {
    let snapshot = live.snapshot();
    let unhealthy: HashSet<usize> = live
        .checked_endpoints()
        .into_iter()
        .flat_map(|(_, checked, _)| checked.endpoints())
        .filter(|health| health.is_unhealthy())
        .map(|health| Arc::as_ptr(health.endpoint()).addr())
        .collect();
    let has_policy = |rule: &&Rule| rule.policy.as_ref().is_some_and(|policy| policy.leaves_endpoints_out());
    let rules = snapshot.rules.iter().filter(has_policy);
    let backends: BTreeSet<BackendId> =
        rules.flat_map(|rule| &*rule.backend_refs).filter_map(|reference| reference.backend).collect();
    // A Service may have several ports, and each its own endpoints.
    let mut services: BTreeMap<&ObjectName, HashMap<&EndpointKey, HealthState>> = BTreeMap::new();
    for id in backends {
        let (Some(backend), Some(states)) = (snapshot.backend(id), live.balancers().backends().get(id.index())) else {
            continue;
        };
        let endpoints = services.entry(&backend.key.service).or_default();
        for state in &states.endpoints {
            let terminates = |at: usize| backend.endpoints.get(at).is_some_and(|endpoint| endpoint.terminating);
            let health = if unhealthy.contains(&Arc::as_ptr(state).addr()) {
                HealthState::Unhealthy
            } else if state.is_ejected(now) {
                HealthState::Ejected
            } else if backend.endpoints.binary_search_by(|endpoint| endpoint.key.cmp(&state.key)).is_ok_and(terminates)
            {
                HealthState::Draining
            } else {
                HealthState::Healthy
            };
            endpoints.insert(&state.key, health);
        }
        endpoints.extend(backend.draining.iter().map(|endpoint| (&endpoint.key, HealthState::Draining)));
    }
    let count = |(service, endpoints): (&ObjectName, HashMap<_, HealthState>)| {
        let mut counts = [0; HealthState::ALL.len()];
        endpoints.into_values().for_each(|state| counts[state as usize] += 1);
        (service.to_string().into(), counts)
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
