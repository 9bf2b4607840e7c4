//! All objects of all watches, as one state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::Inputs;
use crate::kinds::{KindId, Object, ObjectRef};
use crate::model::ids::ObjectName;
use crate::source::hold::{self, Slices};
use crate::source::update::Update;

/// Most changes that are taken in one step.
const AT_ONCE: usize = 1024;

/// What one watch says.
#[derive(Debug)]
pub(super) struct Change {
    /// The number of the watch.
    pub(super) watch: usize,
    /// What happened.
    pub(super) event: Event,
}

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A list begins.
    Init,
    /// An object of the list.
    InitApply(ObjectName, Result<Object, String>),
    /// The list is whole: objects that were not in it are gone.
    InitDone,
    /// An object is new or changed.
    Apply(ObjectName, Result<Object, String>),
    /// An object is gone.
    Delete(ObjectName),
    /// The kind may not be read or is not served, and is not needed: what is known of it stays.
    Unavailable,
}

/// What one watch has told.
struct Listed {
    kind: KindId,
    /// It was listed once, or need not be.
    done: bool,
    names: BTreeSet<ObjectName>,
    replay: Option<BTreeMap<ObjectName, Result<Object, String>>>,
}

/// All objects.
pub(super) struct Index {
    base: Inputs,
    watches: Vec<Listed>,
    slices: Slices,
    /// Why an object cannot be read.
    problems: BTreeMap<ObjectRef, String>,
    epoch: Instant,
}

impl Index {
    pub(super) fn new(base: Inputs, kinds: impl Iterator<Item = KindId>) -> Self {
        let listed = |kind| Listed { kind, done: false, names: BTreeSet::new(), replay: None };
        Self {
            base,
            watches: kinds.map(listed).collect(),
            slices: Slices::new(hold::WINDOW),
            problems: BTreeMap::new(),
            epoch: Instant::now(),
        }
    }

    /// Takes changes until every watch has listed; then goes on in a task of its own. `None` when the watches end before.
    pub(super) async fn run(mut self, mut changes: mpsc::Receiver<Change>) -> Option<watch::Receiver<Update>> {
        while !self.is_whole() {
            let change = changes.recv().await?;
            self.take(change);
        }
        let (sender, updates) = watch::channel(self.update());
        tokio::spawn(async move {
            while self.next(&mut changes).await.is_some() {
                if sender.send(self.update()).is_err() {
                    return;
                }
            }
        });
        Some(updates)
    }

    /// Waits until the state is another one; `None` when the watches have ended.
    async fn next(&mut self, changes: &mut mpsc::Receiver<Change>) -> Option<()> {
        loop {
            let expiry = self.slices.next_expiry().map(|expiry| self.epoch + expiry);
            let mut is_changed = tokio::select! {
                change = changes.recv() => self.take(change?),
                () = tokio::time::sleep_until(expiry.unwrap_or(self.epoch)), if expiry.is_some() => false,
            };
            is_changed |= self.slices.expire(self.epoch.elapsed());
            // What has come by now is one step.
            for _ in 0..AT_ONCE {
                let Ok(change) = changes.try_recv() else { break };
                is_changed |= self.take(change);
            }
            if is_changed {
                return Some(());
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.watches.iter().all(|listed| listed.done)
    }

    /// Takes a change; whether the state may be another one now.
    fn take(&mut self, Change { watch, event }: Change) -> bool {
        let listed = &mut self.watches[watch];
        match event {
            Event::Init => {
                listed.replay = Some(BTreeMap::new());
                false
            }
            Event::InitApply(name, object) => {
                listed.replay.get_or_insert_default().insert(name, object);
                false
            }
            Event::InitDone => {
                listed.done = true;
                let new = listed.replay.take().unwrap_or_default();
                let gone: Vec<_> = listed.names.iter().filter(|name| !new.contains_key(*name)).cloned().collect();
                for (name, object) in new {
                    self.put(watch, name, object);
                }
                for name in gone {
                    self.remove(watch, name);
                }
                true
            }
            Event::Apply(name, object) => {
                // What changed about the object may be nothing that is read: a status, above all.
                let about = ObjectRef { kind: listed.kind.name(), name: name.clone() };
                let is_same = match (&object, self.base.objects.get(&about)) {
                    (Ok(Object::GatewayRoute(new)), Some(Object::GatewayRoute(old))) => *new == old,
                    (Ok(Object::Service(new)), Some(Object::Service(old))) => *new == old,
                    _ => false,
                } && !self.problems.contains_key(&about);
                if !is_same {
                    self.put(watch, name, object);
                }
                !is_same
            }
            Event::Delete(name) => {
                self.remove(watch, name);
                true
            }
            Event::Unavailable => !std::mem::replace(&mut listed.done, true),
        }
    }

    fn put(&mut self, watch: usize, name: ObjectName, object: Result<Object, String>) {
        let listed = &mut self.watches[watch];
        listed.names.insert(name.clone());
        let about = ObjectRef { kind: listed.kind.name(), name: name.clone() };
        match object {
            Ok(object) => {
                self.problems.remove(&about);
                match object {
                    Object::EndpointSlice(slice) => {
                        self.slices.change(hold::Change::Apply(name, slice), self.epoch.elapsed());
                    }
                    Object::GatewayRoute(_)
                    | Object::Service(_)
                    | Object::Endpoints(_)
                    | Object::Namespace(_)
                    | Object::ReferenceGrant(_) => self.base.objects.insert(name, object, None),
                }
            }
            // The last version that could be read stays.
            Err(problem) => drop(self.problems.insert(about, problem)),
        }
    }

    fn remove(&mut self, watch: usize, name: ObjectName) {
        let listed = &mut self.watches[watch];
        listed.names.remove(&name);
        let about = ObjectRef { kind: listed.kind.name(), name };
        self.problems.remove(&about);
        if listed.kind == KindId::EndpointSlice {
            self.slices.change(hold::Change::Delete(about.name), self.epoch.elapsed());
        } else {
            self.base.objects.remove(listed.kind, &about.name);
        }
    }

    fn update(&self) -> Update {
        let mut inputs = self.base.clone();
        inputs.objects.slices = self.slices.slices();
        let diagnostic = |(about, problem): (&ObjectRef, &String)| {
            let is_known = inputs.objects.get(about).is_some();
            Diagnostic {
                object: Some(about.clone()),
                origin: None,
                path: String::new(),
                severity: Severity::Error,
                reason: "Invalid",
                found: problem.clone(),
                expected: "an object of the schema that this version reads".to_owned(),
                effect: if is_known { "its last good version stays active" } else { "it is left out" }.to_owned(),
            }
        };
        let diagnostics = self.problems.iter().map(diagnostic).collect();
        Update { inputs: Arc::new(inputs), diagnostics }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::source::hold::WINDOW;

    const ROUTES: usize = 0;
    const SLICES: usize = 1;
    const GRANTS: usize = 2;

    fn index() -> Index {
        let kinds = [KindId::GatewayRoute, KindId::EndpointSlice, KindId::ReferenceGrant];
        Index::new(Inputs::default(), kinds.into_iter())
    }

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    fn route() -> Result<Object, String> {
        let route =
            json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": {}, "spec": {} });
        KindId::GatewayRoute.hold(route).map_err(|error| error.to_string())
    }

    fn slice(addresses: &[&str]) -> Result<Object, String> {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        let slice = json!({ "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": endpoints });
        KindId::EndpointSlice.hold(slice).map_err(|error| error.to_string())
    }

    fn routes(update: &Update) -> Vec<String> {
        update.inputs.objects.routes.keys().map(|name| name.name.to_string()).collect()
    }

    fn told(index: &mut Index, watch: usize, events: impl IntoIterator<Item = Event>) {
        for event in events {
            index.take(Change { watch, event });
        }
    }

    #[test]
    fn nothing_is_whole_before_every_watch_has_listed() {
        let mut index = index();
        told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("a"), route())]);
        told(&mut index, SLICES, [Event::Init, Event::InitDone]);
        assert!(!index.is_whole());
        told(&mut index, ROUTES, [Event::InitDone]);
        assert!(!index.is_whole());
        told(&mut index, GRANTS, [Event::Unavailable]);
        assert!(index.is_whole());
        assert_eq!(routes(&index.update()), ["a"]);
    }

