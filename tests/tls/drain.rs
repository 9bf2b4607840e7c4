//! The end of the process over TLS, under load: no request is lost, streams go on until they end or the time is over, and
//! sockets get a close frame.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Authority, Client, gateway, route, secret};
use crate::support::PATIENCE;
use crate::support::gateway::service;

/// How long the process may take to drain.
const DRAIN: Duration = Duration::from_secs(3);

/// How long the stream takes that ends by itself.
const STREAM: Duration = Duration::from_millis(1_500);

/// What clients of all kinds have seen.
#[derive(Default)]
struct Tally {
    answered: AtomicUsize,
    lost: AtomicUsize,
}

impl Tally {
    fn good(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn bad(&self, why: &dyn std::fmt::Debug) {
        eprintln!("lost: {why:?}");
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A pod that speaks gRPC over HTTP/2 in the clear: `/test.Svc/Short` streams for a while and ends well, `/test.Svc/Long`
/// never ends.
fn grpc_pod() -> u16 {
    serve(|socket| async move {
        let Ok(mut connection) = h2::server::handshake(socket).await else { return };
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut stream = respond.send_response(head, false).unwrap();
                let begun = Instant::now();
                while request.uri().path() == "/test.Svc/Long" || begun.elapsed() < STREAM {
                    if stream.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let _ = stream.send_trailers(trailers);
            });
        }
    })
}

/// A pod whose WebSockets stay open until somebody closes them.
fn socket_pod() -> u16 {
    serve(|socket| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
    })
}

fn serve<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket));
            }
        });
    });
    port
}

/// One request after the other on connections that are kept, as long as somebody accepts.
fn keep_alive(client: &Client, port: u16, tally: &Tally) {
    while let Ok(stream) = client.connect(port, "a.test") {
        let mut stream = BufReader::new(stream);
        loop {
            let mut ask = || -> std::io::Result<bool> {
                stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")?;
                let (mut closes, mut length, mut line) = (false, 0, String::new());
                stream.read_line(&mut line)?;
                if !line.starts_with("HTTP/1.1 200") {
                    return Err(std::io::Error::other(line));
                }
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line)?;
                    let field = line.trim_end().to_ascii_lowercase();
                    closes |= field == "connection: close";
                    length = field.strip_prefix("content-length: ").map_or(length, |text| text.parse().unwrap());
                }
                stream.read_exact(&mut vec![0; length])?;
                Ok(closes)
            };
            match ask() {
                Ok(closes) => {
                    tally.good();
                    if closes {
                        break;
                    }
                }
                Err(why) => return tally.bad(&why),
            }
        }
    }
}

type Http2 = h2::client::SendRequest<Bytes>;

/// A connection that has agreed on HTTP/2; `None` when nobody accepts.
async fn http2(client: &Client, port: u16) -> Option<Http2> {
    let mut config = client.config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let stream = connector.connect(ServerName::try_from("a.test").unwrap(), socket).await.ok()?;
    let (send, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(async move { drop(connection.await) });
    Some(send)
}

/// One stream after the other, on a new connection behind a GOAWAY, as long as somebody accepts. A stream that was opened
/// has to be answered.
async fn streams(client: &Client, port: u16, tally: &Tally) {
    while let Some(send) = http2(client, port).await {
        let mut send = Some(send);
        while let Some(ready) = send.take() {
            let Ok(mut ready) = ready.ready().await else { break };
            let request = Request::get("https://a.test/").body(()).unwrap();
            let Ok((answer, _)) = ready.send_request(request, true) else { break };
            let whole = async {
                let answer = answer.await?;
                let status = answer.status().as_u16();
                let mut body = answer.into_body();
                while let Some(data) = body.data().await {
                    let count = data?.len();
                    body.flow_control().release_capacity(count)?;
                }
                Ok::<u16, h2::Error>(status)
            };
            match whole.await {
                Ok(200) => tally.good(),
                other => return tally.bad(&other),
            }
            send = Some(ready);
        }
    }
}

/// The messages of a gRPC stream, and how it has ended: its code, or that it was cut.
async fn grpc_stream(client: &Client, port: u16, path: &str) -> (usize, Option<String>, Instant) {
    let send = http2(client, port).await.unwrap();
    let mut send = send.ready().await.unwrap();
    let request = Request::post(format!("https://grpc.test{path}")).header("content-type", "application/grpc");
    let (answer, _) = send.send_request(request.header("te", "trailers").body(()).unwrap(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let mut messages = 0;
    while let Some(Ok(data)) = body.data().await {
        messages += 1;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.ok().flatten();
    let code = trailers.and_then(|fields| Some(fields.get("grpc-status")?.to_str().unwrap().to_owned()));
    (messages, code, Instant::now())
}

/// The code of the close frame that a WebSocket gets.
async fn socket(client: &Client, port: u16, is_open: &AtomicUsize) -> Option<u16> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client.config()));
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let stream = connector.connect(ServerName::try_from("ws.test").unwrap(), stream).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("wss://ws.test/", stream).await.unwrap();
    is_open.fetch_add(1, Ordering::Relaxed);
    let mut code = None;
    // tungstenite answers the close while it is polled.
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            code = Some(u16::from(frame.code));
        }
    }
    code
}

