//! EndpointSlices as a watch tells them, steadied: what vanishes without a word is held for a moment.
//!
//! Changes over several slices are not atomic: when an endpoint moves, its removal can arrive before its addition, and a
//! pool that shrinks for that moment sends its requests elsewhere. So additions and moves into another class count at
//! once; an endpoint that was ready and is gone, not seen to terminate, stays for up to [`WINDOW`]. A replay (`Init` to
//! `InitDone`) replaces the set at its end only, and a watch that fails changes nothing.
//!
//! A pure state machine: the clock is an argument (any steady one). It knows no watch and no Services: a Service that is
//! deleted takes its backends away in the compiler, whatever is held here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::kinds::Sourced;
use crate::kinds::endpoint::{Address, Class, Endpoint};
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::model::ids::ObjectName;

/// How long a bare disappearance is held: longer than the parts of one move are apart, too short to matter for a pod
/// that is really gone (connects to it are refused and go elsewhere).
pub const WINDOW: Duration = Duration::from_millis(250);

/// What a watch says about slices.
#[derive(Clone, Debug)]
pub enum Change {
    /// A replay begins.
    Init,
    /// A slice of the replay.
    InitApply(ObjectName, Arc<EndpointSlice>),
    /// The replay is whole: slices that were not in it are gone.
    InitDone,
    /// A slice is new or changed.
    Apply(ObjectName, Arc<EndpointSlice>),
    /// A slice is gone.
    Delete(ObjectName),
}

/// All slices, with what is held.
#[derive(Debug)]
pub struct Slices {
    window: Duration,
    present: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// The names of the slices of each Service.
    of_service: BTreeMap<Service, BTreeSet<ObjectName>>,
    replay: Option<BTreeMap<ObjectName, Arc<EndpointSlice>>>,
    held: Vec<Held>,
}

/// Namespace and name of a Service.
type Service = (Arc<str>, Arc<str>);

/// First address and pod uid: what an endpoint is known by in all slices of its Service.
type Identity = (Address, Option<Arc<str>>);

/// An endpoint that vanished.
#[derive(Debug)]
struct Held {
    service: Service,
    identity: Identity,
    /// The last version of the slice that had it, and its position there.
    slice: (ObjectName, Arc<EndpointSlice>),
    position: usize,
    until: Duration,
}

fn service(name: &ObjectName, slice: &EndpointSlice) -> Option<Service> {
    Some((Arc::clone(&name.namespace), slice.service.clone()?))
}

fn identity(endpoint: &Endpoint) -> Option<Identity> {
    (endpoint.address != Address::Missing).then(|| (endpoint.address.clone(), endpoint.uid.clone()))
}

fn identities(slice: &EndpointSlice) -> impl Iterator<Item = Identity> {
    slice.endpoints.iter().filter_map(identity)
}

