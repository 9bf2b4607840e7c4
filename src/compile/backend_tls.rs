//! TLS towards pods: what the BackendTLSPolicy of a Service asks for.
//!
//! Where several are for the same port of a Service, one that names the port comes before those for all ports, then the
//! oldest one. A policy that cannot be followed leaves its Services without an answer: without it nobody would know whom
//! to trust.

use std::cmp::Reverse;
use std::sync::Arc;

use rustls::pki_types::{DnsName, ServerName};

use super::diagnostics::{Diagnostic, Severity};
use super::inputs::Inputs;
use crate::api::backend_tls_policy::{CaCertificateRef, SubjectAltName, SubjectAltNameType, WellKnownCaCertificates};
use crate::api::conditions::ConditionReason;
use crate::kinds::backend_tls_policy::TlsPolicy;
use crate::kinds::config_map::{ConfigMap, NoAuthorities};
use crate::kinds::service::{Service, ServicePort};
use crate::kinds::{Kind as _, ObjectRef, Sourced};
use crate::model::ids::ObjectName;
use crate::model::tls::{Authorities, EndpointTls, SubjectName, Trust};

/// What keeps a policy from being followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    reason: ConditionReason,
    /// The field of the policy.
    path: String,
    found: String,
    expected: String,
}

impl Problem {
    fn new(path: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        let reason = ConditionReason::InvalidBackendTlsPolicy;
        Self { reason, path: path.into(), found: found.into(), expected: expected.into() }
    }

    /// As [`new`](Self::new), with a reason of its own.
    fn with(reason: ConditionReason, path: String, found: String, expected: String) -> Self {
        Self { reason, path, found, expected }
    }
}

/// The policy for a port of a Service, by name.
pub(super) fn policy_of<'a>(
    inputs: &'a Inputs,
    service: &ObjectName,
    port: &ServicePort,
) -> Option<(&'a ObjectName, &'a TlsPolicy)> {
    let policies = &inputs.objects.tls_policies;
    if policies.is_empty() {
        return None;
    }
    let own = policies.iter().filter(|(name, _)| name.namespace == service.namespace);
    let mut best: Option<((Reverse<bool>, Option<_>), _)> = None;
    for (name, policy) in own {
        let policy = &*policy.object;
        let fits =
            policy.spec.target_refs.iter().filter(|target| {
                target.group.is_empty() && target.kind == Service::NAME && *target.name == *service.name
            });
        let named = fits.filter_map(|target| match target.section_name.as_deref() {
            None | Some("") => Some(false),
            Some(section) => (*section == *port.name).then_some(true),
        });
        let Some(is_named) = named.max() else { continue };
        // Those of the same age are in the order of their names.
        let rank = (Reverse(is_named), policy.created);
        if best.as_ref().is_none_or(|(other, _)| rank < *other) {
            best = Some((rank, (name, policy)));
        }
    }
    best.map(|(_, found)| found)
}

/// How TLS is spoken to the pods of a Service by a policy of its namespace.
///
/// # Errors
/// The reason, what was found and what is expected.
pub(super) fn follow(
    inputs: &Inputs,
    (name, policy): (&ObjectName, &TlsPolicy),
) -> Result<EndpointTls, (ConditionReason, String, String)> {
    read(inputs, name, policy).map_err(|Problem { reason, path, found, expected }| {
        (reason, format!("BackendTLSPolicy {name}: {path}: {found}"), expected)
    })
}

/// What there is to say about the policies themselves, whether a route leads to their Services or not.
pub(super) fn findings(inputs: &Inputs) -> Vec<Diagnostic> {
    let say = |name: &ObjectName, policy: &Sourced<TlsPolicy>, problem: Problem, effect: &str| Diagnostic {
        object: Some(ObjectRef { kind: TlsPolicy::NAME, name: name.clone() }),
        origin: policy.origin.as_deref().cloned(),
        path: problem.path,
        severity: Severity::Error,
        reason: problem.reason.as_str(),
        found: problem.found,
        expected: problem.expected,
        effect: effect.to_owned(),
    };
    let mut findings = Vec::new();
    for (name, policy) in inputs.objects.tls_policies.iter() {
        if let Err(problem) = read(inputs, name, &policy.object) {
            findings.push(say(name, policy, problem, "references to its Services answer 500"));
        }
        for (at, target) in policy.object.spec.target_refs.iter().enumerate() {
            if let Some(problem) = check_target(inputs, name, at, target) {
                findings.push(say(name, policy, problem, "this target is passed over, the others count"));
            }
        }
    }
    findings
}

/// Why a target leads nowhere.
fn check_target(
    inputs: &Inputs,
    policy: &ObjectName,
    at: usize,
    target: &crate::api::backend_tls_policy::PolicyTarget,
) -> Option<Problem> {
    let path = |field: &str| format!("spec.targetRefs[{at}].{field}");
    if !target.group.is_empty() || target.kind != Service::NAME {
        let of = if target.group.is_empty() { "" } else { " of group " };
        let found = format!("{}{of}{}", target.kind, target.group);
        return Some(Problem::new(path("kind"), found, "Service, of the core group"));
    }
    let name = ObjectName::new(Arc::clone(&policy.namespace), &*target.name);
    let Some(service) = inputs.objects.services.get(&name) else {
        let (found, expected) = (format!("no Service {name}"), "an existing Service".to_owned());
        return Some(Problem::with(ConditionReason::BackendNotFound, path("name"), found, expected));
    };
    let section = target.section_name.as_deref().filter(|section| !section.is_empty())?;
    let names: Vec<&str> = service.object.ports.iter().map(|port| &*port.name).collect();
    (!names.contains(&section)).then(|| {
        let expected = format!("the name of a port of Service {name}: {}", names.join(", "));
        Problem::new(path("sectionName"), format!("{section:?}"), expected)
    })
}

