//! A forward proxy for the application beside a sidecar, for applications that ask for one by `HTTP_PROXY` (RFC 9110 §3.7).
//!
//! Requests for the names of certain Services go to the sidecar's own listeners, where routes, balancing and retries act as on
//! any other call; requests for other hosts go straight there, or are refused. `CONNECT` passes bytes on in the same way
//! (RFC 9110 §9.3.6). It runs on a thread of its own.
//!
//! Knows neither routes nor endpoints: where a port of a Service is served is asked for, since ports come and go.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::drain::{Drain, Phase};
use crate::fields::{self, FieldFlags};

/// How long a connection to another host is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);

/// Connections to one host that are kept.
const IDLE_PER_HOST: usize = 8;

/// How long it takes until connections are accepted again that could not be: descriptors are short.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Hop mark of requests that go straight to their host (RFC 9110 §7.6.3), and how many of them are a circle.
const VIA: &str = "1.1 tidegate-sidecar";
const MOST_MARKS: usize = 16;

/// What requests for hosts that are none of the Services become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// They go straight to their host.
    #[default]
    Direct,
    /// They are answered 403.
    Refuse,
}

/// Where a port of a Service is served, by the Service's key and the port.
pub type Find = Box<dyn Fn(&str, u16) -> Option<SocketAddr> + Send + Sync>;

/// What the proxy is made of.
pub struct Parts {
    /// The key of each Service by its names, which are in lower case.
    pub names: BTreeMap<String, String>,
    /// Where a port of a Service is served; `None`: there is no such port.
    pub find: Find,
    /// What becomes of requests for other hosts.
    pub others: Others,
    /// How long a host may take to accept a connection; zero: as long as it wants to.
    pub connect_timeout: Duration,
}

/// A forward proxy.
pub struct ForwardProxy {
    parts: Parts,
    client: Client<HttpConnector, Incoming>,
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardProxy").field("names", &self.parts.names).finish_non_exhaustive()
    }
}

/// The body of an answer: another server's, or the proxy's own.
type Body = Either<Incoming, Full<Bytes>>;

/// Why the proxy answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is no request for a proxy.
    Form,
    /// The host is none of the Services, and others are refused.
    Host,
    /// The Service has no such port, or is not known.
    Port,
    /// Nobody takes the connection, or the exchange broke.
    Unreachable,
    /// It has come here too often.
    Circle,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Form => StatusCode::BAD_REQUEST,
            Self::Host => StatusCode::FORBIDDEN,
            Self::Port => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable => StatusCode::BAD_GATEWAY,
            Self::Circle => StatusCode::LOOP_DETECTED,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Form => "expected a request for a proxy: http://HOST/PATH, or CONNECT HOST:PORT\n",
            Self::Host => "the proxy takes requests for its Services alone\n",
            Self::Port => "the Service or its port is not there\n",
            Self::Unreachable => "the host cannot be reached\n",
            Self::Circle => "the request goes round in a circle\n",
        }
    }

    fn answer(self) -> Response<Body> {
        let mut response = Response::new(Either::Right(Full::from(self.text())));
        *response.status_mut() = self.status();
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Who a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// A port of a Service, and where it is served.
    Service(SocketAddr),
    /// Another host and port.
    Host(String, u16),
}

impl Target {
    async fn connect(&self) -> std::io::Result<TcpStream> {
        match self {
            Self::Service(address) => TcpStream::connect(address).await,
            Self::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await,
        }
    }
}

/// The two ends of a connection that has left HTTP.
struct Tunnel {
    client: OnUpgrade,
    target: TcpStream,
}

/// Where a request leaves the tunnel that begins behind its answer.
type Slot = Arc<Mutex<Option<Tunnel>>>;

