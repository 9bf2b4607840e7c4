//! The onion in the request path: what endpoints see, what clients get back, however the exchange ends.

use http::{HeaderName, HeaderValue, StatusCode};
use tidegate::model::filter::{DirectResponse, Filter, HeaderEdits, PathEdit, Redirect, Rewrite};

use super::bed::{Endpoints, GET, Gateway, OK, Options, run, until};

/// A layer that adds a line to `x-mark` of the response.
fn mark(value: &'static str) -> Filter {
    Filter::ResponseHeaders(add("x-mark", value))
}

fn add(name: &'static str, value: &'static str) -> HeaderEdits {
    let add = vec![(HeaderName::from_static(name), HeaderValue::from_static(value))];
    HeaderEdits { add, ..HeaderEdits::default() }
}

fn marks(head: &str) -> Vec<&str> {
    head.lines().filter_map(|line| line.strip_prefix("x-mark: ")).collect()
}

pub fn rewrite() -> Filter {
    let path = PathEdit::Prefix { matched: "/p".into(), replacement: "/new".into() };
    Filter::Rewrite(Rewrite { hostname: Some("in.test".into()), path: Some(path) })
}

#[test]
fn requests_go_in_and_responses_out_through_rule_and_backend() {
    run(async || {
        let backend = Endpoints::answering(b"HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length: 2\r\n\r\nok").await;
        let gateway = Gateway::start(Options {
            filters: vec![mark("rule"), Filter::RequestHeaders(add("x-in", "rule")), rewrite()],
            backend_filters: vec![
                Filter::RequestHeaders(add("x-in", "backend")),
                mark("backend"),
                Filter::ResponseHeaders(HeaderEdits {
                    remove: vec![HeaderName::from_static("server")],
                    ..HeaderEdits::default()
                }),
            ],
            ..Options::to(&[backend.addr])
        })
        .await;
        // Naming a field in Connection takes away the client's, never the filter's.
        let request = "GET /p/a?q HTTP/1.1\r\nhost: a.test\r\nconnection: x-in\r\nx-in: client\r\n\r\n";
        let answer = gateway.ask(request).await;
        assert_eq!((answer.status, marks(&answer.head)), (200, vec!["backend", "rule"]));
        assert_eq!(answer.field("server"), None);
        let head = &backend.heads()[0];
        assert!(head.starts_with("GET /new/a?q HTTP/1.1\r\nhost: in.test\r\n"), "{head}");
        assert!(head.contains("\r\nx-forwarded-host: a.test\r\n"), "{head}");
        let lines: Vec<&str> = head.lines().filter(|line| line.starts_with("x-in")).collect();
        assert_eq!(lines, ["x-in: rule", "x-in: backend"]);
    });
}

#[test]
fn answers_of_filters_and_of_the_gateway_go_out_through_the_layers() {
    run(async || {
        let redirect = Filter::Redirect(Redirect {
            scheme: Some("https"),
            hostname: None,
            path: None,
            port: None,
            status: StatusCode::FOUND,
            insecure_only: false,
        });
        let direct = Filter::Direct(DirectResponse {
            status: StatusCode::IM_A_TEAPOT,
            content_type: HeaderValue::from_static("text/tea"),
            body: "short".into(),
        });
        let refused = Filter::BodyLimit(3);
        let backend = Endpoints::answering(b"nonsense\r\n\r\n").await;
        let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 4\r\n\r\nbody";
        let cases = [
            (Some(redirect), GET, (302, Some("redirect")), ""),
            (Some(direct.clone()), GET, (418, Some("direct_response")), "short"),
            (Some(direct), "HEAD /p HTTP/1.1\r\nhost: a.test\r\n\r\n", (418, Some("direct_response")), ""),
            (Some(refused), post, (413, Some("size")), "content too large\n"),
            (None, GET, (502, Some("bad_response")), "bad gateway\n"),
        ];
        for (filter, request, verdict, body) in cases {
            let filters = [mark("outer")].into_iter().chain(filter).chain([mark("inner")]).collect();
            let gateway = Gateway::start(Options { filters, ..Options::to(&[backend.addr]) }).await;
            let mut client = gateway.client().await;
            client.send(request).await;
            let answer = client.answer_to(request.starts_with("HEAD")).await;
            assert_eq!((answer.verdict(), answer.body.as_slice()), (verdict, body.as_bytes()), "{request}");
            let expected = if verdict.0 == 502 { vec!["inner", "outer"] } else { vec!["outer"] };
            assert_eq!(marks(&answer.head), expected, "{verdict:?}");
            if verdict.0 == 302 {
                assert_eq!(answer.field("location"), Some("https://a.test/p"));
            }
            if request.starts_with("HEAD") {
                assert_eq!(answer.field("content-length"), Some("5"));
            }
            let name = verdict.1.unwrap();
            assert_eq!(gateway.metric(&format!("tidegate_own_answers_total{{reason=\"{name}\"}}")), 1);
            drop(client);
            until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        }
    });
}

