//! The decisions of a request, made from a published version and a head alone: no socket, no runtime.

use std::net::SocketAddr;

use http::Request;

use super::*;
use crate::balance::tests::snapshots::{Snapshots, hash_by_ip, number};
use crate::filter::{AuthSettings, FilterMeans, Question, Told, WorkerAuth};
use crate::live;
use crate::model::filter::{Filter, FilterList, HeaderEdits, IpAccess, StateKey};
use crate::model::ids::ListenerId;
use crate::model::ids::ObjectName;
use crate::model::matching::{Candidate, PathMatch, Router};
use crate::model::snapshot::Snapshot;
use crate::telemetry::metrics::{Metrics, MetricsOptions};

/// A worker's view of a published version.
struct Bed {
    live: Rc<WorkerLive>,
    rng: RefCell<fastrand::Rng>,
    auth: WorkerAuth,
    now: Duration,
}

fn snapshot(algorithm: Algorithm, endpoints: &[u16], filters: Vec<Filter>) -> Snapshot {
    let snapshots = Snapshots::default().backend("a", endpoints.iter().copied());
    let mut snapshot = snapshots.rule("r", "0", algorithm, &[(Some("a"), 1, 0)]).snapshot();
    Arc::make_mut(&mut snapshot.rules)[0].filters = filters.into();
    let path = PathMatch::Prefix("/p".into());
    let candidate = Candidate { path, ..Candidate::any(RuleId(0), 0) };
    snapshot.routers = [Arc::new(Router::build(vec![candidate]))].into();
    snapshot
}

impl Bed {
    fn new(snapshot: Snapshot) -> Self {
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
        let auth = WorkerAuth::new(
            metrics.worker(0).unwrap(),
            AuthSettings { clock: Duration::default, logs_subjects: false },
        );
        let (mut publisher, mut feeds) = live::channel(1, metrics, tokio::time::Instant::now());
        publisher.publish(snapshot);
        let live = feeds.remove(0).into_cache(0).current();
        Self { live, rng: RefCell::new(fastrand::Rng::with_seed(1)), auth, now: Duration::from_secs(1) }
    }

    fn decision(&self, request: Request<()>) -> Decision {
        let peer: SocketAddr = "192.0.2.7:999".parse().unwrap();
        let downstream = Downstream {
            peer,
            local: "192.0.2.1:80".parse().unwrap(),
            listener: ListenerId(0),
            listener_name: "web".into(),
            mode: crate::settings::ListenerMode::Gateway,
            trusted: false,
            secure: false,
            tls: None,
            client: crate::proxy::downstream::Validated::default(),
            identity: Box::default(),
            cutoff: Rc::default(),
            timer: RefCell::default(),
        };
        let head = CheckedHead {
            host: None,
            path: None,
            websocket: false,
            upgrade: None,
            expect_continue: false,
            connection: false,
            te: false,
            via: false,
        };
        let deadlines = ExchangeDeadlines::new(&Timeouts::default(), Duration::ZERO, Instant::now());
        let http::request::Parts { method, uri, headers: fields, .. } = request.into_parts().0;
        let received = Received { head, method, uri, fields, content_length: Some(0) };
        Decision::new(Rc::clone(&self.live), Rc::new(downstream), received, &[], deadlines)
    }

    fn means(&self) -> Means<'_> {
        Means { rng: &self.rng, since_epoch: self.now }
    }

    fn filter_means(&self) -> FilterMeans<'_> {
        FilterMeans { rng: &self.rng, auth: &self.auth }
    }

    /// All phases up to the first pick.
    fn decide(&self, decision: &mut Decision) -> Result<(Matched, Picked), Early> {
        let matched = decision.find_route()?;
        self.settle(decision, &matched, |decision, matched| decision.enter(matched, self.filter_means()))?;
        decision.hash_key(&matched);
        let picked = decision.pick(&matched, self.means()).map_err(|none| none.error)?;
        self.settle(decision, &matched, |decision, matched| {
            decision.enter_backend(matched, &picked, self.filter_means())
        })?;
        Ok((matched, picked))
    }

    /// Enters filters, and tells those that ask what the request path would tell them.
    fn settle(
        &self,
        decision: &mut Decision,
        matched: &Matched,
        enter: impl FnOnce(&mut Decision, &Matched) -> Result<Option<Question>, Early>,
    ) -> Result<(), Early> {
        let mut asked = enter(decision, matched)?;
        while let Some(Question::Test(number)) = asked {
            asked = decision.resume(matched, Told::Test(number == 0), self.filter_means())?;
        }
        Ok(())
    }
}

