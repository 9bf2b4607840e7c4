//! HTTP/2 with prior knowledge to endpoints: shared connections, trailers, gRPC.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tidegate::model::backend::Protocol;
use tidegate::model::filter::{Filter, HeaderEdits};
use tidegate::model::policy::{Algorithm, Timeouts};
use tidegate::model::retry::Retry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::bed::{Endpoints, GET, Gateway, Options, dying, run, run_paused, until};

#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

struct Io(TcpStream);

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut buffer = [0; 4096];
        let room = cursor.remaining().min(buffer.len());
        let mut read = tokio::io::ReadBuf::new(&mut buffer[..room]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
        cursor.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A body of ready frames; with a gate it fails at its end, once the gate is opened.
pub struct Frames(std::vec::IntoIter<Frame<Bytes>>, Option<Pin<Box<dyn Future<Output = ()>>>>);

impl Frames {
    /// These, and a clean end.
    pub fn of(frames: Vec<Frame<Bytes>>) -> Self {
        Self(frames.into_iter(), None)
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match (self.0.next(), &mut self.1) {
            (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
            (None, Some(gate)) => {
                ready!(gate.as_mut().poll(cx));
                Poll::Ready(Some(Err(io::ErrorKind::Other.into())))
            }
            (None, None) => Poll::Ready(None),
        }
    }
}

/// What the server saw of a request.
#[derive(Clone, Debug)]
pub struct Seen {
    parts: String,
    pub headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

pub struct Server {
    pub addr: SocketAddr,
    connections: Rc<Cell<usize>>,
    pub seen: Rc<RefCell<Vec<Seen>>>,
    /// Ends the present connection with GOAWAY when it is raised.
    goaway: Rc<tokio::sync::Notify>,
    /// Lets bodies of `/p/cut` fail.
    pub cut: Rc<tokio::sync::Notify>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            addr: listener.local_addr().unwrap(),
            connections: Rc::default(),
            seen: Rc::default(),
            goaway: Rc::default(),
            cut: Rc::default(),
        };
        let (connections, seen) = (Rc::clone(&this.connections), Rc::clone(&this.seen));
        let (goaway, cut) = (Rc::clone(&this.goaway), Rc::clone(&this.cut));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                connections.set(connections.get() + 1);
                let (seen, goaway, cut) = (Rc::clone(&seen), Rc::clone(&goaway), Rc::clone(&cut));
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(Rc::clone(&seen), Rc::clone(&cut), request));
                    let connection =
                        hyper::server::conn::http2::Builder::new(Local).serve_connection(Io(stream), service);
                    let mut connection = std::pin::pin!(connection);
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = goaway.notified() => connection.as_mut().graceful_shutdown(),
                    }
                    let _ = connection.await;
                });
            }
        });
        this
    }
}

async fn answer(
    seen: Rc<RefCell<Vec<Seen>>>,
    cut: Rc<tokio::sync::Notify>,
    request: Request<Incoming>,
) -> Result<Response<Frames>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut response = Response::new(Frames(Vec::new().into_iter(), None));
    if path == "/p/silent" {
        std::future::pending::<()>().await;
    }
    if path == "/p/late" {
        tokio::time::sleep(Duration::from_secs(65)).await;
    }
    if path == "/p/duplex" {
        tokio::task::spawn_local(body.collect());
        *response.body_mut() = Frames(vec![Frame::data(Bytes::from_static(b"at once"))].into_iter(), None);
        return Ok(response);
    }
    let Ok(collected) = body.collect().await else {
        return Ok(response);
    };
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    let is_again = parts.headers.contains_key("x-tidegate-attempt");
    seen.borrow_mut().push(Seen {
        parts: format!("{} {}", parts.method, parts.uri),
        headers: parts.headers,
        body: body.clone(),
        trailers,
    });
    response.headers_mut().insert("x-own", HeaderValue::from_static("1"));
    if let Some(status) = path.strip_prefix("/p/status/") {
        *response.status_mut() = status.parse().unwrap();
    }
    if let Some(code) = path.strip_prefix("/p/code/") {
        let mut end = HeaderMap::new();
        end.insert("grpc-status", code.parse().unwrap());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let frames = vec![Frame::data(Bytes::from_static(b"message")), Frame::trailers(end)];
        *response.body_mut() = Frames(frames.into_iter(), None);
        return Ok(response);
    }
    if path == "/p/unavailable" && !is_again {
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
        return Ok(response);
    }
    let mut end = HeaderMap::new();
    end.insert("grpc-status", HeaderValue::from_static("0"));
    end.insert("host", HeaderValue::from_static("evil"));
    let frames = match path.as_str() {
        "/p/cut" => vec![Frame::data(Bytes::from_static(b"part"))],
        "/p/trailers" => vec![Frame::data(body), Frame::trailers(end)],
        _ => vec![Frame::data(if body.is_empty() { Bytes::from_static(b"ok") } else { body })],
    };
    let gate =
        (path == "/p/cut").then(|| Box::pin(async move { cut.notified().await }) as Pin<Box<dyn Future<Output = ()>>>);
    *response.body_mut() = Frames(frames.into_iter(), gate);
    Ok(response)
}

