//! The one meeting point of the two halves: the pointer to the active version.
//!
//! The control half publishes a [`Live`]: snapshot, balancers and ready-made metric handles, built from the one before.
//! Each worker caches it as `Rc<WorkerLive>` beside its own cursors; a request clones the `Rc` and so sees one version
//! from its first phase to its last. The last `Rc` sends its `Arc` back to the control half to be dropped there: freeing
//! thousands of routes is no work for a data thread. Nothing but this module knows how the pointer travels.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::balance::{
    BackendEndpoints, Balancers, CheckedEndpoints, EndpointRegistry, Pick, PickRequest, Picked, Previous, RetryBudget,
    RuleState, SessionId, SessionIndex, SessionKey,
};
use crate::filter::{FilterBounds, FilterState, FilterStates, RemoteKeys, StateRegistry};
use crate::model::backend::Backend;
use crate::model::filter::StateKey;
use crate::model::ids::{BackendId, ObjectName, RuleId};
use crate::model::route::Rule;
use crate::model::snapshot::Snapshot;
use crate::telemetry::metrics::{ConfigObjects, GrpcCode, Metrics, RuleSeries, ServiceSeries};
use crate::tls::{ClientConfigs, ClientTls, ClientTlsFactory, ServerConfigs, TlsFactory};

#[cfg(test)]
mod tests;

/// One version of everything that requests are answered from; never changed after it is built.
#[derive(Debug, Default)]
pub struct Live {
    version: u64,
    snapshot: Snapshot,
    balancers: Balancers,
    /// The same `Arc` in consecutive versions with the same rules.
    filter_states: Arc<FilterStates>,
    /// Indexed by [`RuleId`]; the same `Arc` in consecutive versions with the same rules, by name, in the same order.
    series: Arc<[Arc<RuleSeries>]>,
    /// Indexed by [`BackendId`]: those of the backends' Services.
    services: Arc<[Arc<ServiceSeries>]>,
    session_key: SessionKey,
    tls: ServerConfigs,
    /// By the position of the backend.
    client_tls: ClientConfigs,
    /// By the [`RuleId`] of the version before: the rule of the same name in this one. Empty where `series` are the same.
    renumbered: Box<[Option<RuleId>]>,
}

impl Live {
    /// The routing data.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The balancers, with the live numbers of all endpoints.
    #[must_use]
    pub fn balancers(&self) -> &Balancers {
        &self.balancers
    }

    /// The number of this version; 0 before the first publication.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What active checks ask, each pair of backend and check once, sorted by backend.
    ///
    /// Linear in the number of rules.
    #[must_use]
    pub fn checked_endpoints(&self) -> Vec<(&Backend, &Arc<CheckedEndpoints>, Option<&Arc<ClientTls>>)> {
        let rules = (0..).map(RuleId).zip(self.snapshot.rules.iter()).filter(|(_, rule)| rule.health_check().is_some());
        let of_rules = rules.filter_map(|(id, rule)| Some((rule, self.balancers.rule(id)?)));
        let mut found: Vec<(BackendId, &Arc<CheckedEndpoints>)> = of_rules
            .flat_map(|(rule, targets)| targets.checked().map(move |(at, checked)| (rule, at, checked)))
            .filter_map(|(rule, at, checked)| Some((rule.backend_refs.get(at)?.backend?, checked)))
            .collect();
        found.sort_unstable_by_key(|(backend, checked)| (*backend, Arc::as_ptr(checked).addr()));
        found.dedup_by_key(|(_, checked)| Arc::as_ptr(checked).addr());
        let with_tls = |(id, checked): (BackendId, _)| Some((self.snapshot.backend(id)?, checked, self.client_tls(id)));
        found.into_iter().filter_map(with_tls).collect()
    }

    /// The settings of handshakes with the endpoints of a backend; `None` for clear text.
    #[inline]
    #[must_use]
    pub fn client_tls(&self, backend: BackendId) -> Option<&Arc<ClientTls>> {
        self.client_tls.get(backend.index())
    }

    /// The states of all filters that keep something beyond a request, with their keys, each once.
    #[must_use]
    pub fn filter_states(&self) -> Vec<(&Arc<StateKey>, &Arc<FilterState>)> {
        self.filter_states.all(&self.snapshot)
    }

    /// The keys that filters have fetched, each once, with the shortest time that one of them uses a set.
    #[must_use]
    pub fn remote_keys(&self) -> Vec<(&Arc<RemoteKeys>, Duration)> {
        self.filter_states.remote_keys(&self.snapshot)
    }

