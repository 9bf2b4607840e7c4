//! The cases of the conformance table: what a client may send after its handshake, right or wrong by RFC 6455.
//!
//! They are made from small tables, class by class; nothing here knows a server or a gateway.

/// The key that masks most frames, of the examples in RFC 6455 §5.7.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The first byte of a frame: FIN and the opcodes of RFC 6455 §5.2.
const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The largest message that the servers take, in frames or whole. Above the gateway's buffer.
pub const MAX_MESSAGE: usize = 128 << 10;

/// Opcodes without a meaning.
const RESERVED: [u8; 10] = [3, 4, 5, 6, 7, 11, 12, 13, 14, 15];

/// Well-formed UTF-8: both ends of each row of table 3-7 of the Unicode standard, noncharacters, and text.
const WELL_FORMED: [&str; 20] = [
    "κόσμε",
    "\0",
    "\u{7f}",
    "\u{80}",
    "\u{7ff}",
    "\u{800}",
    "\u{fff}",
    "\u{1000}",
    "\u{cfff}",
    "\u{d000}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{feff}bom",
    "\u{10000}",
    "\u{3ffff}",
    "\u{40000}",
    "\u{100000}",
    "\u{10ffff}",
];

/// Ill-formed UTF-8: bytes that never occur, each row of the table just missed, surrogates, overlong and cut sequences.
const ILL_FORMED: [&[u8]; 36] = [
    b"\x80",
    b"\xbf",
    b"\x80\xbf\x80",
    b"\xc0\x80",
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xc2",
    b"\xc2\x7f",
    b"\xc2\xc0",
    b"\xdf ",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xe0\xa0",
    b"\xe1\x80",
    b"\xe1\x80\xc0",
    b"\xe1\x7f\x80",
    b"\xec\xbf ",
    b"\xed\xa0\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xed\xbf\xbf",
    b"\xef\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x90\x80",
    b"\xf0\x9f\x98",
    b"\xf1\x80\x80\xc0",
    b"\xf3\xbf\x7f\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf4\x8f\xbf",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfe",
    b"\xff",
];

/// What a server that keeps to RFC 6455 does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// The socket stays open: it answers the last ping and the last close.
    Alive,
    /// It answers with the same close frame, of this payload, and nothing behind it.
    Echo(Vec<u8>),
    /// It fails the connection: the last ping gets no answer.
    Fails,
    /// The standard leaves it open, and the servers differ.
    Either,
}

/// One thing that a client does.
pub struct Case {
    pub name: String,
    pub writes: Vec<Vec<u8>>,
    pub want: Want,
    /// The client ends its side behind the last write, within a frame. Else a ping and a close frame follow.
    pub cut: bool,
}

/// All cases by class.
pub fn all() -> [(&'static str, Vec<Case>); 8] {
    [
        ("framing", framing()),
        ("ping/pong", pings()),
        ("reserved bits", reserved_bits()),
        ("opcodes", opcodes()),
        ("fragmentation", fragmentation()),
        ("UTF-8", utf8()),
        ("close", closes()),
        ("limits", limits()),
    ]
}

/// The payload of the last ping of every case that is not cut.
const SENTINEL: &[u8] = b"the last ping";

/// What follows the writes of a case: a ping that a healthy socket answers, and a close frame that ends it.
pub fn sentinel() -> Vec<u8> {
    [frame(FIN | PING, SENTINEL), frame(FIN | CLOSE, &close(1000, b""))].concat()
}

/// The answers of a healthy socket to the two frames of [`sentinel`].
pub fn sentinel_answers() -> [Vec<u8>; 2] {
    [plain(FIN | PONG, SENTINEL), plain(FIN | CLOSE, &close(1000, b""))]
}

/// A masked frame with the shortest form of its length.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    sized(first, form(payload.len()), payload.len() as u64, Some(MASK), payload)
}

/// The close frame of a server.
pub fn close_answer(payload: &[u8]) -> Vec<u8> {
    plain(FIN | CLOSE, payload)
}

/// A frame that is not masked, as servers send them.
fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    sized(first, form(payload.len()), payload.len() as u64, None, payload)
}

/// The shortest form of a length, in bits.
fn form(length: usize) -> u8 {
    match length {
        0..126 => 7,
        126..65_536 => 16,
        _ => 64,
    }
}

