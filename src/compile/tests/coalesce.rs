//! Sharing of calls: what it says, and what it must not stand around.

use super::*;
use crate::model::filter::Filter;

fn coalesce() -> Value {
    json!({ "type": "Coalesce", "coalesce": { "methods": ["HEAD"], "varyHeaders": ["X-Tenant"], "maxWaiters": 7, "maxBodyBytes": 0 } })
}

fn access() -> Value {
    json!({ "type": "IPAccess", "ipAccess": { "allow": ["10.0.0.0/8"] } })
}

fn under(path: &str, rule: Value) -> Value {
    let mut rule = rule;
    rule["matches"] = json!([{ "path": { "type": "PathPrefix", "value": path } }]);
    rule
}

#[test]
fn it_is_made_of_its_block_and_stands_behind_what_decides_who_passes() {
    let rule = under("/", json!({ "filters": [access(), coalesce()], "backendRefs": [{ "name": "web", "port": 80 }] }));
    let output = compile(&World::new().route("r", json!({ "rules": [rule] })).0);
    let [Filter::IpAccess(_), Filter::Coalesce(filter)] = &*output.snapshot.rules[0].filters else {
        panic!("{:?}", output.snapshot.rules[0].filters)
    };
    assert_eq!((filter.get, filter.head, filter.max_waiters, filter.max_body), (false, true, 7, 0));
    assert_eq!(
        (&filter.vary[..], filter.state.to_string()),
        (&[http::HeaderName::from_static("x-tenant")][..], "0".to_owned())
    );
}

/// A delegating rule shares the calls of its children, so what it would hide from a child is refused there.
#[test]
fn children_of_a_rule_that_has_it_decide_nothing_and_have_no_sessions() {
    let root = under("/a", json!({ "name": "a", "filters": [coalesce()], "delegate": { "namespaces": {} } }));
    for (block, path, found) in [
        (json!({ "filters": [access()] }), "spec.rules[0].filters", "inside of Coalesce"),
        (json!({ "sessionPersistence": {} }), "spec.rules[0].sessionPersistence", "beside a Coalesce filter"),
        (json!({}), "", ""),
    ] {
        let mut rule = under("/a/b", block.clone());
        rule["backendRefs"] = json!([{ "name": "web", "port": 80 }]);
        let parent = json!({ "group": "tidegate.dev", "kind": "GatewayRoute", "name": "root", "sectionName": "a" });
        let child = json!({ "parentRefs": [parent], "rules": [rule] });
        let output = compile(&World::new().route("root", json!({ "rules": [root] })).route("child", child).0);
        let is_served = output.snapshot.rules.iter().any(|rule| !rule.delegates);
        let said = output.diagnostics.iter().any(|finding| finding.path == path && finding.found.contains(found));
        assert_eq!((is_served, said), (path.is_empty(), !path.is_empty()), "{block}: {:?}", output.diagnostics);
    }
}
