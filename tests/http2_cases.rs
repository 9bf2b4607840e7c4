//! Wire cases of HTTP/2 against a gateway: frames put together by hand, and a backend that records what gets through.
//!
//! Where h2 ends the whole connection although a stream error would do, that is accepted, as long as nothing malformed
//! reaches the backend.

#[path = "http2_cases/attacks.rs"]
mod attacks;
#[path = "http2_cases/client.rs"]
mod client;
#[path = "support/http1_bed.rs"]
mod http1_bed;
#[path = "support/http1_gateway.rs"]
mod http1_gateway;
#[path = "http2_cases/secure.rs"]
mod secure;
mod support;
#[path = "http2_cases/whole.rs"]
mod whole;

use std::time::{Duration, Instant};

use client::*;
use http1_bed::Backend;
use http1_gateway::Gateway;
use tidegate::drain::Phase;
use tidegate::settings::Settings;

/// A gateway that speaks HTTP/2, with a backend.
struct Bed {
    gateway: Gateway,
    backend: Backend,
}

impl Bed {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let backend = Backend::start(http1_bed::load().scripts);
        let gateway = Gateway::start_secure(backend.address, server_config(), |settings| {
            settings.listeners.values_mut().for_each(|listener| listener.http2_prior_knowledge = true);
            change(settings);
        });
        Self { gateway, backend }
    }

    fn connect(&self) -> Client {
        Client::connect(self.gateway.address())
    }

    /// The value of a series in the metrics; 0 without it.
    fn metric(&self, series: &str) -> u64 {
        let page = self.gateway.metrics();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().expect("a number"))
    }

    fn closed(&self, reason: &str) -> u64 {
        self.metric(&format!("tidegate_connections_closed_total{{side=\"downstream\",reason=\"{reason}\"}}"))
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("tidegate_requests_refused_total{{reason=\"{reason}\"}}"))
    }

    fn received(&self) -> u64 {
        self.metric("tidegate_received_bytes_total{side=\"downstream\"}")
    }

    /// The requests that the backend got once all connections of clients are gone.
    fn requests(&self) -> Vec<http1_bed::Recorded> {
        let end = Instant::now() + Duration::from_secs(20);
        while self.gateway.connections() > 0 {
            assert!(Instant::now() < end, "connections are left");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.backend.wait_until_recorded();
        self.backend.take().requests
    }
}

