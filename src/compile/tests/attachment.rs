use super::*;

#[test]
fn a_route_without_parents_binds_to_every_listener_that_admits_it() {
    let compiled = World::new()
        .route("r", json!({ "rules": [rule("a", "/")] }))
        .service("ops/web", json!({ "ports": [{ "port": 80 }] }))
        .route("ops/r", json!({ "hostnames": ["ops.example"], "rules": [rule("a", "/")] }))
        .compile();
    assert_eq!(compiled.findings(), [""; 0]);
    assert_eq!((compiled.ask(0, "h/"), compiled.ask(1, "h/")), ("default/r:a".to_owned(), "no host".to_owned()));
    assert_eq!(
        (compiled.ask(0, "ops.example/"), compiled.ask(1, "ops.example/")),
        ("ops/r:a".to_owned(), "ops/r:a".to_owned())
    );
    let parents: Vec<_> = compiled.parents("r").iter().map(|parent| (&*parent.key, parent.accepted.reason)).collect();
    let (accepted, refused) = (ConditionReason::Accepted, ConditionReason::NotAllowedByListeners);
    assert_eq!(parents, [("tidegate.dev/Listener//http//", accepted), ("tidegate.dev/Listener//ops//", refused)]);
    let mut closed = World::new().route("r", json!({ "rules": [rule("a", "/")] }));
    closed.0.listeners.remove(0);
    assert_eq!(closed.compile().findings(), ["NotAllowedByListeners metadata.namespace"]);
}

#[test]
fn parents_are_judged_one_by_one() {
    use ConditionReason as Reason;
    let with = |mut parent: Value, field: &str, value: Value| {
        parent[field] = value;
        parent
    };
    let gateway = json!({ "name": "gw" });
    let cases = [
        (on("http"), Some(Reason::Accepted)),
        (on("ops"), Some(Reason::NotAllowedByListeners)),
        (on("none"), Some(Reason::NoMatchingParent)),
        (with(on("http"), "sectionName", json!("x")), Some(Reason::UnsupportedValue)),
        (gateway, Some(Reason::UnsupportedValue)),
        (json!({ "group": "other.example", "kind": "Mesh", "name": "m" }), None),
        (under("nobody", "x"), Some(Reason::NoMatchingParent)),
        (under("root", "none"), Some(Reason::NoMatchingParent)),
        (under("root", "plain"), Some(Reason::NotDelegated)),
        (under("root", "same"), Some(Reason::NotDelegated)),
        (under("root", "chosen"), Some(Reason::Accepted)),
        (under("root", "broken"), Some(Reason::NotDelegated)),
        (under("foreign", "all"), Some(Reason::NoMatchingParent)),
        (with(under("root", "chosen"), "port", json!(80)), Some(Reason::UnsupportedValue)),
    ];
    let section = |name: &str, prefix: &str, namespaces: Value| json!({ "name": name, "matches": [{ "path": { "value": prefix } }], "delegate": { "namespaces": namespaces } });
    let mut broken = delegating("broken", "/");
    broken["outlierDetection"] = json!({ "interval": "0s" });
    let selector = json!({ "from": "Selector", "selector": { "matchLabels": { "team": "a" } } });
    let root = json!({ "rules": [rule("plain", "/p"), section("same", "/", json!({})), section("chosen", "/c", selector), broken] });
    for (parent, expected) in cases {
        let spec = json!({ "parentRefs": [parent], "rules": [rule("a", "/c/a")] });
        let compiled = World::new()
            .route("root", root.clone())
            .route("foreign", json!({ "gatewayClassName": "else", "rules": [delegating("all", "/")] }))
            .namespace("team-a", json!({ "team": "a" }))
            .route("team-a/child", spec)
            .compile();
        let parents = compiled.parents("team-a/child");
        assert_eq!(parents.iter().map(|parent| parent.accepted.reason).next(), expected, "{parent}");
        let served = expected == Some(Reason::Accepted);
        assert_eq!(compiled.ask(0, "h/c/a") == "team-a/child:a", served, "{parent}");
        let told = compiled.findings().iter().any(|finding| finding.ends_with("spec.parentRefs[0]"));
        assert_eq!(told, !served && expected.is_some(), "{parent}: {:?}", compiled.findings());
    }
}

