use super::*;
use crate::compile::diagnostics::Severity;

/// A rule with one match: `type value`, a method and `name=value` conditions on headers as they come.
fn matching(name: &str, text: &str) -> Value {
    let mut one = json!({});
    let mut words = text.split(' ');
    let (kind, value) = (words.next().expect("a type"), words.next().expect("a value"));
    one["path"] = json!({ "type": kind, "value": value });
    let mut headers = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((name, "*")) => headers.push(json!({ "name": name, "type": "Present" })),
            Some((name, value)) => headers.push(json!({ "name": name, "value": value })),
            None => one["method"] = word.into(),
        }
    }
    one["headers"] = headers.into();
    json!({ "name": name, "matches": [one], "backendRefs": [{ "name": "web", "port": 80 }] })
}

fn prioritised(mut rule: Value, priority: i32) -> Value {
    rule["priority"] = priority.into();
    rule
}

/// The rules of one route of a host that are told never to win.
fn never(rules: Vec<Value>) -> Vec<usize> {
    let compiled = World::new()
        .route("r", json!({ "parentRefs": [on("http")], "hostnames": ["a.test"], "rules": rules }))
        .compile();
    let mut never = Vec::new();
    for diagnostic in compiled.0.diagnostics.iter() {
        assert_eq!((diagnostic.severity, diagnostic.reason), (Severity::Warning, "NeverMatched"), "{diagnostic}");
        let rest = diagnostic.path.strip_prefix("spec.rules[").expect("a rule");
        never.push(rest[..rest.find(']').expect("closed")].parse().expect("a position"));
    }
    never
}

#[test]
fn a_match_behind_one_that_fits_the_same_requests_never_wins() {
    let cases: &[(&str, &[&str], &[usize])] = &[
        ("the order of paths leaves both", &["RegularExpression /user/[0-9]+", "PathPrefix /"], &[]),
        ("an expression for all", &["RegularExpression /.*", "PathPrefix /", "Exact /x"], &[1]),
        ("an expression for all below", &["RegularExpression /a/.*", "PathPrefix /a", "PathPrefix /a/b"], &[2]),
        ("a shorter expression", &["RegularExpression /(a|b|c)/.*", "RegularExpression /a/x"], &[1]),
        ("a longer expression for less", &["RegularExpression /a/.*", "RegularExpression /.*"], &[]),
        ("a template for all", &["Template /{all*}", "PathPrefix /a", "PathPrefix /"], &[1]),
        ("a template for an element", &["Template /a/{x}", "RegularExpression /a/[0-9]+", "PathPrefix /a"], &[1]),
        ("an exact path", &["Exact /a", "RegularExpression /a", "PathPrefix /a"], &[1]),
        ("older and not stricter", &["Exact /a h=*", "Exact /a h=1", "Exact /a h=2"], &[1, 2]),
        ("stricter and older", &["Exact /a h=1", "Exact /a h=*"], &[]),
        ("other conditions", &["RegularExpression /.* h=1", "PathPrefix / h=2", "PathPrefix /"], &[]),
        ("the same conditions", &["RegularExpression /.* h=1", "PathPrefix / h=1", "PathPrefix / h=1 i=2"], &[1, 2]),
        ("a method", &["RegularExpression /.* GET", "PathPrefix / GET", "PathPrefix / POST", "PathPrefix /"], &[1]),
        ("no path fits", &["RegularExpression user/[0-9]+", "PathPrefix /"], &[0]),
        ("no path fits, and it is told once", &["Exact /a", "RegularExpression /\u{fc}.*", "PathPrefix /"], &[1]),
        ("the query is no part of a path", &[r"RegularExpression /find\?q=.*", "PathPrefix /"], &[0]),
    ];
    for (name, matches, expected) in cases {
        let rules =
            |matches: &[&str]| matches.iter().enumerate().map(|(n, text)| matching(&n.to_string(), text)).collect();
        assert_eq!(never(rules(matches)), *expected, "{name}");
        // The same among many, where an index finds them.
        let mut many: Vec<String> = (0..12).map(|n| format!("Exact /other/{n} x={n}")).collect();
        many.splice(0..0, matches.iter().map(ToString::to_string));
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let covered = never(rules(&many));
        let own: Vec<usize> = covered.into_iter().filter(|rule| *rule < matches.len()).collect();
        assert_eq!(own, *expected, "{name}, among many");
    }
}

