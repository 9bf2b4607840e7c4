//! The end of the process: sockets leave spread over their window, beside the requests, and never all at once.
//!
//! The window ends with `--drain-timeout`, and so does the process, a second later at most.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Echo, Raw, gateway, open, ping, run};

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
    assert!(ended.elapsed() < Duration::from_secs(2), "the process ends with its last socket");
    times.sort();
    let (first, last) = (times[0], times[SOCKETS - 1]);
    // Of 24 in three seconds: with all but certainty some in each third.
    assert!(first < window / 3 && last > window * 2 / 3 && last < window + Duration::from_secs(1), "{times:?}");
    let middle = times.iter().filter(|time| **time > window / 3 && **time < window * 2 / 3).count();
    assert!(middle > 0, "{times:?}");
}

#[test]
fn no_socket_holds_the_process_up_for_longer_than_the_drain_timeout() {
    let echo = Echo::start();
    for (window, timeout) in [("30s", "1s"), ("0s", "400ms"), ("2s", "0s")] {
        let rule = format!("    upgrades: {{drain: {{window: {window}}}}}\n");
        let mut gateway = gateway(&[echo.port], &rule, &["--drain-timeout", timeout, "--drain-delay", "200ms"]);
        // In the middle of a frame, and never to answer a close.
        let clients: Vec<Raw> = (0..4).map(|_| Raw::handshake(gateway.http, "", &[0x82, 0xfe])).collect();
        for mut client in clients.iter().map(|client| client.stream.try_clone().unwrap()) {
            let mut byte = [0; 15];
            std::io::Read::read_exact(&mut client, &mut byte).unwrap();
            assert_eq!(&byte, b"HTTP/1.1 101 Sw");
        }
        let bound = Duration::from_millis(match timeout {
            "1s" => 1_000,
            "400ms" => 400,
            _ => 0,
        }) + Duration::from_millis(200)
            + Duration::from_secs(1);
        let began = Instant::now();
        gateway.terminate();
        assert!(gateway.wait().success());
        // What the process itself takes to end on a busy machine is not the sockets' doing.
        assert!(began.elapsed() < bound + Duration::from_millis(700), "{timeout}: {:?}", began.elapsed());
        drop(clients);
    }
}
