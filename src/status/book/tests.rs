use super::*;
use crate::compile::compile;
use crate::compile::inputs::StaticListener;
use crate::kinds::KindId;

const CONTROLLER: &str = "tidegate.dev/controller";

fn identity() -> Identity {
    Identity { controller_name: CONTROLLER.into(), gateway_class_name: "tidegate".into() }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

fn manifest(name: &str, generation: i64, spec: Value) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": "GatewayRoute",
        "metadata": { "namespace": "ns", "name": name, "uid": format!("uid-{name}"), "generation": generation },
        "spec": spec,
    })
}

fn answers(hostname: &str) -> Value {
    json!({ "hostnames": [hostname], "rules": [{ "filters": [{ "type": "DirectResponse", "directResponse": { "statusCode": 200 } }] }] })
}

/// A server with routes, the configuration that was compiled from them, and the book beside both.
struct Bed {
    objects: BTreeMap<ObjectName, Value>,
    /// The objects that are active, which may be behind.
    inputs: Inputs,
    book: Book,
    now: Instant,
    wall: i64,
}

impl Bed {
    fn new() -> Self {
        let mut book = Book::new(identity());
        book.set_writer(true);
        let listeners = vec![StaticListener { name: "http".into(), ..StaticListener::default() }];
        let inputs = Inputs { listeners, gateway_class_name: "tidegate".into(), ..Inputs::default() };
        Self { objects: BTreeMap::new(), inputs, book, now: Instant::now(), wall: 1000 }
    }

    fn see(&mut self, at: &str) {
        let route = StoredRoute::read(&self.objects[&name(at)], &identity());
        self.book.saw(Sighting::One(name(at), route));
    }

    /// A user applies a route; the watch shows it.
    fn apply(&mut self, at: &str, generation: i64, spec: Value) {
        let mut object = manifest(at, generation, spec);
        if let Some(before) = self.objects.get(&name(at)) {
            object["status"] = before["status"].clone();
            object["metadata"]["managedFields"] = before["metadata"]["managedFields"].clone();
        }
        self.objects.insert(name(at), object);
        self.see(at);
    }

    /// All objects are compiled and active.
    fn publish(&mut self) {
        self.inputs.objects.routes = Default::default();
        for (name, object) in &self.objects {
            if let Ok(object) = KindId::GatewayRoute.hold(object.clone()) {
                self.inputs.objects.insert(name.clone(), object, None);
            }
        }
        self.republish();
    }

    fn republish(&mut self) {
        let statuses = compile(&self.inputs).statuses;
        self.book.publish(Published { inputs: Arc::new(self.inputs.clone()), statuses, policies: Arc::default() });
    }

    fn next(&mut self) -> Option<Write> {
        self.book.wake(self.now);
        self.book.next(self.now, Timestamp::from_second(self.wall).expect("in range"))
    }

    /// The server takes a write, and the watch shows it.
    fn take(&mut self, write: &Write) {
        let object = self.objects.get_mut(&write.name).expect("it is there");
        object["status"] = write.body["status"].clone();
        let managers = match object["status"]["parents"].is_array() {
            true => json!([{ "manager": identity().field_manager(), "subresource": "status" }]),
            false => json!([]),
        };
        object["metadata"]["managedFields"] = managers;
        let route = StoredRoute::read(object, &identity());
        self.book.done(&write.name, Outcome::Written(Box::new(route)), self.now);
        self.see(&write.name.name);
    }

    /// Carries out all writes; the names of their routes.
    fn settle(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(write) = self.next() {
            names.push(write.name.name.to_string());
            self.take(&write);
        }
        names
    }
}

#[tokio::test(start_paused = true)]
async fn each_route_is_written_once_and_then_nothing() {
    let mut bed = Bed::new();
    for at in ["a", "b", "c"] {
        bed.apply(at, 1, answers(&format!("{at}.test")));
    }
    assert_eq!(bed.settle(), [""; 0], "nothing is active yet");
    bed.publish();
    assert_eq!(bed.settle(), ["a", "b", "c"]);
    bed.publish();
    bed.book.sweep();
    bed.now += Duration::from_secs(600);
    assert_eq!(bed.settle(), [""; 0]);
    // A replica that starts, or takes over.
    bed.book.set_writer(false);
    assert_eq!(bed.book.len(), 0);
    bed.book.set_writer(true);
    assert_eq!(bed.settle(), [""; 0]);
    assert_eq!(bed.objects[&name("a")]["status"]["parents"][0]["controllerName"], CONTROLLER);
}

