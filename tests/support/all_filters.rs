//! A rule with all filters, who is behind it, and what holds for it wherever its objects come from.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use serde_json::{Value, json};

use super::client::Client;
use super::gateway::service;
use super::http2_client::Http2Client;
use super::signing_key::{SigningKey, key_set};
use super::witness::{Came, Reaction, Server};
use super::{PATIENCE, Raise};

const KEY: &str = "key-0123456789abcdef";
/// Of the name `ada` and the password `test`, by `htpasswd -s`.
const ADA: &str = "ada:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";

/// A route with every filter. `x-step` counts the lists that a request is inside of; answers have the number of the version.
pub fn route(class: &str, host: &str, version: usize) -> String {
    let step = |number: u8| {
        format!(
            "- {{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: x-step, value: \"{number}\"}}]}}}}"
        )
    };
    let mark = |text: &str| {
        format!(
            "- {{type: ResponseHeaderModifier, responseHeaderModifier: {{add: [{{name: x-mark, value: {text}}}]}}}}"
        )
    };
    let outer = [
        mark("outermost"),
        "- {type: CORS, cors: {allowOrigins: [\"https://shop.test\"]}}".to_owned(),
        "- {type: IPAccess, ipAccess: {allow: [127.0.0.0/8, 10.0.0.0/8]}}".to_owned(),
        format!("- {{type: RateLimit, rateLimit: {{requests: {}, interval: 1s}}}}", 500_000 + version),
        "- {type: JWT, jwt: {requiredScopes: [read], providers: [{name: id, issuer: \"https://id.test\", from: [{type: Header, \
         name: x-token}], claimsToHeaders: [{claim: sub, header: x-user}], jwks: {configMapRef: {name: keys, key: jwks.json}}}]}}"
            .to_owned(),
        step(1),
        "- {type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: auth, port: 80}, forwardBody: {maxSize: \
         1000}, http: {allowedHeaders: [x-step, x-user, x-client, x-basic, x-api-key], allowedResponseHeaders: [x-auth]}}}"
            .to_owned(),
    ];
    let inner = [
        "- {type: APIKey, apiKey: {secretRef: {name: clients}, clientHeader: x-client}}".to_owned(),
        "- {type: BasicAuth, basicAuth: {secretRef: {name: users}, userHeader: x-basic}}".to_owned(),
        format!(
            "- {{type: ConcurrencyLimit, concurrencyLimit: {{maxInFlight: {}, maxQueued: 100, queueTimeout: 10s}}}}",
            50 + version
        ),
        "- {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}}".to_owned(),
        step(2),
        "- {type: BodyLimit, bodyLimit: {maxBytes: 100}}".to_owned(),
        "- {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}".to_owned(),
        "- {type: Compression, compression: {algorithms: [gzip], minBytes: 1}}".to_owned(),
        mark(&format!("\"{version}\"")),
    ];
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: r}}\nspec:\n  gatewayClassName: {class}\n  \
         hostnames: [{host}]\n  filters:\n  {}\n  rules:\n  - name: it\n    filters:\n    {}\n    backendRefs: [{{name: s, port: 80}}]\n",
        outer.join("\n  "),
        inner.join("\n    ")
    )
}

/// The pod of the rule, its mirror, the service that it asks, and who signs its tokens.
pub struct Behind {
    pub pod: Server,
    pub auth: Server,
    pub mirror: Server,
    key: SigningKey,
}

impl Behind {
    /// Starts them at this address.
    pub fn start(address: IpAddr) -> Self {
        let pod = Server::start_at(address, |came| {
            let body = format!("{} {}", came.head.lines().next().unwrap_or_default(), came.fields("x-user").join(","));
            let fields = format!("content-type: text/plain\r\ncontent-length: {}\r\nx-mark: pod", body.len());
            Reaction::Says(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}"))
        });
        let auth = Server::start_at(address, |came| {
            let status = if came.head.contains("/forbidden") { "403 Forbidden" } else { "200 OK" };
            Reaction::Says(format!("HTTP/1.1 {status}\r\nx-auth: yes\r\ncontent-length: 0\r\n\r\n"))
        });
        let said = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let mirror = Server::start_at(address, |_| Reaction::Says(said.to_owned()));
        Self { pod, auth, mirror, key: SigningKey::new("k") }
    }