/// An endpoint that answers requests for `/p/late` after 65 seconds.
pub async fn late() -> SocketAddr {
    Server::start().await.addr
}

pub fn options(server: &Server) -> Options {
    Options { protocol: Protocol::H2c, http2: true, ..Options::to(&[server.addr]) }
}

/// A client that speaks HTTP/2 with prior knowledge to the gateway.
pub async fn client(gateway: &Gateway) -> hyper::client::conn::http2::SendRequest<Frames> {
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    // Under a paused clock nothing may wait for the kernel.
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(Local).handshake(Io(stream)).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}

pub fn grpc(path: &str, frames: Vec<Frame<Bytes>>) -> Request<Frames> {
    Request::post(format!("http://a.test{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Frames(frames.into_iter(), None))
        .unwrap()
}

#[test]
fn http1_clients_reach_http2_endpoints_over_one_connection() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let (a, b) = tokio::join!(gateway.ask(GET), gateway.ask(GET));
        assert_eq!((a.status, b.status), (200, 200));
        let answer = gateway
            .ask(
                "POST /p/x?q=1 HTTP/1.1\r\nhost: A.test\r\nconnection: x-c\r\nx-c: 1\r\ncontent-length: 5\r\n\r\nhello",
            )
            .await;
        assert_eq!((answer.status, answer.field("x-own")), (200, Some("1")));
        assert!(answer.body.windows(5).any(|window| window == b"hello"));
        assert_eq!(server.connections.get(), 1);
        let seen = server.seen.borrow()[2].clone();
        assert_eq!(seen.parts, "POST http://A.test/p/x?q=1");
        assert_eq!(seen.body, "hello");
        assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(seen.headers["via"], "1.1 tidegate");
        assert_eq!(seen.headers["content-length"], "5");
        for gone in ["connection", "x-c", "host", "te"] {
            assert!(!seen.headers.contains_key(gone), "{gone}");
        }
    });
}

#[test]
fn statuses_without_a_registered_reason_pass_over_both_protocols() {
    run(async || {
        let server = Server::start().await;
        let to_http2 = Gateway::start(options(&server)).await;
        for status in [299, 499, 599] {
            let endpoint = Endpoints::script(move |mut served| async move {
                while served.request().await.is_some() {
                    served.send(format!("HTTP/1.1 {status} Odd\r\ncontent-length: 2\r\n\r\nok")).await;
                }
            })
            .await;
            let to_http1 = Gateway::start(Options { http2: true, ..Options::to(&[endpoint.addr]) }).await;
            for gateway in [&to_http1, &to_http2] {
                let target = format!("/p/status/{status}");
                let answer = gateway.ask(&format!("GET {target} HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
                let reason = if std::ptr::eq(gateway, &raw const to_http1) { "Odd" } else { "" };
                assert_eq!(answer.head.lines().next(), Some(&*format!("HTTP/1.1 {status} {reason}")));
                assert!(String::from_utf8_lossy(&answer.body).contains("ok"));
                let mut client = client(gateway).await;
                let response = client.send_request(grpc(&target, Vec::new())).await.unwrap();
                assert_eq!(response.status(), status);
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
            }
        }
    });
}

#[test]
fn grpc_passes_with_trailers_both_ways() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let mut client = client(&gateway).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-forwarded-for", HeaderValue::from_static("1.1.1.1"));
        let frames = vec![Frame::data(Bytes::from_static(b"question")), Frame::trailers(trailers)];
        let response = client.send_request(grpc("/p/trailers", frames)).await.unwrap();
        assert_eq!(response.status(), 200);
        let collected = response.into_body().collect().await.unwrap();
        let end = collected.trailers().cloned().unwrap();
        assert_eq!(end["grpc-status"], "0");
        assert!(!end.contains_key("host"));
        assert_eq!(collected.to_bytes(), "question");
        let seen = server.seen.borrow()[0].clone();
        assert_eq!(seen.headers["te"], "trailers");
        assert_eq!(seen.headers.get_all("cookie").iter().count(), 2, "crumbs may stay crumbs");
        let trailers = seen.trailers.unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("1")));
    });
}

