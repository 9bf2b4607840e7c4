//! The Secrets and ConfigMaps that routes, listeners and policies name, and no others: followed only where somebody asks for
//! them and the rights allow it.
//!
//! Stands behind the index: it takes each of its states, adds the objects that this state names, and hands it on. They
//! are never kept in files. Each is watched by itself, so that a role for these names is enough; only where a namespace has
//! many, one watch has all of them: of certificates those of their type, of ConfigMaps every one. Where that may not be read, it
//! is each by itself again.

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
use super::rights::certificate_rights;
use crate::compile::inputs::Inputs;
use crate::compile::named::{NamedFor, objects_named};
use crate::kinds::config_map::ConfigMap;
use crate::kinds::secret::{Problem, Secret, TLS_TYPE};
use crate::kinds::{KindId, Map, Object, Sourced};
use crate::model::ids::ObjectName;
use crate::source::update::Update;
use crate::telemetry::metrics::{Metrics, WatchCells};
use crate::text::is_dns_subdomain;

/// How long a state waits for objects that were not named before, so that it is not served without them for a moment.
const PATIENCE: Duration = Duration::from_millis(500);

/// The same for the first state: nobody is served before it.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// Changes that wait; more make the watches wait.
const WAITING: usize = 64;

/// How many names of one namespace are watched one by one; `None`: always.
const fn most_one_by_one(named_for: NamedFor) -> Option<usize> {
    match named_for {
        NamedFor::Certificate => Some(4),
        // With one watch, all that they hold is sent here.
        NamedFor::ConfigMap => Some(16),
        // No selector finds them, and all Secrets of a namespace are too much to ask for.
        NamedFor::AuthoritySecret | NamedFor::CredentialSecret => None,
    }
}

/// How many are watched one by one where all of them together may not be read. Without any right, each asks every few seconds.
const MOST_WHERE_REFUSED: usize = 64;

/// An object, and what it is named for: one that is named for two things is followed twice.
type Named = (NamedFor, ObjectName);

/// What one watch is about: a namespace, and one name in it or all objects of that sort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scope {
    named_for: NamedFor,
    namespace: Arc<str>,
    name: Option<Arc<str>>,
}

impl Scope {
    fn selector(&self) -> Option<String> {
        match (&self.name, self.named_for) {
            (Some(name), _) => Some(format!("metadata.name={name}")),
            (None, NamedFor::Certificate) => Some(format!("type={TLS_TYPE}")),
            (None, NamedFor::ConfigMap | NamedFor::AuthoritySecret | NamedFor::CredentialSecret) => None,
        }
    }

    fn has(&self, (named_for, name): &Named) -> bool {
        *named_for == self.named_for
            && name.namespace == self.namespace
            && self.name.as_ref().is_none_or(|own| *own == name.name)
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
    /// The ClusterRole that lets a namespace's certificates, authorities and credentials be read, for the line that operators
    /// are told; `None`: there is none.
    pub(super) role: Option<String>,
}

/// The kinds that are followed by name.
const KINDS: [KindId; 2] = [KindId::Secret, KindId::ConfigMap];

struct Followed {
    means: Means,
    cells: BTreeMap<KindId, Arc<WatchCells>>,
    sender: mpsc::Sender<Change>,
    numbers: usize,
    running: BTreeMap<Scope, Running>,
    /// Where all of a namespace may not be read, for as long as something of it is named.
    refused_together: BTreeSet<Scope>,
    wanted: BTreeSet<Named>,
    known: BTreeMap<Named, Object>,
    /// As handed on last; shared between states that do not differ in them.
    secrets: Map<Secret>,
    config_maps: Map<ConfigMap>,
}

/// Adds the objects that each state names, for as long as there are states.
pub(super) async fn follow(mut states: watch::Receiver<Update>, means: Means) -> watch::Receiver<Update> {
    let (sender, mut changes) = mpsc::channel(WAITING);
    let mut followed = Followed::new(means, sender);
    let mut state = states.borrow_and_update().clone();
    let new = followed.want(&state.inputs);
    followed.wait(&mut changes, new, Instant::now() + FIRST_PATIENCE).await;
    let (out, updates) = watch::channel(followed.complete(&state));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = states.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    state = states.borrow_and_update().clone();
                    let new = followed.want(&state.inputs);
                    followed.wait(&mut changes, new, Instant::now() + PATIENCE).await;
                }
                Some(change) = changes.recv() => {
                    if !followed.take(change) {
                        continue;
                    }
                }
            }
            if out.send(followed.complete(&state)).is_err() {
                return;
            }
        }
    });
    updates
}

