//! Certificates: what `spec.tls` of the routes and the listeners' defaults make of the Secrets that they name.
//!
//! With them stands how clients are validated. A hostname has one set of certificates on a listener, that of the oldest
//! route that states one. Nothing here knows the time: a Secret whose certificate has expired says so itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::attach::Attached;
use super::authorities::{self, AuthorityState};
use super::diagnostics::{Diagnostic, Severity};
use super::inputs::Inputs;
use super::references::is_granted;
use super::report::{About, FieldPath, Report, host};
use super::rules::OwnRoute;
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{CertificateRef, RouteTls, TlsVersion};
use crate::kinds::secret::{NoPair, Problem, Secret};
use crate::kinds::{Kind as _, ObjectRef};
use crate::model::ids::{ListenerId, ObjectName};
use crate::model::matching::Hostname;
use crate::model::tls::{Certificate, LeastTls, TlsHost, TlsHosts};

/// The reason of a warning about certificates that no listener shows.
const NOT_SHOWN: &str = "CertificateNotShown";

/// The reason of a warning about `clientValidation` that no listener acts on.
const NOT_ASKED: &str = "ClientsNotAsked";

/// What became of a Secret that routes or listeners take certificates from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretState {
    /// The Secret.
    pub name: ObjectName,
    /// Until when the certificate that is shown is valid, in seconds since 1970; `None` when there is none.
    pub not_after: Option<i64>,
    /// Its newest content can be used.
    pub is_valid: bool,
}

/// The certificates of all listeners.
pub(super) struct Certificates {
    /// By `ListenerId`; those of plain listeners are empty.
    pub(super) hosts: Arc<[Arc<TlsHosts>]>,
    /// The Secrets that were asked for, by name.
    pub(super) secrets: Arc<[SecretState]>,
    /// The objects that authorities were asked of, by kind and name.
    pub(super) authorities: Arc<[AuthorityState]>,
    /// What there is to say about the certificates of listeners.
    pub(super) findings: Vec<Diagnostic>,
}

