use std::time::Duration;

use super::*;
use crate::model::policy::{Locality, LocalityMode, Spread};
use crate::model::session::{Carrier, SameSite};

/// One route `r` with one rule `bad` of these fields and one rule `good` for /good.
fn beside(fields: Value) -> Compiled {
    let mut bad = json!({ "name": "bad", "backendRefs": [{ "name": "web", "port": 80 }] });
    fields.as_object().expect("fields").iter().for_each(|(key, value)| bad[key] = value.clone());
    World::new().route("r", json!({ "parentRefs": [on("http")], "rules": [bad, rule("good", "/good")] })).compile()
}

#[test]
fn a_broken_rule_harms_only_itself() {
    let path = |kind: &str, value: &str| json!({ "matches": [{ "path": { "type": kind, "value": value } }] });
    let hash = |key: Value| json!({ "loadBalancer": { "algorithm": "ConsistentHash", "hashKeys": [key] } });
    let grpc = |grpc: Value| json!({ "matches": [{ "grpc": grpc }] });
    let session = |session: Value| json!({ "sessionPersistence": session });
    let balanced = |mut block: Value| {
        block["algorithm"] = json!("ConsistentHash");
        block["hashKeys"] = json!([{ "type": "SourceIP" }]);
        json!({ "loadBalancer": block })
    };
    let cases = [
        (path("Template", "/a/{rest*}/b"), "matches[0].path.value"),
        (path("Template", "/{a}/{a}"), "matches[0].path.value"),
        (path("RegularExpression", "/a("), "matches[0].path.value"),
        (path("RegularExpression", "/(a{900}){900}"), "matches[0].path.value"),
        (path("Glob", "/a"), "matches[0].path.type"),
        (path("Exact", "/a/../.."), "matches[0].path.value"),
        (json!({ "matches": [{ "method": "BREW" }] }), "matches[0].method"),
        (
            json!({ "matches": [{ "headers": [{ "name": "X-a", "value": "1" }, { "name": "x-A", "value": "2" }] }] }),
            "matches[0].headers[1].name",
        ),
        (
            json!({ "matches": [{}, { "cookies": [{ "type": "RegularExpression", "name": "a", "value": "[" }] }] }),
            "matches[1].cookies[0].value",
        ),
        (
            json!({ "matches": [{ "path": { "type": "Exact", "value": "/a" }, "grpc": { "service": "s" } }] }),
            "matches[0].path",
        ),
        (grpc(json!({ "service": "a/b" })), "matches[0].grpc.service"),
        (grpc(json!({ "service": ".." })), "matches[0].grpc.service"),
        (grpc(json!({ "type": "RegularExpression", "service": "a)|(b" })), "matches[0].grpc.service"),
        (json!({ "loadBalancer": { "algorithm": "Fastest" } }), "loadBalancer.algorithm"),
        (json!({ "loadBalancer": { "algorithm": "ConsistentHash" } }), "loadBalancer.hashKeys"),
        (hash(json!({ "type": "PathParam", "name": "id" })), "loadBalancer.hashKeys[0].name"),
        (hash(json!({ "type": "Header", "name": "a b" })), "loadBalancer.hashKeys[0].name"),
        (hash(json!({ "type": "Cookie" })), "loadBalancer.hashKeys[0].name"),
        (hash(json!({ "type": "JWTClaim", "name": "sub" })), "loadBalancer.hashKeys"),
        (json!({ "timeouts": { "request": "soon" } }), "timeouts.request"),
        (json!({ "outlierDetection": { "consecutiveErrors": 0 } }), "outlierDetection.consecutiveErrors"),
        (json!({ "outlierDetection": { "interval": "0s" } }), "outlierDetection.interval"),
        (json!({ "outlierDetection": { "baseEjection": "10m" } }), "outlierDetection.maxEjection"),
        (json!({ "outlierDetection": { "codes": [503, 404] } }), "outlierDetection.codes[1]"),
        (json!({ "connection": { "maxConnectionsPerEndpoint": 0 } }), "connection.maxConnectionsPerEndpoint"),
        (json!({ "connection": { "maxRequestsPerEndpoint": 0 } }), "connection.maxRequestsPerEndpoint"),
        (json!({ "connection": { "maxPendingRequests": 5 } }), "connection.maxPendingRequests"),
        (json!({ "connection": { "maxRequestsPerEndpoint": 1, "pendingTimeout": "2s" } }), "connection.pendingTimeout"),
        (
            json!({ "connection": { "maxRequestsPerEndpoint": 1, "maxPendingRequests": 1, "pendingTimeout": "0s" } }),
            "connection.pendingTimeout",
        ),
        (json!({ "retry": { "methods": ["TRACE"] } }), "retry.methods[0]"),
        (json!({ "retry": { "backoff": "1s", "maxBackoff": "25ms" } }), "retry.maxBackoff"),
        (json!({ "retry": { "grpcCodes": ["Internal"] } }), "retry.grpcCodes"),
        (json!({ "retry": { "retryOn": ["GRPCStatus"], "grpcCodes": ["NotFound"] } }), "retry.grpcCodes[0]"),
        (json!({ "retry": { "budget": { "percent": 0, "minPerSecond": 0 } } }), "retry.budget"),
        (json!({ "retry": { "budget": { "interval": "90s" } } }), "retry.budget.interval"),
        (json!({ "retry": { "attempts": 0 } }), "retry.attempts"),
        (json!({ "loadBalancer": { "slowStart": "0s" } }), "loadBalancer.slowStart"),
        (json!({ "loadBalancer": { "slowStart": "61m" } }), "loadBalancer.slowStart"),
        (balanced(json!({ "slowStart": "10s" })), "loadBalancer.slowStart"),
        (balanced(json!({ "locality": { "mode": "PreferZone" } })), "loadBalancer.locality.mode"),
        (json!({ "loadBalancer": { "locality": { "mode": "Nearest" } } }), "loadBalancer.locality.mode"),
        (json!({ "loadBalancer": { "locality": { "minEndpoints": 0 } } }), "loadBalancer.locality.minEndpoints"),
        (session(json!({ "type": "Path" })), "sessionPersistence.type"),
        (session(json!({ "sessionName": "a b" })), "sessionPersistence.sessionName"),
        (session(json!({ "sessionName": "" })), "sessionPersistence.sessionName"),
        (session(json!({ "sessionName": "__Secure-a" })), "sessionPersistence.sessionName"),
        (session(json!({ "type": "Header", "sessionName": "cookie" })), "sessionPersistence.sessionName"),
        (session(json!({ "type": "Header", "sessionName": "Content-Length" })), "sessionPersistence.sessionName"),
        (session(json!({ "type": "Header", "sessionName": "a:b" })), "sessionPersistence.sessionName"),
        (session(json!({ "type": "Header", "cookieConfig": {} })), "sessionPersistence.cookieConfig"),
        (session(json!({ "absoluteTimeout": "0s" })), "sessionPersistence.absoluteTimeout"),
        (session(json!({ "idleTimeout": "1500ms" })), "sessionPersistence.idleTimeout"),
        (session(json!({ "idleTimeout": "2h", "absoluteTimeout": "1h" })), "sessionPersistence.idleTimeout"),
        (session(json!({ "cookieConfig": { "lifetimeType": "Permanent" } })), "sessionPersistence"),
        (
            session(json!({ "cookieConfig": { "lifetimeType": "Forever" } })),
            "sessionPersistence.cookieConfig.lifetimeType",
        ),
        (session(json!({ "cookieConfig": { "sameSite": "Loose" } })), "sessionPersistence.cookieConfig.sameSite"),
        (
            session(json!({ "cookieConfig": { "sameSite": "None", "secure": false } })),
            "sessionPersistence.cookieConfig.secure",
        ),
        (session(json!({ "cookieConfig": { "path": "shop" } })), "sessionPersistence.cookieConfig.path"),
        (session(json!({ "cookieConfig": { "path": "/a;b" } })), "sessionPersistence.cookieConfig.path"),
        (
            session(json!({ "sessionName": "__Host-a", "cookieConfig": { "secure": true, "path": "/a" } })),
            "sessionPersistence.cookieConfig.path",
        ),
        (
            json!({ "delegate": {}, "backendRefs": [], "matches": [{ "path": { "value": "/a" } }],
                "sessionPersistence": {} }),
            "sessionPersistence",
        ),
        (json!({ "retry": { "codes": [500, 200] } }), "retry.codes[1]"),
        (json!({ "healthCheck": { "interval": "soon" } }), "healthCheck.interval"),
        (json!({ "healthCheck": { "interval": "999ms", "timeout": "1ms" } }), "healthCheck.interval"),
        (json!({ "healthCheck": { "interval": "2h" } }), "healthCheck.interval"),
        (json!({ "healthCheck": { "timeout": "0s" } }), "healthCheck.timeout"),
        (json!({ "healthCheck": { "timeout": "11s" } }), "healthCheck.timeout"),
        (json!({ "healthCheck": { "path": "healthz" } }), "healthCheck.path"),
        (json!({ "healthCheck": { "path": "/a b" } }), "healthCheck.path"),
        (json!({ "healthCheck": { "path": "/a#b" } }), "healthCheck.path"),
        (json!({ "healthCheck": { "path": "/\u{e9}" } }), "healthCheck.path"),
        (json!({ "healthCheck": { "port": 0 } }), "healthCheck.port"),
        (json!({ "healthCheck": { "hostname": "a b" } }), "healthCheck.hostname"),
        (json!({ "healthCheck": { "hostname": "" } }), "healthCheck.hostname"),
        (json!({ "healthCheck": { "hostname": "u@a.test" } }), "healthCheck.hostname"),
        (json!({ "healthCheck": { "expectedStatuses": ["200", "299-200"] } }), "healthCheck.expectedStatuses[1]"),
        (json!({ "healthCheck": { "unhealthyThreshold": 0 } }), "healthCheck.unhealthyThreshold"),
        (json!({ "healthCheck": { "healthyThreshold": 11 } }), "healthCheck.healthyThreshold"),
        (json!({ "healthCheck": { "grpcService": "s", "path": "/a" } }), "healthCheck.path"),
        (json!({ "healthCheck": { "grpcService": "s", "expectedStatuses": ["200"] } }), "healthCheck.expectedStatuses"),
        (json!({ "healthCheck": { "grpcService": "a\nb" } }), "healthCheck.grpcService"),
        (json!({ "delegate": {}, "backendRefs": [], "matches": [{}, {}] }), "matches"),
    ];
    for (fields, at) in cases {
        let compiled = beside(fields.clone());
        assert_eq!(compiled.findings(), [format!("UnsupportedValue spec.rules[0].{at}")], "{fields}");
        assert_eq!(compiled.ask(0, "h/good"), "default/r:good", "{fields}");
        assert_eq!(compiled.ask(0, "h/bad"), "no path", "{fields}");
        let parent = compiled.parent("r");
        assert!(parent.accepted.holds, "{fields}");
        let partly = parent.partially_invalid.as_ref().expect("some rule is dropped");
        assert!(partly.message.starts_with("Dropped Rule: spec.rules[0]."), "{partly:?}");
    }
    assert_eq!(beside(json!({})).parent("r").partially_invalid, None);
}

