//! Small HTTP backends that answer with what they were asked: one for each loopback endpoint of the files.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use super::chat::{self, Rooms};
use super::error::DemoError;
use crate::compile::inputs::Inputs;
use crate::kinds::endpoint::{Address, Endpoint, EndpointPort};
use crate::source::Update;

/// A backend goes on accepting for this time after its endpoint has left the files: workers learn of it a little later.
const LINGER: Duration = Duration::from_secs(5);

/// Between two looks at the first bytes of a connection that has sent less than it takes to tell its protocol.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Name of the pod at each address.
type Pods = Arc<Mutex<BTreeMap<SocketAddr, String>>>;

/// The backends; dropping it ends them.
#[derive(Debug)]
pub struct Backends {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    pods: Pods,
}

impl Backends {
    /// Starts a backend for each loopback endpoint and follows the updates. When this returns, the first ones accept.
    ///
    /// # Errors
    ///
    /// When the thread or its runtime cannot be started. An address that cannot be bound is a line in the log: somebody
    /// else may serve there.
    pub fn start(updates: watch::Receiver<Update>) -> Result<Self, DemoError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::Backends)?;
        let pods = Pods::default();
        let (stop, stopped) = oneshot::channel();
        let mut farm = Farm { running: BTreeMap::new(), pods: Arc::clone(&pods) };
        let guard = runtime.enter();
        farm.follow(&updates.borrow().inputs);
        drop(guard);
        let thread = std::thread::Builder::new()
            .name("demo-backends".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = farm.run(updates) => {}
                        // Dropped by its owner: the end.
                        _ = stopped => {}
                    }
                });
            })
            .map_err(DemoError::Backends)?;
        Ok(Self { stop: Some(stop), thread: Some(thread), pods })
    }

    /// Addresses of the endpoints in the files, with their pods.
    #[must_use]
    pub fn pods(&self) -> BTreeMap<SocketAddr, String> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Loopback endpoints of slices and core Endpoints with the names of their pods, ready or not.
fn endpoints(inputs: &Inputs) -> BTreeMap<SocketAddr, String> {
    let mut found = BTreeMap::new();
    let mut add = |endpoint: &Endpoint, port: &EndpointPort| {
        let port = port.number.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        if let (Address::Ip(ip), Some(port)) = (&endpoint.address, port)
            && ip.is_loopback()
        {
            let address = SocketAddr::new(*ip, port);
            let name = endpoint.pod.as_ref().map_or_else(|| format!("pod at {address}"), |pod| pod.to_string());
            // The first one names it; others may be copies that a controller made of it, without the pod.
            found.entry(address).or_insert(name);
        }
    };
    for slice in inputs.objects.slices.values().map(|sourced| &sourced.object) {
        for endpoint in &slice.endpoints {
            slice.ports.iter().for_each(|port| add(endpoint, port));
        }
    }
    for subset in inputs.objects.endpoints.values().flat_map(|sourced| &sourced.object.subsets) {
        for endpoint in subset.ready.iter().chain(&subset.not_ready) {
            subset.ports.iter().for_each(|port| add(endpoint, port));
        }
    }
    found
}

/// All backends, in their thread.
struct Farm {
    running: BTreeMap<SocketAddr, tokio::task::JoinHandle<()>>,
    pods: Pods,
}

impl Farm {
    async fn run(&mut self, mut updates: watch::Receiver<Update>) {
        while updates.changed().await.is_ok() {
            let inputs = Arc::clone(&updates.borrow_and_update().inputs);
            self.follow(&inputs);
        }
        // The source is gone, what it said last still holds.
        std::future::pending::<()>().await;
    }

