//! Behind the `101`: a pipe that nobody can tell from a wire, and what is seen of it from outside.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::bed::{Echo, Raw, RawServer, gateway, metric, open, ping, run, until};
use super::support::client::Client;
use super::support::keeps_promise;

#[test]
fn messages_of_every_kind_and_size_come_back() {
    let echo = Echo::start();
    let gateway = gateway(&[echo.port], "", &[]);
    run(async {
        let (mut socket, status) = open(gateway.http, &[("sec-websocket-protocol", "chat, other")]).await.unwrap();
        assert_eq!(status, 101);
        for size in [0, 1, 125, 126, 65_535, 65_536, 3 << 20] {
            let bytes: Vec<u8> = (0..size).map(|n| (n * 7) as u8).collect();
            socket.send(Message::binary(bytes.clone())).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(bytes), "{size}");
        }
        ping(&mut socket, "äöü").await;
        socket.send(Message::Ping("x".into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("x".into()));
        let close = CloseFrame { code: CloseCode::Library(4321), reason: "enough".into() };
        socket.close(Some(close.clone())).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::Close(Some(close)),
            "the backend's echo of the close"
        );
        assert!(socket.next().await.is_none_or(|end| end.is_err()), "then the end");
    });
    until("the socket is gone", || metric(&gateway, "tidegate_sockets_open") == 0.0);
    assert_eq!(metric(&gateway, "tidegate_sockets_closed_total{end=\"finished\"}"), 1.0);
}

#[test]
fn bytes_pass_unchanged_and_in_order_whatever_they_are() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    // Glued to the heads, and nothing that any standard knows: reserved opcodes and bits, unmasked, a broken length.
    let (mut client, mut backend) = server.open(gateway.http, b"\xff\x00glued up", b"\x0f\x03abcglued down");
    backend.expect(b"\xff\x00glued up");
    client.expect(b"\x0f\x03abcglued down");
    let all: Vec<u8> = (0..=255).collect();
    // A byte at a time, each way.
    for byte in &all {
        client.send(&[*byte]);
        backend.expect(&[*byte]);
        backend.send(&[!*byte]);
        client.expect(&[!*byte]);
    }
    client.send(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffno frame");
    backend.expect(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffno frame");
    // FIN is passed on as FIN, and the other direction goes on.
    client.finish();
    assert_eq!(backend.rest(), b"");
    backend.send(b"half open");
    client.expect(b"half open");
    backend.finish();
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_reset_is_passed_on_and_a_dead_backend_is_seen_at_once() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    let mut byte = [0];
    let mut resets = 1.0;
    keeps_promise("a reset of the pod", Duration::from_millis(500), || {
        let (mut client, backend) = server.open(gateway.http, b"", b"");
        let began = Instant::now();
        backend.reset();
        let error = client.read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        resets += 1.0;
        began.elapsed()
    });
    let (client, mut backend) = server.open(gateway.http, b"", b"");
    client.reset();
    let error = backend.read(&mut byte).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    until("both are counted", || metric(&gateway, "tidegate_sockets_closed_total{end=\"reset\"}") == resets);
    // What a kernel does for a killed process: the sockets close.
    keeps_promise("the end of the pod", Duration::from_secs(1), || {
        let (mut client, backend) = server.open(gateway.http, b"", b"");
        let began = Instant::now();
        drop(backend);
        assert_eq!(client.rest(), b"");
        began.elapsed()
    });
}

#[test]
fn a_reader_that_stops_stops_the_writer_and_costs_little() {
    const SOCKETS: usize = 32;
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &["--workers", "1"]);
    let (warm_client, _warm) = server.open(gateway.http, b"", b"");
    drop(warm_client);
    let before = gateway.resident_kib();
    // Half of them one way, half the other: writer first.
    let mut pairs: Vec<(Raw, Raw)> = (0..SOCKETS)
        .map(|at| {
            let (client, backend) = server.open(gateway.http, b"", b"");
            if at % 2 == 0 { (backend, client) } else { (client, backend) }
        })
        .collect();
    let chunk = vec![0x5a; 256 << 10];
    let mut sent = [0; SOCKETS];
    for ((writer, _), sent) in pairs.iter_mut().zip(&mut sent) {
        // Until nothing is taken for a while: kernel and gateway are full.
        writer.stream.set_write_timeout(Some(Duration::from_millis(150))).unwrap();
        while let Ok(count) = std::io::Write::write(&mut writer.stream, &chunk) {
            *sent += count;
            assert!(*sent < 64 << 20, "the writer never blocks");
        }
    }
    let each = gateway.resident_kib().saturating_sub(before) / SOCKETS;
    println!("a stalled socket: {each} KiB");
    assert!(each <= 128, "{each} KiB for a stalled socket");
    // Nothing is lost: what was taken arrives when the reader goes on.
    for ((writer, mut reader), sent) in pairs.into_iter().zip(sent).take(2) {
        writer.finish();
        assert_eq!(reader.rest().len(), sent);
    }
}

#[test]
fn an_end_is_passed_on_within_100_ms() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "", &[]);
    for (reset, from_client) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let (client, backend) = server.open(gateway.http, b"", b"");
                let (gone, mut other) = if from_client { (client, backend) } else { (backend, client) };
                let began = Instant::now();
                if reset {
                    gone.reset();
                } else {
                    gone.finish();
                }
                let end = other.read(&mut [0; 8]);
                let as_sent = if reset { end.is_err() } else { matches!(end, Ok(0)) };
                assert!(as_sent, "reset {reset}, from the client {from_client}");
                began.elapsed()
            })
            .collect();
        // On a machine that does other things, too, one of nine may be late.
        times.sort();
        assert!(times[4] < Duration::from_millis(100), "reset {reset}, from the client {from_client}: {times:?}");
    }
}

