//! What concerns one pod, for a sidecar: the Services that its application calls, their slices, and the routes of their
//! namespaces and its own. Nothing cluster-wide, and never a Secret.
//!
//! There are thousands of sidecars where there are a few gateways, and what an API server pays for them is watches: so each
//! kind has one in each namespace, narrowed by a selector as far as selectors go; watches last five minutes, not half of
//! one; and when the API server has too much to do, those who ask again spread. Routes may lead to further Services of
//! these namespaces, which are read as soon as one does; and so are the grants of a namespace that routes of another one
//! refer to, which most have not.
//!
//! What may not be read harms the Services that it concerns and no others ([`access`](super::access)). Only the routes of
//! the pod's own namespace are waited for: a pod of a new version that would serve without them must not take the place of
//! one that serves with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::access::Access;
use super::follow::{Timing, Watch};
use super::selection::Wanted;
use super::{Ended, Parts, WAITING, open_cache};
use crate::api::gateway_route::{GROUP, ParentRef};
use crate::compile::inputs::Inputs;
use crate::compile::named::services_named;
use crate::kinds::service::Service;
use crate::kinds::{Kind as _, KindId};
use crate::model::ids::ObjectName;
use crate::source::update::Update;
use crate::telemetry::metrics::Metrics;
use crate::text::is_dns_label;

/// The ClusterRole that has the rights of a sidecar; operators are told of it where one is missing.
const ROLE: &str = "tidegate-sidecar";

/// How long a state waits for Services that no route named before, so that it is not served without them for a moment.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same for the first state: nobody is served before it.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// What to read.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace of the pod.
    pub namespace: Arc<str>,
    /// The Services that its application calls.
    pub called: BTreeSet<ObjectName>,
    /// The Service of the pod itself.
    pub own_service: Option<Arc<str>>,
    /// A folder in which the objects are kept for a restart while the API server does not answer.
    pub cache: Option<PathBuf>,
    /// How long things take.
    pub timing: Timing,
}

impl Default for Options {
    fn default() -> Self {
        let timing = Timing {
            // Five minutes, give or take a fifth: ten thousand sidecars begin 130 watches in a second then.
            watch_seconds: 240..=360,
            relist: Duration::from_secs(3600),
            // Where Gateway API is not installed, ten thousand sidecars would ask for its grants 450 times in a second.
            not_served_pause: Duration::from_secs(300),
            spread: Duration::from_secs(30),
            // Definitions are no objects of a namespace, so that no RoleBinding gives the right to read them.
            asks_for_definition: false,
            begins_with_copy: true,
            ..Timing::default()
        };
        Self { namespace: "default".into(), called: BTreeSet::new(), own_service: None, cache: None, timing }
    }
}

/// Lists everything, and then follows the changes for as long as the runtime and the receiver live.
///
/// # Errors
/// A task has ended, which happens only with its runtime. An API server that does not answer is asked again until it does.
pub async fn start(
    client: &Client,
    options: &Options,
    base: Inputs,
    metrics: &Arc<Metrics>,
) -> Result<watch::Receiver<Update>, Ended> {
    let class = Arc::clone(&base.gateway_class_name);
    let named = Named::new(options, class);
    let watches = named.watches();
    let access = Access {
        watches: watches
            .iter()
            .map(|watch| (watch.kind, watch.namespace.as_deref().unwrap_or_default().into()))
            .collect(),
        called: options.called.clone(),
        role: ROLE.into(),
    };
    let cache = options.cache.as_deref().and_then(open_cache);
    let (changes, received) = mpsc::channel(WAITING);
    let parts = Parts { client, timing: &options.timing, cache, sightings: None, metrics, changes };
    let index = parts.follow(watches, base).with_access(access);
    let states = index.run(received, Arc::clone(metrics)).await.ok_or(Ended)?;
    Ok(follow(states, named).await)
}

/// Hands states on, after the Services that their routes lead to were read.
async fn follow(mut states: watch::Receiver<Update>, named: Named) -> watch::Receiver<Update> {
    let first = newest(&mut states, &named, Instant::now() + FIRST_PATIENCE).await;
    let (sender, updates) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let newest = newest(&mut states, &named, Instant::now() + PATIENCE).await;
            if sender.send(newest).is_err() {
                return;
            }
        }
    });
    updates
}

/// The newest state, after the Services that it leads to were read, or at a moment. While they are, a newer one may come that
/// leads to others: they are asked for as well, in any case.
async fn newest(states: &mut watch::Receiver<Update>, named: &Named, until: Instant) -> Update {
    loop {
        let state = states.borrow_and_update().clone();
        if !named.want(&state.inputs) || Instant::now() >= until {
            return state;
        }
        named.read_by(until).await;
    }
}

/// The Services that are read: those that are called, and those that routes of the pod lead to.
struct Named {
    own: Arc<str>,
    /// Only routes of this class count.
    class: Arc<str>,
    called: BTreeSet<ObjectName>,
    own_service: Option<ObjectName>,
    wanted: BTreeMap<Arc<str>, OfNamespace>,
}

/// What is wanted of one namespace.
struct OfNamespace {
    /// Services and their slices.
    services: watch::Sender<Wanted>,
    /// Grants, by the namespaces whose routes may need one.
    grants: watch::Sender<Wanted>,
}

