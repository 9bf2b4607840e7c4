//! Pods as people write them, made by chance from a seed: with and without what a sidecar touches, empty, null or full.
//! An API server takes all of them.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// A pod and what is asked for it.
pub struct Made {
    /// `metadata` and `spec`.
    pub pod: Value,
    /// Names of ports of TCP, which requests may come to.
    pub ports: Vec<String>,
}

/// One of these.
fn one<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

/// Writes one of the values, or none.
fn maybe(rng: &mut Rng, object: &mut Map<String, Value>, field: &str, values: &[Value]) {
    let index = rng.usize(..=values.len());
    if let Some(value) = values.get(index) {
        object.insert(field.to_owned(), value.clone());
    }
}

/// A probe or hook with an action that may name a port.
fn handler(rng: &mut Rng, port: &Value) -> Value {
    match rng.usize(..4) {
        0 => json!({"tcpSocket": {"port": port}}),
        1 => json!({"exec": {"command": ["true"]}}),
        _ => json!({"httpGet": {"path": "/healthz", "port": port}}),
    }
}

fn container(rng: &mut Rng, index: usize, names: &mut Vec<String>) -> Value {
    let mut container = json!({"name": format!("app-{index}"), "image": "example.test/app:1"});
    if index > 0 && rng.bool() {
        return container;
    }
    let mut ports = Vec::new();
    let mut named: Vec<(String, u16)> = Vec::new();
    for place in 0..rng.u16(0..4) {
        let number = 8000 + 10 * u16::try_from(index).unwrap() + place;
        let mut port = json!({"containerPort": number});
        let protocol = one(rng, &["", "TCP", "TCP", "UDP"]);
        if !protocol.is_empty() {
            port["protocol"] = protocol.into();
        }
        if rng.u8(..4) > 0 {
            let (begin, end) = (one(rng, &["http-", "grpc-", "a-long-", "x"]), one(rng, &["", "", "-api"]));
            let name = format!("{begin}{index}{place}{end}");
            port["name"] = name.clone().into();
            if protocol != "UDP" {
                names.push(name.clone());
            }
            named.push((name, number));
        }
        ports.push(port);
    }
    if !ports.is_empty() || rng.bool() {
        container["ports"] = ports.into();
    }
    let port = |rng: &mut Rng, named: &[(String, u16)]| match rng.usize(..3) {
        0 if !named.is_empty() => named[0].1.into(),
        1 if !named.is_empty() => Value::from(one(rng, named).0),
        _ => json!(8000),
    };
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if rng.bool() {
            let port = port(rng, &named);
            container[probe] = handler(rng, &port);
        }
    }
    for hook in ["postStart", "preStop"] {
        if rng.u8(..3) == 0 {
            let port = port(rng, &named);
            container["lifecycle"][hook] = handler(rng, &port);
        }
    }
    container
}

/// The next pod.
pub fn pod(rng: &mut Rng) -> Made {
    let mut metadata = Map::from_iter([("labels".to_owned(), json!({"app": "shop"}))]);
    maybe(rng, &mut metadata, "annotations", &[json!({}), Value::Null, json!({"note": "yes", "example.test/a": "{}"})]);
    let mut ports = Vec::new();
    let containers: Vec<Value> = (0..rng.usize(1..4)).map(|index| container(rng, index, &mut ports)).collect();
    let mut spec = Map::from_iter([("containers".to_owned(), containers.into())]);
    let init = json!({"name": "migrate", "image": "example.test/migrate:1"});
    let sidecar = json!({"name": "log", "image": "example.test/log:1", "restartPolicy": "Always"});
    maybe(rng, &mut spec, "initContainers", &[json!([]), Value::Null, json!([init]), json!([sidecar, init])]);
    let aliases = json!([{"ip": "192.0.2.1", "hostnames": ["old.test", "older.test"]}]);
    maybe(rng, &mut spec, "hostAliases", &[json!([]), Value::Null, aliases]);
    let volumes = json!([{"name": "scratch", "emptyDir": {}}]);
    maybe(rng, &mut spec, "volumes", &[json!([]), Value::Null, volumes]);
    let sysctls = |value: &str| json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": value}]);
    let other = json!([{"name": "net.ipv4.tcp_syncookies", "value": "1"}]);
    let contexts = [
        json!({}),
        Value::Null,
        json!({"fsGroup": 1}),
        json!({"sysctls": []}),
        json!({"runAsUser": 1000, "sysctls": sysctls("0")}),
        json!({"sysctls": sysctls("80")}),
        json!({"sysctls": other}),
    ];
    maybe(rng, &mut spec, "securityContext", &contexts);
    maybe(rng, &mut spec, "terminationGracePeriodSeconds", &[json!(5), json!(60)]);
    Made { pod: json!({"metadata": metadata, "spec": spec}), ports }
}
