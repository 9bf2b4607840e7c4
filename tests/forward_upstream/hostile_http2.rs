//! HTTP/2 endpoints that send nonsense, frame by frame: no client takes it for an answer, and no other stream sees anything
//! of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tidegate::model::backend::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bed::{GET, Gateway, Options, run, run_within, until};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Makes the frames that answer the request on a stream.
type Answer = Rc<dyn Fn(u32) -> Vec<u8>>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field as a literal that enters no table (RFC 7541 §6.2.2); nothing of it is checked here.
fn field(name: &str, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    let mut out = vec![0];
    for text in [name.as_bytes(), value] {
        // An integer with a prefix of seven bits (RFC 7541 §5.1).
        match u8::try_from(text.len()).ok().filter(|&length| length < 127) {
            Some(length) => out.push(length),
            None => {
                out.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    out.push((rest % 128) as u8 | 128);
                    rest /= 128;
                }
                out.push(rest as u8);
            }
        }
        out.extend_from_slice(text);
    }
    out
}

fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

/// A head in one frame.
fn head(stream: u32, flags: u8, list: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags | END_HEADERS, stream, &fields(list))
}

/// A plain answer with a body.
fn good(stream: u32, body: &str) -> Vec<u8> {
    [head(stream, 0, &[(":status", "200")]), frame(DATA, END_STREAM, stream, body.as_bytes())].concat()
}

/// An endpoint that reads frames and answers each request with what is set.
struct Pod {
    addr: std::net::SocketAddr,
    answer: Rc<RefCell<Answer>>,
    /// Requests that were answered, in some way or other.
    requests: Rc<Cell<usize>>,
    connections: Rc<Cell<usize>>,
    closed: Rc<Cell<usize>>,
}

impl Pod {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pod = Self {
            addr: listener.local_addr().unwrap(),
            answer: Rc::new(RefCell::new(Rc::new(|stream| good(stream, "ok")))),
            requests: Rc::default(),
            connections: Rc::default(),
            closed: Rc::default(),
        };
        let (answer, requests) = (Rc::clone(&pod.answer), Rc::clone(&pod.requests));
        let (connections, closed) = (Rc::clone(&pod.connections), Rc::clone(&pod.closed));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                let (answer, requests, closed) = (Rc::clone(&answer), Rc::clone(&requests), Rc::clone(&closed));
                tokio::task::spawn_local(async move {
                    // An error is the end that the gateway made.
                    let _ = serve(stream, answer, requests).await;
                    closed.set(closed.get() + 1);
                });
            }
        });
        pod
    }

    fn say(&self, answer: impl Fn(u32) -> Vec<u8> + 'static) {
        *self.answer.borrow_mut() = Rc::new(answer);
    }

    async fn gateway(&self) -> Gateway {
        Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[self.addr]) }).await
    }
}

async fn serve(mut stream: TcpStream, answer: Rc<RefCell<Answer>>, requests: Rc<Cell<usize>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut [0; 24]).await?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await?;
        let [a, b, c, kind, _, id @ ..] = header;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        stream.read_exact(&mut payload).await?;
        if kind == HEADERS {
            requests.set(requests.get() + 1);
            let answer = Rc::clone(&answer.borrow());
            stream.write_all(&answer(u32::from_be_bytes(id))).await?;
        }
    }
}

fn lost(gateway: &Gateway, reason: &str) -> u64 {
    gateway.metric(&format!("tidegate_connections_closed_total{{side=\"upstream\",reason=\"{reason}\"}}"))
}

fn refused(gateway: &Gateway) -> u64 {
    gateway.metric("tidegate_own_answers_total{reason=\"bad_response\"}")
}

fn interim(stream: u32, count: usize) -> Vec<u8> {
    head(stream, 0, &[(":status", "103"), ("link", "x")]).repeat(count)
}

