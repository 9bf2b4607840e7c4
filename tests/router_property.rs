//! The router against a naive one: a million generated requests must find the same winner in both.
//!
//! `ROUTER_PROPERTY_SETS` sets the number of route sets (2,000 by default).

#[path = "support/router_oracle.rs"]
mod router_oracle;

use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use router_oracle::{Request, naive, real};
use tidegate::model::ids::RuleId;
use tidegate::model::matching::{
    Candidate, CompiledRegex, Conditions, Effort, Hostname, PathMatch, RequestView, Router, Template, ValueMatch,
    ValueTest, precedence,
};
use tidegate::model::path::{CanonicalPath, Slashes};

const REQUESTS_PER_SET: usize = 500;

/// Every pattern that is generated.
static PATTERNS: LazyLock<Vec<Arc<CompiledRegex>>> = LazyLock::new(|| {
    let patterns = [
        "/a.*",
        "/(a|b)/.*",
        ".*/b",
        "/[a-c]+/[^/]+",
        "/",
        "/a/b?.*",
        "/a/b/.+",
        "/b/.*",
        "/b/(a|b)",
        "v+",
        "v|w",
        "v.*w?",
        "",
        "[vw ]{2}",
    ];
    patterns.map(|pattern| CompiledRegex::compile(pattern).expect("good").into()).into()
});

#[test]
fn equals_a_naive_router() {
    let sets = std::env::var("ROUTER_PROPERTY_SETS").map_or(2_000, |sets| sets.parse().expect("a number"));
    // Wins by kind of path: a generator whose requests seldom fit something would prove little.
    let mut wins = [0; 4];
    let mut shadowed = 0;
    for seed in 0..sets {
        let mut rng = fastrand::Rng::with_seed(seed);
        let candidates = candidates(&mut rng);
        let router = Router::build(candidates.clone());
        let never = if seed % 16 == 0 { never_win(&candidates) } else { Vec::new() };
        shadowed += never.len();
        for _ in 0..REQUESTS_PER_SET {
            let request = request(&mut rng);
            let expected = naive(&candidates, &request);
            if real(&router, &request) != expected {
                let (candidates, expected) = shrink(candidates, &request);
                let actual = real(&Router::build(candidates.clone()), &request);
                panic!("seed {seed}: {request:#?}\nof {candidates:#?}\nfound {actual:?}, expected {expected:?}");
            }
            if let Ok(found) = router.find(&request.view()) {
                let winner = router.candidate(found).expect("its own candidate");
                wins[kind(&winner.path)] += 1;
                assert!(
                    !never.contains(&winner.rank),
                    "seed {seed}: {request:?} is won by {winner:?} of {candidates:#?}"
                );
            }
        }
    }
    let all = sets * REQUESTS_PER_SET as u64;
    assert!(wins.iter().all(|wins| wins * 50 > all), "of {all} requests, wins by kind of path: {wins:?}");
    assert!(shadowed as u64 * 16 > sets, "{shadowed} candidates that can never win");
}

/// Ranks of the candidates that are said never to win.
fn never_win(candidates: &[Candidate]) -> Vec<u32> {
    let loses = |loser: &Candidate| {
        let mut earlier = candidates.iter().filter(|other| precedence(other, loser).is_lt());
        earlier.any(|other| other.covers(loser, &mut Effort::new(1 << 14)))
    };
    candidates.iter().filter(|candidate| loses(candidate)).map(|candidate| candidate.rank).collect()
}