#[test]
fn a_drain_under_load_loses_nothing() {
    const SOCKETS: usize = 4;
    let authority = Authority::new();
    let pair = authority.issue(&["a.test", "grpc.test", "ws.test"]);
    let text = secret("it", &pair.certificate, &pair.key);
    let other = |name: &str, protocol: &str| {
        let to = format!("backendRefs: [{{name: {name}, port: 80, protocol: {protocol}}}]");
        route(name, &format!("{name}.test"), &["it"], "").replace("backendRefs: [{name: web, port: 80}]", &to)
    };
    let (grpc, ws) = (other("grpc", "H2C"), other("ws", "HTTP"));
    let (grpc_pod, ws_pod) = (service("grpc", &[grpc_pod()]), service("ws", &[socket_pod()]));
    let main = route("a", "a.test", &["it"], "");
    let files = [
        ("secret.yaml", &*text),
        ("a.yaml", &main),
        ("grpc.yaml", &grpc),
        ("grpc-pod.yaml", &grpc_pod),
        ("ws.yaml", &ws),
        ("ws-pod.yaml", &ws_pod),
    ];
    let timeout = format!("{}s", DRAIN.as_secs());
    let (mut gateway, port) = gateway(&files, &["--drain-delay", "200ms", "--drain-timeout", &timeout]);
    let (client, tally, sockets_open) = (authority.client(), Tally::default(), AtomicUsize::new(0));
    let (ends, terminated) = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| keep_alive(&client, port, &tally));
            scope.spawn(|| runtime().block_on(streams(&client, port, &tally)));
        }
        let held = scope.spawn(|| {
            runtime().block_on(async {
                tokio::join!(
                    grpc_stream(&client, port, "/test.Svc/Short"),
                    grpc_stream(&client, port, "/test.Svc/Long"),
                    futures_util::future::join_all((0..SOCKETS).map(|_| socket(&client, port, &sockets_open))),
                )
            })
        });
        let deadline = Instant::now() + PATIENCE;
        while tally.answered.load(Ordering::Relaxed) < 300 || sockets_open.load(Ordering::Relaxed) < SOCKETS {
            assert!(Instant::now() < deadline, "the load does not begin");
            assert_eq!(tally.lost.load(Ordering::Relaxed), 0);
            std::thread::sleep(Duration::from_millis(2));
        }
        let terminated = Instant::now();
        gateway.terminate();
        let ends = held.join().unwrap();
        assert!(gateway.wait().success());
        (ends, terminated)
    });
    let ((messages, code, _), (more, cut, cut_at), closes) = ends;
    println!("{} answers, {messages} and {more} messages", tally.answered.load(Ordering::Relaxed));
    assert_eq!(tally.lost.load(Ordering::Relaxed), 0, "of {}", tally.answered.load(Ordering::Relaxed));
    // The stream that ends in time does so whole, the other one lasts as long as there is time.
    assert_eq!(code.as_deref(), Some("0"));
    assert!(messages > 10);
    let lasted = cut_at - terminated;
    // The other end of the bound is the machine's: that it is cut at all is what counts, since its pod never ends it.
    assert!(lasted > DRAIN - Duration::from_millis(100), "{lasted:?}");
    assert!(cut.as_deref() != Some("0") && more > messages, "{cut:?}");
    assert_eq!(closes, [Some(1012); SOCKETS]);
}