/// Finds the certificates of all hostnames on all listeners. Findings about routes go to their reports.
pub(super) fn compile(inputs: &Inputs, routes: &mut [OwnRoute<'_>], attached: &[Attached]) -> Certificates {
    let mut hosts: Vec<TlsHosts> = inputs.listeners.iter().map(|_| TlsHosts::default()).collect();
    let mut table =
        Table { inputs, hosts: &mut hosts, owners: BTreeMap::new(), secrets: BTreeMap::new(), authorities: Vec::new() };
    let mut by_age: Vec<usize> = (0..routes.len()).filter(|position| tls_of(&routes[*position]).is_some()).collect();
    by_age.sort_by_key(|position| (routes[*position].object.created, &*routes[*position].label));
    for position in by_age {
        table.add_route(&mut routes[position], &attached[position]);
    }
    let findings = table.add_of_settings();
    let secrets = table.secrets.into_values().collect();
    let mut authorities = table.authorities;
    authorities.sort();
    authorities.dedup();
    // Listeners without certificates, most of all plain ones, share one table.
    let empty: Arc<TlsHosts> = Arc::default();
    let hosts = hosts.into_iter().map(|hosts| if hosts.is_empty() { Arc::clone(&empty) } else { Arc::new(hosts) });
    Certificates { hosts: hosts.collect(), secrets, authorities: authorities.into(), findings }
}

struct Table<'a, 'h> {
    inputs: &'a Inputs,
    /// By listener.
    hosts: &'h mut [TlsHosts],
    /// The label of the route whose certificates a hostname has, by listener.
    owners: BTreeMap<(usize, Hostname), Arc<str>>,
    secrets: BTreeMap<ObjectName, SecretState>,
    authorities: Vec<AuthorityState>,
}

impl Table<'_, '_> {
    fn add_route(&mut self, route: &mut OwnRoute<'_>, attached: &Attached) {
        let Some(tls) = tls_of(route) else { return };
        let certificates: Vec<Certificate> =
            tls.certificate_refs.iter().enumerate().filter_map(|(at, one)| self.resolve(one, at, route)).collect();
        let validation = tls.client_validation.as_ref();
        let validation = validation.map(|one| authorities::resolve(self.inputs, one, route, &mut self.authorities));
        // Hostnames of a child are those of the route that delegates to it, and so are the certificates.
        let direct: Vec<_> = attached.ways.iter().filter(|way| way.delegation.is_none()).collect();
        let secure = (0..).map(ListenerId).zip(&self.inputs.listeners).filter(|(_, listener)| listener.is_https);
        let bound = |(id, _): (ListenerId, _)| {
            let way = direct.iter().find(|way| way.listeners.contains(id)).copied()?;
            Some((id.index(), way))
        };
        let ways: Vec<_> = secure.filter_map(bound).collect();
        // Rules ask for what no handshake has asked for.
        if ways.is_empty() && validation.is_some() {
            let found =
                "none of the route's own listeners has protocol HTTPS, so that clients are not asked for certificates";
            let effect = "requests are answered 421, unless they come through a route that delegates to this one and has the \
                          same clientValidation";
            route.report.warn("spec.tls.clientValidation", NOT_ASKED, found, effect);
        } else if ways.is_empty() {
            let found =
                "none of the route's own listeners has protocol HTTPS, so that these certificates are not shown";
            route.report.warn("spec.tls", NOT_SHOWN, found, "the route is served where it is bound");
        }
        // Without a certificate of its own, a hostname with validation must not be reached by one of others.
        if certificates.is_empty() && validation.is_none() {
            return;
        }
        let least = match tls.min_version.known() {
            Some(TlsVersion::V1_3) => LeastTls::V1_3,
            Some(TlsVersion::V1_2) | None => LeastTls::V1_2,
        };
        let all = Arc::new(TlsHost { certificates: certificates.into(), least, validation: validation.map(Arc::new) });
        for (listener, way) in ways {
            for hostname in &*way.hostnames {
                let shown = shown_for(&all, hostname, &mut route.report);
                self.add_host(listener, hostname, shown, route);
            }
        }
    }

    /// Gives a hostname its certificates, unless an older route has given it others.
    fn add_host(&mut self, listener: usize, hostname: &Hostname, host: Arc<TlsHost>, route: &mut OwnRoute<'_>) {
        let Some(known) = self.hosts[listener].get(hostname) else {
            self.hosts[listener].insert(hostname, host);
            self.owners.insert((listener, hostname.clone()), Arc::clone(&route.label));
            return;
        };
        if **known == *host {
            return;
        }
        let is_validation_other = host.validation.is_some() && known.validation != host.validation;
        let owner = self.owners.get(&(listener, hostname.clone())).map_or("", |owner| owner);
        let found = format!("{} with other TLS settings than route {owner}, which is older", self::host(hostname));
        if !route.report.findings.iter().any(|finding| finding.diagnostic.found == found) {
            let expected = "the same certificates, minVersion and clientValidation in all routes of a hostname";
            let about = if is_validation_other { About::ValidationConflict } else { About::TlsConflict };
            route.report.add(about, ConditionReason::CertificateConflict, "spec.tls", found, expected);
        }
    }

    /// The certificate that a route's reference leads to; `None` is reported.
    fn resolve(&mut self, reference: &CertificateRef, at: usize, route: &mut OwnRoute<'_>) -> Option<Certificate> {
        let spec = FieldPath::SPEC;
        let tls = spec.field("tls");
        let path = tls.item("certificateRefs", at);
        let missing = About::CertificateMissing;
        if !reference.group.is_empty() || reference.kind != Secret::NAME {
            let of = if reference.group.is_empty() { "" } else { " of group " };
            let found = format!("{}{of}{}", reference.kind, reference.group);
            let expected = "Secret, of the core group";
            route.report.add(missing, ConditionReason::InvalidKind, path.field("kind"), found, expected);
            return None;
        }
        let own = &*route.name.namespace;
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let from = (route.object.kind, own);
        if namespace != own && !is_granted(self.inputs, from, (Secret::NAME, namespace, &reference.name)) {
            let found = format!("Secret {namespace}/{} without consent", reference.name);
            let expected =
                format!("a ReferenceGrant in namespace {namespace} from {} in namespace {own} to Secret", from.0);
            let path = path.field("namespace");
            route.report.add(missing, ConditionReason::RefNotPermitted, path, found, expected);
            return None;
        }
        let name = ObjectName::new(namespace, &*reference.name);
        let (certificate, problem) = self.look_up(&name);
        if let Some((about, reason, found)) = problem {
            route.report.add(about, reason, path.field("name"), found, "a certificate with its key");
        }
        certificate
    }

    /// The certificate of a Secret, and what is wrong with it.
    fn look_up(&mut self, name: &ObjectName) -> (Option<Certificate>, Option<(About, ConditionReason, String)>) {
        let secret = self.inputs.objects.secrets.get(name).map(|secret| &*secret.object);
        let pair = secret.and_then(|secret| secret.pair.as_ref().ok());
        let not_after = pair.map(|pair| pair.not_after());
        let is_valid = secret.is_some_and(|secret| secret.pair.is_ok() && secret.problem.is_none());
        self.secrets.insert(name.clone(), SecretState { name: name.clone(), not_after, is_valid });
        let problem = match secret {
            None => {
                let found = format!("no Secret {name}");
                Some((About::CertificateMissing, ConditionReason::CertificateNotFound, found))
            }
            Some(Secret { pair: Err(why), .. }) => {
                let reason = match why {
                    NoPair::Unusable(_) => ConditionReason::InvalidCertificate,
                    NoPair::Unreadable(_) => ConditionReason::CertificateNotFound,
                };
                Some((About::CertificateMissing, reason, format!("Secret {name}: {}", why.text())))
            }
            Some(Secret { pair: Ok(_), problem, .. }) => problem.as_ref().map(|problem| {
                let (about, why) = match problem {
                    Problem::EarlierStays(why) => (About::CertificateKept, why),
                    Problem::ShownAnyway(why) => (About::CertificateShown, why),
                };
                (about, ConditionReason::InvalidCertificate, format!("Secret {name}: {why}"))
            }),
        };
        (pair.map(|pair| Certificate { secret: name.clone(), pair: Arc::clone(pair) }), problem)
    }

    /// Adds the certificates for clients that no route has one for, and looks at the one for pods.
    fn add_of_settings(&mut self) -> Vec<Diagnostic> {
        let mut findings = Vec::new();
        let inputs = self.inputs;
        for (position, listener) in inputs.listeners.iter().enumerate() {
            let Some(name) = listener.default_certificate.as_ref().filter(|_| listener.is_https) else { continue };
            let use_of = format!("the default certificate of listener {}", listener.name);
            let certificate = self.look_up_of_settings(name, use_of, &mut findings);
            if let Some(certificate) = certificate
                && self.hosts[position].get(&Hostname::Any).is_none()
            {
                let host =
                    TlsHost { certificates: Box::new([certificate]), least: LeastTls::default(), validation: None };
                self.hosts[position].insert(&Hostname::Any, Arc::new(host));
            }
        }
        if let Some(name) = &inputs.client_certificate {
            // What is shown to pods is found where TLS to them is compiled.
            let _ = self.look_up_of_settings(name, "the certificate for pods".to_owned(), &mut findings);
        }
        findings
    }

    /// The certificate of a Secret that a setting names; what is wrong with it goes to the findings.
    fn look_up_of_settings(
        &mut self,
        name: &ObjectName,
        expected: String,
        findings: &mut Vec<Diagnostic>,
    ) -> Option<Certificate> {
        let (certificate, problem) = self.look_up(name);
        if let Some((about, reason, found)) = problem {
            findings.push(Diagnostic {
                object: Some(ObjectRef { kind: Secret::NAME, name: name.clone() }),
                origin: None,
                path: String::new(),
                severity: Severity::Error,
                reason: reason.as_str(),
                found,
                expected,
                effect: about.effect().to_owned(),
            });
        }
        certificate
    }
}

/// Those of a route's certificates that are for a hostname; all of them, after a report, when none is.
fn shown_for(all: &Arc<TlsHost>, hostname: &Hostname, report: &mut Report<'_>) -> Arc<TlsHost> {
    let fitting: Vec<&Certificate> = all.certificates.iter().filter(|one| one.pair.names_host(hostname)).collect();
    let validation = all.validation.clone();
    if fitting.len() == all.certificates.len() {
        return Arc::clone(all);
    }
    if fitting.is_empty() {
        let of = |one: &Certificate| {
            let names = one.pair.names();
            let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
            format!("Secret {}, which names {names}", one.secret)
        };
        let found: Vec<String> = all.certificates.iter().map(of).collect();
        let (found, expected) = (found.join("; "), format!("a certificate for {}", host(hostname)));
        let is_known = report.findings.iter().any(|one| one.diagnostic.expected == expected);
        if !is_known {
            let (about, reason) = (About::CertificateShown, ConditionReason::InvalidCertificate);
            report.add(about, reason, "spec.tls.certificateRefs", found, expected);
        }
        return Arc::clone(all);
    }
    Arc::new(TlsHost { certificates: fitting.into_iter().cloned().collect(), least: all.least, validation })
}

/// The TLS settings of a route that is served.
fn tls_of<'a>(route: &OwnRoute<'a>) -> Option<&'a RouteTls> {
    let tls = route.object.spec.tls.as_deref();
    tls.filter(|_| !route.report.findings.iter().any(|finding| finding.about == About::Route))
}
