//! One measured span of load on one proxy, and the load that `wrk` and `h2load` make.
//!
//! What is read is CPU time of the proxy's threads, kernel time included, over what it served. Requests per second only
//! say who was the bottleneck.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::common::peers::Peer;
use super::common::process::{Process, core_ticks};
use super::scenario::{Client, Requests, Scenario};
use super::table::Contestant;
use super::{Bench, LOAD_CORE, PROXY_CORE};

/// What a load generator counted.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Requests, or round trips.
    pub requests: u64,
    /// Kinds of failures that `wrk` names, or tunnels that broke.
    pub errors: u64,
}

/// One measured span of load on one proxy.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub served: Served,
    pub micros_per_request: f64,
    /// User time of all CPU time, 0 to 1.
    pub user_share: f64,
    /// How busy the proxies' core was, 0 to 1.
    pub core: f64,
    /// How often the proxy went to sleep for each request, because it had nothing to do.
    pub sleeps_per_request: f64,
    /// Time that the hypervisor took from that core, 0 to 1.
    pub steal: f64,
}

/// Runs some load on a proxy and reads what that cost it.
///
/// # Errors
/// When the load fails or serves nothing.
pub fn span(process: &Process, load: impl FnOnce() -> io::Result<Served>) -> io::Result<Run> {
    let read = || io::Result::Ok((process.cpu(), process.ticks(), core_ticks(PROXY_CORE)?, process.sleeps()));
    let before = read()?;
    let served = load()?;
    let after = read()?;
    if served.requests == 0 {
        return Err(io::Error::other("the load served nothing"));
    }
    let user = (after.1.0 - before.1.0) as f64;
    let kernel = (after.1.1 - before.1.1) as f64;
    let total = (after.2.2 - before.2.2).max(1) as f64;
    Ok(Run {
        served,
        micros_per_request: (after.0 - before.0).as_secs_f64() * 1e6 / served.requests as f64,
        user_share: user / (user + kernel).max(1.0),
        core: (after.2.0 - before.2.0) as f64 / total,
        sleeps_per_request: after.3.saturating_sub(before.3) as f64 / served.requests as f64,
        steal: (after.2.1 - before.2.1) as f64 / total,
    })
}

/// Measures requests on all proxies that can serve them; true when a must was missed.
pub fn measure(scenario: &Scenario, requests: &Requests, bench: &mut Bench) -> io::Result<bool> {
    let title =
        format!("{}: {} connections, {}{}", scenario.name, requests.connections, requests.path, requests.client);
    if requests.client.streams().is_some() && bench.h2load.is_none() {
        println!("\n{title}: skipped, h2load is missing (Debian package nghttp2-client)");
        return Ok(false);
    }
    let peers = bench.proxies.iter().chain(&bench.envoy);
    let contestants = peers.filter_map(|peer| {
        let url = format!("{}{}", requests.client.base(peer)?, requests.path);
        let generator = Generator { wrk: &bench.wrk, h2load: bench.h2load.as_deref(), body: &bench.grpc_body };
        Some(Contestant {
            name: peer.name,
            must: requests.musts.of(peer.name),
            run: Box::new(move |seconds| span(&peer.process, || generator.run(requests, &url, seconds))),
        })
    });
    let contestants: Vec<_> = contestants.collect();
    let outcome = bench.compete(scenario.name, &title, &contestants)?;
    bench.report.extend(outcome.report);
    Ok(outcome.missed)
}

impl Client {
    /// Requests at once on each connection, if there can be more than one.
    fn streams(self) -> Option<usize> {
        match self {
            Self::Http2 { streams } | Self::Grpc { streams } => Some(streams),
            Self::Kept | Self::Close | Self::TlsKept | Self::TlsClose => None,
        }
    }

    /// The beginning of the URLs on a proxy; `None` when it is not there for such clients.
    fn base(self, peer: &Peer) -> Option<String> {
        match self {
            Self::Kept | Self::Close => Some(plain(peer.port)),
            Self::TlsKept | Self::TlsClose | Self::Http2 { .. } => {
                peer.tls_port.map(|port| format!("https://127.0.0.1:{port}"))
            }
            Self::Grpc { .. } => peer.grpc_port.map(plain),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => Ok(()),
            Self::Close => formatter.write_str(", connection per request"),
            Self::TlsKept => formatter.write_str(", TLS"),
            Self::TlsClose => formatter.write_str(", TLS, connection per request"),
            Self::Http2 { streams } => write!(formatter, ", HTTP/2 over TLS, {streams} streams each"),
            Self::Grpc { streams } => write!(formatter, ", gRPC without TLS, {streams} calls at once on each"),
        }
    }
}

/// The programs that make the load.
struct Generator<'a> {
    wrk: &'a Path,
    h2load: Option<&'a Path>,
    /// The message of a gRPC call, with its length in front, in a file.
    body: &'a Path,
}

impl Generator<'_> {
    fn run(&self, requests: &Requests, url: &str, seconds: u64) -> io::Result<Served> {
        let fields: &[&str] = match requests.client {
            Client::Close | Client::TlsClose => &["Connection: close"],
            _ => &[],
        };
        match (requests.client.streams(), self.h2load) {
            (Some(streams), Some(h2load)) => {
                let body = matches!(requests.client, Client::Grpc { .. }).then_some(self.body);
                run_h2load(h2load, url, requests.connections, streams, body, seconds)
            }
            _ => run_wrk(self.wrk, url, requests.connections, fields, seconds),
        }
    }
}

/// The beginning of the URLs of a port without TLS.
pub fn plain(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A closed loop of `wrk` on the load core. It checks no certificate and does not resume sessions: each TLS connection is a
/// whole handshake.
///
/// # Errors
/// When it cannot be started or finishes no request.
pub fn run_wrk(wrk: &Path, url: &str, connections: usize, fields: &[&str], seconds: u64) -> io::Result<Served> {
    let mut command = Command::new("taskset");
    command.args(["-c", &LOAD_CORE.to_string()]).arg(wrk);
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    for field in fields {
        command.args(["-H", field]);
    }
    command.arg(url);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok())
        .filter(|count| *count > 0)
        .ok_or_else(|| io::Error::other(format!("wrk finished no request:\n{text}")))?;
    let errors = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors")).count() as u64;
    Ok(Served { requests, errors })
}

/// A closed loop of `h2load` on the load core, of gRPC calls when there is a `body`.
fn run_h2load(
    h2load: &Path,
    url: &str,
    connections: usize,
    streams: usize,
    body: Option<&Path>,
    seconds: u64,
) -> io::Result<Served> {
    let mut command = Command::new("taskset");
    command.args(["-c", &LOAD_CORE.to_string()]).arg(h2load);
    command.args(["-t1", &format!("-c{connections}"), &format!("-m{streams}"), "-D", &seconds.to_string()]);
    if let Some(body) = body {
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers", "-d"]).arg(body);
    }
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // requests: 9 total, 9 started, 9 done, 8 succeeded, 1 failed, 0 errored, 0 timeout
    let line = text.lines().find_map(|line| line.strip_prefix("requests: ")).unwrap_or_default();
    let count = |word: &str| {
        line.split(", ").find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok()).unwrap_or_default()
    };
    if count("succeeded") == 0 {
        return Err(io::Error::other(format!("h2load finished no request:\n{text}")));
    }
    Ok(Served { requests: count("succeeded"), errors: count("failed") + count("errored") + count("timeout") })
}

/// Waits until something accepts on a loopback port.
///
/// # Errors
/// When nothing does for ten seconds.
pub fn wait_for(port: u16) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
