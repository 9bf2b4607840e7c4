//! HTTP/1.1 endpoints: the canonical request, framing both ways, own answers.

use tidegate::model::policy::{Algorithm, ConsistentHash, OnMissingKey, Timeouts};
use tidegate::model::request_values::RequestKey;
use tokio::io::AsyncWriteExt;

use super::bed::{Endpoints, GET, Gateway, OK, Options, run, until};

#[test]
fn a_request_goes_through_in_canonical_form_and_connections_are_reused() {
    run(async || {
        let backend = Endpoints::answering(
            b"HTTP/1.1 200 Fine\r\nX-Own: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        for _ in 0..3 {
            client.send("GET /p/%7ex?q=1 HTTP/1.1\r\nHost: A.test\r\nX-B: 1\r\nConnection: keep-alive, x-c\r\nX-C: 2\r\nTE: trailers\r\n\r\n").await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
            assert_eq!(answer.field("x-own"), Some("1"));
            assert_eq!((answer.field("x-hop"), answer.field("connection")), (None, None));
        }
        assert_eq!(backend.connections.get(), 1);
        assert_eq!(gateway.worker.pools().idle(), 1);
        let head = &backend.heads()[0];
        let id = head.split("x-request-id: ").nth(1).unwrap().trim_end();
        assert_eq!(id.len(), 32);
        assert_eq!(
            *head,
            format!(
                "GET /p/~x?q=1 HTTP/1.1\r\nhost: A.test\r\nx-b: 1\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n\
                 via: 1.1 tidegate\r\nx-forwarded-port: 80\r\nx-forwarded-host: A.test\r\nx-request-id: {id}\r\n\r\n"
            )
        );
        assert_eq!(gateway.metric("tidegate_requests_total{route=\"ns/r\",rule=\"0\",method=\"GET\",code=\"2xx\"}"), 3);
        assert_eq!(gateway.metric("tidegate_upstream_connects_total{result=\"ok\"}"), 1);
        assert_eq!(gateway.metric("tidegate_upstream_connections_open"), 1);
        drop(client);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
}

#[test]
fn a_status_without_a_registered_reason_keeps_the_endpoints() {
    run(async || {
        let cases: [(&'static [u8], &str); 5] = [
            (b"HTTP/1.1 599 Network Timeout\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 599 Network Timeout"),
            (b"HTTP/1.1 299 \xc3\xa9\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 299 \u{e9}"),
            (b"HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 599 "),
            (b"HTTP/1.0 499 Gone\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 499 Gone"),
            (b"HTTP/1.1 404 Nothing Here\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 Not Found"),
        ];
        for (response, expected) in cases {
            let backend = Endpoints::answering(response).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let answer = gateway.ask(GET).await;
            assert_eq!(answer.head.split("\r\n").next(), Some(expected));
        }
    });
}

#[test]
fn own_answers_have_status_and_reason() {
    run(async || {
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let table = [
            ("GET /p HTTP/1.1\r\nhost: b.test\r\n\r\n", (404, Some("no_host"))),
            ("GET /q HTTP/1.1\r\nhost: a.test\r\n\r\n", (404, Some("no_path"))),
            ("GET /p HTTP/1.1\r\nhost: a.test\r\nvia: 1.1 tidegate, 1.1 tidegate\r\n\r\n", (508, Some("loop"))),
            ("GET /p HTTP/1.1\r\nhost: a.test\r\nvia: 1.1 tidegate\r\n\r\n", (200, None)),
        ];
        for (request, expected) in table {
            assert_eq!(gateway.ask(request).await.verdict(), expected, "{request}");
        }
        let mut client = gateway.client().await;
        client.send("HEAD /q HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        let answer = client.answer_to(true).await;
        assert_eq!((answer.status, answer.field("content-length")), (404, Some("10")));
        client
            .send("POST /q HTTP/1.1\r\nhost: a.test\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n")
            .await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("12")));

        let gateway = Gateway::start(Options::to(&[])).await;
        let answer = gateway.ask(GET).await;
        assert_eq!(answer.verdict(), (503, Some("no_endpoints")));
        assert_eq!(answer.field("retry-after"), Some("1"));
        assert_eq!(gateway.metric("tidegate_own_answers_total{reason=\"no_endpoints\"}"), 1);
        assert_eq!(gateway.metric("tidegate_service_requests_total{service=\"ns/s\",code=\"5xx\"}"), 1);

        let gateway = Gateway::start(Options { backend: false, ..Options::to(&[backend.addr]) }).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (500, Some("no_backend")));

        let gateway = Gateway::start(Options { delegates: true, backend: false, ..Options::to(&[]) }).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (404, Some("no_path")));
        // What no child takes is counted for the rule that left it to them.
        let line = "tidegate_requests_total{route=\"ns/r\",rule=\"0\",method=\"GET\",code=\"4xx\"}";
        assert_eq!(gateway.metric(line), 1, "{}", gateway.metrics.render());

        let algorithm = Algorithm::ConsistentHash(
            ConsistentHash {
                keys: vec![RequestKey::Cookie("k".into())],
                on_missing: OnMissingKey::Reject,
                bounded_load_percent: None,
                table_size: None,
            }
            .into(),
        );
        let gateway = Gateway::start(Options { algorithm, ..Options::to(&[backend.addr]) }).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (400, Some("missing_key")));
        let keyed = "GET /p HTTP/1.1\r\nhost: a.test\r\ncookie: k=1\r\n\r\n";
        assert_eq!(gateway.ask(keyed).await.status, 200);
    });
}

