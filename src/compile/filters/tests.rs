use serde_json::{Value, json};

use http::StatusCode;
use ipnet::IpNet;

use super::*;

use crate::compile::compile;
use crate::compile::inputs::{Inputs, StaticListener};
use crate::kinds::Sourced;
use crate::kinds::gateway_route::Route;
use crate::model::filter::{IpAccess, OriginMatch, TemplatePart};
use crate::model::ids::ObjectName;
use crate::model::snapshot::Snapshot;

/// Compiles routes by name; the findings as `path: found`.
fn compiled(routes: &[(&str, Value)]) -> (Snapshot, Vec<String>) {
    let mut inputs = Inputs {
        listeners: vec![StaticListener { name: "http".into(), ..StaticListener::default() }],
        gateway_class_name: "tidegate".into(),
        ..Inputs::default()
    };
    for (name, spec) in routes {
        let object = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute",
            "metadata": { "name": name, "namespace": "ns" }, "spec": spec });
        let object: Route = serde_json::from_value(object).expect("a route");
        inputs.objects.routes.insert(ObjectName::new("ns", *name), Sourced { object: object.into(), origin: None });
    }
    let output = compile(&inputs);
    // References are not what these tests are about.
    let findings = output.diagnostics.iter().filter(|finding| finding.reason != "BackendNotFound");
    let texts = findings.map(|finding| format!("{}: {}", finding.path, finding.found)).collect();
    (output.snapshot, texts)
}

/// The layers of a rule with these filters behind another, sound rule.
fn in_rule(matches: Value, filters: Value) -> Result<Vec<Filter>, Vec<String>> {
    let rule = json!({ "name": "it", "matches": matches, "filters": filters });
    let (snapshot, findings) = compiled(&[(
        "a",
        json!({ "rules": [{ "name": "other", "matches": [{ "path": { "value": "/other" } }] }, rule] }),
    )]);
    assert!(snapshot.rules.iter().any(|rule| &*rule.name == "other"), "the other rule serves");
    match snapshot.rules.iter().find(|rule| &*rule.name == "it") {
        Some(rule) => {
            assert_eq!(findings, <[&str; 0]>::default(), "supported, so nothing is wrong");
            Ok(rule.filters.to_vec())
        }
        None => Err(findings),
    }
}

#[test]
fn a_rate_limit_inside_of_a_concurrency_limit_serves_with_a_warning() {
    let rate = json!({ "type": "RateLimit", "rateLimit": { "requests": 1 } });
    let concurrency = |shadow: bool| json!({ "type": "ConcurrencyLimit", "concurrencyLimit": { "maxInFlight": 1, "shadow": shadow } });
    let of = |route: Value, rule: Value| {
        let spec = json!({ "filters": route, "rules": [{ "filters": rule }] });
        let (snapshot, findings) = compiled(&[("a", spec)]);
        assert_eq!(snapshot.rules[0].filters.len(), 2);
        findings
    };
    let found = |at: &str| vec![format!("{at}.rateLimit: this RateLimit stands inside of a ConcurrencyLimit")];
    assert_eq!(of(json!([]), json!([concurrency(false), rate])), found("spec.rules[0].filters[1]"));
    assert_eq!(of(json!([concurrency(false)]), json!([rate])), found("spec.rules[0].filters[0]"));
    for (route, rule) in [
        (json!([]), json!([rate, concurrency(false)])),
        (json!([rate]), json!([concurrency(false)])),
        (json!([]), json!([concurrency(true), rate])),
    ] {
        assert_eq!(of(route, rule), <[&str; 0]>::default());
    }
}

