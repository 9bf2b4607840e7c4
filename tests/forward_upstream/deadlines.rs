//! Deadlines of an exchange, in paused time: 504 before the head, a visible cut behind it.

use std::time::Duration;

use tidegate::model::backend::Protocol;
use tidegate::model::policy::Timeouts;
use tidegate::settings::Deadlines;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::bed::{Endpoints, GET, Gateway, OK, Options, Served, run, run_paused};

const fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

async fn silent() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        served.request().await;
        served.until_closed().await;
    })
    .await
}

/// Sends a head and a part of the body, then nothing.
async fn stalling() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        served.request().await;
        served.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
        served.until_closed().await;
    })
    .await
}

const LATE: &str = "GET /p/late HTTP/1.1\r\nhost: a.test\r\n\r\n";

const NONE: Timeouts = Timeouts { request: None, backend_request: None, connect: None, idle: None };

#[test]
fn before_the_head_a_deadline_is_504() {
    let table = [
        (NONE, 60, "response_head"),
        (Timeouts { request: secs(7), ..NONE }, 7, "request"),
        (Timeouts { backend_request: secs(5), request: secs(7), ..NONE }, 5, "backend_request"),
        (Timeouts { idle: secs(3), ..NONE }, 3, "exchange_idle"),
    ];
    run_paused(async || {
        for (timeouts, seconds, reason) in table {
            let backend = silent().await;
            let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
            let began = Instant::now();
            assert_eq!(gateway.ask(GET).await.verdict(), (504, Some(reason)));
            assert_eq!(began.elapsed().as_secs(), seconds, "{reason}");
            super::bed::until(|| backend.closed.get() == 1).await;
        }
        let deadlines = Deadlines { response_head: Duration::from_secs(2), ..Deadlines::default() };
        let backend = silent().await;
        let gateway = Gateway::start(Options { deadlines, ..Options::to(&[backend.addr]) }).await;
        let began = Instant::now();
        assert_eq!(gateway.ask(GET).await.verdict(), (504, Some("response_head")));
        assert_eq!(began.elapsed().as_secs(), 2);
    });
}

/// What a rule says replaces the default of the process, over both protocols.
#[test]
fn a_rule_that_bounds_a_request_may_wait_longer_than_the_default() {
    let table = [
        Timeouts { request: secs(100), ..NONE },
        Timeouts { backend_request: secs(100), ..NONE },
        Timeouts { request: secs(0), ..NONE },
        Timeouts { backend_request: secs(0), ..NONE },
        Timeouts { request: secs(0), idle: secs(300), ..NONE },
    ];
    run_paused(async || {
        for timeouts in table {
            let backend = Endpoints::script(|mut served: Served| async move {
                served.request().await;
                tokio::time::sleep(Duration::from_secs(65)).await;
                served.send(OK).await;
            })
            .await;
            let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
            assert_eq!(gateway.ask(GET).await.status, 200, "{timeouts:?}");
            let late = super::http2::late().await;
            let protocol = Protocol::H2c;
            let gateway = Gateway::start(Options { timeouts, protocol, ..Options::to(&[late]) }).await;
            assert_eq!(gateway.ask(LATE).await.status, 200, "h2c, {timeouts:?}");
        }
        // Without a word of the rule, the default holds over both.
        let late = super::http2::late().await;
        let gateway = Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[late]) }).await;
        assert_eq!(gateway.ask(LATE).await.verdict(), (504, Some("response_head")));
    });
}

#[test]
fn behind_the_head_a_deadline_is_a_visible_cut() {
    let table = [
        (Timeouts { request: secs(7), ..NONE }, 7),
        (Timeouts { backend_request: secs(5), ..NONE }, 5),
        (Timeouts { idle: secs(3), ..NONE }, 3),
    ];
    run_paused(async || {
        for (timeouts, seconds) in table {
            let backend = stalling().await;
            let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
            let began = Instant::now();
            let answer = gateway.ask(GET).await;
            assert_eq!((answer.status, answer.complete, answer.body.as_slice()), (200, false, b"part".as_slice()));
            assert_eq!(began.elapsed().as_secs(), seconds);
            super::bed::until(|| backend.closed.get() == 1).await;
        }
    });
}