/// An HTTP/1.0 client gets a plain body.
#[test]
fn http10_clients_get_no_chunks() {
    run(async || {
        let backend = Endpoints::answering(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nkeep-alive: 5\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        )
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let answer = gateway.ask("GET /p HTTP/1.0\r\nhost: a.test\r\n\r\n").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"ok".as_slice()));
        assert_eq!((answer.field("transfer-encoding"), answer.field("keep-alive")), (None, None));
    });
}

/// The end of the connection is the end of the body for an HTTP/1.0 client, so an answer that breaks off must not end so.
#[test]
fn http10_clients_see_that_an_answer_broke_off() {
    run(async || {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n";
        let seconds = std::time::Duration::from_secs;
        let limited = Timeouts { request: Some(seconds(1)), ..Timeouts::default() };
        let quiet = Timeouts { idle: Some(seconds(1)), ..Timeouts::default() };
        for (sent, ends, timeouts) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_owned(), true, Timeouts::default()),
            (chunked.to_owned(), true, Timeouts::default()),
            (format!("{chunked}zz\r\n"), false, Timeouts::default()),
            (chunked.to_owned(), false, limited),
            (chunked.to_owned(), false, quiet),
        ] {
            let expected = format!("{sent:?}, {ends}, {timeouts:?}");
            let backend = Endpoints::script(move |mut served| {
                let sent = sent.clone();
                async move {
                    served.head().await;
                    served.send(sent).await;
                    if !ends {
                        served.until_closed().await;
                    }
                }
            })
            .await;
            let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
            for keep_alive in ["", "connection: keep-alive\r\n"] {
                let mut client = gateway.client().await;
                client.send(format!("GET /p HTTP/1.0\r\nhost: a.test\r\n{keep_alive}\r\n")).await;
                let mut received = Vec::new();
                let end = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut received).await;
                assert_eq!(end.expect_err(&expected).kind(), std::io::ErrorKind::ConnectionReset, "{expected}");
                assert!(received.ends_with(b"part"), "{expected}");
            }
        }
    });
}

/// Trailers pass when the client takes them and the endpoint announced them.
#[test]
fn trailers_pass_when_both_sides_agree() {
    run(async || {
        let backend = Endpoints::answering(
            b"HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\nhost: evil\r\n\r\n",
        )
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let request = "GET /p HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\nconnection: te\r\n\r\n";
        let answer = gateway.ask(request).await;
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{body}");
        let answer = gateway.ask(GET).await;
        let body = String::from_utf8(answer.body).unwrap();
        assert!(body.ends_with("0\r\n\r\n") && !body.contains("x-sum"), "{body}");
        assert_eq!(backend.connections.get(), 1, "the trailers belong to the message");
    });
}

