use super::*;

const LIMITS: StreamLimits = StreamLimits {
    head: HeadLimits { start_line: 8 << 10, field: 16 << 10, fields_total: 32 << 10, field_count: 100 },
    chunk: ChunkLimits { line: 256, extensions: 256, trailers_total: 4096, trailer_count: 16 },
    body: Some(100),
    upgrade_held: 32,
};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HANDSHAKE: &str =
    "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

/// Takes any target that is not CONNECT's.
fn check(method: &[u8], _: &[u8]) -> Result<(), GuardError> {
    if method == b"CONNECT" { Err(GuardError::new(StatusCode::METHOD_NOT_ALLOWED, Reason::Method)) } else { Ok(()) }
}

/// Puts bytes in, as many at once as there is room for.
fn put(stream: &mut RequestStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let room = stream.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        stream.received(count, &LIMITS, &check);
    }
}

/// A message as it was taken.
#[derive(Debug, Default, PartialEq)]
struct Message {
    head: String,
    websocket: bool,
    body: String,
    trailers: Vec<(String, String)>,
    is_whole: bool,
}

/// Takes what is accepted.
#[derive(Debug, Default)]
struct Taker {
    messages: Vec<Message>,
    in_body: bool,
    /// How many pieces of data there were.
    runs: usize,
}

impl Taker {
    fn take(&mut self, stream: &mut RequestStream) {
        loop {
            if self.in_body {
                let Some(part) = stream.take_body() else { return };
                self.in_body = !part.is_last;
                let message = self.messages.last_mut().expect("a head before its body");
                message.is_whole = part.is_last;
                match part.frame.map(Frame::into_data) {
                    None => assert!(part.is_last, "a part that is nothing"),
                    Some(Ok(data)) => {
                        assert!(!data.is_empty());
                        self.runs += 1;
                        message.body.extend(data.iter().map(|&byte| char::from(byte)));
                    }
                    Some(Err(frame)) => {
                        assert!(part.is_last, "trailers are the end");
                        let trailers = frame.into_trailers().expect("trailers");
                        let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
                        message.trailers =
                            trailers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
                    }
                }
            } else {
                let Some(head) = stream.next_head() else { return };
                let bytes = stream.accepted()[..head.length].to_vec();
                stream.take(head.length);
                self.in_body = head.framing.has_body();
                let (websocket, is_whole) = (head.facts.websocket, !self.in_body);
                let head = bytes.into_iter().map(char::from).collect();
                self.messages.push(Message { head, websocket, is_whole, ..Message::default() });
            }
        }
    }
}

/// Takes heads that have no bodies, or of which nothing has come.
fn taken(stream: &mut RequestStream) -> String {
    let mut taker = Taker::default();
    taker.take(stream);
    taker.messages.into_iter().map(|message| message.head + &message.body).collect()
}

/// What came of some input: messages, and what a reader gets behind them.
#[derive(Debug, PartialEq)]
struct Outcome {
    messages: Vec<Message>,
    behind: Readable,
    refusal: Option<(u16, Reason)>,
}

/// Feeds `bytes` in pieces, and takes what is accepted after each when `eager`, else all at the end.
fn outcome(bytes: &[u8], piece: usize, eager: bool) -> Outcome {
    let (mut stream, mut taker) = (RequestStream::default(), Taker::default());
    for part in bytes.chunks(piece) {
        put(&mut stream, part);
        if eager {
            taker.take(&mut stream);
        }
    }
    taker.take(&mut stream);
    let refusal = stream.refusal().map(|error| (error.status.as_u16(), error.reason));
    Outcome { messages: taker.messages, behind: stream.readable(), refusal }
}

