//! Whether a sidecar is asked for more than it is made for. The flags alone cannot tell: routes lead to further Services, and
//! how many endpoints there are is known with the slices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::diagnostics::{Diagnostic, Severity};
use crate::compile::named::services_named;
use crate::kinds::endpoint_slice::EndpointSlice;
use crate::kinds::gateway_route::Route;
use crate::kinds::service::Service;
use crate::kinds::{Kind as _, Map, ObjectRef};
use crate::model::ids::ObjectName;
use crate::sidecar::flags::{MOST_ENDPOINTS, MOST_SERVICES};

/// What the findings have in common.
const EFFECT: &str = "all are served; each takes memory of this pod, and work of the API server at every change";

/// The Services that routes lead to, but for those that stand for the application.
pub(super) fn services(routes: &Map<Route>, own: &BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
    let named = routes.iter().flat_map(|(name, route)| services_named(&name.namespace, &route.object.spec));
    named.filter(|service| !own.contains(service)).collect()
}

/// A warning for each bound that is exceeded.
pub(super) fn findings(services: &BTreeSet<ObjectName>, slices: &Map<EndpointSlice>) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    if services.len() > MOST_SERVICES {
        let found = format!("{} Services that flags and routes lead to", services.len());
        findings.push(finding(None, "TooManyServices", found, MOST_SERVICES));
    }
    let mut endpoints: BTreeMap<ObjectName, usize> = BTreeMap::new();
    for (name, slice) in slices.iter() {
        let Some(service) = &slice.object.service else { continue };
        let service = ObjectName::new(Arc::clone(&name.namespace), Arc::clone(service));
        if services.contains(&service) {
            *endpoints.entry(service).or_default() += slice.object.endpoints.len();
        }
    }
    let sum: usize = endpoints.values().sum();
    if sum > MOST_ENDPOINTS
        && let Some((largest, most)) = endpoints.into_iter().max_by_key(|(_, count)| *count)
    {
        let found = format!("{sum} endpoints of all Services together, {most} of them of this one");
        findings.push(finding(Some(largest), "TooManyEndpoints", found, MOST_ENDPOINTS));
    }
    findings
}

fn finding(service: Option<ObjectName>, reason: &'static str, found: String, most: usize) -> Diagnostic {
    Diagnostic {
        object: service.map(|name| ObjectRef { kind: Service::NAME, name }),
        origin: None,
        path: String::new(),
        severity: Severity::Warning,
        reason,
        found,
        expected: format!("at most {most}"),
        effect: EFFECT.to_owned(),
    }
}
