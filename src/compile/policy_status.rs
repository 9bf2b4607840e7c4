//! What became of a BackendTLSPolicy: the two conditions of its status, as plain values.
//!
//! Gateway API has one entry for each ancestor at which a policy may come to something else. A GatewayRoute has no Gateway;
//! above it there is its class alone, and a policy comes to the same at every route and listener of a class. So each policy
//! has one entry, that of the GatewayClass, however many routes, listeners and replicas there are: the sixteen entries that
//! all controllers share are not used up, and two installations that differ in their classes do not write over each other.

use std::sync::Arc;

use super::backend_tls::{self, References, Used, policy_of};
use super::inputs::Inputs;
use crate::api::backend_tls_policy::PolicyReason;
use crate::model::ids::ObjectName;
use crate::text::OneLine;

/// Bytes of a message; an API server takes 32,768 characters.
const MOST_BYTES: usize = 16 << 10;

/// What became of a policy for Services that routes of the class lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The policy.
    pub name: ObjectName,
    /// `metadata.generation` of the object that was compiled.
    pub generation: Option<i64>,
    /// `Accepted`: requests to at least one of its targets follow it.
    pub accepted: PolicyVerdict,
    /// `ResolvedRefs`: every reference leads to authorities.
    pub resolved_refs: PolicyVerdict,
}

/// Status, reason and message of a condition of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// `True` or `False`.
    pub holds: bool,
    /// The reason.
    pub reason: PolicyReason,
    /// For people; empty when there is nothing to say.
    pub message: String,
}

impl PolicyVerdict {
    fn new(holds: bool, reason: PolicyReason, message: &str) -> Self {
        let mut message = OneLine(message).to_string();
        if message.len() > MOST_BYTES {
            message.truncate(message.floor_char_boundary(MOST_BYTES));
            message.push('…');
        }
        Self { holds, reason, message }
    }
}

/// The statuses of all policies that are used, in the order of their names.
pub(super) fn derive(inputs: &Inputs) -> Arc<[PolicyStatus]> {
    backend_tls::used(inputs).map(|used| status(inputs, &used)).collect()
}

fn status(inputs: &Inputs, used: &Used<'_>) -> PolicyStatus {
    let policy = &*used.policy.object;
    let References { problem, has_some } = backend_tls::references(inputs, used.name, policy);
    let resolved_refs = match &problem {
        Some(problem) => PolicyVerdict::new(false, problem.says, &problem.sentence()),
        None => PolicyVerdict::new(true, PolicyReason::ResolvedRefs, ""),
    };
    let accepted = match backend_tls::read(inputs, used.name, policy) {
        Ok(_) => targets(inputs, used),
        Err(found) => {
            let reason = match found.says {
                PolicyReason::InvalidCaCertificateRef | PolicyReason::InvalidKind if !has_some => {
                    PolicyReason::NoValidCaCertificate
                }
                _ => PolicyReason::Invalid,
            };
            let message = format!("{}; requests to its Services are answered with 500", found.sentence());
            PolicyVerdict::new(false, reason, &message)
        }
    };
    PolicyStatus { name: used.name.clone(), generation: policy.generation, accepted, resolved_refs }
}

/// Whether a policy that can be followed is: at least at one of its targets.
fn targets(inputs: &Inputs, used: &Used<'_>) -> PolicyVerdict {
    let lost: Vec<_> = used.targets.iter().filter_map(|at| passed_over(inputs, used, *at)).collect();
    let sentences: Vec<&str> = lost.iter().map(|(_, sentence)| sentence.as_str()).collect();
    let message = sentences.join("; ");
    match lost.first() {
        Some((reason, _)) if lost.len() == used.targets.len() => PolicyVerdict::new(false, *reason, &message),
        Some(_) | None => PolicyVerdict::new(true, PolicyReason::Accepted, &message),
    }
}

/// Why a policy does not count at the target at a position, if it does not.
fn passed_over(inputs: &Inputs, used: &Used<'_>, at: usize) -> Option<(PolicyReason, String)> {
    let target = &used.policy.object.spec.target_refs[at];
    if let Some(problem) = backend_tls::check_target(inputs, used.name, at, target) {
        return Some((problem.says, problem.sentence()));
    }
    let name = ObjectName::new(Arc::clone(&used.name.namespace), &*target.name);
    let service = inputs.objects.services.get(&name)?;
    let section = target.section_name.as_deref().filter(|section| !section.is_empty());
    let ports = service.object.ports.iter().filter(|port| section.is_none_or(|section| section == &*port.name));
    let mut winner = None;
    for port in ports {
        match policy_of(inputs, &name, port) {
            Some((policy, _)) if policy == used.name => return None,
            Some((policy, _)) => winner = Some(policy),
            None => {}
        }
    }
    let winner = winner?;
    let sentence = format!(
        "spec.targetRefs[{at}]: BackendTLSPolicy {winner} counts for Service {name}: it names the port, or is older"
    );
    Some((PolicyReason::Conflicted, sentence))
}
