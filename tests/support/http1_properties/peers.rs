//! What other servers read from the bytes that were forwarded.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::http1_bed::{Backend, Recorded};
use crate::tools;

/// What a server understood: method, target, fields but those of one connection, and body.
type Understood = (Vec<u8>, Vec<u8>, BTreeMap<Vec<u8>, Vec<Vec<u8>>>, Vec<u8>);

/// A running server, which ends with this.
struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
    /// It is a proxy to this backend; the others tell in their answers what they understood.
    behind: Option<Backend>,
    /// Where its files are.
    _folder: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends the bytes of each request to each server that is installed, and compares what they understood.
pub fn compare(sample: &[Recorded]) {
    let mut different = Vec::new();
    for server in [node(), python(), go(), nginx()].into_iter().flatten() {
        let mut count = 0;
        for request in sample.iter().filter(|request| takes(server.name, request)) {
            count += 1;
            let wanted = understood(&request.method, &request.target, request.fields.clone(), &request.body);
            match ask(&server, &request.raw, request.method == b"HEAD") {
                Ok(None) => {}
                Ok(Some(found)) if found == wanted => {}
                Ok(Some(found)) => different.push(format!(
                    "{}: {}\nunderstood: {found:?}\nexpected: {wanted:?}",
                    server.name,
                    request.raw.escape_ascii()
                )),
                Err(why) => different.push(format!("{}: {}\n{why}", server.name, request.raw.escape_ascii())),
            }
        }
        println!("{}: {count} requests", server.name);
        assert!(count > 20, "{} got {count} requests", server.name);
    }
    assert!(different.is_empty(), "{} are read differently:\n{}", different.len(), different.join("\n\n"));
}

/// Whether a server takes such a request at all: some know a list of methods, and all have limits.
fn takes(name: &str, request: &Recorded) -> bool {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
    let is_known = known.iter().any(|method| method.as_bytes() == request.method);
    let is_handshake = request.fields.contains_key(&b"upgrade"[..]);
    let by_server = match name {
        "node" => is_known,
        "nginx" => request.method.iter().all(u8::is_ascii_uppercase),
        _ => true,
    };
    by_server && !is_handshake && request.raw.len() < 8 << 10
}

fn understood(method: &[u8], target: &[u8], mut fields: BTreeMap<Vec<u8>, Vec<Vec<u8>>>, body: &[u8]) -> Understood {
    for name in ["connection", "content-length", "transfer-encoding", "expect"] {
        fields.remove(name.as_bytes());
    }
    (method.to_vec(), target.to_vec(), fields, body.to_vec())
}

/// Sends bytes to a server; what it understood, and nothing where an answer to HEAD cannot tell.
fn ask(server: &Server, raw: &[u8], head: bool) -> Result<Option<Understood>, String> {
    if let Some(backend) = &server.behind {
        backend.begin();
    }
    let mut client = TcpStream::connect(server.address).map_err(|error| error.to_string())?;
    client.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
    client.write_all(raw).map_err(|error| error.to_string())?;
    let (mut received, mut buffer) = (Vec::new(), [0; 16 << 10]);
    let (mut answer, mut body) = (String::new(), 0);
    while answer.is_empty() || received.len() < body {
        let count = client.read(&mut buffer).map_err(|error| error.to_string())?;
        if count == 0 {
            break;
        }
        received.extend_from_slice(&buffer[..count]);
        while let Some(end) = memchr::memmem::find(&received, b"\r\n\r\n").filter(|_| answer.is_empty()) {
            let text = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
            received.drain(..end + 4);
            if !text.starts_with("http/1.1 100") {
                let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                body = length.and_then(|digits| digits.parse().ok()).filter(|_| !head).unwrap_or(0);
                answer = text;
            }
        }
    }
    if !answer.starts_with("http/1.1 200") {
        return Err(format!("the server answers {answer:?}"));
    }
    if let Some(backend) = &server.behind {
        drop(client);
        backend.wait_until_recorded();
        let mut requests = backend.take().requests;
        return match requests.pop().filter(|request| request.complete && requests.is_empty()) {
            Some(request) => Ok(Some(understood(&request.method, &request.target, request.fields, &request.body))),
            None => Err("the server did not pass on one request".to_owned()),
        };
    }
    if head {
        return Ok(None);
    }
    let told: Value = serde_json::from_slice(&received).map_err(|error| format!("{error}: {received:?}"))?;
    let mut fields: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for field in told["fields"].as_array().into_iter().flatten() {
        fields.entry(text(&field[0]).into_bytes()).or_default().push(unhex(&field[1]));
    }
    Ok(Some(understood(text(&told["method"]).as_bytes(), &unhex(&told["target"]), fields, &unhex(&told["body"]))))
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().expect("a string");
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/http1-servers").join(name)
}

/// Starts a server that prints its port and ends with its standard input.
fn start(name: &'static str, command: &mut Command, folder: Option<tempfile::TempDir>) -> Option<Server> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let port = line.trim().parse().unwrap_or_else(|_| panic!("{name} prints {line:?} instead of its port"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Some(Server { name, child, address, behind: None, _folder: folder })
}

fn node() -> Option<Server> {
    start("node", Command::new(tools::program("node")?).arg(script("server.js")), None)
}

fn python() -> Option<Server> {
    start("python", Command::new(tools::program("python3")?).arg(script("server.py")), None)
}

fn go() -> Option<Server> {
    let go = tools::program("go")?;
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("server");
    let built =
        Command::new(go).args(["build", "-o"]).arg(&program).arg(script("server.go")).output().expect("go starts");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    start("go", &mut Command::new(program), Some(folder))
}

/// nginx as a proxy that changes as little as it can.
fn nginx() -> Option<Server> {
    let nginx = tools::program("nginx")?;
    let folder = tempfile::tempdir().expect("a folder");
    let backend = Backend::start(Vec::new());
    // nginx cannot tell which port it got: the one that was free a moment ago is taken, and another one if it is not any more.
    for _ in 0..10 {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let path = folder.path().display();
        let conf = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log crit; events {{}}
             http {{
               access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
               fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
               ignore_invalid_headers off; underscores_in_headers on; large_client_header_buffers 4 64k;
               client_max_body_size 0; merge_slashes off;
               server {{
                 listen {address};
                 location / {{
                   proxy_pass http://{}; proxy_http_version 1.1;
                   proxy_set_header Host $http_host; proxy_set_header Connection '';
                 }}
               }}
             }}",
            backend.address
        );
        std::fs::write(folder.path().join("nginx.conf"), conf).expect("a file");
        let mut command = Command::new(&nginx);
        command.arg("-e").arg("stderr").arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx starts");
        while child.try_wait().expect("a child").is_none() {
            if TcpStream::connect(address).is_ok() {
                return Some(Server { name: "nginx", child, address, behind: Some(backend), _folder: Some(folder) });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    panic!("nginx does not start");
}