#[test]
fn a_panic_is_answered_through_the_layers_before_it() {
    run(async || {
        // More fields than a header map can hold make it panic.
        let names = (0..40_000).map(|n| HeaderName::try_from(format!("x-{n}")).unwrap());
        let add = names.map(|name| (name, HeaderValue::from_static("1"))).collect();
        let filters =
            vec![mark("outer"), Filter::RequestHeaders(HeaderEdits { add, ..HeaderEdits::default() }), mark("inner")];
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options { filters, ..Options::to(&[backend.addr]) }).await;
        let answer = gateway.ask(GET).await;
        assert_eq!((answer.verdict(), marks(&answer.head)), ((500, Some("panic")), vec!["outer"]));
        assert_eq!(gateway.metric("tidegate_panics_total{where=\"request\"}"), 1);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        assert_eq!(backend.count(), 0);
    });
}

#[test]
fn a_retry_enters_the_layers_of_a_backend_once() {
    run(async || {
        let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let backend = Endpoints::answering(OK).await;
        let options = Options {
            backend_filters: vec![Filter::RequestHeaders(add("x-in", "backend")), mark("backend")],
            ..Options::to(&[dead, backend.addr])
        };
        let gateway = Gateway::start(options).await;
        for _ in 0..4 {
            let answer = gateway.ask(GET).await;
            assert_eq!((answer.status, marks(&answer.head)), (200, vec!["backend"]));
        }
        for head in backend.heads() {
            assert_eq!(head.matches("x-in: backend").count(), 1, "{head}");
        }
    });
}

#[test]
fn a_streamed_body_is_cut_at_its_limit() {
    run(async || {
        // Answers once the request is complete, which it never is.
        let backend = Endpoints::answering(OK).await;
        let gateway =
            Gateway::start(Options { filters: vec![Filter::BodyLimit(8)], ..Options::to(&[backend.addr]) }).await;
        let head = "POST /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = gateway.ask(&format!("{head}8\r\n12345678\r\n0\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "as much as the limit passes");
        let mut client = gateway.client().await;
        client.send(format!("{head}4\r\n1234\r\n")).await;
        until(|| backend.count() == 2).await;
        client.send("5\r\n56789\r\n").await;
        assert_eq!(client.answer().await.verdict(), (413, Some("size")));
        drop(client);
        until(|| backend.closed.get() == 1).await;
        assert_eq!(backend.count(), 2, "the endpoint saw the head and then the end of its connection");

        // One that answers while it reads: the response is cut.
        let early = Endpoints::script(|mut served| async move {
            if served.head().await.is_some() {
                served.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
                served.until_closed().await;
            }
        })
        .await;
        let gateway =
            Gateway::start(Options { filters: vec![Filter::BodyLimit(8)], ..Options::to(&[early.addr]) }).await;
        let mut client = gateway.client().await;
        client.send(format!("{head}4\r\n1234\r\n")).await;
        until(|| early.count() == 1).await;
        while !client.seen().contains("part") {
            assert!(client.more().await);
        }
        client.send("9\r\n123456789\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.complete), (200, false));
        until(|| early.closed.get() == 1).await;
        assert_eq!(gateway.metric("tidegate_connections_closed_total{side=\"upstream\",reason=\"size\"}"), 1);
    });
}

/// A filter may say under which prefix an application is found; a client may not.
#[test]
fn only_the_operator_says_what_forwarders_say() {
    run(async || {
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options {
            filters: vec![Filter::RequestHeaders(add("x-forwarded-prefix", "/app"))],
            ..Options::to(&[backend.addr])
        })
        .await;
        let claims = "x-forwarded-prefix: /evil\r\nX-Forwarded-Ssl: on\r\nx-forwarded-client-cert: evil\r\n";
        assert_eq!(gateway.ask(&format!("GET /p HTTP/1.1\r\nhost: a.test\r\n{claims}\r\n")).await.status, 200);
        let head = &backend.heads()[0];
        let lines: Vec<&str> = head.lines().filter(|line| line.starts_with("x-forwarded-")).collect();
        let own = ["x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-forwarded-port: 80"];
        assert_eq!(lines, [&["x-forwarded-prefix: /app"], &own[..], &["x-forwarded-host: a.test"]].concat());
    });
}
