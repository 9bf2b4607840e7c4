//! Which routes need a write: what the API server has beside what was compiled, and a queue of names.
//!
//! Nothing here waits or talks to anybody; time is an argument. What is written is found when its turn comes, so that the
//! newest counts, however long a name has waited.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::desired::{Beside, Desired, Notice};
use crate::api::gateway_route::{API_VERSION, ParentRef};
use crate::compile::inputs::Inputs;
use crate::compile::policy_status::PolicyStatus;
use crate::compile::status::{ParentStatus, RouteStatus, parents_for_all};
use crate::kinds::Kind as _;
use crate::kinds::gateway_route::Route;
use crate::model::ids::ObjectName;
use crate::source::stored::{Identity, Sighting, StoredRoute};

/// How long the same status is not written again: somebody else rewrites it, or the watch is behind.
const AGAIN: Duration = Duration::from_secs(5);

/// How soon another status of the same generation may follow: what a route refers to may come and go quickly.
const NEXT: Duration = Duration::from_secs(1);

/// Bytes of the message about a route that cannot be read; an API server takes 32,768 characters.
const MOST_BYTES: usize = 16 << 10;

/// What was compiled and is active in this process.
#[derive(Clone, Debug)]
pub struct Published {
    /// The objects that it was compiled from.
    pub inputs: Arc<Inputs>,
    /// What became of each route of the class, in the order of names.
    pub statuses: Arc<[RouteStatus]>,
    /// What became of each BackendTLSPolicy that is used, in the order of names.
    pub policies: Arc<[PolicyStatus]>,
}

/// A write of one status.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    pub(super) name: ObjectName,
    pub(super) uid: Box<str>,
    /// The whole object as it is applied.
    pub(super) body: Value,
    /// What to tell people once it is written.
    pub(super) notices: Vec<Notice>,
}

/// How a write ended, as far as it makes a difference here.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// Written; the object as it is now.
    Written(Box<StoredRoute>),
    /// To be tried again after this time.
    Later(Duration),
    /// Of no use before something changes.
    Never,
}

/// A status that was written a short while ago.
#[derive(Debug)]
struct Sent {
    at: Instant,
    uid: Box<str>,
    generation: Option<i64>,
    fingerprint: u64,
}

/// All routes.
#[derive(Debug)]
pub(super) struct Book {
    identity: Identity,
    stored: BTreeMap<ObjectName, StoredRoute>,
    published: Option<Published>,
    /// Nothing is queued while somebody else writes.
    is_writer: bool,
    queue: VecDeque<ObjectName>,
    queued: BTreeSet<ObjectName>,
    in_flight: BTreeSet<ObjectName>,
    /// Of those in flight the ones of which something else was seen meanwhile.
    overtaken: BTreeSet<ObjectName>,
    /// Of those in flight the ones that were to be looked at meanwhile.
    waiting: BTreeSet<ObjectName>,
    later: BTreeSet<(Instant, ObjectName)>,
    /// Routes of which another version of the object was active when they were looked at.
    behind: BTreeSet<ObjectName>,
    sent: BTreeMap<ObjectName, Sent>,
    /// Names of `sent` in the order of their times.
    sent_order: VecDeque<(Instant, ObjectName)>,
}

