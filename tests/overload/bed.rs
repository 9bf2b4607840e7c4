//! A gateway in front of an endpoint, a client that measures what others suffer, and clients without pause.

use std::cell::Cell;
use std::fmt::Debug;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::crowds::{Crowd, Sent};
use super::support::client::Client;
use super::support::gateway::{Gateway, route, service};

pub const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
/// What the endpoint answers to everything but `/endless`.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// A handshake with the key of the example in RFC 6455 §1.3, and its answer.
pub const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Between two requests of the client that measures.
const PAUSE: Duration = Duration::from_millis(5);
/// What tests on a busy machine cannot tell from nothing.
pub const NOISE: Duration = Duration::from_millis(250);
/// One test at a time: they would measure each other.
static MACHINE: Mutex<()> = Mutex::new(());

/// The first, or the second with `TIDEGATE_LONG=1`.
pub fn choose<T>(short: T, long: T) -> T {
    if std::env::var_os("TIDEGATE_LONG").is_some() { long } else { short }
}

pub struct Bed {
    gateway: Gateway,
    runtime: Runtime,
    _settings: tempfile::TempDir,
    /// The last source address that was given out.
    source: Cell<u8>,
    _machine: MutexGuard<'static, ()>,
}

impl Bed {
    /// Starts a gateway that serves both versions of HTTP, with these settings beside that.
    pub fn start(settings: &str) -> Self {
        Self::start_in(settings, None)
    }

    /// The same in the cgroup of a folder.
    pub fn start_in(settings: &str, cgroup: Option<&Path>) -> Self {
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        raise_file_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        let listeners = "listeners: {http: {address: \"127.0.0.1:0\", http2PriorKnowledge: true}}\n";
        std::fs::write(&path, format!("{listeners}{settings}")).unwrap();
        let files = [("pod.yaml", service("pod", &[port])), ("route.yaml", route("all", "a.test", "pod"))];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let args = ["--settings", path.to_str().unwrap(), "--workers", "2"];
        let gateway = match cgroup {
            Some(cgroup) => Gateway::start_in_cgroup(&files, &args, cgroup),
            None => Gateway::start_with(&files, &args),
        };
        Self { gateway, runtime, _settings: folder, source: Cell::new(1), _machine: machine }
    }

