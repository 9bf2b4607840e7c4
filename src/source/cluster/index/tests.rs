use serde_json::json;

use super::*;
use crate::source::hold::WINDOW;
use crate::telemetry::metrics::MetricsOptions;

const GUARD: Duration = Duration::from_secs(60);
const ROUTES: usize = 0;
const SLICES: usize = 1;
const GRANTS: usize = 2;

fn metrics() -> Arc<Metrics> {
    Metrics::new(MetricsOptions { workers: 0, listeners: Vec::new(), max_series: 0 })
}

fn index() -> Index {
    let kinds = [KindId::GatewayRoute, KindId::EndpointSlice, KindId::ReferenceGrant];
    let metrics = metrics();
    let watches = kinds.into_iter().map(|kind| (kind, true, metrics.watch(kind.name())));
    Index::new(Inputs::default(), watches, GUARD, None)
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

fn route() -> Result<Object, String> {
    let route = json!({ "apiVersion": "tidegate.dev/v1alpha1", "kind": "GatewayRoute", "metadata": {}, "spec": {} });
    KindId::GatewayRoute.hold(route).map_err(|error| error.to_string())
}

fn slice(addresses: &[&str]) -> Result<Object, String> {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    let slice = json!({ "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "endpoints": endpoints });
    KindId::EndpointSlice.hold(slice).map_err(|error| error.to_string())
}

fn routes(update: &Update) -> Vec<String> {
    update.inputs.objects.routes.keys().map(|name| name.name.to_string()).collect()
}

fn told(index: &mut Index, watch: usize, events: impl IntoIterator<Item = Event>) {
    for event in events {
        index.take(Change { watch, event });
    }
}

#[test]
fn nothing_is_whole_before_every_watch_has_listed() {
    let mut index = index();
    told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("a"), route())]);
    told(&mut index, SLICES, [Event::Init, Event::InitDone]);
    assert!(!index.is_whole());
    told(&mut index, ROUTES, [Event::InitDone]);
    assert!(!index.is_whole());
    told(&mut index, GRANTS, [Event::NotServed]);
    assert!(index.is_whole());
    assert_eq!(routes(&index.update()), ["a"]);
}

/// A definition was removed and came back, and its objects are being applied anew.
#[tokio::test(start_paused = true)]
async fn after_a_kind_was_away_what_its_first_list_lacks_stays_for_a_while() {
    let mut index = index();
    told(&mut index, ROUTES, ["a", "b", "c"].map(|it| Event::Apply(name(it), route())));
    told(&mut index, ROUTES, [Event::Away, Event::Init, Event::InitApply(name("b"), route()), Event::InitDone]);
    assert_eq!(routes(&index.update()), ["a", "b", "c"]);
    told(&mut index, ROUTES, [Event::Apply(name("a"), route())]);
    tokio::time::advance(GUARD).await;
    assert!(index.expire());
    assert_eq!(routes(&index.update()), ["a", "b"]);
    // A list that comes later counts as usual.
    told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("b"), route()), Event::InitDone]);
    assert_eq!(routes(&index.update()), ["b"]);
}

#[test]
fn a_list_replaces_the_set_at_its_end_only() {
    let mut index = index();
    told(&mut index, ROUTES, [Event::Apply(name("a"), route()), Event::Apply(name("b"), route())]);
    told(&mut index, ROUTES, [Event::Init, Event::InitApply(name("b"), route())]);
    assert_eq!(routes(&index.update()), ["a", "b"]);
    // It breaks off and begins again.
    let list = ["b", "c"].map(|it| Event::InitApply(name(it), route()));
    told(&mut index, ROUTES, [Event::Init].into_iter().chain(list).chain([Event::InitDone]));
    assert_eq!(routes(&index.update()), ["b", "c"]);
    told(&mut index, ROUTES, ["b", "c", "never"].map(|it| Event::Delete(name(it))));
    assert!(routes(&index.update()).is_empty());
}

/// A sidecar reads what its routes lead to, and these lead elsewhere now.
#[tokio::test(start_paused = true)]
async fn what_is_wanted_no_more_is_no_loss() {
    let mut index = index();
    told(&mut index, ROUTES, ["a", "b"].map(|it| Event::Apply(name(it), route())));
    told(&mut index, SLICES, [Event::Init, Event::InitApply(name("s"), slice(&["10.0.0.1"])), Event::InitDone]);
    told(&mut index, ROUTES, [Event::Selected, Event::Init, Event::InitDone]);
    assert!(routes(&index.update()).is_empty());
    // The next list counts as usual.
    told(&mut index, ROUTES, [Event::Apply(name("a"), route()), Event::Init, Event::InitDone]);
    assert_eq!(routes(&index.update()), ["a"]);
    told(&mut index, ROUTES, [Event::Unwanted]);
    assert!(routes(&index.update()).is_empty());
    assert!(!index.watches[ROUTES].is_known, "a right that is missing then closes what it is about");
    told(&mut index, SLICES, [Event::Unwanted]);
    tokio::time::advance(WINDOW).await;
    index.expire();
    assert!(index.update().inputs.objects.slices.is_empty());
}

