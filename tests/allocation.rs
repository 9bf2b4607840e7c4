//! What must not allocate, and how much the router may.

use std::sync::Arc;

use allocation_counter::measure;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate::model::host::{normalize_host, parse_authority};
use tidegate::model::ids::RuleId;
use tidegate::model::matching::{
    Candidate, CompiledRegex, Conditions, FoundRule, Hostname, PathMatch, RequestView, Router, Template, ValueMatch,
    ValueTest,
};
use tidegate::model::path::{CanonicalPath, Slashes};

/// The bytes and calls that a piece of code takes from the allocator, which must be none.
fn assert_allocates_nothing(what: &str, mut run: impl FnMut()) {
    let info = measure(&mut run);
    assert_eq!((info.count_total, info.bytes_total), (0, 0), "{what} allocated");
}

fn value(name: &str, test: ValueTest) -> ValueMatch {
    ValueMatch { name: name.into(), test }
}

fn regex(pattern: &str) -> Arc<CompiledRegex> {
    Arc::new(CompiledRegex::compile(pattern).expect("good"))
}

/// Candidates that use every kind of match, in numbers that fill every table.
fn candidates() -> Vec<Candidate> {
    let mut candidates = Vec::new();
    let mut add = |hostname: &Hostname, path: PathMatch, change: &dyn Fn(&mut Candidate, &mut Conditions)| {
        let rank = candidates.len() as u32;
        let mut conditions = Conditions::default();
        let mut candidate = Candidate { hostname: hostname.clone(), path, ..Candidate::any(RuleId(rank), rank) };
        change(&mut candidate, &mut conditions);
        candidates.push(candidate.asking(conditions));
    };
    let exact = |name: &str, test: &str| value(name, ValueTest::Exact(test.into()));
    let host = Hostname::Exact("a.test".into());
    for n in 0..100 {
        add(&host, PathMatch::Exact(format!("/exact/{n}").into()), &|_, _| {});
        add(&host, PathMatch::prefix(&format!("/prefix/{n}")), &|_, _| {});
        let template = Template::parse(&format!("/t{n}/{{id}}/x/{{rest*}}")).expect("good");
        add(&host, PathMatch::Template(template.into()), &|_, _| {});
        add(&host, PathMatch::prefix("/tenants"), &|_, c| c.headers = vec![exact("x-tenant", &n.to_string())]);
        add(&host, PathMatch::prefix("/tenants"), &|_, c| c.cookies = vec![exact("tenant", &n.to_string())]);
        add(&host, PathMatch::prefix("/tenants"), &|_, c| c.query_params = vec![exact("tenant", &n.to_string())]);
    }
    add(&host, PathMatch::prefix("/values"), &|_, c| {
        c.query_params = vec![value("q", ValueTest::Regex(regex("a b+")))]
    });
    add(&host, PathMatch::prefix("/values"), &|_, c| c.headers = vec![value("h", ValueTest::Prefix("x".into()))]);
    add(&host, PathMatch::prefix("/values"), &|_, c| c.cookies = vec![value("c", ValueTest::Regex(regex("[0-9]+")))]);
    add(&host, PathMatch::prefix("/values"), &|_, c| {
        c.method = Some(Method::PUT);
        c.headers = vec![value("h", ValueTest::Absent), value("i", ValueTest::Present)];
    });
    add(&Hostname::Wildcard("w.test".into()), PathMatch::prefix("/"), &|candidate, _| candidate.priority = 1);
    add(&Hostname::Wildcard("w.test".into()), PathMatch::Regex(regex("/r[0-9]+/.*")), &|candidate, _| {
        candidate.priority = 2
    });
    add(&Hostname::Any, PathMatch::Regex(regex("/(?:a|b)*a(?:a|b){16}")), &|_, _| {});
    candidates
}