/// What has to happen to a request.
#[derive(Clone, Copy, Debug)]
enum Must {
    /// Refused, and nothing of it forwarded.
    Reject,
    /// This status, and nothing forwarded.
    Status(u16),
    /// Either refused or forwarded with this target.
    RejectOr(&'static str),
    /// Answered with 200, and forwarded with fields as they are named here; a missing one is named without a value.
    Forward(&'static [(&'static str, Option<&'static str>)]),
}
use Must::{Forward, Reject, RejectOr};

/// Runs one case on a connection of its own. `stream` is the one that the bytes open.
fn run(bed: &Bed, what: &str, bytes: &[u8], must: Must) {
    bed.backend.begin();
    let mut client = bed.connect();
    client.send(bytes);
    let outcome = client.outcome(1);
    let usable = !matches!(outcome, Outcome::GoAway(_) | Outcome::Closed);
    if usable && !matches!(must, Forward(_)) {
        client.send(&Head::get().set(":path", "/probe").frames(101, WHOLE));
        let ends = |frame: &Received| frame.stream == 101 && frame.flags & END_STREAM != 0;
        assert!(client.until(|frames| frames.iter().any(ends)), "{what}: the connection is not usable: {outcome:?}");
    }
    drop(client);
    let mut requests = bed.requests();
    requests.retain(|request| request.target != b"/probe");
    let is_refused = match outcome {
        Outcome::Status(status) => (400..500).contains(&status) || status == 501,
        Outcome::Reset(_) => true,
        Outcome::GoAway(code) => [PROTOCOL, CALM, COMPRESSION].contains(&code),
        Outcome::Closed | Outcome::Nothing => false,
    };
    match must {
        Reject => assert!(is_refused && requests.is_empty(), "{what}: {outcome:?} {requests:?}"),
        Must::Status(status) => {
            assert_eq!((outcome, requests.len()), (Outcome::Status(status), 0), "{what}");
        }
        RejectOr(target) => {
            let forwarded = outcome == Outcome::Status(200)
                && requests.iter().all(|request| request.target == target.as_bytes())
                && requests.len() == 1;
            assert!(forwarded || is_refused && requests.is_empty(), "{what}: {outcome:?} {requests:?}");
        }
        Forward(fields) => {
            assert_eq!((outcome, requests.len()), (Outcome::Status(200), 1), "{what}: {requests:?}");
            for (name, value) in fields {
                let request = &requests[0];
                let expected: Vec<Vec<u8>> = value.iter().map(|value| value.as_bytes().to_vec()).collect();
                let found = match *name {
                    ":method" => vec![request.method.clone()],
                    ":path" => vec![request.target.clone()],
                    ":body" => vec![request.body.clone()],
                    ":trailers" => vec![request.trailers.clone()],
                    name => request.fields.get(name.as_bytes()).cloned().unwrap_or_default(),
                };
                assert_eq!(found, expected, "{what}: {name} of {request:?}");
            }
            assert!(requests[0].complete, "{what}");
        }
    }
}

fn whole(head: &Head) -> Vec<u8> {
    head.frames(1, WHOLE)
}

#[test]
fn heads_are_checked() {
    let bed = Bed::start();
    let get = Head::get;
    let cases: Vec<(&str, Head, Must)> = vec![
        ("a plain request", get(), Forward(&[(":path", Some("/")), ("host", Some("a.test"))])),
        ("no method", get().without(":method"), Reject),
        ("no scheme", get().without(":scheme"), Reject),
        ("no path", get().without(":path"), Reject),
        ("two methods", get().with(":method", "GET"), Reject),
        ("a pseudo field behind a field", get().without(":path").with("a", "b").with(":path", "/"), Reject),
        ("a response's pseudo field", get().with(":status", "200"), Reject),
        ("an unknown pseudo field", get().with(":unknown", "1"), Reject),
        ("an empty path", get().set(":path", ""), Reject),
        ("a fragment", get().set(":path", "/x#y"), RejectOr("/x")),
        ("a space in the path", get().set(":path", "/a b"), Reject),
        ("a line in the path", get().set(":path", "/a\r\nX: y"), Reject),
        ("DEL in the path", get().set(":path", "/\x7f"), Reject),
        ("no UTF-8 in the path", get().set(":path", b"/\xff"), RejectOr("/%FF")),
        ("absolute-form", get().set(":path", "http://b.test/"), Reject),
        ("no slash", get().set(":path", "x"), Reject),
        ("an asterisk", get().set(":path", "*"), Reject),
        ("a path above the root", get().set(":path", "/../x"), Must::Status(400)),
        ("a line in the method", get().set(":method", "GET /smug HTTP/1.1\r\nX:"), Reject),
        ("a method in lower case", get().set(":method", "get"), Forward(&[(":method", Some("get"))])),
        ("a method of 64 KiB", get().set(":method", "A".repeat(64 << 10)), Reject),
        ("CONNECT", get().set(":method", "CONNECT"), Reject),
        ("CONNECT as it is written", connect(), Reject),
        ("extended CONNECT without a path", connect().with(":protocol", "websocket"), Reject),
        ("extended CONNECT for another protocol", extended("connect-udp"), Must::Status(501)),
        (":protocol beside GET", get().with(":protocol", "websocket"), Reject),
        ("a colon in a name", get().with("x: y", "1"), Reject),
        ("a space in a name", get().with("x y", "1"), Reject),
        ("a line in a name", get().with("x\r\nz", "1"), Reject),
        ("no name", get().with("", "1"), Reject),
        ("a name in upper case", get().with("X-Upper", "1"), Reject),
        ("a line in a value", get().with("x", "1\r\nz: 2"), Reject),
        ("a zero in a value", get().with("x", "1\x002"), Reject),
        ("a control in a value", get().with("x", "1\x012"), Reject),
        ("a blank before a value", get().with("x", " v"), Forward(&[("x", Some("v"))])),
        ("a blank behind a value", get().with("x", "v "), Forward(&[("x", Some("v"))])),
        ("a tab before a value", get().with("x", "\tv"), Forward(&[("x", Some("v"))])),
        ("te: gzip", get().with("te", "gzip"), Reject),
        ("te: trailers", get().with("te", "trailers"), Forward(&[("te", None)])),
        ("connection", get().with("connection", "close"), Reject),
        ("keep-alive", get().with("keep-alive", "1"), Reject),
        ("proxy-connection", get().with("proxy-connection", "close"), Reject),
        ("transfer-encoding", get().with("transfer-encoding", "chunked"), Reject),
        ("upgrade", get().with("upgrade", "h2c"), Reject),
        ("another host", get().with("host", "evil"), Reject),
        ("the same host", get().with("host", "a.test"), Forward(&[("host", Some("a.test"))])),
        ("host alone", get().without(":authority").with("host", "a.test"), Forward(&[("host", Some("a.test"))])),
        ("two hosts", get().without(":authority").with("host", "a.test").with("host", "a.test"), Reject),
        ("no host", get().without(":authority"), Reject),
        ("a list of authorities", get().set(":authority", "a.test, evil"), Reject),
        ("a user", get().set(":authority", "u@a.test"), Reject),
        ("a path in the authority", get().set(":authority", "a.test/evil"), Reject),
        ("a port that is none", get().set(":authority", "a.test:99999"), Reject),
        ("a fragment in the authority", get().set(":authority", "a.test#"), Reject),
        ("the other scheme", get().set(":scheme", "https"), Must::Status(421)),
        ("another scheme", get().set(":scheme", "ftp"), Reject),
        (
            "crumbs of a cookie",
            get().with("cookie", "a=1").with("cookie", "b=2").with("cookie", "c=3"),
            Forward(&[("cookie", Some("a=1; b=2; c=3"))]),
        ),
        ("an underscore", get().with("x_y", "1"), Forward(&[("x_y", None)])),
        ("too many fields", (0..101).fold(get(), |head, _| head.with("x", "1")), Must::Status(431)),
        (
            "fields that are too large",
            (0..3).fold(get(), |head, _| head.with("x", "1".repeat(15 << 10))),
            Must::Status(431),
        ),
    ];
    for (what, head, must) in cases {
        run(&bed, what, &whole(&head), must);
    }
    assert!(bed.refused("frame") > 10, "{}", bed.gateway.metrics());
    assert!(bed.refused("size") >= 2);
}

fn connect() -> Head {
    Head::get().set(":method", "CONNECT").set(":authority", "a.test:443").without(":scheme").without(":path")
}

/// RFC 8441 §4.
fn extended(protocol: &str) -> Head {
    Head::get().set(":method", "CONNECT").with(":protocol", protocol)
}

#[test]
fn lengths_and_trailers_are_checked() {
    let bed = Bed::start();
    let with = |length: &str| Head::post().with("content-length", length).frames(1, END_HEADERS);
    let end = |data: &[u8]| frame(DATA, END_STREAM, 1, data);
    let trailers = |fields: Head| fields.frames(1, WHOLE);
    let none = || Head(Vec::new());
    let pseudo =
        |trailers: Vec<u8>| [Head::post().frames(1, END_HEADERS), frame(DATA, 0, 1, b"hello"), trailers].concat();
    let cases: Vec<(&str, Vec<u8>, Must)> = vec![
        ("a body", [with("5"), end(b"hello")].concat(), Forward(&[(":body", Some("hello"))])),
        ("a sign", [with("+5"), end(b"hello")].concat(), Reject),
        ("a list", [with("5, 5"), end(b"hello")].concat(), Reject),
        ("an empty length", [with(""), end(b"")].concat(), Reject),
        ("2^64", [with("18446744073709551616"), end(b"")].concat(), Reject),
        (
            "a length twice",
            [
                Head::post().with("content-length", "5").with("content-length", "5").frames(1, END_HEADERS),
                end(b"hello"),
            ]
            .concat(),
            Reject,
        ),
        ("a length and no body", Head::post().with("content-length", "5").frames(1, WHOLE), Reject),
        (
            "trailers",
            [
                Head::post().frames(1, END_HEADERS),
                frame(DATA, 0, 1, b"hello"),
                trailers(
                    none().with("x-sum", "1").with("content-length", "5").with("host", "b").with("authorization", "c"),
                ),
            ]
            .concat(),
            Forward(&[(":body", Some("hello")), (":trailers", Some(""))]),
        ),
    ];
    for (what, bytes, must) in cases {
        run(&bed, what, &bytes, must);
    }
    let incomplete: Vec<(&str, Vec<u8>)> = vec![
        ("too few bytes", [with("5"), end(b"hel")].concat()),
        ("too few bytes, and an empty frame", [with("5"), frame(DATA, 0, 1, b"hel"), end(b"")].concat()),
        (
            "too few bytes, and trailers",
            [with("5"), frame(DATA, 0, 1, b"hel"), trailers(none().with("x", "1"))].concat(),
        ),
        ("too many bytes", [with("5"), end(b"hello!")].concat()),
        ("a path in trailers", pseudo(trailers(none().with(":path", "/")))),
        ("a status in trailers", pseudo(trailers(none().with("x", "1").with(":status", "200")))),
        ("an unknown pseudo field in trailers", pseudo(trailers(none().with(":x", "1")))),
        ("an entry of the static table in trailers", pseudo(frame(HEADERS, WHOLE, 1, &[0x84]))),
        ("a name of the static table in trailers", pseudo(frame(HEADERS, WHOLE, 1, b"\x04\x02/x"))),
        (
            "an entry of the table in trailers",
            [
                frame(HEADERS, END_HEADERS, 1, &[b"\x44\x02/x", &Head::post().without(":path").block()[..]].concat()),
                frame(DATA, 0, 1, b"hello"),
                frame(HEADERS, WHOLE, 1, &[0xbe]),
            ]
            .concat(),
        ),
        (
            "trailers in two frames",
            pseudo(
                [
                    frame(HEADERS, END_STREAM, 1, b"\0\x01a\x01b\0"),
                    frame(CONTINUATION, END_HEADERS, 1, b"\x05:path\x01/"),
                ]
                .concat(),
            ),
        ),
    ];
    for (what, bytes) in incomplete {
        bed.backend.begin();
        let mut client = bed.connect();
        client.send(&bytes);
        let outcome = client.outcome(1);
        assert!(
            matches!(outcome, Outcome::Reset(PROTOCOL) | Outcome::GoAway(PROTOCOL) | Outcome::Status(400)),
            "{what}: {outcome:?}"
        );
        drop(client);
        let requests = bed.requests();
        assert!(requests.iter().all(|request| !request.complete), "{what}: {requests:?}");
    }
}

#[test]
fn bodies_without_a_length_are_bounded_too() {
    let bed = Bed::start_with(|settings| settings.limits.body = Some(10));
    let upload = |stream, parts: &[&[u8]]| {
        let mut bytes = Head::post().frames(stream, END_HEADERS);
        parts.iter().for_each(|part| bytes.extend(frame(DATA, 0, stream, part)));
        bytes.extend(frame(DATA, END_STREAM, stream, b""));
        bytes
    };
    let mut client = bed.connect();
    client.send(&upload(1, &[b"12345", b"67890"]));
    assert_eq!(client.outcome(1), Outcome::Status(200));
    client.send(&upload(3, &[b"12345", b"678901"]));
    assert_eq!(client.outcome(3), Outcome::Status(413));
    drop(client);
    assert_eq!(bed.requests().iter().filter(|request| request.complete).count(), 1);
}

#[test]
fn a_broken_body_never_touches_another_request() {
    let bed = Bed::start();
    let rounds = 200;
    for round in 0..rounds {
        let mut bad = bed.connect();
        bad.send(
            &[Head::post().with("content-length", "5").frames(1, END_HEADERS), frame(DATA, END_STREAM, 1, b"GET")]
                .concat(),
        );
        let mut victim = bed.connect();
        let path = format!("/victim/{round}");
        victim.send(
            &[Head::post().set(":path", path).frames(1, END_HEADERS), frame(DATA, END_STREAM, 1, b"hello")].concat(),
        );
        assert_eq!(victim.outcome(1), Outcome::Status(200), "{round}");
        assert_eq!(victim.whole_body(1).as_deref(), Some(&b"ok"[..]), "{round}");
        assert!(!matches!(bad.outcome(1), Outcome::Status(200)), "{round}");
    }
    let mut requests = bed.requests();
    requests.retain(|request| request.complete);
    assert_eq!(requests.len(), rounds);
    assert!(requests.iter().all(|request| request.target.starts_with(b"/victim/") && request.body == b"hello"));
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let bed = Bed::start();
    let whole = whole(&Head::get());
    let setting = |name: u8, value: u32| frame(SETTINGS, 0, 0, &[&[0, name][..], &value.to_be_bytes()].concat());
    let block = |bytes: &[u8]| frame(HEADERS, WHOLE, 1, &[&Head::get().block(), bytes].concat());
    let cases: Vec<(&str, Vec<u8>, &[u32])> = vec![
        ("two thousand settings", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9].repeat(2000)), &[CALM]),
        ("a window of 2^31", setting(4, 1 << 31), &[FLOW_CONTROL, PROTOCOL]),
        ("frames of one byte", setting(5, 1), &[PROTOCOL]),
        ("a push that is neither", setting(2, 2), &[PROTOCOL]),
        (
            "a table above the limit",
            frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe1, 0xff, 3][..], &Head::get().block()].concat()),
            &[COMPRESSION, PROTOCOL],
        ),
        ("two sizes of the table behind fields", block(&[0x20, 0x20]), &[COMPRESSION, PROTOCOL]),
        ("index 0", block(&[0x80]), &[COMPRESSION, PROTOCOL]),
        ("index 200", block(&[0xff, 73]), &[COMPRESSION, PROTOCOL]),
        ("the end of a string inside it", block(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]), &[COMPRESSION, PROTOCOL]),
        ("half an integer", block(&[0, 0x7f]), &[COMPRESSION, PROTOCOL]),
        (
            "more padding than frame",
            [Head::post().frames(1, END_HEADERS), frame(DATA, PADDED, 1, &[9, 0])].concat(),
            &[PROTOCOL],
        ),
        ("more padding than head", frame(HEADERS, WHOLE | PADDED, 1, &[200, 0, 0]), &[PROTOCOL]),
        (
            "a head that is interrupted",
            [frame(HEADERS, END_STREAM, 1, &Head::get().block()), frame(PING, 0, 0, &[0; 8])].concat(),
            &[PROTOCOL],
        ),
        ("the rest of no head", frame(CONTINUATION, END_HEADERS, 1, &[]), &[PROTOCOL]),
        ("a stream of the server", Head::get().frames(2, WHOLE), &[PROTOCOL]),
        ("stream 0", Head::get().frames(0, WHOLE), &[PROTOCOL]),
        (
            "an older stream",
            [Head::get().frames(5, WHOLE), Head::get().frames(3, WHOLE)].concat(),
            &[PROTOCOL, STREAM_CLOSED],
        ),
        ("data on no stream", frame(DATA, 0, 1, b"x"), &[PROTOCOL]),
        ("a reset of no stream", frame(RESET, 0, 1, &[0; 4]), &[PROTOCOL]),
        ("a window of no stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), &[PROTOCOL]),
        ("a PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), &[FRAME_SIZE, PROTOCOL]),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE, PROTOCOL]),
        ("a WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), &[FRAME_SIZE, PROTOCOL]),
        ("a PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, &[0; 4]), &[FRAME_SIZE, PROTOCOL]),
        ("a frame of 16385 bytes", frame(DATA, 0, 1, &[0; 16385]), &[FRAME_SIZE, PROTOCOL]),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), &[PROTOCOL]),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), &[FLOW_CONTROL]),
        ("a promise", frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), &[PROTOCOL]),
        ("HTTP/1 behind the preface", b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n".to_vec(), &[PROTOCOL, FRAME_SIZE]),
    ];
    let before = bed.closed("frame") + bed.closed("flood");
    let count = cases.len() as u64;
    for (what, bytes, codes) in cases {
        bed.backend.begin();
        let mut client = bed.connect();
        client.send(&bytes);
        let code = client.end();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{what}: {code:?}");
        drop(client);
        let requests = bed.requests();
        let older = what == "an older stream";
        assert!(requests.len() <= usize::from(older), "{what}: {requests:?}");
    }
    assert_eq!(bed.closed("frame") + bed.closed("flood") - before, count, "{}", bed.gateway.metrics());
    let fine: Vec<(&str, Vec<u8>)> = vec![
        ("an unknown frame", [frame(0x42, 0xff, 0, b"whatever"), whole.clone()].concat()),
        ("a priority of RFC 9218", [frame(0x10, 0, 0, b"\0\0\0\x01u=1"), whole.clone()].concat()),
        ("a reserved bit", frame(HEADERS, WHOLE, 0x8000_0001, &Head::get().block())),
        (
            "a table of the greatest size",
            frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe1, 0x1f][..], &Head::get().block()].concat()),
        ),
        (
            "data that is all padding",
            [
                Head::post().frames(1, END_HEADERS),
                // More than the window of the connection together.
                frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()).repeat(50),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
        ),
    ];
    for (what, bytes) in fine {
        run(&bed, what, &bytes, Forward(&[]));
    }
}

