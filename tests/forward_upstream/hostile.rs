//! HTTP/1.1 endpoints that send nonsense: no client takes it for an answer, and no other exchange sees anything of it.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::bed::{Endpoints, GET, Gateway, OK, Options, run, run_within, until};

/// An endpoint that answers each request with these bytes and then ends the connection, if it `closes`.
async fn endpoint(answer: impl AsRef<[u8]>, closes: bool) -> Endpoints {
    let answer = answer.as_ref().to_vec();
    Endpoints::script(move |mut served| {
        let answer = answer.clone();
        async move {
            while served.request().await.is_some() {
                served.send(&answer).await;
                if closes {
                    return;
                }
            }
        }
    })
    .await
}

/// Connections that were lost because of what an endpoint sent behind or within an answer.
fn lost(gateway: &Gateway) -> u64 {
    gateway.metric("tidegate_connections_closed_total{side=\"upstream\",reason=\"bad_response\"}")
}

fn refused(gateway: &Gateway) -> u64 {
    gateway.metric("tidegate_own_answers_total{reason=\"bad_response\"}")
}

/// Interim responses, and a final one without content.
fn interim(count: usize) -> String {
    "HTTP/1.1 102 P\r\n\r\n".repeat(count) + "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
}

/// What is malformed before a head is complete, or in what comes with it, is 502, and its connection is gone.
#[test]
fn malformed_responses_are_502_and_close_the_endpoint() {
    let heads = [
        // RFC 9112 §4.
        "HTTP/1.2 200 OK\r\ncontent-length: 0",
        "HTTP/2 200 OK\r\ncontent-length: 0",
        "http/1.1 200 OK\r\ncontent-length: 0",
        "HTTP/1.1  200 OK\r\ncontent-length: 0",
        "HTTP/1.1\t200 OK\r\ncontent-length: 0",
        "HTTP/1.1 99 OK\r\ncontent-length: 0",
        "HTTP/1.1 600 OK\r\ncontent-length: 0",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0",
        "HTTP/1.1 +20 OK\r\ncontent-length: 0",
        "HTTP/1.1 200OK\r\ncontent-length: 0",
        "HTTP/1.1 200 O\rK\r\ncontent-length: 0",
        "HTTP/1.1 200 O\0K\r\ncontent-length: 0",
        "\r\nHTTP/1.1 200 OK\r\ncontent-length: 0",
        "nonsense",
        // RFC 9112 §2.2 and §5.
        "HTTP/1.1 200 OK\ncontent-length: 0\n",
        "HTTP/1.1 200 OK\r\na: b\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\na: b\r\n folded\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\n a: b\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\na: b\0\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\na: b\x7f\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\na: b\rc: d\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\nconnection: b\x01\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\nproxy-connection: b\rc\r\ncontent-length: 0",
        // RFC 9112 §6.
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nContent-Length: 1",
        "HTTP/1.1 200 OK\r\ncontent-length: 0, 0",
        "HTTP/1.1 200 OK\r\ncontent-length:",
        "HTTP/1.1 200 OK\r\ncontent-length: +0",
        "HTTP/1.1 200 OK\r\ncontent-length: -1",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x2",
        "HTTP/1.1 200 OK\r\ncontent-length: 1_0",
        "HTTP/1.1 200 OK\r\ncontent-length: 9223372036854775808",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: identity",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked;q=1",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: \x0bchunked",
        "HTTP/1.1 200 OK\r\ntransfer-encoding:",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked",
        "HTTP/1.1 204 No\r\ncontent-length: 0\r\ntransfer-encoding: chunked",
        // RFC 9110 §15.2.2: nobody has asked for it.
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket",
        "HTTP/1.1 103 E\r\n\r\nHTTP/1.1 101 Switching Protocols",
        "HTTP/1.1 103 E\r\nbroken\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0",
        "HTTP/1.1 103 E\r\ncontent-length: 6\r\n\r\npoisonHTTP/1.1 200 OK\r\ncontent-length: 0",
    ];
    let mut table: Vec<(String, bool)> = heads.iter().map(|head| (format!("{head}\r\n\r\n"), false)).collect();
    table.extend([
        (interim(11), false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n".to_owned(), false),
        (format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(40 << 10)), false),
        (format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(6 << 10)), false),
        (format!("HTTP/1.1 103 E\r\na: {}\r\n\r\n{}", "b".repeat(33 << 10), interim(0)), false),
        // The end of the connection is not the end of a head.
        ("H".to_owned(), true),
        // Other protocols, whose servers wait now.
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), false),
        ("220 mail.test ESMTP\r\n".to_owned(), false),
        ("\x15\x03\x01\0\x02\x02\x16".to_owned(), false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n".to_owned(), true),
        ("HTTP/1.1 103 E\r\n\r\nHTTP/1.1 200 OK\r\n".to_owned(), true),
    ]);
    run(async || {
        for (response, closes) in table {
            let text = response[..response.len().min(200)].escape_debug();
            let backend = endpoint(response.as_bytes(), closes).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(GET).await;
            let answer = client.answer().await;
            assert_eq!(answer.verdict(), (502, Some("bad_response")), "{text}");
            until(|| backend.closed.get() == 1).await;
            assert_eq!((gateway.worker.pools().idle(), refused(&gateway)), (0, 1), "{text}");
            // The client's connection is not to blame, and the request is not sent again.
            client.send("GET /q HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            assert_eq!(client.answer().await.status, 404);
            assert_eq!(backend.count(), 1, "{text}");
        }
    });
}