#[test]
fn a_redirect_or_rewrite_without_a_change_serves_with_a_warning() {
    let of = |filters: Value| {
        let spec = json!({ "rules": [{ "matches": prefix("/a"), "filters": filters }] });
        let (snapshot, findings) = compiled(&[("a", spec)]);
        (snapshot.rules[0].filters.to_vec(), findings)
    };
    for status in [301, 302, 303, 307, 308] {
        let (layers, findings) =
            of(json!([{ "type": "RequestRedirect", "requestRedirect": { "statusCode": status } }]));
        let [Filter::Redirect(redirect)] = &layers[..] else { panic!("{layers:?}") };
        assert_eq!(redirect.status.as_u16(), status);
        let expected =
            "spec.rules[0].filters[0].requestRedirect: this redirect leads a client to the URL that it has asked for";
        assert_eq!(findings, [expected]);
    }
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceFullPath", "replaceFullPath": "/b" } } });
    let (layers, findings) =
        of(json!([rewrite, { "type": "RequestRedirect", "requestRedirect": { "statusCode": 308 } }]));
    assert_eq!((layers.len(), findings), (2, vec![]), "the rewrite makes it lead elsewhere");
    let (layers, findings) = of(json!([{ "type": "URLRewrite", "urlRewrite": {} }]));
    assert_eq!((layers.len(), findings.len()), (1, 1), "{findings:?}");
    // Filters of the route are said once, whatever the number of rules.
    let spec = json!({ "filters": [{ "type": "RequestRedirect", "requestRedirect": { "statusCode": 307 } }],
        "rules": [{ "matches": prefix("/a") }, { "matches": prefix("/b") }] });
    let (snapshot, findings) = compiled(&[("a", spec)]);
    assert_eq!((snapshot.rules.len(), findings.len()), (2, 1), "{findings:?}");
}

fn prefix(value: &str) -> Value {
    json!([{ "path": { "type": "PathPrefix", "value": value } }])
}

fn template(value: &str) -> Value {
    json!([{ "path": { "type": "Template", "value": value } }])
}

fn rewrite(path: Value) -> Value {
    json!([{ "type": "URLRewrite", "urlRewrite": { "path": path } }])
}

