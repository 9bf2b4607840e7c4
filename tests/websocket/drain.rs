//! The end of the process: sockets leave spread over their window, beside the requests (decision: never all at once).

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Echo, gateway, open, ping, run};

#[test]
fn sockets_leave_spread_over_their_window_and_the_process_with_the_last() {
    const SOCKETS: usize = 24;
    let window = Duration::from_secs(3);
    let echo = Echo::start();
    // Requests have far less time than sockets.
    let mut gateway = gateway(&[echo.port], "    upgrades: {drain: {window: 3s}}\n", &["--drain-timeout", "300ms"]);
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
