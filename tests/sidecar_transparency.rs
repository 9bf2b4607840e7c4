//! What an application sees of requests that come to it through a sidecar, beside what it sees of them without one: the wire
//! cases of `tests/data/wire-cases/http1.json`, both ways.

#[path = "support/http1_bed.rs"]
mod http1_bed;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use http1_bed::{Backend, Case, Delivery, Observation, Recorded};
use support::gateway::{Gateway, port};

/// Applications with a sidecar each that work in parallel; most of a case is waiting.
const BEDS: usize = 8;

/// Fields about one connection alone (RFC 9110 §7.6.1), and those that say where a message ends, which is compared itself.
const OF_THE_CONNECTION: [&str; 9] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What is seen of targets in canonical form, as routes are matched by it; all others stay as they were sent.
const CANONICAL: [(&str, &str); 11] = [
    ("C-absolute-form-same-host", "/x"),
    ("C-target-begins-with-two-slashes", "/evil.test/x"),
    ("C-raw-0xff-in-target", "/%FF"),
    ("C-raw-utf-8-in-target", "/%C3%A9"),
    ("C-raw-quotes-in-query", "/a?q=%22x%22%3C%60%3E"),
    ("C-backslash-in-path", "/a%5Cb"),
    ("E-dot-dot", "/admin"),
    ("E-encoded-dot-dot", "/admin"),
    ("E-trailing-dot-segment", "/a/"),
    ("E-overlong-utf-8-dot", "/%C0%AE%C0%AE/admin"),
    ("E-hex-case", "/a%3Ab"),
];

/// A request without a host, which HTTP/1.1 does not know: an empty one says so (RFC 9112 §3.2).
const WITHOUT_HOST: &str = "D-http-1-0-without-host";

/// What an application makes of a request.
#[derive(Debug, PartialEq, Eq)]
struct Understood {
    method: String,
    target: String,
    fields: BTreeMap<String, Vec<String>>,
    body: String,
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn understood(request: &Recorded) -> Understood {
    let nominated = request.fields.get(&b"connection"[..]).into_iter().flatten();
    let nominated: Vec<String> = nominated
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| text(name.trim_ascii()).to_lowercase())
        .collect();
    let fields =
        request.fields.iter().map(|(name, values)| (text(name), values.iter().map(|value| text(value)).collect()));
    let is_of_the_message =
        |(name, _): &(String, Vec<String>)| !OF_THE_CONNECTION.contains(&&**name) && !nominated.contains(name);
    Understood {
        method: text(&request.method),
        target: text(&request.target),
        fields: fields.filter(is_of_the_message).collect(),
        body: text(&request.body),
    }
}

/// An application and its sidecar.
struct Bed {
    app: Backend,
    sidecar: Gateway,
    incoming: SocketAddr,
}

impl Bed {
    fn start(scripts: Vec<http1_bed::Script>) -> Self {
        let app = Backend::start(scripts);
        let incoming = format!("http:{}@127.0.0.1:0", app.address.port());
        // Nothing but requests comes to the application.
        let (sidecar, ready) = Gateway::start_sidecar(&[], &["--in", &incoming, "--ready-when=started"]);
        let incoming = ([127, 0, 0, 1], port(&ready["listeners"]["in-http"])).into();
        Self { app, sidecar, incoming }
    }

    fn open(&self) -> usize {
        let page = self.sidecar.admin("/metrics").body;
        let open = page.lines().find_map(|line| line.strip_prefix("tidegate_connections_open{listener=\"in-http\"} "));
        open.expect("a gauge").parse().expect("a number")
    }

    /// What is seen of a case without the sidecar and with it.
    fn both(&self, case: &Case) -> [Observation; 2] {
        let direct = http1_bed::run((self.app.address, || 0), &self.app, &case.send, Delivery::Whole);
        [direct, http1_bed::run((self.incoming, || self.open()), &self.app, &case.send, Delivery::Whole)]
    }
}

#[test]
fn an_application_sees_requests_as_it_does_without_a_sidecar() {
    let all = http1_bed::load();
    let next = Mutex::new(all.cases.iter());
    let (passed, differing) = (Mutex::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..BEDS {
            scope.spawn(|| {
                let bed = Bed::start(all.scripts.clone());
                loop {
                    let Some(case) = next.lock().expect("not poisoned").next() else { return };
                    let [direct, through] = bed.both(case);
                    // What is no request is refused; what was not read whole is nothing to compare.
                    let pairs = direct.requests.iter().zip(&through.requests).filter(|(_, seen)| seen.complete);
                    for (direct, seen) in pairs {
                        let (mut direct, seen) = (understood(direct), understood(seen));
                        if let Some((_, target)) = CANONICAL.iter().find(|(id, _)| *id == case.id) {
                            direct.target = (*target).to_owned();
                        }
                        if case.id == WITHOUT_HOST {
                            direct.fields.insert("host".to_owned(), vec![String::new()]);
                        }
                        *passed.lock().expect("not poisoned") += 1;
                        if direct != seen {
                            let what = format!("{}: without {direct:?}\n  with {seen:?}", case.id);
                            differing.lock().expect("not poisoned").push(what);
                        }
                    }
                }
            });
        }
    });
    let differing = differing.into_inner().expect("not poisoned");
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    let passed = passed.into_inner().expect("not poisoned");
    println!("{passed} requests are seen alike");
    assert!(passed > 50, "only {passed} requests were passed on");
}
