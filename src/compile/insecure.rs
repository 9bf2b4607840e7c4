//! Plain requests for hostnames that have certificates: they are sent to https.

use std::sync::LazyLock;

use http::StatusCode;

use super::inputs::{Inputs, StaticListener};
use crate::api::gateway_route::{GROUP, GatewayRouteSpec};
use crate::model::filter::{Filter, Redirect};

/// The outermost layer of rules whose hostnames are for https alone (`spec.tls.redirectInsecure`).
pub(super) static REDIRECT_INSECURE: LazyLock<Filter> = LazyLock::new(|| {
    Filter::Redirect(Redirect {
        scheme: Some("https"),
        hostname: None,
        path: None,
        port: None,
        status: StatusCode::PERMANENT_REDIRECT,
        insecure_only: true,
    })
});

/// Whether plain requests for the hostnames of a route of a namespace are sent to https: not where no listener would take them.
/// A child has that from the route that delegates to it.
pub(super) fn redirects_insecure(inputs: &Inputs, namespace: &str, spec: &GatewayRouteSpec) -> bool {
    let is_asked = spec.tls.as_ref().is_some_and(|tls| tls.redirect_insecure);
    let names = |listener: &StaticListener| {
        let mut parents = spec.parent_refs.iter();
        spec.parent_refs.is_empty()
            || parents.any(|one| one.group == GROUP && one.kind == "Listener" && *one.name == *listener.name)
    };
    let takes = |listener: &StaticListener| listener.is_https && names(listener) && listener.admits(namespace);
    is_asked && inputs.listeners.iter().any(takes)
}
