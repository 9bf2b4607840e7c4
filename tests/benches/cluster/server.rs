//! The API server of a measurement: the simulated one, in this process, or the real one of `tests/controlplane`.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api_server::ApiServer;
use crate::client::Client;
use crate::cluster::{Cluster, Options, Proxy};

/// The namespace of most objects.
pub const NAMESPACE: &str = "bench";

/// Connections over which many objects are put into a real server.
const AT_ONCE: usize = 8;

/// The path of the objects of a kind in a namespace.
fn path(plural: &str, namespace: &str) -> String {
    let group = match plural {
        "gatewayroutes" => "apis/tidegate.dev/v1alpha1",
        "endpointslices" => "apis/discovery.k8s.io/v1",
        _ => "api/v1",
    };
    format!("/{group}/namespaces/{namespace}/{plural}")
}

/// Where objects are put.
pub enum Server {
    Simulated(Box<ApiServer>),
    Real(Box<Real>),
}

/// The one of `tests/controlplane`, without nodes.
pub struct Real {
    pub cluster: Cluster,
    /// Lets its administrator in without encryption.
    pub proxy: Proxy,
}

impl Real {
    /// `None`, and said, where there is none.
    pub fn start() -> Option<Self> {
        let cluster = Cluster::start(Options::default().without_nodes())?;
        cluster.install_routes();
        cluster.kubectl(&["create", "namespace", NAMESPACE]);
        let proxy = cluster.proxy();
        Some(Self { cluster, proxy })
    }
}

impl Server {
    /// `None`, and said, where there is no real one.
    pub fn start(real: bool) -> Option<Self> {
        if !real {
            return Some(Self::Simulated(Box::new(ApiServer::start())));
        }
        Real::start().map(Box::new).map(Self::Real)
    }

    /// What a controller finds it by.
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Simulated(server) => server.kubeconfig(),
            Self::Real(real) => real.cluster.ready()["kubeconfig"].as_str().unwrap_or_default().into(),
        }
    }

    /// Where it answers without encryption and to everybody.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Simulated(server) => server.address,
            Self::Real(real) => SocketAddr::from(([127, 0, 0, 1], real.proxy.port)),
        }
    }

    /// Puts many new objects.
    pub fn create_all(&self, plural: &str, objects: Vec<Value>) {
        match self {
            Self::Simulated(server) => server.put_all(plural, objects),
            Self::Real(real) => std::thread::scope(|scope| {
                for part in objects.chunks(objects.len().div_ceil(AT_ONCE).max(1)) {
                    scope.spawn(|| {
                        let mut client = Client::connect(real.proxy.port);
                        part.iter()
                            .for_each(|object| send(&mut client, "POST", &path(plural, namespace(object)), object));
                    });
                }
            }),
        }
    }

    /// Something that puts one object after the other.
    pub fn writer(&self) -> Writer<'_> {
        match self {
            Self::Simulated(server) => Writer::Simulated(server),
            Self::Real(real) => Writer::Real(Client::connect(real.proxy.port)),
        }
    }

    /// Follows a kind as any other client would: when it was told of each object last.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn witness(&self, plural: &str) -> io::Result<Witness> {
        let mut stream = TcpStream::connect(self.address())?;
        let path = path(plural, NAMESPACE);
        write!(stream, "GET {path}?watch=1 HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n")?;
        let seen: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
        let told = Arc::clone(&seen);
        let mut reader = BufReader::new(stream.try_clone()?);
        std::thread::spawn(move || {
            let _ = follow(&mut reader, &told);
        });
        Ok(Witness { stream, seen })
    }
}

/// Puts objects over a connection of its own.
pub enum Writer<'a> {
    Simulated(&'a ApiServer),
    Real(Client),
}

impl Writer<'_> {
    pub fn create(&mut self, plural: &str, object: Value) {
        match self {
            Self::Simulated(server) => server.put(plural, object),
            Self::Real(client) => send(client, "POST", &path(plural, namespace(&object)), &object),
        }
    }

    /// Puts an object in the place of the one with its name.
    pub fn replace(&mut self, plural: &str, object: Value) {
        match self {
            Self::Simulated(server) => server.put(plural, object),
            Self::Real(client) => {
                let path = format!("{}/{}", path(plural, namespace(&object)), name(&object));
                send(client, "PUT", &path, &object);
            }
        }
    }

    pub fn delete(&mut self, plural: &str, name: &str) {
        match self {
            Self::Simulated(server) => server.delete(plural, NAMESPACE, name),
            Self::Real(client) => send(client, "DELETE", &format!("{}/{name}", path(plural, NAMESPACE)), &Value::Null),
        }
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE)
}

fn send(client: &mut Client, method: &str, path: &str, object: &Value) {
    let body = if object.is_null() { String::new() } else { object.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
    let request = format!("{head}accept: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let answer = client.request(&request).expect("the API server answers");
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
}

/// A watch of our own. It ends with the value.
pub struct Witness {
    stream: TcpStream,
    seen: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Witness {
    /// When it was told last of an object.
    pub fn seen(&self, name: &str) -> Option<Instant> {
        self.seen.lock().ok()?.get(name).copied()
    }

    /// When it was told of an object after a moment; waits for it, but not for long.
    pub fn seen_after(&self, name: &str, moment: Instant) -> Option<Instant> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.seen(name).filter(|seen| *seen >= moment) {
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                seen => return seen,
            }
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Reads the events of a watch, each a line, out of chunks that may end anywhere.
fn follow(reader: &mut BufReader<TcpStream>, seen: &Mutex<HashMap<String, Instant>>) -> io::Result<()> {
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut events = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let from = events.len();
        events.resize(from + size + 2, 0);
        reader.read_exact(&mut events[from..])?;
        events.truncate(from + size);
        let now = Instant::now();
        let Some(end) = memchr::memrchr(b'\n', &events) else { continue };
        for event in events.drain(..=end).collect::<Vec<u8>>().split(|byte| *byte == b'\n') {
            let Ok(event) = serde_json::from_slice::<Value>(event) else { continue };
            if let Ok(mut seen) = seen.lock() {
                seen.insert(name(&event["object"]).to_owned(), now);
            }
        }
    }
}