impl ForwardProxy {
    /// Makes one; it asks nobody yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout((!parts.connect_timeout.is_zero()).then_some(parts.connect_timeout));
        let mut client = Client::builder(TokioExecutor::new());
        // A request says itself who it is for.
        client.set_host(false).pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_PER_HOST);
        Self { parts, client: client.build(connector) }
    }

    /// Serves until the drain closes, and then what runs until it ends. Cancelling it closes all connections.
    pub async fn serve(self, listener: TcpListener, mut drain: Drain) {
        let proxy = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = drain.reached(Phase::Closing) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(Arc::clone(&proxy).connection(stream, drain.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "the forward proxy cannot accept a connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(listener);
        tokio::select! {
            () = drain.reached(Phase::Ended) => {}
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, mut drain: Drain) {
        let _ = stream.set_nodelay(true);
        let slot = Slot::default();
        let service = service_fn(|request| {
            let (proxy, slot) = (Arc::clone(&self), Arc::clone(&slot));
            async move { Ok::<_, Infallible>(proxy.answer(request, &slot).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = pin!(connection);
        tokio::select! {
            // A client that breaks off has told itself so.
            _ = connection.as_mut() => {}
            () = drain.reached(Phase::Closing) => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
        let tunnel = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tunnel { client, mut target }) = tunnel else { return };
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        tokio::select! {
            () = drain.reached(Phase::Ended) => {}
            _ = tokio::io::copy_bidirectional(&mut client, &mut target) => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, slot: &Slot) -> Response<Body> {
        let answer = match *request.method() {
            Method::CONNECT => self.connect(request, slot).await,
            _ => self.pass_on(request).await,
        };
        answer.unwrap_or_else(Refusal::answer)
    }

    /// Opens the way for bytes.
    async fn connect(&self, request: Request<Incoming>, slot: &Slot) -> Result<Response<Body>, Refusal> {
        let port = request.uri().port_u16().ok_or(Refusal::Form)?;
        let target = self.target(request.uri(), port)?;
        let connecting = target.connect();
        let target = match self.parts.connect_timeout {
            Duration::ZERO => connecting.await,
            timeout => tokio::time::timeout(timeout, connecting).await.map_err(|_| Refusal::Unreachable)?,
        };
        let target = target.map_err(|_| Refusal::Unreachable)?;
        let _ = target.set_nodelay(true);
        let tunnel = Tunnel { client: hyper::upgrade::on(request), target };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
        Ok(Response::new(Either::Right(Full::default())))
    }

    /// Sends a request on, and its answer back.
    async fn pass_on(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        if parts.uri.scheme_str() != Some("http") {
            return Err(Refusal::Form);
        }
        let target = self.target(&parts.uri, parts.uri.port_u16().unwrap_or(80))?;
        // RFC 9112 §3.2.2: the target says who is asked, and not the Host field.
        let authority = parts.uri.authority().ok_or(Refusal::Form)?.as_str();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = HeaderValue::from_str(host).map_err(|_| Refusal::Form)?;
        remove_of_connection(&mut parts.headers);
        parts.headers.remove(header::PROXY_AUTHORIZATION);
        parts.headers.insert(header::HOST, host);
        match &target {
            Target::Service(address) => parts.uri = at(*address, &parts.uri).ok_or(Refusal::Form)?,
            Target::Host(..) => mark(&mut parts.headers)?,
        }
        parts.version = Version::HTTP_11;
        match self.client.request(Request::from_parts(parts, body)).await {
            Ok(mut answer) => {
                remove_of_connection(answer.headers_mut());
                Ok(answer.map(Either::Left))
            }
            Err(error) => {
                tracing::debug!(%error, "the forward proxy gets no answer");
                Err(Refusal::Unreachable)
            }
        }
    }

    fn target(&self, uri: &Uri, port: u16) -> Result<Target, Refusal> {
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Refusal::Form)?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Some(service) = self.parts.names.get(&host) {
            return (self.parts.find)(service, port).map(Target::Service).ok_or(Refusal::Port);
        }
        match self.parts.others {
            // An address of IPv6 stands in brackets.
            Others::Direct => Ok(Target::Host(host.trim_matches(['[', ']']).to_owned(), port)),
            Others::Refuse => Err(Refusal::Host),
        }
    }
}

/// The same path and query at an address.
fn at(address: SocketAddr, uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("http").authority(address.to_string()).path_and_query(path).build().ok()
}

/// Adds the hop mark.
fn mark(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    let marks = values.flat_map(|value| value.split(',')).filter(|mark| mark.trim() == VIA).count();
    if marks >= MOST_MARKS {
        return Err(Refusal::Circle);
    }
    headers.append(header::VIA, HeaderValue::from_static(VIA));
    Ok(())
}

/// Removes what is about one connection alone (RFC 9110 §7.6.1): hyper frames both messages anew.
fn remove_of_connection(headers: &mut HeaderMap) {
    let nominated = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let nominated = nominated.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    let may_go = |name: &HeaderName| !fields::flags(name.as_str()).has_any(FieldFlags::NOT_IN_CONNECTION);
    let mut doomed: Vec<HeaderName> = nominated.filter(may_go).collect();
    let is_hop = |name: &&HeaderName| fields::flags(name.as_str()).has_any(FieldFlags::HOP_BY_HOP);
    doomed.extend(headers.keys().filter(is_hop).cloned());
    for name in doomed {
        headers.remove(name);
    }
}
