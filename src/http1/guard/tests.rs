use std::borrow::Cow;

use proptest::prelude::*;

use super::syntax::VALUE;
use super::*;
use crate::reason::Reason;

const LIMITS: HeadLimits = HeadLimits { start_line: 64, field: 128, fields_total: 256, field_count: 8 };

/// The verdict on `bytes` as a stream, fed in pieces of `piece` bytes, and how many bytes it took.
fn request(bytes: &[u8], piece: usize) -> (Result<Option<RequestFacts>, GuardError>, usize) {
    let mut scanner = RequestScanner::new();
    let mut end = 0;
    while end < bytes.len() {
        end = (end + piece).min(bytes.len());
        match scanner.scan(&bytes[..end], &LIMITS) {
            Ok(Scan::More) => {}
            Ok(Scan::Done(facts)) => return (Ok(Some(facts)), facts.head_len),
            Err(error) => return (Err(error), end),
        }
    }
    (Ok(None), bytes.len())
}

#[track_caller]
fn accepted(bytes: &[u8]) -> RequestFacts {
    let whole = request(bytes, bytes.len()).0;
    for piece in 1..bytes.len() {
        assert_eq!(request(bytes, piece).0, whole, "{:?} by {piece}", bytes.escape_ascii().to_string());
    }
    whole.expect("accepted").expect("complete")
}

#[track_caller]
fn head(fields: &str) -> RequestFacts {
    accepted(format!("POST /p?q HTTP/1.1\r\n{fields}\r\n").as_bytes())
}

/// Checks that `bytes` is refused in every split, at its last byte when fed one by one.
#[track_caller]
fn refused(bytes: &[u8], status: u16, reason: Reason) {
    for piece in 1..=bytes.len() {
        let (verdict, at) = request(bytes, piece);
        let text = bytes.escape_ascii().to_string();
        let error = verdict.expect_err(&text);
        assert_eq!((error.status.as_u16(), error.reason), (status, reason), "{text} by {piece}");
        if piece == 1 {
            assert_eq!(at, bytes.len(), "{text}: refused early");
        }
    }
}

#[test]
fn finds_the_parts_of_a_request() {
    let bytes =
        b"\r\n\r\nM-SEARCH /a?b=`\\ HTTP/1.0\r\nHOST: \t a.test \r\nX_y:\xff\r\nConnection: x, Keep-Alive\r\n\r\nrest";
    let facts = accepted(bytes);
    assert_eq!(facts.method.of(bytes), b"M-SEARCH");
    assert_eq!(facts.target.of(bytes), b"/a?b=`\\");
    assert_eq!(facts.host.of(bytes), b"a.test");
    assert_eq!(facts.head_len, bytes.len() - 4);
    assert!(facts.facts.underscore && facts.facts.connection && !facts.http11 && !facts.close);
    assert_eq!(facts.framing, Framing::None);
}

#[test]
fn knows_the_framing() {
    let table = [
        ("", Framing::None),
        ("Content-Length: 0\r\n", Framing::Length(0)),
        ("content-length: \t010 \r\n", Framing::Length(10)),
        ("Content-Length:9223372036854775807\r\n", Framing::Length(i64::MAX as u64)),
        ("TRANSFER-ENCODING: CHUNKED\r\n", Framing::Chunked),
        ("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", Framing::Length(5)),
    ];
    for (fields, framing) in table {
        assert_eq!(head(fields).framing, framing, "{fields}");
    }
}

