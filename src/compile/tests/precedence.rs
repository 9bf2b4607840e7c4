use super::*;

#[test]
fn the_older_object_wins_then_the_name_as_text() {
    let spec = || json!({ "parentRefs": [on("http")], "rules": [rule("a", "/x"), rule("b", "/")] });
    // "a-b/r" is before "a/r" as text, though namespace `a` is before `a-b`.
    for (first, second, winner) in [
        (("b/r", "2026-01-01T00:00:00Z"), ("a/r", "2026-01-02T00:00:00Z"), "b/r"),
        (("b/r", "2026-01-01T00:00:00Z"), ("a/r", "2026-01-01T00:00:00Z"), "a/r"),
        (("a/r", "2026-01-01T00:00:00Z"), ("a-b/r", "2026-01-01T00:00:00Z"), "a-b/r"),
    ] {
        let loser = if winner == first.0 { second.0 } else { first.0 };
        let mut own = spec();
        own["rules"][1] = rule("own", "/own");
        let (of_first, of_second) = if loser == first.0 { (own, spec()) } else { (spec(), own) };
        let mut world = World::new().aged(first.0, first.1, of_first).aged(second.0, second.1, of_second);
        for namespace in ["a", "b", "a-b"] {
            world = world.service(&format!("{namespace}/web"), json!({ "ports": [{ "port": 80 }] }));
        }
        let compiled = world.compile();
        assert_eq!(compiled.ask(0, "h/x/1"), format!("{winner}:a"));
        assert_eq!(compiled.ask(0, "h/own"), format!("{loser}:own"), "the loser's other matches serve");
        assert_eq!(compiled.findings(), ["DuplicateMatch spec.rules[0].matches[0]"]);
        let diagnostic = &compiled.0.diagnostics[0];
        assert_eq!(diagnostic.object.as_ref().map(|object| object.name.to_string()), Some(loser.to_owned()));
        assert!(diagnostic.found.contains(&format!("rule a of GatewayRoute {winner}")), "{diagnostic}");
        let parent = compiled.parent(loser);
        assert!(parent.accepted.holds && parent.conflicted.holds);
        assert_eq!(parent.conflicted.reason, ConditionReason::DuplicateMatch);
        assert!(parent.conflicted.message.contains(winner), "{parent:?}");
        assert!(!compiled.parent(winner).conflicted.holds);
    }
}

#[test]
fn duplicates_are_judged_match_by_match_and_host_by_host() {
    let matches = |paths: &[&str]| -> Vec<Value> {
        paths.iter().map(|path| json!({ "path": { "type": "Exact", "value": path } })).collect()
    };
    let compiled = World::new()
        .aged("old", "2026-01-01T00:00:00Z", json!({ "hostnames": ["a.example"], "rules": [{ "name": "a", "matches": matches(&["/1", "/2"]) }] }))
        .aged("new", "2026-01-02T00:00:00Z", json!({ "parentRefs": [on("http")], "hostnames": ["A.example", "b.example"], "rules": [{ "name": "a", "matches": matches(&["/3", "/2"]) }] }))
        .compile();
    let asked = ["a.example/1", "a.example/2", "a.example/3", "b.example/2"].map(|url| compiled.ask(0, url));
    assert_eq!(asked, ["default/old:a", "default/old:a", "default/new:a", "default/new:a"]);
    assert_eq!(
        compiled.findings(),
        ["DuplicateMatch spec.rules[0].matches[1]"],
        "one finding, whatever the hosts and listeners"
    );
}

#[test]
fn what_differs_in_any_predicate_is_no_duplicate() {
    let header = |value: &str| json!([{ "name": "x-a", "value": value }]);
    let one = |fields: Value| json!({ "rules": [{ "matches": [fields] }] });
    let different = [
        json!({ "headers": header("1") }),
        json!({ "headers": header("2") }),
        json!({ "queryParams": header("1") }),
        json!({ "cookies": header("1") }),
        json!({ "method": "GET" }),
        json!({ "path": { "type": "Exact", "value": "/" } }),
        json!({ "path": { "type": "RegularExpression", "value": "/x?" } }),
        json!({}),
    ];
    let world = different
        .iter()
        .enumerate()
        .fold(World::new(), |world, (n, fields)| world.route(&format!("r{n}"), one(fields.clone())));
    assert_eq!(world.compile().findings(), [""; 0]);
    // The order of conditions, the case of names and the names of variables are no difference.
    let ab = json!([{ "name": "A", "value": "1" }, { "name": "b", "type": "Present" }]);
    let ba = json!([{ "name": "B", "type": "Present" }, { "name": "a", "value": "1" }]);
    let template = |name: &str| json!({ "type": "Template", "value": format!("/u/{{{name}}}") });
    let compiled = World::new()
        .route("a", one(json!({ "headers": ab, "path": template("id") })))
        .route("b", one(json!({ "headers": ba, "path": template("user") })))
        .compile();
    assert_eq!(compiled.findings(), ["DuplicateMatch spec.rules[0].matches[0]"]);
}

#[test]
fn a_second_match_in_one_route_is_told_but_is_no_conflict_between_objects() {
    let compiled = World::new()
        .route("r", json!({ "parentRefs": [on("http")], "rules": [rule("a", "/x"), rule("b", "/x")] }))
        .compile();
    assert_eq!(compiled.findings(), ["DuplicateMatch spec.rules[1].matches[0]"]);
    assert_eq!(compiled.ask(0, "h/x"), "default/r:a");
    assert!(!compiled.parent("r").conflicted.holds);
}

#[test]
fn hostname_then_priority_then_path_then_conditions_decide() {
    let with = |mut rule: Value, field: &str, value: Value| {
        rule[field] = value;
        rule
    };
    let compiled = World::new()
        .route("exact", json!({ "hostnames": ["a.b.example"], "rules": [rule("a", "/only")] }))
        .route("wild", json!({ "hostnames": ["*.example", "*.b.example"], "rules": [
            rule("root", "/"), rule("long", "/long/path"), with(rule("urgent", "/long"), "priority", json!(5)),
            { "name": "get", "matches": [{ "path": { "value": "/m" }, "method": "GET" }] },
            { "name": "header", "matches": [{ "path": { "value": "/m" }, "headers": [{ "name": "x", "value": "1" }] }] } ] }))
        .route("all", json!({ "rules": [rule("a", "/all"), rule("root", "/")] }))
        .compile();
    for (url, expected) in [
        ("a.b.example/only", "default/exact:a"),
        ("a.b.example/else", "default/wild:root"),
        ("example/all", "default/all:a"),
        ("x.example/all", "default/wild:root"),
        ("x.example/long/path", "default/wild:urgent"),
        ("x.example/m", "default/wild:get"),
    ] {
        assert_eq!(compiled.ask(0, url), expected, "{url}");
    }
    assert_eq!(compiled.ask_with(0, "POST", "x.example/m", &[("x", "1")]), "default/wild:header");
    assert_eq!(compiled.ask_with(0, "GET", "x.example/m", &[("x", "1")]), "default/wild:get", "method before headers");
}