#[test]
fn streams_above_the_limit_are_refused_and_the_others_go_on() {
    let bed = Bed::start();
    let mut client = bed.connect();
    assert!(client.until(|frames| frames.iter().any(|frame| frame.kind == SETTINGS)));
    let announced = &client.frames[0].payload;
    assert!(announced.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 100]), "{announced:?}");
    assert!(announced.chunks(6).any(|setting| setting == [0, 6, 0, 0, 0x80, 0]), "the list of fields: {announced:?}");
    let ids = (1..=199).step_by(2);
    for id in ids.clone() {
        client.send(&Head::post().frames(id, END_HEADERS));
    }
    for id in [201, 203] {
        client.send(&Head::post().frames(id, END_HEADERS));
        assert_eq!(client.outcome(id), Outcome::Reset(REFUSED));
    }
    for id in ids.clone() {
        client.send(&frame(DATA, END_STREAM, id, b"x"));
    }
    for id in ids {
        assert_eq!(client.whole_body(id).as_deref(), Some(&b"ok"[..]), "{id}");
    }
    drop(client);
    assert_eq!(bed.requests().len(), 100);
    assert_eq!(bed.refused("streams"), 2);
}

#[test]
fn a_preface_that_is_cut_off_is_closed_in_time() {
    let bed = Bed::start_with(|settings| settings.deadlines.first_byte = Duration::from_millis(400));
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..PREFACE.len())
        .map(|count| {
            let mut client = Client::connect_raw(bed.gateway.address());
            client.send(&PREFACE[..count]);
            client
        })
        .collect();
    for (count, client) in clients.iter_mut().enumerate() {
        client.until(|_| false);
        assert!(client.closed, "{count} bytes");
    }
    let took = start.elapsed();
    assert!((400..1500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(bed.closed("first_byte"), PREFACE.len() as u64);
}

#[test]
fn streams_in_flight_outlive_the_goaway_of_either_side() {
    let bed = Bed::start();
    let posts = |client: &mut Client| {
        for id in (1..=19).step_by(2) {
            client.send(&Head::post().frames(id, END_HEADERS));
        }
    };
    let finish = |client: &mut Client| {
        for id in (1..=19).step_by(2) {
            client.send(&frame(DATA, END_STREAM, id, b"x"));
        }
        for id in (1..=19).step_by(2) {
            assert_eq!(client.whole_body(id).as_deref(), Some(&b"ok"[..]), "{id}");
        }
    };
    let mut client = bed.connect();
    posts(&mut client);
    client.send(&frame(GO_AWAY, 0, 0, &[0; 8]));
    finish(&mut client);
    client.end();
    drop(client);

    // The gateway says first that it will go, and a round trip later which streams it serves (RFC 9113 §6.8).
    let mut client = bed.connect();
    client.is_polite = false;
    posts(&mut client);
    client.send(&frame(PING, 0, 0, b"12345678"));
    assert!(client.until(|frames| frames.iter().any(|frame| frame.kind == PING)), "all heads were read");
    bed.gateway.advance(Phase::Closing);
    let goaways = |frames: &[Received]| frames.iter().filter_map(Received::go_away).collect::<Vec<_>>();
    assert!(client.until(|frames| !goaways(frames).is_empty()), "{:?}", bed.gateway.connections());
    assert_eq!(goaways(&client.frames), [(0x7fff_ffff, NO_ERROR)]);
    // A stream that was on its way is served.
    client.send(&Head::get().frames(21, WHOLE));
    let is_ping = |frame: &&Received| frame.kind == PING && frame.flags & ACK == 0;
    assert!(client.until(|frames| frames.iter().any(|frame| is_ping(&frame))));
    let payload = client.frames.iter().find(is_ping).expect("found").payload.clone();
    client.send(&frame(PING, ACK, 0, &payload));
    assert!(client.until(|frames| goaways(frames).len() == 2));
    assert_eq!(goaways(&client.frames)[1], (21, NO_ERROR));
    finish(&mut client);
    assert_eq!(client.whole_body(21).as_deref(), Some(&b"ok"[..]));
    assert!(matches!(client.end(), Some(NO_ERROR)));
}

/// An idle client is told to go as at the end of the process: a request that was on its way is still served.
#[test]
fn an_idle_connection_ends_with_goaway_and_grace() {
    let bed = Bed::start_with(|settings| settings.deadlines.idle = Duration::from_millis(300));
    let mut client = bed.connect();
    client.is_polite = false;
    client.send(&Head::get().frames(1, WHOLE));
    assert_eq!(client.whole_body(1).as_deref(), Some(&b"ok"[..]));
    let goaways = |frames: &[Received]| frames.iter().filter_map(Received::go_away).collect::<Vec<_>>();
    assert!(client.until(|frames| !goaways(frames).is_empty()));
    assert_eq!(goaways(&client.frames), [(0x7fff_ffff, NO_ERROR)]);
    client.send(&Head::get().frames(3, WHOLE));
    assert_eq!(client.whole_body(3).as_deref(), Some(&b"ok"[..]));
    let is_ping = |frame: &&Received| frame.kind == PING && frame.flags & ACK == 0;
    let payload = client.frames.iter().find(is_ping).expect("it came with the GOAWAY").payload.clone();
    client.send(&frame(PING, ACK, 0, &payload));
    assert_eq!(client.end(), Some(NO_ERROR));
    assert_eq!(goaways(&client.frames).last(), Some(&(3, NO_ERROR)));
    assert_eq!(bed.closed("idle"), 1);
}

#[test]
fn a_stream_that_is_not_taken_goes_and_then_its_connection() {
    let bed = Bed::start_with(|settings| settings.deadlines.write_stall = Duration::from_millis(500));
    // A window of nothing for every stream.
    let mut client = Client::connect_with(bed.gateway.address(), &[0, 4, 0, 0, 0, 0]);
    client.send(&Head::get().frames(1, WHOLE));
    assert_eq!(client.outcome(1), Outcome::Status(200));
    assert!(client.until(|frames| frames.iter().any(|frame| frame.kind == RESET)));
    assert_eq!(client.end(), Some(NO_ERROR));
    assert!(bed.closed("write_stall") >= 1);
    // Where another stream lives, the connection does.
    let mut client = Client::connect_with(bed.gateway.address(), &[0, 4, 0, 0, 0, 0]);
    client.send(&[Head::get().frames(1, WHOLE), Head::post().frames(3, END_HEADERS)].concat());
    assert_eq!(client.outcome(1), Outcome::Status(200));
    // The other one moves.
    while !client.until_within(Duration::from_millis(100), |frames| {
        frames.iter().any(|frame| frame.kind == RESET && frame.stream == 1)
    }) {
        assert!(client.send(&frame(DATA, 0, 3, b"some")), "the connection is gone");
    }
    assert!(client.frames.iter().all(|frame| frame.kind != GO_AWAY));
    client.send(&[frame(WINDOW_UPDATE, 0, 3, &[0, 0, 9, 0]), frame(DATA, END_STREAM, 3, b"x")].concat());
    assert_eq!(client.whole_body(3).as_deref(), Some(&b"ok"[..]));
}

#[test]
fn the_preface_is_no_request_where_http2_is_off() {
    let backend = Backend::start(Vec::new());
    let gateway = Gateway::start_changed(backend.address, |settings| {
        settings.listeners.values_mut().for_each(|listener| listener.http2_prior_knowledge = false);
    });
    let mut stream = std::net::TcpStream::connect(gateway.address()).expect("accepted");
    std::io::Write::write_all(&mut stream, PREFACE).expect("written");
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
}