    fn objects(&self) -> ConfigObjects {
        ConfigObjects {
            routes: self.snapshot.routes.len(),
            rules: self.snapshot.rules.len(),
            backends: self.snapshot.backends.len(),
            endpoints: self.snapshot.backends.iter().map(|backend| backend.endpoints.len()).sum(),
        }
    }

    /// Builds the next version from this one.
    fn next(
        &self,
        snapshot: Snapshot,
        (endpoints, states): (&mut EndpointRegistry, &mut StateRegistry),
        (tls, client_tls): (&TlsFactory, &ClientTlsFactory),
        metrics: &Metrics,
        now: Duration,
    ) -> Self {
        let unchanged = same_names(&self.snapshot, &snapshot);
        let before = if unchanged { Vec::new() } else { snapshot.rules_before(&self.snapshot) };
        let rule_before =
            |rule: RuleId| if unchanged { Some(rule) } else { before.get(rule.index()).copied().flatten() };
        let previous = Previous { snapshot: &self.snapshot, balancers: &self.balancers, rule: &rule_before };
        let balancers = endpoints.build(&snapshot, Some(previous), now);
        let series = if unchanged { Arc::clone(&self.series) } else { self.series_of(&snapshot, &before, metrics) };
        let mut renumbered = vec![None; if unchanged { 0 } else { self.snapshot.rules.len() }];
        for (new, old) in (0..).map(RuleId).zip(&before) {
            if let Some(old) = old {
                renumbered[old.index()] = Some(new);
            }
        }
        let services = self.services_of(&snapshot, metrics);
        let filter_states = match Arc::ptr_eq(&self.snapshot.rules, &snapshot.rules) {
            true => Arc::clone(&self.filter_states),
            false => Arc::new(states.build(&snapshot)),
        };
        let session_key = endpoints.session_key().clone();
        let tls = tls.build(&snapshot.tls, &self.tls);
        let client_tls = client_tls.build(&snapshot.backends, &self.client_tls);
        let (version, renumbered) = (self.version + 1, renumbered.into());
        Self { version, snapshot, balancers, filter_states, series, services, session_key, tls, client_tls, renumbered }
    }

    /// The series of the rules of the next snapshot, of which `before` says the rules of this one.
    fn series_of(&self, snapshot: &Snapshot, before: &[Option<RuleId>], metrics: &Metrics) -> Arc<[Arc<RuleSeries>]> {
        let mut is_kept = vec![false; self.snapshot.rules.len()];
        before.iter().flatten().for_each(|id| is_kept[id.index()] = true);
        let gone = labels(&self.snapshot).zip(is_kept).filter(|(_, is_kept)| !is_kept).map(|((label, _), _)| label);
        let new = labels(snapshot).zip(before).filter(|(_, before)| before.is_none()).map(|((label, _), _)| label);
        // The names of all rules of each route of which some came or went.
        let mut changed: BTreeMap<&Arc<str>, Vec<&Arc<str>>> =
            gone.chain(new).map(|label| (label, Vec::new())).collect();
        for (label, rule) in labels(snapshot) {
            if let Some(rules) = changed.get_mut(label) {
                rules.push(rule);
            }
        }
        let series = metrics.update_rules(&changed);
        let names = changed.keys().map(|label| &***label);
        let mut series: BTreeMap<&str, _> = names.zip(series.into_iter().map(Vec::into_iter)).collect();
        let of_rule = |((label, _), before): ((&Arc<str>, _), &Option<RuleId>)| match series.get_mut(&**label) {
            Some(of_route) => of_route.next(),
            None => before.and_then(|id| self.series.get(id.index()).cloned()),
        };
        let all = labels(snapshot).zip(before).map(of_rule);
        all.map(|series| series.expect("a rule is an old one or belongs to a changed route")).collect()
    }

