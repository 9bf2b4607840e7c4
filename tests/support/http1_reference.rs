//! What the scanners understand of a stream of requests, and a strict reference parser written separately: by whole
//! messages and regular expressions where the scanners go byte by byte.
#![allow(dead_code)]

use std::sync::LazyLock;

use regex::bytes::Regex;
use tidegate::http1::framing::{ChunkDecoder, ChunkEvent, ChunkLimits};
use tidegate::http1::guard::{Framing, HeadLimits, RequestScanner, Scan};

/// The limits of the default settings.
const HEAD: HeadLimits = HeadLimits { start_line: 8 << 10, field: 16 << 10, fields_total: 32 << 10, field_count: 100 };
const CHUNK: ChunkLimits =
    ChunkLimits { line: 4 << 10, extensions: 16 << 10, trailers_total: 16 << 10, trailer_count: 64 };

/// A request with an accepted head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub host: Vec<u8>,
    pub http11: bool,
    pub close: bool,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub complete: bool,
}

/// What is understood of a stream: messages, and whether what follows them, or the last one's body, is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Understood {
    pub messages: Vec<Message>,
    pub refused: bool,
    pub status: u16,
}

/// Feeds the scanners a stream in `pieces`, with body framing followed from message to message.
pub fn understand(pieces: &[&[u8]]) -> Understood {
    let mut found = Understood::default();
    let mut head = Vec::new();
    let mut scanner = RequestScanner::new();
    let mut decoder: Option<ChunkDecoder> = None;
    let mut left = 0u64;
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            if let Some(chunks) = &mut decoder {
                let message = found.messages.last_mut().expect("a message with a body");
                let taken = match chunks.decode(rest, &CHUNK) {
                    Ok(ChunkEvent::More) => rest.len(),
                    Ok(ChunkEvent::Data { skip, len }) => {
                        message.body.extend_from_slice(&rest[skip..skip + len]);
                        skip + len
                    }
                    Ok(ChunkEvent::Trailers { skip, len, .. }) => skip + len,
                    Err(error) => return refused(found, error.status.as_u16()),
                };
                rest = &rest[taken..];
                if chunks.is_done() {
                    message.complete = true;
                    decoder = None;
                }
            } else if left > 0 {
                let message = found.messages.last_mut().expect("a message with a body");
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                message.body.extend_from_slice(&rest[..taken]);
                left -= taken as u64;
                message.complete = left == 0;
                rest = &rest[taken..];
            } else {
                let before = head.len();
                head.extend_from_slice(rest);
                match scanner.scan(&head, &HEAD) {
                    Ok(Scan::More) => break,
                    Err(error) => return refused(found, error.status.as_u16()),
                    Ok(Scan::Done(facts)) => {
                        found.messages.push(Message {
                            method: facts.method.of(&head).to_vec(),
                            target: facts.target.of(&head).to_vec(),
                            host: facts.host.of(&head).to_vec(),
                            http11: facts.http11,
                            close: facts.close,
                            framing: facts.framing,
                            body: Vec::new(),
                            complete: !facts.framing.has_body(),
                        });
                        match facts.framing {
                            Framing::None => {}
                            Framing::Length(length) => left = length,
                            Framing::Chunked => decoder = Some(ChunkDecoder::new()),
                        }
                        rest = &rest[facts.head_len - before..];
                        head.clear();
                        scanner = RequestScanner::new();
                    }
                }
            }
        }
    }
    found
}

fn refused(mut found: Understood, status: u16) -> Understood {
    found.refused = true;
    found.status = status;
    found
}

static REQUEST_LINE: LazyLock<Regex> = LazyLock::new(|| {
    regex(r#"^([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!"$->@-~\x80-\xff]+(?:\?[!"$-~\x80-\xff]*)?) HTTP/1\.([01])$"#)
});
static FIELD: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?s)^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*$"));
static SIZE_LINE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?s)^([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?$"));

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?-u){pattern}")).expect("a pattern")
}

