//! The immutable snapshot that one version of the configuration compiles to.

use std::sync::Arc;

use super::backend::Backend;
use super::ids::{BackendId, ListenerId, ObjectName, RouteId, RuleId};
use super::matching::{Candidate, FoundRule, Miss, RequestView, Router};
use super::route::{Route, Rule};
use super::tls::TlsHosts;

/// Everything that a worker needs to answer a request, as of one version; never changed after it is built.
///
/// Two snapshots are equal when they answer every request alike. Whoever publishes one gives it its number. Cheap to
/// clone: snapshots that differ in their backends alone share the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Active routes, sorted by name.
    pub routes: Arc<[Route]>,
    /// Active rules, those of one route together and in its order.
    pub rules: Arc<[Rule]>,
    /// Backends that rules refer to, sorted by key, each once.
    pub backends: Arc<[Backend]>,
    /// Names of the static listeners, indexed by [`ListenerId`].
    pub listeners: Arc<[Arc<str>]>,
    /// One router per static listener, indexed by [`ListenerId`]; listeners with equal routes share one.
    pub routers: Arc<[Arc<Router>]>,
    /// The server names of each static listener, indexed by [`ListenerId`]; those of plain ones are empty.
    pub tls: Arc<[Arc<TlsHosts>]>,
}

impl Snapshot {
    /// Finds the rule for a request that came in on `listener`. A rule that [delegates](Rule::delegates) is found when none
    /// of its children takes the request: nothing answers it then.
    ///
    /// A CORS preflight finds the rule of the request that it announces.
    ///
    /// Allocates nothing; logarithmic at worst in the number of routes.
    ///
    /// # Errors
    /// [`Miss::NoHost`] when no route of the listener has the host; [`Miss::NoPath`] when some have but no match fits.
    pub fn find_route(&self, listener: ListenerId, request: &RequestView<'_>) -> Result<FoundRule, Miss> {
        self.routers.get(listener.index()).map_or(Err(Miss::NoHost), |router| self.find_in(router, request))
    }

    fn find_in(&self, router: &Router, request: &RequestView<'_>) -> Result<FoundRule, Miss> {
        match request.announced_method() {
            Some(method) => self.find_preflight(router, request, &method),
            None => router.find(request),
        }
    }

