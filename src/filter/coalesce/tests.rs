use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Method};
use serde_json::json;

use super::*;
use crate::filter::layer::{Facts, Identity};
use crate::filter::tests::Lent;
use crate::model::claims::Claims;
use crate::model::filter::{FilterList, StateKey};
use crate::model::ids::ObjectName;

fn coalesce(vary: &[&'static str]) -> Coalesce {
    let route = ObjectName::new("ns", "r");
    Coalesce {
        state: Arc::new(StateKey { route, place: FilterList::Route, filter: "Coalesce", position: 0 }),
        get: true,
        head: true,
        vary: vary.iter().map(|name| HeaderName::from_static(name)).collect(),
        max_waiters: 10,
        max_body: 1_000,
    }
}

/// A request as the filter sees it.
#[derive(Clone)]
struct Request {
    method: Method,
    headers: HeaderMap,
    host: Option<HeaderValue>,
    path: &'static str,
    query: Option<&'static str>,
    user: Option<Arc<str>>,
    claims: Option<Rc<Claims>>,
    identity: Identity,
    scheme: &'static str,
    port: u16,
    hostname: &'static str,
    authority: &'static str,
    length: Option<u64>,
    is_personal: bool,
    rule: usize,
}

impl Request {
    fn new() -> Self {
        Self {
            method: Method::GET,
            headers: HeaderMap::new(),
            host: None,
            path: "/a",
            query: None,
            user: None,
            claims: None,
            identity: Identity::default(),
            scheme: "http",
            port: 80,
            hostname: "a.test",
            authority: "a.test",
            length: Some(0),
            is_personal: false,
            rule: 1,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut request = Self::new();
        change(&mut request);
        request
    }

    fn field(name: &'static str, value: &'static str) -> Self {
        Self::with(|request| drop(request.headers.insert(name, HeaderValue::from_static(value))))
    }

    fn seen<T>(mut self, look: impl FnOnce(&Director<'_, '_>) -> T) -> T {
        let lent = Lent::new();
        let facts = Facts {
            client: Ipv4Addr::LOCALHOST.into(),
            scheme: self.scheme,
            port: self.port,
            hostname: Some(self.hostname),
            authority: Some(self.authority.as_bytes()),
            content_length: self.length,
            is_personal: self.is_personal,
            rule: self.rule,
            path_param: &|_| None,
        };
        look(&Director {
            method: &mut self.method,
            headers: &mut self.headers,
            host: &mut self.host,
            path: &mut self.path.into(),
            query: &mut self.query.map(Into::into),
            backend_ref: &mut None,
            body_limit: &mut None,
            worker: 0,
            now: Instant::now(),
            states: &[],
            copies: &mut None,
            user: &mut self.user,
            claims: &mut self.claims,
            limited: &mut None,
            identity: &mut self.identity,
            means: lent.means(),
            facts: &facts,
        })
    }

    fn key(self, coalesce: &Coalesce) -> (Vec<u8>, Vec<u8>) {
        self.seen(|director| (place(director), rest(coalesce, director)))
    }

    fn goes_alone(self, coalesce: &Coalesce) -> bool {
        self.seen(|director| goes_alone(coalesce, director))
    }
}

#[test]
fn requests_that_differ_in_what_is_compared_are_not_equal() {
    let filter = coalesce(&["x-tenant"]);
    let claims = |sub: &str| {
        let serde_json::Value::Object(payload) = json!({ "sub": sub }) else { unreachable!("an object") };
        Some(Rc::new(Claims::new(payload)))
    };
    let by_service = |value: &'static str| {
        let mut request = Request::field("x-roles", value);
        request.identity.fields = vec![HeaderName::from_static("x-roles")];
        request
    };
    // A filter further in has found somebody else.
    let outer_user = |name: &str| {
        Request::with(|request| {
            request.user = Some("ada".into());
            request.identity.users.push(name.into());
        })
    };
    let outer_claims = |sub: &str| {
        Request::with(|request| {
            request.claims = claims("service");
            request.identity.claims.extend(claims(sub));
        })
    };
    let different = vec![
        Request::new(),
        Request::with(|request| request.method = Method::HEAD),
        Request::with(|request| request.path = "/b"),
        Request::with(|request| request.query = Some("")),
        Request::with(|request| request.query = Some("q=1")),
        Request::with(|request| request.scheme = "https"),
        Request::with(|request| request.port = 81),
        Request::with(|request| request.authority = "a.test:80"),
        Request::with(|request| request.hostname = "b.test"),
        Request::with(|request| request.host = Some(HeaderValue::from_static("in.test"))),
        Request::with(|request| request.rule = 2),
        Request::with(|request| request.user = Some("ada".into())),
        Request::with(|request| request.user = Some("bob".into())),
        Request::with(|request| request.claims = claims("ada")),
        Request::with(|request| request.claims = claims("bob")),
        outer_user("one"),
        outer_user("two"),
        outer_claims("ada"),
        outer_claims("bob"),
        Request::field("x-forwarded-host", "a.example"),
        Request::field("x-forwarded-host", "b.example"),
        Request::field("x-forwarded-prefix", "/a"),
        Request::field("accept", "text/html"),
        Request::field("accept", ""),
        Request::field("accept-encoding", "text/html"),
        Request::field("accept-language", "text/html"),
        Request::field("origin", "text/html"),
        Request::field("te", "trailers"),
        Request::field("x-tenant", "text/html"),
        Request::with(|request| {
            request.headers.append("x-tenant", HeaderValue::from_static("text/"));
            request.headers.append("x-tenant", HeaderValue::from_static("html"));
        }),
        by_service("admin"),
        by_service("none"),
    ];
    let keys: Vec<_> = different.into_iter().map(|request| request.key(&filter)).collect();
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(keys.iter().filter(|other| *other == key).count(), 1, "number {at}");
    }
    let unheard = Request::field("user-agent", "a").key(&filter);
    assert_eq!(unheard, Request::new().key(&filter));
    assert_eq!(by_service("admin").key(&filter), by_service("admin").key(&filter));
}