#[test]
fn verdicts_do_not_depend_on_how_the_bytes_come() {
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let cases = [
        ("two requests", format!("{GET}{GET}"), 2, Readable::NeedsInput, None),
        ("bodies", format!("{post}{chunked}{GET}"), 3, Readable::NeedsInput, None),
        ("an unfinished head", format!("{GET}GET / HT"), 1, Readable::NeedsInput, None),
        ("empty lines before", format!("\r\n\r\n{GET}"), 1, Readable::NeedsInput, None),
        ("behind the last message", format!("{last}garbage"), 1, Readable::End, None),
        (
            "a refused head behind a good one",
            format!("{GET}GET  / HTTP/1.1\r\n"),
            1,
            Readable::End,
            Some((400, Reason::Line)),
        ),
        (
            "a refused target",
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            0,
            Readable::End,
            Some((405, Reason::Method)),
        ),
        (
            "a body that is announced too large",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 101\r\n\r\n".to_owned(),
            0,
            Readable::End,
            Some((413, Reason::Size)),
        ),
        ("bytes behind a handshake", format!("{HANDSHAKE}abc"), 1, Readable::Held, None),
    ];
    for (name, input, heads, behind, refusal) in cases {
        let whole = outcome(input.as_bytes(), input.len(), false);
        assert_eq!((whole.messages.len(), whole.behind, whole.refusal), (heads, behind, refusal), "{name}");
        assert!(whole.messages.iter().all(|message| message.is_whole));
        for piece in 1..input.len() {
            for eager in [false, true] {
                assert_eq!(outcome(input.as_bytes(), piece, eager), whole, "{name}, {piece} at a time");
            }
        }
    }
}

#[test]
fn raw_bytes_of_a_target_are_given_out_encoded() {
    let raw = "POST /\u{fc}?\"<>\\`=\u{20ac} HTTP/1.1\r\nhost: \u{fc}\r\ncontent-length: 3\r\n\r\n\u{fc}!";
    let sent = "POST /%C3%BC?%22%3C%3E%5C%60=%E2%82%AC HTTP/1.1\r\nhost: \u{fc}\r\ncontent-length: 3\r\n\r\n\u{fc}!";
    let input = format!("{GET}{raw}\r\n{raw}GET /\u{fc}");
    let expected: String = format!("{GET}{sent}\r\n{sent}").bytes().map(char::from).collect();
    for piece in 1..=input.len() {
        for eager in [false, true] {
            let outcome = outcome(input.as_bytes(), piece, eager);
            assert_eq!((outcome.messages.len(), outcome.behind, outcome.refusal), (3, Readable::NeedsInput, None));
            let messages = outcome.messages.into_iter();
            assert_eq!(messages.map(|message| message.head + &message.body).collect::<String>(), expected, "{piece}");
        }
    }
    let mut stream = RequestStream::default();
    put(&mut stream, "GET http://a/\u{fc} HTTP/1.1\r\nhost: a\r\n\r\n".as_bytes());
    let head = stream.next_head().expect("a head");
    assert_eq!(head.raw_target.as_deref(), Some(&b"http://a/%C3%BC"[..]));
}

#[test]
fn an_encoded_target_has_the_same_limit_and_makes_the_buffer_grow() {
    const LINE: usize = "GET / HTTP/1.1".len();
    let most = (LIMITS.head.start_line - LINE) / 3;
    let fields = format!("host: a\r\nx: {}\r\n\r\n", "y".repeat(BUFFER - 4096));
    let mut stream = RequestStream::default();
    put(&mut stream, format!("GET /{} HTTP/1.1\r\n{fields}", "<".repeat(most)).as_bytes());
    let expected = format!("GET /{} HTTP/1.1\r\n{fields}", "%3C".repeat(most));
    assert!(stream.accepted() == expected.as_bytes());
    let mut stream = RequestStream::default();
    put(&mut stream, format!("GET /{} HTTP/1.1\r\n{fields}", "<".repeat(most + 1)).as_bytes());
    assert_eq!(stream.refusal().map(|error| error.status), Some(StatusCode::URI_TOO_LONG));
}

