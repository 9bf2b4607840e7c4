//! A small backend in a thread: answers every request with its name, keeps connections open.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A backend on a free port, of loopback unless said otherwise; it serves until the test process ends.
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

    /// Starts one that answers none of the requests that it works on before it is [released](Gate::release).
    pub fn held(name: &'static str, gate: &Gate) -> Self {
        Self::behind("200 OK", name, Duration::ZERO, Some(gate.clone()))
    }

    /// Starts one that answers every request with 503, behind counting the request.
    pub fn sick() -> Self {
        Self::answering("503 Service Unavailable", "sick", Duration::ZERO)
    }

    /// Starts one at this address.
    pub fn start_at(name: &'static str, address: Ipv4Addr) -> Self {
        Self::serving(address, ("200 OK", name), Duration::ZERO, None)
    }

    fn answering(status: &'static str, name: &'static str, pause: Duration) -> Self {
        Self::behind(status, name, pause, None)
    }

    fn behind(status: &'static str, name: &'static str, pause: Duration, gate: Option<Gate>) -> Self {
        Self::serving(Ipv4Addr::LOCALHOST, (status, name), pause, gate)
    }

    fn serving(
        address: Ipv4Addr,
        (status, name): (&'static str, &'static str),
        pause: Duration,
        gate: Option<Gate>,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let peak = Arc::new(AtomicUsize::new(0));
        let load = Arc::new(Load { now: AtomicUsize::new(0), peak: Arc::clone(&peak) });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, load, gate) = (Arc::clone(&counter), Arc::clone(&load), gate.clone());
                let pause = move || match &gate {
                    Some(gate) => gate.wait(),
                    None => std::thread::sleep(pause),
                };
                std::thread::spawn(move || serve(stream, (status, name), pause, &counter, &load));
            }
        });
        Self { port, requests, peak }
    }
}

/// Holds answers back until it is released.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets all go on, now and later.
    pub fn release(&self) {
        *self.0.0.lock().expect("no panic while it was held") = true;
        self.0.1.notify_all();
    }

    /// Returns once it is released.
    pub fn wait(&self) {
        let is_open = self.0.0.lock().expect("no panic while it was held");
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open));
    }
}

/// Requests that are worked on now, and the most that were.
struct Load {
    now: AtomicUsize,
    peak: Arc<AtomicUsize>,
}

fn serve(stream: TcpStream, (status, name): (&str, &str), pause: impl Fn(), counter: &AtomicUsize, load: &Load) {
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
        pause();
        load.now.fetch_sub(1, Ordering::SeqCst);
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{name}", name.len());
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
