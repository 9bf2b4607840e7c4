//! Objects from a Kubernetes API server.
//!
//! One task per kind (and namespace, where only some are watched) keeps a watch alive ([`follow`]); one task puts what
//! they tell together ([`index`]) and hands every new state on. An object that cannot be read is left out and reported,
//! and never holds up the others. What was read stays active for as long as the API server cannot be asked.
//!
//! [`start`] returns once every kind was listed, so that the first state is a whole one. Secrets and ConfigMaps are added to
//! each state by [`named`]: those alone that it names.
//!
//! # How it grows
//!
//! Measured with `cargo bench --bench cluster` on two busy cores, routes of two rules and three backends each:
//!
//! | | 5,000 routes, 15,000 endpoints | 40,000 routes, 120,000 endpoints |
//! |---|---|---|
//! | memory at rest, statuses written | about 56 MiB: 39 of data, the rest of the program file | about 300 MiB: it grows by 7.3 KiB for each route (estimated) |
//! | first compilation | 75 ms | 1.4 s |
//! | start to ready | 0.7 s | 15 s |
//! | watch traffic at rest | five requests in half a minute, a list of each kind in ten minutes | the same; a list has some 60 MB (estimated) |
//!
//! A change of slices alone compiles no route: the backends of their Services are looked at again, and the next version
//! shares the rest. It costs a walk over all slices and backends: some 2 ms at 3,000 routes, and about 15 ms at 40,000
//! (estimated). A change of a route, a Service or a grant compiles the routes that it concerns, and no other; what is
//! between routes is found out again for all of them: precedence, the tables of the routers, the numbers of rules and
//! backends (`cargo bench --bench compile` measures it). So what breaks first is the time from a new route to traffic,
//! which grows with the number of routes. Memory is next, since two versions are there while one takes the place of the
//! other; then the lists, which all replicas ask for after an API server has been away.
//!
//! What would be done, in this order: build routers by hostname and keep the tables of those that did not change (they are
//! built for each listener today); shard by class, so that a gateway has only the routes of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};

use crate::compile::inputs::Inputs;
use crate::kinds::KindId;
use crate::source::update::Update;
use crate::telemetry::metrics::Metrics;

mod access;
mod again;
mod ask;
pub mod beside;
mod cache;
mod failure;
mod follow;
mod index;
mod named;
mod needed;
mod object;
mod own_zone;
mod rights;
mod selection;
mod witness;

pub use witness::Sightings;

pub use follow::Timing;

use again::again_after_panics;
use cache::Cache;
use follow::{Follower, Teller, Watch};
use index::{Change, Index, Kept};
use named::Means;
use object::Namespaces;
use witness::Witness;

/// Changes that wait for the index; more make the watches wait.
const WAITING: usize = 1024;

/// What to watch, and where.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only objects in these namespaces; empty: in all.
    pub namespaces: Vec<String>,
    /// Watch core Endpoints too, for Services whose controllers write no EndpointSlices.
    pub legacy_endpoints: bool,
    /// A folder in which the objects are kept for a restart while the API server does not answer.
    pub cache: Option<PathBuf>,
    /// The ClusterRole that lets certificates and authorities of a namespace be read, if there is one; operators are told to
    /// bind it where the right is missing.
    pub certificate_role: Option<String>,
    /// How long things take.
    pub timing: Timing,
}

/// The tasks that follow the API server have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task that follows the API server has ended")]
pub struct Ended;

/// Lists everything, and then follows the changes for as long as the runtime and the receiver live.
///
/// What is seen of routes beside what they want goes to `sightings`.
///
/// # Errors
/// A task has ended, which happens only with its runtime. An API server that does not answer is asked again until it does.
pub async fn start(
    client: &Client,
    options: &Options,
    base: Inputs,
    sightings: Option<&Sightings>,
    metrics: &Arc<Metrics>,
) -> Result<watch::Receiver<Update>, Ended> {
    let cache = options.cache.as_deref().and_then(open_cache);
    let (sender, changes) = mpsc::channel(WAITING);
    let place = base.place.clone();
    let parts = Parts { client, timing: &options.timing, cache, sightings, metrics, changes: sender.clone() };
    let index = parts.follow(watches(options), base);
    if let (None, Some(node)) = (place.zone, place.node) {
        tokio::spawn(own_zone::find(client.clone(), node, sender.clone(), options.timing.longest_pause));
    }
    drop(sender);
    tokio::spawn(tell_version(client.clone()));
    let states = index.run(changes, Arc::clone(metrics)).await.ok_or(Ended)?;
    let means = Means {
        client: client.clone(),
        timing: options.timing.clone(),
        metrics: Arc::clone(metrics),
        role: options.certificate_role.clone(),
    };
    Ok(named::follow(states, means).await)
}

/// What all watches of one API server share.
struct Parts<'a> {
    client: &'a Client,
    timing: &'a Timing,
    cache: Option<Cache>,
    sightings: Option<&'a Sightings>,
    metrics: &'a Arc<Metrics>,
    changes: mpsc::Sender<Change>,
}

