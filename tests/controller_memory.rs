//! What a controller holds for each route, in bytes that were asked of the allocator: objects as they are kept, statuses,
//! what is compiled, and what is published. `cargo bench --bench cluster` measures the whole process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use serde_json::{Value, json};
use tidegate::compile::Compiler;
use tidegate::compile::inputs::{Inputs, StaticListener};
use tidegate::kinds::{KindId, Object, ObjectRef};
use tidegate::live;
use tidegate::model::ids::ObjectName;
use tidegate::source::hold::{self, Slices};
use tidegate::source::stored::{Identity, StoredRoute};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};

/// Enough for the fixed part not to count.
const ROUTES: usize = 2_000;
const PODS: usize = 3;
const WORKERS: usize = 2;

/// Bytes a route of two rules, with a Service, a slice and three pods of its own: what it takes, and some more. 5,000 of
/// them and the program have to fit into 60 MiB, with what an allocator adds to each.
const OBJECTS: u64 = 2_290;
const STATUSES: u64 = 420;
const COMPILED: u64 = 2_190;
const PUBLISHED: u64 = 1_650;

fn name(number: usize) -> ObjectName {
    ObjectName::new("shop", format!("app-{number:05}"))
}

fn uid(kind: u8, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn metadata(name: &str, uid: String) -> Value {
    json!({ "namespace": "shop", "name": name, "generation": 1, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z",
        "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "x".repeat(500) },
        "managedFields": [{ "manager": "kubectl", "operation": "Apply", "fieldsV1": { "f:spec": {} } }] })
}

fn hold(kind: KindId, mut object: Value) -> Object {
    object["kind"] = kind.name().into();
    object["apiVersion"] = kind.api_versions()[0].into();
    kind.hold(object).expect("an object of its schema")
}

fn route(number: usize) -> Value {
    let refs: Vec<Value> =
        (0..3).map(|next| json!({ "name": &*name((number + next) % ROUTES).name, "port": 80 })).collect();
    json!({ "metadata": metadata(&name(number).name, uid(1, number)), "spec": {
        "hostnames": [format!("app-{number:05}.shop.example.com")], "rules": [
            { "name": "api", "matches": [{ "path": { "type": "PathPrefix", "value": "/api" } }], "backendRefs": refs },
            { "name": "site", "backendRefs": refs }] } })
}

fn service(number: usize) -> Value {
    let name = &*name(number).name;
    json!({ "metadata": metadata(name, uid(2, number)), "spec": { "selector": { "app": name },
        "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }] } })
}

fn slice(number: usize) -> Value {
    let service = name(number).name;
    let pod = |pod: usize| {
        let n = number * PODS + pod;
        json!({ "addresses": [format!("10.{}.{}.{}", n / 62_500, n / 250 % 250, 1 + n % 250)], "nodeName": "node-0",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "name": format!("{service}-5d4f8c7b9-{pod:05}"), "uid": uid(3, n) } })
    };
    let mut metadata = metadata(&format!("{service}-x7k2p"), uid(4, number));
    metadata["labels"] = json!({ "kubernetes.io/service-name": &*service });
    json!({ "metadata": metadata, "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..PODS).map(pod).collect::<Vec<_>>() })
}

/// As an API server has it once it was written.
fn with_status(number: usize) -> Value {
    let condition = |kind: &str, holds: &str, reason: &str| {
        json!({ "type": kind, "status": holds, "reason": reason, "message": "", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
    };
    let mut route = route(number);
    route["status"] = json!({ "observedGeneration": 1, "conditions": [condition("Ready", "True", "Ready")],
        "parents": [{ "controllerName": "tidegate.dev/controller", "ref": "tidegate.dev/Listener//http//",
            "hostnames": route["spec"]["hostnames"], "conditions": [
                condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", "True", "ResolvedRefs"),
                condition("Programmed", "True", "Programmed"), condition("Conflicted", "False", "NoConflicts")] }] });
    route
}

/// What a watch of a cluster holds, whole lists at once.
fn inputs() -> (Inputs, Slices) {
    let mut inputs = Inputs {
        listeners: vec![StaticListener {
            name: "http".into(),
            allowed_namespaces: None,
            is_https: false,
            default_certificate: None,
        }],
        gateway_class_name: "tidegate".into(),
        controller_name: "tidegate.dev/controller".into(),
        ..Inputs::default()
    };
    let namespace: Arc<str> = "shop".into();
    let shared = |name: &str| ObjectName::new(Arc::clone(&namespace), name);
    let mut slices = Slices::new(hold::WINDOW);
    let mut list = BTreeMap::new();
    for number in 0..ROUTES {
        let name = shared(&name(number).name);
        inputs.objects.insert(name.clone(), hold(KindId::GatewayRoute, route(number)), None);
        inputs.objects.insert(name.clone(), hold(KindId::Service, service(number)), None);
        let Object::EndpointSlice(slice) = hold(KindId::EndpointSlice, slice(number)) else { panic!("a slice") };
        list.insert(shared(&format!("{}-x7k2p", name.name)), slice);
    }
    slices.replace(&BTreeSet::new(), list, Duration::ZERO, Duration::ZERO);
    slices.shrink();
    inputs.objects.slices = slices.slices();
    (inputs, slices)
}

/// What stays of what was made, for each route.
fn each<T>(make: impl FnOnce() -> T) -> (T, u64) {
    let mut made = None;
    let info = measure(|| made = Some(make()));
    let bytes = u64::try_from(info.bytes_current).expect("it takes more than it gives back");
    (made.expect("it was made"), bytes / ROUTES as u64)
}

#[test]
fn a_route_costs_little_at_rest() {
    let ((inputs, _slices), objects) = each(inputs);
    let first = ObjectRef { kind: KindId::GatewayRoute.name(), name: name(0) };
    assert!(inputs.objects.get(&first).is_some());

    let identity =
        Identity { controller_name: "tidegate.dev/controller".into(), gateway_class_name: "tidegate".into() };
    let names: Vec<&ObjectName> = inputs.objects.routes.keys().collect();
    let (stored, statuses) = each(|| -> BTreeMap<ObjectName, StoredRoute> {
        let read = |(number, name): (usize, &&ObjectName)| {
            ((*name).clone(), StoredRoute::read(&with_status(number), &identity))
        };
        names.iter().enumerate().map(read).collect()
    });
    assert!(stored.values().all(|route| route.status.parents.len() == 1 && route.is_of_class));

    let mut compiler = Compiler::default();
    let (output, compiled) = each(|| compiler.compile(&inputs));
    assert_eq!((output.snapshot.rules.len(), output.diagnostics.len()), (2 * ROUTES, 0));
    assert!(output.snapshot.backends.iter().all(|backend| backend.endpoints.len() == PODS));

    let options = MetricsOptions { workers: WORKERS, listeners: vec!["http".into()], max_series: 10_000 };
    let metrics = Metrics::new(options);
    let (_live, published) = each(|| {
        let (mut publisher, feeds) = live::channel(WORKERS, metrics, tokio::time::Instant::now());
        publisher.publish(output.snapshot.clone());
        let caches: Vec<_> = feeds.into_iter().map(|feed| feed.into_cache(0)).collect();
        caches.iter().for_each(|cache| drop(cache.current()));
        (publisher, caches)
    });

    let parts = [
        ("objects", objects, OBJECTS),
        ("statuses", statuses, STATUSES),
        ("compiled", compiled, COMPILED),
        ("published", published, PUBLISHED),
    ];
    let all: u64 = parts.iter().map(|(_, bytes, _)| bytes).sum();
    let said = parts.map(|(part, bytes, bound)| format!("{part}: {bytes} bytes (bound {bound})")).join(", ");
    println!("for each route {all} bytes; {said}");
    assert!(parts.iter().all(|(_, bytes, bound)| bytes <= bound), "for each route {all} bytes; {said}");
}