    /// The series of the Services of the next snapshot.
    fn services_of(&self, snapshot: &Snapshot, metrics: &Metrics) -> Arc<[Arc<ServiceSeries>]> {
        if services(&self.snapshot).eq(services(snapshot)) {
            return Arc::clone(&self.services);
        }
        let mut at = 0;
        let mut old = by_service(&self.snapshot).map(|(service, count)| {
            at += count;
            (service, at - count)
        });
        let mut next = old.next();
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        let mut found: Vec<(Option<usize>, usize)> = Vec::with_capacity(snapshot.backends.len());
        for (service, count) in by_service(snapshot) {
            while let Some((other, _)) = next.filter(|(other, _)| *other != service && *other < service) {
                gone.push(other);
                next = old.next();
            }
            let before = next.filter(|(other, _)| *other == service).map(|(_, at)| at);
            match before {
                Some(_) => next = old.next(),
                None => new.push(service),
            }
            found.push((before, count));
        }
        gone.extend(next.into_iter().chain(old).map(|(service, _)| service));
        let label = |service: &ObjectName| Arc::from(service.to_string());
        let new = metrics.update_services(gone.into_iter().map(label), new.into_iter().map(label));
        let mut new = new.into_iter();
        let of_service = |(before, count): (Option<usize>, usize)| {
            let series = match before {
                Some(at) => self.services.get(at).cloned(),
                None => new.next(),
            };
            std::iter::repeat_n(series.expect("every Service has its series"), count)
        };
        found.into_iter().flat_map(of_service).collect()
    }
}

/// Label of its route and name of each rule.
fn labels(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
    static NONE: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| Arc::from(""));
    snapshot.rules.iter().map(|rule| (snapshot.route(rule.route).map_or(&*NONE, |route| &route.label), &rule.name))
}

/// The Service of each backend.
fn services(snapshot: &Snapshot) -> impl Iterator<Item = &ObjectName> {
    snapshot.backends.iter().map(|backend| &backend.key.service)
}

/// Each Service, and how many backends it has.
fn by_service(snapshot: &Snapshot) -> impl Iterator<Item = (&ObjectName, usize)> {
    let of_services = snapshot.backends.chunk_by(|one, other| one.key.service == other.key.service);
    of_services.filter_map(|backends| Some((&backends.first()?.key.service, backends.len())))
}

/// Tells whether two snapshots have the same rules by name, in the same order.
fn same_names(one: &Snapshot, other: &Snapshot) -> bool {
    // A label belongs to a route: those of the same list are the same.
    if Arc::ptr_eq(&one.rules, &other.rules) && Arc::ptr_eq(&one.routes, &other.routes) {
        return true;
    }
    one.rules.len() == other.rules.len() && labels(one).eq(labels(other))
}

/// The control half's end: the only one that publishes.
#[derive(Debug)]
pub struct Publisher {
    pointer: watch::Sender<Arc<Live>>,
    endpoints: EndpointRegistry,
    states: StateRegistry,
    tls: TlsFactory,
    client_tls: ClientTlsFactory,
    metrics: Arc<Metrics>,
    /// The instant that endpoints count the time from.
    epoch: Instant,
    /// What workers gave back; `None` once a [`Reaper`] has it.
    returned: Option<mpsc::UnboundedReceiver<Arc<Live>>>,
}

impl Publisher {
    /// Sets what all filters may take together, before the first version: what filters remember begins anew.
    pub fn bound_filters(&mut self, bounds: FilterBounds) {
        self.states = StateRegistry::bounded(self.metrics.workers(), bounds);
    }

    /// Publishes a snapshot and returns its version: 1 for the first, then one more each time.
    ///
    /// A new request of any worker sees it at once; requests that run go on with what they began with.
    pub fn publish(&mut self, snapshot: Snapshot) -> u64 {
        let current = Arc::clone(&self.pointer.borrow());
        let next = Arc::new(current.next(
            snapshot,
            (&mut self.endpoints, &mut self.states),
            (&self.tls, &self.client_tls),
            &self.metrics,
            self.epoch.elapsed(),
        ));
        let version = next.version();
        let objects = next.objects();
        drop(current);
        // The version before is dropped here, unless a worker has it: then it comes back.
        drop(self.pointer.send_replace(next));
        self.metrics.set_config(version, objects);
        if let Some(returned) = &mut self.returned {
            while let Ok(live) = returned.try_recv() {
                drop(live);
            }
        }
        version
    }

    /// Makes the ids of sessions with a key of these bytes; to be called before the first publication.
    pub fn use_session_key(&mut self, key: &[u8]) {
        self.endpoints.set_session_key(SessionKey::new(key));
    }

    /// A way to look at the active version, for admin.
    #[must_use]
    pub fn view(&self) -> LiveView {
        LiveView { pointer: self.pointer.subscribe() }
    }