/// Their sidecars serve them, and this process does not.
#[test]
fn parents_of_sidecars_take_routes_that_are_served_elsewhere() {
    use ConditionReason as Reason;
    let service = |name: &str, more: Value| {
        let mut parent = json!({ "group": "", "kind": "Service", "name": name });
        parent.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        parent
    };
    let cases = [
        (service("web", json!({})), Reason::Accepted),
        (service("web", json!({ "port": 80 })), Reason::Accepted),
        (service("web", json!({ "port": 81 })), Reason::NoMatchingParent),
        (service("none", json!({})), Reason::NoMatchingParent),
        (service("users", json!({})), Reason::NoMatchingParent),
        (service("users", json!({ "namespace": "id" })), Reason::Accepted),
        (service("web", json!({ "sectionName": "http" })), Reason::UnsupportedValue),
        (on("in-http"), Reason::Accepted),
        (on("inner"), Reason::NoMatchingParent),
    ];
    for (parent, expected) in cases {
        let spec = |rules: Value| json!({ "parentRefs": [parent], "rules": rules });
        let world = World::new().service("team/web", json!({ "ports": [{ "port": 80 }] }));
        let world = world.service("id/users", json!({ "ports": [{ "port": 80 }] }));
        let broken = json!([{ "matches": [{ "path": { "value": "/" } }], "outlierDetection": { "interval": "0s" } }]);
        let world = world.route("team/it", spec(json!([rule("a", "/")]))).route("team/broken", spec(broken));
        let compiled = world.compile();
        let judged = |name: &str| {
            let parents = compiled.parents(name);
            (parents[0].accepted.reason, parents[0].accepted.holds, parents[0].is_of_sidecars)
        };
        let holds = expected == Reason::Accepted;
        let is_of_sidecars = parent["name"] != "inner";
        assert_eq!(judged("team/it"), (expected, holds, is_of_sidecars), "{parent}");
        let unserved = if holds { Reason::UnsupportedValue } else { expected };
        assert_eq!(judged("team/broken"), (unserved, false, is_of_sidecars), "{parent}");
        assert_ne!(compiled.ask(0, "h/"), "team/it:a", "{parent}");
    }
}

/// A root for `/a` of `portal.example`, and children in `team`.
fn family(root: Value, children: &[(&str, Value)]) -> World {
    let world = World::new().service("team/web", json!({ "ports": [{ "port": 80 }] }));
    let world = world.route("root", json!({ "hostnames": ["portal.example"], "rules": [root, rule("site", "/")] }));
    children.iter().fold(world, |world, (name, spec)| world.route(&format!("team/{name}"), spec.clone()))
}

#[test]
fn a_child_serves_below_its_parents_prefix_on_the_roots_hosts() {
    let child = json!({ "parentRefs": [under("root", "a")], "rules": [rule("wiki", "/a/wiki"), rule("out", "/b"), rule("all", "/a")] });
    let compiled = family(delegating("a", "/a"), &[("child", child)]).compile();
    for (url, expected) in [
        ("portal.example/a/wiki/1", "team/child:wiki"),
        ("portal.example/a/else", "team/child:all"),
        ("portal.example/ab", "default/root:site"),
        ("portal.example/b", "default/root:site"),
        ("other.example/a/wiki", "no host"),
    ] {
        assert_eq!(compiled.ask(0, url), expected, "{url}");
    }
    assert_eq!(compiled.findings(), ["UnsupportedValue spec.rules[1].matches[0]"]);
    let parent = compiled.parent("team/child");
    assert!(parent.accepted.holds && parent.partially_invalid.is_some() && !parent.conflicted.holds, "{parent:?}");
    assert_eq!(&*parent.key, "tidegate.dev/GatewayRoute/default/root/a/");
}

#[test]
fn what_no_child_takes_is_not_found() {
    let child = json!({ "parentRefs": [under("root", "a")], "rules": [rule("wiki", "/a/wiki")] });
    let compiled = family(delegating("a", "/a"), &[("child", child)]).compile();
    assert_eq!(compiled.ask(0, "portal.example/a/else"), "no path", "404, and not the root's /");
    assert_eq!(compiled.findings(), [""; 0]);
    assert_eq!(family(delegating("a", "/a"), &[]).compile().ask(0, "portal.example/a"), "no path");
    let compiled = family(delegating("all", "/all"), &[])
        .route("young", json!({ "hostnames": ["portal.example"], "rules": [rule("x", "/all")] }))
        .compile();
    assert_eq!(compiled.ask(0, "portal.example/all"), "no path", "a delegated prefix is taken");
    assert_eq!(compiled.findings(), ["DuplicateMatch spec.rules[0].matches[0]"]);
}

