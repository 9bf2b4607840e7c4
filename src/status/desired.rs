//! The status that a route should have, how it differs from the one that it has, and the patch that makes it so.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::conditions::{ConditionReason, ConditionType};
use crate::api::gateway_route::ParentRef;
use crate::compile::status::{ParentStatus, RouteStatus, Verdict};
use crate::source::stored::{StoredCondition, StoredStatus};

/// The status that a route should have.
#[derive(Clone, Debug)]
pub(super) struct Desired<'a> {
    generation: Option<i64>,
    ready: Condition<'a>,
    parents: Vec<Parent<'a>>,
}

/// An entry of `status.parents`.
#[derive(Clone, Debug)]
struct Parent<'a> {
    key: &'a str,
    parent_ref: &'a ParentRef,
    conditions: Vec<Condition<'a>>,
}

/// A condition without the time of its last transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Condition<'a> {
    kind: ConditionType,
    holds: bool,
    reason: ConditionReason,
    message: &'a str,
}

/// What a write changes about a route, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// Something does not work.
    pub(super) is_warning: bool,
    /// The condition's reason.
    pub(super) reason: ConditionReason,
    /// The condition's message, or what became of the route.
    pub(super) message: String,
}

impl<'a> Condition<'a> {
    fn new(kind: ConditionType, verdict: &'a Verdict) -> Self {
        Self { kind, holds: verdict.holds, reason: verdict.reason, message: &verdict.message }
    }

    const fn plain(kind: ConditionType, holds: bool, reason: ConditionReason) -> Self {
        Self { kind, holds, reason, message: "" }
    }

    /// Something does not work as written.
    const fn is_bad(&self) -> bool {
        match self.kind {
            ConditionType::Ready
            | ConditionType::Accepted
            | ConditionType::ResolvedRefs
            | ConditionType::Programmed => !self.holds,
            ConditionType::PartiallyInvalid | ConditionType::Conflicted => self.holds,
        }
    }

    fn is(&self, stored: &StoredCondition, generation: Option<i64>) -> bool {
        self.says(stored) && stored.observed_generation == generation && stored.since.is_some()
    }

    /// Whether both say the same, perhaps about different generations.
    fn says(&self, stored: &StoredCondition) -> bool {
        stored.kind.is(self.kind)
            && stored.holds == Some(self.holds)
            && stored.reason.is(self.reason)
            && *stored.message == *self.message
    }

    /// The time of the last transition stays for as long as the status does.
    fn to_json(self, stored: Option<&StoredCondition>, generation: Option<i64>, now: Timestamp) -> Value {
        let same = stored.filter(|stored| stored.holds == Some(self.holds));
        json!({
            "type": self.kind.as_str(),
            "status": if self.holds { "True" } else { "False" },
            "reason": self.reason.as_str(),
            "message": self.message,
            "observedGeneration": generation,
            "lastTransitionTime": same.and_then(|stored| stored.since).unwrap_or(now).to_string(),
        })
    }
}

