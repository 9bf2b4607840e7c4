//! Limits of requests per time and at the same time, as layers.

use std::time::Duration;

use super::*;
use crate::model::filter::{ConcurrencyLimit, FilterList, RateLimit, RateLimitFields, StateKey};
use crate::model::ids::ObjectName;
use crate::model::request_values::RequestKey;

fn key(filter: &'static str) -> Arc<StateKey> {
    Arc::new(StateKey { route: ObjectName::new("ns", "r"), place: FilterList::Route, filter, position: 0 })
}

/// Two a second, in bursts of three.
fn rate(keys: Vec<RequestKey>) -> RateLimit {
    let fields = RateLimitFields { name: "route".into(), policy: HeaderValue::from_static("\"route\";q=2;w=1") };
    RateLimit {
        state: key("RateLimit"),
        interval: Duration::from_millis(500),
        burst: 3,
        keys,
        status: StatusCode::TOO_MANY_REQUESTS,
        shadow: false,
        fields: Some(fields),
    }
}

fn concurrency(max_in_flight: u32, max_queued: u32) -> ConcurrencyLimit {
    ConcurrencyLimit {
        state: key("ConcurrencyLimit"),
        max_in_flight,
        weight: 1,
        max_queued,
        queue_timeout: Duration::from_secs(1),
        keys: Vec::new(),
        status: StatusCode::SERVICE_UNAVAILABLE,
        shadow: false,
    }
}

/// A layer and its state, which requests go through one after the other.
struct Bed {
    registry: StateRegistry,
    layer: [Filter; 1],
    states: ListStates,
    start: Instant,
}

impl Bed {
    fn new(layer: Filter) -> Self {
        let mut registry = StateRegistry::new(1);
        let layer = [layer];
        let states = registry.of_list(&layer);
        Self { registry, layer, states, start: Instant::now() }
    }

    /// A new version of the same filter.
    fn change(&mut self, layer: Filter) {
        self.layer = [layer];
        self.states = self.registry.of_list(&self.layer);
    }

    /// A request that comes so many milliseconds after the start.
    fn at(&self, millis: u64, walk: Walk) -> Outcome {
        let (now, states) = (self.start + Duration::from_millis(millis), self.states.clone());
        Walk { now, states, ..walk }.through(&self.layer)
    }

    /// The status of its answer, 200 where none of ours, with `retry-after`.
    fn status(&self, millis: u64, walk: Walk) -> (u16, Option<String>) {
        let outcome = self.at(millis, walk);
        let retry_after = outcome.response.get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (outcome.answer.map_or(200, |answer| answer.status.as_u16()), retry_after)
    }

