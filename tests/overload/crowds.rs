//! Crowds of clients that do one thing, and what becomes of them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::bed::{Bed, GET, choose};

/// What all clients of a crowd do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// Nothing.
    Silence,
    /// They send a part of what an HTTP/2 client begins with.
    Preface,
    /// They send a byte of a head now and then.
    SlowHead,
    /// They send a head as long as it may be, but for its end.
    LongHead,
    /// They send a byte of a body now and then.
    SlowBody,
    /// They ask for much and read nothing.
    SlowRead,
    /// They ask once.
    Idle,
}

impl Crowd {
    /// The lines of the metrics that count how they end.
    fn counted_as(self) -> &'static [&'static str] {
        match self {
            Self::Silence | Self::Preface => {
                &["tidegate_connections_closed_total{side=\"downstream\",reason=\"first_byte\"}"]
            }
            Self::SlowHead | Self::LongHead => &["tidegate_requests_refused_total{reason=\"head\"}"],
            Self::SlowBody => &["tidegate_requests_refused_total{reason=\"body_slow\"}"],
            // Who takes nothing takes too little as well, and both have the same deadline.
            Self::SlowRead => &[
                "tidegate_connections_closed_total{side=\"downstream\",reason=\"write_stall\"}",
                "tidegate_connections_closed_total{side=\"downstream\",reason=\"write_slow\"}",
            ],
            Self::Idle => &["tidegate_connections_closed_total{side=\"downstream\",reason=\"idle\"}"],
        }
    }

    /// How many have ended so.
    fn counted(self, bed: &Bed) -> u64 {
        self.counted_as().iter().map(|line| bed.metric(line)).sum()
    }

    /// The first line of what they get before the end; nothing for none.
    fn last_answer(self) -> &'static str {
        match self {
            Self::SlowHead | Self::LongHead | Self::SlowBody => "HTTP/1.1 408 Request Timeout\r\n",
            Self::Silence | Self::Preface | Self::SlowRead | Self::Idle => "",
        }
    }
}

/// Between two bytes of slow clients: not so many at once that the bytes themselves are the load.
fn drip() -> Duration {
    Duration::from_millis(choose(100, 1_000))
}

/// How much later than a tenth of its time a deadline may be seen to have passed, on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// What a client of a crowd saw.
#[derive(Debug)]
struct Ended {
    /// From its first byte, or its connection, to the end.
    after: Duration,
    /// What came before the end.
    answer: String,
}

/// A crowd that is there.
pub struct Sent<'a> {
    bed: &'a Bed,
    kind: Crowd,
    deadline: Duration,
    clients: Vec<JoinHandle<Ended>>,
    /// How many had ended in this way before.
    before: u64,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