#[test]
fn a_broken_body_is_refused_as_a_whole_until_a_byte_of_its_message_was_taken() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = RequestStream::default();
    put(&mut stream, format!("{GET}{head}zz").as_bytes());
    assert_eq!(stream.refusal().map(|error| error.reason), Some(Reason::Chunk));
    assert_eq!(taken(&mut stream), GET, "the message before it stays");

    let (mut stream, mut taker) = (RequestStream::default(), Taker::default());
    put(&mut stream, head.as_bytes());
    taker.take(&mut stream);
    put(&mut stream, b"3\r\nabc\r\nzz");
    assert!(stream.refusal().is_none());
    taker.take(&mut stream);
    let message = &taker.messages[0];
    assert_eq!((&*message.head, &*message.body, message.is_whole), (head, "abc", false), "what came before it stays");
    assert!(matches!(stream.readable(), Readable::Broken(error) if error.reason == Reason::Chunk));
}

#[test]
fn a_chunked_body_above_the_limit_is_broken_where_it_crosses() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = RequestStream::default();
    put(&mut stream, head.as_bytes());
    taken(&mut stream);
    put(&mut stream, format!("64\r\n{}\r\n", "x".repeat(100)).as_bytes());
    assert_eq!(stream.broken(), None);
    put(&mut stream, b"1\r\ny\r\n");
    assert_eq!(stream.broken().map(|error| error.status), Some(StatusCode::PAYLOAD_TOO_LARGE));
}

fn close(version: &str) -> String {
    format!("GET / HTTP/{version}\r\nhost: a\r\nconnection: close\r\n\r\n")
}

fn put_close(length: usize) -> String {
    format!("PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
}

#[test]
fn runs_of_small_chunks_become_few() {
    const CHUNKS: usize = 5000;
    let limits = StreamLimits { body: None, ..LIMITS };
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let forms: [(&[u8], usize); 3] = [(b"1\r\nx\r\n", 1), (b"0001\r\nx\r\n", 1), (b"2\r\nxx\r\n", 2)];
    let pieces = [1000, 1001, 16 << 10];
    for ((form, data), piece) in forms.into_iter().flat_map(|form| pieces.map(|piece| (form, piece))) {
        let input = [&head[..], &form.repeat(CHUNKS), b"0\r\n\r\n"].concat();
        let (mut stream, mut taker, mut reads) = (RequestStream::default(), Taker::default(), 0);
        for mut part in input.chunks(piece) {
            while !part.is_empty() {
                let room = stream.room();
                let count = room.len().min(part.len());
                room[..count].copy_from_slice(&part[..count]);
                part = &part[count..];
                stream.received(count, &limits, &check);
                taker.take(&mut stream);
                reads += 1;
            }
        }
        assert!(stream.refusal().is_none() && taker.messages[0].is_whole);
        assert_eq!(taker.messages[0].body, "x".repeat(data * CHUNKS));
        assert!(taker.runs <= reads, "{} runs of {reads} reads", taker.runs);
    }
}

#[test]
fn the_end_of_a_body_comes_with_its_last_data_or_with_its_trailers() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = "1\r\na\r\n2;x=y\r\nbc\r\n0\r\n";
    let mut stream = RequestStream::default();
    put(&mut stream, format!("{head}{body}\r\n{head}{body}x-t: 1\r\nx-u: 2\r\n\r\n{GET}").as_bytes());
    let mut next = |expected: &[(&str, bool)]| {
        let head = stream.next_head().expect("a head");
        stream.take(head.length);
        for &(data, is_last) in expected {
            let part = stream.take_body().expect("a part");
            assert_eq!(part.is_last, is_last);
            match part.frame.expect("a frame").into_data() {
                Ok(bytes) => assert_eq!(bytes, data),
                Err(frame) => assert_eq!(frame.into_trailers().expect("trailers")["x-u"], data),
            }
        }
        assert!(stream.take_body().is_none());
    };
    next(&[("abc", true)]);
    next(&[("abc", false), ("2", true)]);
    next(&[]);

    let mut stream = RequestStream::default();
    put(&mut stream, format!("{head}1\r\na\r\n").as_bytes());
    taken(&mut stream);
    assert_eq!(stream.readable(), Readable::NeedsInput);
    put(&mut stream, b"0\r\n\r\n");
    assert_eq!(stream.readable(), Readable::Bytes, "the end is there to be taken");
    let end = stream.take_body().expect("the end");
    assert!(end.frame.is_none() && end.is_last && stream.readable() == Readable::NeedsInput);
}

