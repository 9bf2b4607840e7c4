use http::{HeaderMap, Method};

use super::*;
use crate::model::ids::RuleId;

/// A router of one candidate for each text, ranked in that order: `[host] [METHOD] path`, where a host may begin with
/// `*.`, and a path is a prefix, or `=` exact, `~` an expression, or a template when it has braces.
fn router(routes: &[&str]) -> Router {
    Router::build((0..).zip(routes).map(|(rank, text)| candidate(rank, text)).collect())
}

fn headers(headers: Vec<ValueMatch>) -> Conditions {
    Conditions { headers, ..Conditions::default() }
}

fn cookies(cookies: Vec<ValueMatch>) -> Conditions {
    Conditions { cookies, ..Conditions::default() }
}

fn query_params(query_params: Vec<ValueMatch>) -> Conditions {
    Conditions { query_params, ..Conditions::default() }
}

fn candidate(rank: u32, text: &str) -> Candidate {
    let mut candidate = Candidate::any(RuleId(rank), rank);
    for word in text.split(' ') {
        if let Some(path) = word.strip_prefix('=') {
            candidate.path = PathMatch::Exact(path.into());
        } else if let Some(pattern) = word.strip_prefix('~') {
            candidate.path = PathMatch::Regex(CompiledRegex::compile(pattern).expect("good").into());
        } else if word.contains('{') {
            candidate.path = PathMatch::Template(Template::parse(word).expect("good").into());
        } else if word.starts_with('/') {
            candidate.path = PathMatch::prefix(word);
        } else if let Some(suffix) = word.strip_prefix("*.") {
            candidate.hostname = Hostname::Wildcard(suffix.into());
        } else if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let method = Method::from_bytes(word.as_bytes()).expect("good");
            candidate = candidate.asking(Conditions { method: Some(method), ..Conditions::default() });
        } else {
            candidate.hostname = Hostname::Exact(word.into());
        }
    }
    candidate
}

/// The position of the winning route for `host/path?query` of a GET.
fn find(router: &Router, target: &str) -> Result<u32, Miss> {
    find_with(router, &Method::GET, target, &HeaderMap::new())
}

fn find_with(router: &Router, method: &Method, target: &str, headers: &HeaderMap) -> Result<u32, Miss> {
    let (host, rest) = target.split_at(target.find('/').expect("a path"));
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    let host = Some(host).filter(|host| !host.is_empty());
    router.find(&RequestView { host, method, path, query, headers }).map(|found| found.rule.0)
}

#[test]
fn hostname_comes_first_and_falls_through_when_nothing_fits() {
    let router = router(&["/x", "*.test /x", "*.b.test /x", "a.b.test /y", "a.b.test =/z", "*.b.test POST /z"]);
    let cases = [
        ("a.b.test/y", Ok(3)),
        ("a.b.test/z", Ok(4)),
        ("a.b.test/x", Ok(2)),
        ("c.b.test/x", Ok(2)),
        ("d.c.b.test/x", Ok(2)),
        ("b.test/x", Ok(1)),
        ("test/x", Ok(0)),
        ("other/x", Ok(0)),
        ("/x", Ok(0)),
        ("other/y", Err(Miss::NoPath)),
        (".b.test/x", Ok(1)),
    ];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), expected, "{target}");
    }
}

#[test]
fn a_host_without_routes_is_another_miss_than_a_path_without() {
    let router = router(&["a.test /x", "*.w.test /x"]);
    let cases = [
        ("a.test/y", Err(Miss::NoPath)),
        ("b.w.test/y", Err(Miss::NoPath)),
        ("w.test/x", Err(Miss::NoHost)),
        ("b.test/x", Err(Miss::NoHost)),
        ("/x", Err(Miss::NoHost)),
    ];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), expected, "{target}");
    }
    assert_eq!(find(&Router::default(), "a.test/x"), Err(Miss::NoHost));
}

#[test]
fn kinds_of_path_have_their_order() {
    let router =
        router(&["~/a/.*", "~/a/b.*", "/", "/a", "/a/b", "/{x}/{y}", "/a/{y}", "/a/{y*}", "=/a/b", "/{x}/b/{z*}"]);
    let cases =
        [("/a/b", 8), ("/a/c", 6), ("/z/b/c", 9), ("/a/b/c", 9), ("/a/c/d", 7), ("/a", 3), ("/z", 2), ("/z/b", 5)];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), Ok(expected), "{target}");
    }
    let router = super::tests::router(&["~/a/.*", "~/a/(b|c).*", "~/a/b"]);
    assert_eq!(find(&router, "/a/b"), Ok(1), "the longest pattern, not the longest match");
    assert_eq!(find(&router, "/a/d"), Ok(0));
    assert_eq!(find(&router, "/b"), Err(Miss::NoPath));
}