    /// Starts backends that are missing; those that have left the files see it themselves and end.
    fn follow(&mut self, inputs: &Inputs) {
        let wanted = endpoints(inputs);
        self.running.retain(|_, task| !task.is_finished());
        for address in wanted.keys() {
            if self.running.contains_key(address) {
                continue;
            }
            match listen(*address) {
                Ok(listener) => {
                    let task = tokio::spawn(serve(listener, *address, Arc::clone(&self.pods)));
                    self.running.insert(*address, task);
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    tracing::info!(endpoint = %address, "no demo backend here: another program serves there");
                }
                Err(error) => tracing::warn!(endpoint = %address, %error, "cannot start a demo backend"),
            }
        }
        *self.pods.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts until the address has been out of the files for [`LINGER`].
async fn serve(listener: TcpListener, address: SocketAddr, pods: Pods) {
    let (mut misses, state) = (0, State::default());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, address, Arc::clone(&pods), state.clone()))),
                // Out of file descriptors, say: later is better than never.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            () = tokio::time::sleep(LINGER / 2) => {
                let listed = pods.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&address);
                misses = if listed { 0 } else { misses + 1 };
                if misses > 2 {
                    return;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, address: SocketAddr, pods: Pods, state: State) {
    let http2 = is_http2(&stream).await;
    let service = service_fn(move |request| answer(request, address, pod(&pods, address), state.clone()));
    let io = TokioIo::new(stream);
    // A client that breaks off is no news.
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .with_upgrades()
            .await
    };
}

fn pod(pods: &Pods, address: SocketAddr) -> String {
    let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
    pods.get(&address).cloned().unwrap_or_else(|| format!("a removed pod at {address}"))
}

/// True when the connection begins as HTTP/2 does (RFC 9113 §3.4); no method of HTTP/1.1 begins with these letters.
async fn is_http2(stream: &TcpStream) -> bool {
    let preface = b"PRI ";
    let mut begin = [0; 4];
    loop {
        match stream.peek(&mut begin).await {
            Ok(read) if read == 0 || !preface.starts_with(&begin[..read]) => return false,
            Ok(read) if read == preface.len() => return true,
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(_) => return false,
        }
    }
}

/// What the connections of one backend have in common.
#[derive(Clone, Default)]
struct State {
    rooms: Rooms,
    /// Requests that a flaky pod was asked.
    answers: Arc<AtomicU64>,
}

/// Every second request to a pod called `flaky-…` fails, a WebSocket handshake opens the chat, `/chat.html` is its page, everything else is told back.
async fn answer(
    mut request: Request<Incoming>,
    address: SocketAddr,
    pod: String,
    state: State,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if pod.starts_with("flaky-") && state.answers.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
        let mut response = Response::new(Full::new(Bytes::from_static(b"flaky: every second request fails\n")));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    if let Some(response) = chat::upgrade(&mut request, &state.rooms, &pod) {
        return Ok(response);
    }
    if request.uri().path() == "/chat.html" {
        let mut response = Response::new(Full::new(Bytes::from_static(chat::PAGE.as_bytes())));
        let html = header::HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
        return Ok(response);
    }
    echo(request, address, pod).await
}

/// Answers with what was asked: JSON for those who accept it by name, else text.
async fn echo(
    request: Request<Incoming>,
    address: SocketAddr,
    pod: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    let mut received = 0_u64;
    while let Some(Ok(frame)) = body.frame().await {
        received += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    let accepts_json =
        head.headers.get_all(header::ACCEPT).iter().any(|value| value.as_bytes().windows(4).any(|w| w == b"json"));
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let version = format!("{:?}", head.version);
    let (text, media_type) = if accepts_json {
        let answer = serde_json::json!({
            "pod": pod, "address": address, "method": head.method.as_str(), "path": target,
            "version": version, "headers": headers(&head.headers), "bodyBytes": received,
        });
        (format!("{answer}\n"), "application/json")
    } else {
        let mut text = format!("{pod} ({address})\n{} {target} {version}\n", head.method);
        for (name, value) in headers(&head.headers) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        if received > 0 {
            let _ = writeln!(text, "({received} bytes)");
        }
        (text, "text/plain; charset=utf-8")
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    if let Ok(name) = header::HeaderValue::try_from(pod) {
        response.headers_mut().insert("x-pod", name);
    }
    Ok(response)
}

/// Fields by name; the values of one name joined, bytes that are no text replaced.
fn headers(fields: &HeaderMap) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in fields {
        let value = String::from_utf8_lossy(value.as_bytes());
        found
            .entry(name.as_str())
            .and_modify(|joined| {
                joined.push_str(", ");
                joined.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    found
}
