//! A panic costs the request that it happens to, and is counted: 20 of 500 at each place, and 250 of 25,000 with
//! `TIDEGATE_LONG=1`.

#[path = "../../../tests/forward_upstream/bed.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the bed of integration tests, which need more of it")]
mod bed;

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tidegate::filter::{BodyStage, BodyStream};
use tidegate::model::backend::Protocol;
use tidegate::model::filter::{Coalesce, ConcurrencyLimit, Filter, FilterList, HeaderEdits, StateKey};
use tidegate::model::ids::ObjectName;
use tidegate::model::request_values::RequestKey;
use tidegate::telemetry::access_log::{self, AccessLogEntry, AccessLogOutput};
use tidegate::telemetry::metrics::{Metrics, MetricsOptions};
use tokio::time::Instant;

use self::bed::{Answer, Endpoints, GET, Gateway, Options, Served, run, until};
use super::super::account::Account;
use super::super::body::{Content, ForwardBody};

/// Requests of one run, and one of how many panics.
fn requests() -> (usize, usize) {
    if std::env::var_os("TIDEGATE_LONG").is_some() { (25_000, 100) } else { (500, 25) }
}

/// Answers every request; the body of one to `/p/body` makes the gateway panic.
async fn endpoints() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        while let Some((head, _)) = served.request().await {
            if head.starts_with("GET /p/body ") {
                served.send("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n").await;
                // A read of its own, so that the panic comes in the middle of the body.
                tokio::task::yield_now().await;
                served.send("x-panic").await;
            } else {
                served.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

fn panics(gateway: &Gateway) -> u64 {
    gateway.metric("tidegate_panics_total{where=\"request\"}")
}

#[test]
fn over_http1_only_that_request_is_lost() {
    let (count, every) = requests();
    let wanted = (count / every) as u64;
    let asked: fn(&str) -> String = |place| format!("GET /p HTTP/1.1\r\nhost: a.test\r\nx-panic: {place}\r\n\r\n");
    let body = "GET /p/body HTTP/1.1\r\nhost: a.test\r\n\r\n".to_owned();
    for (place, request) in
        [("match", asked("match")), ("filter", asked("filter")), ("pick", asked("pick")), ("body", body)]
    {
        run(async || {
            let endpoints = endpoints().await;
            let filters = vec![Filter::RequestHeaders(HeaderEdits::default())];
            let gateway = Gateway::start(Options { filters, ..Options::to(&[endpoints.addr]) }).await;
            // Others are under way on connections of their own all the time.
            let (others, stop) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
            for _ in 0..4 {
                let (mut client, others, stop) = (gateway.client().await, Rc::clone(&others), Rc::clone(&stop));
                tokio::task::spawn_local(async move {
                    while !stop.get() {
                        client.send(GET).await;
                        let answer = client.answer().await;
                        assert!(is_good(&answer), "{answer:?}");
                        others.set(others.get() + 1);
                    }
                });
            }
            let mut client = gateway.client().await;
            for number in 1..=count {
                let panics = number % every == 0;
                client.send(if panics { &request } else { GET }).await;
                let answer = client.answer().await;
                match (panics, place) {
                    (false, _) => assert!(is_good(&answer), "{place}, request {number}: {answer:?}"),
                    (true, "body") => assert!(!answer.complete, "{answer:?}"),
                    (true, _) => assert_eq!(answer.verdict(), (500, Some("panic")), "{place}"),
                }
                if panics {
                    assert!(client.is_closed().await, "{place}");
                    client = gateway.client().await;
                }
            }
            stop.set(true);
            assert_eq!(panics(&gateway), wanted, "{place}");
            assert!(others.get() >= count / 2, "{place}: {} others", others.get());
            until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
            // A connection to an endpoint on which something panicked is not used again.
            let lost = if place == "body" { wanted } else { 0 };
            until(|| endpoints.closed.get() as u64 == lost).await;
            drop(client);
            until(|| gateway.metric("tidegate_connections_open{listener=\"web\"}") == 0).await;
        });
    }
}

fn is_good(answer: &Answer) -> bool {
    (answer.status, answer.body.as_slice(), answer.complete) == (200, b"ok", true)
}

/// One stream ends, the connection and its other streams go on; towards endpoints as towards clients.
#[test]
fn over_http2_only_that_stream_is_lost() {
    let (count, every) = requests();
    for place in ["match", "filter", "pick", "body"] {
        run(async || {
            let endpoints = endpoints().await;
            let filters = vec![Filter::RequestHeaders(HeaderEdits::default())];
            let gateway = Gateway::start(Options { filters, http2: true, ..Options::to(&[endpoints.addr]) }).await;
            let (sender, connection) = h2::client::handshake(gateway.client().await.stream).await.expect("HTTP/2");
            tokio::task::spawn_local(connection);
            let mut sender = sender.ready().await.expect("room for a stream");
            for number in 1..=count {
                let panics = number % every == 0;
                let path = if panics && place == "body" { "/p/body" } else { "/p" };
                let mut request = http::Request::get(format!("http://a.test{path}"));
                if panics && place != "body" {
                    request = request.header("x-panic", place);
                }
                sender = sender.ready().await.expect("the connection goes on");
                let (response, _) = sender.send_request(request.body(()).expect("a request"), true).expect("sent");
                let response = response.await.expect("a head");
                let status = response.status();
                let mut body = response.into_body();
                let mut received = Vec::new();
                let error = loop {
                    match body.data().await {
                        Some(Ok(data)) => {
                            let _ = body.flow_control().release_capacity(data.len());
                            received.extend_from_slice(&data);
                        }
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                };
                match (panics, place) {
                    (false, _) => assert!(status == 200 && received == b"ok" && error.is_none(), "{place}, {number}"),
                    (true, "body") => assert!(error.is_some_and(|error| error.is_reset()), "{number}: {received:?}"),
                    (true, _) => assert!(status == 500 && error.is_none(), "{place}, {number}: {status}"),
                }
            }
            assert_eq!(panics(&gateway), (count / every) as u64, "{place}");
            until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        });
    }
}

/// A limit of one request at a time, the `position`th of its rule; so many may wait.
fn one_at_a_time(position: u16, max_queued: u32, keys: &[RequestKey]) -> Filter {
    let route = ObjectName::new("ns", "r");
    let state = StateKey { route, place: FilterList::Route, filter: "ConcurrencyLimit", position };
    Filter::ConcurrencyLimit(Arc::new(ConcurrencyLimit {
        state: Arc::new(state),
        max_in_flight: 1,
        weight: 1,
        max_queued,
        queue_timeout: Duration::from_secs(60),
        keys: keys.to_vec(),
        status: http::StatusCode::SERVICE_UNAVAILABLE,
        shadow: false,
    }))
}

/// Limits of several kinds, and other layers around them.
fn layers(max_queued: u32) -> Vec<Filter> {
    let edits = HeaderEdits::default;
    vec![
        Filter::ResponseHeaders(edits()),
        one_at_a_time(0, max_queued, &[]),
        Filter::RequestHeaders(edits()),
        one_at_a_time(1, max_queued, &[RequestKey::SourceIp]),
        Filter::BodyLimit(1),
        one_at_a_time(2, max_queued, &[]),
        Filter::ResponseHeaders(edits()),
    ]
}

/// Answers every request; the answer to one to `/p/out/LAYER` makes that layer panic.
async fn endpoints_of_layers() -> Endpoints {
    Endpoints::script(|mut served: Served| async move {
        while let Some((head, _)) = served.request().await {
            let layer = head.strip_prefix("GET /p/out/").and_then(|rest| rest.split_once(' '));
            let field = layer.map_or_else(String::new, |(layer, _)| format!("x-panic-out: {layer}\r\n"));
            served.send(format!("HTTP/1.1 200 OK\r\n{field}content-length: 2\r\n\r\nok")).await;
        }
    })
    .await
}

/// A request that makes a layer panic on its way in, or on its way out.
fn panicking(layer: usize, is_in: bool) -> String {
    match is_in {
        true => format!("GET /p HTTP/1.1\r\nhost: a.test\r\nx-panic-in: {layer}\r\n\r\n"),
        false => format!("GET /p/out/{layer} HTTP/1.1\r\nhost: a.test\r\n\r\n"),
    }
}

/// One request at a time: what a panic left behind would be in the way of the next one.
#[test]
fn a_layer_that_panics_takes_no_place_of_others() {
    run(async || {
        let endpoints = endpoints_of_layers().await;
        let filters = layers(0);
        let count = filters.len();
        let gateway = Gateway::start(Options { filters, ..Options::to(&[endpoints.addr]) }).await;
        for layer in 0..count {
            for is_in in [true, false] {
                let answer = gateway.ask(&panicking(layer, is_in)).await;
                assert_eq!(answer.verdict(), (500, Some("panic")), "{layer} {is_in}: {answer:?}");
                let answer = gateway.ask(GET).await;
                assert!(is_good(&answer), "{layer} {is_in}: {answer:?}");
            }
        }
        assert_eq!(panics(&gateway), 2 * count as u64);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
}

/// Those who wait behind a request that panics have their turn.
#[test]
fn a_layer_that_panics_passes_its_place_on() {
    run(async || {
        let endpoints = endpoints_of_layers().await;
        let count = layers(0).len();
        let gateway = Gateway::start(Options { filters: layers(20), ..Options::to(&[endpoints.addr]) }).await;
        let mut clients = Vec::new();
        for layer in 0..count {
            for is_in in [true, false] {
                for request in [panicking(layer, is_in), GET.to_owned()] {
                    let mut client = gateway.client().await;
                    client.send(&request).await;
                    clients.push((client, request));
                }
            }
        }
        for (mut client, request) in clients {
            let answer = client.answer().await;
            match request == GET {
                true => assert!(is_good(&answer), "{answer:?}"),
                false => assert_eq!(answer.verdict(), (500, Some("panic")), "{request}: {answer:?}"),
            }
        }
        assert_eq!(panics(&gateway), 2 * count as u64);
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
        assert!(is_good(&gateway.ask(GET).await), "nobody is left in the queues");
    });
}

/// A stage of a filter that panics, at once or when the body inside has ended, or owns that body while it does.
struct Panics(Option<BodyStream>, bool);

impl http_body::Body for Panics {
    type Data = bytes::Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        let _inside = self.1.then(|| self.0.take());
        panic!("wanted by a test")
    }
}

#[test]
fn the_log_says_that_a_stage_of_a_body_panicked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let metrics = Metrics::new(MetricsOptions { workers: 1, listeners: Vec::new(), max_series: 10 });
    let (handle, writer) = access_log::start(AccessLogOutput::File(path.clone()), metrics).expect("a log");
    let sender = handle.sender();
    run(async move || {
        let gateway = Gateway::start(Options { access_log: Some(sender), ..Options::to(&[]) }).await;
        for drops_inside in [false, true] {
            let mut account = Account::open(Rc::clone(&gateway.worker), Instant::now(), http::Method::GET);
            account.status = 200;
            let peer: SocketAddr = "127.0.0.1:9".parse().expect("an address");
            account.entry = Some(Box::new(AccessLogEntry::new("web".into(), peer.ip(), peer, None)));
            let stage: BodyStage = Box::new(move |inside| Box::pin(Panics(Some(inside), drops_inside)));
            let mut body = ForwardBody::new(Content::full("ok".into()), account).through(vec![stage]);
            assert!(body.frame().await.is_some_and(|frame| frame.is_err()), "a visible cut");
        }
        assert_eq!(panics(&gateway), 2);
        gateway.worker.flush_log();
    });
    drop(handle);
    assert!(writer.join_within(Duration::from_secs(60)));
    let text = std::fs::read_to_string(path).expect("the log");
    assert_eq!(text.matches("\"reason\":\"panic\"").count(), 2, "{text}");
}

/// An HTTP/2 connection to an endpoint carries the streams of many: the panic of one is not theirs.
#[test]
fn streams_beside_one_that_panics_go_on() {
    let (count, every) = requests();
    run(async || {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let connections = Rc::new(Cell::new(0));
        let counted = Rc::clone(&connections);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.set(counted.get() + 1);
                tokio::task::spawn_local(serve_http2(stream));
            }
        });
        let gateway = Gateway::start(Options { protocol: Protocol::H2c, ..Options::to(&[addr]) }).await;
        let mut client = gateway.client().await;
        for number in 1..=count {
            let panics = number % every == 0;
            client.send(if panics { "GET /p/body HTTP/1.1\r\nhost: a.test\r\n\r\n" } else { GET }).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.complete), (200, !panics), "request {number}");
            if panics {
                client = gateway.client().await;
            }
        }
        assert_eq!((panics(&gateway), connections.get()), ((count / every) as u64, 1));
    });
}