#[test]
fn a_route_without_a_good_rule_is_not_accepted() {
    let spec = json!({ "parentRefs": [on("http")], "rules": [{ "loadBalancer": { "algorithm": "Fastest" } }] });
    let compiled = World::new().route("r", spec).compile();
    let parent = compiled.parent("r");
    assert_eq!((parent.accepted.holds, parent.accepted.reason), (false, ConditionReason::UnsupportedValue));
    assert!(parent.accepted.message.contains("found Fastest"), "{parent:?}");
    assert_eq!((parent.partially_invalid.as_ref(), compiled.ask(0, "h/")), (None, "no host".to_owned()));
    let spec = json!({ "parentRefs": [on("http")], "tls": { "certificateRefs": [{ "name": "a" }], "minVersion": "TLSv9" }, "rules": [rule("a", "/")] });
    let compiled = World::new().route("r", spec).compile();
    assert_eq!(compiled.findings(), ["UnsupportedValue spec.tls.minVersion"]);
    assert!(!compiled.parent("r").accepted.holds);
    assert_eq!(compiled.ask(0, "h/"), "no host");
}

#[test]
fn a_block_of_the_defaults_harms_the_rules_that_inherit_it() {
    let own = json!({ "name": "own", "matches": [{ "path": { "type": "Exact", "value": "/own" } }], "loadBalancer": {}, "retry": {},
        "outlierDetection": {}, "healthCheck": {} });
    for (defaults, path) in [
        (json!({ "loadBalancer": { "algorithm": "Fastest" } }), "spec.defaults.loadBalancer.algorithm"),
        (json!({ "loadBalancer": { "slowStart": "0s" } }), "spec.defaults.loadBalancer.slowStart"),
        (json!({ "retry": { "backoff": "soon" } }), "spec.defaults.retry.backoff"),
        (json!({ "outlierDetection": { "baseEjection": "0s" } }), "spec.defaults.outlierDetection.baseEjection"),
        (json!({ "healthCheck": { "interval": "2h" } }), "spec.defaults.healthCheck.interval"),
    ] {
        let rules = json!([rule("a", "/a"), rule("b", "/b"), own]);
        let spec = json!({ "parentRefs": [on("http")], "defaults": defaults, "rules": rules });
        let compiled = World::new().route("r", spec).compile();
        assert_eq!(compiled.findings(), [format!("UnsupportedValue {path}")], "told once");
        let asked = ["h/a", "h/b", "h/own"].map(|url| compiled.ask(0, url));
        assert_eq!(asked, ["no path", "no path", "default/r:own"]);
        assert!(compiled.parent("r").partially_invalid.is_some());
    }
}

