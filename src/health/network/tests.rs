//! Checks over real sockets of endpoints that answer well, badly, too much or nothing.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::balance::EndpointHealth;
use crate::health::tests::check;
use crate::model::health::HealthCheck;
use crate::telemetry::metrics::CheckOutcome;

fn get() -> HealthCheck {
    check(1)
}

fn grpc(service: &str) -> HealthCheck {
    HealthCheck { question: Question::Grpc { service: service.into() }, ..check(1) }
}

fn target(addr: SocketAddr, check: HealthCheck, protocol: Protocol) -> Target {
    Target { addr, fallback: None, check: Arc::new(check), protocol, tls: None }
}

/// An endpoint that serves one connection.
async fn endpoint<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        if let Ok((stream, _)) = listener.accept().await {
            serve(stream).await;
        }
    });
    addr
}

/// What comes of a check, within two seconds.
async fn ask(target: &Target) -> Result<(), String> {
    let asked = tokio::time::timeout(Duration::from_secs(2), Network.ask(target)).await;
    asked.unwrap_or(Err(Failure::TimedOut)).map_err(|failure| failure.to_string())
}

/// What comes of a check whose answer is these bytes, after which the endpoint closes; and what it was sent.
async fn answered(answer: impl Into<Vec<u8>>, check: HealthCheck) -> (Result<(), String>, String) {
    let answer = answer.into();
    let (sender, sent) = tokio::sync::oneshot::channel();
    let addr = endpoint(async move |mut stream: TcpStream| {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.expect("a request") == 0 {
                break;
            }
        }
        let _ = sender.send(String::from_utf8(request).expect("text"));
        // It may be gone by now.
        let _ = stream.write_all(&answer).await;
    })
    .await;
    let result = ask(&target(addr, check, Protocol::Http)).await;
    let sent = sent.await.expect("a request").replace(&addr.to_string(), "ADDR");
    (result, sent)
}

#[tokio::test]
async fn get_asks_for_the_path_and_reads_the_head_alone() {
    // Far more was promised than comes.
    let (result, sent) = answered("HTTP/1.1 204 No Content\r\ncontent-length: 999999\r\n\r\n", get()).await;
    assert_eq!(result, Ok(()));
    let expected = "GET /healthz HTTP/1.1\r\nhost: ADDR\r\nuser-agent: tidegate-health/1\r\nconnection: close\r\n\r\n";
    assert_eq!(sent, expected);
    let path = Question::Get { path: "/h?deep=1".into(), expected: [200..=200, 301..=302].into() };
    let named = HealthCheck { question: path, host: Some("shop.test".into()), ..get() };
    let (result, sent) = answered("HTTP/1.1 301 Moved\r\nlocation: /else\r\n\r\n", named.clone()).await;
    assert_eq!(result, Ok(()));
    assert!(sent.starts_with("GET /h?deep=1 HTTP/1.1\r\nhost: shop.test\r\n"), "{sent}");
    assert_eq!(answered("HTTP/1.1 204 N\r\n\r\n", named).await.0, Err("status 204 No Content".to_owned()));
}

#[tokio::test]
async fn bad_and_hostile_answers_are_failures() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(40_000));
    let endless = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(5_000);
    for (answer, expected) in [
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503 Service Unavailable"),
        ("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n", "status 302 Found"),
        ("", "the connection was closed before the answer"),
        ("HTTP/1.1 200 OK\r\n", "the connection was closed before the answer"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "malformed answer: status line is malformed"),
        ("HTTP/1.1 200 OK\ncontent-length: 0\n\n", "malformed answer: bare LF in the head"),
        ("HTTP/1.1 200 OK\r\na b: 1\r\n\r\n", "malformed answer: field name is malformed"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "malformed answer: 101 without an upgrade"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "malformed answer: both content-length and transfer-encoding",
        ),
        (&long, "malformed answer: head is too large"),
        (&endless, "malformed answer: head is too large"),
    ] {
        let beginning: String = answer.chars().take(60).collect();
        assert_eq!(answered(answer, get()).await.0, Err(expected.to_owned()), "{beginning}");
    }
    let (result, _) = answered("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", get()).await;
    assert_eq!(result, Ok(()), "an interim answer precedes the answer");
    assert_eq!(answered("HTTP/1.0 200 OK\r\n\r\n", get()).await.0, Ok(()));
}

