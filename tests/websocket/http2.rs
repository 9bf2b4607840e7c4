//! WebSockets over HTTP/2 (RFC 8441): one stream each, beside others, to pods that speak HTTP/1.1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;

use super::bed::{Echo, RawServer, SOON, gateway, metric, run, until};

/// A connection of HTTP/2 in the clear, whose server has said that it opens WebSockets.
async fn connect(port: u16) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    // SETTINGS_ENABLE_CONNECT_PROTOCOL comes with the first frame of the server.
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        sender = sender.ready().await.unwrap();
    }
    sender
}

/// An open WebSocket.
struct Socket {
    send: SendStream<Bytes>,
    receive: RecvStream,
    fields: HeaderMap,
    seen: Vec<u8>,
}

fn opening(protocol: &'static str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://ws.test/socket")
        .header("sec-websocket-version", "13")
        .header("origin", "http://ws.test")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
    request
}

impl Socket {
    /// Opens one; the status of the answer where it is not 200.
    async fn open(sender: &SendRequest<Bytes>, request: Request<()>) -> Result<Self, u16> {
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        let (parts, receive) = response.into_parts();
        Ok(Self { send, receive, fields: parts.headers, seen: Vec::new() })
    }

    fn send(&mut self, bytes: &'static [u8]) {
        self.send.send_data(Bytes::from_static(bytes), false).unwrap();
    }

    /// Reads more; false at the end of the stream.
    async fn more(&mut self) -> Result<bool, h2::Error> {
        let Some(data) = self.receive.data().await else { return Ok(false) };
        let data = data?;
        self.receive.flow_control().release_capacity(data.len()).unwrap();
        self.seen.extend_from_slice(&data);
        Ok(true)
    }

    async fn expect(&mut self, bytes: &[u8]) {
        while self.seen.len() < bytes.len() {
            assert!(self.more().await.unwrap(), "ended after {}", self.seen.escape_ascii());
        }
        assert_eq!(self.seen[..bytes.len()], *bytes);
        self.seen.drain(..bytes.len());
    }

    async fn rest(mut self) -> Vec<u8> {
        while self.more().await.unwrap() {}
        self.seen
    }
}

/// `hi`, masked with zeros, and as a server sends it.
const HI: &[u8] = b"\x81\x82\0\0\0\0hi";
const HI_BACK: &[u8] = b"\x81\x02hi";

#[test]
fn a_stream_is_a_socket_to_the_pod() {
    let echo = Echo::start();
    let gateway = gateway(&[echo.port], "", &[]);
    run(async {
        let sender = connect(gateway.http).await;
        let mut request = opening("websocket");
        // What a client has no business to send, and a list of which the pod takes one.
        request.headers_mut().insert("sec-websocket-key", http::HeaderValue::from_static("none of its business"));
        request.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static("chat, talk"));
        let mut socket = Socket::open(&sender, request).await.unwrap();
        assert_eq!(socket.fields["sec-websocket-protocol"], "chat");
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!socket.fields.contains_key(name), "{name}");
        }
        let head = echo.heads.recv().unwrap();
        assert_eq!(
            (&head["connection"], &head["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert_eq!(head["sec-websocket-key"].len(), 24);
        assert_eq!((&head["host"], &head["origin"]), (&"ws.test".parse().unwrap(), &"http://ws.test".parse().unwrap()));
        let mut other = Socket::open(&sender, opening("websocket")).await.unwrap();
        assert_ne!(echo.heads.recv().unwrap()["sec-websocket-key"], head["sec-websocket-key"]);
        for _ in 0..3 {
            for socket in [&mut socket, &mut other] {
                socket.send(HI);
                socket.expect(HI_BACK).await;
            }
        }
        // It stands in the registry as any other, and is counted as one.
        let list: serde_json::Value = serde_json::from_str(&gateway.admin("/debug/sockets").body).unwrap();
        let first = &list[0];
        assert_eq!((first["route"].as_str(), first["rule"].as_str()), (Some("default/chat"), Some("socket")));
        assert_eq!(metric(&gateway, "tidegate_sockets_open"), 2.0);
        assert_eq!(metric(&gateway, "tidegate_socket_bytes_total{direction=\"to_client\"}"), 6.0 * 4.0);
        // END_STREAM is its FIN: the pod ends, too.
        socket.send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(socket.rest().await, b"");
        until("counted", || metric(&gateway, "tidegate_sockets_closed_total{end=\"finished\"}") == 1.0);
        other.send(HI);
        other.expect(HI_BACK).await;
    });
    assert_eq!(
        metric(&gateway, "tidegate_requests_total{route=\"default/chat\",rule=\"socket\",method=\"GET\",code=\"1xx\"}"),
        2.0
    );
}

