//! Connections over loopback sockets with a scripted handler. Deadlines run on paused time.

use std::io;
use std::net::Ipv4Addr;
use std::task::ready;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CONNECTION, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::answer::BoxError;
use super::*;
use crate::drain::Phase;
use crate::http1::guard::GuardError;
use crate::model::ids::ListenerId;
use crate::proxy::client_body::ClientBody;
use crate::proxy::cutoff::Cutoff;
use crate::proxy::downstream::OwnAnswer;
use crate::proxy::downstream::{CheckedHead, drop_unread};
use crate::proxy::own_answer::own_body;
use crate::proxy::room::{Room, WorkerRoom};
use crate::proxy::worker_drain::WorkerDrain;
use crate::settings::{Deadlines, Forwarding, Limits, Listener};
use crate::telemetry::access_log::RequestLine;
use crate::telemetry::metrics::{Metrics, MetricsOptions};
use crate::telemetry::metrics::{Side, WorkerMetrics};

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
        request: Request<Incoming>,
    ) -> Response<Self::Body> {
        self.begun.set(self.begun.get() + 1);
        self.changed.notify_waiters();
        let mut running = Running(Rc::clone(&self), false);
        let path = head.path.as_deref().unwrap_or_else(|| request.uri().path()).to_owned();
        let response = match &path[..] {
            "/wait" => std::future::pending().await,
            "/panic" => panic!("wanted by the test"),
            "/endless" => Response::new(Box::pin(Endless { panics: false }) as TestBody),
            "/panic-in-body" => Response::new(Box::pin(Endless { panics: true }) as TestBody),
            "/no-route" => {
                let close = drop_unread(request.into_body(), head.expect_continue, 65536);
                self.own_answer(&downstream, OwnAnswer { status: StatusCode::NOT_FOUND, reason: Reason::NoPath, close })
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
            "/sleepy" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                let body = request.into_body().collect().await.expect("a whole body");
                full(format!("{path} {}", body.to_bytes().len()))
            }
            "/upload" => match ClientBody::from(request.into_body()).collect().await {
                Ok(body) => full(format!("{path} {}", body.to_bytes().len())),
                Err(_) => full(path),
            },
            _ => match request.into_body().collect().await {
                Ok(body) => full(format!("{path} {}", body.to_bytes().len())),
                Err(error) => {
                    let error = verdict(&error).expect("the guard's verdict");
                    self.body_errors.borrow_mut().push(error);
                    if path == "/late" {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    let answer = OwnAnswer { status: error.status, reason: error.reason, close: true };
                    self.own_answer(&downstream, answer)
                }
            },
        };
        running.1 = true;
        response
    }

    fn own_answer(&self, _: &Downstream, answer: OwnAnswer) -> Response<Self::Body> {
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
    address: SocketAddr,
}

impl Bed {
    /// Serves connections with the defaults that `change` changes; must run on a `LocalSet`.
    async fn start(change: impl FnOnce(&mut Deadlines, &mut Limits, &mut Forwarding, &mut Listener)) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = socket.local_addr().expect("bound");
        let (mut deadlines, mut limits, mut forwarding) =
            (Deadlines::default(), Limits::default(), Forwarding::default());
        let mut listener = Listener {
            address,
            http2_prior_knowledge: false,
            trusted_forwarders: Vec::new(),
            health_path: Some("/healthz".to_owned()),
            allowed_namespaces: None,
        };
        change(&mut deadlines, &mut limits, &mut forwarding, &mut listener);
        let name: Arc<str> = "web".into();
        let options = MetricsOptions { workers: 1, listeners: vec![Arc::clone(&name)], max_series: 10 };
        let metrics = Metrics::new(options).worker(0).expect("one worker");
        let (script, drain) =
            (Rc::new(Script::default()), WorkerDrain::new(WorkerRoom::new(&Room::new(&limits, 1), 0)));
        let context = Rc::new(ConnectionContext::new(
            (ListenerId(0), name),
            &listener,
            (&deadlines, &limits, &forwarding),
            Rc::clone(&script),
            Arc::clone(&metrics),
            Rc::clone(&drain),
        ));
        tokio::task::spawn_local(async move {
            while let Ok((stream, peer)) = socket.accept().await {
                let place = context.drain.room().enter(None).expect("no limit");
                tokio::task::spawn_local(serve(Rc::clone(&context), stream.into(), peer, place));
            }
        });
        Self { script, metrics, drain, address }
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

#[test]
fn silence_ends_at_the_first_byte_deadline() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let (start, mut stream) = (Instant::now(), bed.connect().await);
        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(start.elapsed().as_secs(), 10);
        assert_eq!(bed.closed(Reason::FirstByte), 1);
        assert_eq!(bed.drain.room().connections(), 0);
    });
}

