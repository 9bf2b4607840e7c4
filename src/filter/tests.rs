use std::borrow::Cow;
use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::model::filter::{
    Cors, DirectResponse, Filter, HeaderEdits, IpAccess, OriginMatch, PathEdit, Redirect, Rewrite, TemplatePart,
};
use crate::model::search_regex::SearchRegex;
use crate::reason::Reason;
use crate::telemetry::metrics::{Metrics, MetricsOptions};

mod auth;
mod jwt;
mod limits;

pub(crate) use auth::password_check;
/// The time since 1970.
const NOW: Duration = Duration::from_secs(1_700_000_000);

/// What a worker would lend.
pub(in crate::filter) struct Lent {
    rng: RefCell<fastrand::Rng>,
    metrics: Arc<Metrics>,
    auth: WorkerAuth,
}

impl Lent {
    pub(in crate::filter) fn new() -> Self {
        let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
        let auth = WorkerAuth::new(metrics.worker(0).unwrap(), AuthSettings { clock: || NOW, logs_subjects: true });
        Self { rng: RefCell::new(fastrand::Rng::with_seed(1)), metrics, auth }
    }

    pub(in crate::filter) fn means(&self) -> FilterMeans<'_> {
        FilterMeans { rng: &self.rng, auth: &self.auth }
    }
}

/// A request that goes through layers, and its response.
struct Walk {
    method: Method,
    headers: HeaderMap,
    host: Option<HeaderValue>,
    path: String,
    query: Option<&'static str>,
    client: IpAddr,
    length: Option<u64>,
    port: u16,
    now: Instant,
    states: ListStates,
    lent: Rc<Lent>,
}

/// What came of it.
struct Outcome {
    answer: Option<Answer>,
    /// It waited for keys, in vain or not.
    waited: bool,
    request: HeaderMap,
    host: Option<HeaderValue>,
    path: String,
    query: Option<String>,
    user: Option<Arc<str>>,
    response: HeaderMap,
    body_limit: Option<u64>,
    /// What it holds until its end.
    permits: Permits,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            host: None,
            path: "/docs/x".to_owned(),
            query: None,
            client: Ipv4Addr::new(192, 0, 2, 7).into(),
            length: Some(0),
            port: 8080,
            now: Instant::now(),
            states: ListStates::default(),
            lent: Rc::new(Lent::new()),
        }
    }
}

impl Walk {
    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    fn through(self, layers: &[Filter]) -> Outcome {
        self.answered(layers, HeaderMap::new())
    }

    /// Through the layers, and with the backend's response fields out again.
    fn answered(mut self, layers: &[Filter], mut backend: HeaderMap) -> Outcome {
        let original = self.path.clone();
        let mut path = Cow::Borrowed(original.as_str());
        let mut query = self.query.map(Cow::Borrowed);
        let (mut backend_ref, mut limit, mut user, mut claims) = (None, None, None, None);
        let param = |name: &str| (name == "id").then_some("7");
        let facts = Facts {
            client: self.client,
            scheme: "http",
            port: self.port,
            hostname: Some("a.test"),
            authority: None,
            content_length: self.length,
            is_personal: false,
            rule: 0,
            path_param: &param,
        };
        let mut chain = Chain::default();
        let mut copies = None;
        let director = &mut Director {
            method: &mut self.method,
            headers: &mut self.headers,
            host: &mut self.host,
            path: &mut path,
            query: &mut query,
            backend_ref: &mut backend_ref,
            body_limit: &mut limit,
            worker: 0,
            now: self.now,
            states: &self.states,
            copies: &mut copies,
            user: &mut user,
            claims: &mut claims,
            limited: &mut None,
            identity: &mut Identity::default(),
            means: self.lent.means(),
            facts: &facts,
        };
        let mut flow = chain.request(layers, director);
        let waited = matches!(flow, Flow::Ask(Question::Keys(_)));
        if waited {
            flow = chain.resume(layers, Told::Keys, director);
        }
        let mut answer = match flow {
            Flow::Ask(question) => panic!("{question:?}"),
            Flow::Continue => None,
            Flow::Respond(answer) => Some(answer),
            Flow::Share(answer) => panic!("{answer:?}"),
        };
        let mut status = answer.as_ref().map_or(StatusCode::OK, |answer| answer.status);
        let headers = answer.as_mut().map_or(&mut backend, |answer| &mut answer.headers);
        let permits = chain.take_permits();
        let (coding, body) = (&mut None, &mut Vec::new());
        let view = &mut ResponseView { status: &mut status, headers, length: None, coding, body };
        chain.response(&[layers], view);
        let response = answer.as_ref().map_or_else(|| backend.clone(), |answer| answer.headers.clone());
        let (request, host, path) = (self.headers, self.host, path.into_owned());
        let query = query.map(Cow::into_owned);
        Outcome { answer, waited, request, host, path, query, user, response, body_limit: limit, permits }
    }
}