    /// What drops the versions that workers give back, as soon as they do; `None` from the second call on. Without it,
    /// they are dropped at the next publication.
    pub fn reaper(&mut self) -> Option<Reaper> {
        self.returned.take().map(|returned| Reaper { returned })
    }
}

/// Drops the versions that workers give back.
#[derive(Debug)]
pub struct Reaper {
    returned: mpsc::UnboundedReceiver<Arc<Live>>,
}

impl Reaper {
    /// Runs until the publisher and all workers are gone; belongs in a task of the control half. May be cancelled.
    pub async fn run(mut self) {
        while let Some(live) = self.returned.recv().await {
            drop(live);
        }
    }
}

/// Shows the control half the active version.
#[derive(Clone, Debug)]
pub struct LiveView {
    pointer: watch::Receiver<Arc<Live>>,
}

impl LiveView {
    /// The active version; version 0, without routes, before the first publication.
    #[must_use]
    pub fn current(&self) -> Arc<Live> {
        Arc::clone(&self.pointer.borrow())
    }

    /// Waits until a version of at least this number is active.
    ///
    /// # Errors
    /// When the publisher is gone before that.
    pub async fn reached(&mut self, version: u64) -> Result<(), PublisherGone> {
        self.pointer.wait_for(|live| live.version() >= version).await.map(drop).map_err(|_| PublisherGone)
    }
}

/// The publisher was dropped: nothing will be published any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is published any more")]
pub struct PublisherGone;

/// A worker's end on its way to the worker's thread.
#[derive(Debug)]
pub struct Feed {
    worker: usize,
    pointer: watch::Receiver<Arc<Live>>,
    returns: mpsc::UnboundedSender<Arc<Live>>,
}

impl Feed {
    /// Becomes the worker's cache, in its thread. `start` shifts the first picks of the balancers that go round, so that
    /// workers and replicas do not all begin with the same endpoint: a random number in production, 0 in tests.
    #[must_use]
    pub fn into_cache(mut self, start: u32) -> LiveCache {
        let live = Arc::clone(&self.pointer.borrow_and_update());
        let loan = Loan { live: Some(live), returns: self.returns.clone() };
        let current = Rc::new(WorkerLive::new(self.worker, loan, start, None));
        LiveCache { cached: RefCell::new(Cached { pointer: self.pointer, current }), returns: self.returns, start }
    }
}

/// A worker's cached pointer to the active version.
#[derive(Debug)]
pub struct LiveCache {
    cached: RefCell<Cached>,
    returns: mpsc::UnboundedSender<Arc<Live>>,
    start: u32,
}

#[derive(Debug)]
struct Cached {
    pointer: watch::Receiver<Arc<Live>>,
    current: Rc<WorkerLive>,
}

impl LiveCache {
    /// The active version: version 0, without routes, before the first publication.
    ///
    /// One atomic load when nothing changed. Hold the result for one request, not for a connection.
    #[must_use]
    pub fn current(&self) -> Rc<WorkerLive> {
        let mut cached = self.cached.borrow_mut();
        // An error says that the publisher is gone: what it published last may still be unseen.
        if cached.pointer.has_changed().unwrap_or(true) {
            let live = Arc::clone(&cached.pointer.borrow_and_update());
            if !Arc::ptr_eq(&live, cached.current.live()) {
                let loan = Loan { live: Some(live), returns: self.returns.clone() };
                let old = &cached.current;
                cached.current = Rc::new(WorkerLive::new(old.worker, loan, self.start, Some(old)));
            }
        }
        Rc::clone(&cached.current)
    }

    /// Takes over each version as it comes, until the publisher is gone.
    ///
    /// For a local task of the worker: without it a worker without requests would keep an old version in memory. May be
    /// cancelled.
    pub async fn follow(&self) {
        let mut pointer = self.cached.borrow().pointer.clone();
        while pointer.changed().await.is_ok() {
            drop(self.current());
        }
    }
}

/// A version that goes back to the control half when the worker is done with it.
#[derive(Debug)]
struct Loan {
    /// `None` only while it is dropped.
    live: Option<Arc<Live>>,
    returns: mpsc::UnboundedSender<Arc<Live>>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            // Bounded by the versions that requests hold. Without a receiver the process is ending: dropped here.
            let _ = self.returns.send(live);
        }
    }
}