#[test]
fn an_expression_comes_before_every_prefix_and_behind_templates() {
    let router =
        router(&["/", "~/user/[0-9]+", "/user", "/user/{name}/mail", "~/user/.*/mail", "POST ~/shop/.*", "=/user/1"]);
    let cases = [
        ("/user/7", 1),
        ("/user/1", 6),
        ("/user/anna", 2),
        ("/user/anna/mail", 3),
        ("/user/a/b/mail", 4),
        ("/shop/x", 0),
        ("/other", 0),
    ];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), Ok(expected), "{target}");
    }
    assert_eq!(find_with(&router, &Method::POST, "/shop/x", &HeaderMap::new()), Ok(5));
}

#[test]
fn a_template_with_more_literals_wins_then_one_without_a_wildcard_then_the_longer() {
    let router = router(&["/{a}/{b}/{c}", "/{a}/x/{c*}", "/{a}/{b}/x", "/{a}/x/{c}", "/{a*}", "/{a}/{b*}"]);
    let cases =
        [("/1/2/3", 0), ("/1/x/3/4", 1), ("/1/2/x", 2), ("/1/x/3", 3), ("/1", 4), ("/1/2/3/4", 5), ("/1/x/x", 2)];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), Ok(expected), "{target}");
    }
}

#[test]
fn prefixes_match_whole_elements() {
    let router = router(&["/api", "/api/v1/"]);
    let cases = [
        ("/api", Ok(0)),
        ("/api/", Ok(0)),
        ("/api/v1", Ok(1)),
        ("/api/v1/", Ok(1)),
        ("/api/v1/x", Ok(1)),
        ("/api/v10", Ok(0)),
        ("/apix", Err(Miss::NoPath)),
        ("/api..", Err(Miss::NoPath)),
        ("/api%2Fx", Err(Miss::NoPath)),
        ("/API", Err(Miss::NoPath)),
    ];
    for (target, expected) in cases {
        assert_eq!(find(&router, target), expected, "{target}");
    }
}

#[test]
fn a_more_specific_path_whose_conditions_fail_gives_way() {
    let router = router(&["POST =/a/b", "POST /a/{x}", "POST /a/b", "/a", "PUT /"]);
    assert_eq!(find(&router, "/a/b"), Ok(3));
    assert_eq!(find(&router, "/b"), Err(Miss::NoPath));
    assert_eq!(find_with(&router, &Method::POST, "/a/b", &HeaderMap::new()), Ok(0));
    assert_eq!(find_with(&router, &Method::PUT, "/b", &HeaderMap::new()), Ok(4));
}

#[test]
fn priority_comes_before_path_and_after_hostname() {
    let with_priority = |priority, candidate: Candidate| Candidate { priority, ..candidate };
    let router = Router::build(vec![
        candidate(0, "a.test =/x"),
        with_priority(5, candidate(1, "a.test ~/x.*")),
        with_priority(-1, candidate(2, "a.test =/xy")),
        with_priority(9, candidate(3, "/x")),
    ]);
    assert_eq!(find(&router, "a.test/x"), Ok(1));
    assert_eq!(find(&router, "a.test/xy"), Ok(1));
    assert_eq!(find(&router, "b.test/x"), Ok(3));
    assert_eq!(find(&router, "a.test/z"), Err(Miss::NoPath));
}

#[test]
fn number_of_conditions_breaks_ties_in_the_order_of_the_api() {
    let present = |name: &str| ValueMatch { name: name.into(), test: ValueTest::Present };
    let bare = |rank| candidate(rank, "=/x");
    let router = Router::build(vec![
        bare(0),
        bare(1).asking(query_params(vec![present("q"), present("r")])),
        bare(2).asking(cookies(vec![present("c")])),
        bare(3).asking(headers(vec![present("h")])),
        bare(4).asking(headers(vec![present("h"), present("i")])),
        bare(5).asking(Conditions { method: Some(Method::GET), ..Conditions::default() }),
    ]);
    let mut headers = HeaderMap::new();
    let cases: [(&str, &str, [u32; 2]); 5] =
        [("", "", [0, 1]), ("cookie", "c=1", [2, 2]), ("h", "1", [3, 3]), ("i", "1", [4, 4]), ("", "", [4, 4])];
    for (name, value, expected) in cases {
        if !name.is_empty() {
            headers.insert(name, value.parse().expect("good"));
        }
        for (target, expected) in ["/x", "/x?q=1&r=2"].into_iter().zip(expected) {
            assert_eq!(find_with(&router, &Method::HEAD, target, &headers), Ok(expected), "{name} {target}");
        }
    }
    assert_eq!(find_with(&router, &Method::GET, "/x", &headers), Ok(5), "method before headers");
}

