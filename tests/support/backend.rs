//! A small backend in a thread: answers every request with its name, keeps connections open.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A backend on a free loopback port; it serves until the test process ends.
pub struct Backend {
    /// Its port.
    pub port: u16,
    /// Requests that came so far.
    pub requests: Arc<AtomicUsize>,
    /// The most that it worked on at the same time.
    pub peak: Arc<AtomicUsize>,
}

impl Backend {
    /// Starts one whose answers have `name` as body.
    pub fn start(name: &'static str) -> Self {
        Self::slow(name, Duration::ZERO)
    }

    /// Starts one that takes this long for an answer, behind counting the request.
    pub fn slow(name: &'static str, pause: Duration) -> Self {
        Self::answering("200 OK", name, pause)
    }

    /// Starts one that answers every request with 503, behind counting the request.
    pub fn sick() -> Self {
        Self::answering("503 Service Unavailable", "sick", Duration::ZERO)
    }

    fn answering(status: &'static str, name: &'static str, pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let peak = Arc::new(AtomicUsize::new(0));
        let load = Arc::new(Load { now: AtomicUsize::new(0), peak: Arc::clone(&peak) });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, load) = (Arc::clone(&counter), Arc::clone(&load));
                std::thread::spawn(move || serve(stream, (status, name), pause, &counter, &load));
            }
        });
        Self { port, requests, peak }
    }
}

/// Requests that are worked on now, and the most that were.
struct Load {
    now: AtomicUsize,
    peak: Arc<AtomicUsize>,
}

fn serve(stream: TcpStream, (status, name): (&str, &str), pause: Duration, counter: &AtomicUsize, load: &Load) {
    let _ = stream.set_nodelay(true);
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut lines = 0;
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => lines += 1,
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == "\r\n" && lines > 1 {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        counter.fetch_add(1, Ordering::Relaxed);
        let now = load.now.fetch_add(1, Ordering::SeqCst) + 1;
        load.peak.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(pause);
        load.now.fetch_sub(1, Ordering::SeqCst);
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{name}", name.len());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
