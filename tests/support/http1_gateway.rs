//! A gateway of listener, connections and a small forwarder with one route, for the wire cases.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tidegate::drain::{self, DrainControl, Phase};
use tidegate::http1::client::RequestFraming;
use tidegate::http1::guard::{HeadLimits, ResponseFraming, ResponseScanner, Scan};
use tidegate::model::ids::ListenerId;
use tidegate::proxy::connection::{ConnectionContext, WorkerDrain};
use tidegate::proxy::downstream::{CheckedHead, Downstream, Handler, OwnAnswer, drop_unread};
use tidegate::proxy::error::own_body;
use tidegate::proxy::guarded_io::guard_error;
use tidegate::proxy::headers::{RequestHead, RequestId, encode_request};
use tidegate::proxy::listener;
use tidegate::reason::Reason;
use tidegate::settings::{Deadlines, Forwarding, Limits, Listener};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// A running gateway; stops when dropped.
pub struct Gateway {
    address: SocketAddr,
    control: Arc<DrainControl>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Gateway {
    /// Starts one on a free port of `ip` that forwards the host `a.test` to `backend`.
    pub fn start(backend: SocketAddr, ip: IpAddr) -> Self {
        let bound = listener::bind("cases", SocketAddr::new(ip, 0), 1).expect("a free port");
        let address = bound.address;
        let (control, drain) = drain::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                let name: Arc<str> = "cases".into();
                let options = MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 10 };
                let metrics = Metrics::new(options).worker(0).expect("one worker");
                let settings = Listener {
                    address,
                    http2_prior_knowledge: false,
                    trusted_forwarders: Vec::new(),
                    health_path: None,
                    allowed_namespaces: None,
                };
                let (deadlines, limits, forwarding) = (Deadlines::default(), Limits::default(), Forwarding::default());
                let worker = WorkerDrain::new();
                tokio::task::spawn_local(listener::follow_drain(drain.clone(), Rc::clone(&worker)));
                let context = Rc::new(ConnectionContext::new(
                    (ListenerId(0), name),
                    &settings,
                    (&deadlines, &limits, &forwarding),
                    Rc::new(Forwarder { backend, unread: limits.unread_body }),
                    metrics,
                    worker,
                ));
                let socket = bound.sockets.into_iter().next().expect("one worker");
                listener::accept(context, socket, drain).await.expect("a listener");
            });
        });
        Self { address, control: Arc::new(control), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.control.advance(Phase::Ended);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the gateway did not panic");
        }
    }
}

/// Forwards each request on a connection of its own.
struct Forwarder {
    backend: SocketAddr,
    unread: usize,
}

impl Handler for Forwarder {
    type Body = Full<Bytes>;

    async fn handle(
        self: Rc<Self>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<Incoming>,
    ) -> Response<Self::Body> {
        let (parts, mut body) = request.into_parts();
        if head.host.as_deref() != Some("a.test") {
            let close = drop_unread(body, head.expect_continue, self.unread) || head.host.is_none();
            let reason = Reason::NoHost;
            return self.own_answer(&downstream, OwnAnswer { status: StatusCode::NOT_FOUND, reason, close });
        }
        let forwarded = self.forward(&downstream, &head, &parts, Pin::new(&mut body)).await;
        forwarded.unwrap_or_else(|error| {
            let found = guard_error(error.as_ref());
            let status = found.map_or(StatusCode::BAD_GATEWAY, |found| found.status);
            let reason = found.map_or(Reason::Reset, |found| found.reason);
            self.own_answer(&downstream, OwnAnswer { status, reason, close: true })
        })
    }

    fn own_answer(&self, _: &Downstream, answer: OwnAnswer) -> Response<Self::Body> {
        let mut response = Response::new(Full::from(own_body(answer.status)));
        *response.status_mut() = answer.status;
        if answer.close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Forwarder {
    async fn forward(
        &self,
        downstream: &Downstream,
        head: &CheckedHead,
        parts: &http::request::Parts,
        mut body: Pin<&mut Incoming>,
    ) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
        let framing = match body.size_hint().exact() {
            _ if body.is_end_stream() => RequestFraming::Empty,
            Some(length) => RequestFraming::Length(length),
            None => RequestFraming::Chunked,
        };
        // An announced length of 0 is kept, as one of the two forms of no body.
        let framing = match parts.headers.contains_key(CONTENT_LENGTH) {
            true if framing == RequestFraming::Empty => RequestFraming::Length(0),
            _ => framing,
        };
        let mut bytes = Vec::new();
        let request_id = RequestId::new(false, &HeaderMap::new(), &mut fastrand::Rng::with_seed(1));
        let path = head.path.as_deref().unwrap_or_else(|| parts.uri.path());
        encode_request(
            &mut bytes,
            &RequestHead {
                method: &parts.method,
                path,
                query: parts.uri.query(),
                authority: head.authority.as_deref(),
                headers: &parts.headers,
                downstream,
                request_id: &request_id,
                framing,
                expect_continue: false,
            },
        );
        let mut upstream = TcpStream::connect(self.backend).await?;
        upstream.write_all(&bytes).await?;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if framing == RequestFraming::Chunked {
                upstream.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
                upstream.write_all(&data).await?;
                upstream.write_all(b"\r\n").await?;
            } else {
                upstream.write_all(&data).await?;
            }
        }
        if framing == RequestFraming::Chunked {
            upstream.write_all(b"0\r\n\r\n").await?;
        }
        answer_of(upstream, parts.method == http::Method::HEAD).await
    }
}

/// Reads a response with a length.
async fn answer_of(
    mut upstream: TcpStream,
    head_only: bool,
) -> Result<Response<Full<Bytes>>, Box<dyn Error + Send + Sync>> {
    let limits = HeadLimits { start_line: 1024, field: 1024, fields_total: 1024, field_count: 10 };
    let mut scanner = ResponseScanner::new();
    let mut bytes = Vec::new();
    let facts = loop {
        if upstream.read_buf(&mut bytes).await? == 0 {
            return Err("the backend closed".into());
        }
        if let Scan::Done(facts) = scanner.scan(&bytes, &limits)? {
            break facts;
        }
    };
    let ResponseFraming::Length(length) = facts.framing else { return Err("no length".into()) };
    let mut body = bytes.split_off(facts.head_len);
    while !head_only && (body.len() as u64) < length {
        if upstream.read_buf(&mut body).await? == 0 {
            return Err("the backend closed".into());
        }
    }
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(facts.status)?;
    Ok(response)
}