#[test]
fn a_health_check_of_the_defaults_is_that_of_the_rules_without_one() {
    let mut own = rule("own", "/own");
    own["healthCheck"] = json!({ "unhealthyThreshold": 6 });
    let defaults = json!({ "healthCheck": { "unhealthyThreshold": 4 } });
    let spec = json!({ "parentRefs": [on("http")], "defaults": defaults, "rules": [rule("heir", "/"), own] });
    let compiled = World::new().route("r", spec).compile();
    let threshold = |name| compiled.rule(name).health_check().map(|check| check.unhealthy_threshold);
    assert_eq!(["heir", "own"].map(threshold), [Some(4), Some(6)]);
    assert_eq!(compiled.findings(), Vec::<String>::new());
}

#[test]
fn more_than_512_matches_drop_the_rules_beyond() {
    let rule = |name: usize, count: usize| {
        let matches: Vec<_> =
            (0..count).map(|n| json!({ "path": { "type": "Exact", "value": format!("/{name}/{n}") } })).collect();
        json!({ "name": name.to_string(), "matches": matches })
    };
    let rules: Vec<_> = (0..8).map(|name| rule(name, 64)).chain([rule(8, 1)]).collect();
    let compiled = World::new().route("r", json!({ "rules": rules })).compile();
    assert_eq!(compiled.findings(), ["UnsupportedValue spec.rules"]);
    assert_eq!(compiled.ask(0, "h/7/63"), "default/r:7");
    assert_eq!(compiled.ask(0, "h/8/0"), "no path");
}

