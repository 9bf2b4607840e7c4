//! The Secrets that routes and listeners name, and no others: followed only where somebody asks for them and the rights
//! allow it.
//!
//! Stands behind the index: it takes each of its states, adds the Secrets that this state names, and hands it on. Secrets
//! are never kept in files. Of a namespace with few names each is watched by itself, so that a role for these names is
//! enough; with more, one watch has all of the namespace that hold certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::again::again_after_panics;
use super::follow::{Follower, Teller, Timing, Watch};
use super::index::{Change, Event};
use super::object::Namespaces;
use crate::compile::certificates::secrets_named;
use crate::compile::inputs::Inputs;
use crate::kinds::secret::{NoPair, Problem, Secret, TLS_TYPE};
use crate::kinds::{KindId, Map, Object, Sourced};
use crate::model::ids::ObjectName;
use crate::source::update::Update;
use crate::telemetry::metrics::{Metrics, WatchCells};

/// So many names of one namespace are watched one by one.
const ONE_BY_ONE: usize = 4;

/// How long a state waits for Secrets that were not named before, so that it is not served without them for a moment.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same for the first state: nobody is served before it.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// Changes that wait; more make the watches wait.
const WAITING: usize = 64;

/// What one watch is about: a namespace, and one name in it or all that hold certificates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scope {
    namespace: Arc<str>,
    name: Option<Arc<str>>,
}

impl Scope {
    fn selector(&self) -> String {
        match &self.name {
            Some(name) => format!("metadata.name={name}"),
            None => format!("type={TLS_TYPE}"),
        }
    }

    fn has(&self, name: &ObjectName) -> bool {
        name.namespace == self.namespace && self.name.as_ref().is_none_or(|own| *own == name.name)
    }
}

/// A watch that runs.
struct Running {
    number: usize,
    task: AbortHandle,
    /// It has said what there is, or that it may not.
    has_answered: bool,
    /// Why it may not read; what the API server says.
    refused: Option<String>,
    /// Names of a list that is not whole yet.
    replay: Option<BTreeSet<ObjectName>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What watches need.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) client: Client,
    pub(super) timing: Timing,
    pub(super) metrics: Arc<Metrics>,
    /// The role that lets a namespace's certificates be read, for the line that operators are told.
    pub(super) role: String,
}

struct Secrets {
    means: Means,
    cells: Arc<WatchCells>,
    sender: mpsc::Sender<Change>,
    numbers: usize,
    running: BTreeMap<Scope, Running>,
    wanted: BTreeSet<ObjectName>,
    known: BTreeMap<ObjectName, Arc<Secret>>,
    /// As handed on last; shared between states that do not differ in it.
    map: Map<Secret>,
}

/// Adds the Secrets that each state names, for as long as there are states.
pub(super) async fn follow(mut states: watch::Receiver<Update>, means: Means) -> watch::Receiver<Update> {
    let (sender, mut changes) = mpsc::channel(WAITING);
    let cells = means.metrics.watch(KindId::Secret.name());
    cells.set_available(true);
    let mut secrets = Secrets {
        means,
        cells,
        sender,
        numbers: 0,
        running: BTreeMap::new(),
        wanted: BTreeSet::new(),
        known: BTreeMap::new(),
        map: Map::default(),
    };
    let mut state = states.borrow_and_update().clone();
    secrets.want(&state.inputs);
    secrets.wait(&mut changes, Instant::now() + FIRST_PATIENCE).await;
    let (out, updates) = watch::channel(secrets.complete(&state));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    state = states.borrow_and_update().clone();
                    secrets.want(&state.inputs);
                    secrets.wait(&mut changes, Instant::now() + PATIENCE).await;
                }
                Some(change) = changes.recv() => {
                    if !secrets.take(change) {
                        continue;
                    }
                }
            }
            if out.send(secrets.complete(&state)).is_err() {
                return;
            }
        }
    });
    updates
}

impl Secrets {
    /// Begins to watch what a state names, and ends what none of it needs.
    fn want(&mut self, inputs: &Inputs) {
        let wanted = secrets_named(inputs);
        if wanted == self.wanted {
            return;
        }
        self.wanted = wanted;
        self.known.retain(|name, _| self.wanted.contains(name));
        let mut scopes = BTreeSet::new();
        let names: Vec<&ObjectName> = self.wanted.iter().collect();
        for of_namespace in names.chunk_by(|one, other| one.namespace == other.namespace) {
            let namespace = &of_namespace[0].namespace;
            let is_refused = |running: &Running| running.refused.is_some();
            let all = Scope { namespace: Arc::clone(namespace), name: None };
            // Who may not read all may still read those that a role names.
            if of_namespace.len() > ONE_BY_ONE && !self.running.get(&all).is_some_and(is_refused) {
                scopes.insert(all);
            } else {
                let scope =
                    |name: &&ObjectName| Scope { namespace: Arc::clone(namespace), name: Some(Arc::clone(&name.name)) };
                scopes.extend(of_namespace.iter().map(scope));
            }
        }
        self.running.retain(|scope, _| scopes.contains(scope));
        for scope in scopes {
            if !self.running.contains_key(&scope) {
                let running = self.begin(&scope);
                self.running.insert(scope, running);
            }
        }
    }

