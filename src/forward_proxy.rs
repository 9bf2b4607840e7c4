//! A forward proxy for the application beside a sidecar, for applications that ask for one by `HTTP_PROXY` (RFC 9110 §3.7).
//!
//! Requests for the names of certain Services go to the sidecar's own listeners, where routes, balancing and retries act as on
//! any other call; requests for other hosts go straight there, or are refused. `CONNECT` passes bytes on in the same way
//! (RFC 9110 §9.3.6). It runs on a thread of its own.
//!
//! Knows neither routes nor endpoints: where a port of a Service is served is asked for, since ports come and go.
//!
//! * [`account`]: what is counted and logged.

mod account;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::account::{Account, Accounts, Answered, Asked, FarEnd};
use crate::drain::{Drain, Phase};
use crate::fields::{self, FieldFlags};
use crate::reason::Reason;
use crate::telemetry::access_log::AccessLogSender;
use crate::telemetry::metrics::{Exchange, ForwardProxyMetrics, Open, Proxied};

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
    /// Where everything is counted.
    pub metrics: Arc<ForwardProxyMetrics>,
    /// Where it leaves lines, if there is a log.
    pub access_log: Option<AccessLogSender>,
}

/// A forward proxy.
pub struct ForwardProxy {
    names: BTreeMap<String, String>,
    find: Find,
    others: Others,
    connect_timeout: Duration,
    accounts: Arc<Accounts>,
    client: Client<HttpConnector, Asked>,
}

impl fmt::Debug for ForwardProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardProxy").field("names", &self.names).finish_non_exhaustive()
    }
}

/// The body of an answer: another server's, or the proxy's own.
type Body = Either<Answered, Full<Bytes>>;

