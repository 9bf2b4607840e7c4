//! The source against an API server that does whatever API servers do: in the end its state is that of the server, and
//! until then nothing that served is lost.
#![allow(clippy::unwrap_used)]

#[path = "support/api_contract.rs"]
mod api_contract;
#[path = "support/api_server.rs"]
mod api_server;
mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::process::Command;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use api_server::{ApiServer, Asked, Delivery, Fault, On};
use serde_json::{Value, json};
use tidegate::compile::compile;
use tidegate::compile::inputs::{Inputs, OwnPlace, StaticListener};
use tidegate::kubernetes::{Kubernetes, SILENCE};
use tidegate::source::Update;
use tidegate::source::cluster::{self, Options, Timing};
use tidegate::source::stored::Identity;
use tidegate::status::{self, Ears, Published};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions, Restart};
use tokio::sync::{mpsc, watch};

/// Bounds every wait. Only reached when something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

const ROUTES: &str = "gatewayroutes";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const GRANTS: &str = "referencegrants";
const POLICIES: &str = "backendtlspolicies";

fn route(name: &str) -> Value {
    json!({ "metadata": { "namespace": "ns", "name": name, "annotations": { "a": "b" } },
        "spec": { "hostnames": [format!("{name}.test")], "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] } })
}

fn service(name: &str) -> Value {
    json!({ "metadata": { "namespace": "ns", "name": name },
        "spec": { "selector": { "app": name }, "ports": [{ "name": "http", "port": 80 }] } })
}

fn slice(service: &str, addresses: &[&str], port: i64) -> Value {
    let endpoint = |address: &&str| json!({ "addresses": [address], "conditions": { "ready": true } });
    json!({ "metadata": { "namespace": "ns", "name": format!("{service}-x"),
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": port }],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>() })
}

/// Quick where patience would only make tests slow.
fn quick() -> Timing {
    Timing {
        watch_seconds: 20..=20,
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(200),
        grace: Duration::from_millis(500),
        silence: Duration::from_secs(1),
        ..Timing::default()
    }
}

thread_local! {
    /// What is logged on this thread, while somebody wants to know.
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is logged on this thread, for as long as the value lives.
struct Logged;

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.iter_mut().for_each(|log| log.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn new() -> Self {
        // One for all threads: with one for each, a thread without any could switch lines off for the others.
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| LogWriter).init());
        LOG.set(Some(Vec::new()));
        Self
    }

    /// The lines with all of these words.
    fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(LOG.with_borrow(|log| log.clone().unwrap())).unwrap();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        LOG.set(None);
    }
}

/// A source that follows a server.
struct Bed {
    server: ApiServer,
    metrics: Arc<Metrics>,
    updates: watch::Receiver<Update>,
}

fn metrics() -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers: 0, listeners: Vec::new(), max_series: 0 })
}

async fn start(server: &ApiServer, timing: Timing, metrics: &Arc<Metrics>) -> watch::Receiver<Update> {
    start_at(server, timing, metrics, OwnPlace::default()).await
}

async fn start_at(
    server: &ApiServer,
    timing: Timing,
    metrics: &Arc<Metrics>,
    place: OwnPlace,
) -> watch::Receiver<Update> {
    let client = Kubernetes::new(Some(&server.kubeconfig()), SILENCE).await.unwrap().client().unwrap();
    let cache = Some(server.folder().join("cache"));
    let options = Options { timing, cache, ..Options::default() };
    let listener = StaticListener { name: "http".into(), ..StaticListener::default() };
    let base = Inputs { listeners: vec![listener], gateway_class_name: "tidegate".into(), place, ..Inputs::default() };
    let started = cluster::start(&client, &options, base, None, metrics);
    tokio::time::timeout(PATIENCE, started).await.expect("it starts in time").expect("it starts")
}

impl Bed {
    async fn new(timing: Timing) -> Self {
        Self::on(ApiServer::start(), timing).await
    }

    /// On a server that serves one route with one endpoint and whatever the test has put there.
    async fn on(server: ApiServer, timing: Timing) -> Self {
        server.put(ROUTES, route("a"));
        server.put(SERVICES, service("web"));
        server.put(SLICES, slice("web", &["10.0.0.1"], 8080));
        let metrics = metrics();
        let updates = start(&server, timing, &metrics).await;
        Self { server, metrics, updates }
    }

    fn routes(&self) -> BTreeSet<String> {
        self.updates.borrow().inputs.objects.routes.keys().map(|name| name.name.to_string()).collect()
    }

    /// Waits for a state.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Update) -> bool) {
        let reached = self.updates.wait_for(|update| is_so(update));
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        let is_reached = matches!(reached, Ok(Ok(_)));
        drop(reached);
        assert!(is_reached, "waited for {what}: {:?}", self.routes());
    }

    async fn until_routes(&mut self, expected: &[&str]) {
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        self.until(&format!("{expected:?}"), |update| {
            let routes = update.inputs.objects.routes.keys();
            routes.map(|name| name.name.as_ref()).collect::<BTreeSet<_>>() == expected
        })
        .await;
    }

    /// A value of the metrics page, by name and labels as written there; 0 where there is none.
    fn metric(&self, series: &str) -> f64 {
        let page = self.metrics.render();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    fn restarts(&self, kind: &str, cause: Restart) -> f64 {
        let cause = cause.as_str();
        self.metric(&format!("tidegate_watch_restarts_total{{kind=\"{kind}\",cause=\"{cause}\"}}"))
    }

    /// Whatever the cause.
    fn all_restarts(&self, kind: &str) -> f64 {
        let begin = format!("tidegate_watch_restarts_total{{kind=\"{kind}\"");
        let page = self.metrics.render();
        let values = page.lines().filter(|line| line.starts_with(&begin)).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    async fn until_metric(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "waited for {what}: {}", self.metrics.render());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The simulator behaves as the cases say that a real API server does.
#[test]
fn the_simulator_keeps_the_contract() {
    let server = ApiServer::start();
    api_contract::run(server.address.port(), "default");
}

#[tokio::test]
async fn what_changes_is_followed() {
    let mut bed = Bed::new(quick()).await;
    assert_eq!(bed.routes(), BTreeSet::from(["a".to_owned()]));
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    bed.server.delete(ROUTES, "ns", "a");
    bed.until_routes(&["b"]).await;
    let mut changed = route("b");
    changed["spec"]["hostnames"] = json!(["other.test"]);
    bed.server.put(ROUTES, changed);
    bed.until("the other name", |update| {
        update.inputs.objects.routes.values().all(|route| route.object.spec.hostnames == ["other.test"])
    })
    .await;
    assert_eq!(bed.server.asked(ROUTES), [Asked::Stream], "the list goes on as the watch");
}

/// What thousands of clients cost an API server when they begin is requests.
#[tokio::test]
async fn each_kind_takes_one_request_to_begin() {
    let mut bed = Bed::new(quick()).await;
    for (plural, object) in [(ROUTES, route("b")), (SERVICES, service("other")), (SLICES, slice("other", &[], 80))] {
        bed.server.put(plural, object);
    }
    bed.until("what came later", |update| {
        let objects = &update.inputs.objects;
        [objects.routes.len(), objects.services.len(), objects.slices.len()] == [2; 3]
    })
    .await;
    for plural in [ROUTES, SERVICES, SLICES, GRANTS, POLICIES, "namespaces"] {
        assert_eq!(bed.server.asked(plural), [Asked::Stream], "{plural}");
    }
}

#[tokio::test]
async fn what_changes_during_a_list_comes_behind_it_in_the_same_stream() {
    let server = ApiServer::start();
    server.fault(ROUTES, On::Stream, 1, Fault::PutMeanwhile(ROUTES, Box::new(route("b"))));
    let mut bed = Bed::on(server, quick()).await;
    bed.until_routes(&["a", "b"]).await;
    assert_eq!(bed.server.asked(ROUTES), [Asked::Stream]);
    assert_eq!(bed.all_restarts("GatewayRoute"), 0.0);
}

/// What an API server has in memory is enough to begin with; whoever has read something must not read what is older.
#[tokio::test]
async fn only_the_first_list_may_be_as_old_as_the_copy_of_the_api_server() {
    let mut bed = Bed::new(Timing { begins_with_copy: true, ..quick() }).await;
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    bed.server.interrupt(ROUTES, Some(410));
    bed.until_metric("it is noticed", |bed| bed.restarts("GatewayRoute", Restart::Expired) == 1.0).await;
    bed.server.delete(ROUTES, "ns", "a");
    bed.until_routes(&["b"]).await;
    assert_eq!(bed.server.asked(ROUTES), [Asked::Copy, Asked::Stream]);
}

/// Nothing has come since the list: the watch that takes its place goes on from there, and there is no second list.
#[tokio::test]
async fn a_stream_that_breaks_off_behind_its_list_is_gone_on_with() {
    let ends: [fn(&ApiServer); 2] =
        [|server| server.fault(ROUTES, On::Stream, 1, Fault::EndAtMark), |server| server.interrupt(ROUTES, None)];
    for (number, end) in ends.into_iter().enumerate() {
        let server = ApiServer::start();
        let is_before = number == 0;
        if is_before {
            end(&server);
        }
        let mut bed = Bed::on(server, quick()).await;
        if !is_before {
            end(&bed.server);
        }
        bed.until_metric("it is noticed", |bed| bed.restarts("GatewayRoute", Restart::Broken) == 1.0).await;
        bed.server.put(ROUTES, route("b"));
        bed.until_routes(&["a", "b"]).await;
        assert_eq!(bed.server.asked(ROUTES), [Asked::Stream, Asked::Watch]);
        assert_eq!(bed.all_restarts("GatewayRoute"), 1.0);
    }
}

/// A failure behind the list is one of a watch: it says nothing against lists as streams.
async fn fail_behind_the_list(code: u16, cause: Restart, asked: [Asked; 2]) {
    let mut bed = Bed::new(quick()).await;
    let log = Logged::new();
    bed.server.interrupt(ROUTES, Some(code));
    bed.until_metric("it is noticed", |bed| bed.restarts("GatewayRoute", cause) == 1.0).await;
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    assert_eq!(bed.server.asked(ROUTES), asked);
    let said = log.lines(&["GatewayRoute: the watch failed: watch: "]).len();
    assert_eq!(said, usize::from(cause == Restart::Refused), "{:?}", log.lines(&[]));
}

#[tokio::test]
async fn a_state_that_expires_behind_a_list_is_listed_again() {
    fail_behind_the_list(410, Restart::Expired, [Asked::Stream, Asked::Stream]).await;
}

#[tokio::test]
async fn a_refusal_behind_a_list_is_one_of_a_watch() {
    fail_behind_the_list(500, Restart::Refused, [Asked::Stream, Asked::Watch]).await;
}

/// A list may take longer than a watch lasts, and its stream is followed for the time of a watch all the same, and left then.
#[tokio::test]
async fn a_list_that_takes_longer_than_a_watch_is_not_cut() {
    let server = ApiServer::start();
    server.put_all(ROUTES, (0..50).map(|number| route(&format!("r{number}"))));
    server.fault(ROUTES, On::Stream, 1, Fault::Slow(Duration::from_millis(60)));
    let mut bed = Bed::on(server, Timing { watch_seconds: 2..=2, ..quick() }).await;
    let listed = Instant::now();
    assert_eq!((bed.routes().len(), bed.server.asked(ROUTES)), (51, vec![Asked::Stream]));
    bed.server.put(ROUTES, route("b"));
    bed.until("the new one", |update| update.inputs.objects.routes.len() == 52).await;
    bed.until_metric("a watch", |bed| bed.server.asked(ROUTES).len() > 1).await;
    let followed = listed.elapsed();
    assert!((Duration::from_millis(1_500)..Duration::from_secs(10)).contains(&followed), "{followed:?}");
    bed.server.put(ROUTES, route("c"));
    bed.until("another one", |update| update.inputs.objects.routes.len() == 53).await;
    assert_eq!(bed.server.asked(ROUTES)[..2], [Asked::Stream, Asked::Watch]);
    assert_eq!(bed.all_restarts("GatewayRoute"), 0.0);
}

/// What is no change for a compilation is none: a status, an annotation, the same object again.
#[tokio::test]
async fn what_is_no_change_is_not_told() {
    let mut bed = Bed::new(quick()).await;
    bed.updates.mark_unchanged();
    let mut same = route("a");
    same["metadata"]["annotations"] = json!({ "other": "text" });
    same["status"] = json!({ "parents": [] });
    bed.server.put(ROUTES, same);
    // Behind it in the same watch.
    bed.server.put(ROUTES, route("b"));
    bed.updates.changed().await.unwrap();
    assert_eq!(bed.routes().len(), 2, "the first change that is told is the second one");
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_listed_in_pages_at_once() {
    let server = ApiServer::start();
    server.refuse_streaming_lists();
    let many: Vec<String> = (0..1200).map(|number| format!("r{number:04}")).collect();
    server.put_all(ROUTES, many.iter().map(|name| route(name)));
    let began = Instant::now();
    let mut bed = Bed::on(server, Timing::default()).await;
    assert!(began.elapsed() < Duration::from_secs(20), "no pause: {:?}", began.elapsed());
    assert_eq!(bed.routes().len(), 1201);
    assert_eq!(bed.server.asked(ROUTES)[..4], [Asked::Stream, Asked::Page, Asked::Page, Asked::Page]);
    // It is remembered.
    bed.server.compact(ROUTES);
    bed.server.interrupt(ROUTES, None);
    bed.server.put(ROUTES, route("new"));
    bed.until("the new one", |update| update.inputs.objects.routes.len() == 1202).await;
    assert_eq!(bed.server.asked(ROUTES).iter().filter(|asked| **asked == Asked::Stream).count(), 1);
}

/// What an API server says that cannot do something for a moment is nothing that it never can.
#[tokio::test]
async fn a_failure_of_the_server_ends_no_streaming_of_lists() {
    let server = ApiServer::start();
    server.fault(ROUTES, On::Stream, 1, Fault::Answer(503, None));
    let mut bed = Bed::on(server, quick()).await;
    bed.server.interrupt(ROUTES, Some(410));
    bed.until_metric("it is noticed", |bed| bed.restarts("GatewayRoute", Restart::Expired) == 1.0).await;
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    assert_eq!(bed.server.asked(ROUTES), [Asked::Stream, Asked::Page, Asked::Watch, Asked::Stream]);
}

/// A kind is not served when none of its versions is, however many requests have failed before.
#[tokio::test]
async fn each_version_of_a_kind_is_asked_for_after_failures_too() {
    let server = ApiServer::start();
    server.put(GRANTS, json!({ "metadata": { "namespace": "ns", "name": "it" }, "spec": { "from": [], "to": [] } }));
    // Two lists fail, as streams and in pages, and then the first version is not there.
    server.fault(GRANTS, On::Any, 4, Fault::Answer(500, None));
    server.fault(GRANTS, On::Any, 1, Fault::Answer(404, None));
    let bed = Bed::on(server, quick()).await;
    assert_eq!(bed.restarts("ReferenceGrant", Restart::NotServed), 1.0);
    assert_eq!(bed.updates.borrow().inputs.objects.grants.len(), 1, "the first state has what the second version has");
}

/// Each fault, at the first list and in the middle of the life of a watch.
#[tokio::test]
async fn after_any_failure_the_state_is_that_of_the_server() {
    for (fault, cause) in [
        (Fault::Answer(410, None), Restart::Expired),
        (Fault::Answer(504, None), Restart::Expired),
        (Fault::Answer(500, None), Restart::Refused),
        (Fault::Answer(429, Some(1)), Restart::Throttled),
        (Fault::Answer(403, None), Restart::Forbidden),
        (Fault::Answer(404, None), Restart::NotServed),
        (Fault::Cut, Restart::Broken),
        (Fault::Stall, Restart::Silent),
        (Fault::Hang, Restart::Silent),
        (Fault::ErrorEvent(410), Restart::Expired),
        (Fault::ErrorEvent(500), Restart::Refused),
    ] {
        println!("{fault:?}");
        let server = ApiServer::start();
        for on in [On::Stream, On::Page] {
            server.fault(ROUTES, on, 2, fault.clone());
        }
        let mut timing = quick();
        timing.watch_seconds = 2..=2;
        let mut bed = Bed::on(server, timing).await;
        // A refused list as a stream is no failure: it comes in pages.
        let is_listed_otherwise = matches!(fault, Fault::ErrorEvent(500));
        let count = bed.restarts("GatewayRoute", cause);
        assert!(count >= 1.0 || is_listed_otherwise, "{fault:?} at the list: {}", bed.metrics.render());
        bed.server.heal(ROUTES);
        let before = bed.restarts("GatewayRoute", cause);
        bed.server.fault(ROUTES, On::Watch, 1, fault.clone());
        bed.server.interrupt(ROUTES, None);
        bed.server.put(ROUTES, route("b"));
        bed.server.delete(ROUTES, "ns", "a");
        let began = Instant::now();
        bed.until_routes(&["b"]).await;
        assert!(began.elapsed() < Duration::from_secs(30), "{fault:?}: {:?}", began.elapsed());
        bed.until_metric("the count", |bed| bed.restarts("GatewayRoute", cause) > before).await;
    }
}

/// There are thousands of sidecars, and Gateway API need not be installed.
#[tokio::test]
async fn a_kind_of_others_that_is_not_served_is_asked_for_as_seldom_as_wanted() {
    for (pause, is_seldom) in [(Duration::from_secs(3600), true), (Duration::from_millis(20), false)] {
        let server = ApiServer::start();
        server.remove_kind(GRANTS);
        let timing = Timing { not_served_pause: pause, watch_seconds: 1..=1, ..quick() };
        let bed = Bed::on(server, timing).await;
        // Each of the two versions is asked for first, and the first one once more.
        let failed = |bed: &Bed| bed.restarts("ReferenceGrant", Restart::NotServed);
        bed.until_metric("it was looked for", |bed| failed(bed) >= 3.0).await;
        let services = bed.server.asked(SERVICES).len();
        bed.until_metric("seconds", |bed| bed.server.asked(SERVICES).len() > services + 3).await;
        assert_eq!(failed(&bed) == 3.0, is_seldom, "{pause:?}: {}", failed(&bed));
    }
}

/// A start in a cluster without Gateway API waits for no pause.
#[tokio::test]
async fn all_versions_of_a_kind_are_asked_for_without_a_pause() {
    let server = ApiServer::start();
    server.remove_kind(GRANTS);
    let long = Duration::from_secs(3600);
    let bed = Bed::on(server, Timing { first_pause: long, longest_pause: long, ..quick() }).await;
    assert_eq!(bed.restarts("ReferenceGrant", Restart::NotServed), 2.0);
}

/// An event of any status ends a running watch, and nothing is lost.
#[tokio::test]
async fn errors_inside_a_watch_lose_nothing() {
    let mut bed = Bed::new(quick()).await;
    let mut expected = vec!["a".to_owned()];
    for code in [410, 500, 403, 429, 504] {
        bed.server.interrupt(ROUTES, Some(code));
        let name = format!("after-{code}");
        bed.server.put(ROUTES, route(&name));
        expected.push(name);
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        bed.until_routes(&expected).await;
    }
}

#[tokio::test]
async fn a_watch_that_says_nothing_is_given_up() {
    let mut bed = Bed::new(Timing { watch_seconds: 3..=3, ..quick() }).await;
    bed.server.deliver(ROUTES, Delivery::Stalled);
    bed.server.put(ROUTES, route("b"));
    bed.until_metric("a watch that is given up", |bed| bed.restarts("GatewayRoute", Restart::Silent) > 0.0).await;
    assert!(bed.metric("tidegate_watch_age_seconds{kind=\"GatewayRoute\"}") > 2.0);
    // No Secret is named, so that none is watched: nothing is old, and no alert says so.
    assert_eq!(bed.metric("tidegate_watch_age_seconds{kind=\"Secret\"}"), 0.0);
    assert_eq!(bed.routes().len(), 1);
    bed.server.heal(ROUTES);
    bed.until_routes(&["a", "b"]).await;
    bed.until_metric("an age that falls", |bed| bed.metric("tidegate_watch_age_seconds{kind=\"GatewayRoute\"}") < 2.0)
        .await;
}

#[tokio::test]
async fn lost_events_are_repaired_by_the_next_list() {
    let timing = Timing { watch_seconds: 1..=1, relist: Duration::from_secs(3), ..quick() };
    let mut bed = Bed::new(timing).await;
    bed.server.deliver(ROUTES, Delivery::Lossy);
    bed.server.put(ROUTES, route("b"));
    bed.server.put(ROUTES, route("c"));
    bed.server.delete(ROUTES, "ns", "a");
    bed.until_routes(&["b", "c"]).await;
    assert!(bed.restarts("GatewayRoute", Restart::Relist) >= 1.0);
}

#[tokio::test]
async fn repeated_and_reordered_events_change_nothing_in_the_end() {
    for delivery in [Delivery::Twice, Delivery::Reversed] {
        let mut bed = Bed::new(quick()).await;
        bed.server.deliver(ROUTES, delivery);
        let last = route("b");
        let mut first = route("b");
        first["spec"]["hostnames"] = json!(["first.test"]);
        bed.server.put_all(ROUTES, [first, last, route("c")]);
        bed.until_routes(&["a", "b", "c"]).await;
        bed.until("the last version", |update| {
            update
                .inputs
                .objects
                .routes
                .iter()
                .any(|(name, route)| &*name.name == "b" && route.object.spec.hostnames == ["b.test"])
        })
        .await;
        let disordered = bed.restarts("GatewayRoute", Restart::Disordered) > 0.0;
        assert_eq!(disordered, delivery == Delivery::Reversed);
    }
}

/// The data are restored from an earlier time: versions fall, and objects that came later are gone.
#[tokio::test]
async fn versions_that_fall_are_noticed() {
    let mut bed = Bed::new(Timing { watch_seconds: 2..=2, removals_held: Duration::ZERO, ..quick() }).await;
    let version = bed.server.version();
    for number in 0..5 {
        bed.server.put(ROUTES, route(&format!("late{number}")));
    }
    bed.until("all", |update| update.inputs.objects.routes.len() == 6).await;
    bed.server.lose_all(ROUTES);
    bed.server.go_back_to(version - 3);
    bed.server.put(ROUTES, route("restored"));
    bed.until_routes(&["restored"]).await;
}

#[tokio::test]
async fn half_a_list_takes_nothing_away() {
    let server = ApiServer::start();
    server.put_all(ROUTES, (0..40).map(|number| route(&format!("r{number}"))));
    let mut bed = Bed::on(server, quick()).await;
    for on in [On::Stream, On::Page] {
        bed.server.fault(ROUTES, on, 5, Fault::Cut);
    }
    bed.server.compact(ROUTES);
    bed.server.interrupt(ROUTES, None);
    bed.until_metric("broken lists", |bed| bed.restarts("GatewayRoute", Restart::Broken) >= 4.0).await;
    assert_eq!(bed.routes().len(), 41, "the list is not whole");
    bed.server.heal(ROUTES);
    bed.server.put(ROUTES, route("new"));
    bed.until("the new one", |update| update.inputs.objects.routes.len() == 42).await;
}

#[tokio::test]
async fn a_slow_list_is_waited_for() {
    for streams in [true, false] {
        let server = ApiServer::start();
        if !streams {
            server.refuse_streaming_lists();
        }
        server.put_all(ROUTES, (0..50).map(|number| route(&format!("r{number}"))));
        server.fault(ROUTES, On::List, usize::MAX, Fault::Slow(Duration::from_millis(30)));
        let bed = Bed::on(server, quick()).await;
        assert_eq!(bed.routes().len(), 51, "it starts with all of them");
    }
}

#[tokio::test]
async fn a_kind_that_is_removed_keeps_what_was_read_and_comes_back() {
    let mut bed = Bed::new(quick()).await;
    bed.server.remove_kind(ROUTES);
    bed.until_metric("a kind that is away", |bed| bed.metric("tidegate_watch_available{kind=\"GatewayRoute\"}") == 0.0)
        .await;
    bed.server.put(SERVICES, service("other"));
    bed.until("other kinds go on", |update| update.inputs.objects.services.len() == 2).await;
    assert_eq!(bed.routes().len(), 1);
    bed.server.heal(ROUTES);
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    assert!(bed.metric("tidegate_watch_available{kind=\"GatewayRoute\"}") == 1.0);
}

/// The definition is removed by mistake and comes back: routes that are deleted with it serve until they are back.
#[tokio::test]
async fn routes_outlive_a_definition_that_is_removed_and_comes_back() {
    let mut bed = Bed::new(quick()).await;
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    bed.server.remove_definition(ROUTES);
    bed.server.remove_kind(ROUTES);
    bed.until_metric("a kind that is away", |bed| bed.restarts("GatewayRoute", Restart::NotServed) > 2.0).await;
    assert_eq!(bed.routes().len(), 2);
    bed.server.restore_definition();
    bed.server.put_all(ROUTES, [route("a"), route("b"), route("c")]);
    bed.server.heal(ROUTES);
    bed.until_routes(&["a", "b", "c"]).await;
    bed.server.delete(ROUTES, "ns", "a");
    bed.until_routes(&["b", "c"]).await;
}

/// While the definition is being removed a list has only some of the routes, which says nothing about the others.
#[tokio::test]
async fn a_list_during_the_removal_of_a_definition_takes_nothing_away() {
    let mut bed = Bed::new(quick()).await;
    bed.server.put_all(ROUTES, [route("b"), route("c")]);
    bed.until_routes(&["a", "b", "c"]).await;
    bed.server.begin_to_remove_definition();
    bed.server.deliver(ROUTES, Delivery::Stalled);
    bed.server.delete(ROUTES, "ns", "a");
    bed.server.compact(ROUTES);
    bed.server.interrupt(ROUTES, Some(410));
    bed.until_metric("lists that do not count", |bed| bed.restarts("GatewayRoute", Restart::NotServed) > 2.0).await;
    assert_eq!(bed.routes().len(), 3);
    assert_eq!(bed.metric("tidegate_watch_available{kind=\"GatewayRoute\"}"), 0.0);
    // It is there again, and so is one of the routes: the others may follow.
    bed.server.restore_definition();
    bed.server.heal(ROUTES);
    bed.server.put(ROUTES, route("d"));
    bed.until_routes(&["a", "b", "c", "d"]).await;
    assert_eq!(bed.metric("tidegate_watch_removals_held{kind=\"GatewayRoute\"}"), 1.0);
    bed.server.put(ROUTES, route("a"));
    bed.until_metric("the last one", |bed| bed.metric("tidegate_watch_removals_held{kind=\"GatewayRoute\"}") == 0.0)
        .await;
}

/// A failure that lasts is one line, and its end is one; two that take turns are two.
#[test]
fn each_failure_is_one_clear_line() {
    /// What breaks, the kind, the words of each line, how many lines.
    type Case = (fn(&ApiServer), &'static str, &'static [&'static str], usize);
    const ALWAYS: usize = usize::MAX;
    let cases: &[Case] = &[
        (
            |server| server.forbid(SLICES),
            "EndpointSlice",
            &[
                "ERROR",
                "may not be listed and watched",
                "expected a role with list and watch",
                "what was read before stays",
            ],
            1,
        ),
        (
            |server| server.remove_kind(ROUTES),
            "GatewayRoute",
            &[
                "ERROR",
                "does not serve this kind",
                "expected its CustomResourceDefinition",
                "what was read before stays",
            ],
            1,
        ),
        (
            |server| server.remove_kind(SERVICES),
            "Service",
            &["ERROR", "does not serve v1", "expected a newer Kubernetes", "what was read before stays"],
            1,
        ),
        (
            |server| {
                server.fault(SERVICES, On::Any, ALWAYS, Fault::Answer(500, None));
                server.interrupt(SERVICES, None);
            },
            "Service",
            &["WARN", "the watch failed", "trying again", "what was read before stays"],
            1,
        ),
        (
            |server| {
                for _ in 0..20 {
                    server.fault(SERVICES, On::Any, 1, Fault::Answer(500, None));
                    server.fault(SERVICES, On::Any, 1, Fault::Answer(429, None));
                }
                server.interrupt(SERVICES, None);
            },
            "Service",
            &["WARN", "the watch failed", "trying again", "what was read before stays"],
            2,
        ),
    ];
    for (break_it, kind, words, lines) in cases {
        // Each on a runtime of its own, with which all that follows the server ends.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bed = Bed::new(quick()).await;
            let log = Logged::new();
            break_it(&bed.server);
            bed.until_metric("more than one failure", |bed| bed.all_restarts(kind) > 5.0).await;
            let begin = format!("{kind}: ");
            let mut told = words.to_vec();
            told.push(&begin);
            let found = log.lines(&told);
            assert_eq!((found.len(), log.lines(&[&begin]).len()), (*lines, *lines), "{:?}", log.lines(&[]));
            println!("{}", found[0]);
            for plural in [ROUTES, SERVICES, SLICES] {
                bed.server.heal(plural);
            }
            bed.until_metric("its end", |_| !log.lines(&[&begin, "read again"]).is_empty()).await;
            assert_eq!(log.lines(&[&begin]).len(), lines + 1, "{:?}", log.lines(&[]));
        });
    }
}

#[tokio::test]
async fn an_api_server_that_is_too_old_is_named() {
    let log = Logged::new();
    let server = ApiServer::start();
    server.set_git_version("v1.30.2");
    let bed = Bed::on(server, quick()).await;
    let words = ["WARN", "the API server is Kubernetes v1.30.2; expected 1.33 or newer"];
    bed.until_metric("the line", |_| !log.lines(&words).is_empty()).await;
    assert_eq!(log.lines(&["the API server is"]).len(), 1);
}

/// The process ends at once, and one line says which file is broken and how.
#[test]
fn a_broken_kubeconfig_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = |server: &str, context: &str| {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{ "name": "test", "cluster": { "server": server } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "users": [{ "name": "test", "user": {} }],
        })
        .to_string()
    };
    let cases = [
        ("no YAML", "a: [".to_owned()),
        ("another context", config("http://127.0.0.1:1", "other")),
        ("no address", config("not an address", "test")),
        ("nothing in it", String::new()),
    ];
    for (what, text) in cases {
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["controller", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--kubeconfig"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        println!("{what}: {said}");
        assert!(!output.status.success(), "{what}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("kubeconfig")).collect();
        assert_eq!(lines.len(), 1, "{what}: {said}");
        assert!(lines[0].contains(path.to_str().unwrap()) && lines[0].contains("cannot be used: "), "{what}: {said}");
    }
}

#[tokio::test]
async fn a_permission_that_is_withdrawn_keeps_what_was_read() {
    let mut bed = Bed::new(quick()).await;
    bed.server.forbid(SLICES);
    bed.until_metric("a kind that is forbidden", |bed| bed.restarts("EndpointSlice", Restart::Forbidden) > 1.0).await;
    assert_eq!(bed.updates.borrow().inputs.objects.slices.len(), 1);
    bed.server.heal(SLICES);
    bed.server.put(SLICES, slice("other", &["10.0.0.2"], 80));
    bed.until("the other slice", |update| update.inputs.objects.slices.len() == 2).await;
}

#[tokio::test]
async fn kinds_that_are_not_needed_hold_nothing_up() {
    for is_forbidden in [true, false] {
        let server = ApiServer::start();
        if is_forbidden {
            server.forbid(GRANTS);
            server.forbid("namespaces");
        } else {
            server.remove_kind(GRANTS);
        }
        let bed = Bed::on(server, quick()).await;
        assert_eq!(bed.metric("tidegate_watch_available{kind=\"ReferenceGrant\"}"), 0.0);
        assert_eq!(bed.metric("tidegate_watch_available{kind=\"GatewayRoute\"}"), 1.0);
    }
}

#[tokio::test]
async fn objects_that_do_not_parse_are_told_and_the_rest_is_served() {
    let server = ApiServer::start();
    for (number, spec) in [json!({ "rules": 5 }), json!(null), json!([]), json!({ "rules": [{ "matches": "no" }] })]
        .into_iter()
        .enumerate()
    {
        server.put(ROUTES, json!({ "metadata": { "namespace": "ns", "name": format!("bad{number}") }, "spec": spec }));
    }
    server.put(SERVICES, json!({ "metadata": { "namespace": "ns", "name": "bad" }, "spec": "no" }));
    server.put(SLICES, json!({ "metadata": { "namespace": "ns", "name": "bad" }, "endpoints": [{ "addresses": 5 }] }));
    let mut bed = Bed::on(server, quick()).await;
    assert!(bed.routes().contains("a"));
    let told = |update: &Update| update.diagnostics.iter().filter_map(|it| it.object.as_ref()).count();
    assert!(told(&bed.updates.borrow()) >= 5, "{:?}", bed.updates.borrow().diagnostics);
    // One that was good and becomes bad keeps its last good version.
    bed.server.put(ROUTES, json!({ "metadata": { "namespace": "ns", "name": "a" }, "spec": { "rules": 5 } }));
    bed.until("a diagnostic", |update| {
        update.diagnostics.iter().any(|it| it.effect == "its last good version stays active")
    })
    .await;
    assert!(bed.routes().contains("a"));
}

#[tokio::test]
async fn endpoints_out_of_range_are_skipped_and_counted() {
    let server = ApiServer::start();
    for (number, (address, port)) in
        [("10.0.0.7", 0), ("10.0.0.7", -1), ("10.0.0.7", 65536), ("300.0.0.1", 80), ("127.0.0.1", 80)]
            .iter()
            .enumerate()
    {
        let mut bad = slice("web", &[address], *port);
        bad["metadata"]["name"] = format!("bad-{number}").into();
        server.put(SLICES, bad);
    }
    let bed = Bed::on(server, quick()).await;
    let output = compile(&bed.updates.borrow().inputs);
    let warned: BTreeSet<String> = output
        .diagnostics
        .iter()
        .filter_map(|it| it.object.as_ref())
        .filter(|it| it.kind == "EndpointSlice")
        .map(|it| it.name.name.to_string())
        .collect();
    assert_eq!(warned.len(), 5, "{:?}", output.diagnostics);
    let endpoints: Vec<String> = output
        .snapshot
        .backends
        .iter()
        .flat_map(|backend| backend.endpoints.iter())
        .map(|it| it.key.addr.to_string())
        .collect();
    assert_eq!(endpoints, ["10.0.0.1:8080"]);
}

#[tokio::test]
async fn a_server_that_is_away_takes_nothing_along() {
    let mut bed = Bed::new(quick()).await;
    let lists = |bed: &Bed| bed.server.asked(ROUTES).iter().filter(|asked| **asked != Asked::Watch).count();
    let before = lists(&bed);
    bed.server.set_down(true);
    bed.until_metric("failures", |bed| bed.restarts("GatewayRoute", Restart::Broken) >= 5.0).await;
    assert_eq!(bed.routes().len(), 1);
    bed.server.put(ROUTES, route("b"));
    bed.server.put(SERVICES, service("other"));
    bed.server.delete(SERVICES, "ns", "web");
    bed.server.set_down(false);
    bed.until_routes(&["a", "b"]).await;
    bed.until("the Service that is gone", |update| {
        update.inputs.objects.services.keys().map(|name| &*name.name).eq(["other"])
    })
    .await;
    assert!(lists(&bed) <= before + 1, "at most one list: {:?}", bed.server.asked(ROUTES));
}

#[tokio::test]
async fn a_server_that_lost_its_data_is_not_believed_at_once() {
    let server = ApiServer::start();
    let names: Vec<String> = (0..30).map(|number| format!("r{number}")).collect();
    server.put_all(ROUTES, names.iter().map(|name| route(name)));
    let held = Duration::from_secs(4);
    let mut bed = Bed::on(server, Timing { removals_held: held, ..quick() }).await;
    // Wiped, and filled again: nothing is ever missing.
    let lose = |bed: &Bed| {
        for kind in [ROUTES, SLICES, SERVICES] {
            bed.server.lose_all(kind);
            bed.server.interrupt(kind, None);
        }
    };
    lose(&bed);
    bed.until_metric("doubt", |bed| bed.metric("tidegate_watch_removals_held{kind=\"GatewayRoute\"}") == 31.0).await;
    let refilled = async |bed: &Bed| {
        bed.server.put_all(ROUTES, names.iter().map(|name| route(name)).chain([route("a")]));
        bed.server.put(SERVICES, service("web"));
        bed.server.put(SLICES, slice("web", &["10.0.0.1"], 8080));
        bed.until_metric("no doubt", |bed| {
            ["GatewayRoute", "Service", "EndpointSlice"]
                .iter()
                .all(|kind| bed.metric(&format!("tidegate_watch_removals_held{{kind=\"{kind}\"}}")) == 0.0)
        })
        .await;
    };
    refilled(&bed).await;
    assert_eq!(bed.routes().len(), 31);
    let is_whole = |update: &Update| {
        let objects = &update.inputs.objects;
        objects.routes.len() == 31 && objects.services.len() == 1 && objects.slices.len() == 1
    };
    assert!(is_whole(&bed.updates.borrow()));
    // Wiped, and left so: removed after the time, and not before.
    lose(&bed);
    let began = Instant::now();
    bed.until("removal", |update| update.inputs.objects.routes.is_empty()).await;
    assert!(began.elapsed() >= held, "{:?}", began.elapsed());
    bed.until("removal of the rest", |update| {
        update.inputs.objects.services.is_empty() && update.inputs.objects.slices.is_empty()
    })
    .await;
}

/// The process starts again while the API server is away: what was known serves, and later what is so.
#[tokio::test]
async fn what_was_known_before_a_restart_serves_while_the_server_is_away() {
    let mut bed = Bed::new(quick()).await;
    bed.server.put(ROUTES, route("b"));
    bed.until_routes(&["a", "b"]).await;
    assert_eq!(bed.metric("tidegate_config_source{source=\"cluster\"}"), 1.0);
    let kept = bed.server.folder().join("cache/GatewayRoute.ndjson");
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&kept).unwrap_or_default().contains("b.test") {
        assert!(Instant::now() < deadline, "it is written down");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.server.set_down(true);
    let Bed { server, updates, .. } = bed;
    drop(updates);
    let metrics = metrics();
    let timing = Timing { cache_after: Duration::from_millis(300), ..quick() };
    let updates = start(&server, timing, &metrics).await;
    let mut bed = Bed { server, metrics, updates };
    assert_eq!(bed.routes().len(), 2);
    assert_eq!(bed.metric("tidegate_config_source{source=\"cache\"}"), 1.0);
    assert_eq!(compile(&bed.updates.borrow().inputs).snapshot.backends.len(), 1, "with its endpoints");
    // Changed meanwhile.
    bed.server.delete(ROUTES, "ns", "a");
    bed.server.put(ROUTES, route("c"));
    bed.server.set_down(false);
    bed.until_routes(&["b", "c"]).await;
    bed.until_metric("the server again", |bed| bed.metric("tidegate_config_source{source=\"cluster\"}") == 1.0).await;
}

/// Without anything that was kept it waits, as without a folder.
#[tokio::test]
async fn a_first_start_waits_for_the_server() {
    let server = ApiServer::start();
    server.put(ROUTES, route("a"));
    server.set_down(true);
    let metrics = metrics();
    let timing = Timing { cache_after: Duration::from_millis(50), ..quick() };
    let starting = start(&server, timing, &metrics);
    let mut starting = std::pin::pin!(starting);
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut starting).await.is_err());
    server.set_down(false);
    assert_eq!(starting.await.borrow().inputs.objects.routes.len(), 1);
}

/// A pod that knows its node alone asks for the node's zone, once, and serves meanwhile.
#[tokio::test]
async fn the_zone_of_the_process_is_that_of_its_node() {
    let node = |zone: Option<&str>| {
        let labels = zone.map(|zone| json!({ "topology.kubernetes.io/zone": zone }));
        json!({ "metadata": { "name": "n1", "labels": labels.unwrap_or_default() } })
    };
    let place = |zone: Option<&str>| OwnPlace { zone: zone.map(Into::into), node: Some("n1".into()) };
    let logged = Logged::new();
    let server = ApiServer::start();
    server.put("nodes", node(Some("a")));
    let mut updates = start_at(&server, quick(), &metrics(), place(None)).await;
    let found = updates.wait_for(|update| update.inputs.place.zone.is_some());
    let found = tokio::time::timeout(PATIENCE, found).await.unwrap().unwrap().inputs.place.clone();
    assert_eq!(found, place(Some("a")));
    assert_eq!(logged.lines(&["this process is in the zone a", "n1"]).len(), 1);

    // What the operator says counts.
    let updates = start_at(&server, quick(), &metrics(), place(Some("b"))).await;
    assert_eq!(updates.borrow().inputs.place, place(Some("b")));

    // A server that cannot answer is asked again.
    server.set_down(true);
    let metrics = metrics();
    let starting = start_at(&server, quick(), &metrics, place(None));
    let back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.set_down(false);
    };
    let (mut updates, ()) = tokio::join!(starting, back);
    let found = updates.wait_for(|update| update.inputs.place.zone.as_deref() == Some("a"));
    drop(tokio::time::timeout(PATIENCE, found).await.unwrap().unwrap());
}

/// Whatever is the matter with the node, it is said once, and everything serves.
#[tokio::test]
async fn without_its_zone_the_process_serves_all_the_same() {
    let place = OwnPlace { zone: None, node: Some("n1".into()) };
    let logged = Logged::new();
    for (words, nodes, is_forbidden) in [
        (&["the node n1 is not known", "--node or NODE_NAME", "--zone"][..], None, false),
        (&["the node n1 may not be read", "expected a role with get of nodes", "--zone"], None, true),
        (&["the node n1 has no zone", "found no label topology.kubernetes.io/zone"], Some(json!({})), false),
    ] {
        let server = ApiServer::start();
        server.put(ROUTES, route("a"));
        if let Some(labels) = nodes {
            server.put("nodes", json!({ "metadata": { "name": "n1", "labels": labels } }));
        }
        if is_forbidden {
            server.forbid("nodes");
        }
        let updates = start_at(&server, quick(), &metrics(), place.clone()).await;
        let said = async {
            while logged.lines(words).is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("{words:?} is never said"));
        assert_eq!(logged.lines(words).len(), 1, "{words:?}");
        let update = updates.borrow();
        assert_eq!((update.inputs.place.zone.as_deref(), update.inputs.objects.routes.len()), (None, 1));
    }
}

/// A policy for the Service `web`, with an entry of another controller in its status.
fn policy(authorities: Value, generation: i64) -> Value {
    json!({ "metadata": { "namespace": "ns", "name": "web", "generation": generation },
        "spec": { "targetRefs": [{ "group": "", "kind": "Service", "name": "web" }], "validation": authorities },
        "status": { "ancestors": [{ "controllerName": "other.example/x", "ancestorRef": { "name": "a" }, "conditions": [] }] } })
}

/// Controller and reason of Accepted for each entry of the policy.
fn entries(server: &ApiServer) -> Vec<(String, String)> {
    let policy = server.get(POLICIES, "ns", "web");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = policy["status"]["ancestors"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|one| (text(&one["controllerName"]), text(&one["conditions"][0]["reason"]))).collect()
}

async fn until_entries(server: &ApiServer, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(one, two)| ((*one).to_owned(), (*two).to_owned())).collect();
    let deadline = Instant::now() + PATIENCE;
    while entries(server) != expected {
        assert!(Instant::now() < deadline, "waited for {expected:?}: {:?}", entries(server));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn policies_are_told_what_became_of_them() {
    let server = ApiServer::start();
    let trusting = |known: &str| json!({ "hostname": "web.test", "wellKnownCACertificates": known });
    server.put(POLICIES, policy(trusting("System"), 1));
    let mut bed = Bed::on(server, quick()).await;
    let client = Kubernetes::new(Some(&bed.server.kubeconfig()), SILENCE).await.unwrap().client().unwrap();
    let (_sightings, seen) = mpsc::channel(1);
    let (publish, published) = watch::channel(None);
    let options = status::Options {
        lease_namespace: "ns".to_owned(),
        lease_name: "tidegate".to_owned(),
        replica: "replica".to_owned(),
        identity: Identity { controller_name: "tidegate.dev/controller".into(), gateway_class_name: "tidegate".into() },
        namespaces: Vec::new(),
    };
    let running = status::start(&client, options, Ears { sightings: seen, published }, bed.metrics.status());
    let tell = |bed: &Bed| {
        let inputs = Arc::clone(&bed.updates.borrow().inputs);
        let (statuses, policies) = (Arc::default(), compile(&inputs).policies);
        publish.send_replace(Some(Published { inputs, statuses, policies }));
    };
    tell(&bed);
    let (other, own) = (("other.example/x", ""), "tidegate.dev/controller");
    until_entries(&bed.server, &[other, (own, "Accepted")]).await;
    // Nothing has changed: nothing is written, see the count below.
    tell(&bed);
    // What cannot be followed is told, and what another controller has written meanwhile stays.
    let mut changed = policy(trusting("Mozilla"), 2);
    changed["status"]["ancestors"] = bed.server.get(POLICIES, "ns", "web")["status"]["ancestors"].take();
    bed.server.put(POLICIES, changed);
    bed.until("the change", |update| {
        update.inputs.objects.tls_policies.values().any(|policy| policy.object.generation == Some(2))
    })
    .await;
    tell(&bed);
    until_entries(&bed.server, &[other, (own, "Invalid")]).await;
    // No route leads there any more: our entry goes.
    bed.server.delete(ROUTES, "ns", "a");
    bed.until_routes(&[]).await;
    tell(&bed);
    until_entries(&bed.server, &[other]).await;
    assert_eq!(bed.metric("tidegate_status_writes_total{result=\"ok\"}"), 3.0);
    running.stop().await;
}
