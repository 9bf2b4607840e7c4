//! `upgrades.idleTimeout` and `maxLifetime`, and that nothing else ends a socket.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite::Message;

use super::bed::{Echo, RawServer, gateway, metric, open, ping, run, until};

#[test]
fn an_idle_socket_ends_at_its_limit_and_a_busy_one_does_not() {
    let echo = Echo::start();
    // Long beside what a slow machine takes for a ping.
    let gateway = gateway(&[echo.port], "    upgrades: {idleTimeout: 3s}\n", &[]);
    run(async {
        let (mut busy, _) = open(gateway.http, &[]).await.unwrap();
        let began = Instant::now();
        let (mut idle, _) = open(gateway.http, &[]).await.unwrap();
        let close = loop {
            ping(&mut busy, "tick").await;
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(50), idle.next()).await {
                break message.unwrap().unwrap();
            }
        };
        assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1012), "{close:?}");
        assert!(began.elapsed() >= Duration::from_secs(3));
        ping(&mut busy, "still here").await;
    });
    until("counted", || metric(&gateway, "tidegate_sockets_closed_total{end=\"tunnel_idle\"}") == 1.0);
}

#[test]
fn a_socket_ends_at_the_end_of_its_life_between_two_frames() {
    let server = RawServer::start();
    let rule = "    upgrades: {maxLifetime: 4s, drain: {closeCode: 4000}}\n    timeouts: {request: 3s, idle: 2s}\n";
    let gateway = gateway(&[server.port], rule, &["--workers", "1"]);
    let (mut client, mut backend) = server.open(gateway.http, b"", b"");
    // The end of its life comes inside of this frame: the close waits behind it.
    backend.send(b"\x82\x05ab");
    client.expect(b"\x82\x05ab");
    // The life of a socket that opened later is over, so the life of the first one is, too.
    let (mut later, _its_backend) = server.open(gateway.http, b"", b"");
    later.expect(b"\x88\x02\x0f\xa0");
    backend.send(b"cde\x81\x01x");
    client.expect(b"cde\x88\x02\x0f\xa0");
    // To the backend a masked one.
    while backend.seen.len() < 8 {
        assert!(backend.more() > 0);
    }
    let mask = &backend.seen[2..6];
    assert_eq!(backend.seen[..2], [0x88, 0x82]);
    assert_eq!([backend.seen[6] ^ mask[0], backend.seen[7] ^ mask[1]], 4000_u16.to_be_bytes());
    until("counted", || metric(&gateway, "tidegate_sockets_closed_total{end=\"tunnel_lifetime\"}") == 2.0);
}

#[test]
fn where_the_frames_are_lost_the_end_is_fin_alone() {
    let server = RawServer::start();
    let gateway = gateway(&[server.port], "    upgrades: {maxLifetime: 300ms}\n", &[]);
    // A length that no frame can have: from there on nobody knows where a frame ends.
    let lost = b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    let (mut client, mut backend) = server.open(gateway.http, b"", b"");
    client.send(lost);
    assert_eq!(backend.rest(), lost);
    assert_eq!(client.rest(), b"\x88\x02\x03\xf4", "the other direction has its close frame, with 1012");
    let (mut client, mut backend) = server.open(gateway.http, b"", b"");
    backend.send(lost);
    assert_eq!(client.rest(), lost);
    assert_eq!(backend.rest()[..2], [0x88, 0x82]);
}
