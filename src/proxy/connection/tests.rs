//! Connections over loopback sockets with a scripted handler.

mod deadlines;
mod ends;
mod http2;
mod pressure;
mod requests;

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::drain::Phase;
use crate::http1::guard::GuardError;
use crate::model::ids::ListenerId;
use crate::proxy::client_body::ClientBody;
use crate::proxy::cutoff::Cutoff;
use crate::proxy::downstream::{AnswerForm, CheckedHead, OwnAnswer, Relayed, drop_unread};
use crate::proxy::own_answer::own_body;
use crate::proxy::received_body::{BoxError, ReceivedBody};
use crate::proxy::room::{Room, WorkerRoom};
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::{Deadlines, Forwarding, Limits, Listener, ProxyProtocol};
use crate::telemetry::access_log::RequestLine;
use crate::telemetry::metrics::{Metrics, MetricsOptions, Side, WorkerMetrics};

/// Answers by path and notes what happens.
#[derive(Default)]
struct Script {
    begun: Cell<u32>,
    cancelled: Cell<u32>,
    own: RefCell<Vec<OwnAnswer>>,
    /// What was logged without being handled.
    unhandled: RefCell<Vec<(Option<String>, Reason)>>,
    body_errors: RefCell<Vec<GuardError>>,
    changed: tokio::sync::Notify,
}

/// Counts a request that was dropped before its answer.
struct Running(Rc<Script>, bool);

impl Drop for Running {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cancelled.set(self.0.cancelled.get() + 1);
            self.0.changed.notify_waiters();
        }
    }
}

/// A body of 64 KiB frames without end, or one that panics.
struct Endless {
    panics: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        static CHUNK: [u8; 65536] = [b'x'; 65536];
        assert!(!self.panics, "wanted by the test");
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

/// A body that cannot be completed.
struct Breaking;

impl Body for Breaking {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Err("wanted by the test".into())))
    }
}

/// A body that no kernel takes at once.
const LARGE: usize = 16 << 20;

type TestBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

fn full(text: impl Into<Bytes>) -> Response<TestBody> {
    Response::new(Box::pin(Full::from(text.into()).map_err(Into::into)))
}

impl Handler for Script {
    type Body = TestBody;

    async fn handle(
        self: Rc<Self>,
        downstream: Rc<Downstream>,
        head: CheckedHead,
        request: Request<ReceivedBody>,
    ) -> Response<Self::Body> {
        self.begun.set(self.begun.get() + 1);
        self.changed.notify_waiters();
        let mut running = Running(Rc::clone(&self), false);
        let path = head.path.as_deref().unwrap_or_else(|| request.uri().path()).to_owned();
        let response = match &path[..] {
            "/wait" => std::future::pending().await,
            "/panic" => panic!("wanted by the test"),
            "/large" => full(vec![b'x'; LARGE]),
            "/endless" => Response::new(Box::pin(Endless { panics: false }) as TestBody),
            "/breaks" => Response::new(Box::pin(Breaking) as TestBody),
            "/panic-in-body" => Response::new(Box::pin(Endless { panics: true }) as TestBody),
            "/no-route" => {
                let close = drop_unread(request.into_body(), head.expect_continue, 65536);
                {
                    let answer = OwnAnswer { status: StatusCode::NOT_FOUND, reason: Reason::NoPath, close };
                    self.own_answer(&downstream, answer, AnswerForm::Text)
                }
            }
            // What a duplex stream is made of: the answer begins, and each part of the body goes back.
            "/duplex" => Response::new(Box::pin(request.into_body().map_err(Into::into)) as TestBody),
            "/quiet" => {
                Cutoff::of_stream().as_ref().unwrap_or(&downstream.cutoff).allow_quiet();
                let body = ClientBody::from(request.into_body()).collect().await.expect("a whole body");
                full(format!("{path} {}", body.to_bytes().len()))
            }
            "/slow" => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                full(path)
            }
            "/gives-up" => {
                let _ = tokio::time::timeout(Duration::from_secs(1), request.into_body().collect()).await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                full(path)
            }
            "/sleepy" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let body = request.into_body().collect().await.expect("a whole body");
                full(format!("{path} {}", body.to_bytes().len()))
            }
            // Somebody else reads the body, and the answer does not wait for all of it.
            "/reads-on" => {
                downstream.cutoff.allow_quiet();
                tokio::task::spawn_local(request.into_body().collect());
                tokio::time::sleep(Duration::from_secs(600)).await;
                full(path)
            }
            "/upload" => match ClientBody::from(request.into_body()).collect().await {
                Ok(body) => full(format!("{path} {}", body.to_bytes().len())),
                Err(_) => full(path),
            },
            _ => match request.into_body().collect().await {
                Ok(body) => full(format!("{path} {}", body.to_bytes().len())),
                Err(error) => {
                    let error = verdict(&*error).expect("the guard's verdict");
                    self.body_errors.borrow_mut().push(error);
                    if path == "/late" {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let answer = OwnAnswer { status: error.status, reason: error.reason, close: true };
                    self.own_answer(&downstream, answer, AnswerForm::Text)
                }
            },
        };
        running.1 = true;
        response
    }

    fn relay(self: Rc<Self>, _: Relayed, _: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        std::future::ready(())
    }

    fn own_answer(&self, _: &Downstream, answer: OwnAnswer, _: AnswerForm) -> Response<Self::Body> {
        self.own.borrow_mut().push(answer);
        let mut response = full(own_body(answer.status));
        *response.status_mut() = answer.status;
        if answer.close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn log_unhandled(&self, _: &Downstream, request: Option<RequestLine>, answer: OwnAnswer) {
        let line = request.map(|line| format!("{} {}", line.method, line.target));
        self.unhandled.borrow_mut().push((line, answer.reason));
    }
}