#[test]
fn live_sockets_are_listed_counted_and_closed_by_id_route_or_pod() {
    let echo = Echo::start();
    let gateway = gateway(&[echo.port], "    upgrades: {drain: {closeCode: 1001}}\n", &[]);
    run(async {
        let mut sockets = Vec::new();
        for _ in 0..3 {
            sockets.push(open(gateway.http, &[]).await.unwrap().0);
        }
        ping(&mut sockets[0], "hello").await;
        let list = || -> Vec<Value> { serde_json::from_str(&gateway.admin("/debug/sockets").body).unwrap() };
        // They are counted when they are written: the client may be quicker.
        until("the bytes are counted", || list()[0]["bytesToClient"] != 0);
        let listed = list();
        assert_eq!(listed.len(), 3);
        let first = &listed[0];
        assert_eq!((&first["route"], &first["rule"]), (&"default/chat".into(), &"socket".into()));
        assert_eq!(first["endpoint"], format!("127.0.0.1:{}", echo.port));
        // Two bytes of header, four of mask from the client.
        assert_eq!((&first["bytesToEndpoint"], &first["bytesToClient"]), (&11.into(), &7.into()));
        assert!(first["client"].as_str().unwrap().starts_with("127.0.0.1:"));
        assert!(first["since"].as_str().unwrap().ends_with('Z'), "{first}");
        assert!(first["ageSeconds"].as_f64().unwrap() >= first["idleSeconds"].as_f64().unwrap());
        assert_eq!(metric(&gateway, "tidegate_sockets_open"), 3.0);
        assert_eq!(metric(&gateway, "tidegate_socket_bytes_total{direction=\"to_endpoint\"}"), 11.0);
        assert_eq!(metric(&gateway, "tidegate_requests_in_flight"), 0.0, "a handshake ends with its 101");

        let delete = |path: &str| {
            let request = format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = Client::connect(gateway.admin).request(&request).unwrap();
            (answer.status, answer.body.split_whitespace().collect::<String>())
        };
        assert_eq!(delete("/debug/sockets/999").0, 404);
        assert_eq!(delete("/debug/sockets/x").0, 404);
        assert_eq!(delete("/debug/sockets").0, 400, "never all by mistake");
        assert_eq!(delete("/debug/sockets?pods=x").0, 400);
        assert_eq!(delete("/debug/sockets?route=default/other"), (200, "{\"closed\":0}".to_owned()));
        assert_eq!(gateway.admin("/debug/sockets/1").status, 405);
        assert_eq!(delete(&format!("/debug/sockets/{}", first["id"])), (200, "{\"closed\":1}".to_owned()));
        let close = sockets[0].next().await.unwrap().unwrap();
        assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1001), "{close:?}");
        until("one is gone", || list().len() == 2);
        ping(&mut sockets[1], "the others stay").await;
        assert_eq!(delete("/debug/sockets?route=default%2Fchat"), (200, "{\"closed\":2}".to_owned()));
        for socket in &mut sockets[1..] {
            assert!(matches!(socket.next().await, Some(Ok(Message::Close(Some(_))))));
        }
        until("all are gone", || list().is_empty());
        assert_eq!(metric(&gateway, "tidegate_sockets_closed_total{end=\"admin\"}"), 3.0);
        assert_eq!(metric(&gateway, "tidegate_socket_duration_seconds_count"), 3.0);
        let handshakes = "tidegate_requests_total{route=\"default/chat\",rule=\"socket\",method=\"GET\",code=\"1xx\"}";
        assert_eq!(metric(&gateway, handshakes), 3.0);
    });
}

#[test]
fn a_socket_leaves_one_line_in_the_log_with_all_its_bytes() {
    let echo = Echo::start();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let gateway = gateway(&[echo.port], "", &["--workers", "1", "--access-log", log.to_str().unwrap()]);
    let lines = || -> Vec<String> { fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect() };
    let open_for = run(async {
        let (mut socket, _) = open(gateway.http, &[]).await.unwrap();
        let opened = Instant::now();
        ping(&mut socket, "hello").await;
        // The line of a later request to the same worker: one of the handshake would stand before it.
        assert_eq!(gateway.get("elsewhere.test", "/").status, 404);
        until("the line of a request", || !lines().is_empty());
        assert!(lines().len() == 1 && lines()[0].contains("elsewhere.test"), "it is still open: {:?}", lines());
        let open_for = opened.elapsed();
        socket.close(None).await.unwrap();
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        open_for
    });
    until("the socket's line", || lines().len() == 2 && fs::read_to_string(&log).unwrap().ends_with('\n'));
    let line: Value = serde_json::from_str(&lines()[1]).unwrap();
    assert_eq!(
        (&line["status"], &line["route"], &line["path"]),
        (&101.into(), &"default/chat".into(), &"/socket".into())
    );
    // Two messages of five bytes and two close frames without code.
    assert_eq!((&line["received_bytes"], &line["sent_bytes"]), (&17.into(), &9.into()), "{line}");
    assert!(line["duration_seconds"].as_f64().unwrap() >= open_for.as_secs_f64(), "{line} of {open_for:?}");
    assert_eq!(line.get("reason"), None, "{line}");
}