    /// Their manifests, each with a name: Services, keys and credentials.
    pub fn objects(&self, address: IpAddr) -> Vec<(&'static str, String)> {
        let object = |kind: &str, name: &str, field: &str, data: Value| {
            json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name }, field: data }).to_string()
        };
        let service = |name, port| service(name, &[port]).replace("127.0.0.1", &address.to_string());
        vec![
            ("s.yaml", service("s", self.pod.port)),
            ("auth.yaml", service("auth", self.auth.port)),
            ("m.yaml", service("m", self.mirror.port)),
            ("keys.yaml", object("ConfigMap", "keys", "data", json!({ "jwks.json": key_set(&[self.key.public()]) }))),
            ("clients.yaml", object("Secret", "clients", "stringData", json!({ "acme": KEY }))),
            ("users.yaml", object("Secret", "users", "stringData", json!({ "auth": ADA }))),
        ]
    }

    /// A token that lets this user in.
    pub fn token(&self, user: &str) -> String {
        self.key.sign(&json!({ "scope": "read", "sub": user }))
    }
}

/// Where the rule is served.
pub struct Served<'b> {
    pub behind: &'b Behind,
    pub http: SocketAddr,
    pub host: &'b str,
    /// The page of metrics.
    pub metrics: &'b dyn Fn() -> String,
}

impl Served<'_> {
    /// A sample of the metrics, 0 where it is not there.
    pub fn metric(&self, sample: &str) -> u64 {
        let page = (self.metrics)();
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse::<f64>().ok());
        value.unwrap_or(0.0) as u64
    }

    /// Waits until no request is being worked on: a client may have an answer a moment before its end is noted.
    pub fn wait_until_idle(&self) {
        let began = Instant::now();
        while self.metric("tidegate_requests_in_flight") > 0 {
            assert!(began.elapsed() < PATIENCE, "{}", (self.metrics)());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Requests of which a limit has decided this; `place` says where in which route it stands.
    pub fn decisions(&self, filter: &str, place: (&str, &str), decision: &str) -> u64 {
        let (route, place) = place;
        let labels = format!("filter=\"{filter}\",route=\"{route}\",place=\"{place}\",decision=\"{decision}\"");
        self.metric(&format!("tidegate_limit_decisions_total{{{labels}}}"))
    }

    /// A connection of each version of HTTP.
    pub fn connections(&self) -> [Connection; 2] {
        let http1 = Client::try_connect_to(self.http).unwrap();
        [Version::Http1(http1), Version::Http2(Http2Client::connect_to(self.http))]
            .map(|version| Connection { version, host: self.host.to_owned() })
    }
}

/// One connection of either version.
pub struct Connection {
    version: Version,
    host: String,
}

enum Version {
    Http1(Client),
    Http2(Http2Client),
}

/// An answer of either version.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    fields: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The values of all fields of a name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl Connection {
    /// A POST to a path, with these fields and this body.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let host = &self.host;
        match &mut self.version {
            Version::Http1(client) => {
                let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let head =
                    format!("POST {path} HTTP/1.1\r\nhost: {host}\r\n{lines}content-length: {}\r\n\r\n", body.len());
                let answer = client.request(&format!("{head}{body}")).unwrap();
                Answer { status: answer.status, fields: answer.fields, body: answer.body }
            }
            Version::Http2(client) => {
                let request =
                    fields.iter().fold(Request::post(format!("http://{host}{path}")), |request, (name, value)| {
                        request.header(*name, *value)
                    });
                let answer = client.request(request.body(()).unwrap(), body.as_bytes(), None);
                let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                    (name.to_string(), value.to_str().unwrap().to_owned())
                };
                Answer { status: answer.status, fields: answer.fields.iter().map(field).collect(), body: answer.body }
            }
        }
    }
}

/// The field of the name and password that are let in.
pub fn password() -> String {
    format!("Basic {}", STANDARD.encode("ada:test"))
}

/// What a client shows that is let through by everybody.
pub fn credentials<'t>(token: &'t str, password: &'t str) -> [(&'t str, &'t str); 3] {
    [("x-token", token), ("x-api-key", KEY), ("authorization", password)]
}