/// What a filter tells endpoints in a header, no client tells them in a trailer.
#[test]
fn trailers_do_not_say_what_filters_decide() {
    let name = HeaderName::from_static;
    let edits = |set: &'static str, remove: &'static str| {
        let set = vec![(name(set), HeaderValue::from_static("filter"))];
        Filter::RequestHeaders(HeaderEdits { set, add: Vec::new(), remove: vec![name(remove)] })
    };
    run(async || {
        let server = Server::start().await;
        let filters = vec![edits("x-user", "x-role")];
        let backend_filters = vec![edits("x-tenant", "x-team")];
        let gateway = Gateway::start(Options { filters, backend_filters, ..options(&server) }).await;
        let mut client = client(&gateway).await;
        let mut trailers = HeaderMap::new();
        for field in ["x-user", "x-role", "x-tenant", "x-team", "x-sum"] {
            trailers.insert(field, HeaderValue::from_static("client"));
        }
        let frames = vec![Frame::data(Bytes::from_static(b"question")), Frame::trailers(trailers)];
        assert_eq!(client.send_request(grpc("/p/trailers", frames)).await.unwrap().status(), 200);
        let seen = server.seen.borrow()[0].clone();
        assert!(seen.headers["x-user"] == "filter" && seen.headers["x-tenant"] == "filter", "{:?}", seen.headers);
        let trailers = seen.trailers.unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("client")));
    });
}

/// A gRPC client keeps one connection for ever: its calls are spread, not its connection.
#[test]
fn grpc_calls_of_one_connection_are_balanced_one_by_one() {
    run(async || {
        let servers = [Server::start().await, Server::start().await, Server::start().await];
        let endpoints = servers.iter().map(|server| server.addr).collect();
        let gateway =
            Gateway::start(Options { endpoints, algorithm: Algorithm::RoundRobin, ..options(&servers[0]) }).await;
        let mut client = client(&gateway).await;
        for _ in 0..30 {
            let call = grpc("/p/code/0", vec![Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"))]);
            let answer = client.send_request(call).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().trailers().unwrap()["grpc-status"], "0");
        }
        for server in &servers {
            assert_eq!((server.seen.borrow().len(), server.connections.get()), (10, 1));
        }
    });
}

/// RFC 9113 §8.1 calls them malformed. h2 leaves them away and goes on, and tells nobody: what goes on is the rest.
#[test]
fn pseudo_fields_in_trailers_reach_no_endpoint() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let mut stream = gateway.client().await.stream;
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream], payload].concat()
        };
        // Literals that enter no table (RFC 7541 §6.2.2).
        let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let block = |fields: &[(&str, &str)]| {
            fields
                .iter()
                .flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat())
                .collect::<Vec<u8>>()
        };
        let head =
            [(":method", "POST"), (":scheme", "http"), (":path", "/p/x"), (":authority", "a.test"), ("te", "trailers")];
        let trailers = [(":path", "/evil"), (":authority", "evil"), (":status", "500"), ("x-sum", "1")];
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, &[]),
            frame(1, 4, 1, &block(&head)),
            frame(0, 0, 1, b"body"),
            frame(1, 5, 1, &block(&trailers)),
        ];
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes.concat()).await.unwrap();
        // The message is malformed (RFC 9113 §8.1): the connection ends, and no pod sees a whole request.
        let mut rest = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest).await;
        assert!(!rest.is_empty() && server.seen.borrow().is_empty(), "{}", rest.escape_ascii());
    });
}