/// Answers whose head is malformed.
fn malformed_heads() -> Vec<(&'static str, Answer)> {
    fn add(table: &mut Vec<(&'static str, Answer)>, name: &'static str, answer: impl Fn(u32) -> Vec<u8> + 'static) {
        table.push((name, Rc::new(answer)));
    }
    let mut table = Vec::new();
    add(&mut table, "101", |id| [head(id, 0, &[(":status", "101")]), good(id, "no")].concat());
    add(&mut table, "101 behind 103", |id| {
        [interim(id, 1), head(id, 0, &[(":status", "101")]), good(id, "no")].concat()
    });
    add(&mut table, "eleven interim responses", |id| [interim(id, 11), good(id, "no")].concat());
    add(&mut table, "an interim response as the last", |id| head(id, END_STREAM, &[(":status", "103")]));
    add(&mut table, "status 600", |id| head(id, END_STREAM, &[(":status", "600")]));
    add(&mut table, "status 99", |id| head(id, END_STREAM, &[(":status", "99")]));
    add(&mut table, "a status that is no number", |id| head(id, END_STREAM, &[(":status", "2x0")]));
    add(&mut table, "no status", |id| head(id, END_STREAM, &[("a", "b")]));
    add(&mut table, "two statuses", |id| head(id, END_STREAM, &[(":status", "200"), (":status", "200")]));
    add(&mut table, "status behind a field", |id| head(id, END_STREAM, &[("a", "b"), (":status", "200")]));
    add(&mut table, "unknown pseudo-field", |id| head(id, END_STREAM, &[(":status", "200"), (":x", "y")]));
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"] {
        add(&mut table, name, move |id| head(id, END_STREAM, &[(":status", "200"), (name, "chunked")]));
    }
    add(&mut table, "upper case in a name", |id| head(id, END_STREAM, &[(":status", "200"), ("X-A", "b")]));
    add(&mut table, "space in a name", |id| head(id, END_STREAM, &[(":status", "200"), ("x a", "b")]));
    add(&mut table, "empty name", |id| head(id, END_STREAM, &[(":status", "200"), ("", "b")]));
    add(&mut table, "NUL in a value", |id| head(id, END_STREAM, &[(":status", "200"), ("a", "b\0")]));
    add(&mut table, "line end in a value", |id| head(id, END_STREAM, &[(":status", "200"), ("a", "b\r\nc: d")]));
    for length in ["+2", "0x2", "2, 2", "", "-1", "18446744073709551618"] {
        add(&mut table, "malformed length", move |id| {
            let head = head(id, 0, &[(":status", "200"), ("content-length", length)]);
            [head, frame(DATA, END_STREAM, id, b"no")].concat()
        });
    }
    add(&mut table, "two lengths", |id| {
        let head = head(id, 0, &[(":status", "200"), ("content-length", "2"), ("content-length", "2")]);
        [head, frame(DATA, END_STREAM, id, b"no")].concat()
    });
    add(&mut table, "a length and no data", |id| head(id, END_STREAM, &[(":status", "200"), ("content-length", "2")]));
    add(&mut table, "data before a head", |id| [frame(DATA, 0, id, b"no"), good(id, "no")].concat());
    add(&mut table, "promise", |id| {
        let promised = [&2u32.to_be_bytes()[..], &fields(&[(":method", "GET"), (":path", "/")])].concat();
        [frame(PUSH_PROMISE, END_HEADERS, id, &promised), good(id, "no")].concat()
    });
    add(&mut table, "head on a stream that nobody opened", |id| head(id + 100, END_STREAM, &[(":status", "200")]));
    add(&mut table, "broken compression", |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &[0xff; 8]));
    add(&mut table, "another frame inside a head", |id| {
        [frame(HEADERS, 0, id, &fields(&[(":status", "200")])), frame(DATA, END_STREAM, id, b"no")].concat()
    });
    add(&mut table, "more than 32 KiB of fields", |id| {
        let block = [fields(&[(":status", "200")]), field("a", vec![b'b'; 33 << 10])].concat();
        let mut pieces = block.chunks(16 << 10);
        let mut frames = frame(HEADERS, END_STREAM, id, pieces.next().unwrap());
        let last = pieces.len() - 1;
        for (index, piece) in pieces.enumerate() {
            frames.extend(frame(CONTINUATION, if index == last { END_HEADERS } else { 0 }, id, piece));
        }
        frames
    });
    add(&mut table, "another protocol", |_| b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec());
    table
}