/// The place is what a request of any method is about.
#[test]
fn the_place_does_not_know_the_method_or_the_query() {
    let place_of = |request: Request| request.seen(place);
    let of_any = place_of(Request::new());
    assert_eq!(of_any, place_of(Request::with(|request| request.method = Method::POST)));
    assert_eq!(of_any, place_of(Request::with(|request| request.query = Some("q"))));
    assert_ne!(of_any, place_of(Request::with(|request| request.path = "/ab")));
    assert_ne!(of_any, place_of(Request::with(|request| request.hostname = "b.test")));
}

#[test]
fn what_a_client_has_to_itself_goes_alone() {
    let filter = coalesce(&["x-tenant"]);
    assert!(!Request::new().goes_alone(&filter));
    let fields = [
        ("authorization", "Basic x"),
        ("cookie", "a=b"),
        ("range", "bytes=0-1"),
        ("if-none-match", "*"),
        ("if-match", "*"),
        ("if-modified-since", "x"),
        ("if-unmodified-since", "x"),
        ("if-range", "x"),
        ("upgrade", "h2c"),
        ("expect", "100-continue"),
        ("cache-control", "max-age=0, No-Cache"),
        ("cache-control", "no-store"),
        ("content-type", "application/grpc+proto"),
    ];
    for (name, value) in fields {
        assert!(Request::field(name, value).goes_alone(&filter), "{name}: {value}");
    }
    assert!(!Request::field("cache-control", "max-age=0").goes_alone(&filter));
    for length in [None, Some(1)] {
        assert!(Request::with(|request| request.length = length).goes_alone(&filter), "{length:?}");
    }
    assert!(Request::with(|request| request.is_personal = true).goes_alone(&filter));
    let head = || Request::with(|request| request.method = Method::HEAD);
    let get_alone = Coalesce { head: false, ..coalesce(&[]) };
    assert!(!head().goes_alone(&filter) && head().goes_alone(&get_alone));
    assert!(Request::with(|request| request.method = Method::OPTIONS).goes_alone(&filter));
    // What is compared may be there.
    let of_users = coalesce(&["authorization"]);
    let (one, other) = (Request::field("authorization", "Basic x"), Request::field("authorization", "Basic y"));
    assert!(!one.clone().goes_alone(&of_users) && Request::field("cookie", "a=b").goes_alone(&of_users));
    assert_ne!(one.key(&of_users), other.key(&of_users));
}

#[test]
fn an_answer_is_shared_by_what_it_says_and_by_its_length() {
    const ALONE: Sharing = Sharing::Give { go_alone: true };
    let filter = coalesce(&["x-tenant"]);
    let table: &[(&[(&str, &str)], Sharing)] = &[
        (&[], Sharing::Stream),
        (&[("cache-control", "max-age=0, no-cache, must-revalidate")], Sharing::Stream),
        (&[("cache-control", "No-Store")], ALONE),
        (&[("cache-control", "max-age=1"), ("cache-control", "private=\"x-a\"")], ALONE),
        (&[("set-cookie", "a=b")], ALONE),
        (&[("vary", "*")], ALONE),
        (&[("vary", "Accept, accept-encoding"), ("vary", "x-tenant, Origin")], Sharing::Stream),
        // None of those who wait has one.
        (&[("vary", "Cookie, Authorization")], Sharing::Stream),
        (&[("vary", "accept, user-agent")], ALONE),
        (&[("vary", "accept,, ")], Sharing::Stream),
        (&[("content-type", "text/event-stream; charset=utf-8")], ALONE),
        (&[("content-type", "text/html")], Sharing::Stream),
    ];
    for (fields, expected) in table {
        let mut map = HeaderMap::new();
        for (name, value) in *fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(sharing(&filter, &map, Some(10), 2), *expected, "{fields:?}");
        let of_one = if *expected == ALONE { ALONE } else { Sharing::Give { go_alone: false } };
        assert_eq!(sharing(&filter, &map, Some(10), 1), of_one, "{fields:?}");
    }
    let plain = HeaderMap::new();
    for (length, expected) in [(Some(0), Sharing::Stream), (Some(1_000), Sharing::Stream), (Some(1_001), ALONE)] {
        assert_eq!(sharing(&filter, &plain, length, 2), expected, "{length:?}");
    }
    assert_eq!(sharing(&filter, &plain, None, 2), Sharing::Collect);
}
