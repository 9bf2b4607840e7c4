//! The end of the process: sockets leave spread over their window, beside the requests, and never all at once.
//!
//! The window ends with `--drain-timeout`, and so does the process, a second later at most.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Echo, Raw, RawServer, SOON, gateway, open, ping, run};
use super::support::gateway::{Gateway, port, service};
use super::support::keeps_promise;

#[test]
fn sockets_leave_spread_over_their_window_and_the_process_with_the_last() {
    const SOCKETS: usize = 24;
    let window = Duration::from_secs(3);
    let echo = Echo::start();
    // A window that is longer than the stop may take is cut to it.
    let rule = "    upgrades: {drain: {window: 60s}}\n";
    let mut gateway = gateway(&[echo.port], rule, &["--drain-timeout", "3s"]);
    let (http, mut times) = (gateway.http, Vec::new());
    run(async {
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS {
            sockets.push(open(http, &[]).await.unwrap().0);
        }
        ping(&mut sockets[0], "open").await;
        gateway.terminate();
        let began = Instant::now();
        let ends = sockets.into_iter().map(|mut socket| {
            tokio::spawn(async move {
                let close = socket.next().await.unwrap().unwrap();
                assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1012), "{close:?}");
                // tungstenite answers the close while it is polled.
                while socket.next().await.is_some_and(|message| message.is_ok()) {}
                began.elapsed()
            })
        });
        for end in ends.collect::<Vec<_>>() {
            times.push(end.await.unwrap());
        }
    });
    let ended = Instant::now();
    assert!(gateway.wait().success());
    assert!(ended.elapsed() < SOON, "the process ends with its last socket");
    times.sort();
    let (first, last) = (times[0], times[SOCKETS - 1]);
    // Of 24 in three seconds: with all but certainty some far from each other, and some between.
    assert!(last - first > window / 2 && last < window + SOON, "{times:?}");
    let far = |from: Duration, to: Duration| to - from > window / 10;
    assert!(times.iter().any(|time| far(first, *time) && far(*time, last)), "{times:?}");
}

#[test]
fn no_socket_holds_the_process_up_for_longer_than_the_drain_timeout() {
    let echo = Echo::start();
    for (window, timeout) in [("30s", "1s"), ("0s", "400ms"), ("2s", "0s")] {
        let rule = format!("    upgrades: {{drain: {{window: {window}}}}}\n");
        let bound = Duration::from_millis(match timeout {
            "1s" => 1_000,
            "400ms" => 400,
            _ => 0,
        }) + Duration::from_millis(200)
            + Duration::from_secs(1);
        // What the process itself takes to end on a busy machine is not the sockets' doing.
        let bound = bound + Duration::from_millis(700);
        keeps_promise(&format!("a stop of {timeout}"), bound, || {
            let mut gateway = gateway(&[echo.port], &rule, &["--drain-timeout", timeout, "--drain-delay", "200ms"]);
            // In the middle of a frame, and never to answer a close.
            let clients: Vec<Raw> = (0..4).map(|_| Raw::handshake(gateway.http, "", &[0x82, 0xfe])).collect();
            for mut client in clients.iter().map(|client| client.stream.try_clone().unwrap()) {
                let mut byte = [0; 15];
                std::io::Read::read_exact(&mut client, &mut byte).unwrap();
                assert_eq!(&byte, b"HTTP/1.1 101 Sw");
            }
            let began = Instant::now();
            gateway.terminate();
            assert!(gateway.wait().success());
            let took = began.elapsed();
            drop(clients);
            took
        });
    }
}

/// The application of a sidecar ends soon, and its callers are to come back elsewhere; what it has called itself it still needs.
#[test]
fn a_sidecar_asks_the_sockets_of_callers_to_leave_and_not_those_of_its_application() {
    let server = RawServer::start();
    let incoming = format!("http:{}@127.0.0.1:0", server.port);
    // Nothing but sockets comes to the server.
    let args = ["--in", &incoming, "--out-port=chat.default:80@127.0.0.1:0", "--ready-when=started"];
    let args = [&args[..], &["--drain-delay=0s", "--drain-timeout=1s"]].concat();
    let (mut sidecar, ready) = Gateway::start_sidecar(&[("services.yaml", &service("chat", &[server.port]))], &args);
    let [to_app, from_app] = ["in-http", "chat.default:80"].map(|name| port(&ready["listeners"][name]));
    let (mut caller, mut app) = server.open(to_app, b"", b"");
    let (mut called, mut other) = server.open(from_app, b"", b"");
    sidecar.drain_in(&incoming);
    // 1012, which is masked on its way to a server (RFC 6455 §5.3).
    let close = 1012_u16.to_be_bytes();
    caller.expect(&[&[0x88, 2], &close[..]].concat());
    while app.seen.len() < 8 {
        assert!(app.more() > 0, "closed without a close frame");
    }
    let (head, rest) = app.seen.split_at(2);
    assert_eq!(head, [0x88, 0x82]);
    assert_eq!([rest[4] ^ rest[0], rest[5] ^ rest[1]], close);
    caller.finish();
    app.finish();
    // A message each way.
    let message = b"\x81\x82\0\0\0\0on";
    called.send(message);
    other.expect(message);
    other.send(message);
    called.expect(message);
    // Its end comes with that of the sidecar.
    sidecar.terminate();
    called.expect(&[&[0x88, 2], &close[..]].concat());
    called.finish();
    other.finish();
    assert!(sidecar.wait().success());
}