/// Reads everything that a policy asks for.
fn read(inputs: &Inputs, name: &ObjectName, policy: &TlsPolicy) -> Result<EndpointTls, Problem> {
    let spec = &policy.spec;
    if let Some(option) = spec.options.keys().next() {
        let path = format!("spec.options[{option}]");
        return Err(Problem::new(path, "a setting that this version does not know", "no options"));
    }
    let validation = &spec.validation;
    let path = |field: &str| format!("spec.validation.{field}");
    let server_name = host(&validation.hostname)
        .ok_or_else(|| Problem::new(path("hostname"), format!("{:?}", validation.hostname), "a DNS name"))?;
    let names = validation.subject_alt_names.iter().enumerate();
    let names: Result<Box<[_]>, Problem> = names
        .map(|(at, name)| {
            subject_name(name).map_err(|found| {
                Problem::new(path(&format!("subjectAltNames[{at}]")), found, "Hostname with hostname, or URI with uri")
            })
        })
        .collect();
    let trust = match (&validation.well_known_ca_certificates, &validation.ca_certificate_refs[..]) {
        (Some(known), []) => match known.known() {
            Some(WellKnownCaCertificates::System) => Trust::System,
            None => {
                let found = format!("{:?}, which this version does not know", known.as_str());
                return Err(Problem::new(path("wellKnownCACertificates"), found, "System"));
            }
        },
        (None, references @ [_, ..]) => {
            let references = references.iter().enumerate();
            let all: Result<Vec<_>, Problem> = references
                .map(|(at, reference)| {
                    authorities(inputs, name, reference).map_err(|(reason, found, expected)| {
                        Problem::with(reason, path(&format!("caCertificateRefs[{at}]")), found, expected)
                    })
                })
                .collect();
            match &all?[..] {
                [only] => Trust::Only(Arc::clone(only)),
                several => Trust::Only(Arc::new(Authorities::joined(several).expect("each of them holds some"))),
            }
        }
        (Some(_), [_, ..]) | (None, []) => {
            let expected = "either caCertificateRefs or wellKnownCACertificates";
            return Err(Problem::new("spec.validation", "both or neither", expected));
        }
    };
    Ok(EndpointTls { server_name, names: names?, trust, own: None })
}

/// The certificates of authorities in an object.
fn authorities(
    inputs: &Inputs,
    policy: &ObjectName,
    reference: &CaCertificateRef,
) -> Result<Arc<Authorities>, (ConditionReason, String, String)> {
    if !reference.group.is_empty() || reference.kind != ConfigMap::NAME {
        let of = if reference.group.is_empty() { "" } else { " of group " };
        let found = format!("{}{of}{}", reference.kind, reference.group);
        let expected = "ConfigMap, of the core group".to_owned();
        return Err((ConditionReason::InvalidBackendTlsPolicy, found, expected));
    }
    let name = ObjectName::new(Arc::clone(&policy.namespace), &*reference.name);
    let expected = || format!("a ConfigMap with certificates in PEM in data[{}]", Authorities::FIELD);
    let Some(config_map) = inputs.objects.config_maps.get(&name) else {
        return Err((ConditionReason::CertificateNotFound, format!("no ConfigMap {name}"), expected()));
    };
    config_map.object.authorities.clone().map_err(|why| match why {
        NoAuthorities::Unusable(why) => {
            (ConditionReason::InvalidBackendTlsPolicy, format!("ConfigMap {name}: {why}"), expected())
        }
        NoAuthorities::Unreadable(why) => {
            (ConditionReason::CertificateNotFound, format!("ConfigMap {name}: {why}"), expected())
        }
    })
}

/// What a certificate has to have.
///
/// # Errors
/// What was found.
fn subject_name(name: &SubjectAltName) -> Result<SubjectName, String> {
    let member = |member: &Option<String>| member.clone().filter(|text| !text.is_empty());
    match (name.kind.known(), member(&name.hostname), member(&name.uri)) {
        (Some(SubjectAltNameType::Hostname), Some(text), None) => match text.strip_prefix("*.") {
            Some(rest) if host(rest).is_some() => Ok(SubjectName::Wildcard(text.to_ascii_lowercase().into())),
            Some(_) => Err(format!("{text:?}")),
            None => host(&text).map(SubjectName::Host).ok_or_else(|| format!("{text:?}")),
        },
        (Some(SubjectAltNameType::Uri), None, Some(uri)) => Ok(SubjectName::Uri(uri.into())),
        (Some(kind), ..) => Err(format!("type {kind:?} with other members than its own")),
        (None, ..) => Err(format!("type {:?}, which this version does not know", name.kind.as_str())),
    }
}

fn host(name: &str) -> Option<ServerName<'static>> {
    DnsName::try_from(name.to_ascii_lowercase()).ok().map(ServerName::DnsName)
}
