//! Servers, clients and frames of the WebSocket tests.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::support::gateway::{Gateway, service};

/// Far less than any time limit of the gateway, and enough for a machine that does other things, too.
pub const SOON: Duration = Duration::from_secs(10);

/// The key of RFC 6455 §1.3, and what it is accepted with.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The socket of a tungstenite client.
pub type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// Runs a test that has many ends on one thread.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs") })
}

/// A gateway whose route `chat` for `ws.test` leads to these ports, with more fields for its rule.
pub fn gateway(ports: &[u16], rule: &str, args: &[&str]) -> Gateway {
    Gateway::start_with(&[("service.yaml", &service("chat", ports)), ("route.yaml", &route(rule))], args)
}

/// The route `default/chat` with one rule `socket`.
pub fn route(rule: &str) -> String {
    format!(
        "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: chat}}\nspec:\n  hostnames: \
         [ws.test]\n  rules:\n  - name: socket\n    backendRefs: [{{name: chat, port: 80}}]\n{rule}"
    )
}

/// A server that echoes; it serves until the test process ends. Says the head of each handshake.
pub struct Echo {
    pub port: u16,
    pub heads: Receiver<tokio_tungstenite::tungstenite::http::HeaderMap>,
}

impl Echo {
    pub fn start() -> Self {
        Self::start_with(WebSocketConfig::default())
    }

    /// One with limits of its own.
    pub fn start_with(config: WebSocketConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (told, heads) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let told = told.clone();
                    tokio::spawn(async move {
                        #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
                        let callback = |request: &Request, mut response: Response| {
                            let _ = told.send(request.headers().clone());
                            if let Some(first) = request.headers().get("sec-websocket-protocol") {
                                let first = first.to_str().unwrap().split(',').next().unwrap().trim().to_owned();
                                let first = HeaderValue::try_from(first).unwrap();
                                response.headers_mut().insert("sec-websocket-protocol", first);
                            }
                            Ok(response)
                        };
                        let config = Some(config);
                        if let Ok(socket) =
                            tokio_tungstenite::accept_hdr_async_with_config(stream, callback, config).await
                        {
                            echo(socket).await;
                        }
                    });
                }
            });
        });
        Self { port, heads }
    }
}

async fn echo(mut socket: WebSocketStream<tokio::net::TcpStream>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
    // Whoever closes a socket with unread bytes sends RST instead of FIN, and which it was would be a matter of luck.
    let stream = socket.get_mut();
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
}

/// Opens a socket through the gateway, with more fields on the handshake.
pub async fn open(gateway: u16, fields: &[(&'static str, &str)]) -> Result<(Socket, u16), Error> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = format!("ws://127.0.0.1:{gateway}/socket").into_client_request()?;
    request.headers_mut().insert("host", HeaderValue::from_static("ws.test"));
    for (name, value) in fields {
        request.headers_mut().append(*name, HeaderValue::try_from(*value).unwrap());
    }
    let (socket, response) = tokio_tungstenite::connect_async(request).await?;
    Ok((socket, response.status().as_u16()))
}

/// One echo.
pub async fn ping(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
}

/// A raw TCP end.
pub struct Raw {
    pub stream: TcpStream,
    pub seen: Vec<u8>,
}

impl Raw {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, seen: Vec::new() }
    }

    /// A client that has sent these bytes.
    pub fn request(gateway: u16, text: &str) -> Self {
        let mut raw = Self::new(TcpStream::connect(("127.0.0.1", gateway)).unwrap());
        raw.send(text.as_bytes());
        raw
    }

    /// A client that has sent a handshake with more fields, and bytes behind it.
    pub fn handshake(gateway: u16, fields: &str, behind: &[u8]) -> Self {
        let mut raw = Self::new(TcpStream::connect(("127.0.0.1", gateway)).unwrap());
        let mut bytes = format!(
            "GET /socket HTTP/1.1\r\nHost: ws.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
        )
        .into_bytes();
        bytes.extend(behind);
        raw.send(&bytes);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads once, whatever comes. A signal interrupts reads that have a timeout, and other tests have children that end.
    pub fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Reads once more; 0 at the end.
    pub fn more(&mut self) -> usize {
        let mut bytes = [0; 16 << 10];
        let count = self.read(&mut bytes).unwrap();
        self.seen.extend(&bytes[..count]);
        count
    }

    /// Reads a head.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = memchr::memmem::find(&self.seen, b"\r\n\r\n") {
                let rest = self.seen.split_off(end + 4);
                return String::from_utf8(std::mem::replace(&mut self.seen, rest)).unwrap();
            }
            assert!(self.more() > 0, "closed within a head: {}", self.seen.escape_ascii());
        }
    }

    /// Reads these bytes next.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        while self.seen.len() < bytes.len() {
            assert!(self.more() > 0, "closed early: {}", self.seen.escape_ascii());
        }
        let rest = self.seen.split_off(bytes.len());
        assert_eq!(
            std::mem::replace(&mut self.seen, rest).escape_ascii().to_string(),
            bytes.escape_ascii().to_string()
        );
    }

    /// Reads to the end.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() > 0 {}
        std::mem::take(&mut self.seen)
    }

    /// Waits until the other side is gone, with FIN or RST.
    pub fn is_gone(&mut self) -> bool {
        loop {
            match self.read(&mut [0; 1024]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Ends the sending side.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends with RST.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A raw server: waits for connections one by one.
pub struct RawServer {
    pub listener: TcpListener,
    pub port: u16,
}

impl RawServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, port }
    }

    pub fn accept(&self) -> Raw {
        Raw::new(self.listener.accept().unwrap().0)
    }

    /// The server's end of a socket whose handshake came with any key.
    pub fn switched(&self) -> Raw {
        let mut server = self.accept();
        let head = server.head();
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        server.switch(&accept, b"");
        server
    }

    /// A client's and a server's end of an open socket, with bytes glued to the handshake and to its answer.
    pub fn open(&self, gateway: u16, up: &[u8], down: &[u8]) -> (Raw, Raw) {
        let mut client = Raw::handshake(gateway, "", up);
        let mut server = self.accept();
        server.head();
        server.accept_handshake(down);
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        (client, server)
    }
}

impl Raw {
    /// Answers with a right `101`, and bytes glued to it.
    pub fn accept_handshake(&mut self, behind: &[u8]) {
        self.switch(ACCEPT, behind);
    }

    fn switch(&mut self, accept: &str, behind: &[u8]) {
        let mut bytes = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .into_bytes();
        bytes.extend(behind);
        self.send(&bytes);
    }
}

/// Waits for a condition.
#[track_caller]
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + super::support::PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The value of a sample on the metrics page; 0 when it is not there.
pub fn metric(gateway: &Gateway, sample: &str) -> f64 {
    let page = gateway.admin("/metrics").body;
    page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
}