#[test]
fn conditions_of_the_parent_hold_for_the_child() {
    let mut root = delegating("a", "/a");
    root["matches"][0]["headers"] = json!([{ "name": "x-team", "value": "a" }]);
    root["matches"][0]["method"] = json!("GET");
    root["timeouts"] = json!({ "request": "9s" });
    root["retry"] = json!({ "attempts": 3 });
    root["healthCheck"] = json!({ "unhealthyThreshold": 4 });
    root["loadBalancer"] = json!({ "algorithm": "LeastRequest" });
    let mut own = rule("own", "/a/own");
    own["timeouts"] = json!({ "request": "1s" });
    own["retry"] = json!({ "attempts": 5 });
    own["healthCheck"] = json!({ "unhealthyThreshold": 6 });
    let mut post = rule("post", "/a/post");
    post["matches"][0]["method"] = json!("POST");
    let spec = json!({ "parentRefs": [under("root", "a")], "rules": [rule("plain", "/a/x"), own, post] });
    let compiled = family(root, &[("child", spec)]).compile();
    let team = [("x-team", "a")];
    assert_eq!(compiled.ask_with(0, "GET", "portal.example/a/x", &team), "team/child:plain");
    assert_eq!(compiled.ask_with(0, "GET", "portal.example/a/x", &[]), "default/root:site");
    assert_eq!(compiled.ask_with(0, "POST", "portal.example/a/x", &team), "default/root:site");
    let seconds = |name| compiled.rule(name).timeouts.request.map(|duration| duration.as_secs());
    assert_eq!((seconds("plain"), seconds("own")), (Some(9), Some(1)), "knobs are inherited when unset");
    let attempts = |name| Some(compiled.rule(name).policy.as_deref()?.retry.as_ref()?.attempts);
    assert_eq!((attempts("plain"), attempts("own")), (Some(3), Some(5)));
    let threshold = |name| compiled.rule(name).health_check().map(|check| check.unhealthy_threshold);
    assert_eq!((threshold("plain"), threshold("own")), (Some(4), Some(6)));
    assert_eq!(compiled.rule("own").algorithm, Algorithm::LeastRequest);
    assert_eq!(compiled.findings(), ["UnsupportedValue spec.rules[2].matches[0]"], "POST is not delegated");
}

#[test]
fn a_child_narrows_the_roots_hostnames_and_no_more() {
    let root = json!({ "hostnames": ["*.example", "a.test"], "rules": [delegating("a", "/")] });
    for (own, expected, served) in [
        (json!([]), ["team/child:x", "team/child:x", "team/child:x"], vec!["*.example", "a.test"]),
        (json!(["b.example"]), ["no path", "team/child:x", "no path"], vec!["b.example"]),
        (json!(["*.test", "*.b.example"]), ["no path", "no path", "team/child:x"], vec!["a.test", "*.b.example"]),
    ] {
        let child = json!({ "hostnames": own, "parentRefs": [under("root", "a")], "rules": [rule("x", "/x")] });
        let compiled = World::new()
            .service("team/web", json!({ "ports": [{ "port": 80 }] }))
            .route("root", root.clone())
            .route("team/child", child)
            .compile();
        let asked = ["z.example/x", "b.example/x", "a.test/x"].map(|url| compiled.ask(0, url));
        assert_eq!(asked, expected, "{own}");
        let mut hostnames = compiled.hostnames("team/child");
        assert_eq!(hostnames.len(), 1);
        hostnames[0].sort();
        let mut served = served;
        served.sort_unstable();
        assert_eq!(hostnames[0], served, "{own}");
    }
    let child = json!({ "hostnames": ["else.where"], "parentRefs": [under("root", "a")], "rules": [rule("x", "/x")] });
    let compiled = World::new().route("root", root).route("team/child", child).compile();
    assert_eq!(compiled.parent("team/child").accepted.reason, ConditionReason::NoMatchingListenerHostname);
    assert_eq!(compiled.hostnames("team/child"), [[""; 0]]);
}

