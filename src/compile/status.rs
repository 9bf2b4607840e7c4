//! What became of a route at each of its parents: the conditions of its status, as plain values derived from findings.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attach::{Attached, Parent, static_listeners};
use super::inputs::Inputs;
use super::position::{ParentPos, RoutePos};
use super::report::{About, Finding};
use super::rules::OwnRoute;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::ParentRef;
use crate::model::ids::ObjectName;
use crate::model::matching::Hostname;

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
    /// Most routes share one list: those that name no parents, are served by all, and have nothing to be said about.
    pub parents: Arc<[ParentStatus]>,
    /// The hostnames on which it is served there.
    pub hostnames: Hostnames,
}

/// The hostnames on which rules of a route serve at a parent; `None` where none does.
pub(super) type Served = Option<Arc<[Hostname]>>;

/// Hostnames for each of the parents of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hostnames {
    /// The same at all parents, as with most routes.
    Same(Arc<[Hostname]>),
    /// By position.
    Each(Box<[Arc<[Hostname]>]>),
}

impl Hostnames {
    fn of(served: &[Served]) -> Self {
        let same = served.iter().all(|one| *one == served[0]);
        match served.first() {
            Some(first) if same => Self::Same(first.clone().unwrap_or_default()),
            Some(_) | None => Self::Each(served.iter().map(|one| one.clone().unwrap_or_default()).collect()),
        }
    }

    /// Those at a parent, by its position; empty where no rule serves.
    #[must_use]
    pub fn at(&self, parent: usize) -> &[Hostname] {
        match self {
            Self::Same(hostnames) => hostnames,
            Self::Each(parents) => parents.get(parent).map_or(&[], |hostnames| hostnames),
        }
    }
}

/// What became of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// `group/kind/namespace/name/section/port`, the scalar key of status entries.
    pub key: Arc<str>,
    /// The parent as the route names it, or as it would name a static listener.
    pub parent_ref: Arc<ParentRef>,
    /// Sidecars bind the route there, each by itself: nobody can say that all of them do.
    pub is_of_sidecars: bool,
    /// `Accepted`: at least one rule is served there, or would be by a sidecar.
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

/// The parents of a route that names none: all static listeners by key, with the reference that would name each.
#[must_use]
pub fn parents_for_all(inputs: &Inputs) -> Vec<(Arc<str>, Arc<ParentRef>)> {
    static_listeners(inputs).into_iter().map(|parent| (parent.key, parent.parent_ref)).collect()
}

/// Derives the statuses of routes, one after the other.
pub(super) struct Statuses<'a> {
    /// The hostnames on which rules serve at a parent, if any do; by [`Attached::first_parent`].
    served: &'a [Served],
    /// What to say about matches that lost to another object, by route and parent.
    conflicted: &'a BTreeMap<(RoutePos, ParentPos), String>,
    /// The last list of parents about which there was nothing to say, and what became of it.
    plain: Option<(Arc<[Parent]>, Arc<[ParentStatus]>)>,
}

impl<'a> Statuses<'a> {
    pub(super) fn new(served: &'a [Served], conflicted: &'a BTreeMap<(RoutePos, ParentPos), String>) -> Self {
        Self { served, conflicted, plain: None }
    }

    /// The status of the route at a position.
    pub(super) fn derive(&mut self, position: usize, route: &OwnRoute<'_>, attached: &Attached) -> RouteStatus {
        let served = &self.served[attached.first_parent..][..attached.parents.len()];
        let conflicted = |parent| self.conflicted.get(&(RoutePos(position), ParentPos(parent))).map(String::as_str);
        // Whatever lost, or was refused, is a finding.
        let is_plain = route.report.findings.is_empty() && served.iter().all(Option::is_some);
        let parents = match &self.plain {
            Some((of, parents)) if is_plain && Arc::ptr_eq(of, &attached.parents) => Arc::clone(parents),
            Some(_) | None => {
                let has_rules = route.rules.iter().any(Option::is_some);
                parents(&route.report.findings, (&attached.parents, has_rules), served, conflicted)
            }
        };
        if is_plain {
            self.plain = Some((Arc::clone(&attached.parents), Arc::clone(&parents)));
        }
        RouteStatus {
            name: route.name.clone(),
            generation: route.object.generation,
            parents,
            hostnames: Hostnames::of(served),
        }
    }
}