    #[test]
    fn a_list_replaces_the_set_at_its_end_only() {
        let mut index = index();
        told(&mut index, ROUTES, [Event::Apply(name("a"), route()), Event::Apply(name("b"), route())]);
        told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("b"), route())]);
        assert_eq!(routes(&index.update()), ["a", "b"]);
        // It breaks off and begins again.
        told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("c"), route()), Event::InitDone]);
        assert_eq!(routes(&index.update()), ["c"]);
        told(&mut index, ROUTES, [Event::Delete(name("c")), Event::Delete(name("never"))]);
        assert!(routes(&index.update()).is_empty());
    }

    #[test]
    fn what_cannot_be_read_keeps_its_last_version_and_is_reported() {
        let mut index = index();
        let broken = || Err("rules: invalid type".to_owned());
        told(&mut index, ROUTES, [Event::Apply(name("a"), route()), Event::Apply(name("a"), broken())]);
        told(&mut index, ROUTES, [Event::Apply(name("b"), broken())]);
        let update = index.update();
        assert_eq!(routes(&update), ["a"]);
        let effects: Vec<_> = update.diagnostics.iter().map(|diagnostic| diagnostic.effect.as_str()).collect();
        assert_eq!(effects, ["its last good version stays active", "it is left out"]);
        // A new list with the same objects changes nothing about that.
        let list = [Event::Init, Event::InitApply(name("a"), broken()), Event::InitDone];
        told(&mut index, ROUTES, list);
        assert_eq!((routes(&index.update()), index.update().diagnostics.len()), (vec!["a".to_owned()], 1));
        told(&mut index, ROUTES, [Event::Apply(name("a"), route())]);
        assert!(index.update().diagnostics.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_vanishes_is_held_and_then_let_go_without_a_further_change() {
        let mut index = index();
        told(&mut index, SLICES, [Event::Init, Event::InitApply(name("s"), slice(&["10.0.0.1", "10.0.0.2"]))]);
        told(&mut index, SLICES, [Event::InitDone]);
        told(&mut index, ROUTES, [Event::InitDone]);
        told(&mut index, GRANTS, [Event::Unavailable]);
        let (sender, changes) = mpsc::channel(8);
        let mut updates = index.run(changes).await.expect("all have listed");
        let endpoints = |updates: &mut watch::Receiver<Update>| -> usize {
            let update = updates.borrow_and_update().clone();
            update.inputs.objects.slices.values().map(|slice| slice.object.endpoints.len()).sum()
        };
        assert_eq!(endpoints(&mut updates), 2);
        let began = Instant::now();
        let event = Event::Apply(name("s"), slice(&["10.0.0.2"]));
        sender.send(Change { watch: SLICES, event }).await.expect("it listens");
        updates.changed().await.expect("a change");
        assert_eq!(endpoints(&mut updates), 2, "held");
        tokio::time::timeout(Duration::from_secs(60), updates.changed()).await.expect("in time").expect("a change");
        assert_eq!(endpoints(&mut updates), 1);
        assert!(began.elapsed() >= WINDOW, "{:?}", began.elapsed());
    }
}