#[tokio::test(start_paused = true)]
async fn a_status_speaks_of_the_generation_that_is_active() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    bed.settle();
    bed.apply("a", 2, answers("b.test"));
    assert_eq!(bed.settle(), [""; 0], "generation 1 is active, and that was said");
    bed.publish();
    assert_eq!(bed.settle(), ["a"]);
    assert_eq!(bed.objects[&name("a")]["status"]["observedGeneration"], 2);
    // The other way round: it is active before the watch of statuses shows it.
    let before = bed.objects[&name("a")].clone();
    let mut newer = before.clone();
    newer["metadata"]["generation"] = 3.into();
    bed.objects.insert(name("a"), newer);
    bed.publish();
    assert_eq!(bed.settle(), [""; 0]);
    bed.see("a");
    assert_eq!(bed.settle(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_of_an_object_is_not_said_of_the_next_of_its_name() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    let write = bed.next().expect("a write");
    assert_eq!(write.body["metadata"]["uid"], "uid-a", "the precondition");
    // Deleted and created anew while the write is on its way.
    bed.book.saw(Sighting::Gone(name("a")));
    bed.objects.get_mut(&name("a")).expect("there")["metadata"]["uid"] = "another".into();
    bed.see("a");
    let old = StoredRoute { uid: "uid-a".into(), ..StoredRoute::default() };
    bed.book.done(&name("a"), Outcome::Written(Box::new(old)), bed.now);
    assert_eq!(bed.settle(), [""; 0], "the active version is of the first");
    bed.publish();
    assert_eq!(bed.settle(), ["a"]);
}

/// The answer to a write comes after the watch has shown the next edit.
#[tokio::test(start_paused = true)]
async fn a_late_answer_hides_no_edit() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    let write = bed.next().expect("a write");
    let mut written = bed.objects[&name("a")].clone();
    written["status"] = write.body["status"].clone();
    bed.objects.insert(name("a"), written.clone());
    bed.see("a");
    bed.apply("a", 2, answers("b.test"));
    bed.publish();
    assert_eq!(bed.next(), None, "one at a time");
    let answer = StoredRoute::read(&written, &identity());
    bed.book.done(&name("a"), Outcome::Written(Box::new(answer)), bed.now);
    assert_eq!(bed.settle(), ["a"]);
    assert_eq!(bed.objects[&name("a")]["status"]["observedGeneration"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_route_of_another_class_is_let_go_and_one_that_never_was_ours_left_alone() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    let mut other = answers("b.test");
    other["gatewayClassName"] = "other".into();
    bed.apply("b", 1, other.clone());
    bed.publish();
    assert_eq!(bed.settle(), ["a"]);
    bed.apply("a", 2, other);
    bed.publish();
    let write = bed.next().expect("a write");
    assert_eq!(write.body["status"], json!({}), "what we own goes, the rest stays");
    bed.take(&write);
    bed.book.sweep();
    assert_eq!(bed.settle(), [""; 0]);
    // What another instance has written of its own class is its own, also under our name.
    let of_another = json!({ "parents": [{ "controllerName": CONTROLLER, "ref": "x", "conditions": [] }] });
    bed.objects.get_mut(&name("b")).expect("there")["status"] = of_another;
    bed.see("b");
    assert_eq!(bed.settle(), [""; 0]);
    // Nor is there anything to say at parents that are not ours.
    let foreign = json!({ "parentRefs": [{ "group": "other.example", "kind": "Gateway", "name": "x" }] });
    bed.apply("c", 1, foreign);
    bed.publish();
    assert_eq!(bed.settle(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_gone_from_the_active_version_alone_is_not_let_go() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    bed.settle();
    bed.inputs.objects.routes = Default::default();
    bed.republish();
    assert_eq!(bed.settle(), [""; 0], "the two will agree soon");
}

#[tokio::test(start_paused = true)]
async fn somebody_who_rewrites_a_status_is_answered_every_five_seconds() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    bed.settle();
    let (begun, mut writes) = (bed.now, 0);
    while bed.now < begun + Duration::from_secs(60) {
        let object = bed.objects.get_mut(&name("a")).expect("there");
        object["status"]["conditions"][0]["status"] = "False".into();
        bed.see("a");
        writes += bed.settle().len();
        bed.now += Duration::from_millis(100);
    }
    assert!((11..=12).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn what_changes_without_a_new_generation_is_written_at_once_and_then_once_a_second() {
    let mut bed = Bed::new();
    let spec = json!({ "hostnames": ["a.test"], "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] });
    bed.apply("a", 1, spec);
    bed.publish();
    bed.settle();
    let (mut writes, begun) = (0, bed.now);
    for round in 0..100 {
        bed.now += Duration::from_millis(100);
        if round % 2 == 0 {
            let service = json!({ "metadata": {}, "spec": { "ports": [{ "port": 80 }] } });
            let service = KindId::Service.hold(service).expect("a Service");
            bed.inputs.objects.insert(name("web"), service, None);
        } else {
            bed.inputs.objects.remove(KindId::Service, &name("web"));
        }
        bed.republish();
        writes += bed.settle().len();
    }
    assert!((5..=11).contains(&writes), "{writes} in {:?}", bed.now - begun);
    bed.now += Duration::from_secs(6);
    bed.settle();
    let said = bed.objects[&name("a")]["status"]["conditions"][0]["reason"].clone();
    assert_eq!(said, "BackendNotFound", "the last state is what is said in the end");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_made_again_with_what_is_right_then() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    let write = bed.next().expect("a write");
    assert_eq!(bed.next(), None, "it is on its way");
    bed.book.done(&write.name, Outcome::Later(Duration::from_secs(2)), bed.now);
    assert_eq!(bed.next(), None);
    assert_eq!(bed.book.wake_at(), Some(bed.now + Duration::from_secs(2)));
    bed.apply("a", 2, answers("b.test"));
    bed.publish();
    let write = bed.next().expect("a change does not wait");
    assert_eq!(write.body["status"]["observedGeneration"], 2);
    bed.take(&write);
    bed.now += Duration::from_secs(2);
    assert_eq!(bed.settle(), [""; 0]);
    // A refusal is final until something changes.
    bed.apply("a", 3, answers("c.test"));
    bed.publish();
    let write = bed.next().expect("a write");
    bed.book.done(&write.name, Outcome::Never, bed.now);
    bed.now += Duration::from_secs(60);
    assert_eq!(bed.next(), None);
    bed.book.sweep();
    assert!(bed.next().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_list_removes_what_it_lacks_in_its_namespace() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.apply("b", 1, answers("b.test"));
    let elsewhere = ObjectName::new("elsewhere", "c");
    bed.book.saw(Sighting::One(elsewhere.clone(), StoredRoute::default()));
    let b = StoredRoute::read(&bed.objects[&name("b")], &identity());
    bed.book.saw(Sighting::All(Some("ns".into()), vec![(name("b"), b)]));
    assert_eq!(bed.book.stored.keys().collect::<Vec<_>>(), [&elsewhere, &name("b")]);
    bed.book.saw(Sighting::All(None, Vec::new()));
    assert!(bed.book.stored.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_route_that_cannot_be_read_is_told_what_still_serves() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    bed.settle();
    let mut object = manifest("a", 2, json!({ "rules": 5 }));
    object["status"] = bed.objects[&name("a")]["status"].clone();
    bed.objects.insert(name("a"), object.clone());
    let route = StoredRoute { problem: Some("x".repeat(100_000).into()), ..StoredRoute::read(&object, &identity()) };
    bed.book.saw(Sighting::One(name("a"), route));
    let write = bed.next().expect("a write");
    let ready = &write.body["status"]["conditions"][0];
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("UnsupportedValue")));
    let message = ready["message"].as_str().expect("a message");
    assert!(message.len() < 32_768 && message.starts_with("found xxx"), "{}", message.len());
    assert!(message.ends_with("; generation 1, the last that could be read, stays active"));
    assert_eq!(write.body["status"]["observedGeneration"], 2);
    assert_eq!(write.body["status"]["parents"][0]["ref"], "tidegate.dev/Listener//http//");
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_its_write_is_refused_is_written_behind_that() {
    let mut bed = Bed::new();
    bed.apply("a", 1, answers("a.test"));
    bed.publish();
    let write = bed.next().expect("a write");
    bed.apply("a", 2, answers("b.test"));
    bed.publish();
    assert!(bed.next().is_none(), "one is on its way");
    bed.book.done(&write.name, Outcome::Never, bed.now);
    let write = bed.next().expect("another write");
    assert_eq!(write.body["status"]["observedGeneration"], 2);
    // And nothing changes while that one is.
    bed.book.done(&write.name, Outcome::Never, bed.now);
    assert!(bed.next().is_none());
}
