//! The bed of the wire cases in `http1.json`: loader, recording backend, raw client, judge. The protocol is described in
//! the README beside that file.
#![allow(dead_code, unused_imports)]

#[path = "http1_bed/backend.rs"]
mod backend;
#[path = "http1_bed/cases.rs"]
mod cases;
#[path = "http1_bed/judge.rs"]
mod judge;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub use backend::{Backend, Recorded, until};
use cases::find;
pub use cases::{Case, Cases, Script, Step, load};
pub use judge::judge;

/// How the client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every step at once.
    Whole,
    /// In single bytes 1 ms apart; in pieces of 64 bytes where a step is longer than 4 KiB.
    Bytes,
    /// In two to four pieces 2 ms apart, split at random.
    Pieces,
    /// Behind a plain request that is written with the first step.
    Behind,
    /// With a plain request written behind the last step.
    Ahead,
}

/// What was seen of a case.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub received: Vec<u8>,
    pub statuses: Vec<u64>,
    pub closed: bool,
    pub requests: Vec<Recorded>,
    pub tunnel: Vec<Vec<u8>>,
    pub peer: String,
}

/// What a case is put behind with [`Delivery::Behind`], or ahead of with [`Delivery::Ahead`].
const FIRST: &[u8] = b"GET /first HTTP/1.1\r\nHost: a.test\r\n\r\n";

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    closed: bool,
}

impl Client {
    fn write_pieces(&mut self, bytes: &[u8], rng: &mut fastrand::Rng) {
        let mut ends: Vec<usize> = (0..rng.usize(1..4)).map(|_| rng.usize(0..=bytes.len())).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            self.write(&bytes[start..end], false);
            std::thread::sleep(Duration::from_millis(2));
            start = end;
        }
    }

    fn write(&mut self, bytes: &[u8], piecewise: bool) {
        let piece = match bytes.len() {
            len if !piecewise => len.max(1),
            0..=4096 => 1,
            _ => 64,
        };
        for part in bytes.chunks(piece) {
            if self.stream.write_all(part).is_err() {
                self.closed = true;
                return;
            }
            if piecewise {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Reads once; whether anything came.
    fn read(&mut self, wait: Duration) -> bool {
        if wait.is_zero() {
            return false;
        }
        let _ = self.stream.set_read_timeout(Some(wait));
        let mut bytes = [0; 65536];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.closed = true,
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                return true;
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => self.closed = true,
        }
        false
    }
}

/// Runs one case. `open` says how many clients' connections the gateway has.
pub fn run(
    (gateway, open): (SocketAddr, impl Fn() -> usize),
    backend: &Backend,
    steps: &[Step],
    delivery: Delivery,
) -> Observation {
    backend.begin();
    let stream = TcpStream::connect(gateway).expect("the gateway accepts");
    stream.set_nodelay(true).expect("a socket");
    let peer = stream.local_addr().expect("connected").ip().to_canonical().to_string();
    let mut client = Client { stream, received: Vec::new(), closed: false };
    // Other places in each case, and the same in every run.
    let mut rng = fastrand::Rng::with_seed(steps.iter().map(Step::sum).sum());
    for (index, step) in steps.iter().enumerate() {
        if index > 0 {
            client.read(Duration::from_millis(250));
        }
        match step {
            Step::Bytes(bytes) if delivery == Delivery::Behind && index == 0 => {
                client.write(&[FIRST, bytes].concat(), false);
            }
            Step::Bytes(bytes) if delivery == Delivery::Ahead && index + 1 == steps.len() => {
                client.write(&[bytes, FIRST].concat(), false);
            }
            Step::Bytes(bytes) if delivery == Delivery::Pieces => client.write_pieces(bytes, &mut rng),
            Step::Bytes(bytes) => client.write(bytes, delivery == Delivery::Bytes),
            Step::HalfClose => {
                if client.stream.shutdown(Shutdown::Write).is_err() {
                    client.closed = true;
                }
            }
        }
    }
    let end = Instant::now() + Duration::from_millis(1200);
    while !client.closed {
        let left = end.saturating_duration_since(Instant::now());
        let wait = if client.received.is_empty() { left } else { left.min(Duration::from_millis(350)) };
        if !client.read(wait) {
            break;
        }
    }
    let Client { stream, received, closed } = client;
    drop(stream);
    // What the gateway has not sent to the backend by then, it never will.
    until("the gateway leaves the connection", || open() == 0);
    backend.wait_until_recorded();
    let record = backend.take();
    let mut seen = Observation {
        statuses: statuses(&received),
        received,
        closed,
        requests: record.requests,
        tunnel: record.tunnel,
        peer,
    };
    if delivery == Delivery::Behind {
        take_first(&mut seen);
    }
    seen
}

/// Takes the answered first request off, or spoils the observation when it was not answered.
fn take_first(seen: &mut Observation) {
    let answered = seen.statuses.first() == Some(&200);
    let recorded = seen.requests.first().is_some_and(|request| request.target == b"/first" && request.complete);
    if !answered || !recorded {
        seen.statuses.insert(0, 999);
        return;
    }
    seen.statuses.remove(0);
    seen.requests.remove(0);
    let next = seen.received.get(5..).and_then(|rest| find(rest, b"HTTP/1.")).map_or(seen.received.len(), |at| at + 5);
    seen.received.drain(..next);
}

fn statuses(received: &[u8]) -> Vec<u64> {
    let pattern = regex::bytes::Regex::new(r"(?-u)HTTP/1\.[01] (\d{3,4})").expect("a pattern");
    pattern
        .captures_iter(received)
        .map(|found| std::str::from_utf8(&found[1]).expect("digits").parse().expect("a number"))
        .collect()
}

/// The loopback address of a family.
pub fn loopback(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() }
}
