//! Which kinds nothing can be served without.

use crate::kinds::KindId;

/// Whether nothing is served before the kind was listed. Without the others, what they would permit is refused.
pub(super) const fn is_needed(kind: KindId) -> bool {
    match kind {
        KindId::GatewayRoute | KindId::Service | KindId::EndpointSlice => true,
        KindId::Endpoints
        | KindId::Namespace
        | KindId::ReferenceGrant
        | KindId::Secret
        | KindId::ConfigMap
        | KindId::BackendTlsPolicy => false,
    }
}