#[test]
fn policies_come_from_the_rule_or_the_defaults_as_whole_blocks() {
    let spec = json!({
        "defaults": { "timeouts": { "request": "5s", "connect": "1s" }, "loadBalancer": { "algorithm": "LeastRequest" } },
        "rules": [
            { "name": "inherits", "matches": [{ "path": { "type": "Exact", "value": "/a" } }] },
            { "name": "own", "timeouts": { "request": "0s", "idle": "1m30s" }, "loadBalancer": { "algorithm": "PeakEWMA" } }
        ]
    });
    let compiled = World::new().route("r", spec).compile();
    let seconds = |duration: Option<std::time::Duration>| duration.map(|duration| duration.as_secs());
    let (inherits, own) = (compiled.rule("inherits"), compiled.rule("own"));
    assert_eq!((seconds(inherits.timeouts.request), seconds(inherits.timeouts.connect)), (Some(5), Some(1)));
    assert_eq!(
        (seconds(own.timeouts.request), seconds(own.timeouts.connect), seconds(own.timeouts.idle)),
        (Some(0), None, Some(90))
    );
    assert_eq!((&inherits.algorithm, &own.algorithm), (&Algorithm::LeastRequest, &Algorithm::PeakEwma));
}

#[test]
fn a_retry_block_has_its_defaults() {
    use std::time::Duration;

    use crate::model::retry::{Budget, GrpcCodes, IDEMPOTENT, Retry};

    let spec = json!({ "rules": [
        { "name": "none" },
        { "name": "empty", "retry": {}, "matches": [{ "path": { "type": "Exact", "value": "/a" } }] },
        { "name": "full", "matches": [{ "path": { "type": "Exact", "value": "/b" } }], "retry": {
            "attempts": 3, "codes": [502, 503], "retryOn": ["BackendTimeout", "GRPCStatus"],
            "grpcCodes": ["Cancelled", "DeadlineExceeded", "Internal", "ResourceExhausted"], "methods": ["POST"],
            "backoff": "1s", "budget": { "percent": 50, "interval": "30s", "minPerSecond": 0 }, "maxBodyBytes": 0
        } }
    ] });
    let compiled = World::new().route("r", spec).compile();
    let retry = |name| compiled.rule(name).policy.as_deref().and_then(|policy| policy.retry.as_deref().cloned());
    assert_eq!(retry("none"), None);
    let empty = Retry {
        attempts: 1,
        on_connect_failure: true,
        on_reset: true,
        on_timeout: false,
        codes: [].into(),
        grpc_codes: GrpcCodes::default(),
        methods: IDEMPOTENT.into(),
        backoff: Duration::from_millis(25),
        max_backoff: Duration::from_millis(250),
        budget: Budget { percent: 20, interval: Duration::from_secs(10), min_per_second: 10 },
        max_body: 65_536,
    };
    assert_eq!(retry("empty"), Some(empty));
    let full = Retry {
        attempts: 3,
        on_connect_failure: false,
        on_reset: false,
        on_timeout: true,
        codes: [http::StatusCode::BAD_GATEWAY, http::StatusCode::SERVICE_UNAVAILABLE].into(),
        grpc_codes: [1, 4, 13, 8].into_iter().collect(),
        methods: [http::Method::POST].into(),
        backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(10),
        budget: Budget { percent: 50, interval: Duration::from_secs(30), min_per_second: 0 },
        max_body: 0,
    };
    assert_eq!(retry("full"), Some(full));
}

