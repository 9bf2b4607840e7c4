//! A service that is asked over HTTP.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::support::backend::Backend;
use super::support::client::Client;
use super::support::witness::{Reaction, Server};
use super::{OK, refusing, start, start_with};

/// The filter that asks over HTTP, with these settings.
pub fn asking(settings: &str) -> String {
    format!(
        "    - {{type: ExternalAuth, externalAuth: {{protocol: HTTP, backendRef: {{name: auth, port: 80}}, {settings}}}}}\n"
    )
}

#[test]
fn the_question_is_the_requests_head_and_the_answer_gives_it_fields() {
    let pod = Server::saying(OK);
    let auth = Server::saying(
        "HTTP/1.1 200 OK\r\nx-user: ann\r\nx-group: a\r\nx-group: b\r\nx-other: no\r\ncontent-length: 0\r\n\r\n",
    );
    let settings = "http: {path: /check/, allowedHeaders: [x-asked, cookie], \
                    allowedResponseHeaders: [x-user, x-group, x-absent]}";
    let gateway = start(pod.port, &[auth.port], &asking(settings));
    let mut client = Client::connect(gateway.http);
    let fields = "host: a.test\r\nauthorization: Bearer t\r\nx-asked: 1\r\nx-kept: 2\r\ncookie: c=1\r\n\
                  x-user: root\r\nX-Group: admins\r\nx-absent: admins\r\nx-forwarded-method: GET\r\n";
    let answer = client.request(&format!("DELETE /old%20path?q=%41 HTTP/1.1\r\n{fields}\r\n")).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));

    let asked = auth.next();
    assert!(asked.head.starts_with("DELETE /check/old%20path?q=%41 HTTP/1.1\r\n"), "{}", asked.head);
    for (name, values) in [
        ("host", vec!["a.test"]),
        ("authorization", vec!["Bearer t"]),
        ("x-asked", vec!["1"]),
        ("cookie", vec!["c=1"]),
        ("x-kept", vec![]),
        ("x-user", vec![]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["a.test"]),
        ("x-forwarded-method", vec!["DELETE"]),
        ("x-forwarded-uri", vec!["/old%20path?q=%41"]),
    ] {
        assert_eq!(asked.fields(name), values, "{name} in {}", asked.head);
    }
    let forwarded = pod.next();
    assert!(forwarded.head.starts_with("DELETE /old%20path?q=%41 HTTP/1.1\r\n"), "{}", forwarded.head);
    assert_eq!(asked.fields("x-request-id"), forwarded.fields("x-request-id"));
    for (name, values) in [
        ("x-user", vec!["ann"]),
        ("x-group", vec!["a", "b"]),
        ("x-absent", vec![]),
        ("x-other", vec![]),
        ("x-kept", vec!["2"]),
        ("authorization", vec!["Bearer t"]),
    ] {
        assert_eq!(forwarded.fields(name), values, "{name} in {}", forwarded.head);
    }
}