/// Why the proxy answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is no request for a proxy.
    Form,
    /// The host is none of the Services, and others are refused.
    Host,
    /// The Service has no such port, or is not known.
    Port,
    /// Nobody takes the connection.
    Unreachable,
    /// The connection broke before an answer.
    Broken,
    /// It has come here too often.
    Circle,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Form => StatusCode::BAD_REQUEST,
            Self::Host => StatusCode::FORBIDDEN,
            Self::Port => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Circle => StatusCode::LOOP_DETECTED,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Form => "expected a request for a proxy: http://HOST/PATH, or CONNECT HOST:PORT\n",
            Self::Host => "the proxy takes requests for its Services alone\n",
            Self::Port => "the Service or its port is not there\n",
            Self::Unreachable => "the host cannot be reached\n",
            Self::Broken => "the host gives no answer\n",
            Self::Circle => "the request goes round in a circle\n",
        }
    }

    const fn proxied(self) -> Proxied {
        match self {
            Self::Form => Proxied::Target,
            Self::Host => Proxied::Others,
            Self::Port => Proxied::NoPort,
            Self::Unreachable => Proxied::Connect,
            Self::Broken => Proxied::Reset,
            Self::Circle => Proxied::Loop,
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
    /// What becomes of a request that the target takes.
    const fn proxied(&self) -> Proxied {
        match self {
            Self::Service(_) => Proxied::Service,
            Self::Host(..) => Proxied::Direct,
        }
    }

    /// Connects to the first of its addresses that answers, each within `timeout`, and so the search for them; zero: no limit.
    async fn connect(&self, timeout: Duration) -> std::io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = match self {
            Self::Service(address) => vec![*address],
            Self::Host(host, port) => within(timeout, tokio::net::lookup_host((host.as_str(), *port))).await?.collect(),
        };
        let mut failed = std::io::ErrorKind::AddrNotAvailable.into();
        for address in addresses {
            match within(timeout, TcpStream::connect(address)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// Waits for something, but not for longer than `timeout`; zero: no limit.
async fn within<T>(timeout: Duration, wanted: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    match timeout {
        Duration::ZERO => wanted.await,
        timeout => tokio::time::timeout(timeout, wanted).await.unwrap_or_else(|late| Err(late.into())),
    }
}

/// The two ends of a connection that has left HTTP.
struct Tunnel {
    client: OnUpgrade,
    target: FarEnd,
    _open: Open,
}

/// Where a request leaves the tunnel that begins behind its answer.
type Slot = Arc<Mutex<Option<Tunnel>>>;

impl ForwardProxy {
    /// Makes one; it asks nobody yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { names, find, others, connect_timeout, metrics, access_log } = parts;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout((!connect_timeout.is_zero()).then_some(connect_timeout));
        let mut client = Client::builder(TokioExecutor::new());
        // A request says itself who it is for.
        client.set_host(false).pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_PER_HOST);
        let (client, accounts) = (client.build(connector), Accounts::new(metrics, access_log));
        Self { names, find, others, connect_timeout, accounts, client }
    }

    /// Serves until the drain closes, and then what runs until it ends. Cancelling it closes all connections.
    pub async fn serve(self, listener: TcpListener, mut drain: Drain) {
        let proxy = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut log = pin!(Arc::clone(&proxy.accounts).write());
        loop {
            tokio::select! {
                () = drain.reached(Phase::Closing) => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => drop(connections.spawn(Arc::clone(&proxy).connection(accepted, drain.clone()))),
                    Err(error) => {
                        tracing::warn!(%error, "the forward proxy cannot accept a connection");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                () = log.as_mut() => {}
            }
        }
        drop(listener);
        tokio::select! {
            () = drain.reached(Phase::Ended) => proxy.accounts.cut_off(),
            () = async { while connections.join_next().await.is_some() {} } => {}
            () = log.as_mut() => {}
        }
    }

    async fn connection(self: Arc<Self>, (stream, peer): (TcpStream, SocketAddr), mut drain: Drain) {
        let _open = self.accounts.metrics.accepted();
        let _ = stream.set_nodelay(true);
        let slot = Slot::default();
        let service = service_fn(|request| {
            let (proxy, slot) = (Arc::clone(&self), Arc::clone(&slot));
            async move { Ok::<_, Infallible>(proxy.answer(request, peer, &slot).await) }
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
        let Some(Tunnel { client, mut target, _open }) = tunnel else { return };
        let Ok(client) = client.await else { return };
        let mut client = TokioIo::new(client);
        tokio::select! {
            () = drain.reached(Phase::Ended) => target.account.ended(Reason::Drain),
            copied = tokio::io::copy_bidirectional(&mut client, &mut target) => match copied {
                Ok(_) => target.account.is_complete = true,
                Err(_) => target.account.ended(Reason::Reset),
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr, slot: &Slot) -> Response<Body> {
        let is_tunnel = *request.method() == Method::CONNECT;
        let exchange = if is_tunnel { Exchange::Tunnel } else { Exchange::Request };
        let mut account = self.accounts.open(&request, exchange, peer);
        let refusal = match exchange {
            Exchange::Tunnel => match self.connect(request, &mut account).await {
                Ok((client, stream)) => {
                    let (target, open) = (FarEnd { stream, account }, self.accounts.metrics.tunnel());
                    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tunnel { client, target, _open: open });
                    return Response::new(Either::Right(Full::default()));
                }
                Err(refusal) => refusal,
            },
            Exchange::Request => match self.pass_on(request, &mut account).await {
                Ok(answer) => return answer.map(|body| Either::Left(Answered::new(body, account))),
                Err(refusal) => refusal,
            },
        };
        account.became(refusal.proxied(), refusal.status().as_u16());
        account.is_complete = true;
        refusal.answer()
    }

    /// Opens the way for bytes: the client's end, and that of who it asks for.
    async fn connect(
        &self,
        request: Request<Incoming>,
        account: &mut Account,
    ) -> Result<(OnUpgrade, TcpStream), Refusal> {
        let port = request.uri().port_u16().ok_or(Refusal::Form)?;
        let target = self.target(request.uri(), port)?;
        let began = Instant::now();
        let connected = target.connect(self.connect_timeout).await;
        account.sent_to(connected.as_ref().ok().and_then(|stream| stream.peer_addr().ok()), began.elapsed());
        let stream = connected.map_err(|_| Refusal::Unreachable)?;
        let _ = stream.set_nodelay(true);
        account.became(target.proxied(), StatusCode::OK.as_u16());
        Ok((hyper::upgrade::on(request), stream))
    }

    /// Sends a request on, and its answer back.
    async fn pass_on(&self, request: Request<Incoming>, account: &mut Account) -> Result<Response<Incoming>, Refusal> {
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
        if !body.is_end_stream() && body.size_hint().exact().is_none() {
            // hyper would take a GET without a length for one without a body.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        match &target {
            Target::Service(address) => parts.uri = at(*address, &parts.uri).ok_or(Refusal::Form)?,
            Target::Host(..) => mark(&mut parts.headers)?,
        }
        parts.version = Version::HTTP_11;
        account.is_for_service = matches!(target, Target::Service(_));
        let (body, began) = (account.count(body), Instant::now());
        match self.client.request(Request::from_parts(parts, body)).await {
            Ok(mut answer) => {
                let info = answer.extensions().get::<HttpInfo>();
                account.sent_to(info.map(HttpInfo::remote_addr), began.elapsed());
                account.became(target.proxied(), answer.status().as_u16());
                remove_of_connection(answer.headers_mut());
                Ok(answer)
            }
            Err(error) => {
                account.sent_to(None, began.elapsed());
                let is_refused = error.is_connect();
                tracing::debug!(%error, "the forward proxy gets no answer");
                Err(if is_refused { Refusal::Unreachable } else { Refusal::Broken })
            }
        }
    }

    fn target(&self, uri: &Uri, port: u16) -> Result<Target, Refusal> {
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(Refusal::Form)?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Some(service) = self.names.get(&host) {
            return (self.find)(service, port).map(Target::Service).ok_or(Refusal::Port);
        }
        match self.others {
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