#[test]
fn four_routes_deep_and_no_deeper() {
    let mut world = family(delegating("a", "/a"), &[]);
    let mut prefix = "/a".to_owned();
    let mut above = "root".to_owned();
    for level in 2..=5 {
        let name = format!("team/l{level}");
        prefix += &format!("/{level}");
        let spec = json!({ "parentRefs": [under(&above, "a")], "rules": [delegating("a", &prefix), rule("own", &format!("{prefix}/own"))] });
        world = world.route(&name, spec);
        above = name;
    }
    let compiled = world.compile();
    assert_eq!(compiled.ask(0, "portal.example/a/2/own"), "team/l2:own");
    assert_eq!(compiled.ask(0, "portal.example/a/2/3/4/own"), "team/l4:own");
    assert_eq!(compiled.ask(0, "portal.example/a/2/3/4/5/own"), "no path");
    assert_eq!(compiled.findings(), ["NotDelegated spec.parentRefs[0]"]);
    assert_eq!(compiled.parent("team/l5").accepted.reason, ConditionReason::NotDelegated);
}

#[test]
fn circles_are_told_to_each_member() {
    let spec =
        |parents: Value| json!({ "parentRefs": parents, "rules": [delegating("a", "/a"), rule("own", "/a/own")] });
    let compiled = World::new()
        .route("x", spec(json!([under("y", "a")])))
        .route("y", spec(json!([under("z", "a")])))
        .route("z", spec(json!([under("x", "a"), on("http")])))
        .route("self", spec(json!([under("self", "a")])))
        .route("below", spec(json!([under("x", "a")])))
        .compile();
    let reasons: Vec<_> = ["x", "y", "z", "self", "below"].map(|name| compiled.parents(name)[0].accepted.reason).into();
    use ConditionReason::{DelegationCycle, NotDelegated};
    assert_eq!(reasons, [DelegationCycle, DelegationCycle, DelegationCycle, DelegationCycle, NotDelegated]);
    assert!(compiled.parents("z")[1].accepted.holds, "its listener serves it");
    assert_eq!(compiled.ask(0, "h/a/own"), "default/z:own");
}

#[test]
fn a_long_chain_or_a_lattice_of_parents_stays_cheap() {
    let spec = |parents: Vec<Value>| json!({ "parentRefs": parents, "rules": [delegating("a", "/")] });
    let chain = (1..3000).fold(World::new().route("c0", spec(vec![])), |world, n| {
        world.route(&format!("c{n}"), spec(vec![under(&format!("c{}", n - 1), "a")]))
    });
    let compiled = chain.compile();
    assert_eq!(compiled.0.snapshot.rules.len(), 4);
    assert_eq!(compiled.parent("c2999").accepted.reason, ConditionReason::NotDelegated);
    // Three levels of 20 parents each would be 8,000 ways.
    let mut world = (0..20).fold(World::new(), |world, n| world.route(&format!("l0-{n}"), spec(vec![])));
    for level in 1..4 {
        for n in 0..20 {
            let parents = (0..20).map(|parent| under(&format!("l{}-{parent}", level - 1), "a")).collect();
            world = world.route(&format!("l{level}-{n}"), spec(parents));
        }
    }
    let compiled = world.compile();
    let accepted = compiled.parents("l3-0").iter().filter(|parent| parent.accepted.holds).count();
    assert!((1..20).contains(&accepted), "bounded: {accepted} of 20 ways");
}

#[test]
fn children_have_the_age_of_their_root() {
    let child = json!({ "parentRefs": [under("root", "a")], "rules": [rule("x", "/a/x")] });
    let compiled = family(delegating("a", "/a"), &[])
        .aged("team/child", "2026-03-01T00:00:00Z", child)
        .aged("rival", "2026-02-01T00:00:00Z", json!({ "hostnames": ["portal.example"], "rules": [rule("x", "/a/x")] }))
        .compile();
    assert_eq!(compiled.ask(0, "portal.example/a/x"), "team/child:x");
}

/// The schema takes a parent with its namespace and one without for two. A status with two entries for it could not be written.
#[test]
fn a_parent_that_is_named_twice_counts_once() {
    let service = |namespace: Option<&str>| {
        let mut parent = json!({ "group": "", "kind": "Service", "name": "web" });
        namespace.into_iter().for_each(|namespace| parent["namespace"] = namespace.into());
        parent
    };
    let spec =
        json!({ "parentRefs": [service(None), on("http"), service(Some("default"))], "rules": [rule("r", "/")] });
    let compiled = World::new().route("r", spec).compile();
    assert_eq!(compiled.parents("r").len(), 2);
    assert_eq!(compiled.findings(), ["Duplicate spec.parentRefs[2]"]);
    assert_eq!(compiled.ask(0, "a.test/"), "default/r:r");
}
