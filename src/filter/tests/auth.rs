//! Filters that ask who a client is, as layers.

use base64::Engine as _;

use super::*;
use crate::filter::passwords::PasswordCheck;
use crate::model::credentials::{ApiKeys, PasswordFile};
use crate::model::filter::{ApiKey, AuthProtocol, BasicAuth, CredentialPlace, ExternalAuth};

const KEY: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210";

fn api_key(from: &[CredentialPlace]) -> ApiKey {
    let keys = ApiKeys::new([("ada", KEY.as_bytes()), ("bob", OTHER.as_bytes())]);
    ApiKey {
        keys: Some(Arc::new(keys)),
        from: from.into(),
        forward: false,
        client_header: Some(HeaderName::from_static("x-client")),
        challenge: HeaderValue::from_static("ApiKey realm=\"ns/r\""),
    }
}

fn header(name: &'static str) -> CredentialPlace {
    CredentialPlace::Header(HeaderName::from_static(name))
}

fn through(filter: ApiKey, walk: Walk) -> Outcome {
    walk.through(&[Filter::ApiKey(Arc::new(filter))])
}

#[test]
fn a_key_is_found_at_the_first_place_that_has_one() {
    let places = [
        header("x-api-key"),
        header("authorization"),
        CredentialPlace::Cookie("k".into()),
        CredentialPlace::QueryParam("k".into()),
    ];
    let walk = Walk::default;
    let cases = [
        (walk().header("x-api-key", KEY), Some("ada")),
        (walk().header("x-api-key", KEY).header("x-api-key", KEY), Some("ada")),
        (walk().header("x-api-key", KEY).header("x-api-key", OTHER), None),
        (walk().header("x-api-key", "wrong").header("authorization", KEY), None),
        (walk().header("x-api-key", "").header("authorization", "Bearer fedcba9876543210"), Some("bob")),
        (walk().header("authorization", "bearer  0123456789abcdef"), Some("ada")),
        (walk().header("authorization", "Bearer "), None),
        (walk().header("authorization", "Bearer ").header("cookie", "k=0123456789abcdef"), Some("ada")),
        (walk().header("cookie", "a=1; k=0123456789abcdef"), Some("ada")),
        (walk().header("cookie", "k=0123456789abcdef").header("cookie", "k=fedcba9876543210"), None),
        (Walk { query: Some("a=1&k=%30123456789abcdef"), ..walk() }, Some("ada")),
        (Walk { query: Some("k=0123456789abcdef&k=fedcba9876543210"), ..walk() }, None),
        (Walk { query: Some("k=&K=0123456789abcdef"), ..walk() }, None),
        (walk(), None),
    ];
    for (number, (walk, expected)) in cases.into_iter().enumerate() {
        let outcome = through(api_key(&places), walk);
        assert_eq!(outcome.user.as_deref(), expected, "case {number}");
        match outcome.answer {
            None => assert_eq!(outcome.request["x-client"], expected.unwrap(), "case {number}"),
            Some(answer) => {
                assert_eq!(
                    (answer.status.as_u16(), answer.reason, expected),
                    (401, Reason::ApiKey, None),
                    "case {number}"
                );
                assert_eq!(answer.headers["www-authenticate"], "ApiKey realm=\"ns/r\"");
            }
        }
    }
}

#[test]
fn a_key_goes_on_only_where_it_is_to_and_a_name_is_never_the_clients_own() {
    let places = [header("x-api-key"), CredentialPlace::Cookie("k".into()), CredentialPlace::QueryParam("k".into())];
    let walk = || {
        let walk = Walk { query: Some("k=1&a=2"), ..Walk::default() };
        walk.header("x-api-key", KEY).header("cookie", "k=2; b=3").header("x-client", "root").header("x-client", "bob")
    };
    let outcome = through(api_key(&places), walk());
    assert!(outcome.answer.is_none() && !outcome.request.contains_key("x-api-key"), "{:?}", outcome.request);
    assert_eq!((&outcome.request["cookie"], outcome.query.as_deref()), (&HeaderValue::from_static("b=3"), Some("a=2")));
    assert_eq!(outcome.request.get_all("x-client").iter().collect::<Vec<_>>(), ["ada"]);
    let outcome = through(api_key(&places), Walk { query: Some("k=0123456789abcdef"), ..Walk::default() });
    assert_eq!(outcome.query, None, "nothing is left of the query");
    let outcome = through(ApiKey { forward: true, ..api_key(&places) }, walk());
    assert_eq!(
        (&outcome.request["x-api-key"], outcome.query.as_deref()),
        (&HeaderValue::from_static(KEY), Some("k=1&a=2"))
    );
    assert_eq!(outcome.request["cookie"], "k=2; b=3");
}