/// All that is not a WebSocket of a rule that has them is refused, and the connection goes on.
#[test]
fn what_opens_nothing_is_refused_on_its_stream() {
    let echo = Echo::start();
    let gateway = gateway(
        &[echo.port],
        "  - name: none\n    matches: [{path: {value: /none}}]\n    upgrades: {allow: []}\n    backendRefs: [{name: chat, port: 80}]\n",
        &[],
    );
    run(async {
        let sender = connect(gateway.http).await;
        let to = |uri: &'static str| {
            let mut request = opening("websocket");
            *request.uri_mut() = uri.parse().unwrap();
            request
        };
        assert_eq!(Socket::open(&sender, to("http://ws.test/none")).await.err(), Some(403));
        assert_eq!(Socket::open(&sender, to("http://other.test/")).await.err(), Some(404));
        assert_eq!(Socket::open(&sender, opening("connect-udp")).await.err(), Some(501));
        let plain = Request::connect("ws.test:443").body(()).unwrap();
        assert_eq!(Socket::open(&sender, plain).await.err(), Some(405));
        assert!(echo.heads.try_recv().is_err(), "nothing came through");
        assert!(Socket::open(&sender, opening("websocket")).await.is_ok());
    });
    assert_eq!(metric(&gateway, "tidegate_own_answers_total{reason=\"upgrade\"}"), 2.0);
}

/// Only a pod that has accepted this very handshake opens one; other answers of pods pass.
#[test]
fn answers_of_pods_are_checked() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 502),
        ("HTTP/1.1 204 No Content\r\n\r\n", 502),
        ("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n", 426),
        ("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            502,
        ),
        ("", 502),
    ] {
        let server = RawServer::start();
        let gateway = gateway(&[server.port], "", &[]);
        run(async {
            let sender = connect(gateway.http).await;
            let pod = tokio::task::spawn_blocking(move || {
                let mut backend = server.accept();
                backend.head();
                backend.send(answer.as_bytes());
                drop(backend);
            });
            let refused = Socket::open(&sender, opening("websocket")).await.err();
            assert_eq!(refused, Some(expected), "{answer}");
            pod.await.unwrap();
        });
    }
}

#[test]
fn limits_are_those_of_the_rule() {
    let echo = Echo::start();
    let rule = "    upgrades: {maxConnections: 1, maxLifetime: 3s}\n";
    let gateway = gateway(&[echo.port], rule, &[]);
    run(async {
        let sender = connect(gateway.http).await;
        let began = Instant::now();
        let mut socket = Socket::open(&sender, opening("websocket")).await.unwrap();
        assert_eq!(Socket::open(&sender, opening("websocket")).await.err(), Some(503));
        socket.expect(b"\x88\x02\x03\xf4").await;
        assert!(began.elapsed() >= Duration::from_millis(2_950), "{:?}", began.elapsed());
        socket.send(b"\x88\x82\0\0\0\0\x03\xf4");
        assert_eq!(socket.rest().await, b"");
    });
    until("counted", || metric(&gateway, "tidegate_sockets_closed_total{end=\"tunnel_lifetime\"}") == 1.0);
}

/// The end of a client, whichever way, reaches the pod; the end of a pod reaches the client, and no other stream.
#[test]
fn ends_are_passed_on_at_once() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &["--workers", "1"]);
    run(async {
        let sender = connect(gateway.http).await;
        let server = std::sync::Arc::new(server);
        let pair = async || {
            let server = std::sync::Arc::clone(&server);
            let backend = tokio::task::spawn_blocking(move || server.switched());
            let socket = Socket::open(&sender, opening("websocket")).await.unwrap();
            (socket, backend.await.unwrap())
        };
        let (mut stays, mut its_pod) = pair().await;
        // A client that takes its stream back, and one whose connection breaks.
        let (mut reset, mut pod) = pair().await;
        let began = Instant::now();
        reset.send.send_reset(Reason::CANCEL);
        let gone = tokio::task::spawn_blocking(move || pod.is_gone()).await.unwrap();
        assert!(gone && began.elapsed() < SOON, "{:?}", began.elapsed());
        // A pod that is killed.
        let (mut left, pod) = pair().await;
        let began = Instant::now();
        drop(pod);
        while left.more().await.is_ok_and(|more| more) {}
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        stays.send(HI);
        let answering = tokio::task::spawn_blocking(move || {
            its_pod.expect(HI);
            its_pod.send(HI_BACK);
            its_pod
        });
        let mut its_pod = answering.await.unwrap();
        stays.expect(HI_BACK).await;
        drop((stays, left, reset, sender));
        let gone = tokio::task::spawn_blocking(move || its_pod.is_gone()).await.unwrap();
        assert!(gone, "the connection is gone");
    });
    until("closed", || metric(&gateway, "tidegate_sockets_open") == 0.0);
}

#[test]
fn sockets_are_closed_over_the_admin_port_and_at_the_end_of_the_process() {
    let echo = Echo::start();
    let mut gateway = gateway(&[echo.port], "    upgrades: {drain: {window: 300ms}}\n", &["--drain-timeout", "5s"]);
    run(async {
        let sender = connect(gateway.http).await;
        let mut closed = Socket::open(&sender, opening("websocket")).await.unwrap();
        let mut drained = Socket::open(&sender, opening("websocket")).await.unwrap();
        drained.send(HI);
        drained.expect(HI_BACK).await;
        let mut admin = super::support::client::Client::connect(gateway.admin);
        admin.request("DELETE /debug/sockets/1 HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        closed.expect(b"\x88\x02\x03\xf4").await;
        drained.send(HI);
        drained.expect(HI_BACK).await;
        gateway.terminate();
        let began = Instant::now();
        drained.expect(b"\x88\x02\x03\xf4").await;
        drained.send(b"\x88\x82\0\0\0\0\x03\xf4");
        drained.send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(drained.rest().await, b"");
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    });
    assert!(gateway.wait().success());
}
