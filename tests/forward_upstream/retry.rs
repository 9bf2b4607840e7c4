//! What is sent again, and what never is.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderName, HeaderValue};
use tidegate::model::backend::Protocol;
use tidegate::model::filter::{Filter, HeaderEdits};
use tidegate::model::policy::Algorithm;
use tidegate::settings::Forwarding;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::bed::{Endpoints, GET, Gateway, OK, Options, Served, dying, run, until};

/// Answers the first request of a connection and closes without an answer when the second one is there.
async fn closes_on_reuse() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        if served.request().await.is_some() {
            served.send(OK).await;
        }
        served.head().await;
    })
    .await
}

/// An address that refuses connections.
pub async fn refusing() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[test]
fn an_idempotent_request_survives_a_stale_connection() {
    run(async || {
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            let backend = closes_on_reuse().await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            assert_eq!(gateway.ask(GET).await.status, 200);
            let mut client = gateway.client().await;
            client.send(format!("{method} /p HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            assert_eq!(client.answer_to(method == "HEAD").await.status, 200, "{method}");
            assert_eq!(backend.connections.get(), 2);
            let seen: Vec<_> = backend.seen.borrow().iter().map(|seen| seen.connection).collect();
            assert_eq!(seen, [0, 0, 1], "the same endpoint, on a fresh connection");
            assert_eq!(gateway.retries(), 1);
        }
    });
}

#[test]
fn other_requests_are_never_repeated() {
    run(async || {
        let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
        let put = "PUT /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
        let empty_post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n";
        for request in [post, put, empty_post] {
            let backend = closes_on_reuse().await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            assert_eq!(gateway.ask(GET).await.status, 200);
            assert_eq!(gateway.ask(request).await.verdict(), (502, Some("reset")), "{request}");
            assert_eq!((backend.connections.get(), backend.count()), (1, 2), "{request}");
        }
    });
}

#[test]
fn the_setting_repeats_any_method_without_a_read_body() {
    run(async || {
        let forwarding =
            Forwarding { retry_non_idempotent_on_idle_close: true, reason_header: true, ..Forwarding::default() };
        let backend = closes_on_reuse().await;
        let gateway = Gateway::start(Options { forwarding, ..Options::to(&[backend.addr]) }).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert_eq!(gateway.ask("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n").await.status, 200);
        // That connection is used once now, too.
        let with_body = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(gateway.ask(with_body).await.verdict(), (502, Some("reset")));
    });
}

#[test]
fn a_fresh_connection_that_fails_is_502() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.request().await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("reset")));
        assert_eq!(backend.count(), 1);
    });
}

#[test]
fn closed_idle_connections_are_found_before_they_are_used() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.request().await;
            served.send(OK).await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        for round in 1..=20 {
            let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
            assert_eq!(gateway.ask(post).await.status, 200);
            // The endpoint closes after each answer; its FIN is here before the next request is.
            super::bed::until(|| backend.closed.get() == round).await;
        }
        assert_eq!(backend.connections.get(), 20);
        assert_eq!(gateway.retries(), 0);
    });
}

#[test]
fn an_unsent_request_goes_to_another_endpoint() {
    run(async || {
        let dead = refusing().await;
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options::to(&[dead, backend.addr])).await;
        for _ in 0..8 {
            let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
            assert_eq!(gateway.ask(post).await.status, 200);
        }
        assert_eq!(backend.count(), 8);
        let refused = gateway.metric("tidegate_upstream_connects_total{result=\"refused\"}");
        assert_eq!(refused, 1, "a refused address is passed over for a second");
    });
}

#[test]
fn without_another_endpoint_a_refusal_is_502() {
    run(async || {
        let gateway = Gateway::start(Options::to(&[refusing().await])).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("connect")));
        let gateway = Gateway::start(Options::to(&[refusing().await, refusing().await])).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("connect")));
    });
}

#[test]
fn the_other_family_is_used_when_the_preferred_one_fails() {
    run(async || {
        let Ok(probe) = TcpListener::bind("[::1]:0").await else {
            eprintln!("no IPv6 loopback here: nothing to fall back to");
            return;
        };
        let dead = probe.local_addr().unwrap();
        drop(probe);
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options { fallback: Some(backend.addr), ..Options::to(&[dead]) }).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        let close = "GET /p HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        gateway.worker.pools().clear();
        assert_eq!(gateway.ask(close).await.status, 200);
    });
}