    /// Finds the rule of a CORS preflight: that of the announced request, of which only host, path and method are known.
    ///
    /// A match for OPTIONS itself wins if it fits. Otherwise conditions on values are passed over: the first match wins
    /// whose rule answers preflights, or which has no such conditions, so that the announced request surely fits it. If
    /// there is none, the first match with conditions wins.
    fn find_preflight(
        &self,
        router: &Router,
        request: &RequestView<'_>,
        method: &http::Method,
    ) -> Result<FoundRule, Miss> {
        if let Ok(found) = router.find(request)
            && router.candidate(found).is_some_and(|candidate| candidate.conditions().method.is_some())
        {
            return Ok(found);
        }
        let announced = RequestView { method, ..*request };
        let fits = |candidate: &Candidate| match self.rule(candidate.rule) {
            Some(rule) => rule.answers_preflights() || (candidate.conditions().asks_no_values() && !rule.delegates),
            None => false,
        };
        router.find_announced(&announced, fits).or_else(|_| router.find_announced(&announced, |_| true))
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

    /// For each rule the one of the same name, in a route of the same name, of the snapshot before.
    ///
    /// Linear in the number of rules: what did not change is found by its position.
    #[must_use]
    pub fn rules_before(&self, before: &Snapshot) -> Vec<Option<RuleId>> {
        let mut found = Vec::with_capacity(self.rules.len());
        let mut first = 0;
        let mut old = before.by_route().map(|(name, rules)| {
            first += rules.len();
            (name, rules, first - rules.len())
        });
        let mut next = old.next();
        for (name, rules) in self.by_route() {
            // Names are shared between snapshots, and equality is quick to tell then: unlike order.
            while let Some((other, ..)) = next
                && other != name
                && other < name
            {
                next = old.next();
            }
            let (of_route, first) = match next {
                Some((other, of_route, first)) if other == name => (of_route, first),
                Some(_) | None => (&[][..], 0),
            };
            found.extend(rules.iter().enumerate().map(|(at, rule)| {
                let is_same = |other: &Rule| other.name == rule.name;
                let at = Some(at).filter(|at| of_route.get(*at).is_some_and(is_same));
                let at = at.or_else(|| of_route.iter().position(is_same))?;
                u32::try_from(first + at).ok().map(RuleId)
            }));
        }
        found
    }

    /// The rules of each route that has some, in order.
    fn by_route(&self) -> impl Iterator<Item = (&ObjectName, &[Rule])> {
        let of_routes = self.rules.chunk_by(|one, other| one.route == other.route);
        of_routes.filter_map(|rules| Some((&self.route(rules.first()?.route)?.name, rules)))
    }

    /// The backend of an id of this snapshot.
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::model::filter::{Cors, Filter, OriginMatch};
    use crate::model::matching::{Conditions, PathMatch, ValueMatch, ValueTest};
    use crate::model::policy::{Algorithm, Spread};

    fn cors() -> Filter {
        Filter::Cors(Cors {
            origins: vec![OriginMatch::Any],
            credentials: false,
            methods: None,
            headers: None,
            any_header: false,
            any_method: false,
            expose: None,
            any_expose: false,
            max_age: http::HeaderValue::from(5),
        })
    }

    fn value(name: &str) -> Vec<ValueMatch> {
        vec![ValueMatch { name: name.into(), test: ValueTest::Exact("1".into()) }]
    }

    /// A snapshot of one rule for each text: `[METHOD] path`, with `+cors` for the filter, and `?header`, `?query` or
    /// `?cookie` for a condition.
    fn snapshot(texts: &[&str]) -> Snapshot {
        let (mut rules, mut candidates) = (Vec::new(), Vec::new());
        for (rank, text) in (0..).zip(texts) {
            let mut candidate = Candidate::any(RuleId(rank), rank);
            let (mut filters, mut conditions) = (Vec::new(), Conditions::default());
            for word in text.split(' ') {
                match word {
                    "+cors" => filters.push(cors()),
                    "?header" => conditions.headers = value("x-a"),
                    "?query" => conditions.query_params = value("a"),
                    "?cookie" => conditions.cookies = value("a"),
                    path if path.starts_with('/') => candidate.path = PathMatch::prefix(path),
                    method => conditions.method = Some(Method::from_bytes(method.as_bytes()).expect("a method")),
                }
            }
            candidates.push(candidate.asking(conditions));
            rules.push(Rule {
                route: RouteId(0),
                name: rank.to_string().into(),
                timeouts: Arc::default(),
                policy: None,
                upgrades: Arc::default(),
                filters: filters.into(),
                algorithm: Algorithm::RoundRobin,
                spread: Spread::default(),
                backend_refs: Vec::new(),
                delegates: false,
            });
        }
        Snapshot {
            routes: [Route { name: ObjectName::new("default", "r"), label: "default/r".into() }].into(),
            rules: rules.into(),
            routers: [Arc::new(Router::build(candidates))].into(),
            ..Snapshot::default()
        }
    }

    fn find(snapshot: &Snapshot, path: &str, headers: &[(&str, &str)]) -> Result<u32, Miss> {
        let name = |name: &str| http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        let headers: HeaderMap = headers.iter().map(|(n, v)| (name(n), v.parse().expect("a value"))).collect();
        let request =
            RequestView { host: Some("a.test"), method: &Method::OPTIONS, path, query: None, headers: &headers };
        snapshot.find_route(ListenerId(0), &request).map(|found| found.rule.0)
    }

    #[test]
    fn a_preflight_finds_the_rule_of_the_request_that_it_announces() {
        let many: Vec<String> =
            (0..40).map(|n| format!("/m{}", if n == 39 { " POST ?header +cors" } else { " GET ?header" })).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let cases: &[(&str, &[&str], &str, Result<u32, Miss>)] = &[
            ("by method", &["GET /a +cors", "POST /a +cors"], "/a", Ok(1)),
            ("a condition on a header", &["POST /a ?header +cors"], "/a", Ok(0)),
            ("a condition on a query", &["/a ?query +cors"], "/a", Ok(0)),
            ("a condition on a cookie", &["/a ?cookie +cors"], "/a", Ok(0)),
            ("many conditions on one path", &many, "/m", Ok(39)),
            ("the more specific path", &["/ +cors", "POST /a +cors"], "/a/b", Ok(1)),
            ("the method of its rule only", &["GET /a +cors"], "/a", Err(Miss::NoPath)),
            ("OPTIONS itself wins", &["POST /a +cors", "OPTIONS /"], "/a", Ok(1)),
            ("any method fits", &["/a +cors", "GET /a"], "/a", Ok(0)),
            ("a condition without CORS", &["POST /a ?header", "/a +cors"], "/a", Ok(1)),
            ("no CORS at all", &["/a ?header", "/a"], "/a", Ok(1)),
            ("no CORS at all, with conditions only", &["POST /a ?header"], "/a", Ok(0)),
            ("a longer path without CORS", &["/a +cors", "POST /a/b"], "/a/b", Ok(1)),
        ];
        let preflight = [("origin", "https://b.test"), ("access-control-request-method", "POST")];
        for (case, rules, path, expected) in cases {
            assert_eq!(find(&snapshot(rules), path, &preflight), *expected, "{case}");
        }
    }

    #[test]
    fn rules_are_found_again_by_name() {
        let snapshot = |routes: &[(&str, &[&str])]| {
            let route = |name: &str| Route { name: ObjectName::new("n", name), label: format!("n/{name}").into() };
            let rules = (0..).zip(routes).flat_map(|(id, (_, rules))| {
                let of_route = super::tests::snapshot(&vec!["/"; rules.len()]).rules;
                let named = of_route.iter().zip(*rules).map(move |(rule, name)| Rule {
                    route: RouteId(id),
                    name: (*name).into(),
                    ..rule.clone()
                });
                named.collect::<Vec<_>>()
            });
            let rules = rules.collect();
            Snapshot { routes: routes.iter().map(|(name, _)| route(name)).collect(), rules, ..Snapshot::default() }
        };
        let before = snapshot(&[("a", &["1"]), ("b", &["1", "2", "3"]), ("d", &["1"])]);
        let after = snapshot(&[("b", &["1", "3", "2", "4"]), ("c", &["1"]), ("d", &["1"]), ("e", &["1"])]);
        let found: Vec<_> = after.rules_before(&before).into_iter().map(|found| found.map(|id| id.0)).collect();
        assert_eq!(found, [Some(1), Some(3), Some(2), None, None, Some(4), None]);
        for (id, found) in (0..).map(RuleId).zip(after.rules_before(&before)) {
            assert_eq!(before.same_rule(&after, id), found, "{id:?}");
        }
        assert_eq!(before.rules_before(&Snapshot::default()), [None; 5]);
        assert_eq!(Snapshot::default().rules_before(&before), []);
    }

    #[test]
    fn other_requests_with_options_are_matched_as_they_are() {
        let snapshot = snapshot(&["POST /a +cors", "OPTIONS /b", "/c"]);
        let origin = ("origin", "https://b.test");
        let method = ("access-control-request-method", "POST");
        for headers in [&[][..], &[origin], &[method], &[origin, method, method], &[origin, (method.0, "a b")]] {
            assert_eq!(find(&snapshot, "/a", headers), Err(Miss::NoPath), "{headers:?}");
            assert_eq!(find(&snapshot, "/b", headers), Ok(1), "{headers:?}");
            assert_eq!(find(&snapshot, "/c", headers), Ok(2), "{headers:?}");
        }
    }
}