#[test]
fn a_slow_head_is_answered_408() {
    on_paused_time(async {
        let bed = Bed::start(|_, _, forwarding, _| forwarding.reason_header = true).await;
        let mut stream = bed.connect().await;
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        let start = Instant::now();
        stream.write_all(b"\r\nGET").await.expect("written");
        tokio::time::sleep(Duration::from_secs(9)).await;
        stream.write_all(b" / HT").await.expect("written");
        let answer = rest(&mut stream).await;
        assert_eq!(start.elapsed().as_secs(), 10);
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains("x-tidegate-reason: head\r\n"), "{answer}");
        assert_eq!(bed.metrics.refused_count(Reason::Head), 1);
    });
}

#[test]
fn an_idle_connection_is_closed() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        for _ in 0..3 {
            stream.write_all(GET.as_bytes()).await.expect("written");
            until(&mut stream, "/a 0").await;
            tokio::time::sleep(Duration::from_secs(59)).await;
        }
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        let start = Instant::now();
        assert_eq!(rest(&mut stream).await, "");
        assert_eq!(start.elapsed().as_secs(), 60);
        assert_eq!(bed.closed(Reason::Idle), 1);
    });
}

#[test]
fn a_slow_body_is_answered_408_and_a_steady_one_is_not() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let head = "POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n";
        let mut steady = bed.connect().await;
        steady.write_all(head.as_bytes()).await.expect("written");
        let mut slow = bed.connect().await;
        slow.write_all(head.as_bytes()).await.expect("written");
        let start = Instant::now();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            steady.write_all(&[b'x'; 300]).await.expect("written");
            let _ = slow.write_all(&[b'x'; 200]).await;
        }
        assert!(until(&mut steady, "/late 30000").await.starts_with("HTTP/1.1 200 "));
        let answer = rest(&mut slow).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(start.elapsed() < Duration::from_secs(101));
        let errors = bed.script.body_errors.borrow();
        assert_eq!(errors[..], [GuardError::new(StatusCode::REQUEST_TIMEOUT, Reason::BodySlow)]);
    });
}

#[test]
fn a_client_that_takes_nothing_is_reset() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let start = Instant::now();
        while bed.drain.room().connections() > 0 || bed.closed(Reason::WriteStall) == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(start.elapsed() < Duration::from_secs(40), "not closed");
        }
        assert!(start.elapsed() >= Duration::from_secs(30));
    });
}

#[test]
fn a_client_that_can_send_no_other_request_may_end_its_side() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let body = "connection: close\r\ncontent-length: 4\r\n\r\nbody";
        for (request, answer) in [
            ("GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(), "/slow"),
            ("GET /slow HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(), "/slow"),
            ("GET /slow HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(), "/slow"),
            (format!("{GET}POST /slow HTTP/1.1\r\nhost: a\r\n{body}"), "/slow"),
            (format!("POST /b HTTP/1.1\r\nhost: a\r\n{body}"), "/b 4"),
        ] {
            let mut stream = bed.connect().await;
            stream.write_all(request.as_bytes()).await.expect("written");
            stream.shutdown().await.expect("half closed");
            let got = rest(&mut stream).await;
            assert!(got.ends_with(answer), "{request:?}: {got:?}");
        }
        assert_eq!(bed.script.cancelled.get(), 0);
        let mut stream = bed.connect().await;
        let incomplete = "POST /b HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5\r\n\r\nbody";
        stream.write_all(incomplete.as_bytes()).await.expect("written");
        stream.shutdown().await.expect("half closed");
        assert_eq!(rest(&mut stream).await, "", "an incomplete request is cancelled");
    });
}

