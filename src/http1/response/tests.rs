use super::*;

const EXPECTED: Expected = Expected { head_request: false, trailers: false, websocket: false };
const CHUNKS: ChunkLimits = ChunkLimits { line: 64, extensions: 128, trailers_total: 256, trailer_count: 4 };

fn parse(head: &str, expected: Expected) -> Result<(ParsedHead, HeaderMap), &'static str> {
    let length = head_length(head.as_bytes(), 1 << 10)?.expect("a complete head");
    assert_eq!(length, head.len(), "the head ends where it ends");
    let mut headers = HeaderMap::new();
    headers.insert("stale", HeaderValue::from_static("of the request"));
    let parsed = parse_head(&Bytes::copy_from_slice(head.as_bytes()), &mut headers, expected)?;
    assert!(!headers.contains_key("stale"));
    Ok((parsed, headers))
}

fn framing_of(head: &str) -> ResponseFraming {
    match parse(head, EXPECTED).expect(head).0 {
        ParsedHead::Final { framing, .. } => framing,
        other => panic!("{other:?} is not final"),
    }
}

#[test]
fn status_lines() {
    for good in ["HTTP/1.1 200 OK", "HTTP/1.0 404 Not Found", "HTTP/1.1 599 ", "HTTP/1.1 204", "HTTP/1.1 200 \u{e4}\tx"]
    {
        assert!(parse(&format!("{good}\r\n\r\n"), EXPECTED).is_ok(), "{good}");
    }
    for bad in [
        "HTTP/1.2 200 OK",
        "HTTP/2.0 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1  200 OK",
        "HTTP/1.1\t200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 600 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 200 O\x01K",
        "HTTP/1.1 200 O\rK",
        " HTTP/1.1 200 OK",
        "200 OK",
    ] {
        assert!(parse(&format!("{bad}\r\n\r\n"), EXPECTED).is_err(), "{bad:?}");
    }
}

#[test]
fn field_lines() {
    let (_, headers) =
        parse("HTTP/1.1 200 OK\r\nX-A: \t 1 2\t \r\nx-a:3\r\nEmpty:\r\nX-Obs: \u{e4}\r\n\r\n", EXPECTED).unwrap();
    let values: Vec<_> = headers.get_all("x-a").iter().collect();
    assert_eq!(values, ["1 2", "3"]);
    assert_eq!(headers["empty"], "");
    assert_eq!(headers["x-obs"].as_bytes(), "\u{e4}".as_bytes());
    for bad in [
        "X-A : 1",
        " X-A: 1",
        "\tX-A: 1",
        ": 1",
        "X-A",
        "X A: 1",
        "X-A: 1\r\n continued",
        "X-A: 1\x00",
        "X-A: 1\x7f",
        "X-A: 1\rY: 2",
        "Connection: a\x01",
        "Keep-Alive: a\x01",
    ] {
        assert!(parse(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n\r\n"), EXPECTED).is_err(), "{bad:?}");
    }
    assert!(head_length(b"HTTP/1.1 200 OK\r\nX: 1\n\r\n", 1 << 10).is_err(), "bare LF");
    assert!(head_length(b"HTTP/1.1 200 OK\n", 1 << 10).is_err(), "bare LF");
    for bad in [
        "HTTP/1.1 200 OK\nX: 1",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nX: 1\n",
        "HTTP/1.1 200 OK\r\nX: 1\nY: 2",
        "HTTP/1.1 200 OK\r\nX\n: 1",
        "HTTP/1.1 200 OK\r\nConnection: close\nY: 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\n\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\n\nX: 1",
        "\nHTTP/1.1 200 OK",
        "\r\nHTTP/1.1 200 OK",
    ] {
        assert!(parse(&format!("{bad}\r\n\r\n"), EXPECTED).is_err(), "bare LF: {bad:?}");
    }
}

#[test]
fn lengths() {
    assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 0012\r\n\r\n"), ResponseFraming::Length(12));
    assert_eq!(framing_of("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), ResponseFraming::None);
    assert_eq!(framing_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), ResponseFraming::Chunked);
    assert_eq!(framing_of("HTTP/1.1 200 OK\r\n\r\n"), ResponseFraming::Close);
    for bad in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: 1, 1",
        "Content-Length: +1",
        "Content-Length: -1",
        "Content-Length: 0x1",
        "Content-Length:",
        "Content-Length: 9223372036854775808",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:",
    ] {
        assert!(parse(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n\r\n"), EXPECTED).is_err(), "{bad:?}");
    }
    assert!(parse("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", EXPECTED).is_err());
}

#[test]
fn interim_responses_and_the_size_of_a_head() {
    let parsed = parse("HTTP/1.1 103 Early\r\nLink: a\r\n\r\n", EXPECTED).unwrap();
    assert_eq!(parsed.0, ParsedHead::Interim(StatusCode::EARLY_HINTS));
    assert!(parsed.1.is_empty(), "fields of interim responses go nowhere");
    assert!(parse("HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", EXPECTED).is_err());
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(100));
    assert_eq!(head_length(long.as_bytes(), 100), Err("head is too large"));
    assert_eq!(head_length(&long.as_bytes()[..99], 100), Ok(None));
    assert_eq!(head_length(&long.as_bytes()[..100], 100), Err("head is too large"));
}

#[test]
fn no_body_whatever_the_fields_say() {
    let head = Expected { head_request: true, trailers: false, websocket: false };
    let (parsed, headers) = parse("HTTP/1.1 200 OK\r\nContent-Length: 09\r\n\r\n", head).unwrap();
    assert!(matches!(parsed, ParsedHead::Final { framing: ResponseFraming::None, keep_alive: true, .. }));
    assert_eq!(headers["content-length"], "9", "HEAD says what GET would send");
    for status in ["204 No Content", "304 Not Modified"] {
        let head = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(framing_of(&head), ResponseFraming::None);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 9\r\n\r\n");
        assert_eq!(framing_of(&head), ResponseFraming::None);
    }
}

#[test]
fn hop_by_hop_fields_go() {
    let head = "HTTP/1.1 200 OK\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: x\r\n\
                Trailer: x-sum\r\nUpgrade: h2c\r\nProxy-Connection: close\r\nServer: b\r\nContent-Length: 1\r\n\r\n";
    let (parsed, headers) = parse(head, EXPECTED).unwrap();
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["server"]);
    assert!(matches!(parsed, ParsedHead::Final { keep_alive: true, .. }));
    let (_, headers) = parse(head, Expected { head_request: false, trailers: true, websocket: false }).unwrap();
    assert_eq!(headers["trailer"], "x-sum");
}

#[test]
fn who_keeps_the_connection() {
    let table = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: Close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: a, close\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 204 No\r\n\r\n", true),
        ("HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n", false),
        ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 304 No\r\nContent-Length: 1\r\n\r\n", true),
        ("HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", false),
    ];
    for (head, expected) in table {
        let parsed = parse(head, EXPECTED).unwrap().0;
        assert!(matches!(parsed, ParsedHead::Final { keep_alive, .. } if keep_alive == expected), "{head:?}");
    }
}

/// Data, trailers, left-over bytes, and whether the end was reached.
type Whole = (Vec<u8>, Option<HeaderMap>, Vec<u8>, bool);

/// Decodes `input`, given in pieces of `piece` bytes.
fn decode(framing: ResponseFraming, input: &[u8], piece: usize) -> Result<Whole, &'static str> {
    let mut decoder = BodyDecoder::new(framing, &CHUNKS);
    let mut buf = BytesMut::new();
    let (mut data, mut trailers, mut ended) = (Vec::new(), None, false);
    for part in input.chunks(piece) {
        buf.extend_from_slice(part);
        while !ended {
            match decoder.decode(&mut buf)? {
                Decoded::Data(bytes) => {
                    assert!(!bytes.is_empty());
                    data.extend_from_slice(&bytes);
                }
                Decoded::Trailers(fields) => trailers = Some(*fields),
                Decoded::End => ended = true,
                Decoded::More => break,
            }
        }
    }
    assert_eq!(ended, decoder.is_finished());
    Ok((data, trailers, buf.to_vec(), ended))
}