impl<'a> Sent<'a> {
    pub fn send(bed: &'a Bed, kind: Crowd, count: usize, deadline: Duration, source: Ipv4Addr) -> Self {
        let before = kind.counted(bed);
        let port = bed.http();
        let mut clients = Vec::with_capacity(count);
        bed.runtime().block_on(async {
            for number in 0..count {
                let stream = connect(port, source, kind).await;
                let (ready, is_ready) = tokio::sync::oneshot::channel();
                clients.push(tokio::spawn(suffer(stream, kind, deadline, ready)));
                is_ready.await.unwrap();
                if number % 50 == 49 {
                    // A crowd, but no flood.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        Self { bed, kind, deadline, clients, before }
    }

    /// All are ended at their deadline, as they should be, and counted with their reason.
    pub fn expect_end(mut self) {
        let (kind, deadline) = (self.kind, self.deadline);
        let count = self.clients.len();
        let clients = std::mem::take(&mut self.clients);
        let ended = self.bed.runtime().block_on(async {
            let mut ended = Vec::with_capacity(count);
            for client in clients {
                ended.push(client.await.unwrap());
            }
            ended
        });
        let times = || ended.iter().map(|ended| ended.after);
        let (first, last) = (times().min().unwrap(), times().max().unwrap());
        println!("{count} of {kind:?} with {deadline:?}: ended after {first:?} to {last:?}");
        let most = deadline + deadline / 10 + SLACK;
        assert!(first + deadline / 10 >= deadline && last < most, "{kind:?}: {first:?} to {last:?}");
        for Ended { answer, .. } in &ended {
            let expected = kind.last_answer();
            assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{kind:?}: {answer:?}");
        }
        // Others may count in the same line at the same time.
        let counted = kind.counted(self.bed) - self.before;
        assert!(counted >= count as u64, "{kind:?}: {counted} of {count} are counted");
    }
}

async fn connect(port: u16, source: Ipv4Addr, kind: Crowd) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    if kind == Crowd::SlowRead {
        // What is under way in the kernel is of no interest here.
        socket.set_recv_buffer_size(4 << 10).unwrap();
    }
    socket.bind(SocketAddr::from((source, 0))).unwrap();
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.expect("let in by the kernel");
    stream.set_nodelay(true).unwrap();
    stream
}

/// Does what a client of the crowd does, to its end. Says when the time of its deadline begins.
async fn suffer(
    mut stream: TcpStream,
    kind: Crowd,
    deadline: Duration,
    ready: tokio::sync::oneshot::Sender<()>,
) -> Ended {
    match kind {
        Crowd::Silence => {}
        Crowd::Preface => send(&mut stream, b"PRI * HTTP/2").await,
        Crowd::SlowHead => send(&mut stream, b"GET / HTTP/1.1\r\nhost: a.test\r\nx-slow: ").await,
        Crowd::LongHead => {
            send(&mut stream, b"GET / HTTP/1.1\r\nhost: a.test\r\n").await;
            for line in ["a", "b"] {
                send(&mut stream, format!("{line}: {}\r\n", "x".repeat(16_000)).as_bytes()).await;
            }
        }
        Crowd::SlowBody => {
            send(&mut stream, b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100000\r\n\r\n").await;
        }
        Crowd::SlowRead => {
            send(&mut stream, b"GET /endless HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
            stream.readable().await.unwrap();
        }
        Crowd::Idle => {
            send(&mut stream, GET.as_bytes()).await;
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\nok") {
                assert!(stream.read_buf(&mut received).await.unwrap() > 0, "{received:?}");
            }
        }
    }
    let begun = Instant::now();
    let _ = ready.send(());
    let answer = match kind {
        Crowd::SlowHead | Crowd::SlowBody => {
            let (mut reading, mut writing) = stream.split();
            let dripping = async {
                loop {
                    tokio::time::sleep(drip()).await;
                    if writing.write_all(b"x").await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                answer = to_end(&mut reading) => answer,
                () = dripping => unreachable!("it goes on"),
            }
        }
        Crowd::SlowRead => {
            // The reset is seen without reading. Where the window is closed the kernel does not believe it before it has
            // asked, and it asks no more than 1,000 times a second (RFC 5961 §3.2, §7): whoever sends something learns it.
            let is_reset = async { while !stream.ready(tokio::io::Interest::ERROR).await.unwrap().is_error() {} };
            let asking = async {
                tokio::time::sleep_until((begun + deadline + SLACK / 4).into()).await;
                while stream.try_write(b"x").err().is_none_or(|error| error.kind() == ErrorKind::WouldBlock) {
                    tokio::time::sleep(SLACK / 4).await;
                }
            };
            tokio::select! {
                () = is_reset => {}
                () = asking => {}
            }
            String::new()
        }
        Crowd::Silence | Crowd::Preface | Crowd::LongHead | Crowd::Idle => to_end(&mut stream).await,
    };
    Ended { after: begun.elapsed(), answer }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("taken by the kernel");
}

/// Everything up to the end of the connection.
async fn to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut received = Vec::new();
    match stream.read_to_end(&mut received).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8(received).expect("text")
}
