//! Bytes that clients send raw in a path or query: what reaches the endpoint, over both protocols.

use http::StatusCode;
use tidegate::model::filter::{Filter, Redirect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bed::{Endpoints, Gateway, OK, Options, run};

/// What became of a request: the target that the endpoint saw, or the status of the gateway's own answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Forwarded(String),
    Refused(u16),
    /// HTTP/2 only: the stream ended before the gateway saw the request.
    Reset,
    /// HTTP/2 only: and the connection with it.
    GoAway,
}

struct Bed {
    endpoint: Endpoints,
    gateway: Gateway,
}

impl Bed {
    async fn start() -> Self {
        let endpoint = Endpoints::answering(OK).await;
        let gateway = Gateway::start(Options { http2: true, ..Options::to(&[endpoint.addr]) }).await;
        Self { endpoint, gateway }
    }

    fn outcome(&self, before: usize, status: u16) -> Outcome {
        match self.endpoint.heads().get(before) {
            Some(head) => Outcome::Forwarded(head.split(' ').nth(1).unwrap().to_owned()),
            None => Outcome::Refused(status),
        }
    }

    async fn http1(&self, target: &[u8]) -> Outcome {
        let before = self.endpoint.count();
        let mut client = self.gateway.client().await;
        client.send([b"GET ", target, b" HTTP/1.1\r\nhost: a.test\r\n\r\n"].concat()).await;
        let status = client.answer().await.status;
        self.outcome(before, status)
    }

    async fn http2(&self, target: &[u8]) -> Outcome {
        let before = self.endpoint.count();
        let mut stream = TcpStream::connect(self.gateway.addr).await.unwrap();
        stream.write_all(&http2_get(target)).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], &payload[..]) {
                // HEADERS, beginning with the status: one of the table's, or written out.
                (1, [0x88, ..]) => return self.outcome(before, 200),
                (1, [0x8c, ..]) => return self.outcome(before, 400),
                (1, other) => panic!("another status than 200 and 400: {other:x?}"),
                (3, [0, 0, 0, code]) => {
                    assert_eq!(*code, 1, "PROTOCOL_ERROR");
                    return Outcome::Reset;
                }
                (7, _) => return Outcome::GoAway,
                _ => {}
            }
        }
    }
}

/// Everything that a client sends for one GET, with its fields as literals (RFC 7541 §6.2.2): no library has a say in it.
fn http2_get(target: &[u8]) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(&b":path"[..], target), (b":authority", b"a.test")] {
        block.extend([0, u8::try_from(name.len()).unwrap()]);
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes
}

/// What has to become of a target with `byte` before its last `z`.
fn expected(before: &str, byte: u8) -> Outcome {
    let in_query = before.contains('?');
    match byte {
        0..=0x20 | 0x7f | b'#' => Outcome::Refused(400),
        // An escape of a path needs its digits.
        b'%' if !in_query => Outcome::Refused(400),
        b'"' | b'<' | b'>' | b'\\' | b'`' | 0x80.. => Outcome::Forwarded(format!("{before}%{byte:02X}z")),
        _ => Outcome::Forwarded(format!("{before}{}z", char::from(byte))),
    }
}

#[test]
fn every_byte_has_the_same_verdict_in_every_place_and_protocol() {
    run(async || {
        let bed = Bed::start().await;
        for before in ["/p/a", "/p/a?b="] {
            let (mut reset, mut gone) = (Vec::new(), Vec::new());
            for byte in 0..=255u8 {
                let target = [before.as_bytes(), &[byte], b"z"].concat();
                let expected = expected(before, byte);
                assert_eq!(bed.http1(&target).await, expected, "{}", target.escape_ascii());
                match bed.http2(&target).await {
                    Outcome::Reset => reset.push(byte),
                    Outcome::GoAway => gone.push(byte),
                    // h2 cuts a fragment off, which no `:path` has; nobody behind it can see that.
                    other if byte == b'#' => assert_eq!(other, Outcome::Forwarded(before.to_owned())),
                    other => assert_eq!(other, expected, "{} over HTTP/2", target.escape_ascii()),
                }
            }
            // What ends the stream before the gateway sees it: controls, and bytes that h2 wants encoded.
            let own: &[u8] = if before.contains('?') { b"\"<>" } else { b"<>`" };
            let refused: Vec<u8> = (0..=0x7f).filter(|b| matches!(b, 0..=0x20 | 0x7f) || own.contains(b)).collect();
            assert_eq!(reset, refused);
            assert_eq!(gone, Vec::from_iter(0x80..=0xff), "h2 takes what is no UTF-8 for a broken field block");
        }
    });
}

#[test]
fn raw_utf8_is_sent_on_as_a_browser_sends_it() {
    run(async || {
        let bed = Bed::start().await;
        for (target, sent) in [
            ("/p/\u{fc}ber?q=\u{20ac}", "/p/%C3%BCber?q=%E2%82%AC"),
            ("/p/\u{1f30a}/../\u{65e5}\u{672c}", "/p/%E6%97%A5%E6%9C%AC"),
            ("/p/%c3%bc\u{fc}", "/p/%C3%BC%C3%BC"),
            ("/p/a\\b?a\\b", "/p/a%5Cb?a%5Cb"),
        ] {
            let expected = Outcome::Forwarded(sent.to_owned());
            assert_eq!(bed.http1(target.as_bytes()).await, expected, "{target}");
            assert_eq!(bed.http2(target.as_bytes()).await, expected, "{target} over HTTP/2");
            let absolute = format!("http://a.test{target}");
            assert_eq!(bed.http1(absolute.as_bytes()).await, expected, "{absolute}");
        }
        // A backslash is a separator for some servers, raw or encoded: it hides no dot segment.
        for target in ["/p/..\\x", "/p/a\\..\\x"] {
            assert_eq!(bed.http1(target.as_bytes()).await, Outcome::Refused(400), "{target}");
            assert_eq!(bed.http2(target.as_bytes()).await, Outcome::Refused(400), "{target} over HTTP/2");
        }
        assert_eq!(
            bed.http1("http://\u{fc}.test/p".as_bytes()).await,
            Outcome::Refused(400),
            "a host is never encoded"
        );
    });
}

#[test]
fn a_redirect_names_the_encoded_target() {
    run(async || {
        let redirect = Redirect {
            scheme: Some("https"),
            hostname: None,
            path: None,
            port: None,
            status: StatusCode::FOUND,
            insecure_only: false,
        };
        let gateway = Gateway::start(Options { filters: vec![Filter::Redirect(redirect)], ..Options::to(&[]) }).await;
        let answer = gateway.ask("GET /p/\u{fc}?q=\"\u{fc}\" HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
        assert_eq!(answer.field("location"), Some("https://a.test/p/%C3%BC?q=%22%C3%BC%22"));
    });
}