    fn begin(&mut self, scope: &Scope) -> Running {
        self.numbers += 1;
        let (number, changes) = (self.numbers, self.sender.clone());
        let Means { client, timing, metrics, .. } = self.means.clone();
        let watch = Watch {
            kind: KindId::Secret,
            namespace: Some(scope.namespace.to_string()),
            selector: Some(scope.selector()),
        };
        let cells = Arc::clone(&self.cells);
        let task = tokio::spawn(again_after_panics(metrics, timing.longest_pause, move || {
            let namespaces = Namespaces::default();
            let teller = Teller { number, changes: changes.clone(), witness: None, journal: None, namespaces };
            Follower::new(watch.clone(), client.clone(), teller, Arc::clone(&cells), timing.clone()).run()
        }));
        Running { number, task: task.abort_handle(), has_answered: false, refused: None, replay: None }
    }

    /// Takes changes until every watch has answered, or until a moment.
    async fn wait(&mut self, changes: &mut mpsc::Receiver<Change>, until: Instant) {
        while self.running.values().any(|running| !running.has_answered) {
            match tokio::time::timeout_at(until, changes.recv()).await {
                Ok(Some(change)) => drop(self.take(change)),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Takes a change; whether the state is another one now.
    fn take(&mut self, Change { watch, event }: Change) -> bool {
        let Self { running, known, wanted, .. } = self;
        // What a watch has said that has ended since does not count.
        let of_watch = running.iter_mut().find(|(_, running)| running.number == watch);
        let Some((scope, running)) = of_watch else { return false };
        let mut put = |name: ObjectName, object: Result<Object, String>| {
            let Ok(Object::Secret(secret)) = object else { return false };
            if !wanted.contains(&name) || known.get(&name).is_some_and(|known| *known == secret) {
                return false;
            }
            known.insert(name, secret);
            true
        };
        let is_changed = match event {
            Event::Init => {
                running.replay = Some(BTreeSet::new());
                false
            }
            Event::InitApply(name, object) => {
                running.replay.get_or_insert_default().insert(name.clone());
                put(name, object)
            }
            Event::InitDone => {
                let is_first = !std::mem::replace(&mut running.has_answered, true);
                let listed = running.replay.take().unwrap_or_default();
                let before = known.len();
                known.retain(|name, _| !scope.has(name) || listed.contains(name));
                running.refused.take().is_some() || is_first || known.len() != before
            }
            Event::Apply(name, object) => put(name, object),
            Event::Delete(name) => known.remove(&name).is_some(),
            Event::Away => false,
            Event::Unavailable(says) => {
                let is_first = !std::mem::replace(&mut running.has_answered, true);
                running.refused.replace(says).is_none() || is_first
            }
        };
        self.cells.set_objects(self.known.len(), 0);
        is_changed
    }

    /// A state with its Secrets.
    fn complete(&mut self, state: &Update) -> Update {
        let mut secrets: BTreeMap<&ObjectName, Arc<Secret>> = BTreeMap::new();
        for name in &self.wanted {
            let refused = self.running.iter().filter(|(scope, _)| scope.has(name));
            let refused = refused.filter_map(|(_, running)| running.refused.as_deref()).next();
            let why = refused.map(|says| unreadable(says, &name.namespace, &self.means.role));
            match (self.known.get(name), why) {
                (Some(secret), None) => drop(secrets.insert(name, Arc::clone(secret))),
                (Some(secret), Some(why)) => {
                    let problem = secret.pair.is_ok().then_some(Problem::EarlierStays(why));
                    secrets.insert(
                        name,
                        Arc::new(Secret {
                            pair: secret.pair.clone(),
                            problem,
                            authorities: secret.authorities.clone(),
                        }),
                    );
                }
                (None, Some(why)) => {
                    let secret = Secret { pair: Err(NoPair::Unreadable(why)), problem: None, authorities: None };
                    secrets.insert(name, Arc::new(secret));
                }
                (None, None) => {}
            }
        }
        let is_same = self.map.len() == secrets.len()
            && self
                .map
                .iter()
                .zip(&secrets)
                .all(|((name, held), (other, secret))| name == *other && held.object == *secret);
        if !is_same {
            let sourced = |(name, object): (&ObjectName, _)| (name.clone(), Sourced { object, origin: None });
            self.map = secrets.into_iter().map(sourced).collect();
        }
        let mut update = state.clone();
        Arc::make_mut(&mut update.inputs).objects.secrets = self.map.clone();
        update
    }
}

/// What operators are told of a right that is missing, with the line that gives it.
fn unreadable(says: &str, namespace: &str, role: &str) -> Box<str> {
    // `secrets is forbidden: User "system:serviceaccount:NAMESPACE:NAME" cannot list resource …`
    let user = says.split_once("User \"").and_then(|(_, rest)| Some(rest.split_once('"')?.0));
    let account = user.and_then(|user| user.strip_prefix("system:serviceaccount:"));
    let subject = match (account, user) {
        (Some(account), _) => format!("--serviceaccount={account}"),
        (None, Some(user)) => format!("--user={user}"),
        (None, None) => "--serviceaccount=NAMESPACE:NAME".to_owned(),
    };
    format!(
        "tidegate may not read it; whoever owns the namespace allows that with: kubectl create rolebinding {role} \
         --namespace={namespace} --clusterrole={role} {subject}"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_right_is_told_with_the_line_that_gives_it() {
        let says =
            "secrets is forbidden: User \"system:serviceaccount:edge:tidegate\" cannot list resource \"secrets\"";
        let line = "kubectl create rolebinding certs --namespace=shop --clusterrole=certs \
                    --serviceaccount=edge:tidegate";
        assert!(unreadable(says, "shop", "certs").ends_with(line));
        assert!(unreadable("User \"admin\" cannot", "shop", "certs").ends_with("--user=admin"));
        assert!(unreadable("Forbidden", "shop", "certs").ends_with("--serviceaccount=NAMESPACE:NAME"));
    }
}
