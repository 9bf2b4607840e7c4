//! What any API server answers, as far as tidegate relies on it: the same cases for a real one and for the simulator.
//!
//! Every case is plain HTTP on a port of loopback (of a real server that of `kubectl proxy`), in a namespace that it has
//! for itself, with EndpointSlices as objects.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Client};

/// A server that a case asks.
struct Bed {
    port: u16,
    namespace: String,
}

/// Runs all cases.
pub fn run(port: u16, namespace: &str) {
    let bed = Bed { port, namespace: namespace.to_owned() };
    let cases: &[(&str, fn(&Bed))] = &[
        ("objects are written, listed and deleted", writes),
        ("a watch goes on from a list and tells what happens, in order", watch_goes_on),
        ("a list as a stream ends with a mark, and a watch goes on from there", streaming_list),
        ("a list as a stream goes on as a watch behind its mark", streaming_list_goes_on),
        ("a list from memory lacks nothing that does not follow", streaming_list_from_memory),
        ("pages hold every object once, at one version", pages),
        ("a watch from the first version tells everything since, or that it is too old", expired),
        ("a watch from a version that is not reached yet tells nothing old", future),
        ("a watch ends at its time", ends_in_time),
        ("a field selector picks one namespace", field_selector),
        ("what is not served is not found", not_served),
        ("a write to an old version is a conflict", conflict),
    ];
    for (name, case) in cases {
        println!("contract: {name}");
        bed.clear();
        case(&bed);
    }
    bed.clear();
}

impl Bed {
    fn slices(&self) -> String {
        format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", self.namespace)
    }

    fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let length = body.len();
        Client::connect(self.port)
            .request(&format!(
                "{method} {target} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\ncontent-type: \
                 application/json\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    fn json(&self, method: &str, target: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.ask(method, target, body);
        let value =
            serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{target}: {error}: {}", answer.body));
        (answer.status, value)
    }

    fn list(&self, query: &str) -> Value {
        let (status, list) = self.json("GET", &format!("{}?{query}", self.slices()), None);
        assert_eq!(status, 200, "{list}");
        list
    }

    /// All events of a watch that lasts some seconds.
    fn watch(&self, query: &str, seconds: u32) -> (u16, Vec<Value>) {
        let target = format!("{}?watch=true&timeoutSeconds={seconds}&{query}", self.slices());
        let answer = self.ask("GET", &target, None);
        let lines = answer.body.lines().filter(|line| !line.is_empty());
        (answer.status, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn create(&self, name: &str) -> Value {
        let object = self.object(name);
        let (status, created) = self.json("POST", &self.slices(), Some(&object));
        assert_eq!(status, 201, "{created}");
        created
    }

    fn object(&self, name: &str) -> Value {
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": name, "namespace": self.namespace }, "addressType": "IPv4", "endpoints": [], "ports": [] })
    }

    fn update(&self, mut object: Value) -> Value {
        object["ports"] = json!([{ "name": "http", "port": 80, "protocol": "TCP" }]);
        let target = format!("{}/{}", self.slices(), text(&object["metadata"]["name"]));
        let (status, updated) = self.json("PUT", &target, Some(&object));
        assert_eq!(status, 200, "{updated}");
        updated
    }

    fn delete(&self, name: &str) {
        let (status, answer) = self.json("DELETE", &format!("{}/{name}", self.slices()), None);
        assert_eq!(status, 200, "{answer}");
    }

    fn clear(&self) {
        for object in self.list("")["items"].as_array().into_iter().flatten() {
            self.delete(&text(&object["metadata"]["name"]));
        }
    }
}

/// Asks for a list as a stream.
const INITIAL: &str =
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=";

/// Where the mark at the end of a list is.
fn end_of_list(events: &[Value]) -> usize {
    let is_mark = |event: &Value| event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true";
    events.iter().position(is_mark).unwrap_or_else(|| panic!("no mark in {events:?}"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn version(of: &Value) -> u64 {
    text(&of["metadata"]["resourceVersion"]).parse().unwrap_or_else(|_| panic!("no version in {of}"))
}

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().into_iter().flatten().map(|object| text(&object["metadata"]["name"])).collect()
}

fn told(events: &[Value]) -> Vec<(String, String)> {
    let of = |event: &Value| (text(&event["type"]), text(&event["object"]["metadata"]["name"]));
    events.iter().map(of).filter(|(kind, _)| kind != "BOOKMARK").collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

fn writes(bed: &Bed) {
    let created = bed.create("a");
    assert!(!text(&created["metadata"]["uid"]).is_empty());
    let list = bed.list("");
    assert_eq!((text(&list["kind"]), names(&list)), ("EndpointSliceList".to_owned(), vec!["a".to_owned()]));
    assert!(version(&list) >= version(&created));
    let updated = bed.update(created.clone());
    assert_eq!(updated["metadata"]["uid"], created["metadata"]["uid"]);
    assert!(version(&updated) > version(&created));
    bed.delete("a");
    let list = bed.list("");
    assert!(names(&list).is_empty() && version(&list) > version(&updated));
}

fn watch_goes_on(bed: &Bed) {
    bed.create("before");
    let from = version(&bed.list(""));
    let created = bed.create("a");
    bed.update(created);
    bed.delete("a");
    bed.delete("before");
    let (status, events) = bed.watch(&format!("resourceVersion={from}&allowWatchBookmarks=true"), 1);
    let expected = [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("DELETED", "before")];
    assert_eq!((status, told(&events)), (200, pairs(&expected)));
    let versions: Vec<u64> = events.iter().map(|event| version(&event["object"])).collect();
    assert!(versions.is_sorted() && versions[0] > from, "the one of a removal is that of the removal: {versions:?}");
}

fn streaming_list(bed: &Bed) {
    bed.create("a");
    bed.create("b");
    let (status, events) = bed.watch(INITIAL, 1);
    assert_eq!(status, 200);
    let end = end_of_list(&events);
    assert_eq!(events[end]["type"], "BOOKMARK");
    assert_eq!(told(&events[..end]), pairs(&[("ADDED", "a"), ("ADDED", "b")]));
    bed.create("c");
    let from = version(&events[end]["object"]);
    let (_, events) = bed.watch(&format!("resourceVersion={from}"), 1);
    assert_eq!(told(&events), pairs(&[("ADDED", "c")]));
}

/// However old the copy of the API server is: what its list lacks comes behind the mark, and once.
fn streaming_list_from_memory(bed: &Bed) {
    bed.create("a");
    bed.create("b");
    let (status, events) = bed.watch(&format!("{INITIAL}0"), 1);
    assert_eq!(status, 200);
    end_of_list(&events);
    let mut told = told(&events);
    told.sort();
    assert_eq!(told, pairs(&[("ADDED", "a"), ("ADDED", "b")]));
}

fn streaming_list_goes_on(bed: &Bed) {
    bed.create("a");
    let (events, created) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| bed.watch(INITIAL, 2).1);
        let mut created = Vec::new();
        while !watching.is_finished() {
            created.push(format!("n{:03}", created.len()));
            bed.create(&created[created.len() - 1]);
            std::thread::sleep(Duration::from_millis(20));
        }
        (watching.join().unwrap(), created)
    });
    let end = end_of_list(&events);
    let names = |events: &[Value]| told(events).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let (listed, followed) = (names(&events[..end]), names(&events[end..]));
    assert!(listed.iter().any(|name| name == "a") && !followed.is_empty(), "{events:?}");
    let expected: Vec<String> = created.into_iter().filter(|name| !listed.contains(name)).collect();
    assert_eq!(followed, expected[..followed.len()], "each once, in order");
    let versions: Vec<u64> = events[end..].iter().map(|event| version(&event["object"])).collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

fn pages(bed: &Bed) {
    let expected: BTreeSet<String> = (0..5).map(|number| format!("s{number}")).collect();
    expected.iter().for_each(|name| drop(bed.create(name)));
    let mut found = Vec::new();
    let mut versions = BTreeSet::new();
    let mut query = "limit=2".to_owned();
    loop {
        let page = bed.list(&query);
        found.extend(names(&page));
        versions.insert(version(&page));
        let token = text(&page["metadata"]["continue"]);
        if token.is_empty() {
            break;
        }
        assert_eq!(names(&page).len(), 2);
        query = format!("limit=2&continue={token}");
    }
    assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (5, expected));
    assert_eq!(versions.len(), 1);
}

fn expired(bed: &Bed) {
    bed.create("a");
    let (status, events) = bed.watch("resourceVersion=1", 1);
    // Too old, as a status or as an event: both are right. A young server remembers everything.
    let first = events.first().map_or(0, |event| event["object"]["code"].as_u64().unwrap_or(0));
    let is_too_old = status == 410 || first == 410;
    assert!(is_too_old || told(&events).last() == pairs(&[("ADDED", "a")]).last(), "{status}: {events:?}");
}

fn future(bed: &Bed) {
    let from = version(&bed.list("")) + 1_000_000;
    bed.create("a");
    let (status, events) = bed.watch(&format!("resourceVersion={from}"), 1);
    assert!(told(&events).is_empty() || status != 200, "{status}: {events:?}");
}

fn ends_in_time(bed: &Bed) {
    let from = version(&bed.list(""));
    bed.create("a");
    // The body has an end: the client would fail without one.
    let (status, events) = bed.watch(&format!("resourceVersion={from}&allowWatchBookmarks=true"), 3);
    assert_eq!((status, told(&events)), (200, pairs(&[("ADDED", "a")])));
    // A mark may come, and is not older than what was told.
    let versions: Vec<u64> = events.iter().map(|event| version(&event["object"])).collect();
    assert!(versions.is_sorted(), "{events:?}");
}

fn field_selector(bed: &Bed) {
    let target = format!("/api/v1/namespaces?fieldSelector=metadata.name%3D{}", bed.namespace);
    let (status, list) = bed.json("GET", &target, None);
    assert_eq!(status, 200);
    assert!(names(&list).iter().all(|name| *name == bed.namespace), "{list}");
}

fn not_served(bed: &Bed) {
    assert_eq!(bed.ask("GET", "/apis/discovery.k8s.io/v1/nosuchkinds", None).status, 404);
    assert_eq!(bed.ask("GET", "/apis/nosuchgroup.test/v1/endpointslices", None).status, 404);
}

fn conflict(bed: &Bed) {
    let created = bed.create("a");
    bed.update(created.clone());
    let target = format!("{}/a", bed.slices());
    assert_eq!(bed.json("PUT", &target, Some(&created)).0, 409);
    assert_eq!(bed.json("POST", &bed.slices(), Some(&bed.object("a"))).0, 409);
    assert_eq!(bed.json("DELETE", &format!("{}/never", bed.slices()), None).0, 404);
}
