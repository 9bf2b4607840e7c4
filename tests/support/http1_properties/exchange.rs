//! One exchange: a stream of bytes on one connection, the answers to it, and what reached the backend.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::http1_bed::{Backend, Recorded, until};
use crate::http1_gateway::Gateway;
use crate::http1_reference::{read_strictly, understand};

/// What came of an input.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The statuses of the answers, without `100`.
    pub statuses: Vec<u64>,
    /// The gateway closed the connection.
    pub closed: bool,
    /// What the backend got.
    pub requests: Vec<Recorded>,
}

impl Outcome {
    /// The requests that are complete.
    pub fn complete(&self) -> impl Iterator<Item = &Recorded> {
        self.requests.iter().filter(|request| request.complete)
    }
}

/// Sends a stream to the first of the gateways, which lie one behind the other, and reads the answers to all requests that
/// are complete. Where the stream is refused, or an answer says so, the gateway's close is waited for.
pub fn exchange(gateways: &[&Gateway], backend: &Backend, bytes: &[u8]) -> Outcome {
    let read = read_strictly(bytes);
    let last = read.requests.iter().position(|request| request.close && request.complete);
    let due = match last {
        Some(last) => last + 1,
        None => read.requests.iter().filter(|request| request.complete).count(),
    };
    // The scanners refuse what can become nothing valid; the strict parser waits for the end of the head.
    let closes = last.is_some() || read.wrong || understand(&[bytes]).refused;
    backend.begin();
    let mut client = TcpStream::connect(gateways[0].address()).expect("the gateway accepts");
    client.set_nodelay(true).expect("a socket");
    // A refusal may come while the rest is written.
    let written = client.write_all(bytes);
    let (mut received, mut closed) = (Vec::new(), false);
    let (end, mut buffer) = (Instant::now() + Duration::from_secs(10), [0; 16 << 10]);
    let mut seen = answers(&received);
    while !closed && (closes || seen.len() < due || seen.iter().any(|answer| answer.closes)) {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{seen:?}, no close and no further answer to {}", bytes.escape_ascii());
        client.set_read_timeout(Some(left)).expect("a socket");
        match client.read(&mut buffer) {
            Ok(0) => closed = true,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => closed = true,
        }
        seen = answers(&received);
    }
    drop((client, written));
    for gateway in gateways.iter().take(1) {
        until("the gateway leaves the connection", || gateway.connections() == 0);
    }
    backend.wait_until_recorded();
    if !closes {
        // Whether a request that is not complete was answered already depends on when this was asked.
        seen.truncate(due);
    }
    let statuses: Vec<u64> = seen.iter().map(|answer| answer.status).collect();
    let closed = closed && (closes || seen.len() < due || seen.iter().any(|answer| answer.closes));
    Outcome { statuses, closed, requests: backend.take().requests }
}

/// A final answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: u64,
    /// It says that the connection is closed behind it.
    pub closes: bool,
}

/// The answers in what was received that have come as a whole; interim ones do not count.
pub fn answers(mut received: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|digits| digits.parse().ok()).unwrap_or(999);
        received = &received[end + 4..];
        if status == 100 {
            continue;
        }
        let length = head.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let closes = head.contains("\r\nconnection: close");
        // Nothing but the next answer, or nothing at all, stands behind the head of an answer to HEAD.
        if length <= received.len() && !received.starts_with(b"HTTP/1.") {
            received = &received[length..];
        } else if !received.is_empty() && !received.starts_with(b"HTTP/1.") {
            break;
        }
        answers.push(Answer { status, closes });
    }
    answers
}