/// A frame that states a length in this form, whatever its payload is.
fn sized(first: u8, form: u8, length: u64, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match form {
        7 => bytes.push(masked | length as u8),
        16 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(masked | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(mask.into_iter().flatten());
    let key = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// The payload of a close frame.
fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// A payload of ASCII, so that it may be text, no two neighbours alike.
fn ascii(length: usize) -> Vec<u8> {
    (0..length).map(|at| b' ' + (at % 95) as u8).collect()
}

/// One write for each byte.
fn drip(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.chunks(1).map(<[u8]>::to_vec).collect()
}

/// A message with one frame for each piece.
fn fragments(opcode: u8, pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = pieces.len() - 1;
    let frames = pieces.iter().enumerate().map(|(at, piece)| {
        let first = if at == 0 { opcode } else { CONTINUATION };
        frame(if at == last { FIN | first } else { first }, piece)
    });
    frames.collect()
}

fn case(name: impl Into<String>, want: Want, writes: Vec<Vec<u8>>) -> Case {
    Case { name: name.into(), writes, want, cut: false }
}

fn name_of(opcode: u8) -> String {
    match opcode {
        CONTINUATION => "continuation".into(),
        TEXT => "text".into(),
        BINARY => "binary".into(),
        CLOSE => "close".into(),
        PING => "ping".into(),
        PONG => "pong".into(),
        other => format!("opcode {other}"),
    }
}

/// §5.2, §5.3: lengths in all forms, masks, and frames cut anywhere.
fn framing() -> Vec<Case> {
    use Want::{Alive, Fails};
    let mut cases = Vec::new();
    for opcode in [TEXT, BINARY] {
        for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
            let name = format!("{} of {length} bytes", name_of(opcode));
            cases.push(case(name, Alive, vec![frame(FIN | opcode, &ascii(length))]));
        }
    }
    for (length, header) in [(5, 6), (200, 8), (65_536, 14)] {
        let bytes = frame(FIN | TEXT, &ascii(length));
        for at in 1..=header {
            let writes = vec![bytes[..at].to_vec(), bytes[at..].to_vec()];
            cases.push(case(format!("text of {length} bytes in two writes, cut after {at}"), Alive, writes));
        }
        if length < 65_536 {
            cases.push(case(format!("text of {length} bytes, a byte a write"), Alive, drip(&bytes)));
        }
    }
    // "The minimal number of bytes MUST be used", but nobody must fail a connection that does not.
    for (form, length) in [(16, 0), (16, 5), (16, 125), (64, 0), (64, 5), (64, 200), (64, 65_535)] {
        let bytes = sized(FIN | BINARY, form, length as u64, Some(MASK), &ascii(length));
        cases.push(case(format!("{length} bytes with a length of {form} bits"), Alive, vec![bytes]));
    }
    for mask in [[0; 4], [0xff; 4], [0, 0, 0, 1], [0x80, 0, 0, 0]] {
        let bytes = sized(FIN | TEXT, 7, 10, Some(mask), &ascii(10));
        cases.push(case(format!("masked with {mask:?}"), Alive, vec![bytes]));
    }
    let keys = (1..=4).flat_map(|key| sized(FIN | TEXT, 7, 9, Some([key, 2, 3, 4]), &ascii(9)));
    cases.push(case("four frames, each with a key of its own", Alive, vec![keys.collect()]));
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        let payload = if opcode == CLOSE { close(1000, b"") } else { ascii(5) };
        cases.push(case(format!("{} not masked", name_of(opcode)), Fails, vec![plain(FIN | opcode, &payload)]));
    }
    cases.push(case("empty and not masked", Fails, vec![plain(FIN | TEXT, b"")]));
    let unmasked = vec![frame(TEXT, b"one "), plain(FIN | CONTINUATION, b"two")];
    cases.push(case("a continuation that is not masked", Fails, unmasked));
    let whole = frame(FIN | TEXT, &ascii(200));
    for at in (1..=8).chain([9, 100, whole.len() - 1]) {
        let writes = vec![whole[..at].to_vec()];
        cases.push(Case { cut: true, ..case(format!("the client ends within a frame, after {at}"), Fails, writes) });
    }
    cases.push(Case { cut: true, ..case("the client ends between two frames", Fails, vec![whole.clone()]) });
    let several: Vec<Vec<u8>> = (0..10).map(|length| frame(FIN | TEXT, &ascii(length * 20))).collect();
    cases.push(case("ten frames in one write", Alive, vec![several.concat()]));
    let (head, tail) = (several.concat()[..300].to_vec(), several.concat()[300..].to_vec());
    cases.push(case("ten frames in two writes that cut the fourth", Alive, vec![head, tail]));
    cases.push(case("ten frames, each in a write", Alive, several));
    cases
}

/// §5.5.2, §5.5.3.
fn pings() -> Vec<Case> {
    use Want::{Alive, Fails};
    let mut cases = Vec::new();
    for length in [0, 1, 124, 125] {
        let ping = frame(FIN | PING, &ascii(length));
        cases.push(case(format!("a ping of {length} bytes"), Alive, vec![ping.clone()]));
        cases.push(case(format!("a ping of {length} bytes, a byte a write"), Alive, drip(&ping)));
        cases.push(case(format!("a pong of {length} bytes"), Alive, vec![frame(FIN | PONG, &ascii(length))]));
    }
    for opcode in [PING, PONG] {
        let name = name_of(opcode);
        cases.push(case(format!("a {name} of no text"), Alive, vec![frame(FIN | opcode, b"\0\xff\xfe\xfd")]));
        cases.push(case(format!("a {name} of 126 bytes"), Fails, vec![frame(FIN | opcode, &ascii(126))]));
    }
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let (text, pong) = (frame(FIN | TEXT, b"message"), frame(FIN | PONG, b"nobody asked"));
    cases.push(case("a pong that nobody asked for, then a ping", Alive, vec![pong, ping(b"ping")]));
    let ten: Vec<Vec<u8>> = (0..10).map(|at| ping(&[b'0' + at])).collect();
    cases.push(case("ten pings in one write", Alive, vec![ten.concat()]));
    cases.push(case("ten pings, a byte a write", Alive, drip(&ten.concat())));
    cases.push(case("ten pings, each in a write", Alive, ten));
    cases.push(case("a ping before a message", Alive, vec![ping(b"x"), text.clone()]));
    cases.push(case("a ping behind a message", Alive, vec![text.clone(), ping(b"x")]));
    cases.push(case(
        "messages and pings in one write",
        Alive,
        vec![[text.clone(), ping(b"x"), text, ping(b"y")].concat()],
    ));
    cases
}

/// §5.2: without an extension that gives them a meaning they fail the connection.
fn reserved_bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in 1..=7 {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            let payload = if opcode == CLOSE { close(1000, b"") } else { b"bits".to_vec() };
            let bytes = frame(FIN | bits << 4 | opcode, &payload);
            cases.push(case(format!("bits {bits:03b} on {}", name_of(opcode)), Want::Fails, vec![bytes]));
        }
        let on_continuation = vec![frame(TEXT, b"one"), frame(FIN | bits << 4, b"two")];
        cases.push(case(format!("bits {bits:03b} on a continuation"), Want::Fails, on_continuation));
        let behind = vec![frame(FIN | TEXT, b"good"), frame(FIN | bits << 4 | TEXT, b"")];
        cases.push(case(format!("bits {bits:03b} behind a message"), Want::Fails, behind));
    }
    cases
}

