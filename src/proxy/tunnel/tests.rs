use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::sockets::{SocketInfo, Sockets};
use crate::telemetry::metrics::{Metrics, MetricsOptions};

/// Both outer ends of a tunnel that runs in a task of its own.
struct Bed {
    client: TcpStream,
    endpoint: TcpStream,
    sockets: Arc<Sockets>,
    drain: Option<oneshot::Sender<()>>,
    end: tokio::task::JoinHandle<End>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (outer, inner) = tokio::join!(TcpStream::connect(address), listener.accept());
    (outer.unwrap(), inner.unwrap().0)
}

impl Bed {
    async fn start(limits: TunnelLimits, from_client: &'static [u8], from_endpoint: &'static [u8]) -> Self {
        let (client, inner_client) = pair().await;
        let (endpoint, inner_endpoint) = pair().await;
        let sockets = Arc::new(Sockets::default());
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let info = SocketInfo { route: "a/a".into(), rule: "0".into(), pod: None, endpoint: address, client: address };
        let registration = sockets.reserve(&info.route, &info.rule, None).unwrap().open(info);
        let options = MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 1 };
        let metrics = Metrics::new(options).worker(0).unwrap();
        let (drain, drained) = oneshot::channel();
        let end = tokio::task::spawn_local(async move {
            let buffer = RefCell::new(vec![0; BUFFER].into_boxed_slice());
            let drained = async {
                // A sender that is gone never drains.
                if drained.await.is_err() {
                    std::future::pending::<()>().await;
                }
                CLOSE_GRACE
            };
            let (client, endpoint) = (inner_client, inner_endpoint);
            let (up, down) = (Bytes::from_static(from_client), Bytes::from_static(from_endpoint));
            let meter = Meter { entry: registration.entry(), metrics: &metrics };
            run(
                Ends { client: client.into(), endpoint: endpoint.into(), from_client: up, from_endpoint: down },
                meter,
                limits,
                &buffer,
                drained,
            )
            .await
        });
        Self { client, endpoint, sockets, drain: Some(drain), end }
    }
}

fn limits() -> TunnelLimits {
    TunnelLimits { close_code: 1012, mask: [1, 2, 3, 4], ..TunnelLimits::default() }
}

async fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, expected);
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends within 20 s");
    });
}

/// Runs a test whose clock stands still unless everybody waits.
fn paused<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn glued_bytes_come_first_and_bytes_pass_unchanged_both_ways() {
    local(async {
        let mut bed = Bed::start(limits(), b"up ", b"down ").await;
        bed.client.write_all(b"more").await.unwrap();
        bed.endpoint.write_all(b"again").await.unwrap();
        expect(&mut bed.endpoint, b"up more").await;
        expect(&mut bed.client, b"down again").await;
        let entry = bed.sockets.list().pop().unwrap();
        assert_eq!((entry.bytes_to_endpoint(), entry.bytes_to_client()), (7, 10));
    });
}

#[test]
fn one_side_may_finish_while_the_other_goes_on() {
    local(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        bed.client.write_all(b"last").await.unwrap();
        bed.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut bed.endpoint).await, b"last");
        bed.endpoint.write_all(b"answer").await.unwrap();
        drop(bed.endpoint);
        assert_eq!(rest(&mut bed.client).await, b"answer");
        assert_eq!(bed.end.await.unwrap(), End::Finished);
        assert!(bed.sockets.is_empty());
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    local(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        bed.client.write_all(b"x").await.unwrap();
        expect(&mut bed.endpoint, b"x").await;
        socket2::SockRef::from(&bed.endpoint).set_linger(Some(Duration::ZERO)).unwrap();
        drop(bed.endpoint);
        let error = bed.client.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(bed.end.await.unwrap(), End::Reset);
    });
}

#[test]
fn a_slow_reader_stops_the_writer_and_loses_nothing() {
    local(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        let sent: Vec<u8> = (0..32_000_000_u32).map(|number| (number / 251) as u8).collect();
        let expected = sent.clone();
        let mut endpoint = bed.endpoint;
        let writer = tokio::task::spawn_local(async move {
            endpoint.write_all(&sent).await.unwrap();
            drop(endpoint);
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!writer.is_finished(), "32 MB cannot all be under way");
        assert!(rest(&mut bed.client).await == expected);
        writer.await.unwrap();
    });
}

/// A frame of the endpoint with this payload.
fn text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81, payload.len() as u8];
    frame.extend(payload);
    frame
}

#[test]
fn drain_puts_close_frames_between_frames_and_never_inside_one() {
    local(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        let frame = text(b"hello");
        bed.endpoint.write_all(&frame[..4]).await.unwrap();
        expect(&mut bed.client, &frame[..4]).await;
        bed.drain.take().unwrap().send(()).unwrap();
        // To the endpoint no frame is open: its close comes at once, masked.
        expect(&mut bed.endpoint, &close_frame(1012, Some([1, 2, 3, 4]))).await;
        bed.endpoint.write_all(&frame[4..]).await.unwrap();
        bed.endpoint.write_all(&text(b"too late")).await.unwrap();
        let mut expected = frame[4..].to_vec();
        expected.extend(close_frame(1012, None));
        assert_eq!(rest(&mut bed.client).await, expected);
        drop(bed.client);
        drop(bed.endpoint);
        assert_eq!(bed.end.await.unwrap(), End::Closed(CloseCause::Drain));
    });
}