impl<'a> Desired<'a> {
    /// The status of a route that this replica serves as compiled. A route without parents in its spec is one for every
    /// listener that admits it (`is_for_all`): a listener that does not is no fault of the route.
    pub(super) fn of(status: &'a RouteStatus, is_for_all: bool) -> Self {
        let parents: Vec<Parent<'a>> = status.parents.iter().map(Parent::of).collect();
        let is_refused = |parent: &Parent<'_>| {
            let mut conditions = parent.conditions.iter();
            conditions
                .any(|one| one.kind == ConditionType::Accepted && one.reason == ConditionReason::NotAllowedByListeners)
        };
        let is_admitted = is_for_all && !parents.iter().all(is_refused);
        let counted = parents.iter().filter(|parent| !(is_admitted && is_refused(parent)));
        let bad = counted.flat_map(|parent| &parent.conditions).find(|condition| condition.is_bad());
        let ready = match bad {
            Some(Condition { reason, message, .. }) => {
                Condition { kind: ConditionType::Ready, holds: false, reason: *reason, message }
            }
            None => Condition::plain(ConditionType::Ready, true, ConditionReason::Ready),
        };
        Self { generation: status.generation, ready, parents }
    }

    /// The status of a route that cannot be read, at the parents that it would have.
    pub(super) fn unreadable(
        generation: Option<i64>,
        message: &'a str,
        parents: impl Iterator<Item = (&'a str, &'a ParentRef)>,
    ) -> Self {
        let refused = |kind| Condition { kind, holds: false, reason: ConditionReason::UnsupportedValue, message };
        let conditions = vec![
            refused(ConditionType::Accepted),
            Condition::plain(ConditionType::Programmed, false, ConditionReason::Invalid),
        ];
        let parents = parents.map(|(key, parent_ref)| Parent { key, parent_ref, conditions: conditions.clone() });
        Self { generation, ready: refused(ConditionType::Ready), parents: parents.collect() }
    }

    /// Whether the stored status is another one. When conditions last changed is no difference.
    pub(super) fn differs(&self, stored: &StoredStatus) -> bool {
        let is_same = |parent: &Parent<'_>| {
            let Some(stored) = stored.parent(parent.key) else { return false };
            let mut conditions = parent.conditions.iter();
            stored.conditions.len() == parent.conditions.len()
                && conditions
                    .all(|one| stored.condition(one.kind).is_some_and(|stored| one.is(stored, self.generation)))
        };
        stored.observed_generation != self.generation
            || stored.parents.len() != self.parents.len()
            || !stored.ready.as_ref().is_some_and(|ready| self.ready.is(ready, self.generation))
            || !self.parents.iter().all(is_same)
    }

    /// A number that is the same for what says the same.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.generation, self.ready).hash(&mut hasher);
        for parent in &self.parents {
            (parent.key, &parent.conditions).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The `status` to apply.
    pub(super) fn to_json(&self, controller_name: &str, stored: &StoredStatus, now: Timestamp) -> Value {
        // Times of conditions have whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let parent = |parent: &Parent<'_>| {
            let stored = stored.parent(parent.key);
            let condition = |one: &Condition<'_>| {
                one.to_json(stored.and_then(|stored| stored.condition(one.kind)), self.generation, now)
            };
            json!({
                "controllerName": controller_name,
                "ref": parent.key,
                "parentRef": parent.parent_ref,
                "conditions": parent.conditions.iter().map(condition).collect::<Vec<_>>(),
            })
        };
        json!({
            "observedGeneration": self.generation,
            "conditions": [self.ready.to_json(stored.ready.as_ref(), self.generation, now)],
            "parents": self.parents.iter().map(parent).collect::<Vec<_>>(),
        })
    }

    /// What is worth telling about the step from the stored status to this one: that the route serves now, and what is
    /// newly wrong; each thing once, at however many parents.
    pub(super) fn notices(&self, stored: &StoredStatus) -> Vec<Notice> {
        let mut notices = Vec::new();
        if self.ready.holds && stored.ready.as_ref().and_then(|ready| ready.holds) != Some(true) {
            let parents = match self.parents.len() {
                1 => "1 parent".to_owned(),
                count => format!("{count} parents"),
            };
            let message = format!("Serves as written at {parents}");
            notices.push(Notice { is_warning: false, reason: ConditionReason::Ready, message });
        }
        for parent in &self.parents {
            let stored = stored.parent(parent.key);
            // That nothing is programmed follows from something else that is said.
            let worth = |one: &&Condition<'_>| one.is_bad() && one.kind != ConditionType::Programmed;
            for one in parent.conditions.iter().filter(worth) {
                let is_known =
                    stored.and_then(|stored| stored.condition(one.kind)).is_some_and(|stored| one.says(stored));
                let notice = Notice { is_warning: true, reason: one.reason, message: one.message.to_owned() };
                if !is_known && !notices.contains(&notice) {
                    notices.push(notice);
                }
            }
        }
        notices
    }
}

impl<'a> Parent<'a> {
    fn of(status: &'a ParentStatus) -> Self {
        let programmed = match status.accepted.holds {
            true => Condition::plain(ConditionType::Programmed, true, ConditionReason::Programmed),
            false => Condition::plain(ConditionType::Programmed, false, ConditionReason::Invalid),
        };
        let mut conditions = vec![
            Condition::new(ConditionType::Accepted, &status.accepted),
            Condition::new(ConditionType::ResolvedRefs, &status.resolved_refs),
            programmed,
        ];
        let partially = status.partially_invalid.as_ref();
        conditions.extend(partially.map(|verdict| Condition::new(ConditionType::PartiallyInvalid, verdict)));
        conditions.push(Condition::new(ConditionType::Conflicted, &status.conflicted));
        Self { key: &status.key, parent_ref: &status.parent_ref, conditions }
    }
}

#[cfg(test)]
mod tests;
