//! The one task that writes statuses, for as long as this replica leads.

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams, Request};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::book::{Book, Outcome, Published, Write};
use super::call::{Failure, within};
use super::complaints::Complaints;
use super::desired::Notice;
use super::election::Leadership;
use super::events::Events;
use super::pace::Bucket;
use crate::model::ids::ObjectName;
use crate::source::stored::{Identity, Sighting, StoredRoute};
use crate::telemetry::metrics::{StatusMetrics, StatusWrite};

/// Time for one write.
const CALL: Duration = Duration::from_secs(5);

/// Writes a second, and how many at once after a rest.
const PER_SECOND: u32 = 50;
const BURST: u32 = 200;

/// Events a second, and how many at once after a rest; more are left out, since conditions say the same.
const EVENTS_PER_SECOND: u32 = 10;
const EVENTS_BURST: u32 = 100;

/// Writes that are on their way at a time.
const AT_ONCE: usize = 8;

/// How often every route is looked at, for what a watch or a write has lost.
const SWEEP: Duration = Duration::from_secs(600);

/// Pauses of the whole task while the API server cannot work.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pause of one route after a refusal that the rights of tidegate are the reason of, or a fault of tidegate, or another
/// failure of the API server at this very route.
const ROUTE_PAUSE: Duration = Duration::from_secs(30);

/// So many routes that the API server fails at in a row are no fault of theirs.
const MOST_FAILED: usize = 3;

/// Namespaces and routes of which the log says that their statuses cannot be written.
const MOST_COMPLAINTS: usize = 16;

/// Sightings that are taken in one step.
const SIGHTINGS_AT_ONCE: usize = 1024;

/// Where statuses go.
pub(super) trait Target: Send + Sync + 'static {
    /// Applies a status; the object as it is then.
    fn apply(&self, write: &Write) -> impl Future<Output = Result<StoredRoute, Failure>> + Send;
    /// Tells people about it.
    fn tell(&self, name: &ObjectName, uid: &str, notices: Vec<Notice>) -> impl Future<Output = ()> + Send;
}

/// The routes of a cluster.
pub(super) struct ClusterRoutes {
    client: Client,
    identity: Identity,
    params: PatchParams,
    events: Events,
}

impl ClusterRoutes {
    pub(super) fn new(client: Client, identity: Identity, events: Events) -> Self {
        // Ours by the rules of server-side apply, also where another manager wrote the same field by mistake.
        let params = PatchParams::apply(&identity.field_manager()).force();
        Self { client, identity, params, events }
    }
}

impl Target for ClusterRoutes {
    async fn apply(&self, write: &Write) -> Result<StoredRoute, Failure> {
        let path = format!(
            "/apis/{}/namespaces/{}/gatewayroutes",
            crate::api::gateway_route::API_VERSION,
            write.name.namespace
        );
        let patch = Patch::Apply(&write.body);
        let request = Request::new(path)
            .patch_subresource("status", &write.name.name, &self.params, &patch)
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let object: Value = within(CALL, self.client.request(request)).await?;
        Ok(StoredRoute::read(&object, &self.identity))
    }

    async fn tell(&self, name: &ObjectName, uid: &str, notices: Vec<Notice>) {
        self.events.publish(name, uid, notices).await;
    }
}

/// What a writer hears.
pub(super) struct Sources {
    pub(super) leadership: Leadership,
    pub(super) sightings: mpsc::Receiver<Sighting>,
    pub(super) published: watch::Receiver<Option<Published>>,
}

/// The one that writes.
pub(super) struct Writer<T> {
    target: Arc<T>,
    sources: Sources,
    metrics: Arc<StatusMetrics>,
    book: Book,
    /// The outcome of a call is `None` when it panicked.
    in_flight: JoinSet<(ObjectName, Option<Result<StoredRoute, Failure>>)>,
    is_writer: bool,
    writes: Bucket,
    events: Bucket,
    paused_until: Instant,
    pause: Duration,
    sweep_at: Instant,
    /// Namespaces in which rights are missing.
    forbidden: Complaints<Arc<str>>,
    /// Routes whose status the API server refuses.
    refused: Complaints<ObjectName>,
    /// Routes that the API server failed at since it last wrote one.
    failed: BTreeSet<ObjectName>,
    /// An API server that cannot work was logged, and nothing was written since.
    is_broken: bool,
}

