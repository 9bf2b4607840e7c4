use super::*;

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-01-02T00:00:00Z";

fn host(name: &str, prefix: &str) -> Value {
    json!({ "hostnames": [name], "rules": [answer("a", prefix)] })
}

fn answer(name: &str, prefix: &str) -> Value {
    let filters = json!([{ "type": "DirectResponse", "directResponse": { "statusCode": 200 } }]);
    json!({ "name": name, "matches": [{ "path": { "type": "PathPrefix", "value": prefix } }], "filters": filters })
}

fn owned() -> World {
    let mut world = World::new();
    world.0.hostnames_have_owners = true;
    world.0.listeners.truncate(1);
    world
}

#[test]
fn a_hostname_belongs_to_the_namespace_of_the_oldest_route() {
    let routes = |world: World| {
        world
            .aged("shop/site", OLD, host("shop.test", "/"))
            .aged("thief/login", YOUNG, host("shop.test", "/login"))
            .aged("shop/cart", YOUNG, host("shop.test", "/cart"))
    };
    let compiled = routes(owned()).compile();
    assert_eq!(compiled.ask(0, "shop.test/login"), "shop/site:a");
    assert_eq!(compiled.ask(0, "shop.test/cart"), "shop/cart:a", "the same namespace");
    let accepted = &compiled.parent("thief/login").accepted;
    assert_eq!((accepted.holds, accepted.reason), (false, ConditionReason::HostnameOwnedByOther));
    let said = "found host shop.test, which namespace shop owns by its older GatewayRoute shop/site, expected";
    assert!(accepted.message.starts_with(said), "{}", accepted.message);
    assert_eq!(compiled.findings(), ["HostnameOwnedByOther spec.hostnames"]);
    assert!(compiled.parent("shop/cart").accepted.holds);
    // Only where the operator asks for it.
    let mut shared = owned();
    shared.0.hostnames_have_owners = false;
    assert_eq!(routes(shared).compile().ask(0, "shop.test/login"), "thief/login:a");
}

#[test]
fn a_route_keeps_the_hostnames_that_are_its_own() {
    let both = json!({ "hostnames": ["shop.test", "thief.test"], "rules": [answer("a", "/login")] });
    let compiled = owned().aged("shop/site", OLD, host("shop.test", "/")).aged("thief/login", YOUNG, both).compile();
    assert_eq!(compiled.ask(0, "shop.test/login"), "shop/site:a");
    assert_eq!(compiled.ask(0, "thief.test/login"), "thief/login:a");
    let parent = compiled.parent("thief/login");
    assert!(parent.accepted.holds && parent.conflicted.holds);
    assert_eq!(parent.conflicted.reason, ConditionReason::HostnameOwnedByOther);
    assert_eq!(compiled.hostnames("thief/login"), [["thief.test"]]);
    assert_eq!(compiled.hostnames("shop/site"), [["shop.test"]]);
    assert!(parent.conflicted.message.contains("namespace shop owns"), "{}", parent.conflicted.message);
    assert!(!compiled.parent("shop/site").conflicted.holds);
}

#[test]
fn each_hostname_is_one_and_more_exact_ones_are_others() {
    let compiled = owned()
        .aged("platform/all", OLD, host("*.test", "/"))
        .aged("team/a", YOUNG, host("a.test", "/"))
        .aged("team/all", YOUNG, host("*.test", "/b"))
        .aged("platform/any", OLD, json!({ "rules": [answer("a", "/")] }))
        .aged("team/any", YOUNG, json!({ "rules": [answer("a", "/c")] }))
        .compile();
    assert_eq!(compiled.ask(0, "a.test/"), "team/a:a");
    assert_eq!(compiled.ask(0, "b.test/b"), "platform/all:a");
    assert_eq!(compiled.ask(0, "else/c"), "platform/any:a");
    for name in ["team/all", "team/any"] {
        assert_eq!(compiled.parent(name).accepted.reason, ConditionReason::HostnameOwnedByOther);
    }
}

#[test]
fn an_owner_may_delegate_and_a_loser_has_nothing_to_delegate() {
    let root = json!({ "hostnames": ["shop.test"], "rules": [delegating("down", "/")] });
    let child = |root: &str| json!({ "hostnames": ["shop.test"], "parentRefs": [under(root, "down")], "rules": [answer("a", "/x")] });
    let compiled = owned()
        .aged("shop/root", OLD, root.clone())
        .aged("team/child", YOUNG, child("shop/root"))
        .aged("thief/root", YOUNG, root)
        .aged("thief/child", YOUNG, child("thief/root"))
        .compile();
    assert_eq!(compiled.ask(0, "shop.test/x"), "team/child:a");
    assert!(compiled.parent("team/child").accepted.holds);
    assert_eq!(compiled.parent("thief/root").accepted.reason, ConditionReason::HostnameOwnedByOther);
    assert_eq!(compiled.parent("thief/child").accepted.reason, ConditionReason::NotDelegated);
}

/// A mistake must not give a hostname away.
#[test]
fn a_route_that_serves_nothing_owns_what_it_asks_for() {
    let mut broken = host("shop.test", "/");
    broken["rules"][0]["filters"] = json!([{ "type": "Compression" }]);
    let compiled = owned().aged("shop/site", OLD, broken).aged("thief/site", YOUNG, host("shop.test", "/")).compile();
    assert_eq!(compiled.ask(0, "shop.test/"), "no host");
    // A route that no listener takes asks in vain.
    let mut elsewhere = host("shop.test", "/");
    elsewhere["parentRefs"] = json!([on("nowhere")]);
    let compiled = owned().aged("shop/site", OLD, elsewhere).aged("team/site", YOUNG, host("shop.test", "/")).compile();
    assert_eq!(compiled.ask(0, "shop.test/"), "team/site:a");
}
