//! The Python package `websockets` on both sides, with permessage-deflate and sub-protocols.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use super::bed::{Raw, SOON, gateway};
use super::support::python::python_with;

/// The interpreter of a virtual environment that has the package.
fn python() -> Option<PathBuf> {
    // Tests that run side by side make it once.
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(|| python_with("websockets==15.0.1", "websockets.asyncio.server")).clone()
}

/// A server of `peer.py` that ends with the value.
pub struct Server {
    pub child: Child,
    pub port: u16,
}

impl Server {
    /// Starts it with these arguments; `None` where there is no interpreter for it.
    pub fn start(args: &[&str]) -> Option<Self> {
        let mut command = Command::new(python()?);
        command.arg(script()).args(args).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Self { child, port: line.trim().parse().unwrap() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/websocket/peer.py")
}

#[test]
fn python_talks_to_python_as_if_nothing_were_between() {
    let (Some(python), Some(server)) = (python(), Server::start(&["server"])) else { return };
    let port = server.port;
    let gateway = gateway(&[port], "", &[]);
    for port in [port, gateway.http] {
        let out = Command::new(&python).arg(script()).args(["client", &port.to_string()]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && said.contains("all the same"), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_killed_backend_is_seen_within_a_second() {
    let Some(mut server) = Server::start(&["frames", "1000"]) else { return };
    let gateway = gateway(&[server.port], "", &[]);
    let open = || {
        let mut client = Raw::handshake(gateway.http, "", b"");
        assert!(client.head().starts_with("HTTP/1.1 101 "));
        // Masked with zeros.
        client.send(b"\x81\x82\0\0\0\0hi");
        client.expect(b"\x81\x02hi");
        client
    };
    // One is idle, one within a frame.
    let mut clients = [open(), open()];
    clients[1].send(b"\x81\x82\0\0\0\0h");
    let began = Instant::now();
    server.child.kill().unwrap();
    for client in &mut clients {
        // FIN, or RST where bytes were unread.
        let end = client.read(&mut [0; 8]);
        let reset = end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(matches!(end, Ok(0)) || reset, "{end:?} after {:?}", began.elapsed());
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}
