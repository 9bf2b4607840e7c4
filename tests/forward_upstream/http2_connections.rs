//! The connections that exchanges share over HTTP/2: when there is another one, and what becomes of one that fails.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tidegate::balance::EndpointState;
use tidegate::model::backend::Protocol;
use tidegate::model::filter::{Filter, Rewrite};
use tidegate::model::ids::EndpointKey;
use tidegate::model::policy::Timeouts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use super::bed::{GET, Gateway, Options, run, run_paused, until};

const POST: &str = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello";

/// An endpoint whose connections are scripted; `script` gets the number of each, from 0.
struct Pod {
    addr: SocketAddr,
    connections: Rc<Cell<usize>>,
    /// Bodies of the requests that were answered.
    bodies: Rc<RefCell<Vec<Bytes>>>,
}

impl Pod {
    async fn start<F: Future<Output = ()> + 'static>(
        script: impl Fn(usize, TcpStream, Rc<RefCell<Vec<Bytes>>>) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, bodies) = (Rc::new(Cell::new(0)), Rc::default());
        let this = Self { addr, connections: Rc::clone(&connections), bodies: Rc::clone(&bodies) };
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = connections.replace(connections.get() + 1);
                tokio::task::spawn_local(script(number, stream, Rc::clone(&bodies)));
            }
        });
        this
    }

    fn options(&self) -> Options {
        Options { protocol: Protocol::H2c, ..Options::to(&[self.addr]) }
    }
}

/// Serves a connection: `answer` gets each request with its number on the connection, from 0.
async fn serve<F: Future<Output = ()> + 'static>(
    stream: TcpStream,
    most_streams: u32,
    answer: impl Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> F + 'static,
) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(most_streams);
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let mut number = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::task::spawn_local(answer(number, request, respond));
        number += 1;
    }
}

async fn answer_ok(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, bodies: Rc<RefCell<Vec<Bytes>>>) {
    let mut body = request.into_body();
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        all.extend_from_slice(&data);
    }
    bodies.borrow_mut().push(all.into());
    let _ = respond.send_response(Response::new(()), true);
}

#[test]
fn a_refused_stream_is_sent_again_whatever_the_method() {
    run(async || {
        // The first connection refuses its second stream, once it has the whole request.
        let pod = Pod::start(|connection, stream, bodies| {
            serve(stream, 100, move |number, request, mut respond| {
                let bodies = Rc::clone(&bodies);
                async move {
                    if connection == 0 && number == 1 {
                        let mut body = request.into_body();
                        while body.data().await.is_some() {}
                        respond.send_reset(Reason::REFUSED_STREAM);
                    } else {
                        answer_ok(request, respond, bodies).await;
                    }
                }
            })
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        for _ in 0..3 {
            assert_eq!(gateway.ask(POST).await.status, 200);
        }
        assert_eq!(*pod.bodies.borrow(), ["hello"; 3]);
        assert_eq!(pod.connections.get(), 2);
        assert_eq!(gateway.retries(), 1);
    });
}

#[test]
fn a_pod_that_refuses_every_stream_is_left_for_another() {
    run(async || {
        let refusing = Pod::start(|_, stream, _| {
            serve(stream, 100, |_, _, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) })
        })
        .await;
        let gateway = Gateway::start(refusing.options()).await;
        assert_eq!(gateway.ask(POST).await.verdict(), (502, Some("reset")));
        let good = Pod::start(|_, stream, bodies| {
            serve(stream, 100, move |_, request, respond| answer_ok(request, respond, Rc::clone(&bodies)))
        })
        .await;
        let both = Options { endpoints: vec![refusing.addr, good.addr], ..refusing.options() };
        let gateway = Gateway::start(both).await;
        for _ in 0..4 {
            assert_eq!(gateway.ask(POST).await.status, 200);
        }
        assert_eq!(*good.bodies.borrow(), ["hello"; 4]);
    });
}

