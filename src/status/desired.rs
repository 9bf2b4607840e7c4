//! The status that a route should have, how it differs from the one that it has, and the patch that makes it so.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::conditions::{ConditionReason, ConditionType};
use crate::api::gateway_route::ParentRef;
use crate::compile::status::{ParentStatus, RouteStatus, Verdict};
use crate::model::matching::Hostname;
use crate::source::stored::{OtherCondition, OtherParent, StoredCondition, StoredStatus, fingerprint};

/// Hostnames of one entry, as many as the schema takes: a child of several routes may be served for more.
const MOST_HOSTNAMES: usize = 64;

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
    /// Those on which the route is served there.
    hostnames: &'a [Hostname],
    conditions: Vec<Condition<'a>>,
}

/// A condition without the time of its last transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Condition<'a> {
    kind: ConditionType,
    holds: bool,
    reason: &'a str,
    message: &'a str,
}

/// What a status has a part in beside the entries that are ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside<'a> {
    /// The name under which our entries stand.
    pub(super) controller: &'a str,
    /// The route names no parents.
    pub(super) is_for_all: bool,
    /// What other controllers have said.
    pub(super) others: &'a [OtherParent],
}

/// An entry of some controller, as far as Ready is made of it.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    controller: &'a str,
    key: &'a str,
    /// The listener does not admit the route.
    is_refused: bool,
    /// The first condition that is not as it should be, in the order of their types.
    fault: Option<Condition<'a>>,
}

/// What a write changes about a route, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// Something does not work.
    pub(super) is_warning: bool,
    /// The condition's reason.
    pub(super) reason: Box<str>,
    /// The condition's message, or what became of the route.
    pub(super) message: String,
}

impl<'a> Condition<'a> {
    fn new(kind: ConditionType, verdict: &'a Verdict) -> Self {
        Self { kind, holds: verdict.holds, reason: verdict.reason.as_str(), message: &verdict.message }
    }

    fn plain(kind: ConditionType, holds: bool, reason: ConditionReason) -> Self {
        Self { kind, holds, reason: reason.as_str(), message: "" }
    }

    /// A condition that another controller has written; `None` for one that this version does not know, and for one of
    /// another generation.
    fn of_other(stored: &'a OtherCondition, generation: Option<i64>) -> Option<Self> {
        let kind = stored.kind.known().filter(|_| stored.observed_generation == generation)?;
        // Unknown is not True.
        let holds = stored.holds == Some(true);
        Some(Self { kind, holds, reason: stored.reason.as_str(), message: &stored.message })
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
        self.says(stored) && stored.observed_generation == generation && stored.since().is_some()
    }

    /// Whether both say the same, perhaps about different generations.
    fn says(&self, stored: &StoredCondition) -> bool {
        stored.kind == Some(self.kind)
            && stored.holds == Some(self.holds)
            && stored.text == fingerprint([self.reason, self.message])
    }

    /// The time of the last transition stays for as long as the status does.
    fn to_json(self, stored: Option<&StoredCondition>, generation: Option<i64>, now: Timestamp) -> Value {
        let same = stored.filter(|stored| stored.holds == Some(self.holds));
        json!({
            "type": self.kind.as_str(),
            "status": if self.holds { "True" } else { "False" },
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
            "lastTransitionTime": same.and_then(StoredCondition::since).unwrap_or(now).to_string(),
        })
    }
}

impl<'a> Entry<'a> {
    fn own(controller: &'a str, parent: &Parent<'a>) -> Self {
        Self::new(controller, parent.key, parent.conditions.iter().copied())
    }

    /// `None` for an entry that says nothing about this generation: nobody has looked at it yet, or its controller is
    /// gone.
    fn of_other(other: &'a OtherParent, generation: Option<i64>) -> Option<Self> {
        let mut conditions =
            other.conditions.iter().filter_map(|condition| Condition::of_other(condition, generation)).peekable();
        conditions.peek()?;
        Some(Self::new(&other.controller, &other.key, conditions))
    }

    fn new(controller: &'a str, key: &'a str, conditions: impl Iterator<Item = Condition<'a>>) -> Self {
        let mut entry = Self { controller, key, is_refused: false, fault: None };
        for one in conditions.filter(Condition::is_bad) {
            let refusal = ConditionReason::NotAllowedByListeners.as_str();
            entry.is_refused |= one.kind == ConditionType::Accepted && one.reason == refusal;
            if entry.fault.is_none_or(|fault| (one.kind as usize) < fault.kind as usize) {
                entry.fault = Some(one);
            }
        }
        entry
    }
}