fn get(target: &str) -> Request<()> {
    Request::get(target).body(()).unwrap()
}

fn refused() -> Failure {
    ProxyError::Connect(std::io::ErrorKind::ConnectionRefused.into()).into()
}

#[test]
fn rule_filters_and_endpoint_are_decided_without_a_connection() {
    let edits = HeaderEdits { set: vec![("x-a".parse().unwrap(), "1".parse().unwrap())], ..HeaderEdits::default() };
    let bed = Bed::new(snapshot(Algorithm::RoundRobin, &[1, 2, 3], vec![Filter::RequestHeaders(edits)]));
    let mut decision = bed.decision(get("/p/x?q"));
    let (matched, picked) = bed.decide(&mut decision).unwrap();
    assert_eq!((&**matched.route_label().unwrap(), &*matched.rule().name), ("ns/r", "0"));
    assert_eq!((number(&picked.endpoint), decision.seen_path()), (1, "/p/x"));
    assert_eq!(decision.fields["x-a"], "1");
    assert_eq!(picked.endpoint.in_flight(), 0, "deciding counts nothing");
    let early = bed.decide(&mut bed.decision(get("/other"))).unwrap_err();
    assert!(matches!(early, Early::Failed(ProxyError::NoPath)));
}

#[test]
fn a_filter_that_answers_is_decided_without_a_connection() {
    let nobody = IpAccess { allow: vec!["198.51.100.0/24".parse().unwrap()], ..IpAccess::default() };
    let bed = Bed::new(snapshot(Algorithm::RoundRobin, &[1], vec![Filter::IpAccess(nobody)]));
    let early = bed.decide(&mut bed.decision(get("/p"))).unwrap_err();
    assert!(matches!(early, Early::Filtered(answer) if answer.status == 403));
}

/// Each try goes to an endpoint that this request has not tried, until there is none.
#[test]
fn the_next_tries_are_decided_without_a_connection() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastRequest, Algorithm::Random, hash_by_ip()] {
        let bed = Bed::new(snapshot(algorithm, &[1, 2, 3, 4], Vec::new()));
        let mut decision = bed.decision(get("/p"));
        let (matched, mut picked) = bed.decide(&mut decision).unwrap();
        let mut seen = vec![number(&picked.endpoint)];
        while decision.judge(&refused(), Instant::now(), false) == Verdict::OtherEndpoint {
            decision.avoid(&picked);
            let Some(next) = decision.pick_elsewhere(&matched, bed.means()) else { break };
            picked = next;
            seen.push(number(&picked.endpoint));
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4]);
    }
}

/// The filters of rule and backendRef each wait once; the second question of the rule's is answered with no.
#[test]
fn filters_that_wait_go_on_where_they_asked() {
    let edit = |name: &'static str| {
        let set = vec![(name.parse().unwrap(), "1".parse().unwrap())];
        Filter::RequestHeaders(HeaderEdits { set, ..HeaderEdits::default() })
    };
    let wait = |position| {
        let (route, place) = (ObjectName::new("ns", "r"), FilterList::Route);
        Filter::Wait(Arc::new(StateKey { route, place, filter: "Wait", position }))
    };
    let mut snapshot = snapshot(Algorithm::RoundRobin, &[1], vec![edit("x-a"), wait(0), edit("x-b")]);
    Arc::make_mut(&mut snapshot.rules)[0].backend_refs[0].filters = vec![wait(1), edit("x-c")].into();
    let bed = Bed::new(snapshot);
    let mut decision = bed.decision(get("/p"));
    assert!(bed.decide(&mut decision).is_ok());
    assert!(["x-a", "x-b", "x-c"].iter().all(|name| decision.fields.contains_key(*name)));
    let mut refused = bed.decision(get("/p"));
    let early = bed.decide(&mut refused).unwrap_err();
    assert!(matches!(early, Early::Filtered(answer) if answer.status == 403));
    assert!(refused.fields.contains_key("x-a") && !refused.fields.contains_key("x-b"));
}