/// A reset of any other kind says nothing of what the pod did.
#[test]
fn other_resets_are_not_sent_again() {
    run(async || {
        let pod = Pod::start(|_, stream, _| {
            serve(stream, 100, |_, _, mut respond| async move { respond.send_reset(Reason::INTERNAL_ERROR) })
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        assert_eq!(gateway.ask(POST).await.verdict(), (502, Some("reset")));
        assert_eq!(gateway.retries(), 0);
    });
}

/// Reads frames up to one of a kind, and gives its stream.
async fn until_frame(stream: &mut TcpStream, kind: u8) -> Option<u32> {
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.ok()?;
        let [a, b, c, found, _, id @ ..] = header;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        stream.read_exact(&mut payload).await.ok()?;
        if found == kind {
            return Some(u32::from_be_bytes(id));
        }
    }
}

/// What a pod says in its GOAWAY, and whether it ends the connection with it.
#[derive(Clone, Copy, Debug)]
struct GoAway {
    last_stream: u8,
    code: u8,
    closes: bool,
}

impl GoAway {
    /// A pod that says it to the first request, once the frame of this kind and stream 1 is here; it serves further
    /// connections.
    async fn pod(self, behind_frame: u8) -> Pod {
        let Self { last_stream, code, closes } = self;
        Pod::start(move |connection, mut stream, bodies| async move {
            stream.set_nodelay(true).unwrap();
            if connection > 0 {
                return serve(stream, 100, move |_, request, respond| answer_ok(request, respond, Rc::clone(&bodies)))
                    .await;
            }
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            assert_eq!(until_frame(&mut stream, behind_frame).await, Some(1));
            let frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, code];
            stream.write_all(&frame).await.unwrap();
            if !closes {
                while until_frame(&mut stream, 0xff).await.is_some() {}
            }
        })
        .await
    }
}

const HEADERS: u8 = 1;
const DATA: u8 = 0;

#[test]
fn a_goaway_below_the_stream_is_sent_again_whatever_the_method() {
    run(async || {
        let post = |body: usize| {
            let length = format!("content-length: {body}\r\n\r\n");
            format!("POST /p HTTP/1.1\r\nhost: a.test\r\n{length}{}", "x".repeat(body))
        };
        let chunked = "POST /p HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n";
        for (request, behind_frame, body) in [
            (post(5), HEADERS, 5),
            (post(5), DATA, 5),
            (post(0), HEADERS, 0),
            ("PATCH /p HTTP/1.1\r\nhost: a.test\r\n\r\n".to_owned(), HEADERS, 0),
            (chunked.to_owned(), DATA, 2),
            // What is kept of a body.
            (post(64 << 10), DATA, 64 << 10),
        ] {
            for (code, closes) in [(0, false), (0, true), (2, false), (2, true)] {
                let goaway = GoAway { last_stream: 0, code, closes };
                let pod = goaway.pod(behind_frame).await;
                let gateway = Gateway::start(pod.options()).await;
                assert_eq!(gateway.ask(&request).await.status, 200, "{goaway:?}, {body} bytes");
                let bodies = pod.bodies.borrow();
                assert_eq!(bodies.iter().map(Bytes::len).collect::<Vec<_>>(), [body], "{goaway:?}");
                assert_eq!(pod.connections.get(), 2);
            }
        }
    });
}

/// The rest of a body that was half sent when the pod refused it comes from the client.
#[test]
fn a_goaway_in_the_middle_of_a_body_loses_nothing_of_it() {
    run(async || {
        let pod = GoAway { last_stream: 0, code: 0, closes: false }.pod(DATA).await;
        let gateway = Gateway::start(pod.options()).await;
        let mut client = gateway.client().await;
        client.send("POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nfirst").await;
        until(|| pod.connections.get() == 2).await;
        client.send("-last").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(*pod.bodies.borrow(), ["first-last"]);
    });
}