impl Followed {
    /// Follows nothing yet.
    fn new(means: Means, sender: mpsc::Sender<Change>) -> Self {
        let cells = KINDS.map(|kind| (kind, means.metrics.watch(kind.name())));
        Self {
            means,
            cells: cells.into(),
            sender,
            numbers: 0,
            running: BTreeMap::new(),
            refused_together: BTreeSet::new(),
            wanted: BTreeSet::new(),
            known: BTreeMap::new(),
            secrets: Map::default(),
            config_maps: Map::default(),
        }
    }

    /// Begins to watch what a state names, and ends what none of it needs. Watches that begin now have numbers above the one
    /// that is given back.
    fn want(&mut self, inputs: &Inputs) -> usize {
        let before = self.numbers;
        let mut wanted = objects_named(inputs);
        // The API server would refuse to look for a name that no object can have.
        wanted.retain(|(_, name)| is_dns_subdomain(&name.name));
        if wanted == self.wanted {
            return before;
        }
        self.wanted = wanted;
        self.known.retain(|name, _| self.wanted.contains(name));
        self.refused_together.retain(|scope| self.wanted.iter().any(|named| scope.has(named)));
        self.watch_scopes();
        before
    }

    /// Begins and ends watches, so that they are those of what is wanted.
    fn watch_scopes(&mut self) {
        let scopes = self.scopes();
        self.running.retain(|scope, _| scopes.contains(scope));
        for scope in scopes {
            if !self.running.contains_key(&scope) {
                let running = self.begin(&scope);
                self.running.insert(scope, running);
            }
        }
    }

    /// What has to be watched.
    fn scopes(&self) -> BTreeSet<Scope> {
        let mut scopes = BTreeSet::new();
        let names: Vec<&Named> = self.wanted.iter().collect();
        let is_together = |one: &&Named, other: &&Named| one.0 == other.0 && one.1.namespace == other.1.namespace;
        for together in names.chunk_by(is_together) {
            let (named_for, ObjectName { namespace, .. }) = together[0];
            let scope = |name| Scope { named_for: *named_for, namespace: Arc::clone(namespace), name };
            let all = scope(None);
            // Who may not read all may still read those that a role names.
            let is_refused = self.refused_together.contains(&all) && together.len() <= MOST_WHERE_REFUSED;
            let are_many = most_one_by_one(*named_for).is_some_and(|most| together.len() > most);
            if are_many && !is_refused {
                scopes.insert(all);
            } else {
                scopes.extend(together.iter().map(|(_, name)| scope(Some(Arc::clone(&name.name)))));
            }
        }
        scopes
    }

    fn begin(&mut self, scope: &Scope) -> Running {
        self.numbers += 1;
        let (number, changes) = (self.numbers, self.sender.clone());
        let Means { client, timing, metrics, .. } = self.means.clone();
        let kind = scope.named_for.kind();
        let watch = Watch::new(kind, Some(scope.namespace.to_string()), scope.selector());
        let cells = self.cells.get(&kind).expect("there are cells of every kind that is followed by name");
        let cells = Arc::clone(cells);
        let task = tokio::spawn(again_after_panics(metrics, timing.longest_pause, move || {
            let namespaces = Namespaces::default();
            let teller = Teller { number, changes: changes.clone(), witness: None, journal: None, namespaces };
            Follower::new(watch.clone(), client.clone(), teller, Arc::clone(&cells), timing.clone()).run()
        }));
        Running { number, task: task.abort_handle(), has_answered: false, refused: None, replay: None }
    }

