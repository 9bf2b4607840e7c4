//! The backend of the benchmarks: one thread, two ports, answers made before the first request.
//!
//! `GET /SIZE` answers with SIZE bytes (`/0`, `/1k`, `/64k`, `/1m`; anything else 1 KiB), `GET /text` with 64 KiB that are as
//! easy to compress as text is, `GET /shared` with 1 KiB that several requests may share. Request bodies are skipped.
//! `GET /ws` switches to WebSocket and sends every byte back as it came: frame boundaries stay, only that the echo of a
//! client's frame is masked, which a proxy has no reason to mind.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::websocket;

/// Size of the thread's read buffer: a tunnel's largest message in one read.
const BUFFER_BYTES: usize = 64 << 10;

/// One client connection.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    skip: usize,
    close: bool,
    /// It has switched: all that comes goes back.
    echo: bool,
}

/// Listens on two free loopback ports, prints them as `PORT PORT` and serves until the process is ended.
///
/// # Errors
/// See [`run_at`].
pub fn run() -> io::Result<()> {
    run_at(Ipv4Addr::LOCALHOST.into())
}

/// The same at another address; the unspecified one is every address of this network namespace.
///
/// # Errors
/// When it cannot listen or poll.
pub fn run_at(ip: IpAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let any = SocketAddr::new(ip, 0);
    let mut listeners = [TcpListener::bind(any)?, TcpListener::bind(any)?];
    for (index, listener) in listeners.iter_mut().enumerate() {
        poll.registry().register(listener, Token(index), Interest::READABLE)?;
    }
    println!("{} {}", listeners[0].local_addr()?.port(), listeners[1].local_addr()?.port());
    io::stdout().flush()?;
    let mut answers: Vec<(&[u8], Vec<u8>)> =
        [(&b"/0"[..], 0), (b"/1k", 1 << 10), (b"/64k", 64 << 10), (b"/1m", 1 << 20)]
            .into_iter()
            .map(|(path, size)| (path, answer("no-store", &vec![b'x'; size])))
            .collect();
    answers.push((b"/text", answer("no-store", &text(64 << 10))));
    answers.push((b"/shared", answer("no-cache", &vec![b'x'; 1 << 10])));
    let mut connections: HashMap<Token, Connection> = HashMap::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut next = listeners.len();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if let Some(listener) = listeners.get(event.token().0) {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let token = Token(next);
                    next += 1;
                    poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
                    connections.insert(token, Connection::new(stream));
                }
            } else if let Some(connection) = connections.get_mut(&event.token()) {
                let open = connection.turn(event.is_readable(), &answers, &mut buffer);
                if !open {
                    connections.remove(&event.token());
                }
            }
        }
    }
}

fn answer(cache_control: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
         Cache-Control: {cache_control}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Words of which some are frequent and most are not, as in text. The same in every run.
fn text(size: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(15);
    let words: Vec<String> = (0..2_000).map(|_| (0..rng.usize(2..10)).map(|_| rng.lowercase()).collect()).collect();
    let mut text = Vec::with_capacity(size + 16);
    while text.len() < size {
        // The smallest of three draws: a few words make up most of it.
        let word = (0..3).map(|_| rng.usize(..words.len())).min().unwrap_or_default();
        text.extend_from_slice(words[word].as_bytes());
        text.push(if rng.u8(..12) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(size);
    text
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let (input, output) = (Vec::new(), Vec::new());
        Self { stream, input, output, written: 0, skip: 0, close: false, echo: false }
    }

    /// Reads, answers, writes; false when the connection is over.
    fn turn(&mut self, readable: bool, answers: &[(&[u8], Vec<u8>)], buffer: &mut [u8]) -> bool {
        if !self.echo {
            if readable && !self.receive(buffer) {
                return false;
            }
            self.parse(answers);
        }
        loop {
            match self.flush() {
                Ok(true) => {}
                // The rest goes when there is room; until then a tunnel is not read either.
                Ok(false) => return true,
                Err(_) => return false,
            }
            if !self.echo {
                return !self.close;
            }
            match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    let bytes = &buffer[..count];
                    let written = match self.stream.write(bytes) {
                        Ok(written) => written,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        Err(_) => return false,
                    };
                    self.output.extend_from_slice(&bytes[written..]);
                    if self.output.is_empty() && count < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// Writes what there is to write; whether all of it went.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads what is there; false at its end.
    fn receive(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    if count < buffer.len() {
                        return true;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    fn parse(&mut self, answers: &[(&[u8], Vec<u8>)]) {
        let mut at = 0;
        loop {
            let dropped = self.skip.min(self.input.len() - at);
            at += dropped;
            self.skip -= dropped;
            let Some(end) = memchr::memmem::find(&self.input[at..], b"\r\n\r\n") else { break };
            let head = &self.input[at..at + end + 2];
            at += end + 4;
            let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            if path == b"/ws"
                && let Some(answer) = websocket::switching(head)
            {
                self.output.extend(answer);
                self.output.extend_from_slice(&self.input[at..]);
                self.input = Vec::new();
                self.echo = true;
                return;
            }
            let default = &answers[1].1;
            let bytes = answers.iter().find(|(name, _)| *name == path).map_or(default, |(_, bytes)| bytes);
            self.output.extend_from_slice(bytes);
            let lower = head.to_ascii_lowercase();
            if let Some(found) = memchr::memmem::find(&lower, b"\r\ncontent-length:") {
                let value = &lower[found + 17..];
                let digits: Vec<u8> =
                    value.iter().copied().skip_while(|b| *b == b' ').take_while(u8::is_ascii_digit).collect();
                self.skip = String::from_utf8_lossy(&digits).parse().unwrap_or(0);
            }
            self.close |= memchr::memmem::find(&lower, b"\r\nconnection: close").is_some();
        }
        self.input.drain(..at);
    }
}