/// A final status overtakes the upload; the endpoint's connection is not used again.
#[test]
fn early_responses_do_not_deadlock() {
    run(async || {
        let backend = Endpoints::script(|mut served| async move {
            if served.head().await.is_some() {
                served.send("HTTP/1.1 413 Too Big\r\ncontent-length: 3\r\n\r\nbig").await;
                // Reads nothing more, and lets nobody think it had closed.
                std::future::pending::<()>().await;
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let client = gateway.client().await.stream;
        let (read, mut write) = client.into_split();
        let upload = tokio::task::spawn_local(async move {
            write.write_all(b"POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 67108864\r\n\r\n").await.unwrap();
            let chunk = vec![b'a'; 64 << 10];
            while write.write_all(&chunk).await.is_ok() {}
        });
        let mut received = Vec::new();
        let mut read = read;
        while !received.ends_with(b"\r\n\r\nbig") {
            let n = tokio::io::AsyncReadExt::read_buf(&mut read, &mut received).await.unwrap();
            assert!(n > 0, "{}", received.escape_ascii());
        }
        let head = String::from_utf8_lossy(&received).to_lowercase();
        assert!(head.starts_with("http/1.1 413 ") && head.contains("connection: close\r\n"), "{head}");
        upload.await.unwrap();
        assert_eq!(gateway.worker.pools().idle(), 0);
    });
}

#[test]
fn interim_responses_are_dropped_and_counted() {
    run(async || {
        let backend = Endpoints::answering(
            b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let answer = gateway.ask(GET).await;
        assert_eq!((answer.status, answer.field("link")), (200, None));
        assert_eq!(gateway.metric("tidegate_interim_responses_dropped_total"), 2);
    });
}

#[test]
fn bodies_keep_their_framing_and_length() {
    run(async || {
        let backend = Endpoints::script(|mut served| async move {
            while let Some((head, body)) = served.request().await {
                let framing = if head.contains("\r\ntransfer-encoding: chunked\r\n") { "chunked" } else { "length" };
                let length = framing.len() + 1 + body.len();
                served.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{framing}:")).await;
                served.send(&body).await;
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 005\r\n\r\nhello").await;
        assert_eq!(client.answer().await.body, b"length:hello");
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nhel\r\n").await;
        client.send("2\r\nlo\r\n0\r\nx-t: 1\r\n\r\n").await;
        let body = String::from_utf8(client.answer().await.body).unwrap();
        assert!(
            body == "chunked:3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n" || body == "chunked:5\r\nhello\r\n0\r\n\r\n",
            "{body}"
        );
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(client.answer().await.body, b"length:");
        assert_eq!(backend.connections.get(), 1);
    });
}

/// The backend never sees a complete message of a client that goes wrong or away in the middle.
#[test]
fn a_broken_upload_is_aborted() {
    run(async || {
        for (framing, start, rest) in
            [("transfer-encoding: chunked", "5\r\nhello\r\n", Some("ZZ\r\n")), ("content-length: 9", "hello", None)]
        {
            let complete = std::rc::Rc::new(std::cell::Cell::new(false));
            let flag = std::rc::Rc::clone(&complete);
            let backend = Endpoints::script(move |mut served| {
                let flag = std::rc::Rc::clone(&flag);
                async move { flag.set(served.request().await.is_some()) }
            })
            .await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(format!("POST /p HTTP/1.1\r\nhost: a.test\r\n{framing}\r\n\r\n{start}")).await;
            until(|| backend.count() == 1).await;
            match rest {
                Some(rest) => {
                    client.send(rest).await;
                    assert_eq!(client.answer().await.verdict(), (400, Some("chunk")));
                    assert!(client.is_closed().await);
                    assert_eq!(gateway.metric("tidegate_own_answers_total{reason=\"chunk\"}"), 1, "counted once");
                }
                None => client.stream.shutdown().await.unwrap(),
            }
            until(|| backend.closed.get() == 1).await;
            assert!(!complete.get(), "{framing}");
            assert_eq!(gateway.worker.pools().idle(), 0);
            until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        }
    });
}

/// The unread body of an own answer is dropped, never parsed as a request; a large one closes the connection.
#[test]
fn unread_bodies_are_dropped_within_a_bound() {
    run(async || {
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        let inner = "GET /p/inner HTTP/1.1\r\nhost: a.test\r\n\r\n";
        let padding = "x".repeat(1_000 - inner.len());
        client.send(format!("POST /q HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\n{inner}{padding}")).await;
        assert_eq!(client.answer().await.status, 404);
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(backend.heads().iter().filter(|head| head.contains("inner")).count(), 0);

        client.send("POST /q HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10485760\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (404, Some("close")));
        assert!(client.is_closed().await);
    });
}
