//! `cargo bench --bench router`: the cost of finding a rule at 10, 1,000 and 10,000 routes, in several shapes.
//!
//! Prints nanoseconds a find and the ratio to 10 routes. Ends with 1 when a ratio is above 2, except for regular
//! expressions: there are at most 1,000 of them in an instance, and those without whole literal elements at the start
//! are tried one after the other.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method};
use tidegate::model::ids::RuleId;
use tidegate::model::matching::{
    Candidate, CompiledRegex, Conditions, Hostname, PathMatch, RequestView, Router, Template, ValueMatch, ValueTest,
};

const SIZES: [u32; 3] = [10, 1_000, 10_000];

/// The largest ratio of a size to 10 routes.
const FLAT: f64 = 2.0;

/// Requests of a run; the same number for every size, and their text in one piece, so that reading the requests costs
/// the same and does not push the router out of the caches: a server has the request at hand when it asks.
const REQUESTS: usize = 10_000;

/// Rounds over all sizes; the best counts, for another program may disturb the others.
const ROUNDS: usize = 50;

/// Tries of a shape that is not flat, for the same reason.
const TRIES: usize = 4;

struct Request {
    host: String,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
}

/// One shape of configuration: candidate `n`, and a request that it or a neighbour wins.
struct Shape {
    name: &'static str,
    candidate: fn(u32) -> Candidate,
    request: fn(u32) -> Request,
    flat: bool,
}

fn candidate(n: u32, host: String, path: PathMatch) -> Candidate {
    Candidate { hostname: Hostname::Exact(host.into()), path, ..Candidate::any(RuleId(n), n) }
}

fn request(host: &str, path: String) -> Request {
    Request { host: host.to_owned(), path, query: None, headers: HeaderMap::new() }
}

fn template(text: &str) -> PathMatch {
    PathMatch::Template(Template::parse(text).expect("good").into())
}

fn tree_path(n: u32) -> String {
    format!("/team-{}/app-{}/part-{}", n % 10, n / 10 % 10, n / 100)
}

const ONE: &str = "www.example.com";

const SHAPES: &[Shape] = &[
    Shape {
        name: "hosts",
        candidate: |n| candidate(n, format!("service-{n}.example.com"), PathMatch::prefix("/")),
        request: |n| request(&format!("service-{n}.example.com"), "/api/v1/items/42".into()),
        flat: true,
    },
    Shape {
        name: "hosts, two rules",
        candidate: |n| {
            let path = if n % 2 == 0 { PathMatch::prefix("/") } else { PathMatch::prefix("/api") };
            candidate(n, format!("service-{}.example.com", n / 2), path)
        },
        request: |n| request(&format!("service-{}.example.com", n / 2), "/api/v1/items/42".into()),
        flat: true,
    },
    Shape {
        name: "wildcards",
        candidate: |n| {
            let hostname = Hostname::Wildcard(format!("tenant-{n}.example.com").into());
            Candidate { hostname, ..Candidate::any(RuleId(n), n) }
        },
        request: |n| request(&format!("www.eu.tenant-{n}.example.com"), "/api/v1/items/42".into()),
        flat: true,
    },
    Shape {
        name: "exact paths",
        candidate: |n| candidate(n, ONE.into(), PathMatch::Exact(format!("/api/v1/service-{n}").into())),
        request: |n| request(ONE, format!("/api/v1/service-{n}")),
        flat: true,
    },
    Shape {
        name: "prefixes",
        candidate: |n| candidate(n, ONE.into(), PathMatch::prefix(&format!("/service-{n}"))),
        request: |n| request(ONE, format!("/service-{n}/v1/items/42")),
        flat: true,
    },
    Shape {
        name: "prefix tree",
        candidate: |n| candidate(n, ONE.into(), PathMatch::prefix(&tree_path(n))),
        request: |n| request(ONE, tree_path(n) + "/items/42"),
        flat: true,
    },
    Shape {
        name: "templates",
        candidate: |n| candidate(n, ONE.into(), template(&format!("/service-{n}/{{id}}/items/{{item}}"))),
        request: |n| request(ONE, format!("/service-{n}/7/items/42")),
        flat: true,
    },
    Shape {
        name: "grpc methods",
        candidate: |n| candidate(n, ONE.into(), template(&format!("/{{service}}/Method{n}"))),
        request: |n| request(ONE, format!("/shop.v1.Orders/Method{n}")),
        flat: true,
    },
    Shape {
        name: "tenants by header",
        candidate: |n| {
            let test = ValueTest::Exact(format!("tenant-{n:05}").into());
            let headers = vec![ValueMatch { name: "x-tenant".into(), test }];
            candidate(n, ONE.into(), PathMatch::prefix("/api")).asking(Conditions { headers, ..Conditions::default() })
        },
        request: |n| {
            let mut request = request(ONE, "/api/v1/items/42".into());
            request.headers.insert("x-tenant", HeaderValue::from_maybe_shared(format!("tenant-{n:05}")).expect("good"));
            request
        },
        flat: true,
    },
    Shape {
        name: "mixed",
        candidate: |n| {
            let path = match n % 10 {
                0 => PathMatch::prefix("/"),
                1 => PathMatch::prefix("/api"),
                2 => PathMatch::prefix("/api/v2"),
                3..=5 => PathMatch::Exact(format!("/page-{}", n % 10).into()),
                6 => PathMatch::Regex(CompiledRegex::compile("/old/[0-9]+").expect("good").into()),
                _ => template(&format!("/api/kind-{}/{{id}}", n % 10)),
            };
            let method = (n % 3 == 0).then_some(Method::GET);
            candidate(n, format!("service-{}.example.com", n / 10), path)
                .asking(Conditions { method, ..Conditions::default() })
        },
        request: |n| {
            let path = match n % 4 {
                0 => "/api/v2/items/42".into(),
                1 => format!("/page-{}", n % 10),
                2 => format!("/api/kind-{}/42", n % 10),
                _ => "/assets/app.js".into(),
            };
            let mut request = request(&format!("service-{}.example.com", n / 10), path);
            request.query = Some("a=1&b=2".into());
            request
        },
        flat: true,
    },
    Shape {
        name: "unknown host",
        candidate: |n| candidate(n, format!("service-{n}.example.com"), PathMatch::prefix("/")),
        request: |n| request(&format!("nobody-{n}.example.com"), "/".into()),
        flat: true,
    },
    Shape {
        name: "unknown path",
        candidate: |n| candidate(n, ONE.into(), PathMatch::prefix(&format!("/a/service-{n}"))),
        request: |n| request(ONE, format!("/a/nobody-{n}/x")),
        flat: true,
    },
    Shape {
        name: "expressions",
        candidate: |n| {
            let pattern = format!("/service-{}/v[0-9]+/.*", n % 1_000);
            candidate(n, ONE.into(), PathMatch::Regex(CompiledRegex::compile(&pattern).expect("good").into()))
        },
        request: |n| request(ONE, format!("/service-{}/v1/items/42", n % 1_000)),
        flat: false,
    },
    Shape {
        name: "bare expressions",
        candidate: |n| {
            let pattern = format!("/service-{}(?:/v[0-9]+/.*)?", n % 1_000);
            candidate(n, ONE.into(), PathMatch::Regex(CompiledRegex::compile(&pattern).expect("good").into()))
        },
        request: |n| request(ONE, format!("/service-{}/v1/items/42", n % 1_000)),
        flat: false,
    },
];

