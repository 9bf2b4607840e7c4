//! The scanner of request heads, the stream that gives out accepted messages, and the parser of accepted heads.
//!
//! The strict reference understands what is accepted in the same way, no split changes what is understood, and what the
//! stream gives out is the accepted part of what came, bodies without their framing.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tidegate::http1::framing::ChunkLimits;
use tidegate::http1::guard::{Framing, GuardError, HeadLimits, RequestScanner, Scan};
use tidegate::http1::request::parse_head;
use tidegate::http1::request_stream::{InputEnd, Readable, RequestStream, StreamLimits};

use super::http1_reference::{Message, Understood, compare, understand};
use super::split::{pieces, seeded};

const HEAD: HeadLimits = HeadLimits { start_line: 8 << 10, field: 16 << 10, fields_total: 32 << 10, field_count: 100 };
const LIMITS: StreamLimits = StreamLimits {
    head: HEAD,
    chunk: ChunkLimits { line: 4 << 10, extensions: 16 << 10, trailers_total: 16 << 10, trailer_count: 64 },
    body: None,
    upgrade_held: 16 << 10,
};

pub fn check(data: &[u8]) {
    let Some((mut rng, stream)) = seeded(data) else { return };
    let whole = understand(&[stream]);
    if let Err(why) = compare(stream, &whole) {
        panic!("{why}: {whole:?} of {}", stream.escape_ascii());
    }
    assert!(!whole.refused || matches!(whole.status, 400 | 414 | 431 | 501 | 505), "refused with {}", whole.status);
    let split = pieces(stream, &mut rng);
    assert_eq!(understand(&split), whole, "the split into {} pieces changes what is understood", split.len());
    first_head_stands_alone(stream);
    first_head_is_parsed(stream);
    check_stream(stream, &split, &whole, &mut rng);
}

/// An accepted head is accepted with the same facts when nothing follows it, and not before it is complete.
fn first_head_stands_alone(stream: &[u8]) {
    let Ok(Scan::Done(facts)) = RequestScanner::new().scan(stream, &HEAD) else { return };
    let head = &stream[..facts.head_len];
    assert_eq!(RequestScanner::new().scan(head, &HEAD), Ok(Scan::Done(facts)));
    assert_eq!(RequestScanner::new().scan(&head[..head.len() - 1], &HEAD), Ok(Scan::More));
    assert!(head.ends_with(b"\r\n\r\n"));
}

/// An accepted head has the method, the target and the field lines that its bytes say.
fn first_head_is_parsed(bytes: &[u8]) {
    let mut stream = RequestStream::default();
    for piece in bytes.chunks(1 << 10) {
        stream.room()[..piece.len()].copy_from_slice(piece);
        stream.received(piece.len(), &LIMITS, &|_, _| Ok(()));
    }
    let Some(accepted) = stream.next_head() else { return };
    let head = Bytes::copy_from_slice(&stream.accepted()[..accepted.length]);
    let mut fields = HeaderMap::new();
    let Some((method, target)) = parse_head(&head, &accepted, &mut fields) else {
        // The `http` crate judges other forms of a target more strictly than an open check does.
        assert!(accepted.raw_target.is_some(), "an accepted head that cannot be parsed: {}", head.escape_ascii());
        return;
    };
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    if accepted.raw_target.is_none() {
        assert!(line.starts_with(format!("{method} {target} HTTP/1.").as_bytes()), "{}", line.escape_ascii());
    }
    let mut wanted: Vec<(Vec<u8>, Vec<u8>)> = lines.filter(|line| !line.is_empty()).map(field).collect();
    let mut found: Vec<_> =
        fields.iter().map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
    // A map groups the lines of a name; those of one name stay in their order.
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, wanted, "{}", head.escape_ascii());
}

/// Name, in lower case, and value of a line.
fn field(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').expect("a field line");
    let (name, value) = (line[..colon].to_ascii_lowercase(), &line[colon + 1..]);
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let from = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let to = value.iter().rposition(|byte| !is_blank(byte)).map_or(from, |at| at + 1);
    (name, value[from..to].to_vec())
}

/// Takes messages from a stream.
#[derive(Default)]
struct Taker {
    heads: Vec<Vec<u8>>,
    messages: Vec<Message>,
    trailers: Vec<Option<HeaderMap>>,
    in_body: bool,
}