/// The pod may have done anything with a stream that it has looked at, and with a body of which nobody has the beginning.
#[test]
fn a_goaway_at_the_stream_or_behind_a_large_body_is_not_sent_again() {
    run(async || {
        for code in [0, 2] {
            let pod = GoAway { last_stream: 1, code, closes: true }.pod(HEADERS).await;
            let gateway = Gateway::start(pod.options()).await;
            assert_eq!(gateway.ask(POST).await.verdict(), (502, Some("reset")), "code {code}");
            assert_eq!(pod.connections.get(), 1);
        }
        let pod = Pod::start(|_, stream, _| {
            serve(stream, 100, |_, request, mut respond| async move {
                let mut body = request.into_body();
                let mut read = 0;
                while read < 100_000 {
                    let data = body.data().await.unwrap().unwrap();
                    let _ = body.flow_control().release_capacity(data.len());
                    read += data.len();
                }
                respond.send_reset(Reason::REFUSED_STREAM);
            })
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        let mut client = gateway.client().await;
        let head = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 200000\r\n\r\n";
        client.send(format!("{head}{}", "x".repeat(100_000))).await;
        assert_eq!(client.answer().await.verdict(), (502, Some("reset")));
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn clients_that_do_not_read_stop_nobody_else() {
    run(async || {
        let pod = Pod::start(|_, stream, bodies| {
            serve(stream, 1_000, move |_, request, mut respond| {
                let bodies = Rc::clone(&bodies);
                async move {
                    if !request.uri().path().ends_with("/big") {
                        return answer_ok(request, respond, bodies).await;
                    }
                    let Ok(mut body) = respond.send_response(Response::new(()), false) else { return };
                    let _ = body.send_data(vec![b'x'; 4 << 20].into(), true);
                    // Until the stream is done with.
                    std::future::poll_fn(|cx| body.poll_reset(cx)).await.ok();
                }
            })
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        let mut slow = Vec::new();
        for _ in 0..24 {
            let mut client = gateway.client().await;
            client.send("GET /p/big HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            // The head is here, and no more is read.
            client.stream.readable().await.unwrap();
            slow.push(client);
        }
        for _ in 0..20 {
            assert_eq!(gateway.ask(GET).await.status, 200);
        }
        assert_eq!(pod.connections.get(), 1);
    });
}

/// Whichever side ends a stream, the others of the same connection go on.
#[test]
fn a_stream_that_fails_leaves_the_others_of_its_connection_alone() {
    run(async || {
        let [release, has_part] = [(); 2].map(|()| Rc::new(tokio::sync::Notify::new()));
        let pod = Pod::start({
            let (release, has_part) = (Rc::clone(&release), Rc::clone(&has_part));
            move |_, stream, bodies| {
                let (release, has_part) = (Rc::clone(&release), Rc::clone(&has_part));
                serve(stream, 100, move |_, request, mut respond| {
                    let (release, has_part) = (Rc::clone(&release), Rc::clone(&has_part));
                    let bodies = Rc::clone(&bodies);
                    async move {
                        match request.uri().path() {
                            "/p/reset" => respond.send_reset(Reason::INTERNAL_ERROR),
                            "/p/cut" => {
                                let mut body = respond.send_response(Response::new(()), false).unwrap();
                                body.send_data(Bytes::from_static(b"part"), false).unwrap();
                                has_part.notified().await;
                                body.send_reset(Reason::INTERNAL_ERROR);
                            }
                            "/p/held" => {
                                release.notified().await;
                                answer_ok(request, respond, bodies).await;
                            }
                            _ => answer_ok(request, respond, bodies).await,
                        }
                    }
                })
            }
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        let mut held = gateway.client().await;
        held.send("GET /p/held HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        until(|| gateway.metric("tidegate_requests_in_flight") == 1).await;
        // The pod resets one stream before its answer and one in the middle of it, and a client goes away.
        assert_eq!(
            gateway.ask("POST /p/reset HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n").await.status,
            502
        );
        let mut cut = gateway.client().await;
        cut.send("GET /p/cut HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        let mut bytes = Vec::new();
        while !bytes.windows(4).any(|window| window == b"part") {
            assert!(cut.stream.read_buf(&mut bytes).await.unwrap() > 0, "{}", bytes.escape_ascii());
        }
        has_part.notify_one();
        cut.stream.read_to_end(&mut bytes).await.ok();
        assert!(bytes.starts_with(b"HTTP/1.1 200") && !bytes.ends_with(b"0\r\n\r\n"), "{}", bytes.escape_ascii());
        let mut gone = gateway.client().await;
        gone.send("GET /p/held HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        until(|| gateway.metric("tidegate_requests_in_flight") == 2).await;
        drop(gone);
        until(|| gateway.metric("tidegate_requests_in_flight") == 1).await;
        release.notify_waiters();
        assert_eq!(held.answer().await.status, 200);
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn a_second_connection_opens_beside_a_full_one() {
    run(async || {
        let release = Rc::new(tokio::sync::Notify::new());
        let pod = Pod::start({
            let release = Rc::clone(&release);
            move |_, stream, bodies| {
                let release = Rc::clone(&release);
                serve(stream, 1, move |_, request, respond| {
                    let (release, bodies) = (Rc::clone(&release), Rc::clone(&bodies));
                    async move {
                        if request.uri().path() == "/p/held" {
                            release.notified().await;
                        }
                        answer_ok(request, respond, bodies).await;
                    }
                })
            }
        })
        .await;
        let gateway = Gateway::start(pod.options()).await;
        // The pod's limit is known behind the first answer.
        assert_eq!(gateway.ask(GET).await.status, 200);
        let mut held = gateway.client().await;
        held.send("GET /p/held HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        until(|| gateway.metric("tidegate_requests_in_flight") == 1).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert_eq!(pod.connections.get(), 2);
        release.notify_one();
        assert_eq!(held.answer().await.status, 200);
        assert_eq!(gateway.metric("tidegate_upstream_connections_open"), 2);
    });
}

/// The timeout of the one that came first does not decide for those that wait with it.
#[test]
fn each_that_waits_for_a_connection_has_a_timeout_of_its_own() {
    run_paused(async || {
        // Nothing that connects here is accepted, and the queue for that is full: connecting takes for ever.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(addr)).await {
            waiting.push(stream);
        }
        let gateway = Gateway::start(Options::to(&[])).await;
        let endpoint = Arc::new(EndpointState::new(EndpointKey { addr, uid: None }, None));
        let pools = gateway.worker.pools();
        let began = Instant::now();
        let timed = async |seconds, deadline: Option<u64>| {
            let deadline = deadline.map(|seconds| began + Duration::from_secs(seconds));
            let peer = tidegate::proxy::upstream::Peer { endpoint: &endpoint, tls: None };
            let opening = tidegate::proxy::upstream::Opening::Any;
            let result = pools.http2(peer, opening, Duration::from_secs(seconds), deadline).await;
            assert!(result.is_err());
            began.elapsed().as_secs()
        };
        let ends = tokio::join!(timed(2, None), timed(1, None), timed(7, None), timed(0, Some(5)));
        assert_eq!(ends, (2, 1, 7, 5));
        drop((listener, waiting));
    });
}

/// The first connection answers one request, then nothing any more, not even a PING.
async fn dies_silently() -> Pod {
    Pod::start(|connection, stream, bodies| async move {
        let first = Rc::new(tokio::sync::Notify::new());
        let answered = Rc::clone(&first);
        let serving = serve(stream, 100, move |_, request, respond| {
            let (bodies, answered) = (Rc::clone(&bodies), Rc::clone(&answered));
            async move {
                answer_ok(request, respond, bodies).await;
                answered.notify_one();
            }
        });
        if connection > 0 {
            return serving.await;
        }
        let mut serving = Box::pin(serving);
        tokio::select! {
            () = &mut serving => {}
            // What was answered gets out, then nothing is polled any more and the socket stays open.
            () = async { first.notified().await; tokio::time::sleep(Duration::from_millis(10)).await } => {
                std::future::pending::<()>().await;
            }
        }
    })
    .await
}

#[test]
fn a_dead_connection_costs_one_request_its_deadline() {
    run_paused(async || {
        let pod = dies_silently().await;
        let timeouts = Timeouts { request: Some(Duration::from_secs(2)), ..Timeouts::default() };
        let gateway = Gateway::start(Options { timeouts, ..pod.options() }).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(gateway.ask(POST).await.verdict(), (504, Some("request")));
        for _ in 0..3 {
            assert_eq!(gateway.ask(POST).await.status, 200);
        }
        assert_eq!(pod.connections.get(), 2);
    });
}

#[test]
fn a_dead_connection_is_found_by_ping() {
    run_paused(async || {
        let pod = dies_silently().await;
        let gateway = Gateway::start(pod.options()).await;
        tokio::task::spawn_local(Rc::clone(&gateway.worker).maintain());
        assert_eq!(gateway.ask(GET).await.status, 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = tokio::time::Instant::now();
        // It may be sent again, and is.
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert!((20..=21).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        assert_eq!(pod.connections.get(), 2);
    });
}

#[test]
fn a_slow_answer_on_a_living_connection_is_waited_for() {
    run_paused(async || {
        let pod = Pod::start(|_, stream, bodies| {
            serve(stream, 100, move |_, request, respond| {
                let bodies = Rc::clone(&bodies);
                async move {
                    tokio::time::sleep(Duration::from_secs(3_000)).await;
                    answer_ok(request, respond, bodies).await;
                }
            })
        })
        .await;
        let timeouts = Timeouts { request: Some(Duration::ZERO), ..Timeouts::default() };
        let gateway = Gateway::start(Options { timeouts, ..pod.options() }).await;
        tokio::task::spawn_local(Rc::clone(&gateway.worker).maintain());
        let answer = gateway.ask(POST).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn a_request_that_has_no_form_in_http2_never_goes_out_as_another_one() {
    run(async || {
        let pod = Pod::start(|_, stream, bodies| {
            serve(stream, 100, move |_, request, respond| answer_ok(request, respond, Rc::clone(&bodies)))
        })
        .await;
        let rewrite = Filter::Rewrite(Rewrite { hostname: Some("not a host".into()), path: None });
        let gateway = Gateway::start(Options { filters: vec![rewrite], ..pod.options() }).await;
        assert_eq!(gateway.ask(POST).await.verdict(), (400, Some("target")));
        assert_eq!(pod.bodies.borrow().len(), 0);
    });
}
