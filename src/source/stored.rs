//! What an API server keeps about the status of a route, as far as it is ours: enough to tell whether there is something
//! to write, and little enough to be kept for thousands of routes.
//!
//! Of our own entries that is whether they say what they should, so their texts are held as fingerprints. Ready is made of
//! what other controllers say, too: their entries, which few routes have, are held as they are written.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroI64;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::api::conditions::{ConditionReason, ConditionType};
use crate::api::gateway_route::DEFAULT_CLASS;
use crate::api::open_enum::{KnownValue, OpenEnum};
use crate::model::ids::ObjectName;

/// Whose routes and status entries are ours.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `controllerName` of status entries.
    pub controller_name: Box<str>,
    /// Class of routes.
    pub gateway_class_name: Box<str>,
}

impl Identity {
    /// The name under which fields are owned by server-side apply, of at most 128 characters. Each controller has its own
    /// for each class: of two that differ in their classes alone, none takes back what the other has written.
    #[must_use]
    pub fn field_manager(&self) -> String {
        let name = format!("tidegate:{}:{}", self.controller_name, self.gateway_class_name);
        match name.len() {
            0..=128 => name,
            _ => format!("tidegate:{:016x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes())),
        }
    }
}

/// A route as the API server has it, without what it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRoute {
    /// `metadata.uid`; tells an object from a later one of the same name.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The route is of our class, as far as that can be read.
    pub is_of_class: bool,
    /// It names no parents, and so asks for every listener that admits it.
    pub is_for_all: bool,
    /// Fields of its status are ours.
    pub is_managed: bool,
    /// Why this version of tidegate cannot read the object.
    pub problem: Option<Box<str>>,
    /// Its status, as far as it matters to us.
    pub status: StoredStatus,
}

/// A status, as far as it matters to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredStatus {
    /// `status.observedGeneration`.
    pub observed_generation: Option<i64>,
    /// The condition Ready of `status.conditions`.
    pub ready: Option<StoredCondition>,
    /// Entries of `status.parents` with our `controllerName`, in their order.
    pub parents: Box<[StoredParent]>,
    /// Entries of other controllers, which have a part in Ready.
    pub others: Box<[OtherParent]>,
}

/// An entry of `status.parents` that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredParent {
    /// The [`fingerprint`] of `ref`.
    pub key: u64,
    /// The [`fingerprint`] of `hostnames`.
    pub hostnames: u64,
    /// Its conditions.
    pub conditions: Box<[StoredCondition]>,
}

/// A condition that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCondition {
    /// `type`; `None` for one that we do not write.
    pub kind: Option<ConditionType>,
    /// `status`: `None` for `Unknown`.
    pub holds: Option<bool>,
    /// The [`fingerprint`] of `reason` and `message`.
    pub text: u64,
    /// `observedGeneration`.
    pub observed_generation: Option<i64>,
    /// `lastTransitionTime` in seconds, which are all that it has; `None` when it cannot be read, or is the zero that
    /// stands for no time.
    since: Option<NonZeroI64>,
}

/// An entry of `status.parents` that another controller has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherParent {
    /// `controllerName`.
    pub controller: Box<str>,
    /// `ref`.
    pub key: Box<str>,
    /// Its conditions.
    pub conditions: Box<[OtherCondition]>,
}

/// A condition that another controller has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherCondition {
    /// `type`.
    pub kind: OpenEnum<ConditionType>,
    /// `status`: `None` for `Unknown`.
    pub holds: Option<bool>,
    /// `reason`.
    pub reason: OpenEnum<ConditionReason>,
    /// `message`.
    pub message: Box<str>,
    /// `observedGeneration`.
    pub observed_generation: Option<i64>,
}

/// What happened to routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// All routes of a namespace, or of all: others are gone.
    All(Option<Box<str>>, Vec<(ObjectName, StoredRoute)>),
    /// A route is new or changed.
    One(ObjectName, StoredRoute),
    /// A route is gone.
    Gone(ObjectName),
}