#[test]
fn an_operator_closes_one_socket() {
    local(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        assert!(bed.sockets.close(1));
        assert_eq!(rest(&mut bed.client).await, close_frame(1012, None));
        drop(bed.client);
        drop(bed.endpoint);
        assert_eq!(bed.end.await.unwrap(), End::Closed(CloseCause::Admin));
    });
}

#[test]
fn idle_and_lifetime_limits_end_it() {
    let short = Some(Duration::from_secs(80));
    paused(async move {
        let mut bed = Bed::start(TunnelLimits { idle: short, ..limits() }, b"", b"").await;
        let started = Instant::now();
        for _ in 0..10 {
            bed.client.write_all(b"\x81\x00").await.unwrap();
            expect(&mut bed.endpoint, b"\x81\x00").await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        assert!(started.elapsed() > Duration::from_secs(160), "bytes keep it open beyond the idle limit");
        assert_eq!(rest(&mut bed.client).await, close_frame(1012, None));
        drop(bed.client);
        drop(bed.endpoint);
        assert_eq!(bed.end.await.unwrap(), End::Closed(CloseCause::Idle));
        let bed = Bed::start(TunnelLimits { lifetime: short, ..limits() }, b"", b"").await;
        drop(bed.client);
        drop(bed.endpoint);
        assert_eq!(bed.end.await.unwrap(), End::Finished);
        let mut bed = Bed::start(TunnelLimits { lifetime: short, ..limits() }, b"", b"").await;
        assert_eq!(rest(&mut bed.client).await, close_frame(1012, None));
    });
}

#[test]
fn the_shorter_of_two_limits_holds() {
    let (short, long) = (Some(Duration::from_secs(80)), Some(Duration::from_secs(3600)));
    for (limits, cause) in [
        (TunnelLimits { idle: long, lifetime: short, ..limits() }, CloseCause::Lifetime),
        (TunnelLimits { idle: short, lifetime: long, ..limits() }, CloseCause::Idle),
    ] {
        paused(async move {
            let mut bed = Bed::start(limits, b"", b"").await;
            assert_eq!(rest(&mut bed.client).await, close_frame(1012, None));
            drop((bed.client, bed.endpoint));
            assert_eq!(bed.end.await.unwrap(), End::Closed(cause));
        });
    }
}

/// Writes until the kernel and the tunnel are full, so that the tunnel waits for room at the other end.
async fn fill(stream: &mut TcpStream) {
    while tokio::time::timeout(Duration::from_millis(50), stream.write_all(&[0; 1 << 16])).await.is_ok() {}
}

#[test]
fn what_an_end_said_before_it_went_arrives() {
    let said = b"\x88\x02\x03\xe8";
    local(async {
        for from_client in [false, true] {
            let bed = Bed::start(limits(), b"", b"").await;
            let (gone, mut other) = if from_client { (bed.client, bed.endpoint) } else { (bed.endpoint, bed.client) };
            fill(&mut other).await;
            // In one go, so that the tunnel learns of the reset when it writes.
            gone.try_write(said).unwrap();
            socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
            drop(gone);
            expect(&mut other, said).await;
            let error = other.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(bed.end.await.unwrap(), End::Reset);
            // With FIN, and a reset only as the answer to what comes after it.
            let bed = Bed::start(limits(), b"", b"").await;
            let (mut gone, mut other) =
                if from_client { (bed.client, bed.endpoint) } else { (bed.endpoint, bed.client) };
            other.write_all(b"x").await.unwrap();
            expect(&mut gone, b"x").await;
            gone.try_write(said).unwrap();
            drop(gone);
            other.try_write(b"too late").unwrap();
            assert_eq!(rest(&mut other).await, said);
        }
    });
}

#[test]
fn a_half_closed_socket_is_ended_gently_too() {
    paused(async {
        let mut bed = Bed::start(limits(), b"", b"").await;
        bed.client.shutdown().await.unwrap();
        assert_eq!(rest(&mut bed.endpoint).await, b"");
        let frame = text(b"hello");
        bed.endpoint.write_all(&frame[..4]).await.unwrap();
        expect(&mut bed.client, &frame[..4]).await;
        bed.drain.take().unwrap().send(()).unwrap();
        // Longer than the last bytes of a broken end may take: this one is not broken.
        tokio::time::sleep(LAST_BYTES * 2).await;
        bed.endpoint.write_all(&frame[4..]).await.unwrap();
        let mut expected = frame[4..].to_vec();
        expected.extend(close_frame(1012, None));
        assert_eq!(rest(&mut bed.client).await, expected);
        drop(bed.endpoint);
        assert_eq!(bed.end.await.unwrap(), End::Closed(CloseCause::Drain));
    });
}

/// Ends as TLS does that is cut off.
struct CutOff;

impl AsyncRead for CutOff {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
    }
}

#[test]
fn tls_that_ends_without_a_word_is_an_end_where_frames_tell_what_is_missing() {
    let buffer = RefCell::new(vec![0; BUFFER].into_boxed_slice());
    for (raw, is_end) in [(false, true), (true, false)] {
        let mut direction = Direction::glued(Bytes::new(), raw);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let filled = direction.fill(&mut cx, &mut CutOff, &mut tokio::io::sink(), &buffer, &mut |_| {});
        assert_eq!((matches!(filled, Poll::Ready(Ok(()))), direction.ended), (is_end, is_end), "raw: {raw}");
    }
}
