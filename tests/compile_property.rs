//! Properties of the compiler over generated objects.
//!
//! * The same objects in any order, and the same names and ages given to objects in another order, answer every request
//!   alike; a second compilation gives an equal snapshot.
//! * What is served is what a slow reading of the precedence rules serves.
//! * A broken rule changes no answer but its own.
//! * What is kept from one compilation to the next changes nothing.

#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::compile::{Output, compile};
use tidegate::kinds::Sourced;
use tidegate::model::ids::{ListenerId, ObjectName};
use tidegate::model::matching::RequestView;

#[path = "compile_property/steps.rs"]
mod steps;

/// One match, as numbers into small tables, so that many are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Match {
    exact: bool,
    path: usize,
    get: bool,
    header: Option<usize>,
}

#[derive(Clone, Debug)]
struct Rule {
    priority: i32,
    matches: Vec<Match>,
    broken: bool,
}

#[derive(Clone, Debug)]
struct Route {
    namespace: usize,
    age: u8,
    hosts: Vec<usize>,
    /// 0: all listeners, else the one before.
    listener: usize,
    rules: Vec<Rule>,
}

const HOSTS: [&str; 4] = ["a.example", "b.a.example", "*.example", "*.a.example"];
const PATHS: [&str; 5] = ["/", "/a", "/a/b", "/ab", "/a/b/c"];
const NAMESPACES: [&str; 4] = ["n", "n-1", "m", "n.1"];
const LISTENERS: [&str; 2] = ["http", "internal"];

fn matches() -> impl Strategy<Value = Match> {
    (any::<bool>(), 0..PATHS.len(), any::<bool>(), prop::option::of(0..2usize))
        .prop_map(|(exact, path, get, header)| Match { exact, path, get, header })
}

fn rules() -> impl Strategy<Value = Rule> {
    (-1..2i32, prop::collection::vec(matches(), 1..3), prop::bool::weighted(0.15))
        .prop_map(|(priority, matches, broken)| Rule { priority, matches, broken })
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let hosts = prop::sample::subsequence((0..HOSTS.len()).collect::<Vec<_>>(), 0..3);
    let route = (0..NAMESPACES.len(), 0..3u8, hosts, 0..3usize, prop::collection::vec(rules(), 1..4))
        .prop_map(|(namespace, age, hosts, listener, rules)| Route { namespace, age, hosts, listener, rules });
    prop::collection::vec(route, 1..7)
}

fn sourced<T: serde::de::DeserializeOwned>(value: Value) -> Sourced<T> {
    Sourced { object: Arc::new(serde_json::from_value(value).expect("a manifest")), origin: None }
}

/// The name of the route at a position.
fn name(routes: &[Route], position: usize) -> ObjectName {
    ObjectName::new(NAMESPACES[routes[position].namespace], format!("r{position}"))
}

fn manifest(route: &Route) -> Value {
    let one = |one: &Match| {
        let mut text =
            json!({ "path": { "type": if one.exact { "Exact" } else { "PathPrefix" }, "value": PATHS[one.path] } });
        if one.get {
            text["method"] = json!("GET");
        }
        if let Some(header) = one.header {
            text["headers"] = json!([{ "name": "x", "value": header.to_string() }]);
        }
        text
    };
    let rule = |rule: &Rule| {
        let matches: Vec<_> = rule.matches.iter().map(one).collect();
        let algorithm = if rule.broken { "Broken" } else { "Random" };
        json!({ "priority": rule.priority, "matches": matches, "loadBalancer": { "algorithm": algorithm },
            "backendRefs": [{ "name": "web", "port": 80 }] })
    };
    let parents: Vec<_> = LISTENERS
        .iter()
        .skip(route.listener.wrapping_sub(1))
        .take(1)
        .filter(|_| route.listener > 0)
        .map(|name| json!({ "group": "tidegate.dev", "kind": "Listener", "name": name }))
        .collect();
    json!({ "parentRefs": parents, "hostnames": route.hosts.iter().map(|host| HOSTS[*host]).collect::<Vec<_>>(),
        "rules": route.rules.iter().map(rule).collect::<Vec<_>>() })
}