impl StoredRoute {
    /// Reads what an API server sends; what is not as it should be counts as missing, and so is written anew.
    #[must_use]
    pub fn read(object: &Value, identity: &Identity) -> Self {
        let metadata = &object["metadata"];
        let class = object["spec"]["gatewayClassName"].as_str().unwrap_or(DEFAULT_CLASS);
        Self {
            uid: text(&metadata["uid"]).into(),
            generation: metadata["generation"].as_i64(),
            is_of_class: class == &*identity.gateway_class_name,
            is_for_all: object["spec"]["parentRefs"].as_array().is_none_or(Vec::is_empty),
            is_managed: is_managed(&metadata["managedFields"], identity),
            problem: None,
            status: StoredStatus::read(&object["status"], identity),
        }
    }
}

impl StoredStatus {
    fn read(status: &Value, identity: &Identity) -> Self {
        let (mut parents, mut others) = (Vec::new(), Vec::new());
        for entry in items(&status["parents"]) {
            match entry["controllerName"].as_str() {
                Some(name) if name == &*identity.controller_name => parents.push(StoredParent::read(entry)),
                Some(name) => others.push(OtherParent::read(name, entry)),
                None => {}
            }
        }
        let mut conditions = items(&status["conditions"]);
        let ready = conditions.find(|condition| condition["type"].as_str() == Some(ConditionType::Ready.as_str()));
        Self {
            observed_generation: status["observedGeneration"].as_i64(),
            ready: ready.map(StoredCondition::read),
            parents: parents.into(),
            others: others.into(),
        }
    }

    /// The entry with a key.
    #[must_use]
    pub fn parent(&self, key: &str) -> Option<&StoredParent> {
        let key = fingerprint([key]);
        self.parents.iter().find(|parent| parent.key == key)
    }
}

impl StoredParent {
    fn read(entry: &Value) -> Self {
        Self {
            key: fingerprint([text(&entry["ref"])]),
            hostnames: fingerprint(items(&entry["hostnames"]).filter_map(Value::as_str)),
            conditions: items(&entry["conditions"]).map(StoredCondition::read).collect(),
        }
    }

    /// The condition of a type.
    #[must_use]
    pub fn condition(&self, kind: ConditionType) -> Option<&StoredCondition> {
        self.conditions.iter().find(|condition| condition.kind == Some(kind))
    }
}

impl StoredCondition {
    fn read(condition: &Value) -> Self {
        let since = condition["lastTransitionTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        Self {
            kind: ConditionType::from_name(text(&condition["type"])),
            holds: holds(condition),
            text: fingerprint([text(&condition["reason"]), text(&condition["message"])]),
            observed_generation: condition["observedGeneration"].as_i64(),
            since: since.and_then(|time| NonZeroI64::new(time.as_second())),
        }
    }

    /// `lastTransitionTime`.
    #[must_use]
    pub fn since(&self) -> Option<Timestamp> {
        self.since.and_then(|seconds| Timestamp::from_second(seconds.get()).ok())
    }
}

impl OtherParent {
    fn read(controller: &str, entry: &Value) -> Self {
        Self {
            controller: controller.into(),
            key: text(&entry["ref"]).into(),
            conditions: items(&entry["conditions"]).map(OtherCondition::read).collect(),
        }
    }
}

impl OtherCondition {
    fn read(condition: &Value) -> Self {
        Self {
            kind: name(&condition["type"]),
            holds: holds(condition),
            reason: name(&condition["reason"]),
            message: text(&condition["message"]).into(),
            observed_generation: condition["observedGeneration"].as_i64(),
        }
    }
}

/// A number that is the same for the same texts in the same order: enough to see that they differ.
#[must_use]
pub fn fingerprint<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> u64 {
    let mut hasher = DefaultHasher::new();
    texts.into_iter().for_each(|text| text.as_ref().hash(&mut hasher));
    hasher.finish()
}

