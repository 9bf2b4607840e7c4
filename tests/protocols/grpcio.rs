//! gRPC's own implementation, the Python package `grpcio`, on both sides.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use super::support::gateway::{Gateway, service};
use super::support::python::python_with;

fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(|| python_with("grpcio==1.85.3", "grpc")).as_deref()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocols/grpcio.py")
}

/// A server of the script, which ends with the value.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(python: &Path) -> Self {
        let mut command = Command::new(python);
        command.arg(script()).arg("server").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ROUTE: &str = "
apiVersion: tidegate.dev/v1alpha1
kind: GatewayRoute
metadata: {name: calls}
spec:
  hostnames: [calls.test]
  rules:
  - name: calls
    matches: [{grpc: {service: tidegate.test.Echo}}]
    backendRefs: [{name: calls, port: 80, protocol: H2C}]
  - name: short
    matches: [{grpc: {service: tidegate.test.Short}}]
    timeouts: {request: 300ms}
    backendRefs: [{name: calls, port: 80, protocol: H2C}]
  - name: gone
    matches: [{grpc: {service: tidegate.test.Gone}}]
    backendRefs: [{name: gone, port: 80, protocol: H2C}]
  - name: closed
    matches: [{grpc: {service: tidegate.test.Closed}}]
    filters: [{type: DirectResponse, directResponse: {statusCode: 403, body: closed on Sundays}}]
";

#[test]
fn grpcio_talks_to_grpcio_as_if_nothing_were_between() {
    let Some(python) = python() else { return };
    let server = Server::start(python);
    let files = [
        ("route.yaml", ROUTE),
        ("calls.yaml", &service("calls", &[server.port])),
        ("gone.yaml", &service("gone", &[])),
    ];
    let gateway = Gateway::start(&files);
    let target = format!("127.0.0.1:{}", gateway.http);
    let out = Command::new(python).arg(script()).args(["client", &target, "calls.test"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let wrong = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("all as without a gateway"), "{said}{wrong}");
    let page = gateway.admin("/metrics").body;
    let count = |code: &str| {
        let name = format!("tidegate_grpc_requests_total{{route=\"default/calls\",grpc_code=\"{code}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok()).unwrap_or_default()
    };
    for (code, least) in [
        ("OK", 8.0),
        ("FAILED_PRECONDITION", 1.0),
        // The rule's deadline. At the client's own, either side may be the first: see below.
        ("DEADLINE_EXCEEDED", 1.0),
        ("UNIMPLEMENTED", 1.0),
        ("UNAVAILABLE", 1.0),
        ("PERMISSION_DENIED", 1.0),
        ("CANCELLED", 1.0),
    ] {
        assert!(count(code) >= least, "{code}: {page}");
    }
    // A client that waits no longer than it said resets the call, and that may come before the gateway's own clock.
    assert_eq!(count("DEADLINE_EXCEEDED") + count("CANCELLED"), 3.0, "{page}");
    // Nothing was refused: neither a call nor what h2 would refuse by itself.
    assert!(!page.contains("tidegate_requests_refused_total"), "{page}");
}
