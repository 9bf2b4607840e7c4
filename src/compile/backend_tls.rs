//! TLS towards pods: what the BackendTLSPolicy of a Service asks for.
//!
//! Where several are for the same port of a Service, one that names the port comes before those for all ports, then the
//! oldest one. A policy that cannot be followed leaves its Services without an answer: without it nobody would know whom
//! to trust.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::pki_types::{DnsName, ServerName};

use super::diagnostics::{Diagnostic, Severity};
use super::inputs::Inputs;
use crate::api::backend_tls_policy::{
    CaCertificateRef, PolicyReason, PolicyTarget, SubjectAltName, SubjectAltNameType, WellKnownCaCertificates,
};
use crate::api::conditions::ConditionReason;
use crate::api::filter::Filter;
use crate::kinds::backend_tls_policy::TlsPolicy;
use crate::kinds::config_map::{ConfigMap, NoAuthorities};
use crate::kinds::service::{Service, ServicePort};
use crate::kinds::{Kind as _, ObjectRef, Sourced};
use crate::model::ids::ObjectName;
use crate::model::tls::{Authorities, EndpointTls, KeyPair, SubjectName, Trust};

/// What keeps a policy, or one of its targets, from being followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    reason: ConditionReason,
    /// The same in the words of a policy's status.
    pub(super) says: PolicyReason,
    /// The field of the policy.
    path: String,
    found: String,
    expected: String,
}

impl Problem {
    fn new(path: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Self {
        let reasons = (ConditionReason::InvalidBackendTlsPolicy, PolicyReason::Invalid);
        Self::with(reasons, path.into(), found.into(), expected.into())
    }

    /// As [`new`](Self::new), with reasons of its own.
    fn with((reason, says): (ConditionReason, PolicyReason), path: String, found: String, expected: String) -> Self {
        Self { reason, says, path, found, expected }
    }

    /// Field, found and expected in one sentence.
    pub(super) fn sentence(&self) -> String {
        format!("{}: found {}, expected {}", self.path, self.found, self.expected)
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
        let fits = policy.spec.target_refs.iter().filter(|target| is_service(target) && *target.name == *service.name);
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
    read(inputs, name, policy).map_err(|Problem { reason, path, found, expected, .. }| {
        (reason, format!("BackendTLSPolicy {name}: {path}: {found}"), expected)
    })
}

/// A policy for Services that routes of the class lead to. Of others, the authorities are not read.
pub(super) struct Used<'a> {
    pub(super) name: &'a ObjectName,
    pub(super) policy: &'a Sourced<TlsPolicy>,
    /// Positions of the targets that are such Services; at least one.
    pub(super) targets: Vec<usize>,
}

/// All policies that are used, in the order of their names.
pub(super) fn used(inputs: &Inputs) -> impl Iterator<Item = Used<'_>> {
    let policies = &inputs.objects.tls_policies;
    let mut services: BTreeSet<(&str, &str)> = BTreeSet::new();
    if !policies.is_empty() {
        let of_class = inputs.objects.routes.iter();
        let of_class =
            of_class.filter(|(_, route)| *route.object.spec.gateway_class_name == *inputs.gateway_class_name);
        for (name, route) in of_class {
            let spec = &route.object.spec;
            let references = spec.rules.iter().flat_map(|rule| &rule.backend_refs);
            services.extend(references.map(|one| (one.namespace_or(&name.namespace), &*one.name)));
            let of_backends = spec.rules.iter().flat_map(|rule| &rule.backend_refs).flat_map(|one| one.filters.iter());
            let filters = spec.filters.iter().chain(spec.rules.iter().flat_map(|rule| &rule.filters));
            let of_filters = filters.chain(of_backends).filter_map(Filter::backend_ref);
            let namespace = &*name.namespace;
            services.extend(of_filters.map(|one| (one.namespace.as_deref().unwrap_or(namespace), &*one.name)));
        }
    }
    policies.iter().filter_map(move |(name, policy)| {
        let targets = policy.object.spec.target_refs.iter().enumerate();
        let is_used =
            |target: &PolicyTarget| is_service(target) && services.contains(&(&*name.namespace, &*target.name));
        let targets: Vec<usize> = targets.filter(|(_, target)| is_used(target)).map(|(at, _)| at).collect();
        (!targets.is_empty()).then_some(Used { name, policy, targets })
    })
}