impl<'a> Beside<'a> {
    /// Ready, which all controllers of a route share: all of them come to the same, whoever asks, so that none takes back
    /// what another one has written. A route without parents in its spec is one for every listener that admits it: a
    /// listener that does not is no fault of the route.
    fn ready(&self, own: &[Parent<'a>], generation: Option<i64>) -> Condition<'a> {
        let own = own.iter().map(|parent| Entry::own(self.controller, parent));
        let others = self.others.iter().filter_map(|other| Entry::of_other(other, generation));
        let entries: Vec<Entry<'a>> = own.chain(others).collect();
        let is_admitted = |by: &str| entries.iter().any(|entry| entry.controller == by && !entry.is_refused);
        let counted =
            entries.iter().filter(|entry| !(self.is_for_all && entry.is_refused && is_admitted(entry.controller)));
        let faults = counted.filter_map(|entry| Some(((entry.controller, entry.key), entry.fault?)));
        match faults.min_by_key(|(at, _)| *at) {
            Some((_, Condition { reason, message, .. })) => {
                Condition { kind: ConditionType::Ready, holds: false, reason, message }
            }
            None => Condition::plain(ConditionType::Ready, true, ConditionReason::Ready),
        }
    }
}

impl<'a> Desired<'a> {
    /// The status of a route that this replica serves as compiled.
    pub(super) fn of(status: &'a RouteStatus, beside: Beside<'a>) -> Self {
        let parents: Vec<Parent<'a>> = status
            .parents
            .iter()
            .enumerate()
            .map(|(position, parent)| Parent::of(parent, status.hostnames.at(position)))
            .collect();
        Self { generation: status.generation, ready: beside.ready(&parents, status.generation), parents }
    }

    /// The status of a route that cannot be read, at the parents that it would have.
    pub(super) fn unreadable(
        generation: Option<i64>,
        message: &'a str,
        parents: impl Iterator<Item = (&'a str, &'a ParentRef)>,
        beside: Beside<'a>,
    ) -> Self {
        let reason = ConditionReason::UnsupportedValue.as_str();
        let refused = |kind| Condition { kind, holds: false, reason, message };
        let conditions = vec![
            refused(ConditionType::Accepted),
            Condition::plain(ConditionType::Programmed, false, ConditionReason::Invalid),
        ];
        let parents =
            parents.map(|(key, parent_ref)| Parent { key, parent_ref, hostnames: &[], conditions: conditions.clone() });
        let parents: Vec<Parent<'a>> = parents.collect();
        let ready = match parents.is_empty() {
            true => refused(ConditionType::Ready),
            false => beside.ready(&parents, generation),
        };
        Self { generation, ready, parents }
    }

    /// Whether the stored status is another one. When conditions last changed is no difference.
    pub(super) fn differs(&self, stored: &StoredStatus) -> bool {
        let is_same = |parent: &Parent<'_>| {
            let Some(stored) = stored.parent(parent.key) else { return false };
            let mut conditions = parent.conditions.iter();
            stored.conditions.len() == parent.conditions.len()
                && stored.hostnames == fingerprint(parent.hostnames())
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
            (parent.key, &parent.conditions, fingerprint(parent.hostnames())).hash(&mut hasher);
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
            let mut entry = json!({
                "controllerName": controller_name,
                "ref": parent.key,
                "parentRef": parent.parent_ref,
                "conditions": parent.conditions.iter().map(condition).collect::<Vec<_>>(),
            });
            let hostnames: Vec<_> = parent.hostnames().collect();
            if !hostnames.is_empty() {
                entry["hostnames"] = json!(hostnames);
            }
            entry
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
            notices.push(Notice { is_warning: false, reason: self.ready.reason.into(), message });
        }
        for parent in &self.parents {
            let stored = stored.parent(parent.key);
            // That nothing is programmed follows from something else that is said.
            let worth = |one: &&Condition<'_>| one.is_bad() && one.kind != ConditionType::Programmed;
            for one in parent.conditions.iter().filter(worth) {
                let is_known =
                    stored.and_then(|stored| stored.condition(one.kind)).is_some_and(|stored| one.says(stored));
                let notice = Notice { is_warning: true, reason: one.reason.into(), message: one.message.to_owned() };
                if !is_known && !notices.contains(&notice) {
                    notices.push(notice);
                }
            }
        }
        notices
    }
}

impl<'a> Parent<'a> {
    fn of(status: &'a ParentStatus, hostnames: &'a [Hostname]) -> Self {
        let programmed = match status.accepted.holds {
            _ if status.is_of_sidecars => None,
            true => Some(Condition::plain(ConditionType::Programmed, true, ConditionReason::Programmed)),
            false => Some(Condition::plain(ConditionType::Programmed, false, ConditionReason::Invalid)),
        };
        let mut conditions = vec![
            Condition::new(ConditionType::Accepted, &status.accepted),
            Condition::new(ConditionType::ResolvedRefs, &status.resolved_refs),
        ];
        conditions.extend(programmed);
        let partially = status.partially_invalid.as_ref();
        conditions.extend(partially.map(|verdict| Condition::new(ConditionType::PartiallyInvalid, verdict)));
        conditions.push(Condition::new(ConditionType::Conflicted, &status.conflicted));
        Self { key: &status.key, parent_ref: &status.parent_ref, hostnames, conditions }
    }

    /// The hostnames as they are written; none where the route is served for every host.
    fn hostnames(&self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        self.hostnames.iter().filter_map(Hostname::to_text).take(MOST_HOSTNAMES)
    }
}

#[cfg(test)]
mod tests;