#[test]
fn rank_decides_among_equals_whatever_the_order_of_building() {
    let mut candidates = vec![candidate(3, "/a"), candidate(1, "/a"), candidate(2, "/a")];
    for _ in 0..3 {
        candidates.rotate_left(1);
        let router = Router::build(candidates.clone());
        assert_eq!(find(&router, "/a"), Ok(1));
        assert!(router.candidates().map(|candidate| candidate.rank).eq([1, 2, 3]));
    }
}

#[test]
fn path_params_belong_to_the_match_that_won() {
    let router = router(&["/u/{id}/{rest*}", "/u/{user}/x", "/p"]);
    let (method, headers) = (Method::GET, HeaderMap::new());
    let view = |path| RequestView { host: None, method: &method, path, query: None, headers: &headers };
    let found = router.find(&view("/u/7/y%20z/w")).expect("found");
    assert_eq!(router.path_param(found, "/u/7/y%20z/w", "id"), Some("7"));
    assert_eq!(router.path_param(found, "/u/7/y%20z/w", "rest"), Some("y%20z/w"));
    assert_eq!(router.path_param(found, "/u/7/y%20z/w", "user"), None);
    assert!(router.candidate(found).expect("its own").path_params().eq(["id", "rest"]));
    let found = router.find(&view("/u/7/x")).expect("found");
    assert_eq!(router.path_param(found, "/u/7/x", "user"), Some("7"));
    let found = router.find(&view("/p")).expect("found");
    assert_eq!(router.path_param(found, "/p", "id"), None);
    assert_eq!(router.candidate(found).expect("its own").path_params().count(), 0);
    assert_eq!(router.path_param(FoundRule { rule: RuleId(0), candidate: 99 }, "/p", "id"), None);
}

#[test]
fn a_router_is_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&Router::default());
}

#[test]
fn equal_routers_answer_alike() {
    let texts = ["a.test /x", "~/r", "/u/{id}"];
    assert_eq!(router(&texts), router(&texts));
    let reranked: Vec<_> =
        texts.iter().map(|text| Candidate { rank: 9, rule: RuleId(0), ..candidate(0, text) }).collect();
    let ranked: Vec<_> = texts.iter().map(|text| Candidate { rule: RuleId(0), ..candidate(0, text) }).collect();
    assert_eq!(Router::build(ranked), Router::build(reranked), "rank alone changes no answer here");
    for other in [["b.test /x", "~/r", "/u/{id}"], ["a.test /x", "~/s", "/u/{id}"], ["a.test /x", "~/r", "/u/{name}"]] {
        assert_ne!(router(&texts), router(&other), "{other:?}");
    }
    assert_ne!(router(&texts), router(&texts[..2]));
}

#[test]
fn a_selector_finds_one_tenant_among_many_and_leaves_precedence_alone() {
    let exact = |name: &str, value: String| ValueMatch { name: name.into(), test: ValueTest::Exact(value.into()) };
    let mut candidates: Vec<_> = (0..100)
        .map(|n| candidate(n, "/").asking(headers(vec![exact("x-tenant", format!("t{n}"))])))
        .chain((100..200).map(|n| candidate(n, "/").asking(cookies(vec![exact("tenant", format!("t{n}"))]))))
        .chain((200..300).map(|n| candidate(n, "/").asking(query_params(vec![exact("t", format!("t {n}"))]))))
        .collect();
    candidates.push(candidate(300, "/"));
    candidates.push(candidate(301, "/").asking(headers(vec![exact("x-tenant", "t5".into()), exact("b", "1".into())])));
    let router = Router::build(candidates);
    type Lines<'a> = &'a [(&'static str, &'a str)];
    let cases: [(Lines<'_>, &str, u32); 9] = [
        (&[("x-tenant", "t42")], "/", 42),
        (&[("x-tenant", "t5"), ("b", "1")], "/", 301),
        (&[("x-tenant", "t5"), ("b", "2")], "/", 5),
        (&[("x-tenant", "t42"), ("x-tenant", "t42")], "/", 300),
        (&[("cookie", "tenant=t142")], "/", 142),
        (&[("cookie", "tenant=t142"), ("x-tenant", "t42")], "/", 42),
        (&[], "/?t=t+242", 242),
        (&[], "/?t=%74%20242&u", 242),
        (&[("x-tenant", "other")], "/?t=other", 300),
    ];
    for (lines, target, expected) in cases {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().expect("a value"));
        }
        assert_eq!(find_with(&router, &Method::GET, target, &map), Ok(expected), "{lines:?} {target}");
    }
}
