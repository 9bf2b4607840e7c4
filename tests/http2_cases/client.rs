//! A client of HTTP/2 that sends what it is told: frames are put together by hand, and nothing is checked on the way out.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How the two ends of connections of one test speak TLS.
#[derive(Clone)]
struct Tls {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

thread_local! {
    static TLS: RefCell<Option<Tls>> = const { RefCell::new(None) };
}

/// Runs a test whose connections begin with a TLS handshake in which both sides agree on HTTP/2.
pub fn over_tls(test: impl FnOnce()) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let mut server = server.with_single_cert(vec![certificate.clone()], key).expect("they fit");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    server.alpn_protocols = vec![b"h2".to_vec()];
    client.alpn_protocols = vec![b"h2".to_vec()];
    TLS.set(Some(Tls { server: Arc::new(server), client: Arc::new(client) }));
    test();
    TLS.set(None);
}

/// The gateway's side of it; `None` for connections in the clear.
pub fn server_config() -> Option<Arc<rustls::ServerConfig>> {
    TLS.with_borrow(|tls| tls.as_ref().map(|tls| Arc::clone(&tls.server)))
}

/// The client's end of a connection.
enum Wire {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GO_AWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
/// A HEADERS frame that is a whole request.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Error codes (RFC 9113 §7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL: u32 = 1;
pub const FLOW_CONTROL: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE: u32 = 6;
pub const REFUSED: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION: u32 = 9;
pub const CALM: u32 = 11;

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Name and value of a field.
pub type Field = (Vec<u8>, Vec<u8>);

/// A request's fields.
#[derive(Clone)]
pub struct Head(pub Vec<Field>);

impl Head {
    /// `GET /` of `a.test`.
    pub fn get() -> Self {
        let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
        Self(fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect())
    }

    pub fn post() -> Self {
        Self::get().set(":method", "POST")
    }

    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|field| field.0 != name.as_bytes());
        self
    }

    /// Puts a value in the place of the one that is there.
    pub fn set(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let field = self.0.iter_mut().find(|field| field.0 == name.as_bytes()).expect("it is there");
        field.1 = value.as_ref().to_vec();
        self
    }

    pub fn with(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.0.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// The block of the fields: literals that go into no table (RFC 7541 §6.2.2).
    pub fn block(&self) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in &self.0 {
            block.push(0);
            text(&mut block, name);
            text(&mut block, value);
        }
        block
    }

    /// The frames of a head, as many as it takes.
    pub fn frames(&self, stream: u32, flags: u8) -> Vec<u8> {
        let block = self.block();
        let mut parts = block.chunks(16384).peekable();
        let mut frames = Vec::new();
        let (mut kind, mut other) = (HEADERS, flags & END_STREAM);
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { flags & END_HEADERS } else { 0 };
            frames.extend(frame(kind, other | last, stream, part));
            (kind, other) = (CONTINUATION, 0);
        }
        frames
    }
}

/// A string as it is (RFC 7541 §5.2).
pub fn text(block: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        block.push(u8::try_from(text.len()).expect("short"));
    } else {
        block.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            block.push(u8::try_from(rest % 128 + 128).expect("a byte"));
            rest /= 128;
        }
        block.push(u8::try_from(rest).expect("a byte"));
    }
    block.extend_from_slice(text);
}

/// A frame that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Received {
    fn number(&self, at: usize) -> u32 {
        self.payload.get(at..at + 4).map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")))
    }

    /// The last stream that a GOAWAY frame names, and its error code.
    pub fn go_away(&self) -> Option<(u32, u32)> {
        (self.kind == GO_AWAY).then(|| (self.number(0), self.number(4)))
    }

    /// The status of a head that is the first one with its status on the connection.
    fn status(&self) -> u16 {
        match self.payload[..] {
            [0x88, ..] => 200,
            [0x89, ..] => 204,
            [0x8c, ..] => 400,
            [0x8d, ..] => 404,
            [0x8e, ..] => 500,
            [0x48, length, ref rest @ ..] if length & 0x80 != 0 => huffman_digits(rest),
            [0x48, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |all, digit| all * 10 + u16::from(digit - b'0')),
            _ => panic!("the status in {:x?}", self.payload),
        }
    }
}