/// §5.2: opcodes without a meaning fail the connection.
fn opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in RESERVED {
        let mut add = |how: &str, writes| cases.push(case(format!("opcode {opcode} {how}"), Want::Fails, writes));
        add("with a payload", vec![frame(FIN | opcode, b"payload")]);
        add("without payload", vec![frame(FIN | opcode, b"")]);
        add("not final", vec![frame(opcode, b"payload")]);
        add("behind a message", vec![frame(FIN | TEXT, b"good"), frame(FIN | opcode, b"payload")]);
        add("within a message", vec![frame(TEXT, b"good"), frame(FIN | opcode, b"payload")]);
    }
    cases
}

/// §5.4.
fn fragmentation() -> Vec<Case> {
    use Want::{Alive, Either, Fails};
    let mut cases = Vec::new();
    let mut add = |name: &str, want, writes| cases.push(case(name, want, writes));
    for (kind, opcode) in [("text", TEXT), ("binary", BINARY)] {
        let two = fragments(opcode, &[b"one ", b"two"]);
        add(&format!("{kind} in two frames"), Alive, two.clone());
        add(&format!("{kind} in two frames in one write"), Alive, vec![two.concat()]);
        add(&format!("{kind} in two frames, a byte a write"), Alive, drip(&two.concat()));
        let single: Vec<&[u8]> = b"a byte a frame".chunks(1).collect();
        add(&format!("{kind}, a byte a frame"), Alive, fragments(opcode, &single));
        add(&format!("{kind} in three frames without payload"), Alive, fragments(opcode, &[b"", b"", b""]));
        add(&format!("{kind}, the first frame empty"), Alive, fragments(opcode, &[b"", b"two"]));
        add(&format!("{kind}, the last frame empty"), Alive, fragments(opcode, &[b"one", b""]));
        let (long, longer) = (ascii(200), ascii(70_000));
        add(&format!("{kind}, frames of all lengths"), Alive, fragments(opcode, &[b"x", &long, &longer, b""]));
        add(&format!("two {kind} messages in frames"), Alive, [two.clone(), two.clone()].concat());
        for (name, control) in [("ping", frame(FIN | PING, b"between")), ("pong", frame(FIN | PONG, b"between"))] {
            let mut writes = two.clone();
            writes.insert(1, control);
            add(&format!("a {name} between the frames of {kind}"), Alive, writes.clone());
            add(&format!("a {name} between the frames of {kind}, a byte a write"), Alive, drip(&writes.concat()));
        }
        for (name, next) in [("text", TEXT), ("binary", BINARY)] {
            add(&format!("new {name} within {kind}"), Fails, vec![frame(opcode, b"one"), frame(FIN | next, b"new")]);
            add(
                &format!("new {name} in frames within {kind}"),
                Fails,
                vec![frame(opcode, b"one"), frame(next, b"new")],
            );
        }
        let endless = vec![frame(opcode, b"one"), frame(CONTINUATION, b"two")];
        // The sentinel closes within the message, which one server takes as it is, the other as an error.
        add(&format!("a close within {kind}"), Either, endless);
    }
    add("a continuation of nothing", Fails, vec![frame(FIN | CONTINUATION, b"one")]);
    add("a continuation of nothing, not final", Fails, vec![frame(CONTINUATION, b"one")]);
    add("an empty continuation of nothing", Fails, vec![frame(FIN | CONTINUATION, b"")]);
    let message = frame(FIN | TEXT, b"whole");
    add("a continuation of a whole message", Fails, vec![message.clone(), frame(FIN | CONTINUATION, b"more")]);
    let ended = [fragments(TEXT, &[b"one", b"two"]), vec![frame(FIN | CONTINUATION, b"three")]].concat();
    add("a continuation of an ended message", Fails, ended);
    for opcode in [CLOSE, PING, PONG] {
        let payload = if opcode == CLOSE { close(1000, b"") } else { b"half".to_vec() };
        let name = name_of(opcode);
        add(&format!("a {name} in two frames"), Fails, fragments(opcode, &[&payload, b"rest"]));
        let within = vec![frame(TEXT, b"one"), frame(opcode, &payload), frame(FIN | CONTINUATION, b"two")];
        add(&format!("a {name} that is not final, within a message"), Fails, within);
    }
    for opcode in [TEXT, BINARY] {
        let writes = vec![frame(opcode, b"one"), frame(CONTINUATION, b"two")];
        let name = format!("the client ends between two frames of {}", name_of(opcode));
        cases.push(Case { cut: true, ..case(name, Fails, writes) });
    }
    cases
}