#[tokio::test]
async fn an_endpoint_that_refuses_or_says_nothing_fails() {
    // Bound and not listened on.
    let bound = TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let dead = bound.local_addr().expect("an address");
    for (check, protocol) in [(get(), Protocol::Http), (get(), Protocol::H2c), (grpc(""), Protocol::Http)] {
        let failure = Network.ask(&target(dead, check, protocol)).await.expect_err("nobody listens");
        assert_eq!(failure.outcome(), CheckOutcome::Connect);
        assert!(failure.to_string().starts_with("cannot connect: "), "{failure}");
    }
    for (check, protocol) in [(get(), Protocol::Http), (get(), Protocol::H2c), (grpc(""), Protocol::Http)] {
        let addr = endpoint(async |stream: TcpStream| {
            let _open = stream;
            std::future::pending().await
        })
        .await;
        let asking = target(addr, check, protocol);
        let asked = tokio::time::timeout(Duration::from_millis(100), Network.ask(&asking)).await;
        assert!(asked.is_err(), "{asked:?}");
    }
}

#[tokio::test]
async fn the_pods_other_address_and_another_port_are_asked() {
    let bound = TcpSocket::new_v4().expect("a socket");
    bound.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let dead = bound.local_addr().expect("an address");
    let addr = endpoint(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        // It is read before it is closed, so that the answer is not lost.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let both = Target { fallback: Some(addr), ..target(dead, get(), Protocol::Http) };
    assert_eq!(ask(&both).await, Ok(()));
    let key = crate::model::ids::EndpointKey { addr: "127.0.0.1:9".parse().expect("an address"), uid: None };
    let fallback = Some("[::1]:9".parse().expect("an address"));
    let state = Arc::new(crate::balance::EndpointState::new(key, fallback));
    let at_port = Arc::new(HealthCheck { port: std::num::NonZeroU16::new(8081), ..get() });
    let found = Target::of(&EndpointHealth::new(Arc::clone(&state), at_port, (Protocol::Http, None)), None);
    assert_eq!((found.addr.to_string().as_str(), found.authority().as_str()), ("127.0.0.1:8081", "127.0.0.1:8081"));
    assert_eq!(found.fallback.map(|addr| addr.to_string()).as_deref(), Some("[::1]:8081"));
    let found = Target::of(&EndpointHealth::new(state, Arc::new(get()), (Protocol::Http, None)), None);
    assert_eq!(found.addr.to_string(), "127.0.0.1:9");
}

/// What an HTTP/2 endpoint answers with.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: u16,
    fields: Vec<(&'static str, &'static str)>,
    data: Vec<&'static [u8]>,
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| ((*name).parse().expect("a name"), HeaderValue::from_static(value))).collect()
}

/// What comes of a check by an HTTP/2 endpoint, and what it was asked.
async fn answered_http2(
    answer: Answer,
    check: HealthCheck,
    protocol: Protocol,
) -> (Result<(), String>, Request<Bytes>) {
    let (sender, asked) = tokio::sync::oneshot::channel();
    let addr = endpoint(async move |stream: TcpStream| {
        let mut connection = h2::server::handshake(stream).await.expect("a preface");
        let (request, mut respond) = connection.accept().await.expect("a request").expect("a sound one");
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut received = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                received.extend_from_slice(&data);
            }
            let _ = sender.send(Request::from_parts(head, Bytes::from(received)));
            let mut response = Response::builder().status(answer.status).body(()).expect("a status");
            *response.headers_mut() = fields(&answer.fields);
            let ends = answer.data.is_empty() && answer.trailers.is_none();
            // It may be gone at any time.
            let Ok(mut stream) = respond.send_response(response, ends) else { return };
            let last = answer.data.len();
            for (at, data) in answer.data.into_iter().enumerate() {
                let _ = stream.send_data(Bytes::from_static(data), at + 1 == last && answer.trailers.is_none());
            }
            if let Some(trailers) = answer.trailers {
                let _ = stream.send_trailers(fields(&trailers));
            }
        });
        while connection.accept().await.is_some() {}
    })
    .await;
    let result = ask(&target(addr, check, protocol)).await;
    (result, asked.await.expect("a request"))
}