#[test]
fn grpc_without_a_message_is_tried_again_with_its_body() {
    run(async || {
        let server = Server::start().await;
        let block = super::retry_policy::retry();
        let block = Retry { codes: [].into(), grpc_codes: [14].into_iter().collect(), ..block };
        let gateway = Gateway::start(Options { retry: Some(block), ..options(&server) }).await;
        let mut sender = client(&gateway).await;
        let response = sender
            .send_request(grpc("/p/unavailable", vec![Frame::data(Bytes::from_static(b"message"))]))
            .await
            .unwrap();
        assert_eq!(response.headers().get("grpc-status"), None);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "message");
        let seen = server.seen.borrow();
        let [first, second] = &seen[..] else { panic!("{seen:?}") };
        assert!(first.body == "message" && second.body == "message");
        assert_eq!(first.headers.get("x-tidegate-attempt"), None);
        assert_eq!(second.headers["x-tidegate-attempt"], "2");
        assert_eq!(gateway.metric("tidegate_upstream_retries_total{trigger=\"grpc\"}"), 1);
    });
}

/// What came with a message may have done something, and trailers of a request are not kept.
#[test]
fn grpc_with_a_message_or_with_trailers_is_not_tried_again() {
    run(async || {
        let server = Server::start().await;
        let block = super::retry_policy::retry();
        let block = Retry { codes: [].into(), grpc_codes: [14].into_iter().collect(), ..block };
        let gateway = Gateway::start(Options { retry: Some(block), ..options(&server) }).await;
        let mut sender = client(&gateway).await;
        let message = || Frame::data(Bytes::from_static(b"message"));
        let response = sender.send_request(grpc("/p/code/14", vec![message()])).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "14");
        assert_eq!(server.seen.borrow().len(), 1);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let frames = vec![message(), Frame::trailers(trailers)];
        let response = sender.send_request(grpc("/p/unavailable", frames)).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(server.seen.borrow().len(), 2);
        assert_eq!(gateway.metric("tidegate_upstream_retries_total{trigger=\"grpc\"}"), 0);
    });
}

#[test]
fn a_goaway_makes_a_new_connection_and_loses_nothing() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        for round in 1..=5 {
            assert_eq!(gateway.ask(GET).await.status, 200);
            assert_eq!(server.connections.get(), round);
            server.goaway.notify_waiters();
            // Whatever state the old connection is met in, each request is answered.
            while server.connections.get() == round {
                assert_eq!(gateway.ask(GET).await.status, 200);
            }
        }
    });
}

#[test]
fn a_cut_stream_is_a_visible_cut() {
    run(async || {
        let server = Server::start().await;
        let gateway = Gateway::start(options(&server)).await;
        let mut plain = gateway.client().await;
        plain.send("GET /p/cut HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert!(plain.more().await);
        server.cut.notify_one();
        let answer = plain.answer().await;
        assert_eq!((answer.status, answer.complete), (200, false));

        let mut client = client(&gateway).await;
        let response = client.send_request(grpc("/p/cut", Vec::new())).await.unwrap();
        server.cut.notify_one();
        assert!(response.into_body().collect().await.is_err());
        assert_eq!(gateway.ask(GET).await.status, 200);
        assert_eq!(server.connections.get(), 1, "only the stream was lost");
    });
}

#[test]
fn a_refused_endpoint_is_502_and_another_one_takes_over() {
    run(async || {
        let server = Server::start().await;
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let gateway = Gateway::start(Options { endpoints: vec![dead], ..options(&server) }).await;
        assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("connect")));
        let gateway = Gateway::start(Options { endpoints: vec![dead, server.addr], ..options(&server) }).await;
        for _ in 0..4 {
            let post = "POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi";
            assert_eq!(gateway.ask(post).await.status, 200);
        }
        assert_eq!(server.seen.borrow().len(), 4);
        assert!(server.seen.borrow().iter().all(|seen| seen.body == "hi"));
        // The try that came to nothing left no mark.
        assert!(server.seen.borrow().iter().all(|seen| seen.headers.get_all("via").iter().count() == 1));
    });
}