    /// Takes changes until every watch with a number above `before` has answered, or until a moment. Nobody waits twice for
    /// one: an object that cannot be read at all must not hold up the changes of all others.
    async fn wait(&mut self, changes: &mut mpsc::Receiver<Change>, before: usize, until: Instant) {
        while self.running.values().any(|running| running.number > before && !running.has_answered) {
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
            let (name, Ok(object)) = ((scope.named_for, name), object) else { return false };
            if !wanted.contains(&name) || known.get(&name).is_some_and(|known| *known == object) {
                return false;
            }
            known.insert(name, object);
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
                known.retain(|name, _| !scope.has(name) || listed.contains(&name.1));
                running.refused.take().is_some() || is_first || known.len() != before
            }
            Event::Apply(name, object) => put(name, object),
            Event::Delete(name) => known.remove(&(scope.named_for, name)).is_some(),
            // Every API server serves what is read by name.
            Event::Away | Event::Selected | Event::Unwanted | Event::OwnZone(_) | Event::NotServed => false,
            Event::Forbidden(says) => {
                let is_first = !std::mem::replace(&mut running.has_answered, true);
                let is_news = running.refused.replace(says).is_none() || is_first;
                let is_together = scope.name.is_none() && self.refused_together.insert(scope.clone());
                if is_together {
                    self.watch_scopes();
                }
                // What is asked for by its name now has not been refused yet.
                is_news && self.running.values().any(|running| running.number == watch)
            }
        };
        for (kind, cells) in &self.cells {
            cells.set_objects(self.known.keys().filter(|(named_for, _)| named_for.kind() == *kind).count(), 0);
        }
        is_changed
    }

    /// A state with the objects that it names.
    fn complete(&mut self, state: &Update) -> Update {
        let mut secrets: BTreeMap<ObjectName, Arc<Secret>> = BTreeMap::new();
        let mut config_maps: BTreeMap<ObjectName, Arc<ConfigMap>> = BTreeMap::new();
        for named @ (named_for, name) in &self.wanted {
            let watches = self.running.iter().filter(|(scope, _)| scope.has(named));
            let refused = watches.filter_map(|(_, running)| running.refused.as_deref()).next();
            let why = refused.map(|says| unreadable(says, &name.namespace, self.means.role.as_deref()));
            match (named_for.kind(), self.known.get(named)) {
                (_, Some(Object::Secret(secret))) => {
                    // One that is named for two things is the same for both.
                    secrets.insert(name.clone(), kept_secret(secret, why));
                }
                (_, Some(Object::ConfigMap(config_map))) => {
                    config_maps.insert(name.clone(), kept_config_map(config_map, why));
                }
                (KindId::Secret, _) => {
                    if let Some(why) = why {
                        secrets.entry(name.clone()).or_insert_with(|| Arc::new(Secret::unreadable(why)));
                    }
                }
                (_, _) => {
                    let missing = |why| ConfigMap::unreadable(why);
                    config_maps.extend(why.map(|why| (name.clone(), Arc::new(missing(why)))));
                }
            }
        }
        replace_where_other(&mut self.secrets, secrets);
        replace_where_other(&mut self.config_maps, config_maps);
        let mut update = state.clone();
        let objects = &mut Arc::make_mut(&mut update.inputs).objects;
        objects.secrets = self.secrets.clone();
        objects.config_maps = self.config_maps.clone();
        update
    }
}

/// A Secret that was read, and why it may not be read any more, if it may not.
fn kept_secret(secret: &Arc<Secret>, why: Option<Box<str>>) -> Arc<Secret> {
    match why {
        None => Arc::clone(secret),
        Some(why) => {
            let problem = Some(Problem::EarlierStays(why));
            Arc::new(Secret { problem, ..Secret::clone(secret) })
        }
    }
}

/// The same for a ConfigMap.
fn kept_config_map(config_map: &Arc<ConfigMap>, why: Option<Box<str>>) -> Arc<ConfigMap> {
    match why {
        None => Arc::clone(config_map),
        Some(why) => Arc::new(ConfigMap::clone(config_map).kept(why)),
    }
}

/// Puts objects in the place of a map, unless they are the same.
fn replace_where_other<T: PartialEq>(map: &mut Map<T>, objects: BTreeMap<ObjectName, Arc<T>>) {
    let is_same = map.len() == objects.len()
        && map.iter().zip(&objects).all(|((name, held), (other, object))| name == other && held.object == *object);
    if !is_same {
        let sourced = |(name, object)| (name, Sourced { object, origin: None });
        *map = objects.into_iter().map(sourced).collect();
    }
}