/// Whatever a client writes, a path that the router gives to an open route is not read as another one behind it, by
/// RFC 3986 or by a backend that decodes `%2F` and `%5C` and drops path parameters.
#[test]
fn a_backend_reads_every_path_under_the_route_that_was_chosen() {
    let prefixes = ["/api", "/admin"];
    let candidate =
        |n: u32| Candidate { path: PathMatch::prefix(prefixes[n as usize]), ..Candidate::any(RuleId(n), n) };
    let router = Router::build((0..2).map(candidate).collect());
    let pieces = [
        "/", "/", "/", "//", "api", "admin", "api", "admin", "..", ".", "%2e", "%2E%2e", "%2f", "%5C", ";", ";x=1",
        "%61dmin", "x", "%252e", "%252f", "\\", "...",
    ];
    let mut rng = fastrand::Rng::with_seed(5);
    let mut chosen = [0; 2];
    for _ in 0..40_000 {
        let raw: String = (0..rng.usize(1..10)).map(|_| one(&mut rng, &pieces)).collect();
        let raw = format!("/{}{raw}", one(&mut rng, &["api", "admin", "", "x"]));
        let Ok(path) = CanonicalPath::parse(raw.as_bytes(), one(&mut rng, &[Slashes::Merge, Slashes::Keep])) else {
            continue;
        };
        let headers = HeaderMap::new();
        let view =
            RequestView { host: None, method: &Method::GET, path: path.as_str(), query: None, headers: &headers };
        let Ok(found) = router.find(&view) else { continue };
        let lenient = path.as_str().replace("%2F", "/").replace("%5C", "/");
        let lenient: Vec<&str> = lenient.split('/').map(|segment| segment.split(';').next().unwrap_or("")).collect();
        let prefix = prefixes[found.rule.0 as usize];
        for read in [path.as_str(), &lenient.join("/")] {
            let mut stack = Vec::new();
            for segment in read.split('/').filter(|segment| !segment.is_empty()) {
                match segment {
                    "." => {}
                    ".." => drop(stack.pop()),
                    _ => stack.push(segment),
                }
            }
            assert_eq!(
                stack.first(),
                Some(&&prefix[1..]),
                "{raw} was routed to {prefix} as {path} and is read as {read}"
            );
        }
        chosen[found.rule.0 as usize] += 1;
    }
    assert!(chosen.iter().all(|&chosen| chosen > 1_000), "{chosen:?}");
}

fn kind(path: &PathMatch) -> usize {
    match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Template(_) => 1,
        PathMatch::Prefix(_) => 2,
        PathMatch::Regex(_) => 3,
    }
}

/// Takes candidates away as long as the two routers differ.
fn shrink(mut candidates: Vec<Candidate>, request: &Request) -> (Vec<Candidate>, router_oracle::Answer) {
    let mut at = 0;
    while at < candidates.len() {
        let mut fewer = candidates.clone();
        fewer.remove(at);
        if real(&Router::build(fewer.clone()), request) == naive(&fewer, request) {
            at += 1;
        } else {
            candidates = fewer;
        }
    }
    let answer = naive(&candidates, request);
    (candidates, answer)
}

// Generation: few names, so that much competes.