/// One version as one worker sees it: shared data beside the worker's own cursors and counters.
#[derive(Debug)]
pub struct WorkerLive {
    worker: usize,
    loan: Loan,
    start: u32,
    /// Cursors and current weights, indexed by [`RuleId`]; made with the first pick of a rule.
    rules: Box<[OnceCell<Rc<RuleState>>]>,
    /// The rules that have some.
    touched: RefCell<Vec<RuleId>>,
    /// Retry budgets of backends; made with the first request of a rule that has such a policy.
    retry_budgets: RefCell<FxHashMap<BackendId, Rc<RetryBudget>>>,
}

impl WorkerLive {
    fn new(worker: usize, loan: Loan, start: u32, old: Option<&WorkerLive>) -> Self {
        let count = loan.live.as_ref().map_or(0, |live| live.balancers.len());
        let new = Self {
            worker,
            loan,
            start,
            rules: (0..count).map(|_| OnceCell::new()).collect(),
            touched: RefCell::default(),
            retry_budgets: RefCell::default(),
        };
        if let Some(old) = old {
            new.carry(old);
        }
        new
    }

    /// Takes over the cursors of all rules that are still there. Those of an unchanged rule are shared with requests
    /// that still run on the old version.
    fn carry(&self, old: &WorkerLive) {
        let same = Arc::ptr_eq(&self.live().series, &old.live().series);
        let is_next = old.version() + 1 == self.version();
        for &before in old.touched.borrow().iter() {
            let rule = match (same, is_next) {
                (true, _) => Some(before),
                (false, true) => self.live().renumbered.get(before.index()).copied().flatten(),
                (false, false) => self.live().snapshot.same_rule(&old.live().snapshot, before),
            };
            let Some(rule) = rule else { continue };
            let targets = self.live().balancers.rule(rule);
            let state = old.rules.get(before.index()).and_then(OnceCell::get);
            let (Some(targets), Some(state), Some(slot)) = (targets, state, self.rules.get(rule.index())) else {
                continue;
            };
            let state = if Arc::ptr_eq(state.targets(), targets) {
                Rc::clone(state)
            } else {
                Rc::new(state.update(Arc::clone(targets), self.start))
            };
            // Names are unique, so the slot is empty.
            if slot.set(state).is_ok() {
                self.touched.borrow_mut().push(rule);
            }
        }
        let backends = &self.live().snapshot.backends;
        for (&before, budget) in old.retry_budgets.borrow().iter() {
            let key = old.snapshot().backend(before).map(|backend| &backend.key);
            // They are sorted by key.
            let now = key.and_then(|key| backends.binary_search_by(|backend| backend.key.cmp(key)).ok());
            if let Some(id) = now.and_then(|index| u32::try_from(index).ok()) {
                self.retry_budgets.borrow_mut().insert(BackendId(id), Rc::clone(budget));
            }
        }
    }

    fn live(&self) -> &Arc<Live> {
        self.loan.live.as_ref().expect("taken out only by drop")
    }