#[test]
fn a_match_behind_a_higher_priority_never_wins() {
    let behind = ["Exact /a", "Template /{x}", "RegularExpression /[a-z]+", "PathPrefix /b/c", "PathPrefix / POST h=1"];
    let rules = |first: &str| {
        let rules = behind.iter().enumerate().map(|(n, text)| matching(&n.to_string(), text));
        [prioritised(matching("first", first), 5)].into_iter().chain(rules).collect::<Vec<_>>()
    };
    assert_eq!(never(rules("PathPrefix /")), [1, 2, 3, 4, 5]);
    // The template always comes before the expression.
    assert_eq!(never(rules("PathPrefix /b")), [3, 4]);
    assert_eq!(never(rules("PathPrefix / POST")), [3, 5]);
    assert_eq!(never(rules("PathPrefix / h=2")), [3]);
    assert_eq!(never(rules("RegularExpression /[a-z]*")), [1, 3]);
}

#[test]
fn the_warning_names_the_match_that_always_does() {
    let compiled = World::new()
        .route("all", json!({ "parentRefs": [on("http")], "rules": [matching("any", "RegularExpression /.*")] }))
        .route("one", json!({ "parentRefs": [on("http")], "rules": [matching("own", "PathPrefix /shop")] }))
        .compile();
    let [warning] = &compiled.0.diagnostics[..] else { panic!("{:?}", compiled.0.diagnostics) };
    assert_eq!(
        warning.to_string(),
        "GatewayRoute default/one: spec.rules[0].matches[0]: NeverMatched: this match can never win for any host: every \
         request that fits it also fits RegularExpression /.* of rule any of GatewayRoute default/all, which comes first \
         by its type of path; change its path, its conditions or the priority of its rule, or remove it"
    );
    let parent = compiled.parent("one");
    assert!(parent.accepted.holds, "{parent:?}");
    assert!(parent.accepted.message.contains("GatewayRoute default/all"), "{parent:?}");
    assert_eq!(compiled.parent("all").accepted.message, "");
    assert!(!parent.conflicted.holds && parent.partially_invalid.is_none());
}

#[test]
fn what_wins_for_another_host_or_listener_or_by_another_rule_of_the_family_is_not_warned_of() {
    let route = |listener: &str, hosts: Value, rules: Vec<Value>| json!({ "parentRefs": [on(listener)], "hostnames": hosts, "rules": rules });
    let all = || prioritised(matching("all", "PathPrefix /"), 9);
    let own = || matching("own", "PathPrefix /own");
    let world = |first: Value, second: Value| {
        World::new()
            .route("ops/all", first)
            .route("ops/own", second)
            .service("ops/web", json!({ "ports": [{ "port": 80 }] }))
    };
    let findings = |world: World| world.compile().findings();
    assert_eq!(
        findings(world(route("http", json!(["a.test"]), vec![all()]), route("http", json!(["b.test"]), vec![own()]))),
        [""; 0]
    );
    assert_eq!(
        findings(world(route("http", json!(["*.test"]), vec![all()]), route("http", json!(["b.test"]), vec![own()]))),
        [""; 0]
    );
    assert_eq!(findings(world(route("ops", json!([]), vec![all()]), route("http", json!([]), vec![own()]))), [""; 0]);
    assert_eq!(findings(world(route("http", json!([]), vec![all()]), route("http", json!([]), vec![own()]))).len(), 1);
    // A child that takes all of what was handed to it leaves the delegating rule nothing, as it should.
    let compiled = World::new()
        .route("root", json!({ "parentRefs": [on("http")], "rules": [delegating("d", "/a")] }))
        .route("child", json!({ "parentRefs": [under("root", "d")], "rules": [rule("c", "/a")] }))
        .compile();
    assert_eq!(compiled.findings(), [""; 0]);
}
