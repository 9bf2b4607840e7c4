//! The authorities that vouch for clients' certificates: what references of `spec.tls.clientValidation` lead to.

use std::sync::Arc;

use super::inputs::Inputs;
use super::references::is_granted;
use super::report::{About, FieldPath};
use super::rules::OwnRoute;
use super::validation::{asked, kind};
use crate::api::conditions::ConditionReason;
use crate::api::gateway_route::{CaCertificateRef, ClientValidation};
use crate::kinds::Kind as _;
use crate::kinds::config_map::{ConfigMap, NoAuthorities};
use crate::kinds::secret::NoPair;
use crate::model::ids::ObjectName;
use crate::model::tls::{self, Authorities, Validation};

/// What became of an object that routes take the authorities of clients' certificates from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthorityState {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: ObjectName,
    /// Its content can be used.
    pub is_valid: bool,
}

/// The authorities that a route's references lead to, of those that it may use; what it may not use is reported. Objects
/// that were looked at are noted in `seen`.
pub(super) fn resolve(
    inputs: &Inputs,
    validation: &ClientValidation,
    route: &mut OwnRoute<'_>,
    seen: &mut Vec<AuthorityState>,
) -> Validation {
    let own = Arc::clone(&route.name.namespace);
    let mut found: Vec<Arc<Authorities>> = Vec::new();
    for (at, reference) in validation.ca_certificate_refs.iter().enumerate() {
        match authorities(inputs, reference, (route.object.kind, &own), seen) {
            Ok(authorities) => {
                found.push(authorities);
                if let Some(why) = earlier_stay(inputs, reference, &own) {
                    let path = format!("spec.tls.clientValidation.caCertificateRefs[{at}].name");
                    let effect = "the authorities that were read before stay active";
                    route.report.warn(path, ConditionReason::CertificateNotFound.as_str(), why, effect);
                }
            }
            Err(Missing { field, reason, found, expected }) => {
                let (spec, tls) = (FieldPath::SPEC, "tls");
                let tls = spec.field(tls);
                let path = tls.field("clientValidation");
                let path = path.item("caCertificateRefs", at);
                route.report.add(About::AuthorityMissing, reason, path.field(field), found, expected);
            }
        }
    }
    Validation { asked: Arc::new(asked(&own, validation)), authorities: Authorities::joined(&found).ok().map(Arc::new) }
}

/// Why the authorities of a reference are earlier ones.
fn earlier_stay(inputs: &Inputs, reference: &CaCertificateRef, own: &str) -> Option<String> {
    kind(reference).filter(|kind| *kind == ConfigMap::NAME)?;
    let name = ObjectName::new(reference.namespace.as_deref().unwrap_or(own), &*reference.name);
    let why = inputs.objects.config_maps.get(&name)?.object.earlier_stay.as_deref()?;
    Some(format!("ConfigMap {name}: {why}"))
}

/// Why a reference leads to no authorities.
struct Missing {
    field: &'static str,
    reason: ConditionReason,
    found: String,
    expected: String,
}

fn authorities(
    inputs: &Inputs,
    reference: &CaCertificateRef,
    (from, own): (&'static str, &str),
    seen: &mut Vec<AuthorityState>,
) -> Result<Arc<Authorities>, Missing> {
    let Some(kind) = kind(reference) else {
        let of = if reference.group.is_empty() { "" } else { " of group " };
        let found = format!("{}{of}{}", reference.kind, reference.group);
        let expected = "ConfigMap or Secret, of the core group".to_owned();
        return Err(Missing { field: "kind", reason: ConditionReason::InvalidKind, found, expected });
    };
    let namespace = reference.namespace.as_deref().unwrap_or(own);
    if namespace != own && !is_granted(inputs, (from, own), (kind, namespace, &reference.name)) {
        let found = format!("{kind} {namespace}/{} without consent", reference.name);
        let expected = format!("a ReferenceGrant in namespace {namespace} from {from} in namespace {own} to {kind}");
        return Err(Missing { field: "namespace", reason: ConditionReason::RefNotPermitted, found, expected });
    }
    let name = ObjectName::new(namespace, &*reference.name);
    let result = look_up(inputs, kind, &name);
    seen.push(AuthorityState { kind, name: name.clone(), is_valid: result.is_ok() });
    result.map_err(|(reason, found)| {
        let expected = format!("certificates of authorities in its field {}", Authorities::FIELD);
        Missing { field: "name", reason, found, expected }
    })
}

fn look_up(inputs: &Inputs, kind: &str, name: &ObjectName) -> Result<Arc<Authorities>, (ConditionReason, String)> {
    use ConditionReason::{CertificateNotFound, InvalidCertificate};
    let told = |reason, why: &dyn std::fmt::Display| (reason, format!("{kind} {name}: {why}"));
    let missing = || (CertificateNotFound, format!("no {kind} {name}"));
    if kind == ConfigMap::NAME {
        let map = inputs.objects.config_maps.get(name).ok_or_else(missing)?;
        return map.object.authorities.clone().map_err(|why| match why {
            NoAuthorities::Unusable(why) => told(InvalidCertificate, &why),
            NoAuthorities::Unreadable(why) => told(CertificateNotFound, &why),
        });
    }
    let secret = inputs.objects.secrets.get(name).ok_or_else(missing)?;
    match (&secret.object.authorities, &secret.object.pair) {
        (Some(authorities), _) => authorities.clone().map_err(|why| told(InvalidCertificate, &why)),
        (None, Err(NoPair::Unreadable(why))) => Err(told(CertificateNotFound, why)),
        (None, Ok(_) | Err(NoPair::Unusable(_))) => {
            let why = tls::AuthoritiesError::Missing;
            Err(told(InvalidCertificate, &why))
        }
    }
}