#[test]
fn what_cannot_be_read_keeps_its_last_version_and_is_reported() {
    let mut index = index();
    let broken = || Err("rules: invalid type".to_owned());
    told(&mut index, ROUTES, [Event::Apply(name("a"), route()), Event::Apply(name("a"), broken())]);
    told(&mut index, ROUTES, [Event::Apply(name("b"), broken())]);
    let update = index.update();
    assert_eq!(routes(&update), ["a"]);
    let effects: Vec<_> = update.diagnostics.iter().map(|diagnostic| diagnostic.effect.as_str()).collect();
    assert_eq!(effects, ["its last good version stays active", "it is left out"]);
    // A new list with the same objects changes nothing about that.
    let list = [Event::Init, Event::InitApply(name("a"), broken()), Event::InitDone];
    told(&mut index, ROUTES, list);
    assert_eq!((routes(&index.update()), index.update().diagnostics.len()), (vec!["a".to_owned()], 1));
    told(&mut index, ROUTES, [Event::Apply(name("a"), route())]);
    assert!(index.update().diagnostics.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_vanishes_is_held_and_then_let_go_without_a_further_change() {
    let mut index = index();
    told(&mut index, SLICES, [Event::Init, Event::InitApply(name("s"), slice(&["10.0.0.1", "10.0.0.2"]))]);
    told(&mut index, SLICES, [Event::InitDone]);
    told(&mut index, ROUTES, [Event::InitDone]);
    told(&mut index, GRANTS, [Event::NotServed]);
    let (sender, changes) = mpsc::channel(8);
    let mut updates = index.run(changes, metrics()).await.expect("all have listed");
    let endpoints = |updates: &mut watch::Receiver<Update>| -> usize {
        let update = updates.borrow_and_update().clone();
        update.inputs.objects.slices.values().map(|slice| slice.object.endpoints.len()).sum()
    };
    assert_eq!(endpoints(&mut updates), 2);
    let began = Instant::now();
    let event = Event::Apply(name("s"), slice(&["10.0.0.2"]));
    sender.send(Change { watch: SLICES, event }).await.expect("it listens");
    updates.changed().await.expect("a change");
    assert_eq!(endpoints(&mut updates), 2, "held");
    tokio::time::timeout(Duration::from_secs(60), updates.changed()).await.expect("in time").expect("a change");
    assert_eq!(endpoints(&mut updates), 1);
    assert!(began.elapsed() >= WINDOW, "{:?}", began.elapsed());
}

/// A list of routes by number; whether it changed anything.
fn list(index: &mut Index, numbers: std::ops::Range<usize>) -> bool {
    index.take(Change { watch: ROUTES, event: Event::Init });
    for number in numbers {
        let event = Event::InitApply(name(&format!("{number:02}")), route());
        index.take(Change { watch: ROUTES, event });
    }
    index.take(Change { watch: ROUTES, event: Event::InitDone })
}

#[test]
fn a_list_that_lacks_too_much_is_doubted() {
    for (known, left, is_doubted) in [
        (1, 0, true),
        (10, 0, true),
        (10, 1, false),
        (19, 1, false),
        (20, 9, true),
        (20, 10, false),
        (20, 0, true),
        (0, 0, false),
    ] {
        let mut index = index();
        list(&mut index, 0..known);
        list(&mut index, 0..left);
        let stays = if is_doubted { known } else { left };
        assert_eq!(routes(&index.update()).len(), stays, "{left} of {known}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_doubted_goes_after_the_time_of_the_guard_and_not_before() {
    let mut index = index();
    list(&mut index, 0..30);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(!list(&mut index, 0..0));
    tokio::time::advance(Duration::from_secs(20)).await;
    // Another list that says the same gives no more time; what is new counts at once.
    assert!(list(&mut index, 40..41));
    assert_eq!(routes(&index.update()).len(), 31);
    assert_eq!(index.next_expiry(), Some(Duration::from_secs(65)));
    tokio::time::advance(Duration::from_secs(39)).await;
    assert!(!index.expire());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(index.expire());
    assert_eq!((routes(&index.update()), index.next_expiry()), (vec!["40".to_owned()], None));
}

#[tokio::test(start_paused = true)]
async fn what_was_doubted_and_comes_back_stays() {
    let mut index = index();
    list(&mut index, 0..30);
    list(&mut index, 0..0);
    // Some come back one by one, one is said to be gone, the rest comes with a list.
    told(&mut index, ROUTES, [Event::Apply(name("00"), route()), Event::Delete(name("29"))]);
    assert_eq!(routes(&index.update()).len(), 29);
    assert!(!list(&mut index, 0..29));
    assert_eq!(index.next_expiry(), None);
    tokio::time::advance(GUARD).await;
    assert!(!index.expire());
    assert_eq!(routes(&index.update()).len(), 29);
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_a_list_lacks_are_held_for_the_time_of_the_guard() {
    let mut index = index();
    told(&mut index, SLICES, [Event::Init, Event::InitApply(name("s"), slice(&["10.0.0.1"])), Event::InitDone]);
    told(&mut index, SLICES, [Event::Init, Event::InitDone]);
    tokio::time::advance(GUARD - Duration::from_millis(1)).await;
    assert!(!index.expire());
    assert_eq!(index.update().inputs.objects.slices.len(), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(index.expire());
    assert!(index.update().inputs.objects.slices.is_empty());
}

#[test]
fn what_says_nothing_new_changes_nothing() {
    let mut index = index();
    list(&mut index, 0..3);
    let before = index.update().inputs;
    assert!(!list(&mut index, 0..3));
    assert!(!index.take(Change { watch: ROUTES, event: Event::Apply(name("00"), route()) }));
    assert!(!index.take(Change { watch: ROUTES, event: Event::Delete(name("never")) }));
    assert!(before.objects.routes.is_same(&index.update().inputs.objects.routes));
    assert!(index.take(Change { watch: ROUTES, event: Event::Delete(name("00")) }));
    assert_eq!(before.objects.routes.len(), 3, "a version that was handed on stays as it was");
}