/// All objects, put in by the order given.
fn inputs(routes: &[Route], order: &[usize]) -> Inputs {
    let listener = |name: &&str| StaticListener { name: (*name).into(), ..StaticListener::default() };
    let mut inputs = Inputs {
        listeners: LISTENERS.iter().map(listener).collect(),
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    for position in order {
        let (route, name) = (&routes[*position], name(routes, *position));
        let metadata = json!({ "namespace": *name.namespace, "name": *name.name, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", route.age + 1) });
        let object = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": metadata, "spec": manifest(route) });
        inputs.objects.routes.insert(name, sourced(object));
    }
    for namespace in NAMESPACES {
        inputs
            .objects
            .services
            .insert(ObjectName::new(namespace, "web"), sourced(json!({ "spec": { "ports": [{ "port": 80 }] } })));
        for slice in 0..3 {
            let endpoints: Vec<_> = (0..2).map(|pod| json!({ "addresses": [format!("10.0.{slice}.{pod}")] })).collect();
            let slice_name = ObjectName::new(namespace, format!("web-{slice}"));
            inputs.objects.slices.insert(
                slice_name,
                sourced(json!({ "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
                "addressType": "IPv4", "ports": [{ "port": 8080 }], "endpoints": endpoints })),
            );
        }
    }
    inputs
}

struct Ask {
    listener: usize,
    host: &'static str,
    path: &'static str,
    get: bool,
    header: Option<usize>,
}

/// Every kind of request that tells matches apart.
fn requests() -> impl Iterator<Item = Ask> {
    let hosts = ["a.example", "b.a.example", "c.example", "d.c.a.example", "example", "else"];
    let paths = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/z"];
    (0..hosts.len() * paths.len() * 12).map(move |n| {
        let (n, listener) = (n / 2, n % 2);
        let (n, get) = (n / 2, n % 2 == 0);
        let (n, header) = (n / 3, [None, Some(0), Some(1)][n % 3]);
        Ask { listener, host: hosts[n % hosts.len()], path: paths[n / hosts.len()], get, header }
    })
}

fn answer(output: &Output, ask: &Ask) -> Option<(ObjectName, usize)> {
    let mut headers = http::HeaderMap::new();
    if let Some(header) = ask.header {
        headers.insert("x", header.to_string().parse().unwrap());
    }
    let method = if ask.get { http::Method::GET } else { http::Method::POST };
    let view = RequestView { host: Some(ask.host), method: &method, path: ask.path, query: None, headers: &headers };
    let found = output.snapshot.find_route(ListenerId(ask.listener as u32), &view).ok()?;
    let rule = output.snapshot.rule(found.rule)?;
    Some((output.snapshot.route(rule.route)?.name.clone(), rule.name.parse().unwrap()))
}

/// The rule that the precedence rules of the API give a request, read slowly.
fn expected(routes: &[Route], ask: &Ask) -> Option<(ObjectName, usize)> {
    let mut fitting = Vec::new();
    for (position, route) in routes.iter().enumerate() {
        if route.listener > 0 && route.listener - 1 != ask.listener {
            continue;
        }
        let hosts: Vec<&str> = route.hosts.iter().map(|host| HOSTS[*host]).collect();
        let fits = |host: &&str| match host.strip_prefix('*') {
            Some(suffix) => ask.host.ends_with(suffix),
            None => *host == ask.host,
        };
        // Exact, then the longer wildcard, then no hostname at all.
        let host = hosts.iter().filter(|host| fits(host)).map(|host| (!host.starts_with('*'), host.len())).max();
        let Some(host) = host.or(hosts.is_empty().then_some((false, 0))) else { continue };
        let label = name(routes, position).to_string();
        for (number, rule) in route.rules.iter().enumerate().filter(|(_, rule)| !rule.broken) {
            for (at, one) in rule.matches.iter().enumerate() {
                let path = PATHS[one.path];
                let under = || {
                    path == "/"
                        || ask.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let path_fits = if one.exact { path == ask.path } else { under() };
                if path_fits && (ask.get || !one.get) && (one.header.is_none() || one.header == ask.header) {
                    let specific = (Reverse(host), Reverse(rule.priority), Reverse((one.exact, path.len())));
                    let conditions = (Reverse(one.get), Reverse(one.header.is_some()));
                    fitting.push((specific, conditions, (route.age, label.clone(), number, at), position));
                }
            }
        }
    }
    fitting.into_iter().min().map(|(_, _, (_, _, number, _), position)| (name(routes, position), number))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_best_by_precedence_serves_and_order_does_not_count(routes in routes(), seed in any::<u64>()) {
        let straight: Vec<usize> = (0..routes.len()).collect();
        let mut shuffled = straight.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let first = compile(&inputs(&routes, &straight));
        let second = compile(&inputs(&routes, &shuffled));
        prop_assert_eq!(&first.snapshot, &second.snapshot);
        prop_assert_eq!(&first.diagnostics, &second.diagnostics);
        prop_assert_eq!(&first.statuses, &second.statuses);
        for ask in requests() {
            let asked = format!("{} {} {} {} {:?}", ask.listener, ask.host, ask.path, ask.get, ask.header);
            prop_assert_eq!(answer(&first, &ask), expected(&routes, &ask), "{}", asked);
        }
    }

    /// Objects that get other names, listed in another order, with ages that tell all apart, answer as before: names
    /// decide nothing where ages do.
    #[test]
    fn names_decide_nothing_between_ages(routes in routes(), seed in any::<u64>()) {
        let mut routes = routes;
        // Ages that differ, and one namespace: a new name is the only change.
        routes.truncate(3);
        for (age, route) in routes.iter_mut().enumerate() {
            route.age = age as u8;
            route.namespace = 0;
        }
        let straight: Vec<usize> = (0..routes.len()).collect();
        let mut order = straight.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        // The route at `position` moves to the place, and so to the name, of `order[position]`.
        let mut renamed = routes.clone();
        for (from, to) in order.iter().enumerate() {
            renamed[*to] = routes[from].clone();
        }
        let (before, after) = (compile(&inputs(&routes, &straight)), compile(&inputs(&renamed, &straight)));
        for ask in requests() {
            let moved = answer(&before, &ask).map(|(found, rule)| {
                let from = straight.iter().position(|position| name(&routes, *position) == found).expect("a route");
                (name(&renamed, order[from]), rule)
            });
            prop_assert_eq!(moved, answer(&after, &ask));
        }
    }

    /// Each match that serves nowhere is told, unless its rule is.
    #[test]
    fn every_loss_is_told(routes in routes()) {
        let order: Vec<usize> = (0..routes.len()).collect();
        let output = compile(&inputs(&routes, &order));
        for position in 0..routes.len() {
            let own = name(&routes, position);
            let told: Vec<&str> = output
                .diagnostics
                .iter()
                .filter(|one| one.object.as_ref().is_some_and(|object| object.name == own))
                .map(|one| one.path.as_str())
                .collect();
            for (number, rule) in routes[position].rules.iter().enumerate() {
                let broken = format!("spec.rules[{number}].loadBalancer.algorithm");
                prop_assert_eq!(told.contains(&broken.as_str()), rule.broken);
                for (at, one) in rule.matches.iter().enumerate().filter(|_| !rule.broken) {
                    let repeated = rule.matches[..at].contains(one);
                    let serves = serves(&output, &own, number, one, &routes[position]);
                    let lost = told.contains(&format!("spec.rules[{number}].matches[{at}]").as_str());
                    prop_assert!(serves || lost || repeated, "{} rule {} match {}", own, number, at);
                }
            }
        }
    }
}

/// Whether a match stands in the table of every listener and host that its route asks for.
fn serves(output: &Output, own: &ObjectName, number: usize, one: &Match, route: &Route) -> bool {
    let listeners = (0..LISTENERS.len()).filter(|listener| route.listener == 0 || route.listener - 1 == *listener);
    let hosts = route.hosts.len().max(1);
    listeners.into_iter().all(|listener| {
        let standing = output.snapshot.routers[listener].candidates().filter(|candidate| {
            let rule = output.snapshot.rule(candidate.rule).expect("a rule");
            output.snapshot.route(rule.route).expect("a route").name == *own
                && *rule.name == number.to_string()
                && candidate.path.value() == PATHS[one.path]
                && matches!(candidate.path, tidegate::model::matching::PathMatch::Exact(_)) == one.exact
                && candidate.conditions().method.is_some() == one.get
                && candidate.conditions().headers.len() == usize::from(one.header.is_some())
                && candidate.conditions().headers.iter().all(|header| {
                    format!("{:?}", header.test).contains(&format!("{:?}", one.header.unwrap_or(9).to_string()))
                })
        });
        standing.count() == hosts
    })
}
