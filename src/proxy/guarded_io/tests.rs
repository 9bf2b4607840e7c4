//! What the tests of connections and of the input cannot reach: bytes held behind a handshake on a real socket.

use std::future::poll_fn;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::reason::Reason;

const HANDSHAKE: &str =
    "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

async fn pair() -> (TcpStream, GuardedSocket) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("accepted");
    let (stream, _) = listener.accept().await.expect("a connection");
    let settings = GuardSettings::new(&Limits::default(), &Forwarding::default(), false);
    (client, GuardedSocket::new(stream.into(), Rc::new(settings), Rc::default(), Rc::default()))
}

/// What is accepted next; nothing at the end of the input. `None` while there is nothing.
async fn read(guard: &mut GuardedSocket) -> Option<Vec<u8>> {
    poll_fn(|cx| {
        Poll::Ready(match guard.poll_head(cx) {
            Poll::Ready(head) => {
                let count = head.map_or(0, |head| head.length);
                let bytes = guard.accepted()[..count].to_vec();
                guard.take(count);
                Some(bytes)
            }
            Poll::Pending => None,
        })
    })
    .await
}

/// Waits for the next head, which is this one.
async fn read_head(guard: &mut GuardedSocket, expected: &str) -> AcceptedHead {
    let head = poll_fn(|cx| guard.poll_head(cx)).await.expect("a head");
    assert_eq!(guard.accepted()[..head.length], *expected.as_bytes());
    guard.take(head.length);
    head
}

/// Waits until the guard has read `count` bytes ahead.
async fn read_ahead(guard: &mut GuardedSocket, count: usize) {
    while guard.input.buffered().len() < count && guard.input.refusal().is_none() {
        poll_fn(|cx| {
            guard.poll_watch(cx);
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bytes_behind_a_handshake_are_held_for_the_tunnel() {
    let (mut client, mut guard) = pair().await;
    client.write_all(format!("{HANDSHAKE}\u{1}frames").as_bytes()).await.expect("written");
    assert!(read_head(&mut guard, HANDSHAKE).await.facts.websocket);
    assert_eq!(read(&mut guard).await, None);
    read_ahead(&mut guard, 7).await;
    let (_, held) = guard.take_tunnel().expect("the socket");
    assert_eq!(held, b"\x01frames"[..]);
}

#[tokio::test]
async fn held_bytes_are_the_next_request_when_the_handshake_fails() {
    let (mut client, mut guard) = pair().await;
    client.write_all(format!("{HANDSHAKE}{GET}").as_bytes()).await.expect("written");
    read_head(&mut guard, HANDSHAKE).await;
    assert_eq!(read(&mut guard).await, None);
    guard.release_held();
    read_head(&mut guard, GET).await;
}

#[tokio::test]
async fn held_bytes_are_checked_and_bounded() {
    let (mut client, mut guard) = pair().await;
    client.write_all(format!("{HANDSHAKE}\0").as_bytes()).await.expect("written");
    read_head(&mut guard, HANDSHAKE).await;
    guard.release_held();
    assert_eq!(guard.refusal(), None, "the handshake may still be answered with a close");
    assert_eq!(read(&mut guard).await, Some(Vec::new()));
    assert_eq!(guard.refusal().map(|answer| answer.reason), Some(Reason::Line));

    let (mut client, mut guard) = pair().await;
    client.write_all(HANDSHAKE.as_bytes()).await.expect("written");
    read_head(&mut guard, HANDSHAKE).await;
    // What is too much stays in the kernel, for the tunnel or for the next request.
    let sent = client.try_write(&vec![b'x'; 256 << 10]).expect("room in the kernel");
    assert!(sent > 100 << 10);
    read_ahead(&mut guard, 16 << 10).await;
    for _ in 0..100 {
        read_ahead(&mut guard, 0).await;
        poll_fn(|cx| Poll::Ready(guard.poll_watch(cx))).await;
        tokio::task::yield_now().await;
    }
    assert!(guard.input.refusal().is_none() && guard.is_holding());
    let (mut stream, held) = guard.take_tunnel().expect("the socket");
    assert!((16 << 10..48 << 10).contains(&held.len()), "{}", held.len());
    let mut rest = vec![0; sent - held.len()];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut rest).await.expect("nothing is lost");
}
