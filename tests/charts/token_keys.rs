//! Keys of tokens in ConfigMaps out of a real API server: a right that is missing and given, and what becomes of keys that
//! change or go.

use std::process::Command;

use serde_json::json;

use crate::authorities::{gateway, give_right, route, wait_for_refs};
use crate::cluster::{Cluster, Namespace, wait_for};
use crate::gateway::{Gateway, Rights};
use crate::helm;
use crate::support::signing_key::{SigningKey, key_set};
use crate::support::tools::program;

/// Writes a ConfigMap `keys` with the public halves of these.
fn publish(namespace: &Namespace<'_>, keys: &[&SigningKey]) {
    let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
    let (metadata, data) = (json!({ "name": "keys" }), json!({ "jwks.json": key_set(&keys) }));
    namespace
        .apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }).to_string());
}

#[test]
fn keys_of_tokens_come_from_config_maps_of_namespaces_that_opt_in() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    let Some(curl) = program("curl") else { return };
    cluster.install_routes();
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", shop.name);
    let provider = json!({ "name": "id", "issuer": "https://id.test",
        "jwks": { "configMapRef": { "name": "keys", "key": "jwks.json" } } });
    let by_token = json!({ "type": "JWT", "jwt": { "providers": [provider] } });
    let answer = json!({ "type": "DirectResponse", "directResponse": { "statusCode": 200, "body": "in" } });
    let rules = json!([{ "filters": [by_token, answer] }]);
    shop.apply(&route("shop", json!({ "gatewayClassName": edge.name, "hostnames": [host], "rules": rules })));
    let gateway: Gateway = gateway(cluster, &edge, &rights);
    let status = |token: &str| {
        let output = Command::new(&curl)
            .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10"])
            .args(["--header", &format!("host: {host}"), "--header", &format!("authorization: Bearer {token}")])
            .arg(format!("http://{}/", gateway.http))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (one, two) = (SigningKey::new("one"), SigningKey::new("two"));
    // Of one token for all asks, so that what a worker remembers of it is asked, too.
    let token = one.sign(&json!({}));
    let until = |key: &SigningKey, expected: &str| {
        wait_for(&format!("{expected} of a token"), || match status(&key.sign(&json!({}))) {
            found if found == expected => Ok(()),
            found => Err(format!("{found}: {}", gateway.log())),
        });
    };
    // It is not there, and nobody may look.
    until(&one, "500");
    let message = wait_for_refs(&shop, "shop", "FilterNotFound");
    let unreadable = format!("ConfigMap {}/keys, key \"jwks.json\": tidegate may not read it", shop.name);
    assert!(message.contains(&unreadable), "{message}");
    give_right(cluster, &message);
    let gone = format!("no ConfigMap {}/keys", shop.name);
    wait_for("a ConfigMap that may be read and is not there", || {
        let message = wait_for_refs(&shop, "shop", "FilterNotFound");
        if message.contains(&gone) { Ok(()) } else { Err(message) }
    });
    assert_eq!(status(&token), "500");
    publish(&shop, &[&one]);
    until(&one, "200");
    wait_for_refs(&shop, "shop", "ResolvedRefs");
    assert_eq!((status(&token), status(&two.sign(&json!({})))), ("200".to_owned(), "401".to_owned()));
    // A rotation: both for a while, then the new one alone.
    publish(&shop, &[&one, &two]);
    until(&two, "200");
    assert_eq!(status(&token), "200");
    publish(&shop, &[&two]);
    until(&one, "401");
    assert_eq!((status(&token), status(&two.sign(&json!({})))), ("401".to_owned(), "200".to_owned()));
    // What is no set of keys lets nobody in, nor does what is gone.
    let broken = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "keys" }, "data": { "jwks.json": "[]" } });
    shop.apply(&broken.to_string());
    until(&two, "500");
    wait_for_refs(&shop, "shop", "InvalidFilter");
    publish(&shop, &[&two]);
    until(&two, "200");
    shop.kubectl(&["delete", "configmap", "keys"]);
    until(&two, "500");
    assert!(wait_for_refs(&shop, "shop", "FilterNotFound").contains(&gone));
}