#[test]
fn an_answer_that_breaks_off_does_not_look_complete() {
    on_real_time(async {
        let bed = Bed::plain().await;
        for (head, reset) in [
            ("HTTP/1.0\r\n\r\n", true),
            ("HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", true),
            ("HTTP/1.1\r\nhost: a\r\n\r\n", false),
        ] {
            let mut stream = bed.connect().await;
            stream.write_all(format!("GET /panic-in-body {head}").as_bytes()).await.expect("written");
            let mut bytes = Vec::new();
            let end = stream.read_to_end(&mut bytes).await;
            assert_eq!(end.is_err(), reset, "{head:?}: {end:?}");
            assert!(!bytes.ends_with(b"0\r\n\r\n"), "{head:?}");
        }
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /whole HTTP/1.0\r\n\r\n").await.expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("an orderly end");
        assert!(text.ends_with("/whole 0"), "{text}");
        // The stop of the process breaks an answer off, too.
        let mut stream = bed.connect().await;
        stream.write_all(b"GET /endless HTTP/1.0\r\n\r\n").await.expect("written");
        stream.read_exact(&mut [0; 1024]).await.expect("the answer has begun");
        bed.drain.advance(Phase::Ended);
        stream.read_to_end(&mut Vec::new()).await.expect_err("a reset");
    });
}

#[test]
fn an_ending_client_cancels_its_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        for (round, end) in ["close", "shutdown", "reset", "pipelined"].into_iter().enumerate() {
            let mut stream = bed.connect().await;
            stream.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
            while bed.script.begun.get() as usize <= round {
                bed.script.changed.notified().await;
            }
            let cancelled = bed.script.changed.notified();
            match end {
                "close" => drop(stream),
                "shutdown" => {
                    stream.shutdown().await.expect("half closed");
                    assert_eq!(rest(&mut stream).await, "", "nothing is answered");
                }
                "reset" => {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
                    drop(stream);
                }
                _ => {
                    stream.write_all(GET.as_bytes()).await.expect("written");
                    drop(stream);
                }
            }
            if bed.script.cancelled.get() as usize <= round {
                cancelled.await;
            }
            assert_eq!(bed.script.cancelled.get() as usize, round + 1, "{end}");
        }
        assert_eq!(bed.script.begun.get(), 4, "the pipelined request was not begun");
        while bed.drain.room().connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.closed(Reason::ClientGone), 4);
    });
}

/// More than is read of a body that nobody takes, and less than the socket's buffer has room for behind that.
const UNREAD: usize = 80 << 10;

#[test]
fn an_ending_client_is_seen_behind_a_body_that_nobody_reads() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        for (version, fields, resets) in
            [("1.1", "", false), ("1.1", "", true), ("1.1", "connection: close\r\n", true), ("1.0", "", true)]
        {
            let mut stream = bed.connect().await;
            let head = format!("POST /wait HTTP/{version}\r\nhost: a\r\n{fields}content-length: 1000000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(&vec![0; UNREAD]).await.expect("written");
            while bed.script.begun.get() == bed.script.cancelled.get() {
                bed.script.changed.notified().await;
            }
            let began = Instant::now();
            if resets {
                Stream::from(stream).reset_on_drop();
            } else {
                drop(stream);
            }
            while bed.script.begun.get() > bed.script.cancelled.get() {
                bed.script.changed.notified().await;
            }
            assert!(began.elapsed() <= Duration::from_secs(2), "{version} {fields} {resets}: {:?}", began.elapsed());
        }
        while bed.drain.room().connections() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.closed(Reason::ClientGone), 4);
    });
}

#[test]
fn a_client_that_may_end_its_side_may_do_so_behind_a_body_that_nobody_reads() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        for (version, fields) in [("1.1", "connection: close\r\n"), ("1.0", "")] {
            let mut stream = bed.connect().await;
            let head = format!("POST /sleepy HTTP/{version}\r\nhost: a\r\n{fields}content-length: {UNREAD}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(&vec![0; UNREAD]).await.expect("written");
            stream.shutdown().await.expect("half closed");
            let answer = rest(&mut stream).await;
            assert!(answer.ends_with(&format!("/sleepy {UNREAD}")), "{answer}");
        }
    });
}

