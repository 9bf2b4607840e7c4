use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::compile::compile;
use crate::compile::inputs::{Inputs, StaticListener};
use crate::kinds::KindId;
use crate::telemetry::metrics::StatusMetrics;

fn identity() -> Identity {
    Identity { controller_name: "tidegate.dev/controller".into(), gateway_class_name: "tidegate".into() }
}

/// An API server with routes in memory.
#[derive(Clone, Default)]
struct Server {
    objects: Arc<Mutex<BTreeMap<ObjectName, Value>>>,
    /// How the next calls end; then they succeed.
    faults: Arc<Mutex<Vec<Failure>>>,
    /// A route that it always fails at.
    fails_at: Arc<Mutex<Option<ObjectName>>>,
    calls: Arc<AtomicUsize>,
    told: Arc<AtomicUsize>,
    silent: Arc<Mutex<bool>>,
}

impl Target for Server {
    async fn apply(&self, write: &Write) -> Result<StoredRoute, Failure> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if *self.silent.lock().expect("no panic") {
            return within(CALL, std::future::pending()).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if self.fails_at.lock().expect("no panic").as_ref() == Some(&write.name) {
            return Err(Failure::Failed("no".to_owned()));
        }
        let fault = self.faults.lock().expect("no panic").pop();
        if let Some(fault) = fault {
            assert_ne!(fault, Failure::Refused(PANIC.to_owned()));
            return Err(fault);
        }
        let mut objects = self.objects.lock().expect("no panic");
        let object = objects.get_mut(&write.name).ok_or_else(|| Failure::NotFound("gone".to_owned()))?;
        object["status"] = write.body["status"].clone();
        Ok(StoredRoute::read(object, &identity()))
    }

    async fn tell(&self, _: &ObjectName, _: &str, notices: Vec<Notice>) {
        self.told.fetch_add(notices.len(), Ordering::Relaxed);
    }
}

/// A refusal with this message is a panic instead.
const PANIC: &str = "wanted by a test";

struct Bed {
    server: Server,
    until: watch::Sender<Option<Instant>>,
    sightings: mpsc::Sender<Sighting>,
    published: watch::Sender<Option<Published>>,
    metrics: Arc<StatusMetrics>,
    _stop: oneshot::Sender<()>,
}

impl Bed {
    /// A writer beside a server with so many routes, all of them compiled.
    async fn new(routes: usize) -> Self {
        let server = Server::default();
        let (until, leadership) = Leadership::given();
        let (sightings, seen) = mpsc::channel(16);
        let (published, listen) = watch::channel(None);
        let sources = Sources { leadership, sightings: seen, published: listen };
        let metrics = Arc::new(StatusMetrics::default());
        let writer = Writer::new(server.clone(), sources, identity(), Arc::clone(&metrics));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(writer.run(stopped));
        let listeners = vec![StaticListener { name: "http".into(), ..StaticListener::default() }];
        let mut inputs = Inputs { listeners, gateway_class_name: "tidegate".into(), ..Inputs::default() };
        let mut list = Vec::new();
        for number in 0..routes {
            let name = ObjectName::new("ns", format!("route-{number}"));
            let answer = json!({ "type": "DirectResponse", "directResponse": { "statusCode": 200 } });
            let object = json!({
                "metadata": { "namespace": "ns", "name": &*name.name, "uid": format!("{number}"), "generation": 1 },
                "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute",
                "spec": { "hostnames": [format!("{number}.test")], "rules": [{ "filters": [answer] }] },
            });
            inputs.objects.insert(name.clone(), KindId::GatewayRoute.hold(object.clone()).expect("a route"), None);
            list.push((name.clone(), StoredRoute::read(&object, &identity())));
            server.objects.lock().expect("no panic").insert(name, object);
        }
        let statuses = compile(&inputs).statuses;
        sightings.send(Sighting::All(None, list)).await.expect("it listens");
        published.send_replace(Some(Published { inputs: Arc::new(inputs), statuses, policies: Arc::default() }));
        Self { server, until, sightings, published, metrics, _stop: stop }
    }

    fn lead(&self) {
        self.until.send_replace(Some(Instant::now() + Duration::from_secs(3600)));
    }

    fn calls(&self) -> usize {
        self.server.calls.load(Ordering::Relaxed)
    }

