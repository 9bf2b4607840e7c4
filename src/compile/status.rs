//! What became of a route at each of its parents: the conditions of its status, as plain values derived from findings.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attach::Attached;
use super::report::{About, Finding};
use super::rules::OwnRoute;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::ParentRef;
use crate::model::ids::ObjectName;

/// Sentences in one message; more are counted only.
const MOST_SENTENCES: usize = 8;

/// Bytes of a message; an API server takes 32,768 characters.
const MOST_BYTES: usize = 16 << 10;

/// What became of one route, for whoever writes its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// The route.
    pub name: ObjectName,
    /// `metadata.generation` of the object that was compiled.
    pub generation: Option<i64>,
    /// Its parents that are ours to judge: in the order of `spec.parentRefs`, or all static listeners sorted by key.
    pub parents: Vec<ParentStatus>,
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `group/kind/namespace/name/section/port`, the scalar key of status entries.
    pub key: Arc<str>,
    /// The parent as the route names it, or as it would name a static listener.
    pub parent_ref: Arc<ParentRef>,
    /// `Accepted`: at least one rule is in force there.
    pub accepted: Verdict,
    /// `ResolvedRefs`: every reference leads to something that may be used.
    pub resolved_refs: Verdict,
    /// `Conflicted`: some match lost to another object.
    pub conflicted: Verdict,
    /// `PartiallyInvalid`, present only when it holds: some rules are left out, others serve.
    pub partially_invalid: Option<Verdict>,
}

/// Status, reason and message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `True` or `False`.
    pub holds: bool,
    /// The reason.
    pub reason: ConditionReason,
    /// For people; empty when there is nothing to say.
    pub message: String,
}

impl Verdict {
    const fn plain(holds: bool, reason: ConditionReason) -> Self {
        Self { holds, reason, message: String::new() }
    }
}

/// Derives the status of a route; `served` and `conflicted` say for its parents how many rules are in force and what lost.
pub(super) fn derive(
    route: &OwnRoute<'_>,
    attached: &Attached,
    served: &[usize],
    conflicted: &BTreeMap<usize, String>,
) -> RouteStatus {
    let findings = &route.report.findings;
    let resolved_refs = verdict(findings, ConditionReason::ResolvedRefs, |about| matches!(about, About::Reference(_)));
    let parents = attached.parents.iter().enumerate().map(|(position, parent)| {
        let is_served = served.get(position).is_some_and(|rules| *rules > 0);
        let dropped = |about| match about {
            About::Rule(_) | About::Heirs => true,
            About::RuleAt(at, _) => at == position,
            About::Parent(_) | About::Route | About::Reference(_) | About::Part | About::Conflict => false,
        };
        let accepted = match &parent.refused {
            Some((reason, message)) => Verdict { holds: false, reason: *reason, message: message.clone() },
            None if is_served => Verdict::plain(true, ConditionReason::Accepted),
            None => {
                let refused = verdict(findings, ConditionReason::Accepted, |about| about == About::Route);
                let none = || verdict(findings, ConditionReason::Accepted, dropped);
                let broken = || verdict(findings, ConditionReason::Accepted, |about| about == About::Part);
                let said = [refused, none(), broken()].into_iter().find(|verdict| !verdict.holds);
                let message = "no rule is in force".to_owned();
                said.unwrap_or(Verdict { holds: false, reason: ConditionReason::UnsupportedValue, message })
            }
        };
        let partially_invalid = accepted.holds.then(|| verdict(findings, ConditionReason::Accepted, dropped));
        let partially_invalid = partially_invalid.filter(|verdict| !verdict.holds).map(|verdict| Verdict {
            holds: true,
            reason: ConditionReason::UnsupportedValue,
            message: format!("Dropped Rule: {}", verdict.message),
        });
        let conflicted = match conflicted.get(&position) {
            Some(message) => {
                Verdict { holds: true, reason: ConditionReason::DuplicateMatch, message: bounded(message.clone()) }
            }
            None => Verdict::plain(false, ConditionReason::NoConflicts),
        };
        ParentStatus {
            key: Arc::clone(&parent.key),
            parent_ref: Arc::clone(&parent.parent_ref),
            accepted,
            resolved_refs: resolved_refs.clone(),
            conflicted,
            partially_invalid,
        }
    });
    RouteStatus { name: route.name.clone(), generation: route.object.generation, parents: parents.collect() }
}

/// A verdict that does not hold when there is a finding of a kind, with the first one's reason and all their sentences.
fn verdict(findings: &[Finding], reason: ConditionReason, is_of_kind: impl Fn(About) -> bool) -> Verdict {
    let mut of_kind = findings.iter().filter(|finding| is_of_kind(finding.about)).peekable();
    let Some(first) = of_kind.peek() else { return Verdict::plain(true, reason) };
    let reason = first.reason;
    let sentences: Vec<String> = of_kind.by_ref().take(MOST_SENTENCES).map(Finding::sentence).collect();
    let mut message = bounded(sentences.join("; "));
    let more = of_kind.count();
    if more > 0 {
        message += &format!("; and {more} more");
    }
    Verdict { holds: false, reason, message }
}

/// A message that an API server takes, cut where it is too long.
fn bounded(mut message: String) -> String {
    if message.len() > MOST_BYTES {
        let end = (0..=MOST_BYTES).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}