#[test]
fn a_health_check_has_its_defaults_and_equal_ones_are_shared() {
    use std::time::Duration;

    use crate::model::health::{HealthCheck, Question};

    let rule = |name: &str, path: &str, check: Value| {
        let mut rule = rule(name, path);
        rule["healthCheck"] = check;
        rule
    };
    let full = json!({
        "path": "/h?a=1", "hostname": "h.test", "port": 8081, "expectedStatuses": ["204", "300-399"],
        "interval": "1h", "timeout": "1m", "unhealthyThreshold": 1, "healthyThreshold": 10
    });
    let spec = json!({ "rules": [
        { "name": "none" },
        rule("empty", "/a", json!({})),
        rule("same", "/b", json!({ "path": "/", "interval": "10000ms" })),
        rule("full", "/c", full),
        rule("grpc", "/d", json!({ "grpcService": "", "path": "/" })),
    ] });
    let compiled = World::new().route("r", spec).compile();
    assert_eq!(compiled.findings(), [""; 0]);
    let check = |name| compiled.rule(name).health_check();
    assert_eq!(check("none"), None);
    let empty = HealthCheck {
        question: Question::Get { path: "/".into(), expected: [200..=299].into() },
        port: None,
        host: None,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
    };
    assert_eq!(check("empty").map(|check| &**check), Some(&empty));
    assert!(std::sync::Arc::ptr_eq(check("empty").expect("a check"), check("same").expect("a check")));
    let full = HealthCheck {
        question: Question::Get { path: "/h?a=1".into(), expected: [204..=204, 300..=399].into() },
        port: std::num::NonZeroU16::new(8081),
        host: Some("h.test".into()),
        interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(60),
        unhealthy_threshold: 1,
        healthy_threshold: 10,
    };
    assert_eq!(check("full").map(|check| &**check), Some(&full));
    let grpc = HealthCheck { question: Question::Grpc { service: "".into() }, ..empty };
    assert_eq!(check("grpc").map(|check| &**check), Some(&grpc));
    let shown = ["empty", "full", "grpc"].map(|name| check(name).expect("a check").to_string());
    assert_eq!(shown, ["GET /", "GET /h?a=1 of host h.test at port 8081", "gRPC health of the server"]);
}

#[test]
fn least_request_is_the_default_algorithm() {
    for extra in [json!({}), json!({ "loadBalancer": {} }), json!({ "loadBalancer": { "onMissingKey": "Random" } })] {
        assert_eq!(beside(extra.clone()).rule("bad").algorithm, Algorithm::LeastRequest, "{extra}");
    }
    let spec = json!({ "parentRefs": [on("http")], "defaults": { "loadBalancer": {} }, "rules": [rule("a", "/")] });
    assert_eq!(World::new().route("r", spec).compile().rule("a").algorithm, Algorithm::LeastRequest);
}