#[test]
fn an_unread_body_is_never_a_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let inner = format!("{GET}{}", "x".repeat(1000 - GET.len()));
        for framing in ["content-length: 1000\r\n\r\n", "transfer-encoding: chunked\r\n\r\n3e8\r\n"] {
            let end = if framing.starts_with('t') { "\r\n0\r\n\r\n" } else { "" };
            let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let text = format!("POST /no-route HTTP/1.1\r\nhost: a\r\n{framing}{inner}{end}{last}");
            // In two parts, so that the body is not there yet when the answer is made.
            let (front, back) = text.split_at(text.len() - 300);
            let mut stream = bed.connect().await;
            stream.write_all(front.as_bytes()).await.expect("written");
            until(&mut stream, own_body(StatusCode::NOT_FOUND)).await;
            stream.write_all(back.as_bytes()).await.expect("written");
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("/last 0"), "{answer}");
        }
        assert_eq!(bed.script.begun.get(), 4);
        let answer = bed.exchange("POST /no-route HTTP/1.1\r\nhost: a\r\ncontent-length: 10485760\r\n\r\nGET").await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close\r\n"), "{answer}");
        let expecting = "POST /no-route HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        let answer = bed.exchange(expecting).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn refusals_come_in_order_and_survive_a_client_that_goes_on() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let mut stream = bed.connect().await;
        stream.write_all(format!("{GET}{GET}GET / HTTP/1.1\nhost: a\n\n").as_bytes()).await.expect("written");
        for _ in 0..20 {
            let _ = stream.write_all(&[b'x'; 1024]).await;
        }
        let answer = rest(&mut stream).await;
        let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
        assert_eq!(statuses, ["200", "200", "400"]);
        assert_eq!((bed.script.begun.get(), bed.metrics.refused_count(Reason::Line)), (2, 1));
    });
}

#[test]
fn a_handshake_behind_the_last_answer_disturbs_nothing() {
    on_real_time(async {
        let bed = Bed::plain().await;
        bed.drain.advance(Phase::NotReady);
        let mut stream = bed.connect().await;
        let handshake = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(format!("{GET}{handshake}{}", "x".repeat(40 << 10)).as_bytes()).await.expect("written");
        // To its end, and not to a reset.
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("closed in order");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
        assert_eq!(bed.script.begun.get(), 1);
    });
}

#[test]
fn a_body_is_refused_behind_the_bytes_before_it() {
    on_real_time(async {
        let bed = Bed::start(|_, limits, _, _| limits.body = Some(100)).await;
        for (body, status, reason) in
            [("5\r\nhelloX", 400, Reason::Chunk), ("60\r\nabc", 0, Reason::Chunk), ("99\r\n", 413, Reason::Size)]
        {
            let mut stream = bed.connect().await;
            let begun = bed.script.begun.get();
            let head = "POST /late HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head.as_bytes()).await.expect("written");
            while bed.script.begun.get() == begun {
                bed.script.changed.notified().await;
            }
            stream.write_all(body.as_bytes()).await.expect("written");
            if status == 0 {
                // Cut by FIN: cancelled, not answered.
                stream.shutdown().await.expect("half closed");
                assert_eq!(rest(&mut stream).await, "");
                continue;
            }
            stream.write_all(&[b'y'; 200]).await.expect("written");
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            let error = bed.script.body_errors.borrow_mut().pop().expect("an error");
            assert_eq!((error.status.as_u16(), error.reason), (status, reason));
            assert_eq!(bed.metrics.refused_count(reason), 1);
        }
        let answer = bed.exchange("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 101\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    });
}

#[test]
fn bodies_of_any_size_come_through() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let body = vec![b'b'; 3 << 20];
        let mut stream = bed.connect().await;
        let head = format!("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.expect("written");
        stream.write_all(&body).await.expect("written");
        until(&mut stream, &format!("/a {}", body.len())).await;
        let head = "POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.expect("written");
        assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        for chunk in body.chunks(100_000) {
            stream.write_all(format!("{:x};e=1\r\n", chunk.len()).as_bytes()).await.expect("written");
            stream.write_all(chunk).await.expect("written");
            stream.write_all(b"\r\n").await.expect("written");
        }
        stream.write_all(b"0\r\nx-t: 1\r\n\r\n").await.expect("written");
        until(&mut stream, &format!("/a {}", body.len())).await;
    });
}

#[test]
fn a_panic_costs_one_request() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let answer = bed.exchange("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("connection: close\r\n"), "{answer}");
        let answer = bed.exchange("GET /panic-in-body HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(!answer.ends_with("0\r\n\r\n"), "visibly cut: {answer}");
        let mut stream = bed.connect().await;
        stream.write_all(GET.as_bytes()).await.expect("written");
        until(&mut stream, "/a 0").await;
        assert_eq!(bed.script.own.borrow()[0].reason, Reason::Panic);
        let panics = [Where::Request, Where::Connection].map(|place| bed.metrics.panic_count(place));
        assert_eq!(panics, [1, 1]);
    });
}