#[test]
fn malformed_heads_are_502_and_the_next_request_is_served() {
    run(async || {
        for (name, answer) in malformed_heads() {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(move |id| answer(id));
            let mut client = gateway.client().await;
            client.send(GET).await;
            let got = client.answer().await;
            assert_eq!(got.verdict(), (502, Some("bad_response")), "{name}");
            assert_eq!(refused(&gateway), 1, "{name}");
            pod.say(|id| good(id, "victim"));
            client.send(GET).await;
            let got = client.answer().await;
            assert_eq!(got.status, 200, "{name}");
            assert!(String::from_utf8_lossy(&got.body).contains("victim"), "{name}");
        }
    });
}

#[test]
fn ten_interim_responses_pass_and_are_counted() {
    run(async || {
        let pod = Pod::start().await;
        let gateway = pod.gateway().await;
        pod.say(|id| [interim(id, 10), good(id, "ok")].concat());
        for round in 1..=20 {
            assert_eq!(gateway.ask(GET).await.status, 200);
            assert_eq!(gateway.metric("tidegate_interim_responses_dropped_total"), round * 10);
        }
        assert_eq!(pod.connections.get(), 1);
    });
}

/// Whatever is wrong behind a head, the client sees that the answer is not complete, or gets no answer.
#[test]
fn broken_bodies_are_visibly_cut() {
    let table: [(&str, &str, Answer); 9] = [
        (
            "less than its length",
            "bad_response",
            Rc::new(|id| {
                let head = head(id, 0, &[(":status", "200"), ("content-length", "5")]);
                [head, frame(DATA, END_STREAM, id, b"part")].concat()
            }),
        ),
        (
            "more than its length",
            "bad_response",
            Rc::new(|id| {
                let head = head(id, 0, &[(":status", "200"), ("content-length", "3")]);
                [head, frame(DATA, END_STREAM, id, b"part")].concat()
            }),
        ),
        (
            "trailers that do not end the stream",
            "bad_response",
            Rc::new(|id| {
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), head(id, 0, &[("x-sum", "1")])]
                    .concat()
            }),
        ),
        (
            "malformed trailers",
            "bad_response",
            Rc::new(|id| {
                let trailers = head(id, END_STREAM, &[("connection", "close")]);
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), trailers].concat()
            }),
        ),
        (
            "pseudo-field behind a trailer",
            "bad_response",
            Rc::new(|id| {
                let trailers = head(id, END_STREAM, &[("x-sum", "1"), (":status", "200")]);
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), trailers].concat()
            }),
        ),
        (
            "a second head",
            "bad_response",
            Rc::new(|id| [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), good(id, "no")].concat()),
        ),
        (
            "a reset",
            "reset",
            Rc::new(|id| {
                let reset = frame(RST_STREAM, 0, id, &2u32.to_be_bytes());
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), reset].concat()
            }),
        ),
        // It says that no more of the request is wanted, and ends no answer.
        (
            "a reset without an error",
            "reset",
            Rc::new(|id| {
                let reset = frame(RST_STREAM, 0, id, &0u32.to_be_bytes());
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), reset].concat()
            }),
        ),
        (
            "the end of the connection",
            "reset",
            Rc::new(|id| {
                let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 2]);
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"part"), goaway].concat()
            }),
        ),
    ];
    run(async || {
        for (name, reason, answer) in table {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(move |id| answer(id));
            let mut client = gateway.client().await;
            client.send(GET).await;
            let got = client.answer().await;
            assert!(got.status >= 500 || !got.complete, "{name}: {got:?}");
            assert_eq!(
                lost(&gateway, reason) + gateway.metric(&format!("tidegate_own_answers_total{{reason=\"{reason}\"}}")),
                1,
                "{name}"
            );
            pod.say(|id| good(id, "victim"));
            let got = gateway.ask(GET).await;
            assert_eq!(got.status, 200, "{name}");
        }
    });
}