/// Three digits in Huffman's code (RFC 7541, appendix B).
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().take(4).flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut bits = bits.map(u16::from);
    let mut status = 0;
    for _ in 0..3 {
        let mut code = (0..5).fold(0, |code, _| code * 2 + bits.next().unwrap_or(1));
        if code > 2 {
            code = code * 2 + bits.next().unwrap_or(1) - 0x19 + 3;
        }
        status = status * 10 + code;
    }
    status
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Status(u16),
    Reset(u32),
    /// The connection ends with a code.
    GoAway(u32),
    /// It ends without a word.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// A connection.
pub struct Client {
    stream: Wire,
    buffer: Vec<u8>,
    pub frames: Vec<Received>,
    pub closed: bool,
    /// Acknowledges PING and SETTINGS.
    pub is_polite: bool,
}

impl Client {
    /// Connects and sends a preface and SETTINGS without any.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, &[])
    }

    /// The same with the payload of the SETTINGS.
    pub fn connect_with(address: SocketAddr, settings: &[u8]) -> Self {
        let mut client = Self::connect_raw(address);
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat());
        client
    }

    /// Connects and sends nothing.
    pub fn connect_raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway accepts");
        stream.set_nodelay(true).expect("a socket");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let stream = match TLS.with_borrow(Clone::clone) {
            None => Wire::Plain(stream),
            Some(tls) => {
                let name = "a.test".try_into().expect("a name");
                let session = rustls::ClientConnection::new(tls.client, name).expect("a session");
                let mut stream = rustls::StreamOwned::new(session, stream);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock).expect("a handshake");
                }
                Wire::Tls(Box::new(stream))
            }
        };
        Self { stream, buffer: Vec::new(), frames: Vec::new(), closed: false, is_polite: true }
    }

    /// Sends; whether all of it could be written.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write(bytes).is_ok()
    }

    /// Reads once.
    fn read(&mut self, wait: Duration) {
        let _ = self.stream.socket().set_read_timeout(Some(wait.max(Duration::from_millis(1))));
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => self.closed = true,
        }
        while let [a, b, c, kind, flags, s0, s1, s2, s3, rest @ ..] = &self.buffer[..] {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if rest.len() < length {
                break;
            }
            let stream = u32::from_be_bytes([s0 & 0x7f, *s1, *s2, *s3]);
            let received = Received { kind: *kind, flags: *flags, stream, payload: rest[..length].to_vec() };
            self.buffer.drain(..9 + length);
            if self.is_polite && matches!(received.kind, PING | SETTINGS) && received.flags & ACK == 0 {
                let payload: &[u8] = if received.kind == PING { &received.payload } else { &[] };
                let answer = frame(received.kind, ACK, 0, payload);
                self.send(&answer);
            }
            self.frames.push(received);
        }
    }

    /// Reads until `done` or the end of the connection; whether `done` was reached within 5 s.
    pub fn until(&mut self, done: impl Fn(&[Received]) -> bool) -> bool {
        self.until_within(Duration::from_secs(5), done)
    }

    /// The same within another time.
    pub fn until_within(&mut self, time: Duration, done: impl Fn(&[Received]) -> bool) -> bool {
        let deadline = Instant::now() + time;
        loop {
            if done(&self.frames) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.closed || left.is_zero() {
                return false;
            }
            self.read(left);
        }
    }

    /// What becomes of a stream.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let of = |frame: &Received| match frame.kind {
            HEADERS if frame.stream == stream => Some(Outcome::Status(frame.status())),
            RESET if frame.stream == stream => Some(Outcome::Reset(frame.number(0))),
            GO_AWAY if frame.number(4) != NO_ERROR => Some(Outcome::GoAway(frame.number(4))),
            _ => None,
        };
        self.until(|frames| frames.iter().any(|frame| of(frame).is_some()));
        let found = self.frames.iter().find_map(of);
        found.unwrap_or(if self.closed { Outcome::Closed } else { Outcome::Nothing })
    }

    /// Reads until the end of the connection; the error code of the GOAWAY before it.
    pub fn end(&mut self) -> Option<u32> {
        self.until(|_| false);
        assert!(self.closed, "not closed within 5 s");
        self.frames.iter().rev().find_map(Received::go_away).map(|(_, code)| code)
    }

    /// Bytes of data that came on a stream, if it has ended.
    pub fn whole_body(&mut self, stream: u32) -> Option<Vec<u8>> {
        let ends = |frame: &Received| {
            frame.stream == stream && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0
        };
        let ended = self.until(|frames| frames.iter().any(ends));
        let data = self.frames.iter().filter(|frame| frame.stream == stream && frame.kind == DATA);
        ended.then(|| data.flat_map(|frame| frame.payload.clone()).collect())
    }
}
