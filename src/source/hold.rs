//! EndpointSlices as a watch tells them, steadied: what vanishes without a word is held for a moment.
//!
//! Changes over several slices are not atomic: when an endpoint moves, its removal can arrive before its addition, and a
//! pool that shrinks for that moment sends its requests elsewhere. So additions and moves into another class count at
//! once; an endpoint that was ready and is gone, not seen to terminate, stays for up to [`WINDOW`]. A list that leaves a
//! Service without any endpoint is believed much later still: API servers lose data more often than all pods vanish
//! while nobody watches.
//!
//! A pure state machine: the clock is an argument (any steady one). It knows no watch and no Services: a Service that is
//! deleted takes its backends away in the compiler, whatever is held here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::kinds::endpoint::{Address, Class, Endpoint};
use crate::kinds::endpoint_slice::{EndpointSlice, SliceParts};
use crate::kinds::{Map, Sourced};
use crate::model::ids::ObjectName;

/// How long a bare disappearance is held: longer than the parts of one move are apart, too short to matter for a pod
/// that is really gone (connects to it are refused and go elsewhere).
pub const WINDOW: Duration = Duration::from_millis(250);

/// What happens to slices.
#[derive(Clone, Debug)]
pub enum Change {
    /// A slice is new or changed.
    Apply(ObjectName, Arc<EndpointSlice>),
    /// A slice is gone.
    Delete(ObjectName),
}

/// All slices, with what is held.
#[derive(Debug)]
pub struct Slices {
    window: Duration,
    parts: SliceParts,
    present: Map<EndpointSlice>,
    /// Each Service with the name of each of its slices: one set, since most Services have one slice.
    of_service: BTreeSet<(Service, Arc<str>)>,
    /// What is held of each Service.
    held: BTreeMap<Service, Vec<Held>>,
}

/// Namespace and name of a Service.
type Service = (Arc<str>, Arc<str>);

/// First address and pod uid: what an endpoint is known by in all slices of its Service.
type Identity = (Address, Option<Arc<str>>);

/// An endpoint that vanished.
#[derive(Debug)]
struct Held {
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

/// Whether a slice holds an endpoint that vanished: no name of an object has a tilde.
#[must_use]
pub fn is_held(name: &ObjectName) -> bool {
    name.name.contains('~')
}

impl Slices {
    /// No slices; what vanishes is held for `window` ([`WINDOW`], or zero for sources that change in one step).
    #[must_use]
    pub fn new(window: Duration) -> Self {
        let (parts, present) = (SliceParts::default(), Map::default());
        Self { window, parts, present, of_service: BTreeSet::new(), held: BTreeMap::new() }
    }

    /// Takes a change at the time `now`. Returns whether [`slices`](Self::slices) says something else now.
    pub fn change(&mut self, change: Change, now: Duration) -> bool {
        match change {
            Change::Apply(name, mut slice) => {
                let is_new = self.get(&name) != Some(&slice);
                if is_new {
                    // One that somebody else holds stays as it is.
                    if let Some(slice) = Arc::get_mut(&mut slice) {
                        self.parts.share(slice);
                    }
                    self.set(name, Some(slice), now);
                }
                is_new
            }
            Change::Delete(name) => {
                let is_known = self.present.contains_key(&name);
                if is_known {
                    self.set(name, None, now);
                }
                is_known
            }
        }
    }

    /// Takes a whole list in the place of `names`: slices of these that are not in it are gone. Of a Service that loses
    /// all its endpoints by that, those that were ready are held for `guard`, since a list that lacks so much is rather
    /// wrong than true. Returns whether something changed, and how many Services are held so.
    pub fn replace(
        &mut self,
        names: &BTreeSet<ObjectName>,
        list: BTreeMap<ObjectName, Arc<EndpointSlice>>,
        now: Duration,
        guard: Duration,
    ) -> (bool, usize) {
        let gone = names.iter().filter(|name| !list.contains_key(*name)).cloned().map(Change::Delete);
        let changes: Vec<Change> = gone.collect();
        let mut lost = BTreeSet::new();
        let mut is_changed = false;
        for change in list.into_iter().map(|(name, slice)| Change::Apply(name, slice)).chain(changes) {
            let (Change::Apply(name, _) | Change::Delete(name)) = &change;
            let of = self.get(name).and_then(|slice| service(name, slice));
            if self.change(change, now) {
                is_changed = true;
                lost.extend(of);
            }
        }
        lost.retain(|service| self.held.contains_key(service) && self.identities_of(service).is_empty());
        for service in &lost {
            for held in self.held.get_mut(service).into_iter().flatten() {
                held.until = held.until.max(now + guard);
            }
        }
        (is_changed, lost.len())
    }