#[test]
fn a_client_that_goes_away_closes_the_endpoint() {
    run(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.request().await;
            served.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\npart").await;
            served.until_closed().await;
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let silent = Endpoints::script(|mut served: Served| async move {
            served.request().await;
            served.until_closed().await;
        })
        .await;
        let waiting = Gateway::start(Options::to(&[silent.addr])).await;
        for (gateway, backend, answered) in [(&gateway, &backend, true), (&waiting, &silent, false)] {
            let mut client = gateway.client().await;
            client.send(GET).await;
            if answered {
                assert!(client.more().await);
            } else {
                super::bed::until(|| backend.count() == 1).await;
            }
            client.stream.shutdown().await.unwrap();
            super::bed::until(|| backend.closed.get() == 1).await;
            super::bed::until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
            assert_eq!(gateway.worker.pools().idle(), 0);
            assert_eq!(gateway.metric("tidegate_upstream_connections_open"), 0);
        }
    });
}

/// A listener whose queue is full lets a connection attempt hang.
#[test]
fn a_connect_that_hangs_is_504() {
    run(async || {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let addr = full.local_addr().unwrap().as_socket().unwrap();
        let filler = Rc::new(std::net::TcpStream::connect(addr).unwrap());
        let timeouts = tidegate::model::policy::Timeouts {
            connect: Some(std::time::Duration::from_millis(50)),
            ..Default::default()
        };
        let gateway = Gateway::start(Options { timeouts, ..Options::to(&[addr]) }).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (504, Some("connect")));
        assert_eq!(gateway.metric("tidegate_upstream_connects_total{result=\"timeout\"}"), 1);
        drop(filler);
    });
}

/// The second backendRef gets the whole request, with its own layers and without those of the first.
#[test]
fn another_backend_gets_the_body_that_was_not_read_and_its_own_layers() {
    let set = |value| {
        let set = vec![(HeaderName::from_static("x-for"), HeaderValue::from_static(value))];
        vec![Filter::RequestHeaders(HeaderEdits { set, ..HeaderEdits::default() })]
    };
    run(async || {
        let seen: Rc<RefCell<Vec<(String, Vec<u8>)>>> = Rc::default();
        let requests = Rc::clone(&seen);
        let other = Endpoints::script(move |mut served: Served| {
            let seen = Rc::clone(&requests);
            async move {
                while let Some(request) = served.request().await {
                    seen.borrow_mut().push(request);
                    served.send(OK).await;
                }
            }
        })
        .await;
        let options = Options {
            backend_filters: set("first"),
            second: Some((other.addr, Protocol::Http, set("second"))),
            ..Options::to(&[dying().await])
        };
        let gateway = Gateway::start(options).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        let mut client = gateway.client().await;
        client.send("PUT /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n").await;
        until(|| gateway.retries() == 2).await;
        client.send("2\r\nhi\r\n0\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
        let seen = seen.borrow();
        let [(head, body)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(body.escape_ascii().to_string(), "2\\r\\nhi\\r\\n0\\r\\n\\r\\n");
        assert!(head.contains("x-for: second\r\n") && !head.contains("first"), "{head}");
    });
}

#[test]
fn every_endpoint_is_tried_while_nothing_was_sent() {
    run(async || {
        for protocol in [Protocol::Http, Protocol::H2c] {
            let (alive, addr) = match protocol {
                Protocol::Http => {
                    let backend = Endpoints::answering(OK).await;
                    let addr = backend.addr;
                    (Some(backend), addr)
                }
                Protocol::H2c => (None, super::http2::late().await),
                Protocol::Https | Protocol::H2 => unreachable!("this test is in clear text"),
            };
            let mut endpoints = vec![addr];
            for _ in 0..4 {
                endpoints.push(refusing().await);
            }
            for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest] {
                // Each gateway knows nothing of the refusals that another one saw.
                let options = Options { algorithm, protocol, ..Options::to(&endpoints) };
                let gateway = Gateway::start(options).await;
                let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
                assert_eq!(gateway.ask(post).await.status, 200);
            }
            drop(alive);
        }
    });
}

#[test]
fn five_endpoints_are_tried_at_most() {
    run(async || {
        let mut endpoints = Vec::new();
        for _ in 0..8 {
            endpoints.push(refusing().await);
        }
        let gateway = Gateway::start(Options::to(&endpoints)).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("connect")));
        assert_eq!(gateway.metric("tidegate_upstream_connects_total{result=\"refused\"}"), 5);
        assert_eq!(gateway.retries(), 4);
    });
}