#[test]
fn knows_who_closes() {
    assert!(!head("").close);
    assert!(head("Connection: a, CLOSE\r\n").close);
    assert!(!head("Connection: keep-alive\r\n").close);
    assert!(accepted(b"GET / HTTP/1.0\r\n\r\n").close);
    assert!(accepted(b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n").close);
    assert!(head("Expect: 100-continue\r\n").facts.expect);
}

#[test]
fn knows_a_handshake() {
    const ALL: &str = "Connection: Upgrade\r\nUpgrade: foo, WebSocket\r\nSec-WebSocket-Key: x\r\n";
    let get = |fields: String| accepted(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes());
    assert!(get(ALL.to_owned()).facts.websocket);
    assert!(get(format!("{ALL}Content-Length: 0\r\n")).facts.websocket);
    let with_body = get(format!("{ALL}Content-Length: 1\r\n"));
    assert!(!with_body.facts.websocket && with_body.facts.would_be_websocket);
    assert!(!get(format!("{ALL}Sec-WebSocket-Key: x\r\n")).facts.would_be_websocket);
    assert!(!get(ALL.replace("Connection: Upgrade", "Connection: close")).facts.would_be_websocket);
    assert!(!get(ALL.replace("WebSocket", "h2c")).facts.would_be_websocket);
    assert!(!head(ALL).facts.would_be_websocket);
}

#[test]
fn refuses_bad_lines() {
    let table: [(&[u8], u16, Reason); 37] = [
        (b"\0", 400, Reason::Line),
        (b" ", 400, Reason::Line),
        (b"\n", 400, Reason::Line),
        (b"\rG", 400, Reason::Line),
        (b"\r\n\r\n\r", 400, Reason::Line),
        (b"GET\t", 400, Reason::Line),
        (b"GET/", 400, Reason::Line),
        (b"G(", 400, Reason::Line),
        (b"GET  ", 400, Reason::Line),
        (b"GET /\r", 400, Reason::Line),
        (b"GET /\n", 400, Reason::Line),
        (b"GET / \r", 400, Reason::Line),
        (b"GET /a b", 400, Reason::Line),
        (b"GET / h", 400, Reason::Line),
        (b"GET / HTTP/01", 400, Reason::Line),
        (b"GET / HTTP/1.10", 400, Reason::Line),
        (b"GET / HTTP/1.1\n", 400, Reason::Line),
        (b"GET / HTTP/1.1\rX", 400, Reason::Line),
        (b"GET / HTTP/1.1 ", 400, Reason::Line),
        (b"GET / HTTP/1.2\r", 505, Reason::Line),
        (b"PRI * HTTP/2.0\r", 505, Reason::Line),
        (b"GET / HTTP/1.1\r\n ", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: b\r\n\t", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\n:", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA ", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA\r", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA\xe9", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: b\n", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: b\rc", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: 12345678\0", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: 12345678\t1234\x7f", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\nA: b\x0b", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\n\r\r", 400, Reason::Line),
        (b"GET / HTTP/1.1\r\n\n", 400, Reason::Line),
        (b"GET /\xff\x7f", 400, Reason::Target),
        (b"GET /a#", 400, Reason::Target),
        (b"GET ?", 400, Reason::Target),
    ];
    for (bytes, status, reason) in table {
        refused(bytes, status, reason);
    }
}

#[test]
fn refuses_bad_lengths() {
    let table: [(&str, u16); 25] = [
        ("Content-Length: 5\r\nTransfer-Encoding:", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length:", 400),
        ("Content-Length: 5\r\nContent-Length:", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding:", 400),
        ("Content-Length: +", 400),
        ("Content-Length: -", 400),
        ("Content-Length: 5,", 400),
        ("Content-Length: 5 6", 400),
        ("Content-Length: 1_", 400),
        ("Content-Length: 0x", 400),
        ("Content-Length: \r\n", 400),
        ("Content-Length: 9223372036854775808\r\n", 400),
        ("Content-Length: 18446744073709551617\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: gzip\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: identity, chunked\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: chunked, gzip\r\n", 400),
        ("Transfer-Encoding: chunked,\r\n", 400),
        ("Transfer-Encoding: ,chunked\r\n", 400),
        ("Transfer-Encoding: \"chunked\"\r\n", 400),
        ("Transfer-Encoding: chunked;q=1\r\n", 400),
        ("Transfer-Encoding: \u{a0}chunked\r\n", 400),
        ("Transfer-Encoding:\r\n", 400),
    ];
    for (fields, status) in table {
        refused(format!("POST / HTTP/1.1\r\n{fields}").as_bytes(), status, Reason::Length);
    }
    refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, Reason::Length);
    refused(b"POST / HTTP/1.1\r\nContent-Length: 5\x0b", 400, Reason::Line);
    refused(b"POST / HTTP/1.1\r\nContent-Length ", 400, Reason::Line);
}

#[test]
fn refuses_at_the_limits() {
    let longest = "/".repeat(64 - "GET  HTTP/1.1".len());
    accepted(format!("GET {longest} HTTP/1.1\r\n\r\n").as_bytes());
    refused(format!("GET {longest}/ HTTP/1.1").as_bytes(), 414, Reason::Size);
    refused("G".repeat(65).as_bytes(), 414, Reason::Size);
    refused(format!("GET {}", "/".repeat(61)).as_bytes(), 414, Reason::Size);

    let longest = "v".repeat(128 - 3);
    head(&format!("A: {longest}\r\n"));
    refused(format!("GET / HTTP/1.1\r\nA: {longest}v").as_bytes(), 431, Reason::Size);
    refused(format!("GET / HTTP/1.1\r\n{}", "n".repeat(129)).as_bytes(), 431, Reason::Size);
    let digits = format!("GET / HTTP/1.1\r\nContent-Length:{}", "0".repeat(128 - 15));
    refused(format!("{digits}0").as_bytes(), 431, Reason::Size);

    head(&format!("A: {longest}\r\nB: {longest}\r\n"));
    refused(format!("GET / HTTP/1.1\r\nA: {longest}\r\nB: {longest}\r\nC").as_bytes(), 431, Reason::Size);
    head(&"A:\r\n".repeat(8));
    refused(format!("GET / HTTP/1.1\r\n{}A", "A:\r\n".repeat(8)).as_bytes(), 431, Reason::Size);
}

#[test]
fn values_are_scanned_by_words_as_by_bytes() {
    for at in 0..40 {
        for byte in 0..=255u8 {
            let mut value = vec![b'v'; 40];
            value[at] = byte;
            assert_eq!(skip_value(&value, 0, 40), skip(&value, 0, 40, VALUE), "{byte:#x} at {at}");
        }
    }
}

/// Wherever it stands and whatever is around it: bytes beside it that differ in one bit are where words are mistaken.
#[test]
fn a_byte_is_found_at_every_place_and_only_there() {
    for wanted in [b':', b'\r', 0, 0xff] {
        for other in [wanted ^ 1, wanted ^ 0x80, wanted.wrapping_add(1), wanted.wrapping_sub(1)] {
            for length in 0..100 {
                let mut text = vec![other; length];
                for from in [0, 1, 7, length / 2, length] {
                    assert_eq!(find(wanted, &text, from), None, "{wanted:#x} among {length} of {other:#x} from {from}");
                }
                for at in 0..length {
                    text[at] = wanted;
                    for from in 0..length {
                        let expected = (from <= at).then_some(at);
                        assert_eq!(find(wanted, &text, from), expected, "{wanted:#x} at {at} of {length} from {from}");
                    }
                    text[at] = other;
                }
            }
        }
    }
    assert_eq!(find(b':', b"a:b:c", 2), Some(3));
    assert_eq!(find(b':', b"a", 5), None);
}

#[test]
fn targets_are_checked_and_encoded_as_a_whole() {
    for (target, sent) in [
        ("/", "/"),
        ("*", "*"),
        ("/a?b", "/a?b"),
        ("/^{}[]|", "/^{}[]|"),
        ("http://a/", "http://a/"),
        ("/?'?", "/?'?"),
        ("/%zz%", "/%zz%"),
        ("/\u{fc}", "/%C3%BC"),
        ("/a?q=\u{20ac}&\"x\"", "/a?q=%E2%82%AC&%22x%22"),
        ("/<`\\>?<`\\>", "/%3C%60%5C%3E?%3C%60%5C%3E"),
    ] {
        let encoded = encode_target(target.as_bytes()).expect(target);
        assert_eq!(encoded.escape_ascii().to_string(), sent.as_bytes().escape_ascii().to_string(), "{target}");
        assert_eq!(matches!(encoded, Cow::Owned(_)), target != sent, "{target}");
    }
    for bad in ["", "?", "/#", "/?#", "/ ", "/\t", "/?\x7f", "/\0", "/\u{fc} "] {
        assert_eq!(encode_target(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn the_scanner_takes_the_bytes_that_a_target_may_have() {
    for byte in 0..=255u8 {
        for before in [&b"/a"[..], b"/a?b", b"http://a/", b"/\xff", b"/?\""] {
            let line = [b"GET ", before, &[byte], b"z HTTP/1.1\r\n\r\n"].concat();
            let target = &line[4..line.len() - b" HTTP/1.1\r\n\r\n".len()];
            let facts = request(&line, line.len()).0.ok().flatten();
            let encoded = encode_target(target).filter(|_| byte != b' ');
            let found = facts.map(|facts| (facts.target.of(&line).to_vec(), facts.raw_target));
            let expected = encoded.map(|encoded| (target.to_vec(), matches!(encoded, Cow::Owned(_))));
            assert_eq!(found, expected, "{}", line.escape_ascii());
        }
    }
}

proptest! {
    /// Lines that come whole are taken at once, others byte by byte: the verdict is the same.
    #[test]
    fn a_head_is_judged_alike_however_it_comes(
        parts in proptest::collection::vec(proptest::sample::select(PARTS), 0..12),
        piece in 1usize..40,
    ) {
        let bytes = [b"GET / HTTP/1.1\r\n", parts.concat().as_bytes(), b"\r\n\r\n"].concat();
        let whole = request(&bytes, bytes.len()).0;
        prop_assert_eq!(request(&bytes, 1).0, whole);
        prop_assert_eq!(request(&bytes, piece).0, whole);
    }
}

/// Parts of field lines, well-formed and not.
const PARTS: &[&str] = &[
    "Host: a\r\n",
    "host:\t a \r\n",
    "Content-Length: 7\r\n",
    "Content-Length: 7 7\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding: gzip\r\n",
    "Connection: close, upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Sec-WebSocket-Key: x\r\n",
    "Expect: 100-continue\r\n",
    "TE: trailers\r\n",
    "Via: 1.1 x\r\n",
    "a_b: c\r\n",
    "a",
    ":",
    ": ",
    " ",
    "\t",
    "\u{7f}",
    "\u{e9}",
    "\0",
    "\r",
    "\n",
    "\r\n",
    "x-long: 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0123456789\r\n",
];