fn one<T: Clone>(rng: &mut fastrand::Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

fn path(rng: &mut fastrand::Rng, elements: &[&str], max: usize) -> String {
    let depth = rng.usize(0..=max);
    (0..depth).fold(String::new(), |path, _| path + "/" + one(rng, elements))
}

fn candidates(rng: &mut fastrand::Rng) -> Vec<Candidate> {
    // Some sets have one host, some one path, so that tables of every shape are filled.
    let (one_host, one_path, priorities) = (rng.u8(..3) == 0, rng.u8(..8) == 0, rng.u8(..4) == 0);
    let count = if one_path { rng.usize(16..160) } else { rng.usize(1..40) };
    let common_path = path_match(rng);
    let mut ranks: Vec<u32> = (0..count as u32).collect();
    rng.shuffle(&mut ranks);
    let mut candidates: Vec<_> = (0..count)
        .map(|at| Candidate {
            rule: RuleId(rng.u32(..50)),
            hostname: if one_host { Hostname::Any } else { hostname(rng) },
            priority: if priorities { rng.i32(-1..=1) } else { 0 },
            path: if one_path { common_path.clone() } else { path_match(rng) },
            conditions: Conditions {
                method: (rng.u8(..4) == 0).then(|| one(rng, &[Method::GET, Method::POST])),
                headers: conditions(rng, &["h1", "h2"], one_path),
                query_params: conditions(rng, &["q 1", "q2"], one_path),
                cookies: conditions(rng, &["c1", "c2"], one_path),
            }
            .shared(),
            rank: ranks[at],
        })
        .collect();
    rng.shuffle(&mut candidates);
    candidates
}

fn hostname(rng: &mut fastrand::Rng) -> Hostname {
    match rng.u8(..3) {
        0 => Hostname::Exact((one(rng, &["a.test", "b.a.test", "c.b.a.test", "x"])).into()),
        1 => Hostname::Wildcard((one(rng, &["test", "a.test", "b.a.test", "x"])).into()),
        _ => Hostname::Any,
    }
}

fn path_match(rng: &mut fastrand::Rng) -> PathMatch {
    match rng.u8(..8) {
        0 | 1 => PathMatch::Exact(match path(rng, &["a", "b", "c", "a%2Fb", ""], 4) {
            empty if empty.is_empty() => "/".into(),
            path => path.into(),
        }),
        2 | 3 => PathMatch::prefix(&path(rng, &["a", "b", "c", "aa"], 4)),
        4..=6 => {
            let mut template = String::new();
            for at in 0..rng.usize(1..4) {
                let variable = format!("{{v{at}}}");
                template = template + "/" + one(rng, &["a", "b", variable.as_str(), variable.as_str()]);
            }
            template += one(rng, &["", "", "/", "/{rest*}"]);
            PathMatch::Template(Template::parse(&template).expect("generated").into())
        }
        _ => PathMatch::Regex(one(rng, &PATTERNS[..9])),
    }
}

fn conditions(rng: &mut fastrand::Rng, names: &[&str], many: bool) -> Vec<ValueMatch> {
    let mut conditions = Vec::new();
    for &name in names {
        if rng.u8(..if many { 2 } else { 8 }) == 0 {
            conditions.push(ValueMatch { name: name.into(), test: value_test(rng) });
        }
    }
    conditions
}

fn value_test(rng: &mut fastrand::Rng) -> ValueTest {
    match rng.u8(..8) {
        0..=3 => ValueTest::Exact((one(rng, &["v", "w", "vv", "v w", ""])).into()),
        4 => ValueTest::Prefix((one(rng, &["v", "w", "v ", ""])).into()),
        5 => ValueTest::Regex(one(rng, &PATTERNS[9..])),
        6 => ValueTest::Present,
        _ => ValueTest::Absent,
    }
}

fn request(rng: &mut fastrand::Rng) -> Request {
    let host =
        one(rng, &["a.test", "b.a.test", "c.b.a.test", "d.c.b.a.test", ".a.test", "test", "x", "y.x", "other", ""]);
    let path = match path(rng, &["a", "a", "b", "b", "c", "aa", "a%2Fb", "d", ""], 4) {
        empty if empty.is_empty() => "/".to_owned(),
        path => path,
    };
    let mut headers = HeaderMap::new();
    for name in ["h1", "h1", "h2"] {
        if rng.u8(..3) == 0 {
            let value = HeaderValue::from_static(one(rng, &["v", "w", "vv", "v w", "", "z"]));
            headers.append(HeaderName::from_static(name), value);
        }
    }
    for _ in 0..rng.u8(..3) {
        let line = one(rng, &["c1=v", "c1=v w; c2=", "c2=vv; x=c1=v", "c1=w; c2=w", "c2=v; c2=v", "c1"]);
        headers.append(http::header::COOKIE, HeaderValue::from_static(line));
    }
    let pieces = ["q+1=v", "q2=v", "q%201=v+w", "q2=%76%20w", "q2", "x=q2", "", "q2=vv", "q%31=v", "%71+1=w"];
    let query = (rng.u8(..4) != 0).then(|| (0..rng.u8(..4)).map(|_| one(rng, &pieces)).collect::<Vec<_>>().join("&"));
    let method = one(rng, &[Method::GET, Method::GET, Method::POST, Method::PUT]);
    Request { host: Some(host.to_owned()).filter(|host| !host.is_empty()), method, path, query, headers }
}