impl Book {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            identity,
            stored: BTreeMap::new(),
            published: None,
            is_writer: false,
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            overtaken: BTreeSet::new(),
            waiting: BTreeSet::new(),
            later: BTreeSet::new(),
            behind: BTreeSet::new(),
            sent: BTreeMap::new(),
            sent_order: VecDeque::new(),
        }
    }

    /// Begins or ends to queue; both from a clean state.
    pub(super) fn set_writer(&mut self, is_writer: bool) {
        self.is_writer = is_writer;
        self.queue.clear();
        self.queued.clear();
        self.in_flight.clear();
        self.overtaken.clear();
        self.waiting.clear();
        self.later.clear();
        self.behind.clear();
        self.sent.clear();
        self.sent_order.clear();
        self.sweep();
    }

    /// Looks at every route again.
    pub(super) fn sweep(&mut self) {
        let names: Vec<ObjectName> = self.stored.keys().cloned().collect();
        names.into_iter().for_each(|name| self.enqueue(name));
    }

    /// Takes what the API server has.
    pub(super) fn saw(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::One(name, route) => {
                if self.stored.get(&name) != Some(&route) {
                    self.stored.insert(name.clone(), route);
                    self.changed(name);
                }
            }
            Sighting::Gone(name) => drop(self.stored.remove(&name)),
            Sighting::All(namespace, routes) => {
                let is_inside =
                    |name: &ObjectName| namespace.as_deref().is_none_or(|namespace| *name.namespace == *namespace);
                let listed: BTreeMap<ObjectName, StoredRoute> = routes.into_iter().collect();
                self.stored.retain(|name, _| !is_inside(name) || listed.contains_key(name));
                let is_new = |(name, route): &(&ObjectName, &StoredRoute)| self.stored.get(*name) != Some(*route);
                let new: Vec<ObjectName> = listed.iter().filter(is_new).map(|(name, _)| name.clone()).collect();
                // In one step: a map that is built from a list has full nodes, one that grows has them half empty.
                let kept = std::mem::take(&mut self.stored);
                self.stored = kept.into_iter().chain(listed).collect();
                new.into_iter().for_each(|name| self.changed(name));
            }
        }
    }

    /// Something else is stored of a route than before.
    fn changed(&mut self, name: ObjectName) {
        if self.in_flight.contains(&name) {
            self.overtaken.insert(name.clone());
        }
        self.enqueue(name);
    }

    /// Takes what is active now, and queues the routes about which there is something else to say.
    pub(super) fn publish(&mut self, published: Published) {
        let before = self.published.replace(published.clone());
        // A version in which endpoints alone are other ones has the same list.
        let is_same = before.as_ref().is_some_and(|before| Arc::ptr_eq(&before.statuses, &published.statuses));
        let before = before.as_ref().filter(|_| !is_same).map_or(&[][..], |before| &before.statuses);
        let now = if is_same { &[][..] } else { &published.statuses };
        let mut changed: Vec<ObjectName> = std::mem::take(&mut self.behind).into_iter().collect();
        let (mut old, mut new) = (before.iter().peekable(), now.iter().peekable());
        let mut known = Compared::default();
        loop {
            let (was, is) = match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some(was), Some(is)) if was.name == is.name => (old.next(), new.next()),
                (Some(was), Some(is)) if was.name < is.name => (old.next(), None),
                (Some(_), None) => (old.next(), None),
                (_, Some(_)) => (None, new.next()),
            };
            if !known.is_same(was, is) {
                changed.extend(is.or(was).map(|status| status.name.clone()));
            }
        }
        changed.into_iter().for_each(|name| self.enqueue(name));
    }

    /// Names that wait for their turn.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.later.len()
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When [`wake`](Self::wake) has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }

    /// Queues what was put off until now.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some((at, _)) = self.later.first()
            && *at <= now
            && let Some((_, name)) = self.later.pop_first()
        {
            self.enqueue(name);
        }
        while let Some((at, _)) = self.sent_order.front()
            && *at + AGAIN < now
            && let Some((at, name)) = self.sent_order.pop_front()
        {
            if self.sent.get(&name).is_some_and(|sent| sent.at == at) {
                self.sent.remove(&name);
            }
        }
    }

    /// The next write, if there is one to make. It is in flight until [`done`](Self::done).
    pub(super) fn next(&mut self, now: Instant, wall: Timestamp) -> Option<Write> {
        while let Some(name) = self.queue.pop_front() {
            self.queued.remove(&name);
            if self.in_flight.contains(&name) {
                self.waiting.insert(name);
            } else if let Some(write) = self.look_at(&name, now, wall) {
                self.in_flight.insert(name);
                return Some(write);
            }
        }
        // It was long when all routes were looked at.
        self.queue.shrink_to_fit();
        None
    }

    /// Notes how a write has ended.
    pub(super) fn done(&mut self, name: &ObjectName, outcome: Outcome, now: Instant) {
        self.in_flight.remove(name);
        let (is_overtaken, is_waited_for) = (self.overtaken.remove(name), self.waiting.remove(name));
        match outcome {
            Outcome::Written(route) => {
                // The watch may have shown something later than the answer to the write: then it shows the write, too,
                // or has done so. And a later object of the same name is another one.
                if !is_overtaken
                    && let Some(stored) = self.stored.get_mut(name).filter(|stored| stored.uid == route.uid)
                {
                    let problem = stored.problem.take();
                    *stored = StoredRoute { problem, ..*route };
                }
                self.enqueue(name.clone());
            }
            Outcome::Later(pause) => {
                self.sent.remove(name);
                self.later.insert((now + pause, name.clone()));
            }
            Outcome::Never if is_waited_for => self.enqueue(name.clone()),
            Outcome::Never => {}
        }
    }

    fn enqueue(&mut self, name: ObjectName) {
        if self.is_writer && self.queued.insert(name.clone()) {
            self.queue.push_back(name);
        }
    }

    /// The write that a route needs now. One that may not be made yet is put off.
    fn look_at(&mut self, name: &ObjectName, now: Instant, wall: Timestamp) -> Option<Write> {
        let stored = self.stored.get(name)?;
        let published = self.published.as_ref()?;
        let message = stored.problem.as_deref().map(|problem| unreadable(problem, name, &published.inputs));
        let listeners = message.as_ref().map(|_| parents_for_all(&published.inputs)).unwrap_or_default();
        let beside = Beside {
            controller: &self.identity.controller_name,
            is_for_all: stored.is_for_all,
            others: &stored.status.others,
        };
        let desired = match &message {
            Some(message) if stored.is_of_class => {
                let compiled =
                    find(published, name).map(|status| &status.parents).filter(|parents| !parents.is_empty());
                let parents: Vec<(&str, &ParentRef)> = match compiled {
                    Some(parents) => parents.iter().map(|parent| (&*parent.key, &*parent.parent_ref)).collect(),
                    None => listeners.iter().map(|(key, parent_ref)| (&**key, &**parent_ref)).collect(),
                };
                Some(Desired::unreadable(stored.generation, message, parents.into_iter(), beside))
            }
            Some(_) => None,
            None => {
                let is_same = |route: &Route| *route.uid == *stored.uid && route.generation == stored.generation;
                let route = published.inputs.objects.routes.get(name).filter(|route| is_same(&route.object));
                if route.is_none() {
                    self.behind.insert(name.clone());
                    return None;
                }
                let status = find(published, name).filter(|status| !status.parents.is_empty());
                status.map(|status| Desired::of(status, beside))
            }
        };
        let (status, notices, fingerprint) = match desired {
            Some(desired) if !desired.differs(&stored.status) => return None,
            Some(desired) => (
                desired.to_json(&self.identity.controller_name, &stored.status, wall),
                desired.notices(&stored.status),
                desired.fingerprint(),
            ),
            None if !stored.is_managed => return None,
            // Not ours any more: what we own goes, and what others own stays.
            None => (json!({}), Vec::new(), 0),
        };
        let sent = self.sent.get(name).filter(|sent| sent.uid == stored.uid && sent.generation == stored.generation);
        if let Some(sent) = sent {
            let at = sent.at + if sent.fingerprint == fingerprint { AGAIN } else { NEXT };
            if now < at {
                self.later.insert((at, name.clone()));
                return None;
            }
        }
        let sent = Sent { at: now, uid: stored.uid.clone(), generation: stored.generation, fingerprint };
        let body = json!({
            "apiVersion": API_VERSION,
            "kind": Route::NAME,
            // With the uid a later object of the same name answers with a conflict.
            "metadata": { "namespace": &*name.namespace, "name": &*name.name, "uid": &*stored.uid },
            "status": status,
        });
        let write = Write { name: name.clone(), uid: stored.uid.clone(), body, notices };
        self.sent.insert(name.clone(), sent);
        self.sent_order.push_back((now, name.clone()));
        Some(write)
    }
}

