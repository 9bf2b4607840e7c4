//! The immutable snapshot that one version of the configuration compiles to.

use std::sync::Arc;

use super::backend::Backend;
use super::ids::{BackendId, ListenerId, RouteId, RuleId};
use super::matching::{Found, Miss, RequestView, Router};
use super::route::{Route, Rule};

/// Everything that a worker needs to answer a request, as of one version; never changed after it is built.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Number of the publication, 1 for the first; not part of equality.
    pub version: u64,
    /// Active routes, sorted by name.
    pub routes: Vec<Route>,
    /// Active rules, those of one route together and in its order.
    pub rules: Vec<Rule>,
    /// Backends that rules refer to, sorted by key, each once.
    pub backends: Vec<Backend>,
    /// One router a static listener, indexed by [`ListenerId`]; listeners with equal routes share one.
    pub routers: Vec<Arc<Router>>,
}

impl Snapshot {
    /// Finds the rule for a request that came in on `listener`. A rule that [delegates](Rule::delegates) is found when none
    /// of its children takes the request: nothing answers it then.
    ///
    /// Allocates nothing; logarithmic at worst in the number of routes.
    ///
    /// # Errors
    /// [`Miss::NoHost`] when no route of the listener has the host; [`Miss::NoPath`] when some have but no match fits.
    pub fn find_route(&self, listener: ListenerId, request: &RequestView<'_>) -> Result<Found, Miss> {
        self.routers.get(listener.index()).map_or(Err(Miss::NoHost), |router| router.find(request))
    }

    /// The route of an id of this snapshot.
    #[must_use]
    pub fn route(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.index())
    }

    /// The rule of an id of this snapshot.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<&Rule> {
        self.rules.get(id.index())
    }

    /// The rule that has the same name, in a route of the same name, as a rule of another snapshot.
    ///
    /// Logarithmic in the number of routes and rules.
    #[must_use]
    pub fn same_rule(&self, other: &Snapshot, id: RuleId) -> Option<RuleId> {
        let of_other = other.rule(id)?;
        let name = &other.route(of_other.route)?.name;
        let route = self.routes.binary_search_by(|route| route.name.cmp(name)).ok()?;
        let first = self.rules.partition_point(|rule| rule.route.index() < route);
        let of_route = self.rules.iter().skip(first).take_while(|rule| rule.route.index() == route);
        (first..)
            .zip(of_route)
            .find(|(_, rule)| rule.name == of_other.name)
            .and_then(|(at, _)| u32::try_from(at).ok())
            .map(RuleId)
    }

    /// The backend of an id of this snapshot.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index())
    }
}

/// Two snapshots are equal when they answer every request alike; the version does not count.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
            && self.rules == other.rules
            && self.backends == other.backends
            && self.routers == other.routers
    }
}