#[test]
fn finding_allocates_nothing() {
    let router = Router::build(candidates());
    let line =
        |name: &'static str, value: &'static str| (HeaderName::from_static(name), HeaderValue::from_static(value));
    let headers: HeaderMap =
        [line("x-tenant", "42"), line("h", "xyz"), line("cookie", "a=b; c=7; tenant=7")].into_iter().collect();
    let (get, none) = (Method::GET, HeaderMap::new());
    let targets = [
        ("a.test", "/exact/42", None, &none),
        ("a.test", "/prefix/42/x/y", None, &none),
        ("a.test", "/t42/7/x/y/z", None, &none),
        ("a.test", "/tenants/x", None, &headers),
        ("a.test", "/tenants/x", Some("x=1&tenant=%34%32"), &none),
        ("a.test", "/values/x", Some("q=a+bbb"), &none),
        ("a.test", "/values/x", None, &headers),
        ("a.test", "/nothing", Some("a=b"), &headers),
        ("x.y.w.test", "/r12/x", None, &none),
        ("x.y.w.test", "/", None, &none),
        ("other.test", "/nothing", None, &none),
        // By simulation, whose scratch space is the thread's: the first request may make it.
        ("other.test", "/bbaaaaaaaaaaaaaaaaa", None, &none),
    ];
    let find = || {
        let find = |&(host, path, query, headers): &(&str, &str, Option<&str>, &HeaderMap)| {
            router.find(&RequestView { host: Some(host), method: &get, path, query, headers }).ok()
        };
        targets.each_ref().map(find)
    };
    let found = find();
    assert_eq!(found.iter().flatten().count(), targets.len() - 2, "all but two are found: {found:?}");
    assert_allocates_nothing("find", || assert_eq!(find(), found));
    let template = found[2].expect("found above");
    assert_allocates_nothing("path_param", || {
        assert_eq!(router.path_param(template, "/t42/7/x/y/z", "rest"), Some("y/z"));
        assert_eq!(router.path_param(template, "/t42/7/x/y/z", "none"), None);
        assert!(router.candidate(template).is_some_and(|candidate| candidate.path_params().eq(["id", "rest"])));
    });
}

#[test]
fn a_canonical_path_and_a_lower_case_host_cost_no_allocation() {
    assert_allocates_nothing("canonical path", || {
        let path = CanonicalPath::parse(b"/api/v1/users/%20;v=1/.well-known/x%2Fy", Slashes::Merge).expect("valid");
        assert!(!path.is_changed());
    });
    assert_allocates_nothing("host", || {
        let authority = parse_authority(b"www.example.com.:8080").expect("valid");
        assert_eq!(normalize_host(authority.host), "www.example.com");
    });
}

/// Ten thousand candidates as 5,000 routes with two rules each make them: with the candidates themselves the router
/// stays below 6 MiB.
#[test]
fn ten_thousand_candidates_stay_small() {
    type Shape = (&'static str, fn(u32) -> Candidate);
    let shapes: [Shape; 3] = [
        ("hosts", |n| Candidate {
            hostname: Hostname::Exact(format!("service-{}.apps.example.com", n / 2).into()),
            path: PathMatch::prefix(if n % 2 == 0 { "/" } else { "/api/v1" }),
            ..Candidate::any(RuleId(n), n)
        }),
        ("templates", |n| Candidate {
            hostname: Hostname::Exact("api.example.com".into()),
            path: PathMatch::Template(Template::parse(&format!("/v1/service-{n}/{{id}}/items")).expect("good").into()),
            ..Candidate::any(RuleId(n), n)
        }),
        ("tenants", |n| Candidate {
            hostname: Hostname::Exact("api.example.com".into()),
            ..Candidate::any(RuleId(n), n).asking(Conditions {
                headers: vec![value("x-tenant", ValueTest::Exact(format!("tenant-{n}").into()))],
                ..Conditions::default()
            })
        }),
    ];
    for (shape, candidate) in shapes {
        let mut router = Router::default();
        let info = measure(|| router = Router::build((0..10_000).map(candidate).collect()));
        let kib = info.bytes_current / 1024;
        println!("{shape}: {kib} KiB for 10,000 candidates");
        assert!(kib < 6 * 1024, "{shape}: {kib} KiB");
        assert!(router.candidate(FoundRule { rule: RuleId(0), candidate: 9_999 }).is_some());
    }
}