    /// The routing data.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.live().snapshot
    }

    /// The settings of handshakes with clients.
    #[must_use]
    pub fn tls(&self) -> &ServerConfigs {
        &self.live().tls
    }

    /// The settings of handshakes with the endpoints of a backend; `None` for clear text.
    #[inline]
    #[must_use]
    pub fn client_tls(&self, backend: BackendId) -> Option<&Arc<ClientTls>> {
        self.live().client_tls(backend)
    }

    /// The number of this version; 0 before the first publication.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.live().version()
    }

    /// The worker.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// What the filters of a rule, or of one of its backendRefs, keep beyond a request, by position.
    #[must_use]
    pub fn filter_states(&self, rule: RuleId, backend_ref: Option<usize>) -> &[Option<Arc<FilterState>>] {
        self.live().filter_states.of(rule, backend_ref)
    }

    /// Chooses an endpoint for a request of a rule of this snapshot; `now` as in [`crate::balance`].
    ///
    /// Takes no lock, and allocates only with a rule's first pick on this worker.
    pub fn pick(&self, rule: RuleId, request: &PickRequest<'_>, now: Duration, rng: &mut fastrand::Rng) -> Pick {
        match self.state(rule) {
            Some((state, rule)) => state.pick(rule, request, now, rng),
            None => Pick::NoBackend,
        }
    }

    /// As [`pick`](Self::pick), but of one reference of the rule, by its position, whatever the split says.
    pub fn pick_of(
        &self,
        (rule, backend_ref): (RuleId, usize),
        request: &PickRequest<'_>,
        now: Duration,
        rng: &mut fastrand::Rng,
    ) -> Pick {
        match self.state(rule) {
            Some((state, rule)) => state.pick_of(backend_ref, rule, request, now, rng),
            None => Pick::NoBackend,
        }
    }

    /// The endpoint that a session of a rule of this snapshot belongs to, see [`RuleState::pinned`].
    #[must_use]
    pub fn pinned(
        &self,
        rule: RuleId,
        id: SessionId,
        only: Option<usize>,
        request: &PickRequest<'_>,
        now: Duration,
    ) -> Option<Picked> {
        let (state, rule) = self.state(rule)?;
        state.pinned((id, only), rule, request, now)
    }

    /// The endpoints of a backend by the ids that sessions know them by; `None` where no rule with sessions leads to it.
    #[must_use]
    pub fn sessions_of(&self, backend: BackendId) -> Option<&SessionIndex> {
        self.live().balancers.backends().get(backend.index())?.sessions.as_deref()
    }

    /// What the values of sessions are signed with.
    #[must_use]
    pub fn session_key(&self) -> &SessionKey {
        &self.live().session_key
    }

    /// This worker's balancers of a rule, made with its first pick, and the rule.
    #[inline]
    fn state(&self, rule: RuleId) -> Option<(&RuleState, &Rule)> {
        let live = self.live();
        let slot = self.rules.get(rule.index())?;
        let data = live.snapshot.rule(rule)?;
        let state = match slot.get() {
            Some(state) => state,
            None => {
                let targets = live.balancers.rule(rule)?;
                self.touched.borrow_mut().push(rule);
                slot.get_or_init(|| Rc::new(RuleState::new(Arc::clone(targets), self.start)))
            }
        };
        Some((state, data))
    }

    /// Counts an answered request of a rule of this snapshot, and its time from the first byte of its head to the last
    /// of the answer. Allocates only with a rule's first request on this worker.
    pub fn record(&self, rule: RuleId, method: &http::Method, status: u16, elapsed: Duration) {
        if let Some(series) = self.live().series.get(rule.index()) {
            series.record(self.worker, method, status, elapsed);
        }
    }

    /// Counts the code that a gRPC call of a rule ended with.
    pub fn record_call(&self, rule: RuleId, code: GrpcCode) {
        if let Some(series) = self.live().series.get(rule.index()) {
            series.record_call(self.worker, code);
        }
    }

    /// This worker's part of a backend's retry budget; `None` for a backend that this version does not have. Allocates
    /// only with the first call for a backend.
    pub fn retry_budget(&self, backend: BackendId) -> Option<Rc<RetryBudget>> {
        let budgets = &mut *self.retry_budgets.borrow_mut();
        if let Some(known) = budgets.get(&backend) {
            return Some(Rc::clone(known));
        }
        let shared = &self.live().balancers.backends().get(backend.index())?.shared;
        let budget = Rc::new(RetryBudget::new(Arc::clone(shared)));
        budgets.insert(backend, Rc::clone(&budget));
        Some(budget)
    }

    /// The endpoints of a backend of this snapshot.
    #[must_use]
    pub fn endpoints_of(&self, backend: BackendId) -> Option<&BackendEndpoints> {
        self.live().balancers.backends().get(backend.index()).map(|endpoints| &**endpoints)
    }

    /// Counts an answered request for which this backend was chosen.
    pub fn record_backend(&self, backend: BackendId, status: u16) {
        if let Some(series) = self.live().services.get(backend.index()) {
            series.record(self.worker, status);
        }
    }
}

/// Makes the pointer's two ends: one publisher, and a feed for each of `workers` workers. `metrics` must know as many.
/// `epoch` is the instant that all workers count the time of endpoints from.
#[must_use]
pub fn channel(workers: usize, metrics: Arc<Metrics>, epoch: Instant) -> (Publisher, Vec<Feed>) {
    let (pointer, receiver) = watch::channel(Arc::new(Live::default()));
    let (returns, returned) = mpsc::unbounded_channel();
    let feeds =
        (0..workers).map(|worker| Feed { worker, pointer: receiver.clone(), returns: returns.clone() }).collect();
    let (endpoints, states) = (EndpointRegistry::default(), StateRegistry::new(workers));
    let (tls, client_tls) = (TlsFactory::default(), ClientTlsFactory::default());
    (Publisher { pointer, endpoints, states, tls, client_tls, metrics, epoch, returned: Some(returned) }, feeds)
}
