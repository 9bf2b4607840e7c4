//! `spec.tls.clientValidation`: whose certificates clients are asked for.

use crate::api::gateway_route::{CaCertificateRef, ClientValidation, ClientValidationMode};
use crate::kinds::Kind as _;
use crate::kinds::config_map::ConfigMap;
use crate::kinds::secret::Secret;
use crate::model::ids::ObjectName;
use crate::model::tls;

/// What a route asks of clients, in the words of the data plane; what is none of the kinds is left out.
pub(super) fn asked(own: &str, validation: &ClientValidation) -> tls::ClientValidation {
    let named = |reference: &CaCertificateRef| {
        let kind = kind(reference)?;
        Some((kind, ObjectName::new(reference.namespace.as_deref().unwrap_or(own), &*reference.name)))
    };
    tls::ClientValidation {
        is_required: is_required(validation),
        authorities: validation.ca_certificate_refs.iter().filter_map(named).collect(),
    }
}

/// Whether clients without a valid certificate are refused.
pub(super) fn is_required(validation: &ClientValidation) -> bool {
    match validation.mode.known() {
        Some(ClientValidationMode::AllowInsecureFallback) => false,
        Some(ClientValidationMode::AllowValidOnly) | None => true,
    }
}

/// The kind of object that a reference leads to; `None` for those that have no authorities.
pub(super) fn kind(reference: &CaCertificateRef) -> Option<&'static str> {
    let kinds = [ConfigMap::NAME, Secret::NAME];
    kinds.into_iter().find(|kind| reference.group.is_empty() && reference.kind == *kind)
}
