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
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || serve(stream, status, name, pause, &counter));
            }
        });
        Self { port, requests }
    }
}

fn serve(stream: TcpStream, status: &str, name: &str, pause: Duration, counter: &AtomicUsize) {
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
        std::thread::sleep(pause);
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{name}", name.len());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