#[test]
fn the_health_path_is_answered_on_any_host() {
    on_real_time(async {
        let bed = Bed::plain().await;
        let request = "GET /x/../healthz?a HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n";
        assert!(bed.exchange(request).await.starts_with("HTTP/1.1 200 "));
        bed.drain.advance(Phase::NotReady);
        assert!(bed.exchange(request).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(bed.script.begun.get(), 0);
    });
}

#[test]
fn a_drain_lets_requests_finish() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let mut idle = bed.connect().await;
        idle.write_all(GET.as_bytes()).await.expect("written");
        assert!(!until(&mut idle, "/a 0").await.contains("connection: close"));
        let mut busy = bed.connect().await;
        busy.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        let mut stuck = bed.connect().await;
        stuck.write_all(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
        while bed.script.begun.get() < 3 {
            bed.script.changed.notified().await;
        }
        bed.drain.advance(Phase::NotReady);
        let start = Instant::now();
        idle.write_all(GET.as_bytes()).await.expect("written");
        assert!(rest(&mut idle).await.contains("connection: close\r\n"));
        let mut fresh = bed.connect().await;
        bed.drain.advance(Phase::Closing);
        assert_eq!(rest(&mut fresh).await, "");
        assert_eq!((start.elapsed().as_millis() / 100, bed.closed(Reason::Drain)), (5, 1));
        let answer = rest(&mut busy).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("/slow"), "{answer}");
        bed.drain.advance(Phase::Ended);
        assert_eq!(rest(&mut stuck).await, "");
        assert_eq!((bed.closed(Reason::Drain), bed.script.cancelled.get()), (2, 1));
    });
}

