//! Secrets that filters let clients in by, out of a real API server: rights that are missing, given, and what becomes of
//! keys and users that change or go.

use std::process::Command;

use serde_json::{Value, json};

use crate::authorities::{gateway, give_right, route, wait_for_refs};
use crate::cluster::{Cluster, Namespace, wait_for};
use crate::gateway::{Gateway, Rights};
use crate::helm;
use crate::support::tools::program;

/// Of the name `ada` and the password `test`, by `htpasswd -s`.
const ADA: &str = "ada:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";
const KEY: &str = "key-0123456789abcdef";
const OTHER: &str = "key-fedcba9876543210";

fn apply(namespace: &Namespace<'_>, name: &str, data: Value) {
    let metadata = json!({ "name": name });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data });
    namespace.apply(&secret.to_string());
}

#[test]
fn keys_and_users_come_from_secrets_of_namespaces_that_opt_in() {
    let Some(helm) = helm() else { return };
    let Some(cluster) = Cluster::shared() else { return };
    let Some(curl) = program("curl") else { return };
    cluster.install_routes();
    let (edge, shop) = (cluster.namespace("edge"), cluster.namespace("shop"));
    let rights = Rights::apply(cluster, helm, &edge, "{}");
    let host = format!("{}.test", shop.name);
    apply(&shop, "partners", json!({ "acme": KEY }));
    apply(&shop, "staff", json!({ "auth": ADA }));
    apply(&shop, "unused", json!({ "acme": OTHER }));
    let answer = json!({ "type": "DirectResponse", "directResponse": { "statusCode": 200, "body": "in" } });
    let by_key = json!({ "type": "APIKey", "apiKey": { "secretRef": { "name": "partners" } } });
    let by_password = json!({ "type": "BasicAuth", "basicAuth": { "secretRef": { "name": "staff" } } });
    let rules = json!([
        { "matches": [{ "path": { "value": "/key" } }], "filters": [by_key, answer] },
        { "matches": [{ "path": { "value": "/password" } }], "filters": [by_password, answer] },
    ]);
    shop.apply(&route("shop", json!({ "gatewayClassName": edge.name, "hostnames": [host], "rules": rules })));
    let gateway: Gateway = gateway(cluster, &edge, &rights);
    let status = |path: &str, flags: &[&str]| {
        let output = Command::new(&curl)
            .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "10"])
            .args(["--header", &format!("host: {host}")])
            .args(flags)
            .arg(format!("http://{}{path}", gateway.http))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let until = |path: &str, flags: &[&str], expected: &str| {
        wait_for(&format!("{expected} of {path} with {flags:?}"), || match status(path, flags) {
            found if found == expected => Ok(()),
            found => Err(format!("{found}: {}", gateway.log())),
        });
    };
    let key = |key: &str| format!("x-api-key: {key}");
    let (key, other) = (key(KEY), key(OTHER));
    // Before the right is given, nobody is let in, and the line that gives it is told.
    until("/key", &["--header", &key], "500");
    let message = wait_for_refs(&shop, "shop", "FilterNotFound");
    for name in ["partners", "staff"] {
        let told = format!("Secret {}/{name}: tidegate may not read it", shop.name);
        assert!(message.contains(&told), "{message}");
    }
    give_right(cluster, &message);
    until("/key", &["--header", &key], "200");
    until("/password", &["--user", "ada:test"], "200");
    wait_for_refs(&shop, "shop", "ResolvedRefs");
    for (path, flags) in [
        ("/key", &[][..]),
        ("/key", &["--header", &other]),
        ("/password", &[]),
        ("/password", &["--user", "ada:Test"]),
        ("/password", &["--user", "eve:test"]),
    ] {
        assert_eq!(status(path, flags), "401", "{path} {flags:?}");
    }
    // A change counts for everybody at once.
    apply(&shop, "partners", json!({ "acme": OTHER }));
    until("/key", &["--header", &other], "200");
    assert_eq!(status("/key", &["--header", &key]), "401", "the key before");
    apply(&shop, "staff", json!({ "auth": ADA.replace("ada", "bob") }));
    until("/password", &["--user", "bob:test"], "200");
    assert_eq!(status("/password", &["--user", "ada:test"]), "401", "the user is gone");
    apply(&shop, "staff", json!({ "auth": "bob:hunter2hunter2" }));
    until("/password", &["--user", "bob:test"], "500");
    let message = wait_for_refs(&shop, "shop", "InvalidFilter");
    assert!(message.contains("its field auth: line 1 has a password in plain text"), "{message}");
    shop.kubectl(&["delete", "secret", "partners"]);
    until("/key", &["--header", &other], "500");
    let message = wait_for_refs(&shop, "shop", "FilterNotFound");
    assert!(message.contains(&format!("no Secret {}/partners", shop.name)), "{message}");
    // What was held is shown nowhere: not in the log, the status or the Events.
    let seen = [
        gateway.log(),
        shop.kubectl(&["get", "gwr/shop", "-o", "json"]),
        shop.kubectl(&["get", "events", "-o", "json"]),
    ];
    for secret in [KEY, OTHER, "hunter2", "qUqP5cyxm6YcTAhz05Hph5gvu9M="] {
        assert!(seen.iter().all(|text| !text.contains(secret)), "{secret}");
    }
}