/// The ConfigMaps that policies for used Services take authorities from.
pub(super) fn config_maps_named(inputs: &Inputs) -> BTreeSet<ObjectName> {
    let all = used(inputs).flat_map(|Used { name, policy, .. }| {
        let references = policy.object.spec.validation.ca_certificate_refs.iter();
        let references = references.filter(|one| one.group.is_empty() && one.kind == ConfigMap::NAME);
        references.map(|one| ObjectName::new(Arc::clone(&name.namespace), &*one.name))
    });
    all.collect()
}

fn is_service(target: &PolicyTarget) -> bool {
    target.group.is_empty() && target.kind == Service::NAME
}

/// What there is to say about the policies themselves, beside what routes to their Services are told.
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
    for Used { name, policy, .. } in used(inputs) {
        if let Err(problem) = read(inputs, name, &policy.object) {
            findings.push(say(name, policy, problem, "references to its Services answer 500"));
        }
        findings.extend(kept_authorities(inputs, name, policy));
    }
    for (name, policy) in inputs.objects.tls_policies.iter() {
        for (at, target) in policy.object.spec.target_refs.iter().enumerate() {
            if let Some(problem) = check_target(inputs, name, at, target) {
                findings.push(say(name, policy, problem, "this target is passed over, the others count"));
            }
        }
    }
    findings
}

/// Authorities of a policy that are active though they may not be read any more.
fn kept_authorities(inputs: &Inputs, name: &ObjectName, policy: &Sourced<TlsPolicy>) -> Vec<Diagnostic> {
    let references = policy.object.spec.validation.ca_certificate_refs.iter().enumerate();
    let kept = references.filter_map(|(at, reference)| {
        let of = ObjectName::new(Arc::clone(&name.namespace), &*reference.name);
        let why = inputs.objects.config_maps.get(&of)?.object.earlier_stay.as_deref()?;
        Some(Diagnostic {
            object: Some(ObjectRef { kind: TlsPolicy::NAME, name: name.clone() }),
            origin: policy.origin.as_deref().cloned(),
            path: format!("spec.validation.caCertificateRefs[{at}]"),
            severity: Severity::Warning,
            reason: ConditionReason::CertificateNotFound.as_str(),
            found: format!("ConfigMap {of}: {why}"),
            expected: "a ConfigMap that may be read".to_owned(),
            effect: "the authorities that were read before stay active".to_owned(),
        })
    });
    kept.collect()
}

/// Why a target leads nowhere.
pub(super) fn check_target(inputs: &Inputs, policy: &ObjectName, at: usize, target: &PolicyTarget) -> Option<Problem> {
    let path = |field: &str| format!("spec.targetRefs[{at}].{field}");
    if !is_service(target) {
        let of = if target.group.is_empty() { "" } else { " of group " };
        let found = format!("{}{of}{}", target.kind, target.group);
        return Some(Problem::new(path("kind"), found, "Service, of the core group"));
    }
    let name = ObjectName::new(Arc::clone(&policy.namespace), &*target.name);
    let Some(service) = inputs.objects.services.get(&name) else {
        let (found, expected) = (format!("no Service {name}"), "an existing Service".to_owned());
        let reasons = (ConditionReason::BackendNotFound, PolicyReason::TargetNotFound);
        return Some(Problem::with(reasons, path("name"), found, expected));
    };
    let section = target.section_name.as_deref().filter(|section| !section.is_empty())?;
    let names: Vec<&str> = service.object.ports.iter().map(|port| &*port.name).collect();
    (!names.contains(&section)).then(|| {
        let expected = format!("the name of a port of Service {name}: {}", names.join(", "));
        let reasons = (ConditionReason::InvalidBackendTlsPolicy, PolicyReason::TargetNotFound);
        Problem::with(reasons, path("sectionName"), format!("{section:?}"), expected)
    })
}

/// Reads everything that a policy asks for.
pub(super) fn read(inputs: &Inputs, name: &ObjectName, policy: &TlsPolicy) -> Result<EndpointTls, Problem> {
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
    let trust = trust(inputs, name, policy)?;
    Ok(EndpointTls { server_name, names: names?, trust, own: client_pair(inputs) })
}