#[test]
fn a_body_may_be_slow_once_the_answer_has_begun_or_where_its_rule_says_so() {
    on_paused_time(async {
        let bed = Bed::plain().await;
        let minutes = Duration::from_secs(600);
        let mut duplex = bed.connect().await;
        duplex
            .write_all(b"POST /duplex HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .expect("written");
        until(&mut duplex, "\r\n\r\n").await;
        for event in ["1\r\na\r\n", "1\r\nb\r\n"] {
            tokio::time::sleep(minutes).await;
            duplex.write_all(event.as_bytes()).await.expect("written");
            until(&mut duplex, event).await;
        }
        duplex.write_all(b"0\r\n\r\n").await.expect("written");
        until(&mut duplex, "0\r\n\r\n").await;

        let mut quiet = bed.connect().await;
        quiet.write_all(b"POST /quiet HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na").await.expect("written");
        tokio::time::sleep(minutes).await;
        quiet.write_all(b"b").await.expect("written");
        until(&mut quiet, "/quiet 2").await;
        // The next exchange on the same connection begins anew.
        quiet.write_all(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\na").await.expect("written");
        let start = Instant::now();
        rest(&mut quiet).await;
        assert_eq!((start.elapsed().as_secs(), bed.metrics.refused_count(Reason::BodySlow)), (30, 1));
    });
}

/// A client with prior knowledge on a connection of its own.
async fn http2_client(bed: &Bed) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    http2_client_with(bed, 65_535).await
}

/// As [`http2_client`], with the window of its streams.
async fn http2_client_with<B>(bed: &Bed, window: u32) -> hyper::client::conn::http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static,
{
    let io = ClientIo(bed.connect().await);
    let executor = http2::StreamExecutor { stall: Duration::ZERO };
    let mut builder = hyper::client::conn::http2::Builder::new(executor);
    builder.initial_stream_window_size(window).initial_connection_window_size(1 << 20);
    let (sender, connection) = builder.handshake(io).await.expect("a handshake");
    tokio::task::spawn_local(connection);
    sender
}

/// Serves HTTP/2 with a short patience for clients that stall.
async fn impatient_bed() -> Bed {
    Bed::start(|deadlines, _, _, listener| {
        deadlines.write_stall = Duration::from_millis(500);
        listener.http2_prior_knowledge = true;
    })
    .await
}

#[test]
fn a_stream_that_its_client_does_not_take_is_reset() {
    on_real_time(async {
        let bed = impatient_bed().await;
        // The body is larger than the window, or smaller than what is buffered for it.
        for (path, window) in [("/endless", 65_535), ("/b", 1), ("/b", 0)] {
            let mut client = http2_client_with(&bed, window).await;
            let response = client.send_request(http2_request(path)).await.expect("a head");
            // The window is not opened while nobody reads.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let other = client.send_request(http2_request("/c")).await.expect("others go on");
            if window > 1 {
                other.into_body().collect().await.expect("a whole body");
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
            let (mut body, mut taken) = (response.into_body(), 0);
            // hyper's client makes an orderly end of a cancelled stream.
            while let Some(Ok(frame)) = body.frame().await {
                taken += frame.data_ref().map_or(0, Bytes::len);
            }
            assert!(taken < 4 || window > 1 && taken <= 1 << 20, "{path}, {window}: {taken} bytes");
        }
        let mut client = http2_client_with(&bed, 1).await;
        let response = client.send_request(http2_request("/b")).await.expect("a head");
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            text.extend(frame.expect("a slow client is served").into_data().expect("data"));
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(text, b"/b 4");
    });
}

#[test]
fn a_stream_whose_body_does_not_come_is_reset() {
    on_real_time(async {
        let bed = impatient_bed().await;
        let mut client = http2_client_with::<Trickle>(&bed, 65_535).await;
        let request = |path: &str, pause: u64| {
            let body = Trickle { pause: Duration::from_millis(pause), left: 3, sleep: None };
            Request::builder().method("POST").uri(format!("http://a.test{path}")).body(body).expect("a request")
        };
        let start = Instant::now();
        client.send_request(request("/upload", 5000)).await.expect_err("reset");
        assert!((400..3000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        for (path, pause) in [("/upload", 200), ("/quiet", 800), ("/duplex", 800)] {
            let response = client.send_request(request(path, pause)).await;
            let response = response.unwrap_or_else(|error| panic!("{path}: {error:?}"));
            let body = response.into_body().collect().await.expect("a whole body").to_bytes();
            assert!(&body[..] == b"xxx" || body.ends_with(b" 3"), "{path}: {body:?}");
        }
    });
}

/// A request body of a few bytes with a pause before each.
struct Trickle {
    pause: Duration,
    left: u8,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Trickle {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let pause = self.pause;
        ready!(self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause))).as_mut().poll(cx));
        self.sleep = None;
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

fn http2_request(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://a.test{path}");
    Request::builder().method("POST").uri(uri).body(Full::from("body")).expect("a request")
}

#[test]
fn http2_is_served_beside_http1_where_it_is_allowed() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        let response = client.send_request(http2_request("/b")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), "/b 4");
        let response = client.send_request(http2_request("/../c")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let response = client.send_request(http2_request("/panic")).await.expect("answered");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(client.is_ready(), "the connection outlives a refused and a panicked request");

        let mut slow = http2_client(&bed).await;
        let answer = slow.send_request(http2_request("/slow"));
        while bed.script.begun.get() < 3 {
            bed.script.changed.notified().await;
        }
        bed.drain.advance(Phase::Closing);
        assert_eq!(answer.await.expect("in-flight streams finish").status(), StatusCode::OK);
        while bed.drain.room().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(client.is_closed() || client.ready().await.is_err());
    });
}

