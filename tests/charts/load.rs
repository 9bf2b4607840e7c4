//! Requests, and constant load on an address: clients that come anew for each request, and clients that keep their connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What one request may take before it counts as lost.
const LIMIT: Duration = Duration::from_secs(10);

/// The pause of each client between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks for `/` of a host.
#[derive(Clone, Debug)]
pub struct Request {
    pub address: SocketAddr,
    pub host: String,
}

/// An answer that was read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    /// The server ends the connection after it.
    closes: bool,
}

impl Request {
    /// Asks once, with a connection of its own.
    pub fn send(&self) -> io::Result<Answer> {
        self.send_to("/")
    }

    /// Asks once for a path, with a connection of its own.
    pub fn send_to(&self, path: &str) -> io::Result<Answer> {
        self.exchange(&mut self.connect()?, path, "close")
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(BufReader::new(stream))
    }

    fn exchange(&self, stream: &mut BufReader<TcpStream>, path: &str, connection: &str) -> io::Result<Answer> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: {connection}\r\n\r\n", self.host);
        stream.get_mut().write_all(head.as_bytes())?;
        let broken = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(format!("status line {line:?}")))?;
        let (mut length, mut closes) = (None, false);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().ok(),
                Some(("connection", "close")) => closes = true,
                Some(_) => {}
                None if line.is_empty() => break,
                None => return Err(broken(format!("field line {line:?}"))),
            }
        }
        let mut body = vec![0; length.ok_or_else(|| broken("no content-length".to_owned()))?];
        stream.read_exact(&mut body)?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned(), closes })
    }
}

/// Load that goes on until it is asked for its result.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    /// Starts clients of both kinds for each request.
    pub fn start(requests: &[Request]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let failures = Arc::default();
        let client = |request: &Request, keeps: bool| {
            let (request, stop, failures) = (request.clone(), Arc::clone(&stop), Arc::clone(&failures));
            std::thread::spawn(move || run(&request, keeps, &stop, &failures))
        };
        let clients =
            requests.iter().flat_map(|request| [client(request, true), client(request, false), client(request, false)]);
        let clients = clients.collect();
        Self { stop, clients, failures }
    }

    /// Ends the load; the number of answers, and what went wrong, with the time since the start.
    pub fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.clients.into_iter().map(|client| client.join().expect("no panic in a client")).sum();
        (answered, std::mem::take(&mut self.failures.lock().expect("no panic while it was held")))
    }
}

fn run(request: &Request, keeps: bool, stop: &AtomicBool, failures: &Mutex<Vec<String>>) -> usize {
    let began = Instant::now();
    let mut kept = None;
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let is_new = kept.is_none();
        let exchanged = kept.take().map_or_else(|| request.connect(), Ok).and_then(|mut stream| {
            let answer = request.exchange(&mut stream, "/", if keeps { "keep-alive" } else { "close" })?;
            if keeps && !answer.closes {
                kept = Some(stream);
            }
            Ok(answer)
        });
        match exchanged {
            Ok(answer) if answer.status == 200 => answered += 1,
            other => {
                let what =
                    format!("{} after {:?} (new connection: {is_new}): {other:?}", request.host, began.elapsed());
                failures.lock().expect("no panic while it was held").push(what);
            }
        }
        std::thread::sleep(PAUSE);
    }
    answered
}