#[test]
fn ten_interim_responses_and_a_head_of_32_kib_pass() {
    run(async || {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\na: ";
        let large = format!("{head}{}\r\n\r\n", "b".repeat((32 << 10) - head.len() - 4));
        for response in [interim(10), large] {
            let backend = endpoint(&response, false).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            assert_eq!(gateway.ask(GET).await.verdict(), (200, None), "{} bytes", response.len());
            assert_eq!(gateway.worker.pools().idle(), 1);
        }
    });
}

/// No body follows these, whatever the fields say.
#[test]
fn head_204_and_304_have_no_body() {
    run(async || {
        for (method, response, is_kept) in [
            ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", true),
            ("HEAD", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", true),
            ("GET", "HTTP/1.1 204 No Content\r\n\r\n", true),
            ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true),
            ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\netag: x\r\n\r\n", true),
            // What it announces may still come.
            ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\n", false),
            ("GET", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", false),
            ("GET", "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\netag: x\r\n\r\n", false),
        ] {
            let backend = endpoint(response, false).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            for _ in 0..2 {
                client.send(format!("{method} /p HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
                let answer = client.answer_to(method == "HEAD").await;
                assert_eq!(answer.head[9..12], response[9..12]);
                if method == "HEAD" && response.contains("content-length") {
                    assert_eq!(answer.field("content-length"), Some("2"), "HEAD says what GET would send");
                }
            }
            assert_eq!(backend.connections.get(), if is_kept { 1 } else { 2 }, "{response}");
        }
    });
}

/// The answer is good, and the connection is not: what follows would be the next client's answer.
#[test]
fn surplus_bytes_cost_the_connection_and_are_counted() {
    run(async || {
        for (method, response) in [
            ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!"),
            ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n"),
            ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx"),
            ("GET", "HTTP/1.1 204 No\r\n\r\nx"),
            ("GET", "HTTP/1.1 304 No\r\n\r\nx"),
            ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ] {
            let backend = endpoint(response, false).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(format!("{method} /p HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            let answer = client.answer_to(method == "HEAD").await;
            assert_eq!(answer.verdict(), (response[9..12].parse().unwrap(), None));
            assert!(!answer.body.ends_with(b"x") && !answer.body.ends_with(b"!"), "{response}");
            until(|| backend.closed.get() == 1).await;
            assert_eq!((lost(&gateway), gateway.worker.pools().idle()), (1, 0), "{response}");
        }
    });
}

/// Surplus that comes while the connection is idle is found before the next request goes out.
#[test]
fn bytes_on_an_idle_connection_cost_it_and_are_counted() {
    run(async || {
        let late = Rc::new(tokio::sync::Notify::new());
        let backend = Endpoints::script({
            let late = Rc::clone(&late);
            move |mut served| {
                let late = Rc::clone(&late);
                async move {
                    served.request().await;
                    served.send(OK).await;
                    if served.number == 0 {
                        late.notified().await;
                        served.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await;
                    }
                    served.until_closed().await;
                }
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        assert_eq!(gateway.ask(GET).await.body, b"ok");
        late.notify_one();
        // The bytes are there when this exchange is through.
        assert_eq!(gateway.ask("GET /q HTTP/1.1\r\nhost: a.test\r\n\r\n").await.status, 404);
        assert_eq!(gateway.ask(GET).await.body, b"ok");
        assert_eq!((backend.connections.get(), lost(&gateway)), (2, 1));
        assert_eq!(gateway.metric("tidegate_upstream_retries_total"), 0);
    });
}

/// A response that is cut stays visibly cut.
#[test]
fn truncated_responses_are_visibly_cut() {
    run(async || {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart";
        for (response, closes) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\npart".to_owned(), true),
            (format!("{chunked}\r\n"), true),
            (format!("{chunked}\r\n0\r\n"), true),
            (format!("{chunked}\r\n0\r\nx-sum: 1\r\n"), true),
            (format!("{chunked}X"), false),
            (format!("{chunked}\r\nzz\r\n"), false),
            (format!("{chunked}\r\n 4\r\npart\r\n0\r\n\r\n"), false),
            (format!("{chunked}\r\n8000000000000000\r\n"), false),
            (format!("{chunked}\n4\r\npart\r\n0\r\n\r\n"), false),
            (format!("{chunked}\r\n4\npart\r\n0\r\n\r\n"), false),
            (format!("{chunked}\r\n4;{}\r\npart\r\n0\r\n\r\n", "x".repeat(5 << 10)), false),
            (format!("{chunked}\r\n0\r\nbroken\r\n\r\n"), false),
            (format!("{chunked}\r\n0\r\n folded\r\n\r\n"), false),
            (format!("{chunked}\r\n0\r\n{}\r\n", "a: b\r\n".repeat(65)), false),
        ] {
            let backend = endpoint(&response, closes).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(GET).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
            assert!(!answer.complete, "{}", response.escape_debug());
            assert!(client.is_closed().await);
            until(|| backend.closed.get() == 1).await;
            assert_eq!((lost(&gateway), gateway.worker.pools().idle()), (1, 0), "{}", response.escape_debug());
        }
    });
}

/// A body without a length ends with its connection, but not with a reset of it.
#[test]
fn a_reset_does_not_end_a_body_without_a_length() {
    run(async || {
        for resets in [false, true] {
            let end = Rc::new(tokio::sync::Notify::new());
            let ends = Rc::clone(&end);
            let backend = Endpoints::script(move |mut served| {
                let end = Rc::clone(&ends);
                async move {
                    served.request().await;
                    served.send("HTTP/1.1 200 OK\r\n\r\npart").await;
                    end.notified().await;
                    if resets {
                        tidegate::stream::Stream::from(served.stream).reset_on_drop();
                    }
                }
            })
            .await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            let mut client = gateway.client().await;
            client.send(GET).await;
            while !client.seen().contains("part") {
                assert!(client.more().await);
            }
            end.notify_one();
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.complete), (200, !resets));
        }
    });
}

/// Answers that must leave no trace in the next exchange; what is in them behind a `|` comes a little later.
const POISON: [&str; 20] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok|HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n|HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 204 No\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 204 No\r\ncontent-length: 45\r\n\r\n|HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 204 No\r\n\r\n|HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 304 No\r\n\r\npoison",
    "HTTP/1.1 304 No\r\ntransfer-encoding: chunked\r\n\r\n|6\r\npoison\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\npoison",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n|HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: y\r\n\r\n|\r\npoison",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 8\r\n\r\nokpoison",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n6\r\npoison\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokpoison\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n|zz\r\npoison",
    "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 101 Switching\r\n\r\npoison",
    "HTTP/1.1 100 Continue\r\ncontent-length: 6\r\n\r\npoison",
    "HTTP/1.1 200 OK\ncontent-length: 6\n\npoison",
    "HTTP/1.1 200 OK\r\nx: a\r\n poison\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nx: a\rpoison: b\r\ncontent-length: 0\r\n\r\n",
];

/// A poisoned exchange never shows in the next one on the same pool.
#[test]
fn victims_never_see_a_poisoned_exchange() {
    let is_long = std::env::var_os("TIDEGATE_LONG").is_some();
    let rounds = if is_long { 10_000 } else { 1_000 };
    run_within(Duration::from_secs(if is_long { 600 } else { 60 }), async || {
        let is_through = Rc::new(Cell::new(false));
        let through = Rc::clone(&is_through);
        let backend = Endpoints::script(move |mut served| {
            let is_through = Rc::clone(&through);
            async move {
                while let Some((head, _)) = served.request().await {
                    let answer = match head.strip_prefix("GET /p/poison/") {
                        Some(rest) => {
                            let index: usize = rest.split(' ').next().unwrap().parse().unwrap();
                            POISON[index % POISON.len()]
                        }
                        None => "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nvictim",
                    };
                    let (first, later) = answer.split_once('|').unwrap_or((answer, ""));
                    served.send(first).await;
                    if !later.is_empty() {
                        tokio::task::yield_now().await;
                        served.send(later).await;
                    }
                    is_through.set(true);
                }
            }
        })
        .await;
        let gateway = Gateway::start(Options::to(&[backend.addr])).await;
        let mut victim = gateway.client().await;
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..rounds {
            let index = rng.usize(..POISON.len());
            let mut client = gateway.client().await;
            is_through.set(false);
            client.send(format!("GET /p/poison/{index} HTTP/1.1\r\nhost: a.test\r\n\r\n")).await;
            let poisoned = client.answer().await;
            assert!(!poisoned.body.windows(6).any(|window| window == b"poison"), "poison {index}");
            assert!(!poisoned.head.contains("poison"), "poison {index}");
            until(|| is_through.get()).await;
            // The reactor looks at the sockets once more.
            tokio::task::yield_now().await;
            victim.send(GET).await;
            let answer = victim.answer().await;
            assert_eq!((answer.status, answer.body.as_slice()), (200, b"victim".as_slice()), "poison {index}");
        }
        assert!(gateway.worker.pools().idle() >= 1);
        let noted = lost(&gateway) + refused(&gateway);
        println!("{rounds} poisoned exchanges, {noted} of them noted, no victim");
        assert!(noted >= rounds * 3 / 4, "{noted} of {rounds} were noted");
    });
}

/// What a log writes into.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log names the endpoint and the broken rule, not more than once in a while, and nothing that the endpoint sent.
#[test]
fn malformed_answers_are_logged_rarely_and_without_their_bytes() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    run(async || {
        let evil = "evil\x1b[31m\u{202e}";
        let answers = [
            format!("HTTP/1.1 200 OK\r\nx: {evil}\x01\r\ncontent-length: 0\r\n\r\n"),
            format!("{evil} 200 OK\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{evil}"),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n{evil}\r\n"),
        ];
        let said =
            ["field value is malformed", "status line is malformed", "bytes follow the response", "chunked body"];
        for (answer, what) in answers.iter().zip(said) {
            let backend = endpoint(answer, false).await;
            let gateway = Gateway::start(Options::to(&[backend.addr])).await;
            for _ in 0..50 {
                gateway.ask(GET).await;
            }
            let text = String::from_utf8(std::mem::take(&mut *lines.0.lock().unwrap())).unwrap();
            let warnings: Vec<&str> = text.lines().filter(|line| line.contains("WARN")).collect();
            let [line] = &warnings[..] else { panic!("{text}") };
            assert!(line.contains(what) && line.contains(&backend.addr.to_string()), "{line}");
            assert!(!text.contains("evil") && !text.contains('\x1b') && !text.contains('\u{202e}'), "{text}");
        }
    });
}
