//! The load of tunnels: one thread that opens them, prints `ready`, waits for a line and then plays ping-pong.
//!
//! Two ways to pace: a closed loop, where each tunnel sends its next message when the echo is there (for CPU per round
//! trip), or an open one, where messages leave at fixed times and round trips count from the *intended* time, so that a
//! stalled proxy cannot hide what it delays (coordinated omission). Messages are valid masked frames; each echo is compared
//! with what was sent, so a proxy that changes bytes is an error and not a fast proxy.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::common::websocket;

/// One read takes the largest message.
const BUFFER_BYTES: usize = 64 << 10;

/// How long an open loop waits for the last echoes.
const LAST_ECHOES: Duration = Duration::from_secs(2);

/// From here on an open loop looks at the clock instead of sleeping: timers of `epoll` are whole milliseconds, and late.
const WATCHED: Duration = Duration::from_millis(2);

/// What to do, passed to the process as its arguments.
pub struct Plan {
    pub port: u16,
    pub tunnels: usize,
    /// Size of a message on the wire, with its frame header.
    pub message_bytes: usize,
    pub seconds: u64,
    /// Of all tunnels together; 0: a closed loop.
    pub messages_per_second: u32,
}

/// What came of it, passed back as one line of JSON.
#[derive(Default, Serialize, Deserialize)]
pub struct Counted {
    pub round_trips: u64,
    /// Tunnels that broke or changed bytes, and messages of an open loop that never came back.
    pub errors: u64,
    /// Each round trip of an open loop; empty for a closed one.
    pub round_trip_nanos: Vec<u64>,
}

impl Plan {
    /// Arguments for [`run`].
    pub fn to_args(&self) -> [String; 5] {
        [
            self.port.to_string(),
            self.tunnels.to_string(),
            self.message_bytes.to_string(),
            self.seconds.to_string(),
            self.messages_per_second.to_string(),
        ]
    }

    fn parse(args: &[String]) -> Option<Self> {
        let [port, tunnels, message_bytes, seconds, messages_per_second] = args else { return None };
        Some(Self {
            port: port.parse().ok()?,
            tunnels: tunnels.parse().ok()?,
            message_bytes: message_bytes.parse().ok()?,
            seconds: seconds.parse().ok()?,
            messages_per_second: messages_per_second.parse().ok()?,
        })
    }
}

/// One tunnel. Messages all look the same, so what is under way is told by counts.
struct Tunnel {
    stream: TcpStream,
    /// Bytes to write; the last of them ends a message.
    unsent: usize,
    /// Bytes of the current echo that are here.
    echoed: usize,
    /// When each message under way was to leave.
    due: VecDeque<Instant>,
}

/// A message that came back.
struct Echo {
    tunnel: usize,
    /// When it was to leave.
    due: Instant,
}

struct Generator {
    poll: Poll,
    events: Events,
    tunnels: Vec<Option<Tunnel>>,
    message: Vec<u8>,
    buffer: Vec<u8>,
    counted: Counted,
}