#[test]
fn every_algorithm_has_its_name() {
    for name in Algorithm::NAMES {
        let keys = if *name == "ConsistentHash" { json!([{ "type": "Hostname" }]) } else { json!([]) };
        let compiled = beside(json!({ "loadBalancer": { "algorithm": name, "hashKeys": keys } }));
        assert_eq!(compiled.findings(), [""; 0], "{name}");
        let debug = format!("{:?}", compiled.rule("bad").algorithm);
        assert!(debug.eq_ignore_ascii_case(name) || debug.starts_with(name), "{name} is {debug}");
    }
    let keys = json!([{ "type": "Header", "name": "X-Tenant" }, { "type": "PathParam", "name": "id" }]);
    let balancer =
        json!({ "algorithm": "ConsistentHash", "hashKeys": keys, "onMissingKey": "Reject", "boundedLoadPercent": 125 });
    let matches = json!([{ "path": { "type": "Template", "value": "/a/{id}" } }, { "path": { "type": "Template", "value": "/b/{id}/{x}" } }]);
    let compiled = beside(json!({ "loadBalancer": balancer, "matches": matches }));
    let Algorithm::ConsistentHash(hash) = &compiled.rule("bad").algorithm else { panic!("a consistent hash") };
    let expected = vec![RequestKey::Header("x-tenant".parse().expect("a name")), RequestKey::PathParam("id".into())];
    assert_eq!((&hash.keys, hash.bounded_load_percent, hash.table_size), (&expected, Some(125), None));
}

#[test]
fn grpc_matches_are_paths() {
    let spec = json!({ "rules": [
        { "name": "any", "matches": [{ "grpc": { "method": "Get" } }] },
        { "name": "service", "matches": [{ "grpc": { "service": "bank.v1.Ledger" } }] },
        { "name": "both", "matches": [{ "grpc": { "service": "bank.v1.Ledger", "method": "Watch" } }] },
        { "name": "regex", "matches": [{ "grpc": { "type": "RegularExpression", "service": "shop\\..*|mall", "method": "Buy" } }] }
    ] });
    let compiled = World::new().route("r", spec).compile();
    for (path, rule) in [
        ("/bank.v1.Ledger/Watch", "both"),
        ("/bank.v1.Ledger/Other", "service"),
        ("/bank.v1.Ledger/Get", "any"),
        ("/else/Get", "any"),
        ("/shop.v1/Buy", "regex"),
        ("/mall/Buy", "regex"),
    ] {
        assert_eq!(compiled.ask(0, &format!("h{path}")), format!("default/r:{rule}"), "{path}");
    }
    for path in ["/bank.v1.LedgerX/Watch", "/a/b/Get", "/mall/Buys", "/xshop.v1/Buy"] {
        assert_eq!(compiled.ask(0, &format!("h{path}")), "no path", "{path}");
    }
}

#[test]
fn paths_are_compared_in_canonical_form() {
    let matches = json!([{ "path": { "type": "Exact", "value": "/a%7e%2Cb" } }, { "path": { "type": "Template", "value": "/t/%7Eu/{id}" } }]);
    let compiled = World::new().route("r", json!({ "rules": [{ "name": "a", "matches": matches }] })).compile();
    assert_eq!(compiled.ask(0, "h/a~%2Cb"), "default/r:a");
    assert_eq!(compiled.ask(0, "h/t/~u/1"), "default/r:a");
}

#[test]
fn the_snapshot_names_what_is_active() {
    let spec =
        json!({ "rules": [rule("named", "/a"), { "backendRefs": [{ "name": "web", "port": 80, "weight": 0 }] }] });
    let compiled = World::new()
        .route("b/x", spec.clone())
        .route("a/y", spec.clone())
        .route("a/other", json!({ "gatewayClassName": "else" }))
        .compile();
    let snapshot = &compiled.0.snapshot;
    let labels: Vec<_> = snapshot.routes.iter().map(|route| (&*route.label, route.name.to_string())).collect();
    assert_eq!(labels, [("a/y", "a/y".to_owned()), ("b/x", "b/x".to_owned())], "sorted, of the class");
    let rules: Vec<_> =
        snapshot.rules.iter().map(|rule| (rule.route.0, &*rule.name, rule.backend_refs.len())).collect();
    assert_eq!(rules, [(0, "named", 1), (0, "1", 0), (1, "named", 1), (1, "1", 0)], "weight 0 is left out");
    assert_eq!(compiled.0.statuses.len(), 2);
    assert_eq!(compiled.0.statuses[0].generation, Some(7));
}