async fn serve_http2(stream: tokio::net::TcpStream) {
    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let body: &[u8] = if request.uri().path() == "/p/body" { b"x-panic" } else { b"ok" };
        let response = http::Response::builder().header("content-length", body.len()).body(()).expect("a response");
        let mut sending = respond.send_response(response, false).expect("sent");
        sending.send_data(bytes::Bytes::from_static(body), true).expect("sent");
    }
}

/// A filter by which all requests to a path share one call.
fn coalesce() -> Filter {
    let route = ObjectName::new("ns", "r");
    Filter::Coalesce(Arc::new(Coalesce {
        state: Arc::new(StateKey { route, place: FilterList::Route, filter: "Coalesce", position: 0 }),
        get: true,
        head: true,
        vary: Vec::new(),
        max_waiters: 1_024,
        max_body: 1 << 20,
    }))
}

#[test]
fn a_call_that_panics_is_lost_and_the_next_one_is_made() {
    run(async || {
        let endpoints = endpoints().await;
        let filters = vec![coalesce(), Filter::RequestHeaders(HeaderEdits::default())];
        let gateway = Gateway::start(Options { filters, ..Options::to(&[endpoints.addr]) }).await;
        let mut client = gateway.client().await;
        client.send("GET /p HTTP/1.1\r\nhost: a.test\r\nx-panic: pick\r\n\r\n").await;
        assert_eq!(client.answer().await.verdict(), (500, Some("panic")));
        assert_eq!((panics(&gateway), gateway.metric("tidegate_own_answers_total{reason=\"panic\"}")), (1, 1));
        let mut client = gateway.client().await;
        client.send(GET).await;
        assert!(is_good(&client.answer().await), "the key is free");
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
}

/// All who share the answer see the cut, and the panic is one.
#[test]
fn a_body_that_panics_is_cut_for_all_who_share_it() {
    run(async || {
        let all_wait = Rc::new(tokio::sync::Notify::new());
        let released = Rc::clone(&all_wait);
        let endpoints = Endpoints::script(move |mut served: Served| {
            let released = Rc::clone(&released);
            async move {
                while served.request().await.is_some() {
                    released.notified().await;
                    served.send("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n").await;
                    tokio::task::yield_now().await;
                    served.send("x-panic").await;
                }
            }
        })
        .await;
        let filters = vec![coalesce()];
        let gateway = Gateway::start(Options { filters, ..Options::to(&[endpoints.addr]) }).await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = gateway.client().await;
            client.send(GET).await;
            clients.push(client);
        }
        until(|| gateway.metric("tidegate_requests_in_flight") == 5).await;
        all_wait.notify_one();
        for client in &mut clients {
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.complete), (200, false), "{answer:?}");
        }
        assert_eq!((panics(&gateway), endpoints.count()), (1, 1));
        until(|| gateway.metric("tidegate_requests_in_flight") == 0).await;
    });
}