    /// Gives back what maps have in reserve, after many slices have come.
    pub fn shrink(&mut self) {
        self.of_service = std::mem::take(&mut self.of_service).into_iter().collect();
    }

    /// The present version of a slice.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<&Arc<EndpointSlice>> {
        self.present.get(name).map(|slice| &slice.object)
    }

    /// Lets go of what was held long enough. Returns whether there was something.
    pub fn expire(&mut self, now: Duration) -> bool {
        let mut is_changed = false;
        self.held.retain(|_, held| {
            let before = held.len();
            held.retain(|held| held.until > now);
            is_changed |= held.len() < before;
            !held.is_empty()
        });
        is_changed
    }

    /// When [`expire`](Self::expire) has something to do next; `None` while nothing is held.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.held.values().flatten().map(|held| held.until).min()
    }

    /// How many endpoints are held for longer than a move takes, since a list lacks all of their Services.
    #[must_use]
    pub fn guarded(&self, now: Duration) -> usize {
        self.held.values().flatten().filter(|held| held.until > now + self.window).count()
    }

    /// All slices as the compiler takes them. What is held stands in slices of its own, under names that no object has.
    #[must_use]
    pub fn slices(&self) -> Map<EndpointSlice> {
        let mut slices = self.present.clone();
        for (number, held) in self.held.values().flatten().enumerate() {
            let (name, from) = &held.slice;
            let slice = EndpointSlice {
                service: from.service.clone(),
                foreign_type: from.foreign_type.clone(),
                ports: from.ports.clone(),
                endpoints: from.endpoints.get(held.position).cloned().into_iter().collect(),
            };
            // See `is_held`.
            let name = ObjectName::new(Arc::clone(&name.namespace), format!("{}~{number}", name.name));
            slices.insert(name, Sourced { object: Arc::new(slice), origin: None });
        }
        slices
    }

    /// Puts a slice in the place of its former version, or takes it away.
    fn set(&mut self, name: ObjectName, new: Option<Arc<EndpointSlice>>, now: Duration) {
        let old = match &new {
            Some(slice) => self.present.insert(name.clone(), Sourced { object: Arc::clone(slice), origin: None }),
            None => self.present.remove(&name),
        };
        let old = old.map(|old| old.object);
        if let Some(service) = old.as_deref().and_then(|old| service(&name, old)) {
            self.of_service.remove(&(service, Arc::clone(&name.name)));
        }
        if let Some((service, slice)) = new.as_deref().and_then(|new| Some((service(&name, new)?, new))) {
            if let Some(held) = self.held.get_mut(&service) {
                // Seen again, in whatever class: what the slice says counts from here on. And where something else is
                // ready, the rest need not be held for longer than a move takes.
                let seen: BTreeSet<Identity> = identities(slice).collect();
                let is_served = slice.endpoints.iter().any(|endpoint| endpoint.class == Class::Ready);
                let latest = if is_served { now + self.window } else { Duration::MAX };
                held.retain_mut(|held| {
                    held.until = held.until.min(latest);
                    !seen.contains(&held.identity)
                });
                if held.is_empty() {
                    self.held.remove(&service);
                }
            }
            self.of_service.insert((service, Arc::clone(&name.name)));
        }
        if let Some(old) = old {
            self.hold(&name, &old, now);
        }
    }

    /// Holds what was ready in the former version of a slice and is in no slice of its Service any more.
    fn hold(&mut self, name: &ObjectName, old: &Arc<EndpointSlice>, now: Duration) {
        let Some(service) = service(name, old).filter(|_| !self.window.is_zero()) else { return };
        let present = self.identities_of(&service);
        for (position, endpoint) in old.endpoints.iter().enumerate() {
            let Some(identity) = identity(endpoint) else { continue };
            if endpoint.class == Class::Ready && !present.contains(&identity) {
                let slice = (name.clone(), Arc::clone(old));
                let held = Held { identity, slice, position, until: now + self.window };
                self.held.entry(service.clone()).or_default().push(held);
            }
        }
    }

    /// What is in the present slices of a Service, whatever its class.
    fn identities_of(&self, service: &Service) -> BTreeSet<Identity> {
        // No name comes before the empty one.
        let from = (service.clone(), Arc::from(""));
        let of_service = self.of_service.range(from..).take_while(|(of, _)| of == service);
        let slices = of_service.filter_map(|((namespace, _), name)| {
            self.get(&ObjectName { namespace: Arc::clone(namespace), name: Arc::clone(name) })
        });
        slices.flat_map(|slice| identities(slice)).collect()
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

    #[test]
    fn slices_share_what_they_have_in_common() {
        let on_node = |node: &str| {
            let slice = json!({ "metadata": {}, "addressType": "IPv4", "ports": [{ "name": "http", "port": 80 }],
                "endpoints": [{ "addresses": ["10.0.0.1"], "nodeName": node }] });
            Arc::new(serde_json::from_value(slice).expect("a slice"))
        };
        let mut slices = Slices::new(WINDOW);
        for (at, node) in [("a", "one"), ("b", "one"), ("c", "two")] {
            slices.change(Change::Apply(name(at), on_node(node)), MS(0));
        }
        let [a, b, c] = ["a", "b", "c"].map(|at| slices.get(&name(at)).expect("a slice"));
        let place = |slice: &Arc<EndpointSlice>| slice.endpoints[0].place.clone().expect("a place");
        assert!(Arc::ptr_eq(&place(a), &place(b)));
        assert_eq!(place(c).node.as_deref(), Some("two"));
        assert!(Arc::ptr_eq(&a.ports, &b.ports) && Arc::ptr_eq(&a.ports, &c.ports));
    }

    /// What the slices have, held or not: the best class of each endpoint.
    fn classes(slices: &Slices) -> BTreeMap<String, Class> {
        let mut classes = BTreeMap::new();
        for slice in slices.slices().values() {
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

    /// A list in the place of all slices; whether something changed, and how many Services are guarded.
    fn replace(slices: &mut Slices, list: &[(&str, &str)], now: u64) -> (bool, usize) {
        let names = slices.present.keys().cloned().collect();
        let list = list.iter().map(|(at, endpoints)| (name(at), slice(endpoints))).collect();
        slices.replace(&names, list, MS(now), GUARD)
    }

    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn a_list_replaces_the_slices() {
        // The watch was down; half of the endpoints and a whole slice are gone meanwhile.
        let mut slices = after([apply("x", "1/a 2/b"), apply("y", "3/c 4/d")]);
        assert_eq!(replace(&mut slices, &[("x", "1/a 5/e")], 30), (true, 0));
        assert_eq!(ready(&slices), ["1/a", "2/b", "3/c", "4/d", "5/e"], "the rest is held");
        assert!(slices.expire(MS(280)));
        assert_eq!(ready(&slices), ["1/a", "5/e"]);
        assert_eq!(replace(&mut slices, &[("x", "1/a 5/e")], 300), (false, 0), "the same again");
    }

    #[test]
    fn a_service_that_a_list_leaves_without_endpoints_is_held_for_longer() {
        let mut slices = after([apply("x", "1/a"), apply("y", "2/b 3/c!")]);
        assert_eq!(replace(&mut slices, &[("x", "")], 20), (true, 1));
        assert!(!slices.expire(MS(60_019)));
        assert_eq!(ready(&slices), ["1/a", "2/b"]);
        assert!(slices.expire(MS(60_020)));
        assert!(ready(&slices).is_empty());
    }

    #[test]
    fn what_a_list_says_of_the_pods_counts_at_once() {
        let mut slices = after([apply("x", "1/a")]);
        assert_eq!(replace(&mut slices, &[("x", "1/a!")], 20), (true, 0), "not gone, but not ready");
        assert!(ready(&slices).is_empty());
    }

    #[test]
    fn a_service_that_is_served_again_lets_go_of_what_was_held() {
        let mut slices = after([apply("x", "1/a 2/b")]);
        assert_eq!(replace(&mut slices, &[], 20), (true, 1));
        slices.change(apply("x", "2/b 3/c"), MS(1000));
        assert_eq!(ready(&slices), ["1/a", "2/b", "3/c"]);
        assert!(slices.expire(MS(1250)));
        assert_eq!(ready(&slices), ["2/b", "3/c"]);
    }

    #[test]
    fn a_single_removal_is_believed() {
        let mut slices = after([apply("x", "1/a")]);
        assert!(slices.change(Change::Delete(name("x")), MS(10)));
        assert!(slices.expire(MS(260)));
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