    fn written(&self) -> usize {
        self.server.objects.lock().expect("no panic").values().filter(|object| !object["status"].is_null()).count()
    }
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_writes_and_at_its_pace() {
    let bed = Bed::new(1000).await;
    pass(60.0).await;
    assert_eq!(bed.calls(), 0, "another one leads");
    bed.lead();
    pass(2.0).await;
    assert!((230..=320).contains(&bed.calls()), "{}: a burst of 200, then 50 a second", bed.calls());
    pass(20.0).await;
    assert_eq!((bed.calls(), bed.written()), (1000, 1000));
    let told = bed.server.told.load(Ordering::Relaxed);
    assert!((200..=330).contains(&told), "{told}: Events have a pace of their own");
    // At rest nothing is written, by sweeps neither.
    pass(3600.0).await;
    assert_eq!(bed.calls(), 1000);
    let page = format!("{:?}", bed.metrics);
    assert!(page.contains("queue: 0"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_the_lead_is_lost() {
    let bed = Bed::new(1000).await;
    bed.until.send_replace(Some(Instant::now() + Duration::from_secs(3)));
    pass(3.0).await;
    let calls = bed.calls();
    assert!(calls > 200, "{calls}");
    pass(60.0).await;
    assert_eq!(bed.calls(), calls, "the time was over, and nobody had to say so");
    bed.lead();
    pass(30.0).await;
    assert_eq!(bed.written(), 1000);
    assert!(bed.calls() <= 1000 + AT_ONCE, "{}: what was done is done", bed.calls());
}

#[tokio::test(start_paused = true)]
async fn a_call_on_its_way_is_given_up_with_the_lead() {
    let bed = Bed::new(1).await;
    *bed.server.silent.lock().expect("no panic") = true;
    bed.lead();
    pass(1.0).await;
    assert_eq!(bed.calls(), 1);
    bed.until.send_replace(None);
    pass(60.0).await;
    assert_eq!(bed.calls(), 1, "neither answered nor tried again");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_work_is_left_alone_for_longer_and_longer() {
    for failure in [Failure::Broken, Failure::Failed] {
        let bed = Bed::new(50).await;
        *bed.server.faults.lock().expect("no panic") = vec![failure("no".to_owned()); 100_000];
        bed.lead();
        pass(120.0).await;
        assert!(bed.calls() < 20 * AT_ONCE, "{} calls", bed.calls());
        bed.server.faults.lock().expect("no panic").clear();
        pass(61.0).await;
        assert_eq!(bed.written(), 50, "and then all is made good");
    }
}

/// An API server answers 500 where a status has an entry twice.
#[tokio::test(start_paused = true)]
async fn a_route_that_the_api_server_fails_at_holds_no_other_one_up() {
    let bed = Bed::new(20).await;
    *bed.server.fails_at.lock().expect("no panic") = Some(ObjectName::new("ns", "route-3"));
    bed.lead();
    pass(0.5).await;
    assert_eq!((bed.written(), bed.calls()), (19, 20));
    pass(120.0).await;
    assert!((23..=25).contains(&bed.calls()), "{}: after a second, then every 30", bed.calls());
    *bed.server.fails_at.lock().expect("no panic") = None;
    pass(31.0).await;
    assert_eq!(bed.written(), 20);
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_met_as_it_should_be() {
    let cases = [
        (Failure::Conflict("no".to_owned()), Duration::from_secs(1), 2),
        (Failure::Busy(Some(Duration::from_secs(7)), "no".to_owned()), Duration::from_secs(7), 2),
        (Failure::Busy(None, "no".to_owned()), Duration::from_secs(1), 2),
        (Failure::Forbidden("no".to_owned()), Duration::from_secs(30), 2),
        (Failure::Refused("no".to_owned()), Duration::from_secs(60), 1),
        (Failure::NotFound("no".to_owned()), Duration::from_secs(60), 1),
    ];
    for (failure, pause, calls) in cases {
        let bed = Bed::new(1).await;
        *bed.server.faults.lock().expect("no panic") = vec![failure.clone()];
        bed.lead();
        pass(pause.as_secs_f64() - 0.5).await;
        assert_eq!(bed.calls(), 1, "{failure:?}");
        pass(1.5).await;
        assert_eq!(bed.calls(), calls, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_and_is_made_again() {
    let bed = Bed::new(1).await;
    *bed.server.silent.lock().expect("no panic") = true;
    bed.lead();
    pass(4.0).await;
    *bed.server.silent.lock().expect("no panic") = false;
    pass(4.0).await;
    assert_eq!((bed.calls(), bed.written()), (2, 1));
    // What comes later finds the task where it should be.
    bed.sightings.send(Sighting::All(None, Vec::new())).await.expect("it listens");
    bed.published.send_replace(None);
    pass(1.0).await;
    assert!(!bed.sightings.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_is_counted_and_made_again() {
    let bed = Bed::new(20).await;
    bed.server.faults.lock().expect("no panic").push(Failure::Refused(PANIC.to_owned()));
    bed.lead();
    pass(10.0).await;
    assert_eq!((bed.calls(), bed.written(), bed.metrics.panics()), (20, 19, 1), "the others are written");
    pass(60.0).await;
    assert_eq!((bed.calls(), bed.written(), bed.metrics.panics()), (21, 20, 1));
}
