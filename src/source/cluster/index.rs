//! All objects of all watches, as one state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::access::{Access, Refused};
use super::cache::Cache;
use super::object;
use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::inputs::Inputs;
use crate::kinds::{KindId, Object, ObjectRef};
use crate::model::ids::ObjectName;
use crate::source::hold::{self, Slices};
use crate::source::update::Update;
use crate::telemetry::metrics::{ConfigSource, Metrics, WatchCells};

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
    /// The definition of the kind is gone: what the first list after this lacks may be on its way back.
    Away,
    /// The kind may not be read, and is not needed: what is known of it stays. Why, as the API server says.
    Forbidden(String),
    /// The kind is not served, and is not needed: what is known of it stays.
    NotServed,
    /// Other objects are wanted than before: what the next list lacks is no loss.
    Selected,
    /// Nothing of the kind is wanted, so that nothing is listed.
    Unwanted,
    /// The zone of the process was found out; it comes of no watch, whatever number is given.
    OwnZone(Arc<str>),
}

/// Objects of a list, or why one cannot be read.
type Replay = BTreeMap<ObjectName, Result<Object, String>>;

/// How far a whole list is believed that lacks objects which were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NextList {
    /// As long as it lacks few.
    #[default]
    AsUsual,
    /// Not at all: the kind was away, and there was no whole list since.
    AfterAway,
    /// Whatever it lacks: other objects are wanted than those that are known.
    OfOthers,
}

/// What one watch has told.
struct Listed {
    kind: KindId,
    /// It was listed once, or need not be.
    done: bool,
    names: BTreeSet<ObjectName>,
    replay: Option<Replay>,
    /// How far the next list is believed.
    next_list: NextList,
    /// Nothing of the kind is wanted, as far as is known.
    is_unwanted: bool,
    /// Objects that the last list did not have and that stay for now, with the time at which they go.
    doubted: BTreeMap<ObjectName, Duration>,
    cells: Arc<WatchCells>,
    /// Why it may not be read; what the API server says.
    refused: Option<String>,
    /// It was listed once, now or before the start.
    is_known: bool,
    is_needed: bool,
}

/// All objects.
pub(super) struct Index {
    base: Inputs,
    watches: Vec<Listed>,
    slices: Slices,
    /// Why an object cannot be read.
    problems: BTreeMap<ObjectRef, String>,
    /// How long objects stay that a list lacks suspiciously many of.
    guard: Duration,
    kept: Option<Kept>,
    /// What becomes of a state of which some may not be read.
    access: Option<Access>,
    epoch: Instant,
}

/// What is kept in files for a restart.
pub(super) struct Kept {
    pub(super) cache: Cache,
    /// The names of the watches, by their number.
    pub(super) watches: Vec<String>,
    /// How long the API server is waited for.
    pub(super) after: Duration,
}

/// So many objects are few: their removal by a list is believed, unless nothing is left.
const FEW: usize = 20;

/// How long a sidecar waits for what it needs before its log says what that may be for: its pod shows no more than that the
/// application has not started.
const EXPLAIN: Duration = Duration::from_secs(2);

/// Whether a list of `listed` objects that takes `gone` of `known` is rather wrong than true: data were lost, or are
/// being restored.
const fn is_suspicious(gone: usize, known: usize, listed: usize) -> bool {
    gone > 0 && (listed == 0 || (known >= FEW && gone > known / 2))
}

impl Index {
    pub(super) fn new(
        base: Inputs,
        watches: impl Iterator<Item = (KindId, bool, Arc<WatchCells>)>,
        guard: Duration,
        kept: Option<Kept>,
    ) -> Self {
        let listed = |(kind, is_needed, cells)| Listed {
            kind,
            is_needed,
            is_known: false,
            refused: None,
            done: false,
            names: BTreeSet::new(),
            replay: None,
            next_list: NextList::default(),
            is_unwanted: false,
            doubted: BTreeMap::new(),
            cells,
        };
        Self {
            base,
            watches: watches.map(listed).collect(),
            slices: Slices::new(hold::WINDOW),
            problems: BTreeMap::new(),
            guard,
            kept,
            access: None,
            epoch: Instant::now(),
        }
    }