/// A connection attempt that a full queue drops is made again after a second. The pod has all its time from then on.
#[test]
fn the_wait_for_a_head_begins_no_sooner_than_the_connection() {
    run(async || {
        let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        full.set_nonblocking(true).unwrap();
        let addr = full.local_addr().unwrap().as_socket().unwrap();
        let _filler = std::net::TcpStream::connect(addr).unwrap();
        let (connect, response_head) = (Duration::from_secs(20), Duration::from_millis(300));
        let deadlines = Deadlines { connect, response_head, ..Deadlines::default() };
        let gateway = Gateway::start(Options { deadlines, ..Options::to(&[addr]) }).await;
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let listener = tokio::net::TcpListener::from_std(full.into()).unwrap();
            let mut accepted = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                // The first one is the filler.
                if !accepted.is_empty() {
                    stream.write_all(OK).await.unwrap();
                }
                accepted.push(stream);
            }
        });
        let began = Instant::now();
        assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
        assert!(began.elapsed() > Duration::from_millis(300), "the attempt was not dropped: {:?}", began.elapsed());
    });
}

#[test]
fn the_wait_for_a_head_begins_with_the_last_request_byte() {
    run_paused(async || {
        let backend = silent().await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        let began = Instant::now();
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 40000\r\n\r\n").await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            client.send(vec![b'a'; 10_000]).await;
        }
        assert_eq!(client.answer().await.verdict(), (504, Some("response_head")));
        assert_eq!(began.elapsed().as_secs(), 100);
    });
}

#[test]
fn bytes_in_either_direction_keep_an_exchange_alive() {
    run_paused(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.request().await;
            served.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(2)).await;
                served.send("x").await;
            }
        })
        .await;
        let timeouts = Timeouts { idle: secs(3), ..NONE };
        let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
        let began = Instant::now();
        let answer = gateway.ask(GET).await;
        assert!(answer.complete && answer.body == b"xxxxxxxxxx");
        assert_eq!(began.elapsed().as_secs(), 20);
    });
}

#[test]
fn idle_pooled_connections_are_closed_by_the_sweep() {
    run_paused(async || {
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        tokio::task::spawn_local(std::rc::Rc::clone(&gateway.worker).maintain());
        assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
        assert_eq!(gateway.worker.pools().idle(), 1);
        let began = Instant::now();
        super::bed::until(|| backend.closed.get() == 1).await;
        assert!((4_000..=4_400).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert_eq!(gateway.worker.pools().idle(), 0);
        assert_eq!(gateway.metric(UPSTREAM_IDLE), 1);
        // One that is found overdue before the sweep sees it counts as well, and one in use does not.
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        for closed in [0, 1] {
            assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(gateway.metric(UPSTREAM_IDLE), closed);
        }
        let late = super::http2::late().await;
        let gateway = Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[late]) }).await;
        tokio::task::spawn_local(std::rc::Rc::clone(&gateway.worker).maintain());
        assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
        let open = "tidegate_upstream_connections_open";
        assert_eq!(gateway.metric(open), 1);
        let began = Instant::now();
        super::bed::until(|| gateway.metric(open) == 0).await;
        assert!((4_000..=4_400).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert_eq!(gateway.metric(UPSTREAM_IDLE), 1);
    });
}

const UPSTREAM_IDLE: &str = "tidegate_connections_closed_total{side=\"upstream\",reason=\"upstream_idle\"}";