impl<T: Target> Writer<T> {
    pub(super) fn new(target: T, sources: Sources, identity: Identity, metrics: Arc<StatusMetrics>) -> Self {
        let now = Instant::now();
        Self {
            target: Arc::new(target),
            sources,
            metrics,
            book: Book::new(identity),
            in_flight: JoinSet::new(),
            is_writer: false,
            writes: Bucket::new(PER_SECOND, BURST, now),
            events: Bucket::new(EVENTS_PER_SECOND, EVENTS_BURST, now),
            paused_until: now,
            pause: FIRST_PAUSE,
            sweep_at: now + SWEEP,
            forbidden: Complaints::new(MOST_COMPLAINTS),
            refused: Complaints::new(MOST_COMPLAINTS),
            failed: BTreeSet::new(),
            is_broken: false,
        }
    }

    /// Writes until `stop` is sent or dropped, or nobody tells it anything any more. Calls that run then are given up.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            self.set_writer(self.sources.leadership.holds());
            let now = Instant::now();
            if now >= self.sweep_at {
                self.sweep_at = now + SWEEP;
                self.book.sweep();
            }
            self.book.wake(now);
            self.send(now);
            self.metrics.set_queue(self.book.len() + self.in_flight.len());
            let wake = self.wake_at(now);
            tokio::select! {
                _ = &mut stop => break,
                sighting = self.sources.sightings.recv() => {
                    let Some(sighting) = sighting else { break };
                    self.book.saw(sighting);
                    for _ in 0..SIGHTINGS_AT_ONCE {
                        let Ok(sighting) = self.sources.sightings.try_recv() else { break };
                        self.book.saw(sighting);
                    }
                }
                changed = self.sources.published.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    if let Some(published) = self.sources.published.borrow_and_update().clone() {
                        self.book.publish(published);
                    }
                }
                () = self.sources.leadership.changed(self.is_writer) => {}
                Some(done) = self.in_flight.join_next(), if !self.in_flight.is_empty() => {
                    match done {
                        Ok((name, Some(result))) => self.done(&name, result),
                        Ok((name, None)) => self.panicked(&name),
                        // It was given up with the lead.
                        Err(_) => {}
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.set_writer(false);
        self.metrics.set_queue(0);
    }

    fn set_writer(&mut self, is_writer: bool) {
        if std::mem::replace(&mut self.is_writer, is_writer) != is_writer {
            // Nobody may write after another one has begun.
            self.in_flight.abort_all();
            self.in_flight.detach_all();
            self.book.set_writer(is_writer);
            (self.pause, self.paused_until) = (FIRST_PAUSE, Instant::now());
        }
    }

    /// Sends what may be sent now.
    fn send(&mut self, now: Instant) {
        while now >= self.paused_until && self.in_flight.len() < AT_ONCE && self.book.has_waiting() {
            if !self.writes.has(now) {
                return;
            }
            let Some(mut write) = self.book.next(now, Timestamp::now()) else { return };
            self.writes.take(now);
            let events = &mut self.events;
            write.notices.retain(|_| events.take(now));
            let target = Arc::clone(&self.target);
            self.in_flight.spawn(async move {
                let name = write.name.clone();
                let call = async move {
                    let result = target.apply(&write).await;
                    if result.is_ok() && !write.notices.is_empty() {
                        target.tell(&write.name, &write.uid, write.notices).await;
                    }
                    result
                };
                (name, AssertUnwindSafe(call).catch_unwind().await.ok())
            });
        }
    }

    /// When there is something to do without anybody saying so.
    fn wake_at(&mut self, now: Instant) -> Instant {
        let mut wake = self.book.wake_at().map_or(self.sweep_at, |at| at.min(self.sweep_at));
        if self.book.has_waiting() && self.in_flight.len() < AT_ONCE {
            wake = wake.min(self.paused_until.max(self.writes.ready_at(now)));
        }
        wake
    }

    fn done(&mut self, name: &ObjectName, result: Result<StoredRoute, Failure>) {
        let now = Instant::now();
        let (counted, outcome) = match result {
            Ok(route) => {
                self.recovered(name);
                (StatusWrite::Ok, Outcome::Written(Box::new(route)))
            }
            // The object is gone, or another one has its name: the watch tells.
            Err(Failure::NotFound(_)) => (StatusWrite::Refused, Outcome::Never),
            Err(Failure::Conflict(_)) => (StatusWrite::Refused, Outcome::Later(FIRST_PAUSE)),
            Err(Failure::Forbidden(message)) => {
                if self.forbidden.begins(Arc::clone(&name.namespace)) {
                    tracing::error!(
                        route = %name,
                        "the status of a route may not be written: {message}; expected a role with patch of \
                         gatewayroutes/status; traffic is not affected"
                    );
                }
                (StatusWrite::Refused, Outcome::Later(ROUTE_PAUSE))
            }
            Err(Failure::Refused(message)) => {
                if self.refused.begins(name.clone()) {
                    tracing::error!(
                        route = %name,
                        "the API server refuses the status of a route: {message}; it may have an older \
                         CustomResourceDefinition; expected that of `tidegate crd`; traffic is not affected"
                    );
                }
                (StatusWrite::Refused, Outcome::Never)
            }
            Err(Failure::Busy(pause, message)) => {
                self.rest(now, pause, &message);
                (StatusWrite::Error, Outcome::Later(Duration::ZERO))
            }
            Err(Failure::Failed(message)) => {
                let is_first = self.refused.begins(name.clone());
                if is_first {
                    tracing::warn!(
                        route = %name,
                        "the API server fails at the status of a route: {message}; trying again; traffic is not affected"
                    );
                }
                self.failed.insert(name.clone());
                if self.failed.len() >= MOST_FAILED {
                    self.rest(now, None, &message);
                }
                (StatusWrite::Error, Outcome::Later(if is_first { FIRST_PAUSE } else { ROUTE_PAUSE }))
            }
            Err(Failure::Broken(message)) => {
                self.rest(now, None, &message);
                (StatusWrite::Error, Outcome::Later(Duration::ZERO))
            }
            Err(failure @ Failure::TimedOut(_)) => {
                self.rest(now, None, &failure.to_string());
                (StatusWrite::Timeout, Outcome::Later(Duration::ZERO))
            }
        };
        self.metrics.wrote(counted);
        self.book.done(name, outcome, now);
    }

    /// A call panicked, by a fault of ours: it is made again, but not at once.
    fn panicked(&mut self, name: &ObjectName) {
        self.metrics.panicked();
        self.book.done(name, Outcome::Later(ROUTE_PAUSE), Instant::now());
    }

    fn recovered(&mut self, name: &ObjectName) {
        self.failed.clear();
        self.refused.ends(name);
        if self.forbidden.ends(&name.namespace) {
            tracing::info!(namespace = &*name.namespace, "the status of routes is written again");
        }
        if std::mem::take(&mut self.is_broken) {
            tracing::info!("the status of routes is written again");
        }
        self.pause = FIRST_PAUSE;
    }

    /// Leaves an API server alone that cannot work now.
    fn rest(&mut self, now: Instant, asked: Option<Duration>, message: &str) {
        if !std::mem::replace(&mut self.is_broken, true) {
            tracing::warn!("the status of a route cannot be written: {message}; trying again; traffic is not affected");
        }
        // Calls that failed together are one failure.
        if now >= self.paused_until {
            self.paused_until = now + asked.unwrap_or(self.pause).min(LONGEST_PAUSE);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