/// A request as the reference reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrictRequest {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub http11: bool,
    pub framing: Framing,
    /// The sender wants the connection closed behind it.
    pub close: bool,
    /// Names as they came, values without blanks at their ends.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Vec<u8>,
    pub complete: bool,
}

impl StrictRequest {
    /// The values of a field, whose name is given in lower case.
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = self.fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|field| &field.1[..]).collect()
    }

    fn message(&self) -> Message {
        Message {
            method: self.method.clone(),
            target: self.target.clone(),
            host: self.values("host").first().map_or_else(Vec::new, |host| host.to_vec()),
            http11: self.http11,
            close: self.close,
            framing: self.framing,
            body: self.body.clone(),
            complete: self.complete,
        }
    }
}

/// The reference's view of one head, `text` without its empty line; `None` when it is refused.
fn reference_head(text: &[u8]) -> Option<StrictRequest> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let (line, lines) = lines.split_first()?;
    let line = REQUEST_LINE.captures(line)?;
    if line[0].len() > HEAD.start_line || lines.len() > HEAD.field_count {
        return None;
    }
    let field = |line: &&[u8]| FIELD.captures(line).map(|field| (field[1].to_vec(), field[2].to_vec()));
    let mut request = StrictRequest {
        method: line[1].to_vec(),
        target: line[2].to_vec(),
        http11: &line[3] == b"1",
        framing: Framing::None,
        close: false,
        fields: lines.iter().map(field).collect::<Option<_>>()?,
        body: Vec::new(),
        complete: false,
    };
    request.framing = match (&request.values("content-length")[..], &request.values("transfer-encoding")[..]) {
        ([], []) => Framing::None,
        ([length], []) => {
            let digits = std::str::from_utf8(length).ok()?;
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            let digits = digits.trim_start_matches('0');
            let length = if digits.is_empty() { 0 } else { digits.parse::<i64>().ok()? };
            Framing::Length(u64::try_from(length).ok()?)
        }
        ([], [coding]) if request.http11 && coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return None,
    };
    let connection = request.values("connection").join(&b","[..]).to_ascii_lowercase();
    let options: Vec<&[u8]> = connection.split(|&b| b == b',').map(trim).collect();
    request.close = options.contains(&&b"close"[..]) || !request.http11 && !options.contains(&&b"keep-alive"[..]);
    Some(request)
}

/// What the reference reads of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strict {
    /// Requests whose head is complete; the last one's body may not be.
    pub requests: Vec<StrictRequest>,
    /// What follows them, or the last one's body, is wrong.
    pub wrong: bool,
    /// Bytes of a head that is not complete.
    pub rest: usize,
}

/// Reads a stream from front to back, by whole heads and bodies.
pub fn read_strictly(stream: &[u8]) -> Strict {
    let (mut read, mut rest) = (Strict::default(), stream);
    loop {
        for _ in 0..2 {
            rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        }
        let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else {
            read.rest = rest.len();
            return read;
        };
        let Some(mut request) = reference_head(&rest[..end]) else {
            read.wrong = true;
            return read;
        };
        rest = &rest[end + 4..];
        match request.framing {
            Framing::None => request.complete = true,
            Framing::Length(length) => {
                let taken = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                request.body = rest[..taken].to_vec();
                request.complete = taken as u64 == length;
                rest = &rest[taken..];
            }
            Framing::Chunked => match reference_chunks(rest) {
                Chunked::Whole(body, behind, _) => {
                    request.body = body;
                    request.complete = true;
                    rest = behind;
                }
                Chunked::Wrong => read.wrong = true,
                Chunked::Open => {}
            },
        }
        let complete = request.complete;
        read.requests.push(request);
        if !complete {
            return read;
        }
    }
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |at| at + 1);
    &value[start..end]
}