/// Whose signatures a policy trusts.
fn trust(inputs: &Inputs, name: &ObjectName, policy: &TlsPolicy) -> Result<Trust, Problem> {
    let validation = &policy.spec.validation;
    let path = |field: &str| format!("spec.validation.{field}");
    match (&validation.well_known_ca_certificates, &validation.ca_certificate_refs[..]) {
        (Some(known), []) => match known.known() {
            Some(WellKnownCaCertificates::System) => Ok(Trust::System),
            None => {
                let found = format!("{:?}, which this version does not know", known.as_str());
                Err(Problem::new(path("wellKnownCACertificates"), found, "System"))
            }
        },
        (None, references @ [_, ..]) => {
            let references = references.iter().enumerate();
            let all: Result<Vec<_>, Problem> = references
                .map(|(at, reference)| {
                    authorities(inputs, name, reference).map_err(|(reasons, found, expected)| {
                        Problem::with(reasons, path(&format!("caCertificateRefs[{at}]")), found, expected)
                    })
                })
                .collect();
            match &all?[..] {
                [only] => Ok(Trust::Only(Arc::clone(only))),
                several => Ok(Trust::Only(Arc::new(Authorities::joined(several).expect("each of them holds some")))),
            }
        }
        (Some(_), [_, ..]) | (None, []) => {
            let expected = "either caCertificateRefs or wellKnownCACertificates";
            Err(Problem::new("spec.validation", "both or neither", expected))
        }
    }
}

/// The references to authorities of which a policy's status speaks.
pub(super) struct References {
    /// Why the first one that leads nowhere does.
    pub(super) problem: Option<Problem>,
    /// At least one leads to authorities.
    pub(super) has_some: bool,
}

/// Looks where the references to authorities lead, whatever else is wrong with a policy.
pub(super) fn references(inputs: &Inputs, name: &ObjectName, policy: &TlsPolicy) -> References {
    let all = &policy.spec.validation.ca_certificate_refs;
    let leads = |reference| authorities(inputs, name, reference).is_ok();
    let is_about_references =
        |problem: &Problem| matches!(problem.says, PolicyReason::InvalidCaCertificateRef | PolicyReason::InvalidKind);
    References {
        problem: trust(inputs, name, policy).err().filter(is_about_references),
        has_some: all.iter().any(leads),
    }
}

/// The certificate that pods are shown, if there is one. Where its Secret has none, pods that ask for none are still
/// reached; what is wrong with it is told with the other certificates.
pub(super) fn client_pair(inputs: &Inputs) -> Option<Arc<KeyPair>> {
    let secret = inputs.objects.secrets.get(inputs.client_certificate.as_ref()?)?;
    secret.object.pair.as_ref().ok().cloned()
}

/// The certificates of authorities in an object.
fn authorities(
    inputs: &Inputs,
    policy: &ObjectName,
    reference: &CaCertificateRef,
) -> Result<Arc<Authorities>, ((ConditionReason, PolicyReason), String, String)> {
    if !reference.group.is_empty() || reference.kind != ConfigMap::NAME {
        let of = if reference.group.is_empty() { "" } else { " of group " };
        let found = format!("{}{of}{}", reference.kind, reference.group);
        let expected = "ConfigMap, of the core group".to_owned();
        let reasons = (ConditionReason::InvalidBackendTlsPolicy, PolicyReason::InvalidKind);
        return Err((reasons, found, expected));
    }
    let name = ObjectName::new(Arc::clone(&policy.namespace), &*reference.name);
    let expected = || format!("a ConfigMap with certificates in PEM in data[{}]", Authorities::FIELD);
    let missing = (ConditionReason::CertificateNotFound, PolicyReason::InvalidCaCertificateRef);
    let unusable = (ConditionReason::InvalidBackendTlsPolicy, PolicyReason::InvalidCaCertificateRef);
    let Some(config_map) = inputs.objects.config_maps.get(&name) else {
        return Err((missing, format!("no ConfigMap {name}"), expected()));
    };
    config_map.object.authorities.clone().map_err(|why| match why {
        NoAuthorities::Unusable(why) => (unusable, format!("ConfigMap {name}: {why}"), expected()),
        NoAuthorities::Unreadable(why) => (missing, format!("ConfigMap {name}: {why}"), expected()),
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