#[test]
fn expressions_beyond_the_share_of_a_route_drop_their_rules_by_name() {
    let regex = |value: &str| json!({ "path": { "type": "RegularExpression", "value": value } });
    let costly =
        |rule: usize| -> Vec<Value> { (0..4).map(|n| regex(&format!("/{rule}/{n}/(a|b)*a(a|b){{14}}"))).collect() };
    let rules: Vec<Value> = (0..10).map(|n| json!({ "name": n.to_string(), "matches": costly(n) })).collect();
    let header = json!([{ "name": "x", "type": "RegularExpression", "value": "[0-9]+" }]);
    let rewrite = json!({ "type": "URLRewrite", "urlRewrite": { "path": { "type": "ReplaceRegularExpression",
        "replaceRegularExpression": { "pattern": "a+", "substitution": "/b" } } } });
    let last = [
        json!({ "name": "header", "matches": [{ "headers": header }] }),
        json!({ "name": "rewrite", "matches": [{ "path": { "value": "/r" } }], "filters": [rewrite] }),
        json!({ "name": "plain", "matches": [{ "path": { "value": "/plain" } }] }),
    ];
    let rules = [rules, last.to_vec()].concat();
    let few =
        |name: &str| json!({ "parentRefs": [on("http")], "hostnames": [name], "rules": [{ "matches": costly(0) }] });
    let world = World::new()
        .route("many", json!({ "parentRefs": [on("http")], "hostnames": ["a.test"], "rules": rules }))
        .route("other", few("b.test"));
    let mut compiler = Compiler::default();
    let first = Compiled(compiler.compile(&world.0));
    let dropped: std::collections::BTreeSet<usize> = (0..13)
        .filter(|rule| first.0.diagnostics.iter().any(|one| one.path.starts_with(&format!("spec.rules[{rule}]."))))
        .collect();
    let served = dropped.iter().next().copied().expect("some are dropped");
    assert!((2..8).contains(&served), "{dropped:?}");
    assert_eq!(dropped, (served..12).collect(), "all behind it that have an expression, and no other");
    let diagnostic = &first.0.diagnostics[0];
    assert!(diagnostic.to_string().contains("2 MiB compiled in one route"), "{diagnostic}");
    assert_eq!(first.ask(0, "a.test/plain"), "default/many:plain");
    assert!(first.parent("other").accepted.holds, "another route has its own share");
    // What is kept changes no result.
    let second = Compiled(compiler.compile(&world.0));
    assert_eq!(second.0.snapshot, first.0.snapshot);
    assert_eq!(second.0.diagnostics, first.0.diagnostics);
}

#[test]
fn a_route_that_makes_the_compiler_panic_is_left_out_alone() {
    let spec = |host: &str| json!({ "hostnames": [host], "rules": [rule("r", "/")] });
    let world = World::new()
        .route("before", spec("a.test"))
        .route("panics", spec("b.test"))
        .route("team/panics", spec("c.test"))
        .route("later", spec("d.test"));
    let output = world.compile();
    assert_eq!(output.0.panics, 2);
    assert_eq!(
        ["a", "b", "c", "d"].map(|host| output.ask(0, &format!("{host}.test/"))),
        ["default/before:r", "no host", "no host", "default/later:r"]
    );
    let accepted = &output.parents("panics")[0].accepted;
    assert_eq!((accepted.holds, accepted.reason), (false, ConditionReason::Invalid), "{accepted:?}");
    let findings: Vec<String> = output.0.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].contains("default/panics: Invalid: something in it makes tidegate panic"), "{findings:?}");
    assert!(findings[0].ends_with("; the route is not served"), "{findings:?}");
}