/// The end of a chunked body.
pub enum Chunked<'a> {
    /// Complete, with the body, what follows, and the number of trailer fields.
    Whole(Vec<u8>, &'a [u8], usize),
    /// Something in it is wrong, or it goes on behind the stream; only what is wrong can be refused.
    Wrong,
    Open,
}

/// The reference's view of a chunked body with its trailers. It knows no limits but that of a size.
pub fn reference_chunks(mut rest: &[u8]) -> Chunked<'_> {
    let mut body = Vec::new();
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return Chunked::Open };
        let Some(line) = SIZE_LINE.captures(&rest[..end]) else { return Chunked::Wrong };
        let digits = std::str::from_utf8(line.get(1).expect("a group").as_bytes()).expect("digits");
        let Ok(size) = i64::from_str_radix(digits, 16) else { return Chunked::Wrong };
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let Some(size) = usize::try_from(size).ok().filter(|size| size + 2 <= rest.len()) else {
            return Chunked::Open;
        };
        body.extend_from_slice(&rest[..size]);
        if &rest[size..size + 2] != b"\r\n" {
            return Chunked::Wrong;
        }
        rest = &rest[size + 2..];
    }
    let mut trailers = 0;
    loop {
        let Some(end) = memchr::memmem::find(rest, b"\r\n") else { return Chunked::Open };
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Chunked::Whole(body, rest, trailers);
        }
        if !FIELD.is_match(line) {
            return Chunked::Wrong;
        }
        trailers += 1;
    }
}

/// Compares what the scanners understood of `bytes` with the reference.
///
/// The reference judges whole heads and whole lines. Where a stream ends inside one, the scanners may have refused it
/// already, but they must not have accepted it.
pub fn compare(bytes: &[u8], ours: &Understood) -> Result<(), String> {
    let mut rest = bytes;
    for (index, message) in ours.messages.iter().enumerate() {
        for _ in 0..2 {
            rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        }
        let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else {
            return Err(format!("message {index} was accepted without an end of its head"));
        };
        let Some(mut wanted) = reference_head(&rest[..end]).map(|request| request.message()) else {
            return Err(format!("message {index} was accepted, the reference refuses it"));
        };
        rest = &rest[end + 4..];
        let last = index + 1 == ours.messages.len();
        match wanted.framing {
            Framing::None => wanted.complete = true,
            Framing::Length(length) => {
                let taken = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                wanted.body = rest[..taken].to_vec();
                wanted.complete = taken as u64 == length;
                rest = &rest[taken..];
            }
            Framing::Chunked => match reference_chunks(rest) {
                // The one limit that inputs of this size reach.
                Chunked::Whole(_, _, trailers) if trailers > CHUNK.trailer_count => {
                    if message.complete || !(last && ours.refused) {
                        return Err(format!("{trailers} trailer fields of message {index} were accepted"));
                    }
                    wanted.body.clone_from(&message.body);
                    rest = b"";
                }
                Chunked::Whole(body, behind, _) => {
                    wanted.body = body;
                    wanted.complete = true;
                    rest = behind;
                }
                end => {
                    if message.complete {
                        return Err(format!("body {index} was accepted, the reference says it is not complete"));
                    }
                    if matches!(end, Chunked::Wrong) && !(last && ours.refused) {
                        return Err(format!("body {index} was not refused"));
                    }
                    wanted.body.clone_from(&message.body);
                    rest = b"";
                }
            },
        }
        if wanted != *message {
            return Err(format!("message {index} is understood differently: reference {wanted:?}"));
        }
        if !message.complete {
            return Ok(());
        }
    }
    for _ in 0..2 {
        rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    }
    match memchr::memmem::find(rest, b"\r\n\r\n").map(|end| reference_head(&rest[..end])) {
        Some(Some(message)) => Err(format!("the reference accepts one more message: {message:?}")),
        Some(None) if !ours.refused => Err("the reference refuses what follows, the scanner does not".to_owned()),
        _ => Ok(()),
    }
}