    /// By name, without those that it has not decided.
    fn decisions(&self) -> Vec<(&'static str, u64)> {
        let all = self.states[0].as_ref().unwrap().decisions().unwrap();
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

#[test]
fn a_rate_limit_admits_its_burst_and_then_its_rate() {
    let bed = Bed::new(Filter::RateLimit(rate(Vec::new()).into()));
    for _ in 0..3 {
        assert_eq!(bed.status(0, Walk::default()), (200, None));
    }
    assert_eq!(bed.status(0, Walk::default()), (429, Some("1".to_owned())));
    assert_eq!(bed.status(499, Walk::default()), (429, Some("1".to_owned())));
    assert_eq!(bed.status(500, Walk::default()), (200, None));
    assert_eq!(bed.status(500, Walk::default()).0, 429);
    assert_eq!(bed.decisions(), [("passed", 4), ("refused", 3)]);
}

#[test]
fn answers_tell_about_the_limit() {
    let bed = Bed::new(Filter::RateLimit(rate(Vec::new()).into()));
    let said = |outcome: &Outcome| outcome.response["ratelimit"].to_str().unwrap().to_owned();
    let first = bed.at(0, Walk::default());
    assert_eq!(
        (said(&first), &first.response["ratelimit-policy"]),
        ("\"route\";r=2;t=1".to_owned(), &HeaderValue::from_static("\"route\";q=2;w=1"),)
    );
    bed.at(0, Walk::default());
    assert_eq!(said(&bed.at(0, Walk::default())), "\"route\";r=0;t=2");
    let refused = bed.at(0, Walk::default());
    assert_eq!((said(&refused), refused.answer.unwrap().reason), ("\"route\";r=0;t=2".to_owned(), Reason::RateLimit));
    // Those of a limit behind this one stay beside it.
    let own = HeaderMap::from_iter([(HeaderName::from_static("ratelimit"), HeaderValue::from_static("\"pod\";r=1"))]);
    let walk = Walk { now: bed.start + Duration::from_secs(9), states: bed.states.clone(), ..Walk::default() };
    let both = walk.answered(&bed.layer, own);
    assert_eq!(both.response.get_all("ratelimit").iter().count(), 2);
    let silent = Bed::new(Filter::RateLimit(RateLimit { fields: None, ..rate(Vec::new()) }.into()));
    assert!(!silent.at(0, Walk::default()).response.contains_key("ratelimit"));
}

#[test]
fn a_shadow_filter_counts_and_lets_pass() {
    let bed = Bed::new(Filter::RateLimit(RateLimit { shadow: true, ..rate(Vec::new()) }.into()));
    for _ in 0..5 {
        let outcome = bed.at(0, Walk::default());
        assert!(outcome.answer.is_none() && !outcome.response.contains_key("ratelimit"));
    }
    assert_eq!(bed.decisions(), [("passed", 3), ("shadow", 2)]);
    let one = ConcurrencyLimit { shadow: true, ..concurrency(1, 0) };
    let bed = Bed::new(Filter::ConcurrencyLimit(one.into()));
    let held: Vec<_> = (0..3).map(|_| bed.at(0, Walk::default())).collect();
    assert!(held.iter().all(|outcome| outcome.answer.is_none() && outcome.permits.count() == 1));
    assert_eq!(bed.decisions(), [("passed", 1), ("shadow", 2)]);
}

/// All keys together are one: whoever differs in one of them has a bucket of his own, and leaving one out is no way round.
#[test]
fn keys_are_taken_together() {
    let name = HeaderName::from_static("x-user");
    let keys = vec![RequestKey::SourceIp, RequestKey::Header(name), RequestKey::QueryParam("q".into())];
    let bed = Bed::new(Filter::RateLimit(rate(keys).into()));
    let from = |client: &str| Walk { client: client.parse().unwrap(), ..Walk::default() };
    let exhausted = |walk: fn(Walk) -> Walk, client: &str| {
        (0..4).map(|_| bed.status(0, walk(from(client))).0).collect::<Vec<_>>() == [200, 200, 200, 429]
    };
    let user = |walk: Walk| walk.header("x-user", "ada");
    assert!(exhausted(user, "192.0.2.1"));
    assert!(exhausted(user, "192.0.2.2"), "another address");
    assert!(exhausted(|walk| walk.header("x-user", "bob"), "192.0.2.1"), "another user");
    assert!(exhausted(|walk| walk, "192.0.2.1"), "nobody is one user more");
    assert!(exhausted(|walk| walk.header("x-user", ""), "192.0.2.1"), "so is the empty name");
    let query = |query| move |walk: Walk| Walk { query: Some(query), ..walk.header("x-user", "ada") };
    assert_eq!(bed.status(0, query("q=")(from("192.0.2.1"))).0, 200);
    for _ in 0..3 {
        assert_eq!(bed.status(0, query("q=a+b")(from("192.0.2.1"))).0, 200);
    }
    assert_eq!(bed.status(0, query("p=1&q=%61%20b")(from("192.0.2.1"))).0, 429, "the same value, encoded");
}

#[test]
fn an_ipv6_client_counts_by_its_network() {
    let bed = Bed::new(Filter::RateLimit(RateLimit { burst: 1, ..rate(vec![RequestKey::SourceIp]) }.into()));
    let status = |client: &str| bed.status(0, Walk { client: client.parse().unwrap(), ..Walk::default() }).0;
    assert_eq!((status("2001:db8::1"), status("2001:db8::2"), status("2001:db8:0:1::1")), (200, 429, 200));
    assert_eq!((status("192.0.2.1"), status("::ffff:192.0.2.1"), status("192.0.2.2")), (200, 429, 200));
}

/// A new version of the filter goes on with its bucket.
#[test]
fn a_new_rate_counts_on() {
    let mut bed = Bed::new(Filter::RateLimit(rate(Vec::new()).into()));
    (0..3).for_each(|_| assert_eq!(bed.status(0, Walk::default()).0, 200));
    bed.change(Filter::RateLimit(RateLimit { burst: 4, ..rate(Vec::new()) }.into()));
    assert_eq!((bed.status(0, Walk::default()).0, bed.status(0, Walk::default()).0), (200, 429));
}

/// The place is taken from the way in until what the request holds is dropped.
#[test]
fn a_concurrency_limit_holds_until_the_end() {
    let bed = Bed::new(Filter::ConcurrencyLimit(concurrency(2, 0).into()));
    let first = bed.at(0, Walk::default());
    let second = bed.at(0, Walk::default());
    let third = bed.at(0, Walk::default());
    let refusal = third.answer.unwrap();
    assert_eq!((refusal.status.as_u16(), refusal.reason), (503, Reason::Concurrency));
    assert_eq!(refusal.headers["retry-after"], "1");
    assert!(third.permits.count() == 0);
    drop(first);
    let fourth = bed.at(0, Walk::default());
    assert!(fourth.answer.is_none());
    drop((second, fourth));
    assert_eq!(bed.decisions(), [("passed", 3), ("refused", 1)]);
}

/// Without the response side, a request that is dropped gives its place back.
#[test]
fn a_request_that_ends_on_the_way_gives_its_place_back() {
    let bed = Bed::new(Filter::ConcurrencyLimit(concurrency(1, 1).into()));
    let ask = |chain: &mut Chain| {
        let (mut method, mut headers, mut host) = (Method::GET, HeaderMap::new(), None);
        let (mut path, mut backend_ref, mut body_limit) = (Cow::Borrowed("/"), None, None);
        let facts = Facts {
            client: Ipv4Addr::LOCALHOST.into(),
            scheme: "http",
            port: 80,
            hostname: None,
            authority: None,
            content_length: None,
            is_personal: false,
            rule: 0,
            path_param: &|_| None,
        };
        let lent = Lent::new();
        let mut director = Director {
            method: &mut method,
            headers: &mut headers,
            host: &mut host,
            path: &mut path,
            query: &mut None,
            backend_ref: &mut backend_ref,
            body_limit: &mut body_limit,
            worker: 0,
            now: Instant::now(),
            states: &bed.states,
            copies: &mut None,
            user: &mut None,
            claims: &mut None,
            limited: &mut None,
            identity: &mut Identity::default(),
            means: lent.means(),
            facts: &facts,
        };
        chain.request(&bed.layer, &mut director)
    };
    let (mut first, mut second, mut third) = (Chain::default(), Chain::default(), Chain::default());
    assert!(matches!(ask(&mut first), Flow::Continue));
    let Flow::Ask(queued) = ask(&mut second) else { panic!("there is a place in the queue") };
    assert!(matches!(ask(&mut third), Flow::Respond(_)), "and none more");
    // Both leave: one from the queue, one from its place.
    drop(queued);
    drop(first);
    assert!(matches!(ask(&mut third), Flow::Continue));
}