impl OfNamespace {
    /// Nothing so far.
    fn none() -> Self {
        let none = || watch::Sender::new(Wanted::new(BTreeSet::new()));
        Self { services: none(), grants: none() }
    }

    /// Waits until what is wanted was listed.
    async fn read(&self) {
        listed(&self.services, &[KindId::Service, KindId::EndpointSlice]).await;
        listed(&self.grants, &[KindId::ReferenceGrant]).await;
    }
}

/// Waits until these kinds were listed for what is wanted.
async fn listed(wanted: &watch::Sender<Wanted>, kinds: &[KindId]) {
    let (number, mut listed) = {
        let wanted = wanted.borrow();
        (wanted.number, wanted.subscribe())
    };
    let is_read = |listed: &BTreeMap<KindId, u64>| kinds.iter().all(|kind| listed.get(kind) == Some(&number));
    // Its sender ends with the process.
    drop(listed.wait_for(is_read).await);
}

/// What routes lead to: a Service, and the namespace of a route that names it.
type Reference = (ObjectName, Arc<str>);

impl Named {
    fn new(options: &Options, class: Arc<str>) -> Self {
        let Options { namespace, called, own_service, .. } = options;
        let own_service = own_service.as_deref().map(|name| ObjectName::new(&**namespace, name));
        let of_called = called.iter().map(|service| &service.namespace);
        let namespaces: BTreeSet<&Arc<str>> = of_called.chain([namespace]).collect();
        let none = |namespace: &Arc<str>| (Arc::clone(namespace), OfNamespace::none());
        let wanted = namespaces.into_iter().map(none).collect();
        let named = Self { own: Arc::clone(namespace), class, called: called.clone(), own_service, wanted };
        named.replace(&[]);
        named
    }

    /// One watch for each kind in each namespace.
    fn watches(&self) -> Vec<Watch> {
        let mut watches = Vec::new();
        for (namespace, wanted) in &self.wanted {
            let within = |kind| Watch { is_needed: false, ..Watch::new(kind, Some(namespace.to_string()), None) };
            let some =
                |kind, wanted: &watch::Sender<Wanted>| Watch { wanted: Some(wanted.subscribe()), ..within(kind) };
            let is_own = *namespace == self.own;
            watches.push(Watch { is_needed: is_own, ..within(KindId::GatewayRoute) });
            watches.push(some(KindId::ReferenceGrant, &wanted.grants));
            watches.push(some(KindId::Service, &wanted.services));
            watches.push(some(KindId::EndpointSlice, &wanted.services));
        }
        watches
    }

    /// Wants what a state names; whether that is something else than before.
    fn want(&self, inputs: &Inputs) -> bool {
        let mut references: Vec<Reference> = Vec::new();
        for (name, route) in inputs.objects.routes.iter() {
            let spec = &route.object.spec;
            if *spec.gateway_class_name == *self.class
                && spec.parent_refs.iter().any(|parent| self.is_ours(&name.namespace, parent))
            {
                let services = services_named(&name.namespace, spec);
                references.extend(services.map(|service| (service, Arc::clone(&name.namespace))));
            }
        }
        self.replace(&references)
    }

    /// Whether a parent may bind a route to a listener of this sidecar, or leads to a route that does.
    fn is_ours(&self, namespace: &str, parent: &ParentRef) -> bool {
        let at = parent.namespace.as_deref().unwrap_or(namespace);
        match (&*parent.group, &*parent.kind) {
            ("", Service::NAME) => {
                self.called.iter().any(|called| *called.name == *parent.name && *called.namespace == *at)
            }
            (GROUP, "Listener") => *namespace == *self.own && parent.name.starts_with("in-"),
            (GROUP, _) => true,
            _ => false,
        }
    }

    /// Wants what is called and what routes lead to; whether that is something else than before. Of namespaces that are not
    /// watched, nothing can be read. A name that no Service can have is not asked for: the API server would refuse the whole
    /// list for it, and with it the endpoints of all others.
    fn replace(&self, references: &[Reference]) -> bool {
        let of_routes = references.iter().map(|(service, _)| service);
        let services: BTreeSet<&ObjectName> = self.called.iter().chain(&self.own_service).chain(of_routes).collect();
        let mut is_changed = false;
        for (namespace, wanted) in &self.wanted {
            let names =
                services.iter().filter(|service| service.namespace == *namespace && is_dns_label(&service.name));
            let names = names.map(|service| Arc::clone(&service.name)).collect();
            let from_others =
                references.iter().filter(|(service, from)| service.namespace == *namespace && from != namespace);
            let from_others = from_others.map(|(_, from)| Arc::clone(from)).collect();
            is_changed |= wanted.services.send_if_modified(|wanted| wanted.replace(names));
            is_changed |= wanted.grants.send_if_modified(|wanted| wanted.replace(from_others));
        }
        is_changed
    }

    /// Waits until all that is wanted was listed, or until a moment.
    async fn read_by(&self, until: Instant) {
        for wanted in self.wanted.values() {
            if tokio::time::timeout_at(until, wanted.read()).await.is_err() {
                return;
            }
        }
    }
}
