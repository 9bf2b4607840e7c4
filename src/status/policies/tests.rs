use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::api::backend_tls_policy::PolicyReason;
use crate::compile::inputs::Inputs;
use crate::kinds::KindId;

fn identity() -> Identity {
    Identity { controller_name: "tidegate.dev/controller".into(), gateway_class_name: "tidegate".into() }
}

fn verdict(holds: bool, reason: PolicyReason) -> PolicyVerdict {
    PolicyVerdict { holds, reason, message: "m".to_owned() }
}

fn status(name: &str, holds: bool) -> PolicyStatus {
    let reason = if holds { PolicyReason::Accepted } else { PolicyReason::Conflicted };
    PolicyStatus {
        name: ObjectName::new("ns", name),
        generation: Some(1),
        accepted: verdict(holds, reason),
        resolved_refs: verdict(true, PolicyReason::ResolvedRefs),
    }
}

fn object(name: &str, entries: &[Value]) -> Value {
    let metadata = json!({ "namespace": "ns", "name": name, "uid": name, "generation": 1, "resourceVersion": "1" });
    let spec = json!({ "targetRefs": [], "validation": { "hostname": "a.test", "wellKnownCACertificates": "System" } });
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": metadata, "spec": spec,
        "status": { "ancestors": entries } })
}

fn stored(entries: &[Value]) -> StoredPolicy {
    StoredPolicy::read(&object("p", entries))
}

fn foreign(number: usize) -> Value {
    json!({ "ancestorRef": { "kind": "Gateway", "name": format!("g{number}") }, "controllerName": "other.example/x",
        "conditions": [] })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

#[test]
fn one_entry_is_ours_and_the_others_stay() {
    let entries_of = |stored: &StoredPolicy, status: Option<&PolicyStatus>, second| {
        entries(stored, status, &identity(), at(second)).expect("there is room")
    };
    let first = entries_of(&stored(&[foreign(0)]), Some(&status("p", true)), 0).expect("it is new");
    assert_eq!(first[0], foreign(0));
    assert_eq!(
        first[1],
        json!({
            "ancestorRef": { "group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "tidegate" },
            "controllerName": "tidegate.dev/controller",
            "conditions": [
                { "type": "Accepted", "status": "True", "reason": "Accepted", "message": "m", "observedGeneration": 1,
                    "lastTransitionTime": "1970-01-01T00:00:00Z" },
                { "type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "message": "m",
                    "observedGeneration": 1, "lastTransitionTime": "1970-01-01T00:00:00Z" },
            ],
        })
    );
    let written = stored(&first);
    assert_eq!(entries_of(&written, Some(&status("p", true)), 60), None, "the same is not written again");
    let second = entries_of(&written, Some(&status("p", false)), 60).expect("another one");
    let [accepted, resolved] = [0, 1].map(|at| second[1]["conditions"][at].clone());
    assert_eq!((&accepted["status"], &accepted["reason"]), (&json!("False"), &json!("Conflicted")));
    assert_eq!(accepted["lastTransitionTime"], "1970-01-01T00:01:00Z");
    assert_eq!(resolved["lastTransitionTime"], "1970-01-01T00:00:00Z", "it has not changed");
    // No route leads there any more.
    assert_eq!(entries_of(&written, None, 60), Some(vec![foreign(0)]));
    assert_eq!(entries_of(&stored(&[foreign(0)]), None, 60), None);
    // Of the same controller with another class.
    let other = Identity { gateway_class_name: "inner".into(), ..identity() };
    assert_eq!(entries(&written, None, &other, at(0)), Ok(None));
    let both = entries(&written, Some(&status("p", true)), &other, at(0)).expect("there is room").expect("a new one");
    assert_eq!((both.len(), &both[1]), (3, &first[1]));
}

#[test]
fn a_full_list_is_left_as_it_is() {
    let full: Vec<Value> = (0..MOST_ENTRIES).map(foreign).collect();
    assert_eq!(entries(&stored(&full), Some(&status("p", true)), &identity(), at(0)), Err(Full));
    assert_eq!(entries(&stored(&full), None, &identity(), at(0)), Ok(None));
    let mut ours = entries(&stored(&full[1..]), Some(&status("p", true)), &identity(), at(0)).expect("there is room");
    let ours = ours.take().expect("a new one");
    assert_eq!(ours.len(), MOST_ENTRIES);
    assert!(entries(&stored(&ours), Some(&status("p", false)), &identity(), at(0)).expect("it has a place").is_some());
}

/// An API server with policies in memory.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<ObjectName, Value>>>,
    /// How the next writes end; then they succeed.
    faults: Arc<Mutex<Vec<Failure>>>,
    lists: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl Policies for Server {
    async fn list(&self) -> Result<Vec<StoredPolicy>, Failure> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        Ok(self.objects.lock().expect("no panic").values().map(StoredPolicy::read).collect())
    }

    async fn write(&self, policy: &StoredPolicy, entries: Vec<Value>) -> Result<(), Failure> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if let Some(fault) = self.faults.lock().expect("no panic").pop() {
            return Err(fault);
        }
        let mut objects = self.objects.lock().expect("no panic");
        let object = objects.get_mut(&policy.name).ok_or_else(|| Failure::NotFound("gone".to_owned()))?;
        object["status"]["ancestors"] = entries.into();
        Ok(())
    }
}