/// Status, reason and whether the pod was asked, for what a service does with a question.
#[test]
fn what_the_service_says_decides_and_what_it_does_not_say_lets_nobody_pass() {
    let redirect = "HTTP/1.1 302 Found\r\nlocation: https://login.test/?to=a\r\nset-cookie: a=1\r\nset-cookie: b=2; Secure\r\n\
                    connection: x-hop\r\nx-hop: 1\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<a>in</a>";
    let forbidden = "HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!";
    let failed = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort";
    let says = |text: &'static str| Server::saying(text).port;
    let (pod, ours) = (Backend::start("served"), Duration::from_millis(300));
    let table: [(&str, u16, (u16, Option<&str>), bool); 9] = [
        ("200", says(OK), (200, None), true),
        ("302", says(redirect), (302, Some("ext_auth_denied")), true),
        ("403", says(forbidden), (403, Some("ext_auth_denied")), true),
        ("500", says(failed), (503, Some("ext_auth")), false),
        ("silent", Server::start(|_| Reaction::Waits).port, (503, Some("ext_auth")), false),
        ("refused", refusing(), (503, Some("ext_auth")), false),
        ("malformed", says("HTTP/1.1 2OO OK\r\n\r\n"), (503, Some("ext_auth")), false),
        ("closed", Server::start(|_| Reaction::Leaves).port, (503, Some("ext_auth")), false),
        ("body cut off", Server::start(move |_| Reaction::Says(cut.to_owned())).port, (503, Some("ext_auth")), false),
    ];
    for (name, auth, (status, reason), is_said) in table {
        // A body that never ends is as silence.
        for fail_open in [false, true] {
            let gateway =
                start(pod.port, &[auth], &asking(&format!("timeout: {}ms, failOpen: {fail_open}", ours.as_millis())));
            let before = pod.requests.load(Ordering::Relaxed);
            let begun = Instant::now();
            let answer = Client::connect(gateway.http).get("a.test", "/");
            let expected = if fail_open && !is_said { (200, None) } else { (status, reason) };
            assert_eq!((answer.status, answer.field("x-tidegate-reason")), expected, "{name} {fail_open} {answer:?}");
            assert_eq!(pod.requests.load(Ordering::Relaxed) - before, usize::from(expected.0 == 200), "{name}");
            assert!(begun.elapsed() < ours + Duration::from_secs(5), "{name}: {:?}", begun.elapsed());
            if name == "302" {
                assert_eq!(answer.body, "<a>in</a>");
                let cookies = answer.fields.iter().filter(|(name, _)| name == "set-cookie");
                assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2; Secure"]);
                assert_eq!(answer.field("location"), Some("https://login.test/?to=a"));
                assert_eq!((answer.field("x-hop"), answer.field("content-type")), (None, Some("text/html")));
            }
        }
    }
}

#[test]
fn a_refusal_with_a_body_that_is_too_long_goes_without_it() {
    let long = |size: usize| {
        format!(
            "HTTP/1.1 401 No\r\nwww-authenticate: Basic\r\ncontent-type: text/html\r\ncontent-length: {size}\r\n\r\n{}",
            "x".repeat(size)
        )
    };
    let pod = Backend::start("served");
    for (size, expected) in [(64 << 10, 64 << 10), ((64 << 10) + 1, 0)] {
        let auth = Server::start(move |_| Reaction::Says(long(size)));
        let gateway = start(pod.port, &[auth.port], &asking("failOpen: true"));
        let answer = Client::connect(gateway.http).get("a.test", "/");
        assert_eq!((answer.status, answer.field("www-authenticate")), (401, Some("Basic")));
        assert_eq!((answer.body.len(), answer.field("content-type").is_some()), (expected, expected > 0));
    }
}

#[test]
fn a_body_goes_along_up_to_its_bound_and_then_on_to_the_pod() {
    let pod = Server::saying(OK);
    let auth = Server::saying(OK);
    let before =
        "    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-before, value: \"1\"}]}}\n";
    let gateway = start(pod.port, &[auth.port], &format!("{before}{}", asking("forwardBody: {maxSize: 100000}")));
    let mut client = Client::connect(gateway.http);
    for size in [0, 1, 5_000, 100_000] {
        let body = "b".repeat(size);
        let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {size}\r\n\r\n");
        assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, 200);
        let (asked, forwarded) = (auth.next(), pod.next());
        for came in [asked, forwarded] {
            assert_eq!(came.fields("content-length"), [size.to_string()], "{}", came.head);
            assert!(came.body == body.as_bytes(), "{size}");
        }
    }
    // Of a length that is not announced, with trailers.
    let chunked = "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n";
    assert_eq!(client.request(chunked).unwrap().status, 200);
    assert_eq!(auth.next().body, b"abcde");
    assert_eq!(pod.next().body, b"5\r\nabcde\r\n0\r\n\r\n", "HTTP/1.1 has no trailers that nobody has agreed on");
    // Too long, announced or not.
    let body = "b".repeat(100_001);
    for head in [
        format!("content-length: {}\r\n\r\n{body}", body.len()),
        format!("transfer-encoding: chunked\r\n\r\n186a1\r\n{body}\r\n0\r\n\r\n"),
    ] {
        let mut client = Client::connect(gateway.http);
        let answer = client.request(&format!("POST / HTTP/1.1\r\nhost: a.test\r\n{head}")).unwrap();
        assert_eq!((answer.status, answer.field("x-tidegate-reason")), (413, Some("size")));
    }
    assert!(auth.came.try_recv().is_err() && pod.came.try_recv().is_err(), "nobody was asked");
}

