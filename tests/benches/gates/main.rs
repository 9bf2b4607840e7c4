//! Bounds that need no peer: memory and the way of a file change, `cargo bench --bench gates`.
//!
//! * resident memory of `standalone` with 5,000 two-rule routes, at rest;
//! * memory of an idle keep-alive connection;
//! * memory of an idle WebSocket: an open tunnel that has passed one message each way;
//! * time from a changed file to changed traffic, with those 5,000 routes loaded.
//!
//! Exit code 1: a bound was missed. `--routes N`, `--edits N` and `--subject PATH` change the run.

#[path = "../common/mod.rs"]
mod common;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::peers;
use common::process::{self, Process};
use common::websocket;

const RESIDENT_KIB: u64 = 40 << 10;
const IDLE_CONNECTION_KIB: f64 = 24.0;
const IDLE_WEBSOCKET_KIB: f64 = 12.0;
/// 5,000 sockets of two descriptors each in the gateway, and some to spare.
const FILES: u64 = 11_000;
const CHANGE_P99: Duration = Duration::from_millis(100);

fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut subject = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
    let (mut routes, mut edits) = (5_000, 200);
    while let Some(arg) = args.next() {
        match (arg.as_str(), arg.as_str() != "--bench" && arg != "backend") {
            ("backend", _) => return common::backend::run(),
            (_, false) => {}
            (name, true) => {
                let value = args.next().ok_or_else(|| io::Error::other(format!("{name} needs a value")))?;
                let number = || value.parse().map_err(|_| io::Error::other(format!("{name} takes a number")));
                match name {
                    "--subject" => subject = PathBuf::from(&value),
                    "--routes" => routes = number()?,
                    "--edits" => edits = number()?,
                    _ => return Err(io::Error::other(format!("unknown argument {name}"))),
                }
            }
        }
    }
    let files = process::raise_file_limit();
    if files < FILES {
        return Err(io::Error::other(format!("{FILES} open files are needed, the limit is {files}: see prlimit(1)")));
    }
    let folder = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let mut backend = Process::start("backend", None, &own, &["backend".to_owned()], false)?;
    let line = backend.first_line()?;
    let ports: Vec<u16> = line.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    peers::write_routes(folder.path(), [ports[0], ports[1]], routes, false)?;
    let started = Instant::now();
    let (peer, _) = peers::tidegate(&subject, folder.path(), None)?;
    println!("ready with {routes} two-rule routes after {} ms", started.elapsed().as_millis());
    let mut met = resident(&peer.process);
    met &= file_changes(folder.path(), peer.port, edits)?;
    met &= resident(&peer.process);
    drop(peer);
    let bare = tempfile::tempdir()?;
    peers::write_routes(bare.path(), [ports[0], ports[1]], 10, true)?;
    let (peer, _) = peers::tidegate(&subject, bare.path(), None)?;
    met &= idle_connections(&peer.process, peer.port)?;
    drop(peer);
    // A fresh process: what the connections before have freed would hide what sockets take.
    let (peer, _) = peers::tidegate(&subject, bare.path(), None)?;
    met &= idle_websockets(&peer.process, peer.port)?;
    drop(peer);
    drop(backend);
    std::process::exit(i32::from(!met));
}

/// Prints one bound and whether it holds.
fn verdict(what: &str, value: String, bound: String, met: bool) -> bool {
    println!("{what}: {value} (bound {bound}): {}", if met { "met" } else { "MISSED" });
    met
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
        request(&mut stream, "idle.example.com")?;
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
    Ok(request(stream, host)?.contains("200"))
}

/// One keep-alive request for `/edited` on a host; the status line of the answer.
fn request(stream: &mut TcpStream, host: &str) -> io::Result<String> {
    stream.write_all(format!("GET /edited HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("the gateway closed the connection"));
        }
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return Ok(head.lines().next().unwrap_or_default().to_owned());
        }
    }
}