#[test]
fn a_reused_connection_has_its_own_deadlines() {
    run_paused(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            while let Some((head, _)) = served.request().await {
                if head.starts_with("GET /p/slow") {
                    tokio::time::sleep(Duration::from_secs(59)).await;
                }
                served.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        for _ in 0..3 {
            client.send("GET /p/slow HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 200, "the timer of the first is not that of the second");
        }
        assert_eq!(backend.connections.get(), 1);
    });
}

#[test]
fn an_endpoint_that_ignores_expect_gets_the_body_after_a_second() {
    run_paused(async || {
        let backend = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut client = gateway.client().await;
        let began = Instant::now();
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 100);
        assert_eq!(began.elapsed().as_secs(), 1);
        client.send("hi").await;
        assert_eq!(client.answer().await.status, 200);
    });
}

/// Takes the head of a request and no byte behind it.
pub async fn deaf() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        served.head().await;
        std::future::pending::<()>().await;
    })
    .await
}

#[test]
fn an_endpoint_that_takes_no_byte_is_504() {
    run_paused(async || {
        for framing in ["content-length: 100000000", "transfer-encoding: chunked"] {
            let backend = deaf().await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(format!("POST /p HTTP/1.1\r\nhost: a.test\r\n{framing}\r\n\r\n")).await;
            let (mut reading, mut writing) = client.stream.into_split();
            let upload = tokio::task::spawn_local(async move {
                let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
                while tokio::io::AsyncWriteExt::write_all(&mut writing, &chunk).await.is_ok() {}
            });
            let began = Instant::now();
            let mut answer = [0; 12];
            tokio::io::AsyncReadExt::read_exact(&mut reading, &mut answer).await.unwrap();
            // What is sent behind the answer is read for a while, and the clock stands still meanwhile.
            upload.abort();
            assert_eq!(answer, *b"HTTP/1.1 504", "{framing}");
            assert!((60..62).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
            assert_eq!(gateway.metric("tidegate_own_answers_total{reason=\"response_head\"}"), 1);
        }
    });
}

/// A client that is slow, in front of an endpoint that takes every byte at once, is not the endpoint's fault.
#[test]
fn a_slow_client_is_no_endpoint_that_takes_no_byte() {
    run_paused(async || {
        for protocol in [Protocol::Http, Protocol::H2c] {
            let backend = Endpoints::answering(OK).await;
            let addr = if protocol == Protocol::Http { backend.addr } else { super::http2::late().await };
            let deadlines = Deadlines { response_head: Duration::from_secs(2), ..Deadlines::default() };
            let gateway = Gateway::start(Options { protocol, deadlines, ..Options::to(&[addr]) }).await;
            let mut client = gateway.client().await;
            client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 50000\r\n\r\n").await;
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(5)).await;
                client.send(vec![b'a'; 10_000]).await;
            }
            assert_eq!(client.answer().await.status, 200, "{protocol:?}");
        }
    });
}

/// What a pod says of itself (`keep-alive: timeout`) bounds how long its idle connection is used.
#[test]
fn an_announced_idle_limit_is_kept_with_a_margin() {
    let table = [
        ("timeout=3", 1_900, 1),
        ("timeout=3", 2_100, 2),
        ("timeout=1, max=100", 400, 1),
        ("Timeout=\"1\"", 600, 2),
        ("timeout=0", 0, 2),
        ("max=0", 0, 2),
        ("timeout=600", 3_900, 1),
        ("timeout=600", 4_100, 2),
        ("timeout=soon", 3_900, 1),
    ];
    run_paused(async || {
        for (field, idle, connections) in table {
            let backend = Endpoints::script(move |mut served: Served| async move {
                while served.request().await.is_some() {
                    let head = format!("HTTP/1.1 200 OK\r\nkeep-alive: {field}\r\ncontent-length: 2\r\n\r\nok");
                    served.send(head).await;
                }
            })
            .await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
            tokio::time::sleep(Duration::from_millis(idle)).await;
            assert_eq!(gateway.ask(GET).await.verdict(), (200, None));
            assert_eq!(backend.connections.get(), connections, "{field} after {idle} ms");
        }
    });
}