#[test]
fn every_filter_becomes_a_layer_in_its_place() {
    let filters = json!([
        { "type": "IPAccess", "ipAccess": { "allow": ["10.1.2.3/8", "2001:db8::1", "::ffff:192.0.2.0/120"] } },
        { "type": "BodyLimit", "bodyLimit": { "maxBytes": 10 } },
        { "type": "RequestHeaderModifier",
          "requestHeaderModifier": { "set": [{ "name": "X-A", "value": "ä" }], "remove": ["x-b"] } },
        { "type": "URLRewrite",
          "urlRewrite": { "hostname": "in.test", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/" } } },
        { "type": "CORS", "cors": { "allowOrigins": ["HTTPS://A.test:443", "https://*.b.test:8443"], "allowMethods": ["GET", "PUT"] } }
    ]);
    let layers = in_rule(prefix("/docs"), filters).expect("served");
    let networks: Vec<IpNet> =
        ["10.0.0.0/8", "2001:db8::1/128", "192.0.2.0/24"].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(layers[0], Filter::IpAccess(IpAccess { allow: networks, deny: vec![] }));
    assert_eq!(layers[1], Filter::BodyLimit(10));
    let Filter::RequestHeaders(edits) = &layers[2] else { panic!("{layers:?}") };
    assert_eq!(edits.set[0].0, "x-a");
    assert_eq!(edits.set[0].1.as_bytes(), "ä".as_bytes());
    let edit = PathEdit::Prefix { matched: "/docs".into(), replacement: "".into() };
    assert_eq!(layers[3], Filter::Rewrite(Rewrite { hostname: Some("in.test".into()), path: Some(edit) }));
    let Filter::Cors(cors) = &layers[4] else { panic!("{layers:?}") };
    let wildcard = OriginMatch::Wildcard { prefix: "https://".into(), suffix: ".b.test:8443".into() };
    assert_eq!(cors.origins, [OriginMatch::Exact("https://a.test".into()), wildcard]);
    assert_eq!(cors.methods.as_ref().unwrap(), "GET, PUT");

    let redirect = json!([{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https", "statusCode": 308 } }]);
    let layers = in_rule(prefix("/"), redirect).expect("served");
    let expected = Redirect {
        scheme: Some("https"),
        hostname: None,
        path: None,
        port: None,
        status: StatusCode::PERMANENT_REDIRECT,
        insecure_only: false,
    };
    assert_eq!(layers, [Filter::Redirect(expected)]);
    let direct = json!([{ "type": "DirectResponse", "directResponse": { "statusCode": 418, "body": "tea" } }]);
    let layers = in_rule(prefix("/"), direct).expect("served");
    let [Filter::Direct(direct)] = &layers[..] else { panic!("{layers:?}") };
    assert_eq!((direct.status.as_u16(), &direct.body[..]), (418, &b"tea"[..]));
    let edit = rewrite(json!({ "type": "ReplaceTemplate", "replaceTemplate": "/users/{id}/pages-{rest}.html" }));
    let parts = in_rule(template("/u/{id}/{rest*}"), edit).expect("served");
    let text = |text: &str| TemplatePart::Text(text.into());
    let name = |name: &str| TemplatePart::Variable(name.into());
    let parts_expected = vec![text("/users/"), name("id"), text("/pages-"), name("rest"), text(".html")];
    let expected = Rewrite { hostname: None, path: Some(PathEdit::Template(parts_expected)) };
    assert_eq!(parts, [Filter::Rewrite(expected)]);
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let header = |side: &str, part: Value| {
        let (kind, member) = if side == "request" {
            ("RequestHeaderModifier", "requestHeaderModifier")
        } else {
            ("ResponseHeaderModifier", "responseHeaderModifier")
        };
        json!([{ "type": kind, member: part }])
    };
    let set = |name: &str, value: &str| json!({ "set": [{ "name": name, "value": value }] });
    let cors = |part: Value| {
        let mut cors = json!({ "allowOrigins": ["*"] });
        cors.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        json!([{ "type": "CORS", "cors": cors }])
    };
    let access = |part: Value| json!([{ "type": "IPAccess", "ipAccess": part }]);
    let direct = |part: Value| json!([{ "type": "DirectResponse", "directResponse": part }]);
    let regex = |pattern: &str, substitution: &str| {
        let replacement = json!({ "pattern": pattern, "substitution": substitution });
        rewrite(json!({ "type": "ReplaceRegularExpression", "replaceRegularExpression": replacement }))
    };
    let full = |path: &str| rewrite(json!({ "type": "ReplaceFullPath", "replaceFullPath": path }));
    let by_template = |path: &str| rewrite(json!({ "type": "ReplaceTemplate", "replaceTemplate": path }));
    let by_prefix = || rewrite(json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" }));
    let (root, named) = (prefix("/"), template("/a/{id}"));
    let cases = [
        (&root, header("request", set("Connection", "x")), "requestHeaderModifier.set[0].name"),
        (&root, header("request", set("Content-Length", "1")), "requestHeaderModifier.set[0].name"),
        (&root, header("request", set("Host", "a")), "requestHeaderModifier.set[0].name"),
        (&root, header("request", set("X-Forwarded-For", "a")), "requestHeaderModifier.set[0].name"),
        (&root, header("request", set("x_a", "a")), "requestHeaderModifier.set[0].name"),
        (&root, header("request", set("x-a", "a\r\nb: c")), "requestHeaderModifier.set[0].value"),
        (&root, header("request", json!({ "remove": ["Upgrade"] })), "requestHeaderModifier.remove[0]"),
        (&root, header("response", set("Transfer-Encoding", "x")), "responseHeaderModifier.set[0].name"),
        (
            &root,
            header("response", json!({ "add": [{ "name": "te", "value": "x" }] })),
            "responseHeaderModifier.add[0].name",
        ),
        (
            &root,
            header("response", json!({ "set": [{ "name": "x-a", "value": "1" }, { "name": "X-A", "value": "2" }] })),
            "responseHeaderModifier.set[1].name",
        ),
        (
            &root,
            header("response", json!({ "set": [{ "name": "x-a", "value": "1" }], "remove": ["X-a"] })),
            "responseHeaderModifier.remove[0]",
        ),
        (&root, cors(json!({ "allowOrigins": ["a.test"] })), "cors.allowOrigins[0]"),
        (&root, cors(json!({ "allowOrigins": ["https://a.test/"] })), "cors.allowOrigins[0]"),
        (&root, cors(json!({ "allowOrigins": ["https://a.*.test"] })), "cors.allowOrigins[0]"),
        (&root, cors(json!({ "allowOrigins": [] })), "cors.allowOrigins"),
        (&root, cors(json!({ "allowMethods": ["GET", "*"] })), "cors.allowMethods[0]"),
        (&root, cors(json!({ "allowHeaders": ["x a"] })), "cors.allowHeaders[0]"),
        (&root, access(json!({ "allow": ["10.0.0.0/33"] })), "ipAccess.allow[0]"),
        (&root, access(json!({ "deny": ["10.0.0.1", "example.test"] })), "ipAccess.deny[1]"),
        (&root, access(json!({ "allow": [] })), "ipAccess"),
        (&root, direct(json!({ "statusCode": 204, "body": "x" })), "directResponse.body"),
        (&root, direct(json!({ "statusCode": 200, "contentType": "a\nb" })), "directResponse.contentType"),
        (&root, regex("(", "/"), "urlRewrite.path.replaceRegularExpression.pattern"),
        (&root, regex("(?=a)", "/"), "urlRewrite.path.replaceRegularExpression.pattern"),
        (&root, regex("(a)", "$2"), "urlRewrite.path.replaceRegularExpression.substitution"),
        (&root, regex("(?<n>a)", "${m}"), "urlRewrite.path.replaceRegularExpression.substitution"),
        (&root, regex("(a)", "/a/${1"), "urlRewrite.path.replaceRegularExpression.substitution"),
        (&root, regex("(a)", "/a/${"), "urlRewrite.path.replaceRegularExpression.substitution"),
        (&root, regex("a", "?b"), "urlRewrite.path.replaceRegularExpression.substitution"),
        (&root, full("a"), "urlRewrite.path.replaceFullPath"),
        (&root, full("/a?b"), "urlRewrite.path.replaceFullPath"),
        (&root, by_template("/{id}"), "urlRewrite.path.replaceTemplate"),
        (&named, by_template("/{name}"), "urlRewrite.path.replaceTemplate"),
        (&named, by_template("/{id}/{"), "urlRewrite.path.replaceTemplate"),
        (&named, by_template("/../{id}"), "urlRewrite.path.replaceTemplate"),
        (&named, by_prefix(), "urlRewrite.path.replacePrefixMatch"),
        (
            &root,
            json!([{ "type": "RequestRedirect", "requestRedirect": { "port": 1, "statusCode": 200 } }]),
            "requestRedirect.statusCode",
        ),
        (&root, json!([{ "type": "BodyLimit" }]), "bodyLimit"),
    ];
    for (matches, filters, path) in cases {
        let findings = in_rule(matches.clone(), filters.clone()).expect_err("refused");
        let expected = format!("spec.rules[1].filters[0].{path}: ");
        assert!(matches!(findings.as_slice(), [only] if only.starts_with(&expected)), "{filters}: {findings:?}");
    }
    assert!(in_rule(root.clone(), regex("/(a)(?<n>b)", "/$1${n}$$")).is_ok());
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let redirect = json!({ "type": "RequestRedirect", "requestRedirect": { "port": 1 } });
    let edit = json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "remove": ["x-a"] } });
    let findings = in_rule(prefix("/"), json!([redirect, edit])).expect_err("unreachable");
    assert_eq!(findings, ["spec.rules[1].filters[1]: ResponseHeaderModifier behind RequestRedirect"]);
    assert!(in_rule(prefix("/"), json!([edit, redirect])).is_ok());
}

fn child(rule: Value) -> Value {
    let parent = json!({ "group": "tidegate.dev", "kind": "GatewayRoute", "name": "root", "sectionName": "a" });
    json!({ "parentRefs": [parent], "rules": [rule] })
}

fn mark(value: &str) -> Value {
    json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": { "add": [{ "name": "x-mark", "value": value }] } })
}

#[test]
fn layers_of_delegating_rules_stand_outside() {
    let root = json!({ "filters": [mark("1")], "rules": [{
        "name": "a", "matches": prefix("/a"), "filters": [mark("2")], "delegate": { "namespaces": {} } }] });
    let mut below = child(json!({ "matches": prefix("/a/b"), "filters": [mark("4")] }));
    below["filters"] = json!([mark("3")]);
    let (snapshot, findings) = compiled(&[("root", root), ("child", below)]);
    assert_eq!(findings, <[&str; 0]>::default());
    let rule = snapshot.rules.iter().find(|rule| !rule.delegates).expect("the child's rule");
    let marks: Vec<&str> = rule
        .filters
        .iter()
        .map(|layer| match layer {
            Filter::ResponseHeaders(edits) => edits.add[0].1.to_str().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(marks, ["1", "2", "3", "4"]);
}

#[test]
fn a_child_never_serves_without_an_outer_layer() {
    let good = json!({ "type": "IPAccess", "ipAccess": { "allow": ["10.0.0.0/8"] } });
    let broken = json!({ "type": "IPAccess", "ipAccess": { "allow": ["10.0.0.0"], "deny": ["nowhere"] } });
    let later = json!({ "type": "ExtensionRef", "extensionRef": { "group": "a", "kind": "B", "name": "c" } });
    for (filter, serves) in [(good, true), (broken, false), (later, false)] {
        let root = json!({ "rules": [{
            "name": "a", "matches": prefix("/a"), "filters": [filter], "delegate": { "namespaces": {} } }] });
        let (snapshot, findings) = compiled(&[("root", root), ("child", child(json!({ "matches": prefix("/a/b") })))]);
        assert_eq!(snapshot.rules.iter().any(|rule| !rule.delegates), serves, "{filter}: {findings:?}");
        let said =
            findings.iter().any(|text| text.starts_with("spec.parentRefs[0]") && text.contains("which is not served"));
        assert_eq!(said, !serves, "{findings:?}");
    }
}

#[test]
fn a_prefix_that_an_outer_layer_changed_is_not_replaced() {
    let full = rewrite(json!({ "type": "ReplaceFullPath", "replaceFullPath": "/z" }));
    let root = json!({ "rules": [{
        "name": "a", "matches": prefix("/a"), "filters": full, "delegate": { "namespaces": {} } }] });
    let edit = rewrite(json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" }));
    let (snapshot, findings) =
        compiled(&[("root", root), ("child", child(json!({ "matches": prefix("/a/b"), "filters": edit })))]);
    assert!(snapshot.rules.iter().all(|rule| rule.delegates), "{findings:?}");
    assert!(findings.iter().any(|text| text.starts_with("spec.rules[0].filters: ReplacePrefixMatch behind")));
}

/// The findings about routes whose rule `it` must not be served; `other` must.
fn refused(routes: &[(&str, Value)]) -> Vec<String> {
    let (snapshot, findings) = compiled(routes);
    let names: Vec<&str> = snapshot.rules.iter().filter(|rule| !rule.delegates).map(|rule| &*rule.name).collect();
    assert_eq!(names, ["other"], "{findings:?}");
    findings
}

#[test]
fn a_prefix_that_a_layer_outside_of_a_backend_changed_is_not_replaced() {
    let full = rewrite(json!({ "type": "ReplaceFullPath", "replaceFullPath": "/z" }));
    let edit = || rewrite(json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" }));
    let references =
        |filters: Value| json!([{ "name": "a", "port": 80 }, { "name": "b", "port": 80, "filters": filters }]);
    let plain = json!({ "name": "other", "matches": prefix("/a/other") });
    let it = |filters: Value| json!({ "name": "it", "matches": prefix("/a/b"), "backendRefs": references(edit()), "filters": filters });
    let at = "spec.rules[0].backendRefs[1].filters";

    let of_rule = refused(&[("a", json!({ "rules": [it(full.clone()), plain] }))]);
    assert_eq!(of_rule, [format!("{at}[0].urlRewrite.path.type: ReplacePrefixMatch")]);
    // The filters of a route stand around all its rules; those of the other end do not mind.
    let of_route = refused(&[("a", json!({ "filters": full, "rules": [it(json!([])), plain] }))]);
    assert_eq!(of_route, [format!("{at}[0].urlRewrite.path.type: ReplacePrefixMatch")]);

    let root = |filters: Value, of_rule: Value| {
        json!({ "filters": filters, "rules": [{
            "name": "a", "matches": prefix("/a"), "filters": of_rule, "delegate": { "namespaces": {} } }] })
    };
    let mut below = child(it(json!([])));
    below["rules"].as_array_mut().unwrap().push(plain.clone());
    for root in [root(json!([]), full.clone()), root(full.clone(), json!([]))] {
        let of_parent = refused(&[("child", below.clone()), ("root", root)]);
        let expected = format!("{at}: ReplacePrefixMatch behind a path change of a delegating rule");
        assert_eq!(of_parent, [expected]);
    }

    // Only a path change stands in the way, and only that edit works on the prefix.
    let host = json!([{ "type": "URLRewrite", "urlRewrite": { "hostname": "in.test" } }]);
    let (snapshot, findings) = compiled(&[("root", root(json!([]), host.clone())), ("child", child(it(host)))]);
    assert_eq!(findings, <[&str; 0]>::default());
    assert!(snapshot.rules.iter().any(|rule| &*rule.name == "it"));
    let mut rule = it(full.clone());
    rule["backendRefs"] = references(full);
    assert_eq!(compiled(&[("a", json!({ "rules": [rule] }))]).1, <[&str; 0]>::default());
}

#[test]
fn upgrades_come_from_the_rule_its_route_or_a_delegating_rule() {
    let upgrades = |block: Value| json!({ "upgrades": block });
    let root = json!({ "defaults": upgrades(json!({ "idleTimeout": "3s" })), "rules": [{
        "name": "a", "matches": prefix("/a"), "delegate": { "namespaces": {} } }] });
    let own = json!({ "allow": [], "maxLifetime": "1h", "maxConnections": 7,
        "drain": { "window": "5s", "closeCode": 1001 } });
    let rule = json!({ "name": "own", "matches": prefix("/a/own"), "upgrades": own });
    let mut below = child(rule);
    below["rules"].as_array_mut().unwrap().push(json!({ "name": "above", "matches": prefix("/a/above") }));
    let (snapshot, findings) = compiled(&[("root", root), ("child", below)]);
    assert_eq!(findings, <[&str; 0]>::default());
    let rule = |name: &str| snapshot.rules.iter().find(|rule| &*rule.name == name).expect("served").upgrades.clone();
    let seconds = std::time::Duration::from_secs;
    let own = rule("own");
    assert!(!own.websocket);
    assert_eq!((own.idle_timeout, own.max_lifetime, own.max_connections), (None, Some(seconds(3600)), Some(7)));
    assert_eq!((own.drain_window, own.close_code), (seconds(5), 1001));
    let above = rule("above");
    assert!(above.websocket);
    assert_eq!((above.idle_timeout, above.close_code), (Some(seconds(3)), 1012));
    let reserved = upgrades(json!({ "drain": { "closeCode": 1005 } }));
    let (snapshot, findings) = compiled(&[("a", json!({ "rules": [reserved] }))]);
    assert!(snapshot.rules.is_empty());
    assert_eq!(findings, ["spec.rules[0].upgrades.drain.closeCode: 1005"]);
}

/// Each limit of a route has a state of its own, but for those of one pool, and those of the route are the same for all
/// of its rules.
#[test]
fn limits_name_their_state() {
    let rate = json!({ "type": "RateLimit", "rateLimit": { "requests": 120, "interval": "1m", "burst": 0 } });
    let pool = |weight: u32| {
        let limit = json!({ "maxInFlight": 10, "weight": weight, "pool": "db" });
        json!({ "type": "ConcurrencyLimit", "concurrencyLimit": limit })
    };
    let backend = json!({ "name": "web", "port": 80, "filters": [rate] });
    let rule = |path: &str, filters: Value| json!({ "matches": [{ "path": { "value": path } }], "filters": filters, "backendRefs": [backend] });
    let spec = json!({
        "filters": [rate],
        "rules": [rule("/a", json!([rate, pool(1), rate])), rule("/b", json!([pool(5)]))],
    });
    let (snapshot, findings) = compiled(&[("it", spec)]);
    let order = "this RateLimit stands inside of a ConcurrencyLimit";
    assert!(findings.iter().all(|finding| finding.ends_with(order)), "{findings:?}");
    let names = |filters: &[Filter]| -> Vec<String> {
        filters.iter().map(|filter| filter.state_key().expect("it keeps something").to_string()).collect()
    };
    assert_eq!(names(&snapshot.rules[0].filters), ["route", "0", "pool/db", "0[1]"]);
    assert_eq!(names(&snapshot.rules[1].filters), ["route", "pool/db"]);
    assert_eq!(names(&snapshot.rules[1].backend_refs[0].filters), ["1/0"]);
    let Filter::RateLimit(limit) = &snapshot.rules[0].filters[0] else { panic!("another filter") };
    let fields = limit.fields.as_ref().expect("told unless switched off");
    assert_eq!(
        (limit.interval.as_millis(), limit.burst, &fields.policy),
        (500, 1, &http::HeaderValue::from_static("\"route\";q=120;w=60"),)
    );
}