#[test]
fn what_is_dropped_of_a_body_is_no_obstacle_when_all_of_it_is_here() {
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let put_two = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n";
    for (begin, end) in [(chunked.to_owned(), "0\r\nx: y\r\n\r\n"), (format!("{put_two}o"), "k")] {
        let mut stream = RequestStream::default();
        put(&mut stream, begin.as_bytes());
        let head = stream.next_head().expect("a head");
        stream.take(head.length);
        assert!(!stream.drop_body(), "more of it comes");
        put(&mut stream, format!("{end}{GET}").as_bytes());
        assert!(stream.drop_body());
        assert_eq!(taken(&mut stream), GET);
    }
}

#[test]
fn the_end_of_the_input_cancels_what_runs_and_ends_what_does_not() {
    let cases = [
        ("between messages", GET.to_owned(), false, false, Readable::End),
        ("behind the last request", close("1.1"), true, false, Readable::End),
        ("behind the last one's body", format!("{}hello", put_close(5)), true, false, Readable::End),
        ("in the last one's body", format!("{}hell", put_close(5)), true, true, Readable::Cancelled),
        ("behind one of HTTP/1.0", "GET / HTTP/1.0\r\n\r\n".to_owned(), true, false, Readable::End),
        (
            "behind one of HTTP/1.0 that keeps the connection",
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(),
            true,
            false,
            Readable::End,
        ),
        (
            "in another head of HTTP/1.0",
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\nGET".to_owned(),
            true,
            true,
            Readable::Cancelled,
        ),
        ("in a head", "GET / HT".to_owned(), false, false, Readable::End),
        ("under a request", GET.to_owned(), true, true, Readable::Cancelled),
        (
            "in a body",
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhe".to_owned(),
            false,
            true,
            Readable::Cancelled,
        ),
    ];
    for (name, input, is_running, cancelled, behind) in cases {
        let mut stream = RequestStream::default();
        put(&mut stream, input.as_bytes());
        taken(&mut stream);
        stream.ended(is_running, InputEnd::Fin);
        assert_eq!((stream.is_cancelled(), stream.readable()), (cancelled, behind), "{name}");
        assert!(stream.has_ended() && !stream.reads_ahead(&LIMITS), "{name}");
    }
    let mut stream = RequestStream::default();
    put(&mut stream, close("1.0").as_bytes());
    stream.ended(true, InputEnd::Reset);
    assert!(stream.is_cancelled(), "nobody is left to take an answer");
}

#[test]
fn what_is_behind_a_handshake_waits_for_its_answer() {
    let mut stream = RequestStream::default();
    put(&mut stream, format!("{HANDSHAKE}{GET}").as_bytes());
    let mut taker = Taker::default();
    taker.take(&mut stream);
    assert!(taker.messages[0].head == HANDSHAKE && taker.messages[0].websocket);
    assert_eq!(stream.readable(), Readable::Held);
    stream.release_held(&LIMITS, &check);
    assert_eq!(taken(&mut stream), GET, "refused: it is the next request");

    let mut stream = RequestStream::default();
    put(&mut stream, format!("{HANDSHAKE}\u{1}frames").as_bytes());
    taken(&mut stream);
    assert_eq!(stream.take_held(), b"\x01frames", "accepted: it belongs to the tunnel");

    let mut stream = RequestStream::default();
    put(&mut stream, format!("{HANDSHAKE}\0").as_bytes());
    taken(&mut stream);
    stream.release_held(&LIMITS, &check);
    assert_eq!(stream.refusal().map(|error| error.reason), Some(Reason::Line), "and it is judged like any");
}