/// Sends without an end, as long as somebody takes it.
async fn endless() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        served.request().await;
        served.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while tokio::io::AsyncWriteExt::write_all(&mut served.stream, &chunk).await.is_ok() {}
    })
    .await
}

/// The deadline belongs to the exchange, and the client cannot hold it up.
#[test]
fn a_deadline_holds_while_the_client_does_not_read() {
    run_paused(async || {
        let table = [
            (Timeouts { request: secs(2), ..NONE }, "request"),
            (Timeouts { backend_request: secs(2), ..NONE }, "backend_request"),
            (Timeouts { idle: secs(2), ..NONE }, "exchange_idle"),
            (Timeouts { idle: secs(2), request: secs(9), ..NONE }, "exchange_idle"),
        ];
        for (timeouts, reason) in table {
            for http2 in [false, true] {
                let backend = endless().await;
                let gateway = Gateway::start(Options { timeouts, http2, ..Options::to(&[backend.addr]) }).await;
                let began = Instant::now();
                let mut client = gateway.client().await;
                if http2 {
                    let (mut sender, connection) = h2::client::handshake(client.stream).await.unwrap();
                    tokio::task::spawn_local(connection);
                    let request = http::Request::get("http://a.test/p").body(()).unwrap();
                    let (response, _) = sender.send_request(request, true).unwrap();
                    let mut body = response.await.unwrap().into_body();
                    // No window is given back: the body stalls at 64 KiB, and the stream is reset at the deadline.
                    let error = loop {
                        match body.data().await {
                            Some(Ok(_)) => {}
                            other => break other.expect("no clean end").unwrap_err(),
                        }
                    };
                    assert!(error.is_reset() && error.is_remote(), "{error:?}");
                } else {
                    client.send(GET).await;
                    // The head is here, and no more is read.
                    client.stream.readable().await.unwrap();
                    super::bed::until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
                }
                assert_eq!(began.elapsed().as_secs(), 2, "{reason}, HTTP/2: {http2}");
                super::bed::until(|| backend.closed.get() == 1).await;
                let cut = format!("tidegate_connections_closed_total{{side=\"upstream\",reason=\"{reason}\"}}");
                assert_eq!(gateway.metric(&cut), 1, "{}", gateway.metrics.render());
            }
        }
    });
}

/// The same for an answer that is here in one piece, and for a pod that speaks HTTP/2.
#[test]
fn a_deadline_holds_for_a_client_without_a_window() {
    run_paused(async || {
        for protocol in [Protocol::Http, Protocol::H2c] {
            let backend = Endpoints::answering(OK).await;
            let addr = if protocol == Protocol::Http { backend.addr } else { super::http2::late().await };
            let timeouts = Timeouts { request: secs(2), ..NONE };
            let options = Options { timeouts, protocol, http2: true, ..Options::to(&[addr]) };
            let gateway = Gateway::start(options).await;
            let stream = gateway.client().await.stream;
            let mut builder = h2::client::Builder::new();
            let (mut sender, connection) =
                builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
            tokio::task::spawn_local(connection);
            let began = Instant::now();
            let request = http::Request::get("http://a.test/p").body(()).unwrap();
            let (response, _) = sender.send_request(request, true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert!(body.data().await.unwrap().unwrap_err().is_reset());
            assert_eq!(began.elapsed().as_secs(), 2, "{protocol:?}");
            super::bed::until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        }
    });
}

/// A client with a small window of TCP.
async fn narrow(gateway: &Gateway) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(gateway.addr).await.unwrap()
}