struct Bed {
    script: Rc<Script>,
    metrics: Arc<WorkerMetrics>,
    drain: Rc<WorkerDrain>,
    room: Arc<Room>,
    address: SocketAddr,
    context: Rc<ConnectionContext<Script>>,
}

impl Bed {
    /// Serves connections with the defaults that `change` changes; must run on a `LocalSet`.
    async fn start(change: impl FnOnce(&mut Deadlines, &mut Limits, &mut Forwarding, &mut Listener)) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        // As listeners have it.
        socket2::SockRef::from(&socket).set_tcp_nodelay(true).expect("an option");
        let address = socket.local_addr().expect("bound");
        let (mut deadlines, mut limits, mut forwarding) =
            (Deadlines::default(), Limits::default(), Forwarding::default());
        let mut listener = Listener {
            address,
            http2_prior_knowledge: false,
            proxy_protocol: ProxyProtocol::default(),
            mode: crate::settings::ListenerMode::Gateway,
            trusted_forwarders: Vec::new(),
            health_path: Some("/healthz".to_owned()),
            allowed_namespaces: None,
            tls: None,
        };
        change(&mut deadlines, &mut limits, &mut forwarding, &mut listener);
        let name: Arc<str> = "web".into();
        let options = MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 10 };
        let metrics = Metrics::new(options).worker(0).expect("one worker");
        let room = Room::new(&limits, 1);
        let (script, drain) = (Rc::new(Script::default()), WorkerDrain::new(WorkerRoom::new(&room, 0)));
        let context = Rc::new(ConnectionContext::new(
            (ListenerId(0), name),
            &listener,
            (&deadlines, &limits, &forwarding),
            Rc::clone(&script),
            Arc::clone(&metrics),
            Rc::clone(&drain),
        ));
        tokio::task::spawn_local({
            let context = Rc::clone(&context);
            async move {
                while let Ok((stream, peer)) = socket.accept().await {
                    serve_one(&context, stream, peer);
                }
            }
        });
        Self { script, metrics, drain, room, address, context }
    }

    async fn plain() -> Self {
        Self::start(|_, _, _, _| {}).await
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("accepted")
    }

    /// Sends `bytes` on a connection of its own and returns all that comes back until it is closed.
    async fn exchange(&self, bytes: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_bytes()).await.expect("written");
        rest(&mut stream).await
    }

    fn closed(&self, reason: Reason) -> u64 {
        self.metrics.closed_count(Side::Downstream, reason)
    }
}

/// Serves an accepted connection.
fn serve_one(context: &Rc<ConnectionContext<Script>>, stream: TcpStream, peer: SocketAddr) {
    let place = context.drain.room().enter(None).expect("no limit");
    let ends = Ends::of(&stream, peer);
    tokio::task::spawn_local(serve(Rc::clone(context), stream.into(), ends, place));
}

/// Everything until the end or a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `end` was received.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let count = stream.read_buf(&mut bytes).await.expect("readable");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a test on a `LocalSet` whose clock stands still while anything can happen.
fn on_paused_time(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), test);
}

/// Runs a test on a `LocalSet`; none takes long.
fn on_real_time(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time");
    });
}

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";

/// The guard's verdict among the sources of an error, as a failed body has it.
fn verdict(error: &(dyn std::error::Error + 'static)) -> Option<GuardError> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let inner = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
        if let Some(found) = [Some(error), inner].into_iter().flatten().find_map(|one| one.downcast_ref()) {
            return Some(*found);
        }
        next = error.source();
    }
    None
}