#[test]
fn decisions_are_counted_and_without_keys_nobody_is_let_in() {
    let lent = Rc::new(Lent::new());
    let walk = || Walk { lent: Rc::clone(&lent), ..Walk::default() };
    let none = ApiKey { keys: None, ..api_key(&[header("x-api-key")]) };
    let answer = through(none, walk().header("x-api-key", KEY)).answer.expect("refused");
    assert_eq!((answer.status.as_u16(), answer.reason), (500, Reason::FilterRef));
    let some = || api_key(&[header("x-api-key")]);
    assert!(through(some(), walk().header("x-api-key", KEY)).answer.is_none());
    assert!(through(some(), walk()).answer.is_some() && through(some(), walk()).answer.is_some());
    let page = lent.metrics.render();
    for (verdict, count) in [("passed", 1), ("denied", 2), ("error", 1)] {
        let line = format!("tidegate_auth_requests_total{{filter=\"APIKey\",verdict=\"{verdict}\"}} {count}\n");
        assert!(page.contains(&line), "{page}");
    }
}

/// The users ada and zoë with the password `test`.
fn users() -> Arc<PasswordFile> {
    let hash = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";
    Arc::new(PasswordFile::parse(format!("ada:{hash}\nzoë:{hash}\n").as_bytes()).unwrap())
}

/// A check of a password against those users.
pub(crate) fn password_check(user: &str, password: &str, client: IpAddr) -> PasswordCheck {
    PasswordCheck::new(&users(), Some(user), password.as_bytes(), client).expect("there are users")
}

fn basic_auth() -> BasicAuth {
    BasicAuth {
        users: Some(users()),
        forward: false,
        user_header: Some(HeaderName::from_static("x-user")),
        challenge: HeaderValue::from_static("Basic realm=\"r\", charset=\"UTF-8\""),
    }
}

fn basic(text: impl AsRef<[u8]>) -> HeaderValue {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    HeaderValue::try_from(format!("Basic {encoded}")).unwrap()
}

/// What a request with these Authorization lines comes to, its password checked at once or nobody left to do that; and
/// whether it was checked.
fn with_password(
    filter: &BasicAuth,
    lent: &Lent,
    lines: &[HeaderValue],
    busy: bool,
) -> (Flow, HeaderMap, Option<Arc<str>>, bool) {
    let mut headers: HeaderMap = lines.iter().map(|line| (http::header::AUTHORIZATION, line.clone())).collect();
    headers.append("x-user", HeaderValue::from_static("root"));
    let (mut method, mut host, mut path, mut user) = (Method::GET, None, Cow::Borrowed("/"), None);
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
    let layers = [Filter::BasicAuth(Arc::new(filter.clone()))];
    let mut chain = Chain::default();
    let director = &mut Director {
        method: &mut method,
        headers: &mut headers,
        host: &mut host,
        path: &mut path,
        query: &mut None,
        backend_ref: &mut None,
        body_limit: &mut None,
        worker: 0,
        now: Instant::now(),
        states: &[],
        copies: &mut None,
        user: &mut user,
        claims: &mut None,
        limited: &mut None,
        identity: &mut Identity::default(),
        means: lent.means(),
        facts: &facts,
    };
    let (flow, is_asked) = match chain.request(&layers, director) {
        Flow::Ask(Question::Password(check)) => {
            let verdict = match (busy, check.verify()) {
                (true, _) => PasswordVerdict::Busy,
                (false, true) => PasswordVerdict::Right,
                (false, false) => PasswordVerdict::Wrong,
            };
            (chain.resume(&layers, Told::Password(verdict), director), true)
        }
        flow => (flow, false),
    };
    (flow, headers, user, is_asked)
}