/// §8.1: a message that is no UTF-8 fails the connection, wherever its frames and writes are cut.
fn utf8() -> Vec<Case> {
    let mut cases = Vec::new();
    let well = WELL_FORMED.iter().map(|text| (text.as_bytes(), Want::Alive));
    let ill = ILL_FORMED.iter().map(|bytes| (*bytes, Want::Fails));
    for (bytes, want) in well.chain(ill) {
        let mut add =
            |how: &str, writes| cases.push(case(format!("{} {how}", bytes.escape_ascii()), want.clone(), writes));
        let whole = frame(FIN | TEXT, bytes);
        add("whole", vec![whole.clone()]);
        add("whole, a byte a write", drip(&whole));
        add("behind a right one", vec![frame(FIN | TEXT, &["ß".as_bytes(), bytes].concat())]);
        for at in 1..bytes.len() {
            add(&format!("in two frames, cut after {at}"), fragments(TEXT, &[&bytes[..at], &bytes[at..]]));
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        if single.len() > 2 {
            add("a byte a frame", fragments(TEXT, &single));
        }
        if single.len() > 1 {
            let mut pinged = fragments(TEXT, &[&bytes[..1], &bytes[1..]]);
            pinged.insert(1, frame(FIN | PING, b"within a character"));
            add("with a ping within", pinged);
        }
    }
    // What is no text need not be UTF-8.
    for bytes in ILL_FORMED {
        cases.push(case(format!("{} as binary", bytes.escape_ascii()), Want::Alive, vec![frame(FIN | BINARY, bytes)]));
    }
    cases
}

/// §5.5.1, §7.4.
fn closes() -> Vec<Case> {
    use Want::{Echo, Fails};
    let mut cases = Vec::new();
    let frame_of = |payload: &[u8]| frame(FIN | CLOSE, payload);
    let mut add = |name: String, want, writes| cases.push(case(name, want, writes));
    add("a close without payload".into(), Echo(Vec::new()), vec![frame_of(b"")]);
    add("a close of one byte".into(), Fails, vec![frame_of(b"\x03")]);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999] {
        let payload = close(code, b"because");
        add(format!("code {code}"), Echo(close(code, b"")), vec![frame_of(&close(code, b""))]);
        add(format!("code {code} with a reason"), Echo(payload.clone()), vec![frame_of(&payload)]);
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        add(format!("code {code}, which nobody may send"), Fails, vec![frame_of(&close(code, b""))]);
        add(format!("code {code} with a reason"), Fails, vec![frame_of(&close(code, b"because"))]);
    }
    for length in [1, 122, 123] {
        let payload = close(1000, &ascii(length));
        add(format!("a reason of {length} bytes"), Echo(payload.clone()), vec![frame_of(&payload)]);
    }
    add("a reason of 124 bytes".into(), Fails, vec![frame_of(&close(1000, &ascii(124)))]);
    for text in WELL_FORMED {
        let payload = close(1000, text.as_bytes());
        add(format!("the reason {}", text.escape_debug()), Echo(payload.clone()), vec![frame_of(&payload)]);
    }
    for bytes in ILL_FORMED {
        add(format!("the reason {}", bytes.escape_ascii()), Fails, vec![frame_of(&close(1000, bytes))]);
    }
    let last = close(1000, b"last");
    for (name, behind) in [
        ("a message", frame(FIN | TEXT, b"too late")),
        ("a ping", frame(FIN | PING, b"too late")),
        ("a continuation", frame(FIN | CONTINUATION, b"too late")),
        ("another close", frame_of(&close(1001, b"second"))),
        ("no frame", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ] {
        let writes = vec![frame_of(&last), behind];
        add(format!("{name} behind a close"), Echo(last.clone()), writes.clone());
        add(format!("{name} behind a close in one write"), Echo(last.clone()), vec![writes.concat()]);
    }
    add("a close, a byte a write".into(), Echo(last.clone()), drip(&frame_of(&last)));
    let behind = vec![frame(FIN | TEXT, b"message"), frame(FIN | PING, b"ping"), frame_of(&last)];
    add("a close behind a message and a ping".into(), Echo(last.clone()), behind.clone());
    add("a close behind both in one write".into(), Echo(last), vec![behind.concat()]);
    cases
}

/// Lengths at and around what frames (§5.5) and the servers allow.
fn limits() -> Vec<Case> {
    use Want::{Alive, Fails};
    let mut cases = Vec::new();
    let mut add = |name: String, want, writes| cases.push(case(name, want, writes));
    for opcode in [TEXT, BINARY] {
        for (length, want) in [(MAX_MESSAGE - 1, Alive), (MAX_MESSAGE, Alive), (MAX_MESSAGE + 1, Fails)] {
            let (kind, bytes) = (name_of(opcode), ascii(length));
            add(format!("{kind} of {length}"), want.clone(), vec![frame(FIN | opcode, &bytes)]);
            let halves: Vec<&[u8]> = bytes.chunks(length / 2 + 1).collect();
            add(format!("{kind} of {length} in two frames"), want.clone(), fragments(opcode, &halves));
            let many: Vec<&[u8]> = bytes.chunks(4096).collect();
            add(format!("{kind} of {length} in many frames"), want, vec![fragments(opcode, &many).concat()]);
        }
    }
    let pieces = frame(FIN | BINARY, &ascii(MAX_MESSAGE)).chunks(1000).map(<[u8]>::to_vec).collect();
    add("the largest message in small writes".into(), Alive, pieces);
    // Nobody waits for the payload of a frame that is too long.
    for length in [1 << 20, 1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
        add(
            format!("a frame that states {length} bytes"),
            Fails,
            vec![sized(FIN | BINARY, 64, length, Some(MASK), b"")],
        );
        let second = sized(FIN | CONTINUATION, 64, length, Some(MASK), b"");
        add(format!("a continuation that states {length} bytes"), Fails, vec![frame(BINARY, b"one"), second]);
    }
    for opcode in [CLOSE, PING, PONG] {
        let name = name_of(opcode);
        for length in [126, 127, 65_535, 65_536] {
            let payload = [close(1000, b""), ascii(length - 2)].concat();
            add(format!("a {name} of {length} bytes"), Fails, vec![frame(FIN | opcode, &payload)]);
        }
    }
    let empty: Vec<&[u8]> = vec![b""; 1000];
    add("a message of a thousand empty frames".into(), Alive, vec![fragments(TEXT, &empty).concat()]);
    add("a thousand empty messages".into(), Alive, vec![frame(FIN | TEXT, b"").repeat(1000)]);
    add("a thousand pings".into(), Alive, vec![frame(FIN | PING, b"x").repeat(1000)]);
    cases
}