/// Runs as the generator's process.
///
/// # Errors
/// When its arguments are wrong, or a tunnel cannot be opened.
pub fn run(args: &[String]) -> io::Result<()> {
    let plan = Plan::parse(args).ok_or_else(|| io::Error::other("tunnels PORT TUNNELS BYTES SECONDS PER_SECOND"))?;
    let mut generator = Generator::open(&plan)?;
    println!("ready");
    if io::stdin().read_line(&mut String::new())? == 0 {
        return Ok(());
    }
    let length = Duration::from_secs(plan.seconds);
    match Duration::from_secs(1).checked_div(plan.messages_per_second) {
        None => generator.closed_loop(length)?,
        Some(interval) => generator.open_loop(length, interval)?,
    }
    println!("{}", serde_json::to_string(&generator.counted)?);
    // The tunnels stay open until the other side has read its clocks and closes the pipe, or ends this process.
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

impl Generator {
    /// Opens all tunnels and sends one message through each.
    fn open(plan: &Plan) -> io::Result<Self> {
        let poll = Poll::new()?;
        let message = websocket::client_frame(plan.message_bytes);
        let mut tunnels = Vec::with_capacity(plan.tunnels);
        for index in 0..plan.tunnels {
            let mut stream = websocket::open(plan.port)?;
            websocket::ping(&mut stream, &message)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
            tunnels.push(Some(Tunnel { stream, unsent: 0, echoed: 0, due: VecDeque::new() }));
        }
        let events = Events::with_capacity(plan.tunnels.max(1));
        Ok(Self { poll, events, tunnels, message, buffer: vec![0; BUFFER_BYTES], counted: Counted::default() })
    }

    fn closed_loop(&mut self, length: Duration) -> io::Result<()> {
        let end = Instant::now() + length;
        for index in 0..self.tunnels.len() {
            self.send(index, Instant::now());
        }
        while self.tunnels.iter().any(Option::is_some) {
            let now = Instant::now();
            if now >= end {
                break;
            }
            for echo in self.turn(end - now)? {
                self.send(echo.tunnel, now);
            }
        }
        Ok(())
    }

    fn open_loop(&mut self, length: Duration, interval: Duration) -> io::Result<()> {
        let mut due = Instant::now() + interval;
        let end = due + length;
        for index in (0..self.tunnels.len()).cycle() {
            if due >= end || self.tunnels.iter().all(Option::is_none) {
                break;
            }
            while let Some(left) = due.checked_duration_since(Instant::now()) {
                self.timed_turn(left.saturating_sub(WATCHED))?;
                if left <= WATCHED {
                    // The backend shares this core.
                    std::thread::yield_now();
                }
            }
            self.send(index, due);
            due += interval;
        }
        let last = Instant::now() + LAST_ECHOES;
        let under_way =
            |tunnels: &[Option<Tunnel>]| tunnels.iter().flatten().map(|tunnel| tunnel.due.len() as u64).sum::<u64>();
        while under_way(&self.tunnels) > 0
            && let Some(left) = last.checked_duration_since(Instant::now())
        {
            self.timed_turn(left)?;
        }
        self.counted.errors += under_way(&self.tunnels);
        Ok(())
    }

    /// A turn whose echoes are entered with their times.
    fn timed_turn(&mut self, timeout: Duration) -> io::Result<()> {
        for echo in self.turn(timeout)? {
            self.counted.round_trip_nanos.push(echo.due.elapsed().as_nanos() as u64);
        }
        Ok(())
    }

    /// Queues one message that was to leave at `due`, and writes what can be written.
    fn send(&mut self, index: usize, due: Instant) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        tunnel.unsent += self.message.len();
        tunnel.due.push_back(due);
        if tunnel.write(&self.message).is_err() {
            self.lose(index);
        }
    }

    fn lose(&mut self, index: usize) {
        self.tunnels[index] = None;
        self.counted.errors += 1;
    }

    /// Waits for events, at most so long; the echoes that are complete now.
    fn turn(&mut self, timeout: Duration) -> io::Result<Vec<Echo>> {
        // Whole milliseconds, rounded down: later than asked would be late.
        let timeout = Duration::from_millis(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            other => other?,
        }
        let (mut echoes, mut lost) = (Vec::new(), Vec::new());
        for event in &self.events {
            let index = event.token().0;
            let Some(tunnel) = self.tunnels.get_mut(index).and_then(Option::as_mut) else { continue };
            let echo = |due| echoes.push(Echo { tunnel: index, due });
            if tunnel.turn(event, &self.message, &mut self.buffer, echo).is_err() {
                lost.push(index);
            }
        }
        self.counted.round_trips += echoes.len() as u64;
        for index in lost {
            self.lose(index);
        }
        Ok(echoes)
    }
}

impl Tunnel {
    /// Writes and reads what it can; calls `echo` for each complete one, with the time its message was due.
    fn turn(
        &mut self,
        event: &Event,
        message: &[u8],
        buffer: &mut [u8],
        mut echo: impl FnMut(Instant),
    ) -> io::Result<()> {
        if event.is_writable() && self.unsent > 0 {
            self.write(message)?;
        }
        while event.is_readable() {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            self.take(&buffer[..count], message, &mut echo)?;
            // A short read has emptied the socket, but for an end that came along.
            if count < buffer.len() && !event.is_read_closed() {
                break;
            }
        }
        Ok(())
    }

    /// Compares what came with what was sent.
    fn take(&mut self, mut bytes: &[u8], message: &[u8], echo: &mut impl FnMut(Instant)) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = bytes.len().min(message.len() - self.echoed);
            let (now, rest) = bytes.split_at(count);
            if now != &message[self.echoed..self.echoed + count] {
                return Err(io::ErrorKind::InvalidData.into());
            }
            bytes = rest;
            self.echoed += count;
            if self.echoed == message.len() {
                self.echoed = 0;
                echo(self.due.pop_front().ok_or(io::ErrorKind::InvalidData)?);
            }
        }
        Ok(())
    }

    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        while self.unsent > 0 {
            // Where in the message the unsent bytes begin.
            let at = (message.len() - self.unsent % message.len()) % message.len();
            match self.stream.write(&message[at..]) {
                Ok(count) => self.unsent -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
