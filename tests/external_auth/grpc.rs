//! A service that is asked over gRPC, with the messages that Envoy's own definitions make.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::support::client::{Answer, Client};
use super::support::python::python_with;
use super::support::witness::Server;
use super::{OK, refusing, start};

fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(|| python_with("xds-protos==1.85.0", "envoy.service.auth.v3.external_auth_pb2_grpc")).as_deref()
}

/// The service of the script, which ends with the value.
struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(python: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/external_auth/service.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The filter that asks over gRPC, with these settings.
fn asking(settings: &str) -> String {
    format!(
        "    - {{type: ExternalAuth, externalAuth: {{protocol: GRPC, backendRef: {{name: auth, port: 80}}, {settings}}}}}\n"
    )
}

fn ask(client: &mut Client, case: &str, target: &str, fields: &str) -> Answer {
    client.request(&format!("GET {target} HTTP/1.1\r\nhost: a.test\r\nx-case: {case}\r\n{fields}\r\n")).unwrap()
}

#[test]
fn what_the_service_says_decides() {
    let Some(python) = python() else { return };
    let (pod, service) = (Server::saying(OK), Service::start(python));
    let table = [
        ("ok", 200, None),
        ("nothing said", 200, None),
        ("denied", 403, Some("ext_auth_denied")),
        ("denied without a code", 403, Some("ext_auth_denied")),
        ("denied with an ok", 403, Some("ext_auth_denied")),
        ("redirect", 302, Some("ext_auth_denied")),
        ("long", 403, Some("ext_auth_denied")),
        ("abort", 503, Some("ext_auth")),
        ("sleep", 503, Some("ext_auth")),
        ("broken field", 503, Some("ext_auth")),
        ("error", 503, Some("ext_auth")),
    ];
    for fail_open in [false, true] {
        let gateway = start(pod.port, &[service.port], &asking(&format!("timeout: 2s, failOpen: {fail_open}")));
        let mut client = Client::connect(gateway.http);
        for (case, status, reason) in table {
            let expected = if fail_open && status == 503 { (200, None) } else { (status, reason) };
            let answer = ask(&mut client, case, "/", "");
            assert_eq!((answer.status, answer.field("x-tidegate-reason")), expected, "{case} {fail_open} {answer:?}");
            if case == "long" {
                assert_eq!((answer.body.as_str(), answer.field("content-type")), ("", None));
            }
            if case == "redirect" {
                assert_eq!(answer.field("location"), Some("https://login.test/"));
                let cookies = answer.fields.iter().filter(|(name, _)| name == "set-cookie");
                assert_eq!(cookies.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["a=1", "b=2"]);
                assert_eq!((answer.field("connection"), answer.body.as_str()), (None, "<a>in</a>"));
            }
        }
        let gateway = start(pod.port, &[refusing()], &asking(&format!("failOpen: {fail_open}")));
        let expected = if fail_open { 200 } else { 503 };
        assert_eq!(ask(&mut Client::connect(gateway.http), "ok", "/", "").status, expected, "nobody answers");
    }
}

#[test]
fn the_service_is_told_of_the_request() {
    let Some(python) = python() else { return };
    let (pod, service) = (Server::saying(OK), Service::start(python));
    let told = |settings: &str, request: &[u8]| -> Value {
        let gateway = start(pod.port, &[service.port], &asking(settings));
        let mut client = Client::connect(gateway.http);
        let answer = client.request_bytes(request).unwrap();
        assert_eq!(answer.status, 403, "{answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    };
    let head = "PUT /a%20b?q=1 HTTP/1.1\r\nhost: A.test:8080\r\nx-case: tell\r\nx-list: a\r\nx-list: b\r\n\
                cookie: a=1\r\ncookie: b=2\r\nauthorization: Basic x\r\nconnection: x-hop\r\nx-hop: 1\r\n";
    let whole =
        told("timeout: 5s, forwardBody: {maxSize: 100}", format!("{head}content-length: 4\r\n\r\nbody").as_bytes());
    for (name, value) in [
        ("method", "PUT"),
        ("path", "/a%20b?q=1"),
        ("host", "A.test:8080"),
        ("scheme", "http"),
        ("body", "body"),
        ("raw", ""),
        ("source", "127.0.0.1"),
    ] {
        assert_eq!(whole[name], value, "{name} in {whole}");
    }
    assert_eq!((&whole["size"], &whole["left"]), (&4.into(), &true.into()), "{whole}");
    let headers = &whole["headers"];
    for (name, value) in [
        (":method", "PUT"),
        (":path", "/a%20b?q=1"),
        (":authority", "A.test:8080"),
        ("x-list", "a,b"),
        ("cookie", "a=1; b=2"),
        ("authorization", "Basic x"),
    ] {
        assert_eq!(headers[name], value, "{name} in {headers}");
    }
    assert!(headers.get("x-hop").is_none() && headers.get("connection").is_none(), "{headers}");
    // A body that is no text, of a length that is not announced; and only the headers that are wished for.
    let chunked =
        [format!("{head}transfer-encoding: chunked\r\n\r\n2\r\n").as_bytes(), b"\xff\x00\r\n0\r\n\r\n"].concat();
    let some = told("grpc: {allowedHeaders: [X-Case, x-list]}, forwardBody: {maxSize: 100}", &chunked);
    assert_eq!((&some["raw"], &some["size"]), (&"ff00".into(), &2.into()), "{some}");
    let names: Vec<_> = some["headers"].as_object().unwrap().keys().filter(|name| !name.starts_with(':')).collect();
    assert_eq!(names, ["x-case", "x-list"]);
    let without = told("timeout: 5s", format!("{head}content-length: 4\r\n\r\nbody").as_bytes());
    assert_eq!((&without["body"], &without["size"]), (&"".into(), &4.into()), "{without}");
}

#[test]
fn the_service_changes_the_request_and_its_response() {
    let Some(python) = python() else { return };
    let (pod, service) = (Server::saying(OK), Service::start(python));
    let gateway = start(pod.port, &[service.port], &asking("timeout: 5s"));
    let mut client = Client::connect(gateway.http);
    let fields = "x-set: old\r\nx-appended: old\r\nx-there: old\r\nx-if-there: old\r\nx-removed: old\r\n";
    let answer = ask(&mut client, "changes", "/path?token=t&user=x&q=%41", fields);
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert_eq!((answer.field("x-seen-by"), answer.field("content-type")), (Some("auth"), Some("text/auth")));
    let came = pod.next();
    assert!(came.head.starts_with("GET /path?q=%41&user=ann%20b HTTP/1.1\r\n"), "{}", came.head);
    for (name, values) in [
        ("x-set", vec!["new"]),
        ("x-appended", vec!["old", "new"]),
        ("x-absent", vec!["new"]),
        ("x-there", vec!["old"]),
        ("x-if-there", vec!["new"]),
        ("x-if-absent", vec![]),
        ("x-raw", vec!["ü"]),
        ("x-removed", vec![]),
        ("host", vec!["a.test"]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("transfer-encoding", vec![]),
    ] {
        assert_eq!(came.fields(name), values, "{name} in {}", came.head);
    }
}
