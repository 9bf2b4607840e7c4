//! Routes at the very bounds that the schema sets for policies and for filters that decide, and just beyond each of them.
//!
//! Read from the definition itself, so that no bound is forgotten: those who judge routes have to agree about all of them.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use serde_json::{Map, Value, json};
use tidegate::api::crd::crd_json;

/// The blocks of a rule that say how it treats its endpoints.
const BLOCKS: &[&str] =
    &["retry", "outlierDetection", "healthCheck", "connection", "loadBalancer", "sessionPersistence"];

/// The filters that limit, ask who a client is, copy or compress.
const FILTERS: &[(&str, &str)] = &[
    ("rateLimit", "RateLimit"),
    ("concurrencyLimit", "ConcurrencyLimit"),
    ("requestMirror", "RequestMirror"),
    ("jwt", "JWT"),
    ("basicAuth", "BasicAuth"),
    ("apiKey", "APIKey"),
    ("externalAuth", "ExternalAuth"),
    ("compression", "Compression"),
];

/// Lists of keys of requests. What one key says is no matter of the blocks that have them.
const KEYS: &[&str] = &["hashKeys", "keys", "from"];

/// A route with one value at a bound, or beyond it.
pub struct Edge {
    /// Where the value is.
    pub path: String,
    pub route: Value,
    pub is_good: bool,
}

/// All bounds, with a value on each side of them.
pub fn edges() -> Vec<Edge> {
    let crd = crd_json();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let rule = &spec["properties"]["rules"]["items"];
    let mut edges = Vec::new();
    for block in BLOCKS {
        walk(&rule["properties"][block], &mut vec![(*block).to_owned()], &mut edges);
    }
    let filter = &rule["properties"]["filters"]["items"]["properties"];
    for (member, _) in FILTERS {
        walk(&filter[member], &mut ["filters", "[0]", member].map(str::to_owned).to_vec(), &mut edges);
    }
    edges
}

fn walk(schema: &Value, at: &mut Vec<String>, edges: &mut Vec<Edge>) {
    let mut add = |value: Value, is_good: bool| edges.push(edge(at, value, is_good));
    match schema["type"].as_str() {
        Some("integer") => {
            if let Some(least) = schema["minimum"].as_i64() {
                add(json!(least), true);
                add(json!(least - 1), false);
            }
            if let Some(most) = schema["maximum"].as_i64() {
                add(json!(most), true);
                add(json!(most + 1), false);
            }
            add(json!("many"), false);
        }
        Some("string") if schema["enum"].is_array() => {
            schema["enum"].as_array().unwrap().iter().for_each(|one| add(one.clone(), true));
            add(json!("Nothing-That-Is-Known"), false);
        }
        Some("string") => {
            if schema["minLength"].as_u64().is_some_and(|least| least > 0) {
                add(json!(""), false);
            }
            if let Some(most) = schema["maxLength"].as_u64() {
                // Whether a text of that length may stand here, a pattern decides.
                add(json!("a".repeat(most as usize + 1)), false);
            }
            if schema["pattern"].is_string() {
                add(json!("\u{1}"), false);
            }
            if schema["maxLength"] == 24 {
                ["-1s", "1.5s", "1d", "1", ""].into_iter().for_each(|text| add(json!(text), false));
            }
        }
        Some("array") => {
            let items = &schema["items"];
            let name = at.last().unwrap().clone();
            let list = |count: u64| Value::Array((0..count).map(|number| item(&name, items, number)).collect());
            if let Some(most) = schema["maxItems"].as_u64().filter(|_| !items["enum"].is_array()) {
                add(list(most), true);
                add(list(most + 1), false);
            }
            if let Some(least) = schema["minItems"].as_u64().filter(|least| *least > 0) {
                add(list(least - 1), false);
            }
            if KEYS.contains(&&*name) {
                return;
            }
            at.push("[0]".to_owned());
            walk(items, at, edges);
            at.pop();
        }
        Some("object") => {
            for (name, inner) in schema["properties"].as_object().unwrap() {
                at.push(name.clone());
                walk(inner, at, edges);
                at.pop();
            }
        }
        _ => {}
    }
}