/// Compares the statuses of two versions. Most routes of one version share their parents, which are compared once.
#[derive(Default)]
struct Compared<'s> {
    /// The last two lists of parents that turned out to be equal.
    parents: Option<(&'s Arc<[ParentStatus]>, &'s Arc<[ParentStatus]>)>,
}

impl<'s> Compared<'s> {
    fn is_same(&mut self, was: Option<&'s RouteStatus>, is: Option<&'s RouteStatus>) -> bool {
        let (Some(was), Some(is)) = (was, is) else { return was.is_none() && is.is_none() };
        let known = |(one, two): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(one, &was.parents) && Arc::ptr_eq(two, &is.parents);
        let RouteStatus { name, generation, parents, hostnames } = was;
        let is_same = (self.parents.is_some_and(known) || *parents == is.parents)
            && (name, generation, hostnames) == (&is.name, &is.generation, &is.hostnames);
        if is_same {
            self.parents = Some((&was.parents, &is.parents));
        }
        is_same
    }
}

fn find<'p>(published: &'p Published, name: &ObjectName) -> Option<&'p RouteStatus> {
    let at = published.statuses.binary_search_by(|status| status.name.cmp(name)).ok()?;
    published.statuses.get(at)
}

/// What is said about a route that cannot be read.
fn unreadable(problem: &str, name: &ObjectName, inputs: &Inputs) -> String {
    let mut problem = problem;
    if problem.len() > MOST_BYTES {
        let end = (0..=MOST_BYTES).rev().find(|end| problem.is_char_boundary(*end)).unwrap_or(0);
        problem = &problem[..end];
    }
    let effect = match inputs.objects.routes.get(name).and_then(|route| route.object.generation) {
        Some(generation) => format!("generation {generation}, the last that could be read, stays active"),
        None => "the route is not served".to_owned(),
    };
    format!("found {problem}, expected a route of the schema that this version of tidegate reads; {effect}")
}

#[cfg(test)]
mod tests;