#[test]
fn a_session_has_what_its_rule_says() {
    let compiled = |fields: Value| {
        let compiled = beside(fields.clone());
        assert_eq!(compiled.findings(), [""; 0], "{fields}");
        let rules = &compiled.0.snapshot.rules;
        let rule = rules.iter().find(|rule| &*rule.name == "bad").expect("it serves");
        (**rule.policy.as_ref().and_then(|policy| policy.session.as_ref()).expect("sessions")).clone()
    };
    let cookie = |fields: Value| match compiled(fields).carrier {
        Carrier::Cookie(cookie) => cookie,
        Carrier::Header(name) => panic!("{name}"),
    };
    let of = |block: Value| cookie(json!({ "sessionPersistence": block }));
    let usual = of(json!({}));
    assert_eq!(&*usual.name, "tg-cbc56a75", "browsers keep it over versions of tidegate");
    assert_eq!((&*usual.path, usual.same_site, usual.secure), ("/", None, None));
    assert!(usual.http_only && !usual.is_permanent);
    let all = json!({ "sessionName": "__Host-s", "absoluteTimeout": "1h", "idleTimeout": "10m",
        "cookieConfig": { "lifetimeType": "Permanent", "secure": true, "httpOnly": false, "sameSite": "Strict" } });
    let session = compiled(json!({ "sessionPersistence": all }));
    assert_eq!(session.absolute_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(session.idle_timeout, Some(Duration::from_secs(600)));
    let all = of(all);
    assert_eq!((&*all.name, all.same_site, all.secure), ("__Host-s", Some(SameSite::Strict), Some(true)));
    assert!(!all.http_only && all.is_permanent);
    assert_eq!(of(json!({ "cookieConfig": { "sameSite": "None" } })).secure, Some(true));
    let header = compiled(json!({ "sessionPersistence": { "type": "Header", "sessionName": "X-Session" } }));
    assert_eq!(header.carrier, Carrier::Header(http::HeaderName::from_static("x-session")));
    let matches = |paths: &[(&str, &str)]| -> Vec<Value> {
        paths.iter().map(|(kind, path)| json!({ "path": { "type": kind, "value": path } })).collect()
    };
    for (paths, stated, expected) in [
        (&[("PathPrefix", "/shop/")][..], None, "/shop"),
        (&[("PathPrefix", "/shop")], Some("/"), "/"),
        (&[("PathPrefix", "/shop"), ("PathPrefix", "/shop/")], None, "/shop"),
        (&[("PathPrefix", "/shop"), ("PathPrefix", "/cart")], None, "/"),
        (&[("PathPrefix", "/shop"), ("Exact", "/shop")], None, "/"),
        (&[("PathPrefix", "/a;b")], None, "/"),
    ] {
        let mut matches = matches(paths);
        if paths.len() > 1 {
            matches.iter_mut().enumerate().for_each(|(at, one)| one["method"] = json!(["GET", "PUT"][at]));
        }
        let mut fields = json!({ "matches": matches, "sessionPersistence": { "cookieConfig": {} } });
        if let Some(path) = stated {
            fields["sessionPersistence"]["cookieConfig"]["path"] = json!(path);
        }
        assert_eq!(&*cookie(fields).path, expected, "{paths:?}");
    }
}

#[test]
fn how_requests_spread_comes_with_the_block_of_the_algorithm() {
    let locality = |mode, min_endpoints| Locality { mode, min_endpoints };
    let spec = json!({
        "defaults": { "loadBalancer": { "slowStart": "30s", "locality": { "mode": "PreferZone", "minEndpoints": 3 } } },
        "rules": [
            { "name": "inherits", "matches": [{ "path": { "type": "Exact", "value": "/a" } }] },
            { "name": "own", "loadBalancer": { "locality": { "mode": "Disabled" } } }
        ]
    });
    let compiled = World::new().route("r", spec).compile();
    assert_eq!(compiled.findings(), [""; 0]);
    let spread =
        |name: &str| compiled.0.snapshot.rules.iter().find(|rule| &*rule.name == name).expect("it serves").spread;
    let inherited =
        Spread { slow_start: Some(Duration::from_secs(30)), locality: locality(LocalityMode::PreferZone, 3) };
    assert_eq!(spread("inherits"), inherited);
    assert_eq!(spread("own"), Spread { slow_start: None, locality: locality(LocalityMode::Disabled, 1) });
    // Without a block hints are heard.
    assert_eq!(Spread::default(), Spread { slow_start: None, locality: locality(LocalityMode::Auto, 1) });
}
