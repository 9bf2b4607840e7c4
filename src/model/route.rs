//! Routes and rules as the data plane sees them.

use std::sync::Arc;

use http::HeaderName;

use super::filter::Filter;
use super::health::HealthCheck;
use super::ids::{BackendId, ObjectName, RouteId};
use super::policy::{Algorithm, Policy, Spread, Timeouts, Upgrades};

/// One active GatewayRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The object's name; its metric label is `namespace/name`.
    pub name: ObjectName,
    /// `namespace/name`, ready as label and log field.
    pub label: Arc<str>,
}

/// One active rule: what to do with the requests that its matches won.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The route that it belongs to (for a delegated rule the child).
    pub route: RouteId,
    /// Its name, or its index in the route when it has none; unique in the route.
    pub name: Arc<str>,
    /// Deadlines; rules of a snapshot with equal ones share them.
    pub timeouts: Arc<Timeouts>,
    /// What it asks for beyond that; `None` for most. Rules of a snapshot with equal policies share them.
    pub policy: Option<Arc<Policy>>,
    /// What may happen behind a `101`; rules of a snapshot with equal blocks share them.
    pub upgrades: Arc<Upgrades>,
    /// Its layers, outermost first: delegating rules and their routes, its route, itself. Empty for most rules.
    pub filters: Arc<[Filter]>,
    /// How endpoints are chosen.
    pub algorithm: Algorithm,
    /// How requests spread over them.
    pub spread: Spread,
    /// Where requests go, in the order of the object; refs with weight 0 are left out. Empty: every request gets 500.
    pub backend_refs: Vec<WeightedBackend>,
    /// It hands its prefix to child routes and has no backends: what no child matches answers 404.
    pub delegates: bool,
}

impl Rule {
    /// How its endpoints are checked, if they are.
    #[must_use]
    pub fn health_check(&self) -> Option<&Arc<HealthCheck>> {
        self.policy.as_ref()?.health_check.as_ref()
    }

    /// Whether a CORS filter answers preflights of the rule, its own or one of a backendRef.
    #[must_use]
    pub fn answers_preflights(&self) -> bool {
        let cors = |filters: &[Filter]| filters.iter().any(|filter| matches!(filter, Filter::Cors(_)));
        cors(&self.filters) || self.backend_refs.iter().any(|backend_ref| cors(&backend_ref.filters))
    }

    /// Whether one of its filters decides about the request's field of this name, be it around the rule or a backendRef.
    #[must_use]
    pub fn decides_field(&self, name: &HeaderName) -> bool {
        let of_backends = self.backend_refs.iter().flat_map(|backend_ref| &*backend_ref.filters);
        self.filters.iter().chain(of_backends).any(|filter| filter.decides_field(name))
    }
}

/// One backendRef of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Share among the refs of its tier; 1 to 1,000,000.
    pub weight: u32,
    /// 0 to 3; a higher tier is used only when no lower one has a usable endpoint.
    pub tier: u8,
    /// The backend; `None` when the reference cannot be resolved: its share answers 500.
    pub backend: Option<BackendId>,
    /// The innermost layers, run once this reference is chosen.
    pub filters: Arc<[Filter]>,
}
