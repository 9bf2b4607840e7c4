//! The election of the one replica that writes: carries out what [`lease`](super::lease) says against an API server.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::call::{Failure, within};
use super::complaints::Complaints;
use super::lease::{Candidate, Intent, Timing};

/// Time for one call: three of them fit between two renewals that a holder needs.
const CALL: Duration = Duration::from_secs(2);

/// Where the Lease is kept.
pub(super) trait Store: Send + Sync + 'static {
    /// The Lease; `None` when there is none.
    fn read(&self) -> impl Future<Output = Result<Option<Lease>, Failure>> + Send;
    /// Creates it where there is none; as it is then.
    fn create(&self, lease: &Lease) -> impl Future<Output = Result<Lease, Failure>> + Send;
    /// Replaces it if it still has the same resource version; as it is then.
    fn replace(&self, lease: &Lease) -> impl Future<Output = Result<Lease, Failure>> + Send;
    /// Namespace and name.
    fn name(&self) -> String;
}

/// A Lease of a cluster.
pub(super) struct ClusterLease {
    api: Api<Lease>,
    namespace: String,
    name: String,
}

impl ClusterLease {
    pub(super) fn new(client: Client, namespace: &str, name: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl Store for ClusterLease {
    async fn read(&self) -> Result<Option<Lease>, Failure> {
        within(CALL, self.api.get_opt(&self.name)).await
    }

    async fn create(&self, lease: &Lease) -> Result<Lease, Failure> {
        let mut lease = lease.clone();
        lease.metadata.name = Some(self.name.clone());
        within(CALL, self.api.create(&PostParams::default(), &lease)).await
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, Failure> {
        within(CALL, self.api.replace(&self.name, &PostParams::default(), lease)).await
    }

    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Whether this replica is the one that writes; the answer of the moment, not of the last message.
#[derive(Clone, Debug)]
pub(super) struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Leadership that a test gives and takes.
    #[cfg(test)]
    pub(super) fn given() -> (watch::Sender<Option<Instant>>, Self) {
        let (sender, until) = watch::channel(None);
        (sender, Self { until })
    }

    pub(super) fn holds(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Returns when [`holds`](Self::holds) says something else than `held`; never, once the election has ended and
    /// nothing is held.
    pub(super) async fn changed(&mut self, held: bool) {
        loop {
            let until = *self.until.borrow_and_update();
            if until.is_some_and(|until| Instant::now() < until) != held {
                return;
            }
            let expiry = async {
                match until {
                    Some(until) if held => tokio::time::sleep_until(until).await,
                    Some(_) | None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = expiry => return,
                changed = self.until.changed() => if changed.is_err() {
                    match until {
                        Some(until) if held => return tokio::time::sleep_until(until).await,
                        Some(_) | None => std::future::pending().await,
                    }
                },
            }
        }
    }
}

/// What is the matter when a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    /// Rights are missing.
    Rights,
    /// The namespace of the Lease is missing.
    Namespace,
    /// A call did not end as it should, and the next one may.
    Calls,
}

/// Told of every change of leadership.
pub(super) type Told = Box<dyn Fn(bool) + Send>;

/// Runs for the Lease until it is told to stop, and gives it back then.
pub(super) struct Election<S> {
    store: S,
    timing: Timing,
    candidate: Candidate,
    until: watch::Sender<Option<Instant>>,
    told: Told,
    is_leader: bool,
    /// What was logged about calls that fail, while they do.
    complaints: Complaints<Trouble>,
}

impl<S: Store> Election<S> {
    pub(super) fn new(store: S, identity: String, timing: Timing, told: Told) -> (Self, Leadership) {
        let (until, receiver) = watch::channel(None);
        let candidate = Candidate::new(identity, timing);
        let election = Self { store, timing, candidate, until, told, is_leader: false, complaints: Complaints::new(3) };
        (election, Leadership { until: receiver })
    }

    /// Returns after `stop` was sent or dropped.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            let begun = Instant::now();
            // What is being written when the stop comes is finished, so that what is given back is the newest.
            let wake = match self.attempt().await {
                Ok(wake) => {
                    if self.complaints.end() {
                        tracing::info!(lease = self.store.name(), "the Lease can be used again");
                    }
                    wake
                }
                Err(failure) => {
                    self.complain(&failure);
                    None
                }
            };
            self.publish();
            // Not all replicas ask at the same moment.
            let pause = self.timing.retry.mul_f64(0.9 + fastrand::f64() / 10.0);
            let next = wake.map_or(begun + pause, |wake| wake.min(begun + pause));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = &mut stop => break,
                // Nobody here writes any more: another replica may.
                () = self.until.closed() => break,
            }
        }
        let released = self.candidate.release(Instant::now(), Timestamp::now());
        self.publish();
        if let Some(lease) = released
            && let Err(failure) = self.store.replace(&lease).await
        {
            tracing::warn!(lease = self.store.name(), "the Lease could not be given back: {failure}; it expires");
        }
    }

    /// One try; the moment of the next when it may be worth it before the usual time.
    async fn attempt(&mut self) -> Result<Option<Instant>, Failure> {
        if !self.candidate.is_holder() {
            let lease = self.store.read().await?;
            self.candidate.observe(Instant::now(), lease);
        }
        let begun = Instant::now();
        match self.candidate.intent(begun, Timestamp::now()) {
            Intent::Wait(expiry) => return Ok(Some(expiry)),
            Intent::Create(lease) => match self.store.create(&lease).await {
                Ok(lease) => self.candidate.wrote(begun, lease),
                // Another one was quicker.
                Err(Failure::Conflict(_)) => {}
                Err(failure) => return Err(failure),
            },
            Intent::Replace(lease) => match self.store.replace(&lease).await {
                Ok(lease) => self.candidate.wrote(begun, lease),
                // Another one was quicker, or it was changed by hand or deleted.
                Err(Failure::Conflict(_) | Failure::NotFound(_)) => {
                    let lease = self.store.read().await?;
                    self.candidate.observe(Instant::now(), lease);
                    // Still the own one, changed by somebody who is no candidate.
                    let begun = Instant::now();
                    if self.candidate.is_holder()
                        && let Intent::Replace(lease) = self.candidate.intent(begun, Timestamp::now())
                    {
                        let lease = self.store.replace(&lease).await?;
                        self.candidate.wrote(begun, lease);
                    }
                }
                Err(failure) => return Err(failure),
            },
        }
        Ok(None)
    }

    /// Says until when this replica holds the Lease, and whether it has just got or lost it.
    fn publish(&mut self) {
        let until = self.candidate.until();
        self.until.send_replace(until);
        let is_leader = until.is_some_and(|until| Instant::now() < until);
        if is_leader != std::mem::replace(&mut self.is_leader, is_leader) {
            let lease = self.store.name();
            if is_leader {
                tracing::info!(lease, "this replica writes the status of routes");
            } else {
                let holder = self.candidate.holder().unwrap_or_default();
                tracing::info!(lease, holder, "this replica writes no status any more");
            }
            (self.told)(is_leader);
        }
    }

    /// Logs each sort of failure once for as long as they last.
    fn complain(&mut self, failure: &Failure) {
        let trouble = match failure {
            Failure::Forbidden(_) => Trouble::Rights,
            Failure::NotFound(_) => Trouble::Namespace,
            Failure::Conflict(_)
            | Failure::Refused(_)
            | Failure::Busy(..)
            | Failure::Failed(_)
            | Failure::Broken(_)
            | Failure::TimedOut(_) => Trouble::Calls,
        };
        if !self.complaints.begins(trouble) {
            return;
        }
        let lease = self.store.name();
        const EFFECT: &str = "this replica writes no status; traffic is not affected";
        match trouble {
            Trouble::Rights => tracing::error!(
                "Lease {lease} may not be used: {failure}; expected a role with get and update of this Lease and create of \
                 leases; {EFFECT}"
            ),
            Trouble::Namespace => {
                tracing::error!("Lease {lease} cannot be created: {failure}; expected its namespace; {EFFECT}");
            }
            Trouble::Calls => {
                tracing::warn!("Lease {lease} cannot be renewed or taken: {failure}; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests;