struct Bed {
    server: Server,
    until: watch::Sender<Option<Instant>>,
    published: watch::Sender<Option<Published>>,
    _stop: oneshot::Sender<()>,
}

impl Bed {
    /// A writer beside a server with policies of these names; the first has nothing of ours yet.
    fn new(names: &[&str]) -> Self {
        let server = Server::default();
        for name in names {
            server.put(name, object(name, &[foreign(0)]));
        }
        let (until, leadership) = Leadership::given();
        let (published, listen) = watch::channel(None);
        let metrics = Arc::new(StatusMetrics::default());
        let writer = PolicyWriter::new(server.clone(), leadership, listen, identity(), metrics);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(writer.run(stopped));
        Self { server, until, published, _stop: stop }
    }

    fn lead(&self) {
        self.until.send_replace(Some(Instant::now() + Duration::from_secs(36_000)));
    }

    fn publish(&self, policies: &[PolicyStatus]) {
        let mut inputs = Inputs::default();
        for (name, object) in &*self.server.objects.lock().expect("no panic") {
            inputs.objects.insert(name.clone(), KindId::BackendTlsPolicy.hold(object.clone()).expect("a policy"), None);
        }
        let (inputs, statuses) = (Arc::new(inputs), Arc::default());
        self.published.send_replace(Some(Published { inputs, statuses, policies: policies.into() }));
    }

    /// Lists and writes so far.
    fn calls(&self) -> (usize, usize) {
        (self.server.lists.load(Ordering::Relaxed), self.server.writes.load(Ordering::Relaxed))
    }
}

impl Server {
    fn put(&self, name: &str, object: Value) {
        self.objects.lock().expect("no panic").insert(ObjectName::new("ns", name), object);
    }

    fn entries(&self, name: &str) -> usize {
        let objects = self.objects.lock().expect("no panic");
        objects[&ObjectName::new("ns", name)]["status"]["ancestors"].as_array().map_or(0, Vec::len)
    }
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_writes_and_only_what_is_new() {
    let bed = Bed::new(&["p", "q"]);
    bed.publish(&[status("p", true)]);
    pass(600.0).await;
    assert_eq!(bed.calls(), (0, 0), "another one leads");
    bed.lead();
    pass(1.0).await;
    assert_eq!((bed.calls(), bed.server.entries("p"), bed.server.entries("q")), ((1, 1), 2, 1));
    bed.publish(&[status("p", true)]);
    pass(1.0).await;
    assert_eq!(bed.calls(), (1, 1), "nothing else is said");
    // Somebody takes our entry away.
    bed.server.put("p", object("p", &[foreign(0)]));
    pass(120.0).await;
    assert_eq!((bed.calls().1, bed.server.entries("p")), (2, 2));
    bed.publish(&[status("q", true)]);
    pass(1.0).await;
    assert_eq!((bed.calls().1, bed.server.entries("p"), bed.server.entries("q")), (4, 1, 2));
    bed.publish(&[]);
    pass(1.0).await;
    let (lists, writes) = bed.calls();
    assert_eq!((writes, bed.server.entries("q")), (5, 1));
    pass(3600.0).await;
    assert_eq!(bed.calls(), (lists, 5), "there is nothing to look after");
    // A version of the object that was not compiled yet is left alone.
    let mut newer = object("p", &[foreign(0)]);
    newer["metadata"]["generation"] = 2.into();
    bed.server.put("p", newer);
    bed.publish(&[status("p", true)]);
    pass(1.0).await;
    assert_eq!(bed.calls().1, 5);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_made_again() {
    let no = || "no".to_owned();
    for (fault, soonest, latest) in [
        (Failure::Conflict(no()), 0.9, 1.1),
        (Failure::Broken(no()), 0.9, 1.1),
        (Failure::TimedOut(CALL), 0.9, 1.1),
        (Failure::Busy(Some(Duration::from_secs(7)), no()), 6.9, 7.1),
        (Failure::Forbidden(no()), 29.0, 31.0),
    ] {
        let bed = Bed::new(&["p"]);
        bed.server.faults.lock().expect("no panic").push(fault.clone());
        bed.publish(&[status("p", true)]);
        bed.lead();
        pass(soonest).await;
        assert_eq!((bed.calls().1, bed.server.entries("p")), (1, 1), "{fault:?}");
        pass(latest - soonest).await;
        assert_eq!((bed.calls().1, bed.server.entries("p")), (2, 2), "{fault:?}");
    }
    // What the API server refuses is not sent again and again, and holds no other policy up.
    let bed = Bed::new(&["p", "q"]);
    bed.server.faults.lock().expect("no panic").push(Failure::Refused(no()));
    bed.publish(&[status("p", true), status("q", true)]);
    bed.lead();
    pass(30.0).await;
    assert_eq!((bed.calls(), bed.server.entries("p"), bed.server.entries("q")), ((1, 2), 1, 2));
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_lead_stops_at_once() {
    let bed = Bed::new(&["p"]);
    bed.server.faults.lock().expect("no panic").push(Failure::Broken("no".to_owned()));
    bed.publish(&[status("p", true)]);
    bed.lead();
    pass(0.5).await;
    bed.until.send_replace(None);
    pass(600.0).await;
    assert_eq!((bed.calls().1, bed.server.entries("p")), (1, 1));
    bed.lead();
    pass(1.0).await;
    assert_eq!(bed.server.entries("p"), 2);
}