/// What operators are told of a right that is missing, with the line that gives it.
fn unreadable(says: &str, namespace: &str, role: Option<&str>) -> Box<str> {
    let line = certificate_rights(says, namespace, role);
    format!("tidegate may not read it; whoever owns the namespace allows that with: {line}").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::telemetry::metrics::MetricsOptions;

    /// States that name so many certificates of one namespace.
    fn naming(count: usize) -> Inputs {
        naming_all(&(0..count).map(|number| format!("c{number}")).collect::<Vec<_>>())
    }

    /// States that name these certificates.
    fn naming_all(names: &[String]) -> Inputs {
        let references: Vec<_> = names.iter().map(|name| json!({ "name": name })).collect();
        let route = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": {},
            "spec": { "hostnames": ["a.test"], "tls": { "certificateRefs": references }, "rules": [{}] } });
        let mut inputs = Inputs { gateway_class_name: "tidegate".into(), ..Inputs::default() };
        let object = Arc::new(serde_json::from_value(route).expect("a route"));
        inputs.objects.routes.insert(ObjectName::new("shop", "it"), Sourced { object, origin: None });
        inputs
    }

    /// How many certificates are watched one by one, and whether all are together.
    fn watched(followed: &Followed) -> (usize, bool) {
        let alone = followed.running.keys().filter(|scope| scope.name.is_some()).count();
        (alone, followed.running.keys().any(|scope| scope.name.is_none()))
    }

    /// Follows nothing yet, of an API server that does not answer.
    fn followed() -> (Followed, mpsc::Receiver<Change>) {
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let options = MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 1 };
        let means = Means {
            client: Client::try_from(nowhere).expect("a client"),
            timing: Timing::default(),
            metrics: Metrics::new(options),
            role: None,
        };
        let (sender, changes) = mpsc::channel(WAITING);
        (Followed::new(means, sender), changes)
    }

    /// Of a Secret that cannot be decrypted, say, every list fails.
    #[tokio::test(start_paused = true)]
    async fn an_object_that_cannot_be_read_is_waited_for_once() {
        let (mut followed, mut changes) = followed();
        let began = Instant::now();
        let wait = async |followed: &mut Followed, changes: &mut mpsc::Receiver<Change>, inputs: &Inputs| {
            let new = followed.want(inputs);
            followed.wait(changes, new, Instant::now() + PATIENCE).await;
            began.elapsed()
        };
        assert_eq!(wait(&mut followed, &mut changes, &naming(1)).await, PATIENCE, "nothing is known of it");
        assert_eq!(wait(&mut followed, &mut changes, &naming(1)).await, PATIENCE, "another change");
        // Whoever names another one waits for that one alone.
        let answer = Change { watch: followed.numbers + 1, event: Event::InitDone };
        followed.sender.try_send(answer).expect("there is room");
        assert_eq!(wait(&mut followed, &mut changes, &naming(2)).await, PATIENCE, "it is there");
        assert!(followed.running.values().any(|running| !running.has_answered));
    }

    #[tokio::test]
    async fn what_no_object_can_be_called_is_not_asked_for() {
        let (mut followed, _changes) = followed();
        followed.want(&naming_all(&["a,b".to_owned(), "c0".to_owned()]));
        let names: Vec<_> = followed.running.keys().map(|scope| scope.name.as_deref()).collect();
        assert_eq!(names, [Some("c0")]);
    }

    #[tokio::test]
    async fn where_all_may_not_be_read_each_is_asked_for_by_its_name() {
        let (mut followed, _changes) = followed();
        followed.want(&naming(4));
        assert_eq!(watched(&followed), (4, false));
        followed.want(&naming(5));
        assert_eq!(watched(&followed), (0, true));
        let refuse = |followed: &mut Followed| {
            let watch = followed.running.values().map(|running| running.number).max().expect("a watch");
            followed.take(Change { watch, event: Event::Forbidden("no".to_owned()) })
        };
        assert!(!refuse(&mut followed), "nothing is known of them yet");
        assert_eq!(watched(&followed), (5, false), "a role for their names may be enough");
        followed.want(&naming(6));
        assert_eq!(watched(&followed), (6, false), "and it stays so");
        assert!(refuse(&mut followed), "one of them may not be read");
        followed.want(&naming(MOST_WHERE_REFUSED + 1));
        assert_eq!(watched(&followed), (0, true), "too many to ask for one by one");
        assert!(refuse(&mut followed));
        followed.want(&naming(0));
        followed.want(&naming(5));
        assert_eq!(watched(&followed), (0, true), "the right may have been given meanwhile");
    }

    #[test]
    fn the_missing_right_is_told_with_the_line_that_gives_it() {
        let says =
            "secrets is forbidden: User \"system:serviceaccount:edge:tidegate\" cannot list resource \"secrets\"";
        let line = "kubectl create rolebinding certs --namespace=shop --clusterrole=certs \
                    --serviceaccount=edge:tidegate";
        let told = |says| unreadable(says, "shop", Some("certs"));
        assert!(told(says).ends_with(line));
        assert!(told("User \"admin\" cannot").ends_with("--user=admin"));
        assert!(told("Forbidden").ends_with("--serviceaccount=NAMESPACE:NAME"));
        // Where the chart made no ClusterRole, none can be bound.
        let lines = "kubectl create role tidegate-certificates --namespace=shop --verb=get,list,watch \
                     --resource=secrets,configmaps && kubectl create rolebinding tidegate-certificates --namespace=shop \
                     --role=tidegate-certificates --serviceaccount=edge:tidegate";
        assert!(unreadable(says, "shop", None).ends_with(lines));
    }
}