#[test]
fn reading_ahead_is_bounded() {
    let mut stream = RequestStream::default();
    put(&mut stream, HANDSHAKE.as_bytes());
    taken(&mut stream);
    put(&mut stream, &[b'x'; 31]);
    assert!(stream.reads_ahead(&LIMITS));
    put(&mut stream, b"x");
    assert!(!stream.reads_ahead(&LIMITS), "what is held");

    let mut stream = RequestStream::default();
    put(&mut stream, GET.repeat(READ_AHEAD / GET.len() + 1).as_bytes());
    assert!(!stream.reads_ahead(&LIMITS), "requests that nobody has taken");

    let mut stream = RequestStream::default();
    put(&mut stream, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    taken(&mut stream);
    while stream.reads_ahead(&LIMITS) {
        put(&mut stream, &[0; 1000]);
    }
    assert!((DISCARD_LIMIT..DISCARD_LIMIT + 1000).contains(&stream.discarded), "what is dropped");
    assert!(stream.has_surplus());
}

#[test]
fn a_body_and_a_head_can_be_refused_from_outside() {
    let timeout = GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::Head);
    let mut stream = RequestStream::default();
    put(&mut stream, b"GET / HT");
    assert!(stream.is_in_head());
    stream.refuse(timeout);
    assert_eq!((stream.refusal(), stream.is_in_head()), (Some(timeout), false));
    assert!(!stream.break_body(timeout), "there is none");

    let mut stream = RequestStream::default();
    put(&mut stream, b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n");
    taken(&mut stream);
    assert!(stream.is_in_body());
    assert!(stream.break_body(timeout));
    assert_eq!(stream.readable(), Readable::Broken(timeout));
}

#[test]
fn parts_that_ended_are_told_once() {
    let mut stream = RequestStream::default();
    put(&mut stream, b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(stream.take_passed(), Passed { head: true, body: false });
    assert_eq!(stream.take_passed(), Passed::default());
    put(&mut stream, b"okGET / HT");
    assert_eq!(stream.take_passed(), Passed { head: false, body: true });
    assert!(stream.is_in_head());
}

#[test]
fn a_buffer_is_there_only_while_something_is_in_it() {
    let mut stream = RequestStream::default();
    put(&mut stream, GET.as_bytes());
    taken(&mut stream);
    assert!(stream.data.is_empty());
    // A head that needs more than a spare buffer, in pieces.
    let head = format!("GET / HTTP/1.1\r\nhost: a\r\na: {0}\r\nb: {0}\r\n", "v".repeat(15 << 10));
    put(&mut stream, head.as_bytes());
    assert!(stream.data.len() < 48 << 10);
    put(&mut stream, b"\r\n");
    assert_eq!(taken(&mut stream), format!("{head}\r\n"));
    assert!(stream.data.is_empty());
    // Between the parts of a body that was taken so far, and behind the end of one that has no more data.
    let mut taker = Taker::default();
    for part in ["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\na\r\n", "0\r\n", "\r\n"] {
        put(&mut stream, part.as_bytes());
        taker.take(&mut stream);
        assert!(stream.data.is_empty(), "{part:?}");
    }
    assert!(taker.messages[0].is_whole);
}

#[test]
fn raw_input_is_passed_on_as_it_is() {
    let mut stream = RequestStream::default();
    let room = stream.room();
    room[..3].copy_from_slice(b"PRI");
    stream.fill(3);
    assert_eq!((stream.buffered(), stream.accepted()), (&b"PRI"[..], &b""[..]));
    stream.become_raw();
    put(&mut stream, b"\0\x01");
    assert_eq!(stream.accepted(), b"PRI\0\x01");
    stream.take(5);
    stream.ended(true, InputEnd::Fin);
    assert_eq!((stream.readable(), stream.is_cancelled()), (Readable::End, false));
}