/// Requests by where host, path and query end in one text.
#[derive(Default)]
struct Requests {
    text: String,
    ends: Vec<[u32; 3]>,
    /// Empty when no request has any.
    headers: Vec<HeaderMap>,
}

impl Requests {
    fn add(&mut self, request: Request) {
        let mut end = |text: &str| {
            self.text.push_str(text);
            self.text.len() as u32
        };
        let ends = [end(&request.host), end(&request.path), end(request.query.as_deref().unwrap_or(""))];
        self.ends.push(ends);
        if !request.headers.is_empty() {
            self.headers.push(request.headers);
        }
    }

    fn find_all(&self, router: &Router) {
        let (mut from, none) = (0, HeaderMap::new());
        for (at, ends) in self.ends.iter().enumerate() {
            let [host, path, query] = ends.map(|end| {
                let piece = &self.text[from..end as usize];
                from = end as usize;
                piece
            });
            let view = RequestView {
                host: Some(host),
                method: &Method::GET,
                path,
                query: Some(query).filter(|query| !query.is_empty()),
                headers: self.headers.get(at).unwrap_or(&none),
            };
            let _ = black_box(router.find(black_box(&view)));
        }
    }
}

/// Best time of one find in nanoseconds for each size.
fn measure(shape: &Shape) -> Vec<(u32, f64)> {
    let sizes = SIZES.into_iter().filter(|&size| !shape.name.contains("expressions") || size <= 1_000);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut runs: Vec<_> = sizes
        .map(|size| {
            let router = Router::build((0..size).map(shape.candidate).collect());
            let mut requests = Requests::default();
            (0..REQUESTS).for_each(|_| requests.add((shape.request)(rng.u32(..size))));
            (size, router, requests, f64::MAX)
        })
        .collect();
    for _ in 0..ROUNDS {
        for (_, router, requests, best) in &mut runs {
            let start = Instant::now();
            requests.find_all(router);
            *best = best.min(start.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64);
        }
    }
    runs.into_iter().map(|(size, _, _, best)| (size, best)).collect()
}

fn main() -> ExitCode {
    println!("{:<20} {:>7} {:>9} {:>7}", "shape", "routes", "ns/find", "ratio");
    let mut flat = true;
    for shape in SHAPES {
        let ratio_of = |times: &[(u32, f64)]| times.iter().map(|(_, time)| time / times[0].1).fold(1.0, f64::max);
        let mut times = measure(shape);
        for _ in 1..TRIES {
            if !shape.flat || ratio_of(&times) <= FLAT {
                break;
            }
            times = measure(shape);
        }
        let base = times[0].1;
        for (size, time) in times {
            let ratio = time / base;
            let verdict = match (shape.flat, ratio > FLAT) {
                (false, _) => "  (not gated)",
                (true, false) => "",
                (true, true) => {
                    flat = false;
                    "  ABOVE THE LIMIT"
                }
            };
            println!("{:<20} {size:>7} {time:>9.1} {ratio:>7.2}{verdict}", shape.name);
        }
    }
    println!();
    for shape in SHAPES.iter().filter(|shape| shape.flat) {
        let candidates: Vec<_> = (0..10_000).map(shape.candidate).collect();
        let start = Instant::now();
        let router = Router::build(candidates);
        println!("{:<20} {:>6.1} ms to build with 10,000 routes", shape.name, start.elapsed().as_secs_f64() * 1e3);
        drop(black_box(router));
    }
    if flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