#[test]
fn it_gets_the_body_that_a_failed_try_over_http1_has_not_read() {
    run(async || {
        let server = Server::start().await;
        let second = Some((server.addr, Protocol::H2c, Vec::new()));
        let gateway = Gateway::start(Options { second, ..Options::to(&[dying().await]) }).await;
        assert_eq!(gateway.ask(GET).await.status, 200);
        let mut client = gateway.client().await;
        client.send("PUT /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\n").await;
        until(|| gateway.retries() == 2).await;
        client.send("hi").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(server.seen.borrow()[0].body, "hi");
    });
}

#[test]
fn an_endpoint_that_speaks_http1_only_is_502() {
    run(async || {
        let http1 = super::bed::Endpoints::script(|mut served| async move {
            served.head().await;
            served.send("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        })
        .await;
        let gateway = Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[http1.addr]) }).await;
        assert_eq!(gateway.ask(GET).await.status, 502);
    });
}

#[test]
fn deadlines_hold_for_streams() {
    run_paused(async || {
        let server = Server::start().await;
        let timeouts = Timeouts { request: Some(Duration::from_secs(7)), ..Timeouts::default() };
        let gateway = Gateway::start(Options { timeouts, ..options(&server) }).await;
        let answer = gateway.ask("GET /p/silent HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(answer.verdict(), (504, Some("request")));
        assert_eq!(gateway.ask(GET).await.status, 200);
    });
}

#[test]
fn filters_shape_what_http2_endpoints_see() {
    run(async || {
        let server = Server::start().await;
        let filters = vec![super::filters::rewrite()];
        let gateway = Gateway::start(Options { filters, ..options(&server) }).await;
        assert_eq!(gateway.ask("GET /p/a?q HTTP/1.1\r\nhost: a.test\r\n\r\n").await.status, 200);
        let seen = server.seen.borrow()[0].clone();
        assert_eq!(seen.parts, "GET http://in.test/new/a?q");
        assert_eq!(seen.headers["x-forwarded-host"], "a.test");
    });
}

#[test]
fn a_client_that_opens_and_resets_streams_is_sent_away() {
    // In time that does not pass while this machine works: the budget grows with it.
    run_paused(async || {
        let backend = super::bed::Endpoints::script(|mut served| async move {
            served.request().await;
            served.until_closed().await;
        })
        .await;
        let gateway = Gateway::start(Options { http2: true, ..Options::to(&[backend.addr]) }).await;
        let stream = gateway.client().await.stream;
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let mut opened = 0;
        // The connection ends before the client does.
        while opened < 5_000 {
            let Ok(ready) = sender.ready().await else { break };
            sender = ready;
            let request = Request::get("http://a.test/p").body(()).unwrap();
            let Ok((_, mut stream)) = sender.send_request(request, false) else { break };
            opened += 1;
            // The request is on its way to the pod before it is taken back.
            let in_flight = || gateway.metric("tidegate_requests_in_flight");
            until(|| in_flight() == 1 || connection.is_finished()).await;
            stream.send_reset(h2::Reason::CANCEL);
            until(|| in_flight() == 0 || connection.is_finished()).await;
        }
        assert!((100..200).contains(&opened), "{opened}");
        let _ = connection.await;
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        let closed = "tidegate_connections_closed_total{side=\"downstream\",reason=\"flood\"}";
        assert_eq!(gateway.metric(closed), 1, "{}", gateway.metrics.render());
        // Every pod's socket was closed at once.
        until(|| backend.closed.get() == backend.connections.get()).await;
        assert!(backend.connections.get() <= 300, "{}", backend.connections.get());
        // Others are served.
        assert_eq!(gateway.worker.metrics().requests_in_flight.get(), 0);
    });
}