#[test]
fn a_complete_answer_stays_complete_whatever_follows() {
    let table: [(&str, Answer); 5] = [
        ("surplus data", Rc::new(|id| [good(id, "ok"), frame(DATA, END_STREAM, id, b"poison")].concat())),
        ("a second answer", Rc::new(|id| [good(id, "ok"), good(id, "poison")].concat())),
        ("a reset", Rc::new(|id| [good(id, "ok"), frame(RST_STREAM, 0, id, &0u32.to_be_bytes())].concat())),
        (
            "GOAWAY",
            Rc::new(|id: u32| {
                let goaway = [id.to_be_bytes(), 0u32.to_be_bytes()].concat();
                [frame(GOAWAY, 0, 0, &goaway), good(id, "ok")].concat()
            }),
        ),
        // h2 leaves pseudo-fields of trailers away.
        (
            "pseudo-field in trailers",
            Rc::new(|id| {
                let trailers = head(id, END_STREAM, &[(":status", "500"), ("x-sum", "1")]);
                [head(id, 0, &[(":status", "200")]), frame(DATA, 0, id, b"ok"), trailers].concat()
            }),
        ),
    ];
    run(async || {
        for (name, answer) in table {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(move |id| answer(id));
            let request = "GET /p HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\nconnection: te\r\n\r\n";
            let got = gateway.ask(request).await;
            let text = String::from_utf8_lossy(&got.body).into_owned();
            assert!(got.complete && got.status == 200 && text.contains("ok"), "{name}: {got:?}");
            assert!(!text.contains("poison") && !text.contains("status") && !text.contains("500"), "{name}: {text}");
            pod.say(|id| good(id, "victim"));
            let got = gateway.ask(GET).await;
            assert!(String::from_utf8_lossy(&got.body).contains("victim"), "{name}");
        }
    });
}

