//! Bounds that need no peer: what a request costs, memory and the way of a file change, `cargo bench --bench gates`.
//!
//! * user instructions and system calls per request, against a recorded baseline (`counts.rs`);
//! * what policies and filters add to them (`compared.rs`);
//! * what the wire guard adds to a request (`guard.rs`);
//! * resident memory of `standalone` with 5,000 two-rule routes, at rest;
//! * memory of an idle keep-alive connection;
//! * memory of an idle WebSocket: an open tunnel that has passed one message each way;
//! * time from a changed file to changed traffic, with those 5,000 routes loaded.
//!
//! Exit code 1: a bound was missed. `--only counts` measures what a busy machine hardly changes, `--only filters` of that alone
//! what policies and filters add. `--record` writes the first down as the new baseline. `--routes N`, `--edits N` and `--subject PATH` change the run.

mod baseline;
mod callgrind;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod compared;
mod counts;
mod guard;
#[allow(clippy::unwrap_used, dead_code, reason = "written for tests")]
#[path = "../../support/signing_key.rs"]
mod signing_key;
mod traffic;
mod verdict;

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use client::request;
use common::peers;
use common::process::{self, Process};
use common::websocket;
use verdict::verdict;

const RESIDENT_KIB: u64 = 40 << 10;
const IDLE_CONNECTION_KIB: f64 = 24.0;
const IDLE_WEBSOCKET_KIB: f64 = 12.0;
/// 5,000 sockets of two descriptors each in the gateway, and some to spare.
const FILES: u64 = 11_000;
const CHANGE_P99: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Counts,
    Filters,
}

struct Options {
    subject: PathBuf,
    routes: usize,
    edits: usize,
    part: Part,
    record: bool,
}

fn options() -> io::Result<Options> {
    let mut options = Options {
        subject: PathBuf::from(env!("CARGO_BIN_EXE_tidegate")),
        routes: 5_000,
        edits: 200,
        part: Part::All,
        record: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| io::Error::other(format!("{arg} needs a value")));
        let number = |text: String| text.parse().map_err(|_| io::Error::other(format!("{arg} takes a number")));
        match arg.as_str() {
            "--bench" => {}
            "--record" => options.record = true,
            "--subject" => options.subject = PathBuf::from(value()?),
            "--routes" => options.routes = number(value()?)?,
            "--edits" => options.edits = number(value()?)?,
            "--only" => match value()?.as_str() {
                "counts" => options.part = Part::Counts,
                "filters" => options.part = Part::Filters,
                other => return Err(io::Error::other(format!("--only: found {other}, expected counts or filters"))),
            },
            _ => return Err(io::Error::other(format!("unknown argument {arg}"))),
        }
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("backend") {
        return common::backend::run();
    }
    let options = options()?;
    let own = std::env::current_exe()?;
    let mut backend = Process::start("backend", None, &own, &["backend".to_owned()], false)?;
    let line = backend.first_line()?;
    let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let backends = [ports[0], ports[1]];
    let mut met = true;
    if options.part != Part::Filters {
        met &= guard::measure()?;
        met &= counts::measure(&options.subject, backends, options.record)?;
    }
    met &= compared::measure(&options.subject, backends)?;
    if options.part == Part::All {
        met &= memory_and_changes(&options, backends)?;
    }
    drop(backend);
    std::process::exit(i32::from(!met));
}

/// The bounds that are read from a running process.
fn memory_and_changes(options: &Options, backends: [u16; 2]) -> io::Result<bool> {
    let files = process::raise_file_limit();
    if files < FILES {
        return Err(io::Error::other(format!("{FILES} open files are needed, the limit is {files}: see prlimit(1)")));
    }
    let Options { subject, routes, edits, .. } = options;
    let folder = tempfile::tempdir()?;
    peers::write_routes(folder.path(), backends, *routes, false)?;
    let started = Instant::now();
    let (peer, _) = peers::tidegate(subject, folder.path(), None)?;
    println!("ready with {routes} two-rule routes after {} ms", started.elapsed().as_millis());
    let mut met = resident(&peer.process);
    met &= file_changes(folder.path(), peer.port, *edits)?;
    met &= resident(&peer.process);
    drop(peer);
    let bare = tempfile::tempdir()?;
    peers::write_routes(bare.path(), backends, 10, true)?;
    let (peer, _) = peers::tidegate(subject, bare.path(), None)?;
    met &= idle_connections(&peer.process, peer.port)?;
    drop(peer);
    // A fresh process: what the connections before have freed would hide what sockets take.
    let (peer, _) = peers::tidegate(subject, bare.path(), None)?;
    met &= idle_websockets(&peer.process, peer.port)?;
    Ok(met)
}