fn edits(
    set: &[(&'static str, &'static str)],
    add: &[(&'static str, &'static str)],
    remove: &[&'static str],
) -> HeaderEdits {
    let pairs = |list: &[(&'static str, &'static str)]| {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    };
    HeaderEdits {
        set: pairs(set),
        add: pairs(add),
        remove: remove.iter().map(|n| HeaderName::from_static(n)).collect(),
    }
}

/// A mark that a layer leaves on request or response.
fn mark(number: usize) -> HeaderEdits {
    let value = HeaderValue::from(number);
    HeaderEdits { add: vec![(HeaderName::from_static("x-mark"), value)], ..HeaderEdits::default() }
}

fn marks(headers: &HeaderMap) -> Vec<usize> {
    headers.get_all("x-mark").iter().map(|value| value.to_str().unwrap().parse().unwrap()).collect()
}

fn rewrite(path: PathEdit) -> [Filter; 1] {
    [Filter::Rewrite(Rewrite { hostname: None, path: Some(path) })]
}

fn prefix(matched: &str, replacement: &str) -> PathEdit {
    PathEdit::Prefix { matched: matched.into(), replacement: replacement.into() }
}

fn redirect() -> Redirect {
    Redirect { scheme: None, hostname: None, path: None, port: None, status: StatusCode::FOUND, insecure_only: false }
}

fn location(redirect: Redirect, walk: Walk) -> String {
    let outcome = walk.through(&[Filter::Redirect(redirect)]);
    outcome.response.get("location").unwrap().to_str().unwrap().to_owned()
}

proptest! {
    /// Request marks come in layer order; response marks come in reverse, and only from layers that were entered.
    #[test]
    fn the_response_unwinds_the_layers_that_the_request_entered(
        kinds in proptest::collection::vec(0..10_u8, 0..24),
    ) {
        let layers: Vec<Filter> = kinds.iter().enumerate().map(|(number, kind)| match kind {
            0..4 => Filter::RequestHeaders(mark(number)),
            4..9 => Filter::ResponseHeaders(mark(number)),
            _ => Filter::Direct(DirectResponse {
                status: StatusCode::IM_A_TEAPOT,
                content_type: HeaderValue::from_static("text/plain"),
                body: Bytes::from_static(b"short"),
            }),
        }).collect();
        let turned = layers.iter().position(|layer| matches!(layer, Filter::Direct(_)));
        let entered = turned.map_or(layers.len(), |position| position + 1);
        let of = |wanted: fn(&Filter) -> bool| -> Vec<usize> {
            (0..entered).filter(|number| wanted(&layers[*number])).collect()
        };
        let inwards = of(|layer| matches!(layer, Filter::RequestHeaders(_)));
        let mut outwards = of(|layer| matches!(layer, Filter::ResponseHeaders(_)));
        outwards.reverse();
        let outcome = Walk::default().through(&layers);
        prop_assert_eq!(outcome.answer.is_some(), turned.is_some());
        prop_assert_eq!(marks(&outcome.request), inwards);
        prop_assert_eq!(marks(&outcome.response), outwards);
    }

    /// However the layers are cut into lists (route, rule, backendRef), the walk is the same.
    #[test]
    fn lists_of_layers_are_one_onion(sizes in proptest::collection::vec(0..4_usize, 1..5)) {
        let lists: Vec<Vec<Filter>> = sizes.iter().scan(0, |next, size| {
            let list = (*next..*next + size).map(|number| Filter::ResponseHeaders(mark(number))).collect();
            *next += size;
            Some(list)
        }).collect();
        let total: usize = sizes.iter().sum();
        let (mut method, mut headers, mut host) = (Method::GET, HeaderMap::new(), None);
        let (mut path, mut backend_ref, mut limit) = (Cow::Borrowed("/"), None, None);
        let facts = Facts {
            client: Ipv4Addr::LOCALHOST.into(), scheme: "http", port: 80, hostname: None, content_length: None,
            authority: None,
            is_personal: false,
            rule: 0,
            path_param: &|_| None,
        };
        let mut chain = Chain::default();
        let lent = Lent::new();
        for list in &lists {
            let mut director = Director {
                method: &mut method, headers: &mut headers, host: &mut host, path: &mut path, query: &mut None,
                backend_ref: &mut backend_ref, body_limit: &mut limit, worker: 0, now: Instant::now(), states: &[],
                copies: &mut None,
                user: &mut None,
                claims: &mut None,
                limited: &mut None,
                identity: &mut Identity::default(),
                means: lent.means(),
                facts: &facts,
            };
            prop_assert!(matches!(chain.request(list, &mut director), Flow::Continue));
        }
        let borrowed: Vec<&[Filter]> = lists.iter().map(Vec::as_slice).collect();
        let (mut status, mut response) = (StatusCode::OK, HeaderMap::new());
        let (coding, body) = (&mut None, &mut Vec::new());
        let view = &mut ResponseView { status: &mut status, headers: &mut response, length: None, coding, body };
        chain.response(&borrowed, view);
        prop_assert_eq!(marks(&response), (0..total).rev().collect::<Vec<_>>());
    }

    /// Whatever is matched and replaced, the path begins with exactly one slash.
    #[test]
    fn an_edited_path_begins_with_one_slash(path in "(/[a-c]{0,3}){1,4}", replacement in "/{0,3}[a-c]{0,3}", pattern in "[a-c/]{1,2}") {
        let regex = PathEdit::Regex { pattern: SearchRegex::compile(&pattern).unwrap(), substitution: replacement.as_str().into() };
        for edit in [prefix(&path, &replacement), PathEdit::Full(replacement.as_str().into()), regex] {
            let outcome = Walk { path: path.clone(), ..Walk::default() }.through(&rewrite(edit));
            prop_assert!(outcome.path.starts_with('/') && !outcome.path.starts_with("//"), "{}", outcome.path);
        }
    }
}

#[test]
fn header_edits_set_add_and_remove() {
    let layers = [Filter::RequestHeaders(edits(&[("a", "new")], &[("b", "2")], &["c"]))];
    let outcome =
        Walk::default().header("a", "old").header("a", "older").header("b", "1").header("c", "x").through(&layers);
    let values = |name| outcome.request.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(values("a"), ["new"]);
    assert_eq!(values("b"), ["1", "2"]);
    assert!(values("c").is_empty());
}

#[test]
fn rewrites_change_what_the_backend_sees() {
    let cases = [
        ("/docs/x", prefix("/docs", ""), "/x"),
        ("/docs", prefix("/docs", ""), "/"),
        ("/docs/", prefix("/docs", "/new"), "/new/"),
        ("/docs/x", prefix("", "/all"), "/all/docs/x"),
        ("/docs/x", PathEdit::Full("/one".into()), "/one"),
        (
            "/docs/x",
            PathEdit::Regex { pattern: SearchRegex::compile("^/docs/(.*)$").unwrap(), substitution: "/d-$1".into() },
            "/d-x",
        ),
        (
            "/u/7",
            PathEdit::Template(vec![
                TemplatePart::Text("/users/".into()),
                TemplatePart::Variable("id".into()),
                TemplatePart::Text("/page".into()),
            ]),
            "/users/7/page",
        ),
    ];
    for (path, edit, expected) in cases {
        let outcome = Walk { path: path.to_owned(), ..Walk::default() }.through(&rewrite(edit.clone()));
        assert_eq!(outcome.path, expected, "{edit:?} on {path}");
    }
    let hostname: Option<Arc<str>> = Some("docs.internal".into());
    let outcome = Walk::default().through(&[Filter::Rewrite(Rewrite { hostname, path: None })]);
    assert_eq!(outcome.host.unwrap(), "docs.internal");
}

#[test]
fn redirects_keep_what_they_do_not_change() {
    let query = || Walk { query: Some("q=1"), ..Walk::default() };
    assert_eq!(location(redirect(), query()), "http://a.test:8080/docs/x?q=1");
    let https = Redirect { scheme: Some("https"), ..redirect() };
    assert_eq!(location(https.clone(), query()), "https://a.test/docs/x?q=1");
    assert_eq!(location(Redirect { port: Some(8443), ..https }, Walk::default()), "https://a.test:8443/docs/x");
    let elsewhere = Redirect { hostname: Some("www.test".into()), path: Some(prefix("/docs", "/d")), ..redirect() };
    assert_eq!(location(elsewhere, Walk { port: 80, ..Walk::default() }), "http://www.test/d/x");
}

#[test]
fn a_body_limit_refuses_an_announced_length_and_binds_the_rest() {
    let layers = [Filter::BodyLimit(100), Filter::BodyLimit(10)];
    let refused = Walk { length: Some(11), ..Walk::default() }.through(&layers).answer.unwrap();
    assert_eq!((refused.status, refused.reason), (StatusCode::PAYLOAD_TOO_LARGE, Reason::Size));
    let streamed = Walk { length: None, ..Walk::default() }.through(&layers);
    assert!(streamed.answer.is_none());
    assert_eq!(streamed.body_limit, Some(10));
}

#[test]
fn addresses_are_admitted_by_network() {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    let cases = [
        (nets(&["192.0.2.0/24"]), nets(&[]), true),
        (nets(&["192.0.2.0/24"]), nets(&["192.0.2.7/32"]), false),
        (nets(&["198.51.100.0/24"]), nets(&[]), false),
        (nets(&[]), nets(&["198.51.100.0/24"]), true),
    ];
    for (allow, deny, admitted) in cases {
        let layers = [Filter::IpAccess(IpAccess { allow, deny })];
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        for client in [Walk::default().client, mapped] {
            let answer = Walk { client, ..Walk::default() }.through(&layers).answer;
            assert_eq!(answer.is_none(), admitted, "{layers:?}");
        }
    }
}

fn cors(origins: Vec<OriginMatch>, credentials: bool) -> Filter {
    Filter::Cors(Cors {
        origins,
        credentials,
        methods: Some(HeaderValue::from_static("GET, PUT")),
        headers: Some(HeaderValue::from_static("x-one")),
        any_header: false,
        any_method: false,
        expose: Some(HeaderValue::from_static("x-two")),
        any_expose: false,
        max_age: HeaderValue::from_static("5"),
    })
}

fn field<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a str> {
    outcome.response.get(name).map(|value| value.to_str().unwrap())
}

#[test]
fn cors_answers_preflights_and_marks_responses_for_admitted_origins_only() {
    let wildcard = OriginMatch::Wildcard { prefix: "https://".into(), suffix: ".example.com".into() };
    let layers = [cors(vec![wildcard, OriginMatch::Exact("http://b.test".into())], true)];
    let preflight = |origin| {
        let walk = Walk { method: Method::OPTIONS, ..Walk::default() };
        walk.header("origin", origin).header("access-control-request-method", "PUT").through(&layers)
    };
    let admitted = preflight("https://a.b.example.com");
    assert_eq!(admitted.answer.as_ref().unwrap().status, StatusCode::NO_CONTENT);
    assert_eq!(field(&admitted, "access-control-allow-origin"), Some("https://a.b.example.com"));
    assert_eq!(field(&admitted, "access-control-allow-methods"), Some("GET, PUT"));
    assert_eq!(field(&admitted, "access-control-max-age"), Some("5"));
    for origin in ["https://example.com", "https://evil.test/.example.com", "http://a.example.com"] {
        let refused = preflight(origin);
        assert!(refused.answer.is_some(), "{origin}: a preflight never reaches the backend");
        assert_eq!(field(&refused, "access-control-allow-origin"), None, "{origin}");
    }
    let mut backend = HeaderMap::new();
    backend.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    let actual = Walk::default().header("origin", "http://b.test").answered(&layers, backend.clone());
    assert!(actual.answer.is_none());
    assert_eq!(field(&actual, "access-control-allow-origin"), Some("http://b.test"));
    assert_eq!(field(&actual, "access-control-allow-credentials"), Some("true"));
    assert_eq!(field(&actual, "access-control-expose-headers"), Some("x-two"));
    assert_eq!(field(&actual, "vary"), Some("origin"));
    let other = Walk::default().header("origin", "http://c.test").answered(&layers, backend);
    assert_eq!(field(&other, "access-control-allow-origin"), None, "the backend's own fields go");
    let any = Walk::default().header("origin", "http://c.test").through(&[cors(vec![OriginMatch::Any], false)]);
    assert_eq!(field(&any, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&any, "vary"), None);
}

/// Browsers read `*` literally with credentials, and never count Authorization under it (Fetch, "CORS protocol and
/// credentials").
#[test]
fn cors_names_what_a_wildcard_stands_for() {
    let any = |credentials| {
        let Filter::Cors(cors) = cors(vec![OriginMatch::Exact("http://b.test".into())], credentials) else {
            unreachable!("cors makes a CORS filter")
        };
        let star = Some(HeaderValue::from_static("*"));
        let (any_header, any_method, any_expose) = (true, true, true);
        let (methods, headers, expose) = (star.clone(), star.clone(), star);
        [Filter::Cors(Cors { methods, headers, expose, any_header, any_method, any_expose, ..cors })]
    };
    let preflight = |credentials, asked: &[&'static str]| {
        let walk = Walk { method: Method::OPTIONS, ..Walk::default() };
        let walk = walk.header("origin", "http://b.test").header("access-control-request-method", "PATCH");
        let walk = asked.iter().fold(walk, |walk, line| walk.header("access-control-request-headers", line));
        walk.through(&any(credentials))
    };
    for (credentials, asked, methods, headers) in [
        (false, &["authorization,x-a"][..], "*", "authorization,x-a"),
        (true, &["authorization,x-a"], "PATCH", "authorization,x-a"),
        (false, &["x-a", "authorization"], "*", "x-a, authorization"),
        (false, &[], "*", "*"),
    ] {
        let answer = preflight(credentials, asked);
        assert_eq!(field(&answer, "access-control-allow-methods"), Some(methods), "{credentials} {asked:?}");
        assert_eq!(field(&answer, "access-control-allow-headers"), Some(headers), "{credentials} {asked:?}");
    }
    assert_eq!(field(&preflight(true, &[]), "access-control-allow-headers"), None, "nothing was asked for");
    assert_eq!(field(&preflight(true, &[]), "access-control-expose-headers"), None, "nothing that a script could read");
    assert_eq!(field(&preflight(false, &[]), "access-control-expose-headers"), Some("*"));

    let backend: HeaderMap = [("x-total", "7"), ("etag", "a"), ("content-type", "text/plain"), ("set-cookie", "a=b")]
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let exposed = |credentials| {
        let walk = Walk::default().header("origin", "http://b.test");
        let outcome = walk.answered(&any(credentials), backend.clone());
        field(&outcome, "access-control-expose-headers").map(str::to_owned)
    };
    assert_eq!(exposed(false).as_deref(), Some("*"));
    assert_eq!(exposed(true).as_deref(), Some("x-total, etag, vary"));
}

#[test]
fn cors_preflights_carry_the_exposed_names() {
    let preflight = |credentials| {
        let walk = Walk { method: Method::OPTIONS, ..Walk::default() };
        let walk = walk.header("origin", "http://b.test").header("access-control-request-method", "PUT");
        walk.through(&[cors(vec![OriginMatch::Exact("http://b.test".into())], credentials)])
    };
    assert_eq!(field(&preflight(false), "access-control-expose-headers"), Some("x-two"));
    assert_eq!(field(&preflight(true), "access-control-expose-headers"), Some("x-two"));
    let walk = Walk { method: Method::OPTIONS, ..Walk::default() };
    let walk = walk.header("origin", "http://c.test").header("access-control-request-method", "PUT");
    let refused = walk.through(&[cors(vec![OriginMatch::Exact("http://b.test".into())], false)]);
    assert_eq!(field(&refused, "access-control-expose-headers"), None, "nothing for an origin that is not admitted");
}

/// A cached response to a request without Origin may answer one with Origin (Fetch, "CORS protocol and HTTP caches").
#[test]
fn cors_keeps_cached_responses_good_for_later_origins() {
    let mut backend = HeaderMap::new();
    backend.insert("access-control-allow-origin", HeaderValue::from_static("https://own.test"));
    backend.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
    backend.insert("vary", HeaderValue::from_static("accept"));
    let without = |layers: &[Filter]| Walk::default().answered(layers, backend.clone());
    let origin =
        |layers: &[Filter]| Walk::default().header("origin", "http://c.test").answered(layers, backend.clone());
    let varies = |outcome: &Outcome| outcome.response.get_all("vary").iter().any(|line| line == "origin");

    let same_for_all = [cors(vec![OriginMatch::Exact("http://b.test".into()), OriginMatch::Any], false)];
    for outcome in [without(&same_for_all), origin(&same_for_all)] {
        assert_eq!(field(&outcome, "access-control-allow-origin"), Some("*"));
        assert_eq!(field(&outcome, "access-control-expose-headers"), Some("x-two"));
        assert_eq!(field(&outcome, "access-control-allow-credentials"), None);
        assert!(!varies(&outcome));
    }
    let by_origin = [
        ("any with credentials", [cors(vec![OriginMatch::Any], true)]),
        ("one", [cors(vec![OriginMatch::Exact("http://b.test".into())], false)]),
    ];
    for (case, layers) in by_origin {
        let outcome = without(&layers);
        assert_eq!(field(&outcome, "access-control-allow-origin"), None, "{case}");
        assert_eq!(field(&outcome, "access-control-allow-credentials"), None, "{case}");
        assert_eq!(field(&outcome, "access-control-expose-headers"), None, "{case}");
        assert!(varies(&outcome), "{case}");
        assert!(varies(&origin(&layers)), "{case}");
        let preflight = Walk { method: Method::OPTIONS, ..Walk::default() };
        let preflight = preflight.header("origin", "http://c.test").header("access-control-request-method", "PUT");
        assert!(varies(&preflight.through(&layers)), "{case}: a refused preflight too");
        let named = HeaderMap::from_iter([(http::header::VARY, HeaderValue::from_static("accept, ORIGIN"))]);
        let outcome = Walk::default().answered(&layers, named);
        assert_eq!(outcome.response.get_all("vary").iter().count(), 1, "{case}: said once");
    }
}

/// The walk stops at the layer that asks, goes on with it, and leaves through exactly those that were entered.
#[test]
fn a_layer_that_waits_goes_on_with_its_answer() {
    let key = crate::model::filter::StateKey {
        route: crate::model::ids::ObjectName::new("ns", "r"),
        place: crate::model::filter::FilterList::Route,
        filter: "Wait",
        position: 0,
    };
    let outer = [Filter::RequestHeaders(mark(0)), Filter::ResponseHeaders(mark(0))];
    let inner = [
        Filter::RequestHeaders(mark(1)),
        Filter::Wait(Arc::new(key)),
        Filter::RequestHeaders(mark(2)),
        Filter::ResponseHeaders(mark(3)),
    ];
    let states = StateRegistry::new(1).of_list(&inner);
    for (passes, request, response) in [(true, vec![0, 1, 2], vec![3, 99, 0]), (false, vec![0, 1], vec![99, 0])] {
        let (mut method, mut headers, mut host) = (Method::GET, HeaderMap::new(), None);
        let (mut path, mut backend_ref, mut limit) = (Cow::Borrowed("/"), None, None);
        let facts = Facts {
            client: Ipv4Addr::LOCALHOST.into(),
            scheme: "http",
            port: 80,
            hostname: None,
            authority: None,
            content_length: Some(0),
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
            body_limit: &mut limit,
            worker: 0,
            now: Instant::now(),
            states: &states,
            copies: &mut None,
            user: &mut None,
            claims: &mut None,
            limited: &mut None,
            identity: &mut Identity::default(),
            means: lent.means(),
            facts: &facts,
        };
        let mut chain = Chain::default();
        assert!(matches!(chain.request(&outer, &mut director), Flow::Continue));
        assert!(matches!(chain.request(&inner, &mut director), Flow::Ask(Question::Test(_))));
        assert_eq!(marks(director.headers), [0, 1], "what is behind it waits");
        let flow = chain.resume(&inner, Told::Test(passes), &mut director);
        assert_eq!(matches!(flow, Flow::Continue), passes);
        assert_eq!(marks(&headers), request);
        let mut fields = HeaderMap::new();
        let mut status = StatusCode::OK;
        let (coding, body) = (&mut None, &mut Vec::new());
        let view = &mut ResponseView { status: &mut status, headers: &mut fields, length: None, coding, body };
        chain.response(&[&outer, &inner], view);
        assert_eq!(marks(&fields), response);
    }
}
