//! What the tests of connections and of the input cannot reach: bytes held behind a handshake on a real socket.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::reason::Reason;
use crate::stream::CountedSocket;

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

/// The same over TLS, whose client has a socket with little room.
async fn tls_pair() -> (TcpStream, GuardedSocket) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("made");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8 << 10).expect("an option");
    let (connected, accepted) = tokio::join!(socket.connect(listener.local_addr().expect("bound")), listener.accept());
    let stream = accepted.expect("a connection").0;
    socket2::SockRef::from(&stream).set_send_buffer_size(8 << 10).expect("an option");
    let name = ServerName::try_from("a.test").expect("a name");
    let (client, stream) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, connected.expect("connected")),
        TlsAcceptor::from(Arc::new(server)).accept(CountedSocket::from(stream)),
    );
    let settings = GuardSettings::new(&Limits::default(), &Forwarding::default(), true);
    let stream = Stream::Tls(Box::new(stream.expect("a handshake")));
    let guard = GuardedSocket::new(stream, Rc::new(settings), Rc::default(), Rc::default());
    (client.expect("a handshake").into_inner().0, guard)
}

/// TLS holds tens of kilobytes that the socket does not take. A client that takes a part of them is not one that takes nothing.
#[tokio::test]
async fn a_client_moves_when_it_takes_a_part_of_what_tls_holds() {
    let (mut client, mut guard) = tls_pair().await;
    let bytes = vec![b'x'; 64 << 10];
    while poll_fn(|cx| Poll::Ready(guard.poll_write(cx, &bytes))).await.is_ready() {}
    let mut stalled = guard.write_clock.waiting_since().expect("the client takes nothing");
    for _ in 0..3 {
        let flushed = poll_fn(|cx| Poll::Ready(guard.poll_flush(cx))).await;
        assert!(flushed.is_pending() && guard.write_clock.waiting_since() == Some(stalled), "nothing was taken");
        client.read_exact(&mut [0; 12 << 10]).await.expect("what the socket holds");
        let moved = poll_fn(|cx| match guard.poll_flush(cx) {
            Poll::Ready(_) => panic!("TLS held more than that"),
            Poll::Pending => match guard.write_clock.waiting_since() {
                Some(since) if since > stalled => Poll::Ready(since),
                _ => Poll::Pending,
            },
        });
        stalled = tokio::time::timeout(Duration::from_secs(10), moved).await.expect("the client moves");
    }
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