#[test]
fn without_forward_body_the_body_is_not_waited_for() {
    let pod = Server::saying(OK);
    let auth = Server::saying("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let gateway = start(pod.port, &[auth.port], &asking("forwardBody: {maxSize: 0}"));
    let mut client = Client::connect(gateway.http);
    client.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\n").unwrap();
    assert_eq!(client.answer().unwrap().status, 403, "though not a byte of it has come");
    assert_eq!(auth.next().fields("content-length"), ["0"]);
}

/// A client that waits for `100 Continue` before it sends its body (RFC 9110 §10.1.1).
#[test]
fn a_body_that_is_held_back_is_asked_for_only_where_it_goes_along() {
    let (pod, auth) = (Server::saying(OK), Server::saying(OK));
    let head = |size: usize| {
        format!("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: {size}\r\n\r\n")
    };
    let gateway = start(pod.port, &[auth.port], &asking("forwardBody: {maxSize: 1000}"));
    let mut client = Client::connect(gateway.http);
    for size in [1, 1_000] {
        client.send(&head(size)).unwrap();
        assert_eq!(client.answer().unwrap().status, 100, "the service is to see it");
        let body = "b".repeat(size);
        let answer = client.request(&body).unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
        for came in [auth.next(), pod.next()] {
            assert!(came.body == body.as_bytes() && came.fields("expect").is_empty(), "{}", came.head);
        }
    }
    client.send(&head(1_001)).unwrap();
    assert_eq!(client.answer().unwrap().status, 413, "at once");
    assert!(auth.came.try_recv().is_err() && pod.came.try_recv().is_err(), "nobody was asked");
    // Where it does not go along, the service decides before a byte of it is sent.
    let auth = Server::saying("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
    let gateway = start(pod.port, &[auth.port], &asking("timeout: 5s"));
    let mut client = Client::connect(gateway.http);
    client.send(&head(1_000)).unwrap();
    assert_eq!(client.answer().unwrap().status, 403);
    assert!(auth.next().fields("expect").is_empty() && pod.came.try_recv().is_err());
}

/// A mirror further in gets the body that was read for the service.
#[test]
fn a_copy_behind_the_question_has_the_whole_body() {
    let (pod, auth, mirror) = (Server::saying(OK), Server::saying(OK), Server::saying(OK));
    let copy = "    - {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}}\n";
    let services: [(&str, &[u16]); 3] = [("s", &[pod.port]), ("auth", &[auth.port]), ("m", &[mirror.port])];
    let gateway = start_with(&services, &format!("{}{copy}", asking("forwardBody: {maxSize: 100000}")));
    let mut client = Client::connect(gateway.http);
    let body = "b".repeat(60_000);
    let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n", body.len());
    assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, 200);
    for server in [&auth, &pod, &mirror] {
        assert!(server.next().body == body.as_bytes(), "the whole body");
    }
}

/// A limit further in holds for a body that is here already, announced or not.
#[test]
fn a_limit_behind_the_question_knows_how_long_the_body_is() {
    let (pod, auth) = (Server::saying(OK), Server::saying(OK));
    let limit = "    - {type: BodyLimit, bodyLimit: {maxBytes: 3}}\n";
    let gateway = start(pod.port, &[auth.port], &format!("{}{limit}", asking("forwardBody: {maxSize: 1000}")));
    for (body, status) in [("3\r\nabc\r\n", 200), ("2\r\nab\r\n2\r\ncd\r\n", 413)] {
        let head = "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut client = Client::connect(gateway.http);
        assert_eq!(client.request(&format!("{head}{body}0\r\n\r\n")).unwrap().status, status, "{body:?}");
        auth.next();
    }
    assert_eq!(pod.next().whole_body(), b"abc");
    assert!(pod.came.try_recv().is_err(), "what is too long does not reach it");
}

#[test]
fn two_services_in_a_row_get_the_whole_body_and_so_does_the_pod() {
    let (pod, auth) = (Server::saying(OK), Server::saying(OK));
    let (large, small) = (asking("forwardBody: {maxSize: 100000}"), asking("forwardBody: {maxSize: 10000}"));
    let gateway = start(pod.port, &[auth.port], &format!("{large}{small}"));
    let mut client = Client::connect(gateway.http);
    for (size, status) in [(1, 200), (10_000, 200), (10_001, 413)] {
        let body = "b".repeat(size);
        let head = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {size}\r\n\r\n");
        assert_eq!(client.request(&format!("{head}{body}")).unwrap().status, status, "{size}");
        let servers: &[&Server] = if status == 200 { &[&auth, &auth, &pod] } else { &[&auth] };
        for server in servers {
            assert!(server.next().body == body.as_bytes(), "{size}");
        }
    }
}

#[test]
fn another_endpoint_is_asked_where_one_refuses() {
    let (pod, auth) = (Backend::start("served"), Server::saying(OK));
    let gateway = start(pod.port, &[refusing(), auth.port], &asking("timeout: 5s"));
    let mut client = Client::connect(gateway.http);
    for _ in 0..20 {
        assert_eq!(client.get("a.test", "/").status, 200);
    }
}

#[test]
fn a_connection_that_the_service_has_closed_is_replaced() {
    let pod = Backend::start("served");
    let auth = Server::start(|_| Reaction::SaysAndLeaves(OK.to_owned()));
    let gateway = start(pod.port, &[auth.port], &asking("timeout: 5s"));
    let mut client = Client::connect(gateway.http);
    for _ in 0..20 {
        assert_eq!(client.request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n").unwrap().status, 200);
    }
}

#[test]
fn a_service_that_is_not_there_lets_nobody_pass_even_where_failures_do() {
    let pod = Backend::start("served");
    let gateway = start(pod.port, &[refusing()], &asking("failOpen: true"));
    assert_eq!(Client::connect(gateway.http).get("a.test", "/").status, 200, "nobody answers");
    let text = "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {name: r2}\nspec:\n  hostnames: [b.test]\n  \
                    rules:\n  - filters:\n    - {type: ExternalAuth, externalAuth: {protocol: HTTP, \
                    backendRef: {name: nowhere, port: 80}, failOpen: true}}\n    backendRefs: [{name: s, port: 80}]\n";
    gateway.write("r2.yaml", text);
    let answer = gateway.wait_for("b.test", "/", |answer| answer.status != 404);
    assert_eq!((answer.status, answer.field("x-tidegate-reason")), (500, Some("filter_ref")));
}

#[test]
fn a_websocket_is_asked_about_as_a_plain_get() {
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let (pod, auth) = (
        Server::saying(switched),
        Server::start(|came| {
            let status = if came.head.contains("/open") { "200 OK" } else { "403 Forbidden" };
            Reaction::Says(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))
        }),
    );
    let gateway = start(pod.port, &[auth.port], &asking("http: {allowedHeaders: [sec-websocket-key]}"));
    // The key is that of the example in RFC 6455 §1.3.
    let handshake = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut client = Client::connect(gateway.http);
    assert_eq!(client.request(&handshake("/open")).unwrap().status, 101);
    let asked = auth.next();
    assert!(asked.head.starts_with("GET /open HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!((asked.fields("upgrade").len(), asked.fields("connection").len()), (0, 0), "{}", asked.head);
    assert_eq!(asked.fields("sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
    assert_eq!(Client::connect(gateway.http).request(&handshake("/shut")).unwrap().status, 403);
}