fn is_managed(managers: &Value, identity: &Identity) -> bool {
    let mut managers = items(managers).filter(|manager| manager["subresource"] == "status").peekable();
    managers.peek().is_some() && {
        let name = identity.field_manager();
        managers.any(|manager| manager["manager"] == *name)
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn holds(condition: &Value) -> Option<bool> {
    match condition["status"].as_str() {
        Some("True") => Some(true),
        Some("False") => Some(false),
        Some(_) | None => None,
    }
}

fn name<T: KnownValue>(value: &Value) -> OpenEnum<T> {
    let name = text(value);
    T::from_name(name).map_or_else(|| OpenEnum::Unknown(name.into()), OpenEnum::Known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn identity() -> Identity {
        Identity { controller_name: "tidegate.dev/controller".into(), gateway_class_name: "tidegate".into() }
    }

    #[test]
    fn what_is_ours_is_kept_and_nothing_else() {
        let condition = json!({
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 3,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        });
        let object = json!({
            "metadata": { "uid": "u", "generation": 3 },
            "spec": {},
            "status": {
                "observedGeneration": 3,
                "conditions": [
                    { "type": "Synced" },
                    { "type": "Ready", "status": "False", "reason": "Strange", "message": "m" },
                ],
                "parents": [
                    { "controllerName": "other.example/x", "ref": "a", "conditions": [condition] },
                    { "controllerName": "tidegate.dev/controller", "ref": "b", "conditions": [condition, 5] },
                ],
            },
        });
        let route = StoredRoute::read(&object, &identity());
        assert_eq!((&*route.uid, route.generation, route.is_of_class), ("u", Some(3), true));
        let ready = route.status.ready.as_ref().expect("it is there");
        assert_eq!((ready.holds, ready.text, ready.since()), (Some(false), fingerprint(["Strange", "m"]), None));
        assert_eq!(route.status.parents.len(), 1);
        let accepted = route.status.parent("b").and_then(|parent| parent.condition(ConditionType::Accepted));
        let accepted = accepted.expect("it is there");
        assert_eq!((accepted.holds, accepted.observed_generation), (Some(true), Some(3)));
        assert_eq!(accepted.since().map(|time| time.to_string()).as_deref(), Some("2026-01-02T03:04:05Z"));
        assert!(route.status.parent("a").is_none());
        let other = &route.status.others[0];
        assert_eq!((&*other.controller, &*other.key, other.conditions.len()), ("other.example/x", "a", 1));
    }

    /// Thousands of them are held for the life of the process.
    #[test]
    fn what_is_held_is_small() {
        assert_eq!((size_of::<StoredRoute>(), size_of::<StoredParent>(), size_of::<StoredCondition>()), (144, 32, 40));
    }

    #[test]
    fn texts_are_told_apart_as_lists() {
        let all: &[&[&str]] = &[&[], &[""], &["ab"], &["a", "b"], &["b", "a"], &["ab", ""], &["", "ab"]];
        let numbers: std::collections::BTreeSet<u64> = all.iter().map(|texts| fingerprint(texts.iter())).collect();
        assert_eq!(numbers.len(), all.len());
    }

    #[test]
    fn each_controller_owns_its_fields_for_each_class() {
        let of = |controller: &str, class: &str| {
            Identity { controller_name: controller.into(), gateway_class_name: class.into() }.field_manager()
        };
        assert_eq!(identity().field_manager(), "tidegate:tidegate.dev/controller:tidegate");
        let long = "a".repeat(200);
        assert!(of(&long, "b") != of(&long, "c") && of(&long, "b").len() <= 128);
        let managed = |manager: &str, subresource: &str| {
            let managers = json!([{ "manager": "x" }, { "manager": manager, "subresource": subresource }]);
            StoredRoute::read(&json!({ "metadata": { "managedFields": managers } }), &identity()).is_managed
        };
        assert!(managed("tidegate:tidegate.dev/controller:tidegate", "status"));
        assert!(!managed("tidegate:tidegate.dev/controller:tidegate", ""));
        assert!(!managed("tidegate:tidegate.dev/controller:other", "status"));
    }

    #[test]
    fn nonsense_is_as_good_as_nothing() {
        for status in [json!(null), json!(5), json!({ "parents": 5, "conditions": {} }), json!({ "parents": [5] })] {
            let object = json!({ "spec": { "gatewayClassName": "other", "parentRefs": [{}] }, "status": status });
            let route = StoredRoute::read(&object, &identity());
            assert_eq!(route, StoredRoute::default(), "{object}");
        }
    }
}