#[test]
fn bodies_in_every_split() {
    let chunked = b"5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1 \r\n\r\nHTTP/1.1";
    for piece in 1..=chunked.len() {
        let (data, trailers, rest, ended) = decode(ResponseFraming::Chunked, chunked, piece).unwrap();
        assert_eq!(data, b"hello world");
        assert_eq!(trailers.unwrap()["x-sum"], "1");
        assert!(ended && b"HTTP/1.1".ends_with(&rest), "surplus is left alone");
        let (data, _, rest, ended) = decode(ResponseFraming::Length(5), b"hello!", piece.min(6)).unwrap();
        assert!(ended && data == b"hello" && rest == b"!");
    }
    let (data, _, _, ended) = decode(ResponseFraming::Close, b"until the end", 4).unwrap();
    assert!(!ended && data == b"until the end");
}

#[test]
fn incomplete_bodies_do_not_end() {
    let chunked = b"5\r\nhello\r\n0\r\nA: b\r\n\r\n";
    for length in 0..chunked.len() {
        let (_, trailers, _, ended) = decode(ResponseFraming::Chunked, &chunked[..length], 3).unwrap();
        assert!(!ended && trailers.is_none(), "{length}");
    }
    assert!(!decode(ResponseFraming::Length(6), b"hello", 2).unwrap().3);
}

#[test]
fn broken_chunks_stay_broken() {
    let mut decoder = BodyDecoder::new(ResponseFraming::Chunked, &CHUNKS);
    let mut buf = BytesMut::from(&b"5\r\nhelloX"[..]);
    assert!(matches!(decoder.decode(&mut buf), Ok(Decoded::Data(_))));
    assert!(decoder.decode(&mut buf).is_err());
    assert!(decoder.decode(&mut buf).is_err());
    assert!(!decoder.is_finished() && !decoder.finish_at_eof());
}

#[test]
fn a_101_is_an_answer_to_a_handshake_only() {
    let handshake = Expected { websocket: true, ..EXPECTED };
    let head = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: x\r\n\r\n";
    assert!(parse(head, EXPECTED).is_err());
    let (parsed, headers) = parse(head, handshake).unwrap();
    assert_eq!(parsed, ParsedHead::Switching { websocket: true });
    assert_eq!(headers["sec-websocket-accept"], "x");
    assert!(!headers.contains_key("upgrade"));
    for broken in [
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: foo\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        assert_eq!(parse(broken, handshake).unwrap().0, ParsedHead::Switching { websocket: false }, "{broken}");
    }
}