/// No content follows these, whatever is sent (RFC 9110 §6.4.1).
#[test]
fn head_204_and_304_have_no_body() {
    run(async || {
        for (method, status, length) in
            [("HEAD", "200", Some("002")), ("GET", "204", None), ("GET", "304", None), ("GET", "204", Some("6"))]
        {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(move |id| {
                let mut list = vec![(":status", status)];
                list.extend(length.map(|length| ("content-length", length)));
                [head(id, 0, &list), frame(DATA, END_STREAM, id, b"poison")].concat()
            });
            let mut client = gateway.client().await;
            client.send(format!("{method} /p HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            let answer = client.answer_to(method == "HEAD").await;
            assert_eq!(&answer.head[9..12], status);
            let kept = (method == "HEAD").then_some("2");
            assert_eq!((answer.field("content-length"), answer.field("transfer-encoding")), (kept, None), "{status}");
            pod.say(|id| good(id, "victim"));
            client.send(GET).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
            assert!(String::from_utf8_lossy(&answer.body).contains("victim"));
        }
    });
}

/// An endless row of interim heads ends with the connection, before they fill the memory.
#[test]
fn a_flood_of_heads_ends_the_connection() {
    let counted = allocation_counter::measure(|| {
        run(async || {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(|id| head(id, 0, &[(":status", "103")]).repeat(200_000));
            assert_eq!(gateway.ask(GET).await.status, 502);
            until(|| pod.closed.get() == 1).await;
            pod.say(|id| good(id, "ok"));
            assert_eq!(gateway.ask(GET).await.status, 200);
        });
    });
    // What the endpoint sends is in there, too.
    assert!(counted.bytes_max < 12 << 20, "{} bytes at the most", counted.bytes_max);
}

/// A stream that waits for its answer gets it, whatever comes on another one of the same connection meanwhile.
#[test]
fn a_malformed_stream_costs_no_other_one() {
    let hostile: [(&str, Answer); 6] = [
        ("101", Rc::new(|id| head(id, 0, &[(":status", "101")]))),
        ("eleven interim responses", Rc::new(|id| interim(id, 11))),
        ("status 600", Rc::new(|id| head(id, END_STREAM, &[(":status", "600")]))),
        ("connection field", Rc::new(|id| head(id, END_STREAM, &[(":status", "200"), ("connection", "close")]))),
        (
            "two lengths",
            Rc::new(|id| head(id, 0, &[(":status", "200"), ("content-length", "1"), ("content-length", "1")])),
        ),
        ("a length and no data", Rc::new(|id| head(id, END_STREAM, &[(":status", "200"), ("content-length", "2")]))),
    ];
    run(async || {
        for (name, answer) in hostile {
            let pod = Pod::start().await;
            let gateway = pod.gateway().await;
            pod.say(|_| Vec::new());
            let mut victim = gateway.client().await;
            victim.send(GET).await;
            until(|| pod.requests.get() == 1).await;
            pod.say(move |id| [answer(id), good(1, "victim")].concat());
            assert_eq!(gateway.ask(GET).await.verdict(), (502, Some("bad_response")), "{name}");
            let got = victim.answer().await;
            assert_eq!(String::from_utf8_lossy(&got.body), "6\r\nvictim\r\n0\r\n\r\n", "{name}");
            assert_eq!(pod.connections.get(), 1, "{name}");
        }
    });
}

/// A poisoned stream never shows in the next one on the same connections.
#[test]
fn victims_never_see_a_poisoned_stream() {
    let is_long = std::env::var_os("TIDEGATE_LONG").is_some();
    let rounds = if is_long { 10_000 } else { 1_000 };
    run_within(Duration::from_secs(if is_long { 600 } else { 60 }), async || {
        let mut table: Vec<Answer> = malformed_heads().into_iter().map(|(_, answer)| answer).collect();
        let more: [Answer; 4] = [
            Rc::new(|id| [good(id, "ok"), frame(DATA, END_STREAM, id, b"poison")].concat()),
            Rc::new(|id| [good(id, "ok"), good(id, "poison"), good(id + 2, "poison")].concat()),
            Rc::new(|id| {
                let head = head(id, 0, &[(":status", "200"), ("content-length", "2")]);
                [head, frame(DATA, END_STREAM, id, b"okpoison")].concat()
            }),
            Rc::new(|id| [head(id, END_STREAM, &[(":status", "204")]), frame(DATA, 0, id, b"poison")].concat()),
        ];
        table.extend(more);
        let pod = Pod::start().await;
        let gateway = pod.gateway().await;
        let mut victim = gateway.client().await;
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..rounds {
            let index = rng.usize(..table.len());
            let answer = Rc::clone(&table[index]);
            pod.say(move |id| answer(id));
            let mut client = gateway.client().await;
            client.send(GET).await;
            let poisoned = client.answer().await;
            assert!(
                !poisoned.complete || !String::from_utf8_lossy(&poisoned.body).contains("poison"),
                "poison {index}"
            );
            pod.say(|id| good(id, "victim"));
            victim.send(GET).await;
            let got = victim.answer().await;
            assert_eq!(got.status, 200, "poison {index}");
            assert_eq!(String::from_utf8_lossy(&got.body), "6\r\nvictim\r\n0\r\n\r\n", "poison {index}");
        }
        println!("{rounds} poisoned streams on {} connections, no victim", pod.connections.get());
    });
}