fn resident(process: &Process) -> bool {
    // At rest: the allocator's own clean-up runs some hundred milliseconds behind the last work.
    std::thread::sleep(Duration::from_secs(3));
    let kib = process.rss_kib();
    let value = format!("{:.1} MiB", kib as f64 / 1024.0);
    verdict("resident memory at rest", value, "40 MiB".to_owned(), kib <= RESIDENT_KIB)
}

fn idle_connections(process: &Process, port: u16) -> io::Result<bool> {
    let each = pss_kib_of_each(process, || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        request(&mut stream, "/edited", "idle.example.com")?;
        Ok(stream)
    })?;
    let value = format!("{each:.2} KiB");
    Ok(verdict("idle keep-alive connection", value, "24 KiB".to_owned(), each <= IDLE_CONNECTION_KIB))
}

/// An open WebSocket through the gateway, both its legs together.
fn idle_websockets(process: &Process, port: u16) -> io::Result<bool> {
    let message = websocket::client_frame(64);
    let each = pss_kib_of_each(process, || {
        let mut stream = websocket::open(port)?;
        websocket::ping(&mut stream, &message)?;
        Ok(stream)
    })?;
    let value = format!("{each:.2} KiB");
    Ok(verdict("idle WebSocket", value, "12 KiB".to_owned(), each <= IDLE_WEBSOCKET_KIB))
}

/// Opens connections and holds them: what each adds to the process's proportional set size from the 1,000th to the 5,000th.
fn pss_kib_of_each(process: &Process, mut open: impl FnMut() -> io::Result<TcpStream>) -> io::Result<f64> {
    let mut held = Vec::new();
    let mut measured = Vec::new();
    for count in [1_000, 5_000] {
        while held.len() < count {
            held.push(open()?);
        }
        std::thread::sleep(Duration::from_secs(4));
        measured.push(process.pss_kib());
    }
    Ok((measured[1] as f64 - measured[0] as f64) / 4_000.0)
}

/// Rewrites one file again and again, so that one host goes and another comes, and asks until the answer follows.
fn file_changes(dir: &Path, port: u16, edits: usize) -> io::Result<bool> {
    let mut times = Vec::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    for edit in 0..edits {
        let host = format!("edit-{edit}.example.com");
        let text = format!(
            "apiVersion: tidegate.dev/v1alpha1\nkind: GatewayRoute\nmetadata: {{name: edited}}\nspec:\n  hostnames: \
             [{host}]\n  rules:\n  - name: moved\n    matches: [{{path: {{type: Exact, value: /edited}}}}]\n    backendRefs: [{{name: bench, port: 80}}]\n"
        );
        let temporary = dir.join(".edited.tmp");
        std::fs::write(&temporary, text)?;
        let start = Instant::now();
        std::fs::rename(&temporary, dir.join("edited.yaml"))?;
        while !edited(&mut stream, &host)? {
            if start.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("a file change did not reach the traffic within 10 s"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed());
    }
    times.sort();
    let p50 = times[times.len() / 2];
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let value = format!("p50 {:.1} ms, p99 {:.1} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3);
    Ok(verdict("file change to traffic", value, "p99 100 ms".to_owned(), p99 <= CHANGE_P99))
}

/// Whether the edited host is routed by now: no other route has it, so the answer was 404 before.
fn edited(stream: &mut TcpStream, host: &str) -> io::Result<bool> {
    Ok(request(stream, "/edited", host)?.contains("200"))
}
