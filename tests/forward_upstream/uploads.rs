//! Uploads to endpoints that take no byte: who ends them, and when.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tidegate::model::backend::Protocol;
use tidegate::settings::Deadlines;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::bed::{Endpoints, Gateway, Options, Served, run, run_paused, until};

/// How an endpoint refuses to take a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaf {
    /// HTTP/1: it reads the head and no more.
    Http1,
    /// HTTP/2: it reads the head and no more.
    Http2,
    /// HTTP/2: it reads everything and gives no window.
    Windowless,
}

const ALL: [Deaf; 3] = [Deaf::Http1, Deaf::Http2, Deaf::Windowless];

impl Deaf {
    async fn gateway(self, deadlines: Deadlines) -> Gateway {
        let endpoint = Endpoints::script(move |mut served: Served| async move {
            match self {
                Self::Http1 => drop(served.head().await),
                Self::Http2 | Self::Windowless => {
                    served.stream.read_exact(&mut [0; 24]).await.unwrap();
                    served.send(b"\0\0\0\x04\0\0\0\0\0").await;
                    // Up to the head of the request.
                    while next_frame(&mut served.stream).await.is_some_and(|kind| kind != 1) {}
                    while self == Self::Windowless && next_frame(&mut served.stream).await.is_some() {}
                }
            }
            std::future::pending::<()>().await;
        })
        .await;
        let protocol = if self == Self::Http1 { Protocol::Http } else { Protocol::H2c };
        let http2 = true;
        Gateway::start(Options { protocol, http2, deadlines, ..Options::to(&[endpoint.addr]) }).await
    }

    /// Connections to the endpoint that stay when the exchange is gone.
    fn kept(self) -> u64 {
        u64::from(self != Self::Http1)
    }
}

/// Reads one frame, and gives its kind.
async fn next_frame(stream: &mut TcpStream) -> Option<u8> {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.ok()?;
    let [a, b, c, kind, ..] = header;
    let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
    stream.read_exact(&mut payload).await.ok()?;
    Some(kind)
}

/// Long enough that nothing moves any more.
const STILL: Duration = Duration::from_millis(200);

/// Begins an upload over HTTP/1 and sends until nobody takes any more.
async fn stuck_http1(gateway: &Gateway) -> TcpStream {
    let mut stream = gateway.client().await.stream;
    stream.write_all(b"POST /p HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
    let chunk = vec![0; 64 << 10];
    while timeout(STILL, stream.write(&chunk)).await.is_ok() {}
    stream
}

/// An upload over HTTP/2 whose window is used up, the client, and the task of its connection.
type Stuck = (h2::client::ResponseFuture, SendRequest<Bytes>, JoinHandle<()>);

async fn stuck_http2(gateway: &Gateway) -> Stuck {
    let (mut sender, connection) = h2::client::handshake(gateway.client().await.stream).await.unwrap();
    let task = tokio::task::spawn_local(async move { drop(connection.await) });
    let request = http::Request::post("http://a.test/p").body(()).unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    loop {
        body.reserve_capacity(16 << 10);
        match timeout(STILL, std::future::poll_fn(|cx| body.poll_capacity(cx))).await {
            Ok(capacity) => body.send_data(vec![0; capacity.unwrap().unwrap()].into(), false).unwrap(),
            Err(_) => break,
        }
    }
    // The stream ends with its connection, not with this handle.
    std::mem::forget(body);
    (response, sender, task)
}

#[test]
fn a_client_that_goes_ends_the_exchange() {
    run_paused(async || {
        for deaf in ALL {
            for http2 in [false, true] {
                let gateway = deaf.gateway(Deadlines::default()).await;
                let began = if http2 {
                    let (_response, _sender, task) = stuck_http2(&gateway).await;
                    task.abort();
                    Instant::now()
                } else {
                    let stream = stuck_http1(&gateway).await;
                    // A FIN would wait behind what the gateway has no room for.
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                    Instant::now()
                };
                until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
                assert!(began.elapsed() <= Duration::from_secs(2), "{deaf:?}, HTTP/2: {http2}: {:?}", began.elapsed());
                until(|| gateway.metric("tidegate_upstream_connections_open") == deaf.kept()).await;
                let gone = "tidegate_requests_total{route=\"ns/r\",rule=\"0\",method=\"POST\",code=\"4xx\"}";
                assert_eq!(gateway.metric(gone), 1, "{deaf:?}, HTTP/2: {http2}");
            }
        }
    });
}

#[test]
fn an_endpoint_that_takes_no_byte_is_504() {
    run_paused(async || {
        for deaf in ALL {
            for http2 in [false, true] {
                let response_head = Duration::from_secs(20);
                let gateway = deaf.gateway(Deadlines { response_head, ..Deadlines::default() }).await;
                let began = Instant::now();
                if http2 {
                    let (response, ..) = stuck_http2(&gateway).await;
                    assert_eq!(response.await.unwrap().status(), 504, "{deaf:?}");
                } else {
                    let mut stream = stuck_http1(&gateway).await;
                    let mut answer = [0; 12];
                    stream.read_exact(&mut answer).await.unwrap();
                    assert_eq!(answer, *b"HTTP/1.1 504", "{deaf:?}");
                }
                assert!((20..22).contains(&began.elapsed().as_secs()), "{deaf:?}, {http2}: {:?}", began.elapsed());
                until(|| gateway.metric("tidegate_upstream_connections_open") == deaf.kept()).await;
                assert_eq!(gateway.metric("tidegate_own_answers_total{reason=\"response_head\"}"), 1);
            }
        }
    });
}

/// A whole stream of them (gRPC, WebSockets), within the window that the gateway has given.
#[test]
fn small_frames_that_nobody_reads_are_no_flood() {
    run(async || {
        let gateway = Deaf::Http1.gateway(Deadlines::default()).await;
        let (mut sender, connection) = h2::client::handshake(gateway.client().await.stream).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = |host: &str| http::Request::post(format!("http://{host}/p")).body(()).unwrap();
        let (_response, mut body) = sender.send_request(request("a.test"), false).unwrap();
        // Nobody reads them: they are more than what the endpoint's socket and the window of the stream take.
        for _ in 0..400_000 {
            body.reserve_capacity(20);
            let capacity = timeout(STILL, std::future::poll_fn(|cx| body.poll_capacity(cx))).await;
            let Ok(capacity) = capacity else { break };
            capacity.expect("the stream stays").unwrap();
            body.send_data(Bytes::from_static(&[b'x'; 20]), false).unwrap();
        }
        let mut sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(request("b.test"), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 404, "another stream");
        let flood = "tidegate_connections_closed_total{side=\"downstream\",reason=\"flood\"}";
        assert_eq!(gateway.metric(flood), 0);
    });
}

/// A reset would take the answer with it, on machines that send on until all is sent.
#[test]
fn an_upload_that_is_refused_is_read_to_its_end() {
    const LENGTH: usize = 20 << 20;
    run(async || {
        let gateway = Deaf::Http1.gateway(Deadlines::default()).await;
        let mut client = gateway.client().await;
        client.send(format!("POST /p HTTP/1.1\r\nhost: b.test\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
        client.send(vec![b'x'; LENGTH]).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.field("connection")), (404, Some("close")));
    });
}