#[test]
fn a_user_is_let_in_by_its_password_and_checked_once() {
    let (filter, lent) = (basic_auth(), Lent::new());
    for (user, is_asked) in [("ada", true), ("ada", false), ("zoë", true), ("zoë", false)] {
        let line = basic(format!("{user}:test"));
        let (flow, headers, found, asked) = with_password(&filter, &lent, &[line], false);
        assert!(matches!(flow, Flow::Continue), "{user}");
        assert_eq!((found.as_deref(), asked), (Some(user), is_asked));
        let names: Vec<_> = headers.get_all("x-user").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(names, [user.as_bytes()]);
        assert!(!headers.contains_key("authorization"), "{headers:?}");
    }
    let kept = BasicAuth { forward: true, ..filter.clone() };
    let (_, headers, ..) = with_password(&kept, &lent, &[basic("ada:test")], false);
    assert_eq!(headers["authorization"], basic("ada:test"));
    // Another file with another hash of hers.
    let other = PasswordFile::parse(b"ada:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    let changed = BasicAuth { users: Some(Arc::new(other)), ..filter };
    let (flow, .., asked) = with_password(&changed, &lent, &[basic("ada:test")], false);
    assert!(asked && matches!(flow, Flow::Respond(answer) if answer.status == 401));
}

#[test]
fn whoever_has_not_proved_who_it_is_is_told_how() {
    let (filter, lent) = (basic_auth(), Lent::new());
    let line = |text: &str| HeaderValue::from_str(text).unwrap();
    let (right, dollar) = (basic("ada:test"), basic(b"\xff\xfe:test"));
    let cases = [
        (vec![], false),
        (vec![basic("ada:Test")], true),
        (vec![basic("ada:")], true),
        (vec![basic("bob:test")], true),
        (vec![dollar], true),
        (vec![basic("ada")], false),
        (vec![line("Basic !!")], false),
        (vec![line("Bearer YWRhOnRlc3Q=")], false),
        (vec![line("Basic")], false),
        (vec![right.clone(), right.clone()], false),
        (vec![basic(format!("ada:{}", "x".repeat(1_100)))], false),
    ];
    for (lines, is_asked) in cases {
        let (flow, _, user, asked) = with_password(&filter, &lent, &lines, false);
        let Flow::Respond(answer) = flow else { panic!("{lines:?} is let in") };
        assert_eq!((answer.status.as_u16(), answer.reason, asked), (401, Reason::BasicAuth, is_asked), "{lines:?}");
        assert_eq!((&answer.headers["www-authenticate"], user), (&filter.challenge, None));
    }
    let (flow, ..) = with_password(&filter, &lent, &[basic("zoë:test")], true);
    assert!(
        matches!(flow, Flow::Respond(answer) if (answer.status.as_u16(), answer.reason) == (503, Reason::AuthBusy))
    );
    let none = BasicAuth { users: None, ..filter };
    let (flow, ..) = with_password(&none, &lent, &[right], false);
    assert!(
        matches!(flow, Flow::Respond(answer) if (answer.status.as_u16(), answer.reason) == (500, Reason::FilterRef))
    );
}

/// Neither in a header nor in a trailer.
#[test]
fn what_filters_say_about_a_client_no_client_says() {
    let name = HeaderName::from_static;
    let asking = |protocol| ExternalAuth {
        backend: None,
        protocol,
        max_body: None,
        timeout: Duration::from_secs(1),
        fail_open: false,
    };
    let http = AuthProtocol::Http {
        prefix: "".into(),
        request_headers: vec![name("x-asked")],
        answer_headers: vec![name("x-user")],
    };
    for (filter, own) in [
        (Filter::BasicAuth(Arc::new(basic_auth())), &["x-user"][..]),
        (Filter::ApiKey(Arc::new(api_key(&[header("x-api-key")]))), &["x-client"]),
        (Filter::ExternalAuth(Arc::new(asking(http))), &["x-user"]),
        // Whatever the service will say.
        (
            Filter::ExternalAuth(Arc::new(asking(AuthProtocol::Grpc { request_headers: Vec::new() }))),
            &["x-user", "x-client", "x-asked", "x-other"],
        ),
        (Filter::BodyLimit(1), &[]),
    ] {
        let names = ["x-user", "x-client", "x-asked", "x-other"];
        let found: Vec<_> = names.into_iter().filter(|one| filter.decides_field(&name(one))).collect();
        assert_eq!(found, own, "{filter:?}");
    }
}