impl Parts<'_> {
    /// Starts a task for each watch; the index for what they tell.
    fn follow(self, watches: Vec<Watch>, base: Inputs) -> Index {
        let Self { client, timing, cache, sightings, metrics, changes } = self;
        let cells: Vec<_> = watches.iter().map(|watch| metrics.watch(watch.kind.name())).collect();
        let counted = watches.iter().zip(&cells).map(|(watch, cells)| (watch.kind, watch.is_needed, Arc::clone(cells)));
        let kept = cache.as_ref().map(|cache| Kept {
            cache: cache.clone(),
            watches: watches.iter().map(ToString::to_string).collect(),
            after: timing.cache_after,
        });
        let index = Index::new(base, counted, timing.removals_held, kept);
        for (number, (watch, cells)) in watches.into_iter().zip(cells).enumerate() {
            let of_routes = sightings.filter(|_| watch.kind == KindId::GatewayRoute).cloned();
            let (client, changes, cache) = (client.clone(), changes.clone(), cache.clone());
            let (timing, metrics) = (timing.clone(), Arc::clone(metrics));
            tokio::spawn(again_after_panics(metrics, timing.longest_pause, move || {
                let witness = of_routes.clone().map(|to| Witness::new(to, watch.namespace.as_deref()));
                let journal = cache.as_ref().map(|cache| cache.journal(watch.to_string()));
                let namespaces = Namespaces::default();
                let teller = Teller { number, changes: changes.clone(), witness, journal, namespaces };
                Follower::new(watch.clone(), client.clone(), teller, Arc::clone(&cells), timing.clone()).run()
            }));
        }
        index
    }
}

/// The oldest minor version of Kubernetes 1 that tidegate is made for.
const OLDEST_MINOR: u32 = 33;

/// Says once which Kubernetes it is, as soon as it answers.
async fn tell_version(client: Client) {
    let version = loop {
        match client.apiserver_version().await {
            Ok(version) => break version,
            Err(_) => tokio::time::sleep(Duration::from_secs(30)).await,
        }
    };
    if is_too_old(&version.major, &version.minor) {
        tracing::warn!("the API server is Kubernetes {}; expected 1.{OLDEST_MINOR} or newer", version.git_version);
    } else {
        tracing::info!("the API server is Kubernetes {}", version.git_version);
    }
}

/// Some providers write `33+`.
fn is_too_old(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().ok();
    match (number(major), number(minor)) {
        (Some(major), Some(minor)) => major == 1 && minor < OLDEST_MINOR,
        _ => false,
    }
}

/// Without its folder nothing is kept, and that is no reason not to serve.
fn open_cache(folder: &Path) -> Option<Cache> {
    match Cache::open(folder) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::error!("the cache in {} cannot be used: {error}; the rest works", folder.display());
            None
        }
    }
}

/// One watch for each kind, or for each kind in each namespace.
fn watches(options: &Options) -> Vec<Watch> {
    let kinds = KindId::ALL.iter().filter(|kind| match kind {
        KindId::Endpoints => options.legacy_endpoints,
        // Only those that somebody names, see `named`.
        KindId::Secret | KindId::ConfigMap => false,
        KindId::GatewayRoute
        | KindId::Service
        | KindId::EndpointSlice
        | KindId::Namespace
        | KindId::ReferenceGrant
        | KindId::BackendTlsPolicy => true,
    });
    let namespaces: BTreeSet<&str> = options.namespaces.iter().map(String::as_str).collect();
    let mut watches = Vec::new();
    for kind in kinds {
        if namespaces.is_empty() {
            watches.push(Watch::new(*kind, None, None));
        }
        let within = |name: &&str| Watch::new(*kind, Some((*name).to_owned()), None);
        watches.extend(namespaces.iter().map(within));
    }
    watches
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::telemetry::metrics::MetricsOptions;

    #[test]
    fn old_versions_are_known() {
        for (major, minor, is_old) in [("1", "32", true), ("1", "33", false), ("1", "32+", true), ("2", "0", false)] {
            assert_eq!(is_too_old(major, minor), is_old, "{major}.{minor}");
        }
        assert!(!is_too_old("", "odd"));
    }

    #[test]
    fn each_kind_is_watched_once_or_once_in_each_namespace() {
        let all = watches(&Options::default());
        assert!(all.iter().all(|watch| watch.namespace.is_none() && watch.kind != KindId::Endpoints));
        assert_eq!(all.len(), KindId::ALL.len() - 3);
        let namespaces = ["b", "a", "b"].map(str::to_owned).to_vec();
        let some = watches(&Options { namespaces, legacy_endpoints: true, ..Options::default() });
        assert_eq!(some.len(), 2 * (KindId::ALL.len() - 2));
        assert!(some.iter().all(|watch| watch.namespace.is_some()));
    }
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_panics_begins_anew() {
        let options = MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 };
        let (metrics, begun) = (Metrics::new(options), AtomicUsize::new(0));
        let pause = Duration::from_secs(5);
        let start = tokio::time::Instant::now();
        again_after_panics(Arc::clone(&metrics), pause, || {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            async move { assert!(number == 2, "wanted by a test") }
        })
        .await;
        assert_eq!((begun.into_inner(), start.elapsed()), (3, pause * 2));
        assert!(metrics.render().contains("tidegate_panics_total{where=\"control\"} 2\n"));
    }
}