    /// Sends a crowd; returns when all of it is there. Each crowd has an address of its own.
    pub fn send(&self, kind: Crowd, count: usize, deadline: Duration) -> Sent<'_> {
        self.source.set(self.source.get() + 1);
        let source = [127, 0, 0, self.source.get()];
        Sent::send(self, kind, count, deadline, source.into())
    }

    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn http(&self) -> u16 {
        self.gateway.http
    }

    /// The value of a line of the metrics; 0 when it is not there. The admin server answers at any time.
    pub fn metric(&self, line: &str) -> u64 {
        let asked = Instant::now();
        let page = self.gateway.admin("/metrics").body;
        assert!(asked.elapsed() < Duration::from_secs(2), "the admin server took {:?}", asked.elapsed());
        let value: Option<f64> = page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        value.map_or(0, |value| value as u64)
    }

    pub fn resident_kib(&self) -> usize {
        self.gateway.resident_kib()
    }

    /// Waits until nobody is left.
    pub fn expect_only_the_victim(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let open = "tidegate_connections_open{listener=\"http\"}";
        while self.metric(open) > 0 {
            assert!(Instant::now() < deadline, "{} clients are left", self.metric(open));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a client suffers for this long.
    pub fn victim(&self, time: Duration) -> Suffered {
        self.victim_while(|| std::thread::sleep(time))
    }

    /// What a client with 200 requests a second suffers while this runs.
    pub fn victim_while(&self, run: impl FnOnce()) -> Suffered {
        let stop = Arc::new(AtomicBool::new(false));
        let victim = self.start_victim(&stop);
        run();
        stop.store(true, Ordering::Relaxed);
        victim.join().expect("every request was answered")
    }

    fn start_victim(&self, stop: &Arc<AtomicBool>) -> JoinHandle<Suffered> {
        let (port, stop) = (self.http(), Arc::clone(stop));
        std::thread::spawn(move || {
            let mut client = Client::connect(port);
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                assert_eq!(client.request(GET).expect("an answer").status, 200);
                times.push(asked.elapsed());
                std::thread::sleep(PAUSE);
            }
            Suffered(times)
        })
    }

    /// What so many clients get that ask again as soon as they are answered.
    pub fn load(&self, clients: usize, time: Duration) -> Load {
        let (done, errors) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::with_capacity(clients);
        let until = Instant::now() + time;
        let computed = self.gateway.cpu_ticks();
        for number in 0..clients {
            if number % 50 == 49 {
                // No more at once than wait in the queue of the endpoint.
                std::thread::sleep(Duration::from_millis(5));
            }
            let (port, done, errors) = (self.http(), Arc::clone(&done), Arc::clone(&errors));
            tasks.push(self.runtime.spawn(async move {
                if let Err(error) = ask_until(port, until, &done).await {
                    println!("a client without an answer: {error}");
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        std::thread::sleep(time / 2);
        let asked = Instant::now();
        self.metric("tidegate_requests_in_flight");
        let admin = asked.elapsed();
        self.runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
        let done = done.load(Ordering::Relaxed);
        let ticks = self.gateway.cpu_ticks() - computed;
        let rate = done * 1000 / u64::try_from(time.as_millis()).unwrap();
        Load {
            rate,
            micros: ticks as f64 * 10_000.0 / done.max(1) as f64,
            errors: errors.load(Ordering::Relaxed),
            admin,
        }
    }
}

/// What clients without pause got.
pub struct Load {
    /// Answers a second.
    pub rate: u64,
    /// What the gateway computed for one, in microseconds.
    pub micros: f64,
    /// Clients that were not answered.
    pub errors: u64,
    /// How long the admin server took meanwhile.
    pub admin: Duration,
}

async fn ask_until(port: u16, until: Instant, done: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    while Instant::now() < until {
        stream.write_all(GET.as_bytes()).await?;
        received.clear();
        while !received.ends_with(b"\r\n\r\nok") {
            if stream.read_buf(&mut received).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !received.starts_with(b"HTTP/1.1 200 ") {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// How long the answers to a client took.
pub struct Suffered(Vec<Duration>);

impl Suffered {
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    pub fn p99(&self) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().expect("some requests")
    }

    /// All was answered, and the slowest hundredth not much slower than in peace.
    pub fn is_as_good_as(&self, peace: &Self, among: impl Debug) {
        let (own, peace) = (self.p99(), peace.p99());
        println!("{} requests beside {among:?}: p99 {own:?}, in peace {peace:?}", self.0.len());
        assert!(own < (peace * 2).max(NOISE), "p99 {own:?} beside {among:?}, in peace {peace:?}");
    }
}

/// Answers all requests on a connection, one to `/endless` without an end, and echoes behind a handshake. Bodies are read
/// and never complete.
async fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    // The kernel would keep megabytes of each endless answer, and this machine is client and pod at once: with 4,000 of them
    // it runs out of memory for sockets, which makes buffers smaller and larger and disturbs what is measured.
    socket2::SockRef::from(&stream).set_send_buffer_size(64 << 10).ok()?;
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut received).await.ok()? == 0 {
                return None;
            }
        };
        let head: Vec<u8> = received.drain(..end).collect();
        if head.starts_with(b"GET /endless ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
            let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk).await.ok()?;
            }
        }
        if head.starts_with(b"GET /socket ") {
            stream.write_all(SWITCHED).await.ok()?;
            loop {
                if stream.read_buf(&mut received).await.ok()? == 0 {
                    return None;
                }
                stream.write_all(&std::mem::take(&mut received)).await.ok()?;
            }
        }
        if head.starts_with(b"POST ") {
            received.clear();
            while stream.read_buf(&mut received).await.ok()? > 0 {
                received.clear();
            }
            return None;
        }
        stream.write_all(OK).await.ok()?;
    }
}

fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}