    /// Lets this say what becomes of a state of which some may not be read.
    pub(super) fn with_access(self, access: Access) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Takes changes until every watch has listed, or until what is kept in files has to do; then goes on in a task of its
    /// own. `None` when the watches end before.
    pub(super) async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        metrics: Arc<Metrics>,
    ) -> Option<watch::Receiver<Update>> {
        let mut patience = self.kept.as_ref().map(|kept| self.epoch + kept.after);
        let mut source = ConfigSource::Cluster;
        let mut explain = self.access.is_some().then(|| self.epoch + EXPLAIN);
        while !self.is_whole() {
            tokio::select! {
                change = changes.recv() => drop(self.take(change?)),
                () = tokio::time::sleep_until(explain.unwrap_or(self.epoch)), if explain.is_some() => {
                    explain = (!self.explain_wait()).then(|| Instant::now() + EXPLAIN);
                }
                () = tokio::time::sleep_until(patience.unwrap_or(self.epoch)), if patience.is_some() => {
                    patience = None;
                    if self.take_kept() {
                        source = ConfigSource::Cache;
                        break;
                    }
                }
            }
        }
        metrics.set_config_source(source);
        self.count();
        let (sender, updates) = watch::channel(self.update());
        tokio::spawn(async move {
            while self.next(&mut changes).await.is_some() {
                if source == ConfigSource::Cache && self.is_whole() {
                    source = ConfigSource::Cluster;
                    tracing::info!("the API server has listed everything: what was kept of it is no longer used");
                    metrics.set_config_source(source);
                }
                if sender.send(self.update()).is_err() {
                    return;
                }
            }
        });
        Some(updates)
    }

    /// Says what is waited for although the API server answers, and the right that may be missing; whether there is something
    /// to be said.
    fn explain_wait(&self) -> bool {
        let waits = self.watches.iter().position(|listed| listed.is_needed && !listed.done);
        let (Some(access), Some(watch)) = (&self.access, waits.filter(|_| self.watches.iter().any(|one| one.done)))
        else {
            return false;
        };
        let says = self.watches.iter().find_map(|listed| listed.refused.as_deref());
        access.explain_wait(watch, says.unwrap_or_default());
        true
    }

    /// Takes what is kept in files of the watches that have not listed yet; whether it is enough to serve.
    fn take_kept(&mut self) -> bool {
        let Some(kept) = &self.kept else { return false };
        // What is wanted becomes known with the routes, which are kept as well.
        let is_missing = |listed: &Listed| !listed.done || listed.is_unwanted;
        let missing: Vec<usize> = (0..self.watches.len()).filter(|watch| is_missing(&self.watches[*watch])).collect();
        let mut found = Vec::new();
        for &watch in &missing {
            match kept.cache.load(&kept.watches[watch]) {
                Some(objects) => found.push((watch, objects)),
                // Of a kind that was never there, nothing is kept.
                None if !self.watches[watch].is_needed => {}
                None => {
                    tracing::warn!("{}: nothing is kept of them: waiting for the API server", kept.watches[watch]);
                    return false;
                }
            }
        }
        tracing::warn!(
            "the API server has not listed everything within {:?}: what was known before the start serves until it has",
            kept.after
        );
        for (watch, objects) in found {
            self.watches[watch].is_known = true;
            for object in objects {
                let (name, object) = object::read(self.watches[watch].kind, object);
                self.put(watch, name, object);
            }
        }
        true
    }

    /// Waits until the state is another one; `None` when the watches have ended.
    async fn next(&mut self, changes: &mut mpsc::Receiver<Change>) -> Option<()> {
        loop {
            let expiry = self.next_expiry().map(|expiry| self.epoch + expiry);
            let mut is_changed = tokio::select! {
                change = changes.recv() => self.take(change?),
                () = tokio::time::sleep_until(expiry.unwrap_or(self.epoch)), if expiry.is_some() => false,
            };
            is_changed |= self.expire();
            // What has come by now is one step.
            for _ in 0..AT_ONCE {
                let Ok(change) = changes.try_recv() else { break };
                is_changed |= self.take(change);
            }
            self.count();
            if is_changed {
                return Some(());
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.watches.iter().all(|listed| listed.done)
    }

    fn next_expiry(&self) -> Option<Duration> {
        let doubted = self.watches.iter().flat_map(|listed| listed.doubted.values()).min().copied();
        doubted.into_iter().chain(self.slices.next_expiry()).min()
    }

    /// Lets go of what was held long enough; whether there was something.
    fn expire(&mut self) -> bool {
        let now = self.epoch.elapsed();
        let mut is_changed = self.slices.expire(now);
        for watch in 0..self.watches.len() {
            let listed = &mut self.watches[watch];
            if listed.doubted.values().all(|until| *until > now) {
                continue;
            }
            let (gone, stay) = std::mem::take(&mut listed.doubted).into_iter().partition(|(_, until)| *until <= now);
            listed.doubted = stay;
            let gone: BTreeMap<ObjectName, Duration> = gone;
            tracing::warn!(
                "{}: {} objects that the API server has not had for {:?} are removed now",
                listed.kind.name(),
                gone.len(),
                self.guard
            );
            for name in gone.into_keys() {
                is_changed |= self.remove(watch, name);
            }
        }
        is_changed
    }

    /// Takes a change; whether the state is another one now.
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
            Event::InitDone => self.replace(watch),
            Event::Apply(name, object) => {
                listed.doubted.remove(&name);
                self.put(watch, name, object)
            }
            Event::Delete(name) => {
                listed.doubted.remove(&name);
                self.remove(watch, name)
            }
            Event::Away => {
                listed.next_list = NextList::AfterAway;
                false
            }
            Event::Selected => {
                listed.next_list = NextList::OfOthers;
                false
            }
            Event::Unwanted => {
                listed.next_list = NextList::OfOthers;
                listed.replay = None;
                let is_changed = self.replace(watch);
                let listed = &mut self.watches[watch];
                (listed.is_unwanted, listed.is_known) = (true, false);
                is_changed
            }
            Event::OwnZone(zone) => {
                self.base.place.zone = Some(zone);
                true
            }
            Event::Forbidden(says) => {
                let is_new = listed.refused.replace(says).is_none();
                !std::mem::replace(&mut listed.done, true) || (is_new && self.access.is_some())
            }
            Event::NotServed => {
                // Where there are no objects of a kind, no right to read them is missing.
                let is_new = listed.refused.take().is_some();
                !std::mem::replace(&mut listed.done, true) || (is_new && self.access.is_some())
            }
        }
    }

    /// Puts a whole list in the place of what a watch has told; whether the state is another one now.
    fn replace(&mut self, watch: usize) -> bool {
        let listed = &mut self.watches[watch];
        let is_first = !std::mem::replace(&mut listed.done, true) | listed.refused.take().is_some();
        listed.is_known = true;
        listed.is_unwanted = false;
        let list = std::mem::take(&mut listed.next_list);
        let new = listed.replay.take().unwrap_or_default();
        let is_changed = if listed.kind == KindId::EndpointSlice {
            self.replace_slices(watch, new, list)
        } else {
            self.take_list(watch, new, list)
        };
        if is_first {
            self.shrink(watch);
        }
        is_changed || is_first
    }

    /// Gives back what maps have in reserve once most objects are there.
    fn shrink(&mut self, watch: usize) {
        let listed = &mut self.watches[watch];
        listed.names = std::mem::take(&mut listed.names).into_iter().collect();
        if listed.kind == KindId::EndpointSlice {
            self.slices.shrink();
        }
    }

    fn take_list(&mut self, watch: usize, new: Replay, list: NextList) -> bool {
        let listed = &mut self.watches[watch];
        listed.doubted.retain(|name, _| list != NextList::OfOthers && !new.contains_key(name));
        // What is doubted already is judged by its own time.
        let believed: Vec<_> = listed.names.iter().filter(|name| !listed.doubted.contains_key(*name)).collect();
        let gone: Vec<_> =
            believed.iter().filter(|name| !new.contains_key(**name)).map(|name| (*name).clone()).collect();
        let is_doubted = match list {
            NextList::AsUsual => is_suspicious(gone.len(), believed.len(), new.len()),
            NextList::AfterAway => !gone.is_empty(),
            NextList::OfOthers => false,
        };
        let mut is_changed = false;
        for (name, object) in new {
            is_changed |= self.put(watch, name, object);
        }
        if is_doubted {
            self.doubt(watch, gone);
            return is_changed;
        }
        for name in gone {
            is_changed |= self.remove(watch, name);
        }
        is_changed
    }

    /// Keeps objects for a while that a list does not have any more.
    fn doubt(&mut self, watch: usize, gone: Vec<ObjectName>) {
        let until = self.epoch.elapsed() + self.guard;
        let listed = &mut self.watches[watch];
        tracing::warn!(
            "{}: the list of the API server lacks {} of {} objects that were there, which looks like lost data: they \
             stay active for {:?}, unless the API server says of one that it is gone",
            listed.kind.name(),
            gone.len(),
            listed.names.len(),
            self.guard
        );
        listed.doubted.extend(gone.into_iter().map(|name| (name, until)));
    }

    fn replace_slices(&mut self, watch: usize, new: Replay, list: NextList) -> bool {
        let listed = &mut self.watches[watch];
        let names = std::mem::take(&mut listed.names);
        let is_of_others = list == NextList::OfOthers;
        let guard = if is_of_others { Duration::ZERO } else { self.guard };
        let about = |name: &ObjectName| ObjectRef { kind: KindId::EndpointSlice.name(), name: name.clone() };
        let mut is_changed = false;
        let mut slices = BTreeMap::new();
        for name in names.iter().filter(|name| !new.contains_key(*name)) {
            is_changed |= self.problems.remove(&about(name)).is_some();
        }
        for (name, object) in new {
            listed.names.insert(name.clone());
            match object {
                Ok(Object::EndpointSlice(slice)) => {
                    is_changed |= self.problems.remove(&about(&name)).is_some();
                    slices.insert(name, slice);
                }
                Ok(_) => {}
                Err(problem) => {
                    slices.extend(self.slices.get(&name).map(|last| (name.clone(), Arc::clone(last))));
                    is_changed |= self.problems.insert(about(&name), problem.clone()) != Some(problem);
                }
            }
        }
        let (has_new, guarded) = self.slices.replace(&names, slices, self.epoch.elapsed(), guard);
        if guarded > 0 && !is_of_others {
            tracing::warn!(
                "EndpointSlice: the list of the API server lacks all endpoints of {guarded} Services that had some, which \
                 looks like lost data: they stay active for {:?}, unless other endpoints of the same Service are ready",
                self.guard
            );
        }
        is_changed || has_new
    }

    /// Takes an object; whether the state is another one now.
    fn put(&mut self, watch: usize, name: ObjectName, object: Result<Object, String>) -> bool {
        let listed = &mut self.watches[watch];
        listed.names.insert(name.clone());
        let about = ObjectRef { kind: listed.kind.name(), name };
        let object = match object {
            Ok(object) => object,
            // The last version that could be read stays.
            Err(problem) => return self.problems.insert(about, problem.clone()) != Some(problem),
        };
        let is_repaired = self.problems.remove(&about).is_some();
        let is_new = match object {
            Object::EndpointSlice(slice) => {
                self.slices.change(hold::Change::Apply(about.name, slice), self.epoch.elapsed())
            }
            Object::GatewayRoute(_)
            | Object::Service(_)
            | Object::Endpoints(_)
            | Object::Namespace(_)
            | Object::ReferenceGrant(_)
            | Object::Secret(_)
            | Object::ConfigMap(_)
            | Object::BackendTlsPolicy(_) => {
                // Most changes of an object are none for us: of a status, an annotation, or none at all.
                let is_new = self.base.objects.get(&about).as_ref() != Some(&object);
                if is_new {
                    self.base.objects.insert(about.name, object, None);
                }
                is_new
            }
        };
        is_new || is_repaired
    }

    /// Takes an object away; whether the state is another one now.
    fn remove(&mut self, watch: usize, name: ObjectName) -> bool {
        let listed = &mut self.watches[watch];
        let was_known = listed.names.remove(&name);
        let about = ObjectRef { kind: listed.kind.name(), name };
        let had_problem = self.problems.remove(&about).is_some();
        if listed.kind == KindId::EndpointSlice {
            return self.slices.change(hold::Change::Delete(about.name), self.epoch.elapsed()) || had_problem;
        }
        if was_known {
            self.base.objects.remove(listed.kind, &about.name);
        }
        was_known
    }

    /// Tells the metrics what there is.
    fn count(&self) {
        for listed in &self.watches {
            let held = match listed.kind {
                KindId::EndpointSlice => self.slices.guarded(self.epoch.elapsed()),
                KindId::GatewayRoute
                | KindId::Service
                | KindId::Endpoints
                | KindId::Namespace
                | KindId::ReferenceGrant
                | KindId::Secret
                | KindId::ConfigMap
                | KindId::BackendTlsPolicy => listed.doubted.len(),
            };
            listed.cells.set_objects(listed.names.len(), held);
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
        let mut diagnostics: Vec<Diagnostic> = self.problems.iter().map(diagnostic).collect();
        if let Some(access) = &self.access {
            let refused = self.watches.iter().enumerate().filter_map(|(number, listed)| {
                Some(Refused { watch: number, says: listed.refused.as_deref()?, is_known: listed.is_known })
            });
            diagnostics.extend(access.restrict(&mut inputs, refused));
        }
        Update { inputs: Arc::new(inputs), diagnostics: diagnostics.into() }
    }
}

#[cfg(test)]
mod tests;