/// Each layer sees what those further out have made of a request, and an answer what those further in have.
pub fn check_order(served: &Served<'_>) {
    let behind = served.behind;
    let (token, password) = (behind.token("ada"), password());
    let shown = credentials(&token, &password);
    let spoofed = [("x-user", "root"), ("x-client", "root"), ("x-basic", "root"), ("x-auth", "root")];
    let fields = [&shown[..], &spoofed, &[("accept-encoding", "gzip"), ("origin", "https://shop.test")]].concat();
    for mut connection in served.connections() {
        let answer = connection.post("/old?q=1", &fields, "question");
        assert_eq!(answer.status, 200, "{answer:?}");
        // Outwards: what stands further in has spoken first.
        assert_eq!(answer.all("x-mark"), ["pod", "0", "outermost"]);
        assert_eq!(answer.all("content-encoding"), ["gzip"]);
        assert_eq!(answer.all("access-control-allow-origin"), ["https://shop.test"]);
        assert_eq!(answer.all("ratelimit").len(), 1);
        let (asked, copy, forwarded) = (behind.auth.next(), behind.mirror.next(), behind.pod.next());
        let seen = |came: &Came| {
            let names = ["x-user", "x-auth", "x-client", "x-basic"];
            let says = names.map(|name| came.fields(name).join(","));
            (came.head.lines().next().unwrap().to_owned(), came.fields("x-step").join(","), says)
        };
        let says = |words: [&str; 4]| words.map(str::to_owned);
        let line = "POST /old?q=1 HTTP/1.1".to_owned();
        // What is further in has not spoken yet: of what it decides about, the client's word stands.
        assert_eq!(seen(&asked), (line.clone(), "1".to_owned(), says(["ada", "", "root", "root"])));
        assert_eq!(asked.field("x-api-key"), Some(KEY));
        assert_eq!(seen(&copy), (line, "1".to_owned(), says(["ada", "yes", "acme", "ada"])));
        let new = "POST /new?q=1 HTTP/1.1".to_owned();
        assert_eq!(seen(&forwarded), (new, "1,2".to_owned(), says(["ada", "yes", "acme", "ada"])));
        for came in [&copy, &forwarded] {
            assert!(!came.head.contains(KEY) && !came.head.contains(&token), "{}", came.head);
            assert_eq!((came.fields("authorization").len(), &*came.whole_body()), (0, &b"question"[..]));
        }
    }
}

/// Edits of the rule, one each `pause`, spoil no answer, and clients see the versions in their order. `edit` makes the rule that
/// of a version.
pub fn check_edits(served: &Served<'_>, route: &str, (edits, pause): (usize, Duration), edit: impl Fn(usize)) {
    let (behind, password) = (served.behind, password());
    let passed = || {
        let limited =
            ["passed", "waited"].map(|decision| served.decisions("ConcurrencyLimit", (route, "it"), decision));
        (limited.iter().sum::<u64>(), served.decisions("RateLimit", (route, "route"), "passed"))
    };
    let before = passed();
    let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for (number, mut connection) in (0..2).flat_map(|_| served.connections()).enumerate() {
            let (password, is_over, answers) = (&password, &is_over, &answers);
            let user = format!("user-{number}");
            let token = behind.token(&user);
            threads.spawn(move || {
                let shown = credentials(&token, password);
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let answer = connection.post("/old", &shown, "question");
                    let right = format!("POST /new HTTP/1.1 {user}");
                    assert_eq!((answer.status, &answer.body), (200, &right), "{answer:?}");
                    let marks = answer.all("x-mark");
                    let [pod, version, outermost] = marks[..] else { panic!("{answer:?}") };
                    assert_eq!((pod, outermost), ("pod", "outermost"));
                    let version: usize = version.parse().unwrap();
                    assert!(version >= last, "version {version} behind {last}");
                    last = version;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = Raise(&is_over);
        let began = Instant::now();
        for version in 1..=edits {
            edit(version);
            let due = began + pause * u32::try_from(version).unwrap();
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let token = behind.token("ada");
        let [mut connection, _] = served.connections();
        let expected = edits.to_string();
        while connection.post("/old", &credentials(&token, &password), "").all("x-mark").get(1) != Some(&&*expected) {
            assert!(began.elapsed() < pause * u32::try_from(edits).unwrap() + PATIENCE, "the last edit counts");
        }
    });
    let answers = answers.into_inner();
    println!("{answers} right answers beside {edits} edits");
    assert!(answers > edits);
    // Nothing that the versions before had is held.
    served.wait_until_idle();
    let after = passed();
    assert_eq!(after.0 - before.0, after.1 - before.1, "whoever has passed one limit has passed the other");
}