/// Silence is silence of both sides: a client that takes its time is heard, until it stops.
#[test]
fn a_client_that_takes_slowly_is_not_silent() {
    run_paused(async || {
        let timeouts = Timeouts { idle: secs(2), ..NONE };
        let backend = endless().await;
        let gateway = Gateway::start(Options { timeouts, ..Options::to(&[backend.addr]) }).await;
        let mut client = narrow(&gateway).await;
        tokio::io::AsyncWriteExt::write_all(&mut client, GET.as_bytes()).await.unwrap();
        let mut part = vec![0; 400_000];
        for _ in 0..10 {
            tokio::io::AsyncReadExt::read_exact(&mut client, &mut part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1500)).await;
            assert_eq!(gateway.metric("tidegate_requests_in_flight"), 1);
        }
        let stopped = Instant::now();
        super::bed::until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        assert!(stopped.elapsed() <= Duration::from_secs(2), "{:?}", stopped.elapsed());
    });
}

/// Over HTTP/2 the endpoint may have long been silent when its client has taken all that came.
#[test]
fn an_endpoint_may_be_silent_while_its_answer_is_taken() {
    run_paused(async || {
        let backend = Endpoints::script(|mut served: Served| async move {
            served.request().await;
            served.send("HTTP/1.1 200 OK\r\ncontent-length: 60001\r\n\r\n").await;
            served.send(vec![b'x'; 60_000]).await;
            tokio::time::sleep(Duration::from_secs(12)).await;
            served.send("x").await;
            served.until_closed().await;
        })
        .await;
        let timeouts = Timeouts { idle: secs(2), ..NONE };
        let options = Options { timeouts, http2: true, ..Options::to(&[backend.addr]) };
        let gateway = Gateway::start(options).await;
        let stream = gateway.client().await.stream;
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_window_size(5000).handshake::<_, bytes::Bytes>(stream);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::task::spawn_local(connection);
        let began = Instant::now();
        let request = http::Request::get("http://a.test/p").body(()).unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut taken = 0;
        // 5,000 bytes a second.
        while let Some(data) = body.data().await {
            let length = data.unwrap_or_else(|error| panic!("{error} after {taken} bytes")).len();
            tokio::time::sleep(Duration::from_millis(length as u64 / 5)).await;
            body.flow_control().release_capacity(length).unwrap();
            taken += length;
        }
        assert_eq!((taken, began.elapsed().as_secs()), (60_001, 12));
    });
}

/// What a client sends is not what it takes.
#[test]
fn a_stream_whose_answer_is_not_taken_ends_though_its_client_sends() {
    run_paused(async || {
        for (path, status, idle) in
            [("/p/duplex", 200, None), ("/p/duplex", 200, secs(60)), ("/p/status/201", 201, None), ("/none", 404, None)]
        {
            let addr = super::http2::late().await;
            let timeouts = Timeouts { idle, ..NONE };
            let options = Options { timeouts, protocol: Protocol::H2c, http2: true, ..Options::to(&[addr]) };
            let gateway = Gateway::start(options).await;
            let stream = gateway.client().await.stream;
            let mut builder = h2::client::Builder::new();
            let handshake = builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream);
            let (mut sender, connection) = handshake.await.unwrap();
            tokio::task::spawn_local(connection);
            let request = http::Request::post(format!("http://a.test{path}")).body(()).unwrap();
            let (response, mut upload) = sender.send_request(request, false).unwrap();
            upload.send_data("first".into(), status == 201).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status);
            let mut body = response.into_body();
            let began = Instant::now();
            let reset = loop {
                tokio::select! {
                    data = body.data() => break data.unwrap().unwrap_err(),
                    () = tokio::time::sleep(Duration::from_secs(1)) => {
                        assert!(began.elapsed().as_secs() < 40, "{path} is still open");
                        // The one that answers at the end of the request has had that.
                        let _ = upload.send_data("more".into(), status == 201);
                    }
                }
            };
            assert!(reset.is_reset(), "{reset:?}");
            assert_eq!(began.elapsed().as_secs(), 30, "{path}");
        }
    });
}