impl Slices {
    /// No slices; what vanishes is held for `window` ([`WINDOW`], or zero for sources that change in one step).
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, present: BTreeMap::new(), of_service: BTreeMap::new(), replay: None, held: Vec::new() }
    }

    /// Takes a change at the time `now`. Returns whether [`slices`](Self::slices) may say something else now.
    pub fn change(&mut self, change: Change, now: Duration) -> bool {
        match change {
            Change::Init => {
                self.replay = Some(BTreeMap::new());
                false
            }
            Change::InitApply(name, slice) => {
                self.replay.get_or_insert_default().insert(name, slice);
                false
            }
            Change::InitDone => {
                let new = self.replay.take().unwrap_or_default();
                let gone: Vec<ObjectName> =
                    self.present.keys().filter(|name| !new.contains_key(name)).cloned().collect();
                new.into_iter().for_each(|(name, slice)| self.set(name, Some(slice), now));
                gone.into_iter().for_each(|name| self.set(name, None, now));
                true
            }
            Change::Apply(name, slice) => {
                self.set(name, Some(slice), now);
                true
            }
            Change::Delete(name) => {
                self.set(name, None, now);
                true
            }
        }
    }

    /// Lets go of what was held long enough. Returns whether there was something.
    pub fn expire(&mut self, now: Duration) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.until > now);
        self.held.len() < before
    }

    /// When [`expire`](Self::expire) has something to do next; `None` while nothing is held.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.held.iter().map(|held| held.until).min()
    }

    /// All slices as the compiler takes them. What is held stands in slices of its own, under names that no object has.
    #[must_use]
    pub fn slices(&self) -> BTreeMap<ObjectName, Sourced<EndpointSlice>> {
        let sourced = |object| Sourced { object, origin: None };
        let present = self.present.iter().map(|(name, slice)| (name.clone(), sourced(Arc::clone(slice))));
        let mut slices: BTreeMap<_, _> = present.collect();
        for (number, held) in self.held.iter().enumerate() {
            let (name, from) = &held.slice;
            let slice = EndpointSlice {
                service: from.service.clone(),
                foreign_type: from.foreign_type.clone(),
                ports: from.ports.clone(),
                endpoints: from.endpoints.get(held.position).cloned().into_iter().collect(),
            };
            // No name of an object has a tilde.
            let name = ObjectName::new(Arc::clone(&name.namespace), format!("{}~{number}", name.name));
            slices.insert(name, sourced(Arc::new(slice)));
        }
        slices
    }

    /// Puts a slice in the place of its former version, or takes it away.
    fn set(&mut self, name: ObjectName, new: Option<Arc<EndpointSlice>>, now: Duration) {
        let old = match &new {
            Some(slice) => self.present.insert(name.clone(), Arc::clone(slice)),
            None => self.present.remove(&name),
        };
        if let Some(service) = old.as_deref().and_then(|old| service(&name, old))
            && let Some(names) = self.of_service.get_mut(&service)
        {
            names.remove(&name);
            if names.is_empty() {
                self.of_service.remove(&service);
            }
        }
        if let Some((service, slice)) = new.as_deref().and_then(|new| Some((service(&name, new)?, new))) {
            // Seen again, in whatever class: what the slice says counts from here on.
            let seen: BTreeSet<Identity> = identities(slice).collect();
            self.held.retain(|held| held.service != service || !seen.contains(&held.identity));
            self.of_service.entry(service).or_default().insert(name.clone());
        }
        if let Some(old) = old {
            self.hold(&name, &old, now);
        }
    }

    /// Holds what was ready in the former version of a slice and is in no slice of its Service any more.
    fn hold(&mut self, name: &ObjectName, old: &Arc<EndpointSlice>, now: Duration) {
        let Some(service) = service(name, old).filter(|_| !self.window.is_zero()) else { return };
        let slices = self.of_service.get(&service).into_iter().flatten().filter_map(|name| self.present.get(name));
        let present: BTreeSet<Identity> = slices.flat_map(|slice| identities(slice)).collect();
        for (position, endpoint) in old.endpoints.iter().enumerate() {
            let Some(identity) = identity(endpoint) else { continue };
            if endpoint.class == Class::Ready && !present.contains(&identity) {
                let (service, slice) = (service.clone(), (name.clone(), Arc::clone(old)));
                self.held.push(Held { service, identity, slice, position, until: now + self.window });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::endpoint_slice::SERVICE_NAME;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("ns", name)
    }

    /// A slice of Service `web`; endpoints as `address[/uid][-]`, with `-` for one that terminates and `!` for one that
    /// is not ready.
    fn slice(endpoints: &str) -> Arc<EndpointSlice> {
        let endpoint = |text: &str| {
            let (terminating, unready) = (text.ends_with('-'), text.ends_with('!'));
            let (address, uid) = text.trim_end_matches(['-', '!']).split_once('/').expect("a uid");
            json!({ "addresses": [address], "targetRef": { "uid": uid },
                "conditions": { "ready": !terminating && !unready, "terminating": terminating } })
        };
        let endpoints: Vec<Value> = endpoints.split_whitespace().map(endpoint).collect();
        let slice = json!({ "metadata": { "labels": { SERVICE_NAME: "web" } }, "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 80 }], "endpoints": endpoints });
        Arc::new(serde_json::from_value(slice).expect("a slice"))
    }

    fn apply(at: &str, endpoints: &str) -> Change {
        Change::Apply(name(at), slice(endpoints))
    }

    /// What the slices have, held or not: the best class of each endpoint.
    fn classes(slices: &Slices) -> BTreeMap<String, Class> {
        let mut classes = BTreeMap::new();
        for slice in slices.slices().into_values() {
            for endpoint in slice.object.endpoints.iter() {
                let (address, uid) = identity(endpoint).expect("an address");
                let class = endpoint.class;
                let known = classes.entry(format!("{address}/{}", uid.expect("a uid"))).or_insert(class);
                *known = class.min(*known);
            }
        }
        classes
    }

    fn ready(slices: &Slices) -> Vec<String> {
        classes(slices).into_iter().filter(|(_, class)| *class == Class::Ready).map(|(name, _)| name).collect()
    }

    fn after(changes: impl IntoIterator<Item = Change>) -> Slices {
        let mut slices = Slices::new(WINDOW);
        for change in changes {
            slices.change(change, MS(0));
        }
        slices
    }

    #[test]
    fn a_move_between_slices_shrinks_nothing_in_either_order() {
        let start = || after([apply("x", "1/a 2/b"), apply("y", "3/c")]);
        let mut removed_first = start();
        removed_first.change(apply("x", "2/b"), MS(10));
        assert_eq!(ready(&removed_first), ["1/a", "2/b", "3/c"], "held");
        assert_eq!(removed_first.next_expiry(), Some(MS(260)));
        removed_first.change(apply("y", "3/c 1/a"), MS(20));
        assert_eq!((ready(&removed_first).len(), removed_first.next_expiry()), (3, None), "seen again");
        let mut added_first = start();
        added_first.change(apply("y", "3/c 1/a"), MS(10));
        added_first.change(apply("x", "2/b"), MS(20));
        assert_eq!((ready(&added_first).len(), added_first.next_expiry()), (3, None), "never gone");
    }

    #[test]
    fn a_disappearance_counts_after_the_window() {
        let mut slices = after([apply("x", "1/a 2/b")]);
        slices.change(apply("x", "2/b"), MS(10));
        assert!(!slices.expire(MS(259)));
        assert_eq!(ready(&slices), ["1/a", "2/b"]);
        slices.change(apply("x", "2/b 3/c"), MS(100));
        assert_eq!(ready(&slices), ["1/a", "2/b", "3/c"], "additions count at once");
        assert!(slices.expire(MS(260)), "and a later change does not make it longer");
        assert_eq!(ready(&slices), ["2/b", "3/c"]);
        assert_eq!(slices.next_expiry(), None);
        assert!(!slices.expire(MS(999)));
    }

    #[test]
    fn a_move_into_another_class_counts_at_once() {
        let mut slices = after([apply("x", "1/a 2/b 3/c")]);
        slices.change(apply("x", "1/a- 2/b! 3/c"), MS(10));
        assert_eq!((ready(&slices), slices.next_expiry()), (vec!["3/c".to_owned()], None));
        slices.change(apply("x", "3/c"), MS(20));
        assert_eq!(slices.next_expiry(), None, "what was not ready is not held");
        slices.change(apply("x", ""), MS(30));
        slices.change(apply("y", "3/c-"), MS(40));
        assert_eq!(
            classes(&slices),
            BTreeMap::from([("3/c".to_owned(), Class::Serving)]),
            "terminating in another slice"
        );
    }

    #[test]
    fn a_new_pod_on_a_held_address_is_another_one() {
        let mut slices = after([apply("x", "1/old")]);
        slices.change(apply("x", "1/new"), MS(10));
        assert_eq!(ready(&slices), ["1/new", "1/old"]);
        assert!(slices.expire(MS(260)));
        assert_eq!(ready(&slices), ["1/new"]);
    }

    #[test]
    fn a_deleted_slice_is_empty_after_the_window() {
        let mut slices = after([apply("x", "1/a"), apply("y", "2/b")]);
        slices.change(Change::Delete(name("x")), MS(10));
        assert_eq!(ready(&slices), ["1/a", "2/b"]);
        slices.change(Change::Delete(name("y")), MS(20));
        assert!(slices.expire(MS(500)));
        assert!(slices.slices().is_empty());
        slices.change(Change::Delete(name("never")), MS(600));
        assert!(slices.slices().is_empty());
    }

    #[test]
    fn a_replay_replaces_the_set_at_its_end_only() {
        // The watch was down, and a 410 begins a replay; half of the endpoints and a whole slice are gone meanwhile.
        let mut slices = after([apply("x", "1/a 2/b"), apply("y", "3/c 4/d")]);
        let before = classes(&slices);
        for change in [Change::Init, Change::InitApply(name("x"), slice("1/a"))] {
            assert!(!slices.change(change, MS(10)));
            assert_eq!(classes(&slices), before, "nothing is taken away by half a replay");
        }
        // It breaks off and begins again.
        slices.change(Change::Init, MS(15));
        slices.change(Change::InitApply(name("x"), slice("1/a 5/e")), MS(20));
        assert!(slices.change(Change::InitDone, MS(30)));
        assert_eq!(ready(&slices), ["1/a", "2/b", "3/c", "4/d", "5/e"], "the rest is held");
        assert!(slices.expire(MS(280)));
        assert_eq!(ready(&slices), ["1/a", "5/e"]);
    }

    #[test]
    fn a_service_deleted_while_the_watch_was_down_is_empty_in_the_end() {
        let mut slices = after([apply("x", "1/a")]);
        slices.change(Change::Init, MS(10));
        assert_eq!(ready(&slices), ["1/a"]);
        slices.change(Change::InitDone, MS(20));
        slices.expire(MS(270));
        assert!(slices.slices().is_empty());
    }

    #[test]
    fn without_a_window_nothing_is_held() {
        let mut slices = Slices::new(Duration::ZERO);
        slices.change(apply("x", "1/a 2/b"), MS(0));
        slices.change(apply("x", "2/b"), MS(0));
        assert_eq!((ready(&slices), slices.next_expiry()), (vec!["2/b".to_owned()], None));
    }

    #[test]
    fn services_are_told_apart() {
        let mut slices = after([apply("x", "1/a")]);
        let mut other = (*slice("1/a")).clone();
        other.service = Some("other".into());
        slices.change(Change::Apply(name("o"), Arc::new(other.clone())), MS(5));
        slices.change(apply("x", ""), MS(10));
        assert_eq!(slices.next_expiry(), Some(MS(260)), "the same pod in another Service does not count");
        slices.change(Change::Apply(name("x"), Arc::new(other)), MS(20));
        assert_eq!(slices.next_expiry(), Some(MS(260)), "nor does its slice, given to another Service");
    }
}