#[test]
fn fields_are_counted_over_http2_as_over_http1() {
    on_real_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let mut client = http2_client(&bed).await;
        let with = |fields: Vec<(String, String)>| {
            let mut request = http2_request("/b");
            for (name, value) in fields {
                let name = http::HeaderName::try_from(name).expect("a name");
                request.headers_mut().append(name, value.try_into().expect("a value"));
            }
            request
        };
        // The body's length is a field, too.
        let many = |count: usize, name: &dyn Fn(usize) -> String| {
            with((1..count).map(|index| (name(index), "1".to_owned())).collect())
        };
        let own = |index: usize| format!("x-{index}");
        let cases = [
            (many(100, &own), 200, "as many as there may be"),
            (many(101, &own), 431, "one too many"),
            (many(400, &|_| "x-same".to_owned()), 431, "one name"),
            (many(101, &|_| "cookie".to_owned()), 431, "parts of a cookie"),
            (many(100, &|_| "cookie".to_owned()), 200, "not too many parts of a cookie"),
            (with(vec![("x-long".to_owned(), "v".repeat(17 << 10))]), 431, "one that is too long"),
        ];
        let mut begun = 0;
        for (request, status, what) in cases {
            let response = client.send_request(request).await.expect("answered");
            assert_eq!(response.status(), status, "{what}");
            begun += u32::from(status == 200);
        }
        assert_eq!(u64::from(begun), bed.script.begun.get() as u64, "nothing else reaches the handler");
        assert_eq!(bed.metrics.refused_count(Reason::Size), 4);
    });
}

#[test]
fn the_preface_is_waited_for_and_not_served_unasked() {
    on_paused_time(async {
        let bed = Bed::start(|_, _, _, listener| listener.http2_prior_knowledge = true).await;
        let start = Instant::now();
        assert_eq!(bed.exchange("PRI * HTTP/2.0\r\n\r\nSM").await, "");
        assert_eq!((start.elapsed().as_secs(), bed.closed(Reason::FirstByte)), (10, 1));
        let answer = bed.exchange("PRI * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(bed.exchange(&GET.replace("host", "connection: close\r\nhost")).await.ends_with("/a 0"));
        let bed = Bed::plain().await;
        assert!(bed.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.starts_with("HTTP/1.1 505 "));
    });
}

/// hyper's io over a client's socket.
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

struct ClientIo(TcpStream);

impl hyper::rt::Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = vec![0; cursor.remaining().min(16384)];
        let mut buf = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        cursor.put_slice(buf.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[test]
fn an_idle_connection_costs_little_memory() {
    const CLIENTS: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    let bed = local.block_on(&runtime, Bed::plain());
    let mut clients = Vec::with_capacity(CLIENTS);
    let mut round = |count: usize| {
        allocation_counter::measure(|| {
            for _ in 0..count {
                let mut client = std::net::TcpStream::connect(bed.address).expect("accepted");
                io::Write::write_all(&mut client, GET.as_bytes()).expect("written");
                clients.push(client);
            }
            let is_answered =
                |client: &_| rustix::io::ioctl_fionread::<&std::net::TcpStream>(client).is_ok_and(|unread| unread > 0);
            local.block_on(&runtime, async {
                while !clients.iter().all(is_answered) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            });
        })
    };
    // What the thread keeps for all connections.
    round(8);
    let info = round(CLIENTS);
    let each = info.bytes_current / CLIENTS as i64;
    println!("idle HTTP/1.1 connection after one request: {each} bytes of heap");
    assert!((1..=24 << 10).contains(&each), "{each} bytes a connection");
    for client in &mut clients {
        let mut answer = [0; 15];
        io::Read::read_exact(client, &mut answer).expect("answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
}
