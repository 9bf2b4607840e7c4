//! What the cluster is told about its routes and policies: status and Events, written by one replica of all.
//!
//! Every replica compiles and knows what the status of each route should be; the one that holds a Lease writes. A write
//! is made only where the API server has something else, so that a start, a change of the writer or an hour without
//! changes writes nothing. What is said is what this replica serves: statuses come from a version that is published.
//!
//! * [`lease`]: who may write, as pure rules. [`election`]: the same against an API server.
//! * [`desired`]: the status of one route. [`book`]: which routes need a write. [`pace`]: how fast.
//! * [`writer`]: the task that writes. [`events`]: what it tells beside. [`call`]: how calls end.
//! * [`policies`]: the same for BackendTLSPolicies, whose status has entries of all controllers in one list.
//! * [`complaints`]: what the log says of it.
//!
//! Traffic knows nothing of all this: whatever happens here, requests are answered as before.

mod book;
mod call;
mod complaints;
mod desired;
mod election;
mod events;
mod lease;
mod pace;
mod policies;
mod writer;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kube::Client;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use book::Published;

use crate::source::stored::{Identity, Sighting};
use crate::telemetry::metrics::StatusMetrics;
use election::{ClusterLease, Election};
use events::Events;
use lease::Timing;
use policies::{ClusterPolicies, PolicyWriter};
use writer::{ClusterRoutes, Sources, Writer};

/// Sightings that wait for the writer; more make the watch of routes wait.
pub const WAITING: usize = 1024;

/// How long giving back the Lease may take at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// Who writes, and where that is agreed on.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of the Lease.
    pub lease_namespace: String,
    /// Name of the Lease, the same for all replicas that serve the same.
    pub lease_name: String,
    /// The name of this replica: that of its pod or machine.
    pub replica: String,
    /// Whose entries are ours.
    pub identity: Identity,
    /// Namespaces whose policies are written; empty: all.
    pub namespaces: Vec<String>,
}

/// What the tasks hear.
#[derive(Debug)]
pub struct Ears {
    /// What the API server has.
    pub sightings: mpsc::Receiver<Sighting>,
    /// What is active in this process; `None` before the first version.
    pub published: watch::Receiver<Option<Published>>,
}

/// The running tasks; they end with [`stop`](Self::stop) or with their runtime.
#[derive(Debug)]
pub struct Status {
    writers: Task,
    election: Task,
}

#[derive(Debug)]
struct Task {
    stop: oneshot::Sender<()>,
    handle: JoinHandle<()>,
}

impl Task {
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        metrics: &Arc<StatusMetrics>,
        run: impl FnOnce(oneshot::Receiver<()>) -> F,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (run, metrics) = (AssertUnwindSafe(run(stopped)), Arc::clone(metrics));
        let handle = tokio::spawn(async move {
            if run.catch_unwind().await.is_err() {
                metrics.panicked();
                tracing::error!(
                    "this replica writes no status any more, by a fault of tidegate; traffic is not affected"
                );
            }
        });
        Self { stop, handle }
    }

    async fn end(self) {
        drop(self.stop);
        // A task that has panicked has ended, too.
        let _ = self.handle.await;
    }
}

/// Runs two writers in one task until `stop` is sent or dropped. One that panics ends the other, too: who held the Lease for
/// what is left would keep other replicas from writing.
async fn both<A: Future<Output = ()>, B: Future<Output = ()>>(
    stop: oneshot::Receiver<()>,
    one: impl FnOnce(oneshot::Receiver<()>) -> A,
    other: impl FnOnce(oneshot::Receiver<()>) -> B,
) {
    let ((stop_one, one_stopped), (stop_other, other_stopped)) = (oneshot::channel(), oneshot::channel());
    let pass_on = async move {
        // Sent or dropped, it is the end.
        let _ = stop.await;
        drop((stop_one, stop_other));
    };
    tokio::join!(pass_on, one(one_stopped), other(other_stopped));
}

/// Starts to run for the Lease, and to write while it is held.
#[must_use]
pub fn start(client: &Client, options: Options, ears: Ears, metrics: Arc<StatusMetrics>) -> Status {
    // A process that starts again under the same name is another one.
    let replica = format!("{}_{:08x}", options.replica, fastrand::u32(..));
    let store = ClusterLease::new(client.clone(), &options.lease_namespace, &options.lease_name);
    let counted = Arc::clone(&metrics);
    let told = Box::new(move |is_leader| counted.set_leader(is_leader));
    let (election, leadership) = Election::new(store, replica.clone(), Timing::DEFAULT, told);
    let target = ClusterRoutes::new(client.clone(), options.identity.clone(), Events::new(client.clone(), replica));
    let (of_policies, identity) = (ears.published.clone(), options.identity.clone());
    let target_of_policies = ClusterPolicies::new(client.clone(), options.namespaces, &identity);
    let policies =
        PolicyWriter::new(target_of_policies, leadership.clone(), of_policies, identity, Arc::clone(&metrics));
    let sources = Sources { leadership, sightings: ears.sightings, published: ears.published };
    let counts = Arc::clone(&metrics);
    let writer = Writer::new(target, sources, options.identity, metrics);
    Status {
        writers: Task::spawn(&counts, |stop| both(stop, |stop| writer.run(stop), |stop| policies.run(stop))),
        election: Task::spawn(&counts, |stop| election.run(stop)),
    }
}

impl Status {
    /// Stops to write, and gives the Lease back so that another replica goes on at once. Takes 3 s at most.
    pub async fn stop(self) {
        let Self { writers, election } = self;
        let ended = tokio::time::timeout(FAREWELL, async {
            writers.end().await;
            election.end().await;
        });
        if ended.await.is_err() {
            tracing::warn!("the Lease was not given back in time; it expires");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_writer_that_panics_ends_the_other_and_with_it_the_lead() {
        let metrics = Arc::new(StatusMetrics::default());
        let (until, leadership) = tokio::sync::watch::channel(());
        let (panic, panics) = oneshot::channel::<()>();
        let task = Task::spawn(&metrics, |stop| {
            let one = async move |_stop| {
                let _ = panics.await;
                panic!("wanted by a test");
            };
            let other = async move |stop: oneshot::Receiver<()>| {
                let _held = leadership;
                let _ = stop.await;
            };
            both(stop, one, other)
        });
        tokio::task::yield_now().await;
        assert!(!until.is_closed());
        panic.send(()).expect("it listens");
        until.closed().await;
        task.end().await;
        assert_eq!(metrics.panics(), 1);
    }

    #[tokio::test]
    async fn both_writers_end_when_they_are_told_to() {
        let wait = async |stop: oneshot::Receiver<()>| {
            let _ = stop.await;
        };
        let task = Task::spawn(&Arc::default(), |stop| both(stop, wait, wait));
        task.end().await;
    }
}