#[tokio::test]
async fn get_works_over_http2() {
    let answer = Answer { status: 200, data: vec![b"far more than is read"], ..Answer::default() };
    let named = HealthCheck { host: Some("shop.test".into()), ..get() };
    let (result, request) = answered_http2(answer, named, Protocol::H2c).await;
    assert_eq!(result, Ok(()));
    assert_eq!(request.uri(), "http://shop.test/healthz");
    assert_eq!(request.headers()["user-agent"], "tidegate-health/1");
    let answer = Answer { status: 500, ..Answer::default() };
    let (result, _) = answered_http2(answer, get(), Protocol::H2c).await;
    assert_eq!(result, Err("status 500 Internal Server Error".to_owned()));
    // An endpoint of HTTP/1.1 behind a backend that says HTTP/2.
    let addr = endpoint(async |mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let failure = Network.ask(&target(addr, get(), Protocol::H2c)).await.expect_err("not HTTP/2");
    assert_eq!(failure.outcome(), CheckOutcome::Answer, "{failure}");
}

#[tokio::test]
async fn grpc_health_says_whether_a_service_is_well() {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];
    let ok = Some(vec![("grpc-status", "0")]);
    let grpc_type = vec![("content-type", "application/grpc")];
    let answer = |data: Vec<&'static [u8]>, trailers| Answer { status: 200, fields: grpc_type.clone(), data, trailers };
    // Whatever the protocol of the backend.
    for protocol in [Protocol::Http, Protocol::H2c] {
        let (result, request) = answered_http2(answer(vec![SERVING], ok.clone()), grpc("shop.Cart"), protocol).await;
        assert_eq!(result, Ok(()));
        assert_eq!((request.method(), request.uri().path()), (&http::Method::POST, "/grpc.health.v1.Health/Check"));
        assert_eq!(
            (&request.headers()["content-type"], &request.headers()["te"]),
            (&HeaderValue::from_static("application/grpc"), &HeaderValue::from_static("trailers"))
        );
        assert_eq!(&request.body()[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    }
    let (result, request) =
        answered_http2(answer(vec![&SERVING[..3], &SERVING[3..]], ok.clone()), grpc(""), Protocol::H2c).await;
    assert_eq!((result, &request.body()[..]), (Ok(()), &b"\0\0\0\0\0"[..]), "the server as a whole, in two parts");
    static LONG: [u8; 4_000] = [0; 4_000];
    let trailers_only = |status| Answer {
        status: 200,
        fields: vec![("content-type", "application/grpc"), ("grpc-status", status)],
        ..Answer::default()
    };
    for (answer, expected) in [
        (answer(vec![NOT_SERVING], ok.clone()), "gRPC health NOT_SERVING"),
        (trailers_only("5"), "grpc-status 5"),
        (trailers_only("12"), "grpc-status 12"),
        (trailers_only("x"), "malformed answer: grpc-status is no number"),
        (trailers_only("0"), "malformed answer: no gRPC message"),
        (answer(vec![SERVING], Some(vec![("grpc-status", "13")])), "grpc-status 13"),
        (answer(vec![SERVING], None), "malformed answer: no grpc-status"),
        (answer(vec![SERVING], Some(Vec::new())), "malformed answer: no grpc-status"),
        (answer(vec![&SERVING[..6]], ok.clone()), "malformed answer: not exactly one gRPC message"),
        (answer(vec![SERVING, SERVING], ok.clone()), "malformed answer: not exactly one gRPC message"),
        (answer(vec![&[1, 0, 0, 0, 2, 8, 1]], ok.clone()), "malformed answer: a compressed gRPC message"),
        (answer(vec![&LONG], ok.clone()), "malformed answer: a gRPC message that is too long"),
        (Answer { status: 404, ..Answer::default() }, "status 404 Not Found"),
    ] {
        let text = format!("{answer:?}").chars().take(120).collect::<String>();
        assert_eq!(answered_http2(answer, grpc("s"), Protocol::Http).await.0, Err(expected.to_owned()), "{text}");
    }
}

#[tokio::test]
async fn hostile_http2_is_bounded() {
    // A stream of answers' beginnings without an end: interim heads, as fast as they are taken.
    let addr = endpoint(async |mut stream: TcpStream| {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        // HEADERS with END_HEADERS on stream 1, `:status: 103` without indexing.
        let interim = [&[0, 0, 5, 1, 4, 0, 0, 0, 1][..], &[0x08, 3, b'1', b'0', b'3']].concat();
        let mut bytes = settings.to_vec();
        (0..1_000).for_each(|_| bytes.extend_from_slice(&interim));
        while stream.write_all(&bytes).await.is_ok() {
            bytes.drain(..settings.len().min(bytes.len() - interim.len() * 1_000));
        }
    })
    .await;
    let asked =
        tokio::time::timeout(Duration::from_millis(300), Network.ask(&target(addr, get(), Protocol::H2c))).await;
    assert!(!matches!(asked, Ok(Ok(()))), "{asked:?}");
    // A head far above what is taken.
    static LONG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| "v".repeat(40_000));
    let answer = Answer { status: 200, fields: vec![("x-long", LONG.as_str())], ..Answer::default() };
    let (result, _) = answered_http2(answer, get(), Protocol::H2c).await;
    assert!(result.as_ref().is_err_and(|failure| failure.starts_with("no answer: ")), "{result:?}");
}