impl Taker {
    /// Takes the next head or the next part of a body; false when there is none.
    fn step(&mut self, stream: &mut RequestStream) -> bool {
        if !self.in_body {
            let Some(head) = stream.next_head() else { return false };
            let bytes = stream.accepted()[..head.length].to_vec();
            stream.take(head.length);
            let mut understood = understand(&[&bytes]);
            assert!(!understood.refused && understood.messages.len() == 1, "a head: {}", bytes.escape_ascii());
            let message = understood.messages.remove(0);
            self.in_body = !message.complete;
            self.heads.push(bytes);
            self.messages.push(message);
            self.trailers.push(None);
            return true;
        }
        let Some(part) = stream.take_body() else { return false };
        let (message, trailers) =
            (self.messages.last_mut().expect("a head"), self.trailers.last_mut().expect("a head"));
        (self.in_body, message.complete) = (!part.is_last, part.is_last);
        match part.frame.map(Frame::into_data) {
            None => assert!(part.is_last, "a part of a body that is nothing"),
            Some(Ok(data)) => message.body.extend_from_slice(&data),
            Some(Err(frame)) => {
                assert!(part.is_last && trailers.is_none(), "trailers are the end of a body");
                *trailers = frame.into_trailers().ok();
            }
        }
        true
    }
}

/// What a stream gave out, and how it ended.
struct Given {
    taken: Taker,
    refused: Option<GuardError>,
    /// The stream accepts nothing behind the last message.
    is_over: bool,
}

/// Sends pieces through a stream whose taker takes when it likes.
fn through(pieces: &[&[u8]], rng: &mut fastrand::Rng) -> Given {
    let mut stream = RequestStream::default();
    let mut taken = Taker::default();
    let any_form = &|_: &[u8], _: &[u8]| Ok::<(), GuardError>(());
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let room = stream.room();
            assert!(!room.is_empty(), "there is room for input");
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            stream.received(count, &LIMITS, any_form);
            // As if every handshake were answered with another status than 101.
            while stream.is_holding() {
                stream.release_held(&LIMITS, any_form);
            }
            while rng.bool() && taken.step(&mut stream) {}
            stream.rest();
        }
    }
    while taken.step(&mut stream) {}
    assert!(stream.accepted().is_empty(), "all is taken");
    let is_over = matches!(stream.readable(), Readable::End);
    let refused = stream.refusal().or(stream.broken());
    stream.ended(false, InputEnd::Fin);
    assert!(!matches!(stream.readable(), Readable::Bytes | Readable::Held), "nothing is left at the end");
    Given { taken, refused, is_over }
}

fn check_stream(stream: &[u8], pieces: &[&[u8]], whole: &Understood, rng: &mut fastrand::Rng) {
    // A target grows when it is encoded, and may then be too long.
    if whole.messages.iter().any(|message| message.method.len() + 3 * message.target.len() + 10 > HEAD.start_line) {
        return;
    }
    let given = through(pieces, rng);
    let last = whole.messages.iter().position(|message| message.close && message.complete);
    let wanted: Vec<Message> =
        whole.messages.iter().take(last.map_or(usize::MAX, |last| last + 1)).map(as_sent_on).collect();
    match given.refused {
        Some(error) => assert!(last.is_none() && whole.refused && error.status.as_u16() == whole.status, "{whole:?}"),
        None => assert!(last.is_some() || !whole.refused, "the stream does not refuse {whole:?}"),
    }
    assert_eq!(given.is_over, last.is_some() || given.refused.is_some() && given.is_over, "{whole:?}");
    let Taker { heads, mut messages, trailers, .. } = given.taken;
    // Of a message whose body is refused, nothing or a part may have been taken.
    if messages.len() < wanted.len() {
        assert!(given.refused.is_some() && messages.len() + 1 == wanted.len(), "{messages:?} of {wanted:?}");
    }
    for (message, wanted) in messages.iter_mut().zip(&wanted) {
        if !wanted.complete && given.refused.is_some() {
            assert!(wanted.body.starts_with(&message.body) && !message.complete);
            message.body.clone_from(&wanted.body);
        }
        assert_eq!(message, wanted);
    }
    assert!(messages.len() <= wanted.len(), "a message that never came: {messages:?}");
    for head in heads {
        if let Err(why) = compare(&head, &understand(&[&head])) {
            panic!("given out: {why}: {}", head.escape_ascii());
        }
    }
    if given.refused.is_none() {
        assert_eq!(trailers, through(&[stream], rng).taken.trailers, "the split changes trailers");
    }
}

/// A message with its target as it is sent on: what clients send raw is percent-encoded.
fn as_sent_on(message: &Message) -> Message {
    let encode = |byte: &u8| match byte {
        b'"' | b'<' | b'>' | b'\\' | b'`' | 0x80.. => format!("%{byte:02X}").into_bytes(),
        _ => vec![*byte],
    };
    let target = message.target.iter().flat_map(encode).collect();
    let complete = message.complete || message.framing == Framing::None;
    Message { target, complete, ..message.clone() }
}