/// One of several different items of a list.
fn item(list: &str, schema: &Value, number: u64) -> Value {
    match (schema["type"].as_str(), schema["minimum"].as_u64()) {
        (Some("integer"), Some(least)) => json!(least + number),
        (Some("object"), _) if KEYS.contains(&list) => json!({ "type": "Header", "name": format!("x-{number}") }),
        (Some("object"), _) if list == "claimsToHeaders" => {
            json!({ "claim": "sub", "header": format!("x-{number}") })
        }
        (Some("object"), _) if list == "providers" => provider(number, json!({ "uri": "https://id.test/keys" })),
        // Statuses, and names of methods.
        _ => json!((200 + number).to_string()),
    }
}

/// A route with a value at a place in its first rule, and with what the value needs beside it.
fn edge(at: &[String], value: Value, is_good: bool) -> Edge {
    let mut rule: Map<String, Value> = Map::new();
    rule.insert("backendRefs".to_owned(), json!([{ "name": "web", "port": 80 }]));
    rule.insert(at[0].clone(), beside(at));
    let mut place = rule.get_mut(&at[0]).unwrap();
    for step in &at[1..] {
        place = match step.as_str() {
            "[0]" => {
                *place = json!([match place.get(0) {
                    Some(first) => first.clone(),
                    None => Value::Null,
                }]);
                &mut place[0]
            }
            name => &mut place[name],
        };
    }
    *place = value;
    let path = at.iter().fold("spec.rules[0]".to_owned(), |path, step| match step.as_str() {
        "[0]" => path + step,
        name => path + "." + name,
    });
    let route = json!({
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": { "name": "edge" },
        "spec": { "rules": [rule] },
    });
    Edge { path, route, is_good }
}

fn provider(number: u64, jwks: Value) -> Value {
    json!({ "name": format!("p{number}"), "issuer": format!("https://{number}.test"), "jwks": jwks,
        "claimsToHeaders": [{ "claim": "sub", "header": "x-user" }] })
}

/// A filter that is good but for what is put into it at a place.
fn filter(at: &[String]) -> Value {
    let has = |step: &str| at.iter().any(|one| one == step);
    let (backend, secret) = (json!({ "name": "web", "port": 80 }), json!({ "name": "it" }));
    let member = at[2].as_str();
    let own = match member {
        "rateLimit" => json!({ "requests": 1 }),
        "concurrencyLimit" => json!({ "maxInFlight": 10_000, "queueTimeout": "1s" }),
        "requestMirror" if has("fraction") => json!({ "backendRef": backend, "fraction": { "numerator": 0 } }),
        "requestMirror" => json!({ "backendRef": backend }),
        "jwt" if has("configMapRef") => {
            json!({ "providers": [provider(0, json!({ "configMapRef": { "name": "keys", "key": "jwks.json" } }))] })
        }
        "jwt" => json!({ "providers": [provider(0, json!({ "uri": "https://id.test/keys" }))] }),
        "basicAuth" | "apiKey" => json!({ "secretRef": secret }),
        "externalAuth" if has("grpc") => json!({ "protocol": "GRPC", "backendRef": backend }),
        "externalAuth" => json!({ "protocol": "HTTP", "backendRef": backend }),
        _ => json!({}),
    };
    let (_, kind) = FILTERS.iter().find(|(name, _)| *name == member).unwrap();
    json!([{ "type": kind, member: own }])
}

fn beside(at: &[String]) -> Value {
    if at[0] == "filters" {
        return filter(at);
    }
    let hashed = json!({ "algorithm": "ConsistentHash", "hashKeys": [{ "type": "SourceIP" }] });
    match (at[0].as_str(), at.get(1).map_or("", String::as_str)) {
        ("connection", _) => json!({ "maxRequestsPerEndpoint": 5, "maxPendingRequests": 1 }),
        ("retry", "grpcCodes") => json!({ "retryOn": ["GRPCStatus"] }),
        ("loadBalancer", "boundedLoadPercent" | "tableSize") => hashed,
        ("sessionPersistence", "cookieConfig") => {
            json!({ "absoluteTimeout": "1h", "cookieConfig": { "secure": true } })
        }
        _ => json!({}),
    }
}