/// What became of a route at its parents, by what was found about it and, for each parent, whether a rule serves
/// there and what to tell about matches that lost.
fn parents<'c>(
    findings: &[Finding],
    (parents, has_rules): (&[Parent], bool),
    served: &[Served],
    conflicted: impl Fn(usize) -> Option<&'c str>,
) -> Arc<[ParentStatus]> {
    let resolved_refs = verdict(findings, ConditionReason::ResolvedRefs, |about| match about {
        About::Reference(_)
        | About::Mirror(_)
        | About::Filter(_)
        | About::CertificateMissing
        | About::CertificateKept
        | About::CertificateShown
        | About::AuthorityMissing => true,
        About::Parent(_)
        | About::Route
        | About::Rule(_)
        | About::Heirs
        | About::RuleAt(..)
        | About::ValidationConflict
        | About::TlsConflict
        | About::Part
        | About::Conflict
        | About::Hostname
        | About::Nothing => false,
    });
    let warnings = verdict(findings, ConditionReason::Accepted, |about| about == About::Nothing);
    let status = |(position, (parent, is_served)): (usize, (&Parent, &Served))| {
        let dropped = |about| match about {
            About::Rule(_) | About::Heirs => true,
            About::RuleAt(at, _) => at.0 == position,
            About::Parent(_)
            | About::Route
            | About::Reference(_)
            | About::Mirror(_)
            | About::Filter(_)
            | About::CertificateMissing
            | About::CertificateKept
            | About::CertificateShown
            | About::AuthorityMissing
            | About::ValidationConflict
            | About::TlsConflict
            | About::Part
            | About::Conflict
            | About::Hostname
            | About::Nothing => false,
        };
        let accepted = match &parent.refused {
            Some((reason, message)) => Verdict { holds: false, reason: *reason, message: message.clone() },
            None if is_served.is_some() || (parent.is_of_sidecars && has_rules) => {
                Verdict { holds: true, ..warnings.clone() }
            }
            None => {
                let refused = verdict(findings, ConditionReason::Accepted, |about| about == About::Route);
                let none = || verdict(findings, ConditionReason::Accepted, dropped);
                let broken = || verdict(findings, ConditionReason::Accepted, |about| about == About::Part);
                let said = [refused, none(), broken()].into_iter().find(|verdict| !verdict.holds);
                let message = "no rule can be served".to_owned();
                said.unwrap_or(Verdict { holds: false, reason: ConditionReason::UnsupportedValue, message })
            }
        };
        let partially_invalid = accepted.holds.then(|| verdict(findings, ConditionReason::Accepted, dropped));
        let partially_invalid = partially_invalid.filter(|verdict| !verdict.holds).map(|verdict| Verdict {
            holds: true,
            reason: ConditionReason::UnsupportedValue,
            message: format!("Dropped Rule: {}", verdict.message),
        });
        let conflicted = match conflicted(position) {
            Some(message) => {
                Verdict { holds: true, reason: ConditionReason::DuplicateMatch, message: bounded(message.to_owned()) }
            }
            None => {
                let lost = verdict(findings, ConditionReason::NoConflicts, |about| {
                    matches!(about, About::Hostname | About::TlsConflict | About::ValidationConflict)
                });
                Verdict { holds: !lost.holds, ..lost }
            }
        };
        ParentStatus {
            key: Arc::clone(&parent.key),
            parent_ref: Arc::clone(&parent.parent_ref),
            is_of_sidecars: parent.is_of_sidecars,
            accepted,
            resolved_refs: resolved_refs.clone(),
            conflicted,
            partially_invalid,
        }
    };
    parents.iter().zip(served).enumerate().map(status).collect()
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
